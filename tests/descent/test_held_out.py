"""Rows held out of a run: their curve, the best parameters, and the end of patience."""

import sys

import jax.numpy as jnp
import numpy as np
import pytest
from common import assert_trees_equal

import jaxgd
from jaxgd import Batch, StopReason, problems

fit_module = sys.modules["jaxgd.descent.fit"]
PROBLEM = problems.linear_regression()


def rows(seed, count):
    """Rows of ten inputs, of which the first matters, with noise."""
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(count, 10))
    return Batch(jnp.asarray(inputs), jnp.asarray(inputs[:, 0] + rng.normal(size=count)))


FITTED, HELD_OUT = rows(0, 12), rows(1, 50)


def run(**options):
    """Twelve rows for eleven parameters: the fit soon follows the noise."""
    given = {"learning_rate": 0.15, "num_steps": 200, "chunk_steps": 10, "held_out": HELD_OUT} | options
    return jaxgd.fit(PROBLEM, PROBLEM.zeros(FITTED), FITTED, **given)


def points(count):
    """Parameters every ten steps, by NumPy."""
    X, y = np.asarray(FITTED.inputs), np.asarray(FITTED.targets)
    weights, bias = np.zeros(10), 0.0
    for step in range(10 * count + 1):
        if step % 10 == 0:
            yield weights, bias
        residuals = X @ weights + bias - y
        weights, bias = weights - 0.3 * X.T @ residuals / len(y), bias - 0.3 * residuals.mean()


def test_the_held_out_loss_is_that_of_the_parameters_after_every_chunk():
    result = run()
    X, y = np.asarray(HELD_OUT.inputs), np.asarray(HELD_OUT.targets)
    found = list(points(20))
    losses = [np.mean((X @ weights + bias - y) ** 2) for weights, bias in found]
    np.testing.assert_array_equal(result.held_out.step, np.arange(0, 201, 10))
    np.testing.assert_allclose(result.held_out.loss, losses, rtol=1e-12)
    lowest = int(np.argmin(losses))
    assert 0 < lowest < 20
    np.testing.assert_allclose(result.best_params.weights, found[lowest][0], rtol=1e-10)


def test_a_held_out_loss_that_is_nan_is_not_the_lowest():
    """theta = 1 - 0.9^t on the row 1; the loss of the row 3 is NaN from theta = 0.5 on, 7 steps."""
    problem = jaxgd.autodiff(
        lambda p, b: jnp.sum(jnp.where((b > 2) & (p > 0.5), jnp.nan, (p - b) ** 2)), name="nan beyond a half"
    )
    result = jaxgd.fit(
        problem, jnp.zeros(1), jnp.ones(1), learning_rate=0.05, num_steps=10, chunk_steps=1, held_out=jnp.full(1, 3.0)
    )
    assert np.isnan(result.held_out.loss).tolist() == [False] * 7 + [True] * 4
    np.testing.assert_allclose(result.best_params, 1 - 0.9**6, rtol=1e-12)


def test_a_run_without_held_out_rows_is_as_before():
    plain, watched = run(held_out=None), run()
    assert plain.held_out is None
    assert_trees_equal(watched._replace(held_out=None, best_params=None), plain._replace(best_params=None))


def test_patience_ends_a_run_that_many_chunks_after_the_lowest_loss():
    whole = run()
    lowest = int(np.argmin(whole.held_out.loss))
    result = run(patience=3)
    assert result.stop_reason is StopReason.NO_IMPROVEMENT
    assert int(result.num_steps) == 10 * (lowest + 3)
    assert_trees_equal(result.best_params, whole.best_params)
    np.testing.assert_array_equal(result.held_out.loss, whole.held_out.loss[: lowest + 4])
    text = "the held-out loss has not become lower for as long as `patience` allows."
    assert jaxgd.explain(result, PROBLEM, FITTED) == f"NO_IMPROVEMENT at step {10 * (lowest + 3)}: {text}"


def test_a_resumed_run_keeps_curve_and_best_parameters(tmp_path, monkeypatch):
    """Ended by patience, read again, continued with more patience, and killed in between: the same bits."""
    whole, early = run(patience=8), run(patience=3)
    for _ in range(2):
        assert_trees_equal(run(patience=3, checkpoint=tmp_path), early)
    real, calls = fit_module._run, []

    def chunk(*args):
        calls.append(None)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(fit_module, "_run", chunk)
        with pytest.raises(KeyboardInterrupt):
            run(patience=8, checkpoint=tmp_path)
    assert_trees_equal(run(patience=8, checkpoint=tmp_path), whole)


def test_a_loss_that_is_not_finite_is_not_the_best():
    result = run(learning_rate=1e3, divergence_factor=np.inf)
    assert result.stop_reason is StopReason.NONFINITE
    assert_trees_equal(result.best_params, PROBLEM.zeros(FITTED))


def test_a_saved_model_keeps_the_curve(tmp_path):
    result = run()
    jaxgd.save(tmp_path / "run", jaxgd.Fitted(PROBLEM, result))
    assert_trees_equal(jaxgd.load(tmp_path / "run").result.held_out, result.held_out)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"patience": 0}, ValueError, "`patience` must be at least 1, got 0"),
        ({"patience": 1.5}, TypeError, "`patience` must be a Python integer, got 1.5."),
        ({"patience": 3, "held_out": None}, ValueError, "`patience` needs rows to judge by: give `held_out`."),
        (
            {"held_out": Batch(jnp.ones((2, 3)), jnp.ones(2))},
            ValueError,
            r"`held_out`: `inputs` must have shape \(2, 10\)",
        ),
        (
            {"held_out": Batch(jnp.ones((2, 10)), jnp.ones(3))},
            ValueError,
            r"`held_out`: `targets` must have shape \(2,\)",
        ),
        ({"held_out": "rows"}, TypeError, "`held_out`: `batch` must be a jaxgd.Batch"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused(options, error, text):
    with pytest.raises(error, match=text):
        run(**options)
