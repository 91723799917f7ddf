"""Measure the quality of samples against seconds of training, for minigan and PyTorch's small DCGAN.

    pip install torch
    python benchmarks/time_to_quality.py --json FILE [--plot FILE] [--minutes 3] [--seeds 0 1 2]
                                         [--contenders "minigan digits" ...]

minigan trains its presets `digits` and `digits-unlabelled`. The decay of their learning rates ends with the given
minutes. The preset `digits-wide`, which is made for ten minutes, can be selected too. PyTorch trains the preset `small`
(Adam 2e-4, beta1 0.5, batch 128, non-saturating) in the two versions of bench_peers.py. `plain` is the code that a user
would write first. `best` uses channels_last memory and freezes D in the step of G.

The measured seconds are those of training: fetching the batch, drawing noise, and the step. Each contender runs in a
separate process. At each mark it sends 10,000 samples and waits while the judge of `minigan.metrics` scores them; this
time is not counted. The contenders take turns for each seed. Each finished run is written to the JSON file at once, and
a repeated command skips it.
"""

import argparse
import json
import multiprocessing
import os
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

MINIGAN, TORCH = ("minigan digits", "minigan digits-unlabelled"), ("torch small, plain", "torch small, best")
CONTENDERS = (*MINIGAN, *TORCH, "minigan digits-wide")
MARKS = (0.04, 0.08, 0.15, 0.25, 0.4, 0.6, 0.8, 1.0)  # fractions of the minutes at which samples are scored
COUNT = 10_000  # samples


# ---------------------------------------------------------------- the contenders


def contender(name: str, seed: int, minutes: float, threads: int, pipe) -> None:
    """Train; at every mark, send (seconds, steps, images, labels or None) and wait for an answer."""
    ours, preset = name.startswith("minigan"), name.split()[1]
    training = minigan(preset, seed, minutes, threads) if ours else torch(name, seed, threads)
    marks = [60 * minutes * mark for mark in MARKS]
    for seconds, steps, samples in training:
        if seconds >= marks[0]:
            marks = [mark for mark in marks if mark > seconds]
            pipe.send((seconds, steps, *samples()))
            pipe.recv()
            if not marks:
                return


def minigan(preset: str, seed: int, minutes: float, threads: int):
    """Train a preset; yield (seconds of training, steps, function that draws samples and labels) after every step."""
    from minigan import backends, datasets
    from minigan.runs.evaluate import draw
    from minigan.training import Config, Training

    backend = backends.load("numba", threads=threads)
    training = Training(Config.of(preset, seed=seed, minutes=minutes), datasets.load("mnist"), backend)
    training.warm_up()

    for _ in training.records():
        yield training.seconds, training.step, lambda: draw(training.sampler, COUNT, seed)


def torch(name: str, seed: int, threads: int, batch: int = 128):
    """Train PyTorch's small DCGAN and yield the same tuples. MNIST is shuffled again in every epoch."""
    import torch
    from bench_peers import TorchStep

    from minigan import datasets

    torch.set_num_threads(threads)
    step = TorchStep("small", batch, best=name.endswith("best"), seed=seed)
    for _ in range(3):  # warms up oneDNN with a step that is then discarded
        step()
    step = TorchStep("small", batch, best=name.endswith("best"), seed=seed)
    memory = torch.channels_last if step.best else torch.contiguous_format
    images = datasets.load("mnist").images  # (N, 28, 28, 1) uint8
    rng, noise = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    noise_size = step.z_d.shape[1]

    def samples():
        step.G.eval()
        with torch.no_grad():
            parts = [step.G(torch.randn(500, noise_size, generator=noise)) for _ in range(COUNT // 500)]
        step.G.train()
        return datasets.unscale(torch.cat(parts).permute(0, 2, 3, 1).numpy()), None

    seconds, steps, order = 0.0, 0, np.zeros(0, int)
    while True:
        start = time.perf_counter()
        if len(order) < batch:
            order = rng.permutation(len(images))
        chosen, order = order[:batch], order[batch:]
        real = torch.from_numpy(datasets.scale(images[chosen])).permute(0, 3, 1, 2)
        step.real = real.contiguous(memory_format=memory)
        step.z_d, step.z_g = (torch.randn(batch, noise_size, generator=noise) for _ in range(2))
        step()
        seconds, steps = seconds + time.perf_counter() - start, steps + 1
        yield seconds, steps, samples


# ---------------------------------------------------------------- the judge


class Evaluator:
    """Scores images by the judge, without confidence intervals. `real` has the scores of real images."""

    def __init__(self, threads: int):
        from minigan import backends, datasets
        from minigan.metrics import Judge, Neighbourhoods
        from minigan.runs.evaluate import real_scores

        backend = backends.load("numba", threads=threads)
        self.judge = Judge(backend)
        features, _ = self.judge.features_and_probabilities(datasets.mnist("test").images)
        self.reference = Neighbourhoods(features)
        self.real = self._values(real_scores(self.judge, self.reference, COUNT, np.random.default_rng(0), rounds=1))

    def distance(self, images) -> float:
        """Return the Frechet distance of the images to the test digits."""
        from minigan.metrics import frechet_distance

        return frechet_distance(self.judge.features_and_probabilities(images)[0], self.reference.real)

    def scores(self, images, labels) -> dict:
        """Return every score of `minigan evaluate`. `classes` are the numbers of images read as each digit."""
        from minigan.metrics import scores

        seen = self.judge.features_and_probabilities(images)
        return self._values(scores(*seen, self.reference, labels, np.random.default_rng(0), rounds=1))

    @staticmethod
    def _values(found: dict) -> dict:
        return {name: round(f["value"], 5) if isinstance(f, dict) else f for name, f in found.items()}


def expect_same(asked: dict, before: dict, file: Path) -> None:
    """End the program if the existing report has other settings, because its runs would not be comparable."""
    if other := [name for name, value in asked.items() if before.get(name) != value]:
        raise SystemExit(f"{file} contains runs with another choice of {', '.join(other)}: name another file")


def run_contender(name: str, seed: int, minutes: float, threads: int, evaluator: Evaluator) -> dict:
    """Run one contender; return its curve of (seconds, steps, Frechet distance), and all scores at its end."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=contender, args=(name, seed, minutes, threads, theirs), daemon=True)
    process.start()
    theirs.close()  # so that recv raises EOFError if the contender dies
    curve = []
    while not curve or curve[-1]["seconds"] < 60 * minutes:
        seconds, steps, images, labels = ours.recv()
        curve.append({"seconds": round(seconds, 2), "steps": steps, "frechet": round(evaluator.distance(images), 4)})
        print(f"{name:28s} seed {seed} {seconds:7.1f} s {steps:6d} steps: {curve[-1]['frechet']:9.3f}", flush=True)
        final = evaluator.scores(images, labels) if seconds >= 60 * minutes else None
        ours.send("go")
    process.join()
    return {"contender": name, "seed": seed, "curve": curve, "final": final}


# ---------------------------------------------------------------- the report


def summary(report: dict) -> dict:
    """Return for each contender the medians over the seeds of the final scores and of the distance at each mark."""
    result = {}
    for name in dict.fromkeys(run["contender"] for run in report["runs"]):
        runs = [run for run in report["runs"] if run["contender"] == name]
        names = [key for key in runs[0]["final"] if key != "classes"]
        result[name] = {
            "seeds": len(runs),
            "steps": int(np.median([run["curve"][-1]["steps"] for run in runs])),
            **{key: round(float(np.median([run["final"][key] for run in runs])), 5) for key in names},
            "rarest digit": min(min(run["final"]["classes"]) for run in runs) / COUNT,
            "curve": [
                [round(float(np.median(column)), 3) for column in zip(*points, strict=True)]
                for points in zip(*([(p["seconds"], p["frechet"]) for p in run["curve"]] for run in runs), strict=False)
            ],
        }
    return result


def plot(report: dict, file: str) -> None:
    """Plot the Frechet distance against the seconds of training."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    for (name, medians), colour in zip(
        report["medians"].items(), ("tab:orange", "tab:red", "tab:blue", "tab:cyan"), strict=False
    ):
        for run in report["runs"]:
            if run["contender"] == name:
                points = [(p["seconds"], p["frechet"]) for p in run["curve"]]
                axes.plot(*zip(*points, strict=True), color=colour, linewidth=0.6, alpha=0.5)
        axes.plot(*zip(*medians["curve"], strict=True), "o-", color=colour, label=name, markersize=4)
    axes.axhline(report["real"]["frechet"], color="black", linestyle=":", label="real training images")
    axes.set_yscale("log")
    axes.set(xlabel="seconds of training", ylabel="Frechet distance in the judge's features (not Inception FID)")
    axes.set_title(f"{report['machine']['cpu']}, {report['threads']} threads; the median of the seeds, each seed thin")
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    figure.savefig(file, dpi=100)


def main() -> None:
    """Run the missing runs, print the medians and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=3.0, help="minutes of training for each run (default 3)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="N")
    parser.add_argument("--contenders", nargs="+", default=[*MINIGAN, *TORCH], choices=CONTENDERS)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--json", metavar="FILE", required=True, type=Path)
    parser.add_argument("--plot", metavar="FILE")
    options = parser.parse_args()

    from minigan.files import write_atomically
    from minigan.lab import bench

    evaluator = Evaluator(options.threads)
    asked = {"minutes": options.minutes, "threads": options.threads, "count": COUNT, "judge": evaluator.judge.crc32}
    report = {**asked, "machine": bench.machine(), "real": evaluator.real, "runs": []}
    if options.json.exists():
        before = json.loads(options.json.read_text())
        expect_same(asked, before, options.json)
        report["runs"] = before["runs"]
    done = {(run["contender"], run["seed"]) for run in report["runs"]}
    for seed in options.seeds:
        for name in options.contenders:
            if (name, seed) not in done:
                report["runs"].append(run_contender(name, seed, options.minutes, options.threads, evaluator))
                report |= {"when": datetime.now(UTC).isoformat(timespec="seconds"), "medians": summary(report)}
                write_atomically(options.json, (json.dumps(report, indent=1) + "\n").encode())
    if options.plot:
        plot(report, options.plot)
    for name, medians in report["medians"].items():
        print(
            f"{name:28s} {medians['steps']:6d} steps  distance {medians['frechet']:8.3f}"
            f" ({medians['frechet'] / report['real']['frechet']:.2f} of real)  coverage {medians['coverage']:.3f}"
            f"  rarest digit {100 * medians['rarest digit']:.1f}%"
            + (f"  agreement {100 * medians['agreement']:.2f}%" if "agreement" in medians else "")
        )


if __name__ == "__main__":
    main()
