"""Changes of normalisations: to mean 0 and variance 1, to a mean square of 1, and to length 1."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from jaxgd.gradcheck.backward.site import Change, Send, Site
from jaxgd.gradcheck.finding import Kind

D = Kind.DERIVATIVE


class Norm(NamedTuple):
    """A normalisation `y = s (x - center)`, with `s` of every row and the derivative `s (g - mean(g) - k y sum(g y))`.

    Attributes:
      axis: along which it runs; None for all entries.
      s: `[..., 1, ...]`.
      k: 1 over the number of entries, or 1 for length 1.
    """

    axis: int | None
    s: Any
    k: float


def norm_of(site: Site, name: str) -> Norm | None:
    """Recognise a group of operations whose output is its input, normalised; a small constant may stand under the root.

    Args:
      site: a group of operations.
      name: the kind to look for: "standardised" (the mean is subtracted) or "scaled" (it is not).

    Returns:
      The normalisation; None if the group is not one of this kind.
    """
    x, y = site.x, site.y
    if x.shape != y.shape or x.ndim == 0 or x.dtype.kind != "f" or y.dtype.kind != "f" or not x.size:
        return None
    for axis in (*range(x.ndim - 1, -1, -1), *((None,) if x.ndim > 1 else ())):
        count = x.size if axis is None else x.shape[axis]
        if count < 2:
            continue
        centered = x - x.mean(axis, keepdims=True) if name == "standardised" else x
        squares = np.sum(centered**2, axis, keepdims=True)
        with np.errstate(all="ignore"):
            s = np.sum(centered * y, axis, keepdims=True) / squares
        if not np.allclose(centered * s, y, rtol=1e-9, atol=1e-12):
            continue
        for k in (1 / count, 1.0) if name == "scaled" else (1 / count,):
            # A small constant in the root makes this less than 1.
            if np.all((s**2 * squares * k > 0.5) & (s**2 * squares * k < 1 + 1e-9)):
                return Norm(axis, s, k)
    return None


def is_normalised(name: str) -> Callable[[Site], bool]:
    """Whether the output is the input normalised in one of the two ways."""
    return lambda site: norm_of(site, name) is not None


Form = Callable[[Norm, Any, Any, Any, Callable[[Any], Any]], Any]
"""`(norm, x, y, arriving gradient, sum over a row) -> what is sent back`."""


def _back(name: str, form: Form, *, over_all: bool = False) -> Send:
    def send(site: Site, ahead: Any, right: Any) -> Any:
        norm = norm_of(site, name)
        if norm is None:
            return right
        axes = tuple(range(1, ahead.ndim)) if over_all or norm.axis is None else (norm.axis + 1,)
        return form(norm, site.x, site.y, ahead, lambda v: np.sum(v, axes, keepdims=True))

    return send


def _has_rows(name: str) -> Callable[[Site], bool]:
    def applies(site: Site) -> bool:
        norm = norm_of(site, name)
        return norm is not None and norm.axis is not None and site.x.ndim > 1

    return applies


def _table(name: str, whole: str, forms: tuple[tuple[str, Form], ...], over_all: Form) -> tuple[Change, ...]:
    return (
        *(Change(D, f"in the derivative {whole} of the normalisation {{f}} = y, {words}", _back(name, form))
          for words, form in forms),
        Change(D, f"in the derivative {whole} of the normalisation {{f}} = y, the sums run over all rows, not over "
               "each", _back(name, over_all, over_all=True), _has_rows(name)),
    )  # fmt: skip


STANDARDISED = _table(
    "standardised",
    "s (g - mean(g) - y mean(g y))",
    (
        ("mean(g) is left out", lambda n, x, y, g, total: n.s * (g - n.k * y * total(g * y))),
        ("y mean(g y) is left out", lambda n, x, y, g, total: n.s * (g - n.k * total(g))),
        ("mean(g) and y mean(g y) are left out", lambda n, x, y, g, total: n.s * g),
        ("the factor s is left out", lambda n, x, y, g, total: g - n.k * total(g) - n.k * y * total(g * y)),
        ("y mean(g y) is added, not subtracted", lambda n, x, y, g, total:
         n.s * (g - n.k * (total(g) - y * total(g * y)))),
        ("mean(g) is added, not subtracted", lambda n, x, y, g, total:
         n.s * (g + n.k * (total(g) - y * total(g * y)))),
        ("sums stand for the means", lambda n, x, y, g, total: n.s * (g - total(g) - y * total(g * y))),
        ("x stands for y in mean(g y)", lambda n, x, y, g, total: n.s * (g - n.k * (total(g) + y * total(g * x)))),
        ("y g stands for y mean(g y)", lambda n, x, y, g, total: n.s * (g - n.k * total(g) - y * y * g)),
    ),
    lambda n, x, y, g, total: n.s * (g - n.k * total(g) - n.k * y * total(g * y)),
)  # fmt: skip

SCALED_TO_ONE = _table(
    "scaled",
    "s (g - k y sum(g y))",
    (
        ("k y sum(g y) is left out", lambda n, x, y, g, total: n.s * g),
        ("the factor s is left out", lambda n, x, y, g, total: g - n.k * y * total(g * y)),
        ("k y sum(g y) is added, not subtracted", lambda n, x, y, g, total: n.s * (g + n.k * y * total(g * y))),
        ("x stands for y in sum(g y)", lambda n, x, y, g, total: n.s * (g - n.k * y * total(g * x))),
        ("y g stands for sum(g y)", lambda n, x, y, g, total: n.s * (g - n.k * y * y * g)),
        ("the sum is taken with the wrong factor k", lambda n, x, y, g, total:
         n.s * (g - _other_k(n, y) * y * total(g * y))),
    ),
    lambda n, x, y, g, total: n.s * (g - n.k * y * total(g * y)),
)  # fmt: skip


def _other_k(norm: Norm, y: Any) -> float:
    """1 for a mean, and 1 over the number of entries for a sum."""
    return 1.0 if norm.k < 1 else 1 / (y.size if norm.axis is None else y.shape[norm.axis])
