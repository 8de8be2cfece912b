"""What to expect before running: closed forms, Taylor expansions, curvature, and the rates that are guaranteed."""

from jaxgd.theory import closed_form, curvature, rates, taylor
from jaxgd.theory.bounds import curvature_bounds, smoothness, strong_convexity
from jaxgd.theory.curvature import hessian
from jaxgd.theory.inference import standard_errors

__all__ = [
    "closed_form",
    "curvature",
    "curvature_bounds",
    "hessian",
    "rates",
    "smoothness",
    "standard_errors",
    "strong_convexity",
    "taylor",
]
