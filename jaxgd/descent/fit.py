"""fit(): the host's loop over compiled chunks."""

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxgd.data.arguments import arguments
from jaxgd.descent import batches, loop
from jaxgd.descent.checkpoint import digest, load, save
from jaxgd.descent.descend import (
    DEFAULT_RECORD,
    Controls,
    Given,
    Program,
    as_rate,
    bind,
    check_history,
    check_problem,
    check_settings,
    descend,
)
from jaxgd.descent.docs import takes_arguments_of
from jaxgd.descent.fast import blocks, choose, sharded
from jaxgd.descent.host import noted_interrupt, progress_bar
from jaxgd.descent.result import History, Result, StopReason
from jaxgd.descent.run import State, finish, start
from jaxgd.types import Params, Problem
from jaxgd.validation import check_concrete, check_count, check_key


class _Chunk(NamedTuple):
    """Steps that one call takes: whole epochs, or some steps of one epoch, which close it or not."""

    num_epochs: int = 0
    num_steps: int = 0
    closes: bool = False


@takes_arguments_of(descend)
def fit(  # noqa: D417 (the decorator adds the other arguments)
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
    record: Sequence[str] = DEFAULT_RECORD,
    record_every: int = 1,
    fast: bool = True,
    chunk_steps: int | None = None,
    progress: bool | None = None,
    checkpoint: str | Path | None = None,
    evaluation: str = "auto",
) -> Result:
    """`descend`, driven from the host in compiled chunks, so that a run that has stopped ends there.

    Several processes (`jax.distributed`) that make the same call with the same rows run it together: each
    evaluates its share, and all have the result. Their checkpoint is in a folder that all see; parameters that are
    spread over several hosts need the extra `jaxgd[distributed]` for it.

    Args:
      fast: whether accelerations may be used (`jaxgd.descent.fast`); False runs the plain loop, `loop.py`, and
        evaluates the sum over rows as it stands. Static.
      chunk_steps: steps of one chunk; None is a twentieth of `num_steps`, or an epoch if that is longer and
        there are at least two. Chunks longer than an epoch are rounded down to whole epochs. With a length that you
        choose, losses and norms in the history of a long run may differ in the last digit; the parameters do not.
      progress: whether to show a bar on standard error; None does on a terminal.
      checkpoint: a folder. The state is kept there after every chunk, and a run that finds its own state
        there goes on from it, to the same bits as if it had never been interrupted.
      evaluation: how the sum over rows is evaluated: "plain", "tiled", "sharded" over all devices, "compressed"
        to its statistics, or "auto" for the fastest at its size; see `fast.choose.plan`.

    Returns:
      The result of `descend`. After Ctrl-C what there is at the end of the chunk, INTERRUPTED; the same call with
      the same `checkpoint` goes on from there. A SIGINT handler of your own stays in place.

    Raises:
      ValueError: as `descend`; `problem.check_batch` found a value outside the domain; a checkpoint of other
        settings, or a damaged one with no sound one before it; a history larger than the device's memory.
      TypeError: as `descend`.
      OSError: the checkpoint's folder cannot be written.
    """
    check_key(key)
    check_concrete("fit", (params, batch, learning_rate, key, grad_tol, param_tol, divergence_factor))
    settings = check_settings(
        problem,
        learning_rate,
        num_steps=num_steps,
        batch_size=batch_size,
        optimizer=optimizer,
        record=record,
        record_every=record_every,
        fast=fast,
    )
    params, batch = arguments(problem, params, batch)
    steps_per_epoch = batches.cut(batch, batch_size).steps_per_epoch
    if chunk_steps is not None:
        chunk_steps = check_count("chunk_steps", chunk_steps)
    if problem.check_batch is not None:
        problem.check_batch(batch)
    check_history(settings, params)
    plan = choose.plan(
        problem, batch, num_steps=num_steps, batch_size=batch_size, evaluation=evaluation, fast=settings.fast
    )
    if plan.problem is not problem:
        check_problem(problem, params, batch)
    program = Program(plan.problem, settings)
    given = Given(plan.batch, key, Controls(as_rate(learning_rate), grad_tol, param_tol, divergence_factor))
    if chunk_steps is None:
        run = bind(program, given)
        block_size = 0 if run.take_steps is loop.take_steps else blocks.block_steps(run, plan.batch)
        chunk_steps = _default_chunk(settings.num_steps, steps_per_epoch, block_size)
    together = jax.process_count() > 1
    if together:
        params, key = sharded.everywhere((params, key))
        laid_out = plan.batch if plan.evaluation == "sharded" else sharded.everywhere(plan.batch)
        given = given._replace(batch=laid_out, key=key)
    state = _start(program, params, given)
    done, told = 0, {}
    if checkpoint is not None:
        told = _fingerprint(Program(problem, settings), params, given._replace(batch=batch))
        told |= {"evaluation": evaluation, "chunk_steps": str(chunk_steps)}
        done, state = load(Path(checkpoint), told, state) or (0, state)
        state = sharded.everywhere(state) if together else state
    chunks = enumerate(_chunks(settings.num_steps, steps_per_epoch, chunk_steps), start=1)
    with progress_bar(settings.num_steps, progress) as show:

        def after_chunk(position: int, state: State) -> None:
            if checkpoint is not None:
                save(Path(checkpoint), told, position, state)
            show(state)

        state = _drive(program, given, state, itertools.islice(chunks, done, None), after_chunk)
    result = _finish(program, state, given)
    return jax.tree.map(_here, result) if together else result


def _drive(
    program: Program,
    given: Given,
    state: State,
    chunks: Iterable[tuple[int, _Chunk]],
    after_chunk: Callable[[int, State], None],
) -> State:
    """Take numbered chunks until the last one, the end of the run, or a signal to end."""
    with noted_interrupt() as interrupted:
        for position, chunk in chunks:
            if int(state.stop_reason) != StopReason.MAX_STEPS:
                break
            if interrupted():
                return state._replace(stop_reason=jnp.full_like(state.stop_reason, StopReason.INTERRUPTED))
            # The history, which may be long, is given away and written to where it lies.
            bare, history = state._replace(history=History()), state.history
            state = jax.block_until_ready(_run(program, chunk, bare, history, given))
            after_chunk(position, state)
    return state


def _here(leaf: jax.Array) -> jax.Array:
    """What every process has whole, as an array of its own."""
    return jnp.asarray(np.asarray(leaf)) if leaf.is_fully_replicated else leaf


def _fingerprint(program: Program, params: Params, given: Given) -> dict[str, str]:
    """What must agree for one run to go on as another, by name, so that a difference can be told."""

    def named(value: Any) -> str:
        if isinstance(value, jax.tree_util.Partial):
            value = value.func
        return f"{value.__module__}.{value.__qualname__}" if hasattr(value, "__qualname__") else repr(value)

    controls, optimizer = given.controls._asdict(), program.settings.optimizer
    rate = controls.pop("learning_rate")
    if isinstance(optimizer, optax.GradientTransformation):
        optimizer = optimizer.update
    return {
        "problem": program.problem.name,
        **{name: str(value) for name, value in program.settings._asdict().items() if name != "optimizer"},
        "optimizer": named(optimizer),
        "learning_rate": named(rate) if callable(rate) else str(rate),
        **{name: str(value) for name, value in controls.items()},
        "params": digest(params),
        "batch": digest(given.batch),
        "key": digest(given.key),
    }


@functools.partial(jax.jit, static_argnums=0)
def _start(program: Program, params: Params, given: Given) -> State:
    check_problem(program.problem, params, given.batch)
    return start(bind(program, given), params, given.batch)


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=3)
def _run(program: Program, chunk: _Chunk, state: State, history: History, given: Given) -> State:
    """A chunk, from a state without its history."""
    run, state = bind(program, given), state._replace(history=history)
    if chunk.num_epochs:
        return loop.take_epochs(run, state, given.batch, chunk.num_epochs)
    return loop.take_part(run, state, given.batch, chunk.num_steps, chunk.closes)


@functools.partial(jax.jit, static_argnums=0)
def _finish(program: Program, state: State, given: Given) -> Result:
    return finish(bind(program, given), state, given.batch)


def _default_chunk(num_steps: int, steps_per_epoch: int, block_size: int) -> int:
    """A twentieth of the run in whole blocks; or whole epochs, since parts of epochs are more programs."""
    share = -(-num_steps // blocks.NUM_CHUNKS)
    if 1 < steps_per_epoch <= num_steps // 2:
        return max(share, steps_per_epoch)
    return share // block_size * block_size if 0 < block_size <= share else share


def _chunks(num_steps: int, steps_per_epoch: int, chunk_steps: int) -> Iterator[_Chunk]:
    """Cut a run into chunks of few different shapes, each of which is compiled once."""
    num_epochs, rest = divmod(num_steps, steps_per_epoch)
    at_once = chunk_steps // steps_per_epoch
    for epoch in range(0, num_epochs, max(at_once, 1)):
        if at_once:
            yield _Chunk(num_epochs=min(at_once, num_epochs - epoch))
        else:
            yield from _parts(steps_per_epoch, chunk_steps, closes=True)
    if rest:
        yield from _parts(rest, max(chunk_steps, 1), closes=False)


def _parts(num_steps: int, chunk_steps: int, *, closes: bool) -> Iterator[_Chunk]:
    """Cut an epoch, or the beginning of one, into chunks."""
    for first in range(0, num_steps, chunk_steps):
        count = min(chunk_steps, num_steps - first)
        yield _Chunk(num_steps=count, closes=closes and first + count == num_steps)
