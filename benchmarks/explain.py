"""Measure how often `minigan explain` is right, on runs that a rule labels without the figures that `explain` reads.

    python benchmarks/explain.py --json benchmarks/results/explain.json [--work FOLDER] [--jobs 2] [--only TEXT]
    python benchmarks/explain.py --table benchmarks/results/explain.json  # what `explain` says now of these runs

BUILD and TEST list the runs with their seeds, about a minute of one thread each. Their totals are in steps, so that the
results do not depend on what else the machine does. `label` decides by one condition for each verdict what happened. It
uses the judge of `minigan.metrics` and a classifier of colour shapes, images on which nothing was trained, a second
training with another seed (with more data, if the run had few), and what becomes of the run if it goes on. What a run
was meant to be is not used. A run that no condition fits is listed, and not counted.

The rules of `explain` were built on the runs of BUILD. Those of TEST are only for testing them: `label` and their seeds
were committed before they were made, and nobody looked at them before the rules were final.

Each finished run is written to the file --json at once, and a repeated command skips it. --table applies the present
rules of `explain` to the stored figures.
"""

import argparse
import copy
import itertools
import json
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import many_runs
import numpy as np
from alarm import FAMILIES, DigitsOrShapes, judge_of_shapes

from minigan import backends, datasets, runs
from minigan.datasets import ImageOptions
from minigan.files import write_atomically
from minigan.metrics.collapse import within
from minigan.metrics.explain import RULES, UNCLEAR
from minigan.metrics.judge import Judge
from minigan.runs.explain import explain_run
from minigan.training import Config, Diverged, Training, draw_noise, draw_samples

MOMENTS = 12  # generators of a run that are judged
COUNT = 2000  # samples that the judge scores, and real ones with which it compares them
SHOWN = 1000  # samples of each sort that D is shown
VERDICTS = tuple(dict.fromkeys(rule.verdict for rule in RULES))


# ---------------------------------------------------------------- the rule


def label(j: dict[str, float]) -> str | None:
    """Return the verdict that the figures of the judge and of other trainings give, or None.

    coverage      of images that were not trained on, in the judge's features; `later`, if the run goes
                  on to its total, or to twice as many steps; `of_others`, of a training with another seed and all data
    spread        standard deviation of the judge's features within a class, relative to real images
    flips         mean difference (total variation) between the shares of the predicted classes of
                  one moment and the next, in the second half of the run
    agreement     share of samples that the judge assigns to the class asked for
    told_apart    probability that D gives a larger logit to an image that was trained on than to a fake;
                  known_by_heart: than to an image that was not trained on
    copied        share of samples that are nearer to a training image, in the judge's features, than
                  19 of 20 images that were not trained on
    """
    if j.get("diverges_again"):
        return "diverged"
    if j["later"] > j["coverage"] + 0.1:
        return "unfinished"
    if j["flips"] > 0.35:
        return "oscillating"
    if j["coverage"] < 0.5 and j["told_apart"] < 0.6:
        return "G won"
    if j["coverage"] < 0.2 and j["spread"] < 0.5:
        return "collapsed"
    if j["copied"] > 0.5:
        return "G copies training images"
    if j.get("agreement", 1.0) < 0.5 and j["coverage"] > 0.2:
        return "labels ignored"
    if j.get("of_others", 0.0) > j["coverage"] + 0.15:
        return "too little data"
    if j["known_by_heart"] > 0.75:
        return "D memorises"
    if j["coverage"] < 0.5 and j["told_apart"] > 0.995:
        return "D won"
    if j["coverage"] >= 0.5 and j.get("agreement", 1.0) >= 0.7:
        return "healthy"
    return None


# ---------------------------------------------------------------- the runs


@dataclass(frozen=True)
class Case:
    """A run: a family of benchmarks/alarm.py, changed options, and changed data."""

    family: str
    seed: int
    options: dict[str, Any] = field(default_factory=dict)
    lr_g: float = 1.0  # multiples of the recipe's learning rates
    lr_d: float = 1.0
    samples: int | None = None  # only so many training images
    shuffled: bool = False  # whether the labels are those of other images
    stop: float = 1.0  # the part of the total after which the run is stopped

    @property
    def name(self) -> str:
        """A name for files and tables."""
        changes = [f"{k}={v}" for k, v in self.options.items()]
        changes += [f"lr G x {self.lr_g:g}"] * (self.lr_g != 1) + [f"lr D x {self.lr_d:g}"] * (self.lr_d != 1)
        changes += [f"{self.samples} images"] * (self.samples is not None) + ["shuffled labels"] * self.shuffled
        changes += [f"stopped at {self.stop:g}"] * (self.stop != 1)
        return "; ".join([self.family, *changes, f"seed {self.seed}"])


APART = dict(simultaneous=False)
LONG = dict(penalty="r1", penalty_weight=10, steps=24 * 345)  # twice as long, with a smooth D
BUILD = [
    *[(family, {}) for family in ("digits", "digits", "digits-unlabelled", "digits-wide", "digits, shapes")],
    *[(family, {}) for family in ("pictures, digits", "pictures, shapes", "small", "mlp")],
    # stopped early
    *[(family, {"stop": 0.1}) for family in ("digits", "digits-unlabelled", "small", "mlp", "digits, shapes")],
    *[(family, {"stop": 0.25}) for family in ("small", "tutorial", "pictures, digits")],
    # a generator that is much too fast, or alone
    *[(family, {"lr_g": 30}) for family in ("digits-unlabelled", "small", "mlp", "digits, shapes")],
    *[(family, {"lr_g": 100}) for family in ("digits", "small", "pictures, digits")],
    *[(family, {"options": APART | dict(g_steps=10)}) for family in ("digits-unlabelled", "small", "mlp")],
    # a discriminator that learns too little
    *[(family, {"lr_d": 1e-3}) for family in ("digits-unlabelled", "small", "mlp", "small, shapes", "digits")],
    *[(family, {"lr_d": 1e-5}) for family in ("digits-unlabelled", "small", "mlp", "pictures, digits")],
    # a discriminator that learns too much
    *[(family, {"options": dict(loss="minimax"), "lr_d": 10}) for family in ("small", "mlp", "digits-unlabelled")],
    *[(family, {"options": APART | dict(loss="minimax", d_steps=5)}) for family in ("small", "mlp", "small, shapes")],
    *[(family, {"lr_g": 1e-3}) for family in ("small", "mlp", "digits-unlabelled")],
    # both too fast
    *[(family, {"lr_g": 10, "lr_d": 10}) for family in ("small", "mlp", "digits-unlabelled", "small, shapes")],
    *[(family, {"options": dict(beta1=0.95)}) for family in ("small", "mlp", "digits-unlabelled")],
    *[(family, {"options": dict(optimizer="momentum"), "lr_g": 300, "lr_d": 300}) for family in ("small", "mlp")],
    *[(family, {"options": dict(optimizer="sgd"), "lr_g": 1e6, "lr_d": 1e6}) for family in ("small", "mlp", "digits")],
    *[(family, {"lr_g": 1e12, "lr_d": 1e12}) for family in ("small", "mlp", "small, shapes")],
    # few images
    *[(family, {"samples": 20}) for family in ("digits-unlabelled", "small", "mlp")],
    *[("digits-unlabelled", {"samples": samples}) for samples in (60, 300, 1000, 5000)],
    *[("digits-unlabelled", {"samples": n, "lr_d": 0.1, "options": LONG}) for n in (15, 20)],
    # labels that say nothing
    *[(family, {"shuffled": True}) for family in ("digits", "small, labels")],
    # a generator that is faster than the discriminator
    *[("small", {"lr_g": 10, "lr_d": lr_d}) for lr_d in (0.1, 0.05)],
]
TEST = [
    *[(family, {}) for family in ("digits", "digits-unlabelled", "digits-wide", "pictures, digits", "small")],
    *[("digits-unlabelled", {"stop": stop}) for stop in (0.07, 0.12)],
    *[("digits", {"stop": 0.06})],
    *[(family, {"lr_d": 3e-4}) for family in ("digits-unlabelled", "small", "digits")],
    *[(family, {"lr_g": 50}) for family in ("mlp", "pictures, digits")],
    *[("small, shapes", {"lr_g": 20, "lr_d": 20})],
    *[(family, {"lr_g": 3e-4}) for family in ("small", "mlp", "digits-unlabelled")],
    *[("mlp", {"options": dict(optimizer="momentum"), "lr_g": 500, "lr_d": 500})],
    *[("digits-wide", {"options": dict(optimizer="sgd"), "lr_g": 1e6, "lr_d": 1e6})],
    *[("digits-unlabelled", {"lr_g": 1e12, "lr_d": 1e12})],
    *[("digits-unlabelled", {"samples": samples}) for samples in (40, 150)],
    *[(family, {"samples": 100}) for family in ("small", "mlp")],
    *[("digits-unlabelled", {"samples": n, "lr_d": 0.1, "options": LONG}) for n in (12, 18)],
    *[(family, {"shuffled": True}) for family in ("digits", "digits-wide", "pictures, digits")],
    *[("small", {"lr_g": 10, "lr_d": lr_d}) for lr_d in (0.07, 0.04)],
    *[("small", {"lr_g": 30, "lr_d": 0.04}), ("digits-wide", {"stop": 0.07}), ("mlp", {"lr_d": 3e-4})],
    *[("digits, shapes", {"lr_g": 50})],
]
FIRST_OF_TEST = 5000  # the seeds from which the runs are those of TEST
CASES = [Case(family, 3000 + i, **changes) for i, (family, changes) in enumerate(BUILD)]
CASES += [Case(family, FIRST_OF_TEST + i, **changes) for i, (family, changes) in enumerate(TEST)]


def config_of(case: Case, work: Path, seed: int | None = None, every_image: bool = False) -> Config:
    """Return the config of a run, or of another training of the same kind: with another seed, or with all images."""
    family = FAMILIES[case.family]
    recipe = Config.of(family.preset)
    total = MOMENTS * family.every
    chosen = dict(steps=total, backend="numba", threads=1, seed=case.seed if seed is None else seed, checkpoint_every=1)
    chosen |= dict(lr_g=recipe.lr_g * case.lr_g, lr_d=recipe.lr_d * case.lr_d) | family.options | case.options
    few = case.samples is not None and not every_image
    if few or case.shuffled:
        chosen["data"] = str(changed_data(case, work, few))
        chosen["data_options"] = {}
    else:
        chosen["data"] = family.data
    if few:
        chosen |= dict(hold_out=0.2, batch=min(case.samples // 2, chosen.get("batch", recipe.batch)))
    return Config.of(family.preset, **chosen)


def images_of(family: str, split: str) -> datasets.Images:
    """Return the images of a family."""
    of = FAMILIES[family]
    if of.data == "mnist":
        return datasets.mnist(split)
    size = of.options.get("data_options", {}).get("size", 0)
    return datasets.load("shapes", ImageOptions(split=split if split == "train" else "val", size=size))


def changed_data(case: Case, work: Path, few: bool) -> Path:
    """Write the images of a run with few of them, or with labels of others, and return the file."""
    path = work / f"data-{case.seed}{'' if few else '-all'}.npz"
    if not path.exists():
        data, rng = images_of(case.family, "train"), np.random.default_rng(case.seed)
        index = rng.permutation(len(data))[: case.samples if few else len(data)]
        labels = data.labels[index]
        np.savez(path, images=data.images[index], labels=rng.permutation(labels) if case.shuffled else labels)
    return path


# ---------------------------------------------------------------- what the label uses


def finish(case: Case, work: Path) -> None:
    """Train a run, label it, explain it, and write the result to the folder `work`."""
    out = work / "runs" / str(case.seed)
    config = config_of(case, work)
    training = runs.begin(config, out)
    training.warm_up()
    generators, last = [], int(case.stop * config.steps)

    def watch(record) -> bool:
        if record["step"] % max(1, last // MOMENTS) == 0:
            generators.append(copy.deepcopy(training.sampler))
        return record["step"] >= last

    judged: dict[str, Any] = {}
    try:
        runs.play(training, out, quiet=True, callback=watch)
    except Diverged:
        judged["diverges_again"] = float(diverges(config_of(case, work, case.seed + 500)))
    if generators and not judged.get("diverges_again"):  # its last samples may not be numbers
        judged |= of_run(case, training, generators, work)
    found = explain_run(out, backend="numba", threads=1)
    result = {"name": case.name, "seed": case.seed, "label": label(judged), "judge": judged, "figures": found.figures}
    write_atomically(many_runs.place(case.name, work), (json.dumps(result) + "\n").encode())


def diverges(config: Config) -> bool:
    """Return whether another training diverges."""
    training = Training(config, runs.load_data(config), runs.load_backend(config))
    try:
        for record in training.records():
            if record["end_of_epoch"]:
                training.samples()  # raises Diverged too
    except Diverged:
        return True
    return False


def of_run(case: Case, training: Training, generators: list, work: Path) -> dict[str, float]:
    """Return the figures that `label` uses."""
    judge = judge_for(case.family, work)
    moments = [scores(judge, sampler) for sampler in generators]
    shares = [moment.pop("shares") for moment in moments][len(moments) // 2 :]
    changes = [np.abs(a - b).sum() / 2 for a, b in itertools.pairwise(shares)]
    found = moments[-1] | {"flips": float(np.mean(changes or [0]))}
    found |= of_discriminator(case, training)
    found["copied"] = copies(judge, training, generators[-1])
    if case.samples is not None:
        found["of_others"] = coverage_of_training(config_of(case, work, case.seed + 500, every_image=True), judge)
    config = training.config
    training.continue_to({"steps": max(2 * training.step, config.steps)})
    if config.decay and case.stop == 1:
        training.extend()
    try:
        for _ in training.records():
            pass
        found["later"] = scores(judge, training.sampler)["coverage"]
    except Diverged:
        found["later"] = 0.0
    return found


def coverage_of_training(config: Config, judge: DigitsOrShapes) -> float:
    """Train another run, and return its coverage."""
    training = Training(config, runs.load_data(config), runs.load_backend(config))
    try:
        for _ in training.records():
            pass
    except Diverged:
        return 0.0
    return scores(judge, training.sampler)["coverage"]


def judge_for(family: str, work: Path) -> DigitsOrShapes:
    """Return the judge for the images of a family, with real images that were not trained on."""
    backend = backends.load("numba", threads=1)
    if FAMILIES[family].data == "mnist":
        return DigitsOrShapes(images_of(family, "test"), Judge(backend).network)
    return DigitsOrShapes(images_of(family, "val"), judge_of_shapes(work, backend))


def scores(judge: DigitsOrShapes, sampler) -> dict[str, Any]:
    """Return coverage, spread, agreement and the shares of the predicted classes, from COUNT samples of fixed noise."""
    classes = sampler.generator.classes
    labels = np.arange(COUNT) % classes if classes else None
    images = drawn(sampler, labels)
    features, probabilities = judge.seen(images)
    real, of_real = judge.seen(judge.real)
    predicted, of_images = probabilities.argmax(axis=1), of_real.argmax(axis=1)
    count = probabilities.shape[1]
    size, variance = within(features, predicted, count)
    _, expected = within(real, of_images, count)
    several = size > 1
    total = max(1e-12, float((size * expected)[several].sum()))
    found: dict[str, Any] = {
        "coverage": float(judge.reference.memberships(features)[1].mean()),
        "spread": float(np.sqrt((size * variance)[several].sum() / total)),
        "shares": np.bincount(predicted, minlength=count) / len(predicted),
    }
    if labels is not None:
        found["agreement"] = float((predicted == labels).mean())
    return found


def drawn(sampler, labels: np.ndarray | None) -> np.ndarray:
    """Return COUNT samples of fixed noise."""
    z = draw_noise(sampler.generator, np.random.default_rng(0), COUNT)
    placed = None if labels is None else sampler.generator.backend.asarray(labels)
    return sampler.codec.decode(draw_samples(sampler.generator, z, placed))


def of_discriminator(case: Case, training: Training) -> dict[str, float]:
    """Return how well D tells fakes and training images apart from images that it was not trained on."""
    t, rng = training, np.random.default_rng(0)
    other = images_of(case.family, "test")

    def shown(data):
        index = np.sort(rng.choice(len(data), min(SHOWN, len(data)), replace=False))
        x = datasets.scale(data.images[index])
        return x, data.labels[index] if t.classes else None

    samples = {"trained": shown(t.data), "others": shown(other)}
    labels = samples["others"][1]
    z = draw_noise(t.G, rng, len(samples["others"][0]))
    placed = None if labels is None else t.backend.asarray(labels)
    samples["fakes"] = draw_samples(t.G, z, placed), labels
    logits = {}
    for name, (x, own) in samples.items():
        parts = []
        for i in range(0, len(x) // t.config.batch * t.config.batch or len(x), t.config.batch):
            batch = slice(i, i + t.config.batch)
            labels_of = None if own is None else t.backend.asarray(own[batch])
            with t.backend.computing():
                l, _ = t.D.forward(t.backend.asarray(x[batch]), train=False, labels=labels_of)
                parts.append(t.backend.to_numpy(l))
        logits[name] = np.concatenate(parts).ravel()
    return {
        "told_apart": larger(logits["trained"], logits["fakes"]),
        "known_by_heart": larger(logits["trained"], logits["others"]),
    }


def larger(a: np.ndarray, b: np.ndarray) -> float:
    """Return the probability that a number of a (N,) is larger than one of b (M,); equal ones count half."""
    return float((np.sign(a[:, None] - b[None, :]) + 1).mean() / 2)


def copies(judge: DigitsOrShapes, training: Training, sampler) -> float:
    """Return the share of samples that are nearer to a training image than 19 of 20 images that were not trained on."""
    classes = sampler.generator.classes
    fakes = judge.seen(drawn(sampler, np.arange(COUNT) % classes if classes else None)[:500])[0]
    trained = judge.seen(training.data.images[:20_000])[0]
    others = judge.seen(judge.real[:500])[0]
    nearest = [distances(x, trained) for x in (fakes, others)]
    return float((nearest[0] < np.quantile(nearest[1], 0.05)).mean())


def distances(x: np.ndarray, real: np.ndarray) -> np.ndarray:
    """Return the distance (M,) of each row of x (M, F) to the nearest row of real (N, F)."""
    return np.array([np.sqrt(((real - row) ** 2).sum(axis=1).min()) for row in x])


# ---------------------------------------------------------------- table and program


def verdict(figures: dict[str, float]) -> str:
    """Return what the present rules of `explain` say of the figures of a run."""
    return next((rule.verdict for rule in RULES if rule.holds(figures)), UNCLEAR)


def table(results: list[dict], name: str) -> str:
    """Format the confusion table of labelled runs as Markdown, and the runs that are explained wrongly."""
    columns = [*VERDICTS, UNCLEAR]
    said = {r["name"]: verdict(r["figures"]) for r in results}
    counts = Counter((r["label"], said[r["name"]]) for r in results)
    right = sum(count for (a, b), count in counts.items() if a == b)
    lines = [f"| {name}: the label | {' | '.join(columns)} |", f"|---|{'--:|' * len(columns)}"]
    for of in VERDICTS:
        cells = (str(counts[of, column] or "") for column in columns)
        lines.append(f"| {of} | {' | '.join(cells)} |")
    lines += ["", f"{right} of {len(results)} are right."]
    wrong = [r for r in results if r["label"] != said[r["name"]]]
    lines += [f"- {r['name']}: {r['label']}, explained as {said[r['name']]}" for r in wrong]
    return "\n".join(lines)


def tables(results: list[dict]) -> str:
    """Format the tables of the two lists, and count the runs that no condition of `label` fits."""
    labelled = [r for r in results if r["label"] is not None]
    build = [r for r in labelled if r["seed"] < FIRST_OF_TEST]
    test = [r for r in labelled if r["seed"] >= FIRST_OF_TEST]
    unlabelled = f"{len(results) - len(labelled)} other runs have no label."
    return "\n\n".join([table(build, "build"), table(test, "test"), unlabelled])


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="TEXT", help="runs whose name contains this text")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "minigan-explain", metavar="FOLDER")
    parser.add_argument("--jobs", type=int, default=1, metavar="N")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--table", type=Path, metavar="FILE", help="print the tables of these results")
    parser.add_argument("--one", metavar="NAME", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    if options.table:
        print(tables(json.loads(options.table.read_text())["runs"]))
        return
    if options.one:
        finish(next(case for case in CASES if case.name == options.one), options.work)
        return
    chosen = [case for case in CASES if options.only in case.name]
    if any(FAMILIES[case.family].data == "shapes" for case in chosen):
        judge_of_shapes(options.work, backends.load("numba", threads=1))
    results = many_runs.Results([case.name for case in CASES], options.json, {})
    many_runs.run_all(__file__, [case.name for case in chosen], results, options.work, options.jobs)
    print(tables(results.runs))


if __name__ == "__main__":
    main()
