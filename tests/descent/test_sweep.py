"""Lanes equal lone runs, whatever the axes, chunks and devices."""

import functools
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from common import FEW, SYSTEMS_WITH_DATA, assert_trees_close, assert_trees_equal, quick, quick_systems, slow, stacked
from common import setting as system_setting

import jaxgd
from jaxgd import StopReason, problems
from jaxgd.problems import linear_regression
from jaxgd.types import Batch, ScalarParams


def setting(problem=None, num_rows=20):
    rng = np.random.default_rng(0)
    batch = Batch(jnp.asarray(rng.normal(size=(num_rows, 3))), jnp.asarray(rng.normal(size=num_rows)))
    problem = problem or linear_regression()
    return problem, problem.init(jax.random.key(0), batch), batch


def lane(result, *index):
    return jax.tree.map(lambda leaf: np.asarray(leaf)[index], result)


def test_a_product_of_axes_in_their_order():
    problem, params, batch = setting()
    rates, keys = jnp.array([0.01, 0.05, 0.1]), jax.random.split(jax.random.key(1), 2)
    # Named so that alphabetical order is not the order of the axes.
    result = jaxgd.sweep(problem, params, batch, over={"learning_rate": rates, "key": keys}, num_steps=30, batch_size=6)
    assert result.loss.shape == (3, 2)
    assert result.history.loss.shape == (3, 2, 30)
    for i, rate in enumerate(rates):
        for j, key in enumerate(keys):
            lone = jaxgd.descend(problem, params, batch, learning_rate=rate, key=key, num_steps=30, batch_size=6)
            assert_trees_close(lane(result, i, j), lone, rtol=1e-12)


STEPS = {"num_steps": 30}
"""Of all runs here, so that they share the program of a run of its own."""


def test_zipped_axes_run_together():
    problem, params, batch = setting()
    rates = jnp.array([0.01, 0.05])
    starts = stacked([params, jax.tree.map(lambda leaf: 2 * np.asarray(leaf), params)])
    result = jaxgd.sweep(problem, params, batch, over={"params": starts, "learning_rate": rates}, zipped=True, **STEPS)
    assert result.loss.shape == (2,)
    lone = jaxgd.descend(problem, lane(starts, 1), batch, learning_rate=0.05, **STEPS)
    assert_trees_close(lane(result, 1), lone, rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("grad_tol", [0.0, 0.1]),
        pytest.param("param_tol", [0.0, 0.01], marks=slow),
        pytest.param("divergence_factor", [10.0, 100.0], marks=slow),
    ],
)
def test_tolerances_are_swept(name, values):
    problem, params, batch = setting()
    result = jaxgd.sweep(problem, params, batch, over={name: jnp.array(values)}, learning_rate=0.1, **STEPS)
    lone = jaxgd.descend(problem, params, batch, learning_rate=0.1, **STEPS, **{name: values[1]})
    assert_trees_close(lane(result, 1), lone, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    "make",
    [
        linear_regression,
        *(pytest.param(make, marks=slow) for make in (problems.sigmoid_neuron, functools.partial(problems.mlp, (4,)))),
    ],
    ids=["linear", "neuron", "mlp"],
)
def test_penalties_are_swept(make):
    problem, params, batch = setting(make())
    result = jaxgd.sweep(problem, params, batch, over={"l2": jnp.array([0.0, 0.1, 1.0])}, learning_rate=0.05, **STEPS)
    for i, l2 in ((0, 0.0), (2, 1.0)):
        lone = jaxgd.descend(make(l2=l2), params, batch, learning_rate=0.05, **STEPS)
        assert_trees_close(lane(result, i), lone, rtol=1e-11, atol=1e-14)


def test_data_are_swept():
    problem, params, batch = setting()
    batches = stacked([batch, jax.tree.map(lambda leaf: -np.asarray(leaf), batch)])
    result = jaxgd.sweep(problem, params, batch, over={"batch": batches}, learning_rate=0.05, **STEPS)
    lone = jaxgd.descend(problem, params, lane(batches, 1), learning_rate=0.05, **STEPS)
    assert_trees_close(lane(result, 1), lone, rtol=1e-12)


def test_rates_of_an_optax_optimizer_are_swept():
    problem, params, batch = setting()
    with jax.numpy_dtype_promotion("standard"):
        result = jaxgd.sweep(
            problem, params, batch, over={"learning_rate": jnp.array([0.01, 0.1])}, num_steps=30, optimizer=optax.adam
        )
        lone = jaxgd.descend(problem, params, batch, learning_rate=0.1, num_steps=30, optimizer=optax.adam)
    assert_trees_close(lane(result, 1), lone, rtol=1e-11)


@pytest.mark.parametrize("lanes_per_chunk", quick([1, 4, 100], [4, 100]))
def test_chunks_of_lanes_give_the_same_result(lanes_per_chunk):
    problem, params, batch = setting()
    rates = np.geomspace(1e-3, 0.3, 10)
    run = functools.partial(jaxgd.sweep, problem, params, batch, over={"learning_rate": rates}, **STEPS)
    whole, chunked = run(), run(lanes_per_chunk=lanes_per_chunk)
    assert_trees_close(chunked, jax.tree.map(np.asarray, whole), rtol=1e-11, atol=1e-13)


def test_one_trace_for_new_values():
    traces = []

    def loss(params, batch):
        traces.append(None)
        return jnp.sum((params - batch) ** 2)

    problem = jaxgd.autodiff(loss)
    run = functools.partial(jaxgd.sweep, problem, jnp.ones(3), jnp.zeros(3), num_steps=5, lanes_per_chunk=8)
    run(over={"learning_rate": jnp.linspace(0.1, 0.2, 8)})
    first = len(traces)
    run(over={"learning_rate": jnp.linspace(0.3, 0.4, 8)})
    assert len(traces) == first
    run(over={"learning_rate": jnp.linspace(0.3, 0.4, 8)}, grad_tol=0.1)
    assert len(traces) == first


QUADRATIC_WITH_DATA = quick_systems([s for s in SYSTEMS_WITH_DATA if s.values[0].minimizer is not None], *FEW)


@pytest.mark.parametrize(("problem", "make_batch"), QUADRATIC_WITH_DATA)
def test_rates_beside_the_limit_in_one_sweep(problem, make_batch):
    """0.99 of the limit never diverges, 1.01 of it always does, whatever the data."""
    data_sets = 50
    params, _ = system_setting(problem, make_batch)
    draw = jax.jit(jax.vmap(make_batch))
    batches = jax.tree.map(np.asarray, draw(jax.random.split(jax.random.key(1), data_sets)))
    limit = jax.jit(jax.vmap(lambda batch: jaxgd.largest_stable_learning_rate(problem, params, batch)))
    limits = np.asarray(limit(batches))
    result = jaxgd.sweep(
        problem,
        params,
        None,
        over={
            "batch": jax.tree.map(lambda leaf: np.concatenate([leaf, leaf]), batches),
            "learning_rate": np.concatenate([0.99 * limits, 1.01 * limits]),
        },
        zipped=True,
        num_steps=2000,
        record=(),
    )
    reasons = np.asarray(result.stop_reason)
    assert not np.isin(reasons[:data_sets], [StopReason.DIVERGED, StopReason.NONFINITE]).any()
    assert (reasons[data_sets:] == StopReason.DIVERGED).all()


@slow
def test_lanes_spread_over_devices_are_the_same():
    """Four CPU devices, in a process of its own, 10 lanes: two devices have a lane that is thrown away."""
    script = """
import json, jax, jax.numpy as jnp, numpy as np, jaxgd
jax.config.update("jax_enable_x64", True)
problem = jaxgd.problems.quadratic()
start = problem.init(jax.random.key(0), None)
over = {"learning_rate": jnp.linspace(0.1, 1.9, 10)}
run = lambda **o: jaxgd.sweep(problem, start, None, over=over, num_steps=50, **o)
meshes = [jax.make_mesh((4,), ("lanes",)), jax.make_mesh((2, 2), ("a", "b"))]
alone = jax.tree.leaves(run())
print(json.dumps([len(jax.devices())] + [
    all(np.allclose(x, y, rtol=1e-12, atol=0) for x, y in zip(alone, jax.tree.leaves(run(mesh=mesh, **o)), strict=True))
    for mesh in meshes for o in ({}, {"lanes_per_chunk": 3})
]))
"""
    env = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [4, True, True, True, True]


QUADRATIC = (problems.quadratic(), ScalarParams(jnp.asarray(5.0)), None)
RATES = jnp.array([0.1, 0.2])
REFUSED = [
    ({"over": {}, "num_steps": 3}, ValueError, "`over` must name at least one axis, got none."),
    (
        {"over": {"rate": RATES}, "num_steps": 3},
        ValueError,
        "`over` must be one of 'learning_rate', 'key', 'params', 'batch', 'l2', 'grad_tol', 'param_tol', "
        "'divergence_factor', 'batch_size', got 'rate'.",
    ),
    (
        {"over": {"learning_rate": RATES}, "learning_rate": 0.1, "num_steps": 3},
        TypeError,
        "`learning_rate` must be given in `over` or as an argument, not both.",
    ),
    (
        {"over": {"learning_rate": 0.1}, "num_steps": 3},
        ValueError,
        "`over['learning_rate']` must hold arrays with one leading axis of lanes, got ().",
    ),
    (
        {"over": {"learning_rate": jnp.ones(0)}, "num_steps": 3},
        ValueError,
        "`over['learning_rate']` must hold arrays with one leading axis of lanes, got (0,).",
    ),
    (
        {"over": {"learning_rate": RATES, "grad_tol": jnp.ones(3)}, "zipped": True, "num_steps": 3},
        ValueError,
        "zipped axes of `over` must have one length, got learning_rate 2, grad_tol 3.",
    ),
    (
        {"over": {"l2": RATES}, "learning_rate": 0.1, "num_steps": 3},
        ValueError,
        "`over` cannot name 'l2': quadratic has no penalty.",
    ),
    ({"over": {"learning_rate": RATES}}, TypeError, "sweep() needs `num_steps`."),
    ({"over": {"learning_rate": RATES}, "num_step": 3}, TypeError, "sweep() got an unexpected argument 'num_step'."),
    (
        {"over": {"grad_tol": RATES}, "num_steps": 3},
        TypeError,
        "`learning_rate` must be a number or a function step -> rate, got None.",
    ),
    (
        {"over": {"learning_rate": RATES}, "num_steps": 3, "lanes_per_chunk": 0},
        ValueError,
        "`lanes_per_chunk` must be at least 1, got 0.",
    ),
]


@pytest.mark.parametrize(("options", "error", "text"), REFUSED)
def test_bad_input_gets_its_exact_error(options, error, text):
    with pytest.raises(error) as caught:
        jaxgd.sweep(*QUADRATIC, **options)
    assert str(caught.value) == text


def test_the_caller_keeps_its_arguments():
    over = {"learning_rate": RATES}
    before = dict(over)
    first = jaxgd.sweep(*QUADRATIC, over=over, num_steps=3)
    assert over == before
    assert_trees_equal(jaxgd.sweep(*QUADRATIC, over=over, num_steps=3), first)


def tuned(**options):
    """A small regression by optax's sgd."""
    problem = problems.linear_regression()
    inputs = np.random.default_rng(0).normal(size=(12, 2))
    batch = Batch(jnp.asarray(inputs), jnp.asarray(inputs @ [1.0, 2.0]))
    run = jaxgd.sweep if "over" in options else jaxgd.descend
    if "learning_rate" not in options.get("over", {}):
        options["learning_rate"] = 0.1
    options = {"num_steps": 6, "key": jax.random.key(0), "record": ()} | options
    with jax.numpy_dtype_promotion("standard"):
        return run(problem, problem.zeros(batch), batch, **options)


def test_a_sweep_over_an_argument_of_the_optimizer():
    lanes = tuned(over={"momentum": [0.0, 0.5]}, optimizer=optax.sgd)
    alone = tuned(optimizer=functools.partial(optax.sgd, momentum=0.5))
    np.testing.assert_allclose(lanes.params.weights[1], alone.params.weights, rtol=1e-12)


@pytest.mark.slow
def test_a_sweep_over_batch_sizes():
    """Each lane is the run of its own size, in a product of axes and zipped."""
    rates, sizes = [0.1, 0.05], [4, None]
    lanes = tuned(over={"learning_rate": rates, "batch_size": sizes})
    assert lanes.loss.shape == (2, 2)
    for j, size in enumerate(sizes):
        np.testing.assert_allclose(lanes.params.weights[0, j], tuned(batch_size=size).params.weights, rtol=1e-12)
    over = {"learning_rate": [0.05, 0.1, 0.05], "batch_size": [4, None, None]}
    zipped = tuned(over=over, zipped=True)
    expected = lanes.params.weights[jnp.array([1, 0, 1]), jnp.array([0, 1, 1])]
    np.testing.assert_allclose(zipped.params.weights, expected, rtol=1e-12)
    alone = tuned(over={"batch_size": sizes})
    np.testing.assert_allclose(alone.params.weights, lanes.params.weights[0], rtol=1e-12)


@pytest.mark.parametrize(
    ("over", "options", "error", "text"),
    [
        ({"b1": [0.9]}, {}, ValueError, "`over` must be one of 'learning_rate', .*'batch_size', got 'b1'"),
        ({"nesterov": [1]}, {"optimizer": optax.adam}, ValueError, "'eps_root', got 'nesterov'"),
        ({"memory_size": [1, 2]}, {"optimizer": optax.lbfgs}, TypeError, "cannot name 'memory_size': lbfgs must know"),
        ({"batch_size": [0]}, {}, ValueError, r"`over\['batch_size'\]` must be at least 1, got 0"),
        ({"batch_size": [1]}, {"batch_size": 2}, TypeError, "`batch_size` must be given in `over` or as an argument"),
    ],
    ids=lambda value: None if "0x" in str(value) else str(value),
)
def test_axes_that_are_refused(over, options, error, text):
    problem = problems.linear_regression()
    batch = Batch(jnp.ones((4, 2)), jnp.ones(4))
    with jax.numpy_dtype_promotion("standard"), pytest.raises(error, match=text):
        jaxgd.sweep(problem, problem.zeros(batch), batch, over=over, learning_rate=0.1, num_steps=2, **options)
