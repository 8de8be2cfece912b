"""What is wrong with a rule before its numbers are compared: its forward pass, its incoming gradient, its tangents."""

import functools
from typing import Any

import jax
import numpy as np

from jaxgd.gradcheck.finding import Finding, Kind
from jaxgd.gradcheck.precision import precision
from jaxgd.gradcheck.programs import quick
from jaxgd.gradcheck.rules import incoming as arriving
from jaxgd.gradcheck.rules.evaluate import Evaluator, cast
from jaxgd.gradcheck.rules.problem import INCOMING, Problem
from jaxgd.gradcheck.rules.rule import flatten, is_inexact, split

LINEAR_TO = 1e-9
"""Relative difference that is rounding in a test of linearity, for a rule that computes in float64."""

SAME_VALUES = 1e-6
"""Relative difference up to which two ways to compute the outputs are the same: an iteration stops somewhere."""


def _combined(left: dict[str, Any], right: dict[str, Any], a: float, b: float) -> dict[str, Any]:
    return {name: (a * left[name] + b * right[name]).astype(left[name].dtype) for name in left}


def _in_float64(leaf: Any) -> Any:
    """Real numbers in float64; a complex array as its real and imaginary parts."""
    leaf = np.asarray(leaf)
    return np.stack([leaf.real, leaf.imag]) if np.iscomplexobj(leaf) else leaf.astype(np.float64)


def of_incoming(problem: Problem, evaluator: Evaluator, rng: np.random.Generator) -> dict[str, Finding]:
    """Leaves for which the rule is not linear in the incoming gradient."""
    g, h = ({name: cast(leaf, np.float64) for name, leaf in problem.incoming(rng).items()} for _ in range(2))
    answers = [evaluator.at(evaluator.returned, _combined(g, h, a, b)) for a, b in arriving.COEFFICIENTS]
    ones = {name: np.ones_like(leaf) for name, leaf in g.items()}
    of_ones = evaluator.at(evaluator.returned, ones)
    right = evaluator.at(evaluator.right, ones) if evaluator.right else {}
    found = {}
    for name in problem.names:
        if name not in answers[0]:
            continue
        fits = name in right and np.shape(right[name]) == np.shape(of_ones[name])
        samples = arriving.samples_of(
            [_in_float64(answer[name]) for answer in answers],
            ones=_in_float64(of_ones[name]),
            right_ones=_in_float64(right[name]) if fits else None,
        )
        if (fault := arriving.fault(samples, INCOMING, LINEAR_TO + 32 * evaluator.unit)) is not None:
            found[name] = Finding(name, fault[0], f"{name} {fault[1]}")
    return found


def of_tangents(problem: Problem, rng: np.random.Generator) -> dict[str, Finding]:
    """Leaves for which a rule in forward mode is not linear in the tangent.

    Args:
      problem: a rule in forward mode, and its arguments.
      rng: draws tangents.

    Returns:
      A finding for each such leaf.

    Raises:
      Exception: whatever the rule raises.
    """
    rule = problem.rule
    leaves = problem.named()
    wide = {name: cast(leaves[name], np.float64) for name in problem.names}
    held = frozenset(rule.held)

    def push(function: Any, tangents: dict[str, Any]) -> Any:
        """All floating output tangents in one vector."""
        moving, join = split(problem.put(wide), held)
        flat, tree = flatten(tuple(moving))
        inexact = [i for i, leaf in enumerate(flat) if is_inexact(leaf)]

        def of_floats(*values: Any) -> Any:
            new = list(flat)
            for i, value in zip(inexact, values, strict=True):
                new[i] = value
            outputs = function(*join(tree.unflatten(new)))
            return [leaf for leaf in jax.tree.leaves(outputs) if is_inexact(leaf)]

        return jax.jvp(of_floats, tuple(flat[i] for i in inexact), tuple(tangents[name] for name in problem.names))[1]

    with precision(np.float64):
        zeros = {name: np.zeros_like(leaf) for name, leaf in wide.items()}
        by_rule, by_body = (
            jax.jit(functools.partial(push, function)).lower(zeros).compile(compiler_options=quick())
            for function in (rule.whole, problem.like)
        )

        def together(function: Any, tangents: dict[str, Any]) -> Any:
            return np.concatenate([np.ravel(_in_float64(leaf)) for leaf in function(tangents)])

        base = together(by_rule, zeros)
        found = {}
        for name in problem.names:
            g, h = (rng.normal(size=wide[name].shape).astype(wide[name].dtype) for _ in range(2))
            tangents = [zeros | _combined({name: g}, {name: h}, a, b) for a, b in arriving.COEFFICIENTS]
            answers = [together(by_rule, tangent) for tangent in tangents]
            ones = zeros | {name: np.ones_like(g)}
            right = [_try(lambda t=t: together(by_body, t)) for t in (tangents[0], ones)]
            if base.any():
                # A term without any tangent shows in every answer; whose tangent it lacks, the right answer tells.
                lacks = right[0] is None or not np.allclose(answers[0] - base, right[0], rtol=1e-9)
                if not lacks:
                    continue
            samples = arriving.samples_of(answers, ones=together(by_rule, ones), right_ones=right[1])
            if (fault := arriving.fault(samples, f"the tangent of {name}", LINEAR_TO)) is not None:
                found[name] = Finding(name, fault[0], f"{name}: the output tangent {fault[1]}")
    return found


def _try(function: Any) -> Any:
    try:
        return function()
    except Exception:
        return None


def of_forward(problem: Problem) -> list[Finding]:
    """What the forward pass of the rule computes beside what the function computes.

    Args:
      problem: the rule and its arguments.

    Returns:
      A finding if they differ in more than rounding.
    """
    rule = problem.rule
    if rule.forward is None:
        return []
    by_rule = rule.forward(*problem.args)
    trees: list[Any] = [jax.tree.structure(outputs) for outputs in (by_rule, problem.outputs)]
    if trees[0] != trees[1]:
        message = f"the forward pass of the rule returns {trees[0]}, `{rule.name}` returns {trees[1]}."
        return [Finding("", Kind.FORWARD, message)]
    paths = jax.tree_util.tree_flatten_with_path(problem.outputs)[0]
    findings = []
    for (path, wanted), got in zip(paths, jax.tree.leaves(by_rule), strict=True):
        label = f"output{jax.tree_util.keystr(path)}"
        if np.shape(got) != np.shape(wanted):
            shapes = f"{np.shape(got)}, `{rule.name}` of shape {np.shape(wanted)}"
            message = f"the forward pass of the rule returns {label} of shape {shapes}."
            findings.append(Finding("", Kind.FORWARD, message))
        elif is_inexact(wanted):
            left, right = _in_float64(got), _in_float64(wanted)
            eps = float(np.finfo(np.float32).eps) if np.asarray(wanted).dtype != np.float64 else 0.0
            size = float(np.max(np.abs(right), initial=0.0))
            off = float(np.max(np.abs(left - right), initial=0.0))
            if off > (SAME_VALUES + 256 * eps) * size:
                message = (
                    f"the forward pass of the rule returns other values than `{rule.name}`: {label} differs by up to "
                    f"{off:.3g}, its largest entry is {size:.3g}."
                )
                findings.append(Finding("", Kind.FORWARD, message))
    return findings


def of_identity(problem: Problem) -> list[Finding]:
    """A note if the function returns an argument unchanged, so that its rule is there to change the gradient."""
    outputs = jax.tree.leaves(problem.outputs)
    same = [name for name, leaf in problem.named().items() if any(output is leaf for output in outputs)]
    if not same or not all(any(output is leaf for leaf in problem.named().values()) for output in outputs):
        return []
    message = (
        f"`{problem.rule.name}` returns {', '.join(same)} unchanged: if its rule is there to change the gradient (to "
        "clip it, to reverse it), the difference is on purpose."
    )
    return [Finding("", Kind.SURROGATE, message, False)]


def of_surrogates(
    problem: Problem, evaluator: Evaluator, incoming: dict[str, Any], known: dict[str, Finding]
) -> dict[str, Finding]:
    """Leaves by which the function has derivative zero, and the rule another: estimators that are there on purpose."""
    if evaluator.right is None:
        return {}
    returned, right = evaluator.at(evaluator.returned, incoming), evaluator.at(evaluator.right, incoming)
    found = {}
    for name in problem.names:
        if name in known or name not in returned or np.any(right[name]) or not np.any(returned[name]):
            continue
        message = (
            f"{name}: the derivative of `{problem.rule.name}` is zero here, and the rule returns another gradient.\n"
            "If that is on purpose (a straight-through estimator), declare it: check_rule(..., surrogate=the function "
            "whose derivative the rule is)."
        )
        found[name] = Finding(name, Kind.SURROGATE, message)
    return found
