"""Blocks taken quietly end like steps judged one by one, whatever happens in them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common import SOME_SYSTEMS, assert_trees_close, assert_trees_equal, cast, setting, slow

import jaxgd
from jaxgd import StopReason, problems
from jaxgd.descent import blocks
from jaxgd.types import Batch, ScalarParams


@pytest.fixture(autouse=True)
def short_blocks(monkeypatch):
    monkeypatch.setattr(blocks, "QUIET_SIZE", 10)


def judged(monkeypatch, problem, *args, **options):
    """The run with every step judged, as another program."""
    with monkeypatch.context() as patch:
        patch.setattr(blocks, "QUIET_SIZE", 2**31)
        return jaxgd.descend(problem._replace(name=f"{problem.name}, judged"), *args, **options)


def assert_same_run(found, expected):
    """The same decisions at the same steps; numbers to the rounding of another program.

    Which a bounded run beyond its largest stable rate would amplify to all digits: there is none here.
    """
    assert StopReason(int(found.stop_reason)) == StopReason(int(expected.stop_reason))
    assert int(found.num_steps) == int(expected.num_steps)
    assert_trees_close(found, expected, rtol=1e-12, atol=1e-300)


@pytest.mark.parametrize(("problem", "make_batch"), SOME_SYSTEMS)
def test_systems(monkeypatch, problem, make_batch):
    params, batch = setting(problem, make_batch)
    options = {"learning_rate": 0.01, "num_steps": 407, "record_every": 3}
    found = jaxgd.descend(problem, params, batch, **options)
    assert_same_run(found, judged(monkeypatch, problem, params, batch, **options))


def rows(num_rows=120, scale=1.0):
    rng = np.random.default_rng(0)
    return Batch(jnp.asarray(scale * rng.normal(size=(num_rows, 3))), jnp.asarray(rng.normal(size=num_rows)))


QUADRATIC = (problems.quadratic(), ScalarParams(jnp.asarray(7.0)), None)
REGRESSION = (problems.linear_regression(), problems.linear_regression().init(jax.random.key(0), rows()), rows())
FALLING = jaxgd.Problem(
    name="falling", loss=lambda p, _: -jnp.sum(p**2), grad=lambda p, _: jax.tree.map(lambda leaf: -2 * leaf, p)
)
EDGE = jaxgd.Problem(name="edge", loss=lambda p, _: jnp.log(p), grad=lambda p, _: 1 / p)
JUMPING = jaxgd.Problem(  # the best of fifty is in the middle, and at the end of the run far back
    name="jumping", loss=lambda p, _: jnp.where(p % 50 < 25, 1.0, 3.0) / (1 + p), grad=lambda p, _: -jnp.ones_like(p)
)
HILL = jaxgd.Problem(
    name="hill",
    loss=lambda p, _: jnp.where(jnp.abs(p - 24) < 5, 1e7, 1.0) / (1 + p),
    grad=lambda p, _: -jnp.ones_like(p),
)
POLE = jaxgd.Problem(  # all is well but for one gradient and the parameter after it
    name="pole", loss=lambda p, _: 2 - 1 / (1 + p), grad=lambda p, _: jnp.where(jnp.abs(p - 74) < 0.5, -jnp.inf, -1.0)
)
PAUSING = jaxgd.Problem(  # one step in the middle of a block is half as long
    name="pausing", loss=lambda p, _: 1 / (1 + p), grad=lambda p, _: jnp.where(jnp.abs(p - 24.2) < 0.3, -0.5, -1.0)
)
TICKING = jaxgd.Problem(  # two moves longer than the rest: at step 5, and at step 88, the last of a block
    name="ticking",
    loss=lambda p, rows: 1 / (2 + p) + jnp.mean(rows),
    grad=lambda p, _: jnp.where((p == 5) | (p == 107), -20.0, -1.0),
)
SINGLE = {"batch_size": 1, "key": jax.random.key(3)}
ENDS = {
    "at rest": (QUADRATIC, {"learning_rate": 0.3}, StopReason.GRADIENT_SMALL),
    "no change": (QUADRATIC, {"learning_rate": 0.3, "grad_tol": -1.0}, StopReason.NO_CHANGE),
    "small gradient": (QUADRATIC, {"learning_rate": 0.003, "grad_tol": 1.0}, StopReason.GRADIENT_SMALL),
    "small change": (QUADRATIC, {"learning_rate": 0.003, "param_tol": 1e-3}, StopReason.NO_CHANGE),
    "diverged": (QUADRATIC, {"learning_rate": 1.01}, StopReason.DIVERGED),
    "fell without bound": ((FALLING, jnp.asarray(1e-3), None), {"learning_rate": 0.01}, StopReason.DIVERGED),
    "left the domain": ((EDGE, jnp.asarray(1.0), None), {"learning_rate": 0.003}, StopReason.NONFINITE),
    "best long ago": (
        (JUMPING, jnp.asarray(0.0), None),
        {"learning_rate": 1.0, "num_steps": 990},
        StopReason.MAX_STEPS,
    ),
    "a small change": (
        (PAUSING, jnp.asarray(0.0), None),
        {"learning_rate": 1.0, "param_tol": 0.6},
        StopReason.NO_CHANGE,
    ),
    "over a hill": ((HILL, jnp.asarray(0.0), None), {"learning_rate": 1.0}, StopReason.DIVERGED),
    "through infinity": ((POLE, jnp.asarray(0.0), None), {"learning_rate": 1.0}, StopReason.NONFINITE),
    "a small gradient": (
        (PAUSING, jnp.asarray(0.0), None),
        {"learning_rate": 1.0, "grad_tol": 0.6},
        StopReason.GRADIENT_SMALL,
    ),
    "all steps": (REGRESSION, {"learning_rate": 1e-3}, StopReason.MAX_STEPS),
    "single rows": (REGRESSION, {"learning_rate": 1e-3, **SINGLE}, StopReason.MAX_STEPS),
    "single rows, in order": (REGRESSION, {"learning_rate": 1e-3, "batch_size": 1}, StopReason.MAX_STEPS),
    "single rows, diverged": (REGRESSION, {"learning_rate": 0.6, **SINGLE}, StopReason.DIVERGED),
    "single rows, no change": (REGRESSION, {"learning_rate": 1e-3, "param_tol": 1.0, **SINGLE}, StopReason.NO_CHANGE),
    "an epoch of small changes": (
        (TICKING, jnp.asarray(0.0), jnp.zeros(60)),
        {"learning_rate": 1.0, "param_tol": 10.0, "batch_size": 1},
        StopReason.NO_CHANGE,
    ),
    "pairs of rows": (REGRESSION, {"learning_rate": 1e-3, **SINGLE, "batch_size": 2}, StopReason.MAX_STEPS),
}


RECORDED = ("a small gradient", "through infinity", "diverged", "single rows")


@pytest.mark.parametrize(
    ("run", "options", "reason", "record"),
    [pytest.param(*ENDS[name], (), id=name) for name in ENDS]
    + [pytest.param(*ENDS[name], ("loss", "grad_norm"), id=f"{name}, recorded", marks=slow) for name in RECORDED],
)
def test_every_way_to_end(monkeypatch, run, options, reason, record):
    options = {"num_steps": 1000, "record": record} | options
    found = jaxgd.descend(*run, **options)
    assert StopReason(int(found.stop_reason)) == reason
    assert_same_run(found, judged(monkeypatch, *run, **options))


@pytest.mark.parametrize("options", [{}, pytest.param(SINGLE, marks=slow)], ids=["full batch", "single rows"])
@pytest.mark.parametrize("dtype", [jnp.float32, pytest.param(jnp.float64, marks=slow)])
def test_a_run_in_chunks_goes_through_the_same_bits(options, dtype):
    problem, (params, batch) = REGRESSION[0], cast(REGRESSION[1:], dtype)
    options = {"learning_rate": 1e-3, "num_steps": 1007} | options
    whole = jaxgd.descend(problem, params, batch, **options)
    assert_trees_equal(jaxgd.fit(problem, params, batch, progress=False, **options), whole)


def test_lanes_share_the_branch_and_nothing_else(monkeypatch):
    """One lane of five diverges: it ends where it would alone, and the others where they would."""
    problem, params, batch = REGRESSION
    rates = jnp.asarray([1e-4, 1e-3, 0.01, 0.02, 3.0])
    options = {"num_steps": 800}
    lanes = jaxgd.sweep(problem, params, batch, over={"learning_rate": rates}, **options)
    assert StopReason(int(lanes.stop_reason[-1])) == StopReason.DIVERGED
    for i, rate in enumerate(rates):
        alone = judged(monkeypatch, problem, params, batch, learning_rate=rate, **options)
        lane = jax.tree.map(lambda leaf, i=i: leaf[i], lanes)
        assert StopReason(int(lane.stop_reason)) == StopReason(int(alone.stop_reason))
        assert int(lane.num_steps) == int(alone.num_steps)
        assert_trees_close(lane, alone, rtol=1e-9, atol=1e-12)


def test_steps_after_the_last_lane_ended_cost_nothing():
    calls = []

    def loss(params, batch):
        jax.debug.callback(lambda: calls.append(None))
        return (params - 2) ** 2

    problem = jaxgd.Problem(name="counted", loss=loss, grad=lambda p, b: 2 * (p - 2))
    rates = jnp.asarray([0.3, 0.4])
    run = jax.vmap(lambda rate: jaxgd.descend(problem, jnp.asarray(5.0), None, learning_rate=rate, num_steps=10_000))
    assert set(run(rates).stop_reason.tolist()) == {int(StopReason.GRADIENT_SMALL)}
    jax.effects_barrier()
    assert len(calls) < 2 * 2 * 10_000 / blocks.NUM_CHUNKS + 100


def test_after_events_blocks_are_tried_more_and_more_seldom(monkeypatch):
    """Every block of this run holds an event: blocks 0, 2, 5, 10 and 19 of 20 are tried, and no more."""
    tried = []
    quietly = blocks._take_quietly

    def counted(*args):
        jax.debug.callback(lambda: tried.append(None))
        return quietly(*args)

    monkeypatch.setattr(blocks, "_take_quietly", counted)
    jaxgd.descend(JUMPING._replace(name="tried"), jnp.asarray(0.0), None, learning_rate=1.0, num_steps=1000)
    jax.effects_barrier()
    assert len(tried) == 5


def test_runs_can_be_differentiated():
    """The derivative of the end by the rate, theta_n = 2 + (1 - 2 eta)^n (theta_0 - 2)."""

    def end(rate):
        return jaxgd.descend(*QUADRATIC, learning_rate=rate, num_steps=300).params.x

    rate, n = 1e-3, 300
    expected = -2 * n * (1 - 2 * rate) ** (n - 1) * (7.0 - 2)
    assert float(jax.grad(end)(rate)) == pytest.approx(expected, rel=1e-9)
    assert float(jax.jvp(end, (rate,), (1.0,))[1]) == pytest.approx(expected, rel=1e-9)
