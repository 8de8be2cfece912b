"""Random orders of rows, computed faster than by `jax.random.permutation(key, num_rows)`."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


def permutation(key: jax.Array, num_rows: int, first: Any = 0, count: int | None = None) -> jax.Array:
    """A random order of `num_rows` rows, or `count` of its entries from entry `first` on.

    `jax.random.permutation` always sorts all rows, as pairs of words. This function sorts fewer than 4096 rows as
    single words, which is five times as fast. For more rows it applies a cipher, which computes only the requested
    entries. The order depends only on the key, not on `first` and `count`. The result is `[count]` int32. `num_rows`
    and `count` are static.
    """
    count = num_rows if count is None else count
    if num_rows >= 4096:  # from there on, sorting takes longer than descending on the rows
        return _by_cipher(key, num_rows, first + jnp.arange(count, dtype=jnp.int32))
    # Sort the rows by random bits; the number of the row fills the low bits of each word.
    width = (num_rows - 1).bit_length()
    bits = jax.random.bits(key, (2, num_rows), jnp.uint32)
    words = lax.sort((bits << width) | lax.broadcasted_iota(jnp.uint32, (2, num_rows), 1))
    # Rows with equal random bits keep their order; a second sort leaves no trace of it.
    inner, outer = (words & ((1 << width) - 1)).astype(jnp.int32)
    return lax.dynamic_slice_in_dim(inner[outer], first, count)


def _by_cipher(key: jax.Array, num_rows: int, entries: jax.Array) -> jax.Array:
    """Images of entries under a Feistel cipher on pairs (l, r) in Z_a x Z_b, with a b just above N.

    A round is `(l, r) -> (r, l + F(r))` with a keyed hash F. A round is invertible for any F, so all rounds together
    are a permutation of the a b numbers `l b + r`. The cipher is applied again to the few images that are not below N
    (Black and Rogaway 2002).
    """
    num_rounds = 8  # even, so that both halves are hashed equally often
    a = math.isqrt(num_rows - 1) + 1
    b = -(-num_rows // a)
    keys = jax.random.bits(key, (num_rounds, 2), jnp.uint32)

    def hashed(values: jax.Array, key: jax.Array, below: int) -> jax.Array:
        """Murmur3's mixing of the key with the values, scaled to [0, below)."""
        mixed = (values ^ key[0]) * np.uint32(0x85EBCA6B)
        mixed = (mixed ^ (mixed >> 13)) * np.uint32(0xC2B2AE35) + key[1]
        mixed = (mixed ^ (mixed >> 16)) * np.uint32(0x9E3779B1)
        return ((mixed >> 16) * np.uint32(below)) >> 16

    def once(numbers: jax.Array) -> jax.Array:
        left, right = numbers // np.uint32(b), numbers % np.uint32(b)
        moduli = (a, b)
        for i in range(num_rounds):
            turned = left + hashed(right, keys[i], moduli[i % 2])
            left, right = right, jnp.where(turned >= moduli[i % 2], turned - np.uint32(moduli[i % 2]), turned)
        return left * np.uint32(b) + right

    def again(numbers: jax.Array) -> jax.Array:
        return jnp.where(numbers >= num_rows, once(numbers), numbers)

    numbers = once(entries.astype(jnp.uint32))
    return lax.while_loop(lambda n: jnp.any(n >= num_rows), again, numbers).astype(jnp.int32)
