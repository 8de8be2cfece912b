"""Bounds on the curvature, and checks of gradients."""

import dataclasses
import functools
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxgd
from experiments.benchmarks.measure import OURS, Row, interleaved, measured
from experiments.benchmarks.sizes import make_rows, repeats, shape_of


def check(scale: str) -> list[Row]:
    """A check of a network of ten million parameters, in gradients in float64, the arithmetic of the check.

    And the first check of new small networks, whose every program is compiled: right ones, and ones with a wrong leaf.
    """
    width, num_rows = (50, 8) if scale == "smoke" else (3162, 256)
    rng = np.random.default_rng(0)
    params = {"w": rng.normal(size=(width, width)) / width**0.5, "v": rng.normal(size=width) / width**0.5}
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)
    inputs = jnp.asarray(rng.normal(size=(num_rows, width)), jnp.float32)
    targets = jnp.asarray(rng.normal(size=num_rows), jnp.float32)

    def loss(params: Any, x: Any, y: Any) -> Any:
        return jnp.mean((jnp.tanh(x @ params["w"]) @ params["v"] - y) ** 2)

    def grad(params: Any, x: Any, y: Any) -> Any:
        hidden = jnp.tanh(x @ params["w"])
        by_outputs = 2 * (hidden @ params["v"] - y) / y.shape[0]
        by_hidden = jnp.outer(by_outputs, params["v"]) * (1 - hidden**2)
        return {"w": x.T @ by_hidden, "v": by_outputs @ hidden}

    with jax.enable_x64(True):
        wide = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf, np.float64)), (params, inputs, targets))
    gradient = jax.jit(grad)

    def one_gradient() -> Any:
        with jax.enable_x64(True):
            return jax.block_until_ready(gradient(*wide))

    jobs: dict[str, Any] = {
        OURS: (lambda: jaxgd.assert_gradient(loss, grad, params, inputs, targets), 1),
        "gradient": (one_gradient, 1),
    }
    size = f"{width**2 + width:,} parameters, {num_rows} rows"
    large = Row("gradient check", size, "run", interleaved(jobs, repeats(scale)), "gradient").reaching(50)
    return [large, *(_first_checks(factor, scale) for factor in (1.0, 2.0))]


def _first_checks(factor: float, scale: str) -> Row:
    """Checks of networks of different sizes, each the first of its functions; one leaf is `factor` times too large."""
    seconds = []
    for hidden in range(3, 5 if scale == "smoke" else 14):
        rng = np.random.default_rng(hidden)
        params = {"w": rng.normal(size=(4, hidden)), "b": rng.normal(size=hidden), "v": rng.normal(size=hidden)}
        x, y = rng.normal(size=(6, 4)), rng.normal(size=6)

        def loss(p: Any, x: Any, y: Any) -> Any:
            return jnp.mean((jnp.tanh(x @ p["w"] + p["b"]) @ p["v"] - y) ** 2)

        def grad(p: Any, x: Any, y: Any) -> Any:
            h = jnp.tanh(x @ p["w"] + p["b"])
            r = 2 * (h @ p["v"] - y) / len(y)
            by_sum = jnp.outer(r, p["v"]) * (1 - h**2)
            return {"w": x.T @ by_sum, "b": factor * by_sum.sum(0), "v": h.T @ r}

        with jax.enable_x64(True):
            started = time.perf_counter()
            report = jaxgd.check_gradient(loss, grad, params, x, y)
            seconds.append(time.perf_counter() - started)
        assert report.ok == (factor == 1)
    at_most = 0.5 if factor == 1 else 1.5
    median = float(np.median(seconds))
    words = f"{median:.2f} s, at most {at_most} s"
    name = f"first check of a small {'right' if factor == 1 else 'wrong'} pair"
    return Row("gradient check", name, "run", {OURS: seconds}, None, ((words, median <= at_most),))


def smooth(scale: str) -> list[Row]:
    """The bound on the curvature over all parameters, in three reads of the inputs: the limit is their Gram matrix."""
    shape = (2000, 10) if scale == "smoke" else (1_000_000, 100)
    problem, batch = jaxgd.problems.logistic_regression(), make_rows(*shape, labels=True)
    bound = jax.jit(lambda rows: jaxgd.theory.smoothness(problem, rows))
    costs: Any = bound.lower(batch).compile().cost_analysis()
    reads = costs["bytes accessed"] / batch.inputs.nbytes
    jobs: dict[str, Any] = {
        OURS: (functools.partial(bound, batch), 1),
        "Gram matrix": (functools.partial(jax.jit(lambda x: x.T @ x), batch.inputs), 1),
    }
    row = measured("smoothness", shape_of(batch), "run", jobs, repeats(scale), "Gram matrix").reaching(1.5)
    return [dataclasses.replace(row, reach=(*row.reach, ("3 reads of the inputs", reads <= 3.2)))]
