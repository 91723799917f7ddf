# %% [markdown]
# # 9. DCGAN: digits out of noise
#
# **Question.** What do we need to play the game of forger and critic with images?
#
# **You will know** the networks of a convolutional GAN layer by layer, what batch norm does, how a training runs, and
# two ways to measure whether its images look like digits.
#
# **Builds on** [lesson 6](06_going_up.py) and [lesson 8](08_losses.py). **Takes** 40 minutes to read, 56 seconds to
# run, 15 with `--quick`.
#
# We need only other networks. The generator goes up from noise to an image ([lesson 6](06_going_up.py)). The
# discriminator goes down from an image to a logit ([lesson 5](05_convolution.py)). The game uses the same two functions
# as in [lesson 7](07_forger_and_critic.py). (Radford et al. 2016, "[DCGAN](GLOSSARY.md#dcgan)".)

# %%
import itertools

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
backend, why = backends.choose()  # the fastest backend of this computer
print(why)

# %% [markdown]
# ## Batch norm
#
# One layer is new. *[Batch norm](GLOSSARY.md#batch-norm)* brings the numbers of each channel to a fixed size. It
# subtracts the mean of the channel and divides by its standard deviation, both computed over the batch and all pixels.
# **The result has mean 0 and standard deviation 1.** Then batch norm multiplies it by gamma and adds beta, and the
# network learns both. (Ioffe and Szegedy 2015. [Lesson 10](10_trusting_a_gradient.py) derives the backward pass.) A
# tiny number eps prevents a division by 0.
#
# ## Worked by hand: one channel
#
# Let the channel have the four numbers 1, 3, 5, 7, and let gamma = 2 and beta = 10. The mean is 4. The variance is the
# mean of the squared distances 9, 1, 1, 9, so it is 5, and the standard deviation is 2.236. Then
#
#     (x - mean) / std        -1.342   -0.447    0.447    1.342
#     y = gamma * ... + beta   7.317    9.106   10.894   12.683


# %%
def batch_norm(x, gamma, beta, eps=1e-5):
    """Normalises each channel of x (N, H, W, C), then applies gamma and beta (C,)."""
    mean, var = x.mean(axis=(0, 1, 2)), x.var(axis=(0, 1, 2))  # (C,) each
    return gamma * (x - mean) / np.sqrt(var + eps) + beta


by_hand = batch_norm(np.array([1.0, 3, 5, 7]).reshape(4, 1, 1, 1), np.array([2.0]), np.array([10.0]), eps=0)
assert np.allclose(by_hand.ravel(), [7.317, 9.106, 10.894, 12.683], atol=5e-4)

x = np.random.default_rng(0).normal(3, 5, (8, 7, 7, 4))
norm = BatchNorm(4).to("numpy", np.float64)
y, _ = norm.forward(x)
assert np.allclose(y, batch_norm(x, norm.params["gamma"], norm.params["beta"]))
assert np.allclose(y.mean(axis=(0, 1, 2)), 0, atol=1e-9) and np.allclose(y.std(axis=(0, 1, 2)), 1, atol=1e-3), (
    "After batch norm, each channel has mean 0 and standard deviation 1."
)
assert np.allclose(y, norm.forward(x + 7)[0])  # a bias before batch norm has no effect: the mean takes it away

# %% [markdown]
# When the generator draws images after the training, there may be only one image, and its result must not depend on
# other images. So batch norm then uses [running averages](GLOSSARY.md#running-average) of the means and variances that
# it saw in the training.

# %%
for _ in range(100):
    norm.forward(x)  # each pass in training moves the running averages
one, _ = norm.forward(x[:1], train=False)
together, _ = norm.forward(x, train=False)
assert np.allclose(one, together[:1]) and np.allclose(together, y, atol=1e-2)

# %% [markdown]
# ## The networks, layer by layer
#
# The generator G starts with 64 random numbers. A dense layer and a reshape convert them to 7 x 7 pixels with 64
# channels. Then two transposed convolutions double the height and the width. The first halves the number of channels,
# and the second leaves one channel. `Tanh` gives numbers in [-1, 1], which is the range of the data. The discriminator
# D goes the opposite way. A layer that is followed by batch norm needs no bias, because batch norm subtracts the mean,
# and the bias with it.
#
# The formulas of lessons [5](05_convolution.py) and [6](06_going_up.py) give the sizes, with 4 x 4 filters, stride 2
# and pad 1:
#
#     G:  2 * (7 - 1) + 4 - 2 * 1 = 14       2 * (14 - 1) + 4 - 2 * 1 = 28
#     D:  (28 + 2 * 1 - 4) // 2 + 1 = 14     (14 + 2 * 1 - 4) // 2 + 1 = 7
#
# And these are the weights of G: `64 * 3136 = 200,704` in the dense layer, `4 * 4 * 64 * 32 = 32,768` and
# `4 * 4 * 32 * 1 + 1 = 513` in the transposed convolutions, and a gamma and a beta for each of the 64 + 32 channels
# with batch norm. The sum is 234,177.


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
assert ours[0].n_params == 64 * 3136 + 32_768 + 513 + 2 * (64 + 32) == 234_177
print("generator\n" + models.table(theirs[0], (64,)) + "\ndiscriminator\n" + models.table(theirs[1], (28, 28, 1)))

# %% [markdown]
# **Without batch norm, the numbers shrink from layer to layer in this generator.** Its first weights are small. The
# standard deviation of the last layer's output is then so small that all images are nearly the same grey. With batch
# norm, every layer starts with numbers of a useful size.

# %%
z = np.random.default_rng(1).standard_normal((256, 64), dtype=np.float32)
plain = Sequential(*(layer for layer in ours[0].layers if not isinstance(layer, BatchNorm)))
spreads = {}
for name, network in (("with batch norm", ours[0]), ("without", plain)):
    before_tanh = Sequential(*network.layers[:-1])
    spreads[name] = before_tanh.forward(z)[0].std()
    print(f"{name:<16} standard deviation before tanh: {spreads[name]:.4f}")
assert spreads["without"] < 0.02 < 0.1 < spreads["with batch norm"], (
    "Without batch norm, the numbers in a DCGAN with small first weights shrink from layer to layer."
)

# %% [markdown]
# ## The training, step by step
#
# This is the loop of [lesson 7](07_forger_and_critic.py), with images. `Training` contains the networks, the optimizers
# ([lesson 11](11_sgd_or_adam.py)) and the random generators, and runs the same loop. We run the loop for three steps
# and then do the same with `Training`. The losses are the same.

# %%
settings = dict(batch=64, lr_g=1e-3, lr_d=1e-3)  # the preset's 2e-4 is for longer trainings
weight_rng, noise_rng = np.random.default_rng([0, 0]), np.random.default_rng([0, 1])  # the seeds of Training
G, D = small(weight_rng)
G, D = fuse(G.to(backend)), fuse(D.to(backend))  # the same networks, computed with fewer passes over memory
opt_g, opt_d = optim.Adam(G, lr=1e-3, beta1=0.5), optim.Adam(D, lr=1e-3, beta1=0.5)
order, by_loop = np.random.default_rng([0, 3, 0]).permutation(60_000), []
for step in range(3):
    real = backend.asarray(datasets.scale(data.images[order[64 * step : 64 * (step + 1)]]))  # (64, 28, 28, 1)
    z_d, z_g = (backend.asarray(noise_rng.standard_normal((64, 64), dtype=np.float32)) for _ in range(2))
    record = game.discriminator_step(G, D, opt_d, real, z_d, losses.non_saturating)
    record |= game.generator_step(G, D, opt_g, z_g, losses.non_saturating)
    by_loop.append((float(record["d_loss"]), float(record["g_loss"])))

training = Training(Config.of("small", steps=3, **settings), data, backend)
assert np.allclose(by_loop, [(record["d_loss"], record["g_loss"]) for record in training.records()], rtol=1e-4), (
    "minigan's training takes the same steps as a loop written by hand."
)

# %% [markdown]
# ## Train
#
# `records()` runs the training and yields a record after each step. The code that reads the records decides what to do
# with them. We draw images from the same forty noise vectors at several steps, for the animation. For the pictures we
# use a generator whose weights are a running *average* of G's weights: after each step, the average moves by 0.5% of
# its distance to G. **The weights of G move back and forth, and the average moves much less.** To see it, we measure in
# the last 100 steps how far the weights travel in total, and how far they get.


# %%
def weights(network):
    """Returns all weights as one vector."""
    return np.concatenate([backend.to_numpy(w).ravel() for w in network.params.values()])


steps = 400 if QUICK else 1874  # an epoch has 937 steps
training = Training(Config.of("small", steps=steps, average=0.995, **settings), data, backend)
moments = np.geomspace(50, steps, 12).round().astype(int)  # the steps at which to draw the animation
pictures, curves, last = {0: training.samples(40)}, [], []  # step: (40, 28, 28, 1)
RUNS.mkdir(exist_ok=True)
for record in training.records():
    curves.append((record["d_loss"], record["g_loss"]))
    if record["step"] in moments:
        pictures[record["step"]] = training.samples(40)
        d_loss, g_loss = np.mean(curves[-50:], axis=0)
        print(f"step {record['step']:5}: loss of the last 50 steps, D {d_loss:.2f}, G {g_loss:.2f}", flush=True)
    if record["step"] >= steps - 100:
        last.append((weights(training.G), weights(training.average.network)))
print(f"{training.seconds:.0f} s of training, {steps * 64 / training.seconds:,.0f} images a second")
checkpoint.save(RUNS / f"09_small_{steps}.npz", *training.state())  # 12_latent_space.py reads this file
travelled = [sum(np.linalg.norm(b[k] - a[k]) for a, b in itertools.pairwise(last)) for k in (0, 1)]
got_to = [np.linalg.norm(last[-1][k] - last[0][k]) for k in (0, 1)]
for k, name in enumerate(("G", "average")):
    print(f"{name:<7} weights in the last 100 steps: travelled {travelled[k]:.2f}, got {got_to[k]:.2f} away")
assert travelled[0] > 2 * got_to[0] and travelled[1] < 0.25 * travelled[0], (
    "The weights of G move back and forth from step to step; their running average moves less than a quarter as much."
)

# %% [markdown]
# ## Are these digits?
#
# Look at the figure. We can also measure two things. First, a fake should be about as far from the nearest real digit
# as another real digit is. Second, fakes should differ from each other as much as real digits do. If they do not, G has
# *[collapsed](GLOSSARY.md#collapse)*, which means that it draws only a few different pictures. The distance between two
# images is computed between their vectors of 784 pixels. **After two epochs, fakes are at most 1.5 times as far from
# the nearest real digit as other real digits are (1.8 times with `--quick`), and they vary about as much.**


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
assert d_fake < (1.8 if QUICK else 1.5) * d_real < d_noise, (
    "After two epochs, fakes are at most 1.5 times as far from the nearest real digit as other real digits are."
)
assert 0.6 < spread < 1.4, "The fakes vary about as much as real digits."

# %%
files = [RUNS / f"09_step_{step:05}.png" for step in pictures]
for file, images in zip(files, pictures.values(), strict=True):
    plots.save_grid(file, images, 10)
plots.save_animation(path("09_dcgan.gif"), files)
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
save(figure, "09_dcgan.png")

# %% [markdown]
# The command `minigan train --preset small` trains these networks and writes a complete run, with pictures, curves and
# [checkpoints](GLOSSARY.md#checkpoint). A *checkpoint* is a file from which the training can continue.
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
# This is the end of part I, from one neuron to a GAN. Part II looks inside and starts with
# [10_trusting_a_gradient.py](10_trusting_a_gradient.py), which derives the backward pass of batch norm and shows how to
# find mistakes in it.
