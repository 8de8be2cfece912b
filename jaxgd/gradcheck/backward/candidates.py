"""Every variant of a backward pass that is worth trying: a pass over the tape, which evaluates nothing.

A candidate is one change at one edge, or the same change at several: in every turn of a recurrence, or in every
operation of a kind. It holds edges and no values, so that it can be tried on the tape of another point.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from jaxgd.gradcheck.backward.arithmetic import ELEMENTWISE, UNARY
from jaxgd.gradcheck.backward.edits import EDITS, families
from jaxgd.gradcheck.backward.exchanges import exchanged_axes, exchanged_factors, exchanged_inputs
from jaxgd.gradcheck.backward.groups import CUT, carries, factors, moved_factors, outputs
from jaxgd.gradcheck.backward.others import (
    constants,
    other_arrays,
    other_inputs,
    other_sums,
    other_turns,
    other_values,
)
from jaxgd.gradcheck.backward.reading import Candidate, Reading, operation
from jaxgd.gradcheck.backward.site import Change, Site
from jaxgd.gradcheck.backward.sweep import Edge, region
from jaxgd.gradcheck.backward.wheres import bypassed, conditions
from jaxgd.gradcheck.backward.words import words_of, words_of_all
from jaxgd.gradcheck.finding import Kind

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
    return [
        *_alone(reading, singles),
        *_of_one_operation(reading, singles),
        *_in_every_turn(reading, singles),
        *_of_a_kind(reading, singles),
        *(candidate for more in MORE for candidate in more(reading)),
    ]


Spot = tuple[Edge, Change]


def _by(spots: Sequence[Spot], key: Callable[[Edge, Change], Any]) -> list[list[Spot]]:
    """Edges with their changes, those of one key together; a key of None is left out."""
    found: dict[Any, list[Spot]] = {}
    for edge, change in spots:
        if (of := key(edge, change)) is not None:
            found.setdefault(of, []).append((edge, change))
    return list(found.values())


def _turns(reading: Reading, singles: Sequence[Spot]) -> list[list[Spot]]:
    """The same change in every turn of a loop, or in every call of a function, together."""
    first = {states[0]: reading.producer[states[1]] for states in reading.carried}

    def key(edge: Edge, change: Change) -> Any:
        made = reading.producer.get(edge.target)
        # The state that goes into the first turn is an input, or is made before the loop.
        initial = edge.target if edge.target in first and reading.turns[edge.step] == 0 else None
        made = first.get(initial, made) if initial is not None else made
        target: Any = edge.target
        if made is not None:
            turns = -1 if initial is not None else reading.turns[made]
            target = (reading.keys[made], reading.turns[edge.step] - turns)
        return reading.keys[edge.step], edge.position, target, change.kind, change.words

    return _by(singles, key)


def _alone(reading: Reading, singles: Sequence[Spot]) -> Iterator[Candidate]:
    for members in _turns(reading, singles):
        # Of many turns, a mistake is made in all, in the first or in the last.
        for edge, change in members if len(members) < 4 else (members[0], members[-1]):
            share = "path" if change.kind is Kind.PATH and change.words == CUT.words else ""
            named, words = _named(reading, edge, change), words_of(reading, edge, change)
            yield Candidate(change.kind, words, ((edge, change),), share, named=named)


def _of_one_operation(reading: Reading, singles: Sequence[Spot]) -> Iterator[Candidate]:
    """The change of both inputs of an operation."""

    def key(edge: Edge, change: Change) -> Any:
        speaks_of_one = edge.target != -1 or "{x}" in change.words or "{other}" in change.words
        return None if speaks_of_one else (edge.step, change.words)

    for members in _by(singles, key):
        if len(members) > 1:
            change = members[0][1]
            yield Candidate(change.kind, words_of_all(reading, members), tuple(members))


def _in_every_turn(reading: Reading, singles: Sequence[Spot]) -> Iterator[Candidate]:
    for members in _turns(reading, singles):
        if len(members) > 1:
            edge, change = members[0]
            words = f"{words_of_all(reading, members)}, in each of its {len(members)} occurrences"
            yield Candidate(change.kind, words, tuple(members), named=_named(reading, edge, change))


def _of_a_kind(reading: Reading, singles: Sequence[Spot]) -> Iterator[Candidate]:
    """The change of all operations of a kind, and of those whose input has one shape."""
    tape = reading.tape

    def key(edge: Edge, change: Change) -> Any:
        alike = change.kind in OF_A_KIND and edge.target == -1
        return (tape.steps[edge.step].name, edge.position, change.words) if alike else None

    def shape(edge: Edge, change: Change) -> Any:
        del change
        return np.shape(tape.values[tape.steps[edge.step].ins[max(edge.position, 0)]])

    for whole in _by(singles, key):
        parts = _by(whole, shape)
        for members in (whole, *(parts if len(parts) > 1 else ())):
            if len({reading.keys[edge.step] for edge, _ in members}) > 1:
                edge, change = members[0]
                name = operation(reading, edge.step)
                general = change.words.format(f=f"the {name}", x="its input", other="the other one", last=name)
                shaped = "" if members is whole else f" with an input of shape {shape(edge, change)}"
                places = sorted({tape.steps[e.step].source.quote() for e, _ in members} - {""})
                listed = f": {', '.join(places)}" if len(places) < 4 else ""
                words = f"{general}, in all {len(members)} operations of this kind{shaped}{listed}"
                yield Candidate(change.kind, words, tuple(members))


MORE = (
    *(carries, conditions, moved_factors, factors, bypassed, outputs),
    *(constants, other_inputs, other_turns, other_sums),
    *(exchanged_axes, exchanged_inputs, exchanged_factors),
)
"""Candidates that are more than changes of edges, or that change values."""


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
        for position in (*(j for j, number in enumerate(step.ins) if tape.active[number]), -1):
            for edge, change in _changes(Site(tape, Edge(index, position))):
                # Nobody mixes up the order of entries inside a function of a library.
                if not (reading.inner[index] and change.kind is Kind.ORDER):
                    yield edge, change
        yield from other_arrays(reading, index)
    for edge, elementwise in (*_groups(reading), *_layers(reading)):
        yield from _changes(Site(tape, edge), elementwise)
        if elementwise:
            yield from other_values(reading, edge)


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
                    yield from _group(reading, number, out, MAX_CALL, 0 if call.name == "solve" else 1)
    seen = {(number, out) for call in tape.calls for number in call.ins for out in call.outs}
    ancestors: dict[int, list[int]] = {}
    for index, step in enumerate(tape.steps):
        if not step.active or len(step.outs) != 1:
            continue
        out = step.outs[0]
        above = {v: None for i in step.ins if tape.active[i] for v in (*ancestors.get(i, ()), i)}
        near = (
            v
            for v in above
            if (reading.producer.get(v, -1) >= index - MAX_SPAN or v < len(reading.names))
            and not _turns_apart(reading, v, index)
        )
        ancestors[out] = sorted(near)[-4 * MAX_SPAN :]
        shape = tape.values[out].shape
        if step.name in ("broadcast_in_dim", "reshape", "squeeze", "transpose", "convert_element_type"):
            continue
        for number in reversed(ancestors[out]):
            if tape.values[number].shape == shape and (number, out) not in seen:
                yield from _group(reading, number, out, MAX_SPAN, 1)


def _turns_apart(reading: Reading, number: int, index: int) -> bool:
    """Whether a value was made more than one turn of a loop before an operation."""
    made = reading.producer.get(number)
    return made is not None and 0 <= reading.turns[made] < reading.turns[index] - 1


def _layers(reading: Reading) -> Iterator[tuple[Edge, bool]]:
    """From a function of one array back through a sum to the inputs of the matrix product in it, of other shapes."""
    tape = reading.tape
    for index, step in enumerate(tape.steps):
        if len(step.ins) != 1 or step.name not in UNARY or not step.active:
            continue
        near = [i for i in range(max(0, index - MAX_SPAN), index) if tape.steps[i].name in PRODUCTS]
        for product in near:
            for number in tape.steps[product].ins:
                through = region(tape, number, step.outs[0], product, index)
                alike = np.shape(tape.values[number]) == np.shape(tape.values[step.outs[0]])
                simple = all(i in (product, index) or tape.steps[i].name in SUMS for i in through)
                if tape.active[number] and not alike and product in through and simple:
                    yield Edge(index, -2, number, tuple(through)), False


PRODUCTS = ("dot_general", "conv_general_dilated")
SUMS = ("add", "broadcast_in_dim", "reshape", "transpose", "convert_element_type")
"""Operations of an affine map."""


def _group(reading: Reading, number: int, out: int, limit: int, above: int) -> Iterator[tuple[Edge, bool]]:
    """The operations between two values, if they are more than `above` and at most `limit`."""
    tape = reading.tape
    last = reading.producer[out]
    through = region(tape, number, out, reading.producer.get(number, -1) + 1, last)
    if above < len(through) <= limit and through[-1] == last:
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
    if not reading.tape.steps[edge.step].source.place or (reading.inner[edge.step] and edge.target == -1):
        return False
    if edge.target == -1:
        return change not in EDITS["scaled"]
    return len(edge.through) == 1 or change not in (*EDITS["elementwise"], *EDITS["jacobian"])
