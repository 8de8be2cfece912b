"""The form of a gradient: its tree, shapes and dtypes beside those of the parameters."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgd.gradcheck.answer import by_path, is_numeric
from jaxgd.gradcheck.finding import Finding, Kind
from jaxgd.gradcheck.inputs import Layout
from jaxgd.gradcheck.leaf import Leaf


class Form(NamedTuple):
    """How the tree that a gradient function returns fits the parameters.

    Attributes:
      findings: what does not fit.
      comparable: one a real leaf of the parameters: whether the tree has a leaf of its path and shape.
    """

    findings: tuple[Finding, ...]
    comparable: tuple[bool, ...]


def compare_form(
    answer: Any,
    params: Any,
    layout: Layout,
    values: Callable[[str], tuple[Any, Any] | None],
    *,
    dtypes: bool,
) -> Form:
    """Compare the tree that a gradient function returns with the tree of the parameters.

    Args:
      answer: what the gradient function returns, or its shapes.
      params: the parameters.
      layout: what their leaves are.
      values: takes the path of a leaf of a wrong shape; returns what the gradient function returns for it and the
        right gradient, both in float64, or None where they are not known.
      dtypes: whether dtypes count.

    Returns:
      The findings, and which real leaves can be compared entry by entry.
    """
    got, wanted = by_path(answer), by_path(params)
    leaves = {leaf.path: leaf for leaf in layout.leaves if "param" in leaf.roles}
    extra = sorted(set(got) - set(wanted))
    missing = [path for path in leaves if path not in got]
    also = f"; it has {', '.join(extra)}, which no parameter has" if extra else ""
    if answer is None:
        also = "; `grad` returned None"
    elif missing == [""] and isinstance(answer, (tuple, list)):
        also = _about_a_sequence(answer, params, layout)
    findings = [
        Finding(path, Kind.STRUCTURE, f"{path or 'params'} has no gradient: the tree returned lacks it{also}.")
        for path in missing
    ]
    if not missing:
        findings += [
            Finding(path, Kind.STRUCTURE, f"{path} is in the tree returned, but no parameter has this path.")
            for path in extra
        ]
    present = [path for path in leaves if path in got and is_numeric(got[path])]
    findings += [
        Finding(path, Kind.STRUCTURE, f"{path or 'params'} is a {type(got[path]).__name__}, not a number or an array.")
        for path in leaves
        if path in got and not is_numeric(got[path])
    ]
    if not missing and not extra:
        findings += [Finding("", Kind.STRUCTURE, message) for message in _containers(answer, params, "")]
    shapes = {path: (tuple(np.shape(got[path])), tuple(np.shape(wanted[path]))) for path in present}
    misshapen = [path for path, (shape, right) in shapes.items() if shape != right]
    for path in misshapen:
        kind, message = wrong_shape(path, *shapes[path], values(path))
        findings.append(Finding(path, kind, message))
    for path in present if dtypes else ():
        dtype, of_answer = _dtype_of(leaves[path]), getattr(got[path], "dtype", None)
        if dtype and of_answer is not None and of_answer != dtype and path not in misshapen:
            findings.append(
                Finding(path, Kind.DTYPE, f"{path or 'params'} has dtype {of_answer}, its parameter {dtype}.")
            )
    comparable = [path in present and path not in misshapen for path, leaf in leaves.items() for _ in leaf.roles]
    return Form(tuple(findings), tuple(comparable))


def _dtype_of(leaf: Leaf) -> Any:
    """The dtype that JAX gives a leaf; None for a Python number, which takes any."""
    if leaf.family == "python":
        return None
    part = np.zeros(0, leaf.dtype)
    return jnp.result_type(part + 1j * part if len(leaf.roles) == 2 else part)


def _about_a_sequence(answer: Any, params: Any, layout: Layout) -> str:
    """What a tuple may be that is returned for parameters which are one array."""
    count = len(answer)
    fits = count and np.shape(answer[0]) == np.shape(params)
    many = f"; it is a {type(answer).__name__} of {count}"
    if fits and count > 1 and layout.argnums == 0:
        return f"{many}: if it holds the gradients by several arguments, pass argnums={tuple(range(count))}"
    return f"{many}: return its entry instead" if fits and count == 1 else many


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
