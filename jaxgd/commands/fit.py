"""jaxgd fit: descend on a data set and say how it ended."""

import concurrent.futures
import dataclasses
import importlib
import time
import warnings
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import rich.markup
import rich.table

from jaxgd import data, reporting
from jaxgd.commands import job as jobs
from jaxgd.commands.job import Job, UserError
from jaxgd.descent import Result, fit
from jaxgd.descent.explain import sentence
from jaxgd.descent.fast.blocks import NUM_CHUNKS
from jaxgd.descent.host import ended_by
from jaxgd.theory.bounds import smoothness
from jaxgd.theory.curvature import largest_stable_learning_rate

WORK = 2e10
"""Multiplications that a run without --num-steps may cost."""

RECORDS = 100_000
"""Entries of the history that a run keeps if not told otherwise."""

PARAMETER_ROWS = 40
"""Parameters that the screen shows."""

LOST = ("DIVERGED", "NONFINITE")


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
    """gradient_descent, or an optax optimizer by name (adam, nadam, rmsprop, ...)."""
    grad_tol: float = 0.0
    """Stop when the gradient norm is at most this."""
    param_tol: float = 0.0
    """Stop when no parameter moves by more than this in an epoch."""
    divergence_factor: float = 1000.0
    """Growth of the loss over its best that counts as divergence; inf never does."""
    record: tuple[str, ...] = ("loss", "grad_norm", "learning_rate")
    """What the run folder's history.npz keeps: loss, grad_norm, learning_rate, update_norm,
    predicted_decrease, second_order_decrease, actual_decrease, params."""
    record_every: int | None = None
    """Keep every so many steps; by default as many as leave 100000 entries."""
    checkpoint: Path | None = None
    """Folder to keep the state of the run in; the same command goes on from there after an interruption."""
    progress: bool = True
    """Show a progress bar on a terminal, elsewhere a line now and then."""
    evaluation: str = "auto"
    """How the sum over rows is evaluated: plain, tiled, sharded over all devices, compressed to its statistics, or
    auto for the fastest at its size."""
    distributed: str | None = None
    """Run with other processes, which get the same command line: HOST:PORT,PROCESSES,ID, with the address of
    process 0 and the id of this one; or auto on a cluster that jax knows."""
    out: Path | None = None
    """Folder to write; by default a new one under runs/."""


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
        return _run(options, meanwhile)


def _run(options: FitOptions, meanwhile: concurrent.futures.Executor) -> int:
    job = jobs.prepare(options)
    first = meanwhile.submit(jobs.evaluate, job.problem, job.params, job.batch)
    size = sum(leaf.size for leaf in jax.tree.leaves(job.params))
    num_steps = options.num_steps or int(np.clip(WORK / (4 * len(job.batch.inputs) * size), 1000, 100_000))
    learning_rate = options.learning_rate or _choose_rate(job, options)
    record_every = options.record_every or -(-num_steps // RECORDS)
    # Chunks shorter than blocks: a run of about a second is not worth their program.
    chunk_steps = None if options.num_steps else -(-num_steps // (2 * NUM_CHUNKS))
    evaluation = jobs.choose_evaluation(options.evaluation, job, num_steps, options.batch_size)
    started = time.perf_counter()
    try:
        with jobs.writing("checkpoint", options.checkpoint):
            result = fit(
                job.problem,
                job.params,
                job.batch,
                learning_rate=learning_rate,
                num_steps=num_steps,
                batch_size=options.batch_size,
                key=job.rows_key,
                optimizer=jobs.find_optimizer(options.optimizer),
                grad_tol=options.grad_tol,
                param_tol=options.param_tol,
                divergence_factor=options.divergence_factor,
                record=options.record,
                record_every=record_every,
                chunk_steps=chunk_steps,
                progress=options.progress,
                checkpoint=options.checkpoint,
                evaluation=evaluation,
            )
            jax.block_until_ready(result)
    except ValueError as error:
        raise UserError(str(error)) from None
    seconds = time.perf_counter() - started
    summary = _summarise(job, options, result, float(first.result()[0]), learning_rate, seconds)
    code = {"INTERRUPTED": 128 + ended_by(), "DIVERGED": 1, "NONFINITE": 1}.get(summary["stop_reason"], 0)
    if jax.process_index():
        return code
    summary["evaluation"] = evaluation
    folder = options.out or jobs.new_folder(f"{summary['data']}-{job.name}")
    config = {**dataclasses.asdict(options), "problem": job.problem.name, "num_steps": num_steps}
    # Printed first: if the disk is full, the numbers are on the screen.
    if options.json:
        print(reporting.to_json({**summary, "folder": str(folder)}), flush=True)
    else:
        _print_summary(summary, folder)
    with jobs.kept("out", folder):
        reporting.write_run(
            folder, config=config, summary=summary, fitted=_fitted(job, result), record_every=record_every
        )
    if not options.json:
        reporting.console().print(f"written to {folder}", style="dim", soft_wrap=True)
    return code


def _fitted(job: Job, result: Result) -> reporting.Fitted:
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
    try:
        jax.distributed.initialize(*given)
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"--distributed {words}: the processes cannot meet ({reason})") from None


def _check(options: FitOptions) -> None:
    """Ranges that the library does not check on traced values."""
    jobs.check_positive("learning-rate", options.learning_rate)
    if options.divergence_factor != np.inf:
        jobs.check_positive("divergence-factor", options.divergence_factor)
    jobs.check_at_least_one("num-steps", options.num_steps)
    jobs.check_at_least_one("batch-size", options.batch_size)
    jobs.check_at_least_one("record-every", options.record_every)
    jobs.check_evaluation(options.evaluation)
    for name in ("grad_tol", "param_tol"):
        if np.isnan(getattr(options, name)):
            raise UserError(f"--{name.replace('_', '-')} must be a number, got nan.")
    if jobs.find_optimizer(options.optimizer) and options.learning_rate is None:
        raise UserError(f"--optimizer {options.optimizer} needs --learning-rate; 0.01 is a common start.")
    jobs.check_new_folder(options.out)


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


def _summarise(
    job: Job, options: FitOptions, result: Result, first_loss: float, learning_rate: float, seconds: float
) -> dict[str, Any]:
    plain = options.optimizer == "gradient_descent" and options.batch_size in (None, len(job.batch.inputs))
    advice = "Lower the rate" if job.scaling else "Standardise the inputs or lower the rate"
    reason, num_steps = result.stop_reason, int(result.num_steps)
    last_loss, grad_norm, predictions = jobs.evaluate(job.problem, result.params, job.batch)
    assert job.problem.formulas is not None
    summary: dict[str, Any] = {
        "problem": job.problem.name,
        "loss_name": job.problem.formulas.loss,
        "data": data.short_name(job.dataset.name),
        "rows": job.dataset.num_rows,
        "held_out_rows": job.test_set.num_rows,
        "inputs": "standardised" if job.scaling else "raw",
        "dtype": str(job.batch.inputs.dtype),
        "first_loss": first_loss,
        "last_loss": float(last_loss),
        "grad_norm": float(grad_norm),
        "num_steps": num_steps,
        "stop_reason": reason.name,
        "ended": sentence(
            reason, num_steps, learning_rate, job.facts.kind if plain else None, job.facts.limit, advice=advice
        ),
        "learning_rate": learning_rate,
        **jobs.limits(job.facts),
        "seconds": seconds,
        "notes": job.notes,
    }
    return summary | _quality(job, result, predictions) | _parameters(job, result)


def _quality(job: Job, result: Result, predictions: jax.Array) -> dict[str, float]:
    """Accuracy of classifiers, R^2 of regressions, on the rows fitted and those held out."""
    found = _scores("", predictions, job.batch.targets)
    if len(job.test_set.inputs):
        test = data.to_batch(job.test_set, job.transform)
        found |= _scores("held_out_", jobs.evaluate(job.problem, result.params, test)[2], test.targets)
    return found


def _scores(prefix: str, predictions: jax.Array, targets: jax.Array) -> dict[str, float]:
    predicted, expected = np.asarray(predictions, np.float64), np.asarray(targets)
    if np.issubdtype(expected.dtype, np.integer):
        chosen = predicted.argmax(axis=1) if predicted.ndim == 2 else predicted > 0.5
        return {f"{prefix}accuracy": float(np.mean(chosen == expected))}
    spread = np.sum((expected - expected.mean(axis=0)) ** 2)
    residuals = predicted.reshape(expected.shape) - expected
    return {f"{prefix}r_squared": float(1 - np.sum(residuals**2) / spread)} if spread > 0 else {}


def _parameters(job: Job, result: Result) -> dict[str, Any]:
    """Parameters in the units of the data, beside the closed form where there is one."""
    found: dict[str, Any] = {"parameters": job.named(job.in_data_units(result.params))}
    if job.problem.minimizer is None:
        return found
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        minimizer = job.problem.minimizer(job.batch)
    job.notes.extend(f"{str(warning.message).capitalize()}." for warning in caught)
    exact = job.named(job.in_data_units(minimizer))
    largest = max(abs(value) for value in exact.values()) or 1.0
    gaps = [abs(value - exact[name]) for name, value in found["parameters"].items()]
    return found | {
        "closed_form": exact,
        "gap": float(np.max(gaps) / largest),
        "loss_at_minimizer": float(jobs.evaluate(job.problem, minimizer, job.batch)[0]),
    }


def _print_summary(summary: dict[str, Any], folder: Path) -> None:
    console = reporting.console()
    table = rich.table.Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    held_out = f", {summary['held_out_rows']} held out" if summary["held_out_rows"] else ""
    rows = {
        "problem": f"{summary['problem']}: {summary['loss_name']}",
        "data": f"{summary['data']}, {summary['rows']} rows{held_out}, inputs {summary['inputs']}, {summary['dtype']}",
        "loss": f"{summary['first_loss']:.6g} -> {summary['last_loss']:.6g}",
        "gradient norm": f"{summary['grad_norm']:.3g}",
        "evaluated": summary["evaluation"],
        "steps": f"{summary['num_steps']} in {summary['seconds']:.2f} s, compilation included",
        "ended": summary["ended"],
        "learning rate": f"{summary['learning_rate']:.4g}",
        **jobs.describe_limits(summary),
    }
    for key, label in (("accuracy", "accuracy"), ("r_squared", "R^2")):
        if key in summary:
            tested = summary.get(f"held_out_{key}")
            rows[label] = f"{summary[key]:.4f}" + (f", held out {tested:.4f}" if tested is not None else "")
    if "gap" in summary:
        rows["closed form"] = (
            f"loss {summary['loss_at_minimizer']:.6g}; largest gap {summary['gap']:.1e} of the largest parameter"
        )
    if summary["evaluation"] == "plain":
        del rows["evaluated"]
    for label, text in rows.items():
        style = "bold red" if label == "ended" and summary["stop_reason"] in LOST else ""
        table.add_row(label, rich.markup.escape(text), style=style)
    console.print(table)
    parameters, exact = summary["parameters"], summary.get("closed_form", {})
    if summary["stop_reason"] in LOST:
        pass  # parameters of a run that was lost tell nothing; the folder has them
    elif len(parameters) <= PARAMETER_ROWS:
        table = rich.table.Table(box=rich.box.SIMPLE_HEAD)
        table.add_column("parameter, in the units of the data")
        for column in ["fitted", "closed form", "gap"][: 3 if exact else 1]:
            table.add_column(column, justify="right")
        for name, value in parameters.items():
            cells = [f"{value:.7g}"]
            if exact:
                cells += [f"{exact[name]:.7g}", f"{value - exact[name]:.1e}"]
            table.add_row(rich.markup.escape(name), *cells)
        console.print(table)
    else:
        console.print(f"{len(parameters)} parameters: in {folder}/summary.json", style="dim", soft_wrap=True)
    for note in summary["notes"]:
        console.print(f"note: {note}", style="yellow", markup=False)
