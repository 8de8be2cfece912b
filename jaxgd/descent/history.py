"""How a run is recorded, step by step."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from jaxgd.descent.result import History
from jaxgd.descent.stopping import Step, norm
from jaxgd.types import Params


def entry_of(
    fields: Sequence[str], step: Step, rate: Any, loss: Callable[..., jax.Array], hvp: Callable[..., Params]
) -> History:
    """The entry of one step in the history: one value for each field.

    `loss` and `hvp`, `(params, vector) -> H v`, are those of the rows of the step.
    """
    moves = optax.tree.sub(step.after.params, step.before.params)

    def second_order_decrease() -> jax.Array:
        bend = optax.tree.vdot(moves, hvp(step.before.params, moves))
        return -(optax.tree.vdot(step.grads, moves) + bend / 2).astype(step.loss.dtype)

    # Functions, because only what is recorded is to be computed.
    makers: dict[str, Callable[[], Any]] = {
        "loss": lambda: step.loss,
        "grad_norm": lambda: lax.stop_gradient(step.grad_norm),
        "learning_rate": lambda: jnp.asarray(rate).astype(step.grad_norm.dtype),
        "update_norm": lambda: lax.stop_gradient(norm(moves)),
        "predicted_decrease": lambda: -optax.tree.vdot(step.grads, moves).astype(step.loss.dtype),
        "second_order_decrease": second_order_decrease,
        "actual_decrease": lambda: step.loss - loss(step.after.params),
        "params": lambda: step.before.params,
    }
    return History(**{field: makers[field]() for field in fields})


def write(history: History, entry: History, number: jax.Array, every: int) -> History:
    """Write the entry of step `number` if this step is recorded.

    If `every` is above 1, the history has one additional entry, into which all other steps are written.
    """
    # `//` rounds towards minus infinity, which takes more kernels than `lax.div`; steps are never negative.
    index = lax.div(number, jnp.full_like(number, every))

    def put(values: jax.Array, value: jax.Array) -> jax.Array:
        at = index if every == 1 else jnp.where(index * every == number, index, len(values) - 1)
        return lax.dynamic_update_index_in_dim(values, value, at, 0)

    return jax.tree.map(put, history, entry)
