"""Networks as diagrams: a block for each layer, as high as its images and as wide as its channels, with numbers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from minigan.report.page.html import Html, html, join

HIGH, WIDE, DEEP = 30, 60, 6  # pixels of the largest block


@dataclass(frozen=True)
class Network:
    """A network as rows of (name, shape of the output, parameters or None, depth), with the shape of its input."""

    title: str
    taken: str  # what the input is
    shape: tuple[int, ...]
    rows: Sequence[Any]
    n_params: int
    frozen: int = 0


def diagram(network: Network) -> Html:
    """Return a network as a table with a block for each layer."""
    side = max(_side(shape) for shape in [network.shape, *(row.shape for row in network.rows)])
    wide = max(_channels(shape) for shape in [network.shape, *(row.shape for row in network.rows)])
    head = html("tr", html("th", html("span", "block", class_="quiet"), scope="col"), html("th", "layer", scope="col"),
                html("th", "output", scope="col"), html("th", "parameters", scope="col"))  # fmt: skip
    rows = [_row("input", network.taken, network.shape, None, 0, side, wide)]
    rows += [
        _row("learns" if row.n_params else "fixed", row.name, row.shape, row.n_params, row.depth, side, wide)
        for row in network.rows
    ]
    total = f"{network.n_params:,} parameters" + (f", {network.frozen:,} frozen weights" if network.frozen else "")
    return html(
        "section",
        html("h3", network.title),
        html("p", total, class_="note"),
        html("div", html("table", html("thead", head), html("tbody", *rows), class_="net"),
             class_="scroll", tabindex=0, role="region", aria_label=f"layers of the {network.title}"),
        class_="card",
    )  # fmt: skip


def _row(kind: str, name: str, shape: tuple[int, ...], n_params: int | None, depth: int, side: int, wide: int) -> Html:
    text = " x ".join(map(str, shape))
    return html(
        "tr",
        html("td", _block(shape, side, wide)),
        html("th", html("code", name), scope="row", style=f"padding-left:{0.5 + depth}rem" if depth else None),
        html("td", text),
        html("td", f"{n_params:,}" if n_params else ""),
        class_=kind,
    )


def _side(shape: tuple[int, ...]) -> int:
    return max(shape[:-1], default=1)


def _channels(shape: tuple[int, ...]) -> int:
    return shape[-1] if shape else 1


def _block(shape: tuple[int, ...], side: int, wide: int) -> Html:
    """Return a block as SVG. Its height is the side of the images and its width the channels, on scales of logs."""
    h = max(5.0, HIGH * math.log1p(_side(shape)) / math.log1p(max(2, side)))
    w = max(4.0, WIDE * math.log1p(_channels(shape)) / math.log1p(max(2, wide)))
    d = DEEP if len(shape) > 1 else 0
    x, y = (WIDE - w) / 2, (HIGH - h) / 2 + DEEP
    faces = [html("rect", x=_px(x), y=_px(y), width=_px(w), height=_px(h), class_="front")]
    if d:
        top = [(x, y), (x + d, y - d), (x + w + d, y - d), (x + w, y)]
        right = [(x + w, y), (x + w + d, y - d), (x + w + d, y + h - d), (x + w, y + h)]
        faces += [
            html("polygon", points=_points(top), class_="top"),
            html("polygon", points=_points(right), class_="right"),
        ]
    width, height = WIDE + DEEP + 1, HIGH + DEEP + 2
    return html("svg", join(*faces), viewBox=f"-0.5 -1 {width} {height}", width=width, height=height,
                class_="block", aria_hidden="true")  # fmt: skip


def _px(value: float) -> str:
    return f"{value:.1f}"


def _points(corners: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in corners)
