"""Create, resume, write and read the folder of a run.

    runs/digits/checkpoints/epoch-0005.npz     the complete state, every few epochs
    runs/digits/samples/epoch-0001.png         samples of the fixed noise; 0000 is before the first step

The other files are listed in CONTENTS.
"""

import csv
import io
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from minigan import backends, datasets
from minigan.backends import ranks as backend_ranks
from minigan.datasets import Data
from minigan.errors import UserError
from minigan.files import is_empty, locked, write_atomically
from minigan.metrics.alarm import Alarm
from minigan.metrics.collapse import FIGURES
from minigan.report import plots
from minigan.runs import sources
from minigan.runs.checks import Checked, Checks
from minigan.runs.discriminator import draw_discriminator
from minigan.runs.interrupt import Interrupt, Stopped
from minigan.runs.page import Page
from minigan.runs.progress import ProgressBar
from minigan.runs.ranks import Guard, agree, follow
from minigan.runs.saved import Saved, codec_of, generator, newest, read, read_config
from minigan.training import TOTALS, Config, Diverged, Sampler, Training, checkpoint, players
from minigan.training.config import place_of

DIVERGED = "diverged.txt"  # why the training stopped, if it diverged
CONTENTS = {
    "final.png": "a hundred samples",
    "report.html": "a page with all of this and more: open it in a browser",
    "training.gif": "samples of the same noise after every epoch",
    "losses.png": "losses and probabilities over the epochs, and the figures of the checks",
    "discriminator.png": "for points: what D answers, and the best answers",
    "history.csv": "the same as numbers, one row per epoch",
    "checkpoint.npz": "the complete state, to resume from",
    "config.json": "all options",
    DIVERGED: "why the training stopped, if a number was no longer finite",
}
PICTURED = 60  # samples in the picture of an epoch
DECAYED = (
    "the learning rate of this run has decayed to 0, so further steps change nothing: --extend (extend=True in Python) "
    "starts a new decay, to the new total"
)
SAVE_SECONDS = 120  # maximum time between checkpoints, because an epoch may be long
# With few samples, an epoch may take milliseconds, and less than its picture and its checkpoint.
EVERY_EPOCH, EPOCH_SECONDS = 100, 1.0  # later epochs have a picture and a checkpoint at most so often
EVERY_KEPT, KEPT_SECONDS = 20, 10.0  # after so many kept checkpoints, further ones are kept at most so often


# ---------------------------------------------------------------- create, resume and read


def begin(
    config: Config,
    out: Path | None,
    expect_labels: bool = False,
    data: Data | None = None,
    ranks: backend_ranks.Ranks | None = None,
) -> Training:
    """Create a new training, and its folder `out` if there is one. The data are loaded if they are not given.

    If `ranks` are given, they share each batch. Raises UserError, before anything is written, if one of
    them is not possible. If `expect_labels` is True, data without labels are an error.
    """
    _expect_new(out)
    data = load_data(config) if data is None else data
    if expect_labels and data.labels is None:
        how = "add labels (in a table, --label COLUMN)"
        raise UserError(f"--conditional needs labels, and {data.name} has none: leave it out, or {how}")
    config = _fitting(config, data)
    taken = sources.taken(config, data)
    training = Training(config, data, load_backend(config, ranks), taken=taken)
    if out:
        with writing(out):
            out.mkdir(parents=True, exist_ok=True)
        with locked(out) as keep:
            _expect_new(out)  # another process may have been faster
            write_new(training, out)
            keep(training)
    return training


def _fitting(config: Config, data: Data) -> Config:
    """Return the config with a smaller batch, a quarter of the data, if the batch of the preset needs more data."""
    usual = Config.of(config.preset).batch
    if config.batch == usual and 8 * config.pack * config.d_steps <= len(data) < usual * config.d_steps:
        return replace(config, batch=len(data) // (4 * config.d_steps) // config.pack * config.pack)
    return config


def _expect_new(out: Path | None) -> None:
    """Raise UserError if the folder exists and is not empty."""
    if out and out.exists() and not (out.is_dir() and is_empty(out)):
        raise UserError(
            f"{out} already exists: resume it with `minigan train --resume --out {out}`, or choose another with --out"
        )


def write_new(training: Training, out: Path) -> None:
    """Create the folder of a run, with its config and its state."""
    with writing(out):
        for folder in (out, out / "checkpoints", out / "samples"):
            folder.mkdir(parents=True, exist_ok=True)
        write_config(training, out)
        checkpoint.save(out / "checkpoint.npz", *training.state())


def resume(out: Path, extend: bool = False, ranks: backend_ranks.Ranks | None = None, **changes) -> Training:
    """Return the training in `out`, restored from its newest checkpoint, and store the changed config.

    See `restore` for the arguments and the errors.
    """
    read_config(out)  # raises UserError if it is not a run, before the folder is locked
    with locked(out) as keep, writing(out):
        training = restore(read(out), extend=extend, ranks=ranks, **changes)
        write_config(training, out)
        keep(training)
    return training


def restore(
    saved: Saved,
    data: Data | str | None = None,
    extend: bool = False,
    ranks: backend_ranks.Ranks | None = None,
    **changes: Any,
) -> Training:
    """Return the training that was saved.

    `data` are the data of the run, or the new path of data that were moved; by default, they are
    read from where they were. `changes` may contain other totals, another backend, and another
    number of threads. If it contains a total, the previous totals are removed. `extend` starts a
    new decay of the learning rate, until the new total. `ranks` share each batch, whether others did
    before or not. Raises UserError if the run cannot be resumed, or if the data have changed.
    """
    out, config = saved.out, saved.config
    place = data if isinstance(data, str) else None
    if place is not None:
        changes["data_moved_to"] = place
    if any(name in changes for name in TOTALS):
        changes = dict.fromkeys(TOTALS) | changes
    config = replace(config, **changes)
    if data is None or isinstance(data, str):
        data = _data_of_run(out, config, place)
    taken = players.Taken(saved.facts.get("discriminator"))  # all arrays come from the checkpoint
    training = Training(config, data, load_backend(config, ranks), taken=taken)
    training.load_state(out / "checkpoint.npz", saved.arrays, saved.facts)
    if extend:
        training.extend()
    return training


def _data_of_run(out: Path, config: Config, place: str | None) -> Data:
    """Load the data of the run in `out` from `place`, or from where they were."""
    if place is None and config.place_of_data() == datasets.IN_MEMORY:
        raise UserError(
            f"{out} was trained on arrays in memory: give them again, as fit(images, labels, ...), or the path of "
            "a file that has them, as --data PATH"
        )
    try:
        return load_data(config, place)
    except datasets.DataError as error:
        if place is not None:
            raise
        place = config.place_of_data()
        if place in datasets.BUILTIN or Path(place).exists():
            raise
        raise UserError(
            f"{out} was trained on {place}, which does not exist any more: if the data have moved, give their "
            "new place with --data PATH"
        ) from error


def load_data(config: Config, place: str | None = None):
    """Load the data of the config, according to its kind and options, from `place` or from where the config says."""
    place = config.place_of_data() if place is None else place
    data = datasets.KINDS[config.kind].load(place, config.kind_options(), config.seed, config.conditional)
    return datasets.hold_out(data, config.hold_out, config.seed)


def read_data(data: Any, labels: Any, config: Config) -> Data:
    """Return data, a path or arrays with labels or None, as an object of the kind of the config.

    Without data, those of the config are loaded.
    """
    if data is None or isinstance(data, str | os.PathLike):
        everything = replace(config, hold_out=0.0)  # as many samples as there are labels
        found = load_data(everything, None if data is None else place_of(data))
    elif hasattr(data, "fingerprint") and hasattr(data, "sample_shape"):
        found = data
    else:
        found = datasets.convert(data, labels, config.kind, config.kind_options(), config.conditional)
        labels = None
    found = found if labels is None else datasets.with_labels(found, labels)
    return datasets.hold_out(found, config.hold_out, config.seed)


def load_backend(config: Config, ranks: backend_ranks.Ranks | None = None) -> backends.Backend:
    """Load the backend of the config, with its settings for threads and GPU. `ranks`, if given, share each batch."""
    gpu = dict(device=config.device, tf32=config.tf32, memory=config.gpu_memory)
    threads = config.threads if ranks is None or config.threads else ranks.threads
    backend = backends.load(config.backend, threads=threads, **gpu)
    return backend if ranks is None else backend_ranks.shared(backend, ranks, config.pack)


def sampler(out: Path | Saved, backend) -> Sampler:
    """Return the sampler of a run: its generator, or the moving average if there is one, and its codec."""
    saved = read(out) if isinstance(out, Path) else out
    return Sampler(generator(saved).to(backend), codec_of(saved), saved.facts.get("class_names"))


def info(out: Path) -> dict:
    """Return the facts about the run in `out`, from its config and newest checkpoint, for JSON."""
    config, (_, facts) = read_config(out), newest(out)
    names = facts.get("class_names") or [str(label) for label in range(facts["classes"])]
    return {
        "run": str(out),
        "preset": config.preset,
        "kind": facts["kind"],
        "data": config.data,
        "data_name": facts["data"]["name"],
        "samples": facts["data"]["shape"][0],
        "fingerprint": facts["data"],
        "sample_shape": facts["sample_shape"],
        "description": facts.get("description", []),
        "conditional": bool(facts["classes"]),
        "class_names": names[: facts["classes"]],
        "step": facts["step"],
        "epoch": facts["epoch"],
        "seconds": facts["seconds"],
        "totals": config.totals(),
        **{name: getattr(config, name) for name in players.OPTIONS},
        "files": [name for name in CONTENTS if (out / name).exists()],
        "checkpoints": len(list((out / "checkpoints").glob("epoch-*.npz"))),
    }


def described(facts: dict) -> list[tuple[str, str]]:
    """Return the result of `info` as lines (topic, text) for people."""
    shape = " x ".join(map(str, facts["sample_shape"]))
    samples = datasets.counted(facts["samples"], facts["kind"])
    lines = [("run", facts["run"]), ("data", f"{facts['data']}: {samples} of {shape}")]
    lines += [tuple(line) for line in facts["description"]]
    classes = f"{len(facts['class_names'])} classes: {datasets.listing(facts['class_names'])}"
    lines.append(("sampling", f"{classes} (minigan sample --label NAME)" if facts["conditional"] else "without labels"))
    totals = " or ".join(f"{value:g} {name}" for name, value in facts["totals"].items()) or "none"
    lines.append(("preset", facts["preset"]))
    lines += players.described(**{name: facts[name] for name in players.OPTIONS})
    progress = (
        f"{facts['step']:,} steps, {facts['epoch']} epochs, {facts['seconds']:.0f} s of training; total: {totals}"
    )
    lines.append(("progress", progress))
    lines += [("file", f"{name}: {CONTENTS[name]}") for name in facts["files"]]
    return [*lines, ("files", f"{facts['checkpoints']} kept checkpoints in checkpoints/")]


def columns(classes: int) -> int:
    """Return the number of columns of a grid: `classes` if it is from 2 to 20, else 10."""
    return classes if 2 <= classes <= 20 else 10


# ---------------------------------------------------------------- train and write


def play(
    training: Training, out: Path | None, quiet: bool = False, callback: Callable[[Checked], object] | None = None
) -> bool:
    """Train to the end, and write pictures and checkpoints to `out`, or nothing if it is None.

    Shows its progress, and warns once of each problem in `metrics.alarm`, unless `quiet`. At the end
    of an epoch, `runs.checks` may add figures to the history. `callback` gets every record, with
    these figures and warnings. If it returns True, the training stops after this step. Not every
    epoch has a picture, a line and a checkpoint if epochs are short or pictures take long: see `Pace`.

    Returns whether a collapse stopped the training, which the option `stop_on` asks for. Raises
    Stopped after a signal such as Ctrl-C, when the state is saved, and UserError if a file cannot be
    written or the training diverges. If several ranks train, all call this, and a signal ends them:
    see `runs.ranks`.
    """
    ranks = training.backend.ranks
    if ranks is not None and ranks.rank > 0:
        return follow(training)
    saved, watch, checks, collapsed, pace = time.monotonic(), Alarm(), Checks(training), False, Pace(training)
    with (
        locked(out, training),
        writing(out),
        Interrupt() as interrupt,
        ProgressBar(training, quiet) as bar,
        Page(training, out, CONTENTS, checks) as page,
        _divergence_noted(out),
        Guard(training, out) as guard,
    ):
        if out and training.step == 0:
            _save_picture_of_epoch(training, out, training.samples(PICTURED))
        for record in training.records():
            guard.remember()
            bar.show(record)
            seen = Checked(**record)
            if ranks is not None and record["end_of_epoch"]:
                agree(training)
            if record["end_of_epoch"] and (pace.shows(training.epoch) or training.finished()):
                encoded = training.encoded_samples(PICTURED)
                samples = training.data.codec.decode(encoded)
                if figures := checks.when_due():
                    seen["figures"] = figures
                    training.history[-1].update(figures)
                if out:
                    (out / DIVERGED).unlink(missing_ok=True)  # of an earlier attempt
                    _save_picture_of_epoch(training, out, samples)
                    save(training, out, keep=pace.keeps(training.epoch))
                labels = training.sampler.labels_for(len(encoded))
                # Pixels of images, or else the numbers of each sample, as one row of finite numbers.
                seen_by_alarm = samples if encoded.ndim == 4 else encoded.reshape(len(encoded), -1)
                alarms = watch.check(training.history[-1], seen_by_alarm, labels, training.config.decay)
                if alarms:
                    seen["alarms"] = alarms
                    page.alarms += alarms
                bar.print_epoch(training.history[-1], alarms)
                collapsed = page.collapsed = watch.collapsed and training.config.stop_on == "collapse"
                saved = time.monotonic()
            elif out and time.monotonic() - saved > SAVE_SECONDS:
                save(training, out)
                saved = time.monotonic()
            page.now_and_then()
            stop = callback is not None and callback(seen) is True
            if ranks is not None:
                ranks.each((stop or collapsed, collapsed))  # `follow` waits for this
            if interrupt.signal:
                if out:
                    save(training, out)
                raise Stopped(interrupt.signal)
            if collapsed:
                bar.print_stop(record["step"])
            if stop or collapsed:
                break
        if out:
            save(training, out)
            save_pictures(training, out)
    return collapsed


@contextmanager
def _divergence_noted(out: Path | None) -> Iterator[None]:
    """If the training diverges, write why to the folder, for `minigan explain`."""
    try:
        yield
    except Diverged as error:
        if out:
            write_atomically(out / DIVERGED, f"{error}\n".encode())
        raise


class Pace:
    """Decides which epochs have a picture, a line and a checkpoint, and which checkpoints are kept.

    The first EVERY_EPOCH epochs have them, and later ones if EPOCH_SECONDS have passed since the
    last that had (and the last of all: see `play`). If pictures of this kind of data take long, the
    `plots.PAUSES` of their view pass between any two. Every `checkpoint_every` epochs, the next
    checkpoint is kept; after EVERY_KEPT of them only if KEPT_SECONDS have passed since the last.
    """

    def __init__(self, training: Training):
        self.every, self.kept = training.config.checkpoint_every, training.epoch
        self.pause = plots.PAUSES.get(training.data.codec.view, 0.0)
        self.shown_at = self.kept_at = time.monotonic()

    def shows(self, epoch: int) -> bool:
        """Return whether this completed epoch has a picture, a line and a checkpoint."""
        now = time.monotonic()
        if now < self.shown_at + max(self.pause, EPOCH_SECONDS if epoch > EVERY_EPOCH else 0.0):
            return False
        self.shown_at = now
        return True

    def keeps(self, epoch: int) -> bool:
        """Return whether the checkpoint of this epoch is kept."""
        now = time.monotonic()
        few = epoch // self.every <= EVERY_KEPT
        if epoch // self.every == self.kept // self.every or not (few or now >= self.kept_at + KEPT_SECONDS):
            return False
        self.kept, self.kept_at = epoch, now
        return True


def save(training: Training, out: Path, keep: bool = False) -> None:
    """Write checkpoint.npz, history.csv, and the checkpoint a second time if it is to be kept."""
    write_state(out, *training.state(), training.rows(), keep)


def write_state(out: Path, arrays: dict[str, np.ndarray], facts: dict, rows: list[dict], keep: bool = False) -> None:
    """Write what `save` writes, from the state and the history of a training."""
    checkpoint.save(out / "checkpoint.npz", arrays, facts)
    if keep:
        checkpoint.save(out / "checkpoints" / f"epoch-{facts['epoch']:04d}.npz", arrays, facts)
    text = io.StringIO()
    if rows:
        names = [name for name in rows[0] if name not in FIGURES]
        writer = csv.DictWriter(text, [*names, *FIGURES], lineterminator="\n")  # empty where nothing was measured
        writer.writeheader()
        writer.writerows(rows)
        write_atomically(out / "history.csv", text.getvalue().encode())


def write_config(training: Training, out: Path) -> None:
    """Write config.json, with all options of the run."""
    write_atomically(out / "config.json", training.config.to_json().encode())


def _picture_of_epoch(out: Path, epoch: int) -> Path:
    return out / "samples" / f"epoch-{epoch:04d}.png"


def _save_picture_of_epoch(training: Training, out: Path, samples: np.ndarray) -> None:
    codec, width = training.data.codec, columns(training.classes)
    plots.save_samples(_picture_of_epoch(out, training.epoch), samples, codec, width)


def save_pictures(training: Training, out: Path) -> None:
    """Write final.png, training.gif and losses.png, and discriminator.png if the best discriminator is known."""
    samples, codec, width = training.samples(), training.data.codec, columns(training.classes)
    plots.save_samples(out / "final.png", samples, codec, width, scale=3)
    frames = [path for epoch in range(training.epoch + 1) if (path := _picture_of_epoch(out, epoch)).exists()]
    # Draw the last frame if the epoch is incomplete, or has no picture.
    drawn = _picture_of_epoch(out, training.epoch).exists() and not training.cursor
    last = None if drawn else plots.picture(samples[:PICTURED], codec, width)
    plots.save_animation(out / "training.gif", frames, last)
    equilibrium, of_checks = training.loss.equilibrium, figures_of_checks(training)
    plots.save_curves(out / "losses.png", named_curves(training), training.steps_per_epoch, equilibrium, of_checks)
    if (discriminator := draw_discriminator(training)) is not None:
        plots.save_picture(out / "discriminator.png", discriminator)


def save_all(training: Training, out: Path) -> None:
    """Write everything that `play` writes at the end: the state, the history, the pictures and the page."""
    save(training, out)
    save_pictures(training, out)
    Page(training, out, CONTENTS).finish()


def named_curves(training: Training) -> dict[str, np.ndarray]:
    """Return the values (steps,) of every step, for each name in CURVES."""
    curves = np.array(training.curves).reshape(-1, len(training.CURVES))
    return {name: curves[:, i] for i, name in enumerate(training.CURVES)}


def figures_of_checks(training: Training) -> list[dict]:
    """Return the rows of the history that contain the figures of a check."""
    return [row for row in training.history if any(name in row for name in FIGURES)]


class writing:
    """Context manager that converts an OSError while writing to `out` into a UserError."""

    def __init__(self, out: Path | None):
        self.out = out

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        if isinstance(error, OSError) and self.out is not None:
            raise UserError(
                f"cannot write to {error.filename or self.out} ({error.strerror or error}): the files saved earlier "
                "are intact; free disk space or grant write permission, then try again (resume a run with --resume)"
            ) from None
