"""A tape, and how to talk about it: names of values, places of operations, turns of recurrences."""

import collections
import functools
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxgd.gradcheck.backward.program import name_of
from jaxgd.gradcheck.backward.site import Change, Site
from jaxgd.gradcheck.backward.sweep import Edge, Edit
from jaxgd.gradcheck.backward.tape import Tape
from jaxgd.gradcheck.report import Kind


class Candidate(NamedTuple):
    """A change of the backward pass.

    Attributes:
      kind: what to call it.
      words: what was done, in words.
      spots: the edges and what is sent along each.
      share: what a part of the change means, so that the part can be read off: "path" for a path that is cut, "rate"
        for a parameter that is moved along its gradient; "" if only the whole change has a meaning.
      values: changes the values of the tape on which the backward pass runs; None if it changes edges.
      named: whether the operation is one that a reader knows, not a group that was found between two arrays.
    """

    kind: Kind
    words: str
    spots: tuple[tuple[Edge, Change], ...]
    share: str = ""
    values: Callable[[Tape], Tape] | None = None
    named: bool = True

    def edits(self, tape: Tape) -> list[Edit]:
        """The change on a tape.

        Args:
          tape: of the same operations.

        Returns:
          Edits for `backward`.
        """
        return [Edit(edge, functools.partial(change.send, Site(tape, edge))) for edge, change in self.spots]


class Reading(NamedTuple):
    """A tape and what is needed to talk about it.

    Attributes:
      tape: the tape.
      names: of the inputs of the program, as the caller wrote them.
      producer: the operation that made a value, by the value's number.
      keys: for each operation, what it shares with the same operation in another turn of a loop.
      turns: for each operation, the turn of the recurrence in which it ran; -1 outside of one.
    """

    tape: Tape
    names: tuple[str, ...]
    producer: dict[int, int]
    keys: tuple[Any, ...]
    turns: tuple[int, ...]


def read(tape: Tape, names: Sequence[str]) -> Reading:
    """Read a tape: producers, and the turns of recurrences.

    Args:
      tape: the tape.
      names: of the inputs of the program.

    Returns:
      The reading.
    """
    producer = {number: index for index, step in enumerate(tape.steps) for number in step.outs}
    keys = tuple((step.source.key, step.name, step.primitive.params.get("y")) for step in tape.steps)
    counts = collections.Counter(key for key in keys if key[0])
    repeated = [count for count in counts.values() if count > 1]
    num_turns = max(set(repeated), key=repeated.count) if repeated else 0
    seen: collections.Counter[Any] = collections.Counter()
    turns = []
    for key in keys:
        count = counts.get(key, 0)
        in_loop = num_turns > 1 and count > 1 and count % num_turns == 0
        turns.append(seen[key] // (count // num_turns) if in_loop else -1)
        seen[key] += 1
    return Reading(tape, tuple(names), producer, keys, tuple(turns))


def label(reading: Reading, number: int) -> str:
    """A value as a reader of the loss knows it.

    Args:
      reading: of the tape.
      number: of the value.

    Returns:
      The path of an input, the expression that computes it, or a number.
    """
    if number < len(reading.names):
        return reading.names[number]
    if number not in reading.producer:
        value = reading.tape.values[number]
        return (
            f"{np.ravel(value)[0]:.6g}"
            if np.size(value) == 1 and np.asarray(value).dtype.kind in "fiub"
            else "a constant"
        )
    step = reading.tape.steps[reading.producer[number]]
    # What only changes the shape is not what a reader thinks of.
    if step.name in ("broadcast_in_dim", "reshape", "squeeze", "expand_dims", "convert_element_type", "stop_gradient"):
        return label(reading, step.ins[0]) if step.ins else "a constant"
    text = step.source.text
    return f"`{text}`" if text and len(text) <= 60 else f"the {operation(reading, reading.producer[number])}"


def operation(reading: Reading, index: int) -> str:
    """What a reader calls an operation of the tape."""
    step = reading.tape.steps[index]
    if step.primitive.eqn is not None:
        return name_of(step.primitive.eqn)
    return step.name


def _function(reading: Reading, edge: Edge, noun: bool) -> str:
    """The operation of an edge in words, with its place in the source; `noun` if the words say what it is."""
    step = reading.tape.steps[edge.step]
    quoted = step.source.quote()
    for call in reading.tape.calls:
        if call.name and edge.target in call.ins and step.outs[0] in call.outs:
            quoted = call.source.quote() or call.name
            return quoted if noun or f"{call.name}(" in quoted else f"{call.name}, {quoted},"
    if edge.target != -1 or (noun and quoted):
        return quoted or label(reading, step.outs[0])
    return f"the {operation(reading, edge.step)} {quoted}".strip()


NOUNS = re.compile(
    r"(product|quotient|power|softmax|inverse|determinant|det|sum|solve|factor|indexing|remainder|convolution) \{f\}"
)
"""Words that say what the operation is."""


def words_of(reading: Reading, edge: Edge, change: Change) -> str:
    """What was done, with the operation and its inputs by their names."""
    step = reading.tape.steps[edge.step]
    number = edge.target if edge.target != -1 else step.ins[max(edge.position, 0)]
    other = step.ins[1 - edge.position] if len(step.ins) == 2 and edge.position in (0, 1) else number
    function = _function(reading, edge, NOUNS.search(change.words) is not None)
    return change.words.format(f=function, x=label(reading, number), other=label(reading, other))
