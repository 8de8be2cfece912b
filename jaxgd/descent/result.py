"""The result of a run: stop reason, history and final parameters."""

import enum
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from jaxgd.types import Params

if TYPE_CHECKING:  # what `fit` adds, which a run does not know of
    from jaxgd.descent.held_out import HeldOut


class StopReason(enum.IntEnum):
    """The reason why a run ended."""

    MAX_STEPS = 0
    NO_CHANGE = 1
    GRADIENT_SMALL = 2
    DIVERGED = 3
    NONFINITE = 4
    INTERRUPTED = 5
    NO_IMPROVEMENT = 6

    def describe(self) -> str:
        """The reason in words.

        Returns:
          One sentence without a full stop.
        """
        return (
            "all steps were taken",
            "the parameters no longer change, or alternate between neighbouring values",
            "the gradient is as small as was asked",
            "the loss grew far beyond its best, or fell without bound",
            "the loss or the gradient was no longer finite",
            "the run was interrupted",
            "the held-out loss has not become lower for as long as `patience` allows",
        )[self]

    def __str__(self) -> str:
        return self.name

    def __format__(self, spec: str) -> str:
        return format(int(self), spec) if spec.endswith(("d", "x", "b")) else format(self.name, spec)


class StopReasons(np.ndarray[Any, np.dtype[Any]]):
    """The stop reasons of several runs: an integer array with entries of the type `StopReason`."""

    def __getitem__(self, index: Any) -> Any:
        found = super().__getitem__(index)
        return StopReason(int(found)) if isinstance(found, np.integer) else found

    def __array_wrap__(self, array: Any, context: Any = None, return_scalar: bool = False) -> Any:
        # What is computed from reasons, such as a comparison, is a plain array.
        plain = np.asarray(array)
        return plain[()] if return_scalar else plain

    def __repr__(self) -> str:
        return str(np.array([StopReason(code).name for code in self.ravel().tolist()]).reshape(self.shape))

    __str__ = __repr__


class History(NamedTuple):
    """The history of a run; leading axis R, the recorded steps. Fields that were not recorded are None.

    Entry i describes theta_t for t = i * record_every, before update t. Entries after the stop repeat the entry at the
    stop. `jaxgd.curve` joins the history with the end of the run.

    Attributes:
      loss: `[R]`, the loss of theta_t on the rows of step t.
      grad_norm: `[R]`, Euclidean norm of the gradient.
      learning_rate: `[R]`, eta_t.
      update_norm: `[R]`, Euclidean norm of theta_{t+1} - theta_t.
      predicted_decrease: `[R]`, -g . (theta_{t+1} - theta_t), the decrease that the first-order expansion predicts.
      second_order_decrease: `[R]`, -g . d - 1/2 d . H d for d = theta_{t+1} - theta_t, the decrease that the
        second-order expansion predicts. For gradient descent this is eta |g|^2 - eta^2/2 g . H g. It costs one
        Hessian-vector product for each step.
      actual_decrease: `[R]`, L(theta_t) - L(theta_{t+1}) on the same rows. It costs one more evaluation of the loss for
        each step.
      params: a tree like the parameters with leading axis R.
      step: `[R]` int32, t of every entry; always recorded if any field is.
    """

    loss: jax.Array | None = None
    grad_norm: jax.Array | None = None
    learning_rate: jax.Array | None = None
    update_norm: jax.Array | None = None
    predicted_decrease: jax.Array | None = None
    second_order_decrease: jax.Array | None = None
    actual_decrease: jax.Array | None = None
    params: Params | None = None
    step: jax.Array | None = None


RECORDED = History._fields[:-1]
"""The fields of the history that `record` may name."""


class _Result(NamedTuple):
    params: Params
    best_params: Params
    loss: jax.Array
    num_steps: jax.Array
    stop_reason: jax.Array
    history: History
    learning_rate: jax.Array | None = None
    held_out: "HeldOut | None" = None


class Result(_Result):
    """The result of a run.

    Attributes:
      params: theta at the stop; after DIVERGED or NONFINITE the last theta with a finite loss.
      best_params: theta with the lowest loss. With mini-batches, theta before the last update of the epoch with the
        lowest mean loss (`params` if no epoch was completed). With held-out rows, theta with their lowest loss.
      loss: `[]`, the loss of all rows at `params`.
      num_steps: `[]` int32, updates that led to `params`.
      stop_reason: a `StopReason`, or for several runs an array of them. Inside jit and vmap, and as a leaf of the tree,
        it is `[]` int32.
      history: the history.
      learning_rate: `[]`, eta of the last step. None with an optax optimizer, because its steps are not `-eta g`.
      held_out: the loss of the held-out rows along the run, or None without them.
    """

    __slots__ = ()

    @property
    def stop_reason(self) -> Any:
        """The reason why the run ended; a `StopReason` if its value is concrete."""
        code = self[self._fields.index("stop_reason")]
        if isinstance(code, jax.core.Tracer) or not getattr(code, "is_fully_addressable", isinstance(code, np.ndarray)):
            return code
        codes = np.asarray(code)
        return codes.view(StopReasons) if codes.ndim else StopReason(int(codes))
