"""Mistakes that only a rule can make: a wrong value is saved, an operation is not done again, J stands for J^T.

They are tried on leaves for which the search over the backward pass of the function finds no reason. Like every other
cause, each must reproduce what the rule returns at three random points.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from jaxgd.gradcheck.finding import Finding, Kind
from jaxgd.gradcheck.mistakes.study import EXACT
from jaxgd.gradcheck.rules import forgotten, parts
from jaxgd.gradcheck.rules.evaluate import Evaluator, Leaves
from jaxgd.gradcheck.rules.problem import INCOMING

SAYS_NOT_WHY = frozenset({Kind.UNKNOWN, Kind.ORDER, Kind.ENTRIES, Kind.CONSTANT})
"""Findings that say what differs and not what was done."""

MAX_PAIRS = 40
"""Pairs of values of one shape that are tried, one in place of the other."""

Points = Sequence[tuple[Leaves, Leaves]]
Cause = tuple[Kind, str]


def explain(
    evaluator: Evaluator, draw: Callable[[np.random.Generator], Leaves], names: Sequence[str], rng: np.random.Generator
) -> dict[str, Finding]:
    """Find what was done to some leaves.

    Args:
      evaluator: the rule and the function.
      draw: an incoming gradient.
      names: the leaves.
      rng: draws points.

    Returns:
      A finding for each leaf that is explained.
    """
    points = [(evaluator.params, draw(rng)) for _ in range(3)]
    points[1:] = [(_moved(params, rng), incoming) for params, incoming in points[1:]]
    hand = [evaluator.returned(*point) for point in points]
    found = {}
    for cause, predicted in itertools.chain(*(attempt(evaluator, points) for attempt in ATTEMPTS)):
        for name in names:
            if name not in found and all(
                _fits(answer, values, name) for answer, values in zip(hand, predicted, strict=True)
            ):
                found[name] = Finding(name, cause[0], f"{name} {cause[1]}")
    for name in names:
        if name not in found and _stands_still(evaluator, points, name):
            words = "is the same at other arguments, where the derivative is another: it uses values of another call."
            found[name] = Finding(name, Kind.STALE, f"{name} {words}")
    for name in names:
        if name not in found and (by_parts := parts.explain(evaluator, points, name)) is not None:
            found[name] = Finding(name, by_parts[0], f"{name} {by_parts[1]}")
    return found


def _moved(params: Leaves, rng: np.random.Generator) -> Leaves:
    """Arguments at a distance, in the same order of size."""
    return {
        name: (leaf * (1 + 0.3 * rng.normal(size=np.shape(leaf))) + 0.1 * rng.normal(size=np.shape(leaf))).astype(
            leaf.dtype
        )
        for name, leaf in params.items()
    }


def _fits(answer: Leaves, predicted: Leaves, name: str) -> bool:
    if name not in answer or name not in predicted or np.shape(answer[name]) != np.shape(predicted[name]):
        return False
    size = float(np.max(np.abs(answer[name]), initial=0.0))
    misfit = float(np.max(np.abs(answer[name] - predicted[name]), initial=0.0))
    return size > 0 and misfit <= EXACT * size


def _not_transposed(evaluator: Evaluator, points: Points) -> Iterator[tuple[Cause, list[Leaves]]]:
    """`J g` for `J^T g`."""
    if evaluator.pushed is None:
        return
    pushed = [evaluator.pushed(*point) for point in points]
    for key in pushed[0]:
        name, _, output = key.partition(" -> ")
        of_output = f" of {output.removeprefix(INCOMING)}" if output != INCOMING else ""
        words = (
            f"is the Jacobian{of_output} by {name} times the incoming gradient, where its transpose is meant (of a "
            "rotation or a permutation: the inverse)."
        )
        yield (Kind.TRANSPOSED, words), [{name: leaves[key]} for leaves in pushed]


def _other_value(evaluator: Evaluator, points: Points) -> Iterator[tuple[Cause, list[Leaves]]]:
    """The derivative with another argument, or an output, in place of an argument."""
    if evaluator.right is None:
        return
    outputs = [evaluator.outputs(*point) for point in points]
    values = [params | out for (params, _), out in zip(points, outputs, strict=True)]
    pairs = [
        (name, other)
        for name, leaf in evaluator.params.items()
        for other, value in values[0].items()
        if other != name and np.shape(value) == np.shape(leaf) and value.dtype == leaf.dtype
    ]
    for name, other in pairs[:MAX_PAIRS]:
        predicted = [
            evaluator.right({**params, name: at[other]}, incoming)
            for (params, incoming), at in zip(points, values, strict=True)
        ]
        label = f"the output{other.removeprefix(INCOMING)}" if other.startswith(INCOMING) else other
        words = f"is the derivative with {label} in place of {name}: the wrong value is saved for the backward pass."
        yield (Kind.OPERAND, words), predicted


def _stands_still(evaluator: Evaluator, points: Points, name: str) -> bool:
    """Whether a leaf does not change with the arguments, for one incoming gradient."""
    if evaluator.right is None:
        return False
    answers = [
        [function(params, points[0][1]) for params, _ in points] for function in (evaluator.returned, evaluator.right)
    ]
    if any(name not in answer for of_one in answers for answer in of_one):
        return False
    same = [all(np.array_equal(of_one[0][name], answer[name]) for answer in of_one[1:]) for of_one in answers]
    return same[0] and not same[1]


def _forgotten(evaluator: Evaluator, points: Points) -> Iterator[tuple[Cause, list[Leaves]]]:
    """The derivative of the function without one of its operations, which the backward pass does not do again."""
    return forgotten.derivatives(evaluator, points)


ATTEMPTS = (_not_transposed, _other_value, _forgotten)
"""In the order in which they are tried: what has less freedom first."""
