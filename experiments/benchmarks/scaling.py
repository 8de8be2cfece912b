"""Several processes on this machine and several devices in one: the same rows in each, and the same rows in all.

A worker is a process of its own: `python -m experiments.benchmarks.scaling fit 1000 20000 1` prints the seconds of a
warmed-up fit of 1000 steps on 20,000 rows over one device; with an address, a number of processes and its own number it
meets the others first. `messages` in place of `fit` takes as many bare all-reduces of the buffer of a step, one after
the other: two processes cannot make a step in less.
"""

import functools
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

import jaxgd
from experiments.benchmarks.measure import OURS, Row
from jaxgd.descent.fast.sharded import everywhere

ROOT = Path(__file__).resolve().parents[2]
NUM_INPUTS = 20
FLOOR = "one process and a message"


def scaling(scale: str) -> list[Row]:
    """Logistic regression on 20 inputs: two processes and up to four devices, beside one process with one device.

    The limit of two processes is what one takes for its rows, and a bare all-reduce of loss and gradient between the
    two: no step can start before the message of the one before it has come.
    """
    steps, rows, rounds = (20, 500, 1) if scale == "smoke" else (1000, 20_000, 5)
    cores = len(os.sched_getaffinity(0))
    kinds = (
        ("two processes, the same rows in all", 2, rows, 1),
        ("two processes, twice the rows", 2, 2 * rows, 1),
        ("two devices, twice the rows", 1, 2 * rows, 2),
        ("four devices, four times the rows", 1, 4 * rows, 4),
    )
    found = []
    for size, processes, num_rows, devices in kinds[::2] if scale == "smoke" else kinds:
        jobs: dict[str, Callable[[], float]] = {
            OURS: functools.partial(_run, "fit", steps, num_rows, devices, processes),
            "one process": functools.partial(_run, "fit", steps, rows, 1, 1),
        }
        if processes > 1:
            jobs["a message"] = functools.partial(_run, "messages", steps, rows, 1, processes)
        seconds: dict[str, list[float]] = {name: [] for name in jobs}
        for i in range(rounds):
            for name in list(jobs)[:: 1 if i % 2 else -1]:
                seconds[name].append(jobs[name]() / steps)
        limit, at_most = "one process", 1.5
        if processes > 1:
            limit = FLOOR
            seconds[FLOOR] = np.add(seconds["one process"], seconds["a message"]).tolist()
        else:
            at_most *= devices / min(cores, devices)
        shape = f"{size}: {num_rows:,} x {NUM_INPUTS}"
        what = "processes" if processes > 1 else "devices"
        found.append(Row(f"scaling over {what}", shape, "step", seconds, limit).reaching(at_most))
    return found


def _run(work: str, steps: int, rows: int, devices: int, processes: int) -> float:
    """Seconds of the work, by the slowest process."""
    with socket.socket() as held:  # so that nobody else is given the port before the first process listens there
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{held.getsockname()[1]}"
        words = [sys.executable, "-m", "experiments.benchmarks.scaling", work, *map(str, (steps, rows, devices))]
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


def _fit(steps: int, rows: int, *, spread: bool) -> Callable[[], Any]:
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(rows, NUM_INPUTS)).astype(np.float32)
    problem, batch = jaxgd.problems.logistic_regression(), (inputs, (inputs.sum(axis=1) > 0).astype(np.int32))
    return functools.partial(
        jaxgd.fit,
        *(problem, problem.zeros(batch), batch),
        learning_rate=0.1,
        num_steps=steps,
        evaluation="sharded" if spread else "auto",
        progress=False,
    )


def _messages(steps: int) -> Callable[[], Any]:
    """All-reduces of as many numbers as loss and gradient have, each of the sum before it."""
    mesh, buffer = Mesh(np.asarray(jax.devices()), ("all",)), np.ones(NUM_INPUTS + 2, np.float32)

    @jax.jit
    @functools.partial(jax.shard_map, mesh=mesh, in_specs=PartitionSpec(), out_specs=PartitionSpec(), check_vma=False)
    def loop(buffer: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, steps, lambda i, sums: jax.lax.psum(sums, "all") / jnp.float32(2), buffer)

    return functools.partial(loop, everywhere(buffer))


def main(
    work: str, steps: str, rows: str, devices: str, address: str = "", processes: str = "1", number: str = "0"
) -> None:
    """Do the work twice and print the seconds of the second time."""
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", int(devices))
    if address:
        jax.distributed.initialize(address, int(processes), int(number))
    spread = bool(address) or int(devices) > 1
    job = _fit(int(steps), int(rows), spread=spread) if work == "fit" else _messages(int(steps))
    for _ in range(2):
        started = time.perf_counter()
        jax.block_until_ready(job())
        seconds = time.perf_counter() - started
    print(json.dumps(seconds), flush=True)
    if address:
        jax.distributed.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
