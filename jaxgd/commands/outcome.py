"""The result of a fit: its summary, and how the summary is printed."""

import functools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxgd import data
from jaxgd.commands import job as jobs
from jaxgd.commands import tables
from jaxgd.commands.job import Job
from jaxgd.descent import Result
from jaxgd.descent.explain import sentence
from jaxgd.theory.closed_form import separates

PARAMETER_ROWS = 40
"""The largest number of parameters that are printed."""

LOST = ("DIVERGED", "NONFINITE")


def summarise(job: Job, options: Any, result: Result, first_loss: float, learning_rate: float) -> dict[str, Any]:
    """The summary of a fit, which is written to `summary.json`.

    Args:
      job: the job.
      options: the options of the command line, a `FitOptions`.
      result: the result of the run.
      first_loss: the loss at the start.
      learning_rate: the learning rate at the beginning of the run.

    Returns:
      Names and values, without times.
    """
    plain = (
        options.optimizer == "gradient_descent"
        and options.schedule is None
        and options.batch_size in (None, len(job.batch.inputs))
    )
    advice = "Lower the rate" if job.scaling else "Standardise the inputs or lower the rate"
    reason, num_steps = result.stop_reason, int(result.num_steps)
    followed = _held_out(result)
    if options.patience is not None:
        result = result._replace(params=result.best_params)
        lowest = f"those of step {followed['lowest_held_out_step']}, where the held-out loss was lowest"
        job.notes.append(f"The parameters, and what is computed from them, are {lowest}.")
    last_loss, grad_norm, predictions = jobs.judged(job, result.params)
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
        "last_loss": last_loss,
        "grad_norm": grad_norm,
        "num_steps": num_steps,
        "stop_reason": reason.name,
        **followed,
        "ended": sentence(
            reason, num_steps, learning_rate, job.facts.kind if plain else None, job.facts.limit, advice=advice
        ),
        "learning_rate": learning_rate,
        "schedule": options.schedule,
        **jobs.limits(job.facts, plain),
        "notes": job.notes,
    }
    quality = _quality(job, result, predictions)
    unproved = job.name == "softmax_regression" or (
        job.name == "logistic_regression" and job.dataset.shares is not None
    )
    if unproved and not options.l2 and jobs.SEPARABLE not in job.notes and quality.get("accuracy") == 1.0:
        here = separates(result.params, job.batch.inputs, job.batch.targets)
        if all(_told(job, here)):
            job.notes.append(jobs.SEPARABLE)
    return summary | quality | _parameters(job, result)


def _held_out(result: Result) -> dict[str, Any]:
    """The loss of the held-out rows at the end, and its lowest value."""
    if result.held_out is None:
        return {}
    steps, losses = np.asarray(result.held_out.step), np.asarray(result.held_out.loss, np.float64)
    lowest = 0 if np.isnan(losses).all() else int(np.nanargmin(losses))
    return {
        "held_out_first_loss": float(losses[0]),
        "held_out_last_loss": float(losses[-1]),
        "lowest_held_out_loss": float(losses[lowest]),
        "lowest_held_out_step": int(steps[lowest]),
    }


def _quality(job: Job, result: Result, predictions: jax.Array) -> dict[str, float]:
    """Accuracy of classifiers and R^2 of regressions, for the fitted rows and the held-out rows."""
    add = functools.partial(_sum, job)
    found = _scores("", predictions, job.batch.targets, add)
    if job.test_set.num_rows:
        test = data.to_batch(job.test_set, job.transform)
        found |= _scores("held_out_", jobs.evaluate(job.problem, result.params, test)[2], test.targets, add)
    return found


def _told(job: Job, value: Any) -> list[Any]:
    """A value of every process, if each has its own rows."""
    return [value] if job.dataset.shares is None else data.gather(value)


def _sum(job: Job, value: Any) -> Any:
    """The sum over all rows, from that over those that are here."""
    return sum(_told(job, value))


def _scores(prefix: str, predictions: jax.Array, targets: jax.Array, add: Callable[[Any], Any]) -> dict[str, float]:
    predicted, expected = np.asarray(predictions, np.float64), np.asarray(targets)
    num_rows = add(len(expected))
    if np.issubdtype(expected.dtype, np.integer):
        chosen = predicted.argmax(axis=1) if predicted.ndim == 2 else predicted > 0.5
        return {f"{prefix}accuracy": float(add(np.sum(chosen == expected)) / num_rows)}
    spread = add(np.sum((expected - add(expected.sum(axis=0)) / num_rows) ** 2))
    residuals = predicted.reshape(expected.shape) - expected
    return {f"{prefix}r_squared": float(1 - add(np.sum(residuals**2)) / spread)} if spread > 0 else {}


def _parameters(job: Job, result: Result) -> dict[str, Any]:
    """Parameters in the units of the data, and the closed form if there is one."""
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


def print_summary(summary: dict[str, Any], folder: Path) -> None:
    """Print the summary of a fit.

    Args:
      summary: the result of `summarise`, with times.
      folder: the folder to which it will be written.
    """
    held_out = f", {summary['held_out_rows']} held out" if summary["held_out_rows"] else ""
    facts = {
        "problem": f"{summary['problem']}: {summary['loss_name']}",
        "data": f"{summary['data']}, {summary['rows']} rows{held_out}, inputs {summary['inputs']}, {summary['dtype']}",
        "loss": f"{summary['first_loss']:.6g} -> {summary['last_loss']:.6g}",
    }
    if "held_out_last_loss" in summary:
        facts["held-out loss"] = (
            f"{summary['held_out_first_loss']:.6g} -> {summary['held_out_last_loss']:.6g}, "
            f"lowest {summary['lowest_held_out_loss']:.6g} at step {summary['lowest_held_out_step']}"
        )
    facts["gradient norm"] = f"{summary['grad_norm']:.3g}"
    if summary["evaluation"] != "plain":
        facts["evaluated"] = summary["evaluation"]
    facts |= {
        "steps": f"{summary['num_steps']} in {jobs.describe_seconds(summary)}",
        "ended": summary["ended"],
        "learning rate": f"{summary['learning_rate']:.4g}"
        + (f", {summary['schedule']}" if summary["schedule"] else ""),
        **jobs.describe_limits(summary),
    }
    for key, label in (("accuracy", "accuracy"), ("r_squared", "R^2")):
        if key in summary:
            tested = summary.get(f"held_out_{key}")
            facts[label] = f"{summary[key]:.4f}" + (f", held out {tested:.4f}" if tested is not None else "")
    if "gap" in summary:
        facts["closed form"] = (
            f"loss {summary['loss_at_minimizer']:.6g}; largest gap {summary['gap']:.1e} of the largest parameter"
        )
    lost = summary["stop_reason"] in LOST
    tables.print_facts(facts, {"ended": "bold red"} if lost else {})
    if not lost:  # parameters of a diverged run are not meaningful; the folder has them
        _print_parameters(summary["parameters"], summary.get("closed_form", {}), folder)
    tables.print_notes(summary["notes"])


def _print_parameters(parameters: dict[str, float], exact: dict[str, float], folder: Path) -> None:
    if len(parameters) > PARAMETER_ROWS:
        words = f"{len(parameters)} parameters: in {folder}/summary.json"
        tables.console().print(words, style="dim", soft_wrap=True)
        return
    columns = [tables.Column("parameter, in the units of the data", tables.WORDS), tables.Column("fitted")]
    rows = [[name, f"{value:.7g}"] for name, value in parameters.items()]
    if exact:
        columns += [tables.Column("closed form", tables.SPARE), tables.Column("gap", tables.SPARE)]
        rows = [[*row, f"{exact[row[0]]:.7g}", f"{parameters[row[0]] - exact[row[0]]:.1e}"] for row in rows]
    tables.print_table(columns, rows)
