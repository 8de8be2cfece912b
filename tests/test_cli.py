"""The command, as its users meet it: screens, exit codes, folders, mistakes."""

import csv
import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from common import free_address, quick, slow

import jaxgd
from jaxgd import cli
from jaxgd.problems import ALL_PROBLEMS

ROOT = str(Path(jaxgd.__file__).parents[1])

HEIGHTS = "height,weight\n" + "\n".join(f"{150 + i},{50 + i + i % 3}" for i in range(20)) + "\n"


@pytest.fixture(autouse=True)
def clean(tmp_path, monkeypatch):
    """A folder of its own; x64 as it was; optax without strict promotion; no progress, however slow the machine."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("jaxgd.descent.host.LEAST_SECONDS", float("inf"))
    was = jax.config.read("jax_enable_x64")
    jax.config.update("jax_enable_x64", False)
    with jax.numpy_dtype_promotion("standard"):
        yield
    jax.config.update("jax_enable_x64", was)


def run(monkeypatch, capsys, *words):
    """Exit code, standard output and standard error of one command."""
    words = [str(word) for word in words]
    monkeypatch.setattr(sys, "argv", ["jaxgd", *words])
    try:
        code = cli.run(words)
    except SystemExit as end:
        code = end.code
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def command(monkeypatch, capsys):
    return lambda *words: run(monkeypatch, capsys, *words)


def summary_of(command, *words):
    code, out, err = command("fit", "--json", *words)
    assert err == ""
    return code, json.loads(out)


@pytest.mark.parametrize(("flags", "tolerance"), [((), 1e-4), (("--x64",), 1e-10)], ids=["float32", "float64"])
def test_diabetes_agrees_with_scikit_learn(command, flags, tolerance):
    from sklearn import datasets, linear_model

    code, summary = summary_of(command, "--data", "diabetes", *flags)
    assert code == 0
    bunch = datasets.load_diabetes(scaled=False)
    reference = linear_model.LinearRegression().fit(bunch.data, bunch.target)
    expected = dict(zip(bunch.feature_names, reference.coef_, strict=True)) | {"intercept": reference.intercept_}
    assert summary["parameters"].keys() == expected.keys()
    for name, value in expected.items():
        assert summary["parameters"][name] == pytest.approx(value, rel=tolerance), name
        assert summary["closed_form"][name] == pytest.approx(value, rel=tolerance), name


def test_breast_cancer_with_a_penalty_agrees_with_scikit_learn(command):
    from sklearn import datasets, linear_model, preprocessing

    code, summary = summary_of(command, "--data", "breast_cancer", "--l2", "0.01")
    assert (code, summary["stop_reason"], summary["notes"]) == (0, "NO_CHANGE", [])
    bunch = datasets.load_breast_cancer()
    scaler = preprocessing.StandardScaler().fit(bunch.data)
    reference = linear_model.LogisticRegression(C=1 / (0.01 * 569), tol=1e-10, max_iter=10_000)
    reference.fit(scaler.transform(bunch.data), bunch.target)
    for name, value in zip(bunch.feature_names, reference.coef_[0] / scaler.scale_, strict=True):
        assert summary["parameters"][name] == pytest.approx(value, rel=1e-3), name


def test_separable_classes_are_said(command):
    code, summary = summary_of(command, "--data", "breast_cancer", "--num-steps", "50")
    assert code == 0
    assert summary["notes"][0].startswith("The classes are linearly separable: without a penalty")


@slow
def test_digits_by_a_network(command):
    code, summary = summary_of(command, "--data", "digits", "--problem", "mlp")
    assert code == 0
    assert summary["held_out_accuracy"] > 0.95
    assert (summary["rows"], summary["held_out_rows"]) == (1348, 449)


def test_a_rate_too_large_says_so_and_by_how_much(command):
    code, out, err = command("fit", "--data", "diabetes", "--no-standardize", "--learning-rate", "0.01")
    assert (code, err) == (1, "")
    text = " ".join(out.split())
    assert "DIVERGED at step 1" in text
    assert "learning_rate 0.01 is 735.9 times the largest stable one, 1.36e-05." in text
    assert "Standardise the inputs or lower the rate." in text


def test_the_screen(command):
    code, out, _ = command("fit", "--data", "diabetes")
    assert code == 0
    for words in (
        "linear_regression",
        "442 rows",
        "29143.8 -> 2859.7",
        "NO_CHANGE",
        "largest stable",
        "closed form",
        "bmi",
    ):
        assert words in out


@slow
def test_a_folder_that_one_process_cannot_write_is_refused_by_all(tmp_path):
    (tmp_path / "both-process-1").mkdir()
    with free_address() as address:
        words = [sys.executable, "-m", "jaxgd", "fit", "--data", "diabetes", "--json", "--out", "both", "--distributed"]
        start = functools.partial(subprocess.Popen, stdout=subprocess.PIPE, text=True, cwd=tmp_path)
        env = os.environ | {"JAX_PLATFORMS": "cpu"}
        processes = [start([*words, f"{address},2,{i}"], env=env) for i in range(2)]
        printed = [process.communicate(timeout=240)[0] for process in processes]
    assert [process.returncode for process in processes] == [2, 2]
    error = "--out both-process-1 exists already; name a new folder."
    assert [json.loads(text) for text in printed] == [{"error": error, "exit_code": 2}] * 2
    assert not (tmp_path / "both").exists()


@slow
@pytest.mark.parametrize(
    ("words", "evaluation"),
    [((), "compressed"), (("--evaluation", "sharded", "--held-out", "0.01"), "sharded")],
    ids=["without a message", "odd rows"],
)
def test_two_processes_run_one_fit(command, tmp_path, words, evaluation):
    words = ["--data", "diabetes", "--x64", "--num-steps", "300", "--json", *words]
    _, alone = summary_of(command, *words)
    with free_address() as address:
        start = functools.partial(subprocess.Popen, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        command_line = [sys.executable, "-m", "jaxgd", "fit", *words, "--checkpoint", "kept", "--out", "both"]
        processes = [
            start([*command_line, "--distributed", f"{address},2,{i}"], env=os.environ | {"JAX_PLATFORMS": "cpu"})
            for i in range(2)
        ]
        (first, errors), (second, _) = (process.communicate(timeout=240) for process in processes)
    assert [process.returncode for process in processes] == [0, 0], errors
    together = json.loads(first)  # and nothing else on standard output
    assert together["evaluation"] == evaluation
    assert second == ""
    assert (tmp_path / "both" / "summary.json").exists()
    assert (tmp_path / "both-process-1" / "summary.json").exists()
    assert list((tmp_path / "kept").glob("checkpoint-*"))
    assert together["num_steps"] == alone["num_steps"]
    np.testing.assert_allclose(together["last_loss"], alone["last_loss"], rtol=1e-12)
    for name, value in alone["parameters"].items():
        np.testing.assert_allclose(together["parameters"][name], value, rtol=1e-10)


@pytest.mark.parametrize(
    ("words", "evaluation"),
    [
        pytest.param((), "plain", marks=slow),
        pytest.param(("--evaluation", "tiled"), "tiled", marks=slow),
        (("--evaluation", "compressed"), "compressed"),
        pytest.param(("--evaluation", "sharded"), "sharded", marks=slow),
    ],
)
def test_the_evaluation_is_recorded_and_does_not_change_the_answer(command, tmp_path, words, evaluation):
    code, summary = summary_of(command, "--data", "diabetes", "--x64", *words)
    assert (code, summary["evaluation"]) == (0, evaluation)
    assert summary["gap"] < 1e-10
    assert json.loads((tmp_path / summary["folder"] / "summary.json").read_text())["evaluation"] == evaluation
    code, out, _ = command("sweep", "--data", "diabetes", "--num-steps", "20", *words)
    assert code == 0
    assert (f"evaluated       {evaluation}" in out) == (evaluation != "plain")


@slow
def test_a_data_set_beyond_the_cache_is_not_evaluated_plainly(command, tmp_path, rng):
    inputs = rng.normal(size=(60_000, 20))
    np.savez(tmp_path / "large.npz", inputs=inputs, targets=inputs @ np.arange(20.0) + rng.normal(size=60_000))
    code, out, _ = command("fit", "--data", "large.npz")
    assert code == 0
    assert "evaluated       compressed" in out


def test_the_run_folder(command, tmp_path):
    code, summary = summary_of(command, "--data", "diabetes", "--out", "run", "--num-steps", "1500")
    folder = tmp_path / "run"
    assert code == 0
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "environment.json",
        "history.npz",
        "loss.png",
        "model.json",
        "params.npz",
        "summary.json",
    ]
    config, environment, saved = (
        json.loads((folder / f"{name}.json").read_text()) for name in ("config", "environment", "summary")
    )
    assert config["num_steps"] == 1500
    assert environment["jax"] == jax.__version__
    assert saved == {name: value for name, value in summary.items() if name != "folder"}
    with np.load(folder / "history.npz") as history:
        assert set(history) == {"step", "loss", "grad_norm", "learning_rate"}
        assert history["loss"].shape == (1500,)
        assert history["loss"][0] == pytest.approx(summary["first_loss"])
    assert (folder / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert [path for path in tmp_path.iterdir() if path.name != "run"] == []


def test_seeds_repeat_and_differ(command):
    words = ("--data", "iris", "--batch-size", "1", "--num-steps", "300", "--seed")
    first, again, other = (summary_of(command, *words, seed)[1] for seed in (1, 1, 2))
    assert first["parameters"] == again["parameters"]
    assert first["parameters"] != other["parameters"]


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(
            ("--data", "wine", "--optimizer", "adam", "--learning-rate", "0.01", "--num-steps", "20"), marks=slow
        ),
        pytest.param(("--data", "linnerud", "--num-steps", "20"), marks=slow),
        ("--data", "linnerud", "--problem", "linear_map", "--num-steps", "20"),
        ("--data", "linnerud", "--problem", "mlp", "--hidden-sizes", "4", "3", "--num-steps", "20"),
        pytest.param(
            ("--data", "diabetes", "--loss", "half_mean_squared_error", "--l2", "0.1", "--num-steps", "20"), marks=slow
        ),
        ("--data", "diabetes", "--features", "bmi", "--problem", "line", "--num-steps", "20"),
        pytest.param(("--data", "diabetes", "--batch-size", "1", "--num-steps", "500"), marks=slow),
        pytest.param(("--data", "diabetes", "--held-out", "0.2", "--grad-tol", "1", "--num-steps", "5000"), marks=slow),
        ("--data", "breast_cancer", "--problem", "sigmoid_neuron", "--num-steps", "20"),
    ],
    ids=" ".join,
)
def test_other_jobs_run(command, words):
    code, summary = summary_of(command, *words)
    assert code == 0
    assert summary["last_loss"] < summary["first_loss"]


def test_a_csv_of_your_own(command, tmp_path):
    (tmp_path / "people.csv").write_text(HEIGHTS)
    code, summary = summary_of(command, "--data", "people.csv", "--target", "weight", "--x64")
    assert (code, summary["problem"]) == (0, "linear_regression")
    slope, intercept = np.polyfit(*np.loadtxt(HEIGHTS.splitlines()[1:], delimiter=",").T, 1)
    assert summary["parameters"]["height"] == pytest.approx(slope, rel=1e-10)
    assert summary["parameters"]["intercept"] == pytest.approx(intercept, rel=1e-10)


def test_collinear_columns_are_said(command, tmp_path):
    rows = "\n".join(f"{i},{2 * i},{i % 4}" for i in range(10))
    (tmp_path / "twice.csv").write_text(f"x,z,y\n{rows}\n")
    code, summary = summary_of(command, "--data", "twice.csv", "--target", "y")
    assert code == 0
    assert summary["notes"] == [
        "y: the values 0, 1, 2, 3 were taken as numbers. If they are classes, give --problem softmax_regression.",
        "The minimiser is not unique: [x, 1] has rank 2 of 3 columns; this is the one of least norm.",
    ]


def test_problems_prints_the_systems(command):
    code, out, _ = command("problems")
    assert code == 0
    assert "logistic_regression" in out
    code, out, _ = command("problems", "--json")
    table = {row["name"]: row for row in json.loads(out)}
    assert table["quadratic"]["gradient"] == "2x - 4"
    assert table["linear_regression"]["closed_form"]
    assert not table["cubic"]["closed_form"]


def test_rates_on_the_sat_data(command, cases_folder):
    words = ("--data", cases_folder / "satgpa.csv", "--target", "fy_gpa", "--features", "sat_sum", "--no-standardize")
    code, out, _ = command("rate", *words, "--learning-rate", "0.001", "--json")
    found = json.loads(out)
    assert code == 0
    assert found["largest_stable_learning_rate"] == pytest.approx(9.189666037e-05, rel=1e-9)
    assert found["condition_number"] == pytest.approx(580672, rel=1e-5)
    (row,) = [row for row in found["rates"] if row["learning_rate"] == 0.001]
    assert row["verdict"] == "diverges, 10.9 times the limit"
    assert row["steps"] == "inf"


def test_the_rates_that_are_called_good_are(command):
    code, out, _ = command("rate", "--data", "diabetes", "--json")
    assert code == 0
    verdicts = [row["verdict"].split(",")[0] for row in json.loads(out)["rates"]]
    assert verdicts == ["slow", "slow", "good", "good", "good", "good", "diverges", "diverges"]


def test_a_rate_above_the_guarantee_is_not_said_to_diverge(command):
    """`fit` converges at this rate, which is 7.5 times the local limit at the start."""
    words = ("--data", "breast_cancer", "--l2", "0.01", "--learning-rate", "5")
    code, out, _ = command("rate", *words)
    assert code == 0
    assert "above what is guaranteed: may oscillate" in out
    assert "never" not in out
    assert "diverges" not in out
    assert "steps to" not in out
    code, summary = summary_of(command, *words)
    assert code == 0
    assert summary["last_loss"] == pytest.approx(0.0995914, rel=1e-5)  # the minimum


@pytest.mark.parametrize(
    ("words", "kind", "curved"),
    [
        (("diabetes",), "exact", True),
        (("linnerud",), "exact", True),
        (("iris",), "guaranteed from every start", True),
        pytest.param(("digits",), "guaranteed from every start", False, marks=slow),
        (("breast_cancer", "--problem", "sigmoid_neuron"), "guaranteed from every start", True),
        pytest.param(("digits", "--problem", "mlp"), "local at this start", False, marks=slow),
        (("iris", "--problem", "mlp"), "local at this start", False),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, tuple) else "",
)
def test_rate_works_for_every_model_and_says_how_far_it_reaches(command, words, kind, curved):
    code, out, err = command("rate", "--data", *words, "--json")
    found = json.loads(out)
    assert (code, err, found["stability"]) == (0, "", kind)
    assert (found["smallest_eigenvalue"] is not None) == curved
    assert any(row["diverges"] for row in found["rates"]) == (kind == "exact")
    assert any(row["guaranteed"] for row in found["rates"]) == (kind != "local at this start")
    if words == ("digits",):
        return  # 24 s for a run; the others show the table
    code, out, _ = command("rate", "--data", *words)
    assert code == 0
    assert ("never" in out) == (kind == "exact")
    assert ("- to " in out) == (not curved)


@pytest.mark.parametrize(
    "words", quick([("iris",), ("diabetes",), ("wine", "--problem", "mlp")], [("iris",)]), ids=" ".join
)
@pytest.mark.parametrize("flags", [pytest.param((), marks=slow), ("--x64",)], ids=["float32", "float64"])
def test_fit_rate_and_sweep_start_alike_and_print_the_same_numbers(command, words, flags):
    words = ("--data", *words, "--seed", "3", *flags)
    _, fitted = summary_of(command, *words, "--num-steps", "3")
    judged, swept = (
        json.loads(command(name, "--json", *words, *more)[1])
        for name, more in (("rate", ()), ("sweep", ("--num-steps", "3")))
    )
    for key in ("stability", "largest_stable_learning_rate", "guaranteed_below", "local_limit"):
        assert fitted.get(key) == judged.get(key) == swept.get(key), key
    again = json.loads(command("rate", "--json", *words[:-1] if flags else (*words, "--x64"))[1])
    assert judged == again
    assert swept["best"][0]["first_loss"] == pytest.approx(fitted["first_loss"], rel=1e-6)
    assert swept["best"][0]["seed"] == 3


def test_the_default_rate_is_half_of_the_guarantee(command):
    _, summary = summary_of(command, "--data", "iris", "--num-steps", "3")
    assert summary["learning_rate"] == summary["guaranteed_below"] / 2
    code, summary = summary_of(command, "--data", "iris", "--batch-size", "1", "--num-steps", "300")
    assert code == 0
    from sklearn import datasets, preprocessing

    inputs = preprocessing.StandardScaler().fit_transform(datasets.load_iris().data)
    largest = 0.5 * (np.max(np.sum(inputs**2, axis=1)) + 1)  # Boehning's 1/2 times the longest row of [X, 1]
    assert summary["learning_rate"] == pytest.approx(1 / largest, rel=1e-6)


@pytest.mark.parametrize(
    "words",
    [
        ("fit", "--optimizer", "sgd:momentum=0.6", "--learning-rate", "0.3"),
        pytest.param(("fit", "--batch-size", "10"), marks=slow),
        pytest.param(("fit", "--schedule", "cosine"), marks=slow),
        pytest.param(("sweep", "--over", "batch_size=10,442"), marks=slow),
    ],
    ids=lambda words: words[1],
)
def test_limits_of_gradient_descent_are_not_told_as_those_of_another_rule(command, words):
    """Momentum converges beyond them, single batches and schedules have others."""
    _, out, _ = command(words[0], "--data", "diabetes", *words[1:], "--num-steps", "20")
    assert "of gradient descent on all rows at a constant rate, which this is not" in " ".join(out.split())


def test_a_sweep_says_that_its_best_lane_is_at_the_edge(command):
    words = ("sweep", "--data", "iris", "--num-steps", "50", "--json", "--learning-rate")
    found = json.loads(command(*words, "0.01,0.1,1")[1])
    assert found["notes"] == [
        "The best lane is at the upper edge of the grid, 1: a larger rate may do better; widen --learning-rate."
    ]
    words = ("sweep", "--data", "diabetes", *words[3:])
    assert json.loads(command(*words, "0.01,0.2,1")[1])["notes"] == []


def test_a_sweep_and_its_folder(command, tmp_path):
    words = ("--data", "diabetes", "--learning-rate", "1e-3:10:log:12", "--seeds", "2", "--out", "run", "--json")
    code, out, err = command("sweep", *words)
    found = json.loads(out)
    assert (code, err, found["lanes"]) == (0, "", 24)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "config.json",
        "environment.json",
        "losses.png",
        "summary.csv",
        "summary.json",
    ]
    with open(tmp_path / "run" / "summary.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 24
    for row in rows:
        beyond = float(row["rate_over_limit"]) > 1
        assert (row["stop_reason"] == "DIVERGED") == beyond
        assert beyond == (float(row["final_loss"]) > float(row["first_loss"]))
    assert found["best"][0]["gap"] < 0.05
    code, out, _ = command(
        "sweep", "--data", "iris", "--batch-size", "10", "--num-steps", "50", "--lanes-per-chunk", "20"
    )
    assert code == 0
    assert "best lanes" in out


FIT = ("fit", "--data")
SWEEP = ("sweep", "--data", "diabetes", "--learning-rate")
RATES = "jaxgd: --learning-rate must be positive numbers, FROM:TO:log:COUNT, FROM:TO:lin:COUNT or A,B,C, got "
MISTAKES = [
    ((*SWEEP, "fast"), f"{RATES}'fast'."),
    ((*SWEEP, "0:1:log:5"), f"{RATES}'0:1:log:5'."),
    ((*SWEEP, "1:2:cubic:5"), f"{RATES}'1:2:cubic:5'."),
    ((*SWEEP, "1:2:lin:0"), f"{RATES}'1:2:lin:0'."),
    ((*SWEEP, "0.1,-1"), f"{RATES}'0.1,-1'."),
    ((*SWEEP, "0.1", "--seeds", "0"), "jaxgd: --seeds must be at least 1, got 0."),
    ((*SWEEP, "0.1", "--lanes-per-chunk", "0"), "jaxgd: --lanes-per-chunk must be at least 1, got 0."),
    (
        (*SWEEP, "0.1", "--optimizer", "sdg"),
        "jaxgd: --optimizer must be gradient_descent or an optimizer of optax, got 'sdg'. Did you mean 'sgd'?",
    ),
    ((*SWEEP, "0.1", "--batch-size", "500"), "jaxgd: --batch-size must be between 1 and 442, got 500."),
    ((*SWEEP, "0.1", "--out", "people.csv"), "jaxgd: --out people.csv exists already; name a new folder."),
    (
        ("rate", "--data", "diabetes", "--learning-rate", "-1"),
        "jaxgd: --learning-rate must be a positive number, got -1.0.",
    ),
    (
        (*FIT, "mnist"),
        "jaxgd: --data must be one of breast_cancer, diabetes, digits, iris, linnerud, wine, "
        "or a .csv, .tsv, .parquet or "
        ".npz file, got 'mnist'.",
    ),
    ((*FIT, "none.csv"), "jaxgd: none.csv: no such file."),
    ((*FIT, "people.csv"), "jaxgd: people.csv: --target is needed, one of the columns height, weight."),
    ((*FIT, "people.csv", "--target", "size"), "jaxgd: people.csv: no column 'size'; the columns are height, weight."),
    (
        (*FIT, "people.csv", "--target", "weight", "--problem", "logistic_regression"),
        "jaxgd: people.csv, line 2, column 'weight': labels must be integers in [0, 2), got 50; "
        "--problem softmax_regression takes more than two classes.",
    ),
    (
        (*FIT, "people.csv", "--target", "weight", "--problem", "sigmoid_neuron"),
        "jaxgd: people.csv: `targets` must be in [0, 1], the range of the sigmoid, got 50.0 at row 0.",
    ),
    (
        (*FIT, "diabetes", "--problem", "svm"),
        "jaxgd: --problem must be one of linear_regression, line, linear_map, "
        "sigmoid_neuron, logistic_regression, softmax_regression, mlp, got 'svm'.",
    ),
    (
        (*FIT, "diabetes", "--problem", "line"),
        "jaxgd: --problem line has one input, diabetes has 10; choose one with --features.",
    ),
    (
        (*FIT, "linnerud", "--problem", "sigmoid_neuron"),
        "jaxgd: --problem sigmoid_neuron has one target, linnerud has 3.",
    ),
    (
        (*FIT, "linnerud", "--problem", "softmax_regression"),
        "jaxgd: linnerud: labels must be one column, got Weight, Waist, Pulse.",
    ),
    (
        (*FIT, "diabetes", "--loss", "mse"),
        "jaxgd: --loss must be one of 'sum_squared_error', 'half_sum_squared_error', 'mean_squared_error', "
        "'half_mean_squared_error', got 'mse'. "
        "Did you mean 'mean_squared_error'?",
    ),
    ((*FIT, "diabetes", "--features", "bmi", "--problem", "line", "--l2", "1"), "jaxgd: --l2 does not belong to line."),
    ((*FIT, "diabetes", "--l2", "-1"), "jaxgd: --l2 must be finite and not negative, got -1.0."),
    ((*FIT, "diabetes", "--learning-rate", "0"), "jaxgd: --learning-rate must be a positive number, got 0.0."),
    ((*FIT, "diabetes", "--learning-rate", "nan"), "jaxgd: --learning-rate must be a positive number, got nan."),
    ((*FIT, "diabetes", "--num-steps", "0"), "jaxgd: --num-steps must be at least 1, got 0."),
    ((*FIT, "diabetes", "--batch-size", "0"), "jaxgd: --batch-size must be at least 1, got 0."),
    ((*FIT, "diabetes", "--batch-size", "1000"), "jaxgd: --batch-size must be between 1 and 442, got 1000."),
    ((*FIT, "diabetes", "--held-out", "1"), "jaxgd: --held-out must be in [0, 1), got 1.0."),
    ((*FIT, "diabetes", "--held-out", "0.999"), "jaxgd: diabetes: --held-out 0.999 leaves fewer than 2 of 442 rows."),
    ((*FIT, "diabetes", "--seed", "-1"), "jaxgd: --seed must not be negative, got -1."),
    ((*FIT, "diabetes", "--grad-tol", "nan"), "jaxgd: --grad-tol must be a number, got nan."),
    ((*FIT, "diabetes", "--divergence-factor", "0"), "jaxgd: --divergence-factor must be a positive number, got 0.0."),
    (
        (*FIT, "diabetes", "--optimizer", "adam"),
        "jaxgd: --optimizer adam needs --learning-rate; 0.01 is a common start.",
    ),
    (
        (*FIT, "diabetes", "--optimizer", "chain", "--learning-rate", "1"),
        "jaxgd: --optimizer must be gradient_descent or an optimizer of optax, got 'chain'.",
    ),
    (
        (*FIT, "diabetes", "--hidden-sizes", "0", "--problem", "mlp"),
        "jaxgd: `hidden_sizes[0]` must be at least 1, got 0.",
    ),
    ((*FIT, "diabetes", "--out", "people.csv"), "jaxgd: --out people.csv exists already; name a new folder."),
    (
        (*FIT, "diabetes", "--evaluation", "fast"),
        "jaxgd: --evaluation must be one of auto, plain, tiled, sharded, compressed, got 'fast'.",
    ),
    (
        (*FIT, "diabetes", "--evaluation", "tiled", "--batch-size", "10"),
        "jaxgd: --evaluation must be 'auto' or 'plain' with a --batch-size, got 'tiled'.",
    ),
    (
        (*FIT, "iris", "--evaluation", "compressed"),
        "jaxgd: --problem must be a squared error of a linear model to be compressed, got softmax_regression(3).",
    ),
    (
        (*FIT, "diabetes", "--distributed", "localhost"),
        "jaxgd: --distributed must be HOST:PORT,PROCESSES,ID or auto, got 'localhost'.",
    ),
    (
        (*FIT, "diabetes", "--out", "people.csv/run", "--num-steps", "5"),
        "jaxgd: --out people.csv/run: cannot be written (people.csv is a file).",
    ),
]


@pytest.mark.parametrize(
    ("words", "error"), MISTAKES, ids=lambda value: " ".join(value[1:]) if isinstance(value, tuple) else ""
)
def test_a_mistake_gets_one_line_and_exit_code_2(command, tmp_path, words, error):
    (tmp_path / "people.csv").write_text(HEIGHTS)
    code, out, err = command(*words)
    assert (code, out, err) == (2, "", f"{error}\n")


@pytest.mark.parametrize(
    "words",
    [
        ("fit",),
        ("train",),
        ("fit", "--data", "iris", "--learningrate", "1"),
        ("fit", "--data", "iris", "--num-steps", "many"),
    ],
)
def test_wrong_flags_exit_with_2(command, words):
    code, _, err = command(*words)
    assert code == 2
    assert "Traceback" not in err


def test_an_interrupt_ends_a_command_in_one_line_and_no_folder(tmp_path):
    script = (
        "import os, signal, sys, jaxgd.cli as cli\n"
        "from jaxgd.commands import fit\n"
        "fit.fit = lambda *a, **k: os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.argv = ['jaxgd', 'fit', '--data', 'iris']\n"
        "cli.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=dict(os.environ))
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "jaxgd: interrupted; nothing was written\n")
    assert list(tmp_path.iterdir()) == []


MODEL = """
import jax, jax.numpy as jnp, numpy as np

def loss(params, x, y):
    f = jax.nn.sigmoid(x @ params["w"] + params["b"])
    return jnp.mean((f - y) ** 2)

def grad(params, x, y):
    f = jax.nn.sigmoid(x @ params["w"] + params["b"])
    delta = 2 * (f - y) * f * (1 - f) / len(y)
    return {"w": delta @ x, "b": jnp.sum(delta)}

def wrong(params, x, y):
    g = grad(params, x, y)
    return {**g, "w": g["w"] / 2}

def example():
    rng = np.random.default_rng(0)
    return {"w": rng.normal(size=3), "b": np.array(0.1)}, rng.normal(size=(10, 3)), rng.uniform(size=10)
"""


def test_check_of_a_users_module(command, tmp_path):
    (tmp_path / "model.py").write_text(MODEL)
    code, out, err = command("check", "model.py")
    assert (code, err) == (0, "")
    assert "1 gradient checked, all right." in out
    # The Taylor order belongs to the whole gradient, not to one leaf.
    assert [line.split()[-1] for line in out.splitlines() if "2.00" in line or "'" in line] == ["2.00", "ok", "ok"]
    code, out, _ = command("check", "model.py:loss", "model.py:wrong")
    assert code == 1
    assert "a factor 2 is missing" in out
    assert "1 gradient checked, 1 wrong." in out
    code, out, _ = command("check", "model:loss", "model:wrong", "--json")
    (found,) = json.loads(out)
    assert (code, found["ok"], found["findings"][0]["kind"]) == (1, False, "FACTOR")
    rng = np.random.default_rng(1)
    np.savez(tmp_path / "params.npz", w=rng.normal(size=3), b=np.array(0.2))
    np.savez(tmp_path / "args.npz", x=rng.normal(size=(4, 3)), y=rng.uniform(size=4))
    words = ("check", "model:loss", "model:grad", "--params", "params.npz", "--args", "args.npz")
    assert command(*words)[0] == 0


RULES = """
import jax, jax.numpy as jnp, numpy as np

@jax.custom_vjp
def right(a, b):
    return a * b

right.defvjp(lambda a, b: (a * b, (a, b)), lambda res, g: (g * res[1], g * res[0]))

@jax.custom_vjp
def wrong(a, b):
    return a * b

wrong.defvjp(lambda a, b: (a * b, (a, b)), lambda res, g: (g * res[1], res[0]))

@jax.custom_jvp
def tangent(a, b):
    return a * b

tangent.defjvp(lambda p, t: (p[0] * p[1], t[0] * p[1] - p[0] * t[1]))
pair = (lambda a, b: a * b, lambda a, b, g: (g * b, g * a))

def example():
    return np.array([0.3, -1.2]), np.array([0.5, 2.0])
"""


def test_check_of_a_rule(command, tmp_path):
    (tmp_path / "rules.py").write_text(RULES)
    for name in ("right", "pair"):
        code, out, err = command("check", f"rules.py:{name}")
        assert (code, err) == (0, "")
        assert "1 rule checked, all right." in out
    code, out, _ = command("check", "rules.py:wrong")
    assert code == 1
    assert "the incoming gradient is not used" in " ".join(out.split())
    assert "1 rule checked, 1 wrong." in out
    code, out, _ = command("check", "rules.py:tangent", "--json")
    (found,) = json.loads(out)
    assert (code, found["ok"], found["findings"][0]["leaf"], found["findings"][0]["kind"]) == (1, False, "b", "SIGN")
    np.savez(tmp_path / "args.npz", a=np.array([1.0, 2.0, 3.0]), b=np.array([1.0, 0.5, -1.0]))
    assert command("check", "rules.py:right", "--args", "args.npz")[0] == 0


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (
            ("rules.py:right", "--params", "args.npz"),
            "jaxgd: --params is for a loss and a gradient; give a rule its arguments with --args FILE.npz.",
        ),
        (("rules.py:right", "--order", "2"), "jaxgd: --order 2 is for a loss and a gradient, not for a rule."),
        (("without.py:right",), "jaxgd: without has no example(): give --args FILE.npz, or write one."),
        (("undefined.py:f",), "jaxgd: f: `f` is a jax.custom_vjp without a rule: defvjp was not called."),
    ],
)
def test_mistakes_in_the_check_of_a_rule_get_one_line(command, tmp_path, words, error):
    (tmp_path / "rules.py").write_text(RULES)
    (tmp_path / "without.py").write_text(RULES.partition("def example")[0])
    undefined = "import jax\n\n@jax.custom_vjp\ndef f(x): return x\n\ndef example(): return (1.0,)\n"
    (tmp_path / "undefined.py").write_text(undefined)
    assert command("check", *words) == (2, "", f"{error}\n")


def test_check_of_the_systems(command, monkeypatch):
    """Of some; .ci/run runs it on all."""
    monkeypatch.setattr("jaxgd.problems.ALL_PROBLEMS", ALL_PROBLEMS[:2])
    code, out, err = command("check", "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert len(found) == 2 * len(ALL_PROBLEMS[:2])
    assert all(row["ok"] for row in found)


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("nothing.py",), "jaxgd: nothing.py: no such file."),
        (("no.such.module",), "jaxgd: no.such.module: no module named no."),
        (("broken.py",), "jaxgd: broken.py raised NameError when it was loaded: name 'oops' is not defined"),
        (("empty.py",), "jaxgd: empty has no function loss."),
        (("model.py:lost",), "jaxgd: model has no function lost."),
        (("number.py",), "jaxgd: number.loss must be a function, got int."),
        (("alone.py",), "jaxgd: alone has no example(): give --params FILE.npz, or write one."),
        (("model.py", "--params", "model.py"), "jaxgd: --params model.py: is not an .npz file."),
        (("model.py", "--params", "lost.npz"), "jaxgd: --params lost.npz: cannot be read (No such file or directory)."),
        (("a:b", "c:d", "e:f"), "jaxgd: check takes a loss and a gradient, got 3 functions."),
        (("model.py", "--order", "5"), "jaxgd: model.py: --order must be 1 or 2, got 5."),
    ],
)
def test_mistakes_in_check_get_one_line(command, tmp_path, words, error):
    (tmp_path / "model.py").write_text(MODEL)
    (tmp_path / "broken.py").write_text("oops\n")
    (tmp_path / "empty.py").write_text("")
    (tmp_path / "number.py").write_text("loss = 3\n")
    (tmp_path / "alone.py").write_text("def loss(params): return params @ params\n")
    assert command("check", *words) == (2, "", f"{error}\n")


FULL_DISK = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))  # no file may be larger
import jaxgd
from jaxgd import cli
sys.exit(cli.run(sys.argv[1:]))
"""


@pytest.mark.parametrize("json_asked", [pytest.param(False, marks=slow), True], ids=["screen", "json"])
def test_a_full_disk_loses_no_result(tmp_path, json_asked):
    """The numbers are printed before anything is written, and the exit code tells."""
    words = ["fit", "--data", "diabetes", "--num-steps", "20", *(["--json"] if json_asked else [])]
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, *words],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": ROOT, "JAX_ENABLE_COMPILATION_CACHE": "0"},
    )
    assert done.returncode == 3, done.stderr
    assert done.stderr.endswith("cannot be written (File too large); the result was printed above.\n")
    assert len(done.stderr.splitlines()) == 1
    if json_asked:
        assert json.loads(done.stdout)["num_steps"] == 20
    else:
        assert "steps           20 in" in done.stdout
    assert not list((tmp_path / "runs").glob("*"))


def test_tables_name_classes_and_targets(command, capsys):
    code, found = summary_of(command, "--data", "iris", "--num-steps", "3")
    assert code == 0
    assert "sepal length (cm) [setosa]" in found["parameters"]
    assert "intercept [virginica]" in found["parameters"]
    code, found = summary_of(command, "--data", "linnerud", "--num-steps", "3")
    assert "Chins [Waist]" in found["parameters"]
