"""Config: all options of a run. Command line, checks and documentation are generated from these entries."""

import dataclasses
import json
import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minigan import datasets, losses, models, optim, penalties
from minigan.errors import UserError
from minigan.options import Parser, add_arguments, check, off_flag, option, options, parsed

TOTALS = ("epochs", "steps", "minutes")


@dataclass(frozen=True)
class Config:
    """All options of a run. `Config.of` starts from the recipe of a preset. A total of None is no limit."""

    preset: str = option(
        "digits",
        help="the architecture and its recipe (default: that of the kind of data, digits for images): see "
        "`minigan train --list`",
        metavar="NAME",
        choices=lambda: models.PRESETS,
    )
    kind: str = option(
        "images",
        help="the kind of data (default: that of the preset, or else inferred from the data)",
        metavar="KIND",
        choices=lambda: datasets.KINDS,
    )
    kind_reason: str = option("", help="why that kind was chosen", flag=None)
    data: str = option(
        "mnist",
        help="images: mnist, shapes, stacked-mnist, IDX files, .npy, .npz, a folder of pictures; points: ring or grid; "
        "tables: penguins, CSV and Parquet files; sequences: sines, ar, mnist-rows, heartbeats (synthetic), .npy, "
        ".npz, CSV",
        metavar="mnist|PATH",
        resumable=True,
    )
    data_moved_to: str = option("", help="the path of the data, if they were moved", flag=None)
    data_options: dict[str, Any] = option({}, help="options of the kind of data", flag=None)
    network: dict[str, Any] = option(
        {}, help="an option of the preset's networks: see `minigan train --list`; may be repeated", metavar="NAME=VALUE"
    )
    conditional: bool = option(False, help="give both networks the labels, if the data have any", off="--unconditional")
    discriminator_from: str = option(
        "",
        help="start from the discriminator of the run in this folder, or from the convolutions of the classifier in "
        "this file, which `minigan classify` wrote, with a new last layer",
        metavar="RUN|FILE",
    )
    freeze: str = option(
        "",
        help="the part of that discriminator that does not learn: N (its first N layers), features (all but the last "
        "one) or all (of a run)",
        metavar="N|features|all",
    )
    projected: bool = option(
        False, help="train only small heads on random projections of the frozen features of that classifier"
    )
    generator_from: str = option("", help="start from the generator of the run in this folder", metavar="RUN")
    epochs: int | None = option(
        None,
        help="total of the run in epochs; the run ends when the first total is reached (default: the preset's number "
        "of epochs if no total is given)",
        low=1,
        metavar="N",
        resumable=True,
    )
    steps: int | None = option(
        None, help="total in steps of the training (see --d-steps)", low=1, metavar="N", resumable=True
    )
    minutes: float | None = option(
        None,
        help="total in minutes of training, without the time for pictures and checkpoints; its result depends on the "
        "machine",
        above=0,
        metavar="M",
        resumable=True,
    )
    batch: int = option(128, help="samples in a batch", low=2, metavar="N")  # one sample has no batch variance
    optimizer: str = option(
        "adam",
        help="sgd, momentum, rmsprop or adam",
        metavar="NAME",
        choices=lambda: optim.OPTIMIZERS,
    )
    lr_g: float = option(2e-4, help="the generator's learning rate", above=0, metavar="X")
    lr_d: float = option(2e-4, help="the discriminator's learning rate", above=0, metavar="X")
    momentum: float = option(0.9, help="decay of the sum of gradients of momentum", low=0, below=1, metavar="X")
    beta1: float = option(0.5, help="Adam's decay of the mean gradient", low=0, below=1, metavar="X")
    beta2: float = option(
        0.999, help="decay of the mean squared gradient of Adam and RMSProp", low=0, below=1, metavar="X"
    )
    eps: float = option(1e-8, help="constant in the denominator of Adam and RMSProp", above=0, metavar="X")
    clip_norm: float | None = option(
        None,
        help="scale a player's gradients down if the norm of all together is above X (default: no limit)",
        above=0,
        metavar="X",
    )
    decay: bool = option(False, help="decrease both learning rates linearly to 0")
    decay_from: float = option(
        0.0, help="with --decay, the share of the run at which the decrease starts", low=0, below=1, metavar="X"
    )
    loss: str = option(
        "non_saturating",
        help="non_saturating, minimax (the original, saturating loss), hinge, least_squares, wasserstein, "
        "relativistic (pairs of real and fake) or r3gan (relativistic with R1 and R2)",
        metavar="NAME",
        choices=lambda: losses.LOSSES,
    )
    label_smoothing: float = option(0.0, help="the target of real samples is 1 - X", low=0, below=0.5, metavar="X")
    penalty: str = option(
        "none",
        help="gradient penalty on the discriminator: none, r1, r2, r1+r2, wgan-gp or r1-fd (R1 by finite differences, "
        "for any layers)",
        metavar="NAME",
        choices=("none", *penalties.NAMES),
    )
    penalty_weight: float = option(10.0, help="weight of the penalty (default {default:g})", above=0, metavar="X")
    penalty_every: int = option(
        1,
        help="penalise every K-th discriminator step, with K times the weight (default {default})",
        low=1,
        metavar="K",
    )
    d_steps: int = option(1, help="discriminator steps in each step of the training", low=1, metavar="K")
    g_steps: int = option(1, help="generator steps in each step of the training", low=1, metavar="K")
    real_share: float = option(
        0.5,
        help="share of real samples in what D sees; --batch is the number of real ones",
        above=0,
        below=1,
        metavar="X",
    )
    feature_matching: float = option(
        0.0,
        help="share of feature matching in G's loss, the rest is the adversarial loss; 1: feature matching alone",
        low=0,
        high=1,
        metavar="X",
    )
    pack: int = option(1, help="D judges K samples together (packing), which shows it a collapse", low=1, metavar="K")
    instance_noise: float = option(
        0.0,
        help="standard deviation of noise on all samples that D sees, which decreases linearly to 0",
        low=0,
        metavar="X",
    )
    instance_noise_until: float = option(
        1.0, help="the share of the run at which the instance noise is 0", above=0, high=1, metavar="X"
    )
    simultaneous: bool = option(False, help="update both networks from one forward pass")
    average: float = option(
        0.0,
        help="decay of the moving average of G's weights, with which samples are drawn; 0: no average",
        low=0,
        below=1,
        metavar="X",
    )
    backend: str = option(
        "auto",
        help="auto (default), numpy, numba or cupy (GPU)",
        metavar="NAME",
        resumable=True,
    )
    threads: int | None = option(
        None,
        help="CPU threads (default: all cores); the result does not depend on their number",
        low=1,
        metavar="N",
        resumable=True,
    )
    device: int = option(0, help="which GPU (default {default})", low=0, metavar="N", resumable=True)
    tf32: bool = option(
        False, help="GPU: faster matrix products on tensor cores, with inputs rounded to 10 bits", resumable=True
    )
    gpu_memory: float | None = option(
        None, help="GPU: maximum size of the memory pool", above=0, metavar="GIB", resumable=True
    )
    seed: int = option(0, help="seed of all random numbers (default {default})", low=0, metavar="N")
    checkpoint_every: int = option(
        5, help="epochs between kept checkpoints, more if epochs are short (default {default})", low=1, metavar="N"
    )
    hold_out: float = option(
        0.0,
        help="part of the data that is not trained on, so that the checks see whether D memorises; data with a split "
        "val or test have held-out samples already",
        low=0,
        below=1,
        metavar="X",
    )
    stop_on: str = option(
        "none",
        help="collapse: save and stop, with exit code 1, when the alarm reports a collapse; checks take place after "
        "seconds of training, so where it stops depends on the machine",
        metavar="none|collapse",
        choices=("none", "collapse"),
        resumable=True,
    )

    report: bool = option(
        True, help="write the page of the run, report.html, at the start, now and then, and at the end", resumable=True
    )

    @classmethod
    def of(cls, preset: str | None = None, **choices: Any) -> "Config":
        """Return the recipe of a preset with some options replaced. A total replaces the totals of the recipe.

        A loss or an optimizer that is chosen brings the options that it needs, such as the penalty
        of `wasserstein`, unless they are chosen as well.

        Without a preset, the default preset for the kind of data is used. The kind is `kind`, or
        that of `data` if no kind is given. Raises UserError for an option that is unknown or out
        of range.
        """
        kind, reason = choices.pop("kind", None), choices.pop("kind_reason", "--kind was given")
        if preset is not None:
            if preset not in models.PRESETS:
                raise UserError(f"unknown preset {preset!r}: choose {', '.join(models.PRESETS)}")
            if kind not in (None, models.PRESETS[preset].kind):
                raise UserError(f"preset {preset} is for {models.PRESETS[preset].kind}, got --kind {kind}: drop one")
            kind, reason = models.PRESETS[preset].kind, f"preset {preset} is for {models.PRESETS[preset].kind}"
            other, because = datasets.kind_of(str(choices.get("data", "")), kind)
            if other != kind and not datasets.KINDS[kind].reads(str(choices.get("data", ""))):
                usual = datasets.KINDS[other].default_preset
                raise UserError(
                    f"{reason}, and {because}: leave --preset out, or choose one for {other}, such as {usual}"
                )
        elif kind is None:
            kind, reason = datasets.kind_of(choices.get("data", "mnist"))
        if kind not in datasets.KINDS:
            raise UserError(f"unknown kind {kind!r}: choose {', '.join(datasets.KINDS)}")
        preset = preset or datasets.KINDS[kind].default_preset
        recipe = {"data": datasets.KINDS[kind].builtin[0], **models.PRESETS[preset].recipe}
        if any(choices.get(total) is not None for total in TOTALS):
            recipe |= dict.fromkeys(TOTALS)
        if choices.get("loss") in losses.LOSSES:
            recipe |= losses.LOSSES[choices["loss"]].recipe
        recipe |= optim.SETTINGS.get(choices.get("optimizer", ""), {})
        unknown = sorted(choices.keys() - {field.name for field in dataclasses.fields(cls)})
        if unknown:
            raise UserError(f"unknown option {unknown[0]}: choose from {', '.join(options(cls))}")
        return cls(preset=preset, kind=kind, kind_reason=reason, **recipe | choices)

    def __post_init__(self) -> None:
        check(self)
        models.reuse.expect_options(self.discriminator_from, self.freeze, self.projected, self.penalty)
        # Fill in the defaults, so that config.json has every option. Raises UserError for unknown options.
        object.__setattr__(self, "network", dataclasses.asdict(self.network_options()))
        object.__setattr__(self, "data_options", dataclasses.asdict(self.kind_options()))
        for valid, message in self._rules():
            if not valid:
                raise UserError(message)

    def _rules(self) -> list[tuple[bool, str]]:
        """Return (whether it holds, what to say otherwise) for each rule on a combination of options."""
        loss, given = losses.LOSSES[self.loss], self.totals()
        with_targets = ", ".join(name for name, other in losses.LOSSES.items() if other.has_targets)
        limited = self.penalty != "none" or self.network.get("d_norm") == "spectral"
        return [
            (
                not self.label_smoothing or loss.has_targets,
                f"{self.loss} has no targets to smooth: leave out label_smoothing, or choose a loss of {with_targets}, "
                f"got label_smoothing {self.label_smoothing}",
            ),
            (
                self.loss != "wasserstein" or limited,
                "wasserstein without a penalty has no minimum, because D's logits may grow without limit: choose "
                "penalty wgan-gp (or another), or network d_norm=spectral, got penalty none",
            ),
            (
                self.real_share == 0.5 or not loss.compares,
                f"{self.loss} pairs each real sample with a fake one: leave out real_share, got {self.real_share}",
            ),
            (
                bool(not self.decay or given),
                "decay needs a total to end at: give epochs, steps or minutes, got none",
            ),
            (
                bool(not self.instance_noise or given),
                "instance noise decreases over the run, so it needs a total: give epochs, steps or minutes, got none",
            ),
            (
                not (self.simultaneous and (self.d_steps > 1 or self.g_steps > 1)),
                "simultaneous updates are one step of each player: leave out d_steps and g_steps, or choose separate "
                f"updates (no-simultaneous), got d_steps {self.d_steps} and g_steps {self.g_steps}",
            ),
            (
                self.pack == 1 or (self.batch % self.pack == 0 and self.batch >= 2 * self.pack),
                f"packing divides the batch into two or more groups of {self.pack}: choose a batch that is a multiple "
                f"of {self.pack}, at least {2 * self.pack}, got {self.batch}",
            ),
        ]

    def network_options(self) -> Any:
        """Return the options of the networks, an instance of the dataclass that the preset declares."""
        return models.PRESETS[self.preset].parsed(self.preset, self.network)

    def kind_options(self) -> Any:
        """Return the options of the data, an instance of the dataclass that the kind of data declares."""
        own = datasets.KINDS[self.kind].options
        others = [
            kind.name
            for kind in datasets.KINDS.values()
            if self.data_options.keys() - options(own).keys()
            and self.data_options.keys() <= options(kind.options).keys()
        ]
        try:
            return parsed(own, self.data_options, f"data of the kind {self.kind}")
        except UserError as error:
            raise UserError(f"{error}; --kind {others[0]} has it" if others else str(error)) from None

    def place_of_data(self) -> str:
        """Return the path or name of the data: `data_moved_to` if it is set and exists, else `data`."""
        moved = self.data_moved_to
        there = bool(moved) and (moved in datasets.KINDS[self.kind].builtin or Path(moved).exists())
        return moved if there else self.data

    def totals(self) -> dict[str, float]:
        """Return the totals that end the run, by name."""
        return {total: getattr(self, total) for total in TOTALS if getattr(self, total) is not None}

    def to_json(self) -> str:
        """Return the config as JSON."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Config":
        """Parse the text of `to_json`. Missing fields get their defaults. Raises UserError for invalid text."""
        try:
            choices = json.loads(text)
            choices.pop("horizon", None)  # written with checkpoints of format 1; `runs` reads it
            unknown = sorted(choices.keys() - {field.name for field in dataclasses.fields(cls)})
            if not unknown:
                return cls(**choices)
        except UserError as error:
            raise UserError(f"not the config of a run: {error}") from None
        except (ValueError, TypeError, AttributeError) as error:
            raise UserError(f"not the config of a run: {error}") from None
        raise UserError(f"the config has fields unknown to this version of minigan, {', '.join(unknown)}: upgrade it")


SHORTHANDS = {"lr": ("lr_g", "lr_d")}  # command-line options that set several fields
RESUMABLE = tuple(name for name, this in options(Config).items() if this.resumable)
BACKEND = ("backend", "threads", "device", "tf32", "gpu_memory")  # the fields that select the backend


def option_names() -> list[str]:
    """Return the names of all options that `arguments` takes: those of the config and of every kind of data."""
    hidden = ("preset", "kind_reason", "data_moved_to", "data_options")
    of_kinds = [name for kind in datasets.KINDS.values() for name, this in options(kind.options).items() if this.flag]
    return [name for name in dict.fromkeys([*options(Config), *SHORTHANDS, *of_kinds]) if name not in hidden]


def arguments(given: dict[str, Any]) -> dict[str, Any]:
    """Convert options by name to arguments of `Config.of`.

    Shorthands are replaced, options of the data are grouped, and the path of the data becomes
    absolute. Names that are no options are left out.
    """
    chosen: dict[str, Any] = {}
    for short, fields in SHORTHANDS.items():
        if short in given:
            chosen |= dict.fromkeys(fields, given[short])
    chosen |= {name: given[name] for name in options(Config) if name in given}
    if "network" in given:
        chosen["network"] = dict(given["network"])
    of_kinds = [name for kind in datasets.KINDS.values() for name in options(kind.options)]
    if data_options := {name: given[name] for name in of_kinds if name in given}:
        chosen["data_options"] = data_options
    if "data" in chosen:
        chosen["data"] = place_of(chosen["data"])
    for name in ("discriminator_from", "generator_from"):  # from another folder, `--resume` finds the same option
        if chosen.get(name) and isinstance(chosen[name], str | os.PathLike):
            chosen[name] = str(Path(chosen[name]).expanduser().absolute())
    if isinstance(chosen.get("freeze"), int) and not isinstance(chosen["freeze"], bool):
        chosen["freeze"] = str(chosen["freeze"])
    return chosen


def place_of(data: str | os.PathLike[str]) -> str:
    """Return the name of built-in data, or else an absolute path, because a run may be resumed from another folder."""
    builtin = [name for kind in datasets.KINDS.values() for name in kind.builtin]
    return str(data) if str(data) in builtin else str(Path(data).expanduser().absolute())


def add_options(parser: Any) -> None:
    """Add all options that `arguments` takes to an argument parser."""
    add_arguments(parser, Config)
    for name, fields in SHORTHANDS.items():
        parser.add_argument(f"--{name}", type=float, metavar="X", help=f"sets {' and '.join(fields)}")
    added: set[str] = set()
    for kind in datasets.KINDS.values():  # an option that several kinds have is added once
        add_arguments(parser, kind.options, [name for name in options(kind.options) if name not in added])
        added |= options(kind.options).keys()


def from_command_line(text: str) -> Config:
    """Return the config of `minigan train` with these options. Raises UserError if they are not possible."""
    parser = Parser(prog="minigan train", allow_abbrev=False)
    add_options(parser)
    given = vars(parser.parse_args(shlex.split(text)))
    return Config.of(**arguments({name: value for name, value in given.items() if value is not None}))


def command_line(config: Config, changes: str = "") -> str:
    """Return the options of `minigan train` that start a run with this config, with some of them changed.

    `changes` are options as on the command line. Options that they replace, and those of the preset
    that are not changed, are left out. A total replaces every total.
    """
    words = shlex.split(changes)
    new = {word for word in words if word.startswith("--")}
    new |= {f"--{total}" for total in TOTALS} if new & {f"--{total}" for total in TOTALS} else set()
    entries = {word.partition("=")[0] for word in words if "=" in word}  # of options that may be repeated
    recipe, found = (
        Config.of(config.preset, kind=config.kind),
        [] if "--preset" in new else [f"--preset {config.preset}"],
    )
    sections = [(Config, config, recipe), (type(config.kind_options()), config.kind_options(), recipe.kind_options())]
    for kind, values, usual in sections:
        for name, this in options(kind).items():
            value, before = getattr(values, name), getattr(usual, name)
            if value == before or not this.flag or name in ("preset", "kind", *BACKEND):
                continue
            if isinstance(value, dict):
                found += [f"{this.flag} {k}={v}" for k, v in value.items() if v != before.get(k) and k not in entries]
            elif this.flag in new or (isinstance(value, bool) and off_flag(this) in new):
                continue
            elif isinstance(value, bool):
                found.append(this.flag if value else off_flag(this))
            elif value is not None:
                found.append(f"{this.flag} {shlex.quote(str(value))}")
    return " ".join([*found, *([changes] if changes else [])])
