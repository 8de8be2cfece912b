"""Run folders, tables and plots.

The folder of a run holds `config.json`, `environment.json`, `summary.json`, `history.npz` and `loss.png`;
that of a sweep `summary.csv` and `losses.png` instead of the last two. It is written under a temporary name
and renamed, so that a folder that is there is whole.
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
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import rich.console

from jaxgd.descent.state import History, StopReason


def environment() -> dict[str, Any]:
    """What a run ran on.

    Returns:
      Versions, device, x64, the commit of the working folder if it is one, and the command line.
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


def console() -> rich.console.Console:
    """The screen that tables are printed on.

    Returns:
      A console on standard output that colours nothing by itself.
    """
    return rich.console.Console(highlight=False)


def write_run(
    folder: Path, *, config: dict[str, Any], summary: dict[str, Any], history: History, record_every: int
) -> None:
    """Write the folder of a run.

    Args:
      folder: must not exist yet.
      config: what was asked for.
      summary: what came out.
      history: the trace; what follows the stop is left out.
      record_every: steps between its entries.

    Raises:
      OSError: the folder exists or cannot be written.
    """
    with _whole(folder, config, summary) as temporary:
        num_shown = summary["num_steps"] // record_every + 1  # what follows repeats the entry at the stop
        arrays: dict[str, Any] = {
            jax.tree_util.keystr(path).lstrip("."): np.asarray(leaf)[:num_shown]
            for path, leaf in jax.tree_util.tree_leaves_with_path(history)
        }
        np.savez(temporary / "history.npz", **arrays)
        if "loss" in arrays:
            plot_loss(temporary / "loss.png", arrays["loss"], record_every, summary)


def write_sweep(folder: Path, *, config: dict[str, Any], summary: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """Write the folder of a sweep.

    Args:
      folder: must not exist yet.
      config: what was asked for.
      summary: what came out.
      rows: one dict a lane, for `summary.csv` and the plot.

    Raises:
      OSError: the folder exists or cannot be written.
    """
    with _whole(folder, config, summary) as temporary:
        with open(temporary / "summary.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        plot_sweep(temporary / "losses.png", rows, summary)


@contextlib.contextmanager
def _whole(folder: Path, config: dict[str, Any], summary: dict[str, Any]) -> Iterator[Path]:
    """A folder under a temporary name, renamed when all is written and removed when it is not."""
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
    """JSON that any parser reads: a number that is not finite becomes a string.

    Args:
      content: dicts, lists, numbers, arrays and strings.
      indent: as `json.dumps` takes it.

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


def plot_loss(path: Path, losses: np.ndarray[Any, Any], record_every: int, summary: dict[str, Any]) -> None:
    """Plot the loss against the step.

    Args:
      path: of the PNG.
      losses: `[R]`.
      record_every: steps between them.
      summary: of the run; the title says how it ended, and a minimum known in closed form is drawn.
    """
    figure, axes = _axes()
    steps = np.arange(len(losses)) * record_every
    axes.plot(steps, losses, color="#0b4f8a", linewidth=1.6, label="loss", marker="." if len(losses) < 30 else "")
    minimum = summary.get("loss_at_minimizer")
    if minimum is not None:
        axes.axhline(minimum, color="#c44e00", linestyle="--", linewidth=1.2, label="closed-form minimum")
        axes.legend(frameon=False)
    if np.all(losses > 0) and np.all(np.isfinite(losses)):
        axes.set_yscale("log")
    if len(losses) > 100:
        axes.set_xscale("symlog", linthresh=10)
        axes.set_xlim(left=0)
    else:
        axes.locator_params(axis="x", integer=True)
    axes.set_xlabel("step" if len(losses) <= 100 else "step (logarithmic beyond 10)")
    axes.set_ylabel(f"loss ({summary['loss_name']})")
    reason = StopReason[summary["stop_reason"]]
    axes.set_title(
        f"{summary['problem']} on {summary['data']}\nlearning rate {summary['learning_rate']:.3g}, "
        f"{reason.name} at step {summary['num_steps']}: {reason.describe()}",
        fontsize=9,
    )
    figure.savefig(path, dpi=130)


def plot_sweep(path: Path, rows: list[dict[str, Any]], summary: dict[str, Any]) -> None:
    """Plot the final loss of every lane against its learning rate, with the largest stable rate as a line.

    Args:
      path: of the PNG.
      rows: one dict a lane.
      summary: of the sweep.
    """
    figure, axes = _axes()
    rates, losses = (np.array([row[name] for row in rows]) for name in ("learning_rate", "final_loss"))
    lost = np.array([row["stop_reason"] in ("DIVERGED", "NONFINITE") for row in rows])
    shown = np.isfinite(losses)
    axes.plot(rates[~lost & shown], losses[~lost & shown], "o", color="#0b4f8a", markersize=4, label="ended soundly")
    axes.plot(rates[lost & shown], losses[lost & shown], "x", color="#c44e00", markersize=6, label="diverged")
    limit = summary["largest_stable_learning_rate"]
    axes.axvline(limit, color="black", linestyle="--", linewidth=1.2, label=f"2 / lambda_max = {limit:.3g}")
    axes.set_xscale("log")
    if np.all(losses[shown] > 0):
        axes.set_yscale("log")
    axes.set_xlabel("learning rate")
    axes.set_ylabel(f"final loss ({summary['loss_name']})")
    axes.legend(frameon=False, loc="upper left")
    ended = ", ".join(f"{count} {reason}" for reason, count in summary["ended"].items())
    axes.set_title(
        f"{summary['problem']} on {summary['data']}: final loss of {len(rows)} lanes after {summary['num_steps']} steps"
        f"\n{ended}",
        fontsize=10,
    )
    figure.savefig(path, dpi=130)


def _axes() -> tuple[Any, Any]:
    # The object interface needs no pyplot, which costs start-up and a global state.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2))
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.12, 0.13, 0.84, 0.73))
    axes.grid(True, which="major", color="#d8d8d8", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes
