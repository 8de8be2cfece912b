"""Fast engines for large files, imported only when they are needed: pyarrow for text and Parquet.

pyarrow was chosen over duckdb and polars because it hands over columns as NumPy arrays, without a second library
between; all three read a CSV of 100 MB in about half a second.
"""

import contextlib
import functools
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np

from jaxgd.data import text
from jaxgd.data.dataset import Array, DataError
from jaxgd.data.table import Table, is_text, of_values

FAST_FROM = 2**20
"""Text files of at least this many bytes are read by pyarrow. For smaller files, importing pyarrow takes longer."""

PART_ROWS = 2**16
"""The number of rows of one part of a file that is read in parts."""

PART_BYTES = 2**20
"""The number of bytes of one part of a text table that is read in parts."""

BUFFER_BYTES = 2**20
"""The number of bytes of a column of a Parquet file that are read at once."""


def installed(name: str) -> bool:
    """Whether a library can be imported."""
    return importlib.util.find_spec(name) is not None


def read_text(path: str, dialect: text.Dialect, opened: Callable[[], BinaryIO], lines: Any) -> Table | None:
    """Read a text table with pyarrow. Returns None if pyarrow fails: the slow reader then finds the mistake.

    Args:
      path: for errors.
      dialect: of the file.
      opened: opens the file, see `text.opener`.
      lines: see `Table`.

    Returns:
      The table, or None.
    """
    import pyarrow
    from pyarrow import csv

    try:
        with opened() as file:
            read = csv.read_csv(file, *_options(dialect, {}))
        columns = {name: _column(read.column(name)) for name in dialect.header}
        del read
        pyarrow.default_memory_pool().release_unused()
    except (pyarrow.ArrowException, TypeError):
        return None
    # pyarrow may have read a comment as a row; then the first column is text.
    first = columns[dialect.header[0]]
    if not len(first):
        return None
    if is_text(first) and any(isinstance(cell, str) and cell.startswith("#") for cell in first):
        return None
    return Table(path, columns, lines)


def text_parts(
    path: str, dialect: text.Dialect, opened: Callable[[], BinaryIO], numbers: Sequence[str], words: Sequence[str]
) -> Iterator[Table]:
    """Read some columns of a text table with pyarrow, part by part.

    Args:
      path: for errors.
      dialect: of the file.
      opened: opens the file, see `text.opener`.
      numbers: columns that must hold numbers.
      words: columns that hold text.

    Returns:
      Tables without lines.

    Raises:
      DataError: pyarrow cannot read the file; the slow reader then finds the line of the mistake.
    """
    import pyarrow
    from pyarrow import csv

    kinds = dict.fromkeys(numbers, pyarrow.float64()) | dict.fromkeys(words, pyarrow.string())
    try:
        with opened() as file:
            for part in csv.open_csv(file, *_options(dialect, kinds)):
                yield Table(path, {name: _column(part.column(name)) for name in kinds})
    except pyarrow.ArrowException as error:
        raise DataError(f"{path}: cannot be read ({text.first_line(error)}).") from None


def text_piece(path: str, dialect: text.Dialect, index: int, count: int) -> tuple[text.Dialect, Callable[[], Any]]:
    """The lines of piece `index` of `count` of a file of text, cut at the ends of lines near equal numbers of bytes.

    Returns:
      How the piece is written, and a function that opens it.

    Raises:
      DataError: quotes stand open at its start or end, so that a row may be cut.
    """
    import pyarrow

    with text.reading(path), open(path, "rb") as file:
        for _ in range(dialect.header_line):
            file.readline()
        begin, size = file.tell(), file.seek(0, 2)

        def border(i: int) -> int:
            if i in (0, count):
                return size if i else 0
            file.seek(begin + (size - begin) * i // count - 1)
            file.readline()
            return file.tell()

        first, last = border(index), border(index + 1)
    with pyarrow.memory_map(path) as mapped:
        mapped.seek(first)
        piece = mapped.read_buffer(last - first)
    blocks = iter(functools.partial(pyarrow.BufferReader(piece).read, PART_BYTES), b"")
    if sum(block.count(b'"') for block in blocks) % 2:
        raise DataError(f"{path}: cannot be cut into {count} pieces (a quoted cell may span lines).")
    return dialect._replace(header_line=0 if index else dialect.header_line), lambda: pyarrow.BufferReader(piece)


def _options(dialect: text.Dialect, kinds: dict[str, Any]) -> tuple[Any, Any, Any]:
    """The options of pyarrow for a text table: the columns and types in `kinds`, or all columns with inferred types."""
    import pyarrow
    from pyarrow import csv

    # A separator at the end of every line makes columns of null; anything else in them is refused.
    extra = {f"\0{i}": pyarrow.null() for i in range(dialect.num_extra)}
    return (
        csv.ReadOptions(block_size=PART_BYTES, skip_rows=dialect.header_line, column_names=[*dialect.header, *extra]),
        csv.ParseOptions(
            delimiter=dialect.separator,
            newlines_in_values=True,
            invalid_row_handler=lambda row: "skip" if row.text.startswith("#") else "error",
        ),
        # If one cell is not a number, the column is kept as text, so "NA" is reported and not read as a missing value.
        csv.ConvertOptions(
            null_values=["", "nan", "NaN"],
            strings_can_be_null=True,
            column_types=kinds | extra,
            include_columns=[*kinds, *extra] if kinds else None,
        ),
    )


def _column(column: Any) -> Array:
    """Convert a column of pyarrow to a column of a table."""
    import pyarrow

    kind = column.type
    if pyarrow.types.is_dictionary(kind):
        return _column(column.cast(kind.value_type))
    if pyarrow.types.is_null(kind):
        return np.full(len(column), np.nan)
    if pyarrow.types.is_boolean(kind):
        return of_values([None if cell is None else str(cell) for cell in column.to_pylist()])
    if pyarrow.types.is_integer(kind) or pyarrow.types.is_floating(kind) or pyarrow.types.is_decimal(kind):
        return np.asarray(column.cast(pyarrow.float64()).to_numpy(zero_copy_only=False), np.float64)
    if pyarrow.types.is_temporal(kind):
        return np.asarray(column.cast(pyarrow.timestamp("us"), safe=False).to_numpy(zero_copy_only=False)).astype(
            "datetime64[us]"
        )
    if pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind):
        return np.array([None if cell in (None, "") else cell.strip() for cell in column.to_pylist()], dtype=object)
    raise TypeError(str(kind))


def read_parquet(path: str) -> Table:
    """A Parquet file.

    Raises:
      DataError: pyarrow is not installed, the file is damaged, or a column is not of numbers, text or dates.
    """
    with parquet_file(path) as file:
        return _parquet_table(path, file.read())


def parquet_parts(path: str, names: Sequence[str], index: int = 0, count: int = 1) -> Iterator[Table]:
    """Some columns of a Parquet file, part by part: rows of piece `index` of `count`, from the groups that hold them.

    Raises:
      DataError: see `read_parquet`.
    """
    with parquet_file(path) as file:
        sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
        ends = np.cumsum([0, *sizes])
        first, last = (int(ends[-1]) * i // count for i in (index, index + 1))
        groups = [i for i in range(len(sizes)) if ends[i] < last and ends[i + 1] > first]
        position = int(ends[groups[0]]) if groups else 0
        for part in file.iter_batches(batch_size=PART_ROWS, row_groups=groups, columns=list(names)):
            begin, end = max(first - position, 0), min(last - position, len(part))
            if begin < end:
                yield _parquet_table(path, part.slice(begin, end - begin), position + begin)
            position += len(part)


@contextlib.contextmanager
def parquet_file(path: str) -> Iterator[Any]:
    """An open Parquet file, whose pages are read when they are needed.

    Raises:
      DataError: pyarrow is not installed, or the file is damaged.
    """
    if not installed("pyarrow"):
        raise DataError(f"{path}: Parquet files are read by pyarrow, which is not installed: pip install 'jaxgd[cli]'.")
    import pyarrow
    from pyarrow import parquet

    with text.reading(path), open(path, "rb"):  # Python's own error says that the file does not exist
        pass
    try:
        with parquet.ParquetFile(path, buffer_size=BUFFER_BYTES, pre_buffer=False) as file:
            yield file
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a Parquet file, or a damaged one ({text.first_line(error)}).") from None


def _parquet_table(path: str, read: Any, first_row: int = 0) -> Table:
    import pyarrow

    columns = {}
    for name in read.schema.names:
        try:
            columns[name] = _column(read.column(name))
        except TypeError as error:
            raise DataError(
                f"{path}, column {name!r}: cells of type {error} cannot be read as numbers or text."
            ) from None
        except pyarrow.ArrowException as error:
            raise DataError(f"{path}, column {name!r}: cannot be read ({text.first_line(error)}).") from None
    return Table(path, columns, first_row=first_row)
