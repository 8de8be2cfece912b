"""Bundled data sets, CSV and NPZ files, read into a `Dataset`."""

import csv
from collections.abc import Sequence

import numpy as np

from jaxgd.data.dataset import DataError, Dataset

BUNDLED = ("breast_cancer", "diabetes", "digits", "iris", "linnerud", "wine")
"""scikit-learn's data sets, by name; in their raw units."""


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
