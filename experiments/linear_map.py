"""How fast does y = Mx + b approach a given target g, from any start?

Expected: each step changes y by -2 eta (|x|^2 + 1) (y - g), so it multiplies the residual by 1 - 2 eta (|x|^2 + 1). For
eta above 1 / (|x|^2 + 1) the residual grows. M does not converge to the matrix that generated g, because one equation
does not determine many unknowns.

Run: python -m experiments linear_map
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import jaxgd
from experiments.record import Outcome, close, holds
from jaxgd.plot import subplots
from jaxgd.types import Batch, LinearMapParams


@dataclasses.dataclass(frozen=True)
class Config:
    """Rates are shares of 1 / (|x|^2 + 1)."""

    shares: tuple[float, ...] = (0.1, 0.3, 0.5, 0.75, 0.95, 1.05)
    starts: int = 20
    num_steps: int = 40


SMOKE = Config(shares=(0.3, 1.05), starts=2, num_steps=10)


def run(config: Config) -> Outcome:
    """Descend from random starts at every rate, all in one sweep."""
    matrix, bias = jnp.array([[1.0, 2.0, 0.0], [0.0, 1.0, 1.0]]), jnp.array([0.5, -0.3])
    x = jnp.array([1.0, 0.5, 0.5])
    g = matrix @ x + bias
    problem, batch = jaxgd.problems.linear_map(), Batch(x, g)
    keys = jax.random.split(jax.random.key(0), config.starts)
    starts = jax.vmap(
        lambda key: LinearMapParams(jax.random.normal(key, (2, 3)), jax.random.normal(jax.random.fold_in(key, 1), (2,)))
    )(keys)
    limit = 1 / float(x @ x + 1)
    result = jaxgd.sweep(
        problem,
        jax.tree.map(lambda leaf: leaf[0], starts),
        batch,
        over={"learning_rate": limit * jnp.array(config.shares), "params": starts},
        num_steps=config.num_steps,
        divergence_factor=1e30,
        record=("loss",),
    )
    residuals = np.sqrt(np.asarray(result.history.loss))  # [rates, starts, steps]
    factors = np.abs(1 - 2 * np.array(config.shares))
    steps = np.arange(residuals.shape[2])
    predicted = residuals[:, :, :1] * factors[:, None, None] ** steps
    seen = predicted > 1e-6 * predicted[:, :, :1]  # below, rounding of y has its share
    worst = float(np.max(np.abs(residuals / np.where(seen, predicted, 1) - 1), where=seen, initial=0))
    lowest = config.shares.index(0.3)
    gaps = np.linalg.norm(result.params.matrix[lowest] - matrix, axis=(1, 2))
    measured = float(jaxgd.largest_stable_learning_rate(problem, LinearMapParams(matrix, bias), batch))
    checks = [
        holds("largest relative departure of a residual from the prediction", worst, worst < 1e-9, "under 1e-9"),
        close("largest stable rate", measured, limit, rtol=1e-12),
        holds("at 1.05 of it the residual grows", residuals[-1, :, -1].min() / residuals[-1, :, 0].max(),
              (residuals[-1, :, -1] > residuals[-1, :, 0]).all(), "from every start"),
        holds("distance of M from the matrix that made g", float(gaps.min()),
              gaps.min() > 0.1, "over 0.1 for all starts"),
    ]  # fmt: skip
    numbers = {"shares": config.shares, "residuals": residuals[:, 0], "predicted": predicted[:, 0], "limit": limit}
    rows = [
        {"share_of_limit": share, "step": int(t), "residual": residuals[i, 0, t]}
        for i, share in enumerate(config.shares)
        for t in steps
    ]
    return Outcome(checks, numbers, rows)


def plot(outcome: Outcome) -> Figure:
    """Residual against the step, with the predicted lines."""
    figure, ax = subplots()
    numbers = outcome.numbers
    for share, residual, predicted in zip(numbers["shares"], numbers["residuals"], numbers["predicted"], strict=True):
        (line,) = ax.semilogy(np.maximum(predicted, 1e-17), linewidth=1, label=f"{share:g} / (|x|^2 + 1)")
        ax.semilogy(np.maximum(residual, 1e-17), "o", markersize=3, color=line.get_color())
    ax.set(
        xlabel="step",
        ylabel="|g - y|",
        ylim=(1e-17, None),
        title="Residual of y = Mx + b: measured, and predicted as lines",
    )
    ax.legend(title="learning rate", frameon=False)
    return figure
