"""Every public function says what it takes, gives back and raises."""

import importlib
import inspect
import pkgutil

import pytest

import jaxgd


def public_functions():
    for info in pkgutil.walk_packages(jaxgd.__path__, "jaxgd."):
        if info.name.endswith("__main__"):
            continue
        module = importlib.import_module(info.name)
        for name, value in vars(module).items():
            if not name.startswith("_") and getattr(value, "__module__", None) == info.name:
                if inspect.isfunction(value):
                    yield f"{info.name}.{name}", value
                elif inspect.isclass(value):
                    yield from (
                        (f"{info.name}.{name}.{method}", function)
                        for method, function in vars(value).items()
                        if inspect.isfunction(function) and not method.startswith("_")
                    )


FUNCTIONS = dict(public_functions())


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
        for parameter in parameters:
            assert f"{parameter}:" in arguments, f"argument {parameter} is not described"
    if signature.return_annotation not in (None, "None", inspect.Signature.empty):
        assert "Returns:" in doc
    if "raise " in inspect.getsource(function):
        assert "Raises:" in doc


@pytest.mark.parametrize("module", ["jaxgd", *(info.name for info in pkgutil.walk_packages(jaxgd.__path__, "jaxgd."))])
def test_all_is_sorted_and_importable(module):
    if module.endswith("__main__"):
        return
    imported = importlib.import_module(module)
    assert imported.__doc__
    names = getattr(imported, "__all__", [])
    assert names == sorted(names)
    assert all(hasattr(imported, name) for name in names)
