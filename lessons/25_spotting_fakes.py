# %% [markdown]
# # 25. Spotting fakes
#
# **Question.** What gives fakes away, how far can we trust a program that spots them, and what are fakes good and bad
# for?
#
# **You will know** signs of fakes and how easily a sign is removed, how well a detector recognises fakes that it was
# not trained on, why an alarm of a good detector is often wrong, and what people use and misuse fakes for.
#
# **Builds on** [lesson 23](23_how_good.py). **Takes** 40 minutes to read, 30 seconds to run, 11 with `--quick`.
#
# In [lesson 23](23_how_good.py), we compared a whole set of fakes with a set of real digits. Now somebody shows us
# *one* image and asks whether it is real. A critic answers this question during the training. But the forger has learnt
# to deceive this critic. So we start again, with a new network.

# %%
import matplotlib.pyplot as plt
import numpy as np
from _common import BLUE, GREEN, GREY, ORANGE, QUICK, save

from minigan import backends, datasets
from minigan.metrics import classifier
from minigan.training import Config, Training

rng, backend = np.random.default_rng(0), backends.load("auto")
digits, test = datasets.mnist("train"), datasets.mnist("test").images[: 2000 if QUICK else 5000]
order = rng.permutation(60_000)
real, others = digits.images[order[:2000]], digits.images[order[2000:4000]]  # to train a detector, and to set its alarm

# %% [markdown]
# ## Four sets of fakes
#
# 1. *good*: fakes of the preset `digits`, after all steps of the training.
# 2. *seed*: the same preset and as many steps, but another seed.
# 3. *early*: the forger of *good* at an earlier step.
# 4. *mlp*: another recipe, with dense layers only, and a short training.

# %%
STEPS, EARLY, SHORT = (120, 40, 100) if QUICK else (700, 150, 250)


def train(preset, steps, seed):
    """Trains a forger. Returns its fakes (3000, 28, 28, 1) in the end, and those at the step EARLY."""
    training = Training(Config.of(preset, steps=steps, batch=64, average=0.99, seed=seed), digits, backend)
    for record in training.records():
        if record["step"] == EARLY:
            early = training.sampler.draw(3000, np.random.default_rng(5))
    print(f"{preset}, seed {seed}: {steps} steps in {training.seconds:.0f} s", flush=True)
    return training.sampler.draw(3000, np.random.default_rng(6)), early


good, early = train("digits", STEPS, seed=0)
fakes = {"good": good, "seed": train("digits", STEPS, seed=1)[0], "early": early, "mlp": train("mlp", SHORT, seed=0)[0]}
known = {name: images[:2000] for name, images in fakes.items()}  # to train detectors with
new = {name: images[2000:] for name, images in fakes.items()}  # to test them with

# %% [markdown]
# ## What gives fakes away
#
# People look for wrong hands, wrong shadows, and teeth that do not fit. For digits, we look for numbers. Here are two.
#
# *Grey instead of black.* Most pixels of a digit are exactly black: 0 of 255. The forger's last layer is tanh, which
# reaches -1 only at minus infinity. To draw a 0, (tanh(a) + 1) * 127.5 must be below 0.5, so tanh(a) below -0.996 and a
# below -3.1, in every pixel. So we count, among the dark pixels (below 32), those that are not 0.
#
# *A bright edge.* Digits are in the middle of the image. So we take the mean brightness of the four outer rows and
# columns.
#
# A sign is a number. To turn it into a *[detector](GLOSSARY.md#detector)*, we need a limit above which it raises an
# alarm. We choose it so that 1% of other real digits raise a *[false alarm](GLOSSARY.md#false-alarm)*. **The grey
# pixels alone give away more than 90% of the fakes of each set. The bright edge gives away the fakes of the dense
# networks, and fewer than half of the good ones.**


# %%
def grey(images):
    """Returns the share (N,) of the dark pixels that are not black, of uint8 images (N, 28, 28, 1)."""
    return ((images > 0) & (images < 32)).sum(axis=(1, 2, 3)) / (images < 32).sum(axis=(1, 2, 3)).clip(1)


def edge(images):
    """Returns the mean brightness (N,) of the outer four rows and columns."""
    outer = np.ones((28, 28), bool)
    outer[4:24, 4:24] = False
    return images[:, outer].mean(axis=(1, 2))


def detector(score):
    """Returns a function that says for each image whether it raises an alarm. Of other real digits, 1% do."""
    limit = np.quantile(score(others), 0.99)
    return lambda images: score(images) > limit


def rates(alarm, sets):
    """Returns the share of the images of each set that raise an alarm."""
    return {name: alarm(images).mean() for name, images in sets.items()}


def show(name, found):
    """Prints the shares."""
    print(f"{name:<16}" + "".join(f" {key} {value:6.1%}" for key, value in found.items()))


assert np.isclose(np.arctanh(0.5 / 127.5 - 1), -3.1, atol=0.05)
signs = {"grey": detector(grey), "edge": detector(edge)}
by_sign = {name: rates(alarm, {"real": test} | new) for name, alarm in signs.items()}
for name, found in by_sign.items():
    show(name, found)
    assert found["real"] < 0.02
assert min(by_sign["grey"][name] for name in new) > 0.9, (
    "One number, the share of grey among the dark pixels, gives away more than 90% of the fakes of each set."
)
assert by_sign["edge"]["mlp"] > 0.9 and by_sign["edge"]["good"] < 0.5, (
    "A bright edge gives away the fakes of dense networks, and fewer than half of the good ones."
)

# %% [markdown]
# ## A sign that is known can be removed
#
# Anyone who knows the sign needs one line of code: set all dark pixels to 0. The forger does not have to learn
# anything. **After this, the grey pixels give away no fake at all.**


# %%
def cleaned(images):
    """Returns images whose dark pixels are black."""
    return np.where(images < 32, 0, images).astype(np.uint8)


new["cleaned"] = cleaned(new["good"])
by_sign["grey"] |= rates(signs["grey"], {"cleaned": new["cleaned"]})
show("grey", by_sign["grey"])
assert by_sign["grey"]["good"] > 0.9 and by_sign["grey"]["cleaned"] == 0, (
    "After one line of code that blackens dark pixels, the grey pixels give away no fake."
)

# %% [markdown]
# ## A network as detector
#
# A network finds its own signs. We train a small network of convolutions to tell 2000 real digits from 2000 fakes. Its
# score is the difference of its two logits, and the limit of the alarm is chosen as before. We train three detectors,
# each with the fakes of one set, and test each of them with new fakes of all sets.
#
# Read the table line by line.
#
# - **A detector finds most of the new fakes of the forger that it knows, and of the same recipe with another seed.**
#   A likely reason: they share the networks, and so they share mistakes.
# - **A detector that was trained on good fakes also finds the bad ones.**
# - **A detector that was trained on bad fakes misses many of the good ones: the one that was trained on *mlp* misses
#   more than half of them (30% with `--quick`).** A likely reason: the fakes of the dense networks are full of noise,
#   so this detector has learnt to look for noise, and good fakes have little.
# - **Cleaning hides good fakes from a network, too: the one that was trained on early fakes finds at least a third
#   fewer.** It does not hide all, because some shapes are wrong.
#
# So a detector is good against what is known. Its score on a test set of known fakes says little about the forger that
# comes next.


# %%
def trained_score(examples):
    """Trains a detector with fakes (N, 28, 28, 1). Returns its score as a function of images."""
    images, labels = np.concatenate([real, examples]), np.repeat([0, 1], [len(real), len(examples)])
    found = classifier.train(images, labels, backend, 0, steps=150 if QUICK else 400, test=(others, np.zeros(2000)))

    def score(images):
        parts = [datasets.scale(images[i : i + 250]) for i in range(0, len(images), 250)]
        logits = [found.network.forward(backend.asarray(part), train=False)[0] for part in parts]
        l = np.concatenate([backend.to_numpy(part) for part in logits])  # (N, 2): real, fake
        return l[:, 1] - l[:, 0]

    return score


scores = {name: trained_score(known[name]) for name in ("good", "early", "mlp")}
alarms = {name: detector(score) for name, score in scores.items()}
table = {name: rates(alarm, {"real": test} | new) for name, alarm in alarms.items()}
for name, found in table.items():
    show(f"trained on {name}", found)
assert max(found["real"] for found in table.values()) < 0.03
assert table["good"]["good"] > 0.75 and table["good"]["seed"] > 0.6 and table["mlp"]["mlp"] > 0.95, (
    "A detector finds most new fakes of the forger that it knows, and of the same recipe with another seed."
)
assert min(table["good"]["early"], table["good"]["mlp"]) > 0.9, (
    "A detector that was trained on good fakes also finds bad ones."
)
assert table["mlp"]["good"] < (0.7 if QUICK else 0.5) and table["early"]["good"] < table["good"]["good"] - 0.2, (
    "A detector that was trained on fakes of dense networks misses more than half of good ones (30% with `--quick`)."
)
assert (
    table["early"]["cleaned"] < 0.67 * table["early"]["good"] and table["good"]["cleaned"] <= table["good"]["good"]
), "Blackening dark pixels hides good fakes from a network, too: the one trained on early fakes finds a third fewer."

# %% [markdown]
# ## Worked by hand: an alarm is no proof
#
# A detector finds 95% of the fakes, and 95% of the real images raise no alarm. Now it raises an alarm. How likely is
# it that the image is a fake? Many people say 95%. But it depends on how many fakes there are: the *[base
# rate](GLOSSARY.md#base-rate)*. Of 10,000 images, let 1% be fakes.
#
#                       fakes    real
#     images              100   9,900
#     alarms               95     495        0.95 * 100 and 0.05 * 9,900
#
# There are 95 + 495 = 590 alarms, and only 95 / 590 = 16% of them are right. **With few fakes among many real images,
# five of six alarms of such a detector are wrong.** With p for the base rate, d for the share of fakes that it finds,
# and f for the share of false alarms,
#
#     share of the alarms that are right = p d / (p d + (1 - p) f)
#
# (This is Bayes' theorem.) Now with our own detector, which is trained on *good*. We mix test digits with new fakes, of
# which it knows the forger, and count the right alarms. **Counting agrees with the formula. With one fake in 1000
# images, more than three of four alarms are wrong.**


# %%
def right_alarms(p, d, f):
    """Returns the share of the alarms that are right, for the base rate p."""
    return p * d / (p * d + (1 - p) * f)


assert np.isclose(right_alarms(0.01, 0.95, 0.05), 95 / 590) and 1 - 95 / 590 > 5 / 6, (
    "If 1% of the images are fakes, five of six alarms of a detector that is right for 95% of both kinds are wrong."
)
d, f = table["good"]["good"], table["good"]["real"]
alarm_fake, alarm_real = alarms["good"](new["good"]), alarms["good"](test)
shares, counted = [0.001, 0.01, 0.1, 0.5], []
for p in shares:
    is_fake = rng.random(400_000) < p
    alarm = np.where(is_fake, rng.choice(alarm_fake, 400_000), rng.choice(alarm_real, 400_000))
    counted.append(is_fake[alarm].mean())
    print(f"{p:5.1%} fakes: {counted[-1]:.0%} of {alarm.sum():,} alarms are right; formula {right_alarms(p, d, f):.0%}")
assert np.allclose(counted, [right_alarms(p, d, f) for p in shares], atol=0.03), (
    "The share of right alarms that we count is that of Bayes' theorem."
)
assert counted[0] < 0.25, "With one fake in 1000 images, more than three of four alarms of our detector are wrong."

# %% [markdown]
# Silence is no proof either: a cleaned fake may raise no alarm. A detector gives a hint. To accuse somebody, one needs
# more.
#
# ## What fakes are good for
#
# - *Small data sets.* Real samples of a rare disease or of a rare fault of a machine are few. Fakes can be added when a
#   classifier is trained. But the forger knows only the same few samples, so the gain has to be measured, with real
#   test data (`minigan experiment augment` and `minigan experiment fakes-only` do this for digits).
# - *Privacy.* A hospital may not give away its records. Fakes with the same statistics can be enough to write and to
#   test programs. But a forger can copy records of real people ([lesson 23](23_how_good.py)).
#   So fakes are not private only because they are fakes: this has to be measured, too.
# - *Simulation.* Physicists have trained GANs in place of slow simulations of particle detectors (Paganini et al.
#   2018). Other uses are rare weather, or streets for the tests of a car. What the forger has never seen, it leaves
#   out.
# - *Repair and art.* Networks fill gaps in old photographs, make images sharper, and help to make videos and music.
#   What is filled in is a guess: it must not be used as a measurement.
#
# ## What fakes are misused for
#
# - *Faked people.* A *[deepfake](GLOSSARY.md#deepfake)* shows the face or the voice of a real person in a scene that
#   never took place. It is used to mock people, to shame them with sexual pictures, and for fraud by telephone.
# - *False evidence.* Images of events that never happened, receipts, and figures of experiments that nobody did.
# - *Crowds.* Invented faces and texts make one person look like a thousand.
# - *Denial.* If everything can be a fake, real evidence can be called a fake (Chesney and Citron 2019 call this the
#   "liar's dividend"). A detector with many false alarms helps those who lie.
#
# The same network can serve both. What differs is whether people know that it is a fake, and whether those who are
# shown have agreed.
#
# ## What helps
#
# Detectors are one tool. Others do not look at the image at all: *Where does it come from?* Is there a second source?
# Did the camera sign the file when the picture was taken? Did the maker of the fake mark it? A mark or a signature can
# be removed, so that a missing one proves nothing. But a signature that is there is hard to forge. So it is easier to
# show that something is real than that something is a fake.

# %%
figure = plt.figure(figsize=(10.4, 5.6))
left, right = figure.subfigures(1, 2, width_ratios=(1, 1.45))
shown = {"real": test, **new}
for axis, (name, pictures) in zip(left.subplots(6, 1), shown.items(), strict=True):
    lines = [np.hstack(pictures[k : k + 9, ..., 0]) for k in (0, 9)]
    axis.imshow(np.vstack(lines), cmap="gray", vmin=0, vmax=255)
    axis.set(xticks=[], yticks=[])
    axis.set_ylabel(name, rotation=0, ha="right", va="center")
    axis.spines[:].set_visible(False)
top, bottom = right.subplots(2, 1)
names, colours = ["real", *new], (BLUE, GREEN, ORANGE, GREY)
bars = {f"network, trained on {name}": found for name, found in table.items()}
bars["grey pixels"] = by_sign["grey"]
for k, ((name, found), colour) in enumerate(zip(bars.items(), colours, strict=True)):
    top.bar(np.arange(6) + 0.2 * (k - 1.5), [100 * found[each] for each in names], 0.19, color=colour, label=name)
top.set(title="images that raise an alarm, %", xticks=range(6), xticklabels=names, ylim=(0, 150), yticks=[0, 50, 100])
top.legend(fontsize=9, ncols=2, loc="upper left")
p = np.geomspace(1e-4, 0.9, 200)
bottom.semilogx(100 * p, 100 * right_alarms(p, 0.95, 0.05), color=GREY, label="95% of both kinds are judged right")
bottom.semilogx(100 * p, 100 * right_alarms(p, d, f), color=BLUE, label="network, trained on good (formula)")
bottom.plot(100 * np.array(shares), 100 * np.array(counted), "o", color=BLUE, label="counted")
bottom.set(title="alarms that are right, %", xlabel="fakes among all images, % (base rate)", ylim=(-4, 104))
bottom.set_xticks([0.01, 0.1, 1, 10, 90], ["0.01", "0.1", "1", "10", "90"])
bottom.legend(fontsize=9, loc="upper left")
save(figure, "25_spotting_fakes.png")

# %% [markdown]
# `minigan experiment detect` asks the same question in full: more fakes, longer trainings, and five detectors.
#
# ## Exercises
#
# Replace the dots with your answer, uncomment the code, and run it.

# %% [markdown]
# **Exercise 1.** A website gets 50,000 pictures a day, and 100 of them are fakes. Its detector finds 90 of the fakes,
# and 2% of the real pictures raise a false alarm. Which share of the alarms is right?
#
# <details><summary>Hint</summary>
#
# Count the alarms: 90 right ones, and 0.02 * 49,900 false ones.
#
# <details><summary>Solution</summary>
#
# ```python
# share = 90 / (90 + 0.02 * 49_900)
# ```
#
# </details></details>

# %% Exercise 1
# share = ...
# assert np.isclose(share, right_alarms(100 / 50_000, 0.9, 0.02))

# %% [markdown]
# **Exercise 2.** Of the images, 1% are fakes, and a detector finds 95% of them. How small must the share f of false
# alarms be, so that half of the alarms are right?
#
# <details><summary>Hint</summary>
#
# The right alarms and the false alarms must be equally many: 0.01 * 0.95 = 0.99 * f.
#
# <details><summary>Solution</summary>
#
# ```python
# f_half = 0.01 * 0.95 / 0.99
# ```
#
# </details></details>

# %% Exercise 2
# f_half = ...
# assert np.isclose(right_alarms(0.01, 0.95, f_half), 0.5)

# %% [markdown]
# The last lesson, [26_one_step_many_processes.py](26_one_step_many_processes.py), divides a batch among several
# processes.
