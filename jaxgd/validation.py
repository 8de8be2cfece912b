"""Every error text for shapes, dtypes, trees and ranges.

Structure is checked while tracing, which costs the compiled program nothing. Each error names the argument, the
expected value and the value that was given.
"""

import math
import numbers
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def check_shape(name: str, array: Any, expected: tuple[int, ...], reason: str) -> None:
    """Raise ValueError unless `array` has the shape `expected`.

    Args:
      name: the argument, as the caller wrote it.
      array: anything with a shape.
      expected: the shape it must have.
      reason: the reason why this shape is expected, such as "that of the predictions".

    Raises:
      ValueError: the shapes differ.
    """
    if tuple(array.shape) != tuple(expected):
        shape, remedy = tuple(array.shape), ""
        if len(expected) == 1 and shape == (*expected, 1):
            # The array may come from a frame, which has no `ravel`.
            remedy = f'; `{name}.ravel()` has it, or `frame["name"]` if it is a column of a data frame'
        elif tuple(expected) == (*shape, 1):
            remedy = f"; `{name}[:, None]` has it"
        raise ValueError(f"`{name}` must have shape {tuple(expected)} ({reason}), got {shape}{remedy}.")


def check_rank(name: str, array: Any, ranks: tuple[int, ...], meaning: str) -> None:
    """Raise ValueError unless `array` has one of the ranks.

    Args:
      name: the argument.
      array: anything with a shape.
      ranks: the numbers of axes allowed.
      meaning: the shapes in words, `[N] or [N, D]`.

    Raises:
      ValueError: another number of axes.
    """
    if len(array.shape) not in ranks:
        raise ValueError(f"`{name}` must have shape {meaning}, got {tuple(array.shape)}.")


def check_floating(name: str, array: Any) -> None:
    """Raise TypeError unless `array` is of a floating dtype.

    Args:
      name: the argument.
      array: anything with a dtype.

    Raises:
      TypeError: the dtype is not floating.
    """
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(f"`{name}` must be floating, got {array.dtype}.")


def check_labels(labels: Any, num_rows: int) -> None:
    """Raise unless `labels` is an integer array `[N]`.

    Args:
      labels: the targets of a classification problem.
      num_rows: N, the number of rows of logits.

    Raises:
      TypeError: the dtype is not an integer one.
      ValueError: the shape is not `[N]`.
    """
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(f"`labels` must be integers, got {labels.dtype}.")
    check_shape("labels", labels, (num_rows,), "one for each row of logits")


def check_label_values(name: str, labels: Any, num_classes: int) -> None:
    """Raise ValueError unless every label is in [0, num_classes). Host side.

    Args:
      name: the argument, as the caller wrote it.
      labels: `[N]`, concrete.
      num_classes: K.

    Raises:
      ValueError: a label is outside; the text names the first such row.
    """
    values = np.asarray(labels)
    outside = (values < 0) | (values >= num_classes) | (values != np.floor(values))
    if outside.any():
        row = int(np.argmax(outside))
        raise ValueError(
            f"`{name}` must be integers in [0, {num_classes}), got {values[row]} at row {row}{_recoding(values)}."
        )


def check_probability_values(name: str, probabilities: Any) -> None:
    """Raise ValueError unless every number is a label 0 or 1, or a probability in [0, 1]. Host side.

    Args:
      name: the argument, as the caller wrote it.
      probabilities: `[N]` floating, concrete.

    Raises:
      ValueError: a number is outside; the text names the first such row.
    """
    values = np.asarray(probabilities)
    outside = ~((values >= 0) & (values <= 1))
    if outside.any():
        row = int(np.argmax(outside))
        raise ValueError(
            f"`{name}` must be labels 0 and 1 or probabilities in [0, 1], got {values[row]} at row {row}"
            f"{_recoding(values)}."
        )


def _recoding(labels: Any) -> str:
    """How to convert labels such as -1 and 1 to 0, 1, ..."""
    found = np.unique(labels).tolist()
    if found == [-1, 1]:
        return "; `(targets + 1) // 2` codes -1 and 1 as 0 and 1"
    if found == list(range(1, len(found) + 1)):
        return f"; `targets - 1` codes 1 to {len(found)} as 0 to {len(found) - 1}"
    return ""


def check_choice(name: str, value: Any, choices: Any) -> None:
    """Raise ValueError unless `value` is one of `choices`.

    Args:
      name: the argument.
      value: the value that was given.
      choices: the allowed values.

    Raises:
      ValueError: the value is not one of them.
    """
    if value not in choices:
        listed = ", ".join(repr(choice) for choice in choices)
        raise ValueError(f"`{name}` must be one of {listed}, got {value!r}.")


def check_count(name: str, value: Any, *, minimum: int = 1, maximum: int | None = None) -> int:
    """A whole number in a range, as an int.

    Args:
      name: the argument.
      value: the value that was given; a Python or NumPy integer.
      minimum: the smallest allowed.
      maximum: the largest allowed, or None.

    Returns:
      The value.

    Raises:
      TypeError: not a concrete integer.
      ValueError: out of range.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"`{name}` must be a Python integer, got {_described(value)}.")
    count = int(value)
    if count < minimum or (maximum is not None and count > maximum):
        span = f"at least {minimum}" if maximum is None else f"between {minimum} and {maximum}"
        raise ValueError(f"`{name}` must be {span}, got {count}.")
    return count


def check_nonnegative(name: str, value: Any) -> float:
    """A finite number that is zero or more, as a float.

    Args:
      name: the argument.
      value: the value that was given; a real number, concrete.

    Returns:
      The value.

    Raises:
      TypeError: not a real number.
      ValueError: negative, infinite or NaN.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"`{name}` must be a number, got {_described(value)}.")
    if not math.isfinite(value) or value < 0:
        raise ValueError(f"`{name}` must be finite and not negative, got {value}.")
    return float(value)


def check_floating_tree(name: str, tree: Any) -> None:
    """Raise unless `tree` has leaves and all of them are floating.

    Args:
      name: the argument.
      tree: parameters.

    Raises:
      TypeError: a leaf is not a floating array; the text names it.
      ValueError: the tree has no leaf.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    if not leaves:
        raise ValueError(f"`{name}` must hold at least one floating array, got none.")
    for path, leaf in leaves:
        if not isinstance(leaf, numbers.Number | np.generic | np.ndarray | jax.Array | jax.ShapeDtypeStruct):
            leaf_name = f"{name}{jax.tree_util.keystr(path)}"
            raise TypeError(f"`{leaf_name}` must be a floating array, got {type(leaf).__name__}{_part(tree)}.")
        dtype = jnp.result_type(leaf)
        if not jnp.issubdtype(dtype, jnp.floating):
            raise TypeError(f"`{name}{jax.tree_util.keystr(path)}` must be floating, got {dtype}.")


def _part(tree: Any) -> str:
    """Advice for an equinox module: how to separate its arrays from its functions."""
    if not any(base.__module__.partition(".")[0] == "equinox" for base in type(tree).__mro__):
        return ""
    return (
        "; give the arrays of `arrays, rest = equinox.partition(module, equinox.is_inexact_array)` "
        "and call `equinox.combine(arrays, rest)` in the loss"
    )


def check_concrete(function: str, arguments: Any) -> None:
    """Raise TypeError if a function that runs on the host is called inside jit, vmap or grad.

    Args:
      function: the name of the function.
      arguments: a tree of its arguments.

    Raises:
      TypeError: an argument is a tracer; the text names the function to use instead.
    """
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(arguments)):
        raise TypeError(
            f"`jaxgd.{function}` runs on the host and cannot be called inside jit, vmap or grad; use `jaxgd.descend`, "
            "the same run as one pure function."
        )


def check_key(key: Any) -> None:
    """Raise TypeError unless `key` is None or can be a key of jax.random.

    Args:
      key: the value that was given.

    Raises:
      TypeError: it is not an array.
    """
    if key is not None and not isinstance(key, jax.Array | np.ndarray):
        raise TypeError(f"`key` must be a key such as `jax.random.key(0)`, got {_described(key)}.")


def check_same_tree(name: str, tree: Any, reference_name: str, reference: Any) -> None:
    """Raise unless two trees agree in structure, shapes and dtypes.

    Args:
      name: the name of the checked tree.
      tree: arrays or shape structs.
      reference_name: the name of the tree with which it must agree.
      reference: arrays or shape structs.

    Raises:
      ValueError: structure or a shape differs.
      TypeError: a dtype differs.
    """
    structure: Any = jax.tree.structure(tree)
    expected_structure: Any = jax.tree.structure(reference)
    if structure != expected_structure:
        raise ValueError(
            f"{name} must have the tree structure of {reference_name}, {expected_structure}, got {structure}."
        )
    pairs = zip(jax.tree_util.tree_leaves_with_path(tree), jax.tree.leaves(reference), strict=True)
    for (path, leaf), expected in pairs:
        where = f"{name} at {jax.tree_util.keystr(path) or 'its only leaf'}"
        if jnp.shape(leaf) != jnp.shape(expected):
            raise ValueError(
                f"{where} must have shape {jnp.shape(expected)} (that of {reference_name}), got {jnp.shape(leaf)}."
            )
        if jnp.result_type(leaf) != jnp.result_type(expected):
            raise TypeError(
                f"{where} must be {jnp.result_type(expected)} (as {reference_name} is), got {jnp.result_type(leaf)}."
            )


def check_rows(batch: Any) -> int:
    """The number of rows N that all arrays of a batch share as their leading axis.

    Args:
      batch: a tree of arrays.

    Returns:
      N.

    Raises:
      ValueError: the batch holds no array, one has no axis, they differ, or N is 0.
    """
    leaves = jax.tree_util.tree_leaves_with_path(batch)
    if not leaves:
        raise ValueError("`batch` must hold arrays of rows to be cut into batches, got none.")
    shapes = {f"batch{jax.tree_util.keystr(path)}": jnp.shape(leaf) for path, leaf in leaves}
    lengths = {shape[0] if shape else None for shape in shapes.values()}
    if len(lengths) != 1 or None in lengths:
        listed = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(f"all arrays of `batch` must share their leading axis, the rows; got {listed}.")
    (num_rows,) = lengths
    if not num_rows:
        raise ValueError("`batch` must have at least one row, got 0.")
    return int(num_rows)


def _described(value: Any) -> str:
    return f"{value!r}" if isinstance(value, str | float | bool | type(None)) else type(value).__name__
