"""Changes that are more than one edge: carried states, conditions, factors, masks, other arrays."""

import collections
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from jaxgd.gradcheck.backward.arithmetic import evaluate
from jaxgd.gradcheck.backward.reading import Candidate, Reading, label
from jaxgd.gradcheck.backward.site import Change, Site
from jaxgd.gradcheck.backward.sweep import FIRST_OUTPUT, Edge
from jaxgd.gradcheck.backward.tape import Tape, rerun
from jaxgd.gradcheck.report import Kind

MAX_OTHERS = 12
"""Other arrays of a shape that are tried in place of the right one."""


def other_arrays(reading: Reading, index: int) -> Iterator[tuple[Edge, Change]]:
    """Masks and factors of matrix products that are taken from another array of the shape."""
    tape, step = reading.tape, reading.tape.steps[index]
    if step.name in ("max", "min", "select_n", "abs"):
        position = next((j for j, i in enumerate(step.ins) if tape.active[i]), 0)
        shape = tape.values[step.outs[0]].shape
        for number in _alike(reading, shape, index, (*step.ins, *step.outs)):
            where = label(reading, number)
            for inside, words in ((True, "the sign of"), (False, "the opposite of the sign of")):
                yield (
                    Edge(index, position),
                    Change(
                        Kind.MASK,
                        f"the mask of {{f}} is taken from {words} another array, {_escaped(where)}",
                        functools.partial(_masked_by, number=number, inside=inside),
                    ),
                )
    if step.name in ("dot_general", "mul") and step.ins[0] != step.ins[1]:
        noun = "matrix product" if step.name == "dot_general" else "product"
        for position in (0, 1):
            if tape.active[step.ins[position]]:
                used = step.ins[1 - position]
                for number in _alike(reading, tape.values[used].shape, index, (used, step.outs[0])):
                    name = f"{_escaped(label(reading, number))}{_turn(reading, number, index)}"
                    yield (
                        Edge(index, position),
                        Change(
                            Kind.OPERAND,
                            f"in the {noun} {{f}}, {name} stands in place of {{other}}",
                            functools.partial(_multiplied_by, number=number),
                        ),
                    )


TURNS = {0: " of the same turn", 1: " of the next turn", -1: " of the turn before"}
"""Turns of a recurrence, by their distance."""


def _turn(reading: Reading, number: int, index: int) -> str:
    """In which turn of a recurrence a value was computed, as seen from an operation."""
    made = reading.producer.get(number)
    if made is None or reading.turns[made] == -1 or reading.turns[index] == -1:
        return ""
    return TURNS.get(reading.turns[made] - reading.turns[index], " of another turn")


def _escaped(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


def _masked_by(site: Site, ahead: Any, right: Any, number: int, inside: bool) -> Any:
    mask = site.tape.values[number] > 0
    return np.where(mask == inside, ahead, 0).astype(right.dtype)


def _multiplied_by(site: Site, ahead: Any, right: Any, number: int) -> Any:
    del right
    values = site.values
    values[1 - site.edge.position] = site.tape.values[number]
    return site.back_with(values, ahead)


def _alike(reading: Reading, shape: tuple[int, ...], index: int, but: Sequence[int]) -> list[int]:
    """Floating values of a shape, the nearest to an operation first."""
    tape = reading.tape
    if not shape:
        return []
    fitting = [
        i
        for i, value in enumerate(tape.values)
        if np.shape(value) == shape and value.dtype.kind == "f" and i not in but
    ]
    return sorted(fitting, key=lambda i: abs(reading.producer.get(i, 0) - index))[:MAX_OTHERS]


def _cut(site: Site, ahead: Any, right: Any) -> Any:
    del site, ahead
    return np.zeros_like(right)


CUT = Change(Kind.PATH, "the path from {f} to {x} is left out", _cut)


def carries(reading: Reading) -> Iterator[Candidate]:
    """What a recurrence carries from one turn to the next, cut: each state, all of them, and all but running sums."""
    tape = reading.tape
    by_state: dict[Any, list[tuple[Edge, Change]]] = collections.defaultdict(list)
    running: set[Any] = set()
    for index, step in enumerate(tape.steps):
        for position, number in enumerate(step.ins):
            made = reading.producer.get(number)
            if not step.active or not tape.active[number] or made is None:
                continue
            if 0 <= reading.turns[made] < reading.turns[index]:
                key = reading.keys[made]
                by_state[key].append((Edge(index, position), CUT))
                if step.name in ("add", "sub", "add_any") and key == reading.keys[index]:
                    running.add(key)
    states = [key for key in by_state if key not in running]
    turns = max(reading.turns, default=-1) + 1

    def named(key: Any) -> str:
        edge, _ = by_state[key][0]
        number = tape.steps[edge.step].ins[edge.position]
        place = tape.steps[reading.producer[number]].source.place
        return f"{label(reading, number)}{f' ({place})' if place else ''}"

    for key in states:
        words = (
            f"the gradient of the state {named(key)} is not passed on to the turn before, in each of the {turns} turns"
        )
        yield Candidate(Kind.PATH, words, tuple(by_state[key]))
    if len(states) > 1:
        words = (
            f"the gradients of the states {', '.join(named(key) for key in states)} are not passed on to the turn "
            f"before, in each of the {turns} turns"
        )
        yield Candidate(Kind.PATH, words, tuple(spot for key in states for spot in by_state[key]))


def moved_factors(reading: Reading) -> Iterator[Candidate]:
    """A factor of a matrix product that has already been updated when the other factor's gradient is taken."""
    tape = reading.tape
    for index, step in enumerate(tape.steps):
        if step.name != "dot_general" or not step.active:
            continue
        for position in (0, 1):
            number, used = step.ins[position], step.ins[1 - position]
            if tape.active[number] and tape.active[used] and used < len(reading.names):
                name = label(reading, used)
                words = f"in the matrix product {step.source.quote()}, {name} has already been updated"
                change = Change(Kind.STALE, words, functools.partial(_multiplied_by_moved, number=used))
                yield Candidate(Kind.STALE, words, ((Edge(index, position), change),), "rate")


def _multiplied_by_moved(site: Site, ahead: Any, right: Any, number: int) -> Any:
    if number >= len(site.tape.grads):
        return right
    values = site.values
    values[1 - site.edge.position] = site.tape.values[number] - site.tape.grads[number]
    return site.back_with(values, ahead)


OUTPUTS = {"eigh": ("eigenvectors", "eigenvalues"), "svd": ("singular values", "left singular vectors",
           "right singular vectors"), "qr": ("orthogonal factor", "triangular factor")}  # fmt: skip
"""What the outputs of an operation with several are called."""


def outputs(reading: Reading) -> Iterator[Candidate]:
    """One output of an operation with several, whose gradient is left out."""
    for index, step in enumerate(reading.tape.steps):
        if len(step.outs) > 1 and step.active:
            for output, number in enumerate(step.outs):
                if reading.tape.active[number]:
                    names = OUTPUTS.get(step.name, ())
                    name = names[output] if output < len(names) else f"output {output}"
                    words = f"the path through the {name} of {step.source.quote() or step.name} is left out"
                    yield Candidate(Kind.PATH, words, ((Edge(index, FIRST_OUTPUT - output), CUT),))


PRODUCTS = ("mul", "broadcast_in_dim", "reshape", "transpose", "squeeze", "expand_dims", "convert_element_type")


def factors(reading: Reading) -> Iterator[Candidate]:
    """An input that is left out of a whole product in the backward pass, but not in the values that follow it."""
    tape = reading.tape
    spread: dict[int, int] = {}
    for step in tape.steps:
        if step.name in PRODUCTS[1:] and step.ins and (step.ins[0] < len(reading.names) or step.ins[0] in spread):
            spread[step.outs[0]] = spread.get(step.ins[0], step.ins[0])
    seen = set()
    for step in tape.steps:
        if step.name != "mul" or not step.active:
            continue
        for number in step.ins:
            origin = spread.get(number, number)
            if origin < len(reading.names) and (origin, number) not in seen:
                seen.add((origin, number))
                words = f"in the product {step.source.quote()}, the factor {label(reading, origin)} is left out"
                values = functools.partial(_as_one, number=number)
                yield Candidate(Kind.DERIVATIVE, words, (), values=values)


def _as_one(tape: Tape, number: int) -> Tape:
    return rerun(tape, {number: np.ones_like(tape.values[number])}, PRODUCTS)


def bypassed(reading: Reading) -> Iterator[Candidate]:
    """A mask that the values have and the backward pass, which computes them once more, does not."""
    tape = reading.tape
    for step in tape.steps:
        if step.name == "select_n" and step.active and len(step.ins) == 3 and not step.source.inner:
            for position in (1, 2):
                if tape.active[step.ins[position]]:
                    words = f"the values of {step.source.quote()} are taken without the mask in the backward pass"
                    values = functools.partial(_without_mask, number=step.outs[0], taken=step.ins[position])
                    yield Candidate(Kind.MASK, words, (), values=values)


def _without_mask(tape: Tape, number: int, taken: int) -> Tape:
    return rerun(tape, {number: np.broadcast_to(tape.values[taken], tape.values[number].shape)})


def conditions(reading: Reading) -> Iterator[Candidate]:
    """The condition of a `where`, evaluated differently."""
    tape = reading.tape
    for index, step in enumerate(tape.steps):
        if step.name != "select_n" or not step.active or len(step.ins) != 3 or step.source.inner:
            continue
        made = reading.producer.get(step.ins[0])
        options: list[tuple[str, Callable[[Tape], Any]]] = [
            ("is inverted", functools.partial(_condition, number=step.ins[0], form=np.logical_not))
        ]
        while made is not None and tape.steps[made].name in ("broadcast_in_dim", "reshape") and tape.steps[made].ins:
            made = reading.producer.get(tape.steps[made].ins[0])
        if made is not None:
            options += _other_conditions(reading, made, step.ins[0])
        quoted = step.source.quote() or "a where"
        for words, condition in options:
            spots = tuple(
                (Edge(index, position), Change(Kind.MASK, words, functools.partial(_selected, condition=condition)))
                for position in (1, 2)
                if tape.active[step.ins[position]]
            )
            yield Candidate(Kind.MASK, f"the condition of {quoted} {words} in the backward pass", spots)


def _condition(tape: Tape, number: int, form: Callable[[Any], Any]) -> Any:
    return form(tape.values[number])


def _other_conditions(reading: Reading, made: int, number: int) -> list[tuple[str, Callable[[Tape], Any]]]:
    """Ways in which a comparison is got wrong."""
    tape, step = reading.tape, reading.tape.steps[made]
    shape = tape.values[number].shape
    options: list[tuple[str, Callable[[Tape], Any]]] = []
    if step.name in ("lt", "le", "gt", "ge"):
        for position in (0, 1):
            above = reading.producer.get(step.ins[position])
            if above is not None and tape.steps[above].name in ("abs", "square", "integer_pow"):
                signed = tape.steps[above].ins[0]
                words = (
                    f"compares {label(reading, signed)} with its sign, where its absolute value is meant"
                    if tape.steps[above].name == "abs"
                    else f"compares {label(reading, signed)}, where its power is meant"
                )
                options.append((words, functools.partial(_compared, made=made, position=position, other=signed)))
        options.append(("compares with 0", functools.partial(_compared, made=made, position=1, other=-1)))
    if step.name in ("and", "or"):
        for position in (0, 1):
            words = f"lacks one of its two parts, {label(reading, step.ins[1 - position])}"
            options.append((words, functools.partial(_condition, number=step.ins[position], form=np.asarray)))
    return [(words, functools.partial(_shaped, condition=condition, shape=shape)) for words, condition in options]


def _shaped(tape: Tape, condition: Callable[[Tape], Any], shape: tuple[int, ...]) -> Any:
    value = condition(tape)
    return np.broadcast_to(value.reshape(shape) if value.size == int(np.prod(shape)) else value, shape)


def _compared(tape: Tape, made: int, position: int, other: int) -> Any:
    step = tape.steps[made]
    values = [tape.values[i] for i in step.ins]
    values[position] = np.zeros_like(values[position]) if other == -1 else tape.values[other]
    return evaluate(step.primitive, values)[0]


def _selected(site: Site, ahead: Any, right: Any, condition: Callable[[Tape], Any]) -> Any:
    which = condition(site.tape)
    taken = np.where(which == bool(site.edge.position - 1), ahead, 0)
    return taken if taken.shape == right.shape else taken.sum(tuple(range(1, taken.ndim)))
