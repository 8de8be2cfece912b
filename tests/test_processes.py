"""Several processes: each reads its own rows of a table, and the results are those of one process."""

import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import jax
import numpy as np
import pytest
from common import free_address, slow

import jaxgd
from jaxgd import cli, data
from jaxgd.data import engines, parts, processes, scaling, shares, squares

ROOT = Path(jaxgd.__file__).parents[1]
N = 1203
pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is in the cli extra")


@pytest.fixture
def together(monkeypatch):
    """A function that runs some work in so many threads, each of which takes itself for a process."""
    monkeypatch.setattr(parts, "SMALL_FILE", 0)
    monkeypatch.setattr(engines, "PART_ROWS", 100)
    monkeypatch.setattr(engines, "PART_BYTES", 2000)
    here, count = threading.local(), [1]
    monkeypatch.setattr(jax, "process_index", lambda: getattr(here, "index", 0))
    monkeypatch.setattr(jax, "process_count", lambda: count[0])
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: count[0] > 1)

    def run(num_processes, work):
        barrier, given, results = threading.Barrier(num_processes, timeout=60), {}, {}

        def gather(value):
            barrier.wait()
            given[here.index] = value
            barrier.wait()
            return [given[i] for i in range(num_processes)]

        def one(index):
            here.index = index
            try:
                results[index] = work()
            except Exception as error:
                results[index] = error
                barrier.abort()

        for module in (processes, scaling, shares):
            monkeypatch.setattr(module, "gather", gather)
        count[0] = num_processes
        threads = [threading.Thread(target=one, args=(i,)) for i in range(num_processes)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        count[0] = 1
        for result in results.values():
            if isinstance(result, Exception) and not isinstance(result, threading.BrokenBarrierError):
                raise result
        return [results[i] for i in range(num_processes)]

    return run


def columns():
    """Inputs of different sizes, holes, a category and several kinds of targets."""
    rng = np.random.default_rng(0)
    a, b, kind = 1e4 + rng.normal(size=N), 1e-6 * rng.normal(size=N), rng.choice(["u", "v", "w"], N)
    kind[: N // 2] = rng.choice(["u", "v"], N // 2)  # the first process never meets "w"
    z = (a - 1e4) + 1e6 * b + 1.0 * (kind == "w") + 0.5 * rng.normal(size=N)
    return {
        "a": a,
        "b": b,
        "kind": kind,
        "holes": [None if i % 100 == 7 else float(i % 13) for i in range(N)],
        "y": 0.5 * a + z,
        "share": 1 / (1 + np.exp(-z)),
        "word": np.where(z > 0.3, "yes", "no"),
        "code": 1.0 + (z > 0.3),
        "three": np.digitize(np.sort(z), [-1.0, 1.0]),
    }


def written(folder, table, kind):
    """The path of a table in a file."""
    path = str(folder / f"t.{kind}")
    if kind == "parquet":
        from pyarrow import parquet

        parquet.write_table(pyarrow.table(table), path, row_group_size=170)
    else:
        from pyarrow import csv

        csv.write_csv(pyarrow.table(table), path)
    return path


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize("num_processes", [2, 5])
def test_every_process_has_its_rows_and_together_they_are_all(tmp_path, together, kind, num_processes):
    path = written(tmp_path, columns(), kind)
    options = {"features": ("a", "kind", "holes"), "one_hot": ("kind",), "drop_missing": True}
    for target in ("word", "three", "y"):
        whole = data.load(path, target=target, **options)

        def read(target=target):
            share = data.share(path, target=target, **options)
            fitted, held_out = data.split(share, 0.25, 3)
            few = data.equivalent_inputs(fitted, lambda inputs: inputs)
            return share, fitted, held_out, data.standardization(fitted), few

        found = together(num_processes, read)
        for i in range(3):
            expected = (whole, *data.split(whole, 0.25, 3))[i]
            sets = [each[i] for each in found]
            np.testing.assert_array_equal(np.concatenate([each.inputs for each in sets]), expected.inputs)
            np.testing.assert_array_equal(np.concatenate([each.targets for each in sets]), expected.targets)
            assert {each.shares for each in sets} == {tuple(len(each.inputs) for each in sets)}
            assert max(sets[0].shares) < 1.3 * len(expected.inputs) / num_processes + 20
            for field in ("notes", "class_names", "input_names", "one_hot", "target_names", "num_rows"):
                assert {getattr(each, field) for each in sets} == {getattr(expected, field)}
        fitted = data.split(whole, 0.25, 3)[0]
        expected = data.standardization(fitted)
        for _, _, _, scores, few in found:
            np.testing.assert_allclose(scores.mean, expected.mean, rtol=1e-14)
            np.testing.assert_allclose(scores.scale, expected.scale, rtol=1e-11)
            np.testing.assert_allclose(
                np.cov(few.T, bias=True), np.cov(fitted.inputs.T, bias=True), rtol=1e-9, atol=1e-9
            )


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize("held_out", [0.0, 0.25])
def test_least_squares_adds_up_over_processes(tmp_path, together, monkeypatch, kind, held_out):
    monkeypatch.setattr(squares, "PARTS_FROM", 0)
    path = written(tmp_path, columns(), kind)
    options = {"target": "y", "features": ("a", "kind", "holes"), "one_hot": ("kind",), "drop_missing": True}
    expected = data.least_squares(path, **options, held_out=held_out, seed=3)
    for both in together(3, lambda: data.least_squares(path, **options, held_out=held_out, seed=3)):
        for found, whole in zip(both, expected, strict=True):
            assert found.num_rows == whole.num_rows
            assert found.notes == whole.notes
            rows = [np.column_stack([each.inputs, each.targets]) for each in (found, whole)]
            assert len(rows[0]) == len(rows[1])
            if len(rows[0]):
                np.testing.assert_allclose(*(each.mean(axis=0) for each in rows), rtol=1e-13)
                np.testing.assert_allclose(*(np.cov(each.T, bias=True) for each in rows), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(
    ("column", "row", "cell"),
    [("a", 1100, "x"), ("a", 3, ""), ("a", 700, "1e999"), ("word", 1200, "7"), ("kind", 900, '"new\nline"')],
)
def test_what_one_process_cannot_read_all_read(tmp_path, together, column, row, cell):
    """Then the error is that of all rows, with its line."""
    table = {name: [*map(str, values)] for name, values in columns().items() if name != "holes"}
    table[column][row] = cell
    path = tmp_path / "t.csv"
    path.write_text("\n".join(",".join(cells) for cells in [list(table), *zip(*table.values(), strict=True)]))
    options = {"target": "word", "features": ("a", "b", "kind"), "one_hot": ("kind",)}
    found = together(3, lambda: data.share(str(path), **options))
    if column == "kind":  # a cell may span lines where no process begins
        assert [found[0].one_hot] * 3 == [each.one_hot for each in found]
        assert "new\nline" in dict(found[0].one_hot)["kind"]
    else:
        assert found == [None, None, None]
        with pytest.raises(data.DataError, match=f"line {2 if column == 'word' else row + 2},"):
            data.load(str(path), **options)


def test_a_row_that_would_be_cut_is_not(tmp_path, together):
    """One cell of many lines in the middle of the file, where the second process would begin."""
    lines = [f"{i},{i % 7},{i % 2}" for i in range(400)]
    path = tmp_path / "t.csv"
    path.write_text("\n".join(["a,b,y", *lines, '5,"' + "0,0,0\n" * 400 + '",1', *lines]))
    assert together(2, lambda: data.share(str(path), target="y", features=("a",))) == [None, None]


def test_targets_are_changed_by_all_values_there_are(tmp_path, together):
    table = {"a": np.arange(600.0), "y": np.repeat([1.0, 2.0, 3.0], 200)}
    path = written(tmp_path, table, "parquet")

    def labelled():
        share = data.share(path, target="y")
        return data.with_targets(share, data.as_labels), data.with_targets(share, lambda few: data.as_labels(few, 2))

    expected = data.as_labels(data.load(path, target="y"))
    found = together(3, labelled)
    np.testing.assert_array_equal(np.concatenate([both[0].targets for both, _ in found]), expected.targets)
    assert {both[0].notes for both, _ in found} == {expected.notes}
    assert [refused for _, refused in found] == [None] * 3


RUN = """
import contextlib, io, json, os, sys
import jax
from jaxgd import cli
from jaxgd.data import parts

address, processes, process, commands = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), json.loads(sys.argv[4])
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 4 // processes)
jax.distributed.initialize(address, processes, process)
parts.SMALL_FILE = 0  # every file counts as large
printed = []
for words in commands:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        code = cli.run(words)
    printed.append([code, out.getvalue()])
    jax.config.update("jax_enable_x64", False)
print(json.dumps(printed), flush=True)
cli.fit.leave()
os._exit(0)
"""


def in_processes(num_processes, commands, folder):
    """What several processes print that run the same commands one after the other."""
    with free_address() as address:
        words = [sys.executable, "-c", RUN, address, str(num_processes)]
        started = [
            subprocess.Popen(
                [*words, str(i), json.dumps(commands)],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                cwd=folder,
                env=os.environ | {"PYTHONPATH": str(ROOT)},
            )
            for i in range(num_processes)
        ]
        ended = [process.communicate(timeout=500) for process in started]
    assert [process.returncode for process in started] == [0] * num_processes, ended[0][1][-3000:]
    return [json.loads(out.splitlines()[-1]) for out, _ in ended]


@pytest.fixture
def x64_restored():
    """What the command sets by `--x64` is taken back after the test."""
    yield
    jax.config.update("jax_enable_x64", True)


FITS = [
    ("csv", "--target word --num-steps 40"),
    ("parquet", "--target word --held-out 0.2 --l2 0.01 --patience 3 --num-steps 40"),
    ("csv", "--target three --problem softmax_regression --num-steps 40"),
    (
        "parquet",
        "--target code --problem logistic_regression --no-standardize --features b holes --num-steps 40",
    ),
    ("csv", "--target share --problem sigmoid_neuron --num-steps 40"),
    ("parquet", "--target share --problem mlp --hidden-sizes 8 --num-steps 40"),
    ("csv", "--target three --problem mlp --hidden-sizes 20 --num-steps 40 --learning-rate 0.1"),
    ("parquet", "--target y --held-out 0.2 --num-steps 40"),
    ("csv", "--target y --num-steps 40"),
    ("csv", "--target word --batch-size 100 --num-steps 30"),
    ("csv", "--target word --features y --num-steps 20 --drop-missing --one-hot word"),
]
EVALUATED = ["sharded"] * 7 + ["compressed"] * 2 + ["plain"]
UNEQUAL = {"seconds", "compile_seconds", "folder", "evaluation", "notes", "grad_norm"}


@slow
@pytest.mark.parametrize("num_processes", [2, 4])
def test_the_results_are_those_of_one_process(tmp_path, monkeypatch, capsys, x64_restored, num_processes):
    """Every kind of system and of target; two processes of two devices each, and four of one."""
    for kind in ("csv", "parquet"):
        written(tmp_path, columns(), kind)
    monkeypatch.chdir(tmp_path)
    common = ["--one-hot", "kind", "--drop-missing", "--x64", "--json", "--no-progress"]
    commands = []
    for kind, words in FITS:
        words = words.split()
        options = ["--features", "a", "b", "kind", "holes"] if "--features" not in words else []
        rest = [word for word in common if "kind" in options or word not in ("--one-hot", "kind")]
        commands.append(["fit", "--data", f"t.{kind}", *words, *options, *rest])
    for i, words in enumerate(commands):
        words += ["--out", f"one{i}"]
    expected = []
    for words in commands:
        code = cli.run(words)
        expected.append((code, json.loads(capsys.readouterr().out)))
        jax.config.update("jax_enable_x64", False)
    renamed = [[re.sub("^one", "all", word) for word in words] for words in commands]
    printed = in_processes(num_processes, renamed, tmp_path)
    for other in printed[1:]:
        assert [out for _, out in other if "error" not in out] == [""] * sum("error" not in out for _, out in other)
    assert [json.loads(text)["evaluation"] for _, text in printed[0][: len(EVALUATED)]] == EVALUATED
    for (code, whole), (found_code, text), words in zip(expected, printed[0], commands, strict=True):
        found = json.loads(text)
        assert found_code == code, (words, found, whole)
        assert set(found) == set(whole), words
        for name in set(whole) - UNEQUAL:
            if isinstance(whole[name], float):
                np.testing.assert_allclose(found[name], whole[name], rtol=1e-7, atol=1e-10, err_msg=f"{words} {name}")
            elif isinstance(whole[name], dict):
                for key, value in whole[name].items():
                    np.testing.assert_allclose(found[name][key], value, rtol=1e-6, atol=1e-8, err_msg=f"{words} {key}")
            else:
                assert found[name] == whole[name], (words, name)
