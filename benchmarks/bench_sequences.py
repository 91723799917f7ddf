"""Measure how good generated series are: sine waves, an autoregressive process, digits as rows, synthetic heartbeats.

    python benchmarks/bench_sequences.py --json benchmarks/results/sequences.json [--work FOLDER] [--only TEXT]
    python benchmarks/bench_sequences.py --table benchmarks/results/sequences.json
    python benchmarks/bench_sequences.py --scale 0.1 --only "seed 0"      # a short form: a tenth of all steps

Each case trains one preset for some minutes with two threads, one case after the other, with three seeds. Then:

    discriminative   |accuracy - 1/2| of a GRU that tells fakes from real series, on series that it was not
                     trained on; the mean of ROUNDS trainings on other divisions of 5,000 series of each sort
    published        the same with the small GRU of the published code of TimeGAN, as published scores have it. It is
                     blind for faults that people see, so the discriminative score is the one to improve
    by class         the same for each rhythm of the heartbeats, the larger one; the GRU sees the rhythm
    predictive       the error on real series of a GRU that was trained on fakes
    known spectrum   the largest relative error of the power of the autoregressive process, over the tenths of the band
    times real       the judge's Frechet distance of the rows of digits, divided by that of real images

`floor` is the same figure of real series of the same process that were not trained on. For times real it is 1. Each
finished run is written to the file --json at once, and a repeated command skips it. The folder of each run stays in
--work, and `minigan evaluate FOLDER` draws its series next to real ones.
"""

import argparse
import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import many_runs
import numpy as np

import minigan
from minigan import backends, datasets
from minigan.datasets.processes import PERIODOGRAMS
from minigan.datasets.sequence_codec import with_features
from minigan.files import write_atomically
from minigan.metrics.judge import Judge
from minigan.metrics.sequences import comparison, networks
from minigan.runs.evaluate import evaluate_images

THREADS = 2
SEEDS = 3
COUNT = 10_000  # fakes
ROUNDS = 3  # trainings of a discriminative score


@dataclass(frozen=True)
class Target:
    """What a median over the seeds should reach."""

    figure: str
    most: float


@dataclass(frozen=True)
class Case:
    """Data, a preset, minutes of training, and a seed."""

    data: str
    preset: str
    minutes: float
    targets: tuple[Target, ...]
    seed: int

    @property
    def name(self) -> str:
        """A name for files and tables."""
        return f"{self.data}; {self.preset}; seed {self.seed}"


PLAN = (
    ("sines", "waves", 5, (Target("discriminative", 0.02), Target("published", 0.02))),
    ("sines", "waves-gru", 5, (Target("discriminative", 0.1), Target("published", 0.1))),
    ("sines", "waves-conv", 5, ()),
    ("ar", "waves", 5, (Target("known spectrum", 0.05),)),
    ("mnist-rows", "waves", 10, (Target("times real", 20.0),)),
    ("heartbeats", "waves", 5, (Target("discriminative", 0.1), Target("by class", 0.1))),
)
CASES = [Case(*plan, seed) for plan in PLAN for seed in range(SEEDS)]


def finish(case: Case, work: Path, scale: float) -> None:
    """Train, measure, and write the result to the folder `work`."""
    networks.STEPS = max(networks.FEWEST, round(min(1.0, scale) * networks.STEPS))
    folder = work / "runs" / case.name
    shutil.rmtree(folder, ignore_errors=True)  # of an attempt that was interrupted
    gan = minigan.GAN(case.preset, data=case.data, seed=case.seed, threads=THREADS, out=folder, verbose=0)
    gan.fit(minutes=scale * case.minutes)
    result = {"name": case.name, "steps": gan.n_steps_, "minutes": scale * case.minutes} | measured(case, gan)
    write_atomically(many_runs.place(case.name, work), (json.dumps(result) + "\n").encode())


def measured(case: Case, gan: minigan.GAN) -> dict:
    """Return {"fakes": figures, "floor": figures}."""
    backend, kind = backends.load("auto", threads=THREADS), datasets.KINDS["sequences"]
    data = kind.load(case.data, kind.options(), case.seed, True)
    fakes, classes = gan.sample(COUNT, seed=case.seed), len(data.class_names or ())
    asked = np.arange(COUNT) % classes if classes else None  # the order of `sample`
    if case.data == "mnist-rows":
        images = fakes.astype(np.uint8)[..., None]
        report = evaluate_images(Judge(backend), images, asked, case.seed)
        ratio = report["samples"]["frechet"]["value"] / report["real"]["frechet"]["value"]
        return {"fakes": {"times real": ratio}, "floor": {"times real": 1.0}}
    real, held_out = (with_features(part.series()) for part in (data, data.held_out))
    found = {}
    for who, x, labels in (
        ("fakes", with_features(fakes), asked),
        ("floor", held_out, data.held_out.labels),
    ):
        given = None if labels is None else (data.labels, labels)
        rounds, published = (
            [
                networks.discriminative(
                    real, x, backend, np.random.default_rng([case.seed, n]), given, classes, published=small
                )
                for n in range(ROUNDS)
            ]
            for small in (False, True)
        )
        found[who] = {"discriminative": float(np.mean([r.score for r in rounds]))}
        found[who]["published"] = float(np.mean([r.score for r in published]))
        if classes:
            found[who]["by class"] = float(np.mean([r.by_class for r in rounds], axis=0).max())
        # Predictions are tested on the held-out series, so for the floor they are learned from the training series.
        learned = x if who == "fakes" else real
        found[who]["predictive"] = networks.predictive(learned, held_out, backend, np.random.default_rng(case.seed))
        if case.data in PERIODOGRAMS:
            found[who]["known spectrum"] = comparison.from_known(x, PERIODOGRAMS[case.data](x.shape[1]))
    return found


# ---------------------------------------------------------------- table and program


def table(results: list[dict]) -> str:
    """Format the median of the seeds as Markdown, with the smallest and the largest value, the floor and the target."""
    lines = [
        "| data | preset | minutes | steps | figure | median | range | floor | target |",
        "|---|---|--:|--:|---|--:|--:|--:|--:|",
    ]
    by_name = {result["name"]: result for result in results}
    for data, preset, _, targets in PLAN:
        of = [by_name[c.name] for c in CASES if (c.data, c.preset) == (data, preset) and c.name in by_name]
        if not of:
            continue
        wanted = {target.figure: target.most for target in targets}
        steps = f"{np.median([r['steps'] for r in of]):,.0f}"
        for figure in of[0]["fakes"]:
            values = [r["fakes"][figure] for r in of]
            floor, most = np.median([r["floor"][figure] for r in of]), wanted.get(figure)
            cells = [data, f"`{preset}`", f"{of[0]['minutes']:g}", steps, figure, f"{np.median(values):.3f}"]
            cells += [f"{min(values):.3f} to {max(values):.3f}", f"{floor:.3f}", "" if most is None else f"{most:g}"]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--scale",
        type=float,
        default=1.0,
        metavar="X",
        help="multiply all minutes, and the steps of the scores if X is below 1 (default: 1)",
    )
    parser.add_argument("--only", default="", metavar="TEXT", help="runs whose name contains this text")
    parser.add_argument(
        "--work", type=Path, default=Path(tempfile.gettempdir()) / "minigan-sequences", metavar="FOLDER"
    )
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--table", type=Path, metavar="FILE", help="print the table of these results")
    parser.add_argument("--one", metavar="NAME", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    scale = options.work / "scale"  # for the processes of the runs
    if options.table:
        print(table(json.loads(options.table.read_text())["runs"]))
        return
    if options.one:
        finish(next(case for case in CASES if case.name == options.one), options.work, float(scale.read_text()))
        return
    scale.write_text(str(options.scale))
    results = many_runs.Results([case.name for case in CASES], options.json, {"scale": options.scale})
    chosen = [case.name for case in CASES if options.only in case.name]
    many_runs.run_all(__file__, chosen, results, options.work, jobs=1, threads=THREADS)
    print(table(results.runs))


if __name__ == "__main__":
    main()
