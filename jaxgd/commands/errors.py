"""Mistakes in the command line: one line and an exit code."""

import numpy as np


class UserError(Exception):
    """A mistake in the command line: one line, exit code 2."""

    exit_code = 2


class WritingError(UserError):
    """Numbers that cannot be written, such as to a full disk, and are not lost: one line, exit code 3."""

    exit_code = 3


class PrintedError(WritingError):
    """The result is on the screen, where --json must not be followed by anything else."""


def check_positive(name: str, value: float | None) -> None:
    """Refuse a flag that is not a positive number.

    Args:
      name: the flag.
      value: what came; None passes.

    Raises:
      UserError: it is not one of those.
    """
    if value is not None and not (np.isfinite(value) and value > 0):
        raise UserError(f"--{name} must be a positive number, got {value}.")


def check_at_least_one(name: str, value: int | None) -> None:
    """Refuse a flag that is below 1.

    Args:
      name: the flag.
      value: what came; None passes.

    Raises:
      UserError: it is below 1.
    """
    if value is not None and value < 1:
        raise UserError(f"--{name} must be at least 1, got {value}.")
