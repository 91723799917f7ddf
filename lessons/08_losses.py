# %% [markdown]
# # 8. What the losses mean
#
# **Question.** Which loss is best for the forger, and what can we learn from the loss curves?
#
# **You will know** two losses for the forger and where one of them stalls, why programs compute with logits, what the
# numbers 1.386 and 0.693 mean, and what loss curves show and hide.
#
# **Builds on** [lesson 7](07_forger_and_critic.py). **Takes** 40 minutes to read, 10 seconds to run, 8 with `--quick`.

# %%
import copy

import matplotlib.pyplot as plt
import numpy as np
from _common import BLUE, GREEN, GREY, ORANGE, QUICK, save

from minigan import game, losses, optim
from minigan.datasets import mixtures
from minigan.layers import Dense, LeakyReLU, Sequential, he_normal, normal
from minigan.training import Config

# %% [markdown]
# ## Two losses for the forger
#
# Let l be the critic's logit for a fake, so that `sigmoid(l)` is the probability that the fake is real. The forger
# should change its fakes so that l rises. In the minimax game of [lesson 7](07_forger_and_critic.py), it minimises
# log(1 - sigmoid(l)), whose slope is `-sigmoid(l)`. Goodfellow also proposed a second loss, the *non-saturating* loss.
# Here the forger minimises -log sigmoid(l), whose slope is `-(1 - sigmoid(l))`, or `-sigmoid(-l)`.
#
#     minimax           -softplus(l)      slope -sigmoid(l)
#     non-saturating     softplus(-l)     slope -sigmoid(-l)
#
# Both losses fall as l rises, so both push l in the same direction. They differ where the critic is *sure* that it sees
# a fake, which means that l is far below 0. **There the slope of the minimax loss is nearly 0, and the slope of the
# [non-saturating loss](GLOSSARY.md#non-saturating-loss) is nearly -1.**


# %%
def sigmoid(l):
    """Computes 1 / (1 + exp(-l))."""
    return 1 / (1 + np.exp(-l))


def softplus(l):
    """Computes log(1 + exp(l)) without overflow."""
    return np.maximum(l, 0) + np.log1p(np.exp(-abs(l)))


def minimax(l):
    """Returns the minimax loss of one fake, and its slope."""
    return -softplus(l), -sigmoid(l)


def non_saturating(l):
    """Returns the non-saturating loss of one fake, and its slope."""
    return softplus(-l), -sigmoid(-l)


l = np.linspace(-8, 8, 161)  # (161,)
for ours, theirs in ((minimax, losses.minimax), (non_saturating, losses.non_saturating)):
    loss, slope = theirs.generator(l)  # minigan's losses are means over the batch
    assert np.isclose(loss, ours(l)[0].mean()) and np.allclose(slope, ours(l)[1] / l.size)
assert abs(minimax(-8.0)[1]) < 0.001 and abs(non_saturating(-8.0)[1]) > 0.999, (
    "For a fake with logit -8, the slope of the minimax loss is below 0.001, and that of the other is above 0.999."
)

# %% [markdown]
# ## Worked by hand: one fake
#
# The critic gives a fake the logit l = -4, so D = sigmoid(-4) = 0.018. Then
#
#     minimax           log(1 - 0.018) = -0.018      slope -0.018
#     non-saturating    -log 0.018     =  4.018      slope -(1 - 0.018) = -0.982
#
# The second slope is 0.982 / 0.018 = 54.6 times as large. This is exactly exp(4), and in general exp(-l): each time the
# logit falls by 1, the minimax slope becomes 2.718 times smaller, compared with the other.

# %%
assert np.allclose([*minimax(-4.0), *non_saturating(-4.0)], [-0.018, -0.018, 4.018, -0.982], atol=5e-4)
assert np.allclose(non_saturating(l)[1] / minimax(l)[1], np.exp(-l)) and round(np.exp(4), 1) == 54.6

# %% [markdown]
# ## From logits, never from probabilities
#
# Why do we not compute p = sigmoid(l) first, and then its logarithm? In float32, p is rounded to exactly 0 or 1 if the
# logit is large, and the logarithm of 0 is -infinity. A program can avoid this by clipping p to at least 1e-8. But
# **where p is clipped, the slope is 0, so the forger does not learn from this fake.** For the non-saturating loss, the
# right slope at l = -30 is -1. minigan computes the loss from the logit with [softplus](GLOSSARY.md#softplus) and gets
# this slope.

# %%
l30 = np.float32([-30.0])


def clipped(l):
    """Computes the non-saturating loss from a clipped probability."""
    return -np.log(np.maximum(1 / (1 + np.exp(-l)), np.float32(1e-8)))


h = np.float32(0.5)
assert clipped(l30 + h) == clipped(l30 - h), "Where a probability is clipped, the loss is flat, so its slope is 0."
assert losses.non_saturating.generator(l30)[1] == -1
with np.errstate(over="ignore", divide="ignore"):
    assert np.log(1 / (1 + np.exp(np.float32(100)))) == -np.inf
assert losses.non_saturating.generator(np.float32([-100]))[0] == 100

# %% [markdown]
# ## Minimax, played against a perfect critic
#
# Now we play. In the formula of the minimax game, the critic is perfect: for each forger, "max over D" takes the best
# critic. With a simple example we can do exactly this. Real numbers are normally distributed around 4, and the fakes
# around b, both with standard deviation 1. The forger learns b and starts at b = -4. The best critic is
# `D = p / (p + q)`, where p and q are the densities of real numbers and fakes (see below). Its logit is log(p / q),
# which is here
#
#     l(x) = log p(x) - log q(x) = (4 - b) x - (16 - b^2) / 2          slope of l with respect to x: 4 - b
#
# In each round, the critic becomes perfect, and then the forger takes one step of gradient descent.


# %%
def play_perfect(loss, rounds=200, lr=0.05):
    """Returns the forger's b after each round against a perfect critic."""
    b, path, offsets = -4.0, [], np.random.default_rng(0).normal(size=10_000)
    for _ in range(rounds):
        x = b + offsets  # the fakes
        l = (4 - b) * x - (16 - b**2) / 2  # the perfect critic's logits
        db = (loss(l)[1] * (4 - b)).mean()  # the slope goes through the critic, whose weights stay fixed
        b -= lr * db
        path.append(b)
    return np.array(path)


perfect = {"minimax": play_perfect(minimax), "non-saturating": play_perfect(non_saturating)}
for name, path in perfect.items():
    print(f"{name:<14} against a perfect critic: b went from -4 to {path[-1]:.2f}; the real mean is 4")

# %% [markdown]
# **The minimax forger stalls: after 200 rounds, it has hardly moved. The non-saturating forger arrives.**  When fakes
# and real numbers are far from each other, a perfect critic is sure of every fake, so the minimax loss gives nearly no
# slope.

# %%
assert perfect["minimax"][-1] < -3.5, "Against a perfect critic, the minimax forger stalls far from the data."
assert abs(perfect["non-saturating"][-1] - 4) < 0.5, "Against a perfect critic, the non-saturating forger arrives."

# %% [markdown]
# ## Networks, and a critic with a head start
#
# Real critics are networks and not perfect. We let the critic of [lesson 7](07_forger_and_critic.py) train alone for
# 400 rounds, and the forger does not change. We measure the length of the forger's gradient, over all its weights, for
# each of the two losses.

# %%
data, BATCH, NOISE = mixtures.ring(8, radius=2, std=0.15), 128, 4


def players(rng):
    """Returns new networks G and D, and their optimizers, as in 07_forger_and_critic.py."""
    he = dict(rng=rng, init=he_normal)
    small = dict(rng=rng, init=normal(0.05))  # small weights, so that the first fakes are close to the middle
    G = Sequential(Dense(NOISE, 64, **he), LeakyReLU(0.2), Dense(64, 64, **he), LeakyReLU(0.2), Dense(64, 2, **small))
    D = Sequential(Dense(2, 64, **he), LeakyReLU(0.2), Dense(64, 64, **he), LeakyReLU(0.2), Dense(64, 1, rng=rng))
    return G, D, optim.Adam(G, lr=2e-3, beta1=0.5), optim.Adam(D, lr=2e-3, beta1=0.5)


def gradient_length(G, D, z, loss):
    """Returns the length of G's gradient for the noise z, and the mean logit of the fakes."""
    fake, cache_g = G.forward(z)  # (N, 2)
    l, cache_d = D.forward(fake)  # (N, 1)
    dfake, _ = D.backward(loss.generator(l)[1], cache_d, need_grads=False)
    _, grads = G.backward(dfake, cache_g, need_dx=False)
    return np.sqrt(sum((g**2).sum() for g in grads.values())), l.mean()


rng = np.random.default_rng(0)
G, D, opt_g, opt_d = players(rng)
z = rng.standard_normal((1000, NOISE), dtype=np.float32)
head_start, lengths = np.arange(0, 401, 20), {"minimax": [], "non_saturating": []}
for k in range(401):
    if k % 20 == 0:
        for name, values in lengths.items():
            length, mean_logit = gradient_length(G, D, z, losses.LOSSES[name])
            values.append(length)
    noise = rng.standard_normal((BATCH, NOISE), dtype=np.float32)
    alone = game.discriminator_step(G, D, opt_d, data.sample(BATCH, rng), noise, losses.non_saturating)
alone_d_loss, alone_g_loss = (
    float(alone["d_loss"]),
    float(losses.non_saturating.generator(D.forward(G.forward(z)[0])[0])[0]),
)
ratio = lengths["non_saturating"][-1] / lengths["minimax"][-1]
print(f"after the critic trained alone for 400 rounds, the mean logit of the fakes is {mean_logit:.1f};")
print(f"the forger's gradient is {ratio:.0f} times longer with the non-saturating loss")

# %% [markdown]
# **As the critic becomes surer, the gradient of the minimax loss becomes shorter, and the gradient of the
# non-saturating loss becomes longer.**

# %%
assert ratio > 10, "After the head start, the forger's gradient is over 10 times longer with the non-saturating loss."
assert lengths["minimax"][-1] < 0.5 * max(lengths["minimax"])
assert lengths["non_saturating"][-1] > 2 * lengths["non_saturating"][0]

# %% [markdown]
# From this state we play four games of 100 rounds: each loss with [SGD](GLOSSARY.md#stochastic-gradient-descent) and
# with [Adam](GLOSSARY.md#adam) for the forger. SGD multiplies the slope by the learning rate. Adam also divides it by
# its usual size ([lesson 11](11_sgd_or_adam.py)), so small slopes become steps of the usual size.

# %%
after_head_start, catching_up = copy.deepcopy((G, D, opt_g, opt_d)), {}
for optimizer in ("SGD", "Adam"):
    for name in lengths:
        G, D, opt_g, opt_d = copy.deepcopy(after_head_start)
        opt_g = optim.SGD(G, lr=0.04) if optimizer == "SGD" else opt_g
        rng_game = np.random.default_rng(1)
        for _ in range(100):
            noise = rng_game.standard_normal((2, BATCH, NOISE), dtype=np.float32)
            game.discriminator_step(G, D, opt_d, data.sample(BATCH, rng_game), noise[0], losses.LOSSES[name])
            game.generator_step(G, D, opt_g, noise[1], losses.LOSSES[name])
        catching_up[optimizer, name] = data.coverage(G.forward(z, train=False)[0])[1]
        print(f"{optimizer:<4} {name:<14} {catching_up[optimizer, name]:4.0%} of the fakes lie well after 100 rounds")

# %% [markdown]
# **With SGD, the minimax forger has hardly any fake that lies well after 100 rounds, and the non-saturating forger has
# more than 10%. With Adam, the minimax forger also catches up.** So the fault of the minimax loss is easy to overlook
# with Adam. minigan's preset `small` uses the non-saturating loss.

# %%
assert catching_up["SGD", "minimax"] < 0.06 and catching_up["SGD", "non_saturating"] > 0.1, (
    "After a head start of the critic, the minimax forger stalls with SGD; the non-saturating forger does not."
)
assert catching_up["Adam", "minimax"] > 0.07, "With Adam, the minimax forger catches up, too."
assert Config.of("small").loss == "non_saturating"

# %% [markdown]
# ## The numbers 2 ln 2 and ln 2
#
# If the fakes look exactly like the real things, the best answer of D is always 1/2, which means l = 0. Then each of
# the two terms in D's loss is -log(1/2) = ln 2 = 0.693. So D's loss is 2 ln 2 = 1.386, and G's loss is ln 2.

# %%
equilibrium = np.zeros((5, 1))  # the logits if D = 1/2 for every point
assert np.isclose(losses.non_saturating.discriminator(equilibrium, equilibrium)[0], 2 * np.log(2))
assert np.isclose(losses.non_saturating.generator(equilibrium)[0], np.log(2))

# %% [markdown]
# There is a more general formula (Goodfellow et al. 2014, section 4). For fixed densities p (real) and q (fake), the
# best D is p / (p + q), and its loss is `2 ln 2 - 2 JS`. JS is the
# [Jensen-Shannon divergence](GLOSSARY.md#jensen-shannon-divergence), which is 0 if p = q and ln 2 if p and q do not
# overlap. So **the loss of the best critic measures how different p and q are**: 1.386 means that they are equal, and 0
# means that they do not overlap. We check this formula for p and q on five places:

# %%
p, q = np.array([0.1, 0.2, 0.4, 0.2, 0.1]), np.array([0.5, 0.2, 0.1, 0.1, 0.1])
best = p / (p + q)
best_loss = -(p * np.log(best)).sum() - (q * np.log(1 - best)).sum()
m = (p + q) / 2
js = ((p * np.log(p / m)).sum() + (q * np.log(q / m)).sum()) / 2
assert np.isclose(best_loss, 2 * np.log(2) - 2 * js), "The loss of the best critic is 2 ln 2 - 2 JS(p, q)."
for change in np.random.default_rng(1).normal(0, 0.02, (200, 5)):  # small changes of D do not lower the loss
    assert -(p * np.log(best + change)).sum() - (q * np.log(1 - best - change)).sum() >= best_loss

# %% [markdown]
# ## What the curves show
#
# We train the networks as in [lesson 7](07_forger_and_critic.py), with a constant learning rate, and compare the losses
# with the share of fakes that lie well. We can compute this share only because we know the distribution of the data.

# %%
rng = np.random.default_rng(0)
G, D, opt_g, opt_d = players(rng)
rounds = 1500 if QUICK else 3000
curves, shares = [], []  # (rounds, 2): d_loss, g_loss; (rounds / 50,)
for k in range(rounds):
    noise = rng.standard_normal((2, BATCH, NOISE), dtype=np.float32)
    record = game.discriminator_step(G, D, opt_d, data.sample(BATCH, rng), noise[0], losses.non_saturating)
    record |= game.generator_step(G, D, opt_g, noise[1], losses.non_saturating)
    curves.append((float(record["d_loss"]), float(record["g_loss"])))
    if k % 50 == 49:
        shares.append(data.coverage(G.forward(z, train=False)[0])[1])
curves = np.array(curves)
early, late = slice(100, 300), slice(-300, None)
(d_early, g_early), (d_late, g_late) = curves[early].mean(axis=0), curves[late].mean(axis=0)
print(f"rounds 100 to 300: loss D {d_early:.2f}, G {g_early:.2f}, {shares[5]:.0%} lie well")
print(f"last 300 rounds:   loss D {d_late:.2f}, G {g_late:.2f}, {np.mean(shares[-6:]):.0%} lie well")

# %% [markdown]
# **The forger's loss is higher in the last rounds than in rounds 100 to 300, although its fakes are better.** The
# critic also became better in the meantime, and the forger's loss depends on the critic. So the losses do not show how
# good the fakes are. Look at the fakes, or measure them. What the losses do show is how the two players compare:
#
# - Here, D's loss ends somewhat below 1.386 and G's loss above 0.693. The critic is a little better than the forger.
# - After the head start, D's loss was near 0 and G's loss was above 5. The critic was sure of every fake.

# %%
assert g_late > g_early + 0.05 and np.mean(shares[-6:]) > 2 * shares[5], (
    "The forger's loss can rise while its fakes become better."
)
assert 1.0 < d_late < 1.4 and g_late > np.log(2)
assert alone_d_loss < 0.05 and alone_g_loss > 5

# %%
figure, axes = plt.subplots(2, 3, figsize=(10.8, 6.4))
for name, f, colour in (("minimax", minimax, ORANGE), ("non-saturating", non_saturating, BLUE)):
    axes[0, 0].plot(l, f(l)[0], color=colour, label=name)
    axes[0, 1].plot(l, -f(l)[1], color=colour, label=name)
for axis in axes[0, :2]:
    axis.axvspan(-8, -3, color=GREY, alpha=0.15)
    axis.set(xlabel="critic's logit: fake < 0 < real", xlim=(-8, 8))
    axis.legend()
axes[0, 0].set(title="the forger's loss for one fake", ylabel="loss")
axes[0, 1].set(title="how hard it pushes", ylabel="-slope")
axes[0, 0].text(-7.8, -7.5, "critic sure:\na fake")
axes[1, 0].semilogy(head_start, lengths["minimax"], color=ORANGE, label="minimax")
axes[1, 0].semilogy(head_start, lengths["non_saturating"], color=BLUE, label="non-saturating")
axes[1, 0].set(title="a critic with a head start", xlabel="rounds that it trained alone", ylabel="forger's gradient")
axes[1, 0].legend()
for (name, path), colour in zip(perfect.items(), (ORANGE, BLUE), strict=True):
    axes[0, 2].plot(path, color=colour, label=name)
axes[0, 2].axhline(4, color=GREY, linestyle=":")
axes[0, 2].text(200, 4.1, "real mean", color=GREY, ha="right")
axes[0, 2].set(title="against a perfect critic", xlabel="round", ylabel="the fakes' mean b", ylim=(-4.6, 5.2))
axes[0, 2].legend(loc="center right")
bars = [100 * share for share in catching_up.values()]
axes[1, 1].bar(["SGD,\nminimax", "SGD,\nnon-sat.", "Adam,\nminimax", "Adam,\nnon-sat."], bars, color=[ORANGE, BLUE] * 2)
axes[1, 1].set(title="100 rounds after the head start", ylabel="% of the fakes that lie well")
smooth = curves[: rounds // 50 * 50].reshape(-1, 50, 2).mean(axis=1)
at = np.arange(1, len(smooth) + 1) * 50
for k, (name, colour, level) in enumerate((("critic's loss", BLUE, "2 ln 2"), ("forger's loss", ORANGE, "ln 2"))):
    axes[1, 2].plot(at, smooth[:, k], color=colour, label=name)
    axes[1, 2].axhline((2 - k) * np.log(2), color=colour, linestyle=":", linewidth=1)
    axes[1, 2].text(rounds, (2 - k) * np.log(2) + 0.02, level, color=colour, ha="right")
axes[1, 2].plot(at, shares, color=GREEN, label="share that lies well")
axes[1, 2].set(title="a game, and the truth about it", xlabel="round", ylim=(0, 1.6))
axes[1, 2].legend(loc="lower right")
save(figure, "08_losses.png")

# %% [markdown]
# ## Exercises
#
# Replace the dots with your answer, uncomment the code, and run it.

# %% [markdown]
# **Exercise 1.** At which probability p = sigmoid(l) do the two losses have the same slope?
#
# <details><summary>Hint</summary>
#
# The slopes are -sigmoid(l) and -sigmoid(-l). For which l are they equal?
#
# <details><summary>Solution</summary>
#
# ```python
# p = 0.5
# ```
#
# </details></details>

# %% Exercise 1
# p = ...
# l = np.log(p / (1 - p))
# assert np.isclose(minimax(l)[1], non_saturating(l)[1])

# %% [markdown]
# **Exercise 2.** The critic gives every fake the probability 0.01 of being real. About how large is the non-saturating
# loss of the forger?
#
# <details><summary>Hint</summary>
#
# The non-saturating loss is -log D(fake).
#
# <details><summary>Solution</summary>
#
# ```python
# g_loss = -np.log(0.01)
# ```
#
# </details></details>

# %% Exercise 2
# g_loss = ...
# l = np.log(0.01 / 0.99)  # D(fake) = 0.01
# assert abs(non_saturating(l)[0] - g_loss) < 0.1

# %% [markdown]
# The next lesson, [09_dcgan.py](09_dcgan.py), trains a GAN on images.
