# %% [markdown]
# # 21. Rows instead of pixels
#
# **Question.** How can a GAN make the rows of a table, with numbers of any size, words, and missing values?
#
# **You will know** how numbers become ranks and words become one-hot groups, how a network can draw a category and
# still get slopes (Gumbel-softmax), and how to see whether the columns of the fakes fit together.
#
# **Builds on** [lesson 18](18_labels.py). **Takes** 35 minutes to read, 10 seconds to run, 9 with `--quick`. It needs
# pandas: `pip install 'minigan[tables]'`.
#
# All pixels of an image are alike: each is a number from 0 to 255. The columns of a table are not. One has grams, one
# has words, one has years. Some cells are empty. The game of forger and critic stays the same. Two things have to be
# solved: how to write a row as numbers that networks like, and how a forger can draw a *word*.

# %%
import matplotlib.pyplot as plt
import numpy as np
from _common import BLUE, GREEN, GREY, ORANGE, QUICK, save

from minigan import backends, datasets
from minigan.datasets.tables import TableOptions
from minigan.layers import TableHead
from minigan.training import Config, Training

rng = np.random.default_rng(0)
data = datasets.KINDS["tables"].load("penguins", TableOptions(label="species"), 0)
real = data.frame  # the rows as a data frame of pandas
print(real.head(6).to_string())

# %% [markdown]
# These are 344 penguins from three islands in Antarctica (Horst, Hill and Gorman 2020). Each row is a penguin. Some
# cells are empty ("NaN"), because nobody could say what should be there.
#
# ## Numbers become ranks
#
# A penguin weighs 2700 to 6300 grams. If we only scaled this to [-1, 1], a single cell with 99,999 by mistake would
# press all others together. So we sort the values and use the *[rank](GLOSSARY.md#rank)*: how many values are smaller.
# Scaled to [-1, 1], the rank of the i-th of N values (counted from 0) is
#
#     (i + 1/2) / N * 2 - 1
#
# ## Worked by hand: four penguins
#
# The weights are 3250, 5850, 3800 and 3400. Sorted: 3250, 3400, 3800, 5850. The ranks 0, 1, 2, 3 become
#
#     3250    (0 + 0.5) / 4 * 2 - 1 = -0.75        3400    (1 + 0.5) / 4 * 2 - 1 = -0.25
#     3800    (2 + 0.5) / 4 * 2 - 1 =  0.25        5850    (3 + 0.5) / 4 * 2 - 1 =  0.75
#
# If the heaviest weighed 99,999 grams, nothing would change. To go back, we look up which value has the rank. **Ranks
# are spread evenly, whatever the values are, and going back gives the same values.**


# %%
def ranks(x):
    """Returns the scaled ranks (N,) of values x (N,)."""
    return (x.argsort().argsort() + 0.5) / len(x) * 2 - 1


def back(r, values):
    """Returns the values (M,) for scaled ranks r (M,), given all values (N,) of the column."""
    place = np.floor((r + 1) / 2 * len(values)).astype(int)
    return np.sort(values)[place.clip(0, len(values) - 1)]


grams = np.array([3250, 5850, 3800, 3400])
assert ranks(grams).tolist() == [-0.75, 0.75, 0.25, -0.25]
assert ranks(np.where(grams == 5850, 99_999, grams)).tolist() == ranks(grams).tolist()
for strange in (rng.lognormal(size=1000), rng.normal(size=1000) ** 3):
    assert (np.histogram(ranks(strange), bins=10, range=(-1, 1))[0] == 100).all() and np.array_equal(
        back(ranks(strange), strange), strange
    ), "Ranks are spread evenly, whatever the values are, and going back gives the same values."

features = data.batch(np.arange(len(data)))  # (344, F): what the networks see
mass, (column, start) = (
    real["body_mass_g"].to_numpy(float, na_value=np.nan),
    next(p for p in data.codec.parts if p[0].name == "body_mass_g"),
)
there = ~np.isnan(mass)
a, b = mass[there], features[there, start]
assert (np.diff(b[np.argsort(a, kind="stable")]) > -0.1).all() and -1 <= b.min() < -0.9 and 0.9 < b.max() <= 1
assert np.array_equal(
    data.codec.decode(features)["body_mass_g"].to_numpy(float, na_value=np.nan)[there], a
)  # minigan goes back exactly

# %% [markdown]
# (Equal values share an interval of ranks. minigan spreads them over this interval. And whole numbers with few
# different values, such as the year or the length of the flipper, are treated like words.)
#
# ## Words become one-hot groups
#
# A species becomes three numbers, of which one is 1, as the labels in [lesson 18](18_labels.py). An empty cell is just
# one more value: the sex becomes three numbers, "female", "male" and "missing". So the whole row is a list of numbers
# in [-1, 1] and of one-hot *groups*. **Each group of a real row has one 1, and all others are 0.**

# %%
for column, start in data.codec.parts:
    print(f"features {start:2} to {start + column.width - 1:2}: {column.name}")
groups = data.codec.groups
print("groups:", groups)
for start, stop in groups:
    part = features[:, start:stop]
    assert (part.sum(axis=1) == 1).all() and set(np.unique(part)) == {0, 1}, (
        "Each group of a real row has one 1, and all others are 0."
    )

# %% [markdown]
# ## How to draw a word, and still get slopes
#
# The forger computes a logit for each word. Softmax turns logits into probabilities ([lesson
# 4](04_reading_digits.py)). But a row needs *one* word, not probabilities, so we have to draw one. And drawing has no
# slope: a tiny change of a logit does not change the word that was drawn, or it changes it completely.
#
# The first idea is a trick to draw: **add random numbers g = -log(-log u) to the logits, with u uniform between 0 and
# 1, and take the largest. This draws each word with exactly its probability.** (g has the *Gumbel* distribution.)
#
# The second idea: take a softmax in place of the largest, after dividing by a small number t, the
# *[temperature](GLOSSARY.md#temperature)*:
#
#     y = softmax((l + g) / t)
#
# This *[Gumbel-softmax](GLOSSARY.md#gumbel-softmax)* is nearly one-hot, and it has slopes (Jang et al. 2017). By hand,
# for the logits l = (1, 0, -1):
#
#     softmax(l)                                   0.665   0.245   0.090        the probabilities
#     u                                            0.5     0.5     0.9          random
#     g = -log(-log u)                             0.367   0.367   2.250
#     l + g                                        1.367   0.367   1.250        the first is the largest
#     softmax((l + g) / t)      with t = 1         0.443   0.163   0.394
#                               with t = 0.2       0.639   0.004   0.357
#                               with t = 0.05      0.911   0.000   0.089
#
# **The smaller t is, the closer is y to one-hot.** But with a very small t, the slopes are close to 0 for most draws.
# minigan uses t = 0.2.


# %%
def softmax(l):
    """Computes softmax over the last axis."""
    e = np.exp(l - l.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


l, u = np.array([1.0, 0, -1]), np.array([0.5, 0.5, 0.9])
g = -np.log(-np.log(u))
assert np.allclose(softmax(l), [0.665, 0.245, 0.090], atol=1e-3) and np.allclose(g, [0.367, 0.367, 2.250], atol=1e-3)
for t, expected in ((1, [0.443, 0.163, 0.394]), (0.2, [0.639, 0.004, 0.357]), (0.05, [0.911, 0, 0.089])):
    assert np.allclose(softmax((l + g) / t), expected, atol=2e-3)

many = l - np.log(-np.log(rng.random((200_000, 3))))  # (200000, 3): l + g
assert np.allclose(np.bincount(many.argmax(axis=1)) / 200_000, softmax(l), atol=0.005), (
    "The largest of logits plus Gumbel noise draws each word with its softmax probability."
)
temperatures = [2, 1, 0.5, 0.2, 0.1, 0.05]
largest = [softmax(many[:20_000] / t).max(axis=1).mean() for t in temperatures]
assert (np.diff(largest) > 0).all() and largest[-1] > 0.95, (
    "The smaller the temperature, the closer is Gumbel-softmax to one-hot."
)
y = softmax(many[:20_000] / 0.01)[:, 0]
assert (y * (1 - y) / 0.01 < 1e-3).mean() > 0.8  # the slope of the first word with respect to its logit, for t = 0.01
head = TableHead([(0, 3)], 3, temperature=0.2, rng=rng)  # the last layer of minigan's forger for tables
drawn, _ = head.forward(np.tile(l, (50_000, 1)), train=False)  # after the training, it draws exactly one-hot words
assert set(np.unique(drawn)) == {0, 1} and np.allclose(drawn.mean(axis=0), softmax(l), atol=0.01)

# %% [markdown]
# ## The game
#
# The forger is a stack of dense layers with this head at the end. The critic is a stack of dense layers, with the
# penalty R1 ([lesson 15](15_dirac_gan.py)). The species is the label: we can ask for one. The networks here are smaller
# than those of the preset, and the training is short.

# %%
SEED = 0
options = dict(batch=128, network=dict(g_width=64, d_width=64, noise_size=16), data_options=dict(label="species"))
config = Config.of("table", data="penguins", steps=600 if QUICK else 1200, seed=SEED, **options)
assert config.network["temperature"] == 0.2
training = Training(config, data, backends.load("auto"))
for _ in training.records():
    pass
fakes = training.sampler.draw(1000, np.random.default_rng(1))
print(f"{training.seconds:.0f} s of training")
print(fakes.head(6).to_string())

# %% [markdown]
# ## Do the columns fit together?
#
# It is easy to get each column right alone: take the real column and shuffle it. Then each value is real, but the rows
# make no sense. So we compare the fakes with such a *shuffled* table:
#
# 1. Penguins with long flippers are heavy. The correlation of both columns says how strongly they are connected.
# 2. Gentoo penguins live only on the island Biscoe. How many Gentoo rows name another island?
#
# **In the fakes, the columns fit together: the correlation is above 0.5, and fewer than 15% of the Gentoo rows name
# another island. In the shuffled table, the columns do not fit together.**

# %%
shuffled = real.copy()
for name in shuffled.columns:
    shuffled[name] = shuffled[name].to_numpy()[rng.permutation(len(real))]
tables = {"real": real, "fakes": fakes, "shuffled": shuffled}
connected, misplaced = {}, {}
for name, table in tables.items():
    connected[name] = table["flipper_length_mm"].corr(table["body_mass_g"])
    gentoo = table[table["species"] == "Gentoo"]
    misplaced[name] = (gentoo["island"] != "Biscoe").mean()
    print(f"{name:<9} correlation {connected[name]:5.2f}, Gentoo on a wrong island {misplaced[name]:4.0%}")
assert connected["real"] > 0.8 and misplaced["real"] == 0
assert connected["fakes"] > 0.5 and misplaced["fakes"] < 0.15, (
    "The columns of the fakes fit together: flipper and mass are correlated, and few Gentoo rows name a wrong island."
)
assert abs(connected["shuffled"]) < 0.2 and misplaced["shuffled"] > 0.3, (
    "In a table whose columns are shuffled, each column is right alone, but the columns do not fit together."
)
asked = training.sampler.draw(100, rng, label="Gentoo")
assert (asked["species"] == "Gentoo").all()  # the head writes the label into the row

# %%
figure, axes = plt.subplots(1, 4, figsize=(10.8, 3.4), width_ratios=(1, 1, 1, 1.1))
for axis, (name, table) in zip(axes, tables.items(), strict=False):
    for species, colour in (("Adelie", BLUE), ("Chinstrap", GREEN), ("Gentoo", ORANGE)):
        rows = table[table["species"] == species][:150]
        axis.plot(rows["flipper_length_mm"], rows["body_mass_g"] / 1000, ".", color=colour, label=species, markersize=4)
    axis.set(title=f"{name}: correlation {connected[name]:.2f}", xlabel="flipper, mm", xlim=(168, 235), ylim=(2.4, 6.6))
axes[0].set_ylabel("mass, kg")
axes[0].legend(loc="upper left", fontsize=8, markerscale=2)
for t, colour in ((2, GREY), (0.5, GREEN), (0.2, ORANGE)):
    axes[3].hist(
        softmax(many[:20_000] / t)[:, 0],
        bins=np.linspace(0, 1, 41),
        histtype="step",
        color=colour,
        label=f"t = {t}",
        lw=1.6,
    )
axes[3].set(title="Gumbel-softmax, first word", xlabel="0: not drawn, 1: drawn", yticks=[])
axes[3].legend(loc="upper center")
save(figure, "21_tables.png")

# %% [markdown]
# `minigan train --data penguins --label species` trains the full networks, and `minigan evaluate` compares the fakes
# with held-out rows: each column, each pair of columns, and whether rows are copies of real ones. With a table of
# people, this last question matters most.
#
# ## Exercises
#
# Replace the dots with your answer, uncomment the code, and run it.

# %% [markdown]
# **Exercise 1.** A table has the columns age (whole numbers, never empty), city (five cities, sometimes empty) and
# member (yes or no, never empty). How many numbers is a row?
#
# <details><summary>Hint</summary>
#
# The age is one number. A group has one number for each value, and one for "missing" if cells are empty.
#
# <details><summary>Solution</summary>
#
# ```python
# count = 1 + (5 + 1) + 2
# ```
#
# </details></details>

# %% Exercise 1
# count = ...
# ages, cities, members = range(200), ["Bern", "Basel", "Chur", "Genf", "Thun", None], [True, False]
# columns = {"age": ages, "city": [cities[k % 6] for k in ages], "member": [members[k % 2] for k in ages]}
# table = datasets.KINDS["tables"].convert(columns, None, TableOptions(columns="age:integer"))
# assert table.sample_shape == (count,)

# %% [markdown]
# **Exercise 2.** Two words have the logits 0 and 0. With the temperature 1 and u = (0.5, 0.9), which numbers does
# Gumbel-softmax give? Use `softmax`, and the formula for g.
#
# <details><summary>Hint</summary>
#
# g = -log(-log u) is (0.367, 2.250).
#
# <details><summary>Solution</summary>
#
# ```python
# y = softmax(-np.log(-np.log(np.array([0.5, 0.9]))))
# ```
#
# </details></details>

# %% Exercise 2
# y = ...
# assert np.allclose(y, [0.132, 0.868], atol=1e-3) and np.isclose(np.sum(y), 1)

# %% [markdown]
# The next lesson, [22_waves.py](22_waves.py), makes series, one step after the other.
