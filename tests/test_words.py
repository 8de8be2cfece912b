"""What the command answers to a mistake in its words: one line, in flags, with a suggestion where one is near."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import jaxgd
from jaxgd import cli

DIABETES = ["fit", "--data", "diabetes"]

MISTAKES = {
    "command": (
        ["fitt"],
        "no command 'fitt'; there are fit, sweep, rate, predict, check, problems. Did you mean 'fit'?",
    ),
    "option": ([*DIABETES, "--num-step", "5"], "no option --num-step. Did you mean --num-steps?"),
    "another tool's option": ([*DIABETES, "--lr", "0.1"], "no option --lr. Did you mean --learning-rate?"),
    "an option that nothing is like": ([*DIABETES, "--zzz"], "no option --zzz."),
    "not a number": ([*DIABETES, "--learning-rate", "abc"], "--learning-rate must be a number, got 'abc'."),
    "with an equals sign": ([*DIABETES, "--learning-rate=abc"], "--learning-rate must be a number, got 'abc'."),
    "not a whole number": ([*DIABETES, "--num-steps", "1.5"], "--num-steps must be a whole number, got '1.5'."),
    "no data": (["fit"], "--data is needed; see --help."),
    "a set": (
        ["fit", "--data", "diabets"],
        "--data must be one of breast_cancer, diabetes, digits, iris, linnerud, wine, or a .csv, .tsv, .parquet or "
        ".npz file, got 'diabets'. Did you mean 'diabetes'?",
    ),
    "an optimizer": (
        [*DIABETES, "--optimizer", "adm", "--learning-rate", "1"],
        "--optimizer must be gradient_descent or an optimizer of optax, got 'adm'. Did you mean 'adam'?",
    ),
    "a loss": (
        [*DIABETES, "--loss", "mean_sqared_error"],
        "--loss must be one of 'sum_squared_error', 'half_sum_squared_error', 'mean_squared_error', "
        "'half_mean_squared_error', got 'mean_sqared_error'. Did you mean 'mean_squared_error'?",
    ),
    "half a name": (
        [*DIABETES, "--problem", "logistic"],
        "--problem must be one of linear_regression, line, linear_map, sigmoid_neuron, logistic_regression, "
        "softmax_regression, mlp, got 'logistic'. Did you mean 'logistic_regression'?",
    ),
    "names with commas": (
        [*DIABETES, "--features", "bmi,age"],
        "diabetes: no feature 'bmi,age'; the features are age, sex, bmi, bp, s1, s2, s3, s4, s5, s6. Separate names by "
        "spaces: bmi age.",
    ),
    "no value": ([*DIABETES, "--loss", "--l2", "1"], "--loss needs a value."),
    "no value at the end": ([*DIABETES, "--loss"], "--loss needs a value."),
    "a word too many": ([*DIABETES, "fast"], "'fast' belongs to no option; options begin with --."),
    "one of several numbers": (
        [*DIABETES, "--hidden-sizes", "8", "b"],
        "--hidden-sizes must be a whole number, got 'b'.",
    ),
    "a batch size": ([*DIABETES, "--batch-size", "1000"], "--batch-size must be between 1 and 442, got 1000."),
}


def run(words):
    try:
        return cli.run(words)
    except SystemExit as end:
        return end.code


@pytest.mark.parametrize(("words", "line"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_gets_one_line(capsys, words, line):
    assert run(words) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == f"jaxgd: {line}\n"


@pytest.mark.parametrize(("words", "line"), MISTAKES.values(), ids=MISTAKES)
def test_with_json_the_error_is_an_object_on_standard_output(capsys, words, line):
    assert run([*words, "--json"]) == 2
    printed = capsys.readouterr()
    assert json.loads(printed.out) == {"error": line, "exit_code": 2}
    assert printed.err == ""


def test_a_loss_by_another_name(capsys):
    assert run([*DIABETES, "--loss", "mse"]) == 2
    assert capsys.readouterr().err.endswith("got 'mse'. Did you mean 'mean_squared_error'?\n")


def test_whole_numbers_may_have_an_exponent(tmp_path, capsys):
    words = [*DIABETES, "--num-steps", "1e1", "--out", str(tmp_path / "run"), "--json"]
    assert run(words) == 0
    assert json.loads(capsys.readouterr().out)["num_steps"] == 10


def test_the_version(capsys):
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"jaxgd {jaxgd.__version__}\n"


def test_without_words_the_help_is_shown(capsys):
    assert run([]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("fit", "sweep", "rate", "check", "problems"))


@pytest.mark.parametrize(
    "flag", [[], pytest.param(["--no-compilation-cache"], marks=pytest.mark.slow)], ids=["by default", "not asked for"]
)
def test_compiled_programs_are_kept_in_the_cache_folder_of_the_user(tmp_path, flag):
    words = [*DIABETES, "--num-steps", "2", "--out", str(tmp_path / "run"), *flag]
    environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    root = str(Path(jaxgd.__file__).parents[1])
    environment |= {"XDG_CACHE_HOME": str(tmp_path / "cache"), "PYTHONPATH": root}
    done = subprocess.run([sys.executable, "-m", "jaxgd", *words], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert bool(list(tmp_path.glob("cache/jaxgd/programs-jax-*/*"))) != bool(flag)
