"""Every public function says what it takes, gives back and raises."""

import importlib
import inspect
import pkgutil
import re

import pytest

import jaxgd

MODULES = {
    info.name: importlib.import_module(info.name)
    for info in pkgutil.walk_packages(jaxgd.__path__, "jaxgd.")
    if not info.name.endswith("__main__")
}

ROOMS = ("jaxgd", *(name for name in MODULES if hasattr(MODULES[name], "__path__")))
"""The packages, whose `__all__` says what is public; the modules of `theory` are public as a whole."""


def methods(name, value):
    if inspect.isfunction(value):
        yield name, value
    elif inspect.isclass(value):
        for method, function in vars(value).items():
            if inspect.isfunction(function) and not method.startswith("_"):
                yield f"{name}.{method}", function


def functions_of(module):
    for name, value in vars(module).items():
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__:
            yield from methods(f"{module.__name__}.{name}", value)


def public_functions():
    for room in ROOMS:
        module = jaxgd if room == "jaxgd" else MODULES[room]
        for name in getattr(module, "__all__", ()):
            yield from methods(f"{room}.{name}", getattr(module, name))
    for name, module in MODULES.items():
        if name.startswith("jaxgd.theory.") or name == "jaxgd.plot":
            yield from functions_of(module)


FUNCTIONS = {name: function for name, function in public_functions() if function.__module__.startswith("jaxgd")}


def test_every_function_says_what_it_does():
    functions = dict(pair for module in MODULES.values() for pair in functions_of(module))
    assert not [name for name, function in functions.items() if not inspect.getdoc(function)]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_docstring_has_the_sections(name):
    function = FUNCTIONS[name]
    signature = inspect.signature(function)
    doc = inspect.getdoc(function)
    assert doc, "no docstring"
    parameters = [p for p in signature.parameters if p != "self"]
    if parameters:
        assert "Args:" in doc
        arguments = doc.split("Args:")[1].split("Returns:")[0].split("Raises:")[0]
        same = re.match(r" as `(\w+)`", arguments)
        of_the_same = inspect.signature(getattr(jaxgd, same[1])).parameters if same else {}
        for parameter in parameters:
            if parameter in of_the_same:
                continue
            if signature.parameters[parameter].kind is inspect.Parameter.VAR_KEYWORD:
                assert f"{parameter}:" in arguments or f"`{parameter}`" in arguments
                continue
            assert f"{parameter}:" in arguments, f"argument {parameter} is not described"
    if signature.return_annotation not in (None, "None", inspect.Signature.empty):
        assert "Returns:" in doc
    if "raise " in inspect.getsource(function):
        assert "Raises:" in doc


@pytest.mark.parametrize("module", ["jaxgd", *(info.name for info in pkgutil.walk_packages(jaxgd.__path__, "jaxgd."))])
def test_all_is_importable(module):
    if module.endswith("__main__"):
        return
    imported = importlib.import_module(module)
    assert imported.__doc__
    names = getattr(imported, "__all__", [])
    assert all(hasattr(imported, name) for name in names)
