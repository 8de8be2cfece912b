"""The first steps of every command on data: read the options and the data, build the problem, judge learning rates."""

import contextlib
import dataclasses
import functools
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxgd import data
from jaxgd.commands.errors import UserError
from jaxgd.commands.source import load
from jaxgd.commands.systems import PROBLEMS
from jaxgd.descent.fast import choose
from jaxgd.descent.fast.choose import EVALUATIONS, SHARDED_FROM, fastest
from jaxgd.descent.fast.sharded import everywhere
from jaxgd.theory.closed_form import linearly_separable
from jaxgd.theory.rates import RateFacts, rate_facts
from jaxgd.types import Batch, Problem

EXACT_BYTES = 2**28
"""With at most this many bytes of float64 inputs, learning rates are always judged in float64."""

LINEAR_CLASSIFIERS = ("logistic_regression", "softmax_regression")
"""Problems whose loss has no minimum if hyperplanes separate the classes."""

SEPARABLE = (
    "The classes are linearly separable: without a penalty the loss has no minimum and the weights "
    "grow as long as the run goes on. Give --l2 for a fit that converges."
)

PROGRAMME_ENTRIES = 2**18
"""With at most this many matrix entries, the linear program for several classes takes less than a second."""


@dataclasses.dataclass(frozen=True)
class DataOptions:
    """The options that select the data, the problem and the precision."""

    data: str
    """A bundled data set (breast_cancer, diabetes, digits, iris, linnerud, wine), a table with a header line (.csv,
    .tsv, .csv.gz, .parquet; - for standard input), or an .npz file with arrays `inputs` and `targets` (or X and y)."""
    target: str | None = None
    """The column of the table to predict: numbers, or words for classes."""
    features: tuple[str, ...] = ()
    """The input columns. The default is all columns except the target."""
    one_hot: tuple[str, ...] = ()
    """Input columns that contain categories, to be encoded by columns of 0 and 1."""
    drop_missing: bool = False
    """Leave out rows with an empty cell or NaN."""
    standardize: bool = True
    """Scale every input to mean 0 and standard deviation 1 (pixels: one scale for all). Parameters are always reported
    in the units of the data."""
    held_out: float | None = None
    """Share of the rows to hold out for testing; by default 0, for mlp 0.25. A fit records their loss after each
    chunk."""
    problem: str | None = None
    """linear_regression, line, linear_map, sigmoid_neuron, logistic_regression, softmax_regression or mlp. By default
    the targets determine the problem."""
    loss: str | None = None
    """The name of the loss, such as half_mean_squared_error. The default depends on the problem."""
    hidden_sizes: tuple[int, ...] = (64,)
    """The number of units of each hidden layer of mlp."""
    l2: float = 0.0
    """Coefficient of the penalty 1/2 l2 |W|^2; the bias is not penalised."""
    seed: int = 0
    """Seed of the start, of the split and of the order of the rows."""
    x64: bool = False
    """Compute in float64."""
    json: bool = False
    """Print the result as JSON and nothing else."""
    compilation_cache: bool = True
    """Keep compiled programs in the user's cache folder, so that the same command starts faster the next time."""


class Job(NamedTuple):
    """Data and problem, ready to run.

    Attributes:
      name: the name of the function that built the problem.
      problem: the problem to minimise.
      dataset: the rows to fit, in the units of the source.
      test_set: the held-out rows.
      scaling: the scaling of the inputs, or None.
      batch: the rows to fit, on the device; only the rows of this process, if every process reads its own rows.
      whole: a problem and a batch whose loss and gradient are those of all rows, see `choose.plan_of_shares`. They
        differ from `problem` and `batch` only if every process reads its own rows.
      params: the start.
      rows_key: the random key for the order of the rows.
      facts: what is known about the learning rates, a `RateFacts`.
      notes: sentences to print for the user.
    """

    name: str
    problem: Problem
    dataset: data.Dataset
    test_set: data.Dataset
    scaling: data.Standardization | None
    batch: Batch
    whole: tuple[Problem, Any]
    params: Any
    rows_key: jax.Array
    facts: Any
    notes: list[str]

    def transform(self, inputs: data.Array) -> data.Array:
        """Convert inputs to the scale that the problem uses.

        Args:
          inputs: `[N, D]`, in the units of the source.

        Returns:
          `[N, D]`, standardised if the job standardises.
        """
        return self.scaling.apply(inputs) if self.scaling else inputs

    def in_data_units(self, params: Any) -> Any:
        """Convert parameters to the units of the source.

        Args:
          params: parameters for the inputs that the problem uses.

        Returns:
          A tree of the same structure.
        """
        return self.scaling.in_data_units(params) if self.scaling else params

    def named(self, params: Any) -> dict[str, float]:
        """Every parameter with a name: a weight is named after its input, and its output or class if there are several.

        Args:
          params: the parameters of the problem.

        Returns:
          Names and values.
        """
        named: dict[str, float] = {}
        outputs = self.dataset.class_names or self.dataset.target_names
        for path, leaf in jax.tree_util.tree_leaves_with_path(params):
            field, values = path[-1].name, np.asarray(leaf, np.float64)
            prefix = f"layer {path[1].idx} " if len(path) > 2 else ""
            if prefix or field not in ("weights", "matrix", "slope"):
                label = "intercept" if field == "bias" and not prefix else f"{prefix}{field}"
                by_output = label == "intercept" and values.shape == (len(outputs),)
                for index in np.ndindex(values.shape):
                    place = f" [{outputs[index[0]]}]" if by_output else str(list(index)) if index else ""
                    named[label + place] = float(values[index])
                continue
            values = (values.T if field == "matrix" else values).reshape(len(self.dataset.input_names), -1)
            for row, column in np.ndindex(values.shape):
                name = self.dataset.input_names[row]
                named[name if values.shape[1] == 1 else f"{name} [{outputs[column]}]"] = float(values[row, column])
        return named


def prepare(options: DataOptions) -> Job:
    """Load the data and build the problem.

    Args:
      options: the options of the command line.

    Returns:
      The job.

    Raises:
      UserError: options are out of range or do not fit together.
      DataError: the data contain a mistake.
    """
    if options.x64:
        jax.config.update("jax_enable_x64", True)
    _check(options)
    name, dataset, test_set, problem, codes = load(options)
    scaling = data.standardization(dataset) if options.standardize else None
    if dataset.shares is None and problem.linear_form is None and dataset.inputs.nbytes >= SHARDED_FROM:
        use_all_cores()
    batch = data.to_batch(dataset, scaling.apply if scaling else lambda inputs: inputs)
    if dataset.shares is None and problem.check_batch is not None:
        try:
            problem.check_batch(batch)
        except ValueError as error:
            raise data.DataError(f"{dataset.name}: {error}") from None
    params, rows_key = begin(problem, options.seed, batch)
    notes = [*dataset.notes, *_note_on_codes(name, codes, chosen=options.problem is not None)]
    unpenalised_labels = name in LINEAR_CLASSIFIERS and not options.l2 and batch.targets.dtype.kind == "i"
    # Rows of one process that no hyperplane separates are proof enough; where all seem to be, the result tells.
    if unpenalised_labels and dataset.shares is None and _are_separable(batch.inputs, batch.targets):
        notes.append(SEPARABLE)
    job = Job(name, problem, dataset, test_set, scaling, batch, (problem, batch), params, rows_key, None, notes)
    if dataset.shares is not None:
        job = job._replace(whole=choose.plan_of_shares(problem, batch, dataset.shares)[:2])
    return job._replace(facts=_facts(job))


def _facts(job: Job) -> RateFacts:
    """What is known about the learning rates of a job."""
    with judging(job) as (params, batch):
        if job.dataset.shares is None:
            return rate_facts(job.problem, params, batch)
        # The curvature at the start is that of all rows; a bound on it at all parameters needs only their covariances.
        whole, rows = choose.plan_of_shares(job.problem, batch, job.dataset.shares)[:2]
        at_start = rate_facts(whole, everywhere(params), rows)
        few = data.equivalent_inputs(job.dataset, job.transform)
        targets = jnp.zeros((len(few), *batch.targets.shape[1:]), batch.targets.dtype)
        bounded = rate_facts(job.problem, params, Batch(jnp.asarray(few, batch.inputs.dtype), targets))
        if bounded.smoothness is None:
            bounded = bounded._replace(limit=at_start.limit)
        return bounded._replace(local_limit=at_start.local_limit, eigenvalues=at_start.eigenvalues)


def _are_separable(inputs: Any, labels: Any) -> bool:
    """Whether hyperplanes separate the classes; also False if deciding this would take long."""
    num_classes = int(np.max(labels)) + 1
    entries = 2 * len(labels) * (num_classes - 1) * (inputs.shape[1] + 1)
    return (num_classes == 2 or entries <= PROGRAMME_ENTRIES) and linearly_separable(inputs, labels)


def _note_on_codes(name: str, dataset: data.Dataset, *, chosen: bool) -> list[str]:
    """A note if numbers may have been mistaken for classes, or class codes for numbers."""
    if dataset.targets.ndim != 1 or dataset.stands_for is not None:
        return []
    if name == "logistic_regression" and not chosen and dataset.class_names == ("0", "1"):
        column = dataset.target_names[0]
        return [f"{column}: 0 and 1 were taken as classes. If they are numbers, give --problem linear_regression."]
    if name in ("linear_regression", "line"):
        return data.codes_note(dataset.target_names[0], np.unique(dataset.targets))
    return []


def use_all_cores() -> None:
    """Make one device for each core, to distribute rows. Has no effect if the process has already used JAX."""
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", len(os.sched_getaffinity(0)))


# Outside of jit every operation compiles its own program: 60 small programs take longer than the fit.
@functools.partial(jax.jit, static_argnums=0)
def begin(problem: Problem, seed: int, batch: Batch) -> tuple[Any, jax.Array]:
    """The start for a seed. It is always drawn in float32, so that all commands start from the same parameters.

    Args:
      problem: the problem; static.
      seed: the random seed.
      batch: the data, for the shapes and the dtype.

    Returns:
      The parameters in the dtype of the inputs, and the random key for the order of the rows.
    """
    assert problem.init is not None
    init_key, rows_key = jax.random.split(jax.random.key(seed))
    dtype = batch.inputs.dtype
    single = jax.tree.map(lambda leaf: leaf.astype(jnp.float32) if leaf.dtype == dtype else leaf, batch)
    return jax.tree.map(lambda leaf: leaf.astype(dtype), problem.init(init_key, single)), rows_key


@contextlib.contextmanager
def judging(job: Job) -> Iterator[tuple[Any, Batch]]:
    """The start and the data in float64, so that every command reports the same limits.

    Data that are too large for a second copy keep the precision of the run.

    Args:
      job: the job.

    Returns:
      A context in which float64 is enabled, with parameters and batch.
    """
    shares = job.dataset.shares or (1,)  # all processes decide alike
    if job.dataset.inputs[:1].nbytes * max(len(job.dataset.inputs), *shares) > EXACT_BYTES:
        yield job.params, job.batch
        return
    with jax.enable_x64(True):
        params = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf, np.float64)), job.params)
        yield params, data.to_batch(job.dataset, job.transform)


@functools.partial(jax.jit, static_argnums=0)
def evaluate(problem: Problem, params: Any, batch: Batch) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Loss, gradient norm and predictions, compiled once for a problem.

    Args:
      problem: static.
      params: the point.
      batch: the data.

    Returns:
      Two scalars `[]`, and the predictions.
    """
    assert problem.predict is not None
    norm = optax.tree.norm(problem.grad(params, batch))
    return problem.loss(params, batch), norm, problem.predict(params, batch.inputs)


def judged(job: Job, params: Any) -> tuple[float, float, jax.Array]:
    """Loss and gradient norm of all rows, and the predictions of those that are here.

    Args:
      job: data and problem.
      params: the point.

    Returns:
      Two numbers, and what `predict` gives for `job.batch`.
    """
    loss, norm, predictions = evaluate(job.problem, params, job.batch)
    if job.dataset.shares is not None:
        loss, norm = _loss_and_norm(job.whole[0], everywhere(params), job.whole[1])
    return float(loss), float(norm), predictions


@functools.partial(jax.jit, static_argnums=0)
def _loss_and_norm(problem: Problem, params: Any, rows: Any) -> tuple[jax.Array, jax.Array]:
    return problem.loss(params, rows), optax.tree.norm(problem.grad(params, rows))


def limits(facts: RateFacts, plain: bool = True) -> dict[str, Any]:
    """The entries of a summary about learning rates of full-batch gradient descent.

    Args:
      facts: the facts of the job.
      plain: whether the run is full-batch gradient descent; other rules, schedules and batch sizes have other limits.

    Returns:
      The kind of the statement, and the limits.
    """
    found: dict[str, Any] = {"stability": facts.kind} | ({} if plain else {"limits_of": "gradient descent on all rows"})
    if facts.kind == "exact":
        return found | {"largest_stable_learning_rate": facts.limit}
    if facts.kind == "guaranteed from every start":
        found |= {"guaranteed_below": facts.limit}
    return found | {"local_limit": facts.local_limit}


def describe_seconds(summary: dict[str, Any]) -> str:
    """The time of a run and how much of it was compilation, as text.

    Args:
      summary: a summary with `seconds` and `compile_seconds`.

    Returns:
      Text such as "0.97 s: 0.80 s compiling, 0.17 s running".
    """
    total, compiling = summary["seconds"], summary["compile_seconds"]
    return f"{total:.2f} s: {compiling:.2f} s compiling, {total - compiling:.2f} s running"


def describe_limits(summary: dict[str, Any]) -> dict[str, str]:
    """The lines of the printed summary about the limits.

    Args:
      summary: a summary with the entries of `limits`.

    Returns:
      Labels and texts.
    """
    lines = {
        "largest_stable_learning_rate": ("largest stable", "(exact)"),
        "guaranteed_below": ("guaranteed below", "from every start, 2/L: every full-batch step lowers the loss"),
        "local_limit": ("local limit", "at this start, 2 / lambda_max there: no guarantee"),
    }
    known = {label: f"{summary[key]:.4g} {text}" for key, (label, text) in lines.items() if key in summary}
    if known and "limits_of" in summary:
        return {**known, "these limits": f"of {summary['limits_of']} at a constant rate, which this is not"}
    return known


def check_evaluation(evaluation: str) -> None:
    """Raise an error if the value of --evaluation is unknown.

    Args:
      evaluation: the value of the option.

    Raises:
      UserError: the value is unknown.
    """
    if evaluation not in EVALUATIONS:
        raise UserError(f"--evaluation must be one of {', '.join(EVALUATIONS)}, got {evaluation!r}.")


def choose_evaluation(evaluation: str, job: Job, num_steps: int, batch_size: int | None, num_lanes: int = 1) -> str:
    """How the run evaluates its sum over rows.

    Args:
      evaluation: the value of --evaluation.
      job: the job.
      num_steps: the number of steps of the run.
      batch_size: rows in a mini-batch, or None.
      num_lanes: the number of runs at the same time.

    Returns:
      The evaluation, never "auto".
    """
    if job.dataset.shares is not None:
        return "sharded"
    if evaluation != "auto":
        return evaluation
    return fastest(job.problem, job.batch, num_steps=num_steps, batch_size=batch_size, num_lanes=num_lanes)


def _check(options: DataOptions) -> None:
    if not (np.isfinite(options.l2) and options.l2 >= 0):
        raise UserError(f"--l2 must be finite and not negative, got {options.l2}.")
    if options.held_out is not None and not 0 <= options.held_out < 1:
        raise UserError(f"--held-out must be in [0, 1), got {options.held_out}.")
    if options.seed < 0:
        raise UserError(f"--seed must not be negative, got {options.seed}.")
    if options.problem is not None and options.problem not in PROBLEMS:
        raise UserError(f"--problem must be one of {', '.join(PROBLEMS)}, got {options.problem!r}.")
