"""Held-out rows of a run: their loss after every chunk, the parameters with the lowest loss, and when to stop."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgd.data.arguments import arguments
from jaxgd.descent.fast.sharded import everywhere
from jaxgd.descent.result import Result
from jaxgd.descent.run import State
from jaxgd.types import Params, Problem
from jaxgd.validation import check_count


class HeldOut(NamedTuple):
    """The loss of held-out rows along a run of `fit`; leading axis C, the start and the end of every chunk.

    Attributes:
      step: `[C]` int32, updates made before it.
      loss: `[C]`, the loss of all held-out rows, including the penalty of the problem.
    """

    step: jax.Array
    loss: jax.Array


class Judged(NamedTuple):
    """The held-out losses of a run so far. Entry 0 is the start, entry i is the end of chunk i."""

    steps: Any  # [C + 1] int32, updates made; -1 where none is yet
    losses: Any  # [C + 1], NaN there
    best_params: Params


Judge = Callable[[int, State, Judged | None], Judged]
"""`(position, state, judged) -> judged`, with the loss of a state after chunk `position` entered."""


def judge_of(problem: Problem, params: Params, rows: Any, num_chunks: int) -> Judge:
    """A function that evaluates held-out rows.

    Args:
      problem: the problem to minimise, in its plain form.
      params: the parameters of the run, for their shapes.
      rows: the held-out rows, in any form that a batch may have.
      num_chunks: the number of chunks of the whole run.

    Returns:
      The function.

    Raises:
      ValueError: the rows do not fit the problem or its parameters; the text names `held_out`.
      TypeError: the problem does not accept rows of this type.
    """
    try:
        rows = arguments(problem, params, rows)[1]
        if problem.check_batch is not None:
            problem.check_batch(rows)
        shape = jax.eval_shape(problem.loss, params, rows)
    except (ValueError, TypeError) as error:
        raise type(error)(f"`held_out`: {error}") from None
    if jax.process_count() > 1:
        rows = everywhere(rows)

    def judge(position: int, state: State, judged: Judged | None) -> Judged:
        loss = np.asarray(_loss(problem, state.params, rows))
        if judged is None:
            empty = np.full(num_chunks + 1, np.nan, shape.dtype)
            judged = Judged(np.full(num_chunks + 1, -1, np.int32), empty, state.params)
        steps, losses = np.array(judged.steps), np.array(judged.losses)
        # Of equal losses the first is the best. NaN is never the lowest, and later losses are compared without it.
        is_best = loss < np.fmin.reduce(losses[:position], initial=np.inf)
        steps[position], losses[position] = np.asarray(state.num_steps), loss
        return Judged(steps, losses, state.params if is_best else judged.best_params)

    return judge


@functools.partial(jax.jit, static_argnums=0)
def _loss(problem: Problem, params: Params, rows: Any) -> jax.Array:
    return problem.loss(params, rows)


def check_patience(patience: int | None, held_out: Any) -> int | None:
    """Check the number of chunks that a run may take without a lower held-out loss; None means any number.

    Args:
      patience: the value that was given.
      held_out: the held-out rows.

    Returns:
      The number, or None.

    Raises:
      ValueError: the number is below 1, or no rows are held out.
      TypeError: the value is not an integer.
    """
    if patience is not None and held_out is None:
        raise ValueError("`patience` needs rows to judge by: give `held_out`.")
    return None if patience is None else check_count("patience", patience)


def gives_up(patience: int | None, position: int, judged: Judged | None) -> bool:
    """Whether the lowest held-out loss was found `patience` chunks ago.

    Args:
      patience: see `check_patience`.
      position: the number of chunks done.
      judged: the held-out losses so far.

    Returns:
      True if the run is to end.
    """
    if patience is None or judged is None:
        return False
    losses = np.asarray(judged.losses)[: position + 1]
    lowest = 0 if np.isnan(losses).all() else int(np.nanargmin(losses))
    return position - lowest >= patience


def add_to(result: Result, judged: Judged | None) -> Result:
    """Add the held-out losses, and the parameters with the lowest of them, to a result.

    Args:
      result: the result of the run.
      judged: the held-out losses of the run; None leaves the result unchanged.

    Returns:
      The result.
    """
    if judged is None:
        return result
    steps, losses = np.asarray(judged.steps), np.asarray(judged.losses)
    curve = HeldOut(jnp.asarray(steps[steps >= 0]), jnp.asarray(losses[steps >= 0]))
    return result._replace(best_params=judged.best_params, held_out=curve)
