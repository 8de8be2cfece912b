"""The experiments run, their verdicts are computed, and mistakes in calling them get one line."""

import csv
import importlib
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from common import slow

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.skipif(
    not (ROOT / "experiments").exists(), reason="the experiments are not beside these tests"
)


def run(*words):
    command = [sys.executable, "-m", "experiments", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


def names():
    listing = ROOT / "experiments" / "__main__.py"
    text = listing.read_text() if listing.exists() else "NAMES = ()"
    return [line.strip().strip('",') for line in text.split("NAMES = (")[1].split(")")[0].splitlines() if line.strip()]


@pytest.mark.parametrize(
    "chosen",
    [
        pytest.param(["parabola", "misprints"], id="two of them"),
        *(pytest.param(names()[part::4], id=f"every fourth, from {part}", marks=slow) for part in range(4)),
    ],
)
def test_the_smoke_run_ends_with_all_verdicts_true(tmp_path, chosen):
    done = run(*chosen, "--smoke", "--out", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    page = (tmp_path / "index.html").read_text()
    assert f"{len(chosen)} of {len(chosen)} verdicts are true." in page
    assert "This is a smoke run" in page
    for name in chosen:
        record = json.loads((tmp_path / f"{name}.json").read_text())
        assert record["verdict"] is True
        assert record["question"].endswith("?")
        assert record["environment"]["jax"]
        with (tmp_path / f"{name}.csv").open() as file:
            assert list(csv.DictReader(file))
        assert (tmp_path / f"{name}.png").stat().st_size > 5000
        assert f'id="{name}"' in page


def test_every_experiment_is_listed():
    files = {path.stem for path in (ROOT / "experiments").glob("*.py")} - {"__init__", "__main__", "progress", "record"}
    assert files == set(names())


@slow
def test_a_table_of_ones_own(tmp_path):
    rng = np.random.default_rng(0)
    rows = [f"{x:.3f},{2.5 + rng.normal():.3f}" for x in rng.normal(100, 14, 50)]
    (tmp_path / "mine.csv").write_text("sat_sum,fy_gpa\n" + "\n".join(rows) + "\n")
    done = run("sat_gpa", "--smoke", "--data", tmp_path / "mine.csv", "--out", tmp_path)
    assert done.returncode == 1  # another table has another fit, and the verdict says so
    assert "slope by closed form: expected 0.0239" in " ".join(done.stdout.split())


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("lost",), "error: unknown experiment 'lost'; choose from linear_map, "),
        (("sat_gpa", "--data", "lost.csv"), "error: --data lost.csv: no such file"),
        (("--out", "/proc/no"), "error: --out /proc/no: cannot be written ("),
        (("--loud",), "error: unrecognized arguments: --loud"),
    ],
)
def test_wrong_calls(monkeypatch, capsys, words, error):
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.setattr(sys, "argv", ["experiments", *words])
    with pytest.raises(SystemExit) as end:
        importlib.import_module("experiments.__main__").main()
    assert end.value.code == 2
    assert error in capsys.readouterr().err


def test_progress_without_a_terminal_is_plain_lines(capsys, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    progress = importlib.import_module("experiments.progress")
    monkeypatch.setattr(progress, "LEAST_SECONDS", 0.0)
    with progress.progress(20, "experiments") as begin:
        for number in range(20):
            begin(f"number {number}")
    lines = capsys.readouterr().err.splitlines()
    assert 5 <= len(lines) <= 10
    assert re.fullmatch(r" 10% of 20 experiments, now number 2, about \d+ s left", lines[0])
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    with progress.progress(2, "experiments") as begin:
        begin("a long one")
        time.sleep(1.2)
    assert "  0% of 2 experiments, now a long one, no estimate yet" in capsys.readouterr().err
    with progress.progress(2, "experiments", shown=False) as begin:
        begin("silent")
    assert capsys.readouterr().err == ""
