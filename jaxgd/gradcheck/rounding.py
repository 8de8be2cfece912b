"""How far rounding moves both gradients: the tolerance of a check, measured at points near the given one."""

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgd.gradcheck.inputs import SMALL, Arrays
from jaxgd.gradcheck.precision import precision

NUM_NEARBY = 4
"""Points around the given one at which rounding is measured."""

MARGIN = 32.0
"""The tolerance over the measured rounding: four samples see the typical size of a rounding, not its largest."""

NEARBY = 2.0**-20
"""How far off the nearby points lie: a few units in the last place of float32."""

EPS32 = float(np.finfo(np.float32).eps)


class Spread(NamedTuple):
    """What the nearby points showed of each entry; lists of leaves, float64.

    One of the points may lie on the other side of a branch, so the last but one decides.

    Attributes:
      roughest: the largest difference between float32 and float64.
      rough: the second largest.
      closest: the smallest difference between the hand gradient and reverse mode.
      close: the second smallest.
    """

    roughest: Arrays
    rough: Arrays
    closest: Arrays
    close: Arrays


def _in_one_pass(function: Callable[..., Any], donate: tuple[str, ...] = ()) -> Callable[..., Any]:
    """A function of leaves, in NumPy for few numbers and compiled for many, where each pass costs a read.

    Large results stay jax's, so that the next call can write over them.
    """
    compiled = jax.jit(functools.partial(function, jnp), donate_argnames=donate)

    @functools.wraps(function)
    def call(leaves: Arrays, *rest: Any) -> Any:
        if sum(leaf.size for leaf in leaves) <= SMALL:
            with np.errstate(all="ignore"):
                return function(np, leaves, *rest)
        with precision(np.float64):
            return compiled(leaves, *rest)

    return call


def start(leaves: Arrays) -> Spread:
    """Before the first nearby point.

    Args:
      leaves: of the parameters.

    Returns:
      Nothing seen.
    """
    zeros, infinities = ([np.full(leaf.shape, fill) for leaf in leaves] for fill in (0.0, np.inf))
    return Spread(zeros, zeros, infinities, infinities)


@_in_one_pass
def nearby(xp: ModuleType, leaves: Arrays, draws: Arrays) -> Arrays:
    """A point a few float32 units away, exact in float32.

    Args:
      xp: NumPy or jax.numpy.
      leaves: of the parameters, float64.
      draws: leaves like them, in [0, 1), float32.

    Returns:
      Leaves, float32.
    """
    moved = []
    for leaf, draw in zip(leaves, draws, strict=True):
        largest = xp.max(xp.abs(leaf), initial=0.0)
        size = xp.abs(leaf) + 1e-3 * xp.where(largest > 0, largest, 1.0)
        moved.append((leaf + NEARBY * size * (2.0 * draw.astype(np.float64) - 1.0)).astype(np.float32))
    return moved


@functools.partial(_in_one_pass, donate=("spread",))
def fold(xp: ModuleType, hand: Arrays, reference: Arrays, rough: tuple[Arrays, Arrays], spread: Spread) -> Spread:
    """Take in what one nearby point shows.

    Args:
      xp: NumPy or jax.numpy.
      hand: the hand gradient there, in float64.
      reference: reverse mode there, in float64.
      rough: both in float32.
      spread: of the points before.

    Returns:
      The spread.
    """
    new: list[Any] = []
    for a, b, a32, b32, *seen in zip(hand, reference, *rough, *spread, strict=True):
        roughest, second, closest, close = seen
        noise = xp.maximum(xp.abs(a - a32.astype(np.float64)), xp.abs(b - b32.astype(np.float64)))
        noise = xp.where(xp.isfinite(noise), noise, np.inf)
        gap = xp.abs(a - b)
        gap = xp.where(xp.isfinite(gap), gap, np.inf)
        new.append(
            (
                xp.maximum(roughest, noise),
                xp.maximum(second, xp.minimum(roughest, noise)),
                xp.minimum(closest, gap),
                xp.minimum(close, xp.maximum(closest, gap)),
            )
        )
    return Spread(*(list(column) for column in zip(*new, strict=True)))


@_in_one_pass
def tolerances(xp: ModuleType, hand: Arrays, reference: Arrays, rough: Arrays, unit: float) -> Arrays:
    """The tolerance of each entry.

    Args:
      xp: NumPy or jax.numpy.
      hand: the hand gradient at the point, in float64.
      reference: reverse mode there.
      rough: see `Spread`.
      unit: the rounding unit of the float64 runs.

    Returns:
      Leaves, not negative.
    """
    found = []
    for a, b, noise in zip(hand, reference, rough, strict=True):
        size = xp.maximum(xp.abs(a), xp.abs(b))
        # Float32 may overflow where float64 does not; then the size of the leaf has to do.
        leaf_size = xp.max(xp.where(xp.isfinite(size), size, 0.0), initial=0.0)
        rounding = xp.where(xp.isfinite(noise), noise / EPS32, 64.0 * leaf_size)
        floor = xp.where(xp.isfinite(b), xp.abs(b), 0.0)
        floor = xp.where(unit > EPS32, xp.maximum(floor, leaf_size), floor)
        found.append(MARGIN * unit * xp.maximum(rounding, floor))
    return found
