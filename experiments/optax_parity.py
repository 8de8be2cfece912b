"""Do jaxgd and optax compute the same runs?

Expected: in the same loop, jaxgd.gradient_descent and optax.sgd give the same parameters up to a few units in the last
place. Momentum and Adam in jaxgd's loop give the same parameters as in a loop written by hand.

Run: python -m experiments optax_parity
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
from matplotlib.figure import Figure

import jaxgd
from experiments.record import Outcome, holds
from jaxgd.plot import subplots
from jaxgd.problems import ALL_PROBLEMS


@dataclasses.dataclass(frozen=True)
class Config:
    """Steps, and every so many of the problems."""

    num_steps: int = 100
    every: int = 3


SMOKE = Config(num_steps=20, every=10)

OPTIMIZERS: dict[str, Callable[[float], Any]] = {
    "sgd": optax.sgd,
    "momentum": functools.partial(optax.sgd, momentum=0.9),
    "adam": optax.adam,
}


def run(config: Config) -> Outcome:
    """Our rule, optax in our loop, and optax in a loop by hand."""
    rows: list[dict[str, Any]] = []
    curves: dict[str, Any] = {}
    for problem, make_batch in ALL_PROBLEMS[2 :: config.every]:
        batch = make_batch(jax.random.key(0))
        assert problem.init is not None
        start = problem.init(jax.random.key(1), batch)
        scale = 0.1 * min(float(jaxgd.largest_stable_learning_rate(problem, start, batch)), 1.0)
        ours = jaxgd.descend(problem, start, batch, learning_rate=scale, num_steps=config.num_steps)
        for name, make in OPTIMIZERS.items():
            optimizer = make(scale)
            inside = jaxgd.descend(problem, start, batch, optimizer=optimizer, num_steps=config.num_steps)

            theirs, losses = _by_hand(problem, optimizer, config.num_steps, start, batch)
            rows.append({
                "problem": problem.name, "optimizer": name,
                "ours_to_optax": _gap(ours.params, inside.params) if name == "sgd" else "",
                "loop_to_hand": _gap(inside.params, theirs),
            })  # fmt: skip
            if not curves or problem.name == curves["problem"]:
                curves.setdefault("problem", problem.name)
                curves[name] = (np.asarray(inside.history.loss), np.asarray(losses))
    to_optax = max(row["ours_to_optax"] for row in rows if row["optimizer"] == "sgd")
    to_hand = {name: max(row["loop_to_hand"] for row in rows if row["optimizer"] == name) for name in OPTIMIZERS}
    checks = [
        holds("our rule against optax.sgd, same loop: largest relative gap", to_optax, to_optax < 1e-13, "under 1e-13"),
        *(
            holds(f"{name}: the loop against one by hand", gap, gap < 1e-9, "under 1e-9")
            for name, gap in to_hand.items()
        ),
    ]
    return Outcome(checks, curves, rows)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _by_hand(problem: Any, optimizer: Any, num_steps: int, params: Any, batch: Any) -> Any:
    """The loop that one writes without jaxgd: parameters at the end, losses on the way."""

    def step(carry: Any, _: None) -> Any:
        params, state = carry
        updates, state = optimizer.update(jax.grad(problem.loss)(params, batch), state, params)
        return (optax.apply_updates(params, updates), state), problem.loss(params, batch)

    (params, _), losses = jax.lax.scan(step, (params, optimizer.init(params)), length=num_steps)
    return params, losses


def _gap(left: object, right: object) -> float:
    """Largest difference over the largest entry."""
    a, b = (np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)]) for tree in (left, right))
    return float(np.abs(a - b).max() / np.abs(b).max())


def plot(outcome: Outcome) -> Figure:
    """Losses of the three optimizers, in our loop and by hand."""
    figure, ax = subplots()
    for name in OPTIMIZERS:
        inside, by_hand = outcome.numbers[name]
        (line,) = ax.semilogy(inside, linewidth=1.2, label=f"{name}, jaxgd's loop")
        ax.semilogy(
            np.arange(0, len(by_hand), 5),
            by_hand[::5],
            "o",
            markersize=3,
            color=line.get_color(),
            label=f"{name}, by hand",
        )
    ax.set(xlabel="step", ylabel="loss", title=f"Optimizers of optax on {outcome.numbers['problem']}")
    ax.legend(frameon=False, ncols=3, fontsize=8)
    return figure
