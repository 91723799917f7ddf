# %% [markdown]
# # 16. A critic that does not need to learn
#
# **Question.** Can a critic that has learnt before, or that has learnt something else, train a forger?
#
# **You will know** why a completely frozen critic fails, what the features of a network are and how to borrow them, why
# a critic with borrowed features needs to see the whole batch, and how to train a forger without any step of a critic.
#
# **Builds on** [lesson 14](14_mode_collapse.py). **Takes** 35 minutes to read, 10 seconds to run.
#
# In a GAN, both players start from nothing. The critic first has to learn what matters in the data, and so the forger
# learns from a beginner. There may be a network that knows the data already: the critic of an earlier game, or a
# network that was trained to classify the data. Here we try what such a network is good for.

# %%
import copy

import matplotlib.pyplot as plt
import numpy as np
from _common import save

from minigan import game, losses, optim
from minigan.datasets import mixtures
from minigan.layers import Dense, Frozen, LeakyReLU, MinibatchStdDev, Sequential, he_normal, normal

data, BATCH, NOISE, LR = mixtures.ring(8, radius=2, std=0.15), 64, 4, 2e-3
ROUNDS, SEED = 400, 0
z_show = np.random.default_rng(9).standard_normal((2000, NOISE), dtype=np.float32)

# %% [markdown]
# ## Body and head
#
# Our critic has three dense layers. We divide it: the *body* is everything except the last layer, and the *head* is the
# last layer. The body turns a point into 64 numbers, which are called *[features](GLOSSARY.md#feature)*. The head is a
# weighted sum of the features. The body has 4352 weights, and the head has 65.


# %%
def body(rng):
    """Returns the layers (N, 2) -> (N, 64) of a critic without its head, with random weights."""
    he = dict(rng=rng, init=he_normal)
    return [Dense(2, 64, **he), LeakyReLU(0.2), Dense(64, 64, **he), LeakyReLU(0.2)]


def generator(rng):
    """Returns the generator of 07_forger_and_critic.py."""
    he, small = dict(rng=rng, init=he_normal), dict(rng=rng, init=normal(0.05))
    return Sequential(
        Dense(NOISE, 64, **he), LeakyReLU(0.2), Dense(64, 64, **he), LeakyReLU(0.2), Dense(64, 2, **small)
    )


def measured(fake):
    """Returns (effective number of modes, share that lies well), as in 14_mode_collapse.py."""
    shares = np.bincount(data.nearest(fake)[0], minlength=8) / len(fake)
    entropy = -(shares[shares > 0] * np.log(shares[shares > 0])).sum()
    return np.exp(entropy), data.coverage(fake)[1]


def play(D, rng, matching=0.0):
    """Trains a new forger against D. Returns its last fakes (2000, 2), and both numbers of `measured`.

    The numbers are means over the second half of the game. If D has no weights that learn, or with matching = 1, the
    critic takes no steps.
    """
    G, numbers = generator(rng), []
    opt_g, opt_d = optim.Adam(G, lr=LR, beta1=0.5), optim.Adam(D, lr=LR, beta1=0.5) if D.params else None
    for k in range(1, ROUNDS + 1):
        z_d, z_g = rng.standard_normal((2, BATCH, NOISE), dtype=np.float32)
        if opt_d and not matching:
            game.discriminator_step(G, D, opt_d, data.sample(BATCH, rng), z_d, losses.non_saturating)
        real = data.sample(BATCH, rng) if matching else None
        game.generator_step(G, D, opt_g, z_g, losses.non_saturating, real=real, matching=matching)
        if k > ROUNDS // 2 and k % 20 == 0:
            fake, _ = G.forward(z_show, train=False)
            numbers.append(measured(fake))
    return fake, *np.mean(numbers, axis=0)


rng = np.random.default_rng([SEED, 0])
scratch = Sequential(*body(rng), Dense(64, 1, rng=rng))
parts = scratch.layers[:-1], scratch.layers[-1:]
sizes = [sum(w.size for layer in part for w in layer.params.values()) for part in parts]
assert sizes == [2 * 64 + 64 + 64 * 64 + 64, 64 + 1] == [4352, 65]
results = {"from nothing": play(scratch, rng)}

# %% [markdown]
# ## First try: freeze everything
#
# `scratch` is now the critic of an earlier game. We *[freeze](GLOSSARY.md#freeze)* it, which means that its weights do
# not change any more, and train a new forger against it. `Frozen(layer)` computes the same as the layer and has no
# weights that learn. The slopes still go through it to the fakes.
#
# [Lesson 14](14_mode_collapse.py) tells us the best answer to a critic that does not change: go where its logit is
# highest. The earlier game taught this critic about the places where fakes used to be, and nothing about the rest of
# the plane. There its logit goes on rising in some direction. **Against a completely frozen critic, the forger runs
# away from the data.** Its fakes get higher and higher logits, and no step of the critic answers.

# %%
frozen = Sequential(*map(Frozen, scratch.layers))
x = data.sample(5, rng)
assert frozen.params == {} and np.array_equal(frozen.forward(x)[0], scratch.forward(x)[0])
results["all frozen"] = play(frozen, rng)
fake, number, share = results["all frozen"]
l_fake, l_real = (scratch.forward(points)[0].mean() for points in (fake, data.sample(1000, rng)))
print(f"all frozen: {number:.1f} effective modes; mean logit of fakes {l_fake:.1f}, of real points {l_real:.1f}")
away = np.linalg.norm(fake, axis=1).mean()
print(f"mean distance from the middle: fakes {away:.1f}, real points 2.0")
assert away > 5 and share < 0.05 and l_fake > l_real + 3, (
    "Against a completely frozen critic, the forger runs away from the data, to points with higher and higher logits."
)

# %% [markdown]
# ## Second try: freeze the body, and let the head learn
#
# Now only the 65 weights of the head learn. We take the features from three bodies:
#
# - *earlier*: the body of `scratch`, from the earlier game.
# - *borrowed*: the body of a classifier. It has learnt to say from which of the eight Gaussians a point comes. This is
#   another task, and it needs labels.
# - *random*: a body with random weights, which has learnt nothing.

# %%
classifier = Sequential(*body(rng), Dense(64, 8, rng=rng))
opt = optim.Adam(classifier, lr=5e-3)
for _ in range(300):
    points, labels = data.labelled(BATCH, rng)
    logits, cache = classifier.forward(points)
    _, slopes = losses.cross_entropy(logits, labels)
    opt.step(classifier.backward(slopes, cache, need_dx=False)[1])
points, labels = data.labelled(1000, rng)
right = (classifier.forward(points)[0].argmax(axis=1) == labels).mean()
print(f"the classifier is right for {right:.1%} of new points")
assert right > 0.98

bodies = {"earlier": scratch.layers[:-1], "borrowed": classifier.layers[:-1], "random": body(rng)}
for name, layers in bodies.items():
    results[name, "head"] = play(Sequential(*map(Frozen, layers), Dense(64, 1, rng=rng)), rng)
    print(f"{name:<9} body, head learns: {results[name, 'head'][1]:.1f} effective modes")

# %% [markdown]
# **If only the head learns, the forger collapses: on average over the three bodies, it draws fewer than 5.5 effective
# modes.** To see why, we look at what a weighted sum can tell apart.
#
# ## Worked by hand: what a head can see
#
# Let there be two features. The data are two points with the features (1, 0) and (0, 1), equally often. A collapsed
# forger draws only one point, with the features (0.5, 0.5). A head computes l = u1 f1 + u2 f2. Then
#
#     mean logit of the data      (u1 + u2) / 2
#     mean logit of the fakes     0.5 u1 + 0.5 u2       the same, for every u1 and u2
#
# A head sees each sample alone, and of all samples together it can only compare the *mean* of the features. If a single
# point has the mean features of the data, the head is helpless. In general, **the difference of the mean logits is
# u . (mean features of the data - mean features of the fakes)**. It is 0 for every head u if both means are equal.
#
# A critic whose body learns can answer: it changes the features until the means differ. A frozen body cannot.

# %%
mean_of = lambda use: np.mean([results[name, use][1] for name in bodies])  # noqa: E731
assert mean_of("head") < 5.5, (
    "If only a head on frozen features learns, the forger collapses (mean over three kinds of features)."
)
f_data, f_fake = np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([[0.5, 0.5]])
for u in rng.normal(size=(100, 2)):
    assert np.isclose((f_data @ u).mean(), (f_fake @ u).mean())
x, y = data.sample(500, rng), results["earlier", "head"][0][:500]
f = Sequential(*scratch.layers[:-1])
head = Dense(64, 1, rng=rng)
f_x, f_y = f.forward(x)[0], f.forward(y)[0]  # (500, 64) each
gap = head.forward(f_x)[0].mean() - head.forward(f_y)[0].mean()
assert np.isclose(gap, (f_x.mean(axis=0) - f_y.mean(axis=0)) @ head.params["w"][:, 0], atol=1e-5), (
    "The difference of the mean logits is the head times the difference of the mean features."
)

# %% [markdown]
# ## Third try: show the head the batch
#
# [Lesson 14](14_mode_collapse.py) has the remedy: the minibatch standard deviation of each feature. It is computed, not
# learnt, so it fits a critic that does not learn. The head now has 129 weights. (minigan adds this layer when it builds
# a critic from the convolutions of a classifier.)
#
# ## Fourth try: no critic at all
#
# We saw that a head compares means of features. Then why not compare them directly, without a head? The forger
# minimises the squared distance between the mean features of its fakes and of real points:
#
#     loss of the forger = |mean f(real) - mean f(fake)|^2
#
# This is *[feature matching](GLOSSARY.md#feature-matching)* (Salimans et al. 2016). There is no critic's loss and no
# critic's step. A body is all we need.

# %%
for name, layers in bodies.items():
    varied = Sequential(*map(Frozen, layers), MinibatchStdDev(64, strength=5.0), Dense(128, 1, rng=rng))
    results[name, "head, std"] = play(varied, rng)
    alone = Sequential(*map(Frozen, layers), Dense(64, 1, rng=rng))
    untouched = copy.deepcopy(alone)
    results[name, "matching"] = play(alone, rng, matching=1.0)
    assert all(np.array_equal(w, untouched.params[key]) for key, w in alone.params.items())  # nothing learnt
for key, (_, number, share) in results.items():
    title = " body, ".join(key) if isinstance(key, tuple) else key
    print(f"{title:<24} {number:.1f} effective modes, {share:3.0%} lie well")

# %% [markdown]
# **With the standard deviation, the forger spreads over more than six effective modes, on average over the bodies. With
# feature matching, it is more than seven for each body, without a single step of a critic.** Even the random body works
# here: the fakes only have to have
# the right means and standard deviations of 64 curved functions of the plane.
#
# Variety is only half of the goal. In these short games, few fakes lie well, also in the game from nothing. In the
# figure, feature matching draws a broad cloud: 64 means do not say where exactly the points lie. Which body is best
# depends on the data. `minigan experiment pretrained` asks this question for digits, with several seeds.

# %%
for name in bodies:
    assert results[name, "matching"][1] > 7, "Feature matching trains a forger without a single step of a critic."
assert mean_of("head, std") > 6 and mean_of("head, std") > mean_of("head") + 1, (
    "With the minibatch standard deviation of frozen features, the forger spreads over most of the modes."
)
assert results["from nothing"][2] < 0.5  # in a game as short as this

# %%
figure = plt.figure(figsize=(10, 9.6))
side, grid = figure.subfigures(1, 2, width_ratios=(1, 3.3))
shown = data.sample(300, rng)


def draw(axis, key, title):
    """Draws real points and fakes of a game."""
    fake, number, share = results[key]
    axis.plot(*shown.T, ".", color="#b9d3ea", markersize=3)
    axis.plot(*fake[::5].T, ".", color="black", markersize=2)
    far = 1.1 * abs(fake).max() if title == "all frozen" else 3
    axis.set(aspect="equal", xlim=(-far, far), ylim=(-far, far), xticks=[], yticks=[])
    axis.set_title(f"{title}\n{number:.1f} modes, {share:.0%} lie well", fontsize=10)


for axis, key in zip(side.subplots(3, 1)[:2], ("from nothing", "all frozen"), strict=True):
    draw(axis, key, key)
side.axes[2].axis("off")
for row, name in zip(grid.subplots(3, 3), bodies, strict=True):
    for axis, use in zip(row, ("head", "head, std", "matching"), strict=True):
        draw(axis, (name, use), f"{name}: {use}")
side.axes[2].text(0.5, 0.6, "light blue: real\nblack: fakes", ha="center", transform=side.axes[2].transAxes)
save(figure, "16_borrowed_critic.png")

# %% [markdown]
# In minigan, `--discriminator-from` takes the critic of an earlier run or a classifier that `minigan classify` wrote,
# `--freeze` says what does not learn, and `--projected` trains small heads on random projections of frozen features
# (after Sauer et al. 2021). `minigan experiment pretrained` compares them with digits.
#
# ## Exercises
#
# Replace the dots with your answer, uncomment the code, and run it.

# %% [markdown]
# **Exercise 1.** The data are the numbers -1 and 1, equally often. The only feature is f(x) = x. Which single number
# has the mean feature of the data? And which single positive number has it, if the only feature is f(x) = x^2?
#
# <details><summary>Hint</summary>
#
# The mean of x over the data is 0. The mean of x^2 is 1.
#
# <details><summary>Solution</summary>
#
# ```python
# first, second = 0, 1
# ```
#
# </details></details>

# %% Exercise 1
# first, second = ...
# numbers = np.array([-1.0, 1.0])
# assert numbers.mean() == first and (numbers**2).mean() == second**2 and second > 0

# %% [markdown]
# **Exercise 2.** With both features of exercise 1, x and x^2, is there a single number with the mean features of the
# data? Answer True or False.
#
# <details><summary>Hint</summary>
#
# It would have to be 0, because of the first feature. What is the second feature of 0?
#
# <details><summary>Solution</summary>
#
# ```python
# exists = False
# ```
#
# </details></details>

# %% Exercise 2
# exists = ...
# x = np.linspace(-2, 2, 4001)
# distance = (x - numbers.mean()) ** 2 + (x**2 - (numbers**2).mean()) ** 2  # feature matching of a single fake
# assert (distance.min() < 1e-6) == exists

# %% [markdown]
# The next lesson, [17_dropout_or_batch_norm.py](17_dropout_or_batch_norm.py), looks at the layers inside a critic.
