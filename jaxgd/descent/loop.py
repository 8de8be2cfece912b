"""descend(): one pure, jitted lax.scan loop.

A step evaluates the loss and the gradient of one batch at theta_t, judges them, and moves. A run that has
stopped goes through the remaining steps masked, so that runs of different length live in one vmap. What
is judged once an epoch (the best parameters, divergence) is judged at the epoch's last batch; for the
full batch every step is an epoch.
"""

import enum
import functools
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from jaxgd.descent import batches
from jaxgd.descent.rule import gradient_descent, rate_at
from jaxgd.descent.single_rows import take_rows
from jaxgd.theory.taylor import inner
from jaxgd.types import Params, Problem, evaluate
from jaxgd.validation import check_choice, check_count, check_floating_tree, check_same_tree

DEFAULT_RECORD = ("loss", "grad_norm", "learning_rate")
"""The fields of the history that are kept if not told otherwise."""

DIVERGENCE_PATIENCE = 3
"""Epochs in a row whose loss must exceed the limit before a run is called diverged."""

GATHERED_ROWS = 512
"""Rows of several small batches that are fetched at once."""

BRANCHED_FROM = 64
"""Numbers in the parameters from which a branch costs less than a look at all of them."""


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
      history: the recorded steps, filled as they are reached.
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
    history: History


def descend(
    problem: Problem,
    params: Params,
    batch: Any,
    *,
    learning_rate: Any = None,
    num_steps: int,
    batch_size: int | None = None,
    key: jax.Array | None = None,
    optimizer: Any = None,
    grad_tol: Any = 0.0,
    param_tol: Any = 0.0,
    divergence_factor: Any = 1000.0,
    record: Sequence[str] = DEFAULT_RECORD,
    record_every: int = 1,
) -> Result:
    """Minimise a problem by gradient descent; pure, and safe under jit, vmap and grad.

    Compiled once for each problem, shape and set of static arguments; new parameters, data, learning
    rates, tolerances and keys run the same program.

    How a run ends:
      NO_CHANGE: no parameter moved by more than `param_tol` in a whole epoch. Updates that are exactly zero
        under a gradient that is not (a warm-up from rate 0, gradient accumulation) do not count.
      GRADIENT_SMALL: the gradient norm was at most `grad_tol` in a whole epoch.
      DIVERGED: the mean loss of an epoch exceeded both the first loss and the best by more than
        `divergence_factor` times the size of the best, `DIVERGENCE_PATIENCE` epochs in a row or once by a
        further factor; or a negative loss and its gradient both grew by that factor over their start.
      NONFINITE: the loss or the gradient was NaN or infinite.
      MAX_STEPS: none of these.

    Args:
      problem: what to minimise. Static.
      params: theta_0, a tree of floating arrays; their dtypes are kept.
      batch: the data, as the problem takes it.
      learning_rate: eta, a number or traced scalar `[]`, or a function step -> rate (static), so that optax's
        schedules fit. For a ready `optimizer` it is not used but in the history.
      num_steps: the largest number of updates. Static.
      batch_size: rows in a batch; None is the full batch, 1 stochastic descent. Static.
      key: shuffles the rows anew each epoch; None visits them in their order.
      optimizer: an optax GradientTransformation, or a function learning_rate -> GradientTransformation such
        as `optax.adam` (then the rate stays traced). None is `gradient_descent`. Static.
      grad_tol: `[]`, in units of the gradient; negative never stops.
      param_tol: `[]`, largest absolute change of a parameter, in its units; negative never stops.
      divergence_factor: `[]`, above 1.
      record: fields of `History` to keep. Static.
      record_every: keep every so many steps. Static.

    Returns:
      The result.

    Raises:
      ValueError: an argument out of range, trees or shapes that do not fit.
      TypeError: parameters that are not floating, a count that is no integer, a gradient of another dtype.
    """
    settings = check_settings(problem, learning_rate, num_steps, batch_size, optimizer, record, record_every)
    controls = Controls(None if callable(learning_rate) else learning_rate, grad_tol, param_tol, divergence_factor)
    return _run(problem, settings, as_arrays(params), batch, key, controls)


def run(
    problem: Problem, settings: Settings, params: Params, batch: Any, key: jax.Array | None, controls: Controls
) -> Result:
    """The run behind `descend`, to be traced.

    Args:
      problem: what to minimise. Static.
      settings: the static part.
      params: theta_0.
      batch: the data.
      key: shuffles the rows, or None.
      controls: the traced scalars.

    Returns:
      The result.
    """
    epochs = batches.cut(batch, settings.batch_size)
    num_epochs, rest = divmod(settings.num_steps, epochs.steps_per_epoch)
    state = start(problem, settings, params, batch, controls)
    state = run_epochs(problem, settings, state, batch, key, controls, 0, num_epochs)
    if rest:
        state = run_part(problem, settings, state, batch, key, controls, num_epochs, 0, rest)
    return finish(problem, settings, state, batch)


_run = jax.jit(run, static_argnums=(0, 1))


def check_settings(
    problem: Problem,
    learning_rate: Any,
    num_steps: Any,
    batch_size: Any,
    optimizer: Any,
    record: Sequence[str],
    record_every: Any,
) -> Settings:
    """The static arguments of `descend`, checked.

    Args:
      problem: see `descend`.
      learning_rate: see `descend`.
      num_steps: see `descend`.
      batch_size: see `descend`.
      optimizer: see `descend`.
      record: see `descend`.
      record_every: see `descend`.

    Returns:
      The settings.

    Raises:
      ValueError: an argument out of range.
      TypeError: no problem, a count that is no integer, an optimizer that is none, no learning rate.
    """
    if not isinstance(problem, Problem):
        raise TypeError(
            f"`problem` must be a jaxgd.Problem, got {type(problem).__name__}; wrap a loss by jaxgd.autodiff(loss)."
        )
    ready = isinstance(optimizer, optax.GradientTransformation)
    if optimizer is not None and not ready and not callable(optimizer):
        raise TypeError(
            "`optimizer` must be an optax GradientTransformation or a function learning_rate -> "
            f"GradientTransformation, got {type(optimizer).__name__}."
        )
    if learning_rate is None and not ready:
        raise TypeError("`learning_rate` must be a number or a function step -> rate, got None.")
    if learning_rate is not None and not callable(learning_rate):
        if isinstance(learning_rate, str):
            raise TypeError(f"`learning_rate` must be a number or a function step -> rate, got {learning_rate!r}.")
        if jnp.shape(learning_rate) != ():
            raise ValueError(
                f"`learning_rate` must be a scalar, got shape {jnp.shape(learning_rate)}; "
                "jax.vmap over it for several runs."
            )
    if isinstance(record, str):
        raise TypeError(f"`record` must be a sequence of field names, got the string {record!r}.")
    for field in record:
        check_choice("record", field, History._fields)
    fields = tuple(field for field in History._fields if field in record)
    if learning_rate is None:
        fields = tuple(field for field in fields if field != "learning_rate")
    return Settings(
        num_steps=check_count("num_steps", num_steps, maximum=2**31 - 1),  # steps are counted in int32
        batch_size=batch_size,
        optimizer=optimizer,
        schedule=learning_rate if callable(learning_rate) else None,
        record=fields,
        record_every=check_count("record_every", record_every),
    )


def as_arrays(params: Params) -> Params:
    """Parameters with every leaf an array of a definite dtype.

    Args:
      params: a tree of floating arrays or numbers.

    Returns:
      The tree.

    Raises:
      ValueError: there is no leaf.
      TypeError: a leaf is not floating.
    """
    check_floating_tree("params", params)
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.result_type(leaf)), params)


def check_problem(problem: Problem, params: Params, batch: Any) -> None:
    """Check the structure of a problem on its parameters: shapes alone, nothing is computed.

    Args:
      problem: its loss and gradient are traced.
      params: theta_0.
      batch: the data.

    Raises:
      ValueError: trees or shapes that do not fit, a loss that is no floating scalar.
      TypeError: a gradient of another dtype.
    """
    loss = jax.eval_shape(problem.loss, params, batch)
    if getattr(loss, "shape", None) != () or not jnp.issubdtype(loss.dtype, jnp.floating):
        raise ValueError(f"the loss of `problem` must return one floating scalar [], got {loss}.")
    check_same_tree("the gradient", jax.eval_shape(problem.grad, params, batch), "`params`", params)


def check_history(settings: Settings, params: Params, num_lanes: int = 1) -> None:
    """Refuse a history that the device cannot hold, before anything is compiled.

    Args:
      settings: what is recorded and how often.
      params: theta_0.
      num_lanes: runs at a time.

    Raises:
      ValueError: the history is larger than the device's memory; the text gives both, and the way out.
    """
    leaves = jax.tree.leaves(params)
    scalar = max(leaf.dtype.itemsize for leaf in leaves)
    sizes = {"params": sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)}
    num_records = -(-settings.num_steps // settings.record_every)
    needed = num_lanes * num_records * sum(sizes.get(field, scalar) for field in settings.record)
    limit = _device_memory()
    if needed > limit:
        raise ValueError(
            f"the history would take {needed / 2**30:,.1f} GiB, the device has {limit / 2**30:,.1f}: "
            "raise `record_every`, record fewer fields, or run fewer lanes at a time."
        )


def _device_memory() -> int:
    """Bytes; of a device that does not tell, those of the machine."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return int(stats["bytes_limit"])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def start(problem: Problem, settings: Settings, params: Params, batch: Any, controls: Controls) -> State:
    """The state before the first step.

    Args:
      problem: what to minimise.
      settings: the static part.
      params: theta_0.
      batch: the data.
      controls: the traced scalars.

    Returns:
      The state.

    Raises:
      ValueError: trees or shapes that do not fit.
      TypeError: a gradient of another dtype.
    """
    check_problem(problem, params, batch)
    steps_per_epoch = batches.cut(batch, settings.batch_size).steps_per_epoch
    loss = lax.stop_gradient(problem.loss(params, batch))
    grad_norm = jnp.zeros((), _norm_dtype(params))
    zero = jnp.zeros((), jnp.int32)
    state = State(
        params=params,
        previous=params,
        best_params=params,
        best_loss=jnp.full_like(loss, jnp.inf),
        first_loss=loss / steps_per_epoch if problem.reduction == "sum" else loss,
        first_grad_norm=grad_norm,
        epoch_loss=jnp.zeros_like(loss),
        optimizer_state=_optimizer(settings, controls).init(params),
        stop_reason=zero,
        num_steps=zero,
        num_judged=zero,
        num_still=zero,
        num_flat=zero,
        num_excess=zero,
        history=History(),
    )
    entry = _entry(problem, settings, state, batch, controls, loss, params, params, grad_norm, zero)
    num_records = -(-settings.num_steps // settings.record_every)
    history = jax.tree.map(lambda value: jnp.zeros((num_records, *value.shape), value.dtype), entry)
    return state._replace(history=history)


def run_epochs(
    problem: Problem,
    settings: Settings,
    state: State,
    batch: Any,
    key: jax.Array | None,
    controls: Controls,
    first_epoch: Any,
    num_epochs: int,
) -> State:
    """Run whole epochs.

    Args:
      problem: what to minimise. Static.
      settings: the static part.
      state: before the first of them.
      batch: the data.
      key: shuffles the rows, or None.
      controls: the traced scalars.
      first_epoch: `[]` integer.
      num_epochs: how many. Static.

    Returns:
      The state after the last of them.
    """
    epochs = batches.cut(batch, settings.batch_size)

    def run_epoch(state: State, epoch: jax.Array) -> tuple[State, None]:
        if not epochs.batch_size:
            return _step(problem, settings, state, batch, controls, epoch, 1, closing=True), None
        count = epochs.steps_per_epoch
        return run_part(problem, settings, state, batch, key, controls, epoch, 0, count), None

    return lax.scan(run_epoch, state, first_epoch + jnp.arange(num_epochs, dtype=jnp.int32))[0]


def run_part(
    problem: Problem,
    settings: Settings,
    state: State,
    batch: Any,
    key: jax.Array | None,
    controls: Controls,
    epoch: Any,
    first: Any,
    count: int,
    *,
    closing: bool | None = None,
) -> State:
    """Run `count` batches of one epoch, from batch `first` on.

    Args:
      problem: what to minimise. Static.
      settings: the static part, with a batch size.
      state: before the first of them.
      batch: the data.
      key: shuffles the rows, or None.
      controls: the traced scalars.
      epoch: `[]` integer.
      first: `[]` integer, position in the epoch.
      count: how many batches. Static.
      closing: whether they end the epoch. Static; None: whether `count` is a whole epoch.

    Returns:
      The state after the last of them.
    """
    epochs = batches.cut(batch, settings.batch_size)
    size, per_epoch = epochs.batch_size, epochs.steps_per_epoch
    closing = count == per_epoch if closing is None else closing
    whole = count - 1 if closing else count
    order = batches.row_order(epochs, key, epoch)
    rows = lax.dynamic_slice_in_dim(order, first * size, whole * size).reshape(whole, size)
    steps = epoch * per_epoch + first + jnp.arange(count, dtype=jnp.int32)

    def take_step(state: State, step_part: tuple[jax.Array, Any]) -> tuple[State, None]:
        step, part = step_part
        return _step(problem, settings, state, part, controls, step, per_epoch, closing=False), None

    def take_block(state: State, step_rows: tuple[jax.Array, jax.Array]) -> tuple[State, None]:
        steps, rows = step_rows
        parts = batches.take(batch, rows)

        def one_by_one() -> State:
            return lax.scan(take_step, state, (steps, parts))[0]

        if not _solves_blocks(problem, settings):
            return one_by_one(), None
        rows_alone = jax.tree.map(lambda array: array[:, 0], parts)
        uneventful, together = _take_rows(problem, settings, state, rows_alone, controls, steps, per_epoch)
        return lax.cond(uneventful, lambda: together, one_by_one), None

    def take_one(state: State, step_rows: tuple[jax.Array, jax.Array]) -> tuple[State, None]:
        step, rows = step_rows
        return take_step(state, (step, batches.take(batch, rows)))

    # Rows fetched one by one wait for memory each; a block of them waits once.
    at_once = GATHERED_ROWS // size
    num_blocks = whole // at_once if at_once > 1 else 0
    blocked = num_blocks * at_once
    if num_blocks:
        blocks = jax.tree.map(lambda a: a[:blocked].reshape(num_blocks, at_once, *a.shape[1:]), (steps[:whole], rows))
        state, _ = lax.scan(take_block, state, blocks)
    if blocked < whole:
        state, _ = lax.scan(take_one, state, (steps[blocked:whole], rows[blocked:]))
    if closing:
        last = batches.take(batch, order[(per_epoch - 1) * size :])
        state = _step(problem, settings, state, last, controls, steps[-1], per_epoch, closing=True)
    return state


SOLVING_BACKENDS = ("gpu", "tpu")
"""Where a step of one row is all launch, and a block of them is solved for at once. On a CPU the loop is faster."""


def _solves_blocks(problem: Problem, settings: Settings) -> bool:
    ours = settings.optimizer is None and settings.schedule is None
    known = set(settings.record) <= {"loss", "grad_norm", "learning_rate"} and problem.linear_form is not None
    plain = isinstance(problem.l2, int | float) and problem.l2 == 0 and problem.value_and_grad is None
    return ours and known and plain and settings.batch_size == 1 and jax.default_backend() in SOLVING_BACKENDS


def _take_rows(
    problem: Problem,
    settings: Settings,
    state: State,
    rows: Any,
    controls: Controls,
    steps: jax.Array,
    per_epoch: int,
) -> tuple[jax.Array, State]:
    """The state after one step on each row, and whether nothing happened on the way that a step must judge."""
    assert problem.linear_form is not None
    taken = take_rows(problem.linear_form, state.params, rows, controls.learning_rate)
    finite = jnp.isfinite(jnp.sum(taken.loss)) & _all_finite(taken.params)
    flat = taken.grad_norm <= _like(controls.grad_tol, taken.grad_norm)
    moved = taken.largest_update > _like(controls.param_tol, taken.largest_update)
    judged = _judge_divergence(state, controls, jnp.sum(taken.loss), taken.grad_norm[-1], per_epoch, closing=False)
    running = state.stop_reason == StopReason.MAX_STEPS
    uneventful = running & finite & jnp.all(moved & ~flat) & (judged.num_excess < DIVERGENCE_PATIENCE)
    rates = jnp.broadcast_to(_like(controls.learning_rate, taken.grad_norm), taken.grad_norm.shape)
    kept = {"loss": taken.loss, "grad_norm": taken.grad_norm, "learning_rate": rates}
    index, between = jnp.divmod(steps, settings.record_every)

    def write(values: jax.Array, new: jax.Array) -> jax.Array:
        return values.at[jnp.where(between == 0, index, len(values))].set(new, mode="drop")

    none = jnp.zeros((), jnp.int32)
    grad_norm = jnp.where(steps[0] == 0, taken.grad_norm[0], state.first_grad_norm)
    return uneventful, judged._replace(
        params=taken.params,
        previous=taken.previous,
        first_grad_norm=grad_norm,
        optimizer_state=state.optimizer_state._replace(step=state.optimizer_state.step + len(steps)),
        num_steps=state.num_steps + len(steps),
        num_judged=state.num_judged + len(steps),
        num_flat=none,
        num_still=none,
        history=jax.tree.map(write, state.history, History(**{name: kept[name] for name in settings.record})),
    )


def finish(problem: Problem, settings: Settings, state: State, batch: Any) -> Result:
    """The result of a run: the last parameters judged on the whole batch.

    Args:
      problem: what to minimise.
      settings: the static part.
      state: after the last step.
      batch: the data.

    Returns:
      The result.
    """
    finite = jnp.isfinite(problem.loss(state.params, batch))
    running = state.stop_reason == StopReason.MAX_STEPS
    broken = running & ~finite & (state.num_steps > 0)
    params = _where(broken, state.previous, state.params)
    loss = problem.loss(params, batch)
    if settings.batch_size is None:
        best_params = _where(loss < state.best_loss, params, state.best_params)
    else:
        best_params = _where(jnp.isinf(state.best_loss), params, state.best_params)
    last = jnp.maximum(state.num_judged - 1, 0) // settings.record_every

    def hold_after_stop(values: jax.Array) -> jax.Array:
        return values[jnp.minimum(jnp.arange(len(values), dtype=last.dtype), last)]

    return Result(
        params=params,
        best_params=best_params,
        loss=loss,
        num_steps=state.num_steps - broken.astype(jnp.int32),
        stop_reason=jnp.where(running & ~finite, StopReason.NONFINITE, state.stop_reason),
        history=jax.tree.map(hold_after_stop, state.history),
    )


def _step(
    problem: Problem,
    settings: Settings,
    state: State,
    batch: Any,
    controls: Controls,
    step: jax.Array,
    steps_per_epoch: int,
    *,
    closing: bool,
) -> State:
    """One step: evaluate at theta_t, judge, move. `closing` says that the batch ends its epoch."""
    loss, grads = evaluate(problem, state.params, batch)
    params, optimizer_state, moved = _moved(problem, settings, state, batch, controls, loss, grads)
    grad_norm = lax.stop_gradient(_norm(grads))
    state = state._replace(first_grad_norm=jnp.where(step == 0, grad_norm, state.first_grad_norm))
    entry = _entry(problem, settings, state, batch, controls, loss, grads, params, grad_norm, step)

    running = state.stop_reason == StopReason.MAX_STEPS
    # A finite norm says it of every entry.
    finite = jnp.isfinite(loss) & _unless(jnp.isfinite(grad_norm), lambda: _all_finite(grads), state.params)
    state = _judge_divergence(state, controls, lax.stop_gradient(loss), grad_norm, steps_per_epoch, closing)
    diverged = state.num_excess >= DIVERGENCE_PATIENCE
    num_flat = jnp.where(grad_norm <= _like(controls.grad_tol, grad_norm), state.num_flat + 1, 0)
    num_still = jnp.where(moved, 0, state.num_still + 1)
    flat, still = num_flat >= steps_per_epoch, num_still >= steps_per_epoch

    reason = jnp.where(still, StopReason.NO_CHANGE, StopReason.MAX_STEPS)
    reason = jnp.where(flat, StopReason.GRADIENT_SMALL, reason)
    reason = jnp.where(diverged, StopReason.DIVERGED, reason)
    reason = jnp.where(finite, reason, StopReason.NONFINITE)
    retreat = running & ~finite & (state.num_steps > 0)
    advance = running & finite & ~diverged & ~flat

    return state._replace(
        params=_where(retreat, state.previous, _where(advance, params, state.params)),
        previous=_where(advance, state.params, state.previous),
        optimizer_state=_where(advance, optimizer_state, state.optimizer_state),
        stop_reason=jnp.where(running, reason, state.stop_reason).astype(jnp.int32),
        num_steps=state.num_steps + advance.astype(jnp.int32) - retreat.astype(jnp.int32),
        num_judged=state.num_judged + running.astype(jnp.int32),
        num_flat=num_flat,
        num_still=num_still,
        history=_recorded(settings, state.history, entry, step),
    )


def _judge_divergence(
    state: State,
    controls: Controls,
    loss: jax.Array,
    grad_norm: jax.Array,
    steps_per_epoch: int,
    closing: bool,
) -> State:
    """Hold the epoch's mean loss against the best so far; a diverged run has spent its patience.

    The sum over the batches so far, over their number in an epoch, bounds the epoch's mean from below
    where losses are not negative: what exceeds the limit early exceeds it at the end.
    """
    running = state.stop_reason == StopReason.MAX_STEPS
    epoch_loss = state.epoch_loss + loss
    mean = epoch_loss / steps_per_epoch
    factor = _like(controls.divergence_factor, loss)
    best = jnp.where(jnp.isinf(state.best_loss), state.first_loss, state.best_loss)
    # Far over a tiny best but under its start, a run is restless, not lost.
    limit = jnp.maximum(state.first_loss, best + factor * jnp.abs(best))
    steeper = grad_norm > _like(factor, grad_norm) * state.first_grad_norm
    unbounded = (mean < -factor * jnp.abs(state.first_loss)) & steeper
    lost = ((mean > factor * limit) & (limit > 0)) | unbounded
    num_excess = jnp.where(lost, DIVERGENCE_PATIENCE, state.num_excess)
    if not closing:
        return state._replace(epoch_loss=epoch_loss, num_excess=num_excess)
    num_excess = jnp.where(lost | ((mean > limit) & (limit > 0)), num_excess + 1, 0)
    better = running & (mean < state.best_loss)
    return state._replace(
        best_params=_where(better, state.params, state.best_params),
        best_loss=jnp.where(better, mean, state.best_loss),
        epoch_loss=jnp.zeros_like(epoch_loss),
        num_excess=num_excess,
    )


def _moved(
    problem: Problem,
    settings: Settings,
    state: State,
    batch: Any,
    controls: Controls,
    loss: jax.Array,
    grads: Params,
) -> tuple[Params, Any, jax.Array]:
    """The next parameters, the rule's next state, and whether anything moved by more than `param_tol`."""
    optimizer = optax.with_extra_args_support(_optimizer(settings, controls))
    updates, optimizer_state = optimizer.update(
        grads,
        state.optimizer_state,
        state.params,
        value=loss,
        grad=grads,
        value_fn=lambda params: problem.loss(params, batch),
    )
    params: Params = optax.apply_updates(state.params, updates)

    def beyond(new: jax.Array, old: jax.Array) -> jax.Array:
        return jnp.any(~(jnp.abs(new - old) <= _like(controls.param_tol, new)))

    new, old, updates, grads = lax.stop_gradient((params, state.params, updates, grads))

    def any_moved() -> jax.Array:
        waiting = ~_any(jax.tree.map(jnp.any, updates)) & _any(jax.tree.map(jnp.any, grads))
        return _any(jax.tree.map(beyond, new, old)) | waiting

    # One entry that moved settles it, and almost always the first of a leaf does.
    first_moved = _any(jax.tree.map(beyond, *jax.tree.map(lambda leaf: leaf.ravel()[:1], (new, old))))
    return params, optimizer_state, _unless(first_moved, any_moved, params)


def _optimizer(settings: Settings, controls: Controls) -> Any:
    if isinstance(settings.optimizer, optax.GradientTransformation):
        return settings.optimizer
    build = settings.optimizer or gradient_descent
    return build(settings.schedule or controls.learning_rate)


def _entry(
    problem: Problem,
    settings: Settings,
    state: State,
    batch: Any,
    controls: Controls,
    loss: jax.Array,
    grads: Params,
    following: Params,
    grad_norm: jax.Array,
    step: jax.Array,
) -> History:
    """What step t adds to the history."""
    moves = jax.tree.map(jnp.subtract, following, state.params)
    makers: dict[str, Callable[[], Any]] = {
        "loss": lambda: loss,
        "grad_norm": lambda: grad_norm,
        "learning_rate": lambda: _like(rate_at(settings.schedule or controls.learning_rate, step), grad_norm),
        "update_norm": lambda: lax.stop_gradient(_norm(moves)),
        "predicted_decrease": lambda: -_like(inner(grads, moves), loss),
        "actual_decrease": lambda: loss - problem.loss(following, batch),
        "params": lambda: state.params,
    }
    return History(**{field: makers[field]() for field in settings.record})


def _recorded(settings: Settings, history: History, entry: History, step: jax.Array) -> History:
    index, between = jnp.divmod(step, settings.record_every)

    def write(values: jax.Array, value: jax.Array) -> jax.Array:
        if settings.record_every > 1:
            value = jnp.where(between == 0, value, values[index])
        return values.at[index].set(value)

    return jax.tree.map(write, history, entry)


def _norm(tree: Params) -> jax.Array:
    """Euclidean norm over all leaves, added up in float32 or wider."""
    dtype = _norm_dtype(tree)

    def sum_squares(leaf: jax.Array) -> jax.Array:
        if leaf.size < BRANCHED_FROM:
            return jnp.sum(jnp.square(leaf))
        return jnp.vdot(leaf, leaf, precision=lax.Precision.HIGHEST)  # which is vectorised where a sum is not

    return jnp.sqrt(sum(sum_squares(leaf.astype(dtype)) for leaf in jax.tree.leaves(tree)))


def _norm_dtype(tree: Params) -> Any:
    wide = any(leaf.dtype == jnp.float64 for leaf in jax.tree.leaves(tree))
    return jnp.float64 if wide else jnp.float32


def _all_finite(tree: Params) -> jax.Array:
    return ~_any(jax.tree.map(lambda leaf: jnp.any(~jnp.isfinite(leaf)), tree))


def _any(flags: Any) -> jax.Array:
    return functools.reduce(jnp.logical_or, jax.tree.leaves(flags))


def _unless(known: jax.Array, find: Callable[[], jax.Array], params: Params) -> jax.Array:
    """Whether `known` or else what `find` says, which is looked at only then if it takes longer than a branch."""
    if sum(leaf.size for leaf in jax.tree.leaves(params)) < BRANCHED_FROM:
        return find()
    return lax.cond(known, lambda: True, find)


def _where(condition: jax.Array, yes: Any, no: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)


def _like(value: Any, array: jax.Array) -> jax.Array:
    return jnp.asarray(value).astype(array.dtype)
