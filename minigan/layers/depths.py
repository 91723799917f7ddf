"""Sum of small networks that see the features of a network at several depths."""

from collections.abc import Sequence
from typing import Any, Self

from minigan.backends import Array, Backend
from minigan.layers.base import Backward, Cache, Forward, Grads, Layer, TangentBackward
from minigan.layers.sequential import Sequential, by_position


class MultiDepth(Layer):
    """Sum the outputs of heads at several depths of a network, y = sum_i head_i(f_i).

    The features are f_1 = stage_1(x), f_2 = stage_2(f_1), and so on. There is one head for each
    stage, and all heads have outputs of the same shape. x is what the first stage takes, y (N, ...).
    Parameters and buffers are named by depth, "0.stage.NAME" and "0.head.NAME".
    """

    def __init__(self, stages: Sequence[Sequential], heads: Sequence[Sequential]):
        if not stages or len(stages) != len(heads):
            raise ValueError(f"expected one head for each stage, got {len(stages)} stages and {len(heads)} heads")
        self.stages, self.heads = tuple(stages), tuple(heads)

    @property
    def params(self) -> dict[str, Array]:  # type: ignore[override]  # the networks' own, so not to be set
        """The parameters of all stages and heads, by name."""
        return self._named("params")

    @property
    def buffers(self) -> dict[str, Array]:  # type: ignore[override]  # the same
        """The buffers of all stages and heads, by name."""
        return self._named("buffers")

    def _named(self, kind: str) -> dict[str, Array]:
        networks = zip(self.stages, self.heads, strict=True)
        return by_depth([(getattr(stage, kind), getattr(head, kind)) for stage, head in networks])

    @property
    def takes_labels(self) -> bool:  # type: ignore[override]  # the same
        """Whether any stage or head takes labels."""
        return any(network.takes_labels for network in self.inner())

    @property
    def backend(self) -> Backend:  # type: ignore[override]  # the same
        """The backend of the networks."""
        return self.stages[0].backend

    def forward(self, x: Array, train: bool = True, track: bool = True, labels: Array | None = None) -> Forward:
        """Return y = sum_i head_i(f_i), and the caches of (stage, head) at each depth."""
        y, caches = None, []
        for stage, head in zip(self.stages, self.heads, strict=True):
            x, stage_cache = stage.forward(x, train, track, labels)  # f_i = stage_i(f_(i-1))
            logits, head_cache = head.forward(x, train, track, labels)
            y = logits if y is None else y + logits
            caches.append((stage_cache, head_cache))
        assert y is not None  # there is at least one stage
        return y, caches

    def backward(self, dy: Array, cache: Cache, need_dx: bool = True, need_grads: bool = True) -> Backward:
        """Return dx and the gradients of all stages and heads.

        f_i has two uses. So its gradient is the sum of what head_i and stage_(i+1) pass back.
        """
        dx, grads = None, []
        for i in reversed(range(len(self.stages))):
            needed = self._needed(i, need_dx)
            df, head_grads = self.heads[i].backward(dy, cache[i][1], needed, need_grads)
            stage_grads: Grads = {}
            if needed:
                df = df if dx is None else df + dx
                below = self._needed(i - 1, need_dx)
                dx, stage_grads = self.stages[i].backward(df, cache[i][0], below, need_grads)
            grads.append((stage_grads, head_grads))
        return dx, by_depth(grads[::-1]) if need_grads else None

    def _needed(self, i: int, need_dx: bool) -> bool:
        """Return whether the gradient of f_i is needed: for x, or for a stage that learns (i = -1: that of x)."""
        return need_dx or any(stage.params for stage in self.stages[: i + 1])

    def inner(self) -> tuple[Layer, ...]:
        """Return the stage and the head of each depth."""
        return tuple(network for pair in zip(self.stages, self.heads, strict=True) for network in pair)

    def leaves(self) -> list[Layer]:
        """Return the layers of all stages and heads, in the order of `params`."""
        return [leaf for network in self.inner() for leaf in network.leaves()]

    def to(self, backend: Backend | str, dtype: Any = None) -> Self:
        """Move all networks to a backend, pack the parameters and return this layer."""
        for network in self.inner():
            network.to(backend, dtype)
        self.pack()
        return self

    # ---- second derivatives

    def tangent(self, tx: Array, cache: Cache) -> Forward:
        """Return ty = the sum of the heads' tangents, and the tangent caches of each depth."""
        ty, tangent_caches = None, []
        for stage, head, (stage_cache, head_cache) in zip(self.stages, self.heads, cache, strict=True):
            tx, stage_tangent = stage.tangent(tx, stage_cache)
            tlogits, head_tangent = head.tangent(tx, head_cache)
            ty = tlogits if ty is None else ty + tlogits
            tangent_caches.append((stage_tangent, head_tangent))
        assert ty is not None
        return ty, tangent_caches

    def tangent_backward(
        self, dy: Array | None, dty: Array, cache: Cache, tangent_cache: Cache, need_dx: bool = True
    ) -> TangentBackward:
        """Return (dx, dtx, grads) of the pair (y, ty)."""
        dx = dtx = None
        grads = []
        for i in reversed(range(len(self.stages))):
            needed = self._needed(i, need_dx)
            caches, tangents = cache[i], tangent_cache[i]
            df, dtf, head_grads = self.heads[i].tangent_backward(dy, dty, caches[1], tangents[1], needed)
            stage_grads: Grads = {}
            if needed:
                df, dtf = _sum(df, dx), _sum(dtf, dtx)
                below = self._needed(i - 1, need_dx)
                dx, dtx, stage_grads = self.stages[i].tangent_backward(df, dtf, caches[0], tangents[0], below)
            grads.append((stage_grads, head_grads))
        return dx, dtx, by_depth(grads[::-1])

    def __repr__(self) -> str:
        lines = [
            f"        depth {i}, {what}: {layer!r}\n"
            for i, pair in enumerate(zip(self.stages, self.heads, strict=True))
            for what, network in zip(("stage", "head"), pair, strict=True)
            for layer in network.layers
        ]
        return "MultiDepth(\n" + "".join(lines) + "    )"


def by_depth(tensors: list[tuple[dict[str, Array], dict[str, Array]]]) -> dict[str, Array]:
    """Merge the dictionaries of (stage, head) at each depth: [({"0.w": a}, {})] -> {"0.stage.0.w": a}."""
    return by_position(
        [
            {f"stage.{name}": value for name, value in of_stage.items()}
            | {f"head.{name}": value for name, value in of_head.items()}
            for of_stage, of_head in tensors
        ]
    )


def _sum(a: Array | None, b: Array | None) -> Array | None:
    """Return a + b, where None means zero."""
    return a if b is None else b if a is None else a + b
