# %% [markdown]
# # 13. Making it fast
#
# **Question.** The same sums can run more than a thousand times faster than loops in Python. What has to change on the
# way to minigan's kernels?
#
# **You will know** why loops in Python are slow, what compiled loops still wait for, how a register tile keeps a CPU
# busy, what a whole training step gains, and why the fast way still gives the same bits each time.
#
# **Builds on** [lesson 5](05_convolution.py). **Takes** 40 minutes to read, 11 seconds to run, 12 with `--quick`.
#
# We take one convolution, the second in the discriminator of [lesson 9](09_dcgan.py), and make it faster in several
# steps, like the rungs of a ladder. Every rung computes the same numbers. The times are measured on *your* machine and
# depend on what else it is doing.

# %%
import time

import matplotlib.pyplot as plt
import numpy as np
from _common import BLUE, GREY, ORANGE, RUNS, save

from minigan import backends, datasets, models
from minigan.backends.numpy_backend import windows as numpy_windows
from minigan.layers import fuse
from minigan.training import Config, Training, checkpoint

rng = np.random.default_rng(0)
N, H, C, O, K, STRIDE, PAD, P = 64, 14, 32, 64, 4, 2, 1, 7
x = rng.standard_normal((N, H, H, C), dtype=np.float32)  # (64, 14, 14, 32)
w = rng.standard_normal((K, K, C, O), dtype=np.float32)  # (4, 4, 32, 64)
operations = 2 * N * P * P * K * K * C * O  # a multiplication and an addition for each term of each sum
numpy_backend, numba_backend = backends.load("numpy"), backends.load("numba")
right = numpy_backend.conv2d(x, w, STRIDE, PAD)  # (64, 7, 7, 64)
xpad = np.pad(x, ((0, 0), (PAD, PAD), (PAD, PAD), (0, 0)))  # (64, 16, 16, 32)
print(f"one convolution of a batch: {operations / 1e6:.0f} million operations")
assert operations == 205_520_896


def measure(f, repeat=7):
    """Returns the time of the fastest run, in seconds, because other programs can only make a run slower.

    The first run is not counted, because it may compile.
    """
    times = []
    for _ in range(repeat + 1):
        start = time.perf_counter()
        y = f()
        times.append(time.perf_counter() - start)
    assert np.allclose(y, right, rtol=1e-3, atol=1e-3)  # every rung computes the same numbers
    return min(times[1:])


ladder = {}  # name: seconds

# %% [markdown]
# ## Rung 0: loops in Python
#
# This is the equation of [lesson 5](05_convolution.py), term by term. For every `*` and `+`, Python looks up the types
# of the objects, calls a function and creates a new object. We compute three of the 3136 pixels and estimate the total
# time from them.


# %%
def by_python(n, p, q):
    """Computes one pixel of the result, (O,)."""
    y = []
    for o in range(O):
        total = 0.0
        for i in range(K):
            for j in range(K):
                for c in range(C):
                    total += float(xpad[n, p * STRIDE + i, q * STRIDE + j, c]) * float(w[i, j, c, o])
        y.append(total)
    return y


start = time.perf_counter()
for n, p, q in ((0, 0, 0), (5, 3, 6), (63, 6, 2)):
    assert np.allclose(by_python(n, p, q), right[n, p, q], rtol=1e-3, atol=1e-3)
ladder["loops in Python"] = (time.perf_counter() - start) / 3 * N * P * P

# %% [markdown]
# ## Rung 1: one product for each window
#
# The loops inside NumPy are compiled, so we let NumPy run the inner three loops. We need 3136 small matrix products,
# and each one has the cost of a call from Python.


# %%
def by_windows():
    """Computes the convolution with one matrix product for each window."""
    y, columns = np.empty((N, P, P, O), np.float32), w.reshape(-1, O)
    for n in range(N):
        for p in range(P):
            for q in range(P):
                y[n, p, q] = xpad[n, p * STRIDE : p * STRIDE + K, q * STRIDE : q * STRIDE + K].ravel() @ columns
    return y


ladder["a product a window"] = measure(by_windows, 3)

# %% [markdown]
# ## Rung 2: im2col
#
# One large matrix product, as in [lesson 5](05_convolution.py). minigan's reference backend works like this. The
# disadvantage is the copy of all windows, which is about four times as large as x.

# %%
windows = numpy_windows(x, K, STRIDE, PAD)  # (N, P, P, K, K, C)
assert 3.9 < windows.size / x.size <= 4
ladder["im2col, NumPy"] = measure(lambda: numpy_backend.conv2d(x, w, STRIDE, PAD))

# %% [markdown]
# ## Rung 3: the loops, compiled
#
# `@njit` compiles the loops of rung 0 to machine code. They are much faster than in Python, and still slow. Each
# addition needs the result of the addition before it, so it has to wait for it.


# %%
import numba  # noqa: E402
from numba import njit, prange  # noqa: E402  (after minigan's backend, which sets the number of threads)


@njit
def compiled(xpad, w):
    """Computes the convolution with compiled loops, on one core."""
    y = np.empty((N, P, P, O), np.float32)
    for n in range(N):
        for p in range(P):
            for q in range(P):
                for o in range(O):
                    total = np.float32(0)
                    for i in range(K):
                        for j in range(K):
                            for c in range(C):
                                total += xpad[n, p * STRIDE + i, q * STRIDE + j, c] * w[i, j, c, o]
                    y[n, p, q, o] = total
    return y


ladder["loops, compiled"] = measure(lambda: compiled(xpad, w), 3)

# %% [markdown]
# ## Rung 4: the right order, and all cores
#
# We make the loop over o the innermost loop. The numbers of w and y that it uses are next to each other in memory, and
# no addition waits for another. So the compiler can use instructions that multiply several numbers at once (SIMD).
# `prange` distributes the images over the cores.


# %%
@njit(parallel=True, fastmath=True)
def reordered(xpad, w):
    """Computes the convolution with the loop over o innermost, on all cores."""
    y = np.zeros((N, P, P, O), np.float32)
    for n in prange(N):
        for p in range(P):
            for q in range(P):
                for i in range(K):
                    for j in range(K):
                        for c in range(C):
                            for o in range(O):
                                y[n, p, q, o] += xpad[n, p * STRIDE + i, q * STRIDE + j, c] * w[i, j, c, o]
    return y


ladder["right order, all cores"] = measure(lambda: reordered(xpad, w))

# %% [markdown]
# ## Rung 5: the register tile
#
# For every multiplication, rung 4 loads y and w and stores y. Loading takes time, too, so every number that is loaded
# should be used several times. The solution is a *[register tile](GLOSSARY.md#register-tile)*: keep a small tile of y
# in *registers*, which are the few variables inside the CPU. The tile has R pixels and V vectors of channels. For each
# term of the sum, load R numbers of x and V vectors of w, and multiply each number by each vector:
#
#     multiplications for each load = R V / (R + V)        registers: R V for the sums, V for w, 1 for x
#
# If this number is above 1, there are fewer loads than multiplications. **With 32 registers, many tiles are large
# enough.** minigan uses R = 14 and V = 2 on CPUs that have 32 registers. `minigan/backends/numba/microkernel.py`
# explains the details.


# %%
def reuse(R, V):
    return R * V / (R + V)


tiles = [(1, 1), (4, 1), (14, 2), (9, 3), (5, 5)]  # (R, V)
assert all(R * V + V + 1 <= 32 for R, V in tiles)
assert reuse(1, 1) == 0.5 and reuse(14, 2) == 1.75
assert min(reuse(R, V) for R, V in tiles[2:]) > 1, "With 32 registers, several tiles need fewer loads than products."
ladder["register tile (minigan)"] = measure(lambda: numba_backend.conv2d(x, w, STRIDE, PAD))

# %% [markdown]
# ## Rung 6: the GPU
#
# A graphics card ([GPU](GLOSSARY.md#gpu)) computes with thousands of threads at the same time. Each block of threads
# keeps a tile of y, as in rung 5. If there is no GPU, this rung is skipped.

# %%
try:
    gpu = backends.load("cupy")
except backends.BackendUnavailable as cause:
    print(f"no GPU: {cause}")
else:
    gx, gw = gpu.asarray(x), gpu.asarray(w)

    def on_gpu():
        """Computes the convolution and waits until the GPU has finished."""
        y = gpu.conv2d(gx, gw, STRIDE, PAD)
        gpu.synchronize()
        return y

    assert np.allclose(gpu.to_numpy(on_gpu()), right, rtol=1e-4, atol=1e-3)
    times = []
    for _ in range(10):
        start = time.perf_counter()
        on_gpu()
        times.append(time.perf_counter() - start)
    ladder["graphics card (minigan)"] = min(times)

# %%
first = ladder["loops in Python"]
for name, seconds in ladder.items():
    print(f"{name:<24}{1000 * seconds:12.2f} ms {operations / seconds / 1e9:9.2f} GFLOP/s {first / seconds:10,.0f} x")
assert all(first > 20 * seconds for name, seconds in ladder.items() if name != "loops in Python")
assert ladder["right order, all cores"] < ladder["loops, compiled"], (
    "Compiled loops in the right order are faster than compiled loops in the order of the formula."
)
assert ladder["register tile (minigan)"] < ladder["loops, compiled"]
assert first > 1000 * ladder["register tile (minigan)"], (
    "minigan's convolution is more than a thousand times faster than loops in Python."
)

# %% [markdown]
# ## A whole step
#
# A faster convolution does not prove that a whole training step is faster. So we also measure a step of
# [lesson 9](09_dcgan.py), on the reference backend and on the compiled backend, with one core each. **The compiled
# backend is faster, and the losses are the same up to rounding.**

# %%
data, both = datasets.mnist("test"), [backends.load(name, threads=1) for name in ("numpy", "numba")]
trainings = {backend.name: Training(Config.of("small", steps=12, batch=64), data, backend) for backend in both}
for training in trainings.values():
    training.warm_up()
steps, whole = {name: training.records() for name, training in trainings.items()}, {"numpy": [], "numba": []}
for _ in range(12):  # in turns, so that other programs on the machine disturb both
    found = {}
    for name, records in steps.items():
        start = time.perf_counter()
        found[name] = next(records)
        whole[name].append(time.perf_counter() - start)
    a, b = found.values()
    assert np.isclose(a["d_loss"], b["d_loss"], rtol=0.02) and np.isclose(a["g_loss"], b["g_loss"], rtol=0.02)
for name, times in whole.items():
    print(f"a step of 09_dcgan.py on {name}: {1000 * min(times):.0f} ms")
assert min(whole["numba"]) < min(whole["numpy"]), "A whole training step is faster on the compiled backend."

# %% [markdown]
# One of these improvements is not part of any layer. Adding the bias reads and writes every number of the output, and
# the LeakyReLU that follows reads and writes every number again. `fuse` merges the two into one pass. It also merges
# batch norm with its LeakyReLU. Everything else stays the same: the parameters, the output, and the gradients up to
# rounding. `Training` uses the fused networks. The layers themselves are those of [lesson 9](09_dcgan.py).

# %%
G, D = (network.to(numba_backend) for network in models.build("small", rng=rng))
real = numba_backend.asarray(datasets.scale(data.images[:64]))  # (64, 28, 28, 1)
logits, cache = D.forward(real)
fused_logits, fused_cache = fuse(D).forward(real)
assert np.array_equal(logits, fused_logits)
ones = np.ones_like(logits)
for g, h in zip(D.backward(ones, cache)[1].values(), fuse(D).backward(ones, fused_cache)[1].values(), strict=True):
    assert np.allclose(g, h, rtol=1e-4, atol=1e-5)
print(fuse(D))

# %% [markdown]
# ## Fast, and the same bits
#
# Sums of floating-point numbers depend on their order, so a fast program can easily give slightly different results
# each time. minigan's training avoids this: **the seed decides every bit of the result, and the number of threads does
# not.** So a training that was stopped can also continue as if nothing had happened. A checkpoint contains the complete
# state: the weights, the running averages, the state of the optimizers, the random generators and the position in the
# data. **Two steps, a checkpoint, and two more steps in a new `Training` give the same bits as four steps.**


# %%
def train(steps):
    """Returns a training of the networks of 09_dcgan.py."""
    return Training(Config.of("small", steps=steps, batch=64), data, numba_backend)


def bits(training):
    """Returns all weights of both networks as bytes."""
    return b"".join(w.tobytes() for network in (training.G, training.D) for w in network.params.values())


assert (0.1 + 0.2) + 0.3 != 0.1 + (0.2 + 0.3)  # the order of a sum decides its last bits
RUNS.mkdir(exist_ok=True)
first_run = train(4)
for record in first_run.records():
    if record["step"] == 2:
        checkpoint.save(RUNS / "13_checkpoint.npz", *first_run.state())
threads = numba.get_num_threads()
numba.set_num_threads(1)
second_run = train(4)
for _ in second_run.records():
    pass
numba.set_num_threads(threads)
assert bits(first_run) == bits(second_run), "The seed decides every bit of a training; the number of threads does not."
resumed = train(4)
resumed.load_state(RUNS / "13_checkpoint.npz", *checkpoint.load(RUNS / "13_checkpoint.npz"))
assert resumed.step == 2 and bits(resumed) != bits(first_run)
for _ in resumed.records():
    pass
assert bits(resumed) == bits(first_run), "A training that continues from a checkpoint gives the same bits."

# %%
figure, axes = plt.subplots(1, 2, figsize=(10, 3.8), width_ratios=(1.7, 1))
names, seconds = list(ladder), np.array(list(ladder.values()))
colours = [BLUE if "minigan" in name else ORANGE for name in names]
axes[0].barh(names, 1000 * seconds, color=colours)
for k, s in enumerate(seconds):
    text = f" {1000 * s:,.{0 if s > 0.1 else 1}f} ms" + (f": {first / s:,.0f} times faster" if k else " (estimated)")
    axes[0].text(1000 * s, k, text, va="center")
axes[0].set(xscale="log", xlabel="milliseconds for one convolution, logarithmic", title="the ladder")
axes[0].set_xlim(500 * seconds.min(), 2e6 * seconds.max())
axes[0].invert_yaxis()
axes[0].grid(axis="x", color="#dddddd")
axes[0].set_axisbelow(True)
axes[1].bar([f"{R} x {V}" for R, V in tiles], [reuse(*tile) for tile in tiles], color=[GREY, GREY, BLUE, GREY, GREY])
axes[1].axhline(1, color="black", linestyle=":")
axes[1].text(-0.4, 1.03, "enough")
axes[1].set(title="why a tile", xlabel="R pixels x V vectors of channels", ylabel="multiplications for each load")
save(figure, "13_making_it_fast.png")

# %% [markdown]
# ## Exercises
#
# Replace the dots with your answer, uncomment the code, and run it.

# %% [markdown]
# **Exercise 1.** A CPU has 16 registers. How large can R be if V = 2?
#
# <details><summary>Hint</summary>
#
# The tile needs R V registers for the sums, V for w and 1 for x. Together at most 16.
#
# <details><summary>Solution</summary>
#
# ```python
# R = 6
# ```
#
# </details></details>

# %% Exercise 1
# R = ...
# assert R * 2 + 2 + 1 <= 16 < (R + 1) * 2 + 2 + 1

# %% [markdown]
# **Exercise 2.** With a stride of 4 in place of 2, the convolution has P = 4. What fraction of the operations does it
# need?
#
# <details><summary>Hint</summary>
#
# The number of operations is proportional to the number of pixels of the result, P * P. Before, P was 7.
#
# <details><summary>Solution</summary>
#
# ```python
# fraction = 16 / 49
# ```
#
# </details></details>

# %% Exercise 2
# fraction = ...
# ours, theirs = (np.zeros((N, backends.conv_size(H, K, s, PAD), backends.conv_size(H, K, s, PAD), O)) for s in (2, 4))
# assert np.isclose(theirs.size / ours.size, fraction)

# %% [markdown]
# This is the end of part II. To see more kernels, read `minigan/backends/numba/backend.py`. Part III starts with
# [14_mode_collapse.py](14_mode_collapse.py), which asks why a forger draws only a few things, and what helps.
