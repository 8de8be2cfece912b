"""The operations of a jaxpr in NumPy: their values, and the products of a cotangent with their local derivatives.

Nothing here is compiled. A search for a mistake runs a backward pass thousands of times on small arrays, once; there
the compilation of a program takes a hundred times longer than its arithmetic. A cotangent has a leading axis, one row
for every variant of the backward pass that is tried at the same time.

An operation that is not in the tables is evaluated and differentiated by JAX, so the tables limit the speed and not
what can be read.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special

from jaxgd.gradcheck.programs import QUICK

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
    "slice": lambda p, x: x[_slices(p)],
    "select_n": lambda p, which, *cases: _select(which, cases),
    "reduce_sum": lambda p, x: np.sum(x, tuple(p["axes"]), dtype=x.dtype),
    "reduce_max": lambda p, x: np.max(x, tuple(p["axes"])),
    "reduce_min": lambda p, x: np.min(x, tuple(p["axes"])),
    "broadcast_in_dim": lambda p, x, *_: _broadcast(x, p),
    "iota": lambda p: _iota(p),
    "dot_general": lambda p, x, y: _dot(x, y, p["dimension_numbers"]),
    "triangular_solve": lambda p, a, b: solve_triangular(p, a, b),
    "index": lambda p, x: x[p["index"]],
    "stack": lambda p, *xs: np.stack(xs, p.get("axis", 0)),
}
"""Values of operations on real arrays; `index` takes the element of a scan's input."""


def _slices(p: Params) -> tuple[slice, ...]:
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


def _dot(left: Any, right: Any, numbers: Any) -> Any:
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


class Local(NamedTuple):
    """One operation at a point, seen from one of its inputs.

    Attributes:
      params: of the primitive.
      values: the inputs.
      out: the first output.
      position: which input is meant.
    """

    params: Params
    values: Sequence[Any]
    out: Any
    position: int

    @property
    def moving(self) -> Any:
        """The input that is meant."""
        return self.values[self.position]

    @property
    def other(self) -> Any:
        """The other input of an operation on two."""
        return self.values[1 - self.position]


def like(cotangent: Any, value: Any) -> Any:
    """Sum a cotangent `[C, ...]` over the axes along which an elementwise operation has broadcast its input."""
    if np.ndim(value) == 0 and cotangent.ndim > 1:
        return cotangent.sum(tuple(range(1, cotangent.ndim)))
    if cotangent.shape[1:] != value.shape:
        axes = tuple(a + 1 for a, length in enumerate(value.shape) if length == 1 and cotangent.shape[a + 1] != 1)
        return cotangent.sum(axes, keepdims=True) if axes else cotangent
    return cotangent


def _ties(local: Local, ahead: Any) -> Any:
    wins = np.where(local.moving == local.out, 1.0, 0.0)
    return like(ahead * wins / np.where(local.values[0] == local.values[1], 2.0, 1.0), local.moving)


def _pull_concatenate(local: Local, ahead: Any) -> Any:
    axis = local.params["dimension"]
    start = sum(value.shape[axis] for value in local.values[: local.position])
    return np.take(ahead, range(start, start + local.moving.shape[axis]), axis + 1)


def _pull_slice(local: Local, ahead: Any) -> Any:
    out = np.zeros((len(ahead), *local.moving.shape), ahead.dtype)
    out[(slice(None), *_slices(local.params))] = ahead
    return out


def _pull_index(local: Local, ahead: Any) -> Any:
    out = np.zeros((len(ahead), *local.moving.shape), ahead.dtype)
    out[:, local.params["index"]] = ahead
    return out


def _pull_select(local: Local, ahead: Any) -> Any:
    which = np.asarray(local.values[0])
    return like(np.where(which == bool(local.position - 1) if which.dtype == bool else which == local.position - 1,
                         ahead, 0), local.moving)  # fmt: skip


def expand(cotangent: Any, axes: Sequence[int], shape: Sequence[int]) -> Any:
    """Spread what a reduction over `axes` is sent back over its input of a shape."""
    return np.broadcast_to(np.expand_dims(cotangent, tuple(a + 1 for a in axes)), (len(cotangent), *shape))


def _pull_extreme(local: Local, ahead: Any) -> Any:
    axes = tuple(local.params["axes"])
    hit = (local.moving == np.expand_dims(local.out, axes)).astype(float)
    return expand(ahead, axes, local.moving.shape) * hit / hit.sum(axes, keepdims=True)


def _pull_broadcast(local: Local, ahead: Any) -> Any:
    kept = local.params["broadcast_dimensions"]
    shape = local.moving.shape
    summed = tuple(
        axis + 1
        for axis in range(ahead.ndim - 1)
        if axis not in kept or shape[list(kept).index(axis)] != ahead.shape[axis + 1]
    )
    return ahead.sum(summed).reshape(len(ahead), *shape)


def _pull_dot(local: Local, ahead: Any) -> Any:
    (sums, batches) = local.params["dimension_numbers"]
    here, there = local.position, 1 - local.position
    other, moving = local.other, local.moving
    free = {k: [a for a in range(local.values[k].ndim) if a not in (*sums[k], *batches[k])] for k in (0, 1)}
    num_batch, first = len(batches[0]), len(free[0])
    # Axes of `ahead`: variants, batch, the free ones of the left input, the free ones of the right one.
    rest = [1 + num_batch + i + (first if there == 1 else 0) for i in range(len(free[there]))]
    product = _dot(ahead, other, ((rest, free[there]), (list(range(1, 1 + num_batch)), batches[there])))
    # Axes of `product`: batch, variants, the free ones of this input, the summed ones in the order of the other.
    summed = sorted(range(len(sums[there])), key=lambda i: sums[there][i])
    order = [0] * moving.ndim
    for i, axis in enumerate(batches[here]):
        order[axis] = i
    for i, axis in enumerate(free[here]):
        order[axis] = num_batch + 1 + i
    for i, which in enumerate(summed):
        order[sums[here][which]] = num_batch + 1 + len(free[here]) + i
    return product.transpose(num_batch, *order)


def _pull_triangular_solve(local: Local, ahead: Any) -> Any:
    p = local.params
    db = solve_triangular({**p, "transpose_a": not p["transpose_a"]}, local.values[0], ahead)
    if local.position == 1:
        return db
    x = np.swapaxes(local.out, -1, -2)
    da = -(db @ x) if p["left_side"] else -(x @ db)
    da = np.swapaxes(da, -1, -2) if p["transpose_a"] else da
    da = np.tril(da) if p["lower"] else np.triu(da)
    return da - da * np.eye(da.shape[-1]) if p["unit_diagonal"] else da


PULLS: dict[str, Callable[[Local, Any], Any]] = {
    "add": lambda local, ahead: like(ahead, local.moving),
    "add_any": lambda local, ahead: like(ahead, local.moving),
    "sub": lambda local, ahead: like(ahead if local.position == 0 else -ahead, local.moving),
    "mul": lambda local, ahead: like(ahead * local.other, local.moving),
    "div": lambda local, ahead: like(
        ahead / local.other if local.position == 0 else -ahead * local.out / local.moving, local.moving
    ),
    "pow": lambda local, ahead: like(ahead * _slope_of_power(local), local.moving),
    "rem": lambda local, ahead: like(
        ahead if local.position == 0 else -ahead * np.trunc(local.values[0] / local.values[1]), local.moving
    ),
    "max": _ties,
    "min": _ties,
    "convert_element_type": lambda local, ahead: ahead.astype(local.moving.dtype),
    "reshape": lambda local, ahead: ahead.reshape(len(ahead), *local.moving.shape),
    "squeeze": lambda local, ahead: ahead.reshape(len(ahead), *local.moving.shape),
    "expand_dims": lambda local, ahead: ahead.reshape(len(ahead), *local.moving.shape),
    "transpose": lambda local, ahead: ahead.transpose(0, *(1 + np.argsort(local.params["permutation"]))),
    "rev": lambda local, ahead: np.flip(ahead, tuple(1 + axis for axis in local.params["dimensions"])),
    "concatenate": _pull_concatenate,
    "slice": _pull_slice,
    "select_n": _pull_select,
    "reduce_sum": lambda local, ahead: expand(ahead, local.params["axes"], local.moving.shape),
    "reduce_max": _pull_extreme,
    "reduce_min": _pull_extreme,
    "broadcast_in_dim": _pull_broadcast,
    "dot_general": _pull_dot,
    "index": _pull_index,
    "triangular_solve": _pull_triangular_solve,
    "stack": lambda local, ahead: np.take(ahead, local.position, 1 + local.params.get("axis", 0)),
}
"""The cotangent of one input: `(local, cotangent [C, ...] of the output) -> [C, ...]`."""


def _slope_of_power(local: Local) -> Any:
    base, exponent = local.values
    if local.position == 0:
        return np.where(exponent == 0, 0.0, exponent * np.power(base, np.where(exponent == 0, 1.0, exponent - 1)))
    return np.where(base == 0, 0.0, np.log(np.where(base == 0, 1.0, base)) * local.out)


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


def _real(values: Sequence[Any]) -> bool:
    return all(value.dtype.kind in "fiub" for value in values)


def evaluate(primitive: Primitive, values: Sequence[Any]) -> list[Any]:
    """The outputs of an operation.

    Args:
      primitive: the operation.
      values: NumPy arrays.

    Returns:
      NumPy arrays.
    """
    if _real(values):
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
    """Evaluate an equation by JAX.

    Args:
      eqn: of a jaxpr.
      values: its inputs.

    Returns:
      Its outputs.
    """
    result = eqn.primitive.bind(*values, **eqn.primitive.get_bind_params(eqn.params))
    return list(result) if eqn.primitive.multiple_results else [result]


def pull(primitive: Primitive, values: Sequence[Any], outs: Sequence[Any], ahead: Sequence[Any], position: int) -> Any:
    """The cotangent of one input of an operation.

    Args:
      primitive: the operation.
      values: its inputs.
      outs: its outputs.
      ahead: `[C, ...]` for each output, its cotangent; None where it has none.
      position: of the input.

    Returns:
      `[C, ...]`.
    """
    name = primitive.name
    if len(outs) == 1 and _real([*values, *outs]):
        local = Local(primitive.params, values, outs[0], position)
        with np.errstate(all="ignore"):
            if name in UNARY:
                return ahead[0] * UNARY[name].slope(values[0], outs[0], primitive.params)
            if name in PULLS:
                return PULLS[name](local, ahead[0])
    return _pull_by_jax(primitive, values, outs, ahead, position)


BATCHES = (1, 64, 1024)


def _pull_by_jax(
    primitive: Primitive, values: Sequence[Any], outs: Sequence[Any], ahead: Sequence[Any], position: int
) -> Any:
    moves = [jnp.issubdtype(out.dtype, jnp.inexact) for out in outs]
    count = max(len(ct) for ct in ahead if ct is not None)
    # Few sizes of the leading axis: the program is compiled once for each.
    size = next((size for size in BATCHES if size >= count), count)
    batch = []
    for ct, out in zip(ahead, outs, strict=True):
        full = np.zeros((size, *np.shape(out)), out.dtype)
        if ct is not None and jnp.issubdtype(out.dtype, jnp.inexact):
            full[: len(ct)] = ct
        batch.append(full)
    inexact = [full for full, moving in zip(batch, moves, strict=True) if moving]
    try:
        pulled = _pull_program(primitive.eqn, position, True)(list(values), inexact)
    except NotImplementedError:  # an operation without a rule for vmap
        program = _pull_program(primitive.eqn, position, False)
        pulled = np.stack([np.asarray(program(list(values), [ct[row] for ct in inexact])) for row in range(size)])
    return np.asarray(pulled)[:count]


@functools.lru_cache(maxsize=64)
def _pull_program(eqn: Any, position: int, batched: bool) -> Any:
    """The compiled product of a cotangent with the local derivative of an equation."""

    def program(values: list[Any], inexact: list[Any]) -> Any:
        # custom_linear_solve fails if one of its inputs is held, custom_vjp if one moves that it does not expect.
        together = eqn.primitive.name == "custom_linear_solve"
        moving = [
            i
            for i, value in enumerate(values)
            if i == position or (together and jnp.issubdtype(value.dtype, jnp.inexact))
        ]

        def function(*moved: Any) -> list[Any]:
            full = list(values)
            for i, value in zip(moving, moved, strict=True):
                full[i] = value
            return [out for out in bind(eqn, full) if jnp.issubdtype(out.dtype, jnp.inexact)]

        _, back = jax.vjp(function, *[values[i] for i in moving])
        which = moving.index(position)
        return jax.vmap(lambda cts: back(cts)[which])(inexact) if batched else back(inexact)[which]

    return jax.jit(program, compiler_options=QUICK)


ELEMENTWISE = frozenset(
    {*UNARY, "add", "add_any", "sub", "mul", "div", "pow", "max", "min", "select_n", "convert_element_type", "clamp"}
)
"""Operations whose every entry of the output depends on the same entry of each input."""
