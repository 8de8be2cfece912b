"""Losses that jaxgd does not have, with mistakes in their derivations: caught, and named."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common import quick

from jaxgd.gradcheck import Kind, check_gradient

RNG = np.random.default_rng(0)


def draw(*shape):
    return RNG.normal(size=shape)


X, Y = draw(8, 3), draw(8)
cut = jax.lax.stop_gradient


@pytest.fixture(autouse=True)
def as_users_have_it():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def layer_norm(p, x, y, hold=lambda mean: mean):
    h = x @ p["W"]
    mean = hold(h.mean(-1, keepdims=True))
    variance = ((h - mean) ** 2).mean(-1, keepdims=True)
    z = (h - mean) / jnp.sqrt(variance + 1e-5) * p["g"] + p["b"]
    return jnp.mean((z.sum(-1) - y) ** 2)


def tied(p, x, hold=lambda weights: weights):
    h = jax.nn.sigmoid(x @ p["W"] + p["b"])
    return jnp.mean((h @ hold(p["W"]).T + p["c"] - x) ** 2)


@jax.custom_jvp
def tanh_with_wrong_rule(z):
    return jnp.tanh(z)


tanh_with_wrong_rule.defjvp(lambda p, t: (jnp.tanh(p[0]), (1 - jnp.tanh(p[0])) * t[0]))


def recurrent(p, x, y, hold=lambda h: h, tanh=jnp.tanh):
    h, loss = jnp.zeros(2), 0.0
    for t in range(3):
        h = tanh(p["W"] @ hold(h) + p["U"] @ x[t])
        loss += (h @ p["v"] - y[t]) ** 2
    return loss / 3


def poisson(p, x, y):
    eta = x @ p["w"] + p["b"]
    return jnp.mean(jnp.exp(eta) - y * eta)


def poisson_without_exp(p, x, y):
    r = (x @ p["w"] + p["b"] - y) / len(y)
    return {"w": r @ x, "b": jnp.sum(r)}


def factorisation(p, matrix, mask):
    return 0.5 * jnp.sum(mask * (p["A"] @ p["B"].T - matrix) ** 2)


def factorisation_without_mask(p, matrix, mask):
    error = p["A"] @ p["B"].T - matrix
    return {"A": error @ p["B"], "B": (mask * error).T @ p["A"]}


def convolution(p, x, y):
    h = jax.lax.conv_general_dilated(x, p["k"], (1, 1), "SAME")
    return jnp.mean((jnp.tanh(h + p["b"][None, :, None, None]).mean((1, 2, 3)) - y) ** 2)


def elastic_net(p, x, y):
    return jnp.mean((x @ p["w"] - y) ** 2) + 0.1 * jnp.sum(jnp.abs(p["w"])) + 0.05 * jnp.sum(p["w"] ** 2)


def elastic_net_without_signs(p, x, y):
    r = x @ p["w"] - y
    return {"w": 2 / len(y) * x.T @ r + 0.1 * p["w"]}


RECURRENT = {"W": draw(2, 2), "U": draw(2, 3), "v": draw(2)}
FACTORS = {"A": draw(6, 2), "B": draw(5, 2)}
CASES = {
    "layer norm": (layer_norm, {"W": draw(3, 5), "g": draw(5), "b": draw(5)}, X, Y),
    "tied weights": (tied, {"W": draw(3, 2), "b": draw(2), "c": draw(3)}, X),
    "recurrent": (recurrent, RECURRENT, draw(3, 3), draw(3)),
    "poisson": (poisson, {"w": draw(3), "b": draw()}, X, RNG.poisson(2.0, 8).astype(float)),
    "matrix factorisation": (factorisation, FACTORS, draw(6, 5), (RNG.uniform(size=(6, 5)) < 0.7) * 1.0),
    "convolution": (convolution, {"k": draw(2, 1, 3, 3), "b": draw(2)}, draw(4, 1, 5, 5), draw(4)),
    "elastic net": (elastic_net, {"w": draw(3)}, X, Y),
}


@pytest.mark.parametrize("name", quick(CASES, ["layer norm", "convolution"]))
@pytest.mark.parametrize("dtype", [np.float32, pytest.param(np.float64, marks=pytest.mark.slow)])
def test_right_gradients_pass(name, dtype):
    loss, *inputs = CASES[name]
    report = check_gradient(loss, jax.grad(loss), *jax.tree.map(lambda leaf: leaf.astype(dtype), inputs))
    assert report.ok, str(report)
    assert not report.findings


EVERY_STEP = jax.grad(lambda *a: recurrent(*a, tanh=tanh_with_wrong_rule))
"""A change made in every step, which is one change."""

MISTAKES = [
    ("layer norm", jax.grad(lambda *a: layer_norm(*a, hold=cut)), {"['W']"}, Kind.PATH),
    ("tied weights", jax.grad(lambda *a: tied(*a, hold=cut)), {"['W']"}, Kind.PATH),
    ("recurrent", jax.grad(lambda *a: recurrent(*a, hold=cut)), {"['W']", "['U']"}, Kind.PATH),
    ("recurrent", EVERY_STEP, {"['W']", "['U']"}, Kind.DERIVATIVE),
    ("poisson", poisson_without_exp, {"['w']", "['b']"}, Kind.DERIVATIVE),
    ("matrix factorisation", factorisation_without_mask, {"['A']"}, Kind.ARGUMENT),
    ("elastic net", elastic_net_without_signs, {"['w']"}, Kind.PENALTY),
]


@pytest.mark.parametrize(("name", "grad", "leaves", "kind"), MISTAKES, ids=[f"{m[0]}: {m[3]}" for m in MISTAKES])
def test_mistakes_are_named(name, grad, leaves, kind):
    loss, *inputs = CASES[name]
    report = check_gradient(loss, grad, *inputs)
    assert {finding.leaf for finding in report.findings} == leaves, str(report)
    assert {finding.kind for finding in report.findings} == {kind}, str(report)
    if grad is EVERY_STEP:
        assert "at its value f, is replaced by 1 - f, in each of its 3 occurrences" in str(report)
        assert "['U'], ['W'], each is the gradient with one mistake" in str(report)
