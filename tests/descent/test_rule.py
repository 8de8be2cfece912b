"""Our rule is interchangeable with optax's."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from common import assert_trees_equal, setting

import jaxgd
from jaxgd.descent.rule import rate_at
from jaxgd.problems import ALL_PROBLEMS


@pytest.mark.parametrize(("problem", "make_batch"), [ALL_PROBLEMS[0], ALL_PROBLEMS[5], ALL_PROBLEMS[-1]])
@pytest.mark.parametrize("rate", [0.1, optax.linear_schedule(0.0, 0.1, 4)], ids=["constant", "schedule"])
def test_ours_and_optax_sgd_step_for_step(rate, problem, make_batch):
    params, batch = setting(problem, make_batch)
    ours, theirs = jaxgd.gradient_descent(rate), optax.sgd(rate)
    states = ours.init(params), theirs.init(params)

    @jax.jit
    def step(params, states):
        grads = problem.grad(params, batch)
        left, right = (rule.update(grads, one, params) for rule, one in zip((ours, theirs), states, strict=True))
        return left[0], right[0], optax.apply_updates(params, left[0]), (left[1], right[1])

    with jax.numpy_dtype_promotion("standard"):
        for _ in range(6):
            left, right, params, states = step(params, states)
            assert_trees_equal(left, right)


def test_ours_chains_with_optax():
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), jaxgd.gradient_descent(0.5))
    params = {"a": jnp.array([3.0, 4.0])}
    with jax.numpy_dtype_promotion("standard"):
        updates, _ = optimizer.update(params, optimizer.init(params), params)
    np.testing.assert_allclose(updates["a"], [-0.3, -0.4], rtol=1e-15)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32, jnp.float64])
def test_updates_keep_the_dtype_of_the_gradient(dtype):
    optimizer = jaxgd.gradient_descent(jnp.asarray(0.1, jnp.float64))
    grads = jnp.ones(3, dtype)
    updates, _ = optimizer.update(grads, optimizer.init(grads))
    assert updates.dtype == dtype


def test_steps_are_counted_for_a_schedule_alone():
    grads = jnp.ones(3)
    for rate, expected in ((0.1, None), (optax.linear_schedule(0.0, 0.1, 4), 1)):
        optimizer = jaxgd.gradient_descent(rate)
        assert optimizer.update(grads, optimizer.init(grads))[1].step == expected


def test_rates():
    assert rate_at(0.1, jnp.asarray(7)) == 0.1
    assert rate_at(lambda step: 1 / (1 + step), jnp.asarray(3)) == 0.25
