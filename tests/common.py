"""The table of systems as pytest parameters, and arithmetic on trees."""

import contextlib
import functools
import re
import socket
import textwrap
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgd.problems import ALL_PROBLEMS

slow = pytest.mark.slow

SYSTEMS = [pytest.param(problem, make_batch, id=problem.name) for problem, make_batch in ALL_PROBLEMS]
SOME_SYSTEMS = [
    param if number % 4 == 0 else pytest.param(*param.values, id=param.id, marks=slow)
    for number, param in enumerate(SYSTEMS)
]
"""For tests that compile much for each system: every fourth, and the others among the slow tests."""


@contextlib.contextmanager
def free_address():
    """An address on this machine, whose port nobody else is given while processes meet there."""
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # the coordinator sets it too, and can listen there
        held.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{held.getsockname()[1]}"


def quick(values, keep):
    """Parameters of a test of which only those in `keep` run without --slow."""
    assert any(value in keep for value in values), "without --slow nothing would be tested"
    return [value if value in keep else pytest.param(value, marks=slow) for value in values]


def quick_systems(systems, *names):
    """Systems of which only those with these names are tried without --slow."""
    assert any(s.id in names for s in systems), "without --slow nothing would be tested"
    return [s if s.id in names else pytest.param(*s.values, id=s.id, marks=slow) for s in systems]


FEW = ("linear_regression(l2=0.1)", "softmax_regression(3, l2=0.1)", "mlp((8,))")
FEW_SYSTEMS = quick_systems([s for n, s in enumerate(SYSTEMS) if n % 3 == 0 or s.id in FEW], *FEW)
"""For tests of what does not depend on the system: a model of each kind, and every third among the slow tests."""

KINDS = quick_systems([s for n, s in enumerate(SYSTEMS) if n % 6 == 0 or s.id in FEW], *FEW)
"""The same with every sixth: for tests that compile a run or more for each."""

SYSTEMS_WITH_DATA = [
    pytest.param(problem, make_batch, id=problem.name)
    for problem, make_batch in ALL_PROBLEMS
    if jax.eval_shape(make_batch, jax.random.key(0)) is not None
]


@functools.cache
def setting(problem, make_batch, dtype=jnp.float64, seed=0):
    """Parameters and a batch in a dtype. NumPy draws the parameters: `init` would compile a program for each shape."""
    batch = cast(jax.jit(make_batch)(jax.random.key(seed)), dtype)
    drawn = normal_like(seed, jax.eval_shape(problem.init, jax.random.key(0), batch))
    scaled = jax.tree.map(lambda leaf: leaf / np.sqrt(leaf.shape[:1] or 1), drawn)
    return cast(jax.tree.map(jnp.asarray, scaled), dtype), batch


def normal_like(seed, tree):
    """Standard normal leaves by NumPy, for which nothing is compiled."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(leaf.dtype), tree)


@functools.cache
def compiled(function):
    """jax.jit(function), one for each function, so that tests share what was compiled."""
    return jax.jit(function)


def cast(tree, dtype):
    """Floating leaves in another dtype; arrays that are not traced by NumPy, for which nothing is compiled."""

    def cast_leaf(leaf):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return leaf
        return leaf.astype(dtype) if isinstance(leaf, jax.core.Tracer) else jnp.asarray(np.asarray(leaf).astype(dtype))

    return jax.tree.map(cast_leaf, tree)


def stacked(trees):
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def along(params, step, direction):
    return jax.tree.map(lambda p, u: p + step * u, params, direction)


def random_like(key, tree):
    leaves, treedef = jax.tree.flatten(tree)
    keys = jax.random.split(key, len(leaves))
    drawn = [jax.random.normal(k, leaf.shape, leaf.dtype) for k, leaf in zip(keys, leaves, strict=True)]
    return treedef.unflatten(drawn)


def flat(tree):
    return np.concatenate([np.ravel(np.asarray(leaf, np.float64)) for leaf in jax.tree.leaves(tree)])


def assert_trees_close(actual, expected, *, rtol=0.0, atol=0.0):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for (path, left), right in zip(jax.tree_util.tree_leaves_with_path(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(
            np.asarray(left), np.asarray(right), rtol=rtol, atol=atol, err_msg=jax.tree_util.keystr(path)
        )


def assert_trees_equal(actual, expected):
    assert_trees_close(actual, expected)


def blocks_of(section):
    """The Python blocks of a section of CONTRIBUTING.md, without their indentation."""
    path = Path(__file__).resolve().parents[1] / "CONTRIBUTING.md"
    if not path.exists():
        pytest.skip("CONTRIBUTING.md is not beside these tests")
    text = path.read_text()
    body = text.partition(f"## {section}\n")[2].partition("\n## ")[0]
    return [textwrap.dedent(block) for block in re.findall(r"^ *```python\n(.*?)^ *```", body, re.M | re.S)]
