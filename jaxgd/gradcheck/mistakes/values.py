"""The right gradient of a loss that JAX cannot trace: by jax.numpy in place of NumPy, or by central differences."""

import functools
import importlib
import types
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxgd.gradcheck.inputs import Arrays
from jaxgd.gradcheck.mistakes import tensors

MAX_ENTRIES = 400
"""Parameters of which each is moved on its own."""

MODULES = {
    "numpy": "jax.numpy",
    "autograd.numpy": "jax.numpy",
    "numpy.linalg": "jax.numpy.linalg",
    "scipy.special": "jax.scipy.special",
    "scipy.linalg": "jax.scipy.linalg",
    "autograd.scipy.special": "jax.scipy.special",
}
"""Modules of NumPy functions, and the modules of JAX that have the same functions."""

LIBRARIES = ("numpy", "scipy", "jax", "autograd", "torch")
"""Whose functions are not looked into."""

MAX_DEPTH = 6


def central_differences(value: Callable[[Arrays], float], params: Arrays) -> Arrays | None:
    """The gradient of a function by central differences, extrapolated to step 0.

    The relative error is near 1e-9 for smooth functions in float64.

    Args:
      value: of the leaves of the parameters.
      params: float64.

    Returns:
      One leaf for each; None if there are more than `MAX_ENTRIES` entries.
    """
    if sum(leaf.size for leaf in params) > MAX_ENTRIES:
        return None
    gradient = []
    for number, leaf in enumerate(params):
        slopes = np.zeros(leaf.size)
        for entry in range(leaf.size):
            slopes[entry] = _slope(functools.partial(_moved, value, params, number, entry), _step(leaf, entry))
        gradient.append(slopes.reshape(leaf.shape))
    return gradient


def _step(leaf: Any, entry: int) -> float:
    rms = float(np.sqrt(np.mean(leaf**2)))
    return 1e-2 * max(abs(float(leaf.flat[entry])), 0.1 * rms, 1e-6) if rms > 0 else 1e-2


def _moved(value: Callable[[Arrays], float], params: Arrays, number: int, entry: int, step: float) -> float:
    leaf = np.array(params[number])
    leaf.flat[entry] += step
    return value([*params[:number], leaf, *params[number + 1 :]])


def _slope(value: Callable[[float], float], step: float) -> float:
    """Richardson's extrapolation over three steps: errors of second and fourth order cancel."""
    a, b, c = ((value(h) - value(-h)) / (2 * h) for h in (step, step / 2, step / 4))
    first, second = (4 * b - a) / 3, (4 * c - b) / 3
    return (16 * second - first) / 15


def in_jax(function: Callable[..., Any]) -> Callable[..., Any] | None:
    """A function of NumPy with jax.numpy in its place, and in that of the functions of the user that it calls.

    Args:
      function: the loss.

    Returns:
      The other function; None if nothing in it could be replaced. Whether it computes the same is for the caller to
      test: code that changes arrays in place, for one, does not run.
    """
    try:
        replaced = _in_jax(function, 0)
    except (AttributeError, ImportError, TypeError, ValueError):
        return None
    return None if replaced is function else replaced


def _in_jax(thing: Any, depth: int) -> Any:
    if depth > MAX_DEPTH:
        return thing
    if (of_torch := tensors.in_jax(thing)) is not None:
        return of_torch
    if isinstance(thing, types.ModuleType):
        return importlib.import_module(MODULES[thing.__name__]) if thing.__name__ in MODULES else thing
    if isinstance(thing, functools.partial):
        keywords = {key: _in_jax(value, depth + 1) for key, value in thing.keywords.items()}
        return functools.partial(
            _in_jax(thing.func, depth + 1), *[_in_jax(value, depth + 1) for value in thing.args], **keywords
        )
    module = getattr(thing, "__module__", None)
    if isinstance(thing, np.ufunc) or (callable(thing) and module in MODULES):
        return getattr(importlib.import_module(MODULES.get(module or "numpy", "jax.numpy")), thing.__name__, thing)
    if isinstance(thing, types.FunctionType) and not (module or "").startswith(LIBRARIES):
        return _function_in_jax(thing, depth)
    return thing


def names_in(code: types.CodeType) -> set[str]:
    """The global names and attributes that a function reads, and those of the functions inside it."""
    inner = (const for const in code.co_consts if isinstance(const, types.CodeType))
    return set(code.co_names).union(*map(names_in, inner))


def _function_in_jax(function: types.FunctionType, depth: int) -> types.FunctionType:
    names = names_in(function.__code__)
    old = {name: function.__globals__[name] for name in names if name in function.__globals__}
    # A function that calls itself keeps calling itself.
    new = {name: value if value is function else _in_jax(value, depth + 1) for name, value in old.items()}
    cells = tuple(function.__closure__ or ())
    inside = tuple(types.CellType(_in_jax(cell.cell_contents, depth + 1)) if _filled(cell) else cell for cell in cells)
    defaults = tuple(_in_jax(value, depth + 1) for value in function.__defaults__ or ())
    keywords = {key: _in_jax(value, depth + 1) for key, value in (function.__kwdefaults__ or {}).items()}
    same = (
        all(new[name] is old[name] for name in old)
        and all(not _filled(a) or a.cell_contents is b.cell_contents for a, b in zip(cells, inside, strict=True))
        and all(a is b for a, b in zip(function.__defaults__ or (), defaults, strict=True))
        and all(keywords[key] is value for key, value in (function.__kwdefaults__ or {}).items())
    )
    if same:
        return function
    replaced = types.FunctionType(
        function.__code__, {**function.__globals__, **new}, function.__name__, defaults or None, inside
    )
    replaced.__kwdefaults__ = keywords or None
    return replaced


def _filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True
