"""Write samples to files: one picture, an array, an archive with labels, or a folder of separate files."""

import io
import re
from pathlib import Path
from typing import Any

import numpy as np

from minigan.errors import UserError
from minigan.files import write_atomically
from minigan.report import plots
from minigan.runs.run import columns, writing
from minigan.terminal import tqdm
from minigan.training import Sampler


def expect_form(out: Path, sampler: Sampler) -> None:
    """Raise UserError if samples of this kind cannot be written to `out`, before any are drawn."""
    own, separate = sampler.codec.suffixes, sampler.codec.view in plots.SINGLE
    if out.is_dir() or not out.suffix:
        if not separate:
            raise UserError(f"a folder takes one picture for each sample, which these are not: give a {own[0]} file")
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise UserError(f"{out} exists and is not an empty folder: give a new folder for the samples")
    elif not out.name.endswith((".png", *([".npz"] if sampler.codec.key else []), *own)):
        folder = ", or a folder (separate pictures)" if separate else ""
        archive = ", .npz (samples and labels)" if sampler.codec.key else ""
        raise UserError(
            f"samples are written to a .png file (a picture){archive}, {' or '.join(own)} (the samples){folder}, got "
            f"{out}"
        )


def write(out: Path, samples: np.ndarray, labels: np.ndarray | None, sampler: Sampler, one_class: bool = False) -> None:
    """Write decoded samples (N, ...) and their labels (N,) to `out`.

    A .png file is one picture of all samples; a single image is written as it is, without a
    frame. A .npz file has the arrays `images` (for points: `points`) and `labels`, which are
    numbers if all class names are numbers, else names. A folder gets one PNG file for each
    sample, in one subfolder for each class if there are labels. For other suffixes, see the
    codec of the data. `one_class` says that the samples have one class, so that the columns of
    the picture need not be the classes.

    Raises UserError if the file cannot be written: see also `expect_form`.
    """
    expect_form(out, sampler)
    codec = sampler.codec
    with writing(out.parent):
        out.parent.mkdir(parents=True, exist_ok=True)
        if out.suffix == ".png":
            single = plots.SINGLE.get(codec.view) if len(samples) == 1 else None
            width = 10 if one_class else columns(sampler.classes)
            if single:
                plots.save_picture(out, single(samples[0]))
            else:
                plots.save_samples(out, samples, codec, width)
        elif out.suffix == ".npz":
            buffer = io.BytesIO()
            arrays: dict[str, Any] = {codec.key: samples}
            if labels is not None:
                arrays["labels"] = as_values(sampler.class_names)[labels]
            np.savez_compressed(buffer, **arrays)
            write_atomically(out, buffer.getvalue())
        elif out.suffix:
            codec.save(samples, out)
        else:
            _write_separately(out, samples, labels, sampler)


def as_values(names: list[str]) -> np.ndarray:
    """Return the class names (K,) as int64 if all are whole numbers, else as text."""
    whole = all(re.fullmatch(r"0|-?[1-9]\d{0,17}", name) for name in names)
    return np.array(names, dtype=np.int64 if whole else str)


def _write_separately(out: Path, samples: np.ndarray, labels: np.ndarray | None, sampler: Sampler) -> None:
    """Write one PNG file for each sample: out/00000.png, or with labels out/CLASS/00000.png."""
    single, folders = plots.SINGLE[sampler.codec.view], [out]
    if labels is not None:
        folders = [out / name for name in folder_names(sampler.class_names)]
    places = np.zeros(len(samples), int) if labels is None else labels
    for place in np.unique(places):
        folders[place].mkdir(parents=True, exist_ok=True)
    digits = max(5, len(str(len(samples) - 1)))
    progress = tqdm(samples, desc="writing", leave=False, disable=None if len(samples) >= 1000 else True)
    for i, sample in enumerate(progress):
        plots.save_picture(folders[places[i]] / f"{i:0{digits}}.png", single(sample))


def folder_names(names: list[str]) -> list[str]:
    """Return a folder name for each class: characters that a file system forbids are replaced by "_"."""
    safe = [re.sub(r'[\x00-\x1f<>:"/\\|?*]', "_", name).strip(" .")[:100] or "_" for name in names]
    folded = [name.casefold() for name in safe]
    return [f"{name}_{i}" if folded.count(name.casefold()) > 1 else name for i, name in enumerate(safe)]
