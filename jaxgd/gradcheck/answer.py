"""What a gradient function returns: which part of it is the gradient, and its leaves by their paths."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgd.gradcheck.inputs import Layout
from jaxgd.gradcheck.leaf import Static


class Answer:
    """A tree of which only the numeric leaves are arrays to JAX, so that a trace can return any tree.

    Attributes:
      arrays: the numeric leaves.
      rest: the tree, with its other leaves; hashable.
    """

    def __init__(self, arrays: Sequence[Any], rest: Any) -> None:
        self.arrays = arrays
        self.rest = rest


jax.tree_util.register_pytree_node(
    Answer, lambda answer: (tuple(answer.arrays), answer.rest), lambda rest, arrays: Answer(arrays, rest)
)


def pack(tree: Any) -> Answer:
    """Set the leaves of a tree that are not numeric aside.

    Args:
      tree: any tree.

    Returns:
      The numeric leaves, and what `unpack` needs to put the tree together again.
    """
    leaves, treedef = jax.tree.flatten(tree)
    numeric = [is_numeric(leaf) for leaf in leaves]
    others = tuple(None if is_array else Static(leaf) for leaf, is_array in zip(leaves, numeric, strict=True))
    return Answer([leaf for leaf, is_array in zip(leaves, numeric, strict=True) if is_array], (treedef, others))


def unpack(answer: Answer) -> Any:
    """The tree that was packed."""
    treedef, others = answer.rest
    arrays = iter(answer.arrays)
    return treedef.unflatten([next(arrays) if other is None else other.value for other in others])


def is_numeric(leaf: Any) -> bool:
    """Whether a leaf is a number, an array or a tensor."""
    if type(leaf) in (int, float, complex):
        return True
    dtype = getattr(leaf, "dtype", None)
    if dtype is None or not hasattr(leaf, "shape"):
        return False
    return isinstance(leaf, jax.Array) or not isinstance(dtype, np.dtype) or dtype.kind in "biufcV"


def paths(tree: Any) -> list[str]:
    """The path of each leaf, as `jax.tree_util.keystr` writes it, in the order of the leaves."""
    return [str(jax.tree_util.keystr(path)) for path, _ in jax.tree_util.tree_flatten_with_path(tree)[0]]


def by_path(tree: Any) -> dict[str, Any]:
    """The leaves by their paths."""
    return dict(zip(paths(tree), jax.tree.leaves(tree), strict=True))


def find_part(answer: Any, names: Sequence[str], *, has_aux: bool) -> tuple[int, ...]:
    """Which part of what a gradient function returns is the gradient.

    Args:
      answer: what it returned, or its shapes.
      names: paths of the floating leaves of the parameters.
      has_aux: whether the loss returns an auxiliary output, as the gradient then may.

    Returns:
      (1,) for `(value, gradient)` as `jax.value_and_grad` returns it, (0,) for `(gradient, auxiliary output)`, () for
      anything else.
    """
    wanted = set(names)

    def fits(tree: Any) -> bool:
        return wanted <= set(by_path(tree))

    if fits(answer) or not isinstance(answer, tuple) or len(answer) != 2:
        return ()
    first = answer[0]
    value = first[0] if has_aux and isinstance(first, tuple) and first else first
    if is_numeric(value) and np.size(value) == 1 and fits(answer[1]):
        return (1,)
    return (0,) if has_aux and fits(first) else ()


def part_of(answer: Any, part: tuple[int, ...], layout: Layout) -> Any:
    """A part of an answer.

    Args:
      answer: nested tuples.
      part: indices, see `find_part`.
      layout: of the parameters; for several arguments a list is as good as a tuple.

    Returns:
      The part.
    """
    for index in part:
        answer = answer[index]
    return tuple(answer) if isinstance(layout.argnums, tuple) and isinstance(answer, list) else answer


def select(tree: Any, layout: Layout) -> list[Any]:
    """The leaves of a gradient, one for each real parameter of a layout.

    The gradient by a complex `z = x + i y` is `df/dx - i df/dy` to JAX and `df/dx + i df/dy` to torch.

    Args:
      tree: the gradient.
      layout: of the parameters.

    Returns:
      Real leaves; those that the tree does not have are left out.
    """
    got = by_path(tree)
    found = []
    for leaf in layout.leaves:
        for i, role in enumerate(leaf.roles):
            path = leaf.path
            if role != "param" or not is_numeric(got.get(path)):
                continue
            value = got[path]
            if hasattr(value, "detach"):
                value = value.detach().cpu().resolve_conj().numpy()
            if len(leaf.roles) == 2:
                sign = 1 if leaf.family == "torch" else -1
                value = sign * value.imag if i else value.real
            elif np.iscomplexobj(value) or jnp.iscomplexobj(value):
                value = value.real
            found.append(value)
    return found
