"""Functions that bring their own derivative, in the forms in which people write them, read as one: a `Rule`."""

import copy
import functools
import inspect
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgd.gradcheck.rules import program

SECOND_IS_SAVED = frozenset({"cache", "caches", "ctx", "memory", "res", "residual", "residuals", "saved", "tape"})
"""Names of a second parameter that show that `backward(incoming, saved)` is meant, not `backward(saved, incoming)`."""


class Rule(NamedTuple):
    """A function and the derivative that it brings.

    Attributes:
      name: of the function.
      place: `model.py:12`, or "".
      arguments: names of the arguments.
      held: positions of arguments that the rule declares not differentiable.
      body: `(*args) -> outputs`, the function without its rule.
      pull: `(args, incoming) -> cotangents`, one for each argument that is not held, or for each that is floating.
      forward: `(*args) -> outputs` as the forward pass of the rule computes them, if it computes them again.
      whole: the function with its rule, if JAX can differentiate it.
      forward_mode: whether the rule is written in forward mode.
      strict: whether `pull` must return a tuple with an entry for each argument that is not held.
    """

    name: str
    place: str
    arguments: tuple[str, ...]
    held: frozenset[int]
    body: Callable[..., Any]
    pull: Callable[[tuple[Any, ...], Any], Any]
    forward: Callable[..., Any] | None = None
    whole: Callable[..., Any] | None = None
    forward_mode: bool = False
    strict: bool = True


def rule_of(f: Any, args: Sequence[Any]) -> Rule:
    """Read a function with a rule of its own.

    Args:
      f: in any of the forms of `check_rule`.
      args: what it will be called with.

    Returns:
      The rule.

    Raises:
      TypeError: `f` has no rule of its own, or no form that is known.
    """
    for read in READERS:
        if (rule := read(f, args)) is not None:
            return rule
    raise TypeError(
        "`f` must be a jax.custom_vjp, a jax.custom_jvp, a function that calls one, a torch.autograd.Function, or a "
        f"pair (forward, backward), got {_described(f)}."
    )


def as_arrays(args: Sequence[Any]) -> tuple[Any, ...]:
    """Arguments in which torch tensors are NumPy arrays.

    Args:
      args: trees.

    Returns:
      The arguments.
    """
    return tuple(jax.tree.map(lambda leaf: leaf.detach().cpu().numpy() if hasattr(leaf, "detach") else leaf, args))


def is_rule(f: Any) -> bool:
    """Whether a thing is a rule by its type, so that nothing needs to be called to see it.

    Args:
      f: anything.

    Returns:
      False for a plain function, even if it calls a function with a rule.
    """
    return isinstance(_unjitted(f), jax.custom_vjp | jax.custom_jvp) or _torch_function(f) is not None or _is_pair(f)


def _described(f: Any) -> str:
    if callable(f):
        return f"{_name(f)}, which has no rule of its own: use check_gradient"
    return type(f).__name__


def _name(f: Any) -> str:
    return str(getattr(f, "__name__", type(f).__name__))


def _place(f: Any) -> str:
    code = getattr(inspect.unwrap(f), "__code__", None) if callable(f) else None
    return f"{code.co_filename.rpartition('/')[2]}:{code.co_firstlineno}" if code else ""


def argument_names(f: Any, args: Sequence[Any]) -> tuple[str, ...]:
    """What the arguments of a call are called in the signature of the function.

    Args:
      f: the function.
      args: positional arguments.

    Returns:
      One name for each argument; `xs[0]`, `xs[1]` for those of `*xs`.
    """
    names: list[str] = []
    try:
        parameters = list(inspect.signature(f).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    for i in range(len(args)):
        if i < len(parameters) and parameters[i].kind in (
            inspect.Parameter.POSITIONAL_ONLY,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
        ):
            names.append(parameters[i].name)
            continue
        rest = next((k for k, p in enumerate(parameters) if p.kind is inspect.Parameter.VAR_POSITIONAL), None)
        names.append(f"{parameters[rest].name}[{i - rest}]" if rest is not None and i >= rest else f"argument {i}")
    return tuple(names)


def split(args: Sequence[Any], held: frozenset[int]) -> tuple[list[Any], Callable[[Sequence[Any]], list[Any]]]:
    """Separate the arguments that are not held.

    Args:
      args: of a function.
      held: positions.

    Returns:
      The others, and a function that puts new ones in their places.
    """
    moving = [arg for i, arg in enumerate(args) if i not in held]

    def join(values: Sequence[Any]) -> list[Any]:
        rest = iter(values)
        return [arg if i in held else next(rest) for i, arg in enumerate(args)]

    return moving, join


def flatten(tree: Any) -> tuple[list[Any], Any]:
    """`jax.tree.flatten`.

    Args:
      tree: any tree.

    Returns:
      Its leaves and its structure.
    """
    leaves, structure = jax.tree.flatten(tree)
    return leaves, structure


def pull_by_jax(f: Callable[..., Any], held: frozenset[int]) -> Callable[[tuple[Any, ...], Any], Any]:
    """The backward pass that JAX makes of a function with a rule.

    Args:
      f: the function.
      held: positions of arguments that are not differentiated by.

    Returns:
      `pull` of a `Rule`.
    """

    def pull(args: tuple[Any, ...], incoming: Any) -> Any:
        moving, join = split(args, held)
        return jax.vjp(lambda *values: f(*join(values)), *moving)[1](incoming)

    return pull


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
        raise TypeError(f"`{_name(rule)}` is a jax.custom_vjp without a rule: defvjp was not called.")
    fwd, bwd, held = rule.fwd, rule.bwd, frozenset(rule.nondiff_argnums)

    def pull(args: tuple[Any, ...], incoming: Any) -> Any:
        # Called directly, so that one cotangent of a wrong shape does not hide the others, as it does in JAX.
        return bwd(*(args[i] for i in sorted(held)), fwd(*args)[1], incoming)

    by_jax = pull_by_jax(rule, held)
    return Rule(
        _name(rule),
        _place(rule.fun),
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
        raise TypeError(f"`{_name(rule)}` is a jax.custom_jvp without a rule: defjvp was not called.")
    held = frozenset(rule.nondiff_argnums)

    names = argument_names(rule.fun, args)
    return Rule(
        _name(rule), _place(rule.fun), names, held, rule.fun, pull_by_jax(rule, held), whole=rule, forward_mode=True
    )


def _is_pair(f: Any) -> bool:
    return isinstance(f, tuple | list) and len(f) == 2 and all(callable(part) for part in f)


def _of_pair(f: Any, args: Sequence[Any]) -> Rule | None:
    if not _is_pair(f):
        return None
    forward, backward = f
    convention = _convention(forward, backward, len(args))
    names = argument_names(forward, args)

    def both(args: tuple[Any, ...]) -> tuple[Any, Callable[[Any], Any]]:
        return convention(forward, backward, args)

    return Rule(
        _name(forward),
        _place(forward),
        names,
        frozenset(),
        lambda *args: both(args)[0],
        lambda args, incoming: both(args)[1](incoming),
        strict=False,
    )


Convention = Callable[[Any, Any, tuple[Any, ...]], tuple[Any, Callable[[Any], Any]]]
"""Runs `forward`; returns the outputs and the backward pass."""


def _convention(forward: Any, backward: Any, count: int) -> Convention:
    """How the two functions of a pair hand values to each other, by what `backward` takes."""
    try:
        parameters = [
            p
            for p in inspect.signature(backward).parameters.values()
            if p.kind in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        ]
    except (TypeError, ValueError):
        parameters = []
    required = [p.name for p in parameters if p.default is inspect.Parameter.empty]
    if len(required) == 1:
        return _of_a_layer if hasattr(forward, "__self__") else _with_hidden_state
    if len(required) == 2 and (required[1] in SECOND_IS_SAVED) > (required[0] in SECOND_IS_SAVED):
        return _incoming_first
    if len(required) == 2 and count != 1:
        return _saved_first
    if len(required) == count + 1:
        return _saved_or_arguments if count == 1 else _arguments_first
    raise TypeError(
        "`backward` of the pair must take (saved, incoming), (incoming, cache), (*args, incoming) or (incoming), got "
        f"({', '.join(required)})."
    )


def _outputs_and_saved(forward: Any, args: tuple[Any, ...]) -> tuple[Any, Any]:
    result = forward(*args)
    if not isinstance(result, tuple | list) or len(result) != 2:
        raise TypeError(
            "`forward` of the pair must return (outputs, saved values), since `backward` takes saved values, got "
            f"{type(result).__name__}."
        )
    return result[0], result[1]


def _saved_first(forward: Any, backward: Any, args: tuple[Any, ...]) -> tuple[Any, Callable[[Any], Any]]:
    outputs, saved = _outputs_and_saved(forward, args)
    return outputs, lambda incoming: backward(saved, incoming)


def _incoming_first(forward: Any, backward: Any, args: tuple[Any, ...]) -> tuple[Any, Callable[[Any], Any]]:
    outputs, saved = _outputs_and_saved(forward, args)
    return outputs, lambda incoming: backward(incoming, saved)


def _arguments_first(forward: Any, backward: Any, args: tuple[Any, ...]) -> tuple[Any, Callable[[Any], Any]]:
    return forward(*args), lambda incoming: backward(*args, incoming)


def _saved_or_arguments(forward: Any, backward: Any, args: tuple[Any, ...]) -> tuple[Any, Callable[[Any], Any]]:
    """One argument: what `forward` returns tells `backward(x, incoming)` from `backward(saved, incoming)`."""
    result = forward(*args)
    if isinstance(result, tuple | list) and len(result) == 2:
        return result[0], lambda incoming: backward(result[1], incoming)
    return result, lambda incoming: backward(*args, incoming)


def _of_a_layer(forward: Any, backward: Any, args: tuple[Any, ...]) -> tuple[Any, Callable[[Any], Any]]:
    """Methods of an object that keeps values: those of a copy, so that the caller's object stays as it is."""
    layer = copy.deepcopy(forward.__self__)
    outputs = getattr(layer, forward.__name__)(*args)
    return outputs, getattr(layer, backward.__name__)


def _with_hidden_state(forward: Any, backward: Any, args: tuple[Any, ...]) -> tuple[Any, Callable[[Any], Any]]:
    """Functions that keep values elsewhere: with NumPy arrays only, since a tracer must not stay there."""
    outputs = forward(*jax.tree.map(np.asarray, args))
    return outputs, lambda incoming: backward(jax.tree.map(np.asarray, incoming))


def _torch_function(f: Any) -> Any:
    """The class of a torch.autograd.Function, given as it is or by its `apply`."""
    torch = sys.modules.get("torch")
    owner = f if isinstance(f, type) else getattr(f, "__self__", None)
    if torch is None or not isinstance(owner, type) or not issubclass(owner, torch.autograd.Function):
        return None
    return owner


def _of_torch(f: Any, args: Sequence[Any]) -> Rule | None:
    function = _torch_function(f)
    if function is None:
        return None
    import torch

    def tensors(args: Sequence[Any], *, differentiated: bool) -> list[Any]:
        def convert(arg: Any) -> Any:
            if not isinstance(arg, np.ndarray | jax.Array | np.generic):
                return arg
            tensor = torch.tensor(np.asarray(arg))
            return tensor.requires_grad_(differentiated and tensor.is_floating_point())

        return [convert(arg) for arg in args]

    def as_numpy(tensor: Any) -> Any:
        return tensor.detach().cpu().numpy() if isinstance(tensor, torch.Tensor) else tensor

    def body(*args: Any) -> Any:
        with torch.no_grad():
            return jax.tree.map(as_numpy, function.apply(*tensors(args, differentiated=False)))

    def pull(args: tuple[Any, ...], incoming: Any) -> Any:
        inputs = tensors(args, differentiated=True)
        outputs = jax.tree.leaves(function.apply(*inputs))
        # A tensor of integers has no gradient, and its incoming gradient is of dtype float0.
        pairs = [
            (output, torch.tensor(np.asarray(part)))
            for output, part in zip(outputs, jax.tree.leaves(incoming), strict=True)
            if output.requires_grad
        ]
        wanted = [x for x in inputs if isinstance(x, torch.Tensor) and x.requires_grad]
        found = iter(torch.autograd.grad([o for o, _ in pairs], wanted, [g for _, g in pairs], allow_unused=True))
        return tuple(as_numpy(next(found)) if isinstance(x, torch.Tensor) and x.requires_grad else None for x in inputs)

    forward = function.forward
    skip = 0 if "setup_context" in function.__dict__ else 1  # without setup_context the first parameter is ctx
    names = argument_names(functools.partial(forward, None) if skip else forward, args)
    return Rule(function.__name__, _place(forward), names, frozenset(), body, pull)


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
    if not any(True for _ in program.sites(closed)):
        return None
    return Rule(_name(f), _place(f), argument_names(f, args), static, without, pull_by_jax(f, static))


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, float | np.ndarray | np.generic | jax.Array) and not isinstance(leaf, np.bool_ | bool)


def of_site(wide: program.Site, narrow: program.Site) -> Rule:
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


READERS: Sequence[Callable[[Any, Sequence[Any]], Rule | None]] = (
    _of_custom_vjp,
    _of_custom_jvp,
    _of_torch,
    _of_pair,
    _of_caller,
)
"""Each reads one form and returns None for the others; a torch.autograd.Function is callable, too, so callables come
last."""
