"""One leaf of the caller's trees: what it is, its real parts, and how it is put together from them."""

import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Arrays = list[Any]
"""Leaves, in the order of their tree."""


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
        if hasattr(self.value, "shape"):  # compared entry by entry, if at all
            return id(self.value)
        return type(self.value), self.value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Static) and bool(self._key() == other._key())

    def __hash__(self) -> int:
        return hash(self._key())


def is_floating(leaf: Any) -> bool:
    """Whether a leaf is a real floating number or array."""
    return isinstance(leaf, float) or (hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating))


def put_together(leaf: Leaf, parts: Sequence[Any], family: str | None) -> Any:
    """A leaf from its real parts.

    Args:
      leaf: what it is.
      parts: one real array, or two for a complex leaf.
      family: see `Layout.call`.

    Returns:
      What the caller's function takes; never memory of the caller's, which the function may write to.
    """
    if family is None:
        return parts[0] if len(parts) == 1 else jax.lax.complex(*map(jnp.asarray, parts))
    if leaf.roles == ("array",) and leaf.family == "jax":
        return parts[0]  # perhaps a key, which NumPy cannot hold
    if leaf.family == "torch":
        import torch

        tensors = [part if isinstance(part, torch.Tensor) else torch.from_numpy(np.array(part)) for part in parts]
        whole = tensors[0] if len(tensors) == 1 else torch.complex(*tensors)
        return whole.requires_grad_() if leaf.tracked else whole
    value = np.array(parts[0]) if len(parts) == 1 else np.asarray(parts[0]) + 1j * np.asarray(parts[1])
    if family == "given" and leaf.family == "jax":
        return jnp.asarray(value)
    return value.item() if leaf.family == "python" else value


def parts_of(value: Any, *, number: bool) -> tuple[str, str, Arrays | None]:
    """Take a leaf apart.

    Args:
      value: the leaf.
      number: whether a Python integer counts as floating.

    Returns:
      Family, dtype and real floating parts; None for the parts of anything that is not floating.
    """
    if isinstance(value, (bool, str, bytes)) or value is None:
        return "static", "", None
    if type(value) in (int, float, complex):
        if type(value) is int and not number:
            return "static", "", None
        return "python", "float64", [value.real, value.imag] if type(value) is complex else [float(value)]
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        family, value = "torch", value.detach().cpu().numpy()
    elif isinstance(value, jax.Array):
        family = "jax"
    elif type(value) in (np.ndarray, np.memmap) or isinstance(value, np.generic):
        # Tables, sparse matrices and masked arrays have a dtype and a shape, too, and are not arrays of numbers.
        family = "numpy"
        if value.dtype in (np.longdouble, np.clongdouble):  # which JAX does not have
            value = value.astype(np.complex128 if np.iscomplexobj(value) else np.float64)
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


def names_of(path: Any, count: int) -> tuple[str, ...]:
    """Where the parts of a leaf are, in words of the caller's call.

    Args:
      path: of the leaf in `(params, args, kwargs)`.
      count: of its parts.

    Returns:
      The path in the parameters, or `args[0]` and what follows, or the name of a keyword; for a complex leaf with
      `.real` and `.imag`.
    """
    inside = str(jax.tree_util.keystr(path[1:]))
    name = inside if path[0].idx == 0 else f"args{inside}" if path[0].idx == 1 else _of_keyword(path)
    return (name,) if count == 1 else tuple(f"{name or 'params'}.{part}" for part in ("real", "imag"))


def _of_keyword(path: Any) -> str:
    return f"{path[1].key}{jax.tree_util.keystr(path[2:])}"
