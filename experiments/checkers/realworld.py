"""How do gradient checkers do on gradients that people really wrote?

Wrong gradients from public bug reports, their corrected versions, and hand-written gradients of released libraries, as
`../shared/realworld/cases.py` collects them; jaxgd beside `jax.test_util.check_grads` and `numpy.allclose` against
`jax.grad`, each with its defaults.
"""

import collections
import importlib.util
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.test_util
import numpy as np
import rich.console
import rich.table

from experiments.progress import progress
from jaxgd.gradcheck import GradientReport, check_gradient

FOLDER = Path(__file__).resolve().parents[3] / "shared" / "realworld"
"""The collection lies beside the checkout."""

Grad = Callable[..., Any]


class Trial(NamedTuple):
    """One gradient given to the checkers.

    Attributes:
      case: of the collection.
      role: "wrong", "corrected" or "library".
      grad: the gradient of the role.
    """

    case: Any
    role: str
    grad: Grad


class Answer(NamedTuple):
    """What a checker says about one gradient.

    Attributes:
      rejects: whether it calls the gradient wrong; None for an exception.
      text: the report, or the exception.
      seconds: how long it took.
      report: jaxgd's report.
    """

    rejects: bool | None
    text: str
    seconds: float
    report: GradientReport | None = None


def load(folder: Path = FOLDER) -> Any:
    """The module of the collection.

    Args:
      folder: of `cases.py`.

    Returns:
      The module; its `load_bugs()` and `load_right()` return lists of cases.

    Raises:
      FileNotFoundError: the collection is not there.
    """
    path = folder / "cases.py"
    if not path.exists():
        raise FileNotFoundError(f"the collection of real gradients is not at {path}")
    spec = importlib.util.spec_from_file_location("realworld_cases", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["realworld_cases"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def trials(module: Any, only: str = "") -> list[Trial]:
    """Every gradient of the collection.

    Args:
      module: see `load`.
      only: a part of the names that are wanted.

    Returns:
      The wrong ones, the corrected ones, those of libraries.
    """
    bugs = [case for case in module.load_bugs() if only in case.name]
    right = [case for case in module.load_right() if only in case.name]
    corrected = [case for case in bugs if case.right_grad is not None]
    return [
        *(Trial(case, "wrong", case.grad) for case in bugs),
        *(Trial(case, "corrected", case.right_grad) for case in corrected),
        *(Trial(case, "library", case.grad) for case in right),
    ]


def by_jaxgd(trial: Trial) -> Answer:
    """What `jaxgd.check_gradient` says."""
    case = trial.case
    # The corrected gradient of a wrong rule is that of the loss without the rule.
    loss = case.plain if trial.role == "corrected" and case.plain is not None else case.loss
    started = time.perf_counter()
    try:
        report = check_gradient(loss, trial.grad, case.params, *case.args)
    except Exception as error:
        return Answer(None, f"{type(error).__name__}: {error}", time.perf_counter() - started)
    return Answer(not report.ok, str(report), time.perf_counter() - started, report)


def by_jax(trial: Trial) -> Answer:
    """What `jax.test_util.check_grads` says of the loss with the gradient as its rule."""
    case = trial.case

    def value(params: Any) -> Any:
        return case.loss(params, *case.args)

    loss = jax.custom_vjp(value)
    loss.defvjp(
        lambda params: (value(params), params),
        lambda params, ct: (jax.tree.map(lambda g: ct * g, trial.grad(params, *case.args)),),
    )
    return _timed(lambda: jax.test_util.check_grads(loss, (case.params,), 1, modes="rev"))


def by_allclose(trial: Trial) -> Answer:
    """What `numpy.allclose(hand, jax.grad)` says."""
    case = trial.case

    def close() -> None:
        reverse = jax.grad(case.loss)(case.params, *case.args)
        hand = trial.grad(case.params, *case.args)
        same = jax.tree.map(lambda a, b: bool(np.allclose(a, b)), hand, reverse)
        assert all(jax.tree.leaves(same)), "differs from jax.grad"

    return _timed(close)


def _timed(check: Callable[[], Any]) -> Answer:
    started = time.perf_counter()
    try:
        check()
        rejects: bool | None = False
        text = ""
    except AssertionError as error:
        rejects, text = True, str(error)
    except Exception as error:
        rejects, text = None, f"{type(error).__name__}: {error}"
    return Answer(rejects, text, time.perf_counter() - started)


CHECKERS: dict[str, Callable[[Trial], Answer]] = {
    "jaxgd.check_gradient": by_jaxgd,
    "jax.test_util.check_grads": by_jax,
    "allclose to jax.grad": by_allclose,
}


def cause_named(trial: Trial, report: GradientReport) -> str:
    """Whether a cause is named, not whether it is the true one.

    Args:
      trial: a wrong gradient.
      report: jaxgd's.

    Returns:
      "yes" if every wrong leaf has one, "partly" if some have, "no" otherwise.
    """
    named = {finding.leaf for finding in report.findings if finding.wrong and finding.explains}
    wrong = set(trial.case.wrong_leaves)
    return "yes" if named and wrong <= named | ({""} & named and wrong) else "partly" if named else "no"


def blamed_leaves(report: GradientReport) -> set[str]:
    """The leaves that a report calls wrong."""
    return {leaf.leaf for leaf in report.leaves if not leaf.ok}


def run(
    everything: Iterable[Trial], checkers: Iterable[str], show: Callable[[str], Any], *, shown: bool = True
) -> dict[str, Any]:
    """Give every gradient to every checker.

    Args:
      everything: see `trials`.
      checkers: names, of `CHECKERS`.
      show: takes what is to be shown of each answer of jaxgd.
      shown: whether progress is.

    Returns:
      Counts by checker.
    """
    counts: dict[str, dict[str, Any]] = {}
    seconds: dict[str, list[float]] = collections.defaultdict(list)
    tally: dict[str, collections.Counter[str]] = {name: collections.Counter() for name in checkers}
    numbers: collections.Counter[str] = collections.Counter()
    listed = list(everything)
    with progress(len(listed), "gradients", shown=shown) as begin:
        for trial in listed:
            begin(trial.case.name)
            numbers[trial.role] += 1
            for name in tally:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    answer = CHECKERS[name](trial)
                seconds[name].append(answer.seconds)
                outcome = "exception" if answer.rejects is None else "rejected" if answer.rejects else "accepted"
                tally[name][f"{trial.role} {outcome}"] += 1
                if name != "jaxgd.check_gradient":
                    continue
                headline = f"{trial.case.name} ({trial.role}, {trial.case.form}): {outcome}, {answer.seconds:.1f} s"
                if trial.role == "wrong" and answer.report is not None:
                    blamed = blamed_leaves(answer.report)
                    exact = blamed == set(trial.case.wrong_leaves)
                    named = cause_named(trial, answer.report)
                    tally[name][f"cause {named}"] += 1
                    tally[name]["exact leaves"] += exact
                    headline += f", cause named: {named}" + ("" if exact else f", leaves {sorted(blamed)}")
                    headline += f"\n  true cause: {trial.case.cause} {list(trial.case.wrong_leaves)}"
                show(f"{headline}\n{answer.text}\n")
    for name, tallied in tally.items():
        counts[name] = {
            "caught": tallied["wrong rejected"],
            "exactly the wrong leaves": tallied["exact leaves"],
            "cause": {named: tallied[f"cause {named}"] for named in ("yes", "partly", "no")},
            "exceptions": {role: tallied[f"{role} exception"] for role in numbers},
            "corrected called wrong": tallied["corrected rejected"],
            "library called wrong": tallied["library rejected"],
            "seconds, median": float(np.median(seconds[name])),
            "seconds, largest": float(np.max(seconds[name])),
        }
    return {"numbers": dict(numbers), "checkers": counts}


def table(results: dict[str, Any]) -> rich.table.Table:
    """The counts as a table, one column a checker.

    Args:
      results: see `run`.

    Returns:
      The table.
    """
    numbers, checkers = results["numbers"], results["checkers"]
    out = rich.table.Table("", *checkers)

    def row(title: str, cell: Callable[[dict[str, Any]], str]) -> None:
        out.add_row(title, *(cell(found) for found in checkers.values()))

    def exceptions(found: dict[str, Any], role: str) -> str:
        count = found["exceptions"].get(role, 0)
        return f" (+ {count} exceptions)" if count else ""

    row(f"wrong gradients caught, of {numbers.get('wrong', 0)}", lambda f: f"{f['caught']}{exceptions(f, 'wrong')}")
    row("... in exactly the wrong leaves", lambda f: str(f["exactly the wrong leaves"] or ""))
    row("a cause is named: yes / partly / no", lambda f: " / ".join(str(n) for n in f["cause"].values()))
    for role in ("corrected", "library"):
        row(
            f"{role} gradients called wrong, of {numbers.get(role, 0)}",
            lambda f, role=role: f"{f[f'{role} called wrong']}{exceptions(f, role)}",  # type: ignore[misc]
        )
    row("seconds: median / largest", lambda f: f"{f['seconds, median']:.2f} / {f['seconds, largest']:.1f}")
    return out


def main(
    folder: Path, only: str, console: rich.console.Console, *, verbose: bool, peers: bool, shown: bool = True
) -> dict[str, Any]:
    """Run, show the table.

    Args:
      folder: of `cases.py`.
      only: a part of the names that are wanted.
      console: to print to.
      verbose: whether every report is shown, beside the true cause.
      peers: whether other checkers are run as well.
      shown: whether progress is.

    Returns:
      What `run` returns.
    """
    module = load(folder)
    everything = trials(module, only)
    console.print(f"{len(everything)} gradients; expect about {max(len(everything) * 2 // 60, 1)} minutes.")
    names = list(CHECKERS) if peers else ["jaxgd.check_gradient"]
    results = run(
        everything,
        names,
        (lambda text: console.print(text, markup=False)) if verbose else (lambda text: None),
        shown=shown,
    )
    console.print(table(results))
    return results


def as_expected(results: dict[str, Any]) -> bool:
    """Whether jaxgd catches all wrong gradients, in the right leaves, and accepts all others.

    Args:
      results: see `run`.

    Returns:
      The answer.
    """
    found = results["checkers"]["jaxgd.check_gradient"]
    caught_all = found["caught"] == found["exactly the wrong leaves"] == results["numbers"].get("wrong", 0)
    alarms = found["corrected called wrong"] + found["library called wrong"] + sum(found["exceptions"].values())
    return bool(caught_all and not alarms)
