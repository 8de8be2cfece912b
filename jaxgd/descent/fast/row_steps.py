"""Stochastic descent on least squares, many steps of one row at once: for devices whose launches are slow."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxgd.descent.fast.blocks import Move, Moved
from jaxgd.descent.run import Run, State
from jaxgd.types import LinearForm, Params

SOLVED_STEPS = 512
"""Steps of one row that are solved for at once; the matrix of their products has as many rows and columns."""


def solved(form: LinearForm) -> Move:
    """A function that solves for the steps of a block of single rows, for a problem without a penalty."""

    def move(run: Run, state: State, parts: Any, num_steps: int) -> Moved:
        del num_steps
        rows = jax.tree.map(lambda array: array[:, 0], parts)
        params, losses, grad_norms = solve_rows(form, state.params, rows, run.learning_rate)
        entries = {"loss": losses, "grad_norm": grad_norms}
        epoch_loss = state.watch.epoch_loss + jnp.sum(losses)
        entries = {field: entries[field] for field in entries if field in run.record}
        return Moved(params, state.rule_state, epoch_loss, jnp.min(losses), jnp.max(losses), entries)

    return move


def solve_rows(form: LinearForm, params: Params, batch: Any, learning_rate: Any) -> tuple[Params, jax.Array, jax.Array]:
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
      theta_B; and `[B]` each, the loss of every row at the parameters that met it and the norm of its gradient.
    """
    # Accelerators round the factors of a float32 product to 10 or 8 bits unless told not to.
    highest = lax.Precision.HIGHEST
    inputs, targets = form.rows(batch)
    rows = jnp.concatenate([inputs, jnp.ones_like(inputs[:, :1])], axis=1)  # [B, D + 1]
    theta = form.join(params)
    twice = jnp.asarray(2 * form.scale(1), rows.dtype) * jnp.asarray(learning_rate).astype(rows.dtype)
    at_start = jnp.matmul(rows, theta, precision=highest) - targets
    # B^2 products for B steps: more arithmetic than the loop does, but in a few calls in place of B.
    products = jnp.tril(jnp.matmul(rows, rows.T, precision=highest), -1)
    columns = at_start.reshape(len(rows), -1)
    errors = jax.scipy.linalg.solve_triangular(
        jnp.eye(len(rows), dtype=rows.dtype) + twice * products, columns, lower=True, unit_diagonal=True
    ).reshape(at_start.shape)
    error_norms = jnp.linalg.norm(errors.reshape(len(rows), -1), axis=1)
    row_norms = jnp.linalg.norm(rows, axis=1)
    scale = jnp.asarray(form.scale(1), rows.dtype)
    end = form.split(theta - jnp.matmul(rows.T, twice * errors, precision=highest))
    return end, scale * jnp.square(error_norms), 2 * scale * error_norms * row_norms
