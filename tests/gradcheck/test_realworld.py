"""Gradients that people really wrote: every wrong one is caught in the right leaves, no right one is called wrong."""

import sys
from pathlib import Path

import jax
import pytest

ROOT = Path(__file__).resolve().parents[2]


PARTS = 8


def found(part):
    """What the checker says of a part of the collection, by role and name."""
    if not (ROOT / "experiments").exists():
        pytest.skip("the experiments are not beside these tests")
    sys.path.insert(0, str(ROOT))
    from experiments.checkers import realworld

    if not (realworld.FOLDER / "cases.py").exists():
        pytest.skip(f"the collection of real gradients is not at {realworld.FOLDER}")
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        everything = list(realworld.trials(realworld.load()))
        assert len(everything) > 100
        return [(trial, realworld.by_jaxgd(trial)) for trial in everything[part::PARTS]]


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("part", range(PARTS))
def test_real_gradients(part):
    faults = []
    for trial, answer in found(part):
        wanted = set(trial.case.wrong_leaves) if trial.role == "wrong" else set()
        got = {leaf.leaf for leaf in answer.report.leaves if not leaf.ok} if answer.report is not None else None
        if got != wanted or answer.rejects != (trial.role == "wrong"):
            faults.append(f"{trial.case.name} ({trial.role}): {answer.text}")
    assert not faults, "\n\n".join(faults)
