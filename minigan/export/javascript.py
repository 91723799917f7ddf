"""Exported generators as JavaScript, for pages."""

import base64
import json
import re
from typing import Any

import numpy as np

from minigan.export.generator import Exported, lines


def camel(name: str) -> str:
    """Return the name of an operation as JavaScript writes it: conv_transpose becomes convTranspose."""
    return re.sub(r"_(\w)", lambda match: match[1].upper(), name)


def program(found: Exported) -> str:
    """Return the source of the operations, and of a function `network(W)`, where W maps names to Float32Arrays.

    `network(W)` returns the function `generate(z, label, uniform)`, which computes one sample: the noise z and the
    result are Float32Arrays, `label` is a number, and `uniform` a Float32Array for the head of a table. The result is
    valid until the next call.
    """
    blocks: dict[str, None] = {}
    for each in found.steps:
        for block in re.split(r"\n\n(?=function |//)", each.operation.javascript.strip()):
            blocks[block] = None  # helpers that several operations share appear once
    layers, calls = [], []
    inputs = {"labels": "label", "uniform": "uniform", "kept": "kept.pop()"}
    for i, (each, before, after, _) in enumerate(lines(found)):
        if each.operation.keeps:
            calls.append("    kept.push(x);")
            continue
        entries: dict[str, str] = {"from": json.dumps(before), "to": json.dumps(after)}
        entries |= {key: f"W[{json.dumps(name)}]" for key, name in each.names.items()}
        entries |= {key: json.dumps(value) for key, value in each.settings.items()}
        options = ", ".join(f"{key}: {value}" for key, value in entries.items())
        layers.append(f"  const layer{i} = {camel(each.operation.name)}({{ {options} }});")
        arguments = ", ".join(["x", *(inputs[taken] for taken in each.operation.takes)])
        calls.append(f"    x = layer{i}({arguments});")
    kept = ["    const kept = [];"] if any(each.operation.keeps for each in found.steps) else []
    network = ["function network(W) {", *layers, "  return (z, label, uniform) => {", "    let x = z;", *kept, *calls]
    return "\n\n".join([*blocks, "\n".join([*network, "    return x;", "  };", "}"])]) + "\n"


def in_24_bits(arrays: dict[str, np.ndarray]) -> str:
    """Return the arrays, one after another, as base64 of the upper 24 bits of each float32, rounded.

    Three bytes are four characters of base64, so a weight takes as many bytes in a page as in memory. A weight changes
    by at most 2^-17 of its size, and a pixel by less than a hundredth of one of its 256 values.
    """
    bits = _flat(arrays).view("<u4").astype(np.uint64)
    rounded = ((bits + 0x7F + ((bits >> 8) & 1)) >> 8).astype("<u4")  # to the nearest, and to even between two
    return base64.b64encode(rounded.view(np.uint8).reshape(-1, 4)[:, :3].tobytes()).decode()


def in_16_bits(arrays: dict[str, np.ndarray]) -> str:
    """Return the arrays, one after another, as base64 of float16. Numbers beyond its range become the largest."""
    limit = float(np.finfo(np.float16).max)
    return base64.b64encode(np.clip(_flat(arrays), -limit, limit).astype("<f2").tobytes()).decode()


def _flat(arrays: dict[str, np.ndarray]) -> np.ndarray:
    flat: Any = [value.astype("<f4").reshape(-1) for value in arrays.values()]
    return np.concatenate([np.zeros(0, "<f4"), *flat])


def sizes(found: Exported) -> list[tuple[str, int]]:
    """Return the names of the arrays and how many numbers each has, in the order of `in_24_bits`."""
    return [(name, value.size) for name, value in found.arrays().items()]
