"""A whole leaf: zero, kept from another call, times a constant, of another leaf, in another order."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from jaxgd.gradcheck.finding import Kind
from jaxgd.gradcheck.mistakes.factors import cause, is_known, the_only, times
from jaxgd.gradcheck.mistakes.study import Explanation, Place, Study, size
from jaxgd.gradcheck.where import where


def zero(study: Study, leaf: int) -> Explanation | None:
    """Nothing but zeros."""
    if all(not place.hand[leaf].any() for place in study.places):
        return Explanation(Kind.ZERO, "is zero everywhere: it is not computed, or cut off from the loss.")
    return None


def stale(study: Study, leaf: int) -> Explanation | None:
    """Right at the point of the check, and the same numbers at the others."""
    first = study.places[0]
    kept = np.allclose(first.hand[leaf], first.right[leaf], rtol=1e-3, atol=0)
    found = fixed(study, leaf) if kept else None
    return found and found._replace(words=found.words.partition(", or")[0].rstrip(".") + ".")


def fixed(study: Study, leaf: int) -> Explanation | None:
    """The same numbers for all parameters, though the gradient changes."""
    first, *others = study.places
    if not np.array_equal(first.hand[leaf], others[0].hand[leaf]):
        return None
    if any(
        not np.array_equal(first.hand[leaf], other.hand[leaf]) or np.array_equal(first.right[leaf], other.right[leaf])
        for other in study.same_arguments()[1:]
    ):
        return None
    kept = all(np.array_equal(first.hand[leaf], other.hand[leaf]) for other in others)
    why = "values of another call, or a constant" if kept else "it is computed of the arguments only"
    return Explanation(Kind.STALE, f"does not change with the parameters, as the gradient does: {why}.")


def factor(study: Study, leaf: int) -> Explanation | None:
    """A constant times the gradient."""
    c = study.constant(leaf, lambda place: place.right[leaf])
    if c is None:
        return None
    count = np.size(study.case.hand[leaf])
    entries = f" in all {count} entries" if count > 1 else ""
    tolerance = 10 * study.case.exact
    if abs(c + 1) < tolerance:
        only = the_only(study, leaf, ("sub", "neg"), "difference")
        return Explanation(Kind.SIGN, f"is -1 times the gradient{entries}: the sign is wrong.{only}")
    sign = "the sign is wrong, and " if c < 0 else ""
    return Explanation(
        Kind.FACTOR,
        f"is {c:.4g} times the gradient{entries}: {sign}{cause(study, c, max(tolerance, 1e-9))}"
        f".{the_only(study, leaf, ('square', 'integer_pow'), 'square') if abs(c) in (0.5, 2.0) else ''}",
    )


def other_leaf(study: Study, leaf: int) -> Explanation | None:
    """The gradient of another leaf, or its sum over an axis."""
    return _of_another(study, leaf, lambda c: abs(c - 1) < 1e-9)


def multiple_of_other(study: Study, leaf: int) -> Explanation | None:
    """A multiple of the gradient of another leaf."""
    return _of_another(study, leaf, lambda c: is_known(study, c))


def _of_another(study: Study, leaf: int, allowed: Callable[[float], bool]) -> Explanation | None:
    target = study.case.hand[leaf]
    for other, reference in enumerate(study.case.reference):
        if other == leaf or target.size < 2:
            continue
        name = study.name(other)
        if reference.size == target.size:
            c = study.constant(leaf, lambda place, k=other: place.right[k].reshape(target.shape))  # type: ignore[misc]
            if c is not None and allowed(c):
                swapped = ": the two are swapped" if _is_of(study, other, leaf) else ""
                return Explanation(Kind.SWAPPED, f"is {times(c)}the gradient of {name}{swapped}.")
            continue
        for axis in range(reference.ndim):
            if reference.size // reference.shape[axis] == target.size:
                c = study.constant(
                    leaf,
                    lambda place, k=other, a=axis: place.right[k].sum(a).reshape(target.shape),  # type: ignore[misc]
                )
                if c is not None and allowed(c):
                    return Explanation(
                        Kind.SWAPPED,
                        f"is {times(c)}the gradient of {name} summed over axis {axis}: it is multiplied with what only "
                        f"{name} is multiplied with.",
                    )
    return None


def _is_of(study: Study, leaf: int, other: int) -> bool:
    """Whether a leaf is the gradient of another one."""
    return study.fits(leaf, lambda place: place.right[other].reshape(np.shape(place.hand[leaf])))


def axes_exchanged(study: Study, leaf: int) -> Explanation | None:
    """The transpose of the gradient at the transposed parameter."""
    shape = np.shape(study.case.hand[leaf])
    if len(shape) != 2 or shape[0] != shape[1] or shape[0] < 2:
        return None

    def exchanged(place: Place) -> Any:
        params = list(place.point.params)
        params[leaf] = params[leaf].T
        return study.case.right(place.point._replace(params=params))[leaf].T

    if not study.fits(leaf, exchanged):
        return None
    return Explanation(
        Kind.TRANSPOSED,
        f"is the gradient with the axes of {study.name(leaf)} exchanged: what the loss does along one axis, the "
        "gradient does along the other.",
    )


def other_order(study: Study, leaf: int) -> Explanation | None:
    """The entries of the gradient in another order."""
    for kind, words, move in _orders(study.case.reference[leaf]):
        c = study.constant(leaf, lambda place, move=move: move(place.right[leaf]))  # type: ignore[misc]
        if c is not None:
            return Explanation(kind, f"is {times(c)}{words}.")
    if study.case.reference[leaf].size > 2 and study.fits(leaf, lambda place: _reordered(place, leaf)):
        bad = study.case.bad[leaf]
        spot = where(bad) if bad.any() else "some entries"
        return Explanation(Kind.ORDER, f"holds the numbers of the gradient in another order, in {spot}.")
    return None


MAX_ROWS = 64
"""Rows of a leaf that are compared with each other."""


def other_rows(study: Study, leaf: int) -> Explanation | None:
    """Rows that hold the gradient of another row, or nothing; entries of a vector."""
    shape = np.shape(study.case.hand[leaf])
    for axis in range(len(shape) if max(shape, default=0) <= MAX_ROWS else 0):
        sources = _sources(study, leaf, axis)
        if sources is None or not any(source not in (-1, row) for row, source in enumerate(sources)):
            continue
        parts = []
        for source in dict.fromkeys(source for row, source in enumerate(sources) if source != row):
            rows = _line(shape, axis, [i for i, j in enumerate(sources) if j == source and j != i])
            parts.append(f"is zero in {rows}" if source == -1 else f"holds in {rows} the gradient of "
                         f"{_line(shape, axis, [source])}")  # fmt: skip
        return Explanation(Kind.ORDER, f"{', and '.join(parts)}.") if len(parts) <= MAX_PARTS else None
    return None


MAX_PARTS = 3
"""Different rows of which others hold the gradient: more is told as another order, or not at all."""


def _line(shape: tuple[int, ...], axis: int, rows: list[int]) -> str:
    mask = np.zeros(shape, bool)
    np.moveaxis(mask, axis, 0)[rows] = True
    return where(mask)


def _sources(study: Study, leaf: int, axis: int) -> list[int] | None:
    """For each row of the gradient given, the row of the right one that it is at every place; -1 for zeros."""
    count = np.shape(study.case.hand[leaf])[axis]
    alike = np.ones((count, count + 1), bool)
    for place in study.places:
        hand = np.moveaxis(place.hand[leaf], axis, 0).reshape(count, -1)
        right = np.moveaxis(place.right[leaf], axis, 0).reshape(count, -1)
        rows = np.concatenate([right, np.zeros_like(right[:1])])
        gaps = np.max(np.abs(hand[:, None] - rows[None]), axis=2, initial=0.0)
        alike &= gaps <= study.case.exact * size(place.right[leaf])
    if count < 2 or not alike.any(axis=1).all():
        return None
    own = alike[np.arange(count), np.arange(count)]
    first = np.where(own, np.arange(count), np.argmax(alike, axis=1))
    return [-1 if row == count else int(row) for row in first]


def _orders(right: Any) -> Iterator[tuple[Kind, str, Callable[[Any], Any]]]:
    """Orders in which the entries of an array can be mixed up."""
    if right.ndim == 2 and right.shape[0] == right.shape[1] and len(right) > 1:
        yield Kind.TRANSPOSED, "the transpose of the gradient", lambda x: x.T
    if right.size < 2:
        return
    for axis in range(right.ndim):
        along = f"along axis {axis}"
        yield Kind.ORDER, f"the gradient reversed {along}", functools.partial(np.flip, axis=axis)
        yield Kind.ORDER, f"the gradient shifted by one {along}", functools.partial(np.roll, shift=1, axis=axis)
        backwards = functools.partial(np.roll, shift=-1, axis=axis)
        yield Kind.ORDER, f"the gradient shifted by one, backwards, {along}", backwards
    if right.ndim == 2:
        shape = right.shape
        yield Kind.TRANSPOSED, "the transpose of the gradient, reshaped", lambda x: x.T.reshape(shape)


def _reordered(place: Place, leaf: int) -> Any:
    """The right numbers in the order of the hand gradient's."""
    hand, right = place.hand[leaf], place.right[leaf]
    if np.iscomplexobj(hand) or size(hand) == 0:
        return right
    out = np.empty_like(hand).ravel()
    out[np.argsort(hand, axis=None, kind="stable")] = np.sort(right, axis=None)
    return out.reshape(hand.shape)
