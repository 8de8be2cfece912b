"""Changes of operations on whole arrays, and of any edge: paths, sums, broadcasts, matrix products, ties."""

from typing import Any

import numpy as np
import scipy  # loads scipy.special at its first use, which `import jaxgd` need not wait for

from jaxgd.gradcheck.backward.arithmetic import evaluate
from jaxgd.gradcheck.backward.pulls import expand, pull
from jaxgd.gradcheck.backward.site import Change, Send, Site, is_square
from jaxgd.gradcheck.finding import Kind

D, M, P = Kind.DERIVATIVE, Kind.MASK, Kind.PATH


def _square_other(site: Site) -> bool:
    return site.other.ndim == 2 and site.other.shape[0] == site.other.shape[1] and len(site.other) > 1


def _with_other(site: Site, ahead: Any, other: Any) -> Any:
    """The cotangent of one factor if the other one had another value."""
    values = site.values
    values[1 - site.edge.position] = other
    return site.back_with(values, ahead)


def _in_the_other_order(site: Site, ahead: Any, right: Any) -> Any:
    """The gradient of `other @ x` for that of `x @ other`, and the other way round."""
    del right
    primitive, values = site.step.primitive, site.values[::-1]
    return pull(primitive, values, evaluate(primitive, values), [ahead], 1 - site.edge.position)


DOT = (
    Change(Kind.TRANSPOSED, "in the matrix product {f}, {other} is not transposed",
           lambda s, g, r: _with_other(s, g, s.other.T), _square_other),
    Change(Kind.TRANSPOSED, "the gradient of the matrix product {f} by {x} is transposed",
           lambda s, g, r: np.swapaxes(r, 1, 2), is_square),
    Change(Kind.ORDER, "in the matrix product {f}, the entries of {other} stand in reversed order",
           lambda s, g, r: _with_other(s, g, np.flip(s.other)), lambda s: s.other.ndim == 1 and s.other.size > 1),
    Change(Kind.CONJUGATE, "in the matrix product {f}, {other} stands in place of its complex conjugate, or the other "
           "way round",
           lambda s, g, r: _with_other(s, g, np.conj(s.other)), lambda s: s.other.dtype.kind == "c"),
    Change(Kind.ORDER, "in the gradient of the matrix product {f} by {x}, the two factors are in the wrong order: "
           "matrices do not commute", _in_the_other_order, lambda s: is_square(s) and s.x.shape == s.other.shape),
)  # fmt: skip


def _reduces_square(site: Site) -> bool:
    return is_square(site) and len(site.step.primitive.params["axes"]) == 1


REDUCE_SUM = (
    Change(
        Kind.TRANSPOSED,
        "the gradient of the sum {f} is spread along the wrong axis (columns for rows)",
        lambda s, g, r: expand(g, (1 - s.step.primitive.params["axes"][0],), s.x.shape),
        _reduces_square,
    ),
)


def _to_all_ties(site: Site, ahead: Any, right: Any) -> Any:
    del right
    axes = tuple(site.step.primitive.params["axes"])
    return expand(ahead, axes, site.x.shape) * (site.x == np.expand_dims(site.y, axes))


def _to_one_tie(last: bool) -> Send:
    def send(site: Site, ahead: Any, right: Any) -> Any:
        del right
        axes = tuple(site.step.primitive.params["axes"])
        hit = site.x == np.expand_dims(site.y, axes)
        if len(axes) == 1:
            order = np.flip(hit, axes[0]) if last else hit
            first = np.cumsum(order, axes[0]) * order == 1
            hit = np.flip(first, axes[0]) if last else first
        return expand(ahead, axes, site.x.shape) * hit

    return send


REDUCE_MAX = (
    Change(M, "every entry that ties in {f} gets the whole gradient, not its share", _to_all_ties),
    Change(M, "the whole gradient of {f} goes to the first entry of a tie", _to_one_tie(False)),
    Change(M, "the whole gradient of {f} goes to the last entry of a tie", _to_one_tie(True)),
    Change(M, "the gradient of {f} is shared by all entries equally, as that of a mean",
           lambda s, g, r: expand(g, s.step.primitive.params["axes"], s.x.shape) * (s.y.size / s.x.size)),
    Change(M, "the gradient of {f} goes to every entry, not only to the largest one",
           lambda s, g, r: expand(g, s.step.primitive.params["axes"], s.x.shape)),
)  # fmt: skip


def _spread(site: Site, ahead: Any) -> tuple[Any, list[int]]:
    """What reaches every copy of a broadcast input, `[C, ...]` like the output, and the axes of the copies."""
    if site.step.name == "broadcast_in_dim":
        kept = list(site.step.primitive.params["broadcast_dimensions"])
        axes = range(site.y.ndim)
        return ahead, [a for a in axes if a not in kept or site.x.shape[kept.index(a)] != site.y.shape[a]]
    values = site.values
    values[site.edge.position] = np.broadcast_to(site.x, site.y.shape)
    pairs = enumerate(zip(site.x.shape, site.y.shape, strict=True))
    return site.back_with(values, ahead), [a for a, (own, whole) in pairs if own != whole]


def _one_of_broadcast(which: int) -> Send:
    def send(site: Site, ahead: Any, right: Any) -> Any:
        taken, axes = _spread(site, ahead)
        for axis in axes:
            taken = np.take(taken, [which], axis + 1)
        return taken.reshape(right.shape)

    return send


def _along_the_other_axis(site: Site, ahead: Any, right: Any) -> Any:
    whole, (axis,) = _spread(site, ahead)
    return whole.sum(2 - axis).reshape(right.shape)


def _is_spread(site: Site) -> bool:
    return site.x.shape != site.y.shape and 0 < site.x.size < site.y.size


def _in_a_square(site: Site) -> bool:
    return site.y.ndim == 2 and site.y.shape[0] == site.y.shape[1] == site.x.size > 1


BROADCAST = (
    Change(
        Kind.NOT_SUMMED,
        "the broadcast of {x} is not summed: only its first part is taken",
        _one_of_broadcast(0),
        _is_spread,
    ),
    Change(
        Kind.NOT_SUMMED,
        "the broadcast of {x} is not summed: only its last part is taken",
        _one_of_broadcast(-1),
        _is_spread,
    ),
    Change(
        Kind.NOT_SUMMED,
        "the broadcast of {x} is averaged over its copies, not summed",
        lambda s, g, r: r * (s.x.size / s.y.size),
        _is_spread,
    ),
    Change(
        Kind.NOT_SUMMED,
        "what the broadcast of {x} sends back is summed over all rows, not over each",
        lambda s, g, r: np.broadcast_to(r.mean(tuple(range(1, r.ndim)), keepdims=True), r.shape),
        lambda s: _is_spread(s) and s.x.size > 1,
    ),
    Change(
        Kind.NOT_SUMMED,
        "what the broadcast of {x} sends back is summed over all rows, once for each",
        lambda s, g, r: np.broadcast_to(r.sum(tuple(range(1, r.ndim)), keepdims=True), r.shape),
        lambda s: _is_spread(s) and s.x.size > 1,
    ),
    Change(Kind.NOT_SUMMED, "the broadcast of {x} is summed along the wrong axis", _along_the_other_axis, _in_a_square),
)
"""Changes of a broadcast, and of an input that an operation entry by entry broadcasts."""


ANY = (
    Change(P, "the path from {f} to {x} is left out", lambda s, g, r: np.zeros_like(r)),
    Change(Kind.SIGN, "the derivative of {f} by {x} has the wrong sign", lambda s, g, r: -r),
    Change(Kind.ORDER, "what flows back to {x} is shifted by one along its first axis",
           lambda s, g, r: np.roll(r, 1, 1), lambda s: s.x.ndim > 0 and len(s.x) > 2 and s.step.name != "index"),
    Change(Kind.ORDER, "what flows back to {x} is shifted by one, backwards, along its first axis",
           lambda s, g, r: np.roll(r, -1, 1), lambda s: s.x.ndim > 0 and len(s.x) > 2 and s.step.name != "index"),
)  # fmt: skip


def _ignored(site: Site, ahead: Any, right: Any) -> Any:
    """Ones. If the gradient that arrives is the same everywhere, a factor or a sign is the simpler mistake."""
    del site
    size = np.abs(ahead)
    return right if np.ptp(size) <= 1e-12 * np.max(size) else np.ones_like(ahead)


OUTPUT = (
    Change(P, "{f} is treated as a constant: nothing flows back through it", lambda s, g, r: np.zeros_like(g),
           lambda s: sum(s.tape.active[i] for i in dict.fromkeys(s.step.ins)) > 1),
    Change(D, "the gradient that arrives at {f} is ignored (1 stands in its place)", _ignored, lambda s: s.y.size > 1),
    Change(D, "the gradient that arrives at {f} is replaced by the value of {f}",
           lambda s, g, r: np.broadcast_to(s.y, g.shape).astype(g.dtype)),
)  # fmt: skip

AFFINE_OUTPUT = (
    Change(D, "behind {f}, a factor f (1 - f) of a sigmoid is too much",
           lambda s, g, r: g * (f := scipy.special.expit(s.y)) * (1 - f)),
    Change(D, "behind {f}, a factor 1 - tanh^2 is too much", lambda s, g, r: g * (1 - np.tanh(s.y) ** 2)),
    Change(M, "behind {f}, the mask of a ReLU is too much", lambda s, g, r: np.where(s.y > 0, g, 0)),
    Change(D, "behind {f}, its own value is a factor too much", lambda s, g, r: g * s.y),
)  # fmt: skip


def _varies(site: Site) -> bool:
    """Whether a factor of the input is more than a sign."""
    return site.x.dtype.kind == "f" and not bool(np.all(np.abs(site.x) == 1))


SCALED = (
    Change(D, "the derivative of {f} by {x} has a factor {x} too much", lambda s, g, r: r * s.x, _varies),
    Change(D, "the derivative of {f} by {x} lacks a factor {x}", lambda s, g, r: r / s.x, _varies),
)
"""Changes of any edge that say less than those of the operation."""
