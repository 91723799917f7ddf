# %% [markdown]
# # 4. Trusting a gradient
#
# **Question.** A network with a wrong backward pass can still learn, only badly. How do we know that the backward pass
# is right?
#
# **Needs.** Lesson 3. **Takes** 2 seconds.
#
# Lesson 3 compared the gradient with nudging. This is the right idea, but the usual form of this check does not find
# some well-known mistakes. Here we build a check that finds them. We test it on four mistakes that are, or were, in
# widely read libraries written from scratch.

# %%
import matplotlib.pyplot as plt
import numpy as np
from _common import BLUE, GREEN, ORANGE, save

from minigan.checking import gradcheck
from minigan.layers import BatchNorm, Dense, Sequential, Tanh

rng = np.random.default_rng(0)

# %% [markdown]
# ## How small should a nudge be?
#
# The central difference has two errors. One comes from the curvature of the function and is about h^2. The other comes
# from rounding and is about 1e-16 / h, because both values are rounded, subtracted, and divided by h. The sum of the
# errors is smallest near h = 1e-5, and even there only about ten digits are right.
#
# **The complex step gives all sixteen digits.** It nudges x in the *imaginary* direction:
#
#     f(x + ih) = f(x) + ih f'(x) - ...
#
# The imaginary part divided by h is the slope. Nothing is subtracted, so rounding does no harm, and h may be 1e-20.
# (Squire and Trapp 1998. The function must be smooth and accept complex numbers. It must not have a kink, as ReLU has.)


# %%
def f(x):
    """Computes an example function that is smooth and accepts complex numbers."""
    return np.tanh(x) * np.exp(x)


x, right = 0.7, (1 - np.tanh(0.7) ** 2 + np.tanh(0.7)) * np.exp(0.7)
steps = 10.0 ** np.arange(-20, 0)  # (20,): 1e-20 to 0.1
central = [abs((f(x + h) - f(x - h)) / (2 * h) - right) / right for h in steps]
imaginary = [abs(f(x + 1j * h).imag / h - right) / right for h in steps]
assert 1e-6 <= steps[np.argmin(central)] <= 1e-4 and min(central) < 1e-9
assert central[0] == 1.0  # h = 1e-20: x + h is rounded to x, so the central difference is 0
assert max(imaginary[:12]) < 1e-14  # for h from 1e-20 to 1e-9, the complex step is right

# %% [markdown]
# ## From an array to a number: the cotangent
#
# A slope belongs to a single number, but the output y of a layer is an array. So we define a number `f = sum(c * y)`,
# where c is a fixed array with the shape of y. It is called the *cotangent*. The slope of f with respect to y is
# `dy = c`, so `backward(c)` must return the slopes of f. Many checks use c = 1, which means `f = sum(y)`. This does not
# work for batch norm (lesson 10). Batch norm subtracts the mean, so the sum of its output over the batch is the same
# **for every x**. The right slope is 0, and many wrong backward passes give 0 too.


# %%
def check_dx(layer, x, c, h=1e-5):
    """Returns the largest difference between the dx of layer.backward and nudging, relative to the largest slope.

    If the largest slope is below 1e-3, the difference is relative to 1e-3.
    """
    _, cache = layer.forward(x)
    dx, _ = layer.backward(c, cache)
    numeric = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        nudge = np.zeros_like(x)
        nudge[i] = h
        up, down = (layer.forward(x + sign * nudge, track=False)[0] for sign in (1, -1))
        numeric[i] = (c * (up - down)).sum() / (2 * h)
    return abs(dx - numeric).max() / max(abs(numeric).max(), 1e-3)


class LazyBatchNorm(BatchNorm):
    """A batch norm whose backward pass returns dx = 0."""

    def backward(self, dy, cache, need_dx=True, need_grads=True):
        """Returns dx = 0 and the right slopes of the parameters."""
        _, grads = super().backward(dy, cache, need_dx, need_grads)
        return np.zeros_like(dy), grads


x = rng.normal(size=(6, 3))  # (N, C)
good, lazy = BatchNorm(3).to("numpy", np.float64), LazyBatchNorm(3).to("numpy", np.float64)
ones, random = np.ones((6, 3)), rng.normal(size=(6, 3))
errors = {}
for kind, layer in (("right", good), ("wrong", lazy)):
    for name, c in (("ones", ones), ("random", random)):
        errors[kind, name] = check_dx(layer, x, c)
for (kind, c), error in errors.items():
    print(f"dx of batch norm, {kind}, cotangent {c:<7} error {error:.1e}")
assert errors["wrong", "ones"] < 1e-6  # sum(y) does not find the missing dx
assert errors["right", "random"] < 1e-6 < 0.5 < errors["wrong", "random"]  # a random cotangent finds it

# %% [markdown]
# minigan's `gradcheck.check_layer` is a complete form of this check. It also checks all parameters. If there are too
# many numbers to nudge one by one, it uses random directions. It distinguishes kinks from mistakes, and it can use the
# complex step.

# %%
for method in ("central", "complex"):
    assert all(row.ok for row in gradcheck.check_layer(good, x, method=method))
assert any(not row.ok for row in gradcheck.check_layer(lazy, x))

# %% [markdown]
# ## Four well-known mistakes
#
# We make each mistake on purpose. The check of a single layer or function finds mistakes 1, 2 and 4. Mistake 3 needs a
# check of a whole step.
#
# 1. **Half a batch norm.** The backward pass treats the mean and the variance as constants and returns only
#    `dx = dy * gamma / std`. Networks with this mistake still train, but slowly, so it is easy to suspect the learning
#    rate instead.
# 2. **A slope that is 0.** The code computes the probability, clips it, and takes the logarithm (lesson 9). The loss is
#    about right, but its slope is exactly 0 where the network is most wrong.
# 3. **The cache of the other batch.** The layer stores its last input in itself. After a forward pass on real images
#    and one on fake images, the backward pass for the real images uses the input of the fake images. To avoid this,
#    minigan returns caches and does not store them in the layer.
# 4. **A mean in place of a sum.** The code computes `db = dy.mean(axis=0)` and not the sum. The direction is right, so
#    the network does learn, but the slope is N times too small. The loss is already a mean over the batch, so the
#    slopes must be added.


# %%
class HalfBatchNorm(BatchNorm):
    """A batch norm whose backward pass treats the mean and the variance as constants (mistake 1)."""

    def backward(self, dy, cache, need_dx=True, need_grads=True):
        """Returns dx = dy * gamma / std and the right slopes of the parameters."""
        _, grads = super().backward(dy, cache, need_dx, need_grads)
        std = np.sqrt(cache[0].var(axis=0) + self.eps)  # cache[0] is x (N, C)
        return dy * self.params["gamma"] / std, grads


def clipped_log_sigmoid(l):
    """Returns the sum of log sigmoid(l) for l (N, 1), and its slope (N, 1), with clipped probabilities (mistake 2)."""
    p = np.clip(1 / (1 + np.exp(-l)), 1e-8, 1 - 1e-8)
    return np.log(p).sum(), (1 - p) * ((p > 1e-8) & (p < 1 - 1e-8))


class ForgetfulDense(Dense):
    """A dense layer that stores its last input in itself (mistake 3)."""

    def forward(self, x, train=True, track=True):
        """Stores x in the layer, and computes the result."""
        self.seen = x
        return super().forward(x, train, track)

    def backward(self, dy, cache, need_dx=True, need_grads=True):
        """Uses the stored input in place of the cache."""
        return super().backward(dy, self.seen, need_dx, need_grads)


class MeanBiasDense(Dense):
    """A dense layer that computes db as a mean (mistake 4)."""

    def backward(self, dy, cache, need_dx=True, need_grads=True):
        """Returns the right dx and dw, and a db that is N times too small."""
        dx, grads = super().backward(dy, cache, need_dx, need_grads)
        return dx, grads | {"b": dy.mean(axis=0)}


half = Sequential(Dense(4, 3, rng=rng), HalfBatchNorm(3), Tanh())
l = np.array([[-1.0], [0.5], [-25.0]])
rows = {
    "half a batch norm": gradcheck.check_layer(HalfBatchNorm(3), x),
    "the same, inside a network": gradcheck.check_network(half, rng.normal(size=(6, 4))),
    "a mean in place of a sum": gradcheck.check_layer(MeanBiasDense(4, 3, rng=rng), rng.normal(size=(6, 4))),
    "a slope that is 0": gradcheck.check(
        lambda: -np.log(1 + np.exp(-l)).sum(),  # log sigmoid without clipping
        lambda: {"l": clipped_log_sigmoid(l)[1]},
        {"l": l},
    ),
}
for name, found in rows.items():
    wrong = [row.tensor for row in found if not row.ok]
    print(f"{name:<27} wrong: {', '.join(wrong)}")
    assert wrong
assert [row.tensor for row in rows["a mean in place of a sum"] if not row.ok] == ["b"]  # only b is reported

# %% [markdown]
# Look at the last check. It compared the slope with the function that we *meant* to compute. The clipped function
# really is flat there, so a comparison with the clipped function accepts the slope 0. **A gradient check shows that
# backward fits forward, and nothing more.** To show that forward is right, compare it with a formula from another
# source.

# %%
own = gradcheck.check(lambda: clipped_log_sigmoid(l)[0], lambda: {"l": clipped_log_sigmoid(l)[1]}, {"l": l})
assert own[0].ok and clipped_log_sigmoid(l)[1][2] == 0  # at l = -25 the true slope is 1

# %% [markdown]
# Mistake 3, the cache of the other batch, is still missing. A check of a single layer cannot find it. Such a check runs
# the layer once forward and once backward, so the last input is the right one. The mistake appears only when a
# discriminator is trained, with two forward passes followed by two backward passes. **So we must check a whole step as
# well.**


# %%
def discriminator_gradient(layer, real, fake, c_real, c_fake):
    """Returns dw of sum(c_real * y_real) + sum(c_fake * y_fake); both forward passes come first."""
    _, cache_real = layer.forward(real)
    _, cache_fake = layer.forward(fake)
    _, grads_real = layer.backward(c_real, cache_real)
    _, grads_fake = layer.backward(c_fake, cache_fake)
    return grads_real["w"] + grads_fake["w"]


real, fake, c_real, c_fake = (rng.normal(size=shape) for shape in ((6, 4), (6, 4), (6, 3), (6, 3)))
cosines = {}
for kind in (Dense, ForgetfulDense):
    layer = kind(4, 3, rng=rng).to("numpy", np.float64)
    assert all(row.ok for row in gradcheck.check_layer(layer, real))  # the check of a single layer accepts both classes
    dw = discriminator_gradient(layer, real, fake, c_real, c_fake)

    def value(layer=layer):
        return (c_real * layer.forward(real)[0]).sum() + (c_fake * layer.forward(fake)[0]).sum()

    row = gradcheck.check(value, lambda dw=dw: {"w": dw}, {"w": layer.params["w"]})[0]
    truth = real.T @ c_real + fake.T @ c_fake
    cosines[kind.__name__] = (dw * truth).sum() / np.sqrt((dw**2).sum() * (truth**2).sum())
    print(f"{kind.__name__:<15} in a whole step: {row.verdict}, cosine with the right dw {cosines[kind.__name__]:.2f}")
    assert row.ok == (kind is Dense)
assert np.isclose(cosines["Dense"], 1) and cosines["ForgetfulDense"] < 0.95

# %% [markdown]
# `gradcheck.check_step` does this with minigan's own training steps, through both networks. `minigan gradcheck` runs
# all checks. **A check that has never failed proves nothing.** This is why we made the mistakes above on purpose.

# %%
figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), width_ratios=(1.2, 1))
axes[0].loglog(steps, np.maximum(central, 1e-17), "o-", color=ORANGE, label="central difference")
axes[0].loglog(steps, np.maximum(imaginary, 1e-17), "o-", color=BLUE, label="imaginary nudge")
axes[0].axhline(2.2e-16, color="grey", linestyle=":")
axes[0].text(1e-20, 4e-16, "all 16 digits", color="grey")
axes[0].set(title="how wrong is the slope?", xlabel="size h of the nudge", ylabel="relative error")
axes[0].legend(loc="upper right")
names = ["with dx,\nc = 1", "with dx,\nrandom c", "no dx,\nc = 1", "no dx,\nrandom c"]
values = [errors[kind, c] for kind in ("right", "wrong") for c in ("ones", "random")]
bars = axes[1].bar(names, np.maximum(values, 1e-16), bottom=1e-16, color=[GREEN, GREEN, ORANGE, GREEN])
axes[1].set(
    yscale="log",
    ylim=(1e-16, 30),
    ylabel="difference that the check finds",
    title="batch norm, with its dx and without",
)
axes[1].axhline(1e-6, color="grey", linestyle=":")
axes[1].text(-0.4, 2e-6, "above: found wrong", color="grey")
axes[1].annotate("looks right,\nand is not", (2, values[2]), (1.55, 1e-4), color=ORANGE)
save(figure, "04_trusting_a_gradient.png")

# %% [markdown]
# ## Exercises
#
# Replace the dots with your answer, uncomment the code, and run it.

# %% [markdown]
# **Exercise 1.** A colleague checks softmax (lesson 5), whose outputs sum to 1, with `f = sum(y)`. Which slope does the
# check find for every input?
#
# <details><summary>Hint</summary>
#
# How does the sum of the probabilities change when a logit changes?
#
# <details><summary>Solution</summary>
#
# ```python
# slope = 0
# ```
#
# </details></details>

# %% Exercise 1
# slope = ...
# l = rng.normal(size=5)
# softmax = lambda l: np.exp(l) / np.exp(l).sum()
# nudge = np.array([1e-5, 0, 0, 0, 0])
# assert np.isclose((softmax(l + nudge) - softmax(l - nudge)).sum() / 2e-5, slope, atol=1e-9)

# %% [markdown]
# **Exercise 2.** How must `dy * gamma / std` be corrected? The dx of batch norm has mean 0 over the batch. Change
# `half_dx` so that its mean is 0. Then it is closer to the right dx.
#
# <details><summary>Hint</summary>
#
# This is what the path through the variance adds: `- xhat * mean of (dxhat * xhat)`, divided by std. `half_dx` is
# already divided by std.
#
# <details><summary>Solution</summary>
#
# ```python
# better = half_dx - xhat * (half_dx * xhat).mean(axis=0)
# ```
#
# </details></details>

# %% Exercise 2
# _, cache = good.forward(x)
# half_dx = random / np.sqrt(x.var(axis=0) + 1e-5)
# better = ...
# truth, _ = good.backward(random, cache)
# assert np.allclose(better.mean(axis=0), 0) and abs(better - truth).sum() < abs(half_dx - truth).sum()

# %% [markdown]
# The next lesson, [05_reading_digits.py](05_reading_digits.py), uses gradients to read handwritten digits.
