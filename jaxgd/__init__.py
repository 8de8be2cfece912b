"""Gradient descent that can be trusted: a functional reference implementation in JAX."""

from jaxgd import problems, theory
from jaxgd.descent import History, Result, StopReason, descend, fit, gradient_descent, sweep
from jaxgd.theory.curvature import largest_stable_learning_rate
from jaxgd.types import Batch, Problem, autodiff

__all__ = [
    "Batch",
    "History",
    "Problem",
    "Result",
    "StopReason",
    "autodiff",
    "descend",
    "fit",
    "gradient_descent",
    "largest_stable_learning_rate",
    "problems",
    "sweep",
    "theory",
]
