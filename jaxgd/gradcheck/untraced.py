"""A loss that JAX cannot trace: its gradient by the values, its causes by jax.numpy in place of NumPy."""

import contextlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgd.gradcheck import facts, reference
from jaxgd.gradcheck.backward.record import record
from jaxgd.gradcheck.backward.sweep import gradient
from jaxgd.gradcheck.disputed import between
from jaxgd.gradcheck.finding import Finding, Kind
from jaxgd.gradcheck.inputs import Arrays, Point
from jaxgd.gradcheck.mistakes import Case, explain, tensors
from jaxgd.gradcheck.mistakes.values import central_differences, in_jax
from jaxgd.gradcheck.pair import Pair, all_finite, dot, gap, ratio, size
from jaxgd.gradcheck.precision import precision
from jaxgd.gradcheck.report import GradientReport, LeafReport, Status, not_comparable, report_of
from jaxgd.gradcheck.rounding import MARGIN
from jaxgd.gradcheck.where import where

ROUGH = 0.1
"""Relative error of a slope from which on it says nothing."""

MEASURED = 1e-6
"""The relative error up to which central differences are right."""


def by_values(pair: Pair, rng: np.random.Generator, grad: facts.GradientFacts, seconds: float) -> GradientReport:
    """Compare each leaf of a gradient with the slopes of the loss along one random direction.

    Args:
      pair: a loss that JAX cannot trace, and the gradient.
      rng: draws the directions.
      grad: what the program of the gradient says.
      seconds: how long the search for a cause may take.

    Returns:
      The report.
    """
    hand = [np.asarray(leaf, np.float64) for leaf in pair.hand(pair.base, np.float64)]
    if not facts.repeats(pair, grad, hand):
        return not_comparable(pair.names, Kind.RANDOM, facts.STATEFUL)
    native = pair.hand(pair.native, None)
    unit = max((reference.eps_of(leaf) for leaf in native), default=facts.EPS64)
    compared = [_leaf_by_values(pair, rng, hand, i, max(unit, facts.EPS64)) for i in range(len(pair.names))]
    orders = [order for _, _, order in compared if order is not None]
    unknown = [i for i, (_, finding, _) in enumerate(compared) if finding and not finding.explains]
    named: dict[str, Finding] = {}
    right: Arrays = []
    with contextlib.suppress(Exception):  # an error in the search may cost the cause, never the result
        found, right = _causes(pair, rng, hand, unknown, seconds) if unknown else ([], [])
        named = {finding.leaf: finding for finding in found}
    leaves = [leaf for leaf, _, _ in compared]
    for i in unknown if right else ():
        name, off = pair.names[i], np.abs(hand[i] - right[i])
        leaves[i] = leaves[i]._replace(error=ratio(gap(hand[i], right[i]), size(right[i])))
        spot = where(off > MEASURED * size(right[i]))
        message = (
            f"{name or 'params'} differs from central differences of the loss in {spot}; no single mistake that is "
            "known explains it."
        )
        named.setdefault(name, Finding(name, Kind.UNKNOWN, message, explains=False))
    return report_of(
        [named.get(finding.leaf, finding) for _, finding, _ in compared if finding],
        tuple(leaves),
        min(orders, default=None) if all_finite(hand) else None,
        f"values of the loss only (it cannot be {'differentiated' if pair.loss.traceable else 'traced'} by jax)",
    )


def _leaf_by_values(
    pair: Pair, rng: np.random.Generator, hand: Arrays, leaf: int, unit: float
) -> tuple[LeafReport, Finding | None, float | None]:
    """Report, finding, and Taylor order of a leaf along a random direction."""
    path = pair.names[leaf]
    name = path or "params"
    direction = pair.direction(rng, [leaf])
    if not np.isfinite(hand[leaf]).all():
        message = f"{name} is not finite in {where(~np.isfinite(hand[leaf]))}."
        return LeafReport(path, np.nan, np.nan, Status.WRONG), Finding(path, Kind.NONFINITE, message), None
    slope = float(np.sum(hand[leaf] * direction[leaf]))
    slopes = reference.slopes_along(pair, direction, facts.EPS64)
    if not slopes.agrees(slope):
        slopes = reference.slopes_along(pair, direction, facts.EPS64, rough=True)
    # A leaf without a gradient is measured by the whole gradient.
    whole = [g * scale for g, scale in zip(hand, pair.scales, strict=True) if np.isfinite(g).all()]
    typical = float(np.sqrt(np.sum((hand[leaf] * direction[leaf]) ** 2))) or abs(slopes.central)
    typical = typical or max(map(size, whole)) or 1.0
    slack = MARGIN * unit * max(typical, abs(slope)) if unit > facts.EPS64 else 0.0
    finding: Finding | None = None
    error, seen = abs(slope - slopes.central), 8 * slopes.error + slack
    if seen > ROUGH * typical and error <= seen:
        status = Status.NOT_CHECKED
        message = f"{name} is not checked: the values of the loss are too rough for a slope to be measured."
        finding = Finding(path, Kind.PRECISION, message, False)
    elif slopes.agrees(slope) or abs(slope - slopes.central) <= slack:
        status = Status.RIGHT
    elif between(slopes, slope):
        status = Status.KINK
        finding = Finding(
            path, Kind.KINK, f"{name}: the loss has a kink here; the slope given is one of its own.", False
        )
    else:
        status = Status.WRONG
        message = (
            f"{name} has the slope {slope:.10g} along a random direction, the values of the loss have {slopes}; "
            "without reverse mode no more can be told."
        )
        finding = Finding(path, Kind.UNKNOWN, message, explains=False)
    return LeafReport(path, ratio(error, typical), ratio(seen, typical), status), finding, slopes.order(slope)


def _causes(
    pair: Pair, rng: np.random.Generator, hand: Arrays, wrong: list[int], seconds: float
) -> tuple[list[Finding], Arrays]:
    """A finding for each leaf whose mistake has a name, and the right gradient; both empty if it is not known."""
    value = _value(pair)
    trace = trace_in_jax(pair, rng)
    right: Callable[[Point], Arrays | None]
    if trace is not None:
        exact = 1e-9

        def right(point: Point) -> Arrays | None:
            leaves = jax.tree.leaves(point)
            return list(gradient(trace(point), leaves, [i < len(point.params) for i in range(len(leaves))]))
    else:
        exact = MEASURED

        def right(point: Point) -> Arrays | None:
            return central_differences(lambda params: value(point._replace(params=params)), point.params)

    reference = right(pair.base)
    if reference is None or not all(np.isfinite(leaf).all() for leaf in reference):
        return [], []
    if pair.loss.traceable and not _confirmed(pair, rng, reference):
        return [], []  # a rule inside the loss is wrong
    known: Callable[[Point], Any] = right
    case = Case(
        names=pair.names,
        labels=pair.labels,
        point=pair.base,
        hand=hand,
        reference=reference,
        bad=[np.abs(a - b) > exact * size(b) for a, b in zip(hand, reference, strict=True)],
        wrong=wrong,
        both=lambda point: (pair.hand(point, np.float64), known(point)),
        right=known,
        elsewhere=lambda distance, **moving: pair.elsewhere(rng, distance, **moving),
        trace=trace,
        exact=exact,
        seconds=seconds,
    )
    return [finding for finding in explain(case) if finding.explains], reference


def _confirmed(pair: Pair, rng: np.random.Generator, gradient: Arrays) -> bool:
    """Whether the values of the loss have the slope of a gradient along a random direction."""
    ahead = pair.direction(rng, range(len(gradient)))
    forwards, backwards = pair.loss.values(pair.layout, pair.base, ahead, np.array([1e-5, -1e-5]))
    slope, said = float(forwards - backwards) / 2e-5, dot(gradient, ahead)
    return abs(slope - said) <= 1e-4 * max(abs(slope), abs(said))


def _value(pair: Pair) -> Callable[[Point], float]:
    def value(point: Point) -> float:
        still = [np.zeros_like(leaf) for leaf in point.params]
        return float(pair.loss.values(pair.layout, point, still, np.zeros(1))[0])

    return value


def trace_in_jax(pair: Pair, rng: np.random.Generator) -> Callable[[Point], Any] | None:
    """Trace a loss with jax.numpy in place of NumPy or PyTorch.

    Args:
      pair: a loss that JAX cannot trace, or can trace but not differentiate. A Pallas kernel is of the second kind; the
        search takes it apart into operations that it differentiates itself.
      rng: draws a second point. There and at the given point the traced loss must have the values of the original.

    Returns:
      `point -> jaxpr`; None if the loss cannot be traced, or if the traced loss has other values than the original.
    """
    value = _value(pair)
    function: Callable[..., Any] | None = pair.loss.function
    if pair.loss.derivative == "torch":
        function = tensors.of_arrays(in_jax(pair.loss.function) or pair.loss.function)
    elif not pair.loss.traceable:
        function = in_jax(pair.loss.function)
    if function is None or pair.loss.has_aux:
        return None
    programs: dict[Any, Any] = {}

    def trace(point: Point) -> Any:
        shapes = tuple(np.shape(leaf) for leaf in jax.tree.leaves(point))
        if shapes not in programs:
            with precision(np.float64):
                programs[shapes] = jax.make_jaxpr(lambda p: jnp.reshape(pair.layout.call(function, p), ()))(point)
        return programs[shapes]

    try:
        for point in (pair.base, pair.elsewhere(rng, 0.5)):
            leaves = jax.tree.leaves(point)
            tape = record(trace(point), leaves, [False] * len(leaves))
            there = value(point)
            if not abs(float(tape.values[tape.outs[0]]) - there) <= 1e-10 * abs(there):
                return None
        leaves = jax.tree.leaves(pair.base)
        gradient(trace(pair.base), leaves, [i < len(pair.base.params) for i in range(len(leaves))])
    except Exception:  # code that works on NumPy arrays only, or a callback, which has no derivative
        return None
    return trace
