"""Run folders, tables and plots.

A run folder holds `config.json`, `environment.json`, `summary.json`, `history.npz` and `loss.png`. It is
written under a temporary name and renamed, so that a folder that is there is whole.
"""

import json
import math
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from jaxgd.descent.loop import History, StopReason


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


def write_run(
    folder: Path, *, config: dict[str, Any], summary: dict[str, Any], history: History, record_every: int
) -> None:
    """Write a run folder.

    Args:
      folder: must not exist yet.
      config: what was asked for.
      summary: what came out.
      history: the trace; what follows the stop is left out.
      record_every: steps between its entries.

    Raises:
      OSError: the folder exists or cannot be written.
    """
    if folder.exists():
        raise FileExistsError(f"{folder} exists already.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        contents = (("config", config), ("environment", environment()), ("summary", summary))
        for name, content in contents:
            (temporary / f"{name}.json").write_text(to_json(content, indent=2) + "\n", encoding="utf-8")
        num_shown = summary["num_steps"] // record_every + 1  # what follows repeats the entry at the stop
        arrays: dict[str, Any] = {
            jax.tree_util.keystr(path).lstrip("."): np.asarray(leaf)[:num_shown]
            for path, leaf in jax.tree_util.tree_leaves_with_path(history)
        }
        np.savez(temporary / "history.npz", **arrays)
        if "loss" in arrays:
            plot_loss(temporary / "loss.png", arrays["loss"], record_every, summary)
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
    # The object interface needs no pyplot, which costs start-up and a global state.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    steps = np.arange(len(losses)) * record_every
    figure = Figure(figsize=(7, 4.2))
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.12, 0.13, 0.84, 0.73))
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
    axes.set_xlabel("step")
    axes.set_ylabel(f"loss ({summary['loss_name']})")
    axes.grid(True, which="major", color="#d8d8d8", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    reason = StopReason[summary["stop_reason"]]
    axes.set_title(
        f"{summary['problem']} on {summary['data']}, learning rate {summary['learning_rate']:.3g}\n"
        f"{reason.name} after {summary['num_steps']} steps: {reason.describe()}",
        fontsize=10,
    )
    figure.savefig(path, dpi=130)
