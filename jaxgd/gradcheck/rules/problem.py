"""A rule at given arguments as what `check_gradient` takes: a scalar loss, its hand gradient, named leaves.

With `g` a random incoming gradient, the loss is `<f(*args), g>` and its hand gradient are the cotangents that the rule
returns for `g`.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgd.gradcheck.rules.cotangents import by_name
from jaxgd.gradcheck.rules.rule import Rule, dtype_of, flatten, is_inexact

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
        """The inverse."""
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
        """The arguments with some leaves replaced."""
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
        return self._cotangents(self.rule.pull, params, incoming, held)

    def by_other(self, params: Named, incoming: Named, held: Named) -> Named:
        """What another library than JAX says the rule ought to return.

        Args:
          params: see `loss`.
          incoming: see `loss`.
          held: see `loss`.

        Returns:
          A tree like `params`.
        """
        assert self.rule.derivative is not None
        return self._cotangents(self.rule.derivative, params, incoming, held)

    def _cotangents(self, pull: Callable[..., Any], params: Named, incoming: Named, held: Named) -> Named:
        args = self.put({**held.leaves, **params.leaves})
        cotangents = pull(args, self.as_incoming(self.rule.body(*args), incoming.leaves))
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
      TypeError: no argument is floating, so that there is nothing to differentiate by.
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
