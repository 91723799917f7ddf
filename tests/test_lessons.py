"""Tests that the lessons run and that every claim in them is true.

Each lesson runs in a separate process with `--quick`, as a copy and without a display. In the copy, the exercises are
solved and their checks are uncommented, so that the tests also show that the checks accept the right answers.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

LESSONS = Path(__file__).parents[1] / "lessons"
NAMES = [path.stem for path in sorted(LESSONS.glob("[0-9]*.py"))]
TIME_LIMIT = 900  # seconds; much longer than a lesson takes, because a machine may be busy

# The code that replaces the dots in each exercise.
ANSWERS = {
    "01_neuron": ["-10", "20 * np.array([[1, -1, 0, 0], [0, 0, 1, -1]]), np.full(4, 20)"],
    "02_nudging": ["W + 1", "1"],
    "03_backpropagation": ["dh * (a > 0)", "2 * h * (dl @ w2.T)"],
    "04_trusting_a_gradient": ["0", "half_dx - half_dx.mean(axis=0)"],
    "05_reading_digits": ["np.log(2)", '"move"'],
    "06_convolution": ["2", "[[0, 0, 0], [1, 0, 0], [0, 0, 0]]"],
    "07_going_up": ["1", "[[0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]"],
    "08_forger_and_critic": ["0.75", "3, 3"],
    "09_losses": ["0.5", "-np.log(0.01)"],
    "10_dcgan": ["64 * 28 * 28 * 64", "7"],
    "11_sgd_or_adam": ["0.1 / 1.9", "2 / 100"],
    "12_latent_space": ["10", "(a + b) / np.sqrt(2)"],
    "13_making_it_fast": ["6", "16 / 49"],
}


def solved(text: str, answers: list[str]) -> str:
    """Return the lesson with uncommented exercises, in which the answers replace the dots."""
    cells = re.split(r"(?m)^(?=# %%)", text)
    exercises = [k for k, cell in enumerate(cells) if cell.startswith("# %% Exercise")]
    assert len(exercises) == len(answers)
    for k, answer in zip(exercises, answers, strict=True):
        title, *lines = cells[k].rstrip("\n").split("\n")
        code = "\n".join(re.sub(r"^# ?", "", line) for line in lines)
        code, places = re.subn(r"\.\.\.(, \.\.\.)*", answer, code)
        assert places == 1, f"{title}: expected one place for the answer"
        cells[k] = f"{title}\n{code}\n\n"
    return "".join(cells)


def run(folder: Path, name: str, text: str) -> subprocess.CompletedProcess:
    """Run the text as the lesson of that name with --quick, in `folder` with a copy of the lessons' helper module."""
    shutil.copy(LESSONS / "_common.py", folder)
    lesson = folder / f"{name}.py"
    lesson.write_text(text, encoding="utf-8")
    environment = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY", "MPLBACKEND")}
    # One thread gives the same results. On a busy machine, threads that wait for one another take ten times as long.
    environment |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
    command = [sys.executable, "-W", "error", lesson.name, "--quick"]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=TIME_LIMIT)


def read(name: str) -> str:
    """Return the text of a lesson."""
    return (LESSONS / f"{name}.py").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_claim_of_the_lesson_is_true_and_its_exercises_can_be_solved(name, tmp_path):
    result = run(tmp_path, name, solved(read(name), ANSWERS[name]))
    assert result.returncode == 0, f"{result.stdout[-2000:]}\n{result.stderr[-4000:]}"
    with Image.open(tmp_path / "runs" / f"{name}.png") as figure:
        assert figure.width >= 700 and len(figure.getcolors(figure.width * figure.height)) > 10
    assert not (tmp_path / "figures").exists()  # --quick leaves the committed figures alone


@pytest.mark.parametrize("exercise", [0, 1])
def test_a_wrong_answer_fails(exercise, tmp_path):
    answers = list(ANSWERS["01_neuron"])
    answers[exercise] = ["0", "np.zeros((2, 4)), np.zeros(4)"][exercise]
    result = run(tmp_path, "01_neuron", solved(read("01_neuron"), answers))
    assert result.returncode != 0 and "AssertionError" in result.stderr


def test_a_failed_claim_fails_the_lesson(tmp_path):
    text = read("02_nudging")
    broken = text.replace("weights[name] -= rate * slopes[name]", "weights[name] += rate * slopes[name]")
    assert broken != text
    result = run(tmp_path, "02_nudging", broken)  # gradient ascent increases the loss
    assert result.returncode != 0 and "AssertionError" in result.stderr


@pytest.mark.parametrize("name", NAMES)
def test_the_lesson_has_all_its_parts(name):
    text = read(name)
    assert text.startswith(f"# %% [markdown]\n# # {int(name[:2])}. ")
    for part in ("# **Question.** ", "**Needs.** ", "**Takes** ", "# ## Exercises", "# %% Exercise 1"):
        assert part in text, part
    assert text.count("\nassert ") + text.count(" assert ") >= 6
    assert f'save(figure, "{name}.png")' in text
    after = NAMES[NAMES.index(name) + 1 :]
    last_cell = text[text.rindex("# %%") :]
    assert f"({after[0]}.py)" in last_cell if after else "(README.md)" in last_cell


@pytest.mark.parametrize("name", NAMES)
def test_the_committed_figure_is_small(name):
    with Image.open(LESSONS / "figures" / f"{name}.png") as figure:
        assert figure.width <= 1100
    assert (LESSONS / "figures" / f"{name}.png").stat().st_size < 120_000


def test_the_animation_of_lesson_10_has_frames_and_is_small():
    animation = LESSONS / "figures" / "10_dcgan.gif"
    assert animation.stat().st_size < 400_000
    with Image.open(animation) as opened:
        assert opened.n_frames >= 10


def test_the_contents_name_every_lesson_and_figure():
    contents = (LESSONS / "README.md").read_text(encoding="utf-8")
    for name in NAMES:
        assert f"({name}.py)" in contents and f"figures/{name}.png" in contents
    for target in re.findall(r"\]\(([^)#]+)\)|src=\"([^\"]+)\"", contents):
        path = target[0] or target[1]
        assert path.startswith("http") or (LESSONS / path).exists(), path
    assert ANSWERS.keys() == set(NAMES)
