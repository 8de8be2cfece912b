"""Stopped gradients inside a loss: reverse mode holds them constant, the values of the loss do not.

A stopped gradient is on purpose (target networks, semi-gradients, straight-through estimators), or for speed (the
maximum in a softmax). A gradient that honours it is right, and so is one that follows the values of the loss.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxgd.gradcheck import reference
from jaxgd.gradcheck.backward.program import equations, quote
from jaxgd.gradcheck.disputed import Comparison
from jaxgd.gradcheck.finding import Finding, Kind
from jaxgd.gradcheck.inputs import Arrays
from jaxgd.gradcheck.pair import Pair, all_finite, gap, ratio, size
from jaxgd.gradcheck.precision import precision
from jaxgd.gradcheck.reference import Gradients
from jaxgd.gradcheck.report import Status
from jaxgd.gradcheck.rules import program

MATTERS = 1e-9
"""Relative size of a change of the gradient that is not rounding."""

MAX_TRIED = 6
"""Stopped gradients that are opened one by one, to see which matter."""


class Stops(NamedTuple):
    """The places where a loss stops gradients, those that change its derivative.

    Attributes:
      following: the derivative of the loss as if nothing were stopped.
      words: the places, for a message.
    """

    following: Arrays
    words: str


def stops_of(pair: Pair, declared: Arrays) -> Stops | None:
    """Find the stopped gradients that matter."""
    if not reference.rewritable(pair):
        return None
    stops = [eqn for eqn in equations(reference.program(pair, pair.base)) if eqn.primitive.name == "stop_gradient"]
    following = _through(pair, lambda eqn: True) if stops else None
    if following is None or not _differ(following, declared):
        return None
    places = list(dict.fromkeys(place for eqn in _mattering(pair, stops, declared) if (place := quote(eqn))))
    return Stops(following, f"stop_gradient in {' and '.join(places)}" if places else "stop_gradient")


def _through(pair: Pair, chosen: Callable[[Any], bool]) -> Arrays | None:
    """Reverse mode through chosen stopped gradients; None if it is not finite or does not exist."""
    closed = reference.program(pair, pair.base)

    def handle(eqn: Any, values: list[Any]) -> list[Any] | None:
        if eqn.primitive.name == "stop_gradient" and chosen(eqn):
            return values
        rebuild = program.REBUILT.get(eqn.primitive.name)
        return rebuild(eqn, values, handle) if rebuild else None

    def loss(params: Any) -> Any:
        return program.run(closed, jax.tree.leaves(pair.base._replace(params=params)), handle)[0]

    try:
        with precision(np.float64):
            found = [np.asarray(leaf) for leaf in jax.jit(jax.grad(loss))(pair.base.params)]
    except Exception:  # what is behind a stopped gradient may have no reverse mode, such as a while_loop
        return None
    return found if all_finite(found) else None


def _differ(left: Arrays, right: Arrays) -> bool:
    return any(gap(a, b) > MATTERS * max(size(a), size(b)) for a, b in zip(left, right, strict=True))


def _mattering(pair: Pair, stops: Sequence[Any], declared: Arrays) -> Iterator[Any]:
    """The stopped gradients that change reverse mode if only they are opened."""
    if len(stops) == 1 or len(stops) > MAX_TRIED:
        yield from stops[:1]
        return
    for eqn in stops:
        opened = _through(pair, lambda other, eqn=eqn: other is eqn)  # type: ignore[misc]
        if opened is None or _differ(opened, declared):
            yield eqn


def compare_stopped(pair: Pair, found: Gradients, stops: Stops, leaf: int) -> Comparison | None:
    """Whether a leaf honours the stopped gradients of the loss, or follows the values through them.

    Args:
      pair: the loss and the gradient.
      found: both gradients at the point.
      stops: of the loss.
      leaf: its number.

    Returns:
      What it is; None if they do not matter for it, or if it does neither.
    """
    hand, honouring, following = found.hand[leaf], found.reference[leaf], stops.following[leaf]
    path = pair.names[leaf]
    name = path or "params"
    off = ratio(gap(honouring, following), size(following))
    if off <= MATTERS:
        return None
    apart = f"relative difference {off:.1e}" if np.isfinite(off) else "which is 0"
    if not found.differs(leaf).any():
        message = (
            f"{name} treats as constant what {stops.words} holds constant; followed through it, the values of the loss "
            f"have another derivative ({apart})."
        )
        return Comparison(Status.RIGHT, honouring, Finding(path, Kind.STOP_GRADIENT, message, False))
    if (np.abs(hand - following) <= np.maximum(found.tolerance[leaf], 1e-12 * size(following))).all():
        message = (
            f"{name} is the derivative of the values of the loss; jax.grad has another ({apart}), because it holds a "
            f"part constant: {stops.words}."
        )
        return Comparison(Status.RIGHT, following, Finding(path, Kind.STOP_GRADIENT, message, False))
    return None
