"""Blocks of steps, of which only the last step is judged.

For a small problem, judging a step (is it finite, did it change the parameters, is it the best so far?) takes longer
than the step, and almost never has a consequence. So a block of steps is first taken without judging them. Only the
lowest and the highest of its losses are kept, and the last step is judged like any other. From these,
`stopping.nothing_happened` decides whether a stop rule can have applied within the block. If not, the block is valid.
Otherwise the block is taken again, step by step. Both ways lead to the same state.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from jaxgd.descent import batches, loop
from jaxgd.descent.history import write
from jaxgd.descent.result import History, StopReason
from jaxgd.descent.run import Run, State
from jaxgd.descent.stopping import Unjudged, norm, nothing_happened, skip
from jaxgd.types import Params

NUM_CHUNKS = 20
"""The number of chunks of a run of `fit`: enough to stop early, few enough to cost nothing. Blocks end with chunks."""

MAX_FULL_STEPS = 16384
"""The largest number of full-batch steps in a block. It is also limited by the entries of the history, if these exceed
512."""

GATHERED_BYTES, GATHERED_STEPS = 2**23, 8192
"""The largest number of bytes and steps of mini-batches that are loaded together. Loaded singly, each waits for
memory."""

MAX_FAILURES = 6
"""After n failed blocks in a row, the next 2^n blocks are taken step by step; n is at most this number."""


class Moved(NamedTuple):
    """The result of steps that were not judged."""

    params: Params
    rule_state: Any
    epoch_loss: jax.Array  # [], sum over the epoch so far, these steps included
    lowest: jax.Array  # [], of their losses
    highest: jax.Array  # []
    entries: dict[str, jax.Array]  # [K] each, of the fields "loss" and "grad_norm" those that are recorded


class _Taken(NamedTuple):
    """A block that was taken."""

    stands: jax.Array  # [] bool, whether the state is that of the steps judged one by one
    state: State  # after it, without the history
    entries: History  # of all steps but the last, leading axis K - 1
    last_entry: History


Move = Callable[[Run, State, Any, int], Moved]
"""`(run, state, parts, num_steps) -> Moved`: steps on the parts, leading axis K; or on all rows, if K is 0."""


def block_steps(run: Run, batch: Any, most: int = GATHERED_STEPS) -> int:
    """The number of steps in a block of a run: `most` for mini-batches, 0 if an epoch is too short for blocks."""
    if not run.epochs.batch_size:
        most = min(MAX_FULL_STEPS, max(512, run.num_steps // run.record_every))
        # Twenty chunks of a run that the host drives hold whole blocks of one length.
        return run.num_steps // (NUM_CHUNKS * -(-run.num_steps // (NUM_CHUNKS * most)))
    most = min(most, GATHERED_BYTES // max(step_bytes(run, batch), 1), run.num_steps // NUM_CHUNKS)
    # Equal blocks: 10,001 steps are two of 5000 and the last, rather than one of 8192 and 1809 judged steps.
    whole = run.epochs.steps_per_epoch - 1  # the last batch of an epoch may be smaller, and is taken on its own
    return whole // -(-whole // most) if min(whole, most) > 1 else 0


def step_bytes(run: Run, batch: Any) -> int:
    """Bytes of the rows of one step."""
    total = sum(jnp.size(leaf) * jnp.result_type(leaf).itemsize for leaf in jax.tree.leaves(batch))
    return total * run.epochs.batch_size // run.epochs.num_rows if run.epochs.batch_size else total


def steps_in_blocks(size: int, move: Move) -> Callable[[Run, State, Any, jax.Array], State]:
    """A function like `loop.take_steps` that works in blocks of `size` steps.

    `move` takes the steps of a block unjudged, for a rule without a state and a rate that is a number.
    """

    def take_steps(run: Run, state: State, batch: Any, rows: jax.Array) -> State:
        blocked = len(rows) // size * size

        def take_block(state: State, row_indices: jax.Array) -> tuple[State, None]:
            parts = batches.take(batch, row_indices) if run.epochs.batch_size else batch
            return _take_block(run, state, parts, size, move), None

        if blocked:
            blocks = rows[:blocked].reshape(blocked // size, size, rows.shape[1])
            state = lax.scan(take_block, state, blocks)[0]
        # What does not fill a block is taken by the plain loop.
        return loop.take_steps(run, state, batch, rows[blocked:]) if blocked < len(rows) else state

    return take_steps


def move(run: Run, state: State, parts: Any, num_steps: int) -> Moved:
    """Take steps one by one without judging them."""
    rule = run.rule(run.learning_rate)  # the rate is a number here, the same at every step
    full = not run.epochs.batch_size

    def take_one(at: Moved, part: Any) -> tuple[Moved, dict[str, jax.Array]]:
        loss, grads = run.evaluate(at.params, parts if full else part)
        updates, rule_state = rule.update(grads, at.rule_state, at.params)
        entry = {"loss": loss} if "loss" in run.record else {}
        if "grad_norm" in run.record:
            entry["grad_norm"] = lax.stop_gradient(norm(grads))
        # Two running extremes in place of all losses: what is not recorded is not kept.
        loss = lax.stop_gradient(loss)
        lowest, highest = jnp.minimum(at.lowest, loss), jnp.maximum(at.highest, loss)
        params: Params = optax.apply_updates(at.params, updates)
        return Moved(params, rule_state, at.epoch_loss + loss, lowest, highest, {}), entry

    epoch_loss = state.watch.epoch_loss
    infinite = jnp.full_like(epoch_loss, jnp.inf)
    begun = Moved(state.params, state.rule_state, epoch_loss, infinite, -infinite, {})
    moved, entries = lax.scan(take_one, begun, None if full else parts, length=num_steps)
    return moved._replace(entries=entries)


def _take_block(run: Run, state: State, parts: Any, size: int, move: Move) -> State:
    """Take a block without judging its steps; if a stop rule can have applied, take it again step by step."""
    full = not run.epochs.batch_size
    # The history is written to beside the branches: what goes through them is copied.
    bare = state._replace(history=History())

    def take_judged() -> _Taken:
        def take_one(state: State, part: Any) -> tuple[State, History]:
            return loop.take_step(run, state, parts if full else part, closes=full)

        after, entries = lax.scan(take_one, bare, None if full else parts, length=size)
        before_last, last = (jax.tree.map(lambda a, i=i: a[i], entries) for i in (slice(-1), -1))
        return _Taken(jnp.asarray(True), after, before_last, last)

    wait, failures = state.pace  # blocks until the next try, and tries in a row that failed
    over = _in_all_lanes(state.stop_reason != StopReason.MAX_STEPS)
    # Both branches must have one form, so that a block which is not tried gives zeros that nobody reads.
    nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(take_judged))
    untried = nothing._replace(stands=over, state=bare._replace(step=bare.step + size))
    taken = lax.cond(over | (wait > 0), lambda: untried, lambda: _take_unjudged(run, bare, parts, size, move))
    stands = _in_all_lanes(taken.stands)
    # The second way is compiled in any case; that is why short runs have no blocks.
    taken = lax.cond(stands, lambda: taken, take_judged)
    # A try that fails costs as much as the block, so that each failure doubles the wait for the next.
    waiting = jnp.stack([wait - 1, failures])
    failed = jnp.stack([jnp.left_shift(1, failures), jnp.minimum(failures + 1, MAX_FAILURES)])
    pace = jnp.where(stands, jnp.zeros_like(waiting), jnp.where(wait == 0, failed, waiting))
    history = _write_block(state.history, taken.entries, state.step, run.record_every)
    history = write(history, taken.last_entry, state.step + (size - 1), run.record_every)
    return taken.state._replace(history=history, pace=pace)


def _take_unjudged(run: Run, state: State, parts: Any, size: int, move: Move) -> _Taken:
    """Take all steps but the last unjudged, judge the last, and decide whether a stop rule can have applied before."""
    full, watch = not run.epochs.batch_size, state.watch

    def part(at: Any) -> Any:
        return parts if full else jax.tree.map(lambda array: array[at], parts)

    moved = move(run, state, part(slice(-1)), size - 1)
    norms = moved.entries.get("grad_norm")
    lowest_norm = None if norms is None else jnp.min(norms)
    seen = Unjudged(size - 1, moved.epoch_loss, moved.lowest, moved.highest, lowest_norm)

    # Divergence without bound is judged by the first gradient, which no judged step of this block would see.
    def first_norm() -> jax.Array:
        return lax.stop_gradient(norm(run.evaluate(state.params, part(0))[1])) if norms is None else norms[0]

    first_grad_norm = lax.cond(state.step == 0, first_norm, lambda: watch.first_grad_norm)
    before_last = state._replace(
        params=moved.params,
        rule_state=moved.rule_state,
        step=state.step + (size - 1),
        num_steps=state.num_steps + (size - 1),
        watch=skip(run.limits, watch, seen)._replace(first_grad_norm=first_grad_norm),
    )
    after, last_entry = loop.take_step(run, before_last, part(-1), closes=full)
    stands = nothing_happened(run.limits, watch, seen, after.stop_reason, after.watch)
    # The step that was judged is finite at its start; its end is where the next block starts unjudged.
    stands &= jnp.isfinite(norm(after.params, ord="inf"))
    # A lane that had stopped stays where it was, but counts its steps as all lanes do.
    running = state.stop_reason == StopReason.MAX_STEPS
    kept = optax.tree.where(running, after, state)._replace(step=after.step, pace=state.pace)
    rates = jnp.broadcast_to(jnp.asarray(run.learning_rate).astype(first_grad_norm.dtype), (size - 1,))
    entries = {"learning_rate": rates, **moved.entries}
    return _Taken(stands | ~running, kept, History(**{field: entries[field] for field in run.record}), last_entry)


@jax.custom_batching.custom_vmap
def _in_all_lanes(flag: jax.Array) -> jax.Array:
    """Whether a flag is true in every lane of a vmap: one answer for all, so that `lax.cond` on it branches."""
    return flag


@_in_all_lanes.def_vmap
def _in_all_lanes_batched(axis_size: int, in_batched: list[bool], flag: jax.Array) -> tuple[jax.Array, bool]:
    del axis_size, in_batched  # called for a batched flag only
    return _in_all_lanes(jnp.all(flag, axis=0)), False


def _write_block(history: History, entries: History, first: jax.Array, every: int) -> History:
    """Write the entries of the recorded steps from `first` on."""

    def put(values: jax.Array, new: jax.Array) -> jax.Array:
        if every == 1:
            return lax.dynamic_update_slice_in_dim(values, new, first, 0)
        # A block covers at most so many entries of the history; those beyond its end are dropped.
        size = len(new)
        index = -(-first // every) + jnp.arange(size // every + 1, dtype=jnp.int32)
        at = index * every - first
        return values.at[jnp.where(at < size, index, len(values))].set(new[jnp.minimum(at, size - 1)], mode="drop")

    return jax.tree.map(put, history, entries)
