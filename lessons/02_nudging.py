# %% [markdown]
# # 2. Learning by nudging
#
# **Question.** How can a network find its own weights?
#
# **Needs.** Lesson 1. **Takes** 3 seconds.
#
# First we need a number that measures how wrong the network is. Then we nudge one weight, which means that we change it
# a little, and see whether the number falls or rises. We do this for every weight. Then we move each weight in the
# direction in which the number falls, and repeat. All learning in this course works like this. Later lessons make it
# faster.

# %%
import time

import matplotlib.pyplot as plt
import numpy as np
from _common import BLUE, GREY, NO_YES, ORANGE, save

from minigan import datasets, losses, models
from minigan.checking import gradcheck

rng = np.random.default_rng(1)

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
# The output of the network is a number l, which is called the *logit*. p = sigmoid(l) is the probability of "yes". The
# **loss** of a point is -log p if the right answer is yes, and -log(1 - p) if it is no. The loss of the network is the
# mean over all points. A perfect network has loss 0. A network that always answers p = 1/2, like a coin, has loss
# log 2 = 0.693. We compute the loss from the logit and not from p, because p is rounded to 0 or 1 when the logit is
# large (lesson 9):
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
assert np.allclose(softplus(l), losses.softplus(l), rtol=1e-15) and np.isclose(softplus(0.0), np.log(2))
print(f"before learning: loss {loss():.3f}")

# %% [markdown]
# ## The slope, by nudging
#
# The slope is the derivative of the loss with respect to one weight. It measures how fast the loss rises when the
# weight rises. To estimate the slope, nudge the weight up, nudge it down, and divide the difference by the distance:
#
#     slope = (loss(w + h) - loss(w - h)) / 2h
#
# This *central difference* is much more accurate than the one-sided difference (loss(w + h) - loss(w)) / h, because the
# error that comes from the curvature cancels:


# %%
def f(w):
    """Computes w^3, whose slope at 2 is 3 * 2^2 = 12."""
    return w**3


h = 1e-4
central, one_sided = (f(2 + h) - f(2 - h)) / (2 * h), (f(2 + h) - f(2)) / h
print(f"slope of w^3 at 2: central {central:.9f}, one-sided {one_sided:.9f}")
assert abs(central - 12) < 1e-7 < 1e-4 < abs(one_sided - 12)


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
# Every weight takes a step against its slope: w <- w - rate * slope. The number `rate` is the learning rate. **If the
# steps are small enough, the loss falls.**

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
assert curve[-1] < 0.25 * curve[0] and right > 0.95

# %% [markdown]
# ## Why we need a better method
#
# Each step needs two forward passes for every weight, and here one more to record the loss:

# %%
assert forward_passes == steps * (2 * n_weights + 1) + 1
G, D = models.build("small", rng=rng)  # the GAN of lesson 10
x_image = datasets.scale(datasets.mnist("test").images[:128])  # (128, 28, 28, 1): one batch
D.forward(x_image)
start = time.perf_counter()
D.forward(x_image)
one_pass = time.perf_counter() - start
passes = 2 * D.n_params * 469  # an epoch of MNIST is 469 batches of 128
print(f"the discriminator of lesson 10 has {D.n_params:,} weights and needs {1000 * one_pass:.0f} ms for one batch;")
print(f"an epoch by nudging: {passes:,} passes, {passes * one_pass / 86400:.1f} days; in lesson 10: at most a minute")
assert D.n_params > 30_000 and passes > 30e6

# %% [markdown]
# The slope of *one* weight is cheap. The slopes of *all* weights are expensive: a network with twice as many weights
# needs twice as many passes, and each pass takes about twice as long. Lesson 3 computes all slopes for the cost of
# about two more passes.

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
# 1. One-sided differences need one pass less for each weight. How many forward passes does one such step take for a
#    network of W weights, if loss(w) itself is computed once?
# 2. How large may a step be? For the loss w**2, whose slope is 2w, a step changes w to w - rate * 2w. What is the
#    smallest positive rate at which |w| does not become smaller?

# %% Exercise 1
# passes = lambda W: ...
# assert passes(25) == 26 and passes(1000) == 1001

# %% Exercise 2
# limit = ...
# w = lambda rate: abs(1 - rate * 2 * 1)  # |w| after one step from w = 1
# assert w(0.99 * limit) < 1 <= w(limit)

# %% [markdown]
# The next lesson, [03_backpropagation.py](03_backpropagation.py), computes the same slopes all at once.
