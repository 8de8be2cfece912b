"""The time of jaxgd beside what one would write without it.

Every figure is a ratio: the time of the peer over that of jaxgd, both measured in this process, interleaved,
warmed up; medians of the repeats with their spread.

Run: python -m experiments.benchmarks [start chunks sweep ...] [--smoke] [--out FOLDER]
"""

import argparse
import functools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import rich.console
import rich.table

import jaxgd
from jaxgd.reporting import environment
from jaxgd.types import Batch


def interleaved(jobs: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Seconds of every job, in rounds, so that a slow moment of the machine meets all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(repeats):
        for name, job in jobs.items():
            started = time.perf_counter()
            jax.block_until_ready(job())
            seconds[name].append(time.perf_counter() - started)
    return seconds


def start(smoke: bool) -> dict[str, list[float]]:
    """A cold process that fits diabetes, beside one that imports jax and optax."""
    with tempfile.TemporaryDirectory() as folder:
        run = functools.partial(subprocess.run, check=True, cwd=folder, stdout=subprocess.DEVNULL)
        return interleaved(
            {
                "jaxgd fit --data diabetes": lambda: run([sys.executable, "-m", "jaxgd", "fit", "--data", "diabetes"]),
                "import jax, optax": lambda: run([sys.executable, "-c", "import jax, optax; jax.numpy.zeros(3) + 1"]),
            },
            1 if smoke else 9,
        )


def _neuron(num_rows: int, num_inputs: int) -> tuple[jaxgd.Problem, Any, Batch]:
    rng = np.random.default_rng(0)
    inputs = jnp.asarray(rng.normal(size=(num_rows, num_inputs)), jnp.float32)
    problem = jaxgd.problems.sigmoid_neuron()
    assert problem.init is not None
    batch = Batch(inputs, jax.nn.sigmoid(inputs @ jnp.arange(1.0, num_inputs + 1)))
    return problem, problem.init(jax.random.key(0), batch), batch


def chunks(smoke: bool) -> dict[str, list[float]]:
    """The run driven from the host in twenty chunks, beside the one bare scan."""
    problem, params, batch = _neuron(1000, 20)
    options: dict[str, Any] = {"learning_rate": 0.1, "num_steps": 1000 if smoke else 400_000, "record_every": 100}
    jobs: dict[str, Callable[[], Any]] = {
        "fit": lambda: jaxgd.fit(problem, params, batch, progress=False, **options),
        "descend": lambda: jaxgd.descend(problem, params, batch, **options),
    }
    for job in jobs.values():
        jax.block_until_ready(job())
    return interleaved(jobs, 1 if smoke else 7)


def sweep(smoke: bool) -> dict[str, list[float]]:
    """4096 runs of 1000 steps in one program, beside loops in Python; times are per lane and step."""
    problem, params, batch = _neuron(100, 4)
    lanes, steps = (64, 20) if smoke else (4096, 1000)
    few_lanes, few_steps = (4, 10) if smoke else (64, 500)
    rates = jnp.geomspace(1e-3, 1.0, lanes)
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
    jobs: dict[str, tuple[Callable[[], Any], int]] = {
        "jaxgd.sweep": (
            lambda: jaxgd.sweep(problem, params, batch, over={"learning_rate": rates}, num_steps=steps, record=()),
            lanes * steps,
        ),
        "Python loop around a jitted optax step": (optax_loop, few_steps),
        "Python loop over compiled runs": (
            lambda: [one(learning_rate=rate) for rate in rates[:few_lanes]],
            few_lanes * steps,
        ),
    }
    for job, _ in jobs.values():
        jax.block_until_ready(job())
    seconds = interleaved({name: job for name, (job, _) in jobs.items()}, 1 if smoke else 5)
    return {name: [second / jobs[name][1] for second in values] for name, values in seconds.items()}


WORK = {"start": start, "chunks": chunks, "sweep": sweep}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m experiments.benchmarks", description=__doc__)
    parser.add_argument("work", nargs="*", default=list(WORK), help=f"any of {', '.join(WORK)}")
    parser.add_argument("--smoke", action="store_true", help="small sizes, once: does it run?")
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder of benchmarks.json")
    options = parser.parse_args()
    unknown = set(options.work) - set(WORK)
    if unknown:
        parser.error(f"unknown work {min(unknown)!r}; choose from {', '.join(WORK)}")
    console = rich.console.Console(highlight=False)
    table = rich.table.Table("work", "what", "median", "spread", "times the first")
    results: dict[str, Any] = {"environment": environment(), "smoke": options.smoke}
    for name in options.work:
        seconds = WORK[name](options.smoke)
        first = float(np.median(next(iter(seconds.values()))))
        results[name] = {
            what: {"seconds": values, "ratio": float(np.median(values)) / first} for what, values in seconds.items()
        }
        for what, values in seconds.items():
            spread = f"{min(values):.3g} .. {max(values):.3g}"
            table.add_row(name, what, f"{np.median(values):.3g} s", spread, f"{np.median(values) / first:.3g}")
    console.print(table)
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "benchmarks.json").write_text(json.dumps(results, indent=2) + "\n")
    except OSError as error:
        parser.error(f"--out {options.out}: cannot be written ({error.strerror})")


if __name__ == "__main__":
    main()
