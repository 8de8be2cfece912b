"""Read bundled data sets, files and data frames into a `Dataset`. A table lists one reader for each kind of file."""

import functools
import os
import zipfile
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxgd.data import engines, text
from jaxgd.data.choose import Choice, dataset_of, inputs_of
from jaxgd.data.dataset import Array, DataError, Dataset
from jaxgd.data.parts import check_fits
from jaxgd.data.table import Table, did_you_mean, of_values

BUNDLED = ("breast_cancer", "diabetes", "digits", "iris", "linnerud", "wine")
"""The data sets of scikit-learn, by name, in their raw units."""

NPZ_NAMES = (("inputs", "targets"), ("X", "y"), ("x", "y"), ("data", "target"), ("arr_0", "arr_1"))
"""The names of the two arrays in an NPZ file, inputs and targets; the first pair that exists is used."""


def load(
    source: Any,
    *,
    target: str | None = None,
    features: Sequence[str] = (),
    one_hot: Sequence[str] = (),
    drop_missing: bool = False,
) -> Dataset:
    """Load a data set.

    Args:
      source: one of these: the name of a bundled data set; the path of a table with a header line (`.csv`, `.tsv`,
        `.csv.gz`, `.tsv.gz` or `.parquet`); "-" for a text table on standard input; the path of an `.npz` file with two
        arrays, named as in `NPZ_NAMES`; a pandas or polars data frame.
      target: the column to predict; required for tables.
      features: the input columns; empty means all columns except the target.
      one_hot: input columns that contain categories, which are encoded by columns of 0 and 1.
      drop_missing: True leaves out rows with an empty cell or NaN; False raises an error for them.

    Returns:
      The data in their own units. `notes` lists all changes made to the data.

    Raises:
      DataError: the data set or the file does not exist, it contains a mistake, or its rows do not fit into memory. The
        text names the place and a remedy.
    """
    choice = Choice(target, tuple(features), tuple(one_hot), drop_missing)
    check_fits(source, choice)
    read = table(source)
    if read is not None:
        return checked(dataset_of(read, choice))
    source = str(source)
    if source in BUNDLED:
        return checked(selected(bundled(source, choice), choice))
    if source.endswith(".npz"):
        return checked(npz_dataset(source, choice))
    if os.path.isfile(source):
        raise DataError(f"{source}: files are read as .csv, .tsv, .parquet or .npz; save it as one of these.")
    raise DataError(
        f"--data must be one of {', '.join(BUNDLED)}, or a .csv, .tsv, .parquet or .npz file, got {source!r}."
        f"{did_you_mean(source, BUNDLED)}"
    )


def bundled(name: str, choice: Choice) -> Dataset:
    """One of scikit-learn's data sets."""
    try:
        from sklearn import datasets
    except ModuleNotFoundError:
        raise DataError(
            f"--data {name} comes with scikit-learn, which is not installed: pip install 'jaxgd[cli]'."
        ) from None
    _check_no_columns(name, choice, f"the target of {name} is given")
    options = {"scaled": False} if name == "diabetes" else {}
    bunch = getattr(datasets, f"load_{name}")(**options)
    several = name == "linnerud"
    class_names = tuple(str(word) for word in bunch.target_names) if "target_names" in bunch and not several else ()
    return Dataset(
        name=name,
        inputs=np.asarray(bunch.data, np.float64),
        targets=np.asarray(bunch.target),
        input_names=tuple(str(feature) for feature in bunch.feature_names),
        target_names=tuple(str(column) for column in bunch.target_names) if several else ("target",),
        shared_unit=name == "digits",
        class_names=class_names,
    )


def _check_no_columns(name: str, choice: Choice, why: str) -> None:
    for flag, given in (("target", choice.target), ("one-hot", choice.one_hot)):
        if given:
            raise DataError(f"--{flag} belongs to tables with named columns; {why}.")


def text_table(path: str) -> Table:
    """Read a text table: a large one with pyarrow, a small one or one with a mistake with the slow reader."""
    opened = text.opener(path)
    with text.reading(path):
        with opened() as file:
            large = len(file.read(engines.FAST_FROM)) == engines.FAST_FROM
        if large and engines.installed("pyarrow"):

            @functools.cache
            def lines() -> Array:
                [careful] = text.careful(path, opened)
                assert careful.lines is not None
                return careful.lines()

            table = engines.read_text(path, text.dialect_of(path, opened), opened, lines)
            if table is not None:
                return table
        [careful] = text.careful(path, opened)
        return careful


def npz_arrays(path: str) -> tuple[tuple[str, str], Array, Array]:
    """The inputs and the targets of an NPZ file, and their names in the file."""
    with text.reading(path), open(path, "rb") as file:
        try:
            with np.load(file, allow_pickle=False) as archive:
                pair = next((pair for pair in NPZ_NAMES if set(pair) <= set(archive.files)), None)
                if pair is None:
                    raise DataError(
                        f"{path}: expected arrays `inputs` and `targets`, got {', '.join(archive.files) or 'none'}."
                    )
                return pair, archive[pair[0]], archive[pair[1]]
        except DataError:
            raise
        except (ValueError, OSError, EOFError, KeyError, NotImplementedError, RuntimeError, SyntaxError) as error:
            raise DataError(f"{path}: not an NPZ file of numbers ({text.first_line(error)}).") from None
        except (zipfile.BadZipFile, zlib.error, AttributeError, MemoryError, TypeError) as error:
            raise DataError(f"{path}: a damaged NPZ file ({text.first_line(error)}).") from None


def npz_dataset(path: str, choice: Choice) -> Dataset:
    """An NPZ file of two arrays as a data set."""
    _check_no_columns(path, choice, f"{path} holds its targets by position")
    pair, inputs, targets = npz_arrays(path)
    if inputs.ndim == 1:
        inputs = inputs[:, None]
    if targets.ndim == 2 and targets.shape[1] == 1:
        targets = targets[:, 0]
    if inputs.ndim != 2 or targets.ndim not in (1, 2) or len(inputs) != len(targets):
        raise DataError(
            f"{path}: expected `{pair[0]}` [N, D] and `{pair[1]}` [N] or [N, K], "
            f"got {inputs.shape} and {targets.shape}."
        )
    names = tuple(f"x{i}" for i in range(inputs.shape[1]))
    if targets.ndim == 1 and targets.dtype.kind in "USb":
        words = Table(path, {"y": of_values(targets.astype(str))})
        columns = {name: inputs[:, i] for i, name in enumerate(names)}
        _check_real(path, pair[0], inputs)
        return dataset_of(
            words._replace(columns=columns | words.columns),
            choice._replace(target="y", features=choice.features or names),
        )
    _check_real(path, pair[0], inputs)
    _check_real(path, pair[1], targets)
    target_names = tuple(f"y{i}" for i in range(targets.shape[1])) if targets.ndim == 2 else ("y",)
    dataset = Dataset(path, inputs.astype(np.float64), targets, names, target_names)
    return dropped(selected(dataset, choice), drop=choice.drop_missing)


def _check_real(path: str, name: str, array: Array) -> None:
    if array.dtype.kind not in "biuf":
        raise DataError(f"{path}: `{name}` must be real numbers, got {array.dtype}.")


TABLES: dict[tuple[str, ...], Callable[[str], Table]] = {
    (".csv", ".tsv", ".csv.gz", ".tsv.gz", ".txt", "-"): text_table,
    (".parquet", ".pq"): engines.read_parquet,
}
"""The reader of each kind of table, by file name extension."""


def table(source: Any) -> Table | None:
    """Read a file or a data frame as a table. Returns None if it is neither a frame nor a file of a kind in `TABLES`.

    Raises:
      DataError: the file does not exist or contains a mistake; the text names the place.
    """
    if hasattr(source, "columns") and hasattr(source, "__getitem__"):
        columns = {str(name): of_values(source[name]) for name in source.columns}
        return Table(f"the {type(source).__name__}", columns)
    path = str(source)
    read = next((read for endings, read in TABLES.items() if path.endswith(endings)), None)
    return None if read is None else read(path)


def new_inputs(source: Any, names: Sequence[str], one_hot: Sequence[tuple[str, tuple[str, ...]]] = ()) -> Array:
    """The inputs of a fitted model from new data.

    Args:
      source: see `load`; columns that the model does not need are ignored.
      names: the names of the inputs that the model needs, in their order.
      one_hot: for each column of categories its name and its values, see `Dataset.one_hot`.

    Returns:
      `[N, D]` float64.

    Raises:
      DataError: a column is missing, a cell is not a finite number, or a category did not occur in the fitted data.
    """
    read = table(source)
    if read is None:
        dataset = bundled(str(source), Choice()) if source in BUNDLED else None
        inputs = npz_arrays(str(source))[1] if dataset is None else dataset.inputs
        known = tuple(f"x{i}" for i in range(np.shape(inputs)[-1])) if dataset is None else dataset.input_names
        read = Table(str(source), {name: of_values(inputs[:, i]) for i, name in enumerate(known)})
    return inputs_of(read, names, one_hot)


def selected(dataset: Dataset, choice: Choice) -> Dataset:
    """The data with only the chosen inputs."""
    if not choice.features or choice.features == dataset.input_names:
        return dataset
    for name in choice.features:
        if name not in dataset.input_names:
            raise DataError(
                f"{dataset.name}: no feature {name!r}; the features are {', '.join(dataset.input_names)}."
                f"{did_you_mean(name, dataset.input_names)}"
            )
    kept = [dataset.input_names.index(name) for name in choice.features]
    return dataset._replace(inputs=dataset.inputs[:, kept], input_names=choice.features)


def dropped(dataset: Dataset, *, drop: bool) -> Dataset:
    """The data without rows that contain NaN, and a note with the number of these rows."""
    targets = dataset.targets.astype(np.float64).reshape(len(dataset.targets), -1)
    holes = np.any(np.isnan(np.concatenate([dataset.inputs, targets], axis=1)), axis=1)
    if not drop or not holes.any():
        return dataset
    note = f"{int(holes.sum())} of {len(holes)} rows were left out: a cell was empty or NaN."
    return dataset._replace(
        inputs=dataset.inputs[~holes], targets=dataset.targets[~holes], notes=(*dataset.notes, note)
    )


def checked(dataset: Dataset) -> Dataset:
    """The data, unchanged, after a check that all numbers are finite and that there are inputs and rows.

    Raises:
      DataError: a value is NaN or infinite, no input column is left, or there are fewer than two rows.
    """
    if dataset.inputs.shape[1] == 0:
        raise DataError(f"{dataset.name}: no column is left to predict from.")
    targets = dataset.targets.reshape(len(dataset.targets), -1)
    for array, names in ((dataset.inputs, dataset.input_names), (targets, dataset.target_names)):
        finite = np.isfinite(array)
        if not finite.all():
            row, column = (int(i) for i in np.argwhere(~finite)[0])
            holes = int(np.isnan(array).any(axis=1).sum())
            remedy = (
                f"; --drop-missing leaves out such rows ({holes} of {len(array)})"
                if np.isnan(array[row, column])
                else ""
            )
            raise DataError(
                f"{dataset.name}, {dataset.place(row)}, column {names[column]!r}: "
                f"expected a finite number, got {array[row, column]}{remedy}."
            )
    if len(dataset.inputs) < 2:
        raise DataError(f"{dataset.name}: at least 2 rows are needed, got {len(dataset.inputs)}.")
    return dataset
