# %% [markdown]
# # 6. Convolution
#
# **Question.** How can a network know that pixels have neighbours?
#
# **Needs.** Lesson 5. **Takes** 30 seconds, with `--quick` 10.
#
# A stroke is a stroke wherever it lies. So instead of weights for every place, learn a few small filters and slide each
# over the whole image.

# %%
import matplotlib.pyplot as plt
import numpy as np
from _common import QUICK, save

from minigan import backends, datasets, optim
from minigan.layers import Conv2d, Dense, Flatten, ReLU, Sequential, he_normal

rng = np.random.default_rng(0)
train, test = datasets.mnist("train"), datasets.mnist("test")
x_train, x_test = datasets.scale(train.images), datasets.scale(test.images)  # (60000, 28, 28, 1), (10000, 28, 28, 1)

# %% [markdown]
# ## The sliding filter
#
# At each place (p, q) the filter lies over a window of K x K pixels; each is multiplied by the weight above it, and all
# is added: a neuron that looks at one window. O filters give O new "colours", or *channels*:
#
#     y[n, p, q, o] = sum over i, j, c of  xpad[n, p*stride + i, q*stride + j, c] w[i, j, c, o]
#
# Two choices: the **stride**, how far the filter moves each time (2 halves the image), and the **pad**, how many zeros
# surround the image, so that its edge can be the middle of a window too. Rows of windows that fit into H pixels:
#
#     P = (H + 2 pad - K) // stride + 1


# %%
def convolve_by_loops(x, w, stride, pad):
    (N, H, W, C), (K, _, _, O) = x.shape, w.shape
    P, Q = (H + 2 * pad - K) // stride + 1, (W + 2 * pad - K) // stride + 1
    xpad = np.zeros((N, H + 2 * pad, W + 2 * pad, C))
    xpad[:, pad : pad + H, pad : pad + W] = x
    y = np.zeros((N, P, Q, O))
    for n in range(N):
        for p in range(P):
            for q in range(Q):
                window = xpad[n, p * stride : p * stride + K, q * stride : q * stride + K]  # (K, K, C)
                for o in range(O):
                    y[n, p, q, o] = (window * w[:, :, :, o]).sum()
    return y  # (N, P, Q, O)


reference = backends.reference()  # minigan's plain implementation
x, w = rng.normal(size=(2, 9, 8, 3)), rng.normal(size=(3, 3, 3, 4))
for stride, pad in ((1, 0), (1, 1), (2, 1), (3, 2)):
    assert np.allclose(convolve_by_loops(x, w, stride, pad), reference.conv2d(x, w, stride, pad))

# %% [markdown]
# ## What filters see
#
# A filter answers most loudly where the image looks like the filter. This one is dark above and bright below, so it
# finds upper edges; turned, it finds left edges.

# %%
upper = np.array([[-1, -1, -1], [0, 0, 0], [1, 1, 1]]) / 3
filters = {
    "upper edges": upper,
    "left edges": upper.T,
    "any edges": np.array([[-1, -1, -1], [-1, 8, -1], [-1, -1, -1]]) / 8,
    "blur": np.full((3, 3), 1 / 9),
}
five = test.images[test.labels == 5][:1] / 255.0  # (1, 28, 28, 1): ink 1 on paper 0, as the zeros of the pad
seen = [convolve_by_loops(five, f[:, :, None, None], 1, 1)[0, :, :, 0] for f in filters.values()]

# A line that is bright below row 10: the upper-edge filter sees it, the left-edge filter sees nothing.
line = np.zeros((1, 20, 20, 1))
line[:, 10:] = 1
up, left = (convolve_by_loops(line, f[:, :, None, None], 1, 0) for f in (upper, upper.T))
assert np.isclose(up.max(), 1) and (left == 0).all() and (up[0, :, 5, 0] > 0.5).sum() == 2

# %% [markdown]
# **Move the image and the answer moves with it.** A dense layer knows nothing of the kind.

# %%
moved = np.roll(five, (2, 3), axis=(1, 2))  # 2 down, 3 right
assert np.allclose(
    convolve_by_loops(moved, upper[:, :, None, None], 1, 1)[:, 4:-1, 5:-1],
    np.roll(convolve_by_loops(five, upper[:, :, None, None], 1, 1), (2, 3), axis=(1, 2))[:, 4:-1, 5:-1],
)

# %% [markdown]
# ## One matrix product again: im2col
#
# Loops in Python are slow (lesson 13 measures how slow). Write every window as a row of a large matrix, and every
# filter as a column: then the whole convolution is one product of matrices, lesson 1's, and its backward pass is lesson
# 3's.


# %%
def im2col(x, K, stride, pad):
    N, H, W, C = x.shape
    P, Q = (H + 2 * pad - K) // stride + 1, (W + 2 * pad - K) // stride + 1
    xpad = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    rows = [xpad[:, i : i + stride * P : stride, j : j + stride * Q : stride] for i in range(K) for j in range(K)]
    return np.stack(rows, axis=3).reshape(N, P, Q, K * K * C)  # pixel (i, j) of every window at once


def conv_forward(x, w, stride, pad):
    K, _, C, O = w.shape
    return im2col(x, K, stride, pad) @ w.reshape(K * K * C, O)


def conv_backward(dy, x, w, stride, pad):
    (N, H, W, C), (K, _, _, O), (_, P, Q, _) = x.shape, w.shape, dy.shape
    cols = im2col(x, K, stride, pad).reshape(-1, K * K * C)  # (N*P*Q, K*K*C)
    dw = (cols.T @ dy.reshape(-1, O)).reshape(w.shape)  # y = cols @ w
    dcols = (dy @ w.reshape(-1, O).T).reshape(N, P, Q, K, K, C)  # what each window gets back ...
    dxpad = np.zeros((N, H + 2 * pad, W + 2 * pad, C))
    for i in range(K):
        for j in range(K):  # ... is added where its pixels came from; windows overlap, so a pixel gets several
            dxpad[:, i : i + stride * P : stride, j : j + stride * Q : stride] += dcols[:, :, :, i, j]
    return dxpad[:, pad : pad + H, pad : pad + W], dw


layer = Conv2d(3, 4, 3, stride=2, pad=1, bias=False, rng=rng).to("numpy", np.float64)
y, cache = layer.forward(x)
dy = rng.normal(size=y.shape)
dx, grads = layer.backward(dy, cache)
assert np.allclose(y, conv_forward(x, layer.params["w"], 2, 1))
for ours, theirs in zip(conv_backward(dy, x, layer.params["w"], 2, 1), (dx, grads["w"]), strict=True):
    assert np.allclose(ours, theirs)

# %% [markdown]
# ## A convolutional network reads digits
#
# Two convolutions that halve the image, and a dense layer to answer. It has a tenth of lesson 5's weights, learns in
# the same way, and runs on minigan's compiled backend (the same numbers, faster).


# %%
def softmax_loss(l, labels):  # lesson 5's
    p = np.exp(l - l.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    right = (np.arange(len(l)), labels)
    loss = -np.log(p[right] + 1e-30).mean()
    p[right] -= 1
    return loss, p / len(l)


network = Sequential(
    Conv2d(1, 16, 5, stride=2, pad=2, rng=rng, init=he_normal),  # (N, 28, 28, 1) -> (N, 14, 14, 16)
    ReLU(),
    Conv2d(16, 32, 3, stride=2, pad=1, rng=rng, init=he_normal),  # -> (N, 7, 7, 32)
    ReLU(),
    Flatten(),  # -> (N, 1568)
    Dense(7 * 7 * 32, 10, rng=rng),
).to("numba")
print(f"{network.n_params:,} weights; lesson 5 had 203,530")
assert network.n_params < 203_530 / 9
epochs, batch = 1 if QUICK else 5, 64
steps = epochs * (len(x_train) // batch)
adam = optim.Adam(network, lr=3e-3)
for epoch in range(epochs):
    order = rng.permutation(len(x_train))
    for i in range(0, len(order) - batch + 1, batch):
        chosen = order[i : i + batch]
        l, cache = network.forward(x_train[chosen])  # (64, 10)
        _, dl = softmax_loss(l, train.labels[chosen])
        _, grads = network.backward(dl, cache, need_dx=False)
        adam.lr = 3e-3 * (1 - int(adam.state["t"]) / steps)
        adam.step(grads)
    l = np.concatenate([network.forward(x_test[i : i + 500], train=False)[0] for i in range(0, 10000, 500)])
    accuracy = (l.argmax(axis=1) == test.labels).mean()
    print(f"epoch {epoch + 1}: {accuracy:.2%} of the test digits read right")

# %% [markdown]
# **Above 98.5%**: a tenth of the weights, and half of lesson 5's mistakes.

# %%
assert accuracy > (0.97 if QUICK else 0.985)

# %%
figure = plt.figure(figsize=(10, 4.6))
top, bottom = figure.subfigures(2, 1, height_ratios=(1.15, 1))
axes = top.subplots(1, 5)
axes[0].imshow(five[0, :, :, 0], cmap="gray")
axes[0].set_title("a digit")
for axis, (name, f), picture in zip(axes[1:], filters.items(), seen, strict=True):
    size = abs(picture[1:-1, 1:-1]).max()
    axis.imshow(picture, cmap="RdBu_r", vmin=-size, vmax=size)
    axis.set_title(name)
    corner = axis.inset_axes((0.02, 0.02, 0.24, 0.24))
    corner.imshow(f, cmap="gray", vmin=-abs(f).max(), vmax=abs(f).max())
    corner.set(xticks=[], yticks=[])
bottom.suptitle("the 16 filters that the network learnt, and what they see of the digit", fontsize=11)
first, _ = network.layers[0].forward(2 * five.astype(np.float32) - 1)  # (1, 14, 14, 16)
for k, pair in enumerate(bottom.subplots(2, 16).T):
    f = network.params["0.w"][:, :, 0, k]
    pair[0].imshow(f, cmap="gray", vmin=-abs(f).max(), vmax=abs(f).max())
    pair[1].imshow(first[0, :, :, k], cmap="RdBu_r", vmin=-abs(first).max() / 2, vmax=abs(first).max() / 2)
for axis in figure.axes:
    axis.axis("off")
save(figure, "06_convolution.png")

# %% [markdown]
# ## Exercises
#
# 1. A 5 x 5 filter moves over 28 x 28 pixels with stride 2. Which pad makes the result 14 x 14?
# 2. Write a 3 x 3 filter that moves the image one pixel to the right.

# %% Exercise 1
# pad = ...
# assert conv_forward(five, np.zeros((5, 5, 1, 1)), 2, pad).shape == (1, 14, 14, 1)

# %% Exercise 2
# f = ...
# assert np.allclose(conv_forward(five, np.array(f, float)[:, :, None, None], 1, 1)[:, :, 1:], five[:, :, :-1])

# %% [markdown]
# A network that reads goes down, from an image to an answer. One that draws must go up. Next,
# [07_going_up.py](07_going_up.py).
