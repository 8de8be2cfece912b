"""The axes of a sweep as words: numbers with commas, FROM:TO:log:COUNT or FROM:TO:lin:COUNT."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxgd.commands.errors import UserError
from jaxgd.data import did_you_mean
from jaxgd.descent.axes import arguments_of

Numbers = np.ndarray[Any, np.dtype[Any]]

TOLERANCES = ("grad_tol", "param_tol", "divergence_factor")
"""What `--over` may name in every run, besides the batch size."""


def parse_rates(text: str, limit: float, widest: float) -> Numbers:
    """The rates that a --learning-rate asks for.

    Args:
      text: of the command line.
      limit: the largest stable rate, for "auto".
      widest: how many times that is the largest rate of "auto".

    Returns:
      `[S]`, positive.

    Raises:
      UserError: the text asks for none, or "auto" and no limit is known.
    """
    if text == "auto":
        if not np.isfinite(limit):
            raise UserError("no stable learning rate is known here (no upward curvature); give --learning-rate.")
        return np.geomspace(1e-3 * limit, widest * limit, 50)
    rates = _values(text)
    if rates is None or not np.all(rates > 0):
        raise UserError(
            f"--learning-rate must be positive numbers, FROM:TO:log:COUNT, FROM:TO:lin:COUNT or A,B,C, got {text!r}."
        )
    return rates


def _values(text: str) -> Numbers | None:
    """The finite numbers of one axis; None if the text is not at least one such number."""
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
    """The axes that --over asks for.

    Args:
      over: NAME=VALUES of each.
      optimizer: as `descend` takes it.

    Returns:
      The values of each, `[S]`; whole numbers for the batch size.

    Raises:
      UserError: an axis that does not exist, or values that are not numbers.
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
