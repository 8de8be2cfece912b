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
from jaxgd.data import engines, parts, squares

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
    "numbers 0. and 1.": ("t.csv", "a,y\n1,0.\n2,1.\n3,1.0\n", Y, [[1], [2], [3]], [0, 1, 1], ()),
    "codes 1 and 2": ("t.csv", "a,y\n1,1\n2,2\n", Y, [[1], [2]], [1, 2], ()),
    "text of any language": ("t.csv", "größe,y\n1,groß\n2,klein\n", Y, [[1], [2]], [0, 1], ("groß", "klein")),
    "old Macintosh lines": ("t.csv", "a,y\r1,2\r3,4\r", Y, [[1], [3]], [2, 4], ()),
    "numbers in quotes": ("t.csv", 'a,y\n"1.5",2\n"2.5",4\n', Y, [[1.5], [2.5]], [2, 4], ()),
    "one-hot of numbers": (
        "t.csv", "c,y\n3,2\n1,4\n3,6\n", Y | {"one_hot": ("c",)}, [[1], [0], [1]], [2, 4, 6], (),
    ),
    "a word for no value among classes": ("t.csv", "a,y\n1,none\n2,some\n", Y, [[1], [2]], [0, 1], ("none", "some")),
    "a hole among the classes": (
        "t.csv", "a,y\n1,u\n2,\n3,v\n", Y | {"drop_missing": True}, [[1], [3]], [0, 1], ("u", "v"),
    ),
}  # fmt: skip

BAD = {
    "empty": ("t.csv", "", Y, "{path}: the file is empty; expected a header line of column names."),
    "only comments": ("t.csv", "# nothing\n", Y, "{path}: the file is empty; expected a header line of column names."),
    "a name is missing": (
        "t.csv", "a,,y\n1,2,3\n", Y, "{path}, line 1: column 2 has no name; give it one, or "
        "leave it out (in pandas: to_csv(..., index=False)).",
    ),
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
    "a marker of holes": (
        "t.csv", "a,y\n1,2\nNA,4\n5,6\n", Y,
        "{path}, line 3, column 'a': expected a number, got 'NA'; leave a cell empty where a value is missing.",
    ),
    "a marker of holes in the target": (
        "t.csv", "a,y\n1,2\n3,?\n5,6\n", Y,
        "{path}, line 3, column 'y': expected a number, got '?'; leave a cell empty where a value is missing.",
    ),
    "markers of holes among categories": (
        "t.csv", "c,y\n?,2\nred,4\nblue,6\n", Y,
        "{path}, column 'c': text ('red', 'blue') cannot be an input; code it by --one-hot c, or leave the column out "
        "with --features.",
    ),
    "a comma that may part thousands": (
        "t.csv", 'a,y\n"1,200",2\n3,4\n', Y,
        "{path}, line 2, column 'a': '1,200' has a comma; write 1.200, or 1200 if it parts thousands.",
    ),
    "commas between thousands": (
        "t.csv", 'a,y\n"1,200,300.5",2\n3,4\n', Y,
        "{path}, line 2, column 'a': '1,200,300.5' has commas between thousands; write 1200300.5.",
    ),
    "money": (
        "t.csv", "a,y\n$1.50,2\n$3,4\n", Y,
        "{path}, line 2, column 'a': expected a number, got '$1.50'; write 1.50 and keep the unit in the column's "
        "name.",
    ),
    "percentages for a target": (
        "t.csv", "a,y\n1,5%\n2,10 %\n", Y,
        "{path}, line 2, column 'y': expected a number, got '5%'; write 5 and keep the unit in the column's name.",
    ),
    "another separator": (
        "t.csv", "a|y\n1|2\n3|4\n", Y,
        "{path}: at least two columns are needed, got only 'a|y'; the separator of a text must be a comma, a semicolon "
        "or a tab.",
    ),
    "an index without a name": (
        "t.csv", ",a,y\n0,1,2\n1,3,4\n", Y,
        "{path}, line 1: column 1 has no name; give it one, or leave it out (in pandas: to_csv(..., index=False)).",
    ),
    "names with commas between": (
        "t.csv", ROWS, Y | {"features": ("a,b",)},
        "{path}: no column 'a,b'; the columns are a, b, y. Separate names by spaces: a b.",
    ),
    "no header": (
        "t.csv", "1,2\n3,4\n", Y, "{path}, line 1: expected a header of column names, got 1,2; add one.",
    ),
    "a name twice": ("t.csv", "a,a,y\n1,2,3\n", Y, "{path}, line 1: the column names a, a, y must differ."),
    "no rows": ("t.csv", "a,y\n", Y, "{path}: there is a header but no row of data."),
    "one row": ("t.csv", "a,y\n1,2\n", Y, "{path}: at least 2 rows are needed, got 1."),
    "a short row": ("t.csv", "a,y\n1,2\n3\n", Y, "{path}, line 3: expected 2 cells as in the header, got 1."),
    "a long row": ("t.csv", "a,y\n1,2\n3,4,5\n", Y, "{path}, line 3: expected 2 cells as in the header, got 3."),
    "infinity": (
        "t.csv", "a,y\n1,2\ninf,4\n", Y, "{path}, line 3, column 'a': expected a finite number, got inf.",
    ),
    "another encoding": (
        "t.csv", "a,y\n1,groß\n2,klein\n".encode("latin-1"), Y,
        "{path}, line 2: cannot be read as UTF-8 (byte 0xdf); save the file as UTF-8.",
    ),
    "UTF-16": (
        "t.csv", "a,y\n1,2\n".encode("utf-16"), Y,
        "{path}, line 1: cannot be read as UTF-8 (byte 0xff); save the file as UTF-8.",
    ),
    "no target": ("t.csv", ROWS, {}, "{path}: --target is needed, one of the columns a, b, y."),
    "the target among the features": (
        "t.csv", ROWS, Y | {"features": ("a", "y")}, "{path}: the target 'y' cannot be among the features.",
    ),
    "a target of dates": (
        "t.csv", "a,y\n1,2024-01-05\n2,2024-01-06\n", Y,
        "{path}, column 'y': dates cannot be a target; give a column of numbers or classes.",
    ),
    "not a packed file": (
        "t.csv.gz", ROWS, Y, "{path}: cannot be read (Not a gzipped file (b'a,')).",
    ),
    "holes": (
        "t.csv", "a,y\n1,2\n,4\n5,\n", Y,
        "{path}, line 3, column 'a': the cell is empty or NaN; --drop-missing leaves out such rows (2 of 3).",
    ),
    "nothing left": (
        "t.csv", "a,y\n1,2\n,4\n5,\n", Y | {"drop_missing": True},
        "{path}: --drop-missing leaves 1 of 3 rows; column 'a' has empty cells.",
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
        "t.xlsx", "", Y, "{path}: files are read as .csv, .tsv, .parquet or .npz; save it as one of these.",
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
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(data.DataError) as caught:
        data.load(str(path), **options)
    assert str(caught.value) == error.format(path=path)


def test_the_iris_that_everyone_has(tmp_path):
    """150 flowers of three species by name, as they are in Fisher's table."""
    datasets = pytest.importorskip("sklearn.datasets", reason="scikit-learn is in the cli extra")
    iris = datasets.load_iris()
    rows = [f"{','.join(map(str, x))},{iris.target_names[k]}" for x, k in zip(iris.data, iris.target, strict=True)]
    path = tmp_path / "iris.csv"
    path.write_text("\n".join(["sepal_length,sepal_width,petal_length,petal_width,species", *rows]) + "\n")
    dataset = data.load(str(path), target="species")
    np.testing.assert_array_equal(dataset.inputs, iris.data)
    np.testing.assert_array_equal(dataset.targets, iris.target)
    assert dataset.class_names == ("setosa", "versicolor", "virginica")
    assert dataset.notes == ("species: setosa -> 0, versicolor -> 1, virginica -> 2.",)


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
@pytest.mark.parametrize("reader", ["careful", "fast", "parts"])
def test_damaged_files_are_read_or_refused_in_one_line(tmp_path, monkeypatch, count, reader):
    read = data.load
    if reader != "careful":
        pytest.importorskip("pyarrow", reason="pyarrow is in the cli extra")
        monkeypatch.setattr(engines, "FAST_FROM", 1)
    if reader == "parts":
        read = data.least_squares
        for module, name in ((parts, "SMALL_FILE"), (squares, "PARTS_FROM"), (squares, "ROWS_PER_COLUMN")):
            monkeypatch.setattr(module, name, 0)
    rng = random.Random(7)
    lines = []
    for name, whole in whole_files(tmp_path).items():
        path = tmp_path / name
        for _ in range(count):
            path.write_bytes(damaged(whole, rng))
            try:
                read(str(path), target=None if name.endswith("npz") else "y")
            except data.DataError as error:
                lines.append(str(error))
    assert len(lines) > count
    assert not [line for line in lines if "\n" in line]
