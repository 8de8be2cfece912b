"""Is the contraction of dL/dy with the 3-tensor dy/dM an outer product?

Expected: yes, and in float64 both have the same bits, because every sum of the contraction has only one nonzero term.

Run: python -m experiments jacobians
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from experiments.record import Outcome, holds
from jaxgd.plot import subplots
from jaxgd.problems import linear
from jaxgd.problems.linear import jacobian_loss_outputs, jacobian_outputs_bias, jacobian_outputs_matrix
from jaxgd.types import Batch, LinearMapParams


@dataclasses.dataclass(frozen=True)
class Config:
    """Random maps of random sizes."""

    maps: int = 10
    largest: int = 12


SMOKE = Config(maps=3)


def run(config: Config) -> Outcome:
    """Contract, and compare with -2 (g - y) x^T."""
    rng = np.random.default_rng(0)
    problem = linear.linear_map()
    assert problem.predict is not None
    rows = []
    for _ in range(config.maps):
        num_outputs, num_inputs = rng.integers(1, config.largest + 1, 2)
        params = LinearMapParams(
            jnp.asarray(rng.normal(size=(num_outputs, num_inputs))), jnp.asarray(rng.normal(size=num_outputs))
        )
        x, g = jnp.asarray(rng.normal(size=num_inputs)), jnp.asarray(rng.normal(size=num_outputs))
        y = jax.jit(problem.predict)(params, x)
        by_y = jacobian_loss_outputs(y, g)  # [K]
        by_matrix = jnp.einsum("i,ijk->jk", by_y, jacobian_outputs_matrix(params, x))  # [K] [K, K, D] -> [K, D]
        by_bias = by_y @ jacobian_outputs_bias(params)
        hand = jax.jit(problem.grad)(params, Batch(x, g))
        reverse = jax.jit(jax.grad(problem.loss))(params, Batch(x, g))
        rows.append(
            {
                "K": int(num_outputs),
                "D": int(num_inputs),
                "contraction_to_outer_product": float(jnp.max(jnp.abs(by_matrix - jnp.outer(by_y, x)))),
                "contraction_to_hand_gradient": float(jnp.max(jnp.abs(by_matrix - hand.matrix))),
                "bias": float(jnp.max(jnp.abs(by_bias - hand.bias))),
                "hand_to_reverse_mode": float(jnp.max(jnp.abs(hand.matrix - reverse.matrix))),
            }
        )
    checks = [
        holds(name.replace("_", " "), max(row[name] for row in rows), all(row[name] <= most for row in rows), expected)
        for name, most, expected in (
            ("contraction_to_outer_product", 0.0, "0, exactly"),
            ("contraction_to_hand_gradient", 1e-13, "under 1e-13: y is summed in another order"),
            ("bias", 1e-13, "under 1e-13"),
        )
    ]
    example = np.asarray(
        jacobian_outputs_matrix(LinearMapParams(jnp.zeros((3, 4)), jnp.zeros(3)), jnp.arange(1.0, 5.0))
    )
    return Outcome(checks, {"example": example, "largest": rows}, rows)


def plot(outcome: Outcome) -> Figure:
    """The slices dy_i/dM of the 3-tensor for x = (1, 2, 3, 4)."""
    example = outcome.numbers["example"]
    figure, several = subplots(len(example), width=8.0, height=2.6)
    for i, ax in enumerate(several):
        ax.grid(False)
        ax.imshow(example[i], cmap="Blues", vmin=0, vmax=4)
        for j, k in np.ndindex(example[i].shape):
            ax.text(
                k,
                j,
                f"{example[i][j, k]:g}",
                ha="center",
                va="center",
                color="white" if example[i][j, k] > 2 else "black",
            )
        ax.set(title=f"dy_{i} / dM", xlabel="column of M", ylabel="row of M", xticks=range(4), yticks=range(3))
    figure.suptitle("The 3-tensor dy/dM at x = (1, 2, 3, 4): slice i has x in row i", fontsize=10)
    return figure
