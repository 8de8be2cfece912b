"""Points near and far from a given one that stay on the set that a parameter or an argument comes from.

A covariance stays symmetric and positive definite, probabilities keep their sum, labels stay labels, times stay in
order: what a gradient does beside such a set does not matter, and a loss may not even be defined there.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from jaxgd.gradcheck.inputs import Point

Array = Any
ROUGHLY = 1e-5
"""Relative error up to which a constraint holds for numbers that were computed in float32."""


class Set(NamedTuple):
    """A set of arrays.

    Attributes:
      name: what its members are.
      holds: whether an array is a member.
      move: `(x, noise) -> another member`; `noise` has the shape of `x` and is relative to the size of its entries.
      project: `(x, direction) -> the part of a direction that stays on the set`; None if directions are not restricted.
      exactly: moves an array that is on the set up to the rounding of a narrow dtype onto it; None if none is needed.
    """

    name: str
    holds: Callable[[Array], bool]
    move: Callable[[Array, Array], Array]
    project: Callable[[Array, Array], Array] | None = None
    exactly: Callable[[Array], Array] | None = None

    def onto(self, x: Array) -> Array:
        """The member of the set next to an array that is one up to rounding.

        Args:
          x: the array.

        Returns:
          The array itself if it is on the set anyway.
        """
        return x if self.exactly is None else self.exactly(x)

    def generic(self, x: Array) -> bool:
        """Whether a member is unlikely to be one by chance.

        Equal weights, one of n and the identity are the most common starting points. That they add up to 1 or are
        symmetric does not show that they are meant to stay so.
        """
        if self.name == "on the simplex":
            inside = np.where(x > 0, x, np.nan)
            return bool((np.nanmax(inside, -1) - np.nanmin(inside, -1) > ROUGHLY).all())
        return bool(x[..., ~np.eye(x.shape[-1], dtype=bool)].any() and np.ptp(x) > 0)

    def uses(self, x: Array, hand: Array, right: Array, tolerance: Array) -> bool:
        """Whether a gradient agrees with another along all changes that keep its parameter on the set.

        Args:
          x: the parameter.
          hand: the gradient.
          right: the gradient of the loss for all arrays of this shape.
          tolerance: how far rounding can bring them apart, by entry.

        Returns:
          True if so.
        """
        if self.project is None:
            return False
        part = self.project(x, right)
        if self.name == "on the simplex":  # a constant for all entries of a row changes nothing on it
            part = part + hand - self.project(x, hand)
        return bool((np.abs(hand - part) <= tolerance + 1e-12 * np.max(np.abs(right), initial=0.0)).all())


def _close(x: Array, to: Any) -> bool:
    return bool((np.abs(x - to) <= ROUGHLY).all())


def _square(x: Array) -> bool:
    return bool(x.ndim >= 2 and x.shape[-1] == x.shape[-2] > 1 and np.any(x))


def _transpose(x: Array) -> Array:
    return np.swapaxes(x, -1, -2)


def _symmetric(x: Array) -> bool:
    return _square(x) and np.array_equal(x, _transpose(x))


def _positive_definite(x: Array) -> bool:
    return _symmetric(x) and bool((np.linalg.eigvalsh(x)[..., 0] > 0).all())


def _congruent(x: Array, noise: Array) -> Array:
    """(1 + E) x (1 + E)^T, which is symmetric and positive definite where x is."""
    factor = np.eye(x.shape[-1]) + noise / np.sqrt(x.shape[-1])
    moved = factor @ x @ _transpose(factor)
    return (moved + _transpose(moved)) / 2


def _symmetrised(x: Array, direction: Array) -> Array:
    del x
    return (direction + _transpose(direction)) / 2


def _triangle(x: Array) -> Array:
    """The mask of the triangle outside of which a matrix is zero; None if it is not triangular."""
    if not _square(x) or (x[..., 0, -1].any() and x[..., -1, 0].any()):
        return None
    if np.array_equal(x, x * np.eye(x.shape[-1])):
        return None
    for mask in (np.tril(np.ones(x.shape[-2:], bool)), np.triu(np.ones(x.shape[-2:], bool))):
        if not x[..., ~mask].any():
            return mask
    return None


def _orthogonal(x: Array) -> bool:
    return bool(
        _square(x)
        and _close(np.sum(x[..., 0] ** 2, -1), 1)  # one column first, which is quick
        and not np.array_equal(x, x * np.eye(x.shape[-1]))
        and _close(_transpose(x) @ x, np.eye(x.shape[-1]))
    )


def _rotated(x: Array, noise: Array) -> Array:
    """X times a rotation, by Cayley's formula."""
    skew = (noise - _transpose(noise)) / 2
    identity = np.eye(x.shape[-1])
    return x @ np.linalg.solve(identity + skew, identity - skew)


def _nearest_orthogonal(x: Array) -> Array:
    """A step of Newton's method for the polar factor, which squares the error."""
    return x @ (3 * np.eye(x.shape[-1]) - _transpose(x) @ x) / 2


def _skewed(x: Array, direction: Array) -> Array:
    inner = _transpose(x) @ direction
    return x @ (inner - _transpose(inner)) / 2


def _on_simplex(x: Array) -> bool:
    sums = x.sum(-1) if x.ndim else x
    return bool(x.ndim and x.shape[-1] > 1 and (x >= 0).all() and _close(sums, 1))


def _reweighted(x: Array, noise: Array) -> Array:
    moved = x * np.exp(noise)
    return moved * (x.sum(-1, keepdims=True) / moved.sum(-1, keepdims=True))


def _without_mean(x: Array, direction: Array) -> Array:
    inside = x > 0
    mean = np.sum(direction * inside, -1, keepdims=True) / np.maximum(inside.sum(-1, keepdims=True), 1)
    return np.where(inside, direction - mean, 0.0)


def _scaled(x: Array, noise: Array) -> Array:
    """Every entry moves in proportion to its size and keeps its sign; zeros stay zero."""
    return x * (1 + np.clip(noise, -0.8, 0.8))


def _unit(x: Array) -> bool:
    return bool(x.ndim and x.shape[-1] > 1 and _close(np.sum(x * x, -1), 1))


def _renormalised(x: Array, noise: Array) -> Array:
    moved = _scaled(x, noise)
    return moved / np.sqrt(np.sum(moved * moved, -1, keepdims=True))


def _in_order(x: Array) -> bool:
    return bool(x.ndim == 1 and len(x) > 2 and ((np.diff(x) > 0).all() or (np.diff(x) < 0).all()))


def _steps_scaled(x: Array, noise: Array) -> Array:
    steps = _scaled(np.diff(x), noise[1:])
    return x[0] + np.concatenate([[0.0], np.cumsum(steps)])


SETS = (
    Set("orthogonal", _orthogonal, _rotated, _skewed, lambda x: _nearest_orthogonal(_nearest_orthogonal(x))),
    Set("positive definite", _positive_definite, _congruent, _symmetrised),
    Set("symmetric", _symmetric, lambda x, noise: _symmetrised(x, x * (1 + noise)), _symmetrised),
    Set("triangular", lambda x: _triangle(x) is not None, _scaled, lambda x, direction: direction * _triangle(x)),
    Set("on the simplex", _on_simplex, _reweighted, _without_mean, lambda x: x / x.sum(-1, keepdims=True)),
)
"""Sets of parameters, in the order in which they are tried; an identity matrix is positive definite, not orthogonal."""


def _joint(x: Array) -> bool:
    return bool(x.ndim > 1 and (x >= 0).all() and np.isclose(x.sum(), 1, rtol=0, atol=ROUGHLY))


def _reweighted_jointly(x: Array, noise: Array) -> Array:
    moved = x * np.exp(_symmetrised(x, noise) if _symmetric(x) else noise)
    return moved / moved.sum()


SETS_OF_ARGUMENTS = (
    # Whole numbers in a floating array are labels, masks or counts: they stay what they are.
    Set("whole numbers", lambda x: np.array_equal(x, np.round(x)), lambda x, noise: x),
    Set("joint probabilities", _joint, _reweighted_jointly, None, lambda x: x / x.sum()),
    *SETS,
    Set("unit vectors", _unit, _renormalised, None, lambda x: x / np.sqrt(np.sum(x * x, -1, keepdims=True))),
    Set("in order", _in_order, _steps_scaled),
    Set("between 0 and 1", lambda x: bool(((x >= 0) & (x <= 1)).all()), lambda x, n: x / (x + (1 - x) * np.exp(-n))),
    Set("any", lambda x: True, _scaled),
)
"""Sets of arguments, in the order in which they are tried."""


def set_of(leaf: Array, sets: tuple[Set, ...] = SETS) -> Set | None:
    """The first set that an array is a member of."""
    with np.errstate(all="ignore"):
        return next((candidate for candidate in sets if candidate.holds(leaf)), None)


def move_argument(leaf: Array, noise: Array) -> Array:
    """A floating argument moved to other values that may be given as well."""
    if not np.size(leaf) or not np.isfinite(leaf).all():
        return leaf
    kind = set_of(leaf, SETS_OF_ARGUMENTS)
    return leaf if kind is None else kind.move(leaf, noise)


def near_by(kind: Set | None, leaf: Array, draws: Array) -> Array:
    """Random numbers for a point near a parameter, such that a symmetric or triangular one stays so.

    Args:
      kind: the set that the parameter comes from.
      leaf: the parameter.
      draws: of its shape, in [0, 1).

    Returns:
      Draws of which 0.5 leaves an entry as it is.
    """
    if kind is None:
        return draws
    if kind.name in ("symmetric", "positive definite"):
        return (draws + _transpose(draws)) / 2
    return np.where(_triangle(leaf), draws, draws.dtype.type(0.5)) if kind.name == "triangular" else draws


def onto_sets(point: Point) -> tuple[Point, tuple[Set | None, ...]]:
    """A point in float64 whose leaves are on their sets to the last digit, if they are up to the rounding of float32.

    Probabilities in float32 add up to 1 only up to 6e-8. A gradient that uses that they add up to 1 would differ from
    one that does not by as much, although neither is wrong.

    Args:
      point: the leaves, float64.

    Returns:
      The leaves, most of which are those given, and the set of each parameter.
    """

    def onto(leaf: Array, sets: tuple[Set, ...]) -> tuple[Array, Set | None]:
        kind = set_of(leaf, sets) if np.size(leaf) and np.isfinite(leaf).all() else None
        return kind.onto(leaf) if kind else leaf, kind

    params = [onto(leaf, SETS) for leaf in point.params]
    floats = [onto(leaf, SETS_OF_ARGUMENTS)[0] for leaf in point.floats]
    return point._replace(params=[leaf for leaf, _ in params], floats=floats), tuple(kind for _, kind in params)
