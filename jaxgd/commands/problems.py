"""jaxgd problems: print the table of problems."""

import dataclasses
import json

from jaxgd import problems
from jaxgd.commands import tables
from jaxgd.types import Formulas, Problem


@dataclasses.dataclass(frozen=True)
class ProblemsOptions:
    """Print a table of all problems with their formulas."""

    json: bool = False
    """Print JSON."""


def run(options: ProblemsOptions) -> int:
    """Print the problems.

    Args:
      options: the options of the command line.

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
    columns = (
        tables.Column("problem", tables.WORDS),
        tables.Column("model\nloss\ngradient, by hand", tables.WORDS),
        tables.Column("closed\nform", tables.WORDS),
    )
    rows = [(p.name, "\n".join(_formulas(p)), "yes" if p.minimizer else "") for p in shown]
    tables.print_table(columns, rows, lines=True)
    return 0


def _formulas(problem: Problem) -> Formulas:
    assert problem.formulas is not None
    return problem.formulas
