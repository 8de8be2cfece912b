"""The forms in which people write functions with derivatives of their own, each read into a `Rule`."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgd.gradcheck.rules import pairs, program, sites, torch_function
from jaxgd.gradcheck.rules.rule import Rule, argument_names, flatten, name_of, place_of, pull_by_jax, split


def rule_of(f: Any, args: Sequence[Any]) -> Rule:
    """The differentiation rule of a function, whichever form the function has.

    Args:
      f: in any of the forms of `check_rule`.
      args: what it will be called with.

    Returns:
      The rule.

    Raises:
      TypeError: `f` has no rule of its own, or is not in one of the forms that `check_rule` accepts.
    """
    for read in READERS:
        if (rule := read(f, args)) is not None:
            return rule
    raise TypeError(
        "`f` must be a jax.custom_vjp, a jax.custom_jvp, a function that calls one, a torch.autograd.Function, or a "
        f"pair (forward, backward), got {_described(f)}."
    )


def as_arrays(args: Sequence[Any]) -> tuple[Any, ...]:
    """Arguments in which torch tensors are NumPy arrays."""
    return tuple(jax.tree.map(lambda leaf: leaf.detach().cpu().numpy() if hasattr(leaf, "detach") else leaf, args))


def is_rule(f: Any) -> bool:
    """Whether a thing is a rule by its type, so that nothing needs to be called to see it.

    Args:
      f: anything.

    Returns:
      False for a plain function, even if it calls a function with a rule.
    """
    return (
        isinstance(_unjitted(f), jax.custom_vjp | jax.custom_jvp)
        or torch_function.function_of(f) is not None
        or pairs.is_pair(f)
    )


def _described(f: Any) -> str:
    if callable(f):
        return f"{name_of(f)}, which has no rule of its own: use check_gradient"
    return type(f).__name__


def _unjitted(f: Any) -> Any:
    """The rule inside `jax.jit(rule)`."""
    inner = f
    while not isinstance(inner, jax.custom_vjp | jax.custom_jvp) and hasattr(inner, "__wrapped__"):
        inner = inner.__wrapped__
    return inner if isinstance(inner, jax.custom_vjp | jax.custom_jvp) else f


def _of_custom_vjp(f: Any, args: Sequence[Any]) -> Rule | None:
    rule = _unjitted(f)
    if not isinstance(rule, jax.custom_vjp):
        return None
    if rule.fwd is None or rule.bwd is None:
        raise TypeError(f"`{name_of(rule)}` is a jax.custom_vjp without a rule: defvjp was not called.")
    fwd, bwd, held = rule.fwd, rule.bwd, frozenset(rule.nondiff_argnums)

    def pull(args: tuple[Any, ...], incoming: Any) -> Any:
        # Called directly, so that one cotangent of a wrong shape does not hide the others, as it does in JAX.
        return bwd(*(args[i] for i in sorted(held)), fwd(*args)[1], incoming)

    by_jax = pull_by_jax(rule, held)
    return Rule(
        name_of(rule),
        place_of(rule.fun),
        argument_names(rule.fun, args),
        held,
        rule.fun,
        by_jax if rule.symbolic_zeros else pull,
        None if rule.symbolic_zeros else lambda *args: fwd(*args)[0],
    )


def _of_custom_jvp(f: Any, args: Sequence[Any]) -> Rule | None:
    rule = _unjitted(f)
    if not isinstance(rule, jax.custom_jvp):
        return None
    if rule.jvp is None:
        raise TypeError(f"`{name_of(rule)}` is a jax.custom_jvp without a rule: defjvp was not called.")
    held = frozenset(rule.nondiff_argnums)

    names = argument_names(rule.fun, args)
    return Rule(
        name_of(rule), place_of(rule.fun), names, held, rule.fun, pull_by_jax(rule, held), whole=rule, forward_mode=True
    )


def _of_caller(f: Any, args: Sequence[Any]) -> Rule | None:
    """A function that calls functions with rules: all of them are taken out of its body."""
    if not callable(f):
        return None
    static = frozenset(i for i, arg in enumerate(args) if not all(_is_array(leaf) for leaf in jax.tree.leaves(arg)))

    def without(*args: Any) -> Any:
        moving, join = split(args, static)
        flat, tree = flatten(tuple(moving))
        closed, shapes = jax.make_jaxpr(lambda *leaves: f(*join(tree.unflatten(leaves))), return_shape=True)(*flat)
        return jax.tree.unflatten(jax.tree.structure(shapes), program.without_rules(closed, flat))

    moving, join = split(args, static)
    try:
        closed = jax.make_jaxpr(lambda *values: f(*join(values)))(*moving)
    except Exception as error:
        raise TypeError(f"`f` cannot be traced by JAX with these arguments: {type(error).__name__}: {error}") from error
    if not any(True for _ in sites.sites(closed)):
        return None
    return Rule(name_of(f), place_of(f), argument_names(f, args), static, without, pull_by_jax(f, static))


def of_site(wide: sites.Site, narrow: sites.Site) -> Rule:
    """The rule of a function that a program calls.

    A program is of one dtype: the rule takes the equation that fits what it is called with.

    Args:
      wide: where the program in float64 calls the function.
      narrow: where the same program in float32 does.

    Returns:
      A rule of the inputs of the equation.
    """
    constants = frozenset(range(wide.eqn.params["num_consts"]))

    def fitting(values: Sequence[Any]) -> tuple[Any, list[Any], Any]:
        """The equation, its inputs in its own dtypes, and the floating dtype that was given."""
        given = [jnp.asarray(value) for value in values]
        dtype = next((x.dtype for x in given if jnp.issubdtype(x.dtype, jnp.floating)), jnp.dtype(jnp.float32))
        eqn = wide.eqn if dtype == jnp.float64 else narrow.eqn
        return eqn, [_cast(x, var.aval.dtype) for x, var in zip(given, eqn.invars, strict=True)], dtype

    def back(outputs: Sequence[Any], dtype: Any) -> list[Any]:
        return [_cast(x, dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x for x in outputs]

    def whole(*values: Any) -> list[Any]:
        eqn, inputs, dtype = fitting(values)
        return back(program.bind(eqn, inputs), dtype)

    def body(*values: Any) -> list[Any]:
        eqn, inputs, dtype = fitting(values)
        return back(program.body(eqn)(*inputs), dtype)

    rule = Rule(wide.name, wide.place, wide.arguments, constants, body, pull_by_jax(whole, constants))
    return rule._replace(whole=whole)


def _cast(value: Any, dtype: Any) -> Any:
    """Numbers in another dtype; keys of random numbers as they are."""
    return value if jnp.issubdtype(dtype, jax.dtypes.extended) else value.astype(dtype)


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, float | np.ndarray | np.generic | jax.Array) and not isinstance(leaf, np.bool_ | bool)


READERS: Sequence[Callable[[Any, Sequence[Any]], Rule | None]] = (
    _of_custom_vjp,
    _of_custom_jvp,
    torch_function.of_torch,
    pairs.of_pair,
    _of_caller,
)
"""Each reads one form and returns None for the others; a torch.autograd.Function is callable, too, so callables come
last."""
