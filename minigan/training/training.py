"""Training: the complete state of a run. The iterator `records` trains step by step.

    training = Training(Config.of("small", epochs=3), datasets.load("mnist"), backends.load("numba"))
    for record in training.records():
        print(record)                      # the caller may draw samples, save, or stop after any record

The seed determines all random numbers. Weights, noise and shuffling use separate random
generators, so that drawing samples, saving or stopping between two steps does not change the
result.
"""

import array
import copy
import functools
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, TypedDict

import numpy as np

from minigan import datasets, game, losses, models, optim, penalties
from minigan.backends import Array, Backend
from minigan.datasets import Codec, Data
from minigan.errors import UserError
from minigan.layers import Sequential, fuse
from minigan.training import checkpoint, players
from minigan.training.config import TOTALS, Config
from minigan.training.sampling import Sampler, draw_labels, draw_noise, draw_samples, every_label


class Record(TypedDict):
    """The record of a training step."""

    step: int  # steps so far, each with d_steps updates of D and g_steps of G
    epoch: int  # completed passes over the data
    d_loss: float  # the losses of both networks, without the penalty
    g_loss: float
    d_real: float  # mean probability "real" from D for real samples, before its update
    d_fake: float  # the same for fake samples
    end_of_epoch: bool  # whether this step is the last of its epoch


class Diverged(UserError):
    """Raised if a loss or a weight is not a finite number."""


class Training:
    """The complete training state: networks, optimizers, random generators, and the position in the data.

    `networks` is a (generator, discriminator) that replaces the networks of the preset. The
    generator must have a `noise_shape`. `taken` is what `runs.sources` read of networks that were
    trained before, for a config with `discriminator_from` or `generator_from`.

    `step` counts steps, each with `d_steps` updates of D and `g_steps` of G, and `epoch` completed
    passes over the data. `cursor` is the number of samples of the current epoch used so far, and
    `seconds` is the time spent in steps. `horizon` contains the totals with which the run was
    started. A run that is resumed with larger totals keeps its horizon, so that a decaying learning
    rate does not depend on them. `decay_start` is the (step, seconds) at which the decay
    began: (0, 0), or where `extend` began a new one.
    """

    CURVES = ("d_loss", "g_loss", "d_real", "d_fake")  # stored for every step

    def __init__(
        self,
        config: Config,
        data: Data,
        backend: Backend,
        networks: tuple[Sequential, Sequential] | None = None,
        taken: players.Taken | None = None,
    ):
        self.config, self.backend = config, backend
        if len(data) < config.batch * config.d_steps:
            needs = datasets.counted(config.batch * config.d_steps, data.kind)
            raise UserError(f"a step takes {needs} and {data.name} has {len(data):,}: choose a smaller --batch")
        weights, self.noise, fixed = (np.random.default_rng([config.seed, stream]) for stream in range(3))
        self.penalty_rng = np.random.default_rng([config.seed, 4])  # stream 3 is the order of the samples
        self.classes = players.number_of_classes(config, data)
        if self.classes:
            losses.expect_labels(data.labels, self.classes)  # once: a check in each step would synchronise
        self.taken = taken
        layout = players.layout_of(data.codec)
        self.G, self.D = players.build(config, data.sample_shape, self.classes, weights, taken, networks, layout)
        if self.classes and config.pack > 1 and self.D.takes_labels:
            raise UserError(
                f"packing joins samples of different classes, so D cannot take a label: choose --unconditional, or "
                f"leave out --pack, got {config.pack}"
            )
        if self.G.noise_shape is None:
            raise UserError("the generator has no noise_shape: set generator.noise_shape, for example to (64,)")
        self.labels_in_samples = models.PRESETS[config.preset].labels_in_samples
        self._own_networks = networks
        self.penalty = self._penalty()
        self.G.to(backend)
        self.D.to(backend)
        self.data = data.to(backend)
        self._labels = backend.asarray(data.labels) if self.classes else None
        self.players = fuse(self.G), fuse(self.D)  # fused layers with the same parameters
        self.opt_g, self.opt_d = self.new_optimizer(self.G, config.lr_g), self.new_optimizer(self.D, config.lr_d)
        self.average = optim.MovingAverage(self.G, config.average) if config.average else None
        self.loss = losses.LOSSES[config.loss].to(backend)
        if config.label_smoothing:
            self.loss = losses.smoothed(self.loss, config.label_smoothing)
        if config.real_share != 0.5:
            self.loss = losses.weighted(self.loss, config.real_share)
        self.fixed_noise = draw_noise(self.G, fixed, 100)  # the noise of every picture of the run
        self.fixed_labels = self.G.backend.asarray(every_label(100, self.classes, data.codec)) if self.classes else None
        self.horizon = config.totals()
        self.decay_start: tuple[int, float] = (0, 0.0)
        self.step = self.epoch = self.cursor = 0
        self.seconds = 0.0
        self.history: list[dict] = []  # a row for each completed epoch
        self.curves = array.array("f")  # len(CURVES) numbers for each step
        self._order: np.ndarray | None = None  # the shuffled indices of this epoch

    def new_optimizer(self, network: Sequential, lr: float) -> optim.Optimizer:
        """Returns a new optimizer of the config for a network."""
        c = self.config
        settings = dict(momentum=c.momentum, beta1=c.beta1, beta2=c.beta2, eps=c.eps)
        optimizer = optim.OPTIMIZERS[c.optimizer](network, lr, settings)
        optimizer.clip_norm = c.clip_norm
        return optimizer

    def _penalty(self) -> penalties.Penalty | None:
        """Returns the gradient penalty of the config. Raises UserError if D lacks a derivative that it needs."""
        c = self.config
        if c.penalty == "none":
            return None
        penalties.expect_possible(c.penalty, self.D)
        return penalties.named(c.penalty, weight=c.penalty_weight * c.penalty_every, rng=self.penalty_rng)

    # ---- steps

    def records(self) -> Iterator[Record]:
        """Trains until a total of the config is reached, and yields a record for every step.

        On a GPU, up to `steps_ahead` steps of one epoch are queued before synchronising. Their
        records are yielded afterwards, when the training is in the state after the last of
        these steps. Raises Diverged if a loss or a weight is not finite.
        """
        while not self.finished():
            start, first = time.perf_counter(), self.step + 1
            # `_check_finite` raises a better message than NumPy. The caller's code does not run inside `computing`.
            with np.errstate(over="ignore", invalid="ignore"), self.backend.computing(), self.backend.sharing():
                values = self._fetch(self._train_steps())  # (steps, len(CURVES))
                self.seconds += time.perf_counter() - start
                if self.backend.ranks:  # the learning rate and the end of the run may depend on them
                    self.seconds = self.backend.ranks.each(self.seconds)[0]
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
                yield Record(step=step, epoch=epoch, end_of_epoch=at_end, **record)  # type: ignore[typeddict-item]

    def _train_steps(self) -> list[dict]:
        """Runs steps without synchronising. The values are 0-d arrays, which a GPU may not have computed yet."""
        records = []
        while True:
            records.append(self._train_step())
            self.step += 1
            if len(records) == self.backend.steps_ahead or self._epoch_is_over() or self.finished():
                return records

    def _fetch(self, records: list[dict]) -> np.ndarray:
        """Returns the values of CURVES, (steps, len(CURVES)), on the CPU. Synchronises the GPU once."""
        values = [record[name] for record in records for name in self.CURVES]
        return self.backend.to_numpy(self.backend.xp.stack(values)).reshape(-1, len(self.CURVES))

    def _epoch_is_over(self) -> bool:
        return self.cursor + self.samples_per_step > len(self.data)

    def progress(self) -> float:
        """Returns the completed fraction of the totals, 0 without a total."""
        return self._progress(self.config.totals())

    def finished(self) -> bool:
        """Returns whether a total of the config is reached."""
        return self._progress(self.config.totals()) >= 1

    def _progress(self, totals: dict, start: tuple[int, float] = (0, 0.0)) -> float:
        """Returns the completed fraction of the totals: 1 when the first of them is reached, 0 if there are none.

        `start` is the (step, seconds) at which the fraction is 0.
        """
        after = {"epochs": self.step / self.steps_per_epoch, "steps": self.step, "minutes": self.seconds / 60}
        before = {"epochs": start[0] / self.steps_per_epoch, "steps": start[0], "minutes": start[1] / 60}
        done = {name: (after[name] - before[name], total - before[name]) for name, total in totals.items()}
        return max((part / whole if whole > 0 else 1.0 for part, whole in done.values()), default=0.0)

    def continue_to(self, totals: dict[str, Any]) -> None:
        """Replaces the totals of the config, at which the training ends. The horizon does not change."""
        new: dict[str, Any] = dict.fromkeys(TOTALS) | totals
        self.config = replace(self.config, **new)

    def extend(self) -> None:
        """Starts a new decay of the learning rate, from its full value now to 0 at the totals of the config.

        Raises UserError if the learning rate does not decay, or if a total is reached already.
        """
        if not self.config.decay:
            raise UserError("the learning rate of this run does not decay: leave --extend out")
        if self.finished():
            raise UserError("a new decay needs a larger total: give --epochs, --steps or --minutes with --extend")
        self.horizon, self.decay_start = self.config.totals(), (self.step, self.seconds)

    def decay_is_over(self) -> bool:
        """Returns whether the learning rate has decayed to 0, so that further steps change nothing."""
        return self.config.decay and self._progress(self.horizon, self.decay_start) >= 1

    def steps_in_all(self) -> int | None:
        """Returns the last step according to the totals in epochs and steps, or None if neither is set."""
        c = self.config
        ends = [total for total in (c.steps, c.epochs and c.epochs * self.steps_per_epoch) if total is not None]
        return min(ends, default=None)

    def _train_step(self) -> dict:
        """Runs the discriminator steps and then the generator steps, or one simultaneous step."""
        (G, D), c = self.players, self.config
        self._follow_schedules()
        if c.simultaneous:
            real, labels = self._next_batch()
            z = self._draw_noise(self.fakes_per_step)
            players = G, D, self.opt_d, self.opt_g
            record = game.simultaneous_step(
                *players, real, z, self.loss, labels, self._penalty_now(), c.feature_matching
            )
            self._update_average()
            return record
        for _ in range(c.d_steps):
            real, labels = self._next_batch()
            z = self._draw_noise(self.fakes_per_step)
            record = game.discriminator_step(G, D, self.opt_d, real, z, self.loss, labels, self._penalty_now())
        for _ in range(c.g_steps):
            z = self._draw_noise(c.batch)
            if self.loss.compares or c.feature_matching:  # fakes with the labels of the real samples
                record |= game.generator_step(G, D, self.opt_g, z, self.loss, labels, real, c.feature_matching)
            else:
                # A class of a table may be rare. If it were more frequent here than in the discriminator step, batch
                # norm would compute another G there, and G would learn a biased distribution.
                same = self.labels_in_samples
                drawn = labels if same else draw_labels(G, self.noise, c.batch, self.classes)
                if not same and drawn is not None:
                    drawn = drawn[self.backend.batch_part(c.batch)]
                record |= game.generator_step(G, D, self.opt_g, z, self.loss, drawn)
            self._update_average()
        return record

    def _follow_schedules(self) -> None:
        """Sets the learning rates and the instance noise of this step."""
        c = self.config
        done = self._progress(self.horizon, self.decay_start)
        if c.decay:
            left = max(0.0, 1 - max(0.0, done - c.decay_from) / (1 - c.decay_from))
            self.opt_g.lr, self.opt_d.lr = c.lr_g * left, c.lr_d * left
        if c.instance_noise:  # a new decay of the learning rate, see `extend`, brings no new noise
            over = 1.0 if self.decay_start != (0, 0.0) else done / c.instance_noise_until
            players.instance_noise(self.D).std = c.instance_noise * max(0.0, 1 - over)

    def _update_average(self) -> None:
        if self.average:
            self.average.update()

    def _penalty_now(self) -> penalties.Penalty | None:
        """Returns the penalty of this discriminator step, or None.

        Lazy regularisation applies the penalty in every K-th step only, with K times the weight
        (Karras et al. 2020, section 3.1).
        """
        due = int(self.opt_d.state["t"]) % self.config.penalty_every == 0
        return self.penalty if due else None

    @property
    def samples_per_step(self) -> int:
        """The number of real samples that one step uses."""
        return self.config.batch * self.config.d_steps

    @property
    def fakes_per_step(self) -> int:
        """The number of fakes in a discriminator step, as `real_share` says: a multiple of `pack`, at least two."""
        c = self.config
        return c.pack * max(2, round(c.batch * (1 - c.real_share) / c.real_share / c.pack))

    @property
    def steps_per_epoch(self) -> int:
        """The number of steps in one pass over the data. The remaining samples are not used in that pass."""
        return len(self.data) // self.samples_per_step

    def _draw_noise(self, count: int) -> Array:
        """Returns noise (count, *noise_shape), or the part of it that this process computes with."""
        return draw_noise(self.G, self.noise, count)[self.backend.batch_part(count)]

    def _next_batch(self):
        """Returns the next real samples (batch, *sample_shape), and their labels (batch,) or None without labels.

        The order of the samples depends only on the seed and the epoch. If processes share the batch,
        these are the samples that this one computes with.
        """
        if self._order is None:
            self._order = np.random.default_rng([self.config.seed, 3, self.epoch]).permutation(len(self.data))
        batch = self._order[self.cursor : self.cursor + self.config.batch]
        chosen = self.backend.asarray(batch[self.backend.batch_part(len(batch))])
        self.cursor += self.config.batch
        labels = None if self._labels is None else self._labels[chosen]
        return self.data.batch(chosen), labels

    def _check_finite(self, first: int, values: np.ndarray) -> None:
        """Raises Diverged if a value (steps, len(CURVES)) or a weight is not finite.

        The message gives the first step with such a value, or the last step if only weights are
        not finite.
        """
        nonfinite = ~np.isfinite(values)
        row = int(nonfinite.any(axis=1).argmax()) if nonfinite.any() else len(values) - 1
        bad = [name for name, is_bad in zip(self.CURVES, nonfinite[row], strict=True) if is_bad]
        weights = {f"G.{k}": w for k, w in self.G.params.items()} | {f"D.{k}": w for k, w in self.D.params.items()}
        # The sum of squares of a tensor is not finite if any weight is not, or if a weight is far too large.
        squares = self.backend.xp.stack([w.ravel() @ w.ravel() for w in weights.values()])
        finite = np.isfinite(self.backend.to_numpy(squares))
        bad += [name for name, is_finite in zip(weights, finite, strict=True) if not is_finite]
        if bad:
            raise self._diverged(first + row, ", ".join(bad))

    def _diverged(self, step: int, what: str) -> Diverged:
        """The error of a training in which `what` is not finite."""
        of = self.config
        return Diverged(
            f"step {step}: {what} is no longer a finite number, so the run stops: "
            f"try a smaller --lr (now {of.lr_g} for G, {of.lr_d} for D)"
        )

    # ---- samples and history

    @property
    def sampler(self) -> Sampler:
        """The sampler of the moving average of the generator, or of the generator if there is no average."""
        return Sampler(self.average.network if self.average else self.G, self.data.codec, self.data.class_names)

    def samples(self, count: int = 100) -> Any:
        """Returns `count` decoded samples of the fixed noise: uint8 images (count, H, W, C), or points (count, 2).

        `count` is at most 100. Raises Diverged if a sample has a number that is not finite: with
        enormous weights this can happen before a loss or a weight is not finite.
        """
        return self.data.codec.decode(self.encoded_samples(count))

    def encoded_samples(self, count: int = 100) -> np.ndarray:
        """Returns the samples of `samples` as G draws them, float32 (count, *sample_shape)."""
        labels = None if self.fixed_labels is None else self.fixed_labels[:count]
        samples = draw_samples(self.sampler.generator, self.fixed_noise[:count], labels)
        if not np.isfinite(samples).all():
            raise self._diverged(self.step, "a sample of G")
        return samples

    def rows(self) -> list[dict]:
        """Returns the history: a row for each epoch, including the current one if it is incomplete."""
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
            "images_per_second": round(len(part) * self.samples_per_step / max(seconds, 1e-9), 1),
            **{name: round(float(part[:, i].mean(dtype=np.float64)), 6) for i, name in enumerate(self.CURVES)},
        }

    # ---- checkpoints

    def state(self) -> tuple[dict[str, np.ndarray], dict]:
        """Returns (arrays, facts) for `checkpoint.save`."""
        return checkpoint.pack(self)

    def load_state(self, path, arrays: dict[str, np.ndarray], facts: dict) -> None:
        """Restores the state read from the checkpoint `path`. Raises UserError if data or networks differ."""
        checkpoint.unpack(self, path, arrays, facts)

    def reset_order(self) -> None:
        """Discards the order of the samples, so that the next step computes it from the seed and the epoch."""
        self._order = None

    def warm_up(self) -> float:
        """Runs one step with temporary networks, so that the time of the first epoch contains no compilation.

        Returns the time in seconds.
        """
        start = time.perf_counter()
        few = 2 * self.config.pack
        x = self.backend.to_numpy(self.data.batch(self.backend.asarray(np.arange(few))))
        names = self.data.class_names
        labels = None if self.data.labels is None else self.data.labels[:few]
        samples = _WarmUpData(x, labels, names, self.data.codec)
        config = replace(self.config, batch=few, d_steps=1, g_steps=1, steps=1, epochs=None, minutes=None)
        # Networks of a preset are not passed, because they can be rebuilt and would make the pickle larger.
        taken = self.taken and self.taken.without_arrays()
        self.backend.plain.prepare(functools.partial(_train_once, config, samples, self._own_networks, taken))
        return time.perf_counter() - start


@dataclass(frozen=True)
class _WarmUpData:
    """Data with a few samples (N, *sample_shape). It is small, because `warm_up` may send it to a second process."""

    samples: np.ndarray
    labels: np.ndarray | None
    class_names: list[str] | None
    codec: Codec
    backend: Backend | None = None

    kind, name, held_out = "samples", "few", None

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def sample_shape(self) -> tuple[int, ...]:
        return self.samples.shape[1:]

    def to(self, backend: Backend) -> "_WarmUpData":
        return replace(self, samples=backend.asarray(self.samples), backend=backend)

    def batch(self, index: Array) -> Array:
        return self.samples[index]

    def fingerprint(self) -> dict:
        return {}

    def description(self) -> list[tuple[str, str]]:
        return []


def _train_once(
    config: Config,
    data: Data,
    networks: tuple[Sequential, Sequential] | None,
    taken: players.Taken | None,
    backend: Backend,
) -> None:
    """Trains networks of the same shapes as those of the run, which compiles the kernels that the run needs."""
    for _ in Training(config, data, backend, copy.deepcopy(networks), taken).records():
        pass
