"""torch.autograd.Function as a rule of NumPy arrays."""

import functools
import sys
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxgd.gradcheck.rules.rule import Rule, argument_names, place_of


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
        return tuple(as_numpy(next(found)) if isinstance(x, torch.Tensor) and x.requires_grad else None for x in inputs)

    forward = function.forward
    skip = 0 if "setup_context" in function.__dict__ else 1  # without setup_context the first parameter is ctx
    names = argument_names(functools.partial(forward, None) if skip else forward, args)
    pull, derivative = (functools.partial(differentiate, run) for run in (function.apply, plainly))
    return Rule(function.__name__, place_of(forward), names, frozenset(), body, pull, derivative=derivative)


class _Context:
    """Takes what a forward pass says to its context, and forgets it."""

    needs_input_grad = ()

    def _ignore(self, *args: Any) -> None:
        del args

    save_for_backward = save_for_forward = mark_dirty = mark_non_differentiable = set_materialize_grads = _ignore
