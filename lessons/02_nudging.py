# %% [markdown]
# # 2. Learning by nudging
#
# **Question.** How can a network find its own weights?
#
# **You will know** what a loss and a slope are, how to measure a slope without any algebra, how gradient descent uses
# slopes, and why we need a faster way to compute them.
#
# **Builds on** [lesson 1](01_neuron.py). **Takes** 30 minutes to read, 5 seconds to run.
#
# First we need a number that measures how wrong the network is. Then we [nudge](GLOSSARY.md#nudge) one weight, which
# means that we change it a little, and see whether the number falls or rises. We do this for every weight. Then we move
# each weight in the direction in which the number falls, and repeat. This method is called
# *[gradient descent](GLOSSARY.md#gradient-descent)*.

# %%
import time

import matplotlib.pyplot as plt
import numpy as np
from _common import BLUE, GREY, NO_YES, ORANGE, save

from minigan import datasets, losses, models
from minigan.checking import gradcheck

rng = np.random.default_rng(1)

# %% [markdown]
# ## Worked by hand: one weight
#
# Let the loss be (w - 3)^2, and let w start at 1. We nudge w up and down by 0.1:
#
#     loss(1.1) = 1.9^2 = 3.61        loss(0.9) = 2.1^2 = 4.41        slope = (3.61 - 4.41) / 0.2 = -4
#
# The slope is negative, so the loss falls if w rises. We subtract a part of the slope, here a quarter:
#
#     w = 1 - 0.25 * (-4) = 2
#
# The same again gives slope -2 and w = 2.5, then slope -1 and w = 2.75. The loss went from 4 to 1 to 0.25 to 0.0625.

# %%
w_hand, walk = 1.0, []
for _ in range(3):
    slope_hand = ((w_hand + 0.1 - 3) ** 2 - (w_hand - 0.1 - 3) ** 2) / 0.2
    w_hand -= 0.25 * slope_hand
    walk.append((slope_hand, w_hand, (w_hand - 3) ** 2))
assert np.allclose(walk, [(-4, 2, 1), (-2, 2.5, 0.25), (-1, 2.75, 0.0625)])

# %% [markdown]
# ## A task
#
# The data are points in the plane. The target is 1 for points inside a disc around the middle, and 0 for points
# outside.

# %%
N = 200
x = rng.uniform(-1, 1, (N, 2))  # (N, 2)
target = (np.linalg.norm(x, axis=1) < 0.6).astype(float)[:, None]  # (N, 1)
weights = {  # a layer of 6 neurons and a layer of 1 neuron: 25 numbers to learn
    "w1": rng.normal(size=(2, 6)),
    "b1": np.zeros(6),
    "w2": rng.normal(size=(6, 1)),
    "b2": np.zeros(1),
}
n_weights = sum(w.size for w in weights.values())
assert n_weights == 2 * 6 + 6 + 6 * 1 + 1 == 25
forward_passes = 0


def network(x):
    """Returns the logits (N, 1) of the points x (N, 2), and counts the call."""
    global forward_passes
    forward_passes += 1
    h = np.tanh(x @ weights["w1"] + weights["b1"])  # (N, 6); tanh is shaped like the sigmoid, but goes from -1 to 1
    return h @ weights["w2"] + weights["b2"]  # (N, 1): the logits; a positive logit means yes


# %% [markdown]
# ## How wrong is the network?
#
# The output of the network is a number l, which is called the *[logit](GLOSSARY.md#logit)*. p = sigmoid(l) is the
# probability of "yes". The *loss* of a point is -log p if the right answer is yes, and -log(1 - p) if it is no. The
# loss of the network is the mean over all points. A network that is sure and right everywhere has loss 0. A network
# that always answers p = 1/2, like a coin, has loss log 2 = 0.693. We compute the loss from the logit and not from p,
# because p is rounded to 0 or 1 when the logit is large ([lesson 8](08_losses.py)):
#
#     -log sigmoid(l) = log(1 + exp(-l)) = softplus(-l)        -log(1 - sigmoid(l)) = softplus(l)


# %%
def softplus(l):
    """Computes log(1 + exp(l)) without overflow."""
    return np.maximum(l, 0) + np.log1p(np.exp(-abs(l)))


def loss():
    """Returns the mean loss over all points."""
    l = network(x)
    return (target * softplus(-l) + (1 - target) * softplus(l)).mean()


l = np.array([-800.0, -2.0, 0.0, 3.0, 800.0])
assert np.allclose(softplus(l), losses.softplus(l), rtol=1e-15)
assert np.allclose(softplus(-l[1:4]), -np.log(losses.sigmoid(l[1:4])))  # -log p
assert np.isclose(softplus(0.0), np.log(2)) and softplus(-800.0) == 0  # like a coin; sure and right
print(f"before learning: loss {loss():.3f}")

# %% [markdown]
# ## The slope, by nudging
#
# The slope is the derivative of the loss with respect to one weight. It measures how fast the loss rises when the
# weight rises. To estimate the slope, nudge the weight up, nudge it down, and divide the difference by the distance:
#
#     slope = (loss(w + h) - loss(w - h)) / 2h
#
# **This *[central difference](GLOSSARY.md#central-difference)* is much more accurate than the one-sided difference**
# `(loss(w + h) - loss(w)) / h`. A curve bends, and this makes loss(w + h) and loss(w - h) too large by the same amount,
# so the error cancels in their difference:


# %%
def f(w):
    """Computes w^3, whose slope at 2 is 3 * 2^2 = 12."""
    return w**3


h = 1e-4
central, one_sided = (f(2 + h) - f(2 - h)) / (2 * h), (f(2 + h) - f(2)) / h
print(f"slope of w^3 at 2: central {central:.9f}, one-sided {one_sided:.9f}")
assert abs(central - 12) < 1e-7 < 1e-4 < abs(one_sided - 12), (
    "For w^3 at 2, a central difference is over a thousand times as accurate as a one-sided one."
)


def nudge_all():
    """Returns the slopes of all weights, in arrays of the same shapes. Together they are called the gradient."""
    slopes = {name: np.zeros_like(w) for name, w in weights.items()}
    for name, w in weights.items():
        for i in np.ndindex(w.shape):  # i is the index of one number in w
            kept = w[i]
            w[i] = kept + h
            up = loss()
            w[i] = kept - h
            down = loss()
            w[i] = kept
            slopes[name][i] = (up - down) / (2 * h)
    return slopes


# minigan has a similar function to check its own derivatives. It agrees with ours.
rows = gradcheck.check(loss, nudge_all, weights, tolerance=1e-6)
assert all(row.verdict == "right" for row in rows) and len(rows) == 4

# %% [markdown]
# ## Learning
#
# Every weight takes a step against its slope: w <- w - rate * slope. The number `rate` is the
# [learning rate](GLOSSARY.md#learning-rate). **If the steps are small enough, the loss falls.**

# %%
before, rate, steps, forward_passes = {k: w.copy() for k, w in weights.items()}, 1.0, 1000, 0
curve, start = [], time.perf_counter()
for _ in range(steps):
    slopes = nudge_all()
    for name in weights:
        weights[name] -= rate * slopes[name]
    curve.append(loss())
seconds = time.perf_counter() - start
right = ((network(x) > 0) == target).mean()
print(f"after {steps} steps: loss {curve[-1]:.3f}, {right:.1%} of the points right, {seconds:.1f} s")
assert curve[-1] < 0.25 * curve[0] and right > 0.95, "Gradient descent with nudged slopes learns the disc."
assert np.mean(np.diff(curve) < 0) > 0.95  # more than 95% of the steps lower the loss

# %% [markdown]
# ## Why we need a better method
#
# A *[forward pass](GLOSSARY.md#forward-pass)* computes the output of the network and the loss. Each step needs two
# forward passes for every weight, and here one more to record the loss:

# %%
assert forward_passes == steps * (2 * n_weights + 1) + 1

# %% [markdown]
# The slope of *one* weight is cheap. The slopes of *all* weights are expensive. **By nudging, a small
# [GAN](GLOSSARY.md#gan) would need more than an hour to see every digit once** (the code prints how many days). A GAN
# is a pair of networks that draw and judge images, as [lesson 7](07_forger_and_critic.py) explains.
# [Lesson 3](03_backpropagation.py) computes all slopes with one forward and one backward pass, and measures what this
# costs.

# %%
G, D = models.build("small", rng=rng)  # the networks of 09_dcgan.py
x_image = datasets.scale(datasets.mnist("test").images[:128])  # (128, 28, 28, 1): one batch
D.forward(x_image)
start = time.perf_counter()
D.forward(x_image)
one_pass = time.perf_counter() - start
passes = 2 * D.n_params * 469  # an epoch of MNIST is 469 batches of 128
print(f"the discriminator of a small GAN has {D.n_params:,} weights and needs {1000 * one_pass:.0f} ms for one batch;")
print(f"to train it by nudging on every digit once: {passes:,} passes, {passes * one_pass / 86400:.1f} days")
assert D.n_params > 30_000 and passes > 30e6
assert passes * one_pass > 3600, "By nudging, a small GAN would need more than an hour to see every digit once."

# %%
side = np.linspace(-1, 1, 101)
plane = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
after = {k: w.copy() for k, w in weights.items()}
figure, axes = plt.subplots(1, 3, figsize=(10, 3.2))
for axis, at, title in ((axes[0], before, "before"), (axes[1], after, f"after {steps} rounds of nudging")):
    weights.update(at)
    axis.pcolormesh(side, side, losses.sigmoid(network(plane)).reshape(101, 101), cmap=NO_YES, vmin=0, vmax=1)
    axis.add_patch(plt.Circle((0, 0), 0.6, fill=False, color="black", linestyle="--"))
    yes = target[:, 0] == 1
    axis.plot(*x[yes].T, "o", color=BLUE, markersize=4, markeredgecolor="white", markeredgewidth=0.5)
    axis.plot(*x[~yes].T, "o", color=ORANGE, markersize=4, markeredgecolor="white", markeredgewidth=0.5)
    axis.set(aspect="equal", title=title, xlabel="x[0]", ylabel="x[1]")
axes[2].plot(np.arange(1, steps + 1) * (2 * n_weights + 1) / 1000, curve, color=BLUE)
axes[2].axhline(np.log(2), color=GREY, linestyle=":")
axes[2].text(51, np.log(2) - 0.01, "a coin: log 2", ha="right", va="top", color=GREY)
axes[2].set(title="the loss falls, at a price", xlabel="thousands of forward passes", ylabel="loss", ylim=(0, None))
save(figure, "02_nudging.png")

# %% [markdown]
# ## Exercises
#
# Replace the dots with your answer, uncomment the code, and run it.

# %% [markdown]
# **Exercise 1.** One-sided differences need one pass less for each weight. How many forward passes does one such step
# take for a network of W weights, if loss(w) itself is computed once?
#
# <details><summary>Hint</summary>
#
# How many passes does one nudged weight need now? And how many does loss(w) need, for all weights together?
#
# <details><summary>Solution</summary>
#
# ```python
# passes = lambda W: W + 1
# ```
#
# </details></details>

# %% Exercise 1
# passes = lambda W: ...
# assert passes(25) == 26 and passes(1000) == 1001

# %% [markdown]
# **Exercise 2.** How large may a step be? For the loss w**2, whose slope is 2w, a step changes w to w - rate * 2w. What
# is the smallest positive rate at which |w| does not become smaller?
#
# <details><summary>Hint</summary>
#
# After the step, w is (1 - 2 rate) w. For which rate is this -w?
#
# <details><summary>Solution</summary>
#
# ```python
# limit = 1
# ```
#
# </details></details>

# %% Exercise 2
# limit = ...
# w = lambda rate: abs(1 - rate * 2 * 1)  # |w| after one step from w = 1
# assert w(0.99 * limit) < 1 <= w(limit)

# %% [markdown]
# The next lesson, [03_backpropagation.py](03_backpropagation.py), computes the same slopes all at once.
