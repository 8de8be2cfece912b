"""Wrong calls get an error that names the argument; wrong forms a finding."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse

from jaxgd.gradcheck import Kind, check_gradient

W = np.array([0.3, -0.5, 0.8])
PARAMS = {"w": W, "b": np.array(0.5)}


def loss(params):
    return jnp.sum(params["w"] ** 2) + params["b"] ** 2


def grad(params):
    return {"w": 2 * params["w"], "b": 2 * params["b"]}


def raises(params):
    raise RuntimeError("no such thing")


ERRORS = [
    ((3, grad, PARAMS), {}, TypeError, "`loss` must be a function (params, *args), got int."),
    ((loss, None, PARAMS), {}, TypeError, "`grad` must be a function (params, *args), got NoneType."),
    ((loss, grad, {}), {}, TypeError, "`params` must have a floating leaf to differentiate by, got none."),
    (
        (loss, grad, {"w": np.array([1, 2])}),
        {},
        TypeError,
        "`params` must have a floating leaf to differentiate by, got none.",
    ),
    (
        (lambda p: jnp.sum(p["w"]), grad, {"w": np.array([1j])}),
        {},
        ValueError,
        "`loss` must return a floating scalar [], got complex128[]. Return its real part.",
    ),
    (
        (loss, grad, {"w": np.array([1.0, np.nan]), "b": np.array(0.0)}),
        {},
        ValueError,
        "`params['w']` must be finite, got nan at [1].",
    ),
    ((loss, grad, {"w": W, "b": np.array(np.inf)}), {}, ValueError, "`params['b']` must be finite, got inf."),
    (
        (lambda p: p["w"], grad, PARAMS),
        {},
        ValueError,
        "`loss` must return a floating scalar [], got float64[3].",
    ),
    (
        (lambda p: jnp.int32(3), grad, PARAMS),
        {},
        ValueError,
        "`loss` must return a floating scalar [], got int32[].",
    ),
    ((raises, grad, PARAMS), {}, ValueError, "`loss` raised RuntimeError: no such thing"),
    (
        (lambda p: jnp.log(-jnp.sum(p["w"] ** 2)), grad, PARAMS),
        {},
        ValueError,
        "`loss` must be finite at `params`, got nan.",
    ),
    ((loss, grad, PARAMS), {"order": 3}, ValueError, "`order` must be 1 or 2, got 3."),
    (
        (lambda p: (loss(p), {"b": p["b"]}), grad, PARAMS),
        {},
        ValueError,
        "`loss` must return a floating scalar [], got a tuple of 2. If it returns (value, auxiliary output), pass "
        "has_aux=True.",
    ),
    (
        (loss, grad, PARAMS),
        {"has_aux": True},
        ValueError,
        "`loss` must return (value, auxiliary output) with has_aux=True, got one value.",
    ),
    (
        (grad, loss, PARAMS),
        {},
        ValueError,
        "`loss` must return a floating scalar [], got a dict of 2. Were `loss` and `grad` exchanged?",
    ),
    ((lambda p: None, grad, PARAMS), {}, ValueError, "`loss` must return a floating scalar [], got None."),
    (
        (loss, grad, PARAMS),
        {"argnums": "p"},
        ValueError,
        "`argnums` must be 0, as there is one positional argument, got 'p'.",
    ),
    ((loss, grad, PARAMS, W), {"argnums": 2}, ValueError, "`argnums` must be positions from 0 to 1, got 2."),
    ((loss, grad, PARAMS), {"seconds": "5"}, ValueError, "`seconds` must be a number that is at least 0, got '5'."),
    ((loss, grad, PARAMS), {"key": 3}, TypeError, "`key` must be a key of jax.random, got int."),
    (
        (lambda p: (loss(p), 1, 2), grad, PARAMS),
        {"has_aux": True},
        ValueError,
        "`loss` must return (value, auxiliary output) with has_aux=True, got a tuple of 3.",
    ),
    (
        (lambda p, key: loss(p), grad, PARAMS),
        {"key": jax.random.key(0)},
        ValueError,
        "`loss` raised TypeError: <lambda>() missing 1 required positional argument: 'key'. `key` is an argument of "
        "the check: bind it by functools.partial.",
    ),
    (
        (loss, grad, PARAMS),
        {"argnums": 1},
        ValueError,
        "`argnums` must be 0, as there is one positional argument, got 1.",
    ),
    (
        (loss, grad, PARAMS),
        {"argnums": (0, 0)},
        ValueError,
        "`argnums` must be different positions, got (0, 0).",
    ),
    (
        (loss, grad, PARAMS),
        {"order": 2, "has_aux": True},
        ValueError,
        "with `order=2`, `argnums` must be 0 and `has_aux` False: bind the rest in a function.",
    ),
    (
        (loss, grad, PARAMS),
        {"l2": 0.1},
        ValueError,
        "`loss` raised TypeError: loss() got an unexpected keyword argument 'l2'. It was called with `params`, 0 in "
        "`*args` and l2 by name.",
    ),
    (
        (lambda z: jnp.abs(z) ** 2, jnp.conj, np.array(complex(1, np.inf))),
        {},
        ValueError,
        "`params.imag` must be finite, got inf.",
    ),
    (
        (lambda p, x, y: loss(p), grad, PARAMS, W),
        {},
        ValueError,
        "`loss` raised TypeError: <lambda>() missing 1 required positional argument: 'y'. It was called with "
        "`params`, 1 in `*args`.",
    ),
    ((loss, grad, PARAMS), {"seconds": -1}, ValueError, "`seconds` must be a number that is at least 0, got -1."),
]


@pytest.mark.parametrize(("args", "options", "error", "message"), ERRORS, ids=[row[3] for row in ERRORS])
def test_a_wrong_call_says_what_is_wrong(args, options, error, message):
    with pytest.raises(error) as caught:
        check_gradient(*args, **options)
    assert str(caught.value) == message
    assert type(caught.value) is error


@pytest.mark.parametrize("array", [jnp.asarray, np.asarray], ids=["traced", "not traced"])
def test_a_loss_that_draws_random_numbers_is_refused(array):
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match=r"^`loss` must return the same value each time") as caught:
        check_gradient(lambda w: array(w).sum() * rng.uniform(1, 2), lambda w: w, W)
    assert re.fullmatch(
        r"`loss` must return the same value each time that it is called with the same arguments, got [\d.]+ and "
        r"[\d.]+\. Draw random numbers outside and pass them as an argument\.",
        str(caught.value),
    )


FORMS = [
    (raises, Kind.RAISED, "`grad` raised RuntimeError: no such thing"),
    (lambda p: {"w": 2 * p["w"]}, Kind.STRUCTURE, "['b'] has no gradient: the tree returned lacks it."),
    (
        lambda p: {**grad(p), "c": p["b"]},
        Kind.STRUCTURE,
        "['c'] is in the tree returned, but no parameter has this path.",
    ),
    (
        lambda p: (2 * p["w"], 2 * p["b"]),
        Kind.STRUCTURE,
        "['b'] has no gradient: the tree returned lacks it; it has [0], [1], which no parameter has.",
    ),
    (
        lambda p: {"w": 2 * p["w"], "b": 2 * p["b"][None]},
        Kind.SHAPE,
        "['b'] holds the right numbers in shape (1,); its parameter has ().",
    ),
    (lambda p: {"w": 2 * p["w"][:2], "b": 2 * p["b"]}, Kind.SHAPE, "['w'] has shape (2,), its parameter (3,)."),
    (
        lambda p: {"w": 2 * p["w"], "b": 2 * p["b"] * jnp.ones(5) / 5},
        Kind.NOT_SUMMED,
        "['b'] has shape (5,), its parameter (): it is the gradient once summed over axis 0. "
        "A broadcast is not summed.",
    ),
    (
        lambda p: {"w": 2 * p["w"], "b": (2 * p["b"]).astype(jnp.float32)},
        Kind.DTYPE,
        "['b'] has dtype float32, its parameter float64.",
    ),
    (lambda p: {"w": 2 * p["w"] * jnp.nan, "b": 2 * p["b"]}, Kind.NONFINITE, None),
    (
        lambda p: {"w": "2 w", "b": 2 * p["b"]},
        Kind.STRUCTURE,
        "['w'] is a str, not a number or an array.",
    ),
    (
        lambda p, x: grad(p),
        Kind.RAISED,
        "`grad` raised TypeError: <lambda>() missing 1 required positional argument: 'x'. It was called with "
        "`params`, 0 in `*args`.",
    ),
    (
        lambda p: None,
        Kind.STRUCTURE,
        "['b'] has no gradient: the tree returned lacks it; `grad` returned None.",
    ),
]


@pytest.mark.parametrize(("wrong", "kind", "message"), FORMS, ids=[str(form[1]) for form in FORMS])
def test_a_wrong_form_is_a_finding(wrong, kind, message):
    with jax.numpy_dtype_promotion("standard"):
        report = check_gradient(loss, wrong, PARAMS)
    assert not report.ok
    finding = report.findings[0]
    assert finding.kind is kind
    assert message is None or finding.message == message


def test_integer_labels_and_static_arguments_are_fine():
    def cross_entropy(w, x, labels, classes, name):
        assert name == "mean"
        logits = x @ w.reshape(3, classes)
        return jnp.mean(jax.nn.logsumexp(logits, axis=1) - jnp.take_along_axis(logits, labels[:, None], 1)[:, 0])

    x = np.random.default_rng(0).normal(size=(6, 3))
    labels = np.array([0, 1, 1, 0, 1, 0])
    report = check_gradient(cross_entropy, jax.grad(cross_entropy), np.arange(6.0), x, labels, 2, "mean")
    assert report.ok


def test_tables_of_pandas_are_held_as_they_are():
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame({"x": [1.0, 2.0, 4.0], "y": [1.0, 0.5, -1.0]})

    def square(w, t, y):
        return np.mean((t["x"] * w[0] + t["y"] * w[1] - y) ** 2)

    def slope(w, t, y):
        off = t["x"] * w[0] + t["y"] * w[1] - y
        return np.array([2 * np.mean(off * t["x"]), np.mean(off * t["y"])])

    report = check_gradient(square, slope, W[:2], table, table["x"])
    assert [finding.message for finding in report.findings] == [
        "params is 0.5 times the gradient in entry [1]; all other entries are right."
    ]
    with pytest.raises(TypeError) as caught:
        check_gradient(square, slope, table["x"], table, table["x"])
    assert str(caught.value) == (
        "`params` must have a floating leaf to differentiate by, got a pandas Series: pass it as a NumPy array."
    )


OTHER_ARRAYS = {
    "sparse": (scipy.sparse.csr_array(np.arange(6.0).reshape(2, 3)), lambda a: a.toarray()),
    "masked": (np.ma.masked_equal(np.arange(6.0).reshape(2, 3), 3.0), lambda a: a.filled(0.5)),
    "longdouble": (np.arange(6, dtype=np.longdouble).reshape(2, 3), np.asarray),
}


@pytest.mark.parametrize("name", OTHER_ARRAYS)
def test_arrays_that_are_not_of_numpy_are_passed_as_they_are(name):
    matrix, dense = OTHER_ARRAYS[name]

    def slope(w, a):
        return 2 * dense(a).T @ (dense(a) @ w)

    assert check_gradient(lambda w, a: ((dense(a) @ w) ** 2).sum(), slope, W, matrix)
    assert not check_gradient(lambda w, a: ((dense(a) @ w) ** 2).sum(), lambda w, a: slope(w, a) / 2, W, matrix)


def test_parameters_in_longdouble():
    assert check_gradient(lambda w: (w**2).sum(), lambda w: 2 * w, W.astype(np.longdouble))


def test_integer_leaves_among_the_parameters_are_held():
    params = {"step": np.array(3), "w": W}
    report = check_gradient(
        lambda p: jnp.sum(p["w"] ** 2) * p["step"], lambda p: {"step": jnp.array(0), "w": 6 * p["w"]}, params
    )
    assert report.ok, str(report)
    assert [leaf.leaf for leaf in report.leaves] == ["['w']"]


def test_a_tuple_for_one_array_may_be_gradients_by_several_arguments():
    def product(u, v):
        return jnp.sum(u * v)

    report = check_gradient(product, jax.grad(product, (0, 1)), W, 2 * W)
    assert report.findings[0].message == (
        "params has no gradient: the tree returned lacks it; it is a tuple of 2: if it holds the gradients by several "
        "arguments, pass argnums=(0, 1)."
    )


MATRIX = np.array([[0.3, -0.5], [0.8, 0.1], [1.2, -0.7]])
OTHER_SHAPES = [
    (lambda g: g.T, "params is the transpose of the gradient: shape (2, 3), its parameter (3, 2)."),
    (
        lambda g: jnp.stack([g, g]),
        "params has shape (2, 3, 2), its parameter (3, 2): it is the gradient once averaged over axis 0. A broadcast "
        "is not summed.",
    ),
    (lambda g: g[:2], "params has shape (2, 2), its parameter (3, 2)."),
    (
        lambda g: (g,),
        "params has no gradient: the tree returned lacks it; it is a tuple of 1: return its entry instead.",
    ),
    (
        lambda g: {"w": g},
        "params has no gradient: the tree returned lacks it; it has ['w'], which no parameter has.",
    ),
]


@pytest.mark.parametrize(("change", "message"), OTHER_SHAPES, ids=[row[1] for row in OTHER_SHAPES])
def test_a_gradient_of_another_shape_says_which(change, message):
    report = check_gradient(lambda w: jnp.sum(w**2), lambda w: change(2 * w), MATRIX)
    assert [finding.message for finding in report.findings if finding.wrong] == [message]


def test_a_gradient_that_writes_to_its_argument():
    def grad(w):
        slope = 2 * w
        w[:] -= 0.1 * slope
        return slope

    params = np.array(W)
    report = check_gradient(lambda w: jnp.sum(w**2), grad, params)
    assert report.ok
    np.testing.assert_array_equal(params, W)
    assert "`grad` writes to params: the caller's array is another one after the call." in str(report)


def test_a_value_beside_the_gradient_that_is_not_the_loss():
    report = check_gradient(loss, lambda p: (loss(p) / 2, grad(p)), PARAMS)
    assert not report.ok
    assert all(leaf.ok for leaf in report.leaves)
    assert report.findings[0].message == (
        "`grad` returns (value, gradient), as jax.value_and_grad does; the gradient was checked. The value is 0.615, "
        "that of `loss` 1.23."
    )


def test_the_report_as_plain_values():
    report = check_gradient(loss, lambda p: {"w": 4 * p["w"], "b": 2 * p["b"]}, PARAMS)
    plain = report.to_dict()
    assert plain["ok"] is False
    assert plain["findings"][0]["kind"] == "FACTOR"
    assert plain["findings"][0]["leaf"] == "['w']"
    assert [leaf["ok"] for leaf in plain["leaves"]] == [True, False]
    assert plain["taylor_order"] == pytest.approx(1.0, abs=0.05)


def test_the_key_changes_directions_and_no_verdict():
    reports = [check_gradient(loss, grad, PARAMS, key=jax.random.key(seed)) for seed in range(3)]
    assert all(report.ok for report in reports)
