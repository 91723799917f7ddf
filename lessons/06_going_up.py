# %% [markdown]
# # 6. Going up again
#
# **Question.** How does a network make a large image from a small one?
#
# **You will know** two ways to make an image larger, what a transposed convolution has to do with a backward pass, and
# where the checkerboard in many generated images comes from.
#
# **Builds on** [lesson 5](05_convolution.py). **Takes** 35 minutes to read, 3 seconds to run.
#
# A *[generator](GLOSSARY.md#generator)* is a network that makes images. It starts with a few numbers and ends with an
# image. On the way, it has to make small images larger. We look at two ways: copy the pixels, or run a convolution
# backwards. The second way has a fault. This lesson shows the fault, explains it, and shows how to avoid it.

# %%
import matplotlib.pyplot as plt
import numpy as np
from _common import BLUE, GREY, ORANGE, arrow, blank, cells, save

from minigan import backends, datasets, models
from minigan.layers import Conv2d, ConvTranspose2d, Upsample

rng = np.random.default_rng(0)
reference = backends.reference()

# %% [markdown]
# ## Copying: nearest-neighbour upsampling
#
# Each pixel becomes a block of f x f equal pixels. In the backward pass, the slopes of a block are added, because all
# its pixels are copies of the same pixel: f x f paths start there ([lesson 3](03_backpropagation.py)).


# %%
def upsample(x, f):
    """Copies each pixel of x (N, H, W, C) into a block of f x f pixels."""
    N, H, W, C = x.shape
    y = np.zeros((N, f * H, f * W, C))
    for i in range(f):
        for j in range(f):
            y[:, i::f, j::f] = x  # pixel (i, j) of every block
    return y  # (N, f*H, f*W, C)


def upsample_backward(dy, f):
    """Adds the slopes of each block of f x f pixels."""
    return sum(dy[:, i::f, j::f] for i in range(f) for j in range(f))  # (N, H, W, C)


x, dy = rng.normal(size=(2, 4, 5, 3)), rng.normal(size=(2, 8, 10, 3))
layer = Upsample(2)
y, cache = layer.forward(x)
assert np.array_equal(upsample(x, 2), y) and np.allclose(upsample_backward(dy, 2), layer.backward(dy, cache)[0])

# %% [markdown]
# ## The transposed convolution
#
# A convolution is linear in the image. If we write the image and the result as long vectors, the convolution is a
# matrix product, `y = A x`, and most numbers in the matrix A are 0. We compute this matrix for a 4 x 4 filter with
# stride 2, from 6 x 6 pixels to 3 x 3 pixels. Column k of A is the result of the convolution for an image in which
# pixel k is 1 and all other pixels are 0.

# %%
w = rng.normal(size=(4, 4, 1, 1))
stride, pad, H, P = 2, 1, 6, 3
A = np.zeros((P * P, H * H))  # (9, 36)
for k in range(H * H):
    pixel = np.zeros(H * H)
    pixel[k] = 1
    A[:, k] = reference.conv2d(pixel.reshape(1, H, H, 1), w, stride, pad).ravel()
image, small = rng.normal(size=(1, H, H, 1)), rng.normal(size=(1, P, P, 1))
assert np.allclose(A @ image.ravel(), reference.conv2d(image, w, stride, pad).ravel())

# %% [markdown]
# The backward pass of `y = A x` is `dx = A.T dy`, by the rule for a matrix product in
# [lesson 3](03_backpropagation.py). It goes from 3 x 3 pixels to 6 x 6 pixels, so it makes an image larger. If we use
# it as the forward pass of a layer, the layer is called a
# *[transposed convolution](GLOSSARY.md#transposed-convolution)*. The filter is multiplied by each pixel of the small
# image and added to the large image, like a stamp. The stamps are `stride` pixels apart. Where stamps overlap, they are
# added. **So a transposed convolution is the backward pass of a convolution.**


# %%
def stamp(x, w, stride, pad):
    """Computes the transposed convolution of x (N, H, W, C) with the weights w (K, K, O, C) of the convolution."""
    (N, H, W, _), (K, _, O, _) = x.shape, w.shape
    y = np.zeros((N, stride * (H - 1) + K, stride * (W - 1) + K, O))
    for p in range(H):
        for q in range(W):
            y[:, p * stride : p * stride + K, q * stride : q * stride + K] += np.einsum("nc,ijoc->nijo", x[:, p, q], w)
    return y[:, pad:-pad, pad:-pad] if pad else y  # size stride*(H-1) + K - 2*pad


up = ConvTranspose2d(1, 1, 4, stride=stride, pad=pad, bias=False, rng=rng).to("numpy", np.float64)
up.params["w"][...] = w
y, _ = up.forward(small)
assert y.shape == (1, H, H, 1)
assert np.allclose(y, stamp(small, w, stride, pad)) and np.allclose(y.ravel(), A.T @ small.ravel()), (
    "A transposed convolution is the product with the transposed matrix of a convolution."
)

# %% [markdown]
# ## Worked by hand: three stamps
#
# We take one row of pixels, x = (1, 2, 3), the filter (1, 10, 100) and stride 2. The decimal places show which pixel
# went where:
#
#     1 * filter       1   10  100
#     2 * filter               2   20  200
#     3 * filter                       3   30  300
#     result           1   10  102  20 203  30  300
#
# The result has stride * (3 - 1) + K = 2 * 2 + 3 = 7 pixels. Two stamps overlap at the third pixel and at the fifth. A
# convolution with the same filter and stride goes the other way, from 7 pixels to (7 - 3) // 2 + 1 = 3. The figure
# shows both. Each arrow is one multiplication, and the arrows of the two layers are the same, in opposite directions.

# %%
filter_row = np.array([1.0, 10.0, 100.0])
row, square = np.array([1.0, 2.0, 3.0]), np.zeros((3, 3, 1, 1))
square[1, :, 0, 0] = filter_row  # as a 3 x 3 filter whose other rows are 0
stamped = stamp(row.reshape(1, 1, 3, 1), square, 2, 0)[0, 1, :, 0]  # (7,)
assert stamped.tolist() == [1, 10, 102, 20, 203, 30, 300]
long = np.array([1.0, 0, 2, 0, 3, 0, 4])  # (7,)
convolved = [float(long[2 * p : 2 * p + 3] @ filter_row) for p in range(3)]  # 1 + 200, 2 + 300, 3 + 400
assert convolved == [201, 302, 403]

figure, axes = plt.subplots(1, 2, figsize=(10, 2.7))
for axis, top, bottom, title in (
    (axes[0], long, convolved, "convolution, stride 2: 7 pixels to 3"),
    (axes[1], row, stamped, "transposed convolution, stride 2: 3 pixels to 7"),
):
    blank(axis, 15.4, 5.2)
    down = len(top) == 7
    at = {3: [2.4 + 4 * k for k in range(3)], 7: [0.4 + 2 * k for k in range(7)]}
    for values, height, colour in ((top, 5, "#cfe3f5"), (bottom, 1.2, "#f9d5c4")):
        for x_at, value in zip(at[len(values)], values, strict=True):
            cells(axis, x_at, height, [[value]], colour)
    for p in range(3):
        for k in range(3):
            wide, narrow = at[7][2 * p + k] + 0.5, at[3][p] + 0.5
            ends = ((wide, 3.95), (narrow, 1.25)) if down else ((narrow, 3.95), (wide, 1.25))
            arrow(axis, *ends, colour=(BLUE, GREY, ORANGE)[p], lw=1)
    axis.set_title(title)
save(figure, "06_diagram.png")

# %% [markdown]
# ## Adjoint, not inverse
#
# The two operations are *[adjoint](GLOSSARY.md#adjoint)*: for every image x and every small image s,
# `<A x, s> = <x, A.T s>`. They are not the inverse of each other: A.T does not restore the image that went into A. The
# forward pass of each layer is the backward pass of the other, so the same two functions serve both layers.

# %%
down = Conv2d(1, 1, 4, stride=stride, pad=pad, bias=False, rng=rng).to("numpy", np.float64)
down.params["w"][...] = w
smaller, cache = down.forward(image)
assert np.isclose((smaller * small).sum(), (image * y).sum(), rtol=1e-12)
assert np.allclose(down.backward(small, cache)[0], y)  # the backward pass of `down` is the forward pass of `up`
assert np.allclose(up.backward(image, up.forward(small)[1])[0], smaller)  # and the other way round
assert not np.allclose(up.forward(smaller)[0], image)  # not the inverse

# %% [markdown]
# ## The checkerboard
#
# How many stamps cover a pixel? If the size of the filter is not a multiple of the stride, the number differs from
# pixel to pixel. With 3 x 3 filters and stride 2, a pixel is covered once, twice or four times. To count, we set all
# weights and all pixels to 1:

# %%
ones = np.ones((1, 8, 8, 1))
counts = {k: stamp(ones, np.ones((k, k, 1, 1)), 2, 0)[0, k:-k, k:-k, 0] for k in (3, 4)}
assert set(counts[3].ravel()) == {1, 2, 4} and set(counts[4].ravel()) == {4}

# %% [markdown]
# **If the size of the filter is a multiple of the stride, every pixel away from the edge is covered equally often.
# Otherwise some pixels are covered more often than their neighbours.** This is one cause of
# [checkerboard](GLOSSARY.md#checkerboard) patterns. There is a second: even with a 4 x 4 filter, each pixel of a 2 x 2
# block is computed with different weights. [Upsampling](GLOSSARY.md#upsampling) followed by a convolution with stride 1
# has neither fault, because all pixels away from the edge are computed with the same weights. (Odena et al. 2016,
# "Deconvolution and checkerboard artifacts".)

# %%
for s in (2, 3):
    for k in range(s, 8):
        covered = stamp(ones, np.ones((k, k, 1, 1)), s, 0)[0, k:-k, k:-k, 0]
        assert (covered.min() == covered.max()) == (k % s == 0), (
            "All pixels are covered equally often if and only if the filter size is a multiple of the stride."
        )

# %% [markdown]
# To measure the fault, we take an image in which all pixels are equal, apply random filters, and compute the standard
# deviation of the result. **With random weights, both transposed convolutions draw a pattern into a flat image, and
# upsampling with a convolution does not.**


# %%
def ways_up(rng):
    """Returns three functions that double the height and width of (N, H, W, 1), with random weights."""
    three, four, conv = (rng.normal(size=(k, k, 1, 1)) for k in (3, 4, 3))
    return {
        "transposed, 3 x 3": lambda x: stamp(x, three, 2, 1),
        "transposed, 4 x 4": lambda x: stamp(x, four, 2, 1),
        "upsample, then 3 x 3": lambda x: reference.conv2d(upsample(x, 2), conv, 1, 1),
    }


names = list(ways_up(rng))
unevenness = {name: [] for name in names}
for _ in range(100):
    for name, way in ways_up(rng).items():
        inner = way(ones)[0, 3:-3, 3:-3, 0]
        unevenness[name].append(inner.std())
for name in names:
    print(f"{name:<22} standard deviation {np.mean(unevenness[name]):.3f} for a flat image")
assert np.mean(unevenness[names[2]]) < 1e-12 < 0.5 < min(np.mean(unevenness[n]) for n in names[:2]), (
    "Random transposed convolutions draw a pattern into a flat image; upsampling and a convolution do not."
)

# %% [markdown]
# minigan has both kinds of generators: the preset `small` uses 4 x 4 transposed convolutions, and the preset `upsample`
# copies pixels.

# %%
kinds = {}
for preset in ("small", "upsample"):
    kinds[preset] = {type(layer) for layer in models.build(preset, rng=np.random.default_rng(0))[0].layers}
assert ConvTranspose2d in kinds["small"] and Upsample not in kinds["small"]
assert Upsample in kinds["upsample"] and ConvTranspose2d not in kinds["upsample"]

# %%
digit = datasets.scale(datasets.mnist("test").images[18:19])  # (1, 28, 28, 1)
digit = digit.reshape(1, 14, 2, 14, 2, 1).mean(axis=(2, 4)).astype(float)  # (1, 14, 14, 1), by mean pooling
figure, axes = plt.subplots(2, 4, figsize=(10, 5.2))
axes[0, 0].imshow(digit[0, :, :, 0], cmap="gray")
axes[0, 0].set_title("14 x 14 pixels, to be doubled")
for axis, (name, way) in zip(axes[0, 1:], ways_up(np.random.default_rng(3)).items(), strict=True):
    axis.imshow(way(digit)[0, :, :, 0], cmap="gray")
    axis.set_title(name)
axes[1, 0].imshow(A, cmap="RdBu", vmin=-2, vmax=2)
axes[1, 0].set_title("a convolution as a matrix\n(9 x 36): 4 x 4, stride 2")
axes[1, 1].imshow(A.T, cmap="RdBu", vmin=-2, vmax=2)
axes[1, 1].set_title("its transpose goes up")
for axis, k in zip(axes[1, 2:], (3, 4), strict=True):
    picture = axis.imshow(counts[k][:8, :8], cmap="viridis", vmin=0, vmax=4)
    for (p, q), n in np.ndenumerate(counts[k][:8, :8]):
        axis.text(q, p, f"{n:.0f}", ha="center", va="center", color="white" if n < 3 else "black", fontsize=8)
    axis.set_title(f"stamps on each pixel,\n{k} x {k}, stride 2")
for axis in axes.flat:
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
save(figure, "06_going_up.png")

# %% [markdown]
# ## Exercises
#
# Replace the dots with your answer, uncomment the code, and run it.

# %% [markdown]
# **Exercise 1.** A generator has to go from 7 x 7 to 14 x 14 with one transposed convolution of stride 2, a 5 x 5
# filter and pad 2. The size `stride*(H-1) + K - 2*pad` is 13, which is one too small. Which `output_pad` makes it 14?
#
# <details><summary>Hint</summary>
#
# `output_pad` adds this number of rows and columns.
#
# <details><summary>Solution</summary>
#
# ```python
# layer = ConvTranspose2d(1, 1, 5, stride=2, pad=2, output_pad=1, rng=rng)
# ```
#
# </details></details>

# %% Exercise 1
# layer = ConvTranspose2d(1, 1, 5, stride=2, pad=2, output_pad=..., rng=rng)
# assert layer.forward(np.zeros((1, 7, 7, 1), np.float32))[0].shape == (1, 14, 14, 1)

# %% [markdown]
# **Exercise 2.** Which filter (4, 4) makes the transposed convolution with stride 2 and pad 1 equal to `upsample` by 2?
#
# <details><summary>Hint</summary>
#
# With pad 1, the outer rows and columns are cut off at the edge. Each pixel should become a block of 2 x 2 equal pixels
# and nothing else.
#
# <details><summary>Solution</summary>
#
# ```python
# f = [[0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
# ```
#
# </details></details>

# %% Exercise 2
# f = ...
# assert np.allclose(stamp(small, np.array(f, float).reshape(4, 4, 1, 1), 2, 1), upsample(small, 2))

# %% [markdown]
# The next lesson, [07_forger_and_critic.py](07_forger_and_critic.py), trains a generator and a
# [discriminator](GLOSSARY.md#discriminator) against each other.
