"""The reference lists every public name, and the pages of the documentation are all in a table of contents."""

import importlib
import inspect
import re
from pathlib import Path

import pytest

import jaxgd

DOCS = Path(__file__).resolve().parents[1] / "docs"
pytestmark = pytest.mark.skipif(not DOCS.exists(), reason="the documentation is not beside these tests")

ROOMS = ["jaxgd", *(f"jaxgd.{room}" for room in ("data", "gradcheck", "problems", "reporting", "theory"))]
WHOLE = ["jaxgd.plot", *(f"jaxgd.theory.{name}" for name in ("bounds", "closed_form", "curvature", "inference"))]
WHOLE += ["jaxgd.theory.rates", "jaxgd.theory.taylor"]
"""Modules of which every function and class without an underscore is public."""


def resolved(name):
    """What a dotted name means."""
    module, _, last = name.rpartition(".")
    return getattr(importlib.import_module(module), last)


def members(module):
    """What `automodule` writes for `:members:`."""
    names = getattr(module, "__all__", None)
    if names is not None:
        return set(names)
    return {name for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__}


def documented(page):
    """The objects of the directives of a page."""
    prefix, found = "", []
    for line in page.read_text().splitlines():
        directive = re.match(r"\.\. (?:py:)?(\w+):: (\S+)", line)
        option = re.match(r"   :(members|exclude-members):(.*)", line)
        if directive and directive[1] == "currentmodule":
            prefix = f"{directive[2]}."
        elif directive:
            kind, name = directive[1], directive[2]
            name = name if name.startswith("jaxgd") else prefix + name
            start = len(found)
            if kind != "automodule":
                found.append(resolved(name))
        elif option and kind == "automodule":
            module = importlib.import_module(name)
            listed = set(re.findall(r"\w+", option[2])) or members(module)
            values = [getattr(module, member) for member in listed]
            if option[1] == "members":
                found += values
            else:
                found[start:] = [value for value in found[start:] if not any(value is other for other in values)]
    return found


def public():
    """Every public name with what it means."""
    for room in ROOMS:
        module = importlib.import_module(room)
        for name in module.__all__:
            value = getattr(module, name)
            if not inspect.ismodule(value) and name not in ("__version__", "ALL_PROBLEMS"):
                yield f"{room}.{name}", value
    for name in WHOLE:
        module = importlib.import_module(name)
        for member in members(module):
            if not member.startswith("_"):
                yield f"{name}.{member}", getattr(module, member)


def test_the_reference_lists_every_public_name():
    listed = [value for page in DOCS.glob("reference/*.md") for value in documented(page)]
    names = dict(public())
    assert len(names) > 80
    assert jaxgd.fit in names.values()
    assert not sorted(name for name, value in names.items() if not any(value is other for other in listed))


def test_the_reference_lists_nothing_twice():
    listed = [value for page in DOCS.glob("reference/*.md") for value in documented(page) if callable(value)]
    assert not [value for value in listed if sum(value is other for other in listed) > 1]


def test_every_page_is_in_a_table_of_contents():
    contents = "".join(re.findall(r"```{toctree}.*?```", "".join(p.read_text() for p in DOCS.rglob("*.md")), re.DOTALL))
    pages = {p.stem for p in DOCS.rglob("*.md") if p.parent.name != "generated"} - {"index"}
    assert pages == pages & set(re.findall(r"[\w-]+", contents))


def test_the_links_between_pages_lead_to_pages():
    for page in DOCS.rglob("*.md"):
        if page.parent.name != "generated":
            for target in re.findall(r"\]\(([^)#:\s]+)\)", page.read_text()):
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_tutorial_explains_every_kind_of_finding():
    page = (DOCS / "tutorials" / "is_my_gradient_right.md").read_text()
    explained = re.findall(r"`([A-Z_]{2,})`", page.partition("## What each finding means")[2])
    assert sorted(explained) == sorted(kind.name for kind in jaxgd.gradcheck.Kind)
