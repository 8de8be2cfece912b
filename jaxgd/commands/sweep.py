"""jaxgd sweep: run learning rates, seeds and further axes in one program, and plot the final losses."""

import dataclasses
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgd import data, plot, reporting
from jaxgd.commands import errors, folders, tables
from jaxgd.commands import job as jobs
from jaxgd.commands.clock import seconds_compiling
from jaxgd.commands.errors import UserError
from jaxgd.commands.grid import parse_axes, parse_rates
from jaxgd.commands.job import Job
from jaxgd.commands.optimizers import find_optimizer
from jaxgd.descent import Result, StopReason, sweep

OVER = {
    "exact": "over limit",
    "guaranteed from every start": "over 2/L",
    "local at this start": "over local limit",
}
"""The heading of the column of rates divided by the limit, for each kind of limit."""

ROW = (
    "learning_rate", "seed", "rate_over_limit", "first_loss", "final_loss", "num_steps", "stop_reason", "gap",
)  # fmt: skip
"""The columns of `summary.csv`, besides the axes of `--over`."""

BEST_ROWS = 5
"""The number of lanes that are printed."""


@dataclasses.dataclass(frozen=True)
class SweepOptions(jobs.DataOptions):
    """Run every learning rate with every seed in one program, and plot the final loss against the learning rate.

    Exit code 0 if the sweep was run (also if lanes diverged), 2 for bad input.
    """

    learning_rate: str = "auto"
    """FROM:TO:log:COUNT, FROM:TO:lin:COUNT, or numbers separated by commas. The default is 50 rates from a thousandth
    to ten times the largest stable rate, or to a hundred times the limit if it is not exact."""
    seeds: int = 1
    """The number of seeds. Each seed has its own start and its own order of the rows."""
    num_steps: int = 1000
    """Steps of every lane."""
    batch_size: int | None = None
    """Rows in a batch, 1 for stochastic descent. The default is all rows."""
    optimizer: str = "gradient_descent"
    """gradient_descent, or the name of an optax optimizer (adam, nadam, rmsprop, ...), with arguments after a colon:
    sgd:momentum=0.9,nesterov=true."""
    over: tuple[str, ...] = ()
    """Further axes, NAME=VALUES with VALUES as for --learning-rate: batch_size=1,10,100, or a numeric
    argument of the optimizer such as momentum=0:0.9:lin:4. Every combination is run."""
    lanes_per_chunk: int | None = None
    """The number of lanes that run at the same time. The default is all."""
    evaluation: str = "auto"
    """How the sum over rows is evaluated: plain, tiled (in the cache), sharded (over all devices), compressed (to
    sufficient statistics), or auto for the fastest."""
    out: Path | None = None
    """Folder for the results. The default is a new folder under runs/."""


def run(options: SweepOptions) -> int:
    """Run the sweep, print the best lanes and write the folder.

    Args:
      options: the options of the command line.

    Returns:
      The exit code, 0.

    Raises:
      UserError: options are out of range or do not fit together.
      DataError: the data contain a mistake.
    """
    for name in ("seeds", "num_steps", "batch_size", "lanes_per_chunk"):
        errors.check_at_least_one(name.replace("_", "-"), getattr(options, name))
    jobs.check_evaluation(options.evaluation)
    optimizer = find_optimizer(options.optimizer)
    folders.check_new_folder(options.out)
    more = parse_axes(options.over, optimizer)
    if "batch_size" in more and options.batch_size is not None:
        raise UserError("--over batch_size and --batch-size cannot be given together.")
    if options.learning_rate != "auto":
        parse_rates(options.learning_rate, 1.0, 10)
    job = jobs.prepare(options)
    rates = parse_rates(options.learning_rate, job.facts.limit, 10 if job.facts.kind == "exact" else 100)
    # A lane starts from the same parameters as `jaxgd fit` with the same seed.
    begun = [jobs.begin(job.problem, options.seed + i, job.batch) for i in range(options.seeds)]
    starts, keys = jax.tree.map(lambda *leaves: jnp.stack(leaves), *begun)
    lengths = (len(rates), options.seeds, *map(len, more.values()))
    grid = np.stack(np.meshgrid(*map(np.arange, lengths), indexing="ij")).reshape(len(lengths), -1)
    lanes = {
        "learning_rate": jnp.asarray(rates[grid[0]], job.batch.inputs.dtype),
        "params": jax.tree.map(lambda leaf: leaf[grid[1]], starts),
        "key": keys[grid[1]],
        **{name: values[index] for (name, values), index in zip(more.items(), grid[2:], strict=True)},
    }
    at_once = min(options.lanes_per_chunk or len(grid[0]), len(grid[0]))
    smallest = min(more["batch_size"]) if "batch_size" in more else options.batch_size
    evaluation = jobs.choose_evaluation(options.evaluation, job, options.num_steps, smallest, at_once)
    started = time.perf_counter()
    try:
        with seconds_compiling() as compiling:
            batch_size: dict[str, Any] = {} if "batch_size" in more else {"batch_size": options.batch_size}
            result = sweep(
                job.problem,
                job.params,
                job.batch,
                over=lanes,
                zipped=True,
                num_steps=options.num_steps,
                **batch_size,
                optimizer=optimizer,
                lanes_per_chunk=options.lanes_per_chunk,
                record=(),
                evaluation=evaluation,
            )
            jax.block_until_ready(result)
    except (ValueError, TypeError) as error:
        raise UserError(str(error)) from None
    times = {"seconds": time.perf_counter() - started, "compile_seconds": compiling()}
    rows = _rows(job, result, lanes, grid[1], options.seed)
    plain = options.optimizer == "gradient_descent" and options.batch_size is None and not more
    found = _summarise(job, rows, options.num_steps, plain) | times | {"evaluation": evaluation}
    folder = options.out or folders.new_folder(f"{found['data']}-{job.name}-sweep")
    # Printed first: if the disk is full, the numbers are on the screen.
    if options.json:
        print(reporting.to_json({**found, "folder": str(folder)}))
    else:
        _print(found)
    with folders.writing("out", folder, left=folders.PRINTED):
        figure = plot.sweep(
            result,
            {"learning_rate": rates[grid[0]]} | {name: lanes[name] for name in more},
            colour_by=tuple(more),
            start_loss=[row["first_loss"] for row in rows],
            limits=_lines(job) if plain else None,
            title=f"{found['problem']} on {found['data']}: {len(rows)} lanes of {options.num_steps} steps\n"
            + ", ".join(f"{count} {reason}" for reason, count in found["ended"].items()),
        )
        reporting.write_sweep(folder, config=dataclasses.asdict(options), summary=found, rows=rows, figure=figure)
    if not options.json:
        written = f"written to {folder}: summary.csv, one row a lane; losses.png"
        tables.console().print(written, style="dim", soft_wrap=True)
    return 0


def _rows(job: Job, result: Result, lanes: dict[str, Any], seeds: Any, first_seed: int) -> list[dict[str, Any]]:
    """One dict a lane: axes, first and final loss, steps, how it ended, rate over limit, gap to the closed form."""
    first = jax.jit(jax.vmap(lambda params: job.problem.loss(params, job.batch)))(lanes["params"])
    gaps = None
    if job.problem.minimizer is not None:
        minimizer = job.problem.minimizer(job.batch)
        size = max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(minimizer)) or 1.0
        apart = jax.tree.map(
            lambda fitted, best: np.max(np.abs(np.asarray(fitted) - np.asarray(best)).reshape(len(seeds), -1), axis=1),
            result.params,
            minimizer,
        )
        gaps = np.max(np.stack(jax.tree.leaves(apart)), axis=0) / size
    rows = []
    for i, rate in enumerate(np.asarray(lanes["learning_rate"], np.float64)):
        row = {
            "learning_rate": float(rate),
            "seed": int(first_seed + seeds[i]),
            **{name: lanes[name][i].item() for name in lanes if name not in ("learning_rate", "params", "key")},
            "rate_over_limit": float(rate) / job.facts.limit,
            "first_loss": float(first[i]),
            "final_loss": float(result.loss[i]),
            "num_steps": int(result.num_steps[i]),
            "stop_reason": StopReason(int(result.stop_reason[i])).name,
        }
        rows.append(row if gaps is None else row | {"gap": float(gaps[i])})
    return rows


def _lines(job: Job) -> dict[str, float]:
    """The limits to draw in the plot."""
    facts = job.facts
    if facts.kind == "exact":
        return {"largest stable": facts.limit}
    local = {"local limit at the start": facts.local_limit}
    return {"guaranteed below 2/L": facts.limit, **local} if facts.smoothness is not None else local


def _at_the_edge(best: list[dict[str, Any]], rows: list[dict[str, Any]]) -> list[str]:
    """A note if the best lane has the largest or the smallest rate: a rate outside of the grid may be better."""
    rates = [row["learning_rate"] for row in rows]
    if not best or min(rates) == max(rates):
        return []
    rate = best[0]["learning_rate"]
    for edge, more, value in (("upper", "larger", max(rates)), ("lower", "smaller", min(rates))):
        if rate == value:
            return [
                f"The best lane is at the {edge} edge of the grid, {rate:.4g}: a {more} rate may do better; "
                "widen --learning-rate."
            ]
    return []


def _summarise(job: Job, rows: list[dict[str, Any]], num_steps: int, plain: bool) -> dict[str, Any]:
    sound = [row for row in rows if row["stop_reason"] not in ("DIVERGED", "NONFINITE")]
    reasons = [row["stop_reason"] for row in rows]
    best = sorted(sound, key=lambda row: (row["final_loss"], row["num_steps"]))[:BEST_ROWS]
    assert job.problem.formulas is not None
    return {
        "problem": job.problem.name,
        "loss_name": job.problem.formulas.loss,
        "data": data.short_name(job.dataset.name),
        "rows": job.dataset.num_rows,
        "inputs": "standardised" if job.scaling else "raw",
        "dtype": str(job.batch.inputs.dtype),
        "lanes": len(rows),
        "num_steps": num_steps,
        "over": [name for name in rows[0] if name not in ROW],
        **jobs.limits(job.facts, plain),
        "ended": {reason.name: reasons.count(reason.name) for reason in StopReason if reason.name in reasons},
        "best": best,
        "notes": [*job.notes, *_at_the_edge(best, rows)],
    }


def _print(found: dict[str, Any]) -> None:
    lanes = f"{found['lanes']} of {found['num_steps']} steps in {jobs.describe_seconds(found)}"
    facts = {
        "problem": f"{found['problem']}: {found['loss_name']}",
        "data": f"{found['data']}, {found['rows']} rows, inputs {found['inputs']}, {found['dtype']}",
        "lanes": lanes,
        "evaluated": found["evaluation"],
        "ended": ", ".join(f"{count} {reason}" for reason, count in found["ended"].items()),
        **jobs.describe_limits(found),
    }
    if found["evaluation"] == "plain":
        del facts["evaluated"]
    tables.print_facts(facts)
    formats = {
        "learning_rate": (tables.Column("learning rate"), ".4g"),
        "rate_over_limit": (tables.Column(OVER[found["stability"]], tables.SPARE), ".4g"),
        "seed": (tables.Column("seed", tables.SPARE), ""),
        "final_loss": (tables.Column("final loss"), ".6g"),
        "num_steps": (tables.Column("steps", tables.SPARE), ""),
        "stop_reason": (tables.Column("ended", tables.WORDS), ""),
        "gap": (tables.Column("gap", tables.SPARE), ".1e"),
    }
    for name in found["over"]:
        formats[name] = (tables.Column(name.replace("_", " ")), ".4g")
    order = ["learning_rate", *found["over"], *formats]
    columns = {name: formats[name] for name in order if found["best"] and name in found["best"][0]}
    if columns:
        rows = [[format(row[name], spec) for name, (_, spec) in columns.items()] for row in found["best"]]
        tables.print_table([column for column, _ in columns.values()], rows, title="best lanes")
    tables.print_notes(found["notes"])
