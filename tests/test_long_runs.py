"""Long runs of the command: schedules, patience, a checkpoint that is continued or in use, axes of a sweep."""

import csv
import errno
import json
import os
import socket
import sys

import jax
import numpy as np
import optax
import pytest
from common import slow

import jaxgd
from jaxgd import cli
from jaxgd.descent import lock

pytest.importorskip("tyro", reason="tyro is in the cli extra")

from jaxgd.commands.optimizers import find_optimizer, find_schedule


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Exit code, standard output and standard error of one command, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    was = jax.config.read("jax_enable_x64")
    jax.config.update("jax_enable_x64", False)

    def run(*words):
        words = [str(word) for word in words]
        monkeypatch.setattr(sys, "argv", ["jaxgd", *words])
        return cli.run(words), *capsys.readouterr()

    with jax.numpy_dtype_promotion("standard"):
        yield run
    jax.config.update("jax_enable_x64", was)


@pytest.fixture
def noise(tmp_path):
    """Twelve rows of ten inputs, of which the first matters: a fit soon follows the noise."""
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(24, 10))
    np.savez(tmp_path / "noise.npz", inputs=inputs, targets=inputs[:, 0] + 2 * rng.normal(size=24))
    return ("fit", "--data", "noise.npz", "--held-out", "0.5", "--learning-rate", "0.1", "--chunk-steps", "5")


def test_patience_keeps_the_best_parameters(command, tmp_path, noise):
    code, out, _ = command(*noise, "--num-steps", 200, "--patience", 4, "--out", "run", "--json")
    found = json.loads(out)
    lowest = found["lowest_held_out_step"]
    assert (code, found["stop_reason"], found["num_steps"]) == (0, "NO_IMPROVEMENT", lowest + 20)
    assert found["lowest_held_out_loss"] < found["held_out_last_loss"]
    note = f"what is computed from them, are those of step {lowest}, where the held-out loss was lowest."
    assert f"The parameters, and {note}" in found["notes"]
    fitted = jaxgd.load("run")
    assert fitted.best
    weights = np.asarray(fitted.params.weights) / fitted.scaling.scale
    np.testing.assert_allclose(weights, list(found["parameters"].values())[:10], rtol=1e-5)
    code, out, _ = command(*noise, "--num-steps", 200, "--out", "whole")
    assert code == 0
    assert f"lowest {found['lowest_held_out_loss']:.6g} at step {lowest}" in " ".join(out.split())
    assert not jaxgd.load("whole").best


@slow
def test_a_finished_run_is_continued(command, noise):
    """With more steps, and whatever else was left open as the run before had it."""
    words = (*noise[:-2], "--checkpoint", "state", "--json", "--num-steps")
    assert json.loads(command(*words, 40)[1])["num_steps"] == 40
    continued = json.loads(command(*words, 120)[1])
    again = json.loads(command(*words[:-1])[1])
    whole = json.loads(command(*noise[:-2], "--chunk-steps", 2, "--json", "--num-steps", 120)[1])
    assert continued["num_steps"] == 120
    assert continued["parameters"] == whole["parameters"]
    assert again["num_steps"] >= 120
    code, out, err = command(*words, 60)
    assert (code, err) == (2, "")
    assert "num_steps was" in json.loads(out)["error"]


def test_a_second_run_on_a_checkpoint_is_told(command, tmp_path, noise):
    with lock.locked(tmp_path / "state"):
        owner = f"process {os.getpid()} on {socket.gethostname()}"
        told = command(*noise, "--num-steps", 40, "--checkpoint", "state")
    text = f"--checkpoint state is in use by another run ({owner}): wait until it ends, or name another folder."
    assert told == (2, "", f"jaxgd: {text}\n")


def test_a_disk_that_fills_up_leaves_the_checkpoint_before(command, monkeypatch, noise):
    module, written = sys.modules["jaxgd.descent.fit"], []
    real = module.save

    def save(*arguments):
        if len(written) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written.append(arguments)
        real(*arguments)

    monkeypatch.setattr(module, "save", save)
    code, out, err = command(*noise, "--num-steps", 40, "--checkpoint", "state", "--json")
    text = "--checkpoint state: cannot be written (No space left on device); the same command continues from the "
    text += "checkpoint before."
    assert (code, json.loads(out), err) == (3, {"error": text, "exit_code": 3}, "")
    monkeypatch.setattr(module, "save", real)
    assert json.loads(command(*noise, "--num-steps", 40, "--checkpoint", "state", "--json")[1])["num_steps"] == 40


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("constant", optax.constant_schedule(0.5)),
        ("linear", optax.linear_schedule(0.5, 0.0, 100)),
        ("cosine:alpha=0.1", optax.cosine_decay_schedule(0.5, 100, alpha=0.1)),
        ("cosine:decay_steps=10", optax.cosine_decay_schedule(0.5, 10)),
        ("exponential:decay_rate=0.1", optax.exponential_decay(0.5, 100, 0.1)),
        ("piecewise:10=0.1,20=0.5", optax.piecewise_constant_schedule(0.5, {10: 0.1, 20: 0.5})),
        ("warm-up:warmup_steps=5", optax.warmup_cosine_decay_schedule(0.0, 0.5, 5, 100)),
        ("warm-up", optax.warmup_cosine_decay_schedule(0.0, 0.5, 10, 100)),
    ],
)
def test_schedules_are_those_of_optax(words, expected):
    with jax.numpy_dtype_promotion("standard"):
        schedule = find_schedule(words, 0.5, 100)
        assert [float(schedule(t)) for t in (0, 3, 10, 50, 99)] == [float(expected(t)) for t in (0, 3, 10, 50, 99)]
    assert schedule == find_schedule(words, 0.5, 100) != find_schedule(words, 0.25, 100)


def test_an_optimizer_takes_arguments():
    optimizer = find_optimizer("sgd:momentum=0.9,nesterov=true")
    assert (optimizer.func, optimizer.keywords) == (optax.sgd, {"momentum": 0.9, "nesterov": True})
    assert find_optimizer("adam") is optax.adam
    assert find_optimizer("gradient_descent") is None


def test_a_run_with_a_schedule(command, noise):
    words = (*noise, "--num-steps", 100, "--schedule", "linear", "--optimizer", "sgd:momentum=0.5", "--out", "run")
    code, out, _ = command(*words)
    assert code == 0
    assert "0.1, linear" in out
    rates = np.load("run/history.npz")["learning_rate"]
    np.testing.assert_allclose(rates, 0.1 * (1 - np.arange(100) / 100), rtol=1e-5)


FIT = ("fit", "--data", "diabetes", "--learning-rate", "0.1", "--num-steps", "10")
SWEEP = ("sweep", "--data", "diabetes", "--num-steps", "10", "--over")
SGD = ("--optimizer", "sgd", "--learning-rate", "0.1")


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ((*FIT, "--patience", "0"), "--patience must be at least 1, got 0."),
        ((*FIT, "--patience", "2"), "--patience needs rows to judge by: give --held-out."),
        ((*FIT, "--chunk-steps", "0"), "--chunk-steps must be at least 1, got 0."),
        (
            (*FIT, "--schedule", "cosin"),
            "--schedule must be one of constant, linear, cosine, exponential, piecewise, warm-up, got 'cosin'. "
            "Did you mean 'cosine'?",
        ),
        (
            (*FIT, "--schedule", "cosine:alpah=1"),
            "--schedule cosine has no argument 'alpah'; it has decay_steps, alpha, exponent. Did you mean 'alpha'?",
        ),
        (
            (*FIT, "--schedule", "warm-up:warmup_steps=10"),
            "--schedule warm-up:warmup_steps=10: warmup_steps must be below decay_steps, all 10 steps of the run if "
            "not given, got 10.",
        ),
        (
            (*FIT, "--schedule", "exponential"),
            "--schedule exponential needs decay_rate, such as exponential:decay_rate=0.5.",
        ),
        (
            (*FIT, "--schedule", "piecewise"),
            "--schedule piecewise needs STEP=FACTOR, such as piecewise:1000=0.1, got 'piecewise'.",
        ),
        (
            (*FIT, "--schedule", "cosine:alpha"),
            "--schedule cosine:alpha: after the colon come ARGUMENT=NUMBER, with commas, got 'alpha'.",
        ),
        (
            (*FIT, "--schedule", "cosine:alpha=nan"),
            "--schedule cosine:alpha=nan: after the colon come ARGUMENT=NUMBER, with commas, got 'alpha=nan'.",
        ),
        (
            (*FIT, "--optimizer", "sgd:momentun=0.9"),
            "--optimizer sgd has no argument 'momentun'; it has momentum, nesterov, accumulator_dtype. "
            "Did you mean 'momentum'?",
        ),
        (
            (*FIT, "--optimizer", "gradient_descent:momentum=0.9"),
            "--optimizer must be gradient_descent or an optimizer of optax, got 'gradient_descent:momentum=0.9'. "
            "gradient_descent has no arguments; sgd:momentum=0.9 does.",
        ),
        (
            (*SWEEP, "momentum=0.9"),
            "--over must name one of batch_size, grad_tol, param_tol, divergence_factor, got 'momentum'.",
        ),
        (
            (*SWEEP, "momentun=0.9", *SGD),
            "--over must name one of batch_size, grad_tol, param_tol, divergence_factor, momentum, got 'momentun'. "
            "Did you mean 'momentum'?",
        ),
        (
            (*SWEEP, "momentum=high", *SGD),
            "--over momentum must be numbers, FROM:TO:log:COUNT, FROM:TO:lin:COUNT or A,B,C, got 'high'.",
        ),
        ((*SWEEP, "batch_size=1.5"), "--over batch_size must be whole numbers of at least 1, got '1.5'."),
        (
            (*SWEEP, "batch_size=2", "--batch-size", "3"),
            "--over batch_size and --batch-size cannot be given together.",
        ),
    ],
    ids=lambda value: " ".join(value[-2:]) if isinstance(value, tuple) else "",
)
def test_mistakes_get_one_line(command, words, error):
    assert command(*words) == (2, "", f"jaxgd: {error}\n")


def test_a_sweep_over_momentum_and_batch_size(command, tmp_path):
    words = ("--learning-rate", "0.01,0.1", "--optimizer", "sgd", "--over", "momentum=0,0.5", "batch_size=50,442")
    code, out, err = command("sweep", "--data", "diabetes", "--num-steps", "10", *words, "--out", "run", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["over"] == ["momentum", "batch_size"]
    with open(tmp_path / "run" / "summary.csv", newline="") as file:
        rows = [(float(r["learning_rate"]), float(r["momentum"]), int(r["batch_size"])) for r in csv.DictReader(file)]
    expected = [(rate, momentum, size) for rate in (0.01, 0.1) for momentum in (0.0, 0.5) for size in (50, 442)]
    np.testing.assert_allclose(rows, expected, rtol=1e-6)
