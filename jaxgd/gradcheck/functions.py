"""A loss and its gradient, compiled once, evaluated in any precision."""

import functools
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgd.gradcheck.inputs import SMALL, Arrays, Layout, Point
from jaxgd.gradcheck.precision import precision

UNTRACEABLE = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerBoolConversionError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.NonConcreteBooleanIndexError,
)
"""What a function raises that needs numbers where jit gives it shapes."""


QUICK = {"xla_backend_optimization_level": 0}
"""Compiler options for programs that run for an instant."""


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of a layout, a point and more, jitted: quickly for small points, well for large ones."""
    quick = jax.jit(function, static_argnums=0, compiler_options=QUICK)
    well = jax.jit(function, static_argnums=0)

    def call(layout: Layout, point: Point, *rest: Any) -> Any:
        size = sum(int(np.size(leaf)) for leaf in (*point.params, *point.floats, *point.arrays))
        return (quick if size <= SMALL else well)(layout, point, *rest)

    return call


class Loss:
    """A loss, compiled; see `loss_of`.

    Attributes:
      function: `(params, *args) -> []`.
      traceable: whether jit, and so reverse mode, can read it.
      facts: what has been read from its program, by the shapes of the inputs.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.traceable = True
        self.facts: dict[Any, Any] = {}
        self._values = _compiled(self._along)
        self._reverse = _compiled(self._differentiate)

    def scalar(self, layout: Layout, point: Point) -> Any:
        """The loss, traced.

        Args:
          layout: of the leaves.
          point: the leaves.

        Returns:
          `[]`.
        """
        params, args = layout.assemble(*point)
        return jnp.asarray(self.function(params, *args))

    def _differentiate(self, layout: Layout, point: Point) -> list[Any]:
        return list(jax.grad(lambda params: self.scalar(layout, point._replace(params=params)))(point.params))

    def _along(self, layout: Layout, point: Point, direction: Arrays, steps: Any) -> Any:
        def at(step: Any) -> Any:
            moved = [leaf + step * part for leaf, part in zip(point.params, direction, strict=True)]
            return self.scalar(layout, point._replace(params=moved))

        return jax.lax.map(at, steps)

    def reverse(self, layout: Layout, point: Point, dtype: Any) -> Arrays:
        """Reverse mode at a point.

        Args:
          layout: of the leaves.
          point: the leaves.
          dtype: of the arithmetic; None for what the leaves and the process's settings say.

        Returns:
          Its leaves.
        """
        with precision(dtype):
            return _host(self._reverse(layout, point))

    def values(self, layout: Layout, point: Point, direction: Arrays, steps: Any) -> Any:
        """The loss in float64 at `params + step direction`, for several steps in one program.

        Args:
          layout: of the leaves.
          point: the leaves, float64.
          direction: leaves like those of the parameters.
          steps: `[n]`, how far.

        Returns:
          `[n, ...]`, of what the function returns, a scalar or not.
        """
        with precision(np.float64):
            if self.traceable:
                return np.asarray(self._values(layout, point, direction, steps))
            found = []
            for step in steps:
                moved = [leaf + step * part for leaf, part in zip(point.params, direction, strict=True)]
                params, args = layout.assemble(moved, point.floats, point.arrays)
                found.append(np.asarray(self.function(params, *args)))
            return np.stack(found)


class Gradient:
    """A gradient function, compiled; see `gradient_of`.

    Attributes:
      function: `(params, *args) -> a tree like params`.
      traceable: whether jit can read it.
      facts: what has been read from its program, by the shapes of the inputs.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.traceable = True
        self.facts: dict[Any, Any] = {}
        self._leaves = _compiled(lambda layout, point: jax.tree.leaves(self.tree(layout, point)))

    def tree(self, layout: Layout, point: Point) -> Any:
        """What the function returns.

        Args:
          layout: of the leaves.
          point: the leaves.

        Returns:
          A tree.
        """
        params, args = layout.assemble(*point)
        return self.function(params, *args)

    def leaves(self, layout: Layout, point: Point, dtype: Any) -> Arrays:
        """The gradient at a point.

        Args:
          layout: of the leaves.
          point: the leaves.
          dtype: of the arithmetic; None for what the leaves and the process's settings say.

        Returns:
          Its leaves.
        """
        with precision(dtype):
            if self.traceable:
                return _host(self._leaves(layout, point))
            return _host(jax.tree.leaves(self.tree(layout, point)))


@functools.lru_cache(maxsize=256)
def _loss_of(function: Callable[..., Any]) -> Loss:
    return Loss(function)


@functools.lru_cache(maxsize=256)
def _gradient_of(function: Callable[..., Any]) -> Gradient:
    return Gradient(function)


def loss_of(function: Callable[..., Any]) -> Loss:
    """The loss of a function, one for each, so that what was compiled is found again.

    Args:
      function: `(params, *args) -> []`.

    Returns:
      The loss.
    """
    return _loss_of(function) if isinstance(function, Hashable) else Loss(function)


def gradient_of(function: Callable[..., Any]) -> Gradient:
    """The gradient of a function, one for each, so that what was compiled is found again.

    Args:
      function: `(params, *args) -> a tree like params`.

    Returns:
      The gradient.
    """
    return _gradient_of(function) if isinstance(function, Hashable) else Gradient(function)


def _host(leaves: Sequence[Any]) -> Arrays:
    return [np.asarray(leaf) for leaf in leaves]
