"""The first call in a process, compilation included: a fit beside a jitted optax scan, and fits with seven optimizers.

Every measurement is a process of its own, after its imports and a first array: `python -m experiments.benchmarks.first
fit` prints the seconds of each first call and the programs that were compiled.
"""

import functools
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

import jaxgd
from experiments.benchmarks import peers
from experiments.benchmarks.measure import OURS, Row

ROOT = Path(__file__).resolve().parents[2]

OPTIMIZERS = (optax.sgd, optax.adam, optax.adamw, optax.adagrad, optax.rmsprop, optax.lion, optax.nadam)


def first_call(scale: str) -> list[Row]:
    """5000 steps of least squares on 442 rows of 10 inputs, as many as the diabetes data have."""
    seconds: dict[str, list[float]] = {OURS: [], "optax scan": []}
    programs = 0
    rounds = 1 if scale == "smoke" else 5
    for i in range(rounds):
        for name, what in (("optax scan", "scan"), (OURS, "fit"))[:: 1 if i % 2 else -1]:
            found = _in_a_process(what)
            seconds[name] += found["seconds"]
            programs = found["programs"] if name == OURS else programs
    size = f"fit, 442 x 10, 5000 steps, {programs} programs"
    each = _in_a_process("optimizers")["seconds"]
    slowest = f"slowest {max(each):.2f} s of 0.8"
    return [
        Row("first call", size, "run", seconds, "optax scan").reaching(1.5),
        Row("first call", "with seven optimizers", "run", {OURS: each}, None, ((slowest, max(each) <= 0.8),)),
    ]


def _in_a_process(what: str) -> Any:
    words = [sys.executable, "-m", "experiments.benchmarks.first", what]
    return json.loads(subprocess.run(words, check=True, cwd=ROOT, capture_output=True, text=True).stdout)


def main(what: str) -> None:
    """Make the first call of a process and print what it took."""
    rng = np.random.default_rng(0)
    inputs, targets = rng.normal(size=(442, 10)).astype(np.float32), rng.normal(size=442).astype(np.float32)
    problem, params = jaxgd.problems.linear_regression(), jaxgd.LinearParams(np.zeros(10, np.float32), np.float32(0))
    fit = functools.partial(jaxgd.fit, problem, params, (inputs, targets), num_steps=5000, progress=False)

    def scan() -> Any:
        batch = jaxgd.Batch(jax.numpy.asarray(inputs), jax.numpy.asarray(targets))
        return peers.optax_scan(problem, params, batch, 0.1, 5000)()

    calls: dict[str, list[Any]] = {
        "fit": [functools.partial(fit, learning_rate=0.1)],
        "scan": [scan],
        "optimizers": [functools.partial(fit, learning_rate=1e-3, optimizer=optimizer) for optimizer in OPTIMIZERS],
    }
    jax.block_until_ready(jax.numpy.zeros(3) + 1)
    programs: list[float] = []

    def listen(event: str, duration_secs: float, **_: Any) -> None:
        if event.endswith("/backend_compile_duration"):
            programs.append(duration_secs)

    jax.monitoring.register_event_duration_secs_listener(listen)
    seconds = []
    for call in calls[what]:
        started = time.perf_counter()
        jax.block_until_ready(jax.tree.leaves(call()))
        seconds.append(time.perf_counter() - started)
    print(json.dumps({"seconds": seconds, "programs": len(programs)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
