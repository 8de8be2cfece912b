"""The conditions and bounds of a loss, evaluated differently or left out in its backward pass."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from jaxgd.gradcheck.backward.arithmetic import evaluate
from jaxgd.gradcheck.backward.reading import Candidate, Reading, label
from jaxgd.gradcheck.backward.site import Change, Site
from jaxgd.gradcheck.backward.sweep import Edge
from jaxgd.gradcheck.backward.tape import Tape, rerun
from jaxgd.gradcheck.finding import Kind


def bypassed(reading: Reading) -> Iterator[Candidate]:
    """A mask that the values have and the backward pass, which computes them once more, does not."""
    tape = reading.tape
    for index, step in enumerate(tape.steps):
        if step.name == "select_n" and step.active and len(step.ins) == 3 and not reading.inner[index]:
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
        if step.name != "select_n" or not step.active or len(step.ins) != 3 or reading.inner[index]:
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
