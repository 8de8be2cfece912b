"""Second derivatives: a Hessian-vector product as the gradient of the slope along a fixed vector."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def accepts(function: Callable[..., Any], *args: Any, **kwargs: Any) -> bool:
    """Whether a function can be called with these arguments, as far as its signature says."""
    try:
        inspect.signature(function).bind(*args, **kwargs)
    except TypeError:
        return False
    except ValueError:  # a builtin without a signature
        return True
    return True


@functools.lru_cache(maxsize=8)
def second_order(
    loss: Callable[..., Any], grad: Callable[..., Any], takes_vector: bool
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The slope of the loss along a fixed vector of signs, and its gradient: a Hessian-vector product.

    Args:
      loss: `(params, ...) -> []`.
      grad: its gradient, or `(params, vector, ...) -> a tree like params`.
      takes_vector: which of the two it is.

    Returns:
      A loss and its gradient.
    """

    def vector_like(params: Any) -> Any:
        rng = np.random.default_rng(2)
        return jax.tree.map(lambda p: jnp.asarray(rng.choice([-1.0, 1.0], np.shape(p)), jnp.asarray(p).dtype), params)

    def slope(params: Any, *args: Any, **kwargs: Any) -> Any:
        tangents = jax.tree.map(jnp.multiply, jax.grad(loss)(params, *args, **kwargs), vector_like(params))
        return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(tangents))

    def product(params: Any, *args: Any, **kwargs: Any) -> Any:
        if takes_vector:
            return grad(params, vector_like(params), *args, **kwargs)
        return jax.jvp(lambda q: grad(q, *args, **kwargs), (params,), (vector_like(params),))[1]

    return slope, product
