"""Losses of predictions, each with its derivative with respect to the predictions.

The name of a loss determines its factor. For N rows, `sum_` is the sum over rows, `half_sum_` is half the sum, `mean_`
is the sum divided by N, and `half_mean_` is the sum divided by 2N. The K outputs of one row are always summed and not
averaged: the mean squared error of targets `[N, K]` is `1/N sum_i |f_i - y_i|^2`, with the derivative `2/N (f - y)`
for any K.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxgd.types import Reduction
from jaxgd.validation import check_floating, check_labels, check_rank, check_shape


def sum_squared_error(predictions: jax.Array, targets: jax.Array) -> jax.Array:
    """Sum of squared errors, `sum_i |f_i - y_i|^2`.

    Args:
      predictions: `[N]` or `[N, K]`, floating.
      targets: the shape of `predictions`. Not broadcast.

    Returns:
      Scalar `[]`, in squared units of the targets.

    Raises:
      ValueError: the two shapes differ.
      TypeError: the targets are not floating.
    """
    return jnp.sum(jnp.square(_residuals(predictions, targets)))


def grad_sum_squared_error(predictions: jax.Array, targets: jax.Array) -> jax.Array:
    """Derivative of `sum_squared_error` with respect to the predictions, `2 (f_i - y_i)`.

    Args:
      predictions: `[N]` or `[N, K]`, floating.
      targets: the shape of `predictions`. Not broadcast.

    Returns:
      The shape of `predictions`, in units of the targets.

    Raises:
      ValueError: the two shapes differ.
      TypeError: the targets are not floating.
    """
    return 2 * _residuals(predictions, targets)


def half_sum_squared_error(predictions: jax.Array, targets: jax.Array) -> jax.Array:
    """Half of the sum of squared errors, `1/2 sum_i |f_i - y_i|^2`, as textbooks write it.

    Args:
      predictions: `[N]` or `[N, K]`, floating.
      targets: the shape of `predictions`. Not broadcast.

    Returns:
      Scalar `[]`, in squared units of the targets.

    Raises:
      ValueError: the two shapes differ.
      TypeError: the targets are not floating.
    """
    return sum_squared_error(predictions, targets) / 2


def grad_half_sum_squared_error(predictions: jax.Array, targets: jax.Array) -> jax.Array:
    """Derivative of `half_sum_squared_error` with respect to the predictions, `f_i - y_i`.

    Args:
      predictions: `[N]` or `[N, K]`, floating.
      targets: the shape of `predictions`. Not broadcast.

    Returns:
      The shape of `predictions`, in units of the targets.

    Raises:
      ValueError: the two shapes differ.
      TypeError: the targets are not floating.
    """
    return _residuals(predictions, targets)


def mean_squared_error(predictions: jax.Array, targets: jax.Array) -> jax.Array:
    """Mean over rows of the squared error, `1/N sum_i |f_i - y_i|^2`.

    Args:
      predictions: `[N]` or `[N, K]`, floating.
      targets: the shape of `predictions`. Not broadcast.

    Returns:
      Scalar `[]`, in squared units of the targets. The K outputs of a row add up; they are not averaged.

    Raises:
      ValueError: the two shapes differ.
      TypeError: the targets are not floating.
    """
    return sum_squared_error(predictions, targets) / len(predictions)


def grad_mean_squared_error(predictions: jax.Array, targets: jax.Array) -> jax.Array:
    """Derivative of `mean_squared_error` with respect to the predictions, `2/N (f_i - y_i)`.

    Args:
      predictions: `[N]` or `[N, K]`, floating.
      targets: the shape of `predictions`. Not broadcast.

    Returns:
      The shape of `predictions`, in units of the targets.

    Raises:
      ValueError: the two shapes differ.
      TypeError: the targets are not floating.
    """
    return (2 / len(predictions)) * _residuals(predictions, targets)


def half_mean_squared_error(predictions: jax.Array, targets: jax.Array) -> jax.Array:
    """Half of the mean squared error, `1/(2N) sum_i |f_i - y_i|^2`.

    Args:
      predictions: `[N]` or `[N, K]`, floating.
      targets: the shape of `predictions`. Not broadcast.

    Returns:
      Scalar `[]`, in squared units of the targets.

    Raises:
      ValueError: the two shapes differ.
      TypeError: the targets are not floating.
    """
    return sum_squared_error(predictions, targets) / (2 * len(predictions))


def grad_half_mean_squared_error(predictions: jax.Array, targets: jax.Array) -> jax.Array:
    """Derivative of `half_mean_squared_error` with respect to the predictions, `1/N (f_i - y_i)`.

    Args:
      predictions: `[N]` or `[N, K]`, floating.
      targets: the shape of `predictions`. Not broadcast.

    Returns:
      The shape of `predictions`, in units of the targets.

    Raises:
      ValueError: the two shapes differ.
      TypeError: the targets are not floating.
    """
    return _residuals(predictions, targets) / len(predictions)


def sum_sigmoid_cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Cross-entropy of the logistic model, `-sum_i (y_i log p_i + (1 - y_i) log(1 - p_i))`, `p = sigma(z)`.

    Since `-log sigma(z) = softplus(-z)`, this is `sum_i (y_i softplus(-z_i) + (1 - y_i) softplus(z_i))`. For labels 0
    and 1 each term is `softplus(-s z)` with `s = 2 y - 1`. The formula `softplus(u) = max(u, 0) + log(1 + exp(-|u|))`
    does not overflow, and does not subtract large numbers, at any z.

    Args:
      logits: `[N]`, floating.
      labels: `[N]`, integers in {0, 1}, or floating probabilities of label 1 in [0, 1].

    Returns:
      Scalar `[]`, in nats.

    Raises:
      ValueError: the shapes differ.
      TypeError: the labels are neither integers nor floating.
    """
    _check_binary(logits, labels)
    if jnp.issubdtype(labels.dtype, jnp.floating):
        labels = labels.astype(logits.dtype)
        wrongness = labels * jnp.maximum(-logits, 0) + (1 - labels) * jnp.maximum(logits, 0)
        return jnp.sum(wrongness + jnp.log1p(jnp.exp(-jnp.abs(logits))))
    wrongness = jnp.where(labels == 1, -logits, logits)  # -s z
    return jnp.sum(jnp.maximum(wrongness, 0) + jnp.log1p(jnp.exp(-jnp.abs(wrongness))))


def grad_sum_sigmoid_cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Derivative of `sum_sigmoid_cross_entropy` with respect to the logits, `p_i - y_i`.

    `d softplus(u)/du = sigma(u)` at `u = -s z`, so the derivative is `-s sigma(-s z)`. This is `sigma(z)` for y = 0 and
    `-sigma(-z) = p - 1` for y = 1, which is accurate even if p rounds to 1. The loss and the derivative share
    `exp(-|u|)`. If y is a probability, the derivative is `(1 - y) sigma(z) - y sigma(-z)`, the weighted mean of the
    two.

    Args:
      logits: `[N]`, floating.
      labels: `[N]`, integers in {0, 1}, or floating probabilities of label 1 in [0, 1].

    Returns:
      `[N]`.

    Raises:
      ValueError: the shapes differ.
      TypeError: the labels are neither integers nor floating.
    """
    _check_binary(logits, labels)
    if jnp.issubdtype(labels.dtype, jnp.floating):
        labels, decay = labels.astype(logits.dtype), jnp.exp(-jnp.abs(logits))
        above, below = 1 / (1 + decay), decay / (1 + decay)  # sigma(|z|), sigma(-|z|)
        return (1 - labels) * jnp.where(logits >= 0, above, below) - labels * jnp.where(logits >= 0, below, above)
    wrongness = jnp.where(labels == 1, -logits, logits)  # -s z
    decay = jnp.exp(-jnp.abs(wrongness))
    slope = jnp.where(wrongness >= 0, 1, decay) / (1 + decay)  # sigma(-s z)
    return jnp.where(labels == 1, -slope, slope)


def mean_sigmoid_cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean cross-entropy of the logistic model, `1/N` of `sum_sigmoid_cross_entropy`.

    Args:
      logits: `[N]`, floating.
      labels: `[N]`, integers in {0, 1}, or floating probabilities of label 1 in [0, 1].

    Returns:
      Scalar `[]`, in nats.

    Raises:
      ValueError: the shapes differ.
      TypeError: the labels are neither integers nor floating.
    """
    return sum_sigmoid_cross_entropy(logits, labels) / len(logits)


def grad_mean_sigmoid_cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Derivative of `mean_sigmoid_cross_entropy` with respect to the logits, `1/N (p_i - y_i)`.

    Args:
      logits: `[N]`, floating.
      labels: `[N]`, integers in {0, 1}, or floating probabilities of label 1 in [0, 1].

    Returns:
      `[N]`.

    Raises:
      ValueError: the shapes differ.
      TypeError: the labels are neither integers nor floating.
    """
    return grad_sum_sigmoid_cross_entropy(logits, labels) / len(logits)


def mean_softmax_cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean cross-entropy of the softmax model, `1/N sum_i (log sum_k exp z_ik - z_i,y_i)`.

    Args:
      logits: `[N, K]`, floating.
      labels: `[N]`, integers in [0, K).

    Returns:
      Scalar `[]`, in nats.

    Raises:
      ValueError: the shapes do not fit.
      TypeError: the labels are not integers.
    """
    _check_classes(logits, labels)
    log_probabilities = jax.nn.log_softmax(logits)  # [N, K]
    return -jnp.mean(jnp.take_along_axis(log_probabilities, labels[:, None], axis=1))


def grad_mean_softmax_cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Derivative of `mean_softmax_cross_entropy` with respect to the logits, `1/N (P - onehot(y))`.

    With `P_k = exp(z_k) / sum_j exp(z_j)`: `d/dz_k log sum_j exp z_j = P_k` and `dz_y/dz_k = [k = y]`.

    Args:
      logits: `[N, K]`, floating.
      labels: `[N]`, integers in [0, K).

    Returns:
      `[N, K]`.

    Raises:
      ValueError: the shapes do not fit.
      TypeError: the labels are not integers.
    """
    _check_classes(logits, labels)
    onehot = jax.nn.one_hot(labels, logits.shape[1], dtype=logits.dtype)
    return (jax.nn.softmax(logits) - onehot) / len(logits)


class PredictionLoss(NamedTuple):
    """A loss of predictions, its derivative, and how it adds up over rows.

    Attributes:
      value: `(predictions, targets) -> []`.
      grad: `(predictions, targets) -> ` the shape of the predictions.
      reduction: "mean" or "sum".
      formula: the loss in terms of the residuals r = f - y, or of the logits z.
      factor: the factor of the residual (or of probability minus label) in the printed derivative, such as "2/N ".
    """

    value: Callable[[jax.Array, jax.Array], jax.Array]
    grad: Callable[[jax.Array, jax.Array], jax.Array]
    reduction: Reduction
    formula: str
    factor: str


SQUARED_ERRORS = {
    "sum_squared_error": PredictionLoss(sum_squared_error, grad_sum_squared_error, "sum", "sum r^2", "2 "),
    "half_sum_squared_error": PredictionLoss(
        half_sum_squared_error, grad_half_sum_squared_error, "sum", "1/2 sum r^2", ""
    ),
    "mean_squared_error": PredictionLoss(mean_squared_error, grad_mean_squared_error, "mean", "1/N sum r^2", "2/N "),
    "half_mean_squared_error": PredictionLoss(
        half_mean_squared_error, grad_half_mean_squared_error, "mean", "1/2N sum r^2", "1/N "
    ),
}
"""The squared errors by name; these names are the values of `loss=`."""

SIGMOID_CROSS_ENTROPIES = {
    "mean_sigmoid_cross_entropy": PredictionLoss(
        mean_sigmoid_cross_entropy, grad_mean_sigmoid_cross_entropy, "mean", "1/N sum softplus(-+z)", "1/N "
    ),
    "sum_sigmoid_cross_entropy": PredictionLoss(
        sum_sigmoid_cross_entropy, grad_sum_sigmoid_cross_entropy, "sum", "sum softplus(-+z)", ""
    ),
}
"""The cross-entropies of one logit for each row, by name."""

SOFTMAX_CROSS_ENTROPIES = {
    "mean_softmax_cross_entropy": PredictionLoss(
        mean_softmax_cross_entropy,
        grad_mean_softmax_cross_entropy,
        "mean",
        "1/N sum (logsumexp z - z_y)",
        "1/N ",
    ),
}
"""The cross-entropies of K logits for each row, by name."""


def _residuals(predictions: jax.Array, targets: jax.Array) -> jax.Array:
    check_floating("targets", targets)
    check_shape("targets", targets, predictions.shape, "that of the predictions")
    return predictions - targets


def _check_binary(logits: jax.Array, labels: jax.Array) -> None:
    check_rank("logits", logits, (1,), "[N]")
    if jnp.issubdtype(labels.dtype, jnp.floating):
        check_shape("labels", labels, logits.shape, "one for each row of logits")
    else:
        check_labels(labels, logits.shape[0])


def _check_classes(logits: jax.Array, labels: jax.Array) -> None:
    check_rank("logits", logits, (2,), "[N, K]")
    check_labels(labels, logits.shape[0])
