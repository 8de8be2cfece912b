"""Full, mini and single batches; true epochs.

An epoch visits every row exactly once. If the batch size does not divide the number of rows, the last batch of the
epoch is smaller.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxgd.descent.shuffle import permutation
from jaxgd.validation import check_count, check_rows


class Epochs(NamedTuple):
    """How the rows are cut into batches. All fields are static."""

    num_rows: int  # N; 0 if every step takes the whole batch, which may then have no rows
    batch_size: int  # B; 0 for the full batch
    steps_per_epoch: int  # ceil(N / B); 1 for the full batch


def cut(batch: Any, batch_size: int | None) -> Epochs:
    """Plan the epochs of a batch.

    Args:
      batch: a tree of arrays with the same leading axis N; any value for the full batch.
      batch_size: B, between 1 and N, or None for the full batch.

    Returns:
      The plan.

    Raises:
      ValueError: the arrays have different numbers of rows, or B is out of range.
      TypeError: B is not an integer.
    """
    if batch_size is None:
        return Epochs(num_rows=0, batch_size=0, steps_per_epoch=1)
    num_rows = check_rows(batch)
    batch_size = check_count("batch_size", batch_size, maximum=num_rows)
    return Epochs(num_rows, batch_size, -(-num_rows // batch_size))


def row_order(
    epochs: Epochs, key: jax.Array | None, epoch: jax.Array, first: Any = 0, count: int | None = None
) -> jax.Array:
    """The order in which an epoch visits the rows, `[count]` int32, or entries `first`, ..., `first + count - 1` of it.

    Each epoch draws its own order from the key of the run; None keeps the order of the data. `count` is static.
    """
    count = epochs.num_rows if count is None else count
    # `first` may be traced: parts of an epoch of one length are one program.
    if key is None:
        return first + jnp.arange(count, dtype=jnp.int32)
    return permutation(jax.random.fold_in(key, epoch), epochs.num_rows, first, count)


def take(batch: Any, row_indices: jax.Array) -> Any:
    """Rows of a batch, of the shape of the indices."""
    return jax.tree.map(lambda array: array[row_indices], batch)
