"""Values at points worked out by hand, second formulas, extreme logits, and what each system refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common import assert_trees_close, compiled, flat

import jaxgd
from jaxgd import problems, theory
from jaxgd.problems import linear, losses
from jaxgd.problems.scalar import CubicParams
from jaxgd.theory import closed_form
from jaxgd.types import Batch, LinearMapParams, LinearParams, LineParams, ScalarParams

RAVEL = '`targets.ravel()` has it, or `frame["name"]` if it is a column of a data frame.'


def test_the_parabola():
    problem = problems.quadratic()
    params = ScalarParams(jnp.asarray(5.0))
    assert problem.loss(params, None) == 10  # 25 - 20 + 5
    assert problem.grad(params, None).x == 6  # 10 - 4
    assert problem.minimizer(None).x == 2
    assert problem.loss(problem.minimizer(None), None) == 1


def test_a_quadratic_of_two_variables():
    # f = 1/2 (3 a^2 + 2 a b + 2 b^2) - a + 2 b + 1/2; at (1, 2): 1/2 (3 + 4 + 8) - 1 + 4 + 1/2 = 11.
    problem = problems.quadratic([[3.0, 1.0], [1.0, 2.0]], [1.0, -2.0], 0.5)
    params = jaxgd.VectorParams(jnp.array([1.0, 2.0]))
    assert problem.loss(params, None) == 11
    np.testing.assert_array_equal(problem.grad(params, None).x, [4, 7])  # (3 + 2 - 1, 1 + 4 + 2)
    np.testing.assert_array_equal(problem.second_order.hvp(params, params, None).x, [5, 5])
    np.testing.assert_allclose(problem.minimizer(None).x, [0.8, -1.4], rtol=1e-14)  # H^-1 g by Cramer's rule
    assert problem is problems.quadratic(np.array([[3, 1], [1, 2]]), (1, -2), 0.5)
    half = jaxgd.VectorParams(jnp.array([1.0, 2.0], jnp.float32))
    assert problem.grad(half, None).x.dtype == jnp.float32


def test_quadratics_without_a_unique_minimum():
    assert problems.quadratic([[1.0, 0.0], [0.0, -1.0]]).minimizer is None  # a saddle
    assert problems.quadratic([[1.0, 0.0], [0.0, 0.0]], [1.0, 1.0]).minimizer is None  # a slope along b
    valley = problems.quadratic([[2.0, 2.0], [2.0, 2.0]], [2.0, 2.0])
    np.testing.assert_allclose(valley.minimizer(None).x, [0.5, 0.5], rtol=1e-14)  # of least norm


def test_nesterovs_worst_function_is_as_slow_as_he_proved():
    size, smoothness = 41, 4.0
    problem = problems.nesterov_quadratic(size, smoothness=smoothness)
    best = np.asarray(problem.minimizer(None).x)
    np.testing.assert_allclose(best, 1 - np.arange(1, size + 1) / (size + 1), rtol=1e-12)
    least = float(problem.loss(problem.minimizer(None), None))
    assert least == pytest.approx(smoothness / 8 * (1 / (size + 1) - 1), rel=1e-12)
    largest = float(jaxgd.theory.smoothness(problem, None))
    assert largest == pytest.approx(smoothness * np.cos(np.pi / (2 * (size + 1))) ** 2, rel=1e-12)
    start = jaxgd.VectorParams(jnp.zeros(size))
    run = jaxgd.descend(problem, start, None, learning_rate=1 / smoothness, num_steps=41, record=("loss",))
    above = np.asarray(run.history.loss) - least
    t = np.arange(41)
    assert np.all(above >= smoothness / 8 * (1 / (t + 1) - 1 / (size + 1)) * (1 - 1e-12))
    assert above[20] >= 3 * smoothness * np.sum(best**2) / (32 * 21**2)


def test_a_polynomial_and_the_roots_of_its_derivative():
    problem = problems.polynomial([1, -3, 0, 0, 2])  # x^4 - 3x^3 + 2, p' = x^2 (4x - 9)
    assert problem.minimizer(None).x == 2.25
    assert problem.loss(ScalarParams(jnp.asarray(2.0)), None) == -6  # 16 - 24 + 2
    assert problem.grad(ScalarParams(jnp.asarray(2.0)), None).x == -4  # 32 - 36
    one = ScalarParams(jnp.asarray(1.0))
    assert problem.second_order.hvp(ScalarParams(jnp.asarray(2.0)), one, None).x == 12  # 48 - 36
    result = jaxgd.descend(problem, ScalarParams(jnp.asarray(6.0)), None, learning_rate=0.01, num_steps=2000)
    np.testing.assert_allclose(result.params.x, 2.25, rtol=1e-12)
    assert problems.polynomial([1, 0, 0]).minimizer(None).x == 0
    assert problems.polynomial([1, 0, 0, 0]).minimizer is None
    assert problems.polynomial([-1, 0, 0]).minimizer is None
    assert jaxgd.theory.smoothness(problems.polynomial([3, 0, 0]), None) == 6


def test_the_cubic():
    problem = problems.cubic()
    params = CubicParams(jnp.asarray(2.0), jnp.asarray(3.0))
    assert problem.loss(params, None) == 17  # 8 + 9
    assert problem.grad(params, None) == CubicParams(12, 6)
    assert problem.minimizer is None


def test_the_linear_map():
    problem = problems.linear_map()
    params = LinearMapParams(jnp.array([[1.0, 2.0, 0.0], [0.0, 1.0, 1.0]]), jnp.array([0.5, -0.3]))
    x, g = jnp.array([1.0, 0.5, 0.5]), jnp.array([2.0, 1.0])
    # y = (1 + 1 + 0.5, 0.5 + 0.5 - 0.3) = (2.5, 0.7); residuals y - g = (0.5, -0.3).
    np.testing.assert_allclose(problem.predict(params, x), [2.5, 0.7], rtol=1e-15)
    np.testing.assert_allclose(problem.loss(params, Batch(x, g)), 0.25 + 0.09, rtol=1e-14)
    grads = problem.grad(params, Batch(x, g))
    np.testing.assert_allclose(grads.bias, [1.0, -0.6], rtol=1e-14)
    np.testing.assert_allclose(grads.matrix, [[1.0, 0.5, 0.5], [-0.6, -0.3, -0.3]], rtol=1e-14)
    batch = Batch(jnp.stack([x, x]), jnp.stack([g, g]))
    assert_trees_close(problem.grad(params, batch), jax.tree.map(lambda a: 2 * a, grads), rtol=1e-14)


@jax.jit
def jacobians(params, x, g):
    y = problems.linear_map().predict(params, x)
    by_outputs = linear.jacobian_loss_outputs(y, g), -2 * (g - y)
    by_params = linear.jacobian_outputs_bias(params), linear.jacobian_outputs_matrix(params, x)
    by_jax = jax.jacfwd(lambda m: m @ x)(params.matrix)
    return by_outputs, by_params, by_jax, problems.linear_map().grad(params, Batch(x, g))


def test_the_jacobians_contract_to_the_outer_product_to_the_last_bit(rng):
    for num_outputs, num_inputs in [(1, 1), (5, 2)]:
        params = LinearMapParams(rng.normal(size=(num_outputs, num_inputs)), rng.normal(size=num_outputs))
        x, g = rng.normal(size=num_inputs), rng.normal(size=num_outputs)
        found = jax.tree.map(np.asarray, jacobians(params, x, g))
        (by_outputs, expected), (by_bias, by_matrix), by_jax, grads = found
        np.testing.assert_array_equal(by_outputs, expected)
        np.testing.assert_array_equal(by_bias, np.eye(num_outputs))
        np.testing.assert_array_equal(by_matrix, by_jax)
        np.testing.assert_array_equal(np.einsum("i,ijk->jk", by_outputs, by_matrix), np.outer(by_outputs, x))
        np.testing.assert_array_equal(grads.matrix, np.outer(by_outputs, x))
        np.testing.assert_array_equal(grads.bias, by_outputs @ by_bias)


def test_the_line_by_its_normal_equations():
    x, y = np.array([0.0, 1.0, 2.0]), np.array([1.0, 3.0, 4.0])
    batch = Batch(jnp.asarray(x), jnp.asarray(y))
    problem = problems.line()
    assert problem.loss(LineParams(jnp.asarray(1.0), jnp.asarray(1.0)), batch) == 2  # residuals 0, -1, -1
    grads = problem.grad(LineParams(jnp.asarray(1.0), jnp.asarray(1.0)), batch)
    assert grads == LineParams(-4, -6)
    # (X^T X)^-1 X^T y with X^T X = [[3, 3], [3, 5]] and X^T y = (8, 11).
    np.testing.assert_allclose(flat(problem.minimizer(batch)), [7 / 6, 3 / 2], rtol=1e-14)
    column = Batch(batch.inputs[:, None], batch.targets)
    np.testing.assert_array_equal(flat(problem.grad(grads, column)), flat(problem.grad(grads, batch)))


@pytest.mark.parametrize("num_outputs", [None, 3])
@pytest.mark.parametrize(
    ("loss", "factor"),
    [
        ("sum_squared_error", 2),
        ("half_sum_squared_error", 1),
        ("mean_squared_error", 2 / 9),
        ("half_mean_squared_error", 1 / 9),
    ],
)
def test_linear_regression_by_the_textbook(rng, loss, factor, num_outputs):
    shape = () if num_outputs is None else (num_outputs,)
    x, y = rng.normal(size=(9, 4)), rng.normal(size=(9, *shape))
    params = LinearParams(jnp.asarray(rng.normal(size=(4, *shape))), jnp.asarray(rng.normal(size=shape)))
    residuals = x @ np.asarray(params.weights) + np.asarray(params.bias) - y
    problem = problems.linear_regression(loss=loss)
    batch = Batch(jnp.asarray(x), jnp.asarray(y))
    np.testing.assert_allclose(problem.loss(params, batch), factor / 2 * np.sum(residuals**2), rtol=1e-13)
    grads = problem.grad(params, batch)
    np.testing.assert_allclose(grads.weights, factor * x.T @ residuals, rtol=1e-12)
    np.testing.assert_allclose(grads.bias, factor * residuals.sum(axis=0), rtol=1e-12)


def test_one_name_for_one_factor_everywhere(rng):
    assert set(losses.SQUARED_ERRORS) == set(closed_form.SQUARED_ERROR_SCALES)
    batch = Batch(jnp.asarray(rng.normal(size=(9, 2))), jnp.asarray(rng.normal(size=9)))
    for loss, scale in closed_form.SQUARED_ERROR_SCALES.items():
        problem = problems.linear_regression(loss=loss)
        start = problem.zeros(batch)
        np.testing.assert_allclose(problem.loss(start, batch), scale(9) * np.sum(batch.targets**2), rtol=1e-14)
        path = closed_form.trajectory(start, batch, learning_rate=0.01, num_steps=1, loss=loss)
        step = jax.tree.map(lambda p, g: p - 0.01 * g, start, problem.grad(start, batch))
        np.testing.assert_allclose(path.weights[1], step.weights, rtol=1e-12)
        vector = jax.tree.map(jnp.ones_like, start)
        moves = jax.jvp(lambda p: problem.grad(p, batch), (start,), (vector,))[1]  # noqa: B023
        assert_trees_close(problem.second_order.hvp(start, vector, batch), moves, rtol=1e-12)


@pytest.mark.parametrize("l2", [0.0, 0.7])
def test_without_an_intercept_it_is_scikit_learns(rng, l2):
    linear_model = pytest.importorskip("sklearn.linear_model")
    x, y = rng.normal(size=(30, 3)) + 1, rng.normal(size=30) + 2
    problem, batch = problems.linear_regression(l2=l2, fit_intercept=False), Batch(jnp.asarray(x), jnp.asarray(y))
    reference = linear_model.Ridge(alpha=15 * l2, solver="svd", fit_intercept=False).fit(x, y)
    np.testing.assert_allclose(problem.minimizer(batch).weights, reference.coef_, rtol=1e-10)
    np.testing.assert_allclose(theory.smoothness(problem, batch), 2 / 30 * np.linalg.norm(x, 2) ** 2 + l2, rtol=1e-12)
    assert problem.predict(problem.minimizer(batch), batch.inputs).shape == (30,)


def test_a_logistic_model_without_an_intercept_is_scikit_learns(rng):
    linear_model = pytest.importorskip("sklearn.linear_model")
    x, y = rng.normal(size=(60, 3)), rng.integers(0, 2, 60)
    problem, batch = problems.logistic_regression(l2=0.1, fit_intercept=False), Batch(jnp.asarray(x), jnp.asarray(y))
    rate = 1 / theory.smoothness(problem, batch)
    assert float(theory.strong_convexity(problem, batch)) == 0.1
    fitted = jaxgd.descend(problem, problem.zeros(batch), batch, learning_rate=rate, num_steps=2000).params
    reference = linear_model.LogisticRegression(C=1 / (0.1 * 60), fit_intercept=False, tol=1e-12).fit(x, y)
    np.testing.assert_allclose(fitted.weights, reference.coef_[0], rtol=1e-6, atol=1e-8)


def test_the_sigmoid_neuron_at_two_points():
    # w = b = 0: f = 1/2 everywhere, f (1 - f) = 1/4; residuals 0.3 and -0.4.
    batch = Batch(jnp.array([0.5, 2.5]), jnp.array([0.2, 0.9]))
    params = LinearParams(jnp.asarray(0.0), jnp.asarray(0.0))
    problem = problems.sigmoid_neuron()
    np.testing.assert_allclose(problem.loss(params, batch), (0.09 + 0.16) / 4, rtol=1e-14)
    grads = problem.grad(params, batch)
    np.testing.assert_allclose(grads.weights, (0.3 * 0.5 - 0.4 * 2.5) / 8, rtol=1e-14)
    np.testing.assert_allclose(grads.bias, -0.1 / 8, rtol=1e-13)


def test_cross_entropies_by_their_definition(rng):
    logits, labels = rng.normal(size=6), rng.integers(0, 2, 6)
    p = 1 / (1 + np.exp(-logits))
    expected = -np.mean(labels * np.log(p) + (1 - labels) * np.log(1 - p))
    given = jnp.asarray(logits), jnp.asarray(labels)
    np.testing.assert_allclose(losses.mean_sigmoid_cross_entropy(*given), expected, rtol=1e-13)
    np.testing.assert_allclose(losses.grad_mean_sigmoid_cross_entropy(*given), (p - labels) / 6, rtol=1e-12)
    np.testing.assert_allclose(losses.sum_sigmoid_cross_entropy(*given), 6 * expected, rtol=1e-13)
    logits, labels = rng.normal(size=(6, 3)), rng.integers(0, 3, 6)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    given = jnp.asarray(logits), jnp.asarray(labels)
    np.testing.assert_allclose(
        losses.mean_softmax_cross_entropy(*given), -np.mean(np.log(p[np.arange(6), labels])), rtol=1e-13
    )
    np.testing.assert_allclose(
        losses.grad_mean_softmax_cross_entropy(*given), (p - np.eye(3)[labels]) / 6, rtol=1e-12, atol=1e-15
    )


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_extreme_logits_are_finite_and_right(dtype):
    logits = jnp.array([1e4, 1e4, -1e4, -1e4], dtype)
    labels = jnp.array([1, 0, 1, 0])
    with jax.debug_nans(True):
        assert losses.sum_sigmoid_cross_entropy(logits, labels) == 2e4
        np.testing.assert_array_equal(losses.grad_sum_sigmoid_cross_entropy(logits, labels), [0, 1, -1, 0])
        two = jnp.stack([jnp.zeros_like(logits), logits], axis=1)
        assert losses.mean_softmax_cross_entropy(two, labels) == 0.5e4
        np.testing.assert_array_equal(
            losses.grad_mean_softmax_cross_entropy(two, labels), np.array([[0, 0], [-1, 1], [1, -1], [0, 0]]) / 4
        )
        batch = Batch(jnp.array([[1e4], [-1e4]], dtype), jnp.array([1, 0]))
        params = LinearParams(jnp.ones(1, dtype), jnp.zeros((), dtype))
        problem = problems.logistic_regression()
        assert problem.loss(params, batch) == 0
        assert np.all(flat(problem.grad(params, batch)) == 0)


def test_softmax_of_two_classes_is_the_logistic_model(rng):
    batch = Batch(jnp.asarray(rng.normal(size=(8, 3))), jnp.asarray(rng.integers(0, 2, 8)))
    one = LinearParams(jnp.asarray(rng.normal(size=3)), jnp.asarray(0.3))
    two = LinearParams(jnp.asarray(np.stack([np.zeros(3), one.weights], axis=1)), jnp.array([0.0, 0.3]))
    binary, multi = problems.logistic_regression(), problems.softmax_regression(2)
    np.testing.assert_allclose(compiled(multi.loss)(two, batch), compiled(binary.loss)(one, batch), rtol=1e-13)
    by_two, by_one = compiled(multi.grad)(two, batch), compiled(binary.grad)(one, batch)
    np.testing.assert_allclose(np.asarray(by_two.weights)[:, 1], by_one.weights, rtol=1e-12)


def test_a_network_without_hidden_layers_is_linear_regression(rng):
    batch = Batch(jnp.asarray(rng.normal(size=(8, 3))), jnp.asarray(rng.normal(size=(8, 2))))
    layer = LinearParams(jnp.asarray(rng.normal(size=(3, 2))), jnp.asarray(rng.normal(size=2)))
    network, linear_model = problems.mlp(()), problems.linear_regression()
    params = network.init(jax.random.key(0), batch)._replace(layers=(layer,))
    assert_trees_close(network.grad(params, batch).layers[0], linear_model.grad(layer, batch), rtol=1e-13)


def test_mazurs_two_by_two_network():
    """A Step by Step Backpropagation Example, 2015: one row, held biases, a step of 0.5; his printed digits."""
    problem = problems.mlp(
        (2,), activation="sigmoid", output="sigmoid", loss="half_sum_squared_error", biases=(0.35, 0.60)
    )
    params = {"layers": [{"weights": [[0.15, 0.25], [0.20, 0.30]]}, {"weights": [[0.40, 0.50], [0.45, 0.55]]}]}
    params = problem.accepts.params(params)
    assert isinstance(params, jaxgd.MLPWeights)
    batch = Batch(jnp.array([[0.05, 0.10]]), jnp.array([[0.01, 0.99]]))
    assert float(problem.loss(params, batch)) == pytest.approx(0.298371109, abs=1e-9)
    first, second = problem.grad(params, batch).layers
    assert float(second.weights[0, 0]) == pytest.approx(0.082167041, abs=1e-9)
    assert float(first.weights[0, 0]) == pytest.approx(0.000438568, abs=1e-9)
    moved = jaxgd.descend(problem, params, batch, learning_rate=0.5, num_steps=1).params
    np.testing.assert_allclose(
        moved.layers[0].weights.T, [[0.149780716, 0.19956143], [0.24975114, 0.29950229]], atol=1e-8
    )
    np.testing.assert_allclose(
        moved.layers[1].weights.T, [[0.35891648, 0.408666186], [0.511301270, 0.561370121]], atol=1e-8
    )
    trained = jaxgd.descend(problem, params, batch, learning_rate=0.5, num_steps=10_000)
    assert float(trained.loss) == pytest.approx(0.0000351085, rel=2e-3)


def test_ngs_network_of_sigmoids(rng):
    """Exercise 4 of the course of 2011: J = 1/m sum_i sum_k of cross-entropies + lambda/2m |W|^2, by its formula."""
    l2 = 0.3
    problem = problems.mlp((5,), activation="sigmoid", loss="mean_sigmoid_cross_entropy", l2=l2)
    x, y = rng.normal(size=(7, 4)), np.eye(3)[rng.integers(0, 3, 7)]
    batch = Batch(jnp.asarray(x), jnp.asarray(y))
    layers = (
        LinearParams(rng.normal(size=(4, 5)), rng.normal(size=5)),
        LinearParams(rng.normal(size=(5, 3)), np.ones(3)),
    )
    params = jaxgd.MLPParams(layers)
    first, second = ({name: np.asarray(leaf) for name, leaf in layer._asdict().items()} for layer in params.layers)

    def sigmoid(z):
        return 1 / (1 + np.exp(-z))

    hidden = sigmoid(x @ first["weights"] + first["bias"])
    h = sigmoid(hidden @ second["weights"] + second["bias"])
    squares = sum(np.sum(layer["weights"] ** 2) for layer in (first, second))
    expected = -np.sum(y * np.log(h) + (1 - y) * np.log(1 - h)) / 7 + l2 / 2 * squares
    np.testing.assert_allclose(compiled(problem.loss)(params, batch), expected, rtol=1e-13)
    np.testing.assert_allclose(compiled(problem.predict)(params, batch.inputs), h, rtol=1e-13)
    delta = (h - y) / 7
    np.testing.assert_allclose(
        compiled(problem.grad)(params, batch).layers[0].weights,
        x.T @ (delta @ second["weights"].T * hidden * (1 - hidden)) + l2 * first["weights"],
        rtol=1e-11,
    )


def test_relu_has_derivative_zero_at_its_kink():
    problem = problems.mlp((1,))
    batch = Batch(jnp.zeros((1, 1)), jnp.ones(1))
    kink = LinearParams(jnp.ones((1, 1)), jnp.zeros(1))
    params = jaxgd.MLPParams((kink, LinearParams(jnp.ones((1, 1)), jnp.ones(1))))
    grads = compiled(problem.grad)(params, batch)
    assert_trees_close(grads, jax.jit(jax.grad(problem.loss))(params, batch))
    assert np.all(flat(grads.layers[0]) == 0)


def test_the_same_arguments_return_the_same_object():
    assert problems.linear_regression() is problems.linear_regression(loss="mean_squared_error", l2=0)
    assert problems.mlp([4, 2]) is problems.mlp((4, 2))
    assert problems.mlp((4,)) is not problems.mlp((5,))
    assert len({problem for problem, _ in problems.ALL_PROBLEMS}) == len(problems.ALL_PROBLEMS)
    names = [problem.name for problem, _ in problems.ALL_PROBLEMS]
    assert len(set(names)) == len(names)


X, Y = jnp.ones((7, 2)), jnp.ones(7)
LABELS = jnp.zeros(7, jnp.int32)
W = LinearParams(jnp.ones(2), jnp.asarray(0.0))
W3 = LinearParams(jnp.ones((2, 3)), jnp.zeros(3))

REFUSED = [
    (
        "targets [N, 1] are not broadcast",
        lambda: problems.linear_regression().loss(W, Batch(X, Y[:, None])),
        ValueError,
        "`targets` must have shape (7,) (that of the predictions), got (7, 1); " + RAVEL,
    ),
    (
        "nor by the gradient",
        lambda: problems.linear_regression().grad(W, Batch(X, Y[:, None])),
        ValueError,
        "`targets` must have shape (7,) (that of the predictions), got (7, 1); " + RAVEL,
    ),
    (
        "nor by the neuron",
        lambda: problems.sigmoid_neuron().grad(W, Batch(X, Y[:, None])),
        ValueError,
        "`targets` must have shape (7,) (that of the predictions), got (7, 1); " + RAVEL,
    ),
    (
        "inputs of another width",
        lambda: problems.linear_regression().loss(W, Batch(jnp.ones((7, 3)), Y)),
        ValueError,
        "`inputs` must have shape (7, 2) ([N, D] for the D of the weights), got (7, 3).",
    ),
    (
        "inputs without features",
        lambda: problems.linear_regression().loss(W, Batch(Y, Y)),
        ValueError,
        "`inputs` must have shape [N, D], got (7,).",
    ),
    (
        "labels that are not whole",
        lambda: problems.softmax_regression(3).loss(W3, Batch(X, Y / 2)),
        ValueError,
        "`targets` must be integer labels 0, 1, ..., got 0.5 at row 0.",
    ),
    (
        "floating labels inside jit",
        lambda: jax.jit(problems.softmax_regression(3).loss)(W3, Batch(X, Y)),
        TypeError,
        "`targets` must be integers inside jit and vmap, got float64.",
    ),
    (
        "labels [N, 1]",
        lambda: problems.softmax_regression(3).grad(W3, Batch(X, LABELS[:, None])),
        ValueError,
        "`targets` must have shape (7,) (one label for each row of the inputs), got (7, 1); " + RAVEL,
    ),
    (
        "binary logits of several columns",
        lambda: losses.mean_sigmoid_cross_entropy(X, LABELS),
        ValueError,
        "`logits` must have shape [N], got (7, 2).",
    ),
    (
        "class logits of one column",
        lambda: losses.mean_softmax_cross_entropy(Y, LABELS),
        ValueError,
        "`logits` must have shape [N, K], got (7,).",
    ),
    (
        "a line with two inputs",
        lambda: problems.line().init(jax.random.key(0), Batch(X, Y)),
        ValueError,
        "`inputs` must have shape (7, 1) (a line has one input), got (7, 2).",
    ),
    (
        "a neuron whose weights do not fit",
        lambda: problems.sigmoid_neuron().loss(W, Batch(Y, Y)),
        ValueError,
        "`weights` must have shape [] for inputs [N], [D] for inputs [N, D], got (2,).",
    ),
    (
        "a label too large, on the host",
        lambda: problems.softmax_regression(3).check_batch(Batch(X, LABELS.at[5].set(3))),
        ValueError,
        "`targets` must be integers in [0, 3), got 3 at row 5.",
    ),
    (
        "a negative label",
        lambda: problems.logistic_regression().check_batch(Batch(X, LABELS.at[2].set(-1))),
        ValueError,
        "`targets` must be integers in [0, 2), got -1 at row 2.",
    ),
    (
        "a target out of the sigmoid's range",
        lambda: problems.sigmoid_neuron().check_batch(Batch(X, 2 * Y)),
        ValueError,
        "`targets` must be in [0, 1], the range of the sigmoid, got 2.0 at row 0.",
    ),
    (
        "a matrix that is not square",
        lambda: problems.quadratic(np.ones((2, 3))),
        ValueError,
        "`hessian` must be square, [P, P] with P > 0, got (2, 3).",
    ),
    (
        "a matrix that is not symmetric",
        lambda: problems.quadratic([[1.0, 2.0], [3.0, 4.0]]),
        ValueError,
        "`hessian` must be symmetric, got 2.0 at [0, 1] and 3.0 at [1, 0]; x . H x only sees (H + H^T) / 2.",
    ),
    (
        "a vector that does not fit the matrix",
        lambda: problems.quadratic([[1.0]], [1.0, 2.0]),
        ValueError,
        "`linear` must have shape (1,) (one for each row of `hessian`), got (2,).",
    ),
    (
        "a matrix with NaN",
        lambda: problems.quadratic([[np.nan]]),
        ValueError,
        "`hessian`, `linear` and `constant` must be finite, got NaN or infinity.",
    ),
    (
        "a constant without a matrix",
        lambda: problems.quadratic(constant=2.0),
        ValueError,
        "`linear` and `constant` belong to a `hessian`; without any of them it is the parabola.",
    ),
    (
        "a polynomial without a leading coefficient",
        lambda: problems.polynomial([0, 1]),
        ValueError,
        "`coefficients` must be at least two finite numbers, the first (of the highest power) not 0, got [0.0, 1.0].",
    ),
    (
        "a smoothness of 0",
        lambda: problems.nesterov_quadratic(3, smoothness=0),
        ValueError,
        "`smoothness` must be finite and positive, got 0.",
    ),
    (
        "an intercept in the start of a model without one",
        lambda: problems.linear_regression(fit_intercept=False).loss(W, Batch(X, Y)),
        TypeError,
        "`params` must be a jaxgd.WeightsParams(weights), a dict with these names or a tuple in this order, "
        "got jaxgd.LinearParams.",
    ),
    (
        "an intercept in the start of a logistic model without one",
        lambda: problems.logistic_regression(fit_intercept=False).grad(W, Batch(X, LABELS)),
        TypeError,
        "`params` must be a jaxgd.WeightsParams(weights), a dict with these names or a tuple in this order, "
        "got jaxgd.LinearParams.",
    ),
    (
        "fit_intercept that is not a bool",
        lambda: problems.linear_regression(fit_intercept="no"),
        TypeError,
        "`fit_intercept` must be True or False, got 'no'.",
    ),
    (
        "an unknown activation",
        lambda: problems.mlp((3,), activation="gelu"),
        ValueError,
        "`activation` must be one of 'relu', 'sigmoid', 'tanh', got 'gelu'.",
    ),
    (
        "an output of a cross-entropy",
        lambda: problems.mlp((3,), loss="mean_sigmoid_cross_entropy", output="sigmoid"),
        ValueError,
        "`output` belongs to the squared errors; with 'mean_sigmoid_cross_entropy' it must be None, got 'sigmoid'.",
    ),
    (
        "held biases of too few layers",
        lambda: problems.mlp((3,), biases=(0.1,)),
        ValueError,
        "`biases` must have 2 entries (one for each layer), got 1.",
    ),
    (
        "held biases of too few units",
        lambda: problems.mlp((3,), biases=((0.1, 0.2), 0.0)),
        ValueError,
        "`biases[0]` must have 3 entries (the units of its layer), got 2.",
    ),
    (
        "biases in the start of a network that holds them",
        lambda: problems.mlp((), biases=(0.0,)).loss(jaxgd.MLPParams((W3,)), Batch(X, jnp.ones((7, 3)))),
        TypeError,
        "`params` must be a jaxgd.MLPWeights(layers), a dict with these names or a tuple in this order, "
        "got jaxgd.MLPParams.",
    ),
    (
        "an unknown loss",
        lambda: problems.linear_regression(loss="mse"),
        ValueError,
        "`loss` must be one of 'sum_squared_error', 'half_sum_squared_error', 'mean_squared_error', "
        "'half_mean_squared_error', got 'mse'.",
    ),
    (
        "a negative penalty",
        lambda: problems.linear_regression(l2=-1.0),
        ValueError,
        "`l2` must be finite and not negative, got -1.0.",
    ),
    (
        "a penalty that is no number",
        lambda: problems.mlp((3,), l2="much"),
        TypeError,
        "`l2` must be a number, got 'much'.",
    ),
    ("one class", lambda: problems.softmax_regression(1), ValueError, "`num_classes` must be at least 2, got 1."),
    (
        "half a class",
        lambda: problems.softmax_regression(2.5),
        TypeError,
        "`num_classes` must be a Python integer, got 2.5.",
    ),
    ("a layer without units", lambda: problems.mlp((3, 0)), ValueError, "`hidden_sizes[1]` must be at least 1, got 0."),
    (
        "cross-entropy without classes",
        lambda: problems.mlp((3,), loss="mean_softmax_cross_entropy"),
        TypeError,
        "`num_classes` must be a Python integer, got None.",
    ),
    (
        "classes of a squared error",
        lambda: problems.mlp((3,), num_classes=3),
        ValueError,
        "`num_classes` belongs to the softmax cross-entropy; with 'mean_squared_error' it must be None.",
    ),
]


@pytest.mark.parametrize(("call", "error", "text"), [pytest.param(*row[1:], id=row[0]) for row in REFUSED])
def test_bad_input_gets_its_exact_error(call, error, text):
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == text
