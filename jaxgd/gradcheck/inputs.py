"""Parameters and arguments as real leaves in any dtype, and put together again as the caller gave them."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgd.gradcheck.leaf import Arrays as Arrays
from jaxgd.gradcheck.leaf import Leaf, Static, names_of, parts_of, put_together
from jaxgd.gradcheck.leaf import is_floating as is_floating
from jaxgd.gradcheck.precision import precision

SMALL = 100_000
"""Numbers in parameters and arguments up to which compiling takes longer than running."""


class Layout(NamedTuple):
    """How the arguments of a call are put together from real leaves; hashable.

    Attributes:
      treedef: of `(params, args, kwargs)`.
      leaves: what each leaf is.
      statics: those that are held.
      argnums: the position of the parameters in the call, or several positions.
    """

    treedef: Any
    leaves: tuple[Leaf, ...]
    statics: tuple[Static, ...]
    argnums: int | tuple[int, ...] = 0

    @property
    def roles(self) -> tuple[str, ...]:
        """The role of each real part."""
        return tuple(role for leaf in self.leaves for role in leaf.roles)

    def names(self, role: str) -> list[str]:
        """Where the real parts of a role are, in words of the caller's call."""
        parts = [pair for leaf in self.leaves for pair in zip(leaf.roles, leaf.names, strict=True)]
        return [name for found, name in parts if found == role]

    def holding(self, names: Sequence[str]) -> "Layout":
        """The layout in which some parameters count as arguments.

        Args:
          names: of the parameters that are not differentiated by.

        Returns:
          The layout.
        """
        held = set(names)
        leaves = [
            leaf._replace(
                roles=tuple(
                    "float" if role == "param" and name in held else role
                    for role, name in zip(leaf.roles, leaf.names, strict=True)
                )
            )
            for leaf in self.leaves
        ]
        return self._replace(leaves=tuple(leaves))

    def arguments(self, point: "Point", *, family: str | None = None) -> tuple[list[Any], dict[str, Any]]:
        """The arguments of the call.

        Args:
          point: the leaves, traced or not.
          family: "numpy" gives NumPy arrays, "given" arrays of the caller's own kind; None gives what `point` holds.

        Returns:
          Positional and keyword arguments.
        """
        pools = {"param": iter(point.params), "float": iter(point.floats), "array": iter(point.arrays)}
        statics = iter(self.statics)
        whole = []
        for leaf in self.leaves:
            parts = [next(pools[role]) for role in leaf.roles]
            whole.append(put_together(leaf, parts, family) if parts else next(statics).value)
        params, args, kwargs = self.treedef.unflatten(whole)
        positions = (self.argnums,) if isinstance(self.argnums, int) else self.argnums
        values = (params,) if isinstance(self.argnums, int) else params
        positional = list(args)
        for position, value in sorted(zip(positions, values, strict=True), key=lambda pair: pair[0]):
            positional.insert(position, value)
        return positional, kwargs

    def call(self, function: Any, point: "Point", *, family: str | None = None) -> Any:
        """Call a function as the caller would.

        Args:
          function: takes the arguments of the call.
          point: the leaves, traced or not.
          family: see `arguments`.

        Returns:
          What the function returns.
        """
        positional, kwargs = self.arguments(point, family=family)
        return function(*positional, **kwargs)

    def as_given(self, point: "Point") -> "Point":
        """A point in the dtypes that the caller gave."""
        parts = [(role, leaf.family, leaf.dtype) for leaf in self.leaves for role in leaf.roles]

        def cast(leaves: Arrays, wanted: str) -> Arrays:
            kinds = [kind for role, *kind in parts if role == wanted]
            return [
                float(leaf) if family == "python" else np.asarray(leaf).astype(dtype)
                for leaf, (family, dtype) in zip(leaves, kinds, strict=True)
            ]

        with np.errstate(over="ignore"):
            return Point(cast(point.params, "param"), cast(point.floats, "float"), point.arrays)


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
        """The point in another floating dtype."""

        def cast(leaf: Any) -> Any:
            if np.size(leaf) <= SMALL:
                return np.asarray(leaf).astype(dtype)
            with precision(np.float64):  # memory of JAX's own is aligned, and never copied on the way into a program
                return np.asarray(jnp.asarray(leaf).astype(dtype))

        with np.errstate(over="ignore"):
            return Point([cast(leaf) for leaf in self.params], [cast(leaf) for leaf in self.floats], self.arrays)


class NoFloatingLeaf(TypeError):
    """The parameters have no number to differentiate by."""


class Inputs(NamedTuple):
    """The arguments of a call, taken apart.

    Attributes:
      layout: how they are put together.
      point: their real leaves, in the dtypes given.
      params: what is differentiated by: one argument, or a tuple of several.
    """

    layout: Layout
    point: Point
    params: Any


def take_apart(
    arguments: Sequence[Any],
    kwargs: Mapping[str, Any],
    *,
    argnums: int | tuple[int, ...] = 0,
    hold: bool = False,
    integers: bool = False,
) -> Inputs:
    """The arguments of a call as real leaves.

    A complex leaf has two parts, named `.real` and `.imag`. Integers, booleans, keys, strings and anything else
    that is not a floating number is held.

    Args:
      arguments: all positional arguments, parameters included.
      kwargs: the keyword arguments.
      argnums: which arguments are the parameters.
      hold: whether all arguments except the parameters are held as they are, so that a trace sees their numbers.
      integers: whether Python integers among the parameters are differentiated by.

    Returns:
      Layout and leaves.

    Raises:
      NoFloatingLeaf: no floating leaf among the parameters.
    """
    positions = (argnums,) if isinstance(argnums, int) else argnums
    chosen = tuple(arguments[position] for position in positions)
    params = chosen[0] if isinstance(argnums, int) else chosen
    rest = tuple(argument for i, argument in enumerate(arguments) if i not in positions)
    paths, treedef = jax.tree_util.tree_flatten_with_path((params, rest, dict(kwargs)))
    leaves, statics = [], []
    pools: dict[str, Arrays] = {"param": [], "float": [], "array": []}
    for path, value in paths:
        of_params = path[0].idx == 0
        family, dtype, parts = parts_of(value, number=of_params and integers)
        tracked = family == "torch" and bool(value.requires_grad)
        if family == "static" or (hold and not of_params):
            leaves.append(Leaf("static"))
            statics.append(Static(value))
            continue
        role = ("param" if of_params else "float") if parts is not None else "array"
        parts = [value] if parts is None else parts
        pools[role] += parts
        where = str(jax.tree_util.keystr(path[1:]))
        leaves.append(Leaf(family, (role,) * len(parts), where, names_of(path, len(parts)), dtype, tracked))
    if not pools["param"]:
        others = [
            value
            for value in jax.tree.leaves(params)
            if hasattr(value, "shape") and parts_of(value, number=False)[0] == "static"
        ]
        kind = f"{type(others[0]).__module__.split('.')[0]} {type(others[0]).__name__}" if others else ""
        got = f"a {kind}: pass it as a NumPy array" if others else "none"
        raise NoFloatingLeaf(f"`params` must have a floating leaf to differentiate by, got {got}.")
    layout = Layout(treedef, tuple(leaves), tuple(statics), argnums)
    return Inputs(layout, Point(pools["param"], pools["float"], pools["array"]), params)
