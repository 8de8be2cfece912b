"""A network with hidden layers: backpropagation and the Hessian-vector product, derived by hand."""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgd.penalty import penalisable
from jaxgd.problems.curvature import LOSS_CURVATURES
from jaxgd.problems.interface import accepting
from jaxgd.problems.linear import affine, call_name, grad_affine
from jaxgd.problems.losses import (
    SOFTMAX_CROSS_ENTROPIES,
    SQUARED_ERRORS,
    PredictionLoss,
    grad_sum_sigmoid_cross_entropy,
    sum_sigmoid_cross_entropy,
)
from jaxgd.types import (
    Batch,
    Formulas,
    LinearParams,
    Problem,
    RowCurvature,
    RowSum,
    SecondOrder,
    System,
    WeightsParams,
    num_rows,
)
from jaxgd.validation import (
    check_choice,
    check_count,
    check_floating,
    check_label_values,
    check_nonnegative,
    check_probability_values,
    check_rank,
    check_same_tree,
    check_shape,
)


class Activation(NamedTuple):
    """A function phi of a layer, with its derivatives as functions of its value a = phi(z).

    Attributes:
      value: `z -> a`.
      slope_times: `(a, v) -> phi'(z) v`.
      bend_times: `(a, v) -> phi''(z) v`; None if phi is piecewise linear.
      formula: the formula as text.
    """

    value: Callable[[jax.Array], jax.Array]
    slope_times: Callable[[jax.Array, jax.Array], jax.Array]
    bend_times: Callable[[jax.Array, jax.Array], jax.Array] | None
    formula: str


ACTIVATIONS = {
    "relu": Activation(jax.nn.relu, lambda a, v: jnp.where(a > 0, v, 0), None, "relu"),
    "sigmoid": Activation(
        jax.nn.sigmoid, lambda a, v: a * (1 - a) * v, lambda a, v: a * (1 - a) * (1 - 2 * a) * v, "sigma"
    ),
    "tanh": Activation(
        jnp.tanh,
        lambda a, v: (1 - jnp.square(a)) * v,
        lambda a, v: -2 * a * (1 - jnp.square(a)) * v,
        "tanh",
    ),
}
"""The functions of the hidden layers by name: sigma' = a (1 - a), tanh' = 1 - a^2, relu' = [a > 0]."""


def _each_output(logits: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The logits and the targets of all outputs, flattened to one axis."""
    check_shape("targets", targets, logits.shape, "that of the outputs")
    return logits.reshape(-1), targets.reshape(-1)


OUTPUT_LOSSES = {
    **SQUARED_ERRORS,
    **SOFTMAX_CROSS_ENTROPIES,
    "mean_sigmoid_cross_entropy": PredictionLoss(
        lambda z, y: sum_sigmoid_cross_entropy(*_each_output(z, y)) / len(z),
        lambda z, y: grad_sum_sigmoid_cross_entropy(*_each_output(z, y)).reshape(z.shape) / len(z),
        "mean",
        "1/N sum softplus(-+z)",
        "1/N ",
    ),
}
"""The losses of the network's output by name; these names are the values of `loss=`.

The sigmoid cross-entropy of a row is the sum over its outputs."""

OUTPUTS = ("linear", "sigmoid")


class MLPParams(NamedTuple):
    """Parameters of the network.

    Attributes:
      layers: from the input to the output; layer l has weights `[H_{l-1}, H_l]` and bias `[H_l]`.
    """

    layers: tuple[LinearParams, ...]


class MLPWeights(NamedTuple):
    """Parameters of a network whose biases are constants.

    Attributes:
      layers: from the input to the output; layer l has weights `[H_{l-1}, H_l]`.
    """

    layers: tuple[WeightsParams, ...]


def mlp(
    hidden_sizes: Sequence[int],
    *,
    loss: str = "mean_squared_error",
    num_classes: int | None = None,
    l2: float = 0.0,
    activation: str = "relu",
    output: str | None = None,
    biases: Sequence[float | Sequence[float]] | None = None,
) -> Problem:
    """A network with hidden layers of one activation phi, and an output that is linear or a sigmoid.

    Forward, with `a_0 = x`:

        z_l = a_{l-1} W_l + b_l,   a_l = phi(z_l) for l < L,   f = z_L or sigma(z_L).

    Gradient, by hand. Write `delta_l = dL/dz_l`, `[N, H_l]`. The loss determines `delta_L`: it is 2/N (f - y) for the
    mean squared error of a linear output, 2/N (f - y) f (1 - f) for that of a sigmoid output, 1/N (P - onehot) for the
    softmax cross-entropy, and 1/N (p - y) for the sigmoid cross-entropy. A weight of layer l affects the loss only
    through z_l, and z_l affects the loss only through the units of layer l + 1:

        dL/da_{l-1} = sum_k dL/dz_lk dz_lk/da_{l-1} = delta_l W_l^T
        delta_{l-1} = dL/da_{l-1} da_{l-1}/dz_{l-1} = (delta_l W_l^T) * phi'(z_{l-1})
        dL/dW_l     = a_{l-1}^T delta_l + l2 W_l
        dL/db_l     = sum_i delta_l

    So one pass from the output to the input computes all gradients. The product of the Hessian with V is derived with
    Pearlmutter's R operator (1994, Neural Computation 6, 147-160). `R{.}` is the derivative along V; apply the product
    rule to every line above. The forward pass starts with `R{a_0} = 0`. The backward pass starts from
    `R{delta_L} = C R{z_L}`, where C is the Hessian of the loss with respect to z_L:

        R{z_l}         = R{a_{l-1}} W_l + a_{l-1} V_l + v_l,    R{a_l} = phi'(z_l) * R{z_l}
        R{delta_{l-1}} = (R{delta_l} W_l^T + delta_l V_l^T) * phi'(z_{l-1})
                         + (delta_l W_l^T) * phi''(z_{l-1}) * R{z_{l-1}}
        R{dL/dW_l}     = R{a_{l-1}}^T delta_l + a_{l-1}^T R{delta_l} + l2 V_l
        R{dL/db_l}     = sum_i R{delta_l}

    With a hidden layer the curvature grows with the weights of the other layers, so no bound holds at all parameters.

    At z = 0 the derivative of the ReLU is taken as 0, as `jax.nn.relu` does. Source: Rumelhart, Hinton & Williams
    1986, Nature 323, 533-536.

    Args:
      hidden_sizes: units of each hidden layer; empty for a linear model.
      loss: a squared error such as "mean_squared_error", "mean_softmax_cross_entropy" for classes, or
        "mean_sigmoid_cross_entropy" if each output is a probability (the loss of a row is the sum over its outputs).
      num_classes: the number of output units for the softmax cross-entropy. None for the other losses, for which the
        targets determine the number of outputs.
      l2: lambda of the penalty `1/2 lambda sum_l |W_l|^2`; the biases are not penalised.
      activation: "relu", "sigmoid" or "tanh".
      output: "linear" or "sigmoid" for a squared error; None means "linear". For the cross-entropies it must be None.
      biases: constant values of the biases: for every layer one number, or one number for each unit. The parameters are
        then only the weights. None means that the biases are parameters.

    Returns:
      The problem; parameters are `MLPParams`, or `MLPWeights` if the biases are constants. Inputs `[N, D]`; targets
      `[N]` or `[N, K]` floating, or `[N]` integers in [0, num_classes). `predict` returns the outputs, or probabilities
      for the cross-entropies.

    Raises:
      ValueError: a size is below 1, the loss, activation or output is unknown, `num_classes` or `output` is missing or
        does not belong to the loss, the biases do not fit the layers, or `l2` is negative.
      TypeError: a size is not an integer, or `l2` is not a number.
    """
    check_choice("loss", loss, OUTPUT_LOSSES)
    check_choice("activation", activation, ACTIVATIONS)
    sizes = tuple(check_count(f"hidden_sizes[{i}]", size) for i, size in enumerate(hidden_sizes))
    if loss == "mean_softmax_cross_entropy":
        num_classes = check_count("num_classes", num_classes, minimum=2)
    elif num_classes is not None:
        raise ValueError(f"`num_classes` belongs to the softmax cross-entropy; with {loss!r} it must be None.")
    if output is not None:
        check_choice("output", output, OUTPUTS)
        if loss not in SQUARED_ERRORS:
            raise ValueError(f"`output` belongs to the squared errors; with {loss!r} it must be None, got {output!r}.")
    held = None if biases is None else _held(biases, sizes)
    return _mlp(sizes, loss, num_classes, check_nonnegative("l2", l2), (activation, output == "sigmoid", held))


def _held(biases: Sequence[float | Sequence[float]], sizes: tuple[int, ...]) -> tuple[Any, ...]:
    """The constant biases as nested tuples, checked against the layers."""
    layers = tuple(tuple(map(float, b)) if isinstance(b, Sequence) else float(b) for b in biases)
    if len(layers) != len(sizes) + 1:
        raise ValueError(f"`biases` must have {len(sizes) + 1} entries (one for each layer), got {len(layers)}.")
    for i, (layer, size) in enumerate(zip(layers, sizes, strict=False)):
        if isinstance(layer, tuple) and len(layer) != size:
            raise ValueError(f"`biases[{i}]` must have {size} entries (the units of its layer), got {len(layer)}.")
    return layers


@functools.cache
def _mlp(
    hidden_sizes: tuple[int, ...],
    loss_name: str,
    num_classes: int | None,
    l2: float,
    layout: tuple[str, bool, tuple[Any, ...] | None],
) -> Problem:
    activation_name, sigmoid_output, held = layout
    output_loss, curvature, phi = OUTPUT_LOSSES[loss_name], LOSS_CURVATURES[loss_name], ACTIVATIONS[activation_name]

    def init(key: jax.Array, batch: Batch) -> Any:
        """Weights from N(0, gain/fan_in), gain 2 before a ReLU (He et al. 2015) and 1 otherwise; biases of zero."""
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
            gain = 2 if i < len(hidden_sizes) and activation_name == "relu" else 1
            scale = np.sqrt(gain / max(fan_in, 1)).astype(dtype)
            weights = jax.random.normal(keys[i], (fan_in, fan_out), dtype) * scale
            layers.append(LinearParams(weights, jnp.zeros((fan_out,), dtype)))
        return only_free(MLPParams(tuple(layers)))

    def only_free(params: MLPParams) -> Any:
        """The gradient without the biases if these are constants."""
        return params if held is None else MLPWeights(tuple(WeightsParams(layer.weights) for layer in params.layers))

    def whole(params: Any, biases: tuple[Any, ...] | None) -> tuple[LinearParams, ...]:
        """All layers with their biases, from the parameters or the constants."""
        if biases is None:
            layers: tuple[LinearParams, ...] = params.layers
            return layers
        check_shape("params.layers", np.zeros(len(params.layers)), (len(biases),), "one for each of the biases held")
        shapes = [(layer.weights.shape[1:], layer.weights.dtype) for layer in params.layers]
        return tuple(
            LinearParams(layer.weights, jnp.broadcast_to(jnp.asarray(b, dtype), shape))
            for layer, b, (shape, dtype) in zip(params.layers, biases, shapes, strict=True)
        )

    def forward(layers: tuple[LinearParams, ...], inputs: jax.Array) -> tuple[list[jax.Array], jax.Array]:
        """The inputs a_0 .. a_{L-1} of each layer and the output z_L, `[N, K]`."""
        found = tuple(layer.weights.shape[-1] for layer in layers[:-1])
        if found != hidden_sizes:
            raise ValueError(f"`params.layers` must have hidden layers of {hidden_sizes} units, got {found}.")
        activations = [inputs]
        for layer in layers[:-1]:
            activations.append(phi.value(affine(layer, activations[-1])))
        return activations, affine(layers[-1], activations[-1])

    def outputs_like(targets: jax.Array, outputs: jax.Array) -> jax.Array:
        """Outputs `[N, 1]` as `[N]` if the targets are `[N]`."""
        return outputs[:, 0] if num_classes is None and targets.ndim == 1 and outputs.shape[1] == 1 else outputs

    def at_output(z: jax.Array, targets: jax.Array) -> jax.Array:
        """`delta_L`, `[N, K]`."""
        f = jax.nn.sigmoid(z) if sigmoid_output else z
        by_outputs = output_loss.grad(outputs_like(targets, f), targets).reshape(z.shape)
        return by_outputs * f * (1 - f) if sigmoid_output else by_outputs

    def move_at_output(z: jax.Array, move: jax.Array, targets: jax.Array) -> jax.Array:
        """`R{delta_L}`, `[N, K]`, from `R{z_L}`."""
        if not sigmoid_output:
            like = outputs_like(targets, z)
            return curvature.hvp(like, move.reshape(like.shape), targets).reshape(z.shape)
        f = jax.nn.sigmoid(z)
        slope = f * (1 - f)
        like = outputs_like(targets, f)
        residuals = output_loss.grad(like, targets).reshape(z.shape)
        curved = curvature.hvp(like, (slope * move).reshape(like.shape), targets).reshape(z.shape)
        return curved * slope + residuals * slope * (1 - 2 * f) * move

    def loss(params: Any, batch: Batch) -> jax.Array:
        _, z = forward(whole(params, held), batch.inputs)
        outputs = jax.nn.sigmoid(z) if sigmoid_output else z
        return output_loss.value(outputs_like(batch.targets, outputs), batch.targets)

    def grad(params: Any, batch: Batch) -> Any:
        layers = whole(params, held)
        activations, z = forward(layers, batch.inputs)
        delta = at_output(z, batch.targets)
        grads: list[LinearParams] = []
        for layer, activation in zip(reversed(layers), reversed(activations), strict=True):
            grads.insert(0, grad_affine(activation, delta))
            if activation is not batch.inputs:
                delta = phi.slope_times(activation, delta @ layer.weights.T)
        return only_free(MLPParams(tuple(grads)))

    def hvp(params: Any, vector: Any, batch: Batch) -> Any:
        check_same_tree("`vector`", vector, "`params`", params)
        layers, along = whole(params, held), whole(vector, None if held is None else (0.0,) * len(held))
        activations, z = forward(layers, batch.inputs)
        moves, z_moves = [jnp.zeros_like(batch.inputs)], []  # R{a_l} and R{z_l}
        for layer, v, a, after in zip(layers, along, activations, (*activations[1:], None), strict=True):
            z_moves.append(moves[-1] @ layer.weights + affine(v, a))
            if after is not None:
                moves.append(phi.slope_times(after, z_moves[-1]))
        delta, delta_move = at_output(z, batch.targets), move_at_output(z, z_moves[-1], batch.targets)
        products: list[LinearParams] = []
        for i in reversed(range(len(layers))):
            by_move, by_delta = grad_affine(moves[i], delta), grad_affine(activations[i], delta_move)
            products.insert(0, by_delta._replace(weights=by_move.weights + by_delta.weights))
            if i:
                a, by_activation = activations[i], delta @ layers[i].weights.T
                delta_move = phi.slope_times(a, delta_move @ layers[i].weights.T + delta @ along[i].weights.T)
                if phi.bend_times is not None:
                    delta_move = delta_move + phi.bend_times(a, by_activation * z_moves[i - 1])
                delta = phi.slope_times(a, by_activation)
        return only_free(MLPParams(tuple(products)))

    def predict(params: Any, inputs: jax.Array) -> jax.Array:
        _, z = forward(whole(params, held), inputs)
        if num_classes is not None:
            return jax.nn.softmax(z)
        return jax.nn.sigmoid(z) if sigmoid_output or loss_name not in SQUARED_ERRORS else z

    def check_batch(batch: Batch) -> None:
        if num_classes is not None:
            check_label_values("targets", batch.targets, num_classes)
        elif loss_name not in SQUARED_ERRORS:
            check_probability_values("targets", batch.targets)

    if hidden_sizes or sigmoid_output:
        second_order = SecondOrder(hvp, unbounded="the curvature grows with the weights of the other layers")
    else:
        rows = RowCurvature(lambda batch: batch.inputs, curvature.low, curvature.high, held is None)
        second_order = SecondOrder(hvp, rows)
    by_output = f"{output_loss.factor}(f - y)" + " f (1 - f)" * sigmoid_output
    if num_classes is not None:
        by_output = f"{output_loss.factor}(P - onehot)"
    slope = {"relu": "[z_{l-1} > 0]", "sigmoid": "a (1 - a)", "tanh": "(1 - a^2)"}[activation_name]
    output = "sigmoid" if sigmoid_output else None
    problem = Problem(
        name=call_name(
            "mlp",
            hidden_sizes,
            loss=(loss_name, "mean_squared_error"),
            num_classes=(num_classes, None),
            activation=(activation_name, "relu"),
            output=(output, None),
            biases=(held, None),
        ),
        loss=loss,
        grad=grad,
        reduction=output_loss.reduction,
        row_sum=RowSum(num_rows),
        second_order=second_order,
        system=System(
            init=init,
            predict=predict,
            check_batch=check_batch,
            formulas=Formulas(
                f"a_l = {phi.formula}(a_{{l-1}} W_l + b_l), f {'a sigmoid' if sigmoid_output else 'linear'}"
                + ", b held" * (held is not None),
                output_loss.formula,
                f"delta_L = {by_output}, delta_{{l-1}} = delta_l W_l^T {slope}, dW_l = a_{{l-1}}^T delta_l"
                + (", db_l = sum delta_l" if held is None else ""),
            ),
        ),
    )
    call = functools.partial(
        mlp,
        hidden_sizes,
        loss=loss_name,
        num_classes=num_classes,
        l2=l2,
        activation=activation_name,
        output=output,
        biases=held,
    )
    params_type = MLPParams if held is None else MLPWeights
    problem = accepting(problem, params_type, targets="real" if num_classes is None else "labels")
    return penalisable(problem, l2, call=call)
