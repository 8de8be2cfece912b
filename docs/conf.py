"""Sphinx settings, and what the pages take from the code: docstrings, tables of enumerations, the command's help."""

import enum
import os
import re
import sys
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS))
sys.path.insert(0, str(DOCS.parent))
# The notebooks run in processes of their own, which must find this checkout too.
os.environ["PYTHONPATH"] = os.pathsep.join([str(DOCS.parent), *filter(None, [os.environ.get("PYTHONPATH")])])

import generate

project = "jaxgd"
author = "The jaxgd authors"
release = "0.1.0"

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx-mathjax-offline",  # formulas show without a network
]
exclude_patterns = ["_build", "generated"]
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "deflist"]
myst_heading_anchors = 3
nitpicky = True
nitpick_ignore_regex = [("py:.*", r"(?!jaxgd).*")]  # types of other libraries, which have no pages here

# Tutorials are run when the site is built; one that raises fails the build.
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 180
nb_merge_streams = True

html_theme = "sphinx_book_theme"
html_title = "jaxgd"
html_static_path = ["_static"]
html_css_files = ["jaxgd.css"]
html_theme_options = {
    "use_repository_button": False,
    "show_toc_level": 2,
    "home_page_in_toc": True,
    "navbar_persistent": [],  # the side bar holds the search
}

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings give shapes, which say more
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True

SECTIONS = re.compile(r"^(Args|Attributes|Returns|Raises|Yields|Source|Example|Examples):")


def to_rst(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Docstrings are plain text with formulas set off by indentation; write them as reStructuredText.

    An indented block after an empty line becomes a literal block, so that formulas keep their columns. `names`
    between single backticks become code. Signs that mean something in reStructuredText (`*`, `|`) are escaped.
    """
    written: list[str] = []
    literal = in_section = in_list = False
    for number, line in enumerate(lines):
        if SECTIONS.match(line):
            literal, in_section, in_list = False, True, False
        entry = None if in_section else re.match(r"^  (\w+): (.*)", line)
        if entry:  # a list of names with their meanings
            written += [] if in_list else [""]
            written.append(f"* ``{entry[1]}``: {escaped(entry[2])}")
            in_list = True
            continue
        if in_list and line.startswith("    "):
            written.append(f"  {escaped(line.strip())}")
            continue
        in_list = False
        blank_before = number == 0 or not lines[number - 1].strip()
        indented = line.startswith("    ")
        if not in_section and indented and blank_before and not literal:
            written += [".. code-block:: text", ""]
            literal = True
        elif literal and line.strip() and not indented:
            literal = False
        written.append(line if literal else escaped(line))
    lines[:] = written


def escaped(line: str) -> str:
    """One line outside a literal block."""
    parts = re.split(r"(`+[^`]+`+)", line)
    for number, part in enumerate(parts):
        if number % 2:
            parts[number] = f"``{part.strip('`')}``"
        else:
            parts[number] = re.sub(r"([*|])", r"\\\1", re.sub(r"(\w)_(?!\w)", r"\1\\_", part))
    return "".join(parts)


def skip(app: Any, what: str, name: str, obj: Any, skipped: bool, options: Any) -> bool | None:
    """Leave out what every NamedTuple and enumeration inherits, and the constants of modules."""
    inherited = hasattr(tuple, name) or hasattr(int, name) or hasattr(enum.Enum, name)
    constant = what == "module" and not callable(obj)
    private = name.startswith("_") and name != "__init__"
    return True if inherited or constant or private else None


def setup(app: Any) -> None:
    """Connect, before napoleon reads the docstrings."""
    app.connect("autodoc-process-docstring", to_rst, priority=100)
    app.connect("autodoc-skip-member", skip)
    generate.write(DOCS / "generated")
