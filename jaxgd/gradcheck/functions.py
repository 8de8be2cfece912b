"""A loss and a gradient as functions of real leaves, evaluated in whatever way and precision they allow."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxgd.gradcheck.answer import pack, part_of, select, unpack
from jaxgd.gradcheck.backward.program import equations
from jaxgd.gradcheck.derivatives import DERIVATIVES, along, torch_gradient
from jaxgd.gradcheck.inputs import Arrays, Layout, Point
from jaxgd.gradcheck.precision import precision
from jaxgd.gradcheck.programs import Programs, Trace, run_in


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
      way: what it is evaluated with, and how.
      derivative: how its derivative is: "reverse" or "forward" mode of JAX, "torch", or "" if there is none.
      wide: whether the derivative can be evaluated in float64.
      why: what the derivative raised in float64.
      program: its jaxpr, in float64 if possible; None if it cannot be traced.
      facts: what other modules have found out about it and keep here, by keys of their own.
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
    def iterates(self) -> bool:
        """Whether it iterates until some tolerance is met, which far from the given point may never happen."""
        loops = () if self.program is None else equations(self.program)
        # A loop that counts compares integers; one that converges compares floating numbers.
        return any(
            jnp.issubdtype(atom.aval.dtype, jnp.floating)
            for loop in loops
            if loop.primitive.name == "while"
            for eqn in equations(loop.params["cond_jaxpr"])
            if eqn.primitive.name in ("gt", "lt", "ge", "le")
            for atom in eqn.invars
        )

    @functools.cached_property
    def _scalars(self) -> Programs:
        return Programs(self.trace)

    @functools.cached_property
    def _along(self) -> Programs:
        return Programs(functools.partial(along, self.trace))

    @functools.cached_property
    def _derivatives(self) -> Programs:
        return Programs(functools.partial(DERIVATIVES[self.derivative], self.trace))

    @property
    def trace(self) -> Trace:
        """`(layout, point) -> []`; one object for all copies of the loss."""
        return self.facts.setdefault("trace", Trace(self.scalar))

    def scalar(self, layout: Layout, point: Point) -> Any:
        """The loss by the caller's function, traced."""
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
            run: Callable[..., Any] = functools.partial(torch_gradient, self.function, self.has_aux)
        else:
            run = self._derivatives
        return run_in(run, self.wide, layout, point, dtype)

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

    def compile_values(self, layout: Layout, point: Point) -> None:
        """Compile what `values` runs."""
        with precision(np.float64):
            self._along.compiled(layout, point, point.params, np.zeros(CHUNK))

    def _value(self, layout: Layout, point: Point) -> Any:
        """The loss at a point without tracing it, or in the dtypes given."""
        if self.way.traced:
            return run_in(lambda *args: [self._scalars(*args)], self.way.wide, layout, point, np.float64)[0]

        def call(layout: Layout, point: Point) -> list[Any]:
            return [value_of(layout.call(self.function, point, family=self.way.family), self.has_aux)]

        return np.reshape(run_in(call, self.way.wide, layout, point, np.float64)[0], ())


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
      changes: names of the parameters and arguments that it writes to.
      facts: what others have derived from it, by keys of their own.
    """

    function: Callable[..., Any]
    way: Way
    part: tuple[int, ...]
    answer: Any
    program: Any = None
    stateful: bool = False
    changes: tuple[str, ...] = ()
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
        """The value that it returns beside the gradient, in float64, if its `part` is (1,)."""
        run = self._values if self.way.traced else self._value
        return float(np.ravel(run_in(run, self.way.wide, layout, point, np.float64)[0])[0])

    @functools.cached_property
    def trace(self) -> Trace:
        """`(layout, point) -> the gradient, packed`."""
        return Trace(lambda layout, point: pack(self.tree(layout, point)))

    @functools.cached_property
    def _leaves(self) -> Programs:
        return Programs(lambda layout, point: select(unpack(self.trace(layout, point)), layout))

    def tree(self, layout: Layout, point: Point) -> Any:
        """The gradient as the caller's function returns it."""
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
        return run_in(run, self.way.wide, layout, point, dtype)


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
        hint = " If it returns (value, auxiliary output), pass has_aux=True." if isinstance(value, tuple) else ""
        raise BadLoss(f"`loss` must return a floating scalar [], got {got}.{hint}")
    value = value.detach().cpu().numpy() if hasattr(value, "detach") else value
    array = value if hasattr(value, "dtype") else np.asarray(value)
    if array.size != 1 or array.ndim > 2 or not jnp.issubdtype(array.dtype, jnp.floating):
        real = " Return its real part." if jnp.issubdtype(array.dtype, jnp.complexfloating) else ""
        raise BadLoss(f"`loss` must return a floating scalar [], got {array.dtype}{list(array.shape)}.{real}")
    return value
