"""Second derivatives of the losses with respect to the predictions, and their smallest and largest values.

Bounds on the second derivative of each row's loss give bounds on the whole Hessian. With the predictions
`f_i = a_i . theta` and the second derivative `c_i` of row i, `H = sum_i c_i a_i a_i^T`, so
`low A^T A <= H <= high A^T A`.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp


def hvp_sum_squared_error(predictions: jax.Array, vector: jax.Array, targets: jax.Array) -> jax.Array:
    """Hessian of `sum_squared_error` with respect to the predictions, times a vector: `d/df 2 (f - y) = 2`, so `2 u`.

    Args:
      predictions: `[N]` or `[N, K]`; the Hessian does not depend on them.
      vector: u, the shape of `predictions`.
      targets: as the loss takes them.

    Returns:
      The shape of `predictions`.
    """
    del predictions, targets
    return 2 * vector


def hvp_half_sum_squared_error(predictions: jax.Array, vector: jax.Array, targets: jax.Array) -> jax.Array:
    """Hessian of `half_sum_squared_error` with respect to the predictions, times a vector: u itself.

    Args:
      predictions: `[N]` or `[N, K]`; the Hessian does not depend on them.
      vector: u, the shape of `predictions`.
      targets: as the loss takes them.

    Returns:
      The shape of `predictions`.
    """
    del predictions, targets
    return vector


def hvp_mean_squared_error(predictions: jax.Array, vector: jax.Array, targets: jax.Array) -> jax.Array:
    """Hessian of `mean_squared_error` with respect to the predictions, times a vector: `2/N u`.

    Args:
      predictions: `[N]` or `[N, K]`; the Hessian does not depend on them.
      vector: u, the shape of `predictions`.
      targets: as the loss takes them.

    Returns:
      The shape of `predictions`.
    """
    del targets
    return (2 / len(predictions)) * vector


def hvp_half_mean_squared_error(predictions: jax.Array, vector: jax.Array, targets: jax.Array) -> jax.Array:
    """Hessian of `half_mean_squared_error` with respect to the predictions, times a vector: `1/N u`.

    Args:
      predictions: `[N]` or `[N, K]`; the Hessian does not depend on them.
      vector: u, the shape of `predictions`.
      targets: as the loss takes them.

    Returns:
      The shape of `predictions`.
    """
    del targets
    return vector / len(predictions)


def hvp_sum_sigmoid_cross_entropy(logits: jax.Array, vector: jax.Array, labels: jax.Array) -> jax.Array:
    """Hessian of `sum_sigmoid_cross_entropy` with respect to the logits, times a vector: `p (1 - p) u`.

    `d/dz (sigma(z) - y) = sigma'(z) = p (1 - p)`, which is computed as `e / (1 + e)^2` with `e = exp(-|z|)`. This form
    is accurate even if p rounds to 1. The largest value is 1/4, at z = 0.

    Args:
      logits: z, `[N]` or `[N, K]`.
      vector: u, the shape of `logits`.
      labels: as the loss takes them.

    Returns:
      The shape of `logits`.
    """
    del labels
    decay = jnp.exp(-jnp.abs(logits))
    return decay / jnp.square(1 + decay) * vector


def hvp_mean_sigmoid_cross_entropy(logits: jax.Array, vector: jax.Array, labels: jax.Array) -> jax.Array:
    """Hessian of `mean_sigmoid_cross_entropy` with respect to the logits, times a vector: `1/N p (1 - p) u`.

    Args:
      logits: z, `[N]` or `[N, K]`.
      vector: u, the shape of `logits`.
      labels: as the loss takes them.

    Returns:
      The shape of `logits`.
    """
    return hvp_sum_sigmoid_cross_entropy(logits, vector, labels) / len(logits)


def hvp_mean_softmax_cross_entropy(logits: jax.Array, vector: jax.Array, labels: jax.Array) -> jax.Array:
    """Hessian of `mean_softmax_cross_entropy` with respect to the logits, times a vector.

    In each row this is `1/N (P * u - P (P . u))`.

    `dP_k/dz_j = P_k ([j = k] - P_j)`, so row i of the Hessian is `diag(P) - P P^T`. Its eigenvalues lie in [0, 1/2]:
    `diag(P) - P P^T <= 1/2 (I - 1 1^T / K)` (Boehning 1992, Annals of the Institute of Statistical Mathematics 44,
    197-200), and 1/2 is reached by two classes of probability 1/2.

    Args:
      logits: z, `[N, K]`.
      vector: u, `[N, K]`.
      labels: as the loss takes them.

    Returns:
      `[N, K]`.
    """
    del labels
    probabilities = jax.nn.softmax(logits)
    along = jnp.sum(probabilities * vector, axis=1, keepdims=True)  # P . u
    return probabilities * (vector - along) / len(logits)


class LossCurvature(NamedTuple):
    """The second derivative of a loss by the predictions.

    Attributes:
      hvp: `(predictions, vector, targets) -> ` the Hessian times the vector, the shape of the predictions.
      low: the smallest eigenvalue over all predictions, for one row, without the factor 1/N of a mean.
      high: the largest eigenvalue, likewise.
    """

    hvp: Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
    low: float
    high: float


LOSS_CURVATURES = {
    "sum_squared_error": LossCurvature(hvp_sum_squared_error, 2.0, 2.0),
    "half_sum_squared_error": LossCurvature(hvp_half_sum_squared_error, 1.0, 1.0),
    "mean_squared_error": LossCurvature(hvp_mean_squared_error, 2.0, 2.0),
    "half_mean_squared_error": LossCurvature(hvp_half_mean_squared_error, 1.0, 1.0),
    "sum_sigmoid_cross_entropy": LossCurvature(hvp_sum_sigmoid_cross_entropy, 0.0, 0.25),
    "mean_sigmoid_cross_entropy": LossCurvature(hvp_mean_sigmoid_cross_entropy, 0.0, 0.25),
    "mean_softmax_cross_entropy": LossCurvature(hvp_mean_softmax_cross_entropy, 0.0, 0.5),
}
"""The second derivative of every loss, by the name of the loss."""
