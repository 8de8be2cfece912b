"""Host side: load, validate and standardise data into a Batch.

Everything here is NumPy in float64; what reaches the device is cast once, at the end. A mistake in the
data is a `DataError` of one line that names the file, the line and the column.
"""

import csv
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from jaxgd.types import Batch, LinearMapParams, LinearParams, LineParams

Array = npt.NDArray[Any]

BUNDLED = ("breast_cancer", "diabetes", "digits", "iris", "linnerud", "wine")
"""scikit-learn's data sets, by name; in their raw units."""


class DataError(ValueError):
    """A mistake in the data or in how it was named: one line for its user."""


class Dataset(NamedTuple):
    """A table of numbers.

    Attributes:
      name: the bundled name or the file's path.
      inputs: `[N, D]` float64, in the units of the source.
      targets: `[N]` or `[N, K]` float64, or `[N]` int64 labels.
      input_names: D column names.
      target_names: K column names, one for targets `[N]`.
      lines: `[N]` line of the file each row stood on, or None.
      shared_unit: whether all inputs are of one kind, as pixels are, and so share one scale.
    """

    name: str
    inputs: Array
    targets: Array
    input_names: tuple[str, ...]
    target_names: tuple[str, ...]
    lines: Array | None = None
    shared_unit: bool = False

    def place(self, row: int) -> str:
        """Where a row stands, in words.

        Args:
          row: 0 .. N - 1.

        Returns:
          "line 7" of a file, "row 5" elsewhere.
        """
        return f"row {row}" if self.lines is None else f"line {self.lines[row]}"


def load(source: str, *, target: str | None = None, features: Sequence[str] = ()) -> Dataset:
    """Load a data set.

    Args:
      source: a bundled name, or the path of a `.csv` with a header or an `.npz` with arrays `inputs` `[N, D]`
        and `targets` `[N]` or `[N, K]`.
      target: the column of a CSV to predict.
      features: the columns to predict from; empty for all others.

    Returns:
      The data, in their own units.

    Raises:
      DataError: no such data set or file, or a mistake inside; the text says where.
    """
    if source in BUNDLED:
        dataset = _bundled(source, target)
    elif source.endswith((".csv", ".npz")):
        read = _csv if source.endswith(".csv") else _npz
        try:
            dataset = read(source, target, features)
        except FileNotFoundError:
            raise DataError(f"{source}: no such file.") from None
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{source}: cannot be read ({error}).") from None
    else:
        raise DataError(f"--data must be one of {', '.join(BUNDLED)}, or a .csv or .npz file, got {source!r}.")
    return _checked(_selected(dataset, features))


def _bundled(name: str, target: str | None) -> Dataset:
    try:
        from sklearn import datasets
    except ModuleNotFoundError:
        raise DataError(
            f"--data {name} comes with scikit-learn, which is not installed: pip install 'jaxgd[cli]'."
        ) from None
    if target is not None:
        raise DataError(f"--target belongs to CSV files; the target of {name} is given.")
    options = {"scaled": False} if name == "diabetes" else {}
    bunch = getattr(datasets, f"load_{name}")(**options)
    target_names = bunch.target_names if name == "linnerud" else ["target"]
    return Dataset(
        name=name,
        inputs=np.asarray(bunch.data, np.float64),
        targets=np.asarray(bunch.target),
        input_names=tuple(str(feature) for feature in bunch.feature_names),
        target_names=tuple(str(column) for column in target_names),
        shared_unit=name == "digits",
    )


def _csv(path: str, target: str | None, features: Sequence[str]) -> Dataset:
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file)
        header = [name.strip() for name in next(reader, [])]
        if not header:
            raise DataError(f"{path}: the file is empty; expected a header line of column names.")
        if any(_is_number(name) for name in header):
            raise DataError(f"{path}, line 1: expected a header of column names, got {','.join(header)}.")
        if len(set(header)) < len(header):
            raise DataError(f"{path}, line 1: the column names {', '.join(header)} must differ.")
        if target is None:
            raise DataError(f"{path}: --target is needed, one of the columns {', '.join(header)}.")
        wanted = [*(features or [name for name in header if name != target]), target]
        for name in wanted:
            if name not in header:
                raise DataError(f"{path}: no column {name!r}; the columns are {', '.join(header)}.")
        if target in features:
            raise DataError(f"{path}: the target {target!r} cannot be among the features.")
        columns = [(header.index(name), name) for name in wanted]
        rows, lines = [], []
        for cells in reader:
            if not cells:
                continue
            if len(cells) != len(header):
                raise DataError(
                    f"{path}, line {reader.line_num}: expected {len(header)} cells as in the header, got {len(cells)}."
                )
            rows.append([_number(cells[i], path, reader.line_num, name) for i, name in columns])
            lines.append(reader.line_num)
    if not rows:
        raise DataError(f"{path}: there is a header but no row of data.")
    table = np.array(rows)
    return Dataset(path, table[:, :-1], table[:, -1], tuple(wanted[:-1]), (target,), np.array(lines))


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _number(cell: str, path: str, line: int, column: str) -> float:
    if not _is_number(cell):
        raise DataError(f"{path}, line {line}, column {column!r}: expected a number, got {cell!r}.")
    return float(cell)


def _npz(path: str, target: str | None, features: Sequence[str]) -> Dataset:
    del features
    if target is not None:
        raise DataError(f"{path}: --target belongs to CSV files; an NPZ file holds its `targets`.")
    try:
        with np.load(path, allow_pickle=False) as archive:
            missing = {"inputs", "targets"} - set(archive.files)
            if missing:
                raise DataError(
                    f"{path}: expected arrays `inputs` and `targets`, got {', '.join(archive.files) or 'none'}."
                )
            inputs, targets = archive["inputs"], archive["targets"]
    except (ValueError, EOFError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: not an NPZ file of numbers ({error}).") from None
    if inputs.ndim == 1:
        inputs = inputs[:, None]
    if inputs.ndim != 2 or targets.ndim not in (1, 2) or len(inputs) != len(targets):
        raise DataError(
            f"{path}: expected `inputs` [N, D] and `targets` [N] or [N, K], got {inputs.shape} and {targets.shape}."
        )
    for name, array in (("inputs", inputs), ("targets", targets)):
        if not np.issubdtype(array.dtype, np.number) or np.issubdtype(array.dtype, np.complexfloating):
            raise DataError(f"{path}: `{name}` must be real numbers, got {array.dtype}.")
    return Dataset(
        name=path,
        inputs=inputs.astype(np.float64),
        targets=targets,
        input_names=tuple(f"x{i}" for i in range(inputs.shape[1])),
        target_names=tuple(f"y{i}" for i in range(targets.shape[1])) if targets.ndim == 2 else ("y",),
    )


def _selected(dataset: Dataset, features: Sequence[str]) -> Dataset:
    if not features or tuple(features) == dataset.input_names:
        return dataset
    for name in features:
        if name not in dataset.input_names:
            raise DataError(f"{dataset.name}: no feature {name!r}; the features are {', '.join(dataset.input_names)}.")
    kept = [dataset.input_names.index(name) for name in features]
    return dataset._replace(inputs=dataset.inputs[:, kept], input_names=tuple(features))


def _checked(dataset: Dataset) -> Dataset:
    if dataset.inputs.shape[1] == 0:
        raise DataError(f"{dataset.name}: no column is left to predict from.")
    targets = dataset.targets.reshape(len(dataset.targets), -1)
    for array, names in ((dataset.inputs, dataset.input_names), (targets, dataset.target_names)):
        finite = np.isfinite(array)
        if not finite.all():
            row, column = (int(i) for i in np.argwhere(~finite)[0])
            raise DataError(
                f"{dataset.name}, {dataset.place(row)}, column {names[column]!r}: "
                f"expected a finite number, got {array[row, column]}."
            )
    if len(dataset.inputs) < 2:
        raise DataError(f"{dataset.name}: at least 2 rows are needed, got {len(dataset.inputs)}.")
    return dataset


def as_labels(dataset: Dataset, num_classes: int | None = None) -> Dataset:
    """The targets as integer labels.

    Args:
      dataset: its targets `[N]` must be whole numbers from 0.
      num_classes: K; None allows any.

    Returns:
      The data with targets `[N]` int64.

    Raises:
      DataError: a target is no label; the text says where.
    """
    if dataset.targets.ndim != 1:
        raise DataError(f"{dataset.name}: labels must be one column, got {', '.join(dataset.target_names)}.")
    labels = np.asarray(dataset.targets, np.float64)
    wrong = (labels < 0) | (labels != np.floor(labels)) | (labels >= (num_classes or np.inf))
    if wrong.any():
        row = int(np.argmax(wrong))
        span = f"[0, {num_classes})" if num_classes else "[0, K)"
        raise DataError(
            f"{dataset.name}, {dataset.place(row)}, column {dataset.target_names[0]!r}: "
            f"labels must be integers in {span}, got {labels[row]:g}."
        )
    return dataset._replace(targets=labels.astype(np.int64))


class Standardization(NamedTuple):
    """Means and scales of the inputs, `z = (x - mean) / scale`.

    Attributes:
      mean: `[D]`, in the units of the inputs.
      scale: `[D]`, their standard deviations (over N), or one for all.
    """

    mean: Array
    scale: Array

    def apply(self, inputs: Array) -> Array:
        """Standardised inputs.

        Args:
          inputs: `[N, D]`, in the units of the source.

        Returns:
          `[N, D]`, without units.
        """
        return (inputs - self.mean) / self.scale

    def in_data_units(self, params: Any) -> Any:
        """Parameters for the raw inputs from parameters for the standardised ones.

        `w . (x - mean) / scale + b = (w / scale) . x + (b - sum w mean / scale)`, in float64; of a network
        the first layer changes.

        Args:
          params: a `LinearParams`, `LineParams`, `LinearMapParams` or a network's parameters.

        Returns:
          The same type, float64.

        Raises:
          TypeError: parameters of another model.
        """
        if hasattr(params, "layers"):
            first, *others = params.layers
            return params._replace(layers=(self.in_data_units(first), *others))
        if isinstance(params, LineParams):
            raw = self._affine(np.asarray(params.slope)[None, None], np.asarray(params.intercept)[None])
            return LineParams(intercept=raw.bias[0], slope=raw.weights[0, 0])
        if isinstance(params, LinearMapParams):
            raw = self._affine(np.asarray(params.matrix).T, np.asarray(params.bias))
            return LinearMapParams(matrix=raw.weights.T, bias=raw.bias)
        if isinstance(params, LinearParams):
            return self._affine(np.asarray(params.weights), np.asarray(params.bias))
        raise TypeError(f"`params` must be those of an affine model or a network, got {type(params).__name__}.")

    def _affine(self, weights: Array, bias: Array) -> LinearParams:
        raw = (weights.astype(np.float64).T / self.scale).T
        return LinearParams(weights=raw, bias=bias.astype(np.float64) - self.mean @ raw)


def standardization(dataset: Dataset) -> Standardization:
    """Means and standard deviations of the inputs; one deviation for all where they share a unit.

    Args:
      dataset: inputs `[N, D]`.

    Returns:
      The pair.

    Raises:
      DataError: a column is constant.
    """
    mean, scale = dataset.inputs.mean(axis=0), dataset.inputs.std(axis=0)
    if dataset.shared_unit:
        scale = np.full_like(mean, np.sqrt(np.mean(scale**2)))
    constant = (np.ptp(dataset.inputs, axis=0) == 0) & (not dataset.shared_unit)
    if constant.any():
        column = int(np.argmax(constant))
        raise DataError(
            f"{dataset.name}, column {dataset.input_names[column]!r}: constant "
            f"({dataset.inputs[0, column]:g} in every row) and cannot be standardised; "
            "leave it out with --features, or use --no-standardize."
        )
    return Standardization(mean, scale)


def split(dataset: Dataset, fraction: float, seed: int) -> tuple[Dataset, Dataset]:
    """Set rows aside, drawn at random.

    Args:
      dataset: N rows.
      fraction: share of rows to hold out, in [0, 1).
      seed: of the draw.

    Returns:
      The rows to fit and the rows held out.

    Raises:
      DataError: fewer than 2 rows are left to fit.
    """
    order = np.random.default_rng(seed).permutation(len(dataset.inputs))
    num_held_out = round(fraction * len(order))
    if len(order) - num_held_out < 2:
        raise DataError(f"{dataset.name}: --held-out {fraction:g} leaves fewer than 2 of {len(order)} rows.")

    def rows(kept: Array) -> Dataset:
        lines = None if dataset.lines is None else dataset.lines[kept]
        return dataset._replace(inputs=dataset.inputs[kept], targets=dataset.targets[kept], lines=lines)

    return rows(np.sort(order[num_held_out:])), rows(np.sort(order[:num_held_out]))


def to_batch(dataset: Dataset, transform: Callable[[Array], Array] = lambda inputs: inputs) -> Batch:
    """The data on the device, in the default floating dtype; labels stay integers.

    Args:
      dataset: what to cast.
      transform: applied to the inputs in float64 before the cast, such as `Standardization.apply`.

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
    """The name of a data set without folders and ending.

    Args:
      source: a bundled name or a path.

    Returns:
      Such as "satgpa" for "data/satgpa.csv".
    """
    return Path(os.path.basename(source)).stem
