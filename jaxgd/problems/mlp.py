"""The ReLU network, backpropagation written out."""

import functools
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgd.penalty import penalisable
from jaxgd.problems.curvature import LOSS_CURVATURES
from jaxgd.problems.interface import accepting
from jaxgd.problems.linear import affine, call_name, grad_affine
from jaxgd.problems.losses import SOFTMAX_CROSS_ENTROPIES, SQUARED_ERRORS
from jaxgd.types import Batch, Formulas, LinearParams, Problem, RowCurvature, RowSum, SecondOrder, num_rows
from jaxgd.validation import (
    check_choice,
    check_count,
    check_floating,
    check_label_values,
    check_nonnegative,
    check_rank,
    check_same_tree,
)

OUTPUT_LOSSES = {"mean_squared_error": SQUARED_ERRORS["mean_squared_error"], **SOFTMAX_CROSS_ENTROPIES}
"""The losses of the network's output by name, which is what `loss=` takes."""


class MLPParams(NamedTuple):
    """Parameters of the network.

    Attributes:
      layers: from the input to the output; layer l has weights `[H_{l-1}, H_l]` and bias `[H_l]`.
    """

    layers: tuple[LinearParams, ...]


def mlp(
    hidden_sizes: Sequence[int],
    *,
    loss: str = "mean_squared_error",
    num_classes: int | None = None,
    l2: float = 0.0,
) -> Problem:
    """A network of ReLU layers with a linear output.

    Forward, with `a_0 = x`:

        z_l = a_{l-1} W_l + b_l,   a_l = max(z_l, 0) for l < L,   f = z_L.

    Gradient, by hand. Write `delta_l = dL/dz_l`, `[N, H_l]`. The output layer gives `delta_L = dL/df`,
    2/N (f - y) for the mean squared error, 1/N (P - onehot) for the cross-entropy. A weight of an earlier
    layer moves the loss only through its own z, and that only through every unit of the next layer:

        dL/da_{l-1} = sum_k dL/dz_lk dz_lk/da_{l-1} = delta_l W_l^T
        delta_{l-1} = dL/da_{l-1} da_{l-1}/dz_{l-1} = (delta_l W_l^T) * [z_{l-1} > 0]
        dL/dW_l     = a_{l-1}^T delta_l + l2 W_l
        dL/db_l     = sum_i delta_l

    so one sweep from the output to the input has them all. The product of the Hessian with V, by Pearlmutter's R
    operator (1994, Neural Computation 6, 147-160): `R{.}` is the derivative along V, by the product rule on every line
    above. Forward, with `R{a_0} = 0`, then backward from `R{delta_L} = C R{z_L}`, C the Hessian of the loss by its
    outputs:

        R{z_l}         = R{a_{l-1}} W_l + a_{l-1} V_l + v_l,    R{a_l} = R{z_l} * [z_l > 0]
        R{delta_{l-1}} = (R{delta_l} W_l^T + delta_l V_l^T) * [z_{l-1} > 0]
        R{dL/dW_l}     = R{a_{l-1}}^T delta_l + a_{l-1}^T R{delta_l} + l2 V_l
        R{dL/db_l}     = sum_i R{delta_l}

    The ReLU is linear on both sides of its kink, so its own second derivative adds nothing. With a hidden layer
    the curvature grows with the weights of the other layers: there is no bound over all parameters.

    At z = 0 the derivative of the ReLU is taken
    as 0, as `jax.nn.relu` does. Source: Rumelhart, Hinton & Williams 1986, Nature 323, 533-536.

    Args:
      hidden_sizes: units of each hidden layer; empty for a linear model.
      loss: "mean_squared_error" or "mean_softmax_cross_entropy".
      num_classes: the units of the output under the cross-entropy; None under the squared error, whose
        targets tell.
      l2: lambda of the penalty `1/2 lambda sum_l |W_l|^2`, the biases free.

    Returns:
      The problem; parameters are `MLPParams`. Inputs `[N, D]`; targets `[N]` or `[N, K]` floating, or `[N]`
      integers in [0, num_classes). `predict` gives outputs, for the cross-entropy probabilities.

    Raises:
      ValueError: a size below 1, an unknown loss, `num_classes` missing or out of place, a negative l2.
      TypeError: a size is not an integer, or `l2` not a number.
    """
    check_choice("loss", loss, OUTPUT_LOSSES)
    sizes = tuple(check_count(f"hidden_sizes[{i}]", size) for i, size in enumerate(hidden_sizes))
    if loss == "mean_softmax_cross_entropy":
        num_classes = check_count("num_classes", num_classes, minimum=2)
    elif num_classes is not None:
        raise ValueError(f"`num_classes` belongs to the cross-entropy; with {loss!r} it must be None.")
    return _mlp(sizes, loss, num_classes, check_nonnegative("l2", l2))


@functools.cache
def _mlp(hidden_sizes: tuple[int, ...], loss_name: str, num_classes: int | None, l2: float) -> Problem:
    output_loss, curvature = OUTPUT_LOSSES[loss_name], LOSS_CURVATURES[loss_name]

    def init(key: jax.Array, batch: Batch) -> MLPParams:
        """Weights from N(0, 2/fan_in), the output's from N(0, 1/fan_in); biases of zero (He et al. 2015)."""
        check_floating("inputs", batch.inputs)
        check_rank("inputs", batch.inputs, (2,), "[N, D]")
        if num_classes is None:
            check_rank("targets", batch.targets, (1, 2), "[N] or [N, K]")
            num_outputs = batch.targets.shape[1] if batch.targets.ndim == 2 else 1
        else:
            num_outputs = num_classes
        dtype = batch.inputs.dtype
        sizes = (batch.inputs.shape[1], *hidden_sizes, num_outputs)
        keys = jax.random.split(key, len(sizes) - 1)
        layers = []
        for i, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
            gain = 1 if i == len(hidden_sizes) else 2
            scale = np.sqrt(gain / max(fan_in, 1)).astype(dtype)
            weights = jax.random.normal(keys[i], (fan_in, fan_out), dtype) * scale
            layers.append(LinearParams(weights, jnp.zeros((fan_out,), dtype)))
        return MLPParams(tuple(layers))

    def forward(params: MLPParams, inputs: jax.Array) -> tuple[list[jax.Array], jax.Array]:
        """The inputs a_0 .. a_{L-1} of each layer and the output z_L, `[N, K]`."""
        activations = [inputs]
        for layer in params.layers[:-1]:
            activations.append(jax.nn.relu(affine(layer, activations[-1])))
        return activations, affine(params.layers[-1], activations[-1])

    def outputs_like(targets: jax.Array, outputs: jax.Array) -> jax.Array:
        """`[N, 1]` as `[N]` where the targets of a squared error are `[N]`."""
        return outputs[:, 0] if num_classes is None and targets.ndim == 1 and outputs.shape[1] == 1 else outputs

    def loss(params: MLPParams, batch: Batch) -> jax.Array:
        _, outputs = forward(params, batch.inputs)
        return output_loss.value(outputs_like(batch.targets, outputs), batch.targets)

    def grad(params: MLPParams, batch: Batch) -> MLPParams:
        activations, outputs = forward(params, batch.inputs)
        by_outputs = output_loss.grad(outputs_like(batch.targets, outputs), batch.targets)
        delta = by_outputs.reshape(outputs.shape)  # [N, K]
        grads: list[LinearParams] = []
        for layer, activation in zip(reversed(params.layers), reversed(activations), strict=True):
            grads.insert(0, grad_affine(activation, delta))
            if activation is not batch.inputs:
                delta = jnp.where(activation > 0, delta @ layer.weights.T, 0)  # a > 0 where z > 0
        return MLPParams(tuple(grads))

    def hvp(params: MLPParams, vector: MLPParams, batch: Batch) -> MLPParams:
        check_same_tree("`vector`", vector, "`params`", params)
        activations, outputs = forward(params, batch.inputs)
        moves = [jnp.zeros_like(batch.inputs)]  # R{a_l}
        for layer, along, a, after in zip(
            params.layers, vector.layers, activations, (*activations[1:], None), strict=True
        ):
            move = moves[-1] @ layer.weights + affine(along, a)
            moves.append(move if after is None else jnp.where(after > 0, move, 0))
        like = outputs_like(batch.targets, outputs)
        delta = output_loss.grad(like, batch.targets).reshape(outputs.shape)
        delta_move = curvature.hvp(like, moves[-1].reshape(like.shape), batch.targets).reshape(outputs.shape)
        products: list[LinearParams] = []
        for layer, along, a, move in zip(
            reversed(params.layers), reversed(vector.layers), reversed(activations), reversed(moves[:-1]), strict=True
        ):
            by_move, by_delta = grad_affine(move, delta), grad_affine(a, delta_move)
            products.insert(0, by_delta._replace(weights=by_move.weights + by_delta.weights))
            if a is not batch.inputs:
                delta_move = jnp.where(a > 0, delta_move @ layer.weights.T + delta @ along.weights.T, 0)
                delta = jnp.where(a > 0, delta @ layer.weights.T, 0)
        return MLPParams(tuple(products))

    def predict(params: MLPParams, inputs: jax.Array) -> jax.Array:
        _, outputs = forward(params, inputs)
        return outputs if num_classes is None else jax.nn.softmax(outputs)

    def check_batch(batch: Batch) -> None:
        if num_classes is not None:
            check_label_values("targets", batch.targets, num_classes)

    by_output = "2/N (f - y)" if num_classes is None else "1/N (P - onehot)"
    problem = Problem(
        name=call_name(
            "mlp",
            hidden_sizes,
            loss=(loss_name, "mean_squared_error"),
            num_classes=(num_classes, None),
        ),
        init=init,
        loss=loss,
        grad=grad,
        predict=predict,
        check_batch=check_batch,
        row_sum=RowSum(num_rows),
        second_order=SecondOrder(hvp, unbounded="the curvature grows with the weights of the other layers")
        if hidden_sizes
        else SecondOrder(hvp, RowCurvature(lambda batch: batch.inputs, curvature.low, curvature.high)),
        formulas=Formulas(
            "a_l = relu(a_{l-1} W_l + b_l), f linear",
            output_loss.formula,
            f"delta_L = {by_output}, delta_{{l-1}} = delta_l W_l^T [z_{{l-1}} > 0], "
            f"dW_l = a_{{l-1}}^T delta_l, db_l = sum delta_l",
        ),
    )
    call = functools.partial(mlp, hidden_sizes, loss=loss_name, num_classes=num_classes, l2=l2)
    problem = accepting(problem, MLPParams, targets="real" if num_classes is None else "labels")
    return penalisable(problem, l2)._replace(call=call)
