"""One step of descent: evaluate, judge, move.

A step evaluates the loss and the gradient of one batch at theta_t, judges them, and moves. What is judged once an
epoch (the best parameters, divergence) is judged at the epoch's last batch; for the full batch every step is an epoch.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from jaxgd.descent.rule import gradient_descent, rate_at
from jaxgd.descent.state import Controls, History, Settings, State, StopReason
from jaxgd.theory.taylor import inner
from jaxgd.types import Params, Problem, evaluate

DIVERGENCE_PATIENCE = 3
"""Epochs in a row whose loss must exceed the limit before a run is called diverged."""

BRANCHED_FROM = 64
"""Numbers in the parameters from which a branch costs less than a look at all of them."""


def take_step(
    problem: Problem,
    settings: Settings,
    state: State,
    batch: Any,
    controls: Controls,
    step: jax.Array,
    steps_per_epoch: int,
    *,
    closing: bool,
) -> tuple[State, History]:
    """One step; in a run that has stopped it changes nothing.

    Args:
      problem: what to minimise. Static.
      settings: the static part.
      state: at theta_t; its history is not looked at.
      batch: of this step.
      controls: the traced scalars.
      step: `[]` integer, t.
      steps_per_epoch: static.
      closing: whether the batch ends its epoch. Static.

    Returns:
      The state at theta_{t+1}, and the step's entry of the history, of scalars.
    """
    loss, grads = evaluated(problem, state.params, batch)
    params, optimizer_state, moved = _moved(problem, settings, state, batch, controls, loss, grads)
    grad_norm = lax.stop_gradient(norm(grads))
    state = state._replace(first_grad_norm=jnp.where(step == 0, grad_norm, state.first_grad_norm))
    entry = entry_of(problem, settings, state, batch, controls, loss, grads, params, grad_norm, step)

    running = state.stop_reason == StopReason.MAX_STEPS
    # A finite norm says it of every entry.
    finite = jnp.isfinite(loss) & _unless(jnp.isfinite(grad_norm), lambda: all_finite(grads), state.params)
    state = _judge_divergence(state, controls, lax.stop_gradient(loss), grad_norm, steps_per_epoch, closing)
    diverged = state.num_excess >= DIVERGENCE_PATIENCE
    num_flat = jnp.where(grad_norm <= like(controls.grad_tol, grad_norm), state.num_flat + 1, 0)
    num_still = jnp.where(moved, 0, state.num_still + 1)
    flat, still = num_flat >= steps_per_epoch, num_still >= steps_per_epoch

    reason = jnp.where(still, StopReason.NO_CHANGE, StopReason.MAX_STEPS)
    reason = jnp.where(flat, StopReason.GRADIENT_SMALL, reason)
    reason = jnp.where(diverged, StopReason.DIVERGED, reason)
    reason = jnp.where(finite, reason, StopReason.NONFINITE)
    retreat = running & ~finite & (state.num_steps > 0)
    advance = running & finite & ~diverged & ~flat

    after = state._replace(
        params=where(retreat, state.previous, where(advance, params, state.params)),
        previous=where(advance, state.params, state.previous),
        optimizer_state=where(advance, optimizer_state, state.optimizer_state),
        stop_reason=jnp.where(running, reason, state.stop_reason).astype(jnp.int32),
        num_steps=state.num_steps + advance.astype(jnp.int32) - retreat.astype(jnp.int32),
        num_judged=state.num_judged + running.astype(jnp.int32),
        num_flat=num_flat,
        num_still=num_still,
    )
    return after, entry


def evaluated(problem: Problem, params: Params, batch: Any) -> tuple[jax.Array, Params]:
    """Loss and gradient, not merged with what is done with them, so that they are rounded alike in all programs.

    Args:
      problem: what to minimise.
      params: theta_t.
      batch: of the step.

    Returns:
      `[]`, and a tree like the parameters.
    """
    barred: tuple[jax.Array, Params] = lax.optimization_barrier(evaluate(problem, params, batch))
    return barred


def record(settings: Settings, state: State, entry: History, step: jax.Array) -> State:
    """Write a step into the history, if it is one of those to be kept.

    Args:
      settings: the static part.
      state: after the step.
      entry: of the step.
      step: `[]` integer, t.

    Returns:
      The state.
    """
    every = settings.record_every
    index = lax.div(step, jnp.full_like(step, every))  # `//` would see to signs

    def write(values: jax.Array, value: jax.Array) -> jax.Array:
        at = index if every == 1 else jnp.where(index * every == step, index, len(values) - 1)
        return lax.dynamic_update_index_in_dim(values, value, at, 0)

    return state._replace(history=jax.tree.map(write, state.history, entry))


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
    factor = like(controls.divergence_factor, loss)
    best = jnp.where(jnp.isinf(state.best_loss), state.first_loss, state.best_loss)
    # Far over a tiny best but under its start, a run is restless, not lost.
    limit = jnp.maximum(state.first_loss, best + factor * jnp.abs(best))
    steeper = grad_norm > like(factor, grad_norm) * state.first_grad_norm
    unbounded = (mean < -factor * jnp.abs(state.first_loss)) & steeper
    lost = ((mean > factor * limit) & (limit > 0)) | unbounded
    num_excess = jnp.where(lost, DIVERGENCE_PATIENCE, state.num_excess)
    if not closing:
        return state._replace(epoch_loss=epoch_loss, num_excess=num_excess)
    num_excess = jnp.where(lost | ((mean > limit) & (limit > 0)), num_excess + 1, 0)
    better = running & (mean < state.best_loss)
    return state._replace(
        best_params=where(better, state.params, state.best_params),
        best_loss=jnp.where(better, mean, state.best_loss),
        epoch_loss=state.epoch_loss if steps_per_epoch == 1 else jnp.zeros_like(epoch_loss),
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
    optimizer = optax.with_extra_args_support(rule_of(settings, controls))
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
        return jnp.any(~(jnp.abs(new - old) <= like(controls.param_tol, new)))

    new, old, updates, grads = lax.stop_gradient((params, state.params, updates, grads))

    def any_moved() -> jax.Array:
        waiting = ~_any(jax.tree.map(jnp.any, updates)) & _any(jax.tree.map(jnp.any, grads))
        return _any(jax.tree.map(beyond, new, old)) | waiting

    # One entry that moved settles it, and almost always the first of a leaf does.
    first_moved = _any(jax.tree.map(beyond, *jax.tree.map(lambda leaf: leaf.ravel()[:1], (new, old))))
    return params, optimizer_state, _unless(first_moved, any_moved, params)


def rule_of(settings: Settings, controls: Controls) -> Any:
    """The rule that makes updates of gradients.

    Args:
      settings: the static part.
      controls: the traced scalars.

    Returns:
      An (init, update) pair.
    """
    if isinstance(settings.optimizer, optax.GradientTransformation):
        return settings.optimizer
    build = settings.optimizer or gradient_descent
    return build(settings.schedule or controls.learning_rate)


def entry_of(
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
    """What step t adds to the history.

    Args:
      problem: what to minimise.
      settings: the static part.
      state: at theta_t.
      batch: of the step.
      controls: the traced scalars.
      loss: `[]`, at theta_t.
      grads: at theta_t.
      following: theta_{t+1}.
      grad_norm: `[]`, of `grads`.
      step: `[]` integer, t.

    Returns:
      The entry.
    """
    moves = jax.tree.map(jnp.subtract, following, state.params)
    makers: dict[str, Callable[[], Any]] = {
        "loss": lambda: loss,
        "grad_norm": lambda: grad_norm,
        "learning_rate": lambda: like(rate_at(settings.schedule or controls.learning_rate, step), grad_norm),
        "update_norm": lambda: lax.stop_gradient(norm(moves)),
        "predicted_decrease": lambda: -like(inner(grads, moves), loss),
        "actual_decrease": lambda: loss - problem.loss(following, batch),
        "params": lambda: state.params,
    }
    return History(**{field: makers[field]() for field in settings.record})


def norm(tree: Params) -> jax.Array:
    """Euclidean norm over all leaves, added up in float32 or wider.

    Args:
      tree: of floating arrays.

    Returns:
      `[]`, of the dtype `norm_dtype`.
    """
    dtype = norm_dtype(tree)

    def sum_squares(leaf: jax.Array) -> jax.Array:
        if leaf.size < BRANCHED_FROM:
            return jnp.sum(jnp.square(leaf))
        return jnp.vdot(leaf, leaf, precision=lax.Precision.HIGHEST)  # which is vectorised where a sum is not

    return jnp.sqrt(sum(sum_squares(leaf.astype(dtype)) for leaf in jax.tree.leaves(tree)))


def norm_dtype(tree: Params) -> Any:
    """The dtype in which a norm is added up.

    Args:
      tree: of floating arrays.

    Returns:
      float64 if any leaf is, else float32.
    """
    wide = any(leaf.dtype == jnp.float64 for leaf in jax.tree.leaves(tree))
    return jnp.float64 if wide else jnp.float32


def all_finite(tree: Params) -> jax.Array:
    """Whether every number is finite.

    Args:
      tree: of floating arrays.

    Returns:
      `[]` bool.
    """
    return ~_any(jax.tree.map(lambda leaf: jnp.any(~jnp.isfinite(leaf)), tree))


def _any(flags: Any) -> jax.Array:
    return functools.reduce(jnp.logical_or, jax.tree.leaves(flags))


def _unless(known: jax.Array, find: Callable[[], jax.Array], params: Params) -> jax.Array:
    """Whether `known` or else what `find` says, which is looked at only then if it takes longer than a branch."""
    if sum(leaf.size for leaf in jax.tree.leaves(params)) < BRANCHED_FROM:
        return find()
    return lax.cond(known, lambda: True, find)


def where(condition: jax.Array, yes: Any, no: Any) -> Any:
    """One of two trees.

    Args:
      condition: `[]` bool.
      yes: the tree where it holds.
      no: a like tree.

    Returns:
      The tree.
    """
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)


def like(value: Any, array: jax.Array) -> jax.Array:
    """A scalar in the dtype of an array.

    Args:
      value: `[]`.
      array: whose dtype.

    Returns:
      `[]`.
    """
    return jnp.asarray(value).astype(array.dtype)
