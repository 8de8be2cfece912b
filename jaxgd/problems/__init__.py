"""The problems of this package: each has a model, a loss and a gradient derived by hand; some have a closed form."""

from jaxgd.problems.linear import line, linear_map, linear_regression
from jaxgd.problems.logistic import logistic_regression, softmax_regression
from jaxgd.problems.mlp import mlp
from jaxgd.problems.neuron import sigmoid_neuron
from jaxgd.problems.polynomial import polynomial
from jaxgd.problems.quadratics import nesterov_quadratic
from jaxgd.problems.scalar import cubic, quadratic
from jaxgd.problems.table import ALL_PROBLEMS

__all__ = [
    "ALL_PROBLEMS",
    "cubic",
    "line",
    "linear_map",
    "linear_regression",
    "logistic_regression",
    "mlp",
    "nesterov_quadratic",
    "polynomial",
    "quadratic",
    "sigmoid_neuron",
    "softmax_regression",
]
