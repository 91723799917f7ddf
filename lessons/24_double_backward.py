# %% [markdown]
# # 24. The gradient of a gradient
#
# **Question.** A gradient penalty is a loss that contains a slope. How do we compute the slope of a slope, for all
# weights at once?
#
# **You will know** what a gradient penalty asks of the critic, why its slopes are second derivatives, how to compute
# them with one more forward pass and one more backward pass, and what batch norm and a square root can spoil.
#
# **Builds on** [lesson 10](10_trusting_a_gradient.py) and [lesson 15](15_dirac_gan.py). **Takes** 40 minutes to read, 4
# seconds to run.
#
# [Lesson 15](15_dirac_gan.py) stopped the circles with R1, a penalty on the slope of the critic's logit with respect to
# its input. For a critic with one weight, this slope was the weight itself. For a network, the slope is the result of a
# backward pass, and we need *its* slopes with respect to all weights. Libraries with automatic differentiation run
# backward through their own backward pass. We do it by hand, in a simpler way.

# %%
import time

import matplotlib.pyplot as plt
import numpy as np
from _common import BLUE, GREEN, GREY, ORANGE, arrow, blank, box, save

from minigan import losses, optim, penalties
from minigan.checking import gradcheck
from minigan.layers import BatchNorm, Dense, LeakyReLU, Sequential, Softplus, Tanh

rng = np.random.default_rng(0)

# %% [markdown]
# ## What a penalty asks
#
# Let l(x) be the critic's logit, and g = dl/dx the vector of its slopes with respect to the pixels of x. Two
# *[gradient penalties](GLOSSARY.md#gradient-penalty)* are common:
#
#     R1        weight / 2 * mean of |g|^2          at real x         "be flat where the data are"
#     WGAN-GP   weight * mean of (|g| - 1)^2        between real x and fakes   "have slope 1 everywhere between them"
#
# (Mescheder et al. 2018; Gulrajani et al. 2017.) Both are added to the critic's loss. To train with them, we need their
# slopes with respect to the critic's weights.
#
# ## Worked by hand: a critic with two weights
#
# Let the critic be l(x) = b h^2 with h = a x, for one number x. We take a = 2, b = 3 and x = 1. So h = 2 and l = 12.
# The first slope is
#
#     g = dl/dx = b * 2 h * a = 2 a^2 b x = 24
#
# The penalty is R = g^2 / 2 = 288. Its slopes with respect to the weights use the chain rule, with dR/dg = g = 24:
#
#     dg/da = 4 a b x = 24        dR/da = 24 * 24 = 576
#     dg/db = 2 a^2 x = 8         dR/db = 24 * 8 = 192
#
# dg/da and dg/db are *[second derivatives](GLOSSARY.md#second-derivative)*: first with respect to x, then with respect
# to a weight. Nudging agrees:

# %%
a, b, x = 2.0, 3.0, 1.0


def penalty_by_hand(a, b):
    """Returns R = g^2 / 2 for l(x) = b (a x)^2."""
    return (2 * a**2 * b * x) ** 2 / 2


h = 1e-5
nudged_a = (penalty_by_hand(a + h, b) - penalty_by_hand(a - h, b)) / (2 * h)
nudged_b = (penalty_by_hand(a, b + h) - penalty_by_hand(a, b - h)) / (2 * h)
assert penalty_by_hand(a, b) == 288
assert np.allclose([nudged_a, nudged_b], [576, 192]), "The slopes of a gradient penalty are second derivatives."

# %% [markdown]
# ## The trick: a direction instead of a vector
#
# For a network, g is a vector, so its slopes with respect to the weights would be a huge table: one row for each pixel.
# We never need this table. Let v = dR/dg. (For R1 with weight 1, R = |g|^2 / 2, so v = g.) By the chain rule, the slope
# of R with respect to a weight is the sum over the pixels of v times dg/dw. If we hold v constant, this is the slope of
# one *number*:
#
#     dR/dw = d(v . g)/dw        with v . g = sum of v * dl/dx
#
# And this number is a slope, too: it says how fast the logit rises if x moves in the direction v. So we can compute it
# *forward*: v . g = (l(x + e v) - l(x)) / e for a tiny e. In other words: **walk a tiny way along v, and see how much
# the logit changes. No backward pass is needed for the number v . g.**


# %%
def small_critic(seed=1):
    """Returns a critic (N, 3) -> (N, 1) with smooth activations, in float64."""
    rng = np.random.default_rng(seed)
    layers = Dense(3, 8, rng=rng), Tanh(), Dense(8, 8, rng=rng), Softplus(), Dense(8, 1, rng=rng)
    return Sequential(*layers).to("numpy", np.float64)


D, real = small_critic(), rng.normal(size=(5, 3))
logits, cache = D.forward(real)
g, _ = D.backward(np.ones_like(logits), cache, need_grads=False)  # (5, 3): the slope of each logit
v, e = rng.normal(size=g.shape), 1e-5
walk = (D.forward(real + e * v)[0] - D.forward(real - e * v)[0])[:, 0] / (2 * e)  # (5,)
assert np.allclose(walk, (v * g).sum(axis=1), atol=1e-8), (
    "The product of a direction v with the gradient is the change of the logit on a tiny walk along v."
)

# %% [markdown]
# ## Three passes by hand
#
# Instead of a tiny e, we can compute the change exactly. Each layer gets two things: its input, and the *change* t of
# this input per unit of the walk (the *[tangent](GLOSSARY.md#tangent)*). For two dense layers with a function f between
# them:
#
#     forward           h = x w1 + b1          y = f(h)               l = y w2 + b2
#     tangent           th = v w1              ty = f'(h) * th        tl = ty w2           (sum of tl = v . g)
#
# The biases have no tangent, because a constant does not change. Now we go backward through *both* lines, from tl to
# the weights. Each step of the two lines is a simple product or function, so this is an ordinary backward pass:
#
#     dw2 = ty' dtl                       dty = dtl w2'
#     dth = f'(h) * dty                   dh = f''(h) * th * dty          (h is also in f'(h))
#     dw1 = v' dth + x' dh                db1 = sum of dh
#
# **The second derivative f'' appears where h is used in f'(h), and nowhere else.** For ReLU and LeakyReLU, f'' is 0, so
# for them the line for dh disappears.


# %%
w1, b1, w2 = rng.normal(size=(3, 4)), rng.normal(size=4), rng.normal(size=(4, 1))
x = rng.normal(size=(5, 3))  # five real samples


def gradient_of_logit(w1, b1, w2):
    """Returns g (5, 3), the slope of each logit with respect to its x, for f = tanh."""
    slope = 1 - np.tanh(x @ w1 + b1) ** 2  # (5, 4): f'(h)
    return (slope * w2[:, 0]) @ w1.T


def r1_by_hand(w1, b1, w2):
    """Returns R1 = mean of |g|^2 / 2, and its slopes with respect to w1, b1 and w2."""
    g = gradient_of_logit(w1, b1, w2)
    v = g / len(x)  # dR/dg, from here on constant
    y = np.tanh(x @ w1 + b1)  # (5, 4)
    first, second = 1 - y**2, -2 * y * (1 - y**2)  # f'(h) and f''(h)
    th = v @ w1  # the tangent pass
    ty = first * th
    dtl = np.ones((len(x), 1))  # the backward pass of the sum of tl = ty w2
    dw2, dty = ty.T @ dtl, dtl @ w2.T
    dth, dh = first * dty, second * th * dty
    return (g**2).sum() / 2 / len(x), {"w1": v.T @ dth + x.T @ dh, "b1": dh.sum(axis=0), "w2": dw2}


weights = {"w1": w1, "b1": b1, "w2": w2}
value, slopes = r1_by_hand(**weights)
rows = gradcheck.check(lambda: r1_by_hand(**weights)[0], lambda: slopes, weights)
assert all(row.ok for row in rows), "One tangent pass and one backward pass give the exact slopes of R1."

network = Sequential(Dense(3, 4, rng=rng), Tanh(), Dense(4, 1, bias=False, rng=rng)).to("numpy", np.float64)
for name, w in zip(("0.w", "0.b", "2.w"), weights.values(), strict=True):
    network.params[name][...] = w
theirs, grads = penalties.r1(network, x, weight=1.0)
assert np.isclose(theirs, value) and all(
    np.allclose(a, b) for a, b in zip(grads.values(), slopes.values(), strict=True)
)

# %% [markdown]
# minigan does the same for every network. Each layer has a method `tangent`, which computes the second line, and a
# method `tangent_backward`, which goes backward through both lines. `penalties.r1` and `penalties.wgan_gp` use them.
#
# ## What happens without f''
#
# It is tempting to leave the line for dh out, because the result looks nearly right. We test this mistake with the
# check of [lesson 10](10_trusting_a_gradient.py). **Without the second derivative of tanh, the slopes of R1 point in
# another direction.** With LeakyReLU, nothing is lost, because its f'' is 0.

# %%
first = 1 - np.tanh(x @ w1 + b1) ** 2
v = gradient_of_logit(w1, b1, w2) / len(x)
mistake = v.T @ (first * w2[:, 0])  # dw1 without the term x' dh
cosine = (mistake * slopes["w1"]).sum() / np.linalg.norm(mistake) / np.linalg.norm(slopes["w1"])
wrong = gradcheck.check(lambda: r1_by_hand(**weights)[0], lambda: {"w1": mistake}, {"w1": w1})
print(f"without f'': the check says {wrong[0].verdict}; cosine with the right dw1 {cosine:.2f}")
assert not wrong[0].ok and cosine < 0.95, (
    "Without the second derivative of the activation, the slopes of R1 point in another direction."
)
assert np.array_equal(slopes["b1"].round(12) != 0, np.ones(4, bool))  # b1 matters only through f''

leaky = Sequential(Dense(3, 4, rng=rng), LeakyReLU(0.2), Dense(4, 1, rng=rng)).to("numpy", np.float64)
_, grads = penalties.r1(leaky, x, weight=1.0)
assert not grads["0.b"].any() and not grads["2.b"].any(), (
    "With LeakyReLU, R1 has slope 0 for all biases, because the second derivative of the activation is 0."
)

# %% [markdown]
# ## What does it cost?
#
# A step with R1 needs, in addition: a forward and a backward pass for g, a tangent pass, and a backward pass through
# both lines. The alternative is nudging: two penalties for each weight. **For a critic of 4,425 weights, the tangent
# pass is more than 100 times as fast as nudging every weight.** We nudge only 20 weights and multiply.

# %%
layers = Dense(64, 64, rng=rng), Tanh(), Dense(64, 4, rng=rng), Tanh(), Dense(4, 1, rng=rng)
wide = Sequential(*layers).to("numpy", np.float64)
size, batch = sum(w.size for w in wide.params.values()), rng.normal(size=(64, 64))
seconds = {"tangent": np.inf, "nudging": np.inf}
for _ in range(5):
    start = time.perf_counter()
    _, grads = penalties.r1(wide, batch)
    seconds["tangent"] = min(seconds["tangent"], time.perf_counter() - start)
    start = time.perf_counter()
    for i in range(20):
        for sign in (1, -1):
            wide.params["0.w"].flat[i] += sign * h
            logits, cache = wide.forward(batch)
            g, _ = wide.backward(np.ones_like(logits), cache, need_grads=False)
            (g**2).sum()
            wide.params["0.w"].flat[i] -= sign * h
    seconds["nudging"] = min(seconds["nudging"], (time.perf_counter() - start) / 20 * size)
print(f"{size:,} weights: tangent pass {seconds['tangent'] * 1e3:.2f} ms, nudging {seconds['nudging'] * 1e3:,.0f} ms")
assert seconds["nudging"] > 100 * seconds["tangent"], (
    "For a critic of over 4,000 weights, a tangent pass is more than 100 times as fast as nudging every weight."
)

# %% [markdown]
# ## Two traps
#
# *The root.* WGAN-GP contains |g|, the square root of |g|^2. The slope of the root at 0 is infinite, and infinity times
# 0 is not a number (NaN). A critic that starts with equal logits everywhere has g = 0. **At g = 0, the direct formula
# gives NaN. minigan uses the slope 0 there.**
#
# *Batch norm.* With batch norm, the logit of one sample depends on the whole batch. If batch norm comes directly before
# the last layer, the sum of all logits is always the same: the mean of its outputs is fixed ([lesson
# 10](10_trusting_a_gradient.py)). **Then the gradient of the sum is 0 for every critic, and the penalty does nothing.**
# The authors of WGAN-GP advise against batch norm in the critic, because their penalty is for each sample alone.

# %%
flat = Sequential(Dense(3, 1, rng=rng)).to("numpy", np.float64)
flat.params["0.w"][...] = 0
fake = rng.normal(size=x.shape)
value, grads = penalties.wgan_gp(flat, x, fake, rng=np.random.default_rng(0), weight=1.0)
with np.errstate(invalid="ignore", divide="ignore"):
    direct = (0.0 - 1) * np.float64(0.0) / np.float64(0.0)  # (|g| - 1) g / |g| at g = 0
assert np.isnan(direct) and value == 1 and np.isfinite(grads["0.w"]).all(), (
    "At g = 0, the direct formula for the slope of |g| gives NaN; minigan's WGAN-GP uses the slope 0."
)
with_norm = Sequential(Dense(3, 4, rng=rng), BatchNorm(4), Dense(4, 1, rng=rng)).to("numpy", np.float64)
value, _ = penalties.r1(with_norm, x)
value_fixed, _ = penalties.r1(with_norm, x, train=False)
assert value < 1e-12 < 1e-3 < value_fixed, (
    "With batch norm directly before the last layer, R1 is 0 for every critic, so it does nothing."
)

# %% [markdown]
# ## What a penalty does to the landscape
#
# We train three critics to tell real points from fakes on a line. Both are fixed: the real points are near 1, and the
# fakes near -1. Without a penalty, the logit still rises at the real points. **R1 keeps the logit flat at
# the real points, and WGAN-GP gives it a slope of about 1 between real points and fakes.**


# %%
def train(penalty, seed=0, steps=400):
    """Returns a critic that was trained for some steps on two fixed kinds of numbers, with a penalty or None."""
    rng = np.random.default_rng(seed)
    layers = Dense(1, 32, rng=rng), Tanh(), Dense(32, 32, rng=rng), Tanh(), Dense(32, 1, rng=rng)
    D = Sequential(*layers).to("numpy", np.float64)
    adam = optim.Adam(D, lr=5e-3)
    for _ in range(steps):
        real, fake = 1 + 0.2 * rng.normal(size=(64, 1)), -1 + 0.2 * rng.normal(size=(64, 1))
        (l_real, cache_real), (l_fake, cache_fake) = D.forward(real), D.forward(fake)
        loss = losses.LOSSES["wasserstein" if penalty == "wgan-gp" else "non_saturating"]
        _, d_real, d_fake = loss.discriminator(l_real, l_fake)
        grads = [D.backward(d_real, cache_real, need_dx=False)[1], D.backward(d_fake, cache_fake, need_dx=False)[1]]
        if penalty == "r1":
            grads.append(penalties.r1(D, real, weight=1.0)[1])
        if penalty == "wgan-gp":
            grads.append(penalties.wgan_gp(D, real, fake, rng=rng, weight=10.0)[1])
        adam.step({name: sum(g[name] for g in grads) for name in D.params})
    return D


line = np.linspace(-2, 2, 201)[:, None]  # (201, 1)
curves, lengths = {}, {}
for name in ("no penalty", "r1", "wgan-gp"):
    D = train(name)
    l, cache = D.forward(line)
    g, _ = D.backward(np.ones_like(l), cache, need_grads=False)
    curves[name] = l[:, 0], g[:, 0]
    between, at_real = abs(line[:, 0]) < 0.8, abs(line[:, 0] - 1) < 0.3
    lengths[name] = abs(g[at_real, 0]).mean(), abs(g[between, 0]).mean()
    print(f"{name:<11} mean slope at real points {lengths[name][0]:.2f}, between {lengths[name][1]:.2f}")
assert lengths["r1"][0] < 0.5 * lengths["no penalty"][0], "R1 keeps the critic's logit flat at the real points."
assert 0.8 < lengths["wgan-gp"][1] < 1.2, "WGAN-GP gives the logit a slope of about 1 between real points and fakes."

# %%
figure = plt.figure(figsize=(10, 6.4))
top, bottom = figure.subfigures(2, 1, height_ratios=(1, 1.25))
axis = top.subplots()
blank(axis, 18.4, 5.2)
for y, texts, colour in ((3.6, ("x", "h = x w1 + b1", "y = f(h)", "l = y w2"), BLUE),
                         (1.6, ("v", "th = v w1", "ty = f'(h) th", "tl = ty w2"), GREEN)):  # fmt: skip
    for k, text in enumerate(texts):
        box(axis, (1.2, 5.4, 10.6, 15.8)[k], y, text, colour, (1.4, 3.2, 3.2, 3.2)[k])
    for start, end in ((2.0, 3.7), (7.1, 8.9), (12.3, 14.1)):
        arrow(axis, (start, y + 0.15), (end, y + 0.15), colour=colour)
        arrow(axis, (end, y - 0.2), (start, y - 0.2), colour=ORANGE, linestyle="--")
arrow(axis, (6.8, 3.05), (10.6, 2.15), colour=BLUE)
arrow(axis, (9.2, 2.15), (5.2, 3.05), "dh = f''(h) th dty", ORANGE, (-1.9, -0.15), linestyle="--")
axis.text(15.8, 0.5, "sum = v . g", ha="center", color=GREEN)
axis.set_title("forward (blue), tangent (green), and backward through both (orange)", loc="left")
for axis, k, title in zip(bottom.subplots(1, 2), (0, 1), ("the critic's logit", "its slope"), strict=True):
    for (name, values), colour in zip(curves.items(), (ORANGE, BLUE, GREEN), strict=True):
        axis.plot(line, values[k], color=colour, label=name)
    axis.axvspan(-1.4, -0.6, color="#eeeeee")
    axis.axvspan(0.6, 1.4, color="#dce9f5")
    axis.text(-1, 1, "fakes", ha="center", va="bottom", transform=axis.get_xaxis_transform(), color=GREY)
    axis.text(1, 1, "real", ha="center", va="bottom", transform=axis.get_xaxis_transform(), color=BLUE)
    axis.set(xlabel="x", ylabel=title)
axis.legend(loc="upper right")
save(figure, "24_double_backward.png")

# %% [markdown]
# ## Exercises
#
# Replace the dots with your answer, uncomment the code, and run it.

# %% [markdown]
# **Exercise 1.** Let l(x) = a x^3 with one weight a. The penalty is R = g^2 / 2 with g = dl/dx. What is dR/da for a = 1
# and x = 2?
#
# <details><summary>Hint</summary>
#
# g = 3 a x^2 = 12, and dg/da = 3 x^2. Then use dR/da = g dg/da.
#
# <details><summary>Solution</summary>
#
# ```python
# slope = 12 * 12
# ```
#
# </details></details>

# %% Exercise 1
# slope = ...
# R = lambda a: (3 * a * 2.0**2) ** 2 / 2
# assert np.isclose((R(1 + 1e-5) - R(1 - 1e-5)) / 2e-5, slope)

# %% [markdown]
# **Exercise 2.** R2 is R1 at the fakes in place of the real points. Write it with `penalties.r1`, for the critic `D`
# and the fakes `fake_line`, with the weight 1.
#
# <details><summary>Hint</summary>
#
# `penalties.r1(D, x, weight=...)` accepts any x.
#
# <details><summary>Solution</summary>
#
# ```python
# value, grads = penalties.r1(D, fake_line, weight=1.0)
# ```
#
# </details></details>

# %% Exercise 2
# fake_line = rng.normal(size=(8, 1))
# value, grads = ...
# theirs = penalties.r2(D, fake_line, weight=1.0)
# assert value == theirs[0] and all(np.array_equal(g, theirs[1][name]) for name, g in grads.items())

# %% [markdown]
# The next lesson, [25_spotting_fakes.py](25_spotting_fakes.py), asks how to notice a fake, and what fakes are used for.
