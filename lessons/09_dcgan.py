# %% [markdown]
# # 10. DCGAN: digits out of noise
#
# **Question.** What do we need to play the game of lesson 8 with images?
#
# **Needs.** Lessons 6 to 9. **Takes** about a minute, with `--quick` 15 seconds.
#
# We need only other networks. The generator goes up from noise to an image (lesson 7). The discriminator goes down from
# an image to a logit (lesson 6). The game uses the same two functions as in lesson 8. (Radford et al. 2016, "DCGAN".)

# %%
import matplotlib.pyplot as plt
import numpy as np
from _common import QUICK, RUNS, path, save

from minigan import backends, datasets, game, losses, models, optim
from minigan.layers import (
    BatchNorm,
    Conv2d,
    ConvTranspose2d,
    Dense,
    Flatten,
    LeakyReLU,
    Reshape,
    Sequential,
    Tanh,
    fuse,
    normal,
)
from minigan.report import plots
from minigan.training import Config, Training, checkpoint

data = datasets.mnist()  # 60,000 images (28, 28, 1)
backend, why = backends.choose()
print(why)

# %% [markdown]
# ## Batch norm
#
# One layer is new. Deep generators learn badly if the size of the numbers inside the network drifts. *Batch norm*
# subtracts the mean of each channel and divides by its standard deviation, both computed over the batch and all pixels.
# The result has mean 0 and standard deviation 1. Then batch norm multiplies it by gamma and adds beta, and the network
# learns both. When the generator draws images after the training, batch norm uses running averages from the training in
# place of the batch's mean and standard deviation.


# %%
def batch_norm(x, gamma, beta, eps=1e-5):
    """Normalises each channel of x (N, H, W, C), then applies gamma and beta (C,)."""
    mean, var = x.mean(axis=(0, 1, 2)), x.var(axis=(0, 1, 2))  # (C,) each
    return gamma * (x - mean) / np.sqrt(var + eps) + beta


x = np.random.default_rng(0).normal(3, 5, (8, 7, 7, 4))
norm = BatchNorm(4).to("numpy", np.float64)
y, _ = norm.forward(x)
assert np.allclose(y, batch_norm(x, norm.params["gamma"], norm.params["beta"]))
assert np.allclose(y.mean(axis=(0, 1, 2)), 0, atol=1e-9) and np.allclose(y.std(axis=(0, 1, 2)), 1, atol=1e-3)

# %% [markdown]
# ## The networks, layer by layer
#
# The generator G starts with 64 random numbers. A dense layer and a reshape convert them to 7 x 7 pixels with 64
# channels. Then two transposed convolutions double the height and the width. The first halves the number of channels,
# and the second leaves one channel. `Tanh` gives numbers in [-1, 1], which is the range of the data. The discriminator
# D goes the opposite way. A layer that is followed by batch norm needs no bias, because batch norm subtracts the mean,
# and the bias with it.


# %%
def small(rng):
    """Returns the generator and the discriminator of the preset `small`."""
    dcgan = dict(rng=rng, init=normal(0.02))  # initial weights: normal, standard deviation 0.02
    G = Sequential(
        Dense(64, 7 * 7 * 64, bias=False, **dcgan),  # (N, 64) -> (N, 3136)
        Reshape(7, 7, 64),
        BatchNorm(64),
        LeakyReLU(0.2),
        ConvTranspose2d(64, 32, 4, stride=2, pad=1, bias=False, **dcgan),  # -> (N, 14, 14, 32)
        BatchNorm(32),
        LeakyReLU(0.2),
        ConvTranspose2d(32, 1, 4, stride=2, pad=1, **dcgan),  # -> (N, 28, 28, 1)
        Tanh(),
    )
    D = Sequential(
        Conv2d(1, 32, 4, stride=2, pad=1, **dcgan),  # (N, 28, 28, 1) -> (N, 14, 14, 32)
        LeakyReLU(0.2),
        Conv2d(32, 64, 4, stride=2, pad=1, **dcgan),  # -> (N, 7, 7, 64)
        LeakyReLU(0.2),
        Flatten(),  # -> (N, 3136)
        Dense(7 * 7 * 64, 1, **dcgan),  # -> (N, 1): the logit
    )
    return G, D


ours, theirs = small(np.random.default_rng(7)), models.build("small", rng=np.random.default_rng(7))
for our_network, their_network in zip(ours, theirs, strict=True):
    for name, w in their_network.params.items():
        assert np.array_equal(our_network.params[name], w)
print("generator\n" + models.table(theirs[0], (64,)) + "\ndiscriminator\n" + models.table(theirs[1], (28, 28, 1)))

# %% [markdown]
# ## The training, step by step
#
# `Training` contains the networks, the optimizers and the random generators, and runs the loop below. It creates
# separate random generators from the seed, among them one for the weights, one for the noise, one for the noise of the
# pictures, and one for the order of the images. So drawing pictures does not change the training. We run the loop for
# three steps and then do the same with `Training`. **The weights are equal to the last bit.**

# %%
settings = dict(batch=64, lr_g=1e-3, lr_d=1e-3)  # larger than the preset's 2e-4, so that fewer steps are enough
weight_rng, noise_rng = np.random.default_rng([0, 0]), np.random.default_rng([0, 1])
G, D = small(weight_rng)
G, D = fuse(G.to(backend)), fuse(D.to(backend))  # the same networks, computed with fewer passes over memory
opt_g, opt_d = optim.Adam(G, lr=1e-3, beta1=0.5), optim.Adam(D, lr=1e-3, beta1=0.5)
order = np.random.default_rng([0, 3, 0]).permutation(60_000)
for step in range(3):
    real = backend.asarray(datasets.scale(data.images[order[64 * step : 64 * (step + 1)]]))  # (64, 28, 28, 1)
    z_d, z_g = (backend.asarray(noise_rng.standard_normal((64, 64), dtype=np.float32)) for _ in range(2))
    game.discriminator_step(G, D, opt_d, real, z_d, losses.non_saturating)
    game.generator_step(G, D, opt_g, z_g, losses.non_saturating)

training = Training(Config.of("small", steps=3, **settings), data, backend)
for _ in training.records():
    pass


def same_bits(a, b):
    """Returns True if all weights of two networks are equal to the last bit."""
    return all(backend.to_numpy(a.params[k]).tobytes() == backend.to_numpy(b.params[k]).tobytes() for k in a.params)


assert same_bits(training.G, G) and same_bits(training.D, D)

# %% [markdown]
# ## Stop and resume
#
# A checkpoint contains the complete state: the weights, the running averages, the state of the optimizers, the random
# generators, and the position in the data. **Two steps, a checkpoint, and two more steps in a new Training give the
# same weights as four steps.** If you save only the weights, the optimizers start again without their state.

# %%
file = RUNS / "10_checkpoint.npz"
RUNS.mkdir(exist_ok=True)
uninterrupted = Training(Config.of("small", steps=4, **settings), data, backend)
for record in uninterrupted.records():
    if record["step"] == 2:
        checkpoint.save(file, *uninterrupted.state())
resumed = Training(Config.of("small", steps=4, **settings), data, backend)
resumed.load_state(file, *checkpoint.load(file))
assert resumed.step == 2 and not same_bits(resumed.G, uninterrupted.G)
for _ in resumed.records():
    pass
assert resumed.step == 4
assert same_bits(resumed.G, uninterrupted.G) and same_bits(resumed.D, uninterrupted.D)

# %% [markdown]
# ## Train
#
# `records()` runs the training and yields a record after each step. The code that reads the records decides what to do
# with them. We draw images from the same forty noise vectors at several steps, for the animation. For the pictures we
# use a generator whose weights are a running *average* of G's weights. The weights of G move back and forth from step
# to step, and the average reduces this movement.

# %%
steps = 400 if QUICK else 1874  # an epoch has 937 steps
training = Training(Config.of("small", steps=steps, average=0.995, **settings), data, backend)
moments = np.geomspace(50, steps, 12).round().astype(int)  # the steps at which to draw the animation
pictures, curves = {0: training.samples(40)}, []  # step: (40, 28, 28, 1)
for record in training.records():
    curves.append((record["d_loss"], record["g_loss"]))
    if record["step"] in moments:
        pictures[record["step"]] = training.samples(40)
        d_loss, g_loss = np.mean(curves[-50:], axis=0)
        print(f"step {record['step']:5}: loss of the last 50 steps, D {d_loss:.2f}, G {g_loss:.2f}", flush=True)
print(f"{training.seconds:.0f} s of training, {steps * 64 / training.seconds:,.0f} images a second")
checkpoint.save(RUNS / f"10_small_{steps}.npz", *training.state())  # lesson 12 reads this file

# %% [markdown]
# ## Are these digits?
#
# Look at the figure. We can also measure two things. First, a fake should be about as far from the nearest real digit
# as another real digit is. Second, fakes should differ from each other as much as real digits do. If they do not, G has
# *collapsed*, which means that it draws only a few different pictures. The distance between two images is computed
# between their vectors of 784 pixels.


# %%
def nearest(a, b):
    """Returns the distances (N,) from each row of a (N, 784) to the nearest row of b (M, 784)."""
    squares = (a * a).sum(axis=1)[:, None] + (b * b).sum(axis=1) - 2 * a @ b.T  # (N, M): |a - b|^2
    return np.sqrt(np.maximum(squares.min(axis=1), 0))


def flat(images):
    """Returns the scaled images as vectors (N, 784)."""
    return datasets.scale(images).reshape(len(images), -1)


reference, others = flat(data.images[:10000]), flat(data.images[10000:10100])
fake, noise_fake = flat(training.samples(100)), flat(pictures[0])
d_real, d_fake, d_noise = (nearest(a, reference).mean() for a in (others, fake, noise_fake))
spread = fake.std(axis=0).mean() / others.std(axis=0).mean()
print(f"distance to the nearest real digit: real {d_real:.1f}, fake {d_fake:.1f}, untrained G {d_noise:.1f}")
print(f"the standard deviation of the fakes is {spread:.2f} times that of the real digits")
assert d_fake < (1.8 if QUICK else 1.5) * d_real < d_noise and 0.6 < spread < 1.4

# %%
files = [RUNS / f"10_step_{step:05}.png" for step in pictures]
for file, images in zip(files, pictures.values(), strict=True):
    plots.save_grid(file, images, 10)
plots.save_animation(path("10_dcgan.gif"), files)
shown = [step for k, step in enumerate(pictures) if k in (0, 2, 5, 8, len(pictures) - 1)]
figure, axes = plt.subplots(len(shown) + 1, 1, figsize=(9, 4.3))
for axis, step in zip(axes, shown, strict=False):
    axis.imshow(plots.grid(pictures[step][:16], 16, 2)[..., 0], cmap="gray", vmin=0, vmax=255)
    axis.set_ylabel(f"step {step}", rotation=0, ha="right", va="center")
axes[-1].imshow(plots.grid(data.images[:16], 16, 2)[..., 0], cmap="gray", vmin=0, vmax=255)
axes[-1].set_ylabel("real digits", rotation=0, ha="right", va="center")
for axis in axes:
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
figure.suptitle(f"sixteen noise vectors, {steps / 937:.1f} epochs (an epoch has 937 steps)", fontsize=11)
save(figure, "10_dcgan.png")

# %% [markdown]
# The command `minigan train --preset small` trains these networks and writes a complete run, with pictures, curves and
# checkpoints. It can also resume a run.
#
# ## Exercises
#
# Replace the dots with your answer, uncomment the code, and run it.

# %% [markdown]
# **Exercise 1.** How many weights would the first layer of G need if it made 28 x 28 pixels with 64 channels directly?
#
# <details><summary>Hint</summary>
#
# The layer has one weight for each pair of an input and an output, and no bias.
#
# <details><summary>Solution</summary>
#
# ```python
# n = 64 * 28 * 28 * 64
# ```
#
# </details></details>

# %% Exercise 1
# n = ...
# assert Dense(64, 28 * 28 * 64, bias=False, rng=np.random.default_rng(0)).n_params == n

# %% [markdown]
# **Exercise 2.** Both batch norms in G follow a layer without bias. Which layer of G has a bias `b`? Give its number.
#
# <details><summary>Hint</summary>
#
# Count the layers of G from 0. Which layer with weights is not followed by batch norm?
#
# <details><summary>Solution</summary>
#
# ```python
# number = 7
# ```
#
# </details></details>

# %% Exercise 2
# number = ...
# assert [name for name in G.params if name.endswith(".b")] == [f"{number}.b"]

# %% [markdown]
# This is the end of part I, from one neuron to a GAN. Part II looks inside the networks and starts with
# [11_sgd_or_adam.py](11_sgd_or_adam.py).
