"""The operations of a loss that may tie: which of their entries do, and what they are with a weight for each side."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxgd.gradcheck.rules import program

LARGEST = ("reduce_max", "reduce_min")
COMPARISONS = ("gt", "lt", "ge", "le")
LOOPS = ("scan", "while", "cond")

Key = tuple[int, ...]
"""An operation: the identities of the equations that call the program it is in, and its own."""


ChoiceOf = Callable[[Key, Any, Any, tuple[int, ...], bool], Any]
"""Takes an operation, its equation, the mask of its ties, the axes of a maximum, and whether it is in a loop; returns
choices of the shape of the mask, or None to leave the operation as it is."""


def handler(choice_of: ChoiceOf, slack: float) -> program.Handler:
    """Evaluate a program with its ties given to a function.

    Args:
      choice_of: see `ChoiceOf`.
      slack: relative difference up to which values tie.

    Returns:
      For `rules.program.run`.
    """
    compared: dict[int, Any] = {}

    def within(path: Key, in_loop: bool) -> program.Handler:
        def handle(eqn: Any, values: list[Any]) -> list[Any] | None:
            name = eqn.primitive.name
            if name in LOOPS or program.INLINED.get(name) in eqn.params:
                return program.REBUILT[name](eqn, values, within((*path, id(eqn)), in_loop or name in LOOPS))
            floating = [jnp.issubdtype(jnp.result_type(value), jnp.floating) for value in values]
            if name in COMPARISONS and all(floating):
                outs = program.bind(eqn, values)
                compared[id(outs[0])] = outs[0], values  # the mask is kept, so that no other value gets its id
                return outs
            relevant = name in (*SIDES, *LARGEST) and all(floating)
            selects = name == "select_n" and len(values) == 3 and id(values[0]) in compared and all(floating[1:])
            if not relevant and not selects:
                return None
            outs = program.bind(eqn, values)
            if name in LARGEST:
                found = _largest(eqn, values, outs[0], slack)
            elif selects:
                found = _selected(compared[id(values[0])][1], values, outs[0], slack)
            else:
                found = SIDES[name](eqn, values, outs[0], slack)
            if found is None:
                return outs
            mask, with_choice = found
            axes = tuple(eqn.params["axes"]) if name in LARGEST else ()
            choice = choice_of((*path, id(eqn)), eqn, mask, axes, in_loop)
            return outs if choice is None else [with_choice(choice)]

        return handle

    return within((), False)


Found = tuple[Any, Callable[[Any], Any]] | None
"""The mask of the entries that tie, and the output for given choices."""


def _close(x: Any, y: Any, slack: float) -> Any:
    sizes = [jnp.max(jnp.where(jnp.isfinite(v), jnp.abs(v), 0.0), initial=0.0) for v in (x, y)]
    return jax.lax.stop_gradient(jnp.abs(x - y) <= slack * jnp.maximum(*sizes))


def _sides(mask: Any, out: Any, one: Any, other: Any) -> Found:
    return mask, lambda choice: jnp.where(mask, choice * one + (1 - choice) * other, out)


def _of_two(eqn: Any, values: list[Any], out: Any, slack: float) -> Found:
    del eqn
    x, y = jnp.broadcast_arrays(*values)
    return _sides(_close(x, y, slack), out, x, y)


def _of_abs(eqn: Any, values: list[Any], out: Any, slack: float) -> Found:
    del eqn
    return _sides(_close(values[0], jnp.zeros_like(values[0]), slack), out, values[0], -values[0])


def _of_clamp(eqn: Any, values: list[Any], out: Any, slack: float) -> Found:
    del eqn
    low, x, high = jnp.broadcast_arrays(*values)
    return _sides(_close(x, low, slack) | _close(x, high, slack), out, x, jax.lax.stop_gradient(out))


def _of_rule(eqn: Any, values: list[Any], out: Any, slack: float) -> Found:
    """An activation with a rule of its own, such as jax.nn.relu, where its slopes on both sides differ."""
    if len(values) != 1 or jnp.shape(values[0]) != jnp.shape(out):
        return None
    x = jax.lax.stop_gradient(values[0])
    away = 2.0**-20 * jnp.maximum(jnp.abs(x), slack + jnp.where(x == 0, 1.0, 0.0))
    closed = eqn.params["call_jaxpr"]

    def slope(at: Any) -> Any:
        value, pull = jax.vjp(lambda v: program.run(closed, [v], lambda eqn, values: None)[0], at)
        return pull(jnp.ones_like(value))[0]

    above, below = slope(x + away), slope(x - away)
    mask = jnp.abs(above - below) > 1e-3 * jnp.maximum(jnp.abs(above), jnp.abs(below))
    still, move = jax.lax.stop_gradient(out), values[0] - x
    return _sides(mask, out, still + above * move, still + below * move)


SIDES: dict[str, Callable[[Any, list[Any], Any, float], Found]] = {
    "max": _of_two,
    "min": _of_two,
    "abs": _of_abs,
    "clamp": _of_clamp,
    "custom_jvp_call": _of_rule,
}
"""For a primitive: which of its entries tie, and its output for given choices."""


def _selected(compared: Sequence[Any], values: list[Any], out: Any, slack: float) -> Found:
    """`where(x > y, a, b)` with a = b where x = y: the loss is continuous there, its slope is not."""
    x, y = jnp.broadcast_arrays(*compared)
    mask = _close(x, y, slack)
    if jnp.shape(mask) not in ((), jnp.shape(out)):
        return None
    return _sides(mask & _close(values[1], values[2], slack), out, values[1], values[2])


def _largest(eqn: Any, values: list[Any], out: Any, slack: float) -> Found:
    axes = tuple(eqn.params["axes"])
    mask = _close(values[0], jnp.expand_dims(out, axes), slack)
    mask = mask & (jnp.sum(mask, axes, keepdims=True) > 1)
    still = jax.lax.stop_gradient(out)

    def with_choice(choice: Any) -> Any:
        move = jnp.where(mask, choice * (values[0] - jax.lax.stop_gradient(values[0])), 0.0)
        return jnp.where(jnp.any(mask, axes), still + jnp.sum(move, axes), out)

    return mask, with_choice
