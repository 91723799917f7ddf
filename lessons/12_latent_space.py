# %% [markdown]
# # 12. The latent space
#
# **Question.** What does a generator draw from noise vectors between two others, near the origin, and far from it?
#
# **You will know** why nearby noise vectors give similar images, where random vectors of many dimensions are, two ways
# to walk from one image to another, and what happens near the origin.
#
# **Builds on** [lesson 9](09_dcgan.py). **Takes** 30 minutes to read, 5 seconds to run, 5 with `--quick`, if the
# checkpoint of [lesson 9](09_dcgan.py) exists. Otherwise it first trains in the same way.
#
# A generator is a function from 64 numbers to an image. The space of these 64 numbers is called the
# *[latent space](GLOSSARY.md#latent-space)*. During the training, G received random points of this space. Here we look
# at other points: points between two noise vectors, points near the origin, and points far from it.

# %%
import matplotlib.pyplot as plt
import numpy as np
from _common import QUICK, RUNS, save

from minigan import backends, datasets
from minigan.report import plots
from minigan.training import Config, Training, checkpoint

# %% [markdown]
# ## A trained generator
#
# We use the generator of [lesson 9](09_dcgan.py). If its checkpoint exists, we load it, and no training is needed.

# %%
steps = 400 if QUICK else 1874
config = Config.of("small", steps=steps, average=0.995, batch=64, lr_g=1e-3, lr_d=1e-3)
training = Training(config, datasets.mnist(), backends.load("auto"))
file = RUNS / f"09_small_{steps}.npz"
if file.exists():
    training.load_state(file, *checkpoint.load(file))
else:
    print("no checkpoint of 09_dcgan.py: training")
for _ in training.records():
    pass


def images(z):
    """Returns the images (N, 28, 28, 1), as bytes, for the noise vectors z (N, 64)."""
    return training.sampler.of(training.backend.asarray(z.astype(np.float32)))


def distance(a, b):
    """Returns the root mean squared differences (N,) between the pixels of two arrays of images."""
    return np.sqrt(((a.astype(float) - b) ** 2).mean(axis=(1, 2, 3)))


rng = np.random.default_rng(4)

# %% [markdown]
# ## A plane
#
# We change two of the 64 coordinates, and the other 62 are 0. The origin is in the middle of this plane. The digits
# change smoothly into each other: **noise vectors that are close to each other give similar images**. Nothing in the
# loss asks for this. It happens because a network is a continuous function: if z moves a little, each layer's result
# moves a little.

# %%
side = np.linspace(-4, 4, 9)
plane = np.zeros((9, 9, 64))
plane[..., 0], plane[..., 1] = side, side[:, None]  # coordinate 0 to the right, coordinate 1 down
plane_images = images(plane.reshape(81, 64))  # (81, 28, 28, 1)

z = rng.standard_normal((200, 64))
unrelated = distance(images(z[:100]), images(z[100:])).mean()
near = distance(images(z), images(z + 0.05 * rng.standard_normal(z.shape))).mean()
print(f"mean difference of two images, of 255: {unrelated:.0f} for independent noise, {near:.1f} for similar noise")
assert near < 0.35 * unrelated, "Noise vectors that are close to each other give similar images."

# %% [markdown]
# ## The length of noise vectors
#
# In 64 dimensions, normally distributed noise does not behave as in two or three dimensions. Each coordinate is small,
# but there are 64 of them. The length of z is the square root of the sum of 64 squares, each with mean 1. So the length
# is about 8, and hardly ever below 6 or above 10. **Nearly all noise vectors are in a thin shell, and the space near
# the origin is empty.**

# %%
lengths = np.linalg.norm(rng.standard_normal((100_000, 64)), axis=1)
print(f"length of z: mean {lengths.mean():.2f}, standard deviation {lengths.std():.2f}, minimum {lengths.min():.2f}")
assert abs(lengths.mean() - 8) < 0.1 and 0.6 < lengths.std() < 0.8
assert ((lengths < 6) | (lengths > 10)).mean() < 0.01 and lengths.min() > 4, (
    "Over 99% of the noise vectors in 64 dimensions have a length between 6 and 10. None of 100,000 is shorter than 4."
)

# %% [markdown]
# ## From a to b: straight, or along the shell
#
# The straight path `(1 - t) a + t b` leaves the shell and passes closer to the origin. The
# [spherical path](GLOSSARY.md#spherical-path) rotates a into b and stays near the shell (White 2016). In this formula,
# w is the angle between a and b:
#
#     slerp(t) = sin((1 - t) w) / sin(w) a  +  sin(t w) / sin(w) b


# %%
def straight(a, b, t):
    """Returns points (T, 64) on the straight path from a to b, both (64,), for t (T,)."""
    return (1 - t)[:, None] * a + t[:, None] * b


def spherical(a, b, t):
    """Returns points (T, 64) on the spherical path from a to b, both (64,), for t (T,)."""
    w = np.arccos(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    return (np.sin((1 - t) * w)[:, None] * a + np.sin(t * w)[:, None] * b) / np.sin(w)


t = np.linspace(0, 1, 11)  # (11,)
ways = {name: way(z[11], z[12], t) for name, way in (("straight", straight), ("spherical", spherical))}
for name, way in ways.items():
    assert np.allclose(way[0], z[11]) and np.allclose(way[-1], z[12])
    print(f"{name:<9} path, lengths: " + " ".join(f"{n:.1f}" for n in np.linalg.norm(way, axis=1)))
middle = {name: np.linalg.norm(way[5]) for name, way in ways.items()}
assert middle["straight"] < 6.5 < 7 < middle["spherical"]  # 8 / sqrt(2) = 5.7 for a right angle

# %% [markdown]
# Two random vectors in 64 dimensions are nearly at a right angle. So the middle of most straight paths has a length of
# about 8 / sqrt(2) = 5.7. Fewer than 0.5% of 100,000 noise vectors are shorter than this. Are the images in the middle
# of straight paths worse? As in [lesson 9](09_dcgan.py), we measure how far they are from the nearest real digit. **In
# the middle of straight paths, the images of this generator are about as close to real digits as elsewhere.** So here,
# the rare length does no harm.

# %%
reference = datasets.mnist().images[:10_000].reshape(10_000, 784).astype(np.float32)


def to_nearest(z):
    """Returns the mean distance from the images of z (N, 64) to the nearest of 10,000 real digits."""
    a = images(z).reshape(len(z), 784).astype(np.float32)
    squares = (a * a).sum(axis=1)[:, None] + (reference * reference).sum(axis=1) - 2 * a @ reference.T  # (N, 10000)
    return np.sqrt(np.maximum(squares.min(axis=1), 0)).mean()


usual, half_way = to_nearest(z[:100]), to_nearest((z[:100] + z[100:]) / 2)
print(f"distance to the nearest real digit: {usual:.0f} at the usual length, {half_way:.0f} half-way on straight paths")
assert 0.8 < half_way / usual < 1.2, (
    "In the middle of straight paths, images are about as close to real digits as elsewhere."
)
cosines = (z[:100] * z[100:]).sum(axis=1) / np.linalg.norm(z[:100], axis=1) / np.linalg.norm(z[100:], axis=1)
assert abs(cosines).mean() < 0.2
assert (lengths < 8 / np.sqrt(2)).mean() < 0.005

# %% [markdown]
# ## Near the origin, and far from it
#
# We take the same directions and change the length. **Near the origin, the images of different directions are more
# alike. Far from it, more pixels are fully black or white.** At the origin itself, there is only one image.

# %%
factors = [0, 0.1, 0.25, 1, 2, 4]
rows = {f: images(f * z) for f in factors}  # factor: (200, 28, 28, 1)
variety = {f: rows[f].std(axis=0).mean() for f in factors}
saturated = {f: ((rows[f] == 0) | (rows[f] == 255)).mean() for f in factors}
for f in factors:
    print(f"length {8 * f:4.1f}: variety {variety[f]:4.0f}, {saturated[f]:.0%} of the pixels fully black or white")
assert variety[0] == 0 and variety[0.1] < 0.7 * variety[1], "Near the origin, images vary less than at usual lengths."
assert saturated[4] > saturated[1], "Far from the origin, more pixels are fully black or white."

# %%
figure = plt.figure(figsize=(10, 5.2))
left, right = figure.subfigures(1, 2, width_ratios=(1, 1.15))
axis = left.subplots()
axis.imshow(plots.grid(plane_images, 9, 1)[..., 0], cmap="gray", vmin=0, vmax=255)
ticks = (np.arange(9) * 30 + 16)[::2]
axis.set_xticks(ticks, [f"{s:.0f}" for s in side[::2]])
axis.set_yticks(ticks, [f"{s:.0f}" for s in side[::2]])
axis.set(title="a plane: two coordinates move, 62 are 0", xlabel="z[0]", ylabel="z[1]")
top, bottom = right.subfigures(2, 1, height_ratios=(1, 1.9))
for axis, (name, way) in zip(top.subplots(2, 1), ways.items(), strict=True):
    axis.imshow(plots.grid(images(way), 11, 1)[..., 0], cmap="gray", vmin=0, vmax=255)
    axis.set(xticks=[], yticks=[], ylabel=name)
top.suptitle("from one noise to another", fontsize=11)
for axis, f in zip(bottom.subplots(len(factors), 1), factors, strict=True):
    axis.imshow(plots.grid(rows[f][:14], 14, 1)[..., 0], cmap="gray", vmin=0, vmax=255)
    axis.set(xticks=[], yticks=[])
    axis.set_ylabel(f"{8 * f:g}", rotation=0, ha="right", va="center")
bottom.suptitle("the same directions at other lengths (the usual one is 8)", fontsize=11)
for axis in figure.axes:
    axis.spines[:].set_visible(False)
save(figure, "12_latent_space.png")

# %% [markdown]
# ## Exercises
#
# Replace the dots with your answer, uncomment the code, and run it.

# %% [markdown]
# **Exercise 1.** About how long is a normally distributed noise vector in 100 dimensions (the preset `tutorial`)?
#
# <details><summary>Hint</summary>
#
# The mean of the squared length is the number of dimensions.
#
# <details><summary>Solution</summary>
#
# ```python
# length = 10
# ```
#
# </details></details>

# %% Exercise 1
# length = ...
# assert abs(np.linalg.norm(rng.standard_normal((1000, 100)), axis=1).mean() - length) < 0.1

# %% [markdown]
# **Exercise 2.** a and b have the same length and are at a right angle. Which point of `spherical(a, b, t)` is halfway
# between them? Write it in terms of a and b.
#
# <details><summary>Hint</summary>
#
# For a right angle, w is pi / 2. What is sin(pi / 4) / sin(pi / 2)?
#
# <details><summary>Solution</summary>
#
# ```python
# half_way = lambda a, b: (a + b) / np.sqrt(2)
# ```
#
# </details></details>

# %% Exercise 2
# half_way = lambda a, b: ...
# a, b = np.array([3.0, 0.0]), np.array([0.0, 3.0])
# assert np.allclose(spherical(a, b, np.array([0.5]))[0], half_way(a, b))

# %% [markdown]
# The next lesson, [13_making_it_fast.py](13_making_it_fast.py), shows where the time of the training goes, and how to
# make it faster.
