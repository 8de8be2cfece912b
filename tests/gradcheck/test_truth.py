"""Nothing that a report says is false: what was not compared, ties, stopped gradients, causes, narrow dtypes."""

import collections
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common import slow

from jaxgd.gradcheck import Kind, Status, check_gradient
from jaxgd.gradcheck.slopes import slopes

RNG = np.random.default_rng(0)
W = np.array([0.3, -0.5, 0.8])
PARAMS = {"a": W, "b": np.array([[1.0, 2.0]]), "c": np.array(0.5)}


@pytest.fixture(autouse=True)
def as_users_have_it():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def kinds(report, *, wrong=True):
    return {finding.kind for finding in report.findings if finding.wrong == wrong}


def status(report):
    return {leaf.leaf: leaf.status for leaf in report.leaves}


def loss(p):
    return jnp.sum(p["a"] ** 2) + jnp.sum(p["b"] ** 3) + p["c"] ** 2


def grad(p):
    return {"a": 2 * p["a"], "b": 3 * p["b"] ** 2, "c": 2 * p["c"]}


# The report.


def test_a_report_is_as_true_as_the_gradient():
    assert check_gradient(loss, grad, PARAMS)
    wrong = check_gradient(loss, lambda p: jax.tree.map(lambda g: 2 * g, grad(p)), PARAMS)
    assert not wrong
    assert bool(wrong) is wrong.ok


def test_the_repr_is_the_table():
    report = check_gradient(loss, lambda p: {**grad(p), "a": 4 * p["a"]}, PARAMS)
    assert repr(report) == str(report)
    assert repr(report).splitlines()[0] == "WRONG"
    assert "2 times the gradient" in repr(report)


def test_a_notebook_shows_a_table():
    report = check_gradient(lambda p: jnp.sum(p["<w>"] ** 2), lambda p: {"<w>": 4 * p["<w>"]}, {"<w>": W})
    shown = report._repr_html_()
    assert shown.startswith("<b>WRONG</b><table>")
    assert "&lt;w&gt;" in shown
    assert "<w>" not in shown


FORMS = {
    "missing": (lambda p: {"a": 2 * p["a"], "c": 4 * p["c"]}, "b"),
    "of another shape": (lambda p: {**grad(p), "b": 3 * p["b"][0] ** 2, "c": 4 * p["c"]}, "b"),
}


@pytest.mark.parametrize("name", FORMS)
def test_other_leaves_are_compared_where_one_cannot_be(name):
    wrong, unchecked = FORMS[name]
    report = check_gradient(loss, wrong, PARAMS)
    assert not report
    assert status(report) == {"['a']": Status.RIGHT, f"['{unchecked}']": Status.NOT_CHECKED, "['c']": Status.WRONG}
    assert f"  not checked  ['{unchecked}']\n" in str(report)
    plain = {leaf["leaf"]: leaf for leaf in json.loads(json.dumps(report.to_dict()))["leaves"]}[f"['{unchecked}']"]
    assert plain == {"leaf": f"['{unchecked}']", "error": None, "could_see": None, "status": "not checked", "ok": None}
    assert "['c'] is 2 times the gradient" in str(report)


def test_other_leaves_are_compared_where_one_has_another_dtype():
    report = check_gradient(
        loss, lambda p: {**grad(p), "b": (3 * p["b"] ** 2).astype(np.float32), "c": 4 * p["c"]}, PARAMS
    )
    assert {f.kind for f in report.findings if f.leaf == "['b']"} >= {Kind.DTYPE}
    assert status(report)["['a']"] is Status.RIGHT
    assert status(report)["['c']"] is Status.WRONG


def test_nothing_is_checked_where_the_gradient_raises():
    def raises(p):
        raise RuntimeError("out of luck")

    report = check_gradient(loss, raises, PARAMS)
    assert set(status(report).values()) == {Status.NOT_CHECKED}
    assert "ok " not in str(report)


def test_no_number_is_printed_for_a_leaf_that_is_nan():
    report = check_gradient(
        lambda x: jnp.sum(jnp.where(x > 0, jnp.log(x), 0.0)), lambda x: jnp.where(x > 0, 1.0, 0.0) / x, W + 0.5
    )
    assert str(report).splitlines()[1] == "  WRONG  params"
    assert "Taylor" not in str(report)
    assert "slope of the values" not in str(report)  # log x does not fall to the 0 that the loss has at x = 0
    assert report.to_dict()["leaves"][0]["error"] is None
    by_values = check_gradient(
        lambda p: np.sum(np.asarray(p["a"]) ** 2),
        lambda p: {"a": np.asarray(p["a"]) / 0, "b": 0 * p["b"]},
        {"a": W, "b": np.ones(2)},
    )
    assert "see inf" not in str(by_values)
    assert "Taylor" not in str(by_values)


def test_the_slope_of_the_values_is_printed_where_it_settles():
    report = check_gradient(
        lambda x: jnp.sum(jnp.where(x > 0, x * jnp.sqrt(x), 0.0)),
        lambda x: jnp.where(x > 0, 1.0, 0.0) * (jnp.sqrt(x) + x / (2 * jnp.sqrt(x))),
        W + 0.5,
    )
    assert "The slope of the values of the loss is" in str(report)


def test_no_taylor_order_is_printed_where_a_leaf_was_not_part_of_the_direction():
    report = check_gradient(loss, FORMS["missing"][0], PARAMS)
    assert report.taylor_order is None


Pair = collections.namedtuple("Pair", "a b")


@pytest.mark.parametrize(
    ("params", "answer", "words"),
    [
        ((W, W), list, "the gradient is a list, the parameters are a tuple"),
        ([W, W], tuple, "the gradient is a tuple, the parameters are a list"),
        ({"x": (W, W)}, lambda g: {"x": list(g["x"])}, "the gradient is a list at ['x'], the parameters are a tuple"),
        (Pair(W, W), lambda g: {"a": g.a, "b": g.b}, None),
        (collections.OrderedDict(a=W, b=W), dict, "the gradient is a dict, the parameters are a OrderedDict"),
    ],
)
def test_a_container_of_another_type_is_a_finding_of_form(params, answer, words):
    def loss(p):
        return sum(jnp.sum(x**2) for x in jax.tree.leaves(p))

    def right(p):
        return jax.tree.map(lambda x: 2 * x, p)

    assert not check_gradient(loss, right, params).findings
    report = check_gradient(loss, lambda p: answer(right(p)), params)
    assert not report
    assert kinds(report) == {Kind.STRUCTURE}
    assert words is None or words in report.findings[0].message


# A cause is named only if it holds at a third point, whose arguments are others.


def test_a_factor_that_is_an_argument_by_chance_is_not_the_length_of_an_axis():
    """The factor is 3 at the arguments given, as the length of x is; at other arguments it is another."""

    def loss(w, x, scale):
        return jnp.sum((w * x) ** 2)

    report = check_gradient(loss, lambda w, x, scale: scale * 2 * w * x * x, W, np.array([1.0, 2.0, -1.5]), 3.3)
    assert not report
    assert "length of axis" not in str(report)


ROUNDINGS = {
    "integers": (jnp.round, ""),
    "halves": (lambda g: jnp.round(2 * g) / 2, ""),
    "bfloat16": (lambda g: g.astype(jnp.bfloat16).astype(g.dtype), "bfloat16"),
}


@pytest.mark.parametrize("name", ROUNDINGS)
def test_whole_numbers_are_not_rounded_to_a_dtype(name):
    """All of them are numbers of bfloat16, but not those next to the gradient."""
    rounded, dtype = ROUNDINGS[name]
    report = check_gradient(
        lambda w: jnp.sum(20 * jnp.sin(w)), lambda w: rounded(20 * jnp.cos(w)), W.astype(np.float32)
    )
    assert not report
    assert ("is rounded to" in str(report) or "is computed in" in str(report)) is bool(dtype)
    assert dtype in str(report)


@pytest.mark.parametrize("offset", [0.0, 1e3, 1e6, 1e9, 1e12])
def test_rounding_of_large_values_is_not_a_kink(offset):
    rng = np.random.default_rng(0)
    for a, b in rng.normal(size=(20, 2)):
        assert not slopes(lambda t, a=a, b=b: offset + np.tanh(a * t + b)).kinked
        assert slopes(lambda t, a=a, b=b: offset + np.tanh(a * t + b) + (1 + offset) * np.abs(t)).kinked


def test_a_forgotten_penalty_is_not_a_derivative_of_the_activation():
    """The matrices hold the biases in their first column, which is not penalised."""
    rng = np.random.default_rng(2)
    params = {"V": rng.normal(size=(4, 3)), "W": rng.normal(size=(1, 5))}
    x, y = rng.normal(size=(6, 2)), rng.uniform(size=(6, 1)).round()

    def loss(p, x, y, penalty):
        rows = jnp.ones((len(x), 1))
        hidden = jax.nn.sigmoid(jnp.hstack([rows, x]) @ p["V"].T)
        z = jnp.hstack([rows, hidden]) @ p["W"].T
        squares = sum(jnp.sum(matrix[:, 1:] ** 2) for matrix in p.values())
        return jnp.mean(jax.nn.softplus(z) - y * z) + penalty / (2 * len(x)) * squares

    report = check_gradient(loss, lambda p, x, y, penalty: jax.grad(loss)(p, x, y, 0.0), params, x, y, 0.3)
    assert not report
    assert "tanh" not in str(report)
    assert kinds(report) <= {Kind.PENALTY, Kind.ARGUMENT}, str(report)


def test_a_penalty_whose_strength_is_an_argument_is_still_named():
    def loss(w, x, strength):
        return jnp.sum((w * x) ** 2) + strength * jnp.sum(w**2)

    report = check_gradient(loss, lambda w, x, strength: 2 * w * x * x, W, np.array([1.0, 2.0, -1.5]), 0.7)
    assert kinds(report) <= {Kind.PENALTY, Kind.ARGUMENT, Kind.PATH}
    assert kinds(report)


def test_arguments_move_on_the_set_they_come_from():
    from jaxgd.gradcheck.points import move_argument

    rng = np.random.default_rng(1)
    b = rng.normal(size=(4, 4))
    for leaf, holds in {
        "labels": (np.array([0.0, 1.0, 3.0]), lambda x: x.tolist() == [0.0, 1.0, 3.0]),
        "one-hot": (np.eye(3)[[0, 2, 1]], lambda x: np.array_equal(x, np.eye(3)[[0, 2, 1]])),
        "covariance": (b @ b.T + np.eye(4), lambda x: np.array_equal(x, x.T) and np.linalg.eigvalsh(x)[0] > 0),
        "symmetric": (b + b.T, lambda x: np.array_equal(x, x.T)),
        "lower": (np.tril(b), lambda x: not np.triu(x, 1).any()),
        "orthogonal": (np.linalg.qr(b)[0], lambda x: np.allclose(x.T @ x, np.eye(4))),
        "simplex": (
            np.exp(b) / np.exp(b).sum(-1, keepdims=True),
            lambda x: np.allclose(x.sum(-1), 1) and (x > 0).all(),
        ),
        "times": (np.array([0.0, 0.5, 0.7, 1.1]), lambda x: (np.diff(x) > 0).all()),
        "probabilities": (np.array([0.1, 0.25, 0.9]), lambda x: ((x > 0) & (x < 1)).all()),
        "padding": (np.array([0.0, 1.5, -2.5]), lambda x: x[0] == 0 and x[1] > 0 > x[2]),
    }.values():
        moved = move_argument(leaf, 0.5 * rng.normal(size=leaf.shape))
        assert holds(moved), leaf
    assert not np.array_equal(move_argument(b, 0.1 * b), b)


# Functions of torch with a backward of their own.


@pytest.mark.parametrize("name", ["straight through", "wrong"])
def test_a_function_of_torch_in_the_loss_is_named(name):
    torch = pytest.importorskip("torch")

    class Rounded(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.round() if name == "straight through" else x.sin()

        @staticmethod
        def backward(ctx, g):
            return g

    def loss(w, x):
        return ((x @ Rounded.apply(w)) ** 2).sum()

    def by_torch(w, x):
        w = w.detach().clone().requires_grad_(True)
        loss(w, x).backward()
        return w.grad

    report = check_gradient(loss, by_torch, torch.tensor(3.3 * W), torch.tensor(X))
    assert report.ok is (name == "straight through"), str(report)
    assert "the backward of `Rounded`" in str(report).lower().replace("rounded", "Rounded")


# Time.


@pytest.mark.parametrize("factor", [1.0, 1.01])
def test_an_iteration_in_the_loss_is_not_sent_where_it_never_ends(factor):
    def root(a):
        return jax.lax.while_loop(lambda s: jnp.abs(s * s - a) > 1e-5, lambda s: (s + a / s) / 2, a)

    report = check_gradient(lambda a: root(a) ** 3, lambda a: factor * 1.5 * root(a), jnp.float32(2.3))
    assert report.ok is (factor == 1.0), str(report)


def test_a_search_that_was_stopped_says_so():
    def wrong(p):
        return {**grad(p), "a": 2 * p["a"] + jnp.sin(17 * p["a"])}

    report = check_gradient(loss, wrong, PARAMS, seconds=0.0)
    assert kinds(report) == {Kind.UNKNOWN}
    assert "the search for the cause was stopped because its time was over (`seconds` sets the limit)" in str(report)
    assert "stopped" not in str(check_gradient(loss, wrong, PARAMS, seconds=1000.0))
    with pytest.raises(ValueError, match=r"`seconds` must be a number that is at least 0, got -1\."):
        check_gradient(loss, wrong, PARAMS, seconds=-1)


# Stopped gradients and rules.


def straight_through(w, x):
    z = x * w
    return jnp.sum((z + jax.lax.stop_gradient(jnp.round(z) - z)) ** 2 * jnp.array([1.0, 2.0, 0.5]))


def semi_gradient(w, x):
    """Temporal differences: the target is held constant."""
    return jnp.mean((x @ w - jax.lax.stop_gradient(1.0 + 0.9 * (x[::-1] @ w))) ** 2)


X = RNG.normal(size=(5, 3))
STOPS = {"straight through": (straight_through, np.array([1.3, -2.6, 4.2])), "semi-gradient": (semi_gradient, X)}


@pytest.mark.parametrize("name", STOPS)
def test_a_gradient_may_honour_a_stop_or_follow_the_values(name):
    loss, x = STOPS[name]
    honouring = check_gradient(loss, jax.grad(loss), W, x)
    assert honouring, str(honouring)
    assert kinds(honouring, wrong=False) == {Kind.STOP_GRADIENT}
    assert "stop_gradient in `" in str(honouring)
    wrong = check_gradient(loss, lambda w, x: 2 * jax.grad(loss)(w, x), W, x)
    assert not wrong
    assert "2 times the gradient" in str(wrong)


def test_a_gradient_that_follows_the_values_through_a_stop_is_right():
    def following(w, x):
        r = x @ w - 1.0 - 0.9 * (x[::-1] @ w)
        return 2 / len(x) * (x - 0.9 * x[::-1]).T @ r

    report = check_gradient(semi_gradient, following, W, X)
    assert report, str(report)
    assert kinds(report, wrong=False) == {Kind.STOP_GRADIENT}


def test_a_stop_inside_softmax_is_not_blamed():
    def loss(w, x):
        return -jnp.mean(jnp.log(jax.nn.softmax(x * w)[:, 0]))

    report = check_gradient(loss, lambda w, x: 1.5 * jax.grad(loss)(w, x), W, X)
    assert not report
    assert "stop_gradient" not in str(report)


def test_no_rule_is_blamed_where_there_is_none():
    """jax.scipy.special.i0 has slope 0 at 0; JAX 0.10 says 1."""

    def loss(p):
        return jnp.sum(jax.scipy.special.i0(p["x"])) + jnp.sum(p["y"] ** 2)

    params = {"x": np.array([0.0, 1.2]), "y": W}
    if jax.grad(loss)(params)["x"][0] == 0:
        pytest.skip("this version of JAX differentiates i0 at 0 rightly")
    report = check_gradient(loss, jax.grad(loss), params)
    assert status(report) == {"['x']": Status.WRONG, "['y']": Status.RIGHT}
    assert "in entry [0] is 0, and not 1" in str(report)


def test_a_rule_for_a_function_with_derivative_zero_is_an_estimator():
    @jax.custom_vjp
    def hard_round(x):
        return jnp.round(x)

    hard_round.defvjp(lambda x: (jnp.round(x), None), lambda _, ct: (ct,))

    def loss(w, x):
        return jnp.sum((hard_round(x * w) - 0.3 * w) ** 2)

    report = check_gradient(loss, jax.grad(loss), W, np.array([1.3, -2.6, 4.2]))
    assert report, str(report)
    assert "params is right if this is on purpose" in str(report)
    assert "is zero here, and the rule returns another gradient" in str(report)


def test_values_that_are_rough_do_not_overrule_two_gradients_that_agree():
    """A loss whose values are rounded to 7 digits; its derivative is that of the smooth function."""

    def rounded(value):
        return np.asarray(np.round(value, 9), value.dtype)

    @jax.custom_jvp
    def smooth(x):
        return jax.pure_callback(rounded, jax.ShapeDtypeStruct(x.shape, x.dtype), x, vmap_method="sequential")

    smooth.defjvp(lambda primals, tangents: (smooth(primals[0]), tangents[0]))

    def loss(w, x):
        return smooth(jnp.sum((x @ w) ** 2))

    report = check_gradient(loss, lambda w, x: 2 * x.T @ (x @ w), W, X)
    assert report, str(report)


# Ties.


def network(p, x, y, slope):
    h = jnp.maximum(x @ p["W1"] + p["b1"], 0)
    h = jnp.maximum(h @ p["W2"] + p["b2"], 0)
    return jnp.mean((h @ p["W3"] - y) ** 2)


def network_grad(p, x, y, slope, factor=1.0):
    """With a slope of the ReLU at 0."""

    def mask(z):
        return jnp.where(z == 0, slope, (z > 0).astype(z.dtype))

    z1 = x @ p["W1"] + p["b1"]
    z2 = jnp.maximum(z1, 0) @ p["W2"] + p["b2"]
    h2 = jnp.maximum(z2, 0)
    r = 2 * (h2 @ p["W3"] - y) / y.size
    d2 = (r @ p["W3"].T) * mask(z2)
    d1 = (d2 @ p["W2"].T) * mask(z1)
    h1 = jnp.maximum(z1, 0)
    return {"W1": x.T @ d1, "b1": d1.sum(0), "W2": h1.T @ d2, "b2": d2.sum(0), "W3": factor * h2.T @ r}


MORE = [(1.0, 1.0), (0.0, 0.0)]


def network_at(scale, slope):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(6, 3))
    x[2] = 0  # a row of zeros: with biases of zero every unit of both layers ties
    p = {"W1": scale * rng.normal(size=(3, 4)), "b1": np.zeros(4), "W2": rng.normal(size=(4, 4)), "b2": np.zeros(4)}
    return {**p, "W3": rng.normal(size=(4, 2))}, x, rng.normal(size=(6, 2)), np.array(slope)


@pytest.mark.parametrize(("scale", "side"), [(1.0, 0.0), (0.0, 1.0), *[pytest.param(*at, marks=slow) for at in MORE]])
def test_a_network_with_zero_biases_may_take_either_side_of_its_ties(scale, side):
    report = check_gradient(network, network_grad, *network_at(scale, side))
    assert report, str(report)
    assert kinds(report, wrong=False) == {Kind.KINK}
    assert "a tie of maximum in `jnp.maximum(h @ p" in str(report)


@pytest.mark.parametrize("slope", [1.5, pytest.param(-0.5, marks=slow)])
def test_a_slope_beyond_both_sides_of_the_ties_of_a_network_is_wrong(slope):
    report = check_gradient(network, network_grad, *network_at(1.0, slope))
    assert status(report)["['b2']"] is Status.WRONG
    assert {status(report)[f"['W{layer}']"] for layer in (1, 2, 3)} == {Status.RIGHT}
    assert "beyond the slopes of both sides" in str(report)


def test_a_factor_is_seen_beside_a_tie():
    report = check_gradient(network, functools.partial(network_grad, factor=2.0), *network_at(1.0, 0.0))
    assert status(report)["['W3']"] is Status.WRONG
    assert status(report)["['b2']"] is Status.KINK


def largest(p, c):
    return jnp.sum(c * jnp.max(p["x"], 0))


@pytest.mark.parametrize("name", ["first", "shared", "each"])
def test_entries_that_tie_for_a_maximum_share_its_gradient(name):
    params = {"x": np.array([[1.0, 0.2], [1.0, 0.7], [1.0, 0.7], [0.3, 0.1]])}

    def grad(p, c):
        most = p["x"] == jnp.max(p["x"], 0)
        weight = {"first": most & (jnp.cumsum(most, 0) == 1), "shared": most / most.sum(0), "each": most}[name]
        return {"x": c * weight}

    report = check_gradient(largest, grad, params, np.array([1.0, 2.0]))
    assert report.ok == (name != "each"), str(report)
    assert name != "each" or "have to share its gradient" in str(report)


# Narrow dtypes.


@pytest.mark.parametrize("dtype", [jnp.bfloat16, pytest.param(jnp.float16, marks=slow)])
def test_a_cast_before_a_sum_that_cancels(dtype):
    rng = np.random.default_rng(4)
    x = rng.normal(size=(2, 256))
    x -= x.mean(1, keepdims=True)
    x, w = jnp.asarray(x, dtype), jnp.asarray([0.75, -0.5], dtype)

    def loss(w, x):
        wide = jnp.promote_types(x.dtype, jnp.float32)
        return jnp.sum(jnp.sum(x.astype(wide), 1) * w.astype(wide) ** 2)

    def grad(w, x, early):
        wide = jnp.promote_types(x.dtype, jnp.float32)
        terms = 2 * w.astype(wide)[:, None] * x.astype(wide) * 1.1 / 1.1
        total = jnp.cumsum(terms.astype(x.dtype), 1)[:, -1] if early else jnp.sum(terms, 1)
        return total.astype(w.dtype)

    assert check_gradient(loss, lambda w, x: grad(w, x, False), w, x)
    report = check_gradient(loss, lambda w, x: grad(w, x, True), w, x)
    assert kinds(report) == {Kind.CANCELLATION}, str(report)
    assert f"loses digits in {jnp.dtype(dtype)}" in str(report)
    assert "test_truth.py" in str(report)


@pytest.mark.parametrize("dtype", [pytest.param(jnp.bfloat16, marks=slow), jnp.float16])
def test_plain_arithmetic_in_a_narrow_dtype_is_right(dtype):
    rng = np.random.default_rng(5)
    x, y, w = (jnp.asarray(rng.normal(size=shape), dtype) for shape in ((40, 3), (40,), (3,)))

    def loss(w, x, y):
        return jnp.mean(jnp.logaddexp(0, -y * (x @ w)))

    def grad(w, x, y):
        return x.T @ (-y / (1 + jnp.exp(y * (x @ w)))) / len(y)

    report = check_gradient(loss, grad, w, x, y)
    assert report, str(report)


# Parameters on a set.


def gaussian(p, x, factor):
    d = x - p["mean"]
    return 0.5 * jnp.sum(d * jnp.linalg.solve(p["cov"], d.T).T) + 0.5 * len(x) * jnp.linalg.slogdet(p["cov"])[1]


def gaussian_grad(p, x, factor):
    d = x - p["mean"]
    k = jnp.linalg.inv(p["cov"])
    return {"mean": -(k @ d.T).sum(1), "cov": factor * 0.5 * (len(x) * k - k @ d.T @ d @ k)}


B = np.random.default_rng(6).normal(size=(3, 3))


@pytest.mark.parametrize("dtype", [np.float32, pytest.param(np.float64, marks=slow)])
def test_a_gradient_that_takes_a_covariance_for_symmetric_is_right(dtype):
    params = {"mean": W.astype(dtype), "cov": (B @ B.T + np.eye(3)).astype(dtype)}
    params["cov"] = (params["cov"] + params["cov"].T) / 2
    report = check_gradient(gaussian, gaussian_grad, params, X.astype(dtype), dtype(1.0))
    assert report, str(report)
    for factor in (-1.0, 1.001):
        wrong = check_gradient(gaussian, gaussian_grad, params, X.astype(dtype), dtype(factor), seconds=0)
        assert status(wrong)["['cov']"] is Status.WRONG
        assert status(wrong)["['mean']"] is Status.RIGHT


SETS = {
    "symmetric": (B + B.T, lambda g, x: (g + g.T) / 2),
    "triangular": (np.tril(B), lambda g, x: jnp.tril(g)),
    "on the simplex": (np.exp(B) / np.exp(B).sum(-1, keepdims=True), lambda g, x: g - g.mean(-1, keepdims=True)),
    "orthogonal": (np.linalg.qr(B)[0], lambda g, x: x @ (x.T @ g - g.T @ x) / 2),
}


def of_matrix(x, c, factor):
    return jnp.sum(c * x**2) + jnp.sum(jnp.sin(x @ c))


of_matrix_grad = jax.grad(of_matrix)


@pytest.mark.parametrize("name", SETS)
def test_a_gradient_along_the_set_of_its_parameter_is_right_with_a_note(name):
    x, along = SETS[name]
    c = np.random.default_rng(7).normal(size=(3, 3))

    def grad(x, c, factor):
        return factor * along(of_matrix_grad(x, c, factor), x)

    report = check_gradient(of_matrix, grad, x, c, np.array(1.0))
    assert report, str(report)
    assert kinds(report, wrong=False) == {Kind.SET}
    assert name in str(report)
    assert not check_gradient(of_matrix, grad, x, c, np.array(2.0), seconds=0)
    assert not check_gradient(of_matrix, of_matrix_transposed, x, c, np.array(1.0), seconds=0)
    assert not check_gradient(of_matrix, of_matrix_grad, x, c, np.array(1.0)).findings


def of_matrix_transposed(x, c, factor):
    return of_matrix_grad(x, c, factor).T


STARTS = {
    "equal weights": (np.full(3, 1 / 3), lambda g: g - 0.3, "if its parameter were meant to stay on the simplex"),
    "one of n": (np.array([1.0, 0.0, 0.0]), lambda g: g + 0.7, "if its parameter were meant to stay on the simplex"),
    "identity": (np.eye(3), lambda g: (g + g.T) / 2, "if its parameter were meant to stay positive definite"),
}


def of_start(x, c):
    return jnp.sum(c * x) + 0.3 * jnp.sum(x**3)


def of_start_grad(x, c):
    return c + 0.9 * x**2


@pytest.mark.parametrize("name", STARTS)
def test_a_common_starting_point_is_no_excuse(name):
    x, change, words = STARTS[name]
    c = np.random.default_rng(7).normal(size=x.shape)
    report = check_gradient(of_start, lambda x, c: change(of_start_grad(x, c)), x, c)
    assert not report, str(report)
    assert words in str(report)
    assert check_gradient(of_start, of_start_grad, x, c)


def test_a_tie_is_named_before_the_set_of_the_parameter():
    x, y = np.array([[1.0, 0.5], [-1.0, 2.0], [1.0, -1.0]]), np.array([1.0, -1.0, 1.0])

    def hinge(w, x, y):
        return jnp.sum(jnp.maximum(0.0, 1 - y * (x @ w)))

    report = check_gradient(hinge, lambda w, x, y: -x.T @ (y * (y * (x @ w) < 1)), np.array([1.0, 0.0]), x, y)
    assert report, str(report)
    assert kinds(report, wrong=False) == {Kind.KINK}
    assert report.taylor_order is None


def test_a_gradient_in_a_buffer_that_is_used_again_is_right():
    buffer = np.zeros(3)

    def grad(w, x):
        return np.multiply(2 * x, np.asarray(w), out=buffer)

    assert check_gradient(lambda w, x: np.sum(x * np.asarray(w) ** 2), grad, W, np.arange(1.0, 4.0))
    assert check_gradient(lambda w, x: jnp.sum(x * w**2), grad, W, np.arange(1.0, 4.0))


def test_nothing_is_ok_where_the_values_are_too_rough():
    def rough(w):
        w = np.asarray(w)
        return float(np.sum(w**2) + 1e-3 * np.sin(1e9 * w[0]))

    report = check_gradient(rough, lambda w: 2 * w, W)
    assert not report
    assert str(report).startswith("NOT CHECKED\n  not checked  params")
    assert "too rough for a slope to be measured" in str(report)


@pytest.mark.parametrize("dtype", [np.float32, pytest.param(np.float64, marks=slow)])
def test_labels_that_add_up_to_one_only_up_to_rounding(dtype):
    rng = np.random.default_rng(8)
    q = np.exp(rng.normal(size=(7, 4))).astype(dtype)
    q /= q.sum(1, keepdims=True)
    w, x = rng.normal(size=(3, 4)).astype(dtype), rng.normal(size=(7, 3)).astype(dtype)

    def loss(w, x, q):
        return -jnp.sum(q * jax.nn.log_softmax(x @ w))

    report = check_gradient(loss, lambda w, x, q: x.T @ (jax.nn.softmax(x @ w) - q), w, x, q)
    assert report, str(report)
    assert not check_gradient(loss, lambda w, x, q: x.T @ (jax.nn.softmax(x @ w) - (1 + 1e-9) * q), w, x, q)


# Solvers, and what goes wrong elsewhere.


def root(a):
    """The square root by Newton's method; at most 30 steps, since float32 may never meet the tolerance."""

    def goes_on(state):
        return (jnp.abs(state[0] ** 2 - a) > 1e-6) & (state[1] < 30)

    return jax.lax.while_loop(goes_on, lambda state: (0.5 * (state[0] + a / state[0]), state[1] + 1), (a, 0))[0]


def test_the_tolerance_of_a_solver_is_not_a_mistake():
    params = {"a": np.float32(2.3), "c": np.float32(0.4)}

    def loss(p):
        return (root(p["a"]) - 0.9) ** 2 + p["c"] ** 2

    def grad(p, factor=0.5):
        x = root(p["a"])
        return {"a": 2 * (x - 0.9) / x * factor, "c": 2 * p["c"]}

    report = check_gradient(loss, grad, params)
    assert report, str(report)
    assert "until some tolerance is met" in str(report)
    assert status(check_gradient(loss, lambda p: grad(p, 1.0), params))["['a']"] is Status.WRONG
    assert status(check_gradient(loss, lambda p: grad(p, 0.50001), params))["['a']"] is Status.WRONG


def test_the_taylor_order_is_shown_only_if_it_was_measured():
    assert "Taylor order 2.00" in str(check_gradient(loss, grad, PARAMS))
    assert "Taylor" not in str(check_gradient(lambda p: 3 * p["c"], lambda p: {"c": 3.0 + 0 * p["c"]}, {"c": W[0]}))
    assert "Taylor" not in str(check_gradient(loss, lambda p: p["d"], PARAMS))
