# %% [markdown]
# # 12. The latent space
#
# **Question.** What lies between the noises?
#
# **Needs.** Lesson 10. **Takes** 5 seconds after lesson 10; else, and with `--quick`, it first trains as lesson 10
# does.
#
# A generator is a map from 64 numbers to images. Training showed it single points only. What does it make of the points
# between them, of those near the origin, and of those far away?

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
# Lesson 10's: if its checkpoint is there, the training below is over before it begins.

# %%
steps = 400 if QUICK else 1874
config = Config.of("small", steps=steps, average=0.995, batch=64, lr_g=1e-3, lr_d=1e-3)
training = Training(config, datasets.mnist(), backends.load("auto"))
file = RUNS / f"10_small_{steps}.npz"
if file.exists():
    training.load_state(file, *checkpoint.load(file))
else:
    print("no checkpoint of lesson 10: training")
for _ in training.records():
    pass


def images(z):  # (N, 64) -> (N, 28, 28, 1), bytes
    return training.sampler.of(training.backend.asarray(z.astype(np.float32)))


def distance(a, b):  # between images, pixel by pixel: (N,)
    return np.sqrt(((a.astype(float) - b) ** 2).mean(axis=(1, 2, 3)))


rng = np.random.default_rng(4)

# %% [markdown]
# ## A plane
#
# Two of the 64 coordinates move, the rest stay at 0. The cut goes through the middle of the space, and digits melt into
# one another: **neighbours in the noise are neighbours among the images**. Nobody asked for this; it follows from the
# network's being a smooth function with a limited number of weights.

# %%
side = np.linspace(-4, 4, 9)
plane = np.zeros((9, 9, 64))
plane[..., 0], plane[..., 1] = side, side[:, None]  # coordinate 0 to the right, coordinate 1 down
plane_images = images(plane.reshape(81, 64))  # (81, 28, 28, 1)

z = rng.standard_normal((200, 64))
unrelated = distance(images(z[:100]), images(z[100:])).mean()
near = distance(images(z), images(z + 0.05 * rng.standard_normal(z.shape))).mean()
print(f"images differ by {unrelated:.0f} of 255 if their noises are unrelated, by {near:.1f} if these differ by 1/20")
assert near < 0.35 * unrelated

# %% [markdown]
# ## Where the noise lives
#
# In 64 dimensions normal noise is not where one pictures it. Each coordinate is small, but there are 64 of them, and
# the length of z is the root of the sum of 64 squares of mean 1: about 8, hardly ever below 6 or above 10. **The noise
# lives in a thin shell, and the middle is empty.**

# %%
lengths = np.linalg.norm(rng.standard_normal((100_000, 64)), axis=1)
print(f"length of z: mean {lengths.mean():.2f}, standard deviation {lengths.std():.2f}, least {lengths.min():.2f}")
assert abs(lengths.mean() - 8) < 0.1 and 0.6 < lengths.std() < 0.8 and lengths.min() > 4

# %% [markdown]
# ## From a to b: straight, or along the shell
#
# The straight way `(1 - t) a + t b` cuts through the empty middle. The spherical way turns a into b and stays in the
# shell (White 2016); with w the angle between a and b,
#
#     slerp(t) = sin((1 - t) w) / sin(w) a  +  sin(t w) / sin(w) b


# %%
def straight(a, b, t):  # a, b (64,), t (T,) -> (T, 64)
    return (1 - t)[:, None] * a + t[:, None] * b


def spherical(a, b, t):
    w = np.arccos(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    return (np.sin((1 - t) * w)[:, None] * a + np.sin(t * w)[:, None] * b) / np.sin(w)


t = np.linspace(0, 1, 11)  # (11,)
ways = {name: way(z[11], z[12], t) for name, way in (("straight", straight), ("spherical", spherical))}
for name, way in ways.items():
    assert np.allclose(way[0], z[11]) and np.allclose(way[-1], z[12])
    print(f"{name:<9} lengths on the way: " + " ".join(f"{n:.1f}" for n in np.linalg.norm(way, axis=1)))
middle = {name: np.linalg.norm(way[5]) for name, way in ways.items()}
assert middle["straight"] < 6.5 < 7 < middle["spherical"]  # 8 / sqrt(2) = 5.7 for a right angle

# %% [markdown]
# Two random directions in 64 dimensions are nearly at a right angle, so the middle of nearly every straight way lies at
# 8 / sqrt(2) = 5.7, where in 100,000 noises there was hardly one. Do the pictures suffer? Here hardly: see the figure.
# This generator draws alike from 5 to 10, and gives way only nearer to the origin.

# %%
cosines = (z[:100] * z[100:]).sum(axis=1) / np.linalg.norm(z[:100], axis=1) / np.linalg.norm(z[100:], axis=1)
assert abs(cosines).mean() < 0.2
assert (lengths < 8 / np.sqrt(2)).mean() < 0.005

# %% [markdown]
# ## Near the origin, and far from it
#
# The same directions at other lengths. **Near the origin everything looks alike**: one grey mixture of all digits. In
# the shell there is variety. Far outside, where it was never trained, G draws with thicker, harder strokes: its layers
# are made of straight pieces, so a noise twice as long makes numbers about twice as large, until tanh cuts them off.

# %%
factors = [0, 0.1, 0.25, 1, 2, 4]
rows = {f: images(f * z) for f in factors}  # factor: (200, 28, 28, 1)
variety = {f: rows[f].std(axis=0).mean() for f in factors}
hard = {f: ((rows[f] == 0) | (rows[f] == 255)).mean() for f in factors}
for f in factors:
    print(f"length {8 * f:4.1f}: variety {variety[f]:4.0f}, wholly black or white {hard[f]:.0%} of the pixels")
assert variety[0] == 0 and variety[0.1] < 0.7 * variety[1]
assert hard[4] > hard[1]

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
# 1. About how long is normal noise in 100 dimensions (the preset `tutorial`)?
# 2. Which point of `spherical(a, b, t)` lies half way, for a and b of the same length at a right angle? Give it by a
#    and b.

# %% Exercise 1
# length = ...
# assert abs(np.linalg.norm(rng.standard_normal((1000, 100)), axis=1).mean() - length) < 0.1

# %% Exercise 2
# half_way = lambda a, b: ...
# a, b = np.array([3.0, 0.0]), np.array([0.0, 3.0])
# assert np.allclose(spherical(a, b, np.array([0.5]))[0], half_way(a, b))

# %% [markdown]
# Next, [13_making_it_fast.py](13_making_it_fast.py): where the time goes, and how to win it back.
