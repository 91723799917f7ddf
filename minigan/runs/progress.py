"""Show the progress of a training: a bar, a line for each epoch, and warnings."""

import sys

from minigan import datasets, terminal
from minigan.metrics.alarm import meaning
from minigan.training import Record, Training


class ProgressBar:
    """Shows images per second, losses, mean probabilities and the remaining time."""

    def __init__(self, training: Training, quiet: bool):
        self.training, self.quiet = training, quiet
        self.samples_per_step = training.samples_per_step
        last, minutes = training.steps_in_all(), training.config.minutes
        self.by_time = minutes is not None
        unit = dict(total=last, unit="step") if minutes is None else dict(total=round(60 * minutes), unit="s")
        done = training.seconds if self.by_time else training.step
        layout = "{percentage:3.0f}%|{bar:24}| {elapsed} elapsed, {remaining} left{postfix}"
        interval = 0.25 if terminal.is_watched() else 30  # seconds between updates, fewer in a log file
        look: dict = dict(bar_format=layout, disable=quiet, dynamic_ncols=True, mininterval=interval)
        self.bar = terminal.tqdm(**unit, initial=done, **look)
        self.recent: dict[str, float] = {}
        self.noun = datasets.plural(training.data.kind)

    def show(self, record: Record) -> None:
        """Update the bar after a step."""
        if self.quiet:
            return
        for name in Training.CURVES:  # a running mean, because per-step values are noisy
            value: float = record[name]  # type: ignore[literal-required]  # CURVES are keys of a Record
            self.recent[name] = 0.98 * self.recent.get(name, value) + 0.02 * value
        done = min(self.training.seconds, self.bar.total) if self.by_time else record["step"]
        self.bar.set_postfix_str(
            f"{self.samples_per_step * self._speed():,.0f} {self.noun}/s, "
            + "loss D {d_loss:.2f} G {g_loss:.2f}, D(real) {d_real:.2f} D(fake) {d_fake:.2f}".format(**self.recent),
            refresh=False,
        )
        self.bar.update(done - self.bar.n)

    def _speed(self) -> float:
        """Return the steps per second of training time since the first call."""
        step, seconds = self.training.step, self.training.seconds
        if not hasattr(self, "start"):
            self.start = step, seconds
        return (step - self.start[0]) / max(seconds - self.start[1], 1e-9)

    def print_epoch(self, row: dict, alarms: list[str]) -> None:
        """Print a line for a completed epoch, with what its numbers mean, and warnings."""
        if not self.quiet:
            self.bar.write(
                "epoch {epoch:3d}  {epoch_seconds:6.1f} s  {images_per_second:7,.0f} {noun}/s  loss D {d_loss:.3f} "
                "G {g_loss:.3f}  D(real) {d_real:.3f}  D(fake) {d_fake:.3f}: ".format(noun=self.noun, **row)
                + meaning(row)
            )
            for alarm in alarms:
                self.bar.write(f"warning: {alarm}", file=sys.stderr)

    def print_stop(self, step: int) -> None:
        """Print that a collapse stopped the training."""
        if not self.quiet:
            self.bar.write(f"stopped at step {step}, because stop_on is collapse", file=sys.stderr)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.bar.close()
