"""The command: jaxgd fit | problems."""

import dataclasses
import functools
import gc
import importlib
import inspect
import itertools
import json
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn

try:
    import rich.box
    import rich.console
    import rich.markup
    import rich.table
    import tyro
except ModuleNotFoundError as error:
    sys.exit(f"jaxgd: the command needs {error.name}, which is not installed: pip install 'jaxgd[cli]'")

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxgd import data, problems, reporting
from jaxgd.descent import Result, StopReason, fit
from jaxgd.theory.closed_form import linearly_separable
from jaxgd.theory.curvature import largest_stable_learning_rate
from jaxgd.types import Batch, Problem

PROBLEMS = (
    "linear_regression",
    "line",
    "linear_map",
    "sigmoid_neuron",
    "logistic_regression",
    "softmax_regression",
    "mlp",
)
"""The systems that fit data."""

WORK = 2e10
"""Multiplications that a run without --num-steps may cost."""

RECORDS = 100_000
"""Entries of the history that a run keeps if not told otherwise."""

PARAMETER_ROWS = 40
"""Parameters that the screen shows."""


class UserError(Exception):
    """A mistake in the command line: one line, exit code 2."""


@dataclasses.dataclass(frozen=True)
class FitOptions:
    """Fit a data set by gradient descent and say how it ended.

    Exit code 0 when the run converged or took all its steps, 1 when it diverged, 2 for bad input.
    """

    data: str
    """A bundled set (breast_cancer, diabetes, digits, iris, linnerud, wine), or a .csv or .npz file."""
    target: str | None = None
    """Column of a CSV to predict."""
    features: tuple[str, ...] = ()
    """Columns to predict from; all others if none are named."""
    standardize: bool = True
    """Scale every input to mean 0 and deviation 1 (pixels by one deviation for all). Parameters are reported
    in the units of the data all the same."""
    held_out: float | None = None
    """Share of the rows to test on; 0 by default, 0.25 for mlp."""
    problem: str | None = None
    """linear_regression, line, linear_map, sigmoid_neuron, logistic_regression, softmax_regression or mlp;
    chosen by the targets if not given."""
    loss: str | None = None
    """The problem's loss by name, such as half_mean_squared_error; its own default if not given."""
    hidden_sizes: tuple[int, ...] = (64,)
    """Units of each hidden layer of mlp."""
    l2: float = 0.0
    """Coefficient of the penalty 1/2 l2 |W|^2; the bias is free."""
    learning_rate: float | None = None
    """Step size; if not given 0.9 of the largest stable one where that is exact, else half of it."""
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
    """Growth of the loss over its best that counts as divergence."""
    record: tuple[str, ...] = ("loss", "grad_norm", "learning_rate")
    """What the run folder's history.npz keeps: loss, grad_norm, learning_rate, update_norm, params."""
    record_every: int | None = None
    """Keep every so many steps; by default as many as leave 100000 entries."""
    checkpoint: Path | None = None
    """Folder to keep the state of the run in; the same command goes on from there after an interruption."""
    progress: bool = True
    """Show a progress bar, on a terminal."""
    seed: int = 0
    """Of the start, the split and the order of the rows."""
    x64: bool = False
    """Compute in float64."""
    json: bool = False
    """Print the summary as JSON and nothing else."""
    out: Path | None = None
    """Folder to write; by default a new one under runs/."""


@dataclasses.dataclass(frozen=True)
class ProblemsOptions:
    """Print the table of systems with their formulas."""

    json: bool = False
    """Print JSON."""


def main() -> None:
    """Run the command; raises SystemExit with its exit code."""
    # Collections while importing and at exit walk a million living objects: a third of the time of a short
    # run. What the command itself leaves behind does not grow with its steps.
    gc.disable()
    options = tyro.cli(
        Annotated[FitOptions, tyro.conf.subcommand("fit")]
        | Annotated[ProblemsOptions, tyro.conf.subcommand("problems")],
        prog="jaxgd",
        description="Gradient descent that can be trusted.",
        config=(tyro.conf.OmitSubcommandPrefixes,),
    )
    try:
        sys.exit(run_fit(options) if isinstance(options, FitOptions) else run_problems(options))
    except (UserError, data.DataError) as error:
        _fail(str(error))
    except KeyboardInterrupt:
        print("jaxgd: interrupted; nothing was written", file=sys.stderr)
        sys.exit(130)
    finally:
        gc.freeze()


def _fail(message: str) -> NoReturn:
    print(f"jaxgd: {message}", file=sys.stderr)
    sys.exit(2)


def run_problems(options: ProblemsOptions) -> int:
    """Print the systems.

    Args:
      options: of the command line.

    Returns:
      The exit code, 0.
    """
    shown = [problem for problem, _ in problems.ALL_PROBLEMS]
    if options.json:
        print(
            json.dumps(
                [
                    {"name": problem.name, **_formulas(problem)._asdict(), "closed_form": problem.minimizer is not None}
                    for problem in shown
                ]
            )
        )
        return 0
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD, show_lines=True)
    table.add_column("problem", width=26, overflow="fold")
    table.add_column("model\nloss\ngradient, by hand", overflow="fold")
    table.add_column("closed\nform", no_wrap=True)
    for problem in shown:
        formulas = rich.markup.escape("\n".join(_formulas(problem)))
        table.add_row(rich.markup.escape(problem.name), formulas, "yes" if problem.minimizer else "")
    _console().print(table)
    return 0


def _formulas(problem: Problem) -> Any:
    assert problem.formulas is not None
    return problem.formulas


def run_fit(options: FitOptions) -> int:
    """Load, fit, report.

    Args:
      options: of the command line.

    Returns:
      The exit code: 0, 1 for a run that diverged, 130 for one that was interrupted.

    Raises:
      UserError: options that do not fit together.
      DataError: a mistake in the data.
    """
    if options.x64:
        jax.config.update("jax_enable_x64", True)
    _check(options)
    # Compilation leaves the interpreter free for the half second that importing matplotlib takes.
    threading.Thread(target=importlib.import_module, args=("matplotlib.figure",), daemon=True).start()
    dataset = data.load(options.data, target=options.target, features=options.features)
    name = options.problem or _choose_problem(dataset)
    dataset = _prepare_targets(name, dataset)
    problem = _build_problem(name, options, dataset)
    held_out = options.held_out if options.held_out is not None else 0.25 * (name == "mlp")
    dataset, test_set = data.split(dataset, held_out, options.seed)
    scaling = data.standardization(dataset) if options.standardize else None
    transform: Callable[[data.Array], data.Array] = scaling.apply if scaling else lambda inputs: inputs
    batch = data.to_batch(dataset, transform)
    if problem.check_batch is not None:
        try:
            problem.check_batch(batch)
        except ValueError as error:
            raise data.DataError(f"{dataset.name}: {error}") from None
    params, rows_key, limit = _begin(problem, options.seed, batch)
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    num_steps = options.num_steps or int(np.clip(WORK / (4 * len(dataset.inputs) * size), 1000, 100_000))
    learning_rate = options.learning_rate or _choose_rate(problem, params, batch, options, float(limit))
    notes = []
    if name == "logistic_regression" and not options.l2 and linearly_separable(batch.inputs, batch.targets):
        notes.append(
            "The classes are linearly separable: without a penalty the loss has no minimum and the weights "
            "grow for ever; the run ends at its last step. Give --l2 for a fit that converges."
        )
    started = time.perf_counter()
    record_every = options.record_every or -(-num_steps // RECORDS)
    try:
        result = fit(
            problem,
            params,
            batch,
            learning_rate=learning_rate,
            num_steps=num_steps,
            batch_size=options.batch_size,
            key=rows_key,
            optimizer=_optimizer(options.optimizer),
            grad_tol=options.grad_tol,
            param_tol=options.param_tol,
            divergence_factor=options.divergence_factor,
            record=options.record,
            record_every=record_every,
            progress=None if options.progress else False,
            checkpoint=options.checkpoint,
        )
        jax.block_until_ready(result)
    except ValueError as error:
        raise UserError(str(error)) from None
    except OSError as error:
        raise UserError(f"--checkpoint {options.checkpoint}: cannot be written ({error.strerror or error}).") from None
    reason = StopReason(int(result.stop_reason))
    limit = float(limit)
    first_loss, _ = _loss_and_norm(problem, params, batch)
    last_loss, grad_norm = _loss_and_norm(problem, result.params, batch)
    summary: dict[str, Any] = {
        "problem": problem.name,
        "loss_name": _formulas(problem).loss,
        "data": data.short_name(options.data),
        "rows": len(dataset.inputs),
        "held_out_rows": len(test_set.inputs),
        "inputs": "standardised" if scaling else "raw",
        "dtype": str(batch.inputs.dtype),
        "first_loss": float(first_loss),
        "last_loss": float(last_loss),
        "grad_norm": float(grad_norm),
        "num_steps": int(result.num_steps),
        "stop_reason": reason.name,
        "ended": _describe_end(reason, int(result.num_steps), learning_rate, limit, scaling is None),
        "learning_rate": learning_rate,
        "largest_stable_learning_rate": limit,
        "stability": "exact" if problem.minimizer else "local, at the start",
        "seconds": time.perf_counter() - started,
        "notes": notes,
    }
    summary |= _quality(problem, result, batch, test_set, transform)
    summary |= _parameters(problem, result, batch, dataset, scaling, notes)
    folder = options.out or _new_folder(f"{time.strftime('%Y%m%d-%H%M%S')}-{summary['data']}-{name}")
    config = {**dataclasses.asdict(options), "problem": problem.name, "num_steps": num_steps}
    try:
        reporting.write_run(folder, config=config, summary=summary, history=result.history, record_every=record_every)
    except OSError as error:
        raise UserError(f"--out {folder}: cannot be written ({error.strerror or error}).") from None
    if options.json:
        print(reporting.to_json({**summary, "folder": str(folder)}))
    else:
        _print_summary(summary, folder)
    if reason == StopReason.INTERRUPTED:
        return 130
    return 1 if reason in (StopReason.DIVERGED, StopReason.NONFINITE) else 0


def _new_folder(name: str) -> Path:
    folders = (Path("runs") / (f"{name}-{i}" if i else name) for i in itertools.count())
    return next(folder for folder in folders if not folder.exists())


# Eager operations compile one by one: a start of 60 small programs takes longer than the fit.
@functools.partial(jax.jit, static_argnums=0)
def _begin(problem: Problem, seed: int, batch: Batch) -> tuple[Any, jax.Array, jax.Array]:
    """The start, the key that orders the rows, and the largest stable learning rate."""
    assert problem.init is not None
    init_key, rows_key = jax.random.split(jax.random.key(seed))
    params = problem.init(init_key, batch)
    return params, rows_key, largest_stable_learning_rate(problem, params, batch)


@functools.partial(jax.jit, static_argnums=0)
def _loss_and_norm(problem: Problem, params: Any, batch: Batch) -> tuple[jax.Array, jax.Array]:
    return problem.loss(params, batch), optax.tree.norm(problem.grad(params, batch))


def _check(options: FitOptions) -> None:
    """Ranges that the library does not check on traced values."""
    for name in ("learning_rate", "divergence_factor"):
        value = getattr(options, name)
        if value is not None and not (np.isfinite(value) and value > 0):
            raise UserError(f"--{name.replace('_', '-')} must be a positive number, got {value}.")
    if not (np.isfinite(options.l2) and options.l2 >= 0):
        raise UserError(f"--l2 must be finite and not negative, got {options.l2}.")
    for name in ("grad_tol", "param_tol"):
        if np.isnan(getattr(options, name)):
            raise UserError(f"--{name.replace('_', '-')} must be a number, got nan.")
    for name in ("num_steps", "batch_size", "record_every"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UserError(f"--{name.replace('_', '-')} must be at least 1, got {value}.")
    if options.held_out is not None and not 0 <= options.held_out < 1:
        raise UserError(f"--held-out must be in [0, 1), got {options.held_out}.")
    if options.seed < 0:
        raise UserError(f"--seed must not be negative, got {options.seed}.")
    if options.problem is not None and options.problem not in PROBLEMS:
        raise UserError(f"--problem must be one of {', '.join(PROBLEMS)}, got {options.problem!r}.")
    if options.optimizer != "gradient_descent" and options.learning_rate is None:
        raise UserError(f"--optimizer {options.optimizer} needs --learning-rate; 0.01 is a common start.")
    if options.out is not None and options.out.exists():
        raise UserError(f"--out {options.out} exists already; name a new folder.")
    _optimizer(options.optimizer)


def _optimizer(name: str) -> Callable[..., Any] | None:
    if name == "gradient_descent":
        return None
    build = getattr(optax, name, None)
    if build is None or not callable(build) or "learning_rate" not in inspect.signature(build).parameters:
        raise UserError(f"--optimizer must be gradient_descent or an optimizer of optax, got {name!r}.")
    chosen: Callable[..., Any] = build
    return chosen


def _choose_problem(dataset: data.Dataset) -> str:
    values = np.unique(dataset.targets)
    whole = np.issubdtype(dataset.targets.dtype, np.integer) and dataset.targets.ndim == 1
    if np.array_equal(values, [0, 1]):
        return "logistic_regression"
    if whole and np.array_equal(values, np.arange(len(values))):
        return "softmax_regression"
    return "linear_regression"


def _prepare_targets(name: str, dataset: data.Dataset) -> data.Dataset:
    """Labels for classifiers, real numbers for regressions; a network takes either."""
    if name == "logistic_regression":
        return data.as_labels(dataset, 2)
    if name == "softmax_regression" or (name == "mlp" and _choose_problem(dataset) != "linear_regression"):
        return data.as_labels(dataset)
    targets = np.asarray(dataset.targets, np.float64)
    if name in ("line", "sigmoid_neuron") and targets.ndim != 1:
        raise UserError(f"--problem {name} has one target, {dataset.name} has {targets.shape[1]}.")
    if name == "linear_map" and targets.ndim == 1:
        targets = targets[:, None]
    if name == "line" and dataset.inputs.shape[1] != 1:
        raise UserError(
            f"--problem line has one input, {dataset.name} has {dataset.inputs.shape[1]}; name one by --features."
        )
    return dataset._replace(targets=targets)


def _build_problem(name: str, options: FitOptions, dataset: data.Dataset) -> Problem:
    arguments: dict[str, Any] = {}
    if name == "mlp":
        arguments["hidden_sizes"] = options.hidden_sizes
    labels = np.issubdtype(dataset.targets.dtype, np.integer)
    if name == "softmax_regression" or (name == "mlp" and labels):
        num_classes = int(dataset.targets.max()) + 1
        if num_classes < 2:
            raise data.DataError(f"{dataset.name}: at least 2 classes are needed, got 1.")
        arguments["num_classes"] = num_classes
    if name == "mlp" and labels:
        arguments["loss"] = "mean_softmax_cross_entropy"
    if options.loss is not None:
        arguments["loss"] = options.loss
    if options.l2:
        arguments["l2"] = options.l2
    build: Callable[..., Problem] = getattr(problems, name)
    unknown = set(arguments) - set(inspect.signature(build).parameters)
    if unknown:
        raise UserError(f"--{min(unknown)} does not belong to {name}.")
    try:
        return build(**arguments)
    except (ValueError, TypeError) as error:
        raise UserError(str(error)) from None


def _choose_rate(problem: Problem, params: Any, batch: Batch, options: FitOptions, limit: float) -> float:
    """A rate below the largest stable one; of mini-batches the smallest of some, which each have their own."""
    if options.batch_size is not None and options.batch_size < len(batch.inputs):
        num_batches = min(32, len(batch.inputs) // options.batch_size)
        order = np.random.default_rng(options.seed).permutation(len(batch.inputs))
        rows = jnp.asarray(order[: num_batches * options.batch_size].reshape(num_batches, -1))
        limits = jax.lax.map(
            lambda r: largest_stable_learning_rate(problem, params, jax.tree.map(lambda a: a[r], batch)), rows
        )
        limit = float(jnp.min(limits))
    if not np.isfinite(limit):
        raise UserError("no stable learning rate is known here (no upward curvature); give --learning-rate.")
    return limit / 2


def _describe_end(reason: StopReason, num_steps: int, rate: float, limit: float, raw: bool) -> str:
    text = f"{reason.name} at step {num_steps}: {reason.describe()}"
    if reason in (StopReason.DIVERGED, StopReason.NONFINITE):
        if rate > limit:
            advice = "Standardise the inputs or lower the rate" if raw else "Lower the rate"
            return (
                f"{text}. learning_rate {rate:.4g} is {rate / limit:.4g} times the largest stable one, {limit:.3g}. "
                f"{advice}."
            )
        return f"{text}. learning_rate {rate:.4g} is below the largest stable one at the start, {limit:.3g}; lower it."
    return f"{text}."


def _quality(
    problem: Problem,
    result: Result,
    batch: Batch,
    test_set: data.Dataset,
    transform: Callable[[data.Array], data.Array],
) -> dict[str, float]:
    """Accuracy of classifiers, R^2 of regressions, on the rows fitted and those held out."""
    assert problem.predict is not None
    found = {}
    sets = {"": batch}
    if len(test_set.inputs):
        sets["held_out_"] = data.to_batch(test_set, transform)
    for prefix, rows in sets.items():
        predictions = np.asarray(jax.jit(problem.predict)(result.params, rows.inputs), np.float64)
        targets = np.asarray(rows.targets)
        if np.issubdtype(targets.dtype, np.integer):
            chosen = predictions.argmax(axis=1) if predictions.ndim == 2 else predictions > 0.5
            found[f"{prefix}accuracy"] = float(np.mean(chosen == targets))
        else:
            residuals = predictions.reshape(targets.shape) - targets
            spread = np.sum((targets - targets.mean(axis=0)) ** 2)
            if spread > 0:
                found[f"{prefix}r_squared"] = float(1 - np.sum(residuals**2) / spread)
    return found


def _parameters(
    problem: Problem,
    result: Result,
    batch: Batch,
    dataset: data.Dataset,
    scaling: data.Standardization | None,
    notes: list[str],
) -> dict[str, Any]:
    """Parameters in the units of the data, beside the closed form where there is one."""
    in_data_units = scaling.in_data_units if scaling else lambda params: params
    fitted = in_data_units(result.params)
    found: dict[str, Any] = {"parameters": _named(fitted, dataset)}
    if problem.minimizer is None:
        return found
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        minimizer = problem.minimizer(batch)
    notes.extend(f"{str(warning.message).capitalize()}." for warning in caught)
    exact = _named(in_data_units(minimizer), dataset)
    largest = max(abs(value) for value in exact.values()) or 1.0
    gaps = [abs(value - exact[name]) for name, value in found["parameters"].items()]
    return found | {
        "closed_form": exact,
        "gap": float(np.max(gaps) / largest),
        "loss_at_minimizer": float(_loss_and_norm(problem, minimizer, batch)[0]),
    }


def _named(params: Any, dataset: data.Dataset) -> dict[str, float]:
    """Every parameter by name: the input's for a weight, with the output's where there are several."""
    named: dict[str, float] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        field, values = path[-1].name, np.asarray(leaf, np.float64)
        prefix = f"layer {path[1].idx} " if len(path) > 2 else ""
        if prefix or field not in ("weights", "matrix", "slope"):
            label = "intercept" if field == "bias" and not prefix else f"{prefix}{field}"
            for index in np.ndindex(values.shape):
                named[label + (str(list(index)) if index else "")] = float(values[index])
            continue
        values = (values.T if field == "matrix" else values).reshape(len(dataset.input_names), -1)
        for row, column in np.ndindex(values.shape):
            name = dataset.input_names[row]
            named[name if values.shape[1] == 1 else f"{name} [{column}]"] = float(values[row, column])
    return named


def _console() -> rich.console.Console:
    return rich.console.Console(highlight=False)


def _print_summary(summary: dict[str, Any], folder: Path) -> None:
    console = _console()
    table = rich.table.Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    held_out = f", {summary['held_out_rows']} held out" if summary["held_out_rows"] else ""
    rows = {
        "problem": f"{summary['problem']}: {summary['loss_name']}",
        "data": f"{summary['data']}, {summary['rows']} rows{held_out}, inputs {summary['inputs']}, {summary['dtype']}",
        "loss": f"{summary['first_loss']:.6g} -> {summary['last_loss']:.6g}",
        "gradient norm": f"{summary['grad_norm']:.3g}",
        "steps": f"{summary['num_steps']} in {summary['seconds']:.2f} s, compilation included",
        "ended": summary["ended"],
        "learning rate": f"{summary['learning_rate']:.4g}",
        "largest stable": f"{summary['largest_stable_learning_rate']:.4g} ({summary['stability']})",
    }
    for key, label in (("accuracy", "accuracy"), ("r_squared", "R^2")):
        if key in summary:
            tested = summary.get(f"held_out_{key}")
            rows[label] = f"{summary[key]:.4f}" + (f", held out {tested:.4f}" if tested is not None else "")
    if "gap" in summary:
        rows["closed form"] = (
            f"loss {summary['loss_at_minimizer']:.6g}; largest gap {summary['gap']:.1e} of the largest parameter"
        )
    for label, text in rows.items():
        style = "bold red" if label == "ended" and summary["stop_reason"] in ("DIVERGED", "NONFINITE") else ""
        table.add_row(label, rich.markup.escape(text), style=style)
    console.print(table)
    parameters, exact = summary["parameters"], summary.get("closed_form", {})
    if summary["stop_reason"] in ("DIVERGED", "NONFINITE"):
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
    console.print(f"written to {folder}", style="dim", soft_wrap=True)
