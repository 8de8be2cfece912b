"""fit(): the host's loop over compiled chunks."""

import contextlib
import functools
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxgd.data.arguments import arguments
from jaxgd.descent import loop
from jaxgd.descent.checkpoint import digest, load, save, settings_in
from jaxgd.descent.chunks import Chunk, Cut, default_chunk
from jaxgd.descent.descend import (
    DEFAULT_RECORD,
    Controls,
    Given,
    Program,
    Settings,
    as_rate,
    bind,
    check_history,
    check_problem,
    check_settings,
    descend,
)
from jaxgd.descent.docs import takes_arguments_of
from jaxgd.descent.fast import blocks, choose, sharded
from jaxgd.descent.held_out import Judge, Judged, add_to, check_patience, gives_up, judge_of
from jaxgd.descent.host import noted_interrupt, progress_bar
from jaxgd.descent.lock import locked
from jaxgd.descent.result import History, Result, StopReason
from jaxgd.descent.run import Run, State, finish, start
from jaxgd.types import Params, Problem
from jaxgd.validation import check_concrete, check_count, check_key


class _Place(NamedTuple):
    """The state of a run between two chunks, which a checkpoint saves."""

    state: State
    judged: Judged | None  # what is known of held-out rows


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
    held_out: Any = None,
    patience: int | None = None,
) -> Result:
    """`descend`, run from the host in compiled chunks. After the chunk in which the run stops, no more steps are taken.

    If several processes (`jax.distributed`) make the same call with the same rows, they run it together: each process
    evaluates its share of the rows, and all get the result. Their checkpoint must be in a folder that all processes can
    access. If the parameters are spread over several hosts, checkpoints need the extra `jaxgd[distributed]`.

    Args:
      fast: whether accelerations may be used (`jaxgd.descent.fast`). False runs the plain loop, `loop.py`, and
        evaluates the sum over rows in the plain way. Static.
      chunk_steps: steps of one chunk. None means a twentieth of `num_steps`, or one epoch if that is longer and the run
        has at least two epochs. Chunks longer than an epoch are rounded down to whole epochs. The chunk length can
        change the last digits of losses and norms in the history of a long run, but not the parameters.
      progress: whether to show a progress bar on standard error; None shows it only on a terminal.
      checkpoint: a folder for the state of the run, which is saved after every chunk. If the folder contains the state
        of the same run, the run continues from it, with the same bits as without the interruption. If `num_steps` is
        larger than in the saved run, that run is continued to `num_steps` steps, in chunks of the same length, with the
        same parameters as one long run. Only one run at a time can use a folder.
      evaluation: how the sum over rows is evaluated: "plain", "tiled", "sharded" (over all devices), "compressed" (to
        sufficient statistics), or "auto" for the fastest; see `fast.choose.plan`.
      held_out: rows in the same form as `batch` that are not used for descent. `result.held_out` records their loss at
        the start and after every chunk, and `result.best_params` are the parameters with the lowest of these losses.
      patience: the run ends with NO_IMPROVEMENT after this many chunks in a row without a lower held-out loss. None
        means never.

    Returns:
      The result of `descend`. After Ctrl-C it is the state at the end of the current chunk, with the reason
      INTERRUPTED; the same call with the same `checkpoint` continues from there. If you have set your own SIGINT
      handler, it is kept.

    Raises:
      ValueError: as `descend`; or `problem.check_batch` rejects the data, the checkpoint has other settings, is in use
        by another run or is damaged, the history is larger than the device's memory, the held-out rows do not fit, or
        `patience` is given without held-out rows.
      TypeError: as `descend`.
      OSError: the checkpoint's folder cannot be written.
    """
    check_key(key)
    check_concrete("fit", (params, batch, learning_rate, key, grad_tol, param_tol, divergence_factor))
    settings = Settings(num_steps, batch_size, optimizer, record, record_every, fast)
    settings = check_settings(problem, learning_rate, settings)
    params, batch = arguments(problem, params, batch)
    chunk_steps = None if chunk_steps is None else check_count("chunk_steps", chunk_steps)
    patience = check_patience(patience, held_out)
    if problem.check_batch is not None:
        problem.check_batch(batch)
    check_history(settings, params)
    plan = choose.plan(
        problem, batch, num_steps=settings.num_steps, batch_size=batch_size, evaluation=evaluation, fast=fast
    )
    if plan.problem is not problem:  # messages name the caller's problem, not the one that stands in for it
        check_problem(problem, params, batch)
    program = Program(plan.problem, settings)
    given = Given(plan.batch, key, Controls(as_rate(learning_rate), grad_tol, param_tol, divergence_factor))
    folder = None if checkpoint is None else Path(checkpoint)
    cut = _cut(bind(program, given), plan.batch, chunk_steps, folder)
    judge, told = None, {}
    if held_out is not None:
        judge = judge_of(problem, params, held_out, sum(1 for _ in cut.chunks(settings.num_steps)))
    if folder is not None:
        # Of the caller's problem and rows: how they are evaluated may differ on the machine that goes on.
        told = _fingerprint(Program(problem, settings), params, given._replace(batch=batch))
        told |= {"evaluation": evaluation, "chunk_steps": str(cut.chunk_steps), "held_out": digest(held_out)}
    if jax.process_count() > 1:
        params, given = _together(params, given, plan.evaluation == "sharded")
    place = _drive(program, given, _Host(cut, judge, patience, folder, told, progress), _start(program, params, given))
    result = add_to(_finish(program, place.state, given), place.judged)
    return jax.tree.map(_here, result) if jax.process_count() > 1 else result


class _Host(NamedTuple):
    """The tasks of the host between the chunks of a run."""

    cut: Cut
    judge: Judge | None
    patience: int | None
    folder: Path | None
    told: dict[str, str]  # the settings in which a run must agree to continue from the folder
    progress: bool | None

    def after(self, position: int, state: State, judged: Judged | None) -> _Place:
        """The place at the end of a chunk, including the held-out loss."""
        return _Place(state, self.judge and self.judge(position, state, judged))


def _cut(run: Run, batch: Any, chunk_steps: int | None, folder: Path | None) -> Cut:
    """How the run is cut into chunks; a run that is continued with more steps keeps its chunk length."""
    kept = {} if folder is None else settings_in(folder)
    if chunk_steps is None and "chunk_steps" in kept:
        chunk_steps = int(kept["chunk_steps"])
    steps_per_epoch = run.epochs.steps_per_epoch
    block_size = 0 if run.take_steps is loop.take_steps else blocks.block_steps(run, batch)
    return Cut(steps_per_epoch, chunk_steps or default_chunk(run.num_steps, steps_per_epoch, block_size))


def _together(params: Params, given: Given, is_spread: bool) -> tuple[Params, Given]:
    """Copy arrays to all devices of all processes, except rows that the evaluation has already distributed."""
    params, key = sharded.everywhere((params, given.key))
    return params, given._replace(batch=given.batch if is_spread else sharded.everywhere(given.batch), key=key)


def _drive(program: Program, given: Given, host: _Host, state: State) -> _Place:
    """Run the remaining chunks until the last one, until the run stops, or until the host ends it."""
    num_steps, cut = program.settings.num_steps, host.cut
    with contextlib.ExitStack() as held:
        done, place = _resumed(host, num_steps, host.after(0, state, None), held)
        show = held.enter_context(progress_bar(num_steps, host.progress, int(place.state.step)))
        interrupted = held.enter_context(noted_interrupt())
        for position, chunk in itertools.islice(enumerate(cut.chunks(num_steps), start=1), done, None):
            # Between two chunks the host looks at the state while the device waits: by default twenty times a run.
            if int(place.state.stop_reason) != StopReason.MAX_STEPS:
                break
            if interrupted() or gives_up(host.patience, position - 1, place.judged):
                reason = StopReason.INTERRUPTED if interrupted() else StopReason.NO_IMPROVEMENT
                code = jnp.full_like(place.state.stop_reason, reason)
                return place._replace(state=place.state._replace(stop_reason=code))
            place = host.after(position, _take(program, given, chunk, place.state), place.judged)
            # One of the two files that are kept holds a state that a longer run has too.
            if host.folder is not None and position != cut.passing(num_steps):
                save(host.folder, host.told, position, place)
            show(place.state)
    return place


def _resumed(host: _Host, num_steps: int, begun: _Place, held: contextlib.ExitStack) -> tuple[int, _Place]:
    """How many chunks the folder says are done, and the place after them; `held` keeps other runs out of the folder."""
    if host.folder is None:
        return 0, begun
    # One process holds the folder for all that run together.
    if not jax.process_index():
        held.enter_context(locked(host.folder))
    passes = functools.partial(_passes, host.cut, num_steps)
    done, place = load(host.folder, host.told, begun, passes) or (0, begun)
    if jax.process_count() > 1:
        place = place._replace(state=sharded.everywhere(place.state))
    return done, place


def _passes(cut: Cut, num_steps: int, position: int, fewer_steps: int) -> bool:
    """Whether a run of `num_steps` steps and a shorter run have made the same steps after this many chunks."""
    return cut.steps_after(position, num_steps) == cut.steps_after(position, fewer_steps)


def _take(program: Program, given: Given, chunk: Chunk, state: State) -> State:
    """The state after a chunk, once it is there: a signal is to be noted before the next chunk, not after it."""
    # The history, which may be long, is given away and written to where it lies.
    bare, history = state._replace(history=History()), state.history
    return jax.block_until_ready(_run(program, chunk, bare, history, given))


def _here(leaf: jax.Array) -> jax.Array:
    """A local copy of an array that every process has completely."""
    return jnp.asarray(np.asarray(leaf)) if leaf.is_fully_replicated else leaf


def _fingerprint(program: Program, params: Params, given: Given) -> dict[str, str]:
    """The settings in which two runs must agree for one to continue the other, by name."""

    def named(value: Any) -> str:
        if isinstance(value, functools.partial):  # a rate is wrapped in jax's; its address says nothing
            given = ", ".join([*map(repr, value.args), *(f"{name}={arg!r}" for name, arg in value.keywords.items())])
            return named(value.func) + (f"({given})" if given else "")
        return f"{value.__module__}.{value.__qualname__}" if hasattr(value, "__qualname__") else repr(value)

    controls, optimizer = given.controls._asdict(), program.settings.optimizer
    rate = controls.pop("learning_rate")
    if isinstance(optimizer, optax.GradientTransformation):  # its fields are closures; their names tell most of it
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
def _run(program: Program, chunk: Chunk, state: State, history: History, given: Given) -> State:
    """Run a chunk from a state without its history."""
    run, state = bind(program, given), state._replace(history=history)
    if chunk.num_epochs:
        return loop.take_epochs(run, state, given.batch, chunk.num_epochs)
    return loop.take_part(run, state, given.batch, chunk.num_steps, chunk.closes)


@functools.partial(jax.jit, static_argnums=0)
def _finish(program: Program, state: State, given: Given) -> Result:
    return finish(bind(program, given), state, given.batch)
