"""What a constant factor comes from."""

from typing import Any

import jax
import numpy as np

from jaxgd.gradcheck.backward.record import TooLongError, record
from jaxgd.gradcheck.mistakes.study import EXACT, Study

SIMPLE = {2.0: "2", 3.0: "3", 4.0: "4", 0.5: "1/2", 0.25: "1/4", 1 / 3: "1/3"}
"""Factors that formulas have, whatever the shapes."""


def lengths(study: Study) -> dict[int, str]:
    """Lengths of axes that a sum or a mean can have run over, and whose they are."""
    found: dict[int, str] = {}
    for label, leaf in [*study.labels(), *(("an argument", leaf) for leaf in study.case.point.arrays)]:
        for axis, length in enumerate(np.shape(leaf)):
            if length > 1:
                found.setdefault(int(length), f"the length of axis {axis} of {label}")
    for label, leaf in study.labels()[: len(study.case.labels)]:
        if np.ndim(leaf) > 2:
            rows = int(np.prod(np.shape(leaf)[:-1]))
            found.setdefault(rows, f"the number of rows of {label}, over all axes but its last")
        if np.ndim(leaf) > 1:
            found.setdefault(int(np.size(leaf)), f"the number of entries of {label}")
    return found


def is_known(study: Study, c: float) -> bool:
    """Whether common mistakes make such a factor, up to its sign.

    These are the simple numbers in `SIMPLE`, the lengths of axes and counts of entries with their squares and inverses,
    and the products of one of each.

    Args:
      study: the case.
      c: the factor.

    Returns:
      The answer.
    """
    simple = np.array([1.0, *SIMPLE])
    sizes = np.array([1.0, *lengths(study)])
    powers = np.concatenate([sizes, 1 / sizes, sizes**2, sizes**-2])
    return bool(np.isclose(abs(c), np.multiply.outer(simple, powers), rtol=1e-9, atol=0).any())


def cause(study: Study, c: float, exact: float = 1e-9) -> str:
    """What leads to a constant factor.

    The factors of formulas come first. The length of an axis is named only for factors that these do not explain,
    because a small length agrees with such a factor by chance.

    Args:
      study: the case.
      c: the factor.
      exact: the relative distance at which two factors count as equal.

    Returns:
      Words, without the sign.
    """

    def equal(value: Any) -> bool:
        return bool(np.isclose(abs(c), value, rtol=exact, atol=0))

    for value, words in ((0.5, "a factor 2 is missing"), (2.0, "a factor 2 too much, or a factor 1/2 missing")):
        if equal(value):
            return words
    found = lengths(study)
    # A length on its own explains more than one with a factor 2, whichever axis comes first.
    for factor, also in ((1.0, ""), (2.0, ", and a factor 2 is too much"), (0.5, ", and a factor 2 is missing")):
        for length, whose in found.items():
            if equal(length * factor):
                return f"the sum stands for the mean, or a factor 1/{length} is missing ({length} is {whose}){also}"
            if equal(factor / length):
                return f"the mean stands for the sum, or a factor 1/{length} is too much ({length} is {whose}){also}"
        for number in (3, 4) if factor == 1 else ():
            if equal(number) or equal(1 / number):
                return f"a factor {number} is {'too much' if equal(number) else 'missing'}"
        for length, whose in found.items() if factor == 1 else ():
            if equal(1 / length**2):
                return f"a factor 1/{length}^2 is too much ({length} is {whose})"
            if length > 2 and (equal((length - 1) / length) or equal(length / (length - 1))):
                return f"{length - 1} stands for {length}, or {length} for {length - 1} ({length} is {whose})"
    for length, whose in found.items():
        count = round(abs(c) * length)
        if 1 <= count < 4 * length and equal(count / length) and length > 2:
            stands = f"{count} stood for {length} in a product, or {length} for {count} in a divisor"
            return f"a factor {count}/{length} is too much, as if {stands} ({length} is {whose})"
    scalars = [
        (label, float(np.ravel(leaf)[0]))
        for label, leaf in study.labels()[: len(study.case.labels)]
        if np.size(leaf) == 1
    ]
    for label, value in scalars:
        if abs(value) not in (0.0, 1.0):
            if equal(value):
                return f"a factor {label} is too much"
            if equal(1 / value):
                return f"a factor {label} is missing"
    return f"a constant factor {abs(c):.{10 if study.case.exact <= EXACT else 5}g} is too much"


def the_only(study: Study, leaf: int, primitives: tuple[str, ...], noun: str) -> str:
    """Where the operation stands from which a factor comes, if only one of its kind depends on a leaf.

    Args:
      study: the case.
      leaf: number of the leaf.
      primitives: names of the operation.
      noun: what it is called.

    Returns:
      A line such as "The only difference of ['w'] in the loss is `w - b` (model.py:12).", or "".
    """
    case = study.case
    if case.trace is None:
        return ""
    inputs = jax.tree.leaves(case.point)
    try:
        tape = record(case.trace(case.point), inputs, [i == leaf for i in range(len(inputs))], through=case.through)
    except (TooLongError, NotImplementedError, TypeError, ValueError):
        return ""
    places = {step.source.quote() for step in tape.steps if step.active and step.name in primitives}
    if len(places) != 1 or "" in places:
        return ""
    return f"\nThe only {noun} that depends on {study.name(leaf)} in the loss is {places.pop()}."


def times(c: float) -> str:
    """A factor before a noun: "" for 1, "-1 times ", "3 times "."""
    return "" if abs(c - 1) < 1e-9 else "-1 times " if abs(c + 1) < 1e-9 else f"{c:.6g} times "
