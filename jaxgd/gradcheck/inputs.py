"""Parameters and arguments as leaves in any dtype, and put together again."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgd.gradcheck.precision import precision

Arrays = list[Any]
"""Leaves, in the order of their tree."""


SMALL = 100_000
"""Numbers in parameters and arguments up to which compiling takes longer than running."""


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
