"""Bounds on the curvature of a loss over all parameters, and the learning rates that they guarantee.

A loss with the gradient g is L-smooth if `|g(a) - g(b)| <= L |a - b|` for all a and b. If the loss is twice
differentiable, this means that at all parameters every eigenvalue of the Hessian has an absolute value of at most L.
Then a step of descent changes the loss by

    f(theta - eta g) - f(theta) <= -eta (1 - eta L / 2) |g|^2

(the descent lemma: Nesterov 2004, Introductory Lectures on Convex Optimization, section 1.2.3; Bubeck 2015, Convex
Optimization: Algorithms and Complexity, section 3.2). So with every learning rate below 2/L every step lowers the loss,
from every start. The rate 1/L gives the smallest bound. For rates above 2/L this theory makes no statement; such a rate
may still work well in a part of a run.
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
"""With at most this many inputs or rows, the extreme eigenvalues are computed from a Gram matrix, which needs one read
of the inputs. Above this size the eigenvalues of the Gram matrix would cost more than the 64 products of Lanczos
iteration."""

FAILURE_LOG = float(np.log(1e9))
"""Lanczos iteration starts at a random vector, so its bound holds only with probability 1 - 1e-9."""


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
      True if it is known that no eigenvalue of the Hessian is negative at any parameters.
    """
    second = problem.second_order
    if second is None:
        return False
    if second.rows is not None:
        return second.rows.low >= 0
    return second.bounds is not None and float(second.bounds(batch)[0]) >= 0


def curvature_bounds(problem: Problem, batch: Any) -> CurvatureBounds | None:
    """The curvature bounds L and mu of a problem on its data.

    If the curvatures of all rows lie in [low, high], L is the largest eigenvalue of `high/N A^T A + l2 P`, and mu is
    the smallest eigenvalue of `low/N A^T A + l2 P`, or 0 if low < 0. (See `RowCurvature`; for sums the factor 1/N is
    absent.) Both are exact for squared errors. The inputs are read twice: for their products and for the sums of their
    columns.

    Args:
      problem: what is minimised.
      batch: all rows.

    Returns:
      The bounds, in float32 or wider; None if no bounds over all parameters are known, as for networks.

    Raises:
      ValueError: the batch is concrete and the problem's `check_batch` rejects it, for example because targets of the
        sigmoid neuron are outside [0, 1].
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
    # Only with low > 0 the rows raise the lower bound. With low = 0 only the penalty remains, which leaves out the
    # bias.
    if rows.low > 0:
        smallest = _extremes(design, scale * rows.low, l2, rows.intercept)[0]
    else:
        smallest = l2 if rows.low == 0 and not rows.intercept else jnp.zeros_like(l2)
    return CurvatureBounds(high, smallest)


def smoothness(problem: Problem, batch: Any, *, batch_size: int | None = None) -> jax.Array | None:
    """L, a bound on the curvature of a loss over all parameters: full-batch steps with rate 1/L never raise the loss.

    With `batch_size` B, the bound L holds for every batch of B rows. Let a_i be row i of the inputs, with a 1 for the
    intercept. Let all second derivatives with respect to a prediction lie between `low` and `high`. Then L of a mean
    over B rows is at most `max(high, -low)` times the mean of the B largest `|a_i|^2`, plus l2. It is also at most N/B
    times the L of all rows. The smaller of these two bounds is returned. For B = 1 and a convex loss, 1/L is the
    learning rate of scikit-learn's SAG (Schmidt, Le Roux & Bach 2017, Mathematical Programming 162, 83-112).

    Args:
      problem: what is minimised.
      batch: all rows.
      batch_size: B, the rows of a step; None for all.

    Returns:
      `[]`, in units of the loss over squared units of the parameters. None if no bound over all parameters is known;
      `problem.second_order.unbounded` gives the reason.

    Raises:
      ValueError: targets are outside the range for which the bound holds, or `batch_size` is out of range.
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
      `[]`; 0 if no positive bound is known. A logistic loss with an unpenalised bias has no positive bound, because its
      curvature along the bias approaches 0 as all probabilities approach 0 or 1.

    Raises:
      ValueError: targets are outside the range for which the bound holds.
    """
    bounds = curvature_bounds(problem, batch)
    return jnp.zeros(()) if bounds is None else bounds.strong_convexity


def quadratic_eigenvalues(problem: Problem, params: Any, batch: Any) -> jax.Array | None:
    """The eigenvalues of the Hessian of a quadratic loss. A repeated eigenvalue may be listed only once.

    Args:
      problem: a problem for which `is_quadratic` returns True.
      params: any point; only its shapes matter.
      batch: all rows.

    Returns:
      `[Q]`, ascending; None if there are more than `GRAM_LIMIT` parameters and rows.
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
    # Outside of the space of the rows, only the penalty has curvature.
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
    """An upper bound on the largest eigenvalue of `factor A^T A + l2 P` by Lanczos iteration from a random vector.

    After k products, the probability that the Ritz value is below (1 - epsilon) times the largest eigenvalue is at most
    `1.648 sqrt(P) exp(-sqrt(epsilon) (2k - 1))` (Kuczynski & Wozniakowski 1992, SIAM Journal on Matrix Analysis and
    Applications 13, 1094-1122, theorem 4.2).
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
