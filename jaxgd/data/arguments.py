"""Convert the parameters, the data and the swept axes of a run to JAX arrays, from every accepted form."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgd.data.arrays import array, described, floating, on_device
from jaxgd.types import Params, Problem
from jaxgd.validation import check_floating_tree


def arguments(problem: Problem, params: Any, batch: Any) -> tuple[Params, Any]:
    """Convert the parameters and the data of a run to JAX arrays.

    Args:
      problem: the problem to minimise.
      params: theta_0, in a form that the problem accepts.
      batch: the data, in a form that the problem accepts. For a problem of your own any tree is accepted, and data
        frames in it are converted to arrays.

    Returns:
      A tree of floating arrays, and the data.

    Raises:
      TypeError: the problem does not accept parameters or data of this type; the text names the expected type.
      ValueError: `params` is empty; see `array`.
    """
    return parameters(problem, params), jax.tree.map(_leaf, problem.accepts.batch(batch))


def parameters(problem: Problem, params: Any) -> Params:
    """The parameters of `arguments`.

    Args:
      problem: see `arguments`.
      params: see `arguments`.

    Returns:
      A tree of floating arrays.

    Raises:
      TypeError: see `arguments`.
      ValueError: see `arguments`.
    """
    typed = problem.accepts.params(params)
    check_floating_tree("params", typed)
    return jax.tree.map(_strongly_typed, typed)


def _strongly_typed(leaf: Any) -> jax.Array:
    # A weak dtype would change in the first step, but the carry of a scan must keep its dtype.
    if isinstance(leaf, jax.Array):
        return leaf.astype(leaf.dtype) if leaf.weak_type else leaf
    return on_device(np.asarray(leaf, jnp.result_type(leaf)))


def _leaf(leaf: Any) -> Any:
    if hasattr(leaf, "to_numpy"):
        return on_device(array("batch", leaf))
    return on_device(leaf) if isinstance(leaf, np.ndarray) and leaf.dtype.kind in "biuf" else leaf


def sweep_axis(problem: Problem, name: str, values: Any) -> Any:
    """Convert the values of one axis of a sweep to arrays with a leading axis of lanes.

    Args:
      problem: the problem to minimise.
      name: the name of the swept argument.
      values: scalars in any form that `array` accepts, keys, or parameters or batches (stacked, or in a list).

    Returns:
      A tree of JAX arrays.

    Raises:
      TypeError: the values have another type; the text names the axis.
      ValueError: see `array`.
    """
    named = f"over[{name!r}]"
    if name == "key":
        if isinstance(values, list | tuple) and values and all(isinstance(value, jax.Array) for value in values):
            return jnp.stack(values)
        if not isinstance(values, jax.Array):
            raise TypeError(
                f"`{named}` must hold keys, such as `jax.random.split(jax.random.key(0), 3)`, got {described(values)}."
            )
        return values
    if name not in ("params", "batch"):
        return on_device(floating(named, values))
    take = problem.accepts.params if name == "params" else problem.accepts.batch
    if isinstance(values, list) and values and all(isinstance(value, tuple | dict) for value in values):
        each = [jax.tree.map(jnp.asarray, take(value)) for value in values]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)
    return parameters(problem, values) if name == "params" else jax.tree.map(_leaf, take(values))
