"""Least squares on a large table: it is read once, in parts, and replaced by few rows with the same covariances."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxgd.data import processes
from jaxgd.data.choose import Choice, check_columns, input_columns, one_hot_notes, wanted_columns, words_of
from jaxgd.data.classes import MOST_CODES, classes, codes_note
from jaxgd.data.dataset import Array, DataError, Dataset
from jaxgd.data.parts import Large, Reader, large
from jaxgd.data.processes import of_all
from jaxgd.data.statistics import Statistics
from jaxgd.data.table import Table, is_text, missing

PARTS_FROM = 2**25
"""Tables of at least this many bytes are read in parts even if they fit into memory, because this is faster. In several
processes all files above `SMALL_FILE` are."""

ROWS_PER_COLUMN = 20
"""Tables with fewer rows than this for each column are not replaced: computing the covariances would not pay."""


class Plan(NamedTuple):
    """How every part of a table is converted.

    Attributes:
      path: the path of the file.
      choice: the columns to use.
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

    def columns(self) -> tuple[list[str], list[str]]:
        """The columns of numbers and of text that a reader is asked for."""
        return [*(name for name in self.wanted if name not in self.levels), self.target], [*self.levels]


class Wish(NamedTuple):
    """Which rows are held out, and whether targets of 0 and 1 are numbers; see `least_squares`."""

    held_out: float
    seed: int
    classes_too: bool


class Gathered(NamedTuple):
    """The statistics of the rows read so far.

    Attributes:
      fitted: statistics of the rows to fit, with the targets in the last column.
      held_out: statistics of the held-out rows.
      num_missing: the number of rows with an empty cell.
      values: the distinct targets, as long as there are at most `MOST_CODES`.
    """

    fitted: Statistics
    held_out: Statistics
    num_missing: int
    values: Array

    def joined(self, other: "Gathered") -> "Gathered":
        """What is known of these rows and of those that follow."""
        return Gathered(
            self.fitted.joined(other.fitted),
            self.held_out.joined(other.held_out),
            self.num_missing + other.num_missing,
            np.union1d(self.values, other.values) if len(self.values) <= MOST_CODES else self.values,
        )


class ClassesError(Exception):
    """The targets are classes, so least squares is not the right model."""


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
    """Replace the rows of a large table by few rows that give the same mean squared error of a linear model.

    The few rows have the same means and covariances as all rows (`Statistics.equivalent_rows`). Therefore the loss, the
    gradient, the curvature and the minimiser are the same at all parameters, within the rounding of float64.

    Args:
      source: see `load`.
      target: see `load`.
      features: see `load`.
      one_hot: see `load`; these columns are read twice.
      drop_missing: see `load`.
      held_out: share of the rows to hold out. Each row is drawn independently, because the number of rows is not known
        before the end of the file.
      seed: the random seed.
      classes_too: True treats targets that are all 0 or 1 as numbers; False treats them as classes.

    Returns:
      The rows to fit and the rows held out. Both also hold the number of rows that they replace. Returns None if the
      caller should load all rows instead: the targets are classes, the source is small, or it is not a table in a file.

    Raises:
      DataError: the file contains a mistake; the text names the place and a remedy.
    """
    choice = Choice(target, tuple(features), tuple(one_hot), drop_missing)
    found = large(source)
    # Rows held out are drawn otherwise here than from a table in memory.
    one_way = processes.count() > 1 and not held_out
    if found is None or (found.num_bytes(choice) < PARTS_FROM and not one_way):
        return None
    if found.num_rows < ROWS_PER_COLUMN * found.num_columns(choice):
        return None
    target_name, wanted = wanted_columns(Table(found.path, dict.fromkeys(found.names, np.zeros(0))), choice)
    plan = Plan(found.path, choice, target_name, wanted, {})
    wish = Wish(held_out, seed, classes_too)
    try:
        plan, gathered = _by_all_processes(plan, found, wish) or _by_itself(plan, found, wish)
    except ClassesError:
        return None
    if gathered.fitted.num_rows < 2:
        raise DataError(f"{plan.path}: at least 2 rows are needed, got {gathered.fitted.num_rows}.")
    return _datasets(plan, gathered)


def _by_itself(plan: Plan, found: Large, wish: Wish) -> tuple[Plan, Gathered]:
    """The statistics of all rows, read by this process."""
    for reader in found.readers:
        try:
            plan = plan._replace(levels=_sorted([_words(reader, plan.choice.one_hot)]))
            one_hot_notes(plan.path, plan.levels)  # refuses a column of one value
            return plan, _gathered(plan, reader, wish, np.random.default_rng(wish.seed))
        except DataError:
            if reader is found.readers[-1]:
                raise
            # The next reader knows lines and columns.
    raise AssertionError("a large file has a reader")


def _by_all_processes(plan: Plan, found: Large, wish: Wish) -> tuple[Plan, Gathered] | None:
    """The statistics of all rows, of which every process reads its own; None where each has to read all of them."""
    count = processes.count()
    if count == 1 or found.piece is None:
        return None
    index = jax.process_index()
    reader = found.piece(index, count).parts
    told = of_all(lambda: (_words(reader, plan.choice.one_hot), _begins_with_classes(plan, reader)))
    if told is None:
        return None
    if told[0][1] and not wish.classes_too:  # before all others have read their rows for nothing
        raise ClassesError
    plan = plan._replace(levels=_sorted([words for words, _ in told]))
    one_hot_notes(plan.path, plan.levels)
    rng = np.random.default_rng(wish.seed)
    if wish.held_out:  # the draws for the rows before these are made by other processes
        kept = of_all(lambda: sum(len(_rows(plan, part)[0]) for part in reader(*plan.columns())))
        if kept is None:
            return None
        rng.bit_generator.advance(sum(kept[:index]))  # type: ignore[attr-defined]  # PCG64 takes a number a draw

    def mine() -> Gathered | None:
        try:
            found = _gathered(plan, reader, wish._replace(classes_too=wish.classes_too or index > 0), rng)
            return found._replace(values=found.values[: MOST_CODES + 1])
        except ClassesError:
            return None

    shares = of_all(mine) or []
    numbers = [share for share in shares if share is not None]
    if shares and shares[0] is None:
        raise ClassesError
    return (plan, functools.reduce(Gathered.joined, numbers)) if len(numbers) == count else None


def _begins_with_classes(plan: Plan, reader: Reader) -> bool:
    """Whether the first targets are words, or all 0 or 1."""
    part = next(iter(reader([plan.target], [])), None)
    if part is None:
        raise DataError(f"{plan.path}: there is a process without a row.")
    first = part.columns[plan.target]
    return is_text(first) or np.array_equal(np.unique(first[~missing(first)]), [0, 1])


def _words(reader: Reader, one_hot: Sequence[str]) -> dict[str, set[str]]:
    """The values of the columns of categories; reads only these columns."""
    found: dict[str, set[str]] = {name: set() for name in one_hot}
    for part in reader([], one_hot) if one_hot else ():
        for name, words in found.items():
            words |= words_of(part.columns[name][~missing(part.columns[name])])
    return found


def _sorted(found: Sequence[Mapping[str, set[str]]]) -> dict[str, tuple[str, ...]]:
    """The values of each column among those that several readings found."""
    return {name: tuple(sorted(set().union(*(words[name] for words in found)))) for name in found[0]}


def _gathered(plan: Plan, reader: Reader, wish: Wish, rng: np.random.Generator) -> Gathered:
    """The statistics of all parts.

    Raises:
      ClassesError: the targets are classes.
      DataError: a part cannot be used.
    """
    none = Statistics.empty(len(plan.names()) + 1)
    found = Gathered(none, none, 0, np.zeros(0))
    for part in reader(*plan.columns()):
        rows, num_missing = _rows(plan, part)
        test = rng.random(len(rows)) < wish.held_out
        fitted = _statistics(rows[~test] if wish.held_out else rows)
        found = found.joined(Gathered(fitted, _statistics(rows[test]), num_missing, rows[:, -1]))
        # The first part already shows that the targets are classes; the other parts need not be read.
        if not wish.classes_too and np.array_equal(found.values, [0, 1]):
            raise ClassesError
    return found


def _statistics(rows: Array) -> Statistics:
    return Statistics.empty(rows.shape[1]).with_rows([rows], np.ones((len(rows), rows.shape[1] + 1)))


def _rows(plan: Plan, part: Table) -> tuple[Array, int]:
    """Inputs and target of a part, `[n, D + 1]`, without rows with an empty cell, and the number of these rows.

    Raises:
      ClassesError: the targets are words.
      DataError: a cell is empty and `drop_missing` is False, or a column contains values that are not finite numbers.
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


def _datasets(plan: Plan, found: Gathered) -> tuple[Dataset, Dataset]:
    """The rows to fit and the rows held out, as two data sets that have these statistics."""
    notes = one_hot_notes(plan.path, plan.levels)
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
