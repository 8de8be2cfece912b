"""One big sum over rows, evaluated another way: tile by tile, over devices, or from its statistics.

Each function takes a problem whose loss adds up over rows and gives one with the same loss and gradient, within
rounding: no step of descent can tell them apart, but for its time.
"""

import functools
import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxgd.penalty import penalisable
from jaxgd.types import Batch, Params, Problem, evaluate
from jaxgd.validation import check_choice, check_count, check_rows

ROWS_AXIS = "rows"
"""The axis of a mesh over which rows are spread, where the mesh has others too."""

TILE_BYTES = 2**20
"""Of a tile: the size of a core's cache of the second level, so that the second use of a row is no read of memory."""

CHUNK_BYTES = 2**23
"""Of a chunk of rows in float64 while statistics are gathered."""

EVALUATIONS = ("auto", "plain", "tiled", "sharded", "compressed")
"""How a sum over rows may be evaluated; "auto" is what `plan` takes for its size."""

TILED_FROM, SHARDED_FROM, COMPRESSED_FROM = 2**22, 2**24, 2**20
"""Bytes of a batch from which each pays, measured on two cores: out of the cache, worth two threads, worth a pass."""


def tiled(problem: Problem, rows: int | None = None) -> Problem:
    """Evaluate a loss and its gradient tile by tile: each row is read from memory once a step.

    With tiles T of the rows, `L = sum_T L_T` for a sum and `L = sum_T n_T / N L_T` for a mean, and the gradient
    likewise; a tile's gradient is taken while the tile is in cache. The last tile holds the rows that are left.
    Under vmap all lanes share each tile. The inputs are not copied.

    Args:
      problem: one whose loss is the mean or the sum, as its `reduction` says, of terms of single rows, and the
        penalty on its weights. The rows are the leading axis of every array in the batch.
      rows: of a tile; None for tiles of `TILE_BYTES`.

    Returns:
      The problem; the same arguments give the same object. A batch of no more rows than a tile is evaluated whole.

    Raises:
      ValueError: `rows` is below 1.
      TypeError: `rows` is not an integer.
    """
    return _tiled(problem, None if rows is None else check_count("rows", rows))


@functools.lru_cache(maxsize=256)
def _tiled(problem: Problem, rows: int | None) -> Problem:
    base = _unpenalised(problem)

    def value_and_grad(params: Params, batch: Any) -> tuple[jax.Array, Params]:
        num_rows = _count_rows(base, batch)
        size = rows or _tile_rows(batch)
        if num_rows <= size:
            return evaluate(base, params, batch)
        num_tiles = num_rows // size

        def add_tile(index: Any, total: Any) -> Any:
            tile = jax.tree.map(lambda array: lax.dynamic_slice_in_dim(array, index * size, size), batch)
            return jax.tree.map(jnp.add, total, _weighted(base, params, tile, size))

        shapes = jax.eval_shape(functools.partial(evaluate, base), params, batch)
        total = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        total = lax.fori_loop(0, num_tiles, add_tile, total)
        left = num_rows - num_tiles * size
        if left:
            rest = jax.tree.map(lambda array: array[num_tiles * size :], batch)
            total = jax.tree.map(jnp.add, total, _weighted(base, params, rest, left))
        return _averaged(base, total, num_rows)

    arguments = "" if rows is None else f", rows={rows}"
    return _evaluated_by(problem, base, f"tiled({base.name}{arguments})", value_and_grad)


def sharded(problem: Problem, mesh: Mesh) -> Problem:
    """Spread the rows over devices: each evaluates its own, and the sums meet by `psum`.

    Rows that the devices cannot share out evenly are evaluated by all of them, once in the sum. Composes with
    `tiled`, as `sharded(tiled(problem), mesh)`, and with the lanes of a sweep on another axis of the mesh.

    Args:
      problem: see `tiled`.
      mesh: rows are spread over its axis "rows", or over all axes where it has none of this name.

    Returns:
      The problem; the same arguments give the same object.

    Raises:
      TypeError: `mesh` is no mesh.
    """
    if not isinstance(mesh, Mesh):
        raise TypeError(f"`mesh` must be a jax.sharding.Mesh, got {type(mesh).__name__}.")
    return _sharded(problem, automatic(mesh))


@functools.lru_cache(maxsize=256)
def _sharded(problem: Problem, mesh: Mesh) -> Problem:
    base = _unpenalised(problem)
    axes, num_shards = _shards(mesh)

    def value_and_grad(params: Params, batch: Any) -> tuple[jax.Array, Params]:
        num_rows = _count_rows(base, batch)
        each = num_rows // num_shards
        if not each:
            return evaluate(base, params, batch)
        shared = each * num_shards

        def add_shards(params: Params, shard: Any) -> Any:
            return lax.psum(_weighted(base, params, shard, each), axes)

        spread = jax.shard_map(
            add_shards,
            mesh=mesh,
            in_specs=(PartitionSpec(), PartitionSpec(axes)),
            out_specs=PartitionSpec(),
            check_vma=False,  # a tile's loop starts from zeros that no device calls its own
        )
        head = batch if shared == num_rows else jax.tree.map(lambda array: array[:shared], batch)
        total = spread(params, head)
        if shared < num_rows:
            rest = jax.tree.map(lambda array: array[shared:], batch)
            total = jax.tree.map(jnp.add, total, _weighted(base, params, rest, num_rows - shared))
        return _averaged(base, total, num_rows)

    return _evaluated_by(problem, base, f"sharded({base.name}, {num_shards} devices)", value_and_grad)


def compress(problem: Problem, batch: Batch | Iterable[Batch]) -> tuple[Problem, Batch]:
    """A squared error of a linear model by its sufficient statistics: a step then costs O(D^2), whatever N.

    With the means `m` of the N rows of `[X, Y]`, and `G = sum_i (x_i - m_x)(x_i - m_x)^T = V diag(e) V^T`, for
    any parameters (W, b)

        |X W + b - Y|^2 = |diag(sqrt e) V^T W - T|^2 + N |m_x W + b - m_y|^2 + R,
        T = diag(1 / sqrt e) V^T sum_i (x_i - m_x)(y_i - m_y)^T,   R = sum_i |y_i - m_y|^2 - |T|^2.

    So D + 2 rows have the same sum of squared errors as all N: those of `diag(sqrt e) V^T`, the mean times
    `sqrt N`, and one for the rest R, that no parameter moves. Statistics are centred, so that columns far from 0
    keep their digits, and added up in float64 over chunks (Chan, Golub and LeVeque 1983); the rows of one chunk
    are all that is held in memory. The loss near 0 is known to 1e-16 of `sum_i |y_i - m_y|^2`.

    Args:
      problem: one with a `linear_form`: `linear_map`, `line`, `linear_regression`.
      batch: all rows, or an iterable of batches that are read once, one at a time: chunks of a file that does
        not fit into memory.

    Returns:
      The problem of the small batch, with the penalty, and the batch: inputs `[D + 2, D + 1]` (the last column
      multiplies the bias), targets `[D + 2]` or `[D + 2, K]`, in the dtype of the inputs.

    Raises:
      ValueError: another problem; no rows; rows that are not finite, or differ in their columns.
    """
    form = problem.linear_form
    if form is None:
        raise ValueError(f"`problem` must be a squared error of a linear model to be compressed, got {problem.name}.")
    statistics, dtype, vector = _Statistics(0, 0.0, 0.0), None, False
    num_inputs, buffer = 0, np.zeros((0, 0))
    for inputs, targets, of in _chunks(form, batch):
        columns = [inputs, targets.reshape(len(targets), -1)]
        width = sum(part.shape[1] for part in columns) + 1
        if statistics.num_rows and (inputs.shape[1], width) != (num_inputs, buffer.shape[1]):
            raise ValueError(f"`batch` must have {num_inputs} columns of inputs in every chunk, got {inputs.shape}.")
        if len(inputs) > len(buffer):
            buffer = np.ones((len(inputs), width))  # the last column stays: its products are sums
        statistics = statistics.with_rows(columns, buffer[: len(inputs)])
        num_inputs, dtype, vector = inputs.shape[1], of, targets.ndim == 1
    if not statistics.num_rows:
        raise ValueError("`batch` must have at least one row, got 0.")
    if not np.isfinite(statistics.scatter).all():
        raise ValueError("`batch` must be finite to be compressed, got NaN or infinity, or values whose squares are.")
    inputs, targets = statistics.rows(num_inputs)
    scale = math.sqrt(form.scale(statistics.num_rows))
    targets = scale * (targets[:, 0] if vector else targets)
    return _compressed(problem), Batch(jnp.asarray(scale * inputs, dtype), jnp.asarray(targets, dtype))


class _Statistics(NamedTuple):
    """Of the rows of `[X, Y]` so far, `[P]` columns together, float64.

    Attributes:
      num_rows: N.
      mean: `[P]`.
      scatter: `[P, P]`, `sum_i (row_i - mean)(row_i - mean)^T`.
    """

    num_rows: int
    mean: Any
    scatter: Any

    def with_rows(self, columns: list[Any], buffer: Any) -> "_Statistics":
        """Take in more rows, written to a buffer as differences from the mean so far; its last column is 1."""
        if not len(buffer):
            return self
        with np.errstate(all="ignore"):  # what is not finite is told of at the end
            known = self.mean if self.num_rows else np.concatenate([part[:1000].mean(axis=0) for part in columns])
            first = 0
            for part in columns:
                last = first + part.shape[1]
                np.subtract(part, known[first:last], out=buffer[:, first:last])
                first = last
            products = buffer.T @ buffer
            apart = products[-1, :-1] / len(buffer)
            scatter = products[:-1, :-1] - len(buffer) * np.outer(apart, apart)
            mean = known + apart
            if not self.num_rows:
                return _Statistics(len(buffer), mean, scatter)
            num_rows, step = self.num_rows + len(buffer), mean - self.mean
            between = self.num_rows * len(buffer) / num_rows * np.outer(step, step)
            return _Statistics(num_rows, self.mean + step * (len(buffer) / num_rows), self.scatter + scatter + between)

    def rows(self, num_inputs: int) -> tuple[Any, Any]:
        """Inputs `[D + 2, D + 1]` and targets `[D + 2, K]` with the same sum of squared errors."""
        x, y = slice(num_inputs), slice(num_inputs, None)
        eigenvalues, vectors = np.linalg.eigh(self.scatter[x, x])
        eigenvalues = np.maximum(eigenvalues, 0.0)
        roots = np.sqrt(eigenvalues)
        seen = eigenvalues > np.finfo(np.float64).eps * num_inputs * np.max(eigenvalues, initial=0.0)
        along = np.where(seen, 1.0 / np.where(seen, roots, 1.0), 0.0)[:, None] * (vectors.T @ self.scatter[x, y])
        rest = np.maximum(np.diag(self.scatter[y, y]) - np.sum(along**2, axis=0), 0.0)
        inputs = np.zeros((num_inputs + 2, num_inputs + 1))
        inputs[:num_inputs, :num_inputs] = np.where(seen, roots, 0.0)[:, None] * vectors.T
        inputs[num_inputs] = math.sqrt(self.num_rows) * np.append(self.mean[x], 1.0)
        return inputs, np.concatenate([along, [math.sqrt(self.num_rows) * self.mean[y]], [np.sqrt(rest)]])


def _chunks(form: Any, batch: Batch | Iterable[Batch]) -> Iterable[tuple[Any, Any, Any]]:
    """Inputs, targets and the dtype of the inputs, few rows at a time."""
    for part in [batch] if isinstance(batch, Batch) else batch:
        inputs, targets = map(np.asarray, form.rows(part))
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
        name=f"compressed({_unpenalised(problem).name})",
        loss=loss,
        grad=grad,
        predict=problem.predict,
        reduction="sum",
        formulas=problem.formulas,
    )
    return penalisable(small, problem.l2) if problem.penalty is not None else small


def automatic(mesh: Mesh) -> Mesh:
    """The mesh with axes whose sharding jax works out: those of `jax.make_mesh` want it spelled out at every product.

    Args:
      mesh: any.

    Returns:
      A mesh of the same devices and names.
    """
    return Mesh(mesh.devices, mesh.axis_names)


class Plan(NamedTuple):
    """How the rows of a run are evaluated.

    Attributes:
      problem: the same loss and gradient.
      batch: the rows, or what stands for them, where they are needed.
      evaluation: which one it is; one of `EVALUATIONS`.
    """

    problem: Problem
    batch: Any
    evaluation: str


def plan(
    problem: Problem,
    batch: Any,
    *,
    num_steps: int,
    batch_size: int | None = None,
    evaluation: str = "auto",
    num_lanes: int = 1,
    mesh: Mesh | None = None,
) -> Plan:
    """Lay out a sum over rows for the way it is evaluated.

    Args:
      problem: what to minimise.
      batch: the data.
      num_steps: of the run.
      batch_size: rows in a mini-batch, or None.
      evaluation: one of `EVALUATIONS`; "auto" is `fastest`.
      num_lanes: runs at a time, which share each tile.
      mesh: of the lanes, or None; rows are then spread over its axis "rows" alone.

    Returns:
      The plan.

    Raises:
      ValueError: an unknown evaluation, one that does not go with mini-batches or with the problem.
    """
    check_choice("evaluation", evaluation, EVALUATIONS)
    if batch_size is not None and evaluation not in ("auto", "plain"):
        raise ValueError(f"`evaluation` must be 'auto' or 'plain' with a `batch_size`, got {evaluation!r}.")
    chosen = evaluation
    if evaluation == "auto":
        chosen = fastest(problem, batch, num_steps=num_steps, batch_size=batch_size, num_lanes=num_lanes, mesh=mesh)
    if chosen == "compressed":
        try:
            small, rows = compress(problem, batch)
        except ValueError:
            if evaluation == chosen:
                raise
            chosen = "tiled"  # rows that are not finite: the run says so
        else:
            return Plan(small, rows, chosen)
    if chosen == "tiled":
        return Plan(tiled(problem, _tile_rows(batch, num_lanes)), batch, chosen)
    if chosen == "sharded":
        if mesh is None:
            mesh = Mesh(np.asarray(jax.devices()), (ROWS_AXIS,))
        inner = tiled(problem, _tile_rows(batch, num_lanes)) if jax.default_backend() == "cpu" else problem
        return Plan(sharded(inner, mesh), spread(batch, mesh), chosen)
    return Plan(problem, batch, "plain")


def spread(batch: Any, mesh: Mesh) -> Any:
    """Put the rows where a problem `sharded` over the mesh wants them; processes give the same rows each.

    Args:
      batch: a tree of arrays that share their leading axis N.
      mesh: see `sharded`.

    Returns:
      The tree of global arrays: shares of the rows, or all of them everywhere where they cannot be shared out.
    """
    axes, num_shards = _shards(mesh)
    even = check_rows(batch) % num_shards == 0
    return _placed(batch, NamedSharding(mesh, PartitionSpec(axes) if even else PartitionSpec()))


def everywhere(tree: Any) -> Any:
    """What every process holds in the same way, as global arrays.

    Args:
      tree: of arrays, with the same values in each process.

    Returns:
      The tree, on all devices of all processes.
    """
    return _placed(tree, NamedSharding(Mesh(np.asarray(jax.devices()), (ROWS_AXIS,)), PartitionSpec()))


def _shards(mesh: Mesh) -> tuple[tuple[str, ...], int]:
    """The axes over which rows are spread, and into how many parts."""
    axes = (ROWS_AXIS,) if ROWS_AXIS in mesh.axis_names else mesh.axis_names
    return axes, math.prod(mesh.shape[axis] for axis in axes)


def _placed(tree: Any, sharding: NamedSharding) -> Any:
    """Global arrays; those that span several processes were laid out by the caller, and stay as they are."""

    def place(leaf: Any) -> jax.Array:
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            return leaf
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(place(jax.random.key_data(leaf)), impl=jax.random.key_impl(leaf))
        return jax.make_array_from_callback(leaf.shape, sharding, np.asarray(leaf).__getitem__)

    return jax.tree.map(place, tree)


def fastest(
    problem: Problem,
    batch: Any,
    *,
    num_steps: int,
    batch_size: int | None = None,
    num_lanes: int = 1,
    mesh: Mesh | None = None,
) -> str:
    """The evaluation that "auto" stands for.

    A squared error of a linear model is compressed from `COMPRESSED_FROM` bytes on, if the run has as many steps
    as a row has numbers; `SHARDED_FROM` bytes are spread over all devices where there are several, and any number
    over several processes; on a CPU `TILED_FROM` bytes are tiled. What is smaller, is cut into mini-batches, is not
    known to add up over rows, or is evaluated in a way of its own already, is left alone.

    Args:
      problem: see `plan`.
      batch: see `plan`.
      num_steps: see `plan`.
      batch_size: see `plan`.
      num_lanes: see `plan`.
      mesh: see `plan`.

    Returns:
      One of `EVALUATIONS`, "auto" excepted.
    """
    if batch_size is not None or problem.row_sum is None or problem.value_and_grad is not None:
        return "plain"
    num_rows = problem.row_sum.num_rows(batch)
    if num_rows == 1:
        return "plain"
    if jax.process_count() > 1:
        return "sharded"
    leaves = jax.tree.leaves(batch)
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
    row = sum(math.prod(leaf.shape[1:]) for leaf in leaves)
    if problem.linear_form is not None and size >= COMPRESSED_FROM and num_steps >= row:
        return "compressed"
    if mesh is not None and ROWS_AXIS in mesh.axis_names:
        return "sharded"
    if mesh is None and len(jax.devices()) > 1 and size >= SHARDED_FROM:
        return "sharded"
    predictions = num_rows * num_lanes * leaves[0].dtype.itemsize
    return "tiled" if jax.default_backend() == "cpu" and max(size, predictions) >= TILED_FROM else "plain"


def _unpenalised(problem: Problem) -> Problem:
    return problem if problem.penalty is None else problem.penalty.with_l2(0.0)


def _count_rows(problem: Problem, batch: Any) -> int:
    return problem.row_sum.num_rows(batch) if problem.row_sum is not None else check_rows(batch)


def _tile_rows(batch: Any, num_lanes: int = 1) -> int:
    """A power of two, so that tiles start where vectors do; with the predictions of all lanes it fits the cache."""
    leaves = jax.tree.leaves(batch)
    row = sum(leaf.dtype.itemsize * math.prod(leaf.shape[1:]) for leaf in leaves)
    row += sum(leaf.dtype.itemsize for leaf in leaves[:1]) * (num_lanes - 1)
    # A matrix product reuses what it reads; lanes fill its tiles better than they fit the nearest cache.
    budget = TILE_BYTES if num_lanes == 1 else 4 * TILE_BYTES
    return int(2 ** np.clip(int(np.log2(budget / max(row, 1))), 6, 14))


def _weighted(problem: Problem, params: Params, part: Any, num_rows: int) -> Any:
    """Loss and gradient of some rows as sums over them."""
    total = evaluate(problem, params, part)
    return total if problem.reduction == "sum" else jax.tree.map(lambda leaf: leaf * num_rows, total)


def _averaged(problem: Problem, total: Any, num_rows: int) -> tuple[jax.Array, Params]:
    if problem.reduction == "mean":
        total = jax.tree.map(lambda leaf: leaf / num_rows, total)
    value, grads = total
    return value, grads


def _evaluated_by(problem: Problem, base: Problem, name: str, value_and_grad: Any) -> Problem:
    """`problem` with its loss and gradient, without the penalty, from `value_and_grad`; then the penalty."""
    changed = base._replace(
        name=name,
        loss=lambda params, batch: value_and_grad(params, batch)[0],
        grad=lambda params, batch: value_and_grad(params, batch)[1],
        value_and_grad=value_and_grad,
    )
    if problem.penalty is None:
        return changed
    return penalisable(changed, problem.l2)._replace(minimizer=problem.minimizer)
