"""What each leaf of a gradient is: right, wrong, at a kink, or right where reverse mode is wrong."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from jaxgd.gradcheck import reference, ties
from jaxgd.gradcheck.backward.program import equations, name_of_unit
from jaxgd.gradcheck.facts import GradientFacts, LossFacts
from jaxgd.gradcheck.inputs import Arrays
from jaxgd.gradcheck.mistakes.nonfinite import origin
from jaxgd.gradcheck.pair import Pair, dot, gap, ratio, size
from jaxgd.gradcheck.reference import Gradients
from jaxgd.gradcheck.report import Finding, Kind, Status
from jaxgd.gradcheck.slopes import Slopes
from jaxgd.gradcheck.stops import compare_stopped, stops_of
from jaxgd.gradcheck.where import where

OVERRULES = 1e-6
"""Relative difference from which finite-difference slopes overrule two gradients that agree to rounding."""

MAX_ENTRIES = 64
"""Entries of a leaf whose slopes are measured one by one."""


class Comparison(NamedTuple):
    """What one leaf is, and why.

    Attributes:
      status: what it is.
      reference: what it was compared with in the end.
      finding: what there is to say about it; for a wrong leaf without a finding the cause is to be searched for.
    """

    status: Status
    reference: Any
    finding: Finding | None = None


class Outcome(NamedTuple):
    """What a gradient is.

    Attributes:
      leaves: a comparison for each leaf.
      findings: what concerns no single leaf.
    """

    leaves: list[Comparison]
    findings: tuple[Finding, ...] = ()


def compare(pair: Pair, found: Gradients, loss: LossFacts, along: tuple[Arrays, Slopes]) -> Outcome:
    """Compare the gradient with reverse mode and with finite-difference slopes of the loss.

    Args:
      pair: the loss and the gradient.
      found: both gradients at the point.
      loss: what the program of the loss says.
      along: a random direction, and the slopes of the loss along it.

    Returns:
      A comparison for each leaf.
    """
    direction, slopes = along
    leaves = range(len(pair.names))
    off = [i for i in leaves if found.differs(i).any() or found.near[i].any()]
    doubted = not slopes.kinked and not slopes.agrees(dot(found.reference, direction))
    tied = functools.cache(lambda: ties.ties_of(pair, loss.unit))
    if not off and not doubted:
        right = [Comparison(Status.RIGHT, leaf) for leaf in found.reference]
        if slopes.kinked and (at := tied()) is not None:
            message = (
                f"the loss has a kink at this point, a tie of {at.words()}: several gradients are right, this is one."
            )
            return Outcome(right, (Finding("", Kind.KINK, message, False),))
        return Outcome(right)
    stops = stops_of(pair, found.reference) if any("stop_gradient" in rule for rule in loss.rules) else None
    stopped = {i: said for i in leaves if stops and (said := compare_stopped(pair, found, stops, i))}
    off = [i for i in off if i not in stopped]
    solved = {i for i in off if _within_a_solver(pair, found, i)}
    off = [i for i in off if i not in solved]
    if not off and not stopped and not solved:
        return _overruled(pair, found, loss, along)

    @functools.cache
    def nearest() -> ties.Fit | None:
        at = tied()
        return None if at is None else ties.fit(at, found.hand)

    measured = _Measured(
        pair, found, functools.partial(reference.slopes_along, pair, unit=loss.unit), tied, nearest, slopes.kinked
    )
    compared = [Comparison(Status.RIGHT, leaf) for leaf in found.reference]
    for i, (status, finding) in stopped.items():
        compared[i] = Comparison(status, found.hand[i], finding)
    for i in solved:
        name = pair.names[i] or "params"
        apart = ratio(gap(found.hand[i], found.reference[i]), size(found.reference[i]))
        message = (
            f"{name} differs from the derivative of the loss by a relative {apart:.1e}; the loss iterates in a "
            "while_loop until some tolerance is met, so that its own derivative is not more accurate than that."
        )
        compared[i] = Comparison(
            Status.RIGHT, found.reference[i], Finding(pair.names[i], Kind.PRECISION, message, False)
        )
    for i in off:
        compared[i] = _compare_leaf(measured, i)
    return Outcome(compared)


def _within_a_solver(pair: Pair, found: Gradients, leaf: int) -> bool:
    """Whether a difference is as small as those that the tolerance of an iteration in the loss makes."""
    size_of = size(found.reference[leaf])
    if not gap(found.hand[leaf], found.reference[leaf]) <= OVERRULES * size_of or pair.loss.program is None:
        return False
    loops = (eqn for eqn in equations(pair.loss.program) if eqn.primitive.name == "while")
    # A loop that counts compares integers; one that converges compares floating numbers.
    return any(
        np.issubdtype(atom.aval.dtype, np.floating)
        for loop in loops
        for eqn in equations(loop.params["cond_jaxpr"])
        if eqn.primitive.name in ties.COMPARISONS
        for atom in eqn.invars
    )


class _Measured(NamedTuple):
    """What the comparison of a leaf may ask for."""

    pair: Pair
    found: Gradients
    slopes: Callable[[Arrays], Slopes]
    ties: Callable[[], ties.Ties | None]
    nearest: Callable[[], ties.Fit | None]
    kinked: bool

    def ahead(self, leaf: int, values: Any) -> Arrays:
        """A direction in which only one leaf moves."""
        return [values if i == leaf else np.zeros_like(p) for i, p in enumerate(self.pair.base.params)]


def _compare_leaf(measured: _Measured, leaf: int) -> Comparison:
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
    if finite.all() and (words := _on_a_set(measured, leaf)):
        return Comparison(Status.RIGHT, hand, Finding(path, Kind.SET, f"{name} is {words}", False))
    signs = np.where(finite, np.sign(hand - right), 1.0)
    direction = measured.ahead(leaf, np.where(disputed, signs * pair.scales[leaf], 0.0))
    slopes = measured.slopes(direction)
    by_hand = float(np.sum(hand * direction[leaf]))
    if not finite.all():
        return _without_reference(measured, leaf, slopes.agrees(by_hand) or between(slopes, by_hand))
    by_reverse = float(np.sum(right * direction[leaf]))
    if slopes.agrees(by_hand) and not slopes.agrees(by_reverse) and not slopes.kinked:
        message = (
            f"{name} is right, by the values of the loss (slope {slopes.central:.10g}); reverse mode of the loss is "
            f"wrong here ({by_reverse:.10g}), in {where(disputed)}."
        )
        return Comparison(Status.REFERENCE_WRONG, hand, Finding(path, Kind.REFERENCE, message, False))
    if here.any() and (slopes.kinked or measured.kinked):
        return _at_a_kink(measured, leaf, slopes)
    return Comparison(Status.WRONG, right)


def _on_a_set(measured: _Measured, leaf: int) -> str:
    """Whether a leaf uses that its parameter is symmetric or the like, here and at another point; in words."""
    pair, found = measured.pair, measured.found
    kind = pair.sets[leaf]
    if kind is None:
        return ""
    words = kind.uses(pair.base.params[leaf], found.hand[leaf], found.reference[leaf], found.tolerance[leaf])
    if not words:
        return ""
    elsewhere = pair.elsewhere(np.random.default_rng(0), 0.1)
    hand, right = pair.in_float64(elsewhere)
    return words if kind.uses(elsewhere.params[leaf], hand[leaf], right[leaf], 1e-10 * size(right[leaf])) else ""


def _at_a_kink(measured: _Measured, leaf: int, slopes: Slopes) -> Comparison:
    """Whether a leaf is one of the answers that are right where operations of the loss tie."""
    pair, found = measured.pair, measured.found
    hand, right = found.hand[leaf], found.reference[leaf]
    path = pair.names[leaf]
    name = path or "params"
    disputed = found.differs(leaf)
    at, nearest = measured.ties(), measured.nearest()
    if at is None or nearest is None:
        by_hand = float(np.sum(hand * measured.ahead(leaf, np.sign(hand - right) * pair.scales[leaf] * disputed)[leaf]))
        if found.near[leaf].any() or not between(slopes, by_hand):
            return Comparison(Status.WRONG, right)
        low, high = sorted((slopes.left, slopes.right))
        message = (
            f"{name}: the loss has a kink here, in {where(disputed)}; along it the slopes of both sides are {low:.6g} "
            f"and {high:.6g}, and the gradient's, {by_hand:.6g}, lies between them."
        )
        return Comparison(Status.KINK, hand, Finding(path, Kind.KINK, message, False))
    if nearest.reproduces(leaf, hand, found.tolerance[leaf]):
        message = (
            f"{name}: the loss has a kink at this point, a tie of {at.words()}; the gradient takes another of the "
            f"slopes there than reverse mode does, in {where(disputed)}, and is right as well."
        )
        return Comparison(Status.KINK, hand, Finding(path, Kind.KINK, message, False))
    if len(at.sums) and ties.fit(at, found.hand, shared=False).reproduces(leaf, hand, found.tolerance[leaf]):
        message = (
            f"{name}: several entries tie in {at.words(maxima=True)}, and they have to share its gradient: what they "
            f"get in {where(disputed)} adds up to more or less than the whole."
        )
        return Comparison(Status.WRONG, nearest.leaves[leaf], Finding(path, Kind.KINK, message))
    if ties.fit(at, found.hand, beyond=3.0).reproduces(leaf, hand, found.tolerance[leaf]):
        message = (
            f"{name}: the loss has a kink at this point, a tie of {at.words()}; in {where(disputed)} the gradient lies "
            "beyond the slopes of both sides. Any weighted mean of the two would be right."
        )
        return Comparison(Status.WRONG, nearest.leaves[leaf], Finding(path, Kind.KINK, message))
    return Comparison(Status.WRONG, nearest.leaves[leaf])


def _not_finite(measured: _Measured, leaf: int) -> Comparison:
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
    values = _by_entry(measured, leaf, bad)
    good = values is not None and np.isfinite(values).all()
    also = f" The slope of the values of the loss is {values[0]:.6g} there." if good and values is not None else ""
    message = f"{said}; reverse mode of the loss is not finite there either.{also}{_origin(measured)}"
    return Comparison(Status.WRONG, right, Finding(path, Kind.NONFINITE, message))


def _origin(measured: _Measured) -> str:
    """On a line of its own, the operation that makes the first NaN or infinity."""
    pair = measured.pair
    if not (pair.loss.traceable and pair.loss.way.wide):
        return ""
    names = [*(name or "params" for name in pair.names), *pair.labels]
    sentence = origin(reference.program(pair, pair.base), pair.base, names)
    return f"\n{sentence}" if sentence else ""


def _by_entry(measured: _Measured, leaf: int, mask: Any) -> Any:
    """Slopes of the loss by single entries; None if there are many, NaN where the two sides differ."""
    if np.sum(mask) > MAX_ENTRIES:
        return None
    values = []
    for index in np.argwhere(mask):
        unit = np.zeros_like(measured.pair.base.params[leaf])
        unit[tuple(index)] = measured.pair.scales[leaf][tuple(index)]
        slopes = measured.slopes(measured.ahead(leaf, unit))
        values.append(np.nan if slopes.kinked else slopes.central / unit[tuple(index)])
    return np.array(values)


def _without_reference(measured: _Measured, leaf: int, confirmed: bool) -> Comparison:
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


def _overruled(pair: Pair, found: Gradients, loss: LossFacts, along: tuple[Arrays, Slopes]) -> Outcome:
    """Gradient and reverse mode agree to rounding, but the slope of the loss along a direction is another."""
    direction, slopes = along
    by_reverse = dot(found.reference, direction)

    right = [Comparison(Status.RIGHT, leaf) for leaf in found.reference]
    if not contradicts(reference.slopes_along(pair, direction, loss.unit, rough=True), by_reverse):
        return Outcome(right)
    measured = _Measured(
        pair, found, functools.partial(reference.slopes_along, pair, unit=loss.unit), _none, _none, False
    )
    compared = []
    for i, leaf in enumerate(found.reference):
        alone = measured.ahead(i, direction[i])
        own = measured.slopes(alone)
        by_own = float(np.sum(leaf * direction[i]))
        if not contradicts(own, by_own):
            compared.append(right[i])
            continue
        name = pair.names[i] or "params"
        entries = _by_entry(measured, i, np.ones(leaf.shape, bool))
        spot, values = "along a random direction", (own.central, by_own)
        if entries is not None:
            wrong = np.abs(entries - leaf.ravel()) > OVERRULES * max(size(leaf), size(entries[np.isfinite(entries)]))
            if wrong.any():
                values = entries[wrong][0], leaf.ravel()[wrong][0]
                spot = f"in {where(wrong.reshape(leaf.shape))}"
        message = (
            f"{name} agrees with reverse mode of the loss, but both are wrong by the values of the loss: their slope "
            f"{spot} is {values[0]:.10g}, and not {values[1]:.10g}.\nThe derivative that JAX has for an operation of "
            "the loss does not hold at this point, or a rule in the loss (custom_jvp, custom_vjp, a callback's) is "
            "wrong."
        )
        compared.append(Comparison(Status.WRONG, leaf, Finding(pair.names[i], Kind.REFERENCE, message)))
    if any(leaf.finding for leaf in compared):
        return Outcome(compared)
    note = (
        f"finite-difference slopes of the loss do not confirm the gradient, which agrees with reverse mode: along a "
        f"random direction they say {slopes.central:.10g}, both gradients {by_reverse:.10g}. The values are too rough."
    )
    return Outcome(right, (Finding("", Kind.REFERENCE, note, False),))


def _none() -> None:
    return None


def contradicts(slopes: Slopes, slope: float) -> bool:
    """Whether slopes of the loss overrule reverse mode.

    Args:
      slopes: along a direction.
      slope: that of reverse mode along it.

    Returns:
      False at a kink, and for differences that a loss with rough values may have.
    """
    apart = abs(slope - slopes.central)
    return bool(apart > 8 * slopes.error + OVERRULES * max(abs(slope), abs(slopes.central)) and not slopes.kinked)


def between(slopes: Slopes, slope: float) -> bool:
    """Whether a slope lies between those of the two sides of a kink.

    Args:
      slopes: of the loss along a direction.
      slope: the gradient's along it.

    Returns:
      False where there is no kink.
    """
    low, high = sorted((slopes.left, slopes.right))
    slack = 20 * slopes.side_error + 1e-5 * max(abs(low), abs(high))
    return slopes.kinked and low - slack <= slope <= high + slack


def rough(pair: Pair, found: Gradients, leaves: list[int], loss: LossFacts, grad: GradientFacts) -> list[Finding]:
    """A cast inside the gradient, if it explains all that differs.

    Args:
      pair: the loss and the gradient.
      found: both gradients at the point.
      leaves: numbers of the wrong leaves.
      loss: what the program of the loss says.
      grad: what the program of the gradient says.

    Returns:
      A finding for each leaf, or nothing.
    """
    if grad.unit <= max(np.finfo(np.float64).eps, loss.unit):
        return []
    gaps = {i: gap(found.hand[i], found.reference[i]) for i in leaves}
    sizes = {i: size(found.reference[i]) for i in leaves}
    if not all(gaps[i] <= 256 * grad.unit * sizes[i] for i in leaves):
        return []
    dtype = name_of_unit(grad.unit)
    return [
        Finding(
            pair.names[i],
            Kind.PRECISION,
            f"{pair.names[i] or 'params'} is computed in {dtype} in between: right to a relative "
            f"{ratio(gaps[i], sizes[i]):.1e} only.",
        )
        for i in leaves
    ]
