# %% [markdown]
# # 26. One step, many processes
#
# **Question.** How can several computers train one GAN as if they were one, and what must not differ between them?
#
# **You will know** which numbers the processes add up in each step, why batch norm needs sums in both directions, which
# random numbers must agree, why the result is not the same to the last bit, and when more processes pay.
#
# **Builds on** [lesson 10](10_trusting_a_gradient.py) and [lesson 11](11_sgd_or_adam.py).
# **Takes** 40 minutes to read, 3 seconds to run.
#
# A large batch takes long. Two computers could each take half of it. `mpirun -n 2 minigan train` does this: it starts
# two processes, each with a copy of both networks and a part of every batch. The aim is strict. After each step, both
# copies are to be what one process with the whole batch would have. Then nobody has to ask whether the training still
# works.

# %%
import matplotlib.pyplot as plt
import numpy as np
from _common import BLUE, GREEN, GREY, ORANGE, arrow, blank, box, save

from minigan.checking import gradcheck

rng = np.random.default_rng(0)

# %% [markdown]
# ## Worked by hand: the mean of means is wrong
#
# Let the loss of a sample be (w x)^2 / 2, and the loss of a batch the mean. The slope of a sample with respect to w is
# w x^2. We take w = 1 and the batch x = 1, 2, 3, 4, 6. One process gets
#
#     (1 + 4 + 9 + 16 + 36) / 5 = 66 / 5 = 13.2
#
# Now process A has x = 1, 2, 3, and process B has x = 4, 6:
#
#     mean of A: 14 / 3 = 4.67        mean of B: 52 / 2 = 26        mean of both means: 15.33     wrong
#     sum of A: 14                    sum of B: 52                  (14 + 52) / 5 = 13.2          right
#
# **The processes add sums and divide by the size of the whole batch. The mean of their means is right only if all parts
# have the same size.** The last batch of an epoch often has another size, so the mistake is easy to miss.

# %%
w, x = 1.0, np.array([1.0, 2.0, 3.0, 4.0, 6.0])
part_a, part_b = w * x[:3] ** 2, w * x[3:] ** 2  # the slopes of the samples
whole = np.mean(w * x**2)
assert np.isclose(whole, 13.2) and np.isclose((part_a.sum() + part_b.sum()) / 5, whole)
assert np.isclose((part_a.mean() + part_b.mean()) / 2, 15.33, atol=5e-3), (
    "With parts of different sizes, the mean of the means is not the mean of the batch."
)

# %% [markdown]
# ## Everybody needs the sum
#
# After its backward pass, each process has the slopes of its part for all weights. All of them need the sum. One could
# collect all slopes in one process and send the sum back. With many processes, this one would receive a lot, while the
# others wait.
#
# It is better to stand in a ring. We cut the slopes into as many pieces as there are processes. In each round, everyone
# sends one piece to the right and gets one from the left. In the first rounds, each adds its own numbers to the piece
# that it gets. After n - 1 rounds, each process has the complete sum of one piece. In n - 1 more rounds, the complete
# pieces go around the ring. This is called *[all-reduce](GLOSSARY.md#all-reduce)*. (Patarasuk and Yuan 2009.)


# %%
def ring(slopes):
    """Adds the arrays (K,) of n processes in a ring.

    Returns what each process has at the end, and how many numbers each has sent.
    """
    n = len(slopes)
    pieces = [np.array_split(its.copy(), n) for its in slopes]  # pieces[p][k]: piece k of process p
    sent = 0
    for t in range(2 * (n - 1)):
        # Everyone sends at once: process p sends piece (p - t) modulo n, first for adding, then for replacing.
        moving = [pieces[p][(p - t) % n].copy() for p in range(n)]
        sent += max(map(len, moving))
        for p in range(n):
            k, got = (p - 1 - t) % n, moving[p - 1]
            pieces[p][k] = pieces[p][k] + got if t < n - 1 else got
    return [np.concatenate(its) for its in pieces], sent


for n in (2, 3, 8, 50):
    slopes = rng.normal(size=(n, 1000))
    sums, sent = ring(slopes)
    assert all(np.allclose(its, slopes.sum(axis=0)) for its in sums)
    assert all(np.array_equal(its, sums[0]) for its in sums), "After the ring, every process has the same bits."
    assert sent < 2 * 1000 + 2 * n, "In a ring, each process sends less than about twice the size of the slopes."
    print(f"{n:2} processes, 1000 slopes: each sends {sent} numbers")

# %% [markdown]
# **However many processes there are, each sends about twice as many numbers as there are slopes.** And all get the same
# bits, because each piece is added up once, in one order.
#
# ## Batch norm needs sums, too
#
# Most layers treat each sample alone. *[Batch norm](GLOSSARY.md#batch-norm)* does not: it subtracts the mean of the
# whole batch. If each process took the mean of its own part, it would compute another function. So the processes add up
# their sums of x, and then their sums of (x - mean)^2.
#
# The way back is easier to forget. With xhat = (x - mean) / std and the slope dy of the output,
# [lesson 10](10_trusting_a_gradient.py) found
#
#     dx = (dy - mean(dy) - xhat * mean(dy * xhat)) / std
#
# Both means are over the whole batch. **So batch norm needs two sums on the way forward and two on the way back.**


# %%
def batch_norm(parts, dparts, forward="shared", backward="shared"):
    """Returns y and dx of batch norm (without scale and shift) for the parts of a batch, joined.

    "shared" uses sums over all parts. "own" uses those of each part alone.
    """

    def mean(values, how):
        if how == "own":
            return [its.mean(axis=0) for its in values]
        total, count = sum(its.sum(axis=0) for its in values), sum(map(len, values))
        return [total / count] * len(values)

    means = mean(parts, forward)
    variances = mean([(its - m) ** 2 for its, m in zip(parts, means, strict=True)], forward)
    stds = [np.sqrt(v + 1e-5) for v in variances]
    xhats = [(its - m) / s for its, m, s in zip(parts, means, stds, strict=True)]
    a = mean(dparts, backward)
    b = mean([dy * xhat for dy, xhat in zip(dparts, xhats, strict=True)], backward)
    dxs = [(dy - a[p] - xhats[p] * b[p]) / stds[p] for p, dy in enumerate(dparts)]
    return np.concatenate(xhats), np.concatenate(dxs)


x, dy = rng.normal(size=(8, 3)), rng.normal(size=(8, 3))
y_whole, dx_whole = batch_norm([x], [dy])
thirds = [slice(0, 3), slice(3, 5), slice(5, 8)]  # three processes
parts, dparts = [x[s] for s in thirds], [dy[s] for s in thirds]
y, dx = batch_norm(parts, dparts)
assert np.allclose(y, y_whole, atol=1e-12) and np.allclose(dx, dx_whole, atol=1e-12), (
    "With shared sums in both directions, three processes compute the batch norm of one."
)
y_own, _ = batch_norm(parts, dparts, forward="own")
y_half, dx_half = batch_norm(parts, dparts, backward="own")
print(f"own means forward: y is wrong by {np.abs(y_own - y_whole).max():.2f}")
print(f"own means backward only: y is right, dx is wrong by {np.abs(dx_half - dx_whole).max():.2f}")
assert np.abs(y_own - y_whole).max() > 0.1
assert np.allclose(y_half, y_whole, atol=1e-12) and np.abs(dx_half - dx_whole).max() > 0.1, (
    "If only the way back uses the means of its own part, the outputs are right and the slopes are wrong."
)
rows = gradcheck.check(lambda: (batch_norm([x[s] for s in thirds], dparts)[0] * dy).sum(), lambda: {"x": dx}, {"x": x})
assert all(row.ok for row in rows)  # through all three processes

# %% [markdown]
# The second mistake is dangerous: all outputs and losses are right, and the training is only a little worse. A check of
# gradients finds it ([lesson 10](10_trusting_a_gradient.py)), if it looks at the processes together.
#
# ## What must not differ
#
# **1. The weights at the start.** All processes get the same sum of slopes, so all take the same step. That keeps equal
# weights equal. It does not make unequal weights equal: a difference at the start stays for ever.
#
# **2. The order of the samples.** If each process shuffles the data in its own way, and takes its half of each batch,
# then some samples are seen twice in an epoch, and others never. A sample is missed by one of two processes with
# probability 1/2, and by both with 1/4.
#
# **3. The random numbers of a layer.** *[Dropout](GLOSSARY.md#dropout)* ([lesson 17](17_dropout_or_batch_norm.py))
# draws a mask for the batch. If each process draws with the same seed for its part, all parts get the same mask. If
# each draws with its own seed, no part gets what one process would draw. The solution: a sample's random numbers depend
# on its *place in the whole batch*.


# %%
def own_weights(steps=200):
    """Fits a line with two processes whose weights differ at the start. Returns the differences in all steps."""
    w, gaps = np.array([0.3, 0.9]), []
    for _ in range(steps):
        x = rng.normal(size=20)
        slope = sum(((w[p] - 2) * half * half).sum() for p, half in enumerate((x[:10], x[10:]))) / 20
        w = w - 0.1 * slope  # both take the same step
        gaps.append(w[1] - w[0])
    return np.array(gaps)


gaps = own_weights()
assert np.allclose(gaps, 0.6), "Equal steps keep the difference of unequal weights for ever."

N = 20_000
seen = np.concatenate([rng.permutation(N).reshape(-1, 2, 50)[:, p] for p in range(2)]).ravel()  # batches of 100
missed = 1 - len(np.unique(seen)) / N
print(f"two processes with their own orders miss {missed:.1%} of the samples in an epoch")
assert abs(missed - 0.25) < 0.02, "Two processes with their own orders miss a quarter of the samples in an epoch."


def mask(places, seed=7, units=6):
    """Returns a dropout mask (N, units) for the samples at these places of the batch."""
    return np.array([np.random.default_rng([seed, place]).random(units) > 0.5 for place in places])


one = mask(range(8))
by_place = np.concatenate([mask(range(s.start, s.stop)) for s in thirds])
same_seed = [mask(range(s.stop - s.start)) for s in thirds]
assert np.array_equal(by_place, one), "Masks by place in the whole batch are those of one process."
assert np.array_equal(same_seed[0], same_seed[2])  # both have three samples: the same masks

# %% [markdown]
# ## Equal, but not to the last bit
#
# One process adds the slopes of a batch in one order. Two processes first add within their parts. In exact arithmetic,
# the order does not matter. A computer rounds each sum, so it does matter, a little. **In float32, the sums differ in
# about the seventh digit. In float64, they differ in about the sixteenth.** So a test must compare in float64 with a
# small tolerance, and a run with another number of processes is not the same to the last bit.

# %%
off = {}
for dtype in (np.float32, np.float64):
    slopes = rng.normal(size=(256, 2000)).astype(dtype) + dtype(1)  # (samples, weights)
    once, twice = slopes.sum(axis=0), slopes[:128].sum(axis=0) + slopes[128:].sum(axis=0)
    off[dtype] = np.abs(once / twice - 1).max()
    print(f"{np.dtype(dtype).name}: the sums differ by up to {off[dtype]:.0e} of their value")
assert 1e-9 < off[np.float32] < 1e-5 and off[np.float64] < 1e-13, (
    "The order of adding changes sums of slopes in float32 by less than a hundred thousandth, in float64 far less."
)

# %% [markdown]
# ## When does it pay?
#
# A step of n processes has three parts: work that everyone does, such as the update of the weights (a); work that is
# divided (b for each sample); and the messages. With the *[latency](GLOSSARY.md#latency)* of a message and the
# bandwidth of the network, in bytes per second:
#
#     t(n) = a + b batch / n + messages log2(n) latency + 2 (n - 1) / n bytes / bandwidth
#
# `benchmarks/bench_ranks.py` measured a, b, the messages and the bytes for the networks of the preset `tutorial`, and
# assumes a network with 20 microseconds and 10 gigabits per second. **With a batch of 256, sixteen processes are more
# than five times as fast as one, but 256 of them, with one sample each, are not even twice as fast as sixteen. With a
# batch of 256,000, a thousand processes are more than 800 times as fast as one.** The part a, and the messages, do not
# get smaller. So they need a large batch, of which each process has enough.

# %%
model = dict(a=0.0454, b=0.00251, messages=39, bytes=10_274_052, latency=20e-6, bandwidth=1.25e9)  # seconds, bytes


def seconds(n, batch):
    """Returns the time of a step of n processes by the model."""
    talk = model["messages"] * np.log2(n) * model["latency"] + 2 * (n - 1) / n * model["bytes"] / model["bandwidth"]
    return model["a"] + model["b"] * batch / n + talk


def speed_up(n, batch):
    """Returns how many times as fast as one process n processes are, with the same batch."""
    return seconds(1, batch) / seconds(n, batch)


print(f"batch 256: 2 processes {speed_up(2, 256):.2f}, 16 {speed_up(16, 256):.1f}, 256 {speed_up(256, 256):.1f}")
print(f"batch 256,000: 1000 processes {speed_up(1000, 256_000):.0f}")
assert 5 < speed_up(16, 256) < speed_up(256, 256) < 2 * speed_up(16, 256), (
    "With a batch of 256, sixteen processes are over five times as fast as one, and 256 less than twice as fast as 16."
)
assert speed_up(1000, 256_000) > 800, "With a batch of 256,000, 1,000 processes are over 800 times as fast as one."

# %% [markdown]
# But a larger batch is another training: an epoch has fewer steps, and the learning rate may have to change ([lesson
# 11](11_sgd_or_adam.py)). Dividing a batch changes only the time.
#
# minigan puts all this into four operations of a backend: the place of a part in the batch, the sum over all processes,
# the joined parts, and the start of a layer's random numbers. The layers do not know how many processes there are
# (`minigan/backends/ranks.py`). `minigan gradcheck` compares whole steps with one to four processes.

# %% [markdown]
# ## The figure

# %%
figure = plt.figure(figsize=(10, 6.4))
top, bottom = figure.subfigures(2, 1, height_ratios=(1, 1.15))
axis = top.subplots()
blank(axis, 20, 6)
for y, name, samples, colour in ((4.6, "A", "samples 1 to 3", BLUE), (1.4, "B", "samples 4 and 5", GREEN)):
    box(axis, 2.6, y, f"process {name}\n{samples}", colour, 3.6, 1.5)
    box(axis, 8.0, y, "forward\nand backward", colour, 3.6, 1.5)
    box(axis, 17.6, y, "the same step", colour, 3.4, 1.5)
    arrow(axis, (4.5, y), (6.1, y), colour=colour)
    arrow(axis, (9.9, y), (12.0, 3.0 + 0.35 * np.sign(y - 3)), "its sum", colour, (0.2, 0.55 * np.sign(y - 3)))
    arrow(axis, (13.9, 3.0 + 0.35 * np.sign(y - 3)), (15.8, y), "sum / 5", colour, (-0.2, 0.55 * np.sign(y - 3)))
box(axis, 12.95, 3.0, "+", ORANGE, 1.8, 1.1)
arrow(axis, (8.0, 3.8), (8.0, 2.2), "", ORANGE, arrowstyle="<|-|>")
axis.text(7.7, 3.0, "sums of\nbatch norm", ha="right", va="center", color=ORANGE, fontsize=10)
axis.set_title("a step of two processes", loc="left")
left, right = bottom.subplots(1, 2)
left.plot(gaps, color=ORANGE, label="other weights at the start")
left.plot(np.zeros_like(gaps), color=BLUE, label="the same weights at the start")
left.set(xlabel="step", ylabel="difference of the weights", title="equal steps do not heal", ylim=(-0.1, 0.9))
left.legend(loc="upper right", fontsize="small")
many = np.unique(np.logspace(0, 3, 40).astype(int))
for batch, colour in ((256, BLUE), (4096, GREEN), (65536, ORANGE)):
    fits = many[many <= batch]
    right.loglog(fits, [speed_up(n, batch) for n in fits], color=colour, label=f"batch {batch:,}")
right.loglog(many, many, color=GREY, linestyle=":", label="n times as fast")
right.set(xlabel="processes", ylabel="times as fast as one", title="when it pays, by the model")
right.legend(fontsize="small")
save(figure, "26_one_step_many_processes.png")

# %% [markdown]
# ## Exercises
#
# Replace the dots with your answer, uncomment the code, and run it.

# %% [markdown]
# **Exercise 1.** Three processes have the sums 10, 20 and 60 of a slope, for parts of 2, 3 and 5 samples. By which
# slope does each process change its weight?
#
# <details><summary>Hint</summary>
#
# The mean over the whole batch of ten samples.
#
# <details><summary>Solution</summary>
#
# ```python
# slope = (10 + 20 + 60) / 10
# ```
#
# </details></details>

# %% Exercise 1
# slope = ...
# parts = [np.full(2, 5.0), np.full(3, 20 / 3), np.full(5, 12.0)]
# assert np.isclose(np.concatenate(parts).mean(), slope)

# %% [markdown]
# **Exercise 2.** Five processes, each with its own order of the data, take a fifth of each batch. Which share of the
# samples does none of them see in an epoch?
#
# <details><summary>Hint</summary>
#
# One process misses a sample with probability 4/5. The orders are independent.
#
# <details><summary>Solution</summary>
#
# ```python
# share = (4 / 5) ** 5
# ```
#
# </details></details>

# %% Exercise 2
# share = ...
# seen = np.concatenate([rng.permutation(N).reshape(-1, 5, 20)[:, p] for p in range(5)]).ravel()
# assert abs(1 - len(np.unique(seen)) / N - share) < 0.02

# %% [markdown]
# This is the last lesson. Go back to [the contents](README.md).
