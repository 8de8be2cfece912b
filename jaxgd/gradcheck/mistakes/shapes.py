"""A function of the right gradient: clipped, normalised, rounded, or right in some entries only."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxgd.gradcheck.finding import Kind
from jaxgd.gradcheck.mistakes.study import Explanation, Place, Study, best_constant, multiple, size
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
    """Some entries are the gradient times a constant, the rest are right; where, by an argument if one says it."""
    return _entries(study, leaf, moving=False)


def entries_by_sign(study: Study, leaf: int) -> Explanation | None:
    """As `some_entries`, in entries that are others at another point: where a parameter is negative, or positive."""
    return _entries(study, leaf, moving=True)


def _entries(study: Study, leaf: int, *, moving: bool) -> Explanation | None:
    bad = study.case.bad[leaf]
    if bad.all() or not bad.any():
        return None
    masks, constants = [], []
    for place in study.places:
        hand, right = place.hand[leaf], place.right[leaf]
        masks.append(np.abs(hand - right) > 10 * study.case.exact * size(right))
        wrong = masks[-1]
        c = best_constant(hand[wrong], right[wrong], study.case.exact) if hand[wrong].any() else 0.0
        if c is None:
            return None
        constants += [c] if wrong.any() else []
    same = all(not (mask & ~bad).any() for mask in masks)
    condition = _condition(study, leaf, masks) or (_condition(study, leaf, [bad for _ in masks]) if same else "")
    if not (condition if moving else same) or len({c > 0 for c in constants}) > 1:
        return None
    shown = "0" if not any(constants) else multiple(study, constants, 10 * study.case.exact)
    if shown is None:
        return None
    minus = "-" if constants[0] < 0 else ""
    # A whole number does not move, so that it cannot be seen to be an argument; that it has its value can.
    named = [name for name, leaf in study.labels() if np.size(leaf) == 1 and f"{float(np.ravel(leaf)[0]):.6g}" == shown]
    also = f" ({named[0]} is {shown})" if named and shown not in ("0", "1") else ""
    what = "zero" if shown == "0" else f"{minus}{shown} times the gradient{also}"
    return Explanation(Kind.ENTRIES, f"is {what} in {where(bad)}{condition}; all other entries are right.")


CONDITIONS: tuple[tuple[str, Callable[[Any], Any]], ...] = (
    ("0", lambda x: x == 0),
    ("1", lambda x: x == 1),
    ("-1", lambda x: x == -1),
    ("negative", lambda x: x < 0),
    ("positive", lambda x: x > 0),
)
"""What an argument or a parameter is in the wrong entries, and only there."""


def _condition(study: Study, leaf: int, masks: list[Any]) -> str:
    """What distinguishes the wrong entries at every place, in words; "" if nothing known does."""
    for field, names in (("floats", study.case.labels), ("params", study.case.names)):
        for number, name in enumerate(names):
            values = [getattr(place.point, field)[number] for place in study.places]
            if np.shape(values[0]) != np.shape(masks[0]) or np.iscomplexobj(values[0]):
                continue
            for words, holds in CONDITIONS:
                if all(np.array_equal(holds(value), mask) for value, mask in zip(values, masks, strict=True)):
                    return f", where {name or 'params'} is {words}"
    return ""
