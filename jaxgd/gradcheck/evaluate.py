"""A loss and its gradient, compiled once, evaluated in any precision."""

import contextlib
import functools
import warnings
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Arrays = list[Any]
"""Leaves, in the order of their tree."""

UNTRACEABLE = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerBoolConversionError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.NonConcreteBooleanIndexError,
)
"""What a function raises that needs numbers where jit gives it shapes."""


class Layout(NamedTuple):
    """How parameters and arguments are put together from their leaves; hashable.

    Attributes:
      treedef: of `(params, args)`.
      roles: one a leaf: "param" and "float" are floating arrays of the parameters and of the arguments, "array"
        any other array, "static" anything else.
      statics: the static leaves.
    """

    treedef: Any
    roles: tuple[str, ...]
    statics: tuple[Any, ...]

    def assemble(self, params: Sequence[Any], floats: Sequence[Any], arrays: Sequence[Any]) -> tuple[Any, Any]:
        """The trees.

        Args:
          params: the floating leaves of the parameters.
          floats: those of the arguments.
          arrays: the other arrays.

        Returns:
          Parameters and arguments.
        """
        pools = {"param": iter(params), "float": iter(floats), "array": iter(arrays), "static": iter(self.statics)}
        whole = self.treedef.unflatten([next(pools[role]) for role in self.roles])
        return whole[0], whole[1]


class Point(NamedTuple):
    """Where a pair is evaluated.

    Attributes:
      params: the floating leaves of the parameters.
      floats: the floating leaves of the arguments.
      arrays: the other arrays among the leaves.
    """

    params: Arrays
    floats: Arrays
    arrays: Arrays

    def cast(self, dtype: Any) -> "Point":
        """The point in another floating dtype.

        Args:
          dtype: of all floating leaves.

        Returns:
          NumPy arrays.
        """

        def cast(leaf: Any) -> Any:
            if np.size(leaf) <= SMALL:
                return np.asarray(leaf).astype(dtype)
            with precision(np.float64):  # memory of jax's own is aligned, and never copied on the way into a program
                return np.asarray(jnp.asarray(leaf).astype(dtype))

        with np.errstate(over="ignore"):
            return Point([cast(leaf) for leaf in self.params], [cast(leaf) for leaf in self.floats], self.arrays)


def is_floating(leaf: Any) -> bool:
    """Whether a leaf is a real floating number or array.

    Args:
      leaf: anything.

    Returns:
      The answer.
    """
    return isinstance(leaf, float) or (hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating))


def take_apart(params: Any, args: Sequence[Any]) -> tuple[Layout, Point, list[str]]:
    """Parameters and arguments as leaves.

    Args:
      params: a tree with floating leaves.
      args: trees.

    Returns:
      The layout, the point, and the path of each floating leaf of the parameters.

    Raises:
      TypeError: no floating leaf among the parameters, or complex ones.
    """
    paths, treedef = jax.tree_util.tree_flatten_with_path((params, tuple(args)))
    roles, statics, names = [], [], []
    point = Point([], [], [])
    for path, leaf in paths:
        of_params = path[0].idx == 0
        if hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.complexfloating):
            raise TypeError(f"`params` and arguments must be real, got {leaf.dtype} at {_keystr(path[1:])}.")
        if is_floating(leaf):
            roles.append("param" if of_params else "float")
            (point.params if of_params else point.floats).append(leaf)
            if of_params:
                names.append(_keystr(path[1:]))
        elif hasattr(leaf, "dtype") and hasattr(leaf, "shape"):
            roles.append("array")
            point.arrays.append(leaf)
        else:
            roles.append("static")
            statics.append(leaf)
    if not point.params:
        raise TypeError("`params` must have a floating leaf to differentiate by, got none.")
    return Layout(treedef, tuple(roles), tuple(statics)), point, names


def _keystr(path: Any) -> str:
    return str(jax.tree_util.keystr(path))


@contextlib.contextmanager
def precision(dtype: Any) -> Iterator[None]:
    """Evaluate in a floating dtype whatever the settings of the process, which are given back as found.

    Args:
      dtype: float64 or float32; None leaves the settings alone.

    Returns:
      A context.
    """
    if dtype is None:
        yield
        return
    with (
        jax.enable_x64(np.dtype(dtype) == np.float64),
        jax.numpy_dtype_promotion("standard"),
        jax.debug_nans(False),
        jax.debug_infs(False),
        warnings.catch_warnings(),
        np.errstate(all="ignore"),
    ):
        # Code that asks for float64 by name gets float32 where it is measured in float32: not its mistake.
        warnings.simplefilter("ignore")
        yield


SMALL = 100_000
"""Numbers in parameters and arguments up to which compiling takes longer than running."""

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
