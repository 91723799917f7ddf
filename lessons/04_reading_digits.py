# %% [markdown]
# # 4. A network reads digits
#
# **Question.** Can a network of two layers learn to read handwriting?
#
# **You will know** how a network chooses between ten answers, why it learns from small batches, why it is tested on
# images that it has never seen, and what it cannot know about an image.
#
# **Builds on** [lesson 3](03_backpropagation.py). **Takes** 35 minutes to read, 17 seconds to run, 10 with `--quick`.
#
# Yes. Two layers and the backward pass of [lesson 3](03_backpropagation.py) are enough. Three things are new: the
# answer is one of ten classes and not one of two, the network learns from small batches, and we test it on digits that
# it has not seen before.

# %%
import matplotlib.pyplot as plt
import numpy as np
from _common import BLUE, GREY, ORANGE, QUICK, save

from minigan import datasets, optim
from minigan.checking import gradcheck
from minigan.layers import Dense, Flatten, ReLU, Sequential, he_normal
from minigan.losses import softplus

rng = np.random.default_rng(0)

# %% [markdown]
# ## The data
#
# [MNIST](GLOSSARY.md#mnist) has 60,000 digits for training and 10,000 other digits for testing. Each image has 28 x 28
# pixels and a *[label](GLOSSARY.md#label)*, which says which digit it shows. The images are included in minigan.
# `scale` converts the bytes, 0 to 255, to numbers in [-1, 1].

# %%
train, test = datasets.mnist("train"), datasets.mnist("test")
x_train, x_test = datasets.scale(train.images), datasets.scale(test.images)  # (60000, 28, 28, 1), (10000, 28, 28, 1)
assert len(x_train) == 60_000 and len(x_test) == 10_000 and x_train.shape[1:] == (28, 28, 1)
assert x_train.min() == -1 and x_train.max() == 1 and x_train.dtype == np.float32

# %% [markdown]
# ## Ten classes: softmax
#
# The network computes ten logits, one for each digit. **[Softmax](GLOSSARY.md#softmax)** converts them to
# probabilities, which are positive and have the sum 1.
#
#     p[k] = exp(l[k]) / sum over j of exp(l[j])          loss = -log p[the right digit]
#
# With two classes, this is the sigmoid and the loss of [lesson 2](02_nudging.py). The slope is again the *answer minus
# the target*:
#
#     dl[k] = p[k] - (1 if k is the right digit else 0)
#
# A large logit would overflow, because exp(1000) is infinite in floating point. **The probabilities depend only on the
# differences between the logits**, so we subtract the largest logit from all of them.


# %%
def softmax_loss(l, labels):
    """Returns the mean loss and dl (N, 10) for the logits l (N, 10) and labels (N,)."""
    N = len(l)
    e = np.exp(l - l.max(axis=1, keepdims=True))  # (N, 10), at most 1
    p = e / e.sum(axis=1, keepdims=True)  # (N, 10)
    right = (np.arange(N), labels)  # the index of the right digit in each row
    loss = -np.log(p[right] + 1e-30).mean()
    dl = p.copy()
    dl[right] -= 1
    return loss, dl / N


l, labels = rng.normal(size=(5, 10)), rng.integers(0, 10, 5)
loss, dl = softmax_loss(l, labels)
assert np.isclose(loss, np.mean([np.log(np.exp(row).sum()) - row[k] for row, k in zip(l, labels, strict=True)]))
assert all(row.ok for row in gradcheck.check(lambda: softmax_loss(l, labels)[0], lambda: {"l": dl}, {"l": l}))
with np.errstate(over="ignore"):
    assert np.exp(1000.0) == np.inf
assert np.isfinite(softmax_loss(1000 * l, labels)[0])
assert np.isclose(softmax_loss(l + 7, labels)[0], loss), "Softmax depends only on the differences between the logits."
two, yes = np.array([[0.3, 1.5]]), np.array([1])  # with two classes, only the difference of the logits matters
assert np.isclose(softmax_loss(two, yes)[0], softplus(-(1.5 - 0.3)))  # the loss of 02_nudging.py
assert np.isclose(softmax_loss(np.zeros((5, 10)), labels)[0], np.log(10))  # equal probabilities: log 10 = 2.303

# %% [markdown]
# ## Worked by hand: three classes
#
# Let the logits be l = (2, 1, 0), and let class 1 be right. Then exp(l) = (7.389, 2.718, 1), with the sum 11.107, and
#
#     p = (0.665, 0.245, 0.090)    loss = -log 0.245 = 1.408    dl = (0.665, 0.245 - 1, 0.090) = (0.665, -0.755, 0.090)
#
# The slope of the right class is negative, so gradient descent makes its logit larger. The other two become smaller.
# The three slopes add up to 0.

# %%
loss, dl = softmax_loss(np.array([[2.0, 1.0, 0.0]]), np.array([1]))
assert np.allclose(dl, [[0.665, -0.755, 0.090]], atol=5e-4) and round(loss, 3) == 1.408 and np.isclose(dl.sum(), 0)

# %% [markdown]
# ## The network
#
# The network has 784 inputs (pixels), 256 hidden neurons and 10 outputs. `ReLU` is a simple nonlinear function,
# `max(a, 0)`. **The first weights are random, because neurons that start with equal weights get equal slopes and stay
# equal.** `he_normal` chooses their size so that the mean square of the numbers stays about the same from the input of
# a layer to its output after [ReLU](GLOSSARY.md#relu).

# %%
network = Sequential(
    Flatten(),  # (N, 28, 28, 1) -> (N, 784)
    Dense(784, 256, rng=rng, init=he_normal),
    ReLU(),
    Dense(256, 10, rng=rng),
)
adam = optim.Adam(network, lr=1e-3)
w_before = network.params["1.w"].copy()  # for exercise 2
assert network.n_params == 784 * 256 + 256 + 256 * 10 + 10
hidden, _ = Sequential(*network.layers[:3]).forward(x_test)  # (10000, 256)
assert 0.7 < (hidden**2).mean() / (x_test**2).mean() < 1.4  # he_normal
alike = Sequential(Flatten(), Dense(784, 256, rng=rng), ReLU(), Dense(256, 10, rng=rng))
for w in alike.params.values():
    w[...] = 0.01  # all neurons start with equal weights
_, dl = softmax_loss(alike.forward(x_train[:128])[0], train.labels[:128])
_, grads = alike.backward(dl, alike.forward(x_train[:128])[1], need_dx=False)
assert np.allclose(grads["1.w"], grads["1.w"][:, :1], atol=1e-9) and abs(grads["1.b"]).max() < 1e-6, (
    "Neurons that start with equal weights get equal slopes."
)


def accuracy(x, labels):
    """Returns the share of the digits that the network reads right."""
    l, _ = network.forward(x, train=False)  # (N, 10)
    return (l.argmax(axis=1) == labels).mean()


print(f"before learning: {accuracy(x_test, test.labels):.1%} of the test digits read right; guessing gives 10%")
assert accuracy(x_test, test.labels) < 0.3

# %% [markdown]
# ## Learning
#
# We could compute the gradient of the loss over all 60,000 digits, but this is slow. **The gradient over 128 digits
# points in about the same direction**, and it needs 469 times fewer digits. This method is called *stochastic* gradient
# descent. We compare a small batch with 10,000 digits. The cosine of two directions is 1 if they are the same, and
# about 0 for two random directions.

# %%


def gradient(x, labels):
    """Returns the gradient of the loss as one vector (203530,)."""
    l, cache = network.forward(x)
    _, grads = network.backward(softmax_loss(l, labels)[1], cache, need_dx=False)
    return np.concatenate([g.ravel() for g in grads.values()])


full = gradient(x_train[:10_000], train.labels[:10_000])
small = gradient(x_train[50_000:50_128], train.labels[50_000:50_128])
cosine = full @ small / np.linalg.norm(full) / np.linalg.norm(small)
print(f"cosine of the gradients over 128 and over 10,000 digits: {cosine:.2f}")
assert cosine > 0.8, "The gradient over 128 digits points in about the same direction as over 10,000 others."

# %% [markdown]
# An *[epoch](GLOSSARY.md#epoch)* is one pass over all digits in random order. It has 468 steps, one for each batch of
# 128 digits. The learning rate decreases to 0 during the training, so that the last steps are small.

# %%
epochs, batch = 3 if QUICK else 6, 128
steps = epochs * (len(x_train) // batch)
curve = []  # (training, test) accuracy after each epoch
for epoch in range(epochs):
    order = rng.permutation(len(x_train))
    for i in range(0, len(order) - batch + 1, batch):
        chosen = order[i : i + batch]
        l, cache = network.forward(x_train[chosen])  # (128, 10)
        loss, dl = softmax_loss(l, train.labels[chosen])
        _, grads = network.backward(dl, cache, need_dx=False)
        adam.lr = 2e-3 * (1 - int(adam.state["t"]) / steps)  # t: the number of steps so far
        adam.step(grads)
    curve.append((accuracy(x_train[:10000], train.labels[:10000]), accuracy(x_test, test.labels)))
    print(f"epoch {epoch + 1}: {curve[-1][0]:.2%} of the digits learnt from, {curve[-1][1]:.2%} of the test digits")

# %% [markdown]
# **The network reads more than 97% of the [test digits](GLOSSARY.md#test-data) right (96.5% with `--quick`).** It has
# never seen these digits before. The accuracy on the digits that it learnt from is higher, because its weights were
# fitted to these digits. This is why only the test digits show how good a network is.

# %%
assert curve[-1][1] > (0.965 if QUICK else 0.97), (
    "Two layers read more than 97% of new digits right (96.5% with `--quick`)."
)
assert curve[-1][0] > curve[-1][1], "The accuracy is higher on the digits that the network learnt from."

# %% [markdown]
# ## What it cannot read
#
# The figure shows the test digits where the network is wrong and gives its wrong answer the highest probability.

# %%
l, _ = network.forward(x_test, train=False)
p = np.exp(l - l.max(axis=1, keepdims=True))
p /= p.sum(axis=1, keepdims=True)
answers = p.argmax(axis=1)
wrong = np.flatnonzero(answers != test.labels)
worst = wrong[np.argsort(-p[wrong, answers[wrong]])][:15]
figure = plt.figure(figsize=(10, 3.6))
left, middle, right = figure.subfigures(1, 3, width_ratios=(1, 1.1, 1.2))
axis = left.subplots()
for k, (name, colour) in enumerate((("learnt from", ORANGE), ("test", BLUE))):
    axis.plot(range(1, epochs + 1), [100 * c[k] for c in curve], "o-", color=colour, label=name)
axis.axhline(97, color=GREY, linestyle=":")
axis.set(title="digits read right", xlabel="epoch", ylabel="%", xticks=range(1, epochs + 1))
axis.legend(loc="lower right")
middle.suptitle("what 16 of the 256 neurons look for", fontsize=11)
size = abs(network.params["1.w"]).sum(axis=0) * abs(network.params["3.w"]).sum(axis=1)  # (256,)
for axis, neuron in zip(middle.subplots(4, 4).flat, np.argsort(-size), strict=False):
    w = network.params["1.w"][:, neuron].reshape(28, 28)
    axis.imshow(w, cmap="RdBu", vmin=-0.25, vmax=0.25)
    axis.axis("off")
right.suptitle(f"surest mistakes of {len(wrong)}: truth, answer", fontsize=11)
for axis, n in zip(right.subplots(3, 5).flat, worst, strict=True):
    axis.imshow(test.images[n, :, :, 0], cmap="gray_r")
    axis.set_title(f"{test.labels[n]}, {answers[n]}", fontsize=10, color=ORANGE)
    axis.axis("off")
save(figure, "04_reading_digits.png")

# %% [markdown]
# ## What it does not know
#
# The network gets 784 numbers, and nothing tells it which pixels are neighbours. **If we reorder the pixels of all
# images in the same way, the network learns exactly as well.** The reason: if we reorder the rows of the first weights
# in the same way, every sum has the same terms. So the logits are the same, and the slopes are the same slopes in the
# new order. This is true for each step, so it is true for the whole training.

# %%
order = rng.permutation(784)
mixed_images = x_train[:128].reshape(128, 784)[:, order].reshape(128, 28, 28, 1)
mixed = Sequential(Flatten(), Dense(784, 256, rng=rng), ReLU(), Dense(256, 10, rng=rng))
for name, w in network.params.items():
    mixed.params[name][...] = w[order] if name == "1.w" else w
(l, cache), (mixed_l, mixed_cache) = network.forward(x_train[:128]), mixed.forward(mixed_images)
_, dl = softmax_loss(l, train.labels[:128])
_, grads = network.backward(dl, cache, need_dx=False)
_, mixed_grads = mixed.backward(dl, mixed_cache, need_dx=False)
assert np.allclose(l, mixed_l, atol=1e-3)  # float32: the terms are added in another order
for name, g in grads.items():
    assert np.allclose(g[order] if name == "1.w" else g, mixed_grads[name], atol=1e-5), (
        "If the pixels of all images are reordered alike, a dense network computes the same and learns the same."
    )

# %% [markdown]
# ## Exercises
#
# Replace the dots with your answer, uncomment the code, and run it.

# %% [markdown]
# **Exercise 1.** If all logits are equal, the loss is log 10. What is the loss if the right digit has probability 1/2
# and the other nine digits share the other half equally?
#
# <details><summary>Hint</summary>
#
# Only the probability of the right digit is in the loss.
#
# <details><summary>Solution</summary>
#
# ```python
# loss = np.log(2)
# ```
#
# </details></details>

# %% Exercise 1
# loss = ...
# l = np.log(np.array([[0.5] + 9 * [0.5 / 9]]))
# assert np.isclose(softmax_loss(l, np.array([0]))[0], loss)

# %% [markdown]
# **Exercise 2.** The pixel in the corner is -1 in every digit, so it contains no information. Do its weights "stay" or
# "move" during training? Guess first. Then think about what `a = x @ w + b` computes if one x is always -1.
#
# <details><summary>Hint</summary>
#
# A weight moves if its slope is not 0. The slope is the sum of x times da. Here x is -1.
#
# <details><summary>Solution</summary>
#
# ```python
# answer = "move"
# ```
#
# The pixel acts like a bias.
#
# </details></details>

# %% Exercise 2
# answer = ...
# moved = abs(network.params["1.w"] - w_before).reshape(28, 28, 256).mean(axis=2)  # (28, 28)
# assert (moved[0, 0] > 0.1 * moved[14, 14]) == (answer == "move")  # they act like a bias

# %% [markdown]
# The next lesson, [05_convolution.py](05_convolution.py), introduces layers that use the neighbours of each pixel.
