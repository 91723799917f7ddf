# %% [markdown]
# # 6. Convolution
#
# **Question.** How can a network use the fact that pixels have neighbours?
#
# **Needs.** Lesson 5. **Takes** 30 seconds, with `--quick` 10.
#
# A stroke looks the same wherever it is in the image. So the network does not need separate weights for every place. It
# can learn a few small filters, and each filter slides over the whole image.

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
# At each place (p, q), the filter covers a window of K x K pixels. Each pixel of the window is multiplied by the weight
# at the same place in the filter, and the products are added. So a filter is a neuron whose inputs are one window. O
# filters give O results for each place. These results are called *channels*:
#
#     y[n, p, q, o] = sum over i, j, c of  xpad[n, p*stride + i, q*stride + j, c] w[i, j, c, o]
#
# We choose two numbers. The **stride** is how many pixels the filter moves each time. A stride of 2 halves the height
# and the width. The **pad** is how many rows and columns of zeros we add on each side of the image, so that a pixel at
# the edge can also be in the middle of a window. This is the number of rows of windows in an image of H rows:
#
#     P = (H + 2 pad - K) // stride + 1


# %%
def convolve_by_loops(x, w, stride, pad):
    """Computes the convolution of the images x (N, H, W, C) with the filters w (K, K, C, O)."""
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
# ## What filters detect
#
# A filter gives its largest result where the image looks like the filter. The filter `upper` has negative weights at
# the top and positive weights at the bottom, so it finds upper edges. Its transpose finds left edges.

# %%
upper = np.array([[-1, -1, -1], [0, 0, 0], [1, 1, 1]]) / 3
filters = {
    "upper edges": upper,
    "left edges": upper.T,
    "any edges": np.array([[-1, -1, -1], [-1, 8, -1], [-1, -1, -1]]) / 8,
    "blur": np.full((3, 3), 1 / 9),
}
five = test.images[test.labels == 5][:1] / 255.0  # (1, 28, 28, 1): ink is 1, paper is 0 like the pad
seen = [convolve_by_loops(five, f[:, :, None, None], 1, 1)[0, :, :, 0] for f in filters.values()]

# An image that is bright from row 10 on: the upper-edge filter finds the edge, the left-edge filter gives 0 everywhere.
line = np.zeros((1, 20, 20, 1))
line[:, 10:] = 1
up, left = (convolve_by_loops(line, f[:, :, None, None], 1, 0) for f in (upper, upper.T))
assert np.isclose(up.max(), 1) and (left == 0).all() and (up[0, :, 5, 0] > 0.5).sum() == 2

# %% [markdown]
# **If the image moves, the result moves in the same way.** A dense layer does not have this property.

# %%
moved = np.roll(five, (2, 3), axis=(1, 2))  # 2 down, 3 right
assert np.allclose(
    convolve_by_loops(moved, upper[:, :, None, None], 1, 1)[:, 4:-1, 5:-1],
    np.roll(convolve_by_loops(five, upper[:, :, None, None], 1, 1), (2, 3), axis=(1, 2))[:, 4:-1, 5:-1],
)

# %% [markdown]
# ## One matrix product again: im2col
#
# Loops in Python are slow (lesson 13 measures how slow). Instead, write every window as a row of a large matrix, and
# every filter as a column of another matrix. Then the whole convolution is one matrix product, as in lesson 1. The
# backward pass uses the rules of lesson 3. This method is called *im2col*, which means "image to columns".


# %%
def im2col(x, K, stride, pad):
    """Returns all windows of the images as an array (N, P, Q, K*K*C)."""
    N, H, W, C = x.shape
    P, Q = (H + 2 * pad - K) // stride + 1, (W + 2 * pad - K) // stride + 1
    xpad = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    rows = [xpad[:, i : i + stride * P : stride, j : j + stride * Q : stride] for i in range(K) for j in range(K)]
    return np.stack(rows, axis=3).reshape(N, P, Q, K * K * C)  # each of the rows: pixel (i, j) of all windows


def conv_forward(x, w, stride, pad):
    """Computes the convolution as one matrix product."""
    K, _, C, O = w.shape
    return im2col(x, K, stride, pad) @ w.reshape(K * K * C, O)


def conv_backward(dy, x, w, stride, pad):
    """Returns the slopes dx and dw."""
    (N, H, W, C), (K, _, _, O), (_, P, Q, _) = x.shape, w.shape, dy.shape
    cols = im2col(x, K, stride, pad).reshape(-1, K * K * C)  # (N*P*Q, K*K*C)
    dw = (cols.T @ dy.reshape(-1, O)).reshape(w.shape)  # y = cols @ w
    dcols = (dy @ w.reshape(-1, O).T).reshape(N, P, Q, K, K, C)  # the slopes of each window
    dxpad = np.zeros((N, H + 2 * pad, W + 2 * pad, C))
    for i in range(K):
        for j in range(K):  # windows overlap, so the slopes of a pixel are added
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
# The network has two convolutions, each of which halves the height and the width, and a dense layer. It has about a
# tenth of the weights of lesson 5 and learns in the same way. It runs on minigan's compiled backend, which is faster.


# %%
def softmax_loss(l, labels):
    """Returns the mean loss and dl, as in lesson 5."""
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
# **The network reads more than 98.5% of the test digits right (97% with `--quick`).** It has about a tenth of the
# weights of lesson 5 and makes fewer mistakes.

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
# Replace the dots with your answer, uncomment the code, and run it.

# %% [markdown]
# **Exercise 1.** A 5 x 5 filter slides over 28 x 28 pixels with stride
#
# <details><summary>Hint</summary>
#
# Put the numbers into P = (H + 2 pad - K) // stride + 1. P must be 14.
#
# <details><summary>Solution</summary>
#
# ```python
# pad = 2
# ```
#
# </details></details>

# %% Exercise 1
# pad = ...
# assert conv_forward(five, np.zeros((5, 5, 1, 1)), 2, pad).shape == (1, 14, 14, 1)

# %% [markdown]
# **Exercise 2.** Which pad makes the result 14 x 14? 2. Write a 3 x 3 filter that moves the image one pixel to the
# right.
#
# <details><summary>Hint</summary>
#
# The result at a place must be the pixel to the left of this place. So only one weight is not 0.
#
# <details><summary>Solution</summary>
#
# ```python
# f = [[0, 0, 0], [1, 0, 0], [0, 0, 0]]
# ```
#
# </details></details>

# %% Exercise 2
# f = ...
# assert np.allclose(conv_forward(five, np.array(f, float)[:, :, None, None], 1, 1)[:, :, 1:], five[:, :, :-1])

# %% [markdown]
# The networks so far start with an image and end with a few numbers. A network that draws must go the other way, from a
# few numbers to an image. This is the subject of the next lesson, [07_going_up.py](07_going_up.py).
