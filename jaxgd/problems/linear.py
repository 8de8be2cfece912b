"""Linear systems under squared errors: y = M x + b, X W + b, and the line phi0 + phi1 x."""

import functools
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgd.penalty import penalisable
from jaxgd.problems.curvature import LOSS_CURVATURES, hvp_sum_squared_error
from jaxgd.problems.interface import accepting
from jaxgd.problems.losses import (
    SQUARED_ERRORS,
    grad_sum_squared_error,
    sum_squared_error,
)
from jaxgd.theory.closed_form import SQUARED_ERROR_SCALES, least_squares
from jaxgd.types import (
    Batch,
    Formulas,
    LinearForm,
    LinearMapParams,
    LinearParams,
    LineParams,
    Params,
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
    check_floating,
    check_nonnegative,
    check_rank,
    check_same_tree,
    check_shape,
)


def affine(params: LinearParams, inputs: jax.Array) -> jax.Array:
    """`X W + b`, the predictor that the regressions share.

    Args:
      params: weights `[D]` or `[D, K]`, bias `[]` or `[K]`.
      inputs: `[N, D]`, floating.

    Returns:
      `[N]` or `[N, K]`.

    Raises:
      ValueError: the inputs are not `[N, D]` for the D of the weights.
      TypeError: the inputs are not floating.
    """
    check_floating("inputs", inputs)
    check_rank("inputs", inputs, (2,), "[N, D]")
    check_shape("inputs", inputs, (inputs.shape[0], params.weights.shape[0]), "[N, D] for the D of the weights")
    return inputs @ params.weights + jnp.expand_dims(params.bias, 0)


def grad_affine(inputs: jax.Array, by_predictions: jax.Array) -> LinearParams:
    """Gradient with respect to the parameters of `affine`, from the derivative with respect to its predictions.

    With `f_ik = sum_d x_id W_dk + b_k` and `delta_ik = dL/df_ik`:

        dL/dW_dk = sum_i delta_ik df_ik/dW_dk = sum_i x_id delta_ik = (X^T delta)_dk    [D, K]
        dL/db_k  = sum_i delta_ik df_ik/db_k  = sum_i delta_ik                          [K]

    Args:
      inputs: `[N, D]`.
      by_predictions: delta, `[N]` or `[N, K]`.

    Returns:
      weights `[D]` or `[D, K]`, bias `[]` or `[K]`.
    """
    # X^T delta as (delta^T X)^T: this reads the rows of X in the order in which they are stored.
    return LinearParams(weights=(by_predictions.T @ inputs).T, bias=jnp.sum(by_predictions, axis=0))


class AffineModel(NamedTuple):
    """A linear model with or without an intercept, as functions of its parameters.

    Attributes:
      params_type: the type of its parameters.
      predict: `(params, inputs) -> predictions`.
      grad: `(inputs, derivative by the predictions) -> ` the gradient with respect to the parameters.
      init: `(key, inputs, output_shape) -> params`.
    """

    params_type: Any
    predict: Callable[[Any, jax.Array], jax.Array]
    grad: Callable[[jax.Array, jax.Array], Any]
    init: Callable[[jax.Array, jax.Array, tuple[int, ...]], Any]


def _linear(params: WeightsParams, inputs: jax.Array) -> jax.Array:
    """`X W`."""
    return affine(LinearParams(params.weights, jnp.zeros(params.weights.shape[1:], params.weights.dtype)), inputs)


def affine_model(fit_intercept: bool) -> AffineModel:
    """The model `X W + b`, or `X W` without an intercept. Without an intercept dL/dW has the same formula.

    Args:
      fit_intercept: whether the model has the parameter b.

    Returns:
      The functions of the model.

    Raises:
      TypeError: `fit_intercept` is not a bool.
    """
    if not isinstance(fit_intercept, bool):
        raise TypeError(f"`fit_intercept` must be True or False, got {fit_intercept!r}.")
    if fit_intercept:
        return AffineModel(LinearParams, affine, grad_affine, init_affine)
    return AffineModel(
        WeightsParams,
        _linear,
        lambda inputs, by_predictions: WeightsParams(grad_affine(inputs, by_predictions).weights),
        lambda key, inputs, output_shape: WeightsParams(init_affine(key, inputs, output_shape).weights),
    )


def affine_second_order(loss_name: str, fit_intercept: bool = True) -> SecondOrder:
    """Hessian-vector product and curvature bounds of a loss of an affine model.

    By hand: along V the predictions change by `U = X V_W + V_b`. With the Hessian C of the loss with respect to the
    predictions, the derivative of the loss with respect to the predictions changes by `R = C U`. `grad_affine` is
    linear in that derivative, so `H V = grad_affine(X, R)`. The curvature of every row is that of the loss.

    Args:
      loss_name: a key of `LOSS_CURVATURES`.
      fit_intercept: whether the model has a bias.

    Returns:
      The Hessian-vector product, and the bounds on the curvature of every row.
    """
    curvature, model = LOSS_CURVATURES[loss_name], affine_model(fit_intercept)

    def hvp(params: Any, vector: Any, batch: Batch) -> Any:
        check_same_tree("`vector`", vector, "`params`", params)
        predictions, moves = model.predict(params, batch.inputs), model.predict(vector, batch.inputs)
        return model.grad(batch.inputs, curvature.hvp(predictions, moves, batch.targets))

    return SecondOrder(hvp, RowCurvature(lambda batch: batch.inputs, curvature.low, curvature.high, fit_intercept))


def init_affine(key: jax.Array, inputs: jax.Array, output_shape: tuple[int, ...]) -> LinearParams:
    """Weights drawn from N(0, 1/D), biases of zero.

    Args:
      key: consumed.
      inputs: `[N, D]`, floating; D and the dtype are taken from it.
      output_shape: `()` or `(K,)`.

    Returns:
      weights `[D, *output_shape]`, bias `output_shape`.

    Raises:
      ValueError: the inputs are not `[N, D]`.
      TypeError: the inputs are not floating.
    """
    check_floating("inputs", inputs)
    check_rank("inputs", inputs, (2,), "[N, D]")
    num_inputs = inputs.shape[1]
    weights = jax.random.normal(key, (num_inputs, *output_shape), inputs.dtype)
    return LinearParams(
        weights / np.sqrt(max(num_inputs, 1)).astype(inputs.dtype), jnp.zeros(output_shape, inputs.dtype)
    )


def jacobian_loss_outputs(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """`dL/dy` of `L = sum_k (g_k - y_k)^2`: `-2 (g - y)`.

    Args:
      outputs: y, `[K]` or `[N, K]`.
      targets: g, the same shape.

    Returns:
      The shape of `outputs`.

    Raises:
      ValueError: the shapes differ.
      TypeError: the targets are not floating.
    """
    return grad_sum_squared_error(outputs, targets)


def jacobian_outputs_bias(params: LinearMapParams) -> jax.Array:
    """`dy/db` of `y = M x + b`: `dy_i/db_j = [i = j]`, the identity.

    Args:
      params: matrix `[K, D]`, bias `[K]`.

    Returns:
      `[K, K]`.
    """
    return jnp.eye(params.bias.shape[0], dtype=params.bias.dtype)


def jacobian_outputs_matrix(params: LinearMapParams, inputs: jax.Array) -> jax.Array:
    """`dy/dM` of `y = M x + b`, a 3-tensor: `dy_i/dM_jk = [i = j] x_k`.

    The contraction with dL/dy is an outer product, `dL/dM_jk = sum_i dL/dy_i [i = j] x_k = dL/dy_j x_k`, so a gradient
    can be computed without forming this tensor.

    Args:
      params: matrix `[K, D]`, bias `[K]`.
      inputs: one x, `[D]`.

    Returns:
      `[K, K, D]`.

    Raises:
      ValueError: `inputs` is not `[D]`.
    """
    num_outputs, num_inputs = params.matrix.shape
    check_shape("inputs", inputs, (num_inputs,), "one x, [D] for the D of the matrix")
    return jnp.einsum("ij,k->ijk", jnp.eye(num_outputs, dtype=inputs.dtype), inputs)


@functools.cache
def linear_map() -> Problem:
    """`y = M x + b` under the sum of squared errors, `L = sum_i (g_i - y_i)^2`.

    Gradient, by hand, through the Jacobians above:

        dL/dy = -2 (g - y)                                        [K]
        dL/db = dL/dy dy/db = dL/dy I = -2 (g - y)                [K]
        dL/dM = dL/dy dy/dM = outer(dL/dy, x) = -2 (g - y) x^T    [K, D]

    For a batch the gradient is the sum of these over the rows. Along (V, v) the outputs change by `u = V x + v`, and
    dL/dy changes by 2 u. So the Hessian maps (V, v) to `(2 u x^T, 2 u)`, which is the same at all parameters. With one
    row, a step multiplies the residual by `1 - 2 eta (|x|^2 + 1)`. With one row the minimiser is not unique; the
    minimiser of least norm is `M = g x^T / (|x|^2 + 1)`, `b = g / (|x|^2 + 1)`.

    Returns:
      The problem; parameters are `LinearMapParams`. Inputs `[D]` with targets `[K]`, or `[N, D]` with
      `[N, K]`.
    """

    def init(key: jax.Array, batch: Batch) -> LinearMapParams:
        check_rank("inputs", batch.inputs, (1, 2), "[D] or [N, D]")
        check_rank("targets", batch.targets, (batch.inputs.ndim,), "[K] or [N, K], as the inputs")
        params = init_affine(key, jnp.atleast_2d(batch.inputs), batch.targets.shape[-1:])
        return LinearMapParams(matrix=params.weights.T, bias=params.bias)

    def predict(params: LinearMapParams, inputs: jax.Array) -> jax.Array:
        check_floating("inputs", inputs)
        check_rank("inputs", inputs, (1, 2), "[D] or [N, D]")
        shape = (*inputs.shape[:-1], params.matrix.shape[1])
        check_shape("inputs", inputs, shape, "the last axis is the D of the matrix")
        bias = params.bias if inputs.ndim == 1 else jnp.expand_dims(params.bias, 0)
        return inputs @ params.matrix.T + bias

    def loss(params: LinearMapParams, batch: Batch) -> jax.Array:
        return sum_squared_error(predict(params, batch.inputs), batch.targets)

    def grad(params: LinearMapParams, batch: Batch) -> LinearMapParams:
        outputs = predict(params, batch.inputs)
        by_outputs = jnp.atleast_2d(jacobian_loss_outputs(outputs, batch.targets))  # [N, K]
        return LinearMapParams(matrix=by_outputs.T @ jnp.atleast_2d(batch.inputs), bias=jnp.sum(by_outputs, axis=0))

    def hvp(params: LinearMapParams, vector: LinearMapParams, batch: Batch) -> LinearMapParams:
        check_same_tree("`vector`", vector, "`params`", params)
        moves = predict(vector, batch.inputs)
        moves = jnp.atleast_2d(hvp_sum_squared_error(moves, moves, batch.targets))  # [N, K]
        return LinearMapParams(matrix=moves.T @ jnp.atleast_2d(batch.inputs), bias=jnp.sum(moves, axis=0))

    form = LinearForm(
        rows=lambda batch: (
            (batch.inputs, batch.targets) if batch.inputs.ndim == 2 else (batch.inputs[None], batch.targets[None])
        ),
        join=lambda params: jnp.concatenate([params.matrix.T, params.bias[None]]),
        split=lambda joined: LinearMapParams(matrix=joined[:-1].T, bias=joined[-1]),
        scale=SQUARED_ERROR_SCALES["sum_squared_error"],
    )
    problem = Problem(
        name="linear_map",
        loss=loss,
        grad=grad,
        reduction="sum",
        second_order=SecondOrder(hvp, RowCurvature(lambda batch: form.rows(batch)[0], 2.0, 2.0)),
        row_sum=RowSum(lambda batch: batch.inputs.shape[0] if batch.inputs.ndim == 2 else 1, form),
        system=System(
            init=init,
            predict=predict,
            minimizer=functools.partial(_minimizer, form, 0.0, True),
            formulas=Formulas("y = M x + b", "sum (g - y)^2", "dM = -2 (g - y) x^T, db = -2 (g - y)"),
            call=linear_map,
        ),
    )
    return accepting(problem, LinearMapParams, targets="real")


@functools.cache
def line() -> Problem:
    """The line `f = phi0 + phi1 x` under the sum of squared errors.

    Gradient, by hand. With residuals `r_i = phi0 + phi1 x_i - y_i` and `L = sum_i r_i^2`:

        dL/dphi0 = sum_i 2 r_i dr_i/dphi0 = sum_i 2 r_i          []
        dL/dphi1 = sum_i 2 r_i dr_i/dphi1 = sum_i 2 x_i r_i      []

    Both vanish at the minimiser `(X^T X)^-1 X^T y` with the columns 1 and x in X. Along (v0, v1) the residuals change
    by `u_i = v0 + v1 x_i`, so the Hessian maps (v0, v1) to `(sum_i 2 u_i, sum_i 2 x_i u_i)`.
    Source: Prince, Understanding Deep Learning, equations 2.5 and 6.7.

    Returns:
      The problem; parameters are `LineParams`. Inputs `[N]` or `[N, 1]`, targets `[N]`.
    """

    def column(inputs: jax.Array) -> jax.Array:
        check_floating("inputs", inputs)
        if inputs.ndim == 2:
            check_shape("inputs", inputs, (inputs.shape[0], 1), "a line has one input")
        else:
            check_rank("inputs", inputs, (1,), "[N] or [N, 1]")
        return inputs.reshape(-1)

    def init(key: jax.Array, batch: Batch) -> LineParams:
        intercept, slope = jax.random.normal(key, (2,), column(batch.inputs).dtype)
        return LineParams(intercept, slope)

    def predict(params: LineParams, inputs: jax.Array) -> jax.Array:
        return params.intercept + params.slope * column(inputs)

    def loss(params: LineParams, batch: Batch) -> jax.Array:
        return sum_squared_error(predict(params, batch.inputs), batch.targets)

    def grad(params: LineParams, batch: Batch) -> LineParams:
        by_predictions = grad_sum_squared_error(predict(params, batch.inputs), batch.targets)  # [N]
        return LineParams(intercept=jnp.sum(by_predictions), slope=jnp.sum(by_predictions * column(batch.inputs)))

    def hvp(params: LineParams, vector: LineParams, batch: Batch) -> LineParams:
        check_same_tree("`vector`", vector, "`params`", params)
        moves = predict(vector, batch.inputs)
        moves = hvp_sum_squared_error(moves, moves, batch.targets)
        return LineParams(intercept=jnp.sum(moves), slope=jnp.sum(moves * column(batch.inputs)))

    form = LinearForm(
        rows=lambda batch: (batch.inputs.reshape(-1, 1), batch.targets),
        join=lambda params: jnp.stack([params.slope, params.intercept]),
        split=lambda joined: LineParams(intercept=joined[1], slope=joined[0]),
        scale=SQUARED_ERROR_SCALES["sum_squared_error"],
    )
    problem = Problem(
        name="line",
        loss=loss,
        grad=grad,
        reduction="sum",
        row_sum=RowSum(num_rows, form),
        second_order=SecondOrder(hvp, RowCurvature(lambda batch: form.rows(batch)[0], 2.0, 2.0)),
        system=System(
            init=init,
            predict=predict,
            minimizer=functools.partial(_minimizer, form, 0.0, True),
            formulas=Formulas("f = phi0 + phi1 x", "sum r^2", "(sum 2r, sum 2 x r)"),
            call=line,
        ),
    )
    return accepting(problem, LineParams, targets="real")


def linear_regression(*, loss: str = "mean_squared_error", l2: float = 0.0, fit_intercept: bool = True) -> Problem:
    """`f = X W + b` under a squared error, with an optional penalty on the weights.

    Gradient, by hand. With residuals `r = X W + b - y` and the mean squared error `L = 1/N sum_i |r_i|^2`:

        dL/df = 2/N r                                             [N, K]
        dL/dW = X^T dL/df + l2 W = 2/N X^T r + l2 W               [D, K]
        dL/db = sum_i dL/df_i    = mean of 2 r                    [K]

    For the other losses the factor 2/N is replaced: by 2 for the sum of squared errors, by 1/N for half the mean, and
    by 1 for half the sum.

    Along (V, v) the predictions change by `U = X V + v`, so the Hessian maps (V, v) to
    `(2/N X^T U + l2 V, mean of 2 U)`. For each column of W the Hessian is `2/N A^T A + l2 P`, with `A = [X, 1]` and P
    the identity on the weights. It is the same at all parameters.

    Args:
      loss: "mean_squared_error", "half_mean_squared_error", "sum_squared_error" or "half_sum_squared_error".
      l2: lambda of the penalty `1/2 lambda |W|^2`; the bias is not penalised.
      fit_intercept: False for `f = X W`, whose parameters are only the weights.

    Returns:
      The problem; parameters are `LinearParams`, or `WeightsParams` without an intercept. Inputs `[N, D]`, targets
      `[N]` or `[N, K]`.

    Raises:
      ValueError: an unknown loss, or an l2 that is negative or not finite.
      TypeError: `l2` is not a number, or `fit_intercept` not a bool.
    """
    check_choice("loss", loss, SQUARED_ERRORS)
    affine_model(fit_intercept)
    return _linear_regression(loss, check_nonnegative("l2", l2), fit_intercept)


@functools.cache
def _linear_regression(loss_name: str, l2: float, fit_intercept: bool) -> Problem:
    error, model = SQUARED_ERRORS[loss_name], affine_model(fit_intercept)

    def init(key: jax.Array, batch: Batch) -> Any:
        check_rank("targets", batch.targets, (1, 2), "[N] or [N, K]")
        return model.init(key, batch.inputs, batch.targets.shape[1:])

    def loss(params: Any, batch: Batch) -> jax.Array:
        return error.value(model.predict(params, batch.inputs), batch.targets)

    def grad(params: Any, batch: Batch) -> Any:
        return model.grad(batch.inputs, error.grad(model.predict(params, batch.inputs), batch.targets))

    form = LinearForm(
        rows=lambda batch: (batch.inputs, batch.targets),
        join=lambda params: jnp.concatenate([params.weights, params.bias[None]]),
        split=lambda joined: LinearParams(weights=joined[:-1], bias=joined[-1]),
        scale=SQUARED_ERROR_SCALES[loss_name],
    )
    problem = Problem(
        name=call_name(
            "linear_regression", loss=(loss_name, "mean_squared_error"), fit_intercept=(fit_intercept, True)
        ),
        loss=loss,
        grad=grad,
        reduction=error.reduction,
        second_order=affine_second_order(loss_name, fit_intercept),
        row_sum=RowSum(num_rows, form if fit_intercept else None),
        system=System(
            init=init,
            predict=model.predict,
            minimizer=functools.partial(_minimizer, form, l2, fit_intercept),
            formulas=Formulas("f = X W + b", error.formula, f"dW = {error.factor}X^T r, db = {error.factor}sum r")
            if fit_intercept
            else Formulas("f = X W", error.formula, f"dW = {error.factor}X^T r"),
        ),
    )
    problem = accepting(problem, model.params_type, targets="real")
    call = functools.partial(linear_regression, loss=loss_name, l2=l2, fit_intercept=fit_intercept)
    return penalisable(problem, l2, minimizer=problem.minimizer, call=call)


def call_name(function: str, /, *positional: object, **options: tuple[object, object]) -> str:
    """The name of a problem: the call that builds it, without arguments that have their default value.

    Args:
      function: the name of the function.
      *positional: its positional arguments.
      **options: for each keyword the value and the default.

    Returns:
      A call such as `linear_regression(l2=0.1)`, or `linear_regression` if every value is the default.
    """
    shown = [repr(value) for value in positional]
    shown += [f"{name}={value!r}" for name, (value, default) in options.items() if value != default]
    return f"{function}({', '.join(shown)})" if shown else function


def _minimizer(form: LinearForm, l2: float, fit_intercept: bool, batch: Batch) -> Params:
    inputs, targets = form.rows(batch)
    penalty = l2 / (2 * form.scale(len(inputs)))
    solution = least_squares(inputs, targets, penalty=penalty, fit_intercept=fit_intercept)
    if not solution.full_rank:
        warnings.warn(
            f"the minimiser is not unique: {'[X, 1]' if fit_intercept else 'X'} has rank {solution.rank} of "
            f"{solution.num_columns} columns; "
            "this is the one of least norm",
            stacklevel=3,
        )
    if not fit_intercept:
        return WeightsParams(jnp.asarray(solution.weights, jnp.result_type(batch.inputs)))
    joined = np.concatenate([solution.weights, np.asarray(solution.bias)[None]])
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.result_type(batch.inputs)), form.split(joined))
