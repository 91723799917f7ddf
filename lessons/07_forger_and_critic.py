# %% [markdown]
# # 8. Forger and critic
#
# **Question.** How can a network learn to make things if nobody shows it the right output?
#
# **Needs.** Lesson 3. You can read lessons 5 to 7 later. **Takes** 10 seconds, with `--quick` 5.
#
# We train two networks against each other (Goodfellow et al. 2014). The *generator* G is like a forger: it makes fakes
# from random numbers, which are called noise. The *discriminator* D is like a critic: it sees real things and fakes,
# and has to say which are real. Each network learns from the other. In this lesson the real things are points in the
# plane, so that we can draw everything. They come from eight Gaussian distributions, whose centres are on a circle.

# %%
import copy

import matplotlib.pyplot as plt
import numpy as np
from _common import BLUE, NO_YES, ORANGE, QUICK, save

from minigan import game, losses, optim
from minigan.datasets import mixtures
from minigan.layers import Dense, LeakyReLU, Sequential, he_normal, normal
from minigan.losses import sigmoid, softplus

rng = np.random.default_rng(0)
data = mixtures.ring(8, radius=2, std=0.15)
BATCH, NOISE = 128, 4

# %% [markdown]
# ## The two networks
#
# Both networks are like those of lesson 3. `LeakyReLU` is like ReLU, but its slope for a negative input is not 0. Here
# it is 0.2. This matters because the forger learns only from slopes that come back through the critic. ReLU would set
# the slopes to 0 wherever its input is negative.

# %%
he = dict(rng=rng, init=he_normal)
small = dict(rng=rng, init=normal(0.05))  # small weights, so that the first fakes are close to the middle
G = Sequential(Dense(NOISE, 64, **he), LeakyReLU(0.2), Dense(64, 64, **he), LeakyReLU(0.2), Dense(64, 2, **small))
D = Sequential(Dense(2, 64, **he), LeakyReLU(0.2), Dense(64, 64, **he), LeakyReLU(0.2), Dense(64, 1, rng=rng))
opt_g, opt_d = optim.Adam(G, lr=2e-3, beta1=0.5), optim.Adam(D, lr=2e-3, beta1=0.5)


def draw_noise(count):
    """Returns normally distributed noise (count, 4)."""
    return rng.standard_normal((count, NOISE), dtype=np.float32)


# %% [markdown]
# ## The game
#
# D(x) is the probability, according to D, that x is real. The goal of D is a high probability for real points and a low
# one for fakes. The goal of G is a high probability for its fakes. One formula describes both goals. It is called the
# *minimax game*:
#
#     min over G, max over D  of   mean of log D(real)  +  mean of log (1 - D(G(noise)))
#
# One round of the game has five steps. As in lesson 2, the output of D is a logit l, and
# `-log sigmoid(l) = softplus(-l)`. (Our G does not minimise log(1 - D). It maximises log D, which has the same goal and
# better slopes. Lesson 9 explains why.)


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
assert all(np.array_equal(w, untouched[name]) for name, w in G.params.items())  # the step of D does not change G
theirs |= game.generator_step(G, D, opt_g, z_g, losses.non_saturating)
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
assert (moved > l).mean() > 0.95

# %% [markdown]
# ## Training
#
# We train for several thousand rounds and store a picture at some of them. A fake *lies well* if it is within three
# standard deviations of the nearest centre. `coverage` returns how many of the eight Gaussians (the *modes*) have
# enough fakes that lie well, and the share of all fakes that lie well.

# %%
rounds = 1500 if QUICK else 4000
moments = [1, 100, 300, 600, 1000, rounds]
side = np.linspace(-3.2, 3.2, 81, dtype=np.float32)
plane = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)  # (81 * 81, 2)
pictures, d_losses = [], []
for k in range(1, rounds + 1):
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
# **At the end, the fakes cover at least seven of the eight Gaussians (six with `--quick`).** We do not demand all
# eight, because the result of the game varies. The critic's loss ends near 2 log 2 = 1.386. This is the loss of a
# critic that answers D = 1/2 for every point, because it cannot tell real points from fakes.

# %%
assert pictures[0][2] < 0.1  # after round 1, less than 10% of the fakes lie well
assert pictures[-1][1] >= (6 if QUICK else 7) and pictures[-1][2] > (0.4 if QUICK else 0.6)
late = np.mean(d_losses[-300:])
print(f"critic's mean loss in the last 300 rounds: {late:.3f}; loss if D = 1/2 everywhere: {2 * np.log(2):.3f}")
assert 1.1 < late < 1.45

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
save(figure, "08_forger_and_critic.png")

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
# The next lesson, [09_losses.py](09_losses.py), explains why the forger does not minimise log(1 - D), and how to read
# the loss curves.
