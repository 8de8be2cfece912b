"""Our rule is interchangeable with optax's."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from common import SYSTEMS, assert_trees_equal, setting

import jaxgd
from jaxgd.descent.rule import rate_at


@pytest.mark.parametrize("rate", [0.1, optax.linear_schedule(0.0, 0.1, 4)], ids=["constant", "schedule"])
@pytest.mark.parametrize(("problem", "make_batch"), SYSTEMS)
def test_ours_and_optax_sgd_step_for_step(problem, make_batch, rate):
    params, batch = setting(problem, make_batch)
    ours, theirs = jaxgd.gradient_descent(rate), optax.sgd(rate)
    grad = jax.jit(problem.grad)

    def run(optimizer, params):
        state = optimizer.init(params)
        for _ in range(6):
            updates, state = optimizer.update(grad(params, batch), state, params)
            params = optax.apply_updates(params, updates)
            yield params

    with jax.numpy_dtype_promotion("standard"):
        for left, right in zip(run(ours, params), run(theirs, params), strict=True):
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
    updates, state = optimizer.update(grads, optimizer.init(grads))
    assert updates.dtype == dtype
    assert state.step == 1


def test_rates():
    assert rate_at(0.1, jnp.asarray(7)) == 0.1
    assert rate_at(lambda step: 1 / (1 + step), jnp.asarray(3)) == 0.25
