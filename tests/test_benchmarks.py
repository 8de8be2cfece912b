"""The benchmarks run."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.skipif(
    not (ROOT / "experiments").exists(), reason="the experiments are not beside these tests"
)


def run(folder, *words):
    command = [sys.executable, "-m", "experiments.benchmarks", "--out", str(folder), *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


def test_the_smoke_run_writes_every_ratio(tmp_path):
    done = run(tmp_path, "--smoke")
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "benchmarks.json").read_text())
    assert set(results) == {"environment", "smoke", "start", "chunks", "sweep"}
    assert all(what["ratio"] > 0 for name in ("start", "chunks", "sweep") for what in results[name].values())


def test_unknown_work_is_told(tmp_path):
    done = run(tmp_path, "speed")
    assert done.returncode == 2
    assert "unknown work 'speed'; choose from start, chunks, sweep" in done.stderr
