"""A rule and the derivative it should be, as compiled functions of the arguments and of the incoming gradient."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxgd.gradcheck.backward.program import coarsest
from jaxgd.gradcheck.precision import precision
from jaxgd.gradcheck.programs import UNTRACEABLE, quick
from jaxgd.gradcheck.rules.problem import Named, Problem
from jaxgd.gradcheck.rules.rule import is_inexact

Leaves = dict[str, Any]
"""Arrays by name."""

Function = Callable[[Leaves, Leaves], Leaves]
"""Takes the leaves that are differentiated by and the incoming gradient."""


class Evaluator(NamedTuple):
    """A rule at its arguments, and the function that it is held against.

    Attributes:
      params: the leaves that are differentiated by, in the dtype of the evaluation.
      dtype: float64, or None for the dtypes of the arguments.
      returned: what the rule returns for each of them.
      right: what it ought to return; None if JAX cannot differentiate the function.
      pushed: the outputs' derivatives along one leaf each: by "leaf -> output", for outputs of the shape of a leaf,
        along the incoming gradient of that output; None if JAX cannot differentiate the function forwards.
      outputs: the floating outputs of the function.
      program: the same as a jaxpr whose inputs are the leaves of `params`; None if it cannot be traced.
      unit: the rounding unit of the coarsest dtype that the rule computes in.
    """

    params: Leaves
    dtype: Any
    returned: Function
    right: Function | None
    pushed: Function | None
    outputs: Function
    program: Any
    unit: float

    def at(self, function: Function, incoming: Leaves) -> Leaves:
        """A function at the given arguments."""
        return function(self.params, incoming)


def evaluator_of(problem: Problem) -> Evaluator:
    """Compile both backward passes of a problem in float64, or in the dtypes of the arguments if only those work.

    Args:
      problem: the rule and its arguments.

    Returns:
      The evaluator; its functions run eagerly if the rule cannot be traced.

    Raises:
      Exception: whatever the rule raises.
    """
    try:
        return _evaluator_in(problem, np.float64)
    except Exception:  # a kernel with dtypes written into it
        return _evaluator_in(problem, None)


def _evaluator_in(problem: Problem, dtype: Any) -> Evaluator:
    leaves = problem.named()
    params = {name: cast(leaves[name], dtype) for name in problem.names}
    held = Named({name: leaves[name] for name in problem.held})
    some = problem.incoming(np.random.default_rng(0))

    def in_order(incoming: Leaves) -> Named:
        return Named({name: incoming[name] for name in some})  # JAX sorts the keys of a dictionary

    def of_rule(params: Leaves, incoming: Leaves) -> Leaves:
        return problem.grad(Named(params), in_order(incoming), held).leaves

    def of_body(params: Leaves, incoming: Leaves) -> Leaves:
        if problem.rule.derivative is not None and problem.like is problem.rule.body:
            return problem.by_other(Named(params), in_order(incoming), held).leaves
        return jax.grad(lambda p: problem.loss(Named(p), in_order(incoming), held))(params)

    def outputs(params: Leaves, incoming: Leaves) -> Leaves:
        found = problem.like(*problem.put({**held.leaves, **params}))
        floating = [leaf for leaf in jax.tree.leaves(found) if is_inexact(leaf)]
        return dict(zip(some, floating, strict=True))

    def pushed(params: Leaves, incoming: Leaves) -> Leaves:
        found = {}
        for name, leaf in params.items():
            for output, g in incoming.items():
                if np.shape(g) == np.shape(leaf) and g.dtype == leaf.dtype:
                    along = jax.jvp(lambda x, name=name: outputs({**params, name: x}, incoming), (leaf,), (g,))[1]
                    found[f"{name} -> {output}"] = along[output]
        return found

    def evaluate(function: Function) -> Function:
        compiled: list[Function] = []

        def at(params: Leaves, incoming: Leaves) -> Leaves:
            wide = {name: cast(leaf, dtype) for name, leaf in incoming.items()}
            with precision(dtype):
                if not compiled:
                    compiled.append(_compiled(function, params, wide))
                return {name: np.asarray(leaf) for name, leaf in compiled[0](params, wide).items()}

        return at

    with precision(dtype):
        try:
            unit = coarsest(jax.make_jaxpr(of_rule)(params, {name: cast(leaf, dtype) for name, leaf in some.items()}))
        except UNTRACEABLE:
            unit = float(np.finfo(np.float64).eps)
    right, along = (_working(evaluate(function), params, some) for function in (of_body, pushed))
    values = evaluate(outputs)
    if right is not None and problem.rule.derivative is not None and not _confirmed(right, values, params, some):
        right = None
    with precision(dtype):
        try:
            traced = jax.make_jaxpr(lambda params: list(outputs(params, some).values()))(params)
        except Exception:  # NumPy or torch
            traced = None
    return Evaluator(params, dtype, evaluate(of_rule), right, along, values, traced, unit)


def _confirmed(right: Function, outputs: Function, params: Leaves, incoming: Leaves) -> bool:
    """Whether differences of the outputs confirm a derivative that follows the operations, which may be detached."""
    rng = np.random.default_rng(1)
    for name, leaf in params.items():
        along = rng.normal(size=np.shape(leaf))
        step = 1e-5 * max(float(np.max(np.abs(leaf), initial=0.0)), 1e-3)
        ahead, behind = (outputs({**params, name: leaf + sign * step * along}, incoming) for sign in (1, -1))
        slope = sum(np.sum(incoming[o] * (ahead[o] - behind[o])) / (2 * step) for o in incoming)
        said = np.sum(right(params, incoming)[name] * along)
        if not abs(slope - said) <= 1e-4 * max(abs(slope), abs(said), 1e-9):
            return False
    return True


def _compiled(function: Function, params: Leaves, incoming: Leaves) -> Function:
    """Compiled ahead of time, so that JAX keeps nothing of it; the function itself if it cannot be traced."""
    try:
        compiled = jax.jit(function).lower(params, incoming).compile(compiler_options=quick())
    except UNTRACEABLE:
        return function
    return compiled


def _working(function: Function, params: Leaves, incoming: Leaves) -> Function | None:
    try:
        function(params, incoming)
    except Exception:  # NumPy, a while loop, a callback, a kernel: JAX has no derivative of it
        return None
    return function


def cast(leaf: Any, dtype: Any) -> Any:
    """A floating leaf in another precision.

    Args:
      leaf: real or complex.
      dtype: float64, which stands for complex128 if the leaf is complex, or None for its own.

    Returns:
      A NumPy array.
    """
    if dtype is None:
        return np.asarray(leaf)
    return np.asarray(leaf).astype(np.complex128 if np.iscomplexobj(leaf) else dtype)
