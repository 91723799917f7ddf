"""Training: the whole state of a run; its `records` play the game step by step.

    training = Training(Config.of("small", epochs=3), datasets.load("mnist"), backends.load("numba"))
    for record in training.records():
        print(record)                      # whoever consumes the records draws, prints, saves or stops

One seed decides everything. Weights, noise and shuffling have random streams of their own,
so that looking at samples, saving or stopping between two steps changes nothing.
"""

import array
import copy
import functools
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, TypedDict

import numpy as np

from minigan import game, losses, models, optim, penalties
from minigan.backends import Array, Backend
from minigan.datasets import Codec, Data
from minigan.errors import UserError
from minigan.layers import Sequential, fuse
from minigan.training import checkpoint
from minigan.training.config import Config
from minigan.training.sampling import Sampler, cyclic_labels, draw_labels, draw_noise


class Record(TypedDict):
    """What a step yields."""

    step: int  # generator updates so far
    epoch: int  # completed passes over the data
    d_loss: float  # the losses of both players, without the penalty
    g_loss: float
    d_real: float  # the mean probability "real" that D gave to real samples and to fakes, before its update
    d_fake: float
    end_of_epoch: bool


class Diverged(UserError):
    """A loss or a weight is no longer a finite number."""


class Training:
    """The two players, their optimizers, the random streams and the position in the data: the complete training state.

    `networks` are a (generator, discriminator) of one's own in place of the preset's; the
    generator's `noise_shape` says what noise it takes. `step` counts generator updates,
    `epoch` completed passes over the data, `cursor` the samples of this epoch used so far,
    `seconds` the time spent in steps. `horizon` are the totals for which the run was
    started: going on beyond them changes nothing before.
    """

    CURVES = ("d_loss", "g_loss", "d_real", "d_fake")  # kept for every step

    def __init__(
        self, config: Config, data: Data, backend: Backend, networks: tuple[Sequential, Sequential] | None = None
    ):
        self.config, self.backend = config, backend
        if len(data) < config.batch * config.d_steps:
            raise UserError(
                f"a step takes {config.batch * config.d_steps} {data.kind} and {data.name} has {len(data)}: "
                f"choose a smaller --batch"
            )
        weights, self.noise, fixed = (np.random.default_rng([config.seed, stream]) for stream in range(3))
        self.penalty_points = np.random.default_rng([config.seed, 4])  # stream 3 is the order of the samples
        self.classes = len(data.class_names) if config.conditional and data.class_names else 0
        if self.classes:
            losses.expect_labels(data.labels, self.classes)  # here, once: no step on a GPU stops to look
        self.G, self.D = networks or models.build(
            config.preset,
            rng=weights,
            sample_shape=data.sample_shape,
            classes=self.classes,
            options=config.network,
        )
        if self.G.noise_shape is None:
            raise UserError(
                "the generator does not say what noise it takes: set generator.noise_shape, for example to (64,)"
            )
        self._own_networks = networks
        self.penalty = self._penalty()
        self.G.to(backend)
        self.D.to(backend)
        self.data = data.to(backend)
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
        self.fixed_labels = cyclic_labels(self.G, 100, self.classes)
        self.horizon = config.totals()
        self.step = self.epoch = self.cursor = 0
        self.seconds = 0.0
        self.history: list[dict] = []  # a row for each completed epoch
        self.curves = array.array("f")  # len(CURVES) numbers for each step
        self._order: np.ndarray | None = None  # the shuffled indices of this epoch

    def _penalty(self) -> penalties.Penalty | None:
        """The gradient penalty of the config. Raises UserError if a layer of D has no second derivative."""
        c = self.config
        if c.penalty == "none":
            return None
        penalties.expect_second_derivatives(self.D)
        return penalties.named(c.penalty, weight=c.penalty_weight * c.penalty_every, rng=self.penalty_points)

    # ---- playing

    def records(self) -> Iterator[Record]:
        """Plays until a total of the config is reached, and yields a record for every step.

        Raises Diverged if a loss or a weight is no longer finite. On a GPU, up to `steps_ahead`
        steps are queued before synchronising, never beyond the end of an epoch. Their records
        come together, when the state is that after the last of them.
        """
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
                yield Record(step=step, epoch=epoch, end_of_epoch=at_end, **record)  # type: ignore[typeddict-item]

    def _play_some(self) -> list[dict]:
        """Rounds whose values have not been read: they are 0-d arrays, on a GPU perhaps still to be computed."""
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
        return self.cursor + self.samples_per_step > len(self.data)

    def finished(self) -> bool:
        """Whether a total of the config is reached."""
        return self._progress(self.config.totals()) >= 1

    def _progress(self, totals: dict) -> float:
        """The part of the totals that is done, 1 when the first of them is reached; 0 if there are none."""
        done = {"epochs": self.step / self.steps_per_epoch, "steps": self.step, "minutes": self.seconds / 60}
        return max((done[name] / total for name, total in totals.items()), default=0.0)

    def steps_in_all(self) -> int | None:
        """The step at which epochs or steps end the run, or None if only the minutes do."""
        c = self.config
        ends = [total for total in (c.steps, c.epochs and c.epochs * self.steps_per_epoch) if total is not None]
        return min(ends, default=None)

    def _play(self) -> dict:
        """One round: the discriminator's steps, then the generator's."""
        (G, D), c = self.players, self.config
        if c.decay:
            left = max(0.0, 1 - self._progress(self.horizon))
            self.opt_g.lr, self.opt_d.lr = c.lr_g * left, c.lr_d * left
        if c.simultaneous:
            real, labels = self._next_batch()
            z = draw_noise(G, self.noise, c.batch)
            players = G, D, self.opt_d, self.opt_g
            record = game.simultaneous_step(*players, real, z, self.loss, labels, self._penalty_now())
        else:
            for _ in range(c.d_steps):
                real, labels = self._next_batch()
                z = draw_noise(G, self.noise, c.batch)
                record = game.discriminator_step(G, D, self.opt_d, real, z, self.loss, labels, self._penalty_now())
            z = draw_noise(G, self.noise, c.batch)
            if self.loss.compares:  # fakes of the same labels as the real samples
                record |= game.generator_step(G, D, self.opt_g, z, self.loss, labels, real)
            else:
                labels = draw_labels(G, self.noise, c.batch, self.classes)
                record |= game.generator_step(G, D, self.opt_g, z, self.loss, labels)
        if self.average:
            self.average.update()
        return record

    def _penalty_now(self) -> penalties.Penalty | None:
        """The penalty of this discriminator step: lazy regularisation leaves it out of all but every K-th, and gives
        it K times the weight (Karras et al. 2020, section 3.1)."""
        due = int(self.opt_d.state["t"]) % self.config.penalty_every == 0
        return self.penalty if due else None

    @property
    def samples_per_step(self) -> int:
        """Real samples that one round uses."""
        return self.config.batch * self.config.d_steps

    @property
    def steps_per_epoch(self) -> int:
        """Rounds in one pass over the data; what is left over is not used in that pass."""
        return len(self.data) // self.samples_per_step

    def _next_batch(self):
        """The next real samples (batch, *sample_shape), in the order that the seed and the epoch decide, and their
        labels (batch,), or None for networks without labels."""
        if self._order is None:
            self._order = np.random.default_rng([self.config.seed, 3, self.epoch]).permutation(len(self.data))
        chosen = self.backend.asarray(self._order[self.cursor : self.cursor + self.config.batch])
        self.cursor += self.config.batch
        labels = None if self._labels is None else self._labels[chosen]
        return self.data.batch(chosen), labels

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
    def sampler(self) -> Sampler:
        """What samples are drawn from: the moving average of the generator if there is one."""
        return Sampler(self.average.network if self.average else self.G, self.data.codec)

    def samples(self, count: int = 100) -> Any:
        """The first `count` decoded samples of the run's fixed noise: uint8 images (count, H, W, C), or points."""
        labels = None if self.fixed_labels is None else self.fixed_labels[:count]
        return self.sampler.of(self.fixed_noise[:count], labels)

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
            "images_per_second": round(len(part) * self.samples_per_step / max(seconds, 1e-9), 1),
            **{name: round(float(part[:, i].mean(dtype=np.float64)), 6) for i, name in enumerate(self.CURVES)},
        }

    # ---- the state, for a checkpoint

    def state(self) -> tuple[dict[str, np.ndarray], dict]:
        """(arrays, facts) for `checkpoint.save`."""
        return checkpoint.pack(self)

    def load_state(self, path, arrays: dict[str, np.ndarray], facts: dict) -> None:
        """Takes over a state read from the checkpoint at `path`. Raises UserError if it is not this run's."""
        checkpoint.unpack(self, path, arrays, facts)

    def forget_order(self) -> None:
        """The order of this epoch's samples follows from seed and epoch, and is drawn again when it is needed."""
        self._order = None

    def warm_up(self) -> float:
        """Plays one round with throw-away networks, so that no compilation hides in the first epoch's time.

        Returns the seconds it took.
        """
        start = time.perf_counter()
        two = self.backend.to_numpy(self.data.batch(self.backend.asarray(np.arange(2))))
        names = self.data.class_names
        labels = None if self.data.labels is None else self.data.labels[:2]
        few = _Few(two, labels, names, self.data.codec)
        config = replace(self.config, batch=2, d_steps=1, steps=1, epochs=None, minutes=None)
        # A preset's networks are built again, so that little is pickled.
        self.backend.prepare(functools.partial(_play_once, config, few, self._own_networks))
        return time.perf_counter() - start


@dataclass(frozen=True)
class _Few:
    """A few samples (N, *sample_shape), as Data: all that a warm-up needs, also in a second process."""

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

    def to(self, backend: Backend) -> "_Few":
        return replace(self, samples=backend.asarray(self.samples), backend=backend)

    def batch(self, index: Array) -> Array:
        return self.samples[index]

    def fingerprint(self) -> dict:
        return {}


def _play_once(config: Config, data: Data, networks: tuple[Sequential, Sequential] | None, backend: Backend) -> None:
    """A step on other networks of the same shapes: what is compiled for it is what the training needs."""
    for _ in Training(config, data, backend, copy.deepcopy(networks)).records():
        pass
