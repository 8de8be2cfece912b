"""Kernels: JAX's own of `jax.experimental.pallas.ops`, and kernels with rules of their own, interpreted on the CPU."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common import quick

from jaxgd.gradcheck import Kind, check_gradient

pallas = pytest.importorskip("jax.experimental.pallas")


@pytest.fixture(autouse=True)
def as_users_have_it():
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def tanh_kernel(x_ref, o_ref):
    o_ref[...] = jnp.tanh(x_ref[...])


def tanh_call(x):
    return pallas.pallas_call(tanh_kernel, out_shape=jax.ShapeDtypeStruct(x.shape, x.dtype), interpret=True)(x)


def tanh_with_rule(derivative):
    tanh = jax.custom_vjp(tanh_call)

    def backward(y, g):
        def kernel(y_ref, g_ref, o_ref):
            o_ref[...] = g_ref[...] * derivative(y_ref[...])

        shape = jax.ShapeDtypeStruct(y.shape, y.dtype)
        return (pallas.pallas_call(kernel, out_shape=shape, interpret=True)(y, g),)

    tanh.defvjp(lambda x: (tanh_call(x),) * 2, backward)
    return lambda x, c: jnp.sum(c * tanh(x))


X, C = normal(0, 4, 8), normal(1, 4, 8)
with_right_rule, with_wrong_rule = (tanh_with_rule(lambda y, power=power: 1 - y**power) for power in (2, 1))


def test_a_kernel_with_a_right_rule():
    report = check_gradient(with_right_rule, jax.grad(with_right_rule), X, C)
    assert report.ok, str(report)
    assert report.leaves[0].could_see < 1e-12


def test_a_wrong_hand_gradient_of_a_kernel_with_a_right_rule():
    report = check_gradient(with_right_rule, lambda x, c: c * (1 - jnp.tanh(x)), X, C)
    assert not report.ok


def test_a_mistake_in_the_body_of_a_kernel_is_named():
    """The body of the kernel is taken apart, so that the search sees its operations."""
    report = check_gradient(with_wrong_rule, jax.grad(with_wrong_rule), X, C, seconds=60)
    assert not report.ok
    assert Kind.RAISED not in {finding.kind for finding in report.findings}
    # Newer versions of JAX give the place where a kernel was first traced.
    assert re.search(
        r"the derivative of the tanh `(jnp.tanh\(x_ref\[...\]\)|tanh\(x\))` \(test_pallas.py:", str(report)
    )
    assert "at its value f, is replaced by 1 - f" in str(report)


def test_a_kernel_without_a_rule():
    def loss(x, c):
        return jnp.sum(c * tanh_call(x))

    def grad(x, c):
        return c * (1 - jnp.tanh(x) ** 2)

    assert check_gradient(loss, grad, X, C).ok
    assert not check_gradient(loss, lambda x, c: grad(x, c) * (1 + jnp.tanh(x)), X, C).ok


def test_a_kernel_whose_dtype_is_written_into_it():
    def scaled(x):
        def kernel(x_ref, o_ref):
            o_ref[...] = jnp.tanh(x_ref[...])

        return pallas.pallas_call(kernel, out_shape=jax.ShapeDtypeStruct(x.shape, jnp.float32), interpret=True)(x)

    def loss(x, c):
        return jnp.sum(c * jax.lax.mul(scaled(x), jax.lax.convert_element_type(x, jnp.float32)))

    def grad(x, c):
        return c * (jnp.tanh(x) + x * (1 - jnp.tanh(x) ** 2))

    assert check_gradient(loss, grad, X, C).ok
    assert not check_gradient(loss, lambda x, c: grad(x, c) * 1.001, X, C).ok


# Kernels that ship with JAX: right with their own rules, wrong if one leaf is off by a hundredth.


def layer_norm():
    ops = pytest.importorskip("jax.experimental.pallas.ops.gpu.layer_norm")

    def loss(p, c):
        return jnp.sum(c * ops.layer_norm(p["x"], p["w"], p["b"], interpret=True))

    return loss, {"x": normal(2, 2, 4, 8), "w": normal(3, 8), "b": normal(4, 8)}, normal(5, 2, 4, 8)


def rms_norm():
    ops = pytest.importorskip("jax.experimental.pallas.ops.gpu.rms_norm")

    def loss(p, c):
        return jnp.sum(c * ops.rms_norm(p["x"], p["w"], p["b"], interpret=True))

    return loss, {"x": normal(2, 2, 4, 8), "w": normal(3, 8), "b": normal(4, 8)}, normal(5, 2, 4, 8)


def softmax():
    ops = pytest.importorskip("jax.experimental.pallas.ops.gpu.softmax")
    return lambda x, c: jnp.sum(c * ops.softmax(x, interpret=True)), normal(6, 4, 8), normal(7, 4, 8)


def attention():
    ops = pytest.importorskip("jax.experimental.pallas.ops.gpu.attention")
    sizes = ops.BlockSizes(block_q=16, block_k=16, block_q_dkv=16, block_kv_dkv=16, block_q_dq=16, block_kv_dq=16)

    def loss(p, c):
        return jnp.sum(
            c * ops.mha(p["q"], p["k"], p["v"], segment_ids=None, block_sizes=sizes, causal=True, interpret=True)
        )

    return loss, {name: normal(i, 1, 32, 1, 16) for i, name in enumerate("qkv")}, normal(9, 1, 32, 1, 16)


@pytest.mark.parametrize("kernel", quick([layer_norm, rms_norm, softmax, attention], [softmax]))
def test_a_kernel_of_jax_itself(kernel):
    loss, params, c = kernel()
    try:
        jax.grad(loss)(params, c)
        rule = True
    except Exception:  # softmax has none
        rule = False

    def by_hand(params, c):
        if rule:
            return jax.grad(loss)(params, c)
        return jax.grad(lambda x: jnp.sum(c * jax.nn.softmax(x)))(params)

    def wrong(params, c):
        leaves, treedef = jax.tree.flatten(by_hand(params, c))
        return treedef.unflatten([leaves[0] * 1.01, *leaves[1:]])

    report = check_gradient(loss, by_hand, params, c)
    assert report.ok, str(report)
    if kernel is attention:
        assert "`loss` and `grad` cannot be evaluated in float64 (TypeError" in str(report)
        assert "reverse mode in float32" in report.reference
    report = check_gradient(loss, wrong, params, c, seconds=1)
    assert not report.ok
    assert [leaf.ok for leaf in report.leaves] == [False] + [True] * (len(report.leaves) - 1)
