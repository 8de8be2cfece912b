"""Parameters, rows and labels in the forms in which people have them: each is the same run."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common import SYSTEMS, assert_trees_equal, quick, setting

import jaxgd
from jaxgd import problems
from jaxgd.theory.curvature import eigenvalues
from jaxgd.theory.rates import rate_facts

INPUTS = [[0.5, 1.0], [1.5, -1.0], [-1.0, 0.5], [-2.0, -0.5]]
LABELS = [1, 1, 0, 0]
ONCE = {"learning_rate": 0.1, "num_steps": 3}
ONE_OF_EACH = list({system.id.partition("(")[0]: system for system in SYSTEMS}.values())
"""The last variant of every system: what these tests show does not depend on the variant."""


def frames():
    return pytest.importorskip("pandas"), pytest.importorskip("polars")


def pandas_rows():
    pandas, _ = frames()
    return pandas.DataFrame(INPUTS, columns=["a", "b"]), pandas.Series(LABELS)


def polars_rows():
    _, polars = frames()
    return polars.DataFrame(INPUTS, schema=["a", "b"], orient="row"), polars.Series(LABELS)


ROWS = {
    "arrays": lambda: jaxgd.Batch(jnp.array(INPUTS), jnp.array(LABELS)),
    "numpy": lambda: jaxgd.Batch(np.array(INPUTS), np.array(LABELS)),
    "lists": lambda: jaxgd.Batch(INPUTS, LABELS),
    "a pair": lambda: (INPUTS, LABELS),
    "a list of two": lambda: [np.array(INPUTS), LABELS],
    "a dict": lambda: {"targets": LABELS, "inputs": INPUTS},
    "pandas": pandas_rows,
    "polars": polars_rows,
    "objects": lambda: (np.array(INPUTS, object), np.array(LABELS, object)),
    "bool": lambda: (INPUTS, np.array(LABELS, bool)),
    "floats": lambda: (INPUTS, np.array(LABELS, float)),
    "unsigned": lambda: (INPUTS, np.array(LABELS, np.uint8)),
}


LABELLED = (problems.logistic_regression(l2=0.1), problems.softmax_regression(2))
FORMS = [(LABELLED[0], form) for form in ROWS] + [(LABELLED[1], form) for form in ("arrays", "polars", "unsigned")]


@pytest.mark.parametrize(("problem", "form"), FORMS, ids=lambda value: getattr(value, "name", value))
def test_rows_in_every_form_are_the_same_run(problem, form):
    batch = ROWS["arrays"]()
    params = problem.init(jax.random.key(0), batch)
    assert_trees_equal(problem.init(jax.random.key(0), ROWS[form]()), params)
    assert problem.loss(params, ROWS[form]()) == problem.loss(params, batch)
    assert_trees_equal(problem.grad(params, ROWS[form]()), problem.grad(params, batch))
    expected = jaxgd.descend(problem, params, batch, **ONCE).params
    assert_trees_equal(jaxgd.descend(problem, params, ROWS[form](), **ONCE).params, expected)


def test_integers_are_numbers_of_a_regression():
    problem, inputs, targets = problems.linear_regression(), [[1, 2], [3, 5], [4, 1]], [1, 0, 2]
    floating = jaxgd.Batch(jnp.array(inputs, float), jnp.array(targets, float))
    assert_trees_equal(problem.minimizer((inputs, targets)), problem.minimizer(floating))
    params = problem.zeros((inputs, targets))
    assert_trees_equal(problem.grad(params, (inputs, targets)), problem.grad(params, floating))
    assert_trees_equal(problem.predict(params, inputs), problem.predict(params, floating.inputs))
    assert_trees_equal(
        jaxgd.fit(problem, params, (inputs, targets), **ONCE), jaxgd.fit(problem, params, floating, **ONCE)
    )


def test_float64_is_cast_without_a_warning_where_jax_computes_in_float32(rng):
    inputs, targets = rng.normal(size=(5, 2)), rng.normal(size=5)  # warnings are errors here
    with jax.enable_x64(False):
        problem = problems.linear_regression(l2=0.1)
        params = problem.init(jax.random.key(0), (inputs, targets))
        assert params.weights.dtype == jnp.float32
        result = jaxgd.fit(problem, params, (inputs, targets), **ONCE)
        assert result.params.weights.dtype == jnp.float32
        assert problem.minimizer((inputs, targets)).weights.dtype == jnp.float32
        from_host = jaxgd.LinearParams(np.zeros(2), 0.0)
        assert jaxgd.descend(problem, from_host, (inputs, targets), **ONCE).params.bias.dtype == jnp.float32
        assert jaxgd.sweep(
            problem, params, (inputs, targets), over={"learning_rate": np.array([0.1, 0.2])}, num_steps=2
        ).loss.shape == (2,)


@pytest.mark.parametrize(("problem", "make_batch"), ONE_OF_EACH)
def test_every_system_takes_its_parameters_as_a_dict_and_as_a_tuple(problem, make_batch):
    params, batch = setting(problem, make_batch)
    if hasattr(params, "layers"):
        forms = [
            {"layers": [layer._asdict() for layer in params.layers]},
            [tuple(layer) for layer in params.layers],
            (list(params.layers),),
        ]
    else:
        forms = [params._asdict(), tuple(params), dict(reversed(params._asdict().items()))]
    found = jax.jit(lambda forms: [(problem.loss(form, batch), problem.grad(form, batch)) for form in forms])
    (loss, expected), *others = found([params, *forms])
    for form, (value, grads) in zip(forms, others, strict=True):
        assert value == loss
        assert jax.tree.structure(grads) == jax.tree.structure(form)
        assert_trees_equal(problem.accepts.params(grads), expected)


@pytest.mark.parametrize(
    "problem", [problems.linear_regression(), problems.mlp((2,))], ids=lambda problem: problem.name
)
def test_a_run_from_a_dict_ends_in_parameters_of_their_type(problem):
    params = problem.init(jax.random.key(0), (INPUTS, LABELS))
    form = {"layers": [layer._asdict() for layer in params.layers]} if hasattr(params, "layers") else params._asdict()
    assert type(jaxgd.descend(problem, form, (INPUTS, LABELS), **ONCE).params) is type(params)


def test_a_form_of_the_parameters_has_the_hessian_of_their_type(rng):
    problem = problems.linear_regression(l2=0.3)
    batch = (rng.normal(size=(9, 3)), rng.normal(size=9))
    params = problem.init(jax.random.key(1), batch)
    limit = jaxgd.largest_stable_learning_rate(problem, params, batch)
    for form in (params._asdict(), tuple(params)):  # a dict's leaves are in another order
        np.testing.assert_allclose(jaxgd.largest_stable_learning_rate(problem, form, batch), limit, rtol=1e-12)


@pytest.mark.parametrize(("problem", "make_batch"), ONE_OF_EACH)
def test_zeros_are_like_init(problem, make_batch):
    params, batch = setting(problem, make_batch)
    assert_trees_equal(problem.zeros(batch), jax.tree.map(jnp.zeros_like, params))


@pytest.mark.parametrize(("problem", "make_batch"), ONE_OF_EACH)
def test_inside_jit_and_vmap_arrays_pass_as_they_are(problem, make_batch):
    params, batch = setting(problem, make_batch)

    def same(params, batch):
        given = jax.tree.leaves((params, batch))
        taken = jax.tree.leaves((problem.accepts.params(params), problem.accepts.batch(batch)))
        assert all(a is b for a, b in zip(given, taken, strict=True))
        return 0

    jax.make_jaxpr(same)(params, batch)
    jax.make_jaxpr(jax.vmap(same))(*jax.tree.map(lambda leaf: leaf[None], (params, batch)))


def test_probabilities_are_targets_of_the_logistic_problem(rng):
    problem = problems.logistic_regression()
    inputs, share = rng.normal(size=(6, 3)), np.array([0.0, 1.0, 0.25, 0.5, 0.9, 0.0])
    params = jaxgd.LinearParams(jnp.asarray(rng.normal(size=3)), jnp.asarray(0.2))
    p = 1 / (1 + np.exp(-(inputs @ np.asarray(params.weights) + 0.2)))
    expected = -np.mean(share * np.log(p) + (1 - share) * np.log(1 - p))
    np.testing.assert_allclose(problem.loss(params, (inputs, share)), expected, rtol=1e-13)
    np.testing.assert_allclose(problem.grad(params, (inputs, share)).weights, inputs.T @ (p - share) / 6, rtol=1e-12)
    # A row of probability q is q rows of label 1 and 1 - q rows of label 0.
    shares = [0, 0, 0, 0, 1, 1, 1, 1, 1, 0, 0, 0, 1, 1, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0]
    doubled = (np.repeat(inputs, 4, axis=0), shares)
    quarters = np.array([0.0, 1.0, 0.25, 0.5, 1.0, 0.0])
    np.testing.assert_allclose(problem.loss(params, doubled), problem.loss(params, (inputs, quarters)), rtol=1e-13)
    assert problem.check_batch((inputs, share)) is None
    jaxgd.assert_gradient(problem.loss, problem.grad, params, jaxgd.Batch(jnp.asarray(inputs), jnp.asarray(share)))


def test_probabilities_of_extreme_logits_keep_their_digits():
    problem, params = problems.logistic_regression(), jaxgd.LinearParams(jnp.ones(1), jnp.asarray(0.0))
    batch = (np.array([[800.0], [-800.0], [800.0], [-800.0]]), np.array([1.0, 0.0, 0.5, 0.25]))
    assert problem.loss(params, batch) == (0 + 0 + 400 + 200) / 4
    assert problem.grad(params, batch).bias == (0 + 0 + 0.5 - 0.25) / 4


SWEPT = {
    "learning_rate": ([0.1, 0.2], (0.1, 0.2), np.array([0.1, 0.2])),
    "l2": ([0, 1], np.array([0.0, 1.0])),
    "params": (
        jaxgd.LinearParams(jnp.array([[0.0, 0.0], [1.0, 2.0]]), jnp.array([0.0, 3.0])),
        {"weights": [[0.0, 0.0], [1.0, 2.0]], "bias": [0.0, 3.0]},
        ([[0.0, 0.0], [1.0, 2.0]], [0.0, 3.0]),
        [([0.0, 0.0], 0.0), jaxgd.LinearParams(np.array([1.0, 2.0]), 3.0)],
    ),
    "batch": (
        jaxgd.Batch(jnp.array([INPUTS, INPUTS[::-1]]), jnp.array([LABELS, LABELS])),
        (np.array([INPUTS, INPUTS[::-1]]), np.array([LABELS, LABELS], bool)),
        [(INPUTS, LABELS), jaxgd.Batch(INPUTS[::-1], np.array(LABELS, bool))],
    ),
    "key": (jax.random.split(jax.random.key(0), 2), list(jax.random.split(jax.random.key(0), 2))),
}


@pytest.mark.parametrize("axis", quick(SWEPT, ["params", "batch"]))
def test_every_form_of_an_axis_is_the_same_sweep(axis):
    problem, batch = problems.logistic_regression(l2=0.1), (INPUTS, LABELS)
    results = [
        jaxgd.sweep(
            problem,
            problem.zeros(batch),
            batch,
            over={axis: values},
            num_steps=3,
            batch_size=2,
            **({} if axis == "learning_rate" else {"learning_rate": 0.1}),
        )
        for values in SWEPT[axis]
    ]
    assert results[0].loss.shape == (2,)
    for result in results[1:]:
        np.testing.assert_allclose(result.loss, results[0].loss, rtol=1e-15)


def test_series_are_swept():
    pandas, polars = frames()
    for series in (pandas.Series([0.1, 0.2]), polars.Series([0.1, 0.2])):
        swept = jaxgd.sweep(problems.quadratic(), {"x": 5}, None, over={"learning_rate": series}, num_steps=1)
        np.testing.assert_allclose(swept.params.x, [4.4, 3.8])


def test_what_is_known_beforehand_takes_the_same_forms(rng):
    pandas, _ = frames()
    inputs, labels = rng.normal(size=(9, 2)), [0, 1, 1, 0, 1, 0, 0, 1, 1]
    problem, rows = problems.logistic_regression(l2=0.1), jaxgd.Batch(jnp.asarray(inputs), jnp.asarray(labels))
    form, table = {"bias": 0, "weights": [0.0, 1.0]}, (pandas.DataFrame(inputs), pandas.Series(labels))
    typed = problem.accepts.params(form)
    for known in (jaxgd.largest_stable_learning_rate, eigenvalues, lambda *given: rate_facts(*given).limit):
        np.testing.assert_array_equal(known(problem, form, table), known(problem, typed, rows))


def test_the_same_sum_evaluated_otherwise_takes_the_same_forms(rng):
    inputs, targets = rng.normal(size=(9, 2)), rng.normal(size=9)
    problem, form = problems.linear_regression(l2=0.1), {"bias": 0.5, "weights": [0.0, 1.0]}
    value, grads = problem.loss(form, (inputs, targets)), problem.grad(form, (inputs, targets))
    tiles = jaxgd.tiled(problem, 4)
    np.testing.assert_allclose(tiles.loss(form, (inputs, targets)), value, rtol=1e-14)
    np.testing.assert_allclose(tiles.grad(form, (inputs.tolist(), targets))["weights"], grads["weights"], rtol=1e-13)
    assert pickle.loads(pickle.dumps(tiles)) is tiles
    halves = [(inputs[:4], targets[:4]), jaxgd.Batch(inputs[4:].tolist(), targets[4:])]
    for rows in ((inputs, targets), halves, tuple(halves)):
        small, batch = jaxgd.compress(problem, rows)
        np.testing.assert_allclose(small.loss(problem.accepts.params(form), batch), value, rtol=1e-13)
    with jax.enable_x64(False):
        assert jaxgd.compress(problem, (inputs, targets))[1].inputs.dtype == jnp.float32


def test_frames_in_the_batch_of_your_own_loss():
    pandas, _ = frames()
    batch = {"x": pandas.Series([1.0, 2.0]), "y": np.array([1.0, 0.0])}

    def loss(params, batch):
        return jnp.sum((params * batch["x"] - batch["y"]) ** 2)

    assert jaxgd.descend(jaxgd.autodiff(loss), 1.0, batch, learning_rate=0.1, num_steps=1).params == 1 - 0.1 * 8


@pytest.mark.parametrize(("problem", "make_batch"), SYSTEMS)
def test_a_problem_pickles_as_the_call_that_builds_it(problem, make_batch):
    del make_batch
    assert pickle.loads(pickle.dumps(problem)) is problem
    hash(problem)


def square(params, batch):
    del batch
    return params**2


def double(params, batch):
    del batch
    return 2 * params


def test_your_own_problems_pickle_where_their_functions_do():
    own = jaxgd.autodiff(square)
    assert pickle.loads(pickle.dumps(own)) is own
    pair = jaxgd.Problem(name="square", loss=square, grad=double)
    assert pickle.loads(pickle.dumps(pair)) == pair
    changed = problems.quadratic()._replace(loss=square)
    with pytest.raises((AttributeError, pickle.PicklingError), match="<locals>"):
        pickle.dumps(changed)  # not as quadratic(), which it is not


def test_equinox_modules_are_parameters():
    equinox = pytest.importorskip("equinox")
    linear = equinox.nn.Linear(2, 1, key=jax.random.key(0))
    inputs, targets = jnp.array(INPUTS), jnp.array(LABELS, float)

    def loss(module, batch):
        return jnp.mean((jax.vmap(module)(batch.inputs)[:, 0] - batch.targets) ** 2)

    result = jaxgd.descend(jaxgd.autodiff(loss), linear, jaxgd.Batch(inputs, targets), **ONCE)
    assert isinstance(result.params, equinox.nn.Linear)
    assert result.loss < loss(linear, jaxgd.Batch(inputs, targets))
    network = equinox.nn.MLP(2, 1, 3, 1, key=jax.random.key(0))
    arrays, rest = equinox.partition(network, equinox.is_inexact_array)
    problem = jaxgd.autodiff(lambda arrays, batch: loss(equinox.combine(arrays, rest), batch), name="network")
    result = jaxgd.fit(problem, arrays, jaxgd.Batch(inputs, targets), **ONCE)
    assert jax.tree.structure(result.params) == jax.tree.structure(arrays)
