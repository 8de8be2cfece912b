"""Other arrays than the loss's in the backward pass: another factor, argument or mask, another turn's, no constant."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from jaxgd.gradcheck.backward.arithmetic import UNARY, evaluate
from jaxgd.gradcheck.backward.elementwise import is_activation, slope_by_value
from jaxgd.gradcheck.backward.reading import Candidate, Reading, label, turn_of
from jaxgd.gradcheck.backward.site import Change, Site
from jaxgd.gradcheck.backward.sweep import Edge
from jaxgd.gradcheck.backward.tape import Step, Tape, rerun
from jaxgd.gradcheck.finding import Kind

MAX_OTHERS = 12
"""Other arrays of a shape that are tried in place of the right one."""

MAX_INPUTS = 4
"""Inputs of the program of that shape that are tried however far away they are read."""

MAX_VALUES = 40
"""Candidates of each kind that change values, each of which costs a run of the program."""

BY_VALUE: dict[str, Callable[[Any], Any]] = {"exp": lambda y: y, "sqrt": lambda y: 0.5 / y}
"""Further functions whose derivatives people write as formulas of their values."""


def other_arrays(reading: Reading, index: int) -> Iterator[tuple[Edge, Change]]:
    """Masks, factors of products and arguments of functions that are another array of the shape."""
    tape, step = reading.tape, reading.tape.steps[index]
    if step.name in ("max", "min", "select_n"):
        position = next((j for j, i in enumerate(step.ins) if tape.active[i]), 0)
        for number, name in _alike(reading, tape.values[step.outs[0]].shape, index, (*step.ins, *step.outs)):
            for inside, words in ((True, "the sign of"), (False, "the opposite of the sign of")):
                words = f"the mask of {{f}} is taken from {words} another array, {name}"
                send = functools.partial(_masked_by, number=number, inside=inside)
                yield Edge(index, position), Change(Kind.MASK, words, send)
    if step.name in ("dot_general", "mul") and step.ins[0] != step.ins[1]:
        noun = "matrix product" if step.name == "dot_general" else "product"
        for position in (0, 1):
            if tape.active[step.ins[position]]:
                used = step.ins[1 - position]
                for number, name in _alike(reading, tape.values[used].shape, index, (used, step.outs[0])):
                    words = f"in the {noun} {{f}}, {name} stands in place of {{other}}"
                    send = functools.partial(_multiplied_by, number=number)
                    yield Edge(index, position), Change(Kind.OPERAND, words, send)
    if step.name in UNARY:
        yield from other_values(reading, Edge(index, 0), BY_VALUE.get(step.name))
    if step.name in UNARY and step.name not in ("neg", "abs", "sign", "copy", "stop_gradient"):
        for number, name in _alike(reading, tape.values[step.outs[0]].shape, index, (*step.ins, *step.outs)):
            words = f"the derivative of {{f}} is taken at {name}, not at its argument"
            yield Edge(index, 0), Change(Kind.OPERAND, words, functools.partial(_slope_at, number=number))


def other_values(
    reading: Reading, edge: Edge, slope: Callable[[Any], Any] | None = None
) -> Iterator[tuple[Edge, Change]]:
    """Another array in place of the value of a function whose derivative people write as a formula of its value."""
    site = Site(reading.tape, edge)
    slope = slope or slope_by_value(site)
    if site.is_group and is_activation(site):
        for number, name in _alike(reading, site.x.shape, edge.step, (site.number, *site.step.outs)):
            words = f"the derivative of {{f}} is taken at {name}, not at its argument"
            yield edge, Change(Kind.OPERAND, words, functools.partial(_slope_at, number=number))
    if slope is None:
        return
    for number, name in _alike(reading, site.y.shape, edge.step, (site.number, *site.step.outs)):
        words = f"the derivative of {{f}}, a formula of its value, is taken of {name} in place of its value"
        yield edge, Change(Kind.OPERAND, words, functools.partial(_slope_of, number=number, slope=slope))


def _masked_by(site: Site, ahead: Any, right: Any, number: int, inside: bool) -> Any:
    mask = site.tape.values[number] > 0
    return np.where(mask == inside, ahead, 0).astype(right.dtype)


def _multiplied_by(site: Site, ahead: Any, right: Any, number: int) -> Any:
    del right
    values = site.values
    values[1 - site.edge.position] = site.tape.values[number]
    return site.back_with(values, ahead)


def _slope_at(site: Site, ahead: Any, right: Any, number: int) -> Any:
    del right
    return ahead * site.rerun(site.tape.values[number])[1]


def _slope_of(site: Site, ahead: Any, right: Any, number: int, slope: Callable[[Any], Any]) -> Any:
    del right
    return ahead * slope(site.tape.values[number])


def _alike(reading: Reading, shape: tuple[int, ...], index: int, but: Sequence[int]) -> Iterator[tuple[int, str]]:
    """Floating values of a shape and their names, the nearest to an operation first."""
    tape, turn = reading.tape, reading.turns[index]
    if not shape:
        return
    # What is carried into the first turn is not made by a turn, but has the same name as in the others.
    states = {state[turn]: state[-1] for state in reading.carried if turn >= 0}
    fitting = [
        i
        for i, value in enumerate(tape.values)
        if np.shape(value) == shape and value.dtype.kind == "f" and i not in but
    ]
    inputs = [i for i in fitting if i < len(reading.names)][:MAX_INPUTS]
    nearest = sorted(fitting, key=lambda i: (i not in states, abs(reading.producer.get(i, 0) - index)))[:MAX_OTHERS]
    for i in dict.fromkeys([*nearest, *inputs]):
        turns = " of the turn before" if i in states else turn_of(reading, i, index)
        yield i, _escaped(f"{label(reading, states.get(i, i))}{turns}")


def _escaped(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


def constants(reading: Reading) -> Iterator[Candidate]:
    """A constant of a sum or difference that the backward pass, which computes the values once more, leaves out."""
    tape = reading.tape
    found: dict[Any, dict[int, int]] = {}
    for index, step in enumerate(tape.steps):
        if step.name not in ("add", "sub") or not step.active or (step.name == "sub" and tape.active[step.ins[1]]):
            continue
        kept, left_out = step.ins if tape.active[step.ins[0]] else step.ins[::-1]
        value = tape.values[left_out]
        alike = np.shape(tape.values[kept]) == np.shape(tape.values[step.outs[0]])
        number = value.dtype.kind == "f" and np.size(value) and np.all(value == np.ravel(value)[0])
        if alike and number and _is_literal(reading, left_out):
            found.setdefault((reading.keys[index], float(np.ravel(value)[0])), {})[step.outs[0]] = kept
    for (_, value), outs in list(found.items())[:MAX_VALUES]:
        if value:
            quoted = tape.steps[reading.producer[next(iter(outs))]].source.quote()
            words = f"the constant {value:.6g} of {quoted or 'a sum'} is left out in the backward pass"
            yield Candidate(Kind.DERIVATIVE, words, (), values=functools.partial(_replaced, outs=outs))


def _is_literal(reading: Reading, number: int) -> bool:
    """Whether a value is a number in the code, or a broadcast of one."""
    while number in reading.producer:
        step = reading.tape.steps[reading.producer[number]]
        if step.name not in ("broadcast_in_dim", "convert_element_type") or not step.ins:
            return False
        number = step.ins[0]
    return number >= len(reading.names) and np.size(reading.tape.values[number]) == 1


def _replaced(tape: Tape, outs: dict[int, int]) -> Tape:
    return rerun(tape, {out: tape.values[kept] for out, kept in outs.items()})


def other_inputs(reading: Reading) -> Iterator[Candidate]:
    """An input in place of another one in a sum or a difference."""
    tape, count = reading.tape, 0
    for index, step in enumerate(tape.steps):
        if step.name not in ("add", "sub") or not step.active:
            continue
        for position, number in enumerate(step.ins):
            shape = np.shape(tape.values[number])
            for other in range(len(reading.names)):
                value = tape.values[other]
                fits = number < len(reading.names) and other not in step.ins and np.shape(value) == shape
                if fits and value.dtype.kind == "f" and count < MAX_VALUES:
                    count += 1
                    quoted = step.source.quote() or f"the {step.name}"
                    instead = f"{reading.names[other]} stands in place of {reading.names[number]}"
                    words = f"in {quoted}, {instead} in the backward pass"
                    values = functools.partial(_with_other_input, index=index, position=position, other=other)
                    yield Candidate(Kind.OPERAND, words, (), values=values)


def _with_other_input(tape: Tape, index: int, position: int, other: int) -> Tape:
    step = tape.steps[index]
    values = [tape.values[i] for i in step.ins]
    values[position] = tape.values[other]
    return _with_inputs(tape, step, values)


TERMS: tuple[tuple[str, float], ...] = (("is left out", 0.0), ("is taken twice", 2.0), ("has the other sign", -1.0))
"""What is done to one of the two inputs of a sum or a difference, and the number of times that it then counts."""

MAX_TERMS = 12
"""Sums and differences whose inputs are changed, the last of the program first."""


def other_sums(reading: Reading) -> Iterator[Candidate]:
    """An input that counts differently in the value of a sum or difference of which the backward pass is made."""
    tape, found = reading.tape, 0
    for index in range(len(tape.steps) - 1, -1, -1):
        step = tape.steps[index]
        if step.name not in ("add", "sub") or not step.active or reading.inner[index] or reading.turns[index] >= 0:
            continue
        found += 1
        for position in (0, 1) if found <= MAX_TERMS else ():
            for words, times in TERMS:
                name = label(reading, step.ins[position])
                said = f"in the value of {step.source.quote()}, of which the backward pass is made, {name} {words}"
                values = functools.partial(_with_times, index=index, position=position, times=times)
                yield Candidate(Kind.OPERAND, said, (), values=values)


def _with_times(tape: Tape, index: int, position: int, times: float) -> Tape:
    step = tape.steps[index]
    values = [tape.values[i] for i in step.ins]
    values[position] = times * values[position]
    return _with_inputs(tape, step, values)


def _with_inputs(tape: Tape, step: Step, values: list[Any]) -> Tape:
    """The tape with the value that an operation has of other inputs, and everything that follows from it."""
    return rerun(tape, {step.outs[0]: evaluate(step.primitive, values)[0]})


READ = ("index", "slice", "dynamic_slice", "gather", "squeeze")
"""Operations that read one row of an input of a recurrence."""

TAKEN: tuple[tuple[str, Callable[[int, int], int]], ...] = (
    ("the first turn", lambda turn, last: 0),
    ("the last turn", lambda turn, last: last),
    ("the next turn", lambda turn, last: min(turn + 1, last)),
    ("the turn before", lambda turn, last: max(turn - 1, 0)),
)
"""Of which turn a row is read in place of a turn's own."""


def other_turns(reading: Reading) -> Iterator[Candidate]:
    """The row of an input that another turn of a recurrence reads, in every turn."""
    tape = reading.tape
    by_input: dict[int, dict[Any, dict[int, int]]] = {}
    for index, step in enumerate(tape.steps):
        if step.name in READ and reading.turns[index] >= 0 and not step.active and step.ins[0] < len(reading.names):
            of_input = by_input.setdefault(step.ins[0], {})
            of_input.setdefault(reading.keys[index], {})[reading.turns[index]] = step.outs[0]
        elif step.name == "unstack" and not step.active and step.ins[0] < len(reading.names):
            # A loop over an array, in newer versions of JAX: one operation reads the rows of all turns.
            by_input.setdefault(step.ins[0], {})[reading.keys[index]] = dict(enumerate(step.outs))
    turns = max(reading.turns, default=-1) + 1
    for number, reads in list(by_input.items())[: MAX_VALUES // len(TAKEN)]:
        whole = [rows for rows in reads.values() if len(rows) == turns > 1]
        for words, other in TAKEN if whole else ():
            from_other = {rows[turn]: rows[other(turn, turns - 1)] for rows in whole for turn in rows}
            said = f"the row of {reading.names[number]} for {words} stands in each turn of the backward pass"
            yield Candidate(Kind.OPERAND, said, (), values=functools.partial(_with_rows, rows=from_other))


def _with_rows(tape: Tape, rows: dict[int, int]) -> Tape:
    """The tape with other rows, and what follows from them without the parameters: the states stay as they are."""
    return rerun(tape, {row: tape.values[other] for row, other in rows.items()}, _is_still)


def _is_still(step: Step) -> bool:
    return not step.active
