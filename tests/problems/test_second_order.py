"""The ladder under every Hessian-vector product derived by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common import (
    FEW,
    FEW_SYSTEMS,
    SYSTEMS,
    assert_trees_close,
    flat,
    normal_like,
    quick_systems,
    setting,
    slow,
    stacked,
)

import jaxgd
from jaxgd import problems
from jaxgd.problems import ALL_PROBLEMS, linear_regression, mlp, softmax_regression
from jaxgd.theory import bounds, curvature, taylor
from jaxgd.types import Batch, LinearParams

MAKE_BATCH = dict(ALL_PROBLEMS)
EPS = np.finfo(np.float64).eps


def rounding_scale(problem, params, vector, batch):
    """For each leaf the largest entry of `sum_i |H_i| |v|` over the Hessians H_i of single rows.

    It is what the product is rounded relative to, however much its terms cancel.
    """
    flat_params, unravel = jax.flatten_util.ravel_pytree(params)

    def column(basis, batch):
        return jax.flatten_util.ravel_pytree(problem.second_order.hvp(params, unravel(basis), batch))[0]

    columns = jax.vmap(column, (0, None))
    basis = jnp.eye(flat_params.size)
    sizes = jnp.abs(jax.flatten_util.ravel_pytree(vector)[0])
    if batch is None:
        products = sizes @ jnp.abs(columns(basis, batch))
    else:
        rows = jax.tree.map(lambda array: array[:, None], batch)
        add_up = jnp.sum if problem.reduction == "sum" else jnp.mean
        products = add_up(jax.vmap(lambda row: sizes @ jnp.abs(columns(basis, row)))(rows), axis=0)
    return jax.tree.map(jnp.max, unravel(products))


SEEDS = 5
STEP_SIZES = 2.0 ** -np.arange(7.0, 11.0)
IN_TURNS = [s.id for s in SYSTEMS[::4]]
TRIED = quick_systems(SYSTEMS, *IN_TURNS, *FEW)


@functools.cache
def rungs(problem, make_batch):
    """What the tests of one system compare, by one program: compiling takes nearly all of their time."""
    points = [
        (params, normal_like(10 + seed, params), batch)
        for seed in range(SEEDS)
        for params, batch in [setting(problem, make_batch, seed=seed)]
    ]
    params, unit, _ = points[0]
    other = normal_like(20, params)
    unit = jax.tree.map(lambda u: u / np.linalg.norm(flat(unit)), unit)

    @jax.jit
    def program(points, other, unit):
        def at(point):
            params, vector, batch = point
            by_hand = problem.second_order.hvp(params, vector, batch)
            forward = jax.jvp(lambda p: problem.grad(p, batch), (params,), (vector,))[1]
            return by_hand, forward, rounding_scale(problem, params, vector, batch)

        params, vector, batch = jax.tree.map(lambda leaf: leaf[0], points)
        hvp = functools.partial(problem.second_order.hvp, params)
        with_other = hvp(other, batch)
        inner = taylor.inner(other, hvp(vector, batch)), taylor.inner(vector, with_other)
        size = taylor.norm(vector) * taylor.norm(with_other)
        taken = taylor.remainders(
            problem.loss, problem.grad, params, unit, jnp.asarray(STEP_SIZES), batch, hvp=problem.second_order.hvp
        )
        return (
            jax.lax.map(at, points),
            (*inner, size),
            (taken.remainders[2], taken.orders[2], problem.loss(params, batch)),
        )

    return jax.tree.map(np.asarray, program(stacked(points), other, unit))


@pytest.mark.parametrize(("problem", "make_batch"), TRIED)
def test_equals_forward_mode_of_the_hand_gradient_within_4_eps(problem, make_batch):
    by_hand, forward, scales = rungs(problem, make_batch)[0]
    assert jax.tree.structure(by_hand) == jax.tree.structure(setting(problem, make_batch)[0])
    for (path, left), right, scale in zip(
        jax.tree_util.tree_leaves_with_path(by_hand), jax.tree.leaves(forward), jax.tree.leaves(scales), strict=True
    ):
        for seed in range(SEEDS):
            error = np.max(np.abs(left[seed] - right[seed])) / max(scale[seed], 1e-300) / EPS
            assert error <= 4, f"{jax.tree_util.keystr(path)}, seed {seed}: {error:.1f} eps"


@pytest.mark.parametrize(("problem", "make_batch"), [s for s in SYSTEMS if s.id not in {*FEW, *IN_TURNS}])
def test_is_the_derivative_of_the_gradient(problem, make_batch):
    """At one point, for the systems whose ladder is slow."""
    params, batch = setting(problem, make_batch)

    @jax.jit
    def both(params, vector):
        forward = jax.jvp(lambda p: problem.grad(p, batch), (params,), (vector,))[1]
        return problem.second_order.hvp(params, vector, batch), forward

    assert_trees_close(*both(params, normal_like(10, params)), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("problem", "make_batch"), TRIED)
def test_is_symmetric(problem, make_batch):
    one, other, size = rungs(problem, make_batch)[1]
    assert abs(one - other) <= 8 * EPS * size


@pytest.mark.parametrize(("problem", "make_batch"), TRIED)
def test_leaves_a_taylor_remainder_of_third_order(problem, make_batch):
    remainders, orders, loss = rungs(problem, make_batch)[2]
    of_third_order = np.median(orders) == pytest.approx(3.0, abs=0.1)
    only_rounding = remainders[0] <= 1e-13 * (1 + abs(loss))
    assert of_third_order or only_rounding
    assert only_rounding or not bounds.is_quadratic(problem)


@pytest.mark.parametrize(("problem", "make_batch"), FEW_SYSTEMS)
def test_passes_the_check_of_second_order(problem, make_batch):
    params, batch = setting(problem, make_batch)
    jaxgd.assert_gradient(problem.loss, problem.second_order.hvp, params, batch, order=2)


def _of_linear_model(change):
    """The products of linear regression, each with one change."""

    def hvp(params, vector, batch):
        good = linear_regression(l2=0.1).second_order.hvp(params, vector, batch)
        return change(good, params, vector, batch)

    return linear_regression(l2=0.1), hvp


MISTAKES = {
    "the penalty is left out": _of_linear_model(lambda h, p, v, b: h._replace(weights=h.weights - 0.1 * v.weights)),
    "the penalty is on the bias": _of_linear_model(lambda h, p, v, b: h._replace(bias=h.bias + 0.1 * v.bias)),
    "the penalty takes W for V": _of_linear_model(
        lambda h, p, v, b: h._replace(weights=h.weights + 0.1 * (p.weights - v.weights))
    ),
    "1/N is left out": _of_linear_model(lambda h, p, v, b: jax.tree.map(lambda a: len(b.inputs) * a, h)),
    "the bias does not move the predictions": _of_linear_model(
        lambda h, p, v, b: h._replace(
            weights=h.weights - 2 / len(b.inputs) * jnp.outer(jnp.sum(b.inputs, axis=0), v.bias)
        )
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_planted_mistake_is_caught(name):
    problem, hvp = MISTAKES[name]
    params, batch = setting(problem, MAKE_BATCH[problem])
    assert not jaxgd.check_gradient(problem.loss, hvp, params, batch, order=2).ok


@slow
def test_a_network_without_the_term_of_the_moved_weights_is_caught():
    problem = mlp((8, 6), l2=0.1)
    params, batch = setting(problem, MAKE_BATCH[problem])

    def hvp(params, vector, batch):
        """As of a network of one layer: delta_l V_l^T is left out, so the first layers do not see V above them."""
        held = vector._replace(layers=(vector.layers[0], *jax.tree.map(jnp.zeros_like, vector.layers[1:])))
        products = problem.second_order.hvp(params, held, batch)
        rest = problem.second_order.hvp(params, vector, batch)
        return products._replace(layers=(products.layers[0], *rest.layers[1:]))

    assert not jaxgd.check_gradient(problem.loss, hvp, params, batch, order=2).ok


def test_the_hessian_of_two_classes_worked_out_by_hand():
    # W = 0: P = (1/2, 1/2); diag(P) - P P^T = [[1/4, -1/4], [-1/4, 1/4]]; one row x = 2, V = (1, 0), v = 0: u = (2, 0).
    batch = Batch(jnp.array([[2.0]]), jnp.array([0]))
    params = LinearParams(jnp.zeros((1, 2)), jnp.zeros(2))
    vector = LinearParams(jnp.array([[1.0, 0.0]]), jnp.zeros(2))
    product = softmax_regression(2).second_order.hvp(params, vector, batch)
    np.testing.assert_allclose(product.weights, [[1.0, -1.0]], rtol=1e-15)
    np.testing.assert_allclose(product.bias, [0.5, -0.5], rtol=1e-15)


def test_the_sigmoid_neuron_worked_out_by_hand():
    # w = b = 0: f = 1/2, f' = 1/4, f'' = 0, so every row curves by 1/16 and H = A^T A / (16 N).
    batch = Batch(jnp.array([0.5, 2.5]), jnp.array([0.2, 0.9]))
    params = LinearParams(jnp.asarray(0.0), jnp.asarray(0.0))
    product = problems.sigmoid_neuron().second_order.hvp(
        params, LinearParams(jnp.asarray(1.0), jnp.asarray(0.0)), batch
    )
    np.testing.assert_allclose(flat(product), [(0.25 + 6.25) / 32, 3 / 32], rtol=1e-14)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_extreme_logits_curve_by_nothing(dtype):
    batch = Batch(jnp.array([[1e4], [-1e4]], dtype), jnp.array([1, 0]))
    params = LinearParams(jnp.ones(1, dtype), jnp.zeros((), dtype))
    with jax.debug_nans(True):
        for problem in (problems.logistic_regression(), problems.sigmoid_neuron()):
            rows = batch if problem.name == "logistic_regression" else batch._replace(targets=batch.inputs[:, 0] > 0)
            rows = jax.tree.map(lambda a: a.astype(dtype) if a.dtype == bool else a, rows)
            assert np.all(flat(problem.second_order.hvp(params, params, rows)) == 0)


@pytest.mark.parametrize(
    ("problem", "make_batch"),
    [system for system in SYSTEMS if system.values[0].second_order.rows is not None],
)
def test_a_vector_of_another_shape_is_refused(problem, make_batch):
    params, batch = setting(problem, make_batch)
    vector = jax.tree.map(lambda leaf: jnp.zeros((*leaf.shape, 2)), params)
    path = jax.tree_util.keystr(jax.tree_util.tree_leaves_with_path(params)[0][0])
    shape = jax.tree.leaves(params)[0].shape
    for product in (problem.second_order.hvp, functools.partial(_by_theory, problem)):
        with pytest.raises(ValueError, match="must have shape") as caught:
            product(params, vector, batch)
        name = "`vector`" if product is problem.second_order.hvp else "`direction`"
        assert str(caught.value) == f"{name} at {path} must have shape {shape} (that of `params`), got {(*shape, 2)}."


def _by_theory(problem, params, vector, batch):
    return curvature.hessian_vector_product(problem, params, batch, vector)
