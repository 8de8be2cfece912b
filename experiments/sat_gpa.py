"""How does the SAT score predict the first-year GPA?

Expected: a grid search over (w, b) and descent both find the published fit of 1000 students, fy_gpa = 0.0019 + 0.0239
sat_sum (openintro, satgpa). On raw scores the rate 0.001 is 11 times the largest stable one, and descent diverges. On
standardised scores the same rate is stable. Without --data a table with the same moments is used, which has the same
fit.

Run: python -m experiments sat_gpa [--data satgpa.csv]
"""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import jaxgd
from experiments.record import Outcome, close, holds
from jaxgd import data
from jaxgd.plot import BLACK, GREY, subplots
from jaxgd.types import Batch, LinearParams

MEAN, DEVIATION, CORRELATION = (103.329, 2.46795), (14.287368123, 0.7408051632), 0.46028101836
"""Of sat_sum (percentiles summed) and fy_gpa."""


@dataclasses.dataclass(frozen=True)
class Config:
    """The table, the grid and the steps."""

    data: Path | None = None
    grid: int = 400
    num_steps: int = 1000


SMOKE = Config(grid=60)


def _table(path: Path | None) -> Batch:
    if path is not None:
        dataset = data.load(str(path), target="fy_gpa", features=("sat_sum",))
        return Batch(jnp.asarray(dataset.inputs), jnp.asarray(dataset.targets).reshape(-1))
    rng = np.random.default_rng(0)
    raw = rng.normal(size=(1000, 2))
    raw -= raw.mean(0)
    raw[:, 1] -= raw[:, 0] * (raw[:, 0] @ raw[:, 1]) / (raw[:, 0] @ raw[:, 0])
    x, rest = (raw / raw.std(0, ddof=1)).T
    y = CORRELATION * x + np.sqrt(1 - CORRELATION**2) * rest
    return Batch(jnp.asarray(MEAN[0] + DEVIATION[0] * x)[:, None], jnp.asarray(MEAN[1] + DEVIATION[1] * y))


def run(config: Config) -> Outcome:
    """Closed form, grid, three rates, the bias held constant."""
    batch = _table(config.data)
    problem, start = jaxgd.problems.linear_regression(), LinearParams(jnp.zeros(1), jnp.float64(0.0))
    assert problem.minimizer is not None
    best = problem.minimizer(batch)
    limit = float(jaxgd.largest_stable_learning_rate(problem, start, batch))
    raw = jaxgd.descend(problem, start, batch, learning_rate=0.001, num_steps=config.num_steps)

    mean, scale = jnp.mean(batch.inputs), jnp.std(batch.inputs)
    scaled = Batch((batch.inputs - mean) / scale, batch.targets)
    scaled_limit = float(jaxgd.largest_stable_learning_rate(problem, start, scaled))
    rates = {"small": 0.001, "good": 0.3, "large": 1.05 * scaled_limit}
    runs = {
        name: jaxgd.descend(
            problem, start, scaled, learning_rate=rate, num_steps=config.num_steps, divergence_factor=1e6
        )
        for name, rate in rates.items()
    }
    good = runs["good"]
    weight = float(good.params.weights[0] / scale)
    bias = float(good.params.bias) - weight * float(mean)

    # The bias is constant, at its best value, so only one parameter is fitted.
    held = jaxgd.Problem(
        name="bias held",
        loss=lambda w, rows: jnp.mean((rows.inputs[:, 0] * w + best.bias - rows.targets) ** 2),
        grad=lambda w, rows: 2 * jnp.mean((rows.inputs[:, 0] * w + best.bias - rows.targets) * rows.inputs[:, 0]),
    )
    slope_only = jaxgd.descend(held, jnp.float64(0.0), batch, learning_rate=0.9 * limit / 2, num_steps=config.num_steps)

    grid = np.linspace(0.0, 0.05, config.grid), np.linspace(-1.0, 1.0, config.grid)
    # The loss of every (w, b) is computed from five sums; otherwise a grid of this size would take too long.
    x, y = np.asarray(batch.inputs[:, 0]), np.asarray(batch.targets)
    w, b = np.meshgrid(*grid, indexing="ij")
    surface = w**2 * np.mean(x * x) + b**2 + np.mean(y * y) + 2 * (w * b * x.mean() - w * np.mean(x * y) - b * y.mean())
    index = np.unravel_index(np.argmin(surface), surface.shape)
    steps_needed = int(np.argmax(np.asarray(good.history.loss) <= surface[index]))
    checks = [
        close("slope by closed form", best.weights[0], 0.0239, atol=5e-5),
        close("intercept by closed form", best.bias, 0.0019, atol=5e-4),
        close("slope by descent, standardised, rate 0.3", weight, float(best.weights[0]), rtol=1e-6),
        close("intercept by descent", bias, float(best.bias), atol=1e-6),
        close("slope by descent, bias held", slope_only.params, float(best.weights[0]), rtol=1e-6),
        close("slope by the grid", grid[0][index[0]], float(best.weights[0]), atol=1e-3 + 0.1 / config.grid),
        close("largest stable rate on raw scores", limit, 9.19e-5, rtol=2e-3),
        holds("rate 0.001 on raw scores", jaxgd.StopReason(int(raw.stop_reason)).name,
              int(raw.stop_reason) == jaxgd.StopReason.DIVERGED, "DIVERGED"),
        holds("rate 0.3 on standardised scores", jaxgd.StopReason(int(good.stop_reason)).name,
              int(good.stop_reason) == jaxgd.StopReason.NO_CHANGE, "NO_CHANGE: w_new = w_old"),
        holds("rate 0.001 is sound there: share of the limit", rates["small"] / scaled_limit,
              rates["small"] < scaled_limit and runs["small"].loss < runs["small"].history.loss[0], "under 1"),
        holds("losses evaluated for the grid's accuracy, over steps of descent", config.grid**2 / max(steps_needed, 1),
              config.grid**2 > 100 * steps_needed, "over 100"),
    ]  # fmt: skip
    numbers = {
        "x": x, "y": y, "line": (float(best.bias), float(best.weights[0])), "rates": rates,
        "losses": {name: np.asarray(result.history.loss)[: int(result.num_steps) + 1] for name, result in runs.items()},
        "smallest": float(problem.loss(jax.tree.map(jnp.asarray, best), batch)), "steps_needed": steps_needed,
    }  # fmt: skip
    return Outcome(checks, numbers, [{"rate": k, "learning_rate": v} for k, v in rates.items()])


def plot(outcome: Outcome) -> Figure:
    """The students with the line, and the loss at three rates."""
    numbers = outcome.numbers
    figure, (left, right) = subplots(2, width=9.0)
    left.plot(numbers["x"], numbers["y"], ".", markersize=2, color=GREY)
    ends = np.array([numbers["x"].min(), numbers["x"].max()])
    left.plot(ends, numbers["line"][0] + numbers["line"][1] * ends, color=BLACK)
    left.set(
        xlabel="SAT score (sum of percentiles)",
        ylabel="first-year GPA",
        title="1000 students and the least-squares line",
    )
    for name, losses in numbers["losses"].items():
        right.loglog(np.arange(1, len(losses) + 1), losses, label=f"{name}: {numbers['rates'][name]:.3g}")
    right.axhline(numbers["smallest"], color=BLACK, linestyle="--", linewidth=1, label="smallest")
    right.set(xlabel="step + 1", ylabel="mean squared error", title="Standardised scores, three rates", ylim=(0.2, 1e3))
    right.legend(frameon=False)
    return figure
