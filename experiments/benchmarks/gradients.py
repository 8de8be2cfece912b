"""Gradients by hand beside reverse mode."""

import dataclasses
import functools

import jax

import jaxgd
from experiments.benchmarks.measure import OURS, Row, interleaved, on_one_core
from experiments.benchmarks.sizes import repeats


def gradients(scale: str) -> list[Row]:
    """Every system by its hand gradient and by reverse mode, in the same loop: the median system and the slowest."""
    steps = 10 if scale == "smoke" else 3000
    table = jaxgd.problems.ALL_PROBLEMS[:3] if scale == "smoke" else jaxgd.problems.ALL_PROBLEMS
    found = []
    for problem, make_batch in table:
        batch = make_batch(jax.random.key(0))
        assert problem.init is not None
        params = problem.init(jax.random.key(1), batch)
        both = {OURS: problem, "jax.grad": problem._replace(name="reverse", grad=jax.grad(problem.loss))}
        jobs = {
            name: (
                functools.partial(
                    jaxgd.descend, which, params, batch, learning_rate=1e-4, num_steps=steps, record=("loss",)
                ),
                steps,
            )
            for name, which in both.items()
        }
        with on_one_core():
            seconds = interleaved(jobs, repeats(scale, 7))
        found.append(Row("hand gradient", problem.name, "step", seconds, "jax.grad").reaching(1.05))
    found.sort(key=Row.over_limit)
    chosen = {"median": found[len(found) // 2], "slowest": found[-1]}
    return [dataclasses.replace(row, size=f"{what} system, {row.size}") for what, row in chosen.items()]
