"""Parse the axes of a sweep: numbers separated by commas, FROM:TO:log:COUNT or FROM:TO:lin:COUNT."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxgd.commands.errors import UserError
from jaxgd.data import did_you_mean
from jaxgd.descent.axes import arguments_of

Numbers = np.ndarray[Any, np.dtype[Any]]

TOLERANCES = ("grad_tol", "param_tol", "divergence_factor")
"""The names that `--over` accepts in every run, besides the batch size."""


def parse_rates(text: str, limit: float, widest: float) -> Numbers:
    """The learning rates given by --learning-rate.

    Args:
      text: the value of the option.
      limit: the largest stable rate, for "auto".
      widest: the largest rate of "auto" is this many times the limit.

    Returns:
      `[S]`, positive.

    Raises:
      UserError: the text does not give positive rates, or it is "auto" and no limit is known.
    """
    if text == "auto":
        if not np.isfinite(limit):
            raise UserError("no stable learning rate is known (no positive eigenvalue); give --learning-rate.")
        return np.geomspace(1e-3 * limit, widest * limit, 50)
    rates = _values(text)
    if rates is None or not np.all(rates > 0):
        raise UserError(
            f"--learning-rate must be positive numbers, FROM:TO:log:COUNT, FROM:TO:lin:COUNT or A,B,C, got {text!r}."
        )
    return rates


def _values(text: str) -> Numbers | None:
    """The finite numbers of one axis; None if the text cannot be parsed."""
    parts = text.split(":")
    try:
        if len(parts) == 1:
            values = np.array([float(part) for part in text.split(",")])
        else:
            first, last, spacing, count = parts
            space: Any = {"log": np.geomspace, "lin": np.linspace}[spacing]
            values = space(float(first), float(last), int(count))
    except (ValueError, KeyError):
        return None
    return values if len(values) and np.all(np.isfinite(values)) else None


def parse_axes(over: Sequence[str], optimizer: Any) -> dict[str, Numbers]:
    """The axes given by --over.

    Args:
      over: texts NAME=VALUES, one for each axis.
      optimizer: the optimizer of the run, see `descend`.

    Returns:
      The values of each axis, `[S]`; whole numbers for the batch size.

    Raises:
      UserError: an axis does not exist, or its values are not numbers.
    """
    known = ("batch_size", *TOLERANCES, *arguments_of(optimizer))
    axes: dict[str, Numbers] = {}
    for words in over:
        name, _, text = words.partition("=")
        name = name.replace("-", "_")
        if name not in known:
            raise UserError(f"--over must name one of {', '.join(known)}, got {name!r}.{did_you_mean(name, known)}")
        values = _values(text)
        if values is None:
            raise UserError(
                f"--over {name} must be numbers, FROM:TO:log:COUNT, FROM:TO:lin:COUNT or A,B,C, got {text!r}."
            )
        if name == "batch_size":
            if not np.array_equal(values, np.floor(values)) or min(values) < 1:
                raise UserError(f"--over batch_size must be whole numbers of at least 1, got {text!r}.")
            values = values.astype(int)
        axes[name] = values
    return axes
