"""Gradient descent in JAX, as a reference implementation: pure functions and gradients derived by hand."""

from jaxgd import interrupt  # noqa: F401  # isort: skip (first: what follows takes a second to import)
from jaxgd import data, gradcheck, plot, problems, theory
from jaxgd.descent import (
    Curve,
    HeldOut,
    History,
    Result,
    StopReason,
    compress,
    curve,
    descend,
    explain,
    fit,
    gradient_descent,
    sharded,
    sweep,
    tiled,
)
from jaxgd.gradcheck import GradientReport, assert_gradient, assert_rule, check_gradient, check_rule
from jaxgd.problems.mlp import MLPParams, MLPWeights
from jaxgd.problems.quadratics import VectorParams
from jaxgd.problems.scalar import CubicParams
from jaxgd.reporting.saved import Fitted, load, save
from jaxgd.theory.curvature import largest_stable_learning_rate
from jaxgd.types import Batch, LinearMapParams, LinearParams, LineParams, Problem, ScalarParams, WeightsParams, autodiff
from jaxgd.version import __version__

__all__ = [
    "Batch",
    "CubicParams",
    "Curve",
    "Fitted",
    "GradientReport",
    "HeldOut",
    "History",
    "LineParams",
    "LinearMapParams",
    "LinearParams",
    "MLPParams",
    "MLPWeights",
    "Problem",
    "Result",
    "ScalarParams",
    "StopReason",
    "VectorParams",
    "WeightsParams",
    "__version__",
    "assert_gradient",
    "assert_rule",
    "autodiff",
    "check_gradient",
    "check_rule",
    "compress",
    "curve",
    "data",
    "descend",
    "explain",
    "fit",
    "gradcheck",
    "gradient_descent",
    "largest_stable_learning_rate",
    "load",
    "plot",
    "problems",
    "save",
    "sharded",
    "sweep",
    "theory",
    "tiled",
]
