"""Changes of functions of several operations: a Jacobian left out or cut to its diagonal, softmax, log-softmax."""

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy  # loads scipy.special at its first use, which `import jaxgd` need not wait for

from jaxgd.gradcheck.backward.site import Change, Send, Site
from jaxgd.gradcheck.backward.sweep import between
from jaxgd.gradcheck.finding import Kind

D = Kind.DERIVATIVE


def _diagonal(site: Site) -> Any:
    """The diagonal of the Jacobian of a function of one array to one of the same shape."""
    count = site.y.size
    rows = site.back(np.eye(count).reshape(count, *site.y.shape)).reshape(count, count)
    return np.diagonal(rows).reshape(site.x.shape)


def _small(site: Site) -> bool:
    return 1 < site.y.size <= 64


def _without_last(site: Site, ahead: Any, right: Any) -> Any:
    """What reaches the input if the last operation is passed unchanged."""
    del right
    edge = site.edge
    return between(site.tape, edge.target, site.step.ins[0], ahead, edge.through[:-1])


PASSED_ON = (Change(D, "on the path from {f} back to {x}, the derivative of the {last} is left out", _without_last),)

LINEAR = frozenset(
    {"add", "sub", "neg", "mul", "div", "dot_general", "gather", "scatter-add", "slice", "dynamic_slice", "pad", "rev",
     "concatenate", "reshape", "squeeze", "expand_dims", "transpose", "broadcast_in_dim", "reduce_sum", "cumsum",
     "conv_general_dilated", "select_n", "convert_element_type", "add_any", "fft", "copy"}
)  # fmt: skip
"""Operations of which linear maps are made."""


def _is_linear(site: Site) -> bool:
    """Whether a group is a linear map between arrays of one shape, by its values at random inputs."""
    steps = [site.tape.steps[index] for index in site.edge.through]
    if site.x.dtype.kind != "f" or site.y.dtype.kind != "f" or not all(step.name in LINEAR for step in steps):
        return False
    u, v = np.random.default_rng(0).normal(size=(2, *site.x.shape))
    at_0, at_u, at_v, at_both = (site.at(x).y for x in (np.zeros_like(u), u, v, u + 2 * v))
    return bool(np.allclose(at_both - at_0, at_u - at_0 + 2 * (at_v - at_0), rtol=1e-9, atol=1e-12))


def _applied_forwards(site: Site, ahead: Any, right: Any) -> Any:
    del right
    at_0 = site.at(np.zeros_like(site.x)).y
    return np.stack([site.at(g).y - at_0 for g in ahead])


JACOBIAN = (
    Change(
        Kind.TRANSPOSED,
        "the linear map {f} is applied to the gradient as it is, where its transpose is meant: "
        "what it reads and what it writes are exchanged in the backward pass",
        _applied_forwards,
        _is_linear,
    ),
    Change(D, "the derivative of {f} by {x} is left out: the gradient passes it unchanged", lambda s, g, r: g),
    Change(D, "the Jacobian of {f} by {x} is cut to its diagonal", lambda s, g, r: g * _diagonal(s), _small),
    Change(D, "the value of {f} stands in place of its derivative by {x}", lambda s, g, r: g * s.y),
)


def _axes(name: str) -> Callable[[Site], int | None]:
    """Along which axis the output is the softmax, or log-softmax, of the input."""

    def axis_of(site: Site) -> int | None:
        if site.x.dtype.kind != "f" or site.x.ndim == 0:
            return None
        function = {"softmax": scipy.special.softmax, "log_softmax": scipy.special.log_softmax}[name]
        for axis in range(site.x.ndim - 1, -1, -1):
            if site.x.shape[axis] > 1 and np.allclose(function(site.x, axis), site.y, rtol=1e-9, atol=1e-12):
                return axis
        return None

    return axis_of


def _along(name: str, form: Callable[[Any, Any, Callable[[Any], Any]], Any]) -> Send:
    """A change of softmax from `form(value, ahead, sum along its axis)`."""

    def send(site: Site, ahead: Any, right: Any) -> Any:
        axis = _axes(name)(site)
        return right if axis is None else form(site.y, ahead, lambda v: np.sum(v, axis + 1, keepdims=True))

    return send


def is_like(name: str) -> Callable[[Site], bool]:
    """Whether the output is the softmax, or the log-softmax, of the input along an axis."""
    return lambda site: _axes(name)(site) is not None


def _along_the_other_axis(site: Site, ahead: Any, right: Any) -> Any:
    axis = _axes("softmax")(site)
    return right if axis is None else site.y * (ahead - np.sum(site.y * ahead, 2 - axis, keepdims=True))


SOFTMAX = (
    Change(D, "the Jacobian of the softmax {f} is left out: the gradient passes it unchanged", lambda s, g, r: g),
    Change(D, "the Jacobian of the softmax {f}, with values p and arriving gradient g, is replaced by p g: "
           "p sum(p g) is not subtracted", _along("softmax", lambda p, g, total: p * g)),
    Change(D, "the Jacobian of the softmax {f}, with values p, is cut to its diagonal p (1 - p)",
           _along("softmax", lambda p, g, total: p * (1 - p) * g)),
    Change(D, "in the Jacobian of the softmax {f}, with values p and arriving gradient g, sum(g) stands in place of "
           "sum(p g)", _along("softmax", lambda p, g, total: p * (g - total(g)))),
    Change(D, "in the Jacobian of the softmax {f}, with values p and arriving gradient g, the factor p is left out of "
           "p (g - sum(p g))", _along("softmax", lambda p, g, total: g - total(p * g))),
    Change(D, "in the Jacobian of the softmax {f}, with values p and arriving gradient g, p sum(p g) is added, not "
           "subtracted", _along("softmax", lambda p, g, total: p * (g + total(p * g)))),
    Change(D, "in the Jacobian of the softmax {f}, with values p and arriving gradient g, the mean of p g stands in "
           "place of sum(p g)",
           _along("softmax", lambda p, g, total: p * (g - total(p * g) / total(np.ones_like(p * g))))),
    Change(D, "in the Jacobian of the softmax {f}, with values p and arriving gradient g, sum(p g) runs over all rows, "
           "not over each", lambda s, g, r: s.y * (g - np.sum(s.y * g, tuple(range(1, g.ndim)), keepdims=True)),
           lambda s: s.y.ndim > 1),
    Change(D, "in the Jacobian of the softmax {f}, with values p and arriving gradient g, sum(p g) runs along the "
           "wrong axis", _along_the_other_axis, lambda s: s.y.ndim == 2),
)  # fmt: skip

LOG_SOFTMAX = (
    Change(D, "the Jacobian of the log-softmax {f} is left out: the gradient passes it unchanged", lambda s, g, r: g),
    Change(D, "in the derivative of the log-softmax {f}, the softmax is not multiplied with the sum of the gradient "
           "that arrives", _along("log_softmax", lambda y, g, total: g - np.exp(y))),
    Change(D, "the Jacobian of the log-softmax {f}, with softmax p, is cut to its diagonal 1 - p",
           _along("log_softmax", lambda y, g, total: g * (1 - np.exp(y)))),
    Change(D, "in the derivative of the log-softmax {f}, softmax times the sum of the gradient is added, not "
           "subtracted",
           _along("log_softmax", lambda y, g, total: g + np.exp(y) * total(g))),
    Change(D, "in the derivative of the log-softmax {f}, its value stands in place of the softmax",
           _along("log_softmax", lambda y, g, total: g - y * total(g))),
)  # fmt: skip
