"""A loss that is evaluated in parts of its rows: what `tiled` and `sharded` share."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxgd.penalty import penalisable
from jaxgd.types import Params, Problem, evaluate
from jaxgd.validation import check_rows


def unpenalised(problem: Problem) -> Problem:
    """The problem without its penalty: its loss is the mean or the sum over rows, and nothing else."""
    return problem if problem.penalty is None else problem.penalty.with_l2(0.0)


def count_rows(problem: Problem, batch: Any) -> int:
    """The rows N that the loss adds up over; if the problem does not say, the leading axis that all arrays share."""
    return check_rows(batch) if problem.row_sum is None else problem.row_sum.num_rows(batch)


def sum_over(problem: Problem, params: Params, part: Any, num_rows: int) -> Any:
    """Loss and gradient of some rows as sums over them, for a problem without a penalty."""
    # A mean of n rows times n is their sum to within rounding; parts of different n then add up.
    total = evaluate(problem, params, part)
    return total if problem.reduction == "sum" else jax.tree.map(lambda leaf: leaf * num_rows, total)


def reduce_sum(problem: Problem, total: Any, num_rows: int) -> tuple[jax.Array, Params]:
    """Loss and gradient from their sums over all N rows."""
    if problem.reduction == "mean":
        total = jax.tree.map(lambda leaf: leaf / num_rows, total)
    value, grads = total
    return value, grads


def evaluated_by(
    problem: Problem, name: str, value_and_grad: Callable[..., tuple[jax.Array, Params]], call: Callable[[], Problem]
) -> Problem:
    """The problem, with its penalty, whose loss and gradient without it come from `value_and_grad`."""
    accepts = problem.accepts

    def converted(params: Any, batch: Any) -> tuple[jax.Array, Params]:
        typed, rows = accepts.arguments(params, batch)
        value, grads = value_and_grad(typed, jax.tree.map(jnp.asarray, rows))
        return value, accepts.like(params, grads)

    plain = unpenalised(problem)
    changed = plain._replace(
        name=name,
        loss=lambda params, batch: converted(params, batch)[0],
        grad=lambda params, batch: converted(params, batch)[1],
        value_and_grad=converted,
        system=plain.system._replace(call=call),
    )
    # The penalty does not add up over rows: it is added once, to the sum of all parts.
    if problem.penalty is None:
        return changed
    return penalisable(changed, problem.l2, minimizer=problem.minimizer, call=call)
