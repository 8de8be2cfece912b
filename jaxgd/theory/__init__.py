"""Theory of gradient descent: closed forms, Taylor expansions, curvature, and guaranteed learning rates."""

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
