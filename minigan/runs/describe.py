"""Describe a training before it begins: data, networks, backend and totals, as text for people."""

import importlib.metadata
import os
import platform
import textwrap
from pathlib import Path

import numpy as np

from minigan import backends, datasets, models
from minigan.options import described
from minigan.training import Config, Training, players


def header(training: Training, out: Path | None = None, resumed: bool = False, tables: bool = True) -> str:
    """Return what is trained on what, one topic on each line.

    `out` is the folder of the run, if there is one. `tables` adds the architecture of both networks.
    """
    config, data = training.config, training.data
    shape, one = " x ".join(map(str, data.sample_shape)), datasets.KINDS[data.kind].noun
    lines = [f"data       {data.name}: {datasets.counted(len(data), data.kind)} of {shape}"]
    lines += [wrapped(topic, text) for topic, text in data.description()]
    if config.kind_reason:  # runs of format 1 have none
        lines.append(f"kind       {config.kind}, because {config.kind_reason}")
    given = "both networks see the labels" if training.classes else "the networks do not see labels"
    if config.conditional and not training.classes:
        given = "the data have no labels, so the networks are unconditional"
    lines.append(f"networks   {given}")
    noise = training.G.noise_shape or ()
    lines.append(f"preset     {config.preset}; generator: noise {' x '.join(map(str, noise))}")
    lines += [wrapped(*line) for line in players.described(*(getattr(config, name) for name in players.OPTIONS))]
    lines += [wrapped("", note) for note in (training.taken.notes if training.taken else ())]
    if tables:
        # Networks on the NumPy backend, because this text is printed before kernels are compiled.
        taken = training.taken and training.taken.without_arrays()
        rng, layout = np.random.default_rng(0), players.layout_of(data.codec)
        G, D = players.build(config, data.sample_shape, training.classes, rng, taken, layout=layout)
        lines += [models.table(G, noise), f"           discriminator: {one} {shape}"]
        lines.append(models.table(D, data.sample_shape))
    chosen = backends.choose()[1].removeprefix("backend ") if config.backend == "auto" else training.backend.name
    lines.append(f"backend    {chosen}")
    totals = config.totals().items()
    end = " or ".join(f"{n:g} {name if n > 1 else name[:-1]}" for name, n in totals) or "Ctrl-C"
    rates = f"{config.optimizer} {config.lr_g:g} and {config.lr_d:g}"
    lines.append(f"training   batch {config.batch}, {config.loss} loss, {rates}, ends after {end}")
    if out is not None:
        lines.append(f"run        {out}" + (f", from step {training.step}" if resumed else ""))
    return "\n".join(lines)


def wrapped(topic: str, text: str) -> str:
    """Format a topic and its text as one line. A long text is wrapped."""
    return textwrap.fill(text, 110, initial_indent=f"{topic:<11}", subsequent_indent=" " * 11, break_on_hyphens=False)


def machine() -> dict:
    """Return a description of this machine: processor, cores, system, and versions of Python and packages."""
    versions = {"python": platform.python_version()}
    for name in ("numpy", "numba", "llvmlite", "cupy", "torch", "tensorflow", "tensorflow-cpu"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        names = [
            line
            for line in Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
            if line.startswith("model name")
        ]
        cpu = names[0].split(":")[1].strip() if names else cpu
    return {"cpu": cpu, "cores": os.cpu_count(), "system": platform.system(), "versions": versions}


def presets() -> str:
    """Return all presets with their summaries, recipes and options of networks, as text."""
    text = []
    for name, preset in models.PRESETS.items():
        c = Config.of(name)
        labels = "with" if c.conditional else "without"
        total = " or ".join(f"{count:,} {unit}" for unit, count in c.totals().items())
        recipe = f"{total}, batch {c.batch}, {c.optimizer} {c.lr_g:g} and {c.lr_d:g}, beta1 {c.beta1:g}"
        lines = [preset.summary, f"{recipe}, {c.loss} loss, {labels} labels"]
        lines += [f"--network {line}" for line in described(preset.options)]
        text += [name, *(textwrap.fill(line, 100, initial_indent="    ", subsequent_indent="    ") for line in lines)]
    return "\n".join(text)
