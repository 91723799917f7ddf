# %% [markdown]
# # 15. Why training circles
#
# **Question.** Why do the two players of a GAN often circle around their goal, and how can we stop them?
#
# **You will know** the smallest GAN with which one can see this, why its path is a circle, how to read the speed of a
# spiral from two numbers (eigenvalues), and how the penalty R1 turns the circle into a spiral that ends at the goal.
#
# **Builds on** [lesson 8](08_losses.py). **Takes** 40 minutes to read, 5 seconds to run, 4 with `--quick`.
#
# A network that learns to read digits goes downhill, and slower and slower, until it rests at the bottom. In a GAN
# there are two players, and each step of one changes the hill of the other. There need not be a bottom. Here we look at
# a GAN with one weight for each player, so that we can draw every step in a plane. Mescheder et al. (2018) call it the
# *[Dirac GAN](GLOSSARY.md#dirac-gan)*.

# %%
import matplotlib.pyplot as plt
import numpy as np
from _common import BLUE, GREEN, GREY, ORANGE, QUICK, save

from minigan import game, losses, optim, penalties
from minigan.layers import Dense, Sequential, Tanh, he_normal
from minigan.losses import sigmoid

# %% [markdown]
# ## The Dirac GAN
#
# All real data are the number 0. The forger has one weight t and always draws the number t. The critic has one weight
# w, and its logit for x is w x. Real data always get the logit 0, and fakes get w t. The critic's loss is
# softplus(0) + softplus(w t), and the minimax forger's loss is -softplus(w t). The slope of softplus is sigmoid, so
#
#     dw =  s t        dt = -s w        with s = sigmoid(w t)
#
# The goal is t = 0 (the fakes are like the data) and w = 0 (the critic sees no difference). There, both slopes are 0,
# and nobody moves. The question is whether the players get there.


# %%
def slopes(t, w, weight=0.0):
    """Returns (dt, dw) of the minimax game. `weight` is that of the penalty R1, which comes later."""
    s = sigmoid(w * t)
    return -s * w, s * t + weight * w


def play(t, w, lr, steps, weight=0.0, alternating=False):
    """Returns the path (steps + 1, 2) of (t, w) if both players use gradient descent."""
    path = [(t, w)]
    for _ in range(steps):
        dt, dw = slopes(t, w, weight)
        w -= lr * dw
        if alternating:
            dt, _ = slopes(t, w, weight)  # the forger sees the new critic
        t -= lr * dt
        path.append((t, w))
    return np.array(path)


# %% [markdown]
# ## Worked by hand: two steps
#
# We start at t = 1, w = 0, with the learning rate 0.5. Both players step at the same time.
#
#     step 1    s = sigmoid(0) = 0.5           dt = -0.5 * 0 = 0              dw = 0.5 * 1 = 0.5
#               t = 1 - 0.5 * 0 = 1            w = 0 - 0.5 * 0.5 = -0.25      t^2 + w^2 = 1.0625
#     step 2    s = sigmoid(-0.25) = 0.438     dt = 0.438 * 0.25 = 0.109      dw = 0.438 * 1 = 0.438
#               t = 1 - 0.5 * 0.109 = 0.945    w = -0.25 - 0.219 = -0.469     t^2 + w^2 = 1.113
#
# The forger moves towards 0, as it should. But the critic moves away from 0, and the distance to the goal has grown.
# minigan's own step for the game gives the same numbers:

# %%
by_hand = play(1.0, 0.0, 0.5, 2)
assert np.allclose(by_hand, [(1, 0), (1, -0.25), (0.945, -0.469)], atol=1e-3)
assert np.allclose((by_hand**2).sum(axis=1), [1, 1.0625, 1.113], atol=2e-3)


def play_minigan(t, w, lr, steps, weight=0.0, alternating=False):
    """Returns the same path as `play`, from minigan's networks, losses, optimizers and penalty."""
    rng = np.random.default_rng(0)
    G, D = (Sequential(Dense(1, 1, bias=False, rng=rng)).to("numpy", np.float64) for _ in "GD")
    G.params["0.w"][...], D.params["0.w"][...] = t, w
    opt_g, opt_d, real, z = optim.SGD(G, lr=lr), optim.SGD(D, lr=lr), np.zeros((1, 1)), np.ones((1, 1))
    penalty = penalties.named("r1", weight=weight, rng=rng) if weight else None
    path = [(t, w)]
    for _ in range(steps):
        if alternating:
            game.discriminator_step(G, D, opt_d, real, z, losses.minimax, penalty=penalty)
            game.generator_step(G, D, opt_g, z, losses.minimax)
        else:
            game.simultaneous_step(G, D, opt_d, opt_g, real, z, losses.minimax, penalty=penalty)
        path.append((G.params["0.w"].item(), D.params["0.w"].item()))
    return np.array(path)


for alternating in (False, True):
    for weight in (0.0, 0.6):
        start = (1.0, 0.0, 0.5, 20, weight, alternating)
        assert np.allclose(play(*start), play_minigan(*start))  # minigan plays the same game

# %% [markdown]
# ## Why it is a circle
#
# Look at the direction in which the players move: (-dt, -dw) = s (w, -t). The direction from the goal to the players
# is (t, w). The product of the two is s (w t - t w) = 0, so they are at a right angle. **The players always move at a
# right angle to the direction of the goal.** They get neither closer nor further away, as the end of a clock hand.
#
# This holds for tiny steps. A step of some size leaves the circle along a straight line. By the theorem of Pythagoras,
# the squared distance then grows from t^2 + w^2 to (t^2 + w^2) (1 + (lr s)^2). **With
# [simultaneous steps](GLOSSARY.md#alternating-steps), the distance to the goal grows in every step.** A smaller
# learning rate only makes it slower.

# %%
rng = np.random.default_rng(0)
for t, w in rng.normal(size=(100, 2)):
    dt, dw = slopes(t, w)
    assert abs(dt * t + dw * w) < 1e-12, (
        "The players of a Dirac GAN move at a right angle to the direction of the goal."
    )
path = play(1.0, 0.0, 0.2, 400)
squares, s = (path**2).sum(axis=1), sigmoid(path[:, 0] * path[:, 1])
assert np.allclose(squares[1:] / squares[:-1], 1 + (0.2 * s[:-1]) ** 2)
assert (np.diff(squares) > 0).all(), "With simultaneous steps, the distance to the goal grows in every step."

# %% [markdown]
# What if the forger steps after the critic and sees the new critic, as in [lesson 7](07_forger_and_critic.py)? **With
# alternating steps, the players stay near the circle: they neither reach the goal nor fly away.**

# %%
paths = {"simultaneous": path, "alternating": play(1.0, 0.0, 0.2, 400, alternating=True)}
far = {name: np.linalg.norm(p, axis=1) for name, p in paths.items()}
for name, distance in far.items():
    print(f"{name:<12} distance to the goal: {distance[0]:.2f} at the start, {distance[-1]:.2f} after 400 steps")
assert far["simultaneous"][-1] > 2 and 0.85 < far["alternating"].min() < far["alternating"].max() < 1.15, (
    "With alternating steps, the Dirac GAN stays near its circle for 400 steps."
)

# %% [markdown]
# ## Two numbers that tell everything: eigenvalues
#
# Near the goal, s is about 1/2. Then a step is a matrix: it multiplies (t, w) by
#
#     simultaneous         alternating
#     |  1    a |          | 1 - a^2   a |        with a = lr / 2
#     | -a    1 |          |   -a      1 |
#
# A matrix can stretch some vectors without turning them: M v = m v. The number m is an
# *[eigenvalue](GLOSSARY.md#eigenvalue)* of M. For a matrix that turns every vector, m is a complex number. Its size |m|
# says by which factor the vectors grow in each step, on average over a turn. So we need only one rule: **if all
# eigenvalues of a step have |m| < 1, the players reach the goal. If one has |m| > 1, they move away.** Here are the
# sizes:
#
#     simultaneous    m = 1 + i a and 1 - i a        |m| = sqrt(1 + a^2), more than 1
#     alternating     product of both m = determinant = (1 - a^2) * 1 + a * a = 1, so |m| = 1
#
# (The two eigenvalues have the same size, because one is the mirror image of the other, and their product is the
# determinant.)


# %%
def step_matrix(lr, weight=0.0, alternating=False):
    """Returns the matrix M (2, 2) of one step near the goal, (t, w) -> M (t, w)."""
    critic = np.array([[1, 0], [-lr / 2, 1 - lr * weight]])  # w = w - lr (t / 2 + weight w)
    forger = np.array([[1, lr / 2], [0, 1]])  # t = t + lr w / 2
    return forger @ critic if alternating else critic + forger - np.eye(2)


for lr in (0.1, 0.2, 0.5):
    sizes = {kind: abs(np.linalg.eigvals(step_matrix(lr, alternating=kind == "alternating"))) for kind in paths}
    assert np.allclose(sizes["simultaneous"], np.sqrt(1 + (lr / 2) ** 2)) and np.allclose(sizes["alternating"], 1)
    for weight in (0.0, 0.3, 3.0):  # play a thousand steps from a point very close to the goal
        for alternating in (False, True):
            largest = abs(np.linalg.eigvals(step_matrix(lr, weight, alternating))).max()
            end = np.linalg.norm(play(1e-9, 0.0, lr, 1000, weight, alternating)[-1]) / 1e-9
            if abs(largest - 1) > 1e-3:
                assert (end > 1) == (largest > 1), (
                    "If all eigenvalues of a step have a size below 1, the players reach the goal; else they do not."
                )

# %% [markdown]
# ## R1: a brake on the critic
#
# The forger overshoots because the critic is still steep when the forger arrives at 0. The penalty R1 makes a steep
# critic expensive. It adds to the critic's loss
#
#     weight / 2 * (slope of the logit at a real point)^2  =  weight / 2 * w^2
#
# So the critic's slope becomes dw = s t + weight w. The second term pulls w towards 0, as friction slows a pendulum.
# For tiny steps, let (t, w) change by J (t, w) in a unit of time. Near the goal, with c = weight,
#
#     J = |   0    1/2 |        eigenvalues j with j^2 + c j + 1/4 = 0:   j = (-c + sqrt(c^2 - 1)) / 2
#         | -1/2    -c |                                                 and j = (-c - sqrt(c^2 - 1)) / 2
#
# The real part of j says how fast the distance shrinks, and the imaginary part how fast the players turn. By hand, for
# three weights:
#
#     c = 0.6     sqrt(0.36 - 1) = 0.8 i         j = -0.3 + 0.4 i and -0.3 - 0.4 i     a spiral to the goal
#     c = 1       sqrt(0) = 0                    j = -0.5, twice                       the fastest
#     c = 1.25    sqrt(1.5625 - 1) = 0.75        j = -0.25 and -1                      no turns, but slower
#
# The slowest eigenvalue decides: -0.3, -0.5, -0.25. **With R1, the players reach the goal, and one weight is the best.
# With less, they turn for longer. With more, the critic is so flat that the forger hardly moves.**

# %%
for c, expected in ((0.6, [-0.3 - 0.4j, -0.3 + 0.4j]), (1.25, [-1, -0.25])):
    assert np.allclose(np.sort_complex(np.linalg.eigvals([[0, 0.5], [-0.5, -c]])), expected)
weights = np.array([0.0, 0.1, 0.3, 0.6, 1.0, 1.25, 2.0, 4.0, 8.0])
slowest = [np.linalg.eigvals([[0, 0.5], [-0.5, -c]]).real.max() for c in weights]
assert weights[np.argmin(slowest)] == 1
ends = np.array([np.linalg.norm(play(1.0, 0.0, 0.2, 150, c, True)[-1]) for c in weights])
for c, speed, end in zip(weights, slowest, ends, strict=True):
    print(f"weight {c:4.2f}: slowest eigenvalue {speed:6.3f}, distance {end:.1e} after 150 steps")
assert ends[0] > 0.85 and ends[1:].max() < 0.95 * ends[0] and (ends[2:7] < 0.1).all(), (
    "With R1, the Dirac GAN converges."
)
assert (np.diff(ends[:5]) < 0).all() and (np.diff(ends[4:]) > 0).all(), (
    "One weight of R1 is the best: with less the players turn for longer, with more the forger hardly moves."
)


# %% [markdown]
# ## The same with networks
#
# In a real GAN, the critic is a network. We play one more game with a single point as data, now the point (0, 0) in the
# plane. The forger has two weights, the coordinates of its only fake. The critic has 65 weights. The players take turns
# with the minimax loss.
#
# This game comes to rest also without R1, after many turns. (Do not rely on it: it depends on the network and on the
# data.) **With R1, the forger comes to rest in less than half of the rounds.**


# %%
def play_network(weight, seed, rounds=400, lr=0.1):
    """Returns the path (rounds + 1, 2) of the only fake, against a critic that is a network."""
    rng = np.random.default_rng(seed)
    G = Sequential(Dense(1, 2, bias=False, rng=rng))
    D = Sequential(Dense(2, 16, rng=rng, init=he_normal), Tanh(), Dense(16, 1, rng=rng, init=he_normal))
    G.params["0.w"][...] = [[1, 0]]
    opt_g, opt_d = optim.SGD(G, lr=lr), optim.SGD(D, lr=lr)
    penalty = penalties.named("r1", weight=weight, rng=rng) if weight else None
    real, z, path = np.zeros((1, 2), np.float32), np.ones((1, 1), np.float32), [(1.0, 0.0)]
    for _ in range(rounds):
        game.discriminator_step(G, D, opt_d, real, z, losses.minimax, penalty=penalty)
        game.generator_step(G, D, opt_g, z, losses.minimax)
        path.append(tuple(G.params["0.w"][0]))
    return np.array(path)


def rest(path):
    """Returns the round from which the distance to the goal stays below 0.05."""
    return int(np.flatnonzero(np.linalg.norm(path, axis=1) >= 0.05)[-1]) + 1


network_paths = {weight: [play_network(weight, seed) for seed in range(1 if QUICK else 3)] for weight in (0.0, 0.3)}
rests = {weight: [rest(path) for path in several] for weight, several in network_paths.items()}
print("rounds until the fake rests at the goal: without R1", *rests[0.0], "and with R1", *rests[0.3])
assert all(b < a / 2 for a, b in zip(rests[0.0], rests[0.3], strict=True)), (
    "With a network as critic, R1 brings the forger to rest in less than half of the rounds."
)

# %%
figure, axes = plt.subplots(2, 2, figsize=(9.4, 8.4))
t_grid, w_grid = np.meshgrid(np.linspace(-1.5, 1.5, 11), np.linspace(-1.5, 1.5, 11))
for axis, c in ((axes[0, 0], 0.0), (axes[0, 1], 0.6)):
    dt, dw = slopes(t_grid, w_grid, c)
    axis.quiver(t_grid, w_grid, -dt, -dw, color="#c4c4c4", angles="xy", width=0.004)
    axis.plot(0, 0, "o", color="black", markersize=7)
    axis.set(aspect="equal", xlim=(-1.7, 1.7), ylim=(-1.7, 1.7), xlabel="the forger's weight t")
axes[0, 0].set(title="no penalty: out, or around", ylabel="the critic's weight w")
axes[0, 0].plot(*paths["simultaneous"][:220].T, color=ORANGE, label="simultaneous")
axes[0, 0].plot(*paths["alternating"].T, color="black", label="alternating")
axes[0, 1].set_title("R1: in")
for c, colour in ((0.3, BLUE), (1.0, GREEN), (4.0, GREY)):
    axes[0, 1].plot(*play(1.0, 0.0, 0.2, 150, c, True).T, color=colour, label=f"weight {c:g}")
axes[1, 0].semilogy(far["simultaneous"][:151], color=ORANGE, label="no penalty, simultaneous")
axes[1, 0].semilogy(far["alternating"][:151], color="black", label="no penalty, alternating")
for c, colour in ((0.3, BLUE), (1.0, GREEN), (4.0, GREY)):
    distance = np.linalg.norm(play(1.0, 0.0, 0.2, 150, c, True), axis=1)
    axes[1, 0].semilogy(distance, color=colour, label=f"R1, weight {c:g}")
axes[1, 0].set(title="distance to the goal", xlabel="step", ylim=(1e-4, 10))
axes[1, 1].set(title="a network as critic: distance of the fake", xlabel="round", ylim=(1e-4, 10))
for several, colour, text in zip(network_paths.values(), (ORANGE, BLUE), ("no penalty", "R1, weight 0.3"), strict=True):
    for path in several:
        distance = np.linalg.norm(path, axis=1)
        axes[1, 1].semilogy(np.maximum(distance, 1e-8), color=colour, label=text if path is several[0] else None)
for axis in axes.flat:
    axis.legend(loc="lower left" if axis is axes[1, 0] else "upper right", fontsize=9)
save(figure, "15_dirac_gan.png")

# %% [markdown]
# `minigan experiment circle` plays these games with more losses and orders, and also on the ring of eight Gaussians.
#
# ## Exercises
#
# Replace the dots with your answer, uncomment the code, and run it.

# %% [markdown]
# **Exercise 1.** With weight c = 1, the step near the goal has the eigenvalue 1 - lr / 2, twice, for simultaneous
# steps. Below which learning rate do the players reach the goal?
#
# <details><summary>Hint</summary>
#
# The size |1 - lr / 2| must be less than 1. So 1 - lr / 2 must be above -1.
#
# <details><summary>Solution</summary>
#
# ```python
# limit = 4
# ```
#
# </details></details>

# %% Exercise 1
# limit = ...
# for lr, arrives in ((limit - 0.2, True), (limit + 0.2, False)):
#     end = np.linalg.norm(play(1e-6, 0.0, lr, 300, 1.0)[-1])
#     assert (end < 1e-6) == arrives

# %% [markdown]
# **Exercise 2.** [WGAN-GP](GLOSSARY.md#wgan-gp) ([lesson 24](24_double_backward.py)) has another penalty. With the
# weight 1, it is (|w| - 1)^2, and for w above 0 the slopes are dt = -w and dw = t + 2 (w - 1). The game rests where w
# has fallen to 0 and dw is 0. What is t there? (The goal is 0.)
#
# <details><summary>Hint</summary>
#
# Put w = 0 into dw, and set dw to 0.
#
# <details><summary>Solution</summary>
#
# ```python
# t_rest = 2
# ```
#
# </details></details>

# %% Exercise 2
# t_rest = ...
# t, w = 0.0, 1.0
# for _ in range(500):
#     dt, dw = -w, t + 2 * (w - 1)
#     t, w = t - 0.1 * dt, w - 0.1 * dw
# assert w >= 0 and np.isclose(t, t_rest, atol=1e-3)  # WGAN-GP rests, but not at the goal

# %% [markdown]
# The next lesson, [16_borrowed_critic.py](16_borrowed_critic.py), asks whether a critic has to learn at all.
