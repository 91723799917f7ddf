"""Tests of the whole GPU backend with the stand-in for CuPy: CUDA kernels run on a CPU emulation; no GPU was used.

Tests marked `gpu` also run with the real CuPy if there is a GPU. test_backends.py and test_gradcheck.py test the
contract and the gradients of this backend as well.
"""

import ast
import inspect
import re
import sys
from pathlib import Path

import cuda_emulation
import numpy as np
import pytest
from test_cuda_kernels import changed, emulated_only, largest, operations

import minigan
from minigan import backends, datasets, game, layers, losses, models, optim, runs
from minigan.backends import BackendUnavailable
from minigan.cli import main
from minigan.lab import bench
from minigan.training import Config, Training, checkpoint

numpy_backend = backends.reference()
PACKAGE = Path(minigan.__file__).parent


def training(backend, preset="small", batch=8, **choices) -> Training:
    """Return a `Training` of the preset on the test set of MNIST."""
    data = datasets.mnist("test")
    return Training(Config.of(preset, batch=batch, **{"steps": 20, "seed": 1} | choices), data, backend)


# ---------------------------------------------------------------- it trains as the reference does


def train(backend, preset: str, dtype) -> tuple[list[dict], dict]:
    """Make twenty steps of the preset in one precision. Return the records, and the weights and statistics."""
    rng, config, mnist = np.random.default_rng(1), Config.of(preset), datasets.mnist("test")
    classes = 10 if config.conditional else 0
    G, D = (network.to(backend, dtype) for network in models.build(preset, rng=rng, classes=classes))
    adam = dict(beta1=config.beta1, beta2=config.beta2, eps=config.eps)
    opt_g, opt_d = optim.Adam(G, lr=config.lr_g, **adam), optim.Adam(D, lr=config.lr_d, **adam)
    records = []
    for step in range(20):
        chosen = slice(8 * step, 8 * step + 8)
        real = backend.asarray(datasets.scale(mnist.images[chosen], np.float64).astype(dtype))
        labels = backend.asarray(mnist.labels[chosen]) if classes else None
        z = [backend.asarray(rng.standard_normal((8, G.noise_shape[0])).astype(dtype)) for _ in range(2)]
        record = game.discriminator_step(G, D, opt_d, real, z[0], losses.LOSSES[config.loss], labels)
        record |= game.generator_step(G, D, opt_g, z[1], losses.LOSSES[config.loss], labels)
        records.append({name: float(value) for name, value in record.items()})
    tensors = {f"{i}.{k}": v for i, net in enumerate((G, D)) for k, v in (net.params | net.buffers).items()}
    return records, {name: backend.to_numpy(value) for name, value in tensors.items()}


@pytest.mark.parametrize("preset", ["small", "digits"])
def test_twenty_steps_are_those_of_the_reference_in_float64(preset, gpu):
    """They agree to nine digits. The remaining difference is caused by the order of sums."""
    (records, tensors), (expected, expected_tensors) = (train(b, preset, np.float64) for b in (gpu, numpy_backend))
    for step, (a, b) in enumerate(zip(records, expected, strict=True)):
        assert a == pytest.approx(b, rel=1e-9, abs=1e-9), step
    assert tensors.keys() == expected_tensors.keys()
    for name, a in tensors.items():
        assert largest(a - expected_tensors[name]) <= 1e-7 * np.abs(expected_tensors[name]).max() + 1e-9, name


@pytest.mark.parametrize("preset", ["small", "digits"])
def test_twenty_steps_of_a_training_are_those_of_the_reference(preset, gpu):
    """The learning rate is small, because in float32 Adam makes full steps even for gradients of rounding error."""
    ours, theirs = (training(b, preset, lr_g=1e-4, lr_d=1e-4) for b in (gpu, numpy_backend))
    assert largest(ours.samples(4).astype(int) - theirs.samples(4)) <= 1  # of 255: the weights are the same at first
    for a, b in zip(ours.records(), theirs.records(), strict=True):
        exact = [a.pop(name) == b.pop(name) for name in ("step", "epoch", "end_of_epoch")]
        assert all(exact) and a == pytest.approx(b, rel=2e-3, abs=2e-3)
    (arrays, facts), (expected, expected_facts) = ours.state(), theirs.state()
    assert facts["noise"] == expected_facts["noise"] and facts["cursor"] == expected_facts["cursor"]
    assert {k: (a.dtype, a.shape) for k, a in arrays.items()} == {k: (a.dtype, a.shape) for k, a in expected.items()}


@emulated_only
@pytest.mark.parametrize(
    ("preset", "most"),
    [("small", 120), ("digits", 402), ("tutorial", 118), ("mlp", 107), ("mp-gan", 145), ("upsample", 145)],
)
def test_a_step_launches_few_kernels_and_never_waits(preset, most, emulated, emulation):
    """A step does not synchronise and copies nothing to the host.

    Only the indices of the batch, the noise and the labels for G are copied to the GPU.
    """
    counts, t = emulated[1].counts, training(emulation, preset, batch=4, average=0.9 if preset == "digits" else 0.0)
    t._train_step()  # the first step compiles
    counts.clear()
    t._train_step()
    assert counts["launches"] + counts["operations"] <= most
    assert counts["synchronisations"] == counts["bytes_out"] == 0
    noise = (1 if t.config.simultaneous else 2) * 4 * t.fixed_noise.shape[1] * 4
    indices, labels = 4 * 8, 4 * 8 if t.classes and not t.config.simultaneous else 0
    assert counts["bytes_in"] == noise + indices + labels


@emulated_only
@pytest.mark.parametrize("kind", [layers.GRU, layers.LSTM])
def test_a_recurrent_layer_launches_as_few_kernels_for_many_steps_as_for_few(kind, emulated, emulation, rng):
    counts, layer, launches = emulated[1].counts, kind(3, 4, rng=rng).to(emulation), []
    for T in (3, 40):
        x = emulation.asarray(rng.standard_normal((2, T, 3)).astype(np.float32))
        counts.clear()
        y, cache = layer.forward(x)
        layer.backward(y, cache)
        launches.append(counts["launches"] + counts["operations"])
        assert counts["synchronisations"] == counts["bytes_out"] == counts["bytes_in"] == 0
    assert launches == [12, 12]


@emulated_only
@pytest.mark.parametrize("preset", ["small", "tutorial"])
def test_the_estimate_on_paper_counts_the_launches_of_a_step(preset, emulated, emulation, monkeypatch):
    monkeypatch.syspath_prepend(PACKAGE.parent / "benchmarks")
    import gpu_on_paper

    counts, step = emulated[1].counts, bench.Step(preset, 4, emulation)
    step()
    counts.clear()
    step()
    assert gpu_on_paper.LAUNCHES[preset] == counts["launches"] + counts["operations"] + 1  # to gather the images


@emulated_only
def test_losses_are_fetched_once_per_report(emulated, emulation, monkeypatch):
    monkeypatch.setattr(emulation, "steps_ahead", 3)
    counts, t = emulated[1].counts, training(emulation, steps=8, batch=4)
    waits = []
    for record in t.records():
        waits.append((record["step"], t.step, counts["synchronisations"]))
        counts.clear()
    assert [(step, ahead) for step, ahead, _ in waits] == [
        (1, 3),
        (2, 3),
        (3, 3),
        (4, 6),
        (5, 6),
        (6, 6),
        (7, 8),
        (8, 8),
    ]
    assert [w for _, _, w in waits][3:] == [2, 0, 0, 2, 0]  # the losses, and the weights' squares
    assert len(t.curves) == 8 * len(Training.CURVES)


@emulated_only
def test_a_report_ends_with_the_epoch(emulation):
    images = datasets.Images(datasets.mnist("test").images[:70], None, "seventy")
    t = Training(Config.of("small", batch=16, epochs=2), images, emulation)
    records = list(t.records())
    assert [r["end_of_epoch"] for r in records] == [False, False, False, True] * 2
    assert [r["epoch"] for r in records] == [0, 0, 0, 1, 1, 1, 1, 2]
    assert [(row["epoch"], row["step"]) for row in t.history] == [(1, 4), (2, 8)]


@emulated_only
def test_the_step_that_diverged_is_named(emulation, monkeypatch):
    t = training(emulation, steps=9, batch=4)
    run_step, lost = t._train_step, emulation.asarray(np.float32(np.nan))
    monkeypatch.setattr(t, "_train_step", lambda: run_step() | ({"g_loss": lost} if t.step == 4 else {}))
    with pytest.raises(minigan.training.Diverged, match="step 5: g_loss is no longer a finite number"):
        list(t.records())
    t = training(emulation, steps=9, batch=4)
    t.G.params["0.w"][3, 5] = np.nan
    with pytest.raises(minigan.training.Diverged, match=r"step 1: d_loss.*, G\.0\.w"):
        list(t.records())


def test_a_run_can_be_resumed_on_another_backend(gpu, tmp_path):
    """Through the files of a run, as in practice."""
    out = tmp_path / "run"
    config = Config.of("digits", batch=8, steps=3, backend="cupy", average=0.9)
    runs.play(runs.begin(config, out), out, quiet=True)
    for backend, steps in (("numpy", 5), ("cupy", 7)):
        t = runs.resume(out, backend=backend, steps=steps)
        assert t.step == steps - 2 and t.backend.name == backend
        arrays, _ = t.state()
        before, _ = checkpoint.load(out / "checkpoint.npz")
        assert arrays.keys() == before.keys() and all(np.array_equal(arrays[k], before[k]) for k in arrays)
        runs.play(t, out, quiet=True)
    assert len(runs.resume(out).curves) == 7 * 4
    images = [runs.sampler(out, b).draw(4, np.random.default_rng(0)) for b in (gpu, numpy_backend)]
    assert largest(images[0].astype(int) - images[1]) <= 1


# ---------------------------------------------------------------- host and device arrays do not mix


def test_arrays_of_the_host_are_refused(gpu):
    x, w = np.ones((2, 4, 4, 3), np.float32), np.ones((3, 3, 3, 2), np.float32)
    X, W, C = gpu.asarray(x), gpu.asarray(w), gpu.asarray(np.ones(3, np.float32))
    for call in (
        lambda: gpu.conv2d(x, W, 1, 1),
        lambda: gpu.conv2d(X, w, 1, 1),
        lambda: gpu.batchnorm(x, C, C, 1e-3),
        lambda: gpu.leaky_relu(x, 0.2),
        lambda: gpu.dropout(x, 3, 4),
        lambda: gpu.adam(C, np.ones(3, np.float32), C, C, 1e-3, 0.5, 0.9, 1e-8, 1),
        lambda: gpu.concatenate([X, w]),
        lambda: gpu.gather(gpu.asarray(np.zeros((3, 2), np.uint8)), np.array([1, 2])),
        lambda: gpu.mean_sigmoid(np.ones(3, np.float32)),
        lambda: X + x,
        lambda: gpu.xp.where(X > 0, X, x),
        lambda: gpu.matmul(X[0, 0], x[0, 0].T),
        lambda: np.asarray(X),
    ):
        with pytest.raises(TypeError):
            call()


def test_other_precisions_and_shapes_are_refused(gpu):
    x, w = gpu.asarray(np.ones((2, 4, 4, 3), np.float32)), gpu.asarray(np.ones((3, 3, 3, 2), np.float32))
    with pytest.raises(TypeError, match="expected float32 or float64 for all, got float32, float64"):
        gpu.conv2d(x, w.astype(np.float64), 1, 1)
    with pytest.raises(TypeError, match="float16"):
        gpu.leaky_relu(x.astype(np.float16), 0.2)
    with pytest.raises(TypeError, match="float16"):
        gpu.uniform((2, 3), 1, np.float16)
    for call in (
        lambda: gpu.conv2d(x[..., :2], w, 1, 1),
        lambda: gpu.conv2d_grad_x(x, w, (2, 4, 4, 3), 1, 1),
        lambda: gpu.conv2d_grad_w(x[:1, ..., :2], x, w.shape, 1, 1),
    ):
        with pytest.raises(ValueError, match="shapes do not fit together"):
            call()


@emulated_only
def test_arrays_too_large_for_the_kernels_are_refused(emulated, emulation, monkeypatch):
    monkeypatch.setattr(emulated[0], "LARGEST", 99)
    assert emulation.leaky_relu(emulation.asarray(np.ones(99)), 0.2).size == 99
    with pytest.raises(ValueError, match=r"got an array of 100 elements, expected at most 99: choose a smaller batch"):
        emulation.leaky_relu(emulation.asarray(np.ones(100)), 0.2)


# ---------------------------------------------------------------- mistakes planted in the Python code

GLUE = {
    "narrow rows that are joined although they do not fit": (
        "if M % joined:\n            joined = 1",
        "if M % joined < 0:\n            joined = 1",
    ),
    "rows and columns of the output exchanged": (
        'pads(pad)[0], P, Q))\n    _launch("im2col"',
        'pads(pad)[0], Q, P))\n    _launch("im2col"',
    ),
    "the padding after in place of before": (
        'pads(pad)[0], P, Q))\n        _launch("col2im"',
        'pads(pad)[1], P, Q))\n        _launch("col2im"',
    ),
    "a Python float in place of a float": ("x, y, x.dtype.type(slope))", "x, y, slope)"),
    "a double in place of a float": ("average.dtype.type(share)", "np.float64(share)"),
    "a long in place of an int": ("*arguments, _int(n))", "*arguments, np.int64(n))"),
    "a grid that is too small": (
        "dtype, (-(-n // THREADS),), (THREADS,), *arguments",
        "dtype, (n // THREADS,), (THREADS,), *arguments",
    ),
    "an array that is not contiguous": ("[cupy.ascontiguousarray(a) for a in arrays]", "list(arrays)"),
    "an array of the host": ("dx = cupy.empty(dy.shape", "dx = np.empty(dy.shape"),
    "the running variance forgotten": ("arrays = running_mean, running_var,", "arrays = running_mean, running_mean,"),
    "Adam's second moment not corrected": ("lr / (1 - beta1**t), 1 / (1 - beta2**t)", "lr / (1 - beta1**t), 1.0"),
    "the end of the last group forgotten": ("np.array([*starts, G], np.int32)", "np.array([*starts, 0], np.int32)"),
    "too few threads for the groups": ("_each(name, N * len(starts)", "_each(name, N"),
    "bounds of 64 bits": ("G], np.int32)", "G], np.int64)"),
    "the states after each step in place of before": (
        "cupy.concatenate([start[:, None, :H], y[:, :-1]], axis=1)",
        "y",
    ),
    "the gradient of the inputs in place of the states": (
        "self.sum_rows(da), self.sum_rows(dq)",
        "self.sum_rows(da), self.sum_rows(da)",
    ),
    "too few sequences": ("_launch(name, x.dtype, (N,), _units(H), a", "_launch(name, x.dtype, (1,), _units(H), a"),
    "arrays after the eighth written over the first ones": ("            start += n\n", ""),
}


@pytest.mark.slow
@emulated_only
@pytest.mark.parametrize("mistake", GLUE)
def test_a_mistake_in_the_python_code_is_caught(mistake):
    import cupy_standin

    module, worst = cupy_standin.load_backend(lambda source: changed(*GLUE[mistake], source)), 0.0
    try:
        backend = module.CupyBackend()
        pairs = zip(operations(backend, np.float32), operations(numpy_backend, np.float64), strict=True)
        for (_, a), (_, b) in pairs:
            worst = max(worst, largest(backend.to_numpy(a) - b))
    except (cuda_emulation.Fault, TypeError, ValueError):  # BackendUnavailable is a ValueError
        return
    assert worst > 1e-3


# ---------------------------------------------------------------- starting, or an error that says what is missing


@pytest.fixture
def machine(emulated, monkeypatch):
    """The stand-in for CuPy, whose `driver` a test can change, with a backend that has not been started."""
    standin = emulated[1]
    monkeypatch.setitem(sys.modules, "minigan.backends.cupy.backend", standin.load_backend())
    monkeypatch.setattr(backends, "_loaded", {})
    monkeypatch.setattr(standin, "driver", {"devices": 2, "version": 13020, "fails": {}})
    return standin


def errors_of(standin) -> dict:
    """Return the changes of `driver` that imitate each fault of a machine."""
    broken = standin.CUDARuntimeError
    return {
        "no driver": dict(
            version=0, fails={"driver": broken("cudaErrorInsufficientDriver: CUDA driver version is insufficient")}
        ),
        "old driver": dict(version=12040, fails={"driver": broken("cudaErrorInsufficientDriver: ...")}),
        "no device": dict(fails={"driver": broken("cudaErrorNoDevice: no CUDA-capable device is detected")}),
        "NVRTC": dict(fails={"nvrtc": ImportError("Failure finding libnvrtc.so.13\nand more")}),
        "cuBLAS": dict(fails={"cublas": RuntimeError("Failure finding libcublas.so.13")}),
        "memory": dict(fails={"memory": MemoryError("Out of memory allocating 16 bytes")}),
    }


MESSAGES = {
    "no driver": "no NVIDIA driver is installed: on Ubuntu `sudo ubuntu-drivers install`",
    "old driver": "the NVIDIA driver is for CUDA 12 and this CuPy for CUDA 13: upgrade the driver, or `pip uninstall",
    "no device": "the NVIDIA driver finds no GPU (cudaErrorNoDevice: no CUDA-capable device is detected): see `nvidia",
    "NVRTC": "cannot compile a kernel (NVRTC): Failure finding libnvrtc.so.13: pip install 'minigan[cuda13]'",
    "cuBLAS": "cannot multiply matrices (cuBLAS): Failure finding libcublas.so.13: pip install 'minigan[cuda13]'",
    "memory": "the GPU's memory is full: end other programs on it (`nvidia-smi` lists them), or raise --gpu-memory",
}


@emulated_only
@pytest.mark.parametrize("missing", MESSAGES)
def test_the_error_names_what_is_missing_and_the_fix(missing, machine, capsys, tmp_path, monkeypatch):
    machine.driver.update(errors_of(machine)[missing])
    with pytest.raises(BackendUnavailable, match=re.escape(MESSAGES[missing])):
        backends.load("cupy")
    backend, line = backends.choose()
    assert backend.name != "cupy" and MESSAGES[missing] in line and "\n" not in line
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--backend", "cupy"]) == 2
    output = capsys.readouterr()
    assert output.err.startswith("minigan: ") and MESSAGES[missing] in output.err and output.err.count("\n") == 1
    assert main(["doctor"]) == 0
    assert re.search(
        rf"^backend  cupy   does not run here: .*{re.escape(MESSAGES[missing])}", capsys.readouterr().out, re.M
    )
    machine.driver.update(version=13020, fails={})  # without the fault, it runs
    assert backends.load("cupy").name == "cupy"


def test_without_cupy_the_error_names_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    monkeypatch.delitem(sys.modules, "minigan.backends.cupy.backend", raising=False)
    monkeypatch.setattr(backends, "_loaded", {})
    cause = backends.status()["cupy"]
    assert cause == "the cupy backend needs the package cupy: pip install 'minigan[cuda13]'"


def test_a_cupy_that_does_not_support_this_numpy_gives_one_line(monkeypatch):
    def refuse(name, *rest):
        raise ImportError("\n=====\nCuPy needs NumPy 2.0 or newer.\n=====\nOriginal error: ...")

    monkeypatch.setattr(backends.importlib, "import_module", refuse)
    with pytest.raises(BackendUnavailable, match=r"\(CuPy needs NumPy 2\.0 or newer\): pip install --upgrade 'minigan"):
        backends.load("cupy")


@emulated_only
def test_device_memory_and_tf32_are_set_as_requested(machine):
    backends.load("cupy", device=1, memory=1.5)
    assert (machine.driver["used"], machine.driver["limit"]) == (1, 3 * 2**29)
    assert machine.driver["compute_type"] == 1  # the default: no TF32
    other = backends.load("cupy", tf32=True)
    assert (machine.driver["used"], machine.driver["compute_type"]) == (0, 7)
    machine.driver["fails"] = {"driver": AssertionError("the device is tested again")}
    first = backends.load("cupy", device=1, memory=1.5)  # it was loaded before, so the device is not tested again
    first.asarray([1.0])  # the first operation applies its settings
    assert (machine.driver["used"], machine.driver["limit"], machine.driver["compute_type"]) == (1, 3 * 2**29, 1)
    other.asarray([1.0])
    assert (machine.driver["used"], machine.driver["limit"], machine.driver["compute_type"]) == (0, 0, 7)
    machine.driver["fails"] = {}
    with pytest.raises(BackendUnavailable, match="there is no GPU 2: --device must be 0 to 1"):
        backends.load("cupy", device=2)


@emulated_only
def test_the_options_reach_the_device(machine, tmp_path, capsys):
    out = str(tmp_path / "run")
    options = ["--preset", "mlp", "--batch", "4", "--steps", "2", "--backend", "cupy", "--out", out]
    assert main(["train", *options, "--device", "1", "--tf32", "--gpu-memory", "2"]) == 0
    assert (machine.driver["used"], machine.driver["compute_type"], machine.driver["limit"]) == (1, 7, 2**31)
    assert "backend    cupy" in capsys.readouterr().out
    assert (runs.read_config(Path(out)).device, runs.read_config(Path(out)).tf32) == (1, True)
    assert main(["sample", out, "--count", "2", "--backend", "cupy", "--device", "0", "--out", f"{out}/s.npy"]) == 0
    assert machine.driver["used"] == 0
    assert main(["sample", out, "--device", "-1"]) == 2
    assert main(["sample", out, "--gpu-memory", "0"]) == 2


@emulated_only
def test_the_doctor_describes_the_gpu(emulation, capsys):
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert "backend  cupy   runs here" in text and "auto     takes cupy" in text
    assert re.search(r"gpu +0: a stand-in, 2\.0 GiB, compute capability 9\.0, CUDA 13\.2 on a driver for 13\.2", text)


# ---------------------------------------------------------------- CuPy has all names that are used


def names_of_cupy(source: str) -> list[tuple[int, str, ast.Call | None]]:
    """Return (line, dotted name, the call or None) of each attribute of cupy, xp or ... .xp in the source."""
    tree, found, within = ast.parse(source), [], set()
    calls = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute) or id(node) in within:
            continue
        names, inner = [], node
        while isinstance(inner, ast.Attribute) and inner.attr != "xp":
            names.append(inner.attr)
            within.add(id(inner))
            inner = inner.value
        is_cupy = isinstance(inner, ast.Attribute) or (isinstance(inner, ast.Name) and inner.id in ("cupy", "xp"))
        if is_cupy and names:
            found.append((node.lineno, ".".join(reversed(names)), calls.get(id(node))))
    return found


def wrong_names(source: str) -> list[str]:
    """Return the names that the installed CuPy does not have, and the calls that do not fit their signatures."""
    cupy = pytest.importorskip("cupy", reason="needs CuPy (a GPU is not needed): pip install cupy-cuda13x")
    wrong = []
    for line, name, call in names_of_cupy(source):
        try:
            thing = cupy
            for part in name.split("."):
                thing = getattr(thing, part)
        except AttributeError:
            wrong.append(f"{line}: no cupy.{name}")
            continue
        if call is None or any(isinstance(a, ast.Starred) for a in call.args):
            continue
        named = {k.arg: None for k in call.keywords}
        if isinstance(thing, cupy.ufunc):
            if not thing.nin <= len(call.args) <= thing.nargs:
                wrong.append(f"{line}: cupy.{name} takes {thing.nin} arrays")
        elif wrong_call(thing, len(call.args), named):
            wrong.append(f"{line}: cupy.{name} takes no {len(call.args)} and {sorted(named)}")
    return wrong


def wrong_call(thing, positional: int, named: dict) -> bool:
    """Return whether a call does not fit the signature. That of a compiled class is the first line of its docstring."""
    try:
        inspect.signature(thing).bind(*[None] * positional, **named)
    except TypeError:
        return True
    except ValueError:
        first = (thing.__doc__ or "").strip().split("\n")[0]
        return "(" in first and not all(re.search(rf"\b{name}\b", first) for name in named)
    return False


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_cupy_has_every_name_that_is_used(path):
    assert wrong_names(path.read_text(encoding="utf-8")) == []


def test_many_names_are_checked():
    text = (PACKAGE / "backends" / "cupy" / "backend.py").read_text(encoding="utf-8")
    assert {"RawModule", "cuda.Device", "asnumpy"} <= {name for _, name, _ in names_of_cupy(text)}
    assert {"tanh", "broadcast_to"} <= {
        n
        for file in ("activations.py", "shape.py")
        for _, n, _ in names_of_cupy((PACKAGE / "layers" / file).read_text("utf-8"))
    }


@pytest.mark.parametrize(
    "code",
    [
        "cupy.geomspace2(1, 2)",
        "cupy.cuda.Streem()",
        "cupy.where(a, b, c, d)",
        "cupy.add(a)",
        "cupy.asnumpy(a, dtype=b)",
        "cupy.RawModule(source=text)",
        "self.backend.xp.tanh()",
    ],
)
def test_a_name_that_cupy_does_not_have_is_found(code):
    assert len(wrong_names(code)) == 1
