# %% [markdown]
# # 0. NumPy and the notation
#
# **Question.** How can one line of code compute thousands of numbers, and how do we write down what it computes?
#
# **You will know** how to read the shape of an array, how to select, combine and add up its numbers, what a matrix
# product is, and what the signs and names in the formulas of this course mean.
#
# **Builds on** Python and school maths. **Takes** 35 minutes to read, 2 seconds to run.
#
# This lesson is also a place to come back to. If a line in a later lesson is hard to read, look for it here.

# %%
import time

import matplotlib.pyplot as plt
import numpy as np
from _common import BLUE, GREY, ORANGE, save

from minigan import datasets

# %% [markdown]
# ## Arrays and shapes
#
# An *[array](GLOSSARY.md#array)* is a block of numbers with a *[shape](GLOSSARY.md#shape)*. The shape says how many
# numbers there are in each direction. A comment such as `# (2, 3)` gives the shape: two rows and three columns. Each
# direction is called an *[axis](GLOSSARY.md#axis)*. Axis 0 goes down the rows, and axis 1 goes along a row.

# %%
x = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])  # (2, 3)
assert x.shape == (2, 3) and x.ndim == 2 and x.size == 6 and len(x) == 2
assert np.zeros((2, 3)).shape == np.ones((2, 3)).shape == np.full((2, 3), 7.0).shape == (2, 3)

# %% [markdown]
# ## Selecting
#
# We count from 0, as everywhere in Python, so `x[0]` is the first row. `x[n, i]` is the number in row n and column i. A
# colon selects everything in its direction, and `start:stop:step` selects a part. The stop itself is not included.

# %%
assert x[1, 2] == 6  # row 1, column 2
assert x[0].tolist() == [1, 2, 3]  # row 0
assert x[:, 1].tolist() == [2, 5]  # column 1
assert x[:, 1:].tolist() == [[2, 3], [5, 6]]  # from column 1 to the end
assert x[:, ::2].tolist() == [[1, 3], [4, 6]]  # every second column
assert x[-1, -1] == 6  # negative numbers count from the end

# %% [markdown]
# We can also select with a condition, or with lists of row and column numbers. The condition gives an array of True and
# False. **The mean of a condition is the share of the numbers for which it is true**, because True counts as 1 and
# False as 0.

# %%
assert x[x > 3].tolist() == [4, 5, 6]
assert (x > 3).mean() == 3 / 6, "The mean of a condition is the share of the numbers for which it is true."
assert x[[0, 1], [2, 0]].tolist() == [3, 4]  # x[0, 2] and x[1, 0]

# %% [markdown]
# ## Calculating with all numbers at once
#
# `+ - * /` and functions such as `np.exp` work on each number separately. If the shapes differ, NumPy repeats the
# smaller array. This is called *[broadcasting](GLOSSARY.md#broadcasting)*. The shapes are compared from the right, and
# an axis that is missing or has length 1 is repeated. So a row `(3,)` is added to every row of `(2, 3)`. To add one
# number to each *row*, we need the shape `(2, 1)`. Writing `[:, None]` adds an axis of length 1.

# %%
row, column = np.array([10.0, 20.0, 30.0]), np.array([100.0, 200.0])  # (3,), (2,)
assert (x * x).tolist() == [[1, 4, 9], [16, 25, 36]]
assert (x + row).tolist() == [[11, 22, 33], [14, 25, 36]]
assert column[:, None].shape == (2, 1)
assert (x + column[:, None]).tolist() == [[101, 102, 103], [204, 205, 206]]

# %% [markdown]
# Broadcasting is convenient, and it hides mistakes. **A column minus a flat array gives a table of all differences, not
# the differences of the pairs, and there is no error.** When a result is strange, print the shapes first.

# %%
answers, targets = np.zeros((5, 1)), np.ones(5)  # (5, 1), (5,)
assert (answers - targets).shape == (5, 5), "A column (5, 1) minus a flat array (5,) gives a table (5, 5)."

# %% [markdown]
# ## Adding up
#
# `x.sum(axis=0)` adds along axis 0, so this axis disappears, and what is left is one number for each column. With
# `keepdims=True`, the axis stays with length 1, so the result can be combined with x again. In formulas we write the
# loop of the sum in words:
#
#     s[i] = sum over n of x[n, i]                        x.sum(axis=0)
#     m[n] = mean over i of x[n, i]                       x.mean(axis=1)
#
# The *[standard deviation](GLOSSARY.md#standard-deviation)* says how far the numbers are from their mean. It is the
# square root of the *[variance](GLOSSARY.md#variance)*, which is the mean of the squared distances from the mean:
#
#     variance = mean of (x - mean)^2                     standard deviation = sqrt(variance)

# %%
assert x.sum() == 21 and x.sum(axis=0).tolist() == [5, 7, 9] and x.sum(axis=1).tolist() == [6, 15]
assert x.mean(axis=1, keepdims=True).shape == (2, 1)
centred = x - x.mean(axis=1, keepdims=True)  # (2, 3) - (2, 1): each row without its mean
assert centred.tolist() == [[-1, 0, 1], [-1, 0, 1]]
assert np.isclose(x.var(), ((x - x.mean()) ** 2).mean()) and np.isclose(x.std(), np.sqrt(x.var()))

# %% [markdown]
# ## Worked by hand: a matrix product
#
# The [matrix product](GLOSSARY.md#matrix-product) `y = x @ w` is the most important operation of this course. Its
# formula is
#
#     y[n, o] = sum over i of x[n, i] w[i, o]
#
# To compute `y[n, o]`, go along row n of x and down column o of w at the same time. Multiply each pair, and add the
# products:
#
#     x = 1 2 3      w = 1 0      y[0, 0] = 1*1 + 2*0 + 3*2 = 7        y[0, 1] = 1*0 + 2*1 + 3*1 = 5
#         4 5 6          0 1      y[1, 0] = 4*1 + 5*0 + 6*2 = 16       y[1, 1] = 4*0 + 5*1 + 6*1 = 11
#                        2 1
#
# x is (2, 3) and w is (3, 2). The two inner numbers must be equal, and they disappear: (2, 3) @ (3, 2) is (2, 2).

# %%
w = np.array([[1.0, 0.0], [0.0, 1.0], [2.0, 1.0]])  # (3, 2)
y = x @ w  # (2, 2)
assert y.tolist() == [[7, 5], [16, 11]]
by_loops = np.zeros((2, 2))
for n in range(2):
    for o in range(2):
        for i in range(3):
            by_loops[n, o] += x[n, i] * w[i, o]
assert (by_loops == y).all()

# %% [markdown]
# `w.T` is the *[transpose](GLOSSARY.md#transpose)*: rows become columns. [Backward passes](GLOSSARY.md#backward-pass)
# ([lesson 3](03_backpropagation.py)) use it. The *length* of a vector is the square root of the sum of its squares, and
# `a @ b` of two vectors is a number, their *[inner product](GLOSSARY.md#inner-product)*, also written `<a, b>`. Divided
# by both lengths, it is the *[cosine](GLOSSARY.md#cosine)* of the angle between them: 1 for the same direction, 0 for a
# right angle, -1 for opposite directions.

# %%
assert w.T.shape == (2, 3) and w.T[1, 2] == w[2, 1]
assert np.allclose((x @ w).T, w.T @ x.T)
a, b = np.array([3.0, 4.0]), np.array([4.0, -3.0])  # (2,), (2,)
assert np.linalg.norm(a) == 5 and a @ b == 0  # length 5, and a right angle

# %% [markdown]
# **A matrix product is much faster than the same loops in Python.** We measure it with a product of two 100 x 100
# matrices.

# %%
large = np.random.default_rng(0).normal(size=(100, 100))  # (100, 100)
start = time.perf_counter()
slow = [[sum(large[n, i] * large[i, o] for i in range(100)) for o in range(20)] for n in range(20)]
loop_seconds = (time.perf_counter() - start) * 25  # 400 of the 10,000 numbers, times 25
times = []
for _ in range(5):  # the fastest of five, because other programs can only make a run slower
    start = time.perf_counter()
    fast = large @ large
    times.append(time.perf_counter() - start)
print(f"100 x 100 matrices: loops {1000 * loop_seconds:.0f} ms, `@` {1000 * min(times):.3f} ms")
assert np.allclose(fast[:20, :20], slow)
assert loop_seconds > 50 * min(times), "A matrix product is more than 50 times faster than the same loops in Python."

# %% [markdown]
# ## Reshaping
#
# `reshape` gives the same numbers another shape. It reads them row by row. A length of -1 means "whatever fits".

# %%
assert x.reshape(3, 2).tolist() == [[1, 2], [3, 4], [5, 6]] and x.reshape(-1).shape == (6,)
assert np.stack([row, row]).shape == (2, 3) and np.concatenate([row, row]).shape == (6,)

# %% [markdown]
# ## Images
#
# An image is an array too. minigan stores a group of images with the shape (N, H, W, C): N images, H rows of pixels, W
# columns, and C *[channels](GLOSSARY.md#channel)*. A grey image has one channel, and a colour image has three. The
# images of handwritten digits have 28 x 28 pixels. A byte between 0 (black) and 255 (white) says how bright a pixel is.

# %%
images = datasets.mnist("test").images  # (10000, 28, 28, 1)
digit = images[18, :, :, 0]  # (28, 28): image 18
assert images.shape == (10_000, 28, 28, 1) and digit.min() == 0 and digit.max() == 255
views = {
    "digit (28, 28)": digit,
    "digit[4:13, 10:19]": digit[4:13, 10:19],
    "digit[::2, ::2]": digit[::2, ::2],
    "digit.T": digit.T,
    "digit > 128": digit > 128,
}
assert [view.shape for view in views.values()] == [(28, 28), (9, 9), (14, 14), (28, 28), (28, 28)]

# %% [markdown]
# ## Random numbers
#
# A *[random generator](GLOSSARY.md#random-generator)* with a fixed [seed](GLOSSARY.md#seed) gives the same numbers in
# every run. `rng.normal` draws from the *[normal distribution](GLOSSARY.md#normal-distribution)*: most numbers are near
# 0, and their standard deviation is 1. `rng.uniform(a, b)` draws numbers between a and b, each equally often.

# %%
rng = np.random.default_rng(0)
noise = rng.normal(size=100_000)  # (100000,)
assert (np.random.default_rng(0).normal(size=100_000) == noise).all()  # the same seed, the same numbers
assert abs(noise.mean()) < 0.02 and abs(noise.std() - 1) < 0.02
assert 0.67 < (abs(noise) < 1).mean() < 0.69  # about 68% are between -1 and 1

# %% [markdown]
# ## Rounding
#
# A computer stores about 16 digits of a number (`float64`) or about 7 (`float32`, which needs half the memory). So
# results are rounded, and we compare them with `np.allclose` or `np.isclose`, not with `==`.

# %%
assert 0.1 + 0.2 != 0.3 and np.isclose(0.1 + 0.2, 0.3)
assert np.float32(1) + np.float32(1e-8) == 1 and np.float64(1) + 1e-8 > 1
assert np.zeros(10, np.float32).nbytes == 40 and np.zeros(10, np.float64).nbytes == 80

# %% [markdown]
# ## Slopes
#
# The *[slope](GLOSSARY.md#slope)* (or derivative) of a function f at x says how fast f rises there. If x rises by a
# tiny amount, f rises slope times as much. The function `exp` is its own slope, and `log` undoes `exp`: log(exp(x)) =
# x. `log` always means the natural logarithm, which is also written ln.
#
# We write a slope as `d` plus a name. `dw` means: the slope of the [loss](GLOSSARY.md#loss) with respect to w. The loss
# is the one number that training makes smaller. If w is an array, `dw` has the same shape, with one slope for each
# number. All these slopes together are called the *[gradient](GLOSSARY.md#gradient)*.

# %%
h = 1e-5
rise = (np.exp(1 + h) - np.exp(1 - h)) / (2 * h)  # how much exp rises near 1, divided by the distance
assert np.isclose(rise, np.exp(1)) and np.isclose(np.log(np.exp(1.7)), 1.7)

# %% [markdown]
# ## The picture
#
# The upper row shows the views of the digit. Below are the means of its columns and of its rows, and the slope of a
# curve as the direction of the line that touches it.

# %%
figure = plt.figure(figsize=(10, 5))
top, bottom = figure.subfigures(2, 1)
for axis, (name, view) in zip(top.subplots(1, 5), views.items(), strict=True):
    axis.imshow(view, cmap="gray")
    axis.set(xticks=[], yticks=[])
    axis.set_title(name, family="monospace", fontsize=9.5)
axes = bottom.subplots(1, 3)
axes[0].bar(range(28), digit.mean(axis=0), color=BLUE)
axes[0].set(title="digit.mean(axis=0): columns", xlabel="column")
axes[1].barh(range(28), digit.mean(axis=1), color=ORANGE)
axes[1].set(title="digit.mean(axis=1): rows", ylabel="row")
axes[1].invert_yaxis()
curve = np.linspace(-1, 2, 50)
axes[2].plot(curve, np.exp(curve), color=BLUE, label="exp(x)")
axes[2].axline((1, np.e), slope=rise, color=ORANGE, label=f"slope at 1: {rise:.2f}")
axes[2].plot(1, np.e, "o", color=GREY)
axes[2].set(title="a slope", xlabel="x", ylim=(-1, 7.5))
axes[2].legend()
save(figure, "00_numpy.png")

# %% [markdown]
# ## Exercises
#
# Replace the dots with your answer, uncomment the code, and run it. Each exercise has a hint, and the solution is
# inside the hint.

# %% [markdown]
# **Exercise 1.** Write an expression for the mirror image of the digit: its left side becomes its right side.
#
# <details><summary>Hint</summary>
#
# The columns are axis 1. A step of -1 goes backwards.
#
# <details><summary>Solution</summary>
#
# ```python
# mirrored = digit[:, ::-1]
# ```
#
# </details></details>

# %% Exercise 1
# mirrored = ...
# assert (mirrored[:, 0] == digit[:, 27]).all() and (mirrored[:, 27] == digit[:, 0]).all()

# %% [markdown]
# **Exercise 2.** Subtract the mean of each *column* of `x` (2, 3), so that each column has mean 0.
#
# <details><summary>Hint</summary>
#
# The mean of each column has the shape (3,). Which axis disappears? Does this shape need `keepdims`?
#
# <details><summary>Solution</summary>
#
# ```python
# columns = x - x.mean(axis=0)
# ```
#
# Broadcasting repeats (3,) for every row, so `keepdims` is not needed here.
#
# </details></details>

# %% Exercise 2
# columns = ...
# assert columns.shape == (2, 3) and np.allclose(columns.mean(axis=0), 0)

# %% [markdown]
# The next lesson, [01_neuron.py](01_neuron.py), computes what one [neuron](GLOSSARY.md#neuron) computes, and shows that
# a whole [layer](GLOSSARY.md#layer) of neurons is one matrix product.
