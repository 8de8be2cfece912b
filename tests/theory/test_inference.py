"""Standard errors against published tables."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgd
from jaxgd import problems, theory
from jaxgd.types import Batch, LineParams

# Spector & Mazzeo 1980: grade point average, score of a test, whether in the new course, whether the grade improved.
SPECTOR = np.loadtxt(
    io.StringIO("""
2.66 20 0 0  2.89 22 0 0  3.28 24 0 0  2.92 12 0 0  4.00 21 0 1  2.86 17 0 0  2.76 17 0 0  2.87 21 0 0
3.03 25 0 0  3.92 29 0 1  2.63 20 0 0  3.32 23 0 0  3.57 23 0 0  3.26 25 0 1  3.53 26 0 0  2.74 19 0 0
2.75 25 0 0  2.83 19 0 0  3.12 23 1 0  3.16 25 1 1  2.06 22 1 0  3.62 28 1 1  2.89 14 1 0  3.51 26 1 0
3.54 24 1 1  2.83 27 1 1  3.39 17 1 1  2.67 24 1 0  3.65 21 1 1  4.00 23 1 1  3.10 21 1 0  2.39 19 1 1
""")
).reshape(32, 4)


@pytest.mark.parametrize("loss", ["mean_sigmoid_cross_entropy", "sum_sigmoid_cross_entropy"])
def test_the_logit_table_of_spector_and_mazzeo(loss):
    """Greene, Econometric Analysis, example 17.3: coefficients and standard errors."""
    problem = problems.logistic_regression(loss=loss)
    batch = Batch(jnp.asarray(SPECTOR[:, :3]), jnp.asarray(SPECTOR[:, 3].astype(int)))
    flat, unravel = jax.flatten_util.ravel_pytree(problem.zeros(batch))
    for _ in range(10):  # Newton's method
        step = np.linalg.solve(
            theory.hessian(problem, unravel(flat), batch),
            jax.flatten_util.ravel_pytree(problem.grad(unravel(flat), batch))[0],
        )
        flat = flat - step
    params = unravel(flat)
    np.testing.assert_allclose(params.weights, [2.826, 0.095, 2.379], atol=5e-4)
    assert float(params.bias) == pytest.approx(-13.021, abs=5e-4)
    errors = theory.standard_errors(problem, params, batch)
    np.testing.assert_allclose(errors.weights, [1.263, 0.142, 1.065], atol=5e-4)
    assert float(errors.bias) == pytest.approx(4.931, abs=5e-4)


@pytest.mark.parametrize("loss", ["mean_squared_error", "half_sum_squared_error"])
def test_a_line_by_the_textbook(rng, loss):
    x = rng.normal(size=40)
    y = 2 * x + 1 + rng.normal(size=40)
    stats = pytest.importorskip("scipy.stats")
    expected = stats.linregress(x, y)
    problem, batch = problems.linear_regression(loss=loss), Batch(jnp.asarray(x)[:, None], jnp.asarray(y))
    errors = theory.standard_errors(problem, problem.minimizer(batch), batch)
    np.testing.assert_allclose(errors.weights[0], expected.stderr, rtol=1e-12)
    np.testing.assert_allclose(errors.bias, expected.intercept_stderr, rtol=1e-12)
    line, column = problems.line(), Batch(jnp.asarray(x), jnp.asarray(y))
    errors = theory.standard_errors(line, LineParams(*line.minimizer(column)), column)
    np.testing.assert_allclose(errors.slope, expected.stderr, rtol=1e-12)


X, Y = jnp.asarray(np.random.default_rng(0).normal(size=(5, 2))), jnp.ones(5)
REFUSED = [
    (
        problems.sigmoid_neuron(), Batch(X, Y),
        "`problem` must be a regression with a squared error or a cross-entropy to have standard errors, "
        "got sigmoid_neuron.",
    ),
    (
        problems.linear_regression(l2=0.1),
        Batch(X, Y),
        "`problem` must have no penalty to have standard errors, got l2 = 0.1.",
    ),
    (problems.linear_regression(), Batch(X[:3], Y[:3]), "`batch` must have more rows than the 3 parameters, got 3."),
    (
        problems.linear_regression(), Batch(jnp.ones((5, 2)), Y),
        "`batch` leaves a direction of the parameters undetermined: the Hessian is singular.",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("problem", "batch", "text"), REFUSED)
def test_what_has_no_standard_errors_is_refused(problem, batch, text):
    with pytest.raises(ValueError, match=r"must|leaves") as caught:
        theory.standard_errors(problem, problem.zeros(batch), batch)
    assert str(caught.value) == text


def test_without_an_intercept_they_are_those_of_least_squares_through_the_origin(rng):
    inputs, targets = rng.normal(size=(30, 2)), rng.normal(size=30)
    problem, batch = problems.linear_regression(fit_intercept=False), Batch(jnp.asarray(inputs), jnp.asarray(targets))
    params = problem.minimizer(batch)
    residuals = targets - inputs @ np.asarray(params.weights)
    covariance = np.sum(residuals**2) / 28 * np.linalg.inv(inputs.T @ inputs)
    errors = theory.standard_errors(problem, params, batch)
    assert isinstance(errors, jaxgd.WeightsParams)
    np.testing.assert_allclose(errors.weights, np.sqrt(np.diag(covariance)), rtol=1e-12)
