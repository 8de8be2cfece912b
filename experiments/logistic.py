"""Where does descent on a logistic regression end?

Expected: with a penalty it ends at the coefficients that scikit-learn's solver finds. On separable data without a
penalty the loss has no minimum, so it does not end: the norm of the weights grows like log t (Soudry et al. 2018), and
jaxgd reports that the data are separable.

Run: python -m experiments logistic
"""

import dataclasses

import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from sklearn.linear_model import LogisticRegression

import jaxgd
from experiments.record import Outcome, close, holds
from jaxgd import data
from jaxgd.plot import subplots
from jaxgd.theory.closed_form import linearly_separable
from jaxgd.types import LinearParams


@dataclasses.dataclass(frozen=True)
class Config:
    """Penalty and steps."""

    l2: float = 0.01
    num_steps: int = 6000
    separable_steps: int = 30_000


SMOKE = Config(num_steps=4000, separable_steps=3000)


def run(config: Config) -> Outcome:
    """With a penalty on breast_cancer, without one on separable rows of it."""
    dataset = data.as_labels(data.load("breast_cancer"))
    batch = data.to_batch(dataset, data.standardization(dataset).apply)
    problem = jaxgd.problems.logistic_regression(l2=config.l2)
    start = LinearParams(jnp.zeros(batch.inputs.shape[1]), jnp.float64(0.0))
    rate = float(jaxgd.largest_stable_learning_rate(problem, start, batch))
    result = jaxgd.fit(problem, start, batch, learning_rate=rate, num_steps=config.num_steps, progress=False)
    solver = LogisticRegression(C=1 / (config.l2 * len(batch.inputs)), tol=1e-12, max_iter=10_000)
    solver.fit(np.asarray(batch.inputs), np.asarray(batch.targets))
    theirs = np.append(solver.coef_[0], solver.intercept_)
    ours = np.append(result.params.weights, result.params.bias)

    bare = jaxgd.problems.logistic_regression()
    limit = float(jaxgd.largest_stable_learning_rate(bare, start, batch))
    endless = jaxgd.fit(
        bare, start, batch, learning_rate=4 * limit, num_steps=config.separable_steps, record=("params", "loss"),
        record_every=10, progress=False,
    )  # fmt: skip
    norms = np.linalg.norm(np.asarray(endless.history.params.weights), axis=1)
    steps = 10 * np.arange(len(norms))
    tail = steps > config.separable_steps // 10
    line = np.polyfit(np.log(steps[tail]), norms[tail], 1)
    spread = float(np.abs(np.polyval(line, np.log(steps[tail])) - norms[tail]).max() / norms[-1])
    checks = [
        close("coefficients against scikit-learn's", ours, theirs, rtol=1e-3, atol=1e-3),
        holds("breast_cancer is separable", linearly_separable(batch.inputs, batch.targets),
              linearly_separable(batch.inputs, batch.targets), "True"),
        holds("the norm still grows at the end", float(norms[-1] - norms[-2]), norms[-1] > norms[-2], "over 0"),
        holds("departure of the norm from a line in log t", spread, spread < 0.1, "under 10 %"),
        holds("why the run ended", jaxgd.StopReason(int(endless.stop_reason)).name,
              int(endless.stop_reason) == jaxgd.StopReason.MAX_STEPS, "MAX_STEPS: it has no end of its own"),
    ]  # fmt: skip
    names = [*dataset.input_names, "intercept"]
    rows = [{"parameter": n, "jaxgd": a, "scikit_learn": b} for n, a, b in zip(names, ours, theirs, strict=True)]
    return Outcome(checks, {"ours": ours, "theirs": theirs, "steps": steps, "norms": norms, "line": line}, rows)


def plot(outcome: Outcome) -> Figure:
    """Coefficients beside each other, and the norm that grows without end."""
    numbers = outcome.numbers
    figure, (left, right) = subplots(2, width=9.0)
    low, high = numbers["theirs"].min(), numbers["theirs"].max()
    left.plot([low, high], [low, high], color="#8a8a8a", linewidth=1)
    left.plot(numbers["theirs"], numbers["ours"], "o", markersize=4)
    left.set(xlabel="coefficient, scikit-learn", ylabel="coefficient, jaxgd", title="With a penalty: the same minimum")
    right.semilogx(numbers["steps"][1:], numbers["norms"][1:], label="norm of the weights")
    right.semilogx(
        numbers["steps"][1:], np.polyval(numbers["line"], np.log(numbers["steps"][1:])), "--", label="a line in log t"
    )
    right.set(xlabel="step", ylabel="|w|", title="Separable, without a penalty: no end", ylim=(0, None))
    right.legend(frameon=False)
    return figure
