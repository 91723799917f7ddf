# %% [markdown]
# # 4. Trusting a gradient
#
# **Question.** A network with a wrong backward pass still learns, only badly. How does one know that it is right?
#
# **Needs.** Lesson 3. **Takes** 2 seconds.
#
# Compare it with nudging, as in lesson 3? Yes, but the usual way of doing so lets the best-known mistakes through. Here
# we build a check that does not, and set it on four mistakes that sit, or sat, in widely read from-scratch libraries.

# %%
import matplotlib.pyplot as plt
import numpy as np
from _common import BLUE, GREEN, ORANGE, save

from minigan.checking import gradcheck
from minigan.layers import BatchNorm, Dense, Sequential, Tanh

rng = np.random.default_rng(0)

# %% [markdown]
# ## How small is a small nudge?
#
# The central difference is wrong by about h^2 (the curve's bend), and by about 1e-16 / h (both values are rounded, then
# subtracted, then divided by h). The best h lies between, near 1e-5, and even there only ten digits are right.
#
# **There is a way to have all sixteen.** Nudge in the *imaginary* direction: `f(x + ih) = f(x) + ih f'(x) - ...`, so
# the imaginary part, divided by h, is the slope, and nothing was subtracted. h may be 1e-20. (Squire and Trapp 1998. It
# needs a function made of smooth pieces that accepts complex numbers; a kink such as ReLU's has no business there.)


# %%
def f(x):
    return np.tanh(x) * np.exp(x)


x, right = 0.7, (1 - np.tanh(0.7) ** 2 + np.tanh(0.7)) * np.exp(0.7)
steps = 10.0 ** np.arange(-20, 0)  # (20,): 1e-20 to 0.1
central = [abs((f(x + h) - f(x - h)) / (2 * h) - right) / right for h in steps]
imaginary = [abs(f(x + 1j * h).imag / h - right) / right for h in steps]
assert 1e-6 <= steps[np.argmin(central)] <= 1e-4 and min(central) < 1e-9
assert central[0] == 1.0  # h = 1e-20: x + h is x, and the slope seems to be 0
assert max(imaginary[:12]) < 1e-14  # h = 1e-20 to 1e-9: every one is right

# %% [markdown]
# ## From an array to a number: the cotangent
#
# A layer gives an array y, and a slope belongs to a number. So take `f = sum(c * y)` with fixed numbers c, one for each
# of y: the *cotangent*. Then dy = c is what comes back from above, and `backward(c)` must give the slopes of f. Many
# checkers take c = 1, that is `f = sum(y)`. Let us look at what this does to batch norm (lesson 10): it takes the mean
# off, so its sum over the batch is the same **whatever x is**. The right slope is 0, and so are many wrong ones.


# %%
def check_dx(layer, x, c, h=1e-5):
    """The worst difference between layer.backward's dx and nudging, relative to the largest slope (or 1e-3)."""
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
    """Takes mean and variance for constants, though they are functions of x: a famous shortcut."""

    def backward(self, dy, cache, need_dx=True, need_grads=True):
        _, grads = super().backward(dy, cache, need_dx, need_grads)
        return np.zeros_like(dy), grads  # and this one gives nothing back at all


x = rng.normal(size=(6, 3))  # (N, C)
good, lazy = BatchNorm(3).to("numpy", np.float64), LazyBatchNorm(3).to("numpy", np.float64)
ones, random = np.ones((6, 3)), rng.normal(size=(6, 3))
errors = {}
for kind, layer in (("right", good), ("wrong", lazy)):
    for name, c in (("ones", ones), ("random", random)):
        errors[kind, name] = check_dx(layer, x, c)
for (kind, c), error in errors.items():
    print(f"batch norm's dx, {kind}, cotangent {c:<7} error {error:.1e}")
assert errors["wrong", "ones"] < 1e-6  # sum(y) does not see that dx is missing altogether
assert errors["right", "random"] < 1e-6 < 0.5 < errors["wrong", "random"]  # a random cotangent does

# %% [markdown]
# minigan's `gradcheck.check_layer` is this check with everything around it: all parameters too, random directions where
# there are too many numbers to nudge one by one, kinks told from mistakes, and the complex step.

# %%
for method in ("central", "complex"):
    assert all(row.ok for row in gradcheck.check_layer(good, x, method=method))
assert any(not row.ok for row in gradcheck.check_layer(lazy, x))

# %% [markdown]
# ## Four famous mistakes
#
# Each is made here anew, and each is caught, the third at the second try.
#
# 1. **Half a batch norm.** The mean and the variance are treated as constants in the backward pass, a plain `dx = dy *
#    gamma / std`. Networks with it train, slowly, and everyone blames the learning rate.
# 2. **A slope that died.** Probability first, then clip, then log (lesson 9): the loss is about right, its slope
#    exactly 0 where the network is most wrong.
# 3. **The other batch's cache.** The layer stores what it saw last. Forward on real, forward on fake, and the backward
#    pass for real uses the memory of fake. minigan returns caches instead of storing them for this reason.
# 4. **A bias summed wrongly.** `db = dy.mean(axis=0)` in place of the sum: right in direction, so it does learn, but N
#    times too small; the sum over the batch was taken already, when the loss was averaged.


# %%
class HalfBatchNorm(BatchNorm):
    def backward(self, dy, cache, need_dx=True, need_grads=True):
        _, grads = super().backward(dy, cache, need_dx, need_grads)
        std = np.sqrt(cache[0].var(axis=0) + self.eps)  # cache[0] is x (N, C)
        return dy * self.params["gamma"] / std, grads


def clipped_log_sigmoid(l):  # (N, 1) -> the sum of log sigmoid(l), and its slope
    p = np.clip(1 / (1 + np.exp(-l)), 1e-8, 1 - 1e-8)
    return np.log(p).sum(), (1 - p) * ((p > 1e-8) & (p < 1 - 1e-8))


class ForgetfulDense(Dense):
    def forward(self, x, train=True, track=True):
        self.seen = x  # on the layer, not in the cache
        return super().forward(x, train, track)

    def backward(self, dy, cache, need_dx=True, need_grads=True):
        return super().backward(dy, self.seen, need_dx, need_grads)


class MeanBiasDense(Dense):
    def backward(self, dy, cache, need_dx=True, need_grads=True):
        dx, grads = super().backward(dy, cache, need_dx, need_grads)
        return dx, grads | {"b": dy.mean(axis=0)}


half = Sequential(Dense(4, 3, rng=rng), HalfBatchNorm(3), Tanh())
l = np.array([[-1.0], [0.5], [-25.0]])
rows = {
    "half a batch norm": gradcheck.check_layer(HalfBatchNorm(3), x),
    "the same, inside a network": gradcheck.check_network(half, rng.normal(size=(6, 4))),
    "a bias summed wrongly": gradcheck.check_layer(MeanBiasDense(4, 3, rng=rng), rng.normal(size=(6, 4))),
    "a slope that died": gradcheck.check(
        lambda: -np.log(1 + np.exp(-l)).sum(),  # log sigmoid, as it is meant
        lambda: {"l": clipped_log_sigmoid(l)[1]},
        {"l": l},
    ),
}
for name, found in rows.items():
    wrong = [row.tensor for row in found if not row.ok]
    print(f"{name:<27} wrong: {', '.join(wrong)}")
    assert wrong
assert [row.tensor for row in rows["a bias summed wrongly"] if not row.ok] == ["b"]  # and nothing else is accused

# %% [markdown]
# Look at the last check: the slope was compared with the function that is *meant*. Compared with the clipped function,
# which really is flat there, the dead slope is "right". **A gradient check shows that backward fits forward, and no
# more**; that forward is what it should be needs a formula from elsewhere.

# %%
own = gradcheck.check(lambda: clipped_log_sigmoid(l)[0], lambda: {"l": clipped_log_sigmoid(l)[1]}, {"l": l})
assert own[0].ok and clipped_log_sigmoid(l)[1][2] == 0  # at l = -25 the true slope is 1

# %% [markdown]
# The third mistake, the forgotten cache, is still missing, and no check of a layer can find it: such a check runs it
# once forward and once back, and then what it saw last is what it needs. It only shows as a discriminator is used: two
# passes forward, then two back. **So a whole step must be checked as well.**


# %%
def discriminator_gradient(layer, real, fake, c_real, c_fake):
    """dw of sum(c_real * y_real) + sum(c_fake * y_fake): both forward passes, then both backward."""
    _, cache_real = layer.forward(real)
    _, cache_fake = layer.forward(fake)
    _, grads_real = layer.backward(c_real, cache_real)
    _, grads_fake = layer.backward(c_fake, cache_fake)
    return grads_real["w"] + grads_fake["w"]


real, fake, c_real, c_fake = (rng.normal(size=shape) for shape in ((6, 4), (6, 4), (6, 3), (6, 3)))
cosines = {}
for kind in (Dense, ForgetfulDense):
    layer = kind(4, 3, rng=rng).to("numpy", np.float64)
    assert all(row.ok for row in gradcheck.check_layer(layer, real))  # alone, both look right
    dw = discriminator_gradient(layer, real, fake, c_real, c_fake)

    def value(layer=layer):
        return (c_real * layer.forward(real)[0]).sum() + (c_fake * layer.forward(fake)[0]).sum()

    row = gradcheck.check(value, lambda dw=dw: {"w": dw}, {"w": layer.params["w"]})[0]
    truth = real.T @ c_real + fake.T @ c_fake
    cosines[kind.__name__] = (dw * truth).sum() / np.sqrt((dw**2).sum() * (truth**2).sum())
    print(f"{kind.__name__:<15} in a whole step: {row.verdict}, cosine with the truth {cosines[kind.__name__]:.2f}")
    assert row.ok == (kind is Dense)
assert np.isclose(cosines["Dense"], 1) and cosines["ForgetfulDense"] < 0.95

# %% [markdown]
# `gradcheck.check_step` does this with minigan's own steps, through both networks, and `minigan gradcheck` runs
# everything. **A check that has never failed proves nothing**: that is why the mistakes above are planted on purpose.

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
# 1. A colleague checks softmax (lesson 5), whose outputs sum to 1, with `f = sum(y)`. Which slope do they find,
#    whatever the input?
# 2. By how much must `dy * gamma / std` be corrected? Batch norm's dx has mean 0 over the batch; make `half_dx` obey
#    that, and it is one step nearer to the truth.

# %% Exercise 1
# slope = ...
# l = rng.normal(size=5)
# softmax = lambda l: np.exp(l) / np.exp(l).sum()
# nudge = np.array([1e-5, 0, 0, 0, 0])
# assert np.isclose((softmax(l + nudge) - softmax(l - nudge)).sum() / 2e-5, slope, atol=1e-9)

# %% Exercise 2
# _, cache = good.forward(x)
# half_dx = random / np.sqrt(x.var(axis=0) + 1e-5)
# better = ...
# truth, _ = good.backward(random, cache)
# assert np.allclose(better.mean(axis=0), 0) and abs(better - truth).sum() < abs(half_dx - truth).sum()

# %% [markdown]
# With gradients to be trusted, [05_reading_digits.py](05_reading_digits.py) puts them to use.
