"""What the loop costs beside the evaluation: the checks of a step, and the chunks of `fit`."""

import functools
from typing import Any

import jax

import jaxgd
from experiments.benchmarks import peers
from experiments.benchmarks.measure import OURS, Row, interleaved, measured, on_one_core
from experiments.benchmarks.sizes import make_rows, repeats, shape_of, zeros


def tiny(scale: str) -> list[Row]:
    """One lane of five rows: what the checks of every step cost."""
    batch, steps = make_rows(5, 1), 100 if scale == "smoke" else 1_000_000
    problem = jaxgd.problems.linear_regression()
    run = functools.partial(jaxgd.descend, learning_rate=1e-5, num_steps=steps, record=("loss",))
    jobs: dict[str, Any] = {
        OURS: (functools.partial(run, problem, zeros(batch), batch), steps),
        "bare scan": (peers.bare_scan(batch, 1e-5, steps), steps),
    }
    with on_one_core():
        row = measured("one run", f"{shape_of(batch)}, {steps:,} steps", "step", jobs, repeats(scale, 9), "bare scan")
    return [row.reaching(1.05)]


def chunks(scale: str) -> list[Row]:
    """The run driven from the host in twenty chunks, beside the one bare scan.

    Full batches; single rows, of which every step is kept in a history of 120 MB; and less than two epochs of
    mini-batches, which is cut within the epoch.
    """
    problem, found = jaxgd.problems.sigmoid_neuron(), []
    kinds: tuple[tuple[int, int, int, str, dict[str, Any]], ...] = (
        (1000, 20, 500_000, "full batch", {"record_every": 100}),
        (2000, 3, 10_000_000, "single rows", {"batch_size": 1}),
        (15_000_000, 5, 2_500_000, "batches of 10", {"batch_size": 10, "record_every": 100}),
    )
    for num_rows, num_inputs, steps, how, options in kinds:
        if scale == "smoke":
            num_rows, steps = min(num_rows, 10_000), 1000
        batch = make_rows(num_rows, num_inputs)
        run: dict[str, Any] = {"learning_rate": 0.1, "num_steps": steps, "key": jax.random.key(0), **options}
        jobs: dict[str, Any] = {
            OURS: (functools.partial(jaxgd.fit, problem, zeros(batch), batch, progress=False, **run), steps),
            "descend": (functools.partial(jaxgd.descend, problem, zeros(batch), batch, **run), steps),
        }
        with on_one_core():
            seconds = interleaved(jobs, repeats(scale, 11))  # no profile: it would hold millions of operations
        size = f"{shape_of(batch)}, {how}, {steps:,} steps"
        found.append(Row("fit in chunks", size, "step", seconds, "descend").reaching(1.03))
    return found
