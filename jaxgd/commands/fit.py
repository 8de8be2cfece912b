"""jaxgd fit: run gradient descent on a data set and print a summary."""

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
from jaxgd.commands.errors import PrintedError, UserError
from jaxgd.commands.job import Job
from jaxgd.commands.optimizers import find_optimizer, find_schedule
from jaxgd.descent import Result, fit
from jaxgd.descent.checkpoint import settings_in
from jaxgd.descent.fast.blocks import NUM_CHUNKS
from jaxgd.descent.fast.choose import SHARDED_FROM
from jaxgd.descent.fast.sharded import shares_of
from jaxgd.descent.host import ended_by
from jaxgd.theory.bounds import smoothness
from jaxgd.theory.curvature import largest_stable_learning_rate

WORK = 2e10
"""The number of multiplications that determines the default of --num-steps."""

LEAVE_SECONDS = 1.0
"""For which the first process outlives the others, who need milliseconds to end."""

RECORDS = 100_000
"""The default number of entries in the history of a run."""


@dataclasses.dataclass(frozen=True)
class FitOptions(jobs.DataOptions):
    """Fit a model to a data set by gradient descent, and report why the run ended.

    Exit codes: 0 if the run converged or took all its steps, 1 if it diverged, 2 for bad input, 3 if the result could
    not be written, 130 after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP.
    """

    learning_rate: float | None = None
    """Learning rate. The default is half of the largest stable rate for squared errors, half of the guaranteed limit if
    a bound on the curvature is known, and half of the local limit at the start for networks."""
    num_steps: int | None = None
    """Largest number of steps. The default corresponds to about 2e10 multiplications, between 1000 and 100000 steps."""
    batch_size: int | None = None
    """Rows in a batch, 1 for stochastic descent. The default is all rows."""
    optimizer: str = "gradient_descent"
    """gradient_descent, or the name of an optax optimizer (adam, nadam, rmsprop, ...), with arguments after a colon:
    sgd:momentum=0.9,nesterov=true."""
    schedule: str | None = None
    """How the learning rate changes during the run: constant, linear, cosine, exponential, piecewise or warm-up. These
    are schedules of optax and take their arguments: cosine:alpha=0.1, exponential:decay_rate=0.1, piecewise:1000=0.1 (a
    tenth from step 1000 on), warm-up:warmup_steps=100. --learning-rate is the rate at the beginning; for warm-up it is
    the highest rate. By default the schedule extends over all steps."""
    grad_tol: float = 0.0
    """Stop if the gradient norm is at most this."""
    param_tol: float = 0.0
    """Stop if no parameter changes by more than this in an epoch."""
    divergence_factor: float = 1000.0
    """The run counts as diverged if the loss exceeds its best value by this factor. inf switches this off."""
    patience: int | None = None
    """Stop if the loss of the held-out rows has not become lower for this many chunks. The parameters with the lowest
    held-out loss are reported and saved."""
    chunk_steps: int | None = None
    """Steps in a chunk. The held-out loss, the checkpoint and the progress are updated after each chunk. The default is
    a twentieth of --num-steps."""
    record: tuple[str, ...] = ("loss", "grad_norm", "learning_rate")
    """The values to record in history.npz: loss, grad_norm, learning_rate, update_norm, predicted_decrease,
    second_order_decrease, actual_decrease, params."""
    record_every: int | None = None
    """Record only every this many steps. By default at most 100000 entries are recorded."""
    checkpoint: Path | None = None
    """Folder for the state of the run. After an interruption the same command continues the run. With a larger
    --num-steps it also continues a finished run."""
    progress: bool = True
    """Show a progress bar on a terminal, or a line of progress from time to time elsewhere."""
    evaluation: str = "auto"
    """How the sum over rows is evaluated: plain, tiled (in the cache), sharded (over all devices), compressed (to
    sufficient statistics), or auto for the fastest."""
    distributed: str | None = None
    """Run together with other processes, each with the same command line. HOST:PORT,PROCESSES,ID gives the address of
    process 0, the number of processes and the id of this process. auto works on clusters that JAX recognises."""
    out: Path | None = None
    """Folder for the results. The default is a new folder under runs/. With several processes, the others write to
    FOLDER-process-ID if this option is given, and otherwise nothing."""


def run(options: FitOptions) -> int:
    """Load the data, fit, print and write the result.

    Args:
      options: the options of the command line.

    Returns:
      The exit code: 0, 1 if the run diverged, 128 plus the signal number if it was interrupted.

    Raises:
      UserError: options do not fit together.
      DataError: the data contain a mistake.
    """
    _check(options)
    if options.distributed is not None:
        # Before jax starts; how many bytes of numbers a file holds is known only when it is read.
        if os.path.isfile(options.data) and os.path.getsize(options.data) >= SHARDED_FROM:
            jobs.use_all_cores()
        _join(options.distributed)
        _check_folders(options.out)
    # Compilation leaves the interpreter free for what is needed only at the end. Leaving the block waits for
    # the thread: an interpreter that ends under a compilation crashes.
    with concurrent.futures.ThreadPoolExecutor(max_workers=1) as meanwhile:
        meanwhile.submit(importlib.import_module, "matplotlib.figure")
        try:
            code = _run(options, meanwhile)
        except PrintedError:  # the run itself is complete, and the others wait for its end
            if options.distributed is not None:
                leave()
            raise
    if options.distributed is not None:
        leave()
    return code


def _check_folders(out: Path | None) -> None:
    """Refuse in all processes, before anything runs, what one of them could not write at the end."""
    refusal = None
    try:
        folders.check_new_folder(out and _folder_of(out))
    except UserError as error:
        refusal = str(error)
    for told in data.gather(refusal):
        if told is not None:
            leave()
            raise UserError(told)


def _folder_of(out: Path) -> Path:
    """The folder of this process: that of the first may be on the same disk."""
    process = jax.process_index()
    return out.with_name(f"{out.name}-process-{process}") if process else out


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
    folder = _folder_of(options.out) if options.out else folders.new_folder(f"{summary['data']}-{job.name}")
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
    """The place of the last saved state, for the message if a checkpoint cannot be written."""
    return "the same command continues from the checkpoint before" if checkpoint and settings_in(checkpoint) else ""


class _Plan(NamedTuple):
    """The settings of a run, with defaults for options that were not given."""

    num_steps: int
    learning_rate: float
    record_every: int
    chunk_steps: int | None
    evaluation: str


def _plan(job: Job, options: FitOptions) -> _Plan:
    """Fill in options that were not given: from the checkpoint if there is one, otherwise with defaults."""
    kept = settings_in(options.checkpoint) if options.checkpoint else {}
    size = sum(leaf.size for leaf in jax.tree.leaves(job.params))
    num_rows = sum(job.dataset.shares or (len(job.batch.inputs),))
    afforded = int(np.clip(WORK / (4 * num_rows * size), 1000, 100_000))
    num_steps = options.num_steps or max(afforded, int(kept.get("num_steps", 0)))
    chunk_steps = options.chunk_steps
    if not (chunk_steps or options.num_steps or kept):
        # Chunks shorter than blocks: for a run of about a second, compiling blocks does not pay. Most such runs end
        # early, so that the curve of held-out rows needs many of them.
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
    """The fitted model that `jaxgd predict` loads."""
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
    """Connect to the other processes."""
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
        raise UserError(f"--distributed {words}: the processes cannot connect ({reason})") from None


def _check(options: FitOptions) -> None:
    """Check ranges that the library cannot check because the values are traced."""
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
    """Half of the limit for the batch size of the run: 1/L if a bound L on the curvature is known."""
    size, num_rows = options.batch_size, len(job.batch.inputs)
    limit = job.facts.limit
    if size is not None and size < num_rows:
        bound = jax.jit(lambda batch: smoothness(job.problem, batch, batch_size=size))(job.batch)
        limit = _smallest_local_limit(job, size, options.seed) if bound is None else 2 / float(bound)
    if not np.isfinite(limit):
        raise UserError("no stable learning rate is known (no positive eigenvalue); give --learning-rate.")
    return limit / 2


def _smallest_local_limit(job: Job, batch_size: int, seed: int) -> float:
    """The smallest local limit at the start over up to 32 mini-batches, which all have different limits."""
    num_rows = len(job.batch.inputs)
    num_batches = min(32, num_rows // batch_size)
    order = np.random.default_rng(seed).permutation(num_rows)
    rows = jnp.asarray(order[: num_batches * batch_size].reshape(num_batches, -1))
    limits = jax.lax.map(
        lambda r: largest_stable_learning_rate(job.problem, job.params, jax.tree.map(lambda a: a[r], job.batch)),
        rows,
    )
    return float(jnp.min(limits))
