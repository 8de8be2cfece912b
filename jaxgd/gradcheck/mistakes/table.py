"""MISTAKES: what is tried on a wrong gradient, in which order and why."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jaxgd.gradcheck.finding import Finding, Kind
from jaxgd.gradcheck.mistakes import arguments, leaves, penalties, rows, shapes, steps
from jaxgd.gradcheck.mistakes.passes import passes
from jaxgd.gradcheck.mistakes.study import Case, Explanation, Study, study
from jaxgd.gradcheck.where import where

Explain = Callable[[Study, list[int]], dict[int, Explanation]]


class Mistake(NamedTuple):
    """One row of the table.

    Attributes:
      name: of the mistake.
      why: why it stands where it stands.
      explain: `(study, leaves) -> an explanation for each leaf that it reproduces at every place`.
    """

    name: str
    why: str
    explain: Explain


def each(explain: Callable[[Study, int], Explanation | None]) -> Explain:
    """A mistake that is made in one leaf at a time.

    Args:
      explain: `(study, leaf) -> the explanation, or None`.

    Returns:
      The same for several leaves.
    """

    def of_all(study: Study, leaves: list[int]) -> dict[int, Explanation]:
        found = {leaf: explain(study, leaf) for leaf in leaves}
        return {leaf: explanation for leaf, explanation in found.items() if explanation is not None}

    return of_all


MISTAKES: tuple[Mistake, ...] = (
    Mistake("zero", "fits every other row with a factor of 0", each(leaves.zero)),
    Mistake("stale", "right at the first place; nothing that moves could explain it", each(leaves.stale)),
    Mistake("factor", "the most frequent mistake, and every later row may fit up to a factor", each(leaves.factor)),
    Mistake("other leaf", "no arithmetic is wrong, only the place", each(leaves.other_leaf)),
    Mistake("other order", "no arithmetic is wrong, only the places of entries", each(leaves.other_order)),
    Mistake("other rows", "as the row before, where an entry can stand twice or not at all", each(leaves.other_rows)),
    Mistake("axes exchanged", "as the rows before, of the transposed parameter", each(leaves.axes_exchanged)),
    Mistake("argument", "an input that is left out is simpler than a derivative that is", arguments.replaced),
    Mistake("new parameters", "looks like a penalty of weight 1", each(penalties.new_parameters)),
    Mistake("penalty", "a multiple of the parameter: a path of the loss, but a penalty in the reader's words",
            each(penalties.added)),
    Mistake("penalty index", "as the row before, in some entries", each(penalties.wrong_entries)),
    Mistake("constant", "the same number at all points and arguments", each(penalties.added_constant)),
    Mistake("rows", "whole rows of the data, before single entries of the gradient", rows.rows),
    Mistake("cut down", "a function of the right gradient, so its derivation is right", each(shapes.cut_down)),
    Mistake("rounded", "as the row before", each(shapes.rounded)),
    Mistake("some entries", "says where and not why: after what says why for whole leaves", each(shapes.some_entries)),
    Mistake("one change", "the search over the backward pass: thousands of candidates, so that simpler rows come first",
            steps.one_change),
    Mistake("entries by sign", "says where and not why: a sign that the search finds is missing there",
            each(shapes.entries_by_sign)),
    Mistake("parameter", "an accident of functions that vanish at 0, unless the search finds no other reason",
            arguments.parameter_replaced),
    Mistake("argument's multiple", "as the row for arguments, with a factor", arguments.replaced_and_scaled),
    Mistake("other leaf's multiple", "a coincidence wherever the search explains the leaf",
            each(leaves.multiple_of_other)),
    Mistake("term", "says which term and not of which operation, as the search does", each(penalties.term)),
    Mistake("updated", "a search for the learning rate, with a gradient for each step", arguments.updated),
    Mistake("argument term", "says what is missing but not why", each(penalties.argument_term)),
    Mistake("fixed", "fits gradients that lack all terms with parameters, which the search names", each(leaves.fixed)),
    Mistake("radial part", "a multiple of the parameter with a formula", each(penalties.without_radial_part)),
    Mistake("penalty on the residual", "as the row before", each(penalties.on_the_residual)),
    Mistake("varying penalty", "a factor for each place: more freedom than any row before", each(penalties.varying)),
    Mistake("one term", "the search once for each argument", steps.one_term),
    Mistake("two changes", "the square of the number of candidates, and the most freedom", steps.two_changes),
)  # fmt: skip
"""What is tried, in order. A leaf is explained by the first row that reproduces it at every place."""


def explain(case: Case) -> list[Finding]:
    """Name the mistake in each wrong leaf.

    Args:
      case: the wrong gradient.

    Returns:
      One finding for each leaf of `case.wrong`; UNKNOWN where nothing reproduces it at every place.
    """
    seen = study(case, functools.partial(passes, case))
    found: dict[int, Explanation] = {}
    stopped = False
    for mistake in MISTAKES if len(seen.places) > 1 else ():
        rest = [leaf for leaf in case.wrong if leaf not in found]
        if rest and seen.late:
            stopped = True
            break
        found.update(_tried(mistake, seen, rest) if rest else {})
    stopped = stopped or seen.late
    return [_finding(seen, leaf, found.get(leaf), stopped) for leaf in case.wrong]


def _tried(mistake: Mistake, study: Study, leaves: list[int]) -> dict[int, Explanation]:
    """What a row explains. A loss that it cannot be tried on is not explained by it, and the check goes on."""
    try:
        with np.errstate(all="ignore"):
            return mistake.explain(study, leaves)
    except (ArithmeticError, IndexError, KeyError, NotImplementedError, TypeError, ValueError, np.linalg.LinAlgError):
        return {}


def _finding(study: Study, leaf: int, explanation: Explanation | None, stopped: bool) -> Finding:
    case = study.case
    if explanation is None:
        spot = f" (it differs in {where(case.bad[leaf])})" if case.bad[leaf].any() else ""
        searched = (
            "the search for the cause was stopped because its time was over (`seconds` sets the limit)"
            if stopped
            else "no single mistake that is known explains this"
        )
        explanation = Explanation(Kind.UNKNOWN, f"is wrong{spot}; {searched}.")
    words = f"{study.name(leaf)} {explanation.words}"
    return Finding(case.names[leaf], explanation.kind, words, explains=explanation.kind is not Kind.UNKNOWN)
