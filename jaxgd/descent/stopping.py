"""All stop rules of a run, and the test that decides whether the steps of a block need to be judged.

The best parameters, divergence, and convergence to rounding are judged once in an epoch, at its last step. With full
batches every step is an epoch.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from jaxgd.descent.result import StopReason
from jaxgd.types import Params


class Limits(NamedTuple):
    """The limits at which a run stops. The first three are arguments of `descend`; the others are static."""

    grad_tol: Any
    param_tol: Any
    divergence_factor: Any
    steps_per_epoch: int
    patience: int = 3  # epochs in a row beyond the limit before a run is called diverged
    look_steps: int = 16  # about as many steps lie between two looks back, or an epoch if that is longer
    cycle_ulps: int = 512  # size of a cycle, in units of rounding of the largest parameter
    return_ulps: int = 32  # how close a return must come, in units of rounding of each parameter
    return_epochs: int = 1024  # epochs after which such a return counts


class Point(NamedTuple):
    """Everything on which the next step depends, if the rate and the rows do not change."""

    params: Params
    rule_state: Any


class Step(NamedTuple):
    """One step to be judged."""

    number: jax.Array  # [] int32, t
    running: jax.Array  # [] bool, whether the run had not stopped before
    closes: Any  # whether it ends its epoch; static
    loss: jax.Array  # [], at theta_t
    grads: Params
    grad_norm: jax.Array  # []
    updates: Params  # what the rule made of the gradient
    before: Point  # at theta_t
    after: Point  # at theta_{t+1}


class Anchor(NamedTuple):
    """An earlier point to which the run may return. Times are counted in comparisons with it."""

    point: Point
    near: jax.Array  # [] bool, whether the parameters have stayed in its neighbourhood
    age: jax.Array  # [] int32, looks since the best loss last improved
    since: jax.Array  # [] int32, looks since the point was kept
    best_loss: jax.Array  # [], at the last look


class Watch(NamedTuple):
    """The state of the stop rules."""

    best_params: Params  # theta with the lowest loss of an epoch
    best_loss: jax.Array  # [], infinite before the first epoch is over
    first_loss: jax.Array  # [], of the whole batch at the start, in the size of the loss of one step
    first_grad_norm: jax.Array  # [], of the first step
    epoch_loss: jax.Array  # [], sum over the steps of the epoch so far
    num_still: jax.Array  # [] int32, updates in a row that changed nothing
    num_flat: jax.Array  # [] int32, small gradients in a row
    num_excess: jax.Array  # [] int32, epochs in a row beyond the limit of divergence
    has_moved: Any  # [] bool a leaf, whether it was ever updated; None for a rule that cannot wait
    anchor: Anchor | None  # None for a run that has no reason to repeat itself


def begin(point: Point, first_loss: jax.Array, may_wait: bool, may_repeat: bool) -> Watch:
    """The state of the stop rules before the first step.

    `may_wait`: the rule has a state or the rate is a schedule. `may_repeat`: rate and order of rows stay the same.
    """
    zero, false, infinite = jnp.zeros((), jnp.int32), jnp.asarray(False), jnp.full_like(first_loss, jnp.inf)
    # Without a state and with a fixed rate every update is a multiple of its gradient, and none is held back.
    has_moved = jax.tree.map(lambda leaf: false, point.params) if may_wait else None
    anchor = Anchor(point, false, zero, zero, infinite) if may_repeat else None
    first_grad_norm, epoch_loss = jnp.zeros_like(norm(point.params)), jnp.zeros_like(first_loss)
    return Watch(point.params, infinite, first_loss, first_grad_norm, epoch_loss, zero, zero, zero, has_moved, anchor)


def judge(limits: Limits, watch: Watch, step: Step) -> tuple[jax.Array, Watch]:
    """Judge one step: its `StopReason` (`[]` int32; MAX_STEPS means that the run continues), and the new state."""
    step = lax.stop_gradient(step._replace(closes=None))._replace(closes=step.closes)
    watch = watch._replace(first_grad_norm=jnp.where(step.number == 0, step.grad_norm, watch.first_grad_norm))
    watch = _follow_loss(limits, watch, step)
    watch = _follow_params(limits, watch, step)
    settled, watch = _look_back(limits, watch, step)
    # From the weakest to the strongest: a later line overrides those before it.
    reason = jnp.where(settled | (watch.num_still >= limits.steps_per_epoch), StopReason.NO_CHANGE, 0)
    reason = jnp.where(watch.num_flat >= limits.steps_per_epoch, StopReason.GRADIENT_SMALL, reason)
    reason = jnp.where(watch.num_excess >= limits.patience, StopReason.DIVERGED, reason)
    # Not the Euclidean norm, which overflows before the gradient does.
    finite = jnp.isfinite(step.loss) & jnp.isfinite(norm(step.grads, ord="inf"))
    return jnp.where(finite, reason, StopReason.NONFINITE).astype(jnp.int32), watch


def _follow_loss(limits: Limits, watch: Watch, step: Step) -> Watch:
    """Update the best parameters, and compare the mean loss of the epoch with the best to detect divergence."""
    # Divided by the steps of an epoch, the sum so far bounds the mean from below, for losses that are not negative.
    epoch_loss = watch.epoch_loss + step.loss
    mean = epoch_loss / limits.steps_per_epoch
    factor = _like(limits.divergence_factor, mean)
    best = jnp.where(jnp.isinf(watch.best_loss), watch.first_loss, watch.best_loss)
    # A loss below its starting value is never divergence, however far it is above a tiny best.
    limit = jnp.maximum(watch.first_loss, best + factor * jnp.abs(best))
    steeper = step.grad_norm > _like(factor, step.grad_norm) * watch.first_grad_norm
    unbounded = (mean < -factor * jnp.abs(watch.first_loss)) & steeper
    lost = ((mean > factor * limit) & (limit > 0)) | unbounded
    num_excess = jnp.where(lost, limits.patience, watch.num_excess)
    if not step.closes:
        return watch._replace(epoch_loss=epoch_loss, num_excess=num_excess)
    better = step.running & (mean < watch.best_loss)
    return watch._replace(
        best_params=optax.tree.where(better, step.before.params, watch.best_params),
        best_loss=jnp.where(better, mean, watch.best_loss),
        epoch_loss=jnp.zeros_like(epoch_loss),
        num_excess=jnp.where(lost | ((mean > limit) & (limit > 0)), num_excess + 1, 0),
    )


def _follow_params(limits: Limits, watch: Watch, step: Step) -> Watch:
    """Count the steps that changed no parameter by more than `param_tol`, and the steps with a small gradient."""
    if watch.has_moved is not None:
        moving = jax.tree.map(jnp.any, step.updates)
        watch = watch._replace(has_moved=jax.tree.map(jnp.logical_or, watch.has_moved, moving))
    # Compared in the parameters, not by the updates: one smaller than half a unit of rounding moves nothing.
    still = _all_within(step.after.params, step.before.params, lambda leaf: _like(limits.param_tol, leaf))
    still &= ~_is_waiting(watch, step)
    flat = step.grad_norm <= _like(limits.grad_tol, step.grad_norm)
    return watch._replace(
        num_still=jnp.where(still, watch.num_still + 1, 0), num_flat=jnp.where(flat, watch.num_flat + 1, 0)
    )


def _is_waiting(watch: Watch, step: Step) -> jax.Array:
    """Whether the rule returns only zero updates, because it warms up from rate 0 or accumulates gradients.

    Leaves that were never updated, while others were, are constant (`optax.set_to_zero`). They do not count as waiting.
    """
    if watch.has_moved is None:
        return jnp.asarray(False)
    pulled = jax.tree.map(lambda g, moved: jnp.any(g) & (moved | ~_any(watch.has_moved)), step.grads, watch.has_moved)
    return ~_any(jax.tree.map(jnp.any, step.updates)) & _any(pulled)


def _look_back(limits: Limits, watch: Watch, step: Step) -> tuple[jax.Array, Watch]:
    """Whether the parameters cycle through neighbouring values, so that the run has converged to within rounding.

    If a step depends only on the point where it starts, a run that returns to an earlier point repeats itself forever.
    One earlier point is kept. It is replaced after 1, 2, 4, 8, ... comparisons without a new best loss, so it
    eventually lies on the cycle, and a cycle of any period is found (Brent 1980).

    With many parameters cycles are too long for this. Therefore the run has also converged if, after many epochs
    without a new best loss, every parameter returns to within a few units of its rounding. A parameter that moves in
    one direction by one unit per epoch would be further away by then.

    Neither rule applies if the parameters have left the neighbourhood of the earlier point in between: a run that jumps
    between the two sides of a valley has not converged.
    """
    anchor = watch.anchor
    every = limits.look_steps // limits.steps_per_epoch | 1  # odd, to see both sides of an oscillation
    if anchor is None or not step.closes:
        return jnp.asarray(False), watch

    def ulp(leaf: jax.Array) -> float:
        return float(jnp.finfo(leaf.dtype).eps)

    def look(anchor: Anchor) -> tuple[jax.Array, Anchor]:
        point, kept, largest = step.before, anchor.point, norm(anchor.point.params, ord="inf")
        near = anchor.near & _all_within(
            point.params, kept.params, lambda leaf: limits.cycle_ulps * ulp(leaf) * _like(largest, leaf)
        )
        same = ~_any(jax.tree.map(lambda a, b: jnp.any(a != b), point, kept))
        back = (anchor.since + 1) * every >= limits.return_epochs
        back &= _all_within(point.params, kept.params, lambda leaf: limits.return_ulps * ulp(leaf) * jnp.abs(leaf))
        # A new best is progress and so is waiting: both start the count again.
        again = (watch.best_loss < anchor.best_loss) | _is_waiting(watch, step)
        age = jnp.where(again, 0, anchor.age + 1)
        renew = (age & (age - 1)) == 0
        since = jnp.where(renew, 0, anchor.since + 1)
        settled = (age > 0) & near & (same | back) & (jnp.asarray(limits.param_tol) >= 0)
        return settled, Anchor(optax.tree.where(renew, point, kept), near | renew, age, since, watch.best_loss)

    # The number of the step is the same in all lanes of a vmap, so that the branch stays a branch.
    period = jnp.full_like(step.number, every * limits.steps_per_epoch)
    due = lax.rem(step.number, period) == period - 1
    settled, anchor = lax.cond(due, look, lambda anchor: (jnp.asarray(False), anchor), anchor)
    return settled, watch._replace(anchor=anchor)


class Unjudged(NamedTuple):
    """What is known about the steps of a block before its last step, which were not judged."""

    num_steps: int
    epoch_loss: jax.Array  # [], sum over the epoch so far, these steps included
    lowest: jax.Array  # [], of their losses
    highest: jax.Array  # []
    lowest_grad_norm: jax.Array | None  # []; None if the norms were not computed


def skip(limits: Limits, watch: Watch, seen: Unjudged) -> Watch:
    """The state of the stop rules before the last step of a block, if no stop rule applied at an earlier step."""
    none = jnp.zeros((), jnp.int32)
    if limits.steps_per_epoch > 1:
        return watch._replace(epoch_loss=seen.epoch_loss, num_still=none, num_flat=none)
    best_loss = jnp.minimum(watch.best_loss, seen.lowest)
    return watch._replace(best_loss=best_loss, num_still=none, num_flat=none, num_excess=none)


def nothing_happened(limits: Limits, watch: Watch, seen: Unjudged, reason: jax.Array, last: Watch) -> jax.Array:
    """Whether no stop rule can have applied at a step of a block before its last, so that these need not be judged.

    `watch` is the state before the block, and `seen` describes its steps before the last. `reason` and `last` are the
    result of `judge` for the last step after `skip`.
    """
    # If an earlier step had changed nothing, or met a number that is not finite, so would the last.
    stands = (reason == StopReason.MAX_STEPS) & (last.num_still == 0) & (last.num_flat == 0)
    factor = _like(limits.divergence_factor, seen.lowest)
    best = jnp.where(jnp.isinf(watch.best_loss), watch.first_loss, watch.best_loss)
    lowest, highest, steps, per_epoch = seen.lowest, seen.highest, seen.num_steps, limits.steps_per_epoch
    if per_epoch > 1:
        # Steps in a row that are still or flat cannot fill an epoch, since the last was neither.
        stands &= (watch.num_still + steps < per_epoch) & (watch.num_flat + steps < per_epoch)
        lowest = (watch.epoch_loss + (steps + 1) * jnp.minimum(lowest, 0)) / per_epoch
        highest = (watch.epoch_loss + (steps + 1) * jnp.maximum(highest, 0)) / per_epoch
        limit = factor * jnp.maximum(watch.first_loss, best + factor * jnp.abs(best))
        return stands & (highest <= limit) & (lowest >= -factor * jnp.abs(watch.first_loss))
    # Under tolerances above 0 an earlier step may be still or flat though the last is neither.
    stands &= ~(jnp.asarray(limits.param_tol) > 0)
    if seen.lowest_grad_norm is None:
        stands &= ~(jnp.asarray(limits.grad_tol) > 0)
    else:
        stands &= seen.lowest_grad_norm > _like(limits.grad_tol, seen.lowest_grad_norm)
    # A run in a cycle finds no new best. So if the last step sets a new best, no earlier step came round, and the next
    # look back starts the count again. A run without cycle detection may also have found no new best at all.
    newest = last.best_loss < jnp.minimum(lowest, watch.best_loss)
    looks = jnp.asarray(limits.param_tol) >= 0 if watch.anchor is not None else jnp.asarray(False)
    stands &= newest | ((lowest >= watch.best_loss) & ~looks)
    best = jnp.minimum(best, lowest)
    limit = jnp.maximum(watch.first_loss, jnp.where(best >= 0, best + factor * best, watch.first_loss))
    return stands & (highest <= limit) & (lowest >= -factor * jnp.abs(watch.first_loss))


def norm(tree: Params, ord: str | None = None) -> jax.Array:
    """Norm over all leaves, Euclidean or with `ord="inf"` the largest absolute value: `[]`, float32 or wider."""
    wide = any(leaf.dtype == jnp.float64 for leaf in jax.tree.leaves(tree))
    tree = optax.tree.cast(tree, jnp.float64 if wide else jnp.float32)
    if ord is not None:
        return optax.tree.norm(tree, ord=ord)
    # XLA vectorises a product on a CPU, but not a sum. For few numbers `optax.tree.norm` costs a kernel more.
    if optax.tree.size(tree) >= 64:
        return jnp.sqrt(optax.tree.vdot(tree, tree))
    return jnp.sqrt(sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(tree)))


def _all_within(new: Params, old: Params, distance: Any) -> jax.Array:
    """Whether no entry is further from the old one than `distance(old leaf)`; NaN counts as further."""
    return ~_any(jax.tree.map(lambda a, b: jnp.any(~(jnp.abs(a - b) <= distance(b))), new, old))


def _any(flags: Any) -> jax.Array:
    return functools.reduce(jnp.logical_or, jax.tree.leaves(flags))


def _like(value: Any, array: jax.Array) -> jax.Array:
    return jnp.asarray(value).astype(array.dtype)
