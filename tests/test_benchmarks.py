"""The benchmarks run."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from common import slow

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.skipif(
    not (ROOT / "experiments").exists(), reason="the experiments are not beside these tests"
)


def run(folder, *words):
    command = [sys.executable, "-m", "experiments.benchmarks", "--out", str(folder), *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


WORK = [
    *("full_batch", "least_squares", "stochastic", "lanes", "loops", "tiny", "chunks", "gradients", "start"),
    *("first_call", "scaling", "growth", "memory", "check", "smooth", "reading"),
]


@pytest.mark.parametrize(
    ("chosen", "num_rows"),
    [pytest.param(["stochastic", "tiny"], 2, id="two kinds"), pytest.param([], 21, id="all kinds", marks=slow)],
)
def test_the_smoke_run_measures_every_kind_of_work(tmp_path, chosen, num_rows):
    done = run(tmp_path, "--smoke", *chosen)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "benchmarks.json").read_text())
    assert results["smoke"] is True
    assert results["environment"]["device"] == "cpu"
    assert len({row["work"] for row in results["rows"]}) == num_rows
    assert all(min(times) > 0 for row in results["rows"] for times in row["seconds"].values())
    table = (tmp_path / "benchmarks.md").read_text().splitlines()
    assert len(table) == 2 + num_rows
    assert all(line.count(" | ") == 6 for line in table)


@slow
def test_two_commits_are_compared(tmp_path):
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout of git")
    done = run(tmp_path, "tiny", "--smoke", "--against", "HEAD")
    assert done.returncode == 0, done.stderr
    [line] = done.stdout.splitlines()
    ratio, _, row = line.strip().partition("  ")
    assert 0.2 < float(ratio) < 5  # a few milliseconds each
    assert row == "one run, 5 x 1, 100 steps"


def test_an_unknown_commit_is_told(tmp_path):
    done = run(tmp_path, "tiny", "--smoke", "--against", "no-such-commit")
    assert done.returncode == 2
    assert "--against no-such-commit: fatal: not a valid object name" in done.stderr


def test_unknown_work_is_told(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.setattr(sys, "argv", ["experiments.benchmarks", "speed"])
    with pytest.raises(SystemExit) as end:
        importlib.import_module("experiments.benchmarks.__main__").main()
    assert end.value.code == 2
    message = " ".join(capsys.readouterr().err.split())
    assert f"unknown work 'speed'; choose from {', '.join(WORK)}" in message


@slow
def test_a_gpu_that_is_not_here_is_told(tmp_path):
    done = run(tmp_path, "tiny", "--smoke", "--device", "gpu")
    if done.returncode:
        assert done.returncode == 2
        assert "--device gpu: jax has no GPU here" in done.stderr


def test_the_readme_has_the_table_of_the_committed_run():
    """The table is made of rows of experiments/benchmarks/cpu.json."""
    from experiments.benchmarks.__main__ import headlines
    from experiments.benchmarks.measure import Row

    committed = json.loads((ROOT / "experiments" / "benchmarks" / "cpu.json").read_text())
    assert committed["smoke"] is False
    rows = [Row(**row | {"reach": tuple(map(tuple, row["reach"]))}) for row in committed["rows"]]
    assert headlines(rows) in (ROOT / "README.md").read_text()
