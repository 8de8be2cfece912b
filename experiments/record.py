"""The type of an experiment, its verdict, and how it is written to a folder."""

import csv
import dataclasses
import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from jaxgd.reporting import environment, to_json


class Check(NamedTuple):
    """A comparison of one number or fact with the expected value.

    Attributes:
      what: a description of the number or fact.
      expected: the expected value, as text.
      got: the value found, as text.
      ok: whether the check holds.
    """

    what: str
    expected: str
    got: str
    ok: bool


class Outcome(NamedTuple):
    """The outcome of an experiment.

    Attributes:
      checks: the verdict is true if all of them hold.
      numbers: numbers for the JSON file and the picture.
      rows: rows for the CSV file, one dict each.
      drawn: a value that only the picture needs, such as a whole `Result`.
    """

    checks: list[Check]
    numbers: dict[str, Any]
    rows: list[dict[str, Any]]
    drawn: Any = None

    @property
    def ok(self) -> bool:
        """Whether every check holds."""
        return all(check.ok for check in self.checks)


def close(what: str, got: Any, expected: Any, *, rtol: float = 0.0, atol: float = 0.0) -> Check:
    """A check of numbers.

    Args:
      what: a description of the numbers.
      got: a number or an array.
      expected: the expected value of each entry.
      rtol: relative tolerance.
      atol: absolute tolerance.

    Returns:
      The check; for arrays it shows the entry with the largest difference.
    """
    got_array, expected_array = np.broadcast_arrays(np.asarray(got, float), np.asarray(expected, float))
    gap = np.abs(got_array - expected_array)
    worst = np.unravel_index(int(np.argmax(np.where(np.isnan(gap), np.inf, gap))), gap.shape)
    ok = bool(np.all(gap <= atol + rtol * np.abs(expected_array)))
    tolerance = " and ".join(f"{value:.1g}{unit}" for value, unit in ((rtol, " relative"), (atol, "")) if value)
    return Check(what, f"{expected_array[worst]:.10g} +- {tolerance or 0}", f"{got_array[worst]:.10g}", ok)


def holds(what: str, got: Any, ok: Any, expected: str) -> Check:
    """A check of a fact.

    Args:
      what: a description of the fact.
      got: the value found.
      ok: whether it is as expected.
      expected: the expected value, as text.

    Returns:
      The check.
    """
    shown = f"{got:.6g}" if isinstance(got, float | np.floating) else str(got)
    return Check(what, expected, shown, bool(ok))


class Experiment(NamedTuple):
    """An experiment's module, loaded.

    Attributes:
      name: the name of the module.
      question: the first line of its docstring.
      expected: the next paragraph of its docstring, with the source.
      run: `(config) -> Outcome`.
      plot: `(outcome) -> Figure`.
      config: the configuration of the full run.
      smoke: a configuration that runs in seconds.
    """

    name: str
    question: str
    expected: str
    run: Callable[[Any], Outcome]
    plot: Callable[[Outcome], Figure]
    config: Any
    smoke: Any


def load(name: str) -> Experiment:
    """Load an experiment.

    Args:
      name: the name of the module under `experiments`.

    Returns:
      The experiment.
    """
    module = importlib.import_module(f"experiments.{name}")
    question, _, rest = (module.__doc__ or "").partition("\n\n")
    expected = rest.partition("\n\nRun:")[0].removeprefix("Expected: ").strip()
    return Experiment(name, question, expected, module.run, module.plot, module.Config(), module.SMOKE)


def write(experiment: Experiment, config: Any, outcome: Outcome, folder: Path) -> None:
    """Write numbers, rows and picture of one experiment.

    Args:
      experiment: the experiment.
      config: the configuration of the run.
      outcome: the outcome of the run.
      folder: the folder; it is made if it does not exist.

    Raises:
      OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    record = {
        "question": experiment.question,
        "expected": experiment.expected,
        "verdict": outcome.ok,
        "checks": [check._asdict() for check in outcome.checks],
        "numbers": outcome.numbers,
        "config": dataclasses.asdict(config),
        "environment": environment(),
    }
    (folder / f"{experiment.name}.json").write_text(json.dumps(json.loads(to_json(record)), indent=2) + "\n")
    if outcome.rows:
        with (folder / f"{experiment.name}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(outcome.rows[0]))
            writer.writeheader()
            writer.writerows(outcome.rows)
    experiment.plot(outcome).savefig(folder / f"{experiment.name}.png", dpi=120)
