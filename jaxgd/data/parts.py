"""Tables that are read part by part, so that only one part is in memory."""

import gzip
import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from jaxgd.data import engines, text
from jaxgd.data.choose import Choice
from jaxgd.data.dataset import DataError
from jaxgd.data.memory import free_bytes
from jaxgd.data.table import Table

COPIES = 8
"""Peak memory of a fit with all rows in memory, divided by the bytes of the rows in float64; measured."""

SMALL_FILE = 2**20
"""For files of at most this many bytes the memory is not checked."""

Reader = Callable[[Sequence[str], Sequence[str]], Iterator[Table]]


class Piece(NamedTuple):
    """Some of the rows of a table in a file, to be read without the others.

    Attributes:
      parts: as one of the `readers` of `Large`.
      table: (columns) -> the piece as one table.
    """

    parts: Reader
    table: Callable[[Sequence[str]], Table]


class Large(NamedTuple):
    """A table in a file that can be read in parts.

    Attributes:
      path: of the file.
      names: the names of all columns.
      num_rows: N; for a text file an estimate from the length of the first lines.
      readers: functions (columns of numbers, columns of text) -> tables. A reader is used if all readers before it
        fail.
      piece: a function (index, count) -> one of `count` pieces of the rows, in order; None if the file can only be
        read from its start.
    """

    path: str
    names: tuple[str, ...]
    num_rows: int
    readers: tuple[Reader, ...]
    piece: Callable[[int, int], Piece] | None = None

    def num_columns(self, choice: Choice) -> int:
        """The number of chosen columns, including the target."""
        return len(choice.features) + 1 if choice.features else len(self.names)

    def num_bytes(self, choice: Choice) -> int:
        """Bytes of the chosen columns in float64."""
        return 8 * self.num_rows * self.num_columns(choice)


def large_text(path: str) -> Large:
    """A table of text."""
    opened = text.opener(path)
    with text.reading(path):
        dialect, start = text.dialect_of(path, opened), text.beginning(opened)
        num_bytes = _unpacked_bytes(path) if path.endswith(".gz") else os.path.getsize(path)
    num_rows = num_bytes * start.count(b"\n") // max(len(start), 1)

    def fast(numbers: Sequence[str], words: Sequence[str]) -> Iterator[Table]:
        return engines.text_parts(path, dialect, opened, numbers, words)

    def careful(numbers: Sequence[str], words: Sequence[str]) -> Iterator[Table]:
        return text.careful(path, opened, engines.PART_ROWS)

    def piece(index: int, count: int) -> Piece:
        def parts(numbers: Sequence[str], words: Sequence[str]) -> Iterator[Table]:
            return engines.text_parts(path, *engines.text_piece(path, dialect, index, count), numbers, words)

        def table(names: Sequence[str]) -> Table:
            found = engines.read_text(path, *engines.text_piece(path, dialect, index, count), None)
            if found is None:
                raise DataError(f"{path}: piece {index} of {count} cannot be read by itself.")
            return found._replace(columns={name: found.columns[name] for name in names})

        return Piece(parts, table)

    if not engines.installed("pyarrow"):
        return Large(path, dialect.header, num_rows, (careful,))
    # A packed file can only be read from its start.
    return Large(path, dialect.header, num_rows, (fast, careful), None if path.endswith(".gz") else piece)


def _unpacked_bytes(path: str) -> int:
    """The estimated size of a compressed file after decompression, from the compression of its first megabytes."""
    with open(path, "rb") as packed, gzip.GzipFile(fileobj=packed) as file:
        unpacked = len(file.read(2**22))
        return os.path.getsize(path) * unpacked // max(packed.tell(), 1)


def large_parquet(path: str) -> Large:
    """A Parquet file."""
    with engines.parquet_file(path) as file:
        names, num_rows = tuple(file.schema_arrow.names), file.metadata.num_rows

    def piece(index: int, count: int) -> Piece:
        def parts(numbers: Sequence[str], words: Sequence[str]) -> Iterator[Table]:
            return engines.parquet_parts(path, [*numbers, *words], index, count)

        def table(names: Sequence[str]) -> Table:
            read = list(engines.parquet_parts(path, names, index, count))
            if not read:
                raise DataError(f"{path}: piece {index} of {count} has no rows.")
            columns = {name: np.concatenate([part.columns[name] for part in read]) for name in names}
            return Table(path, columns, first_row=read[0].first_row)

        return Piece(parts, table)

    return Large(path, names, num_rows, (piece(0, 1).parts,), piece)


LARGE: dict[tuple[str, ...], Callable[[str], Large]] = {
    (".csv", ".tsv", ".csv.gz", ".tsv.gz", ".txt"): large_text,
    (".parquet", ".pq"): large_parquet,
}
"""The kinds of tables that can be read in parts, by file name extension."""


def large(source: object) -> Large | None:
    """A file that can be read in parts; None for every other source, and for a small file."""
    path = str(source)
    read = next((read for endings, read in LARGE.items() if path.endswith(endings)), None)
    return None if read is None or not _is_large(path) else read(path)


def check_fits(source: object, choice: Choice) -> None:
    """Raise an error if the rows of a file do not all fit into memory.

    Raises:
      DataError: the rows do not fit; the text gives the number of bytes they need and a remedy.
    """
    path, found = str(source), large(source)
    if found is not None:
        remedy = (
            "least squares (--problem linear_regression with full batches) reads the file in parts; for another model "
            "name fewer columns with --features, or give a file of fewer rows"
        )
        num_bytes = found.num_bytes(choice)
    elif path.endswith(".npz") and _is_large(path) and zipfile.is_zipfile(path):
        remedy = "a table (.parquet, .csv) can be read in parts for least squares; for another model give fewer rows"
        with zipfile.ZipFile(path) as archive:
            num_bytes = sum(member.file_size for member in archive.infolist())
    else:
        return
    free = free_bytes()
    if COPIES * num_bytes > free:
        raise DataError(
            f"{path}: a fit with all rows in memory takes about {in_words(COPIES * num_bytes)} ({in_words(num_bytes)} "
            f"of numbers and what is computed from them), and {in_words(free)} are free; {remedy}."
        )


def _is_large(path: str) -> bool:
    return os.path.isfile(path) and os.path.getsize(path) > SMALL_FILE


def in_words(num_bytes: float) -> str:
    """A number of bytes as text, such as "3.2 GB" or "64 MB"."""
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if num_bytes >= size:
            return f"{num_bytes / size:.{1 if num_bytes < 10 * size else 0}f} {unit}"
    return f"{num_bytes / 1e3:.0f} kB"
