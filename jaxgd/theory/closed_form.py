"""Minimisers and exact trajectories, computed in float64 on the host for data of any dtype.

A closed form in float32 would not be accurate enough to judge a run in float32. The normal equations would square the
condition number; therefore least squares is solved by QR and the singular values of R (Golub & Van Loan, Matrix
Computations, 4th ed., sections 5.3 and 5.5).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax.flatten_util import ravel_pytree

from jaxgd.theory.curvature import hessian
from jaxgd.types import Batch, LinearMapParams, LinearParams, LineParams, Problem, ScalarParams
from jaxgd.validation import check_choice, check_count, check_nonnegative

Float64Array = npt.NDArray[np.float64]

SQUARED_ERROR_SCALES: dict[str, Callable[[int], float]] = {
    "sum_squared_error": lambda num_rows: 1.0,
    "half_sum_squared_error": lambda num_rows: 0.5,
    "mean_squared_error": lambda num_rows: 1.0 / num_rows,
    "half_mean_squared_error": lambda num_rows: 0.5 / num_rows,
}
"""The factor of the sum of squares in each loss, by the name of the loss, as functions of the number of rows N."""


DENSE_TRAJECTORY = 1024
"""An exact trajectory is computed for problems of at most this many parameters, because it decomposes the Hessian."""


class LeastSquares(NamedTuple):
    """The solution of a linear least-squares problem.

    Attributes:
      weights: `[D]` or `[D, K]` float64.
      bias: `[]` or `[K]` float64.
      rank: the numerical rank of `[X, 1]`. If it is below `num_columns`, the solution is the one of least norm.
      num_columns: D + 1, or D without an intercept.
      condition_number: largest over smallest singular value of `[X, 1]`; the condition number of the Hessian is its
        square.
      sum_squared_error: at the solution, in squared units of the targets.
    """

    weights: Float64Array
    bias: Float64Array
    rank: int
    num_columns: int
    condition_number: float
    sum_squared_error: float

    @property
    def full_rank(self) -> bool:
        """Whether the minimiser is unique."""
        return self.rank == self.num_columns


def least_squares(inputs: Any, targets: Any, *, penalty: float = 0.0, fit_intercept: bool = True) -> LeastSquares:
    """Minimise `sum_i |x_i W + b - y_i|^2 + penalty |W|^2`. The bias b is not penalised.

    Without a penalty the solution is `(A^T A)^-1 A^T y` for `A = [X, 1]`, computed as `R^-1 Q^T y` with the columns of
    A scaled to unit length. A penalty is equivalent to additional rows `sqrt(penalty) I` with targets 0.

    Args:
      inputs: `[N, D]`, real.
      targets: `[N]` or `[N, K]`, real.
      penalty: coefficient of `|W|^2`, in units of the sum of squares (the `l2` of a mean squared error is
        `2 penalty / N`).
      fit_intercept: False leaves b out; it is 0 in the solution.

    Returns:
      The solution in float64; if the rank is deficient, the one of least norm over (W, b).

    Raises:
      ValueError: the shapes do not fit, or values are not finite.
      TypeError: `penalty` is not a number.
    """
    inputs, targets = np.asarray(inputs, np.float64), np.asarray(targets, np.float64)
    if inputs.ndim != 2 or targets.ndim not in (1, 2) or len(inputs) != len(targets) or not len(inputs):
        raise ValueError(
            "`inputs` and `targets` must have shapes [N, D] and [N] or [N, K] with N > 0, "
            f"got {inputs.shape} and {targets.shape}."
        )
    if not (np.isfinite(inputs).all() and np.isfinite(targets).all()):
        raise ValueError("`inputs` and `targets` must be finite, got NaN or infinity.")
    penalty = check_nonnegative("penalty", penalty)
    num_inputs = inputs.shape[1]
    design = np.column_stack([inputs, np.ones((len(inputs), int(fit_intercept)))])
    values = targets.reshape(len(targets), -1)
    if penalty:
        design = np.vstack([design, np.sqrt(penalty) * np.eye(num_inputs, design.shape[1])])
        values = np.vstack([values, np.zeros((num_inputs, values.shape[1]))])
    solution, rank, condition_number = _solve(design, values)
    weights, bias = solution[:num_inputs], np.sum(solution[num_inputs:], axis=0)  # no row, and 0, without an intercept
    residuals = inputs @ weights + bias - targets.reshape(len(targets), -1)
    return LeastSquares(
        weights=weights.reshape(num_inputs, *targets.shape[1:]),
        bias=bias.reshape(targets.shape[1:]),
        rank=rank,
        num_columns=design.shape[1],
        condition_number=condition_number,
        sum_squared_error=float(np.sum(residuals**2)),
    )


def _solve(design: Float64Array, values: Float64Array) -> tuple[Float64Array, int, float]:
    from scipy.linalg import solve_triangular  # takes 0.3 s, which `import jaxgd` should not

    num_columns = design.shape[1]
    scale = np.linalg.norm(design, axis=0)
    scale[scale == 0] = 1.0
    q, r = np.linalg.qr(design / scale)
    singular = np.linalg.svd(r, compute_uv=False)
    rank = int(np.sum(singular > singular[0] * max(design.shape) * np.finfo(np.float64).eps))
    unscaled = np.linalg.svd(r * scale, compute_uv=False)
    if rank == num_columns:
        solution = solve_triangular(r, q.T @ values) / scale[:, None]
        return solution, rank, float(unscaled[0] / unscaled[-1])
    left, singular, right = np.linalg.svd(design, full_matrices=False)
    solution = right[:rank].T @ ((left[:, :rank].T @ values) / singular[:rank, None])
    return solution, rank, float("inf")


class _Quadratic(NamedTuple):
    """A quadratic loss around a start: Hessian `[P, P]`, gradient and start `[P, K]`."""

    hessian: Float64Array
    gradient: Float64Array
    start: Float64Array


def trajectory(
    params: Any,
    batch: Batch | None,
    *,
    learning_rate: float,
    num_steps: int,
    loss: str = "mean_squared_error",
    l2: float = 0.0,
    problem: Problem | None = None,
) -> Any:
    """Every iterate of full-batch gradient descent on a quadratic problem, without running it.

    For `L(theta) = L(theta_0) + g^T d + 1/2 d^T H d`, `d = theta - theta_0`, the update
    `theta <- theta - eta (g + H d)` gives after t steps

        theta_t = theta_0 - eta sum_{k<t} (I - eta H)^k g = theta_0 - eta Q diag(s_i(t)) Q^T g,
        s_i(t)  = (1 - (1 - eta lambda_i)^t) / (eta lambda_i),  t for lambda_i = 0,

    with `H = Q diag(lambda) Q^T`. Without `problem`, the type of `params` determines the problem. `LinearParams` and
    `LinearMapParams` are a linear model with a squared error, for which `A = [X, 1]` and
    `H = 2 c A^T A + l2 diag(1, .., 1, 0)`. `LineParams` is the line. `ScalarParams` is the parabola `x^2 - 4x + 5`
    (batch None).

    Args:
      params: the start, a `LinearParams`, `LinearMapParams`, `LineParams` or `ScalarParams`.
      batch: the data, a `Batch` or a pair (inputs, targets); with `problem`, any data that the problem accepts; None
        for `ScalarParams`.
      learning_rate: eta, `[]`.
      num_steps: T.
      loss: the name of the squared error, a key of `SQUARED_ERROR_SCALES`. It determines c. Not used for
        `ScalarParams`.
      l2: coefficient of the penalty `1/2 l2 |W|^2`.
      problem: any problem with a quadratic loss and at most 1024 parameters, also one of your own. Its gradient and
        Hessian are evaluated at the start; `loss` and `l2` are not used. None for the problems listed above.

    Returns:
      A tree like `params` of float64 NumPy arrays with a leading axis of T + 1: entry t is the parameters
      after t steps.

    Raises:
      TypeError: `params` belong to no quadratic problem, or `batch` is not a pair.
      ValueError: an argument out of range, or a `problem` that is not quadratic.
    """
    check_choice("loss", loss, SQUARED_ERROR_SCALES)
    num_steps = check_count("num_steps", num_steps, minimum=0)
    unravel = None
    if problem is None:
        quadratic = _quadratic(params, batch, loss, check_nonnegative("l2", l2))
    else:
        quadratic, unravel = _quadratic_of(problem, params, batch)
    eigenvalues, vectors = np.linalg.eigh(quadratic.hessian)
    sums = _geometric_sums(float(learning_rate) * eigenvalues, num_steps)  # [T + 1, P]
    moves = np.einsum("pq,tq,qk->tpk", vectors, sums, vectors.T @ quadratic.gradient, optimize=True)
    path = quadratic.start - float(learning_rate) * moves
    if unravel is None:
        return _restored(params, path)
    with jax.enable_x64(True):
        return jax.tree.map(np.asarray, jax.vmap(unravel)(jnp.asarray(path[:, :, 0])))


def _quadratic_of(problem: Problem, params: Any, batch: Any) -> tuple[_Quadratic, Callable[[Any], Any]]:
    """A quadratic problem around a start, in float64, and a function from a vector to its parameters."""
    with jax.enable_x64(True):
        params, batch = jax.tree.map(_in_float64, problem.accepts.arguments(params, batch))
        flat, unravel = ravel_pytree(params)
        check_count("the number of parameters", flat.size, maximum=DENSE_TRAJECTORY)

        @jax.jit
        def gradient(x: Any) -> Any:
            return ravel_pytree(problem.grad(unravel(x), batch))[0]

        matrix = np.asarray(jax.jit(lambda tree: hessian(problem, tree, batch))(params))
        start, slope = np.asarray(flat), np.asarray(gradient(flat))
        move = (1 + np.abs(start)) * np.random.default_rng(0).normal(size=start.shape)
        elsewhere, predicted = np.asarray(gradient(jnp.asarray(start + move))), slope + matrix @ move
        size = np.abs(slope).max() + (np.abs(matrix) @ np.abs(move)).max()
        if not np.abs(elsewhere - predicted).max() <= 1e-10 * size:
            raise ValueError(
                f"`problem` must be quadratic to have an exact trajectory: the Hessian of {problem.name} is not the "
                "same at all parameters."
            )
        return _Quadratic(matrix, slope[:, None], start[:, None]), unravel


def _in_float64(leaf: Any) -> Any:
    array = np.asarray(leaf)
    return jnp.asarray(array.astype(np.float64) if np.issubdtype(array.dtype, np.floating) else array)


def _geometric_sums(rates: Float64Array, num_steps: int) -> Float64Array:
    """`sum_{k<t} (1 - rate)^k` for t = 0 .. num_steps, `[T + 1, P]`, without cancellation at small rates."""
    steps = np.arange(num_steps + 1)[:, None]
    small = np.abs(rates) < 0.5
    safe = np.where(rates == 0, 1.0, rates)
    near = -np.expm1(steps * np.log1p(-np.where(small, rates, 0.0))) / safe
    far = (1.0 - (1.0 - rates) ** steps) / safe
    return np.where(rates == 0, steps, np.where(small, near, far))


def _quadratic(params: Any, batch: Batch | None, loss: str, l2: float) -> _Quadratic:
    if isinstance(params, ScalarParams):
        start = np.asarray(params.x, np.float64).reshape(1, 1)
        return _Quadratic(hessian=np.array([[2.0]]), gradient=2.0 * start - 4.0, start=start)
    if batch is None:
        raise ValueError("`batch` must hold the data of the squared error, got None.")
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise TypeError(
            f"`batch` must be a jaxgd.Batch or a pair (inputs, targets), got {type(batch).__name__}; "
            "with `problem` it takes every form."
        )
    inputs, targets = (np.asarray(part, np.float64) for part in batch)
    if isinstance(params, LinearParams):
        weights = np.asarray(params.weights, np.float64)
        start = np.vstack([weights.reshape(len(weights), -1), np.atleast_1d(params.bias)])
    elif isinstance(params, LinearMapParams):
        start = np.vstack([np.asarray(params.matrix, np.float64).T, params.bias])
    elif isinstance(params, LineParams):
        start = np.array([[params.slope], [params.intercept]], np.float64)
    else:
        raise TypeError(
            "`params` must be a LinearParams, LinearMapParams, LineParams or ScalarParams, "
            f"got {type(params).__name__}."
        )
    inputs = inputs.reshape(-1, len(start) - 1)
    design = np.column_stack([inputs, np.ones(len(inputs))])
    scale = 2.0 * SQUARED_ERROR_SCALES[loss](len(inputs))
    penalty = l2 * np.diag(np.append(np.ones(len(start) - 1), 0.0))
    residuals = design @ start - targets.reshape(len(inputs), -1)
    return _Quadratic(
        hessian=scale * design.T @ design + penalty,
        gradient=scale * design.T @ residuals + penalty @ start,
        start=start,
    )


def _restored(params: Any, path: Float64Array) -> Any:
    """Convert `[T, P, K]` to a tree like `params` with a leading axis of T."""
    if isinstance(params, ScalarParams):
        return ScalarParams(path[:, 0, 0])
    if isinstance(params, LineParams):
        return LineParams(intercept=path[:, 1, 0], slope=path[:, 0, 0])
    if isinstance(params, LinearMapParams):
        return LinearMapParams(matrix=path[:, :-1].transpose(0, 2, 1), bias=path[:, -1])
    return LinearParams(
        weights=path[:, :-1].reshape(len(path), *np.shape(params.weights)),
        bias=path[:, -1].reshape(len(path), *np.shape(params.bias)),
    )


FIRST_ROWS = 20
"""The first separability program has this many rows for each column."""


def linearly_separable(inputs: Any, labels: Any) -> bool:
    """Whether hyperplanes separate the classes.

    The classes are separable if there are scores `x . w_k + b_k` of which in every row that of the label is highest.
    Then the unpenalised logistic or softmax loss has no minimiser: along the separating direction the loss falls to 0,
    and the weights grow without end (Albert & Anderson 1984, Biometrika 71, 1-10). A linear program decides this, up to
    the tolerance of the solver. Its constraints are `x_i . (w_y - w_k) + b_y - b_k >= 1` for the label y of row i and
    every other class k. For two classes only the difference of the scores matters, so the program has half as many
    unknowns.

    Args:
      inputs: `[N, D]`, real.
      labels: `[N]`, in {0, .., K - 1}.

    Returns:
      True if the linear program is feasible.

    Raises:
      ValueError: the solver did not find out whether the program is feasible.
    """
    from scipy.optimize import linprog

    inputs, labels = np.asarray(inputs), np.asarray(labels, int)
    scale = np.abs(inputs).max(axis=0)
    scale = np.where(scale == 0, 1.0, scale)
    num_classes = max(int(labels.max()) + 1, 2)
    # The program of all rows takes 30 times their memory. That of a few, and of those that its answer does not
    # separate, decides as well: most data are found not to be separable by the first few.
    rows = np.random.default_rng(0).permutation(len(inputs))[: FIRST_ROWS * (inputs.shape[1] + 1)]
    while True:
        design = np.column_stack([inputs[rows] / scale, np.ones(len(rows))])
        matrix = _score_differences(design, labels[rows], num_classes)
        answer = linprog(
            np.zeros(matrix.shape[1]), A_ub=-matrix, b_ub=-np.ones(matrix.shape[0]), bounds=(None, None), method="highs"
        )
        if answer.status == 2:
            return False
        if answer.status != 0:
            raise ValueError(f"`inputs`: the solver did not decide separability ({answer.message}).")
        found = answer.x.reshape(-1, design.shape[1])
        scores = inputs @ (found[:, :-1] / scale).T + found[:, -1]
        if num_classes == 2:
            scores = np.column_stack([-scores, scores]) / 2
        of_label = np.take_along_axis(scores, labels[:, None], axis=1)
        others = np.where(labels[:, None] == np.arange(num_classes), -np.inf, scores)
        margins = of_label[:, 0] - others.max(axis=1)
        margins[rows] = 1.0  # within the solver's tolerance
        wrong = np.flatnonzero(margins <= 0)
        if not len(wrong):
            return True
        rows = np.concatenate([rows, wrong[np.argsort(margins[wrong])[: len(rows)]]])


def _score_differences(design: Float64Array, labels: Any, num_classes: int) -> Any:
    """The matrix that maps weights to differences of scores, label minus other class, for each row: `[N (K - 1), K D]`.

    For two classes the unknown is the difference of their weights, and the matrix is `[N, D]`.
    """
    from scipy.sparse import coo_array

    if num_classes == 2:
        return np.where(labels == 1, 1.0, -1.0)[:, None] * design
    width = design.shape[1]
    rows, others = np.nonzero(labels[:, None] != np.arange(num_classes))
    columns = [(classes[:, None] * width + np.arange(width)).ravel() for classes in (labels[rows], others)]
    number, values = np.repeat(np.arange(len(rows)), width), design[rows].ravel()
    entries = (np.concatenate([values, -values]), (np.tile(number, 2), np.concatenate(columns)))
    return coo_array(entries, shape=(len(rows), num_classes * width)).tocsr()


def separates(params: Any, inputs: Any, labels: Any) -> bool:
    """Whether fitted parameters separate the classes: in every row the score of the label is the highest.

    Each difference of scores must exceed its rounding error, `(D + 1) eps sum_j |x_j| |w_j|`, in float64.

    Args:
      params: `LinearParams`, weights `[D]` of a logistic regression or `[D, K]` of a softmax regression.
      inputs: `[N, D]`, real.
      labels: `[N]`, in {0, .., K - 1}.

    Returns:
      True if the parameters separate the classes.
    """
    inputs, labels = np.asarray(inputs, np.float64), np.asarray(labels, int)
    weights = np.asarray(params.weights, np.float64).reshape(inputs.shape[1], -1)
    bias = np.zeros(weights.shape[1]) + np.asarray(getattr(params, "bias", 0.0), np.float64)
    if weights.shape[1] == 1:
        weights, bias = np.column_stack([-weights, weights]), np.concatenate([-bias, bias])
    if not np.all(np.isfinite(weights)):
        return False
    scores = inputs @ weights + bias
    rounding = (inputs.shape[1] + 1) * np.finfo(np.float64).eps * (np.abs(inputs) @ np.abs(weights) + np.abs(bias))
    of_label = np.take_along_axis(scores - rounding, labels[:, None], axis=1)
    others = np.where(labels[:, None] == np.arange(weights.shape[1]), -np.inf, scores + rounding)
    return bool(np.all(of_label > others))
