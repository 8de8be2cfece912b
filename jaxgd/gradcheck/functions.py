"""A loss and a gradient as functions of real leaves, evaluated in whatever way and precision they allow."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgd.gradcheck.answer import part_of, select
from jaxgd.gradcheck.inputs import Arrays, Layout, Point
from jaxgd.gradcheck.precision import precision
from jaxgd.gradcheck.programs import Programs

EPS32, EPS64 = (float(np.finfo(dtype).eps) for dtype in (np.float32, np.float64))


class Way(NamedTuple):
    """How a function can be evaluated.

    Attributes:
      traced: whether JAX can trace it. Otherwise it is called with arrays.
      family: whose arrays it is called with if it is not traced, see `Layout.call`.
      wide: whether it can be evaluated in float64. Otherwise it runs in the dtypes given, whatever is asked for.
      why: what it raised in float64.
    """

    traced: bool
    family: str = "given"
    wide: bool = True
    why: str = ""


@dataclasses.dataclass(frozen=True, eq=False)
class Loss:
    """A loss, compiled; see `loss_of`.

    Attributes:
      function: takes the arguments of the call.
      has_aux: whether it returns `(value, auxiliary output)`.
      way: how it is evaluated.
      derivative: how its derivative is: "reverse" or "forward" mode of JAX, "torch", or "" if there is none.
      wide: whether the derivative can be evaluated in float64.
      why: what the derivative raised in float64.
      program: its jaxpr, in float64 if possible; None if it cannot be traced.
      facts: what others have derived from it, by keys of their own.
    """

    function: Callable[..., Any]
    has_aux: bool
    way: Way
    derivative: str = ""
    wide: bool = True
    why: str = ""
    program: Any = None
    facts: dict[Any, Any] = dataclasses.field(default_factory=dict)

    @property
    def traceable(self) -> bool:
        """Whether JAX can trace it."""
        return self.way.traced

    @functools.cached_property
    def _scalars(self) -> Programs:
        return Programs(self.scalar)

    @functools.cached_property
    def _along(self) -> Programs:
        return Programs(functools.partial(_along, self.scalar))

    @functools.cached_property
    def _derivatives(self) -> Programs:
        return Programs(functools.partial(DERIVATIVES[self.derivative], self.scalar))

    def scalar(self, layout: Layout, point: Point) -> Any:
        """The loss, traced.

        Args:
          layout: of the leaves.
          point: the leaves.

        Returns:
          `[]`.
        """
        return jnp.reshape(jnp.asarray(value_of(layout.call(self.function, point), self.has_aux)), ())

    def reverse(self, layout: Layout, point: Point, dtype: Any) -> Arrays:
        """The derivative at a point, by reverse mode if there is one.

        Args:
          layout: of the leaves.
          point: the leaves.
          dtype: of the arithmetic; None for what the leaves and the process's settings say.

        Returns:
          Its leaves.
        """
        if self.derivative == "torch":
            run: Callable[..., Any] = functools.partial(_torch_gradient, self.function, self.has_aux)
        else:
            run = self._derivatives
        return _run(run, self.wide, layout, point, dtype)

    def values(self, layout: Layout, point: Point, direction: Arrays, steps: Any) -> Any:
        """The loss in float64 at `params + step direction`, for several steps.

        Args:
          layout: of the leaves.
          point: the leaves, float64.
          direction: leaves like those of the parameters.
          steps: `[n]`, how far.

        Returns:
          `[n]`.
        """
        if self.way.traced and self.way.wide:
            # Always the same number of steps at once: one program for any number.
            padded = np.zeros(-(-len(steps) // CHUNK) * CHUNK)
            padded[: len(steps)] = steps
            with precision(np.float64):
                parts = [
                    np.asarray(self._along(layout, point, direction, padded[i : i + CHUNK]))
                    for i in range(0, len(padded), CHUNK)
                ]
            return np.concatenate(parts)[: len(steps)]
        found = []
        for step in steps:
            moved = [np.asarray(p) + step * np.asarray(u) for p, u in zip(point.params, direction, strict=True)]
            found.append(self._value(layout, point._replace(params=moved)))
        return np.stack(found)

    def _value(self, layout: Layout, point: Point) -> Any:
        """The loss at a point without tracing it, or in the dtypes given."""
        if self.way.traced:
            return _run(lambda *args: [self._scalars(*args)], self.way.wide, layout, point, np.float64)[0]

        def call(layout: Layout, point: Point) -> list[Any]:
            return [value_of(layout.call(self.function, point, family=self.way.family), self.has_aux)]

        return np.reshape(_run(call, self.way.wide, layout, point, np.float64)[0], ())


CHUNK = 13
"""Steps in one program of values."""


@dataclasses.dataclass(frozen=True, eq=False)
class Gradient:
    """A gradient function, compiled; see `gradient_of`.

    Attributes:
      function: takes the arguments of the call.
      way: how it is evaluated.
      part: where in its answer the gradient is: () for the whole, (1,) for `(value, gradient)`.
      answer: the gradient that it returned, or its shapes, in the dtypes given.
      program: its jaxpr, in float64 if possible; None if it cannot be traced.
      stateful: whether two traces differ.
      facts: what others have derived from it, by keys of their own.
    """

    function: Callable[..., Any]
    way: Way
    part: tuple[int, ...]
    answer: Any
    program: Any = None
    stateful: bool = False
    facts: dict[Any, Any] = dataclasses.field(default_factory=dict)

    @property
    def traceable(self) -> bool:
        """Whether JAX can trace it."""
        return self.way.traced

    @functools.cached_property
    def _values(self) -> Programs:
        return Programs(self._value)

    def _value(self, layout: Layout, point: Point) -> list[Any]:
        family = None if self.way.traced else self.way.family
        first = layout.call(self.function, point, family=family)[0]
        return [value_of(first, isinstance(first, tuple))]

    def value(self, layout: Layout, point: Point) -> float:
        """The value that it returns beside the gradient, in float64.

        Args:
          layout: of the leaves.
          point: the leaves, float64.

        Returns:
          The value; only for a gradient whose `part` is (1,).
        """
        run = self._values if self.way.traced else self._value
        return float(np.ravel(_run(run, self.way.wide, layout, point, np.float64)[0])[0])

    @functools.cached_property
    def _leaves(self) -> Programs:
        return Programs(lambda layout, point: select(self.tree(layout, point), layout))

    def tree(self, layout: Layout, point: Point) -> Any:
        """The gradient as the caller's function returns it.

        Args:
          layout: of the leaves.
          point: the leaves.

        Returns:
          A tree.
        """
        family = None if self.way.traced else self.way.family
        return part_of(layout.call(self.function, point, family=family), self.part, layout)

    def leaves(self, layout: Layout, point: Point, dtype: Any) -> Arrays:
        """The gradient at a point.

        Args:
          layout: of the leaves.
          point: the leaves.
          dtype: of the arithmetic; None for what the leaves and the process's settings say.

        Returns:
          One leaf for each real parameter of the layout.
        """
        run = self._leaves if self.way.traced else lambda *args: select(self.tree(*args), layout)
        return _run(run, self.way.wide, layout, point, dtype)


class BadLoss(ValueError):
    """The loss raised, or what it returned is not one real floating number."""


def value_of(answer: Any, has_aux: bool) -> Any:
    """The value in what a loss returns.

    Args:
      answer: what it returned.
      has_aux: whether that is `(value, auxiliary output)`.

    Returns:
      The value `[]`; of NumPy if it was a tensor of torch.

    Raises:
      BadLoss: it is not one real floating number.
    """
    if has_aux and not (isinstance(answer, tuple) and len(answer) == 2):
        several = isinstance(answer, (tuple, list))
        got = f"a {type(answer).__name__} of {len(answer)}" if several else "one value"
        raise BadLoss(f"`loss` must return (value, auxiliary output) with has_aux=True, got {got}.")
    value = answer[0] if has_aux else answer
    if isinstance(value, (tuple, list, dict)) or value is None:
        got = "None" if value is None else f"a {type(value).__name__} of {len(value)}"
        hint = " If it returns (value, auxiliary output), pass has_aux=True." if type(value) is tuple else ""
        raise BadLoss(f"`loss` must return a floating scalar [], got {got}.{hint}")
    value = value.detach().cpu().numpy() if hasattr(value, "detach") else value
    array = value if hasattr(value, "dtype") else np.asarray(value)
    if array.size != 1 or array.ndim > 2 or not jnp.issubdtype(array.dtype, jnp.floating):
        real = " Return its real part." if jnp.issubdtype(array.dtype, jnp.complexfloating) else ""
        raise BadLoss(f"`loss` must return a floating scalar [], got {array.dtype}{list(array.shape)}.{real}")
    return value


def _run(run: Callable[..., Any], wide: bool, layout: Layout, point: Point, dtype: Any) -> Arrays:
    """Leaves in a dtype; those of a function that runs in the given dtypes only as if it had run in the other."""

    def host(point: Point) -> Arrays:
        return [np.asarray(leaf) for leaf in run(layout, point)]

    if dtype is None or np.dtype(dtype) == np.float64:
        if wide or dtype is None:
            with precision(dtype):
                return host(point)
        return [np.asarray(leaf, np.float64) for leaf in host(layout.as_given(point))]
    if wide:
        try:
            with precision(dtype):
                return host(point)
        except Exception:  # an array in a closure has another dtype
            return _moved(lambda point: _run(run, wide, layout, point, np.float64), point, EPS64)
    given = layout.as_given(point)
    eps = max(float(jnp.finfo(np.asarray(leaf).dtype).eps) for leaf in given.params)
    return _moved(lambda point: host(layout.as_given(point)), point, eps)


def _moved(run: Callable[[Point], Arrays], point: Point, eps: float) -> Arrays:
    """Leaves that show how much rounding there is, for a function that cannot be evaluated in float32 and float64.

    The inputs are moved by one unit in the last place, and the change is scaled to the unit of float32.
    """
    rng = np.random.default_rng(3)
    params = [np.asarray(leaf, np.float64) for leaf in point.params]
    moved = [leaf * (1 + eps * rng.choice([-1.0, 1.0], leaf.shape)) for leaf in params]
    here, there = (
        [np.asarray(leaf, np.float64) for leaf in run(point._replace(params=leaves))] for leaves in (params, moved)
    )
    return [leaf + (other - leaf) * (EPS32 / eps) for leaf, other in zip(here, there, strict=True)]


def _along(scalar: Callable[..., Any], layout: Layout, point: Point, direction: Arrays, steps: Any) -> Any:
    """A loss at several steps along a direction."""

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


def _torch_gradient(function: Callable[..., Any], has_aux: bool, layout: Layout, point: Point) -> list[Any]:
    """Reverse mode of torch."""
    import torch

    params = [torch.from_numpy(np.array(leaf)).requires_grad_() for leaf in point.params]
    answer = layout.call(function, point._replace(params=params), family="given")
    value = (answer[0] if has_aux else answer).sum()
    found = torch.autograd.grad(value, params, allow_unused=True)
    return [np.zeros(leaf.shape) if part is None else part.numpy() for leaf, part in zip(params, found, strict=True)]
