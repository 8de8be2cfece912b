"""What the values of the loss say about a leaf that differs from reverse mode."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from jaxgd.gradcheck import reference, ties
from jaxgd.gradcheck.finding import Finding, Kind
from jaxgd.gradcheck.inputs import Arrays
from jaxgd.gradcheck.mistakes.nonfinite import origin
from jaxgd.gradcheck.pair import Pair, size
from jaxgd.gradcheck.reference import Gradients
from jaxgd.gradcheck.report import Status
from jaxgd.gradcheck.slopes import Slopes
from jaxgd.gradcheck.where import where

MAX_ENTRIES = 64
"""Entries of a leaf whose slopes are measured one by one."""


class Comparison(NamedTuple):
    """The verdict on one leaf, and why.

    Attributes:
      status: the verdict.
      reference: the derivative that it was compared with in the end.
      finding: the finding to report, or None; the cause of a wrong leaf without one is still to be searched for.
      numbers: the relative error, and the smallest that would have been seen, if the entries of the reference do not
        say them; NaN for what was not measured.
    """

    status: Status
    reference: Any
    finding: Finding | None = None
    numbers: tuple[float, float] | None = None


class Measured(NamedTuple):
    """What the comparison of a leaf may ask for."""

    pair: Pair
    found: Gradients
    slopes: Callable[[Arrays], Slopes]
    tied: Callable[[], ties.Ties | None]
    nearest: Callable[[], ties.Fit | None]
    kinked: bool

    def ahead(self, leaf: int, values: Any) -> Arrays:
        """A direction in which only one leaf moves."""
        return [values if i == leaf else np.zeros_like(p) for i, p in enumerate(self.pair.base.params)]


def compare_leaf(measured: Measured, leaf: int) -> Comparison:
    """What the values of the loss say about a leaf that differs from reverse mode."""
    pair, found = measured.pair, measured.found
    hand, right = found.hand[leaf], found.reference[leaf]
    path = pair.names[leaf]
    name = path or "params"
    if not np.isfinite(hand).all():
        return _not_finite(measured, leaf)
    finite = np.isfinite(right)
    here = found.differs(leaf)
    disputed = here if here.any() else found.near[leaf]
    signs = np.where(finite, np.sign(hand - right), 1.0)
    direction = measured.ahead(leaf, np.where(disputed, signs * pair.scales[leaf], 0.0))
    slopes = measured.slopes(direction)
    by_hand = float(np.sum(hand * direction[leaf]))
    if finite.all() and _on_a_set(measured, leaf):
        return _right_on_a_set(measured, leaf, slopes)
    if not finite.all():
        return _without_reference(measured, leaf, slopes.agrees(by_hand) or between(slopes, by_hand))
    by_reverse = float(np.sum(right * direction[leaf]))
    if slopes.agrees(by_hand) and not slopes.agrees(by_reverse) and not slopes.kinked:
        message = (
            f"{name} is right, by the values of the loss (slope {slopes}); reverse mode of the loss is wrong here "
            f"({by_reverse:.10g}), in {where(disputed)}."
        )
        finding = Finding(path, Kind.REFERENCE, message, False)
        return Comparison(Status.REFERENCE_WRONG, hand, finding, slopes.numbers(by_hand))
    if here.any() and (slopes.kinked or measured.kinked):
        return _at_a_kink(measured, leaf, slopes)
    if here.any():
        return Comparison(Status.WRONG, right)
    message = f"{name} agrees with reverse mode at this point, and differs at points nearby."
    return Comparison(Status.WRONG, right, Finding(path, Kind.UNKNOWN, message, False, explains=False))


def _on_a_set(measured: Measured, leaf: int) -> bool:
    """Whether a leaf uses that its parameter is symmetric or the like, here and at another point."""
    pair, found = measured.pair, measured.found
    kind = pair.sets[leaf]
    if kind is None or not kind.uses(
        pair.base.params[leaf], found.hand[leaf], found.reference[leaf], found.tolerance[leaf]
    ):
        return False
    elsewhere = pair.elsewhere(np.random.default_rng(0), 0.1)
    hand, right = pair.in_float64(elsewhere)
    return kind.uses(elsewhere.params[leaf], hand[leaf], right[leaf], 1e-10 * size(right[leaf]))


def _right_on_a_set(measured: Measured, leaf: int, slopes: Slopes) -> Comparison:
    """A leaf that is right along the set on which its parameter is: by a tie, on purpose, or by chance."""
    kind, hand, x = measured.pair.sets[leaf], measured.found.hand[leaf], measured.pair.base.params[leaf]
    assert kind is not None
    assert kind.project is not None
    path = measured.pair.names[leaf]
    name = path or "params"
    if measured.tied() is not None and (at_kink := _at_a_kink(measured, leaf, slopes)).status is Status.KINK:
        return at_kink
    along = (
        "along every change that keeps it so, the gradient agrees with reverse mode; in other directions it does not."
    )
    projected = kind.name == "on the simplex" and np.abs(hand - kind.project(x, hand)).max() <= 1e-9 * size(hand)
    if kind.generic(x) or projected:
        message = f"{name} is right for a parameter that is {kind.name}, as this one is: {along}"
        return Comparison(Status.RIGHT, hand, Finding(path, Kind.SET, message, False))
    message = f"{name} would be right if its parameter were meant to stay {kind.name}, as it is now: {along}"
    return Comparison(Status.WRONG, measured.found.reference[leaf], Finding(path, Kind.SET, message, False))


def _at_a_kink(measured: Measured, leaf: int, slopes: Slopes) -> Comparison:
    """Whether a leaf is one of the answers that are right where operations of the loss tie."""
    pair, found = measured.pair, measured.found
    hand, right = found.hand[leaf], found.reference[leaf]
    path = pair.names[leaf]
    name = path or "params"
    disputed = found.differs(leaf)
    at, nearest = measured.tied(), measured.nearest()
    if at is None or nearest is None:
        by_hand = float(np.sum(hand * measured.ahead(leaf, np.sign(hand - right) * pair.scales[leaf] * disputed)[leaf]))
        if found.near[leaf].any() or not between(slopes, by_hand):
            return Comparison(Status.WRONG, right)
        low, high = sorted((slopes.left, slopes.right))
        message = (
            f"{name}: the loss has a kink here, in {where(disputed)}; along it the slopes of both sides are {low:.6g} "
            f"and {high:.6g}, and the gradient's, {by_hand:.6g}, lies between them."
        )
        return Comparison(Status.KINK, hand, Finding(path, Kind.KINK, message, False), (np.nan, np.nan))
    if nearest.reproduces(leaf, hand, found.tolerance[leaf]):
        message = (
            f"{name}: the loss has a kink at this point, a tie of {at.words()}; the gradient takes another of the "
            f"slopes there than reverse mode does, in {where(disputed)}, and is right as well."
        )
        return Comparison(Status.KINK, nearest.leaves[leaf], Finding(path, Kind.KINK, message, False))
    if len(at.sums) and ties.fit(at, found.hand, shared=False).reproduces(leaf, hand, found.tolerance[leaf]):
        message = (
            f"{name}: several entries tie for the {at.words(maxima=True)}, and they have to share its gradient; what "
            f"they get adds up to more or less than the whole (it differs in {where(disputed)})."
        )
        return Comparison(Status.WRONG, nearest.leaves[leaf], Finding(path, Kind.KINK, message))
    if ties.fit(at, found.hand, beyond=3.0).reproduces(leaf, hand, found.tolerance[leaf]):
        message = (
            f"{name}: the loss has a kink at this point, a tie of {at.words()}; in {where(disputed)} the gradient lies "
            "beyond the slopes of both sides. Any weighted mean of the two would be right."
        )
        return Comparison(Status.WRONG, nearest.leaves[leaf], Finding(path, Kind.KINK, message))
    return Comparison(Status.WRONG, nearest.leaves[leaf])


def _not_finite(measured: Measured, leaf: int) -> Comparison:
    """A leaf with NaN or infinity."""
    found = measured.found
    hand, right = found.hand[leaf], found.reference[leaf]
    path = measured.pair.names[leaf]
    name = path or "params"
    bad = ~np.isfinite(hand)
    if (hand[bad] == right[bad]).all() and not (found.differs(leaf) & ~bad).any():
        message = f"{name} is {hand[bad][0]} in {where(bad)}, as reverse mode is: the loss has an infinite slope there."
        return Comparison(Status.RIGHT, right, Finding(path, Kind.NONFINITE, message, False))
    said = f"{name} is {hand[bad][0]} in {where(bad)}"
    if np.isfinite(right[bad]).all():
        return Comparison(Status.WRONG, right, Finding(path, Kind.NONFINITE, f"{said}, where the gradient is finite."))
    values = by_entry(measured, leaf, bad)
    if values is not None and np.isfinite(values).all():
        also = f" The slope of the values of the loss is {values[0]:.6g} there."
    else:
        also = ""
    message = f"{said}; reverse mode of the loss is not finite there either.{also}{_origin(measured)}"
    return Comparison(Status.WRONG, right, Finding(path, Kind.NONFINITE, message))


def _origin(measured: Measured) -> str:
    """On a line of its own, the operation that makes the first NaN or infinity."""
    pair = measured.pair
    if not (pair.loss.traceable and pair.loss.way.wide):
        return ""
    names = [*(name or "params" for name in pair.names), *pair.labels]
    sentence = origin(reference.program(pair, pair.base), pair.base, names)
    return f"\n{sentence}" if sentence else ""


def by_entry(measured: Measured, leaf: int, mask: Any) -> Any:
    """Slopes of the loss by single entries; None if there are many, NaN where the loss has a kink or jumps."""
    if np.sum(mask) > MAX_ENTRIES:
        return None
    values = []
    for index in np.argwhere(mask):
        unit = np.zeros_like(measured.pair.base.params[leaf])
        unit[tuple(index)] = measured.pair.scales[leaf][tuple(index)]
        slopes = measured.slopes(measured.ahead(leaf, unit))
        known = slopes.settled and not slopes.kinked
        values.append(slopes.central / unit[tuple(index)] if known else np.nan)
    return np.array(values)


def _without_reference(measured: Measured, leaf: int, confirmed: bool) -> Comparison:
    """A finite leaf where reverse mode is NaN or infinite in some entries."""
    found = measured.found
    hand, right = found.hand[leaf], found.reference[leaf]
    finite = np.isfinite(right)
    if not confirmed:
        return Comparison(Status.WRONG, right)
    path = measured.pair.names[leaf]
    message = (
        f"reverse mode of the loss gives {right[~finite][0]} in {where(~finite)} of {path or 'params'}; the values of "
        "the loss confirm the gradient."
    )
    differs = found.differs(leaf)
    disputed = differs if differs.any() else found.near[leaf]
    status = Status.WRONG if (disputed & finite).any() else Status.REFERENCE_WRONG
    return Comparison(status, np.where(finite, right, hand), Finding(path, Kind.REFERENCE, message, False))


def between(slopes: Slopes, slope: float) -> bool:
    """Whether a slope lies between those of the two sides of a kink.

    Args:
      slopes: of the loss along a direction.
      slope: the gradient's along it.

    Returns:
      True if it does; always False without a kink.
    """
    low, high = sorted((slopes.left, slopes.right))
    slack = 20 * slopes.side_error + 1e-5 * max(abs(low), abs(high))
    return slopes.kinked and low - slack <= slope <= high + slack
