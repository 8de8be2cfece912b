"""Trying candidates: the backward pass under each, beside the gradient that is to be explained."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxgd.gradcheck.backward.reading import Candidate
from jaxgd.gradcheck.backward.sweep import backward, leaves
from jaxgd.gradcheck.backward.tape import Tape
from jaxgd.gradcheck.budget import UNLIMITED, Budget
from jaxgd.gradcheck.precision import precision

NUMBERS_AT_ONCE = 4_000_000
"""Entries of all cotangents of the variants that are tried at once."""


class Trial(NamedTuple):
    """How near each variant comes to a gradient; arrays `[variants, leaves]`.

    Attributes:
      misfit: the largest difference over the largest entry of the leaf.
      constant: the factor of the whole leaf with which it fits best.
      scaled: the misfit with this factor.
      share: how much of the change fits best, 1 for all of it.
      shared: the misfit with this share.
      effect: how far the change moves the leaf.
    """

    misfit: Any
    constant: Any
    scaled: Any
    share: Any
    shared: Any
    effect: Any


def real(leaf: Any) -> Any:
    """A complex leaf as real numbers, so that constants are fitted to both parts."""
    leaf = np.asarray(leaf)
    return np.stack([leaf.real, leaf.imag], -1) if leaf.dtype.kind == "c" else leaf


def trial(
    tape: Tape, candidates: Sequence[Sequence[Candidate]], hand: Sequence[Any], budget: Budget = UNLIMITED
) -> Trial:
    """Run the backward pass under each variant and compare it with a gradient.

    Args:
      tape: the loss at a point.
      candidates: for each variant, the changes that are made together.
      hand: the gradient's leaves at the point, by the first inputs of the tape.
      budget: when the rest counts as not fitting.

    Returns:
      One row for each variant.
    """
    size = sum(int(np.size(value)) for value in tape.values) + 1
    chunk = int(np.clip(NUMBERS_AT_ONCE // size, 4, 512))
    rows: list[list[Any]] = [[] for _ in Trial._fields]
    for some in _chunks(candidates, chunk):
        if not budget.left():
            for column, nothing in zip(rows, Trial(np.inf, 0.0, np.inf, 0.0, np.inf, 0.0), strict=True):
                column.append(np.full((len(some), len(hand)), nothing))
            continue
        with precision(np.float64):  # changes may evaluate operations again
            columns = [
                _compare(real(leaf), real(target))
                for leaf, target in zip(_gradients(tape, some, len(hand)), hand, strict=True)
            ]
        for column, parts in zip(rows, zip(*columns, strict=True), strict=True):
            column.append(np.stack(parts, axis=1))
    empty = np.zeros((0, len(hand)))
    return Trial(*(np.concatenate([empty, *column]) for column in rows))


def _gradients(tape: Tape, variants: Sequence[Sequence[Candidate]], count: int) -> list[Any]:
    """The gradient without a change, and under each variant: `[1 + variants, ...]` for each leaf."""
    edits = [[edit for candidate in together for edit in candidate.edits(tape)] for together in variants]
    rows = [leaf.copy() for leaf in leaves(backward(tape, edits), tape, count)]
    for number, together in enumerate(variants):
        changed = tape
        try:
            for candidate in together:
                changed = candidate.values(changed) if candidate.values else changed
        except (TypeError, ValueError):  # other values that an operation refuses explain nothing
            for leaf in rows:
                leaf[number + 1] = np.nan
            continue
        if changed is not tape:
            for leaf, row in zip(rows, leaves(backward(changed, [edits[number]]), changed, count), strict=True):
                leaf[number + 1] = row[-1]
    return rows


def _chunks(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for first in range(0, len(items), size):
        yield items[first : first + size]


def _compare(rows: Any, target: Any) -> tuple[Any, ...]:
    """One leaf of all variants; row 0 is the pass without a change."""
    top = np.max(np.abs(target), initial=0.0) + np.finfo(np.float64).tiny
    flat = rows.reshape(len(rows), -1) / top
    want = np.asarray(target).reshape(-1) / top
    variants, delta, wanted = flat[1:], flat[1:] - flat[:1], want - flat[0]

    def misfit(prediction: Any) -> Any:
        return np.max(np.abs(prediction - want), axis=1, initial=0.0)

    def ratio(parts: Any, whole: Any) -> Any:
        c = (parts @ whole) / np.sum(parts * parts, axis=1)
        return np.where(np.isfinite(c), c, 0.0)

    constant, share = ratio(variants, want), ratio(delta, wanted)
    return (
        misfit(variants),
        constant,
        misfit(constant[:, None] * variants),
        share,
        misfit(flat[0] + share[:, None] * delta),
        np.max(np.abs(delta), axis=1, initial=0.0),
    )
