"""Stochastic descent on least squares, many steps of one row at once: for devices where a step is all launch."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxgd.types import LinearForm, Params

HIGHEST = lax.Precision.HIGHEST


class RowSteps(NamedTuple):
    """B steps of one row each.

    Attributes:
      params: after the last.
      loss: `[B]`, of each row at the parameters that met it.
      grad_norm: `[B]`.
    """

    params: Params
    loss: jax.Array
    grad_norm: jax.Array


def take_rows(form: LinearForm, params: Params, batch: Any, learning_rate: Any) -> RowSteps:
    """The steps that visiting the rows one by one would take.

    A row's loss is `s (a_i . theta - y_i)^2` with `a_i = [x_i, 1]`, so its step from `theta_i` is
    `theta_{i+1} = theta_i - 2 s eta e_i a_i` with `e_i = a_i . theta_i - y_i`. All earlier steps put in,

        e_i = a_i . theta_0 - y_i - 2 s eta sum_{j < i} (a_i . a_j) e_j,

    which is the triangular system `(I + 2 s eta strictly_lower(A A^T)) e = A theta_0 - y`; then
    `theta_B = theta_0 - 2 s eta A^T e`. Equal to the loop in exact arithmetic.

    Args:
      form: of the problem, without a penalty.
      params: theta_0.
      batch: B rows, in the order of the visit.
      learning_rate: eta, `[]`.

    Returns:
      The steps.
    """
    inputs, targets = form.rows(batch)
    rows = jnp.concatenate([inputs, jnp.ones_like(inputs[:, :1])], axis=1)  # [B, D + 1]
    theta = form.join(params)
    twice = jnp.asarray(2 * form.scale(1), rows.dtype) * jnp.asarray(learning_rate).astype(rows.dtype)
    at_start = jnp.matmul(rows, theta, precision=HIGHEST) - targets
    products = jnp.tril(jnp.matmul(rows, rows.T, precision=HIGHEST), -1)
    columns = at_start.reshape(len(rows), -1)
    errors = jax.scipy.linalg.solve_triangular(
        jnp.eye(len(rows), dtype=rows.dtype) + twice * products, columns, lower=True, unit_diagonal=True
    ).reshape(at_start.shape)
    sizes = jnp.abs(errors).reshape(len(rows), -1)
    norms = jnp.sqrt(jnp.sum(jnp.square(sizes), axis=1))
    lengths = jnp.sqrt(jnp.sum(jnp.square(rows), axis=1))
    scale = jnp.asarray(form.scale(1), rows.dtype)
    return RowSteps(
        params=form.split(theta - jnp.matmul(rows.T, twice * errors, precision=HIGHEST)),
        loss=scale * jnp.square(norms),
        grad_norm=2 * scale * norms * lengths,
    )
