"""Convert batches and parameters in every accepted form to the types that the problems compute with."""

import functools
import typing
from collections.abc import Callable, Mapping
from typing import Any

import jax

from jaxgd.data.arrays import described, floating, labels, on_device, probabilities
from jaxgd.types import Batch, Params
from jaxgd.validation import check_shape

TARGETS: dict[str, Callable[[str, Any], Any]] = {
    "real": floating,
    "labels": labels,
    "probabilities": probabilities,
}
"""For each kind of targets, the function that converts values to this kind."""


def as_batch(targets: str, batch: Any) -> Batch:
    """Convert rows of data to a `Batch` of arrays.

    Args:
      targets: the kind of the targets, a key of `TARGETS`.
      batch: a `Batch`, a pair (inputs, targets) or a dict with these names.

    Returns:
      A batch with floating inputs, and floating or integer targets. Data on the host become NumPy arrays of the same
      dtype.

    Raises:
      TypeError: the batch has another type, or values are not real numbers.
      ValueError: see `array`; or class labels have the shape [N, 1] instead of [N].
    """
    given_inputs, given_targets = _parts(batch)
    inputs = floating("inputs", given_inputs)
    if targets == "real":
        return Batch(inputs, floating("targets", given_targets, inputs.dtype))
    found = TARGETS[targets]("targets", given_targets)
    if inputs.ndim > 1:
        if found.ndim == inputs.ndim and found.shape[-1] > 1:
            raise ValueError(
                f"`targets` must have shape {inputs.shape[:-1]} (one label for each row of the inputs), "
                f"got {found.shape}; of one-hot rows `targets.argmax(axis=1)` has it."
            )
        if hasattr(given_targets, "columns") and found.shape == (*inputs.shape[:-1], 1):
            raise ValueError(
                f"`targets` must have shape {inputs.shape[:-1]} (one label for each row of the inputs), "
                f"got {found.shape}; give the column itself, `frame[{given_targets.columns[0]!r}]`."
            )
        check_shape("targets", found, inputs.shape[:-1], "one label for each row of the inputs")
    return Batch(inputs, found)


def _parts(batch: Any) -> tuple[Any, Any]:
    if isinstance(batch, Mapping) and set(batch) == {"inputs", "targets"}:
        return batch["inputs"], batch["targets"]
    if hasattr(batch, "inputs") and hasattr(batch, "targets"):
        return batch.inputs, batch.targets
    if isinstance(batch, tuple | list) and len(batch) == 2:
        return batch[0], batch[1]
    raise TypeError(
        f"`batch` must be a jaxgd.Batch(inputs, targets) or a pair (inputs, targets), got {described(batch)}."
    )


def as_params(params_type: Any, params: Any) -> Params:
    """Convert parameters to the parameter type of a problem.

    Args:
      params_type: a NamedTuple of arrays, or a NamedTuple that contains a tuple of such NamedTuples.
      params: an instance of that type, a dict with the same names, or a tuple or list in the same order.

    Returns:
      A `params_type` of `jax.Array`. Numbers on the host become floating; JAX arrays are not changed.

    Raises:
      TypeError: the parameters have another form; the text names the expected type.
      ValueError: see `array`.
    """
    return _typed(params_type, params, "params")


@functools.cache
def _fields(params_type: Any) -> dict[str, Any]:
    """The field names of a parameter type, each with the type of its items, or None for an array."""
    hints = typing.get_type_hints(params_type)
    return {
        name: typing.get_args(hints[name])[0] if typing.get_origin(hints[name]) is tuple else None
        for name in params_type._fields
    }


def _typed(params_type: Any, params: Any, name: str) -> Any:
    fields = _fields(params_type)
    values = _values(params_type, fields, params, name)
    typed: dict[str, Any] = {}
    for (field, item_type), value in zip(fields.items(), values, strict=True):
        if item_type is None:
            typed[field] = on_device(value if isinstance(value, jax.Array) else floating(f"{name}.{field}", value))
        else:
            typed[field] = tuple(_typed(item_type, item, f"{name}.{field}[{i}]") for i, item in enumerate(value))
    return params_type(**typed)


def _values(params_type: Any, fields: dict[str, Any], params: Any, name: str) -> Any:
    """The values of parameters in the order of the fields of their type."""
    if isinstance(params, params_type):
        return params
    if isinstance(params, Mapping) and set(params) == set(fields):
        return [params[field] for field in fields]
    if isinstance(params, tuple | list) and not hasattr(params, "_fields"):
        if _is_bare(fields, params):
            return [params]
        if len(params) == len(fields):
            return params
    listed = ", ".join(fields)
    raise TypeError(
        f"`{name}` must be a jaxgd.{params_type.__name__}({listed}), a dict with these names or a tuple in this order, "
        f"got {described(params)}."
    )


def _is_bare(fields: dict[str, Any], params: Any) -> bool:
    """Whether a sequence is the list of layers of a network, and not a tuple whose only entry is that list."""
    if None in fields.values() or not params:
        return False
    only = params[0] if len(params) == 1 else None
    return not isinstance(only, tuple | list) or not all(isinstance(item, tuple | list | dict) for item in only)


def like(given: Any, typed: Any) -> Any:
    """Convert a tree of a problem's parameter type back to the form of given parameters.

    Args:
      given: parameters in a form that `as_params` accepts.
      typed: a tree of the type that `as_params` returns for them.

    Returns:
      The values of `typed` in the form of `given`.
    """
    if not isinstance(typed, tuple):
        return typed
    if isinstance(given, Mapping):
        return {name: like(value, getattr(typed, name)) for name, value in given.items()}
    if hasattr(given, "_fields"):
        return type(given)(*map(like, given, typed))
    if hasattr(typed, "_fields") and _is_bare(_fields(type(typed)), given):
        typed = typed[0]
    return type(given)(map(like, given, typed))
