"""The first command of the README is quick: what is optional is imported where it is needed, not at the start."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
from common import slow

import jaxgd

ROOT = Path(jaxgd.__file__).parent
CORE = {"jax", "jaxgd", "numpy", "optax", "scipy"}
SCREEN = {"rich", "tyro"}
"""What the rooms of the command import at once."""


def imported_at_once(node):
    """The libraries that a module imports when it is imported: outside of functions."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            yield child.module.partition(".")[0]
        elif not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from imported_at_once(child)


def test_only_the_core_is_imported_at_the_start():
    for path in sorted(ROOT.rglob("*.py")):
        found = set(imported_at_once(ast.parse(path.read_text()))) - set(sys.stdlib_module_names) - CORE
        of_the_command = path.parent.name in ("commands", "reporting") or path.name == "cli.py"
        assert not found - (SCREEN if of_the_command else set()), path


@slow
def test_the_first_command_takes_less_than_five_seconds_of_one_core(tmp_path):
    """The second time: the first fills the user's cache of compiled programs. Other processes do not count."""
    pytest.importorskip("sklearn")
    resource = pytest.importorskip("resource")
    command = [sys.executable, "-m", "jaxgd", "fit", "--data", "diabetes"]
    variables = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    variables |= {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT.parent)}
    variables |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1"}
    seconds = []
    for _ in range(2):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=True, cwd=tmp_path, env=variables, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert seconds[1] < 5, seconds
