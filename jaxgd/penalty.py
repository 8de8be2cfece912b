"""The L2 penalty, as a Problem -> Problem function."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from jaxgd.types import Batch, Params, Penalty, Problem, evaluate


def with_l2(problem: Problem, l2: Any) -> Problem:
    """Add the penalty `1/2 lambda |W|^2` on the weights of a problem. Biases are not penalised.

    Gradient, by hand: `d/dW 1/2 lambda sum_jk W_jk^2 = lambda W` is added to the gradient of every leaf named
    `weights`; the other leaves do not change. The Hessian gains lambda times the identity on the weights, so its
    product with a vector V gains `lambda V`.

    Args:
      problem: a problem without a penalty, with parameters whose weights are named `weights`.
      l2: lambda, `[]`, a number or traced. If it is the number 0, `problem` is returned unchanged.

    Returns:
      The penalised problem. Its `minimizer` is None; the module of the problem sets it if a closed form exists.
    """
    if isinstance(l2, float | int) and not l2:
        return problem

    def add_penalty(value: jax.Array, params: Params) -> jax.Array:
        leaves = jax.tree_util.tree_leaves_with_path(problem.accepts.params(params))
        weights = [leaf for path, leaf in leaves if _is_weights(path)]
        return value + 0.5 * _like(l2, weights[0]) * sum(jnp.sum(jnp.square(w)) for w in weights)

    def add_weights(grads: Params, params: Params) -> Params:
        def add(path: Any, by_loss: jax.Array, leaf: jax.Array) -> jax.Array:
            return by_loss + _like(l2, leaf) * leaf if _is_weights(path) else by_loss

        typed_grads, typed_params = problem.accepts.params(grads), problem.accepts.params(params)
        return problem.accepts.like(params, jax.tree_util.tree_map_with_path(add, typed_grads, typed_params))

    def value_and_grad(params: Params, batch: Batch) -> tuple[jax.Array, Params]:
        value, grads = evaluate(problem, params, batch)
        return add_penalty(value, params), add_weights(grads, params)

    second_order = problem.second_order
    if second_order is not None:
        unpenalised = second_order.hvp
        second_order = second_order._replace(
            hvp=lambda params, vector, batch: add_weights(unpenalised(params, vector, batch), vector)
        )
    formulas = problem.formulas
    if formulas is not None:
        formulas = formulas._replace(
            loss=f"{formulas.loss} + l2/2 |W|^2", gradient=f"{formulas.gradient}, and l2 W for the weights"
        )
    call, _, arguments = problem.name.removesuffix(")").partition("(")
    return problem._replace(
        name=f"{call}({arguments}, l2={l2!r})" if arguments else f"{call}(l2={l2!r})",
        loss=lambda params, batch: add_penalty(problem.loss(params, batch), params),
        grad=lambda params, batch: add_weights(problem.grad(params, batch), params),
        value_and_grad=value_and_grad if problem.value_and_grad is not None else None,
        penalty=Penalty(l2, functools.partial(with_l2, problem)),
        second_order=second_order,
        system=problem.system._replace(minimizer=None, formulas=formulas, call=None),
    )


def penalisable(problem: Problem, l2: float, **known: Any) -> Problem:
    """`with_l2(problem, l2)`, with a coefficient that can be replaced later, as in a sweep over l2.

    Args:
      problem: a problem without a penalty.
      l2: lambda.
      **known: fields of `System` in which the penalised problem differs, such as its minimiser.

    Returns:
      The penalised problem; `penalty.with_l2` gives the problem with another lambda.
    """
    penalised = with_l2(problem, l2)
    return penalised._replace(
        penalty=Penalty(l2, functools.partial(with_l2, problem)), system=penalised.system._replace(**known)
    )


def _is_weights(path: Any) -> bool:
    return bool(path) and getattr(path[-1], "name", None) == "weights"


def _like(l2: Any, leaf: jax.Array) -> jax.Array:
    return jnp.asarray(l2).astype(leaf.dtype)
