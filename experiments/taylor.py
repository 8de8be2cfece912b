"""Do the Taylor remainders have the orders 1, 2, 3, and is the direction of steepest descent against the gradient?

Expected: on logarithmic axes the remainders have the slopes 1, 2, 3 against the step (Taylor's theorem). To first order
a step eta u changes the loss by eta k cos(beta) with k = |u| |g|, which is smallest at beta = 180 degrees.

Run: python -m experiments taylor
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from experiments.record import Outcome, close, holds
from jaxgd.plot import subplots
from jaxgd.plot import taylor as plot_remainders
from jaxgd.problems import ALL_PROBLEMS
from jaxgd.theory import taylor


@dataclasses.dataclass(frozen=True)
class Config:
    """Problems by their name, with the seed of the data, and step sizes."""

    problems: tuple[tuple[str, int], ...] = (
        ("sigmoid_neuron", 8),
        ("cubic", 1),
        ("sigmoid_neuron(l2=0.1)", 9),
        ("logistic_regression", 12),
        ("softmax_regression(3, l2=0.1)", 16),
    )
    num_sizes: int = 8
    num_angles: int = 73


SMOKE = Config(problems=(("sigmoid_neuron", 8),))


def run(config: Config) -> Outcome:
    """Remainders of several systems; the fan of directions of the first."""
    sizes = jnp.geomspace(3e-2, 3e-4, config.num_sizes)
    angles = jnp.linspace(0.0, 360.0, config.num_angles)
    checks, rows = [], []
    curves: dict[str, Any] = {}
    first_remainders: Any = None
    systems = {problem.name: (problem, make_batch) for problem, make_batch in ALL_PROBLEMS}
    for name, seed in config.problems:
        problem, make_batch = systems[name]
        keys = jax.random.split(jax.random.key(seed), 3)
        batch = make_batch(keys[0])
        assert problem.init is not None
        params = jax.tree.map(lambda p: p + 0.3, problem.init(keys[1], batch))
        leaves, treedef = jax.tree.flatten(params)
        drawn = [
            jax.random.normal(k, p.shape) for k, p in zip(jax.random.split(keys[2], len(leaves)), leaves, strict=True)
        ]
        direction = jax.tree.unflatten(treedef, drawn)
        found = taylor.remainders(problem.loss, problem.grad, params, direction, sizes, batch)
        slopes = [
            float(np.polyfit(np.log(sizes), np.log(np.maximum(np.asarray(r), 1e-300)), 1)[0]) for r in found.remainders
        ]
        checks.append(close(f"{problem.name}: orders of the remainders", slopes, [1.0, 2.0, 3.0], atol=0.05))
        rows += [
            {"problem": problem.name, "order": order, "step_size": float(h), "remainder": float(r)}
            for order, remainder in enumerate(found.remainders)
            for h, r in zip(sizes, remainder, strict=True)
        ]
        if not curves:
            change, first_order = taylor.change_over_angles(
                problem.loss, problem.grad, params, angles, 1e-4, batch, key=jax.random.key(7)
            )
            curves = {"change": np.asarray(change), "first_order": np.asarray(first_order), "name": problem.name,
                      "sizes": np.asarray(sizes), "remainders": [np.asarray(r) for r in found.remainders]}  # fmt: skip
            first_remainders = found
    top = float(np.abs(curves["first_order"]).max())
    lowest = float(angles[int(np.argmin(curves["change"]))])
    gap = float(np.abs(curves["change"] - curves["first_order"]).max() / top)
    checks += [
        close("angle of the steepest descent, degrees", lowest, 180.0, atol=1e-9),
        holds("change against eta k cos(beta), over eta k", gap, gap < 1e-2, "under 0.01 at eta = 1e-4"),
    ]
    return Outcome(checks, {**curves, "angles": np.asarray(angles)}, rows, first_remainders)


def plot(outcome: Outcome) -> Figure:
    """The remainders' slopes, and the change over the fan of angles."""
    numbers = outcome.numbers
    figure, (left, right) = subplots(2, width=9.0)
    plot_remainders(outcome.drawn, axes=left, title=f"Taylor remainders, {numbers['name']}")
    right.plot(numbers["angles"], numbers["change"], "o", markersize=3, label="change of the loss")
    right.plot(numbers["angles"], numbers["first_order"], linewidth=1, label="eta k cos(beta)")
    right.axvline(180, color="#1a1a1a", linestyle="--", linewidth=1)
    right.set(xlabel="angle to the gradient, degrees", ylabel="change of the loss", title="Steepest at 180 degrees",
              xticks=range(0, 361, 90))  # fmt: skip
    right.legend(frameon=False, loc="upper center")
    return figure
