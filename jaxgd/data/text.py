"""A reader of text tables (separated by comma, semicolon or tab, with a header line) that reports line numbers."""

import contextlib
import csv
import gzip
import io
import itertools
import re
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from jaxgd.data.dataset import Array, DataError
from jaxgd.data.table import Table, as_number, did_you_mean

SEPARATORS = (",", ";", "\t")

BEGINNING_BYTES = 2**16
"""The separator and the header are determined from this many bytes at the start of a file."""


class Dialect(NamedTuple):
    """The separator and the header of a text table.

    Attributes:
      separator: the character between the cells.
      header: the column names, in order.
      num_extra: the number of empty names after them, from separators at the end of the header line.
      header_line: the number of the header's (last) line.
    """

    separator: str
    header: tuple[str, ...]
    num_extra: int
    header_line: int


@contextlib.contextmanager
def reading(path: str) -> Iterator[None]:
    """Convert an error of reading a file to a `DataError` that names the file.

    Raises:
      DataError: the file does not exist, or cannot be read.
    """
    try:
        yield
    except FileNotFoundError:
        folder = Path(path).parent
        files = [file.name for file in folder.iterdir()] if folder.is_dir() else []
        similar = did_you_mean(Path(path).name, files, 0.8)  # the endings always agree
        raise DataError(f"{path}: no such file.{similar}") from None
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({first_line(error)}).") from None


def first_line(error: BaseException) -> str:
    """The first line of an error's text, without a full stop."""
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


def opener(path: str) -> Callable[[], BinaryIO]:
    """A function that opens a file, and decompresses it if its name ends in .gz. For "-" it opens standard input."""
    if path == "-":
        given = sys.stdin.buffer.read()
        return lambda: io.BytesIO(given)
    return lambda: gzip.open(path) if path.endswith(".gz") else open(path, "rb")  # type: ignore[return-value]


def beginning(opened: Callable[[], BinaryIO]) -> bytes:
    """The first lines of a file, enough to determine the separator and the header."""
    with opened() as file:
        return file.read(BEGINNING_BYTES) + file.readline()


def lines_of(path: str, file: BinaryIO) -> Iterator[str]:
    """The lines of a text file, without a byte order mark and with unchanged line ends.

    Raises:
      DataError: a line is not UTF-8; the text names the line.
    """
    # Bytes that are not UTF-8 become surrogates, which are then found in their line; a strict decoder would not know
    # the line.
    with io.TextIOWrapper(file, "utf-8-sig", errors="surrogateescape", newline="") as text:
        for number, line in enumerate(text, 1):
            if not line.isascii() and (wrong := re.search("[\udc80-\udcff]", line)):
                raise DataError(
                    f"{path}, line {number}: cannot be read as UTF-8 (byte 0x{ord(wrong[0]) - 0xDC00:02x}); "
                    "save the file as UTF-8."
                )
            yield line


def dialect_of(path: str, opened: Callable[[], BinaryIO]) -> Dialect:
    """The separator and the header of a text table, from its first lines.

    The separator is the character of `SEPARATORS` that occurs most often in the header.

    Raises:
      DataError: the file is empty, or its first line is not a header of distinct names.
    """
    start = list(lines_of(path, io.BytesIO(beginning(opened))))
    first = next((line for line in start if line.strip() and not line.startswith("#")), None)
    if first is None:
        raise DataError(f"{path}: the file is empty; expected a header line of column names.")
    separator = max(SEPARATORS, key=first.count)
    number, cells = next(rows(path, start, separator))
    header = [name.strip() for name in cells]
    while len(header) > 1 and not header[-1]:
        header.pop()
    num_extra = len(cells) - len(header)
    if any(as_number(name) is not None and name for name in header):
        raise DataError(
            f"{path}, line {number}: expected a header of column names, got {separator.join(header)}; add one."
        )
    if "" in header:
        raise DataError(
            f"{path}, line {number}: column {header.index('') + 1} has no name; give it one, or leave it out "
            "(in pandas: to_csv(..., index=False))."
        )
    if len(set(header)) < len(header):
        raise DataError(f"{path}, line {number}: the column names {', '.join(header)} must differ.")
    return Dialect(separator, tuple(header), num_extra, number)


def rows(path: str, lines: Iterable[str], separator: str) -> Iterator[tuple[int, list[str]]]:
    """The line number and the cells of every row, including the header. Blank lines and `#` comments are left out.

    Raises:
      DataError: the quotes of a line do not match, or a cell is too long.
    """
    reader = csv.reader(lines, delimiter=separator)
    try:
        for cells in reader:
            if cells and not cells[0].startswith("#"):
                yield reader.line_num, cells
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: cannot be read ({error}).") from None


def careful(path: str, opened: Callable[[], BinaryIO], part_rows: int | None = None) -> Iterator[Table]:
    """Read a text table row by row.

    Args:
      path: the path, for messages.
      opened: a function that opens the file, see `opener`.
      part_rows: the number of rows of each table; None for all rows in one table.

    Returns:
      One or more tables with line numbers, none of them empty.

    Raises:
      DataError: the file contains a mistake; the text names the line.
    """
    dialect = dialect_of(path, opened)
    width = len(dialect.header)
    with opened() as file:
        cells_of = itertools.islice(rows(path, lines_of(path, file), dialect.separator), 1, None)
        found = False
        while part := [
            (line, _fitting(path, line, cells, width)) for line, cells in itertools.islice(cells_of, part_rows)
        ]:
            found = True
            where, table = (list(side) for side in zip(*part, strict=True))
            yield _typed(path, dialect.header, table, np.array(where))
    if not found:
        raise DataError(f"{path}: there is a header but no row of data.")


def _fitting(path: str, line: int, cells: list[str], width: int) -> list[str]:
    """The cells of a row, without empty cells from a separator at the end of the line."""
    while len(cells) > width and not cells[-1].strip():
        cells.pop()
    if len(cells) != width:
        raise DataError(f"{path}, line {line}: expected {width} cells as in the header, got {len(cells)}.")
    return cells


def _typed(path: str, header: tuple[str, ...], cells: list[list[str]], where: Array) -> Table:
    """Convert rows of cells to a table. A column is numeric if every cell is a number."""
    columns = {}
    for name, column in zip(header, zip(*cells, strict=True), strict=True):
        numbers = [as_number(cell) for cell in column]
        if None in numbers:
            columns[name] = np.array([cell.strip() or None for cell in column], dtype=object)
        else:
            columns[name] = np.array(numbers, np.float64)
    return Table(path, columns, lambda: where)
