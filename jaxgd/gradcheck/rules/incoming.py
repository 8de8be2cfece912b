"""Whether a backward pass is linear in the gradient that arrives, and if not, what was done with that gradient.

The cotangents that a rule returns are `J^T g`, with `g` the incoming gradient: twice the `g`, twice the result; no `g`,
nothing. A rule that breaks this is wrong whatever the function is, so it is asked first. The same holds of the tangents
of a `jax.custom_jvp` rule, `J t`.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxgd.gradcheck.finding import Kind


class Samples(NamedTuple):
    """What a rule returns for one leaf, for several incoming gradients; float64.

    Attributes:
      g: for a random one.
      h: for another.
      sum: for `g + h`.
      double: for `2 g`.
      minus: for `-g`.
      zero: for zeros.
      large: for `1e6 g`.
      larger: for `2e6 g`.
      small: for `1e-6 g`.
      smaller: for `5e-7 g`.
      ones: for ones, or None.
      right_ones: what would be right for ones, or None.
    """

    g: Any
    h: Any
    sum: Any
    double: Any
    minus: Any
    zero: Any
    large: Any
    larger: Any
    small: Any
    smaller: Any
    ones: Any = None
    right_ones: Any = None


COEFFICIENTS = (
    *((1.0, 0.0), (0.0, 1.0), (1.0, 1.0), (2.0, 0.0), (-1.0, 0.0), (0.0, 0.0)),
    *((1e6, 0.0), (2e6, 0.0), (1e-6, 0.0), (5e-7, 0.0)),
)
"""`a` and `b` of `a g + b h`, in the order of the fields of `Samples`."""


def samples_of(answers: Sequence[Any], *, ones: Any, right_ones: Any) -> Samples:
    """Put samples together.

    Args:
      answers: one for each of `COEFFICIENTS`.
      ones: see `Samples`.
      right_ones: see `Samples`.

    Returns:
      The samples.
    """
    g, h, together, double, minus, zero, large, larger, small, smaller = answers
    return Samples(g, h, together, double, minus, zero, large, larger, small, smaller, ones, right_ones)


def fault(samples: Samples, it: str, tolerance: float) -> tuple[Kind, str] | None:
    """What is wrong with the use of the incoming gradient.

    Args:
      samples: what the rule returns.
      it: what to call the incoming gradient.
      tolerance: the largest relative difference that is rounding.

    Returns:
      A kind and the words after the name of the leaf, or None for a linear rule.
    """
    if not all(np.isfinite(value).all() for value in samples[:5]):
        return None  # NaN is another mistake, and not to be judged here
    samples = samples._replace(zero=np.nan_to_num(samples.zero))  # g over its norm
    size = max(_size(value) for value in samples[:5])
    if size == 0:
        return None

    def near(left: Any, right: Any, factor: float = 1.0) -> bool:
        return _size(left - right) <= factor * tolerance * size

    linear = near(samples.sum, samples.g + samples.h, 2) and near(samples.double, 2 * samples.g, 2)
    if linear and near(samples.zero, 0.0):
        return None
    found = next((fault for fault in FAULTS if fault.holds(samples, near)), OTHER)
    shown = samples.ones is not None and samples.right_ones is not None
    right = found.of_a_product and shown and near(samples.ones, samples.right_ones)
    also = f" (the result is right only where {it} is 1 everywhere)" if right else ""
    return Kind.INCOMING, f"{found.words.format(it=it)}{also}."


Near = Callable[..., bool]


def _unused(s: Samples, near: Near) -> bool:
    return near(s.g, s.h) and near(s.g, s.zero) and near(s.g, s.double)


def _squared(s: Samples, near: Near) -> bool:
    return near(s.zero, 0.0) and near(s.double, 4 * s.g, 4) and near(s.minus, s.g)


def _affine(s: Samples, near: Near) -> bool:
    slope = near(s.sum, s.g + s.h - s.zero, 3) and near(s.double, 2 * s.g - s.zero, 3)
    return slope and not near(s.zero, 0.0)


def _squared_in_a_term(s: Samples, near: Near) -> bool:
    even, odd = (s.g + s.minus) / 2, (s.g - s.minus) / 2  # of l g + q g^2: q g^2 and l g
    return near(s.zero, 0.0) and near(s.double, 2 * odd + 4 * even, 4) and not near(even, 0.0)


def _absolute(s: Samples, near: Near) -> bool:
    return near(s.minus, s.g) and near(s.double, 2 * s.g, 2)


def _direction(s: Samples, near: Near) -> bool:
    return near(s.double, s.g) and near(s.minus, -s.g)


def _masked(s: Samples, near: Near) -> bool:
    return near(s.zero, 0.0) and near(s.double, 2 * s.g, 2) and not near(s.minus, -s.g)


def _clipped(s: Samples, near: Near) -> bool:
    bounded = np.isfinite(s.larger).all() and _size(s.larger) <= 1.001 * _size(s.large)
    starts_linear = _size(s.small - 2 * s.smaller) <= 1e-3 * _size(s.small)
    return bool(bounded) and starts_linear and near(s.zero, 0.0)


class _Fault(NamedTuple):
    """One way to use the incoming gradient wrongly: its test, and the words after the name of the leaf.

    Attributes:
      holds: whether samples show it.
      words: what to say; `{it}` stands for the incoming gradient.
      of_a_product: whether an incoming gradient of ones hides the fault.
    """

    holds: Callable[[Samples, Near], bool]
    words: str
    of_a_product: bool = False


FAULTS: Sequence[_Fault] = (
    _Fault(_unused, "is the same whatever {it} is: {it} is not used", True),
    _Fault(_squared, "grows with the square of {it}: {it} is multiplied in twice", True),
    _Fault(_affine, "is not zero where {it} is zero: one term lacks {it}", True),
    _Fault(_clipped, "stops growing with {it}: {it}, or the result, is clipped"),
    _Fault(_absolute, "is the same for {it} and for its negative: an absolute value of {it} is taken"),
    _Fault(_direction, "is the same for {it} and for twice {it}: only signs of {it}, or {it} over its norm, are used"),
    _Fault(
        _masked, "changes by more than its sign with the sign of {it}: a mask or an absolute value of {it} is taken"
    ),
    _Fault(
        _squared_in_a_term, "has a term that grows with the square of {it}, which is multiplied in twice there", True
    ),
)
"""In the order in which they are tested: `|g|` is also a mask, a plain square is also a term with a square."""

OTHER = _Fault(lambda samples, near: True, "is not linear in {it}")


def _size(value: Any) -> float:
    return float(np.max(np.abs(value), initial=0.0))
