"""Functions of one and two variables, minimised without data: the batch is None."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxgd.problems.interface import accepting
from jaxgd.problems.quadratics import quadratic_of_vector
from jaxgd.types import Formulas, Problem, RowSum, ScalarParams, SecondOrder, System
from jaxgd.validation import check_same_tree


def quadratic(hessian: Any = None, linear: Any = None, constant: float = 0.0) -> Problem:
    """The parabola `y = x^2 - 4x + 5`, or any quadratic function `f(x) = 1/2 x . H x - g . x + c`.

    Gradient of the parabola, by hand: `dy/dx = 2x - 4`. Its only root x = 2 is the minimum, y = 1, since
    `d^2y/dx^2 = 2 > 0`. The Hessian maps v to 2 v. A step multiplies the error: `x' - 2 = (1 - 2 eta)(x - 2)`.

    Gradient of the general function, by hand: `d/dx_i 1/2 sum_jk x_j H_jk x_k = 1/2 sum_k (H_ik + H_ki) x_k = (H x)_i`
    for a symmetric H, so the gradient is `H x - g`. The Hessian maps v to `H v`. If H is positive definite, the minimum
    is at `H^-1 g`, and a step multiplies the error along the eigenvector of lambda by `1 - eta lambda`. If H has a
    negative eigenvalue, no minimum exists. `theory.closed_form.trajectory(..., problem=problem)` gives all iterates.

    Args:
      hessian: H, `[P, P]`, symmetric. None gives the parabola; `linear` and `constant` must then be left out.
      linear: g, `[P]`; zeros if None.
      constant: c.

    Returns:
      The problem; the batch is None. Parameters are `ScalarParams` for the parabola, else `VectorParams`. `minimizer`
      returns the minimiser of least norm; it is None if f is unbounded below.

    Raises:
      ValueError: H is not square or not symmetric, g does not have one entry for each row of H, a number is not finite,
        or g or c is given without H.
    """
    if hessian is not None:
        return quadratic_of_vector(hessian, linear, constant)
    if linear is not None or constant:
        raise ValueError("`linear` and `constant` belong to a `hessian`; without any of them it is the parabola.")
    return _parabola()


@functools.cache
def _parabola() -> Problem:

    def init(key: jax.Array, batch: Any) -> ScalarParams:
        del batch
        return ScalarParams(2 + 5 * jax.random.normal(key))

    def loss(params: ScalarParams, batch: Any) -> jax.Array:
        del batch
        return jnp.square(params.x) - 4 * params.x + 5

    def grad(params: ScalarParams, batch: Any) -> ScalarParams:
        del batch
        return ScalarParams(2 * params.x - 4)

    def hvp(params: ScalarParams, vector: ScalarParams, batch: Any) -> ScalarParams:
        del batch
        check_same_tree("`vector`", vector, "`params`", params)
        return ScalarParams(2 * vector.x)

    def minimizer(batch: Any) -> ScalarParams:
        del batch
        return ScalarParams(jnp.asarray(2.0))

    problem = Problem(
        name="quadratic",
        loss=loss,
        grad=grad,
        row_sum=RowSum(num_rows=lambda batch: 1),
        second_order=SecondOrder(hvp, bounds=lambda batch: (2.0, 2.0), constant=True),
        system=System(
            init=init,
            minimizer=minimizer,
            formulas=Formulas("y = x^2 - 4x + 5", "y", "2x - 4"),
            call=quadratic,
        ),
    )
    return accepting(problem, ScalarParams, targets=None)


class CubicParams(NamedTuple):
    """Parameters of `w^3 + b^2`.

    Attributes:
      w: `[]`.
      b: `[]`.
    """

    w: jax.Array
    b: jax.Array


@functools.cache
def cubic() -> Problem:
    """The surface `f(w, b) = w^3 + b^2`, which has no minimum.

    Gradient, by hand: `(df/dw, df/db) = (3 w^2, 2 b)`. It vanishes at the origin, but the origin is not a minimum.
    Started at w < 0, descent lowers w without end, and the run ends as DIVERGED. The Hessian maps (v, v_b) to
    `(6 w v, 2 v_b)`. The curvature 6 w is unbounded, so no learning rate is stable from every start.

    Returns:
      The problem; parameters are `CubicParams`, the batch is None.
    """

    def init(key: jax.Array, batch: Any) -> CubicParams:
        del batch
        w, b = jax.random.normal(key, (2,))
        return CubicParams(w, b)

    def loss(params: CubicParams, batch: Any) -> jax.Array:
        del batch
        return params.w * jnp.square(params.w) + jnp.square(params.b)

    def grad(params: CubicParams, batch: Any) -> CubicParams:
        del batch
        return CubicParams(w=3 * jnp.square(params.w), b=2 * params.b)

    def hvp(params: CubicParams, vector: CubicParams, batch: Any) -> CubicParams:
        del batch
        check_same_tree("`vector`", vector, "`params`", params)
        return CubicParams(w=6 * params.w * vector.w, b=2 * vector.b)

    problem = Problem(
        name="cubic",
        loss=loss,
        grad=grad,
        row_sum=RowSum(num_rows=lambda batch: 1),
        second_order=SecondOrder(hvp, unbounded="the curvature 6 w grows without bound"),
        system=System(
            init=init,
            formulas=Formulas("f = w^3 + b^2", "f", "(3w^2, 2b)"),
            call=cubic,
        ),
    )
    return accepting(problem, CubicParams, targets=None)
