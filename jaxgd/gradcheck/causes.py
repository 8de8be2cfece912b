"""The search for the mistakes that made leaves wrong."""

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxgd.gradcheck import reference, untraced
from jaxgd.gradcheck.backward.program import name_of_unit
from jaxgd.gradcheck.conjugate import agreeing, conjugates
from jaxgd.gradcheck.facts import EPS64, GradientFacts, LossFacts
from jaxgd.gradcheck.finding import Finding, Kind
from jaxgd.gradcheck.inputs import Arrays, Point
from jaxgd.gradcheck.mistakes import EXACT, Case, explain
from jaxgd.gradcheck.pair import Pair, gap, ratio, size
from jaxgd.gradcheck.reference import Gradients
from jaxgd.gradcheck.rounding import MARGIN


def causes(
    pair: Pair,
    rng: np.random.Generator,
    found: Gradients,
    wrong: list[int],
    programs: tuple[LossFacts, GradientFacts],
    *,
    seconds: float,
) -> list[Finding]:
    """What was done wrong in some leaves.

    Args:
      pair: the loss and the gradient.
      rng: draws other points.
      found: both gradients at the point.
      wrong: numbers of the leaves.
      programs: what those of the loss and of the gradient say.
      seconds: how long the search may take.

    Returns:
      A finding for each leaf at least.
    """
    return (
        conjugates(pair.layout, pair.names, list(zip(*found[:3], strict=True)), wrong)
        or _rough(pair, found, wrong, programs)
        or agreeing(_explained(_case(pair, rng, found, programs)._replace(wrong=wrong, seconds=seconds)), pair.layout)
    )


def _rough(pair: Pair, found: Gradients, leaves: list[int], programs: tuple[LossFacts, GradientFacts]) -> list[Finding]:
    """A finding for each leaf if a cast inside the gradient explains all that differs."""
    loss, grad = programs
    if grad.unit <= max(np.finfo(np.float64).eps, loss.unit):
        return []
    gaps = {i: gap(found.hand[i], found.reference[i]) for i in leaves}
    sizes = {i: size(found.reference[i]) for i in leaves}
    # A leaf that differs only elsewhere is not rough here, it is wrong there.
    if not all(found.differs(i).any() and gaps[i] <= 256 * grad.unit * sizes[i] for i in leaves):
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


def _explained(case: Case) -> list[Finding]:
    """The mistakes; the search over the backward pass is left out if it raises."""
    for search in (case, case._replace(trace=None)):
        with contextlib.suppress(Exception):  # an error in the search may cost the cause, never the result
            return explain(search)
    failed = "is wrong; the search for the cause failed."
    names = [case.names[i] for i in case.wrong]
    return [Finding(name, Kind.UNKNOWN, f"{name or 'params'} {failed}", explains=False) for name in names]


def _case(pair: Pair, rng: np.random.Generator, found: Gradients, programs: tuple[LossFacts, GradientFacts]) -> Case:
    """What the search for the mistakes needs."""
    differs = [found.differs(i) for i in range(len(pair.names))]
    bad = [a if a.any() else b for a, b in zip(differs, found.near, strict=True)]

    def right(point: Point) -> Arrays:
        return pair.loss.reverse(pair.layout, point, np.float64)

    # Functions with float32 written into them: factors and the like show, small edits of the backward pass do not.
    unit = reference.unit_of(pair, *programs)
    narrow = EPS64 < unit <= np.finfo(np.float32).eps
    trace: Callable[[Point], Any] | None = None
    if pair.loss.derivative == "torch":
        trace = untraced.trace_in_jax(pair, rng)
    elif pair.loss.traceable and pair.loss.way.wide and not narrow:
        trace = functools.partial(reference.program, pair)
    return Case(
        names=pair.names,
        labels=pair.labels,
        point=pair.base,
        hand=found.hand,
        reference=found.reference,
        bad=bad,
        wrong=[],
        both=lambda point: (pair.hand(point, np.float64), right(point)),
        right=right,
        elsewhere=lambda distance, **moving: pair.elsewhere(rng, distance, **moving),
        trace=trace,
        exact=MARGIN * unit if narrow else 1e-6 if pair.loss.iterates else EXACT,
    )
