"""The sigmoid neuron under a squared error."""

import functools
import math

import jax
import jax.numpy as jnp

from jaxgd.penalty import penalisable
from jaxgd.problems.curvature import LOSS_CURVATURES
from jaxgd.problems.interface import accepting
from jaxgd.problems.linear import affine, call_name, grad_affine, init_affine
from jaxgd.problems.losses import SQUARED_ERRORS
from jaxgd.types import Batch, Formulas, LinearParams, Problem, RowCurvature, RowSum, SecondOrder, System, num_rows
from jaxgd.validation import (
    check_choice,
    check_floating,
    check_nonnegative,
    check_rank,
    check_same_tree,
    check_shape,
)


def _half_curvature(f: float) -> float:
    return f * f * (1 - f) * (2 - 3 * f)


HALF_CURVATURES = (_half_curvature((15 + math.sqrt(33)) / 24), _half_curvature((15 - math.sqrt(33)) / 24))
"""The smallest and the largest second derivative of `1/2 (sigma(z) - y)^2` by z over all z and all y in [0, 1].

The second derivative is `f'^2 + (f - y) f''` with `f' = f (1 - f)` and `f'' = f (1 - f) (1 - 2f)`. It is linear in y,
so its extreme values are at y = 0 or y = 1. These two cases are mirror images (f to 1 - f). At y = 0 the second
derivative is `q(f) = f^2 (1 - f) (2 - 3f)`. Its derivative `q'(f) = f (4 - 15 f + 12 f^2)` vanishes at
`f = (15 -+ sqrt(33)) / 24`, where q is 0.0770 (f = 0.386) and -0.0601 (f = 0.864).
"""


def sigmoid_neuron(*, loss: str = "half_mean_squared_error", l2: float = 0.0) -> Problem:
    """`f = sigma(w . x + b)`, `sigma(z) = 1 / (1 + exp(-z))`, under a squared error.

    Gradient, by hand. `sigma'(z) = exp(-z) / (1 + exp(-z))^2 = sigma(z) (1 - sigma(z)) = f (1 - f)`, so for
    the half mean squared error `L = 1/(2N) sum_i (f_i - y_i)^2`, with `z_i = w . x_i + b`:

        dL/df_i = (f_i - y_i) / N
        dL/dz_i = dL/df_i df_i/dz_i = (f_i - y_i) f_i (1 - f_i) / N                  [N]
        dL/dw   = sum_i dL/dz_i dz_i/dw = 1/N sum_i (f_i - y_i) f_i (1 - f_i) x_i    [D]
        dL/db   = sum_i dL/dz_i dz_i/db = 1/N sum_i (f_i - y_i) f_i (1 - f_i)        []

    Along (v, v_b) the logits change by `u_i = v . x_i + v_b`, and dL/dz_i changes by its derivative times u_i:

        d/dz_i (f_i - y_i) f'_i / N = (f'_i^2 + (f_i - y_i) f''_i) / N,   f'' = f (1 - f) (1 - 2f)
        H (v, v_b) = (X^T R, sum_i R_i),   R_i = 1/N (f'_i^2 + (f_i - y_i) f''_i) u_i

    For targets in [0, 1] the factor of u_i lies in [-0.0601, 0.0770] / N (see `HALF_CURVATURES`), so the loss is smooth
    but not convex.

    If f is near 0 or 1, the factor f (1 - f) is near 0, even if f is far from the target. The loss surface is flat
    there.

    Args:
      loss: "half_mean_squared_error", "mean_squared_error", "half_sum_squared_error" or "sum_squared_error".
      l2: lambda of the penalty `1/2 lambda |w|^2`; the bias is not penalised.

    Returns:
      The problem; parameters are `LinearParams`: weights `[]` for inputs `[N]`, `[D]` for inputs `[N, D]`,
      bias `[]`. Targets `[N]`; only targets in [0, 1] can be reached.

    Raises:
      ValueError: an unknown loss, or an l2 that is negative or not finite.
      TypeError: `l2` is not a number.
    """
    check_choice("loss", loss, SQUARED_ERRORS)
    return _sigmoid_neuron(loss, check_nonnegative("l2", l2))


@functools.cache
def _sigmoid_neuron(loss_name: str, l2: float) -> Problem:
    error = SQUARED_ERRORS[loss_name]
    low, high = (LOSS_CURVATURES[loss_name].high * curvature for curvature in HALF_CURVATURES)

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

    def hvp(params: LinearParams, vector: LinearParams, batch: Batch) -> LinearParams:
        check_same_tree("`vector`", vector, "`params`", params)
        f = predict(params, batch.inputs)
        slope = f * (1 - f)
        inputs = batch.inputs
        moves = affine(vector, inputs) if inputs.ndim == 2 else vector.weights * inputs + vector.bias
        residual_part = error.grad(f, batch.targets) * slope * (1 - 2 * f)  # (f - y) f'', with the factor of the loss
        slope_part = LOSS_CURVATURES[loss_name].hvp(f, jnp.square(slope), batch.targets)  # f'^2, likewise
        return grad_affine(inputs, (slope_part + residual_part) * moves)

    def design(batch: Batch) -> jax.Array:
        return batch.inputs if batch.inputs.ndim == 2 else jnp.expand_dims(batch.inputs, 1)

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
        loss=loss,
        grad=grad,
        reduction=error.reduction,
        row_sum=RowSum(num_rows),
        second_order=SecondOrder(hvp, RowCurvature(design, low, high)),
        system=System(
            init=init,
            predict=predict,
            check_batch=check_batch,
            formulas=Formulas(
                "f = sigma(w . x + b)",
                error.formula,
                f"dw = {error.factor}sum r f (1 - f) x, db = {error.factor}sum r f (1 - f)",
            ),
        ),
    )
    call = functools.partial(sigmoid_neuron, loss=loss_name, l2=l2)
    return penalisable(accepting(problem, LinearParams, targets="real"), l2, call=call)
