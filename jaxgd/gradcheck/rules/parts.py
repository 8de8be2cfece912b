"""Which entry of the incoming gradient reaches which entry of an argument, beside what ought to.

What a rule returns is `M g`, and `J^T g` is right. For few entries both matrices are known from one call for each entry
of `g`. Where they differ says which part of the incoming gradient is lost, which one does not belong, or that a factor
stands on the wrong one of two parts.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxgd.gradcheck.finding import Kind
from jaxgd.gradcheck.rules.evaluate import Evaluator, Leaves
from jaxgd.gradcheck.where import where

MAX_ENTRIES = 64
"""Entries of the incoming gradient up to which both matrices are computed."""

EQUAL = 1e-8
"""Difference of two entries, over the largest, that is rounding."""

Cause = tuple[Kind, str]


def explain(evaluator: Evaluator, points: Sequence[tuple[Leaves, Leaves]], name: str) -> Cause | None:
    """What happens to parts of the incoming gradient, the same at two points.

    Args:
      evaluator: the rule and the function.
      points: arguments and incoming gradients.
      name: the leaf.

    Returns:
      A kind and the words after the name of the leaf.
    """
    (incoming,) = points[0][1].values() if len(points[0][1]) == 1 else (None,)
    if evaluator.right is None or incoming is None or not 1 < incoming.size <= MAX_ENTRIES:
        return None
    if name not in evaluator.returned(*points[0]) or incoming.dtype.kind != "f":
        return None
    said = {_at(evaluator, params, next(iter(points[0][1].items())), name) for params, _ in points[:2]}
    return said.pop() if len(said) == 1 else None


def _at(evaluator: Evaluator, params: Leaves, incoming: tuple[str, Any], name: str) -> Cause | None:
    label, example = incoming
    units = np.eye(example.size).reshape(-1, *example.shape)

    def matrix(function: Callable[..., Leaves]) -> Any:
        """`[entries of the leaf, entries of g]`."""
        return np.stack([np.ravel(function(params, {label: unit})[name]) for unit in units], axis=1)

    assert evaluator.right is not None
    made, right = matrix(evaluator.returned), matrix(evaluator.right)
    return compare(made, right, np.shape(params[name]), example.shape)


def compare(made: Any, right: Any, of_leaf: tuple[int, ...], of_incoming: tuple[int, ...]) -> Cause | None:
    """What was done to parts of the incoming gradient.

    Args:
      made: `[L, G]`, what each entry of the incoming gradient adds to each entry of the leaf.
      right: `[L, G]`, what it ought to add.
      of_leaf: the shape of the leaf, of `L` entries.
      of_incoming: the shape of the incoming gradient, of `G` entries.

    Returns:
      A kind and the words after the name of the leaf, or None.
    """
    if not (np.isfinite(made).all() and np.isfinite(right).all()):
        return None
    small = EQUAL * max(np.max(np.abs(made), initial=0.0), np.max(np.abs(right), initial=0.0))
    wrong = np.abs(made - right) > small
    there, reaches = np.abs(made) > small, np.abs(right) > small

    def spots(mask: Any) -> tuple[str, str]:
        return where(mask.any(1).reshape(of_leaf)), where(mask.any(0).reshape(of_incoming))

    rows = wrong.any(1)
    entries = where(rows.reshape(of_leaf)) if rows.any() else ""
    if rows.any() and not there[rows].any():
        return (
            Kind.MASK,
            f"is zero in {entries}, where the derivative is not zero: a mask is wrong, or these are left out.",
        )
    if rows.any() and not reaches[rows].any():
        return Kind.MASK, f"is not zero in {entries}, where the derivative is zero: a mask is wrong or left out."
    if not (wrong & there).any():
        entries, parts = spots(wrong)
        return Kind.PATH, f"lacks, in {entries}, the part that comes from {parts} of the incoming gradient."
    if not (wrong & reaches).any():
        entries, parts = spots(wrong)
        return (
            Kind.PATH,
            f"has, in {entries}, a part that comes from {parts} of the incoming gradient and does not belong.",
        )
    return _exchanged(made, right, wrong, there & reaches, spots)


def _exchanged(made: Any, right: Any, wrong: Any, both: Any, spots: Callable[[Any], tuple[str, str]]) -> Cause | None:
    """`p A + B` for `A + p B`: a factor for each entry of the leaf stands on the other of two parts."""
    rows = wrong.any(1)
    if (wrong & ~both).any():
        return None
    with np.errstate(all="ignore"):
        ratio = np.where(both, made / right, np.nan)
    first: Any = np.zeros_like(wrong)
    for row in np.flatnonzero(rows):
        seen = np.flatnonzero(both[row])
        factors = ratio[row, seen]
        p = factors[0]
        onto = np.isclose(factors, p, rtol=1e-6)
        if not np.isclose(factors[~onto], 1 / p, rtol=1e-6).all() or onto.all() or np.isclose(p * p, 1):
            return None
        first[row, seen[onto]] = True
    second = both & rows[:, None] & ~first
    if (first.any(0) & second.any(0)).any():
        return None
    (entries, one), (_, other) = spots(first), spots(second)
    return Kind.FACTOR, (
        f"is wrong in {entries}: a factor that belongs to the part from {other} of the incoming gradient is multiplied "
        f"onto the part from {one}, and the part from {other} lacks it."
    )
