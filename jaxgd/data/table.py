"""A table as read from a file: named columns of numbers, text or dates."""

import difflib
import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from jaxgd.data.dataset import Array, DataError

HOLES = ("na", "n/a", "#n/a", "null", "none", "nil", "?", "-", ".", "missing")
"""Cell texts by which other tools mark a missing value."""


class Table(NamedTuple):
    """Named columns of one length.

    Attributes:
      name: the path, or another name of the source for messages.
      columns: the columns `[N]` by name. Numbers are float64, with NaN for an empty cell. Text is an object array, with
        None for an empty cell. Dates are datetime64.
      lines: a function that returns the line number in the file for each row, `[N]`; None for a source without lines.
        It is a function because after reading with pyarrow the file must be read again to find the lines.
      first_row: the number of the first row, if the table is a part of a larger one.
    """

    name: str
    columns: dict[str, Array]
    lines: Callable[[], Array] | None = None
    first_row: int = 0

    @property
    def num_rows(self) -> int:
        """N."""
        return len(next(iter(self.columns.values()), ()))

    def place(self, row: int) -> str:
        """The position of a row, for a message: "line 7" for a text file, "row 5" for other sources."""
        return f"row {self.first_row + row}" if self.lines is None else f"line {self.lines()[row]}"

    def column(self, name: str) -> Array:
        """A column by name, `[N]`.

        Raises:
          DataError: no column has that name; the text lists those that exist.
        """
        if name not in self.columns:
            raise DataError(
                f"{self.name}: no column {name!r}; the columns are {', '.join(self.columns)}."
                f"{did_you_mean(name, self.columns)}"
            )
        return self.columns[name]


def did_you_mean(word: str, known: Iterable[str], likeness: float = 0.65) -> str:
    """The text " Did you mean ...?" with the most similar known word, or "" if no known word is similar.

    Args:
      word: the word that was given.
      known: the valid words.
      likeness: how similar two words must be, from 0 to 1.

    Returns:
      Text such as " Did you mean 'diabetes'?", or "". If the word consists of several known names separated by commas,
      the text advises to separate them by spaces.
    """
    others = [other for other in known if other != word]
    names = [name.strip() for name in word.split(",")]
    if len(names) > 1 and set(names) <= set(others):
        return f" Separate names by spaces: {' '.join(names)}."
    nearest = near(word, others, likeness)
    return f" Did you mean {nearest!r}?" if nearest else ""


def near(word: str, known: Iterable[str], likeness: float = 0.65) -> str | None:
    """The known word that begins with `word`, or the most similar one, ignoring case; None if no word is similar."""
    by_lower = {other.lower(): other for other in known}
    beginning = [other for other in by_lower if len(word) > 2 and other.startswith(word.lower())]
    found = beginning if len(beginning) == 1 else difflib.get_close_matches(word.lower(), by_lower, 1, likeness)
    return by_lower[found[0]] if found else None


def why_no_number(cell: str) -> str | None:
    """Why a cell that is nearly a number cannot be read, and how to write it; None for any other text.

    Args:
      cell: the text of the cell.

    Returns:
      The end of a sentence, such as "'1,5' has a decimal comma; write 1.5".
    """
    word = cell.strip()
    if word.lower() in HOLES:
        return f"expected a number, got {word!r}; leave a cell empty where a value is missing"
    if re.match(r"^[-+]?\d+,\d+$", word):
        if not re.match(r"^[-+]?[1-9]\d{0,2},\d{3}$", word):
            return f"{word!r} has a decimal comma; write {word.replace(',', '.')}"
        return f"{word!r} has a comma; write {word.replace(',', '.')}, or {word.replace(',', '')} if it parts thousands"
    if re.match(r"^[-+]?\d{1,3}(,\d{3})+(\.\d+)?$", word):
        return f"{word!r} has commas between thousands; write {word.replace(',', '')}"
    bare = word.strip("$€£¥% ")
    if bare != word and as_number(bare.replace(",", "")) is not None and bare:
        return f"expected a number, got {word!r}; write {bare.replace(',', '')} and keep the unit in the column's name"
    return None


def of_values(values: Any) -> Array:
    """A column of a table from any array-like of numbers, booleans, text or dates.

    Args:
      values: `[N]`.

    Returns:
      float64, objects (text) or datetime64, see `Table`.
    """
    array = np.asarray(values)
    if array.dtype.kind in "biuf":
        return array.astype(np.float64)
    if array.dtype.kind == "M":
        return array
    text = np.array([None if _is_missing(value) else value for value in array.tolist()], dtype=object)
    present = [value for value in text if value is not None]
    if present and all(isinstance(value, bool | int | float) and not isinstance(value, bool) for value in present):
        return np.array([np.nan if value is None else float(value) for value in text])
    return np.array([None if value is None else str(value) for value in text], dtype=object)


def _is_missing(value: Any) -> bool:
    return value is None or value == "" or value != value or str(value) == "<NA>"


def as_number(cell: str) -> float | None:
    """The number that a cell of text holds; NaN for an empty one, None if it holds something else."""
    if not cell.strip():
        return float("nan")
    try:
        return float(cell)
    except ValueError:
        return None


def is_text(column: Array) -> bool:
    """Whether a column holds text."""
    return column.dtype == object


def missing(column: Array) -> Array:
    """A mask `[N]` of the empty cells of a column."""
    if is_text(column):
        return np.array([cell is None for cell in column], bool)
    return np.isnat(column) if column.dtype.kind == "M" else np.isnan(column)
