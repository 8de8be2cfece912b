"""What a run returns: how it ended, its trace, and the parameters it led to."""

import enum
from typing import NamedTuple

import jax

from jaxgd.types import Params


class StopReason(enum.IntEnum):
    """How a run ended."""

    MAX_STEPS = 0
    NO_CHANGE = 1
    GRADIENT_SMALL = 2
    DIVERGED = 3
    NONFINITE = 4
    INTERRUPTED = 5

    def describe(self) -> str:
        """The reason in words.

        Returns:
          One sentence without a full stop.
        """
        return _DESCRIPTIONS[self]


_DESCRIPTIONS = {
    StopReason.MAX_STEPS: "all steps were taken",
    StopReason.NO_CHANGE: "the parameters no longer change, or alternate between neighbouring values",
    StopReason.GRADIENT_SMALL: "the gradient is as small as was asked",
    StopReason.DIVERGED: "the loss grew far beyond its best, or fell without bound",
    StopReason.NONFINITE: "the loss or the gradient was no longer finite",
    StopReason.INTERRUPTED: "the run was interrupted",
}


class History(NamedTuple):
    """The trace of a run; leading axis R, the recorded steps. What was not asked for is None.

    Entry i describes theta_t for t = i * record_every, before update t. Entries after the stop repeat the
    one at the stop.

    Attributes:
      loss: `[R]`, of the rows of that step.
      grad_norm: `[R]`, Euclidean norm of its gradient.
      learning_rate: `[R]`, eta_t.
      update_norm: `[R]`, Euclidean norm of theta_{t+1} - theta_t.
      predicted_decrease: `[R]`, -g . (theta_{t+1} - theta_t), what the first-order expansion promises.
      actual_decrease: `[R]`, L(theta_t) - L(theta_{t+1}) on the same rows; costs one more loss a step.
      params: a tree like the parameters with leading axis R.
    """

    loss: jax.Array | None = None
    grad_norm: jax.Array | None = None
    learning_rate: jax.Array | None = None
    update_norm: jax.Array | None = None
    predicted_decrease: jax.Array | None = None
    actual_decrease: jax.Array | None = None
    params: Params | None = None


class Result(NamedTuple):
    """What a run returns.

    Attributes:
      params: theta at the stop; after DIVERGED or NONFINITE the last ones with a finite loss.
      best_params: theta with the lowest loss; for mini-batches at the end of the epoch with the lowest mean
        loss (`params` if no epoch was completed).
      loss: `[]`, of the whole batch at `params`.
      num_steps: `[]` int32, updates that led to `params`.
      stop_reason: `[]` int32, a `StopReason`.
      history: the trace.
    """

    params: Params
    best_params: Params
    loss: jax.Array
    num_steps: jax.Array
    stop_reason: jax.Array
    history: History
