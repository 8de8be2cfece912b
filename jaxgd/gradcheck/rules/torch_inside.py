"""torch.autograd.Functions inside a PyTorch loss whose rules are wrong."""

import numpy as np

from jaxgd.gradcheck.finding import Finding, Kind
from jaxgd.gradcheck.pair import Pair
from jaxgd.gradcheck.rules import torch_function
from jaxgd.gradcheck.rules.forms import as_arrays
from jaxgd.gradcheck.rules.judge import RETURNS_NONE, Check, judge
from jaxgd.gradcheck.rules.problem import Problem


def wrong_functions(pair: Pair, check: Check) -> list[tuple[str, bool]]:
    """The torch.autograd.Functions that a loss calls whose rules are wrong.

    Args:
      pair: the loss.
      check: `check_gradient`, with its budget bound.

    Returns:
      What is wrong with each, in words, and whether that says what was done.
    """
    if isinstance(getattr(pair.loss.function, "__self__", None), Problem):
        return []  # a rule that is being checked
    still = [np.zeros_like(leaf) for leaf in pair.base.params]
    found: dict[str, tuple[str, bool]] = {}
    for function, given in torch_function.calls(
        lambda: pair.loss.values(pair.layout, pair.base, still, np.zeros(1)) if not pair.loss.traceable else None
    ):
        args = as_arrays(given)
        rule = torch_function.of_torch(function, args)
        if rule is None or rule.name in found:
            continue
        try:
            report = judge(rule, args, check)
        except (TypeError, ValueError):  # nothing floating, or not finite
            continue
        if not report.ok and not any(finding.kind is Kind.RAISED for finding in report.findings):
            place = f" ({rule.place})" if rule.place else ""
            wrong = [text for text, is_wrong in report.sentences() if is_wrong]
            # None for an argument is mostly meant, for data: it is told where there is nothing else.
            said = "\n".join([text for text in wrong if RETURNS_NONE not in text] or wrong)
            explains = all(finding.explains for finding in report.findings if finding.wrong)
            found[rule.name] = f"the rule of `{rule.name}`{place}: {said}", explains
    return list(found.values())


def explained(pair: Pair, findings: tuple[Finding, ...], check: Check) -> tuple[Finding, ...]:
    """Findings without a reason, with the wrong rules of the loss as the reason.

    Args:
      pair: the loss.
      findings: of a comparison with a loss of PyTorch.
      check: `check_gradient`, with its budget bound.

    Returns:
      The findings.
    """
    open_ones = [f for f in findings if f.wrong and f.kind in (Kind.UNKNOWN, Kind.REFERENCE)]
    wrong = wrong_functions(pair, check) if open_ones else []
    if not wrong:
        return findings
    said, explains = "\n".join(text for text, _ in wrong), all(known for _, known in wrong)
    number = "a function whose own rule is wrong" if len(wrong) == 1 else "functions whose own rules are wrong"

    def better(finding: Finding) -> Finding:
        if finding.kind is Kind.REFERENCE:  # the functions are named; this says what is wrong with them
            return finding._replace(message=f"{finding.message}\n{said}", explains=explains)
        name = finding.leaf or "params"
        message = f"{name} is wrong, and the loss calls {number}:\n{said}"
        return Finding(finding.leaf, Kind.REFERENCE, message, explains=explains)

    return tuple(better(finding) if finding in open_ones else finding for finding in findings)
