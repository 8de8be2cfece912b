"""A sum over rows that are spread over devices."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxgd.descent.fast.parts import count_rows, evaluated_by, reduce_sum, sum_over, unpenalised
from jaxgd.penalty import penalisable
from jaxgd.types import Params, Problem, evaluate
from jaxgd.validation import check_rows

ROWS_AXIS = "rows"
"""The axis of a mesh over which rows are spread, if the mesh has others too."""


def sharded(problem: Problem, mesh: Mesh) -> Problem:
    """Distribute the rows over devices: each device evaluates its rows, and `psum` adds the sums.

    If the number of rows is not a multiple of the number of devices, all devices evaluate the remaining rows, which
    count only once in the sum. Can be combined with `tiled`, as `sharded(tiled(problem), mesh)`, and with the lanes of
    a sweep on another axis of the mesh.

    Args:
      problem: see `tiled`.
      mesh: the mesh. Rows are distributed over its axis "rows", or over all axes if none has this name.

    Returns:
      The problem; the same arguments give the same object.

    Raises:
      TypeError: `mesh` is not a mesh.
    """
    if not isinstance(mesh, Mesh):
        raise TypeError(f"`mesh` must be a jax.sharding.Mesh, got {type(mesh).__name__}.")
    return _sharded(problem, automatic(mesh))


@functools.lru_cache(maxsize=256)
def _sharded(problem: Problem, mesh: Mesh) -> Problem:
    base = unpenalised(problem)
    axes, num_shards = _shards(mesh)

    def value_and_grad(params: Params, batch: Any) -> tuple[jax.Array, Params]:
        num_rows = count_rows(base, batch)
        each = num_rows // num_shards
        if not each:  # fewer rows than devices
            return evaluate(base, params, batch)
        shared = each * num_shards

        def add_shards(params: Params, shard: Any) -> Any:
            return _sum_over_devices(sum_over(base, params, shard, each), axes)

        spread_sum = jax.shard_map(
            add_shards,
            mesh=mesh,
            in_specs=(PartitionSpec(), PartitionSpec(axes)),
            out_specs=PartitionSpec(),
            check_vma=False,  # the loop over tiles starts from zeros that belong to no device
        )
        head = batch if shared == num_rows else jax.tree.map(lambda array: array[:shared], batch)
        total = spread_sum(params, head)
        if shared < num_rows:
            rest = jax.tree.map(lambda array: array[shared:], batch)
            total = jax.tree.map(jnp.add, total, sum_over(base, params, rest, num_rows - shared))
        return reduce_sum(base, total, num_rows)

    call = functools.partial(sharded, problem, mesh)
    return evaluated_by(problem, f"sharded({base.name}, {num_shards} devices)", value_and_grad, call)


@functools.partial(jax.tree_util.register_dataclass, data_fields=("rows", "counts"), meta_fields=("num_rows",))
@dataclasses.dataclass(frozen=True)
class Shares:
    """Rows of which every process has its own, as many as it likes.

    Attributes:
      rows: a batch of global arrays, as many rows on each device; those of a device are filled up by its last one.
      counts: `[devices]` int32, the rows of each device that count.
      num_rows: N, those of all devices.
    """

    rows: Any
    counts: jax.Array
    num_rows: int


def shares_of(batch: Any, shares: tuple[int, ...]) -> Shares:
    """Lay out the rows of every process over all devices, without sending one of them.

    Args:
      batch: the rows of this process.
      shares: how many rows each process has.

    Returns:
      The rows of all processes.
    """
    here, sharding = jax.local_device_count(), NamedSharding(_all_devices(), PartitionSpec(ROWS_AXIS))
    each = max(-(-size // here) for size in shares)
    places = np.array_split(np.arange(shares[jax.process_index()]), here)
    # A device without rows is given zeros, none of which counts.
    taken = [np.resize(np.append(place, place[-1:].repeat(each - len(place))), each) for place in places]
    empty = np.repeat([not len(place) for place in places], each)

    def laid_out(leaf: Any) -> jax.Array:
        values = np.asarray(leaf)
        if not len(values):
            values = np.zeros((1, *values.shape[1:]), values.dtype)
        filled = values[np.concatenate(taken).astype(int)]
        filled[empty] = 0
        return jax.make_array_from_process_local_data(sharding, filled)

    counts = jax.make_array_from_process_local_data(sharding, np.array([len(place) for place in places], np.int32))
    return Shares(jax.tree.map(laid_out, batch), counts, sum(shares))


@functools.lru_cache(maxsize=256)
def of_shares(problem: Problem) -> Problem:
    """The problem on `Shares`: every device evaluates its rows, and the sums of all meet by `psum`."""
    base = unpenalised(problem)

    def value_and_grad(params: Params, shares: Shares) -> tuple[jax.Array, Params]:
        def add_shares(params: Params, rows: Any, count: jax.Array) -> Any:
            each = check_rows(rows)
            total = sum_over(base, params, rows, each)
            # All devices run one program on arrays of one shape. What the rows that fill one up add is taken off.
            one = sum_over(base, params, jax.tree.map(lambda array: array[-1:], rows), 1)
            spare = each - count[0]
            total = jax.tree.map(lambda leaf, by_one: leaf - spare.astype(leaf.dtype) * by_one, total, one)
            return _sum_over_devices(total, (ROWS_AXIS,))

        add_up = jax.shard_map(
            add_shares,
            mesh=_all_devices(),
            in_specs=(PartitionSpec(), PartitionSpec(ROWS_AXIS), PartitionSpec(ROWS_AXIS)),
            out_specs=PartitionSpec(),
            check_vma=False,
        )
        return reduce_sum(base, add_up(params, shares.rows, shares.counts), shares.num_rows)

    changed = base._replace(
        name=f"sharded({base.name}, {len(jax.devices())} devices)",
        loss=lambda params, shares: value_and_grad(params, shares)[0],
        grad=lambda params, shares: value_and_grad(params, shares)[1],
        value_and_grad=value_and_grad,
        row_sum=None,
        second_order=None,
        # What looks at single rows is for those who have them.
        system=base.system._replace(
            minimizer=None, check_batch=None, call=None, accepts=base.accepts._replace(batch=lambda shares: shares)
        ),
    )
    return penalisable(changed, problem.l2) if problem.penalty is not None else changed


def _all_devices() -> Mesh:
    return Mesh(np.asarray(jax.devices()), (ROWS_AXIS,))


def _sum_over_devices(tree: Any, axes: tuple[str, ...]) -> Any:
    """The sums of all devices, sent as one buffer for each dtype: a message costs a round trip, however short it is."""
    leaves, structure = jax.tree.flatten(tree)
    summed: dict[int, jax.Array] = {}
    for dtype in dict.fromkeys(leaf.dtype for leaf in leaves):
        places = [i for i, leaf in enumerate(leaves) if leaf.dtype == dtype]
        buffer = lax.psum(jnp.concatenate([leaves[i].ravel() for i in places]), axes)
        ends = np.cumsum([leaves[i].size for i in places])[:-1]
        parts = jnp.split(buffer, ends)
        summed |= {i: part.reshape(leaves[i].shape) for i, part in zip(places, parts, strict=True)}
    return jax.tree.unflatten(structure, [summed[i] for i in range(len(leaves))])


def spread(batch: Any, mesh: Mesh) -> Any:
    """Put the rows where a problem `sharded` over the mesh wants them; processes give the same rows each.

    Each device gets its share of the rows, or all of them if they cannot be shared out evenly.
    """
    axes, num_shards = _shards(mesh)
    # An array can only be cut into equal parts. Rows that cannot be are everywhere, and each device reads its share.
    even = check_rows(batch) % num_shards == 0
    return _placed(batch, NamedSharding(mesh, PartitionSpec(axes) if even else PartitionSpec()))


def everywhere(tree: Any) -> Any:
    """Convert arrays that are equal in every process to global arrays on all devices of all processes."""
    return _placed(tree, NamedSharding(_all_devices(), PartitionSpec()))


def automatic(mesh: Mesh) -> Mesh:
    """The mesh with axes whose sharding jax works out; `jax.make_mesh` makes axes that want it spelled out."""
    return Mesh(mesh.devices, mesh.axis_names)


def _shards(mesh: Mesh) -> tuple[tuple[str, ...], int]:
    """The axes over which rows are spread, and into how many parts."""
    axes = (ROWS_AXIS,) if ROWS_AXIS in mesh.axis_names else mesh.axis_names
    return axes, math.prod(mesh.shape[axis] for axis in axes)


def _placed(tree: Any, sharding: NamedSharding) -> Any:
    """Global arrays; those that span several processes were laid out by the caller, and stay as they are."""

    def place(leaf: Any) -> jax.Array:
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            return leaf
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):  # NumPy has no keys
            return jax.random.wrap_key_data(place(jax.random.key_data(leaf)), impl=jax.random.key_impl(leaf))
        return jax.make_array_from_callback(leaf.shape, sharding, np.asarray(leaf).__getitem__)

    return jax.tree.map(place, tree)
