"""ALL_PROBLEMS: the list of problems over which the tests, the checks and the commands iterate."""

from collections.abc import Callable

import jax

from jaxgd.problems.linear import line, linear_map, linear_regression
from jaxgd.problems.logistic import logistic_regression, softmax_regression
from jaxgd.problems.mlp import mlp
from jaxgd.problems.neuron import sigmoid_neuron
from jaxgd.problems.polynomial import polynomial
from jaxgd.problems.quadratics import nesterov_quadratic
from jaxgd.problems.scalar import cubic, quadratic
from jaxgd.types import Batch, Problem

MakeBatch = Callable[[jax.Array], Batch | None]


def _without_data(key: jax.Array) -> None:
    del key


def _regression(num_rows: int, *shapes: int) -> Callable[[jax.Array], Batch]:
    """Inputs `[N, D]`, or `[N]` for D = 0, and targets `[N]`, or `[N, K]` if K is given."""
    num_inputs, *num_outputs = shapes
    input_shape = (num_rows, num_inputs) if num_inputs else (num_rows,)

    def make_batch(key: jax.Array) -> Batch:
        inputs_key, targets_key = jax.random.split(key)
        return Batch(
            jax.random.normal(inputs_key, input_shape),
            jax.random.normal(targets_key, (num_rows, *num_outputs)),
        )

    return make_batch


def _fractions(num_rows: int, *shapes: int) -> MakeBatch:
    """Targets in (0, 1)."""
    regression = _regression(num_rows, *shapes)

    def make_batch(key: jax.Array) -> Batch:
        batch = regression(key)
        return batch._replace(targets=jax.nn.sigmoid(batch.targets))

    return make_batch


def _classification(num_rows: int, num_inputs: int, num_classes: int) -> MakeBatch:
    def make_batch(key: jax.Array) -> Batch:
        inputs_key, labels_key = jax.random.split(key)
        return Batch(
            jax.random.normal(inputs_key, (num_rows, num_inputs)),
            jax.random.randint(labels_key, (num_rows,), 0, num_classes),
        )

    return make_batch


_CROSS_ENTROPY = "mean_softmax_cross_entropy"

ALL_PROBLEMS: tuple[tuple[Problem, MakeBatch], ...] = (
    (quadratic(), _without_data),
    (cubic(), _without_data),
    (quadratic([[3.0, 1.0], [1.0, 2.0]], [1.0, -2.0], 0.5), _without_data),
    (nesterov_quadratic(6), _without_data),
    (polynomial([1, -3, 0, 0, 2]), _without_data),
    (linear_map(), _regression(7, 3, 2)),
    (line(), _regression(12, 0)),
    (linear_regression(), _regression(17, 4)),
    (linear_regression(l2=0.1), _regression(17, 4, 3)),
    (linear_regression(loss="sum_squared_error"), _regression(17, 4, 3)),
    (linear_regression(loss="half_mean_squared_error"), _regression(17, 4)),
    (linear_regression(fit_intercept=False), _regression(17, 4)),
    (linear_regression(fit_intercept=False, l2=0.1), _regression(17, 4, 3)),
    (sigmoid_neuron(), _fractions(11, 4)),
    (sigmoid_neuron(l2=0.1), _fractions(11, 4)),
    (sigmoid_neuron(loss="mean_squared_error"), _fractions(11, 0)),
    (sigmoid_neuron(loss="sum_squared_error"), _fractions(11, 4)),
    (logistic_regression(), _classification(19, 4, 2)),
    (logistic_regression(l2=0.1), _classification(19, 4, 2)),
    (logistic_regression(loss="sum_sigmoid_cross_entropy"), _classification(19, 4, 2)),
    (logistic_regression(fit_intercept=False, l2=0.1), _classification(19, 4, 2)),
    (softmax_regression(3), _classification(19, 4, 3)),
    (softmax_regression(3, l2=0.1), _classification(19, 4, 3)),
    (mlp((8,)), _regression(13, 4)),
    (mlp((8, 6), l2=0.1), _regression(13, 4, 2)),
    (mlp((3,), activation="tanh", loss="half_sum_squared_error"), _regression(13, 4)),
    (mlp((4, 3), activation="sigmoid", output="sigmoid", loss="half_mean_squared_error"), _fractions(13, 4)),
    (mlp((4,), activation="sigmoid", loss="mean_sigmoid_cross_entropy", l2=0.1), _fractions(13, 4, 3)),
    (mlp((2,), activation="tanh", output="sigmoid", biases=(0.35, 0.6), l2=0.1), _fractions(11, 2, 2)),
    (mlp((8,), loss=_CROSS_ENTROPY, num_classes=3), _classification(13, 4, 3)),
    (mlp((8, 7, 6), loss=_CROSS_ENTROPY, num_classes=3, l2=0.1), _classification(13, 4, 3)),
)
"""Every variant of every problem, each with a function that makes a small batch from a key."""
