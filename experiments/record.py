"""What an experiment is, how its verdict is computed, and how it is written."""

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
    """One number or fact held against what was expected.

    Attributes:
      what: in words.
      expected: as shown.
      got: as shown.
      ok: whether it holds.
    """

    what: str
    expected: str
    got: str
    ok: bool


class Outcome(NamedTuple):
    """What an experiment found.

    Attributes:
      checks: its verdict is that all hold.
      numbers: for JSON, and for the picture.
      rows: for CSV, one dict a row.
      drawn: what only the picture needs, such as a whole `Result`.
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
      what: in words.
      got: a number or an array.
      expected: what it must be near to, entry by entry.
      rtol: relative tolerance.
      atol: absolute tolerance.

    Returns:
      The check; of arrays it shows the entry that is furthest off.
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
      what: in words.
      got: what was found.
      ok: whether it is as expected.
      expected: in words.

    Returns:
      The check.
    """
    shown = f"{got:.6g}" if isinstance(got, float | np.floating) else str(got)
    return Check(what, expected, shown, bool(ok))


class Experiment(NamedTuple):
    """An experiment's module, loaded.

    Attributes:
      name: of the module.
      question: the first line of its docstring.
      expected: the paragraph after it, with the source.
      run: `(config) -> Outcome`.
      plot: `(outcome) -> Figure`.
      config: the full size.
      smoke: a size of seconds.
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
      name: of the module under `experiments`.

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
      experiment: which.
      config: that it ran with.
      outcome: what it found.
      folder: made if it is not there.

    Raises:
      OSError: it cannot be written.
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
