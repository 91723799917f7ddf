"""Training: `Config` holds every choice, `Training` the whole state, and its `records` play the game step by step.

    training = Training(Config.of("small", epochs=3), datasets.load("mnist"), backends.load("numba"))
    for record in training.records():
        print(record)                      # whoever consumes the records draws, prints, saves or stops

One seed decides everything. Weights, noise and shuffling have random streams of their own, so that looking at samples,
saving or stopping between two steps changes nothing.
"""

import array
import functools
import json
import math
import time
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace

import numpy as np

from minigan import datasets, game, losses, models, optim
from minigan.errors import UserError
from minigan.layers import fuse
from minigan.training.checkpoint import restore

# What each preset takes where nothing else is asked for; the rest is as in Config.
DIGITS = dict(
    conditional=True,
    epochs=15,
    batch=64,
    loss="hinge",
    lr_g=4e-3,
    lr_d=4e-3,
    beta1=0.0,
    decay=True,
    simultaneous=True,
    average=0.999,
)
RECIPES = {
    "digits": DIGITS,
    "digits-unlabelled": DIGITS | dict(conditional=False),
    "digits-wide": DIGITS | dict(epochs=40, batch=128),
    "small": dict(epochs=20),
    "tutorial": dict(epochs=50, batch=256, lr_g=1e-4, lr_d=1e-4, beta1=0.9, eps=1e-7, simultaneous=True),
    "mlp": dict(epochs=30),
    "mp-gan": dict(epochs=10),
    "upsample": dict(epochs=5),
}


TOTALS = ("epochs", "steps", "minutes")


@dataclass(frozen=True)
class Config:
    """Every choice of a run. `Config.of(preset)` fills in the preset's recipe; a total that is None sets no end."""

    preset: str = "digits"
    data: str = "mnist"
    backend: str = "auto"
    threads: int | None = None  # CPU threads; None: all cores. Decides the time, never the result
    seed: int = 0
    epochs: int | None = None  # totals of the run: the first one reached ends it
    steps: int | None = None  # generator updates
    minutes: float | None = None  # of training, drawing and saving not counted
    conditional: bool = False  # both players see the labels, where the data have any
    batch: int = 128
    loss: str = "non_saturating"
    label_smoothing: float = 0.0  # real images count as 1 - label_smoothing
    lr_g: float = 2e-4  # Adam's, for each player
    lr_d: float = 2e-4
    beta1: float = 0.5
    beta2: float = 0.999
    eps: float = 1e-8
    decay: bool = False  # both learning rates fall in a straight line to 0 at the horizon
    horizon: dict | None = None  # the totals for which the run was begun; going on beyond them changes nothing before
    d_steps: int = 1  # discriminator steps for each generator step
    simultaneous: bool = False  # both players learn from one pass
    device: int = 0  # which GPU, of several
    tf32: bool = False  # on the GPU: matrix products of inputs rounded to 10 bits, on tensor cores
    gpu_memory: float | None = None  # GiB that the run may keep of the GPU's memory; None: what there is
    average: float = 0.0  # decay of the moving average of G's weights, from which samples are drawn; 0: none
    checkpoint_every: int = 5  # epochs between the checkpoints that are kept

    @classmethod
    def of(cls, preset: str = "digits", **choices) -> "Config":
        """The preset's recipe, with choices in place of what they name. Any total given replaces the recipe's."""
        if preset not in RECIPES:
            raise UserError(f"unknown preset {preset!r}: choose {', '.join(RECIPES)}")
        recipe = dict(RECIPES[preset])
        if any(choices.get(total) is not None for total in TOTALS):
            recipe["epochs"] = None
        choices = recipe | choices
        horizon = {total: choices[total] for total in TOTALS if choices.get(total) is not None}
        return cls(preset=preset, **{"horizon": horizon} | choices)

    def __post_init__(self):
        def expect(good: bool, what: str, came) -> None:
            if not good:
                raise UserError(f"{what}, got {came}")

        expect(self.preset in RECIPES, f"unknown preset: choose {', '.join(RECIPES)}", repr(self.preset))
        expect(self.loss in losses.LOSSES, f"unknown loss: choose {', '.join(losses.LOSSES)}", repr(self.loss))
        expect(self.seed >= 0, "a seed is a whole number from 0 up", self.seed)
        for name in ("epochs", "steps", "threads", "batch", "d_steps", "checkpoint_every"):
            value = getattr(self, name)
            expect(value is None or value >= 1, f"{name} is at least 1", value)
        expect(self.batch >= 2, "batch is at least 2, for batch norm has no variance from one image", self.batch)
        expect(self.minutes is None or 0 < self.minutes < math.inf, "minutes are positive", self.minutes)
        expect(self.device >= 0, "a device is a number from 0 up", self.device)
        memory = self.gpu_memory
        expect(memory is None or 0 < memory < math.inf, "gpu_memory is positive and finite", memory)
        for name in ("lr_g", "lr_d", "eps"):
            value = getattr(self, name)
            expect(0 < value < math.inf, f"{name} is positive and finite", value)
        for name in ("beta1", "beta2", "average"):
            expect(0 <= getattr(self, name) < 1, f"{name} is at least 0 and below 1", getattr(self, name))
        expect(0 <= self.label_smoothing < 0.5, "label_smoothing is at least 0 and below 0.5", self.label_smoothing)
        expect(
            not self.label_smoothing or self.loss != "hinge",
            "hinge has no targets to smooth: leave out label_smoothing, or choose another loss",
            f"label_smoothing {self.label_smoothing}",
        )
        expect(not self.decay or self.horizon, "decay needs a total to end at: give epochs, steps or minutes", "none")
        expect(
            not (self.simultaneous and self.d_steps > 1),
            "simultaneous updates are one step of each player: leave out d_steps or simultaneous",
            f"d_steps {self.d_steps}",
        )

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Config":
        """The config that `to_json` wrote. Raises UserError for anything else."""
        try:
            choices = json.loads(text)
            unknown = sorted(choices.keys() - {field.name for field in fields(cls)})
            if not unknown:
                return cls(**choices)
        except (ValueError, TypeError, AttributeError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"not the config of a run: {error}") from None
        raise UserError(f"the config has {', '.join(unknown)}, which this version of minigan does not know: upgrade it")


class Diverged(UserError):
    """A loss or a weight is no longer a finite number."""


class Training:
    """The two players, their optimizers, the random streams and the place in the data: all that decides what follows.

    `step` counts generator updates, `epoch` completed passes over the data, `cursor` the images of this epoch used so
    far, `seconds` the time spent in steps.
    """

    CURVES = ("d_loss", "g_loss", "d_real", "d_fake")  # kept for every step

    def __init__(self, config: Config, data: datasets.Images, backend):
        self.config, self.data, self.backend = config, data, backend
        if len(data.images) < config.batch * config.d_steps:
            raise UserError(
                f"a step takes {config.batch * config.d_steps} images and {data.name} has {len(data.images)}: "
                f"choose a smaller --batch"
            )
        weights, self.noise, fixed = (np.random.default_rng([config.seed, stream]) for stream in range(3))
        self.classes = int(data.labels.max()) + 1 if config.conditional and data.labels is not None else 0
        if self.classes:
            losses.expect_labels(data.labels, self.classes)  # here, once: no step on a GPU stops to look
        shape = dict(image_shape=data.images.shape[1:], classes=self.classes)
        self.G, self.D = models.build(config.preset, rng=weights, **shape)
        self.G.to(backend)
        self.D.to(backend)
        self._images = backend.asarray(data.images)  # uint8, also on a GPU: a batch is gathered and scaled there
        self._labels = backend.asarray(data.labels) if self.classes else None
        adam = dict(beta1=config.beta1, beta2=config.beta2, eps=config.eps)
        self.players = fuse(self.G), fuse(self.D)  # the same parameters, in fewer passes
        self.opt_g = optim.Adam(self.G, lr=config.lr_g, **adam)
        self.opt_d = optim.Adam(self.D, lr=config.lr_d, **adam)
        self.average = optim.MovingAverage(self.G, config.average) if config.average else None
        self.loss = losses.LOSSES[config.loss].to(backend)
        if config.label_smoothing:
            self.loss = losses.smoothed(self.loss, config.label_smoothing)
        self.fixed_noise = draw_noise(self.G, fixed, 100)  # what every picture of the run is made from
        self.fixed_labels = labels_in_turn(self.G, 100, self.classes)
        self.step = self.epoch = self.cursor = 0
        self.seconds = 0.0
        self.history: list[dict] = []  # a row for each completed epoch
        self.curves = array.array("f")  # len(CURVES) numbers for each step
        self._order = None  # the shuffled indices of this epoch

    # ---- playing

    def records(self) -> Iterator[dict]:
        """Plays until a total of the config is reached; for every step yields step, epoch, the step's losses and mean
        probabilities, and end_of_epoch. Raises Diverged when a loss or a weight is no longer finite.

        A GPU is asked for up to `steps_ahead` steps before it is waited for, never beyond the end of an epoch. Their
        records come together, when the state is that after the last of them; on a CPU a step is a step."""
        while not self.finished():
            start, first = time.perf_counter(), self.step + 1
            with np.errstate(over="ignore", invalid="ignore"):  # `_check_finite` says it better than a warning
                values = self._fetch(self._play_some())  # (steps, len(CURVES))
                self.seconds += time.perf_counter() - start
                self._check_finite(first, values)
            self.curves.extend(values.ravel())
            end_of_epoch = self._epoch_is_over()
            if end_of_epoch:
                self.history.append(self._row())
                self.epoch, self.cursor, self._order = self.epoch + 1, 0, None
            for step, row in enumerate(values.tolist(), first):
                at_end = end_of_epoch and step == self.step
                epoch = self.epoch - (end_of_epoch and not at_end)
                record = dict(zip(self.CURVES, row, strict=True))
                yield {"step": step, "epoch": epoch} | record | {"end_of_epoch": at_end}

    def _play_some(self) -> list[dict]:
        """Rounds, of which nothing is read yet: their values are 0-d arrays, on a GPU perhaps still to be computed."""
        played = []
        while True:
            played.append(self._play())
            self.step += 1
            if len(played) == self.backend.steps_ahead or self._epoch_is_over() or self.finished():
                return played

    def _fetch(self, played: list[dict]) -> np.ndarray:
        """The values of CURVES of these rounds, (steps, len(CURVES)). This waits for the GPU, once."""
        values = [record[name] for record in played for name in self.CURVES]
        return self.backend.to_numpy(self.backend.xp.stack(values)).reshape(-1, len(self.CURVES))

    def _epoch_is_over(self) -> bool:
        return self.cursor + self.images_a_step > len(self.data.images)

    def finished(self) -> bool:
        """Whether a total of the config is reached."""
        return self._progress({total: getattr(self.config, total) for total in TOTALS}) >= 1

    def _progress(self, totals: dict) -> float:
        """The part of the totals that is played, 1 when the first of them is reached; 0 where there are none."""
        done = {"epochs": self.step / self.steps_an_epoch, "steps": self.step, "minutes": self.seconds / 60}
        return max((done[name] / total for name, total in totals.items() if total is not None), default=0.0)

    def steps_in_all(self) -> int | None:
        """The step at which epochs or steps end the run, or None if only the minutes do."""
        c = self.config
        ends = [total for total in (c.steps, c.epochs and c.epochs * self.steps_an_epoch) if total is not None]
        return min(ends, default=None)

    def _play(self) -> dict:
        """One round: the discriminator's steps, then the generator's."""
        (G, D), c = self.players, self.config
        if c.decay:
            left = max(0.0, 1 - self._progress(c.horizon))
            self.opt_g.lr, self.opt_d.lr = c.lr_g * left, c.lr_d * left
        if c.simultaneous:
            real, labels = self._next_batch()
            z = draw_noise(G, self.noise, c.batch)
            record = game.simultaneous_step(G, D, self.opt_d, self.opt_g, real, z, self.loss, labels)
        else:
            for _ in range(c.d_steps):
                real, labels = self._next_batch()
                z = draw_noise(G, self.noise, c.batch)
                record = game.discriminator_step(G, D, self.opt_d, real, z, self.loss, labels)
            z = draw_noise(G, self.noise, c.batch)
            labels = draw_labels(G, self.noise, c.batch, self.classes)
            record |= game.generator_step(G, D, self.opt_g, z, self.loss, labels)
        if self.average:
            self.average.update()
        return record

    @property
    def images_a_step(self) -> int:
        """Real images that one round uses."""
        return self.config.batch * self.config.d_steps

    @property
    def steps_an_epoch(self) -> int:
        """Rounds in one pass over the data; what is left over is not used in that pass."""
        return len(self.data.images) // self.images_a_step

    def _next_batch(self):
        """The next real images (batch, H, W, C) in [-1, 1], in the order that the seed and the epoch decide, and their
        labels (batch,), or None for networks without labels."""
        if self._order is None:
            self._order = np.random.default_rng([self.config.seed, 3, self.epoch]).permutation(len(self.data.images))
        chosen = self.backend.asarray(self._order[self.cursor : self.cursor + self.config.batch])
        self.cursor += self.config.batch
        labels = None if self._labels is None else self._labels[chosen]
        return self.backend.gather(self._images, chosen), labels

    def _check_finite(self, first: int, values: np.ndarray) -> None:
        """Raises Diverged, naming the first step whose values (steps, len(CURVES)) are not finite, or the last one
        where only weights are lost."""
        lost = ~np.isfinite(values)
        row = int(lost.any(axis=1).argmax()) if lost.any() else len(values) - 1
        bad = [name for name, is_lost in zip(self.CURVES, lost[row], strict=True) if is_lost]
        weights = {f"G.{k}": w for k, w in self.G.params.items()} | {f"D.{k}": w for k, w in self.D.params.items()}
        # One product a tensor finds any NaN or infinity; squares overflow only for weights that are lost as well.
        squares = self.backend.xp.stack([w.ravel() @ w.ravel() for w in weights.values()])
        finite = np.isfinite(self.backend.to_numpy(squares))
        bad += [name for name, is_finite in zip(weights, finite, strict=True) if not is_finite]
        if bad:
            raise Diverged(
                f"step {first + row}: {', '.join(bad)} is no longer a finite number, so the run stops: "
                f"try a smaller --lr (now {self.config.lr_g} for G, {self.config.lr_d} for D)"
            )

    # ---- looking

    @property
    def sampler(self):
        """The generator from which pictures are drawn: the moving average where there is one."""
        return self.average.network if self.average else self.G

    def pictures(self, count: int = 100) -> np.ndarray:
        """uint8 images (count, H, W, C) of the first `count` of the run's fixed noise."""
        labels = None if self.fixed_labels is None else self.fixed_labels[:count]
        return draw_images(self.sampler, self.fixed_noise[:count], labels)

    def rows(self) -> list[dict]:
        """The history so far: a row for each epoch, the last one perhaps not complete."""
        return self.history + ([self._row()] if self.cursor else [])

    def _row(self) -> dict:
        before = self.history[-1] if self.history else {"step": 0, "seconds": 0.0}
        part = np.array(self.curves).reshape(-1, len(self.CURVES))[before["step"] :]
        seconds = self.seconds - before["seconds"]
        return {
            "epoch": self.epoch + 1,
            "step": self.step,
            "seconds": round(self.seconds, 3),
            "epoch_seconds": round(seconds, 3),
            "images_per_second": round(len(part) * self.images_a_step / max(seconds, 1e-9), 1),
            **{name: round(float(part[:, i].mean(dtype=np.float64)), 6) for i, name in enumerate(self.CURVES)},
        }

    # ---- the state, for a checkpoint

    def tensors(self) -> dict:
        """Every array that decides what follows, by name; `restore` writes into these very arrays."""
        owners = {
            "G": self.G.params | self.G.buffers,
            "D": self.D.params | self.D.buffers,
            "opt_g": self.opt_g.state,
            "opt_d": self.opt_d.state,
            "average": self.average.state if self.average else {},
        }
        return {f"{owner}.{name}": value for owner, values in owners.items() for name, value in values.items()}

    def state(self) -> tuple[dict[str, np.ndarray], dict]:
        """(arrays, facts) for `checkpoint.save`."""
        arrays = {name: self.backend.to_numpy(value) for name, value in self.tensors().items()}
        arrays["curves"] = np.array(self.curves, dtype=np.float32)
        facts = {
            "data": fingerprint(self.data),
            "classes": self.classes,
            "noise": self.noise.bit_generator.state,
            "history": self.history,
            **{name: getattr(self, name) for name in ("step", "epoch", "cursor", "seconds")},
        }
        return arrays, facts

    def load_state(self, path, arrays: dict[str, np.ndarray], facts: dict) -> None:
        """Takes over a state read from the checkpoint at `path`. Raises UserError where it is not this run's."""
        if facts["data"] != fingerprint(self.data):
            raise UserError(
                f"{path} was trained on {facts['data']['name']}, {facts['data']['shape']}, with other contents than "
                f"{self.config.data} has now: restore the data, or begin a new run"
            )
        arrays = dict(arrays)
        curves = arrays.pop("curves", np.zeros(0, np.float32))
        restore(path, arrays, self.tensors(), self.backend.asarray)
        self.curves = array.array("f", curves.tobytes())
        self.noise.bit_generator.state = facts["noise"]
        self.history = facts["history"]
        for name in ("step", "epoch", "cursor", "seconds"):
            setattr(self, name, facts[name])
        self._order = None

    def warm_up(self) -> float:
        """Plays one round with throw-away networks, so that no compilation hides in the first epoch's time.

        Returns the seconds it took.
        """
        start = time.perf_counter()
        labels = self.data.labels[:2] if self.classes else None
        data = datasets.Images(self.data.images[:2], labels, self.data.name)
        config = replace(self.config, batch=2, d_steps=1, steps=1, epochs=None, minutes=None)
        self.backend.prepare(functools.partial(_play_once, config, data))
        return time.perf_counter() - start


def _play_once(config: Config, data: datasets.Images, backend) -> None:
    for _ in Training(config, data, backend).records():
        pass


def draw_noise(generator, rng: np.random.Generator, count: int):
    """Noise (count, noise_size) from N(0, 1), drawn on the CPU so that every backend plays with the same."""
    z = rng.standard_normal((count, models.noise_size(generator)), dtype=np.float32)
    return generator.backend.asarray(z)


def draw_labels(generator, rng: np.random.Generator, count: int, classes: int):
    """Labels (count,), each of 0 ... classes - 1 as likely as any other; None where there are no classes."""
    return generator.backend.asarray(rng.integers(classes, size=count)) if classes else None


def labels_in_turn(generator, count: int, classes: int):
    """Labels 0, 1, ..., classes - 1, 0, 1, ...: (count,); None where there are no classes."""
    return generator.backend.asarray(np.arange(count) % classes) if classes else None


def draw_images(generator, z, labels=None) -> np.ndarray:
    """uint8 images (N, H, W, C) from noise (N, noise_size), with running statistics; changes nothing."""
    generator, parts = fuse(generator), []
    for part in (slice(i, i + 256) for i in range(0, len(z), 256)):
        images, _ = generator.forward(z[part], train=False, labels=None if labels is None else labels[part])
        parts.append(datasets.unscale(generator.backend.to_numpy(images)))
    return np.concatenate(parts)


def fingerprint(data: datasets.Images) -> dict:
    """What tells these images from others: name, shape, and a checksum of every pixel."""
    return {"name": data.name, "shape": list(data.images.shape), "crc32": zlib.crc32(data.images)}
