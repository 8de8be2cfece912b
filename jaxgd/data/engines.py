"""Fast engines for large files, imported only when they are needed: pyarrow for text and Parquet.

pyarrow was chosen over duckdb and polars because it hands over columns as NumPy arrays, without a second library
between; all three read a CSV of 100 MB in about half a second.
"""

import importlib.util
import io
from typing import Any

import numpy as np

from jaxgd.data.dataset import Array, DataError
from jaxgd.data.table import Table, is_text, missing, of_values
from jaxgd.data.text import Dialect

FAST_FROM = 2**20
"""Bytes from which a file of text is given to pyarrow; below, importing it takes longer than reading carefully."""


def installed(name: str) -> bool:
    """Whether a library can be imported."""
    return importlib.util.find_spec(name) is not None


def read_text(path: str, data: bytes, dialect: Dialect, lines: Any) -> Table | None:
    """A text table by pyarrow; None where it refuses, so that the careful reader can say why, and where.

    Args:
      path: for errors.
      data: the whole file, unpacked.
      dialect: its separator and header.
      lines: see `Table`.

    Returns:
      The table, or None.
    """
    import pyarrow
    from pyarrow import csv

    try:
        read = csv.read_csv(io.BytesIO(data), *_options(dialect))
        columns = {name.strip(): _column(read.column(i)) for i, name in enumerate(read.column_names)}
    except (pyarrow.ArrowException, TypeError):
        return None
    nameless = columns.pop("", np.full(0, np.nan))  # a separator at the end of every line
    if tuple(columns) != dialect.header or not missing(nameless).all():
        return None
    # A comment may have been taken for a row; the column that it begins is then text.
    first = columns[dialect.header[0]]
    if is_text(first) and any(isinstance(cell, str) and cell.startswith("#") for cell in first):
        return None
    return Table(path, {name: columns[name] for name in dialect.header}, lines)


def _options(dialect: Dialect) -> tuple[Any, Any, Any]:
    from pyarrow import csv

    return (
        csv.ReadOptions(skip_rows=dialect.first_line - 1),
        csv.ParseOptions(delimiter=dialect.separator, newlines_in_values=True),
        # Cells are kept as text if any of them is not a number: "NA" is then said, not silently made a hole.
        csv.ConvertOptions(null_values=["", "nan", "NaN"], strings_can_be_null=True),
    )


def _column(column: Any) -> Array:
    """A column of pyarrow as a column of a table."""
    import pyarrow

    kind = column.type
    if pyarrow.types.is_dictionary(kind):
        return _column(column.cast(kind.value_type))
    if pyarrow.types.is_null(kind):
        return np.full(len(column), np.nan)
    if pyarrow.types.is_boolean(kind):
        return of_values([None if cell is None else str(cell) for cell in column.to_pylist()])
    if pyarrow.types.is_integer(kind) or pyarrow.types.is_floating(kind) or pyarrow.types.is_decimal(kind):
        return np.asarray(column.cast(pyarrow.float64()).to_numpy(), np.float64)
    if pyarrow.types.is_temporal(kind):
        return np.asarray(column.cast(pyarrow.timestamp("us"), safe=False).to_numpy()).astype("datetime64[us]")
    if pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind):
        return np.array([None if cell in (None, "") else cell.strip() for cell in column.to_pylist()], dtype=object)
    raise TypeError(str(kind))


def read_parquet(path: str, data: bytes) -> Table:
    """A Parquet file.

    Raises:
      DataError: pyarrow is not installed, the file is damaged, or a column is of a kind that is not a cell's.
    """
    if not installed("pyarrow"):
        raise DataError(f"{path}: Parquet files are read by pyarrow, which is not installed: pip install 'jaxgd[cli]'.")
    import pyarrow
    from pyarrow import parquet

    try:
        read = parquet.read_table(io.BytesIO(data))
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a Parquet file, or a damaged one ({first_line(error)}).") from None
    columns = {}
    for name in read.column_names:
        try:
            columns[name] = _column(read.column(name))
        except TypeError as error:
            raise DataError(
                f"{path}, column {name!r}: cells of type {error} cannot be read as numbers or text."
            ) from None
        except pyarrow.ArrowException as error:
            raise DataError(f"{path}, column {name!r}: cannot be read ({first_line(error)}).") from None
    return Table(path, columns)


def first_line(error: BaseException) -> str:
    """The first line of an error's text, without a full stop."""
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
