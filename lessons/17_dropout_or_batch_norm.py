# %% [markdown]
# # 17. The tutorial's critic, line by line
#
# **Question.** A well-known tutorial puts dropout into its critic, and the DCGAN paper puts batch norm there. What do
# these two layers do to a critic?
#
# **You will know** every line and every number of the critic in TensorFlow's DCGAN tutorial, how dropout works forward
# and backward, what batch norm hides from a critic, and how to see that a critic memorises its data.
#
# **Builds on** [lesson 9](09_dcgan.py). **Takes** 35 minutes to read, 10 seconds to run, 8 with `--quick`.
#
# Many people meet GANs in a tutorial on the web, copy its critic, and change it. So it is worth reading such a critic
# line by line. This one reads digits of 28 x 28 pixels.

# %%
import matplotlib.pyplot as plt
import numpy as np
from _common import BLUE, GREEN, GREY, ORANGE, QUICK, save

from minigan import backends, datasets, losses, models, optim
from minigan.layers import BatchNorm, Conv2d, Dense, Dropout, Flatten, LeakyReLU, Sequential

backend = backends.load("auto")
mnist = datasets.mnist()

# %% [markdown]
# ## The lines
#
# In the words of Keras, the tutorial's critic is
#
#     Conv2D(64, (5, 5), strides=(2, 2), padding="same")       LeakyReLU()       Dropout(0.3)
#     Conv2D(128, (5, 5), strides=(2, 2), padding="same")      LeakyReLU()       Dropout(0.3)
#     Flatten()                                                Dense(1)
#
# *"same".* With stride 2, 28 pixels become 28 / 2 = 14. The last filter begins at pixel 2 * 13 = 26 and needs 5 pixels,
# so it ends at 31. This is 3 pixels more than there are. TensorFlow puts 1 before and 2 after the image. In minigan,
# this is `pad=(1, 2)`.
#
# *LeakyReLU.* Keras's slope for negative inputs is 0.3, if none is given.
#
# *Dense(1).* The output is a logit, and no sigmoid follows, because the loss includes it ([lesson 8](08_losses.py)).
#
# *The weights.* A convolution has 5 x 5 x (channels in) x (channels out) weights and a bias for each channel:
#
#     first    5 * 5 * 1 * 64 + 64      =   1,664
#     second   5 * 5 * 64 * 128 + 128   = 204,928
#     dense    7 * 7 * 128 + 1          =   6,273          together 212,865
#
# **minigan's preset `tutorial` has the same critic, with 212,865 weights.**


# %%
def critic(kind, rng, width=64):
    """Returns the tutorial's critic, with `kind` "dropout", "batch norm" or "nothing", and `width` first channels."""
    first, second = Dropout(0.3, rng=rng), Dropout(0.3, rng=rng)
    drop = kind == "dropout"
    return Sequential(
        Conv2d(1, width, 5, stride=2, pad=(1, 2), rng=rng),  # (N, 28, 28, 1) -> (N, 14, 14, width)
        LeakyReLU(0.3),
        *([first] if drop else []),
        Conv2d(width, 2 * width, 5, stride=2, pad=(1, 2), rng=rng),  # -> (N, 7, 7, 2 * width)
        *([BatchNorm(2 * width)] if kind == "batch norm" else []),
        LeakyReLU(0.3),
        *([second] if drop else []),
        Flatten(),  # -> (N, 98 * width)
        Dense(7 * 7 * 2 * width, 1, rng=rng),  # -> (N, 1): the logit
    )


rng = np.random.default_rng(0)
ours, (_, theirs) = critic("dropout", rng), models.build("tutorial", rng=np.random.default_rng(1))
print(models.table(ours, (28, 28, 1)))
assert [repr(layer) for layer in ours.layers] == [repr(layer) for layer in theirs.layers]
assert ours.n_params == theirs.n_params == 1_664 + 204_928 + 6_273 == 212_865, (
    "The critic of TensorFlow's tutorial has 212,865 weights, and minigan's preset `tutorial` has the same."
)

# %% [markdown]
# ## Dropout, by hand
#
# In training, [dropout](GLOSSARY.md#dropout) sets each number to 0 with the probability 0.3. It divides the others by
# 0.7, so that the mean does not change. For four numbers, of which the second is dropped:
#
#     x               2       4       6       8
#     mask          1.429     0     1.429   1.429        1 / 0.7 = 1.429
#     y = x * mask  2.857     0     8.571  11.429
#
# Backward is the same product: dx = dy * mask, with the *same* mask. Where y is 0 whatever x is, no slope goes back.
# After the training, dropout does nothing. **On average over many masks, dropout does not change its input.**

# %%
mask = np.array([1, 0, 1, 1]) / 0.7
assert np.allclose(np.array([2, 4, 6, 8]) * mask, [2.857, 0, 8.571, 11.429], atol=1e-3)
layer, x = Dropout(0.3, rng=rng), np.array([[2.0, 4, 6, 8]])  # (1, 4)
passes = [layer.forward(x) for _ in range(20_000)]
outputs = np.concatenate([y for y, _ in passes])  # (20000, 4)
assert np.allclose(outputs.mean(axis=0), x, rtol=0.03) and abs((outputs == 0).mean() - 0.3) < 0.01, (
    "On average over many masks, dropout does not change its input; in each pass, 30% of the numbers are 0."
)
for y, cache in passes[:5]:
    dx, _ = layer.backward(np.ones_like(x), cache)
    assert np.allclose(dx * x, y)  # the same mask, forward and backward
assert np.array_equal(layer.forward(x, train=False)[0], x)

# %% [markdown]
# So in each pass, another part of the critic is at work. **With dropout, the critic gives the same image another logit
# in each pass.** The forger cannot please one single critic. It has to please all of them on average.

# %%
D = critic("dropout", rng, width=8)
image = datasets.scale(mnist.images[:1])
logits = [D.forward(image)[0].item() for _ in range(300)]
without = [D.forward(image, train=False)[0].item() for _ in range(3)]
print(f"one image, 300 passes: logits from {min(logits):.2f} to {max(logits):.2f}; without dropout {without[0]:.2f}")
assert np.std(logits) > 0.05 and len(set(without)) == 1, (
    "With dropout, the critic gives the same image another logit in each pass."
)

# %% [markdown]
# ## Batch norm, by hand: what it hides
#
# [Lesson 9](09_dcgan.py) explained batch norm: it subtracts the mean of the batch and divides by its standard
# deviation. A critic gets two batches, first the real one, then the fakes. Each is normalised by its own mean and
# standard deviation. Let the real numbers be 1 and 3, and the fakes 11 and 13:
#
#     real    mean 2,  std 1     normalised -1 and 1
#     fakes   mean 12, std 1     normalised -1 and 1
#
# The fakes are 10 too large, and the critic gets the same numbers for both. **Batch norm hides from the critic that a
# whole batch is too bright, or has too much contrast.** The DCGAN paper has no batch norm in the first layer of the
# critic. And there is a second effect: **the logit of an image depends on the other images of its
# batch.**

# %%
norm = BatchNorm(1, eps=1e-12).to("numpy", np.float64)
real, fakes = np.array([[1.0], [3.0]]), np.array([[11.0], [13.0]])  # (2, 1)
assert np.allclose(norm.forward(real)[0], [[-1], [1]]) and np.allclose(norm.forward(fakes)[0], [[-1], [1]])

norm_first = Sequential(BatchNorm(1), *critic("nothing", rng, width=8).layers)
batch = datasets.scale(mnist.images[:64])
dim = 0.5 * batch - 0.3  # less contrast, and darker
same, usual = (abs(network.forward(dim)[0] - network.forward(batch)[0]).max() for network in (norm_first, D))
print(f"largest change of a logit if the whole batch is dimmer: {usual:.2f}; with batch norm first: {same:.5f}")
assert same < 1e-3 < 0.1 < usual, (
    "Batch norm before the first layer hides from the critic that a whole batch is too dark or has too little contrast."
)
D = critic("batch norm", rng, width=8)
company = [D.forward(datasets.scale(mnist.images[[0, *range(k, k + 63)]]))[0][0, 0] for k in (1, 1000, 2000)]
assert np.ptp(company) > 0.01, "With batch norm, the logit of an image depends on the other images of its batch."

# %% [markdown]
# ## A perfect forger
#
# What is dropout good for? Suppose the forger is perfect: its fakes are digits from the same distribution as the data.
# Then the critic should answer 1/2 for everything. But it sees the same few real digits again and again, and each fake
# only once. So it can *[memorise](GLOSSARY.md#memorise)* the real ones: it says "real" for the images that it knows.
# Then it judges what it remembers, and not what digits look like.
#
# We can play this game, because we have a perfect forger: MNIST. The data are 200 digits, and the fakes are others,
# always new. The critics have 8 and 16 channels, to save time. From time to time, we ask: how many of the 200 digits
# have a higher logit than half of 1000 test digits? An honest critic would say 50%.

# %%
X, test = datasets.scale(mnist.images[:20_000]), datasets.scale(datasets.mnist("test").images[:1000])
KNOWN, STEPS, SEED = 200, 240 if QUICK else 320, 0


def memorise(kind):
    """Trains a critic against a perfect forger. Returns an array of (step, share of known digits above the median)."""
    rng = np.random.default_rng(SEED)
    D = critic(kind, rng, width=8).to(backend)
    adam, shares = optim.Adam(D, lr=1e-3, beta1=0.5), []
    with backend.computing():
        for step in range(STEPS + 1):
            if step % 40 == 0:
                known, new = (
                    backend.to_numpy(D.forward(backend.asarray(x), train=False)[0]) for x in (X[:KNOWN], test)
                )
                shares.append((step, (known > np.median(new)).mean()))
            real, fake = X[rng.integers(KNOWN, size=64)], X[rng.integers(KNOWN, 20_000, size=64)]
            l_real, cache_real = D.forward(backend.asarray(real))
            l_fake, cache_fake = D.forward(backend.asarray(fake))
            _, d_real, d_fake = losses.non_saturating.discriminator(l_real, l_fake)
            grads_real = D.backward(d_real, cache_real, need_dx=False)[1]
            grads_fake = D.backward(d_fake, cache_fake, need_dx=False)[1]
            adam.step({name: grads_real[name] + grads_fake[name] for name in grads_real})
    return np.array(shares)


curves = {kind: memorise(kind) for kind in ("nothing", "dropout", "batch norm")}
for kind, curve in curves.items():
    print(f"{kind:<11}" + "".join(f" {share:4.0%}" for _, share in curve))

# %% [markdown]
# **Every one of the three critics memorises, although there is nothing to find. With dropout, it memorises more slowly,
# and with batch norm faster.** Dropout slows it down, because the critic cannot rely on a few details of an image that
# may be missing in the next pass.
#
# Dropout only delays it. More data, or images that are changed at random in each step, leave less to memorise.

# %%
late = {kind: curve[-4:, 1].mean() for kind, curve in curves.items()}  # mean of the last four looks
assert all(share > 0.75 for share in late.values()), (
    "Against a perfect forger, a critic that sees 200 digits again and again memorises them."
)
assert late["dropout"] < late["nothing"] - 0.02 and late["nothing"] < late["batch norm"], (
    "With dropout, a critic memorises its data more slowly, and with batch norm faster."
)

# %%
figure, axes = plt.subplots(1, 3, figsize=(10.4, 3.5))
axes[0].hist(logits, bins=25, color=ORANGE)
axes[0].axvline(without[0], color="black", linestyle="--")
axes[0].set(title="dropout: one image, 300 passes", xlabel="logit (dashed: without dropout)", yticks=[])
left, right = ([1, 3], [11, 13]), ([-1, 1], [-1, 1])
for k, (name, colour) in enumerate((("real", BLUE), ("fakes", ORANGE))):
    axes[1].plot(left[k], [1, 1], "o", color=colour, markersize=11, label=name)
    axes[1].plot([5.8 + 1.5 * n for n in right[k]], [0.12 * k] * 2, "o", color=colour, markersize=11)
axes[1].text(7, 1.2, "before: 10 apart", ha="center")
axes[1].text(5.8, 0.35, "after batch norm: equal", ha="center")
axes[1].set(title="batch norm: what it hides", ylim=(-0.4, 1.6), xlim=(-0.5, 14.5), yticks=[], xticks=[])
axes[1].legend(loc="lower right")
for (kind, curve), colour in zip(curves.items(), (GREY, ORANGE, GREEN), strict=True):
    axes[2].plot(curve[:, 0], curve[:, 1], "o-", color=colour, label=kind, markersize=4)
axes[2].axhline(0.5, color="black", linestyle=":")
axes[2].text(STEPS, 0.51, "an honest critic", ha="right", va="bottom")
axes[2].set(title="known digits that look more real\nthan the median new digit", xlabel="step", ylim=(0.35, 1.02))
axes[2].legend(loc="center right")
save(figure, "17_dropout_or_batch_norm.png")

# %% [markdown]
# `minigan experiment normalise` compares dropout, batch norm, spectral norm and nothing in complete games with digits.
# During a run, minigan compares the critic's answers for training digits with those for held-out digits, and warns.
#
# ## Exercises
#
# Replace the dots with your answer, uncomment the code, and run it.

# %% [markdown]
# **Exercise 1.** A dropout layer has the rate 0.5. By which factor does it multiply the numbers that it keeps?
#
# <details><summary>Hint</summary>
#
# Half of the numbers become 0. The mean must stay the same.
#
# <details><summary>Solution</summary>
#
# ```python
# factor = 2
# ```
#
# </details></details>

# %% Exercise 1
# factor = ...
# y, _ = Dropout(0.5, rng=rng).forward(np.ones((1, 1000)))
# assert set(np.unique(y)) == {0, factor}

# %% [markdown]
# **Exercise 2.** How many weights would the tutorial's critic have for images of 28 x 28 pixels with three colours?
#
# <details><summary>Hint</summary>
#
# Only the first convolution changes: it has 5 * 5 * 3 * 64 weights and 64 biases.
#
# <details><summary>Solution</summary>
#
# ```python
# n = 212_865 + 2 * 5 * 5 * 64
# ```
#
# </details></details>

# %% Exercise 2
# n = ...
# _, colour_critic = models.build("tutorial", rng=rng, sample_shape=(28, 28, 3))
# assert colour_critic.n_params == n

# %% [markdown]
# The next lesson, [18_labels.py](18_labels.py), asks the forger for a certain digit.
