"""The system that fits a data set, and its targets in the form that it takes."""

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
"""The systems that fit data."""

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
"""What other libraries call our losses."""


def choose_problem(dataset: data.Dataset) -> str:
    """The system for a data set whose user names none, by its targets.

    Args:
      dataset: rows and targets.

    Returns:
      A name of `PROBLEMS`: of a classifier for labels 0 .. K - 1, else "linear_regression".
    """
    values = np.unique(dataset.targets)
    whole = np.issubdtype(dataset.targets.dtype, np.integer) and dataset.targets.ndim == 1
    if np.array_equal(values, [0, 1]):
        return "logistic_regression"
    if whole and np.array_equal(values, np.arange(len(values))):
        return "softmax_regression"
    return "linear_regression"


def prepare_targets(name: str, dataset: data.Dataset) -> data.Dataset:
    """Labels for classifiers, real numbers for regressions; a network takes either.

    Args:
      name: of the system.
      dataset: rows and targets.

    Returns:
      The data set with its targets as the system takes them.

    Raises:
      UserError: another number of inputs or targets than the system has.
      DataError: targets that are not labels.
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
            f"--problem line has one input, {dataset.name} has {dataset.inputs.shape[1]}; name one by --features."
        )
    return dataset._replace(targets=targets)


def build_problem(name: str, options: Any, dataset: data.Dataset) -> Problem:
    """The problem of a system for a data set.

    Args:
      name: of the system.
      options: of the command line, a `DataOptions`.
      dataset: of `prepare_targets`.

    Returns:
      The problem.

    Raises:
      UserError: an option that does not belong to the system, or a value that it does not take.
      DataError: labels of one class only.
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
