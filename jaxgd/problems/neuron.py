"""The sigmoid neuron under a squared error."""

import functools

import jax
import jax.numpy as jnp

from jaxgd.penalty import penalisable
from jaxgd.problems.linear import affine, call_name, grad_affine, init_affine
from jaxgd.problems.losses import SQUARED_ERRORS
from jaxgd.types import Batch, Formulas, LinearParams, Problem, RowSum, num_rows
from jaxgd.validation import check_choice, check_floating, check_nonnegative, check_rank, check_shape


def sigmoid_neuron(*, loss: str = "half_mean_squared_error", l2: float = 0.0) -> Problem:
    """`f = sigma(w . x + b)`, `sigma(z) = 1 / (1 + exp(-z))`, under a squared error.

    Gradient, by hand. `sigma'(z) = exp(-z) / (1 + exp(-z))^2 = sigma(z) (1 - sigma(z)) = f (1 - f)`, so for
    the half mean squared error `L = 1/(2N) sum_i (f_i - y_i)^2`, with `z_i = w . x_i + b`:

        dL/df_i = (f_i - y_i) / N
        dL/dz_i = dL/df_i df_i/dz_i = (f_i - y_i) f_i (1 - f_i) / N                  [N]
        dL/dw   = sum_i dL/dz_i dz_i/dw = 1/N sum_i (f_i - y_i) f_i (1 - f_i) x_i    [D]
        dL/db   = sum_i dL/dz_i dz_i/db = 1/N sum_i (f_i - y_i) f_i (1 - f_i)        []

    Where f is near 0 or 1 the factor f (1 - f) vanishes, however wrong f is: the surface is flat there.

    Args:
      loss: "half_mean_squared_error", "mean_squared_error" or "sum_squared_error".
      l2: lambda of the penalty `1/2 lambda |w|^2`, the bias free.

    Returns:
      The problem; parameters are `LinearParams`: weights `[]` for inputs `[N]`, `[D]` for inputs `[N, D]`,
      bias `[]`. Targets `[N]`, in [0, 1] where they can be reached.

    Raises:
      ValueError: an unknown loss, or an l2 that is negative or not finite.
      TypeError: `l2` is not a number.
    """
    check_choice("loss", loss, SQUARED_ERRORS)
    return _sigmoid_neuron(loss, check_nonnegative("l2", l2))


@functools.cache
def _sigmoid_neuron(loss_name: str, l2: float) -> Problem:
    error = SQUARED_ERRORS[loss_name]

    def init(key: jax.Array, batch: Batch) -> LinearParams:
        check_rank("inputs", batch.inputs, (1, 2), "[N] or [N, D]")
        check_rank("targets", batch.targets, (1,), "[N]")
        if batch.inputs.ndim == 2:
            return init_affine(key, batch.inputs, ())
        check_floating("inputs", batch.inputs)
        return LinearParams(jax.random.normal(key, (), batch.inputs.dtype), jnp.zeros((), batch.inputs.dtype))

    def predict(params: LinearParams, inputs: jax.Array) -> jax.Array:
        check_rank("inputs", inputs, (1, 2), "[N] or [N, D]")
        check_rank("weights", params.weights, (inputs.ndim - 1,), "[] for inputs [N], [D] for inputs [N, D]")
        if inputs.ndim == 2:
            return jax.nn.sigmoid(affine(params, inputs))
        check_floating("inputs", inputs)
        return jax.nn.sigmoid(params.weights * inputs + params.bias)

    def loss(params: LinearParams, batch: Batch) -> jax.Array:
        return error.value(predict(params, batch.inputs), batch.targets)

    def grad(params: LinearParams, batch: Batch) -> LinearParams:
        f = predict(params, batch.inputs)
        by_logits = error.grad(f, batch.targets) * f * (1 - f)  # [N]
        return grad_affine(batch.inputs, by_logits)

    def check_batch(batch: Batch) -> None:
        check_shape("targets", batch.targets, (batch.inputs.shape[0],), "one for each row of inputs")
        outside = (batch.targets < 0) | (batch.targets > 1)
        if outside.any():
            row = int(jnp.argmax(outside))
            raise ValueError(
                f"`targets` must be in [0, 1], the range of the sigmoid, got {batch.targets[row]} at row {row}."
            )

    problem = Problem(
        name=call_name("sigmoid_neuron", loss=(loss_name, "half_mean_squared_error")),
        init=init,
        loss=loss,
        grad=grad,
        predict=predict,
        check_batch=check_batch,
        reduction=error.reduction,
        row_sum=RowSum(num_rows),
        formulas=Formulas(
            "f = sigma(w . x + b)",
            error.formula,
            f"dw = {error.factor}sum r f (1 - f) x, db = {error.factor}sum r f (1 - f)",
        ),
    )
    return penalisable(problem, l2)
