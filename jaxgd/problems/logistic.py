"""Logistic and softmax regression: mean cross-entropies on logits."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from jaxgd.penalty import penalisable
from jaxgd.problems.interface import accepting
from jaxgd.problems.linear import affine_model, affine_second_order, call_name
from jaxgd.problems.losses import SIGMOID_CROSS_ENTROPIES, SOFTMAX_CROSS_ENTROPIES
from jaxgd.types import Batch, Formulas, Problem, RowSum, System, num_rows
from jaxgd.validation import check_choice, check_count, check_label_values, check_nonnegative, check_probability_values


def logistic_regression(
    *, loss: str = "mean_sigmoid_cross_entropy", l2: float = 0.0, fit_intercept: bool = True
) -> Problem:
    """`p = sigma(x . w + b)` under the mean cross-entropy, computed on the logits.

    Gradient, by hand. With `z_i = x_i . w + b`, `p_i = sigma(z_i)` and
    `L = -1/N sum_i (y_i log p_i + (1 - y_i) log(1 - p_i))`:

        dL/dp_i = 1/N (p_i - y_i) / (p_i (1 - p_i)),   dp_i/dz_i = p_i (1 - p_i)
        dL/dz_i = (p_i - y_i) / N                                                    [N]
        dL/dw   = sum_i dL/dz_i x_i + l2 w = X^T (p - y) / N + l2 w                  [D]
        dL/db   = sum_i dL/dz_i            = mean(p - y)                             []

    Along (v, v_b) the logits change by `u_i = x_i . v + v_b` and p_i changes by `p_i (1 - p_i) u_i`, so the Hessian
    maps (v, v_b) to `(X^T (p (1 - p) u) / N + l2 v, mean(p (1 - p) u))`. Since `0 < p (1 - p) <= 1/4`, the Hessian lies
    between `l2 P` and `1/(4N) A^T A + l2 P`, with `A = [X, 1]` and P the identity on the weights. So the loss is
    convex. Its curvature along the bias, which is not penalised, has no positive lower bound.

    The factor p (1 - p) cancels in dL/dz. (In `sigmoid_neuron` it remains, and makes the gradient vanish near p = 0 and
    p = 1.) No closed form is known. If a hyperplane separates the classes, the loss without a penalty has no minimiser.

    Args:
      loss: "mean_sigmoid_cross_entropy", or "sum_sigmoid_cross_entropy" without the 1/N.
      l2: lambda of the penalty `1/2 lambda |w|^2`; the bias is not penalised. scikit-learn's C is `1 / (lambda N)`.
      fit_intercept: False for `p = sigma(x . w)`, whose parameters are only the weights. The curvature is then at least
        lambda.

    Returns:
      The problem; parameters are `LinearParams`, or `WeightsParams` without an intercept. Inputs `[N, D]`, targets
      `[N]`: labels 0 and 1 (integers, bool or floating), or probabilities of label 1 in [0, 1], for which the gradient
      is the same formula.

    Raises:
      ValueError: an unknown loss, or an l2 that is negative or not finite.
      TypeError: `l2` is not a number, or `fit_intercept` not a bool.
    """
    check_choice("loss", loss, SIGMOID_CROSS_ENTROPIES)
    affine_model(fit_intercept)
    return _cross_entropy_regression(loss, None, check_nonnegative("l2", l2), fit_intercept)


def softmax_regression(num_classes: int, *, l2: float = 0.0) -> Problem:
    """`P = softmax(x W + b)` under the mean cross-entropy, computed on the logits.

    Gradient, by hand. With `z = x W + b` and `L = 1/N sum_i (log sum_k exp z_ik - z_i,y_i)`:

        dL/dz_ik = 1/N (P_ik - [k = y_i])                                     [N, K]
        dL/dW    = X^T dL/dz + l2 W = X^T (P - onehot(y)) / N + l2 W          [D, K]
        dL/db    = sum_i dL/dz_i    = mean of P - onehot(y)                   [K]

    Along (V, v) the logits change by `U = X V + v`, and row i of P changes by `P_i * U_i - P_i (P_i . U_i)`. Let R be
    the matrix of these rows divided by N. The Hessian maps (V, v) to `(X^T R + l2 V, sum_i R_i)`. With `A = [X, 1]` and
    Q the identity on W and 0 on b, the Hessian lies between `l2 Q` and `1/(2N) A^T A + l2 Q` in each column (Boehning
    1992).

    Adding the same vector to every column of W changes no probability, so without a penalty the minimiser is not
    unique. If hyperplanes separate the classes, no minimiser exists without a penalty.

    Args:
      num_classes: K, at least 2.
      l2: lambda of the penalty `1/2 lambda |W|^2`; the bias is not penalised.

    Returns:
      The problem; parameters are `LinearParams`, weights `[D, K]`. Inputs `[N, D]`, targets `[N]` integers
      in [0, K).

    Raises:
      ValueError: fewer than 2 classes, or an l2 that is negative or not finite.
      TypeError: `num_classes` is not an integer, or `l2` not a number.
    """
    num_classes = check_count("num_classes", num_classes, minimum=2)
    return _cross_entropy_regression("mean_softmax_cross_entropy", num_classes, check_nonnegative("l2", l2), True)


@functools.cache
def _cross_entropy_regression(loss_name: str, num_classes: int | None, l2: float, fit_intercept: bool) -> Problem:
    """Both regressions: they differ in the shape of the logits and in the cross-entropy of these."""
    model = affine_model(fit_intercept)
    output_shape: tuple[int, ...] = () if num_classes is None else (num_classes,)
    if num_classes is None:
        entropy = SIGMOID_CROSS_ENTROPIES[loss_name]
        name = call_name(
            "logistic_regression", loss=(loss_name, "mean_sigmoid_cross_entropy"), fit_intercept=(fit_intercept, True)
        )
        call = functools.partial(logistic_regression, loss=loss_name, l2=l2, fit_intercept=fit_intercept)
        prediction, residual = "p = sigma(x . w + b)" if fit_intercept else "p = sigma(x . w)", "(p - y)"
    else:
        entropy = SOFTMAX_CROSS_ENTROPIES[loss_name]
        name = call_name("softmax_regression", num_classes)
        call = functools.partial(softmax_regression, num_classes, l2=l2)
        prediction, residual = "P = softmax(x W + b)", "(P - onehot)"

    def init(key: jax.Array, batch: Batch) -> Any:
        return model.init(key, batch.inputs, output_shape)

    def loss(params: Any, batch: Batch) -> jax.Array:
        return entropy.value(model.predict(params, batch.inputs), batch.targets)

    def grad(params: Any, batch: Batch) -> Any:
        return model.grad(batch.inputs, entropy.grad(model.predict(params, batch.inputs), batch.targets))

    def predict(params: Any, inputs: jax.Array) -> jax.Array:
        """Probabilities: `[N]` of label 1, or `[N, K]`."""
        logits = model.predict(params, inputs)
        return jax.nn.sigmoid(logits) if num_classes is None else jax.nn.softmax(logits)

    def check_batch(batch: Batch) -> None:
        if num_classes is None and jnp.issubdtype(batch.targets.dtype, jnp.floating):
            check_probability_values("targets", batch.targets)
        else:
            check_label_values("targets", batch.targets, num_classes or 2)

    problem = Problem(
        name=name,
        loss=loss,
        grad=grad,
        reduction=entropy.reduction,
        row_sum=RowSum(num_rows),
        second_order=affine_second_order(loss_name, fit_intercept),
        system=System(
            init=init,
            predict=predict,
            check_batch=check_batch,
            formulas=Formulas(
                prediction,
                entropy.formula,
                f"dW = {entropy.factor}X^T {residual}"
                + (f", db = {entropy.factor}sum {residual}" if fit_intercept else ""),
            ),
        ),
    )
    problem = accepting(problem, model.params_type, targets="probabilities" if num_classes is None else "labels")
    return penalisable(problem, l2, call=call)
