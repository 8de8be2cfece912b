"""Pictures of runs, sweeps and Taylor remainders, as matplotlib figures.

Each function returns a `matplotlib.figure.Figure`. A notebook shows the figure, `figure.savefig("loss.png")` writes it,
and `figure.axes` gives its axes, to which more can be added. The functions do not use pyplot, so they open no window
and change no global state. matplotlib is imported at the first call (`pip install 'jaxgd[cli]'`).
"""

import functools
import io
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from jaxgd.descent import Result, StopReason
from jaxgd.theory.taylor import Remainders
from jaxgd.types import Problem

BLUE, ORANGE, GREEN, VIOLET, BLACK, GREY = "#0b4f8a", "#c44e00", "#2e7d32", "#7b3f9d", "#1a1a1a", "#8a8a8a"
COLOURS = (BLUE, ORANGE, GREEN, VIOLET, BLACK, GREY)
"""Colours that differ also in a grey-scale print."""

MANY_STEPS = 100
"""With more steps than this, the axis of steps is logarithmic beyond step 10, so that the start is visible."""

TITLE_WIDTH = 70
"""The number of letters in a line of a title. matplotlib would cut off longer lines at the edge of the axes."""


def loss(
    result: Result, *, minimum: float | None = None, record_every: int = 1, title: str | None = None, axes: Any = None
) -> Any:
    """Plot the loss minus its minimum against the step, on a logarithmic axis.

    A plot of the loss itself would look constant after a few steps. The difference to the minimum keeps falling as long
    as the run makes progress. If convergence is linear, it is a straight line. It ends at rounding error, which is
    marked. If the run has held-out rows, a second panel shows their loss and its lowest point.

    Args:
      result: the result of `descend`, `fit` or `sweep` with "loss" in `record`. A sweep gives one curve for each lane.
      minimum: the smallest possible loss, such as the loss at `problem.minimizer(batch)`. By default the lowest
        recorded loss of all lanes is subtracted, and the label of the axis says so.
      record_every: the value of this argument in the run.
      title: the title; by default the reason why the run ended.
      axes: matplotlib axes for the plot, without a panel for the held-out loss; by default those of a new figure.

    Returns:
      The figure.

    Raises:
      ValueError: the losses were not recorded.
    """
    if result.history.loss is None:
        raise ValueError('`result` must hold recorded losses: run with "loss" in `record`.')
    losses = np.asarray(result.history.loss, np.float64)
    lanes = losses.reshape(-1, losses.shape[-1])
    ends = np.asarray(result.num_steps).reshape(-1) // record_every + 1  # later entries repeat the one at the stop
    finite = lanes[np.isfinite(lanes)]
    floor = minimum if minimum is not None else (float(finite.min()) if finite.size else 0.0)
    unit = float(jnp.finfo(result.history.loss.dtype).eps) / 2
    if axes is None:
        axes = _with_held_out(result.held_out) if result.held_out is not None else subplots()[1]
    rounding = unit * max(abs(floor), np.finfo(np.float64).tiny)
    for lane, end in zip(lanes, ends, strict=True):
        above = lane[:end] - floor
        steps = np.arange(len(above)) * record_every
        if minimum is None:  # the lowest loss of the run itself has no height above it
            above, steps = above[above != 0], steps[above != 0]
        else:  # at the minimum the difference is rounding, of either sign; it is drawn at the size of rounding
            above = np.maximum(above, rounding)
        marker = "." if len(above) < 30 else ""
        axes.plot(steps, above, linewidth=1.4, marker=marker, color=BLUE if len(lanes) == 1 else None)
    if minimum is not None and len(lanes) == 1 and np.any(above == rounding):
        axes.axhline(rounding, color=GREY, linestyle=":", linewidth=1, label="rounding of the loss")
        axes.legend(frameon=False, loc="upper right", fontsize=9)
    axes.set_yscale("log")
    _step_axis(axes, int((ends.max() - 1) * record_every))
    axes.set_ylabel("loss - lowest loss of the run" if minimum is None else f"loss - minimum ({minimum:.6g})")
    axes.set_title(_how_it_ended(result) if title is None else title, fontsize=9)
    return axes.figure


def _with_held_out(held_out: Any) -> Any:
    """Axes of a new figure that also has a panel with the held-out loss minus its lowest value."""
    _, (axes, beside) = subplots(2, width=11.0)
    steps, losses = np.asarray(held_out.step), np.asarray(held_out.loss, np.float64)
    if np.isfinite(losses).any():
        lowest = int(np.nanargmin(losses))
        above = losses - losses[lowest]
        # The lowest loss itself cannot be drawn on a logarithmic axis; the curve has a gap there.
        beside.plot(steps, np.where(above > 0, above, np.nan), linewidth=1.4, marker=".", color=VIOLET)
        label = f"lowest, {losses[lowest]:.6g} at step {steps[lowest]}"
        beside.axvline(steps[lowest], color=ORANGE, linestyle="--", linewidth=1.2, label=label)
        beside.legend(loc="upper right", fontsize=9, framealpha=1.0, edgecolor="none")  # over the line
        if np.any(above > 0):
            beside.set_yscale("log")
    _step_axis(beside, int(steps.max()))
    beside.set_ylabel("loss - its lowest value")
    beside.set_title("rows held out", fontsize=9)
    return axes


def path(
    problem: Problem,
    batch: Any,
    result: Result,
    *,
    parameters: tuple[int, int] = (0, 1),
    title: str | None = None,
    axes: Any = None,
) -> Any:
    """Plot the path of two parameters over contours of the loss.

    Args:
      problem: the problem that was minimised.
      batch: the data.
      result: the result of `descend` or `fit` with "params" in `record`.
      parameters: the indices of the two parameters, counted through all leaves in the order of the tree. The contours
        show the loss as a function of these two, with all other parameters at their values at the end of the run.
      title: the title; by default the name of the problem.
      axes: matplotlib axes for the plot; by default those of a new figure.

    Returns:
      The figure.

    Raises:
      ValueError: the parameters were not recorded, the result has several lanes, or an index in `parameters` is too
        large.
    """
    if result.history.params is None:
        raise ValueError('`result` must hold recorded parameters: run with "params" in `record`.')
    if np.ndim(result.num_steps):
        raise ValueError(
            "`result` must be of one run, got several lanes; `jax.tree.map(lambda leaf: leaf[i], result)` is lane i."
        )
    names = entry_names(result.params)
    first, second = parameters
    if not (0 <= first < len(names) and 0 <= second < len(names) and first != second):
        raise ValueError(f"`parameters` must be two different numbers from 0 to {len(names) - 1}, got {parameters}.")
    end, unflatten = ravel_pytree(result.params)
    columns = [np.asarray(leaf).reshape(len(leaf), -1) for leaf in jax.tree.leaves(result.history.params)]
    way = np.concatenate(columns, axis=1)[:, [first, second]]
    marks = [way, np.asarray(end)[None, [first, second]]]
    best = None
    if problem.minimizer is not None and len(names) == 2:
        best = np.asarray(ravel_pytree(problem.minimizer(batch))[0])[[first, second]]
        marks.append(best[None])
    seen = np.concatenate(marks)
    low, high = seen.min(axis=0), seen.max(axis=0)
    margin = 0.25 * np.maximum(high - low, 1e-3 * np.maximum(np.abs(high), 1.0))
    grid = np.meshgrid(*(np.linspace(a, b, 100) for a, b in zip(low - margin, high + margin, strict=True)))

    @jax.jit
    def surface(points: Any) -> Any:
        def at(point: Any) -> Any:
            return problem.loss(unflatten(end.at[jnp.array([first, second])].set(point)), batch)

        return jax.lax.map(at, points)

    points = jnp.asarray(np.stack([axis.ravel() for axis in grid], axis=1), end.dtype)
    values = np.asarray(surface(points), np.float64).reshape(grid[0].shape)
    axes = subplots()[1] if axes is None else axes
    # Contours of the logarithm of the loss above its lowest point, so that a bowl has contours near the minimum as
    # well.
    height = values - np.nanmin(values)
    height = np.log10(np.maximum(height, 1e-4 * np.nanmax(height)))
    axes.contour(*grid, height, levels=20, colors=GREY, linewidths=0.6, linestyles="solid")
    axes.plot(*way.T, "o-", color=ORANGE, markersize=3, linewidth=1, label="descent")
    axes.plot(*way[0], "s", color=BLUE, markersize=6, label="start")
    if best is not None:
        axes.plot(*best, "*", color=BLACK, markersize=11, label="closed form")
    axes.set(xlabel=names[first], ylabel=names[second], title=problem.name if title is None else title)
    axes.legend(frameon=False)
    return axes.figure


def sweep(
    result: Result,
    over: Mapping[str, Any],
    *,
    axis: str = "learning_rate",
    colour_by: Sequence[str] = (),
    start_loss: Any = None,
    limits: Mapping[str, float] | None = None,
    title: str | None = None,
    axes: Any = None,
) -> Any:
    """Plot the final loss of every lane against one swept argument.

    Args:
      result: the result of `jaxgd.sweep`.
      over: the argument `over` of the sweep.
      axis: the name in `over` for the horizontal axis.
      colour_by: further names in `over`. Lanes with different values of these get different colours.
      start_loss: the loss at the start, `[]` or one for each lane; by default the first recorded loss, if there is one.
        Lanes that ended above it without having diverged get a marker of their own.
      limits: learning rates to draw as vertical lines, by their label.
      title: the title; by default how many lanes ended for which reason.
      axes: matplotlib axes for the plot; by default those of a new figure.

    Returns:
      The figure.

    Raises:
      ValueError: `axis` or a name in `colour_by` is not in `over`, or the lanes of `result` are not those of `over`.
    """
    for argument, name in (("axis", axis), *(("colour_by", name) for name in colour_by)):
        if name not in over:
            listed = ", ".join(map(repr, over))
            raise ValueError(f"`{argument}` must be one of {listed} (the names in `over`), got {name!r}.")
    values, losses = _along(result, over, axis)
    reasons = np.asarray(result.stop_reason).ravel()
    if start_loss is None and result.history.loss is not None:
        start_loss = np.asarray(result.history.loss)[..., 0]
    start = np.full(len(losses), np.inf) if start_loss is None else np.broadcast_to(np.ravel(start_loss), len(losses))
    shown = np.isfinite(losses)
    lost = np.isin(reasons, (StopReason.DIVERGED, StopReason.NONFINITE))
    above = ~lost & (losses > start)
    axes = subplots()[1] if axes is None else axes
    classes = (
        (~lost & ~above, "o", BLUE, 4, "below its start"),
        (above, "^", VIOLET, 5, "not below its start"),
        (lost, "x", ORANGE, 6, "diverged"),
    )
    groups = _groups(result, over, colour_by)
    for mask, marker, colour, size, label in classes:
        for members, own in list(groups.values()) or [(True, colour)]:
            drawn = mask & members & shown
            if drawn.any():
                look: dict[str, Any] = {"color": own, "markersize": size, "label": None if groups else label}
                axes.plot(values[drawn], losses[drawn], marker, **look)
        if groups and (mask & shown).any():
            axes.plot([], [], marker, color=GREY, markersize=size, label=label)
    for label, (_, own) in groups.items():
        axes.plot([], [], "s", color=own, markersize=5, label=label)
    for (label, limit), style in zip((limits or {}).items(), ("--", ":", "-."), strict=False):
        if np.isfinite(limit):
            axes.axvline(limit, color=BLACK, linestyle=style, linewidth=1.2, label=f"{label} = {limit:.3g}")
    if np.all(values > 0) and values.max() > 20 * values.min():
        axes.set_xscale("log")
    if np.all(losses[shown] > 0):
        axes.set_yscale("log")
    axes.set(xlabel=axis.replace("_", " "), ylabel="final loss")
    if not shown.all():
        axes.plot([], [], " ", label=f"{np.sum(~shown)} not finite, not shown")
    axes.set_title(_how_it_ended(result) if title is None else title)
    axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=2)  # below: it covers no point
    return axes.figure


def taylor(remainders: Remainders, *, title: str | None = None, axes: Any = None) -> Any:
    """Plot Taylor remainders against the step size, each with its observed order.

    Args:
      remainders: the result of `jaxgd.theory.taylor.remainders`.
      title: the title.
      axes: matplotlib axes for the plot; by default those of a new figure.

    Returns:
      The figure.
    """
    axes = subplots()[1] if axes is None else axes
    sizes = np.asarray(remainders.step_sizes)
    for degree, (values, marker) in enumerate(zip(np.asarray(remainders.remainders), "os^", strict=True)):
        seen = values > 0
        order = np.polyfit(np.log(sizes[seen]), np.log(values[seen]), 1)[0] if seen.sum() > 1 else np.nan
        label = f"after degree {degree}: order {order:.2f}"
        axes.loglog(sizes[seen], values[seen], marker + "-", markersize=4, linewidth=1, label=label)
    axes.set(xlabel="step size h", ylabel="remainder of the loss", title=title or "Taylor remainders")
    axes.legend(frameon=False)
    return axes.figure


def subplots(columns: int = 1, *, width: float = 7.0, height: float = 4.2) -> tuple[Any, Any]:
    """An empty figure in the style of all plots of this module.

    Args:
      columns: the number of axes, side by side.
      width: the width in inches.
      height: the height in inches.

    Returns:
      The figure, and its axes, or a list of axes if there are several.
    """
    import matplotlib

    with matplotlib.rc_context({"font.size": 9, "axes.titlesize": 9}):
        figure = _figure_class()(figsize=(width, height), layout="constrained", dpi=130)
        made = list(figure.subplots(1, columns, squeeze=False)[0])
    for ax in made:
        ax.set_axisbelow(True)
        ax.grid(True, which="major", color="#dddddd", linewidth=0.6)
        ax.spines[["top", "right"]].set_visible(False)
        ax.set_prop_cycle(color=COLOURS)
    return figure, made[0] if columns == 1 else made


@functools.cache
def _figure_class() -> Any:
    """A figure class that notebooks display. They display matplotlib's own figures only if pyplot was imported."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    class NotebookFigure(Figure):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            FigureCanvasAgg(self)

        def _repr_png_(self) -> bytes:
            written = io.BytesIO()
            self.savefig(written, format="png")
            return written.getvalue()

    return NotebookFigure


def entry_names(params: Any) -> list[str]:
    """A name for each entry of a tree, in the order of its leaves: "weights[0]", "weights[1]", "bias".

    Args:
      params: a tree of arrays.

    Returns:
      The names.
    """
    names = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        name = jax.tree_util.keystr(path).lstrip(".") or "params"
        shape = np.shape(leaf)
        names += [f"{name}[{', '.join(map(str, index))}]" if shape else name for index in np.ndindex(*shape)]
    return names


def _step_axis(axes: Any, last: int) -> None:
    if last > MANY_STEPS:
        axes.set_xscale("symlog", linthresh=10)
        axes.set_xlim(left=0)
    else:
        axes.locator_params(axis="x", integer=True)
    axes.set_xlabel("step" if last <= MANY_STEPS else "step (logarithmic beyond 10)")


def _how_it_ended(result: Result) -> str:
    reasons = np.asarray(result.stop_reason).ravel()
    if len(reasons) == 1:
        reason = StopReason(int(reasons[0]))
        ended = f"{reason.name} at step {int(np.ravel(result.num_steps)[0])}: {reason.describe()}"
        return textwrap.fill(ended, TITLE_WIDTH)
    counts = [f"{np.sum(reasons == reason)} {reason.name}" for reason in StopReason if np.any(reasons == reason)]
    return textwrap.fill(f"{len(reasons)} lanes: {', '.join(counts)}", TITLE_WIDTH)


def _groups(result: Result, over: Mapping[str, Any], names: Sequence[str]) -> dict[str, tuple[Any, str]]:
    """For each combination of values of swept arguments, by its label: a mask `[S]` of its lanes, and a colour."""
    if not names:
        return {}
    combinations, of_lane = np.unique(
        np.stack([_along(result, over, name)[0] for name in names], axis=1), axis=0, return_inverse=True
    )
    labels = [
        ", ".join(f"{n.replace('_', ' ')} {v:g}" for n, v in zip(names, row, strict=True)) for row in combinations
    ]
    if len(labels) <= len(COLOURS):
        colours = list(COLOURS)
    else:  # from dark blue to yellow, in the order of the values
        from matplotlib import colormaps
        from matplotlib.colors import to_hex

        colours = [to_hex(colormaps["viridis"](share)) for share in np.linspace(0, 0.9, len(labels))]
    return {label: (of_lane.ravel() == i, colours[i]) for i, label in enumerate(labels)}


def _along(result: Result, over: Mapping[str, Any], axis: str) -> tuple[Any, Any]:
    """For every lane the value of the swept argument and the final loss, both `[S]`."""
    losses = np.asarray(result.loss, np.float64)
    values = np.asarray(over[axis], np.float64)
    if values.ndim != 1:
        raise ValueError(f"`over[{axis!r}]` must have shape [S] to be drawn on an axis, got {values.shape}.")
    position = 0 if losses.ndim == 1 else list(over).index(axis)
    if losses.ndim not in (1, len(over)) or losses.shape[position] != len(values):
        raise ValueError(
            f"`result` must hold the lanes of `over`: {len(values)} along {axis!r}, got lanes of shape {losses.shape}."
        )
    shape = [1] * losses.ndim
    shape[position] = len(values)
    return np.broadcast_to(values.reshape(shape), losses.shape).ravel(), losses.ravel()
