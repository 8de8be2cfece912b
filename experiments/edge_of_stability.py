"""How well does the second-order Taylor expansion predict the steps of a whole run?

Expected: for a logistic fit with the rate 1/L it is better than the first-order prediction at every step. For a network
it does not stay accurate: full-batch descent increases the largest curvature until it reaches 2/eta. It then stays near
2/eta, at the edge of stability, while the loss goes on falling (Cohen, Kaur, Li, Kolter & Talwalkar 2021, Gradient
Descent on Neural Networks Typically Occurs at the Edge of Stability, figure 1). In the last third of the run lambda_max
is within 20 % of 2/eta.

Run: python -m experiments edge_of_stability
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from sklearn import datasets

import jaxgd
from experiments.record import Outcome, holds
from jaxgd import data, theory
from jaxgd.plot import BLUE, GREEN, GREY, ORANGE, subplots
from jaxgd.theory import curvature
from jaxgd.types import Batch


@dataclasses.dataclass(frozen=True)
class Config:
    """Rates of the network, its rows and steps, and the steps of the logistic fit."""

    rates: tuple[float, ...] = (0.5, 1.0)
    num_rows: int = 600
    num_steps: int = 6000
    record_every: int = 50
    logistic_steps: int = 300


SMOKE = Config(rates=(1.0,), num_rows=300, num_steps=3000, record_every=100, logistic_steps=30)

RECORD = ("loss", "predicted_decrease", "second_order_decrease", "actual_decrease")


def run(config: Config) -> Outcome:
    """The predictions of a logistic fit, then the largest curvature along runs of a network."""
    logistic = _logistic(config)
    steps = np.arange(0, config.num_steps, config.record_every)
    runs = {rate: _network(rate, config) for rate in config.rates}
    error = np.abs(logistic["second_order_decrease"] - logistic["actual_decrease"])
    first = np.abs(logistic["predicted_decrease"] - logistic["actual_decrease"])
    checks = [
        holds("logistic: largest error of second order over that of first, at any step", float((error / first).max()),
              np.all(error < first), "below 1"),
        holds("logistic: the second-order prediction has the sign of the fact at every step",
              bool(np.all(logistic["second_order_decrease"] > 0)),
              np.all((logistic["second_order_decrease"] > 0) & (logistic["actual_decrease"] > 0)), "True"),
    ]  # fmt: skip
    rows = []
    for rate, found in runs.items():
        last = found["sharpness"][2 * len(steps) // 3 :] * rate / 2
        span = f"{last.min():.3f} to {last.max():.3f}"
        third = np.array_split(found["loss"], 3)
        rises = np.mean(found["actual_decrease"][len(steps) // 3 :] < 0)
        checks += [
            holds(f"network at {rate:g}: lambda_max at the start over 2/eta", float(found["sharpness"][0] * rate / 2),
                  found["sharpness"][0] * rate / 2 < 1, "below 1"),
            holds(f"network at {rate:g}: lambda_max over 2/eta in the last third", span,
                  np.all(np.abs(last - 1) < 0.2), "0.8 to 1.2"),
            holds(f"network at {rate:g}: mean loss of the last third over that of the first",
                  float(third[2].mean() / third[0].mean()), third[2].mean() < third[0].mean(), "below 1"),
            holds(f"network at {rate:g}: share of recorded steps that raised the loss after the first third",
                  float(rises), rises > 0, "over 0: descent is not monotone there"),
        ]  # fmt: skip
        rows += [
            {"learning_rate": rate, "step": int(t), "lambda_max": float(found["sharpness"][i])}
            | {name: float(found[name][i]) for name in RECORD}
            for i, t in enumerate(steps)
        ]
    return Outcome(checks, {"logistic": logistic, "steps": steps, "runs": runs}, rows)


def _logistic(config: Config) -> dict[str, Any]:
    """Breast cancer with a penalty at 1/L, from zeros."""
    dataset = data.as_labels(data.load("breast_cancer"))
    batch = data.to_batch(dataset, data.standardization(dataset).apply)
    problem = jaxgd.problems.logistic_regression(l2=0.01)
    bound = theory.smoothness(problem, batch)
    assert bound is not None
    rate = 1 / bound
    start = problem.zeros(batch)
    history = jaxgd.descend(
        problem, start, batch, learning_rate=rate, num_steps=config.logistic_steps, record=RECORD
    ).history
    return {name: np.asarray(getattr(history, name)) for name in RECORD}


def _network(rate: float, config: Config) -> dict[str, Any]:
    """A tanh network on digits under half the mean squared error of one-hot targets, from a third of a usual start."""
    bunch = datasets.load_digits()
    inputs = bunch.data[: config.num_rows]
    inputs = 0.5 * (inputs - inputs.mean(axis=0)) / np.sqrt(np.mean(inputs.var(axis=0)))
    batch = Batch(
        jnp.asarray(inputs, jnp.float32), jnp.asarray(np.eye(10)[bunch.target[: config.num_rows]], jnp.float32)
    )
    problem = jaxgd.problems.mlp((16,), activation="tanh", loss="half_mean_squared_error")
    assert problem.init is not None
    start = jax.tree.map(lambda leaf: leaf / 3, problem.init(jax.random.key(0), batch))
    history = jaxgd.descend(
        problem, start, batch, learning_rate=rate, num_steps=config.num_steps, record=(*RECORD, "params"),
        record_every=config.record_every,
    ).history  # fmt: skip
    sharpness = jax.lax.map(lambda params: curvature.largest_eigenvalue(problem, params, batch).value, history.params)
    found = {name: np.asarray(getattr(history, name), np.float64) for name in RECORD}
    return found | {"sharpness": np.asarray(sharpness, np.float64)}


def plot(outcome: Outcome) -> Figure:
    """The predictions of the logistic fit; of the network the largest curvature beside 2/eta, loss and predictions."""
    numbers = outcome.numbers
    figure, (left, middle, right, last) = subplots(4, width=16.0, height=4.0)
    logistic = numbers["logistic"]
    actual = logistic["actual_decrease"]
    left.loglog(np.arange(1, len(actual) + 1), actual, color=BLUE, label="decrease of the loss")
    for name, label, colour in (
        ("predicted_decrease", "error of the first order", GREY),
        ("second_order_decrease", "error of the second order", GREEN),
    ):
        left.loglog(np.arange(1, len(actual) + 1), np.abs(logistic[name] - actual), color=colour, label=label)
    left.set(xlabel="step", ylabel="change of the loss", title="Logistic fit at 1/L")
    left.legend(frameon=False)
    for (rate, found), colour in zip(numbers["runs"].items(), (BLUE, ORANGE, GREEN), strict=False):
        middle.plot(numbers["steps"], found["sharpness"], color=colour, label=f"lambda_max, eta = {rate:g}")
        middle.axhline(2 / rate, color=colour, linestyle="--", linewidth=1, label=f"2 / eta = {2 / rate:g}")
        right.semilogy(numbers["steps"], found["loss"], color=colour, label=f"eta = {rate:g}")
    middle.set(xlabel="step", ylabel="largest curvature", title="Network: its largest curvature")
    middle.set_ylim(bottom=0)
    middle.legend(frameon=False)
    right.set(xlabel="step", ylabel="loss", title="Network: its loss")
    right.legend(frameon=False)
    rate, found = next(iter(numbers["runs"].items()))
    last.plot(numbers["steps"], found["actual_decrease"], ".", color=BLUE, markersize=4, label="decrease of the loss")
    last.plot(
        numbers["steps"], found["second_order_decrease"], color=GREEN, linewidth=1, label="second-order prediction"
    )
    last.plot(numbers["steps"], found["predicted_decrease"], color=GREY, linewidth=1, label="first-order prediction")
    last.set_yscale("symlog", linthresh=1e-6)
    last.set(xlabel="step", ylabel="change of the loss", title=f"Network at eta = {rate:g}")
    last.legend(frameon=False, loc="lower right", fontsize=7)
    return figure
