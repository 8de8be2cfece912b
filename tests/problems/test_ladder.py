"""The ladder under every hand-derived gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common import SYSTEMS, SYSTEMS_WITH_DATA, assert_trees_close, cast, compiled, flat, random_like, setting

from jaxgd import problems
from jaxgd.problems import (
    ALL_PROBLEMS,
    linear_regression,
    logistic_regression,
    mlp,
    sigmoid_neuron,
    softmax_regression,
)
from jaxgd.theory import taylor
from jaxgd.types import Batch

CROSS_ENTROPY = {"loss": "mean_softmax_cross_entropy", "num_classes": 3}
MAKE_BATCH = dict(ALL_PROBLEMS)


def rounding_scale(problem, params, batch):
    """For each leaf the largest entry of the sum over rows of the absolute gradients of single rows.

    It is what a sum over rows is rounded relative to, however much its terms cancel.
    """
    if batch is None:
        return jax.tree.map(lambda g: jnp.max(jnp.abs(g)), problem.grad(params, batch))
    rows = jax.tree.map(lambda array: array[:, None], batch)
    of_rows = jax.vmap(problem.grad, in_axes=(None, 0))(params, rows)
    add_up = jnp.sum if problem.reduction == "sum" else jnp.mean
    return jax.tree.map(lambda g: jnp.max(add_up(jnp.abs(g), axis=0)), of_rows)


@pytest.mark.parametrize(("problem", "make_batch"), SYSTEMS)
def test_equals_reverse_mode_within_4_eps(problem, make_batch):
    compare = jax.jit(lambda p, b: (problem.grad(p, b), jax.grad(problem.loss)(p, b), rounding_scale(problem, p, b)))
    for seed in range(5):
        params, batch = setting(problem, make_batch, seed=seed)
        hand, reverse, scales = compare(params, batch)
        assert jax.tree.structure(hand) == jax.tree.structure(params)
        for (path, by_hand), by_reverse, scale in zip(
            jax.tree_util.tree_leaves_with_path(hand), jax.tree.leaves(reverse), jax.tree.leaves(scales), strict=True
        ):
            error = float(jnp.max(jnp.abs(by_hand - by_reverse)) / scale) / np.finfo(np.float64).eps
            assert error <= 4, f"{jax.tree_util.keystr(path)}, seed {seed}: {error:.1f} eps"


@pytest.mark.parametrize(("problem", "make_batch"), SYSTEMS)
def test_float32_is_followed_and_right(problem, make_batch):
    params, batch = setting(problem, make_batch)
    single = cast((params, batch), jnp.float32)
    assert problem.loss(*single).dtype == jnp.float32
    grads = problem.grad(*single)
    assert {leaf.dtype for leaf in jax.tree.leaves(grads)} == {np.dtype(np.float32)}
    exact = flat(problem.grad(*cast(single, jnp.float64)))
    np.testing.assert_allclose(flat(grads), exact, atol=1e-5 * np.max(np.abs(exact)))


@pytest.mark.parametrize("problem", [mlp((8,)), mlp((8,), **CROSS_ENTROPY)], ids=lambda problem: problem.name)
def test_the_network_follows_bfloat16(problem):
    params, batch = setting(problem, MAKE_BATCH[problem])
    half = cast((params, batch), jnp.bfloat16)
    grads = problem.grad(*half)
    assert {leaf.dtype for leaf in jax.tree.leaves((grads, problem.loss(*half)))} == {np.dtype(jnp.bfloat16)}
    exact = flat(problem.grad(*cast(half, jnp.float64)))
    assert np.linalg.norm(flat(grads) - exact) < 0.05 * np.linalg.norm(exact)


@pytest.mark.parametrize(("problem", "make_batch"), SYSTEMS)
def test_forward_mode_along_random_directions(problem, make_batch):
    params, batch = setting(problem, make_batch)
    grads = compiled(problem.grad)(params, batch)
    along = jax.jit(lambda u: jax.jvp(lambda p: problem.loss(p, batch), (params,), (u,))[1])
    for key in jax.random.split(jax.random.key(1), 3):
        direction = random_like(key, params)
        slope = along(direction)
        np.testing.assert_allclose(slope, taylor.inner(direction, grads), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(("problem", "make_batch"), SYSTEMS)
def test_central_differences(problem, make_batch):
    params, batch = setting(problem, make_batch)
    direction = random_like(jax.random.key(2), params)
    step = 1e-5

    def at(size):
        return float(compiled(problem.loss)(jax.tree.map(lambda p, u: p + size * u, params, direction), batch))

    difference = (at(step) - at(-step)) / (2 * step)
    slope = float(taylor.inner(direction, compiled(problem.grad)(params, batch)))
    assert difference == pytest.approx(slope, rel=1e-7, abs=1e-8)


@pytest.mark.parametrize(("problem", "make_batch"), SYSTEMS)
def test_taylor_order_is_two(problem, make_batch):
    params, batch = setting(problem, make_batch)
    direction = random_like(jax.random.key(3), params)
    direction = jax.tree.map(lambda u: u / taylor.norm(direction), direction)
    # Steps small enough to cross no kink of a ReLU, large enough to stand above rounding.
    step_sizes = 2.0 ** -jnp.arange(8.0, 13.0)
    found = jax.jit(lambda p, u: taylor.remainders(problem.loss, problem.grad, p, u, step_sizes, batch))
    orders = found(params, direction).orders
    assert float(jnp.median(orders[1])) == pytest.approx(2.0, abs=0.05)


@pytest.mark.parametrize(
    ("problem", "make_batch"), [system for system in SYSTEMS if system.values[0].minimizer is not None]
)
def test_zero_at_the_minimizer(problem, make_batch):
    params, batch = setting(problem, make_batch)
    at_start = np.max(np.abs(flat(problem.grad(params, batch))))
    minimizer = problem.minimizer(batch)
    assert jax.tree.structure(minimizer) == jax.tree.structure(params)
    assert np.max(np.abs(flat(problem.grad(minimizer, batch)))) < 1e-13 * at_start


@pytest.mark.parametrize(("problem", "make_batch"), SYSTEMS_WITH_DATA)
def test_rows_may_be_permuted_and_halved(problem, make_batch):
    params, batch = setting(problem, make_batch)
    grad = compiled(problem.grad)
    whole = flat(grad(params, batch))
    order = jax.random.permutation(jax.random.key(4), len(batch.inputs))
    permuted = jax.tree.map(lambda array: array[order], batch)
    np.testing.assert_allclose(flat(grad(params, permuted)), whole, rtol=1e-12, atol=1e-14)
    doubled = jax.tree.map(lambda array: jnp.concatenate([array, array]), batch)
    if problem.reduction == "mean":
        np.testing.assert_allclose(flat(grad(params, doubled)), whole, rtol=1e-12, atol=1e-14)
    elif not problem.l2:
        np.testing.assert_allclose(flat(grad(params, doubled)), 2 * whole, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("penalised", "plain"),
    [
        (linear_regression(l2=0.1), linear_regression()),
        (sigmoid_neuron(l2=0.1), sigmoid_neuron()),
        (logistic_regression(l2=0.1), logistic_regression()),
        (softmax_regression(3, l2=0.1), softmax_regression(3)),
        (mlp((8, 6), l2=0.1), mlp((8, 6))),
        (mlp((8, 7, 6), l2=0.1, **CROSS_ENTROPY), mlp((8, 7, 6), **CROSS_ENTROPY)),
    ],
    ids=lambda problem: problem.name,
)
def test_the_penalty_adds_l2_w_to_the_weights_alone(penalised, plain):
    params, batch = setting(penalised, MAKE_BATCH[penalised])
    squares = [jnp.sum(w**2) for path, w in jax.tree_util.tree_leaves_with_path(params) if path[-1].name == "weights"]
    difference = penalised.loss(params, batch) - plain.loss(params, batch)
    np.testing.assert_allclose(difference, 0.05 * sum(squares), rtol=1e-12)

    def expected(path, leaf):
        return 0.1 * leaf if path[-1].name == "weights" else jnp.zeros_like(leaf)

    grads = jax.tree.map(jnp.subtract, penalised.grad(params, batch), plain.grad(params, batch))
    assert_trees_close(grads, jax.tree_util.tree_map_with_path(expected, params), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(("problem", "make_batch"), SYSTEMS)
def test_the_name_is_the_call_that_builds_it(problem, make_batch):
    del make_batch
    call = problem.name if problem.name.endswith(")") else f"{problem.name}()"
    assert eval(call, {name: getattr(problems, name) for name in problems.__all__}) is problem


@pytest.mark.parametrize(("problem", "make_batch"), SYSTEMS)
def test_loss_and_gradient_share_their_forward_pass(problem, make_batch):
    """One jit of both takes the matrix products and the exponentials of value_and_grad, not twice as many."""
    params, batch = setting(problem, make_batch)

    def cost(function):
        return jax.jit(function).lower(params, batch).compile().cost_analysis()

    both = cost(lambda p, b: (problem.loss(p, b), problem.grad(p, b)))
    reverse = cost(jax.value_and_grad(problem.loss))
    assert both["flops"] <= 1.2 * reverse["flops"]
    assert both.get("transcendentals", 0) <= reverse.get("transcendentals", 0)


def test_hidden_layers_of_any_number():
    for sizes in [(), (3,), (5, 4, 3, 2)]:
        problem = mlp(sizes)
        inputs = jax.random.normal(jax.random.key(0), (6, 3))
        batch = Batch(inputs, jnp.ones(6))
        params = problem.init(jax.random.key(1), batch)
        assert [layer.weights.shape[1] for layer in params.layers] == [*sizes, 1]
        np.testing.assert_allclose(
            flat(problem.grad(params, batch)), flat(jax.grad(problem.loss)(params, batch)), rtol=1e-12, atol=1e-15
        )
