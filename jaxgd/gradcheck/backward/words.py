"""What a change of the backward pass is called: the operation, its inputs and its place by their names."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from jaxgd.gradcheck.backward.reading import Reading, label, name_in_turn, operation
from jaxgd.gradcheck.backward.site import Change
from jaxgd.gradcheck.backward.sweep import Edge

MAX_LISTED = 3
"""Labels that are listed where they differ from edge to edge."""


def _function(reading: Reading, edge: Edge, noun: bool) -> str:
    """The operation of an edge in words, with its place in the source; `noun` if the words say what it is."""
    step = reading.tape.steps[edge.step]
    quoted = step.source.quote()
    quoted = f"{quoted[:-1]}{_which(reading, edge.step)})" if quoted.endswith(")") else quoted
    if edge.target == -1 and quoted and reading.inner[edge.step]:
        return f"inside {quoted}" if noun else f"the {operation(reading, edge.step)} inside {quoted}"
    for call in reading.tape.calls:
        if call.name and edge.target in call.ins and step.outs[0] in call.outs:
            quoted = call.source.quote() or call.name
            name = call.name.lstrip("_")
            return quoted if noun or f"{name}(" in quoted else f"{name}, {quoted},"
    if edge.target != -1 or (noun and quoted):
        return quoted or label(reading, step.outs[0])
    return f"the {operation(reading, edge.step)} {quoted}".strip()


def _which(reading: Reading, index: int) -> str:
    """Which of several equal expressions of a line it is, in words; nothing if it is the only one."""
    source = reading.tape.steps[index].source
    keys = sorted(reading.alike.get((source.text, source.place), ()))
    if len(keys) < 2 or source.caller or source.key[:1] not in keys:
        return ""
    number = keys.index(source.key[:1])
    return f", {ORDINALS[number]} of {len(keys)} alike" if number < len(ORDINALS) else ""


ORDINALS = ("the first", "the second", "the third", "the fourth")

NOUNS = re.compile(
    r"(product|quotient|power|softmax|inverse|determinant|det|sum|solve|factor|indexing|remainder|convolution|transform"
    r"|singular values|normalisation|exponential) \{f\}"
)
"""Words that say what the operation is."""


def words_of(reading: Reading, edge: Edge, change: Change) -> str:
    """What was done, with the operation and its inputs by their names."""
    return _written(change, [_labels(reading, edge, change)])


def words_of_all(reading: Reading, spots: Sequence[tuple[Edge, Change]]) -> str:
    """What was done at several edges, with what they have in common by its name."""
    change = spots[-1][1]
    return _written(change, [_labels(reading, edge, change) for edge, _ in spots])


class _Labels(NamedTuple):
    """What the words of a change can speak of: operation, input, the other input, name of the last operation."""

    f: str
    x: str
    other: str
    last: str


def _labels(reading: Reading, edge: Edge, change: Change) -> _Labels:
    step = reading.tape.steps[edge.step]
    number = edge.target if edge.target != -1 else step.ins[max(edge.position, 0)]
    other = step.ins[1 - edge.position] if len(step.ins) == 2 and edge.position in (0, 1) else number
    noun = NOUNS.search(change.words) is not None
    function = _function(reading, edge, noun)
    x = name_in_turn(reading, number, edge.step)
    if x in function and x.startswith("`"):
        x = f"the {operation(reading, reading.producer[number])} in {x}"
    if edge.target != -1 and not noun and "{x}" not in change.words and not _is_whole_call(reading, edge):
        function = f"{function} by {x}"
    return _Labels(function, x, name_in_turn(reading, other, edge.step), operation(reading, edge.step))


def _written(change: Change, labels: Sequence[_Labels]) -> str:
    """The words of a change; where a label differs from edge to edge, all of them."""
    columns = zip(*labels, strict=True)
    joined = [_listed(list(dict.fromkeys(column))) for column in columns]
    return change.words.format(**dict(zip(_Labels._fields, joined, strict=True)))


def _listed(names: list[str]) -> str:
    """Several labels as one; numbers only if all are, because a state starts at one."""
    names = [name for name in names if name[0] in "`[" and not name[1:2].isdigit()] or names
    more = len(names) - MAX_LISTED
    if more > 0:
        return f"{', '.join(names[:MAX_LISTED])} and {more} more"
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _is_whole_call(reading: Reading, edge: Edge) -> bool:
    """Whether the operations of an edge are a named function of one array that is differentiated by."""
    tape, out = reading.tape, reading.tape.steps[edge.step].outs[0]
    return any(
        call.name and out in call.outs and [n for n in call.ins if tape.active[n]] == [edge.target]
        for call in tape.calls
    )
