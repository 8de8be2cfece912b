"""Every way in which people call a checker: each form with a right gradient and with a wrong one.

A row is a function that returns a `Form`; rows whose packages are absent are skipped. The wrong gradient is the right
one with one leaf off by a thousandth, unless the row has one of its own.
"""

import dataclasses
import functools
import importlib
import types
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common import quick

from jaxgd.gradcheck import Kind, check_gradient

X = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
Y = np.random.default_rng(1).normal(size=6).astype(np.float32)
W = jnp.asarray(np.array([0.3, -0.5, 0.8], np.float32))


@pytest.fixture(autouse=True)
def as_users_have_it():
    with (
        jax.enable_x64(False),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):
        yield


class Form(NamedTuple):
    loss: Callable[..., Any]
    grad: Callable[..., Any]
    arguments: tuple[Any, ...]
    options: dict[str, Any] = {}  # noqa: RUF012
    wrong: Callable[..., Any] | None = None
    says: str = ""  # in the report of the right gradient
    says_wrong: str = ""  # in the report of the wrong one


def off(grad):
    """The gradient with one floating leaf off by a thousandth of it."""

    @functools.wraps(grad)
    def wrong(*args, **kwargs):
        leaves, treedef = jax.tree.flatten(grad(*args, **kwargs))
        floating = [i for i, leaf in enumerate(leaves) if getattr(leaf, "size", 1) and is_inexact(leaf)]
        leaves[floating[-1]] = leaves[floating[-1]] * 1.001
        return treedef.unflatten(leaves)

    return wrong


def is_inexact(leaf):
    if isinstance(leaf, (float, complex)):
        return True
    dtype = getattr(leaf, "dtype", None)
    if dtype is None:
        return False
    if not isinstance(leaf, (jax.Array, np.ndarray, np.generic)):
        return bool(dtype.is_floating_point or dtype.is_complex)  # of torch
    return jnp.issubdtype(dtype, jnp.inexact)


def squares(w, x, y):
    return jnp.mean((x @ w - y) ** 2)


def squares_grad(w, x, y):
    return 2 / len(y) * x.T @ (x @ w - y)


# What a loss and a gradient return.


def loss_of_shape_1():
    return Form(lambda w, x, y: squares(w, x, y)[None], squares_grad, (W, X, Y))


def loss_of_shape_1_1():
    return Form(lambda w, x, y: squares(w, x, y)[None, None], squares_grad, (W, X, Y))


def with_aux(w, x, y):
    residuals = x @ w - y
    return jnp.mean(residuals**2), {"residuals": residuals}


def aux():
    return Form(with_aux, squares_grad, (W, X, Y), {"has_aux": True})


def aux_returned_with_the_gradient():
    grad = jax.grad(with_aux, has_aux=True)
    return Form(with_aux, grad, (W, X, Y), {"has_aux": True}, lambda *a: (1.001 * grad(*a)[0], grad(*a)[1]))


def value_and_grad():
    both = jax.value_and_grad(squares)
    note = "`grad` returns (value, gradient), as jax.value_and_grad does; the gradient was checked."
    return Form(squares, both, (W, X, Y), {}, lambda *a: (both(*a)[0], 1.001 * both(*a)[1]), note, note)


def value_and_grad_with_aux():
    both = jax.value_and_grad(with_aux, has_aux=True)
    return Form(with_aux, both, (W, X, Y), {"has_aux": True}, lambda *a: (both(*a)[0], 1.001 * both(*a)[1]))


# Arguments.


def second_argument():
    return Form(lambda x, w, y: squares(w, x, y), lambda x, w, y: squares_grad(w, x, y), (X, W, Y), {"argnums": -2})


def bilinear(u, scale, v):
    return scale * jnp.sum(jnp.sin(u) * v["v"]) ** 2


def several_arguments():
    return Form(bilinear, jax.grad(bilinear, (0, 2)), (W, 0.7, {"v": W + 1}), {"argnums": (0, 2)})


def several_arguments_as_a_list():
    def grad(*args):
        return list(jax.grad(bilinear, (2, 0))(*args))

    return Form(bilinear, grad, (W, 0.7, {"v": W + 1}), {"argnums": (2, 0)})


def keyword_arguments():
    def loss(w, x, *, targets, l2=0.0):
        return squares(w, x, targets) + l2 * jnp.sum(w**2)

    def grad(w, x, *, targets, l2=0.0):
        return squares_grad(w, x, targets) + 2 * l2 * w

    return Form(loss, grad, (W, X), {"targets": Y, "l2": 0.1}, lambda *a, **k: grad(*a, **(k | {"l2": 0.0})))


def a_flag_and_a_tolerance_that_are_branched_on():
    def loss(w, x, y, l2, robust):
        total = squares(w, x, y) if robust else squares(w, x, y) / 2
        return total + l2 * jnp.sum(w**2) if l2 > 0 else total

    return Form(loss, jax.grad(loss), (W, X, Y, 0.1, np.array(True)))


def labels_whose_values_give_a_shape():
    def loss(w, x, labels):
        count = len(np.unique(labels))
        return jnp.sum(jax.ops.segment_sum(x @ w, labels, count) ** 2)

    return Form(loss, jax.grad(loss), (W, X, np.array([0, 1, 0, 2, 1, 0])))


def keys_strings_flags_and_nothing():
    def loss(w, key, raw, name, flag, nothing):
        assert name == "mean"
        assert flag is True
        assert nothing is None
        keep = jax.random.bernoulli(key, 0.5, w.shape) + jax.random.bernoulli(raw, 0.5, w.shape)
        return jnp.sum(keep * w**2)

    return Form(loss, jax.grad(loss), (W, jax.random.key(1), jax.random.PRNGKey(2), "mean", True, None))


# Parameters.


def a_python_float():
    return Form(lambda w, x: jnp.sum(jnp.sin(w * x)), lambda w, x: jnp.sum(x * jnp.cos(w * x)), (0.7, X))


def a_python_integer():
    return Form(lambda w, x: jnp.sum(jnp.sin(w * x)), lambda w, x: jnp.sum(x * jnp.cos(w * x)), (2, X))


def python_numbers_of_both_kinds():
    def grad(p):
        return {"a": p["b"] * jnp.cos(p["a"] * p["b"]), "b": p["a"] * jnp.cos(p["a"] * p["b"])}

    return Form(lambda p: jnp.sin(p["a"] * p["b"]), grad, ({"a": 2, "b": 0.3},))


def a_count_among_the_parameters():
    def grad(p):
        return {"count": None, "w": p["count"] * 2 * p["w"]}

    return Form(lambda p: sum(jnp.sum(p["w"] ** 2) for _ in range(p["count"])), grad, ({"count": 3, "w": W},))


def leaves_that_are_not_numbers():
    params = {
        "w": W,
        "name": "linear",
        "bias": None,
        "on": True,
        "key": jax.random.key(0),
        "raw": jax.random.PRNGKey(0),
    }

    def loss(p):
        assert p["name"] == "linear"
        return jnp.sum(p["w"] ** 2 * jax.random.uniform(p["key"], (3,)) * jax.random.uniform(p["raw"], (3,)))

    def grad(p):
        slope = 2 * p["w"] * jax.random.uniform(p["key"], (3,)) * jax.random.uniform(p["raw"], (3,))
        return {"w": slope, "name": None, "bias": None, "on": None, "key": None, "raw": None}

    return Form(loss, grad, (params,))


def empty_leaves():
    params = {"w": W, "none": jnp.zeros((0, 3)), "list": [], "tuple": ()}
    return Form(
        lambda p: jnp.sum(p["w"] ** 2) + jnp.sum(p["none"]),
        lambda p: {"w": 2 * p["w"], "none": jnp.ones((0, 3)), "list": [], "tuple": ()},
        (params,),
    )


def an_integer_array_among_the_parameters():
    params = {"step": np.array(3), "w": W}
    return Form(
        lambda p: jnp.sum(p["w"] ** 2) * p["step"], lambda p: {"step": None, "w": 2 * p["step"] * p["w"]}, (params,)
    )


def names_as_in_haiku():
    params = {"linear/~/dense_1": {"w": W, "b": jnp.array(0.1)}, "linear": {"scale": jnp.array(2.0)}}

    def loss(p, x):
        dense = p["linear/~/dense_1"]
        return jnp.sum(jnp.tanh(x @ dense["w"] + dense["b"]) * p["linear"]["scale"])

    return Form(loss, jax.grad(loss), (params, X))


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Neuron:
    w: Any
    b: Any
    name: str = dataclasses.field(default="tanh", metadata={"static": True})

    def __call__(self, x):
        return getattr(jnp, self.name)(x @ self.w + self.b)


def a_registered_dataclass():
    def loss(neuron, x):
        return jnp.sum(neuron(x) ** 2)

    return Form(loss, jax.grad(loss), (Neuron(W, jnp.array(0.1)), X))


class Named(NamedTuple):
    w: Any
    b: Any


def a_named_tuple():
    def loss(p, x):
        return jnp.sum(jnp.tanh(x @ p.w + p.b))

    return Form(loss, jax.grad(loss), (Named(W, jnp.array(0.1)), X))


def flax_parameters():
    nn = importlib.import_module("flax.linen")
    frozen = importlib.import_module("flax.core").freeze
    model = nn.Dense(2)
    variables = frozen(model.init(jax.random.key(0), X))

    def loss(variables, x):
        return jnp.sum(model.apply(variables, x) ** 2)

    return Form(loss, jax.grad(loss), (variables, X))


def an_equinox_module_with_filter_grad():
    eqx = importlib.import_module("equinox")
    model = eqx.nn.MLP(3, 1, 4, 1, activation=jnp.tanh, key=jax.random.key(0))

    def loss(model, x):
        return jnp.sum(jax.vmap(model)(x) ** 2)

    return Form(loss, eqx.filter_grad(loss), (model, X))


def an_equinox_module_whose_gradient_is_a_module():
    eqx = importlib.import_module("equinox")

    class Net(eqx.Module):
        w: Any
        activation: Callable[..., Any]
        scale: float = eqx.field(static=True)

        def __call__(self, x):
            return self.scale * jnp.sum(self.activation(x @ self.w))

    def grad(net, x):
        return Net(net.scale * x.T @ (1 - jnp.tanh(x @ net.w) ** 2), net.activation, net.scale)

    return Form(lambda net, x: net(x), grad, (Net(W, jnp.tanh, 2.0), X))


# Functions.


def a_callable_module_as_the_loss():
    class Loss:
        def __init__(self):
            self.x, self.y = X, Y

        def __call__(self, w):
            return squares(w, self.x, self.y)

        def grad(self, w):
            return squares_grad(w, self.x, self.y)

    loss = Loss()
    return Form(loss, loss.grad, (W,))


def partial_and_jit():
    return Form(functools.partial(squares, x=X, y=Y), jax.jit(functools.partial(squares_grad, x=X, y=Y)), (W,))


# Control flow, callbacks, solvers.


def newton_root(a):
    def body(state):
        x, _ = state
        new = x - (x**3 + a * x - 2) / (3 * x**2 + a)
        return new, jnp.abs(new - x)

    return jax.lax.while_loop(lambda state: state[1] > 1e-6, body, (jnp.ones_like(a), jnp.ones_like(a)))[0]


def a_while_loop_without_reverse_mode():
    def grad(p):
        x = newton_root(p["a"])
        return {"a": -2 * x * x / (3 * x**2 + p["a"])}

    return Form(lambda p: newton_root(p["a"]) ** 2, grad, ({"a": jnp.array(1.3)},), says="forward mode in float64")


def steps(w, x, count):
    return jax.lax.fori_loop(0, count, lambda i, h: jnp.tanh(w * h + x[i]), jnp.zeros(()))


def a_fori_loop_with_a_traced_end():
    # x[:, 0] has 6 entries, of which 4 are read.
    def grad(w, x, count):
        h, dh = 0.0, 0.0
        for i in range(4):
            out = jnp.tanh(w * h + x[i])
            h, dh = out, (1 - out**2) * (h + w * dh)
        return dh

    return Form(steps, grad, (jnp.array(0.7), X[:, 0], jnp.array(4)), says="forward mode in")


def scan_and_cond():
    def loss(w, x):
        def body(h, row):
            return jax.lax.cond(row[0] > 0, lambda h: jnp.tanh(h + row @ w), lambda h: h - row @ w, h), None

        return jax.lax.scan(body, jnp.zeros((), w.dtype), x)[0]

    return Form(loss, jax.grad(loss), (W, X.astype(np.float64)))


def host_sine(x):
    return jax.pure_callback(lambda x: np.sin(x), jax.ShapeDtypeStruct(x.shape, x.dtype), x, vmap_method="sequential")


def a_callback_without_a_rule():
    return Form(
        lambda w: jnp.sum(host_sine(w) ** 2), lambda w: 2 * jnp.sin(w) * jnp.cos(w), (W,), says="values of the loss"
    )


def a_callback_with_a_rule():
    sine = jax.custom_jvp(host_sine)
    sine.defjvp(lambda primals, tangents: (sine(*primals), jnp.cos(primals[0]) * tangents[0]))
    wrong = jax.custom_jvp(host_sine)
    wrong.defjvp(lambda primals, tangents: (wrong(*primals), -jnp.cos(primals[0]) * tangents[0]))
    loss, bad = (lambda w, f=f: jnp.sum(f(w) ** 2) for f in (sine, wrong))
    return Form(loss, jax.grad(loss), (W,), wrong=jax.grad(bad))


def an_ode_solver():
    ode = importlib.import_module("jax.experimental.ode")

    def loss(p, times):
        return jnp.sum(ode.odeint(lambda y, t, k: -k * y + jnp.sin(t), p["y"], times, p["k"])[-1] ** 2)

    return Form(loss, jax.grad(loss), ({"y": jnp.array([1.0, 0.5]), "k": jnp.array(0.8)}, jnp.array([0.0, 0.5, 1.0])))


def a_dtype_written_into_the_loss():
    def loss(w, x):
        def body(total, row):
            return total + jnp.sin(row @ w), None

        return jax.lax.scan(body, jnp.zeros((), jnp.float32), x)[0]

    says = "`loss` and `grad` cannot be evaluated in float64 (TypeError: scan body function"
    return Form(loss, jax.grad(loss), (W, X), says=says)


def a_dtype_written_into_the_gradient():
    def grad(w, x):
        def body(total, row):
            return total + row * jnp.cos(row @ w), None

        return jax.lax.scan(body, jnp.zeros(3, jnp.float32), x)[0]

    return Form(lambda w, x: jnp.sum(jnp.sin(x @ w)), grad, (W, X), says="`grad` cannot be evaluated in float64")


# Complex numbers.

Z = jnp.asarray(np.array([0.3 + 0.8j, -0.5 + 0.1j, 0.8 - 0.6j], np.complex64))
A = np.random.default_rng(2).normal(size=(4, 3)) + 1j * np.random.default_rng(3).normal(size=(4, 3))
A = jnp.asarray(A.astype(np.complex64))


def distance(z, a):
    return jnp.sum(jnp.abs(a @ z - 1) ** 2)


def distance_grad(z, a):
    return jnp.conj(2 * a.conj().T @ (a @ z - 1))


def complex_parameters():
    says = "params is the conjugate of the gradient: with z = x + i y the gradient of jax.grad is df/dx - i df/dy"
    return Form(distance, distance_grad, (Z, A), {}, lambda z, a: jnp.conj(distance_grad(z, a)), says_wrong=says)


def complex_and_real_parameters():
    def loss(p):
        return distance(p["z"], A) + jnp.sum(p["r"] ** 2)

    def grad(p):
        return {"z": distance_grad(p["z"], A), "r": 2 * p["r"]}

    says = "['z'] is the conjugate of the gradient"
    return Form(loss, grad, ({"z": Z, "r": W},), {}, lambda p: grad(p) | {"z": jnp.conj(grad(p)["z"])}, says_wrong=says)


def complex_parameters_with_half_of_the_other_convention():
    says = "params is 0.5 times the conjugate of the gradient"  # the Wirtinger derivative by the conjugate
    return Form(distance, distance_grad, (Z, A), {}, lambda z, a: jnp.conj(distance_grad(z, a)) / 2, says_wrong=says)


def complex_parameters_with_a_mistake_that_has_no_name():
    def wrong(z, a):
        right = distance_grad(z, a)
        return right.real * jnp.array([2.0, 1.0, 1.0]) + 1j * right.imag * jnp.array([1.0, 3.0, 1.0])

    says = "params is wrong; no single mistake that is known explains its real and its imaginary part."
    return Form(distance, distance_grad, (Z, A), {}, wrong, says_wrong=says)


def complex_parameters_with_a_factor():
    return Form(distance, distance_grad, (Z, A), {}, lambda z, a: 2 * distance_grad(z, a), says_wrong="2 times")


def complex_arguments():
    def loss(w, a):
        return jnp.sum(jnp.abs(a @ w) ** 2)

    return Form(loss, lambda w, a: 2 * jnp.real(a.conj().T @ (a @ w)), (W, A))


def a_fourier_transform_inside():
    weights = jnp.arange(4.0)

    def loss(x):
        return jnp.sum(weights * jnp.abs(jnp.fft.fft(x)) ** 2)

    def grad(x):
        return 2 * jnp.real(jnp.fft.fft(weights * jnp.conj(jnp.fft.fft(x))))

    return Form(loss, grad, (jnp.array([0.3, -0.8, 0.5, 1.0]),))


def a_python_complex():
    return Form(lambda z: jnp.abs(z - 1) ** 2, lambda z: 2 * jnp.conj(z - 1), (0.3 + 0.5j,))


# Other libraries.


def numpy_functions():
    def loss(p, x):
        return np.sum(np.tanh(np.asarray(x) @ p["w"] + p["b"]))

    def grad(p, x):
        slope = 1 - np.tanh(np.asarray(x) @ p["w"] + p["b"]) ** 2
        return {"w": x.T @ slope, "b": slope.sum()}

    return Form(loss, grad, ({"w": np.asarray(W, np.float64), "b": np.array(0.1)}, X.astype(float)))


def numpy_functions_with_float32_and_a_python_float():
    return Form(lambda w, s: float(s * np.dot(w, w)), lambda w, s: 2 * s * w, (np.asarray(W), 0.5))


def a_numpy_gradient_of_a_jax_loss():
    def grad(w, x, y):
        w, x, y = (np.array(a) for a in (w, x, y))
        return (2 / len(y) * x.T @ (x @ w - y)).astype(w.dtype)

    return Form(squares, grad, (W, X, Y))


def a_gradient_that_needs_jax_arrays_and_numbers():
    def grad(w, x, y):
        total = jnp.zeros_like(w)
        for i in range(len(w)):
            if float(w[i]) != 0:
                total = total.at[i].set(squares_grad(w, x, y)[i])
        return total

    return Form(squares, grad, (W, jnp.asarray(X), jnp.asarray(Y)))


def autograd_functions():
    anp, autograd = importlib.import_module("autograd.numpy"), importlib.import_module("autograd")

    def loss(p, x):
        return anp.sum(anp.tanh(anp.dot(x, p["w"])) ** 2)

    return Form(loss, autograd.grad(loss), ({"w": np.asarray(W, float)}, X.astype(float)))


def autograd_functions_of_complex_numbers():
    anp, autograd = importlib.import_module("autograd.numpy"), importlib.import_module("autograd")

    def loss(z):
        return anp.sum(anp.abs(anp.dot(np.asarray(A), z) - 1) ** 2)

    return Form(loss, autograd.grad(loss), (np.asarray(Z, complex),))


def torch_tensors():
    torch = importlib.import_module("torch")
    x = torch.tensor(X, dtype=torch.float64)

    def loss(w, x):
        return torch.sum(torch.tanh(x @ w) ** 2)

    def grad(w, x):
        w = w.detach().clone().requires_grad_()
        loss(w, x).backward()
        return w.grad

    return Form(loss, grad, (torch.tensor(W.tolist(), dtype=torch.float64), x), says="reverse mode of torch")


def torch_tensors_in_float32_that_track_gradients():
    torch = importlib.import_module("torch")
    x = torch.tensor(X)

    def loss(p):
        return torch.sum(torch.tanh(x @ p["w"]) ** 2)  # x is float32 whatever w is

    def grad(p):
        return dict(zip(p, torch.autograd.grad(loss(p), list(p.values())), strict=True))

    params = {"w": torch.tensor(W.tolist(), requires_grad=True)}
    return Form(loss, grad, (params,), says="`loss` and `grad` cannot be evaluated in float64 (RuntimeError")


def torch_function_with_a_rule():
    torch = importlib.import_module("torch")

    def square(factor):
        class Square(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x):
                ctx.save_for_backward(x)
                return x**2

            @staticmethod
            def backward(ctx, g):
                return factor * ctx.saved_tensors[0] * g

        return Square.apply

    def pair(factor):
        def loss(w):
            return torch.sum(torch.sin(square(factor)(w)))

        return loss, lambda w: torch.autograd.grad(loss(w), w)[0]

    loss, grad = pair(2.0)
    params = torch.tensor(W.tolist(), dtype=torch.float64, requires_grad=True)
    return Form(loss, grad, (params,), {}, pair(1.0)[1])


def torch_tensors_of_complex_numbers():
    torch = importlib.import_module("torch")
    a = torch.tensor(np.asarray(A, complex))

    def loss(z):
        return torch.sum(torch.abs(a @ z - 1) ** 2)

    def grad(z):
        z = z.detach().clone().requires_grad_()
        loss(z).backward()
        return z.grad

    says = "the gradient of PyTorch is df/dx + i df/dy"
    params = torch.tensor(np.asarray(Z, complex))
    return Form(loss, grad, (params,), {}, lambda z: grad(z).conj(), says_wrong=says)


def torch_bridged_by_hand():
    torch = importlib.import_module("torch")

    def tensor(w, *, track=False):
        return torch.tensor(np.array(w), requires_grad=track)

    def value(w):
        return torch.sum(torch.sin(w) ** 2)

    def loss(w):
        return value(tensor(w)).item()

    def grad(w):
        w = tensor(w, track=True)
        value(w).backward()
        return w.grad.numpy()

    return Form(loss, grad, (np.asarray(W, float),))


def rows():
    """The functions of this module that take nothing, in order."""
    functions = [value for value in globals().values() if isinstance(value, types.FunctionType)]
    own = [value for value in functions if value.__module__ == __name__ and not value.__code__.co_argcount]
    return [value for value in own if value is not rows]


FORMS = rows()
SOME = [row for row in FORMS[::3] if row is not an_ode_solver]  # a solver compiles a loop in a loop


@functools.cache
def form_of(row):
    try:
        return row()
    except ImportError as error:
        pytest.skip(f"not here: {error.name}")


@pytest.mark.parametrize("row", quick(FORMS, SOME), ids=[row.__name__ for row in FORMS])
def test_a_right_gradient_is_right_in_every_form(row):
    form = form_of(row)
    report = check_gradient(form.loss, form.grad, *form.arguments, **form.options)
    assert report.ok, str(report)
    assert form.says in str(report)
    if "cannot be evaluated in float64" not in str(report) and "values of the loss only" not in report.reference:
        assert max(leaf.could_see for leaf in report.leaves) < 1e-5
    again = check_gradient(form.loss, form.grad, *form.arguments, **form.options)
    assert str(again) == str(report)


@pytest.mark.parametrize("row", quick(FORMS, SOME), ids=[row.__name__ for row in FORMS])
def test_a_wrong_gradient_is_wrong_in_every_form(row):
    form = form_of(row)
    search = {} if form.says_wrong else {"seconds": 0}  # only whether it is wrong
    report = check_gradient(form.loss, form.wrong or off(form.grad), *form.arguments, **search, **form.options)
    assert not report.ok, str(report)
    assert form.says_wrong in str(report)
    assert not {finding.kind for finding in report.findings} & {Kind.RAISED, Kind.RANDOM}, str(report)
