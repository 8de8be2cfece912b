"""The curve of a run: every recorded point of its way, and the one where it ended."""

from typing import Any, NamedTuple

import jax
import numpy as np

from jaxgd.descent.result import Result
from jaxgd.types import Params

Array = np.ndarray[Any, np.dtype[Any]]


class Curve(NamedTuple):
    """The way of a run, on the host; entry i is theta at `step[i]`, the last entry theta_T.

    Attributes:
      step: `[n]` int, 0 first and the number of updates T last.
      loss: `[n]`, of the rows of the step for theta_t before it, of the whole batch for theta_T; or None.
      params: a tree like the parameters with leading axis n; or None.
    """

    step: Array
    loss: Array | None
    params: Params | None


def curve(result: Result, lane: int | tuple[int, ...] | None = None) -> Curve:
    """Theta_0 .. theta_T and their losses, as far as they were recorded, without what follows the stop.

    The history of a run holds the points before each update; the result holds the last. This joins them:
    `plt.plot(curve.step, curve.loss)` is the whole way. After DIVERGED or NONFINITE it ends at the last point with a
    finite loss, as `result.params` does.

    Args:
      result: of `descend`, `fit` or `sweep`, recorded with "loss" or "params".
      lane: which run of a sweep, an index for each of its axes; None for a single run.

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
