"""The ladder under every hand-derived gradient."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common import (
    SOME_SYSTEMS,
    SYSTEMS,
    SYSTEMS_WITH_DATA,
    along,
    assert_trees_close,
    cast,
    flat,
    normal_like,
    setting,
    stacked,
)

from jaxgd import problems
from jaxgd.problems import (
    ALL_PROBLEMS,
    linear_regression,
    logistic_regression,
    mlp,
    sigmoid_neuron,
    softmax_regression,
)
from jaxgd.types import Batch

CROSS_ENTROPY = {"loss": "mean_softmax_cross_entropy", "num_classes": 3}
MAKE_BATCH = dict(ALL_PROBLEMS)
SEEDS = 5
# Steps small enough to cross no kink of a ReLU, large enough to stand above rounding.
STEP_SIZES = 2.0 ** -np.arange(8.0, 13.0)
CENTRAL = 1e-5


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


@functools.cache
def rungs(problem, make_batch):
    """What the tests of one system compare, by one program: compiling takes nearly all of their time.

    `points` are five of different seeds, then the first one rounded to float32, with its rows permuted, and with the
    parameters of the minimizer, if there is one.
    """
    points = [setting(problem, make_batch, seed=seed) for seed in range(SEEDS)]
    params, batch = points[0]
    single = cast(points[0], jnp.float32)
    order = None if batch is None else np.random.default_rng(4).permutation(len(batch.inputs))
    points += [cast(single, jnp.float64), (params, jax.tree.map(lambda array: np.asarray(array)[order], batch))]
    if problem.minimizer is not None:
        points.append((problem.minimizer(batch), batch))
    doubled = jax.tree.map(lambda array: np.concatenate([array, array]), batch)
    directions = [normal_like(seed, params) for seed in range(1, 4)]
    unit = normal_like(4, params)
    unit = jax.tree.map(lambda u: u / np.linalg.norm(flat(unit)), unit)
    steps = np.array([0.0, *STEP_SIZES, CENTRAL, -CENTRAL])

    @jax.jit
    def program(points, single, doubled, directions, unit):
        def at(point):
            return problem.grad(*point), jax.grad(problem.loss)(*point), rounding_scale(problem, *point)

        params, batch = jax.tree.map(lambda leaf: leaf[0], points)
        return {
            "points": jax.lax.map(at, points),
            "single": (problem.loss(*single), problem.grad(*single)),
            "doubled": problem.grad(params, doubled),
            "slopes": jax.lax.map(lambda u: jax.jvp(lambda p: problem.loss(p, batch), (params,), (u,))[1], directions),
            "along": jax.lax.map(lambda step: problem.loss(along(params, step, unit), batch), steps),
        }

    found = program(stacked(points), single, doubled, stacked(directions), unit)
    return jax.tree.map(np.asarray, found), params, directions, flat(unit)


def gradients(problem, make_batch):
    """The gradient by hand at each point as one vector."""
    hand = rungs(problem, make_batch)[0]["points"][0]
    return [flat(jax.tree.map(lambda leaf, i=i: leaf[i], hand)) for i in range(len(jax.tree.leaves(hand)[0]))]


@pytest.mark.parametrize(("problem", "make_batch"), SYSTEMS)
def test_equals_reverse_mode_within_4_eps(problem, make_batch):
    found, params, _, _ = rungs(problem, make_batch)
    hand, reverse, scales = found["points"]
    assert jax.tree.structure(hand) == jax.tree.structure(params)
    for (path, by_hand), by_reverse, scale in zip(
        jax.tree_util.tree_leaves_with_path(hand), jax.tree.leaves(reverse), jax.tree.leaves(scales), strict=True
    ):
        for seed in range(SEEDS):
            error = np.max(np.abs(by_hand[seed] - by_reverse[seed])) / scale[seed] / np.finfo(np.float64).eps
            assert error <= 4, f"{jax.tree_util.keystr(path)}, seed {seed}: {error:.1f} eps"


@pytest.mark.parametrize(("problem", "make_batch"), SYSTEMS)
def test_float32_is_followed_and_right(problem, make_batch):
    loss, grads = rungs(problem, make_batch)[0]["single"]
    assert loss.dtype == np.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(grads)} == {np.dtype(np.float32)}
    exact = gradients(problem, make_batch)[SEEDS]
    np.testing.assert_allclose(flat(grads), exact, atol=1e-5 * np.max(np.abs(exact)))


@pytest.mark.parametrize("problem", [mlp((8,)), mlp((8,), **CROSS_ENTROPY)], ids=lambda problem: problem.name)
def test_the_network_follows_bfloat16(problem):
    params, batch = setting(problem, MAKE_BATCH[problem])
    half = cast((params, batch), jnp.bfloat16)
    loss, grads, exact = jax.jit(
        lambda half: (problem.loss(*half), problem.grad(*half), problem.grad(*cast(half, jnp.float64)))
    )(half)
    assert {leaf.dtype for leaf in jax.tree.leaves((grads, loss))} == {np.dtype(jnp.bfloat16)}
    exact = flat(exact)
    assert np.linalg.norm(flat(grads) - exact) < 0.05 * np.linalg.norm(exact)


@pytest.mark.parametrize(("problem", "make_batch"), SYSTEMS)
def test_forward_mode_along_random_directions(problem, make_batch):
    found, _, directions, _ = rungs(problem, make_batch)
    grads = gradients(problem, make_batch)[0]
    for direction, slope in zip(directions, found["slopes"], strict=True):
        np.testing.assert_allclose(slope, flat(direction) @ grads, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(("problem", "make_batch"), SYSTEMS)
def test_central_differences(problem, make_batch):
    found, _, _, unit = rungs(problem, make_batch)
    difference = (found["along"][-2] - found["along"][-1]) / (2 * CENTRAL)
    slope = unit @ gradients(problem, make_batch)[0]
    assert difference == pytest.approx(slope, rel=1e-7, abs=1e-8)


@pytest.mark.parametrize(("problem", "make_batch"), SYSTEMS)
def test_taylor_order_is_two(problem, make_batch):
    found, _, _, unit = rungs(problem, make_batch)
    slope = unit @ gradients(problem, make_batch)[0]
    start, *losses = found["along"][: 1 + len(STEP_SIZES)]
    remainders = np.abs(losses - start - STEP_SIZES * slope)
    orders = np.diff(np.log(remainders)) / np.diff(np.log(STEP_SIZES))
    assert np.median(orders) == pytest.approx(2.0, abs=0.05)


@pytest.mark.parametrize(
    ("problem", "make_batch"), [system for system in SYSTEMS if system.values[0].minimizer is not None]
)
def test_zero_at_the_minimizer(problem, make_batch):
    params, batch = setting(problem, make_batch)
    assert jax.tree.structure(problem.minimizer(batch)) == jax.tree.structure(params)
    at_points = gradients(problem, make_batch)
    assert np.max(np.abs(at_points[SEEDS + 2])) < 1e-13 * np.max(np.abs(at_points[0]))


@pytest.mark.parametrize(("problem", "make_batch"), SYSTEMS_WITH_DATA)
def test_rows_may_be_permuted_and_halved(problem, make_batch):
    at_points = gradients(problem, make_batch)
    np.testing.assert_allclose(at_points[SEEDS + 1], at_points[0], rtol=1e-12, atol=1e-14)
    doubled = flat(rungs(problem, make_batch)[0]["doubled"])
    if problem.reduction == "mean":
        np.testing.assert_allclose(doubled, at_points[0], rtol=1e-12, atol=1e-14)
    elif not problem.l2:
        np.testing.assert_allclose(doubled, 2 * at_points[0], rtol=1e-12, atol=1e-14)


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

    @jax.jit
    def differences(params, batch):
        both = [(problem.loss(params, batch), problem.grad(params, batch)) for problem in (penalised, plain)]
        return jax.tree.map(jnp.subtract, *both)

    def is_weight(path):
        return path[-1].name == "weights"

    loss, grads = differences(params, batch)
    leaves = jax.tree_util.tree_leaves_with_path(params)
    squares = sum(np.sum(np.square(leaf)) for path, leaf in leaves if is_weight(path))
    np.testing.assert_allclose(loss, 0.05 * squares, rtol=1e-12)
    expected = jax.tree_util.tree_map_with_path(lambda path, leaf: 0.1 * np.asarray(leaf) * is_weight(path), params)
    assert_trees_close(grads, expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(("problem", "make_batch"), SYSTEMS)
def test_the_name_is_the_call_that_builds_it(problem, make_batch):
    del make_batch
    call = problem.name if problem.name.endswith(")") else f"{problem.name}()"
    assert eval(call, {name: getattr(problems, name) for name in problems.__all__}) is problem


@pytest.mark.parametrize(("problem", "make_batch"), SOME_SYSTEMS)
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
    batch = Batch(jnp.asarray(np.random.default_rng(0).normal(size=(6, 3))), np.ones(6))
    for sizes in [(), (5, 4, 3, 2)]:
        problem = mlp(sizes)
        params, _ = setting(problem, lambda key: batch)
        assert [layer.weights.shape[1] for layer in params.layers] == [*sizes, 1]
        hand, reverse = jax.jit(lambda p, b, f=problem: (f.grad(p, b), jax.grad(f.loss)(p, b)))(params, batch)
        np.testing.assert_allclose(flat(hand), flat(reverse), rtol=1e-12, atol=1e-15)
