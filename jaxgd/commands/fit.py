"""jaxgd fit: descend on a data set and say how it ended."""

import concurrent.futures
import dataclasses
import functools
import importlib
import os
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from jaxgd import data, reporting
from jaxgd.commands import errors, folders, outcome, tables
from jaxgd.commands import job as jobs
from jaxgd.commands.clock import seconds_compiling
from jaxgd.commands.errors import UserError
from jaxgd.commands.job import Job
from jaxgd.commands.optimizers import find_optimizer, find_schedule
from jaxgd.descent import Result, fit
from jaxgd.descent.checkpoint import settings_in
from jaxgd.descent.fast.blocks import NUM_CHUNKS
from jaxgd.descent.fast.sharded import shares_of
from jaxgd.descent.host import ended_by
from jaxgd.theory.bounds import smoothness
from jaxgd.theory.curvature import largest_stable_learning_rate

WORK = 2e10
"""Multiplications that a run without --num-steps may cost."""

LEAVE_SECONDS = 1.0
"""For which the first process outlives the others, who need milliseconds to end."""

RECORDS = 100_000
"""Entries of the history that a run keeps if not told otherwise."""


@dataclasses.dataclass(frozen=True)
class FitOptions(jobs.DataOptions):
    """Fit a data set by gradient descent and say how it ended.

    Exit code 0 when the run converged or took all its steps, 1 when it diverged, 2 for bad input, 3 when the result
    could not be written, 130 after Ctrl-C, 143 and 129 after SIGTERM and SIGHUP.
    """

    learning_rate: float | None = None
    """Step size. If not given: half the largest stable one for squared errors, half of what is guaranteed where a bound
    on the curvature is known, half the local limit at the start for networks."""
    num_steps: int | None = None
    """Largest number of steps; by default what 2e10 multiplications buy, between 1000 and 100000."""
    batch_size: int | None = None
    """Rows in a batch; all if not given, 1 for stochastic descent."""
    optimizer: str = "gradient_descent"
    """gradient_descent, or an optax optimizer by name (adam, nadam, rmsprop, ...), with arguments behind a colon:
    sgd:momentum=0.9,nesterov=true."""
    schedule: str | None = None
    """How the learning rate changes along the run: constant, linear, cosine, exponential, piecewise or warm-up, by
    optax's schedules and with their arguments: cosine:alpha=0.1, exponential:decay_rate=0.1, piecewise:1000=0.1 (from
    step 1000 a tenth), warm-up:warmup_steps=100. --learning-rate is where it begins, for warm-up its peak; it goes over
    all steps if not told otherwise."""
    grad_tol: float = 0.0
    """Stop when the gradient norm is at most this."""
    param_tol: float = 0.0
    """Stop when no parameter moves by more than this in an epoch."""
    divergence_factor: float = 1000.0
    """Growth of the loss over its best that counts as divergence; inf never does."""
    patience: int | None = None
    """Stop when the loss of the rows held out has not become lower for so many chunks, and fit, report and keep the
    parameters where it was lowest."""
    chunk_steps: int | None = None
    """Steps of a chunk: after each, the held-out loss, the checkpoint and the progress are brought up to date; by
    default a twentieth of --num-steps."""
    record: tuple[str, ...] = ("loss", "grad_norm", "learning_rate")
    """What the run folder's history.npz keeps: loss, grad_norm, learning_rate, update_norm,
    predicted_decrease, second_order_decrease, actual_decrease, params."""
    record_every: int | None = None
    """Keep every so many steps; by default as many as leave 100000 entries."""
    checkpoint: Path | None = None
    """Folder to keep the state of the run in. The same command goes on from there after an interruption, and with a
    larger --num-steps also from the end."""
    progress: bool = True
    """Show a progress bar on a terminal, elsewhere a line now and then."""
    evaluation: str = "auto"
    """How the sum over rows is evaluated: plain, tiled, sharded over all devices, compressed to its statistics, or
    auto for the fastest at its size."""
    distributed: str | None = None
    """Run with other processes, which get the same command line: HOST:PORT,PROCESSES,ID, with the address of
    process 0 and the id of this one; or auto on a cluster that jax knows."""
    out: Path | None = None
    """Folder to write; by default a new one under runs/. Other processes than the first write to FOLDER-process-ID,
    and by default not at all."""


def run(options: FitOptions) -> int:
    """Load, fit, report.

    Args:
      options: of the command line.

    Returns:
      The exit code: 0, 1 for a run that diverged, 128 and the signal for one that was interrupted.

    Raises:
      UserError: options that do not fit together.
      DataError: a mistake in the data.
    """
    _check(options)
    if options.distributed is not None:
        _join(options.distributed)
    # Compilation leaves the interpreter free for what is needed only at the end. Leaving the block waits for
    # the thread: an interpreter that ends under a compilation crashes.
    with concurrent.futures.ThreadPoolExecutor(max_workers=1) as meanwhile:
        meanwhile.submit(importlib.import_module, "matplotlib.figure")
        code = _run(options, meanwhile)
    if options.distributed is not None:
        leave()
    return code


def leave() -> None:
    """Wait for the others, at the end of a process that is about to end.

    The first process serves the others, whose library aborts them (SIGABRT) if it is gone before they are. That can
    happen in `jax.distributed.shutdown`, too: it stops serving as soon as the others may end, not when they have.
    """
    multihost_utils.sync_global_devices("the end")
    if not jax.process_index():
        time.sleep(LEAVE_SECONDS)


def _run(options: FitOptions, meanwhile: concurrent.futures.Executor) -> int:
    job = jobs.prepare(options)
    shares = job.dataset.shares
    # Messages between processes go in one order: a thread beside the run must not send any.
    first = meanwhile.submit(jobs.judged, job, job.params) if shares is None else _done(jobs.judged(job, job.params))
    plan = _plan(job, options)
    # The rows held out, for mlp a quarter by default, are followed in any case: it costs one evaluation a chunk.
    held_out = _rows_held_out(job)
    started = time.perf_counter()
    try:
        left = functools.partial(_left_in, options.checkpoint)
        with folders.writing("checkpoint", options.checkpoint, left=left), seconds_compiling() as compiling:
            result = fit(
                job.whole[0],
                job.params,
                job.whole[1],
                learning_rate=find_schedule(options.schedule, plan.learning_rate, plan.num_steps),
                num_steps=plan.num_steps,
                batch_size=options.batch_size,
                key=job.rows_key,
                optimizer=find_optimizer(options.optimizer),
                grad_tol=options.grad_tol,
                param_tol=options.param_tol,
                divergence_factor=options.divergence_factor,
                record=options.record,
                record_every=plan.record_every,
                chunk_steps=plan.chunk_steps,
                progress=options.progress,
                checkpoint=options.checkpoint,
                evaluation=plan.evaluation if shares is None else "plain",
                held_out=held_out,
                patience=options.patience,
            )
            jax.block_until_ready(result)
    except ValueError as error:
        raise UserError(str(error)) from None
    times = {"seconds": time.perf_counter() - started, "compile_seconds": compiling()}
    summary = outcome.summarise(job, options, result, first.result()[0], plan.learning_rate)
    summary |= times | {"evaluation": plan.evaluation}
    code = {"INTERRUPTED": 128 + ended_by(), "DIVERGED": 1, "NONFINITE": 1}.get(summary["stop_reason"], 0)
    process = jax.process_index()
    if process and options.out is None:
        return code
    folder = options.out or folders.new_folder(f"{summary['data']}-{job.name}")
    if process:  # the folder of the first process may be the same
        folder = folder.with_name(f"{folder.name}-process-{process}")
    config = {**dataclasses.asdict(options), "problem": job.problem.name, "num_steps": plan.num_steps}
    # Printed first: if the disk is full, the numbers are on the screen.
    if options.json and not process:
        print(reporting.to_json({**summary, "folder": str(folder)}), flush=True)
    elif not process:
        outcome.print_summary(summary, folder)
    fitted = _fitted(job, result, best=options.patience is not None)
    with folders.writing("out", folder, left=folders.PRINTED):
        reporting.write_run(folder, config=config, summary=summary, fitted=fitted, record_every=plan.record_every)
    if not (process or options.json):
        tables.console().print(f"written to {folder}", style="dim", soft_wrap=True)
    return code


def _done(value: Any) -> concurrent.futures.Future[Any]:
    future: concurrent.futures.Future[Any] = concurrent.futures.Future()
    future.set_result(value)
    return future


def _rows_held_out(job: Job) -> Any:
    """The rows held out, in the form of those of the run; None without any."""
    if not job.test_set.num_rows:
        return None
    rows = data.to_batch(job.test_set, job.transform)
    return rows if job.test_set.shares is None else shares_of(rows, job.test_set.shares)


def _left_in(checkpoint: Path | None) -> str:
    """Where the numbers are when a checkpoint cannot be written."""
    return "the same command goes on from the one before" if checkpoint and settings_in(checkpoint) else ""


class _Plan(NamedTuple):
    """The settings of a run, with those that the command line left open filled in."""

    num_steps: int
    learning_rate: float
    record_every: int
    chunk_steps: int | None
    evaluation: str


def _plan(job: Job, options: FitOptions) -> _Plan:
    """Fill in what the command line leaves open: as in the checkpoint, if there is one."""
    kept = settings_in(options.checkpoint) if options.checkpoint else {}
    size = sum(leaf.size for leaf in jax.tree.leaves(job.params))
    num_rows = sum(job.dataset.shares or (len(job.batch.inputs),))
    afforded = int(np.clip(WORK / (4 * num_rows * size), 1000, 100_000))
    num_steps = options.num_steps or max(afforded, int(kept.get("num_steps", 0)))
    chunk_steps = options.chunk_steps
    if not (chunk_steps or options.num_steps or kept):
        # Chunks shorter than blocks: a run of about a second is not worth their program. Most such runs end early, so
        # that the curve of held-out rows needs many of them.
        chunk_steps = -(-num_steps // ((10 if job.test_set.num_rows else 2) * NUM_CHUNKS))
    evaluation = options.evaluation
    if evaluation == "auto":
        evaluation = kept.get("evaluation", evaluation)
    return _Plan(
        num_steps,
        options.learning_rate or _choose_rate(job, options),
        options.record_every or int(kept.get("record_every", -(-num_steps // RECORDS))),
        chunk_steps,
        jobs.choose_evaluation(evaluation, job, num_steps, options.batch_size),
    )


def _fitted(job: Job, result: Result, *, best: bool) -> reporting.Fitted:
    """What `jaxgd predict` needs."""
    dataset = job.dataset
    return reporting.Fitted(
        job.problem,
        result,
        job.scaling,
        input_names=dataset.input_names,
        target_names=dataset.target_names,
        class_names=dataset.class_names,
        one_hot=dataset.one_hot,
        best=best,
    )


def _join(words: str) -> None:
    """Meet the other processes."""
    given: tuple[Any, ...] = ()
    if words != "auto":
        try:
            address, num_processes, process = words.split(",")
            given = (address, int(num_processes), int(process))
        except ValueError:
            raise UserError(f"--distributed must be HOST:PORT,PROCESSES,ID or auto, got {words!r}.") from None
    # The library of the collectives writes "[Gloo] Rank 0 is connected ..." to the descriptor of standard output. From
    # here on that is standard error, and what Python prints goes where standard output was.
    sys.stdout.flush()
    output = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = os.fdopen(output, "w", encoding=sys.stdout.encoding, errors=sys.stdout.errors, buffering=1)
    try:
        jax.distributed.initialize(*given)
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"--distributed {words}: the processes cannot meet ({reason})") from None


def _check(options: FitOptions) -> None:
    """Ranges that the library does not check on traced values."""
    errors.check_positive("learning-rate", options.learning_rate)
    if options.divergence_factor != np.inf:
        errors.check_positive("divergence-factor", options.divergence_factor)
    errors.check_at_least_one("num-steps", options.num_steps)
    errors.check_at_least_one("batch-size", options.batch_size)
    for name in ("record_every", "patience", "chunk_steps"):
        errors.check_at_least_one(name.replace("_", "-"), getattr(options, name))
    jobs.check_evaluation(options.evaluation)
    for name in ("grad_tol", "param_tol"):
        if np.isnan(getattr(options, name)):
            raise UserError(f"--{name.replace('_', '-')} must be a number, got nan.")
    find_schedule(options.schedule, 1.0, options.num_steps or 2**31 - 1)
    if find_optimizer(options.optimizer) and options.learning_rate is None:
        raise UserError(f"--optimizer {options.optimizer} needs --learning-rate; 0.01 is a common start.")
    folders.check_new_folder(options.out)


def _choose_rate(job: Job, options: FitOptions) -> float:
    """Half of the limit: 1/L where a bound on the curvature is known, for the batch size of the run."""
    size, num_rows = options.batch_size, len(job.batch.inputs)
    limit = job.facts.limit
    if size is not None and size < num_rows:
        bound = jax.jit(lambda batch: smoothness(job.problem, batch, batch_size=size))(job.batch)
        limit = _smallest_local_limit(job, size, options.seed) if bound is None else 2 / float(bound)
    if not np.isfinite(limit):
        raise UserError("no stable learning rate is known here (no upward curvature); give --learning-rate.")
    return limit / 2


def _smallest_local_limit(job: Job, batch_size: int, seed: int) -> float:
    """The smallest local limit at the start of up to 32 mini-batches: each has its own."""
    num_rows = len(job.batch.inputs)
    num_batches = min(32, num_rows // batch_size)
    order = np.random.default_rng(seed).permutation(num_rows)
    rows = jnp.asarray(order[: num_batches * batch_size].reshape(num_batches, -1))
    limits = jax.lax.map(
        lambda r: largest_stable_learning_rate(job.problem, job.params, jax.tree.map(lambda a: a[r], job.batch)),
        rows,
    )
    return float(jnp.min(limits))
