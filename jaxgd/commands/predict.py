"""jaxgd predict: apply a fitted model to new rows."""

import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from jaxgd import data, reporting
from jaxgd.commands import folders, tables

ROWS_SHOWN = 10


@dataclasses.dataclass(frozen=True)
class PredictOptions:
    """Predict new rows with the model in a run folder.

    Exit code 0 if every row was predicted, 2 for bad input.
    """

    run: tyro.conf.Positional[Path]
    """The folder that `jaxgd fit` wrote."""
    data: str
    """New rows, in a form that `jaxgd fit --data` accepts. Columns are found by name; additional columns are
    ignored."""
    out: Path | None = None
    """CSV file to write the predictions to."""
    json: bool = False
    """Print JSON."""


def run(options: PredictOptions) -> int:
    """Load the model, read the rows, predict, print and write.

    Args:
      options: the options of the command line.

    Returns:
      The exit code, 0.

    Raises:
      UserError: the predictions cannot be written.
      DataError: the folder contains no model, or the data contain a mistake.
    """
    fitted = reporting.load(options.run)
    inputs = data.new_inputs(options.data, fitted.input_names, fitted.one_hot)
    columns = named_predictions(fitted, fitted.predict(inputs))
    if options.out is not None:
        with folders.writing("out", options.out), open(options.out, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            writer.writerows(zip(*columns.values(), strict=True))
    if options.json:
        print(json.dumps({"predictions": columns, "out": options.out and str(options.out)}))
        return 0
    _print(columns, options.out)
    return 0


def named_predictions(fitted: reporting.Fitted, predictions: np.ndarray[Any, Any]) -> dict[str, list[Any]]:
    """Predictions as named columns.

    Args:
      fitted: the model.
      predictions: `[N]` or `[N, K]`.

    Returns:
      For a regression, one column for each target. For a classifier, the class and the probability of each class.
    """
    values = np.asarray(predictions, np.float64)
    if not fitted.class_names:
        columns = values.reshape(len(values), -1)
        names = fitted.target_names or tuple(f"prediction {i}" for i in range(columns.shape[1]))
        return {name: columns[:, i].tolist() for i, name in enumerate(names)}
    probabilities = np.stack([1 - values, values], axis=1) if values.ndim == 1 else values
    classes = fitted.class_names
    chosen = [classes[k] for k in probabilities.argmax(axis=1)]
    target = fitted.target_names[0] if fitted.target_names else "class"
    return {target: chosen} | {f"p({name})": probabilities[:, k].tolist() for k, name in enumerate(classes)}


def _print(columns: dict[str, list[Any]], out: Path | None) -> None:
    console = tables.console()
    count = len(next(iter(columns.values())))
    rows = [
        [str(row), *(cell if isinstance(cell, str) else f"{cell:.6g}" for cell in cells)]
        for row, cells in enumerate(zip(*(values[:ROWS_SHOWN] for values in columns.values()), strict=True))
    ]
    words = {name for name, values in columns.items() if isinstance(values[0], str)}
    kinds = [tables.WORDS if name in words else tables.SPARE if words else tables.NUMBER for name in columns]
    headings = [tables.Column("row"), *map(tables.Column, columns, kinds)]
    tables.print_table(headings, rows)
    if out is not None:
        console.print(f"{count} rows written to {out}", style="dim", soft_wrap=True)
    elif count > ROWS_SHOWN:
        console.print(f"the first {ROWS_SHOWN} of {count} rows; --out FILE.csv writes all", style="dim")
