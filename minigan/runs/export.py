"""Export the generator of a run, and write the page on which to explore it."""

from pathlib import Path

from minigan import __version__, export
from minigan.errors import UserError
from minigan.export import Exported
from minigan.files import write_atomically
from minigan.runs.run import writing
from minigan.runs.saved import Saved, codec_of, generator, read


def translated(saved: Saved) -> Exported:
    """Return the generator of a run, the moving average if there is one, as steps of `minigan.export`."""
    config, facts = saved.config, saved.facts
    source = {
        "minigan": __version__,
        "preset": config.preset,
        "network": config.network,
        "kind": facts["kind"],
        "data": facts["data"]["name"],
        "step": facts["step"],
    }
    return export.exported(generator(saved), codec_of(saved), facts.get("class_names"), source)


def export_run(run: Path, form: str | None = None, out: Path | None = None) -> Path:
    """Write the generator of a run to a file, and return its path. See `export_saved`."""
    return export_saved(read(run), out, form)


def export_saved(saved: Saved, out: Path | None = None, form: str | None = None) -> Path:
    """Write the generator of a run to a file, by default RUN/generator with the suffix, and return its path.

    Without a format, the suffix of `out` decides, or it is npz. Raises UserError if both contradict each other, or if
    the file cannot be written.
    """
    suffixes = {each.suffix: name for name, each in export.FORMATS.items()}
    if form is None:
        form = "npz" if out is None else suffixes.get(out.suffix)
    if form not in export.FORMATS:
        raise UserError(f"a generator is exported as {', '.join(export.FORMATS)}, got {form or out}: give --format")
    chosen = export.FORMATS[form]
    out = saved.out / f"generator{chosen.suffix}" if out is None else out
    if out.suffix != chosen.suffix:
        raise UserError(f"the format {form} is written to a {chosen.suffix} file, got {out}: give another --out")
    write(out, chosen.write(translated(saved)))
    return out


def write(out: Path, content: bytes) -> None:
    """Write a file, and the folders it is in. Raises UserError if that is not possible."""
    with writing(out.parent):
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(out, content)
