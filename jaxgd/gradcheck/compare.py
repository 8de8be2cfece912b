"""What each leaf of a gradient is: right, wrong, at a kink, or right where reverse mode is wrong."""

from typing import Any, NamedTuple

import numpy as np

from jaxgd.gradcheck import reference
from jaxgd.gradcheck.backward.program import name_of_unit
from jaxgd.gradcheck.facts import GradientFacts, LossFacts
from jaxgd.gradcheck.inputs import Arrays
from jaxgd.gradcheck.pair import Pair, all_finite, dot, gap, ratio, size
from jaxgd.gradcheck.reference import Gradients
from jaxgd.gradcheck.report import Finding, Kind, Status
from jaxgd.gradcheck.slopes import Slopes
from jaxgd.gradcheck.where import where


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
      through: whether the reference ignores rules of the loss.
    """

    leaves: list[Comparison]
    findings: tuple[Finding, ...] = ()
    through: bool = False


def compare(pair: Pair, found: Gradients, loss: LossFacts, along: tuple[Arrays, Slopes]) -> Outcome:
    """Hold the gradient against reverse mode and against slopes of the values of the loss.

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
    wrong = [i for i in leaves if found.differs(i).any() or found.near[i].any()]
    by_reverse = dot(found.reference, direction)
    if not wrong and (slopes.kinked or slopes.agrees(by_reverse)):
        kink = Finding("", Kind.KINK, "the loss has a kink at this point; both sides have a slope of their own.", False)
        return Outcome([Comparison(Status.RIGHT, leaf) for leaf in found.reference], (kink,) if slopes.kinked else ())
    if loss.rules:
        through = reference.without_rules(pair)
        if through is not None and (seen := _see_through(pair, found, loss.rules, through)) is not None:
            return seen
    if not wrong:
        message = (
            "gradient and reverse mode agree, but neither is the slope of the loss: along a random direction it is "
            f"{slopes.central:.10g}, theirs {by_reverse:.10g}.\nA rule inside the loss (custom_jvp, a callback's) is "
            "wrong."
        )
        whole = Finding("", Kind.REFERENCE, message)
        return Outcome([Comparison(Status.WRONG, leaf, whole) for leaf in found.reference])
    return Outcome(
        [
            _compare_leaf(pair, found, i, loss.unit) if i in wrong else Comparison(Status.RIGHT, found.reference[i])
            for i in leaves
        ]
    )


def _see_through(pair: Pair, found: Gradients, rules: tuple[str, ...], through: Arrays) -> Outcome | None:
    """Compare with the loss without its rules and stops, and say what they do; None where they change nothing."""
    declared = found.reference
    with np.errstate(invalid="ignore"):
        differs = [
            not (np.abs(a - b) <= np.maximum(tolerance, 1e-13 * size(b))).all()
            for a, b, tolerance in zip(declared, through, found.tolerance, strict=True)
        ]
    if not all_finite(through) or not any(differs):
        return None
    found = found._replace(reference=through)
    leaves = []
    for i, differ in enumerate(differs):
        wrong = bool(found.differs(i).any())
        shares = bool((np.abs(found.hand[i] - declared[i]) <= found.tolerance[i]).all())
        finding = None
        if differ and (shares or not wrong):
            off = ratio(gap(declared[i], through[i]), size(through[i]))
            finding = _about_a_rule(pair.names[i], rules, off, wrong=wrong)
        status = Status.WRONG if wrong else Status.REFERENCE_WRONG if differ else Status.RIGHT
        leaves.append(Comparison(status, through[i], finding))
    return Outcome(leaves, (), True)


def _about_a_rule(leaf: str, rules: tuple[str, ...], off: float, *, wrong: bool) -> Finding:
    """What to say about a leaf for which a rule of the loss is wrong, or a stopped gradient matters."""
    name = leaf or "params"
    stops = [rule for rule in rules if rule.startswith("stop_gradient")]
    kind = Kind.STOP_GRADIENT if stops else Kind.REFERENCE
    if not wrong:
        what = "stops part of it" if stops else "has a wrong rule"
        message = (
            f"{name} is right, but jax.grad of the loss is not: the loss {what} in {rules[-1]}. jax.grad is "
            f"off by a relative {off:.1e}."
        )
    elif stops:
        message = (
            f"{name} agrees with jax.grad, but not with the values of the loss (relative {off:.1e}): "
            f"{stops[-1]} holds a part back.\nIf that is on purpose, pass that part as an argument."
        )
    else:
        message = (
            f"{name} shares the mistake of a custom rule in the loss ({rules[-1]}): both differ from the "
            f"derivative of what it computes by a relative {off:.1e}."
        )
    return Finding(leaf, kind, message, wrong)


def _compare_leaf(pair: Pair, found: Gradients, leaf: int, unit: float) -> Comparison:
    """What the values of the loss say about a leaf that differs from reverse mode."""
    hand, right = found.hand[leaf], found.reference[leaf]
    here, near = found.differs(leaf), found.near[leaf]
    name = pair.names[leaf] or "params"

    def result(status: Status, kind: Kind, message: str, right: Any = right) -> Comparison:
        return Comparison(status, right, Finding(pair.names[leaf], kind, message, status is Status.WRONG))

    finite = np.isfinite(right)
    if not np.isfinite(hand).all():
        bad = ~np.isfinite(hand)
        return result(
            Status.WRONG,
            Kind.NONFINITE,
            f"{name} is {hand[bad][0]} in {where(bad)}, where the gradient is finite."
            if finite.all()
            else f"{name}: neither the gradient nor reverse mode is finite here.",
        )
    disputed = here if here.any() else near
    signs = np.where(finite, np.sign(hand - right), 1.0)
    direction = [np.zeros_like(p) for p in pair.base.params]
    direction[leaf] = np.where(disputed, signs * pair.scales[leaf], 0.0)
    slopes = reference.slopes_along(pair, direction, unit)
    by_hand = float(np.sum(hand * direction[leaf]))
    if not finite.all():
        if not slopes.agrees(by_hand) and not between(slopes, by_hand):
            return Comparison(Status.WRONG, right)
        rest_wrong = bool((disputed & finite).any())
        finding = Finding(
            pair.names[leaf],
            Kind.REFERENCE,
            f"reverse mode of the loss gives {right[~finite][0]} in {where(~finite)} of {name}; the values of the loss "
            "prove the gradient right.",
            False,
        )
        status = Status.WRONG if rest_wrong else Status.REFERENCE_WRONG
        return Comparison(status, np.where(finite, right, hand), finding)
    by_reverse = float(np.sum(right * direction[leaf]))
    if slopes.kinked and not near.any() and between(slopes, by_hand):
        low, high = sorted((slopes.left, slopes.right))
        return result(
            Status.KINK,
            Kind.KINK,
            f"{name}: the loss has a kink in {where(disputed)}; the slopes on its sides are {low:.6g} and "
            f"{high:.6g} along it, the gradient says {by_hand:.6g}, reverse mode {by_reverse:.6g}. Both may.",
        )
    if slopes.agrees(by_hand) and not slopes.agrees(by_reverse) and not slopes.kinked:
        return result(
            Status.REFERENCE_WRONG,
            Kind.REFERENCE,
            f"{name} is right, by the values of the loss (slope {slopes.central:.10g}); reverse mode of the "
            f"loss is wrong ({by_reverse:.10g}): look for a custom rule in it.",
            hand,
        )
    return Comparison(Status.WRONG, right)


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


def in_native_dtype(pair: Pair, found: Gradients) -> list[Finding]:
    """Compare the gradient in its own dtype with the same in float64, beside reverse mode.

    Args:
      pair: the loss and the gradient.
      found: both gradients at the point, float64.

    Returns:
      Findings for entries that overflow or lose digits.
    """
    if all(np.asarray(leaf).dtype == np.float64 for leaf in pair.native.params):
        return []
    native = pair.both(pair.native, None)
    found_in_all = (_lost_digits(pair, found, i, native[0][i], native[1][i]) for i in range(len(pair.names)))
    return [finding for finding in found_in_all if finding is not None]


def _lost_digits(pair: Pair, found: Gradients, leaf: int, hand: Any, reverse: Any) -> Finding | None:
    got, other = np.asarray(hand, np.float64), np.asarray(reverse, np.float64)
    eps = float(reference.eps_of(pair.native.params[leaf]))
    name = pair.names[leaf] or "params"
    lost = ~np.isfinite(got)
    if lost.any():
        shared = not np.isfinite(other).all()
        also = ", and so is reverse mode" if shared else ""
        message = f"{name} is {got[lost][0]} in {where(lost)} in {hand.dtype}, and finite in float64{also}."
        return Finding(name, Kind.OVERFLOW, message, not shared)
    with np.errstate(all="ignore"):
        error, error_of_reverse = gap(got, found.hand[leaf]), gap(other, found.reference[leaf])
    largest = size(found.hand[leaf])
    if error > 256 * max(error_of_reverse, eps * largest) and error > eps**0.5 * largest:
        message = (
            f"{name} loses digits in {hand.dtype}: it is off by a relative {ratio(error, largest):.1e}, "
            f"reverse mode by {ratio(error_of_reverse, largest):.1e}; in float64 both agree."
        )
        return Finding(name, Kind.CANCELLATION, message)
    return None
