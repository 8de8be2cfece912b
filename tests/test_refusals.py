"""Everything that the public functions refuse about the form of what they are given, each with its exact text."""

import datetime

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgd
from jaxgd import problems

X, Y = np.ones((4, 2)), np.array([1.0, 0.0, 1.0, 1.0])
LINEAR, LOGISTIC, SOFTMAX = problems.linear_regression(), problems.logistic_regression(), problems.softmax_regression(3)
ONCE = {"learning_rate": 0.1, "num_steps": 1}
W, W3 = jaxgd.LinearParams(jnp.ones(2), jnp.asarray(0.0)), jaxgd.LinearParams(jnp.ones((2, 3)), jnp.zeros(3))


def descend(problem=LINEAR, params=W, batch=(X, Y)):
    return jaxgd.descend(problem, params, batch, **ONCE)


def fit(problem=LINEAR, params=W, batch=(X, Y)):
    return jaxgd.fit(problem, params, batch, **ONCE)


def fit_batches(key):
    return jaxgd.fit(LINEAR, W, (X, Y), **ONCE, batch_size=2, key=key)


def sweep(**over):
    return jaxgd.sweep(LINEAR, W, (X, Y), over=over, num_steps=1)


def frame(**columns):
    return pytest.importorskip("pandas").DataFrame(columns)


def sparse():
    return pytest.importorskip("scipy.sparse").csr_matrix(X)


def network():
    return pytest.importorskip("equinox").nn.MLP(2, 1, 3, 1, key=jax.random.key(0))


LINEAR_PARAMS = "`params` must be a jaxgd.LinearParams(weights, bias), a dict with these names or a tuple in this order"
RAVEL = 'got (4, 1); `targets.ravel()` has it, or `frame["name"]` if it is a column of a data frame.'

REFUSED = [
    # Parameters.
    (
        "names of another kind",
        lambda: descend(params={"w": X[0], "b": 0.0}),
        f"{LINEAR_PARAMS}, got a dict with 'w', 'b'.",
    ),
    ("a tuple too short", lambda: descend(params=(X[0],)), f"{LINEAR_PARAMS}, got a tuple of 1."),
    ("an array", lambda: descend(params=X[0]), f"{LINEAR_PARAMS}, got numpy.ndarray."),
    ("a number", lambda: LINEAR.loss(0.0, (X, Y)), f"{LINEAR_PARAMS}, got float."),
    ("nothing", lambda: LINEAR.grad(None, (X, Y)), f"{LINEAR_PARAMS}, got NoneType."),
    (
        "parameters of another system",
        lambda: fit(params=jaxgd.LineParams(0.0, 1.0)),
        f"{LINEAR_PARAMS}, got jaxgd.LineParams.",
    ),
    (
        "parameters of a line",
        lambda: descend(problems.line(), W, (Y, Y)),
        "`params` must be a jaxgd.LineParams(intercept, slope), a dict with these names or a tuple in this order, "
        "got jaxgd.LinearParams.",
    ),
    (
        "a bare number of the parabola",
        lambda: descend(problems.quadratic(), 5.0, None),
        "`params` must be a jaxgd.ScalarParams(x), a dict with these names or a tuple in this order, got float.",
    ),
    (
        "a layer of a network",
        lambda: descend(problems.mlp((3,)), [{"kernel": X, "bias": Y}, (X, Y)], (X, Y)),
        "`params.layers[0]` must be a jaxgd.LinearParams(weights, bias), a dict with these names or a tuple in this "
        "order, got a dict with 'kernel', 'bias'.",
    ),
    (
        "a network of another depth",
        lambda: descend(problems.mlp((3,)), [(np.ones((2, 1)), [0.0])], (X, Y)),
        "`params.layers` must have hidden layers of (3,) units, got ().",
    ),
    (
        "a parameter missing",
        lambda: descend(params={"weights": X[0], "bias": None}),
        "`params.bias` must be numbers, got None.",
    ),
    (
        "a parameter in words",
        lambda: descend(params=(["a", "b"], 0.0)),
        "`params.weights` must be numbers, got 'a' at row 0.",
    ),
    (
        "functions of an equinox module",
        lambda: descend(jaxgd.autodiff(lambda p, b: 0.0, name="f"), network()),
        "`params.activation` must be a floating array, got custom_jvp; give the arrays of `arrays, rest = "
        "equinox.partition(module, equinox.is_inexact_array)` and call `equinox.combine(arrays, rest)` in the loss.",
    ),
    (
        "zeros of your own problem",
        lambda: jaxgd.autodiff(len, name="f").zeros(None),
        "`zeros` needs the problem's `init`, which f does not have.",
    ),
    # Rows.
    (
        "a frame that holds all",
        lambda: descend(batch=frame(a=[1.0], b=[2.0])),
        "`batch` must be a jaxgd.Batch(inputs, targets) or a pair (inputs, targets), got pandas.DataFrame.",
    ),
    (
        "three arrays",
        lambda: descend(batch=(X, Y, Y)),
        "`batch` must be a jaxgd.Batch(inputs, targets) or a pair (inputs, targets), got a tuple of 3.",
    ),
    (
        "a dict of other names",
        lambda: descend(batch={"X": X, "y": Y}),
        "`batch` must be a jaxgd.Batch(inputs, targets) or a pair (inputs, targets), got a dict with 'X', 'y'.",
    ),
    ("no targets", lambda: descend(batch=(X, None)), "`targets` must be numbers, got None."),
    (
        "words among the inputs",
        lambda: descend(batch=([["1", "2"]] * 4, Y)),
        "`inputs` must be numbers, got '1' at row 0.",
    ),
    (
        "a column of words",
        lambda: descend(batch=(frame(age=[1.0, 2.0], city=["Ulm", "Bonn"]), [1.0, 2.0])),
        "`inputs['city']` must be numbers, got 'Ulm' at row 0.",
    ),
    (
        "a missing number",
        lambda: descend(batch=(np.array([[1.0, 2.0], [3.0, None]], object), [1.0, 2.0])),
        "`inputs` must be numbers, got None at row 1.",
    ),
    (
        "dates",
        lambda: descend(batch=(frame(day=[datetime.datetime(2026, 1, 1)] * 4), Y)),
        "`inputs['day']` must be numbers, got datetime64[us]; give a number such as the days since a start.",
    ),
    ("complex numbers", lambda: descend(batch=(X * 1j, Y)), "`inputs` must be real, got complex128."),
    (
        "a sparse matrix",
        lambda: descend(batch=(sparse(), Y)),
        "`inputs` must be dense, got scipy.csr_matrix; give `inputs.toarray()`.",
    ),
    (
        "rows of unequal length",
        lambda: descend(batch=([[1.0, 2.0], [3.0]], [1.0, 2.0])),
        "`inputs` must have rows of equal length, got a list with rows of different lengths.",
    ),
    (
        "masked entries",
        lambda: descend(batch=(np.ma.masked_equal(X, 1.0), Y)),
        "`inputs` must not have masked entries; fill them or leave their rows out.",
    ),
    (
        "one input without its axis",
        lambda: descend(batch=(Y, Y)),
        "`inputs` must have shape [N, D], got (4,).",
    ),
    # Targets.
    (
        "targets [N, 1] of weights [D]",
        lambda: descend(batch=(X, Y[:, None])),
        f"`targets` must have shape (4,) (that of the predictions), {RAVEL}",
    ),
    (
        "targets [N] of weights [D, 1]",
        lambda: descend(params=(X[:, :1][:2], [0.0])),
        "`targets` must have shape (4, 1) (that of the predictions), got (4,); `targets[:, None]` has it.",
    ),
    (
        "targets [N, 1] of a line",
        lambda: descend(problems.line(), (0.0, 1.0), (Y, Y[:, None])),
        f"`targets` must have shape (4,) (that of the predictions), {RAVEL}",
    ),
    (
        "labels [N, 1]",
        lambda: descend(LOGISTIC, W, (X, Y[:, None])),
        f"`targets` must have shape (4,) (one label for each row of the inputs), {RAVEL}",
    ),
    (
        "targets in a frame of one column",
        lambda: descend(batch=(X, frame(height=Y))),
        f"`targets` must have shape (4,) (that of the predictions), {RAVEL}",
    ),
    (
        "a frame of labels",
        lambda: descend(LOGISTIC, W, (X, frame(sick=Y))),
        "`targets` must have shape (4,) (one label for each row of the inputs), got (4, 1); give the column itself, "
        "`frame['sick']`.",
    ),
    (
        "one-hot labels",
        lambda: descend(SOFTMAX, W3, (X, np.eye(4)[:, :3])),
        "`targets` must have shape (4,) (one label for each row of the inputs), got (4, 3); "
        "of one-hot rows `targets.argmax(axis=1)` has it.",
    ),
    (
        "labels in words",
        lambda: descend(LOGISTIC, W, (X, ["yes", "no", "no", "yes"])),
        "`targets` must be numbers, got 'yes' at row 0; `numpy.unique(targets, return_inverse=True)` gives classes "
        "and their labels 0, 1, ...",
    ),
    (
        "labels that are not whole",
        lambda: descend(SOFTMAX, W3, (X, Y / 2)),
        "`targets` must be integer labels 0, 1, ..., got 0.5 at row 0.",
    ),
    (
        "labels that are missing",
        lambda: descend(SOFTMAX, W3, (X, [0.0, np.nan, 1.0, 1.0])),
        "`targets` must be integer labels 0, 1, ..., got nan at row 1.",
    ),
    (
        "floating labels inside jit",
        lambda: jax.jit(SOFTMAX.loss)(W3, jaxgd.Batch(X, Y)),
        "`targets` must be integers inside jit and vmap, got float64.",
    ),
    (
        "labels -1 and 1",
        lambda: fit(LOGISTIC, W, (X, 2 * Y - 1)),
        "`targets` must be labels 0 and 1 or probabilities in [0, 1], got -1.0 at row 1; "
        "`(targets + 1) // 2` codes -1 and 1 as 0 and 1.",
    ),
    (
        "labels 1 and 2",
        lambda: fit(LOGISTIC, W, (X, [1, 2, 1, 2])),
        "`targets` must be integers in [0, 2), got 2 at row 1; `targets - 1` codes 1 to 2 as 0 to 1.",
    ),
    (
        "labels 1, 2, 3",
        lambda: fit(SOFTMAX, W3, (X, [1, 2, 3, 1])),
        "`targets` must be integers in [0, 3), got 3 at row 2; `targets - 1` codes 1 to 3 as 0 to 2.",
    ),
    (
        "a probability above 1",
        lambda: fit(LOGISTIC, W, (X, [0.5, 0.25, 1.5, 0.0])),
        "`targets` must be labels 0 and 1 or probabilities in [0, 1], got 1.5 at row 2.",
    ),
    # Axes of a sweep.
    (
        "rates in words",
        lambda: sweep(learning_rate=["small"]),
        "`over['learning_rate']` must be numbers, got 'small' at row 0.",
    ),
    (
        "one rate",
        lambda: sweep(learning_rate=0.1),
        "`over['learning_rate']` must hold arrays with one leading axis of lanes, got ().",
    ),
    (
        "seeds instead of keys",
        lambda: sweep(learning_rate=[0.1], key=[0, 1, 2]),
        "`over['key']` must hold keys, such as `jax.random.split(jax.random.key(0), 3)`, got a list of 3.",
    ),
    (
        "starts of another system",
        lambda: sweep(learning_rate=[0.1], params={"slope": [1.0]}),
        f"{LINEAR_PARAMS}, got a dict with 'slope'.",
    ),
    (
        "a seed instead of a key",
        lambda: fit_batches(key=0),
        "`key` must be a key such as `jax.random.key(0)`, got int.",
    ),
    # Host functions inside a program.
    (
        "fit inside vmap",
        lambda: jax.vmap(lambda rate: jaxgd.fit(LINEAR, W, (X, Y), learning_rate=rate, num_steps=1))(jnp.ones(2)),
        "`jaxgd.fit` runs on the host and cannot be called inside jit, vmap or grad; use `jaxgd.descend`, "
        "the same run as one pure function.",
    ),
    (
        "fit inside jit",
        lambda: jax.jit(fit, static_argnums=0)(LINEAR, W),
        "`jaxgd.fit` runs on the host and cannot be called inside jit, vmap or grad; use `jaxgd.descend`, "
        "the same run as one pure function.",
    ),
    # Closed forms.
    (
        "the trajectory of inputs without targets",
        lambda: jaxgd.theory.closed_form.trajectory(W, X, **ONCE),
        "`batch` must be a jaxgd.Batch or a pair (inputs, targets), got ndarray; with `problem` it takes every form.",
    ),
    (
        "the trajectory without data",
        lambda: jaxgd.theory.closed_form.trajectory(W, None, **ONCE),
        "`batch` must hold the data of the squared error, got None.",
    ),
    (
        "the trajectory of parameters in a dict",
        lambda: jaxgd.theory.closed_form.trajectory({"weights": X[0], "bias": 0.0}, (X, Y), **ONCE),
        "`params` must be a LinearParams, LinearMapParams, LineParams or ScalarParams, got dict.",
    ),
    # Curves.
    (
        "the curve of a run that recorded nothing",
        lambda: jaxgd.curve(jaxgd.descend(problems.quadratic(), {"x": 5.0}, None, **ONCE, record=())),
        '`result` must hold recorded losses or parameters: run with "loss" or "params" in `record`.',
    ),
    (
        "the curve of a sweep",
        lambda: jaxgd.curve(sweep(learning_rate=[0.1, 0.2])),
        "`lane` must hold an index for each of the 1 axes of the sweep, got None.",
    ),
    (
        "the curve of a lane of a single run",
        lambda: jaxgd.curve(descend(), lane=0),
        "`lane` must be None for a single run, got 0.",
    ),
    (
        "steps in `record`",
        lambda: jaxgd.descend(LINEAR, W, (X, Y), **ONCE, record=("step",)),
        "`record` must be one of 'loss', 'grad_norm', 'learning_rate', 'update_norm', 'predicted_decrease', "
        "'second_order_decrease', 'actual_decrease', 'params', got 'step'.",
    ),
]


@pytest.mark.parametrize(("call", "text"), [pytest.param(*row[1:], id=row[0]) for row in REFUSED])
def test_the_exact_text(call, text):
    with pytest.raises((TypeError, ValueError)) as caught:
        call()
    assert str(caught.value) == text
