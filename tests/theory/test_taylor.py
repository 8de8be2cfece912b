"""Remainders, angles and directions against what Taylor's theorem says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common import random_like, setting

from jaxgd import problems
from jaxgd.problems import ALL_PROBLEMS
from jaxgd.theory import taylor
from jaxgd.types import ScalarParams

LOGISTIC = next(
    (problem, make_batch) for problem, make_batch in ALL_PROBLEMS if problem is problems.logistic_regression()
)


def test_orders_are_one_two_three():
    problem, make_batch = LOGISTIC
    params, batch = setting(problem, make_batch)
    direction = random_like(jax.random.key(5), params)
    found = taylor.remainders(problem.loss, problem.grad, params, direction, 0.1 * 2.0 ** -jnp.arange(6.0), batch)
    np.testing.assert_allclose(found.orders[:, -1], [1, 2, 3], atol=0.05)


def test_remainders_of_the_parabola():
    # At x = 5 along u = 1: L(5 + h) - L(5) = 6h + h^2.
    problem = problems.quadratic()
    found = taylor.remainders(
        problem.loss, problem.grad, ScalarParams(jnp.asarray(5.0)), ScalarParams(jnp.asarray(1.0)), [0.5, 0.25], None
    )
    np.testing.assert_allclose(found.remainders, [[3.25, 1.5625], [0.25, 0.0625], [0, 0]], atol=1e-14)


@pytest.mark.parametrize("wrong", [lambda g: 2 * g, lambda g: -g, lambda g: g.at[0].add(0.1)])
def test_a_wrong_gradient_has_order_one(wrong):
    problem, make_batch = LOGISTIC
    params, batch = setting(problem, make_batch)

    def grad(params, batch):
        grads = problem.grad(params, batch)
        return grads._replace(weights=wrong(grads.weights))

    found = taylor.remainders(
        problem.loss, grad, params, random_like(jax.random.key(5), params), 2.0 ** -jnp.arange(8.0, 14.0), batch
    )
    assert float(found.orders[1, -1]) == pytest.approx(1, abs=0.05)


def test_the_steepest_direction_is_at_180_degrees():
    problem, make_batch = LOGISTIC
    params, batch = setting(problem, make_batch)
    angles = jnp.arange(0.0, 360.0, 15.0)
    step_size = 1e-5
    fan = jax.jit(
        lambda p: taylor.change_over_angles(
            problem.loss, problem.grad, p, angles, step_size, batch, key=jax.random.key(1)
        )
    )
    changes, predicted = fan(params)
    assert float(angles[jnp.argmin(changes)]) == 180
    bound = step_size * float(taylor.norm(problem.grad(params, batch))) ** 2
    np.testing.assert_allclose(changes, bound * np.cos(np.radians(angles)), atol=1e-4 * bound)
    np.testing.assert_allclose(predicted, bound * np.cos(np.radians(angles)), rtol=1e-10, atol=1e-12 * bound)


def test_angles_keep_their_digits_at_the_ends():
    g = {"a": jnp.array([3.0, 0.0]), "b": jnp.array(4.0)}
    assert taylor.angle(g, g) == 0
    assert taylor.angle(jax.tree.map(jnp.negative, g), g) == pytest.approx(180, abs=1e-13)
    across = {"a": jnp.array([0.0, 2.0]), "b": jnp.array(0.0)}
    assert taylor.angle(across, g) == pytest.approx(90, abs=1e-12)
    tilted = {"a": jnp.array([1.0, 1e-9]), "b": jnp.array(0.0)}
    straight = {"a": jnp.array([1.0, 0.0]), "b": jnp.array(0.0)}
    assert taylor.angle(tilted, straight) == pytest.approx(np.degrees(1e-9), rel=1e-6)


def test_vmap_over_points():
    problem = problems.quadratic()
    points = ScalarParams(jnp.array([0.0, 5.0, 7.0]))
    slopes, bends = jax.vmap(
        lambda p: taylor.directional_derivatives(lambda q: problem.grad(q, None), p, ScalarParams(jnp.asarray(1.0)))
    )(points)
    np.testing.assert_array_equal(slopes, [-4, 6, 10])
    np.testing.assert_array_equal(bends, [2, 2, 2])


def test_refusals():
    problem = problems.quadratic()
    start = ScalarParams(jnp.asarray(5.0))
    with pytest.raises(ValueError, match=r"`step_sizes` must have shape \[S\] with S >= 2, got \(1,\)"):
        taylor.remainders(problem.loss, problem.grad, start, start, [0.1], None)
    with pytest.raises(ValueError, match="`direction` must have the tree structure of `params`"):
        taylor.remainders(problem.loss, problem.grad, start, (jnp.asarray(1.0),), [0.1, 0.2], None)
