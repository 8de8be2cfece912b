"""Curvature of a loss: Hessian-vector products, the largest eigenvalue, the largest stable rate.

On a quadratic loss descent multiplies the error along the eigenvector of `lambda_i` by `1 - eta lambda_i`
each step: it converges if and only if `eta < 2 / lambda_max` (Nesterov, Lectures on Convex Optimization,
2nd ed., section 1.2.3; Boyd & Vandenberghe, Convex Optimization, section 9.3).
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax.flatten_util import ravel_pytree

from jaxgd.theory.bounds import GRAM_LIMIT, curvature_bounds, is_quadratic
from jaxgd.theory.lanczos import LargestEigenvalue, lanczos
from jaxgd.types import Params, Problem
from jaxgd.validation import check_floating_tree, check_same_tree

DENSE_LIMIT = 256
"""Up to this many parameters the whole Hessian is formed and its eigenvalues are exact to rounding."""

COLUMNS = 64
"""Columns of a Hessian that are computed at a time: all at once would hold P times the activations."""


def hessian_vector_product(problem: Problem, params: Params, batch: Any, direction: Params) -> Params:
    """`H u`, by hand where the problem has its second order, else the derivative of the gradient in forward mode.

    Args:
      problem: its `second_order` is used, or its `grad` differentiated.
      params: the point.
      batch: the data.
      direction: u, a tree like `params`.

    Returns:
      A tree like `params`.

    Raises:
      ValueError: `direction` is not like `params`.
      TypeError: a dtype differs.
    """
    check_same_tree("`direction`", direction, "`params`", params)
    if problem.second_order is not None:
        return problem.second_order.hvp(params, direction, batch)
    product: Params = jax.jvp(lambda p: problem.grad(p, batch), (params,), (direction,))[1]
    return product


def largest_eigenvalue(problem: Problem, params: Params, batch: Any) -> LargestEigenvalue:
    """Largest eigenvalue of the Hessian of a loss at a point.

    For a squared error of a linear model it is computed from a Gram matrix (see `curvature_bounds`). For any other
    problem of up to `DENSE_LIMIT` parameters the Hessian is formed column by column and decomposed; with more
    parameters the eigenvalue comes from `lanczos`.

    Args:
      problem: what is minimised.
      params: the point; on a quadratic loss any.
      batch: the data.

    Returns:
      The eigenvalue and a bound on its error.

    Raises:
      TypeError: a parameter is not floating.
      ValueError: `params` holds no arrays.
    """
    params, batch = problem.accepts.arguments(params, batch)
    check_floating_tree("params", params)
    flat, unravel = ravel_pytree(params)
    second = problem.second_order
    if second is not None and second.rows is not None and is_quadratic(problem):
        design = second.rows.design(batch)
        bounds = curvature_bounds(problem, batch)
        if bounds is not None and min(design.shape) <= GRAM_LIMIT:
            return LargestEigenvalue(bounds.smoothness.astype(flat.dtype), jnp.zeros((), flat.dtype))
    if flat.size <= DENSE_LIMIT:
        return LargestEigenvalue(eigenvalues(problem, params, batch)[-1], jnp.zeros((), flat.dtype))

    def multiply(vector: jax.Array) -> jax.Array:
        return ravel_pytree(hessian_vector_product(problem, params, batch, unravel(vector)))[0]

    return lanczos(multiply, flat)[0]


def largest_stable_learning_rate(problem: Problem, params: Params, batch: Any) -> jax.Array:
    """The learning rate above which full-batch descent diverges, `2 / lambda_max`.

    On a quadratic loss the limit is exact and the same everywhere. On any other loss it is the limit for small moves
    around `params`, and guarantees nothing elsewhere.

    Args:
      problem: what is minimised.
      params: the point; on a quadratic loss any.
      batch: the data.

    Returns:
      `[]`, in squared units of the parameters over units of the loss; infinite where no direction curves
      upwards.

    Raises:
      TypeError: a parameter is not floating.
      ValueError: `params` holds no arrays.
    """
    curvature = largest_eigenvalue(problem, params, batch).value
    return jnp.where(curvature > 0, 2 / jnp.where(curvature > 0, curvature, 1), jnp.inf)


def eigenvalues(problem: Problem, params: Params, batch: Any) -> jax.Array:
    """All eigenvalues of the Hessian of a loss at a point.

    Args:
      problem: what is minimised.
      params: the point, of at most `DENSE_LIMIT` parameters.
      batch: the data.

    Returns:
      `[P]`, ascending.

    Raises:
      ValueError: more parameters than that, or none.
      TypeError: a parameter is not floating.
    """
    params, batch = problem.accepts.arguments(params, batch)
    check_floating_tree("params", params)
    flat, _ = ravel_pytree(params)
    if flat.size > DENSE_LIMIT:
        raise ValueError(f"`params` must have at most {DENSE_LIMIT} entries for a dense Hessian, got {flat.size}.")

    return jnp.linalg.eigvalsh(hessian(problem, params, batch))


def hessian(problem: Problem, params: Params, batch: Any) -> jax.Array:
    """The Hessian of a loss at a point, column by column.

    Args:
      problem: what is minimised.
      params: the point, P parameters.
      batch: the data.

    Returns:
      `[P, P]`, symmetric, its rows and columns in the order of `jax.flatten_util.ravel_pytree(params)`.

    Raises:
      TypeError: a parameter is not floating.
      ValueError: `params` holds no arrays.
    """
    params, batch = problem.accepts.arguments(params, batch)
    check_floating_tree("params", params)
    flat, unravel = ravel_pytree(params)

    def multiply(vector: jax.Array) -> jax.Array:
        return ravel_pytree(hessian_vector_product(problem, params, batch, unravel(vector)))[0]

    columns = jax.lax.map(multiply, jnp.eye(flat.size, dtype=flat.dtype), batch_size=min(flat.size, COLUMNS))
    return (columns + columns.T) / 2


def curved(eigenvalues: npt.ArrayLike) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The eigenvalues that rounding can tell from zero; along the others descent does not move. Host side.

    Args:
      eigenvalues: `[P]`.

    Returns:
      Those larger in size than `P eps lambda_max`.
    """
    values = np.asarray(eigenvalues)
    floor = len(values) * np.finfo(values.dtype).eps * np.max(np.abs(values), initial=0.0)
    return values[np.abs(values) > floor].astype(np.float64)


def contraction_factor(eigenvalues: npt.ArrayLike, learning_rate: float) -> float:
    """What a step multiplies the slowest error by, `max_i |1 - eta lambda_i|` over directions that curve.

    Args:
      eigenvalues: `[P]` of the Hessian.
      learning_rate: eta.

    Returns:
      Below 1 where descent converges, above 1 where it diverges.
    """
    return float(np.max(np.abs(1 - learning_rate * curved(eigenvalues)), initial=0.0))


def best_learning_rate(eigenvalues: npt.ArrayLike) -> float:
    """The fixed rate with the smallest contraction factor, `2 / (mu + L)`.

    There the slowest direction, `1 - eta mu`, and the fastest, `eta L - 1`, contract alike, by
    `(kappa - 1) / (kappa + 1)` with `kappa = L / mu` (Nesterov 2018, theorem 2.1.15).

    Args:
      eigenvalues: `[P]` of the Hessian; mu and L are the smallest and largest of those that curve.

    Returns:
      The rate; infinite where nothing curves upwards.
    """
    upward = curved(eigenvalues)
    upward = upward[upward > 0]
    return float(2 / (upward.min() + upward.max())) if len(upward) else float("inf")


def steps_to_accuracy(factor: float, accuracy: float) -> float:
    """Steps until an error that each step multiplies by `factor` is `accuracy` of its start.

    Args:
      factor: a contraction factor.
      accuracy: between 0 and 1.

    Returns:
      `ln(accuracy) / ln(factor)`, rounded up; infinite where the error does not shrink.
    """
    if factor >= 1:
        return float("inf")
    return float(np.ceil(np.log(accuracy) / np.log(factor))) if factor > 0 else 1.0
