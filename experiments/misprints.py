"""Does the gradient checker find misprints of lecture notes, and does it name the mistakes?

Expected: dL/db = 2 (w x + b) without - y, 2 ((w x + b) - y x), a mean without its square, a closed form with the wrong
matrix, and a missing 1/N are all rejected and named. The corrected formulas are accepted.

Run: python -m experiments misprints
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import jaxgd
from experiments.record import Outcome, holds
from jaxgd.gradcheck import Kind
from jaxgd.plot import GREEN, ORANGE, subplots


@dataclasses.dataclass(frozen=True)
class Config:
    """Rows of the data."""

    num_rows: int = 20


SMOKE = Config(num_rows=6)


def loss(params: Any, x: Any, y: Any) -> Any:
    """Mean squared error of a line."""
    residuals = params["w"] * x + params["b"] - y
    return jnp.mean(residuals**2)


def right(params: Any, x: Any, y: Any) -> Any:
    """2 mean(r x), 2 mean(r)."""
    residuals = params["w"] * x + params["b"] - y
    return {"w": 2 * jnp.mean(residuals * x), "b": 2 * jnp.mean(residuals)}


def example(num_rows: int = 20) -> tuple[Any, Any, Any]:
    """Parameters and data, for `jaxgd check` too."""
    rng = np.random.default_rng(0)
    return {"w": np.array(0.7), "b": np.array(-0.4)}, rng.normal(size=num_rows), rng.normal(size=num_rows)


def without_targets(params: Any, x: Any, y: Any) -> Any:
    """dL/db = 2 (w x + b), without - y."""
    return {**right(params, x, y), "b": 2 * jnp.mean(params["w"] * x + params["b"])}


def x_only_on_the_target(params: Any, x: Any, y: Any) -> Any:
    """dL/dw = 2 ((w x + b) - y x): the x belongs to both."""
    return {**right(params, x, y), "w": 2 * jnp.mean(params["w"] * x + params["b"] - y * x)}


def lost_share(params: Any, x: Any, y: Any) -> Any:
    """The factor 1/N lost."""
    grads = right(params, x, y)
    return {name: len(x) * leaf for name, leaf in grads.items()}


def mean_without_square(params: Any, x: Any, y: Any) -> Any:
    """The gradient of 1/N sum r in place of 1/N sum r^2."""
    del params, y
    return {"w": jnp.mean(x), "b": jnp.float64(1.0)}


FORMULAS: dict[str, tuple[Callable[..., Any], frozenset[Kind] | None]] = {
    "corrected": (right, None),
    "2 (w x + b), without - y": (without_targets, frozenset({Kind.ARGUMENT})),
    "2 ((w x + b) - y x)": (x_only_on_the_target, frozenset({Kind.DERIVATIVE, Kind.PATH, Kind.ARGUMENT})),
    "1/N lost": (lost_share, frozenset({Kind.FACTOR})),
    "mean without its square": (mean_without_square, frozenset({Kind.DERIVATIVE, Kind.STALE})),
}


def run(config: Config) -> Outcome:
    """Check each formula; hold each closed form against the gradient, which is zero at the minimum."""
    params, x, y = example(config.num_rows)
    checks, rows = [], []
    for name, (grad, kinds) in FORMULAS.items():
        report = jaxgd.check_gradient(loss, grad, params, x, y)
        found = {finding.kind for finding in report.findings if finding.wrong}
        said = "ok" if report.ok else ", ".join(sorted(kind.name for kind in found))
        good = report.ok if kinds is None else bool(found) and found <= kinds
        expected = "ok" if kinds is None else " or ".join(sorted(kind.name for kind in kinds))
        checks.append(holds(name, said, good, expected))
        rows.append({"formula": name, "ok": report.ok, "kinds": said, "report": str(report)})

    rng = np.random.default_rng(1)
    inputs, targets = rng.normal(size=(config.num_rows, 3)), rng.normal(size=config.num_rows)
    other = rng.normal(size=(config.num_rows, 3))
    for name, weights, wanted in (
        ("closed form (X^T X)^-1 X^T y", np.linalg.solve(inputs.T @ inputs, inputs.T @ targets), True),
        ("closed form (M^T M)^-1 X^T y", np.linalg.solve(other.T @ other, inputs.T @ targets), False),
    ):
        slope = float(np.linalg.norm(2 * inputs.T @ (inputs @ weights - targets)))
        checks.append(
            holds(f"{name}: gradient there", slope, (slope < 1e-10) == wanted, "0" if wanted else "not 0: no minimum")
        )
        rows.append({"formula": name, "ok": slope < 1e-10, "kinds": "", "report": f"|gradient| {slope:.3g}"})
    return Outcome(checks, {"reports": {row["formula"]: row["report"] for row in rows}}, rows)


def plot(outcome: Outcome) -> Figure:
    """What the checker says about each formula."""
    figure, ax = subplots(width=9.0, height=7.2)
    ax.axis("off")
    y = 1.0
    for name, report in outcome.numbers["reports"].items():
        lines = str(report).splitlines()
        accepted = lines[0] == "ok" or lines[0].startswith("|gradient| 0") or "e-1" in lines[0]
        text = name + "\n" + "\n".join(lines)
        ax.text(0, y, text, family="monospace", fontsize=6.6, va="top", color=GREEN if accepted else ORANGE)
        y -= 0.028 * (len(lines) + 2.2)
    ax.set_title("What jaxgd.check_gradient says about the formulas")
    return figure
