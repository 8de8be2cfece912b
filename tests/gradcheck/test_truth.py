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
