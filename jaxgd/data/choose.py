"""Make a `Dataset` from a table: choose inputs and target, encode categories, and handle missing cells."""

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxgd.data.classes import classes
from jaxgd.data.dataset import Array, DataError, Dataset
from jaxgd.data.table import HOLES, Table, as_number, is_text, missing, near, why_no_number


class Choice(NamedTuple):
    """The columns to use from a table, and how to treat them.

    Attributes:
      target: the column to predict.
      features: the input columns; empty means all columns except the target.
      one_hot: input columns of categories. For each of their values except the first, the inputs get a column of 0 and
        1.
      drop_missing: True leaves out rows with an empty cell; False raises an error for them.
    """

    target: str | None = None
    features: tuple[str, ...] = ()
    one_hot: tuple[str, ...] = ()
    drop_missing: bool = False


def dataset_of(table: Table, choice: Choice) -> Dataset:
    """The inputs and the targets of a table.

    Args:
      table: the table.
      choice: the columns to use.

    Returns:
      The data, with class names, and with notes on all changes made to the data.

    Raises:
      DataError: a column does not exist or cannot be used; the text names the column and a remedy.
    """
    target, wanted = wanted_columns(table, choice)
    check_columns(table, choice, wanted)
    table, notes = without_missing(table, [*wanted, target], drop=choice.drop_missing)
    levels = {name: tuple(sorted(words_of(table.columns[name]))) for name in wanted if name in choice.one_hot}
    numbers, class_names = classes(table, target)
    return assembled(table, target, wanted, levels=levels, targets=numbers, class_names=class_names, notes=notes)


def assembled(
    table: Table,
    target: str,
    wanted: Sequence[str],
    *,
    levels: Mapping[str, tuple[str, ...]],
    targets: Array,
    class_names: tuple[str, ...],
    notes: Sequence[str],
) -> Dataset:
    """The data set of columns that have been checked.

    Args:
      table: without missing cells.
      target: the name of the target.
      wanted: the columns of inputs.
      levels: the values of each column of categories.
      targets: `[N]`, numbers.
      class_names: what the numbers of classes are called; empty for other targets.
      notes: so far.

    Returns:
      The data.

    Raises:
      DataError: a column of categories has only one value.
    """
    notes = [*notes, *one_hot_notes(table.name, levels)]
    names, parts = [], []
    for name in wanted:
        coded, values = input_columns(table, name, levels.get(name))
        names += coded
        parts += values
    if class_names:
        listed = ", ".join(f"{word} -> {number}" for number, word in enumerate(class_names[:8]))
        more = f" and {len(class_names) - 8} more" if len(class_names) > 8 else ""
        notes.append(f"{target}: {listed}{more}.")
    inputs = np.stack(parts, axis=1) if parts else np.zeros((table.num_rows, 0))
    return Dataset(
        name=table.name,
        inputs=inputs,
        targets=targets,
        input_names=tuple(names),
        target_names=(target,),
        lines=table.lines,
        class_names=class_names,
        notes=tuple(notes),
        one_hot=tuple(levels.items()),
    )


def wanted_columns(table: Table, choice: Choice) -> tuple[str, list[str]]:
    """The names of the target column and of the input columns.

    Raises:
      DataError: a column does not exist or is named twice; the text names a remedy.
    """
    target = choice.target
    if target is None:
        raise DataError(f"{table.name}: --target is needed, one of the columns {', '.join(table.columns)}.")
    if len(table.columns) < 2 and target not in table.columns:
        raise DataError(
            f"{table.name}: at least two columns are needed, got only {next(iter(table.columns))!r}; the separator of "
            "a text must be a comma, a semicolon or a tab."
        )
    table.column(target)
    wanted = list(choice.features or [name for name in table.columns if name != target])
    for name in (*wanted, *choice.one_hot):
        table.column(name)
    if target in wanted:
        raise DataError(f"{table.name}: the target {target!r} cannot be among the features.")
    for name in choice.one_hot:
        if name not in wanted:
            raise DataError(f"{table.name}: --one-hot {name} is not among the inputs {', '.join(wanted)}.")
    return target, wanted


def check_columns(table: Table, choice: Choice, wanted: Sequence[str]) -> None:
    """Raise an error if the cells of a chosen column have a type that cannot be used.

    Raises:
      DataError: an input column contains text or dates, or the target column contains dates.
    """
    for name in wanted:
        if name not in choice.one_hot:
            check_numbers(table, name)
    if choice.target is not None and _are_dates(table.columns[choice.target]):
        raise DataError(
            f"{table.name}, column {choice.target!r}: dates cannot be a target; give a column of numbers or classes."
        )


def check_numbers(table: Table, name: str) -> None:
    """Raise an error if an input column does not contain numbers. The text names a remedy.

    Raises:
      DataError: the column contains text or dates.
    """
    column = table.columns[name]
    dates = (
        f"{table.name}, column {name!r}: dates cannot be inputs; turn them into numbers (such as days since the "
        "first), or leave the column out with --features."
    )
    if column.dtype.kind == "M":
        raise DataError(dates)
    if not is_text(column):
        return
    words = [row for row, cell in enumerate(column) if cell is not None and as_number(cell) is None]
    words = [row for row in words if column[row].lower() not in HOLES] or words
    first = column[words[0]]
    place = f"{table.name}, {table.place(words[0])}, column {name!r}"
    why = why_no_number(first)
    if why is not None:
        raise DataError(f"{place}: {why}.")
    if _is_date(first):
        raise DataError(dates)
    # A single word among numbers is probably a typing error in that cell; otherwise the whole column is text.
    if len(words) < 0.5 * sum(cell is not None for cell in column):
        raise DataError(f"{place}: expected a number, got {first!r}.")
    levels = list(dict.fromkeys(column[row] for row in words))
    shown = ", ".join(map(repr, levels[:3])) + (", ..." if len(levels) > 3 else "")
    raise DataError(
        f"{table.name}, column {name!r}: text ({shown}) cannot be an input; code it by --one-hot {name}, or leave the "
        "column out with --features."
    )


def _are_dates(column: Array) -> bool:
    cells = (cell for cell in column if cell is not None) if is_text(column) else ()
    return column.dtype.kind == "M" or any(map(_is_date, itertools.islice(cells, 1)))


def _is_date(cell: str) -> bool:
    return bool(re.match(r"^\d{4}[-/]\d{1,2}[-/]\d{1,2}([ T].*)?$|^\d{1,2}[./-]\d{1,2}[./-]\d{4}$", cell))


def without_missing(table: Table, names: Sequence[str], *, drop: bool) -> tuple[Table, list[str]]:
    """The table without rows with an empty cell in one of the given columns, and a note that gives their number.

    Raises:
      DataError: a cell is empty and `drop` is False, or fewer than two rows are left.
    """
    holes = {name: missing(table.columns[name]) for name in names}
    any_hole = np.any(list(holes.values()), axis=0)
    if not any_hole.any():
        return table, []
    count, total = int(any_hole.sum()), table.num_rows
    row = int(np.argmax(any_hole))
    name = next(name for name in names if holes[name][row])
    if not drop:
        raise DataError(
            f"{table.name}, {table.place(row)}, column {name!r}: the cell is empty or NaN; "
            f"--drop-missing leaves out such rows ({count} of {total})."
        )
    if total - count < 2:
        raise DataError(
            f"{table.name}: --drop-missing leaves {total - count} of {total} rows; column {name!r} has empty cells."
        )
    kept = np.flatnonzero(~any_hole)
    lines = table.lines
    columns = {name: column[kept] for name, column in table.columns.items()}
    where = None if lines is None else lambda: lines()[kept]
    return Table(table.name, columns, where), left_out(count, total)


def left_out(count: int, total: int) -> list[str]:
    """A note that counts the rows without a cell, if there are any."""
    return [f"{count} of {total} rows were left out: a cell was empty or NaN."] if count else []


def inputs_of(table: Table, names: Sequence[str], one_hot: Sequence[tuple[str, tuple[str, ...]]] = ()) -> Array:
    """The inputs of a fitted model, from a table of new rows.

    Args:
      table: the new rows; columns that the model does not need are ignored.
      names: the names of the inputs that the model needs, in their order.
      one_hot: for each column of categories its name and its values.

    Returns:
      `[N, D]` float64.

    Raises:
      DataError: a column is missing, a cell is not a finite number, or a category did not occur in the fitted data.
    """
    levels = dict(one_hot)
    coded = {f"{name}={level}": (name, level) for name in levels for level in levels[name][1:]}
    needed = list(dict.fromkeys(coded[name][0] if name in coded else name for name in names))
    lost = [name for name in needed if name not in table.columns]
    if lost:
        spare = [name for name in table.columns if name not in needed]
        similar = {name: near(name, spare) for name in lost}
        pairs = ", ".join(f"{found!r} to {name!r}" for name, found in similar.items() if found)
        renaming = f" Rename {pairs}?" if pairs else ""
        raise DataError(
            f"{table.name}: the model needs the column{'s' if len(lost) > 1 else ''} {', '.join(lost)}, which "
            f"{'are' if len(lost) > 1 else 'is'} missing; the columns are {', '.join(table.columns)}.{renaming}"
        )
    for name in needed:
        if name not in levels:
            check_numbers(table, name)
    for name in needed:
        holes = missing(table.columns[name])
        if holes.any():
            raise DataError(
                f"{table.name}, {table.place(int(np.argmax(holes)))}, column {name!r}: the cell is empty or NaN; a "
                "prediction needs a number in every column of the model."
            )
    parts = []
    for name in names:
        if name not in coded:
            parts.append(table.columns[name])
            continue
        column, level = coded[name]
        words = np.array([_word(cell) for cell in table.columns[column]], dtype=object)
        strange = ~np.isin(words.astype(str), levels[column])
        if strange.any():
            row = int(np.argmax(strange))
            raise DataError(
                f"{table.name}, {table.place(row)}, column {column!r}: the model knows {', '.join(levels[column])}, "
                f"got {words[row]!r}."
            )
        parts.append((words == level).astype(np.float64))
    inputs = np.stack(parts, axis=1)
    if not np.isfinite(inputs).all():
        row, place = (int(i) for i in np.argwhere(~np.isfinite(inputs))[0])
        raise DataError(
            f"{table.name}, {table.place(row)}, column {names[place]!r}: expected a finite number, "
            f"got {inputs[row, place]}."
        )
    return inputs


def words_of(column: Array) -> set[str]:
    """The distinct values of a column, as text."""
    return {_word(cell) for cell in column}


def _word(cell: object) -> str:
    return f"{cell:g}" if isinstance(cell, float) else str(cell)


def input_columns(table: Table, name: str, levels: Sequence[str] | None) -> tuple[list[str], list[Array]]:
    """The input columns that one column of a table is converted to, with their names.

    A column of categories gets one input column for each value except the first. With a column for every value, the sum
    of the columns would be the column of ones of the bias, and the minimiser would not be unique.

    Args:
      table: the table with the column.
      name: the name of the column.
      levels: the values of a column of categories; None for a column of numbers.

    Returns:
      Names and columns `[N]`.
    """
    column = table.columns[name]
    if levels is None:
        return [name], [column]
    words = np.array([_word(cell) for cell in column], dtype=object)
    return [f"{name}={level}" for level in levels[1:]], [(words == level).astype(np.float64) for level in levels[1:]]


def one_hot_notes(source: str, levels: Mapping[str, Sequence[str]]) -> list[str]:
    """A note for each column of categories.

    Raises:
      DataError: a column has only one value.
    """
    for name, words in levels.items():
        if len(words) < 2:
            raise DataError(f"{source}, column {name!r}: --one-hot needs at least 2 values, got {', '.join(words)}.")
    return [
        f"{name}: coded by {len(words) - 1} columns of 0 and 1; all 0 means {words[0]}."
        for name, words in levels.items()
    ]
