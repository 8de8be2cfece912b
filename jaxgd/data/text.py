"""Text tables: comma, semicolon or tab between cells, one header line. The careful reader, which knows its lines."""

import csv
import gzip
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxgd.data.dataset import DataError
from jaxgd.data.table import Table, as_number

SEPARATORS = (",", ";", "\t")

BEGINNING_BYTES = 2**16
"""Bytes that are looked at for the separator and the header."""


class Dialect(NamedTuple):
    """How a text table is written.

    Attributes:
      separator: between the cells.
      header: the column names, in order; an empty last name means a separator at the end of every line.
      first_line: the number of the header's line.
    """

    separator: str
    header: tuple[str, ...]
    first_line: int


def read_bytes(path: str) -> bytes:
    """A whole file, unpacked if its name ends in .gz; standard input for "-".

    Raises:
      OSError: it cannot be read.
    """
    if path == "-":
        return sys.stdin.buffer.read()
    data = Path(path).read_bytes()
    return gzip.decompress(data) if path.endswith(".gz") else data


def beginning(data: bytes) -> bytes:
    """Whole lines from the start of a file, enough of them to know how it is written."""
    if len(data) <= BEGINNING_BYTES:
        return data
    end = data.find(b"\n", BEGINNING_BYTES)
    return data if end < 0 else data[: end + 1]


def decoded(path: str, data: bytes) -> str:
    """Bytes as text, without a byte order mark.

    Raises:
      DataError: they are not UTF-8; the text names the line.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise DataError(
            f"{path}, line {line}: cannot be read as UTF-8 (byte 0x{data[error.start]:02x}); save the file as UTF-8."
        ) from None


def dialect_of(path: str, text: str) -> Dialect:
    """The separator and the header of a text table.

    The separator is the sign of `SEPARATORS` that the header holds most often.

    Raises:
      DataError: the file is empty, or its first line is not a header of different names.
    """
    first = next((line for line in text.splitlines() if line.strip() and not line.startswith("#")), None)
    if first is None:
        raise DataError(f"{path}: the file is empty; expected a header line of column names.")
    separator = max(SEPARATORS, key=first.count)
    number, cells = next(rows(path, text, separator))
    header = [name.strip() for name in cells]
    while len(header) > 1 and not header[-1]:
        header.pop()
    if any(as_number(name) is not None and name for name in header):
        raise DataError(f"{path}, line {number}: expected a header of column names, got {separator.join(header)}.")
    if "" in header:
        raise DataError(f"{path}, line {number}: column {header.index('') + 1} has no name.")
    if len(set(header)) < len(header):
        raise DataError(f"{path}, line {number}: the column names {', '.join(header)} must differ.")
    return Dialect(separator, tuple(header), number)


def rows(path: str, text: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    """The line number and the cells of every row, the header's included; blank lines and `#` comments left out.

    Raises:
      DataError: the quotes of a line do not match, or a cell is larger than a row can be.
    """
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    try:
        for cells in reader:
            if cells and not cells[0].startswith("#"):
                yield reader.line_num, cells
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: cannot be read ({error}).") from None


def careful(path: str, data: bytes) -> Table:
    """Read a text table row by row.

    Args:
      path: for errors.
      data: the whole file, unpacked.

    Returns:
      The table, with its lines.

    Raises:
      DataError: a mistake in the file; the text says where.
    """
    text = decoded(path, data)
    dialect = dialect_of(path, text)
    width = len(dialect.header)
    table: list[list[str]] = []
    lines: list[int] = []
    for number, (line, cells) in enumerate(rows(path, text, dialect.separator)):
        if number == 0:
            continue
        # A separator at the end of a line gives one empty cell too many.
        while len(cells) > width and not cells[-1].strip():
            cells.pop()
        if len(cells) != width:
            raise DataError(f"{path}, line {line}: expected {width} cells as in the header, got {len(cells)}.")
        table.append(cells)
        lines.append(line)
    if not table:
        raise DataError(f"{path}: there is a header but no row of data.")
    columns = {}
    for name, column in zip(dialect.header, zip(*table, strict=True), strict=True):
        numbers = [as_number(cell) for cell in column]
        if None in numbers:
            columns[name] = np.array([cell.strip() or None for cell in column], dtype=object)
        else:
            columns[name] = np.array(numbers, np.float64)
    where = np.array(lines)
    return Table(path, columns, lambda: where)
