"""Does a run end as converged if it has reached the minimum, and only then?

Expected: at 0.5, 0.9 and 0.99 of the largest stable rate, in float32 and float64, at least 59 of 60 runs whose loss is
within rounding of the closed form end as converged. None of 200 slow runs, at 1e-6 of the largest stable rate, does.

Run: python -m experiments convergence
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import jaxgd
from experiments.record import Outcome, holds
from jaxgd import StopReason
from jaxgd.plot import BLUE, subplots
from jaxgd.types import Batch, LinearParams

PROBLEM = jaxgd.problems.linear_regression()
SHARES = (0.5, 0.9, 0.99)


@dataclasses.dataclass(frozen=True)
class Config:
    """Data sets for each number of inputs, the numbers of inputs, those of the slow runs, and steps of a run."""

    data_sets: int = 12
    num_inputs: tuple[int, ...] = (1, 2, 3, 4, 5)
    many_inputs: tuple[int, ...] = (10, 30, 100)
    slow: int = 200
    num_steps: int = 20_000


SMOKE = Config(data_sets=3, num_inputs=(1, 3), many_inputs=(), slow=10, num_steps=5000)


def regressions(count: int, num_rows: int, num_inputs: int) -> tuple[Batch, np.ndarray]:
    """Data sets of normal inputs as z-scores, with noise in the targets; and their largest stable rates."""
    rng = np.random.default_rng(num_inputs)
    inputs = rng.normal(size=(count, num_rows, num_inputs))
    inputs = (inputs - inputs.mean(axis=1, keepdims=True)) / inputs.std(axis=1, keepdims=True)
    weights = rng.normal(size=(count, num_inputs, 1))
    targets = (inputs @ weights)[..., 0] + rng.normal(size=(count, num_rows)) + 1
    batches = Batch(jnp.asarray(inputs), jnp.asarray(targets))
    start = LinearParams(jnp.zeros(num_inputs), jnp.zeros(()))
    limits = jax.jit(jax.vmap(lambda batch: jaxgd.largest_stable_learning_rate(PROBLEM, start, batch)))
    return batches, np.asarray(limits(batches))


def ends(batches: Batch, rates: np.ndarray, dtype: Any, num_steps: int) -> jaxgd.Result:
    """Descend on every data set at its rate, in one sweep; a small gradient does not stop it."""
    over = {"batch": batches, "learning_rate": rates}
    over = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf).astype(dtype)), over)
    start = LinearParams(jnp.zeros(batches.inputs.shape[2], dtype), jnp.zeros((), dtype))
    return jaxgd.sweep(PROBLEM, start, None, over=over, zipped=True, num_steps=num_steps, grad_tol=-1.0, record=())


def lowest(batches: Batch) -> np.ndarray:
    """The loss of every closed form."""
    assert PROBLEM.minimizer is not None
    sets = [jax.tree.map(lambda leaf, i=i: np.asarray(leaf)[i], batches) for i in range(len(batches.inputs))]
    loss = jax.jit(PROBLEM.loss)
    return np.array([float(loss(PROBLEM.minimizer(batch), batch)) for batch in sets])


def run(config: Config) -> Outcome:
    """Count, for every share of the limit and dtype, the runs that reached the minimum and those that said so."""
    rows: list[dict[str, Any]] = []
    for dtype in (jnp.float32, jnp.float64):
        eps = float(jnp.finfo(dtype).eps)
        for num_inputs in (*config.num_inputs, *config.many_inputs):
            num_rows = max(30, 3 * num_inputs)
            count = config.data_sets if num_inputs in config.num_inputs else 4
            batches, limits = regressions(count, num_rows, num_inputs)
            best = lowest(batches)
            for share in SHARES:
                result = ends(batches, share * limits, dtype, config.num_steps)
                reached = np.asarray(result.loss) <= best * (1 + 100 * eps)
                ended = np.asarray(result.stop_reason) == StopReason.NO_CHANGE
                rows.append({
                    "dtype": np.dtype(dtype).name, "num_inputs": num_inputs, "share": share, "runs": len(best),
                    "reached": int(reached.sum()), "ended": int((reached & ended).sum()),
                    "ended_elsewhere": int((ended & ~reached).sum()),
                    "median_steps": float(np.median(np.asarray(result.num_steps))),
                })  # fmt: skip
    checks = []
    for dtype_name in ("float32", "float64"):
        for share in SHARES:
            few = [r for r in rows if (r["dtype"], r["share"]) == (dtype_name, share) and r["num_inputs"] <= 5]
            reached, ended = (sum(r[name] for r in few) for name in ("reached", "ended"))
            what = f"{dtype_name}, {share} of the limit, 1 to 5 inputs: of {reached} runs at the minimum, ended"
            checks.append(holds(what, ended, ended >= reached - reached // 60, "all but 1 in 60"))
        many = [r for r in rows if r["dtype"] == dtype_name and r["num_inputs"] > 5]
        reached, ended = (sum(r[name] for r in many) for name in ("reached", "ended"))
        what = f"{dtype_name}, 10 to 100 inputs: of {reached} runs at the minimum, ended"
        checks.append(holds(what, ended, ended >= 0.9 * reached, "nine in ten"))
    checks.append(holds("runs that ended elsewhere", sum(r["ended_elsewhere"] for r in rows),
                        not any(r["ended_elsewhere"] for r in rows), "0"))  # fmt: skip
    for dtype in (jnp.float32, jnp.float64):
        batches, limits = regressions(config.slow, 30, 3)
        slow = np.asarray(ends(batches, 1e-6 * limits, dtype, config.num_steps).stop_reason)
        stopped = int((slow != StopReason.MAX_STEPS).sum())
        checks.append(holds(f"{np.dtype(dtype).name}: of {config.slow} slow runs, ended", stopped, not stopped, "0"))
    return Outcome(checks, {"rows": rows}, rows)


def plot(outcome: Outcome) -> Figure:
    """Steps until a run says that it has converged, against the number of inputs."""
    figure, axes = subplots(len(SHARES), width=9.0)
    for ax, share in zip(axes, SHARES, strict=True):
        for dtype, marker in (("float32", "o"), ("float64", "s")):
            shown = [row for row in outcome.rows if (row["dtype"], row["share"]) == (dtype, share)]
            inputs, steps = ([row[name] for row in shown] for name in ("num_inputs", "median_steps"))
            ax.plot(inputs, steps, marker, color=BLUE, fillstyle="none" if dtype == "float32" else "full", label=dtype)
        ax.set(xscale="log", yscale="log", xlabel="inputs", ylabel="steps (median)", title=f"{share} of the limit")
        ax.legend()
    return figure
