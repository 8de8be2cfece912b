"""How times grow with the size of a run."""

import functools
from typing import Any

import jax.numpy as jnp
import numpy as np

import jaxgd
from experiments.benchmarks.measure import OURS, Row, interleaved
from experiments.benchmarks.sizes import make_rows, repeats, zeros
from jaxgd.descent.fast import choose


def growth(scale: str) -> list[Row]:
    """Ten times the rows, the inputs, the steps, the lanes: the slope in log-log."""
    problem = jaxgd.problems.sigmoid_neuron()
    base = {"rows": 100_000, "inputs": 50, "steps": 20, "lanes": 4}
    if scale == "smoke":
        base = {"rows": 1000, "inputs": 10, "steps": 3, "lanes": 2}
    found = []
    for axis in base:
        sizes = [base, base | {axis: 10 * base[axis]}]
        jobs: dict[str, Any] = {}
        for name, size in zip(("small", OURS), sizes, strict=True):
            batch = make_rows(size["rows"], size["inputs"])
            options: dict[str, Any] = {"num_steps": size["steps"], "record": ()}
            if axis == "lanes":
                over = {"learning_rate": jnp.linspace(0.1, 0.2, size["lanes"])}
                jobs[name] = (functools.partial(jaxgd.sweep, problem, zeros(batch), batch, over=over, **options), 1)
            else:
                plan = choose.plan(problem, batch, num_steps=size["steps"], evaluation="tiled")
                run = functools.partial(jaxgd.descend, plan.problem, zeros(batch), plan.batch, **options)
                jobs[name] = (functools.partial(run, learning_rate=0.1), 1)
        seconds = interleaved(jobs, repeats(scale))
        slope = float(np.log10(np.median(seconds[OURS]) / np.median(seconds["small"])))
        limit = 1.0 if axis == "lanes" else 1.05
        judged = ((f"slope {slope:.2f}", slope <= limit),)
        found.append(Row("growth, log-log", f"10 x {axis}", "run", seconds, None, judged))
    return found
