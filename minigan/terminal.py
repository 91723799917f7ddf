"""Output that does not stop a training: closed pipes, full disks, and terminals with few characters.

`tqdm` makes the progress bars of all modules: widgets in notebooks that have ipywidgets, else text.
"""

import contextlib
import json
import math
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any

from minigan.errors import UserError


def tqdm(*arguments: Any, bar_format: str | None = None, disable: bool | None = False, **options: Any) -> Any:
    """Return a progress bar of the package tqdm. With `disable=None`, only terminals and notebooks show it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # in a notebook without ipywidgets, tqdm warns and then uses text
        from tqdm.auto import tqdm  # imported here, because `minigan --help` does not need it
        from tqdm.std import tqdm as text_bar

    if sys.stderr is None:  # a program without a console
        disable = True
    elif disable is None:
        disable = not is_watched()
    if bar_format and tqdm.display is not text_bar.display:
        bar_format = bar_format.replace("{bar:24}", "{bar}")  # a widget has its own width
    return tqdm(*arguments, bar_format=bar_format, disable=disable, **options)


def is_watched() -> bool:
    """Return whether messages go to a terminal or to a notebook, and not to a file or a pipe."""
    return in_notebook() or (sys.stderr is not None and sys.stderr.isatty())


class Output:
    """How `tolerant` treats stdout. `needed`: an error is raised, because the output is what the command is for."""

    needed = False


_INSTALLING = threading.Lock()


@contextlib.contextmanager
def tolerant() -> Iterator[Output]:
    """Replace stdout and stderr by streams that never raise an error, unless the given `Output` is `needed`.

    If writing fails, for example because `head` has closed the pipe, all further output is
    dropped. Characters that the terminal does not have are written as escapes, such as `\\xe4`.
    Several threads may be in this context. The last one restores the streams.
    """
    output = Output()
    with _INSTALLING:
        streams = {name: _install(name, output) for name in ("stdout", "stderr")}
    try:
        yield output
    finally:
        with _INSTALLING:
            for name, stream in streams.items():
                _uninstall(name, stream)


def _install(name: str, output: Output) -> "_Tolerant":
    """Replace a stream of the module sys, unless another thread or caller has replaced it."""
    stream = getattr(sys, name)
    if not isinstance(stream, _Tolerant):
        stream = _Tolerant(stream, output if name == "stdout" else Output())
        setattr(sys, name, stream)
    stream.users += 1
    return stream


def _uninstall(name: str, stream: "_Tolerant") -> None:
    """Restore a stream of the module sys if nobody uses the replacement any more."""
    stream.flush_quietly()
    stream.users -= 1
    if not stream.users:
        if getattr(sys, name) is stream:  # unless somebody has replaced it since
            setattr(sys, name, stream.before)
        stream.close_own()


class _Tolerant:
    """A text stream whose errors are ignored: after the first one, its output goes to os.devnull."""

    def __init__(self, before: Any, output: Output):
        self.before, self.users, self._output = before, 0, output
        # None: closed before Python started, or a program without a console
        self._stream = open(os.devnull, "w", encoding="utf-8") if before is None else before

    def write(self, text: str) -> int:
        """Write the text, or drop it."""
        with self._dropping():
            try:
                self._stream.write(text)
            except UnicodeEncodeError:
                encoding = getattr(self._stream, "encoding", None) or "ascii"
                self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write each text, or drop it."""
        for text in lines:
            self.write(text)

    def flush(self) -> None:
        """Flush the stream, or drop what it holds."""
        with self._dropping():
            self._stream.flush()

    def flush_quietly(self) -> None:
        """Flush the stream without an error."""
        with contextlib.suppress(OSError, UserError):
            self.flush()

    def close_own(self) -> None:
        """Close the stream if this object has opened it."""
        if self.before is None:
            self._stream.close()

    @contextlib.contextmanager
    def _dropping(self) -> Iterator[None]:
        try:
            yield
        except BlockingIOError:  # a terminal that takes no more for a moment
            pass
        except (OSError, ValueError) as error:  # ValueError: the stream is closed
            with contextlib.suppress(Exception):  # a stream of a notebook or of a test has no number
                # also for child processes, and for Python's own flush at the end
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, self._stream.fileno())
                os.close(null)
            if self._output.needed and isinstance(error, OSError):
                if isinstance(error, BrokenPipeError):
                    raise
                cause = error.strerror or error
                raise UserError(f"cannot write the output ({cause}): send it to another place") from None

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


def print_json(value) -> None:
    """Print a value as JSON. NaN and infinity become null, because JSON does not have them."""

    def plain(v):
        if isinstance(v, dict):
            return {k: plain(w) for k, w in v.items()}
        if isinstance(v, list | tuple):
            return [plain(w) for w in v]
        return None if isinstance(v, float) and not math.isfinite(v) else v

    print(json.dumps(plain(value)))
