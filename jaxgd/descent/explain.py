"""Explain in words why a run ended, and compare the learning rate of a diverged run with the largest stable one."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgd.data.arguments import arguments
from jaxgd.descent.result import Result, StopReason
from jaxgd.theory.bounds import smoothness
from jaxgd.theory.curvature import largest_stable_learning_rate
from jaxgd.theory.rates import Kind, rate_facts
from jaxgd.types import Params, Problem
from jaxgd.validation import check_rows

LOST = (StopReason.DIVERGED, StopReason.NONFINITE)
"""The stop reasons of runs that found no minimum."""

STATEMENTS: dict[Kind, str] = {
    "exact": "the largest stable one, {limit:.3g}",
    "guaranteed from every start": "the end of what is guaranteed, 2/L = {limit:.3g}",
    "local at this start": "the limit at {place}, {limit:.3g}, which guarantees nothing further on",
}
"""The limit in words, for each kind of statement about learning rates; see `jaxgd.theory.rates`."""


def explain(
    result: Result, problem: Problem, batch: Any, start: Params | None = None, *, batch_size: int | None = None
) -> Any:
    """Explain in words why a run ended.

    If a run of gradient descent ended as DIVERGED or NONFINITE, its learning rate is compared with a limit. For a
    quadratic loss this is the largest stable rate, `2 / lambda_max`. Otherwise it is 2/L if a bound L on the curvature
    at all parameters is known. Otherwise it is the limit at `start`, which holds only near that point.

    Args:
      result: the result of `descend`, `fit` or `sweep`.
      problem: the problem that was minimised.
      batch: the data.
      start: theta_0, for a limit that depends on it; None uses the best parameters of the run instead.
      batch_size: the batch size of the run; None for all rows.

    Returns:
      One to three sentences. For a sweep, a list of such texts, nested like its axes. Lanes over `l2` or `batch` are
      compared with the limit for the `problem` and the `batch` given here.

    Raises:
      ValueError: as `descend`, or targets are outside the range of the problem.
      TypeError: as `descend`.
    """
    reasons = np.asarray(result.stop_reason)
    lost, rates, limits = np.isin(reasons, LOST), np.full(reasons.shape, np.nan), np.full(reasons.shape, np.nan)
    kind, advice, place = None, "Lower the rate", "the start"
    if result.learning_rate is not None and lost.any():
        rates[...] = result.learning_rate
        params, batch = arguments(problem, _first(result, lost) if start is None else start, batch)
        kind, limit = _limit(problem, params, batch, batch_size)
        limits[...] = limit
        if kind == "local at this start" and start is None:
            limits[lost] = _limits(problem, jax.tree.map(lambda leaf: leaf[lost], result.best_params), batch)
            place = "its best parameters"
        advice = advice if _are_centred(batch) else "Standardise the inputs or lower the rate"
    told = [
        sentence(StopReason(int(reason)), int(num_steps), float(rate), kind, float(limit), place=place, advice=advice)
        for reason, num_steps, rate, limit in zip(
            reasons.ravel(), np.ravel(result.num_steps), rates.ravel(), limits.ravel(), strict=True
        )
    ]
    return np.array(told, object).reshape(reasons.shape).tolist()


def sentence(
    reason: StopReason,
    num_steps: int,
    rate: float,
    kind: Kind | None,
    limit: float,
    *,
    advice: str,
    place: str = "the start",
) -> str:
    """Explain why one run ended.

    Args:
      reason: the stop reason.
      num_steps: the number of updates.
      rate: eta.
      kind: the kind of statement about learning rates; None if nothing is known, or if the run was not gradient descent
        with the constant rate `rate`.
      limit: the limit of the learning rate; infinite if there is none.
      advice: advice for a rate that was too large.
      place: the point of a local limit, in words.

    Returns:
      The reason in words and, for a run that diverged, a comparison of its rate with the limit.
    """
    text = f"{reason.name} at step {num_steps}: {reason.describe()}."
    if reason not in LOST:
        return text
    if reason is StopReason.NONFINITE and num_steps == 0:  # no rate can have caused it
        return f"{text} No step was taken: look for NaN or infinity in the data and in the start."
    if kind is None or not np.isfinite(limit):
        return f"{text} Lower the rate."
    known = STATEMENTS[kind].format(limit=limit, place=place)
    return f"{text} learning_rate {rate:.4g} is {rate / limit:.4g} times {known}. {advice}."


def _limit(problem: Problem, params: Params, batch: Any, batch_size: int | None) -> tuple[Kind | None, float]:
    """The kind of statement about the learning rates of a problem, and the limit."""
    if batch_size is None or batch_size >= check_rows(batch):
        facts = rate_facts(problem, params, batch)
        return facts.kind, facts.limit
    # The largest curvature of a mini-batch is not that of all rows; what is known holds for every batch of that size.
    bound = smoothness(problem, batch, batch_size=batch_size)
    return (None, math.inf) if bound is None else ("guaranteed from every start", 2 / float(bound))


def _first(result: Result, lost: Any) -> Params:
    """The best parameters of the first lane that diverged."""
    index = tuple(int(i) for i in np.argwhere(lost)[0])
    return jax.tree.map(lambda leaf: leaf[index], result.best_params)


@functools.partial(jax.jit, static_argnums=0)
def _limits(problem: Problem, lanes: Params, batch: Any) -> jax.Array:
    """`[L]`, the largest stable rate at the parameters of each lane, one lane after the other, to save memory."""
    return jax.lax.map(lambda params: largest_stable_learning_rate(problem, params, batch), lanes)


def _are_centred(batch: Any) -> bool:
    """Whether standardising would change the inputs little: all means are small compared with the common scale."""
    inputs = getattr(batch, "inputs", None)
    if inputs is None or jnp.ndim(inputs) != 2:
        return True
    # A mean far from 0 makes the largest eigenvalue of X^T X larger by its square, and the limit smaller by as much.
    scale = jnp.sqrt(jnp.mean(jnp.square(inputs)))
    return bool(jnp.all(jnp.abs(jnp.mean(inputs, axis=0)) <= 0.01 * scale))
