"""The committed runs as the tables of the README and of the documentation."""

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent

NAMES = {
    "jaxgd.check_gradient": "`jaxgd.check_gradient`",
    "jax.test_util.check_grads": "`jax.test_util.check_grads`",
    "allclose to jax.grad": "`allclose` to `jax.grad`",
    "chex.assert_numerical_grads": "`chex.assert_numerical_grads`",
    "scipy.optimize.check_grad": "`scipy.optimize.check_grad`",
}


def committed(name: str) -> dict[str, Any]:
    """A committed run.

    Args:
      name: "checkers" or "realworld".

    Returns:
      What the command wrote.
    """
    record: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    return record


def headlines() -> str:
    """Every checker on planted mistakes, on real ones, and on right gradients.

    Returns:
      Markdown.
    """
    runs = [committed("checkers")[dtype] for dtype in ("float32", "float64")]
    real = committed("realworld")
    lines = ["| checker | planted caught | real caught | right called wrong |", "|---|---|---|---|"]
    for checker, name in NAMES.items():
        planted = sum(run["caught"].get(checker, 0) for run in runs)
        of_planted = sum(run["mutants"] for run in runs if checker in run["caught"])
        alarms = sum(run["false alarms"].get(checker, 0) for run in runs)
        right = sum(run["right"] for run in runs if checker in run["caught"])
        found = real["checkers"].get(checker)
        cells = [_share(planted, of_planted), ""]
        if found is not None:
            numbers = real["numbers"]
            cells[1] = _share(found["caught"], numbers["wrong"])
            alarms += found["corrected called wrong"] + found["library called wrong"]
            right += numbers["corrected"] + numbers["library"]
            raised = found["exceptions"]
            cells[1] += _raised(raised["wrong"])
            also = _raised(raised["corrected"] + raised["library"])
        else:
            also = ""
        lines.append(f"| {name} | {' | '.join(cells)} | {_share(alarms, right)}{also} |")
    return "\n".join(lines) + "\n"


def _raised(count: int) -> str:
    return f", {count} exceptions" if count > 1 else ", 1 exception" if count else ""


def _share(part: int, whole: int) -> str:
    return f"{part} of {whole}" if whole else ""


def causes() -> str:
    """How often a cause is named.

    Returns:
      A sentence.
    """
    runs = [committed("checkers")[dtype] for dtype in ("float32", "float64")]
    named, mutants = sum(run["jaxgd"].get("named", 0) for run in runs), sum(run["mutants"] for run in runs)
    false = sum(run["jaxgd"].get("wrong name", 0) for run in runs)
    real = committed("realworld")
    yes, wrong = real["checkers"]["jaxgd.check_gradient"]["cause"]["yes"], real["numbers"]["wrong"]
    return (
        f"It names the mistake in {named} of the {mutants} planted ones, {false} of them by another name, and a cause "
        f"in {yes} of the {wrong} real ones."
    )
