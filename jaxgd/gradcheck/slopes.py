"""Finite-difference slopes of the loss: the only check that shares no rule of differentiation with anybody."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]

STEPS_PER_ROUND = 6
ROUNDS = 3
FIRST_STEP = 2.0**-6
NOISE_STEP = 2.0**-22
GOOD_ENOUGH = 1e-7
EPS = float(np.finfo(np.float64).eps)


class Slopes(NamedTuple):
    """Slopes of a function of one variable at 0, each with an estimate of its error.

    Attributes:
      value: of the function at 0.
      central: from both sides.
      error: of `central`.
      left: from points on the left only, the slope towards 0.
      right: from points on the right only.
      side_error: of both.
      step_sizes: `[n]`, all that were tried.
      remainders: `[n, 2]`, `f(t) - f(0)` and `f(-t) - f(0)`.
      rounding: of one value of the function.
    """

    value: float
    central: float
    error: float
    left: float
    right: float
    side_error: float
    step_sizes: Values
    remainders: Values
    rounding: float

    @property
    def kinked(self) -> bool:
        """Whether the two sides have slopes of their own, at small steps as at large ones."""
        gap = abs(self.right - self.left)
        if not (gap > 20 * self.side_error and gap > 1e-5 * max(abs(self.right), abs(self.left))):
            return False
        # The difference of one-sided slopes stays the same at a kink; it falls with the step where the function is
        # smooth, and grows as the step falls where it is rounding.
        between = self.remainders.sum(1) / self.step_sizes
        seen = np.abs(between) * self.step_sizes > 10 * self.rounding
        same = np.abs(np.diff(between)) <= 0.25 * np.abs(between[1:])
        return bool(np.sum(same & seen[1:] & seen[:-1]) >= 3)

    @property
    def settled(self) -> bool:
        """Whether the differences approach a slope as their step falls, which they do not where the function jumps."""
        return bool(self.error <= 1e-3 * abs(self.central) + 1e-6 * abs(self.value))

    def __str__(self) -> str:
        """The slope with the digits that were measured."""
        if not self.settled or self.kinked:
            return "not settled"
        digits = 10 if self.error <= 1e-10 * abs(self.central) else -np.log10(self.error / (abs(self.central) or 1.0))
        return f"{self.central:.{int(np.clip(digits, 1, 10))}g}"

    def agrees(self, slope: float) -> bool:
        """Whether a slope lies within the error of the one measured.

        Args:
          slope: `u . g`.

        Returns:
          True if so.
        """
        return bool(abs(slope - self.central) <= 8 * self.error + 1e-9 * abs(self.central))

    def numbers(self, slope: float) -> tuple[float, float]:
        """How far a slope is from the one measured, and how small a difference would have been seen.

        Args:
          slope: `u . g`.

        Returns:
          Both relative to the slope measured; NaN where that is 0.
        """
        size = abs(self.central) or np.nan
        return abs(slope - self.central) / size, (8 * self.error + 1e-9 * abs(self.central)) / size

    def order(self, slope: float) -> float | None:
        """Observed order of `f(t) - f(0) - t slope`: 2 for the right slope, 1 for a wrong one.

        Args:
          slope: `u . g`.

        Returns:
          The median over the step sizes at which rounding does not hide it, or None.
        """
        left_over = np.abs(self.remainders[:, 0] - self.step_sizes * slope)
        seen = left_over > 1e3 * (self.rounding + EPS * np.abs(self.step_sizes * slope))
        pairs = [i for i in range(len(seen) - 1) if seen[i] and seen[i + 1]]
        if not pairs:
            return None
        orders = [
            np.log(left_over[i] / left_over[i + 1]) / np.log(self.step_sizes[i] / self.step_sizes[i + 1]) for i in pairs
        ]
        return float(np.median(orders[-4:]))


def noise(function: Callable[[Values], Values]) -> float:
    """How rough the values of a function are near 0, by differences of fourth order (More and Wild 2011).

    Args:
      function: of one variable, in float64: `[n]` arguments -> `[n]` values.

    Returns:
      The standard deviation of one value, 0 for a function that is smooth to the last digit.
    """
    values = function(NOISE_STEP * np.arange(12.0))
    differences = np.diff(values, 4)
    # The variance of a fourth difference is 70 times that of a value.
    return float(np.sqrt(np.mean(differences**2) / 70.0)) if np.isfinite(differences).all() else 0.0


def slopes(function: Callable[[Values], Values], unit: float = EPS, roughness: float = 0.0) -> Slopes:
    """Measure the slopes of a function at 0.

    Differences over geometric step sizes, extrapolated to step 0 (Ridders 1982), in rounds of smaller steps until
    the values themselves say that the result is good. The derivative that is to be judged plays no part.

    Args:
      function: of one variable, in float64: `[n]` arguments -> `[n]` values.
      unit: the relative rounding of one value.
      roughness: the absolute error of one value, if it is known to be larger; see `noise`.

    Returns:
      The best slopes found.
    """
    step_sizes: list[float] = []
    rows: list[Values] = []
    best: tuple[float, float] = (np.nan, np.inf)
    right: tuple[float, float] = (np.nan, np.inf)
    left: tuple[float, float] = (np.nan, np.inf)
    rounding = roughness
    with np.errstate(all="ignore"):
        for round_ in range(ROUNDS):
            steps = FIRST_STEP * 2.0 ** -(np.arange(STEPS_PER_ROUND) + STEPS_PER_ROUND * round_)
            values = function(np.concatenate([[0.0], steps, -steps]))
            value, up, down = values[0], values[1 : 1 + len(steps)], values[1 + len(steps) :]
            step_sizes += list(steps)
            rows += list(np.stack([up - value, down - value], axis=1))
            rounding = max(
                rounding, unit * abs(value), 0.5 * unit * np.max(np.abs(values[np.isfinite(values)]), initial=0.0)
            )
            noise = 4 * rounding / steps
            forward, backward = (up - value) / steps, (value - down) / steps
            best = min(best, _extrapolate((forward + backward) / 2, noise, 2), key=lambda pair: pair[1])
            right = min(right, _extrapolate(forward, noise, 1), key=lambda pair: pair[1])
            left = min(left, _extrapolate(backward, noise, 1), key=lambda pair: pair[1])
            scale = max(abs(best[0]), abs(right[0]), abs(left[0]))
            side_error = max(right[1], left[1])
            if best[1] <= GOOD_ENOUGH * scale and side_error <= 1e-3 * max(scale, EPS) and round_ > 0:
                break
    return Slopes(
        float(value), best[0], best[1], left[0], right[0], side_error, np.array(step_sizes), np.array(rows), rounding
    )


def _extrapolate(differences: Values, noise: Values, order: int) -> tuple[float, float]:
    """Neville's table for an error series in `t^order`; the entry with the smallest estimate of its error."""
    table = [float(differences[0])]
    best = (table[0], np.inf)
    for i in range(1, len(differences)):
        new = [float(differences[i])]
        for j in range(i):
            factor = 2.0 ** (order * (j + 1))
            new.append((factor * new[j] - table[j]) / (factor - 1.0))
            error = max(abs(new[j + 1] - new[j]), abs(new[j + 1] - table[j])) + noise[i]
            if error < best[1]:
                best = (new[j + 1], float(error))
        table = new
    return best
