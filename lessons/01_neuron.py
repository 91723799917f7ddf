# %% [markdown]
# # 1. A neuron, a layer, a network
#
# **Question.** What does a neuron compute, and why is a whole layer of neurons one matrix product?
#
# **You will know** what a weight and a bias do, how a neuron divides the plane into two parts, how one matrix product
# computes a layer for many points, and why a network needs a nonlinear function between its layers.
#
# **Builds on** [lesson 0](00_numpy.py). **Takes** 35 minutes to read, 2 seconds to run.
#
# Every network in this course is built from neurons like the ones below.

# %%
import time

import matplotlib.pyplot as plt
import numpy as np
from _common import BLUE, GREY, NO_YES, ORANGE, arrow, blank, box, circle, save

from minigan.layers import Dense, Sequential, Sigmoid

rng = np.random.default_rng(0)  # a fixed seed gives the same random numbers in every run

# %% [markdown]
# ## A neuron
#
# A neuron multiplies each input by a [weight](GLOSSARY.md#weight) and adds the products. Then it adds one more number,
# which is called the [bias](GLOSSARY.md#bias):
#
#     a = x[0] w[0] + x[1] w[1] + b
#
# The [sigmoid](GLOSSARY.md#sigmoid) function maps this sum to a number between 0 and 1. We read 0 as "no" and 1 as
# "yes":
#
#     y = sigmoid(a) = 1 / (1 + exp(-a))


# %%
def sigmoid(a):
    """Maps any number to a number between 0 and 1."""
    return 1 / (1 + np.exp(-a))


def neuron(x, w, b):
    """Computes the output of one neuron; x and w are lists of equal length, b is a number."""
    a = b
    for x_i, w_i in zip(x, w, strict=True):
        a += x_i * w_i
    return sigmoid(a)


# %% [markdown]
# ## Worked by hand: one neuron
#
# Let the inputs be x = (2, -1), the weights w = (0.5, 1.5) and the bias b = 1. Then
#
#     a = 2 * 0.5  +  -1 * 1.5  +  1  =  1 - 1.5 + 1  =  0.5
#     y = 1 / (1 + exp(-0.5))  =  1 / (1 + 0.607)  =  0.622
#
# The neuron says "rather yes than no". The figure shows the same numbers on their way through the neuron.

# %%
x_hand, w_hand, b_hand = [2, -1], [0.5, 1.5], 1
products = [x_i * w_i for x_i, w_i in zip(x_hand, w_hand, strict=True)]
a_hand, y_hand = sum(products) + b_hand, neuron(x_hand, w_hand, b_hand)
assert products == [1, -1.5] and a_hand == 0.5 and round(np.exp(-0.5), 3) == 0.607 and round(y_hand, 3) == 0.622

figure, axis = plt.subplots(figsize=(8, 2.6))
blank(axis, 12, 3.9)
for k, (x_i, w_i, product) in enumerate(zip(x_hand, w_hand, products, strict=True)):
    y = 3.1 - 1.3 * k
    circle(axis, 1.4, y, f"{x_i}")
    axis.text(0.7, y, f"x[{k}]", ha="right", va="center")
    arrow(axis, (1.85, y), (3.6, y), f"w[{k}] = {w_i}", GREY, (0, 0.27))
    circle(axis, 4.1, y, f"{product:g}", GREY)
    arrow(axis, (4.55, y), (6.1, 2.45 + 0.12 * (1 - 2 * k)), colour=GREY)
circle(axis, 4.1, 0.5, f"{b_hand}", GREY)
axis.text(3.4, 0.5, "bias b", ha="right", va="center")
arrow(axis, (4.55, 0.5), (6.2, 2.15), colour=GREY)
circle(axis, 6.55, 2.45, f"{a_hand}", BLUE)
axis.text(6.55, 3.15, "sum a", ha="center", color=BLUE)
arrow(axis, (7, 2.45), (7.75, 2.45))
box(axis, 8.6, 2.45, "sigmoid", BLUE)
arrow(axis, (9.45, 2.45), (10.3, 2.45))
circle(axis, 10.75, 2.45, f"{y_hand:.2f}", ORANGE)
axis.text(10.75, 3.15, "output y", ha="center", color=ORANGE)
save(figure, "01_diagram.png")

# %% [markdown]
# ## A line in the plane
#
# The next neuron answers the question "is x[1] positive?". The weight of x[0] is 0, so only x[1] matters.

# %%
above = dict(w=[0, 20], b=0)
print("neuron at (0.3, 0.5):", neuron([0.3, 0.5], **above), " at (0.3, -0.5):", neuron([0.3, -0.5], **above))
assert neuron([0.3, 0.5], **above) > 0.99 and neuron([0.3, -0.5], **above) < 0.01

# %% [markdown]
# Where a = 0, the output is y = 1/2, which is neither yes nor no. The equation `x[0] w[0] + x[1] w[1] + b = 0`
# describes a straight line. **So a neuron with two inputs divides the plane into two parts along a line.** The weights
# set the direction of the line: the line is at a right angle to the vector (w[0], w[1]). The bias moves the line. If
# all weights and the bias are ten times larger, the line stays, and the output changes more sharply there.

# %%
on_line = np.array([[-1.0, 1.5], [0.0, 1.0], [2.0, 0.0], [6.0, -2.0]])  # (4, 2): four points with x[0] + 2 x[1] = 2
w, b = np.array([1.0, 2.0]), -2.0  # (2,) and a number
for point in on_line:
    assert neuron(point, w, b) == 0.5, "Where a = 0, a neuron answers 1/2. With two inputs, these points are a line."
    assert neuron(point + 0.1 * w, w, b) > 0.5 > neuron(point - 0.1 * w, w, b)  # yes on one side, no on the other
    assert neuron(point + 0.1 * w, 10 * w, 10 * b) > 0.99 > 0.63 > neuron(point + 0.1 * w, w, b)  # sharper
assert np.allclose((on_line - on_line[0]) @ w, 0)  # the line is at a right angle to w
assert neuron([7.0, 0.0], **above) == 0.5 and neuron([7.0, 1.0], w=[0, 20], b=-20) == 0.5  # the bias moves the line

# %% [markdown]
# ## A layer
#
# A layer is a group of neurons that have the same inputs. We can also give it several points at once. A group of N
# points is called a *[batch](GLOSSARY.md#batch)*. Every neuron o computes one number for every point n:
#
#     a[n, o] = sum over i of x[n, i] w[i, o]  +  b[o]
#
# In code, these are three loops. Column o of `w` contains the weights of neuron o.


# %%
def layer_by_loops(x, w, b):
    """Computes a layer with three loops."""
    N, n_in = x.shape  # x (N, n_in): one point in each row
    n_out = w.shape[1]  # w (n_in, n_out): one neuron in each column; b (n_out,)
    a = np.zeros((N, n_out))
    for n in range(N):
        for o in range(n_out):
            a[n, o] = b[o]
            for i in range(n_in):
                a[n, o] += x[n, i] * w[i, o]
    return a  # (N, n_out)


# Three neurons for the three sides of a triangle. Each says yes on the side of its line where the triangle is.
angles = np.radians([270, 30, 150])
w1 = -20 * np.array([np.cos(angles), np.sin(angles)])  # (2, 3)
b1 = 20 * 0.5 * np.ones(3)  # (3,): the distance from each side to the middle is 0.5
x = rng.uniform(-1.5, 1.5, (500, 2))  # (N, 2)
a = layer_by_loops(x, w1, b1)  # (N, 3)

# %% [markdown]
# The sum over i is the definition of the matrix product. So one matrix product computes the whole layer for the whole
# batch. **A whole layer is one matrix product, which is much faster than loops in Python.**

# %%
assert np.allclose(a, x @ w1 + b1, atol=1e-12), "A layer of neurons is one matrix product, for all points of a batch."
seconds = {}
for name, compute in (("loops", lambda: layer_by_loops(x, w1, b1)), ("product", lambda: x @ w1 + b1)):
    times = []
    for _ in range(5):  # the fastest of five runs, because other programs can only make a run slower
        start = time.perf_counter()
        compute()
        times.append(time.perf_counter() - start)
    seconds[name] = min(times)
print(f"500 points: loops {1e6 * seconds['loops']:.0f} microseconds, product {1e6 * seconds['product']:.0f}")
assert seconds["loops"] > 10 * seconds["product"]

# %% [markdown]
# minigan's `Dense` layer computes this product. It starts with random weights, and here we replace them by ours.
# `forward` returns the result and a *[cache](GLOSSARY.md#cache)*. The cache contains what the backward pass needs
# ([lesson 3](03_backpropagation.py)). The weights are `float32`, so we convert the points to `float32` too.

# %%
dense = Dense(2, 3, rng=rng)
dense.params["w"][...], dense.params["b"][...] = w1, b1
y, cache = dense.forward(x.astype(np.float32))
assert y.shape == (500, 3) and np.allclose(y, a, atol=1e-4)

# %% [markdown]
# ## A network
#
# The inputs of the second layer are the outputs of the first layer. Here the second layer is one neuron that computes
# "and": it says yes only if all three neurons say yes. So the three lines become a triangle. The neuron computes a sum
# that is positive only if y0 + y1 + y2 is above 2.5:
#
#     a = 20 (y0 + y1 + y2) - 50

# %%
w2, b2 = np.full((3, 1), 20.0), np.array([-50.0])  # (3, 1), (1,)
network = Sequential(dense, Sigmoid(), Dense(3, 1, rng=rng), Sigmoid())
network.layers[2].params["w"][...], network.layers[2].params["b"][...] = w2, b2
answer, _ = network.forward(x.astype(np.float32))  # (500, 1): all points, all layers
assert np.allclose(answer, sigmoid(sigmoid(x @ w1 + b1) @ w2 + b2), atol=1e-4)

distance = 0.5 + (x @ w1 / 20).min(axis=1)  # (500,): from each point to the nearest side, negative outside
assert (answer[distance > 0.25] > 0.9).all() and (answer[distance < -0.15] < 0.1).all(), (
    'Three lines and an "and" make a triangle: the network says yes inside, and no outside.'
)

# %% [markdown]
# **A network needs a [nonlinear function](GLOSSARY.md#nonlinear-function), such as the sigmoid, between its layers.**
# Without it, two layers compute no more than one layer, because the product of two matrices is again a matrix.

# %%
one_layer_w, one_layer_b = w1 @ w2, b1 @ w2 + b2  # (2, 1), (1,)
assert np.allclose((x @ w1 + b1) @ w2 + b2, x @ one_layer_w + one_layer_b), (
    "Without a nonlinear function between them, two layers compute no more than one layer."
)

# %% [markdown]
# ## The picture
#
# Each of the first three panels shows one neuron. The last panel shows the network of all four neurons.

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
# Replace the dots with your answer, uncomment the code, and run it. Each exercise has a hint, and the solution is
# inside the hint.

# %% [markdown]
# **Exercise 1.** One neuron can also compute the "or" of three answers. Which bias makes the last neuron say yes if at
# least one of the three neurons says yes?
#
# <details><summary>Hint</summary>
#
# The sum is 0 if nobody says yes, and at least 20 if somebody does. The line between "no" and "yes" belongs in the
# middle.
#
# <details><summary>Solution</summary>
#
# ```python
# bias = -10
# ```
#
# </details></details>

# %% Exercise 1
# bias = ...
# yes = sigmoid(np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 1]]) @ w2 + bias)[:, 0]
# assert yes[0] < 0.01 and (yes[1:] > 0.99).all()

# %% [markdown]
# **Exercise 2.** A square has four sides. Find the weights (2, 4) and biases (4,) of four neurons whose "and" is the
# square of all points with both coordinates between -1 and 1.
#
# <details><summary>Hint</summary>
#
# The square is where x[0] > -1, x[0] < 1, x[1] > -1 and x[1] < 1. Each of the four is one neuron. Start with x[0] > -1,
# which means x[0] + 1 > 0, and make the weights large, as in the triangle.
#
# <details><summary>Solution</summary>
#
# ```python
# w_square, b_square = 20 * np.array([[1, -1, 0, 0], [0, 0, 1, -1]]), np.full(4, 20)
# ```
#
# </details></details>

# %% Exercise 2
# w_square, b_square = ..., ...
# y = sigmoid(sigmoid(x @ w_square + b_square) @ np.full((4, 1), 20.0) - 70)[:, 0]
# edge = 1 - abs(x).max(axis=1)  # distance to the nearest side
# assert (y[edge > 0.25] > 0.9).all() and (y[edge < -0.25] < 0.1).all()

# %% [markdown]
# In this lesson we chose the weights ourselves. In the next lesson, [02_nudging.py](02_nudging.py), the network learns
# its weights.
