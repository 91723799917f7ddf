# %% [markdown]
# # 18. "A seven, please"
#
# **Question.** How can we ask a forger for a certain digit, and what do we need to draw with it outside minigan?
#
# **You will know** how labels enter both networks, why the critic must see them too, how to measure whether the forger
# draws what it was asked for, and how to run a trained generator with about thirty lines of NumPy.
#
# **Builds on** [lesson 9](09_dcgan.py) and [lesson 12](12_latent_space.py). **Takes** 35 minutes to read, 17 seconds to
# run, 12 with `--quick`.
#
# The forger of [lesson 9](09_dcgan.py) draws some digit. Which one depends on the noise, and we cannot choose it. If
# the data have *labels*, we can give them to both networks. Such a GAN is called
# *[conditional](GLOSSARY.md#conditional)* (Mirza and Osindero 2014).

# %%
import json

import matplotlib.pyplot as plt
import numpy as np
from _common import QUICK, RUNS, save

from minigan import backends, datasets, game, losses, optim
from minigan.datasets import mixtures
from minigan.layers import (
    BatchNorm,
    ConvTranspose2d,
    Dense,
    LeakyReLU,
    OneHot,
    Projection,
    Reshape,
    Sequential,
    he_normal,
)
from minigan.metrics.judge import Judge
from minigan.report import plots
from minigan.training import Config, Training

rng = np.random.default_rng(0)

# %% [markdown]
# ## The label enters the forger
#
# A label is a number from 0 to K - 1, but its size means nothing: a 9 is not more than a 1. So we give the network K
# numbers, of which one is 1 and all others are 0. This is called *[one-hot](GLOSSARY.md#one-hot)*. With K = 4 classes,
# the label 2 becomes (0, 0, 1, 0). The forger gets the noise and the one-hot label side by side.
#
# ## Worked by hand: what a dense layer does with it
#
# Let the noise be z = (0.5, -1), the label 2, and let the dense layer have 6 rows of weights: 2 for the noise and 4 for
# the classes. Then
#
#     x = (0.5, -1, 0, 0, 1, 0)
#     x w = 0.5 * (row 0) - 1 * (row 1) + 0 * (row 2) + 0 * (row 3) + 1 * (row 4) + 0 * (row 5)
#
# **The one-hot label picks one row of the weights and adds it.** So each class has its own bias. With row 0 = (1, 2),
# row 1 = (3, 0) and row 4 = (10, 20), the result is (0.5 - 3 + 10, 1 - 0 + 20) = (7.5, 21).

# %%
w = np.zeros((6, 2))
w[[0, 1, 4]] = [1, 2], [3, 0], [10, 20]
x, _ = OneHot(4).forward(np.array([[0.5, -1.0]]), labels=np.array([2]))
assert x.tolist() == [[0.5, -1, 0, 0, 1, 0]] and (x @ w).tolist() == [[7.5, 21]]
w, z, labels = rng.normal(size=(6, 3)), rng.normal(size=(5, 2)), np.array([2, 0, 3, 3, 1])
x, _ = OneHot(4).forward(z, labels=labels)
assert np.allclose(x @ w, z @ w[:2] + w[2:][labels]), "A one-hot label picks one row of the weights and adds it."

# %% [markdown]
# ## The label enters the critic
#
# A forger that is asked for a seven may draw a perfect three. The critic must not accept it. So the critic has to judge
# two things: is the image good, and does it fit the label? A common last layer is the *projection* (Miyato and Koyama
# 2018). It has weights u for all images, and a vector e for each class. Let f be the features of an image, which the
# layers before it compute ([lesson 16](16_borrowed_critic.py)). Then
#
#     l = f . u + b + f . e[label]
#
# By hand, with f = (1, 2), u = (0.5, 0), b = 0, e[0] = (1, 0) and e[1] = (-1, -1):
#
#     label 0:  l = 0.5 + 1 = 1.5        label 1:  l = 0.5 - 1 - 2 = -2.5
#
# **The same image gets different logits for different labels.**

# %%
head = Projection(2, 2, rng=rng).to("numpy", np.float64)
head.params["w"][...], head.params["e"][...] = [[0.5], [0]], [[1, 0], [-1, -1]]
l, _ = head.forward(np.array([[1.0, 2.0]] * 2), labels=np.array([0, 1]))
assert l.ravel().tolist() == [1.5, -2.5], "A projection gives the same image different logits for different labels."

# %% [markdown]
# ## Must the critic see the labels?
#
# We try it with the eight Gaussians of [lesson 7](07_forger_and_critic.py). The label of a point is the number of its
# Gaussian. Both forgers get labels. One critic gets them too, and the other does not. Then we ask the forgers for each
# Gaussian, and count how often the fake is nearest to the one that we asked for. **The forger obeys only if its critic
# sees the labels.** Without, nothing in the game rewards it for obeying.

# %%
data, BATCH, NOISE, SEED = mixtures.ring(8, radius=2, std=0.15), 64, 4, 0


def play(critic_sees, rounds=400):
    """Returns the fakes (800, 2) of a conditional forger, 100 for each label, and the share that obeys."""
    rng = np.random.default_rng(SEED)
    he = dict(rng=rng, init=he_normal)
    G = Sequential(
        OneHot(8),
        Dense(NOISE + 8, 64, **he),
        LeakyReLU(0.2),
        Dense(64, 64, **he),
        LeakyReLU(0.2),
        Dense(64, 2, rng=rng),
    )
    last = Projection(64, 8, rng=rng) if critic_sees else Dense(64, 1, rng=rng)
    D = Sequential(Dense(2, 64, **he), LeakyReLU(0.2), Dense(64, 64, **he), LeakyReLU(0.2), last)
    opt_g, opt_d = optim.Adam(G, lr=2e-3, beta1=0.5), optim.Adam(D, lr=2e-3, beta1=0.5)
    for _ in range(rounds):
        real, labels = data.labelled(BATCH, rng)
        z_d, z_g = rng.standard_normal((2, BATCH, NOISE), dtype=np.float32)
        game.discriminator_step(G, D, opt_d, real, z_d, losses.non_saturating, labels=labels)
        game.generator_step(G, D, opt_g, z_g, losses.non_saturating, labels=labels)
    asked = np.repeat(np.arange(8), 100)
    fake, _ = G.forward(rng.standard_normal((800, NOISE), dtype=np.float32), train=False, labels=asked)
    return fake, (data.nearest(fake)[0] == asked).mean()


obeys = {sees: play(sees) for sees in (True, False)}
for sees, (_, share) in obeys.items():
    print(f"critic {'sees' if sees else 'does not see'} the labels: {share:.0%} of the fakes are what was asked for")
assert obeys[True][1] > 0.8 and obeys[False][1] < 0.4, "The forger obeys the labels only if its critic sees them."

# %% [markdown]
# ## Digits to order
#
# Now with images. The preset `digits` is a small conditional GAN that learns fast. We train it for a short time. Then
# we ask for each digit fifty times, and minigan's judge reads the images. The judge is a network that reads 99.5% of
# the MNIST test digits right. **More than 80% of the fakes are read as the digit that we asked for (60% with
# `--quick`).**

# %%
backend = backends.load("auto")
training = Training(Config.of("digits", steps=300 if QUICK else 600, seed=SEED), datasets.mnist(), backend)
for _ in training.records():
    pass
asked = np.arange(500) % 10
z = rng.standard_normal((500, *training.G.noise_shape), dtype=np.float32)
images = training.sampler.of(backend.asarray(z), backend.asarray(asked))  # (500, 28, 28, 1), bytes
_, probabilities = Judge(backend).features_and_probabilities(images)  # (500, 10)
read = probabilities.argmax(axis=1)
agreement = (read == asked).mean()
print(f"{training.step} steps, {training.seconds:.0f} s: {agreement:.0%} are read as the digit that was asked for")
assert agreement > (0.6 if QUICK else 0.8), (
    "After a short training, more than 80% of the fakes are read as the digit that was asked for (60% with `--quick`)."
)

# %% [markdown]
# ## The generator on its own
#
# To draw with a trained generator, we do not need a critic, an optimizer ([lesson 11](11_sgd_or_adam.py)), or minigan.
# We need the weights and the formulas of four layers. First we write the weights to a file:

# %%
sampler = training.sampler.generator  # the generator whose weights are a running average
arrays = {name: backend.to_numpy(w) for name, w in (sampler.params | sampler.buffers).items()}
layers = []
for number, layer in enumerate(sampler.layers):
    facts = {"kind": type(layer).__name__, "number": number}
    if isinstance(layer, ConvTranspose2d):
        facts |= {"stride": layer.stride, "pad": layer.pad, "output_pad": layer.output_pad}
    facts |= {"shape": layer.shape} if isinstance(layer, Reshape) else {}
    facts |= {"eps": layer.eps} if isinstance(layer, BatchNorm) else {}
    facts |= {"slope": layer.slope} if isinstance(layer, LeakyReLU) else {}
    facts |= {"classes": layer.classes} if isinstance(layer, OneHot) else {}
    layers.append(facts)
RUNS.mkdir(exist_ok=True)
file = RUNS / "18_generator.npz"
np.savez(file, layers=json.dumps(layers), **arrays)
print(f"{len(layers)} layers, {sum(w.size for w in arrays.values()):,} numbers, {file.stat().st_size / 1024:.0f} KiB")

# %% [markdown]
# And this is all that is needed to draw. The function uses only NumPy and the file. Batch norm uses the running
# averages of [lesson 9](09_dcgan.py). The transposed convolution adds a scaled copy of the filter for each input pixel,
# as in [lesson 6](06_going_up.py).


# %%
def draw(file, z, labels):
    """Draws images (N, 28, 28, 1) in [-1, 1] for noise z (N, n) and labels (N,), with nothing but NumPy."""
    with np.load(file) as saved:
        x = z
        for layer in json.loads(str(saved["layers"])):
            get = lambda name, k=layer["number"]: saved[f"{k}.{name}"]  # noqa: E731
            match layer["kind"]:
                case "OneHot":
                    x = np.concatenate([x, np.eye(layer["classes"], dtype=np.float32)[labels]], axis=1)
                case "Dense":
                    x = x @ get("w")
                case "Reshape":
                    x = x.reshape(len(x), *layer["shape"])
                case "BatchNorm":
                    x = (x - get("mean")) / np.sqrt(get("var") + layer["eps"]) * get("gamma") + get("beta")
                case "LeakyReLU":
                    x = np.where(x > 0, x, layer["slope"] * x)
                case "Tanh":
                    x = np.tanh(x)
                case "ConvTranspose2d":
                    (N, H, W, _), (K, _, C, _) = x.shape, get("w").shape
                    s, (before, after) = layer["stride"], layer["pad"]
                    P, Q = (s * (size - 1) + K + layer["output_pad"] for size in (H, W))
                    y = np.zeros((N, P, Q, C), np.float32)
                    for i in range(K):
                        for j in range(K):
                            y[:, i : i + s * H : s, j : j + s * W : s] += x @ get("w")[i, j].T  # (N, H, W, C)
                    x = y[:, before : P - after, before : Q - after]
                    x = x + get("b") if f"{layer['number']}.b" in saved else x
    return x


alone = draw(file, z, asked)  # (500, 28, 28, 1)
pixels = datasets.unscale(alone)
difference = abs(pixels.astype(int) - images).max()
print(f"largest difference of a pixel between minigan and bare NumPy, of 255: {difference}")
assert alone.shape == (500, 28, 28, 1) and difference <= 1, (
    "About thirty lines of NumPy draw the same images as minigan, to one grey level."
)

# %% [markdown]
# ## One noise, ten labels
#
# What does the noise do now? The label decides *which* digit, so the noise decides everything else. **If we keep the
# noise and change the label, most of the images are the digit that we asked for.** In the figure, each row has one
# noise vector. Look for a common style in a row, such as the width of the line or the slant.

# %%
styles = rng.standard_normal((6, 1, *training.G.noise_shape), dtype=np.float32)
sheet = draw(file, np.repeat(styles, 10, axis=1).reshape(60, -1), np.arange(60) % 10)
sheet = datasets.unscale(sheet)
_, probabilities = Judge(backend).features_and_probabilities(sheet)
right = (probabilities.argmax(axis=1) == np.arange(60) % 10).mean()
assert right > 0.5, "With the same noise and ten labels, most of the images are the digit that was asked for."

figure, axes = plt.subplots(1, 3, figsize=(10.6, 3.6), width_ratios=(1, 1, 1.7))
for axis, (sees, (fake, share)) in zip(axes, obeys.items(), strict=False):
    axis.scatter(*fake.T, c=np.repeat(np.arange(8), 100), cmap="tab10", s=5, vmin=0, vmax=9)
    axis.set(aspect="equal", xlim=(-3, 3), ylim=(-3, 3), xticks=[-2, 0, 2], yticks=[-2, 0, 2])
    axis.set_title(f"critic {'sees labels' if sees else 'sees no labels'}:\n{share:.0%} as asked (colour)")
axes[2].imshow(plots.grid(sheet, 10, 1)[..., 0], cmap="gray", vmin=0, vmax=255)
axes[2].set_xticks(np.arange(10) * 30 + 16, [str(k) for k in range(10)])
axes[2].set(yticks=[], xlabel="label", ylabel="noise", title="the same noise in each row, drawn by bare NumPy")
axes[2].spines[:].set_visible(False)
save(figure, "18_labels.png")

# %% [markdown]
# `minigan sample RUN --label 7` draws sevens with a trained run.
#
# ## Exercises
#
# Replace the dots with your answer, uncomment the code, and run it.

# %% [markdown]
# **Exercise 1.** A forger without labels starts with `Dense(64, 3136)`. With labels for ten classes, how many more
# weights does this layer need?
#
# <details><summary>Hint</summary>
#
# The one-hot label adds ten inputs. Each input has one weight for each output.
#
# <details><summary>Solution</summary>
#
# ```python
# more = 10 * 3136
# ```
#
# </details></details>

# %% Exercise 1
# more = ...
# with_labels, without = (Dense(n, 3136, bias=False, rng=rng).n_params for n in (74, 64))
# assert with_labels - without == more

# %% [markdown]
# **Exercise 2.** Half seven, half one: what does the forger draw if the one-hot label is 0.5 at the classes 1 and 7?
# Write this label for ten classes.
#
# <details><summary>Hint</summary>
#
# It is the mean of the two one-hot labels. `np.eye(10)[k]` is the one-hot label of class k.
#
# <details><summary>Solution</summary>
#
# ```python
# label = (np.eye(10)[1] + np.eye(10)[7]) / 2
# ```
#
# </details></details>

# %% Exercise 2
# label = ...
# first = arrays["1.w"]  # (74, 1024): the first dense layer of the generator
# mixed = np.concatenate([z[0], label]) @ first
# one, seven = (np.concatenate([z[0], np.eye(10)[k]]) @ first for k in (1, 7))
# assert np.allclose(mixed, (one + seven) / 2, atol=1e-4)  # the layer sees a point half-way between both

# %% [markdown]
# The next lesson, [21_tables.py](21_tables.py), leaves images: its data are the rows of a table.
