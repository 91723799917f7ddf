"""Plots: the pixels of a grid, the frames of an animation, and curves of any length."""

import numpy as np
import pytest
from PIL import Image

from minigan.report import experiments as drawn
from minigan.report import plots


@pytest.mark.parametrize("channels", [1, 3])
def test_a_grid_places_every_image(channels, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (7, 5, 5, channels), dtype=np.uint8)
    plots.save_grid(tmp_path / "g.png", images, columns=3, scale=2)
    picture = np.asarray(Image.open(tmp_path / "g.png")).reshape(3 * 12 + 2, 3 * 12 + 2, channels)
    for n, image in enumerate(images):
        top, left = 2 + n // 3 * 12, 2 + n % 3 * 12
        assert np.array_equal(picture[top : top + 10 : 2, left : left + 10 : 2], image)
        assert np.array_equal(picture[top + 1 : top + 10 : 2, left + 1 : left + 10 : 2], image)
    assert (picture[26:, 14:] == plots.GREY).all() and (picture[:2] == plots.GREY).all()


def test_an_animation_has_its_frames_in_order(tmp_path):
    shades = [0, 80, 160, 240]
    for n, shade in enumerate(shades[:3]):
        plots.save_grid(tmp_path / f"{n}.png", np.full((1, 4, 4, 1), shade, np.uint8))
    frames = [tmp_path / f"{n}.png" for n in range(3)]
    plots.save_animation(tmp_path / "f.gif", frames, plots.grid(np.full((1, 4, 4, 1), shades[3], np.uint8)))
    with Image.open(tmp_path / "f.gif") as animation:
        assert animation.n_frames == 4 and animation.info["loop"] == 0
        for n, shade in enumerate(shades):
            animation.seek(n)
            assert abs(int(np.asarray(animation.convert("L"))[3, 3]) - shade) <= 2


@pytest.mark.parametrize("steps", [0, 1, 250])
def test_curves_are_drawn_for_any_length(steps, tmp_path):
    rng = np.random.default_rng(0)
    curves = {name: rng.random(steps, dtype=np.float32) for name in ("d_loss", "g_loss", "d_real", "d_fake")}
    plots.save_curves(tmp_path / "c.png", curves, steps_per_epoch=100, equilibrium=(0.9, 0.1))
    picture = np.asarray(Image.open(tmp_path / "c.png").convert("RGB")).astype(int)
    assert picture.shape == (600, 800, 3)
    blue = (picture[..., 2] - picture[..., 0] > 60).sum()  # the discriminator's curve
    assert blue > 500 if steps > 1 else blue < 500


def test_smoothing_keeps_the_mean():
    x, y = np.arange(1000.0), np.random.default_rng(0).random(1000)
    xs, ys = plots._smooth(x, y)
    assert len(xs) == 100 and np.isclose(ys.mean(), y.mean()) and np.isclose(ys[3], y[30:40].mean())


def test_the_figures_of_checks_are_a_third_panel(tmp_path):
    curves = {name: np.ones(50, np.float32) for name in ("d_loss", "g_loss", "d_real", "d_fake")}
    settings = dict(steps_per_epoch=10, equilibrium=(1.0, 1.0))
    plots.save_curves(tmp_path / "without.png", curves, **settings)
    old = np.asarray(Image.open(tmp_path / "without.png").convert("RGB")).astype(int)

    def third(rows: list[dict]) -> np.ndarray:
        plots.save_curves(tmp_path / "c.png", curves, **settings, checks=rows)
        picture = np.asarray(Image.open(tmp_path / "c.png").convert("RGB")).astype(int)
        assert (old.shape[0], picture.shape[0]) == (600, 900)
        return picture[600:]

    def blue(part: np.ndarray) -> int:  # the line of the covered modes, the first colour
        return (part[..., 2] - part[..., 0] > 60).sum()

    covered, one = {"modes": 10, "modes_covered": 10}, [{"epoch": 1, "dead_units": 0.0}]
    assert (
        blue(third([{"epoch": epoch, **covered} for epoch in (1, 3, 5)])) > blue(third([{"epoch": 1, **covered}])) + 300
    )
    assert third(one).shape == (300, 800, 3), "a check of a run without samples has no modes"
    high = third([{"epoch": epoch, **covered} for epoch in (1, 5)])
    low = third([{"epoch": epoch, **covered, "modes_covered": 1} for epoch in (1, 5)])
    rows = [np.flatnonzero(((part[..., 2] - part[..., 0]) > 60).sum(axis=1) > 200) for part in (high, low)]
    assert rows[0].mean() < rows[1].mean() - 50, "fewer modes are drawn lower"


# ---------------------------------------------------------------- experiments


def blue_columns(picture: np.ndarray) -> np.ndarray:
    """Return the columns that contain the blue of a mean."""
    return np.flatnonzero((np.abs(picture.astype(int) - (31, 119, 180)).sum(axis=2) < 6).any(axis=0))


def test_dots_are_where_their_values_are():
    def draw(value):
        return drawn.dots({"loss": {"a": (np.array([0.0, 10.0]), (0.0, 10.0)), "b": (np.array([value]), None)}})

    few, many = blue_columns(draw(1.0)), blue_columns(draw(9.0))
    means = [sorted(set(few) - set(many)), sorted(set(many) - set(few))]  # that of a, 5, is in both
    width = draw(1.0).shape[1]
    assert max(means[0]) < width * 0.6 < min(means[1])


def test_an_arm_without_values_has_an_empty_line():
    picture = drawn.dots({"loss": {"a": (np.array([1.0]), None), "b": (np.array([]), None)}})
    assert picture.dtype == np.uint8 and picture.ndim == 3


def test_lines_of_many_arms_have_different_looks():
    x = np.arange(4.0)
    arms = {f"arm {k}": [(x, x + k)] for k in range(12)}
    one = drawn.lines({"loss": arms}, "steps")
    assert not np.array_equal(one, drawn.lines({"loss": dict(reversed(arms.items()))}, "steps"))
    log = drawn.lines({"loss": {"a": [(x + 1, 10**x)]}}, "steps", log_x=True, log_y=True, level=100)
    assert log.shape[2] == 3 and not np.array_equal(log, drawn.lines({"loss": {"a": [(x + 1, 10**x)]}}, "steps"))


def test_pictures_show_every_image_with_its_row():
    black, white = (np.full((5, 28, 28, 1), value, np.uint8) for value in (0, 255))
    whole = drawn.pictures({"first": [black, white], "second": [white, black]}, headings=("left", "right"))
    half = whole.shape[0] // 2
    dark = [(part == 0).all(axis=2).mean(axis=0) for part in (whole[:half], whole[half:])]
    middle = [np.average(np.arange(len(d)), weights=d * (d > 0.3)) for d in dark]
    assert middle[0] < middle[1], "black is left in the first row, and right in the second"


def test_paths_leave_out_what_is_not_finite():
    path = np.array([[1.0, 0.0], [0.5, 0.5], [np.nan, np.nan]])
    picture = drawn.paths(
        {"plain": [path], "r1": [path[:2]], "r2": [path], "wgan-gp": [path]}, "x", "y", goal=(0.0, 0.0)
    )
    assert picture.dtype == np.uint8 and picture.shape[0] > 500, "four panels take two rows"


def test_pictures_are_put_one_below_the_other_on_white():
    found = drawn.stacked(np.zeros((2, 3, 3), np.uint8), np.zeros((1, 5, 3), np.uint8))
    assert found.shape == (3, 5, 3) and (found[:2, 3:] == 255).all() and (found[2] == 0).all()
