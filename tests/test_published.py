"""Published numbers, reproduced: the line through 12 points, the linear map, the SAT fits, mini-batches."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from common import quick

import jaxgd
from jaxgd import problems
from jaxgd.theory import closed_form
from jaxgd.types import Batch, LinearMapParams, LineParams

LINE_X = np.array([0.03, 0.19, 0.34, 0.46, 0.78, 0.81, 1.08, 1.18, 1.39, 1.60, 1.65, 1.90])
LINE_Y = np.array([0.67, 0.85, 1.05, 1.00, 1.40, 1.50, 1.30, 1.54, 1.55, 1.68, 1.73, 1.60])
LINE = Batch(jnp.asarray(LINE_X), jnp.asarray(LINE_Y))


def line_params(intercept, slope):
    return LineParams(jnp.asarray(intercept), jnp.asarray(slope))


@pytest.mark.parametrize(
    ("params", "published", "tolerance"),
    [((0.6, -0.2), 12.367, 5e-4), ((0.4, 0.2), 7.07, 5e-3), ((1.60, -0.8), 10.28, 5e-3)],
)
def test_losses_of_the_line(params, published, tolerance):
    assert float(problems.line().loss(line_params(*params), LINE)) == pytest.approx(published, abs=tolerance)


def test_gradient_of_the_line():
    grads = problems.line().grad(line_params(0.6, -0.2), LINE)
    assert float(grads.intercept) == pytest.approx(-21.904, abs=5e-4)
    assert float(grads.slope) == pytest.approx(-26.84044, abs=5e-6)


def test_best_line():
    problem = problems.line()
    best = problem.minimizer(LINE)
    assert float(problem.loss(best, LINE)) == pytest.approx(0.20, abs=5e-3)
    result = jaxgd.descend(problem, line_params(1.6, -0.5), LINE, learning_rate=0.03, num_steps=1000)
    np.testing.assert_allclose(result.params, [0.8259500451387297, 0.5222260699680321], rtol=1e-12)
    limit = jaxgd.largest_stable_learning_rate(problem, best, LINE)
    assert float(limit) == pytest.approx(0.0399759896404, rel=1e-11)


def test_the_linear_map_of_one_sample():
    matrix, bias = np.array([[1.0, 2.0, 0.0], [0.0, 1.0, 1.0]]), np.array([0.5, -0.3])
    x = np.array([1.0, 0.5, 0.5])
    g = matrix @ x + bias
    np.testing.assert_allclose(g, [2.5, 0.7], rtol=1e-15)
    batch = Batch(jnp.asarray(x), jnp.asarray(g))
    problem = problems.linear_map()
    zeros = LinearMapParams(jnp.zeros((2, 3)), jnp.zeros(2))

    def run(rate):
        return jaxgd.descend(
            problem,
            zeros,
            batch,
            learning_rate=rate,
            num_steps=100,
            param_tol=-1.0,
            grad_tol=-1.0,
            divergence_factor=1e9,
        )

    result = run(0.1)
    np.testing.assert_allclose(
        result.history.loss[:6], [6.74, 1.685, 0.42125, 0.1053125, 0.026328125, 0.00658203125], rtol=1e-13
    )
    np.testing.assert_allclose(result.params.matrix, [[1.0, 0.5, 0.5], [0.28, 0.14, 0.14]], rtol=1e-14)
    np.testing.assert_allclose(result.params.bias, [1.0, 0.28], rtol=1e-14)
    assert np.abs(result.params.matrix - matrix).max() > 1  # one equation for many unknowns
    for rate, residual in [
        (0.2, [0, 0]),
        (0.39, [0.014801323050835258, 0.004144370454233881]),
        (0.4, [2.5, 0.7]),
        (0.41, [328.7531446157556, 92.05088049241117]),
    ]:
        params = run(rate).params
        found = np.abs(g - np.asarray(problem.predict(params, batch.inputs)))
        np.testing.assert_allclose(found, residual, rtol=1e-10, atol=1e-14)
    limit = jaxgd.largest_stable_learning_rate(problem, zeros, batch)
    assert float(limit) == pytest.approx(0.4, rel=1e-14)


SAT = [
    "satgpa_sat_sum",
    "satgpa_hs_gpa",
    "satgpa_sat_v",
    "satgpa_sat_m",
    "satgpa_sum_hs",
    "satgpa_v_m",
    "satgpa_interaction",
    "satgpa_sum_hs_male",
]


def sat_columns(case, folder):
    table = np.genfromtxt(folder / "satgpa.csv", delimiter=",", names=True)
    derived = {"sat_sum*hs_gpa": table["sat_sum"] * table["hs_gpa"], "male=(sex==1)": (table["sex"] == 1) * 1.0}
    columns = [derived[name] if name in derived else table[name] for name in case["features"]]
    return np.stack(columns, axis=1), table["fy_gpa"]


def published_of(case):
    published = [e for e in case["expected"] if e["kind"] == "published"]
    assert published
    return published


@pytest.mark.parametrize("case_id", SAT)
def test_the_sat_fits_by_closed_form(cases, cases_folder, case_id):
    case = cases[case_id]
    inputs, targets = sat_columns(case, cases_folder)
    solution = closed_form.least_squares(inputs, targets)
    found = {
        "coefficients": np.append(solution.bias, solution.weights),
        "residual standard error": np.sqrt(solution.sum_squared_error / (1000 - solution.num_columns)),
        "R^2": 1 - solution.sum_squared_error / np.sum((targets - targets.mean()) ** 2),
        "deviance": solution.sum_squared_error,
    }
    published = published_of(case)
    for expected in published:
        (name,) = [name for name in found if name in expected["name"]]
        difference = np.abs(found[name] - np.asarray(expected["published"]))
        assert np.all(difference <= np.asarray(expected["tol_abs"])), expected["name"]


@pytest.mark.parametrize("case_id", quick(SAT, ["satgpa_sat_sum", "satgpa_sum_hs_male"]))
def test_the_sat_fits_by_descent(cases, cases_folder, case_id):
    inputs, targets = sat_columns(cases[case_id], cases_folder)
    mean, scale = inputs.mean(axis=0), inputs.std(axis=0)
    batch = Batch(jnp.asarray((inputs - mean) / scale), jnp.asarray(targets))
    problem = problems.linear_regression()
    params = problem.zeros(batch)
    rate = 0.5 * jax.jit(jaxgd.largest_stable_learning_rate, static_argnums=0)(problem, params, batch)
    result = jaxgd.fit(problem, params, batch, learning_rate=rate, num_steps=50_000)
    weights = np.asarray(result.params.weights) / scale
    descended = np.append(result.params.bias - mean @ weights, weights)
    coefficients = next(e for e in published_of(cases[case_id]) if "coefficients" in e["name"])
    assert np.all(np.abs(descended - coefficients["published"]) <= coefficients["tol_abs"])


def gabor(params, inputs):
    u = params[0] + 0.06 * params[1] * inputs
    return jnp.sin(u) * jnp.exp(-jnp.square(u) / 32)


def gabor_loss(params, batch):
    return jnp.sum(jnp.square(gabor(params, batch.inputs) - batch.targets))


def gabor_grad(params, batch):
    """With v = u^2/32: df/du = (cos u - u/16 sin u) exp(-v), du/dphi0 = 1, du/dphi1 = 0.06 x."""
    u = params[0] + 0.06 * params[1] * batch.inputs
    slope = (jnp.cos(u) - u / 16 * jnp.sin(u)) * jnp.exp(-jnp.square(u) / 32)
    by_u = 2 * (gabor(params, batch.inputs) - batch.targets) * slope
    return jnp.stack([jnp.sum(by_u), jnp.sum(by_u * 0.06 * batch.inputs)])


GABOR = jaxgd.Problem(name="gabor", loss=gabor_loss, grad=gabor_grad, reduction="sum")


@pytest.fixture
def gabor_batch(cases_folder):
    table = np.loadtxt(cases_folder / "udl_gabor30.csv", delimiter=",", skiprows=1)
    return Batch(jnp.asarray(table[:, 0]), jnp.asarray(table[:, 1]))


def published_losses(case):
    return np.asarray(case["expected"][0]["published"])


def test_a_users_own_problem_the_gabor_model(cases, gabor_batch):
    for expected in cases["udl_6_3_loss_gradient"]["expected"]:
        kind, _, point = expected["name"].partition(" at phi=")
        params = jnp.asarray(json.loads(point.replace("(", "[").replace(")", "]")), float)
        found = (GABOR.loss if kind == "loss" else GABOR.grad)(params, gabor_batch)
        np.testing.assert_allclose(found, expected["published"], atol=expected["tol_abs"])


def test_batch_descent_on_the_gabor_model(cases, gabor_batch):
    case = cases["udl_6_3_gd_fixed"]
    start = jnp.asarray(case["initial_params"])
    result = jaxgd.descend(GABOR, start, gabor_batch, learning_rate=0.2, num_steps=21)
    losses = [*result.history.loss[jnp.array([0, 1, 5, 9, 13, 17])], result.loss]
    np.testing.assert_allclose(losses, published_losses(case), atol=5e-7)


def epochs_of(gabor_batch, folder, num_steps):
    """The published batches, laid end to end: visited in order they are the published run."""
    indices = json.loads((folder / "udl_sgd_batches.json").read_text())
    rows = np.concatenate(indices["batch_indices"][:num_steps])
    return jax.tree.map(lambda array: array[rows], gabor_batch)


@pytest.mark.parametrize(
    ("case_id", "optimizer"),
    [
        ("udl_6_3_sgd", None),
        ("udl_6_3_sgd_schedule", None),
        ("udl_6_4_sgd", None),
        ("udl_6_4_momentum", lambda rate: optax.chain(optax.ema(0.6, debias=False), optax.sgd(rate))),
    ],
)
def test_mini_batches_on_the_gabor_model(cases, cases_folder, gabor_batch, case_id, optimizer):
    case = cases[case_id]
    rate = case["learning_rate"]
    if isinstance(rate, str):  # halved after steps 1, 9, 17, ...
        rate = optax.exponential_decay(2.0, 8, 0.5, staircase=True)
        rate = (lambda decay: lambda step: jnp.where(step == 0, 4.0, decay(step - 1)))(rate)
    with jax.numpy_dtype_promotion("standard"):
        result = jaxgd.descend(
            GABOR,
            jnp.asarray(case["initial_params"]),
            epochs_of(gabor_batch, cases_folder, case["steps"]),
            learning_rate=rate,
            num_steps=case["steps"],
            batch_size=5,
            optimizer=optimizer,
            record=("params",),
        )
    path = np.concatenate([result.history.params, result.params[None]])
    steps = [0, 1, 9, 17, 25, 33, 41] if case["steps"] == 41 else [0, 81]
    losses = [float(gabor_loss(jnp.asarray(path[t]), gabor_batch)) for t in steps]
    np.testing.assert_allclose(losses, published_losses(case), atol=5e-7)
