"""One batch, step by step: it shows what the layers compute themselves, of every kind of run, and changes nothing."""

import itertools
import re

import numpy as np
import pytest

from minigan import datasets, game, layers, losses, models, runs
from minigan.cli import main
from minigan.report.page.journey import heights, highlighted, part
from minigan.report.page.pictures import heat_map
from minigan.runs import trace
from minigan.training import Config, Training


def training_of(preset: str = "digits", backend: str = "numpy", **options) -> Training:
    options = {"batch": 8, "epochs": 1, "backend": backend} | options
    kind = models.PRESETS[preset].kind
    if kind == "images":
        images = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 1), dtype=np.uint8)
        return runs.begin(Config.of(preset, **options), None, data=datasets.Images(images, np.arange(40) % 3, "few"))
    if kind == "tables":
        pytest.importorskip("pandas")
        return runs.begin(Config.of(preset, data="penguins", **options), None)
    return runs.begin(Config.of(preset, data="ring", **options), None)


CASES = {
    "one forward pass for both": ("digits", {}),
    "two steps, batch norm": ("small", {"conditional": True, "network": {"d_norm": "batch"}}),
    "dropout": ("mlp", {}),
    "a penalty": ("small", {"penalty": "r1"}),
    "wgan-gp": ("small", {"loss": "wasserstein"}),
    "pairs, with two penalties": ("small", {"loss": "r3gan"}),
    "packing and instance noise": ("small", {"pack": 2, "instance_noise": 0.1}),
    "feature matching": ("small", {"feature_matching": 0.5}),
    "fewer real samples": ("small", {"real_share": 0.25}),
    "an upsampling generator": ("upsample", {}),
    "points": ("points", {}),
    "a table": ("table", {"batch": 32}),
    "a table with labels": ("table", {"batch": 32, "data_options": {"label": "species"}}),
}


@pytest.mark.parametrize(("preset", "options"), CASES.values(), ids=CASES)
def test_every_kind_of_run_has_its_steps(preset, options):
    training = training_of(preset, **options)
    before = training.state()
    steps = trace.steps(training)
    after = training.state()
    assert before[1] == after[1] and all(np.array_equal(before[0][name], after[0][name]) for name in before[0])
    chapters = list(dict.fromkeys(step.chapter for step in steps))
    assert chapters[:3] == ["G draws fakes from noise", "D judges real samples", "D judges fakes"]
    assert {"Back through D: real samples", "Back through D: fakes", "Back through G"} <= set(chapters)
    assert {"The optimizer updates D", "The optimizer updates G"} <= set(chapters)
    assert ("The gradient penalty" in chapters) == (training.penalty is not None)
    assert all(step.says and step.sources and step.numbers for step in steps)
    page = str(part(steps, trace.sources_of_the_game()))
    assert page.count("<section") == len(steps) and "data:image/png;base64," in page


def test_a_step_of_each_layer_in_each_direction_is_shown():
    training = training_of()
    steps = trace.steps(training)
    G, D = training.G.layers, training.D.layers
    titles = [(step.title, step.kind) for step in steps if step.kind != "other"]
    forward = [(repr(layer), "forward") for layer in (*G, *D, *D)]
    # D's own gradients need no dx of its first layer, and G's need no gradient of what comes before its first weight.
    back = [(repr(layer), "back") for _ in range(3) for layer in D[::-1]] + [
        (repr(layer), "back") for layer in G[:0:-1]
    ]
    assert titles == forward + back
    assert [step.kind for step in steps].count("other") == 4  # two losses and two optimizers


def test_the_numbers_are_those_of_the_layers_and_of_the_game():
    """The same batch in the game itself gives the same losses, gradients and changes of the weights."""
    training = training_of("small")
    steps = trace.steps(training)
    rng = np.random.default_rng([training.config.seed, trace.STREAM])
    index = rng.choice(40, 8, replace=False)
    real = training.data.batch(index)
    z = rng.standard_normal((8, 64), dtype=np.float32)
    seen = []

    class Seen:
        def __init__(self, optimizer):
            self.optimizer = optimizer

        def step(self, grads):
            seen.append(np.concatenate([grad.ravel() for grad in grads.values()]))
            self.optimizer.step(grads)

    G, D, loss = training.G, training.D, training.loss
    report = game.discriminator_step(G, D, Seen(training.opt_d), real, z, loss)
    report |= game.generator_step(G, D, Seen(training.opt_g), z, loss)
    values = [number for step in steps for number in step.numbers if number.name == "loss"]
    assert [number.mean for number in values] == pytest.approx([report["d_loss"], report["g_loss"]], rel=1e-5)
    shown = [number.norm for step in steps for number in step.numbers if number.name == "dw, all gradients"]
    assert shown == pytest.approx([np.linalg.norm(grads) for grads in seen], rel=1e-4)


def test_the_functions_of_the_layers_run_and_no_copies(monkeypatch):
    """A mistake in a layer is a mistake in the trace, forward and back."""
    before = trace.steps(training_of("mlp"))
    forward, backward = layers.Dense.forward, layers.Dense.backward

    def twice(self, x, train=True, track=True):
        y, cache = forward(self, x, train, track)
        return 2 * y, cache

    monkeypatch.setattr(layers.Dense, "forward", twice)
    after = trace.steps(training_of("mlp"))
    first = next(k for k, step in enumerate(before) if step.title.startswith("Dense"))
    assert after[first].size == pytest.approx(2 * before[first].size, rel=1e-5)
    monkeypatch.setattr(layers.Dense, "forward", forward)

    def half(self, dy, cache, need_dx=True, need_grads=True):
        dx, grads = backward(self, dy, cache, need_dx, need_grads)
        return None if dx is None else dx / 2, grads

    monkeypatch.setattr(layers.Dense, "backward", half)
    after = trace.steps(training_of("mlp"))
    first = next(k for k, step in enumerate(before) if step.title.startswith("Dense") and step.kind == "back")
    assert after[first].size == pytest.approx(before[first].size / 2, rel=1e-5)


def test_the_lines_of_source_are_those_that_run():
    steps = trace.steps(training_of("small"))
    dense = next(step for step in steps if step.title.startswith("Dense") and step.kind == "forward")
    assert dense.sources[0].file == "minigan/layers/dense.py" and "matmul(x, self.params" in dense.sources[0].text
    lines = (trace.Path(layers.__file__).parent / "dense.py").read_text(encoding="utf-8").splitlines()
    assert lines[dense.sources[0].line - 1].strip() == dense.sources[0].text.splitlines()[0]
    assert "y = x @ w + b" in dense.says[0]
    relu = next(step for step in steps if step.title.startswith("LeakyReLU") and step.kind == "back")
    assert relu.sources[0].name == "Rectifier.gradient" and "slope * dy" in " ".join(relu.says)
    text = trace.Path(game.__file__).read_text(encoding="utf-8").splitlines()
    where = {text[step.game[1] - 1].strip() for step in steps if step.chapter == "D judges real samples"}
    assert where == {"real_logits, real_cache = D.forward(real, labels=labels)  # (N, 1)"}
    assert {step.game[0] for step in steps} == {"discriminator_step", "generator_step"}


def test_what_a_layer_gets_is_drawn_once():
    """x of a layer is y of the layer before. So only what enters a chapter has a picture of its own."""
    steps = trace.steps(training_of("small"))
    for before, step in itertools.pairwise(steps):
        if step.kind == "forward" and step.chapter == before.chapter:
            assert step.shown[0].picture is None and steps[step.shown[0].before] is before


def test_the_bars_are_on_a_scale_of_logs():
    steps = trace.steps(training_of("small"))[:3]
    for step, size in zip(steps, (1.0, 10.0, 100.0), strict=True):
        step.size = size
    assert heights(steps) == pytest.approx([15, 57.5, 100])


def test_source_is_marked_without_losing_a_character():
    text = 'def f(x):\n    """A "<tag>"\n    over two lines."""\n    return x < 1  # why & when\n'
    lines = highlighted(text)
    plain = [re.sub(r"<[^>]+>", "", line) for line in lines]
    unescaped = [
        line.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", '"').replace("&amp;", "&") for line in plain
    ]
    assert unescaped == text.splitlines()
    assert '<span class="k">def</span>' in lines[0] and '<span class="c"># why &amp; when</span>' in lines[3]
    assert highlighted("'never ends") == ["&#x27;never ends"]


def test_the_command_writes_the_page_alone(tmp_path, capsys):
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8), dtype=np.uint8)
    np.save(tmp_path / "x.npy", images)
    out = tmp_path / "run"
    command = ["train", "--preset", "small", "--data", str(tmp_path / "x.npy"), "--batch", "8", "--steps", "2"]
    assert main([*command, "--backend", "numpy", "--no-report", "--quiet", "--out", str(out)]) == 0
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert main(["trace", str(out), "--backend", "numpy", "--out", str(tmp_path / "new" / "one.html")]) == 0
    assert "one batch, step by step" in capsys.readouterr().out
    content = (tmp_path / "new" / "one.html").read_text(encoding="utf-8")
    assert "Step 1 of" in content and 'id="samples"' not in content and len(content) < 2e6
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    assert main(["trace", str(out)]) == 0 and (out / "trace.html").exists()
    assert main(["trace", str(tmp_path / "none")]) == 2
    (tmp_path / "x.npy").unlink()
    assert main(["trace", str(out)]) == 2 and "--data PATH" in capsys.readouterr().err


def test_a_smoothed_loss_is_watched_as_it_is():
    training = training_of("small", label_smoothing=0.1)
    step = next(step for step in trace.steps(training) if step.chapter == "The loss of the discriminator")
    assert training.loss.smoothing == 0.1 and step.title.startswith(type(losses.LOSSES["non_saturating"]).__name__)
    assert len(step.logits["real samples"]) == 8


def test_a_heat_map_of_rows_shows_some_of_them():
    assert heat_map(np.zeros((64, 1000)), signed=True)[2] == (160, 16)
