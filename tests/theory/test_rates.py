"""What is said about rates, against runs and known spectra."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common import FEW_SYSTEMS, setting

import jaxgd
from jaxgd import problems
from jaxgd.problems import ALL_PROBLEMS
from jaxgd.theory import rates
from jaxgd.types import SecondOrder

MAKE_BATCH = dict(ALL_PROBLEMS)


def facts_of(problem):
    return rates.rate_facts(problem, *setting(problem, MAKE_BATCH[problem]))


def test_of_the_parabola_everything_is_known():
    facts = facts_of(problems.quadratic())
    assert facts.kind == "exact"
    assert (facts.limit, facts.smoothness, facts.strong_convexity) == (1, 2, 2)
    assert rates.judge(facts, 0.5).contraction == 0  # one step to the minimum
    assert rates.judge(facts, 0.25) == rates.Verdict("converges", True, False, 0.5)
    assert rates.judge(facts, 0.75).words == "overshooting"
    assert rates.judge(facts, 1.0) == rates.Verdict("at the limit: oscillates without end", False, False, 1.0)
    assert rates.judge(facts, 1.5) == rates.Verdict("diverges, 1.5 times the limit", False, True, 2.0)


def test_a_saddle_diverges_at_every_rate():
    problem = jaxgd.Problem(
        name="saddle",
        loss=lambda p, b: p[0] ** 2 - p[1] ** 2,
        grad=lambda p, b: p * jnp.array([2.0, -2.0]),
        second_order=SecondOrder(
            lambda p, v, b: v * jnp.array([2.0, -2.0]), bounds=lambda batch: (-2.0, 2.0), constant=True
        ),
    )
    facts = rates.rate_facts(problem, jnp.ones(2), None)
    assert rates.judge(facts, 0.1) == rates.Verdict("diverges, a direction curves downwards", False, True, 1.2)
    assert not facts.convex


@pytest.mark.parametrize(("problem", "make_batch"), FEW_SYSTEMS)
def test_what_is_called_guaranteed_never_rises_and_what_is_called_divergent_does_not_end_well(problem, make_batch):
    params, batch = setting(problem, make_batch)
    facts = rates.rate_facts(problem, params, batch)
    shares = np.array([0.05, 0.5, 0.9, 0.99, 1.02, 1.5, 3.0])
    verdicts = [rates.judge(facts, float(rate)) for rate in shares * facts.limit]
    result = jaxgd.sweep(
        problem,
        params,
        batch,
        over={"learning_rate": jnp.asarray(shares * facts.limit)},
        num_steps=1000,
        record=("loss",),
    )
    losses = np.asarray(result.history.loss)
    for i, verdict in enumerate(verdicts):
        lost = int(result.stop_reason[i]) in (jaxgd.StopReason.DIVERGED, jaxgd.StopReason.NONFINITE)
        with np.errstate(invalid="ignore"):  # infinity minus infinity, in a run that has diverged
            rises = np.diff(losses[i]) > 1e-13 * np.max(np.abs(losses[i]))
        assert not (verdict.guaranteed and (lost or rises.any()))
        assert not verdict.diverges or lost
        assert not (verdict.guaranteed and verdict.diverges)


def test_a_network_has_only_a_local_limit():
    facts = facts_of(problems.mlp((8,)))
    assert facts.kind == "local at this start"
    assert facts.smoothness is None
    assert facts.unbounded == "the curvature grows with the weights of the other layers"
    assert rates.judge(facts, 2 * facts.limit).words == "above the limit at this start: may oscillate"
    assert rates.judge(facts, 0.5 * facts.limit).words == "below the limit at this start: no guarantee"


def test_the_bound_on_the_loss_holds_along_a_run_and_without_a_minimum():
    """Separable classes: the loss has no minimum, and the bound still holds."""
    problem = problems.logistic_regression()
    inputs = jnp.linspace(-2.0, 2.0, 8)[:, None]
    batch = jaxgd.Batch(inputs, (inputs[:, 0] > 0).astype(int))
    params = problem.init(jax.random.key(0), batch)
    facts = rates.rate_facts(problem, params, batch)
    rate = 1 / facts.smoothness
    points = rates.comparison_points(problem, params, batch)
    losses = jaxgd.descend(problem, params, batch, learning_rate=rate, num_steps=501, record=("loss",)).history.loss
    for steps in (1, 10, 100, 500):
        bound = rates.guaranteed_loss(facts, rate, steps, points)
        assert float(losses[steps]) <= bound < 30 * float(losses[steps])
    assert rates.guaranteed_loss(facts, 1.01 * rate, 10, points) == np.inf


def test_the_linear_rate_of_a_strongly_convex_loss_is_a_bound():
    """sqrt(1 + x^2) with a penalty of 0.1: curvatures between 0.1 and 1.1."""
    problem = jaxgd.Problem(
        name="bowl",
        loss=lambda p, b: jnp.sum(jnp.sqrt(1 + p**2) + 0.05 * p**2),
        grad=lambda p, b: p / jnp.sqrt(1 + p**2) + 0.1 * p,
        second_order=SecondOrder(lambda p, v, b: v / (1 + p**2) ** 1.5 + 0.1 * v, bounds=lambda batch: (0.1, 1.1)),
    )
    start = jnp.array([30.0, -2.0])
    facts = rates.rate_facts(problem, start, None)
    rate = 1.0
    factor = rates.judge(facts, rate).contraction
    assert factor == pytest.approx(0.9)
    path = jaxgd.descend(problem, start, None, learning_rate=rate, num_steps=60, record=("params",)).history.params
    distances = np.linalg.norm(np.asarray(path), axis=1)
    assert np.all(distances[1:] <= factor * distances[:-1] * (1 + 1e-14))
