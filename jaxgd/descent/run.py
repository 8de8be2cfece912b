"""A run: its constants, its state, how it starts and how it ends."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from jaxgd.descent.batches import Epochs
from jaxgd.descent.history import entry_of
from jaxgd.descent.result import History, Result, StopReason
from jaxgd.descent.rule import rate_at
from jaxgd.descent.stopping import Limits, Point, Step, Watch, begin
from jaxgd.types import Params


class Run(NamedTuple):
    """Everything that does not change during a run."""

    loss: Callable[..., jax.Array]  # (params, part) -> []; a part is the rows of one step
    evaluate: Callable[..., tuple[jax.Array, Params]]  # (params, part) -> loss and gradient
    hvp: Callable[..., Params]  # (params, vector, part) -> the Hessian of the loss times the vector
    reduction: str  # whether the loss is the "mean" or the "sum" over rows; static
    rule: Callable[[Any], optax.GradientTransformationExtraArgs]  # rate of the step -> (init, update)
    learning_rate: Any  # eta, [], or a function step -> eta
    descends: bool  # whether the rule is gradient descent at that rate, rather than one of optax; static
    limits: Limits  # when to stop
    epochs: Epochs  # how rows are cut into batches; static
    order: Callable[..., jax.Array]  # (epoch, first, count) -> so many rows of its order; see `batches.row_order`
    shuffles: bool  # whether that is another order in every epoch; static
    num_steps: int  # at most; static
    record: tuple[str, ...]  # fields of the history; static
    record_every: int  # steps between two of its entries; static
    take_steps: Callable[..., "State"]  # `loop.take_steps`, or a faster one


class State(NamedTuple):
    """The carry of the loop."""

    params: Params  # theta_t
    previous: Params  # theta_{t-1}, at which loss and gradient were finite
    rule_state: Any
    step: jax.Array  # [] int32, t; goes on after a stop, so that it is the same in all lanes
    last_step: jax.Array  # [] int32, the last step before the stop
    num_steps: jax.Array  # [] int32, updates that led to params
    stop_reason: jax.Array  # [] int32; MAX_STEPS while running
    watch: Watch  # what the stop rules remember
    history: History  # of the recorded steps
    pace: jax.Array  # [2] int32, zeros; for an acceleration to note how its attempts fared


def start(run: Run, params: Params, batch: Any) -> State:
    """The state before the first step."""
    zero = jnp.zeros((), jnp.int32)
    rate = rate_at(run.learning_rate, zero)
    point = Point(params, run.rule(rate).init(params))
    loss = lax.stop_gradient(run.loss(params, batch))
    # What divergence is measured by. The sum over all rows is that of an epoch, and a step has its share of it.
    first_loss = loss / run.epochs.steps_per_epoch if run.reduction == "sum" else loss
    scheduled = callable(run.learning_rate)
    may_wait = scheduled or bool(jax.tree.leaves(point.rule_state))
    watch = begin(point, first_loss, may_wait=may_wait, may_repeat=not (scheduled or run.shuffles))
    # A step that never was, for the shapes and dtypes of an entry: nothing of it is computed.
    step = Step(zero, zero, None, loss, params, watch.first_grad_norm, params, point, point)
    entry = entry_of(run.record, step, rate, lambda params: loss, lambda params, vector: vector)
    num_entries = -(-run.num_steps // run.record_every) + (run.record_every > 1)
    # Whole from the start, since a scan cannot make its carry longer.
    trace = jax.tree.map(lambda value: jnp.zeros((num_entries, *value.shape), value.dtype), entry)
    return State(params, params, point.rule_state, zero, zero, zero, zero, watch, trace, jnp.zeros(2, jnp.int32))


def finish(run: Run, state: State, batch: Any) -> Result:
    """The result of a run; evaluates the last parameters on all rows."""
    running = state.stop_reason == StopReason.MAX_STEPS
    finite = jnp.isfinite(run.loss(state.params, batch))
    broken = running & ~finite & (state.num_steps > 0)
    params = optax.tree.where(broken, state.previous, state.params)
    loss, best_loss = run.loss(params, batch), state.watch.best_loss
    # The last parameters of a run on the full batch were not judged in a step; those of an epoch are never compared.
    last_is_best = jnp.isinf(best_loss) if run.epochs.batch_size else loss < best_loss
    # Entries after the stop repeat the one at the stop; the entry that took what is not kept is left out.
    kept = jnp.arange(-(-run.num_steps // run.record_every), dtype=jnp.int32)
    kept = jnp.minimum(kept, lax.div(state.last_step, jnp.int32(run.record_every)))
    history: History = jax.tree.map(lambda values: values[kept], state.history)
    history = history._replace(step=kept * jnp.int32(run.record_every) if run.record else None)
    return Result(
        params=params,
        best_params=optax.tree.where(last_is_best, params, state.watch.best_params),
        loss=loss,
        num_steps=state.num_steps - broken.astype(jnp.int32),
        stop_reason=jnp.where(running & ~finite, StopReason.NONFINITE, state.stop_reason),
        history=history,
        learning_rate=jnp.asarray(rate_at(run.learning_rate, state.last_step), loss.dtype) if run.descends else None,
    )
