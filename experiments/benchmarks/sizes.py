"""What the kinds of work share: their sizes, and rows of random numbers."""

import jax
import jax.numpy as jnp

from jaxgd.types import Batch, LinearParams

SCALES = ("smoke", "cpu", "gpu")
"""Sizes: small, with the rows of both devices; beyond the caches of a CPU; that fill a GPU of 24 GB or more."""


def repeats(scale: str, count: int = 5) -> int:
    """How often a job is timed."""
    return 1 if scale == "smoke" else count


def make_rows(num_rows: int, num_inputs: int, *, labels: bool = False) -> Batch:
    """Normal inputs, and targets that depend on their sum: its sigmoid, or the class of its sign."""
    inputs = jax.random.normal(jax.random.key(0), (num_rows, num_inputs))
    logits = inputs @ jnp.full(num_inputs, num_inputs**-0.5)
    return Batch(inputs, (logits > 0).astype(jnp.int32) if labels else jax.nn.sigmoid(logits))


def zeros(batch: Batch) -> LinearParams:
    """The start of all runs."""
    return LinearParams(jnp.zeros(batch.inputs.shape[1]), jnp.zeros(()))


def shape_of(batch: Batch) -> str:
    """The shape of the inputs, as the table shows it."""
    return " x ".join(f"{size:,}" for size in batch.inputs.shape)
