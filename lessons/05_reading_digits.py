# %% [markdown]
# # 5. A network reads digits
#
# **Question.** Is what we have enough to read handwriting?
#
# **Needs.** Lesson 3. **Takes** 10 seconds, with `--quick` 6.
#
# Yes: two layers and the backward pass of lesson 3. What is new is an answer with ten choices in place of two, learning
# from small batches, and the test on digits never seen.

# %%
import matplotlib.pyplot as plt
import numpy as np
from _common import BLUE, GREY, ORANGE, QUICK, save

from minigan import datasets, optim
from minigan.checking import gradcheck
from minigan.layers import Dense, Flatten, ReLU, Sequential, he_normal

rng = np.random.default_rng(0)

# %% [markdown]
# ## The data
#
# MNIST: 60,000 digits to learn from, 10,000 others to be tested on, 28 x 28 pixels each. They come with minigan.
# `scale` makes numbers in [-1, 1] of the bytes: weights like inputs of about size 1, about 0.

# %%
train, test = datasets.mnist("train"), datasets.mnist("test")
x_train, x_test = datasets.scale(train.images), datasets.scale(test.images)  # (60000, 28, 28, 1), (10000, 28, 28, 1)
assert x_train.min() == -1 and x_train.max() == 1 and x_train.dtype == np.float32

# %% [markdown]
# ## Ten choices: softmax
#
# The network gives ten logits, one a digit. **Softmax** makes probabilities of them: positive, and their sum is 1.
#
#     p[k] = exp(l[k]) / sum over j of exp(l[j])          loss = -log p[the right digit]
#
# With two choices this is the sigmoid and the loss of lesson 2. And the slope is once more *answer minus truth*:
#
#     dl[k] = p[k] - (1 if k is the right digit else 0)
#
# A large logit would overflow: exp(1000) is infinite. Only differences between logits count, so we take the largest
# off.


# %%
def softmax_loss(l, labels):
    """l (N, 10), labels (N,) -> the mean loss and dl (N, 10)."""
    N = len(l)
    e = np.exp(l - l.max(axis=1, keepdims=True))  # (N, 10), at most 1
    p = e / e.sum(axis=1, keepdims=True)  # (N, 10)
    right = (np.arange(N), labels)  # the place of the right digit in each row
    loss = -np.log(p[right] + 1e-30).mean()
    dl = p.copy()
    dl[right] -= 1
    return loss, dl / N


l, labels = rng.normal(size=(5, 10)), rng.integers(0, 10, 5)
loss, dl = softmax_loss(l, labels)
assert np.isclose(loss, np.mean([np.log(np.exp(row).sum()) - row[k] for row, k in zip(l, labels, strict=True)]))
assert all(row.ok for row in gradcheck.check(lambda: softmax_loss(l, labels)[0], lambda: {"l": dl}, {"l": l}))
assert np.isfinite(softmax_loss(1000 * l, labels)[0])
assert np.isclose(softmax_loss(np.zeros((5, 10)), labels)[0], np.log(10))  # no idea at all: log 10 = 2.303

# %% [markdown]
# ## The network
#
# 784 pixels, 256 neurons, 10 answers. `ReLU` is the simplest bend: max(a, 0). The first weights are random (if all were
# equal, all neurons would learn the same), and of such a size (`he_normal`) that signals neither fade nor explode.

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


def accuracy(x, labels):
    l, _ = network.forward(x, train=False)  # (N, 10)
    return (l.argmax(axis=1) == labels).mean()


print(f"before learning: {accuracy(x_test, test.labels):.1%} of the test digits read right; guessing gives 10%")
assert accuracy(x_test, test.labels) < 0.3

# %% [markdown]
# ## Learning
#
# The slope of the loss over all 60,000 digits would be exact, and slow to get. That over 128 of them is about right and
# 470 times cheaper, so in one *epoch*, one pass over all digits in random order, there are 468 steps and not one. This
# is *stochastic* gradient descent. The steps shrink towards the end, so that the chance in the batches averages out.

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
        adam.lr = 2e-3 * (1 - int(adam.state["t"]) / steps)  # t: how many steps were taken
        adam.step(grads)
    curve.append((accuracy(x_train[:10000], train.labels[:10000]), accuracy(x_test, test.labels)))
    print(f"epoch {epoch + 1}: {curve[-1][0]:.2%} of the digits learnt from, {curve[-1][1]:.2%} of the test digits")

# %% [markdown]
# **Above 97% on digits that it never saw.** On those it learnt from it does better still; the gap is what it learnt by
# heart, and the reason why a network is judged by the test alone.

# %%
assert curve[-1][1] > (0.965 if QUICK else 0.97)
assert curve[-1][0] > curve[-1][1]

# %% [markdown]
# ## What it cannot read
#
# The test digits for which it was surest of a wrong answer. Some are hard for us too.

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
size = abs(network.params["1.w"]).sum(axis=0) * abs(network.params["3.w"]).sum(axis=1)  # (256,) who speaks loudest
for axis, neuron in zip(middle.subplots(4, 4).flat, np.argsort(-size), strict=False):
    w = network.params["1.w"][:, neuron].reshape(28, 28)
    axis.imshow(w, cmap="RdBu", vmin=-0.25, vmax=0.25)
    axis.axis("off")
right.suptitle(f"surest mistakes of {len(wrong)}: truth, answer", fontsize=11)
for axis, n in zip(right.subplots(3, 5).flat, worst, strict=True):
    axis.imshow(test.images[n, :, :, 0], cmap="gray_r")
    axis.set_title(f"{test.labels[n]}, {answers[n]}", fontsize=10, color=ORANGE)
    axis.axis("off")
save(figure, "05_reading_digits.png")

# %% [markdown]
# ## Exercises
#
# 1. With all logits equal the loss is log 10. What is it if the network gives the right digit half, and shares the
#    other half equally among the nine?
# 2. The pixel in the corner is -1 in every digit, so it tells nothing. Do its weights "stay" or "move"? Guess before
#    you look, and then look at what `a = x @ w + b` makes of an x that is always -1.

# %% Exercise 1
# loss = ...
# l = np.log(np.array([[0.5] + 9 * [0.5 / 9]]))
# assert np.isclose(softmax_loss(l, np.array([0]))[0], loss)

# %% Exercise 2
# answer = ...
# moved = abs(network.params["1.w"] - w_before).reshape(28, 28, 256).mean(axis=2)  # (28, 28)
# assert (moved[0, 0] > 0.1 * moved[14, 14]) == (answer == "move")  # it is one more bias

# %% [markdown]
# The network sees 784 numbers and does not know which pixels are neighbours: mix them up, always alike, and it learns
# as well. Next, [06_convolution.py](06_convolution.py): layers that know.
