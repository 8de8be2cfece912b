"""Things exchanged in the backward pass: axes of a factor, inputs, the factors of a product that does not commute."""

import functools
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxgd.gradcheck.backward.groups import PRODUCTS
from jaxgd.gradcheck.backward.reading import Candidate, Reading, label, name_in_turn
from jaxgd.gradcheck.backward.site import Change, Site
from jaxgd.gradcheck.backward.sweep import Edge, between, region
from jaxgd.gradcheck.backward.tape import Tape, rerun
from jaxgd.gradcheck.finding import Kind

MAX_PAIRS = 12
"""Pairs of inputs that are exchanged."""

MAX_PRODUCT = 200
"""Operations of a product that the user has written out in components."""

MAX_LENGTH = 16
"""Components of its factors."""


def exchanged_axes(reading: Reading) -> Iterator[Candidate]:
    """Two axes of an operand of jnp.einsum, exchanged in the gradient by another operand."""
    tape = reading.tape
    of_source: dict[Any, list[int]] = {}
    for index, step in enumerate(tape.steps):
        if "einsum(" in step.source.text:
            of_source.setdefault(step.source.key, []).append(index)
    for steps in of_source.values():
        last, made = steps[-1], {number for index in steps for number in tape.steps[index].outs}
        operands = dict.fromkeys(n for index in steps for n in tape.steps[index].ins if n not in made)
        for target, other in itertools.permutations(operands, 2):
            lengths = np.shape(tape.values[other])
            alike = [(i, j) for i, j in itertools.combinations(range(len(lengths)), 2) if lengths[i] == lengths[j] > 1]
            through = _way(reading, target, last) if alike and tape.active[target] else ()
            for axes in alike if through else ():
                words = (
                    f"in the gradient of {tape.steps[last].source.quote()} by {label(reading, target)}, the axes "
                    f"{axes[0]} and {axes[1]} of {label(reading, other)} are exchanged"
                )
                send = functools.partial(_with_axes, other=other, axes=axes)
                edge = Edge(last, -2, target, through)
                yield Candidate(Kind.TRANSPOSED, words, ((edge, Change(Kind.TRANSPOSED, words, send)),))


def _way(reading: Reading, target: int, last: int) -> tuple[int, ...]:
    """The operations from a value to the first output of an operation."""
    first = reading.producer.get(target, -1) + 1
    return tuple(region(reading.tape, target, reading.tape.steps[last].outs[0], first, last))


def _with_axes(site: Site, ahead: Any, right: Any, other: int, axes: tuple[int, int]) -> Any:
    del right
    moved = rerun(site.tape, {other: np.swapaxes(site.tape.values[other], *axes)})
    return between(moved, site.edge.target, site.step.outs[0], ahead, site.edge.through)


def exchanged_inputs(reading: Reading) -> Iterator[Candidate]:
    """Two inputs that are exchanged in the local derivatives, but not in the values."""
    values = reading.tape.values
    alike = (
        (i, j)
        for i, j in itertools.combinations(range(len(reading.names)), 2)
        if np.shape(values[i]) == np.shape(values[j]) and values[i].dtype.kind == values[j].dtype.kind == "f"
    )
    for i, j in itertools.islice(alike, MAX_PAIRS):
        words = (
            f"{reading.names[i]} and {reading.names[j]} are exchanged in the local derivatives of the backward pass, "
            "and not in the values of the forward pass"
        )
        yield Candidate(Kind.OPERAND, words, (), values=functools.partial(_exchanged, i=i, j=j))


def _exchanged(tape: Tape, i: int, j: int) -> Tape:
    """The tape with the values of two inputs exchanged, and of what only spreads them over an array."""
    return rerun(tape, {i: tape.values[j], j: tape.values[i]}, lambda step: step.name in PRODUCTS[1:])


def exchanged_factors(reading: Reading) -> Iterator[Candidate]:
    """The two factors of a product that is written out in components, such as that of quaternions, exchanged."""
    tape = reading.tape
    params = [i for i in range(len(reading.names)) if tape.active[i] and 1 < tape.values[i].size <= MAX_LENGTH]
    pairs = ((i, j) for i, j in itertools.combinations(params, 2) if tape.values[i].shape == tape.values[j].shape)
    for pair in itertools.islice(pairs, MAX_PAIRS):
        last = _product_of(reading, *pair)
        for target, other in (pair, pair[::-1]) if last is not None else ():
            name = tape.steps[last].source.quote() or label(reading, tape.steps[last].outs[0])
            words = (
                f"in the gradient of the product {name} by {name_in_turn(reading, target, last)}, the two factors are "
                "in the wrong order: this product does not commute"
            )
            edge = Edge(last, -2, target, _way(reading, target, last))
            send = functools.partial(_in_other_order, other=other, through=_way(reading, other, last))
            yield Candidate(Kind.ORDER, words, ((edge, Change(Kind.ORDER, words, send)),))


def _product_of(reading: Reading, i: int, j: int) -> Any:
    """The first operation whose value is a product of two inputs, of their shape and linear in each of them."""
    tape = reading.tape
    for index, step in enumerate(tape.steps):
        out = step.outs[0]
        if step.name == "mul" or not step.active or tape.values[out].shape != tape.values[i].shape:
            continue
        sizes = [len(_way(reading, number, index)) for number in (i, j)]
        if not all(sizes) or max(sizes) > MAX_PRODUCT:
            continue
        # Twice one of the factors makes twice the product.
        doubled = (rerun(tape, {number: 2 * tape.values[number]}).values[out] for number in (i, j))
        return index if all(np.allclose(value, 2 * tape.values[out], rtol=1e-12) for value in doubled) else None
    return None


def _in_other_order(site: Site, ahead: Any, right: Any, other: int, through: tuple[int, ...]) -> Any:
    del right
    target = site.edge.target
    moved = rerun(site.tape, {target: site.tape.values[other], other: site.tape.values[target]})
    return between(moved, other, site.step.outs[0], ahead, through)
