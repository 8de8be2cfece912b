"""The values of the operations of a jaxpr in NumPy; `pulls` has the products with their derivatives.

Nothing here is compiled. A search for a mistake runs a backward pass thousands of times on small arrays, once; there
the compilation of a program takes a hundred times longer than its arithmetic. A cotangent has a leading axis, one row
for every variant of the backward pass that is tried at the same time.

An operation that is not in the tables is evaluated and differentiated by JAX, so the tables limit the speed and not
what can be read.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy  # loads scipy.special at its first use, which `import jaxgd` need not wait for

Params = Mapping[str, Any]


class Unary(NamedTuple):
    """An elementwise function of one array.

    Attributes:
      value: `(x, params) -> y`.
      slope: `(x, y, params) -> dy/dx`.
    """

    value: Callable[[Any, Params], Any]
    slope: Callable[[Any, Any, Params], Any]


def _flat(x: Any, y: Any, params: Params) -> Any:
    del y, params
    return np.zeros_like(x)


UNARY: dict[str, Unary] = {
    "neg": Unary(lambda x, p: -x, lambda x, y, p: -np.ones_like(x)),
    "exp": Unary(lambda x, p: np.exp(x), lambda x, y, p: y),
    "exp2": Unary(lambda x, p: np.exp2(x), lambda x, y, p: y * np.log(2.0)),
    "expm1": Unary(lambda x, p: np.expm1(x), lambda x, y, p: y + 1),
    "log": Unary(lambda x, p: np.log(x), lambda x, y, p: 1 / x),
    "log1p": Unary(lambda x, p: np.log1p(x), lambda x, y, p: 1 / (1 + x)),
    "sqrt": Unary(lambda x, p: np.sqrt(x), lambda x, y, p: 0.5 / y),
    "rsqrt": Unary(lambda x, p: 1 / np.sqrt(x), lambda x, y, p: -0.5 * y / x),
    "square": Unary(lambda x, p: x * x, lambda x, y, p: 2 * x),
    "integer_pow": Unary(lambda x, p: _power(x, p["y"]), lambda x, y, p: p["y"] * _power(x, p["y"] - 1)),
    "sin": Unary(lambda x, p: np.sin(x), lambda x, y, p: np.cos(x)),
    "cos": Unary(lambda x, p: np.cos(x), lambda x, y, p: -np.sin(x)),
    "tan": Unary(lambda x, p: np.tan(x), lambda x, y, p: 1 + y * y),
    "sinh": Unary(lambda x, p: np.sinh(x), lambda x, y, p: np.cosh(x)),
    "cosh": Unary(lambda x, p: np.cosh(x), lambda x, y, p: np.sinh(x)),
    "tanh": Unary(lambda x, p: np.tanh(x), lambda x, y, p: 1 - y * y),
    "atan": Unary(lambda x, p: np.arctan(x), lambda x, y, p: 1 / (1 + x * x)),
    "asin": Unary(lambda x, p: np.arcsin(x), lambda x, y, p: 1 / np.sqrt(1 - x * x)),
    "acos": Unary(lambda x, p: np.arccos(x), lambda x, y, p: -1 / np.sqrt(1 - x * x)),
    "asinh": Unary(lambda x, p: np.arcsinh(x), lambda x, y, p: 1 / np.sqrt(1 + x * x)),
    "acosh": Unary(lambda x, p: np.arccosh(x), lambda x, y, p: 1 / np.sqrt(x * x - 1)),
    "atanh": Unary(lambda x, p: np.arctanh(x), lambda x, y, p: 1 / (1 - x * x)),
    "cbrt": Unary(lambda x, p: np.cbrt(x), lambda x, y, p: y / (3 * x)),
    "digamma": Unary(lambda x, p: scipy.special.digamma(x), lambda x, y, p: scipy.special.polygamma(1, x)),
    "logistic": Unary(lambda x, p: scipy.special.expit(x), lambda x, y, p: y * scipy.special.expit(-x)),
    "erf": Unary(lambda x, p: scipy.special.erf(x), lambda x, y, p: 2 / np.sqrt(np.pi) * np.exp(-x * x)),
    "erfc": Unary(lambda x, p: scipy.special.erfc(x), lambda x, y, p: -2 / np.sqrt(np.pi) * np.exp(-x * x)),
    "lgamma": Unary(lambda x, p: scipy.special.gammaln(x), lambda x, y, p: scipy.special.digamma(x)),
    "abs": Unary(lambda x, p: np.abs(x), lambda x, y, p: np.where(x >= 0, 1.0, -1.0)),
    "sign": Unary(lambda x, p: np.sign(x), _flat),
    "floor": Unary(lambda x, p: np.floor(x), _flat),
    "ceil": Unary(lambda x, p: np.ceil(x), _flat),
    "copy": Unary(lambda x, p: x, lambda x, y, p: np.ones_like(x)),
    "copy_p": Unary(lambda x, p: x, lambda x, y, p: np.ones_like(x)),
    "stop_gradient": Unary(lambda x, p: x, lambda x, y, p: np.ones_like(x)),
}
"""Elementwise functions of one array. Complex arrays are left to JAX."""


def _power(x: Any, exponent: int) -> Any:
    return x**exponent if exponent >= 0 else 1 / x**-exponent


VALUES: dict[str, Callable[..., Any]] = {
    "add": lambda p, x, y: x + y,
    "add_any": lambda p, x, y: x + y,
    "sub": lambda p, x, y: x - y,
    "mul": lambda p, x, y: x * y,
    "max": lambda p, x, y: np.maximum(x, y),
    "min": lambda p, x, y: np.minimum(x, y),
    "eq": lambda p, x, y: x == y,
    "ne": lambda p, x, y: x != y,
    "lt": lambda p, x, y: x < y,
    "le": lambda p, x, y: x <= y,
    "gt": lambda p, x, y: x > y,
    "ge": lambda p, x, y: x >= y,
    "reshape": lambda p, x: np.reshape(x, p["new_sizes"]),
    "squeeze": lambda p, x: np.squeeze(x, tuple(p["dimensions"])),
    "expand_dims": lambda p, x: np.expand_dims(x, tuple(p["dimensions"])),
    "transpose": lambda p, x: np.transpose(x, p["permutation"]),
    "rev": lambda p, x: np.flip(x, tuple(p["dimensions"])),
    "concatenate": lambda p, *xs: np.concatenate(xs, p["dimension"]),
    "slice": lambda p, x: x[slices(p)],
    "select_n": lambda p, which, *cases: _select(which, cases),
    "reduce_sum": lambda p, x: np.sum(x, tuple(p["axes"]), dtype=x.dtype),
    "reduce_max": lambda p, x: np.max(x, tuple(p["axes"])),
    "reduce_min": lambda p, x: np.min(x, tuple(p["axes"])),
    "broadcast_in_dim": lambda p, x, *_: _broadcast(x, p),
    "iota": lambda p: _iota(p),
    "dot_general": lambda p, x, y: dot(x, y, p["dimension_numbers"]),
    "triangular_solve": lambda p, a, b: solve_triangular(p, a, b),
    "index": lambda p, x: x[p["index"]],
    "stack": lambda p, *xs: np.stack(xs, p.get("axis", 0)),
}
"""Values of operations on real arrays; `index` takes the element of a scan's input."""


def slices(p: Params) -> tuple[slice, ...]:
    """The index of a `slice` operation."""
    strides = p["strides"] or (1,) * len(p["start_indices"])
    return tuple(slice(*bounds) for bounds in zip(p["start_indices"], p["limit_indices"], strides, strict=True))


def _select(which: Any, cases: Sequence[Any]) -> Any:
    if len(cases) == 2:
        return np.where(which, cases[1], cases[0])
    return np.choose(np.broadcast_to(which, np.shape(cases[0])), cases)


def _broadcast(x: Any, p: Params) -> Any:
    spread = [1] * len(p["shape"])
    for axis, target in enumerate(p["broadcast_dimensions"]):
        spread[target] = x.shape[axis]
    return np.broadcast_to(x.reshape(spread), p["shape"])


def _iota(p: Params) -> Any:
    shape = [1] * len(p["shape"])
    shape[p["dimension"]] = -1
    return np.broadcast_to(np.arange(p["shape"][p["dimension"]]).reshape(shape), p["shape"]).astype(p["dtype"])


def dot(left: Any, right: Any, numbers: Any) -> Any:
    """`dot_general`: batch axes, then the free ones of the left array, then those of the right one."""
    (left_sum, right_sum), (left_batch, right_batch) = numbers
    left_free = [axis for axis in range(left.ndim) if axis not in (*left_sum, *left_batch)]
    right_free = [axis for axis in range(right.ndim) if axis not in (*right_sum, *right_batch)]
    batch = [left.shape[axis] for axis in left_batch]
    count = int(np.prod([left.shape[axis] for axis in left_sum], dtype=int))
    matrices = (
        left.transpose(*left_batch, *left_free, *left_sum).reshape(*batch, -1, count)
        if left.size
        else np.zeros((*batch, int(np.prod([left.shape[a] for a in left_free], dtype=int)), count)),
        right.transpose(*right_batch, *right_sum, *right_free).reshape(*batch, count, -1)
        if right.size
        else np.zeros((*batch, count, int(np.prod([right.shape[a] for a in right_free], dtype=int)))),
    )
    shape = (*batch, *(left.shape[axis] for axis in left_free), *(right.shape[axis] for axis in right_free))
    return np.matmul(*matrices).reshape(shape)


def solve_triangular(p: Params, a: Any, b: Any) -> Any:
    """`a x = b`, or `x a = b`, with a triangle of `a`, which may have to be transposed.

    Args:
      p: parameters of the primitive.
      a: `[..., n, n]`.
      b: `[..., n, k]`, or `[..., k, n]` if the matrix stands on the right.

    Returns:
      `x`, like `b`.
    """
    a = np.tril(a) if p["lower"] else np.triu(a)
    if p["unit_diagonal"]:
        a = a - a * np.eye(a.shape[-1]) + np.eye(a.shape[-1])
    a = np.swapaxes(a, -1, -2) if p["transpose_a"] else a
    if p["left_side"]:
        return np.linalg.solve(a, b)
    return np.swapaxes(np.linalg.solve(np.swapaxes(a, -1, -2), np.swapaxes(b, -1, -2)), -1, -2)


class Primitive(NamedTuple):
    """An operation without its inputs.

    Attributes:
      name: of the primitive.
      params: of the primitive.
      eqn: the equation, by which JAX evaluates what is not in the tables.
    """

    name: str
    params: Params
    eqn: Any


def is_real(values: Sequence[Any]) -> bool:
    """Whether all arrays hold real numbers, integers or booleans of NumPy's own dtypes."""
    return all(value.dtype.kind in "fiub" for value in values)


def evaluate(primitive: Primitive, values: Sequence[Any]) -> list[Any]:
    """The outputs of an operation."""
    if is_real(values):
        name, params = primitive.name, primitive.params
        with np.errstate(all="ignore"):
            if name in UNARY:
                return [np.asarray(UNARY[name].value(values[0], params))]
            if name in VALUES:
                return [np.asarray(VALUES[name](params, *values))]
            if name == "div" and values[0].dtype.kind == "f":
                return [np.asarray(values[0] / values[1])]
            if name == "pow" and values[0].dtype.kind == "f":
                return [np.asarray(np.power(values[0], values[1]))]
            if name == "convert_element_type":
                return [values[0].astype(params["new_dtype"])]
    return [np.asarray(value) for value in bind(primitive.eqn, values)]


def bind(eqn: Any, values: Sequence[Any]) -> list[Any]:
    """Evaluate an equation by JAX."""
    result = eqn.primitive.bind(*values, **eqn.primitive.get_bind_params(eqn.params))
    return list(result) if eqn.primitive.multiple_results else [result]


ELEMENTWISE = frozenset(
    {*UNARY, "add", "add_any", "sub", "mul", "div", "pow", "max", "min", "select_n", "convert_element_type", "clamp"}
)
"""Operations whose every entry of the output depends on the same entry of each input."""
