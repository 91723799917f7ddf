"""Sphinx builds the API reference from the docstrings: sphinx-build -W lessons/site lessons/site/_build."""

import re

import minigan

project = "minigan"
copyright = "The minigan authors"
version = release = minigan.__version__
extensions = ["sphinx.ext.autodoc", "sphinx.ext.viewcode", "myst_parser"]
html_theme = "furo"
html_title = f"minigan {version}"
exclude_patterns = ["_build"]
default_role = "code"
autodoc_default_options = {"members": True, "show-inheritance": True, "member-order": "bysource"}
autodoc_typehints = "signature"
autodoc_preserve_defaults = True

OWN_MARKUP = re.compile(r"(`[^`]*`)")


def to_restructured_text(app, what, name, obj, options, lines: list[str]) -> None:
    """Docstrings are plain text with `code` and indented blocks, and this makes reStructuredText of them, in place.

    An indented block (an equation, a table of shapes) becomes a literal block; outside of `code`, characters that mean
    something to reStructuredText are escaped.
    """
    text, literal = [], False
    for number, line in enumerate(lines):
        indented = line.startswith("    ")
        if indented and not literal and number and not lines[number - 1].strip():
            literal = True
            if not (text and any(previous.rstrip().endswith("::") for previous in text[-2:])):
                text += ["::", ""]
        elif line.strip() and not indented:
            literal = False
        text.append(line if literal else escaped(line))
    lines[:] = text


def escaped(line: str) -> str:
    parts = OWN_MARKUP.split(line)
    for i in range(0, len(parts), 2):
        parts[i] = re.sub(r"([*|\\])", r"\\\1", parts[i])
        parts[i] = re.sub(r"(?<=\w)_(?!\w)", r"\\_", parts[i])
    return "".join(parts)


def setup(app) -> None:
    app.connect("autodoc-process-docstring", to_restructured_text)
