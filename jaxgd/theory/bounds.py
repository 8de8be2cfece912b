"""Bounds on the curvature of a loss over all parameters, and the rates that they guarantee.

A loss is L-smooth where `|g(a) - g(b)| <= L |a - b|` for all a and b, which for a twice differentiable one means that
every eigenvalue of every Hessian is at most L in size. Then a step of descent changes the loss by

    f(theta - eta g) - f(theta) <= -eta (1 - eta L / 2) |g|^2

(the descent lemma: Nesterov 2004, Introductory Lectures on Convex Optimization, section 1.2.3; Bubeck 2015, Convex
Optimization: Algorithms and Complexity, section 3.2). So every rate below 2/L lowers the loss at every step from every
start, and 1/L lowers the bound on it most. Nothing is said about rates above 2/L, which may do well on part of a run.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from jaxgd.theory.lanczos import lanczos
from jaxgd.types import Problem
from jaxgd.validation import check_count

GRAM_LIMIT = 1024
"""Up to this many inputs, or rows, the extreme eigenvalues come from a Gram matrix, which takes one read of the inputs.
Above it, its eigenvalues would cost more than the 64 products of Lanczos iteration."""

FAILURE_LOG = float(np.log(1e9))
"""Lanczos iteration starts at random: the bound that follows it holds with probability 1 - 1e-9."""


class CurvatureBounds(NamedTuple):
    """Bounds that hold at all parameters, `strong_convexity |v|^2 <= v . H v <= smoothness |v|^2`.

    Attributes:
      smoothness: L, `[]`, also a bound on the size of the negative eigenvalues.
      strong_convexity: mu, `[]`; 0 if no positive lower bound is known.
    """

    smoothness: jax.Array
    strong_convexity: jax.Array


def is_quadratic(problem: Problem) -> bool:
    """Whether the Hessian of a problem is known to be the same at all parameters.

    Args:
      problem: what is minimised.

    Returns:
      True for squared errors of linear models and for quadratic functions.
    """
    second = problem.second_order
    return second is not None and (second.constant or (second.rows is not None and second.rows.low == second.rows.high))


def is_convex(problem: Problem, batch: Any) -> bool:
    """Whether a problem is known to be convex. Host side.

    Args:
      problem: what is minimised.
      batch: the data.

    Returns:
      True if the smallest curvature over all parameters is known not to be negative.
    """
    second = problem.second_order
    if second is None:
        return False
    if second.rows is not None:
        return second.rows.low >= 0
    return second.bounds is not None and float(second.bounds(batch)[0]) >= 0


def curvature_bounds(problem: Problem, batch: Any) -> CurvatureBounds | None:
    """L and mu of a problem on its data.

    For a loss whose rows have curvatures in [low, high], L is the largest eigenvalue of `high/N A^T A + l2 P` (see
    `RowCurvature`; without the 1/N for sums) and mu the smallest of `low/N A^T A + l2 P`, or 0 if low < 0. Both are
    exact for squared errors. The inputs are read twice: for their products and for the sums of their columns.

    Args:
      problem: what is minimised.
      batch: all rows.

    Returns:
      The bounds, in float32 at least; None where none is known over all parameters, as for networks.

    Raises:
      ValueError: the problem's `check_batch` refuses the batch, such as targets outside [0, 1] of the sigmoid neuron.
        Only where the batch is concrete.
    """
    second = problem.second_order
    if second is None or (second.rows is None and second.bounds is None):
        return None
    if problem.check_batch is not None and not _traced(batch):
        problem.check_batch(batch)
    if second.rows is None:
        assert second.bounds is not None
        low, high = second.bounds(batch)
        l2 = jnp.asarray(problem.l2, jnp.result_type(float))
        return CurvatureBounds(
            jnp.maximum(jnp.asarray(high, l2.dtype) + l2, -jnp.asarray(low, l2.dtype)),
            jnp.maximum(jnp.asarray(low, l2.dtype), 0),
        )
    rows = second.rows
    design = _floating(rows.design(batch))
    l2 = jnp.asarray(problem.l2, design.dtype)
    scale = 1.0 if problem.reduction == "sum" else 1.0 / len(design)
    largest = max(rows.high, -rows.low)
    if rows.low == rows.high:
        smallest, high = _extremes(design, scale * largest, l2, rows.intercept)
        return CurvatureBounds(high, smallest)
    _, high = _extremes(design, scale * largest, l2, rows.intercept)
    # Only with low > 0 the rows add to the lower bound; low = 0 leaves the penalty, which spares the bias.
    if rows.low > 0:
        smallest = _extremes(design, scale * rows.low, l2, rows.intercept)[0]
    else:
        smallest = l2 if rows.low == 0 and not rows.intercept else jnp.zeros_like(l2)
    return CurvatureBounds(high, smallest)


def smoothness(problem: Problem, batch: Any, *, batch_size: int | None = None) -> jax.Array | None:
    """L, a bound on the curvature of a loss over all parameters: full-batch steps with rate 1/L never raise the loss.

    With `batch_size` B, L holds for every batch of B rows. Let a_i be row i of the inputs, with a 1 for the intercept,
    and let every second derivative by a prediction lie between `low` and `high`. Then L of a mean over B rows is at
    most `max(high, -low)` times the mean of the B largest `|a_i|^2`, plus l2, and at most N/B times the L of all rows;
    the smaller of the two is returned. For B = 1 and a convex loss its inverse is the step of scikit-learn's SAG
    (Schmidt, Le Roux & Bach 2017, Mathematical Programming 162, 83-112).

    Args:
      problem: what is minimised.
      batch: all rows.
      batch_size: B, the rows of a step; None for all.

    Returns:
      `[]`, in units of the loss over squared units of the parameters; None where no bound over all parameters is
      known: `problem.second_order.unbounded` says why.

    Raises:
      ValueError: targets outside the range that the bound holds for, or `batch_size` out of range.
      TypeError: `batch_size` is not an integer.
    """
    bounds = curvature_bounds(problem, batch)
    if bounds is None or batch_size is None:
        return None if bounds is None else bounds.smoothness
    second = problem.second_order
    assert second is not None
    if second.rows is None:
        return bounds.smoothness
    design = _floating(second.rows.design(batch))
    batch_size = check_count("batch_size", batch_size, maximum=len(design))
    squares = jnp.sum(jnp.square(design), axis=1) + float(second.rows.intercept)  # |a_i|^2
    largest = jax.lax.top_k(squares, batch_size)[0]
    rows = largest.sum() if problem.reduction == "sum" else largest.mean()
    by_rows = max(second.rows.high, -second.rows.low) * rows + jnp.asarray(problem.l2, rows.dtype)
    whole = bounds.smoothness * (1 if problem.reduction == "sum" else len(design) / batch_size)
    return jnp.minimum(by_rows, whole)


def strong_convexity(problem: Problem, batch: Any) -> jax.Array:
    """mu, a lower bound on the curvature of a loss over all parameters.

    Args:
      problem: what is minimised.
      batch: all rows.

    Returns:
      `[]`; 0 where no positive bound is known. A logistic loss with a free bias has none, whatever the penalty on
      its weights: it flattens where all probabilities approach 0 or 1.

    Raises:
      ValueError: targets outside the range that the bound holds for.
    """
    bounds = curvature_bounds(problem, batch)
    return jnp.zeros(()) if bounds is None else bounds.strong_convexity


def quadratic_eigenvalues(problem: Problem, params: Any, batch: Any) -> jax.Array | None:
    """The eigenvalues of the Hessian of a quadratic loss, each at least once.

    Args:
      problem: one that `is_quadratic`.
      params: any point; only its shapes matter.
      batch: all rows.

    Returns:
      `[Q]`, ascending; None where there are more than `GRAM_LIMIT` parameters and rows.
    """
    second = problem.second_order
    assert second is not None
    if second.rows is None:
        flat, unravel = ravel_pytree(params)
        if flat.size > GRAM_LIMIT:
            return None

        def column(basis: jax.Array) -> jax.Array:
            return ravel_pytree(second.hvp(params, unravel(basis), batch))[0]

        return jnp.linalg.eigvalsh(jax.lax.map(column, jnp.eye(flat.size, dtype=flat.dtype)))
    design = _floating(second.rows.design(batch))
    if min(design.shape) > GRAM_LIMIT:
        return None
    scale = second.rows.high * (1.0 if problem.reduction == "sum" else 1.0 / len(design))
    l2 = jnp.asarray(problem.l2, design.dtype)
    matrix = _bounding_matrix(design, scale, l2, second.rows.intercept)
    values = jnp.linalg.eigvalsh(matrix)
    if len(matrix) < design.shape[1] + second.rows.intercept:  # along all other directions only the penalty curves
        values = jnp.sort(jnp.append(values, l2))
    return values


def _traced(batch: Any) -> bool:
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(batch))


def _floating(design: Any) -> jax.Array:
    design = jnp.asarray(design)
    return design if design.dtype.itemsize >= 4 else design.astype(jnp.float32)


def _extremes(design: jax.Array, factor: float, l2: jax.Array, intercept: bool) -> tuple[jax.Array, jax.Array]:
    """Smallest and largest eigenvalue of `factor A^T A + l2 P`, the smallest less its rounding and at least 0."""
    num_rows, num_inputs = design.shape
    num_params = num_inputs + intercept
    if min(num_rows, num_inputs) > GRAM_LIMIT:
        return jnp.zeros_like(l2), _largest_by_lanczos(design, factor, l2, intercept)
    matrix = _bounding_matrix(design, factor, l2, intercept)
    values = jnp.linalg.eigvalsh(matrix)
    # The space of the rows leaves out directions in which only the penalty curves.
    smallest = values[0] if len(matrix) == num_params else jnp.zeros_like(l2)
    rounding = len(matrix) * float(jnp.finfo(design.dtype).eps) * jnp.abs(values[-1])
    return jnp.maximum(smallest - rounding, 0), values[-1]


def _bounding_matrix(design: jax.Array, factor: float, l2: jax.Array, intercept: bool) -> jax.Array:
    """`factor A^T A + l2 P`, or its restriction to the space of the rows and the bias where that is smaller."""
    num_rows, num_inputs = design.shape
    precise = jax.lax.Precision.HIGHEST
    on_bias = jnp.zeros(num_inputs + intercept, design.dtype).at[num_inputs:].set(1)
    if num_inputs <= num_rows:
        gram = jnp.matmul(design.T, design, precision=precise)
        if intercept:
            sums = jnp.sum(design, axis=0)
            corner = jnp.full((1, 1), num_rows, design.dtype)
            gram = jnp.block([[gram, sums[:, None]], [sums[None], corner]])
        return factor * gram + l2 * jnp.diag(1 - on_bias)
    rows = jnp.column_stack([design, jnp.ones((num_rows, int(intercept)), design.dtype)])
    spanning = jnp.vstack([rows, on_bias[None]]) if intercept else rows
    basis = jnp.linalg.qr(spanning.T)[0]  # [D + 1, N + 1]
    products = jnp.matmul(rows, basis, precision=precise)
    bias = basis.T @ on_bias
    within = jnp.eye(basis.shape[1], dtype=design.dtype) - jnp.outer(bias, bias)
    return factor * jnp.matmul(products.T, products, precision=precise) + l2 * within


def _largest_by_lanczos(design: jax.Array, factor: float, l2: jax.Array, intercept: bool) -> jax.Array:
    """An upper bound on the largest eigenvalue of `factor A^T A + l2 P` from Lanczos iteration at a random start.

    After k products the Ritz value falls short of the largest eigenvalue by a share of more than epsilon with a
    probability of at most `1.648 sqrt(P) exp(-sqrt(epsilon) (2k - 1))` (Kuczynski & Wozniakowski 1992, SIAM Journal on
    Matrix Analysis and Applications 13, 1094-1122, theorem 4.2).
    """
    size = design.shape[1] + intercept

    def multiply(vector: jax.Array) -> jax.Array:
        weights = vector[: design.shape[1]]
        moves = factor * (design @ weights + (vector[-1] if intercept else 0))
        product = moves @ design + l2 * weights
        return jnp.append(product, jnp.sum(moves)) if intercept else product

    found, num_products = lanczos(multiply, jnp.zeros(size, design.dtype))
    share = ((np.log(1.648 * np.sqrt(size)) + FAILURE_LOG) / (2 * num_products - 1)) ** 2
    return found.value / (1 - share)
