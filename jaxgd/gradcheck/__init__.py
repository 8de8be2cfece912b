"""Whether a gradient is right; where not, and which mistake."""

from jaxgd.gradcheck.check import assert_gradient, check_gradient
from jaxgd.gradcheck.finding import Finding, Kind
from jaxgd.gradcheck.report import GradientReport, LeafReport, Status
from jaxgd.gradcheck.rules.check import assert_rule, check_rule

__all__ = [
    "Finding",
    "GradientReport",
    "Kind",
    "LeafReport",
    "Status",
    "assert_gradient",
    "assert_rule",
    "check_gradient",
    "check_rule",
]
