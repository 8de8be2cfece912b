"""Standard errors of a fitted regression, from the Hessian of its loss at the minimum."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from jaxgd.theory.bounds import is_convex, is_quadratic
from jaxgd.theory.curvature import hessian
from jaxgd.types import Params, Problem


def standard_errors(problem: Problem, params: Params, batch: Any) -> Params:
    """Asymptotic standard errors of the parameters of a regression at its minimum. Host side, in float64.

    A cross-entropy summed over rows is a negative log-likelihood. For such a loss the covariance of the estimate is
    `H^-1`, the inverse of the observed information (Cox & Hinkley 1974, Theoretical Statistics, section 9.2). For a
    squared error it is `s^2 (A^T A)^-1` with `s^2 = |r|^2 / (N - P)`. The factor of the loss (mean, sum, half) does not
    matter.

    Args:
      problem: `linear_regression` with targets `[N]`, `line` or `logistic_regression`, without a penalty.
      params: the parameters at the minimum; for other parameters the result is not meaningful.
      batch: all rows.

    Returns:
      A tree like `params`, of float64 NumPy arrays.

    Raises:
      ValueError: the problem is not one of these regressions or has a penalty, there are not more rows than parameters,
        or the Hessian is singular (for example with collinear columns).
    """
    second = problem.second_order
    if second is None or second.rows is None or not is_convex(problem, batch):
        raise ValueError(
            "`problem` must be a regression with a squared error or a cross-entropy to have standard errors, "
            f"got {problem.name}."
        )
    if problem.l2:
        raise ValueError(f"`problem` must have no penalty to have standard errors, got l2 = {problem.l2}.")
    with jax.enable_x64(True):
        params, batch = jax.tree.map(_in_float64, (params, batch))
        flat, unravel = ravel_pytree(params)
        num_rows, num_params = len(second.rows.design(batch)), flat.size
        scale = 1.0 if problem.reduction == "sum" else float(num_rows)
        information = scale * np.asarray(jax.jit(lambda tree: hessian(problem, tree, batch))(params))
        dispersion = 1.0
        if is_quadratic(problem):
            if num_rows <= num_params:
                raise ValueError(f"`batch` must have more rows than the {num_params} parameters, got {num_rows}.")
            # The Hessian is high A^T A and the loss high/2 |r|^2.
            squares = 2 * scale * float(problem.loss(params, batch)) / second.rows.high
            dispersion = second.rows.high * squares / (num_rows - num_params)
        eigenvalues = np.linalg.eigvalsh(information)
        if not eigenvalues[0] > num_params * np.finfo(np.float64).eps * eigenvalues[-1]:
            raise ValueError("`batch` leaves a direction of the parameters undetermined: the Hessian is singular.")
        errors = np.sqrt(dispersion * np.diag(np.linalg.inv(information)))
        return jax.tree.map(np.asarray, unravel(jnp.asarray(errors)))


def _in_float64(leaf: Any) -> jax.Array:
    array = np.asarray(leaf)
    return jnp.asarray(array.astype(np.float64) if np.issubdtype(array.dtype, np.floating) else array)
