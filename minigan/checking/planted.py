"""Do the checks catch mistakes? Plant one, run them, see.

Each `Mistake` is a small change of minigan's own source, of the kind that popular from-scratch projects have shipped
under green tests. It is made in memory: a second copy of the package is imported with the one module changed, its
`checks` run on it, and it is thrown away. `minigan gradcheck --planted` prints what came of it. For comparison the
`weak` checks run too: what such projects usually test with.

A mistake whose old text is no longer found exactly once raises an error, so that the list cannot rot in silence.
"""

import concurrent.futures
import contextlib
import importlib.abc
import importlib.machinery
import importlib.util
import multiprocessing
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from minigan.errors import UserError


@dataclass(frozen=True)
class Mistake:
    """`old` in the source of minigan.`module` becomes `new`."""

    family: str
    module: str
    title: str
    old: str
    new: str


MISTAKES = [
    # ---------------------------------------------------------------- dense layers and convolutions
    Mistake(
        "dense layers and convolutions",
        "layers",
        "Dense: dx has the wrong sign",
        'return self.backend.matmul(dy, self.params["w"].T)',
        'return -self.backend.matmul(dy, self.params["w"].T)',
    ),
    Mistake(
        "dense layers and convolutions",
        "layers",
        "Dense: weight gradient is a mean over the batch, not a sum",
        "return self.backend.matmul(x.T, dy)",
        "return self.backend.matmul(x.T, dy) / len(x)",
    ),
    Mistake(
        "dense layers and convolutions",
        "backends.numpy_backend",
        "bias gradient is a mean, not a sum",
        "return dy.sum(axis=tuple(range(dy.ndim - 1)))",
        "return dy.mean(axis=tuple(range(dy.ndim - 1)))",
    ),
    Mistake(
        "dense layers and convolutions",
        "backends.numpy_backend",
        "bias gradient summed over the first sample only",
        "return dy.sum(axis=tuple(range(dy.ndim - 1)))",
        "return dy[:1].sum(axis=tuple(range(dy.ndim - 1)))",
    ),
    Mistake(
        "dense layers and convolutions",
        "backends.numpy_backend",
        "bias gradient of what comes into the activation behind it, not of what comes out",
        "    dy = dy if slope == 1 else leaky_relu_grad(dy, y, slope)\n    return dy, sum_rows(dy)",
        "    dx = dy if slope == 1 else leaky_relu_grad(dy, y, slope)\n    return dx, sum_rows(dy)",
    ),
    Mistake(
        "dense layers and convolutions",
        "layers",
        "the activation behind a layer is left out where no gradients are asked for",
        "        elif slope != 1:\n            dy = self",
        "        elif False:\n            dy = self",
    ),
    Mistake(
        "dense layers and convolutions",
        "layers",
        "Conv2d: kernel flipped in dx",
        'return self.backend.conv2d_grad_x(dy, self.params["w"], x.shape, self.stride, self.pad)',
        'return self.backend.conv2d_grad_x(dy, self.params["w"][::-1, ::-1], x.shape, self.stride, self.pad)',
    ),
    Mistake(
        "dense layers and convolutions",
        "layers",
        "Conv2d: padding before and after swapped in dx",
        'return self.backend.conv2d_grad_x(dy, self.params["w"], x.shape, self.stride, self.pad)',
        'return self.backend.conv2d_grad_x(dy, self.params["w"], x.shape, self.stride, self.pad[::-1])',
    ),
    Mistake(
        "dense layers and convolutions",
        "layers",
        "Conv2d: weight gradient flipped",
        'self.backend.conv2d_grad_w(dy, x, self.params["w"].shape, self.stride, self.pad)',
        'self.backend.conv2d_grad_w(dy, x, self.params["w"].shape, self.stride, self.pad)[::-1, ::-1]',
    ),
    Mistake(
        "dense layers and convolutions",
        "layers",
        "Conv2d: weight gradient has rows and columns exchanged",
        'self.backend.conv2d_grad_w(dy, x, self.params["w"].shape, self.stride, self.pad)',
        'self.backend.conv2d_grad_w(dy, x, self.params["w"].shape, self.stride, self.pad).swapaxes(0, 1)',
    ),
    Mistake(
        "dense layers and convolutions",
        "layers",
        "ConvTranspose2d: kernel flipped in the forward pass",
        'return self.backend.conv2d_grad_x(x, self.params["w"], (N',
        'return self.backend.conv2d_grad_x(x, self.params["w"][::-1, ::-1], (N',
    ),
    Mistake(
        "dense layers and convolutions",
        "layers",
        "ConvTranspose2d: kernel flipped in dx",
        'return self.backend.conv2d(dy, self.params["w"], self.stride, self.pad)',
        'return self.backend.conv2d(dy, self.params["w"][::-1, ::-1], self.stride, self.pad)',
    ),
    Mistake(
        "dense layers and convolutions",
        "layers",
        "ConvTranspose2d: weight gradient has rows and columns exchanged",
        'self.backend.conv2d_grad_w(x, dy, self.params["w"].shape, self.stride, self.pad)',
        'self.backend.conv2d_grad_w(x, dy, self.params["w"].shape, self.stride, self.pad).swapaxes(0, 1)',
    ),
    Mistake(
        "dense layers and convolutions",
        "layers",
        "ConvTranspose2d: output_pad ignored",
        "- sum(self.pad) + self.output_pad",
        "- sum(self.pad)",
    ),
    Mistake(
        "dense layers and convolutions",
        "backends.numpy_backend",
        "input gradient: overlapping windows overwrite instead of adding",
        "j : j + stride * Q : stride] += dwindow",
        "j : j + stride * Q : stride] = dwindow",
    ),
    Mistake(
        "dense layers and convolutions",
        "backends.numpy_backend",
        "input gradient: padding cut off at the wrong end",
        "return np.ascontiguousarray(dx[:, before : before + H, before : before + W])",
        "return np.ascontiguousarray(dx[:, after : after + H, after : after + W])",
    ),
    Mistake(
        "dense layers and convolutions",
        "backends.numpy_backend",
        "weight gradient: only the first sample counts",
        "np.tensordot(windows(x, w_shape[0], stride, pad), dy,",
        "np.tensordot(windows(x, w_shape[0], stride, pad)[:1], dy[:1],",
    ),
    Mistake(
        "dense layers and convolutions",
        "backends.numpy_backend",
        "padding repeats the border instead of zeros",
        "((0, 0), (before, after), (before, after), (0, 0)))",
        '((0, 0), (before, after), (before, after), (0, 0)), mode="edge")',
    ),
    Mistake(
        "dense layers and convolutions",
        "backends.numpy_backend",
        "windows have rows and columns exchanged",
        ".transpose(0, 1, 2, 4, 5, 3)",
        ".transpose(0, 1, 2, 5, 4, 3)",
    ),
    Mistake(
        "dense layers and convolutions",
        "backends",
        "output size of a convolution is one short",
        "return (size + before + after - kernel) // stride + 1",
        "return max((size + before + after - kernel) // stride, 1)",
    ),
    # ---------------------------------------------------------------- batch norm
    Mistake(
        "batch norm",
        "backends.numpy_backend",
        "BatchNorm: dx without the mean's term",
        "dx = gamma * inv_std * (dy - dbeta / M - xhat * (dgamma / M))",
        "dx = gamma * inv_std * (dy - xhat * (dgamma / M))",
    ),
    Mistake(
        "batch norm",
        "backends.numpy_backend",
        "BatchNorm: dx without the variance's term",
        "dx = gamma * inv_std * (dy - dbeta / M - xhat * (dgamma / M))",
        "dx = gamma * inv_std * (dy - dbeta / M)",
    ),
    Mistake(
        "batch norm",
        "backends.numpy_backend",
        "BatchNorm: dx is 0",
        "dx = gamma * inv_std * (dy - dbeta / M - xhat * (dgamma / M))",
        "dx = 0 * gamma * inv_std * (dy - dbeta / M - xhat * (dgamma / M))",
    ),
    Mistake(
        "batch norm",
        "backends.numpy_backend",
        "BatchNorm: dx is 37 times too large",
        "dx = gamma * inv_std * (dy - dbeta / M - xhat * (dgamma / M))",
        "dx = 37 * gamma * inv_std * (dy - dbeta / M - xhat * (dgamma / M))",
    ),
    Mistake(
        "batch norm",
        "backends.numpy_backend",
        "BatchNorm with its activation: dx goes the way of a sign without beta",
        "dy = leaky_relu_grad(dy, gamma / np.sqrt(var + eps) * centred + beta, slope)",
        "dy = leaky_relu_grad(dy, gamma / np.sqrt(var + eps) * centred, slope)",
    ),
    Mistake(
        "batch norm",
        "backends.numpy_backend",
        "BatchNorm: dx divides by the batch instead of all positions",
        "M = dy.size // dy.shape[-1]",
        "M = dy.shape[0]",
    ),
    Mistake(
        "batch norm",
        "backends.numpy_backend",
        "BatchNorm: dx forgets gamma",
        "dx = gamma * inv_std * (dy - dbeta / M - xhat * (dgamma / M))",
        "dx = inv_std * (dy - dbeta / M - xhat * (dgamma / M))",
    ),
    Mistake(
        "batch norm",
        "layers",
        "BatchNorm: dx takes the running statistics for constants of the batch",
        "        if train:\n            dx, dgamma, dbeta = self.backend",
        "        if False:\n            dx, dgamma, dbeta = self.backend",
    ),
    Mistake(
        "batch norm",
        "layers",
        "BatchNorm: frozen, its dx is that of running statistics",
        "        if train:\n            dx, dgamma, dbeta = self.backend",
        "        if train and need_grads:\n            dx, dgamma, dbeta = self.backend",
    ),
    Mistake(
        "batch norm",
        "backends.numpy_backend",
        "BatchNorm: gamma's gradient from x centred but not scaled",
        "sum_rows(dy * xhat)",
        "sum_rows(dy * (x - mean))",
    ),
    Mistake(
        "batch norm",
        "backends.numpy_backend",
        "BatchNorm: eps left out",
        "y = gamma / np.sqrt(var + eps)",
        "y = gamma / np.sqrt(var)",
    ),
    Mistake(
        "batch norm",
        "backends.numpy_backend",
        "BatchNorm: float32 becomes float64",
        "y = gamma / np.sqrt(var + eps)",
        "y = gamma / np.sqrt(var + np.float64(eps))",
    ),
    Mistake(
        "batch norm",
        "backends.numpy_backend",
        "BatchNorm: momentum on the wrong side",
        "momentum * running + (1 - momentum) * batch\n\n",
        "(1 - momentum) * running + momentum * batch\n\n",
    ),
    Mistake(
        "batch norm",
        "backends.numpy_backend",
        "BatchNorm: running statistics never move",
        "running[...] =",
        "running =",
    ),
    Mistake(
        "batch norm",
        "layers",
        "BatchNorm: running variance is the unbiased one",
        "mean, var, self.momentum)",
        "mean, var * len(x) / (len(x) - 1), self.momentum)",
    ),
    Mistake(
        "batch norm",
        "layers",
        "BatchNorm: running statistics move although they are not tracked",
        "            if track:",
        "            if True:",
    ),
    Mistake(
        "batch norm",
        "layers",
        "BatchNorm: the batch's mean is used where the running one is due",
        'mean, var = self.buffers["mean"].copy(), self.buffers',
        "mean, var = x.mean(axis=tuple(range(x.ndim - 1))), self.buffers",
    ),
    # ---------------------------------------------------------------- layers without weights
    Mistake(
        "activations, dropout, shapes",
        "backends.numpy_backend",
        "LeakyReLU: mask of the wrong tensor",
        "return np.where(y.real > 0, dy, slope * dy)",
        "return np.where(dy.real > 0, dy, slope * dy)",
    ),
    Mistake(
        "activations, dropout, shapes",
        "backends.numpy_backend",
        "LeakyReLU: slope lost in dx",
        "return np.where(y.real > 0, dy, slope * dy)",
        "return np.where(y.real > 0, dy, 0 * dy)",
    ),
    Mistake(
        "activations, dropout, shapes",
        "backends.numpy_backend",
        "LeakyReLU: positive from 0.5 on",
        "np.where(x.real > 0, x",
        "np.where(x.real > 0.5, x",
    ),
    Mistake(
        "activations, dropout, shapes",
        "layers",
        "Tanh: 1 - y instead of 1 - y^2",
        "return dy * (1 - y * y)\n",
        "return dy * (1 - y)\n",
    ),
    Mistake(
        "activations, dropout, shapes",
        "layers",
        "Tanh: x kept instead of y",
        "xp.tanh(x)\n        return y, y",
        "xp.tanh(x)\n        return y, x",
    ),
    Mistake(
        "activations, dropout, shapes",
        "layers",
        "Sigmoid: dx without 1 - y",
        "return dy * (y * (1 - y))\n",
        "return dy * y\n",
    ),
    Mistake("activations, dropout, shapes", "layers", "Sigmoid: twice too steep", "xp.tanh(0.5 * x)", "xp.tanh(x)"),
    Mistake(
        "activations, dropout, shapes",
        "layers",
        "Dropout: dropped units get a gradient",
        "return dy if cache is None else self.backend.dropout(dy, *cache)",
        "return dy",
    ),
    Mistake(
        "activations, dropout, shapes",
        "backends.numpy_backend",
        "Dropout: kept units not scaled up",
        "x.real.dtype.type(65536 / (65536 - threshold))",
        "x.real.dtype.type(1)",
    ),
    Mistake(
        "activations, dropout, shapes",
        "backends.numpy_backend",
        "Dropout: kept and dropped exchanged",
        "(numbers >= threshold)",
        "(numbers < threshold)",
    ),
    Mistake(
        "activations, dropout, shapes",
        "layers",
        "Dropout: the same mask for ever",
        '["draws"] += np.uint64(1)',
        '["draws"] += np.uint64(0)',
    ),
    Mistake(
        "activations, dropout, shapes",
        "layers",
        "Dropout: drops when not training",
        "if not train or threshold == 0",
        "if threshold == 0",
    ),
    Mistake(
        "activations, dropout, shapes",
        "backends.numpy_backend",
        "Dropout: neighbours share their fate",
        "mask = (numbers >= threshold)",
        "mask = (np.repeat(numbers, 2)[: x.size] >= threshold)",
    ),
    Mistake(
        "activations, dropout, shapes",
        "layers",
        "Upsample: dx is the block's mean, not its sum",
        "C).sum(axis=(2, 4))",
        "C).mean(axis=(2, 4))",
    ),
    Mistake(
        "activations, dropout, shapes",
        "layers",
        "Upsample: dx takes one pixel of each block",
        "return dy.reshape(N, H, self.factor, W, self.factor, C).sum(axis=(2, 4))",
        "return dy[:, :: self.factor, :: self.factor]",
    ),
    Mistake(
        "activations, dropout, shapes",
        "layers",
        "Flatten: samples mixed",
        "return x.reshape(len(x), -1), x.shape",
        'return x.reshape(len(x), -1, order="F"), x.shape',
    ),
    Mistake(
        "activations, dropout, shapes",
        "layers",
        "Reshape: samples mixed",
        "return x.reshape(len(x), *self.shape), x.shape",
        'return x.reshape(len(x), *self.shape, order="F"), x.shape',
    ),
    Mistake(
        "activations, dropout, shapes",
        "layers",
        "Sequential: the first layer that learns gets a gradient that stopped above it",
        "need_dx or i > first, need_grads,",
        "need_dx or i > first + 1, need_grads,",
    ),
    Mistake(
        "activations, dropout, shapes",
        "layers",
        "MinibatchStdDev: each pixel gets the whole gradient of the mean over pixels",
        "self.strength / std.shape[1] * ds",
        "self.strength * ds",
    ),
    Mistake(
        "activations, dropout, shapes",
        "layers",
        "MinibatchStdDev: the gradient goes to pixels of other channels",
        "(self.strength / std.shape[1] * ds[:, None, :] / std)",
        "(self.strength / std.shape[1] * ds[:, None, ::-1] / std)",
    ),
    Mistake(
        "activations, dropout, shapes",
        "layers",
        "Sequential: the activation that batch norm computes has no part in dx",
        '"slope": self.layers[i + 1].slope} if self._folded[i + 1]',
        '"slope": 1.0} if self._folded[i + 1]',
    ),
    Mistake(
        "activations, dropout, shapes",
        "layers",
        "Sequential: the activation that batch norm computes is computed again",
        "if self._folded[i]:\n                caches.append(x)",
        "if False:\n                caches.append(x)",
    ),
    Mistake(
        "activations, dropout, shapes",
        "layers",
        "pack: every parameter begins where the first one does",
        "at += size\n        return flat",
        "at += 0\n        return flat",
    ),
    Mistake(
        "activations, dropout, shapes",
        "layers",
        "glorot_uniform: bound off by sqrt(2)",
        "math.sqrt(6 / (fan_in",
        "math.sqrt(3 / (fan_in",
    ),
    Mistake(
        "activations, dropout, shapes",
        "layers",
        "he_normal: bound of Glorot",
        "math.sqrt(2 / fan_in)",
        "math.sqrt(1 / fan_in)",
    ),
    # ---------------------------------------------------------------- losses
    Mistake(
        "losses",
        "losses",
        "D: gradient of the real logits has the wrong sign",
        "d_real = (smoothing - sigmoid(-real_logits))",
        "d_real = (smoothing + sigmoid(-real_logits))",
    ),
    Mistake(
        "losses",
        "losses",
        "D: gradient of the fake logits not divided by the batch",
        "d_fake = sigmoid(fake_logits) / fake_logits.size",
        "d_fake = sigmoid(fake_logits)",
    ),
    Mistake(
        "losses",
        "losses",
        "D: gradient of the fake logits divided by the real batch",
        "d_fake = sigmoid(fake_logits) / fake_logits.size",
        "d_fake = sigmoid(fake_logits) / real_logits.size",
    ),
    Mistake(
        "losses",
        "losses",
        "D: value is a sum over the fakes, not a mean",
        ".mean() + softplus(fake_logits).mean()",
        ".mean() + softplus(fake_logits).sum()",
    ),
    Mistake(
        "losses",
        "losses",
        "D: label smoothing in the value only",
        "d_real = (smoothing - sigmoid(-real_logits))",
        "d_real = (0 * smoothing - sigmoid(-real_logits))",
    ),
    Mistake(
        "losses", "losses", "D: label smoothing twice", "+ smoothing * real_logits)", "+ 2 * smoothing * real_logits)"
    ),
    Mistake(
        "losses",
        "losses",
        "G: the saturating gradient in the non-saturating loss",
        "softplus(-fake_logits).mean(), -sigmoid(-fake_logits)",
        "softplus(-fake_logits).mean(), -sigmoid(fake_logits)",
    ),
    Mistake(
        "losses",
        "losses",
        "G: probabilities clipped, so that no gradient is left at logit -20",
        "return softplus(-fake_logits).mean(), -sigmoid(-fake_logits)",
        "return softplus(-fake_logits).mean(), -1.0 * (abs(fake_logits) < 17) * sigmoid(-fake_logits)",
    ),
    Mistake(
        "losses",
        "losses",
        "G: minimax maximised",
        "-softplus(fake_logits).mean(), -sigmoid(fake_logits)",
        "softplus(fake_logits).mean(), sigmoid(fake_logits)",
    ),
    Mistake(
        "losses",
        "losses",
        "softplus: overflows",
        "return xp.where(positive, l, 0 * l) + xp.log1p(xp.exp(xp.where(positive, -l, l)))",
        "return xp.log1p(xp.exp(l))",
    ),
    Mistake(
        "losses",
        "losses",
        "cross entropy: gradient not divided by the batch",
        "(xp.exp(log_p) - one_hot) / len(logits)",
        "xp.exp(log_p) - one_hot",
    ),
    Mistake(
        "losses",
        "losses",
        "cross entropy: overflows",
        "shifted = logits - logits.max(axis=1, keepdims=True)",
        "shifted = logits",
    ),
    # ---------------------------------------------------------------- optimizers
    Mistake("optimizers", "optim", "SGD: uphill", "w -= self.lr * v", "w += self.lr * v"),
    Mistake(
        "optimizers", "optim", "SGD: the parameter is replaced, not moved", "w -= self.lr * v", "w = w - self.lr * v"
    ),
    Mistake("optimizers", "optim", "SGD: momentum left out", "v *= self.momentum", "v *= 0"),
    Mistake(
        "optimizers",
        "optim",
        "RMSProp: root left out",
        "w -= self.lr * dw / (v**0.5 + self.eps)",
        "w -= self.lr * dw / (v + self.eps)",
    ),
    Mistake(
        "optimizers",
        "optim",
        "RMSProp: eps left out",
        "w -= self.lr * dw / (v**0.5 + self.eps)",
        "w -= self.lr * dw / v**0.5",
    ),
    Mistake(
        "optimizers",
        "backends.numpy_backend",
        "Adam: bias correction left out",
        "lr / (1 - beta1**t) * m / (np.sqrt(1 / (1 - beta2**t) * v) + eps)",
        "lr * m / (np.sqrt(v) + eps)",
    ),
    Mistake(
        "optimizers",
        "backends.numpy_backend",
        "Adam: bias correction of the second moment with beta1",
        "(1 - beta2**t) * v",
        "(1 - beta1**t) * v",
    ),
    Mistake(
        "optimizers", "optim", "Adam: bias correction a step late", 'int(self.state["t"])', 'int(self.state["t"]) + 1'
    ),
    Mistake(
        "optimizers", "backends.numpy_backend", "Adam: second moment decays with beta1", "v *= beta2", "v *= beta1"
    ),
    Mistake(
        "optimizers",
        "backends.numpy_backend",
        "Adam: eps inside the root",
        "(np.sqrt(1 / (1 - beta2**t) * v) + eps)",
        "np.sqrt(1 / (1 - beta2**t) * v + eps)",
    ),
    Mistake(
        "optimizers",
        "backends.numpy_backend",
        "Adam: first moment from the squared gradient",
        "m += (1 - beta1) * dw",
        "m += (1 - beta1) * dw * dw",
    ),
    Mistake(
        "optimizers",
        "optim",
        "steps counted once for each parameter",
        'self.state["t"] += 1',
        'self.state["t"] += len(params)',
    ),
    Mistake(
        "optimizers",
        "optim",
        "MovingAverage: weights exchanged",
        "moving_average(a, now, 1 - d)",
        "moving_average(a, now, d)",
    ),
    Mistake("optimizers", "optim", "MovingAverage: no start-up", "min(self.decay, (1 + t) / (10 + t))", "self.decay"),
    Mistake(
        "optimizers",
        "optim",
        "MovingAverage: the network itself, not a copy",
        "copy.deepcopy(network, {id(network.backend): network.backend})",
        "network",
    ),
    Mistake(
        "optimizers",
        "optim",
        "MovingAverage: batch norm's statistics forgotten",
        "in self.network.buffers.items():\n            self._follow",
        "in ():\n            self._follow",
    ),
    Mistake(
        "optimizers",
        "optim",
        "gradients in another order than the weights",
        "[grads[name] for name in params]",
        "[grads[name] for name in reversed(params)]",
    ),
    # ---------------------------------------------------------------- the game
    Mistake(
        "the game",
        "game",
        "D step: the fake batch's cache used for the real one",
        "_, real_grads = D.backward(d_real_logits, real_cache, need_dx=False)\n"
        "    _, fake_grads = D.backward(d_fake_logits, fake_cache, need_dx=False)\n"
        "    opt_d.step(_sum(real_grads, fake_grads))\n    return {",
        "_, real_grads = D.backward(d_real_logits, fake_cache, need_dx=False)\n"
        "    _, fake_grads = D.backward(d_fake_logits, fake_cache, need_dx=False)\n"
        "    opt_d.step(_sum(real_grads, fake_grads))\n    return {",
    ),
    Mistake(
        "the game",
        "game",
        "D step: gradient of the real batch forgotten",
        'opt_d.step(_sum(real_grads, fake_grads))\n    return {"d_loss"',
        'opt_d.step(fake_grads)\n    return {"d_loss"',
    ),
    Mistake(
        "the game", "game", "D step: gradients averaged, not summed", "a[name] + b[name]", "(a[name] + b[name]) / 2"
    ),
    Mistake("the game", "game", "D step: gradients subtracted", "a[name] + b[name]", "a[name] - b[name]"),
    Mistake(
        "the game",
        "game",
        "D step: moves G's running statistics",
        "fake = G.forward(z, track=False, labels=labels)[0]",
        "fake = G.forward(z, labels=labels)[0]",
    ),
    Mistake(
        "the game",
        "game",
        "D step: fakes from G's running statistics",
        "fake = G.forward(z, track=False, labels=labels)[0]",
        "fake = G.forward(z, train=False, labels=labels)[0]",
    ),
    Mistake(
        "the game",
        "game",
        "D step: reports D(fake) of the real batch",
        '"d_fake": mean_sigmoid(fake_logits)}',
        '"d_fake": mean_sigmoid(real_logits)}',
    ),
    Mistake(
        "the game",
        "game",
        "G step: gradient has the wrong sign",
        "D.backward(d_logits, d_cache, need_grads=False)",
        "D.backward(-d_logits, d_cache, need_grads=False)",
    ),
    Mistake(
        "the game",
        "game",
        "G step: learns the discriminator's loss",
        "g_loss, d_logits = loss.generator(logits)",
        "g_loss, _, d_logits = loss.discriminator(logits, logits)",
    ),
    Mistake(
        "the game",
        "game",
        "G step: moves D's running statistics",
        "logits, d_cache = D.forward(fake, track=False, labels=labels)",
        "logits, d_cache = D.forward(fake, labels=labels)",
    ),
    Mistake(
        "the game",
        "game",
        "G step: through D's running statistics",
        "logits, d_cache = D.forward(fake, track=False, labels=labels)",
        "logits, d_cache = D.forward(fake, train=False, labels=labels)",
    ),
    Mistake(
        "the game",
        "game",
        "G step: does not move G's running statistics",
        "fake, fake_cache = G.forward(z, labels=labels)",
        "fake, fake_cache = G.forward(z, track=False, labels=labels)",
    ),
    Mistake(
        "the game",
        "game",
        "G step: computes its gradients and drops them",
        "opt_g.step(grads)",
        "opt_g.step({k: 0 * g for k, g in grads.items()})",
    ),
    Mistake(
        "the game",
        "game",
        "simultaneous step: G descends D's loss",
        "D.backward(dg_fake_logits, fake_cache",
        "D.backward(d_fake_logits, fake_cache",
    ),
    Mistake(
        "the game",
        "game",
        "simultaneous step: G learns through the real batch's cache",
        "D.backward(dg_fake_logits, fake_cache",
        "D.backward(dg_fake_logits, real_cache",
    ),
    Mistake(
        "the game",
        "game",
        "simultaneous step: D sees the real images with its running statistics",
        "fake, g_cache = G.forward(z, labels=labels)\n    real_logits, real_cache = D.forward(real, labels=labels)",
        "fake, g_cache = G.forward(z, labels=labels)\n    real_logits, real_cache = D.forward(real, train=False)",
    ),
    # ---------------------------------------------------------------- second derivatives
    Mistake(
        "second derivatives",
        "layers",
        "tangent of Dense and convolutions: the bias gets a gradient",
        'grads["b"] = self.backend.xp.zeros_like(grads["b"])',
        "pass",
    ),
    Mistake(
        "second derivatives",
        "layers",
        "tangent of Dense and convolutions: what comes back from above is dropped",
        "if dy is not None:  # y = A(w) x + b",
        "if False:  # y = A(w) x + b",
    ),
    Mistake(
        "second derivatives",
        "layers",
        "curvature of Tanh left out",
        "return -2 * dty * tx * y * (1 - y * y)",
        "return None",
    ),
    Mistake("second derivatives", "layers", "curvature of Tanh: wrong sign", "return -2 * dty", "return 2 * dty"),
    Mistake(
        "second derivatives",
        "layers",
        "curvature of Sigmoid: slope squared",
        "(y * (1 - y)) * (1 - 2 * y)",
        "(y * (1 - y)) ** 2 * (1 - 2 * y)",
    ),
    Mistake(
        "second derivatives",
        "layers",
        "curvature of BatchNorm left out",
        "dx = -(inv_std**2) * (",
        "dx = 0 * (inv_std**2) * (",
    ),
    Mistake(
        "second derivatives",
        "layers",
        "curvature of BatchNorm: half of the variance's term",
        "bent = u * (xhat * tx).mean(axis=axes) + tx * (xhat * u).mean(axis=axes)",
        "bent = u * (xhat * tx).mean(axis=axes)",
    ),
    Mistake(
        "second derivatives",
        "layers",
        "tangent of BatchNorm: the batch's statistics taken for constants",
        "txhat = inv_std * (self._off_statistics(tx, xhat) if train else tx)",
        "txhat = inv_std * tx",
    ),
    Mistake(
        "second derivatives",
        "layers",
        "tangent of units: dropped and leaky units let all through",
        "return self.gradient(tx, cache), tx",
        "return tx, tx",
    ),
    Mistake(
        "second derivatives",
        "penalties",
        "R1: a sum over the batch, not a mean",
        "_square_norms(g).mean()\n",
        "_square_norms(g).sum()\n",
    ),
    Mistake(
        "second derivatives",
        "penalties",
        "R1: gradient twice too large",
        "weight / len(g) * g)",
        "2 * weight / len(g) * g)",
    ),
    Mistake(
        "second derivatives",
        "penalties",
        "WGAN-GP: NaN where the gradient is zero",
        "xp.where(norm > 0, norm, 1)",
        "norm",
    ),
    Mistake(
        "second derivatives",
        "penalties",
        "WGAN-GP: gradient of norm^2 instead of (norm - 1)^2",
        "(norm - 1) / xp.where(norm > 0, norm, 1)",
        "xp.ones_like(norm)",
    ),
    Mistake(
        "second derivatives",
        "penalties",
        "WGAN-GP: one norm for the whole batch",
        "norm = xp.sqrt(_square_norms(g))",
        "norm = xp.sqrt(_square_norms(g).sum() + 0 * _square_norms(g))",
    ),
    Mistake(
        "second derivatives",
        "penalties",
        "WGAN-GP: at fakes instead of between",
        "x = share * real + (1 - share) * fake",
        "x = fake",
    ),
    Mistake(
        "second derivatives",
        "penalties",
        "penalties move D's running statistics",
        "D.forward(x, train=train, track=False, labels=labels)",
        "D.forward(x, train=train, labels=labels)",
    ),
    # ---------------------------------------------------------------- compiled backend
    # Only in lines of plain Python: changed compiled code would have to be compiled again for each mistake.
    Mistake(
        "compiled backend",
        "backends.numba.backend",
        "convolution: padding after in place of before",
        "conv_size(W, K, stride, pad), pads(pad)[0]",
        "conv_size(W, K, stride, pad), pads(pad)[1]",
    ),
    Mistake(
        "compiled backend",
        "backends.numba.backend",
        "input gradient: padding after in place of before",
        "x_shape, pads(pad)[0]",
        "x_shape, pads(pad)[1]",
    ),
    Mistake(
        "compiled backend",
        "backends.numba.backend",
        "weight gradient: padding after in place of before",
        "w_shape[0], pads(pad)[0]",
        "w_shape[0], pads(pad)[1]",
    ),
    Mistake(
        "compiled backend",
        "backends.numba.passes",
        "batch norm: eps left out of dx",
        "inv_std = (1 / np.sqrt(var + eps))",
        "inv_std = (1 / np.sqrt(var))",
    ),
    Mistake(
        "compiled backend",
        "backends.numba.passes",
        "batch norm with its activation: the activation has no part in dx",
        "count, slope = x.size // C, x.dtype.type(slope)",
        "count, slope = x.size // C, x.dtype.type(1)",
    ),
    Mistake(
        "compiled backend",
        "backends.numba.passes",
        "batch norm with its activation: dx goes the way of a sign without beta",
        "normal = gamma / np.sqrt(var + eps), mean, beta",
        "normal = gamma / np.sqrt(var + eps), mean, 0 * beta",
    ),
    Mistake(
        "compiled backend",
        "backends.numba.passes",
        "leaky ReLU: slope lost in dx",
        "y.reshape(-1), dy.dtype.type(slope)",
        "y.reshape(-1), dy.dtype.type(0)",
    ),
    Mistake(
        "compiled backend",
        "backends.numba.passes",
        "bias with its activation: slope lost in dx",
        "rows, dy.dtype.type(slope), dx",
        "rows, dy.dtype.type(0), dx",
    ),
    Mistake(
        "compiled backend",
        "backends.numba.passes",
        "bias with its activation: no activation in y",
        "rows, b, y.dtype.type(slope)",
        "rows, b, y.dtype.type(1)",
    ),
    Mistake(
        "compiled backend",
        "backends.numba.passes",
        "dropout: kept units not scaled up",
        "x.dtype.type(65536 / (65536 - threshold))",
        "x.dtype.type(1)",
    ),
    Mistake(
        "compiled backend",
        "backends.numba.passes",
        "Adam: bias correction of the second moment left out",
        "step, unbias = lr / (1 - beta1**t), 1 / (1 - beta2**t)",
        "step, unbias = lr / (1 - beta1**t), 1.0",
    ),
]


# ---------------------------------------------------------------- planting


@contextlib.contextmanager
def planted(mistake: Mistake) -> Iterator:
    """The `checks` of a fresh copy of minigan with the mistake in it; afterwards the real one is back in its place."""
    planter = _Planter(mistake)
    mine = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "minigan"}
    for name in mine:
        del sys.modules[name]
    sys.meta_path.insert(0, planter)
    try:
        yield importlib.import_module("minigan.checking.checks")
    finally:
        sys.meta_path.remove(planter)
        for name in [name for name in sys.modules if name.split(".")[0] == "minigan"]:
            del sys.modules[name]
        sys.modules.update(mine)


class _Planter(importlib.abc.MetaPathFinder):
    """Finds the one module, and changes its source on the way in."""

    def __init__(self, mistake: Mistake):
        self.name, self.mistake = f"minigan.{mistake.module}", mistake

    def find_spec(self, name, path, target=None):
        if name != self.name:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        spec.loader = _ChangedSource(name, spec.origin, self.mistake)
        return spec


class _ChangedSource(importlib.machinery.SourceFileLoader):
    def __init__(self, name, path, mistake):
        super().__init__(name, path)
        self.mistake = mistake

    def get_code(self, name):  # and no bytecode on disk
        return compile(changed(self.mistake, self.get_source(name)), self.path, "exec", dont_inherit=True)


def changed(mistake: Mistake, source: str) -> str:
    """The source with the mistake in it. Raises UserError unless the old text is there exactly once."""
    count = source.count(mistake.old)
    if count != 1:
        raise UserError(
            f"the planted mistake {mistake.title!r} expects its text once in {mistake.module}, found it {count} times: "
            f"bring minigan/checking/planted.py up to date with the source; the text is {mistake.old!r}"
        )
    return source.replace(mistake.old, mistake.new)


# ---------------------------------------------------------------- trying


@dataclass(frozen=True)
class Outcome:
    """Which checks found it. `wrong`: those with a wrong row; `crashed`: those that ended in an error."""

    mistake: Mistake
    wrong: tuple[str, ...]
    crashed: tuple[str, ...]
    weak: bool

    @property
    def caught_by(self) -> tuple[str, ...]:
        return self.wrong + self.crashed


def attempt(mistake: Mistake) -> Outcome:
    """Plants it and runs every check."""
    wrong, crashed = [], []
    with planted(mistake) as checks, np.errstate(all="ignore"):
        backend = checks.load("numba" if "numba" in mistake.module else "numpy")
        for name, check in checks.CHECKS.items():
            try:
                if not all(row.ok for row in check(backend)):
                    wrong.append(name)
            except Exception:
                crashed.append(name)
        try:
            weak = not all(row.ok for row in checks.weak(backend))
        except Exception:
            weak = True
    return Outcome(mistake, tuple(wrong), tuple(crashed), weak)


def attempt_all(mistakes: list[Mistake] | None = None) -> list[Outcome]:
    """All of them, one process for each core."""
    mistakes = MISTAKES if mistakes is None else mistakes
    context = multiprocessing.get_context("spawn")
    workers = min(os.cpu_count() or 1, 4)
    with concurrent.futures.ProcessPoolExecutor(workers, mp_context=context) as pool:
        return list(pool.map(attempt, mistakes, chunksize=4))


# ---------------------------------------------------------------- telling


def details(outcomes: list[Outcome]) -> str:
    """One line a mistake: what caught it, and whether the weak checks would have."""
    titles = [f"{o.mistake.family}: {o.mistake.title}" for o in outcomes]
    width = max(map(len, titles), default=0)
    lines = [f"{'planted mistake':<{width}}  {'weak checks':<13}caught by"]
    for o, title in zip(outcomes, titles, strict=True):
        lines.append(f"{title:<{width}}  {'caught' if o.weak else 'missed':<13}{', '.join(o.caught_by) or 'NOTHING'}")
    return "\n".join(lines)


def summary(outcomes: list[Outcome]) -> str:
    """A Markdown table: by family, how many were planted and caught."""
    lines = [
        "| where the mistake is | planted | caught | by one check only | caught by weak checks |",
        "|---|---:|---:|---:|---:|",
    ]
    families = list(dict.fromkeys(o.mistake.family for o in outcomes))
    for family in [*families, None]:
        of = [o for o in outcomes if family in (o.mistake.family, None)]
        caught, weak = sum(bool(o.caught_by) for o in of), sum(o.weak for o in of)
        single = sum(len(o.caught_by) == 1 for o in of)
        lines.append(f"| {family or '**all**'} | {len(of)} | {caught} | {single} | {weak} |")
    return "\n".join(lines)


BEGIN, END = "<!-- planted:begin -->", "<!-- planted:end -->"


def block(text: str) -> str:
    """What stands between the markers in a README. Raises UserError where they are not there once each, in order."""
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise UserError(f"expected one {BEGIN} and after it one {END}: put these two lines where the table belongs")
    return text.split(BEGIN)[1].split(END)[0].strip()


def update(path: Path, outcomes: list[Outcome]) -> None:
    """Writes the summary between the markers of that file."""
    text = path.read_text(encoding="utf-8")
    block(text)
    head, tail = text.split(BEGIN)[0], text.split(END)[1]
    path.write_text(f"{head}{BEGIN}\n{summary(outcomes)}\n{END}{tail}", encoding="utf-8")
