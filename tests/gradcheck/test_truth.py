"""Nothing that a report says is false: what was not compared, ties, stopped gradients, causes, narrow dtypes."""

import collections
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgd.gradcheck import Kind, Status, check_gradient

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


# Time.


def test_a_search_that_was_stopped_says_so():
    def wrong(p):
        return {**grad(p), "a": 2 * p["a"] + jnp.sin(17 * p["a"])}

    report = check_gradient(loss, wrong, PARAMS, seconds=0.0)
    assert kinds(report) == {Kind.UNKNOWN}
    assert "the search for the cause was stopped after 0 seconds" in str(report)
    assert "stopped" not in str(check_gradient(loss, wrong, PARAMS, seconds=1000.0))
    with pytest.raises(ValueError, match=r"`seconds` must be a number that is at least 0, got -1\."):
        check_gradient(loss, wrong, PARAMS, seconds=-1)
