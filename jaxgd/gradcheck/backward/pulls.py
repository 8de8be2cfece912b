"""The product of a cotangent with a local derivative, for each operation of the tape."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgd.gradcheck.backward.arithmetic import UNARY, Params, Primitive, bind, dot, is_real, slices, solve_triangular
from jaxgd.gradcheck.programs import quick


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
    out[(slice(None), *slices(local.params))] = ahead
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
    product = dot(ahead, other, ((rest, free[there]), (list(range(1, 1 + num_batch)), batches[there])))
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
    if len(outs) == 1 and is_real([*values, *outs]):
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

    return jax.jit(program, compiler_options=quick())
