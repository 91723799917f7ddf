"""Exported generators compute what the generator computes, in every format, for every preset and any batch size."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from generators import GROUPS, IMAGES, SERIES, generator_of, noise, translated

import minigan
from minigan import export, models
from minigan.cli import main
from minigan.errors import UserError
from minigan.export import layers as exported_layers
from minigan.layers import GRU, Dense, LayerNorm, Reshape, Sequential, Tanh
from minigan.training.sampling import draw_samples

CASES = [(name, 3) for name in IMAGES if name != "upsample"] + [("upsample", 0), ("digits", 0), ("others", 0)]
CASES += [("points", 0), ("points", 3), ("table", 0), ("table", 3)]
CASES += [(name, classes) for name in SERIES for classes in (0, 3)]


def labels_for(count: int, classes: int) -> dict[str, np.ndarray]:
    """The argument `labels`, if there are classes."""
    return {"labels": np.arange(count) % classes} if classes else {}


def fixed_uniform(found: export.Exported, count: int) -> dict[str, np.ndarray]:
    """The argument `uniform` of a head of a table, if there is one: numbers that decide every group clearly."""
    if not found.uniform:
        return {}
    drawn = np.random.default_rng(2).uniform(0.2, 0.8, (count, found.uniform)).astype(np.float32)
    for start, stop in GROUPS:
        drawn[np.arange(count), np.random.default_rng(3).integers(start, stop, count)] = 1 - 2**-24
    return {"uniform": drawn}


def expected(G: Sequential, found: export.Exported, z: np.ndarray, given: dict, monkeypatch) -> np.ndarray:
    """What the generator computes in evaluation, with these numbers in place of those that its head draws."""
    uniform = given.get("uniform")
    if uniform is not None:
        monkeypatch.setattr(type(G.backend), "uniform", lambda self, shape, stream, dtype: uniform.astype(dtype))
    labels = {name: value for name, value in given.items() if name == "labels"}
    return G.forward(z, train=False, **labels)[0]


@pytest.mark.parametrize(("name", "classes"), CASES)
def test_the_functions_of_numpy_and_onnx_agree_with_the_generator(name, classes, monkeypatch):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    G, found = translated(name, classes)
    session = onnxruntime.InferenceSession(export.FORMATS["onnx"].write(found), providers=["CPUExecutionProvider"])
    for count in (1, 2, 37):
        z = noise(G, count)
        given = labels_for(count, classes) | fixed_uniform(found, count)
        with monkeypatch.context() as patch:
            want = expected(G, found, z, given, patch)
        assert want.shape == (count, *found.sample_shape) and (count == 1 or want.std() > 0.03)
        np.testing.assert_allclose(found.run(z, **given), want, rtol=0, atol=1e-5)
        (computed,) = session.run(None, {"z": z} | given)
        np.testing.assert_allclose(computed, want, rtol=0, atol=1e-5)


def test_every_preset_is_tested():
    assert {name for name, _ in CASES} == {*models.PRESETS, "others"}


def test_every_layer_that_can_be_exported_is_tested():
    """In a generator of a preset, or in that of all other layers."""

    def kinds(layer) -> set:
        return {type(layer)}.union(*(kinds(part) for part in layer.inner()))

    seen = set().union(*(kinds(generator_of(name, classes)[0]) for name, classes in CASES))
    assert seen == exported_layers.RULES.keys()


# ---------------------------------------------------------------- the Python file

HIDDEN = "import sys; sys.modules['minigan'] = None; import runpy; sys.argv = sys.argv[1:]; "


def run_file(path: Path, *arguments: str, code: int = 0, also: str = "") -> str:
    """Run an exported file in its folder, where minigan cannot be imported. Returns what it prints."""
    command = [sys.executable, "-c", f"{HIDDEN}{also}runpy.run_path(sys.argv[0], run_name='__main__')", path.name]
    done = subprocess.run([*command, *arguments], cwd=path.parent, capture_output=True, text=True, timeout=120)
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    ("name", "classes"), [("digits", 3), ("upsample", 0), ("others", 0), ("points", 3), ("table", 3), ("waves-gru", 3)]
)
def test_the_python_file_draws_the_samples_of_minigan_without_minigan(name, classes, tmp_path):
    G, found = translated(name, classes)
    file = tmp_path / "generator.py"
    file.write_bytes(export.FORMATS["python"].write(found))
    run_file(file, "--count", "300", "--seed", "5", "--out", "x.npy")
    labels = np.arange(300) % classes if classes else None
    want = found.codec.decode(draw_samples(G, noise(G, 300, seed=5), labels))  # 300: more than one chunk
    drawn = np.load(tmp_path / "x.npy").astype(float)
    if found.codec.view == "series":  # 0 where both have a gap, or are after the end
        assert 0 < np.isnan(want).mean() < 0.9 and np.array_equal(np.isnan(drawn), np.isnan(want))
        drawn, want = np.nan_to_num(drawn), np.nan_to_num(want)
    difference = np.abs(drawn - want)
    assert difference.max() <= (1 if found.codec.view == "grid" else 1e-5)
    assert (difference > 0.5).mean() < 1e-3


def test_the_python_file_says_what_is_wrong(tmp_path):
    _, found = translated("digits", 3)
    file = tmp_path / "generator.py"
    file.write_bytes(export.FORMATS["python"].write(found))
    assert "there is no label '7': the labels are class 0, class 1, class 2" in run_file(file, "--label", "7", code=2)
    assert "--count is at least 1" in run_file(file, "--count", "0", code=2)
    assert "nowhere" in run_file(file, "--out", "nowhere/x.npy", code=2)
    hide = "sys.modules['PIL'] = None; "
    assert "PNG needs Pillow: pip install pillow, or give a .npy file" in run_file(file, code=2, also=hide)
    run_file(file, "--label", "class 2", "--count", "3")
    assert (tmp_path / "samples.png").read_bytes().startswith(b"\x89PNG")


def test_names_of_classes_are_data_in_the_python_file(tmp_path):
    G, codec = generator_of("digits", 3)
    names = ['"""', "\\", "\u202eא\N{SMILING FACE WITH SUNGLASSES}\n'''"]
    found = export.exported(G, codec, names, {"minigan": "2", "preset": "digits"})
    file = tmp_path / "generator.py"
    file.write_bytes(export.FORMATS["python"].write(found))
    for name in names:
        run_file(file, "--label", name, "--count", "1", "--out", "x.npy")


# ---------------------------------------------------------------- files of arrays


def test_npz_and_safetensors_have_the_arrays_and_facts():
    safetensors = pytest.importorskip("safetensors.numpy")
    import io

    G, found = translated("digits", 3)
    content = export.FORMATS["safetensors"].write(found)
    length = int.from_bytes(content[:8], "little")
    with np.load(io.BytesIO(export.FORMATS["npz"].write(found)), allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    assert json.loads(str(arrays.pop("facts"))) == json.loads(
        json.loads(content[8 : 8 + length])["__metadata__"]["facts"]
    )
    of_network = G.params | G.buffers
    for read in (arrays, safetensors.load(content)):
        assert read.keys() == of_network.keys()
        assert all(np.array_equal(read[name], of_network[name]) for name in read)


LOADERS = (Path(minigan.__file__).parent / "export" / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("form", ["npz", "safetensors"])
def test_the_loaders_in_the_readme_work(form, tmp_path, monkeypatch):
    G, codec = generator_of("digits", 3)
    found = export.exported(G, codec, None, {"preset": "digits", "network": {}})
    path = tmp_path / f"generator{export.FORMATS[form].suffix}"
    path.write_bytes(export.FORMATS[form].write(found))
    monkeypatch.chdir(tmp_path)
    blocks = [block.split("```")[0] for block in LOADERS.split("```python\n")[1:]]
    (code,) = (block for block in blocks if f'"{path.name}"' in block)
    names: dict = {}
    exec(code, names)
    z = noise(G, 4)
    want, _ = G.forward(z, train=False, labels=np.arange(4) % 3)
    build = next(block for block in blocks if "models.build" in block)
    exec(build, names)
    computed, _ = names["G"].forward(z, train=False, labels=np.arange(4) % 3)
    assert np.array_equal(computed, want)


# ---------------------------------------------------------------- runs, and what goes wrong


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """The folder of a short run with labels."""
    folder = tmp_path_factory.mktemp("runs") / "short"
    rng = np.random.default_rng(0)
    gan = minigan.GAN("digits", steps=3, batch=16, backend="numpy", verbose=0)
    gan.fit(rng.integers(256, size=(64, 8, 8), dtype=np.uint8), np.array(["<b>cat</b>", "dog"] * 32)).save(folder)
    return folder


@pytest.mark.parametrize("form", ["npz", "safetensors", "onnx", "python"])
def test_a_run_is_exported_from_the_command_line_and_from_python(form, run, tmp_path, capsys):
    if form == "onnx":
        pytest.importorskip("onnx")
    out = tmp_path / f"mine{export.FORMATS[form].suffix}"
    assert main(["export", str(run), "--format", form]) == 0
    assert main(["export", str(run), "--out", str(out)]) == 0  # the suffix is enough
    assert str(out) in capsys.readouterr().out
    minigan.load(run).export(tmp_path / f"again{out.suffix}")
    default = (run / f"generator{out.suffix}").read_bytes()
    if form != "npz":  # whose entries have the time
        assert out.read_bytes() == default == (tmp_path / f"again{out.suffix}").read_bytes()


def test_an_exported_run_uses_the_moving_average_and_has_no_discriminator(run):
    from minigan.runs.export import translated as of_run
    from minigan.runs.saved import read

    saved = read(run)
    arrays = of_run(saved).arrays()
    assert np.array_equal(arrays["1.w"], saved.arrays["average.1.w"])
    assert not np.array_equal(arrays["1.w"], saved.arrays["G.1.w"])
    assert {name.split(".")[0] for name in arrays} == {"1", "3", "5", "6", "8", "9", "11"}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere"], "nowhere is not the folder of a run"),
        (["RUN", "--format", "gguf"], "a generator is exported as npz, safetensors, onnx, python, got gguf"),
        (["RUN", "--out", "x.gguf"], "got x.gguf: give --format"),
        (["RUN", "--format", "onnx", "--out", "x.npz"], "the format onnx is written to a .onnx file, got x.npz"),
        (["RUN", "--format", "npz", "--out", "config.json/x.npz"], "cannot write to"),
    ],
)
def test_a_wrong_command_gets_one_sentence(arguments, says, run, capsys, monkeypatch):
    monkeypatch.chdir(run)
    assert main(["export", *(str(run) if word == "RUN" else word for word in arguments)]) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1


def test_a_damaged_checkpoint_gets_one_sentence(run, tmp_path, capsys):
    (tmp_path / "config.json").write_bytes((run / "config.json").read_bytes())
    content = bytearray((run / "checkpoint.npz").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "checkpoint.npz").write_bytes(content)
    for command in (["export"], ["explore"], ["explore", "--png"]):
        assert main([command[0], str(tmp_path), *command[1:]]) == 2
        error = capsys.readouterr().err
        assert "is damaged" in error and error.count("\n") == 1


def test_without_onnx_the_message_says_how_to_install_it(run, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.setitem(sys.modules, "onnx.helper", None)
    assert main(["export", str(run), "--format", "onnx"]) == 2
    assert "pip install 'minigan[export]'" in capsys.readouterr().err


def test_an_unknown_layer_gets_one_sentence(rng):
    G = Sequential(Dense(3, 4, rng=rng), LayerNorm(4))
    G.noise_shape = (3,)
    with pytest.raises(UserError, match=r"the layer LayerNorm\(4\) cannot be exported: add LayerNorm to RULES"):
        export.exported(G, generator_of("points")[1])


def test_a_wrong_translation_is_refused(monkeypatch):
    monkeypatch.setitem(exported_layers.RULES, Tanh, lambda layer: [])
    with pytest.raises(UserError, match="computes other samples than the original one"):
        translated("digits", 3)


# ---------------------------------------------------------------- tables


def test_rows_of_the_python_file_are_those_of_minigan(tmp_path):
    pd = pytest.importorskip("pandas")
    rng = np.random.default_rng(0)
    n = 400
    frame = pd.DataFrame(
        {
            "size": rng.normal(size=n).round(2),
            "count": rng.integers(0, 10**6, n),
            "kind": rng.choice(["<a>", "b, c", '"""'], n),
            "when": pd.Timestamp("2001-02-03") + pd.to_timedelta(rng.integers(0, 3000, n), unit="D"),
            "gaps": np.where(rng.random(n) < 0.3, np.nan, rng.normal(size=n)),
            "always": "same",
            "zeros": np.where(rng.random(n) < 0.5, 0.0, rng.normal(size=n).round(3)),
        }
    )
    gan = minigan.GAN("table", label="kind", steps=3, batch=50, backend="numpy", verbose=0).fit(frame)
    gan.export(tmp_path / "rows.py")
    run_file(tmp_path / "rows.py", "--count", "300", "--seed", "4", "--out", "x.csv")
    found = pd.read_csv(tmp_path / "x.csv", parse_dates=["when"])
    want = gan.sample(300, seed=4)
    assert list(found) == list(want)
    for name in want:
        if want[name].dtype.kind in "fi":  # ranks differ in the last bits, and then values that are interpolated
            np.testing.assert_allclose(found[name], want[name], rtol=2e-5, atol=1e-5)
        else:
            assert (found[name].astype(str) == want[name].astype(str)).mean() > 0.995, name


# ---------------------------------------------------------------- series


def test_series_of_the_python_file_are_those_of_minigan(tmp_path):
    _, found = translated("waves")
    (tmp_path / "series.py").write_bytes(export.FORMATS["python"].write(found))
    run_file(tmp_path / "series.py", "--count", "40", "--seed", "4")
    G, codec = generator_of("waves")
    codec.save(codec.decode(draw_samples(G, noise(G, 40, seed=4), None)), tmp_path / "want.csv")
    with open(tmp_path / "samples.csv") as file, open(tmp_path / "want.csv") as other:
        rows, want = ([line.split(",") for line in text.read().splitlines()] for text in (file, other))
    assert rows[0] == want[0] == ["series", "time", "<level>", "always", "speed"] and len(rows) == len(want) > 80
    assert [row[:2] for row in rows] == [row[:2] for row in want]  # the same lengths
    assert any(not row[2] for row in rows)  # gaps
    for row, other in zip(rows[1:], want[1:], strict=True):
        values, others = ([float(text or "nan") for text in one[2:]] for one in (row, other))
        np.testing.assert_allclose(values, others, atol=1e-5)


def test_a_gru_of_another_kind_is_refused(rng):
    G = Sequential(Reshape(2, 3), GRU(3, 4, last=True, initial=True, rng=rng))
    G.noise_shape = (6,)
    with pytest.raises(UserError, match="only a GRU with all states and an initial state"):
        export.exported(G, generator_of("points")[1])
