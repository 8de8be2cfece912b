"""The same loss and gradient, evaluated another way."""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common import KINDS, SYSTEMS, assert_trees_close, quick, setting, slow
from jax.sharding import Mesh

import jaxgd
from jaxgd import problems
from jaxgd.descent.fast import choose, tiled
from jaxgd.types import Batch, LinearParams, evaluate

TESTS = Path(__file__).resolve().parents[1]
LINEAR = [system for system in SYSTEMS if system.values[0].linear_form is not None]


@pytest.mark.parametrize(("answer", "expected"), [(2**19, 2**19), (0, None), (-1, None), (ValueError, None)])
def test_the_size_of_a_tile_is_asked_of_the_machine(monkeypatch, answer, expected):
    def sysconf(name):
        assert name == "SC_LEVEL2_CACHE_SIZE"
        if answer is ValueError:
            raise ValueError("unrecognized configuration name")
        return answer

    monkeypatch.setattr(os, "sysconf", sysconf)
    tiled.cache_bytes.cache_clear()
    monkeypatch.setattr(Path, "read_text", lambda path: "768K\n")
    assert tiled.cache_bytes() == (expected or 768 * 1024)
    tiled.cache_bytes.cache_clear()

    def missing(path):
        raise FileNotFoundError(path)

    monkeypatch.setattr(Path, "read_text", missing)
    size = tiled.cache_bytes()
    assert size == (expected or 2**18)
    batch = Batch(jnp.zeros((4, 16)), jnp.zeros(4))
    assert size / 2 < tiled.tile_rows(batch) * 17 * 8 <= size  # a power of two of rows of 17 numbers
    assert tiled.tile_rows(Batch(jnp.zeros((1, 10**6)), jnp.zeros(1))) == 64
    tiled.cache_bytes.cache_clear()


def gap(found, expected):
    """Largest difference in units of rounding of the largest entry, over loss and leaves."""
    eps = float(jnp.finfo(jax.tree.leaves(expected)[0].dtype).eps)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    gaps = []
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        gaps.append(np.max(np.abs(np.asarray(a) - np.asarray(b))) / (eps * np.max(np.abs(np.asarray(b)))))
    return max(gaps)


@functools.cache
def both(problem):
    return jax.jit(lambda params, batch: evaluate(problem, params, batch))


@pytest.mark.parametrize(("dtype", "size"), [(jnp.float64, 2), pytest.param(jnp.float32, 5, marks=slow)])
@pytest.mark.parametrize(("problem", "make_batch"), KINDS)
def test_tiles_give_the_loss_and_the_gradient(problem, make_batch, dtype, size):
    params, batch = setting(problem, make_batch, dtype)
    assert gap(both(jaxgd.tiled(problem, rows=size))(params, batch), both(problem)(params, batch)) < 30


@pytest.mark.parametrize("size", [1, 11, 64])
def test_loss_and_gradient_of_tiles_can_be_asked_for_separately(size):
    problem, make_batch = problems.sigmoid_neuron(l2=0.1), dict(problems.ALL_PROBLEMS)[problems.sigmoid_neuron()]
    params, batch = setting(problem, make_batch)
    tiled = jaxgd.tiled(problem, rows=size)

    @jax.jit
    def found(params, batch):
        return (tiled.loss(params, batch), tiled.grad(params, batch)), jax.grad(tiled.loss)(params, batch)

    separate, reverse = found(params, batch)
    expected = both(problem)(params, batch)
    assert gap(separate, expected) < 30
    assert gap(reverse, expected[1]) < 30


def test_tiles_are_one_object_and_keep_what_the_problem_knows():
    problem = problems.linear_regression(l2=0.1)
    tiled = jaxgd.tiled(problem, rows=3)
    assert tiled is jaxgd.tiled(problem, rows=3)
    assert tiled.name == "tiled(linear_regression, rows=3, l2=0.1)"
    assert tiled.minimizer is problem.minimizer
    assert tiled.l2 == 0.1


@pytest.mark.parametrize("dtype", [jnp.float32, pytest.param(jnp.float64, marks=slow)])
@pytest.mark.parametrize(("problem", "make_batch"), LINEAR)
def test_statistics_give_the_loss_and_the_gradient(problem, make_batch, dtype):
    params, batch = setting(problem, make_batch, dtype)
    small, statistics = jaxgd.compress(problem, batch)
    assert statistics.inputs.dtype == dtype
    assert gap(both(small)(params, statistics), both(problem)(params, batch)) < 100


def test_statistics_from_chunks_are_those_of_all_rows(rng):
    inputs, targets = rng.normal(size=(50, 3)) + 1e3, rng.normal(size=(50, 2))
    problem = problems.linear_regression()
    _, whole = jaxgd.compress(problem, Batch(inputs, targets))
    chunks = (Batch(inputs[i : i + 7], targets[i : i + 7]) for i in range(0, 50, 7))
    _, parts = jaxgd.compress(problem, chunks)
    np.testing.assert_allclose(parts.inputs.T @ parts.inputs, whole.inputs.T @ whole.inputs, rtol=1e-12)


def test_statistics_of_columns_far_from_zero_keep_their_digits(rng):
    # The spread of a column is lost in float32 sums of squares from 1e4 on, in float64 ones from 1e8 on.
    offset = np.array([1e7, 0.0])
    inputs = rng.normal(size=(400, 2)) + offset
    targets = (inputs - offset) @ [2.0, -1.0] + 3.0
    problem = problems.linear_regression()
    _, small = jaxgd.compress(problem, Batch(jnp.asarray(inputs), jnp.asarray(targets)))
    weights = np.linalg.lstsq(np.asarray(small.inputs), np.asarray(small.targets), rcond=None)[0][:2]
    np.testing.assert_allclose(weights, [2.0, -1.0], rtol=1e-7)


def test_statistics_of_a_file_are_read_in_one_pass(tmp_path, rng):
    path = tmp_path / "rows.npy"
    np.save(path, rng.normal(size=(1000, 4)))
    mapped = np.load(path, mmap_mode="r")
    chunks = (Batch(mapped[i : i + 100, :3], mapped[i : i + 100, 3]) for i in range(0, 1000, 100))
    problem = problems.linear_regression(l2=0.1)
    small, statistics = jaxgd.compress(problem, chunks)
    start = LinearParams(jnp.zeros(3), jnp.zeros(()))
    options = {"learning_rate": 0.1, "num_steps": 200}
    whole = Batch(jnp.asarray(mapped[:, :3]), jnp.asarray(mapped[:, 3]))
    expected = jaxgd.descend(problem, start, whole, **options)
    found = jaxgd.descend(small, start, statistics, **options)
    assert_trees_close(found.params, expected.params, rtol=1e-12)
    np.testing.assert_allclose(found.history.loss, expected.history.loss, rtol=1e-12)


def test_constant_columns_are_no_mistake():
    inputs = jnp.asarray([[1.0, 2.0], [1.0, 3.0], [1.0, 5.0]])
    problem, targets = problems.linear_regression(), jnp.asarray([1.0, 2.0, 3.0])
    params = LinearParams(jnp.asarray([0.5, 0.25]), jnp.asarray(0.1))
    small, statistics = jaxgd.compress(problem, Batch(inputs, targets))
    assert gap(both(small)(params, statistics), both(problem)(params, Batch(inputs, targets))) < 100


@pytest.mark.parametrize("evaluation", quick(["plain", "tiled", "sharded", "compressed"], ["compressed"]))
def test_every_evaluation_gives_the_same_run(evaluation, rng):
    inputs = jnp.asarray(rng.normal(size=(300, 3)))
    batch = Batch(inputs, inputs @ jnp.asarray([1.0, -2.0, 0.5]) + jnp.asarray(rng.normal(size=300)))
    problem = problems.linear_regression(l2=0.01)
    params = problem.init(jax.random.key(0), batch)
    expected = jaxgd.descend(problem, params, batch, learning_rate=0.1, num_steps=100)
    found = jaxgd.fit(problem, params, batch, learning_rate=0.1, num_steps=100, evaluation=evaluation)
    assert_trees_close(found.params, expected.params, rtol=1e-12)
    np.testing.assert_allclose(found.history.loss, expected.history.loss, rtol=1e-12)
    lanes = jaxgd.sweep(
        problem, params, batch, over={"learning_rate": jnp.array([0.1, 0.05])}, num_steps=100, evaluation=evaluation
    )
    assert_trees_close(jax.tree.map(lambda leaf: leaf[0], lanes.params), expected.params, rtol=1e-12)


@pytest.mark.parametrize(
    ("problem", "shape", "num_steps", "expected"),
    [
        (problems.linear_regression(), (100, 4), 1000, "plain"),
        (problems.linear_regression(), (60_000, 4), 1000, "compressed"),
        (problems.linear_regression(), (300_000, 4), 2, "tiled"),
        (problems.sigmoid_neuron(), (300_000, 4), 1000, "tiled"),
        (jaxgd.tiled(problems.sigmoid_neuron(), rows=7), (300_000, 4), 1000, "plain"),
        (jaxgd.autodiff(lambda params, batch: jnp.sum(batch.inputs) * params), (300_000, 4), 1000, "plain"),
    ],
)
def test_the_evaluation_is_chosen_by_size(problem, shape, num_steps, expected):
    batch = Batch(jnp.zeros(shape, jnp.float32), jnp.zeros(shape[:1], jnp.float32))
    assert choose.plan(problem, batch, num_steps=num_steps).evaluation == expected


def test_rows_that_are_not_finite_end_the_run_as_ever():
    batch = Batch(jnp.zeros((40_000, 8)).at[7, 3].set(jnp.nan), jnp.zeros(40_000))
    problem = problems.linear_regression()
    params = LinearParams(jnp.zeros(8), jnp.zeros(()))
    result = jaxgd.fit(problem, params, batch, learning_rate=0.1, num_steps=100)
    assert result.stop_reason == jaxgd.StopReason.NONFINITE


BATCH = Batch(jnp.ones((4, 2)), jnp.ones(4))
MESH = Mesh(np.asarray(jax.devices()[:1]), ("rows",))
REFUSED = [
    (lambda: jaxgd.tiled(problems.line(), rows=0), ValueError, "`rows` must be at least 1, got 0."),
    (lambda: jaxgd.tiled(problems.line(), rows=1.5), TypeError, "`rows` must be a Python integer, got 1.5."),
    (
        lambda: jaxgd.sharded(problems.line(), 4),
        TypeError,
        "`mesh` must be a jax.sharding.Mesh, got int.",
    ),
    (
        lambda: jaxgd.compress(problems.sigmoid_neuron(), BATCH),
        ValueError,
        "`problem` must be a squared error of a linear model to be compressed, got sigmoid_neuron.",
    ),
    (
        lambda: jaxgd.compress(problems.linear_regression(), []),
        ValueError,
        "`batch` must have at least one row, got 0.",
    ),
    (
        lambda: jaxgd.compress(problems.linear_regression(), BATCH._replace(targets=jnp.ones(3))),
        ValueError,
        "`targets` must have 4 rows (those of the inputs), got 3.",
    ),
    (
        lambda: jaxgd.compress(problems.linear_regression(), [BATCH, Batch(jnp.ones((4, 3)), jnp.ones(4))]),
        ValueError,
        "`batch` must have 2 columns of inputs in every chunk, got (4, 3).",
    ),
    (
        lambda: jaxgd.compress(problems.linear_regression(), BATCH._replace(targets=jnp.full(4, jnp.inf))),
        ValueError,
        "`batch` must be finite to be compressed, got NaN or infinity, or values whose squares are.",
    ),
    (
        lambda: choose.plan(problems.line(), BATCH, num_steps=3, evaluation="fast"),
        ValueError,
        "`evaluation` must be one of 'auto', 'plain', 'tiled', 'sharded', 'compressed', got 'fast'.",
    ),
    (
        lambda: choose.plan(problems.line(), BATCH, num_steps=3, batch_size=2, evaluation="tiled"),
        ValueError,
        "`evaluation` must be 'auto' or 'plain' with a `batch_size`, got 'tiled'.",
    ),
]


@pytest.mark.parametrize(("call", "error", "message"), REFUSED, ids=[case[2] for case in REFUSED])
def test_what_cannot_be_done_is_refused_by_name(call, error, message):
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == message


FOUR_DEVICES = """
import json
import jax
import jax.numpy as jnp
import numpy as np
import jaxgd
from jaxgd.descent.fast import choose
from jaxgd.descent.fast.sharded import of_shares, shares_of
from jaxgd.types import Batch, evaluate
from common import SYSTEMS, flat, setting

devices = jax.devices()
square = jax.make_mesh((2, 2), ("rows", "lanes"))  # explicit axes, as jax makes them
gaps = {}
for system in SYSTEMS:
    problem, make_batch = system.values
    params, batch = setting(problem, make_batch)
    run = lambda problem: flat(jax.jit(lambda p, b: evaluate(problem, p, b))(params, batch))
    expected, found = run(problem), run(jaxgd.sharded(jaxgd.tiled(problem, rows=2), square))
    gaps[problem.name] = [float(np.max(np.abs(found - expected)) / np.max(np.abs(expected)))]
problem = jaxgd.problems.sigmoid_neuron(l2=0.1)
for num_rows in (64, 67):
    inputs = jnp.asarray(np.random.default_rng(0).normal(size=(num_rows, 5)))
    batch = Batch(inputs, jax.nn.sigmoid(inputs.sum(axis=1)))
    params = problem.init(jax.random.key(0), batch)
    options = {"over": {"learning_rate": jnp.linspace(0.1, 1.0, 6), "l2": jnp.arange(3.0)}, "num_steps": 20}
    lone = flat(jaxgd.sweep(problem, params, batch, **options))
    for name, where in {"mesh": {"mesh": square}, "only rows": {"evaluation": "sharded"}}.items():
        found = flat(jaxgd.sweep(problem, params, batch, **options, **where))
        gaps[f"sweep, {name}, {num_rows} rows"] = [float(np.max(np.abs(found - lone)))]
for num_rows in (3, 64, 67):  # devices without a row, with as many each, and filled up
    inputs = jnp.asarray(np.random.default_rng(1).normal(size=(num_rows, 5)))
    batch = Batch(inputs, jax.nn.sigmoid(inputs.sum(axis=1)))
    params = problem.init(jax.random.key(0), batch)
    expected = evaluate(problem, params, batch)
    found = evaluate(of_shares(problem), params, shares_of(batch, (num_rows,)))
    gaps[f"shares of {num_rows} rows"] = [float(np.max(np.abs(flat(found) - flat(expected))))]
large = Batch(jnp.ones((2**20, 4), jnp.float32), jnp.ones(2**20, jnp.float32))
gaps["plan"] = choose.plan(problem, large, num_steps=10).evaluation
print(json.dumps([len(devices), gaps]))
"""


@slow
def test_devices_share_the_rows_of_every_problem_and_the_lanes_of_a_sweep():
    flags = "--xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0"
    env = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "JAX_ENABLE_X64": "1", "PYTHONPATH": str(TESTS)}
    done = subprocess.run([sys.executable, "-c", FOUR_DEVICES], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr[-2000:]
    num_devices, gaps = json.loads(done.stdout)
    assert num_devices == 4
    assert gaps.pop("plan") == "sharded"
    assert len(gaps) == len(SYSTEMS) + 7
    assert {name: found for name, found in gaps.items() if max(found) > 1e-14} == {}
