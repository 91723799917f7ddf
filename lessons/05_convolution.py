# %% [markdown]
# # 5. Convolution
#
# **Question.** How can a network use the fact that pixels have neighbours?
#
# **You will know** how a filter slides over an image, what stride, padding, pooling and receptive field mean, how a
# convolution becomes one matrix product, and why a convolutional network reads digits better with fewer weights.
#
# **Builds on** [lesson 4](04_reading_digits.py). **Takes** 45 minutes to read, 27 seconds to run, 10 with `--quick`.
#
# A stroke looks the same wherever it is in the image. So the network does not need separate weights for every place. It
# can learn a few small [filters](GLOSSARY.md#filter), and each filter slides over the whole image.

# %%
import matplotlib.pyplot as plt
import numpy as np
from _common import BLUE, GREY, ORANGE, QUICK, blank, cells, save
from matplotlib.patches import Rectangle

from minigan import backends, datasets, optim
from minigan.checking import gradcheck
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
# We choose two numbers. The *[stride](GLOSSARY.md#stride)* is how many pixels the filter moves each time. The
# *[pad](GLOSSARY.md#padding)* is how many rows and columns of zeros we add on each side of the image, so that a pixel
# at the edge can also be in the middle of a window. This is the number of rows of windows in an image of H rows:
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
# ## Worked by hand: one window
#
# This image has 5 x 5 pixels and the filter 3 x 3. The first window is the upper left corner of the image:
#
#     window = 1 0 2     filter = 1 0 -1     1*1 + 0*0 + 2*-1
#              0 3 1              2 0 -2     + 0*2 + 3*0 + 1*-2
#              1 2 0              1 0 -1     + 1*1 + 2*0 + 0*-1   =   1 - 2 - 2 + 1   =   -2
#
# The window moves one pixel to the right for the next number, and so on: P = (5 + 0 - 3) // 1 + 1 = 3 rows and columns
# of results. With stride 2, we get every second one, so P = (5 + 0 - 3) // 2 + 1 = 2.

# %%
small = np.array([[1, 0, 2, 1, 0], [0, 3, 1, 0, 1], [1, 2, 0, 2, 3], [0, 1, 1, 0, 2], [2, 0, 1, 3, 0]], float)  # (5, 5)
kernel = np.array([[1, 0, -1], [2, 0, -2], [1, 0, -1]], float)  # (3, 3)
slid = convolve_by_loops(small[None, :, :, None], kernel[:, :, None, None], 1, 0)[0, :, :, 0]  # (3, 3)
strided = convolve_by_loops(small[None, :, :, None], kernel[:, :, None, None], 2, 0)[0, :, :, 0]  # (2, 2)
assert slid[0, 0] == -2 and slid.shape == (3, 3) and strided.shape == (2, 2) and (strided == slid[::2, ::2]).all()

figure, axes = plt.subplots(1, 2, figsize=(10, 2.6))
for axis, stride, result in zip(axes, (1, 2), (slid, strided), strict=True):
    blank(axis, 16, 6.2)
    P = len(result)
    cells(axis, 0.2, 5.2, small)
    cells(axis, 7, 4.2, kernel, "#eeeeee")
    cells(
        axis,
        12.6,
        4.2,
        result,
        [["#cfe3f5"] + ["white"] * (P - 1)] + [["white"] * P] * (P - 2) + [["white"] * (P - 1) + ["#f9d5c4"]],
    )
    for place, colour in ((0, BLUE), (stride * (P - 1), ORANGE)):
        axis.add_patch(Rectangle((0.2 + place, 2.2 - place), 3, 3, fill=False, edgecolor=colour, linewidth=3))
    for x_at, sign in ((6, "*"), (11.2, "=")):
        axis.text(x_at, 2.6, sign, fontsize=16, ha="center", va="center", color=GREY)
    for x_at, name in ((2.7, "image"), (8.5, "filter"), (12.6 + P / 2, "result")):
        axis.text(x_at, 5.6, name, ha="center")
    axis.set_title(f"stride {stride}: {P} x {P} windows")
save(figure, "05_diagram.png")

# %% [markdown]
# ## "Same" padding
#
# Often the result should have as many pixels as the image. With stride 1 and an odd K, this needs pad = (K - 1) / 2: 1
# for 3 x 3, 2 for 5 x 5, 3 for 7 x 7. This choice is called *same* padding. Without a pad, each layer loses K - 1 rows
# and columns. Six layers of 5 x 5 filters turn 28 x 28 pixels into 4 x 4, and a seventh does not fit. With stride 2 and
# the same pad, P = (28 + 2 * 2 - 5) // 2 + 1 = 14: **a stride of 2 halves the height and the width.**

# %%
for K, pad in ((3, 1), (5, 2), (7, 3)):
    assert backends.conv_size(28, K, 1, pad) == 28  # the formula for P
    assert backends.conv_size(28, K, 2, pad) == 14, 'With "same" padding, a stride of 2 halves the height and width.'
sizes = [28]
while sizes[-1] >= 5:
    sizes.append(backends.conv_size(sizes[-1], 5, 1, 0))
assert sizes == [28, 24, 20, 16, 12, 8, 4]  # after six layers, 5 x 5 filters no longer fit

# %% [markdown]
# ## What filters detect
#
# A filter gives a large result where the image looks like the filter. The filter `upper` has negative weights at the
# top and positive weights at the bottom, so it finds upper edges. Its transpose finds left edges.

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
# **If the image moves, the result moves in the same way.** A [dense layer](GLOSSARY.md#dense-layer) does not have this
# property.

# %%
moved = np.roll(five, (2, 3), axis=(1, 2))  # 2 down, 3 right


def moves_along(layer):
    """Returns True if the result of the layer (1, 28, 28, 1) for the moved image is the moved result."""
    return np.allclose(layer(moved)[:, 4:-1, 5:-1], np.roll(layer(five), (2, 3), axis=(1, 2))[:, 4:-1, 5:-1])


dense_w = rng.normal(size=(784, 784))
assert moves_along(lambda x: convolve_by_loops(x, upper[:, :, None, None], 1, 1)), (
    "If the image moves, the result of a convolution moves in the same way."
)
assert not moves_along(lambda x: (x.reshape(1, 784) @ dense_w).reshape(1, 28, 28, 1))  # a dense layer

# %% [markdown]
# ## Pooling
#
# Another way to make an image smaller is *[pooling](GLOSSARY.md#pooling)*: divide it into blocks of 2 x 2 pixels and
# replace each block by one number. *Mean pooling* takes the mean, and *max pooling* takes the largest number:
#
#     1 3 | 0 2
#     5 7 | 4 6         mean pooling: 4 3        max pooling: 7 6
#     ----+----                       2 1                     8 2
#     8 0 | 1 1
#     0 0 | 2 0
#
# The backward pass follows the paths of [lesson 3](03_backpropagation.py). In mean pooling, each pixel has a path with
# the factor 1/4, so it gets dy / 4. In max pooling, only the largest pixel has a path to the result, so this pixel gets
# dy and the others get 0. minigan's networks use a stride of 2 in place of pooling. Here we use pooling only to make
# smaller pictures.


# %%
def blocks(x):
    """Returns the 2 x 2 blocks of x (N, H, W, C) as an array (N, H/2, W/2, C, 4)."""
    N, H, W, C = x.shape
    return x.reshape(N, H // 2, 2, W // 2, 2, C).transpose(0, 1, 3, 5, 2, 4).reshape(N, H // 2, W // 2, C, 4)


def unblocks(b):
    """Returns x (N, H, W, C) from its 2 x 2 blocks."""
    N, P, Q, C, _ = b.shape
    return b.reshape(N, P, Q, C, 2, 2).transpose(0, 1, 4, 2, 5, 3).reshape(N, 2 * P, 2 * Q, C)


def mean_pool_backward(dy):
    """Gives each pixel of a block a quarter of the slope of the mean."""
    return unblocks(np.repeat(dy[..., None] / 4, 4, axis=-1))


def max_pool_backward(dy, x):
    """Gives the largest pixel of each block the slope of the maximum."""
    b = blocks(x)
    return unblocks(dy[..., None] * (np.arange(4) == b.argmax(axis=-1)[..., None]))


by_hand = np.array([[1, 3, 0, 2], [5, 7, 4, 6], [8, 0, 1, 1], [0, 0, 2, 0]], float)[None, :, :, None]  # (1, 4, 4, 1)
assert blocks(by_hand).mean(axis=-1).ravel().tolist() == [4, 3, 2, 1]
assert blocks(by_hand).max(axis=-1).ravel().tolist() == [7, 6, 8, 2]
x, dy = rng.normal(size=(2, 6, 4, 3)), rng.normal(size=(2, 3, 2, 3))
assert (unblocks(blocks(x)) == x).all()
for value, dx in (
    (lambda: (dy * blocks(x).mean(axis=-1)).sum(), mean_pool_backward(dy)),
    (lambda: (dy * blocks(x).max(axis=-1)).sum(), max_pool_backward(dy, x)),
):
    assert all(row.ok for row in gradcheck.check(value, lambda dx=dx: {"x": dx}, {"x": x}))

# %% [markdown]
# ## One matrix product again: im2col
#
# Loops in Python are slow ([lesson 13](13_making_it_fast.py) measures how slow). Instead, write every window as a row
# of a large matrix, and every filter as a column of another matrix. **Then the whole
# [convolution](GLOSSARY.md#convolution) is one matrix product.** The backward pass uses the rules of
# [lesson 3](03_backpropagation.py). This method is called *[im2col](GLOSSARY.md#im2col)*, which means "image to
# columns".


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


x = rng.normal(size=(2, 9, 8, 3))
layer = Conv2d(3, 4, 3, stride=2, pad=1, bias=False, rng=rng).to("numpy", np.float64)
y, cache = layer.forward(x)
dy = rng.normal(size=y.shape)
dx, grads = layer.backward(dy, cache)
assert np.allclose(y, conv_forward(x, layer.params["w"], 2, 1)), "A convolution is one matrix product (im2col)."
for ours, theirs in zip(conv_backward(dy, x, layer.params["w"], 2, 1), (dx, grads["w"]), strict=True):
    assert np.allclose(ours, theirs)

# %% [markdown]
# ## The receptive field
#
# The *[receptive field](GLOSSARY.md#receptive-field)* of a number in a network is the part of the image that it depends
# on. One layer of 3 x 3 filters sees 3 x 3 pixels. In a second layer of 3 x 3 filters with stride 1, each number sees
# 3 x 3 windows that overlap, so 5 x 5 pixels. If the first layer has stride 2, its windows are 2 pixels apart, and the
# second layer sees 3 + 2 * 2 = 7 pixels in each direction. In general, each layer adds
#
#     (K - 1) * (the product of the strides of all layers before it)
#
# The network below has 5 x 5 filters with stride 2, then 3 x 3 filters with stride 2. So a number after two layers sees
# 5 + (3 - 1) * 2 = 9 pixels in each direction. We measure this with a backward pass: **a pixel is in the receptive
# field if its slope is not 0.**


# %%
def receptive_field(layers):
    """Returns the height and width of the receptive field, measured with a backward pass from one number."""
    net = Sequential(*layers).to("numpy", np.float64)
    y, cache = net.forward(rng.normal(size=(1, 28, 28, 1)))
    dy = np.zeros_like(y)
    dy[0, y.shape[1] // 2, y.shape[2] // 2, 0] = 1  # one number in the middle
    dx, _ = net.backward(dy, cache)
    rows, columns = np.nonzero(dx[0, :, :, 0])
    return int(np.ptp(rows)) + 1, int(np.ptp(columns)) + 1


def conv(K, stride):
    return Conv2d(1, 1, K, stride=stride, pad=(K - 1) // 2, rng=rng)


assert receptive_field([conv(3, 1)]) == (3, 3)
assert receptive_field([conv(3, 1), conv(3, 1)]) == (5, 5)
assert receptive_field([conv(3, 2), conv(3, 1)]) == (7, 7)
assert receptive_field([conv(5, 2), conv(3, 2)]) == (9, 9), (
    "After 5 x 5 and 3 x 3 filters with stride 2, a number depends on 9 x 9 pixels."
)

# %% [markdown]
# ## A convolutional network reads digits
#
# The network has two convolutions, each of which halves the height and the width, and a dense layer. To compare, we
# also train the dense network of [lesson 4](04_reading_digits.py) in the same way, on the same batches.


# %%
def softmax_loss(l, labels):
    """Returns the mean loss and dl, as in 04_reading_digits.py."""
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
).to("numba")  # the compiled backend of 13_making_it_fast.py
dense = Sequential(Flatten(), Dense(784, 256, rng=rng, init=he_normal), ReLU(), Dense(256, 10, rng=rng)).to("numba")
print(f"{network.n_params:,} weights; the dense network has {dense.n_params:,}")
assert network.n_params < dense.n_params / 9


def read_digits(network, lr, epochs=1 if QUICK else 4, batch=64):
    """Trains the network, and returns the number of mistakes with the 10,000 test digits."""
    order_rng, adam, steps = np.random.default_rng(1), optim.Adam(network, lr=lr), epochs * (len(x_train) // batch)
    for epoch in range(epochs):
        order = order_rng.permutation(len(x_train))
        for i in range(0, len(order) - batch + 1, batch):
            chosen = order[i : i + batch]
            l, cache = network.forward(x_train[chosen])  # (64, 10)
            _, dl = softmax_loss(l, train.labels[chosen])
            _, grads = network.backward(dl, cache, need_dx=False)
            adam.lr = lr * (1 - int(adam.state["t"]) / steps)
            adam.step(grads)
        l = np.concatenate([network.forward(x_test[i : i + 500], train=False)[0] for i in range(0, 10000, 500)])
        mistakes = int((l.argmax(axis=1) != test.labels).sum())
        print(f"epoch {epoch + 1}: {mistakes} of 10,000 test digits read wrong")
    return mistakes


mistakes, dense_mistakes = read_digits(network, 3e-3), read_digits(dense, 2e-3)

# %% [markdown]
# **The network reads more than 98.5% of the test digits right (97% with `--quick`).** It has about a tenth of the
# weights of the dense network, and it makes fewer mistakes after the same number of epochs.

# %%
assert mistakes < (300 if QUICK else 150), (
    "A convolutional network reads more than 98.5% of new digits right (97% with `--quick`)."
)
assert mistakes < dense_mistakes, (
    "A convolutional network makes fewer mistakes than a dense network with nine times as many weights."
)

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
save(figure, "05_convolution.png")

# %% [markdown]
# ## Exercises
#
# Replace the dots with your answer, uncomment the code, and run it.

# %% [markdown]
# **Exercise 1.** A 5 x 5 filter slides over 28 x 28 pixels with stride 2. Which pad makes the result 14 x 14?
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
# **Exercise 2.** Write a 3 x 3 filter that moves the image one pixel to the
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
# few numbers to an image. This is the subject of the next lesson, [06_going_up.py](06_going_up.py).
