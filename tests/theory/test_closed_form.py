"""Minimisers and trajectories against NumPy, scikit-learn and steps taken one by one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common import SYSTEMS, assert_trees_close, compiled, flat, setting

import jaxgd
from jaxgd import problems, theory
from jaxgd.theory import closed_form
from jaxgd.theory.bounds import is_quadratic
from jaxgd.types import Batch, LinearParams, ScalarParams


@pytest.mark.parametrize("num_outputs", [None, 2])
def test_least_squares_is_scikit_learns(rng, num_outputs):
    linear_model = pytest.importorskip("sklearn.linear_model")
    x = rng.normal(size=(30, 4)) * [1, 10, 100, 0.01] + 5
    y = rng.normal(size=(30,) if num_outputs is None else (30, num_outputs))
    solution = closed_form.least_squares(x, y)
    reference = linear_model.LinearRegression().fit(x, y)
    np.testing.assert_allclose(solution.weights.T, reference.coef_, rtol=1e-9)
    np.testing.assert_allclose(solution.bias, reference.intercept_, rtol=1e-9)
    assert solution.full_rank
    design = np.column_stack([x, np.ones(30)])
    assert solution.condition_number == pytest.approx(np.linalg.cond(design), rel=1e-8)
    assert solution.sum_squared_error == pytest.approx(np.sum((reference.predict(x) - y) ** 2), rel=1e-10)


def test_the_penalty_is_scikit_learns_ridge(rng):
    linear_model = pytest.importorskip("sklearn.linear_model")
    x, y = rng.normal(size=(30, 4)) + 3, rng.normal(size=30)
    solution = closed_form.least_squares(x, y, penalty=2.5)
    reference = linear_model.Ridge(alpha=2.5, solver="svd").fit(x, y)
    np.testing.assert_allclose(solution.weights, reference.coef_, rtol=1e-10)
    np.testing.assert_allclose(solution.bias, reference.intercept_, rtol=1e-10)


def test_float32_data_are_solved_in_float64(rng):
    x, y = rng.normal(size=(30, 3)).astype(np.float32), rng.normal(size=30).astype(np.float32)
    solution = closed_form.least_squares(jnp.asarray(x), jnp.asarray(y))
    exact = np.linalg.lstsq(np.column_stack([x, np.ones(30)]).astype(np.float64), y.astype(np.float64))[0]
    assert solution.weights.dtype == np.float64
    np.testing.assert_allclose(np.append(solution.weights, solution.bias), exact, rtol=1e-12)


def test_the_normal_equations_lose_the_digits_that_qr_keeps():
    # Powers 0..9 of 20 points in [0, 1]: condition number 1e7, squared beyond the digits of a double.
    points = np.linspace(0, 1, 20)
    powers = np.stack([points**k for k in range(1, 10)], axis=1)
    y = powers.sum(axis=1) + 1
    solution = closed_form.least_squares(powers, y)
    assert np.max(np.abs(solution.weights - 1)) < 1e-7
    design = np.column_stack([powers, np.ones(20)])
    normal = np.linalg.solve(design.T @ design, design.T @ y)
    assert np.max(np.abs(normal[:-1] - 1)) > 100 * np.max(np.abs(solution.weights - 1))


def test_rank_deficiency_is_said_and_gives_the_least_norm():
    x = np.array([[1.0, 2.0], [2.0, 4.0], [3.0, 6.0], [5.0, 10.0]])
    y = np.array([1.0, 2.0, 2.0, 4.0])
    solution = closed_form.least_squares(x, y)
    assert (solution.rank, solution.num_columns, solution.full_rank) == (2, 3, False)
    assert solution.condition_number == np.inf
    least = np.linalg.pinv(np.column_stack([x, np.ones(4)])) @ y
    np.testing.assert_allclose(np.append(solution.weights, solution.bias), least, rtol=1e-12)
    batch = Batch(jnp.asarray(x), jnp.asarray(y))
    with pytest.warns(UserWarning, match=r"not unique: \[X, 1\] has rank 2 of 3 columns"):
        problems.linear_regression().minimizer(batch)


def test_fewer_rows_than_columns(rng):
    x, y = rng.normal(size=(2, 4)), rng.normal(size=2)
    solution = closed_form.least_squares(x, y)
    least = np.linalg.pinv(np.column_stack([x, np.ones(2)])) @ y
    np.testing.assert_allclose(np.append(solution.weights, solution.bias), least, rtol=1e-11)
    assert solution.rank == 2


@pytest.mark.parametrize(
    ("inputs", "targets", "text"),
    [
        (np.ones(3), np.ones(3), r"got \(3,\) and \(3,\)"),
        (np.ones((3, 1)), np.ones(4), r"got \(3, 1\) and \(4,\)"),
        (np.ones((0, 1)), np.ones(0), "with N > 0"),
        (np.full((3, 1), np.nan), np.ones(3), "must be finite, got NaN"),
    ],
)
def test_least_squares_refuses(inputs, targets, text):
    with pytest.raises(ValueError, match=text):
        closed_form.least_squares(inputs, targets)


QUADRATIC = [s for s in SYSTEMS if is_quadratic(s.values[0])]
OF_KNOWN_TYPES = [s for s in QUADRATIC if s.values[0].linear_form is not None or s.id == "quadratic"]


def loss_of(problem):
    return getattr(problem.call, "keywords", {}).get("loss", "sum_squared_error")


@pytest.mark.parametrize("share", [0.3, 2.1])
@pytest.mark.parametrize(("problem", "make_batch"), OF_KNOWN_TYPES)
def test_trajectory_is_that_of_steps_taken_one_by_one(problem, make_batch, share):
    params, batch = setting(problem, make_batch)
    rate = share / np.linalg.eigvalsh(closed_form._quadratic(params, batch, loss_of(problem), problem.l2).hessian)[-1]
    path = closed_form.trajectory(params, batch, learning_rate=rate, num_steps=30, loss=loss_of(problem), l2=problem.l2)
    grad = compiled(problem.grad)
    for t in range(31):
        at_t = jax.tree.map(lambda leaf, t=t: leaf[t], path)
        size = np.max(np.abs(flat(params)))
        assert_trees_close(at_t, params, rtol=1e-12, atol=1e-12 * size)
        params = jax.tree.map(lambda p, g: p - rate * g, params, grad(params, batch))


@pytest.mark.parametrize("share", [0.3, 2.1])
@pytest.mark.parametrize(("problem", "make_batch"), QUADRATIC)
def test_trajectory_of_any_quadratic_problem(problem, make_batch, share):
    params, batch = setting(problem, make_batch)
    rate = share / float(theory.smoothness(problem, batch))
    path = closed_form.trajectory(params, batch, learning_rate=rate, num_steps=30, problem=problem)
    grad, size = compiled(problem.grad), np.max(np.abs(flat(params)))
    for t in range(31):
        assert_trees_close(jax.tree.map(lambda leaf, t=t: leaf[t], path), params, rtol=1e-12, atol=1e-12 * size)
        params = jax.tree.map(lambda p, g: p - rate * g, params, grad(params, batch))


def test_trajectory_of_an_own_quadratic_problem_and_of_one_that_is_not():
    bowl = jaxgd.autodiff(lambda p, b: jnp.sum(b * p["x"] ** 2) + 0.5 * jnp.sum(p["x"]), name="bowl")
    path = closed_form.trajectory(
        {"x": np.ones(2, np.float32)}, np.array([1.0, 2.0]), learning_rate=0.1, num_steps=2, problem=bowl
    )
    np.testing.assert_allclose(path["x"], [[1, 1], [0.75, 0.55], [0.55, 0.28]], rtol=1e-14)
    with pytest.raises(ValueError, match="must be quadratic") as caught:
        closed_form.trajectory(
            jnp.ones(2),
            None,
            learning_rate=0.1,
            num_steps=2,
            problem=jaxgd.autodiff(lambda p, b: jnp.sum(p**4), name="fourth"),
        )
    assert str(caught.value) == (
        "`problem` must be quadratic to have an exact trajectory: the Hessian of fourth is not the same at all "
        "parameters."
    )


def test_trajectory_takes_a_pair_and_every_form_with_a_problem(rng):
    inputs, targets, problem = rng.normal(size=(5, 2)), rng.normal(size=5), jaxgd.problems.linear_regression()
    start, options = LinearParams(np.zeros(2), np.zeros(())), {"learning_rate": 0.1, "num_steps": 3}
    expected = closed_form.trajectory(start, Batch(jnp.asarray(inputs), jnp.asarray(targets)), **options)
    assert_trees_close(closed_form.trajectory(start, (inputs, targets), **options), expected, rtol=0.0)
    form, rows = {"bias": 0, "weights": [0.0, 0.0]}, (inputs.tolist(), targets.tolist())
    assert_trees_close(closed_form.trajectory(form, rows, problem=problem, **options), expected, rtol=1e-13)


def test_trajectory_where_a_direction_does_not_curve():
    # Two equal columns: the difference of their weights has curvature 0 and never moves.
    x = np.array([[1.0, 1.0], [2.0, 2.0], [-1.0, -1.0]])
    batch = Batch(jnp.asarray(x), jnp.array([1.0, 0.0, 2.0]))
    params = LinearParams(jnp.array([3.0, 1.0]), jnp.asarray(0.0))
    path = closed_form.trajectory(params, batch, learning_rate=0.01, num_steps=1000)
    np.testing.assert_allclose(path.weights[:, 0] - path.weights[:, 1], 2.0, rtol=1e-12)


def test_the_parabola_multiplies_its_error():
    path = closed_form.trajectory(ScalarParams(jnp.asarray(5.0)), None, learning_rate=0.1, num_steps=3)
    np.testing.assert_allclose(path.x, [5, 4.4, 3.92, 3.536], rtol=1e-14)  # 2 + 3 * 0.8^t


def test_trajectory_refuses():
    with pytest.raises(TypeError, match="must be a LinearParams, LinearMapParams, LineParams or ScalarParams"):
        closed_form.trajectory((1.0,), Batch(jnp.ones((2, 1)), jnp.ones(2)), learning_rate=0.1, num_steps=1)
    with pytest.raises(ValueError, match=r"`loss` must be one of 'sum_squared_error', .*, got 'total'"):
        closed_form.trajectory(ScalarParams(0.0), None, learning_rate=0.1, num_steps=1, loss="total")
    with pytest.raises(ValueError, match="`batch` must hold the data"):
        closed_form.trajectory(LinearParams(jnp.ones(1), jnp.ones(())), None, learning_rate=0.1, num_steps=1)


def test_separability_is_decided():
    x = np.array([[0.0], [1.0], [2.0], [3.0]])
    assert closed_form.linearly_separable(x, np.array([0, 0, 1, 1]))
    assert not closed_form.linearly_separable(x, np.array([0, 1, 0, 1]))
    corners = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    assert closed_form.linearly_separable(corners, np.array([0, 0, 0, 1]))  # and
    assert not closed_form.linearly_separable(corners, np.array([0, 1, 1, 0]))  # exclusive or
    assert closed_form.linearly_separable(x, np.ones(4))


def test_separability_of_many_rows_is_that_of_all(rng):
    """The first programme has 60 rows; what decides here are rows it does not have."""
    x = rng.normal(size=(3000, 2))
    labels = (x @ np.array([1.0, -2.0]) > 0.3).astype(int)
    assert closed_form.linearly_separable(x, labels)
    inside = np.argmax(x @ np.array([1.0, -2.0]))  # one row of 3000, far on the other side
    labels[inside] = 0
    assert not closed_form.linearly_separable(x, labels)


def test_separable_classes_of_several():
    """Corners in every labelling; on a line a class between two others, but not one on both sides of them."""
    triangle = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    for labels in ([0, 1, 2], [2, 0, 1], [0, 0, 2]):
        assert closed_form.linearly_separable(triangle, labels)
    line = np.arange(6.0)[:, None]
    assert closed_form.linearly_separable(line, [0, 0, 1, 1, 2, 2])
    assert not closed_form.linearly_separable(line, [0, 1, 1, 2, 2, 0])
    assert not closed_form.linearly_separable(np.vstack([triangle, triangle]), [0, 1, 2, 1, 2, 0])


def test_parameters_that_separate_prove_it():
    x = np.array([[-1.0], [0.0], [1.0]])
    two = LinearParams(np.array([1.0]), np.array(-0.5))
    assert closed_form.separates(two, x, [0, 0, 1])
    assert not closed_form.separates(two, x, [0, 1, 1])
    assert not closed_form.separates(two._replace(bias=np.array(0.0)), x, [0, 0, 1])  # the middle row is undecided
    three = LinearParams(np.array([[-4.0, 0.0, 4.0]]), np.array([0.0, 1.0, 0.0]))
    assert closed_form.separates(three, x, [0, 1, 2])
    assert not closed_form.separates(three, x, [0, 1, 1])
