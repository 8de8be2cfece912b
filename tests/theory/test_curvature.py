"""Largest eigenvalues and stable rates against dense Hessians and published ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common import SOME_SYSTEMS, SYSTEMS, flat, setting

import jaxgd
from jaxgd import problems
from jaxgd.theory import closed_form, curvature
from jaxgd.types import Batch


def dense_hessian(problem, params, batch):
    vector, unravel = jax.flatten_util.ravel_pytree(params)
    return np.asarray(jax.jit(jax.hessian(lambda v: problem.loss(unravel(v), batch)))(vector))


@pytest.mark.parametrize(("problem", "make_batch"), SOME_SYSTEMS)
def test_largest_eigenvalue_of_all_problems(problem, make_batch):
    params, batch = setting(problem, make_batch)
    vector, unravel = jax.flatten_util.ravel_pytree(params)

    @jax.jit
    def both(vector, batch):
        dense = jax.hessian(lambda v: problem.loss(unravel(v), batch))(vector)
        return dense, curvature.largest_eigenvalue(problem, unravel(vector), batch)

    dense, found = both(vector, batch)
    np.testing.assert_allclose(found.value, np.linalg.eigvalsh(dense)[-1], rtol=1e-11)
    assert found.error_bound == 0


def test_lanczos_holds_its_bound(rng):
    inputs = jnp.asarray(rng.normal(size=(400, 300)) * np.linspace(0.1, 3, 300))
    batch = Batch(inputs, jnp.asarray(rng.normal(size=400)))
    problem = problems.linear_regression()
    params = problem.init(jax.random.key(0), batch)
    found = curvature.largest_eigenvalue(problem, params, batch)
    design = np.column_stack([inputs, np.ones(400)])
    expected = 2 / 400 * np.linalg.norm(design, 2) ** 2
    assert abs(float(found.value) - expected) <= float(found.error_bound) + 1e-12 * expected
    assert float(found.error_bound) < 1e-3 * expected


def test_lanczos_stops_where_the_krylov_space_is_exhausted():
    # x^2-like loss in 300 directions of curvature 2: the space has one dimension.
    problem = jaxgd.Problem(name="ball", loss=lambda p, b: jnp.sum(p**2), grad=lambda p, b: 2 * p)
    found = curvature.largest_eigenvalue(problem, jnp.ones(300), None)
    assert float(found.value) == pytest.approx(2, rel=1e-12)
    assert float(found.error_bound) == pytest.approx(0, abs=1e-12)


def test_the_limit_of_the_parabola_is_one():
    problem = problems.quadratic()
    params = problem.init(jax.random.key(0), None)
    assert float(jaxgd.largest_stable_learning_rate(problem, params, None)) == 1


def test_no_limit_where_nothing_curves_upwards():
    problem = jaxgd.Problem(name="slope", loss=lambda p, b: p[0], grad=lambda p, b: jnp.ones(1))
    assert float(jaxgd.largest_stable_learning_rate(problem, jnp.zeros(1), None)) == np.inf


def test_hessian_vector_product_is_the_column_of_the_hessian():
    problem, make_batch = next(s.values for s in SYSTEMS if s.values[0] is problems.softmax_regression(3))
    params, batch = setting(problem, make_batch)
    direction = jax.tree.map(jnp.ones_like, params)
    expected = dense_hessian(problem, params, batch) @ flat(direction)
    found = curvature.hessian_vector_product(problem, params, batch, direction)
    np.testing.assert_allclose(flat(found), expected, rtol=1e-10, atol=1e-13)


def test_the_published_limit_of_the_sat_data(cases, cases_folder):
    del cases
    table = np.genfromtxt(cases_folder / "satgpa.csv", delimiter=",", names=True)
    batch = Batch(jnp.asarray(table["sat_sum"])[:, None], jnp.asarray(table["fy_gpa"]))
    problem = problems.linear_regression()
    params = problem.init(jax.random.key(0), batch)
    limit = jaxgd.largest_stable_learning_rate(problem, params, batch)
    np.testing.assert_allclose(limit, 9.189666037e-05, rtol=1e-9)
    assert closed_form.least_squares(batch.inputs, batch.targets).full_rank


def test_contraction_and_steps_of_a_known_spectrum():
    eigenvalues = np.array([0.0, 1.0, 4.0])  # a direction that does not curve does not count
    assert curvature.contraction_factor(eigenvalues, 0.25) == 0.75
    assert curvature.contraction_factor(eigenvalues, 0.5) == 1.0
    assert curvature.best_learning_rate(eigenvalues) == 0.4
    assert curvature.contraction_factor(eigenvalues, 0.4) == pytest.approx(3 / 5)  # (kappa - 1) / (kappa + 1)
    assert curvature.steps_to_accuracy(0.1, 1e-6) == pytest.approx(6, abs=1)
    assert curvature.steps_to_accuracy(0.0, 1e-6) == 1
    assert curvature.steps_to_accuracy(1.0, 1e-6) == np.inf
    assert curvature.best_learning_rate(np.array([0.0, -1.0])) == np.inf


@pytest.mark.parametrize("share", [0.3, 0.9, 0.99])
def test_descent_takes_the_steps_that_were_predicted(rng, share):
    batch = Batch(jnp.asarray(rng.normal(size=(30, 4)) * [1, 2, 3, 4]), jnp.asarray(rng.normal(size=30)))
    problem = problems.linear_regression()
    params = problem.init(jax.random.key(0), batch)
    eigenvalues = curvature.eigenvalues(problem, params, batch)
    rate = share * 2 / float(eigenvalues[-1])
    factor = curvature.contraction_factor(eigenvalues, rate)
    steps = int(curvature.steps_to_accuracy(factor, 1e-6))
    path = closed_form.trajectory(params, batch, learning_rate=rate, num_steps=steps)
    minimizer = problem.minimizer(batch)
    errors = [np.linalg.norm(flat(jax.tree.map(lambda p, m, t=t: p[t] - m, path, minimizer))) for t in (0, steps)]
    assert errors[1] <= 1e-6 * errors[0]


def test_a_dense_hessian_has_its_limit():
    problem = jaxgd.Problem(name="ball", loss=lambda p, b: jnp.sum(p**2), grad=lambda p, b: 2 * p)
    with pytest.raises(ValueError, match="`params` must have at most 256 entries for a dense Hessian, got 300"):
        curvature.eigenvalues(problem, jnp.ones(300), None)
