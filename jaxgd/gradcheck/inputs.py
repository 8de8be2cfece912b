"""Parameters and arguments as real leaves in any dtype, and put together again as the caller gave them."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgd.gradcheck.precision import precision

Arrays = list[Any]
"""Leaves, in the order of their tree."""

SMALL = 100_000
"""Numbers in parameters and arguments up to which compiling takes longer than running."""


class Leaf(NamedTuple):
    """What a leaf of the caller's trees is, without its numbers.

    Attributes:
      family: whose array it is: "jax", "numpy", "torch", "python" for a number, "static" for anything that is not
        numeric, which is held.
      roles: one for each real part, two for a complex leaf: "param" and "float" are floating numbers of the
        parameters and of the arguments, "array" any other array.
      path: where it is in its argument, as `jax.tree_util.keystr` writes it.
      names: one for each real part: where that is, in words of the caller's call.
      dtype: of the parts, as the caller gave them.
      tracked: whether it is a tensor of torch's with `requires_grad`.
    """

    family: str
    roles: tuple[str, ...] = ()
    path: str = ""
    names: tuple[str, ...] = ()
    dtype: str = ""
    tracked: bool = False


class Static:
    """Something that is held, comparable and hashable whatever it is."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def _key(self) -> Any:
        try:
            hash(self.value)
        except TypeError:
            return id(self.value)
        return type(self.value), self.value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Static) and bool(self._key() == other._key())

    def __hash__(self) -> int:
        return hash(self._key())


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
        """Where the real parts of a role are, in words of the caller's call.

        Args:
          role: "param", "float" or "array".

        Returns:
          One name a part.
        """
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

    def call(self, function: Any, point: "Point", *, family: str | None = None) -> Any:
        """Call a function as the caller would.

        Args:
          function: takes the arguments of the call.
          point: the leaves, traced or not.
          family: "numpy" passes NumPy arrays, "given" arrays of the caller's own kind; None passes what `point` holds.

        Returns:
          What the function returns.
        """
        pools = {"param": iter(point.params), "float": iter(point.floats), "array": iter(point.arrays)}
        statics = iter(self.statics)
        whole = []
        for leaf in self.leaves:
            parts = [next(pools[role]) for role in leaf.roles]
            whole.append(_put_together(leaf, parts, family) if parts else next(statics).value)
        params, args, kwargs = self.treedef.unflatten(whole)
        positions = (self.argnums,) if isinstance(self.argnums, int) else self.argnums
        values = (params,) if isinstance(self.argnums, int) else params
        positional = list(args)
        for position, value in sorted(zip(positions, values, strict=True)):
            positional.insert(position, value)
        return function(*positional, **kwargs)

    def as_given(self, point: "Point") -> "Point":
        """A point in the dtypes that the caller gave.

        Args:
          point: leaves in another floating dtype.

        Returns:
          NumPy arrays.
        """
        parts = [(role, leaf.family, leaf.dtype) for leaf in self.leaves for role in leaf.roles]

        def cast(leaves: Arrays, wanted: str) -> Arrays:
            kinds = [kind for role, *kind in parts if role == wanted]
            return [
                float(leaf) if family == "python" else np.asarray(leaf).astype(dtype)
                for leaf, (family, dtype) in zip(leaves, kinds, strict=True)
            ]

        with np.errstate(over="ignore"):
            return Point(cast(point.params, "param"), cast(point.floats, "float"), point.arrays)


def _put_together(leaf: Leaf, parts: Sequence[Any], family: str | None) -> Any:
    """A leaf from its real parts."""
    if family is None:
        return parts[0] if len(parts) == 1 else jax.lax.complex(*map(jnp.asarray, parts))
    if leaf.roles == ("array",) and leaf.family == "jax":
        return parts[0]  # perhaps a key, which NumPy cannot hold
    if leaf.family == "torch":
        import torch

        tensors = [part if isinstance(part, torch.Tensor) else torch.from_numpy(np.array(part)) for part in parts]
        whole = tensors[0] if len(tensors) == 1 else torch.complex(*tensors)
        return whole.requires_grad_() if leaf.tracked else whole
    value = np.asarray(parts[0]) if len(parts) == 1 else np.asarray(parts[0]) + 1j * np.asarray(parts[1])
    if family == "given" and leaf.family == "jax":
        return jnp.asarray(value)
    return value.item() if leaf.family == "python" else value


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
            with precision(np.float64):  # memory of JAX's own is aligned, and never copied on the way into a program
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
      hold: whether arguments that are no parameters are held as they are, so that a trace sees their numbers.
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
        family, dtype, parts = _parts(value, number=of_params and integers)
        tracked = family == "torch" and bool(value.requires_grad)
        if family == "static" or (hold and not of_params):
            leaves.append(Leaf("static"))
            statics.append(Static(value))
            continue
        role = ("param" if of_params else "float") if parts is not None else "array"
        parts = [value] if parts is None else parts
        pools[role] += parts
        where = str(jax.tree_util.keystr(path[1:]))
        leaves.append(Leaf(family, (role,) * len(parts), where, _names(path, len(parts)), dtype, tracked))
    if not pools["param"]:
        raise NoFloatingLeaf("`params` must have a floating leaf to differentiate by, got none.")
    layout = Layout(treedef, tuple(leaves), tuple(statics), argnums)
    return Inputs(layout, Point(pools["param"], pools["float"], pools["array"]), params)


def _parts(value: Any, *, number: bool) -> tuple[str, str, Arrays | None]:
    """Family, dtype and real floating parts of a leaf; None for the parts of an array that is not floating."""
    if isinstance(value, (bool, str, bytes)) or value is None:
        return "static", "", None
    if type(value) in (int, float, complex):
        if type(value) is int and not number:
            return "static", "", None
        return "python", "float64", [value.real, value.imag] if type(value) is complex else [float(value)]
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        family, value = "torch", value.detach().cpu().numpy()
    elif hasattr(value, "dtype") and hasattr(value, "shape"):
        family = "jax" if isinstance(value, jax.Array) else "numpy"
    else:
        return "static", "", None
    dtype = value.dtype
    if jnp.issubdtype(dtype, jnp.complexfloating):
        parts = [np.asarray(value).real, np.asarray(value).imag]
        return family, str(parts[0].dtype), parts
    if jnp.issubdtype(dtype, jnp.floating):
        return family, str(dtype), [value]
    numeric = (
        jnp.issubdtype(dtype, jnp.integer)
        or jnp.issubdtype(dtype, np.bool_)
        or jnp.issubdtype(dtype, jax.dtypes.extended)
    )
    return (family if numeric else "static"), str(dtype), None


def _names(path: Any, count: int) -> tuple[str, ...]:
    """Where the parts of a leaf are: the path in the parameters, or `args[0]` and what follows."""
    inside = str(jax.tree_util.keystr(path[1:]))
    name = inside if path[0].idx == 0 else f"args{inside}" if path[0].idx == 1 else _of_keyword(path)
    return (name,) if count == 1 else tuple(f"{name or 'params'}.{part}" for part in ("real", "imag"))


def _of_keyword(path: Any) -> str:
    return f"{path[1].key}{jax.tree_util.keystr(path[2:])}"
