"""What a run is made of: its settings, the state it carries from step to step, its history and its result."""

import enum
from collections.abc import Callable
from typing import Any, NamedTuple

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
    StopReason.NO_CHANGE: "the parameters no longer change",
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
      loss: `[R]`, of the batch of that step.
      grad_norm: `[R]`, Euclidean norm of its gradient.
      learning_rate: `[R]`, eta_t.
      update_norm: `[R]`, Euclidean norm of theta_{t+1} - theta_t.
      predicted_decrease: `[R]`, -g . (theta_{t+1} - theta_t), what the first-order expansion promises.
      actual_decrease: `[R]`, L(theta_t) - L(theta_{t+1}) on the same batch; costs one more loss a step.
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
        loss (`params` where no epoch was completed).
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


class Settings(NamedTuple):
    """The static part of a run, one compiled program each; see `descend`."""

    num_steps: int
    batch_size: int | None
    optimizer: Any
    schedule: Callable[[jax.Array], Any] | None
    record: tuple[str, ...]
    record_every: int

    @property
    def num_records(self) -> int:
        """Entries of the history."""
        return -(-self.num_steps // self.record_every)


class Controls(NamedTuple):
    """The traced scalars of a run; see `descend`."""

    learning_rate: Any
    grad_tol: Any
    param_tol: Any
    divergence_factor: Any


class State(NamedTuple):
    """The carry of the loop.

    Attributes:
      params: theta_t.
      previous: theta_{t-1}, where loss and gradient were last finite.
      best_params: theta with the lowest loss of an epoch.
      best_loss: `[]`, that loss; infinite before the first epoch is over.
      first_loss: `[]`, loss of the whole batch at the start, in the size of the loss of one batch.
      first_grad_norm: `[]`, of the first batch.
      epoch_loss: `[]`, sum of the losses of the epoch's batches so far.
      optimizer_state: the rule's.
      stop_reason: `[]` int32; MAX_STEPS while running.
      num_steps: `[]` int32, updates made.
      num_judged: `[]` int32, steps entered while running.
      num_still: `[]` int32, updates in a row that changed nothing.
      num_flat: `[]` int32, small gradients in a row.
      num_excess: `[]` int32, epochs in a row beyond the limit of divergence.
      wait: `[]` int32, blocks to be taken step by step before the next is tried quietly; the same for all lanes.
      patience: `[]` int32, how many of them after the next event.
      history: the recorded steps, filled as they are reached; where some are not kept, a last entry takes those.
    """

    params: Params
    previous: Params
    best_params: Params
    best_loss: jax.Array
    first_loss: jax.Array
    first_grad_norm: jax.Array
    epoch_loss: jax.Array
    optimizer_state: Any
    stop_reason: jax.Array
    num_steps: jax.Array
    num_judged: jax.Array
    num_still: jax.Array
    num_flat: jax.Array
    num_excess: jax.Array
    wait: jax.Array
    patience: jax.Array
    history: History
