"""Compare tables that minigan, CTGAN, a Gaussian copula and SMOTE make, after the same time for training.

    pip install -e '.[tables]' && pip install torch ctgan
    python benchmarks/bench_tables.py --json benchmarks/results/tables.json [--work FOLDER] [--minutes 5] [--only TEXT]
    python benchmarks/bench_tables.py --table benchmarks/results/tables.json

The data are in benchmarks/data (see its README). Every method gets the same training rows and makes as many rows, of
which `minigan.metrics.tables` computes the figures. The held-out rows are used for nothing else. The two GANs train
for --minutes with two threads, one after the other. CTGAN has its own defaults and counts epochs, so two epochs are
timed first, and then it trains for as many as fit; its preparation of the data does not count. The copula and SMOTE
take less time. `real` are the held-out rows, and for the prediction of the target the training rows: no table of
fakes can be expected to be better.

Each finished run is written to the file --json at once, and a repeated command skips it.
"""

import argparse
import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import many_runs
import numpy as np
import pandas as pd

import minigan
from minigan.files import write_atomically
from minigan.metrics.tables import SCORES, baselines, comparison

DATA = Path(__file__).parent / "data"
THREADS = 2
SHOWN = ("utility", "shapes", "pairs", "strong", "detector", "nearness", "copies")
SEEDS = 3


@dataclass(frozen=True)
class Case:
    """A method, the data that it gets, and its seed."""

    data: str
    method: str
    seed: int

    @property
    def name(self) -> str:
        """A name for files and tables."""
        return f"{self.data}; {self.method}; seed {self.seed}"


TARGETS = {"adult": "income", "diamonds": "price"}
CASES = [
    Case(data, method, seed)
    for data in TARGETS
    for method in ("minigan", "CTGAN", "copula", "SMOTE", "real")
    for seed in range(1 if method == "real" else SEEDS)
]


def read(data: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the training rows and the held-out rows."""
    if data == "adult":
        return pd.read_csv(DATA / "adult-train.csv.gz"), pd.read_csv(DATA / "adult-test.csv.gz")
    frame = pd.read_csv(DATA / "diamonds.csv.gz")
    order = np.random.default_rng(0).permutation(len(frame))
    return tuple(frame.iloc[index].reset_index(drop=True) for index in (order[:43_000], order[43_000:]))


def kinds_of(frame: pd.DataFrame) -> dict[str, str]:
    """Return the kinds of the columns."""
    of = {"i": "integer", "f": "continuous"}
    return {str(name): of.get(frame[name].dtype.kind, "category") for name in frame}


# ---------------------------------------------------------------- the methods


def finish(case: Case, work: Path, minutes: float) -> None:
    """Make rows with a method, compute their figures, and write the result to the folder `work`."""
    training, held_out = read(case.data)
    kinds, target = kinds_of(training), TARGETS[case.data]
    rng = np.random.default_rng(case.seed)
    facts: dict[str, Any] = {}
    start = time.perf_counter()
    if case.method == "minigan":
        rows, facts = by_minigan(case, training, minutes, work)
    elif case.method == "CTGAN":
        rows, facts = by_ctgan(case, training, kinds, minutes)
    elif case.method == "real":
        rows = held_out
    else:
        method = {"copula": baselines.gaussian_copula, "SMOTE": baselines.smote}[case.method]
        rows = method(training, len(training), kinds, target, rng)
    facts.setdefault("seconds", time.perf_counter() - start)
    reference = comparison.Reference(training, held_out, kinds, target, True, case.seed)
    figures, _ = reference.figures(rows, explain=False)
    if case.method == "real":
        figures["utility"] = reference.utility(training)
    result = {"name": case.name, "data": case.data, "method": case.method, "figures": figures} | facts
    write_atomically(many_runs.place(case.name, work), (json.dumps(result) + "\n").encode())


def by_minigan(case: Case, training: pd.DataFrame, minutes: float, work: Path) -> tuple[pd.DataFrame, dict]:
    """Train minigan as `minigan train --minutes` does, with the target as the label if it is a category."""
    label = {"label": TARGETS[case.data]} if kinds_of(training)[TARGETS[case.data]] == "category" else {}
    gan = minigan.GAN("table", seed=case.seed, threads=THREADS, **label, out=work / "runs" / case.name)
    gan.fit(training, minutes=minutes, verbose=0)
    return gan.sample(len(training), seed=case.seed), {"steps": gan.n_steps_, "seconds": 60 * minutes}


def by_ctgan(case: Case, training: pd.DataFrame, kinds: dict[str, str], minutes: float) -> tuple[pd.DataFrame, dict]:
    """Train CTGAN (Xu et al. 2019) for as many epochs as fit into the time. It takes no missing values."""
    import torch
    from ctgan import CTGAN

    torch.set_num_threads(THREADS)
    torch.manual_seed(case.seed)
    np.random.seed(case.seed)  # noqa: NPY002  # CTGAN draws from it
    discrete = [name for name, kind in kinds.items() if kind == "category"]
    filled = training.copy()
    filled[discrete] = filled[discrete].fillna("(missing)")
    took = []
    for epochs in (1, 3):
        start = time.perf_counter()
        CTGAN(epochs=epochs, enable_gpu=False).fit(filled, discrete)
        took.append(time.perf_counter() - start)
    epoch = (took[1] - took[0]) / 2
    epochs = max(1, int(60 * minutes / epoch))
    start = time.perf_counter()
    model = CTGAN(epochs=epochs, enable_gpu=False)
    model.fit(filled, discrete)
    seconds = time.perf_counter() - start
    rows = model.sample(len(training))
    rows[discrete] = rows[discrete].where(rows[discrete] != "(missing)")
    return rows, {"epochs": epochs, "seconds": seconds}


# ---------------------------------------------------------------- table and program


def table(results: list[dict]) -> str:
    """Format the medians of the seeds as Markdown, with the smallest and the largest value."""
    lines = []
    for data, target in TARGETS.items():
        lines += [
            "",
            f"| {data} (target: {target}) | {' | '.join(SHOWN)} | seeds |",
            f"|---|{'--:|' * (len(SHOWN) + 1)}",
        ]
        for method in dict.fromkeys(case.method for case in CASES):
            of = [r["figures"] for r in results if (r["data"], r["method"]) == (data, method)]
            if of:
                cells = [spread([figures[name] for figures in of]) for name in SHOWN]
                lines.append(f"| {method} | {' | '.join(cells)} | {len(of)} |")
    meaning = [f"- `{name}`: {SCORES[name]}" for name in SHOWN]
    return "\n".join([*lines[1:], "", *meaning])


def spread(values: list[float]) -> str:
    """Format the median, and the range of several values."""
    text = f"{np.median(values):.3f}"
    return text if len(values) < 2 else f"{text} [{min(values):.3f}, {max(values):.3f}]"


def with_nearness(results: list[dict]) -> list[dict]:
    """Return the results, with each distance as a part of that of the held-out rows of the same data."""
    real = {r["data"]: r["figures"]["distance"] for r in results if r["method"] == "real"}
    for r in results:
        r["figures"]["nearness"] = r["figures"]["distance"] / real.get(r["data"], float("nan"))
    return results


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--minutes", type=float, default=5.0, metavar="X", help="of training, for each GAN (default: 5)"
    )
    parser.add_argument("--only", default="", metavar="TEXT", help="runs whose name contains this text")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "minigan-tables", metavar="FOLDER")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--table", type=Path, metavar="FILE", help="print the table of these results")
    parser.add_argument("--one", metavar="NAME", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    minutes = options.work / "minutes"  # for the processes of the runs
    if options.table:
        print(table(with_nearness(json.loads(options.table.read_text())["runs"])))
        return
    if options.one:
        finish(next(case for case in CASES if case.name == options.one), options.work, float(minutes.read_text()))
        return
    minutes.write_text(str(options.minutes))
    results = many_runs.Results([case.name for case in CASES], options.json, {"minutes": options.minutes})
    chosen = [case.name for case in CASES if options.only in case.name]
    many_runs.run_all(__file__, chosen, results, options.work, jobs=1, threads=THREADS)
    print(table(with_nearness(results.runs)))


if __name__ == "__main__":
    main()
