"""Does backpropagation derived by hand give the right gradient of a ReLU network?

Expected: in each layer it equals automatic differentiation up to rounding. For single weights of the first layer it
equals the slope of the loss under a small change of the weight.

Run: python -m experiments backprop
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import jaxgd
from experiments.record import Outcome, holds
from jaxgd import data
from jaxgd.plot import subplots


@dataclasses.dataclass(frozen=True)
class Config:
    """The network on digits, and the number of weights that are changed one by one."""

    hidden_sizes: tuple[int, ...] = (32, 16)
    num_weights: int = 60
    step: float = 1e-5


SMOKE = Config(hidden_sizes=(8,), num_weights=10)


def run(config: Config) -> Outcome:
    """Layer by layer against reverse mode; weight by weight against differences."""
    dataset = data.as_labels(data.load("digits"))
    batch = data.to_batch(dataset, data.standardization(dataset).apply)
    problem = jaxgd.problems.mlp(config.hidden_sizes, loss="mean_softmax_cross_entropy", num_classes=10)
    assert problem.init is not None
    params = problem.init(jax.random.key(0), batch)
    hand, reverse = jax.jit(problem.grad)(params, batch), jax.jit(jax.grad(problem.loss))(params, batch)
    rows: list[dict[str, Any]] = []
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(hand), jax.tree.leaves(reverse), strict=True):
        size = float(jnp.max(jnp.abs(b)))
        rows.append({"leaf": jax.tree_util.keystr(path), "relative_gap": float(jnp.max(jnp.abs(a - b))) / size})
    first = params.layers[0].weights
    used = np.flatnonzero(np.abs(np.asarray(hand.layers[0].weights)).max(axis=1) > 0)  # pixels that are ever inked
    rng = np.random.default_rng(0)
    index = np.stack([rng.choice(used, config.num_weights), rng.integers(0, first.shape[1], config.num_weights)])

    @jax.jit
    def moved(row: jax.Array, column: jax.Array, step: jax.Array) -> jax.Array:
        layer = params.layers[0]._replace(weights=first.at[row, column].add(step))
        return problem.loss(params._replace(layers=(layer, *params.layers[1:])), batch)

    slopes = np.array([
        (moved(i, j, config.step) - moved(i, j, -config.step)) / (2 * config.step) for i, j in index.T
    ])  # fmt: skip
    expected = np.asarray(hand.layers[0].weights)[index[0], index[1]]
    gap = float(np.abs(slopes - expected).max() / np.abs(expected).max())
    report = jaxgd.check_gradient(problem.loss, problem.grad, params, batch)
    worst = max(row["relative_gap"] for row in rows)
    checks = [
        holds("largest relative gap to reverse mode, all layers", worst, worst < 1e-13, "under 1e-13"),
        holds(f"{config.num_weights} weights of the first layer: gap to differences", gap, gap < 1e-5, "under 1e-5"),
        holds("jaxgd.check_gradient", "ok" if report.ok else "WRONG", report.ok, "ok"),
    ]
    return Outcome(checks, {"slopes": slopes, "expected": expected, "layers": rows}, rows)


def plot(outcome: Outcome) -> Figure:
    """Backpropagation beside differences, and the gaps by layer."""
    numbers = outcome.numbers
    figure, (left, right) = subplots(2, width=9.0)
    span = [numbers["expected"].min(), numbers["expected"].max()]
    left.plot(span, span, color="#8a8a8a", linewidth=1)
    left.plot(numbers["expected"], numbers["slopes"], "o", markersize=4)
    left.set(xlabel="dL/dw by backpropagation", ylabel="slope of the loss under a change of w",
             title="Single weights of the first layer")  # fmt: skip
    names = [row["leaf"].removeprefix(".layers") for row in numbers["layers"]]
    right.barh(names, [max(row["relative_gap"], 1e-18) for row in numbers["layers"]], color="#0b4f8a")
    right.invert_yaxis()
    right.set(
        xscale="log",
        xlabel="largest gap to reverse mode / largest entry",
        title="Each layer equals reverse mode",
        xlim=(1e-18, 1e-12),
    )
    return figure
