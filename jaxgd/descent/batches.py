"""Full, mini and single batches; true epochs.

An epoch visits every row once. Where the batch size does not divide the number of rows, the last batch of
the epoch is smaller: no row is dropped, none repeated.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxgd.validation import check_count, check_rows

ENCIPHERED_FROM = 4096
"""Rows from which an order is enciphered: sorting random numbers then takes longer than descending on the rows."""

ROUNDS = 8
"""Of the cipher; even, so that both halves are hashed as often."""


class Epochs(NamedTuple):
    """How the rows of a batch are cut up; all static.

    Attributes:
      num_rows: N; 0 where the whole batch is used and may have no rows.
      batch_size: B; 0 for the full batch.
      steps_per_epoch: ceil(N / B); 1 for the full batch.
    """

    num_rows: int
    batch_size: int
    steps_per_epoch: int


def cut(batch: Any, batch_size: int | None) -> Epochs:
    """Plan the epochs of a batch.

    Args:
      batch: a tree of arrays that share their leading axis N; anything at all for the full batch.
      batch_size: B, between 1 and N, or None for the full batch.

    Returns:
      The plan.

    Raises:
      ValueError: rows that differ in number, or B out of range.
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
    """The order in which an epoch visits the rows, or `count` of them from place `first` on.

    Args:
      epochs: the plan.
      key: the run's key; each epoch draws its own permutation from it. None keeps the order of the data.
      epoch: `[]` integer, 0 for the first.
      first: `[]` integer, place in the epoch.
      count: how many rows, none beyond the last. Static; None is all N.

    Returns:
      `[count]` integers; over the whole epoch each row once.
    """
    count = epochs.num_rows if count is None else count
    places = first + jnp.arange(count, dtype=jnp.int32)
    if key is None:
        return places
    key = jax.random.fold_in(key, epoch)
    if epochs.num_rows < ENCIPHERED_FROM:
        return lax.dynamic_slice_in_dim(_sort(key, epochs.num_rows), first, count)
    return _encipher(key, epochs.num_rows, places)


def _sort(key: jax.Array, num_rows: int) -> jax.Array:
    """A permutation by sorting the rows by random numbers.

    The number of the row fills the low bits, since XLA sorts single words five times as fast as the pairs that
    `jax.random.permutation` sorts. Rows with equal random bits keep their order; two such sorts leave no trace of it.
    """
    width = (num_rows - 1).bit_length()
    bits = jax.random.bits(key, (2, num_rows), jnp.uint32)
    words = lax.sort((bits << width) | lax.broadcasted_iota(jnp.uint32, (2, num_rows), 1))
    first, second = (words & ((1 << width) - 1)).astype(jnp.int32)
    return first[second]


def _encipher(key: jax.Array, num_rows: int, places: jax.Array) -> jax.Array:
    """Images of places under a Feistel cipher on pairs (l, r) in Z_a x Z_b, with a b just above N.

    A round is `(l, r) -> (r, l + F(r))` with a keyed hash F, which can be undone whatever F is, so that all rounds
    together permute the a b numbers `l b + r`. The few images beyond N are enciphered again until they are below
    (Black and Rogaway 2002). Where `jax.random.permutation` sorts random numbers, this is arithmetic alone.
    """
    a = math.isqrt(num_rows - 1) + 1
    b = -(-num_rows // a)
    keys = jax.random.bits(key, (ROUNDS, 2), jnp.uint32)

    def hashed(values: jax.Array, key: jax.Array, below: int) -> jax.Array:
        """Murmur3's mixing of the key with the values, scaled to [0, below)."""
        mixed = (values ^ key[0]) * np.uint32(0x85EBCA6B)
        mixed = (mixed ^ (mixed >> 13)) * np.uint32(0xC2B2AE35) + key[1]
        mixed = (mixed ^ (mixed >> 16)) * np.uint32(0x9E3779B1)
        return ((mixed >> 16) * np.uint32(below)) >> 16

    def once(numbers: jax.Array) -> jax.Array:
        left, right = numbers // np.uint32(b), numbers % np.uint32(b)
        moduli = (a, b)
        for i in range(ROUNDS):
            turned = left + hashed(right, keys[i], moduli[i % 2])
            left, right = right, jnp.where(turned >= moduli[i % 2], turned - np.uint32(moduli[i % 2]), turned)
        return left * np.uint32(b) + right

    def again(numbers: jax.Array) -> jax.Array:
        return jnp.where(numbers >= num_rows, once(numbers), numbers)

    numbers = once(places.astype(jnp.uint32))
    return lax.while_loop(lambda n: jnp.any(n >= num_rows), again, numbers).astype(jnp.int32)


def take(batch: Any, rows: jax.Array) -> Any:
    """Rows of a batch.

    Args:
      batch: a tree of arrays `[N, ...]`.
      rows: `[B]` integers.

    Returns:
      The tree with arrays `[B, ...]`.
    """
    return jax.tree.map(lambda array: array[rows], batch)
