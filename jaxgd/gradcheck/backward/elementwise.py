"""Changes of operations that work entry by entry: functions, masks, products, quotients."""

from typing import Any

import numpy as np
import scipy.special

from jaxgd.gradcheck.backward.pulls import like
from jaxgd.gradcheck.backward.site import Change, Site
from jaxgd.gradcheck.report import Kind

D, M = Kind.DERIVATIVE, Kind.MASK
the = "the derivative of {f}"


def _at_value(site: Site, ahead: Any, right: Any) -> Any:
    del right
    return ahead * site.rerun(site.y)[1]


def _value_at_value(site: Site, ahead: Any, right: Any) -> Any:
    del right
    return ahead * site.rerun(site.y)[0]


def _saturates(site: Site) -> bool:
    """Whether the values are those of a sigmoid or a tanh, whose derivatives are formulas of their values."""
    if site.y.dtype.kind != "f" or site.x.dtype.kind != "f":
        return False
    known = (scipy.special.expit, np.tanh)
    return any(np.allclose(function(site.x), site.y, rtol=1e-9, atol=1e-12) for function in known)


def _is_power(site: Site) -> bool:
    powers = ("integer_pow", "square", "pow", "sqrt", "rsqrt", "log", "mul")
    return len(site.edge.through) < 2 and site.step.name in powers


def _is_no_power(site: Site) -> bool:
    return not _is_power(site)


ELEMENTWISE = (
    Change(D, f"{the} is left out", lambda s, g, r: g),
    Change(D, f"{the} is replaced by the value of {{f}}", lambda s, g, r: g * s.y),
    Change(D, f"{the}, at its value f, is replaced by 1 - f", lambda s, g, r: g * (1 - s.y), _saturates),
    Change(D, f"{the}, at its value f, is replaced by 1 - f^2", lambda s, g, r: g * (1 - s.y * s.y), _saturates),
    Change(D, f"{the}, at its value f, is replaced by f (1 - f)", lambda s, g, r: g * s.y * (1 - s.y), _saturates),
    Change(D, f"{the}, at its value f, is replaced by f^2", lambda s, g, r: g * s.y * s.y, _saturates),
    Change(D, f"{the}, at its value f, is replaced by 1 + f^2", lambda s, g, r: g * (1 + s.y * s.y), _saturates),
    Change(D, f"{the}, at its value f, is replaced by f (1 + f)", lambda s, g, r: g * s.y * (1 + s.y), _saturates),
    Change(D, f"{the} is taken at its value instead of at its argument", _at_value, _is_no_power),
    Change(D, f"{the} is replaced by {{f}} of its own value", _value_at_value, _is_no_power),
    Change(D, f"{the} is replaced by its argument", lambda s, g, r: g * s.x),
    Change(D, f"{the}, at its argument x, is replaced by x (1 - x)", lambda s, g, r: g * s.x * (1 - s.x), _saturates),
    Change(D, f"{the} is taken twice", lambda s, g, r: r * s.slope()),
    Change(D, f"{the} is divided by instead of multiplied with", lambda s, g, r: g / s.slope()),
    Change(D, f"{the} lacks a factor x, its argument", lambda s, g, r: r / s.x, _is_power),
    Change(D, f"{the} has a factor x, its argument, too much", lambda s, g, r: r * s.x, _is_power),
    Change(D, f"{the} lacks a factor f, its value", lambda s, g, r: r / s.y, _is_power),
    Change(D, f"{the} has a factor f, its value, too much", lambda s, g, r: r * s.y, _is_power),
    Change(D, f"{the} is replaced by its absolute value", lambda s, g, r: g * np.abs(s.slope())),
)
"""Changes of an elementwise function. Formulas of its value are tried only where people know such formulas."""

MASKS = (
    Change(M, "the mask of {f} is left out", lambda s, g, r: g),
    Change(M, "the mask of {f} is inverted", lambda s, g, r: g - r),
    Change(M, "the mask of {f} is taken from the gradient that arrives", lambda s, g, r: np.where(g > 0, g, 0)),
    Change(M, "the mask of {f} is taken from the sign of {x}", lambda s, g, r: np.where(s.x > 0, g, 0)),
    Change(
        D,
        "{f} passes its own value on to {x} in place of the gradient that arrives",
        lambda s, g, r: np.where(r == g, np.broadcast_to(s.y, g.shape), r),
    ),
)

MUL = (
    Change(D, "in the product {f}, the other factor {other} is left out", lambda s, g, r: like(g, s.x)),
    Change(D, "in the product {f}, {x} itself stands in place of {other}", lambda s, g, r: like(g * s.x, s.x)),
    Change(D, "in the product {f}, its value stands in place of {other}", lambda s, g, r: like(g * s.y, s.x)),
    Change(D, "in the product {f}, {other} is divided by", lambda s, g, r: like(g / s.other, s.x)),
    Change(D, "in the product {f}, {other} is taken twice", lambda s, g, r: like(g * s.other * s.other, s.x)),
    Change(
        D, "in the product {f}, 1 - {other} stands in place of {other}", lambda s, g, r: like(g * (1 - s.other), s.x)
    ),
    Change(
        D, "in the product {f}, {other} is taken with its sign removed", lambda s, g, r: like(g * abs(s.other), s.x)
    ),
)

NUMERATOR = (
    Change(D, "in the quotient {f}, the denominator {other} is left out", lambda s, g, r: like(g, s.x)),
    Change(
        D,
        "in the quotient {f}, {other} is multiplied with instead of divided by",
        lambda s, g, r: like(g * s.other, s.x),
    ),
    Change(
        D,
        "in the quotient {f}, the denominator {other} is taken twice",
        lambda s, g, r: like(g / s.other / s.other, s.x),
    ),
)

DENOMINATOR = (
    Change(D, "in the quotient {f}, the derivative by {x} divides by {x} once, not by its square",
           lambda s, g, r: r * s.x),
    Change(D, "in the quotient {f}, the derivative by the denominator {x} lacks the numerator",
           lambda s, g, r: like(-g / (s.x * s.x), s.x)),
    Change(D, "in the quotient {f}, the derivative by the denominator {x} does not divide by its square",
           lambda s, g, r: r * s.x * s.x),
    Change(D, "in the quotient {f}, its value stands in place of its derivative by {x}",
           lambda s, g, r: like(g * s.y, s.x)),
)  # fmt: skip


POWER = (
    Change(D, "in the power {f}, the factor log({other}) is missing in the derivative by the exponent {x}",
           lambda s, g, r: like(g * s.y, s.x), lambda s: s.edge.position == 1),
    Change(D, "in the power {f}, the derivative by {x} lacks the exponent as a factor",
           lambda s, g, r: r / s.other, lambda s: s.edge.position == 0),
    Change(D, "in the power {f}, the derivative by {x} has the exponent unreduced",
           lambda s, g, r: r * s.x, lambda s: s.edge.position == 0),
)  # fmt: skip

REMAINDER = (
    Change(
        D,
        "in the remainder {f}, floor(x / y) stands in place of the truncated quotient",
        lambda s, g, r: like(-g * np.floor(s.values[0] / s.values[1]), s.x),
        lambda s: s.edge.position == 1,
    ),
)


COMPLEX = (
    Change(D, "the complex conjugate is missing in the derivative of {f} by {x}", lambda s, g, r: np.conj(r)),
    Change(D, "only the real part is kept in the derivative of {f} by {x}", lambda s, g, r: np.real(r).astype(r.dtype)),
)
