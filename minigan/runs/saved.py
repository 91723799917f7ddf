"""Read the folder of a run: its config, its newest checkpoint, and the networks in it."""

import dataclasses
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from minigan import datasets
from minigan.datasets import Codec
from minigan.errors import UserError
from minigan.layers import Sequential
from minigan.options import options
from minigan.training import Config, checkpoint, players


class Saved(NamedTuple):
    """The config and the newest checkpoint of a run, read into memory."""

    out: Path
    config: Config
    arrays: dict[str, np.ndarray]
    facts: dict


def read(out: Path) -> Saved:
    """Read the config and the newest checkpoint of the run in `out`. Raises UserError if it is not a run."""
    config, horizon = _read_config(out)
    arrays, facts = newest(out)
    return Saved(out, config, arrays, {"horizon": horizon} | facts)


def read_config(out: Path) -> Config:
    """Return the config of the run in `out`. Raises UserError if `out` is not a run."""
    return _read_config(out)[0]


def _read_config(out: Path) -> tuple[Config, dict | None]:
    """Return (config, horizon). config.json contains the horizon only if it belongs to a checkpoint of format 1."""
    try:
        text = (out / "config.json").read_text(encoding="utf-8")
        config = Config.from_json(text)
    except OSError as error:
        raise UserError(f"{out} is not the folder of a run: cannot read config.json ({error.strerror})") from None
    except UserError as error:
        raise UserError(f"{out / 'config.json'}: {error}") from None
    return config, json.loads(text).get("horizon")


def newest(out: Path) -> tuple[dict, dict]:
    """Read (arrays, facts) of the newest checkpoint.

    If it is damaged, the error names the newest kept checkpoint that is intact.
    """
    try:
        return checkpoint.load(out / "checkpoint.npz")
    except checkpoint.CheckpointError as error:
        for kept in sorted((out / "checkpoints").glob("epoch-*.npz"), reverse=True):
            try:
                checkpoint.load(kept)
            except checkpoint.CheckpointError:
                continue
            raise checkpoint.CheckpointError(
                f"{error}: restore the last intact one with `cp {kept} {out / 'checkpoint.npz'}`"
            ) from None
        raise


def codec_of(saved: Saved) -> Codec:
    """Return the codec of the data of a run, whose fields the checkpoint stores."""
    return datasets.KINDS[saved.facts["kind"]].codec(**saved.facts["codec"])


def expect_earlier(out: Path, config: Config, step: int, history: list[dict]) -> None:
    """Raise UserError if `out` is not an earlier state of the training with this config, step and history."""
    try:
        there = read(out)
    except UserError:
        raise UserError(f"{out} is not empty and is not the folder of a run: give another folder") from None
    changed = [
        field.name
        for field in dataclasses.fields(Config)
        if not options(Config)[field.name].resumable
        and field.name != "data_moved_to"
        and getattr(config, field.name) != getattr(there.config, field.name)
    ]
    past = there.facts["history"]
    if changed or there.facts["step"] > step or past != history[: len(past)]:
        raise UserError(f"{out} holds another training: give another folder, or remove it first")


# ---------------------------------------------------------------- networks


def generator(saved: Saved) -> Sequential:
    """Return the generator with which a run draws samples: the moving average if there is one."""
    G, _ = _new_networks(saved)
    checkpoint.restore(saved.out / "checkpoint.npz", *checkpoint.generator_arrays(saved.arrays, G), np.asarray)
    return G


def networks(saved: Saved) -> tuple[Sequential, Sequential]:
    """Return the (generator, discriminator) of a run, with the weights of their last step."""
    G, D = _new_networks(saved)
    for owner, network in (("G.", G), ("D.", D)):
        targets = {owner + name: value for name, value in (network.params | network.buffers).items()}
        found = {name: value for name, value in saved.arrays.items() if name.startswith(owner)}
        checkpoint.restore(saved.out / "checkpoint.npz", found, targets, np.asarray)
    return G, D


def _new_networks(saved: Saved) -> tuple[Sequential, Sequential]:
    config, facts = saved.config, saved.facts
    taken = players.Taken(facts.get("discriminator"))
    rng, layout = np.random.default_rng(0), players.layout_of(codec_of(saved))
    return players.build(config, facts["sample_shape"], facts["classes"], rng, taken, layout=layout)
