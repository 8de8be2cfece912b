"""Sweeps: many runs at a time."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxgd
from experiments.benchmarks import peers
from experiments.benchmarks.measure import OURS, Row, measured
from experiments.benchmarks.sizes import make_rows, repeats, shape_of, zeros


def lanes(scale: str) -> list[Row]:
    """Sweeps of the sigmoid neuron: against the rate of matrix products, of the sigmoid, of moving the parameters."""
    return [_wide_sweep(scale), *(_small_sweep(scale, *shape) for shape in ((100, 4), (4, 1)))]


def _wide_sweep(scale: str) -> Row:
    problem = jaxgd.problems.sigmoid_neuron()
    shape, num_lanes, steps = {
        "smoke": ((500, 10), 8, 2),
        "cpu": ((100_000, 100), 256, 10),
        "gpu": ((1_000_000, 100), 1024, 10),
    }[scale]
    batch = make_rows(*shape)
    over = {"learning_rate": jnp.geomspace(0.01, 1.0, num_lanes)}
    square = jnp.ones(({"smoke": 200, "cpu": 2000, "gpu": 8000}[scale],) * 2)
    product = jax.jit(lambda a: a @ a)
    sweep = functools.partial(jaxgd.sweep, problem, zeros(batch), batch, over=over, num_steps=steps, record=())
    # Two products a step of inputs and lanes, and one for each of the three losses of start and end.
    products = (2 * steps + 3) * shape[0] * shape[1] * num_lanes
    jobs: dict[str, Any] = {
        OURS: (sweep, products / 1e9),
        "matrix product": (lambda: product(square), square.shape[0] ** 3 / 1e9),
        "vmap": (functools.partial(sweep, evaluation="plain"), products / 1e9),
    }
    size = f"{num_lanes} lanes, {shape_of(batch)}"
    row = measured("wide sweep", size, "1e9 products", jobs, repeats(scale), "matrix product", amount=(2e9, "FLOP"))
    return row.reaching(1 / 0.6)


def _small_sweep(scale: str, num_rows: int, num_inputs: int) -> Row:
    problem, batch = jaxgd.problems.sigmoid_neuron(), make_rows(num_rows, num_inputs)
    num_lanes, steps, few = {"smoke": (16, 3, 2), "cpu": (4096, 300, 20), "gpu": (1_000_000, 300, 20)}[scale]
    rates = jnp.geomspace(1e-3, 1.0, num_lanes)
    mesh = jax.sharding.Mesh(np.asarray(jax.devices()), ("lanes",))
    sweep = functools.partial(
        jaxgd.sweep, problem, zeros(batch), batch, over={"learning_rate": rates}, num_steps=steps, record=(), mesh=mesh
    )

    @jax.jit
    def sigmoids(grid: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, steps, lambda _, g: jax.nn.sigmoid(g), grid)

    @jax.jit
    def moves(params: Any) -> Any:
        return jax.lax.fori_loop(0, steps, lambda _, p: jax.tree.map(lambda leaf: leaf * 0.999, p), params)

    jobs: dict[str, Any] = {
        OURS: (sweep, num_lanes * steps),
        "bare vmap": (peers.bare_lanes(problem, zeros(batch), batch, rates, steps), num_lanes * steps),
    }
    if scale != "gpu":
        jobs["sigmoid"] = (functools.partial(sigmoids, jnp.ones((num_lanes, num_rows))), num_lanes * steps)
    if scale != "cpu":
        params = jax.tree.map(lambda leaf: jnp.ones((num_lanes, *leaf.shape)), zeros(batch))
        jobs["parameters moved"] = (functools.partial(moves, params), num_lanes * steps)
    if peers.installed("torch"):
        lanes = peers.torch_lanes(np.asarray(batch.inputs), np.asarray(batch.targets), np.asarray(rates), few)
        jobs["torch"] = (lanes, num_lanes * few)
    size = f"{num_lanes} lanes, {shape_of(batch)}"
    limit = "parameters moved" if scale == "gpu" else "sigmoid"
    return measured("small sweeps", size, "lane and step", jobs, repeats(scale), limit).reaching(2, torch=5)


def loops(scale: str) -> list[Row]:
    """4096 runs of 1000 steps in one program, beside loops in Python."""
    problem, batch = jaxgd.problems.sigmoid_neuron(), make_rows(100, 4)
    params = zeros(batch)
    num_lanes, steps = (64, 20) if scale == "smoke" else (4096, 1000)
    few_lanes, few_steps = (4, 10) if scale == "smoke" else (64, 500)
    rates = jnp.geomspace(1e-3, 1.0, num_lanes)
    optimizer = optax.sgd(0.1)

    @jax.jit
    def optax_step(params: Any, state: Any) -> tuple[Any, Any]:
        grads = jax.grad(problem.loss)(params, batch)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    def optax_loop() -> Any:
        moved, state = params, optimizer.init(params)
        for _ in range(few_steps):
            moved, state = optax_step(moved, state)
        return moved

    one = functools.partial(jaxgd.descend, problem, params, batch, num_steps=steps, record=())
    over = {"learning_rate": rates}
    jobs: dict[str, Any] = {
        OURS: (lambda: jaxgd.sweep(problem, params, batch, over=over, num_steps=steps, record=()), num_lanes * steps),
        "python around an optax step": (optax_loop, few_steps),
        "runs one by one": (lambda: [one(learning_rate=rate) for rate in rates[:few_lanes]], few_lanes * steps),
    }
    row = measured("sweep", f"{num_lanes} lanes, {shape_of(batch)}", "lane and step", jobs, repeats(scale))
    return [row.reaching(python=100, runs=8)]
