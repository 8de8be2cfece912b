"""Causes for a loss that JAX cannot trace: the right gradient by jax.numpy in place of NumPy, or by differences."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgd.gradcheck.backward.sweep import gradient
from jaxgd.gradcheck.backward.tape import record
from jaxgd.gradcheck.inputs import Arrays, Point
from jaxgd.gradcheck.mistakes import Case, explain
from jaxgd.gradcheck.mistakes.values import central_differences, in_jax
from jaxgd.gradcheck.pair import Pair, size
from jaxgd.gradcheck.precision import precision
from jaxgd.gradcheck.report import Finding, Kind

MEASURED = 1e-6
"""The relative error up to which central differences are right."""


def causes(pair: Pair, rng: np.random.Generator, hand: Arrays, wrong: list[int], seconds: float) -> list[Finding]:
    """Search for the mistake in wrong leaves.

    Args:
      pair: the loss and the gradient.
      rng: draws other points.
      hand: the gradient at the point, float64.
      wrong: numbers of the wrong leaves.
      seconds: how long the search may take.

    Returns:
      A finding for each leaf whose mistake has a name.
    """
    value = _value(pair)
    trace = _in_jax(pair, rng, value)
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
        return []
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
    return [finding for finding in explain(case) if finding.kind is not Kind.UNKNOWN]


def _value(pair: Pair) -> Callable[[Point], float]:
    def value(point: Point) -> float:
        still = [np.zeros_like(leaf) for leaf in point.params]
        return float(pair.loss.values(pair.layout, point, still, np.zeros(1))[0])

    return value


def _in_jax(pair: Pair, rng: np.random.Generator, value: Callable[[Point], float]) -> Callable[[Point], Any] | None:
    """Traces the loss with jax.numpy in place of NumPy, if it can be traced so and has the same values."""
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
