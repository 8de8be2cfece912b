"""The form of a gradient: its tree, shapes and dtypes beside those of the parameters."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgd.gradcheck.report import Finding, Kind


class Form(NamedTuple):
    """How the tree that a gradient function returns fits the parameters.

    Attributes:
      findings: what does not fit.
      comparable: one a floating leaf of the parameters: whether the tree has a leaf of its path and shape.
    """

    findings: tuple[Finding, ...]
    comparable: tuple[bool, ...]


def paths(tree: Any) -> list[str]:
    """The path of each leaf.

    Args:
      tree: any tree.

    Returns:
      Paths as `jax.tree_util.keystr` writes them, in the order of the leaves.
    """
    return [str(jax.tree_util.keystr(path)) for path, _ in jax.tree_util.tree_flatten_with_path(tree)[0]]


def by_path(tree: Any) -> dict[str, Any]:
    """The leaves by their paths.

    Args:
      tree: any tree.

    Returns:
      A dictionary in the order of the leaves.
    """
    return dict(zip(paths(tree), jax.tree.leaves(tree), strict=True))


def compare_form(
    answer: Any,
    params: Any,
    names: Sequence[str],
    values: Callable[[str], tuple[Any, Any] | None],
    *,
    dtypes: bool,
) -> Form:
    """Compare the tree that a gradient function returns with the tree of the parameters.

    Args:
      answer: what the gradient function returns, or its shapes.
      params: the parameters.
      names: paths of the floating leaves of the parameters.
      values: takes the path of a leaf of a wrong shape; returns what the gradient function returns for it and the
        right gradient, both in float64, or None where they are not known.
      dtypes: whether dtypes count.

    Returns:
      The findings, and which leaves can be compared entry by entry.
    """
    got, wanted = by_path(answer), by_path(params)
    extra = sorted(set(got) - set(wanted))
    also = f"; it has {', '.join(extra)}, which no parameter has" if extra else ""
    missing = [name for name in names if name not in got]
    findings = [
        Finding(name, Kind.STRUCTURE, f"{name or 'params'} has no gradient: the tree returned lacks it{also}.")
        for name in missing
    ]
    if not missing:
        findings += [
            Finding(name, Kind.STRUCTURE, f"{name} is in the tree returned, but no parameter has this path.")
            for name in extra
        ]
    present = [name for name in names if name in got]
    if not missing and not extra:
        findings += [Finding("", Kind.STRUCTURE, message) for message in _containers(answer, params, "")]
    misshapen = [name for name in present if np.shape(got[name]) != np.shape(wanted[name])]
    for name in misshapen:
        kind, message = wrong_shape(name, np.shape(got[name]), np.shape(wanted[name]), values(name))
        findings.append(Finding(name, kind, message))
    for name in present if dtypes else ():
        dtype = jnp.asarray(wanted[name]).dtype
        got_dtype = getattr(got[name], "dtype", np.dtype(float))
        if dtype != got_dtype and name not in misshapen:
            message = f"{name or 'params'} has dtype {got_dtype}, its parameter {dtype}."
            findings.append(Finding(name, Kind.DTYPE, message))
    return Form(tuple(findings), tuple(name in present and name not in misshapen for name in names))


def _containers(answer: Any, params: Any, path: str) -> Iterator[str]:
    """A sentence for each container of another type than that of the parameters, such as a list for a tuple."""
    flatten = jax.tree_util.default_registry.flatten_one_level
    if answer is None or params is None or (got := flatten(answer)) is None or (wanted := flatten(params)) is None:
        return
    if type(answer) is not type(params):
        where = f" at {path}" if path else ""
        yield (
            f"the gradient is a {type(answer).__name__}{where}, the parameters are a {type(params).__name__}: "
            "jax.tree.map over both fails."
        )
    parts = [list(children) for children, _ in (got, wanted)]
    if len(parts[0]) == len(parts[1]):
        keys = _keys(params)
        for child, parameter, key in zip(*parts, keys, strict=True):
            yield from _containers(child, parameter, path + key)


def _keys(tree: Any) -> list[str]:
    """The key of each child."""
    entries = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda node: node is not tree)[0]
    return [str(jax.tree_util.keystr(path)) for path, _ in entries]


def wrong_shape(
    name: str, shape: tuple[int, ...], wanted: tuple[int, ...], values: tuple[Any, Any] | None
) -> tuple[Kind, str]:
    """What a leaf of a wrong shape has to do with the right gradient.

    Args:
      name: path of the leaf.
      shape: of what was returned.
      wanted: shape of the parameter.
      values: what was returned, and the right gradient `[*wanted]`; None where they are not known.

    Returns:
      The kind of mistake, and the sentence.
    """
    label = name or "params"
    plain = Kind.SHAPE, f"{label} has shape {shape}, its parameter {wanted}."
    if values is None:
        return plain
    returned, right = values

    def same(candidate: Any) -> bool:
        return candidate.shape == right.shape and bool(
            np.allclose(candidate, right, rtol=1e-9, atol=1e-9 * np.max(np.abs(right), initial=0.0))
        )

    if returned.ndim == 2 and same(returned.T):
        return Kind.TRANSPOSED, f"{label} is the transpose of the gradient: shape {shape}, its parameter {wanted}."
    if returned.size == right.size and same(returned.reshape(right.shape)):
        return Kind.SHAPE, f"{label} holds the right numbers in shape {shape}; its parameter has {wanted}."
    for axis in range(returned.ndim):
        for reduced, verb in ((returned.sum(axis), "summed"), (returned.mean(axis), "averaged")):
            if same(reduced):
                return Kind.NOT_SUMMED, (
                    f"{label} has shape {shape}, its parameter {wanted}: it is the gradient once {verb} over "
                    f"axis {axis}. A broadcast is not summed."
                )
    return plain
