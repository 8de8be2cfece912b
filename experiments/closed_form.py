"""How accurate is each method for least squares if the data are ill-conditioned?

Expected: QR and SVD lose as many digits as the condition number has, the normal equations twice as many (Higham,
Accuracy and Stability, chapter 20). After t steps of descent, the error along the slowest direction is (1 - eta mu)^t
times the error at the start.

Run: python -m experiments closed_form
"""

import dataclasses

import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import jaxgd
from experiments.record import Outcome, close, holds
from jaxgd.plot import subplots
from jaxgd.theory import closed_form
from jaxgd.types import Batch, LinearParams


@dataclasses.dataclass(frozen=True)
class Config:
    """Condition numbers 10^0 to 10^largest, several random designs each."""

    largest: int = 10
    designs: int = 9
    num_steps: int = 2000


SMOKE = Config(largest=6, designs=3)


def _design(rng: np.random.Generator, condition: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Inputs of a condition number, weights and targets without noise."""
    left = np.linalg.qr(rng.normal(size=(40, 4)))[0]
    right = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    inputs = left @ np.diag(np.geomspace(1, 1 / condition, 4)) @ right.T
    weights = rng.normal(size=4)
    return inputs, weights, inputs @ weights


def _solve(way: str, inputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    if way == "normal equations":
        try:
            return np.asarray(np.linalg.solve(inputs.T @ inputs, inputs.T @ targets))
        except np.linalg.LinAlgError:  # not a digit left
            return np.zeros(inputs.shape[1])
    if way == "QR":
        q, r = np.linalg.qr(inputs)
        return np.asarray(np.linalg.solve(r, q.T @ targets))
    return np.asarray(np.linalg.lstsq(inputs, targets, rcond=None)[0])


def run(config: Config) -> Outcome:
    """Errors of the ways, then descent beside its prediction."""
    rng = np.random.default_rng(0)
    conditions = 10.0 ** np.arange(config.largest + 1)
    ways = ("normal equations", "QR", "SVD")
    errors: dict[str, list[float]] = {way: [] for way in ways}
    for condition in conditions:
        found = []
        for _ in range(config.designs):
            inputs, weights, targets = _design(rng, condition)
            found.append([np.linalg.norm(_solve(w, inputs, targets) - weights) / np.linalg.norm(weights) for w in ways])
        for way, median in zip(ways, np.median(found, axis=0), strict=True):
            errors[way].append(float(max(median, 1e-17)))
    few = slice(1, 8)  # beyond 1e8 the normal equations have no digit left to lose
    slopes = {way: float(np.polyfit(np.log10(conditions[few]), np.log10(errors[way][few]), 1)[0]) for way in ways}

    inputs, weights, targets = _design(rng, 10.0)
    batch = Batch(jnp.asarray(inputs), jnp.asarray(targets + 0.1))
    problem, start = jaxgd.problems.linear_regression(), LinearParams(jnp.zeros(4), jnp.float64(0.0))
    rate = 0.5 * float(jaxgd.largest_stable_learning_rate(problem, start, batch))
    result = jaxgd.descend(
        problem, start, batch, learning_rate=rate, num_steps=config.num_steps, record=("loss", "params"), param_tol=-1.0
    )
    exact = closed_form.trajectory(start, batch, learning_rate=rate, num_steps=config.num_steps)
    gap = np.abs(np.asarray(result.history.params.weights) - exact.weights[:-1]).max()
    design = np.column_stack([inputs, np.ones(40)])
    eigenvalues = np.linalg.eigvalsh(2 / 40 * design.T @ design)
    assert problem.minimizer is not None
    best = problem.minimizer(batch)
    error = np.linalg.norm(
        np.column_stack([result.history.params.weights - best.weights, result.history.params.bias - best.bias]), axis=1
    )
    factor = float((error[-1] / error[len(error) // 2]) ** (1 / (len(error) - 1 - len(error) // 2)))
    checks = [
        close("digits lost by the normal equations per digit of condition", slopes["normal equations"], 2.0, atol=0.35),
        close("by QR", slopes["QR"], 1.0, atol=0.35),
        close("by SVD", slopes["SVD"], 1.0, atol=0.35),
        holds("descent against its exact trajectory, largest gap", float(gap), gap < 1e-12, "under 1e-12"),
        close("factor of descent's error in its last steps", factor, 1 - rate * eigenvalues[0], rtol=1e-4),
    ]
    rows = [{"condition": c, **{way: errors[way][i] for way in ways}} for i, c in enumerate(conditions)]
    numbers = {"conditions": conditions, "errors": errors, "slopes": slopes, "descent": error,
               "slowest": float(1 - rate * eigenvalues[0])}  # fmt: skip
    return Outcome(checks, numbers, rows)


def plot(outcome: Outcome) -> Figure:
    """Error against conditioning, and descent's error against the step."""
    numbers = outcome.numbers
    figure, (left, right) = subplots(2, width=9.0)
    for (way, errors), marker in zip(numbers["errors"].items(), "os^", strict=True):
        left.loglog(
            numbers["conditions"],
            errors,
            marker + "-",
            markersize=4,
            label=f"{way}: slope {numbers['slopes'][way]:.2f}",
        )
    left.set(
        xlabel="condition number of the inputs",
        ylabel="relative error of the weights",
        title="Digits against conditioning",
    )
    left.legend(frameon=False)
    steps = np.arange(len(numbers["descent"]))
    right.semilogy(steps, numbers["descent"], label="descent")
    right.semilogy(
        steps, numbers["descent"][-1] * numbers["slowest"] ** (steps - steps[-1]), "--", label="(1 - eta mu)^t"
    )
    right.set(xlabel="step", ylabel="distance to the closed form", title="Descent forgets its fast directions first")
    right.legend(frameon=False)
    return figure
