"""jaxgd rate: which learning rates are sound, before anything runs."""

import dataclasses
from typing import Any

import jax
import numpy as np
import rich.box
import rich.table

from jaxgd import data, reporting
from jaxgd.commands import job as jobs
from jaxgd.commands.job import Job, UserError
from jaxgd.theory import curvature

ACCURACY = 1e-6
"""Share of the error at the start that the predicted steps lead to."""

SHARES = (0.001, 0.01, 0.1, 0.5, 0.99, 1.01, 2.0)
"""Rates shown, as shares of the largest stable one."""

SLOW = 10
"""Times the steps of the best rate from which a rate is called slow."""


@dataclasses.dataclass(frozen=True)
class RateOptions(jobs.DataOptions):
    """Say which learning rates are sound on a data set: the largest stable one, the best, and a table.

    Computed in float64. Exact for squared errors; for other losses local, at the start.
    """

    learning_rate: tuple[float, ...] = ()
    """Rates of your own to judge as well."""


def run(options: RateOptions) -> int:
    """Judge rates and print the verdicts.

    Args:
      options: of the command line.

    Returns:
      The exit code, 0.

    Raises:
      UserError: options out of range, or too many parameters.
      DataError: a mistake in the data.
    """
    for rate in options.learning_rate:
        jobs.check_positive("learning-rate", rate)
    job = jobs.prepare(dataclasses.replace(options, x64=True))
    try:
        eigenvalues = jax.jit(curvature.eigenvalues, static_argnums=0)(job.problem, job.params, job.batch)
    except ValueError as error:
        raise UserError(str(error)) from None
    found = _judge(job, eigenvalues, options.learning_rate)
    if options.json:
        print(reporting.to_json(found))
    else:
        _print(found)
    return 0


def _judge(job: Job, eigenvalues: jax.Array, rates: tuple[float, ...]) -> dict[str, Any]:
    best = curvature.best_learning_rate(eigenvalues)
    if not (np.isfinite(best) and np.isfinite(job.limit)):
        raise UserError("no direction curves upwards here: every rate is as stable as any other.")
    fewest = curvature.steps_to_accuracy(curvature.contraction_factor(eigenvalues, best), ACCURACY)
    curved = curvature.curved(eigenvalues)
    rows = []
    for rate in sorted({*(share * job.limit for share in SHARES), best, *rates}):
        factor = curvature.contraction_factor(eigenvalues, rate)
        steps = curvature.steps_to_accuracy(factor, ACCURACY)
        if rate > job.limit:
            verdict = f"diverges, {rate / job.limit:.3g} times the limit"
        elif rate > best * (1 + 1e-12):
            verdict = "overshooting"
        else:
            verdict = "slow" if steps > SLOW * fewest else "good"
        rows.append({"learning_rate": rate, "contraction": factor, "steps": steps, "verdict": verdict})
    return {
        "problem": job.problem.name,
        "data": data.short_name(job.dataset.name),
        "rows": len(job.dataset.inputs),
        "inputs": "standardised" if job.scaling else "raw",
        "largest_eigenvalue": float(curved.max()),
        "smallest_eigenvalue": float(curved.min()),
        "condition_number": float(curved.max() / curved.min()) if curved.min() > 0 else float("inf"),
        "largest_stable_learning_rate": job.limit,
        "best_learning_rate": best,
        "stability": "exact" if job.problem.minimizer else "local, at the start",
        "rates": rows,
        "notes": job.notes,
    }


def _print(found: dict[str, Any]) -> None:
    console = reporting.console()
    table = rich.table.Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("problem", found["problem"])
    table.add_row("data", f"{found['data']}, {found['rows']} rows, inputs {found['inputs']}, float64")
    table.add_row(
        "curvature",
        f"{found['smallest_eigenvalue']:.4g} to {found['largest_eigenvalue']:.4g}, "
        f"condition number {found['condition_number']:.4g} ({found['stability']})",
    )
    table.add_row("largest stable", f"{found['largest_stable_learning_rate']:.4g}, 2 / lambda_max")
    table.add_row("best fixed", f"{found['best_learning_rate']:.4g}, 2 / (mu + L)")
    console.print(table)
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD)
    for column in ("learning rate", "a step multiplies\nthe error by", f"steps to\n{ACCURACY:g} of it"):
        table.add_column(column, justify="right")
    table.add_column("verdict")
    for row in found["rates"]:
        steps = f"{row['steps']:,.0f}" if np.isfinite(row["steps"]) else "never"
        colour = {"diverges": "red", "good": "green"}.get(row["verdict"].split(",")[0], "")
        factor = f"1 - {1 - row['contraction']:.2e}" if row["contraction"] < 1 else f"{row['contraction']:.4g}"
        cells = (f"{row['learning_rate']:.4g}", factor, steps, row["verdict"])
        table.add_row(*cells, style=colour)
    console.print(table)
    for note in found["notes"]:
        console.print(f"note: {note}", style="yellow", markup=False)
