"""Pairs of a forward and a backward function, and the ways in which the two hand values to each other."""

import copy
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from jaxgd.gradcheck.rules.rule import Rule, argument_names, name_of, place_of

SECOND_IS_SAVED = frozenset({"cache", "caches", "ctx", "memory", "res", "residual", "residuals", "saved", "tape"})
"""Names of a second parameter that show that `backward(incoming, saved)` is meant, not `backward(saved, incoming)`."""


def is_pair(f: Any) -> bool:
    """Whether a thing is two functions."""
    return isinstance(f, tuple | list) and len(f) == 2 and all(callable(part) for part in f)


def of_pair(f: Any, args: Sequence[Any]) -> Rule | None:
    """The rule of two functions; None for anything else."""
    if not is_pair(f):
        return None
    forward, backward = f
    convention = _convention(forward, backward, len(args))
    names = argument_names(forward, args)

    def both(args: tuple[Any, ...]) -> tuple[Any, Callable[[Any], Any]]:
        return convention(forward, backward, args)

    return Rule(
        name_of(forward),
        place_of(forward),
        names,
        frozenset(),
        lambda *args: both(args)[0],
        lambda args, incoming: both(args)[1](incoming),
        strict=False,
    )


Convention = Callable[[Any, Any, tuple[Any, ...]], tuple[Any, Callable[[Any], Any]]]
"""Runs `forward`; returns the outputs and the backward pass."""


def _convention(forward: Any, backward: Any, count: int) -> Convention:
    """How the two functions of a pair hand values to each other, by what `backward` takes."""
    try:
        parameters = [
            p
            for p in inspect.signature(backward).parameters.values()
            if p.kind in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        ]
    except (TypeError, ValueError):
        parameters = []
    required = [p.name for p in parameters if p.default is inspect.Parameter.empty]
    if len(required) == 1:
        return _of_a_layer if hasattr(forward, "__self__") else _with_hidden_state
    if len(required) == 2 and (required[1] in SECOND_IS_SAVED) > (required[0] in SECOND_IS_SAVED):
        return _incoming_first
    if len(required) == 2 and count != 1:
        return _saved_first
    if len(required) == count + 1:
        return _saved_or_arguments if count == 1 else _arguments_first
    raise TypeError(
        "`backward` of the pair must take (saved, incoming), (incoming, cache), (*args, incoming) or (incoming), got "
        f"({', '.join(required)})."
    )


def _outputs_and_saved(forward: Any, args: tuple[Any, ...]) -> tuple[Any, Any]:
    result = forward(*args)
    if not isinstance(result, tuple | list) or len(result) != 2:
        raise TypeError(
            "`forward` of the pair must return (outputs, saved values), since `backward` takes saved values, got "
            f"{type(result).__name__}."
        )
    return result[0], result[1]


def _saved_first(forward: Any, backward: Any, args: tuple[Any, ...]) -> tuple[Any, Callable[[Any], Any]]:
    outputs, saved = _outputs_and_saved(forward, args)
    return outputs, lambda incoming: backward(saved, incoming)


def _incoming_first(forward: Any, backward: Any, args: tuple[Any, ...]) -> tuple[Any, Callable[[Any], Any]]:
    outputs, saved = _outputs_and_saved(forward, args)
    return outputs, lambda incoming: backward(incoming, saved)


def _arguments_first(forward: Any, backward: Any, args: tuple[Any, ...]) -> tuple[Any, Callable[[Any], Any]]:
    return forward(*args), lambda incoming: backward(*args, incoming)


def _saved_or_arguments(forward: Any, backward: Any, args: tuple[Any, ...]) -> tuple[Any, Callable[[Any], Any]]:
    """One argument: what `forward` returns tells `backward(x, incoming)` from `backward(saved, incoming)`."""
    result = forward(*args)
    if isinstance(result, tuple | list) and len(result) == 2:
        return result[0], lambda incoming: backward(result[1], incoming)
    return result, lambda incoming: backward(*args, incoming)


def _of_a_layer(forward: Any, backward: Any, args: tuple[Any, ...]) -> tuple[Any, Callable[[Any], Any]]:
    """Methods of an object that keeps values: those of a copy, so that the caller's object stays as it is."""
    layer = copy.deepcopy(forward.__self__)
    outputs = getattr(layer, forward.__name__)(*args)
    return outputs, getattr(layer, backward.__name__)


def _with_hidden_state(forward: Any, backward: Any, args: tuple[Any, ...]) -> tuple[Any, Callable[[Any], Any]]:
    """Functions that keep values elsewhere: with NumPy arrays only, since a tracer must not stay there."""
    outputs = forward(*jax.tree.map(np.asarray, args))
    return outputs, lambda incoming: backward(jax.tree.map(np.asarray, incoming))
