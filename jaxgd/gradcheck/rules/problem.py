"""A rule at given arguments as what `check_gradient` takes: a scalar loss, its hand gradient, named leaves.

With `g` a random incoming gradient, the loss is `<f(*args), g>` and its hand gradient are the cotangents that the rule
returns for `g`.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgd.gradcheck.report import Finding, Kind
from jaxgd.gradcheck.rules.forms import Rule, flatten

INCOMING = "the incoming gradient"


class _Key(NamedTuple):
    """An entry of a path that prints as the name of an argument."""

    name: str

    def __str__(self) -> str:
        return self.name


@jax.tree_util.register_pytree_with_keys_class
class Named:
    """Leaves with names: a tree whose paths are written `x` or `x['w']`.

    Attributes:
      leaves: by name.
    """

    def __init__(self, leaves: dict[str, Any]) -> None:
        self.leaves = leaves

    def tree_flatten_with_keys(self) -> tuple[list[tuple[Any, Any]], tuple[str, ...]]:
        """Children with their keys, and the names.

        Returns:
          What `jax.tree_util.register_pytree_with_keys_class` asks for.
        """
        return [(_Key(name), leaf) for name, leaf in self.leaves.items()], tuple(self.leaves)

    @classmethod
    def tree_unflatten(cls, names: tuple[str, ...], leaves: Sequence[Any]) -> "Named":
        """The inverse.

        Args:
          names: of the leaves.
          leaves: in their order.

        Returns:
          The tree.
        """
        return cls(dict(zip(names, leaves, strict=True)))


class Problem(NamedTuple):
    """A rule at given arguments.

    Attributes:
      rule: the rule.
      args: the arguments.
      like: the function whose derivative the rule is held against.
      names: of the leaves that are differentiated by.
      held: of the other arrays.
      outputs: what the function returned for the arguments.
    """

    rule: Rule
    args: tuple[Any, ...]
    like: Callable[..., Any]
    names: tuple[str, ...]
    held: tuple[str, ...]
    outputs: Any

    def named(self) -> dict[str, Any]:
        """Every leaf of the arguments by its name."""
        pairs = zip(self.rule.arguments, self.args, strict=True)
        return {key: leaf for name, arg in pairs for key, leaf in named_leaves(name, arg).items()}

    def put(self, leaves: dict[str, Any]) -> tuple[Any, ...]:
        """The arguments with some leaves replaced.

        Args:
          leaves: by name.

        Returns:
          The arguments.
        """
        new = [leaves.get(name, leaf) for name, leaf in self.named().items()]
        args: tuple[Any, ...] = jax.tree.unflatten(jax.tree.structure(self.args), new)
        return args

    def incoming(self, rng: np.random.Generator) -> dict[str, Any]:
        """A random incoming gradient.

        Args:
          rng: draws it.

        Returns:
          One array for each floating output, by name; without a path if there is only one.
        """
        paths = [
            (path, leaf) for path, leaf in jax.tree_util.tree_flatten_with_path(self.outputs)[0] if is_inexact(leaf)
        ]
        if len(paths) == 1:
            paths = [((), paths[0][1])]
        drawn = {}
        for path, leaf in paths:
            values = rng.normal(size=np.shape(leaf))
            if jnp.issubdtype(dtype_of(leaf), jnp.complexfloating):
                values = values + 1j * rng.normal(size=np.shape(leaf))
            drawn[INCOMING + jax.tree_util.keystr(path)] = np.asarray(values).astype(dtype_of(leaf))
        return drawn

    def loss(self, params: Named, incoming: Named, held: Named) -> Any:
        """The outputs times the incoming gradient.

        Args:
          params: the leaves that are differentiated by.
          incoming: one leaf for each floating output.
          held: the other arrays.

        Returns:
          `[]`.
        """
        outputs = self.like(*self.put({**held.leaves, **params.leaves}))
        floating = [leaf for leaf in jax.tree.leaves(outputs) if is_inexact(leaf)]
        return sum((g * leaf).sum().real for g, leaf in zip(incoming.leaves.values(), floating, strict=True))

    def grad(self, params: Named, incoming: Named, held: Named) -> Named:
        """What the rule returns for the leaves that are differentiated by.

        Args:
          params: see `loss`.
          incoming: see `loss`.
          held: see `loss`.

        Returns:
          A tree like `params`, as far as the rule returns one.
        """
        args = self.put({**held.leaves, **params.leaves})
        cotangents = self.rule.pull(args, self.as_incoming(self.rule.body(*args), incoming.leaves))
        found, _ = by_name(self.rule, args, cotangents)
        wanted = {name: leaf for name, leaf in found.items() if name in params.leaves or name not in held.leaves}
        zeros = {name: params.leaves[name] * 0 for name, leaf in wanted.items() if leaf is None}
        return Named({**wanted, **zeros})

    @staticmethod
    def as_incoming(outputs: Any, incoming: dict[str, Any]) -> Any:
        """The incoming gradient as a tree like the outputs, in their dtypes.

        Args:
          outputs: of the function.
          incoming: one array for each floating output.

        Returns:
          A tree; float0 for outputs that are not floating, as JAX has it.
        """
        leaves, tree = flatten(outputs)
        rest = iter(incoming.values())
        return tree.unflatten(
            [
                next(rest).astype(dtype_of(leaf)) if is_inexact(leaf) else np.zeros(np.shape(leaf), jax.dtypes.float0)
                for leaf in leaves
            ]
        )


def dtype_of(leaf: Any) -> Any:
    """The dtype of an array or a Python number.

    Args:
      leaf: either.

    Returns:
      A dtype.
    """
    return jnp.result_type(leaf)


def is_inexact(leaf: Any) -> bool:
    """Whether a leaf is a real or complex floating number or array.

    Args:
      leaf: anything.

    Returns:
      The answer.
    """
    return isinstance(leaf, float | complex) or (hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.inexact))


def named_leaves(name: str, arg: Any) -> dict[str, Any]:
    """The leaves of one argument.

    Args:
      name: of the argument.
      arg: a tree.

    Returns:
      Leaves by `x` or `x['w']`.
    """
    return {name + jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(arg)[0]}


def problem_of(rule: Rule, args: Sequence[Any], like: Callable[..., Any] | None = None) -> Problem:
    """Bind a rule to arguments, and run the function once.

    Args:
      rule: the rule.
      args: its arguments.
      like: the function whose derivative the rule is to have; None for its own body.

    Returns:
      The problem.

    Raises:
      TypeError: there is no floating argument to differentiate by.
      ValueError: the function raises, returns no floating output, or something is not finite.
    """
    names, held = [], []
    for i, arg in enumerate(args):
        for name, leaf in named_leaves(rule.arguments[i], arg).items():
            if is_inexact(leaf) and i not in rule.held:
                names.append(name)
                if not np.isfinite(np.asarray(leaf, np.complex128)).all():
                    raise ValueError(
                        f"`{name}` must be finite to check the rule of `{rule.name}`, got NaN or infinity."
                    )
            elif hasattr(leaf, "dtype") and hasattr(leaf, "shape") and i not in rule.held:
                held.append(name)
    if not names:
        raise TypeError(f"`{rule.name}` must be given a floating argument to differentiate by, got none.")
    try:
        outputs = rule.body(*args)
    except Exception as error:
        raise ValueError(f"`{rule.name}` raised {type(error).__name__}: {error}") from error
    floating = [leaf for leaf in jax.tree.leaves(outputs) if is_inexact(leaf)]
    if not floating:
        raise ValueError(f"`{rule.name}` must return a floating output to differentiate, got none.")
    if not all(np.isfinite(np.asarray(leaf, np.complex128)).all() for leaf in floating):
        raise ValueError(f"`{rule.name}` must return finite values for these arguments, got NaN or infinity.")
    return Problem(rule, tuple(args), like or rule.body, tuple(names), tuple(held), outputs)


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
