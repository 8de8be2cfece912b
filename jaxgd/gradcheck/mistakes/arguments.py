"""The gradient of other inputs: an argument left out, or a parameter that has already been updated."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from jaxgd.gradcheck.inputs import Arrays, Point
from jaxgd.gradcheck.mistakes.factors import is_known, times
from jaxgd.gradcheck.mistakes.study import Explanation, Place, Study, size
from jaxgd.gradcheck.report import Kind

CHANGES: tuple[tuple[str, Callable[[Any], Any]], ...] = (
    ("were 0: it is left out", np.zeros_like),
    ("were 1: it is left out", np.ones_like),
    ("had the other sign", np.negative),
    ("were replaced by 1 minus it", lambda value: 1 - value),
)
"""What is done to one input."""

MAX_ARGUMENTS, MAX_LEAVES = 12, 24
"""With more, every input would be too many evaluations."""


def replaced(study: Study, leaves: list[int]) -> dict[int, Explanation]:
    """The gradient with one argument or one parameter replaced.

    Args:
      study: the case.
      leaves: numbers of the leaves to explain.

    Returns:
      An explanation for each leaf that a replacement reproduces.
    """
    found: dict[int, Explanation] = {}
    inexact: dict[int, Explanation] = {}
    for words, gradients in _replacements(study):
        for leaf in leaves:
            c = study.constant(leaf, lambda p, g=gradients, i=leaf: g(p)[i])  # type: ignore[misc]
            if c is None or not is_known(study, c):
                continue
            into = found if abs(c - 1) < 1e-9 else inexact
            into.setdefault(leaf, Explanation(Kind.ARGUMENT, f"is {times(c)}the gradient as if {words}."))
    return {**inexact, **found}


def _replacements(study: Study) -> Iterator[tuple[str, Callable[[Place], Arrays]]]:
    case = study.case
    if len(case.labels) > MAX_ARGUMENTS or len(case.names) > MAX_LEAVES:
        return
    for field, names in (("floats", case.labels), ("params", case.names)):
        for number, name in enumerate(names):
            # A parameter of the other sign is a coincidence of even and odd functions.
            for words, change in CHANGES if field == "floats" else CHANGES[:2]:
                if study.late:
                    return
                gradients = [_right_at(study, place.point, field, number, change) for place in study.places]
                if all(gradient is not None for gradient in gradients):
                    by_place = dict(zip(map(id, study.places), gradients, strict=True))
                    yield f"{name or 'params'} {words}", functools.partial(_looked_up, by_place)


def _looked_up(by_place: dict[int, Any], place: Place) -> Arrays:
    return list(by_place[id(place)])


def _right_at(study: Study, point: Point, field: str, number: int, change: Callable[[Any], Any]) -> Arrays | None:
    leaves = list(getattr(point, field))
    leaves[number] = change(leaves[number])
    try:
        return study.case.right(point._replace(**{field: leaves}))
    except Exception:  # the loss was asked about other points only
        return None


RATES = (1e-3, 1e-2, 0.1, 1.0)
STEPS = 12


def updated(study: Study, leaves: list[int]) -> dict[int, Explanation]:
    """The gradient taken after another parameter has been moved along its own gradient.

    The learning rate is unknown; it is found by the secant method at the first place and must be the same at the
    others.

    Args:
      study: the case.
      leaves: numbers of the leaves to explain.

    Returns:
      An explanation for each leaf.
    """
    names = study.case.names
    if len(names) < 2 or len(names) > MAX_LEAVES:
        return {}
    found = {}
    for leaf in leaves:
        groups = [[other] for other in range(len(names)) if other != leaf]
        for moved in [*groups, [other for (other,) in groups]][: MAX_LEAVES + 1]:
            rate = _rate(study, leaf, moved)
            if rate is not None:
                which = ", ".join(study.name(other) for other in moved)
                words = (
                    f"is the gradient after {which} {'has' if len(moved) == 1 else 'have'} been updated with learning "
                    f"rate {rate:.6g}: all gradients must be taken before the first update."
                )
                found[leaf] = Explanation(Kind.STALE, words)
                break
    return found


def _rate(study: Study, leaf: int, moved: list[int]) -> float | None:
    """The learning rate with which moving other leaves reproduces a leaf at every place."""

    def at(place: Place, rate: float) -> Any:
        params = [
            p - rate * g if i in moved else p
            for i, (p, g) in enumerate(zip(place.point.params, place.hand, strict=True))
        ]
        return study.case.right(place.point._replace(params=params))[leaf]

    first = study.places[0]
    difference = first.hand[leaf] - first.right[leaf]
    probe = 1e-6
    direction = (at(first, probe) - first.right[leaf]) / probe
    if not np.isfinite(direction).all() or size(direction) == 0:
        return None
    # Only along a direction that could explain the difference at all: the rest of the search is not needed.
    rate = float(np.sum(difference * direction) / np.sum(direction * direction))
    scale = size(direction)
    with np.errstate(all="ignore"):
        for turn in range(STEPS):
            value = at(first, rate)
            rest = first.hand[leaf] - value
            if turn == 2 and size(rest) > 0.1 * size(difference):
                return None
            slope = (at(first, rate * (1 + 1e-6) + 1e-12) - value) / (rate * 1e-6 + 1e-12)
            if not np.isfinite(slope).all() or size(slope) <= 1e-12 * scale:
                return None
            step = float(np.sum(rest * slope) / np.sum(slope * slope))
            rate += step
            if abs(step) <= 1e-14 * abs(rate):
                break
    if not np.isfinite(rate) or rate == 0 or abs(rate) > 1e3:
        return None
    fits = study.fits(leaf, lambda place: at(place, rate))
    return rate if fits else None
