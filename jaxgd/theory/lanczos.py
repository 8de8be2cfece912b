"""Lanczos iteration: the largest eigenvalue of a symmetric matrix, from products of the matrix with vectors."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

LANCZOS_STEPS = 64
"""The largest number of matrix-vector products."""


class LargestEigenvalue(NamedTuple):
    """The largest eigenvalue of a Hessian.

    Attributes:
      value: `[]`, in units of the loss over squared units of the parameters.
      error_bound: `[]`: an eigenvalue lies within this distance of `value`. It is 0 if the whole Hessian was computed;
        then `value` is exact up to rounding.
    """

    value: jax.Array
    error_bound: jax.Array


def lanczos(multiply: Callable[[jax.Array], jax.Array], like: jax.Array) -> tuple[LargestEigenvalue, int]:
    """Largest eigenvalue by Lanczos iteration with full reorthogonalisation, from a random start.

    The Ritz pair (theta, y) after m steps has the residual `beta_m |y_m|`, and an eigenvalue lies within it of theta
    (Parlett, The Symmetric Eigenvalue Problem, theorem 4.5.1 and section 13.2).

    Args:
      multiply: `[P] -> [P]`, the product with the matrix.
      like: `[P]`, an array with the size and dtype of the vectors.

    Returns:
      The largest Ritz value with its error bound, and the number of products.
    """
    steps = min(LANCZOS_STEPS, like.size)
    start = jax.random.normal(jax.random.key(0), like.shape, like.dtype)
    basis = jnp.zeros((steps + 1, like.size), like.dtype).at[0].set(start / jnp.linalg.norm(start))
    zeros = jnp.zeros(steps, like.dtype)

    def step(i: jax.Array, carry: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, ...]:
        basis, diagonal, off_diagonal = carry
        product = multiply(basis[i])
        diagonal = diagonal.at[i].set(jnp.dot(basis[i], product))
        for _ in range(2):  # one pass leaves components as large as rounding / length
            product = product - basis.T @ (basis @ product)
        length = jnp.linalg.norm(product)
        # If the Krylov space is exhausted, only rounding errors are left; a zero row instead contributes nothing.
        exhausted = length <= jnp.finfo(like.dtype).eps * jnp.max(jnp.abs(diagonal))
        following = jnp.where(exhausted, 0, product / jnp.where(exhausted, 1, length))
        return (
            basis.at[i + 1].set(following),
            diagonal,
            off_diagonal.at[i].set(jnp.where(exhausted, 0, length)),
        )

    _, diagonal, off_diagonal = jax.lax.fori_loop(0, steps, step, (basis, zeros, zeros))
    inner = off_diagonal[:-1]
    tridiagonal = jnp.diag(diagonal) + jnp.diag(inner, 1) + jnp.diag(inner, -1)
    values, vectors = jnp.linalg.eigh(tridiagonal)
    return LargestEigenvalue(values[-1], off_diagonal[-1] * jnp.abs(vectors[-1, -1])), steps
