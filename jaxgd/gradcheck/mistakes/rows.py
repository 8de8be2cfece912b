"""Rows of the data that are left out or counted twice."""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from jaxgd.gradcheck.backward.sweep import gradient
from jaxgd.gradcheck.finding import Kind
from jaxgd.gradcheck.inputs import Arrays, Point
from jaxgd.gradcheck.mistakes.study import Explanation, Place, Study, size

MAX_ROWS = 128


def rows(study: Study, leaves: list[int]) -> dict[int, Explanation]:
    """Rows that are left out or counted twice, where the gradient is a sum or a mean over rows."""
    parts, share = _split(study)
    if not parts:
        return {}
    num_rows = len(parts[0][0])
    found: dict[int, Explanation] = {}
    for words, weights in weightings(num_rows):
        for leaf in leaves:
            if (
                leaf not in found
                and _fits(study, parts, leaf, weights, share)
                and _holds_permuted(study, weights, leaf)
            ):
                found[leaf] = Explanation(Kind.ROWS, f"is the gradient with {words}.")
    return found


def weightings(num_rows: int) -> Iterator[tuple[str, Any]]:
    """Weights of rows that mistakes make.

    Args:
      num_rows: of the data.

    Yields:
      Words and `[num_rows]` weights.
    """
    numbers = np.arange(num_rows)
    for row in range(num_rows):
        last = ", the last one," if row == num_rows - 1 else ""
        yield f"row {row} of the data{last} left out", (numbers != row).astype(float)
        yield f"row {row} of the data{last} counted twice", 1.0 + (numbers == row)
    for count in range(1, num_rows):
        yield f"only the first {count} rows of the data", (numbers < count).astype(float)
        yield f"only the last {count} rows of the data", (numbers >= num_rows - count).astype(float)
        yield f"only every row of the data whose number divides by {count + 1}", (numbers % (count + 1) == 0) * 1.0


def _fits(study: Study, parts: list[Arrays], leaf: int, weights: Any, share: float) -> bool:
    by_place = {
        id(place): np.tensordot(weights, part[leaf], 1) for place, part in zip(study.places, parts, strict=True)
    }
    c = study.constant(leaf, lambda place: by_place[id(place)])
    return c is not None and any(np.isclose(c, s, rtol=1e-9) for s in (share, 1 / max(weights.sum(), 1)))


def _holds_permuted(study: Study, weights: Any, leaf: int) -> bool:
    """Whether the rows stay the same if integer arguments, which did not move, are put into another order."""
    case, point = study.case, study.case.point
    integers = [i for i, x in enumerate(point.arrays) if np.ndim(x) == 1 and len(x) == len(weights) and _whole(x)]
    if not integers:
        return True
    order = np.random.default_rng(0).permutation(len(weights))
    arrays = [np.asarray(x)[order] if i in integers else x for i, x in enumerate(point.arrays)]
    moved = point._replace(arrays=arrays)
    hand, right = case.both(moved)
    there = study._replace(places=[Place(moved, hand, right)])
    parts, share = _split(there)
    return bool(parts) and _fits(there, parts, leaf, weights, share)


def _whole(x: Any) -> bool:
    return np.asarray(x).dtype.kind in "iu"


def _split(study: Study) -> tuple[list[Arrays], float]:
    """The gradient of every row at every place, and the factor with which their sum is the gradient."""
    case = study.case
    lengths = [np.shape(leaf)[0] for leaf in (*case.point.floats, *case.point.arrays) if np.ndim(leaf)]
    num_rows = max(set(lengths), key=lengths.count) if lengths else 0
    total = sum(np.size(leaf) for leaf in case.hand)
    if case.trace is None or num_rows < 2 or num_rows > MAX_ROWS or num_rows * total > 1e7:
        return [], 0.0
    try:
        parts = [_of_each_row(study, place.point, num_rows) for place in study.places]
    except Exception:  # a loss that means something else, or nothing, for a single row
        return [], 0.0
    for share in (1.0, 1.0 / num_rows):
        if all(
            np.allclose(share * part.sum(0), right, rtol=1e-8, atol=1e-9 * size(right))
            for of_place, place in zip(parts, study.places, strict=True)
            for part, right in zip(of_place, place.right, strict=True)
        ):
            return parts, share
    return [], 0.0


def _of_each_row(study: Study, point: Point, num_rows: int) -> Arrays:
    def row_of(leaf: Any, row: int) -> Any:
        return leaf[row : row + 1] if np.ndim(leaf) and np.shape(leaf)[0] == num_rows else leaf

    assert study.case.trace is not None
    program, gradients = None, []
    for row in range(num_rows):
        one = Point(point.params, [row_of(x, row) for x in point.floats], [row_of(x, row) for x in point.arrays])
        program = program or study.case.trace(one)
        leaves = jax.tree.leaves(one)
        active = [i < len(point.params) for i in range(len(leaves))]
        gradients.append(gradient(program, leaves, active, through=study.case.through))
    return [np.stack(column) for column in zip(*gradients, strict=True)]
