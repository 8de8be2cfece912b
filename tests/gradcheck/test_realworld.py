"""Gradients that people really wrote: every wrong one is caught in the right leaves, no right one is called wrong."""

import sys
from pathlib import Path

import jax
import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def found():
    """What the checker says of every gradient of the collection, by role and name."""
    if not (ROOT / "experiments").exists():
        pytest.skip("the experiments are not beside these tests")
    sys.path.insert(0, str(ROOT))
    from experiments.checkers import realworld

    if not (realworld.FOLDER / "cases.py").exists():
        pytest.skip(f"the collection of real gradients is not at {realworld.FOLDER}")
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        everything = realworld.trials(realworld.load())
        return [(trial, realworld.by_jaxgd(trial)) for trial in everything]


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_real_gradients(found):
    faults = []
    for trial, answer in found:
        wanted = set(trial.case.wrong_leaves) if trial.role == "wrong" else set()
        got = {leaf.leaf for leaf in answer.report.leaves if not leaf.ok} if answer.report is not None else None
        if got != wanted or answer.rejects != (trial.role == "wrong"):
            faults.append(f"{trial.case.name} ({trial.role}): {answer.text}")
    assert len(found) > 100
    assert not faults, "\n\n".join(faults)
