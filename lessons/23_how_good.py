# %% [markdown]
# # 23. How do you know it is good?
#
# **Question.** How can a number say how good fakes are, and how can such a number deceive us?
#
# **You will know** the Frechet distance from one number to many, why it needs many samples, what density and coverage
# add to it, and how to notice a forger that copies its training data.
#
# **Builds on** [lesson 12](12_latent_space.py) and [lesson 14](14_mode_collapse.py). **Takes** 40 minutes to read, 5
# seconds to run.
#
# With points in the plane, we can count modes, because we know the density of the data. With digits, we have only
# samples: real digits and fakes. All measures in this lesson compare two sets of samples. We test each of them on
# forgers that we make ourselves. So we know what is wrong with each, and see whether the measure notices it.

# %%
import matplotlib.pyplot as plt
import numpy as np
from _common import BLUE, GREY, ORANGE, save

from minigan import datasets
from minigan.metrics.distances import Neighbourhoods, frechet_distance, nearest

rng = np.random.default_rng(0)

# %% [markdown]
# ## Worked by hand: one feature
#
# Suppose we measure only one number of each sample, such as the mean brightness of an image. Such a number is called a
# *feature*, as in [lesson 16](16_borrowed_critic.py). Real samples have the mean m1 and the standard deviation s1, and
# fakes have m2 and s2. The squared *[Frechet distance](GLOSSARY.md#frechet-distance)* between the two is
#
#     d = (m1 - m2)^2 + (s1 - s2)^2
#
#     m1 = 0, s1 = 1,  m2 = 1, s2 = 1     d = 1 + 0 = 1      shifted
#     m1 = 0, s1 = 1,  m2 = 0, s2 = 3     d = 0 + 4 = 4      the same mean, but too much variety
#     m1 = 0, s1 = 1,  m2 = 1, s2 = 2     d = 1 + 1 = 2
#
# It has a meaning. Pair each real sample with a fake, and compute the mean of the squared differences of the pairs. The
# best way to pair is by size: the smallest with the smallest, and so on. **For normally distributed features, the
# Frechet distance is the mean squared difference of the best pairs.** (It is also called the squared Wasserstein-2
# distance. Heusel et al. 2017 use it to compare images. In texts about GANs, "Frechet distance" means this
# squared form.)


# %%
def frechet_1d(m1, s1, m2, s2):
    """Returns the squared Frechet distance of two normal distributions."""
    return (m1 - m2) ** 2 + (s1 - s2) ** 2


assert [frechet_1d(0, 1, 1, 1), frechet_1d(0, 1, 0, 3), frechet_1d(0, 1, 1, 2)] == [1, 4, 2]
for m2, s2 in ((1, 1), (0, 3), (1, 2)):
    a, b = rng.normal(0, 1, 100_000), rng.normal(m2, s2, 100_000)
    best = ((np.sort(a) - np.sort(b)) ** 2).mean()
    assert abs(best - frechet_1d(0, 1, m2, s2)) < 0.1 < ((a - b) ** 2).mean() - best, (
        "The Frechet distance of two normal distributions is the mean squared difference of the best pairs."
    )

# %% [markdown]
# ## Many features
#
# With many features, the standard deviation is replaced by the *[covariance](GLOSSARY.md#covariance) matrix* S. It has
# the squared standard deviation of each feature on its diagonal, and says for each two features how much they rise and
# fall together:
#
#     d = |m1 - m2|^2 + trace of (S1 + S2 - 2 (S1 S2)^(1/2))
#
# (The trace is the sum of the diagonal. A square root of a matrix M is a matrix whose product with itself is M.) If no
# two features depend on each other, S is diagonal, and d is the sum of the distances of the single features.
#
# By hand, with two features that both have mean 0 and standard deviation 1. In the data they do not depend on each
# other. In the fakes they have the correlation 0.8:
#
#     S1 = | 1  0 |     S2 = |  1   0.8 |     the eigenvalues of S2 are 1 + 0.8 = 1.8 and 1 - 0.8 = 0.2
#          | 0  1 |          | 0.8   1  |
#
#     d = 2 + 2 - 2 (sqrt(1.8) + sqrt(0.2)) = 4 - 2 (1.342 + 0.447) = 0.422
#
# **So the distance sees a wrong dependence, although each feature alone is right.**


# %%
def root(M):
    """Returns the square root (F, F) of a symmetric matrix M (F, F) without negative eigenvalues."""
    values, vectors = np.linalg.eigh(M)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


def frechet(m1, S1, m2, S2):
    """Returns the squared Frechet distance for means (F,) and covariances (F, F).

    The trace of (S1 S2)^(1/2) is that of (R S2 R)^(1/2) with R = S1^(1/2), which is symmetric.
    """
    R = root(S1)
    return ((m1 - m2) ** 2).sum() + np.trace(S1 + S2 - 2 * root(R @ S2 @ R))


zero, correlated = np.zeros(2), np.array([[1, 0.8], [0.8, 1]])
assert np.isclose(frechet(zero, np.eye(2), zero, correlated), 0.422, atol=1e-3), (
    "The Frechet distance sees a wrong dependence of two features, although each alone is right."
)
assert np.isclose(frechet(zero, np.diag([1.0, 1]), np.array([1.0, 0]), np.diag([4.0, 9])), 2 + 4)  # 1 + 1, and 0 + 4
a, b = rng.normal(size=(500, 3)), rng.normal(1, 2, size=(400, 3))
by_hand = frechet(a.mean(axis=0), np.cov(a.T), b.mean(axis=0), np.cov(b.T))
assert np.isclose(by_hand, frechet_distance(a, b))

# %% [markdown]
# ## Features of digits
#
# Which features? For photographs, people use a large network that was trained to classify photographs
# ("[FID](GLOSSARY.md#fid)"). `minigan evaluate` uses a network that was trained on digits. Scores with different
# features cannot be compared. Here we use the simplest features that do something: we divide the image into 7 x 7
# squares of 4 x 4 pixels and take the mean of each. This gives 49 numbers, between 0 and 1.


# %%
def features(images):
    """Returns the means (N, 49) of 4 x 4 pixels of uint8 images (N, 28, 28, 1)."""
    return images.reshape(-1, 7, 4, 7, 4).mean(axis=(2, 4)).reshape(-1, 49) / 255


mnist = datasets.mnist()
order = rng.permutation(60_000)  # the digits of the file are not in random order
images, labels = mnist.images[order], mnist.labels[order]
COUNT = 2000
training = images[:COUNT]  # the digits that the forgers learnt from
held_out = images[COUNT : 2 * COUNT]  # real digits that they never saw
f_training, f_held_out = features(training), features(held_out)

# %% [markdown]
# ## How many samples?
#
# Two sets of real digits are equally good, so their distance should be 0. We try it with sets of different sizes.
# **With few samples, the Frechet distance of two sets of real digits is far from 0.** Means and covariances of few
# samples have errors, and all errors count as distance. So compare only scores that were computed from equally many
# samples.

# %%
sizes, floors = [60, 125, 250, 500, 1000, 2000], []
for size in sizes:
    floors.append(frechet_distance(features(images[:size]), features(images[-size:])))
    print(f"{size:5} and {size:4} real digits: Frechet distance {floors[-1]:.3f}")
assert (np.diff(floors) < 0).all() and floors[0] > 10 * floors[-1], (
    "With few samples, the Frechet distance of two sets of real digits is far from 0."
)

# %% [markdown]
# ## Density and coverage
#
# The Frechet distance is one number. It does not say *what* is wrong: bad fakes, or too little variety. Two other
# measures separate these (Naeem et al. 2020). Each real sample gets a *neighbourhood*: a ball whose radius is the
# distance to its k-th nearest other real sample. Then
#
#     density     in how many neighbourhoods does a fake lie, on average, divided by k     are the fakes good?
#     coverage    which share of the neighbourhoods contains a fake                        do they have variety?
#
# By hand, with k = 1 and real samples at 0, 1, 3 and 6. The radii are 1, 1, 2 and 3. Fakes are at 0.5 and 0.9. The
# neighbourhoods are [-1, 1], [0, 2], [1, 5] and [3, 9]. Both fakes lie in the first two of them, and nowhere else:
#
#     density = (2 + 2) / 2 = 2        coverage = 2 / 4 = 0.5
#
# The fakes crowd where real samples are dense, so the density is above 1, but they miss half of the data.

# %%
balls = Neighbourhoods(np.array([[0.0], [1.0], [3.0], [6.0]]), k=1)
assert np.allclose(np.sqrt(balls.square_radii), [1, 1, 2, 3])
counts, covered = balls.memberships(np.array([[0.5], [0.9]]))
assert counts.mean() / 1 == 2 and covered.mean() == 0.5 and covered.tolist() == [True, True, False, False]

# %% [markdown]
# ## Six forgers
#
# 1. *real*: the held-out digits. No forger can be better.
# 2. *noise*: held-out digits, and each pixel gets random noise. The fakes are bad, but they have variety.
# 3. *half*: held-out digits 0 to 4 only. Each fake is perfect, but half of the kinds are missing.
# 4. *copies*: the training digits themselves. A forger that has memorised everything
#    ([lesson 17](17_dropout_or_batch_norm.py)).
# 5. *pairs*: the mean of two held-out digits, one on the other. The fakes are no digits.
# 6. *Gauss*: no images at all. 49 random numbers that have the means and the covariances of the real features.

# %%
other = images[-20_000:]
half = other[labels[-20_000:] < 5][:COUNT]
noisy = np.clip(other[:COUNT] + rng.normal(0, 80, (COUNT, 28, 28, 1)), 0, 255).astype(np.uint8)
pairs = ((other[:COUNT].astype(int) + other[COUNT : 2 * COUNT]) // 2).astype(np.uint8)
forgers = {"real": other[:COUNT], "noise": noisy, "half": half, "copies": training, "pairs": pairs}
sets = {name: features(images) for name, images in forgers.items()}
sets["Gauss"] = rng.multivariate_normal(f_training.mean(axis=0), np.cov(f_training.T), size=COUNT)

neighbourhoods = Neighbourhoods(f_training, k=5)
scores = {}
for name, f in sets.items():
    counts, covered = neighbourhoods.memberships(f)
    to_training, to_held_out = (np.median(nearest(f, g)[1]) for g in (f_training, f_held_out))
    scores[name] = {
        "Frechet": frechet_distance(f, f_training),
        "density": counts.mean() / 5,
        "coverage": covered.mean(),
        "nearness": to_training / to_held_out,
    }
    print(f"{name:<7}" + "".join(f" {key} {value:6.3f}" for key, value in scores[name].items()))

# %% [markdown]
# Read the table line by line.
#
# - **Noise has a low density: these fakes do not lie where real digits lie.**
# - **Half has a low [coverage](GLOSSARY.md#coverage)**, and a good density.
# - **Pairs have a density as good as that of real digits.** The density is deceived here: averages lie in the middle,
#   inside many neighbourhoods. **But their Frechet distance is more than three times that of real digits.**
# - **Copies have the best Frechet distance, better than new real digits.** This distance and the coverage reward a
#   forger that has learnt nothing except to remember.
# - **Gauss has a Frechet distance as small as that of real digits.** The distance looks at nothing except means and
#   covariances. The low coverage shows that these are no digits.
#
# So no single number is enough.

# %%
real = scores["real"]
assert scores["noise"]["density"] < 0.5 * real["density"], (
    "Digits with strong noise have a low density, because they do not lie where real digits lie."
)
assert scores["half"]["coverage"] < 0.75 * real["coverage"] and scores["half"]["density"] > 0.8 * real["density"], (
    "A forger that draws only half of the digits has a low coverage and a good density."
)
assert scores["pairs"]["density"] > 0.85 * real["density"] and scores["pairs"]["Frechet"] > 3 * real["Frechet"], (
    "Means of two digits deceive the density with these features, but not the Frechet distance."
)
assert scores["copies"]["Frechet"] < 0.01 * real["Frechet"] and scores["copies"]["coverage"] == 1, (
    "Copies of the training data have a better Frechet distance than new real digits."
)
assert scores["Gauss"]["Frechet"] < 1.2 * real["Frechet"] and scores["Gauss"]["coverage"] < 0.5 * real["coverage"], (
    "Random numbers with the right means and covariances have as small a Frechet distance as real digits."
)

# %% [markdown]
# ## Memorised, or learnt?
#
# How do we notice copies? We need real data that the forger never saw. For each fake, we compute the distance to the
# nearest training digit and to the nearest held-out digit. Both sets have the same size. A forger that has learnt what
# digits look like is equally far from both: the ratio of the medians is near 1. **For new real digits the ratio is near
# 1. For copies it is 0, and for copies with a little noise it is far below 1.** In the table, it is called "nearness".

# %%
assert 0.9 < real["nearness"] < 1.1 and scores["copies"]["nearness"] == 0, (
    "New real digits are equally far from the training digits and from held-out digits; copies are not."
)
ratios, levels = [], [0, 5, 10, 20, 40, 80]
for level in levels:
    f = features(np.clip(training + rng.normal(0, level, training.shape), 0, 255).astype(np.uint8))
    ratios.append(np.median(nearest(f, f_training)[1]) / np.median(nearest(f, f_held_out)[1]))
print(
    "copies with noise:", ", ".join(f"noise {level}: {ratio:.2f}" for level, ratio in zip(levels, ratios, strict=True))
)
assert ratios[2] < 0.5, "Copies with a little noise are much nearer to the training digits than to held-out digits."

# %%
figure = plt.figure(figsize=(10.4, 5))
left, right = figure.subfigures(1, 2, width_ratios=(1, 1.35))
shown = {name: images[10:19, ..., 0] for name, images in forgers.items()}
shown["Gauss"] = np.kron((255 * sets["Gauss"][10:19].clip(0, 1)).reshape(9, 7, 7), np.ones((1, 4, 4)))
for axis, (name, pictures) in zip(left.subplots(6, 1), shown.items(), strict=True):
    axis.imshow(np.hstack(pictures), cmap="gray", vmin=0, vmax=255)
    axis.set(xticks=[], yticks=[])
    axis.set_ylabel(name, rotation=0, ha="right", va="center")
    axis.spines[:].set_visible(False)
titles = "Frechet distance", "density", "coverage", "nearness"
names = list(scores)
for axis, title, key in zip(right.subplots(1, 4, sharey=True), titles, real, strict=True):
    values = [scores[name][key] for name in names]
    axis.barh(names, values, color=[GREY] + [BLUE] * 5)
    axis.axvline(values[0], color=ORANGE, linewidth=1.2)
    axis.set_title(title, fontsize=10)
    axis.invert_yaxis() if key == "Frechet" else None
right.suptitle("orange line: new real digits", fontsize=10, color=ORANGE)
save(figure, "23_how_good.png")

# %% [markdown]
# `minigan evaluate RUN` prints such a table for a run, with intervals, and next to it the scores of real digits.
#
# ## Exercises
#
# Replace the dots with your answer, uncomment the code, and run it.

# %% [markdown]
# **Exercise 1.** Real samples have the mean 5 and the standard deviation 2. All fakes are equal to 5. What is the
# squared Frechet distance?
#
# <details><summary>Hint</summary>
#
# The standard deviation of the fakes is 0.
#
# <details><summary>Solution</summary>
#
# ```python
# d = 4
# ```
#
# </details></details>

# %% Exercise 1
# d = ...
# assert frechet_1d(5, 2, 5, 0) == d

# %% [markdown]
# **Exercise 2.** Real samples are at 0, 1, 2 and 10, and k = 1. There is one fake, at 5. What are the density and the
# coverage? (First find the radius of the neighbourhood of each real sample.)
#
# <details><summary>Hint</summary>
#
# The radii are 1, 1, 1 and 8. In which neighbourhoods does 5 lie?
#
# <details><summary>Solution</summary>
#
# ```python
# density, coverage = 1, 0.25
# ```
#
# </details></details>

# %% Exercise 2
# density, coverage = ...
# counts, covered = Neighbourhoods(np.array([[0.0], [1.0], [2.0], [10.0]]), k=1).memberships(np.array([[5.0]]))
# assert counts.mean() == density and covered.mean() == coverage

# %% [markdown]
# The next lesson, [24_double_backward.py](24_double_backward.py), explains how to compute the slopes of a penalty that
# contains a slope.
