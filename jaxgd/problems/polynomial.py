"""Polynomials of one variable, minimised without data: the batch is None."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgd.problems.interface import accepting
from jaxgd.types import Formulas, Problem, RowSum, ScalarParams, SecondOrder, System
from jaxgd.validation import check_same_tree


def polynomial(coefficients: Sequence[float]) -> Problem:
    """`p(x) = c_0 x^n + c_1 x^(n-1) + .. + c_n`, such as `polynomial([1, -3, 0, 0, 2])` for x^4 - 3x^3 + 2.

    Gradient, by hand: `p'(x) = n c_0 x^(n-1) + (n-1) c_1 x^(n-2) + .. + c_(n-1)`, evaluated by Horner's rule. The
    Hessian maps v to `p''(x) v`. For n > 2 the curvature p'' is unbounded, so no learning rate is stable from every
    start. Near a minimum x*, learning rates below 2 / p''(x*) are stable.

    Descent finds one root of p'. `minimizer` finds all roots, as the eigenvalues of the companion matrix (Horn &
    Johnson, Matrix Analysis, section 3.3), refines them by Newton's method, and returns the real root with the lowest
    p. If the degree of p is odd, or c_0 is negative, p is unbounded below and has no minimiser.

    Args:
      coefficients: c, from the highest power to the constant; the first is not 0.

    Returns:
      The problem; parameters are `ScalarParams`, the batch is None.

    Raises:
      ValueError: fewer than two coefficients, a first one of 0, or one that is not finite.
    """
    values = tuple(float(c) for c in coefficients)
    if len(values) < 2 or values[0] == 0 or not np.isfinite(values).all():
        raise ValueError(
            "`coefficients` must be at least two finite numbers, the first (of the highest power) not 0, "
            f"got {list(values)}."
        )
    return _polynomial(values)


@functools.cache
def _polynomial(coefficients: tuple[float, ...]) -> Problem:
    slopes = np.polyder(np.array(coefficients))
    bends = np.polyder(slopes)
    degree = len(coefficients) - 1
    bounded = degree % 2 == 0 and coefficients[0] > 0
    minimum = _lowest(np.array(coefficients)) if bounded else 0.0

    def init(key: jax.Array, batch: Any) -> ScalarParams:
        """A random point near the minimum, or near 0 if the polynomial has none."""
        del batch
        return ScalarParams(minimum + jax.random.normal(key))

    def loss(params: ScalarParams, batch: Any) -> jax.Array:
        del batch
        return _horner(coefficients, params.x)

    def grad(params: ScalarParams, batch: Any) -> ScalarParams:
        del batch
        return ScalarParams(_horner(slopes.tolist(), params.x))

    def hvp(params: ScalarParams, vector: ScalarParams, batch: Any) -> ScalarParams:
        del batch
        check_same_tree("`vector`", vector, "`params`", params)
        return ScalarParams(_horner(bends.tolist() or [0.0], params.x) * vector.x)

    def minimizer(batch: Any) -> ScalarParams:
        del batch
        return ScalarParams(jnp.asarray(minimum))

    if degree <= 2:
        curvature = 2 * coefficients[0] if degree == 2 else 0.0
        second_order = SecondOrder(hvp, bounds=lambda batch: (curvature, curvature), constant=True)
    else:
        second_order = SecondOrder(hvp, unbounded="the curvature of a polynomial grows without bound")
    problem = Problem(
        name=f"polynomial({list(coefficients)!r})",
        loss=loss,
        grad=grad,
        row_sum=RowSum(num_rows=lambda batch: 1),
        second_order=second_order,
        system=System(
            init=init,
            minimizer=minimizer if bounded else None,
            formulas=Formulas(f"p of degree {degree}", "p", "p'"),
            call=functools.partial(polynomial, coefficients),
        ),
    )
    return accepting(problem, ScalarParams, targets=None)


def _horner(coefficients: Sequence[float], x: jax.Array) -> jax.Array:
    value = jnp.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        value = value * x + coefficient
    return value


def _lowest(coefficients: Any) -> float:
    """The real root of p' with the lowest p."""
    slopes = np.polyder(coefficients)
    bends = np.polyder(slopes)
    roots = np.roots(slopes)
    scale = 1 + np.abs(roots).max(initial=0.0)
    real = roots[np.abs(roots.imag) < 1e-6 * scale].real  # a multiple root splits into pairs this close to the axis
    for _ in range(3):
        bend = np.polyval(bends, real)
        steps = np.where(bend == 0, 0.0, np.polyval(slopes, real) / np.where(bend == 0, 1.0, bend))
        better = np.abs(np.polyval(slopes, real - steps)) < np.abs(np.polyval(slopes, real))
        real = np.where(better, real - steps, real)
    return float(real[np.argmin(np.polyval(coefficients, real))])
