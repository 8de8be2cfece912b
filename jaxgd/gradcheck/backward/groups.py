"""Changes that are more than one edge: carried states, moved factors, outputs, factors of whole products."""

import collections
import functools
from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxgd.gradcheck.backward.reading import Candidate, Reading, label
from jaxgd.gradcheck.backward.site import Change, Site
from jaxgd.gradcheck.backward.sweep import FIRST_OUTPUT, Edge
from jaxgd.gradcheck.backward.tape import Tape, rerun
from jaxgd.gradcheck.finding import Kind


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
    return rerun(tape, {number: np.ones_like(tape.values[number])}, lambda step: step.name in PRODUCTS)
