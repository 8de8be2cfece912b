"""Steps on all rows, as they stand and compressed to their statistics."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

import jaxgd
from experiments.benchmarks import peers
from experiments.benchmarks.measure import OURS, Row, measured
from experiments.benchmarks.sizes import make_rows, repeats, shape_of, zeros
from jaxgd.descent.fast import choose
from jaxgd.types import Batch


def full_batch(scale: str) -> list[Row]:
    """Steps that are bound by reading the inputs: the limit is one read of them."""
    found = []
    shapes = {
        "smoke": ((2000, 10), (500, 40), (4000, 2)),
        "cpu": ((1_000_000, 100), (100_000, 1000), (4_000_000, 16)),
        "gpu": ((25_000_000, 100), (2_500_000, 1000), (150_000_000, 16)),
    }
    steps, few = (3, 2) if scale == "smoke" else (40, 8)
    for shape in shapes[scale]:
        for name in ("linear_regression", "sigmoid_neuron", "logistic_regression"):
            problem = getattr(jaxgd.problems, name)()
            batch = make_rows(*shape, labels=name == "logistic_regression")
            params = zeros(batch)
            one_device = "tiled" if scale != "gpu" else "plain"
            plan = choose.plan(
                problem, batch, num_steps=steps, evaluation="sharded" if len(jax.devices()) > 1 else one_device
            )
            run = functools.partial(jaxgd.descend, learning_rate=0.1, num_steps=steps, record=("loss",))
            jobs: dict[str, Any] = {
                OURS: (functools.partial(run, plan.problem, params, plan.batch), steps),
                "one read": (_one_read(batch), 1),
                "optax": (peers.optax_scan(problem, params, batch, 0.1, few), few),
            }
            if peers.installed("torch"):
                jobs["torch"] = (_torch_job(name, batch, few), few)
            if name == "linear_regression" and scale != "gpu":
                jobs["numpy"] = (peers.numpy_descent(batch, 0.1, few), few)
            if peers.installed("optimistix") and name == "sigmoid_neuron":
                jobs["optimistix"] = (peers.optimistix_descent(problem, params, batch, 0.1, few), few)
            row = measured(
                *(f"full batch, {name}", shape_of(batch), "step", jobs, repeats(scale), "one read"),
                amount=(batch.inputs.nbytes, "B"),
            )
            found.append(row.reaching(1.25 if scale == "gpu" else 1.5, optax=3, torch=5))
    return found


def _one_read(batch: Batch) -> Any:
    return functools.partial(jax.jit(jnp.sum), batch.inputs)


def _torch_job(name: str, batch: Batch, num_steps: int) -> Any:
    from torch import nn, sigmoid

    if name == "linear_regression":
        return peers.torch_descent(lambda z: z, nn.functional.mse_loss, batch, 0.1, num_steps)
    if name == "sigmoid_neuron":
        half = nn.functional.mse_loss
        return peers.torch_descent(sigmoid, lambda f, y: half(f, y) / 2, batch, 0.1, num_steps)
    cross_entropy = nn.functional.binary_cross_entropy_with_logits
    return peers.torch_descent(lambda z: z, lambda z, y: cross_entropy(z, y.float()), batch, 0.1, num_steps)


def least_squares(scale: str) -> list[Row]:
    """A thousand steps of least squares, compressing included."""
    found = []
    problem = jaxgd.problems.linear_regression()
    sizes = (((2000, 10), 2),) if scale == "smoke" else (((100_000, 100), 50), ((1_000_000, 100), 6))
    for shape, few in sizes:
        batch = make_rows(*shape)
        params, steps = zeros(batch), 1000

        def compressed(num_steps: int, record: str, batch: Batch = batch, params: Any = params) -> Any:
            small, statistics = jaxgd.compress(problem, batch)
            options: dict[str, Any] = {"num_steps": num_steps, "record": (record,), "learning_rate": 0.1}
            return jaxgd.descend(small, params, statistics, **options)

        run = functools.partial(compressed, steps, "loss")
        jobs: dict[str, Any] = {OURS: (run, steps), "optax": (peers.optax_scan(problem, params, batch, 0.1, few), few)}
        if scale != "gpu":
            jobs["numpy"] = (peers.numpy_descent(batch, 0.1, few), few)
        if peers.installed("torch"):
            jobs["torch"] = (_torch_job("linear_regression", batch, few), few)
        direct = jaxgd.descend(problem, params, batch, learning_rate=0.1, num_steps=few, record=("params",))
        gap = _gap(compressed(few, "params").history.params, direct.history.params)
        row = measured("least squares, 1000 steps", shape_of(batch), "step", jobs, repeats(scale)).reaching(optax=100)
        found.append(dataclasses.replace(row, reach=(*row.reach, ("iterates within 1e-5", gap <= 1e-5))))
    return found


def _gap(found: Any, expected: Any) -> float:
    """The largest difference of parameters at any step, of the largest parameter."""
    largest = max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(expected))
    differences = jax.tree.map(lambda a, b: float(jnp.max(jnp.abs(a - b))), found, expected)
    return max(jax.tree.leaves(differences)) / largest
