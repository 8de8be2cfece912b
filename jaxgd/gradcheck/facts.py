"""What the programs of a loss and a gradient say about themselves: shapes, precision, rules, state."""

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgd.gradcheck.backward import program as programs
from jaxgd.gradcheck.functions import UNTRACEABLE
from jaxgd.gradcheck.inputs import Arrays, Point, is_floating
from jaxgd.gradcheck.pair import Pair
from jaxgd.gradcheck.precision import precision

EPS64 = float(np.finfo(np.float64).eps)

STATEFUL = "a second call gave another answer: the gradient draws random numbers or keeps state."


class LossFacts(NamedTuple):
    """What the program of a loss says about itself, read once for inputs of given shapes.

    Attributes:
      shape: of what it returns.
      dtype: of what it returns.
      unit: the rounding unit of the coarsest dtype that it computes in.
      rules: its own rules of differentiation, in words.
    """

    shape: tuple[int, ...]
    dtype: Any
    unit: float
    rules: tuple[str, ...]


class GradientFacts(NamedTuple):
    """What the program of a gradient says about itself, read once for inputs of given shapes.

    Attributes:
      tree: shapes of what it returns, or None if it cannot be traced.
      stateful: whether two traces differ.
      unit: the rounding unit of the coarsest dtype that it computes in.
    """

    tree: Any
    stateful: bool
    unit: float


def shapes_of(point: Point) -> tuple[Any, ...]:
    """Shapes and dtypes, as a key.

    Args:
      point: the leaves.

    Returns:
      One entry for each leaf.
    """
    return tuple((np.shape(leaf), str(jnp.result_type(leaf))) for leaf in jax.tree.leaves(point))


def _known(pair: Pair) -> Any:
    return pair.layout, shapes_of(pair.native), jax.config.read("jax_enable_x64")


@contextlib.contextmanager
def blaming_the_loss() -> Iterator[None]:
    """Raise whatever is raised inside as an error of the loss.

    Returns:
      A context.

    Raises:
      ValueError: says what the loss raised.
    """
    try:
        yield
    except Exception as error:
        raise ValueError(f"`loss` raised {type(error).__name__}: {error}") from error


def loss_facts(pair: Pair) -> LossFacts:
    """Read the loss: trace it, or run it if it cannot be traced.

    Args:
      pair: the loss and its inputs.

    Returns:
      The facts.

    Raises:
      ValueError: the loss raises, or does not return a floating scalar.
    """
    known = _known(pair)
    with blaming_the_loss():
        if known not in pair.loss.facts:
            pair.loss.facts[known] = _read_loss(pair)
    facts: LossFacts = pair.loss.facts[known]
    if facts.shape != () or not jnp.issubdtype(facts.dtype, jnp.floating):
        raise ValueError(f"`loss` must return a floating scalar [], got {facts.dtype}{list(facts.shape)}.")
    return facts


def _read_loss(pair: Pair) -> LossFacts:
    with precision(np.float64):
        try:
            program = jax.make_jaxpr(lambda point: pair.loss.scalar(pair.layout, point))(pair.base)
        except UNTRACEABLE:
            pair.loss.traceable = False
            value = np.asarray(pair.loss.scalar(pair.layout, pair.base))
            return LossFacts(value.shape, value.dtype, EPS64, ())
    (out,) = program.out_avals
    return LossFacts(out.shape, out.dtype, programs.coarsest(program), tuple(programs.hidden_rules(program)))


def gradient_facts(pair: Pair) -> GradientFacts:
    """Read the gradient: trace it, or run it if it cannot be traced.

    Args:
      pair: the gradient and its inputs.

    Returns:
      The facts.

    Raises:
      Exception: whatever the gradient raises.
    """
    known = _known(pair)
    if known not in pair.grad.facts:
        pair.grad.facts[known] = _read_gradient(pair)
    facts: GradientFacts = pair.grad.facts[known]
    return facts if facts.tree is not None else facts._replace(tree=pair.grad.tree(pair.layout, pair.native))


def _read_gradient(pair: Pair) -> GradientFacts:
    def tree_at(point: Any) -> Any:
        return pair.grad.tree(pair.layout, point)

    try:
        first, tree = jax.make_jaxpr(tree_at, return_shape=True)(pair.native)
    except UNTRACEABLE:
        pair.grad.traceable = False
        with precision(np.float64):
            leaves = jax.tree.leaves(tree_at(pair.base))
        units = (float(jnp.finfo(leaf.dtype).eps) for leaf in leaves if is_floating(leaf))
        return GradientFacts(None, False, max(units, default=EPS64))
    second = jax.make_jaxpr(lambda point: tree_at(point))(pair.native)
    with precision(np.float64):
        unit = programs.coarsest(jax.make_jaxpr(tree_at)(pair.base))
    return GradientFacts(tree, not programs.same_program(first, second), unit)


def repeats(pair: Pair, facts: GradientFacts, first: Arrays) -> bool:
    """Whether the gradient at the point is the same when it is called again.

    Args:
      pair: the gradient and its inputs.
      facts: what its program says.
      first: its leaves in float64, from an earlier call.

    Returns:
      The answer.
    """
    if facts.stateful:
        return False
    again = pair.hand(pair.base, np.float64)
    return all(np.array_equal(np.asarray(a), np.asarray(b), equal_nan=True) for a, b in zip(first, again, strict=True))
