"""A wrong gradient and the points at which explanations of it are tested."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from jaxgd.gradcheck.budget import UNLIMITED, Budget, budget_of
from jaxgd.gradcheck.finding import Kind
from jaxgd.gradcheck.inputs import Arrays, Point

EXACT = 1e-10
"""A misfit, over the largest entry of the leaf, that is rounding."""


WILD = 1e8
"""How much larger the right gradient may be at another point before that is taken to be outside of the domain."""


class Case(NamedTuple):
    """A wrong gradient.

    Attributes:
      names: the path of each leaf.
      labels: the path of each floating leaf of the arguments.
      point: where it was found wrong, float64.
      hand: the gradient there.
      reference: the right one.
      bad: masks of the entries that differ.
      wrong: numbers of the leaves to explain.
      both: evaluates the gradient and the right one at a point.
      right: evaluates the right one at a point.
      elsewhere: draws a point at a relative distance; 2 changes all signs. With `arguments=True` the floating
        arguments move, too; labels and masks stay.
      trace: the loss at a point as a jaxpr whose inputs are the leaves of the point; None if it cannot be traced.
      through: whether the right gradient looks through custom rules and stopped gradients.
      exact: the relative misfit that counts as equal: more than `EXACT` if `right` is itself measured.
      seconds: how long the search may take, see `Budget`; a step of it that has begun is finished.
    """

    names: list[str]
    labels: list[str]
    point: Point
    hand: Arrays
    reference: Arrays
    bad: Arrays
    wrong: list[int]
    both: Callable[[Point], tuple[Arrays, Arrays]]
    right: Callable[[Point], Arrays]
    elsewhere: Callable[..., Point]
    trace: Callable[[Point], Any] | None
    through: bool = False
    exact: float = EXACT
    seconds: float = float("inf")


class Place(NamedTuple):
    """Both gradients at one point.

    Attributes:
      point: the leaves.
      hand: the gradient.
      right: the right one.
    """

    point: Point
    hand: Arrays
    right: Arrays


class Explanation(NamedTuple):
    """What reproduces a leaf.

    Attributes:
      kind: what to call it.
      words: what follows the name of the leaf.
    """

    kind: Kind
    words: str


class Study(NamedTuple):
    """A case and both gradients at several points.

    Attributes:
      case: the wrong gradient.
      places: the point of the check, one with other parameters, and one with other arguments, too.
      passes: makes the backward pass of the loss, once; see `steps`.
      budget: when the search stops.
    """

    case: Case
    places: list[Place]
    passes: Callable[[], Any]
    budget: Budget = UNLIMITED

    @property
    def late(self) -> bool:
        """Whether the time of the search is over."""
        return self.budget.left() == 0

    def same_arguments(self) -> list[Place]:
        """The first places, and further ones, with the arguments of the first: for what depends on these only."""
        further = (_place(self.case, distance, False) for distance in (0.5, 2.0, 0.5))
        return [*self.places[:2], *(place for place in further if place is not None)]

    def name(self, leaf: int) -> str:
        """The path of a leaf, or "params"."""
        return self.case.names[leaf] or "params"

    def labels(self) -> list[tuple[str, Any]]:
        """The floating arguments and the parameters, as the caller wrote them, with their values."""
        point = self.case.point
        named = [*zip(self.case.labels, point.floats, strict=True), *zip(self.case.names, point.params, strict=True)]
        return [(label or "params", leaf) for label, leaf in named]

    def fits(self, leaf: int, predict: Callable[[Place], Any]) -> bool:
        """Whether a prediction reproduces a leaf at every place."""
        return all(fits(place, leaf, predict(place), self.case.exact) for place in self.places)

    def constant(self, leaf: int, predict: Callable[[Place], Any]) -> float | None:
        """The constant by which a prediction reproduces a leaf at every place, if it is the same."""
        constants = []
        for place in self.places:
            predicted = predict(place)
            if np.shape(predicted) != np.shape(place.hand[leaf]):
                return None
            c = best_constant(place.hand[leaf], predicted, self.case.exact)
            if c is None or not fits(place, leaf, c * predicted, self.case.exact):
                return None
            constants.append(c)
        return common(constants, self.case.exact)


def study(case: Case, passes: Callable[[list[Place]], Any]) -> Study:
    """Evaluate both gradients at the points at which explanations are tested.

    Args:
      case: the wrong gradient.
      passes: makes the backward pass of the loss from the places.

    Returns:
      The study. It has only one place if no other point has finite gradients.
    """
    places = [Place(case.point, case.hand, case.reference)]
    budget = budget_of(case.seconds)
    near = ((0.5, False), (0.1, False))
    for arguments in (False, True):
        # If the loss is not finite at any other arguments, a third point with those given is better than none.
        for distance, moving in (*((d, arguments) for d in (2.0, 0.5, 0.1, 0.01, 0.5, 0.1)), *near):
            place = _place(case, distance, moving)
            if place is not None:
                places.append(place)
                break
    made: list[Any] = []

    def once() -> Any:
        if not made:
            made.append(passes(places))
        return made[0]

    return Study(case, places, once, budget)


def _place(case: Case, distance: float, arguments: bool) -> Place | None:
    """Another point, if both gradients can be evaluated there and are finite."""
    point = case.elsewhere(distance, arguments=arguments)
    try:
        hand, right = case.both(point)
    except Exception:  # the functions were asked about one point only
        return None
    finite = all(np.isfinite(leaf).all() for leaf in (*hand, *right))
    # Outside of the domain of a loss, a solver stops anywhere and its derivative is huge.
    wild = any(size(leaf) > WILD * size(given) > 0 for leaf, given in zip(right, case.reference, strict=True))
    shapes = all(np.shape(a) == np.shape(b) for a, b in zip(hand, right, strict=True))
    return Place(point, hand, right) if finite and shapes and not wild else None


def fits(place: Place, leaf: int, predicted: Any, exact: float = EXACT) -> bool:
    """Whether a prediction reproduces a leaf at a place, and far more closely than the right gradient does.

    Args:
      place: both gradients.
      leaf: number of the leaf.
      predicted: `[...]`, like the leaf.
      exact: the relative misfit that counts as equal.

    Returns:
      The answer.
    """
    hand, right = place.hand[leaf], place.right[leaf]
    if np.shape(predicted) != np.shape(hand):
        return False
    with np.errstate(all="ignore"):
        gap, misfit = size(hand - right), size(hand - predicted)
        scale = max(size(hand), size(predicted))
    return bool(np.isfinite(misfit) and misfit <= exact * scale and (gap == 0 or misfit <= 1e-3 * gap))


def best_constant(hand: Any, predicted: Any, exact: float = EXACT) -> float | None:
    """The constant `c` of `hand = c predicted`, if there is one.

    Args:
      hand: `[...]`.
      predicted: `[...]`.
      exact: the relative misfit that counts as equal.

    Returns:
      The constant, or None.
    """
    with np.errstate(all="ignore"):
        top = size(predicted)
        if top == 0 or not np.isfinite(top):
            return None
        unit = np.conj(predicted / top)
        c = np.sum(hand / top * unit) / np.sum(predicted / top * unit)
        c = float(np.real(c))
        misfit = size(hand - c * predicted)
    return c if np.isfinite(c) and misfit <= exact * size(hand) else None


def multiple(study: Study, constants: list[float], slack: float) -> str | None:
    """One constant for all places, or one that is proportional to a scalar argument, which moves.

    Args:
      study: the case.
      constants: one for each place.
      slack: the relative distance at which two count as equal.

    Returns:
      The amount, without its sign, in words; None if the constants are neither.
    """
    values = np.asarray(constants, np.float64)
    if not np.isfinite(values).all() or not values.all():
        return None
    for number, name in enumerate(study.case.labels):
        scalars = [np.ravel(place.point.floats[number]) for place in study.places]
        if scalars[0].size != 1 or not all(scalar.all() for scalar in scalars):
            continue
        shares = values / np.array([float(scalar[0]) for scalar in scalars])
        if len(set(np.round([float(s[0]) for s in scalars], 12))) > 1 and np.ptp(shares) <= slack * abs(shares[0]):
            share = abs(float(shares[0]))
            return name if abs(share - 1) < 1e-7 else f"{share:.6g} {name}"
    return f"{abs(constants[0]):.6g}" if np.ptp(values) <= slack * abs(values[0]) else None


def common(constants: list[float], exact: float = EXACT) -> float | None:
    """The one value of several constants, or None if they differ.

    Args:
      constants: at least one.
      exact: the relative misfit of a leaf that counts as equal.

    Returns:
      The first of them; None for 0.
    """
    spread = max(constants) - min(constants)
    return constants[0] if spread <= 10 * exact * abs(constants[0]) and constants[0] != 0 else None


def size(leaf: Any) -> float:
    """The largest absolute entry of an array; 0 if it has none."""
    return float(np.max(np.abs(leaf), initial=0.0))
