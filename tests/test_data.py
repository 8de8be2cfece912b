"""Data as they come: bundled sets, files, and every mistake in one exact line."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common import assert_trees_close

from jaxgd import data, problems
from jaxgd.types import Batch, LinearMapParams, LinearParams, LineParams

GOOD = "age,height,weight\n1,2,3\n4,5,7\n7,9,9\n"


def write(folder, text, name="table.csv"):
    path = folder / name
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    ("name", "shape", "targets"),
    [
        ("diabetes", (442, 10), (442,)),
        ("breast_cancer", (569, 30), (569,)),
        ("digits", (1797, 64), (1797,)),
        ("iris", (150, 4), (150,)),
        ("wine", (178, 13), (178,)),
        ("linnerud", (20, 3), (20, 3)),
    ],
)
def test_bundled_sets(name, shape, targets):
    dataset = data.load(name)
    assert dataset.inputs.shape == shape
    assert dataset.targets.shape == targets
    assert len(dataset.input_names) == shape[1]
    assert dataset.inputs.dtype == np.float64


def test_diabetes_comes_in_its_raw_units():
    ages = data.load("diabetes", features=("age",)).inputs
    assert (ages.min(), ages.max()) == (19, 79)  # years


def test_a_csv(tmp_path):
    dataset = data.load(write(tmp_path, GOOD), target="weight")
    np.testing.assert_array_equal(dataset.inputs, [[1, 2], [4, 5], [7, 9]])
    np.testing.assert_array_equal(dataset.targets, [3, 7, 9])
    assert dataset.input_names == ("age", "height")
    chosen = data.load(write(tmp_path, GOOD), target="age", features=("weight",))
    np.testing.assert_array_equal(chosen.inputs, [[3], [7], [9]])
    np.testing.assert_array_equal(chosen.targets, [1, 4, 7])


def test_columns_that_are_not_used_need_not_be_numbers(tmp_path):
    text = "name,x,y\nAnn,1,2\nBob,3,4\n"
    dataset = data.load(write(tmp_path, text), target="y", features=("x",))
    np.testing.assert_array_equal(dataset.inputs, [[1], [3]])


def test_quotes_blank_lines_and_a_byte_order_mark(tmp_path):
    text = '\ufeff"x","y, in metres"\n"1",2\n\n3,"4"\n'
    dataset = data.load(write(tmp_path, text), target="y, in metres")
    np.testing.assert_array_equal(dataset.targets, [2, 4])
    assert list(dataset.lines()) == [2, 4]


def test_an_npz(tmp_path):
    path = str(tmp_path / "table.npz")
    np.savez(path, inputs=np.arange(6.0).reshape(3, 2), targets=np.array([0, 1, 0]))
    dataset = data.load(path)
    assert dataset.inputs.shape == (3, 2)
    assert np.issubdtype(dataset.targets.dtype, np.integer)


CSV_MISTAKES = [
    ("empty", "", {}, "{path}: the file is empty; expected a header line of column names."),
    ("no header", "1,2,3\n4,5,6\n", {}, "{path}, line 1: expected a header of column names, got 1,2,3; add one."),
    ("one name twice", "x,x\n1,2\n", {}, "{path}, line 1: the column names x, x must differ."),
    ("no target", GOOD, {"target": None}, "{path}: --target is needed, one of the columns age, height, weight."),
    ("unknown target", GOOD, {"target": "size"}, "{path}: no column 'size'; the columns are age, height, weight."),
    (
        "unknown feature",
        GOOD,
        {"features": ("size",)},
        "{path}: no column 'size'; the columns are age, height, weight.",
    ),
    (
        "the target as a feature",
        GOOD,
        {"features": ("weight",)},
        "{path}: the target 'weight' cannot be among the features.",
    ),
    ("ragged", GOOD + "1,2\n", {}, "{path}, line 5: expected 3 cells as in the header, got 2."),
    ("too long", GOOD + "1,2,3,4\n", {}, "{path}, line 5: expected 3 cells as in the header, got 4."),
    ("words", GOOD + "1,tall,3\n", {}, "{path}, line 5, column 'height': expected a number, got 'tall'."),
    (
        "a missing cell",
        GOOD + "1,,3\n",
        {},
        "{path}, line 5, column 'height': the cell is empty or NaN; --drop-missing leaves out such rows (1 of 4).",
    ),
    (
        "nan",
        GOOD + "nan,2,3\n",
        {},
        "{path}, line 5, column 'age': the cell is empty or NaN; --drop-missing leaves out such rows (1 of 4).",
    ),
    ("infinity", GOOD + "1,2,-inf\n", {}, "{path}, line 5, column 'weight': expected a finite number, got -inf."),
    ("no rows", "age,weight\n", {}, "{path}: there is a header but no row of data."),
    ("one row", "age,weight\n1,2\n", {}, "{path}: at least 2 rows are needed, got 1."),
    ("no inputs", "weight\n1\n2\n", {}, "{path}: no column is left to predict from."),
]


@pytest.mark.parametrize(("text", "options", "error"), [pytest.param(*row[1:], id=row[0]) for row in CSV_MISTAKES])
def test_a_mistake_in_a_csv_gets_its_line(tmp_path, text, options, error):
    path = write(tmp_path, text)
    with pytest.raises(data.DataError) as caught:
        data.load(path, **({"target": "weight"} | options))
    assert str(caught.value) == error.format(path=path)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(data.DataError, match=r"nowhere\.csv: no such file\.$"):
        data.load(str(tmp_path / "nowhere.csv"), target="y")
    with pytest.raises(data.DataError, match=r"--data must be one of breast_cancer, .* or \.npz file, got 'mnist'\.$"):
        data.load("mnist")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(data.DataError, match="cannot be read"):
        data.load(str(tmp_path / "folder.csv"), target="y")
    (tmp_path / "bytes.csv").write_bytes(b"x,y\n\xff\xfe,2\n")
    with pytest.raises(data.DataError, match=r"bytes\.csv, line 2: cannot be read as UTF-8 \(byte 0xff\)"):
        data.load(str(tmp_path / "bytes.csv"), target="y")


@pytest.mark.parametrize(
    ("arrays", "error"),
    [
        ({"x": np.ones(3)}, "expected arrays `inputs` and `targets`, got x."),
        (
            {"inputs": np.ones((3, 2)), "targets": np.ones(4)},
            "expected `inputs` [N, D] and `targets` [N] or [N, K], got (3, 2) and (4,).",
        ),
        ({"inputs": np.array([["a"], ["b"]]), "targets": np.ones(2)}, "`inputs` must be real numbers, got <U1."),
        ({"inputs": np.ones((2, 1)), "targets": np.ones(2) * 1j}, "`targets` must be real numbers, got complex128."),
        (
            {"inputs": np.array([[1.0], [np.nan]]), "targets": np.ones(2)},
            "row 1, column 'x0': expected a finite number, got nan; --drop-missing leaves out such rows (1 of 2).",
        ),
    ],
)
def test_a_mistake_in_an_npz_gets_its_line(tmp_path, arrays, error):
    path = str(tmp_path / "table.npz")
    np.savez(path, **arrays)
    with pytest.raises(data.DataError) as caught:
        data.load(path)
    assert str(caught.value) in (f"{path}: {error}", f"{path}, {error}")


def test_an_npz_that_is_none(tmp_path):
    with pytest.raises(data.DataError, match="not an NPZ file of numbers"):
        data.load(write(tmp_path, "nonsense", "table.npz"))
    with pytest.raises(data.DataError, match="--target belongs to tables with named columns"):
        data.load(write(tmp_path, "nonsense", "table.npz"), target="y")
    with pytest.raises(
        data.DataError, match="--target belongs to tables with named columns; the target of iris is given"
    ):
        data.load("iris", target="y")
    with pytest.raises(data.DataError, match="iris: no feature 'size'; the features are sepal length"):
        data.load("iris", features=("size",))


@pytest.mark.parametrize(
    ("last", "num_classes", "error"),
    [
        ("2", 2, "labels must be integers in [0, 2), got 2; --problem softmax_regression takes more than two classes."),
        ("0.5", None, "labels must be integers in [0, K), got 0.5."),
        ("-1", None, "labels must be integers in [0, K), got -1."),
    ],
)
def test_labels_outside_their_domain(tmp_path, last, num_classes, error):
    path = write(tmp_path, f"x,y\n1,0\n2,1\n3,{last}\n")
    with pytest.raises(data.DataError) as caught:
        data.as_labels(data.load(path, target="y"), num_classes)
    assert str(caught.value) == f"{path}, line 4, column 'y': {error}"


def test_labels_of_several_columns():
    with pytest.raises(data.DataError, match="linnerud: labels must be one column, got Weight, Waist, Pulse"):
        data.as_labels(data.load("linnerud"))


def test_a_constant_column_is_not_standardised(tmp_path):
    path = write(tmp_path, "x,c,y\n1,5,0\n2,5,1\n")
    with pytest.raises(data.DataError, match=r"column 'c': constant \(5 in every row\) and cannot be standardised"):
        data.standardization(data.load(path, target="y"))


def test_pixels_share_their_scale():
    dataset = data.load("digits")
    scaled = data.standardization(dataset).apply(dataset.inputs)
    np.testing.assert_allclose(scaled.mean(axis=0), 0, atol=1e-12)
    assert np.mean(scaled**2) == pytest.approx(1)
    assert np.all(scaled[:, 0] == 0)  # a pixel that is always black


def test_parameters_come_back_in_the_units_of_the_data(rng):
    dataset = data.load("diabetes")
    scaling = data.standardization(dataset)
    z, x = (Batch(jnp.asarray(inputs), None) for inputs in (scaling.apply(dataset.inputs), dataset.inputs))
    for shape in ((), (3,)):
        params = LinearParams(jnp.asarray(rng.normal(size=(10, *shape))), jnp.asarray(rng.normal(size=shape)))
        predict = problems.linear_regression().predict
        raw = scaling.in_data_units(params)
        np.testing.assert_allclose(predict(raw, x.inputs), predict(params, z.inputs), rtol=1e-9, atol=1e-9)
    params = LinearMapParams(jnp.asarray(rng.normal(size=(2, 10))), jnp.asarray(rng.normal(size=2)))
    predict = problems.linear_map().predict
    np.testing.assert_allclose(
        predict(scaling.in_data_units(params), x.inputs), predict(params, z.inputs), rtol=1e-9, atol=1e-9
    )
    network = problems.mlp((4,))
    params = network.init(jax.random.key(0), Batch(z.inputs, jnp.asarray(dataset.targets)))
    np.testing.assert_allclose(
        network.predict(scaling.in_data_units(params), x.inputs),
        network.predict(params, z.inputs),
        rtol=1e-9,
        atol=1e-9,
    )
    one = data.Standardization(np.array([3.0]), np.array([2.0]))
    line = one.in_data_units(LineParams(jnp.asarray(1.0), jnp.asarray(4.0)))  # 1 + 4 (x - 3) / 2
    assert_trees_close(line, LineParams(np.float64(-5.0), np.float64(2.0)))
    with pytest.raises(TypeError, match="must be those of an affine model or a network, got tuple"):
        one.in_data_units((1.0,))


def test_split_parts_the_rows():
    dataset = data.load("iris")
    kept, held_out = data.split(dataset, 0.2, seed=1)
    assert (len(kept.inputs), len(held_out.inputs)) == (120, 30)
    together = np.concatenate([kept.inputs, held_out.inputs])
    np.testing.assert_array_equal(np.sort(together, axis=0), np.sort(dataset.inputs, axis=0))
    with pytest.raises(data.DataError, match="leaves fewer than 2 of 150 rows"):
        data.split(dataset, 0.995, seed=1)
    np.testing.assert_array_equal(data.split(dataset, 0.0, seed=1)[0].inputs, dataset.inputs)


def test_to_batch_casts_once():
    batch = data.to_batch(data.load("iris"), lambda inputs: inputs / 10)
    assert batch.inputs.dtype == jnp.result_type(float)
    assert jnp.issubdtype(batch.targets.dtype, jnp.integer)
    assert float(batch.inputs[0, 0]) == pytest.approx(0.51)


def test_short_names():
    assert data.short_name("some/folder/satgpa.csv") == "satgpa"
    assert data.short_name("iris") == "iris"


def test_standard_scores_of_your_own_inputs_and_the_way_back(rng):
    inputs = rng.normal(size=(40, 3)) * [1.0, 50.0, 0.01] + [0.0, 1000.0, 5.0]
    targets = inputs @ [2.0, 0.3, -7.0] + 4.0
    scores, scaling = data.standardize(inputs)
    np.testing.assert_allclose(scores.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(scores.std(axis=0), 1, rtol=1e-12)
    found = scaling.in_data_units(problems.linear_regression().minimizer((scores, targets)))
    np.testing.assert_allclose(found.weights, [2.0, 0.3, -7.0], rtol=1e-9)
    np.testing.assert_allclose(found.bias, 4.0, rtol=1e-7)
    np.testing.assert_array_equal(scaling.apply(inputs[:2].tolist()), scores[:2])
    shared, scaling = data.standardize(inputs, shared_unit=True)
    assert len(set(scaling.scale)) == 1
    np.testing.assert_allclose(np.mean(shared**2), 1, rtol=1e-12)


def test_standard_scores_of_a_frame():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"age": [20, 30, 40], "one": [1, 1, 1]})
    scores, _ = data.standardize(frame[["age"]])
    np.testing.assert_allclose(scores[:, 0], [-(1.5**0.5), 0, 1.5**0.5], rtol=1e-15)
    with pytest.raises(ValueError, match=r"constant column .* got 1 in every row of column 'one'; leave it out\.$"):
        data.standardize(frame)


def test_probabilities_are_targets_of_a_table():
    table = data.Dataset("shares", np.ones((3, 1)), np.array([0.0, 0.25, 1.0]), ("x",), ("y",))
    assert data.are_probabilities(table)
    assert not data.are_probabilities(table._replace(targets=np.array([0.0, 1.0, 1.0])))
    assert not data.are_probabilities(table._replace(targets=np.array([0.0, 0.5, 1.5])))
