"""Changes of operations that work entry by entry: functions, masks, products, quotients."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import scipy  # loads scipy.special at its first use, which `import jaxgd` need not wait for

from jaxgd.gradcheck.backward.pulls import like
from jaxgd.gradcheck.backward.site import Change, Send, Site
from jaxgd.gradcheck.finding import Kind

D, M = Kind.DERIVATIVE, Kind.MASK
the = "the derivative of {f}"


def _at_value(site: Site, ahead: Any, right: Any) -> Any:
    del right
    return ahead * site.rerun(site.y)[1]


def _value_at_value(site: Site, ahead: Any, right: Any) -> Any:
    del right
    return ahead * site.rerun(site.y)[0]


BY_VALUE: tuple[tuple[Callable[[Any], Any], Callable[[Any], Any]], ...] = (
    (scipy.special.expit, lambda y: y * (1 - y)),
    (np.tanh, lambda y: 1 - y * y),
    (lambda x: scipy.special.expit(-x), lambda y: -y * (1 - y)),
)
"""Functions whose derivatives people write as formulas of their values; the last as in `1 / (1 + exp(-X @ w))`, where
the matrix product has the minus sign."""


def slope_by_value(site: Site) -> Callable[[Any], Any] | None:
    """The derivative as a formula of the value, if the function is one of which people know it."""
    if site.y.dtype.kind != "f" or site.x.dtype.kind != "f":
        return None
    return next((slope for f, slope in BY_VALUE if np.allclose(f(site.x), site.y, rtol=1e-9, atol=1e-12)), None)


def _saturates(site: Site) -> bool:
    return slope_by_value(site) is not None


def _of_value(form: Callable[[Any], Any]) -> Send:
    """A formula of the value of a sigmoid or tanh; the sigmoid of -x keeps the minus sign of its derivative."""

    def send(site: Site, ahead: Any, right: Any) -> Any:
        del right
        return ahead * form(site.y) * (-1 if slope_by_value(site) is BY_VALUE[2][1] else 1)

    return send


STEP = 5e-3
"""Of the differences that make a second derivative of a first: their error is below that of rounding."""


def _second_derivative(site: Site, ahead: Any, right: Any) -> Any:
    """By central differences of sixth order."""
    del right
    slopes = [site.rerun(site.x + k * STEP)[1] - site.rerun(site.x - k * STEP)[1] for k in (1, 2, 3)]
    return ahead * sum(weight * slope for weight, slope in zip((45, -9, 1), slopes, strict=True)) / (60 * STEP)


def _is_power(site: Site) -> bool:
    powers = ("integer_pow", "square", "pow", "sqrt", "rsqrt", "log", "mul")
    return len(site.edge.through) < 2 and site.step.name in powers


def _is_no_power(site: Site) -> bool:
    return not _is_power(site)


def _is_curved(site: Site) -> bool:
    plain = site.step.name in ("exp", "abs", "max", "min")
    return _is_no_power(site) and site.x.dtype.kind == "f" and site.x.ndim > 0 and not plain


class _Activation(NamedTuple):
    """A function that neurons have.

    Attributes:
      value: of the argument.
      slope: its derivative, of the argument.
    """

    value: Callable[[Any], Any]
    slope: Callable[[Any], Any]


ACTIVATIONS = {
    "the sigmoid": _Activation(lambda x: scipy.special.expit(x),
                               lambda x: scipy.special.expit(x) * scipy.special.expit(-x)),
    "tanh": _Activation(np.tanh, lambda x: 1 - np.tanh(x) ** 2),
    "softplus": _Activation(lambda x: np.logaddexp(x, 0), lambda x: scipy.special.expit(x)),
    "a ReLU": _Activation(lambda x: np.maximum(x, 0), lambda x: np.where(x > 0, 1.0, 0.0)),
    "an ELU": _Activation(lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
                          lambda x: np.exp(np.minimum(x, 0))),
    "swish": _Activation(lambda x: x * scipy.special.expit(x),
                         lambda x: scipy.special.expit(x) * (1 + x * scipy.special.expit(-x))),
}  # fmt: skip
"""Functions of which one derivative is taken for another's."""


def is_activation(site: Site) -> bool:
    """Whether the function is one that neurons have."""
    if site.y.dtype.kind != "f" or site.x.dtype.kind != "f" or site.x.ndim == 0:
        return False
    return any(np.allclose(one.value(site.x), site.y, rtol=1e-9, atol=1e-12) for one in ACTIVATIONS.values())


def _times(form: Callable[[Any], Any]) -> Send:
    return lambda s, g, r: g * form(s.x)


ELEMENTWISE = (
    Change(D, f"{the} is left out", lambda s, g, r: g),
    Change(D, f"{the} is replaced by the value of {{f}}", lambda s, g, r: g * s.y),
    Change(D, f"{the}, at its value f, is replaced by 1 - f", _of_value(lambda y: 1 - y), _saturates),
    Change(D, f"{the}, at its value f, is replaced by 1 - f^2", _of_value(lambda y: 1 - y * y), _saturates),
    Change(D, f"{the}, at its value f, is replaced by f (1 - f)", _of_value(lambda y: y * (1 - y)), _saturates),
    Change(D, f"{the}, at its value f, is replaced by f^2", _of_value(lambda y: y * y), _saturates),
    Change(D, f"{the}, at its value f, is replaced by 1 + f^2", _of_value(lambda y: 1 + y * y), _saturates),
    Change(D, f"{the}, at its value f, is replaced by f (1 + f)", _of_value(lambda y: y * (1 + y)), _saturates),
    Change(D, f"{the} is taken at its value instead of at its argument", _at_value, _is_no_power),
    Change(D, f"{the}, at its value f, is replaced by the function itself, taken at f", _value_at_value, _is_no_power),
    Change(D, f"{the} is replaced by its argument", lambda s, g, r: g * s.x),
    Change(D, f"{the}, at its argument x, is replaced by x (1 - x)", lambda s, g, r: g * s.x * (1 - s.x), _saturates),
    Change(D, f"{the}, at its argument x, is replaced by 1 - x^2", lambda s, g, r: g * (1 - s.x * s.x), _saturates),
    *(
        Change(D, f"{the} is replaced by that of {name} at its argument", _times(one.slope), is_activation)
        for name, one in ACTIVATIONS.items()
    ),
    *(
        Change(D, f"{the} is replaced by {name} of its argument", _times(ACTIVATIONS[name].value), is_activation)
        for name in ("the sigmoid", "tanh")
    ),
    Change(D, f"{the} is taken twice", lambda s, g, r: r * s.slope()),
    Change(D, f"{the} is divided by instead of multiplied with", lambda s, g, r: g / s.slope()),
    Change(D, f"{the} lacks a factor x, its argument", lambda s, g, r: r / s.x, _is_power),
    Change(D, f"{the} has a factor x, its argument, too much", lambda s, g, r: r * s.x, _is_power),
    Change(D, f"{the} lacks a factor f, its value", lambda s, g, r: r / s.y, _is_power),
    Change(D, f"{the} has a factor f, its value, too much", lambda s, g, r: r * s.y, _is_power),
    Change(D, f"{the} is replaced by its absolute value", lambda s, g, r: g * np.abs(s.slope())),
    Change(D, f"{the} is replaced by the second derivative", _second_derivative, _is_curved),
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

ABS = (Change(M, "the sign of {x} is left out of the derivative of {f}", lambda s, g, r: g),)

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
    Change(
        Kind.ORDER,
        "in the product {f}, the entries of {other} stand in reversed order",
        lambda s, g, r: like(g * np.flip(s.other), s.x),
        lambda s: s.other.size > 1,
    ),
    Change(
        Kind.CONJUGATE,
        "in the product {f}, {other} stands in place of its complex conjugate, or the other way round",
        lambda s, g, r: like(g * np.conj(s.other), s.x),
        lambda s: s.other.dtype.kind == "c",
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
