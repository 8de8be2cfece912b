"""Least squares of a table that is read once, in parts: few rows with the same means and covariances take its place."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxgd.data.choose import Choice, check_columns, input_columns, one_hot_notes, wanted_columns, words_of
from jaxgd.data.classes import MOST_CODES, classes, codes_note
from jaxgd.data.dataset import Array, DataError, Dataset
from jaxgd.data.parts import Reader, large
from jaxgd.data.statistics import Statistics
from jaxgd.data.table import Table, is_text, missing

PARTS_FROM = 2**25
"""Bytes of numbers from which a table is read in parts though it would fit: this is also faster."""

ROWS_PER_COLUMN = 20
"""Fewer rows than this for each column are not worth their covariances."""


class Plan(NamedTuple):
    """What every part of a table is turned into.

    Attributes:
      path: of the file.
      choice: what is wanted from the table.
      target: the column to predict.
      wanted: the columns to predict from.
      levels: the values of each column of categories.
    """

    path: str
    choice: Choice
    target: str
    wanted: Sequence[str]
    levels: Mapping[str, tuple[str, ...]]

    def names(self) -> tuple[str, ...]:
        """D names of inputs."""
        coded = (
            [f"{name}={word}" for word in self.levels[name][1:]] if name in self.levels else [name]
            for name in self.wanted
        )
        return tuple(name for names in coded for name in names)


class Gathered(NamedTuple):
    """What is known of the rows so far.

    Attributes:
      fitted: statistics of the rows to fit, targets in the last column.
      held_out: of the others.
      num_missing: rows with an empty cell.
      values: different targets, until they are more than `MOST_CODES`.
    """

    fitted: Statistics
    held_out: Statistics
    num_missing: int
    values: Array


class ClassesError(Exception):
    """The targets are classes, for which least squares is not the model."""


def least_squares(
    source: Any,
    *,
    target: str | None = None,
    features: Sequence[str] = (),
    one_hot: Sequence[str] = (),
    drop_missing: bool = False,
    held_out: float = 0.0,
    seed: int = 0,
    classes_too: bool = False,
) -> tuple[Dataset, Dataset] | None:
    """Few rows in place of all those of a large table, for a mean of squared errors of a linear model.

    They have the same means and covariances (`Statistics.equivalent_rows`), and so the same loss, gradient, curvature
    and minimiser at all parameters, within the rounding of float64.

    Args:
      source: see `load`.
      target: see `load`.
      features: see `load`.
      one_hot: see `load`; such columns are read twice.
      drop_missing: see `load`.
      held_out: share of the rows to hold out. Each row is drawn by itself, since their number is known at the end.
      seed: of the draw.
      classes_too: whether targets that are all 0 or 1 are numbers like others, rather than classes.

    Returns:
      The rows to fit and the rows held out, with the number of rows they stand for. None if all rows are to be loaded
      instead: the targets are classes, or the source is small or not a table in a file.

    Raises:
      DataError: a mistake in the file; the text says where, and what can be done.
    """
    choice = Choice(target, tuple(features), tuple(one_hot), drop_missing)
    found = large(source)
    if found is None or found.num_bytes(choice) < PARTS_FROM:
        return None
    if found.num_rows < ROWS_PER_COLUMN * found.num_columns(choice):
        return None
    target_name, wanted = wanted_columns(Table(found.path, dict.fromkeys(found.names, np.zeros(0))), choice)
    for reader in found.readers:
        try:
            plan = Plan(found.path, choice, target_name, wanted, _levels(reader, choice.one_hot))
            notes = one_hot_notes(found.path, plan.levels)
            gathered = _gathered(plan, reader, held_out, np.random.default_rng(seed), classes_too)
        except ClassesError:
            return None
        except DataError:
            if reader is found.readers[-1]:
                raise
            continue  # the next reader knows lines and columns
        break
    return _datasets(plan, gathered, notes)


def _levels(reader: Reader, one_hot: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The values of columns of categories, by a reading of only these columns."""
    found: dict[str, set[str]] = {name: set() for name in one_hot}
    for part in reader([], one_hot) if one_hot else ():
        for name, words in found.items():
            words |= words_of(part.columns[name][~missing(part.columns[name])])
    return {name: tuple(sorted(words)) for name, words in found.items()}


def _gathered(plan: Plan, reader: Reader, held_out: float, rng: np.random.Generator, classes_too: bool) -> Gathered:
    """The statistics of all parts.

    Raises:
      ClassesError: the targets are classes.
      DataError: a part cannot serve; or fewer than two rows are left to fit.
    """
    none = Statistics.empty(len(plan.names()) + 1)
    found = Gathered(none, none, 0, np.zeros(0))
    for part in reader([*(name for name in plan.wanted if name not in plan.levels), plan.target], [*plan.levels]):
        rows, num_missing = _rows(plan, part)
        test = rng.random(len(rows)) < held_out
        values = found.values
        if len(values) <= MOST_CODES:
            values = np.union1d(values, rows[:, -1])
        found = Gathered(
            _with_rows(found.fitted, rows[~test] if held_out else rows),
            _with_rows(found.held_out, rows[test]),
            found.num_missing + num_missing,
            values,
        )
        # The first part of classes tells, and spares the reading of the others.
        if not classes_too and np.array_equal(values, [0, 1]):
            raise ClassesError
    if found.fitted.num_rows < 2:
        raise DataError(f"{plan.path}: at least 2 rows are needed, got {found.fitted.num_rows}.")
    return found


def _with_rows(statistics: Statistics, rows: Array) -> Statistics:
    return statistics.with_rows([rows], np.ones((len(rows), rows.shape[1] + 1)))


def _rows(plan: Plan, part: Table) -> tuple[Array, int]:
    """Inputs and target of a part, `[n, D + 1]` without the rows that lack a cell, and how many those were.

    Raises:
      ClassesError: the targets are words.
      DataError: a cell is empty and is not to be left out, or a column is not of finite numbers.
    """
    check_columns(part, plan.choice, plan.wanted)
    if is_text(part.columns[plan.target]):
        classes(part, plan.target)  # reports a cell that is not a number
        raise ClassesError
    holes = {name: missing(part.columns[name]) for name in (*plan.wanted, plan.target)}
    lost = np.any(list(holes.values()), axis=0)
    if lost.any() and not plan.choice.drop_missing:
        row = int(np.argmax(lost))
        name = next(name for name in holes if holes[name][row])
        raise DataError(
            f"{plan.path}, {part.place(row)}, column {name!r}: the cell is empty or NaN; "
            "--drop-missing leaves out such rows."
        )
    columns = [column for name in plan.wanted for column in input_columns(part, name, plan.levels.get(name))[1]]
    rows = np.stack([*columns, part.columns[plan.target]], axis=1)
    infinite = np.isinf(rows)
    if infinite.any():
        row, column = (int(i) for i in np.argwhere(infinite)[0])
        name = (*plan.names(), plan.target)[column]
        raise DataError(
            f"{plan.path}, {part.place(row)}, column {name!r}: expected a finite number, got {rows[row, column]}."
        )
    return rows[~lost] if lost.any() else rows, int(lost.sum())


def _datasets(plan: Plan, found: Gathered, notes: list[str]) -> tuple[Dataset, Dataset]:
    """The statistics as two sets of rows."""
    num_rows = found.fitted.num_rows + found.held_out.num_rows
    if found.num_missing:
        total = num_rows + found.num_missing
        notes = [f"{found.num_missing} of {total} rows were left out: a cell was empty or NaN.", *notes]
    notes.append(
        f"The {num_rows} rows were read in parts, into {2 * len(found.fitted.mean)} rows with the same means and "
        "covariances: for a mean of squared errors the loss is the same at all parameters."
    )
    both = []
    for statistics in (found.fitted, found.held_out):
        rows = statistics.equivalent_rows() if statistics.num_rows else np.zeros((0, len(statistics.mean)))
        both.append(
            Dataset(
                name=plan.path,
                inputs=rows[:, :-1],
                targets=rows[:, -1],
                input_names=plan.names(),
                target_names=(plan.target,),
                notes=(*notes, *codes_note(plan.target, found.values)),
                one_hot=tuple(plan.levels.items()),
                stands_for=statistics.num_rows,
            )
        )
    return both[0], both[1]
