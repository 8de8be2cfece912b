"""Curvature of a loss: Hessian-vector products, the largest eigenvalue, the largest stable rate.

On a quadratic loss each step of descent multiplies the error along the eigenvector of `lambda_i` by `1 - eta lambda_i`.
So descent converges if and only if `eta < 2 / lambda_max` (Nesterov, Lectures on Convex Optimization, 2nd ed., section
1.2.3; Boyd & Vandenberghe, Convex Optimization, section 9.3).
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
"""With at most this many parameters the whole Hessian is computed, and its eigenvalues are exact up to rounding."""

COLUMNS = 64
"""The number of columns of a Hessian that are computed together. All columns together would need P times the
activations."""


def hessian_vector_product(problem: Problem, params: Params, batch: Any, direction: Params) -> Params:
    """`H u`: with the problem's own `second_order.hvp`, or else by differentiating its gradient in forward mode.

    Args:
      problem: the problem.
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
    problem of at most `DENSE_LIMIT` parameters, the Hessian is computed column by column and decomposed. With more
    parameters, `lanczos` is used.

    Args:
      problem: the problem to minimise.
      params: the point; for a quadratic loss any point.
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

    For a quadratic loss the limit is exact and the same at all parameters. For any other loss the limit holds only near
    `params`, and guarantees nothing at other parameters.

    Args:
      problem: the problem to minimise.
      params: the point; for a quadratic loss any point.
      batch: the data.

    Returns:
      `[]`, in squared units of the parameters over units of the loss; infinite if the Hessian has no positive
      eigenvalue.

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
      ValueError: there are more parameters than that, or none.
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
    """The eigenvalues that differ from zero by more than rounding; along the others descent does not move. Host side.

    Args:
      eigenvalues: `[P]`.

    Returns:
      The eigenvalues with an absolute value above `P eps lambda_max`.
    """
    values = np.asarray(eigenvalues)
    floor = len(values) * np.finfo(values.dtype).eps * np.max(np.abs(values), initial=0.0)
    return values[np.abs(values) > floor].astype(np.float64)


def contraction_factor(eigenvalues: npt.ArrayLike, learning_rate: float) -> float:
    """The factor by which a step multiplies the slowest error component: `max_i |1 - eta lambda_i|`.

    The maximum is over the eigenvalues that differ from zero by more than rounding.

    Args:
      eigenvalues: `[P]` of the Hessian.
      learning_rate: eta.

    Returns:
      A number below 1 if descent converges, above 1 if it diverges.
    """
    return float(np.max(np.abs(1 - learning_rate * curved(eigenvalues)), initial=0.0))


def best_learning_rate(eigenvalues: npt.ArrayLike) -> float:
    """The fixed rate with the smallest contraction factor, `2 / (mu + L)`.

    With this rate the factors of the slowest and of the fastest direction, `1 - eta mu` and `eta L - 1`, are equal to
    `(kappa - 1) / (kappa + 1)` with `kappa = L / mu` (Nesterov 2018, theorem 2.1.15).

    Args:
      eigenvalues: `[P]` of the Hessian; mu and L are the smallest and the largest nonzero eigenvalue.

    Returns:
      The rate; infinite if no eigenvalue is positive.
    """
    upward = curved(eigenvalues)
    upward = upward[upward > 0]
    return float(2 / (upward.min() + upward.max())) if len(upward) else float("inf")


def steps_to_accuracy(factor: float, accuracy: float) -> float:
    """Steps until an error is `accuracy` times its value at the start, if each step multiplies it by `factor`.

    Args:
      factor: a contraction factor.
      accuracy: between 0 and 1.

    Returns:
      `ln(accuracy) / ln(factor)`, rounded up; infinite if the error does not shrink.
    """
    if factor >= 1:
        return float("inf")
    return float(np.ceil(np.log(accuracy) / np.log(factor))) if factor > 0 else 1.0
