"""The host's loop over compiled chunks."""

import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax

from jaxgd.descent import batches, loop
from jaxgd.types import Params, Problem
from jaxgd.validation import check_count

NUM_CHUNKS = 20
"""Chunks that a run is driven in: enough to stop early, few enough to cost nothing."""


class _Chunk(NamedTuple):
    """Steps run by one call: `num_epochs` whole epochs, or `num_batches` of one from `first` on."""

    epoch: int
    num_epochs: int = 0
    first: int = 0
    num_batches: int = 0
    closing: bool = False


def fit(
    problem: Problem,
    params: Params,
    batch: Any,
    *,
    learning_rate: Any = None,
    num_steps: int,
    batch_size: int | None = None,
    key: jax.Array | None = None,
    optimizer: Any = None,
    grad_tol: Any = 0.0,
    param_tol: Any = 0.0,
    divergence_factor: Any = 1000.0,
    record: Sequence[str] = loop.DEFAULT_RECORD,
    record_every: int = 1,
    chunk_steps: int | None = None,
) -> loop.Result:
    """`descend`, driven from the host in compiled chunks, so that a run that has stopped ends there.

    Args:
      problem: see `descend`.
      params: see `descend`.
      batch: see `descend`.
      learning_rate: see `descend`.
      num_steps: see `descend`.
      batch_size: see `descend`.
      key: see `descend`.
      optimizer: see `descend`.
      grad_tol: see `descend`.
      param_tol: see `descend`.
      divergence_factor: see `descend`.
      record: see `descend`.
      record_every: see `descend`.
      chunk_steps: steps of one chunk; None is a twentieth of `num_steps`. Chunks longer than an epoch are
        rounded down to whole epochs.

    Returns:
      The result of `descend`.

    Raises:
      ValueError: see `descend`; `problem.check_batch` found a value outside the domain.
      TypeError: see `descend`.
    """
    settings = loop.check_settings(problem, learning_rate, num_steps, batch_size, optimizer, record, record_every)
    if chunk_steps is None:
        chunk_steps = -(-settings.num_steps // NUM_CHUNKS)
    chunk_steps = check_count("chunk_steps", chunk_steps)
    if problem.check_batch is not None:
        problem.check_batch(batch)
    controls = loop.Controls(None if callable(learning_rate) else learning_rate, grad_tol, param_tol, divergence_factor)
    steps_per_epoch = batches.cut(batch, batch_size).steps_per_epoch
    state = _start(problem, settings, loop.as_arrays(params), batch, controls)
    for chunk in _chunks(settings.num_steps, steps_per_epoch, chunk_steps):
        if chunk.num_epochs:
            state = _run_epochs(problem, settings, state, batch, key, controls, chunk.epoch, chunk.num_epochs)
        else:
            state = _run_part(
                problem,
                settings,
                state,
                batch,
                key,
                controls,
                chunk.epoch,
                chunk.first,
                chunk.num_batches,
                closing=chunk.closing,
            )
        if int(state.stop_reason) != loop.StopReason.MAX_STEPS:
            break
    return _finish(problem, settings, state, batch)


_start = functools.partial(jax.jit, static_argnums=(0, 1))(loop.start)
_run_epochs = functools.partial(jax.jit, static_argnums=(0, 1, 7))(loop.run_epochs)
_run_part = functools.partial(jax.jit, static_argnums=(0, 1, 8), static_argnames="closing")(loop.run_part)
_finish = functools.partial(jax.jit, static_argnums=(0, 1))(loop.finish)


def _chunks(num_steps: int, steps_per_epoch: int, chunk_steps: int) -> Iterator[_Chunk]:
    """Cut a run into chunks of few different shapes, each of which is compiled once."""
    num_epochs, rest = divmod(num_steps, steps_per_epoch)
    at_once = chunk_steps // steps_per_epoch
    for epoch in range(0, num_epochs, max(at_once, 1)):
        if at_once:
            yield _Chunk(epoch, num_epochs=min(at_once, num_epochs - epoch))
        else:
            yield from _parts(epoch, steps_per_epoch, chunk_steps, closing=True)
    if rest:
        yield from _parts(num_epochs, rest, max(chunk_steps, 1), closing=False)


def _parts(epoch: int, num_batches: int, chunk_steps: int, *, closing: bool) -> Iterator[_Chunk]:
    for first in range(0, num_batches, chunk_steps):
        count = min(chunk_steps, num_batches - first)
        yield _Chunk(epoch, first=first, num_batches=count, closing=closing and first + count == num_batches)
