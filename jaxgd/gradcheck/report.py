"""What a check returns, and how it prints."""

import dataclasses
import enum
import html
import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from jaxgd.gradcheck.finding import Finding, Kind


class Status(enum.Enum):
    """The verdict on a leaf of a gradient.

    Attributes:
      RIGHT: the leaf agrees with the reference.
      KINK: the loss is not differentiable at this point, and the leaf is a valid subgradient.
      REFERENCE_WRONG: the leaf agrees with finite differences of the loss; reverse mode of the loss does not.
      WRONG: the leaf is wrong.
      NOT_CHECKED: the numbers of the leaf were not compared.
    """

    RIGHT = "right"
    KINK = "kink"
    REFERENCE_WRONG = "reference wrong"
    WRONG = "wrong"
    NOT_CHECKED = "not checked"

    @property
    def label(self) -> str:
        """The word in the table."""
        return {Status.WRONG: "WRONG", Status.NOT_CHECKED: "not checked"}.get(self, "ok")


class LeafReport(NamedTuple):
    """The report on one leaf.

    Attributes:
      leaf: the path of the leaf in the parameters.
      error: the largest difference to the reference, divided by the largest entry of the reference. If the
        check knows only slopes along random directions, they take the place of the entries. NaN if the leaf was not
        checked or contains NaN or infinity.
      could_see: the smallest such error that the check could have detected; measured. NaN whenever `error` is NaN.
      status: the verdict.
    """

    leaf: str
    error: float
    could_see: float
    status: Status

    @property
    def ok(self) -> bool:
        """Whether every entry was compared and is right."""
        return self.status not in (Status.WRONG, Status.NOT_CHECKED)

    def cells(self) -> tuple[str, str, str, str]:
        """The row of the table.

        Returns:
          The status, the leaf, the error, the smallest error that would have been seen.
        """
        error, seen = ("-" if math.isnan(number) else f"{number:.1e}" for number in (self.error, self.could_see))
        return self.status.label, self.leaf or "params", error, seen


def not_checked(leaf: str) -> LeafReport:
    """The report of a leaf whose numbers were not compared."""
    return LeafReport(leaf, math.nan, math.nan, Status.NOT_CHECKED)


@dataclasses.dataclass(frozen=True, repr=False)
class GradientReport:
    """The result of a check; `bool(report)` is True if the gradient is right.

    Attributes:
      ok: whether the gradient is right.
      findings: the findings, mistakes first.
      leaves: one report for each leaf, in the order of the tree.
      taylor_order: the observed order in t of `loss(p + t u) - loss(p) - t u.grad` along a random direction u in all
        leaves. It is near 2 if the gradient is right along u, and near 1 if it is wrong. None if it was not measured,
        if the remainder is only rounding (as for a linear loss), or if a leaf was not compared or is not finite.
      reference: the reference with which the gradient was compared, in words.
      subject: the name of the rule, if a function with a custom rule was checked.
    """

    ok: bool
    findings: tuple[Finding, ...]
    leaves: tuple[LeafReport, ...]
    taylor_order: float | None
    reference: str
    subject: str = ""

    def __bool__(self) -> bool:
        """Whether the gradient is right, for `assert check_gradient(...)`."""
        return self.ok

    def __repr__(self) -> str:
        """The report as text: the verdict, the leaves, the findings."""
        width = max((len(leaf.leaf or "params") for leaf in self.leaves), default=0)
        lines = [self._verdict() + (f": {self.subject}" if self.subject else "")]
        for status, name, error, seen in (leaf.cells() for leaf in self.leaves):
            numbers = "" if error == "-" else f"  relative error {error} (could see {seen})"
            lines.append(f"  {status:<5}  {name.ljust(width)}{numbers}".rstrip())
        for text, wrong in self.sentences():
            first, *rest = text.split("\n")
            lines.append(f"  {'' if wrong else 'note: '}{first}")
            lines.extend(f"        {line}" for line in rest)
        lines.append(f"  held against {self._against()}")
        return "\n".join(lines)

    __str__ = __repr__

    def _repr_html_(self) -> str:
        """The report as HTML, for notebooks."""
        columns = ("", "leaf", "relative error", "could see")
        head = "".join(f"<th>{name}</th>" for name in columns)
        rows = "".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in leaf.cells()) + "</tr>" for leaf in self.leaves
        )
        said = "".join(
            f"<li>{'' if wrong else 'note: '}{html.escape(text).replace(chr(10), '<br>')}</li>"
            for text, wrong in self.sentences()
        )
        return (
            f"<b>{self._verdict()}</b>"
            f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
            f"{f'<ul>{said}</ul>' if said else ''}"
            f"held against {html.escape(self._against())}"
        )

    def _verdict(self) -> str:
        wrong = any(finding.wrong for finding in self.findings) or Status.WRONG in {leaf.status for leaf in self.leaves}
        return "ok" if self.ok else "WRONG" if wrong else "NOT CHECKED"

    def _against(self) -> str:
        return self.reference + ("" if self.taylor_order is None else f"; Taylor order {self.taylor_order:.2f}")

    def sentences(self) -> list[tuple[str, bool]]:
        """The findings as sentences. Findings with the same text for several leaves are joined.

        Returns:
          Pairs of a text and whether the finding makes the gradient wrong.
        """
        together: dict[tuple[str, bool], list[str]] = {}
        for finding in self.findings:
            name = finding.leaf or "params"
            named = finding.message.startswith(name)
            text = finding.message.removeprefix(name) if named else finding.message
            together.setdefault((text, finding.wrong), []).extend([name] if named else [])
        return [
            (f"{', '.join(names)}{', each' if len(names) > 1 else ''}{text}", wrong)
            for (text, wrong), names in together.items()
        ]

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values, for JSON.

        Returns:
          A dict with ok, findings, leaves, taylor_order and reference. A number that is not finite is None. `ok` of a
          leaf that was not checked is None.
        """
        return {
            "ok": self.ok,
            "findings": [{**finding._asdict(), "kind": finding.kind.name} for finding in self.findings],
            "leaves": [
                {
                    "leaf": leaf.leaf,
                    "error": _finite(leaf.error),
                    "could_see": _finite(leaf.could_see),
                    "status": leaf.status.value,
                    "ok": None if leaf.status is Status.NOT_CHECKED else leaf.ok,
                }
                for leaf in self.leaves
            ],
            "taylor_order": self.taylor_order,
            "reference": self.reference,
        }


def report_of(
    findings: Iterable[Finding], leaves: tuple[LeafReport, ...], order: float | None, reference: str
) -> GradientReport:
    """Put a report together.

    Args:
      findings: in any order.
      leaves: in the order of the tree.
      order: the observed Taylor order, or None.
      reference: what the gradient was held against.

    Returns:
      The report, mistakes first; a leaf that was compared and has a finding that makes it wrong is wrong.
    """
    in_order = tuple(sorted(findings, key=lambda finding: not finding.wrong))
    blamed = {finding.leaf for finding in in_order if finding.wrong}
    leaves = tuple(leaf._replace(status=Status.WRONG) if leaf.ok and leaf.leaf in blamed else leaf for leaf in leaves)
    return GradientReport(not blamed and all(leaf.ok for leaf in leaves), in_order, leaves, order, reference)


def not_comparable(names: Sequence[str], kind: Kind, message: str) -> GradientReport:
    """The report if a gradient cannot be evaluated, or not twice."""
    return report_of([Finding("", kind, message)], tuple(map(not_checked, names)), None, "its form only")


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
