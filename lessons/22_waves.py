# %% [markdown]
# # 22. Waves
#
# **Question.** How can a network make a series, one step after the other, and how does it learn through time?
#
# **You will know** what a state is good for, how to go backward through time by hand, why slopes vanish or explode over
# many steps, what the gates of a GRU change, and how a recurrent GAN draws series.
#
# **Builds on** [lesson 10](10_trusting_a_gradient.py) and [lesson 15](15_dirac_gan.py). **Takes** 50 minutes to read,
# 18 seconds to run, 7 with `--quick`.
#
# A series is a list of values in the order of time: a voltage, the level of a river, the price of bread. The next value
# depends on those before it. A dense network could take a whole series as its input, but then each step would have
# weights of its own, and a longer series would need a larger network. Here we use the same weights in every step.

# %%
import matplotlib.pyplot as plt
import numpy as np
from _common import BLUE, GREEN, GREY, ORANGE, QUICK, save

from minigan import backends, datasets
from minigan.checking import gradcheck
from minigan.datasets.sequences import SequenceOptions
from minigan.layers import GRU
from minigan.losses import sigmoid
from minigan.metrics.sequences import statistics
from minigan.training import Config, Training

rng = np.random.default_rng(0)

# %% [markdown]
# ## Why a state
#
# A wave x[t] = sin(v t + p) has the value 0.5. What comes next? Nobody can say, because the wave may rise or fall. But
# if we also know the value before, there is only one answer:
#
#     x[t+1] = 2 cos(v) x[t] - x[t-1]
#
# So a program that draws a wave step by step has to remember something. What is remembered from step to step is called
# the *state*. **For a wave, the value alone does not say what comes next. With one remembered number, the next value is
# exact.**

# %%
v, t = 0.4, np.arange(3)
waves = np.sin(v * t + rng.uniform(0, 2 * np.pi, (2000, 1)))  # (2000, 3): three steps, with random phases p
before, now, after = waves.T
slope = (now * after).mean() / (now * now).mean()  # the best line through the origin: after = slope * now
error = {"value": after - slope * now, "value and state": after - (2 * np.cos(v) * now - before)}
size = {name: np.sqrt((e**2).mean()) for name, e in error.items()}
print("error of the next value:", ", ".join(f"from {name} {s:.2g}" for name, s in size.items()))
assert size["value"] > 0.2 and size["value and state"] < 1e-12, (
    "The value of a wave does not say what comes next; with one remembered number, the next value is exact."
)

# %% [markdown]
# A *[recurrent network](GLOSSARY.md#recurrent-network)* has a state h. In each step, it computes the next state from
# the state and the input x[t] of this step. The simplest one has one number as its state:
#
#     h[t] = tanh(w x[t] + u h[t-1] + b)        h[0] = 0
#
# It may be as long as we like, and it has three weights.
#
# ## Worked by hand: three steps
#
# Let w = 1, u = 0.5, b = 0, and the inputs 1, 0.5 and -1. We call the sum inside the brackets a.
#
#     step 1    a = 1                              h = tanh(1)      =  0.762
#     step 2    a = 0.5 + 0.5 * 0.762 =  0.881     h = tanh(0.881)  =  0.707
#     step 3    a = -1  + 0.5 * 0.707 = -0.646     h = tanh(-0.646) = -0.569
#
# How does the last state change if we change u? We go backward, from step 3 to step 1. The slope of tanh is 1 - h^2,
# which is 0.676 in step 3, 0.5 in step 2 and 0.420 in step 1. In each step, da is the slope of the last state with
# respect to a. It has three uses: times the state before, it is this step's part of du. Times the input, it is its part
# of dw. Times u, it goes back to the step before.
#
#     step 3    da = 0.676                          du: 0.676 * 0.707 = 0.478     dw: 0.676 * -1  = -0.676
#     step 2    da = 0.5 * 0.676 * 0.500 = 0.169    du: 0.169 * 0.762 = 0.129     dw: 0.169 * 0.5 =  0.085
#     step 1    da = 0.5 * 0.169 * 0.420 = 0.036    du: 0.036 * 0     = 0         dw: 0.036 * 1   =  0.036
#
#     du = 0.478 + 0.129 + 0 = 0.607                dw = -0.676 + 0.085 + 0.036 = -0.556
#
# This is *[backpropagation through time](GLOSSARY.md#backpropagation-through-time)*. **The parts of all steps are
# added, and the sum is the slope that nudging finds.**


# %%
def forward(x, w, u, b):
    """Returns the states (T + 1,) for inputs x (T,). The first state is 0. `u` may be one number, or one per step."""
    h, u = [0.0], np.broadcast_to(u, len(x))
    for t in range(len(x)):
        h.append(np.tanh(w * x[t] + u[t] * h[t] + b))
    return np.array(h)


def backward(dh, x, h, u):
    """Returns what each step adds to (dw, du, db), (T, 3), given the slope dh of the last state."""
    parts = np.zeros((len(x), 3))
    for t in reversed(range(len(x))):
        da = dh * (1 - h[t + 1] ** 2)  # h[t+1] = tanh(a)
        parts[t] = da * x[t], da * h[t], da  # a = w x[t] + u h[t] + b
        dh = da * u
    return parts


x, w, u, b = np.array([1.0, 0.5, -1.0]), 1.0, 0.5, 0.0
h = forward(x, w, u, b)
parts = backward(1.0, x, h, u)
assert np.allclose(h, [0, 0.762, 0.707, -0.569], atol=1e-3)
assert np.allclose(parts[::-1], [(-0.676, 0.478, 0.676), (0.085, 0.129, 0.169), (0.036, 0, 0.036)], atol=1e-3)
assert np.allclose(parts.sum(axis=0)[:2], [-0.556, 0.607], atol=1e-3)
e = 1e-6
nudged = [(forward(x, *up)[-1] - forward(x, *down)[-1]) / (2 * e) for up, down in
          (((w + e, u, b), (w - e, u, b)), ((w, u + e, b), (w, u - e, b)), ((w, u, b + e), (w, u, b - e)))]  # fmt: skip
assert np.allclose(parts.sum(axis=0), nudged, atol=1e-9), (
    "The slope of a recurrent network is the sum of the parts of all steps."
)

# %% [markdown]
# ## Why the parts are added
#
# Imagine that each step had its own copy of u: u[1], u[2] and u[3]. Then this is an ordinary network of three layers,
# and the parts above are the slopes of the three copies. There is nothing new in it. But the copies are one number: a
# nudge of u changes all three. In [lesson 3](03_backpropagation.py), a number that is used several times gets the sum
# of the slopes of all its uses. **The part of a step is the slope of its copy of the weight.**

# %%
for t in range(3):
    nudge = e * np.eye(3)[t]  # only the copy of step t
    slope = (forward(x, w, u + nudge, b)[-1] - forward(x, w, u - nudge, b)[-1]) / (2 * e)
    assert np.isclose(slope, parts[t, 1], atol=1e-9), (
        "If each step has its own copy of a weight, the slope of the copy is the part of this step."
    )

# %% [markdown]
# ## Fifty steps: vanish or explode
#
# On its way back, a slope is multiplied by u (1 - h^2) in each step. After three steps, it is the product of three
# factors, and after fifty steps, that of fifty. If the states are small, the factors are about u:
#
#     0.9^50 = 0.0052          1.1^50 = 117
#
# With more units, u is a matrix U, and each step multiplies by its transpose. We let a slope of length 1 come back
# through 50 steps, with 32 units and random weights of two sizes. **With small weights, the slope vanishes: after 50
# steps, less than a millionth is left. With large weights, it explodes: it is more than a thousand times as long.**
# (The first is the *[vanishing gradient](GLOSSARY.md#vanishing-gradient)*, the second is the *exploding gradient*:
# Hochreiter 1991; Bengio et al. 1994.) In the first case, the network cannot learn what the first steps have to do with
# the last. In the second, a step of the training is thrown far away.


# %%
def come_back(U, steps=50):
    """Returns the length (steps + 1,) of a slope on its way back through a plain recurrent network of H units."""
    H, rng = len(U), np.random.default_rng(1)
    h = np.zeros((steps + 1, H))
    for t in range(steps):
        h[t + 1] = np.tanh(rng.normal(0, 0.3, H) + h[t] @ U)
    dh = np.ones(H) / np.sqrt(H)
    lengths = [1.0]
    for t in reversed(range(steps)):
        dh = (dh * (1 - h[t + 1] ** 2)) @ U.T
        lengths.append(np.linalg.norm(dh))
    return np.array(lengths)


assert np.allclose([0.9**50, 1.1**50], [0.0052, 117.4], rtol=0.01)
H = 32
U = rng.normal(size=(H, H)) / np.sqrt(H)  # (32, 32): about as long after a product as before
lengths = {"small weights": come_back(0.5 * U), "large weights": come_back(3 * U)}
print("length of a slope after 50 steps back:", ", ".join(f"{name} {each[-1]:.1e}" for name, each in lengths.items()))
assert lengths["small weights"][-1] < 1e-6, "With small weights, a slope vanishes on its way back through 50 steps."
assert lengths["large weights"][-1] > 1e3, "With large weights, a slope explodes on its way back through 50 steps."

long = rng.normal(0, 0.3, 50)  # with one unit: the product of the slopes of all steps, and a nudge of the first state
h_long = forward(long, w, 0.9, b)
first = backward(1.0, long, h_long, 0.9)[0, 2]  # the slope with respect to the sum a of the first step
moved = [forward(long + e * sign * np.eye(50)[0], w, 0.9, b)[-1] for sign in (1, -1)]
assert np.isclose(first, np.prod(0.9 * (1 - h_long[1:] ** 2)) / 0.9) and np.isclose(
    first, (moved[0] - moved[1]) / (2 * e), atol=1e-9
)

# %% [markdown]
# A slope that explodes can be cut to a largest length (`minigan train --clip-norm`). A slope that has vanished cannot
# be brought back. For this, the cell has to change.
#
# ## Gates
#
# The *[GRU](GLOSSARY.md#gru)* (gated recurrent unit, Cho et al. 2014) does not replace its state. It mixes it with a
# new one, n. How much of the old state stays is decided by z, a number between 0 and 1 for each unit. Such numbers are
# called *[gates](GLOSSARY.md#gate)*, and they are computed from the input and the state, too:
#
#     v = x[t] @ w_x + b_x        q = h @ w_h + b_h            three parts each: r, z and n
#     r = sigmoid(v_r + q_r)                                   reset gate: how much of the state n sees
#     z = sigmoid(v_z + q_z)                                   update gate: how much of the state stays
#     n = tanh(v_n + r * q_n)                                  the new state that is proposed
#     h = (1 - z) * n + z * h
#
# By hand, with one unit: if h = 0.8, n = -0.4 and z = 0.9, the next state is 0.1 * -0.4 + 0.9 * 0.8 = 0.68.
#
# On the way back, dh is multiplied by z on the direct way from h to h. With z = 0.98, 0.98^50 = 0.36 is left after
# fifty steps. Each line below is the way back through one line above. The state h has two uses, z * h and q, so two
# slopes are added. **Our way back through the gates gives the slopes of minigan's GRU, and those that nudging finds.**


# %%
def gru(x, h, weights):
    """Returns the states (T, N, H) of a GRU for x (T, N, F) and the first state h (N, H), and what `gru_back` needs."""
    states, saved = [], []
    for x_t in x:
        v, q = x_t @ weights["w_x"] + weights["b_x"], h @ weights["w_h"] + weights["b_h"]
        (v_r, v_z, v_n), (q_r, q_z, q_n) = np.split(v, 3, axis=1), np.split(q, 3, axis=1)
        r, z = sigmoid(v_r + q_r), sigmoid(v_z + q_z)
        n = np.tanh(v_n + r * q_n)
        saved.append((h, r, z, n, q_n))
        h = (1 - z) * n + z * h
        states.append(h)
    return np.array(states), saved


def gru_back(dstates, x, saved, weights):
    """Returns dx (T, N, F), the slopes of the weights, and dh (N, H) after each step back, the last one included."""
    dx, grads, dh, way = np.zeros_like(x), {k: np.zeros_like(a) for k, a in weights.items()}, 0.0, []
    for t in reversed(range(len(x))):
        h, r, z, n, q_n = saved[t]
        dh = dh + dstates[t]  # this state is an output, and the next step starts from it
        dn, dz, dh = (1 - z) * dh, (h - n) * dh, z * dh  # h = (1 - z) * n + z * h
        dv_n = dn * (1 - n**2)  # n = tanh(v_n + r * q_n)
        dv_r = dv_n * q_n * r * (1 - r)  # r = sigmoid(v_r + q_r)
        dv_z = dz * z * (1 - z)  # z = sigmoid(v_z + q_z)
        dv, dq = np.hstack([dv_r, dv_z, dv_n]), np.hstack([dv_r, dv_z, dv_n * r])
        dx[t], dh = dv @ weights["w_x"].T, dh + dq @ weights["w_h"].T
        for name, part in (("w_x", x[t].T @ dv), ("w_h", h.T @ dq), ("b_x", dv.sum(axis=0)), ("b_h", dq.sum(axis=0))):
            grads[name] += part  # the parts of all steps are added
        way.append(dh)
    return dx, grads, way


assert np.isclose(0.1 * -0.4 + 0.9 * 0.8, 0.68) and np.isclose(0.98**50, 0.364, atol=1e-3)
T, N, F = 6, 2, 3
layer = GRU(F, 4, rng=rng).to("numpy", np.float64)
for each in layer.params.values():
    each += rng.normal(0, 0.3, each.shape)  # the biases of a new layer are 0
x, dstates, start = rng.normal(size=(T, N, F)), rng.normal(size=(T, N, 4)), np.zeros((N, 4))
states, saved = gru(x, start, layer.params)
dx, grads, _ = gru_back(dstates, x, saved, layer.params)
theirs, cache = layer.forward(x.swapaxes(0, 1))  # minigan's series are (N, T, F)
their_dx, their_grads = layer.backward(dstates.swapaxes(0, 1), cache)
assert np.allclose(states.swapaxes(0, 1), theirs) and np.allclose(dx.swapaxes(0, 1), their_dx)
rows = gradcheck.check(
    lambda: (gru(x, start, layer.params)[0] * dstates).sum(), lambda: grads | {"x": dx}, layer.params | {"x": x}
)
assert all(np.allclose(grads[name], their_grads[name]) for name in grads) and all(row.ok for row in rows), (
    "Our way back through the gates gives the slopes of minigan's GRU and those that nudging finds."
)

# %% [markdown]
# Now the same fifty steps, with weights as small as those that made the slope vanish. **If the update gates are about
# 0.98, more than a tenth of the slope comes back through 50 steps. If they are about 1/2, it vanishes, too.** So gates
# are no magic. They are a way to keep something, and the network learns when to take it.

# %%
inputs = np.random.default_rng(1).normal(0, 0.3, (50, 1, H))
for z in (0.5, 0.98):
    bias = np.zeros(3 * H)
    bias[H : 2 * H] = np.log(z / (1 - z))  # sigmoid(bias) = z
    each = {"w_x": np.tile(np.eye(H), 3), "w_h": np.tile(0.5 * U, 3), "b_x": bias, "b_h": np.zeros(3 * H)}
    _, saved = gru(inputs, np.zeros((1, H)), each)
    last = np.zeros((50, 1, H))
    last[-1] = 1 / np.sqrt(H)
    lengths[f"GRU, z = {z}"] = np.array([1.0] + [np.linalg.norm(dh) for dh in gru_back(last, inputs, saved, each)[2]])
    print(f"GRU with update gates of about {z}: {lengths[f'GRU, z = {z}'][-1]:.1e}")
assert 0.1 < lengths["GRU, z = 0.98"][-1] < 10, (
    "If the update gates of a GRU are about 0.98, more than a tenth of a slope comes back through 50 steps."
)
assert lengths["GRU, z = 0.5"][-1] < 1e-6, "If the update gates of a GRU are about 1/2, a slope vanishes, too."

# %% [markdown]
# ## A forger of waves
#
# minigan draws sine waves itself (`--data sines`): each series has 24 steps of five waves, and each wave has its own
# frequency and phase. The frequencies are low: 24 steps are less than half a turn. The forger is a GRU. Its start state
# and the input of each step come from the same 8 noise numbers. Two dense layers, the same in each step, turn the state
# into five values. The critic has two GRUs, and one of them reads the series from the end to the start. It judges their
# last states. So the slopes go from the logit backward through the steps of the critic, and then backward through those
# of the forger.
#
# The critic gets the penalty R1 ([lesson 15](15_dirac_gan.py)). minigan's recurrent layers have no [second
# derivatives](GLOSSARY.md#second-derivative) ([lesson 24](24_double_backward.py)), so it is computed by nudging: it
# compares the logits of real series with those of the same series with a little noise.

# %%
data = datasets.KINDS["sequences"].load("sines", SequenceOptions(), 0)
real = data.series(slice(1000))  # (1000, 24, 5), from 0 to 1
options = dict(network=dict(g_width=32, d_width=24, noise_size=8, step_noise=0), lr_g=2e-3, lr_d=2e-3, average=0.995)
config = Config.of("waves-gru", data="sines", steps=300 if QUICK else 1200, batch=64, seed=0, **options)
assert config.penalty == "r1-fd"
assert np.diff(real, 2, axis=1).max() < 1e-5  # in less than half a turn, the waves only bend down
training = Training(config, data, backends.load("auto", threads=1))  # more threads do not help networks of this size
moments, fakes = [1, 25, 50, 100, 200, config.steps], {}
for record in training.records():
    if record["step"] in moments:
        fakes[record["step"]] = training.sampler.draw(1000, np.random.default_rng(1))
print(f"{training.seconds:.0f} s of training; loss of the critic {record['d_loss']:.2f}, 2 ln 2 = {2 * np.log(2):.2f}")

# %% [markdown]
# ## Are these waves?
#
# The *[autocorrelation](GLOSSARY.md#autocorrelation)* of a series at the lag k says how much a value tells about the
# value k steps later. With m for the mean of all values:
#
#     r[k] = mean of (x[t] - m) (x[t+k] - m) / mean of (x[t] - m)^2
#
# By hand, for the series 1, 2, 3, 2 with m = 2: the differences are -1, 0, 1, 0. At lag 1, the products are 0, 0
# and 0, so r[1] = 0. At the lag 2 they are -1 and 0, with the mean -1/2. The mean square is 1/2, so r[2] = -1.
#
# At the start, the forger draws nearly flat lines: r is close to 1 for every lag. Real waves rise from below the mean
# to above it, so that values 20 steps apart are on opposite sides. **The autocorrelation of the fakes comes close to
# that of real waves: the distance falls to less than a fifth.**
#
# But the fakes are not perfect. A wave has no corners. The *second difference* x[t+1] - 2 x[t] + x[t-1] shows them.
# **The second differences of the fakes are still more than twice as large as those of real waves.** The autocorrelation
# does not show this. A program that spots fakes could use it ([lesson 25](25_spotting_fakes.py)).


# %%
def autocorrelation(x, lags):
    """Returns r (lags,) at the lags 1, 2, ... of series x (N, T), with one mean for all."""
    d = x - x.mean()
    return np.array([(d[:, :-k] * d[:, k:]).mean() for k in range(1, lags + 1)]) / (d * d).mean()


def corners(x):
    """Returns the root of the mean squared second difference of series x (N, T, F)."""
    return np.sqrt((np.diff(x, 2, axis=1) ** 2).mean())


assert np.allclose(autocorrelation(np.array([[1.0, 2, 3, 2]]), 2), [0, -1])
curves = {name: np.mean([autocorrelation(x[..., f], 20) for f in range(5)], axis=0)
          for name, x in (("real", real), *fakes.items())}  # fmt: skip
assert np.allclose(curves["real"], statistics.autocorrelation(real, 20).mean(axis=0), atol=1e-4)  # minigan's
distance = {step: abs(curves[step] - curves["real"]).mean() for step in fakes}
for step, each in distance.items():
    ratio = corners(fakes[step]) / corners(real)
    print(f"step {step:4}: distance of the autocorrelation {each:.3f}, second differences {ratio:.1f} times as large")
others = abs(curves["real"] - statistics.autocorrelation(data.series(slice(1000, 2000)), 20).mean(axis=0)).mean()
print(f"other real waves: distance {others:.3f}")
assert others < distance[config.steps] < distance[1] / 5, (
    "The autocorrelation of the fakes comes close to that of real waves: the distance falls to less than a fifth."
)
assert corners(fakes[config.steps]) > 2 * corners(real), (
    "The second differences of the fakes are still more than twice as large as those of real waves."
)

# %%
figure = plt.figure(figsize=(10.4, 6.2))
top, bottom = figure.subfigures(2, 1)
shown = {"real": real, "fakes at step 1": fakes[1], f"fakes at step {config.steps}": fakes[config.steps]}
for axis, (name, x), colour in zip(top.subplots(1, 3, sharey=True), shown.items(), (BLUE, GREY, ORANGE), strict=True):
    for k in range(14):
        axis.plot(x[k, :, k % 5], color=colour, linewidth=1.2, alpha=0.8)
    axis.set(title=name, xlabel="step", ylim=(0.25, 1.1))
axes = bottom.subplots(1, 2, width_ratios=(1.15, 1))
styles = (BLUE, "-"), (ORANGE, "-"), (GREY, "--"), (GREEN, "-")
for (name, each), (colour, style) in zip(lengths.items(), styles, strict=True):
    axes[0].semilogy(each, style, color=colour, label=name, linewidth=1.8)
axes[0].set(
    title="length of a slope on its way back",
    xlabel="steps back in time",
    ylim=(1e-18, 1e17),
    yticks=10.0 ** np.arange(-15, 11, 5),
)
axes[0].legend(loc="upper left", fontsize=9, ncols=2)
lags = np.arange(1, 21)
axes[1].plot(lags, curves[1], "--", color=GREY, label="fakes at step 1")
axes[1].plot(lags, curves[config.steps], color=ORANGE, label=f"fakes at step {config.steps}")
axes[1].plot(lags, curves["real"], color=BLUE, label="real")
axes[1].set(title="autocorrelation", xlabel="lag, in steps", ylim=(-1.1, 1.1), xticks=range(0, 21, 5))
axes[1].legend(loc="lower left", fontsize=9)
save(figure, "22_waves.png")

# %% [markdown]
# `minigan train --data sines --preset waves-gru` trains the full networks, and `minigan evaluate` compares the fakes
# with held-out series. `--data` also takes your own series, in a CSV file or an array.
#
# ## Exercises
#
# Replace the dots with your answer, uncomment the code, and run it.

# %% [markdown]
# **Exercise 1.** A recurrent network has one unit, u = 0.8, and states near 0. After how many steps back is less than
# 1% of a slope left?
#
# <details><summary>Hint</summary>
#
# Find the smallest k with 0.8^k < 0.01. Use logarithms: k > log 0.01 / log 0.8.
#
# <details><summary>Solution</summary>
#
# ```python
# k = int(np.ceil(np.log(0.01) / np.log(0.8)))
# ```
#
# </details></details>

# %% Exercise 1
# k = ...
# quiet = np.zeros(k + 1)  # without inputs, all states are 0
# back = backward(1.0, quiet, forward(quiet, 1.0, 0.8, 0.0), 0.8)[::-1, 2]
# assert back[k] < 0.01 <= back[k - 1]

# %% [markdown]
# **Exercise 2.** A GRU without inputs has weights of 0, so that n = 0, and its state starts at 1. Which bias of the
# update gate keeps 90% of the state for 10 steps?
#
# <details><summary>Hint</summary>
#
# The state after 10 steps is z^10, so z = 0.9^(1/10). And z = sigmoid(bias), so bias = log(z / (1 - z)).
#
# <details><summary>Solution</summary>
#
# ```python
# z = 0.9**0.1
# bias = np.log(z / (1 - z))
# ```
#
# </details></details>

# %% Exercise 2
# bias = ...
# zeros = {"w_x": np.zeros((1, 3)), "w_h": np.zeros((1, 3)), "b_x": np.array([0, bias, 0]), "b_h": np.zeros(3)}
# states, _ = gru(np.zeros((10, 1, 1)), np.ones((1, 1)), zeros)
# assert np.isclose(states[-1, 0, 0], 0.9)

# %% [markdown]
# The next lesson, [23_how_good.py](23_how_good.py), asks how to measure the quality of fakes of any kind.
