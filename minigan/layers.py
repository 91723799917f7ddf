"""The layers, each with its forward and its hand-written backward pass.

A layer is stateless apart from `params` (learned) and `buffers` (kept, not learned)::

    y, cache  = layer.forward(x, train=True)
    dx, grads = layer.backward(dy, cache, need_dx=True, need_grads=True)

The cache is returned and never stored, because a discriminator sees a real and a fake batch before it goes back
through either. `grads` has the keys of `params`. What is not needed is None and is not computed: to freeze a network is
not to ask for its gradients, to detach one is to drop its cache.

`train=True` normalises by the batch's own statistics and drops units; `train=False` uses the running statistics and
drops nothing. `track=False` leaves the running statistics as they are: a player that only helps in the other's step
learns nothing, not even those. Labels, where there are any, go to `network.forward(x, labels=labels)`, which hands them
to the layers that take them (`takes_labels`).

Second derivatives, which the gradient penalties need, go through a layer's linearisation: `tangent` pushes a change tx
of x forward to the change ty = (dy/dx) tx of y, and `tangent_backward` goes back through the pair (y, ty)::

    ty, tangent_cache = layer.tangent(tx, cache)
    dx, dtx, grads    = layer.tangent_backward(dy, dty, cache, tangent_cache, need_dx=True)

Images are (N, H, W, C). Everything has the dtype of x, which must be the dtype of the weights.
"""

import copy
import itertools
import math

import numpy as np

from minigan import backends
from minigan.losses import expect_labels

# ---------------------------------------------------------------- initialisation


def normal(std: float):
    """Weights from N(0, std^2); DCGAN takes std = 0.02 (Radford et al. 2016, section 3)."""
    return lambda rng, shape, fan_in, fan_out: std * rng.standard_normal(shape, dtype=np.float32)


def glorot_uniform(rng, shape, fan_in, fan_out):
    """Weights from U(-a, a), a = sqrt(6 / (fan_in + fan_out)): keeps the variance of signals and of gradients about
    the same from layer to layer (Glorot and Bengio 2010, section 4.2)."""
    a = math.sqrt(6 / (fan_in + fan_out))
    return rng.uniform(-a, a, shape).astype(np.float32)


def he_normal(rng, shape, fan_in, fan_out):
    """Weights from N(0, 2 / fan_in): the same for ReLU, which halves the signal (He et al. 2015, section 2.2)."""
    return math.sqrt(2 / fan_in) * rng.standard_normal(shape, dtype=np.float32)


# ---------------------------------------------------------------- what layers have in common


class Layer:
    """What every layer has: parameters, buffers, and the backend on which it computes. It is born on the CPU."""

    takes_labels = False  # whether forward has an argument `labels`
    takes_slope = False  # whether it computes the LeakyReLU behind it with its own: see `Sequential`

    def __init__(self, params: dict | None = None, buffers: dict | None = None):
        self.params = params or {}
        self.buffers = buffers or {}
        self.backend = backends.reference()

    def to(self, backend, dtype=None) -> "Layer":
        """Moves parameters and buffers to the backend (a module, or a name for `backends.load`) and, if a dtype is
        given, to that precision. Returns the layer. Whole-number buffers (counters) stay as they are."""
        backend = backends.load(backend) if isinstance(backend, str) else backend
        for tensors in (self.params, self.buffers):
            for name, value in tensors.items():
                if value.dtype.kind != "u":
                    tensors[name] = backend.asarray(self.backend.to_numpy(value), dtype=dtype or value.dtype)
        self.backend = backend
        self.pack()
        return self

    def leaves(self) -> list["Layer"]:
        """The layers that hold the parameters themselves."""
        return [self]

    def pack(self):
        """One flat array that holds all parameters, in the order of `params`, each of which is a view into it.

        An optimizer moves them all in one operation. `to` packs a network and an optimizer sees to it; one that is
        packed already stays as it is.
        """
        held = [(layer.params, name) for layer in self.leaves() for name in layer.params]
        if not held:
            return self.backend.xp.zeros(0, np.float32)
        flat = next(params[name].base for params, name in held)
        packed = flat is not None and flat.shape == (self.n_params,)
        if not packed or any(params[name].base is not flat for params, name in held):
            flat, at = self.backend.concatenate([params[name] for params, name in held]), 0
            for params, name in held:
                shape, size = params[name].shape, params[name].size
                params[name] = flat[at : at + size].reshape(shape)
                at += size
        return flat

    @property
    def n_params(self) -> int:
        """How many numbers this layer learns."""
        return sum(p.size for p in self.params.values())

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def tangent(self, tx, cache):
        """ty = (dy/dx) tx, and what `tangent_backward` needs of it: how y would move if x moved along tx."""
        raise NotImplementedError(f"{self!r} has no rule for second derivatives: a gradient penalty cannot pass it")

    def tangent_backward(self, dy, dty, cache, tangent_cache, need_dx=True):
        """(dx, dtx, grads) from the gradients of y and of ty. A dy or dx of None is zero: straight layers make none."""
        raise NotImplementedError(f"{self!r} has no rule for second derivatives: a gradient penalty cannot pass it")

    def _expect(self, x, shape: tuple, advice: str) -> None:
        """Raises ValueError unless x has this shape ("N" stands for any size) and the dtype of the weights."""
        if len(x.shape) != len(shape) or any(n != s for n, s in zip(x.shape, shape, strict=True) if isinstance(s, int)):
            expected = "(" + ", ".join(map(str, shape)) + ")"
            raise ValueError(f"{type(self).__name__} expects x {expected}, got {tuple(x.shape)}: {advice}")
        for value in self.params.values():
            if value.dtype != x.dtype and "c" not in (value.dtype.kind, x.dtype.kind):  # c: the complex step
                raise ValueError(
                    f"{type(self).__name__} has {value.dtype} weights, got x of {x.dtype}: "
                    f"convert x, or the network with .to(backend, dtype={x.dtype})"
                )


# ---------------------------------------------------------------- layers with weights


class _Affine(Layer):
    """y = A(w) x + b with A linear in w, so that ty = A(w) tx: the same map, without the bias.

    Each kind says what A is: `_linear` gives A(w) x, `_grad_x` the gradient of x from that of y, `_grad_w` that of w.
    """

    takes_slope = True

    def forward(self, x, train=True, track=True, slope=1.0):
        """A slope other than 1: y after the LeakyReLU that follows."""
        self._expect_input(x)
        y = self._linear(x)
        if "b" in self.params:
            y = self.backend.add_bias(y, self.params["b"], slope)
        elif slope != 1:
            y = self.backend.leaky_relu(y, slope)
        return y, x

    def backward(self, dy, cache, need_dx=True, need_grads=True, y=None, slope=1.0):
        """y is needed where the slope is not 1."""
        x, dx, grads = cache, None, None
        if need_grads and "b" in self.params:
            dy, db = self.backend.bias_grad(dy, y, slope)
        elif slope != 1:
            dy = self.backend.leaky_relu_grad(dy, y, slope)
        if need_dx:
            dx = self._grad_x(dy, x)
        if need_grads:
            grads = {"w": self._grad_w(dy, x)}
            if "b" in self.params:
                grads["b"] = db
        return dx, grads

    def tangent(self, tx, cache):
        return self._linear(tx), tx

    def tangent_backward(self, dy, dty, cache, tangent_cache, need_dx=True):
        dx = None
        dtx, grads = self.backward(dty, tangent_cache, need_dx)  # ty = A(w) tx
        if "b" in grads:
            grads["b"] = self.backend.xp.zeros_like(grads["b"])
        if dy is not None:  # y = A(w) x + b
            dx, more = self.backward(dy, cache, need_dx)
            grads = {name: grads[name] + more[name] for name in grads}
        return dx, dtx, grads


class Dense(_Affine):
    """y = x w + b; x (N, n_in), w (n_in, n_out), b (n_out,), y (N, n_out)."""

    def __init__(self, n_in: int, n_out: int, *, bias: bool = True, rng, init=glorot_uniform):
        params = {"w": init(rng, (n_in, n_out), n_in, n_out)}
        if bias:
            params["b"] = np.zeros(n_out, np.float32)
        super().__init__(params)
        self.n_in, self.n_out = n_in, n_out

    def __repr__(self) -> str:
        return f"Dense({self.n_in} -> {self.n_out})"

    def _expect_input(self, x):
        self._expect(x, ("N", self.n_in), "put Flatten() before it")

    def _linear(self, x):
        return self.backend.matmul(x, self.params["w"])  # (N, n_out)

    def _grad_x(self, dy, x):
        return self.backend.matmul(dy, self.params["w"].T)  # (N, n_in)

    def _grad_w(self, dy, x):
        return self.backend.matmul(x.T, dy)  # (n_in, n_out)


class Conv2d(_Affine):
    """y[n,p,q,o] = sum_ijc xpad[n, p*stride+i, q*stride+j, c] w[i,j,c,o] + b[o].

    x (N, H, W, c_in), w (kernel, kernel, c_in, c_out), y (N, P, Q, c_out) with
    P = (H + before + after - kernel) // stride + 1. `pad` is an int or the pair (before, after): TensorFlow's "same"
    for a 5x5 kernel of stride 2 on an even size is (1, 2). As everywhere in the field, the kernel is not flipped.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        kernel: int,
        *,
        stride: int = 1,
        pad: int | tuple[int, int] = 0,
        bias: bool = True,
        rng,
        init=glorot_uniform,
    ):
        params = {"w": init(rng, (kernel, kernel, c_in, c_out), kernel**2 * c_in, kernel**2 * c_out)}
        if bias:
            params["b"] = np.zeros(c_out, np.float32)
        super().__init__(params)
        self.c_in, self.c_out, self.kernel, self.stride, self.pad = c_in, c_out, kernel, stride, backends.pads(pad)

    def __repr__(self) -> str:
        return f"Conv2d({self.c_in} -> {self.c_out}, {self.kernel}x{self.kernel}, stride {self.stride})"

    def _expect_input(self, x):
        self._expect(x, ("N", "H", "W", self.c_in), _image_advice(x, self.c_in))

    def _linear(self, x):
        return self.backend.conv2d(x, self.params["w"], self.stride, self.pad)  # (N, P, Q, c_out)

    def _grad_x(self, dy, x):
        return self.backend.conv2d_grad_x(dy, self.params["w"], x.shape, self.stride, self.pad)

    def _grad_w(self, dy, x):
        return self.backend.conv2d_grad_w(dy, x, self.params["w"].shape, self.stride, self.pad)


class ConvTranspose2d(_Affine):
    """The adjoint of the convolution that goes the other way: y = conv2d_grad_x(x, w) + b.

    x (N, H, W, c_in) -> y (N, P, Q, c_out) with P = stride*(H-1) + kernel - before - after + output_pad. The weight
    (kernel, kernel, c_out, c_in) is that of the convolution y -> x whose adjoint this is: <conv(y), x> = <y, this(x)>.
    Several sizes P give the same H under that convolution; `output_pad` (below stride) chooses among them.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        kernel: int,
        *,
        stride: int = 1,
        pad: int | tuple[int, int] = 0,
        output_pad: int = 0,
        bias: bool = True,
        rng,
        init=glorot_uniform,
    ):
        if not 0 <= output_pad < stride:
            raise ValueError(f"output_pad is at least 0 and below the stride {stride}, got {output_pad}")
        params = {"w": init(rng, (kernel, kernel, c_out, c_in), kernel**2 * c_in, kernel**2 * c_out)}
        if bias:
            params["b"] = np.zeros(c_out, np.float32)
        super().__init__(params)
        self.c_in, self.c_out, self.kernel, self.stride = c_in, c_out, kernel, stride
        self.pad, self.output_pad = backends.pads(pad), output_pad

    def __repr__(self) -> str:
        return f"ConvTranspose2d({self.c_in} -> {self.c_out}, {self.kernel}x{self.kernel}, stride {self.stride})"

    _expect_input = Conv2d._expect_input

    def _linear(self, x):
        N, H, W, _ = x.shape
        P, Q = (self.stride * (size - 1) + self.kernel - sum(self.pad) + self.output_pad for size in (H, W))
        if min(P, Q) < 1:
            raise ValueError(f"{self!r} with pad {self.pad} leaves nothing of x {tuple(x.shape)}: reduce pad")
        return self.backend.conv2d_grad_x(x, self.params["w"], (N, P, Q, self.c_out), self.stride, self.pad)

    def _grad_x(self, dy, x):  # y = conv2d_grad_x(x, w), linear in x; the adjoint of the adjoint is the convolution
        return self.backend.conv2d(dy, self.params["w"], self.stride, self.pad)

    def _grad_w(self, dy, x):  # <y, dy> = <x, conv2d(dy, w)>: there dy is the input, and x the gradient of the output
        return self.backend.conv2d_grad_w(x, dy, self.params["w"].shape, self.stride, self.pad)


def _image_advice(x, channels: int) -> str:
    """What to do about an x that is no image of that many channels."""
    if len(x.shape) == 2:
        side = math.isqrt(x.shape[1] // channels)
        if side * side * channels == x.shape[1]:
            return f"put Reshape({side}, {side}, {channels}) before it"
    return f"images are (N, H, W, C), here with C = {channels}"


class BatchNorm(Layer):
    """y = gamma * xhat + beta, xhat = (x - mean) / sqrt(var + eps), for each channel (the last axis) by itself.

    In training, mean and var (the biased one) are the batch's, over all axes but the last, and the running ones follow:
    running = momentum * running + (1 - momentum) * batch. Otherwise the running ones are used. x (N, ..., channels).
    (Ioffe and Szegedy 2015, algorithm 1; TensorFlow's momentum, which is one minus PyTorch's.)
    """

    takes_slope = True

    def __init__(self, channels: int, *, momentum: float = 0.9, eps: float = 1e-5):
        super().__init__(
            {"gamma": np.ones(channels, np.float32), "beta": np.zeros(channels, np.float32)},
            {"mean": np.zeros(channels, np.float32), "var": np.ones(channels, np.float32)},
        )
        self.channels, self.momentum, self.eps = channels, momentum, eps

    def __repr__(self) -> str:
        return f"BatchNorm({self.channels})"

    def forward(self, x, train=True, track=True, slope=1.0):
        """As in `_Affine`."""
        self._expect(x, (*"NHW"[: len(x.shape) - 1], self.channels), f"its last axis holds {self.channels} channels")
        gamma, beta = self.params["gamma"], self.params["beta"]
        if train:
            y, mean, var = self.backend.batchnorm(x, gamma, beta, self.eps, slope)
            if track:
                self.backend.track(self.buffers["mean"], self.buffers["var"], mean, var, self.momentum)
        else:
            mean, var = self.buffers["mean"].copy(), self.buffers["var"].copy()  # as they were in this pass
            y = gamma / (var + self.eps) ** 0.5 * (x - mean) + beta
            y = y if slope == 1 else self.backend.leaky_relu(y, slope)
        return y, (x, mean, var, train)

    def backward(self, dy, cache, need_dx=True, need_grads=True, y=None, slope=1.0):
        x, mean, var, train = cache
        gamma, beta = self.params["gamma"], self.params["beta"]
        if train:
            norm = backends.Normalisation(gamma, beta, mean, var, self.eps)
            dx, dgamma, dbeta = self.backend.batchnorm_grad(dy, x, norm, slope)
        else:  # y = gamma * xhat + beta with a fixed mean and var
            dy = dy if slope == 1 else self.backend.leaky_relu_grad(dy, y, slope)
            inv_std = 1 / (var + self.eps) ** 0.5  # (C,)
            dx = gamma * inv_std * dy
            dbeta = self.backend.sum_rows(dy)
            dgamma = self.backend.sum_rows(dy * (inv_std * (x - mean)))
        return dx if need_dx else None, {"gamma": dgamma, "beta": dbeta} if need_grads else None

    def tangent(self, tx, cache):
        x, mean, var, train = cache
        inv_std = 1 / (var + self.eps) ** 0.5  # (C,)
        xhat = inv_std * (x - mean)
        txhat = inv_std * (self._off_statistics(tx, xhat) if train else tx)
        return self.params["gamma"] * txhat, (tx, txhat, xhat, inv_std)

    def tangent_backward(self, dy, dty, cache, tangent_cache, need_dx=True):
        """With s = inv_std, P = off_statistics (its own transpose), u = gamma * dty, mean over all axes but the last:

        <u, txhat> = s <u, P tx> depends on x through s and through the xhat in P, hence the extra term
        dx = - s^2 (xhat mean(u * P tx) + P(u mean(xhat * tx) + tx mean(xhat * u))).
        """
        (*_, train), (tx, txhat, xhat, inv_std) = cache, tangent_cache
        dgamma = self.backend.sum_rows(dty * txhat)  # ty = gamma * txhat
        grads = {"gamma": dgamma, "beta": self.backend.xp.zeros_like(dgamma)}
        dx = dtx = None
        if need_dx:
            u = self.params["gamma"] * dty
            dtx = inv_std * (self._off_statistics(u, xhat) if train else u)  # txhat = s P tx
            if train:
                axes = tuple(range(u.ndim - 1))
                Ptx = self._off_statistics(tx, xhat)
                mean = self.backend.batch_mean
                curvature_term = u * mean(xhat * tx, axes) + tx * mean(xhat * u, axes)
                dx = -(inv_std**2) * (xhat * mean(u * Ptx, axes) + self._off_statistics(curvature_term, xhat))
        if dy is not None:  # y = gamma * xhat + beta
            linear_term, more = self.backward(dy, cache, need_dx)
            dx = linear_term if dx is None else dx + linear_term
            grads = {name: grads[name] + more[name] for name in grads}
        return dx, dtx, grads

    def _off_statistics(self, t, xhat):
        """P t = t - mean(t) - xhat mean(xhat * t): t without what the batch's mean and variance take off."""
        axes = tuple(range(t.ndim - 1))
        return t - self.backend.batch_mean(t, axes) - xhat * self.backend.batch_mean(xhat * t, axes)


class SpectralNorm(Layer):
    """A layer whose weight is divided by its largest singular value: w / sigma, so that it stretches nothing more than
    its own kind of layer with sigma = 1 does (Miyato et al. 2018).

    With w as a matrix (..., O), sigma = u' w v where u and v are the singular vectors. They are buffers, and each
    tracked training pass brings them closer by one power iteration: u = w v / |w v|, v = w' u / |w' u|. The gradient
    takes them as fixed: d sigma / dw = u v', hence dw = (dW - <dW, W> u v') / sigma for W = w / sigma.
    """

    def __init__(self, layer: Layer, *, rng):
        v = rng.standard_normal(layer.params["w"].shape[-1], dtype=np.float32)
        super().__init__(layer.params, {"u": np.zeros(layer.params["w"][..., 0].size, np.float32), "v": v})
        self.layer, self.takes_labels, self.takes_slope = layer, layer.takes_labels, layer.takes_slope
        for _ in range(10):
            self._power_iteration()

    def to(self, backend, dtype=None) -> "SpectralNorm":
        super().to(backend, dtype)  # the params are the inner layer's own
        self.layer.backend = self.backend
        return self

    def __repr__(self) -> str:
        return f"SpectralNorm({self.layer!r})"

    def forward(self, x, train=True, track=True, **taken):
        if train and track:
            self._power_iteration()
        u, v = self.buffers["u"].copy(), self.buffers["v"].copy()  # as they are in this pass
        w = self.params["w"]
        sigma = u @ (w.reshape(-1, w.shape[-1]) @ v)
        layer = copy.copy(self.layer)  # the same layer with the other weight
        layer.params = self.params | {"w": w / sigma}
        y, cache = layer.forward(x, train, track, **taken)
        return y, (layer, cache, u, v, sigma)

    def backward(self, dy, cache, need_dx=True, need_grads=True, **folded):
        layer, cache, u, v, sigma = cache
        dx, grads = layer.backward(dy, cache, need_dx, need_grads, **folded)
        return dx, self._through_sigma(grads, layer, u, v, sigma) if need_grads else None

    def tangent(self, tx, cache):
        return cache[0].tangent(tx, cache[1])

    def tangent_backward(self, dy, dty, cache, tangent_cache, need_dx=True):
        layer, cache, u, v, sigma = cache
        dx, dtx, grads = layer.tangent_backward(dy, dty, cache, tangent_cache, need_dx)
        return dx, dtx, self._through_sigma(grads, layer, u, v, sigma)

    def _through_sigma(self, grads, layer, u, v, sigma):
        """The gradient of w from that of W = w / sigma."""
        dW, W = grads["w"], layer.params["w"]
        shrinks = (dW * W).sum() * (u[:, None] * v).reshape(W.shape)
        return grads | {"w": (dW - shrinks) / sigma}

    def _power_iteration(self) -> None:
        w, u, v = self.params["w"], self.buffers["u"], self.buffers["v"]
        matrix = w.reshape(-1, w.shape[-1])  # (..., O)
        for vector, image in ((u, lambda: matrix @ v), (v, lambda: matrix.T @ u)):
            longer = image()
            vector[...] = longer / ((longer @ longer) ** 0.5 + 1e-30)


# ---------------------------------------------------------------- layers that take labels


class OneHot(Layer):
    """y = [x, e_label]: the label as `classes` further numbers, one of them 1; (N, n) -> (N, n + classes)."""

    takes_labels = True

    def __init__(self, classes: int):
        super().__init__()
        self.classes = classes

    def __repr__(self) -> str:
        return f"OneHot({self.classes})"

    def forward(self, x, train=True, track=True, labels=None):
        self._expect(x, ("N", "n"), "put it before the first Dense")
        xp = self.backend.xp
        return xp.concatenate([x, one_hot(self, labels, x)], axis=1), x.shape

    def backward(self, dy, cache, need_dx=True, need_grads=True):
        return dy[:, : cache[1]] if need_dx else None, {} if need_grads else None


class Projection(Layer):
    """The projection discriminator's head: y = x w + b + <x, e_label>, a logit that may depend on the label.

    x (N, n_in), w (n_in, 1), b (1,), e (classes, n_in), y (N, 1). The second term asks "is this a good 7?", the first
    "is this a good image?" (Miyato and Koyama 2018, equation 3).
    """

    takes_labels = True

    def __init__(self, n_in: int, classes: int, *, rng, init=glorot_uniform):
        super().__init__(
            {
                "w": init(rng, (n_in, 1), n_in, 1),
                "b": np.zeros(1, np.float32),
                "e": init(rng, (classes, n_in), n_in, 1),
            }
        )
        self.n_in, self.classes = n_in, classes

    def __repr__(self) -> str:
        return f"Projection({self.n_in} -> 1, {self.classes} labels)"

    def forward(self, x, train=True, track=True, labels=None):
        self._expect(x, ("N", self.n_in), "put Flatten() before it")
        chosen = one_hot(self, labels, x)  # (N, classes)
        return self._linear(x, chosen) + self.params["b"], (x, chosen)

    def _linear(self, x, chosen):
        return x @ self.params["w"] + (x * (chosen @ self.params["e"])).sum(axis=1, keepdims=True)

    def backward(self, dy, cache, need_dx=True, need_grads=True):
        (x, chosen), dx, grads = cache, None, None
        if need_dx:  # y = x w + <x, chosen e>
            dx = dy * (self.params["w"][:, 0] + chosen @ self.params["e"])  # (N, n_in)
        if need_grads:
            grads = {"w": x.T @ dy, "b": dy.sum(axis=0), "e": chosen.T @ (dy * x)}
        return dx, grads

    def tangent(self, tx, cache):
        return self._linear(tx, cache[1]), (tx, cache[1])

    tangent_backward = _Affine.tangent_backward


class Spread(Layer):
    """y = [x, s]: beside each sample how far the batch's samples of its label spread, (N, n) -> (N, n + channels).

    A sample by itself does not show that all others are like it; a discriminator that sees the batch's spread makes a
    generator vary as much as the data do. (Karras et al. 2018, section 3, take the standard deviation over the whole
    batch, in one number. Here it is that of each label by itself, since labels differ in any case; without labels it
    is everybody's. And there is one for each channel, for a network's channels see different things.)

    With x as (N, pixels, channels): s_nc = strength * mean_p sqrt(v_npc + eps), v_npc the mean of (x_mpc - xbar_npc)^2
    over the samples m that have the label of n, and xbar_npc their mean. So v = A r^2 with r = x - A x, where A (N, N)
    averages over equal labels, A = A'.
    """

    takes_labels = True

    def __init__(self, channels: int = 1, strength: float = 8.0, eps: float = 1e-4):
        super().__init__()
        self.channels, self.strength, self.eps = channels, strength, eps

    def __repr__(self) -> str:
        return f"Spread({self.channels}, strength {self.strength:g})"

    def forward(self, x, train=True, track=True, labels=None):
        self._expect(x, ("N", "n"), "put Flatten() before it")
        if x.shape[1] % self.channels:
            raise ValueError(f"{self!r} expects whole pixels of {self.channels} channels, got x {tuple(x.shape)}")
        xp = self.backend.xp
        if labels is None:
            same = xp.ones((len(x), len(x)), bool)
        else:
            _expect_one_a_row(self, labels, x)
            same = labels[:, None] == labels
        A = (same / same.sum(axis=1, keepdims=True)).astype(x.dtype)  # (N, N)
        matmul = self.backend.matmul
        r = x - matmul(A, x)
        std = (matmul(A, r * r) + self.eps) ** 0.5  # (N, n)
        return xp.concatenate([x, self._mean_of_pixels(std)], axis=1), (A, r, std)

    def _mean_of_pixels(self, t):
        """(N, n) -> (N, channels), times the strength."""
        return self.strength * t.reshape(len(t), -1, self.channels).mean(axis=1)

    def _to_pixels(self, ds, std):
        """Twice the gradient of v, from that of s: (N, channels) -> (N, n). (The 2 is that of r^2, saved there.)"""
        std = std.reshape(len(std), -1, self.channels)
        return (self.strength / std.shape[1] * ds[:, None, :] / std).reshape(len(std), -1)

    def backward(self, dy, cache, need_dx=True, need_grads=True):
        dx = None
        if need_dx:
            A, r, std = cache
            n = r.shape[1]
            dx = dy[:, :n] + r * self.backend.matmul(A, self._to_pixels(dy[:, n:], std))  # through xbar: A r = 0
        return dx, {} if need_grads else None

    def tangent(self, tx, cache):
        A, r, std = cache
        tr = tx - A @ tx
        tstd = A @ (r * tr) / std  # (N, n)
        return self.backend.xp.concatenate([tx, self._mean_of_pixels(tstd)], axis=1), (tr, tstd)

    def tangent_backward(self, dy, dty, cache, tangent_cache, need_dx=True):
        if not need_dx:
            return None, None, {}
        (A, r, std), (tr, tstd) = cache, tangent_cache
        n = r.shape[1]
        d = self._to_pixels(dty[:, n:], std)  # of A (r tr), and times -tstd that of std
        dtx = dty[:, :n] + r * (A @ d)
        dx = tr * (A @ d) - r * (A @ (d * tstd / std))
        return dx if dy is None else dx + self.backward(dy, cache)[0], dtx, {}


def one_hot(layer, labels, x):
    """(N, classes), 1 in the column of each label, in the dtype of x. Raises ValueError for labels that do not fit."""
    xp = layer.backend.xp
    _expect_one_a_row(layer, labels, x)
    expect_labels(labels, layer.classes)
    return (labels[:, None] == xp.arange(layer.classes)).astype(x.dtype)


def _expect_one_a_row(layer, labels, x) -> None:
    if labels is None or tuple(labels.shape) != (len(x),):
        came = "none" if labels is None else tuple(labels.shape)
        raise ValueError(f"{layer!r} expects labels ({len(x)},), one for each row of x, got {came}")


# ---------------------------------------------------------------- layers without weights


class _Elementwise(Layer):
    """A layer that learns nothing: its `backward` is `gradient(dy, cache)`, computed only if dx is needed."""

    def backward(self, dy, cache, need_dx=True, need_grads=True):
        return self.gradient(dy, cache) if need_dx else None, {} if need_grads else None

    def tangent(self, tx, cache):
        return self.gradient(tx, cache), tx  # y[i] depends on x[i] alone: dy/dx is diagonal, its own transpose

    def tangent_backward(self, dy, dty, cache, tangent_cache, need_dx=True):
        if not need_dx:
            return None, None, {}
        dx = self.curvature(dty, tangent_cache, cache)
        if dy is not None:
            dx = self.gradient(dy, cache) if dx is None else dx + self.gradient(dy, cache)
        return dx, self.gradient(dty, cache), {}

    def curvature(self, dty, tx, cache):
        """What ty = f'(x) tx contributes to dx: dty * tx * f''(x). None: f is straight."""
        return None


class LeakyReLU(_Elementwise):
    """y = x where x > 0, else slope * x. At the kink x = 0 the slope counts as `slope`."""

    def __init__(self, slope: float = 0.2):
        if not slope >= 0:
            raise ValueError(f"a leaky slope is at least 0, got {slope}")
        super().__init__()
        self.slope = slope

    def __repr__(self) -> str:
        return f"LeakyReLU({self.slope})"

    def forward(self, x, train=True, track=True):
        y = self.backend.leaky_relu(x, self.slope)
        return y, y

    def gradient(self, dy, y):  # y is positive just where x is
        return self.backend.leaky_relu_grad(dy, y, self.slope)


class ReLU(LeakyReLU):
    """y = max(x, 0)."""

    def __init__(self):
        super().__init__(0.0)

    def __repr__(self) -> str:
        return "ReLU()"


class Tanh(_Elementwise):
    """y = tanh(x)."""

    def forward(self, x, train=True, track=True):
        y = self.backend.xp.tanh(x)
        return y, y

    def gradient(self, dy, y):  # tanh' = 1 - tanh^2
        return dy * (1 - y * y)

    def curvature(self, dty, tx, y):  # tanh'' = -2 tanh tanh'
        return -2 * dty * tx * y * (1 - y * y)


class Sigmoid(_Elementwise):
    """y = 1 / (1 + exp(-x)), written as (1 + tanh(x/2)) / 2 so that no x overflows.

    A discriminator ends in logits, not in this layer: the losses take the sigmoid into themselves.
    """

    def forward(self, x, train=True, track=True):
        y = 0.5 * (1 + self.backend.xp.tanh(0.5 * x))
        return y, y

    def gradient(self, dy, y):  # sigmoid' = sigmoid (1 - sigmoid)
        return dy * (y * (1 - y))

    def curvature(self, dty, tx, y):  # sigmoid'' = sigmoid' (1 - 2 sigmoid)
        return dty * tx * (y * (1 - y)) * (1 - 2 * y)


class Dropout(_Elementwise):
    """y = x * mask, mask = 0 with probability `rate`, else 1 / (1 - rate), so that the mean stays (Srivastava 2014).

    The mask is a hash of (key, draws, position), not a sequence: it is the same on every backend and for any number
    of threads, and a checkpoint keeps it by keeping two numbers. `rng` gives the key; every training pass counts one
    draw, whichever player's step it serves. The rate is held to a multiple of 1/65536.
    """

    def __init__(self, rate: float, *, rng):
        if not 0 <= rate < 1:
            raise ValueError(f"a dropout rate is at least 0 and below 1, got {rate}")
        key = rng.integers(2**64, dtype=np.uint64)
        super().__init__(buffers={"key": np.array(key), "draws": np.zeros((), np.uint64)})
        self.rate = rate

    def __repr__(self) -> str:
        return f"Dropout({self.rate})"

    def forward(self, x, train=True, track=True):
        threshold = min(round(65536 * self.rate), 65535)
        if not train or threshold == 0:
            return x, None
        stream = backends.mix64(int(self.buffers["key"]) + backends.GOLDEN * int(self.buffers["draws"]))
        self.buffers["draws"] += np.uint64(1)
        return self.backend.dropout(x, threshold, stream), (threshold, stream)

    def gradient(self, dy, cache):  # y = x * mask; the mask is made again rather than kept
        return dy if cache is None else self.backend.dropout(dy, *cache)


class Reshape(_Elementwise):
    """y is x (N, ...) in the shape (N, *shape)."""

    def __init__(self, *shape: int):
        super().__init__()
        self.shape = shape

    def __repr__(self) -> str:
        return f"Reshape({', '.join(map(str, self.shape))})"

    def forward(self, x, train=True, track=True):
        if math.prod(x.shape[1:]) != math.prod(self.shape):
            raise ValueError(
                f"{self!r} expects {math.prod(self.shape)} numbers for each sample, got x {tuple(x.shape)}"
            )
        return x.reshape(len(x), *self.shape), x.shape

    def gradient(self, dy, x_shape):
        return dy.reshape(x_shape)

    def tangent(self, tx, x_shape):
        return tx.reshape(len(tx), *self.shape), tx


class Flatten(_Elementwise):
    """y (N, H*W*C) is x (N, H, W, C) with each sample in one row."""

    def forward(self, x, train=True, track=True):
        return x.reshape(len(x), -1), x.shape

    def gradient(self, dy, x_shape):
        return dy.reshape(x_shape)

    def tangent(self, tx, x_shape):
        return tx.reshape(len(tx), -1), tx


class Upsample(_Elementwise):
    """Nearest-neighbour upsampling ("reverse pooling"): each pixel becomes a block of factor x factor equal ones.

    x (N, H, W, C) -> y (N, factor*H, factor*W, C).
    """

    def __init__(self, factor: int):
        if factor < 1:
            raise ValueError(f"an upsampling factor is at least 1, got {factor}")
        super().__init__()
        self.factor = factor

    def __repr__(self) -> str:
        return f"Upsample({self.factor})"

    def forward(self, x, train=True, track=True):
        self._expect(x, ("N", "H", "W", "C"), "images have four axes")
        return self._repeat(x), x.shape

    def _repeat(self, x):
        N, H, W, C = x.shape  # (CuPy's `repeat` would launch a copy for each row)
        blocks = self.backend.xp.broadcast_to(x[:, :, None, :, None], (N, H, self.factor, W, self.factor, C))
        return blocks.reshape(N, H * self.factor, W * self.factor, C)

    def gradient(self, dy, x_shape):  # y[n, f*h+i, f*w+j, c] = x[n,h,w,c]: the block's gradients add
        N, H, W, C = x_shape
        return dy.reshape(N, H, self.factor, W, self.factor, C).sum(axis=(2, 4))

    def tangent(self, tx, x_shape):
        return self._repeat(tx), tx


# ---------------------------------------------------------------- a network


class Sequential(Layer):
    """y = last(... second(first(x))). Its parameters and buffers are named by position: "0.w", "0.b", "2.gamma", ...

    A LeakyReLU behind a layer that has weights is computed in the passes that this layer makes over its numbers anyway;
    the caches of both are those that they have by themselves.
    """

    def __init__(self, *layers: Layer):
        self.layers = layers
        self.backend = layers[0].backend
        # Whether layer i is an activation that layer i - 1 computes with its own. Exact types: their heirs may differ.
        pairs = itertools.pairwise(layers)
        folded = [before.takes_slope and type(layer) in (LeakyReLU, ReLU) for before, layer in pairs]
        self._folded = [False, *folded, False]

    @property
    def params(self) -> dict:
        return self._named("params")

    @property
    def buffers(self) -> dict:
        return self._named("buffers")

    def _named(self, kind: str) -> dict:
        return {f"{i}.{k}": v for i, layer in enumerate(self.layers) for k, v in getattr(layer, kind).items()}

    def leaves(self) -> list[Layer]:
        return [leaf for layer in self.layers for leaf in layer.leaves()]

    def to(self, backend, dtype=None) -> "Sequential":
        for layer in self.layers:
            layer.to(backend, dtype)
        self.backend = self.layers[0].backend
        self.pack()
        return self

    def __repr__(self) -> str:
        return "Sequential(\n" + "".join(f"    {i}: {layer!r}\n" for i, layer in enumerate(self.layers)) + ")"

    @property
    def takes_labels(self) -> bool:
        return any(layer.takes_labels for layer in self.layers)

    def forward(self, x, train=True, track=True, labels=None):
        caches = []
        for i, layer in enumerate(self.layers):
            if self._folded[i]:
                caches.append(x)
                continue
            taken = {"labels": labels} if layer.takes_labels else {}
            if self._folded[i + 1]:
                taken["slope"] = self.layers[i + 1].slope
            x, cache = layer.forward(x, train, track, **taken)
            caches.append(cache)
        return x, caches

    def backward(self, dy, cache, need_dx=True, need_grads=True):
        grads = {} if need_grads else None
        # Below the first layer that learns, nobody needs dx unless the caller does.
        first = next((i for i, layer in enumerate(self.layers) if layer.params), 0) if need_grads else len(self.layers)
        dx = dy
        for i in reversed(range(len(self.layers))):
            if self._folded[i]:
                continue
            folded = {"y": cache[i + 1], "slope": self.layers[i + 1].slope} if self._folded[i + 1] else {}
            dx, layer_grads = self.layers[i].backward(dx, cache[i], need_dx or i > first, need_grads, **folded)
            if need_grads:
                grads |= {f"{i}.{k}": g for k, g in layer_grads.items()}
            if dx is None:
                break
        return dx, grads

    def tangent(self, tx, cache):
        tangent_caches = []
        for layer, layer_cache in zip(self.layers, cache, strict=True):
            tx, tangent_cache = layer.tangent(tx, layer_cache)
            tangent_caches.append(tangent_cache)
        return tx, tangent_caches

    def tangent_backward(self, dy, dty, cache, tangent_cache, need_dx=True):
        grads = {}
        for i in reversed(range(len(self.layers))):
            need = need_dx or any(layer.params for layer in self.layers[:i])
            dy, dty, layer_grads = self.layers[i].tangent_backward(dy, dty, cache[i], tangent_cache[i], need)
            grads |= {f"{i}.{k}": g for k, g in layer_grads.items()}
            if dty is None:
                break
        return dy, dty, grads
