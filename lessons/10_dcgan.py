# %% [markdown]
# # 10. DCGAN: digits out of noise
#
# **Question.** What does it take to play lesson 8's game with images?
#
# **Needs.** Lessons 6 to 9. **Takes** about a minute, with `--quick` 15 seconds.
#
# Only other networks: a generator that goes up from noise to an image (lesson 7), a discriminator that goes down from
# an image to a logit (lesson 6). The game does not change by a line. (Radford et al. 2016, "DCGAN".)

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
# One layer is new. Deep generators learn badly when the numbers inside drift, so *batch norm* brings each channel back
# to mean 0 and standard deviation 1, measured over the batch and all pixels, and then lets the network choose both anew
# (gamma, beta). When drawing single samples there is no batch to measure: running averages from the training are used.


# %%
def batch_norm(x, gamma, beta, eps=1e-5):  # x (N, H, W, C), gamma and beta (C,)
    mean, var = x.mean(axis=(0, 1, 2)), x.var(axis=(0, 1, 2))  # (C,) each
    return gamma * (x - mean) / np.sqrt(var + eps) + beta


x = np.random.default_rng(0).normal(3, 5, (8, 7, 7, 4))
norm = BatchNorm(4).to("numpy", np.float64)
y, _ = norm.forward(x)
assert np.allclose(y, batch_norm(x, norm.params["gamma"], norm.params["beta"]))
assert np.allclose(y.mean(axis=(0, 1, 2)), 0, atol=1e-9) and np.allclose(y.std(axis=(0, 1, 2)), 1, atol=1e-3)

# %% [markdown]
# ## The networks, read aloud
#
# G: 64 numbers of noise become 7 x 7 pixels with 64 channels (an ordinary dense layer, its result laid out as an
# image), then twice: double the size, halve the channels. `Tanh` ends in [-1, 1], the range of the data. D is the way
# back. Where batch norm follows, no bias is needed: it would be subtracted again.


# %%
def small(rng):
    dcgan = dict(rng=rng, init=normal(0.02))  # first weights: N(0, 0.02^2)
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


mine, theirs = small(np.random.default_rng(7)), models.build("small", rng=np.random.default_rng(7))
for my_network, their_network in zip(mine, theirs, strict=True):
    for name, w in their_network.params.items():
        assert np.array_equal(my_network.params[name], w)
print("generator\n" + models.table(theirs[0], (64,)) + "\ndiscriminator\n" + models.table(theirs[1], (28, 28, 1)))

# %% [markdown]
# ## The training, read aloud
#
# `Training` keeps players, optimizers and random streams together; its heart is the loop below. The seed has four
# streams, for weights, noise, the noise of the pictures, and the order of the images, so that looking at pictures
# changes nothing of what follows. Here is the loop for three steps, and the same by `Training`: **equal to the last
# bit**.

# %%
settings = dict(batch=64, lr_g=1e-3, lr_d=1e-3)  # larger steps than the preset's 2e-4: we are in a hurry
weights, noise = np.random.default_rng([0, 0]), np.random.default_rng([0, 1])
G, D = small(weights)
G, D = fuse(G.to(backend)), fuse(D.to(backend))  # the same networks, in fewer passes over memory
opt_g, opt_d = optim.Adam(G, lr=1e-3, beta1=0.5), optim.Adam(D, lr=1e-3, beta1=0.5)
order = np.random.default_rng([0, 3, 0]).permutation(60_000)
for step in range(3):
    real = backend.asarray(datasets.scale(data.images[order[64 * step : 64 * (step + 1)]]))  # (64, 28, 28, 1)
    z_d, z_g = (backend.asarray(noise.standard_normal((64, 64), dtype=np.float32)) for _ in range(2))
    game.discriminator_step(G, D, opt_d, real, z_d, losses.non_saturating)
    game.generator_step(G, D, opt_g, z_g, losses.non_saturating)

training = Training(Config.of("small", steps=3, **settings), data, backend)
for _ in training.records():
    pass


def same_bits(a, b):
    return all(backend.to_numpy(a.params[k]).tobytes() == backend.to_numpy(b.params[k]).tobytes() for k in a.params)


assert same_bits(training.G, G) and same_bits(training.D, D)

# %% [markdown]
# ## Stop and go on
#
# A checkpoint is the whole state: weights, statistics, the optimizers' memories, the random streams and the place in
# the data. **Two steps, saved, read into a new Training, and two more, are the same as four.** That is worth insisting
# on: who saves the weights alone begins anew with blind optimizers.

# %%
file = RUNS / "10_checkpoint.npz"
RUNS.mkdir(exist_ok=True)
through = Training(Config.of("small", steps=4, **settings), data, backend)
for record in through.records():
    if record["step"] == 2:
        checkpoint.save(file, *through.state())
resumed = Training(Config.of("small", steps=4, **settings), data, backend)
resumed.load_state(file, *checkpoint.load(file))
assert resumed.step == 2 and not same_bits(resumed.G, through.G)
for _ in resumed.records():
    pass
assert resumed.step == 4 and same_bits(resumed.G, through.G) and same_bits(resumed.D, through.D)

# %% [markdown]
# ## Train
#
# `records()` plays, and tells after every step; whoever listens decides what to do with it. We draw the same forty
# noises every so often, for the film, by a generator whose weights are the running *average* of G's: G goes to and fro
# about what it has learnt, and the average does not.

# %%
steps = 400 if QUICK else 1874  # an epoch has 937
training = Training(Config.of("small", steps=steps, average=0.995, **settings), data, backend)
moments = np.geomspace(50, steps, 12).round().astype(int)  # of the film: close together at first
pictures, curves = {0: training.samples(40)}, []  # step: (40, 28, 28, 1)
for record in training.records():
    curves.append((record["d_loss"], record["g_loss"]))
    if record["step"] in moments:
        pictures[record["step"]] = training.samples(40)
        d_loss, g_loss = np.mean(curves[-50:], axis=0)
        print(f"step {record['step']:5}: loss of the last 50 steps, D {d_loss:.2f}, G {g_loss:.2f}", flush=True)
print(f"{training.seconds:.0f} s of training, {steps * 64 / training.seconds:,.0f} images a second")
checkpoint.save(RUNS / f"10_small_{steps}.npz", *training.state())  # lesson 12 starts from it

# %% [markdown]
# ## Are these digits?
#
# Look at the figure. And measure what can be measured simply: a fake should lie about as far from the nearest real
# digit as another real digit does, and fakes should differ among themselves as real digits do, or G has *collapsed* to
# a few pictures that please D. Distances are between images as vectors of 784 pixels.


# %%
def nearest(a, b):  # (N, 784), (M, 784) -> (N,): the distance of each a to the nearest b
    squares = (a * a).sum(axis=1)[:, None] + (b * b).sum(axis=1) - 2 * a @ b.T  # (N, M): |a - b|^2, multiplied out
    return np.sqrt(np.maximum(squares.min(axis=1), 0))


def flat(images):
    return datasets.scale(images).reshape(len(images), -1)


memory, others = flat(data.images[:10000]), flat(data.images[10000:10100])
fake, noise_fake = flat(training.samples(100)), flat(pictures[0])
d_real, d_fake, d_noise = (nearest(a, memory).mean() for a in (others, fake, noise_fake))
spread = fake.std(axis=0).mean() / others.std(axis=0).mean()
print(f"to the nearest real digit: a real one {d_real:.1f}, a fake {d_fake:.1f}, before training {d_noise:.1f}")
print(f"the fakes vary {spread:.2f} times as much as the digits")
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
figure.suptitle(f"sixteen noises, {steps / 937:.1f} epochs (an epoch has 937 steps)", fontsize=11)
save(figure, "10_dcgan.png")

# %% [markdown]
# More of the same, with all that belongs to a run (pictures, curves, checkpoints, resuming): `minigan train --preset
# small`.
#
# ## Exercises
#
# 1. How many weights would G need if its first layer made 28 x 28 pixels with 64 channels at once?
# 2. Both batch norms in G come after a layer without bias. Which of the layers of G has a bias of its own, by its
#    number?

# %% Exercise 1
# n = ...
# assert Dense(64, 28 * 28 * 64, bias=False, rng=np.random.default_rng(0)).n_params == n

# %% Exercise 2
# number = ...
# assert [name for name in G.params if name.endswith(".b")] == [f"{number}.b"]

# %% [markdown]
# This was part I: from one neuron to a GAN. Part II looks inside: [11_sgd_or_adam.py](11_sgd_or_adam.py).
