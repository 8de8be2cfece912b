"""jaxgd problems: the table of systems."""

import dataclasses
import json

import rich.box
import rich.markup
import rich.table

from jaxgd import problems, reporting
from jaxgd.types import Formulas, Problem


@dataclasses.dataclass(frozen=True)
class ProblemsOptions:
    """Print the table of systems with their formulas."""

    json: bool = False
    """Print JSON."""


def run(options: ProblemsOptions) -> int:
    """Print the systems.

    Args:
      options: of the command line.

    Returns:
      The exit code, 0.
    """
    shown = [problem for problem, _ in problems.ALL_PROBLEMS]
    if options.json:
        print(
            json.dumps(
                [
                    {"name": problem.name, **_formulas(problem)._asdict(), "closed_form": problem.minimizer is not None}
                    for problem in shown
                ]
            )
        )
        return 0
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD, show_lines=True)
    table.add_column("problem", width=26, overflow="fold")
    table.add_column("model\nloss\ngradient, by hand", overflow="fold")
    table.add_column("closed\nform", no_wrap=True)
    for problem in shown:
        formulas = rich.markup.escape("\n".join(_formulas(problem)))
        table.add_row(rich.markup.escape(problem.name), formulas, "yes" if problem.minimizer else "")
    reporting.console().print(table)
    return 0


def _formulas(problem: Problem) -> Formulas:
    assert problem.formulas is not None
    return problem.formulas
