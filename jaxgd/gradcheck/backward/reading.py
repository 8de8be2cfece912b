"""A tape, and how to talk about it: names of values, turns of recurrences."""

import collections
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from jaxgd.gradcheck.backward.program import name_of
from jaxgd.gradcheck.backward.site import Change, Site
from jaxgd.gradcheck.backward.sweep import Edge, Edit
from jaxgd.gradcheck.backward.tape import Step, Tape
from jaxgd.gradcheck.finding import Kind

MAX_TEXT = 90
"""Letters of an expression that is quoted."""

SHAPES = ("broadcast_in_dim", "reshape", "squeeze", "expand_dims", "convert_element_type", "stop_gradient")
"""Operations that leave the numbers as they are."""

ROWS = ("slice", "dynamic_slice", "gather", "squeeze")
"""Operations that read a row of an array in a loop over its rows."""

REACH = 12
"""Operations after another one among which one that reads it is looked for."""

TURNS = {0: " of the same turn", 1: " of the next turn", -1: " of the turn before"}
"""Turns of a recurrence, by their distance."""


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
      inner: for each operation, whether it is one of several of a function of a library.
      carried: for each state of a recurrence, the numbers of the values that go into each turn.
      alike: where equal expressions of one line stand, by text and line.
    """

    tape: Tape
    names: tuple[str, ...]
    producer: dict[int, int]
    keys: tuple[Any, ...]
    turns: tuple[int, ...]
    inner: tuple[bool, ...]
    carried: tuple[tuple[int, ...], ...] = ()
    alike: Mapping[tuple[str, str], set[Any]] = MappingProxyType({})


def read(tape: Tape, names: Sequence[str]) -> Reading:
    """Read a tape: producers, and the turns of recurrences."""
    producer = {number: index for index, step in enumerate(tape.steps) for number in step.outs}
    plain = [(_source_key(step), step.name, step.primitive.params.get("y")) for step in tape.steps]
    counts = collections.Counter(plain)
    by_source: dict[Any, list[int]] = {}
    for key, count in counts.items():
        by_source.setdefault(key[0], []).append(count)
    # In a loop every operation of an expression runs equally often; a library's function repeats only some.
    times = {source: math.gcd(*repeats) if source else 1 for source, repeats in by_source.items()}
    repeated = [count for count in times.values() if count > 1]
    num_turns = max(set(repeated), key=repeated.count) if repeated else 0
    seen: collections.Counter[Any] = collections.Counter()
    turns, keys = [], []
    for key in plain:
        in_each = counts[key] // times[key[0]]
        in_loop = num_turns > 1 and times[key[0]] > 1 and times[key[0]] % num_turns == 0
        turns.append(seen[key] * num_turns // counts[key] if in_loop else -1)
        keys.append((*key, seen[key] % in_each) if key[0] else (*key, seen[key]))
        seen[key] += 1
    kinds = collections.Counter(source for source, name, _ in counts if name not in SHAPES)
    inner = tuple(step.source.inner or kinds[step.source.key] > 2 for step in tape.steps)
    alike: dict[tuple[str, str], set[Any]] = {}
    for step in tape.steps:
        if step.active:
            alike.setdefault((step.source.text, step.source.place), set()).add(step.source.key[:1])
    reading = Reading(tape, tuple(names), producer, tuple(keys), tuple(turns), inner, alike=alike)
    return reading._replace(carried=_carried(reading))


def _source_key(step: Step) -> tuple[Any, ...]:
    """Where an operation stands; the outputs of a scan are not put together in its turns."""
    return (*step.source.key, "stack") if step.name == "stack" and step.source.key else step.source.key


def _carried(reading: Reading) -> tuple[tuple[int, ...], ...]:
    """What operations of a recurrence read that the turn before has made."""
    read: dict[Any, dict[int, int]] = {}
    seen: collections.Counter[Any] = collections.Counter()
    for index, step in enumerate(reading.tape.steps):
        turn = reading.turns[index]
        if turn < 0:
            continue
        occurrence = seen[reading.keys[index], turn]
        seen[reading.keys[index], turn] += 1
        for position, number in enumerate(step.ins):
            made = reading.turns[reading.producer[number]] if number in reading.producer else -1
            if made == turn - 1 and (turn == 0 or made >= 0):
                read.setdefault((reading.keys[index], occurrence, position), {})[turn] = number
    count = max(reading.turns, default=-1) + 1
    return tuple(
        dict.fromkeys(tuple(states[t] for t in range(count)) for states in read.values() if len(states) == count > 1)
    )


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
        return _constant(np.asarray(reading.tape.values[number]))
    index = reading.producer[number]
    step = reading.tape.steps[index]
    # What only changes the shape is not what a reader thinks of.
    if step.name in SHAPES:
        return label(reading, step.ins[0]) if step.ins else "a constant"
    if step.name == "complex" and not step.source.place:  # a complex leaf, put together of its two parts
        return label(reading, step.ins[0]).removesuffix(".real")
    text, place = step.source.text, step.source.place
    if step.name == "index" or (step.name in ROWS and text.startswith("for ")):
        return f"a row of {label(reading, step.ins[0])}"
    if step.name in ROWS and not 0 < len(text) <= MAX_TEXT:
        return f"a part of {label(reading, step.ins[0])}"
    if not text or len(text) > MAX_TEXT:
        return f"the {operation(reading, index)}{f' ({place})' if place else ''}"
    return f"the {operation(reading, index)} inside `{text}`" if _goes_on(reading, index) else f"`{text}`"


def _goes_on(reading: Reading, index: int) -> bool:
    """Whether an operation is inside a function of a library, whose value is another."""
    steps = reading.tape.steps
    key = steps[index].source.key
    return reading.inner[index] and any(
        step.source.key == key and step.name not in SHAPES and set(step.ins) & set(steps[index].outs)
        for step in steps[index + 1 : index + 1 + REACH]
    )


def _constant(value: Any) -> str:
    """A number, a few numbers, or the shape of more."""
    if value.dtype.kind not in "fiubc":
        return "a constant"
    if value.size == 1:
        return f"{np.ravel(value)[0]:.6g}"
    few = value.ndim == 1 and value.size <= 4
    return f"[{', '.join(f'{x:.6g}' for x in value)}]" if few else f"the constant of shape {value.shape}"


def turn_of(reading: Reading, number: int, index: int) -> str:
    """In which turn of a recurrence a value was computed, as seen from an operation; "" outside of one."""
    made = reading.producer.get(number)
    if made is None or reading.turns[made] == -1 or reading.turns[index] == -1:
        return ""
    return TURNS.get(reading.turns[made] - reading.turns[index], " of another turn")


def operation(reading: Reading, index: int) -> str:
    """What a reader calls an operation of the tape."""
    step = reading.tape.steps[index]
    eqn = step.primitive.eqn
    return name_of(eqn) if eqn is not None and eqn.primitive.name == step.name else step.name


def name_in_turn(reading: Reading, number: int, index: int) -> str:
    """A value as a reader of the loss knows it, and of which turn it is if an operation of another turn reads it."""
    turn = turn_of(reading, number, index)
    return label(reading, number) + (turn if turn != TURNS[0] else "")
