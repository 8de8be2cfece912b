"""Blocks of steps, judged together where nothing happened.

To judge a step (is it finite, did it move, is it the best so far?) takes longer than to take it where the problem
is small, and almost always nothing happened. So a block of steps is taken quietly first: of its losses only the
lowest and the highest are kept, and its last step is judged like any other. If they show that no step of the block
can have been an event, the block stands; otherwise it is taken again, step by step. Both ways lead to the same state.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from jaxgd.descent import batches
from jaxgd.descent.single_rows import take_rows
from jaxgd.descent.state import Controls, History, Settings, State, StopReason
from jaxgd.descent.step import all_finite, evaluated, like, norm, record, rule_of, take_step, where
from jaxgd.types import Params, Problem
from jaxgd.validation import check_rows

NUM_CHUNKS = 20
"""Of a run that the host drives: enough to stop early, few enough to cost nothing. Blocks are cut at the same steps."""

QUIET_SIZE = 2000
"""Steps of a block from which a second program for it is worth its compilation: half a second, for 20 ns a step."""

QUIET_BYTES = 2**20
"""Of the batch of a step, from which its judgement is nothing beside its evaluation."""

FULL_BATCHES = 16384
"""Full-batch steps of a block, at most; and at most as many as the history has entries, if that is more than 512."""

GATHERED_BYTES, GATHERED_STEPS = 2**23, 8192
"""Of the rows of several small batches that are fetched at once: fetched one by one, each waits for memory."""

SOLVED_STEPS = 512
"""Steps of one row that are solved for at once: their products with each other are as many squared."""

SOLVING_BACKENDS = ("gpu", "tpu")
"""Where a step of one row is all launch, and a block of them is solved for at once. On a CPU the loop is faster."""

MOST_PATIENCE = 64
"""Blocks taken step by step, at most, before the next is tried quietly; after each event twice as many."""


def size_of(problem: Problem, settings: Settings, batch: Any) -> int:
    """How many steps a block of a run has.

    Args:
      problem: what to minimise.
      settings: the static part.
      batch: all rows.

    Returns:
      The number; 0 where blocks do not pay.

    Raises:
      ValueError: see `batches.cut`.
      TypeError: see `batches.cut`.
    """
    epochs = batches.cut(batch, settings.batch_size)
    if not epochs.batch_size:
        most = min(FULL_BATCHES, max(512, settings.num_steps // settings.record_every))
        size = settings.num_steps // (NUM_CHUNKS * -(-settings.num_steps // (NUM_CHUNKS * most)))
        return size if _is_quiet(problem, settings, batch, size) else 0
    row = sum(leaf.dtype.itemsize * leaf[:1].size for leaf in jax.tree.leaves(batch))
    most = min(GATHERED_STEPS, GATHERED_BYTES // max(epochs.batch_size * row, 1), settings.num_steps // NUM_CHUNKS)
    if _solves(problem, settings):
        most = min(most, SOLVED_STEPS)
    whole = epochs.steps_per_epoch - 1
    return whole // -(-whole // most) if min(whole, most) > 1 else 0


def run(
    problem: Problem,
    settings: Settings,
    state: State,
    batch: Any,
    controls: Controls,
    firsts: jax.Array,
    rows: jax.Array | None,
    *,
    size: int,
    steps_per_epoch: int,
) -> State:
    """Run blocks of steps, none of which ends an epoch unless each does.

    Args:
      problem: what to minimise. Static.
      settings: the static part.
      state: before the first step.
      batch: all rows.
      controls: the traced scalars.
      firsts: `[blocks]` integers, the first step of each.
      rows: `[blocks, size, B]` of mini-batches; None for the full batch.
      size: steps of a block. Static.
      steps_per_epoch: static.

    Returns:
      The state after the last step.
    """
    full = rows is None
    quiet = _is_quiet(problem, settings, batch, size)

    def take_block(state: State, block: Any) -> tuple[State, None]:
        first, rows = block
        parts = None if full else batches.take(batch, rows)
        steps = first + jnp.arange(size, dtype=jnp.int32)

        def take(state: State, step_part: Any) -> tuple[State, History]:
            step, part = step_part
            part = batch if full else part
            return take_step(problem, settings, state, part, controls, step, steps_per_epoch, closing=full)

        def take_and_record(state: State, step_part: Any) -> tuple[State, None]:
            return record(settings, *take(state, step_part), step_part[0]), None

        if not quiet:
            return lax.scan(take_and_record, state, (steps, parts))[0], None

        # The history is written to beside the branches: what goes through them is copied.
        bare = state._replace(history=History())

        def take_quietly() -> _Taken:
            return _take_quietly(problem, settings, bare, batch, parts, controls, steps, steps_per_epoch)

        def take_judged() -> _Taken:
            after, entries = lax.scan(take, bare, (steps, parts))
            return _Taken(
                jnp.asarray(True), after, *(jax.tree.map(lambda a, i=i: a[i], entries) for i in (slice(-1), -1))
            )

        over = _in_all_lanes(state.stop_reason != StopReason.MAX_STEPS)
        nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(take_judged))
        untried = nothing._replace(stands=over, state=bare)
        taken = lax.cond(over | (state.wait > 0), lambda: untried, take_quietly)
        stands = _in_all_lanes(taken.stands)
        taken = lax.cond(stands, lambda: taken, take_judged)
        history = _record_block(settings, state.history, taken.entries, first)
        paced = _paced(state, stands)
        after = taken.state._replace(history=history, wait=paced.wait, patience=paced.patience)
        return record(settings, after, taken.last_entry, steps[-1]), None

    return lax.scan(take_block, state, (firsts, rows))[0]


def _paced(state: State, stands: jax.Array) -> State:
    """The state after a block that stands or, tried or not, was taken step by step."""
    tried = state.wait == 0
    wait = jnp.where(tried, state.patience, state.wait - 1)
    patience = jnp.where(tried, jnp.minimum(2 * state.patience, MOST_PATIENCE), state.patience)
    return state._replace(wait=jnp.where(stands, 0, wait), patience=jnp.where(stands, 1, patience))


class _Taken(NamedTuple):
    """A block.

    Attributes:
      stands: `[]` bool, whether the state is that of the steps judged one by one.
      state: after it, without the history.
      entries: of the history for all steps but the last, leading axis `size - 1`.
      last_entry: of the last.
    """

    stands: jax.Array
    state: State
    entries: History
    last_entry: History


@jax.custom_batching.custom_vmap
def _in_all_lanes(flag: jax.Array) -> jax.Array:
    """Whether it is so in all lanes of a vmap; one answer for all, so that a branch on it stays a branch."""
    return flag


@_in_all_lanes.def_vmap
def _in_all_lanes_batched(axis_size: int, in_batched: list[bool], flag: jax.Array) -> tuple[jax.Array, bool]:
    del axis_size, in_batched  # called for a batched flag alone
    return _in_all_lanes(jnp.all(flag, axis=0)), False


def _is_plain(problem: Problem, settings: Settings) -> bool:
    """Whether a step depends on nothing but where it starts, and keeps scalars: what the judgement below rests on."""
    ours = settings.optimizer is None and settings.schedule is None
    return ours and problem.value_and_grad is None and set(settings.record) <= {"loss", "grad_norm", "learning_rate"}


def _is_quiet(problem: Problem, settings: Settings, batch: Any, size: int) -> bool:
    """Whether blocks of so many steps are taken quietly first."""
    read = sum(jnp.size(leaf) * jnp.result_type(leaf).itemsize for leaf in jax.tree.leaves(batch))
    if settings.batch_size is not None:
        read = read * settings.batch_size // check_rows(batch)
    pays = size >= QUIET_SIZE or _solves(problem, settings)
    return pays and read < QUIET_BYTES and _is_plain(problem, settings)


def _solves(problem: Problem, settings: Settings) -> bool:
    known = problem.linear_form is not None and isinstance(problem.l2, int | float) and problem.l2 == 0
    single = settings.batch_size == 1
    return known and single and _is_plain(problem, settings) and jax.default_backend() in SOLVING_BACKENDS


class _Quiet(NamedTuple):
    """Where some unjudged steps led.

    Attributes:
      params: after them.
      optimizer_state: the rule's.
      epoch_loss: `[]`, that of before and their losses.
      lowest: `[]`, loss of any of them.
      highest: `[]`.
    """

    params: Params
    optimizer_state: Any
    epoch_loss: jax.Array
    lowest: jax.Array
    highest: jax.Array


def _take_quietly(
    problem: Problem,
    settings: Settings,
    state: State,
    batch: Any,
    parts: Any,
    controls: Controls,
    steps: jax.Array,
    steps_per_epoch: int,
) -> _Taken:
    """All steps but the last without a look, then the last; and whether none of them can have been an event."""
    full, size = parts is None, len(steps)

    def part(at: Any) -> Any:
        return batch if full else jax.tree.map(lambda array: array[at], parts)

    moved, kept = _move(problem, settings, state, batch, None if full else part(slice(-1)), controls, size - 1)

    def first_norm() -> jax.Array:
        if "grad_norm" in kept:
            return kept["grad_norm"][0]
        return lax.stop_gradient(norm(evaluated(problem, state.params, part(0))[1]))

    none = jnp.zeros((), jnp.int32)
    before_last = state._replace(
        params=moved.params,
        optimizer_state=moved.optimizer_state,
        best_loss=jnp.minimum(state.best_loss, moved.lowest) if full else state.best_loss,
        epoch_loss=state.epoch_loss if full else moved.epoch_loss,
        first_grad_norm=lax.cond(steps[0] == 0, first_norm, lambda: state.first_grad_norm),
        num_steps=state.num_steps + (size - 1),
        num_judged=state.num_judged + (size - 1),
        num_still=none,
        num_flat=none,
        num_excess=none if full else state.num_excess,
    )
    after, last_entry = take_step(
        problem, settings, before_last, part(-1), controls, steps[-1], steps_per_epoch, closing=full
    )

    # What stands still does so for good, and a number that is not finite stays: the last step tells of all.
    stands = (after.stop_reason == StopReason.MAX_STEPS) & (after.num_still == 0) & (after.num_flat == 0)
    stands &= all_finite(after.params)
    factor = like(controls.divergence_factor, moved.lowest)
    best = jnp.where(jnp.isinf(state.best_loss), state.first_loss, state.best_loss)
    lowest, highest = moved.lowest, moved.highest
    if full:
        # Under tolerances above 0 an earlier step may be still or flat where the last is neither.
        stands &= ~(jnp.asarray(controls.param_tol) > 0)
        if "grad_norm" in kept:
            stands &= jnp.all(kept["grad_norm"] > like(controls.grad_tol, kept["grad_norm"]))
        else:
            stands &= ~(jnp.asarray(controls.grad_tol) > 0)
        # The best is where it was, or at the last step.
        stands &= (moved.lowest >= state.best_loss) | (after.best_loss < moved.lowest)
        best = jnp.minimum(best, lowest)
        limit = jnp.maximum(state.first_loss, jnp.where(best >= 0, best + factor * best, state.first_loss))
    else:
        # Steps in a row that are still or flat cannot fill an epoch, since the last was neither.
        stands &= (state.num_still + size <= steps_per_epoch) & (state.num_flat + size <= steps_per_epoch)
        lowest = (state.epoch_loss + size * jnp.minimum(lowest, 0)) / steps_per_epoch
        highest = (state.epoch_loss + size * jnp.maximum(highest, 0)) / steps_per_epoch
        limit = factor * jnp.maximum(state.first_loss, best + factor * jnp.abs(best))
    stands &= (highest <= limit) & (lowest >= -factor * jnp.abs(state.first_loss))

    running = state.stop_reason == StopReason.MAX_STEPS
    kept["learning_rate"] = jnp.broadcast_to(like(controls.learning_rate, state.first_grad_norm), (size - 1,))
    entries = History(**{field: kept[field] for field in settings.record})
    return _Taken(stands | ~running, where(running, after, state), entries, last_entry)


def _move(
    problem: Problem, settings: Settings, state: State, batch: Any, parts: Any, controls: Controls, num_steps: int
) -> tuple[_Quiet, dict[str, jax.Array]]:
    """Steps on the parts, or on the batch where there are none, and what the history keeps of them."""
    rule = rule_of(settings, controls)

    def move(at: _Quiet, part: Any) -> tuple[_Quiet, dict[str, jax.Array]]:
        loss, grads = evaluated(problem, at.params, batch if parts is None else part)
        updates, optimizer_state = rule.update(grads, at.optimizer_state, at.params)
        kept = {"loss": loss} if "loss" in settings.record else {}
        if "grad_norm" in settings.record:
            kept["grad_norm"] = lax.stop_gradient(norm(grads))
        loss = lax.stop_gradient(loss)
        params: Params = optax.apply_updates(at.params, updates)
        lowest, highest = jnp.minimum(at.lowest, loss), jnp.maximum(at.highest, loss)
        return _Quiet(params, optimizer_state, at.epoch_loss + loss, lowest, highest), kept

    if parts is not None and _solves(problem, settings):
        assert problem.linear_form is not None
        rows = jax.tree.map(lambda array: array[:, 0], parts)
        taken = take_rows(problem.linear_form, state.params, rows, controls.learning_rate)
        losses = taken.loss
        epoch_loss = state.epoch_loss + jnp.sum(losses)
        moved = _Quiet(taken.params, state.optimizer_state, epoch_loss, jnp.min(losses), jnp.max(losses))
        return moved, {"loss": losses, "grad_norm": taken.grad_norm}
    infinite = jnp.full_like(state.epoch_loss, jnp.inf)
    start = _Quiet(state.params, state.optimizer_state, state.epoch_loss, infinite, -infinite)
    return lax.scan(move, start, parts, length=num_steps)


def _record_block(settings: Settings, history: History, entries: History, first: jax.Array) -> History:
    """Write the entries of the steps from `first` on that are to be kept."""
    every = settings.record_every

    def write(values: jax.Array, new: jax.Array) -> jax.Array:
        if every == 1:
            return lax.dynamic_update_slice_in_dim(values, new, first, 0)
        size = len(new)
        index = -(-first // every) + jnp.arange(size // every + 1, dtype=jnp.int32)
        at = index * every - first
        return values.at[jnp.where(at < size, index, len(values))].set(new[jnp.minimum(at, size - 1)], mode="drop")

    return jax.tree.map(write, history, entries)
