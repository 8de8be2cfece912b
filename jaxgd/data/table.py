"""A table as a file gives it: named columns of numbers, of text or of dates, before anything is chosen from it."""

import difflib
import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from jaxgd.data.dataset import Array, DataError

HOLES = ("na", "n/a", "#n/a", "null", "none", "nil", "?", "-", ".", "missing")
"""What stands in the cells of other tools' files where a value is missing."""


class Table(NamedTuple):
    """Named columns of one length.

    Attributes:
      name: the path, or what stands for it in errors.
      columns: `[N]` each, by name: float64 with NaN where a cell is empty; objects, that is text with None where a
        cell is empty; or datetime64.
      lines: gives the line of the file on which each row stood, `[N]`, or is None for a source without lines. A
        function, because it takes a second reading where the file was read by a fast engine.
      first_row: the number of the first row, where the table is a part of a larger one.
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
        """Where a row stands, in words: "line 7" of a file of text, "row 5" elsewhere."""
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
    """A question that offers the nearest known word, or nothing if none is near.

    Args:
      word: what came.
      known: what would have been right.
      likeness: how much of a word must agree, from 0 to 1.

    Returns:
      " Did you mean 'diabetes'?", or "". It says so if the word is several known names with commas between.
    """
    others = [other for other in known if other != word]
    names = [name.strip() for name in word.split(",")]
    if len(names) > 1 and set(names) <= set(others):
        return f" Separate names by spaces: {' '.join(names)}."
    nearest = near(word, others, likeness)
    return f" Did you mean {nearest!r}?" if nearest else ""


def near(word: str, known: Iterable[str], likeness: float = 0.65) -> str | None:
    """The known word that begins with a word, or the one most like it, whatever their case; None if there is none."""
    by_lower = {other.lower(): other for other in known}
    beginning = [other for other in by_lower if len(word) > 2 and other.startswith(word.lower())]
    found = beginning if len(beginning) == 1 else difflib.get_close_matches(word.lower(), by_lower, 1, likeness)
    return by_lower[found[0]] if found else None


def why_no_number(cell: str) -> str | None:
    """What is the matter with a cell that is nearly a number, and what to write; None for any other text.

    Args:
      cell: of text.

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
    """Which cells of a column are empty, `[N]` bool."""
    if is_text(column):
        return np.array([cell is None for cell in column], bool)
    return np.isnat(column) if column.dtype.kind == "M" else np.isnan(column)
