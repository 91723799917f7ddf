"""Output that does not stop a training: closed pipes, full disks, and terminals with few characters.

`tqdm` makes the progress bars of all modules: widgets in notebooks that have ipywidgets, else text.
"""

import contextlib
import os
import sys
import warnings
from collections.abc import Iterator
from typing import Any


def tqdm(*arguments: Any, **options: Any) -> Any:
    """Return a progress bar of the package tqdm."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # in a notebook without ipywidgets, tqdm warns and then uses text
        from tqdm.auto import tqdm  # imported here, because `minigan --help` does not need it

    return tqdm(*arguments, **options)


@contextlib.contextmanager
def tolerant() -> Iterator[None]:
    """Replace stdout and stderr by streams that never raise an error.

    If writing fails, for example because `head` has closed the pipe, all further output is
    dropped. Characters that the terminal does not have are written as escapes, such as `\\xe4`.
    """
    before, errors, opened = {name: getattr(sys, name) for name in ("stdout", "stderr")}, {}, []
    for name, stream in before.items():
        if stream is None:  # closed before Python started, or a program without a console
            stream = open(os.devnull, "w", encoding="utf-8")  # closed below
            opened.append(stream)
        if hasattr(stream, "reconfigure") and getattr(stream, "errors", None) in ("strict", "surrogateescape"):
            errors[name] = stream.errors
            stream.reconfigure(errors="backslashreplace")
        setattr(sys, name, stream if isinstance(stream, _Tolerant) else _Tolerant(stream))
    try:
        yield
    finally:
        for name, stream in before.items():
            current = getattr(sys, name)
            with contextlib.suppress(Exception):
                current.flush()
            if name in errors:
                with contextlib.suppress(Exception):
                    stream.reconfigure(errors=errors[name])
            if isinstance(current, _Tolerant):  # unless somebody has replaced it since
                setattr(sys, name, stream)
        for stream in opened:
            stream.close()


class _Tolerant:
    """A text stream whose errors are ignored: after the first one, its output goes to os.devnull."""

    def __init__(self, stream: Any):
        self._stream = stream

    def write(self, text: str) -> int:
        """Write the text, or drop it."""
        with self._dropping():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush the stream, or drop what it holds."""
        with self._dropping():
            self._stream.flush()

    @contextlib.contextmanager
    def _dropping(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError):  # ValueError: the stream is closed
            with contextlib.suppress(Exception):  # a stream of a notebook or of a test has no number
                # also for child processes, and for Python's own flush at the end
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, self._stream.fileno())
                os.close(null)

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the stream, such as its encoding."""
        return getattr(self._stream, name)


def in_notebook() -> bool:
    """Return whether this is a Jupyter notebook, which can show pictures."""
    shell = sys.modules.get("IPython") and sys.modules["IPython"].get_ipython()
    return shell is not None and hasattr(shell, "kernel")


def show(*pictures: Any) -> None:
    """Show Pillow images below the cell of a notebook."""
    from IPython.display import display

    for picture in pictures:
        display(picture)
