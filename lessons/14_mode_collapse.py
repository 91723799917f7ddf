# %% [markdown]
# # 14. Mode collapse
#
# **Question.** Why does a forger sometimes draw only a few kinds of things, how do we measure it, and what helps?
#
# **You will know** why one single fake is the best answer to a critic that does not change, how to count the kinds that
# a forger draws, and three changes that help: the minibatch standard deviation, packing, and a limit on the critic's
# slopes.
#
# **Builds on** [lesson 8](08_losses.py). **Takes** 40 minutes to read, 17 seconds to run, 10 with `--quick`.
#
# Real data have many kinds: ten digits, or the eight Gaussians of [lesson 7](07_forger_and_critic.py). Each kind is
# called a *mode*. A forger that draws only some of the modes has *collapsed*. Each of its fakes may look perfect. So
# you do not see a collapse in one fake. You see it only in many fakes.

# %%
import matplotlib.pyplot as plt
import numpy as np
from _common import BLUE, GREEN, GREY, ORANGE, QUICK, save

from minigan import game, losses, optim, penalties
from minigan.datasets import mixtures
from minigan.layers import Dense, LeakyReLU, MinibatchStdDev, Pack, Sequential, he_normal, normal

# %% [markdown]
# ## Worked by hand: the best answer is one point
#
# Let there be only three places, A, B and C. A third of the real points is at each. The critic answers 0.6 at A, 0.5 at
# B and 0.4 at C, and does not change. The forger chooses which share of its fakes goes where. Its loss is the mean of
# -log D over its fakes, with -log 0.6 = 0.511, -log 0.5 = 0.693 and -log 0.4 = 0.916:
#
#     a third at each place      (0.511 + 0.693 + 0.916) / 3 = 0.707
#     everything at A             0.511
#
# A mean is never below its smallest number. So **against a critic that does not change, no forger is better than one
# that puts all fakes on one point**: the point where the critic answers highest. The forger's loss does not ask for
# variety at all. Only the next answer of the critic can punish the forger.

# %%
rng = np.random.default_rng(0)
D = np.array([0.6, 0.5, 0.4])
assert np.allclose([-np.log(D).mean(), -np.log(D[0])], [0.707, 0.511], atol=1e-3)
shares = rng.dirichlet(np.ones(3), size=10_000)  # (10000, 3): random ways to spread the fakes, each with sum 1
assert (shares @ -np.log(D)).min() >= -np.log(D).max(), (
    "Against a critic that does not change, no forger is better than one that puts all fakes on one point."
)

# %% [markdown]
# What is the critic's best answer? [Lesson 7](07_forger_and_critic.py) gave the formula p / (p + q). With p = 1/3
# everywhere and all fakes at A, it is
#
#     at A:  (1/3) / (1/3 + 1) = 0.25        at B and C:  (1/3) / (1/3 + 0) = 1
#
# So the forger's next best answer is B or C. **If both players always play their best answer, the forger jumps from
# place to place and never draws two places at once.** The balance, a third everywhere, is never reached.

# %%
visited = []
for _ in range(12):
    q = np.zeros(3)
    q[rng.choice(np.flatnonzero(np.isclose(D, D.max())))] = 1  # all fakes at a place with the highest answer
    D = (1 / 3) / (1 / 3 + q)  # the critic's best answer
    visited.append(q)
visited = np.array(visited)  # (12, 3)
print("places of the forger:", " ".join("ABC"[k] for k in visited.argmax(axis=1)))
assert np.allclose(D[visited[-1] == 1], 0.25) and np.allclose(D[visited[-1] == 0], 1)
assert (visited.max(axis=1) == 1).all() and (visited[1:] != visited[:-1]).any(axis=1).all(), (
    "If both players always play their best answer, the forger jumps from place to place."
)

# %% [markdown]
# Real players take small steps in turn, so they can stay near the balance. But if the forger takes many steps for each
# step of the critic, the game is closer to this chase. We use this to make a collapse on purpose: below, the forger
# takes five steps for each step of the critic.
#
# ## Counting kinds
#
# How many modes does a forger draw? We give each fake to its nearest mode and compute the share s of each mode. It is
# not enough to count the shares above 0: a mode with one fake in a thousand hardly counts. The
# *[effective number of modes](GLOSSARY.md#effective-number-of-modes)* is exp(H), where H = -sum of s log s is the
# [entropy](GLOSSARY.md#entropy) of the shares. For the shares 1/2, 1/4, 1/4:
#
#     H = 0.5 * 0.693 + 0.25 * 1.386 + 0.25 * 1.386 = 1.040        exp(H) = 2.83
#
# **For n equal shares, the effective number is n. For other shares, it is less.**


# %%
def effective(shares):
    """Returns exp(entropy) of shares (K,), which is between 1 and K."""
    s = shares[shares > 0]
    return np.exp(-(s * np.log(s)).sum())


assert np.isclose(effective(np.array([0.5, 0.25, 0.25])), 2.83, atol=5e-3)
assert all(np.isclose(effective(np.ones(n) / n), n) for n in range(1, 9))
assert max(effective(s) for s in rng.dirichlet(np.ones(8), size=1000)) < 8, (
    "For n equal shares, the effective number of modes is n. For other shares, it is less."
)

# %% [markdown]
# ## What one critic cannot see, and two answers
#
# The critic judges each point alone. Every fake of a collapsed forger can lie exactly where real points lie. The only
# mistake is that there are *too many* of them there. There are two ways to show the critic several samples at once.
#
# *The [minibatch standard deviation](GLOSSARY.md#minibatch-standard-deviation)* (Karras et al. 2018). A layer in the
# critic computes the standard deviation of each coordinate over the batch, and appends it to each point. Here are the x
# coordinates of four real points and of four fakes:
#
#     real    2.0  -2.0   0.0   1.4      mean 0.35      std 1.54
#     fake    1.9   2.0   2.1   2.0      mean 2.00      std 0.07
#
# The number 2.0 occurs in both batches. With the std next to it, the critic can tell (2.0, 1.54) from (2.0, 0.07). And
# the forger learns from it: the slope of the std s with respect to one x is (x - mean) / (N s). So **to raise the std,
# each fake moves away from the mean of its batch.**

# %%
real_x, fake_x = np.array([[2.0], [-2.0], [0.0], [1.4]]), np.array([[1.9], [2.0], [2.1], [2.0]])  # (4, 1)
spread = MinibatchStdDev(1, strength=1.0)
(y_real, _), (y_fake, cache) = spread.forward(real_x), spread.forward(fake_x)  # (4, 2): x, and the std
assert np.allclose([y_real[0], y_fake[1]], [[2.0, 1.54], [2.0, 0.07]], atol=5e-3)
dx, _ = spread.backward(np.array([[0.0, 1.0]] * 4), cache)  # the slope of the sum of the appended numbers
assert np.array_equal(np.sign(dx.round(9)), np.sign((fake_x - fake_x.mean()).round(9))), (
    "To raise the standard deviation of a batch, each fake moves away from the mean."
)
by_hand = (fake_x - 2) / (4 * np.sqrt(0.005 + 1e-4))  # the layer adds 1e-4 to the variance, against a division by 0
assert np.allclose(dx, 4 * by_hand)  # each x is in the std of all four rows

# %% [markdown]
# *[Packing](GLOSSARY.md#packing)* (Lin et al. 2018). The critic gets m points at once, all real or all fake, and gives
# one answer for the pack. Why does this help? Let the data have eight equal modes, and compare two forgers:
#
# - Forger 1 has lost two modes. It draws the other six equally often: shares 1/6.
# - Forger 2 draws all modes, but unequally: four of them have the share 1/16, and four have 3/16.
#
# How well can a critic tell p from q? One measure is the *overlap*, the sum of min(p, q) over all cases:
#
#     one point    forger 1:  6 * 1/8 = 0.75                    forger 2:  4 * 1/16 + 4 * 1/8 = 0.75
#     two points   forger 1:  36 * 1/64 = 0.5625                forger 2:  16/256 + 32 * 3/256 + 16/64 = 0.6875
#
# (Two points fall into 64 pairs of modes, each with p = 1/64. For forger 2, 16 pairs have q = 1/256, 32 pairs have
# 3/256, and 16 pairs have 9/256, which is more than 1/64.) One point at a time, the two forgers look equally bad. **In
# pairs, the forger that has lost modes is easier to recognise.** So the critic pushes hardest against a collapse.


# %%
def overlap(q, m):
    """Returns the sum of min(p, q) over all packs of m points, for shares q (8,) and p = 1/8."""
    packs = q
    for _ in range(m - 1):
        packs = np.outer(packs, q).ravel()  # (8^m,): the probability of each pack
    return np.minimum(packs, 1 / 8**m).sum()


lost, uneven = np.array([0, 0] + [1 / 6] * 6), np.array([1 / 16] * 4 + [3 / 16] * 4)
assert np.isclose(lost.sum(), 1) and np.isclose(uneven.sum(), 1)
assert np.allclose([overlap(lost, 1), overlap(uneven, 1)], 0.75)
assert np.allclose([overlap(lost, 2), overlap(uneven, 2)], [0.5625, 0.6875])
assert all(overlap(lost, m) < overlap(uneven, m) for m in (2, 3, 4)), (
    "In packs of two or more, a forger that has lost modes is easier to recognise than one with uneven shares."
)

# %% [markdown]
# The third change is different. *[R1](GLOSSARY.md#r1)* does not show the critic more (Mescheder et al. 2018). It adds a
# penalty on the squared slopes of its logit at real points. So these slopes become small, and the forger does not rush
# from one mode to the next. [Lesson 15](15_dirac_gan.py) explains R1. Its weight is 3 here.
#
# ## Four games
#
# All four games have the same data and a forger that takes five steps for each step of the critic. Only the critic
# differs.

# %%
data, BATCH, NOISE = mixtures.ring(8, radius=2, std=0.1), 64, 4
z_show = np.random.default_rng(9).standard_normal((2000, NOISE), dtype=np.float32)
ROUNDS = 300 if QUICK else 600


def look(G):
    """Returns 2000 fakes (2000, 2), and (effective modes, share that lies well)."""
    fake, _ = G.forward(z_show, train=False)
    counts = np.bincount(data.nearest(fake)[0], minlength=8)
    return fake, (effective(counts / 2000), data.coverage(fake)[1])


def play(first=(), width=2, penalty=None, seed=0):
    """Plays a game. `first` are the first layers of D, and `width` is the number of features after them.

    Returns the last fakes (2000, 2), D, and a table (30, 2) of (effective modes, share that lies well).
    """
    rng = np.random.default_rng(seed)
    he = dict(rng=rng, init=he_normal)
    small = dict(rng=rng, init=normal(0.05))
    G = Sequential(Dense(NOISE, 64, **he), LeakyReLU(0.2), Dense(64, 64, **he), LeakyReLU(0.2), Dense(64, 2, **small))
    layers = Dense(width, 64, **he), LeakyReLU(0.2), Dense(64, 64, **he), LeakyReLU(0.2), Dense(64, 1, rng=rng)
    D = Sequential(*first, *layers)
    opt_g, opt_d = optim.Adam(G, lr=2e-3, beta1=0.5), optim.Adam(D, lr=2e-3, beta1=0.5)
    table = []
    for k in range(1, ROUNDS + 1):
        noise = rng.standard_normal((6, BATCH, NOISE), dtype=np.float32)
        game.discriminator_step(G, D, opt_d, data.sample(BATCH, rng), noise[0], losses.non_saturating, penalty=penalty)
        for z in noise[1:]:
            game.generator_step(G, D, opt_g, z, losses.non_saturating)
        if k % (ROUNDS // 30) == 0:
            fake, measured = look(G)
            table.append(measured)
    return fake, D, np.array(table)


def r1(D, real, fake, labels):
    """Computes R1 with weight 3."""
    return penalties.r1(D, real, weight=3.0)


games = {
    "nothing": play(),
    "minibatch std": play((MinibatchStdDev(2, strength=1.0),), 4),
    "packing": play((Pack(4),), 8),
    "R1": play(penalty=r1),
}
means = {name: table[15:].mean(axis=0) for name, (_, _, table) in games.items()}  # over the second half of the game
for name, (number, share) in means.items():
    print(f"{name:<14} {number:.1f} effective modes of 8, {share:3.0%} of the fakes lie well")

# %% [markdown]
# **With nothing, the forger draws about half of the modes or fewer. With each of the three changes, it spreads over
# more than six.** The numbers are means over the second half of the game. The cell also measures what R1 does: **the
# slopes of the critic's logit at real points are less than half as long.**

# %%
assert means["nothing"][0] < (6 if QUICK else 5), (
    "A forger that takes five steps for each step of the critic collapses."
)
for name in ("minibatch std", "packing", "R1"):
    assert means[name][0] > 6, (
        "The minibatch standard deviation, packing, and R1 each raise the effective number of modes above six of eight."
    )
x = data.sample(1000, rng)
lengths = {}
for name in ("nothing", "R1"):
    logits, cache = games[name][1].forward(x)
    slope, _ = games[name][1].backward(np.ones_like(logits), cache, need_grads=False)
    lengths[name] = np.linalg.norm(slope, axis=1).mean()
    print(f"{name:<8} mean length of the slope of the logit at real points: {lengths[name]:.2f}")
assert lengths["R1"] < 0.5 * lengths["nothing"], (
    "With R1, the slopes of the critic's logit at real points are less than half as long."
)

# %% [markdown]
# Variety is only one half. A forger that spreads its fakes over the whole plane also has eight effective modes, but no
# good fake. So we need the second number as well: the share of fakes that lie well. **In this short game, only the
# minibatch standard deviation gives both variety and quality.**

# %%
shares = {name: share for name, (_, share) in means.items()}
assert max(shares, key=shares.get) == "minibatch std" and shares["minibatch std"] > 2 * shares["packing"], (
    "Variety is not quality: here, only the minibatch standard deviation also puts many fakes where real points lie."
)
everywhere = rng.uniform(-2.5, 2.5, (2000, 2))
counts = np.bincount(data.nearest(everywhere)[0], minlength=8)
assert effective(counts / 2000) > 7.5 and data.coverage(everywhere)[1] < 0.1

# %%
figure = plt.figure(figsize=(10, 6.3))
top, bottom = figure.subfigures(2, 1, height_ratios=(1, 1))
colours = dict(zip(games, (ORANGE, GREEN, BLUE, GREY), strict=True))
for axis, (name, (fake, _, _)) in zip(top.subplots(1, 4), games.items(), strict=True):
    axis.plot(*data.sample(400, rng).T, ".", color="#b9d3ea", markersize=4, label="real")
    axis.plot(*fake[::5].T, ".", color="black", markersize=2, label="fake")
    axis.set(aspect="equal", xlim=(-3, 3), ylim=(-3, 3), xticks=[-2, 0, 2], yticks=[-2, 0, 2], xlabel=name)
    axis.xaxis.label.set(color=colours[name], fontsize=11, fontweight="bold")
top.suptitle("fakes (black) and real points (light blue) at the end", fontsize=11)
titles = "effective number of modes, of 8", "share of the fakes that lie well"
for k, (axis, title) in enumerate(zip(bottom.subplots(1, 2), titles, strict=True)):
    for name, (_, _, table) in games.items():
        axis.plot(np.arange(1, 31) * (ROUNDS // 30), table[:, k], color=colours[name], label=name)
    axis.set(title=title, xlabel="round", ylim=(0, (8.4, 1)[k]))
bottom.axes[1].legend(loc="upper left", ncols=2)
save(figure, "14_mode_collapse.png")

# %% [markdown]
# No way out helps against every way in. `minigan experiment collapse` tries five ways out against seven ways in, with
# digits. In a run of `minigan train`, the options are `--pack 4`, `--penalty r1` and `--network d_minibatch_std=5`, and
# an alarm looks for a collapse.
#
# ## Exercises
#
# Replace the dots with your answer, uncomment the code, and run it.

# %% [markdown]
# **Exercise 1.** Half of a forger's fakes are ones, and half are sevens. It draws no other digit. How many effective
# modes is that? What if 90% are ones and 10% are sevens: is the number above or below 1.5?
#
# <details><summary>Hint</summary>
#
# For the second question, compute H = -(0.9 log 0.9 + 0.1 log 0.1). The logarithms are -0.105 and -2.303.
#
# <details><summary>Solution</summary>
#
# ```python
# first, second = 2, "below"  # H = 0.095 + 0.230 = 0.325, and exp(0.325) = 1.38
# ```
#
# </details></details>

# %% Exercise 1
# first, second = ...
# assert np.isclose(effective(np.array([0.5, 0.5])), first)
# assert (effective(np.array([0.9, 0.1])) < 1.5) == (second == "below")

# %% [markdown]
# **Exercise 2.** You do not know the modes of your data, but you suspect that the forger can draw only 200 different
# images, all equally often. You draw 20 of them. How many pairs of equal images do you expect?
#
# <details><summary>Hint</summary>
#
# How many pairs do 20 images form? Each pair is equal with the probability 1/200. (Arora and Zhang 2017 call this the
# birthday test.)
#
# <details><summary>Solution</summary>
#
# ```python
# expected = 20 * 19 / 2 / 200
# ```
#
# </details></details>

# %% Exercise 2
# expected = ...
# images = rng.integers(200, size=(20_000, 20))  # 20,000 times 20 draws
# pairs = (images[:, :, None] == images[:, None, :]).sum(axis=(1, 2)) - 20  # each pair is counted twice
# assert np.isclose(pairs.mean() / 2, expected, rtol=0.05)

# %% [markdown]
# The next lesson, [15_dirac_gan.py](15_dirac_gan.py), looks at the chase itself: why the players circle, and how R1
# stops them.
