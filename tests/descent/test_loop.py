"""The loop against exact trajectories, against optax, and under every transformation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from common import (
    FEW,
    KINDS,
    SYSTEMS,
    assert_trees_close,
    assert_trees_equal,
    cast,
    flat,
    quick_systems,
    setting,
    slow,
)

import jaxgd
from jaxgd import StopReason, problems
from jaxgd.problems.scalar import CubicParams
from jaxgd.theory import closed_form, curvature
from jaxgd.types import Batch, LinearParams, ScalarParams

QUADRATIC = quick_systems(
    [s for s in SYSTEMS if s.values[0].minimizer is not None and "polynomial" not in s.id],
    "quadratic",
    "linear_regression",
    *FEW,
)
OFF = {"grad_tol": -1.0, "param_tol": -1.0}


def reason(result):
    return StopReason(int(result.stop_reason))


def start_at(x):
    return ScalarParams(jnp.asarray(x))


def descend_quadratic(start=5.0, **options):
    """`(x - 2)^2 + 1`: a step multiplies `x - 2` by `1 - 2 eta`. Runs of 500 steps share one program."""
    options = {"learning_rate": 0.1, "num_steps": 500} | options
    return jaxgd.descend(problems.quadratic(), start_at(start), None, **options)


def data(seed=0, num_rows=20, num_inputs=3, noise=1.0):
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(num_rows, num_inputs))
    targets = inputs @ np.arange(1.0, num_inputs + 1) + noise * rng.normal(size=num_rows)
    return Batch(jnp.asarray(inputs), jnp.asarray(targets))


@pytest.mark.parametrize(("problem", "make_batch"), QUADRATIC)
def test_full_batch_follows_the_closed_form(problem, make_batch):
    params, batch = setting(problem, make_batch)
    size = np.max(np.abs(flat(params)))
    largest = float(jax.jit(curvature.largest_eigenvalue, static_argnums=0)(problem, params, batch).value)
    loss = getattr(problem.call, "keywords", {}).get("loss", "sum_squared_error")
    which = {"loss": loss, "l2": problem.l2}
    if "quadratic(" in problem.name or "fit_intercept=False" in problem.name:  # its matrix is not known by its type
        which = {"problem": problem}
    for share in (0.2, 1.0, 1.9):
        rate = share / largest
        result = jaxgd.descend(problem, params, batch, learning_rate=rate, num_steps=100, record=("params",), **OFF)
        exact = closed_form.trajectory(params, batch, learning_rate=rate, num_steps=100, **which)
        assert int(result.num_steps) == 100
        for path, entries in ((result.history.params, slice(0, -1)), (result.params, -1)):
            expected = jax.tree.map(lambda leaf, entries=entries: np.asarray(leaf)[entries], exact)
            assert_trees_close(path, expected, rtol=1e-12, atol=1e-12 * size)


def drive(problem, batch, params, **options):
    options = {"learning_rate": 0.01, "num_steps": 23, **OFF} | options
    with jax.numpy_dtype_promotion("standard"):
        return jaxgd.descend(problem, params, batch, **options)


@pytest.mark.parametrize(("problem", "make_batch"), quick_systems(KINDS, "mlp((8,))"))
def test_optax_sgd_and_a_batch_of_all_rows_give_the_same_run(problem, make_batch):
    params, batch = setting(problem, make_batch)
    ours = drive(problem, batch, params)._replace(learning_rate=None)
    assert_trees_close(drive(problem, batch, params, optimizer=optax.sgd), ours, rtol=1e-15, atol=1e-15)
    if batch is not None:  # in order: bit for bit
        rows = drive(problem, batch, params, batch_size=len(batch.inputs))
        assert_trees_equal((rows.params, rows.history, rows.loss), (ours.params, ours.history, ours.loss))


@slow
@pytest.mark.parametrize(("problem", "make_batch"), [s for s in SYSTEMS if s.id == "linear_regression(l2=0.1)"])
def test_mini_batches_by_optax_and_in_chunks_give_the_same_run(problem, make_batch):
    params, batch = setting(problem, make_batch)
    shuffled = {"batch_size": 5, "key": jax.random.key(1)}
    ours = drive(problem, batch, params, **shuffled)._replace(learning_rate=None)
    assert_trees_close(drive(problem, batch, params, optimizer=optax.sgd, **shuffled), ours, rtol=1e-15, atol=1e-15)
    for options in ({}, shuffled):
        chunked = jaxgd.fit(problem, params, batch, learning_rate=0.01, num_steps=23, chunk_steps=10, **OFF, **options)
        assert_trees_close(chunked, drive(problem, batch, params, **options), rtol=1e-12, atol=1e-15)


def test_a_ready_transformation_holds_its_own_rate():
    problem, batch = problems.linear_regression(), data()
    params = problem.init(jax.random.key(0), batch)
    ours = jaxgd.descend(problem, params, batch, learning_rate=0.01, num_steps=30)
    with jax.numpy_dtype_promotion("standard"):
        ready = jaxgd.descend(problem, params, batch, num_steps=30, optimizer=optax.sgd(0.01))
    assert_trees_close(ready.params, ours.params, rtol=1e-14)
    assert ready.history.learning_rate is None


def test_optax_by_hand_in_a_python_loop():
    problem, batch, optimizer = problems.linear_regression(), data(), optax.adam(0.05)

    @jax.jit
    def step(params, state):
        updates, state = optimizer.update(jax.grad(problem.loss)(params, batch), state, params)
        return optax.apply_updates(params, updates), state

    params = problem.init(jax.random.key(0), batch)
    with jax.numpy_dtype_promotion("standard"):
        result = jaxgd.descend(problem, params, batch, learning_rate=0.05, num_steps=15, optimizer=optax.adam)
        state = jax.jit(optimizer.init)(params)
        for _ in range(15):
            params, state = step(params, state)
    assert_trees_close(result.params, params, rtol=1e-13)


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.polyak_sgd(max_learning_rate=0.1),
        pytest.param(optax.lbfgs(), marks=slow),
        optax.MultiSteps(optax.sgd(0.1), 3).gradient_transformation(),
    ],
    ids=["polyak", "lbfgs", "multisteps"],
)
def test_transformations_that_want_the_loss_or_wait(optimizer):
    problem, batch = problems.linear_regression(), data()
    params = problem.init(jax.random.key(0), batch)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        result = jaxgd.descend(problem, params, batch, num_steps=300, optimizer=optimizer)
    assert float(result.loss) == pytest.approx(float(problem.loss(problem.minimizer(batch), batch)), rel=1e-6)
    assert result.history.learning_rate is None


def test_schedules_are_functions_of_the_step():
    schedule = optax.exponential_decay(0.1, 5, 0.5)
    result = jaxgd.descend(problems.quadratic(), start_at(5.0), None, learning_rate=schedule, num_steps=10)
    rates = 0.1 * 0.5 ** (np.arange(10) / 5)
    np.testing.assert_allclose(result.history.learning_rate, rates, rtol=1e-6)  # optax computes in float32
    assert float(result.params.x) - 2 == pytest.approx(3 * np.prod(1 - 2 * rates), rel=1e-6)


# How runs end.


def test_no_change():
    problem, batch = problems.linear_regression(), data()
    params = problem.init(jax.random.key(0), batch)
    limit = jaxgd.largest_stable_learning_rate(problem, params, batch)
    result = jaxgd.descend(problem, params, batch, learning_rate=0.5 * limit, num_steps=3000, grad_tol=-1.0)
    assert reason(result) == StopReason.NO_CHANGE
    assert_trees_close(result.params, problem.minimizer(batch), rtol=1e-13)
    again = jaxgd.descend(problem, result.params, batch, learning_rate=0.5 * limit, num_steps=3000, grad_tol=-1.0)
    assert (reason(again), int(again.num_steps)) == (StopReason.NO_CHANGE, 1)
    assert_trees_equal(again.params, result.params)


def test_param_tol_is_the_largest_move():
    result = descend_quadratic(param_tol=1e-3)
    # |theta_{t+1} - theta_t| = 0.2 * 3 * 0.8^t falls to 1e-3 at t = 29, and that update is kept.
    assert (reason(result), int(result.num_steps)) == (StopReason.NO_CHANGE, 30)


def test_gradient_small():
    result = descend_quadratic(grad_tol=1e-3)
    # |g_t| = 6 * 0.8^t falls to 1e-3 at t = 39.
    assert (reason(result), int(result.num_steps)) == (StopReason.GRADIENT_SMALL, 39)
    assert abs(float(result.history.grad_norm[39])) <= 1e-3 < float(result.history.grad_norm[38])


def test_a_start_at_the_minimum_takes_no_step():
    result = descend_quadratic(start=2.0)
    assert (reason(result), int(result.num_steps)) == (StopReason.GRADIENT_SMALL, 0)


def test_max_steps():
    result = descend_quadratic(learning_rate=0.001)
    assert (reason(result), int(result.num_steps)) == (StopReason.MAX_STEPS, 500)
    assert float(result.params.x) == pytest.approx(2 + 3 * 0.998**500, rel=1e-13)


def test_the_rate_one_oscillates_for_ever_on_the_parabola():
    result = descend_quadratic(learning_rate=1.0)
    assert (reason(result), float(result.params.x)) == (StopReason.MAX_STEPS, 5.0)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("rate", [1.01, 1e4])
def test_diverged_before_anything_overflows(rate, dtype):
    result = descend_quadratic(start=jnp.asarray(5.0, dtype), learning_rate=rate)
    assert reason(result) == StopReason.DIVERGED
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(result))
    assert float(result.best_params.x) == 5


@pytest.mark.parametrize("start", [(-1.0, 1.0), (-0.1, 0.0), (-2.0, 5.0), (-1.0, 100.0)])
@pytest.mark.parametrize("rate", [0.01, 0.1, 1.0])
def test_the_cubic_diverges_from_negative_w(start, rate):
    params = CubicParams(*map(jnp.asarray, start))
    result = jaxgd.descend(problems.cubic(), params, None, learning_rate=rate, num_steps=5000)
    if rate == 1.0 and start[1]:
        # b oscillates between b and -b at the rate 1: its size does not matter to the end.
        assert abs(float(result.params.b)) == start[1]
    assert reason(result) == StopReason.DIVERGED
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(result))
    assert float(result.params.w) < 0


def test_a_rate_just_under_the_limit_does_not_diverge():
    problem, batch = problems.linear_regression(), data()
    params = problem.init(jax.random.key(0), batch)
    limit = jaxgd.largest_stable_learning_rate(problem, params, batch)
    run = functools.partial(jaxgd.descend, problem, params, batch, num_steps=3000)
    assert reason(run(learning_rate=0.99 * limit)) != StopReason.DIVERGED
    assert reason(run(learning_rate=1.01 * limit)) == StopReason.DIVERGED


def single_rows(learning_rate, seed):
    problem, batch = problems.linear_regression(), data(num_rows=200)
    params = problem.init(jax.random.key(0), batch)
    options = {"num_steps": 2000, "batch_size": 1, "key": jax.random.key(seed)}
    return jaxgd.descend(problem, params, batch, learning_rate=learning_rate, **options)


def test_noise_of_single_rows_is_not_divergence():
    assert {reason(single_rows(0.02, seed)) for seed in range(20)} == {StopReason.MAX_STEPS}


def test_single_rows_diverge_before_overflow():
    result = single_rows(5.0, 0)
    assert reason(result) == StopReason.DIVERGED
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(result))


def test_a_restless_optimizer_near_zero_loss_is_not_divergence():
    # The largest rate under which |x| is not multiplied by more than 1: x bounces over its kink without end, from
    # a best far below the size of the bounce.
    problem = jaxgd.Problem(name="kink", loss=lambda p, b: jnp.abs(p), grad=lambda p, b: jnp.sign(p))
    rates = jnp.array([0.5, 0.5 - 1e-9, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1])
    result = jaxgd.descend(problem, jnp.asarray(1.0), None, learning_rate=lambda step: rates[step], num_steps=10)
    assert float(result.history.loss[2]) == pytest.approx(1e-9, rel=1e-6)  # the best
    assert float(result.history.loss[3]) > 1e7 * float(result.history.loss[2])
    assert reason(result) == StopReason.MAX_STEPS


@pytest.mark.parametrize("loss", ["mean_squared_error", pytest.param("sum_squared_error", marks=slow)])
def test_mini_batches_diverge_before_overflow(loss):
    problem, batch = problems.linear_regression(loss=loss), data()
    params = problem.init(jax.random.key(0), batch)
    options = {"num_steps": 50, "batch_size": 6, "key": jax.random.key(0)}
    result = jaxgd.descend(problem, params, batch, learning_rate=1e4, **options)  # 50 steps would overflow
    assert reason(result) == StopReason.DIVERGED
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(result))


ROOT = jaxgd.autodiff(lambda p, b: jnp.sqrt(p), name="root")


def test_nonfinite_keeps_the_last_finite_parameters():
    # sqrt: the first step lands on a negative number.
    result = jaxgd.descend(ROOT, jnp.asarray(1.0), None, learning_rate=1.5, num_steps=10)
    assert (reason(result), int(result.num_steps)) == (StopReason.NONFINITE, 1)
    assert float(result.params) == 0.25  # 1 - 1.5 / 2; the next step would be 0.25 - 1.5 = -1.25
    assert float(result.loss) == 0.5


def test_nonfinite_at_the_very_last_step():
    result = jaxgd.descend(ROOT, jnp.asarray(1.0), None, learning_rate=1.5, num_steps=2)
    assert (reason(result), int(result.num_steps), float(result.params)) == (StopReason.NONFINITE, 1, 0.25)


def test_a_nan_in_the_data_says_nonfinite_at_once():
    problem, batch = problems.linear_regression(), data()
    params = problem.init(jax.random.key(0), batch)
    broken = batch._replace(targets=batch.targets.at[3].set(jnp.nan))
    result = jaxgd.descend(problem, params, broken, learning_rate=jnp.asarray(0.1), num_steps=3000)
    assert (reason(result), int(result.num_steps)) == (StopReason.NONFINITE, 0)
    assert_trees_equal(result.params, params)


@pytest.mark.parametrize("rate", [jnp.nan, jnp.inf])
def test_a_rate_that_is_no_number_says_nonfinite(rate):
    result = descend_quadratic(learning_rate=rate)
    assert (reason(result), float(result.params.x)) == (StopReason.NONFINITE, 5.0)


def test_a_warm_up_from_zero_is_not_no_change():
    result = jaxgd.descend(
        problems.quadratic(), start_at(5.0), None, learning_rate=optax.linear_schedule(0.0, 0.1, 10), num_steps=50
    )
    assert reason(result) == StopReason.MAX_STEPS


def test_single_rows_that_are_fitted_do_not_stop_the_epoch():
    # Rows 0 and 1 are fitted by the start; row 2 is not.
    batch = Batch(jnp.array([[1.0], [2.0], [3.0]]), jnp.array([1.0, 2.0, 6.0]))
    params = LinearParams(jnp.ones(1), jnp.zeros(()))
    result = jaxgd.descend(problems.linear_regression(), params, batch, learning_rate=0.01, num_steps=30, batch_size=1)
    assert int(result.num_steps) == 30


RECORDED = {"num_steps": 40, "record": ("loss", "params")}
SHUFFLED = {"batch_size": 5, "key": jax.random.key(0)}


def test_best_params_of_an_unstable_run():
    problem, batch = problems.linear_regression(), data()
    params = problem.init(jax.random.key(0), batch)
    limit = jaxgd.largest_stable_learning_rate(problem, params, batch)
    result = jaxgd.descend(problem, params, batch, learning_rate=1.05 * limit, **RECORDED)
    best = int(np.argmin(result.history.loss))
    assert 0 < best < int(result.num_steps)
    assert_trees_equal(result.best_params, jax.tree.map(lambda leaf: np.asarray(leaf)[best], result.history.params))


def test_best_params_of_batches_are_those_of_the_best_epoch():
    problem, batch = problems.linear_regression(), data()
    params = problem.init(jax.random.key(0), batch)
    result = jaxgd.descend(problem, params, batch, learning_rate=jnp.asarray(0.1), **RECORDED, **SHUFFLED)
    best = int(np.argmin(np.asarray(result.history.loss).reshape(-1, 4).mean(axis=1)))
    assert_trees_equal(
        result.best_params, jax.tree.map(lambda leaf: np.asarray(leaf)[4 * best + 3], result.history.params)
    )


def test_every_reason_is_described():
    assert all(one.describe() and not one.describe().endswith(".") for one in StopReason)


# The trace.


def test_history_describes_the_parameters_before_each_update():
    fields = [field for field in jaxgd.History._fields if field != "step"]
    result = jaxgd.descend(problems.quadratic(), start_at(5.0), None, learning_rate=0.1, num_steps=6, record=fields)
    x = 2 + 3 * 0.8 ** np.arange(6)
    np.testing.assert_allclose(result.history.params.x, x, rtol=1e-14)
    np.testing.assert_allclose(result.history.loss, (x - 2) ** 2 + 1, rtol=1e-14)
    np.testing.assert_allclose(result.history.grad_norm, 2 * (x - 2), rtol=1e-13)
    np.testing.assert_allclose(result.history.update_norm, 0.2 * (x - 2), rtol=1e-13)
    np.testing.assert_allclose(result.history.learning_rate, 0.1, rtol=1e-14)
    np.testing.assert_allclose(result.history.predicted_decrease, 0.4 * (x - 2) ** 2, rtol=1e-13)
    np.testing.assert_allclose(result.history.actual_decrease, 0.36 * (x - 2) ** 2, rtol=1e-13)
    np.testing.assert_allclose(result.history.second_order_decrease, 0.36 * (x - 2) ** 2, rtol=1e-13)  # exact here


@pytest.mark.parametrize("batch_size", [None, 5])
@pytest.mark.parametrize("evaluation", ["plain", pytest.param("tiled", marks=slow)])
def test_the_second_order_prediction_is_better_than_the_first(batch_size, evaluation):
    if batch_size and evaluation == "tiled":
        pytest.skip("tiles are of the full batch")
    problem = problems.logistic_regression(l2=0.1)
    batch = dict(problems.ALL_PROBLEMS)[problem](jax.random.key(0))
    params = jax.tree.map(jnp.ones_like, problem.init(jax.random.key(1), batch))
    problem = jaxgd.tiled(problem, 4) if evaluation == "tiled" else problem
    record = ("predicted_decrease", "second_order_decrease", "actual_decrease", "update_norm")
    result = jaxgd.descend(
        problem, params, batch, learning_rate=0.1, num_steps=20, batch_size=batch_size, key=jax.random.key(2),
        record=record,
    )  # fmt: skip
    first, second, actual, size = (np.asarray(getattr(result.history, name)) for name in record)
    assert np.all(np.abs(second - actual) < 0.2 * np.abs(first - actual))
    assert np.all(np.abs(second - actual) < 3 * size**3)  # a remainder of third order


@pytest.mark.parametrize("batches", [{}, SHUFFLED], ids=["full batch", "mini-batches"])
@pytest.mark.parametrize("every", [3, pytest.param(40, marks=slow), pytest.param(100, marks=slow)])
def test_record_every_keeps_every_so_many(every, batches):
    problem, batch = problems.linear_regression(), data()
    params = problem.init(jax.random.key(0), batch)
    options = {"learning_rate": jnp.asarray(0.1)} | RECORDED | batches
    run = functools.partial(jaxgd.descend, problem, params, batch, **options)
    all_steps, some = run(), run(record_every=every)
    assert_trees_equal(some.history, jax.tree.map(lambda values: np.asarray(values)[::every], all_steps.history))
    assert_trees_equal(some.params, all_steps.params)


def test_history_repeats_the_entry_at_the_stop():
    result = descend_quadratic(grad_tol=1e-2)
    stop = int(result.num_steps)
    assert stop < 49
    kept = np.asarray(result.history.loss)[stop:]
    assert len(set(kept.tolist())) == 1
    np.testing.assert_allclose(kept, np.full(500 - stop, result.loss), rtol=1e-15)


def test_only_what_is_asked_for_is_recorded():
    result = jaxgd.descend(problems.quadratic(), start_at(5.0), None, learning_rate=0.1, num_steps=5, record=())
    assert jax.tree.leaves(result.history) == []


# Transformations.


def test_under_jit():
    problem, batch = problems.linear_regression(), data()
    params = problem.init(jax.random.key(0), batch)

    def run(params, rate):
        return jaxgd.descend(problem, params, batch, learning_rate=rate, num_steps=30)

    assert_trees_close(jax.jit(run)(params, 0.05), run(params, 0.05), rtol=1e-13)


def test_lanes_of_a_vmap_equal_lone_runs():
    problem, batch = problems.linear_regression(), data()
    params = problem.init(jax.random.key(0), batch)
    limit = float(jaxgd.largest_stable_learning_rate(problem, params, batch))
    rates = np.array([0.0001, 0.5, 0.99, 1.2, 50.0]) * limit
    run = functools.partial(jaxgd.descend, problem, params, batch, num_steps=3000, grad_tol=1e-3)
    lanes = jax.vmap(lambda rate: run(learning_rate=rate))(rates)
    assert {StopReason(int(r)).name for r in lanes.stop_reason} == {"MAX_STEPS", "GRADIENT_SMALL", "DIVERGED"}
    for i, rate in enumerate(rates):
        lane, lone = jax.tree.map(lambda leaf, i=i: np.asarray(leaf)[i], lanes), run(learning_rate=rate)
        assert int(lane.num_steps) == int(lone.num_steps)
        assert_trees_close(lane, lone, rtol=1e-9)


def test_vmap_over_keys_and_starts_of_mini_batches():
    problem, batch = problems.linear_regression(), data()
    keys = jax.random.split(jax.random.key(0), 4)
    starts = jax.jit(jax.vmap(lambda key: problem.init(key, batch)))(keys)
    run = functools.partial(jaxgd.descend, problem, batch=batch, learning_rate=0.02, num_steps=50, batch_size=6)
    lanes = jax.vmap(lambda params, key: run(params=params, key=key))(starts, keys)
    starts, found = jax.tree.map(np.asarray, (starts, lanes.params))
    for i in range(4):
        start, lane = jax.tree.map(lambda leaf, i=i: leaf[i], (starts, found))
        assert_trees_close(lane, run(params=start, key=keys[i]).params, rtol=1e-12)


def test_gradient_by_the_learning_rate():
    # x_T - 2 = 3 (1 - 2 eta)^T, so d(loss)/d(eta) = 2 * 9 (1 - 2 eta)^(2T - 1) * (-2 T).
    def final_loss(rate):
        return jaxgd.descend(problems.quadratic(), start_at(5.0), None, learning_rate=rate, num_steps=4).loss

    expected = 18 * 0.8**7 * -8
    assert float(jax.grad(final_loss)(0.1)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("batch_size", [pytest.param(None, marks=slow), 4])
def test_gradient_by_the_start_through_a_stop(batch_size):
    problem, batch = problems.linear_regression(), data()
    params = problem.init(jax.random.key(0), batch)

    def final_loss(params):
        return jaxgd.descend(
            problem, params, batch, learning_rate=0.05, num_steps=40, batch_size=batch_size, grad_tol=0.3
        ).loss

    grads = jax.grad(final_loss)(params)
    step = 1e-6
    for i in range(3):
        moved = [final_loss(params._replace(weights=params.weights.at[i].add(sign * step))) for sign in (1, -1)]
        assert float(grads.weights[i]) == pytest.approx(float(moved[0] - moved[1]) / (2 * step), rel=1e-5, abs=1e-9)


def test_one_trace_per_program():
    traces = []

    def loss(params, batch):
        traces.append(None)
        return jnp.sum((params - batch) ** 2)

    problem = jaxgd.autodiff(loss)
    run = functools.partial(jaxgd.descend, problem, num_steps=5)
    run(params=jnp.ones(3), batch=jnp.zeros(3), learning_rate=0.1)
    first = len(traces)
    assert first > 0
    for rate in (0.2, 1, jnp.asarray(0.3), np.float64(0.4)):
        run(params=jnp.zeros(3), batch=jnp.ones(3), learning_rate=rate, grad_tol=rate, param_tol=1e-3)
    # A number, a Python integer and an array are three kinds of scalar to jit; none depends on its value.
    assert len(traces) <= 3 * first
    seen = len(traces)
    for rate in (0.5, 0.6, 0.7):
        run(params=jnp.zeros(3), batch=jnp.ones(3), learning_rate=rate)
    assert len(traces) == seen


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_dtypes_are_kept(dtype):
    params, batch = cast((LinearParams(np.ones(3), np.zeros(())), data()), dtype)
    result = jaxgd.descend(problems.linear_regression(), params, batch, learning_rate=0.01, num_steps=5)
    assert {leaf.dtype for leaf in jax.tree.leaves((result.params, result.best_params, result.loss))} == {
        np.dtype(dtype)
    }
    assert result.history.learning_rate.dtype == jnp.float32


def test_numbers_are_taken_for_parameters():
    problem = jaxgd.autodiff(lambda p, b: (p["a"] - 1) ** 2 + p["b"] ** 2)
    result = jaxgd.descend(problem, {"a": 0.0, "b": 2.0}, None, learning_rate=0.25, num_steps=60)
    assert float(result.params["a"]) == pytest.approx(1)


def test_autodiff_finds_its_program_again():
    def loss(params, batch):
        return params**2

    assert jaxgd.autodiff(loss) is jaxgd.autodiff(loss)
    assert jaxgd.autodiff(loss).name == "loss"
    assert jaxgd.autodiff(loss, name="square").name == "square"
    with pytest.raises(TypeError, match="`loss` must be a function"):
        jaxgd.autodiff(3)


# Refusals.

GOOD = {"learning_rate": 0.1, "num_steps": 3}
BROKEN = jaxgd.Problem(name="broken", loss=lambda p, b: p["a"] ** 2, grad=lambda p, b: p["a"])

REFUSED = [
    (
        "no problem",
        (lambda p, b: p, 1.0, None),
        GOOD,
        TypeError,
        "`problem` must be a jaxgd.Problem, got function; wrap a loss by jaxgd.autodiff(loss).",
    ),
    (
        "integer parameters",
        (problems.quadratic(), ScalarParams(jnp.asarray(5)), None),
        GOOD,
        TypeError,
        "`params.x` must be floating, got int64.",
    ),
    (
        "no parameters",
        (BROKEN, (), None),
        GOOD,
        ValueError,
        "`params` must hold at least one floating array, got none.",
    ),
    (
        "a loss that is not a scalar",
        (jaxgd.autodiff(lambda p, b: p), jnp.ones(2), None),
        GOOD,
        ValueError,
        "the loss of `problem` must return one floating scalar [], got ShapeDtypeStruct(shape=(2,), dtype=float64).",
    ),
    (
        "a gradient of another tree",
        (BROKEN, {"a": 1.0}, None),
        GOOD,
        ValueError,
        "the gradient must have the tree structure of `params`, PyTreeDef({'a': *}), got PyTreeDef(*).",
    ),
    (
        "a gradient of another shape",
        (
            jaxgd.Problem(name="g", loss=lambda p, b: p["a"].sum(), grad=lambda p, b: {"a": p["a"].sum()}),
            {"a": jnp.ones(2)},
            None,
        ),
        GOOD,
        ValueError,
        "the gradient at ['a'] must have shape (2,) (that of `params`), got ().",
    ),
    (
        "a gradient of another dtype",
        (
            jaxgd.Problem(name="g", loss=lambda p, b: p.sum(), grad=lambda p, b: p.astype(jnp.float32)),
            jnp.ones(2),
            None,
        ),
        GOOD,
        TypeError,
        "the gradient at its only leaf must be float64 (as `params` is), got float32.",
    ),
    (
        "no rate",
        (problems.quadratic(), start_at(1.0), None),
        {"num_steps": 3},
        TypeError,
        "`learning_rate` must be a number or a function step -> rate, got None.",
    ),
    (
        "many rates",
        (problems.quadratic(), start_at(1.0), None),
        GOOD | {"learning_rate": jnp.ones(3)},
        ValueError,
        "`learning_rate` must be a scalar, got shape (3,); jax.vmap over it for several runs.",
    ),
    (
        "a rate in words",
        (problems.quadratic(), start_at(1.0), None),
        GOOD | {"learning_rate": "fast"},
        TypeError,
        "`learning_rate` must be a number or a function step -> rate, got 'fast'.",
    ),
    (
        "no steps",
        (problems.quadratic(), start_at(1.0), None),
        GOOD | {"num_steps": 0},
        ValueError,
        "`num_steps` must be between 1 and 2147483647, got 0.",
    ),
    (
        "half a step",
        (problems.quadratic(), start_at(1.0), None),
        GOOD | {"num_steps": 2.5},
        TypeError,
        "`num_steps` must be a Python integer, got 2.5.",
    ),
    (
        "a traced number of steps",
        (problems.quadratic(), start_at(1.0), None),
        GOOD | {"num_steps": jnp.asarray(3)},
        TypeError,
        "`num_steps` must be a Python integer, got ArrayImpl.",
    ),
    (
        "an optimizer that is none",
        (problems.quadratic(), start_at(1.0), None),
        GOOD | {"optimizer": "adam"},
        TypeError,
        "`optimizer` must be an optax GradientTransformation or a function "
        "learning_rate -> GradientTransformation, got str.",
    ),
    (
        "an unknown field",
        (problems.quadratic(), start_at(1.0), None),
        GOOD | {"record": ("los",)},
        ValueError,
        "`record` must be one of 'loss', 'grad_norm', 'learning_rate', 'update_norm', 'predicted_decrease', "
        "'second_order_decrease', 'actual_decrease', 'params', got 'los'.",
    ),
    (
        "a field as a string",
        (problems.quadratic(), start_at(1.0), None),
        GOOD | {"record": "loss"},
        TypeError,
        "`record` must be a sequence of field names, got the string 'loss'.",
    ),
    (
        "never recording",
        (problems.quadratic(), start_at(1.0), None),
        GOOD | {"record_every": 0},
        ValueError,
        "`record_every` must be at least 1, got 0.",
    ),
    (
        "batches of nothing",
        (problems.quadratic(), start_at(1.0), None),
        GOOD | {"batch_size": 1},
        ValueError,
        "`batch` must hold arrays of rows to be cut into batches, got none.",
    ),
]


@pytest.mark.parametrize(("args", "options", "error", "text"), [pytest.param(*row[1:], id=row[0]) for row in REFUSED])
@pytest.mark.parametrize("run", [jaxgd.descend, jaxgd.fit], ids=["descend", "fit"])
def test_bad_input_gets_its_exact_error(run, args, options, error, text):
    with pytest.raises(error) as caught:
        run(*args, **options)
    assert str(caught.value) == text
