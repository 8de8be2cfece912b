"""After a check the caller's own functions behave as if it had not happened."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common import quick

import jaxgd
from jaxgd.gradcheck import check_gradient

# A loss that closes over a NumPy array in every way in which JAX keeps a trace: directly, in an inner jit, in the body
# of a scan, in a branch, and in a function with a rule of its own.
CLOSURES = {
    "int64": lambda: np.arange(8),
    "float64": lambda: np.linspace(0.1, 1, 8),
    "float32": lambda: np.linspace(0.1, 1, 8, dtype=np.float32),
    "bool": lambda: np.arange(8) % 3 == 0,
    "structured": lambda: np.array([(i, i / 7) for i in range(8)], [("index", np.int64), ("value", np.float64)]),
}


def make_loss(make_array):
    array = make_array()

    def held():
        return array["value"] if array.dtype.names else array

    inner = jax.jit(lambda w: jnp.sin(w * held()))
    square = jax.custom_vjp(lambda w: (w * held()) ** 2)
    square.defvjp(lambda w: (square(w), w), lambda w, ct: ((ct * 2 * w * held() * held()).astype(w.dtype),))

    def loss(w, batch=None):
        scanned, _ = jax.lax.scan(lambda c, _: ((c + w * held()).astype(w.dtype), None), w, None, length=2)
        branch = jax.lax.cond(w[0] > 0, lambda: jnp.sum(w * held()), lambda: jnp.sum(w).astype((w * held()).dtype))
        return jnp.sum(w * held()) + jnp.sum(inner(w)) + jnp.sum(scanned) + branch + jnp.sum(square(w))

    return loss


def uses(loss, w):
    problem = jaxgd.Problem(name="mine", loss=loss, grad=jax.grad(loss))
    return {
        "eager": loss(w),
        "jit": jax.jit(loss)(w),
        "grad": jax.grad(loss)(w),
        "vmap": jax.vmap(loss)(jnp.stack([w, w])),
        "descend": jaxgd.descend(problem, w, None, learning_rate=1e-3, num_steps=3).params,
    }


@pytest.mark.parametrize("x64", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("closure", quick(CLOSURES, ["int64"]))
def test_what_a_loss_gives_is_the_same_bit_for_bit_before_and_after(closure, x64):
    with jax.enable_x64(x64), jax.numpy_dtype_promotion("standard"):
        w = jnp.linspace(0.1, 1, 8)
        expected = uses(make_loss(CLOSURES[closure]), w)
        loss = make_loss(CLOSURES[closure])
        check(loss, w)
        for name, value in uses(loss, w).items():
            assert value.dtype == expected[name].dtype, name
            np.testing.assert_array_equal(value, expected[name], err_msg=name)
        check(loss, w)  # again, with the caller's own traces in JAX's caches


def check(loss, w):
    report = check_gradient(loss, jax.grad(loss), w)
    assert report.ok, str(report)
    assert max(leaf.could_see for leaf in report.leaves) < 1e-10  # compared in float64, whatever the closure holds


def test_a_wrong_gradient_leaves_no_trace_either():
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        w = jnp.linspace(0.1, 1, 8)
        array = np.arange(8)
        assert not check_gradient(lambda w: jnp.sum(w * array), lambda w: jnp.where(array > 3, 1.0, array), w).ok
        np.testing.assert_array_equal(jnp.multiply(w, array), w * jnp.arange(8))


def test_the_settings_of_the_process_are_restored():
    names = ("jax_enable_x64", "jax_numpy_dtype_promotion", "jax_debug_nans", "jax_debug_infs")
    before = [getattr(jax.config, name) for name in names], np.geterr(), jax._src.dtypes.canonicalize_value
    check_gradient(lambda w: jnp.sum(w**2), lambda w: 2 * w, np.ones(3))
    with pytest.raises(ValueError, match="no such thing"):
        check_gradient(raises, lambda w: 2 * w, np.ones(3))
    assert ([getattr(jax.config, name) for name in names], np.geterr(), jax._src.dtypes.canonicalize_value) == before


def raises(w):
    raise RuntimeError("no such thing")


def test_checks_in_several_threads_leave_each_other_alone():
    found = []

    def run(x64):
        with jax.enable_x64(x64), jax.numpy_dtype_promotion("standard"):
            loss = make_loss(CLOSURES["float64"])
            found.append(check_gradient(loss, jax.grad(loss), jnp.linspace(0.1, 1, 8)).ok)

    before = jax._src.dtypes.canonicalize_value
    threads = [threading.Thread(target=run, args=(i % 2 == 0,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 4
    assert jax._src.dtypes.canonicalize_value is before
