"""The architecture as a test: a module imports only from lower layers, and no autodiff in problems/."""

import ast
from pathlib import Path

import pytest

import jaxgd

ROOT = Path(jaxgd.__file__).parent

LAYERS = {
    "jaxgd.types": 0,
    "jaxgd.validation": 0,
    "jaxgd.version": 0,
    "jaxgd.interrupt": 0,
    "jaxgd.penalty": 1,
    "jaxgd.theory": 1,
    "jaxgd.gradcheck": 1,
    "jaxgd.problems": 2,
    "jaxgd.data": 1,
    "jaxgd.descent": 3,
    "jaxgd.plot": 4,
    "jaxgd.reporting": 5,
    "jaxgd.commands": 6,
    "jaxgd.cli": 7,
    "jaxgd.__main__": 8,
    "jaxgd": 8,
}

AUTODIFF = {
    "grad",
    "value_and_grad",
    "vjp",
    "jvp",
    "linearize",
    "jacfwd",
    "jacrev",
    "jacobian",
    "hessian",
    "linear_transpose",
    "custom_vjp",
    "custom_jvp",
    "autodiff",
}


def modules():
    return {
        ".".join(("jaxgd", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): path
        for path in sorted(ROOT.rglob("*.py"))
    }


def room(module):
    while module not in LAYERS:
        module = module.rpartition(".")[0]
    return module


def imports(module, path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "jaxgd")
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module}: relative imports hide the layer"
            if node.module.split(".")[0] == "jaxgd":
                yield from (
                    f"{node.module}.{alias.name}" if node.module == "jaxgd" else node.module for alias in node.names
                )


@pytest.mark.parametrize("module", modules())
def test_module_imports_only_from_lower_layers(module):
    for imported in imports(module, modules()[module]):
        same_room = room(imported) == room(module)
        assert same_room or LAYERS[room(imported)] < LAYERS[room(module)], f"{module} imports {imported}"


EXTRAS = {"rich", "tyro", "matplotlib", "pyarrow", "sklearn", "pandas", "polars", "orbax", "torch"}
"""What `pip install jaxgd` does not bring."""


@pytest.mark.parametrize("module", modules())
def test_the_library_is_imported_without_its_extras(module):
    """The command needs rich and tyro; everything else imports an extra where it uses it."""
    allowed = {"rich", "tyro"} if room(module) in ("jaxgd.commands", "jaxgd.cli") else set()
    at_import = ast.parse(modules()[module].read_text()).body
    found = set()
    for node in at_import:
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module.split(".")[0])
    assert not found & EXTRAS - allowed


SCIPY = ("scipy.special", "scipy.optimize", "scipy.linalg", "scipy.sparse", "scipy.stats")


@pytest.mark.parametrize("module", modules())
def test_parts_of_scipy_are_loaded_where_they_are_used(module):
    """Together they take a quarter of the time of `import jaxgd`; `import scipy` loads each at its first use."""
    for node in ast.parse(modules()[module].read_text()).body:
        assert not (isinstance(node, ast.ImportFrom) and node.module.startswith("scipy")), f"{module}: {node.module}"
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        assert not set(names) & set(SCIPY), f"{module} imports {names}"


@pytest.mark.parametrize("module", modules())
def test_theory_and_descent_know_no_system(module):
    if room(module) in ("jaxgd.theory", "jaxgd.descent"):
        assert "jaxgd.problems" not in {room(imported) for imported in imports(module, modules()[module])}


def autodiff_names(source):
    """Names of autodiff that are imported, or reached as attributes of jax."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] in ("jax", "jaxgd"):
            # `jaxgd.theory.hessian` is put together from products that are derived by hand.
            forbidden = AUTODIFF if node.module.split(".")[0] == "jax" else {"autodiff"}
            yield from (alias.name for alias in node.names if alias.name in forbidden)
        elif isinstance(node, ast.Attribute) and node.attr in AUTODIFF:
            base = node.value
            while isinstance(base, ast.Attribute):
                base = base.value
            if isinstance(base, ast.Name) and base.id in ("jax", "lax"):
                yield node.attr


@pytest.mark.parametrize(
    "module", [m for m in modules() if m.startswith("jaxgd.problems") or m.endswith(".closed_form")]
)
def test_hand_derivations_use_no_autodiff(module):
    assert not list(autodiff_names(modules()[module].read_text()))


@pytest.mark.parametrize(
    "source",
    [
        "import jax\njax.grad(f)",
        "import jax\njax.jit(jax.vjp)",
        "from jax import jvp",
        "from jaxgd.types import autodiff",
    ],
)
def test_the_autodiff_test_can_fail(source):
    assert list(autodiff_names(source))
