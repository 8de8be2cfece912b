"""Targets that are classes: words are converted to labels, and numbers that may be class codes are noted."""

from collections.abc import Iterable, Sequence

import numpy as np

from jaxgd.data.dataset import Array, DataError
from jaxgd.data.table import HOLES, Table, as_number, is_text, why_no_number

NEGATIVE = ("no", "false", "n", "f", "negative", "neg", "absent", "benign", "-1", "0")
"""Pairs of words with their class 0 first; this overrides alphabetical order."""


MOST_CODES = 10
"""A target with at most this many distinct whole numbers may contain class codes."""


def codes_note(column: str, values: Array) -> list[str]:
    """A note if a regression is fitted to numbers that may be class codes.

    Args:
      column: the name of the target.
      values: the distinct values of the target, sorted.

    Returns:
      A list with one note, or an empty list.
    """
    if len(values) > MOST_CODES or not np.array_equal(values, np.floor(values)):
        return []
    shown = ", ".join(f"{value:g}" for value in values)
    classifier = "logistic_regression" if len(values) == 2 else "softmax_regression"
    return [f"{column}: the values {shown} were taken as numbers. If they are classes, give --problem {classifier}."]


def classes(table: Table, target: str) -> tuple[Array, tuple[str, ...]]:
    """The targets as numbers, and the class names if the targets are words.

    If the words mean no and yes, no is class 0. All other words are numbered in alphabetical order.

    Raises:
      DataError: words and numbers are mixed, or nearly every row has a different word.
    """
    column = table.columns[target]
    if not is_text(column):
        return column, ()
    words = list(dict.fromkeys(column))
    numbers = sum(as_number(cell) is not None for cell in column)
    row = next(row for row, cell in enumerate(column) if as_number(cell) is None)
    why = why_no_number(column[row])
    if numbers or (why is not None and column[row].lower() not in HOLES):
        place = f"{table.name}, {table.place(row)}, column {target!r}"
        raise DataError(f"{place}: {why or f'expected a number, got {column[row]!r}'}.")
    if len(words) > max(20, 0.5 * len(column)):
        raise DataError(
            f"{table.name}, column {target!r}: {len(words)} different words in {len(column)} rows cannot be classes."
        )
    if len(words) == 1:
        raise DataError(f"{table.name}, column {target!r}: at least 2 classes are needed, got only {words[0]!r}.")
    names = in_order(words)
    return numbered(column, names), names


def in_order(words: Iterable[str]) -> tuple[str, ...]:
    """The names of classes by their numbers: of two words that say no and yes, no is class 0."""
    names = sorted(words)
    if len(names) == 2 and names[1].lower() in NEGATIVE and names[0].lower() not in NEGATIVE:
        names.reverse()
    return tuple(names)


def numbered(column: Array, names: Sequence[str]) -> Array:
    """The numbers of the classes that a column names, `[N]` int64."""
    number_of = {word: number for number, word in enumerate(names)}
    return np.array([number_of[word] for word in column], np.int64)
