"""The tree of cotangents that a rule returns, beside the arguments of its function."""

from collections.abc import Sequence
from typing import Any

import jax

from jaxgd.gradcheck.finding import Finding, Kind
from jaxgd.gradcheck.rules.rule import Rule, is_inexact


def by_name(rule: Rule, args: Sequence[Any], cotangents: Any) -> tuple[dict[str, Any], list[Finding]]:
    """The cotangents that a rule returns, by the names of the leaves, and what is wrong with their tree.

    Args:
      rule: the rule.
      args: the arguments.
      cotangents: what its backward pass returned.

    Returns:
      Those of floating leaves, None where None stands for zeros; a name that is left out has no cotangent.
    """
    wanted = [i for i in range(len(args)) if i not in rule.held]
    floating = [i for i in wanted if any(is_inexact(leaf) for leaf in jax.tree.leaves(args[i]))]
    listed = ", ".join(rule.arguments[i] for i in wanted)
    if isinstance(cotangents, dict) and not rule.strict and set(cotangents) <= set(rule.arguments):
        entries = {i: cotangents[rule.arguments[i]] for i in floating if rule.arguments[i] in cotangents}
    elif not isinstance(cotangents, tuple | list):
        if rule.strict or len(floating) != 1:
            message = f"the backward pass returns {_kind_of(cotangents)}; it must return a tuple of one cotangent for "
            return {}, [Finding("", Kind.STRUCTURE, f"{message}each of ({listed}).")]
        entries = {floating[0]: cotangents}
    elif len(cotangents) == len(wanted):
        entries = {i: entry for i, entry in zip(wanted, cotangents, strict=True) if i in floating}
    elif len(cotangents) == len(floating) and not rule.strict:
        entries = dict(zip(floating, cotangents, strict=True))
    else:
        message = f"the backward pass returns {len(cotangents)} cotangents; it must return one for each of ({listed})."
        return {}, [Finding("", Kind.STRUCTURE, message)]
    found: dict[str, Any] = {}
    findings: list[Finding] = []
    for i, entry in entries.items():
        found.update(_entry(rule.arguments[i], args[i], entry))
        if _containers_differ(args[i], entry):
            message = (
                f"{rule.arguments[i]}: the cotangent is a tree of other containers than the argument: "
                f"{jax.tree.structure(entry)}, not {jax.tree.structure(args[i])}."
            )
            findings.append(Finding("", Kind.STRUCTURE, message))
    return found, findings


def _kind_of(value: Any) -> str:
    return f"an array of shape {tuple(value.shape)}" if hasattr(value, "shape") else f"{type(value).__name__}"


def _entry(name: str, arg: Any, entry: Any) -> dict[str, Any]:
    """The cotangent of one argument by the names of its leaves; None stands for zeros of a whole subtree."""
    given = jax.tree_util.tree_flatten_with_path(entry, is_leaf=lambda leaf: leaf is None)[0]
    by_path = {jax.tree_util.keystr(path): leaf for path, leaf in given}
    found: dict[str, Any] = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(arg)[0]:
        if not is_inexact(leaf):
            continue
        prefixes = [jax.tree_util.keystr(path[:length]) for length in range(len(path) + 1)]
        hit = next((prefix for prefix in prefixes if prefix in by_path), None)
        if hit is not None and by_path[hit] is None:
            found[name + prefixes[-1]] = None
        elif hit == prefixes[-1]:
            found[name + hit] = by_path[hit]
    known = {jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_flatten_with_path(arg)[0]}
    for extra, leaf in by_path.items():
        inside = any(extra.startswith(other) or other.startswith(extra) for other in known)
        if leaf is not None and extra not in known and not inside:
            found[name + extra] = leaf
    return found


def _containers_differ(arg: Any, entry: Any) -> bool:
    """Whether JAX refuses the tree though all paths are there: a list for a tuple."""
    paths = [
        [path for path, _ in jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda leaf: leaf is None)[0]]
        for tree in (arg, entry)
    ]
    if paths[0] != paths[1]:
        return False
    try:
        jax.tree.map(lambda a, b: None, entry, arg, is_leaf=lambda leaf: leaf is None)
    except ValueError:
        return True
    return False
