# %% [markdown]
# # 8. Forger and critic
#
# **Question.** How can a network learn to make things, when nobody tells it what is right?
#
# **Needs.** Lesson 3 (lessons 5 to 7 can wait). **Takes** 10 seconds, with `--quick` 5.
#
# Let two networks play against each other (Goodfellow et al. 2014). The *generator* G, a forger, makes fakes from
# noise. The *discriminator* D, a critic, sees real things and fakes and says which is which. Each learns from the
# other. We play in the plane, where everything can be seen: the "real things" are points, drawn from eight Gaussians on
# a circle.

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
# ## The players
#
# Both are lesson 3's networks. `LeakyReLU` bends like ReLU, but lets a fifth of the slope through where it is closed:
# the forger learns only from slopes that come through the critic, and a ReLU would stop half of them.

# %%
he = dict(rng=rng, init=he_normal)
small = dict(rng=rng, init=normal(0.05))  # so that the first fakes are a blob in the middle
G = Sequential(Dense(NOISE, 64, **he), LeakyReLU(0.2), Dense(64, 64, **he), LeakyReLU(0.2), Dense(64, 2, **small))
D = Sequential(Dense(2, 64, **he), LeakyReLU(0.2), Dense(64, 64, **he), LeakyReLU(0.2), Dense(64, 1, rng=rng))
opt_g, opt_d = optim.Adam(G, lr=2e-3, beta1=0.5), optim.Adam(D, lr=2e-3, beta1=0.5)


def draw_noise(count):
    return rng.standard_normal((count, NOISE), dtype=np.float32)  # (count, 4)


# %% [markdown]
# ## The game
#
# With D(x) the probability that D gives to "real", D wants it high on real points and low on fakes, G wants the fakes'
# high. In one line, the *minimax game*:
#
#     min over G, max over D  of   mean of log D(real)  +  mean of log (1 - D(G(noise)))
#
# A round has five steps, and here they are. As in lesson 2, D ends in a logit l and `-log sigmoid(l) = softplus(-l)`.
# (G does not minimise log(1 - D) but maximises log D: the same goal, better slopes. Lesson 9 shows why.)


# %%
def round_by_hand(G, D, opt_g, opt_d, real, z_d, z_g):
    # 1. The forger makes fakes of noise.
    fake, _ = G.forward(z_d)  # (N, 4) -> (N, 2); its cache is dropped, for this is not its turn to learn
    # 2. The critic looks at both: real should get a high logit, fake a low one.
    l_real, cache_real = D.forward(real)  # (N, 1)
    l_fake, cache_fake = D.forward(fake)  # (N, 1)
    d_loss = softplus(-l_real).mean() + softplus(l_fake).mean()
    # 3. The critic learns: slopes of its loss by its logits, back through it, added, one step.
    _, grads_real = D.backward(-sigmoid(-l_real) / BATCH, cache_real, need_dx=False)
    _, grads_fake = D.backward(sigmoid(l_fake) / BATCH, cache_fake, need_dx=False)
    opt_d.step({name: grads_real[name] + grads_fake[name] for name in grads_real})
    # 4. The forger makes new fakes, and the critic, now wiser, judges them.
    fake, cache_g = G.forward(z_g)  # (N, 2)
    l, cache_d = D.forward(fake)  # (N, 1)
    g_loss = softplus(-l).mean()
    # 5. The forger learns. The slope goes back through the critic, which does not move, to the fakes: dfake says, for
    #    each of them, which way would look more real. From there it goes on into the forger.
    dfake, _ = D.backward(-sigmoid(-l) / BATCH, cache_d, need_grads=False)  # (N, 2)
    _, grads_g = G.backward(dfake, cache_g, need_dx=False)
    opt_g.step(grads_g)
    return d_loss, g_loss


# %% [markdown]
# `minigan.game` is these five steps in two functions. From the same start both leave the same weights, to the last bit:

# %%
twins = copy.deepcopy((G, D, opt_g, opt_d))
real, z_d, z_g = data.sample(BATCH, rng), draw_noise(BATCH), draw_noise(BATCH)
ours = round_by_hand(*twins, real, z_d, z_g)
untouched = {name: w.copy() for name, w in G.params.items()}
theirs = game.discriminator_step(G, D, opt_d, real, z_d, losses.non_saturating)
assert all(np.array_equal(w, untouched[name]) for name, w in G.params.items())  # in D's step G does not move
theirs |= game.generator_step(G, D, opt_g, z_g, losses.non_saturating)
assert np.allclose(ours, (theirs["d_loss"], theirs["g_loss"]))
for mine, hers in zip(twins[:2], (G, D), strict=True):
    assert all(np.array_equal(mine.params[name], hers.params[name]) for name in hers.params)

# %% [markdown]
# ## What the critic tells the forger
#
# `dfake` of step 5 is an arrow for each fake. **Against its direction, the fake looks more real**: that is all the
# forger ever learns about the data. It never sees a real point.


# %%
def look(count=300):
    """Fakes (count, 2), the critic's logits, and the arrows: the way of each fake that lowers the forger's loss."""
    fake, _ = G.forward(np.random.default_rng(5).standard_normal((count, NOISE), dtype=np.float32), train=False)
    l, cache = D.forward(fake)
    dfake, _ = D.backward(-sigmoid(-l), cache, need_grads=False)  # for each fake by itself: not divided by N
    return fake, l, -dfake


fake, l, arrows = look()
moved, _ = D.forward(fake + 0.01 * arrows)
assert (moved > l).mean() > 0.95

# %% [markdown]
# ## Play
#
# We keep a picture at some moments. `coverage` counts on how many of the eight Gaussians the fakes lie, and which share
# of them lies well (within three standard deviations of a centre).

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
# **The forger finds all eight**, or nearly: seven are enough for us, as the outcome of a game is never certain. And the
# critic ends about where it can no longer tell: D = 1/2 everywhere has the loss 2 log 2 = 1.386.

# %%
assert pictures[0][2] < 0.1  # at first: a blob about the middle, on none of the modes
assert pictures[-1][1] >= (6 if QUICK else 7) and pictures[-1][2] > (0.4 if QUICK else 0.6)
late = np.mean(d_losses[-300:])
print(f"critic's loss over the last 300 rounds: {late:.3f}; a critic that cannot tell: {2 * np.log(2):.3f}")
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
# Watch the critic drive the fakes. They spread, overshoot, are called back; a mode without fakes turns blue and draws
# them.
#
# ## Exercises
#
# 1. With the forger held fixed, the best critic answers D(x) = p_real / (p_real + p_fake). What does it answer at a
#    point where real points are three times as frequent as fakes?
# 2. How many times is D run forward in one round, and how many times backward?

# %% Exercise 1
# best = ...
# d = np.linspace(0.001, 0.999, 999)
# value = 3 * np.log(d) + 1 * np.log(1 - d)  # what D gets there from three real points and one fake
# assert np.isclose(d[value.argmax()], best)

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
# Next, [09_losses.py](09_losses.py): why the forger does not minimise log(1 - D), and what the loss curves tell.
