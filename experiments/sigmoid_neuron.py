"""Which path does descent take over the loss surface of a sigmoid neuron?

Expected: if the rate is small enough, every step lowers the loss. The path crosses the contours at right angles,
because the steps go against the gradient. If the neuron saturates, f (1 - f) is near 0 and the surface is flat.

Run: python -m experiments sigmoid_neuron
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import jaxgd
from experiments.record import Outcome, holds
from jaxgd.plot import BLACK, GREY, ORANGE, subplots
from jaxgd.theory import taylor
from jaxgd.types import Batch, LinearParams


@dataclasses.dataclass(frozen=True)
class Config:
    """Two points (0.5, 0.2) and (2.5, 0.9), from w = b = -2 at rate 1; five points beside them."""

    num_steps: int = 1000
    grid: int = 90


SMOKE = Config(num_steps=100, grid=20)


def run(config: Config) -> Outcome:
    """Both data sets from the same start."""
    problem = jaxgd.problems.sigmoid_neuron()
    sets = {
        "two points": Batch(jnp.array([0.5, 2.5]), jnp.array([0.2, 0.9])),
        "five points": Batch(jnp.array([-2.0, -0.5, 0.5, 1.5, 3.0]), jnp.array([0.1, 0.15, 0.4, 0.7, 0.95])),
    }
    start = LinearParams(jnp.float64(-2.0), jnp.float64(-2.0))
    w, b = np.meshgrid(np.linspace(-6, 6, config.grid), np.linspace(-6, 6, config.grid))
    checks, rows, shown = [], [], {}
    for name, batch in sets.items():
        result = jaxgd.descend(
            problem, start, batch, learning_rate=1.0, num_steps=config.num_steps, record=("loss", "params", "grad_norm")
        )
        losses = np.asarray(result.history.loss)
        path = np.stack([np.asarray(leaf) for leaf in result.history.params], axis=1)
        moved = LinearParams(*jnp.asarray(np.diff(path[:40], axis=0).T))
        along = jax.vmap(lambda p, step, batch=batch: taylor.angle(step, problem.grad(p, batch)))(
            LinearParams(*jnp.asarray(path[:39].T)), moved
        )
        far = problem.grad(LinearParams(jnp.float64(20.0), jnp.float64(60.0)), batch)
        checks += [
            holds(f"{name}: largest change of the loss in a step", float(np.diff(losses).max()),
                  (np.diff(losses) < 0).all(), "below 0"),
            holds(f"{name}: angle of the path to the gradient", f"{float(jnp.min(along)):.6f} degrees",
                  jnp.all(jnp.abs(along - 180) < 1e-4), "180: the contours are crossed at right angles"),
            holds(f"{name}: gradient where the neuron saturates", float(taylor.norm(far)),
                  taylor.norm(far) < 1e-6, "under 1e-6"),
        ]  # fmt: skip
        surface = jax.vmap(jax.vmap(lambda w, b, batch=batch: problem.loss(LinearParams(w, b), batch)))(
            jnp.asarray(w), jnp.asarray(b)
        )
        shown[name] = {"path": path, "surface": np.asarray(surface)}
        rows += [{"data": name, "step": t, "w": p[0], "b": p[1], "loss": losses[t]} for t, p in enumerate(path)]
    return Outcome(checks, {"sets": shown, "grid": (w, b)}, rows)


def plot(outcome: Outcome) -> Figure:
    """Both paths over their surfaces."""
    figure, several = subplots(2, width=9.0, height=4.4)
    for ax, (name, shown) in zip(several, outcome.numbers["sets"].items(), strict=True):
        ax.grid(False)
        ax.contourf(*outcome.numbers["grid"], shown["surface"], levels=24, cmap="Blues_r")
        ax.contour(*outcome.numbers["grid"], shown["surface"], levels=24, colors=GREY, linewidths=0.4)
        ax.plot(*shown["path"].T, "o-", color=ORANGE, markersize=2.5, linewidth=1)
        ax.plot(*shown["path"][0], "s", color=BLACK, markersize=5, label="start")
        ax.set(
            xlabel="w",
            ylabel="b",
            title=f"Half mean squared error, {name}: flat where f (1 - f) vanishes",
            aspect="equal",
        )
        ax.title.set_fontsize(9)
        ax.legend(frameon=True, loc="upper left")
    return figure
