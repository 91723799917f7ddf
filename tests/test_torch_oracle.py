"""Compare minigan with PyTorch in float64. The tests are skipped if PyTorch is not installed.

They compare the forward and backward pass of every layer, the losses, the gradient penalties (by double backward), and
five training steps of every architecture with SGD and with Adam. The expected values are computed by PyTorch's own
layers and autograd. minigan provides the weights, the inputs, the dropout masks and the noise.
"""

import numpy as np
import pytest
from conftest import of_name

from minigan import game, losses, models, optim, penalties
from minigan.backends import GOLDEN, mix64
from minigan.checking import checks
from minigan.checking.gradcheck import randomize
from minigan.layers import (
    GRU,
    LSTM,
    BatchNorm,
    Bidirectional,
    Concatenate,
    Conv1d,
    Conv2d,
    ConvTranspose2d,
    Dense,
    Dropout,
    Embedding,
    Flatten,
    Frozen,
    GaussianNoise,
    Identity,
    InEachStep,
    LayerNorm,
    LeakyReLU,
    MaskEnds,
    MinibatchStdDev,
    MultiDepth,
    OneHot,
    Pack,
    Projection,
    ReLU,
    Reshape,
    Sequential,
    Sigmoid,
    Softmax,
    Softplus,
    SpectralNorm,
    TableHead,
    Tanh,
    TanhOf,
    Upsample,
    WeightNorm,
)
from minigan.layers.fuse import FoldedBatchNorm, Fused
from minigan.layers.heads import gumbel
from minigan.models import tables

torch = pytest.importorskip("torch")
F = torch.nn.functional
TOLERANCE = 1e-10


@pytest.fixture(params=["numpy", "numba"])
def backend(request):
    """The backends whose arrays PyTorch can read. Other tests compare the GPU backend with these."""
    return of_name(request.param, request)


@pytest.fixture(autouse=True)
def one_thread():
    """Run PyTorch with one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tensor(a):
    return torch.tensor(np.asarray(a), dtype=torch.float64)


def close(got, expected, what=""):
    got, expected = np.asarray(got), np.asarray(expected.detach() if hasattr(expected, "detach") else expected)
    assert got.shape == expected.shape, what
    scale = max(abs(expected).max(), 1e-3)
    assert abs(got - expected).max() <= TOLERANCE * scale, f"{what}: {abs(got - expected).max() / scale:.1e}"


class Twin:
    """A network of minigan with the same parameters, computed by PyTorch's layers and autograd."""

    def __init__(self, network):
        self.layers = network.layers if isinstance(network, Sequential) else [network]
        self.prefixes = [f"{i}." for i in range(len(self.layers))] if isinstance(network, Sequential) else [""]
        self.params = {name: tensor(p).requires_grad_() for name, p in network.params.items()}
        self.buffers = {name: tensor(b) for name, b in network.buffers.items() if b.dtype.kind == "f"}

    def __call__(self, x, train=True, track=True, labels=None, masks=None):
        """Return y. `masks` are the dropout masks and the added noise, in the order of their layers."""
        masks = iter(masks or [])
        for layer, prefix in zip(self.layers, self.prefixes, strict=True):
            p = {k.removeprefix(prefix): v for k, v in self.params.items() if k.startswith(prefix)}
            b = {k.removeprefix(prefix): v for k, v in self.buffers.items() if k.startswith(prefix)}
            x = self.apply(layer, x, p, b, train, track, labels, masks)
        return x

    def apply(self, layer, x, p, b, train, track, labels, masks):
        """Return y of one layer with parameters p and buffers b."""
        match layer:
            case Dense():
                return F.linear(x, p["w"].T, p.get("b"))
            case Conv2d():
                before, after = layer.pad
                x = F.pad(x.permute(0, 3, 1, 2), (before, after, before, after))
                return F.conv2d(x, p["w"].permute(3, 2, 0, 1).contiguous(), p.get("b"), layer.stride).permute(
                    0, 2, 3, 1
                )
            case ConvTranspose2d():
                before, after = layer.pad
                w = p["w"].permute(3, 2, 0, 1).contiguous()
                y = F.conv_transpose2d(x.permute(0, 3, 1, 2), w, None, layer.stride)
                y = F.pad(y, (-before, layer.output_pad - after, -before, layer.output_pad - after)).permute(0, 2, 3, 1)
                return y + p["b"] if "b" in p else y
            case BatchNorm():
                axes = tuple(range(x.ndim - 1))
                channels_first = x.movedim(-1, 1)
                if train:
                    y = F.batch_norm(channels_first, None, None, p["gamma"], p["beta"], True, 0.0, layer.eps)
                    if track:
                        with torch.no_grad():
                            for name, now in (("mean", x.mean(axes)), ("var", x.var(axes, unbiased=False))):
                                b[name].lerp_(now, 1 - layer.momentum)
                else:
                    y = F.batch_norm(channels_first, b["mean"], b["var"], p["gamma"], p["beta"], False, 0.0, layer.eps)
                return y.movedim(1, -1)
            case LayerNorm():  # with one group of all channels, gamma and beta per channel
                y = F.group_norm(x.movedim(-1, 1), 1, p["gamma"], p["beta"], layer.eps)
                return y.movedim(1, -1)
            case SpectralNorm():
                if train and track:
                    with torch.no_grad():
                        matrix = p["w"].reshape(-1, p["w"].shape[-1])
                        b["u"].copy_(F.normalize(matrix @ b["v"], dim=0))
                        b["v"].copy_(F.normalize(matrix.T @ b["u"], dim=0))
                u, v = b["u"].clone(), b["v"].clone()
                sigma = torch.einsum("i,ij,j", u, p["w"].reshape(len(u), len(v)), v)
                return self.apply(layer.layer, x, p | {"w": p["w"] / sigma}, b, train, track, labels, masks)
            case WeightNorm():
                axis = (
                    layer.outputs
                )  # torch._weight_norm is the function behind torch.nn.utils.weight_norm, without eps
                v, shape = p["v"], [-1 if i == axis else 1 for i in range(p["v"].ndim)]
                if layer.eps > 1e-9:
                    length = (v.square().sum([i for i in range(v.ndim) if i != axis], keepdim=True) + layer.eps).sqrt()
                    w = p["g"].reshape(shape) * v / length
                else:
                    w = torch._weight_norm(v, p["g"].reshape(shape), axis)
                return self.apply(layer.layer, x, p | {"w": w}, b, train, track, labels, masks)
            case OneHot():
                return torch.cat([x, F.one_hot(torch.tensor(labels), layer.classes).to(x.dtype)], 1)
            case Projection():
                return F.linear(x, p["w"].T, p["b"]) + (x * F.embedding(torch.tensor(labels), p["e"])).sum(
                    1, keepdim=True
                )
            case MinibatchStdDev():
                groups = torch.zeros(len(x)) if labels is None else torch.tensor(labels)
                std = [(x[groups == group].var(0, unbiased=False) + layer.eps).sqrt() for group in groups]
                pixels = torch.stack(std).unflatten(1, (-1, layer.channels))
                return torch.cat([x, layer.strength * pixels.mean(1)], 1)
            case Frozen():  # its parameters are constants, and it runs in evaluation mode
                return self.apply(layer.layer, x, b, b, False, False, labels, masks)
            case FoldedBatchNorm():
                affine = {name: tensor(value) for name, value in layer.layer.params.items()}
                x = self.apply(layer.layer, x, affine, {}, False, False, labels, masks)
                x = self.apply(layer.norm, x, p, b, False, False, labels, masks)
                activation = Identity() if layer.activation is None else layer.activation
                return self.apply(activation, x, {}, {}, False, False, labels, masks)
            case MultiDepth():
                y = 0
                for i, (stage, head) in enumerate(zip(layer.stages, layer.heads, strict=True)):
                    of_stage, of_head = ([inside(a, f"{i}.{what}.") for a in (p, b)] for what in ("stage", "head"))
                    x = self.apply(stage, x, *of_stage, train, track, labels, masks)
                    y = y + self.apply(head, x, *of_head, train, track, labels, masks)
                return y
            case Fused():
                y = self.apply(layer.layer, x, p, b, train, track, labels, masks)
                return self.apply(layer.activation, y, {}, {}, train, track, labels, masks)
            case Identity():
                return x
            case LeakyReLU() | ReLU():
                return F.leaky_relu(x, layer.slope)
            case Tanh():
                return torch.tanh(x)
            case Sigmoid():
                return torch.sigmoid(x)
            case Softplus():
                return F.softplus(x)
            case Dropout():
                return x * next(masks) if train else x
            case GaussianNoise():
                return x + next(masks) if train and layer.std else x
            case Pack():
                return torch.cat(x.unflatten(0, (-1, layer.m)).unbind(1), -1)
            case Softmax() | TableHead():
                head = isinstance(layer, TableHead)
                noisy = (x + next(masks)) / layer.temperature if head else x
                parts, at = [], 0
                for k, (start, stop) in enumerate(layer.groups):
                    parts.append(torch.tanh(x[:, at:start]) if head else x[:, at:start])
                    if head and k == layer.label_group:
                        parts.append(F.one_hot(torch.tensor(labels), stop - start).to(x.dtype))
                    else:
                        parts.append(F.softmax(noisy[:, start:stop], 1))
                    at = stop
                parts.append(torch.tanh(x[:, at:]) if head else x[:, at:])
                return torch.cat(parts, 1)
            case Embedding():
                parts, at = [], 0
                for k, (start, stop) in enumerate(layer.groups):
                    parts += [x[:, at:start], F.linear(x[:, start:stop], p[f"e{k}"].T)]
                    at = stop
                return torch.cat([*parts, x[:, at:]], 1)
            case Concatenate():
                return torch.cat([self.apply(layer.network, x, p, b, train, track, labels, masks), x], 1)
            case GRU() | LSTM():
                return self.recurrent(layer, x, p)
            case Bidirectional():
                forth = self.recurrent(layer.forth, x, inside(p, "0."))
                back = self.recurrent(layer.back, x.flip(1), inside(p, "1."))
                if layer.forth.last:
                    return torch.cat([forth, back], 1)
                return torch.cat([forth[:, :, : layer.forth.n_units], back.flip(1)], 2)
            case Conv1d():
                x = F.pad(x.mT, layer.pad)
                return F.conv1d(x, p["w"].permute(2, 1, 0), p.get("b"), layer.stride, 0, layer.dilation).mT
            case InEachStep():
                own, rest = x.split([layer.steps * layer.own, x.shape[1] - layer.steps * layer.own], 1)
                return torch.cat([own.unflatten(1, (layer.steps, -1)), rest[:, None].expand(-1, layer.steps, -1)], 2)
            case TanhOf():
                chosen = torch.zeros(layer.n, dtype=torch.bool).index_fill(0, torch.tensor(layer.features), True)
                return torch.where(chosen, torch.tanh(x), x)
            case MaskEnds():
                lasting = torch.ones_like(x, dtype=torch.bool)
                masks_of = [torch.cumprod(x[:, :, stop - 1 : stop] >= 0, 1).bool() for _, stop in layer.ends]
                for (start, stop), lasts in zip(layer.ends, masks_of, strict=True):
                    lasting[:, :, start : stop - 1] = lasts
                y = x.masked_fill(~lasting, 0)
                return torch.cat([y, sum(masks_of).clamp(max=1).to(x.dtype)], 2) if layer.append else y
            case Reshape():
                return x.reshape(len(x), *layer.shape)
            case Flatten():
                return x.flatten(1)
            case Upsample():
                return F.interpolate(x.permute(0, 3, 1, 2), scale_factor=layer.factor).permute(0, 2, 3, 1)
            case Sequential():
                inner = Twin.__new__(Twin)
                inner.layers, inner.prefixes = layer.layers, [f"{i}." for i in range(len(layer.layers))]
                inner.params, inner.buffers = p, b
                for inner_layer, prefix in zip(inner.layers, inner.prefixes, strict=True):
                    q = {k.removeprefix(prefix): v for k, v in p.items() if k.startswith(prefix)}
                    c = {k.removeprefix(prefix): v for k, v in b.items() if k.startswith(prefix)}
                    x = self.apply(inner_layer, x, q, c, train, track, labels, masks)
                return x
        raise NotImplementedError(layer)

    def recurrent(self, layer, x, p):
        """Return y of nn.GRU or nn.LSTM. With a mask, their cells compute one step after the other."""
        x, m = (x[:, :, :-1], x[:, :, -1:]) if layer.masked else (x, None)
        N, H, parts = len(x), layer.n_units, layer.states
        state = x.new_zeros(N, parts * H)
        if layer.initial:
            x, state = x[:, 1:], F.linear(x[:, 0], p["w_0"].T, p["b_0"])
        weights = {"weight_ih": p["w_x"].T, "weight_hh": p["w_h"].T, "bias_ih": p["b_x"], "bias_hh": p["b_h"]}
        kind = type(layer).__name__
        if m is None:
            module = getattr(torch.nn, kind)(layer.n_in, H, batch_first=True)
            start = tuple(s[None].contiguous() for s in state.chunk(parts, 1))
            weights = {f"{name}_l0": w for name, w in weights.items()}
            y, _ = torch.func.functional_call(module, weights, (x, start if parts == 2 else start[0]))
        else:
            module, ys = getattr(torch.nn, f"{kind}Cell")(layer.n_in, H), []
            for t in range(x.shape[1]):
                before = state.chunk(parts, 1)
                after = torch.func.functional_call(module, weights, (x[:, t], before if parts == 2 else before[0]))
                state = torch.lerp(state, torch.cat(after, 1) if parts == 2 else after, m[:, t])
                ys.append(torch.cat([state[:, :H], m[:, t]], 1))
            y = torch.stack(ys, 1)
        return y[:, -1, :H] if layer.last else y


def inside(arrays, prefix):
    """Return the arrays whose name has the prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}


def next_masks(network, x, train=True, labels=None):
    """Return what the network's layers will draw in the next pass: masks of dropout, y = x * mask, and added noise.

    The noise of a head of table rows is added to its logits.
    """
    if not train:
        return []
    kept = {name: b.copy() for name, b in network.buffers.items()}
    masks = []
    for layer in network.layers if isinstance(network, Sequential) else [network]:
        how = {"labels": labels} if layer.takes_labels else {}
        y, _ = layer.forward(x, **how)
        if isinstance(layer, Dropout) or (isinstance(layer, GaussianNoise) and layer.std):
            layer.buffers["draws"] -= np.uint64(1)
            of = np.ones_like(x) if isinstance(layer, Dropout) else np.zeros_like(x)
            masks.append(tensor(layer.forward(of)[0]))
        if isinstance(layer, TableHead):
            stream = mix64(int(layer.buffers["key"]) + GOLDEN * (int(layer.buffers["draws"]) - 1))
            masks.append(tensor(gumbel(layer.backend, x.shape, stream, np.float64)))
        x = y
    for name, b in kept.items():
        network.buffers[name][...] = b
    return masks


# ---------------------------------------------------------------- layer by layer


@pytest.fixture(params=[case[0] for case in checks.layer_cases(checks.load("numpy"), np.random.default_rng(0))])
def case(request, backend):
    cases = checks.layer_cases(backend, np.random.default_rng(1))
    return next((layer, shape, how) for what, layer, shape, how in cases if what == request.param)


def test_every_layer_forward_and_backward(case, rng):
    layer, shape, how = case
    x = rng.standard_normal(shape)
    twin, masks = Twin(layer), next_masks(layer, x, **how)
    x_torch = tensor(x).requires_grad_()
    y_torch = twin(x_torch, masks=masks, **how)
    y, cache = layer.forward(x, **how)
    close(y, y_torch, "y")
    dy = rng.standard_normal(y.shape)
    y_torch.backward(tensor(dy))
    dx, grads = layer.backward(dy, cache)
    close(dx, x_torch.grad, "dx")
    for name, grad in grads.items():
        close(grad, twin.params[name].grad, name)
    for name, buffer in twin.buffers.items():
        close(layer.buffers[name], buffer, name)


@pytest.mark.parametrize("name", losses.LOSSES)
def test_every_loss(name, rng):
    pairs = losses.LOSSES[name].compares
    real, fake = 3 * rng.standard_normal((4 if pairs else 5, 1)), 3 * rng.standard_normal((4, 1))
    r, f = tensor(real).requires_grad_(), tensor(fake).requires_grad_()
    d_loss, g_loss = torch_losses(name, r, f)
    loss, d_real, d_fake = losses.LOSSES[name].discriminator(real, fake)
    close(loss, d_loss)
    d_loss.backward()
    close(d_real, r.grad)
    close(d_fake, f.grad)
    f.grad = None
    loss, d_fake = losses.LOSSES[name].generator(fake, real)
    close(loss, g_loss)
    g_loss.backward()
    close(d_fake, f.grad)


def test_feature_matching(rng):
    fake, real = rng.standard_normal((4, 3)), rng.standard_normal((5, 3))
    f = tensor(fake).requires_grad_()
    expected = ((f.mean(0) - tensor(real).mean(0)) ** 2).sum()
    expected.backward()
    distance, d_fake = losses.feature_matching(fake, real)
    close(distance, expected)
    close(d_fake, f.grad)


@pytest.mark.parametrize("limit", [0.5, 50.0])
def test_clipping_by_the_global_norm(limit, rng):
    layer = Dense(3, 2, rng=rng).to("numpy", np.float64)
    weights = [tensor(value.copy()).requires_grad_() for value in layer.params.values()]
    grads = {name: rng.standard_normal(value.shape) for name, value in layer.params.items()}
    for weight, grad in zip(weights, grads.values(), strict=True):
        weight.grad = tensor(grad)
    torch.nn.utils.clip_grad_norm_(weights, limit)
    torch.optim.SGD(weights, lr=0.1).step()
    optimizer = optim.SGD(layer, lr=0.1)
    optimizer.clip_norm = limit
    optimizer.step(grads)
    for value, weight in zip(layer.params.values(), weights, strict=True):
        np.testing.assert_allclose(value, weight.detach().numpy(), rtol=1e-5)  # PyTorch adds 1e-6 to the norm


def test_cross_entropy(rng):
    logits, labels = 3 * rng.standard_normal((6, 4)), rng.integers(4, size=6)
    l = tensor(logits).requires_grad_()
    expected = F.cross_entropy(l, torch.tensor(labels))
    expected.backward()
    value, d_logits = losses.cross_entropy(logits, labels)
    close(value, expected)
    close(d_logits, l.grad)


def torch_losses(name, real, fake):
    """Return the losses of discriminator and generator, computed by PyTorch."""
    bce = F.binary_cross_entropy_with_logits
    if name == "hinge":
        return F.relu(1 - real).mean() + F.relu(1 + fake).mean(), -fake.mean()
    if name == "least_squares":  # targets 1 and 0 of the output (1 + l) / 2, times 4
        ones, zeros = torch.ones_like, torch.zeros_like
        d_loss = F.mse_loss((1 + real) / 2, ones(real)) + F.mse_loss((1 + fake) / 2, zeros(fake))
        return 2 * d_loss, 2 * F.mse_loss((1 + fake) / 2, ones(fake))
    if name == "wasserstein":
        return fake.mean() - real.mean(), -fake.mean()
    if name in ("relativistic", "r3gan"):
        return bce(real - fake, torch.ones_like(fake)), bce(fake - real, torch.ones_like(fake))
    d_loss = 0 if real is None else bce(real, torch.ones_like(real)) + bce(fake, torch.zeros_like(fake))
    return d_loss, bce(fake, torch.ones_like(fake)) if name == "non_saturating" else -bce(fake, torch.zeros_like(fake))


# ---------------------------------------------------------------- penalties


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("which", ["r1", "r2", "wgan_gp"])
@pytest.mark.parametrize(
    "critic", ["smooth", "small", "tutorial", "digits, labels", "projected, labels", "frozen", "table"]
)
def test_penalties_by_double_backward(which, critic, train, backend, rng):
    labels = np.array([2, 0, 1]) if "labels" in critic else None
    shape = (3, 4, 4, 1) if critic == "smooth" else (3, 8, 8, 1)
    if critic == "table":  # with an embedding, and with a softmax, which has curvature
        shape = (3, 70)
        _, of_preset = tables.table(rng, (70,), 0, tables.TableNetworks(d_width=6), models.Layout(((2, 68),)))
        D = Sequential(Softmax(((0, 3), (66, 70)), 70), *of_preset.layers)
        randomize(D.to(backend, np.float64), rng)
    elif critic == "smooth":
        D = checks.smooth_critic(backend, rng)
    elif critic in ("projected, labels", "frozen"):
        projected = critic != "frozen"
        D = models.reuse.from_facts(rng, (8, 8, 1), 3 * projected, {"widths": [3, 4], "projected": projected})
        D = randomize(models.reuse.frozen(D, "" if projected else "3").to(backend, np.float64), rng)
    else:
        preset = critic.split(",")[0]
        D = models.build(preset, rng=rng, sample_shape=shape[1:], classes=0 if labels is None else 3)[1]
        randomize(D.to(backend, np.float64), rng)
    real, fake = (rng.standard_normal(shape) for _ in range(2))
    share = np.random.default_rng(3).random((3, *(1 for _ in shape[1:])))
    twin, masks = Twin(D), next_masks(D, real, train, labels)
    x = tensor({"r1": real, "r2": fake, "wgan_gp": share * real + (1 - share) * fake}[which]).requires_grad_()
    logits = twin(x, train=train, track=False, labels=labels, masks=masks)
    (g,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
    square = g.flatten(1).square().sum(1)
    value_torch = 10 * (square.sqrt() - 1).square().mean() if which == "wgan_gp" else 5 * square.mean()
    expected = torch.autograd.grad(value_torch, list(twin.params.values()), allow_unused=True)
    if which == "wgan_gp":
        value, grads = penalties.wgan_gp(D, real, fake, rng=np.random.default_rng(3), train=train, labels=labels)
    else:
        penalty, images = (penalties.r1, real) if which == "r1" else (penalties.r2, fake)
        value, grads = penalty(D, images, train=train, labels=labels)
    close(value, value_torch, "value")
    for (name, p), grad in zip(twin.params.items(), expected, strict=True):
        close(grads[name], torch.zeros_like(p) if grad is None else grad, name)


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("critic", ["smooth", "digits, labels", "sequences"])
def test_the_penalty_by_finite_differences(critic, train, backend, rng):
    labels, shape = (np.array([2, 0, 1]), (3, 8, 8, 1)) if "labels" in critic else (None, (3, 4, 4, 1))
    if critic == "smooth":
        D = checks.smooth_critic(backend, rng)
    elif critic == "sequences":
        shape = (3, 6, 2)
        D = Sequential(
            Conv1d(2, 3, 5, stride=2, pad=2, rng=rng),
            Dropout(0.3, rng=rng),
            Bidirectional(GRU(3, 4, rng=rng), GRU(3, 4, rng=rng)),
            LSTM(8, 3, last=True, rng=rng),
            Dense(3, 1, rng=rng),
        )
        randomize(D.to(backend, np.float64), rng)
    else:
        D = models.build("digits", rng=rng, sample_shape=shape[1:], classes=3)[1]
        randomize(D.to(backend, np.float64), rng)
    real = rng.standard_normal(shape)
    stream = int(np.random.default_rng(3).integers(2**64, dtype=np.uint64))
    noisy = real + 0.05 * backend.normal(shape, stream, np.float64)
    twin, masks = Twin(D), next_masks(D, real, train, labels)
    a, b = (twin(tensor(x), train=train, track=False, labels=labels, masks=masks) for x in (noisy, real))
    value_torch = 7 * ((a - b) / 0.05).square().mean()
    expected = torch.autograd.grad(value_torch, list(twin.params.values()), allow_unused=True)
    value, grads = penalties.r1_fd(D, real, rng=np.random.default_rng(3), weight=7.0, train=train, labels=labels)
    close(value, value_torch, "value")
    for (name, p), grad in zip(twin.params.items(), expected, strict=True):
        close(grads[name], torch.zeros_like(p) if grad is None else grad, name)


@pytest.mark.parametrize("kind", [GRU, LSTM])
def test_both_directions_with_unequal_lengths(kind, backend, rng):
    """PyTorch packs the sequences without their padding, and reads the second direction from the end of each."""
    layer = Bidirectional(kind(3, 4, masked=True, rng=rng), kind(3, 4, masked=True, rng=rng))
    randomize(layer.to(backend, np.float64), rng)
    module = getattr(torch.nn, kind.__name__)(3, 4, batch_first=True, bidirectional=True).double()
    names = {"w_x": "weight_ih_l0", "w_h": "weight_hh_l0", "b_x": "bias_ih_l0", "b_h": "bias_hh_l0"}
    of_name = {f"{i}.{name}": theirs + ("_reverse" if i else "") for i in (0, 1) for name, theirs in names.items()}
    module.load_state_dict({theirs: tensor(layer.params[name].T) for name, theirs in of_name.items()})
    x, lengths = rng.standard_normal((3, 5, 3)), torch.tensor([2, 5, 1])
    x_torch = tensor(x).requires_grad_()
    packed = torch.nn.utils.rnn.pack_padded_sequence(x_torch, lengths, batch_first=True, enforce_sorted=False)
    y_torch, _ = torch.nn.utils.rnn.pad_packed_sequence(module(packed)[0], batch_first=True)  # 0 where it is padded
    mask = (np.arange(5) < lengths.numpy()[:, None])[:, :, None].astype(float)
    y, cache = layer.forward(np.dstack([x, mask]))
    close(mask * y[:, :, :-1], y_torch, "y")
    dy = mask * rng.standard_normal(y.shape)
    y_torch.backward(tensor(dy[:, :, :-1]))
    dx, grads = layer.backward(dy, cache)
    close(dx[:, :, :-1], x_torch.grad, "dx")
    for name, grad in grads.items():
        close(grad.T, getattr(module, of_name[name]).grad, name)


# ---------------------------------------------------------------- whole training steps


@pytest.mark.parametrize("optimizer", ["SGD", "Adam"])
@pytest.mark.parametrize(
    "preset", ["small", "tutorial", "mlp", "mp-gan", "upsample", "digits", "digits, labels", "table, labels"]
)
def test_five_training_steps(preset, optimizer, backend, rng):
    """Every weight and statistic agrees after two discriminator and two generator steps and a simultaneous step."""
    classes = 3 if "labels" in preset else 0
    shape = (8, 8, 1)
    if preset == "table, labels":
        shape, options = (9,), tables.TableNetworks(noise_size=4, g_width=5, d_width=6)
        G, D = tables.table(rng, shape, classes, options, models.Layout(((1, 4), (5, 8)), 1))
    else:
        G, D = models.build(preset.split(",")[0], rng=rng, sample_shape=shape, classes=classes)
    for network in (G, D):
        randomize(network.to(backend, np.float64), rng)
    G_torch, D_torch = Twin(G), Twin(D)
    if optimizer == "SGD":
        make, make_torch = lambda net: optim.SGD(net, lr=0.02, momentum=0.9), lambda p: torch.optim.SGD(p, 0.02, 0.9)
    else:
        # eps is well above the rounding error of a zero gradient, which Adam would otherwise scale up to a full step.
        make = lambda net: optim.Adam(net, lr=2e-3, beta1=0.5, eps=1e-5)  # noqa: E731
        make_torch = lambda p: torch.optim.Adam(p, 2e-3, (0.5, 0.999), eps=1e-5)  # noqa: E731
    opt_g, opt_d = make(G), make(D)
    torch_g, torch_d = (make_torch(list(twin.params.values())) for twin in (G_torch, D_torch))
    loss = losses.non_saturating
    for which in ("d", "g", "d", "g", "both"):
        real, z = rng.standard_normal((6, *shape)), rng.standard_normal((6, G.noise_shape[0]))
        labels = rng.integers(3, size=6) if classes else None
        g_masks = next_masks(G, z, labels=labels)
        d_masks = []
        for _ in ("real", "fake") if which != "g" else ("fake",):
            d_masks.append(next_masks(D, real, labels=labels))
            for name, b in D.buffers.items():
                if name.endswith("draws"):
                    b += np.uint64(1)
        for name, b in D.buffers.items():
            if name.endswith("draws"):
                b -= np.uint64(len(d_masks))

        torch_g.zero_grad()
        torch_d.zero_grad()
        fake = G_torch(tensor(z), track=which != "d", labels=labels, masks=g_masks)
        real_logits = None if which == "g" else D_torch(tensor(real), labels=labels, masks=d_masks[0])
        fake_logits = D_torch(fake, track=which != "g", labels=labels, masks=d_masks[-1])
        d_loss, g_loss = torch_losses(loss.name, real_logits, fake_logits)
        grads = {}
        for player, twin, value in (("d", D_torch, d_loss), ("g", G_torch, g_loss)):
            if which in (player, "both"):
                grads[player] = torch.autograd.grad(value, list(twin.params.values()), retain_graph=True)
        for player, twin, step in (("d", D_torch, torch_d), ("g", G_torch, torch_g)):
            if player in grads:
                for p, grad in zip(twin.params.values(), grads[player], strict=True):
                    p.grad = grad
                step.step()

        if which == "d":
            result = game.discriminator_step(G, D, opt_d, real, z, loss, labels)
        elif which == "g":
            result = game.generator_step(G, D, opt_g, z, loss, labels)
        else:
            result = game.simultaneous_step(G, D, opt_d, opt_g, real, z, loss, labels)
        if "d_loss" in result:
            close(result["d_loss"], d_loss, "d_loss")
            close(result["d_real"], torch.sigmoid(real_logits).mean(), "d_real")
            close(result["d_fake"], torch.sigmoid(fake_logits).mean(), "d_fake")
        if "g_loss" in result:
            close(result["g_loss"], g_loss, "g_loss")
    for network, twin in ((G, G_torch), (D, D_torch)):
        for name, p in network.params.items():
            close(p, twin.params[name], name)
        for name, b in twin.buffers.items():
            close(network.buffers[name], b, name)


@pytest.mark.parametrize(
    ("make", "make_torch"),
    [
        (lambda net: optim.SGD(net, lr=0.1), lambda p: torch.optim.SGD(p, 0.1)),
        (lambda net: optim.SGD(net, lr=0.1, momentum=0.9), lambda p: torch.optim.SGD(p, 0.1, 0.9)),
        (lambda net: optim.RMSProp(net, lr=0.01), lambda p: torch.optim.RMSprop(p, 0.01, alpha=0.9)),
        (lambda net: optim.Adam(net, lr=0.01), lambda p: torch.optim.Adam(p, 0.01)),
    ],
    ids=["SGD", "momentum", "RMSProp", "Adam"],
)
def test_twenty_steps_of_every_optimizer(make, make_torch, backend, rng):
    net = Dense(5, 4, rng=rng).to(backend, np.float64)
    twin = Twin(net)
    optimizer, optimizer_torch = make(net), make_torch(list(twin.params.values()))
    for _ in range(20):
        grads = {name: rng.standard_normal(p.shape) for name, p in net.params.items()}
        optimizer.step(grads)
        for name, p in twin.params.items():
            p.grad = tensor(grads[name])
        optimizer_torch.step()
    for name, p in net.params.items():
        close(p, twin.params[name], name)
