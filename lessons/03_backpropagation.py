# %% [markdown]
# # 3. Backpropagation by hand
#
# **Question.** How can one backward pass compute the slopes of all weights?
#
# **You will know** how to compute a slope backwards through any chain of operations, why slopes add up where paths
# meet, the three rules that train a network of dense layers, and what a gradient costs.
#
# **Builds on** [lesson 2](02_nudging.py). **Takes** 40 minutes to read, 3 seconds to run.
#
# [Lesson 2](02_nudging.py) changed every weight separately and looked at the loss. Here we start at the other end, at
# the loss. We compute how the loss depends on the last result, then how that result depends on the one before it, and
# so on. Each of these dependences is a factor. The *[chain rule](GLOSSARY.md#chain-rule)* says that the slope is the
# product of the factors along the path.

# %%
import time

import matplotlib.pyplot as plt
import numpy as np
from _common import BLUE, GREY, NO_YES, ORANGE, arrow, blank, box, circle, save

from minigan import losses, optim
from minigan.layers import Dense, Sequential, Tanh

rng = np.random.default_rng(1)

# %% [markdown]
# ## One path, with numbers
#
#     a = w x         h = tanh(a)         loss = h^2
#
# If w rises by a small amount, a rises x times as much. Then h rises (1 - h^2) times as much as a, and the loss rises
# 2h times as much as h. We write `dh` for the slope of the loss with respect to h. In the backward pass, each line of
# the forward pass becomes one line that computes the next slope. The lines come in reverse order:

# %%
w, x = 0.7, 1.5
a = w * x
h = np.tanh(a)
loss = h**2

dh = 2 * h  # loss = h**2
da = dh * (1 - h**2)  # h = tanh(a)
dw = da * x  # a = w * x

nudge = (np.tanh((w + 1e-5) * x) ** 2 - np.tanh((w - 1e-5) * x) ** 2) / 2e-5
print(f"dw from the chain rule {dw:.9f}, from nudging {nudge:.9f}")
assert abs(dw - nudge) < 1e-9, "The slope along one path is the product of the factors on the path (chain rule)."

# %% [markdown]
# ## Worked by hand: two paths
#
# Often a number is used twice. Here a is used in b and in c:
#
#     a = w x         b = a + 4         c = a / 2         loss = b c
#
# With w = 2 and x = 3, the forward pass gives a = 6, b = 10, c = 3 and loss = 30. Now go backwards:
#
#     loss = b c            db = c = 3                dc = b = 10
#     b = a + 4             da along this path:       db * 1 = 3
#     c = a / 2             da along this path:       dc * 1/2 = 5
#     a is used twice       da = 3 + 5 = 8
#     a = w x               dw = da * x = 24          dx = da * w = 16
#
# **Where a number is used several times, the slopes of all paths are added.** The reason: nudge a up by a tiny amount
# t. Then b rises by t, and this raises the loss by 3 t. Also c rises by t/2, and this raises the loss by 5 t. Both
# happen at the same time, so the loss rises by 8 t. (There is one more term, t * t/2, because b and c change together.
# It is tiny compared with t if t is tiny.)

# %%
w, x = 2.0, 3.0
a = w * x
b, c = a + 4, a / 2
loss = b * c
db, dc = c, b
da = db * 1 + dc * 0.5  # two paths
dw, dx = da * x, da * w
assert (a, b, c, loss) == (6, 10, 3, 30) and (db, dc, da, dw, dx) == (3, 10, 8, 24, 16)
for t in (0.1, 0.001):
    rise = (a + t + 4) * (a + t) / 2 - loss
    assert np.isclose(rise, 3 * t + 5 * t + t * t / 2), (
        "Where a number is used several times, the slopes of all paths are added."
    )

# %% [markdown]
# The figure shows the same computation as a *graph*. The numbers of the forward pass are in the circles. The slopes
# flow back along the same arrows and are written below the circles.

# %%
figure, axis = plt.subplots(figsize=(9, 3.7))
blank(axis, 14.2, 5.8)
places = {"w": (0.9, 4.2, w, dw), "x": (0.9, 1.6, x, dx), "a": (4.8, 2.9, a, da), "b": (9, 4.5, b, db)}
places |= {"c": (9, 1.3, c, dc), "loss": (13.2, 2.9, loss, 1)}
operations = {"w x": (2.9, 2.9), "+ 4": (6.9, 4.5), "/ 2": (6.9, 1.3), "b c": (11.2, 2.9)}
edges = [
    "w > w x",
    "x > w x",
    "w x > a",
    "a > + 4",
    "a > / 2",
    "+ 4 > b",
    "/ 2 > c",
    "b > b c",
    "c > b c",
    "b c > loss",
]
for start, end in (edge.split(" > ") for edge in edges):
    first, second = (np.array((places.get(name) or operations[name])[:2]) for name in (start, end))
    step = (second - first) / np.linalg.norm(second - first)
    arrow(axis, first + 0.5 * step, second - (0.5 if end in places else 0.62) * step, colour=GREY)
for name, (x_at, y_at) in operations.items():
    box(axis, x_at, y_at, name, GREY, 0.9, 0.6)
for name, (x_at, y_at, value, slope) in places.items():
    circle(axis, x_at, y_at, f"{value:g}", BLUE)
    axis.text(x_at, y_at + 0.68, name, ha="center", color=BLUE, fontsize=11)
    axis.text(x_at, y_at - 0.98, f"slope {slope:g}", ha="center", color=ORANGE, fontsize=11)
axis.text(5.6, 4.0, f"{db:g} * 1 = 3", color=ORANGE, ha="right")
axis.text(5.6, 1.15, f"{dc:g} * 1/2 = 5", color=ORANGE, ha="right")
axis.text(5.5, 2.85, "3 + 5 = 8", color=ORANGE)
axis.text(0.3, 5.5, "forward: the numbers in the circles, from left to right", color=BLUE)
axis.text(0.3, 0.0, "backward: the slopes, from right to left", color=ORANGE)
save(figure, "03_diagram.png")

# %% [markdown]
# ## A whole network
#
# We take the network of [lesson 2](02_nudging.py) and do the same with arrays. Three rules are enough. Each rule is the
# chain rule, with its sums written as matrix products. A weight acts on every point, so the slopes of N paths are
# added:
#
# - `a = x @ w + b`: every `a[n, o]` contains `x[n, i] * w[i, o]`. So `dw[i, o]` is the sum of `x[n, i] * da[n, o]` over
#   the points n, which is `x.T @ da`. In the same way, `dx = da @ w.T`, and `db` is the sum of `da` over the points.
# - `h = tanh(a)`: each number is computed separately, so `da = dh * (1 - h * h)`.
# - The loss: the derivative of `softplus` is `sigmoid`, so `dl = (sigmoid(l) - target) / N`. This is the *answer minus
#   the target*, divided by N.

# %%
N = 200
x = rng.uniform(-1, 1, (N, 2))  # (N, 2)
target = (np.linalg.norm(x, axis=1) < 0.6).astype(float)[:, None]  # (N, 1)
weights = {
    "w1": rng.normal(size=(2, 6)),
    "b1": np.zeros(6),
    "w2": rng.normal(size=(6, 1)),
    "b2": np.zeros(1),
}


def forward(w1, b1, w2, b2):
    """Returns the loss and the cache, which contains what the backward pass needs."""
    a = x @ w1 + b1  # (N, 6)
    h = np.tanh(a)  # (N, 6)
    l = h @ w2 + b2  # (N, 1)
    loss = (target * losses.softplus(-l) + (1 - target) * losses.softplus(l)).mean()
    return loss, (h, l)


def backward(w1, b1, w2, b2, cache):
    """Returns the slopes of all weights."""
    h, l = cache
    dl = (losses.sigmoid(l) - target) / N  # (N, 1), from the loss
    dw2, db2, dh = h.T @ dl, dl.sum(axis=0), dl @ w2.T  # (6, 1), (1,), (N, 6), from l = h @ w2 + b2
    da = dh * (1 - h * h)  # (N, 6), from h = tanh(a)
    dw1, db1 = x.T @ da, da.sum(axis=0)  # (2, 6), (6,), from a = x @ w1 + b1
    return {"w1": dw1, "b1": db1, "w2": dw2, "b2": db2}


# %% [markdown]
# **One forward pass and one backward pass give all 25 slopes. They are equal to the slopes from 50 passes by nudging.**

# %%
_, cache = forward(**weights)
by_hand = backward(**weights, cache=cache)
by_nudging = {name: np.zeros_like(w) for name, w in weights.items()}
for name, w in weights.items():
    for i in np.ndindex(w.shape):
        kept, around = w[i], []
        for w[i] in (kept + 1e-5, kept - 1e-5):
            around.append(forward(**weights)[0])
        w[i] = kept
        by_nudging[name][i] = (around[0] - around[1]) / 2e-5
worst = max(abs(by_hand[k] - by_nudging[k]).max() for k in weights)
print(f"largest slope {max(abs(s).max() for s in by_hand.values()):.3f}, largest difference {worst:.1e}")
assert worst < 1e-9, "One forward pass and one backward pass give all 25 slopes that nudging finds with 50 passes."

# %% [markdown]
# ## The same in minigan
#
# A minigan layer consists of such pairs of lines. `forward` returns the result and a cache. `backward` takes the slope
# of the result and the cache, and returns the slopes of the input and of the weights. `Sequential` calls `backward` on
# its layers in reverse order.

# %%
network = Sequential(Dense(2, 6, rng=rng), Tanh(), Dense(6, 1, rng=rng)).to("numpy", np.float64)
for theirs, ours in {"0.w": "w1", "0.b": "b1", "2.w": "w2", "2.b": "b2"}.items():
    network.params[theirs][...] = weights[ours]
l, cache = network.forward(x)
dx, grads = network.backward((losses.sigmoid(l) - target) / N, cache)
for theirs, ours in {"0.w": "w1", "0.b": "b1", "2.w": "w2", "2.b": "b2"}.items():
    assert np.allclose(grads[theirs], by_hand[ours], rtol=1e-12, atol=1e-15)
assert dx.shape == x.shape  # the slopes of the points; a GAN uses them to train its generator

# %% [markdown]
# ## A larger network
#
# Now we can train a larger network. The data are two spirals, and the network has two
# *[hidden layers](GLOSSARY.md#hidden-layer)*, which are layers between the input and the last layer. Each has 32
# neurons, and together with the last layer they have 1185 weights. The [optimizer](GLOSSARY.md#optimizer) is `Adam`
# ([lesson 11](11_sgd_or_adam.py)), which uses the same slopes to choose its steps.

# %%
turn = rng.uniform(0.5, 3, 400) * np.pi
arm = rng.integers(0, 2, 400)  # (400,): which of the two spirals, 0 or 1
points = (turn / 3 * np.array([np.cos(turn + np.pi * arm), np.sin(turn + np.pi * arm)])).T  # (400, 2)
points += 0.06 * rng.normal(size=points.shape)
wide = Sequential(Dense(2, 32, rng=rng), Tanh(), Dense(32, 32, rng=rng), Tanh(), Dense(32, 1, rng=rng))
wide.to("numpy", np.float64)
assert wide.n_params == 1185
adam = optim.Adam(wide, lr=0.01)
for _ in range(1500):
    l, cache = wide.forward(points)  # (400, 1)
    _, grads = wide.backward((losses.sigmoid(l) - arm[:, None]) / 400, cache, need_dx=False)
    adam.step(grads)
right = ((l > 0) == arm[:, None]).mean()
print(f"two spirals: {right:.1%} of the points right after 1500 steps")
assert right > 0.97, "A network of 1185 weights learns to tell two spirals from each other."

# %% [markdown]
# ## The cost
#
# Each matrix product of the forward pass, `a = x @ w`, needs two in the backward pass: `dw = x.T @ da` and
# `dx = da @ w.T`. Each of them has the same number of multiplications. (Only the dx of the first layer is not needed.)
# So **a gradient costs at most as much as three forward passes, whatever the number of weights**. Nudging costs two
# forward passes for each weight. We count the multiplications, and we measure the time. For nudging, we measure one
# forward pass and multiply its time by the number of passes.

# %%
sizes, nudging, backprop, counted, measured = [], [], [], [], []
for hidden in (8, 32, 128, 512, 1024):
    first, second, last = (Dense(*size, rng=rng) for size in ((2, hidden), (hidden, hidden), (hidden, 1)))
    net = Sequential(first, Tanh(), second, Tanh(), last)
    net.to("numpy", np.float64)
    forward_times, both_times = [], []
    for _ in range(5):  # take the fastest of five runs, because other programs can only make a run slower
        start = time.perf_counter()
        l, cache = net.forward(x)
        forward_times.append(time.perf_counter() - start)
        net.backward(l, cache, need_dx=False)
        both_times.append(time.perf_counter() - start)
    forward_count = N * (2 * hidden + hidden * hidden + hidden * 1)  # multiplications of the three products
    backward_count = 2 * forward_count - N * 2 * hidden  # dw and dx of each layer, without the dx of the first
    counted.append((forward_count + backward_count) / forward_count)
    measured.append(min(both_times) / min(forward_times))
    sizes.append(net.n_params)
    nudging.append(2 * net.n_params * min(forward_times))
    backprop.append(min(both_times))
print("a gradient, compared with a forward pass:")
for size, count, ratio in zip(sizes, counted, measured, strict=True):
    print(f"{size:10,} weights: {count:.2f} times the multiplications, {ratio:.1f} times the time")
print(f"{sizes[-1]:,} weights: nudging {nudging[-1] / 3600:.1f} h, backpropagation {1000 * backprop[-1]:.0f} ms")
assert max(counted) <= 3, "A gradient needs at most three times the multiplications of a forward pass, for any size."
assert 1.5 < measured[-1] < 8  # the time of the largest network; it is less exact than the count
assert all(b < n for b, n in zip(backprop, nudging, strict=True))
assert nudging[-1] > 1000 * backprop[-1], (
    "With a million weights, nudging takes over 1000 times as long as backpropagation."
)

# %%
figure, axes = plt.subplots(1, 3, figsize=(10, 3.3))
for name, colour in (("w1", BLUE), ("b1", "#7db4e0"), ("w2", ORANGE), ("b2", "#f4bd9d")):
    axes[0].plot(by_nudging[name].ravel(), by_hand[name].ravel(), "o", color=colour, label=name)
axes[0].axline((0, 0), slope=1, color="black", linewidth=0.6, zorder=0)
axes[0].set(title="25 slopes, twice", xlabel="by nudging: 50 passes", ylabel="backwards: one pass")
axes[0].legend()
side = np.linspace(-3.5, 3.5, 141)
plane = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
answer = losses.sigmoid(wide.forward(plane)[0]).reshape(141, 141)
axes[1].pcolormesh(side, side, answer, cmap=NO_YES, vmin=0, vmax=1)
for k, colour in ((0, ORANGE), (1, BLUE)):
    axes[1].plot(*points[arm == k].T, ".", color=colour, markersize=4)
axes[1].set(aspect="equal", title="1185 weights tell two spirals", xlabel="x[0]", ylabel="x[1]")
axes[2].loglog(sizes, nudging, "o-", color=ORANGE, label="nudging")
axes[2].loglog(sizes, backprop, "o-", color=BLUE, label="backwards")
axes[2].set_yticks([1e-3, 1, 60, 3600, 86400], ["1 ms", "1 s", "1 min", "1 h", "1 day"])
axes[2].minorticks_off()
axes[2].set(title="time for one gradient", xlabel="weights")
axes[2].legend()
save(figure, "03_backpropagation.png")

# %% [markdown]
# ## Exercises
#
# Replace the dots with your answer, uncomment the code, and run it.

# %% [markdown]
# **Exercise 1.** Compute `da` for `h = relu(a)`, which is `h = np.maximum(a, 0)`. The slope of relu is 1 where a is
# positive, and 0 elsewhere.
#
# <details><summary>Hint</summary>
#
# `a > 0` is an array of True and False, and True counts as 1.
#
# <details><summary>Solution</summary>
#
# ```python
# da = dh * (a > 0)
# ```
#
# </details></details>

# %% Exercise 1
# a, dh = rng.normal(size=(2, 5, 3))
# da = ...
# numeric = (np.maximum(a + 1e-6, 0) - np.maximum(a - 1e-6, 0)) / 2e-6 * dh
# assert np.allclose(da, numeric, atol=1e-8)

# %% [markdown]
# **Exercise 2.** Compute `dh`, with shape (N, 6), for `l = (h * h) @ w2`. Use the rules from this lesson.
#
# <details><summary>Hint</summary>
#
# Write it as two steps: s = h * h, then l = s @ w2. Which rule gives ds, and which gives dh from ds?
#
# <details><summary>Solution</summary>
#
# ```python
# dh = 2 * h * (dl @ w2.T)
# ```
#
# </details></details>

# %% Exercise 2
# h, dl, w2 = rng.normal(size=(5, 6)), rng.normal(size=(5, 1)), rng.normal(size=(6, 1))
# dh = ...
# d = rng.normal(size=h.shape)  # a random direction
# numeric = (((h + 1e-6 * d) ** 2 @ w2 - (h - 1e-6 * d) ** 2 @ w2) * dl).sum() / 2e-6
# assert np.isclose((dh * d).sum(), numeric, rtol=1e-6)

# %% [markdown]
# The next lesson, [04_reading_digits.py](04_reading_digits.py), uses [backpropagation](GLOSSARY.md#backpropagation) to
# read handwritten digits. How to find mistakes in a backward pass is the subject of
# [lesson 10](10_trusting_a_gradient.py).
