"""Every acceleration against the plain loop, over one table of runs.

An acceleration of steps is put in the place of `loop.take_steps` with blocks so short that the runs of the table have
many; an acceleration of the evaluation is a problem of its own, run by the plain loop.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from common import KINDS, assert_trees_close, assert_trees_equal, cast, quick, quick_systems, setting, slow
from jax.sharding import Mesh

import jaxgd
from jaxgd import StopReason, problems
from jaxgd.descent import fast, loop
from jaxgd.descent.descend import Controls, Given, Program, Settings, as_rate, bind, check_settings
from jaxgd.descent.fast import blocks, choose, row_steps
from jaxgd.types import Batch, ScalarParams


def rows(num_rows=120):
    rng = np.random.default_rng(0)
    return Batch(jnp.asarray(rng.normal(size=(num_rows, 3))), jnp.asarray(rng.normal(size=num_rows)))


def own(name, loss, grad):
    return jaxgd.Problem(name=name, loss=loss, grad=grad)


QUADRATIC = (problems.quadratic(), ScalarParams(jnp.asarray(7.0)), None)
REGRESSION = (problems.linear_regression(), problems.linear_regression().init(jax.random.key(0), rows()), rows())
START = jnp.asarray(0.0)
MADE_UP = {
    "falling": (lambda p: -(p**2), lambda p: -2 * p),
    "edge": (jnp.log, lambda p: 1 / p),
    # The best of fifty steps is in the middle, and at the end of the run far back.
    "jumping": (lambda p: jnp.where((p + 40) % 50 < 25, 1.0, 3.0) / (1 + p), lambda p: -jnp.ones_like(p)),
    "hill": (lambda p: jnp.where(jnp.abs(p - 24) < 5, 1e7, 1.0) / (1 + p), lambda p: -jnp.ones_like(p)),
    # One gradient, and with it the parameter after it, is infinite.
    "pole": (lambda p: 2 - 1 / (1 + p), lambda p: jnp.where(jnp.abs(p - 74) < 0.5, -jnp.inf, -1.0)),
    # One step in the middle of a block is half as long.
    "pausing": (lambda p: 1 / (1 + p), lambda p: jnp.where(jnp.abs(p - 24.2) < 0.3, -0.5, -1.0)),
}
CHOICE = own(
    "choice",
    lambda p, number: jnp.stack([loss(p) for loss, _ in MADE_UP.values()])[number],
    lambda p, number: jnp.stack([grad(p) for _, grad in MADE_UP.values()])[number],
)


def made_up(name, start=0.0):
    """A run of a loss of the table: its number is the data, so that all share their programs."""
    return CHOICE, jnp.asarray(start), jnp.asarray(list(MADE_UP).index(name))


# Two moves are longer than the rest: at step 5, and at step 88, the last of a block.
TICKING = own(
    "ticking", lambda p, rows: 1 / (2 + p) + jnp.mean(rows), lambda p, _: jnp.where((p == 5) | (p == 107), -20.0, -1.0)
)
SINGLE_PRECISION = (REGRESSION[0], *cast(REGRESSION[1:], jnp.float32))
IN_ORDER, SHUFFLED = {"batch_size": 1}, {"batch_size": 1, "key": jax.random.key(3)}
LIMIT = 120 / np.linalg.norm(np.column_stack([rows().inputs, np.ones(120)]), 2) ** 2  # 2 / lambda_max

RUNS = {
    "at rest": (QUADRATIC, {"learning_rate": 0.3}, StopReason.GRADIENT_SMALL),
    "no change": (QUADRATIC, {"learning_rate": 0.3, "grad_tol": -1.0}, StopReason.NO_CHANGE),
    "small gradient": (QUADRATIC, {"learning_rate": 0.003, "grad_tol": 1.0}, StopReason.GRADIENT_SMALL),
    "small change": (QUADRATIC, {"learning_rate": 0.003, "param_tol": 1e-3}, StopReason.NO_CHANGE),
    "diverged": (QUADRATIC, {"learning_rate": 1.01}, StopReason.DIVERGED),
    "never diverged": (QUADRATIC, {"learning_rate": 1.01, "divergence_factor": jnp.inf}, StopReason.MAX_STEPS),
    "fell without bound": (made_up("falling", 1e-3), {"learning_rate": 0.01}, StopReason.DIVERGED),
    "left the domain": (made_up("edge", 1.0), {"learning_rate": 0.003}, StopReason.NONFINITE),
    "best long ago": (made_up("jumping"), {"learning_rate": 1.0}, StopReason.MAX_STEPS),
    "a small change": (made_up("pausing"), {"learning_rate": 1.0, "param_tol": 0.6}, StopReason.NO_CHANGE),
    "over a hill": (made_up("hill"), {"learning_rate": 1.0}, StopReason.DIVERGED),
    "through infinity": (made_up("pole"), {"learning_rate": 1.0}, StopReason.NONFINITE),
    "a small gradient": (made_up("pausing"), {"learning_rate": 1.0, "grad_tol": 0.6}, StopReason.GRADIENT_SMALL),
    "all steps": (REGRESSION, {"learning_rate": 1e-3}, StopReason.MAX_STEPS),
    "alternating": (REGRESSION, {"learning_rate": 0.9 * LIMIT, "num_steps": 6000}, StopReason.NO_CHANGE),
    "all steps, recorded": (REGRESSION, {"learning_rate": 1e-3, "record": ("loss",)}, StopReason.MAX_STEPS),
    "some steps recorded": (
        REGRESSION,
        {"learning_rate": 1e-3, "record": ("loss", "grad_norm", "learning_rate"), "record_every": 3},
        StopReason.MAX_STEPS,
    ),
    "through infinity, recorded": (
        made_up("pole"),
        {"learning_rate": 1.0, "record": ("loss", "grad_norm")},
        StopReason.NONFINITE,
    ),
    "float32": (SINGLE_PRECISION, {"learning_rate": 1e-3}, StopReason.MAX_STEPS),
    "single rows": (REGRESSION, {"learning_rate": 1e-3, **SHUFFLED}, StopReason.MAX_STEPS),
    "single rows, recorded": (
        REGRESSION,
        {"learning_rate": 1e-3, **SHUFFLED, "record": ("loss", "grad_norm"), "record_every": 7},
        StopReason.MAX_STEPS,
    ),
    "single rows, in order": (REGRESSION, {"learning_rate": 1e-3, **IN_ORDER}, StopReason.MAX_STEPS),
    "single rows, diverged": (REGRESSION, {"learning_rate": 0.6, **SHUFFLED}, StopReason.DIVERGED),
    "single rows, no change": (REGRESSION, {"learning_rate": 1e-3, "param_tol": 1.0, **SHUFFLED}, StopReason.NO_CHANGE),
    "an epoch of small changes": (
        (TICKING, START, jnp.zeros(60)),
        {"learning_rate": 1.0, "param_tol": 10.0, "batch_size": 1},
        StopReason.NO_CHANGE,
    ),
    "pairs of rows": (REGRESSION, {"learning_rate": 1e-3, **SHUFFLED, "batch_size": 2}, StopReason.MAX_STEPS),
    "adam": (REGRESSION, {"learning_rate": 0.01, "optimizer": optax.adam}, StopReason.MAX_STEPS),
    "a schedule": (REGRESSION, {"learning_rate": optax.linear_schedule(0.0, 0.01, 50)}, StopReason.MAX_STEPS),
}


def steps_of(acceleration, problem):
    """The acceleration in place of `loop.take_steps`, with blocks of 20 steps."""
    return {
        "plain": loop.take_steps,
        "blocks": blocks.steps_in_blocks(20, blocks.move),
        "row_steps": problem.linear_form and blocks.steps_in_blocks(20, row_steps.solved(problem.linear_form)),
    }[acceleration]


@functools.partial(jax.jit, static_argnums=(0, 1))
def _descend(program, acceleration, params, given):
    run = bind(program, given)._replace(take_steps=steps_of(acceleration, program.problem))
    return loop.run(run, params, given.batch)


def descend(acceleration, problem, params, batch, **options):
    """`jaxgd.descend`, with its steps taken by one acceleration."""
    options = {"num_steps": 1000, "record": ()} | options
    tolerances = {"grad_tol": 0.0, "param_tol": 0.0, "divergence_factor": 1000.0}
    controls = {name: options.pop(name, value) for name, value in tolerances.items()}
    rate, key = options.pop("learning_rate"), options.pop("key", None)
    program = Program(problem, check_settings(problem, rate, Settings(**options, fast=False)))
    return _descend(program, acceleration, params, Given(batch, key, Controls(as_rate(rate), **controls)))


def is_plain(options):
    return "optimizer" not in options and not callable(options["learning_rate"])


APPLIES = {
    "blocks": lambda problem, options: is_plain(options),
    "row_steps": lambda problem, options: problem.linear_form is not None and options.get("batch_size") == 1,
}
SLOW = {
    *("alternating", "float32", "through infinity, recorded", "all steps, recorded", "single rows, recorded"),
    *("single rows, in order", "an epoch of small changes", "pairs of rows"),
}
"""Each of these is a program of its own; the others share a few."""

TOLERANCE = {"blocks": 1e-12, "row_steps": 1e-9}


def assert_same_run(found, expected, rtol):
    """The same decisions at the same steps, numbers to the rounding of another program.

    A bounded run beyond its largest stable rate would amplify rounding to all digits; there is none in the table.
    """
    assert StopReason(int(found.stop_reason)) == StopReason(int(expected.stop_reason))
    assert int(found.num_steps) == int(expected.num_steps)
    assert_trees_close(found, expected, rtol=rtol, atol=1e-300 if rtol else 0.0)


@pytest.mark.parametrize(
    ("acceleration", "name"),
    [
        pytest.param(one, name, marks=slow if name in SLOW else ())
        for one in APPLIES
        for name, (run, options, _) in RUNS.items()
        if APPLIES[one](run[0], options)
    ],
)
def test_steps(acceleration, name):
    run, options, reason = RUNS[name]
    with jax.numpy_dtype_promotion("standard"):
        expected, found = (descend(one, *run, **options) for one in ("plain", acceleration))
    assert StopReason(int(expected.stop_reason)) == reason
    if name == "alternating":  # the last digit decides when the parameters come back to where they were
        found, expected = (result._replace(num_steps=0) for result in (found, expected))
    assert_same_run(found, expected, TOLERANCE[acceleration])


def test_every_way_to_end_is_in_the_table():
    """But for Ctrl-C, which the host notices between two chunks."""
    assert {reason for _, _, reason in RUNS.values()} == set(StopReason) - {
        StopReason.INTERRUPTED,
        StopReason.NO_IMPROVEMENT,
    }


@pytest.mark.parametrize("options", [{}, pytest.param(SHUFFLED, marks=slow)], ids=["full batch", "single rows"])
@pytest.mark.parametrize("acceleration", ["blocks", pytest.param("row_steps", marks=slow)])
def test_lanes_share_the_branch_and_nothing_else(acceleration, options):
    """One lane of five diverges: it ends as it would on its own, and so do the others."""
    if not APPLIES[acceleration](REGRESSION[0], options | {"learning_rate": 0.0}):
        pytest.skip("takes single rows only")
    rates = jnp.asarray([1e-4, 1e-3, 0.01, 0.02, 3.0])
    plain, lanes = (
        jax.vmap(lambda rate, one=one: descend(one, *REGRESSION, learning_rate=rate, num_steps=800, **options))(rates)
        for one in ("plain", acceleration)
    )
    assert StopReason(int(lanes.stop_reason[-1])) == StopReason.DIVERGED
    np.testing.assert_array_equal(lanes.stop_reason, plain.stop_reason)
    np.testing.assert_array_equal(lanes.num_steps, plain.num_steps)
    assert_trees_close(lanes, plain, rtol=1e-9, atol=1e-12)


EVALUATIONS = {
    "tiled": lambda problem, batch: (jaxgd.tiled(problem, rows=7), batch),
    "sharded": lambda problem, batch: (jaxgd.sharded(problem, Mesh(np.asarray(jax.devices()[:1]), ("rows",))), batch),
    "compressed": lambda problem, batch: jaxgd.compress(problem, batch),
}


@pytest.mark.parametrize(
    "name", quick(["all steps", "float32", "diverging", "adam", "a schedule"], ["all steps", "diverging"])
)
@pytest.mark.parametrize("evaluation", EVALUATIONS)
def test_evaluations(evaluation, name):
    (problem, params, batch), options, reason = RUNS[name.replace("diverging", "all steps")]
    if name == "diverging":
        options, reason = {"learning_rate": 1.5 * LIMIT}, StopReason.DIVERGED
    options = {"num_steps": 200, "fast": False} | options
    changed, rows = EVALUATIONS[evaluation](problem, batch)
    with jax.numpy_dtype_promotion("standard"):
        expected = jaxgd.descend(problem, params, batch, **options)
        found = jaxgd.descend(changed, params, rows, **options)
    assert StopReason(int(expected.stop_reason)) == reason
    eps = float(jnp.finfo(params.weights.dtype).eps)
    # Sums over devices are added in another order; 200 steps at a schedule let the last digits grow.
    assert_same_run(found, expected, 1e8 * eps if name == "a schedule" else 1e4 * eps)


def test_the_table_names_what_is_tested_here():
    assert {row.file for row in fast.ACCELERATIONS} == {*APPLIES, *EVALUATIONS}
    assert all(row.does and row.equal and row.taken for row in fast.ACCELERATIONS)


@pytest.mark.parametrize(("problem", "make_batch"), quick_systems(KINDS, "mlp((8,))"))
def test_systems_in_blocks_that_are_chosen(monkeypatch, problem, make_batch):
    """As users get them, but for shorter runs: 40,000 steps are blocks of 2000."""
    monkeypatch.setattr(choose, "BLOCKS_FROM", 40_000)
    params, batch = setting(problem, make_batch)
    options = {"learning_rate": 0.01, "num_steps": 40_000, "record_every": 3}
    found, plain = (jaxgd.descend(problem, params, batch, fast=fast, **options) for fast in (True, False))
    assert_same_run(found, plain, 1e-9)


@pytest.mark.parametrize(
    ("options", "shape", "expected"),
    [
        ({"num_steps": 499_999}, (5, 1), "plain"),
        ({"num_steps": 500_000}, (5, 1), "blocks"),
        ({"num_steps": 500_000, "fast": False}, (5, 1), "plain"),
        ({"num_steps": 500_000, "record": ("params",)}, (5, 1), "plain"),
        ({"num_steps": 500_000, "optimizer": optax.sgd}, (5, 1), "plain"),
        ({"num_steps": 500_000}, (100_000, 4), "plain"),
        ({"num_steps": 500_000, "batch_size": 2}, (8002, 4), "blocks"),
        ({"num_steps": 500_000, "batch_size": 2}, (202, 4), "blocks"),
        ({"num_steps": 500_000, "batch_size": 2}, (200, 4), "plain"),
        ({"num_steps": 500_000, "batch_size": 1}, (4001, 4), "solved"),
        ({"num_steps": 499_999, "batch_size": 1}, (101, 4), "solved"),
        ({"num_steps": 500_000, "batch_size": 1, "optimizer": optax.adam}, (4001, 4), "plain"),
    ],
)
def test_steps_are_chosen_by_size_and_rule(monkeypatch, options, shape, expected):
    problem, batch = problems.linear_regression(), Batch(jnp.zeros(shape), jnp.zeros(shape[0]))
    chosen = []
    monkeypatch.setattr(
        blocks, "steps_in_blocks", lambda size, move: chosen.append("blocks" if move is blocks.move else "solved")
    )
    program = Program(problem, check_settings(problem, 0.1, Settings(**options)))
    run = bind(program, Given(batch, None, Controls(0.1, 0.0, 0.0, 1000.0)))
    assert (chosen or ["plain"])[-1] == expected
    assert (run.take_steps is loop.take_steps) == (expected == "plain")


@pytest.mark.parametrize("options", [{}, pytest.param(SHUFFLED, marks=slow)], ids=["full batch", "single rows"])
def test_a_run_in_chunks_goes_through_the_same_bits(options):
    problem, (params, batch) = REGRESSION[0], cast(REGRESSION[1:], jnp.float32)
    options = {"learning_rate": 1e-3, "num_steps": 1007} | options
    whole = jaxgd.descend(problem, params, batch, **options)
    assert_trees_equal(jaxgd.fit(problem, params, batch, progress=False, **options), whole)


def counted(calls):
    def loss(params, batch):
        jax.debug.callback(lambda: calls.append(None))
        return (params - 2) ** 2

    return jaxgd.Problem(name="counted", loss=loss, grad=lambda p, b: 2 * (p - 2))


def test_steps_after_the_last_lane_ended_cost_nothing():
    calls, rates = [], jnp.asarray([0.3, 0.4])
    options = {"learning_rate": 0.3, "num_steps": 10_000}
    problem = counted(calls)
    run = jax.vmap(lambda rate: descend("blocks", problem, jnp.asarray(5.0), None, **options | {"learning_rate": rate}))
    assert set(run(rates).stop_reason.tolist()) == {int(StopReason.GRADIENT_SMALL)}
    jax.effects_barrier()
    assert len(calls) < 2000


def test_after_failures_blocks_are_tried_less_and_less_often():
    """Every block of this run holds an event: blocks 0, 2, 5, 10 and 19 of 20 are tried, and no more."""
    tried = []

    def move(*args):
        jax.debug.callback(lambda: tried.append(None))
        return blocks.move(*args)

    problem, params, number = made_up("jumping")
    program = Program(problem, check_settings(problem, 1.0, Settings(1000, record=())))
    run = bind(program, Given(number, None, Controls(1.0, 0.0, 0.0, 1000.0)))
    jax.jit(lambda: loop.run(run._replace(take_steps=blocks.steps_in_blocks(50, move)), params, number))()
    jax.effects_barrier()
    assert len(tried) == 5


def test_runs_can_be_differentiated():
    """The derivative of the end by the rate, theta_n = 2 + (1 - 2 eta)^n (theta_0 - 2)."""

    def end(rate):
        return descend("blocks", *QUADRATIC, learning_rate=rate, num_steps=300).params.x

    rate, n = 1e-3, 300
    expected = -2 * n * (1 - 2 * rate) ** (n - 1) * (7.0 - 2)
    assert float(jax.grad(end)(rate)) == pytest.approx(expected, rel=1e-9)
    assert float(jax.jvp(end, (rate,), (1.0,))[1]) == pytest.approx(expected, rel=1e-9)
