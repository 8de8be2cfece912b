"""A fitted model is kept, loaded again and used: the same parameters, the same predictions as scikit-learn's."""

import csv
import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common import assert_trees_equal, cast, normal_like

import jaxgd
from jaxgd import cli, data, problems
from jaxgd.data import DataError

MODELS = {
    "line": (problems.line(), jnp.linspace(0, 1, 9), jnp.linspace(1, 3, 9)),
    "map": (problems.linear_map(), jnp.ones((9, 2)), jnp.ones((9, 3))),
    "ridge": (problems.linear_regression(l2=0.5), jnp.ones((9, 2)), jnp.ones(9)),
    "two outputs": (problems.linear_regression(), jnp.ones((9, 2)), jnp.ones((9, 2))),
    "logistic": (problems.logistic_regression(l2=0.1), jnp.ones((9, 2)), jnp.arange(9) % 2),
    "softmax": (problems.softmax_regression(3), jnp.ones((9, 2)), jnp.arange(9) % 3),
    "network": (problems.mlp((4, 3), l2=0.1), jnp.ones((9, 2)), jnp.ones(9)),
    "classifying network": (
        problems.mlp((4,), loss="mean_softmax_cross_entropy", num_classes=3), jnp.ones((9, 2)), jnp.arange(9) % 3,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("problem", "inputs", "targets"), MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64, jnp.bfloat16])
def test_a_saved_model_is_loaded_bit_for_bit(tmp_path, problem, inputs, targets, dtype):
    batch = cast(jaxgd.Batch(inputs, targets), dtype)
    params = cast(normal_like(0, jax.eval_shape(problem.init, jax.random.key(0), batch)), dtype)
    result = jaxgd.Result(params, params, jnp.float32(1.5), jnp.int32(7), jnp.int32(1), jaxgd.History(jnp.ones(3)))
    names = tuple(f"x{i}" for i in range(inputs.ndim == 2 and inputs.shape[1]))
    jaxgd.save(tmp_path / "run", jaxgd.Fitted(problem, result, input_names=names, class_names=("a", "b")))
    loaded = jaxgd.load(tmp_path / "run")
    assert loaded.problem == problem
    assert type(loaded.params) is type(params)
    assert_trees_equal(loaded.params, params)
    assert [leaf.dtype for leaf in jax.tree.leaves(loaded.params)] == [leaf.dtype for leaf in jax.tree.leaves(params)]
    assert (int(loaded.result.num_steps), float(loaded.result.loss)) == (7, 1.5)
    assert loaded.result.history.loss.tolist() == [1, 1, 1]
    assert loaded.class_names == ("a", "b")


def mine(params, batch):
    return jnp.sum((params["a"] * batch - params["b"][0]) ** 2)


def test_a_problem_of_your_own_is_loaded_with_its_problem_and_a_tree(tmp_path):
    problem = jaxgd.autodiff(mine)
    params = {"a": jnp.float64(2.0), "b": [jnp.float64(3.0)]}
    result = jaxgd.descend(problem, params, jnp.arange(3.0), learning_rate=0.01, num_steps=3)
    jaxgd.save(tmp_path / "run", jaxgd.Fitted(problem, result))
    with pytest.raises(DataError, match="mine is not a problem of jaxgd; give `problem` and `params` to load it"):
        jaxgd.load(tmp_path / "run")
    assert_trees_equal(jaxgd.load(tmp_path / "run", problem=problem, params=params).params, result.params)
    with pytest.raises(DataError, match=r"no array \"params\['c'\]\"; `params` must be a tree like the fitted"):
        jaxgd.load(tmp_path / "run", problem=problem, params={"c": 0.0})


def run(*words):
    try:
        return cli.run([str(word) for word in words])
    except SystemExit as end:
        return end.code


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """New rows of three kinds in one folder."""
    folder = tmp_path_factory.mktemp("rows")
    rng = np.random.default_rng(0)
    height, weight = rng.normal(170, 10, 60), rng.normal(70, 12, 60)
    kind = np.where(height + 0.5 * weight + rng.normal(0, 10, 60) > 205, "tall", "short")
    city = rng.choice(["Bonn", "Rome", "Oslo"], 60)
    age = 0.2 * height - 0.1 * weight + 3.0 * (city == "Rome") + rng.normal(size=60)
    with (folder / "people.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["height", "weight", "city", "kind", "age"])
        writer.writerows(zip(height.round(3), weight.round(3), city, kind, age.round(4), strict=True))
    return folder


class Trap:
    """Makes a folder where it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_nothing_in_an_npz_is_executed(tmp_path):
    params = jaxgd.LineParams(intercept=jnp.float64(1.0), slope=jnp.float64(2.0))
    result = jaxgd.Result(params, params, jnp.float32(1.5), jnp.int32(7), jnp.int32(1), jaxgd.History(jnp.ones(3)))
    jaxgd.save(tmp_path / "run", jaxgd.Fitted(problems.line(), result))
    trap = np.array([Trap(tmp_path / "sprung")], object)
    np.savez(tmp_path / "run" / "params.npz", slope=trap)
    np.savez(tmp_path / "rows.npz", inputs=trap, targets=np.ones(1))
    for load, path in ((jaxgd.load, tmp_path / "run"), (data.load, tmp_path / "rows.npz")):
        with pytest.raises(DataError, match="Object arrays cannot be loaded"):
            load(str(path))
    assert not (tmp_path / "sprung").exists()


def columns(path):
    with path.open() as file:
        rows = list(csv.DictReader(file))
    return {name: [row[name] for row in rows] for name in rows[0]}


def test_predictions_of_a_regression_are_those_of_scikit_learn(folder, tmp_path, capsys):
    linear_model = pytest.importorskip("sklearn.linear_model")
    words = ("--data", folder / "people.csv", "--target", "age", "--features", "city", "weight", "height")
    assert run("fit", *words, "--one-hot", "city", "--out", tmp_path / "run", "--x64") == 0
    assert run("predict", tmp_path / "run", "--data", folder / "people.csv", "--out", tmp_path / "p.csv") == 0
    assert "60 rows written to" in capsys.readouterr().out
    table = columns(folder / "people.csv")
    city = np.array(table["city"])
    inputs = np.stack(
        [city == "Oslo", city == "Rome", np.array(table["weight"], float), np.array(table["height"], float)], axis=1
    )
    expected = linear_model.LinearRegression().fit(inputs, np.array(table["age"], float)).predict(inputs)
    np.testing.assert_allclose(np.array(columns(tmp_path / "p.csv")["age"], float), expected, rtol=1e-9)
    loaded = jaxgd.load(tmp_path / "run")
    np.testing.assert_allclose(loaded.predict(inputs), expected, rtol=1e-9)


def test_predictions_of_a_classifier_are_those_of_scikit_learn(folder, tmp_path, capsys):
    linear_model = pytest.importorskip("sklearn.linear_model")
    words = ("--data", folder / "people.csv", "--target", "kind", "--features", "height", "weight", "--l2", "0.01")
    assert run("fit", *words, "--out", tmp_path / "run", "--x64") == 0
    capsys.readouterr()
    assert run("predict", tmp_path / "run", "--data", folder / "people.csv", "--json") == 0
    predicted = json.loads(capsys.readouterr().out)["predictions"]
    table = columns(folder / "people.csv")
    inputs = np.stack([np.array(table[name], float) for name in ("height", "weight")], axis=1)
    z = (inputs - inputs.mean(0)) / inputs.std(0)
    model = linear_model.LogisticRegression(C=1 / (0.01 * 60), tol=1e-10, max_iter=1000).fit(z, table["kind"])
    np.testing.assert_allclose(predicted["p(tall)"], model.predict_proba(z)[:, 1], atol=1e-6)
    assert predicted["kind"] == model.predict(z).tolist()


def test_new_rows_that_do_not_fit_get_one_line(folder, tmp_path, capsys):
    words = ("--data", folder / "people.csv", "--target", "age", "--features", "city", "weight")
    assert run("fit", *words, "--one-hot", "city", "--out", tmp_path / "run", "--num-steps", "5") == 0
    files = {
        "lost.csv": ("height\n1\n2\n", "the model needs the columns city, weight, which are missing"),
        "renamed.csv": (
            "City,weight (kg),zip\nBonn,1,2\n",
            "the model needs the columns city, weight, which are missing; the columns are City, weight (kg), zip. "
            "Rename 'City' to 'city', 'weight (kg)' to 'weight'?",
        ),
        "strange.csv": (
            "city,weight\nBonn,1\nParis,2\n", "line 3, column 'city': the model knows Bonn, Oslo, Rome, got 'Paris'.",
        ),
        "hole.csv": ("city,weight\nBonn,1\nBonn,\n", "line 3, column 'weight': the cell is empty or NaN"),
    }  # fmt: skip
    for name, (text, error) in files.items():
        (tmp_path / name).write_text(text)
        capsys.readouterr()
        assert run("predict", tmp_path / "run", "--data", tmp_path / name) == 2
        assert error in capsys.readouterr().err
    assert run("predict", tmp_path / "nowhere", "--data", "iris") == 2
    assert "nowhere: no fitted model is here (model.json is missing)." in capsys.readouterr().err
    (tmp_path / "run" / "params.npz").write_bytes(b"PK damaged")
    assert run("predict", tmp_path / "run", "--data", "iris") == 2
    assert "run: the model cannot be read (" in capsys.readouterr().err


@pytest.mark.parametrize("num_classes", [0, 2, 3], ids=["regression", "two classes", "three classes"])
def test_predictions_are_those_of_scikit_learn_with_the_same_coefficients(folder, tmp_path, rng, num_classes):
    """Any coefficients, not those of a fit: `predict` is the model's formula, on columns in any order."""
    linear_model = pytest.importorskip("sklearn.linear_model")
    problem = {
        0: problems.linear_regression(), 2: problems.logistic_regression(), 3: problems.softmax_regression(3),
    }[num_classes]  # fmt: skip
    outputs = (3,) if num_classes == 3 else ()
    params = jaxgd.LinearParams(jnp.array(rng.normal(size=(2, *outputs))), jnp.array(rng.normal(size=outputs)))
    scaling = jaxgd.data.Standardization(np.array([70.0, 170.0]), np.array([12.0, 10.0]))
    result = jaxgd.Result(params, params, *map(jnp.array, (0.0, 1, 1)), jaxgd.History())
    names = ("a", "b", "c")[:num_classes]
    fitted = jaxgd.Fitted(problem, result, scaling, ("weight", "height"), ("y",), names)
    jaxgd.save(tmp_path / "run", fitted)
    assert run("predict", tmp_path / "run", "--data", folder / "people.csv", "--out", tmp_path / "p.csv") == 0
    found, table = columns(tmp_path / "p.csv"), columns(folder / "people.csv")
    inputs = np.stack([np.array(table[name], float) for name in ("weight", "height")], axis=1)
    raw = scaling.in_data_units(params)
    model = linear_model.LogisticRegression() if num_classes else linear_model.LinearRegression()
    model.coef_, model.intercept_ = raw.weights.T, raw.bias
    if num_classes == 2:
        model.coef_, model.intercept_ = raw.weights[None], raw.bias[None]
    if num_classes:
        model.classes_ = np.array(names)
        probabilities = np.stack([np.array(found[f"p({name})"], float) for name in names], axis=1)
        np.testing.assert_allclose(probabilities, model.predict_proba(inputs), rtol=1e-9)
        assert found["y"] == model.predict(inputs).tolist()
    else:
        np.testing.assert_allclose(np.array(found["y"], float), model.predict(inputs), rtol=1e-12)
