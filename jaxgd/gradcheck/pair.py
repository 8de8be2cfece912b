"""A loss and a hand gradient at one point: everything that stays the same during a check."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxgd.gradcheck import points
from jaxgd.gradcheck.form import paths
from jaxgd.gradcheck.functions import Gradient, Loss, gradient_of, loss_of
from jaxgd.gradcheck.inputs import Arrays, Layout, Point, take_apart


class Pair(NamedTuple):
    """A loss and a hand gradient at one point; see `pair_of`.

    Attributes:
      loss: the loss, compiled.
      grad: the hand gradient, compiled.
      layout: how parameters and arguments are put together from their leaves.
      native: the leaves as they were given.
      base: the same leaves in float64.
      names: the path of each floating leaf of the parameters.
      labels: the path of each floating leaf of the arguments.
      scales: how far each entry of the parameters may be moved.
      params: the parameters as they were given.
      wanted: for each name the number of its leaf in the tree that the gradient function returns; empty if that tree
        has one leaf for each name, or one for each leaf of the parameters.
    """

    loss: Loss
    grad: Gradient
    layout: Layout
    native: Point
    base: Point
    names: list[str]
    labels: list[str]
    scales: Arrays
    params: Any
    wanted: tuple[int, ...] = ()

    def hand(self, point: Point, dtype: Any) -> Arrays:
        """The hand gradient.

        Args:
          point: the leaves.
          dtype: of the arithmetic; None for what the leaves and the settings of the process say.

        Returns:
          One leaf for each name.
        """
        leaves = self.grad.leaves(self.layout, point, dtype)
        if self.wanted:
            return [leaves[i] for i in self.wanted]
        if len(leaves) == len(self.names):
            return leaves
        roles = self.layout.roles[: len(jax.tree.leaves(self.params))]
        return [leaf for leaf, role in zip(leaves, roles, strict=True) if role == "param"]

    def holding(self, comparable: Sequence[bool], answer: Any) -> "Pair":
        """The same pair with some leaves of the parameters held fixed, as if they were arguments.

        Args:
          comparable: one for each name; false for those to hold.
          answer: what the gradient function returns, or its shapes.

        Returns:
          The pair, whose names are those that are not held.
        """
        if all(comparable) and paths(answer) == self.names:
            return self
        number = {path: i for i, path in enumerate(paths(answer))}
        moving = [i for i, ok in enumerate(comparable) if ok]
        held = [i for i, ok in enumerate(comparable) if not ok]
        flags = iter(comparable)
        roles = tuple("float" if role == "param" and not next(flags) else role for role in self.layout.roles)

        def split(point: Point) -> Point:
            kept = [point.params[i] for i in moving]
            return point._replace(params=kept, floats=[*(point.params[i] for i in held), *point.floats])

        return self._replace(
            layout=self.layout._replace(roles=roles),
            native=split(self.native),
            base=split(self.base),
            names=[self.names[i] for i in moving],
            labels=[*(self.names[i] for i in held), *self.labels],
            scales=[self.scales[i] for i in moving],
            wanted=tuple(number[self.names[i]] for i in moving),
        )

    def both(self, point: Point, dtype: Any) -> tuple[Arrays, Arrays]:
        """The hand gradient and reverse mode.

        Args:
          point: the leaves.
          dtype: see `hand`.

        Returns:
          Two lists of leaves.
        """
        return self.hand(point, dtype), self.loss.reverse(self.layout, point, dtype)

    def in_float64(self, point: Point) -> tuple[Arrays, Arrays]:
        """The hand gradient and reverse mode, evaluated and returned in float64.

        Args:
          point: the leaves, float64.

        Returns:
          Two lists of leaves.
        """
        hand, reference = self.both(point, np.float64)
        return [np.asarray(leaf, np.float64) for leaf in hand], reference

    def direction(self, rng: np.random.Generator, leaves: Iterable[int]) -> Arrays:
        """A random direction in which each parameter moves in proportion to its size.

        Args:
          rng: draws it.
          leaves: numbers of the leaves that move.

        Returns:
          Leaves like those of the parameters; zeros for leaves that do not move.
        """
        moving = set(leaves)
        return [
            scale * rng.normal(size=leaf.shape) if i in moving else np.zeros_like(leaf)
            for i, (leaf, scale) in enumerate(zip(self.base.params, self.scales, strict=True))
        ]

    def elsewhere(self, rng: np.random.Generator, distance: float, *, arguments: bool = False) -> Point:
        """A random point, far enough from the given one for a coincidence to show.

        Symmetric, triangular, orthogonal and simplex-valued leaves stay so; labels, masks and integers do not move.

        Args:
          rng: draws it.
          distance: relative to the size of the parameters; from 1 on all signs change as well.
          arguments: whether floating arguments move, too.

        Returns:
          The point.
        """
        step = min(distance, 0.5)
        moved = []
        for leaf, scale in zip(self.base.params, self.scales, strict=True):
            noise = step * rng.normal(size=leaf.shape)
            kind = points.set_of(leaf)
            moved.append(kind.move(leaf, noise) if kind else (leaf if distance < 1 else -leaf) + scale * noise)
        floats = self.base.floats
        if arguments:
            floats = [points.move_argument(leaf, step * rng.normal(size=np.shape(leaf))) for leaf in floats]
        return self.base._replace(params=moved, floats=floats)


def pair_of(loss: Callable[..., Any], grad: Callable[..., Any], params: Any, args: Sequence[Any]) -> Pair:
    """Bind a loss and a gradient to a point.

    Args:
      loss: `(params, *args) -> []`.
      grad: `(params, *args) -> a tree like params`.
      params: a tree with floating leaves.
      args: trees.

    Returns:
      The pair.

    Raises:
      TypeError: `params` has no real floating leaf.
      ValueError: `params` hold NaN or infinity.
    """
    layout, native, names = take_apart(params, args)
    for name, leaf in zip(names, native.params, strict=True):
        values = np.asarray(leaf, np.float64)
        if not np.isfinite(values).all():
            index = [int(i) for i in np.argwhere(~np.isfinite(values))[0]]
            at = f" at {index}" if index else ""
            raise ValueError(f"`params{name}` must be finite, got {values[tuple(index)]}{at}.")
    base = native.cast(np.float64)
    roles = layout.roles[len(jax.tree.leaves(params)) :]
    labels = [f"args{path}" for path, role in zip(paths(tuple(args)), roles, strict=True) if role == "float"]
    scales = [_scale(leaf) for leaf in base.params]
    return Pair(loss_of(loss), gradient_of(grad), layout, native, base, names, labels, scales, params)


def _scale(leaf: Any) -> Any:
    """How far an entry may move: its own size, and at least a tenth of the leaf's."""
    rms = float(np.sqrt(np.mean(leaf**2))) if leaf.size else 0.0
    return np.maximum(np.abs(leaf), 0.1 * rms) if rms > 0 else np.ones_like(leaf)


def dot(left: Arrays, right: Arrays) -> float:
    """The inner product of two gradients or directions.

    Args:
      left: leaves.
      right: leaves.

    Returns:
      The sum of all products.
    """
    return float(sum(np.sum(a * b) for a, b in zip(left, right, strict=True)))


def all_finite(leaves: Arrays) -> bool:
    """Whether no entry is NaN or infinite.

    Args:
      leaves: arrays.

    Returns:
      The answer.
    """
    return all(bool(np.isfinite(leaf).all()) for leaf in leaves)


def gap(left: Any, right: Any) -> float:
    """The largest difference of two arrays.

    Args:
      left: an array.
      right: an array.

    Returns:
      At least 0.
    """
    return float(np.max(np.abs(left - right), initial=0.0))


def size(leaf: Any) -> float:
    """The largest absolute entry of an array.

    Args:
      leaf: an array.

    Returns:
      At least 0.
    """
    return float(np.max(np.abs(leaf), initial=0.0))


def ratio(value: float, of: float) -> float:
    """One size over another, 0 where both are 0.

    Args:
      value: at least 0.
      of: at least 0.

    Returns:
      Infinity where only `of` is 0.
    """
    return 0.0 if value == 0 else value / of if of > 0 else float("inf")
