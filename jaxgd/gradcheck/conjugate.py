"""Complex parameters: two real leaves during a check, one in the report, and the convention that was followed."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxgd.gradcheck.inputs import Layout
from jaxgd.gradcheck.report import Finding, GradientReport, Kind, LeafReport, Status, report_of

WORST = (Status.WRONG, Status.NOT_CHECKED, Status.REFERENCE_WRONG, Status.KINK, Status.RIGHT)

CONVENTIONS = {
    "jax": "the gradient of jax.grad is df/dx - i df/dy, this is df/dx + i df/dy, PyTorch's convention",
    "torch": "the gradient of PyTorch is df/dx + i df/dy, this is df/dx - i df/dy, jax.grad's convention",
}


def conjugates(
    layout: Layout, names: Sequence[str], parts: Sequence[tuple[Any, Any, Any]], wrong: Sequence[int]
) -> list[Finding]:
    """The leaves that are the conjugate of the gradient.

    Args:
      layout: of the parameters.
      names: of the real leaves.
      parts: for each real leaf the hand gradient, the reference, and the tolerance of each entry.
      wrong: numbers of the wrong real leaves.

    Returns:
      A finding for each wrong imaginary part that has the other sign, if that explains every wrong complex leaf.
    """
    families = {leaf.names[1]: leaf.family for leaf in layout.leaves if leaf.roles == ("param", "param")}
    imaginary = [i for i in wrong if names[i] in families]
    real = {name.removesuffix(".imag") + ".real" for name in families}
    if not imaginary or any(names[i] in real for i in wrong):
        return []
    for i in imaginary:
        hand, reference, tolerance = parts[i]
        if not (np.abs(hand + reference) <= tolerance).all():
            return []
    return [
        Finding(
            names[i],
            Kind.CONJUGATE,
            f"{names[i].removesuffix('.imag')} is the conjugate of the gradient: with z = x + i y "
            f"{CONVENTIONS['torch' if families[names[i]] == 'torch' else 'jax']}.",
        )
        for i in imaginary
    ]


def whole(report: GradientReport, layout: Layout) -> GradientReport:
    """A report with one leaf for each complex parameter.

    Args:
      report: with a leaf for each real part.
      layout: of the parameters.

    Returns:
      The report.
    """
    owner = {name: leaf.path for leaf in layout.leaves if len(leaf.roles) == 2 for name in leaf.names}
    if not owner:
        return report
    rows: dict[str, list[LeafReport]] = {}
    for row in report.leaves:
        rows.setdefault(owner.get(row.leaf, row.leaf), []).append(row)
    leaves = [
        LeafReport(
            path,
            max(row.error for row in parts),
            max(row.could_see for row in parts),
            min((row.status for row in parts), key=WORST.index),
        )
        for path, parts in rows.items()
    ]
    findings = [finding._replace(leaf=owner.get(finding.leaf, finding.leaf)) for finding in report.findings]
    return report_of(findings, tuple(leaves), report.taylor_order, report.reference)
