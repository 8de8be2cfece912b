"""Complex parameters: two real leaves during a check, one in the report, and the convention that was followed."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxgd.gradcheck.finding import Finding, Kind
from jaxgd.gradcheck.inputs import Layout
from jaxgd.gradcheck.report import GradientReport, LeafReport, Status, report_of

WORST = (Status.WRONG, Status.NOT_CHECKED, Status.REFERENCE_WRONG, Status.KINK, Status.RIGHT)

CONVENTIONS = {
    "jax": "the gradient of jax.grad is df/dx - i df/dy, this is df/dx + i df/dy, PyTorch's convention",
    "torch": "the gradient of PyTorch is df/dx + i df/dy, this is df/dx - i df/dy, jax.grad's convention",
}


def conjugates(
    layout: Layout, names: Sequence[str], parts: Sequence[tuple[Any, Any, Any]], wrong: Sequence[int]
) -> list[Finding]:
    """The leaves that are the conjugate of the gradient, or a multiple of it.

    Args:
      layout: of the parameters.
      names: of the real leaves.
      parts: for each real leaf the hand gradient, the reference, and the tolerance of each entry.
      wrong: numbers of the wrong real leaves.

    Returns:
      A finding for each complex leaf, if this explains all that are wrong; otherwise nothing.
    """
    found: list[Finding] = []
    explained: list[str] = []
    for leaf in layout.leaves:
        if leaf.roles != ("param", "param") or not any(names[i] in leaf.names for i in wrong):
            continue
        real, imaginary = (parts[names.index(name)] for name in leaf.names)
        hand = np.concatenate([np.ravel(real[0]), -np.ravel(imaginary[0])])
        right, tolerance = (np.concatenate([np.ravel(part[i]) for part in (real, imaginary)]) for i in (1, 2))
        factor = float(hand @ right / (right @ right)) if right.any() else 0.0
        if not factor or not (np.abs(hand - factor * right) <= max(1.0, abs(factor)) * tolerance).all():
            return []
        exact = bool((np.abs(hand - right) <= tolerance).all())
        times = "" if exact else f"{factor:.10g} times "
        label = leaf.names[0].removesuffix(".real")
        convention = CONVENTIONS["torch" if leaf.family == "torch" else "jax"]
        message = f"{label} is {times}the conjugate of the gradient: with z = x + i y {convention}."
        explained += [name for name in leaf.names if names.index(name) in wrong]
        found.append(Finding(explained[-1], Kind.CONJUGATE, message))
    return found if all(names[i] in explained for i in wrong) else []


def agreeing(findings: Sequence[Finding], layout: Layout) -> list[Finding]:
    """Findings of which both parts of a complex leaf have the same, because people make one mistake and not two.

    Args:
      findings: of real leaves.
      layout: of the parameters.

    Returns:
      The findings; if those of the two parts differ, one that says that the cause is not known in place of both.
    """
    kept = list(findings)
    for leaf in layout.leaves:
        of_parts = [[one for one in kept if one.leaf == name and one.wrong] for name in leaf.names]
        if len(of_parts) != 2 or not all(of_parts):
            continue
        label = leaf.names[0].removesuffix(".real")
        said = [
            [one._replace(leaf=leaf.names[0], message=one.message.replace(name, label)) for one in of_part]
            for name, of_part in zip(leaf.names, of_parts, strict=True)
        ]
        kept = [one for one in kept if one not in of_parts[0] + of_parts[1]]
        first_lines = {(one.kind, one.message.split("\n")[0]) for of_part in said for one in of_part}
        if said[0] == said[1]:
            kept += said[0]
        elif len(first_lines) == 1 and said[0][0].kind in (Kind.FACTOR, Kind.SIGN):
            # The place of a factor can be found for one part only; the factor itself is the first line.
            kept.append(said[0][0]._replace(message=first_lines.pop()[1]))
        else:
            message = f"{label} is wrong; no single mistake that is known explains its real and its imaginary part."
            kept.append(Finding(leaf.names[0], Kind.UNKNOWN, message, explains=False))
    return kept


def whole(report: GradientReport, layout: Layout) -> GradientReport:
    """A report with one leaf for each complex parameter."""
    owner = {name: leaf.path for leaf in layout.leaves if len(leaf.roles) == 2 for name in leaf.names}
    if not owner:
        return report
    rows: dict[str, list[LeafReport]] = {}
    for row in report.leaves:
        rows.setdefault(owner.get(row.leaf, row.leaf), []).append(row)
    leaves = [
        LeafReport(
            path,
            float(np.max([row.error for row in parts])),
            float(np.max([row.could_see for row in parts])),
            min((row.status for row in parts), key=WORST.index),
        )
        for path, parts in rows.items()
    ]
    findings = [finding._replace(leaf=owner.get(finding.leaf, finding.leaf)) for finding in report.findings]
    return report_of(findings, tuple(leaves), report.taylor_order, report.reference)
