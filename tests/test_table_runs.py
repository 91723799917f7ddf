"""Tables from the shell and in Python: train, sample with conditions, evaluate, resume, and refuse what cannot work."""

import datetime
import gzip
import json
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import minigan
from minigan import datasets, runs
from minigan.cli import main
from minigan.datasets import conditions, tables
from minigan.errors import UserError
from minigan.models import PRESETS
from minigan.report import plots
from minigan.training import Config, Training, every_label

pd = pytest.importorskip("pandas", reason="pandas is not installed: pip install 'minigan[tables]'")

OPTIONS = dict(backend="numpy", steps=4, batch=40, verbose=0, network={"g_width": 16, "d_width": 16, "noise_size": 8})
LINE = ["--backend", "numpy", "--steps", "4", "--batch", "40", "--quiet"]
LINE += [f"--network={name}=16" for name in ("g_width", "d_width", "noise_size")]


def people(count: int = 200, seed: int = 0) -> "pd.DataFrame":
    """Return a small table of all kinds of columns."""
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "name": [f"person number {i} of the town, who likes walks" for i in range(count)],
            "age": rng.integers(18, 90, count),
            "height": np.round(rng.normal(170, 9, count), 1),
            "city": rng.choice(["Bern", "Basel", "Zürich, HB"], count, p=[0.7, 0.2, 0.1]),
            "member": rng.random(count) < 0.3,
            "joined": pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 900, count), "D"),
            "pets": np.where(rng.random(count) < 0.2, np.nan, rng.integers(0, 4, count)),
        }
    )


@pytest.fixture
def csv(tmp_path):
    path = tmp_path / "people.csv"
    people().to_csv(path, index=False)
    return str(path)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    people().to_csv(folder / "people.csv", index=False)
    line = ["train", "--data", str(folder / "people.csv"), "--label", "city", "--hold-out", "0.2"]
    assert main([*line, "--out", str(folder / "run"), *LINE]) == 0
    return str(folder / "run")


# ---------------------------------------------------------------- the shell


def test_a_table_is_trained_on_from_the_shell(tmp_path, csv, capsys):
    out = tmp_path / "run"
    line = [word for word in LINE if word != "--quiet"]
    assert main(["train", "--data", csv, "--label", "city", "--out", str(out), *line]) == 0
    captured = capsys.readouterr()
    text = captured.out
    assert (
        "200 rows of " in text
        and "rows/s" in captured.err
        and "kind       tables" in text
        and "preset     table;" in text
    )
    assert "labels     3 classes" in text and "left out   name: " in text and "--out more.csv" in text
    for name in ("final.png", "training.gif", "losses.png", "history.csv", "config.json", "checkpoint.npz"):
        assert (out / name).exists()
    assert np.asarray(Image.open(out / "final.png")).std() > 5
    assert main(["info", str(out)]) == 0
    assert "3 classes: Basel, Bern, Zürich, HB" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["x.csv", "x.csv.gz", "x.parquet"])
def test_samples_are_written_as_tables(run, tmp_path, name):
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'minigan[tables]'")
    path = tmp_path / name
    assert main(["sample", run, "--count", "30", "--out", str(path), "--backend", "numpy"]) == 0
    found = pd.read_parquet(path) if name.endswith("parquet") else pd.read_csv(path)
    assert list(found.columns) == [name for name in people().columns if name != "name"] and len(found) == 30
    assert set(found["city"]) <= {"Bern", "Basel", "Zürich, HB"} and found["age"].between(18, 89).all()
    if name.endswith("gz"):
        assert gzip.decompress(path.read_bytes()).count(b"\n") == 31


def test_conditions_hold_in_every_row(run, tmp_path):
    path = tmp_path / "x.csv"
    asked = ["--where", "city=Zürich, HB", "--where", "member=True"]
    assert main(["sample", run, "--count", "25", "--out", str(path), "--backend", "numpy", *asked]) == 0
    found = pd.read_csv(path)
    assert len(found) == 25 and set(found["city"]) == {"Zürich, HB"} and found["member"].all()
    assert found["height"].nunique() > 10, "the other columns vary"


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (["--where", "town=Bern"], "there is no column 'town': "),
        (["--where", "cty=Bern"], "there is no column 'cty': did you mean city?"),
        (["--where", "city=Berne"], "the column city has no value 'Berne': did you mean Bern?"),
        (["--where", "height=170"], "a condition is on a column of categories, and height is continuous"),
        (["--where", "city"], "a condition is COLUMN=VALUE"),
        (["--where", "city=Bern", "--where", "city=Basel"], "two conditions on the column 'city' cannot both hold"),
        (["--where", "city=Bern", "--label", "Basel"], "the label is Basel, and the condition asks for Bern"),
        (["--label", "Chur"], "there is no label 'Chur'"),
        (["--out", "x.npz"], ".csv or .csv.gz or .parquet (the samples), got x.npz"),
    ],
)
def test_a_sample_that_cannot_be_drawn_is_refused(run, asked, says, capsys):
    assert main(["sample", run, "--backend", "numpy", *asked]) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (["--label", "citi"], "there is no column 'citi': did you mean city?"),
        (["--label", "height"], "a label is a column with few different values"),
        (["--columns", "age:number"], "unknown kind 'number'"),
        (["--columns", "agge:integer"], "did you mean age?"),
        (["--range", "0,1"], "range"),
        (["--preset", "small"], "preset small is for images, and "),
    ],
)
def test_a_training_that_cannot_work_is_refused(csv, tmp_path, line, says, capsys):
    out = tmp_path / "r"
    preset = ["--kind", "tables"] if "--preset" not in line else []
    assert main(["train", "--data", csv, "--out", str(out), *LINE[:7], *preset, *line]) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1 and not out.exists()


def test_options_of_tables_are_refused_for_images(tmp_path, capsys):
    assert main(["train", "--columns", "a:integer", "--out", str(tmp_path / "r"), "--steps", "1"]) == 2
    assert "columns" in capsys.readouterr().err


def test_a_run_resumes_to_the_same_bits(tmp_path, csv):
    part, whole = tmp_path / "part", tmp_path / "whole"
    line = ["train", "--data", csv, "--label", "city", "--hold-out", "0.2", "--no-decay", *LINE]
    assert main([*line, "--out", str(part)]) == 0
    assert main([*line, "--out", str(whole), "--steps", "7"]) == 0
    assert main(["train", "--resume", "--out", str(part), "--steps", "7", "--quiet"]) == 0
    arrays, others = (np.load(folder / "checkpoint.npz") for folder in (part, whole))
    changed = [name for name in others.files if not np.array_equal(arrays[name], others[name])]
    assert any(name.startswith("average.") for name in others.files)
    assert not [name for name in changed if name.startswith(("G.", "D.", "average.", "opt_"))]


def test_epochs_have_pictures_and_checkpoints_only_after_a_pause(tmp_path, csv, monkeypatch):
    """An epoch of a small table takes less time than its picture. The final picture and the bits do not change."""
    line = ["train", "--data", csv, "--epochs", "3", "--checkpoint-every", "2", *LINE[:2], *LINE[4:]]
    pictures, kept, arrays = {}, {}, {}
    for pause in (1e-9, 1e9):
        out = tmp_path / str(pause)
        monkeypatch.setitem(plots.PAUSES, "table", pause)
        assert main([*line, "--out", str(out)]) == 0
        pictures[pause] = [path.name[6:10] for path in sorted((out / "samples").iterdir())]
        kept[pause] = [path.name[6:10] for path in sorted((out / "checkpoints").iterdir())]
        arrays[pause] = np.load(out / "checkpoint.npz")
        assert len((out / "history.csv").read_text().splitlines()) == 4
        with Image.open(out / "training.gif") as animation:
            assert animation.n_frames == max(2, len(pictures[pause]))
    assert pictures == {1e-9: ["0000", "0001", "0002", "0003"], 1e9: ["0000", "0003"]}, "the last one has a picture"
    assert kept == {1e-9: ["0002"], 1e9: ["0003"]}, "the first one that is saved after each two epochs"
    short, long = ((tmp_path / str(pause) / "final.png").read_bytes() for pause in pictures)
    assert short == long
    for name in arrays[1e9].files:
        assert name == "facts" or np.array_equal(arrays[1e9][name], arrays[1e-9][name])  # facts contain the time


def test_a_run_that_is_stopped_between_its_checkpoints_is_saved(tmp_path):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores SIGINT
    try:
        _stop_between_checkpoints(tmp_path)
    finally:
        signal.signal(signal.SIGINT, before)


def _stop_between_checkpoints(tmp_path):
    gan = minigan.GAN(out=tmp_path / "run", seed=0, **OPTIONS | {"steps": None, "epochs": 5})

    def stop(record):
        if record["step"] == 5:  # the end of an epoch, which is not saved
            signal.raise_signal(signal.SIGINT)

    gan.callback = stop
    with pytest.raises(KeyboardInterrupt):
        gan.fit(people())
    assert runs.read(tmp_path / "run").facts["step"] == 5


def test_the_batch_of_a_small_table_is_a_quarter_of_it(csv):
    training = runs.begin(Config.of("table", data=csv, backend="numpy", steps=1), None)
    assert training.config.batch == 50
    with pytest.raises(UserError, match="a step takes 300 rows and people has 200: choose a smaller --batch"):
        runs.begin(Config.of("table", data=csv, backend="numpy", steps=1, batch=300), None)


@pytest.mark.parametrize("preset", [name for name, preset in PRESETS.items() if preset.kind == "tables"])
def test_a_label_makes_the_networks_conditional(tmp_path, csv, preset, capsys):
    out = tmp_path / "run"
    assert main(["train", "--data", csv, "--preset", preset, "--label", "city", "--out", str(out), *LINE[:-4]]) == 0
    assert json.loads((out / "config.json").read_text())["conditional"] is True
    saved = runs.read(out)
    G, D = runs.saved.networks(saved)
    assert saved.facts["classes"] == 3 and G.takes_labels and not D.takes_labels, "D sees the label in the row"
    assert main(["train", "--data", csv, "--conditional", "--out", str(tmp_path / "r"), *LINE]) == 2
    assert "--label COLUMN" in capsys.readouterr().err


def test_without_labels_the_column_is_one_like_the_others(tmp_path, csv, capsys):
    """A number with many values would be a category as a label. Here it is a number, from the shell and in Python."""
    out = tmp_path / "run"
    line = ["train", "--data", csv, "--label", "age", "--unconditional", "--out", str(out)]
    assert main([*line, *(word for word in LINE if word != "--quiet")]) == 0
    assert "the networks do not see labels, so age is a column like the others" in capsys.readouterr().out
    assert main(["info", str(out)]) == 0
    assert "without labels" in capsys.readouterr().out
    path = tmp_path / "x.csv"
    where = ["--where", "city=Bern", "--where", "member=False"]
    assert main(["sample", str(out), "--count", "20", "--out", str(path), "--backend", "numpy", *where]) == 0
    assert set(pd.read_csv(path)["city"]) == {"Bern"} and pd.read_csv(path)["age"].nunique() > 3
    assert main(["sample", str(out), "--label", "30", "--backend", "numpy"]) == 2
    assert main(["train", "--resume", "--out", str(out), "--steps", "5", "--quiet"]) == 0

    for given in ({"label": "age"}, {}):
        gan = minigan.GAN(conditional=False, seed=0, **given, **OPTIONS).fit(people(), None if given else "age")
        codec = gan._sampler().codec
        assert codec.label is codec.label_group is None and codec.numbers and gan._sampler().classes == 0
        assert gan.sample(5, where={"city": "Bern"})["age"].between(18, 89).all()
    gan.save(tmp_path / "other")
    again = minigan.load(tmp_path / "other").fit(people(), steps=6)
    assert again.n_steps_ == 6


# ---------------------------------------------------------------- evaluate


def test_a_table_is_evaluated(run, capsys):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed: pip install 'minigan[tables]'")
    assert main(["evaluate", run, "--backend", "numpy", "--target", "member"]) == 0
    text = capsys.readouterr().out
    assert "column shapes" in text and "SMOTE" in text and "macro F1 of member" in text and "40 held-out rows" in text
    report = json.loads(Path(run, "evaluate.json").read_text())
    assert report["rows"] == {"training": 160, "fakes": 160, "held_out": 40}, "as many fakes as training rows"
    assert 0.2 < report["fakes"]["shapes"] < report["real"]["shapes"] <= 1
    picture = np.asarray(Image.open(f"{run}/evaluate.png"))
    assert picture.shape[0] > 400 and picture.std() > 5


def test_held_out_rows_come_from_a_file(run, tmp_path, capsys):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed: pip install 'minigan[tables]'")
    others = tmp_path / "others.csv"
    people(70, seed=1).to_csv(others, index=False)
    assert main(["evaluate", run, "--count", "100", "--backend", "numpy", "--held-out", str(others)]) == 0
    assert "70 held-out rows" in capsys.readouterr().out
    people(70, seed=1).drop(columns="age").to_csv(others, index=False)
    assert main(["evaluate", run, "--count", "100", "--backend", "numpy", "--held-out", str(others)]) == 2
    assert "has no column 'age'" in capsys.readouterr().err
    assert main(["evaluate", run, "--count", "100", "--backend", "numpy", "--target", "heigth"]) == 2
    assert "did you mean height?" in capsys.readouterr().err


def test_other_rows_are_no_training_data(run, tmp_path, capsys):
    people(seed=5).to_csv(tmp_path / "other.csv", index=False)
    line = ["evaluate", run, "--count", "100", "--backend", "numpy", "--data", str(tmp_path / "other.csv")]
    assert main(line) == 2
    assert "has other contents than the data of this run" in capsys.readouterr().err


# ---------------------------------------------------------------- Python


def test_a_data_frame_goes_in_and_a_data_frame_comes_out(tmp_path):
    frame = people()
    gan = minigan.GAN(label="city", seed=0, **OPTIONS).fit(frame)
    found = gan.sample(60, seed=1)
    assert isinstance(found, pd.DataFrame) and list(found.columns) == [c for c in frame.columns if c != "name"]
    assert (found.dtypes == frame.drop(columns="name").dtypes).all()
    assert gan.sample(60, seed=1).equals(found) and not gan.sample(60, seed=2).equals(found)
    assert set(gan.sample(9, label="Basel")["city"]) == {"Basel"}
    both = gan.sample(9, where={"city": "Bern", "member": False})
    assert set(both["city"]) == {"Bern"} and not both["member"].any()
    with pytest.raises(UserError, match="with conditions, all rows have one label, got a list of 2"):
        gan.sample(2, label=["Bern", "Basel"], where={"member": True})
    gan.save(tmp_path / "run")
    assert minigan.load(tmp_path / "run").sample(60, seed=1).equals(found)
    pytest.importorskip("sklearn", reason="scikit-learn is not installed: pip install 'minigan[tables]'")
    report = gan.evaluate(100, target="pets", held_out=people(50, seed=2))
    assert report["target"] == "pets" and report["rows"] == {"training": 200, "fakes": 100, "held_out": 50}
    with pytest.raises(UserError, match="held_out has no column 'age'"):
        gan.evaluate(100, held_out={"agee": [1, 2]})
    gan.save_samples(tmp_path / "x.csv", 12, seed=1)
    assert len(pd.read_csv(tmp_path / "x.csv")) == 12


def test_without_a_label_the_conditions_choose_rows():
    gan = minigan.GAN(seed=0, **OPTIONS).fit(people())
    assert set(gan.sample(20, where={"city": "Bern"})["city"]) == {"Bern"}
    with pytest.raises(UserError, match="without labels"):
        gan.sample(2, label="Bern")


def test_rows_that_nearly_never_come_are_given_up(monkeypatch):
    gan = minigan.GAN(seed=0, **OPTIONS).fit(people())
    monkeypatch.setattr(tables, "hold", lambda samples, conditions: np.zeros(len(samples), bool))
    with pytest.raises(UserError, match=r"only 0 of [\d,]+ rows have city=Bern, and 3 are wanted"):
        gan.sample(3, where={"city": "Bern"})


def test_images_have_no_conditions():
    gan = minigan.GAN("mlp", steps=1, batch=8, backend="numpy", verbose=0, seed=0)
    gan.fit(np.random.default_rng(0).integers(256, size=(20, 8, 8), dtype=np.uint8))
    with pytest.raises(UserError, match="conditions are for columns of tables"):
        gan.sample(2, where={"city": "Bern"})


# ---------------------------------------------------------------- labels and conditions


def test_labels_have_the_shares_of_the_data():
    data = datasets.convert(people(1000), "city", "tables", tables.TableOptions())
    shares = np.bincount(data.labels) / len(data)
    np.testing.assert_allclose(data.codec.label_shares, shares)
    for count in (10, 100, 1000):
        drawn = np.bincount(every_label(count, 3, data.codec), minlength=3) / count
        assert np.abs(drawn - shares).max() <= 1.5 / count + 0.004
    images = datasets.Images(np.zeros((4, 4, 4, 1), np.uint8), np.arange(4) % 2, "x")
    assert every_label(5, 2, images.codec).tolist() == [0, 1, 0, 1, 0]


def test_a_missing_value_can_be_asked_for():
    frame = people()
    frame.loc[::5, "city"] = None
    data = datasets.convert(frame, None, "tables", tables.TableOptions())
    _, (missing,) = data.codec.conditions({"city": None})
    rows = data.batch(np.arange(len(data)))
    held = data.codec.hold(rows, [missing])
    assert np.array_equal(held, frame["city"].isna().to_numpy())
    _, (bern,) = data.codec.conditions({"city": "Bern"})
    assert np.array_equal(data.codec.hold(rows, [bern]), (frame["city"] == "Bern").to_numpy())
    assert not data.codec.hold(rows, [missing, bern]).any()


def test_numbers_with_few_values_can_be_asked_for():
    data = datasets.convert(people(), None, "tables", tables.TableOptions())
    for value in (2, 2.0, "2"):
        _, (two,) = data.codec.conditions({"pets": value})
        held = data.codec.hold(data.batch(np.arange(len(data))), [two])
        assert np.array_equal(held, (people()["pets"] == 2).to_numpy())


def test_dates_can_be_asked_for_as_they_are_written(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("day,at,x\n" + "".join(f"{i % 5 + 1}.3.2020,2020-03-01 {i % 4:02}:30,{i}.5\n" for i in range(60)))
    data = datasets.KINDS["tables"].load(str(path), tables.TableOptions(), 0, True)
    for value in ("2.3.2020", "02.03.2020", "2020-03-02", pd.Timestamp("2020-03-02"), datetime.date(2020, 3, 2)):
        assert data.codec.conditions({"day": value})[1] == [conditions.Condition(0, 5, 1)]
    assert data.codec.conditions({"at": datetime.datetime(2020, 3, 1, 2, 30)})[1][0].choice == 2
    with pytest.raises(UserError, match="the column day has no value '2020-04-02': did you mean 2020-03-02"):
        data.codec.conditions({"day": "2.4.2020"})
    with pytest.raises(UserError, match="has no value 'soon': the values are 2020-03-01, "):
        data.codec.conditions({"day": "soon"})


def test_empty_and_rare_values_and_those_called_missing():
    frame = pd.DataFrame({"a": ["", "missing", None] * 1500, "b": [f"v{i % 1200}" for i in range(4500)]})
    codec = datasets.convert(frame, None, "tables", tables.TableOptions(columns="b:category")).codec
    choices = [codec.conditions({"a": value})[1][0].choice for value in ("", "missing", None, np.nan, pd.NA)]
    assert choices == [0, 1, 2, 2, 2] and codec.conditions({"a": "(missing)"})[1][0].choice == 2
    rare = next(column for column, _ in codec.parts if column.name == "b").value_names()[-1]
    with pytest.raises(UserError, match=f"'{rare}' is one of the rare values of b"):
        codec.conditions({"b": rare})
    with pytest.raises(UserError, match="the column b has no value ''"):
        codec.conditions({"b": ""})


def test_only_the_first_equals_sign_separates():
    assert conditions.parsed(["income=>50K", "a==b"]) == {"income": ">50K", "a": "=b"}
    assert conditions.parsed(["a=1", "a=1"]) == {"a": "1"}


def test_a_training_draws_rows_for_its_pictures(csv):
    config = Config.of("table", data=csv, data_options={"label": "city"}, backend="numpy", steps=1, batch=20)
    training = Training(config, runs.load_data(config), runs.load_backend(config))
    assert len(training.samples(30)) == 30 and training.encoded_samples(30).shape == (30, training.data.codec.width)
