"""One batch, step by step: run the steps of the game once, and keep what each layer computes, forward and backward.

    part = traced(training)            # HTML, of the present state of the training, which does not change
    trace_run(Path("runs/digits"), Path("trace.html"))

The functions of `game.py` run on copies of both networks, in which each layer is inside a `Watched`. It calls the
`forward` and `backward` of the layer, and tells a journal what came and went. Nothing is computed in another way.
"""

import ast
import functools
import inspect
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from minigan import game, penalties
from minigan.backends import Array, Backend
from minigan.files import write_atomically
from minigan.layers import Layer, Sequential
from minigan.layers.activations import Elementwise
from minigan.layers.base import Backward, Cache, Forward, Grads, TangentBackward
from minigan.report import plots
from minigan.report.page import journey, pictures
from minigan.report.page.html import Html
from minigan.report.page.journey import Numbers, Shown, Source, Step
from minigan.report.page.pictures import Picture
from minigan.training import Training, draw_noise, players

SAMPLES = 64  # of the batch, at most
SEVERAL = 8  # samples whose logits are shown
STREAM = 12  # of the random numbers of a trace
PLAYERS = {"G": "generator", "D": "discriminator"}


def trace_run(out: Path, to: Path, data: str | None = None, **backend: Any) -> None:
    """Write one batch of the run in `out` to the page `to`. `data` is the new path of data that were moved.

    Raises UserError if `out` is not the folder of a run, or if its data cannot be read.
    """
    from minigan.runs.run import restore, writing  # it imports `page`, which imports this module
    from minigan.runs.saved import read

    training = restore(read(out), data, **backend)
    with writing(to.parent):
        to.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(to, journey.page(out.resolve().name, traced(training), time.time()))


def traced(training: Training) -> Html:
    """Return one batch of a training, step by step, as a part of a page. The training does not change."""
    return journey.part(steps(training), sources_of_the_game())


def steps(training: Training) -> list[Step]:
    """Run the steps of the game once on copies of the networks, and return what happened, in this order."""
    t, c = training, training.config
    rng = np.random.default_rng([c.seed, STREAM])
    G, D = (players.on_reference(network) for network in (t.G, t.D))
    backend = G.backend
    size = max(2 * c.pack, min(c.batch, SAMPLES) // c.pack * c.pack)
    index = rng.choice(len(t.data), min(size, len(t.data) // c.pack * c.pack), replace=False)
    real = t.backend.to_numpy(t.data.batch(t.backend.asarray(index)))
    labels = t.data.labels[index] if t.classes and t.data.labels is not None else None
    fakes = len(real) if c.real_share == 0.5 else max(2 * c.pack, t.fakes_per_step * len(real) // c.batch)
    z = draw_noise(G, rng, fakes // c.pack * c.pack)
    journal = Journal(t, real, z)
    opt_g, opt_d = (
        _optimizer(t, network, optimizer, lr) for network, optimizer, lr in ((G, t.opt_g, c.lr_g), (D, t.opt_d, c.lr_d))
    )
    watch(G, journal, "G")
    watch(D, journal, "D")
    loss: Any = WatchedLoss(t.loss.to(backend), journal)
    watched: Any = WatchedOptimizer(opt_g, journal, "G"), WatchedOptimizer(opt_d, journal, "D")
    penalty = _penalty(t, journal)
    with np.errstate(over="ignore", invalid="ignore"):
        if c.simultaneous:
            game.simultaneous_step(
                G, D, watched[1], watched[0], real, z, loss, labels, penalty, matching=c.feature_matching
            )
        else:
            game.discriminator_step(G, D, watched[1], real, z, loss, labels, penalty)
            game.generator_step(G, D, watched[0], z[: len(real)], loss, labels, real, c.feature_matching)
    return journal.steps


def _optimizer(t: Training, network: Sequential, old: Any, lr: float) -> Any:
    """Return a copy of an optimizer of the training for the copy of its network. A rate of 0 becomes the first one."""
    new = t.new_optimizer(network, old.lr or lr)
    for name, array in old.state.items():
        new.state[name][...] = array if name == "t" else t.backend.to_numpy(array)
    return new


def _penalty(t: Training, journal: "Journal") -> penalties.Penalty | None:
    """Return the penalty of a training, which tells the journal its result, or None."""
    c = t.config
    if c.penalty == "none":
        return None
    rng = np.random.default_rng([c.seed, STREAM, 1])
    inner = penalties.named(c.penalty, weight=c.penalty_weight * c.penalty_every, rng=rng)

    def penalty(D: Sequential, real: Array, fake: Array, labels: Array | None) -> penalties.Value:
        journal.quiet = True  # the layers run for the penalty, and not on the way of the batch
        value, grads = inner(D, real, fake, labels)
        journal.quiet = False
        journal.penalised(c.penalty, value, grads)
        return value, grads

    return penalty


# ---------------------------------------------------------------- layers, losses and optimizers that are watched


def watch(layer: Layer, journal: "Journal", player: str) -> None:
    """Put each layer of a network inside a `Watched`, also in networks that layers contain."""
    for part in [layer] if isinstance(layer, Sequential) else _networks_in(layer):
        for inner in part.layers:
            watch(inner, journal, player)
        of, top = len(part.layers), part is layer
        part.layers = tuple(Watched(inner, journal, player, k, of, top) for k, inner in enumerate(part.layers))


def _networks_in(layer: Layer) -> list[Sequential]:
    """Return the networks that a layer has as attributes, alone or in a tuple."""
    values = [part for value in vars(layer).values() for part in (value if isinstance(value, tuple) else (value,))]
    return [value for value in values if isinstance(value, Sequential)]


class Watched(Layer):
    """A layer that does what another layer does, and tells a journal.

    It has this `place` among the layers of the network of a player, or if `top` is False, of a
    network inside one of these layers.
    """

    def __init__(self, layer: Layer, journal: "Journal", player: str, place: int, of: int, top: bool):
        self.layer, self.journal, self.player = layer, journal, player
        self.place, self.of, self.top = place, of, top

    def forward(self, x: Array, train: bool = True, track: bool = True, **labels: Array) -> Forward:
        """Return what the layer's `forward` returns."""
        self.journal.enter(self, x)
        y, cache = self.layer.forward(x, train, track, **labels)
        self.journal.forward(self, x, y)
        return y, cache

    def backward(self, dy: Array, cache: Cache, need_dx: bool = True, need_grads: bool = True) -> Backward:
        """Return what the layer's `backward` returns."""
        self.journal.enter(self, dy, back=True)
        dx, grads = self.layer.backward(dy, cache, need_dx, need_grads)
        self.journal.backward(self, dy, dx, grads)
        return dx, grads

    def tangent(self, tx: Array, cache: Cache) -> Forward:
        """Return what the layer's `tangent` returns."""
        return self.layer.tangent(tx, cache)

    def tangent_backward(
        self, dy: Array | None, dty: Array, cache: Cache, tangent_cache: Cache, need_dx: bool = True
    ) -> TangentBackward:
        """Return what the layer's `tangent_backward` returns."""
        return self.layer.tangent_backward(dy, dty, cache, tangent_cache, need_dx)

    @property
    def params(self) -> dict[str, Array]:  # type: ignore[override]  # the layer's own, so not to be set
        """The parameters of the layer."""
        return self.layer.params

    @property
    def buffers(self) -> dict[str, Array]:  # type: ignore[override]  # the same
        """The buffers of the layer."""
        return self.layer.buffers

    @property
    def takes_labels(self) -> bool:  # type: ignore[override]  # the same
        """Whether the layer takes labels."""
        return self.layer.takes_labels

    @property
    def backend(self) -> Backend:  # type: ignore[override]  # the same
        """The backend of the layer."""
        return self.layer.backend

    def inner(self) -> tuple[Layer, ...]:
        """Return the layer as a tuple."""
        return (self.layer,)

    def leaves(self) -> list[Layer]:
        """Return the layers that store the parameters."""
        return self.layer.leaves()

    def __repr__(self) -> str:
        return repr(self.layer)


class WatchedLoss:
    """A loss that does what another loss does, and tells a journal."""

    def __init__(self, loss: Any, journal: "Journal"):
        self.loss, self.journal = loss, journal

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loss, name)

    def discriminator(self, real_logits: Array, fake_logits: Array) -> tuple[Array, Array, Array]:
        """Return what the loss returns for the discriminator."""
        value, d_real, d_fake = self.loss.discriminator(real_logits, fake_logits)
        rows = {"real samples": (real_logits, d_real), "fakes": (fake_logits, d_fake)}
        self.journal.lost(self.loss, "discriminator", value, rows)
        return value, d_real, d_fake

    def generator(self, fake_logits: Array, real_logits: Array | None = None) -> tuple[Array, Array]:
        """Return what the loss returns for the generator."""
        value, d_fake = self.loss.generator(fake_logits, real_logits)
        self.journal.lost(self.loss, "generator", value, {"fakes, for G": (fake_logits, d_fake)})
        return value, d_fake


class WatchedOptimizer:
    """An optimizer that does what another one does, and tells a journal."""

    def __init__(self, optimizer: Any, journal: "Journal", player: str):
        self.optimizer, self.journal, self.player = optimizer, journal, player

    def step(self, grads: Grads) -> None:
        """Update the weights as the optimizer does."""
        before = self.optimizer.network.pack().copy()
        self.optimizer.step(grads)
        self.journal.updated(self, grads, before, self.optimizer.network.pack())


# ---------------------------------------------------------------- the journal


class Journal:
    """Keeps what happens on the way of a batch, as steps that can be drawn."""

    def __init__(self, training: Training, real: np.ndarray, z: np.ndarray):
        self.training, self.real, self.z = training, real, z
        self.steps: list[Step] = []
        self.quiet = False
        self.what = {id(real): "real samples"}  # of arrays that enter a network
        self.kept: list[Any] = [real]  # so that no other array gets the same id
        self.last: tuple[int | None, int] = (None, 0)  # the id of the last result, and its step
        self.chapter, self.way = "", ("", False)

    def enter(self, layer: Watched, x: Array, back: bool = False) -> None:
        """Begin a new chapter if x enters the network of a player, forward or on the way back."""
        player, what = layer.player, self.what.get(id(x), "fakes")
        if self.quiet or not layer.top or (id(x) == self.last[0] and self.way == (player, back)):
            return
        self.way = player, back
        if back:
            self.chapter = "Back through G" if player == "G" else f"Back through D: {what}"
        else:
            self.chapter = "G draws fakes from noise" if player == "G" else f"D judges {what}"

    def forward(self, layer: Watched, x: Array, y: Array) -> None:
        """Keep what a layer computed from x."""
        self._layer(layer, {"x": x, "y": y}, "forward", {})

    def backward(self, layer: Watched, dy: Array, dx: Array | None, grads: Grads | None) -> None:
        """Keep what a layer computed from dy."""
        self._layer(layer, {"dy": dy} | ({} if dx is None else {"dx": dx}), "back", grads or {})

    def _layer(self, layer: Watched, arrays: dict[str, Array], kind: str, grads: Grads) -> None:
        if self.quiet:
            return
        shown = []
        for name, array in arrays.items():
            if id(array) == self.last[0]:
                shown.append(Shown(name, None, self.last[1]))  # drawn in the step before
            else:
                shown.append(Shown(name, self._picture(array, kind == "back"), None))
        numbers = [Numbers.of(name, array) for name, array in arrays.items()]
        for name, grad in grads.items():
            numbers += [Numbers.of(name, layer.params[name]), Numbers.of(f"d{name}", grad)]
        result = list(arrays.values())[-1]
        where = f"{PLAYERS[layer.player]}, layer {layer.place + 1} of {layer.of}"
        where += "" if layer.top else " inside another layer"
        inner = layer.layer
        note = ""
        if kind == "back":
            note = "" if "dx" in arrays else "dx is not needed, and not computed. "
            note += "" if grads or not inner.params else "The gradients of the parameters are not needed here."
        parts = [inner, *(part for part in inner.inner()[:1] if not _networks_in(inner))]
        self._keep(
            Step(
                chapter=self.chapter,
                title=repr(inner).partition("(\n")[0],
                kind=kind,
                where=where,
                says=[text for part in parts for text in _docs(part, kind)],
                sources=[_source(part, kind) for part in parts],
                shown=shown,
                numbers=numbers,
                note=note,
                size=_rms(result),
            ),
            result,
        )

    def lost(self, loss: Any, player: str, value: Array, rows: dict[str, tuple[Array, Array]]) -> None:
        """Keep the result of a loss: `rows` maps samples to their logits and the gradients of these."""
        shown, numbers = [], [Numbers.of("loss", np.asarray(value))]
        for what, (logits, gradient) in rows.items():
            self.what[id(gradient)] = what
            self.kept.append(gradient)
            numbers += [Numbers.of(f"logits of {what}", logits), Numbers.of(f"gradient of {what}", gradient)]
            shown.append(
                Shown(f"gradients of the logits of {what}", pictures.heat_map(gradient[:SEVERAL].T, True), None)
            )
        few = {
            what: list(zip(logits[:SEVERAL, 0].tolist(), gradient[:SEVERAL, 0].tolist(), strict=True))
            for what, (logits, gradient) in rows.items()
        }
        method = getattr(type(loss), player)
        self.chapter = f"The loss of the {player}"
        self._keep(
            Step(
                chapter=self.chapter,
                title=f"{type(loss).__name__}: {float(value):.4f}",
                kind="other",
                where=f"from logits to the loss of the {player}, and to the gradients of the logits",
                says=[_first(type(loss)), _first(method)],
                sources=[_source_of(method)],
                shown=shown,
                numbers=numbers,
                logits=few,
                size=_rms(np.concatenate([gradient for _, gradient in rows.values()])),
            ),
            None,
        )

    def penalised(self, name: str, value: Array, grads: Grads) -> None:
        """Keep the result of a penalty."""
        if not grads:  # all of D is frozen
            return
        method = getattr(penalties, name.replace("-", "_").partition("+")[0])
        flat = np.concatenate([grad.ravel() for grad in grads.values()])
        self.chapter = "The gradient penalty"
        numbers = [Numbers.of("penalty", np.asarray(value)), Numbers.of("gradients of all weights", flat)]
        self._keep(
            Step(
                chapter=self.chapter,
                title=f"{name}: {float(value):.4f}",
                kind="other",
                where="on the gradient of the logits with respect to the samples",
                says=[_first(method)],
                sources=[_source_of(method)],
                numbers=numbers,
                size=_rms(flat),
            ),
            None,
        )

    def updated(self, watched: WatchedOptimizer, grads: Grads, before: Array, after: Array) -> None:
        """Keep what an optimizer did to all weights of a network; nothing if all of them are frozen."""
        if not grads:
            return
        optimizer, flat = watched.optimizer, np.concatenate([grad.ravel() for grad in grads.values()])
        self.chapter = f"The optimizer updates {watched.player}"
        named = {"w, all weights": before, "dw, all gradients": flat, "change of w": after - before}
        self._keep(
            Step(
                chapter=self.chapter,
                title=f"{type(optimizer).__name__}, learning rate {optimizer.lr:.3g}",
                kind="other",
                where=f"all {before.size:,} weights of the {PLAYERS[watched.player]}",
                says=[_first(type(optimizer)), _first(type(optimizer).step)],
                sources=[_source_of(type(optimizer)._update)],
                numbers=[Numbers.of(name, array) for name, array in named.items()],
                size=_rms(flat),
            ),
            None,
        )

    def _keep(self, step: Step, result: Array | None) -> None:
        step.game = _line_of_the_game()
        self.kept.append(result)
        self.last = (None if result is None else id(result)), len(self.steps)
        self.steps.append(step)

    def _picture(self, array: Array, signed: bool) -> Picture:
        """Return an array as a picture: samples as they look, anything else as a heat map."""
        t = self.training
        is_sample = array.shape[1:] == tuple(t.data.sample_shape) and np.abs(array[:SEVERAL]).max() <= 1
        if not signed and t.data.codec.view == "grid" and is_sample:
            images = t.data.codec.decode(np.nan_to_num(array[:SEVERAL]))
            return pictures.of_array(plots.grid(images, len(images), 1))
        return pictures.heat_map(array, signed)


def _rms(array: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(array, dtype=np.float64)))) if array.size else 0.0


def _docs(layer: Layer, kind: str) -> list[str]:
    """Return what a layer is, and what it computes in this direction, as its docstrings say."""
    return [_first(type(layer)), _first(_method(layer, kind))]


def _method(layer: Layer, kind: str) -> Any:
    """Return the function that computes: `forward`, `backward`, or the `gradient` of a layer without parameters."""
    if kind == "forward":
        return type(layer).forward
    own = isinstance(layer, Elementwise) and type(layer).backward is Elementwise.backward
    return type(layer).gradient if own else type(layer).backward  # type: ignore[attr-defined]  # of Elementwise


def _first(this: Any) -> str:
    """Return the first paragraph of a docstring."""
    return (inspect.getdoc(this) or "").partition("\n\n")[0]


def _source(layer: Layer, kind: str) -> Source:
    return _source_of(_method(layer, kind))


@functools.cache
def _source_of(function: Any) -> Source:
    """Return the lines of a function, with its file and line numbers."""
    lines, first = inspect.getsourcelines(function)
    parts = Path(inspect.getsourcefile(function) or "").parts
    inside = parts[len(parts) - parts[::-1].index("minigan") - 1 :] if "minigan" in parts else parts[-1:]
    return Source(function.__qualname__, "/".join(inside), first, inspect.cleandoc("\n" + "".join(lines)))


def _line_of_the_game() -> tuple[str, int, int]:
    """Return the function of game.py that runs, and the first and the last line of its statement."""
    frame = sys._getframe(1)
    while frame.f_code.co_filename != game.__file__:
        assert frame.f_back is not None  # the steps of the game call everything that is watched
        frame = frame.f_back
    first, last = _statements().get(frame.f_lineno, (frame.f_lineno, frame.f_lineno))
    return frame.f_code.co_name, first, last


@functools.cache
def _statements() -> dict[int, tuple[int, int]]:
    """Return for each line of game.py the lines of its innermost statement."""
    found: dict[int, tuple[int, int]] = {}
    for node in ast.walk(ast.parse(inspect.getsource(game))):  # outer statements come first
        if isinstance(node, ast.stmt):
            end = node.end_lineno or node.lineno
            found |= dict.fromkeys(range(node.lineno, end + 1), (node.lineno, end))
    return found


def sources_of_the_game() -> dict[str, Source]:
    """Return the functions of game.py, by name."""
    functions = [this for this in vars(game).values() if inspect.isfunction(this) and this.__module__ == game.__name__]
    return {function.__name__: _source_of(function) for function in functions}
