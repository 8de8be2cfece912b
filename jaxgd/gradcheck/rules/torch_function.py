"""torch.autograd.Function as a rule of NumPy arrays."""

import functools
import inspect
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from jaxgd.gradcheck.mistakes import tensors as stand_ins
from jaxgd.gradcheck.mistakes import values
from jaxgd.gradcheck.precision import precision
from jaxgd.gradcheck.rules.rule import Rule, argument_names, is_inexact, place_of


def function_of(f: Any) -> Any:
    """The class of a torch.autograd.Function, given as it is or by its `apply`."""
    torch = sys.modules.get("torch")
    owner = f if isinstance(f, type) else getattr(f, "__self__", None)
    if torch is None or not isinstance(owner, type) or not issubclass(owner, torch.autograd.Function):
        return None
    return owner


def of_torch(f: Any, args: Sequence[Any]) -> Rule | None:
    """The rule of a torch.autograd.Function; None for anything else."""
    function = function_of(f)
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

    def plainly(*inputs: Any) -> Any:
        """The forward pass as torch itself differentiates it."""
        return function.forward(*(() if skip == 0 else (_Context(),)), *inputs)

    def differentiate(run: Any, args: tuple[Any, ...], incoming: Any) -> Any:
        inputs = tensors(args, differentiated=True)
        outputs = jax.tree.leaves(run(*inputs))
        # A tensor of integers has no gradient, and its incoming gradient is of dtype float0.
        pairs = [
            (output, torch.tensor(np.asarray(part)))
            for output, part in zip(outputs, jax.tree.leaves(incoming), strict=True)
            if output.requires_grad
        ]
        wanted = [x for x in inputs if isinstance(x, torch.Tensor) and x.requires_grad]
        found = iter(torch.autograd.grad([o for o, _ in pairs], wanted, [g for _, g in pairs], allow_unused=True))
        entries = [as_numpy(next(found)) if isinstance(x, torch.Tensor) and x.requires_grad else None for x in inputs]
        return tuple(entry for i, entry in enumerate(entries) if i not in held)

    # Numbers and the like are options, for which a backward pass must return None.
    held = frozenset(i for i, arg in enumerate(args) if not isinstance(arg, np.ndarray | jax.Array | np.generic))
    forward = function.forward
    skip = 0 if "setup_context" in function.__dict__ else 1  # without setup_context the first parameter is ctx
    names = argument_names(functools.partial(forward, None) if skip else forward, args)
    pull, derivative = (functools.partial(differentiate, run) for run in (function.apply, plainly))
    traced = _in_jax(forward, () if skip == 0 else (_Context(),), body, args)
    rule = Rule(function.__name__, place_of(forward), names, held, body, pull, derivative=derivative)
    return rule if traced is None else rule._replace(body=traced, derivative=None)


def _in_jax(forward: Any, context: tuple[Any, ...], body: Any, args: Sequence[Any]) -> Any:
    """The forward pass by functions of JAX, if it can be traced so and has the values of torch at two points."""
    plain = values.in_jax(forward) or forward
    if "detach" in values.names_in(forward.__code__):
        return None  # which holds nothing constant there, because the rule is all that is differentiated

    def traced(*args: Any) -> Any:
        return stand_ins.of_arrays(functools.partial(plain, *context))(*args)

    moving = [i for i, arg in enumerate(args) if is_inexact(arg)]

    def of_moving(*moved: Any) -> Any:
        given = dict(zip(moving, moved, strict=True))
        return traced(*(given.get(i, arg) for i, arg in enumerate(args)))

    try:
        with precision(np.float64):
            for scale in (1.0, 0.9):
                moved = [
                    scale * np.asarray(args[i]).astype(np.promote_types(args[i].dtype, np.float64)) for i in moving
                ]
                there = dict(zip(moving, moved, strict=True))
                wanted = jax.tree.leaves(body(*(there.get(i, arg) for i, arg in enumerate(args))))
                found = jax.tree.leaves(jax.jit(of_moving)(*moved))
                pairs = zip(found, wanted, strict=True)
                if not all(np.allclose(a, b, rtol=1e-10, atol=1e-14) for a, b in pairs):
                    return None
    except Exception:  # a forward pass of which JAX has not every function, or which looks at numbers
        return None
    return traced


def calls(run: Callable[[], Any]) -> list[tuple[Any, list[Any]]]:
    """The torch.autograd.Functions of the user that a function calls, with the arguments of their first calls.

    Nothing of the user's is replaced: the interpreter tells which functions are entered.

    Args:
      run: takes nothing.

    Returns:
      Classes and arguments, at most `MAX_CALLS` for each class, in the order of the calls.
    """
    torch = sys.modules.get("torch")
    if torch is None:
        return []
    by_code: dict[Any, Any] = {}
    pending = list(torch.autograd.Function.__subclasses__())
    while pending:
        cls = pending.pop()
        pending += cls.__subclasses__()
        code = getattr(cls.forward, "__code__", None)
        if code is not None and not cls.__module__.startswith("torch."):
            by_code[code] = cls
    met: list[tuple[Any, list[Any]]] = []

    def entered(frame: Any, event: str, arg: Any) -> None:
        del arg
        cls = by_code.get(frame.f_code) if event == "call" else None
        if cls is not None and sum(other is cls for other, _ in met) < MAX_CALLS:
            code = frame.f_code
            given = [frame.f_locals[name] for name in code.co_varnames[: code.co_argcount]]
            rest = (
                frame.f_locals[code.co_varnames[code.co_argcount + code.co_kwonlyargcount]] if _has_rest(code) else ()
            )
            met.append((cls, [*given[0 if "setup_context" in cls.__dict__ else 1 :], *rest]))

    before = sys.getprofile()
    sys.setprofile(entered)
    try:
        run()
    finally:
        sys.setprofile(before)
    return met


MAX_CALLS = 3
"""Calls of one class whose arguments are kept."""


def _has_rest(code: Any) -> bool:
    """Whether a function takes `*args`."""
    return bool(code.co_flags & inspect.CO_VARARGS)


class _Context:
    """Takes what a forward pass says to its context, and forgets it."""

    needs_input_grad = ()

    def _ignore(self, *args: Any) -> None:
        del args

    save_for_backward = save_for_forward = mark_dirty = mark_non_differentiable = set_materialize_grads = _ignore
