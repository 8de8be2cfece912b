"""Quadratic functions of a vector, `1/2 x . H x - g . x + c`, minimised without data: the batch is None."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from jaxgd.problems.interface import accepting
from jaxgd.types import Formulas, Problem, RowSum, SecondOrder, System
from jaxgd.validation import check_count, check_same_tree

Array = npt.NDArray[np.float64]

LONGEST_NAME = 4
"""With at most this many variables, the name of a problem is the whole call that builds it."""


class VectorParams(NamedTuple):
    """The variable of a function of a vector.

    Attributes:
      x: `[P]`.
    """

    x: jax.Array


def quadratic_of_vector(hessian: Any, linear: Any, constant: float) -> Problem:
    """`f(x) = 1/2 x . H x - g . x + c`; see `jaxgd.problems.quadratic`.

    Args:
      hessian: H, `[P, P]`, symmetric.
      linear: g, `[P]`; None for zeros.
      constant: c.

    Returns:
      The problem; parameters are `VectorParams`.

    Raises:
      ValueError: H is not square or not symmetric, g does not have one entry for each row of H, or a number is not
        finite.
    """
    matrix = np.asarray(hessian, np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not matrix.size:
        raise ValueError(f"`hessian` must be square, [P, P] with P > 0, got {matrix.shape}.")
    vector = np.zeros(len(matrix)) if linear is None else np.asarray(linear, np.float64)
    if vector.shape != (len(matrix),):
        raise ValueError(
            f"`linear` must have shape ({len(matrix)},) (one for each row of `hessian`), got {vector.shape}."
        )
    if not (np.isfinite(matrix).all() and np.isfinite(vector).all() and math.isfinite(constant)):
        raise ValueError("`hessian`, `linear` and `constant` must be finite, got NaN or infinity.")
    gaps = np.abs(matrix - matrix.T)
    if gaps.max() > 0:
        row, column = (int(i) for i in np.unravel_index(np.argmax(gaps), gaps.shape))
        raise ValueError(
            f"`hessian` must be symmetric, got {matrix[row, column]} at [{row}, {column}] and {matrix[column, row]} at "
            f"[{column}, {row}]; x . H x only sees (H + H^T) / 2."
        )
    return _quadratic(tuple(map(tuple, matrix.tolist())), tuple(vector.tolist()), float(constant))


@functools.lru_cache(maxsize=256)
def _quadratic(rows: tuple[tuple[float, ...], ...], linear: tuple[float, ...], constant: float) -> Problem:
    from jaxgd.problems.scalar import quadratic

    shown = [list(map(list, rows)), list(linear), constant]
    name = f"quadratic({', '.join(map(repr, shown))})"
    if len(linear) > LONGEST_NAME:
        name = f"quadratic(<{len(linear)} x {len(linear)}>)"
    call = functools.partial(quadratic, rows, linear, constant)
    return _build(np.array(rows), np.array(linear), constant, name=name, call=call)


def nesterov_quadratic(num_params: int, *, smoothness: float = 1.0) -> Problem:
    """Nesterov's worst-case function for first-order methods, a quadratic chain of P variables.

        f(x) = L/4 (1/2 (x_1^2 + sum_{i<P} (x_i - x_{i+1})^2 + x_P^2) - x_1)

    Gradient, by hand: `df/dx_i = L/4 (2 x_i - x_{i-1} - x_{i+1} - [i = 1])` with `x_0 = x_{P+1} = 0`. The Hessian is
    L/4 times the tridiagonal matrix of -1, 2, -1. Its eigenvalues are `L sin^2(k pi / (2 (P + 1)))`, all below L. The
    minimum is at `x_i = 1 - i / (P + 1)`, with the value `f* = L/8 (1 / (P + 1) - 1)`. Started at x = 0, each step of a
    first-order method makes at most one more variable nonzero. So after t steps the loss is at least the minimum over
    the first t variables: `f(x_t) - f* >= L/8 (1 / (t + 1) - 1 / (P + 1))`. For t = (P - 1)/2 this is at least
    `3 L |x_0 - x*|^2 / (32 (t + 1)^2)`.
    Source: Nesterov 2004, Introductory Lectures on Convex Optimization, section 2.1.2, theorem 2.1.7.

    Args:
      num_params: P, at least 2.
      smoothness: L, positive.

    Returns:
      The problem; parameters are `VectorParams`, the batch is None.

    Raises:
      ValueError: fewer than 2 variables, or an L that is not positive and finite.
      TypeError: `num_params` is not an integer.
    """
    num_params = check_count("num_params", num_params, minimum=2)
    if not (math.isfinite(smoothness) and smoothness > 0):
        raise ValueError(f"`smoothness` must be finite and positive, got {smoothness}.")
    return _nesterov(num_params, float(smoothness))


@functools.cache
def _nesterov(num_params: int, smoothness: float) -> Problem:
    chain = 2 * np.eye(num_params) - np.eye(num_params, k=1) - np.eye(num_params, k=-1)
    first = np.eye(num_params)[0]
    shown = "" if smoothness == 1.0 else f", smoothness={smoothness!r}"
    name = f"nesterov_quadratic({num_params}{shown})"
    call = functools.partial(nesterov_quadratic, num_params, smoothness=smoothness)
    return _build(smoothness / 4 * chain, smoothness / 4 * first, 0.0, name=name, call=call)


def _build(hessian: Array, linear: Array, constant: float, *, name: str, call: Callable[[], Problem]) -> Problem:
    eigenvalues, vectors = np.linalg.eigh(hessian)
    rounding = len(hessian) * np.finfo(np.float64).eps * np.abs(eigenvalues).max(initial=0.0)

    def init(key: jax.Array, batch: Any) -> VectorParams:
        del batch
        return VectorParams(jax.random.normal(key, linear.shape))

    def product(x: jax.Array) -> jax.Array:
        return jnp.asarray(hessian, x.dtype) @ x

    def loss(params: VectorParams, batch: Any) -> jax.Array:
        del batch
        x = params.x
        return jnp.vdot(x, product(x)) / 2 - jnp.vdot(jnp.asarray(linear, x.dtype), x) + constant

    def grad(params: VectorParams, batch: Any) -> VectorParams:
        del batch
        return VectorParams(product(params.x) - jnp.asarray(linear, params.x.dtype))

    def hvp(params: VectorParams, vector: VectorParams, batch: Any) -> VectorParams:
        del batch
        check_same_tree("`vector`", vector, "`params`", params)
        return VectorParams(product(vector.x))

    along = vectors.T @ linear
    flat = np.abs(eigenvalues) <= rounding
    bounded = not (eigenvalues < -rounding).any() and not (flat & (np.abs(along) > 1e-12 * np.abs(linear).max())).any()

    def minimizer(batch: Any) -> VectorParams:
        """`H^-1 g` from the eigenvalues of H; the solution of least norm if H is singular."""
        del batch
        return VectorParams(jnp.asarray(vectors @ np.where(flat, 0.0, along / np.where(flat, 1.0, eigenvalues))))

    problem = Problem(
        name=name,
        loss=loss,
        grad=grad,
        row_sum=RowSum(num_rows=lambda batch: 1),
        second_order=SecondOrder(
            hvp, bounds=lambda batch: (float(eigenvalues[0]), float(eigenvalues[-1])), constant=True
        ),
        system=System(
            init=init,
            minimizer=minimizer if bounded else None,
            formulas=Formulas("f = 1/2 x . H x - g . x + c", "f", "H x - g"),
            call=call,
        ),
    )
    return accepting(problem, VectorParams, targets=None)
