"""What a command reads: the rows of its data, or what takes their place, and the problem that fits them."""

from typing import Any, NamedTuple

from jaxgd import data
from jaxgd.commands.systems import build_problem, choose_problem, prepare_targets
from jaxgd.types import Batch, Problem


class Loaded(NamedTuple):
    """What a command reads.

    Attributes:
      name: of the function that built the problem.
      dataset: the rows to fit.
      test_set: the rows held out.
      problem: what to minimise.
      codes: rows that have all different targets of all processes, or many of them.
    """

    name: str
    dataset: data.Dataset
    test_set: data.Dataset
    problem: Problem
    codes: data.Dataset


def load(options: Any) -> Loaded:
    """Read the data of a command: all rows, few rows in their place, or those of this process.

    Args:
      options: of the command line, a `DataOptions`.

    Returns:
      What was read.

    Raises:
      UserError: options that do not belong to the system.
      DataError: a mistake in the data.
    """
    found = _least_squares(options) or _share(options)
    if found is not None:
        return found
    dataset = data.load(options.data, **_columns(options))
    name = options.problem or choose_problem(dataset)
    dataset = prepare_targets(name, dataset)
    fitted, test_set = data.split(dataset, _held_out(options, name), options.seed)
    return Loaded(name, fitted, test_set, build_problem(name, options, fitted), fitted)


def _columns(options: Any) -> dict[str, Any]:
    return {
        "target": options.target,
        "features": options.features,
        "one_hot": options.one_hot,
        "drop_missing": options.drop_missing,
    }


def _held_out(options: Any, name: str) -> float:
    return options.held_out if options.held_out is not None else 0.25 * (name == "mlp")


def _share(options: Any) -> Loaded | None:
    """The rows of this process, where each keeps its own; None where each needs all rows or their statistics."""
    dataset = data.share(options.data, **_columns(options)) if _takes_shares(options) else None
    if dataset is None:
        return None
    names: list[str] = []

    def prepared(few: data.Dataset) -> data.Dataset:
        names.append(options.problem or choose_problem(few))
        few = prepare_targets(names[0], few)
        problem = build_problem(names[0], options, few)
        if problem.check_batch is not None:
            try:
                problem.check_batch(Batch(few.inputs, few.targets))  # type: ignore[arg-type]
            except ValueError as error:
                raise data.DataError(str(error)) from None
        return few

    both = data.with_targets(dataset, prepared)
    if both is None:
        return None
    dataset, codes = both
    problem = build_problem(names[0], options, codes)
    if problem.minimizer is not None or problem.reduction == "sum" or problem.row_sum is None:
        return None
    return Loaded(names[0], *data.split(dataset, _held_out(options, names[0]), options.seed), problem, codes)


def _takes_shares(options: Any) -> bool:
    """Whether every step sums over all rows, whichever process has them."""
    return getattr(options, "batch_size", None) is None and getattr(options, "evaluation", "") in ("auto", "sharded")


def _least_squares(options: Any) -> Loaded | None:
    """Few rows in place of those of a large table, for least squares; None where all rows are needed."""
    if not _reads_in_parts(options):
        return None
    both = data.least_squares(
        options.data,
        **_columns(options),
        held_out=options.held_out or 0.0,
        seed=options.seed,
        classes_too=options.problem is not None,
    )
    if both is None:
        return None
    return Loaded("linear_regression", *both, build_problem("linear_regression", options, both[0]), both[0])


def _reads_in_parts(options: Any) -> bool:
    """Whether means and covariances may be all that the run needs: squared errors, a linear model, all rows a step."""
    return (
        options.problem in (None, "linear_regression")
        and options.loss in (None, "mean_squared_error", "half_mean_squared_error")
        and getattr(options, "batch_size", None) is None
        and not any(words.startswith("batch") for words in getattr(options, "over", ()))
        and getattr(options, "evaluation", "auto") in ("auto", "compressed")
    )
