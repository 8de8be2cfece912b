"""Check a rule that was read: form, incoming gradient, numbers, and which mistake was made."""

import dataclasses
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from jaxgd.gradcheck.finding import Finding, Kind
from jaxgd.gradcheck.pair import gap, ratio, size
from jaxgd.gradcheck.report import GradientReport, LeafReport, Status, not_checked, report_of
from jaxgd.gradcheck.rules import faults, residuals
from jaxgd.gradcheck.rules.cotangents import by_name
from jaxgd.gradcheck.rules.evaluate import Evaluator, evaluator_of
from jaxgd.gradcheck.rules.problem import Named, Problem, named_leaves, problem_of
from jaxgd.gradcheck.rules.rule import Rule, pull_by_jax

Check = Callable[..., GradientReport]
"""`check_gradient`: `(loss, grad, params, *args, key=)`."""

RETURNS_NONE = "the backward pass returns None"

WORDS = (
    (re.compile(r"args\[\d+\](?=\w)"), ""),
    (re.compile(r"the loss"), "{function}"),
    (re.compile(r"its parameter"), "the argument"),
    (re.compile(r"no parameter"), "no argument"),
    (re.compile(r"`grad`"), "the rule"),
)
"""What `check_gradient` calls things, and what they are called where a rule is checked."""


def judge(
    rule: Rule,
    args: Sequence[Any],
    check: Check,
    *,
    key: jax.Array | None = None,
    surrogate: Callable[..., Any] | None = None,
) -> GradientReport:
    """Check a rule that was read; see `check_rule`.

    Args:
      rule: the rule.
      args: the arguments.
      check: `check_gradient`, with its budget bound; it is an argument because it looks for rules inside a loss itself.
      key: see `check_rule`.
      surrogate: see `check_rule`.

    Returns:
      The report.

    Raises:
      TypeError: see `check_rule`.
      ValueError: see `check_rule`.
    """
    whole = problem = problem_of(rule, args, surrogate)
    seed = np.asarray(jax.random.key_data(key)).ravel().tolist() if key is not None else 0
    rng = np.random.default_rng(seed)
    found: dict[str, Finding] = {}
    errors: dict[str, float] = {}
    try:
        if rule.forward_mode:
            found = faults.of_tangents(problem, rng)
            problem = _holding(problem, found)
        incoming = problem.incoming(rng)
        form: list[Finding] = []
        if problem.names:
            # The first call is in the caller's own precision: what JAX keeps of it is what the caller's calls keep.
            cotangents = problem.rule.pull(problem.args, problem.as_incoming(problem.outputs, incoming))
            returned, form = by_name(problem.rule, problem.args, cotangents)
            if form and not returned:
                return _put_together(whole, [*found.values(), *form], errors)
            evaluator = evaluator_of(problem)
            errors = _errors(evaluator, incoming)
            form += faults.of_forward(problem)
            found |= faults.of_incoming(problem, evaluator, rng)
            found |= faults.of_surrogates(problem, evaluator, incoming, found)
    except Exception as error:
        raised = Finding("", Kind.RAISED, f"the rule raised {type(error).__name__}: {error}")
        return _put_together(whole, [*found.values(), raised], errors)
    rest = [name for name in problem.names if name not in found]
    if not rest:
        return _put_together(whole, [*found.values(), *form], errors)
    leaves = problem.named()
    held = {name: leaves[name] for name in (*whole.held, *whole.names) if name not in rest}
    params = Named({name: leaves[name] for name in rest})
    report = check(problem.loss, problem.grad, params, Named(incoming), Named(held), key=key)
    of_none = {name for name in rest if returned.get(name, 0) is None}
    findings = [_of_none(finding, of_none) for finding in report.findings]
    unexplained = {
        finding.leaf
        for finding in findings
        # One mistake in what the rule saves is likelier than two in its formulas.
        if finding.wrong and (finding.kind in residuals.SAYS_NOT_WHY or "two mistakes" in finding.message)
    }
    if unexplained:
        try:
            better = residuals.explain(evaluator, problem.incoming, sorted(unexplained), rng)
        except Exception:  # a search that fails must not hide that the rule is wrong
            better = {}
        findings = [better.get(finding.leaf, finding) if finding.wrong else finding for finding in findings]
    return _put_together(whole, [*found.values(), *form, *findings], errors, report)


def _errors(evaluator: Evaluator, incoming: dict[str, Any]) -> dict[str, float]:
    """The relative error of each leaf, as far as it can be told."""
    if evaluator.right is None:
        return {}
    returned, right = evaluator.at(evaluator.returned, incoming), evaluator.at(evaluator.right, incoming)
    return {
        name: ratio(gap(returned[name], leaf), size(leaf))
        for name, leaf in right.items()
        if name in returned and np.shape(returned[name]) == np.shape(leaf)
    }


def _of_none(finding: Finding, of_none: set[str]) -> Finding:
    """A finding of zeros that the rule did not write, but that JAX reads out of None."""
    if finding.kind is not Kind.ZERO or finding.leaf not in of_none:
        return finding
    message = f"{finding.leaf}: {RETURNS_NONE}, which stands for zero; the derivative is not zero."
    return finding._replace(message=message)


def _holding(problem: Problem, faulty: dict[str, Finding]) -> Problem:
    """The problem without the arguments whose tangents are used wrongly, which have no backward pass."""
    rule = problem.rule
    assert rule.whole is not None
    names = [dict.fromkeys(named_leaves(name, arg)) for name, arg in zip(rule.arguments, problem.args, strict=True)]
    held = rule.held | {i for i, of_argument in enumerate(names) if set(of_argument) & set(faulty)}
    kept = tuple(name for name in problem.names if not any(name in names[i] for i in held))
    return problem._replace(rule=rule._replace(held=held, pull=pull_by_jax(rule.whole, held)), names=kept)


def _put_together(
    problem: Problem, findings: Sequence[Finding], errors: dict[str, float], report: GradientReport | None = None
) -> GradientReport:
    """The report on all leaves, in the words of a rule."""
    rule = problem.rule
    if any(finding.wrong for finding in findings):
        findings = [*findings, *faults.of_identity(problem)]
    rows = {leaf.leaf: leaf for leaf in report.leaves} if report is not None else {}
    faulty = {finding.leaf for finding in findings}
    for name in problem.names:
        if name not in rows and name in faulty:
            error = errors.get(name, math.nan)
            rows[name] = LeafReport(name, error, faults.LINEAR_TO if math.isfinite(error) else math.nan, Status.WRONG)
    leaves = tuple(rows.get(name, not_checked(name)) for name in problem.names)
    name = f"`{rule.name}`"
    reference = report.reference if report is not None else "its form and its use of the incoming gradient"
    return dataclasses.replace(
        report_of(
            [finding._replace(message=_in_words(finding.message, name)) for finding in findings],
            leaves,
            report.taylor_order if report is not None else None,
            _in_words(reference, name),
        ),
        subject=f"the rule of {name}{f' ({rule.place})' if rule.place else ''}",
    )


def _in_words(message: str, function: str) -> str:
    """A message of `check_gradient` in the words of a rule."""
    for pattern, words in WORDS:
        message = pattern.sub(words.format(function=function), message)
    return message
