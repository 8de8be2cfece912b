"""What misleads other checkers: wrong rules, stopped gradients, kinks, NaN in reverse mode, state, low precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgd.gradcheck import Kind, assert_gradient, check_gradient

X = np.random.default_rng(0).normal(size=(20, 3))
Y = np.random.default_rng(1).normal(size=20)
W = np.array([0.3, -0.5, 0.8])


@pytest.fixture(autouse=True)
def as_users_have_it():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def kinds(report, *, wrong=True):
    return {finding.kind for finding in report.findings if finding.wrong == wrong}


def squares(w, x, y):
    return jnp.mean((x @ w - y) ** 2)


def squares_grad(w, x, y):
    return 2 / len(y) * x.T @ (x @ w - y)


# Rules inside the loss.


@jax.custom_vjp
def square_with_wrong_rule(r):
    return r**2


square_with_wrong_rule.defvjp(lambda r: (r**2, r), lambda r, ct: (ct * r,))  # a factor 2 is missing


def loss_with_wrong_rule(w, x, y):
    return jnp.mean(square_with_wrong_rule(x @ w - y))


def test_a_wrong_custom_vjp_does_not_make_a_right_gradient_wrong():
    report = check_gradient(loss_with_wrong_rule, squares_grad, W, X, Y)
    assert report.ok
    assert kinds(report, wrong=False) == {Kind.REFERENCE}


def test_what_is_known_of_one_loss_is_not_believed_of_another():
    """The same gradient, first with a loss that has no rule of its own."""
    assert not check_gradient(squares, squares_grad, W, X, Y).findings
    report = check_gradient(loss_with_wrong_rule, squares_grad, W, X, Y)
    assert report.ok
    assert "the rule of `square_with_wrong_rule`" in str(report)


def test_a_gradient_that_shares_a_wrong_custom_vjp_is_caught():
    report = check_gradient(loss_with_wrong_rule, jax.grad(loss_with_wrong_rule), W, X, Y)
    assert not report.ok
    assert kinds(report) == {Kind.REFERENCE}
    assert "the rule of `square_with_wrong_rule` (test_traps.py:36): r is 0.5 times the gradient" in str(report)


def test_a_wrong_custom_jvp_that_is_shared_is_caught_by_the_values():
    @jax.custom_jvp
    def square(r):
        return r**2

    square.defjvp(lambda primals, tangents: (square(primals[0]), 1.9 * primals[0] * tangents[0]))

    def loss(w):
        return jnp.sum(square(w))

    report = check_gradient(loss, jax.grad(loss), W)
    assert kinds(report) == {Kind.REFERENCE}
    report = check_gradient(loss, lambda w: 2 * w, W)
    assert report.ok
    assert kinds(report, wrong=False) == {Kind.REFERENCE}


def loss_with_stop(w, x, y):
    return jnp.mean((x @ w - jax.lax.stop_gradient(0.9 * (x @ w)) - y) ** 2)


def test_a_gradient_that_honours_a_stopped_gradient_is_right():
    report = check_gradient(loss_with_stop, jax.grad(loss_with_stop), W, X, Y)
    assert report.ok
    assert kinds(report, wrong=False) == {Kind.STOP_GRADIENT}
    assert "treats as constant what stop_gradient in `jax.lax.stop_gradient(0.9" in str(report)


def test_a_stopped_gradient_by_mistake_does_not_make_a_right_gradient_wrong():
    def grad(w, x, y):
        return 2 * 0.1 / len(y) * x.T @ (0.1 * (x @ w) - y)

    report = check_gradient(loss_with_stop, grad, W, X, Y)
    assert report.ok
    assert kinds(report, wrong=False) == {Kind.STOP_GRADIENT}


def test_a_stop_that_changes_nothing_is_not_mentioned():
    """The maximum in a log-sum-exp, held back for speed alone."""

    def loss(w):
        top = jax.lax.stop_gradient(jnp.max(w))
        return top + jnp.log(jnp.sum(jnp.exp(w - top)))

    report = check_gradient(loss, jax.nn.softmax, W)
    assert report.ok
    assert not report.findings


# Reverse mode that fails.


def test_nan_in_reverse_mode_of_a_guarded_log():
    def loss(p):
        return jnp.sum(jnp.where(p > 0, p * jnp.log(p), 0.0) ** 2)

    def grad(p):
        safe = jnp.where(p > 0, p, 1.0)
        return jnp.where(p > 0, 2 * safe * jnp.log(safe) * (jnp.log(safe) + 1), 0.0)

    report = check_gradient(loss, grad, np.array([0.5, 0.2, -0.3, 0.0]))
    assert report.ok, str(report)
    assert Kind.REFERENCE in kinds(report, wrong=False)
    wrong = check_gradient(loss, lambda p: 2 * grad(p), np.array([0.5, 0.2, -0.3, 0.0]))
    assert not wrong.ok


def test_nan_in_reverse_mode_of_a_root_at_zero():
    def loss(w):
        return jnp.sqrt(jnp.sum(w**2)) ** 3

    def grad(w):
        return 3 * jnp.sqrt(jnp.sum(w**2)) * w

    assert np.isnan(jax.grad(loss)(np.zeros(3))).all()
    report = check_gradient(loss, grad, np.zeros(3))
    assert report.ok, str(report)
    assert kinds(report, wrong=False) == {Kind.REFERENCE}


# Kinks.


def absolute(w, slope):
    return jnp.sum(jnp.abs(w))


def absolute_grad(w, slope):
    return jnp.where(w == 0, slope, jnp.sign(w))


@pytest.mark.parametrize("slope", [-1.0, 0.0, 0.5, 1.0])
def test_either_slope_of_an_absolute_value_may_be_given_at_its_kink(slope):
    report = check_gradient(absolute, absolute_grad, np.array([0.0, 1.5]), np.array(slope))
    assert report.ok, str(report)


def test_a_slope_beyond_both_sides_of_a_kink_is_wrong():
    assert not check_gradient(absolute, absolute_grad, np.array([0.0, 1.5]), np.array(3.0)).ok


ROWS = np.array([[1.0, -1.0], [2.0, 1.0], [-0.5, 0.25]])


def rectified(params, strict):
    return jnp.sum(jax.nn.relu(ROWS @ params["w"] + params["b"]) ** 1 * jnp.array([1.0, 2.0, 3.0]))


def rectified_grad(params, strict):
    z = ROWS @ params["w"] + params["b"]
    mask = jnp.where(jnp.where(strict, z > 0, z >= 0), jnp.array([1.0, 2.0, 3.0]), 0.0)
    return {"w": mask @ ROWS, "b": jnp.sum(mask)}


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("bias", [0.0, 1e-9, -1e-9, 1e-15, 1e-5])
def test_on_and_near_the_kink_of_a_relu(strict, bias):
    """Rows whose input to the ReLU is 0, or nearly; either mask may be used."""
    params = {"w": np.array([1.0, 1.0]), "b": np.array(bias)}
    report = check_gradient(rectified, rectified_grad, params, np.array(strict))
    assert report.ok, str(report)


def test_a_wrong_mask_is_no_kink():
    x = np.random.default_rng(3).normal(size=(9, 2))

    def loss(w):
        return jnp.sum(jax.nn.relu(x @ w))

    report = check_gradient(loss, lambda w: jnp.where(x @ w > 0.5, 1.0, 0.0) @ x, np.array([1.0, 1.0]))
    assert not report.ok
    assert Kind.KINK not in kinds(report, wrong=False)


# State, randomness, precision.


def test_a_gradient_that_counts_its_calls():
    calls = []

    def grad(w, x, y):
        calls.append(None)
        return squares_grad(w, x, y) * (1 + 1e-3 * len(calls))

    report = check_gradient(squares, grad, W, X, Y)
    assert Kind.RANDOM in kinds(report)


def test_a_gradient_that_draws_random_numbers():
    rng = np.random.default_rng(0)

    def noise(w):
        return w + 1e-3 * rng.normal(size=w.shape)

    def grad(w, x, y):
        right = squares_grad(w, x, y)
        return jax.pure_callback(noise, jax.ShapeDtypeStruct(right.shape, right.dtype), right)

    report = check_gradient(squares, grad, W, X, Y)
    assert Kind.RANDOM in kinds(report)


def test_float16_inside_the_gradient():
    def grad(w, x, y):
        r = (x @ w - y).astype(jnp.float16).astype(w.dtype)
        return 2 / len(y) * x.T @ r

    report = check_gradient(squares, grad, W.astype(np.float32), X.astype(np.float32), Y.astype(np.float32))
    assert kinds(report) == {Kind.PRECISION}
    assert "float16" in str(report)


def test_a_cast_to_the_parameters_own_dtype_is_fine():
    def grad(w, x, y):
        r = (x @ w - y).astype(jnp.float32).astype(w.dtype)
        return 2 / len(y) * x.T @ r

    w, x, y = (a.astype(np.float32) for a in (W, X, Y))
    assert check_gradient(squares, grad, w, x, y).ok
    assert kinds(check_gradient(squares, grad, W, X, Y)) == {Kind.PRECISION}


def test_a_loss_that_mixes_dtypes():
    x = X.astype(np.float16)

    def loss(w, y):
        return jnp.mean((jnp.asarray(x) @ w.astype(jnp.float16) - y.astype(jnp.float16)).astype(jnp.float32) ** 2)

    def grad(w, y):
        x64 = jnp.asarray(x).astype(w.dtype)
        return 2 / len(y) * x64.T @ (x64 @ w - y)

    report = check_gradient(loss, grad, W.astype(np.float32), Y.astype(np.float32))
    assert report.ok, str(report)


def test_overflow_in_its_own_dtype():
    def loss(z):
        return jnp.sum(jax.nn.softplus(z))

    def grad(z):
        return jnp.exp(z) / (1 + jnp.exp(z))

    report = check_gradient(loss, grad, np.array([100.0, 1.0], np.float32))
    assert kinds(report) == {Kind.OVERFLOW}


def test_cancellation_in_its_own_dtype():
    """w - sin w by its series, differentiated term by term; 1 - cos w has lost its digits at small w."""

    def loss(w):
        return jnp.sum(w**3 / 6 - w**5 / 120 + w**7 / 5040)

    def grad(w):
        return 1 - jnp.cos(w)

    report = check_gradient(loss, grad, np.array([1e-3, 2e-3], np.float32))
    assert kinds(report) == {Kind.CANCELLATION}
    assert check_gradient(loss, grad, np.array([1e-3, 2e-3])).ok


def a_little_off(w, x, y):
    return squares_grad(w, x, y) * (1 + 1e-9)


EITHER = [(np.float32, True), (np.float64, False), (jnp.bfloat16, True), (np.float16, False)]
OTHERS = [pytest.param(dtype, not x64, marks=pytest.mark.slow) for dtype, x64 in EITHER]


@pytest.mark.parametrize(("dtype", "x64"), [*EITHER, *OTHERS])
def test_any_dtype_and_either_flag(dtype, x64):
    with jax.enable_x64(x64):
        w, x, y = (a.astype(dtype) for a in (W, X, Y))
        report = check_gradient(squares, squares_grad, w, x, y)
        assert report.ok, str(report)
        report = check_gradient(squares, a_little_off, w, x, y)
        assert not report.ok
        assert jax.config.read("jax_enable_x64") == x64


# Outside JAX.


def test_a_gradient_in_numpy():
    def grad(w, x, y):
        return 2 / len(y) * np.asarray(x).T @ (np.asarray(x) @ np.asarray(w) - np.asarray(y))

    assert check_gradient(squares, grad, W, X, Y).ok
    report = check_gradient(squares, lambda *a: 2 * grad(*a), W, X, Y)
    assert kinds(report) == {Kind.FACTOR}


def test_a_loss_in_numpy_is_judged_by_its_values():
    def loss(w, x, y):
        return np.mean((np.asarray(x) @ np.asarray(w) - y) ** 2)

    def grad(w, x, y):
        return 2 / len(y) * np.asarray(x).T @ (np.asarray(x) @ np.asarray(w) - y)

    report = check_gradient(loss, grad, W, X, Y)
    assert report.ok, str(report)
    assert "only" in report.reference
    report = check_gradient(loss, lambda *a: 1.001 * grad(*a), W, X, Y)
    assert not report.ok


def test_a_gradient_behind_a_callback():
    def grad(w, x, y):
        def outside(w, x, y):
            return (2 / len(y) * x.T @ (x @ w - y)).astype(w.dtype)

        return jax.pure_callback(outside, jax.ShapeDtypeStruct(w.shape, w.dtype), w, x, y)

    assert check_gradient(squares, grad, W, X, Y).ok


# Scale.


def scaled(w, x, y, scale, factor):
    return scale * squares(w, x, y)


def scaled_grad(w, x, y, scale, factor):
    return (scale * factor * squares_grad(w, x, y)).astype(w.dtype)


ALL_OFF = [np.full(3, factor) for factor in (-1.0, 2.0, 1 + 1e-12)]


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_size_of_the_loss_changes_no_verdict(scale, dtype):
    w, x, y = (a.astype(dtype) for a in (W, X, Y))
    assert check_gradient(scaled, scaled_grad, w, x, y, dtype(scale), np.ones(3)).ok
    for factor in (*ALL_OFF, np.array([1, 1 + 1e-12, 1])):
        assert not check_gradient(scaled, scaled_grad, w, x, y, dtype(scale), factor, seconds=0).ok


def test_a_big_constant_in_the_loss():
    report = check_gradient(lambda *a: 1e8 + squares(*a), squares_grad, W, X, Y)
    assert report.ok, str(report)


def test_badly_scaled_data():
    x = X * np.array([1e-4, 1.0, 1e4])
    assert check_gradient(squares, squares_grad, W, x, Y).ok
    report = check_gradient(squares, lambda *a: squares_grad(*a).at[0].multiply(1 + 1e-9), W, x, Y)
    assert not report.ok


def test_saturated_sigmoids():
    def loss(w, x, y):
        return jnp.mean((jax.nn.sigmoid(x @ w) - y) ** 2)

    def grad(w, x, y):
        f = jax.nn.sigmoid(x @ w)
        return 2 / len(y) * x.T @ ((f - y) * f * (1 - f))

    for factor in (1.0, 10.0, 100.0, 1000.0):
        report = check_gradient(loss, grad, factor * W, X, Y)
        assert report.ok, f"{factor}\n{report}"


def test_the_minimum_and_parameters_that_do_not_matter():
    minimum = np.linalg.lstsq(X, Y, rcond=None)[0]
    assert check_gradient(squares, squares_grad, minimum, X, Y).ok

    def loss(params):
        return jnp.sum(params["used"] ** 2)

    def grad(params):
        return {"used": 2 * params["used"], "unused": jnp.zeros_like(params["unused"])}

    assert check_gradient(loss, grad, {"used": W, "unused": W}).ok
    assert check_gradient(loss, grad, {"used": np.zeros(3), "unused": np.zeros(2)}).ok


def test_second_order():
    def loss(w):
        return jnp.sum(w**4) + w[0] * w[1]

    def grad(w):
        return 4 * w**3 + jnp.array([w[1], w[0], 0.0])

    def product(w, v):
        return 12 * w**2 * v + jnp.array([v[1], v[0], 0.0])

    assert check_gradient(loss, grad, W, order=2).ok
    assert check_gradient(loss, product, W, order=2).ok
    report = check_gradient(loss, lambda w, v: 12 * w**2 * v, W, order=2)
    assert not report.ok
    assert not check_gradient(loss, lambda w: 4 * jax.lax.stop_gradient(w**2) * w, W, order=2).ok


def test_assert_gradient_shows_the_table():
    assert_gradient(squares, squares_grad, W, X, Y)
    with pytest.raises(AssertionError, match=r"(?s)WRONG.*relative error 5.0e-01.*a factor 2 is missing"):
        assert_gradient(squares, lambda *a: squares_grad(*a) / 2, W, X, Y)
