"""What the programs of a loss and a gradient say about themselves: shapes, precision, rules, state."""

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgd.gradcheck.backward import program as programs
from jaxgd.gradcheck.functions import BadLoss
from jaxgd.gradcheck.inputs import Arrays, Point, is_floating
from jaxgd.gradcheck.pair import Pair

EPS64 = float(np.finfo(np.float64).eps)

STATEFUL = "a second call gave another answer: the gradient draws random numbers or keeps state."


class LossFacts(NamedTuple):
    """What the program of a loss says about itself.

    Attributes:
      unit: the rounding unit of the coarsest dtype that it computes in.
      rules: its own rules of differentiation, in words.
    """

    unit: float
    rules: tuple[str, ...]


class GradientFacts(NamedTuple):
    """What the program of a gradient says about itself.

    Attributes:
      tree: what it returns, or its shapes.
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
    except BadLoss:
        raise
    except Exception as error:
        raise BadLoss(f"`loss` raised {type(error).__name__}: {error}") from error


def loss_facts(pair: Pair) -> LossFacts:
    """Read the program of a loss.

    Args:
      pair: the loss and its inputs.

    Returns:
      The facts.
    """
    loss = pair.loss
    wide = loss.way.wide and (loss.wide or not loss.derivative)
    unit = EPS64 if wide else _given_unit(pair)
    if loss.program is None:
        return LossFacts(unit, ())
    if "program" not in loss.facts:
        loss.facts["program"] = programs.coarsest(loss.program), tuple(programs.hidden_rules(loss.program))
    coarsest, rules = loss.facts["program"]
    return LossFacts(max(unit, coarsest), rules)


def gradient_facts(pair: Pair) -> GradientFacts:
    """Read the program of a gradient.

    Args:
      pair: the gradient and its inputs.

    Returns:
      The facts.
    """
    grad = pair.grad
    unit = EPS64 if grad.way.wide else _given_unit(pair)
    if "unit" not in grad.facts:
        if grad.program is not None:
            grad.facts["unit"] = programs.coarsest(grad.program)
        else:
            leaves = grad.leaves(pair.layout, pair.base, np.float64)
            units = (float(jnp.finfo(leaf.dtype).eps) for leaf in leaves if is_floating(leaf))
            grad.facts["unit"] = max(units, default=EPS64)
    return GradientFacts(grad.answer, grad.stateful, max(unit, grad.facts["unit"]))


def _given_unit(pair: Pair) -> float:
    """The rounding unit of the coarsest dtype among the parameters as they were given."""
    return max(float(jnp.finfo(np.asarray(leaf).dtype).eps) for leaf in pair.native.params)


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
