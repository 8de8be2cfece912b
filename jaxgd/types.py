"""Batches, parameters and problems: the types that all other modules use."""

import functools
import operator
from collections.abc import Callable, Hashable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

Params = Any
"""A tree of floating arrays; the systems of this package use NamedTuples."""

Leaf = Any
"""A `jax.Array` in a run; a NumPy array in closed forms, which are computed in float64."""

Reduction = Literal["mean", "sum"]
"""How a loss adds up over the rows of a batch."""

LossFn = Callable[..., jax.Array]
"""`(params, batch) -> []`."""

GradFn = Callable[..., Params]
"""`(params, batch) -> a tree like params`."""


class Batch(NamedTuple):
    """Rows of data.

    Attributes:
      inputs: `[N, D]` floating; `[N]` for the systems with one input.
      targets: `[N]` or `[N, K]` floating, or `[N]` integer labels.
    """

    inputs: jax.Array
    targets: jax.Array


class ScalarParams(NamedTuple):
    """The one parameter of a function of one variable.

    Attributes:
      x: `[]`.
    """

    x: Leaf


class LinearParams(NamedTuple):
    """Parameters of `x W + b`.

    Attributes:
      weights: `[D]` for targets `[N]`, `[D, K]` for targets `[N, K]`, `[]` for inputs `[N]`.
      bias: `[]` or `[K]`.
    """

    weights: Leaf
    bias: Leaf


class WeightsParams(NamedTuple):
    """Parameters of `x W`: a linear model without an intercept, or a layer whose bias is a constant.

    Attributes:
      weights: `[D]` for targets `[N]`, `[D, K]` for targets `[N, K]`.
    """

    weights: Leaf


class LinearMapParams(NamedTuple):
    """Parameters of `y = M x + b`.

    Attributes:
      matrix: `[K, D]`, the M of the formula.
      bias: `[K]`.
    """

    matrix: Leaf
    bias: Leaf


class LineParams(NamedTuple):
    """Parameters of the line `phi0 + phi1 x`.

    Attributes:
      intercept: `[]`, phi0, in units of the targets.
      slope: `[]`, phi1, in units of the targets over those of the inputs.
    """

    intercept: Leaf
    slope: Leaf


class Formulas(NamedTuple):
    """The formulas of a problem as text, one line each.

    Attributes:
      model: the prediction.
      loss: what is minimised.
      gradient: its derivative, by hand.
    """

    model: str
    loss: str
    gradient: str


class LinearForm(NamedTuple):
    """A squared error of a linear model as matrices: the loss is `scale(N) |[X, 1] Theta - Y|^2`.

    Attributes:
      rows: batch -> X `[N, D]` and Y `[N]` or `[N, K]`, arrays as they are.
      join: params -> Theta, `[D + 1]` or `[D + 1, K]`, the bias in the last row.
      split: Theta, or a gradient with respect to Theta -> a tree like the parameters.
      scale: N -> the factor of the sum of squares in the loss.
    """

    rows: Callable[[Batch], tuple[Any, Any]]
    join: Callable[[Params], Any]
    split: Callable[[Any], Params]
    scale: Callable[[int], float]


class RowSum(NamedTuple):
    """How a loss adds up over rows, so that it can be evaluated in parts.

    Attributes:
      num_rows: batch -> N, the number of rows over which the loss is a mean or a sum.
      linear_form: the loss as matrices, for a squared error of a linear model; None for every other problem.
    """

    num_rows: Callable[[Any], int]
    linear_form: LinearForm | None = None


class Penalty(NamedTuple):
    """The penalty `1/2 l2 |W|^2` on the weights of a problem.

    Attributes:
      l2: its coefficient.
      with_l2: l2 -> the same problem with this coefficient, which may be traced.
    """

    l2: Any
    with_l2: Callable[[Any], "Problem"]


class RowCurvature(NamedTuple):
    """Bounds on the second derivative of the loss of one row with respect to its prediction `a_i . theta`.

    Let A be the matrix with the rows `a_i = (x_i, 1)`, and P the diagonal matrix with 1 for each weight and 0 for the
    bias. The Hessian of a mean over N rows lies between `low/N A^T A + l2 P` and `high/N A^T A + l2 P` at all
    parameters. For a sum over rows the factor 1/N is absent. If `low` equals `high`, the loss is quadratic. If `low` is
    at least 0, the loss is convex.

    Attributes:
      design: batch -> X `[N, D]`.
      low: the smallest second derivative over all predictions and all allowed targets.
      high: the largest second derivative over all predictions and all allowed targets.
      intercept: whether the model has an intercept, so that A has a column of ones.
    """

    design: Callable[[Any], Any]
    low: float
    high: float
    intercept: bool = True


class SecondOrder(NamedTuple):
    """What is known about the second derivatives of a loss.

    Attributes:
      hvp: `(params, vector, batch) -> H v`, a tree like params, derived by hand.
      rows: bounds on the curvature of every row; None if no bounds are known.
      bounds: batch -> (mu, L) with `mu |v|^2 <= v . H v <= L |v|^2` at all parameters, for a loss without `rows`;
        None if no such bounds are known.
      constant: whether the Hessian is the same at all parameters, so that the loss is quadratic.
      unbounded: the reason why no bound holds at all parameters, for reports; empty if a bound is known.
    """

    hvp: Callable[[Params, Params, Any], Params]
    rows: RowCurvature | None = None
    bounds: Callable[[Any], tuple[Any, Any]] | None = None
    constant: bool = False
    unbounded: str = ""


def _as_given(value: Any) -> Any:
    return value


def _like_typed(given: Params, typed: Params) -> Params:
    del given
    return typed


class Accepts(NamedTuple):
    """Conversions from the forms in which users give parameters and data (dicts, tuples, lists, frames).

    Attributes:
      params: parameters in any accepted form -> parameters of the problem's type.
      like: (parameters in any accepted form, a tree of the problem's type) -> the tree in the form of the parameters.
      batch: data in any accepted form -> arrays; data on the host stay NumPy arrays.
    """

    params: Callable[[Any], Params] = _as_given
    like: Callable[[Any, Params], Any] = _like_typed
    batch: Callable[[Any], Any] = _as_given

    def arguments(self, params: Any, batch: Any) -> tuple[Params, Any]:
        """Convert both arguments of a loss.

        Args:
          params: parameters in any accepted form.
          batch: data in any accepted form.

        Returns:
          Parameters of the problem's type, and arrays.
        """
        return self.params(params), self.batch(batch)


class System(NamedTuple):
    """The optional fields of a problem: starting point, predictions, closed form, accepted data.

    Attributes:
      init: `(key, batch) -> params`; shapes and dtypes come from the batch, the key is consumed.
      predict: `(params, inputs) -> predictions`, or None.
      minimizer: `(batch) -> params` on the host, or None if no closed form is known.
      check_batch: `(batch) -> None` on the host; raises a ValueError that names the row if a value is outside the
        problem's domain. None if every finite batch is allowed.
      formulas: the formulas of the problem as text, for tables.
      accepts: conversions of parameters and data that the functions apply; by default none.
      call: a function without arguments that builds the problem again, for `pickle`. None pickles the functions
        themselves, which must then be at module level.
    """

    init: Callable[[jax.Array, Any], Params] | None = None
    predict: Callable[[Params, jax.Array], jax.Array] | None = None
    minimizer: Callable[[Batch], Params] | None = None
    check_batch: Callable[[Batch], None] | None = None
    formulas: Formulas | None = None
    accepts: Accepts = Accepts()
    call: Callable[[], "Problem"] | None = None


class Problem(NamedTuple):
    """A loss to minimise, with its gradient. Holds only pure functions, and can be a static argument of `jax.jit`.

    A problem of your own needs a name, a loss and a gradient: `Problem(name="mine", loss=my_loss, grad=my_grad)`. If
    you have only a loss, use `autodiff`.

    Attributes:
      name: the call that builds the problem.
      loss: `(params, batch) -> []`.
      grad: `(params, batch) -> a tree like params`, derived by hand.
      reduction: whether the loss is the mean or the sum over the rows of its batch.
      value_and_grad: `(params, batch) -> (loss, grad)`, if computing both together is faster than `loss` and `grad` in
        one compiled program; otherwise None.
      row_sum: how the loss is a sum over rows; None if this is not known.
      penalty: the penalty on the weights; None if the problem does not support a penalty.
      second_order: the Hessian-vector product derived by hand, and bounds on the curvature; None if they are not known.
      system: start, predictions, closed form and data; its fields are read as `problem.init`, `problem.predict`, ...
    """

    name: str
    loss: LossFn
    grad: GradFn
    reduction: Reduction = "mean"
    value_and_grad: Callable[[Params, Any], tuple[jax.Array, Params]] | None = None
    row_sum: RowSum | None = None
    penalty: Penalty | None = None
    second_order: SecondOrder | None = None
    system: System = System()

    def zeros(self, batch: Any) -> Params:
        """Parameters that are all zero, with the shapes and dtypes that `init` gives.

        For a network with hidden layers all zeros are a saddle point, which descent does not leave. Start a network
        from `init`.

        Args:
          batch: the data, as `init` takes it.

        Returns:
          A tree like the parameters.

        Raises:
          ValueError: the problem has no `init`.
        """
        init = self.init
        if init is None:
            raise ValueError(f"`zeros` needs the problem's `init`, which {self.name} does not have.")
        shapes = jax.eval_shape(lambda: init(jax.random.key(0), batch))
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

    def __repr__(self) -> str:
        return f"Problem({self.name})"

    def __reduce__(self) -> tuple[Any, ...]:
        # A problem changed by `_replace` differs from the result of `call`, so its fields are pickled.
        if self.call is not None and self.call() == self:
            return operator.call, (self.call,)
        return type(self), tuple(self)

    @property
    def init(self) -> Callable[[jax.Array, Any], Params] | None:
        """See `System`."""
        return self.system.init

    @property
    def predict(self) -> Callable[[Params, jax.Array], jax.Array] | None:
        """See `System`."""
        return self.system.predict

    @property
    def minimizer(self) -> Callable[[Batch], Params] | None:
        """See `System`."""
        return self.system.minimizer

    @property
    def check_batch(self) -> Callable[[Batch], None] | None:
        """See `System`."""
        return self.system.check_batch

    @property
    def formulas(self) -> Formulas | None:
        """See `System`."""
        return self.system.formulas

    @property
    def accepts(self) -> Accepts:
        """See `System`."""
        return self.system.accepts

    @property
    def call(self) -> Callable[[], "Problem"] | None:
        """See `System`."""
        return self.system.call

    @property
    def l2(self) -> Any:
        """The coefficient of the penalty on the weights; 0 without a penalty."""
        return 0.0 if self.penalty is None else self.penalty.l2

    @property
    def linear_form(self) -> LinearForm | None:
        """The loss as matrices, for a squared error of a linear model; None for every other problem."""
        return None if self.row_sum is None else self.row_sum.linear_form


def evaluate(problem: Problem, params: Params, batch: Any) -> tuple[jax.Array, Params]:
    """Loss and gradient at one point.

    Args:
      problem: the problem to evaluate.
      params: the point.
      batch: the data.

    Returns:
      `[]`, and a tree like the parameters.
    """
    if problem.value_and_grad is not None:
        return problem.value_and_grad(params, batch)
    return problem.loss(params, batch), problem.grad(params, batch)


def num_rows(batch: Batch) -> int:
    """N of a batch.

    Args:
      batch: inputs `[N, ...]`.

    Returns:
      N.
    """
    return int(batch.inputs.shape[0])


def autodiff(loss: LossFn, *, name: str | None = None) -> Problem:
    """A `Problem` from a loss. The gradient is computed by reverse-mode automatic differentiation.

    The same loss and name give the same object, so that JAX reuses compiled programs.

    Args:
      loss: `(params, batch) -> []`, differentiable; `batch` is whatever the loss takes.
      name: the name of the problem in reports; None uses the name of the function.

    Returns:
      The problem, without `init`, `predict` and `minimizer`.

    Raises:
      TypeError: `loss` is not callable.
    """
    if not callable(loss):
        raise TypeError(f"`loss` must be a function (params, batch) -> scalar, got {type(loss).__name__}.")
    if not isinstance(loss, Hashable):
        raise TypeError("`loss` must be hashable (a function, not an object with its own __eq__).")
    return _autodiff(loss, name or getattr(loss, "__name__", type(loss).__name__))


@functools.lru_cache(maxsize=256)
def _autodiff(loss: LossFn, name: str) -> Problem:
    call = functools.partial(autodiff, loss, name=name)
    return Problem(name=name, loss=loss, grad=jax.grad(loss), system=System(call=call))
