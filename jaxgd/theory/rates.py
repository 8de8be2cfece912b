"""What is known about a constant learning rate before a run.

There are three kinds of statements about full-batch gradient descent, from the strongest to the weakest:

- **exact**: the loss is quadratic. Its Hessian H is the same at all parameters, and a step multiplies the error along
  the eigenvector of lambda by `1 - eta lambda`. Above `2 / lambda_max` descent diverges from almost every start.
- **guaranteed from every start**: the curvature is at most L at all parameters. Below 2/L every step lowers the loss.
  Above 2/L nothing is known: descent may converge or oscillate.
- **local at this start**: only `lambda_max` at the start is known. The statement holds only near the start.
"""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from jaxgd.theory import curvature
from jaxgd.theory.bounds import curvature_bounds, is_convex, is_quadratic, quadratic_eigenvalues
from jaxgd.types import Params, Problem

Kind = Literal["exact", "guaranteed from every start", "local at this start"]

AT_LIMIT = 1e-9
"""Rates that differ from a limit by less than this fraction count as equal to the limit, because rounding decides."""


class RateFacts(NamedTuple):
    """What is known about the learning rates of a problem from one start, as Python numbers.

    Attributes:
      kind: the kind of statement: exact, guaranteed or local.
      limit: `2 / lambda_max` of the constant Hessian (exact), 2/L (guaranteed), or `2 / lambda_max` at the start
        (local); infinite if the Hessian has no positive eigenvalue.
      local_limit: `2 / lambda_max` at the start.
      smoothness: L; None if no bound over all parameters is known.
      strong_convexity: mu, 0 if no positive lower bound is known.
      convex: whether the loss is known to be convex.
      eigenvalues: `[Q]` ascending, the eigenvalues of the constant Hessian (exact) or of the Hessian at the start; None
        if there are too many parameters.
      unbounded: the reason why no L is known; empty if L is known.
    """

    kind: Kind
    limit: float
    local_limit: float
    smoothness: float | None
    strong_convexity: float
    convex: bool
    eigenvalues: npt.NDArray[Any] | None
    unbounded: str


class Verdict(NamedTuple):
    """What is known about one learning rate.

    Attributes:
      words: the statement.
      guaranteed: whether every step lowers the loss, in exact arithmetic, from every start.
      diverges: whether descent diverges, from almost every start.
      contraction: a bound on the factor by which a step multiplies the distance to the minimiser; None if not known.
    """

    words: str
    guaranteed: bool
    diverges: bool
    contraction: float | None


def rate_facts(problem: Problem, params: Params, batch: Any) -> RateFacts:
    """Compute what is known about constant learning rates of full-batch descent on a problem. Host side.

    Args:
      problem: the problem to minimise.
      params: the start.
      batch: all rows.

    Returns:
      The facts, as Python numbers; in the precision of the parameters.

    Raises:
      TypeError: a parameter is not floating.
      ValueError: `params` holds no arrays, or targets are outside the range for which a bound holds.
    """
    params, batch = problem.accepts.arguments(params, batch)
    if problem.check_batch is not None:
        problem.check_batch(batch)
    exact = is_quadratic(problem)
    values = jax.jit(_values, static_argnums=0)(problem, params, batch)
    eigenvalues, at_start, bounds = jax.tree.map(np.asarray, values)
    local_limit = 2 / float(at_start) if at_start > 0 else float("inf")
    unbounded = problem.second_order.unbounded if problem.second_order is not None else "its second order is not given"
    smoothness = None if bounds is None else float(bounds.smoothness)
    if exact:
        kind: Kind = "exact"
        limit = local_limit
    elif smoothness is not None:
        kind = "guaranteed from every start"
        limit = 2 / smoothness if smoothness > 0 else float("inf")
    else:
        kind, limit = "local at this start", local_limit
    return RateFacts(
        kind=kind,
        limit=limit,
        local_limit=local_limit,
        smoothness=smoothness,
        strong_convexity=0.0 if bounds is None else float(bounds.strong_convexity),
        convex=is_convex(problem, batch),
        eigenvalues=eigenvalues,
        unbounded=unbounded,
    )


def _values(problem: Problem, params: Params, batch: Any) -> tuple[jax.Array | None, jax.Array, Any]:
    """All eigenvalues if there are few parameters, the largest eigenvalue at the start, and the curvature bounds."""
    bounds = curvature_bounds(problem, batch)
    if is_quadratic(problem):
        eigenvalues = quadratic_eigenvalues(problem, params, batch)
    elif sum(jnp.size(leaf) for leaf in jax.tree.leaves(params)) <= curvature.DENSE_LIMIT:
        eigenvalues = curvature.eigenvalues(problem, params, batch)
    else:
        eigenvalues = None
    if eigenvalues is not None:
        return eigenvalues, eigenvalues[-1], bounds
    return None, curvature.largest_eigenvalue(problem, params, batch).value, bounds


def judge(facts: RateFacts, learning_rate: float) -> Verdict:
    """State what is known about one learning rate. Every statement follows from a theorem.

    For a quadratic loss each step multiplies the norm of the error by at most `max_i |1 - eta lambda_i|`. If all
    curvatures lie between mu and L, each step multiplies the distance to the minimiser by at most
    `max(|1 - eta mu|, |1 - eta L|)`: the step multiplies the error by the matrix `I - eta M`, where M is the mean of
    the Hessians on the line from the parameters to the minimiser.

    Args:
      facts: the result of `rate_facts`.
      learning_rate: eta, positive.

    Returns:
      The verdict.
    """
    over = learning_rate / facts.limit
    if facts.kind == "exact":
        return _judge_quadratic(facts, learning_rate, over)
    if facts.kind == "local at this start":
        words = "below the limit at this start: no guarantee"
        return Verdict(words if over < 1 else "above the limit at this start: may oscillate", False, False, None)
    assert facts.smoothness is not None
    if over < 1 - AT_LIMIT:
        mu = facts.strong_convexity
        factor = max(abs(1 - learning_rate * mu), abs(1 - learning_rate * facts.smoothness)) if mu > 0 else None
        return Verdict("guaranteed: every step lowers the loss", True, False, factor)
    return Verdict("above what is guaranteed: may oscillate", False, False, None)


def _judge_quadratic(facts: RateFacts, rate: float, over: float) -> Verdict:
    if facts.eigenvalues is None:
        if over > 1 + AT_LIMIT:
            return Verdict(f"diverges, {over:.3g} times the limit", False, True, None)
        return Verdict("below the limit: every step lowers the loss", over < 1 - AT_LIMIT, False, None)
    factor = curvature.contraction_factor(facts.eigenvalues, rate)
    if factor > 1 + AT_LIMIT:
        beyond = f"{over:.3g} times the limit" if over > 1 else "a direction curves downwards"
        return Verdict(f"diverges, {beyond}", False, True, factor)
    if factor >= 1 - AT_LIMIT * rate / facts.limit and over > 1 - AT_LIMIT:
        return Verdict("at the limit: oscillates without end", False, False, 1.0)
    best = curvature.best_learning_rate(facts.eigenvalues)
    return Verdict("overshooting" if rate > best * (1 + 1e-12) else "converges", True, False, factor)


def guaranteed_loss(facts: RateFacts, learning_rate: float, num_steps: int, points: list[tuple[float, float]]) -> float:
    """A bound on the loss of a convex, L-smooth problem after T steps at a rate of at most 1/L.

    For every x, `f(theta_T) <= f(x) + |theta_0 - x|^2 / (2 eta T)`; with the minimiser as x and 1/L as eta this is
    `f(theta_T) - f* <= L |theta_0 - theta*|^2 / (2T)` (Beck & Teboulle 2009, SIAM Journal on Imaging Sciences 2,
    183-202, theorem 3.1). The bound does not need a minimiser: it holds for any point x, also if no minimiser exists,
    as with separable classes.

    Args:
      facts: the facts of a convex problem with a known L.
      learning_rate: eta.
      num_steps: T, at least 1.
      points: for each x tried, `f(x)` and `|theta_0 - x|^2`.

    Returns:
      The smallest of the bounds; infinite if the rate is above 1/L or the problem is not known to be convex.
    """
    if not facts.convex or facts.smoothness is None or learning_rate * facts.smoothness > 1 + AT_LIMIT:
        return float("inf")
    return min((loss + square / (2 * learning_rate * num_steps) for loss, square in points), default=float("inf"))


def comparison_points(
    problem: Problem, params: Params, batch: Any, *, num_points: int = 100
) -> list[tuple[float, float]]:
    """Points x for `guaranteed_loss`: the iterates of a Newton method for the minimum. Host side.

    Args:
      problem: a problem with `second_order`.
      params: the start theta_0.
      batch: all rows.
      num_points: the largest number of iterations.

    Returns:
      For each iterate `f(x)` and `|theta_0 - x|^2`.
    """
    from scipy.optimize import minimize  # takes 0.3 s, which `import jaxgd` should not

    start, unravel = jax.flatten_util.ravel_pytree(params)

    @jax.jit
    def value_and_grad(x: jax.Array, data: Any) -> tuple[jax.Array, jax.Array]:
        tree = unravel(x)
        return problem.loss(tree, data), jax.flatten_util.ravel_pytree(problem.grad(tree, data))[0]

    @jax.jit
    def product(x: jax.Array, vector: jax.Array, data: Any) -> jax.Array:
        moved = curvature.hessian_vector_product(problem, unravel(x), data, unravel(vector))
        return jax.flatten_util.ravel_pytree(moved)[0]

    points: list[tuple[float, float]] = []
    origin = np.asarray(start, np.float64)

    def keep(x: Any) -> None:
        loss = value_and_grad(jnp.asarray(x, start.dtype), batch)[0]
        points.append((float(loss), float(np.sum((np.asarray(x) - origin) ** 2))))

    keep(origin)
    minimize(
        lambda x: [np.asarray(part, np.float64) for part in value_and_grad(jnp.asarray(x, start.dtype), batch)],
        origin,
        jac=True,
        hessp=lambda x, v: np.asarray(
            product(jnp.asarray(x, start.dtype), jnp.asarray(v, start.dtype), batch), np.float64
        ),
        method="trust-ncg",
        callback=keep,
        options={"maxiter": num_points, "gtol": 1e-10},
    )
    return points
