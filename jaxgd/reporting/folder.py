"""Run folders, tables and plots.

The folder of a run contains `config.json`, `environment.json`, `summary.json`, `history.npz`, `loss.png`, and the
fitted model in `model.json` and `params.npz`. The folder of a sweep contains `config.json`, `environment.json`,
`summary.json`, `summary.csv` and `losses.png`. A folder is written under a temporary name and then renamed, so it is
never incomplete.
"""

import contextlib
import csv
import json
import math
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from jaxgd import plot
from jaxgd.reporting import saved
from jaxgd.reporting.saved import Fitted


def environment() -> dict[str, Any]:
    """The software and hardware of a run.

    Returns:
      Versions, device, x64, the git commit of the working folder if it is a git repository, and the command line.
    """
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "jax": jax.__version__,
        "optax": optax.__version__,
        "numpy": np.__version__,
        "devices": [str(device) for device in jax.devices()],
        "x64": bool(jax.config.read("jax_enable_x64")),
        "commit": _commit(),
        "command": sys.argv,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def _commit() -> str | None:
    try:
        answer = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()


def write_run(
    folder: Path, *, config: dict[str, Any], summary: dict[str, Any], fitted: Fitted, record_every: int
) -> None:
    """Write the folder of a run.

    Args:
      folder: the folder; it must not exist.
      config: the options of the run.
      summary: the summary of the run.
      fitted: the model with the result of the run. Entries of the history after the stop are not written.
      record_every: the number of steps between two entries of the history.

    Raises:
      OSError: the folder exists or cannot be written.
    """
    result = fitted.result
    with _whole(folder, config, summary) as temporary:
        saved.write(temporary, fitted)
        num_shown = summary["num_steps"] // record_every + 1  # what follows repeats the entry at the stop
        arrays: dict[str, Any] = {
            jax.tree_util.keystr(path).lstrip("."): np.asarray(leaf)[:num_shown]
            for path, leaf in jax.tree_util.tree_leaves_with_path(result.history)
        }
        np.savez(temporary / "history.npz", **arrays)
        if "loss" in arrays:
            title = f"{summary['problem']} on {summary['data']}, learning rate {summary['learning_rate']:.3g}"
            title = f"{textwrap.fill(title, 80)}\n{summary['stop_reason']} at step {summary['num_steps']}"
            figure = plot.loss(result, minimum=summary.get("loss_at_minimizer"), record_every=record_every, title=title)
            figure.savefig(temporary / "loss.png")


def write_sweep(
    folder: Path, *, config: dict[str, Any], summary: dict[str, Any], rows: list[dict[str, Any]], figure: Any
) -> None:
    """Write the folder of a sweep.

    Args:
      folder: the folder; it must not exist.
      config: the options of the sweep.
      summary: the summary of the sweep.
      rows: one dict for each lane, for `summary.csv`.
      figure: the figure for `losses.png`.

    Raises:
      OSError: the folder exists or cannot be written.
    """
    with _whole(folder, config, summary) as temporary:
        with open(temporary / "summary.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        figure.savefig(temporary / "losses.png")


@contextlib.contextmanager
def _whole(folder: Path, config: dict[str, Any], summary: dict[str, Any]) -> Iterator[Path]:
    """A context with a folder under a temporary name, which is renamed at the end, or removed after an error."""
    if folder.exists():
        raise FileExistsError(f"{folder} exists already.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        contents = (("config", config), ("environment", environment()), ("summary", summary))
        for name, content in contents:
            (temporary / f"{name}.json").write_text(to_json(content, indent=2) + "\n", encoding="utf-8")
        yield temporary
        temporary.chmod(0o755)
        os.rename(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def to_json(content: Any, indent: int | None = None) -> str:
    """Standard JSON: numbers that are not finite are written as strings.

    Args:
      content: dicts, lists, numbers, arrays and strings.
      indent: the indentation, see `json.dumps`.

    Returns:
      The text.
    """
    return json.dumps(_plain(content), indent=indent, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        return _plain(np.asarray(value).tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return str(value) if isinstance(value, Path) else value
