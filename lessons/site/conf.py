"""The settings of Sphinx for the site of the course, which `python lessons/site/build.py` builds."""

import re

import minigan

project = "minigan"
copyright = "The minigan authors"
version = release = minigan.__version__
extensions = ["sphinx.ext.autodoc", "sphinx.ext.viewcode", "myst_nb"]
exclude_patterns = ["README.md"]  # index.md includes it
suppress_warnings = ["myst.header"]  # the terms of the glossary are headings of the third level
default_role = "code"
highlight_language = "none"  # indented blocks are formulas, tables and shell commands
smartquotes = False

html_theme = "furo"
html_title = f"minigan {version}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
pygments_style = "a11y-high-contrast-light"
pygments_dark_style = "a11y-high-contrast-dark"

myst_enable_extensions = ["html_image"]  # pictures with a width in tables
myst_heading_anchors = 4
nb_execution_mode = "off"  # build.py executes the lessons
nb_merge_streams = True

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


def offer_the_notebook(app, pagename: str, templatename: str, context: dict, doctree) -> None:
    """Adds a link to the notebook to the page of a lesson."""
    if pagename.startswith("lessons/notebooks/"):
        name = pagename.rpartition("/")[2]
        link = f'<a href="{name}.ipynb" download>{name}.ipynb</a>'
        context["body"] += f'<p class="offer">This lesson as a notebook, with its outputs: {link}</p>'


def correct_ways_back(app, pagename: str, templatename: str, context: dict, doctree) -> None:
    """Corrects the links [docs] in the pages with source, which lead back to the reference.

    If the reference describes some objects of a module under the name of its package and others under its own name,
    viewcode uses one of the two names for all.
    """
    if not pagename.startswith("_modules/minigan"):
        return
    module = pagename.removeprefix("_modules/").replace("/", ".")
    known = {name for name, entry in app.env.get_domain("py").objects.items() if entry.objtype != "module"}

    def corrected(link: re.Match) -> str:
        names, package = [link[2]], module
        while package := package.rpartition(".")[0]:
            names += [link[2].replace(package, module, 1), link[2].replace(module, package, 1)]
        right = next((name for name in names if name in known), None)
        return f'{link[1]}#{right}"' if right else f'{link[1]}"'

    context["body"] = re.sub(r'(class="viewcode-back" href="[^"#]*)#([^"]+)"', corrected, context["body"])


def setup(app) -> None:
    app.connect("autodoc-process-docstring", to_restructured_text)
    app.connect("html-page-context", offer_the_notebook)
    app.connect("html-page-context", correct_ways_back)
