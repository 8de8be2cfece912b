"""Steps of one row."""

import functools
from typing import Any

import jax

import jaxgd
from experiments.benchmarks import peers
from experiments.benchmarks.measure import OURS, Row, measured
from experiments.benchmarks.sizes import make_rows, repeats, shape_of, zeros


def stochastic(scale: str) -> list[Row]:
    """Five shuffled epochs, a row a step, shuffling included; the peer's first; on a GPU in blocks, beside the loop."""
    found = []
    problem = jaxgd.problems.linear_regression()
    for shape in ((500, 5),) if scale == "smoke" else ((100_000, 20), (100_000, 200)):
        batch = make_rows(*shape)
        run = functools.partial(
            jaxgd.descend, learning_rate=1e-4, num_steps=5 * shape[0], batch_size=1, key=jax.random.key(0), record=()
        )
        jobs: dict[str, Any] = {OURS: (functools.partial(run, problem, zeros(batch), batch), 5 * shape[0])}
        if scale != "cpu":
            jobs["row by row"] = (functools.partial(run, problem, zeros(batch), batch, fast=False), 5 * shape[0])
        if scale != "gpu":
            jobs["scikit-learn"] = (peers.scikit_learn_epoch(batch, 1e-4), shape[0])
        row = measured("one row a step, shuffled", shape_of(batch), "row", jobs, repeats(scale))
        found.append(row.reaching(**{"scikit-learn": 2, "row": 50}))
    return found
