"""At which learning rate does full-batch descent start to diverge?

Expected: for a squared error at 2 / lambda_max of the Hessian, for any data.

Run: python -m experiments stability_edge
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import jaxgd
from experiments.record import Outcome, holds
from jaxgd.plot import BLACK, BLUE, subplots
from jaxgd.types import Batch, LinearParams


@dataclasses.dataclass(frozen=True)
class Config:
    """Data sets, bisections of the edge, steps of a run."""

    data_sets: int = 200
    bisections: int = 12
    num_steps: int = 6000


SMOKE = Config(data_sets=8, num_steps=6000)


def run(config: Config) -> Outcome:
    """Bisect the edge of all data sets at once: each bisection is one sweep."""
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(config.data_sets, 20, 3)) * np.exp(rng.normal(size=(config.data_sets, 1, 3)))
    batches = Batch(jnp.asarray(inputs), jnp.asarray(rng.normal(size=(config.data_sets, 20))))
    problem, start = jaxgd.problems.linear_regression(), LinearParams(jnp.ones(3), jnp.float64(1.0))
    limits = np.asarray(jax.vmap(lambda batch: jaxgd.largest_stable_learning_rate(problem, start, batch))(batches))

    def sweep(rates: np.ndarray) -> jaxgd.Result:
        return jaxgd.sweep(
            problem, start, batches, over={"batch": batches, "learning_rate": jnp.asarray(rates)}, zipped=True,
            num_steps=config.num_steps, record=(),
        )  # fmt: skip

    low, high = np.zeros_like(limits), 16 * limits
    for _ in range(config.bisections + 4):
        middle = (low + high) / 2
        lost = np.asarray(sweep(middle).stop_reason) == jaxgd.StopReason.DIVERGED
        low, high = np.where(lost, low, middle), np.where(lost, middle, high)
    edge = (low + high) / 2 / limits
    shares = np.geomspace(0.03, 3, 60)
    one = jaxgd.sweep(
        problem, start, jax.tree.map(lambda leaf: leaf[0], batches),
        over={"learning_rate": jnp.asarray(limits[0] * shares)}, num_steps=300, record=(),
    )  # fmt: skip
    gap = float(np.abs(edge - 1).max())
    checks = [
        holds(
            f"edge over 2 / lambda_max, {config.data_sets} data sets: furthest from 1", gap, gap < 2e-3, "under 0.002"
        ),
        holds("their mean", float(edge.mean()), abs(edge.mean() - 1) < 1e-3, "1.000"),
    ]
    numbers = {
        "edge": edge, "rates": limits[0] * shares, "losses": np.asarray(one.loss), "limit": limits[0],
        "lost": np.asarray(one.stop_reason) == jaxgd.StopReason.DIVERGED,
    }  # fmt: skip
    rows = [{"limit": a, "edge_over_limit": b} for a, b in zip(limits, edge, strict=True)]
    first_loss = problem.loss(start, jax.tree.map(lambda leaf: leaf[0], batches))
    return Outcome(checks, numbers, rows, drawn=(one, first_loss))


def plot(outcome: Outcome) -> Figure:
    """The final loss against the rate for one data set, the edges of all."""
    numbers = outcome.numbers
    figure, (left, right) = subplots(2, width=9.0)
    result, first_loss = outcome.drawn
    jaxgd.plot.sweep(
        result,
        {"learning_rate": numbers["rates"]},
        start_loss=first_loss,
        limits={"2 / lambda_max": numbers["limit"]},
        title="One data set: loss after 300 steps",
        axes=left,
    )
    right.hist(numbers["edge"], bins=np.linspace(0.998, 1.002, 41), color=BLUE)
    right.axvline(1.0, color=BLACK, linestyle="--")
    right.set_xticks([0.998, 0.999, 1.0, 1.001, 1.002], ["0.998", "", "1", "", "1.002"])
    right.set(
        xlabel="where divergence starts, over 2 / lambda_max",
        ylabel="data sets",
        title=f"{len(numbers['edge'])} data sets, by bisection",
    )
    return figure
