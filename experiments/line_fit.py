"""Which path does descent take to the line through 12 points?

Expected: the losses and the gradient agree with the published values for these points (Prince, Understanding Deep
Learning, figures 2.2 and 6.2 with their notebooks). The path ends at the closed form (X^T X)^-1 X^T y.

Run: python -m experiments line_fit
"""

import dataclasses

import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import jaxgd
from experiments.record import Outcome, close
from jaxgd.plot import BLACK, BLUE, GREY, ORANGE, subplots
from jaxgd.types import Batch, LineParams

X = (0.03, 0.19, 0.34, 0.46, 0.78, 0.81, 1.08, 1.18, 1.39, 1.60, 1.65, 1.90)
Y = (0.67, 0.85, 1.05, 1.00, 1.40, 1.50, 1.30, 1.54, 1.55, 1.68, 1.73, 1.60)


@dataclasses.dataclass(frozen=True)
class Config:
    """Start, rate and steps of the path."""

    start: tuple[float, float] = (1.6, -0.5)
    learning_rate: float = 0.03
    num_steps: int = 1000


SMOKE = Config(num_steps=400)


def _line(intercept: float, slope: float) -> LineParams:
    return LineParams(jnp.float64(intercept), jnp.float64(slope))


def run(config: Config) -> Outcome:
    """Published values, then the path."""
    problem, batch = jaxgd.problems.line(), Batch(jnp.array(X), jnp.array(Y))
    assert problem.minimizer is not None
    best = problem.minimizer(batch)
    result = jaxgd.descend(
        problem,
        _line(*config.start),
        batch,
        learning_rate=config.learning_rate,
        num_steps=config.num_steps,
        record=("params", "loss"),
    )
    grads = problem.grad(_line(0.6, -0.2), batch)
    checks = [
        close("loss at (0.6, -0.2)", problem.loss(_line(0.6, -0.2), batch), 12.367, atol=5e-4),
        close("loss at (0.4, 0.2)", problem.loss(_line(0.4, 0.2), batch), 7.07, atol=5e-3),
        close("loss at (1.60, -0.8)", problem.loss(_line(1.6, -0.8), batch), 10.28, atol=5e-3),
        close("gradient at (0.6, -0.2)", np.array(grads), [-21.904, -26.84044], atol=5e-4),
        close("smallest loss", problem.loss(best, batch), 0.20, atol=5e-3),
        close("end of the path against the closed form", np.array(result.params), np.array(best), rtol=1e-6),
    ]
    path = np.stack([np.asarray(leaf) for leaf in result.history.params], axis=1)
    numbers = {"path": path, "best": np.array(best)}
    rows = [{"step": t, "intercept": p[0], "slope": p[1]} for t, p in enumerate(path)]
    return Outcome(checks, numbers, rows, drawn=(problem, batch, result))


def plot(outcome: Outcome) -> Figure:
    """The path over the loss surface, the lines beside it."""
    numbers = outcome.numbers
    figure, (left, right) = subplots(2, width=9.0)
    jaxgd.plot.path(*outcome.drawn, axes=left, title="Path over the sum of squared errors (contours of its log)")
    left.set(xlabel="intercept phi0", ylabel="slope phi1")
    right.plot(X, Y, "o", color=BLACK, markersize=4)
    ends = np.array([0.0, 2.0])
    for step, colour in ((0, GREY), (1, ORANGE), (5, BLUE)):
        intercept, slope = numbers["path"][step]
        right.plot(ends, intercept + slope * ends, color=colour, linewidth=1.2, label=f"step {step}")
    right.plot(ends, numbers["best"][0] + numbers["best"][1] * ends, color=BLACK, linestyle="--", label="closed form")
    right.set(xlabel="x", ylabel="y", title="The lines of some steps")
    right.legend(frameon=False)
    return figure
