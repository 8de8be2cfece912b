"""jaxgd rate: what is known about learning rates before a run."""

import dataclasses
from typing import Any

import numpy as np

from jaxgd import reporting
from jaxgd.commands import errors, tables
from jaxgd.commands import job as jobs
from jaxgd.commands.errors import UserError
from jaxgd.commands.job import Job
from jaxgd.data import short_name
from jaxgd.theory import curvature
from jaxgd.theory.rates import RateFacts, comparison_points, guaranteed_loss, judge

ACCURACY = 1e-6
"""The predicted number of steps reduces the error to this fraction of its value at the start."""

BOUND_STEPS = 1000
"""The bound on the loss is printed for this number of steps."""

SHARES = (0.001, 0.01, 0.1, 0.5, 0.99, 1.01, 2.0)
"""The printed rates, as multiples of the limit. Half of a guaranteed limit 2/L is 1/L."""

SLOW = 10
"""A rate that needs more than this many times the steps of the best rate is called slow."""

COLUMNS = {
    "contraction": "a step multiplies the\nerror by at most",
    "steps": f"steps to {ACCURACY:g}\nof it, at most",
    "loss_at_most": f"loss after {BOUND_STEPS:,}\nsteps, at most",
}
"""Columns that are printed if they are known for at least one rate."""


@dataclasses.dataclass(frozen=True)
class RateOptions(jobs.DataOptions):
    """Print which learning rates of full-batch descent are stable on a data set, before any run.

    The statements are exact for squared errors. They are guaranteed from every start if a bound on the curvature is
    known. Otherwise they hold only near the start. All computations use float64.
    """

    learning_rate: tuple[float, ...] = ()
    """Further learning rates to judge."""


def run(options: RateOptions) -> int:
    """Judge learning rates and print the verdicts.

    Args:
      options: the options of the command line.

    Returns:
      The exit code, 0.

    Raises:
      UserError: options are out of range, or the Hessian at the start has no positive eigenvalue.
      DataError: the data contain a mistake.
    """
    for rate in options.learning_rate:
        errors.check_positive("learning-rate", rate)
    job = jobs.prepare(options)
    if not np.isfinite(job.facts.limit):
        raise UserError("the Hessian at the start has no positive eigenvalue: the rate has no limit.")
    found = _summarise(job, options.learning_rate)
    if options.json:
        print(reporting.to_json(found))
    else:
        _print(found)
    return 0


def _summarise(job: Job, rates: tuple[float, ...]) -> dict[str, Any]:
    facts = job.facts
    found: dict[str, Any] = {
        "problem": job.problem.name,
        "data": short_name(job.dataset.name),
        "rows": job.dataset.num_rows,
        "held_out_rows": job.test_set.num_rows,
        "inputs": "standardised" if job.scaling else "raw",
        **jobs.limits(facts),
        **_curvature(facts),
    }
    shown = {*(share * facts.limit for share in SHARES), *rates}
    if facts.kind == "exact" and facts.eigenvalues is not None:
        found["best_learning_rate"] = curvature.best_learning_rate(facts.eigenvalues)
        shown.add(found["best_learning_rate"])
    points = _points(job)
    if points:
        found["least_loss_found"] = min(loss for loss, _ in points)
    found["rates"] = [_row(facts, rate, points) for rate in sorted(shown)]
    return found | {"notes": job.notes}


def _curvature(facts: RateFacts) -> dict[str, Any]:
    """Bounds over all parameters, and the curvatures at the start; None if they are not known."""
    found: dict[str, Any] = {}
    if facts.kind != "exact":
        found = {"smoothness": facts.smoothness, "strong_convexity": facts.strong_convexity, "convex": facts.convex}
        if facts.smoothness is None:
            found["unbounded"] = facts.unbounded
    found["largest_eigenvalue"] = 2 / facts.local_limit
    curved = None if facts.eigenvalues is None else curvature.curved(facts.eigenvalues)
    found["smallest_eigenvalue"] = None if curved is None else float(curved.min())
    if facts.kind == "exact" and curved is not None:
        found["condition_number"] = float(curved.max() / curved.min()) if curved.min() > 0 else float("inf")
    return found


def _points(job: Job) -> list[tuple[float, float]]:
    """The points with which `guaranteed_loss` bounds the loss of a convex problem."""
    if not (job.facts.kind == "guaranteed from every start" and job.facts.convex):
        return []
    with jobs.judging(job) as exact:
        return comparison_points(job.problem, *exact)


def _row(facts: RateFacts, rate: float, points: list[tuple[float, float]]) -> dict[str, Any]:
    verdict = judge(facts, rate)
    row: dict[str, Any] = {"learning_rate": rate, "contraction": verdict.contraction}
    if verdict.contraction is not None:
        row["steps"] = curvature.steps_to_accuracy(verdict.contraction, ACCURACY)
    bound = guaranteed_loss(facts, rate, BOUND_STEPS, points)
    if np.isfinite(bound):
        row["loss_at_most"] = bound
    words = verdict.words
    if words == "converges":
        assert facts.eigenvalues is not None
        best = curvature.contraction_factor(facts.eigenvalues, curvature.best_learning_rate(facts.eigenvalues))
        words = "slow" if row["steps"] > SLOW * curvature.steps_to_accuracy(best, ACCURACY) else "good"
    return row | {"verdict": words, "guaranteed": verdict.guaranteed, "diverges": verdict.diverges}


def _print(found: dict[str, Any]) -> None:
    facts = {
        "problem": found["problem"],
        "data": f"{found['data']}, {found['rows']} rows, inputs {found['inputs']}, judged in float64",
        **_describe_curvature(found),
        **jobs.describe_limits(found),
    }
    if "best_learning_rate" in found:
        facts["best fixed"] = f"{found['best_learning_rate']:.4g}, 2 / (mu + L)"
    if "least_loss_found" in found:
        facts["least loss found"] = f"{found['least_loss_found']:.6g}, by a Newton method"
    tables.print_facts(facts)
    shown = [name for name in COLUMNS if any(row.get(name) is not None for row in found["rates"])]
    kinds = {"contraction": tables.SPARE}
    columns = [tables.Column("learning rate"), *(tables.Column(COLUMNS[n], kinds.get(n, tables.NUMBER)) for n in shown)]
    tables.print_table(
        [*columns, tables.Column("verdict", tables.WORDS)],
        [
            [f"{row['learning_rate']:.4g}", *(_cell(name, row.get(name)) for name in shown), row["verdict"]]
            for row in found["rates"]
        ],
        styles=[_style(row) for row in found["rates"]],
    )
    tables.print_notes(found["notes"])


def _style(row: dict[str, Any]) -> str:
    return "red" if row["diverges"] else "green" if row["verdict"] == "good" or "loss_at_most" in row else ""


def _describe_curvature(found: dict[str, Any]) -> dict[str, str]:
    """The lines about curvatures; "-" where the smallest one is not known."""
    smallest = found["smallest_eigenvalue"]
    span = f"{'-' if smallest is None else format(smallest, '.4g')} to {found['largest_eigenvalue']:.4g}"
    if found["stability"] == "exact":
        number = found.get("condition_number")
        tail = "" if number is None else f", condition number {number:.4g}"
        return {"curvature": f"{span}{tail} (exact, the same everywhere)"}
    if found["smoothness"] is None:
        everywhere = f"no bound: {found['unbounded']}"
    else:
        low = f"at least mu = {found['strong_convexity']:.4g}, " if found["strong_convexity"] > 0 else ""
        everywhere = f"{low}at most L = {found['smoothness']:.4g}" + (", convex" if found["convex"] else ", not convex")
    return {"curvature, anywhere": everywhere, "at this start": span}


def _cell(name: str, value: float | None) -> str:
    if value is None:
        return "-"
    if name == "loss_at_most":
        return f"{value:.4g}"
    if name == "steps":
        return f"{value:,.0f}" if np.isfinite(value) else "never"
    return f"1 - {1 - value:.2e}" if value < 1 else f"{value:.4g}"
