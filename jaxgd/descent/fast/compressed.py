"""Least squares by sufficient statistics, whose size does not depend on the number of rows."""

import functools
import math
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgd.data.statistics import Statistics
from jaxgd.descent.fast.parts import unpenalised
from jaxgd.penalty import penalisable
from jaxgd.types import Batch, Params, Problem, System

CHUNK_BYTES = 2**23
"""Bytes of a chunk of rows in float64 while statistics are gathered."""


def compress(problem: Problem, batch: Batch | Iterable[Batch]) -> tuple[Problem, Batch]:
    """Replace the rows of least squares by few rows with the same loss. A step then costs O(D^2) for any N.

    Let `m` be the means of the N rows of `[X, Y]`, and `G = sum_i (x_i - m_x)(x_i - m_x)^T = V diag(e) V^T`. For any
    parameters (W, b)

        |X W + b - Y|^2 = |diag(sqrt e) V^T W - T|^2 + N |m_x W + b - m_y|^2 + R,
        T = diag(1 / sqrt e) V^T sum_i (x_i - m_x)(y_i - m_y)^T,   R = sum_i |y_i - m_y|^2 - |T|^2.

    So D + 2 rows have the same sum of squared errors as all N rows: the D rows of `diag(sqrt e) V^T`, the mean times
    `sqrt N`, and one row for the constant R, which does not depend on the parameters. The statistics are centred, which
    keeps them accurate for columns with a mean far from 0. They are summed in float64 over chunks of rows (Chan, Golub
    and LeVeque 1983), and only one chunk is in memory. The absolute error of the loss is about 1e-16 times
    `sum_i |y_i - m_y|^2`.

    Args:
      problem: a problem with a `linear_form`: `linear_map`, `line` or `linear_regression`.
      batch: all rows, as a `Batch` or a pair (inputs, targets). Or an iterable of such batches, which are read once and
        one after the other, for a file that does not fit into memory.

    Returns:
      The problem for the small batch, with the penalty, and the small batch: inputs `[D + 2, D + 1]` (the last column
      multiplies the bias), targets `[D + 2]` or `[D + 2, K]`, in the dtype of the inputs.

    Raises:
      ValueError: the problem has no `linear_form`, no row is given, rows are not finite, or batches have different
        numbers of columns.
    """
    form = problem.linear_form
    if form is None:
        raise ValueError(f"`problem` must be a squared error of a linear model to be compressed, got {problem.name}.")
    statistics, dtype, vector = Statistics.empty(0), None, False
    num_inputs, buffer = 0, np.zeros((0, 0))
    for inputs, targets, given in _chunks(problem, form, batch):
        columns = [inputs, targets.reshape(len(targets), -1)]
        width = sum(part.shape[1] for part in columns) + 1
        if statistics.num_rows and (inputs.shape[1], width) != (num_inputs, buffer.shape[1]):
            raise ValueError(f"`batch` must have {num_inputs} columns of inputs in every chunk, got {inputs.shape}.")
        if len(inputs) > len(buffer):
            buffer = np.ones((len(inputs), width))  # the last column stays: its products are sums
        statistics = statistics.with_rows(columns, buffer[: len(inputs)])
        num_inputs, dtype, vector = inputs.shape[1], given, targets.ndim == 1
    if not statistics.num_rows:
        raise ValueError("`batch` must have at least one row, got 0.")
    if not np.isfinite(statistics.scatter).all():
        raise ValueError("`batch` must be finite to be compressed, got NaN or infinity, or values whose squares are.")
    inputs, targets = _small_rows(statistics, num_inputs)
    scale = math.sqrt(form.scale(statistics.num_rows))
    targets = scale * (targets[:, 0] if vector else targets)
    dtype = jax.dtypes.canonicalize_dtype(dtype)  # float32 where jax computes in it, whatever the file held
    return _compressed(problem), Batch(jnp.asarray(scale * inputs, dtype), jnp.asarray(targets, dtype))


def _small_rows(statistics: Statistics, num_inputs: int) -> tuple[Any, Any]:
    """Inputs `[D + 2, D + 1]` and targets `[D + 2, K]` with the same sum of squared errors."""
    x, y = slice(num_inputs), slice(num_inputs, None)
    eigenvalues, vectors = np.linalg.eigh(statistics.scatter[x, x])
    # Rounding makes the eigenvalues of collinear columns slightly negative.
    eigenvalues = np.maximum(eigenvalues, 0.0)
    roots = np.sqrt(eigenvalues)
    # Below the rounding of the largest a direction is not in the data, and its targets are rest.
    seen = eigenvalues > np.finfo(np.float64).eps * num_inputs * np.max(eigenvalues, initial=0.0)
    along = np.where(seen, 1.0 / np.where(seen, roots, 1.0), 0.0)[:, None] * (vectors.T @ statistics.scatter[x, y])
    rest = np.maximum(np.diag(statistics.scatter[y, y]) - np.sum(along**2, axis=0), 0.0)
    inputs = np.zeros((num_inputs + 2, num_inputs + 1))
    inputs[:num_inputs, :num_inputs] = np.where(seen, roots, 0.0)[:, None] * vectors.T
    inputs[num_inputs] = math.sqrt(statistics.num_rows) * np.append(statistics.mean[x], 1.0)
    return inputs, np.concatenate([along, [math.sqrt(statistics.num_rows) * statistics.mean[y]], [np.sqrt(rest)]])


def _chunks(problem: Problem, form: Any, batch: Any) -> Iterable[tuple[Any, Any, Any]]:
    """Inputs, targets and the dtype of the inputs, few rows at a time."""
    # A pair of arrays is one batch, a tuple of batches is several.
    chunk = (Batch, tuple, Mapping)
    one = isinstance(batch, chunk) and not (type(batch) is tuple and all(isinstance(part, chunk) for part in batch))
    for part in [batch] if one else batch:
        inputs, targets = map(np.asarray, form.rows(problem.accepts.batch(part)))
        if len(inputs) != len(targets):
            raise ValueError(f"`targets` must have {len(inputs)} rows (those of the inputs), got {len(targets)}.")
        size = max(CHUNK_BYTES // (8 * max(inputs.shape[1], 1)), 1)
        for first in range(0, len(inputs), size):
            yield inputs[first : first + size], targets[first : first + size], inputs.dtype


@functools.lru_cache(maxsize=256)
def _compressed(problem: Problem) -> Problem:
    form = problem.linear_form
    assert form is not None

    def residuals(params: Params, batch: Batch) -> jax.Array:
        joined: jax.Array = batch.inputs @ form.join(params) - batch.targets
        return joined

    def loss(params: Params, batch: Batch) -> jax.Array:
        return jnp.sum(jnp.square(residuals(params, batch)))

    def grad(params: Params, batch: Batch) -> Params:
        """`2 X^T (X Theta - T)`, as of any squared error."""
        return form.split(2 * (residuals(params, batch).T @ batch.inputs).T)

    small = Problem(
        name=f"compressed({unpenalised(problem).name})",
        loss=loss,
        grad=grad,
        reduction="sum",
        system=System(
            predict=problem.predict,
            formulas=problem.formulas,
        ),
    )
    return penalisable(small, problem.l2) if problem.penalty is not None else small
