"""Rules of functions that a loss calls: which of them are wrong, and the loss without those.

`jax.grad` of a loss uses the rules of the functions in it, so a wrong rule makes reverse mode wrong, and every gradient
that is taken with it. Each function is judged by itself, with the arguments that the loss calls it with. Only rules
that were found wrong are taken out of the loss: a right one may be there because its body cannot be differentiated.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxgd.gradcheck.finding import Finding, Kind
from jaxgd.gradcheck.inputs import Arrays
from jaxgd.gradcheck.pair import Pair, gap, ratio, size
from jaxgd.gradcheck.precision import precision
from jaxgd.gradcheck.report import GradientReport, LeafReport, Status, report_of
from jaxgd.gradcheck.rules import program, sites
from jaxgd.gradcheck.rules.evaluate import evaluator_of
from jaxgd.gradcheck.rules.forms import of_site
from jaxgd.gradcheck.rules.judge import Check, judge
from jaxgd.gradcheck.rules.problem import problem_of
from jaxgd.gradcheck.rules.rule import Rule, is_inexact, pull_by_jax

MAX_FUNCTIONS = 16
"""Functions with rules of which a loss may have more, but no more are looked at."""


BY_VALUES = 1e-4
"""Relative error from which a rule is wrong if only values of its function are known: an iteration's are rough."""


class Wrong(NamedTuple):
    """A function in a loss whose rule is wrong.

    Attributes:
      site: where the loss calls it.
      report: what is wrong with it.
    """

    site: sites.Site
    report: GradientReport

    @property
    def deliberate(self) -> bool:
        """Whether the rule is a surrogate where the function has derivative zero."""
        return all(finding.kind is Kind.SURROGATE for finding in self.report.findings if finding.wrong)

    @property
    def explained(self) -> bool:
        """Whether it is known what was done in every argument that is wrong."""
        return all(finding.explains for finding in self.report.findings if finding.wrong)

    def words(self) -> str:
        """What is wrong, after the name of the function."""
        place = f" ({self.site.place})" if self.site.place else ""
        said = "\n".join(text for text, wrong in self.report.sentences() if wrong)
        if self.deliberate:
            said = "\n".join(text.partition("\n")[0] for text, wrong in self.report.sentences() if wrong)
        return f"the rule of `{self.site.name}`{place}: {said}"


class Seen(NamedTuple):
    """A loss with wrong rules inside.

    Attributes:
      pair: the same without those rules.
      wrong: the functions.
      findings: what to say about each leaf, by its number.
      rows: reports of the leaves that are not to be compared any more, by their numbers.
      alike: numbers of the leaves that agree with `jax.grad` of the loss, if that is all that is known about them.
    """

    pair: Pair
    wrong: tuple[Wrong, ...]
    findings: dict[int, Finding]
    rows: dict[int, LeafReport]
    alike: frozenset[int] = frozenset()

    @property
    def rest(self) -> tuple[bool, ...]:
        """One a leaf: whether it is to be compared with the loss without the wrong rules."""
        return tuple(i not in self.rows for i in range(len(self.pair.names)))

    def _in_words(self, finding: Finding) -> Finding:
        """A finding about a leaf that was compared by values only."""
        numbers = {self.pair.names[i] for i in self.alike}
        return _shares(finding.leaf, self.wrong) if finding.wrong and finding.leaf in numbers else finding

    def report(self, rest: GradientReport | None) -> GradientReport:
        """The report on all leaves.

        Args:
          rest: the report on those that were compared with the loss without the wrong rules.

        Returns:
          The report.
        """
        rows = {leaf.leaf: leaf for leaf in rest.leaves} if rest is not None else {}
        rows |= {self.pair.names[i]: row for i, row in self.rows.items()}
        findings = [*self.findings.values(), *map(self._in_words, rest.findings if rest is not None else ())]
        leaves = tuple(rows[name] for name in self.pair.names)
        reference = rest.reference if rest is not None else "reverse mode in float64 without the wrong rules"
        # The leaves judged by the rules were not part of the direction along which the rest was measured.
        order = rest.taylor_order if rest is not None and not self.rows else None
        return report_of(findings, leaves, order, reference)


def _alike(left: Any, right: Any) -> bool:
    return gap(left, right) <= 1e-6 * size(right)


def _shares(name: str, wrong: Sequence[Wrong]) -> Finding:
    words = "\n".join(one.words() for one in wrong)
    message = f"{name or 'params'} shares the mistake of a rule inside the loss:\n{words}"
    return Finding(name, Kind.REFERENCE, message, explains=all(one.explained for one in wrong))


def see_through(pair: Pair, both: tuple[Arrays, Arrays], check: Check, *, doubted: bool) -> Seen | None:
    """Look for wrong rules in a loss, and compare the gradient with the loss without them.

    Args:
      pair: the loss and the gradient.
      both: the gradient and reverse mode with all rules, float64.
      check: `check_gradient`, with its budget bound.
      doubted: whether slopes of the loss contradict reverse mode; only then a library's rules are looked at.

    Returns:
      What was seen; None if no rule is wrong.
    """
    wrong = wrong_rules(pair, check, libraries=doubted)
    if not wrong:
        return None
    keys = {_key(one.site) for one in wrong}
    function = program.without(pair.loss.function, lambda site: _key(site) in keys)
    bare = pair._replace(loss=dataclasses.replace(pair.loss, function=function, program=None, facts={}))
    hand, declared = both
    try:
        right = bare.loss.reverse(pair.layout, pair.base, np.float64)
    except Exception:  # a body that JAX cannot differentiate, which is what its rule was for
        bare = pair._replace(loss=dataclasses.replace(bare.loss, derivative="", wide=False))
        return Seen(
            bare, tuple(wrong), {}, {}, frozenset(i for i, (a, b) in enumerate(zip(*both, strict=True)) if _alike(a, b))
        )
    words = "\n".join(one.words() for one in wrong)
    deliberate = all(one.deliberate for one in wrong)
    findings: dict[int, Finding] = {}
    rows: dict[int, LeafReport] = {}
    for i, name in enumerate(pair.names):
        off = gap(declared[i], right[i])
        if off <= 1e-9 * size(right[i]):
            continue
        shares = _alike(hand[i], declared[i]) and gap(hand[i], declared[i]) <= 1e-2 * off
        relative = ratio(off, size(right[i]))
        label = name or "params"
        if shares and deliberate:
            findings[i] = Finding(name, Kind.SURROGATE, f"{label} is right if this is on purpose:\n{words}", False)
            rows[i] = LeafReport(name, np.nan, np.nan, Status.RIGHT)
        elif shares:
            findings[i] = _shares(name, wrong)
            rows[i] = LeafReport(name, relative, 1e-9, Status.WRONG)
        elif gap(hand[i], right[i]) <= 1e-2 * off:
            message = f"{label} is right, but jax.grad of the loss is not:\n{words}"
            findings[i] = Finding(name, Kind.SURROGATE if deliberate else Kind.REFERENCE, message, False)
    return Seen(bare, tuple(wrong), findings, rows)


def wrong_rules(pair: Pair, check: Check, *, libraries: bool) -> list[Wrong]:
    """The functions in a loss whose rules are wrong.

    Args:
      pair: the loss.
      check: see `see_through`.
      libraries: whether rules of installed packages are looked at too.

    Returns:
      Each once, in the order in which the loss calls them; those of the user first.
    """
    closed = _program(pair, np.float64)
    if not any(libraries or not site.of_a_library for site in sites.sites(closed)):
        return []
    moved = pair.base._replace(params=[leaf + 0.01 * s for leaf, s in zip(pair.base.params, pair.scales, strict=True)])
    with precision(np.float64):
        met, elsewhere = program.arguments_met(closed, [jax.tree.leaves(pair.base), jax.tree.leaves(moved)])
    narrow = list(sites.sites(_program(pair, np.float32)))
    numbers = {id(site.eqn): i for i, site in enumerate(sites.sites(closed))}
    if len(narrow) != len(numbers):  # a program that depends on its dtype
        return []
    for of_a_library in (False, True) if libraries else (False,):
        groups: dict[Any, list[_Call]] = {}
        for number, (site, calls) in met.items():
            if site.of_a_library == of_a_library and (_key(site) in groups or len(groups) < MAX_FUNCTIONS):
                rule = of_site(site, narrow[numbers[id(site.eqn)]])
                others = elsewhere[number][1] if number in elsewhere else []
                for values, other in itertools.zip_longest(calls, others[: len(calls)]):
                    groups.setdefault(_key(site), []).append(_Call(site, _of_params(rule, values, other), values))
        found = [one for calls in groups.values() if (one := _judged(calls, check)) is not None]
        if found:
            return found
    return []


class _Call(NamedTuple):
    """One call of a function with a rule, with the inputs of its equation."""

    site: sites.Site
    rule: Rule
    values: list[Any]


def _of_params(rule: Rule, values: list[Any], others: list[Any] | None) -> Rule:
    """The rule with those arguments held that do not change with the parameters: nobody asks for their derivatives."""
    if others is None:
        return rule
    fixed = {i for i, (a, b) in enumerate(zip(values, others, strict=True)) if np.array_equal(a, b)}
    held = rule.held | fixed if len(rule.held | fixed) < len(values) else rule.held
    assert rule.whole is not None
    return rule._replace(held=held, pull=pull_by_jax(rule.whole, held))


def _program(pair: Pair, dtype: Any) -> Any:
    with precision(dtype):
        return pair.loss.trace.program(pair.layout, pair.base.cast(dtype))


def _key(site: sites.Site) -> tuple[Any, ...]:
    return site.name, site.file, site.line


def _judged(calls: Sequence[_Call], check: Check) -> Wrong | None:
    """The first call of a function that shows that its rule is wrong."""
    for site, rule, values in calls:
        if not all(np.isfinite(value).all() for value in values if is_inexact(value)):
            continue
        doubt = _doubt(rule, values)
        if doubt is None:
            continue
        with precision(np.float64):
            report = judge(rule, values, check)
        # What raises here only, outside of the loss, is not the rule's mistake.
        if any(finding.kind is Kind.RAISED for finding in report.findings):
            continue
        if not report.ok and not all(leaf.ok or leaf.error <= doubt for leaf in report.leaves):
            return Wrong(site, report)
    return None


def _doubt(rule: Rule, values: list[Any]) -> float | None:
    """From which error on a rule is wrong; None if it agrees with the derivative of its body."""
    try:
        with precision(np.float64):
            problem = problem_of(rule, values)
    except (TypeError, ValueError):  # nothing floating, or not finite
        return None
    try:
        evaluator = evaluator_of(problem)
        incoming = problem.incoming(np.random.default_rng(0))
        returned = evaluator.at(evaluator.returned, incoming)
    except Exception:
        return 0.0
    if evaluator.right is None:
        return BY_VALUES
    right = evaluator.at(evaluator.right, incoming)
    agree = all(
        name in returned and gap(returned[name], leaf) <= (1e-9 + 64 * evaluator.unit) * size(leaf)
        for name, leaf in right.items()
    )
    return None if agree else 0.0
