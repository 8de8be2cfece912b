"""How does descent on x^2 - 4x + 5 depend on the learning rate?

Expected: the minimum is at x = 2, where 2x - 4 = 0. Each step multiplies the error by 1 - 2 eta. So the rate 1/2
reaches the minimum in one step, the rate 1 oscillates forever, and larger rates diverge.

Run: python -m experiments parabola
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import jaxgd
from experiments.record import Outcome, close, holds
from jaxgd.plot import subplots
from jaxgd.types import ScalarParams

NO_DATA: Any = None
"""A function of one variable has no batch."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Starts and rates of the sweep."""

    starts: tuple[float, ...] = (-3.0, 0.0, 5.0, 8.0)
    rates: tuple[float, ...] = (0.01, 0.1, 0.5, 0.8, 1.0, 1.1)
    num_steps: int = 60


SMOKE = Config(num_steps=30)


def run(config: Config) -> Outcome:
    """Every start at every rate."""
    problem = jaxgd.problems.quadratic()
    result = jaxgd.sweep(
        problem,
        ScalarParams(jnp.float64(0.0)),
        None,
        over={"learning_rate": jnp.array(config.rates), "params": ScalarParams(jnp.array(config.starts))},
        num_steps=config.num_steps,
        record=("params", "loss"),
        divergence_factor=1e30,
    )
    path = np.asarray(result.history.params.x)  # [rates, starts, steps]
    factor = 1 - 2 * np.array(config.rates)
    predicted = 2 + (np.array(config.starts)[None, :, None] - 2) * factor[:, None, None] ** np.arange(path.shape[2])
    assert problem.minimizer is not None
    gap = (path - predicted) / np.maximum(np.abs(predicted), 1)
    swinging = path[config.rates.index(1.0)]
    above = np.abs(path[config.rates.index(1.1)] - 2)
    checks = [
        close("root of the derivative", problem.minimizer(NO_DATA).x, 2.0, atol=1e-15),
        close("where rate 0.1 ends", path[config.rates.index(0.1), :, -1], 2.0, atol=20 * 0.8**config.num_steps),
        close("paths against 2 + (x0 - 2) (1 - 2 eta)^t", gap, 0.0, atol=1e-12),
        close("rate 1/2 after one step", path[config.rates.index(0.5), :, 1], 2.0, atol=1e-15),
        holds("rate 1 swings between x0 and 4 - x0", float(np.abs(swinging[:, ::2] - swinging[:, :1]).max()),
              np.array_equal(swinging[:, ::2], np.broadcast_to(swinging[:, :1], swinging[:, ::2].shape)), "to, fro"),
        holds("rate 1.1 grows", float(above[:, -1].min()), (np.diff(above, axis=1) > 0).all(), "in every step"),
    ]  # fmt: skip
    rows = [
        {"learning_rate": rate, "start": start, "step": t, "x": path[i, j, t]}
        for i, rate in enumerate(config.rates)
        for j, start in enumerate(config.starts)
        for t in range(path.shape[2])
    ]
    return Outcome(checks, {"rates": config.rates, "path": path[:, -1]}, rows)


def plot(outcome: Outcome) -> Figure:
    """The parabola with three paths, and the error against the step."""
    figure, (left, right) = subplots(2, width=9.0)
    grid = np.linspace(-5, 9, 200)
    left.plot(grid, grid**2 - 4 * grid + 5, color="#8a8a8a", linewidth=1)
    for rate, path in zip(outcome.numbers["rates"], outcome.numbers["path"], strict=True):
        shown, error = path[:12], np.abs(path - 2)
        seen = np.where(error > 1e-16, error, np.nan)
        (curve,) = right.semilogy(seen, "o-", markersize=2, linewidth=0.8, label=f"{rate:g}")
        if rate in (0.1, 0.8, 1.0):
            heights, colour = shown**2 - 4 * shown + 5, curve.get_color()
            left.plot(shown, heights, "o-", color=colour, markersize=3, linewidth=0.8, label=f"{rate:g}")
    left.set(xlabel="x", ylabel="y = x^2 - 4x + 5", title="Twelve steps from x = 8", ylim=(0, 45))
    right.set(xlabel="step", ylabel="|x - 2|", title="The error is multiplied by |1 - 2 eta|", ylim=(1e-17, 1e6))
    for ax in (left, right):
        ax.legend(title="learning rate", frameon=False)
    return figure
