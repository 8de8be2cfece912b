"""A loss and a hand gradient at one point: everything that stays the same during a check."""

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxgd.gradcheck import points
from jaxgd.gradcheck.answer import by_path
from jaxgd.gradcheck.functions import BadLoss, Gradient, Loss, value_of
from jaxgd.gradcheck.inputs import Arrays, Inputs, Layout, NoFloatingLeaf, Point, is_floating, take_apart
from jaxgd.gradcheck.precision import precision
from jaxgd.gradcheck.probe import gradient_of, hint, loss_of

NEAR = 0.03
"""Relative distance at which an iteration that ends at the given point still does."""


class Pair(NamedTuple):
    """A loss and a hand gradient at one point; see `pair_of`.

    Attributes:
      loss: the loss, compiled.
      grad: the hand gradient, compiled.
      layout: how parameters and arguments are put together from their leaves.
      native: the leaves as they were given.
      base: the same leaves in float64.
      names: where each real floating leaf of the parameters is; a complex one has two, `.real` and `.imag`.
      labels: where each real floating leaf of the arguments is.
      scales: how far each entry of the parameters may be moved.
      params: the parameters as they were given.
      sets: for each name the set that its leaf comes from, such as the symmetric matrices, or None.
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
    sets: tuple[points.Set | None, ...]

    def hand(self, point: Point, dtype: Any) -> Arrays:
        """The hand gradient; with `dtype` None in the dtypes of the leaves and by the settings of the process."""
        return self.grad.leaves(self.layout, point, dtype)

    def holding(self, comparable: Sequence[bool]) -> "Pair":
        """The same pair with some leaves of the parameters held fixed, as if they were arguments.

        Args:
          comparable: one for each name; false for those to hold.

        Returns:
          The pair, whose names are those that are not held.
        """
        if all(comparable):
            return self
        moving = [i for i, ok in enumerate(comparable) if ok]
        held = [i for i, ok in enumerate(comparable) if not ok]

        def split(point: Point) -> Point:
            kept = [point.params[i] for i in moving]
            return point._replace(params=kept, floats=[*(point.params[i] for i in held), *point.floats])

        return self._replace(
            layout=self.layout.holding([self.names[i] for i in held]),
            native=split(self.native),
            base=split(self.base),
            names=[self.names[i] for i in moving],
            labels=[*(self.names[i] for i in held), *self.labels],
            scales=[self.scales[i] for i in moving],
            sets=tuple(self.sets[i] for i in moving),
        )

    def wide(self, point: Point) -> Point:
        """A point near the given one in float64, on the sets that its leaves come from.

        Args:
          point: the leaves, in a narrower dtype; the arguments are those of the given point.

        Returns:
          The leaves.
        """
        wide = point.cast(np.float64)
        params = [kind.onto(leaf) if kind else leaf for leaf, kind in zip(wide.params, self.sets, strict=True)]
        # An argument that was moved onto its set when it was upcast stays there.
        given = zip(wide.floats, self.base.floats, self.native.floats, strict=True)
        floats = [leaf if np.array_equal(base, native) else base for leaf, base, native in given]
        return wide._replace(params=params, floats=floats)

    def both(self, point: Point, dtype: Any) -> tuple[Arrays, Arrays]:
        """The hand gradient and reverse mode; `dtype` as in `hand`."""
        return self.hand(point, dtype), self.loss.reverse(self.layout, point, dtype)

    def in_float64(self, point: Point) -> tuple[Arrays, Arrays]:
        """The hand gradient and reverse mode, evaluated and returned in float64."""
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
        direction = []
        for i, (leaf, scale) in enumerate(zip(self.base.params, self.scales, strict=True)):
            ahead = scale * rng.normal(size=leaf.shape) if i in moving else np.zeros_like(leaf)
            kind = self.sets[i]
            direction.append(kind.project(leaf, ahead) if kind and kind.project and kind.generic(leaf) else ahead)
        return direction

    def elsewhere(self, rng: np.random.Generator, distance: float, *, arguments: bool = False) -> Point:
        """A random point, far enough from the given one for a coincidence to show.

        Symmetric, triangular, orthogonal and simplex-valued leaves stay so; labels, masks and integers do not move.
        A loss that iterates until some tolerance is met is left near the given point: far from it, it may never end.

        Args:
          rng: draws it.
          distance: relative to the size of the parameters; from 1 on all signs change as well.
          arguments: whether floating arguments move, too.

        Returns:
          The point.
        """
        distance = min(distance, NEAR) if self.loss.iterates else distance
        step = min(distance, 0.5)
        moved = []
        for leaf, scale, kind in zip(self.base.params, self.scales, self.sets, strict=True):
            noise = step * rng.normal(size=leaf.shape)
            moved.append(kind.move(leaf, noise) if kind else (leaf if distance < 1 else -leaf) + scale * noise)
        floats = self.base.floats
        if arguments:
            floats = [points.move_argument(leaf, step * rng.normal(size=np.shape(leaf))) for leaf in floats]
        return self.base._replace(params=moved, floats=floats)


class GradientRaised(Exception):
    """The gradient function raised when it was called as the caller would call it.

    Attributes:
      names: of the parameters.
    """

    def __init__(self, names: list[str], error: Exception, also: str) -> None:
        super().__init__(f"`grad` raised {type(error).__name__}: {error}{also}")
        self.names = names


def pair_of(
    loss: Callable[..., Any],
    grad: Callable[..., Any],
    arguments: Sequence[Any],
    kwargs: Mapping[str, Any],
    *,
    argnums: int | tuple[int, ...] = 0,
    has_aux: bool = False,
) -> Pair:
    """Bind a loss and a gradient to a point.

    Args:
      loss: `(*arguments, **kwargs) -> []`.
      grad: `(*arguments, **kwargs) -> a tree like the parameters`.
      arguments: the positional arguments of both.
      kwargs: the keyword arguments of both.
      argnums: which of the arguments are the parameters.
      has_aux: whether the loss returns `(value, auxiliary output)`.

    Returns:
      The pair.

    Raises:
      TypeError: the parameters have no floating leaf.
      ValueError: they hold NaN or infinity; the loss raises, or does not return one floating number.
      GradientRaised: the gradient raises.
    """

    def bound(**how: bool) -> Pair:
        inputs = take_apart(arguments, kwargs, argnums=argnums, **how)
        base, sets = points.onto_sets(inputs.point.cast(np.float64))
        names = inputs.layout.names("param")
        for name, values in zip(names, base.params, strict=True):
            _require_finite(name, values)
        try:
            of_loss = loss_of(loss, inputs, base, has_aux=has_aux)
        except BadLoss as error:
            raise BadLoss(f"{error}{_exchanged(grad, inputs, error)}") from error.__cause__
        try:
            of_grad = gradient_of(grad, inputs, base, has_aux=has_aux)
        except Exception as error:
            raise GradientRaised(names, error, hint(error, inputs)) from error
        scales = [_scale(leaf) for leaf in base.params]
        labels = inputs.layout.names("float")
        return Pair(of_loss, of_grad, inputs.layout, inputs.point, base, names, labels, scales, inputs.params, sets)

    try:
        pair = bound()
    except NoFloatingLeaf:
        return bound(integers=True)  # Python integers are numbers to differentiate by if there is nothing else
    if _has_integers(pair):
        # Their gradient was returned, so they are meant as numbers, if the loss takes them as such.
        with contextlib.suppress(BadLoss, GradientRaised):
            pair = bound(integers=True)
    if not (pair.loss.traceable and pair.grad.traceable) and (pair.native.floats or pair.native.arrays):
        # Perhaps a trace has to see the numbers in the arguments: a flag, a length, a tolerance.
        held = bound(hold=True)
        if held.loss.traceable + held.grad.traceable > pair.loss.traceable + pair.grad.traceable:
            return held
    return pair


def _exchanged(grad: Callable[..., Any], inputs: Inputs, error: BadLoss) -> str:
    """A question, if a loss does not return a number and the gradient does."""
    if error.__cause__ is None:
        with contextlib.suppress(Exception), precision(None):
            positional, kwargs = inputs.layout.arguments(inputs.point, family="given")
            value_of(grad(*positional, **kwargs), False)
            return " Were `loss` and `grad` exchanged?"
    return ""


def _has_integers(pair: Pair) -> bool:
    """Whether a Python integer among the parameters has a floating gradient."""
    got = by_path(pair.grad.answer)
    return any(type(leaf) is int and is_floating(got.get(path)) for path, leaf in by_path(pair.params).items())


def _require_finite(name: str, values: Any) -> None:
    if not np.isfinite(values).all():
        index = [int(i) for i in np.argwhere(~np.isfinite(values))[0]]
        at = f" at {index}" if index else ""
        label = name if name.startswith("params") else f"params{name}"
        raise ValueError(f"`{label}` must be finite, got {values[tuple(index)]}{at}.")


def _scale(leaf: Any) -> Any:
    """How far an entry may move: its own size, and at least a tenth of the leaf's."""
    rms = float(np.sqrt(np.mean(leaf**2))) if leaf.size else 0.0
    return np.maximum(np.abs(leaf), 0.1 * rms) if rms > 0 else np.ones_like(leaf)


def dot(left: Arrays, right: Arrays) -> float:
    """The inner product of two gradients or directions."""
    return float(sum(np.sum(a * b) for a, b in zip(left, right, strict=True)))


def all_finite(leaves: Arrays) -> bool:
    """Whether no entry is NaN or infinite."""
    return all(bool(np.isfinite(leaf).all()) for leaf in leaves)


def gap(left: Any, right: Any) -> float:
    """The largest difference of two arrays."""
    return float(np.max(np.abs(left - right), initial=0.0))


def size(leaf: Any) -> float:
    """The largest absolute entry of an array."""
    return float(np.max(np.abs(leaf), initial=0.0))


def ratio(value: float, of: float) -> float:
    """One size over another: 0 where both are 0, infinity where only the second is."""
    return 0.0 if value == 0 else value / of if of > 0 else float("inf")
