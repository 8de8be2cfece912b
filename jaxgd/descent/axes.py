"""Axes of a sweep that are not arguments of a compiled run: batch sizes and arguments of an optimizer."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxgd.descent.result import Result
from jaxgd.validation import check_count


def arguments_of(optimizer: Any) -> tuple[str, ...]:
    """The names of the arguments of an optimizer that may be numbers, except the learning rate.

    Args:
      optimizer: see `descend`.

    Returns:
      The names; empty for `gradient_descent` and for a GradientTransformation.
    """
    if optimizer is None or isinstance(optimizer, optax.GradientTransformation) or not callable(optimizer):
        return ()
    parameters = inspect.signature(optimizer).parameters.values()
    return tuple(p.name for p in parameters if p.name != "learning_rate" and _may_be_a_number(p))


def _may_be_a_number(parameter: inspect.Parameter) -> bool:
    """By its default; where that is None, as that of a momentum, by its annotation."""
    if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
        return False
    default = parameter.default
    if default in (None, parameter.empty):
        named = str(parameter.annotation)
        return parameter.annotation is parameter.empty or any(word in named for word in ("float", "Array", "Numeric"))
    return isinstance(default, int | float) and not isinstance(default, bool)


def check_tunable(optimizer: Any, over: Mapping[str, Any]) -> None:
    """Raise an error for an axis over an argument that the optimizer needs as a concrete value, not traced.

    Args:
      optimizer: a function learning_rate -> GradientTransformation.
      over: the axes of its arguments, `[S]`.

    Raises:
      TypeError: `over` has such an axis; the text names it.
    """
    for name, values in over.items():
        try:
            # Only a traced value shows it: `if momentum:` inside an optimizer works with every number.
            jax.eval_shape(lambda value, name=name: (optimizer(0.1, **{name: value}), 0)[1], values[0])
        except jax.errors.ConcretizationTypeError:
            shown = getattr(optimizer, "__name__", "the optimizer")
            raise TypeError(f"`over` cannot name {name!r}: {shown} must know its value when it is built.") from None


def over_batch_sizes(
    run_sweep: Callable[..., Result],
    run_one: Callable[..., Result],
    others: Mapping[str, Any],
    sizes: Sequence[Any],
    axis: int | None,
) -> Result:
    """A sweep of which one axis is the batch size: a sweep over the other axes for each size.

    Args:
      run_sweep: `(over=, batch_size=) -> Result` over the other axes.
      run_one: `(batch_size=) -> Result`, a single run, if no other axis is swept.
      others: the other axes, trees of arrays.
      sizes: of the batches, None for all rows.
      axis: the position of the batch size among all axes; None if they are zipped.

    Returns:
      The result of every lane, as `sweep` returns it.

    Raises:
      ValueError: zipped axes have different lengths, or a size is out of range.
      TypeError: a size is neither an integer nor None.
    """
    counts = [size if size is None else _as_count(size) for size in sizes]
    if not counts:
        raise ValueError("`over['batch_size']` must hold at least one size, got none.")
    if not others:
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *(run_one(batch_size=size) for size in counts))
    if axis is not None:
        sweeps = [run_sweep(over=others, batch_size=size) for size in counts]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves, axis), *sweeps)
    lengths = {name: len(jax.tree.leaves(values)[0]) for name, values in others.items()}
    if set(lengths.values()) != {len(counts)}:
        listed = ", ".join(f"{name} {length}" for name, length in (lengths | {"batch_size": len(counts)}).items())
        raise ValueError(f"zipped axes of `over` must have one length, got {listed}.")
    # Lanes of one size are one program, so they run together, and are put back into their order.
    groups = {size: np.array([i for i, other in enumerate(counts) if other == size]) for size in dict.fromkeys(counts)}
    parts = [
        run_sweep(over=jax.tree.map(lambda leaf, lanes=lanes: leaf[lanes], dict(others)), batch_size=size)
        for size, lanes in groups.items()
    ]
    back = np.argsort(np.concatenate(list(groups.values())))
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[back], *parts)


def _as_count(size: Any) -> int:
    whole = isinstance(size, np.integer) or (isinstance(size, jax.Array) and jnp.issubdtype(size.dtype, jnp.integer))
    return check_count("over['batch_size']", int(size) if whole else size)
