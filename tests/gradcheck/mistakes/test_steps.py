"""The rows of MISTAKES that need the loss itself, and causes for losses that JAX cannot trace."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgd.gradcheck import Kind, check_gradient
from jaxgd.gradcheck.mistakes.values import central_differences, in_jax

RNG = np.random.default_rng(0)
X, y = RNG.normal(size=(7, 3)), RNG.normal(size=7)
p = {"w": RNG.normal(size=3), "b": np.float64(0.3)}


@pytest.fixture(autouse=True)
def as_users_have_it():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def loss(p, X, y):
    z = X @ p["w"] + p["b"]
    return jnp.sum((jnp.tanh(z) - y) ** 2) / jnp.sum(jnp.exp(z))


def gradient(p, X, y, *, numerator=1.0, denominator=1.0, slope=True, rows=slice(None), whole=1.0):
    """By hand; the parts can be changed."""
    z = X @ p["w"] + p["b"]
    t, e = jnp.tanh(z), jnp.exp(z)
    top, bottom = jnp.sum((t - y) ** 2), jnp.sum(e)
    dz = numerator * 2 * (t - y) * ((1 - t * t) if slope else 1.0) / bottom - denominator * top / bottom**2 * e
    dz = whole * dz
    return {"w": X[rows].T @ dz[rows], "b": jnp.sum(dz[rows])}


def finding(loss, grad, *args, leaf):
    (found,) = (f for f in check_gradient(loss, grad, *args, seconds=60).findings if f.wrong and f.leaf == leaf)
    return found


@pytest.mark.parametrize(
    ("changed", "kind", "words"),
    [
        ({"denominator": -1.0}, Kind.SIGN, "by `jnp.sum(jnp.exp(z))` has the wrong sign"),
        ({"denominator": 0.0}, Kind.PATH, "to `jnp.sum(jnp.exp(z))` is left out"),
        ({"denominator": 2.0}, Kind.FACTOR, "to `jnp.sum(jnp.exp(z))` is taken 2 times (a factor 2 too much"),
        ({"denominator": 0.5}, Kind.FACTOR, "to `jnp.sum(jnp.exp(z))` is taken 0.5 times (a factor 2 is missing"),
        ({"slope": False}, Kind.DERIVATIVE, "the derivative of the tanh `jnp.tanh(z)` (test_steps.py"),
        ({"slope": False, "denominator": 0.0}, None, "two mistakes in its backward pass"),
    ],
)
def test_a_change_of_the_backward_pass(changed, kind, words):
    found = finding(loss, functools.partial(gradient, **changed), p, X, y, leaf="['w']")
    assert kind in (None, found.kind)
    assert words in found.message


def test_a_scalar_of_the_loss_as_a_factor_of_the_whole():
    def grad(p, X, y):
        z = X @ p["w"] + p["b"]
        return gradient(p, X, y, whole=jnp.sum(jnp.exp(z)))

    found = finding(loss, grad, p, X, y, leaf="['w']")
    assert "multiplied with `jnp.sum(jnp.exp(z))`" in found.message or "is left out" in found.message


def squares(p, X, y):
    return jnp.sum((X @ p["w"] + p["b"] - y) ** 2)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (slice(None, -1), "row 6 of the data, the last one, left out"),
        (slice(1, None), "row 0 of the data left out"),
        (slice(None, 3), "only the first 3 rows of the data"),
        (slice(-2, None), "only the last 2 rows of the data"),
        (slice(None, None, 3), "only every row of the data whose number divides by 3"),
    ],
)
def test_rows_left_out(rows, words):
    def grad(p, X, y):
        r = 2 * (X @ p["w"] + p["b"] - y)
        return {"w": X[rows].T @ r[rows], "b": jnp.sum(r)}

    found = finding(squares, grad, p, X, y, leaf="['w']")
    assert found.kind is Kind.ROWS
    assert words in found.message


def test_a_row_counted_twice():
    def grad(p, X, y):
        r = 2 * (X @ p["w"] + p["b"] - y) * jnp.array([1, 1, 2, 1, 1, 1, 1])
        return {"w": X.T @ r, "b": jnp.sum(r)}

    assert "row 2 of the data counted twice" in finding(squares, grad, p, X, y, leaf="['w']").message


def test_one_term_of_the_gradient():
    """The factor x is left out of the gradient by the intercept's residual, and only where y is not involved."""

    def loss(w, x, y):
        return jnp.sum((jnp.sin(w * x) - y) ** 2)

    def grad(w, x, y):
        return 2 * jnp.sum(jnp.sin(w * x) * jnp.cos(w * x)) - 2 * jnp.sum(y * jnp.cos(w * x) * x)

    found = finding(loss, grad, np.float64(0.7), X[:, 0], y, leaf="")
    assert "in the part without args[1]" in found.message
    assert "the other factor args[0] is left out" in found.message


def numpy_loss(p, X, y, xp=np):
    return xp.sum((xp.tanh(X @ p["w"] + p["b"]) - y) ** 2)


def numpy_gradient(p, X, y):
    t = np.tanh(X @ p["w"] + p["b"])
    return {"w": X.T @ (2 * (t - y)), "b": np.sum(2 * (t - y) * (1 - t * t))}


def test_a_numpy_loss_is_read_with_jax_numpy():
    """The leaf `b` is right, so that the slope is left out on the way to the weights only."""
    message = finding(numpy_loss, numpy_gradient, p, X, y, leaf="['w']").message
    assert 'on the path from `xp.tanh(X @ p["w"] + p["b"])` (test_steps.py:' in message
    assert "back to ['w'], the derivative of the tanh is left out" in message


def test_a_numpy_loss_that_jax_numpy_cannot_run():
    def in_place(p, X, y):
        r = np.asarray(X @ p["w"], np.float64).copy()
        r -= y
        return np.sum(r**2) + float(p["b"]) ** 2

    def grad(p, X, y):
        return {"w": 3 * X.T @ (X @ p["w"] - y), "b": 2 * p["b"]}

    found = finding(in_place, grad, p, X, y, leaf="['w']")
    assert found.kind is Kind.FACTOR
    assert "is 1.5 times the gradient" in found.message


def test_central_differences():
    def value(params):
        return float(np.sum(np.sin(params[0]) * params[1]))

    a, c = X[:, 0], y
    by_a, by_c = central_differences(value, [a, c])
    np.testing.assert_allclose(by_a, np.cos(a) * c, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(by_c, np.sin(a), rtol=1e-8, atol=1e-10)
    assert central_differences(value, [np.zeros(401)]) is None


def helper(v):
    return np.exp(v) + np.linalg.norm(v)


def test_functions_of_numpy_are_rebuilt_with_jax_numpy():
    replaced = in_jax(functools.partial(numpy_loss, xp=np))
    assert float(jax.jit(replaced)(p, X, y)) == pytest.approx(float(numpy_loss(p, X, y)))
    calls_another = in_jax(lambda v: np.sum(helper(v)))
    np.testing.assert_allclose(jax.jit(calls_another)(y), np.sum(helper(y)))
    assert in_jax(lambda v: v + 1) is None


@pytest.mark.slow
def test_the_search_goes_on_where_complex_values_are_changed():
    """In float32, sums of complex numbers are evaluated with other inputs in double precision all the same."""

    def state(t):
        e = jnp.exp(-1j * t["a"])
        return jnp.stack([1 + e, (1 - e) * (1 + t["b"])])

    def loss(t, w):
        return jnp.sum(w * jnp.abs(state(t)) ** 2)

    def grad(t, w):  # the conjugate of the state is missing
        e, moves = jnp.exp(-1j * t["a"]), {}
        moves["a"] = jnp.stack([-1j * e, 1j * e * (1 + t["b"])])
        moves["b"] = jnp.stack([0 * e, 1 - e])
        return {name: jnp.sum(2 * w * jnp.real(state(t) * move)) for name, move in moves.items()}

    with jax.enable_x64(False):
        point = {"a": jnp.float32(0.7), "b": jnp.float32(0.3)}
        report = check_gradient(loss, grad, point, jnp.array([0.9, -0.4], jnp.float32))
    assert "the complex conjugate is missing in the derivative of the abs" in str(report)
