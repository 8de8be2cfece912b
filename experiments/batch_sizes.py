"""Which loss do full-batch, mini-batch and stochastic descent reach after the same number of epochs?

Expected: all approach the same minimum. At a fixed rate eta, batches of B rows stay at a noise floor above the minimum,
which grows with eta / B (Mandt, Hoffman and Blei 2017). A decaying rate removes the noise floor.

Run: python -m experiments batch_sizes
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import jaxgd
from experiments.record import Outcome, holds
from jaxgd.plot import subplots
from jaxgd.types import Batch, LinearParams


@dataclasses.dataclass(frozen=True)
class Config:
    """Rows are drawn with noise; every batch size sees the same number of them."""

    num_rows: int = 1024
    num_epochs: int = 60
    seeds: int = 8
    sizes: tuple[int, ...] = (1, 8, 64)
    rates: tuple[float, ...] = (0.004, 0.016)


SMOKE = Config(num_epochs=30, seeds=4, sizes=(1, 8))


def run(config: Config) -> Outcome:
    """The excess loss over the minimum, averaged over seeds."""
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(config.num_rows, 5))
    targets = inputs @ np.arange(1.0, 6.0) + 3 + rng.normal(size=config.num_rows)
    batch = Batch(jnp.asarray(inputs), jnp.asarray(targets))
    problem, start = jaxgd.problems.linear_regression(), LinearParams(jnp.zeros(5), jnp.float64(0.0))
    assert problem.minimizer is not None
    smallest = float(problem.loss(problem.minimizer(batch), batch))
    keys = jax.random.split(jax.random.key(0), config.seeds)

    def floor(size: int, rate: float) -> tuple[float, np.ndarray]:
        steps = config.num_epochs * (config.num_rows // size)
        result = jaxgd.sweep(
            problem, start, batch, over={"key": keys, "learning_rate": jnp.array([rate])}, batch_size=size,
            num_steps=steps, record=("params",), record_every=max(steps // 200, 1),
        )  # fmt: skip
        params = jax.tree.map(lambda leaf: leaf[:, 0], result.history.params)
        excess = np.asarray(jax.vmap(jax.vmap(lambda p: problem.loss(p, batch)))(params)).mean(0) - smallest
        return float(excess[len(excess) // 2 :].mean()), excess

    found = {(size, rate): floor(size, rate) for size in config.sizes for rate in config.rates}
    noise = {key: value[0] for key, value in found.items()}
    whole = jaxgd.descend(problem, start, batch, learning_rate=0.2, num_steps=400)
    steps = config.num_epochs * config.num_rows

    def decaying(step: jax.Array) -> jax.Array:
        return 0.016 / (1.0 + 40.0 * step / steps)

    decayed = jax.vmap(
        lambda key: (
            jaxgd.descend(
                problem, start, batch, learning_rate=decaying, num_steps=steps, batch_size=1, key=key, record=()
            ).loss
        )
    )(keys)
    fixed, removed = noise[1, 0.016], float(np.mean(decayed)) - smallest
    low, high = config.rates
    checks = [
        holds("full batch: excess over the minimum", float(whole.loss) - smallest,
              float(whole.loss) - smallest < 1e-9, "under 1e-9"),
        holds("all batch sizes end near the minimum: largest excess", max(noise.values()),
              max(noise.values()) < 0.2 * smallest, f"under a fifth of it, {0.2 * smallest:.2g}"),
        holds(f"B = 1: floor at rate {high} over that at {low}", noise[1, high] / noise[1, low],
              2 < noise[1, high] / noise[1, low] < 8, "4, within a factor 2"),
        holds(f"rate {high}: floor of B = 1 over that of B = 8", noise[1, high] / noise[8, high],
              4 < noise[1, high] / noise[8, high] < 16, "8, within a factor 2"),
        holds("a decaying rate removes it: floor left over", removed / fixed,
              removed < 0.25 * fixed, "under a quarter"),
    ]  # fmt: skip
    rows = [{"batch_size": size, "learning_rate": rate, "floor": noise[size, rate]} for size, rate in noise]
    curves = {size: found[size, high][1] for size in config.sizes}
    return Outcome(checks, {"curves": curves, "epochs": config.num_epochs, "rate": high, "rows": rows}, rows)


def plot(outcome: Outcome) -> Figure:
    """Excess loss against epochs, and the floors against eta / B."""
    numbers = outcome.numbers
    figure, (left, right) = subplots(2, width=9.0)
    for size, curve in numbers["curves"].items():
        left.semilogy(np.linspace(0, numbers["epochs"], len(curve)), curve, linewidth=1, label=f"B = {size}")
    left.set(xlabel="epochs (rows seen / N)", ylabel="loss - smallest loss", title=f"Learning rate {numbers['rate']:g}")
    left.legend(frameon=False)
    settled = [row for row in numbers["rows"] if row["batch_size"] <= 8]
    settled.sort(key=lambda row: row["learning_rate"] / row["batch_size"])
    ratio = [row["learning_rate"] / row["batch_size"] for row in settled]
    right.loglog(ratio, [row["floor"] for row in settled], "o")
    right.loglog(ratio, np.array(ratio) * settled[0]["floor"] / ratio[0], "--", color="#8a8a8a", label="proportional")
    right.set(xlabel="eta / B", ylabel="noise floor", title="The floor grows with eta / B")
    right.legend(frameon=False)
    return figure
