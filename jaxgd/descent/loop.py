"""descend(): one pure, jitted lax.scan loop.

A run that has stopped goes through the remaining steps masked, so that runs of different length live in one vmap.
Steps of long runs are taken in blocks.
"""

import os
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from jaxgd.data.arguments import arguments
from jaxgd.descent import batches, blocks
from jaxgd.descent.state import Controls, History, Result, Settings, State, StopReason
from jaxgd.descent.step import entry_of, norm_dtype, record, rule_of, take_step, where
from jaxgd.types import Params, Problem
from jaxgd.validation import check_choice, check_count, check_same_tree

DEFAULT_RECORD = ("loss", "grad_norm", "learning_rate")
"""The fields of the history that are kept if not told otherwise."""


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
    return _run(problem, settings, *arguments(problem, params, batch), key, controls)


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
    needed = num_lanes * settings.num_records * sum(sizes.get(field, scalar) for field in settings.record)
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
    grad_norm = jnp.zeros((), norm_dtype(params))
    zero = jnp.zeros((), jnp.int32)
    state = State(
        params=params,
        previous=params,
        best_params=params,
        best_loss=jnp.full_like(loss, jnp.inf),
        first_loss=loss / steps_per_epoch if problem.reduction == "sum" else loss,
        first_grad_norm=grad_norm,
        epoch_loss=jnp.zeros_like(loss),
        optimizer_state=rule_of(settings, controls).init(params),
        stop_reason=zero,
        num_steps=zero,
        num_judged=zero,
        num_still=zero,
        num_flat=zero,
        num_excess=zero,
        wait=zero,
        patience=jnp.ones((), jnp.int32),
        history=History(),
    )
    entry = entry_of(problem, settings, state, batch, controls, loss, params, params, grad_norm, zero)
    size = settings.num_records + (settings.record_every > 1)
    history = jax.tree.map(lambda value: jnp.zeros((size, *value.shape), value.dtype), entry)
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
    numbers = first_epoch + jnp.arange(num_epochs, dtype=jnp.int32)

    def run_epoch(state: State, epoch: jax.Array) -> tuple[State, None]:
        if not epochs.batch_size:
            return _recorded_step(problem, settings, state, batch, controls, epoch, 1, closing=True), None
        count = epochs.steps_per_epoch
        return run_part(problem, settings, state, batch, key, controls, epoch, 0, count), None

    if not epochs.batch_size:
        size = blocks.size_of(problem, settings, batch)
        blocked = size * (num_epochs // size) if size else 0
        if blocked:
            firsts = numbers[:blocked:size]
            state = blocks.run(problem, settings, state, batch, controls, firsts, None, size=size, steps_per_epoch=1)
        numbers = numbers[blocked:]
    return lax.scan(run_epoch, state, numbers)[0]


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
    num_last = epochs.num_rows - (per_epoch - 1) * size if closing else 0
    order = batches.row_order(epochs, key, epoch, first * size, whole * size + num_last)
    rows = order[: whole * size].reshape(whole, size)
    steps = epoch * per_epoch + first + jnp.arange(count, dtype=jnp.int32)

    def take_one(state: State, step_rows: tuple[jax.Array, jax.Array]) -> tuple[State, None]:
        step, rows = step_rows
        part = batches.take(batch, rows)
        return _recorded_step(problem, settings, state, part, controls, step, per_epoch, closing=False), None

    at_once = blocks.size_of(problem, settings, batch)
    blocked = at_once * (whole // at_once) if at_once else 0
    if blocked:
        firsts, gathered = steps[:blocked:at_once], rows[:blocked].reshape(-1, at_once, size)
        state = blocks.run(
            problem, settings, state, batch, controls, firsts, gathered, size=at_once, steps_per_epoch=per_epoch
        )
    if blocked < whole:
        state, _ = lax.scan(take_one, state, (steps[blocked:whole], rows[blocked:]))
    if closing:
        last = batches.take(batch, order[whole * size :])
        state = _recorded_step(problem, settings, state, last, controls, steps[-1], per_epoch, closing=True)
    return state


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
    params = where(broken, state.previous, state.params)
    loss = problem.loss(params, batch)
    if settings.batch_size is None:
        best_params = where(loss < state.best_loss, params, state.best_params)
    else:
        best_params = where(jnp.isinf(state.best_loss), params, state.best_params)
    last = jnp.maximum(state.num_judged - 1, 0) // settings.record_every

    def hold_after_stop(values: jax.Array) -> jax.Array:
        return values[jnp.minimum(jnp.arange(settings.num_records, dtype=last.dtype), last)]

    return Result(
        params=params,
        best_params=best_params,
        loss=loss,
        num_steps=state.num_steps - broken.astype(jnp.int32),
        stop_reason=jnp.where(running & ~finite, StopReason.NONFINITE, state.stop_reason),
        history=jax.tree.map(hold_after_stop, state.history),
    )


def _recorded_step(
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
    state, entry = take_step(problem, settings, state, batch, controls, step, steps_per_epoch, closing=closing)
    return record(settings, state, entry, step)
