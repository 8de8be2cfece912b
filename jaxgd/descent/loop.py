"""The plain loop: one step, and `lax.scan` over steps and epochs.

Accelerations replace `take_steps` by a function with the same signature; see `jaxgd.descent.fast`.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from jaxgd.descent import batches
from jaxgd.descent.history import entry_of, write
from jaxgd.descent.result import History, Result, StopReason
from jaxgd.descent.rule import rate_at
from jaxgd.descent.run import Run, State, finish, start
from jaxgd.descent.stopping import Point, Step, judge, norm
from jaxgd.types import Params


def run(run: Run, params: Params, batch: Any) -> Result:
    """Run descent from theta_0; `batch` holds all rows. Pure."""
    num_epochs, rest = divmod(run.num_steps, run.epochs.steps_per_epoch)
    state = take_epochs(run, start(run, params, batch), batch, num_epochs)
    if rest:  # an epoch that the number of steps cuts short: nothing that is judged once an epoch is judged in it
        state = take_part(run, state, batch, rest, closes=False)
    return finish(run, state, batch)


def take_step(run: Run, state: State, part: Any, closes: bool) -> tuple[State, History]:
    """One step: evaluate, update, judge. After a stop the parameters do not change, but counters go on.

    `part` contains the rows of the step. `closes` (static) is True if the step is the last of its epoch. Returns the
    state at theta_{t+1}, and the history entry of step t, which is not written yet.
    """
    rate = rate_at(run.learning_rate, state.step)
    # Loss and gradient are those of theta_t, so that the last loss of a run is only known to `finish`.
    loss, grads = run.evaluate(state.params, part)
    extra = {"value": loss, "grad": grads, "value_fn": lambda params: run.loss(params, part)}
    updates, rule_state = run.rule(rate).update(grads, state.rule_state, state.params, **extra)
    params = optax.apply_updates(state.params, updates)

    running = state.stop_reason == StopReason.MAX_STEPS
    grad_norm = lax.stop_gradient(norm(grads))
    before, after = Point(state.params, state.rule_state), Point(params, rule_state)
    step = Step(state.step, running, closes, loss, grads, grad_norm, updates, before, after)
    reason, watch = judge(run.limits, state.watch, step)
    # A step that ends the run is not taken, except NO_CHANGE, whose step is the proof; NONFINITE also takes one back.
    advance = running & ((reason == StopReason.MAX_STEPS) | (reason == StopReason.NO_CHANGE))
    retreat = running & (reason == StopReason.NONFINITE) & (state.num_steps > 0)
    # The state of the rule is not held back: after a stop nobody asks for it, and for Adam it is twice the parameters.
    following = state._replace(
        params=optax.tree.where(retreat, state.previous, optax.tree.where(advance, params, state.params)),
        previous=optax.tree.where(advance, state.params, state.previous),
        rule_state=rule_state,
        step=state.step + 1,
        last_step=jnp.where(running, state.step, state.last_step),
        num_steps=state.num_steps + advance.astype(jnp.int32) - retreat.astype(jnp.int32),
        stop_reason=jnp.where(running, reason, state.stop_reason),
        watch=watch,
    )
    return following, entry_of(
        run.record, step, rate, lambda params: run.loss(params, part), lambda params, v: run.hvp(params, v, part)
    )


def take_steps(run: Run, state: State, batch: Any, rows: jax.Array) -> State:
    """Take K steps. None of them ends an epoch, unless every step is an epoch.

    `rows` are `[K, B]` integers, the indices of the rows of each step; `[K, 0]` means K steps on all rows.
    """

    def take_one(state: State, row_indices: jax.Array) -> tuple[State, None]:
        part = batches.take(batch, row_indices) if run.epochs.batch_size else batch
        after, entry = take_step(run, state, part, run.epochs.steps_per_epoch == 1)
        return after._replace(history=write(state.history, entry, state.step, run.record_every)), None

    return lax.scan(take_one, state, rows)[0]


def take_epochs(run: Run, state: State, batch: Any, num_epochs: int) -> State:
    """Take the next `num_epochs` epochs (static)."""
    if not run.epochs.batch_size:
        return run.take_steps(run, state, batch, jnp.zeros((num_epochs, 0), jnp.int32))

    def take_epoch(state: State, _: None) -> tuple[State, None]:
        return take_part(run, state, batch, run.epochs.steps_per_epoch, closes=True), None

    return lax.scan(take_epoch, state, length=num_epochs)[0]


def take_part(run: Run, state: State, batch: Any, num_steps: int, closes: bool) -> State:
    """Take the next `num_steps` steps (static) of an epoch; `closes` (static) is True if they include its last step."""
    size, per_epoch = run.epochs.batch_size, run.epochs.steps_per_epoch
    epoch, first = lax.div(state.step, jnp.int32(per_epoch)), lax.rem(state.step, jnp.int32(per_epoch))
    # The last batch of an epoch holds the rows that are left, and so has a shape of its own.
    whole = num_steps - 1 if closes else num_steps
    num_last = run.epochs.num_rows - (per_epoch - 1) * size if closes else 0
    order = run.order(epoch, first * size, whole * size + num_last)
    if whole:
        state = run.take_steps(run, state, batch, order[: whole * size].reshape(whole, size))
    if closes:
        after, entry = take_step(run, state, batches.take(batch, order[whole * size :]), closes)
        state = after._replace(history=write(state.history, entry, state.step, run.record_every))
    return state
