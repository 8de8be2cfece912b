"""Several processes on this machine and several devices in one: the same rows in each, and the same rows in all.

A worker is a process of its own: `python -m experiments.benchmarks.scaling 1000 20000 1` prints the seconds of a
warmed-up fit of 1000 steps on 20,000 rows over one device; with an address, a number of processes and its own number it
meets the others first.
"""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np

import jaxgd
from experiments.benchmarks.measure import OURS, Row

ROOT = Path(__file__).resolve().parents[2]


def scaling(scale: str) -> list[Row]:
    """Logistic regression on 20 inputs: two processes and up to four devices, beside one process with one device."""
    steps, rows, rounds = (20, 500, 1) if scale == "smoke" else (1000, 20_000, 5)
    kinds = (
        ("two processes, the same rows in all", 2, rows, 1, 1.5),
        ("two processes, twice the rows", 2, 2 * rows, 1, 1.5),
        ("two devices, twice the rows", 1, 2 * rows, 2, 1.5),
        ("four devices, four times the rows", 1, 4 * rows, 4, 4.0 / min(len(os.sched_getaffinity(0)), 4) * 1.5),
    )
    found = []
    for size, processes, num_rows, devices, at_most in kinds:
        seconds: dict[str, list[float]] = {OURS: [], "one process": []}
        for i in range(rounds):
            for name in list(seconds)[:: 1 if i % 2 else -1]:
                given = (steps, num_rows, devices, processes) if name == OURS else (steps, rows, 1, 1)
                seconds[name].append(_run(*given) / steps)
        found.append(Row("scaling", f"{size}: {num_rows:,} x 20", "step", seconds, "one process").reaching(at_most))
    return found


def _run(steps: int, rows: int, devices: int, processes: int) -> float:
    """Seconds of the fit, by the slowest process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    words = [sys.executable, "-m", "experiments.benchmarks.scaling", str(steps), str(rows), str(devices)]
    workers = [
        subprocess.Popen(
            words + ([address, str(processes), str(number)] if processes > 1 else []),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for number in range(processes)
    ]
    printed = [worker.communicate()[0] for worker in workers]
    # The collectives library writes a line of its own to standard output.
    return max(float(json.loads(text.splitlines()[-1])) for text in printed)


def main(steps: str, rows: str, devices: str, address: str = "", processes: str = "1", number: str = "0") -> None:
    """Fit twice and print the seconds of the second time."""
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", int(devices))
    if address:
        jax.distributed.initialize(address, int(processes), int(number))
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(int(rows), 20)).astype(np.float32)
    problem, batch = jaxgd.problems.logistic_regression(), (inputs, (inputs.sum(axis=1) > 0).astype(np.int32))
    evaluation = "sharded" if address or int(devices) > 1 else "auto"
    for _ in range(2):
        started = time.perf_counter()
        result = jaxgd.fit(
            *(problem, problem.zeros(batch), batch),
            learning_rate=0.1,
            num_steps=int(steps),
            evaluation=evaluation,
            progress=False,
        )
        jax.block_until_ready(result)
    print(json.dumps(time.perf_counter() - started), flush=True)
    if address:
        jax.distributed.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
