"""The host's loop over compiled chunks."""

import contextlib
import functools
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxgd.data.arguments import arguments
from jaxgd.descent import batches, blocks, loop, rows
from jaxgd.descent.checkpoint import digest, load, save
from jaxgd.descent.state import Controls, History, Result, Settings, State, StopReason
from jaxgd.types import Params, Problem
from jaxgd.validation import check_concrete, check_count


class _Chunk(NamedTuple):
    """Steps run by one call: `num_epochs` whole epochs, or `num_batches` of one from `first` on."""

    epoch: int
    first: int = 0
    num_epochs: int = 0
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
    progress: bool | None = None,
    checkpoint: str | Path | None = None,
    evaluation: str = "auto",
) -> Result:
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
      chunk_steps: steps of one chunk; None is a twentieth of `num_steps`, or an epoch if that is longer and
        there are at least two. Chunks longer than an epoch are rounded down to whole epochs. With a length
        of your own losses and norms in the history of a long run may differ in the last digit, the parameters not.
      progress: whether to show a bar on standard error; None does on a terminal.
      checkpoint: a folder. The state is kept there after every chunk, and a run that finds its own state
        there goes on from it, to the same bits as if it had never been interrupted.
      evaluation: how the sum over rows is evaluated: "plain", "tiled", "sharded" over all devices, "compressed"
        to its statistics, or "auto" for the fastest at its size; see `rows.plan`.

    Several processes (`jax.distributed`) that make the same call with the same rows run it together: each
    evaluates its share, and all have the result. Their checkpoint is in a folder that all see; parameters that are
    spread over several hosts need the extra `jaxgd[distributed]` for it.

    Returns:
      The result of `descend`. After Ctrl-C what there is at the end of the chunk, INTERRUPTED; the same call with
      the same `checkpoint` goes on from there. A SIGINT handler of your own is left alone.

    Raises:
      ValueError: see `descend`; `problem.check_batch` found a value outside the domain; a checkpoint of other
        settings, or a damaged one with no sound one before it; a history larger than the device's memory.
      TypeError: see `descend`.
      OSError: the checkpoint's folder cannot be written.
    """
    check_concrete("fit", (params, batch, learning_rate, key, grad_tol, param_tol, divergence_factor))
    settings = loop.check_settings(problem, learning_rate, num_steps, batch_size, optimizer, record, record_every)
    params, batch = arguments(problem, params, batch)
    steps_per_epoch = batches.cut(batch, batch_size).steps_per_epoch
    if chunk_steps is not None:
        chunk_steps = check_count("chunk_steps", chunk_steps)
    if problem.check_batch is not None:
        problem.check_batch(batch)
    controls = Controls(None if callable(learning_rate) else learning_rate, grad_tol, param_tol, divergence_factor)
    loop.check_history(settings, params)
    plan = rows.plan(problem, batch, num_steps=num_steps, batch_size=batch_size, evaluation=evaluation)
    if plan.problem is not problem:
        loop.check_problem(problem, params, batch)
    if chunk_steps is None:
        size = blocks.size_of(plan.problem, settings, plan.batch)
        chunk_steps = _default_chunk(settings.num_steps, steps_per_epoch, size)
    together, laid_out = jax.process_count() > 1, plan.batch
    if together:
        params, key = rows.everywhere((params, key))
        laid_out = laid_out if plan.evaluation == "sharded" else rows.everywhere(laid_out)
    chunks = list(_chunks(settings.num_steps, steps_per_epoch, chunk_steps))
    state = _start(plan.problem, settings, params, laid_out, controls)
    done, kept = 0, None
    if checkpoint is not None:
        told = _fingerprint(problem, settings, chunk_steps, params, batch, key, controls, evaluation)
        kept = _Kept(Path(checkpoint), told)
        done, state = load(kept.folder, kept.settings, state) or (0, state)
        state = rows.everywhere(state) if together else state
    with _bar(settings.num_steps, progress) as show, _noted_interrupt() as interrupted:
        for position, chunk in enumerate(chunks[done:], start=done + 1):
            if int(state.stop_reason) != StopReason.MAX_STEPS:
                break
            if interrupted():
                state = state._replace(stop_reason=jnp.full_like(state.stop_reason, StopReason.INTERRUPTED))
                break
            bare, history = state._replace(history=History()), state.history
            state = _run(plan.problem, settings, bare, history, laid_out, key, controls, *chunk)  # gives history away
            jax.block_until_ready(state)
            if kept is not None:
                save(kept.folder, kept.settings, position, state)
            show(state)
    result = _finish(plan.problem, settings, state, laid_out)
    return jax.tree.map(_here, result) if together else result


def _here(leaf: jax.Array) -> jax.Array:
    """What every process has whole, as an array of its own."""
    return jnp.asarray(np.asarray(leaf)) if leaf.is_fully_replicated else leaf


class _Kept(NamedTuple):
    folder: Path
    settings: dict[str, str]


def _fingerprint(
    problem: Problem,
    settings: Settings,
    chunk_steps: int,
    params: Params,
    batch: Any,
    key: jax.Array | None,
    controls: Controls,
    evaluation: str,
) -> dict[str, str]:
    """What must agree for one run to go on as another, by name, so that a difference can be told."""

    def named(value: Any) -> str:
        return f"{value.__module__}.{value.__qualname__}" if hasattr(value, "__qualname__") else repr(value)

    optimizer = settings.optimizer
    if isinstance(optimizer, optax.GradientTransformation):
        optimizer = optimizer.update
    return {
        "problem": problem.name,
        "evaluation": evaluation,
        **{name: str(value) for name, value in settings._asdict().items() if name not in ("optimizer", "schedule")},
        "optimizer": named(optimizer),
        "learning_rate": named(settings.schedule) if settings.schedule else str(controls.learning_rate),
        **{name: str(value) for name, value in controls._asdict().items() if name != "learning_rate"},
        "chunk_steps": str(chunk_steps),
        "params": digest(params),
        "batch": digest(batch),
        "key": digest(key),
    }


@functools.partial(jax.jit, static_argnums=(0, 1, 9, 10, 11), donate_argnums=3)
def _run(
    problem: Problem,
    settings: Settings,
    state: State,
    history: History,
    batch: Any,
    key: jax.Array | None,
    controls: Controls,
    epoch: jax.Array,
    first: jax.Array,
    num_epochs: int,
    num_batches: int,
    closing: bool,
) -> State:
    """A chunk, from a state without its history, which may be long and is written to in place."""
    state = state._replace(history=history)
    if num_epochs:
        return loop.run_epochs(problem, settings, state, batch, key, controls, epoch, num_epochs)
    return loop.run_part(problem, settings, state, batch, key, controls, epoch, first, num_batches, closing=closing)


@contextlib.contextmanager
def _noted_interrupt() -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C came: it is noted, not raised, since within a chunk it would find the state given away."""
    usual = signal.getsignal(signal.SIGINT)
    if usual is not signal.default_int_handler or threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    came = threading.Event()
    signal.signal(signal.SIGINT, lambda number, frame: came.set())
    try:
        yield came.is_set
    finally:
        signal.signal(signal.SIGINT, usual)


@contextlib.contextmanager
def _bar(num_steps: int, progress: bool | None) -> Iterator[Callable[[State], None]]:
    """A progress bar on standard error, fed with states; without one, a function that does nothing."""
    if not (sys.stderr.isatty() if progress is None else progress):
        yield lambda state: None
        return
    from rich import console
    from rich import progress as bars

    columns = (
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        bars.TextColumn("best loss {task.fields[loss]}"),
        bars.TextColumn("{task.fields[rate]} steps/s"),
        bars.TimeRemainingColumn(),
    )
    screen = console.Console(stderr=True)
    with bars.Progress(*columns, console=screen, transient=screen.is_terminal) as bar:
        task = bar.add_task("", total=num_steps, loss="-", rate="-")
        started = time.perf_counter()
        first: list[int] = []

        def show(state: State) -> None:
            steps = int(state.num_judged)
            first.append(steps)
            rate = (steps - first[0]) / (time.perf_counter() - started) if steps > first[0] else 0.0
            bar.update(task, completed=steps, loss=f"{float(state.best_loss):.6g}", rate=f"{rate:,.0f}")

        yield show


_start = functools.partial(jax.jit, static_argnums=(0, 1))(loop.start)
_finish = functools.partial(jax.jit, static_argnums=(0, 1))(loop.finish)


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
            yield _Chunk(epoch, num_epochs=min(at_once, num_epochs - epoch))
        else:
            yield from _parts(epoch, steps_per_epoch, chunk_steps, closing=True)
    if rest:
        yield from _parts(num_epochs, rest, max(chunk_steps, 1), closing=False)


def _parts(epoch: int, num_batches: int, chunk_steps: int, *, closing: bool) -> Iterator[_Chunk]:
    for first in range(0, num_batches, chunk_steps):
        count = min(chunk_steps, num_batches - first)
        yield _Chunk(epoch, first=first, num_batches=count, closing=closing and first + count == num_batches)
