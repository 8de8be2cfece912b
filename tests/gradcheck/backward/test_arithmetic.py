"""Every operation of the NumPy tables against JAX: its value, and the product of cotangents with its derivative."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgd.gradcheck.backward.arithmetic import UNARY, VALUES
from jaxgd.gradcheck.backward.pulls import PULLS
from jaxgd.gradcheck.backward.record import record
from jaxgd.gradcheck.backward.sweep import backward, gradient, leaves

RNG = np.random.default_rng(0)
x, y = RNG.uniform(0.2, 0.9, 5), RNG.uniform(0.3, 2.0, 5)
A, B = RNG.normal(size=(3, 3)) + 2 * np.eye(3), RNG.normal(size=(3, 3))
T1, T2 = RNG.normal(size=(2, 3, 4)), RNG.normal(size=(4, 5, 2))
one = jax.lax

FUNCTIONS = {
    **{name: (lambda a, name=name: getattr(one, name)(a), (x,)) for name in (
        "neg", "exp", "exp2", "expm1", "log", "log1p", "sqrt", "rsqrt", "square", "sin", "cos", "tan", "sinh", "cosh",
        "tanh", "atan", "logistic", "erf", "erfc", "lgamma", "abs", "sign", "floor", "ceil",
        "asin", "acos", "asinh", "atanh", "cbrt", "digamma")},
    "acosh": (lambda a: one.acosh(a + 1), (x,)),
    "negative abs": (lambda a: one.abs(a - 0.5), (x,)),
    "cube": (lambda a: a**3, (x,)),
    "inverse square": (lambda a: a**-2, (x,)),
    "copy": (lambda a: one.optimization_barrier(jnp.array(a, copy=True)), (x,)),
    "stop_gradient": (lambda a: a * one.stop_gradient(a), (x,)),
    **{name: (lambda a, b, name=name: getattr(one, name)(a, b), (x, y)) for name in (
        "add", "sub", "mul", "div", "max", "min", "pow", "rem")},
    "scalar times array": (lambda a, b: a[0] * b, (x, y)),
    "column times matrix": (lambda a, b: a[:3, None] * b, (x, A)),
    "negative remainder": (lambda a, b: one.rem(-b, a), (x, y)),
    "comparisons": (lambda a, b: jnp.where((a < b) & (a <= b) | (b > 1) | (b >= 1.5), a, b), (x, y)),
    "equality": (lambda a, b: jnp.where((a == b) | (a != b), a, b), (x, y)),
    "where": (lambda a, b: jnp.where(b > 1, a, b * a), (x, y)),
    "three cases": (lambda a, b: one.select_n(np.array([0, 1, 2, 1, 0]), a, b, a * b), (x, y)),
    "float32 inside": (lambda a: a.astype(np.float32).astype(np.float64) ** 2, (x,)),
    "reshape": (lambda a: a.reshape(9), (A,)),
    "squeeze": (lambda a: jnp.squeeze(a[None], 0), (A,)),
    "expand_dims": (lambda a: one.expand_dims(a, (1,)), (A,)),
    "transpose": (lambda a: jnp.transpose(a, (2, 0, 1)), (T1,)),
    "rev": (lambda a: one.rev(a, (1,)), (A,)),
    "concatenate": (lambda a, b: jnp.concatenate([a, 2 * b, a], 1), (A, B)),
    "slice": (lambda a: one.slice(a, (0, 1), (3, 3), (2, 1)), (A,)),
    "sum": (lambda a: a.sum((0, 2)), (T1,)),
    "max over an axis": (lambda a: a.max(1), (T1,)),
    "min over an axis": (lambda a: a.min((0, 1)), (T1,)),
    "ties": (lambda a: (jnp.round(a)).max(0) * a.sum(0), (A,)),
    "broadcast": (lambda a: jnp.broadcast_to(a[:, :1], (4, 3, 5)), (A,)),
    "iota": (lambda a: a * one.iota(np.float64, 5), (x,)),
    "matrix product": (lambda a, b: a @ b, (A, B)),
    "matrix times vector": (lambda a, b: b @ a[0], (A, B)),
    "contraction": (lambda a, b: jnp.einsum("bij,jkb->bik", a, b), (T1, T2)),
    "contraction of two axes": (lambda a, b: jnp.einsum("bij,jkb->ik", a, b), (T1, T2)),
    "stack": (lambda a, b: jnp.stack([a, b, a], 1), (x, y)),
    "scan": (lambda a, b: jax.lax.scan(lambda h, v: (jnp.tanh(h * v), h + v), a[0], b)[1], (x, y)),
    "scan, reverse": (lambda a, b: jax.lax.scan(lambda h, v: (h * v, h), a[0], b, reverse=True)[1], (x, y)),
    "gather": (lambda a: a[np.array([2, 0, 2])], (A,)),
    "lower solve": (lambda a, b: jax.scipy.linalg.solve_triangular(a, b, lower=True), (A, B)),
    "upper solve, transposed": (lambda a, b: jax.scipy.linalg.solve_triangular(a, b, trans=1), (A, B)),
    "unit diagonal": (lambda a, b: jax.scipy.linalg.solve_triangular(a, b, lower=True, unit_diagonal=True), (A, B)),
    "solve from the right": (lambda a, b: one.linalg.triangular_solve(a, b, left_side=False, lower=True), (A, B)),
    "inverse": (jnp.linalg.inv, (A,)),
    "cholesky": (lambda a: jnp.linalg.cholesky(a @ a.T + jnp.eye(3)), (A,)),
    "complex": (lambda a: jnp.abs(jnp.exp(1j * a) + a**2), (x,)),
    "cond": (lambda a: jax.lax.cond(a[0] > 0, jnp.sin, jnp.cos, a), (x,)),
    "checkpoint": (jax.checkpoint(lambda a: jnp.sin(a) ** 2), (x,)),
    "relu": (jax.nn.relu, (x - 0.5,)),
    "switch": (lambda a: jax.lax.switch(1, [jnp.sin, jnp.tanh], a), (x,)),
}  # fmt: skip


@pytest.fixture(autouse=True)
def as_users_have_it():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.mark.parametrize("name", FUNCTIONS)
def test_values_and_cotangents_are_those_of_jax(name):
    function, args = FUNCTIONS[name]
    seed = RNG.normal(size=jax.eval_shape(function, *args).shape)

    def loss(*args):
        return jnp.sum(seed * function(*args))

    tape = record(jax.make_jaxpr(loss)(*args), args, [True] * len(args))
    value, right = jax.jit(jax.value_and_grad(loss, argnums=range(len(args))))(*args)
    np.testing.assert_allclose(tape.values[tape.outs[0]], value, rtol=1e-12)
    found = [rows[0] for rows in leaves(backward(tape), tape, len(args))]
    for mine, theirs in zip(found, right, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-9, atol=1e-12)


def test_every_operation_of_the_tables_is_compared():
    names = set()
    for function, args in FUNCTIONS.values():
        tape = record(jax.make_jaxpr(lambda *a, f=function: jnp.sum(f(*a)))(*args), args, [True] * len(args))
        names |= {step.name for step in tape.steps}
    # Names of older and of later versions of JAX for the same operations, and what autodiff itself inserts.
    others = {"copy", "copy_p", "add_any", "stop_gradient", "expand_dims", "integer_pow", "square", "eq", "ne", "index"}
    assert {*UNARY, *VALUES, *PULLS} - names <= others


def test_a_while_loop_is_taken_apart():
    def loss(a):
        return jax.lax.while_loop(lambda s: s[1] < 10, lambda s: (s[0] * a, s[1] + s[0] * a), (a, a))[1]

    a = np.float64(1.5)
    powers = np.arange(1, 5)
    assert np.sum(a**powers) >= 10 > np.sum(a ** powers[:-1])
    (found,) = gradient(jax.make_jaxpr(loss)(a), [a], [True])
    np.testing.assert_allclose(found, np.sum(powers * a ** (powers - 1)), rtol=1e-12)


def test_rules_and_stopped_gradients_are_looked_through():
    @jax.custom_vjp
    def sine(a):
        return jnp.sin(a)

    sine.defvjp(lambda a: (jnp.sin(a), a), lambda a, g: (5 * g,))
    program = jax.make_jaxpr(lambda a: jnp.sum(sine(a) * jax.lax.stop_gradient(a)))(x)
    (declared,) = gradient(program, [x], [True])
    (through,) = gradient(program, [x], [True], through=True)
    np.testing.assert_allclose(declared, 5 * x)
    np.testing.assert_allclose(through, np.cos(x) * x + np.sin(x), rtol=1e-12)
