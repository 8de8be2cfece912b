"""What each leaf of a gradient is: right, wrong, at a kink, or right where reverse mode is wrong."""

import functools
from typing import Any, NamedTuple

import numpy as np

from jaxgd.gradcheck import reference, ties
from jaxgd.gradcheck.derivatives import custom_functions
from jaxgd.gradcheck.disputed import Comparison, Measured, by_entry, compare_leaf
from jaxgd.gradcheck.facts import LossFacts
from jaxgd.gradcheck.finding import Finding, Kind
from jaxgd.gradcheck.inputs import Arrays
from jaxgd.gradcheck.pair import Pair, dot, gap, ratio, size
from jaxgd.gradcheck.reference import Gradients
from jaxgd.gradcheck.report import Status
from jaxgd.gradcheck.slopes import Slopes
from jaxgd.gradcheck.stops import compare_stopped, stops_of
from jaxgd.gradcheck.where import where

OVERRULES = 1e-6
"""Relative difference from which finite-difference slopes overrule two gradients that agree to rounding."""


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

    measured = Measured(
        pair, found, functools.partial(reference.slopes_along, pair, unit=loss.unit), tied, nearest, slopes.kinked
    )
    compared = [Comparison(Status.RIGHT, leaf) for leaf in found.reference]
    for i, comparison in stopped.items():
        compared[i] = comparison
    for i in solved:
        name = pair.names[i] or "params"
        apart = ratio(gap(found.hand[i], found.reference[i]), size(found.reference[i]))
        message = (
            f"{name} differs from the derivative of the loss by a relative {apart:.1e}; the loss iterates in a "
            "while_loop until some tolerance is met, so that its own derivative is not more accurate than that."
        )
        finding = Finding(pair.names[i], Kind.PRECISION, message, False)
        compared[i] = Comparison(Status.RIGHT, found.reference[i], finding, (apart, OVERRULES))
    for i in off:
        compared[i] = compare_leaf(measured, i)
    return Outcome(compared)


def _within_a_solver(pair: Pair, found: Gradients, leaf: int) -> bool:
    """Whether a difference is as small as those that the tolerance of an iteration in the loss makes."""
    apart = gap(found.hand[leaf], found.reference[leaf])
    return apart <= OVERRULES * size(found.reference[leaf]) and pair.loss.iterates


def _overruled(pair: Pair, found: Gradients, loss: LossFacts, along: tuple[Arrays, Slopes]) -> Outcome:
    """Gradient and reverse mode agree to rounding, but the slope of the loss along a direction is another."""
    direction, slopes = along
    by_reverse = dot(found.reference, direction)

    right = [Comparison(Status.RIGHT, leaf) for leaf in found.reference]
    if not contradicts(reference.slopes_along(pair, direction, loss.unit, rough=True), by_reverse):
        return Outcome(right)
    measured = Measured(
        pair, found, functools.partial(reference.slopes_along, pair, unit=loss.unit), _none, _none, False
    )
    compared = [_leaf_overruled(measured, i, direction[i]) for i in range(len(right))]
    if any(leaf.finding for leaf in compared):
        return Outcome(compared)
    note = (
        f"finite-difference slopes of the loss do not confirm the gradient, which agrees with reverse mode: along a "
        f"random direction they say {slopes.central:.6g}, both gradients {by_reverse:.10g}. The values are too rough."
    )
    return Outcome(right, (Finding("", Kind.REFERENCE, note, False),))


def _leaf_overruled(measured: Measured, leaf: int, ahead: Any) -> Comparison:
    """A leaf on which gradient and reverse mode agree, and the values of the loss perhaps do not."""
    pair, right = measured.pair, measured.found.reference[leaf]
    own, slope = measured.slopes(measured.ahead(leaf, ahead)), float(np.sum(right * ahead))
    if not contradicts(own, slope):
        return Comparison(Status.RIGHT, right)
    path = pair.names[leaf]
    name = path or "params"
    if pair.loss.derivative == "torch" and own.settled and own.central == 0.0 and (functions := _functions(pair)):
        message = (
            f"{name} is right if this is on purpose: the values of the loss do not change with it; its gradient comes "
            f"from the backward of {functions}."
        )
        return Comparison(Status.RIGHT, right, Finding(path, Kind.SURROGATE, message, False))
    said, numbers = f"their slope along a random direction is {own}, and not {slope:.10g}", own.numbers(slope)
    entries = by_entry(measured, leaf, np.ones(right.shape, bool))
    if entries is not None:
        largest = max(size(right), size(entries[np.isfinite(entries)]))
        wrong = np.abs(entries - right.ravel()) > OVERRULES * largest
        if wrong.any():
            first = (np.arange(right.size) == np.argmax(wrong)).reshape(right.shape)
            said = f"their slope in {where(first)} is {entries[wrong][0]:.6g}, and not {right[first][0]:.10g}"
            said += f"; they differ in {where(wrong.reshape(right.shape))}" if wrong.sum() > 1 else ""
            numbers = gap(entries[wrong], right.ravel()[wrong]) / largest, OVERRULES
    message = (
        f"{name} agrees with reverse mode of the loss, but both are wrong by the values of the loss: {said}.\n"
        f"{_suspects(pair)}"
    )
    return Comparison(Status.WRONG, right, Finding(path, Kind.REFERENCE, message), numbers)


def _suspects(pair: Pair) -> str:
    """What may be wrong where reverse mode is."""
    if pair.loss.derivative != "torch":
        return (
            "The derivative that JAX has for an operation of the loss does not hold at this point, or a rule in the "
            "loss (custom_jvp, custom_vjp, a callback's) is wrong."
        )
    if functions := _functions(pair):
        return f"The backward of {functions}, a torch.autograd.Function in it, is wrong."
    return "The derivative that PyTorch has for an operation of the loss does not hold at this point."


def _functions(pair: Pair) -> str:
    """The user's own functions of torch in a loss, quoted."""
    own = custom_functions(pair.loss.function, pair.loss.has_aux, pair.layout, pair.base)
    return " or ".join(f"`{name}`" for name in own)


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
