"""The derivatives of a loss: reverse mode, forward mode, torch."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgd.gradcheck.inputs import Arrays, Layout, Point


def along(scalar: Callable[..., Any], layout: Layout, point: Point, direction: Arrays, steps: Any) -> Any:
    """A loss at several steps along a direction.

    Args:
      scalar: `(layout, point) -> []`.
      layout: of the leaves.
      point: where the steps start.
      direction: leaves like those of the parameters.
      steps: `[n]`.

    Returns:
      `[n]`.
    """

    def at(step: Any) -> Any:
        moved = [leaf + step * part for leaf, part in zip(point.params, direction, strict=True)]
        return scalar(layout, point._replace(params=moved))

    return jax.lax.map(at, steps)


def _reverse_mode(scalar: Callable[..., Any], layout: Layout, point: Point) -> list[Any]:
    return list(jax.grad(lambda params: scalar(layout, point._replace(params=params)))(point.params))


def _forward_mode(scalar: Callable[..., Any], layout: Layout, point: Point) -> list[Any]:
    """One pass for each parameter, for losses with a while_loop."""

    def slope(leaf: int, index: Any) -> Any:
        def along(step: Any) -> Any:
            moved = jnp.ravel(jnp.asarray(point.params[leaf])).at[index].add(step)
            params = [*point.params]
            params[leaf] = moved.reshape(jnp.shape(point.params[leaf]))
            return scalar(layout, point._replace(params=params))

        zero = jnp.zeros((), jnp.asarray(point.params[leaf]).dtype)
        return jax.jvp(along, (zero,), (jnp.ones_like(zero),))[1]

    return [
        jax.lax.map(functools.partial(slope, i), jnp.arange(np.size(leaf))).reshape(np.shape(leaf))
        for i, leaf in enumerate(point.params)
    ]


DERIVATIVES: dict[str, Callable[..., Any]] = {"reverse": _reverse_mode, "forward": _forward_mode}


def _on_tape(function: Callable[..., Any], has_aux: bool, layout: Layout, point: Point) -> tuple[list[Any], Any]:
    """The parameters as tensors, and the value of a loss of them."""
    import torch

    params = [torch.from_numpy(np.array(leaf)).requires_grad_() for leaf in point.params]
    answer = layout.call(function, point._replace(params=params), family="given")
    return params, (answer[0] if has_aux else answer).sum()


def torch_gradient(function: Callable[..., Any], has_aux: bool, layout: Layout, point: Point) -> list[Any]:
    """Reverse mode of torch.

    Args:
      function: a loss of tensors.
      has_aux: whether it returns `(value, auxiliary output)`.
      layout: of the leaves.
      point: the leaves.

    Returns:
      NumPy leaves.
    """
    import torch

    params, value = _on_tape(function, has_aux, layout, point)
    found = torch.autograd.grad(value, params, allow_unused=True)
    return [np.zeros(leaf.shape) if part is None else part.numpy() for leaf, part in zip(params, found, strict=True)]


def custom_functions(function: Callable[..., Any], has_aux: bool, layout: Layout, point: Point) -> list[str]:
    """The user's own functions with a derivative of their own in a loss of tensors.

    Args:
      function: a loss of tensors.
      has_aux: whether it returns `(value, auxiliary output)`.
      layout: of the leaves.
      point: the leaves.

    Returns:
      Names of subclasses of torch.autograd.Function, each once.
    """
    nodes, seen = [_on_tape(function, has_aux, layout, point)[1].grad_fn], {}
    while nodes:
        node = nodes.pop()
        if node is not None and node not in seen:
            seen[node] = getattr(type(node), "_forward_cls", None)
            nodes += [following for following, _ in node.next_functions]
    return sorted({cls.__name__ for cls in seen.values() if cls is not None})
