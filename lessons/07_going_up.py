# %% [markdown]
# # 7. Going up again
#
# **Question.** How does a network make a large image of a small one?
#
# **Needs.** Lesson 6. **Takes** 2 seconds.
#
# A generator starts from a few numbers and ends with an image. There are two ways up: copy pixels, or run a convolution
# backwards. The second has a famous fault, which can be seen, explained and avoided.

# %%
import matplotlib.pyplot as plt
import numpy as np
from _common import save

from minigan import backends, datasets
from minigan.layers import Conv2d, ConvTranspose2d, Upsample

rng = np.random.default_rng(0)
reference = backends.reference()

# %% [markdown]
# ## Copying: nearest-neighbour upsampling
#
# Each pixel becomes a block of f x f equal ones: "reverse pooling". Backwards, a block's slopes add up, since all of
# its pixels came from the same one.


# %%
def upsample(x, f):
    N, H, W, C = x.shape
    y = np.zeros((N, f * H, f * W, C))
    for i in range(f):
        for j in range(f):
            y[:, i::f, j::f] = x  # pixel (i, j) of every block
    return y  # (N, f*H, f*W, C)


def upsample_backward(dy, f):
    return sum(dy[:, i::f, j::f] for i in range(f) for j in range(f))  # (N, H, W, C)


x, dy = rng.normal(size=(2, 4, 5, 3)), rng.normal(size=(2, 8, 10, 3))
layer = Upsample(2)
y, cache = layer.forward(x)
assert np.array_equal(upsample(x, 2), y) and np.allclose(upsample_backward(dy, 2), layer.backward(dy, cache)[0])

# %% [markdown]
# ## The transposed convolution
#
# A convolution is linear in the image: stretch image and result into long vectors and it is a matrix A, `y = A x`,
# mostly zeros. Let us write this matrix out, for a 4 x 4 filter of stride 2 that takes 6 x 6 pixels to 3 x 3. Column k
# is what the convolution makes of an image in which only pixel k is 1.

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
# The backward pass of `y = A x` is `dx = A.T dy` (lesson 3's rule). It takes 3 x 3 to 6 x 6: **up**. Used forwards, as
# a layer, this is the transposed convolution. In words: every small pixel stamps the filter, times its value, onto the
# large image, `stride` apart; where stamps overlap they add.


# %%
def stamp(x, w, stride, pad):  # x (N, H, W, C), w (K, K, O, C): the weight of the convolution that goes the other way
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
assert np.allclose(y, stamp(small, w, stride, pad)) and np.allclose(y.ravel(), A.T @ small.ravel())

# %% [markdown]
# The two are *adjoint*: for every image x and every small s, `<A x, s> = <x, A.T s>`. Neither undoes the other; they
# only have the same shape of wiring, walked in the two directions. So one pair of routines serves both layers: the
# forward pass of one is the backward pass of the other.

# %%
down = Conv2d(1, 1, 4, stride=stride, pad=pad, bias=False, rng=rng).to("numpy", np.float64)
down.params["w"][...] = w
smaller, cache = down.forward(image)
assert np.isclose((smaller * small).sum(), (image * y).sum(), rtol=1e-12)
assert np.allclose(down.backward(small, cache)[0], y)
assert not np.allclose(up.forward(smaller)[0], image)  # not the inverse

# %% [markdown]
# ## The checkerboard
#
# How many stamps fall on a pixel? If the filter's size is no multiple of the stride, some get more than others: with 3
# x 3 and stride 2, pixels take turns with one, two and four. Let every weight and every pixel be 1 and look:

# %%
ones = np.ones((1, 8, 8, 1))
counts = {k: stamp(ones, np.ones((k, k, 1, 1)), 2, 0)[0, k:-k, k:-k, 0] for k in (3, 4)}
assert set(counts[3].ravel()) == {1, 2, 4} and set(counts[4].ravel()) == {4}

# %% [markdown]
# **A filter whose size is a multiple of the stride covers every pixel alike; others print a pattern.** Still, with 4 x
# 4 each pixel of a 2 x 2 block is made by weights of its own, so an untrained or badly trained generator shows the
# pattern too. Upsampling followed by a convolution of stride 1 does not: all pixels away from the edge go through the
# same weights. (Odena et al. 2016, "Deconvolution and checkerboard artifacts".)
#
# We measure it: a flat grey image, random filters, how uneven is the result?


# %%
def ways_up(rng):
    """Three ways from (N, 8, 8, 1) to twice the size, with random weights."""
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
    print(f"{name:<22} standard deviation {np.mean(unevenness[name]):.3f} on a flat image")
assert np.mean(unevenness[names[2]]) < 1e-12 < 0.5 < min(np.mean(unevenness[n]) for n in names[:2])

# %% [markdown]
# minigan has generators of both kinds: `small` goes up by 4 x 4 transposed convolutions (fast), `upsample` by copying.

# %%
digit = datasets.scale(datasets.mnist("test").images[18:19])  # (1, 28, 28, 1)
digit = digit.reshape(1, 14, 2, 14, 2, 1).mean(axis=(2, 4)).astype(float)  # (1, 14, 14, 1), by pooling
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
save(figure, "07_going_up.png")

# %% [markdown]
# ## Exercises
#
# 1. A generator is to go from 7 x 7 to 14 x 14 in one transposed convolution of stride 2 with a 5 x 5 filter and pad 2.
#    `stride*(H-1) + K - 2*pad` is one short; which `output_pad` mends it?
# 2. Which filter (4, 4) makes the transposed convolution of stride 2 and pad 1 the same as `upsample` by 2?

# %% Exercise 1
# layer = ConvTranspose2d(1, 1, 5, stride=2, pad=2, output_pad=..., rng=rng)
# assert layer.forward(np.zeros((1, 7, 7, 1), np.float32))[0].shape == (1, 14, 14, 1)

# %% Exercise 2
# f = ...
# assert np.allclose(stamp(small, np.array(f, float).reshape(4, 4, 1, 1), 2, 1), upsample(small, 2))

# %% [markdown]
# Now there is all that two networks need to play against each other. Next,
# [08_forger_and_critic.py](08_forger_and_critic.py).
