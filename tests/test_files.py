"""Files as people have them: for each the data that are read, or the exact line that refuses them."""

import datetime
import gzip
import io
import random
import sys

import numpy as np
import pytest
from common import slow

from jaxgd import data
from jaxgd.data import engines

IRIS = "sepal_length,sepal_width,species\n5.1,3.5,setosa\n7.0,3.2,versicolor\n6.3,3.3,virginica\n4.9,3.0,setosa\n"
ROWS = "a,b,y\n1,2,0.5\n3,5,1.5\n2,1,2.5\n"
Y = {"target": "y"}

# name of the file, its text, the options, inputs, targets, class names
GOOD = {
    "comma": ("t.csv", ROWS, Y, [[1, 2], [3, 5], [2, 1]], [0.5, 1.5, 2.5], ()),
    "semicolon": ("t.csv", ROWS.replace(",", ";"), Y, [[1, 2], [3, 5], [2, 1]], [0.5, 1.5, 2.5], ()),
    "tab": ("t.tsv", ROWS.replace(",", "\t"), Y, [[1, 2], [3, 5], [2, 1]], [0.5, 1.5, 2.5], ()),
    "tab named csv": ("t.csv", ROWS.replace(",", "\t"), Y, [[1, 2], [3, 5], [2, 1]], [0.5, 1.5, 2.5], ()),
    "windows lines": ("t.csv", ROWS.replace("\n", "\r\n"), Y, [[1, 2], [3, 5], [2, 1]], [0.5, 1.5, 2.5], ()),
    "byte order mark": ("t.csv", "\ufeff" + ROWS, Y, [[1, 2], [3, 5], [2, 1]], [0.5, 1.5, 2.5], ()),
    "quotes": ("t.csv", '"a, b",y\n"1","2"\n"3",4\n', Y, [[1], [3]], [2, 4], ()),
    "a line break in quotes": ("t.csv", '"a\nb",y\n1,2\n3,4\n', Y, [[1], [3]], [2, 4], ()),
    "comments": ("t.csv", "# made by hand\na,y\n1,2\n# half time\n3,4\n", Y, [[1], [3]], [2, 4], ()),
    "separator at the end": ("t.csv", "a,y,\n1,2,\n3,4,\n", Y, [[1], [3]], [2, 4], ()),
    "blank lines": ("t.csv", "a,y\n\n1,2\n\n3,4\n\n", Y, [[1], [3]], [2, 4], ()),
    "spaces around names": ("t.csv", " a , y \n1, 2\n3, 4\n", Y, [[1], [3]], [2, 4], ()),
    "a column not used": ("t.csv", "n,a,y\nx,1,2\nz,3,4\n", Y | {"features": ("a",)}, [[1], [3]], [2, 4], ()),
    "exponents": ("t.csv", "a,y\n1e3,2\n-3E-1,4\n", Y, [[1000], [-0.3]], [2, 4], ()),
    "yes and no": ("t.csv", "a,y\n1,yes\n2,no\n3,yes\n", Y, [[1], [2], [3]], [1, 0, 1], ("no", "yes")),
    "True and False": ("t.csv", "a,y\n1,True\n2,False\n", Y, [[1], [2]], [1, 0], ("False", "True")),
    "two words": ("t.csv", "a,y\n1,spam\n2,ham\n", Y, [[1], [2]], [1, 0], ("ham", "spam")),
    "benign and malignant": ("t.csv", "a,y\n1,malignant\n2,benign\n", Y, [[1], [2]], [1, 0], ("benign", "malignant")),
    "pos and neg": ("t.csv", "a,y\n1,positive\n2,negative\n", Y, [[1], [2]], [1, 0], ("negative", "positive")),
    "three words": (
        "iris.csv",
        IRIS,
        {"target": "species"},
        [[5.1, 3.5], [7.0, 3.2], [6.3, 3.3], [4.9, 3.0]],
        [0, 1, 2, 0],
        ("setosa", "versicolor", "virginica"),
    ),
    "one-hot": (
        "t.csv",
        "c,a,y\nred,1,2\nblue,3,4\ngreen,5,6\n",
        Y | {"one_hot": ("c",)},
        [[0, 1, 1], [0, 0, 3], [1, 0, 5]],
        [2, 4, 6],
        (),
    ),
    "holes dropped": ("t.csv", "a,y\n1,2\n,3\n4,\nnan,5\n6,7\n", Y | {"drop_missing": True}, [[1], [6]], [2, 7], ()),
    "a hole in a column not used": ("t.csv", "n,a,y\n,1,2\n5,3,4\n", Y | {"features": ("a",)}, [[1], [3]], [2, 4], ()),
    "a hole among the classes": (
        "t.csv", "a,y\n1,u\n2,\n3,v\n", Y | {"drop_missing": True}, [[1], [3]], [0, 1], ("u", "v"),
    ),
}  # fmt: skip

BAD = {
    "empty": ("t.csv", "", Y, "{path}: the file is empty; expected a header line of column names."),
    "only comments": ("t.csv", "# nothing\n", Y, "{path}: the file is empty; expected a header line of column names."),
    "a name is missing": ("t.csv", "a,,y\n1,2,3\n", Y, "{path}, line 1: column 2 has no name."),
    "a typing mistake in the target": (
        "t.csv", "age,weight\n1,2\n3,4\n", {"target": "wieght"},
        "{path}: no column 'wieght'; the columns are age, weight. Did you mean 'weight'?",
    ),
    "decimal commas": (
        "t.csv", "a;y\n1,5;2\n3,25;4\n", Y, "{path}, line 2, column 'a': '1,5' has a decimal comma; write 1.5.",
    ),
    "a decimal comma in the target": (
        "t.csv", "a;y\n1;2,5\n3;4\n", Y, "{path}, line 2, column 'y': '2,5' has a decimal comma; write 2.5.",
    ),
    "text among the inputs": (
        "t.csv", IRIS.replace("species", "kind"), {"target": "sepal_width"},
        "{path}, column 'kind': text ('setosa', 'versicolor', 'virginica') cannot be an input; code it by --one-hot "
        "kind, or leave the column out with --features.",
    ),
    "dates": (
        "t.csv", "day,y\n2024-01-05,1\n2024-02-05,2\n", Y,
        "{path}, column 'day': dates cannot be inputs; turn them into numbers (such as days since the "
        "first), or leave the column out with --features.",
    ),
    "one slip": (
        "t.csv", "a,y\n1,2\n3,4\nx5,6\n", Y, "{path}, line 4, column 'a': expected a number, got 'x5'.",
    ),
    "a slip in the target": (
        "t.csv", "a,y\n1,2\n3,4\n5,six\n", Y, "{path}, line 4, column 'y': expected a number, got 'six'.",
    ),
    "an unknown marker of holes": (
        "t.csv", "a,y\n1,2\nNA,4\n5,6\n", Y, "{path}, line 3, column 'a': expected a number, got 'NA'.",
    ),
    "holes": (
        "t.csv", "a,y\n1,2\n,4\n5,\n", Y,
        "{path}, line 3, column 'a': the cell is empty or NaN; --drop-missing leaves out such rows (2 of 3).",
    ),
    "nothing left": (
        "t.csv", "a,y\n1,2\n,4\n5,\n", Y | {"drop_missing": True},
        "{path}: --drop-missing leaves 1 of 3 rows; column 'a' has holes.",
    ),
    "every row its own word": (
        "t.csv", "a,y\n" + "".join(f"{i},name{i}\n" for i in range(30)), Y,
        "{path}, column 'y': 30 different words in 30 rows cannot be classes.",
    ),
    "one class": ("t.csv", "a,y\n1,u\n2,u\n", Y, "{path}, column 'y': at least 2 classes are needed, got only 'u'."),
    "one-hot of a column not used": (
        "t.csv", "c,a,y\nu,1,2\nv,3,4\n", Y | {"features": ("a",), "one_hot": ("c",)},
        "{path}: --one-hot c is not among the inputs a.",
    ),
    "one-hot of one value": (
        "t.csv", "c,a,y\nu,1,2\nu,3,4\n", Y | {"one_hot": ("c",)},
        "{path}, column 'c': --one-hot needs at least 2 values, got u.",
    ),
    "an unknown kind of file": (
        "t.xlsx", "", Y,
        "--data must be one of breast_cancer, diabetes, digits, iris, linnerud, wine, or a .csv, .tsv, .parquet or "
        ".npz file, got '{path}'.",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("name", "text", "options", "inputs", "targets", "classes"), GOOD.values(), ids=GOOD)
@pytest.mark.parametrize("packed", [False, True], ids=["as it is", "gz"])
def test_files_that_are_read(tmp_path, name, text, options, inputs, targets, classes, packed):
    path = tmp_path / (name + ".gz" * packed)
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    dataset = data.load(str(path), **options)
    np.testing.assert_allclose(dataset.inputs, inputs)
    np.testing.assert_allclose(dataset.targets, targets)
    assert dataset.class_names == classes
    assert dataset.targets.dtype.kind == ("i" if classes else "f")


@pytest.mark.parametrize(("name", "text", "options", "inputs", "targets", "classes"), GOOD.values(), ids=GOOD)
def test_the_fast_engine_reads_the_same(tmp_path, monkeypatch, name, text, options, inputs, targets, classes):
    pytest.importorskip("pyarrow", reason="pyarrow is in the cli extra")
    monkeypatch.setattr(engines, "FAST_FROM", 1)
    path = tmp_path / name
    path.write_bytes(text.encode())
    dataset = data.load(str(path), **options)
    np.testing.assert_allclose(dataset.inputs, inputs)
    np.testing.assert_allclose(dataset.targets, targets)
    assert dataset.class_names == classes


@pytest.mark.parametrize(("name", "text", "options", "error"), BAD.values(), ids=BAD)
@pytest.mark.parametrize("fast", [False, True], ids=["careful", "fast"])
def test_files_that_are_refused(tmp_path, monkeypatch, name, text, options, error, fast):
    if fast:
        pytest.importorskip("pyarrow", reason="pyarrow is in the cli extra")
        monkeypatch.setattr(engines, "FAST_FROM", 1)
    path = tmp_path / name
    path.write_bytes(text.encode())
    with pytest.raises(data.DataError) as caught:
        data.load(str(path), **options)
    assert str(caught.value) == error.format(path=path)


def test_standard_input(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(ROWS.encode())))
    np.testing.assert_allclose(data.load("-", target="y").targets, [0.5, 1.5, 2.5])


@pytest.mark.parametrize(
    "names", [("inputs", "targets"), ("X", "y"), ("x", "y"), ("data", "target"), ("arr_0", "arr_1")]
)
def test_names_inside_an_npz(tmp_path, names):
    np.savez(tmp_path / "t.npz", **dict(zip(names, (np.eye(3), np.array([[1.0], [2.0], [4.0]])), strict=True)))
    dataset = data.load(str(tmp_path / "t.npz"))
    assert dataset.targets.tolist() == [1, 2, 4]  # one column of targets is [N]


def test_an_npz_with_words_for_targets(tmp_path):
    np.savez(tmp_path / "t.npz", X=np.eye(3), y=np.array(["b", "a", "b"]))
    dataset = data.load(str(tmp_path / "t.npz"))
    assert dataset.targets.tolist() == [1, 0, 1]
    assert dataset.class_names == ("a", "b")


def test_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is in the cli extra")
    from pyarrow import parquet

    columns = {
        "a": [1, 2, None, 4],
        "c": ["u", "v", "u", "v"],
        "day": [datetime.date(2024, 1, 1)] * 4,
        "y": [1.5] * 4,
    }
    path = str(tmp_path / "t.parquet")
    parquet.write_table(pyarrow.table(columns), path)
    chosen = data.load(path, target="c", features=("a",), drop_missing=True)
    assert chosen.inputs.tolist() == [[1], [2], [4]]
    assert chosen.targets.tolist() == [0, 1, 1]
    assert chosen.notes[0] == "1 of 4 rows were left out: a cell was empty or NaN."
    with pytest.raises(data.DataError) as caught:
        data.load(path, target="y", features=("a",))
    assert str(caught.value) == (
        f"{path}, row 2, column 'a': the cell is empty or NaN; --drop-missing leaves out such rows (1 of 4)."
    )
    with pytest.raises(data.DataError, match="column 'day': dates cannot be inputs; turn them into numbers"):
        data.load(path, target="y", features=("day",))


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_frames(library):
    frames = pytest.importorskip(library)
    frame = frames.DataFrame({"a": [1, 2, 3], "b": [0.5, 1.5, 2.5], "kind": ["u", "v", "u"]})
    dataset = data.load(frame, target="kind")
    assert dataset.inputs.tolist() == [[1, 0.5], [2, 1.5], [3, 2.5]]
    assert dataset.class_names == ("u", "v")
    with pytest.raises(data.DataError, match=r"the DataFrame: no column 'kinds'; .* Did you mean 'kind'"):
        data.load(frame, target="kinds")


def test_codes_are_taken_as_classes_where_a_classifier_asks(tmp_path):
    path = tmp_path / "t.csv"
    for codes, names in (([-1, 1, 1], ("-1", "1")), ([1, 2, 2], ("1", "2"))):
        path.write_text("a,y\n" + "".join(f"{i},{code}\n" for i, code in enumerate(codes)))
        labelled = data.as_labels(data.load(str(path), target="y"), 2)
        assert labelled.targets.tolist() == [0, 1, 1]
        assert labelled.class_names == names
        assert labelled.notes[-1] == f"y: the codes were taken as classes, {names[0]} -> 0, {names[1]} -> 1."


def test_an_unknown_set_with_a_typing_mistake():
    with pytest.raises(data.DataError, match=r"got 'diabets'\. Did you mean 'diabetes'\?$"):
        data.load("diabets")


def test_an_unknown_file_with_a_typing_mistake(tmp_path):
    (tmp_path / "table.csv").write_text(ROWS)
    with pytest.raises(data.DataError, match=r"tabel\.csv: no such file\. Did you mean 'table\.csv'\?$"):
        data.load(str(tmp_path / "tabel.csv"), target="y")


def damaged(whole, rng):
    """A file with bytes changed, cut off, put in, or repeated."""
    broken = bytearray(whole)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(broken))
        kind = rng.randrange(4)
        if kind == 0:
            broken[at] = rng.randrange(256)
        elif kind == 1:
            del broken[at : at + rng.randint(1, 40)]
        elif kind == 2:
            broken[at:at] = bytes(rng.randrange(256) for _ in range(rng.randint(1, 10)))
        else:
            broken[at:at] = broken[at : at + 30]
        if not broken:
            return b""
    return bytes(broken)


def whole_files(folder):
    rng = np.random.default_rng(0)
    inputs, targets = rng.normal(size=(20, 3)), rng.normal(size=20)
    lines = ["a,b,c,y", *(",".join(f"{x:.4f}" for x in (*row, y)) for row, y in zip(inputs, targets, strict=True))]
    text = "\n".join(lines).encode()
    np.savez(folder / "whole.npz", inputs=inputs, targets=targets)
    np.savez_compressed(folder / "packed.npz", X=inputs, y=targets)
    files = {
        "t.csv": text,
        "t.csv.gz": gzip.compress(text),
        "t.npz": (folder / "whole.npz").read_bytes(),
        "u.npz": (folder / "packed.npz").read_bytes(),
    }
    if engines.installed("pyarrow"):
        import pyarrow
        from pyarrow import parquet

        table = pyarrow.table({name: inputs[:, i] for i, name in enumerate("abc")} | {"y": targets})
        parquet.write_table(table, folder / "whole.parquet")
        files["t.parquet"] = (folder / "whole.parquet").read_bytes()
    return files


@pytest.mark.parametrize("count", [40, pytest.param(400, marks=slow)])
@pytest.mark.parametrize("fast", [False, True], ids=["careful", "fast"])
def test_damaged_files_are_read_or_refused_in_one_line(tmp_path, monkeypatch, count, fast):
    if fast:
        pytest.importorskip("pyarrow", reason="pyarrow is in the cli extra")
        monkeypatch.setattr(engines, "FAST_FROM", 1)
    rng = random.Random(7)
    lines = []
    for name, whole in whole_files(tmp_path).items():
        path = tmp_path / name
        for _ in range(count):
            path.write_bytes(damaged(whole, rng))
            try:
                data.load(str(path), target=None if name.endswith("npz") else "y")
            except data.DataError as error:
                lines.append(str(error))
    assert len(lines) > count
    assert not [line for line in lines if "\n" in line]
