"""What a check returns, and how it prints."""

import dataclasses
import enum
import math
from collections.abc import Iterable
from typing import Any, NamedTuple


class Kind(enum.Enum):
    """What a finding says. The examples are mistakes in the gradient `(f - y) x` of `1/2 (f - y)^2`, `f = w x + b`.

    Attributes:
      STRUCTURE: the tree is not that of the parameters (`{"w": ...}` alone, without `"b"`).
      SHAPE: a leaf has another shape than its parameter (`[1, D]` for `[D]`).
      NOT_SUMMED: a leaf still has an axis to be summed over (`r` for the bias where `sum(r)` is meant).
      TRANSPOSED: a leaf is the transpose of the gradient (`outer(x, r)` for `outer(r, x)`).
      DTYPE: a leaf has another dtype than its parameter.
      RANDOM: a second call gave another answer (noise drawn inside, a counter kept).
      RAISED: the gradient function raised an exception.
      NONFINITE: NaN or infinity where the gradient is finite (`r / r`).
      OVERFLOW: infinite or NaN in its own dtype alone (`exp(z) / (1 + exp(z))` at z = 100 in float32).
      CANCELLATION: digits lost in its own dtype that reverse mode keeps (`(1 + z) - 1`).
      PRECISION: computed in a lower precision than the parameters have (`x.astype(float16)`).
      SIGN: the gradient times -1 (`(y - f) x`).
      FACTOR: the gradient times a constant (`2 (f - y) x`, the mean in place of the sum).
      ZERO: nothing but zeros (`zeros_like(w)`).
      SWAPPED: the gradient of another leaf (`db` returned as `dw`).
      ORDER: the entries in another order (`g[::-1]`, a column shifted by one).
      PENALTY: a multiple of the parameter too much or too little (`+ l2 w` on the bias, or left out).
      CONSTANT: a constant too much or too little (`g + 1`).
      ARGUMENT: the gradient as if an argument had another value (`f x`: y left out; weights left out).
      STALE: the gradient at other parameters than those given (values kept from an earlier call).
      ROWS: some rows of the data left out (`inputs[:-1]`), or counted twice.
      CLIPPED: entries or the whole cut to a largest size, absolute values taken, signs alone.
      DERIVATIVE: one local derivative dropped or replaced (`f (1 - f)` missing, or `f` for it).
      PATH: one way from the parameter to the loss left out (the normaliser of a softmax).
      MASK: a mask taken from another array (`r > 0` for `z > 0` behind a ReLU).
      OPERAND: a product with another array than the loss's (values before a ReLU for those behind it).
      ENTRIES: single entries, rows or columns wrong, by a factor each.
      UNKNOWN: no single mistake that is known explains it.
      KINK: not differentiable here (ReLU at 0); the answer is one of the slopes. No mistake.
      REFERENCE: reverse mode of the loss is wrong or NaN, a custom rule for one. A mistake where the gradient
        shares it, none where the values of the loss prove the gradient right.
      STOP_GRADIENT: the loss stops gradients, so that reverse mode is not the slope of its values.
    """

    STRUCTURE = "structure"
    SHAPE = "shape"
    NOT_SUMMED = "not summed"
    TRANSPOSED = "transposed"
    DTYPE = "dtype"
    RANDOM = "random"
    RAISED = "raised"
    NONFINITE = "not finite"
    OVERFLOW = "overflow"
    CANCELLATION = "cancellation"
    PRECISION = "precision"
    SIGN = "sign"
    FACTOR = "factor"
    ZERO = "zero"
    SWAPPED = "swapped"
    ORDER = "order"
    PENALTY = "penalty"
    CONSTANT = "constant"
    ARGUMENT = "argument"
    STALE = "stale"
    ROWS = "rows"
    CLIPPED = "clipped"
    DERIVATIVE = "derivative"
    PATH = "path"
    MASK = "mask"
    OPERAND = "operand"
    ENTRIES = "entries"
    UNKNOWN = "unknown"
    KINK = "kink"
    REFERENCE = "reference"
    STOP_GRADIENT = "stop_gradient"


class Finding(NamedTuple):
    """One thing found.

    Attributes:
      leaf: the parameter's path, as `jax.tree_util.keystr` writes it; "" for the whole.
      kind: what it is.
      message: in words.
      wrong: whether it makes the gradient wrong; a note otherwise.
    """

    leaf: str
    kind: Kind
    message: str
    wrong: bool = True


class LeafReport(NamedTuple):
    """One leaf.

    Attributes:
      leaf: the parameter's path.
      error: the largest difference to the reference over the largest entry of the reference.
      could_see: the smallest such error that would have been seen, measured.
      ok: whether every entry is right.
    """

    leaf: str
    error: float
    could_see: float
    ok: bool


@dataclasses.dataclass(frozen=True)
class GradientReport:
    """What is known about a gradient.

    Attributes:
      ok: whether it is right.
      findings: what was found, mistakes first.
      leaves: one report a leaf, in the order of the tree.
      taylor_order: observed order of `loss(p + t u) - loss(p) - t u.grad` in t: near 2 where the gradient is
        right along u, near 1 where it is wrong. None where rounding hides the remainder (a linear loss).
      reference: what the gradient was held against.
    """

    ok: bool
    findings: tuple[Finding, ...]
    leaves: tuple[LeafReport, ...]
    taylor_order: float | None
    reference: str

    def __str__(self) -> str:
        """The table: verdict, leaves, findings."""
        width = max((len(leaf.leaf) for leaf in self.leaves), default=0)
        lines = ["ok" if self.ok else "WRONG"]
        for leaf in self.leaves:
            verdict = "ok   " if leaf.ok else "WRONG"
            name = (leaf.leaf or "params").ljust(width)
            lines.append(f"  {verdict}  {name}  relative error {leaf.error:.1e} (could see {leaf.could_see:.1e})")
        for text, wrong in self.sentences():
            first, *rest = text.split("\n")
            lines.append(f"  {'' if wrong else 'note: '}{first}")
            lines.extend(f"        {line}" for line in rest)
        order = "hidden by rounding" if self.taylor_order is None else f"{self.taylor_order:.2f}"
        lines.append(f"  held against {self.reference}; Taylor order {order}")
        return "\n".join(lines)

    def sentences(self) -> list[tuple[str, bool]]:
        """The findings in words, those that say the same of several leaves as one.

        Returns:
          Each text with whether it makes the gradient wrong.
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
          ok, findings, leaves, taylor_order, reference; None where a number is not finite.
        """
        return {
            "ok": self.ok,
            "findings": [{**finding._asdict(), "kind": finding.kind.name} for finding in self.findings],
            "leaves": [
                {**leaf._asdict(), "error": _finite(leaf.error), "could_see": _finite(leaf.could_see)}
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
      The report, mistakes first; a leaf with a finding that makes it wrong is not ok.
    """
    in_order = tuple(sorted(findings, key=lambda finding: not finding.wrong))
    blamed = {finding.leaf for finding in in_order if finding.wrong}
    leaves = tuple(leaf._replace(ok=leaf.ok and leaf.leaf not in blamed) for leaf in leaves)
    return GradientReport(not blamed and all(leaf.ok for leaf in leaves), in_order, leaves, order, reference)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
