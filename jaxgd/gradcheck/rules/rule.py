"""A function and the derivative that it brings: what every form of a rule is read into."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Rule(NamedTuple):
    """A function and the derivative that it brings.

    Attributes:
      name: of the function.
      place: `model.py:12`, or "".
      arguments: names of the arguments.
      held: positions of arguments that the rule declares not differentiable.
      body: `(*args) -> outputs`, the function without its rule.
      pull: `(args, incoming) -> cotangents`, one for each argument that is not held, or for each that is floating.
      forward: `(*args) -> outputs` as the forward pass of the rule computes them, if it computes them again.
      whole: the function with its rule, if JAX can differentiate it.
      forward_mode: whether the rule is written in forward mode.
      derivative: `(args, incoming) -> cotangents` of the body by another library than JAX, one for each argument.
      strict: whether `pull` must return a tuple with an entry for each argument that is not held.
    """

    name: str
    place: str
    arguments: tuple[str, ...]
    held: frozenset[int]
    body: Callable[..., Any]
    pull: Callable[[tuple[Any, ...], Any], Any]
    forward: Callable[..., Any] | None = None
    whole: Callable[..., Any] | None = None
    forward_mode: bool = False
    derivative: Callable[[tuple[Any, ...], Any], Any] | None = None
    strict: bool = True


def name_of(f: Any) -> str:
    """The name of a function."""
    return str(getattr(f, "__name__", type(f).__name__))


def place_of(f: Any) -> str:
    """`model.py:12`, where a function is defined; "" if that is not known."""
    code = getattr(inspect.unwrap(f), "__code__", None) if callable(f) else None
    return f"{code.co_filename.rpartition('/')[2]}:{code.co_firstlineno}" if code else ""


def argument_names(f: Any, args: Sequence[Any]) -> tuple[str, ...]:
    """What the arguments of a call are called in the signature of the function.

    Args:
      f: the function.
      args: positional arguments.

    Returns:
      One name for each argument; `xs[0]`, `xs[1]` for those of `*xs`.
    """
    names: list[str] = []
    try:
        parameters = list(inspect.signature(f).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    for i in range(len(args)):
        if i < len(parameters) and parameters[i].kind in (
            inspect.Parameter.POSITIONAL_ONLY,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
        ):
            names.append(parameters[i].name)
            continue
        rest = next((k for k, p in enumerate(parameters) if p.kind is inspect.Parameter.VAR_POSITIONAL), None)
        names.append(f"{parameters[rest].name}[{i - rest}]" if rest is not None and i >= rest else f"argument {i}")
    return tuple(names)


def split(args: Sequence[Any], held: frozenset[int]) -> tuple[list[Any], Callable[[Sequence[Any]], list[Any]]]:
    """Separate the arguments that are not held.

    Args:
      args: of a function.
      held: positions.

    Returns:
      The others, and a function that puts new ones in their places.
    """
    moving = [arg for i, arg in enumerate(args) if i not in held]

    def join(values: Sequence[Any]) -> list[Any]:
        rest = iter(values)
        return [arg if i in held else next(rest) for i, arg in enumerate(args)]

    return moving, join


def flatten(tree: Any) -> tuple[list[Any], Any]:
    """`jax.tree.flatten`."""
    leaves, structure = jax.tree.flatten(tree)
    return leaves, structure


def pull_by_jax(f: Callable[..., Any], held: frozenset[int]) -> Callable[[tuple[Any, ...], Any], Any]:
    """The backward pass that JAX makes of a function with a rule.

    Args:
      f: the function.
      held: positions of arguments that are not differentiated by.

    Returns:
      `pull` of a `Rule`.
    """

    def pull(args: tuple[Any, ...], incoming: Any) -> Any:
        moving, join = split(args, held)
        return jax.vjp(lambda *values: f(*join(values)), *moving)[1](incoming)

    return pull


def dtype_of(leaf: Any) -> Any:
    """The dtype of an array or a Python number."""
    return jnp.result_type(leaf)


def is_inexact(leaf: Any) -> bool:
    """Whether a leaf is a real or complex floating number or array."""
    return isinstance(leaf, float | complex) or (hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.inexact))
