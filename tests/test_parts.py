"""Tables that are read in parts: the same least squares as from all rows, in little memory, or one line."""

import gzip
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from common import slow

import jaxgd
from jaxgd import cli, data
from jaxgd.data import engines, memory, parts, squares, text
from jaxgd.data.statistics import Statistics

N = 600
pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is in the cli extra")


@pytest.fixture
def small_parts(monkeypatch):
    """Every file counts as large, and has several parts."""
    monkeypatch.setattr(parts, "SMALL_FILE", 0)
    monkeypatch.setattr(squares, "PARTS_FROM", 0)
    monkeypatch.setattr(engines, "PART_ROWS", 100)
    monkeypatch.setattr(engines, "PART_BYTES", 2000)


def columns(rng):
    """Inputs far from 0 and of different sizes, a category, and a target that is linear in all of them."""
    a, b, kind = 1e4 + rng.normal(size=N), 1e-6 * rng.normal(size=N), rng.choice(["u", "v", "w"], N)
    y = 0.5 * a - 2e6 * b + 3.0 * (kind == "w") + rng.normal(size=N)
    return {"a": a, "b": b, "kind": kind, "y": y}


def written(folder, table, kind):
    """The path of a file of a table, of a kind."""
    path = folder / f"t.{kind}"
    if kind == "parquet":
        from pyarrow import parquet

        parquet.write_table(pyarrow.table(table), path, row_group_size=250)
        return str(path)
    separator = "\t" if kind.startswith("tsv") else ","
    cells = [[v if isinstance(v, str) else "" if v is None else repr(float(v)) for v in c] for c in table.values()]
    lines = "\n".join(separator.join(row) for row in [list(table), *zip(*cells, strict=True)])
    path.write_bytes(gzip.compress(lines.encode()) if kind.endswith("gz") else lines.encode())
    return str(path)


def solved(inputs, targets):
    """Weights and bias of least squares, and the mean squared error, by NumPy."""
    design = np.column_stack([inputs - inputs.mean(axis=0), np.ones(len(inputs))])
    solution = np.linalg.lstsq(design, targets, rcond=None)[0]
    return solution, np.mean((design @ solution - targets) ** 2)


@pytest.mark.parametrize("kind", ["csv", "tsv.gz", "parquet"])
@pytest.mark.parametrize("careful", [False, True], ids=["pyarrow", "careful"])
def test_least_squares_in_parts_is_that_of_all_rows(tmp_path, monkeypatch, rng, small_parts, kind, careful):
    if careful:
        if kind == "parquet":
            pytest.skip("only pyarrow reads Parquet")
        monkeypatch.setattr(engines, "installed", lambda name: False)
    path = written(tmp_path, columns(rng), kind)
    options = {"target": "y", "one_hot": ("kind",)}
    whole = data.load(path, **options)
    if not careful:
        monkeypatch.setattr(text, "careful", None)  # not as a substitute
    small, held_out = data.least_squares(path, **options)
    assert small.num_rows == N
    assert held_out.num_rows == 0
    assert len(small.inputs) == 10
    assert (small.input_names, small.one_hot) == (whole.input_names, whole.one_hot)
    scaling, expected = data.standardization(small), data.standardization(whole)
    np.testing.assert_allclose(scaling.mean, expected.mean, rtol=1e-14)
    np.testing.assert_allclose(scaling.scale, expected.scale, rtol=1e-11)
    (found, loss), (weights, least) = solved(small.inputs, small.targets), solved(whole.inputs, whole.targets)
    np.testing.assert_allclose(found, weights, rtol=1e-9, atol=1e-8)
    np.testing.assert_allclose(loss, least, rtol=1e-9)
    # Not only at the minimiser: everywhere.
    problem, params = jaxgd.problems.linear_regression(), jaxgd.types.LinearParams(rng.normal(size=4), 0.3)
    losses = [problem.loss(params, data.to_batch(each, scaling.apply)) for each in (small, whole)]
    np.testing.assert_allclose(*losses, rtol=1e-12)


def test_equivalent_rows_keep_constant_columns_and_combinations(rng):
    a, b = rng.normal(size=(2, 300))
    rows = np.stack([a, np.full(300, 0.1), b, 2 * a - b + 7], axis=1)
    statistics = Statistics.empty(4)
    for part in np.array_split(rows, [1, 50, 170]):
        statistics = statistics.with_rows([part], np.ones((len(part), 5)))
    found = statistics.equivalent_rows()
    np.testing.assert_allclose(found.mean(axis=0), rows.mean(axis=0), atol=1e-14)
    np.testing.assert_allclose(np.cov(found.T, bias=True), np.cov(rows.T, bias=True), atol=1e-14)
    assert np.ptp(found[:, 1]) == 0
    centred = found - found.mean(axis=0)
    assert np.linalg.matrix_rank(centred, tol=1e-12) == 2


def test_rows_held_out_and_rows_without_a_cell(tmp_path, rng, small_parts):
    table = columns(rng) | {"a": [None if i % 100 == 7 else float(i % 13) for i in range(N)]}
    path = written(tmp_path, table, "parquet")
    options = {"target": "y", "features": ("a", "b"), "drop_missing": True}
    fitted, held_out = data.least_squares(path, **options, held_out=0.25, seed=3)
    again = data.least_squares(path, **options, held_out=0.25, seed=3)
    np.testing.assert_array_equal(again[1].inputs, held_out.inputs)
    assert fitted.num_rows + held_out.num_rows == N - 6
    assert 100 < held_out.num_rows < 200
    whole = data.load(path, **options)
    means = [each.num_rows * each.targets.mean() for each in (fitted, held_out)]
    np.testing.assert_allclose(sum(means), whole.targets.sum())
    assert fitted.notes[0] == "6 of 600 rows were left out: a cell was empty or NaN."


@pytest.mark.parametrize(
    ("row", "change", "error"),
    [
        (450, {"a": ""}, ", line 452, column 'a': the cell is empty or NaN; --drop-missing leaves out such rows."),
        (450, {"a": "x"}, ", line 452, column 'a': expected a number, got 'x'."),
        (450, {"a": "1e999"}, ", line 452, column 'a': expected a finite number, got inf."),
        (450, {"y": "six"}, ", line 452, column 'y': expected a number, got 'six'."),
        (450, {"y": "1,0,"}, ", line 452: expected 3 cells as in the header, got 4."),
        (0, {"b": "1;5"}, None),
    ],
)
def test_mistakes_are_placed(tmp_path, rng, small_parts, row, change, error):
    table = {"a": rng.normal(size=N), "b": rng.normal(size=N), "y": rng.normal(size=N)}
    table = {name: [*map(str, column)] for name, column in table.items()}
    for name, cell in change.items():
        table[name][row] = cell
    path = tmp_path / "t.csv"
    path.write_text("\n".join(",".join(cells) for cells in [list(table), *zip(*table.values(), strict=True)]))
    with pytest.raises(data.DataError) as caught:
        data.least_squares(str(path), target="y")
    if error is None:
        error = ", line 2, column 'b': expected a number, got '1;5'."
    assert str(caught.value) == f"{path}{error}"


def test_a_hole_in_parquet_is_placed(tmp_path, rng, small_parts):
    table = columns(rng) | {"a": [None if i == 377 else 1.0 for i in range(N)]}
    path = written(tmp_path, table, "parquet")
    with pytest.raises(data.DataError, match=r"row 377, column 'a': the cell is empty or NaN"):
        data.least_squares(path, target="y", features=("a", "b"))


@pytest.mark.parametrize("targets", [[0.0, 1.0] * 300, ["no", "yes", "no"] * 200])
def test_classes_are_left_to_the_reader_of_all_rows(tmp_path, rng, small_parts, targets):
    for kind in ("csv", "parquet"):
        path = written(tmp_path, {"a": rng.normal(size=N), "y": targets}, kind)
        assert data.least_squares(path, target="y") is None
        if targets[0] == 0:
            small, _ = data.least_squares(path, target="y", classes_too=True)
            assert small.notes[-1].startswith("y: the values 0, 1 were taken as numbers.")


@pytest.mark.parametrize("kind", ["csv", "csv.gz", "parquet", "npz"])
def test_more_rows_than_memory_holds_are_refused(tmp_path, monkeypatch, rng, kind):
    monkeypatch.setattr(parts, "SMALL_FILE", 0)
    monkeypatch.setattr(memory, "LIMITS", (lambda: iter([30_000.0]),))
    monkeypatch.setattr(parts, "free_bytes", memory.free_bytes)
    path = str(tmp_path / f"t.{kind}")
    if kind == "npz":
        np.savez(path, X=rng.normal(size=(N, 2)), y=np.zeros(N))
    else:
        written(tmp_path, {name: rng.normal(size=N) for name in "aby"}, kind)
    target = None if kind == "npz" else "y"
    with pytest.raises(data.DataError) as caught:
        data.load(path, target=target)
    found = str(caught.value)
    assert found.startswith(f"{path}: a fit with all rows in memory takes about ")
    assert "and 30 kB are free; " in found
    assert "for another model" in found
    monkeypatch.setattr(memory, "LIMITS", ())  # a system that does not tell
    assert len(data.load(path, target=target).inputs) == N


def test_limits_of_the_process_are_known(monkeypatch):
    resource = pytest.importorskip("resource")
    for limited in (resource.RLIMIT_AS, resource.RLIMIT_DATA):
        left = {
            limited: 2**50,
            resource.RLIMIT_AS: resource.RLIM_INFINITY,
            resource.RLIMIT_DATA: resource.RLIM_INFINITY,
        }
        left[limited] = 2**50
        monkeypatch.setattr(resource, "getrlimit", lambda limit, left=left: (left[limit], left[limit]))
        [free] = memory._process()
        assert 2**49 < free < 2**50
        assert memory.free_bytes() < free  # of the machine


def test_the_command_says_how_many_rows_its_rows_stand_for(tmp_path, monkeypatch, rng, small_parts, capsys):
    monkeypatch.chdir(tmp_path)
    path = written(tmp_path, {name: rng.normal(size=N) for name in "aby"}, "csv")
    words = ["fit", "--data", path, "--target", "y", "--json", "--num-steps", "200"]
    assert cli.run(words) == 0
    found = json.loads(capsys.readouterr().out)
    whole = data.load(path, target="y")
    _, least = solved(whole.inputs, whole.targets)
    assert found["rows"] == N
    assert found["loss_at_minimizer"] == pytest.approx(least)
    assert found["r_squared"] == pytest.approx(1 - least / whole.targets.var())
    assert any(note.startswith("The 600 rows were read in parts, into 6 rows") for note in found["notes"])


@pytest.mark.parametrize(
    "words",
    [
        *(["--batch-size", "10"], ["--evaluation", "tiled"], ["--problem", "mlp"], ["--loss", "sum_squared_error"]),
        ["--problem", "line"],
    ],
)
def test_runs_that_need_the_rows_get_them(tmp_path, monkeypatch, rng, small_parts, capsys, words):
    path = written(tmp_path, {name: rng.normal(size=N) for name in "aby"}, "csv")
    monkeypatch.setattr(data, "least_squares", None)
    monkeypatch.setattr(memory, "LIMITS", (lambda: iter([30_000.0]),))
    assert cli.run(["fit", "--data", path, "--target", "y", *words]) == 2
    assert "a fit with all rows in memory takes about" in capsys.readouterr().err


LIMITED = """
import resource, sys
from pathlib import Path
from jaxgd import cli

def run(path, *words):
    return cli.run(["fit", "--data", path, "--target", "y", "--json", "--no-progress", "--out", *words])

small, large, folder, megabytes = sys.argv[1:]
assert run(small, folder + "/small") == 0  # everything is imported and compiled
used = int(Path("/proc/self/status").read_text().split("VmData:")[1].split()[0]) * 1024
limit = used + int(megabytes) * 2**20
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
print("limited")
assert run(large, folder + "/large") == 0
assert run(large, folder + "/batches", "--batch-size", "32") == 2
"""


@slow
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_file_four_times_the_memory_is_fitted(tmp_path, kind):
    """The process may take a quarter of the file beside what it has at the start; what holds all rows is refused."""
    from pyarrow import csv, parquet

    rng, weights = np.random.default_rng(0), np.arange(1.0, 8.0)
    write = {"csv": csv.CSVWriter, "parquet": parquet.ParquetWriter}[kind]
    schema = pyarrow.schema([(name, pyarrow.float64()) for name in [*"abcdefg", "y"]])
    large, small = (str(tmp_path / f"{name}.{kind}") for name in ("large", "small"))
    for path, repeats in ((small, 8), (large, 128 if kind == "csv" else 64)):
        with write(path, schema) as file:
            for _ in range(repeats):
                # Few digits, or a file of text would be larger than its numbers.
                inputs = rng.normal(size=(2**17, 7)) if kind == "parquet" else 1.0 * rng.integers(-9, 10, (2**17, 7))
                noise = rng.integers(-1, 2, size=2**17)
                table = [*inputs.T, inputs @ weights + noise]
                file.write_table(pyarrow.table(table, schema=schema))
    quarter = Path(large).stat().st_size // 2**22
    assert quarter >= 40
    words = [sys.executable, "-c", LIMITED, small, large, str(tmp_path), str(quarter)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:] + done.stdout[-2000:]
    fitted, refused = map(json.loads, done.stdout.split("limited\n")[1].splitlines())
    assert fitted["rows"] == repeats * 2**17
    for found in (fitted["closed_form"], fitted["parameters"]):
        np.testing.assert_allclose([found[name] for name in "abcdefg"], weights, atol=1e-3)
    assert re.search(r"a fit with all rows in memory takes about [\d.]+ GB \([\d.]+ [GM]B of numbers", refused["error"])
    assert "least squares (--problem linear_regression with full batches) reads the file in parts" in refused["error"]
