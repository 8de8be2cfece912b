"""The backward pass of the loss at every place, and the changes of it that are tried."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxgd.gradcheck.backward.candidates import candidates
from jaxgd.gradcheck.backward.reading import Candidate, Reading, read
from jaxgd.gradcheck.backward.record import TooLongError, record
from jaxgd.gradcheck.backward.sweep import backward, leaves
from jaxgd.gradcheck.backward.tape import Tape
from jaxgd.gradcheck.backward.trial import real
from jaxgd.gradcheck.finding import Kind
from jaxgd.gradcheck.inputs import Point
from jaxgd.gradcheck.mistakes.study import Case, Place, size
from jaxgd.gradcheck.precision import precision

WHOLE = Candidate(Kind.FACTOR, "", ())
"""No change: what is left is a factor of the whole gradient."""


class Passes(NamedTuple):
    """The backward pass of the loss at every place.

    Attributes:
      tapes: one for each place, of the same operations.
      reading: of the first.
      candidates: what is tried.
      rules: whether functions with a custom_jvp are one operation.
      scalars: powers of the scalars of the loss, and their values at every place.
    """

    tapes: list[Tape]
    reading: Reading
    candidates: list[Candidate]
    rules: bool
    scalars: tuple[list[tuple[int, int]], Any]


def passes(case: Case, places: Sequence[Place]) -> Passes | None:
    """Make the backward pass of a loss from a trace of it.

    Args:
      case: the wrong gradient.
      places: the points at which both gradients are known.

    Returns:
      The passes; None if the loss cannot be traced, if its operations differ from place to place, or if its backward
      pass does not give the right gradient.
    """
    if case.trace is None:
        return None
    program = case.trace(case.point)
    for rules in (False, True):
        try:
            tapes = [tape_of(case, program, place.point, rules) for place in places]
            good = all(_is_right(tape, place) for tape, place in zip(tapes, places, strict=True))
        except (TooLongError, NotImplementedError, TypeError, ValueError):
            continue
        if good and len({tuple(step.name for step in tape.steps) for tape in tapes}) == 1:
            reading = read(tapes[0], _names(case))
            tapes = [tape._replace(grads=tuple(place.hand)) for tape, place in zip(tapes, places, strict=True)]
            with precision(np.float64):  # whether a change applies may be asked of values at other inputs
                tried = [WHOLE, *candidates(reading)]
            return Passes(tapes, reading, tried, rules, scalars(tapes))
    return None


def _names(case: Case) -> tuple[str, ...]:
    arrays = [f"array argument {i}" for i in range(len(case.point.arrays))]
    return (*(name or "params" for name in case.names), *case.labels, *arrays)


def tape_of(case: Case, program: Any, point: Point, rules: bool) -> Tape:
    """The loss run at a point."""
    inputs = jax.tree.leaves(point)
    active = [i < len(point.params) for i in range(len(inputs))]
    return record(program, inputs, active, through=case.through, rules=rules)


def _is_right(tape: Tape, place: Place) -> bool:
    found = leaves(backward(tape), tape, len(place.right))
    return all(
        size(real(rows[0]) - real(right)) <= 1e-9 * size(right) + 1e-300
        for rows, right in zip(found, place.right, strict=False)
    )


def scalars(tapes: Sequence[Tape]) -> tuple[list[tuple[int, int]], Any]:
    """Powers of the scalars of a loss that change from place to place: which they are, and `[powers, places]`."""
    first, powers, rows = tapes[0].values, [], [np.empty((0, len(tapes)))]
    for number, value in enumerate(first):
        if np.size(value) != 1 or value.dtype.kind != "f":
            continue
        scalar = np.array([float(np.ravel(tape.values[number])[0]) for tape in tapes])
        with np.errstate(all="ignore"):
            of_power = {power: scalar ** float(power) for power in (1, 2, -1, -2)}
        if len(set(scalar.tolist())) > 1 and np.isfinite(of_power[-2]).all():
            powers += [(number, power) for power in of_power]
            rows += [row[None] for row in of_power.values()]
    return powers, np.concatenate(rows)
