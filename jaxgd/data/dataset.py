"""A table of numbers on the host: its labels, how it is split, and its conversion to a Batch."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from jaxgd.data.arrays import not_whole
from jaxgd.types import Batch

Array = npt.NDArray[Any]


class DataError(ValueError):
    """A mistake in the data, or in the name of a file or column. The message is one line."""


class Dataset(NamedTuple):
    """A table of numbers.

    Attributes:
      name: the bundled name or the file's path.
      inputs: `[N, D]` float64, in the units of the source.
      targets: `[N]` or `[N, K]` float64, or `[N]` int64 labels.
      input_names: D column names.
      target_names: K column names, one for targets `[N]`.
      lines: a function that returns the line number in the file for each row, `[N]`; None for a source without lines.
      shared_unit: whether all inputs have the same unit (such as pixels), and are scaled by the same number.
      class_names: the names of the labels 0 .. K - 1; empty if the targets are not classes with names.
      notes: sentences that describe all changes made to the data.
      one_hot: for each encoded column of categories its name and its values. The first value has no input column.
      stands_for: the number of rows of the source, if these rows are a summary with the same means and covariances;
        None if these are the rows of the source.
      shares: the number of rows of every process, if these are only the rows of this process (`shares.share`); None if
        these are all rows.
    """

    name: str
    inputs: Array
    targets: Array
    input_names: tuple[str, ...]
    target_names: tuple[str, ...]
    lines: Callable[[], Array] | None = None
    shared_unit: bool = False
    class_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    one_hot: tuple[tuple[str, tuple[str, ...]], ...] = ()
    stands_for: int | None = None
    shares: tuple[int, ...] | None = None

    @property
    def num_rows(self) -> int:
        """The number of rows of the source."""
        if self.shares is not None:
            return sum(self.shares)
        return len(self.inputs) if self.stands_for is None else self.stands_for

    def place(self, row: int) -> str:
        """The position of a row, for a message.

        Args:
          row: 0 .. N - 1.

        Returns:
          "line 7" of a file, "row 5" elsewhere.
        """
        return f"row {row}" if self.lines is None else f"line {self.lines()[row]}"


def as_labels(dataset: Dataset, num_classes: int | None = None) -> Dataset:
    """Convert the targets to integer labels 0 .. K - 1.

    Targets 1 .. K, and targets -1 and +1, are converted as well; a note reports this.

    Args:
      dataset: its targets `[N]` must be whole numbers from 0, whole numbers from 1 without a gap, or -1 and +1.
      num_classes: K; None allows any.

    Returns:
      The data with targets `[N]` int64.

    Raises:
      DataError: a target is not a label; the text names its row.
    """
    if dataset.targets.ndim != 1:
        raise DataError(f"{dataset.name}: labels must be one column, got {', '.join(dataset.target_names)}.")
    labels = np.asarray(dataset.targets, np.float64)
    codes = np.unique(labels)
    counting = len(codes) >= 2 and np.array_equal(codes, np.arange(1, len(codes) + 1))
    if (counting and num_classes in (None, len(codes))) or np.array_equal(codes, [-1, 1]):
        names = tuple(f"{code:g}" for code in codes)
        listed = ", ".join(f"{name} -> {label}" for label, name in enumerate(names))
        note = f"{dataset.target_names[0]}: the codes were taken as classes, {listed}."
        return dataset._replace(targets=np.searchsorted(codes, labels), class_names=names, notes=(*dataset.notes, note))
    wrong = (labels < 0) | not_whole(labels) | (labels >= (num_classes or np.inf))
    if wrong.any():
        row = int(np.argmax(wrong))
        span = f"[0, {num_classes})" if num_classes else "[0, K)"
        more = (
            "; --problem softmax_regression takes more than two classes" if num_classes == 2 and len(codes) > 2 else ""
        )
        raise DataError(
            f"{dataset.name}, {dataset.place(row)}, column {dataset.target_names[0]!r}: "
            f"labels must be integers in {span}, got {labels[row]:g}{more}."
        )
    names = dataset.class_names or tuple(str(k) for k in range(num_classes or int(labels.max()) + 1))
    return dataset._replace(targets=labels.astype(np.int64), class_names=names)


def are_probabilities(dataset: Dataset) -> bool:
    """Whether the targets are probabilities of class 1: all are in [0, 1], and some are neither 0 nor 1.

    Args:
      dataset: a data set with finite targets.

    Returns:
      True if the targets are one column of such numbers.
    """
    targets = np.asarray(dataset.targets, np.float64)
    return targets.ndim == 1 and bool(((targets >= 0) & (targets <= 1)).all() and not_whole(targets).any())


def split(dataset: Dataset, fraction: float, seed: int) -> tuple[Dataset, Dataset]:
    """Split the rows at random into rows to fit and rows to hold out.

    Args:
      dataset: N rows.
      fraction: share of rows to hold out, in [0, 1).
      seed: the random seed.

    Returns:
      The rows to fit and the rows held out.

    Raises:
      DataError: fewer than 2 rows are left to fit.
    """
    order = np.random.default_rng(seed).permutation(dataset.num_rows if dataset.shares else len(dataset.inputs))
    num_held_out = round(fraction * len(order))
    if len(order) - num_held_out < 2:
        raise DataError(f"{dataset.name}: --held-out {fraction:g} leaves fewer than 2 of {len(order)} rows.")

    if not num_held_out:  # without a copy of all rows
        none = None if dataset.shares is None else (0,) * len(dataset.shares)
        return dataset, dataset._replace(inputs=dataset.inputs[:0], targets=dataset.targets[:0], shares=none)

    def rows(kept: Array) -> Dataset:
        whole = dataset.lines
        if dataset.shares is not None:  # of all processes, of which this one has its own
            ends = np.searchsorted(kept, np.cumsum([0, *dataset.shares]))
            index = jax.process_index()
            kept = kept[ends[index] : ends[index + 1]] - sum(dataset.shares[:index])
            shares = tuple(int(size) for size in np.diff(ends))
            return dataset._replace(inputs=dataset.inputs[kept], targets=dataset.targets[kept], shares=shares)
        lines = None if whole is None else lambda: whole()[kept]
        return dataset._replace(inputs=dataset.inputs[kept], targets=dataset.targets[kept], lines=lines)

    return rows(np.sort(order[num_held_out:])), rows(np.sort(order[:num_held_out]))


def to_batch(dataset: Dataset, transform: Callable[[Array], Array] = lambda inputs: inputs) -> Batch:
    """The data on the device, in the default floating dtype; labels stay integers.

    Args:
      dataset: the data set.
      transform: a function applied to the inputs in float64 before the cast, such as `Standardization.apply`.

    Returns:
      The batch.
    """
    dtype = jnp.result_type(float)
    targets = dataset.targets
    labels = np.issubdtype(targets.dtype, np.integer)
    return Batch(
        jnp.asarray(np.asarray(transform(dataset.inputs), dtype)),
        jnp.asarray(np.asarray(targets, jnp.result_type(int) if labels else dtype)),
    )


def short_name(source: str) -> str:
    """The name of a data set without folders and file name extension.

    Args:
      source: a bundled name or a path.

    Returns:
            For example "satgpa" for "data/satgpa.csv".
    """
    return Path(os.path.basename(source)).stem
