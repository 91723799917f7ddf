# %% [markdown]
# # 1. A neuron, a layer, a network
#
# **Question.** What does a neuron compute, and why is a whole layer of them one product of matrices?
#
# **Needs.** Python and school maths. **Takes** 2 seconds.
#
# Every network in this course, up to the one that writes digits, is made of the few lines below.

# %%
import matplotlib.pyplot as plt
import numpy as np
from _common import NO_YES, save

from minigan.layers import Dense, Sequential, Sigmoid

rng = np.random.default_rng(0)  # the one source of chance here: the same numbers in every run

# %% [markdown]
# ## A neuron
#
# A neuron multiplies each of its inputs by a weight, adds the products and a number of its own, the bias:
#
#     a = x[0] w[0] + x[1] w[1] + b
#
# and squeezes the sum into (0, 1), so that it reads as a decision, no to yes:
#
#     y = sigmoid(a) = 1 / (1 + exp(-a))


# %%
def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def neuron(x, w, b):  # x and w: lists of equal length, b a number
    a = b
    for x_i, w_i in zip(x, w, strict=True):
        a += x_i * w_i
    return sigmoid(a)


# This one answers "is the point above the x-axis?": it looks at the second coordinate only.
above = dict(w=[0, 20], b=0)
print("neuron at (0.3, 0.5):", neuron([0.3, 0.5], **above), " at (0.3, -0.5):", neuron([0.3, -0.5], **above))
assert neuron([0.3, 0.5], **above) > 0.99 and neuron([0.3, -0.5], **above) < 0.01

# %% [markdown]
# Where a = 0 the neuron is undecided, y = 1/2, and `x[0] w[0] + x[1] w[1] + b = 0` is the equation of a straight line.
# **So a neuron with two inputs cuts the plane in two along a line**: the weights turn it, the bias moves it, and their
# size says how sharp the edge is.

# %%
assert neuron([7.0, 0.0], **above) == 0.5  # on the line, undecided

# %% [markdown]
# ## A layer
#
# Several neurons that look at the same inputs are a layer. With several points as well (a *batch* of N points), every
# neuron o answers for every point n:
#
#     a[n, o] = sum over i of x[n, i] w[i, o]  +  b[o]
#
# Written out, these are three loops. Column o of `w` holds the weights of neuron o.


# %%
def layer_by_loops(x, w, b):
    N, n_in = x.shape  # x (N, n_in): one point a row
    n_out = w.shape[1]  # w (n_in, n_out): one neuron a column; b (n_out,)
    a = np.zeros((N, n_out))
    for n in range(N):
        for o in range(n_out):
            a[n, o] = b[o]
            for i in range(n_in):
                a[n, o] += x[n, i] * w[i, o]
    return a  # (N, n_out)


# Three neurons for the three sides of a triangle: each says yes on the side where the triangle is.
angles = np.radians([270, 30, 150])
w1 = -20 * np.array([np.cos(angles), np.sin(angles)])  # (2, 3)
b1 = 20 * 0.5 * np.ones(3)  # (3,) every side lies 0.5 from the middle
x = rng.uniform(-1.5, 1.5, (500, 2))  # (N, 2)
a = layer_by_loops(x, w1, b1)  # (N, 3)

# %% [markdown]
# The sum over i is exactly the rule by which matrices are multiplied. So a whole layer, for the whole batch, is one
# product, which NumPy hands to a library that runs it hundreds of times faster than the loops:

# %%
assert np.allclose(a, x @ w1 + b1, atol=1e-12)

# %% [markdown]
# minigan's `Dense` is this product. It creates random weights; here we put ours in. `forward` returns the result and a
# *cache*, what it wants to remember for the way back (lesson 3). Weights are `float32`, half the memory, so that is
# what the points must be.

# %%
dense = Dense(2, 3, rng=rng)
dense.params["w"][...], dense.params["b"][...] = w1, b1
y, cache = dense.forward(x.astype(np.float32))
assert y.shape == (500, 3) and np.allclose(y, a, atol=1e-4)

# %% [markdown]
# ## A network
#
# A second layer looks at the answers of the first. One neuron that says yes only if all three said yes, an "and", makes
# a triangle out of three lines: `20 (y0 + y1 + y2) - 50` is positive only if the sum is above 2.5.

# %%
w2, b2 = np.full((3, 1), 20.0), np.array([-50.0])  # (3, 1), (1,)
network = Sequential(dense, Sigmoid(), Dense(3, 1, rng=rng), Sigmoid())
network.layers[2].params["w"][...], network.layers[2].params["b"][...] = w2, b2
answer, _ = network.forward(x.astype(np.float32))  # (500, 1): all points, all layers
assert np.allclose(answer, sigmoid(sigmoid(x @ w1 + b1) @ w2 + b2), atol=1e-4)

distance = 0.5 + (x @ w1 / 20).min(axis=1)  # of each point from the nearest side; negative outside
assert (answer[distance > 0.25] > 0.9).all() and (answer[distance < -0.15] < 0.1).all()

# %% [markdown]
# **The bend between the layers is what makes it a network.** Without the sigmoid two layers are no more than one: the
# product of two matrices is a matrix, and a straight line of straight lines is straight.

# %%
one_layer_w, one_layer_b = w1 @ w2, b1 @ w2 + b2  # (2, 1), (1,)
assert np.allclose((x @ w1 + b1) @ w2 + b2, x @ one_layer_w + one_layer_b)

# %% [markdown]
# ## The picture
#
# Each of the first three panels is one neuron, the last one is the network of all four.

# %%
side = np.linspace(-1.5, 1.5, 121)
plane = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)  # (121 * 121, 2)
first = sigmoid(plane @ w1 + b1)  # (121 * 121, 3)
panels = [first[:, 0], first[:, 1], first[:, 2], sigmoid(first @ w2 + b2)[:, 0]]
figure, axes = plt.subplots(1, 4, figsize=(10, 3), sharey=True)
for k, (axis, panel) in enumerate(zip(axes, panels, strict=True)):
    image = axis.pcolormesh(side, side, panel.reshape(121, 121), cmap=NO_YES, vmin=0, vmax=1, rasterized=True)
    axis.set(aspect="equal", xlabel="x[0]", title=f"neuron {k}: one line" if k < 3 else "network: a triangle")
axes[0].set_ylabel("x[1]")
inside = answer[:, 0] > 0.5
axes[3].plot(*x[inside].T, ".", color="white", markersize=4)
axes[3].plot(*x[~inside].T, ".", color="black", markersize=2)
figure.colorbar(image, ax=axes, label="answer: 0 no, 1 yes", shrink=0.85)
save(figure, "01_neuron.png")

# %% [markdown]
# ## Exercises
#
# 1. One neuron can say "or" of three answers as well. Which bias makes the last neuron say yes if at least one of the
#    three said yes?
# 2. A square has four sides. Give the weights (2, 4) and biases (4,) of four neurons whose "and" is the square of all
#    points with both coordinates between -1 and 1.
#
# Replace the dots, uncomment, run.

# %% Exercise 1
# bias = ...
# yes = sigmoid(np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 1]]) @ w2 + bias)[:, 0]
# assert yes[0] < 0.01 and (yes[1:] > 0.99).all()

# %% Exercise 2
# w_square, b_square = ..., ...
# y = sigmoid(sigmoid(x @ w_square + b_square) @ np.full((4, 1), 20.0) - 70)[:, 0]
# edge = 1 - abs(x).max(axis=1)  # distance to the nearest side
# assert (y[edge > 0.25] > 0.9).all() and (y[edge < -0.25] < 0.1).all()

# %% [markdown]
# Here the weights were put in by hand. Next, [02_nudging.py](02_nudging.py): the network finds them by itself.
