"""The update rule theta <- theta - eta g, as an (init, update) pair like optax's."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxgd.types import Params

Schedule = Callable[[jax.Array], Any]
"""`(step) -> learning rate`, such as an optax schedule."""


class GradientDescentState(NamedTuple):
    """State of the rule.

    Attributes:
      step: `[]` int32, updates made so far; None if the rate does not depend on it.
    """

    step: jax.Array | None


def gradient_descent(learning_rate: Any) -> optax.GradientTransformation:
    """Gradient descent, `theta_{t+1} = theta_t - eta_t g_t`, interchangeable with optax's optimizers.

    `update` returns `-eta g` in the dtype of g; `optax.apply_updates` adds it. A Taylor expansion explains
    the sign: `L(theta + u) = L(theta) + u . g + O(|u|^2)`, and among all u of the same length `u . g` is smallest for
    `u = -eta g`.

    Args:
      learning_rate: eta, a number, a traced scalar `[]`, or a function step -> eta.

    Returns:
      The pair (init, update).
    """

    def init(params: Params) -> GradientDescentState:
        del params
        return GradientDescentState(jnp.zeros((), jnp.int32) if callable(learning_rate) else None)

    def update(
        updates: Params, state: GradientDescentState, params: Params | None = None
    ) -> tuple[Params, GradientDescentState]:
        del params
        rate = rate_at(learning_rate, state.step)
        # In the dtype of each gradient, since a float64 rate would make float32 parameters float64.
        steps = jax.tree.map(lambda g: -jnp.asarray(rate, g.dtype) * g, updates)
        return steps, GradientDescentState(None if state.step is None else state.step + 1)

    return optax.GradientTransformation(init, update)


def rate_at(learning_rate: Any, step: jax.Array | None) -> Any:
    """The learning rate of a step. The first update is step 0."""
    return learning_rate(step) if callable(learning_rate) else learning_rate
