"""Every variant of a backward pass that is worth trying: a pass over the tape, which evaluates nothing.

A candidate is one change at one edge, or the same change at several: in every turn of a recurrence, or in every
operation of a kind. It holds edges and no values, so that it can be tried on the tape of another point.
"""

from collections.abc import Iterator
from typing import Any

from jaxgd.gradcheck.backward.arithmetic import ELEMENTWISE, UNARY
from jaxgd.gradcheck.backward.edits import EDITS, families
from jaxgd.gradcheck.backward.groups import (
    CUT,
    bypassed,
    carries,
    conditions,
    factors,
    moved_factors,
    other_arrays,
    outputs,
)
from jaxgd.gradcheck.backward.reading import Candidate, Reading, operation, words_of
from jaxgd.gradcheck.backward.site import Change, Site
from jaxgd.gradcheck.backward.sweep import Edge, region
from jaxgd.gradcheck.report import Kind

MAX_SPAN = 24
"""Operations between the input and the output of a group."""

MAX_CALL = 200
"""Operations of a function of a library, which is one thing however many it has."""

OF_A_KIND = (Kind.DERIVATIVE, Kind.MASK, Kind.TRANSPOSED, Kind.NOT_SUMMED)
"""Mistakes that are made in all operations of a kind at once."""


def candidates(reading: Reading) -> list[Candidate]:
    """All changes that are tried, in the order in which equal ones are preferred.

    Args:
      reading: of the tape.

    Returns:
      Single changes, then those in every turn of a loop or in every operation of a kind.
    """
    singles = [*_edges(reading)]
    grouped: dict[Any, list[tuple[Edge, Change]]] = {}
    of_kind: dict[Any, list[tuple[Edge, Change]]] = {}
    of_step: dict[Any, list[tuple[Edge, Change]]] = {}
    found = []
    for edge, change in singles:
        step = reading.tape.steps[edge.step]
        target = reading.keys[reading.producer[edge.target]] if edge.target in reading.producer else edge.target
        what = (edge.position, target if edge.target != -1 else None, change.kind, change.words)
        grouped.setdefault((reading.keys[edge.step], what), []).append((edge, change))
        if edge.target == -1 and "{x}" not in change.words and "{other}" not in change.words:
            of_step.setdefault((edge.step, change.words), []).append((edge, change))
        if change.kind in OF_A_KIND and edge.target == -1:
            of_kind.setdefault((step.name, edge.position, change.words), []).append((edge, change))
    for members in grouped.values():
        # Of many turns, a mistake is made in all, in the first or in the last.
        for edge, change in members if len(members) < 4 else (members[0], members[-1]):
            words = words_of(reading, edge, change)
            cut = change.kind is Kind.PATH and change.words == CUT.words
            found.append(
                Candidate(
                    change.kind, words, ((edge, change),), "path" if cut else "", named=_named(reading, edge, change)
                )
            )
    for members in of_step.values():
        if len(members) > 1:
            edge, change = members[0]
            found.append(Candidate(change.kind, words_of(reading, edge, change), tuple(members)))
    for members in grouped.values():
        if len(members) > 1:
            edge, change = members[0]
            words = f"{words_of(reading, edge, change)}, in each of its {len(members)} occurrences"
            found.append(Candidate(change.kind, words, tuple(members), named=_named(reading, edge, change)))
    for members in of_kind.values():
        keys = {reading.keys[edge.step] for edge, _ in members}
        if len(members) > 1 and len(keys) > 1:
            edge, change = members[0]
            places = sorted({reading.tape.steps[e.step].source.quote() for e, _ in members} - {""})
            general = change.words.format(
                f=f"the {operation(reading, edge.step)}", x="its input", other="the other one"
            )
            words = f"{general}, in all {len(members)} operations of this kind" + (
                f": {', '.join(places)}" if len(places) < 4 else ""
            )
            found.append(Candidate(change.kind, words, tuple(members)))
    return [
        *found,
        *carries(reading),
        *conditions(reading),
        *moved_factors(reading),
        *factors(reading),
        *bypassed(reading),
        *outputs(reading),
    ]


def _edges(reading: Reading) -> Iterator[tuple[Edge, Change]]:
    """Single edges with the changes that apply to each."""
    tape = reading.tape
    for index in range(len(tape.steps) - 1, -1, -1):
        step = tape.steps[index]
        if not step.active or len(step.outs) != 1:
            continue
        if step.name == "mul" and step.ins[0] == step.ins[1]:
            # A square that is written as a product is one function of one array.
            yield from _changes(Site(tape, Edge(index, -2, step.ins[0], (index,))), True)
            continue
        for position in (-1, *(j for j, number in enumerate(step.ins) if tape.active[number])):
            yield from _changes(Site(tape, Edge(index, position)))
        yield from other_arrays(reading, index)
    for edge, elementwise in _groups(reading):
        yield from _changes(Site(tape, edge), elementwise)


def _changes(site: Site, elementwise: bool = False) -> Iterator[tuple[Edge, Change]]:
    for family in families(site, elementwise):
        for change in EDITS[family]:
            if change.applies(site):
                yield site.edge, change


def _groups(reading: Reading) -> Iterator[tuple[Edge, bool]]:
    """Pairs of an input and an output with several operations in between, and whether these are elementwise."""
    tape = reading.tape
    for call in tape.calls:
        for out in call.outs:
            for number in call.ins:
                if out in reading.producer and tape.active[number] and tape.active[out] and number != out:
                    yield from _group(reading, number, out, MAX_CALL)
    seen = {(number, out) for call in tape.calls for number in call.ins for out in call.outs}
    ancestors: dict[int, list[int]] = {}
    for index, step in enumerate(tape.steps):
        if not step.active or len(step.outs) != 1:
            continue
        out = step.outs[0]
        above = {v: None for i in step.ins if tape.active[i] for v in (*ancestors.get(i, ()), i)}
        near = (v for v in above if reading.producer.get(v, -1) >= index - MAX_SPAN or v < len(reading.names))
        ancestors[out] = sorted(near)[-4 * MAX_SPAN :]
        shape = tape.values[out].shape
        if step.name in ("broadcast_in_dim", "reshape", "squeeze", "transpose", "convert_element_type"):
            continue
        for number in reversed(ancestors[out]):
            if tape.values[number].shape == shape and (number, out) not in seen:
                yield from _group(reading, number, out, MAX_SPAN)


def _group(reading: Reading, number: int, out: int, limit: int) -> Iterator[tuple[Edge, bool]]:
    tape = reading.tape
    last = reading.producer[out]
    through = region(tape, number, out, reading.producer.get(number, -1) + 1, last)
    if 1 < len(through) <= limit and through[-1] == last:
        steps = [tape.steps[index] for index in through]
        shape = tape.values[out].shape
        elementwise = all(
            step.name in ELEMENTWISE and all(tape.values[i].shape in (shape, ()) for i in (*step.ins, *step.outs))
            for step in steps
        )
        made = reading.producer.get(number)
        # A function begins where the values come from several arrays; from inside it, only its last step is left.
        inside = made is not None and elementwise and tape.steps[made].name in UNARY
        if not inside:
            yield Edge(last, -2, number, tuple(through)), elementwise


def _named(reading: Reading, edge: Edge, change: Change) -> bool:
    """Whether a change speaks of one operation of the user's code, or of a function that was recognised."""
    source = reading.tape.steps[edge.step].source
    if not source.place or (source.inner and edge.target == -1):
        return False
    return edge.target == -1 or len(edge.through) == 1 or change not in (*EDITS["elementwise"], *EDITS["jacobian"])
