# %% [markdown]
# # 10. Trusting a gradient
#
# **Question.** A network with a wrong backward pass can still learn. How do we know that a backward pass is right?
#
# **You will know** how to derive the backward pass of batch norm from its three paths, how to build a check that finds
# wrong backward passes, which mistakes a careless check accepts, and what no gradient check can find.
#
# **Builds on** [lesson 3](03_backpropagation.py) and [lesson 9](09_dcgan.py) (its section on batch norm is enough).
# **Takes** 45 minutes to read, 3 seconds to run.
#
# [Lesson 3](03_backpropagation.py) compared the gradient with nudging. This is the right idea, but the simplest form of
# this check accepts some mistakes. Here we build a check that finds them, and we test it on mistakes that we make on
# purpose.

# %%
import matplotlib.pyplot as plt
import numpy as np
from _common import BLUE, GREEN, ORANGE, save
from matplotlib.patches import Patch

from minigan import optim
from minigan.checking import gradcheck
from minigan.layers import BatchNorm, Dense, Sequential, Tanh
from minigan.losses import sigmoid, softplus

rng = np.random.default_rng(0)

# %% [markdown]
# ## How small should a nudge be?
#
# The central difference has two errors. One comes from the curvature of the function and is about h^2. The other comes
# from rounding and is about 1e-16 / h, because both values are rounded, subtracted, and divided by h. The sum of the
# errors is smallest near h = 1e-5, and even there only about ten digits are right.
#
# **The [complex step](GLOSSARY.md#complex-step) gives at least fifteen digits.** It nudges x in the *imaginary*
# direction:
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
assert 1e-6 <= steps[np.argmin(central)] <= 1e-4 and 1e-13 < min(central) < 1e-9  # about ten digits, near h = 1e-5
assert 50 < central[18] / central[17] < 200  # from h = 1e-3 to 1e-2: 10 times h, about 100 times the error
assert central[0] == 1.0  # h = 1e-20: x + h is rounded to x, so the central difference is 0
assert max(imaginary[:12]) < 1e-15, "For h from 1e-20 to 1e-9, the complex step gives at least fifteen digits."

# %% [markdown]
# ## The backward pass of batch norm, derived
#
# Batch norm is a good example, because each input reaches the output on three paths. For one channel with N numbers x,
# the forward pass is
#
#     m = mean of x         v = mean of (x - m)^2         s = sqrt(v + eps)
#     xhat = (x - m) / s    y = gamma * xhat + beta
#
# The last line gives dxhat = gamma * dy. From xhat there are three paths back to x: directly, through m, and through s.
# As in [lesson 3](03_backpropagation.py), we compute the slope along each path and add the three.
#
# 1. **Directly.** In `xhat = (x - m) / s`, keep m and s fixed. Then `dx = dxhat / s`.
# 2. **Through m.** Every xhat contains `-m / s`, so `dm = - (sum of dxhat) / s`. And m is the mean of the x, so each x
#    has the share 1/N in it: `dx = dm / N = - (mean of dxhat) / s`. (m is also in v. But a change of m does not change
#    v: the slope of v with respect to m is -2 times the mean of (x - m), and this mean is 0.)
# 3. **Through s.** The slope of `(x - m) / s` with respect to s is `- (x - m) / s^2 = - xhat / s`, so
#    `ds = - (sum of dxhat * xhat) / s`. And the slope of s with respect to one x is half the slope of v, divided by s:
#    `(x - m) / (N s) = xhat / N`. Together: `dx = - xhat * (mean of dxhat * xhat) / s`.
#
# **The dx of batch norm is the sum of the three paths:**
#
#     dx = (dxhat - mean of dxhat - xhat * mean of (dxhat * xhat)) / s
#
# We check each path alone: we nudge x in only one of the three places.


# %%
def normalised(direct, for_mean, for_std, eps=1e-5):
    """Computes xhat (N, C) from three copies of x (N, C), one for each path."""
    return (direct - for_mean.mean(axis=0)) / np.sqrt(for_std.var(axis=0) + eps)


x, dxhat = rng.normal(size=(6, 3)), rng.normal(size=(6, 3))  # (N, C)
s = np.sqrt(x.var(axis=0) + 1e-5)  # (C,)
xhat = normalised(x, x, x)
paths = [dxhat / s, -dxhat.mean(axis=0) / s + 0 * x, -xhat * (dxhat * xhat).mean(axis=0) / s]  # three times (N, C)
for k, path in enumerate(paths):
    copies = [x.copy(), x.copy(), x.copy()]  # only copy k is nudged
    value = lambda copies=copies: (dxhat * normalised(*copies)).sum()  # noqa: E731
    assert all(row.ok for row in gradcheck.check(value, lambda path=path: {"x": path}, {"x": copies[k]}))
norm = BatchNorm(3).to("numpy", np.float64)
_, cache = norm.forward(x)
assert np.allclose(sum(paths), norm.backward(dxhat, cache)[0]), (
    "The dx of batch norm is the sum of three paths: direct, through the mean, through the standard deviation."
)

# %% [markdown]
# ## From an array to a number: the cotangent
#
# A slope belongs to a single number, but the output y of a layer is an array. So we define a number `f = sum(c * y)`,
# where c is a fixed array with the shape of y. It is called the *[cotangent](GLOSSARY.md#cotangent)*. The slope of f
# with respect to y is `dy = c`, so `backward(c)` must return the slopes of f. A simple choice is c = 1, which means
# `f = sum(y)`. It does not work for batch norm. Batch norm subtracts the mean, so the sum of its output over the batch
# is the same for every x. The right slope is 0, and many wrong backward passes give 0 too.
#
# Here is one. It forgets the third path, as if the standard deviation were a constant:
# `dx = (dy - mean of dy) * gamma / s`. **A cotangent of ones accepts this mistake. A random cotangent finds it.**


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


class FixedStdBatchNorm(BatchNorm):
    """A batch norm whose backward pass treats the standard deviation as a constant: the third path is missing."""

    def backward(self, dy, cache, need_dx=True, need_grads=True):
        """Returns a wrong dx and the right slopes of the parameters."""
        _, grads = super().backward(dy, cache, need_dx, need_grads)
        s = np.sqrt(cache[0].var(axis=0) + self.eps)  # cache[0] is x (N, C)
        return (dy - dy.mean(axis=0)) * self.params["gamma"] / s, grads


good, wrong_norm = BatchNorm(3).to("numpy", np.float64), FixedStdBatchNorm(3).to("numpy", np.float64)
assert np.allclose(good.forward(x)[0].sum(axis=0), good.forward(5 * x + 1)[0].sum(axis=0))  # the same for every x
ones, random = np.ones((6, 3)), rng.normal(size=(6, 3))
errors = {}
for kind, layer in (("right", good), ("wrong", wrong_norm)):
    for name, c in (("ones", ones), ("random", random)):
        errors[kind, name] = check_dx(layer, x, c)
for (kind, c), error in errors.items():
    print(f"dx of batch norm, {kind}, cotangent {c:<7} error {error:.1e}")
assert errors["wrong", "ones"] < 1e-6, "A cotangent of ones accepts a batch norm without the path through the std."
assert errors["right", "random"] < 1e-6 < 0.2 < errors["wrong", "random"], (
    "A random cotangent finds that this path is missing."
)

# %% [markdown]
# **A network with this mistake still learns**, so good results do not show that a backward pass is right. We let a
# small network learn a disc, as in [lesson 2](02_nudging.py), with the right and with the wrong batch norm.

# %%
points = rng.uniform(-1, 1, (200, 2))  # (N, 2)
target = (np.linalg.norm(points, axis=1) < 0.6).astype(float)[:, None]  # (N, 1)
for kind in (BatchNorm, FixedStdBatchNorm):
    seed = np.random.default_rng(3)
    network = Sequential(Dense(2, 16, rng=seed), kind(16), Tanh(), Dense(16, 1, rng=seed)).to("numpy", np.float64)
    adam, curve = optim.Adam(network, lr=0.02), []
    for _ in range(300):
        l, cache = network.forward(points)
        curve.append((target * softplus(-l) + (1 - target) * softplus(l)).mean())
        _, grads = network.backward((sigmoid(l) - target) / 200, cache, need_dx=False)
        adam.step(grads)
    right_share = ((l > 0) == target).mean()
    print(f"{kind.__name__:<18} loss from {curve[0]:.2f} to {curve[-1]:.3f}, {right_share:.0%} of the points right")
    assert right_share > 0.9, "A network with a wrong backward pass can still learn."

# %% [markdown]
# minigan's `gradcheck.check_layer` is a complete form of this check, with a random cotangent. It also checks all
# parameters. If there are too many numbers to nudge one by one, it uses random directions. It distinguishes kinks from
# mistakes, and it can use the complex step.

# %%
for method in ("central", "complex"):
    assert all(row.ok for row in gradcheck.check_layer(good, x, method=method))
assert [row.tensor for row in gradcheck.check_layer(wrong_norm, x) if not row.ok] == ["x"]  # dx is reported

# %% [markdown]
# ## Three more mistakes
#
# We make three more mistakes on purpose. The check of a single layer or function finds the first two. The third needs a
# check of a whole step.
#
# 1. *A slope that is 0.* The code computes the probability, clips it, and takes the logarithm
#    ([lesson 8](08_losses.py)). The loss is about right, but its slope is exactly 0 where the network is most wrong.
# 2. *A mean in place of a sum.* The code computes `db = dy.mean(axis=0)` and not the sum. The direction is right, but
#    the slope is N times too small. The loss is already a mean over the batch, so the slopes must be added.
# 3. *The cache of the other batch.* The layer stores its last input in itself. After a forward pass on real images and
#    one on fake images, the backward pass for the real images uses the input of the fake images. To avoid this, minigan
#    returns caches and does not store them in the layer.


# %%
def clipped_log_sigmoid(l):
    """Returns the sum of log sigmoid(l) for l (N, 1), and its slope (N, 1), with clipped probabilities (mistake 1)."""
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
    """A dense layer that computes db as a mean (mistake 2)."""

    def backward(self, dy, cache, need_dx=True, need_grads=True):
        """Returns the right dx and dw, and a db that is N times too small."""
        dx, grads = super().backward(dy, cache, need_dx, need_grads)
        return dx, grads | {"b": dy.mean(axis=0)}


network = Sequential(Dense(4, 3, rng=rng), FixedStdBatchNorm(3), Tanh())
l = np.array([[-1.0], [0.5], [-25.0]])
rows = {
    "batch norm without a path": gradcheck.check_layer(FixedStdBatchNorm(3), x),
    "the same, inside a network": gradcheck.check_network(network, rng.normal(size=(6, 4))),
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
    assert wrong, "Checks find a missing path, a mean in place of a sum, and a slope that is 0."
assert [row.tensor for row in rows["a mean in place of a sum"] if not row.ok] == ["b"]  # only b is reported

# %% [markdown]
# Look at the check of the clipped function. It compared the slope with the function that we *meant* to compute. The
# clipped function really is flat there, so a comparison with the clipped function accepts the slope 0. **A
# [gradient check](GLOSSARY.md#gradient-check) shows that backward fits forward, and nothing more.** To show that
# forward is right, compare it with a formula from another source.

# %%
own = gradcheck.check(lambda: clipped_log_sigmoid(l)[0], lambda: {"l": clipped_log_sigmoid(l)[1]}, {"l": l})
assert own[0].ok and clipped_log_sigmoid(l)[1][2] == 0, (  # at l = -25, the slope that we want is 1
    "A gradient check shows that backward fits forward, and nothing more: it accepts the slope of a clipped function."
)

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
assert np.isclose(cosines["Dense"], 1) and cosines["ForgetfulDense"] < 0.95, (
    "Only the check of a whole step finds a layer that uses the cache of the other batch."
)

# %% [markdown]
# `gradcheck.check_step` does this with minigan's own training steps, through both networks. `minigan gradcheck` runs
# all checks. A check that has never failed proves little. This is why we made the mistakes above on purpose.

# %%
figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), width_ratios=(1.2, 1))
axes[0].loglog(steps, np.maximum(central, 1e-17), "o-", color=ORANGE, label="central difference")
axes[0].loglog(steps, np.maximum(imaginary, 1e-17), "o-", color=BLUE, label="imaginary nudge")
axes[0].axhline(2.2e-16, color="grey", linestyle=":")
axes[0].text(1e-20, 4e-16, "all 16 digits", color="grey")
axes[0].set(title="how wrong is the slope?", xlabel="size h of the nudge", ylabel="relative error")
axes[0].legend(loc="upper right")
names = ["right dx,\nc = 1", "right dx,\nrandom c", "wrong dx,\nc = 1", "wrong dx,\nrandom c"]
values = [errors[kind, c] for kind in ("right", "wrong") for c in ("ones", "random")]
axes[1].bar(names, np.maximum(values, 1e-16), bottom=1e-16, color=[GREEN, GREEN, ORANGE, BLUE])
axes[1].set(
    yscale="log",
    ylim=(1e-16, 1e6),
    ylabel="difference that the check finds",
    title="batch norm, with all paths and without one",
)
axes[1].axhline(1e-6, color="grey", linestyle=":")
axes[1].text(-0.4, 2e-6, "above: found wrong", color="grey")
verdicts = {"right, and accepted": GREEN, "wrong, and accepted": ORANGE, "wrong, and found": BLUE}
axes[1].legend(handles=[Patch(color=colour, label=text) for text, colour in verdicts.items()], fontsize=9, ncols=2)
save(figure, "10_trusting_a_gradient.png")

# %% [markdown]
# ## Exercises
#
# Replace the dots with your answer, uncomment the code, and run it.

# %% [markdown]
# **Exercise 1.** A colleague checks softmax ([lesson 4](04_reading_digits.py)), whose outputs sum to 1, with
# `f = sum(y)`. Which slope does the check find for every input?
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
# **Exercise 2.** `fixed_dx` treats the standard deviation as a constant. Add the path that is missing.
#
# <details><summary>Hint</summary>
#
# It is the third path: minus xhat, times the mean of (dxhat * xhat), divided by s. Here gamma is 1, so dxhat is dy,
# which is `random`.
#
# <details><summary>Solution</summary>
#
# ```python
# better = fixed_dx - xhat * (random * xhat).mean(axis=0) / s
# ```
#
# </details></details>

# %% Exercise 2
# _, cache = wrong_norm.forward(x)
# fixed_dx, _ = wrong_norm.backward(random, cache)
# better = ...
# assert np.allclose(better, good.backward(random, cache)[0])

# %% [markdown]
# The next lesson, [11_sgd_or_adam.py](11_sgd_or_adam.py), asks what to do with a gradient that is right: how large a
# step should be, and in which direction.
