"""A large table of which every process reads and keeps only its own rows.

What depends on all rows is found from small values that the processes tell each other: counts, words, different
targets, means and covariances. Wherever that is not enough (a mistake in a file, which is to be reported with its line,
or columns that are numbers in one piece and text in another) all processes read all rows.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxgd.data import processes
from jaxgd.data.choose import Choice, assembled, check_columns, left_out, wanted_columns, without_missing, words_of
from jaxgd.data.classes import in_order, numbered
from jaxgd.data.dataset import Array, DataError, Dataset
from jaxgd.data.parts import large
from jaxgd.data.processes import gather, of_all
from jaxgd.data.readers import checked
from jaxgd.data.statistics import Statistics
from jaxgd.data.table import Table, as_number, is_text

MOST_CLASSES = 20
"""Words up to which a column of them is taken for classes whatever the number of rows, as in `classes`."""

MOST_VALUES = 1000
"""Different targets that every process tells the others."""

CHUNK_BYTES = 2**23
"""Bytes of the rows whose products are added up at a time."""


class _Seen(NamedTuple):
    """What a process has seen in its rows, and all have to know."""

    num_rows: int
    num_missing: int
    kinds: tuple[str, ...]  # of the columns
    words: dict[str, set[str]]  # of the columns of categories, and of a target that is text


def share(
    source: Any,
    *,
    target: str | None = None,
    features: Sequence[str] = (),
    one_hot: Sequence[str] = (),
    drop_missing: bool = False,
) -> Dataset | None:
    """Read the rows of this process: each of P processes reads about 1/P of the rows of a large table.

    Args:
      source: see `load`.
      target: see `load`.
      features: see `load`.
      one_hot: see `load`.
      drop_missing: see `load`.

    Returns:
      The rows with the number that each process has; names, classes, categories and notes are those of all rows. None
      in every process where all rows are to be read instead: there is only one process, the source is small or cannot
      be cut (`.npz`, a packed text), pyarrow is not installed, or something in the rows does not fit together.

    Raises:
      DataError: a column of categories has only one value.
    """
    count = processes.count()
    found = large(source) if count > 1 else None
    if found is None or found.piece is None:
        return None
    piece, choice = (
        found.piece(jax.process_index(), count),
        Choice(target, tuple(features), tuple(one_hot), drop_missing),
    )
    read: list[tuple[Table, str, list[str]]] = []

    def look() -> _Seen:
        target, wanted = wanted_columns(Table(found.path, dict.fromkeys(found.names, np.zeros(0))), choice)
        whole = piece.table([*wanted, target])
        check_columns(whole, choice, wanted)
        table, _ = without_missing(whole, [*wanted, target], drop=drop_missing)
        read.append((table, target, wanted))
        words = {name: words_of(table.columns[name]) for name in choice.one_hot}
        if is_text(table.columns[target]):
            words[target] = words_of(table.columns[target])
            if len(words[target]) > MOST_CLASSES or any(as_number(word) is not None for word in words[target]):
                raise DataError(f"{found.path}, column {target!r}: the words are not classes.")
        kinds = tuple(column.dtype.kind for column in table.columns.values())
        return _Seen(table.num_rows, whole.num_rows - table.num_rows, kinds, words)

    seen = of_all(look)
    if seen is None or len({each.kinds for each in seen}) > 1:
        return None
    [(table, name, wanted)] = read
    words = {column: set().union(*(each.words[column] for each in seen)) for column in seen[0].words}
    class_names = in_order(words.pop(name, ()))
    if is_text(table.columns[name]) and not 2 <= len(class_names) <= MOST_CLASSES:
        return None
    num_missing, sizes = sum(each.num_missing for each in seen), tuple(each.num_rows for each in seen)
    dataset = assembled(
        *(table, name, wanted),
        levels={column: tuple(sorted(words[column])) for column in wanted if column in words},
        targets=numbered(table.columns[name], class_names) if class_names else table.columns[name],
        class_names=class_names,
        notes=left_out(num_missing, sum(sizes) + num_missing),
    )
    if of_all(lambda: checked(dataset).num_rows) is None:
        return None
    return dataset._replace(shares=sizes)


def with_targets(dataset: Dataset, change: Callable[[Dataset], Dataset]) -> tuple[Dataset, Dataset] | None:
    """Apply a change of targets that depends on the distinct targets of all processes, such as a conversion to labels.

    Args:
      dataset: the result of `share`.
      change: the change. It may depend on the value of a target and on the set of all targets.

    Returns:
      The data changed, and changed rows in which every target of any process occurs once, up to `MOST_VALUES` of each
      process and its largest and a broken one. None where that is not enough, in all processes.
    """
    values = np.unique(dataset.targets)
    broken = values[values != np.floor(values)][:1]
    told = np.unique(np.concatenate([values[:MOST_VALUES], values[-1:], broken]))
    everyone = gather((told, len(told) == len(values)))
    distinct = np.unique(np.concatenate([told for told, _ in everyone]))
    few = dataset._replace(inputs=np.zeros((len(distinct), dataset.inputs.shape[1])), targets=distinct, shares=None)
    try:
        changed = change(few)
    except DataError:  # to be reported with the line of the row
        return None
    if np.issubdtype(changed.targets.dtype, np.integer):
        if not all(complete for _, complete in everyone):
            return None
        targets = changed.targets[np.searchsorted(distinct, dataset.targets)]
    else:
        targets = np.asarray(dataset.targets, np.float64).reshape(-1, *changed.targets.shape[1:])
    return changed._replace(inputs=dataset.inputs, targets=targets, shares=dataset.shares), changed


def equivalent_inputs(dataset: Dataset, transform: Callable[[Array], Array]) -> Array:
    """Few rows of inputs with the same means and covariances as all rows of all processes.

    Args:
      dataset: the result of `share`.
      transform: a function applied to inputs `[n, D]` first.

    Returns:
      `[2 D, D]`.
    """
    num_columns = dataset.inputs.shape[1]
    statistics, size = Statistics.empty(num_columns), max(CHUNK_BYTES // (8 * num_columns), 1)
    for first in range(0, len(dataset.inputs), size):
        rows = transform(dataset.inputs[first : first + size])
        statistics = statistics.with_rows([rows], np.ones((len(rows), num_columns + 1)))
    joined = Statistics.empty(num_columns)
    for other in gather(statistics):
        joined = joined.joined(other)
    return joined.equivalent_rows()
