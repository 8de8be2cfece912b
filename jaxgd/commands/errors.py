"""Errors of the command line: a one-line message and an exit code."""

import numpy as np


class UserError(Exception):
    """A mistake in the command line: a one-line message, exit code 2."""

    exit_code = 2


class WritingError(UserError):
    """Results that cannot be written, for example because the disk is full: a one-line message, exit code 3."""

    exit_code = 3


class PrintedError(WritingError):
    """The result was already printed, so with --json nothing more may be printed."""


def check_positive(name: str, value: float | None) -> None:
    """Raise an error unless the value of a flag is a positive number or None.

    Args:
      name: the name of the flag.
      value: the value of the flag.

    Raises:
      UserError: the value is not positive.
    """
    if value is not None and not (np.isfinite(value) and value > 0):
        raise UserError(f"--{name} must be a positive number, got {value}.")


def check_at_least_one(name: str, value: int | None) -> None:
    """Raise an error unless the value of a flag is at least 1 or None.

    Args:
      name: the name of the flag.
      value: the value of the flag.

    Raises:
      UserError: the value is below 1.
    """
    if value is not None and value < 1:
        raise UserError(f"--{name} must be at least 1, got {value}.")
