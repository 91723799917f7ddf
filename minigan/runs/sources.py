"""Read the networks from which a run starts: those of earlier runs, or a classifier."""

from dataclasses import asdict
from pathlib import Path

import numpy as np

from minigan import models
from minigan.datasets import Data, listing
from minigan.errors import UserError
from minigan.layers import Sequential
from minigan.metrics.classifier import Classifier
from minigan.models import reuse
from minigan.runs import saved as saved_runs
from minigan.runs.saved import Saved
from minigan.training import Config, players


def taken(config: Config, data: Data) -> players.Taken | None:
    """Return what a new run takes from networks that were trained before, or None if it takes nothing.

    A generator is taken with the weights with which its run draws samples: the moving average if
    there is one. A discriminator of a run is taken with the weights of its last step.

    Raises UserError if a file cannot be read, or if the networks do not fit the run: another shape of
    samples, other labels, or another architecture.
    """
    if not (config.discriminator_from or config.generator_from):
        return None
    facts: reuse.Facts | None = None
    arrays: dict[str, np.ndarray] = {}
    notes: list[str] = []
    if config.discriminator_from:
        place = Path(config.discriminator_from)
        if place.is_dir():
            saved = _read_run(place, "discriminator", config, data, notes)
            facts, D = saved.facts.get("discriminator"), players.without_first_layers(saved_runs.networks(saved)[1])
            arrays |= _named("D", D.params | D.buffers)
        else:
            facts, of_classifier = _read_classifier(place, config, data)
            arrays |= _named("D", of_classifier)
    if config.generator_from:
        saved = _read_run(Path(config.generator_from), "generator", config, data, notes)
        G = saved_runs.generator(saved)
        arrays |= _named("G", G.params | G.buffers)
    found = players.Taken(facts, arrays, tuple(dict.fromkeys(notes)))
    classes = players.number_of_classes(config, data)
    layout = players.layout_of(data.codec)
    players.build(config, data.sample_shape, classes, np.random.default_rng(0), found, layout=layout)  # or UserError
    return found


def _named(owner: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the arrays with the names that they have in a checkpoint."""
    return {f"{owner}.{name}": value for name, value in arrays.items()}


def _read_run(place: Path, player: str, config: Config, data: Data, notes: list[str]) -> Saved:
    """Read the run from which `player` is taken, and add to the notes. Raises UserError if it does not fit."""
    if player == "discriminator" and config.projected:
        raise UserError(f"projected needs a file that `minigan classify` wrote, got the folder {place}")
    saved = saved_runs.read(place)
    _expect_shape(place, saved.facts["sample_shape"], data)
    if players.layout_of(saved_runs.codec_of(saved)) != players.layout_of(data.codec):
        raise UserError(
            f"the columns of {place} have other kinds or values than those of {data.name}: start without it"
        )
    theirs, own = saved.facts["classes"], players.number_of_classes(config, data)
    if theirs != own:
        saw, see = (f"{n} classes" if n else "no labels" for n in (theirs, own))
        remedy = "--unconditional" if not theirs else "a run on data with the same number of classes"
        remedy = "--conditional, and data with labels" if theirs and not own else remedy
        raise UserError(f"the networks of {place} see {saw}, and those of this run {see}: use {remedy}")
    if player == "generator" or saved.facts.get("discriminator") is None:  # else, facts give the architecture
        _expect_architecture(place, player, saved, config)
    before, now = saved.facts.get("class_names"), data.class_names
    if own and before is not None and before != now:
        notes.append(f"the weights of the classes {listing(before)} start as those of {listing(now or [])}")
    return saved


def _expect_shape(place: Path, theirs: list[int], data: Data) -> None:
    """Raise UserError unless the samples of `place` have the shape of the data."""
    if tuple(theirs) != tuple(data.sample_shape):
        came, wanted = (" x ".join(map(str, shape)) for shape in (theirs, data.sample_shape))
        raise UserError(f"{place} is for samples of {came}, and {data.name} has {wanted}: both must be the same")


def _expect_architecture(place: Path, player: str, saved: Saved, config: Config) -> None:
    """Raise UserError unless the player of the saved run has the architecture that the config asks for."""
    networks = [_of_preset(c, saved)[player == "discriminator"] for c in (saved.config, config)]
    same = models.PRESETS[saved.config.preset].build is models.PRESETS[config.preset].build
    if same and repr(networks[0]) == repr(networks[1]):
        return
    theirs, own = (_architecture(c) for c in (saved.config, config))
    raise UserError(f"the {player} of {place} is that of {theirs}, and this run asks for {own}: use {theirs}")


def _of_preset(config: Config, saved: Saved) -> tuple[Sequential, Sequential]:
    """Build the networks of the preset of `config`, for the samples and classes of the saved run."""
    shape = dict(sample_shape=saved.facts["sample_shape"], classes=saved.facts["classes"], pack=config.pack)
    layout = players.layout_of(saved_runs.codec_of(saved))
    return models.build(config.preset, rng=np.random.default_rng(0), **shape, options=config.network, layout=layout)


def _architecture(config: Config) -> str:
    """Return the options that give the architecture of the preset's networks, without those at their default."""
    usual = asdict(models.PRESETS[config.preset].options())
    changed = [f"--network {name}={value}" for name, value in config.network.items() if value != usual[name]]
    packs = [f"--pack {config.pack}"] if config.pack > 1 else []
    return " ".join([f"--preset {config.preset}", *changed, *packs])


def _read_classifier(place: Path, config: Config, data: Data) -> tuple[reuse.Facts, dict[str, np.ndarray]]:
    """Return the facts of a discriminator from the classifier in a file, and the arrays that it takes."""
    if not place.exists():
        raise UserError(
            f"{place} does not exist: discriminator_from is the folder of a run, or a file of `minigan classify`"
        )
    classifier = Classifier.load(place)
    _expect_shape(place, classifier.facts["sample_shape"], data)
    if config.pack > 1:
        raise UserError(f"the classifier {place} sees one image at a time: leave pack out, got pack {config.pack}")
    if config.freeze == "all":
        raise UserError(
            f"freeze all leaves nothing that learns to tell real from fake, which the classifier {place} cannot do: "
            "use freeze features"
        )
    facts = {"widths": classifier.facts["widths"], "projected": config.projected}
    arrays = classifier.network.params | classifier.network.buffers
    return facts, reuse.taken_from_classifier(arrays, facts)
