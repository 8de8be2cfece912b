"""Are the statements of `jaxgd rate` about learning rates true?

Expected: yes, for every bundled data set and every problem. Descent diverges with every rate that is predicted to
diverge. With a guaranteed rate no step raises the loss by more than rounding, in float64. After the predicted number of
steps the error is 1e-6 of its value at the start. The loss is below its bound. If only a local limit is known, nothing
is predicted.

Run: python -m experiments rates
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import jaxgd
from experiments.record import Outcome, holds
from jaxgd.commands import job as jobs
from jaxgd.plot import BLACK, BLUE, GREEN, ORANGE, subplots
from jaxgd.theory import curvature
from jaxgd.theory.rates import RateFacts, comparison_points, guaranteed_loss, judge, rate_facts


@dataclasses.dataclass(frozen=True)
class Config:
    """Steps of a run, of a run of a network, and how much of the table is tried."""

    num_steps: int = 3000
    num_network_steps: int = 200
    all_data: bool = True


SMOKE = Config(num_steps=800, num_network_steps=20, all_data=False)

SHARES = (0.01, 0.1, 0.5, 0.9, 0.99, 1.01, 1.2, 2.0, 5.0, 20.0, 100.0)
"""The rates that are tried, as multiples of the printed limit."""

DATA: tuple[tuple[str, dict[str, Any]], ...] = (
    ("diabetes", {}),
    ("diabetes", {"l2": 0.1}),
    ("diabetes", {"problem": "line", "features": ("bmi",)}),
    ("linnerud", {}),
    ("linnerud", {"problem": "linear_map"}),
    ("linnerud", {"problem": "mlp", "hidden_sizes": (8,)}),
    ("breast_cancer", {}),
    ("breast_cancer", {"l2": 0.01}),
    ("breast_cancer", {"problem": "sigmoid_neuron"}),
    ("iris", {}),
    ("iris", {"problem": "mlp", "hidden_sizes": (8,)}),
    ("wine", {}),
    ("wine", {"l2": 0.1}),
    ("digits", {}),
    ("digits", {"problem": "mlp", "hidden_sizes": (32,)}),
)

ROUNDING = 1e-12
"""Rounding may raise the loss in a step by at most this fraction of the largest loss of the run."""


def run(config: Config) -> Outcome:
    """Judge every rate, then run it."""
    rows: list[dict[str, Any]] = []
    for name, problem, params, batch in _cases(config):
        facts = rate_facts(problem, params, batch)
        if np.isfinite(facts.limit):
            rows += _tried(name, problem, params, batch, facts, config)
    said = {kind: sum(bool(row[kind]) for row in rows) for kind in ("diverges", "guaranteed", "steps", "loss_at_most")}
    false = [f"{row['case']} at {row['share']:g} of the limit: {row['false']}" for row in rows if row["false"]]
    claims = sum(said.values())
    checks = [
        holds(f"false statements among {claims}", "; ".join(false) or "0", not false, "0"),
        holds("rates predicted to diverge, all did", said["diverges"], said["diverges"] > 0, "over 0"),
        holds("rates guaranteed, none raised the loss", said["guaranteed"], said["guaranteed"] > 0, "over 0"),
        holds("predicted numbers of steps, all were enough", said["steps"], said["steps"] > 0, "over 0"),
        holds("bounds on the loss, all held", said["loss_at_most"], said["loss_at_most"] > 0, "over 0"),
        holds(
            "rates above a guarantee that did not diverge",
            sum(row["kind"] != "exact" and row["share"] > 1 and row["outcome"] != "diverged" for row in rows),
            any(row["kind"] != "exact" and row["share"] > 1 and row["outcome"] != "diverged" for row in rows),
            "over 0: above the guarantee nothing is predicted",
        ),
    ]
    return Outcome(checks, {"false": len(false), "said": said}, rows)


def _cases(config: Config) -> Any:
    """A name, a problem, a start and the rows: for bundled data as the command prepares them, and for every problem."""
    for data, options in DATA if config.all_data else DATA[:1] + DATA[7:8]:
        job = jobs.prepare(jobs.DataOptions(data=data, x64=True, **options))
        yield f"{data}: {job.problem.name}", job.problem, job.params, job.batch
    table = jaxgd.problems.ALL_PROBLEMS
    for problem, make_batch in table if config.all_data else table[::10]:
        batch = jax.tree.map(_in_float64, make_batch(jax.random.key(0)))
        assert problem.init is not None
        params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), problem.init(jax.random.key(1), batch))
        yield problem.name, problem, params, batch


def _in_float64(leaf: jax.Array) -> jax.Array:
    return leaf.astype(jnp.float64) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf


def _tried(name: str, problem: Any, params: Any, batch: Any, facts: RateFacts, config: Config) -> list[dict[str, Any]]:
    network = facts.kind == "local at this start" and batch is not None
    num_steps = config.num_network_steps if network else config.num_steps
    rates = np.array(SHARES) * facts.limit
    verdicts = [judge(facts, float(rate)) for rate in rates]
    points = comparison_points(problem, params, batch) if facts.convex and facts.kind != "exact" else []
    result = jaxgd.sweep(
        problem, params, batch, over={"learning_rate": jnp.asarray(rates)}, num_steps=num_steps, record=("loss",)
    )
    losses = np.asarray(result.history.loss)
    last = np.asarray(jax.vmap(lambda p: problem.loss(p, batch))(result.params))
    rows = []
    for i, (share, verdict) in enumerate(zip(SHARES, verdicts, strict=True)):
        lost = int(result.stop_reason[i]) in (jaxgd.StopReason.DIVERGED, jaxgd.StopReason.NONFINITE)
        path = np.append(losses[i][: int(result.num_steps[i])], last[i])
        rises = bool(np.any(np.diff(path) > ROUNDING * np.max(np.abs(path), initial=1e-300))) or lost
        false = []
        if verdict.diverges and not lost:
            false.append("did not diverge")
        if verdict.guaranteed and rises:
            false.append("a step raised the loss")
        steps = _steps(problem, params, batch, float(rates[i]), verdict.contraction)
        if steps is not None and not steps[1]:
            false.append(f"not within 1e-6 after {steps[0]} steps")
        bound = guaranteed_loss(facts, float(rates[i]), num_steps, points)
        if np.isfinite(bound) and last[i] > bound * (1 + ROUNDING):
            false.append(f"loss {last[i]:.6g} above its bound {bound:.6g}")
        outcome = "diverged" if lost else "fell at every step" if not rises else "rose at some step"
        rows.append({
            "case": name, "kind": facts.kind, "limit": facts.limit, "local_limit": facts.local_limit, "share": share,
            "words": verdict.words, "diverges": verdict.diverges, "guaranteed": verdict.guaranteed,
            "steps": None if steps is None else steps[0], "loss_at_most": bound if np.isfinite(bound) else None,
            "outcome": outcome, "last_loss": float(last[i]), "false": "; ".join(false),
        })  # fmt: skip
    return rows


def _steps(problem: Any, params: Any, batch: Any, rate: float, factor: float | None) -> tuple[int, bool] | None:
    """The predicted number of steps until the error is 1e-6 of its start, and whether the prediction is true."""
    if factor is None or factor >= 1 or problem.minimizer is None:
        return None
    steps = curvature.steps_to_accuracy(factor, 1e-6)
    minimizer = jax.flatten_util.ravel_pytree(problem.minimizer(batch))[0]
    if steps > 20_000 or curvature.curved(curvature.eigenvalues(problem, params, batch)).size < minimizer.size:
        return None  # where a direction does not curve, the nearest of many minimisers is meant
    run = jaxgd.descend(problem, params, batch, learning_rate=rate, num_steps=int(steps), record=())
    start, end = (jax.flatten_util.ravel_pytree(tree)[0] for tree in (params, run.params))
    apart = float(jnp.linalg.norm(end - minimizer)) - 1e-12 * float(jnp.linalg.norm(minimizer))
    return int(steps), apart <= 1e-6 * float(jnp.linalg.norm(start - minimizer))


def plot(outcome: Outcome) -> Figure:
    """Every rate that was tried, with a marker for how its run ended."""
    names = list(dict.fromkeys(row["case"] for row in outcome.rows))
    figure, ax = subplots(1, width=11.0, height=1.2 + 0.19 * len(names))
    styles = {"fell at every step": ("o", GREEN), "rose at some step": ("^", BLUE), "diverged": ("x", ORANGE)}
    for word, (marker, colour) in styles.items():
        shown = [row for row in outcome.rows if row["outcome"] == word]
        ax.plot(
            [row["share"] for row in shown], [names.index(row["case"]) for row in shown], marker, color=colour,
            markersize=4, linestyle="", label=word,
        )  # fmt: skip
    ax.axvline(1, color=BLACK, linestyle="--", linewidth=1, label="the limit that was printed")
    kinds = {row["case"]: row["kind"].split()[0] for row in outcome.rows}
    ax.set_yticks(range(len(names)), [f"{name}  ({kinds[name]})" for name in names], fontsize=6)
    ax.invert_yaxis()
    ax.set(xscale="log", xlabel="learning rate over the limit")
    ax.set_title(f"{len(outcome.rows)} rates judged, then run: {outcome.numbers['false']} false statements")
    figure.legend(frameon=False, loc="outside lower center", ncols=4, fontsize=7)
    return figure
