"""Convert numbers and labels in every accepted form to arrays.

Lists, NumPy arrays, pandas and polars objects are converted to arrays. Integers are converted to floating-point numbers
if the problem computes with them. JAX arrays, including the tracers of `jit` and `vmap`, are not changed if their dtype
is right. Shapes are never changed.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def array(name: str, values: Any) -> Any:
    """Convert numbers to an array. A `jax.Array` is returned unchanged, everything else as a NumPy array.

    Args:
      name: the argument, as the caller wrote it.
      values: an array, a nested list, a number, a pandas or polars frame or series.

    Returns:
      A `jax.Array`, or a NumPy array of bool, integers or real floating numbers.

    Raises:
      TypeError: the values are not real numbers; the text names their type and a remedy.
      ValueError: the rows have unequal lengths, or entries are masked.
    """
    if isinstance(values, jax.Array):
        return values
    if hasattr(values, "toarray"):
        raise TypeError(f"`{name}` must be dense, got {type_name(values)}; give `{name}.toarray()`.")
    if np.ma.is_masked(values):
        raise ValueError(f"`{name}` must not have masked entries; fill them or leave their rows out.")
    found = _as_numpy(name, values)
    if found.dtype.kind in "OUSTMmcV":
        if hasattr(values, "columns"):  # name the column that is wrong
            found = np.column_stack([array(f"{name}[{column!r}]", values[column]) for column in values.columns])
        else:
            found = _numbers(name, found)
    return found


def _as_numpy(name: str, values: Any) -> np.ndarray[Any, Any]:
    try:
        return np.asarray(values.to_numpy() if hasattr(values, "to_numpy") else values)
    except jax.errors.TracerArrayConversionError:
        return jnp.asarray(values)  # type: ignore[return-value]  # a list of tracers
    except ValueError:
        raise ValueError(
            f"`{name}` must have rows of equal length, got a {type_name(values)} with rows of different lengths."
        ) from None
    except (TypeError, RuntimeError) as error:
        raise TypeError(f"`{name}` must be an array of numbers, got {type_name(values)} ({error}).") from None


def _numbers(name: str, values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Convert an object array of numbers to float64; raise an error for everything else."""
    if values.dtype.kind == "c":
        raise TypeError(f"`{name}` must be real, got {values.dtype}.")
    if values.dtype.kind in "Mm":
        raise TypeError(f"`{name}` must be numbers, got {values.dtype}; give a number such as the days since a start.")
    for position, value in enumerate(values.ravel() if values.dtype.kind != "V" else values[:1]):
        if isinstance(value, str | bytes):
            remedy = "; `numpy.unique(targets, return_inverse=True)` gives classes and their labels 0, 1, ..."
            raise TypeError(
                f"`{name}` must be numbers, got {str(value)!r}{_at(position, values)}"
                f"{remedy if name == 'targets' else '.'}"
            )
        try:
            float(value)
        except (TypeError, ValueError):
            raise TypeError(f"`{name}` must be numbers, got {value!r}{_at(position, values)}.") from None
    return values.astype(np.float64)


def _at(position: int, values: np.ndarray[Any, Any]) -> str:
    return f" at row {position // (values.size // len(values))}" if values.ndim else ""


def type_name(value: Any) -> str:
    """The type of a value, as text for a message.

    Args:
      value: any value.

    Returns:
      A name such as `list` or `pandas.Series`.
    """
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__.partition('.')[0]}.{kind.__name__}"


def floating(name: str, values: Any, dtype: Any = None) -> Any:
    """Convert real numbers, integers or bools to a floating array.

    Args:
      name: the argument, as the caller wrote it.
      values: see `array`.
      dtype: the dtype of converted integers; None means JAX's default floating dtype.

    Returns:
      A floating array; floating arrays keep their dtype.

    Raises:
      TypeError: see `array`.
      ValueError: see `array`.
    """
    found = array(name, values)
    if jnp.issubdtype(found.dtype, jnp.floating):
        return found
    if not (jnp.issubdtype(found.dtype, jnp.integer) or found.dtype == bool):
        raise TypeError(f"`{name}` must be real numbers, got {found.dtype}.")
    return found.astype(jnp.result_type(float) if dtype is None else dtype)


def on_device(values: Any) -> jax.Array:
    """Copy a NumPy array to a JAX array. A JAX array is returned unchanged.

    `jnp.asarray` compiles a program for every new shape, which takes longer than most copies. `jax.device_put` compiles
    nothing, but may share memory with the NumPy array. Therefore a copy is made first, and given to `jax.device_put`.

    Args:
      values: a NumPy array or a JAX array of numbers.

    Returns:
      The same numbers as a JAX array; float64 becomes float32 unless `jax_enable_x64` is set.
    """
    return values if isinstance(values, jax.Array) else jax.device_put(np.array(values))


def labels(name: str, values: Any) -> Any:
    """Convert class labels to integers. 0, 0.0 and False are the same label.

    Args:
      name: the argument, as the caller wrote it.
      values: see `array`; floating-point values must be whole numbers.

    Returns:
      An integer array.

    Raises:
      TypeError: see `array`; or the values are floating inside `jit` or `vmap`, where they cannot be checked.
      ValueError: a label is not a whole number; the text names its row.
    """
    found = array(name, values)
    if jnp.issubdtype(found.dtype, jnp.integer):
        return found
    if found.dtype == bool:
        return found.astype(jnp.result_type(int))
    if isinstance(found, jax.core.Tracer):
        raise TypeError(f"`{name}` must be integers inside jit and vmap, got {found.dtype}.")
    numbers = np.asarray(found)
    wrong = not_whole(numbers)
    if wrong.any():
        row = int(np.argmax(wrong.reshape(len(numbers), -1).any(axis=1))) if numbers.ndim else 0
        value = numbers[wrong].ravel()[0]
        raise ValueError(f"`{name}` must be integer labels 0, 1, ..., got {value:g} at row {row}.")
    return numbers.astype(jnp.result_type(int))


def not_whole(numbers: Any) -> Any:
    """A mask of the numbers that are not whole numbers, and therefore not labels.

    Args:
      numbers: an array on the host.

    Returns:
      An array of bool, of the same shape.
    """
    with np.errstate(invalid="ignore"):
        return ~np.isfinite(numbers) | (numbers != np.floor(numbers))


def probabilities(name: str, values: Any) -> Any:
    """Convert labels 0 and 1 to integers; probabilities of label 1 remain floating-point numbers.

    Args:
      name: the argument, as the caller wrote it.
      values: see `array`.

    Returns:
      An integer or a floating array.

    Raises:
      TypeError: see `array`.
      ValueError: see `array`.
    """
    found = array(name, values)
    return labels(name, found) if found.dtype == bool else found


def described(value: Any) -> str:
    """A description of a value that is not the expected tree of arrays, for a message.

    Args:
      value: the value that was given.

    Returns:
      Text such as "a dict with 'w', 'b'".
    """
    if isinstance(value, Mapping):
        return f"a dict with {', '.join(map(repr, value)) or 'no names'}"
    if isinstance(value, tuple | list) and not hasattr(value, "_fields"):
        return f"a {type(value).__name__} of {len(value)}"
    return type_name(value)
