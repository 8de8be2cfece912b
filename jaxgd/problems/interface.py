"""Problems whose functions accept parameters and rows in every form: dicts, tuples, lists, frames."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxgd.data.arrays import floating
from jaxgd.data.forms import as_batch, as_params, like
from jaxgd.types import Accepts, Params, Problem, SecondOrder


def accepting(problem: Problem, params_type: Any, *, targets: str | None) -> Problem:
    """The same problem, with functions that first convert their arguments to the problem's own types.

    Args:
      problem: a problem whose functions take `params_type` and a `Batch` of arrays.
      params_type: the public type of its parameters, a NamedTuple.
      targets: the kind of its targets, a key of `jaxgd.data.forms.TARGETS`; None for a problem without data.

    Returns:
      The problem. Its gradient and Hessian-vector product have the form in which the parameters were given.
    """
    to_params = functools.partial(as_params, params_type)
    accepts = Accepts(to_params, like, Accepts().batch if targets is None else functools.partial(as_batch, targets))

    def to_arrays(batch: Any) -> Any:
        return jax.tree.map(jnp.asarray, accepts.batch(batch))

    def valued(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def converted(params: Any, batch: Any) -> Any:
            return function(to_params(params), to_arrays(batch))

        return converted

    @functools.wraps(problem.grad)
    def grad(params: Any, batch: Any) -> Params:
        return like(params, problem.grad(to_params(params), to_arrays(batch)))

    changes: dict[str, Any] = {"accepts": accepts}
    init, predict, minimizer, check_batch = problem.init, problem.predict, problem.minimizer, problem.check_batch
    if init is not None:
        changes["init"] = functools.wraps(init)(lambda key, batch: init(key, to_arrays(batch)))
    if predict is not None:
        changes["predict"] = functools.wraps(predict)(
            lambda params, inputs: predict(to_params(params), jnp.asarray(floating("inputs", inputs)))
        )
    if minimizer is not None:
        changes["minimizer"] = functools.wraps(minimizer)(lambda batch: minimizer(accepts.batch(batch)))
    if check_batch is not None:
        changes["check_batch"] = functools.wraps(check_batch)(lambda batch: check_batch(accepts.batch(batch)))
    second_order = problem.second_order and _second_order(problem.second_order, to_params, to_arrays)
    system = problem.system._replace(**changes)
    return problem._replace(loss=valued(problem.loss), grad=grad, second_order=second_order, system=system)


def _second_order(
    given: SecondOrder, to_params: Callable[[Any], Params], to_arrays: Callable[[Any], Any]
) -> SecondOrder:
    """`SecondOrder` whose functions accept parameters and rows in every form."""
    rows, bounds = given.rows, given.bounds
    return given._replace(
        hvp=lambda params, vector, batch: like(
            vector, given.hvp(to_params(params), to_params(vector), to_arrays(batch))
        ),
        rows=None if rows is None else rows._replace(design=lambda batch: rows.design(to_arrays(batch))),
        bounds=None if bounds is None else lambda batch: bounds(to_arrays(batch)),
    )
