"""Reverse mode at a point, with a tolerance measured for each entry, and the loss without its own rules."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgd.gradcheck import points, rounding, slopes
from jaxgd.gradcheck.facts import EPS64, GradientFacts, LossFacts
from jaxgd.gradcheck.inputs import SMALL, Arrays, Point
from jaxgd.gradcheck.pair import Pair
from jaxgd.gradcheck.precision import precision


class Gradients(NamedTuple):
    """The hand gradient and the reference at one point, float64; lists of leaves.

    Attributes:
      hand: the hand gradient.
      reference: what it is compared with.
      tolerance: how far apart rounding can bring the two, measured.
      near: masks of the entries that differ at nearby points, too.
    """

    hand: Arrays
    reference: Arrays
    tolerance: Arrays
    near: Arrays

    def differs(self, leaf: int) -> Any:
        """Entries that differ at the point."""
        with np.errstate(invalid="ignore"):
            return ~(np.abs(self.hand[leaf] - self.reference[leaf]) <= self.tolerance[leaf])


def eps_of(leaf: Any) -> float:
    """The rounding unit of the dtype of an array or a Python float."""
    return float(jnp.finfo(jnp.result_type(leaf)).eps)


def unit_of(pair: Pair, loss: LossFacts, grad: GradientFacts) -> float:
    """The rounding unit of the float64 runs: that of the coarsest dtype that is meant to be there.

    Args:
      pair: the loss and the gradient.
      loss: what the program of the loss says.
      grad: what the program of the gradient says.

    Returns:
      2.2e-16 for float64 throughout.
    """
    native = max(float(jnp.finfo(jnp.result_type(leaf)).eps) for leaf in pair.native.params)
    return max(EPS64, loss.unit, grad.unit if grad.unit <= native else EPS64)


def measure(pair: Pair, rng: np.random.Generator, both: tuple[Arrays, Arrays], unit: float) -> Gradients:
    """Compare both gradients at nearby points, in float32 and in float64.

    Args:
      pair: the loss and the gradient.
      rng: draws the nearby points.
      both: the hand gradient and reverse mode at the point, float64.
      unit: the rounding unit of the float64 runs.

    Returns:
      Both, with tolerances.
    """
    spread = rounding.start(pair.base.params)
    for _ in range(rounding.NUM_NEARBY):
        draws = [
            points.near_by(kind, leaf, rng.random(leaf.shape, np.float32))
            for leaf, kind in zip(pair.base.params, pair.sets, strict=True)
        ]
        point = pair.base._replace(params=rounding.nearby(pair.base.params, draws)).cast(np.float32)
        spread = rounding.fold(*pair.in_float64(pair.wide(point)), pair.both(point, np.float32), spread)
    tolerances = [np.asarray(leaf) for leaf in rounding.tolerances(*both, spread.rough, unit)]
    near = [np.asarray(gap) > 2 * leaf for gap, leaf in zip(spread.close, tolerances, strict=True)]
    if unit > EPS64:
        near = [a | b for a, b in zip(near, _stale(pair, both, tolerances), strict=True)]
    return Gradients(*both, tolerances, near)


def _stale(pair: Pair, both: tuple[Arrays, Arrays], tolerances: Arrays) -> Arrays:
    """Masks of entries that the gradient should have changed at a far point and did not.

    Values kept from an earlier call are right at the point where they were computed. Nearby points show it only if the
    tolerance is finer than the way to them, which it is not for a gradient that holds narrow numbers.
    """
    there = pair.in_float64(pair.elsewhere(np.random.default_rng(0), 0.5))
    masks = []
    for hand, right, hand_there, right_there, leaf in zip(*both, *there, tolerances, strict=True):
        with np.errstate(invalid="ignore"):
            moved = np.abs(np.asarray(right_there) - right) > 10 * leaf
        masks.append(moved if np.array_equal(hand, hand_there) else np.zeros_like(moved))
    return masks


def slopes_along(pair: Pair, direction: Arrays, unit: float, *, rough: bool = False) -> slopes.Slopes:
    """Finite-difference slopes of the loss.

    Args:
      pair: the loss and its inputs.
      direction: leaves like those of the parameters.
      unit: the relative rounding of one value of the loss.
      rough: whether to measure first how rough the values of the loss are, which costs 12 more of them.

    Returns:
      Slopes from both sides and from each.
    """
    point, ahead = pair.base, direction
    # Many numbers are moved to the device once, not in every round; few go with the call.
    if pair.loss.traceable and sum(leaf.size for leaf in direction) > SMALL:
        with precision(np.float64):
            point, ahead = jax.tree.map(jnp.asarray, (point, ahead))

    def along(steps: slopes.Values) -> slopes.Values:
        return np.asarray(pair.loss.values(pair.layout, point, ahead, steps), np.float64)

    return slopes.slopes(along, unit, 4 * slopes.noise(along) if rough else 0.0)


def program(pair: Pair, point: Point) -> Any:
    """The loss as a jaxpr in float64, whose inputs are the leaves of a point of these shapes."""
    with precision(np.float64):
        return pair.loss.trace.program(pair.layout, point)


def rewritable(pair: Pair) -> bool:
    """Whether the loss has a program in float64 that reverse mode of JAX differentiates, so that it can be changed."""
    return pair.loss.way.traced and pair.loss.way.wide and pair.loss.derivative == "reverse"
