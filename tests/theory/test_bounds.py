"""Bounds on the curvature over all parameters against dense Hessians, scikit-learn, and runs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common import FEW, SYSTEMS, cast, flat, quick_systems, random_like, setting

import jaxgd
from jaxgd import problems, theory
from jaxgd.problems import ALL_PROBLEMS
from jaxgd.theory.bounds import is_convex, is_quadratic
from jaxgd.types import Batch, LinearParams, ScalarParams, SecondOrder

MAKE_BATCH = dict(ALL_PROBLEMS)
# Each by one program; operation by operation each would be ten.
smoothness = jax.jit(theory.smoothness, static_argnums=0, static_argnames="batch_size")


@functools.partial(jax.jit, static_argnums=0)
def spectrum(problem, params, batch):
    """The eigenvalues of the Hessian, L and mu."""
    values = jnp.linalg.eigvalsh(theory.hessian(problem, params, batch))
    return values, theory.smoothness(problem, batch), theory.strong_convexity(problem, batch)


def is_bounded(problem):
    second = problem.second_order
    return second.rows is not None or second.bounds is not None


BOUNDED = [system for system in SYSTEMS if is_bounded(system.values[0])]
UNBOUNDED = [system for system in SYSTEMS if not is_bounded(system.values[0])]
WITH_ROWS = [system for system in BOUNDED if system.values[0].second_order.rows is not None]


@pytest.mark.parametrize(
    ("problem", "make_batch"), quick_systems(BOUNDED, "nesterov_quadratic(6)", "sigmoid_neuron", *FEW)
)
def test_no_pair_of_gradients_differs_by_more_than_l(problem, make_batch):
    """10,000 random pairs a system, far apart and close, near the steepest curvature and far from it."""
    params, batch = setting(problem, make_batch)
    largest = float(smoothness(problem, batch))
    zero = jax.tree.map(np.zeros_like, params)

    @jax.jit
    @jax.vmap
    def ratio(key):
        keys = jax.random.split(key, 4)
        sizes = 10.0 ** jax.random.uniform(keys[2], (2,), minval=-3, maxval=1.5)
        a = jax.tree.map(lambda u: sizes[0] * u, random_like(keys[0], zero))
        step = jax.tree.map(lambda u: sizes[1] * u, random_like(keys[1], zero))
        b = jax.tree.map(jnp.add, a, step)
        apart = jax.tree.map(jnp.subtract, problem.grad(a, batch), problem.grad(b, batch))
        rounding = 1e-13 * theory.taylor.norm(problem.grad(a, batch))
        return (theory.taylor.norm(apart) - rounding) / theory.taylor.norm(step)

    ratios = ratio(jax.random.split(jax.random.key(0), 10_000))
    assert float(jnp.max(ratios)) <= largest * (1 + 1e-12)


@pytest.mark.parametrize(("problem", "make_batch"), [s for s in BOUNDED if is_quadratic(s.values[0])])
def test_of_a_quadratic_l_and_mu_are_the_ends_of_the_spectrum(problem, make_batch):
    values, largest, smallest = spectrum(problem, *setting(problem, make_batch))
    np.testing.assert_allclose(largest, values[-1], rtol=1e-13)
    np.testing.assert_allclose(smallest, values[0], rtol=1e-9, atol=1e-12 * values[-1])


def attained(problem, batch, params):
    """The largest curvature at a point, as a share of the bound."""
    values, largest, _ = spectrum(problem, params, batch)
    return np.max(np.abs(values)) / largest


def test_the_bound_of_the_logistic_model_is_attained():
    for problem in (problems.logistic_regression(), problems.logistic_regression(l2=0.1)):
        params, batch = setting(problem, MAKE_BATCH[problem])
        assert attained(problem, batch, jax.tree.map(np.zeros_like, params)) == pytest.approx(1, abs=1e-12)


def test_the_bound_of_two_classes_is_attained():
    problem = problems.softmax_regression(2)
    batch = MAKE_BATCH[problems.logistic_regression()](jax.random.key(0))
    zero = LinearParams(jnp.zeros((4, 2)), jnp.zeros(2))
    assert attained(problem, cast(batch, jnp.float64), zero) == pytest.approx(1, abs=1e-12)
    # With three classes 1/2 is reached where one probability is 0: a bias far below.
    three = LinearParams(jnp.zeros((4, 3)), jnp.array([0.0, 0.0, -40.0]))
    assert attained(problems.softmax_regression(3), cast(batch, jnp.float64), three) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("loss", ["half_mean_squared_error", "mean_squared_error", "sum_squared_error"])
@pytest.mark.parametrize("target", [0.0, 1.0])
def test_the_bound_of_the_sigmoid_neuron_is_attained(loss, target):
    """One row whose prediction is where the curvature is largest: f = (15 - sqrt(33)) / 24 for y = 0."""
    problem = problems.sigmoid_neuron(loss=loss)
    f = (15 - np.sqrt(33)) / 24
    f = f if target == 0 else 1 - f
    batch = Batch(jnp.array([[1.0, -2.0]]), jnp.array([target]))
    params = LinearParams(jnp.zeros(2), jnp.asarray(np.log(f / (1 - f))))
    assert attained(problem, batch, params) == pytest.approx(1, abs=1e-12)
    if loss == "half_mean_squared_error":
        assert float(theory.smoothness(problem, batch)) == pytest.approx(0.0770 * 6, rel=1e-3)


@pytest.mark.parametrize(("problem", "make_batch"), quick_systems(UNBOUNDED, "cubic", *FEW))
def test_no_bound_is_none_and_says_why(problem, make_batch):
    _, batch = setting(problem, make_batch)
    assert theory.smoothness(problem, batch) is None
    assert theory.strong_convexity(problem, batch) == 0
    assert problem.second_order.unbounded


def test_targets_outside_the_range_of_the_sigmoid_bound_are_refused():
    batch = Batch(jnp.ones((3, 2)), jnp.array([0.5, 1.5, 0.0]))
    with pytest.raises(ValueError, match="must be in") as caught:
        theory.smoothness(problems.sigmoid_neuron(), batch)
    assert str(caught.value) == "`targets` must be in [0, 1], the range of the sigmoid, got 1.5 at row 1."


def test_fewer_rows_than_inputs(rng):
    inputs, targets = jnp.asarray(rng.normal(size=(5, 40))), jnp.asarray(rng.normal(size=5))
    for l2 in (0.0, 0.3, 50.0):
        zero = LinearParams(np.zeros(40), np.zeros(()))
        values, largest, _ = spectrum(problems.linear_regression(l2=l2), zero, Batch(inputs, targets))
        np.testing.assert_allclose(largest, values[-1], rtol=1e-12)


def test_beyond_the_gram_limit_the_bound_is_above_and_near(rng):
    inputs = jnp.asarray(rng.normal(size=(1100, 1050)) * np.linspace(0.5, 1.5, 1050))
    batch = Batch(inputs, jnp.asarray(rng.normal(size=1100)))
    exact = 2 / 1100 * np.linalg.norm(np.column_stack([inputs, np.ones(1100)]), 2) ** 2 + 0.1
    found = float(smoothness(problems.linear_regression(l2=0.1), batch))
    assert 0.999 * exact <= found <= 1.06 * exact


@pytest.mark.parametrize(("problem", "make_batch"), quick_systems(WITH_ROWS, "sigmoid_neuron", *FEW))
@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_bound_for_mini_batches_holds_for_every_batch(problem, make_batch, batch_size):
    _, batch = setting(problem, make_batch)
    bound = float(smoothness(problem, batch, batch_size=batch_size))
    rng = np.random.default_rng(0)
    for _ in range(20):
        rows = rng.choice(len(batch.inputs), batch_size, replace=False)
        part = jax.tree.map(lambda leaf, rows=rows: np.asarray(leaf)[rows], batch)
        assert float(smoothness(problem, part)) <= bound * (1 + 1e-12)


@pytest.mark.parametrize("l2", [0.0, 0.01])
def test_single_rows_have_the_step_of_scikit_learns_sag(rng, l2):
    sag = pytest.importorskip("sklearn.linear_model._sag")
    inputs = rng.normal(size=(50, 4)) * [1, 2, 3, 4]
    largest = float(np.max(np.sum(inputs**2, axis=1)))
    batch = Batch(jnp.asarray(inputs), jnp.asarray(rng.integers(0, 2, 50)))
    for loss, problem, targets in (
        ("log", problems.logistic_regression(l2=l2), batch.targets),
        (
            "squared",
            problems.linear_regression(loss="half_mean_squared_error", l2=l2),
            jnp.asarray(rng.normal(size=50)),
        ),
    ):
        step = sag.get_auto_step_size(largest, l2, loss, True)
        ours = smoothness(problem, batch._replace(targets=targets), batch_size=1)
        assert 1 / float(ours) == pytest.approx(step, rel=1e-14)


def test_batch_size_out_of_range_is_refused():
    problem = problems.linear_regression()
    batch = MAKE_BATCH[problem](jax.random.key(0))
    with pytest.raises(ValueError, match="must be") as caught:
        theory.smoothness(problem, batch, batch_size=18)
    assert str(caught.value) == "`batch_size` must be between 1 and 17, got 18."


def many(problem, make_batch, data_sets, starts):
    """Data sets of spread scales with several starts each, near and far."""

    def draw(key):
        keys = jax.random.split(key, 3)
        batch = cast(make_batch(keys[0]), jnp.float64)
        scale = jnp.exp(jax.random.normal(keys[1]))
        batch = batch if batch is None else batch._replace(inputs=batch.inputs * scale)
        points = jax.vmap(lambda k: cast(problem.init(k, batch), jnp.float64))(jax.random.split(keys[2], starts))
        far = 10.0 ** jnp.linspace(-1, 1.5, starts)
        return batch, jax.tree.map(lambda leaf: leaf * far.reshape(-1, *[1] * (leaf.ndim - 1)), points)

    return jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(7), data_sets))


def sizes(*tried):
    """The first with few data sets and starts; each with 200 data sets and 20 starts among the slow tests."""
    many = [pytest.param(p, 200, 20, id=p.name, marks=pytest.mark.slow) for p in tried]
    return pytest.mark.parametrize(
        ("problem", "data_sets", "starts"), [pytest.param(tried[0], 40, 10, id=f"{tried[0].name}-few"), *many]
    )


@sizes(
    problems.softmax_regression(3),
    problems.logistic_regression(),
    problems.logistic_regression(l2=0.1),
    problems.sigmoid_neuron(),
    problems.sigmoid_neuron(loss="sum_squared_error"),
    problems.linear_regression(l2=0.1),
)
def test_at_one_over_l_no_step_raises_the_loss_and_below_two_over_l_no_run_diverges(problem, data_sets, starts):
    batches, starts = many(problem, MAKE_BATCH[problem], data_sets, starts)

    @jax.jit
    def run(share):
        def one(batch, start):
            rate = share / theory.smoothness(problem, batch)
            return jaxgd.descend(problem, start, batch, learning_rate=rate, num_steps=100, record=("loss",))

        return jax.vmap(jax.vmap(one, (None, 0)))(batches, starts)

    losses = np.asarray(run(1.0).history.loss)
    rises = np.diff(losses, axis=-1)
    assert np.sum(rises > 1e-13 * np.abs(losses[..., :-1])) == 0
    reasons = np.asarray(run(1.99).stop_reason)
    assert np.sum(np.isin(reasons, [jaxgd.StopReason.DIVERGED, jaxgd.StopReason.NONFINITE])) == 0


@sizes(problems.logistic_regression(l2=0.1), problems.softmax_regression(3, l2=0.1))
def test_the_convex_bound_is_never_broken(problem, data_sets, starts):
    """f(theta_T) - f(x) <= L |theta_0 - x|^2 / (2T) for any x: here a point near the minimum."""
    batches, starts = many(problem, MAKE_BATCH[problem], data_sets, starts)

    def one(batch, start):
        bound = theory.smoothness(problem, batch)
        near = jaxgd.descend(problem, start, batch, learning_rate=1 / bound, num_steps=500, record=()).params
        run = jaxgd.descend(problem, start, batch, learning_rate=1 / bound, num_steps=100, record=("loss",))
        apart = theory.taylor.norm(jax.tree.map(jnp.subtract, start, near))
        steps = jnp.arange(1.0, 100.0)
        limit = bound * apart**2 / (2 * steps)
        return jnp.max((run.history.loss[1:] - problem.loss(near, batch)) / limit)

    shares = jax.jit(jax.vmap(jax.vmap(one, (None, 0))))(batches, starts)
    assert float(jnp.max(shares)) <= 1


def test_an_own_problem_may_bring_bounds():
    problem = jaxgd.Problem(
        name="bowl",
        loss=lambda p, b: jnp.sum(jnp.sqrt(1 + p.x**2)),
        grad=lambda p, b: ScalarParams(p.x / jnp.sqrt(1 + p.x**2)),
        second_order=SecondOrder(
            lambda p, v, b: ScalarParams(v.x / (1 + p.x**2) ** 1.5), bounds=lambda batch: (0.0, 1.0)
        ),
    )
    assert theory.smoothness(problem, None) == 1
    assert is_convex(problem, None)
    assert not is_quadratic(problem)
    assert flat(theory.hessian(problem, ScalarParams(jnp.zeros(2)), None)).tolist() == [1, 0, 0, 1]
