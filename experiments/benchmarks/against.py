"""The package as it is beside that of another commit: the same benchmarks of both, in turns."""

import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from experiments.benchmarks.measure import OURS
from experiments.progress import progress

ROOT = Path(__file__).resolve().parents[2]
ROUNDS = 3


def ratios(revision: str, words: Sequence[str], *, shown: bool) -> dict[tuple[str, str], float]:
    """Measure both packages in turns.

    Args:
      revision: a commit of this repository, in a form that git knows.
      words: kinds of work and options of `python -m experiments.benchmarks`.
      shown: whether progress is shown.

    Returns:
      For each work and size the time of the package as it is over that of the commit, the median of the rounds. Rows
      that only one of them has are left out.

    Raises:
      ValueError: git does not know the commit, or the benchmarks cannot be run with its package.
    """
    with tempfile.TemporaryDirectory() as folder:
        trees = {"now": Path(folder, "now"), revision: Path(folder, "then")}
        for tree in trees.values():
            tree.mkdir()
            # The benchmarks of both are those of today: only the package differs.
            (tree / "experiments").symlink_to(ROOT / "experiments", target_is_directory=True)
        (trees["now"] / "jaxgd").symlink_to(ROOT / "jaxgd", target_is_directory=True)
        _unpack(revision, trees[revision])
        seconds: dict[str, list[dict[tuple[str, str], float]]] = {name: [] for name in trees}
        with progress(2 * ROUNDS, "runs", shown=shown) as begin:
            for i in range(ROUNDS):
                for name in list(trees)[:: 1 if i % 2 else -1]:
                    begin(name)
                    seconds[name].append(_measured(trees[name], words))
    both = [found for runs in seconds.values() for found in runs]
    kept = [place for place in both[0] if all(place in found for found in both)]
    pairs = list(zip(*seconds.values(), strict=True))
    return {place: float(np.median([now[place] / then[place] for now, then in pairs])) for place in kept}


def _unpack(revision: str, tree: Path) -> None:
    """The package of a commit."""
    done = subprocess.run(["git", "archive", revision, "jaxgd"], cwd=ROOT, capture_output=True)
    if done.returncode:
        raise ValueError(f"--against {revision}: {done.stderr.decode().strip()}")
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        archive.extractall(tree, filter="data")


def _measured(tree: Path, words: Sequence[str]) -> dict[tuple[str, str], float]:
    """The median times of jaxgd in a run of the benchmarks on the package of a tree."""
    out = tree / "results"
    command = [sys.executable, "-m", "experiments.benchmarks", *words, "--no-progress", "--out", str(out)]
    done = subprocess.run(command, cwd=tree, env=os.environ | {"PYTHONPATH": str(tree)}, capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"the benchmarks cannot be run with the package in {tree.name}: {done.stderr.strip()[-500:]}")
    rows = json.loads((out / "benchmarks.json").read_text())["rows"]
    return {(row["work"], row["size"]): float(np.median(row["seconds"][OURS])) for row in rows}
