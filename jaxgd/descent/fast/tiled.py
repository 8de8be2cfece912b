"""A sum over rows, tile by tile: each row is read from memory once a step."""

import functools
import math
import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxgd.descent.fast.parts import count_rows, evaluated_by, reduce_sum, sum_over, unpenalised
from jaxgd.types import Params, Problem, evaluate
from jaxgd.validation import check_count


def tiled(problem: Problem, rows: int | None = None) -> Problem:
    """Evaluate a loss and its gradient tile by tile: each row is read from memory once a step.

    With tiles T of the rows, `L = sum_T L_T` for a sum and `L = sum_T n_T / N L_T` for a mean, and likewise for the
    gradient. The gradient of a tile is computed while the tile is in the cache. The last tile has the remaining rows.
    Under vmap all lanes share each tile. The inputs are not copied.

    Args:
      problem: a problem whose loss is the mean or the sum (its `reduction`) of terms of single rows, plus a penalty.
        The rows are the leading axis of every array in the batch.
      rows: the number of rows of a tile; None for tiles that fit into the cache, see `tile_rows`.

    Returns:
      The problem; the same arguments give the same object. A batch that fits into one tile is evaluated at once.

    Raises:
      ValueError: `rows` is below 1.
      TypeError: `rows` is not an integer.
    """
    return _tiled(problem, None if rows is None else check_count("rows", rows))


@functools.lru_cache(maxsize=256)
def _tiled(problem: Problem, rows: int | None) -> Problem:
    base = unpenalised(problem)

    def value_and_grad(params: Params, batch: Any) -> tuple[jax.Array, Params]:
        num_rows = count_rows(base, batch)
        size = rows or tile_rows(batch)
        if num_rows <= size:
            return evaluate(base, params, batch)
        num_tiles = num_rows // size

        # A slice of the whole array, not a scan over a reshaped one: that would copy the inputs once.
        def add_tile(index: Any, total: Any) -> Any:
            tile = jax.tree.map(lambda array: lax.dynamic_slice_in_dim(array, index * size, size), batch)
            return jax.tree.map(jnp.add, total, sum_over(base, params, tile, size))

        shapes = jax.eval_shape(functools.partial(evaluate, base), params, batch)
        total = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        total = lax.fori_loop(0, num_tiles, add_tile, total)
        left = num_rows - num_tiles * size
        if left:
            rest = jax.tree.map(lambda array: array[num_tiles * size :], batch)
            total = jax.tree.map(jnp.add, total, sum_over(base, params, rest, left))
        return reduce_sum(base, total, num_rows)

    arguments = "" if rows is None else f", rows={rows}"
    call = functools.partial(tiled, problem, rows)
    return evaluated_by(problem, f"tiled({base.name}{arguments})", value_and_grad, call)


@functools.cache
def cache_bytes() -> int:
    """Bytes of the L2 cache of a core of this machine, from which the second use of a row is served.

    Asked of the C library, then of Linux; 256 KiB, the smallest that is common, where neither knows.
    """
    try:
        size = os.sysconf("SC_LEVEL2_CACHE_SIZE")
    except (AttributeError, OSError, ValueError):  # another operating system, or another C library
        size = 0
    if size <= 0:  # glibc says 0 on most ARM machines, and -1 if it is not told
        try:
            text = Path("/sys/devices/system/cpu/cpu0/cache/index2/size").read_text().strip()
            size = int(text.removesuffix("K")) * 1024 if text.endswith("K") else int(text)
        except (OSError, ValueError):
            size = 0
    return size if size > 0 else 2**18


def tile_rows(batch: Any, num_lanes: int = 1) -> int:
    """Rows of a tile that fits the cache with the predictions of all lanes; a power of two, as vectors are."""
    leaves = jax.tree.leaves(batch)
    row_bytes = sum(leaf.dtype.itemsize * math.prod(leaf.shape[1:]) for leaf in leaves)
    row_bytes += sum(leaf.dtype.itemsize for leaf in leaves[:1]) * (num_lanes - 1)  # a prediction a lane
    # A matrix product reuses what it reads, so that lanes gain more from larger tiles than from the nearest cache.
    budget = cache_bytes() * (1 if num_lanes == 1 else 4)
    # From 64 rows on a call has work to do; 16,384 rows of one column are already less than most caches.
    return int(2 ** np.clip(int(np.log2(budget / max(row_bytes, 1))), 6, 14))
