"""The curve of a run: all recorded points and the final point."""

from typing import Any, NamedTuple

import jax
import numpy as np

from jaxgd.descent.result import Result
from jaxgd.types import Params

Array = np.ndarray[Any, np.dtype[Any]]


class Curve(NamedTuple):
    """The recorded points of a run, on the host. Entry i is theta at `step[i]`, and the last entry is theta_T.

    Attributes:
      step: `[n]` int, 0 first and the number of updates T last.
      loss: `[n]`, or None. The loss of theta_t on the rows of step t; the last entry is the loss of theta_T on all
        rows.
      params: a tree like the parameters with leading axis n, or None.
    """

    step: Array
    loss: Array | None
    params: Params | None


def curve(result: Result, lane: int | tuple[int, ...] | None = None) -> Curve:
    """The recorded parameters theta_0 .. theta_T and their losses, up to the stop.

    The history of a run contains the points before each update, and the result contains the final point. This function
    joins them, so that `plt.plot(curve.step, curve.loss)` plots the whole run. After DIVERGED or NONFINITE the curve
    ends at the last point with a finite loss, which is `result.params`.

    Args:
      result: the result of `descend`, `fit` or `sweep` with "loss" or "params" in `record`.
      lane: the run of a sweep, given by an index for each of its axes; None for a single run.

    Returns:
      The curve.

    Raises:
      ValueError: nothing was recorded, or the result is of several lanes and `lane` does not pick one.
    """
    axes = np.ndim(result.num_steps)
    index = () if lane is None else lane if isinstance(lane, tuple) else (lane,)
    if len(index) != axes:
        raise ValueError(
            f"`lane` must hold an index for each of the {axes} axes of the sweep, got {lane}."
            if axes
            else f"`lane` must be None for a single run, got {lane}."
        )
    # On the host at once: every slice on the device would be a program of its own.
    one = jax.tree.map(lambda leaf: np.asarray(leaf)[index], result)
    history, num_steps = one.history, int(one.num_steps)
    if history.loss is None and history.params is None:
        raise ValueError('`result` must hold recorded losses or parameters: run with "loss" or "params" in `record`.')
    before = np.unique(history.step[history.step < num_steps])  # entries after the stop repeat it

    def joined(values: Any, last: Any) -> Any:
        return np.concatenate([values[: len(before)], last[None]])

    return Curve(
        step=np.append(before, np.asarray(num_steps, before.dtype)),
        loss=None if history.loss is None else joined(history.loss, one.loss),
        params=None if history.params is None else jax.tree.map(joined, history.params, one.params),
    )
