"""Whether a gradient is right; where not, and which mistake."""

from jaxgd.gradcheck.check import assert_gradient, check_gradient
from jaxgd.gradcheck.report import Finding, GradientReport, Kind, LeafReport

__all__ = ["Finding", "GradientReport", "Kind", "LeafReport", "assert_gradient", "check_gradient"]
