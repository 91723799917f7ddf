"""Checks of the layers: gradients, values, the layer contract, running statistics and initial weights."""

import copy
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from minigan import layers
from minigan.checking import gradcheck
from minigan.checking.derivatives import EXACT
from minigan.checking.frozen_checks import foldable, frozen_cases
from minigan.checking.gradcheck import randomize
from minigan.checking.random_checks import plain_noise
from minigan.checking.rows import Row, compare, fact
from minigan.checking.sequence_checks import plain_sequence, sequence_cases
from minigan.checking.table_checks import plain_table, table_cases
from minigan.layers import (
    BatchNorm,
    Concatenate,
    Conv1d,
    Conv2d,
    ConvTranspose2d,
    Dense,
    Dropout,
    Flatten,
    Frozen,
    GaussianNoise,
    Identity,
    LayerNorm,
    LeakyReLU,
    MinibatchStdDev,
    MultiDepth,
    OneHot,
    Pack,
    Projection,
    ReLU,
    Reshape,
    Sequential,
    Sigmoid,
    Softplus,
    SpectralNorm,
    Tanh,
    Upsample,
    WeightNorm,
    fuse,
)


@dataclass
class Cases:
    """Which cases `layer_cases` yields, all if `chosen` is None, and the name of the `current` one."""

    chosen: frozenset[str] | None = None
    current: str | None = None


CASES = Cases()  # of this process; `planted` chooses the cases that a mistake can change


def layer_cases(backend, rng, dtype=np.float64) -> Iterator[tuple[str, layers.Layer, tuple, dict]]:
    """Yield (what, layer, shape of x, keyword arguments of forward) for every kind of layer in every mode.

    The parameters are random. `rng` starts again with each case, so that a case has the same numbers whichever others
    run.
    """
    seed = int(rng.integers(2**32))
    labels = backend.asarray(np.array([2, 0, 1, 1]))
    for what, layer, shape, kwargs in (
        ("Dense", Dense(5, 3, rng=rng), (4, 5), {}),
        ("Dense, no bias", Dense(5, 3, bias=False, rng=rng), (4, 5), {}),
        ("Conv2d 3x3", Conv2d(2, 3, 3, pad=1, rng=rng), (2, 4, 3, 2), {}),
        ("Conv2d 4x4 stride 2", Conv2d(3, 2, 4, stride=2, pad=1, rng=rng), (2, 5, 4, 3), {}),
        ('Conv2d 5x5 stride 2 "same"', Conv2d(1, 3, 5, stride=2, pad=(1, 2), bias=False, rng=rng), (2, 6, 4, 1), {}),
        ("ConvTranspose2d 4x4 stride 2", ConvTranspose2d(3, 2, 4, stride=2, pad=1, rng=rng), (2, 3, 2, 3), {}),
        (
            "ConvTranspose2d 3x3 stride 3",
            ConvTranspose2d(2, 3, 3, stride=3, pad=(0, 1), output_pad=2, rng=rng),
            (2, 2, 3, 2),
            {},
        ),
        ("SpectralNorm of Dense", SpectralNorm(Dense(5, 3, rng=rng), rng=rng), (4, 5), {}),
        ("SpectralNorm of Conv2d", SpectralNorm(Conv2d(2, 3, 3, pad=1, rng=rng), rng=rng), (2, 3, 3, 2), {}),
        ("SpectralNorm of Projection", SpectralNorm(Projection(5, 3, rng=rng), rng=rng), (4, 5), {"labels": labels}),
        ("WeightNorm of Dense", WeightNorm(Dense(5, 3, rng=rng), eps=1e-3), (4, 5), {}),
        ("WeightNorm of Dense, no bias", WeightNorm(Dense(5, 3, bias=False, rng=rng)), (4, 5), {}),
        ("WeightNorm of Conv2d", WeightNorm(Conv2d(2, 3, 3, pad=1, rng=rng)), (2, 3, 3, 2), {}),
        ("WeightNorm of ConvTranspose2d", WeightNorm(ConvTranspose2d(2, 2, 4, stride=2, rng=rng)), (2, 2, 3, 2), {}),
        ("BatchNorm of images", BatchNorm(3, eps=1e-3), (3, 2, 2, 3), {}),
        ("BatchNorm of rows", BatchNorm(4), (5, 4), {}),
        ("BatchNorm, running statistics", BatchNorm(4, eps=1e-3), (5, 4), {"train": False}),
        ("LayerNorm of images", LayerNorm(3, eps=1e-3), (3, 2, 2, 3), {}),
        ("LayerNorm of rows", LayerNorm(4), (5, 4), {}),
        ("OneHot", OneHot(3), (4, 5), {"labels": labels}),
        ("Projection", Projection(5, 3, rng=rng), (4, 5), {"labels": labels}),
        ("MinibatchStdDev", MinibatchStdDev(3, strength=2.0), (4, 6), {"labels": labels}),
        ("MinibatchStdDev of the whole batch", MinibatchStdDev(strength=2.0), (4, 5), {}),
        ("LeakyReLU", LeakyReLU(0.3), (4, 5), {}),
        ("ReLU", ReLU(), (4, 5), {}),
        ("Tanh", Tanh(), (4, 5), {}),
        ("Sigmoid", Sigmoid(), (4, 5), {}),
        ("Softplus", Softplus(), (4, 5), {}),
        ("Dropout", Dropout(0.4, rng=rng), (4, 9), {}),
        ("Dropout, not training", Dropout(0.4, rng=rng), (4, 5), {"train": False}),
        ("GaussianNoise", GaussianNoise(0.5, rng=rng), (3, 5), {}),
        ("GaussianNoise, not training", GaussianNoise(0.5, rng=rng), (4, 5), {"train": False}),
        ("GaussianNoise, std 0", GaussianNoise(0, rng=rng), (4, 5), {}),
        ("Reshape", Reshape(2, 3, 2), (2, 12), {}),
        ("Flatten", Flatten(), (2, 3, 2, 2), {}),
        ("Upsample", Upsample(3), (2, 2, 3, 2), {}),
        ("Pack of images", Pack(2), (4, 2, 3, 2), {}),
        ("Pack of sequences", Pack(3), (6, 3, 2), {}),
        ("Pack of rows", Pack(3), (6, 4), {}),
        (
            "Sequential",
            Sequential(Reshape(2, 2, 2), Conv2d(2, 3, 3, pad=1, rng=rng), Tanh(), Flatten(), Dense(12, 2, rng=rng)),
            (3, 8),
            {},
        ),
        (
            "Sequential with labels",
            Sequential(OneHot(3), Dense(8, 4, rng=rng), LeakyReLU(0.2), Projection(4, 3, rng=rng)),
            (4, 5),
            {"labels": labels},
        ),
        ("Identity", Identity(), (4, 5), {}),
        *frozen_cases(backend, rng),
        *table_cases(backend, rng),
        *((f"fused {what}", network, shape, {}) for what, network, shape in foldable(rng)),
        *((f"fused {what}", network, shape, kwargs) for what, network, shape, kwargs in fusable(rng)),
        *sequence_cases(rng),
    ):
        if CASES.chosen is not None and what not in CASES.chosen:
            continue
        CASES.current = what
        rng.bit_generator.state = np.random.default_rng([seed, zlib.crc32(what.encode())]).bit_generator.state
        layer = randomize(layer.to(backend, dtype), rng)
        yield what, fuse(layer) if isinstance(layer, Sequential) and what.startswith("fused") else layer, shape, kwargs
    CASES.current = None


def fusable(rng) -> Iterator[tuple[str, Sequential, tuple, dict]]:
    """Yield (what, network, shape of x, keyword arguments of forward) for each pair of layers that `fuse` merges."""
    for activation in (LeakyReLU(0.3), ReLU()):
        for layer, shape, kwargs in (
            (Dense(5, 3, rng=rng), (4, 5), {}),
            (Conv2d(2, 3, 3, pad=1, rng=rng), (2, 3, 3, 2), {}),
            (ConvTranspose2d(3, 2, 4, stride=2, pad=1, rng=rng), (2, 3, 2, 3), {}),
            (SpectralNorm(Dense(5, 3, rng=rng), rng=rng), (4, 5), {}),
            (SpectralNorm(Conv2d(2, 3, 3, pad=1, rng=rng), rng=rng), (2, 3, 3, 2), {}),
            (WeightNorm(Dense(5, 3, rng=rng)), (4, 5), {}),
            (WeightNorm(ConvTranspose2d(3, 2, 4, stride=2, pad=1, rng=rng)), (2, 3, 2, 3), {}),
            (BatchNorm(3, eps=1e-3), (3, 2, 2, 3), {}),
            (BatchNorm(3, eps=1e-3), (3, 2, 2, 3), {"train": False}),
            (Conv1d(2, 3, 3, stride=2, pad=1, rng=rng), (2, 5, 2), {}),
        ):
            mode = ", running statistics" if kwargs else ""
            yield f"{layer!r} + {activation!r}{mode}", Sequential(layer, activation), shape, kwargs


def fused_equals_plain(backend) -> Iterator[Row]:
    """Check that a fused pair of layers gives the same results as the two layers, to 1e-12.

    The results are y, the gradients, the running statistics and the second derivatives.
    """
    rng = np.random.default_rng(17)
    for what, plain, shape, kwargs in fusable(rng):
        randomize(plain.to(backend, np.float64), rng)
        fused = fuse(copy.deepcopy(plain))
        merged = type(fused.layers[1]) is Identity and fused.params.keys() == plain.params.keys()
        yield fact(what, "merged", merged, "the two layers were not merged, or a parameter has another name")
        x, tx = (backend.asarray(rng.standard_normal(shape)) for _ in range(2))
        results = []
        for network in (plain, fused):
            draw = np.random.default_rng(18)
            y, cache = network.forward(x, **kwargs)
            dy, dty = (backend.asarray(draw.standard_normal(y.shape)) for _ in range(2))
            dx, grads = network.backward(dy, cache)
            only_dx, no_grads = network.backward(dy, cache, need_grads=False)
            no_dx, only_grads = network.backward(dy, cache, need_dx=False)
            ty, tangent_cache = network.tangent(tx, cache)
            second = network.tangent_backward(dy, dty, cache, tangent_cache)
            found = {"y": y, "dx": dx, "frozen dx": only_dx, "ty": ty, "tangent dx": second[0], "dtx": second[1]}
            found |= {f"d{name}": g for name, g in grads.items()}
            found |= {f"d{name} alone": g for name, g in only_grads.items()}
            found |= {f"tangent d{name}": g for name, g in second[2].items()}
            found |= {f"buffer {name}": b for name, b in network.buffers.items()}
            results.append({name: backend.to_numpy(a) for name, a in found.items()})
            yield fact(what, "not needed", no_grads is None and no_dx is None, "an unneeded gradient is not None")
        for name, expected in results[0].items():
            yield compare(what, name, "plain layers", results[1][name], expected, 1e-12)
    yield from unfusable(backend)


def unfusable(backend) -> Iterator[Row]:
    """Check that `fuse` leaves other layers unchanged."""
    rng = np.random.default_rng(22)
    for layer in (
        Dense(3, 2, bias=False, rng=rng),
        SpectralNorm(Dense(3, 2, bias=False, rng=rng), rng=rng),
        WeightNorm(Dense(3, 2, bias=False, rng=rng)),
        Tanh(),
    ):
        network = Sequential(layer, LeakyReLU(0.2)).to(backend)
        unchanged = fuse(network).layers == network.layers
        yield fact(f"{layer!r} + LeakyReLU", "not merged", unchanged, "layers without a fused pass were merged")


def layer_gradients(backend) -> Iterator[Row]:
    """Check dx and the gradient of every parameter. The reference backend is also checked by complex step."""
    rng = np.random.default_rng(1)
    for what, layer, shape, kwargs in layer_cases(backend, rng):
        x = rng.standard_normal(shape)
        for method in ("central", "complex") if backend.takes_complex else ("central",):
            yield from gradcheck.check_layer(layer, x, **kwargs, method=method, subject=what, coordinates=24, rng=rng)


def layer_contract(backend) -> Iterator[Row]:
    """Check the layer contract.

    float32 in gives float32 out. A gradient that is not needed is None, and its absence does not change the other
    gradients. x and dy are not written to.
    """
    rng = np.random.default_rng(2)
    for what, layer, shape, kwargs in layer_cases(backend, rng, np.float32):
        x = backend.asarray(rng.standard_normal(shape), dtype=np.float32)
        y, cache = layer.forward(x, **kwargs)
        dy = backend.asarray(rng.standard_normal(y.shape), dtype=np.float32)
        x_before, dy_before = backend.to_numpy(x).copy(), backend.to_numpy(dy).copy()
        dx, grads = layer.backward(dy, cache)
        dtypes = {str(a.dtype) for a in (y, dx, *grads.values())}
        yield fact(what, "dtype", dtypes == {"float32"}, f"float32 in, {', '.join(sorted(dtypes))} out")
        untouched = np.array_equal(backend.to_numpy(x), x_before) and np.array_equal(backend.to_numpy(dy), dy_before)
        yield fact(what, "inputs", untouched, "x or dy was written to")
        dx_only, no_grads = layer.backward(dy, cache, need_grads=False)
        no_dx, grads_only = layer.backward(dy, cache, need_dx=False)
        omitted = no_grads is None and no_dx is None and grads_only.keys() == grads.keys() == layer.params.keys()
        yield fact(what, "not needed", omitted, "an unneeded gradient is not None")
        same = [(dx, dx_only), *((grads[name], grads_only[name]) for name in grads)]
        alike = all(np.array_equal(*map(backend.to_numpy, pair)) for pair in same)
        yield fact(what, "frozen", alike, "a gradient depends on which other gradients are needed")


def second_derivative_contract(backend) -> Iterator[Row]:
    """Check that `tangent` is the adjoint of `backward`, and compare `tangent_backward` with numerical derivatives.

    The numerical derivatives are those of <dy, y> + <dty, ty>. `tangent_backward` is additive in
    (dy, dty), a dy of None counts as zero, and a gradient that is not needed is None.
    """
    rng = np.random.default_rng(23)
    for what, layer, shape, kwargs in layer_cases(backend, rng):
        if any(type(inner).tangent is layers.Layer.tangent for inner in (layer, *layer.inner())):
            continue  # the layer, or a layer inside it, has no rule for second derivatives
        x, tx = (backend.asarray(rng.standard_normal(shape)) for _ in range(2))
        y, cache = layer.forward(x, **kwargs)
        dy, dty = (backend.asarray(rng.standard_normal(y.shape)) for _ in range(2))
        dx, grads = layer.backward(dy, cache)
        ty, tangent_cache = layer.tangent(tx, cache)
        left, right = (float((a * b).sum()) for a, b in ((dy, ty), (dx, tx)))
        yield compare(what, "<dy,ty>=<dx,tx>", "adjoint", left, right, EXACT)
        both = layer.tangent_backward(dy, dty, cache, tangent_cache)
        alone = layer.tangent_backward(None, dty, cache, tangent_cache)
        grads_only = layer.tangent_backward(dy, dty, cache, tangent_cache, need_dx=False)
        expected = dx if alone[0] is None else alone[0] + dx
        yield compare(what, "dx", "sum", backend.to_numpy(both[0]), backend.to_numpy(expected), EXACT)
        yield compare(what, "dtx", "sum", backend.to_numpy(both[1]), backend.to_numpy(alone[1]), EXACT)
        keys = list(both[2]) == list(alone[2]) == list(grads_only[2]) == list(layer.params)
        omitted = grads_only[0] is None and grads_only[1] is None
        yield fact(what, "not needed", keys and omitted, "dx or dtx is not None, or the keys differ")
        for name, g in grads.items():
            whole, apart, without_dx = (
                backend.to_numpy(v) for v in (both[2][name], alone[2][name] + g, grads_only[2][name])
            )
            yield compare(what, name, "sum", whole, apart, EXACT)
            yield compare(what, name, "alone", without_dx, whole, EXACT)
        yield from second_derivatives(what, layer, kwargs, {"x": x, "tx": tx}, {"y": dy, "ty": dty})


def second_derivatives(what, layer, kwargs, variables: dict, cotangents: dict) -> list[Row]:
    """Compare (dx, dtx, grads) of `tangent_backward` with numerical derivatives of <dy, y> + <dty, ty>."""
    backend, restore = layer.backend, gradcheck.save_buffers(layer)
    x, tx, dy, dty = variables["x"], variables["tx"], cotangents["y"], cotangents["ty"]

    def value():
        restore()
        y, cache = layer.forward(x, **kwargs)
        return backend.xp.stack([dy * y, dty * layer.tangent(tx, cache)[0]])

    def gradient():
        restore()
        _, cache = layer.forward(x, **kwargs)
        _, tangent_cache = layer.tangent(tx, cache)
        dx, dtx, grads = layer.tangent_backward(dy, dty, cache, tangent_cache)
        return {"x": dx, "tx": dtx, **grads}

    tensors = {**variables, **layer.params}
    return gradcheck.check(value, gradient, tensors, subject=what, backend=backend, coordinates=2, directions=1)


def forward_values(backend) -> Iterator[Row]:
    """Compare the output of each layer with plain loops and formulas."""
    rng = np.random.default_rng(3)
    for what, layer, shape, kwargs in layer_cases(backend, rng):
        if isinstance(layer, Dropout | Sequential):
            continue
        x = rng.standard_normal(shape)
        expected = plain_forward(layer, x, **kwargs)
        y, _ = layer.forward(backend.asarray(x), **kwargs)
        # Spectral norm adds 1e-12 under its square root.
        tolerance = 10 * EXACT if isinstance(layer, SpectralNorm) else EXACT
        yield compare(what, "y", "plain loops", backend.to_numpy(y), expected, tolerance)


def plain_forward(layer, x: np.ndarray, train: bool = True, labels=None) -> np.ndarray:
    """Compute the layer's y slowly, directly from its definition."""
    if isinstance(layer, SpectralNorm):
        inner = copy.copy(layer.layer)
        w = layer.backend.to_numpy(layer.params["w"])
        sigma = np.linalg.svd(w.reshape(-1, w.shape[-1]), compute_uv=False)[0]
        inner.params = layer.params | {"w": layer.params["w"] / sigma}
        return plain_forward(inner, x, train, labels)
    if isinstance(layer, WeightNorm):
        inner, axis = copy.copy(layer.layer), 2 if isinstance(layer.layer, ConvTranspose2d) else -1
        g, v = (layer.backend.to_numpy(layer.params[name]) for name in "gv")
        of_outputs = zip(g, np.moveaxis(v, axis, 0), strict=True)
        w = np.array([g_o * v_o / math.sqrt(np.sum(v_o**2) + layer.eps) for g_o, v_o in of_outputs])
        inner.params = layer.params | {"w": layer.backend.asarray(np.moveaxis(w, 0, axis))}
        return plain_forward(inner, x, train, labels)
    if isinstance(layer, Frozen):  # in evaluation mode, whatever the caller asks for
        return plain_forward(layer.layer, x, False, labels)
    if isinstance(layer, MultiDepth):
        total = np.zeros(())
        for stage, head in zip(layer.stages, layer.heads, strict=True):
            x = plain_forward(stage, x, train, labels)
            total = total + plain_forward(head, x, train, labels)
        return total
    if isinstance(layer, Sequential):
        for inner in layer.layers:
            x = plain_forward(inner, x, train, labels)
        return x
    if isinstance(layer, Concatenate):
        return np.column_stack([plain_forward(layer.network, x, train, labels), x])
    if isinstance(layer, Dropout) and not train:
        return x
    for other in (plain_table(layer, x, labels), plain_sequence(layer, x)):
        if other is not None:
            return other
    if isinstance(layer, OneHot):
        chosen = layer.backend.to_numpy(labels)
        return np.array(
            [[*row, *(float(c == label) for c in range(layer.classes))] for row, label in zip(x, chosen, strict=True)]
        )
    p, buffers = ({k: layer.backend.to_numpy(v) for k, v in d.items()} for d in (layer.params, layer.buffers))
    if isinstance(layer, Dense):
        y = [
            [sum(x[n, i] * p["w"][i, o] for i in range(layer.n_in)) for o in range(layer.n_out)] for n in range(len(x))
        ]
        return np.array(y) + p.get("b", 0.0)
    if isinstance(layer, Projection):
        chosen = [int(label) for label in labels]
        return x @ p["w"] + p["b"] + np.array([[row @ p["e"][c]] for row, c in zip(x, chosen, strict=True)])
    if isinstance(layer, MinibatchStdDev):
        chosen = np.zeros(len(x)) if labels is None else layer.backend.to_numpy(labels)
        std = np.array([np.sqrt(np.var(x[chosen == label], axis=0) + layer.eps) for label in chosen])
        means = [std[:, c :: layer.channels].mean(axis=1) for c in range(layer.channels)]
        return np.column_stack([x, *(layer.strength * mean for mean in means)])
    if isinstance(layer, Conv2d):
        return plain_conv(x, p["w"], layer.stride, layer.pad) + p.get("b", 0.0)
    if isinstance(layer, ConvTranspose2d):
        return plain_conv_transpose(x, p["w"], layer.stride, layer.pad, layer.output_pad) + p.get("b", 0.0)
    if isinstance(layer, BatchNorm):
        rows = x.reshape(-1, layer.channels)
        mean, var = (np.mean(rows, 0), np.var(rows, 0)) if train else (buffers["mean"], buffers["var"])
        return p["gamma"] * (x - mean) / np.sqrt(var + layer.eps) + p["beta"]
    if isinstance(layer, LayerNorm):
        xhat = [(sample - np.mean(sample)) / np.sqrt(np.var(sample) + layer.eps) for sample in x]
        return p["gamma"] * np.array(xhat) + p["beta"]
    if isinstance(layer, LeakyReLU | ReLU):
        return np.maximum(x, 0) + layer.slope * np.minimum(x, 0)
    if isinstance(layer, Tanh):
        return np.sinh(x) / np.cosh(x)
    if isinstance(layer, Sigmoid):
        return 1 / (1 + np.exp(-x))
    if isinstance(layer, Softplus):
        return np.log(1 + np.exp(x))
    if isinstance(layer, Upsample):
        return np.kron(x, np.ones((1, layer.factor, layer.factor, 1)))
    if isinstance(layer, GaussianNoise):
        return x + layer.std * plain_noise(layer, np.arange(x.size)).reshape(x.shape) if train else x
    if isinstance(layer, Pack):
        return np.array([np.concatenate(list(x[n : n + layer.m]), -1) for n in range(0, len(x), layer.m)])
    if not isinstance(layer, Flatten | Identity | Reshape):
        raise NotImplementedError(f"plain_forward does not know {layer!r}: add its formula")
    shape = layer.shape if isinstance(layer, Reshape) else (-1,)
    return np.stack([np.array(list(sample.flat)).reshape(shape) for sample in x])


def plain_conv(x, w, stride, pad) -> np.ndarray:
    """Compute the convolution that `minigan.backends` defines, one product at a time."""
    (N, H, W, _), (K, _, _, O), (before, after) = x.shape, w.shape, pad
    P, Q = ((size + before + after - K) // stride + 1 for size in (H, W))
    y = np.zeros((N, P, Q, O), x.dtype)
    for n, p, q, i, j in np.ndindex(N, P, Q, K, K):
        h, v = p * stride + i - before, q * stride + j - before
        if 0 <= h < H and 0 <= v < W:
            y[n, p, q] += x[n, h, v] @ w[i, j]
    return y


def plain_conv_transpose(x, w, stride, pad, output_pad) -> np.ndarray:
    """Compute the transposed convolution: for each pixel of x, add the kernel multiplied by this pixel to y."""
    (N, H, W, _), (K, _, O, _), (before, after) = x.shape, w.shape, pad
    P, Q = (stride * (size - 1) + K - before - after + output_pad for size in (H, W))
    y = np.zeros((N, P, Q, O), x.dtype)
    for n, h, v, i, j in np.ndindex(N, H, W, K, K):
        p, q = h * stride + i - before, v * stride + j - before
        if 0 <= p < P and 0 <= q < Q:
            y[n, p, q] += w[i, j] @ x[n, h, v]
    return y


def adjointness(backend) -> Iterator[Row]:
    """Check that <conv(x), y> = <x, conv_transpose(y)> if both layers have the same weight."""
    rng = np.random.default_rng(4)
    for K, stride, pad, H in ((3, 1, 1, 5), (4, 2, 1, 6), (5, 2, (1, 2), 6), (5, 3, 0, 9)):
        conv = Conv2d(3, 5, K, stride=stride, pad=pad, bias=False, rng=rng).to(backend, np.float64)
        output_pad = (H + sum(conv.pad) - K) % stride  # the pixels that the last window does not reach
        transpose = ConvTranspose2d(5, 3, K, stride=stride, pad=pad, output_pad=output_pad, bias=False, rng=rng)
        transpose.to(backend, np.float64)
        transpose.params["w"] = conv.params["w"]
        x = rng.standard_normal((2, H, H, 3))
        conv_x = backend.to_numpy(conv.forward(backend.asarray(x))[0])
        y = rng.standard_normal(conv_x.shape)
        transpose_y = backend.to_numpy(transpose.forward(backend.asarray(y))[0])
        left, right = (conv_x * y).sum(), (x * transpose_y).sum()
        yield compare(f"{conv!r}", "<Cx,y>=<x,C'y>", "adjoint", left, right, EXACT)


def batch_statistics(backend) -> Iterator[Row]:
    """Check that running = momentum * running + (1 - momentum) * batch with train=True and track=True.

    Otherwise the running statistics do not change.
    """
    rng = np.random.default_rng(5)
    layer = randomize(BatchNorm(3, momentum=0.8).to(backend, np.float64), rng)
    x = rng.standard_normal((6, 2, 2, 3))
    before = {name: backend.to_numpy(b).copy() for name, b in layer.buffers.items()}
    after = {
        "mean": 0.8 * before["mean"] + 0.2 * x.mean((0, 1, 2)),
        "var": 0.8 * before["var"] + 0.2 * x.var((0, 1, 2)),
    }
    for mode, expected in (({"train": False}, before), ({"track": False}, before), ({}, after)):
        layer.forward(backend.asarray(x), **mode)
        for name, b in layer.buffers.items():
            yield compare(
                f"BatchNorm {mode or 'training'}",
                f"running {name}",
                "formula",
                backend.to_numpy(b),
                expected[name],
                EXACT,
            )


def initial_weights(backend) -> Iterator[Row]:
    """Check the mean and standard deviation of initial weights, and that a new WeightNorm changes no result."""
    n, n_in, n_out = 300 * 200, 300, 200
    for what, init, std in (
        ("normal(0.02)", layers.normal(0.02), 0.02),
        ("glorot_uniform", layers.glorot_uniform, math.sqrt(2 / (n_in + n_out))),
        ("he_normal", layers.he_normal, math.sqrt(2 / n_in)),
    ):
        layer = Dense(n_in, n_out, rng=np.random.default_rng(7), init=init).to(backend)
        w = backend.to_numpy(layer.params["w"]).astype(np.float64)
        yield compare(what, "std of w", "statistics", w.std(), std, 4 / math.sqrt(2 * n))
        yield compare(what, "mean of w", "statistics", 1 + w.mean() / std, 1.0, 4 / math.sqrt(n))
    fans = []

    def zeros(rng, shape, *fan):
        fans.append(fan)
        return np.zeros(shape)

    for kind in (Conv2d, ConvTranspose2d):
        kind(2, 3, 5, rng=np.random.default_rng(7), init=zeros)
    yield fact("Conv2d, ConvTranspose2d", "fans", fans == [(50, 75)] * 2, f"fan in and out are {fans}, not (50, 75)")
    rng = np.random.default_rng(8)
    for plain in (Dense(5, 3, rng=rng), Conv2d(5, 3, 2, rng=rng), ConvTranspose2d(5, 3, 2, rng=rng)):
        x = backend.asarray(rng.standard_normal((4, 5) if isinstance(plain, Dense) else (2, 2, 3, 5)))
        normed, _ = WeightNorm(plain).to(backend, np.float64).forward(x)
        y, _ = plain.to(backend, np.float64).forward(x)
        normed, y = map(backend.to_numpy, (normed, y))
        yield compare(f"WeightNorm({plain!r})", "new layer", "inner layer", normed, y, 1e-6)
