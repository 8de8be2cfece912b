"""A function of the right gradient: clipped, normalised, rounded, or right in some entries only."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxgd.gradcheck.finding import Kind
from jaxgd.gradcheck.mistakes.study import Explanation, Place, Study, best_constant, size
from jaxgd.gradcheck.where import where


def _norm(leaves: list[Any]) -> Any:
    return np.sqrt(sum(np.sum(np.abs(leaf) ** 2) for leaf in leaves))


def _clipped(place: Place, leaf: int) -> Any:
    top = size(place.hand[leaf])
    return np.clip(place.right[leaf], -top, top)


def _everywhere(leaf: Any, reduce: Callable[[Any], Any]) -> Any:
    return np.full_like(leaf, reduce(leaf))


FUNCTIONS: tuple[tuple[str, Callable[[Place, int], Any]], ...] = (
    ("is the absolute value of the gradient: the signs are lost.", lambda p, i: np.abs(p.right[i])),
    ("is only the sign of the gradient.", lambda p, i: np.sign(p.right[i])),
    ("is the square of the gradient, entry by entry.", lambda p, i: p.right[i] ** 2),
    ("is the gradient divided by its norm.", lambda p, i: p.right[i] / _norm([p.right[i]])),
    ("is the gradient divided by the norm of all leaves.", lambda p, i: p.right[i] / _norm(p.right)),
    ("is the gradient with every entry clipped to a largest size.", _clipped),
    (
        "is the sum of the gradient over all entries, in each entry.",
        lambda p, i: np.full_like(p.right[i], p.right[i].sum()),
    ),
    (
        "is the mean of the gradient over all entries, in each entry.",
        lambda p, i: np.full_like(p.right[i], p.right[i].mean()),
    ),
    ("is the positive part of the gradient.", lambda p, i: np.maximum(p.right[i], 0)),
)
"""Functions of the gradient that are returned in its place."""


def cut_down(study: Study, leaf: int) -> Explanation | None:
    """Clipped, normalised, absolute."""
    if study.case.hand[leaf].size < 2 or np.iscomplexobj(study.case.hand[leaf]):
        return None
    for words, form in FUNCTIONS:
        if study.fits(leaf, lambda place, form=form: form(place, leaf)):  # type: ignore[misc]
            return Explanation(Kind.CLIPPED, words)
    return None


def rounded(study: Study, leaf: int) -> Explanation | None:
    """The right gradient, rounded to a narrower dtype: equal to it bit for bit after the same rounding."""
    for dtype in (np.float32, np.float16, jnp.bfloat16):
        eps = float(jnp.finfo(dtype).eps)

        def is_rounded(place: Place, dtype: Any = dtype, eps: float = eps) -> bool:
            hand, right = place.hand[leaf], place.right[leaf]
            if hand.dtype.kind != "f":
                return False
            narrow = np.asarray(hand).astype(dtype).astype(np.float64)
            nearest = np.asarray(right).astype(dtype).astype(np.float64)
            # One rounding further for entries that lie between two numbers of the dtype.
            close = np.abs(hand - nearest) <= eps * np.abs(nearest)
            return np.array_equal(narrow, hand) and bool(close.all()) and size(hand - right) > 0

        if all(is_rounded(place) for place in study.places):
            return Explanation(Kind.PRECISION, f"is rounded to {np.dtype(dtype).name}.")
    return None


def some_entries(study: Study, leaf: int) -> Explanation | None:
    """Some entries are the gradient times a constant, the rest are right."""
    bad = study.case.bad[leaf]
    if bad.all() or not bad.any():
        return None
    constants = []
    for place in study.places:
        hand, right = place.hand[leaf], place.right[leaf]
        if np.max(np.abs(hand - right), where=~bad, initial=0.0) > 10 * study.case.exact * size(right):
            return None
        c = 0.0 if not hand[bad].any() else best_constant(hand[bad], right[bad], study.case.exact)
        if c is None:
            return None
        constants.append(c)
    if np.ptp(constants) > 10 * study.case.exact * max(abs(constants[0]), 1e-300) or abs(constants[0] - 1) < 1e-9:
        return None
    c = constants[0]
    what = "zero" if c == 0 else "-1 times the gradient" if abs(c + 1) < 1e-9 else f"{c:.12g} times the gradient"
    return Explanation(Kind.ENTRIES, f"is {what} in {where(bad)}; all other entries are right.")
