"""The gradient in the dtype of its parameters: overflow, and digits that reverse mode keeps in the same dtype."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgd.gradcheck import reference
from jaxgd.gradcheck.backward.program import equations, quote
from jaxgd.gradcheck.facts import EPS64
from jaxgd.gradcheck.finding import Finding, Kind
from jaxgd.gradcheck.inputs import Arrays, Point
from jaxgd.gradcheck.pair import Pair, gap, ratio, size
from jaxgd.gradcheck.reference import Gradients
from jaxgd.gradcheck.where import where

NARROW = 2.0**-11
"""A dtype whose rounding unit is larger has 16 bits or fewer; 256 such units would hide any mistake."""

NUM_POINTS = 8
"""Points around the given one at which the rounding of a narrow dtype is measured."""

TIMES_REVERSE = 6.0
"""How much rougher than reverse mode a gradient in a narrow dtype may be, in the mean over those points."""

UNITS = 3.0
"""Rounding units of its largest entry up to which a gradient in a narrow dtype is as good as can be expected."""


def in_native_dtype(pair: Pair, found: Gradients, rng: np.random.Generator) -> list[Finding]:
    """Compare the gradient in its own dtype with the same in float64, beside reverse mode.

    Args:
      pair: the loss and the gradient.
      found: both gradients at the point, float64; they agree.
      rng: draws points nearby.

    Returns:
      Findings for entries that overflow or lose digits.
    """
    units = [reference.eps_of(leaf) for leaf in pair.native.params]
    if max(units) <= EPS64:
        return []
    native = pair.both(pair.native, None)
    rounding = _measure(pair, rng) if max(units) >= NARROW else None
    findings = []
    for i, unit in enumerate(units):
        hand, reverse = native[0][i], native[1][i]
        finding = _overflow(pair, i, hand, reverse)
        if finding is None:
            if unit >= NARROW and rounding is not None:
                finding = _lost_in_narrow(pair, i, unit, rounding)
            else:
                finding = _lost_digits(pair, found, i, (hand, reverse), unit)
        findings += [finding] if finding else []
    return findings


def _overflow(pair: Pair, leaf: int, hand: Any, reverse: Any) -> Finding | None:
    got, other = np.asarray(hand, np.float64), np.asarray(reverse, np.float64)
    lost = ~np.isfinite(got)
    if not lost.any():
        return None
    path = pair.names[leaf]
    shared = not np.isfinite(other).all()
    also = ", and so is reverse mode" if shared else ""
    message = f"{path or 'params'} is {got[lost][0]} in {where(lost)} in {hand.dtype}, and finite in float64{also}."
    return Finding(path, Kind.OVERFLOW, message, not shared)


def _lost_digits(pair: Pair, found: Gradients, leaf: int, native: tuple[Any, Any], unit: float) -> Finding | None:
    got, other = (np.asarray(value, np.float64) for value in native)
    with np.errstate(all="ignore"):
        error, error_of_reverse = gap(got, found.hand[leaf]), gap(other, found.reference[leaf])
    largest = size(found.hand[leaf])
    if not (error > 256 * max(error_of_reverse, unit * largest) and error > unit**0.5 * largest):
        return None
    path = pair.names[leaf]
    message = (
        f"{path or 'params'} loses digits in {native[0].dtype}: it is off by a relative {ratio(error, largest):.1e}, "
        f"reverse mode by {ratio(error_of_reverse, largest):.1e}; in float64 both agree."
    )
    return Finding(path, Kind.CANCELLATION, message)


class _Rounding(NamedTuple):
    """Root mean square, over points nearby, by entry; leaves."""

    hand: Arrays
    reverse: Arrays
    values: Arrays


def _measure(pair: Pair, rng: np.random.Generator) -> _Rounding:
    """How far both gradients in their own dtype are from float64, at points a unit in the last place away."""
    sums: list[list[Any]] = [[0.0] * len(pair.names) for _ in range(3)]
    for _ in range(NUM_POINTS):
        point = Point(
            [_shaken(leaf, rng) for leaf in pair.native.params],
            [_shaken(leaf, rng) for leaf in pair.native.floats],
            pair.native.arrays,
        )
        native, exact = pair.both(point, None), pair.in_float64(point.cast(np.float64))
        for i in range(len(pair.names)):
            errors = (np.asarray(a[i], np.float64) - b[i] for a, b in zip(native, exact, strict=True))
            for total, value in zip(sums, (*errors, exact[1][i]), strict=True):
                total[i] = total[i] + value**2 / NUM_POINTS
    return _Rounding(*([np.sqrt(value) for value in total] for total in sums))


def _shaken(leaf: Any, rng: np.random.Generator) -> Any:
    """An array with every entry moved by up to a unit in the last place; whole numbers stay, as labels have to."""
    values = np.asarray(leaf)
    if np.array_equal(values, np.round(values.astype(np.float64))):
        return leaf
    step = float(jnp.finfo(values.dtype).eps) * rng.choice([-1.0, 0.0, 1.0], values.shape)
    return jnp.asarray((values.astype(np.float64) * (1 + step)).astype(values.dtype))


def _lost_in_narrow(pair: Pair, leaf: int, unit: float, rounding: _Rounding) -> Finding | None:
    hand, reverse, values = (leaves[leaf] for leaves in rounding)
    largest = size(values)
    # Half a unit is lost when a result is stored, whatever it was computed in.
    expected = np.maximum(reverse, 0.25 * unit * values)
    bad = (hand > TIMES_REVERSE * expected) & (hand > UNITS * unit * largest)
    if not bad.any():
        return None
    path = pair.names[leaf]
    dtype = jnp.asarray(pair.native.params[leaf]).dtype
    worst = np.argmax(np.where(bad, hand, 0.0))
    casts = list(dict.fromkeys(_casts(pair, unit)))
    lost = "all digits" if hand.flat[worst] > 0.9 * largest else "digits"
    where_cast = f" It rounds to {dtype} in {casts[0]}, before it is done." if casts else ""
    message = (
        f"{path or 'params'} loses {lost} in {dtype} in {where(bad)}: it is off by a relative "
        f"{ratio(float(hand.flat[worst]), largest):.1e}, reverse mode in the same dtype by "
        f"{ratio(float(reverse.flat[worst]), largest):.1e} (in the mean over {NUM_POINTS} points nearby); in float64 "
        f"both agree.{where_cast}"
    )
    return Finding(path, Kind.CANCELLATION, message)


def _casts(pair: Pair, unit: float) -> Iterator[str]:
    """Where the gradient casts to a narrow dtype before its end, quoted."""
    if not pair.grad.traceable:
        return
    closed = jax.make_jaxpr(lambda point: pair.grad.tree(pair.layout, point))(pair.native)
    returned = {id(var) for var in closed.jaxpr.outvars}
    for eqn in equations(closed):
        if eqn.primitive.name != "convert_element_type" or id(eqn.outvars[0]) in returned:
            continue
        before, after = eqn.invars[0].aval.dtype, eqn.outvars[0].aval.dtype
        if all(jnp.issubdtype(dtype, jnp.floating) for dtype in (before, after)):
            narrower = float(jnp.finfo(after).eps) >= unit > float(jnp.finfo(before).eps)
            if narrower and (place := quote(eqn)):
                yield place
