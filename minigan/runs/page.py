"""Write the page of a run, report.html: at the start, during the training, and at the end.

    with Page(training, out) as page:
        for record in training.records():
            page.now_and_then()

During the training, the page is written at most every EVERY seconds, from what is known at no cost. What takes
time is added at the end: the explanation, nearest images, and one batch step by step.
"""

import contextlib
import shlex
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from minigan import datasets, models
from minigan.files import write_atomically
from minigan.report import plots
from minigan.report.page import charts, pictures
from minigan.report.page.networks import Network
from minigan.report.page.pictures import Picture
from minigan.report.page.report import Report, page
from minigan.runs import compared
from minigan.runs.checks import Checks
from minigan.runs.describe import machine
from minigan.runs.interrupt import Stopped
from minigan.training import Config, Diverged, Training, players
from minigan.training.config import command_line

NAME = "report.html"
EVERY = 20.0  # seconds between two pages, at least
FRAMES = 60  # pictures of the slider, at most
BYTES = 850_000  # of all these pictures
SHRINK = {"grid": 2}  # the pictures of epochs have pixels of this size, by view


class Page:
    """Writes the page of a training to the folder `out`. With the option `report` False, or without `out`, nothing.

    `checks` of this training are used for the comparison with the data. `contents` maps files of the
    folder to what they contain.
    """

    def __init__(self, training: Training, out: Path | None, contents: dict[str, str], checks: Checks | None = None):
        self.training, self.contents, self.collapsed = training, contents, False
        self.checks = Checks(training) if checks is None else checks
        self.out = out if training.config.report else None
        self.alarms: list[str] = []
        self.last = time.monotonic()
        self._networks: list[Network] = []
        self._frames: dict[Path, tuple[int, Picture | None]] = {}  # the time of each file, and its picture

    def __enter__(self) -> "Page":
        if self.out:
            self.write("running")
        return self

    def now_and_then(self) -> None:
        """Write the page if EVERY seconds have passed since the last one was written."""
        if self.out and time.monotonic() - self.last >= EVERY:
            self.write("running")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.out is None:
            return
        if kind is None:
            self.finish()
            return
        with contextlib.suppress(OSError):  # the error that ends the training says more
            stopped = issubclass(kind, KeyboardInterrupt | Stopped)
            self.write("diverged" if issubclass(kind, Diverged) else "stopped" if stopped else "failed")

    def finish(self) -> None:
        """Write the complete page, at the end of a training or of a part of it."""
        if self.out:
            ended = "finished" if self.training.finished() else "stopped"
            self.write("collapsed" if self.collapsed else ended, complete=True)

    def write(self, state: str, complete: bool = False) -> None:
        """Write the page. `complete` adds what takes time."""
        assert self.out is not None
        with np.errstate(over="ignore", invalid="ignore"):  # of networks that have diverged
            report = self._report(state, complete)
        write_atomically(self.out / NAME, page(report))
        self.last = time.monotonic()

    def _report(self, state: str, complete: bool) -> Report:
        from minigan.runs.explain import explain_records  # it imports `run`, which imports this module

        t, out = self.training, self.out
        assert out is not None
        known: dict[str, Any] = {}
        if complete:
            known = self._complete()
        elif any("coverage" in row for row in t.history) or state == "diverged":
            explanation = explain_records(t, out)
            known = {"verdict": explanation.verdict, "statements": explanation.statements}
        frames = self._pictures()
        newest = known.pop("newest", None) or (frames[-1] if frames else None)
        totals = t.config.totals()
        noun = datasets.KINDS[t.data.kind].noun
        # A step that diverged has no values, so there may be none after the last complete epoch.
        rows = t.rows() if len(t.curves) > len(t.CURVES) * (t.history[-1]["step"] if t.history else 0) else t.history
        return Report(
            name=out.name or str(out.resolve().name),
            state=state,
            written=time.time(),
            done=t.progress() if totals else None,
            progress=f"{counted(t.step, 'step')}, {counted(t.epoch, 'epoch')}, {duration(t.seconds)} of training",
            summary=summary(t),
            noun=noun,
            view=t.data.codec.view,
            newest=newest,
            frames=frames,
            curves=self._curves(rows, noun),
            alarms=self.alarms,
            networks=self._diagrams(),
            config=options_of(t.config),
            command=command_of(t, out),
            files=[(name, text) for name, text in self.contents.items() if (out / name).exists()],
            machine=machine_of(t),
            **known,
        )

    def _curves(self, rows: list[dict], noun: str) -> list[dict]:
        t = self.training
        curves = np.array(t.curves).reshape(-1, len(t.CURVES))
        of_steps = {name: curves[:, i] for i, name in enumerate(t.CURVES)}
        if not len(curves):
            return []
        return charts.of_steps(of_steps, t.steps_per_epoch, t.loss.equilibrium) + charts.of_epochs(rows, f"{noun}s")

    def _pictures(self) -> list[tuple[str, Picture]]:
        """Return (text, picture) of evenly spaced epochs and the last one. Damaged files are left out."""
        assert self.out is not None
        found = {}
        for path in (self.out / "samples").glob("epoch-*.png"):
            with contextlib.suppress(ValueError):
                found[int(path.stem.removeprefix("epoch-"))] = path
        epochs = sorted(found)
        while epochs:
            shown = [(epoch, self._picture(found[epoch])) for epoch in epochs]
            frames = [(f"epoch {epoch}", frame) for epoch, frame in shown if frame is not None]
            if len(epochs) <= 2 or (sum(len(frame[0]) for _, frame in frames) <= BYTES and len(epochs) <= FRAMES):
                return frames
            *before, last = epochs
            epochs = [*before[::2], last]
        return []

    def _picture(self, path: Path) -> Picture | None:
        """Return the picture of an epoch in a small form, read once."""
        try:
            changed = path.stat().st_mtime_ns
        except OSError:
            return None
        if path not in self._frames or self._frames[path][0] != changed:
            shrink = SHRINK.get(self.training.data.codec.view, 1)
            self._frames[path] = changed, pictures.of_file(path, shrink)
        return self._frames[path][1]

    def _diagrams(self) -> list[Network]:
        """Return both networks as diagrams. They are built on the NumPy backend, where nothing is compiled."""
        t = self.training
        if not self._networks:
            noise, noun = t.G.noise_shape or (), datasets.KINDS[t.data.kind].noun
            for title, taken, shape, network in (
                ("Generator", "noise", noise, t.G),
                ("Discriminator", noun, t.data.sample_shape, t.D),
            ):
                rows = models.rows(players.on_reference(network), shape)
                frozen = models.frozen_weights(network)
                self._networks.append(Network(title, taken, tuple(shape), rows, network.n_params, frozen))
        return self._networks

    def _complete(self) -> dict[str, Any]:
        """Return what takes time: the newest samples, the explanation, comparisons with the data, and one batch."""
        from minigan.runs.explain import SHOWN, explain_training
        from minigan.runs.trace import traced

        t, out = self.training, self.out
        assert out is not None
        codec, grid = t.data.codec, t.data.codec.view == "grid"
        width = t.classes if 2 <= t.classes <= 20 else 10
        self.checks.shown = SHOWN
        explanation = explain_training(t, out, self.checks)
        found: dict[str, Any] = {
            "newest": ("newest", pictures.of_array(plots.picture(t.samples(), codec, width, 1 if grid else 3))),
            "verdict": explanation.verdict,
            "statements": explanation.statements,
            "notes": explanation.notes,
            "modes": compared.shares(self.checks, t.data.class_names),
        }
        if grid:
            found["nearest"], found["usual_distance"], found["searched"] = compared.nearest(t)
        if codec.view in compared.DISTRIBUTIONS:
            found["distributions"] = compared.DISTRIBUTIONS[codec.view](t)
        drawn = pictures.of_file(out / "discriminator.png")
        if drawn:
            text = "What D answers in the plane, next to the best answers, with samples as dots"
            found["extra"] = [("The discriminator", text, drawn)]
        found["journey"] = traced(t)
        return found


# ---------------------------------------------------------------- words


def counted(count: int, noun: str) -> str:
    """Return a number with its noun: 1 step, 2,000 steps."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def duration(seconds: float) -> str:
    """Return a time in seconds, or in minutes and seconds: 45 s, 3 min 20 s."""
    whole = round(seconds)
    return f"{whole} s" if whole < 120 else f"{whole // 60} min {whole % 60} s"


def summary(training: Training) -> list[tuple[str, str]]:
    """Return what is trained on what, as lines (topic, text)."""
    t, c = training, training.config
    totals = " or ".join(f"{n:g} {name}" for name, n in c.totals().items()) or "no total"
    shape = " x ".join(map(str, t.data.sample_shape))
    seen = f"{len(t.data.class_names or [])} classes, which both networks see" if t.classes else "the networks see none"
    lines = [
        ("data", f"{t.data.name}: {datasets.counted(len(t.data), t.data.kind)} of {shape}"),
        ("labels", seen),
        ("preset", f"{c.preset}, {c.loss.replace('_', ' ')} loss"),
        ("training", f"batch {c.batch}, {c.optimizer} {c.lr_g:g} (G) and {c.lr_d:g} (D)"),
        ("total", totals),
        ("seed", str(c.seed)),
    ]
    return lines + players.described(*(getattr(c, name) for name in players.OPTIONS))


def options_of(config: Config) -> list[tuple[str, str, bool]]:
    """Return (name, value, whether it is not that of the preset) of every option of a run."""
    usual, found = Config.of(config.preset, kind=config.kind), []
    for name in Config.__dataclass_fields__:
        value, before = getattr(config, name), getattr(usual, name)
        if isinstance(value, dict):
            found += [(f"{name}.{key}", str(each), each != before.get(key)) for key, each in value.items()]
        else:
            found.append((name, str(value), value != before and name != "kind_reason"))
    return found


def command_of(training: Training, out: Path) -> str:
    """Return the command that repeats a run, or the call in Python if its data were in memory."""
    config = training.config
    if config.place_of_data() == datasets.IN_MEMORY:
        given = ", ".join(
            f"{name}={getattr(config, name)!r}"
            for name, _, changed in options_of(config)
            if changed and "." not in name and name not in ("preset", "kind", "data")
        )
        between = ", " if given else ""
        return f"minigan.GAN({config.preset!r}{between}{given}).fit(...)  # with the same arrays"
    return f"minigan train {command_line(config)} --out {shlex.quote(str(out))}"


def machine_of(training: Training) -> list[tuple[str, str]]:
    """Return the processor, the backend and the versions, as lines (topic, text)."""
    facts, backend = machine(), training.backend
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    settings = ", ".join(f"{name} {value}" for name, value in backend.settings.items() if value is not None)
    return [
        ("processor", f"{facts['cpu']}, {facts['cores']} cores, {facts['system']}"),
        ("backend", f"{backend.name}{f' ({settings})' if settings else ''}"),
        ("versions", versions),
    ]
