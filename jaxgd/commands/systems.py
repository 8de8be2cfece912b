"""Choose the problem for a data set, and convert the targets to the form that the problem needs."""

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxgd import data, problems
from jaxgd.commands.errors import UserError
from jaxgd.types import Problem

PROBLEMS = (
    "linear_regression",
    "line",
    "linear_map",
    "sigmoid_neuron",
    "logistic_regression",
    "softmax_regression",
    "mlp",
)
"""The problems that can be fitted to data."""

LOSSES_BY_OTHER_NAMES = {
    "mse": "mean_squared_error",
    "squared_error": "mean_squared_error",
    "l2": "mean_squared_error",
    "sse": "sum_squared_error",
    "rss": "sum_squared_error",
    "cross_entropy": "mean_softmax_cross_entropy",
    "log_loss": "mean_sigmoid_cross_entropy",
    "bce": "mean_sigmoid_cross_entropy",
}
"""Names of the losses in other libraries."""


def choose_problem(dataset: data.Dataset) -> str:
    """The default problem for a data set, determined by its targets.

    Args:
      dataset: rows and targets.

    Returns:
      A name of `PROBLEMS`: a classifier if the targets are labels 0 .. K - 1, otherwise "linear_regression".
    """
    values = np.unique(dataset.targets)
    whole = np.issubdtype(dataset.targets.dtype, np.integer) and dataset.targets.ndim == 1
    if np.array_equal(values, [0, 1]):
        return "logistic_regression"
    if whole and np.array_equal(values, np.arange(len(values))):
        return "softmax_regression"
    return "linear_regression"


def prepare_targets(name: str, dataset: data.Dataset) -> data.Dataset:
    """Convert the targets to labels for a classifier, or to real numbers for a regression. A network accepts both.

    Args:
      name: the name of the problem.
      dataset: rows and targets.

    Returns:
      The data set with targets in the form that the problem needs.

    Raises:
      UserError: the number of inputs or targets does not fit the problem.
      DataError: the targets are not labels.
    """
    if name == "logistic_regression":
        return dataset if data.are_probabilities(dataset) else data.as_labels(dataset, 2)
    if name == "softmax_regression" or (name == "mlp" and choose_problem(dataset) != "linear_regression"):
        return data.as_labels(dataset)
    targets = np.asarray(dataset.targets, np.float64)
    if name in ("line", "sigmoid_neuron") and targets.ndim != 1:
        raise UserError(f"--problem {name} has one target, {dataset.name} has {targets.shape[1]}.")
    if name == "linear_map" and targets.ndim == 1:
        targets = targets[:, None]
    if name == "line" and dataset.inputs.shape[1] != 1:
        raise UserError(
            f"--problem line has one input, {dataset.name} has {dataset.inputs.shape[1]}; choose one with --features."
        )
    return dataset._replace(targets=targets)


def build_problem(name: str, options: Any, dataset: data.Dataset) -> Problem:
    """Build the problem for a data set.

    Args:
      name: the name of the problem.
      options: the options of the command line, a `DataOptions`.
      dataset: the result of `prepare_targets`.

    Returns:
      The problem.

    Raises:
      UserError: an option does not belong to the problem, or has an invalid value.
      DataError: all labels are the same.
    """
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
        meant = LOSSES_BY_OTHER_NAMES.get(str(options.loss).lower().replace("-", "_"))
        known = meant is not None and meant in str(error)
        raise UserError(f"{error}{f' Did you mean {meant!r}?' if known else ''}") from None
