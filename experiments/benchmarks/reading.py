"""A fit from a file, from the shell: seconds of all cores and peak memory, beside data frames and scikit-learn."""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from experiments.benchmarks.measure import OURS, Row
from experiments.benchmarks.peers import installed

NUM_INPUTS = 10

FRAMES = """
import sys
import {library}
from sklearn.linear_model import LinearRegression
table = {library}.read_{kind}(sys.argv[1])
names = [name for name in table.columns if name != "y"]
LinearRegression().fit(table[names].to_numpy(), table["y"].to_numpy())
"""

WATCH = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
unit = 1 if sys.platform == "darwin" else 1024
print(used.ru_utime + used.ru_stime, used.ru_maxrss * unit)
"""
"""A small process that starts the other: a child's peak is never counted below what its parent had."""


def reading(scale: str) -> list[Row]:
    """Least squares of a text table, of a Parquet file, and of one that is not to be held in memory."""
    smoke = scale == "smoke"
    sizes = {
        "text": ("csv", 1000 if smoke else 1_000_000),
        "Parquet": ("parquet", 1000 if smoke else 1_000_000),
        "out of core": ("parquet", 2000 if smoke else 10_000_000),
    }
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for what, (kind, num_rows) in sizes.items():
            path = _written(Path(folder) / f"{num_rows}.{kind}", num_rows)
            commands = {OURS: [sys.executable, "-m", "jaxgd", "fit", "--data", path, "--target", "y"]}
            for library in filter(installed, ("pandas", "polars")):
                script = FRAMES.format(library=library, kind=kind)
                commands[f"{library}, scikit-learn"] = [sys.executable, "-c", script, path]
            used = _used(commands, folder, 1 if smoke else 3)
            size = f"{what}, {num_rows:,} x {NUM_INPUTS + 1}"
            numbers = 8e-9 * num_rows * (NUM_INPUTS + 1)
            seconds = {name: [each[0] for each in runs] for name, runs in used.items()}
            peaks = {name: [each[1] for each in runs] for name, runs in used.items()}
            ours, peak = float(np.median(seconds[OURS])), float(np.median(peaks[OURS]))
            in_time = (f"{ours:.1f} s, at most 5", ours <= 5)
            # What a process of jax takes before it reads anything is not what the file costs.
            in_part = (f"peak {peak:.2f} GB, numbers {numbers:.2f} GB", peak <= 0.6 + 0.1 * numbers)
            found.append(Row("fit of a file, CPU time", size, "run", seconds, reach=(in_time,) * (what == "text")))
            found.append(Row("fit of a file, peak memory", size, "run", peaks, reach=(in_part,)))
    return sorted(found, key=lambda row: row.work)


def _written(path: Path, num_rows: int) -> str:
    """The path of a table of normal inputs and a linear target, six digits behind the point."""
    import pyarrow
    from pyarrow import csv, parquet

    rng, names = np.random.default_rng(0), [*(f"x{i}" for i in range(NUM_INPUTS)), "y"]
    schema = pyarrow.schema([(name, pyarrow.float64()) for name in names])
    writer = csv.CSVWriter if path.suffix == ".csv" else parquet.ParquetWriter
    with writer(path, schema) as file:
        for first in range(0, num_rows, 2**18):
            inputs = rng.normal(size=(min(2**18, num_rows - first), NUM_INPUTS)).round(6)
            targets = inputs @ np.arange(1.0, NUM_INPUTS + 1) + rng.normal(size=len(inputs))
            file.write_table(pyarrow.table([*inputs.T, targets.round(6)], schema=schema))
    return str(path)


def _used(commands: dict[str, list[str]], folder: str, repeats: int) -> dict[str, list[tuple[float, float]]]:
    """Seconds of all cores and peak gigabytes of processes, in rounds, after one round that is not counted."""
    used: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for turn in range(repeats + 1):
        for name, words in commands.items():
            done = subprocess.run(
                [sys.executable, "-S", "-c", WATCH, *words], cwd=folder, capture_output=True, text=True
            )
            if done.returncode:
                raise RuntimeError(f"{name}: {done.stderr}")
            seconds, peak = map(float, done.stdout.split()[-2:])
            if turn:
                used[name].append((seconds, peak / 1e9))
    return used
