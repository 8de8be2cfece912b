"""What a result says about its run: the reason, the rate, the curve, and all of it in words."""

import inspect
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgd
from jaxgd import problems
from jaxgd.theory.bounds import smoothness
from jaxgd.theory.rates import rate_facts

QUADRATIC = problems.quadratic()
GROWS = {"learning_rate": 1.5, "num_steps": 50}  # a step multiplies x - 2 by -2
SHRINKS = {"learning_rate": 0.25, "num_steps": 200}  # a step halves x - 2


def lanes(rates, **options):
    return jaxgd.sweep(QUADRATIC, {"x": 5.0}, None, over={"learning_rate": rates}, num_steps=200, **options)


def test_one_reason_is_a_stop_reason():
    result = jaxgd.descend(QUADRATIC, {"x": 5.0}, None, **SHRINKS)
    assert isinstance(result.stop_reason, jaxgd.StopReason)
    assert result.stop_reason == jaxgd.StopReason.GRADIENT_SMALL  # x is 2 in the end, and the gradient 0
    assert (str(result.stop_reason), f"{result.stop_reason:>15}") == ("GRADIENT_SMALL", " GRADIENT_SMALL")
    assert f"{result.stop_reason:d}" == "2"
    assert json.dumps(result.stop_reason) == "2"
    assert result._replace(loss=0.0).stop_reason == jaxgd.StopReason.GRADIENT_SMALL


def test_the_reasons_of_lanes_are_an_array_of_them():
    result = lanes([0.25, 1.5, 1e-6])
    names = ["GRADIENT_SMALL", "DIVERGED", "MAX_STEPS"]
    assert [reason.name for reason in result.stop_reason] == names
    assert all(isinstance(reason, jaxgd.StopReason) for reason in result.stop_reason)
    assert str(result.stop_reason) == repr(result.stop_reason) == str(np.array(names))
    lost = result.stop_reason == jaxgd.StopReason.DIVERGED
    assert type(lost) is np.ndarray
    np.testing.assert_array_equal(lost, [False, True, False])
    np.testing.assert_array_equal(jnp.asarray(np.asarray(result.stop_reason)), [2, 3, 0])
    over = {"learning_rate": [1.5, 0.1], "grad_tol": [0, 9]}
    grid = jaxgd.sweep(QUADRATIC, {"x": 5.0}, None, over=over, num_steps=9)
    assert str(grid.stop_reason[1]) == "['MAX_STEPS' 'GRADIENT_SMALL']"
    assert grid.stop_reason[0, 1] is jaxgd.StopReason.GRADIENT_SMALL


def test_inside_jit_and_vmap_the_reason_is_a_leaf_of_int32():
    def reason(rate):
        result = jaxgd.descend(QUADRATIC, {"x": 5.0}, None, learning_rate=rate, num_steps=200)
        assert isinstance(result.stop_reason, jax.core.Tracer)
        assert (result.stop_reason.shape, result.stop_reason.dtype) == ((), jnp.int32)
        return jnp.where(result.stop_reason == jaxgd.StopReason.DIVERGED, -1, result.num_steps)

    assert jax.vmap(jax.jit(reason))(jnp.array([1.5, 1e-6])).tolist() == [-1, 200]
    result = jax.jit(lambda rate: jaxgd.descend(QUADRATIC, {"x": 5.0}, None, learning_rate=rate, num_steps=9))(0.1)
    assert isinstance(result, jaxgd.Result)
    assert result.stop_reason is jaxgd.StopReason.MAX_STEPS
    leaves = jax.tree.leaves(result)
    assert jax.tree.unflatten(jax.tree.structure(result), leaves).stop_reason is jaxgd.StopReason.MAX_STEPS


def test_a_result_knows_its_rate():
    once = {"num_steps": 200}
    assert jaxgd.descend(QUADRATIC, {"x": 5.0}, None, learning_rate=0.1, **once).learning_rate == 0.1
    assert jaxgd.fit(QUADRATIC, {"x": 5.0}, None, learning_rate=0.1, **once).learning_rate == 0.1
    halved = jaxgd.descend(
        QUADRATIC, {"x": 5.0}, None, learning_rate=lambda step: 0.1 / (1 + step.astype(float)), num_steps=3
    )
    np.testing.assert_allclose(halved.learning_rate, 0.1 / 3, rtol=1e-15)
    np.testing.assert_array_equal(lanes([0.1, 0.2]).learning_rate, [0.1, 0.2])
    optax = pytest.importorskip("optax")
    options = once | {"learning_rate": 0.1}
    for optimizer in (optax.sgd, optax.sgd(0.1)):
        result = jaxgd.descend(QUADRATIC, {"x": 5.0}, None, optimizer=optimizer, **options)
        assert result.learning_rate is None


def test_the_curve_is_the_whole_way():
    options = {"learning_rate": 0.25, "num_steps": 4, "record": ("loss", "params")}
    for run in (jaxgd.descend, jaxgd.fit):
        curve = jaxgd.curve(run(QUADRATIC, {"x": 6.0}, None, **options))
        np.testing.assert_array_equal(curve.step, [0, 1, 2, 3, 4])
        np.testing.assert_array_equal(curve.params.x, [6.0, 4.0, 3.0, 2.5, 2.25])
        np.testing.assert_array_equal(curve.loss, [17.0, 5.0, 2.0, 1.25, 1.0625])
        curve = jaxgd.curve(run(QUADRATIC, {"x": 6.0}, None, record_every=3, **options))
        np.testing.assert_array_equal(curve.step, [0, 3, 4])
        np.testing.assert_array_equal(curve.loss, [17.0, 1.25, 1.0625])


@pytest.mark.parametrize("record_every", [1, 7])
def test_the_curve_ends_where_the_run_did(record_every):
    options = {"record": ("params",), "record_every": record_every}
    stopped = jaxgd.descend(QUADRATIC, {"x": 6.0}, None, learning_rate=0.5, num_steps=100, **options)
    curve = jaxgd.curve(stopped)
    assert curve.loss is None
    assert curve.step.tolist() == [0, 1]
    assert (curve.step[-1], curve.params.x[-1]) == (stopped.num_steps, 2.0)
    overflow = jaxgd.descend(
        problems.cubic(), (-1.0, 0.0), None, learning_rate=1.0, num_steps=50, divergence_factor=jnp.inf, **options
    )
    assert overflow.stop_reason == jaxgd.StopReason.NONFINITE
    curve = jaxgd.curve(overflow)
    assert np.isfinite(curve.params.w).all()
    assert curve.step[-1] == overflow.num_steps
    assert curve.params.w[-1] == overflow.params.w
    assert len(set(curve.step.tolist())) == len(curve.step)


def test_the_curve_of_a_lane():
    result = lanes([0.25, 1e-6])
    assert jaxgd.curve(result, lane=1).step.tolist() == list(range(201))
    assert jaxgd.curve(result, lane=0).step[-1] == result.num_steps[0]
    np.testing.assert_array_equal(jaxgd.curve(result, lane=(0,)).loss, jaxgd.curve(result, lane=0).loss)


def test_a_converged_run_in_words():
    result = jaxgd.descend(QUADRATIC, {"x": 5.0}, None, learning_rate=0.1, num_steps=3)
    assert jaxgd.explain(result, QUADRATIC, None) == "MAX_STEPS at step 3: all steps were taken."


def test_a_lost_run_in_words(rng):
    problem, batch = problems.linear_regression(), (rng.normal(size=(20, 2)) * [1, 9] + [7, 3], rng.normal(size=20))
    limit = float(jaxgd.largest_stable_learning_rate(problem, problem.zeros(batch), batch))
    result = jaxgd.descend(problem, problem.zeros(batch), batch, learning_rate=50 * limit, num_steps=100)
    assert jaxgd.explain(result, problem, batch) == (
        f"DIVERGED at step {result.num_steps}: the loss grew far beyond its best, or fell without bound. "
        f"learning_rate {50 * limit:.4g} is 50 times the largest stable one, {limit:.3g}. "
        "Standardise the inputs or lower the rate."
    )
    scores = (jaxgd.data.standardize(batch[0])[0], batch[1])
    result = jaxgd.descend(problem, problem.zeros(scores), scores, learning_rate=9.0, num_steps=100)
    assert jaxgd.explain(result, problem, scores).endswith(". Lower the rate.")


def test_lanes_in_words():
    told = jaxgd.explain(lanes([0.25, 1.5]), QUADRATIC, None)
    assert told[0].startswith("GRADIENT_SMALL at step ")
    assert told[1].endswith("learning_rate 1.5 is 1.5 times the largest stable one, 1. Lower the rate.")


def test_what_is_known_of_other_losses_is_said_with_its_reach(rng):
    batch = (100 * rng.normal(size=(20, 2)), np.ones(20) / 3)

    def words(problem, start, factor):
        limit = rate_facts(problem, start, jaxgd.Batch(*map(jnp.asarray, batch))).limit
        result = jaxgd.descend(problem, start, batch, learning_rate=factor * limit, num_steps=5)
        lost = result._replace(stop_reason=jnp.asarray(int(jaxgd.StopReason.DIVERGED)))
        return limit, lost, jaxgd.explain(lost, problem, batch, start)

    neuron, network = problems.sigmoid_neuron(), problems.mlp((3,))
    limit, lost, told = words(neuron, neuron.zeros(batch), 3)
    assert told.endswith(
        f"is 3 times the end of what is guaranteed, 2/L = {limit:.3g}. Standardise the inputs or lower the rate."
    )
    assert jaxgd.explain(lost, neuron, batch) == told
    start = network.init(jax.random.key(0), batch)
    limit, lost, told = words(network, start, 3)
    assert f"is 3 times the limit at the start, {limit:.3g}, which guarantees nothing further on. " in told
    assert " times the limit at its best parameters, " in jaxgd.explain(lost, network, batch)
    lanes = jax.tree.map(lambda leaf: jnp.stack([jnp.asarray(leaf)] * 2), lost)
    assert jaxgd.explain(lanes, network, batch) == [jaxgd.explain(lost, network, batch)] * 2


def test_a_lost_run_of_mini_batches_in_words(rng):
    problem, batch = problems.linear_regression(), (rng.normal(size=(20, 2)), rng.normal(size=20))
    result = jaxgd.descend(problem, problem.zeros(batch), batch, learning_rate=9.0, num_steps=100, batch_size=3)
    bound = 2 / float(smoothness(problem, jaxgd.Batch(*map(jnp.asarray, batch)), batch_size=3))
    told = jaxgd.explain(result, problem, batch, batch_size=3)
    assert f"is {9 / bound:.4g} times the end of what is guaranteed, 2/L = {bound:.3g}." in told


def test_the_rate_of_an_optax_optimizer_is_not_compared():
    optax = pytest.importorskip("optax")
    result = jaxgd.descend(problems.cubic(), (-1.0, 0.0), None, learning_rate=1.0, num_steps=500, optimizer=optax.sgd)
    assert result.stop_reason == jaxgd.StopReason.DIVERGED
    assert jaxgd.explain(result, problems.cubic(), None).endswith("or fell without bound. Lower the rate.")


@pytest.mark.parametrize("function", [jaxgd.descend, jaxgd.fit, jaxgd.sweep])
def test_help_explains_every_argument(function):
    section = inspect.getdoc(function).split("Args:\n")[1].split("\n\n")[0]
    entries = re.split(r"\n?^  (?=\S)", section, flags=re.M)[1:]
    names = [entry.partition(":")[0].strip("*") for entry in entries]
    assert names == list(inspect.signature(function).parameters)
    assert all(len(entry.partition(": ")[2]) > 20 for entry in entries)
    assert "as `descend`" not in section
