"""The gradient of other inputs: an argument left out, or a parameter that has already been updated."""

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxgd.gradcheck.finding import Kind
from jaxgd.gradcheck.inputs import Arrays, Point
from jaxgd.gradcheck.mistakes.factors import is_known, times
from jaxgd.gradcheck.mistakes.study import Explanation, Place, Study, best_constant, size


def _is_square(value: Any) -> bool:
    return np.ndim(value) == 2 and value.shape[0] == value.shape[1] > 1


def _is_long(value: Any) -> bool:
    return np.ndim(value) > 0 and len(value) > 1


def _is_positive(value: Any) -> bool:
    return bool(np.size(value)) and bool(np.all(np.asarray(value) > 0))


def _always(value: Any) -> bool:
    del value
    return True


class Replacement(NamedTuple):
    """What is done to one input.

    Attributes:
      words: what follows the name of the input.
      change: the other value.
      applies: whether it is tried on a value.
      of_params: whether it is tried on parameters, too. A parameter of the other sign is a coincidence of even and odd
        functions, and the transpose of a parameter one of the transpose of its gradient.
    """

    words: str
    change: Callable[[Any], Any]
    applies: Callable[[Any], bool] = _always
    of_params: bool = False


REPLACEMENTS: tuple[Replacement, ...] = (
    Replacement("were 0: it is left out", np.zeros_like, of_params=True),
    Replacement("were 1: it is left out", np.ones_like, of_params=True),
    Replacement("had the other sign", np.negative),
    Replacement("were replaced by 1 minus it", lambda value: 1 - value),
    Replacement("were transposed", np.transpose, _is_square),
    Replacement("were replaced by its inverse", np.linalg.inv, _is_square),
    Replacement("were shifted by one along its first axis", lambda value: np.roll(value, 1, 0), _is_long),
    Replacement("were shifted by one, backwards, along its first axis", lambda value: np.roll(value, -1, 0), _is_long),
    Replacement("were reversed along its first axis", lambda value: np.flip(value, 0), _is_long),
    Replacement("were replaced by its square", np.square, of_params=True),
    Replacement("were replaced by its square root", np.sqrt, _is_positive, of_params=True),
    Replacement("were replaced by its reciprocal", np.reciprocal, of_params=True),
    Replacement("were replaced by its absolute value", np.abs),
    Replacement("were replaced by exp of it", np.exp, of_params=True),
    Replacement("were replaced by log of it", np.log, _is_positive, of_params=True),
)
"""What is done to one input, the likelier first."""

MAX_ARGUMENTS, MAX_LEAVES = 12, 24
"""With more, every input would be too many evaluations."""


def replaced(study: Study, leaves: list[int]) -> dict[int, Explanation]:
    """The gradient with one argument replaced, or two exchanged."""
    variants = [*_of_inputs("floats", study.case.labels), *_exchanges(study)]
    return _reproduced(study, leaves, variants, lambda c: abs(c - 1) < 1e-9)


def parameter_replaced(study: Study, leaves: list[int]) -> dict[int, Explanation]:
    """The gradient with one parameter replaced."""
    return _reproduced(study, leaves, _of_inputs("params", study.case.names), lambda c: abs(c - 1) < 1e-9)


def replaced_and_scaled(study: Study, leaves: list[int]) -> dict[int, Explanation]:
    """Leaves that are a known factor times the right gradient at another value of one argument."""
    return _reproduced(study, leaves, _of_inputs("floats", study.case.labels), lambda c: is_known(study, c))


Variant = tuple[str, Callable[[Point], Point | None]]
"""Words, and the inputs at which the right gradient is taken in their place; None where they cannot be."""


def _reproduced(
    study: Study, leaves: list[int], variants: Iterable[Variant], allowed: Callable[[float], bool]
) -> dict[int, Explanation]:
    """The first of some variants that reproduces each leaf up to an allowed factor."""
    case, found = study.case, dict[int, Explanation]()
    if len(case.labels) > MAX_ARGUMENTS or len(case.names) > MAX_LEAVES:
        return {}
    for words, moved in variants:
        rest = [leaf for leaf in leaves if leaf not in found]
        if study.late or not rest:
            break
        gradients: dict[int, Arrays] = {}
        for number, place in enumerate(study.places):
            gradient = _right_at(study, moved, place.point)
            # Only what fits at the first place is worth an evaluation at the others.
            if gradient is None or (number == 0 and not _near(place, gradient, rest, case.exact)):
                break
            gradients[id(place)] = gradient
        if len(gradients) < len(study.places):
            continue
        for leaf in rest:
            c = study.constant(leaf, lambda p, i=leaf, g=gradients: g[id(p)][i])  # type: ignore[misc]
            if c is not None and allowed(c):
                said = words if abs(c - 1) < 1e-9 else words.partition(":")[0]
                found[leaf] = Explanation(Kind.ARGUMENT, f"is {times(c)}the gradient as if {said}.")
    return found


def _of_inputs(field: str, names: Sequence[str]) -> Iterator[Variant]:
    """Each input with each replacement."""
    for number, name in enumerate(names):
        for replacement in REPLACEMENTS:
            if field == "floats" or replacement.of_params:
                words = f"{name or 'params'} {replacement.words}"
                yield words, functools.partial(_replaced, field=field, number=number, replacement=replacement)


def _replaced(point: Point, field: str, number: int, replacement: Replacement) -> Point | None:
    leaves = list(getattr(point, field))
    if not replacement.applies(leaves[number]):
        return None
    leaves[number] = np.asarray(replacement.change(leaves[number]))
    return point._replace(**{field: leaves})


def _exchanges(study: Study) -> Iterator[Variant]:
    """Two arguments of the same shape and dtype, exchanged."""
    point = study.case.point
    numbered = {"floats": study.case.labels, "arrays": [f"array argument {i}" for i in range(len(point.arrays))]}
    for field, names in numbered.items():
        for i, j in itertools.combinations(range(len(names)), 2):
            left, right = (getattr(point, field)[k] for k in (i, j))
            alike = np.shape(left) == np.shape(right) and getattr(left, "dtype", 0) == getattr(right, "dtype", 1)
            if alike and not np.array_equal(left, right):
                yield f"{names[i]} and {names[j]} were exchanged", functools.partial(_exchanged, field=field, i=i, j=j)


def _exchanged(point: Point, field: str, i: int, j: int) -> Point:
    leaves = list(getattr(point, field))
    leaves[i], leaves[j] = leaves[j], leaves[i]
    return point._replace(**{field: leaves})


def _near(place: Place, gradient: Arrays, leaves: list[int], exact: float) -> bool:
    """Whether a gradient reproduces a leaf at a place up to a constant."""
    return any(
        np.shape(gradient[leaf]) == np.shape(place.hand[leaf])
        and best_constant(place.hand[leaf], gradient[leaf], exact) is not None
        for leaf in leaves
    )


def _right_at(study: Study, moved: Callable[[Point], Point | None], point: Point) -> Arrays | None:
    try:
        there = moved(point)
        return None if there is None else study.case.right(there)
    except Exception:  # the loss was asked about other points only
        return None


RATES = (1e-3, 1e-2, 0.1, 1.0)
STEPS = 12


def updated(study: Study, leaves: list[int]) -> dict[int, Explanation]:
    """The gradient taken after another parameter has been moved along its own gradient.

    The learning rate is unknown; it is found by the secant method at the first place and must be the same at the
    others.
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
