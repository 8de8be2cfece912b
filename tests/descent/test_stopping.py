"""A run that has converged says so, and no run that still makes progress does."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from common import cast

import jaxgd
from jaxgd import StopReason, problems
from jaxgd.types import Batch, LinearParams, ScalarParams

PROBLEM = problems.linear_regression()

# NIST's Norris data, targets and inputs (https://www.itl.nist.gov/div898/strd/lls/data/Norris.shtml).
NORRIS = """
0.1 0.2 338.8 337.4 118.1 118.2 888.0 884.6 9.2 10.1 228.1 226.5 668.5 666.3 998.5 996.3 449.1 448.6
778.9 777.0 559.2 558.2 0.3 0.4 0.1 0.6 778.1 775.5 668.8 666.9 339.3 338.0 448.9 447.5 10.8 11.6
557.7 556.0 228.3 228.1 998.0 995.8 888.8 887.6 119.6 120.2 0.3 0.3 0.6 0.3 557.6 556.8 339.3 339.1
888.0 887.2 998.5 999.0 778.9 779.0 10.2 11.1 117.6 118.3 228.9 229.2 668.4 669.1 449.2 448.9 0.2 0.5
"""


@pytest.fixture
def convergence():
    """The experiment that counts these runs; its data sets are used here."""
    return pytest.importorskip("experiments.convergence")


@pytest.fixture
def one_regression(convergence):
    """One data set, its largest stable rate, and a start."""
    batches, limits = convergence.regressions(1, 30, 3)
    batch = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)[0]), batches)
    return batch, limits[0], LinearParams(np.zeros(3), np.zeros(()))


def reasons(result):
    return [StopReason(int(reason)).name for reason in np.ravel(result.stop_reason)]


@pytest.mark.parametrize("dtype", [jnp.float32, pytest.param(jnp.float64, marks=pytest.mark.slow)])
def test_runs_that_have_converged_say_so(convergence, dtype):
    """20 data sets at 0.5, 0.9 and 0.99 of the limit; with no tolerance that would stop them."""
    batches, limits = convergence.regressions(20, 30, 3)
    batches = jax.tree.map(lambda leaf: np.concatenate([leaf] * 3), batches)
    result = convergence.ends(batches, np.concatenate([share * limits for share in convergence.SHARES]), dtype, 20_000)
    eps = float(jnp.finfo(dtype).eps)
    at_minimum = np.asarray(result.loss) <= convergence.lowest(batches) * (1 + 100 * eps)
    assert at_minimum.sum() >= 59
    ended = np.asarray(result.stop_reason) == StopReason.NO_CHANGE
    assert ended[at_minimum].all()
    assert not ended[~at_minimum].any()


@pytest.mark.parametrize("dtype", [jnp.float32, pytest.param(jnp.float64, marks=pytest.mark.slow)])
def test_slow_runs_do_not(convergence, dtype):
    batches, limits = convergence.regressions(200, 30, 2)
    assert set(reasons(convergence.ends(batches, 1e-6 * limits, dtype, 10_000))) == {"MAX_STEPS"}


def test_batches_in_a_fixed_order_come_round_too(one_regression):
    batch, limit, start = one_regression
    options = {"learning_rate": 0.3 * limit, "num_steps": 30_000, "batch_size": 10, "record": ()}
    assert reasons(jaxgd.descend(PROBLEM, start, batch, **options)) == ["NO_CHANGE"]
    assert reasons(jaxgd.descend(PROBLEM, start, batch, key=jax.random.key(0), **options)) == ["MAX_STEPS"]


def test_momentum_comes_round_too(one_regression):
    batch, limit, start = one_regression
    momentum = optax.sgd(float(0.3 * limit), momentum=0.9)
    result = jaxgd.descend(PROBLEM, start, batch, num_steps=20_000, optimizer=momentum, record=())
    assert reasons(result) == ["NO_CHANGE"]
    np.testing.assert_allclose(result.params.weights, PROBLEM.minimizer(batch).weights, rtol=1e-12)


def test_a_negative_tolerance_never_stops(one_regression):
    batch, limit, start = one_regression
    options = {"learning_rate": 0.9 * limit, "num_steps": 5000, "grad_tol": -1.0, "param_tol": -1.0, "record": ()}
    assert reasons(jaxgd.descend(PROBLEM, start, batch, **options)) == ["MAX_STEPS"]


def flat(loss, grad, name):
    return jaxgd.Problem(name=name, loss=loss, grad=grad)


def one(dtype=jnp.float32):
    return jnp.asarray(1.0, dtype)


PROGRESS = {
    "steps of 1e-7, one unit of rounding, on a plateau": (
        flat(lambda p, b: 1.0 + 0 * p, lambda p, b: -jnp.ones_like(p), "plateau"), one(), {"learning_rate": 1e-7}
    ),
    "a slow oscillation": (
        flat(lambda p, b: p**2, lambda p, b: 2 * p, "bowl"), one(), {"optimizer": optax.sgd(1e-7, momentum=0.9999)}
    ),
    "a coordinate that leaves a saddle": (
        flat(lambda p, b: 1 + p[0] ** 2 - p[1] ** 2, lambda p, b: jnp.stack([2 * p[0], -2 * p[1]]), "saddle"),
        jnp.asarray([1.0, 1e-100]), {"learning_rate": 0.02}
    ),
    "gradients accumulated over 4000 steps": (
        flat(lambda p, b: p**2, lambda p, b: 2 * p, "bowl"),
        one(), {"optimizer": optax.MultiSteps(optax.sgd(0.1), 4000).gradient_transformation()}
    ),
    "a warm-up from 0 of 3000 steps": (
        flat(lambda p, b: p**2, lambda p, b: 2 * p, "bowl"),
        one(), {"learning_rate": lambda step: jnp.where(step < 3000, 0.0, 0.001)}
    ),
    "a bounce between two sides": (
        flat(lambda p, b: jnp.abs(p), lambda p, b: jnp.sign(p), "kink"), one(), {"learning_rate": 0.3}
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PROGRESS)
def test_progress_is_not_convergence(name):
    problem, params, options = PROGRESS[name]
    with jax.numpy_dtype_promotion("standard"):
        result = jaxgd.descend(problem, params, None, num_steps=5000, record=(), **options)
    assert reasons(result) == ["MAX_STEPS"]


def held(rule):
    """Updates of the bias set to zero."""
    return optax.multi_transform({"free": rule, "held": optax.set_to_zero()}, LinearParams("free", "held"))


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.chain(optax.sgd(0.1), optax.masked(optax.set_to_zero(), LinearParams(False, True))),
        held(optax.sgd(0.1)),
        held(optax.chain(optax.scale_by_schedule(optax.linear_schedule(0.0, 1.0, 100)), optax.sgd(0.1))),
    ],
    ids=["masked", "multi_transform", "behind a warm-up"],
)
def test_held_parameters_do_not_keep_a_run_from_ending(optimizer):
    inputs = jnp.asarray([[1.0], [-1.0], [2.0], [-2.0]])
    batch = Batch(
        inputs, 3 * inputs[:, 0] + 1
    )  # the gradient by the bias is never zero, that by the weight comes to be
    start = LinearParams(jnp.zeros(1), jnp.zeros(()))
    with jax.numpy_dtype_promotion("standard"):
        result = jaxgd.descend(PROBLEM, start, batch, num_steps=5000, optimizer=optimizer, record=())
    assert reasons(result) == ["NO_CHANGE"]
    assert float(result.params.bias) == 0
    np.testing.assert_allclose(result.params.weights, [3.0], rtol=1e-14)


def test_a_factor_of_infinity_turns_divergence_off():
    run = {"learning_rate": 1.5, "num_steps": 300, "divergence_factor": jnp.inf}
    result = jaxgd.descend(problems.quadratic(), ScalarParams(jnp.asarray(5.0)), None, **run)
    assert reasons(result) == ["MAX_STEPS"]
    assert float(result.params.x) == pytest.approx(2 + 3 * 2.0**300)
    overflown = jaxgd.descend(problems.quadratic(), ScalarParams(jnp.asarray(5.0)), None, **run | {"num_steps": 3000})
    assert reasons(overflown) == ["NONFINITE"]


def test_the_norris_set_is_at_its_minimum_after_one_step_and_says_so():
    numbers = np.array(NORRIS.split(), np.float32).reshape(-1, 2)
    inputs = (numbers[:, 1:] - numbers[:, 1:].mean()) / numbers[:, 1:].std()
    batch, start = (
        Batch(jnp.asarray(inputs), jnp.asarray(numbers[:, 0])),
        cast(LinearParams(jnp.zeros(1), jnp.zeros(())), jnp.float32),
    )
    rate = jax.jit(jaxgd.largest_stable_learning_rate, static_argnums=0)(PROBLEM, start, batch) / 2
    result = jaxgd.fit(PROBLEM, start, batch, learning_rate=rate, num_steps=100_000)
    assert reasons(result) == ["NO_CHANGE"]
    assert int(result.num_steps) < 1000
