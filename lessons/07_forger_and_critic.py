# %% [markdown]
# # 7. Forger and critic
#
# **Question.** How can a network learn to make things if nobody shows it the right output?
#
# **You will know** how the two networks of a GAN are wired, which one learns when, what the generator learns from, and
# what a whole game looks like from the first round to the last.
#
# **Builds on** [lesson 3](03_backpropagation.py). **Takes** 40 minutes to read, 13 seconds to run, 6 with `--quick`.
# You can read lessons [4](04_reading_digits.py) to [6](06_going_up.py) later.
#
# We train two networks against each other (Goodfellow et al. 2014). The *generator* G is like a
# [forger](GLOSSARY.md#forger): it makes [fakes](GLOSSARY.md#fake) from random numbers, which are called noise. The
# *discriminator* D is like a critic: it sees real things and fakes, and has to say which are real. Each network learns
# from the other. In this lesson the real things are points in the plane, so that we can draw everything. They come from
# eight Gaussian distributions, whose centres are on a circle.

# %%
import copy

import matplotlib.pyplot as plt
import numpy as np
from _common import BLUE, GREY, NO_YES, ORANGE, QUICK, arrow, blank, box, save

from minigan import game, losses, optim
from minigan.datasets import mixtures
from minigan.layers import Dense, LeakyReLU, ReLU, Sequential, he_normal, normal
from minigan.losses import sigmoid, softplus

rng = np.random.default_rng(0)
data = mixtures.ring(8, radius=2, std=0.15)
BATCH, NOISE = 128, 4

# %% [markdown]
# ## The game
#
# D(x) is the probability, according to D, that x is real. The goal of D is a high probability for real points and a low
# one for fakes. The goal of G is a high probability for its fakes. One formula describes both goals. It is called the
# *[minimax](GLOSSARY.md#minimax) game*:
#
#     min over G, max over D  of   mean of log D(real)  +  mean of log (1 - D(G(noise)))
#
# (Our G does not minimise log(1 - D). It maximises log D, which has the same goal and better slopes.
# [Lesson 8](08_losses.py) explains why.) The figure shows who learns when.

# %%
figure, axes = plt.subplots(2, 1, figsize=(9.5, 4.1), height_ratios=(4, 3))
for axis, learner in zip(axes, "DG", strict=True):
    blank(axis, 18.4, 4 if learner == "D" else 3)
    g, d = (ORANGE, GREY) if learner == "G" else (GREY, BLUE)
    box(axis, 1.2, 1.2, "noise z", GREY)
    box(axis, 5, 1.2, "G" if learner == "D" else "G learns", g)
    box(axis, 8.6, 1.2, "fakes", GREY)
    box(axis, 12.4, 2, "D" if learner == "G" else "D learns", d)
    box(axis, 16.8, 2, "logits,\nloss of " + learner, d if learner == "D" else g)
    arrow(axis, (2.1, 1.3), (4.1, 1.3))
    arrow(axis, (5.9, 1.3), (7.7, 1.3))
    arrow(axis, (9.5, 1.4), (11.5, 1.8))
    arrow(axis, (13.3, 2.1), (15.9, 2.1))
    if learner == "D":
        box(axis, 8.6, 3, "real", GREY)
        arrow(axis, (9.5, 2.9), (11.5, 2.3))
        arrow(axis, (15.9, 1.75), (13.3, 1.75), "slopes", d, (0, -0.35), linestyle="--")
    else:
        arrow(axis, (15.9, 1.75), (13.3, 1.75), "slopes", g, (0, -0.35), linestyle="--")
        arrow(axis, (11.5, 1.5), (9.5, 1.1), "dfake", g, (0.25, -0.4), linestyle="--")
        arrow(axis, (7.7, 0.95), (5.9, 0.95), "slopes", g, (0, -0.35), linestyle="--")
    turns = {"D": "the critic's turn: G does not change"}
    turns["G"] = "the forger's turn: D does not change, but the slopes go through it"
    axis.set_title(turns[learner], color=d if learner == "D" else g, loc="left")
save(figure, "07_diagram.png")

# %% [markdown]
# ## Worked by hand: the smallest GAN
#
# Let real points be the number 3. The forger has one weight and ignores its noise: G(z) = b, with b = 1. The critic has
# two weights: its logit is l = w x + c, with w = 1 and c = -2. So l(real) = 1 and l(fake) = -1, and
#
#     D(real) = sigmoid(1) = 0.731        D(fake) = sigmoid(-1) = 0.269
#     critic's loss = -log 0.731 - log(1 - 0.269) = 0.313 + 0.313 = 0.627
#
# The critic's turn. Answer minus target is 0.731 - 1 = -0.269 for the real point and 0.269 - 0 = 0.269 for the fake:
#
#     dw = -0.269 * 3 + 0.269 * 1 = -0.538        dc = -0.269 + 0.269 = 0
#     with the learning rate 1:  w = 1.538, c = -2
#
# The forger's turn. The fake now has the logit 1.538 * 1 - 2 = -0.462, and D(fake) = 0.386. The forger wants the answer
# 1, so the slope of its loss is 0.386 - 1 = -0.614. It goes back through the critic to the fake, and from there to b:
#
#     dfake = -0.614 * w = -0.944        db = dfake        b = 1 + 0.944 = 1.944
#
# **The fake moved from 1 towards the real 3, although the forger never saw it.** The direction came through the critic.

# %%
b, w, c, real = 1.0, 1.0, -2.0, 3.0
d_real, d_fake = sigmoid(w * real + c), sigmoid(w * b + c)
by_hand = [d_real, d_fake, -np.log(d_real) - np.log(1 - d_fake)]
dw, dc = (d_real - 1) * real + d_fake * b, (d_real - 1) + d_fake
w, c = w - dw, c - dc
dfake = (sigmoid(w * b + c) - 1) * w
by_hand += [dw, dc, w, c, w * b + c, sigmoid(w * b + c), dfake, b - dfake]
assert np.allclose(by_hand, [0.731, 0.269, 0.627, -0.538, 0, 1.538, -2, -0.462, 0.386, -0.944, 1.944], atol=1e-3), (
    "The forger moves its fake towards the real point, which it never saw."
)

# %% [markdown]
# ## The two networks
#
# Now we use networks like those of [lesson 3](03_backpropagation.py). `LeakyReLU` is like ReLU
# ([lesson 4](04_reading_digits.py)), but its slope for a negative input is not 0. Here it is 0.2. This matters because
# the forger learns only from slopes that come back through the critic. **ReLU sets the slopes to 0 wherever its input
# is negative, and [LeakyReLU](GLOSSARY.md#leakyrelu) does not.**

# %%
he = dict(rng=rng, init=he_normal)
small = dict(rng=rng, init=normal(0.05))  # small weights, so that the first fakes are close to the middle
G = Sequential(Dense(NOISE, 64, **he), LeakyReLU(0.2), Dense(64, 64, **he), LeakyReLU(0.2), Dense(64, 2, **small))
D = Sequential(Dense(2, 64, **he), LeakyReLU(0.2), Dense(64, 64, **he), LeakyReLU(0.2), Dense(64, 1, rng=rng))
opt_g, opt_d = optim.Adam(G, lr=2e-3, beta1=0.5), optim.Adam(D, lr=2e-3, beta1=0.5)
negative = -np.ones((1, 1), np.float32)
for layer, factor in ((ReLU(), 0), (LeakyReLU(0.2), 0.2)):
    _, cache = layer.forward(negative)
    assert np.isclose(layer.backward(np.ones((1, 1), np.float32), cache)[0].item(), factor), (
        "For a negative input, no slope comes back through ReLU, and a fifth of it through LeakyReLU(0.2)."
    )


def draw_noise(count):
    """Returns normally distributed noise (count, 4)."""
    return rng.standard_normal((count, NOISE), dtype=np.float32)


# %% [markdown]
# ## One round, step by step
#
# One round of the game has five steps. As in [lesson 2](02_nudging.py), the output of D is a logit l, and
# `-log sigmoid(l) = softplus(-l)`.


# %%
def round_by_hand(G, D, opt_g, opt_d, real, z_d, z_g):
    """Trains the critic and then the forger by one step, and returns both losses."""
    # 1. The forger makes fakes from noise.
    fake, _ = G.forward(z_d)  # (N, 4) -> (N, 2); the cache is not needed, because G does not learn in this step
    # 2. The critic computes logits for both. They should be high for real points and low for fakes.
    l_real, cache_real = D.forward(real)  # (N, 1)
    l_fake, cache_fake = D.forward(fake)  # (N, 1)
    d_loss = softplus(-l_real).mean() + softplus(l_fake).mean()
    # 3. The critic learns: compute the slopes for both batches, add them, and take one step.
    _, grads_real = D.backward(-sigmoid(-l_real) / BATCH, cache_real, need_dx=False)
    _, grads_fake = D.backward(sigmoid(l_fake) / BATCH, cache_fake, need_dx=False)
    opt_d.step({name: grads_real[name] + grads_fake[name] for name in grads_real})
    # 4. The forger makes new fakes, and the updated critic computes their logits.
    fake, cache_g = G.forward(z_g)  # (N, 2)
    l, cache_d = D.forward(fake)  # (N, 1)
    g_loss = softplus(-l).mean()
    # 5. The forger learns. The slopes go back through the critic, whose weights do not change, to the fakes. dfake is
    #    the slope of the loss with respect to each fake. From there, the slopes go back through the forger.
    dfake, _ = D.backward(-sigmoid(-l) / BATCH, cache_d, need_grads=False)  # (N, 2)
    _, grads_g = G.backward(dfake, cache_g, need_dx=False)
    opt_g.step(grads_g)
    return d_loss, g_loss


# %% [markdown]
# `minigan.game` contains these five steps in two functions. If both versions start with the same weights, they also end
# with exactly the same weights:

# %%
copies = copy.deepcopy((G, D, opt_g, opt_d))
real, z_d, z_g = data.sample(BATCH, rng), draw_noise(BATCH), draw_noise(BATCH)
ours = round_by_hand(*copies, real, z_d, z_g)
untouched = {name: w.copy() for name, w in G.params.items()}
theirs = game.discriminator_step(G, D, opt_d, real, z_d, losses.non_saturating)
assert all(np.array_equal(w, untouched[name]) for name, w in G.params.items()), "The critic's step does not change G."
untouched = {name: w.copy() for name, w in D.params.items()}
theirs |= game.generator_step(G, D, opt_g, z_g, losses.non_saturating)
assert all(np.array_equal(w, untouched[name]) for name, w in D.params.items()), "The forger's step does not change D."
assert np.allclose(ours, (theirs["d_loss"], theirs["g_loss"]))
for our_network, their_network in zip(copies[:2], (G, D), strict=True):
    assert all(np.array_equal(our_network.params[name], w) for name, w in their_network.params.items())

# %% [markdown]
# ## What the forger learns from
#
# `dfake` in step 5 is a vector in the plane for each fake. **If we move a fake a little against this vector, the
# critic's logit for it rises.** The forger never sees a real point. All its information about the data comes from these
# vectors.


# %%
def look(count=300):
    """Returns fakes (count, 2), their logits (count, 1), and arrows (count, 2) that point to a lower forger's loss."""
    fake, _ = G.forward(np.random.default_rng(5).standard_normal((count, NOISE), dtype=np.float32), train=False)
    l, cache = D.forward(fake)
    dfake, _ = D.backward(-sigmoid(-l), cache, need_grads=False)  # not divided by N: the slope of each fake's own loss
    return fake, l, -dfake


fake, l, arrows = look()
moved, _ = D.forward(fake + 0.01 * arrows)
assert (moved > l).mean() > 0.95, "If a fake moves a little against its slope, the critic's logit for it rises."

# %% [markdown]
# ## Training
#
# We train for several thousand rounds and store a picture at some of them. The learning rate decreases to 0, so that
# the game becomes calm at the end. A fake *lies well* if it is within three standard deviations of the nearest centre.
# `coverage` returns how many of the eight Gaussians (the *[modes](GLOSSARY.md#mode)*) have enough fakes that lie well,
# and the share of all fakes that lie well.

# %%
rounds = 2000 if QUICK else 4000
moments = [1, 100, 300, 600, 1000, rounds]
side = np.linspace(-3.2, 3.2, 81, dtype=np.float32)
plane = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)  # (81 * 81, 2)
pictures, d_losses = [], []
for k in range(1, rounds + 1):
    opt_g.lr = opt_d.lr = 2e-3 * (1 - (k - 1) / rounds)
    record = game.discriminator_step(G, D, opt_d, data.sample(BATCH, rng), draw_noise(BATCH), losses.non_saturating)
    game.generator_step(G, D, opt_g, draw_noise(BATCH), losses.non_saturating)
    d_losses.append(float(record["d_loss"]))
    if k in moments:
        many, _ = G.forward(draw_noise(2000), train=False)
        modes, share = data.coverage(many)
        print(f"round {k:5}: {modes} of 8 modes, {share:4.0%} of the fakes lie well, critic's loss {d_losses[-1]:.2f}")
        heat = sigmoid(D.forward(plane)[0]).reshape(81, 81)
        pictures.append((k, modes, share, heat, look()))

# %% [markdown]
# **At the end, the fakes cover at least seven of the eight Gaussians, and more than 70% of them lie well (six and 30%
# with `--quick`).** The title of the last panel says how many it was here.

# %%
assert pictures[0][2] < 0.1  # after round 1, less than 10% of the fakes lie well
assert pictures[-1][1] >= (6 if QUICK else 7) and pictures[-1][2] > (0.3 if QUICK else 0.7), (
    "The forger learns at least seven of eight Gaussians without seeing a real point (six with `--quick`)."
)

# %% [markdown]
# If the fakes looked exactly like the real points, the best critic would answer D = 1/2 for all of them. Its loss would
# be 2 log 2 = 1.386. Our critic's loss ends a little below, because it still finds small differences. **Its mean
# answers for real points and for fakes are both close to 1/2, but D is not 1/2 everywhere in the plane.** Where there
# are neither real points nor fakes, nothing corrects the critic.

# %%
late = np.mean(d_losses[-300:])
d_real, d_fake = (sigmoid(D.forward(x, train=False)[0]).mean() for x in (data.sample(2000, rng), many))
heat = pictures[-1][3]
print(f"critic's mean loss in the last 300 rounds: {late:.3f}; loss if D = 1/2 everywhere: {2 * np.log(2):.3f}")
print(f"critic's mean answer: real points {d_real:.2f}, fakes {d_fake:.2f}")
print(f"critic's answers in the plane: from {heat.min():.2f} to {heat.max():.2f}")
assert (1.0 if QUICK else 1.1) < late < 1.4  # after less training, the critic finds more
assert (0.35 if QUICK else 0.4) < d_fake < d_real < 0.65, (
    "At the end of a good game, the critic's mean answers for real points and fakes are close to 1/2."
)
assert np.ptp(heat) > 0.5, "At the end, D is far from 1/2 in other parts of the plane."

# %%
figure, axes = plt.subplots(2, 3, figsize=(10, 7), sharex=True, sharey=True)
shown = data.sample(300, np.random.default_rng(6))
for axis, (k, modes, share, heat, (fake, _, arrows)) in zip(axes.flat, pictures, strict=True):
    image = axis.pcolormesh(side, side, heat, cmap=NO_YES, vmin=0, vmax=1, rasterized=True)
    axis.plot(*shown.T, ".", color=BLUE, markersize=2.5, label="real")
    axis.plot(*fake.T, ".", color=ORANGE, markersize=4, label="fake")
    axis.quiver(*fake[::3].T, *arrows[::3].T, angles="xy", scale_units="xy", scale=2.5, width=0.004, color="black")
    axis.set(aspect="equal", xlim=(-3.2, 3.2), ylim=(-3.2, 3.2), xticks=[-2, 0, 2], yticks=[-2, 0, 2])
    axis.set_title(f"round {k}: {modes} of 8, {share:.0%} lie well")
figure.colorbar(image, ax=axes, label='the critic\'s D(x): 0 "fake", 1 "real"', shrink=0.6)
handles, _ = axes[0, 0].get_legend_handles_labels()
handles.append(plt.Line2D([], [], color="black", marker=r"$\rightarrow$", linestyle="none", markersize=5))
texts = ["real points", "fakes", "where the critic sends them"]
figure.legend(handles, texts, loc="outside lower center", ncols=3, markerscale=3)
save(figure, "07_forger_and_critic.png")

# %% [markdown]
# Compare the panels of the figure. The fakes start in the middle, spread over the plane, and then gather at the
# centres. Each arrow shows the direction in which a fake would look more real to the critic.
#
# ## Exercises
#
# Replace the dots with your answer, uncomment the code, and run it.

# %% [markdown]
# **Exercise 1.** If the forger does not change, the best critic is D(x) = p_real / (p_real + p_fake). What is D(x) at a
# point where real points are three times as frequent as fakes?
#
# <details><summary>Hint</summary>
#
# Let p_fake = 1. Then p_real = 3.
#
# <details><summary>Solution</summary>
#
# ```python
# best = 0.75
# ```
#
# </details></details>

# %% Exercise 1
# best = ...
# d = np.linspace(0.001, 0.999, 999)
# value = 3 * np.log(d) + 1 * np.log(1 - d)  # D maximises this value for three real points and one fake
# assert np.isclose(d[value.argmax()], best)

# %% [markdown]
# **Exercise 2.** How many times does one round run D forward, and how many times backward?
#
# <details><summary>Hint</summary>
#
# In step 2, D looks at two batches. In step 4, it looks at one. Each of these passes is followed by a backward pass.
#
# <details><summary>Solution</summary>
#
# ```python
# forward, backward = 3, 3
# ```
#
# </details></details>

# %% Exercise 2
# forward, backward = ...
# counts = {"forward": 0, "backward": 0}
# class Counting:
#     def __getattr__(self, name):
#         if name in counts:
#             counts[name] += 1
#         return getattr(D, name)
# game.discriminator_step(G, Counting(), opt_d, real, z_d, losses.non_saturating)
# game.generator_step(G, Counting(), opt_g, z_g, losses.non_saturating)
# assert counts == {"forward": forward, "backward": backward}

# %% [markdown]
# The next lesson, [08_losses.py](08_losses.py), explains why the forger does not minimise log(1 - D), and how to read
# the loss curves.
