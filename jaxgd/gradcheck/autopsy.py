"""The backward pass of a loss, taken apart at its jaxpr, so that it can be run with one step changed.

The right backward pass is a sum over paths of products of local derivatives, one for each operation of the loss.
People's mistakes are edits of it: a local derivative left out or replaced, a path cut, a mask of another array. Here
every operation gets its list of edits, and one compiled program runs the pass under any of them: the number of the
edit is data, so that `jax.vmap` tries many at once.
"""

import collections
import functools
import linecache
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgd.gradcheck.functions import QUICK, Loss
from jaxgd.gradcheck.inputs import Arrays, Layout, Point
from jaxgd.gradcheck.precision import precision
from jaxgd.gradcheck.report import Kind


@functools.cache
def _extend() -> Any:
    """`jax.extend`, whose import takes a tenth of a second: only where something is checked."""
    import jax.extend

    return jax.extend


CALLS = {"jit": "jaxpr", "pjit": "jaxpr", "closed_call": "call_jaxpr", "checkpoint": "jaxpr", "remat": "jaxpr"}
"""Primitives that only call a program, and the name of the program among their parameters."""

# fmt: off
LINEAR = frozenset({
        "add", "sub", "neg", "add_any", "convert_element_type", "reshape", "transpose", "squeeze",
        "broadcast_in_dim", "reduce_sum", "concatenate", "slice", "dynamic_slice", "gather", "scatter",
        "scatter-add", "copy", "pad", "rev", "dot_general", "conv_general_dilated", "cumsum", "select_n",
        "mul", "div", "reduce_precision", "optimization_barrier", "while", "scan", "cond",
})
# fmt: on
"""Primitives whose own derivative is no function that could be forgotten, or that have edits of their own."""

MAX_EDITS = 3000
MAX_MASKS = 8


class Edit(NamedTuple):
    """One change of the backward pass.

    Attributes:
      kind: what to call it.
      words: what is changed, in words.
      place: where in the loss, quoted.
      group: its numbers of the groups of edits that are the same change of the same input, made in every operation
        of one line of source, and in every operation of the loss.
    """

    kind: Kind
    words: str
    place: str
    group: tuple[int, int] = (-1, -1)


class _Step(NamedTuple):
    """One operation that was run: its inputs and outputs as numbers of values on the tape."""

    eqn: Any
    ins: list[int]
    outs: list[int]


class _Tape:
    """A program run forward, every value kept.

    Attributes:
      values: of every variable.
      active: whether the variable depends on an input that is differentiated by.
      steps: the operations that do.
      outs: numbers of the outputs.
    """

    def __init__(self, closed: Any, inputs: Sequence[Any], active: Sequence[bool], *, through: bool) -> None:
        self.through = through
        self.values: list[Any] = []
        self.active: list[bool] = []
        self.steps: list[_Step] = []
        numbers = [self._new(value, is_active) for value, is_active in zip(inputs, active, strict=True)]
        self.outs = self._run(closed.jaxpr, closed.consts, numbers)

    def _new(self, value: Any, active: bool) -> int:
        self.values.append(value)
        self.active.append(active and jnp.issubdtype(jnp.result_type(value), jnp.floating))
        return len(self.values) - 1

    def _run(self, jaxpr: Any, consts: Sequence[Any], numbers: Sequence[int]) -> list[int]:
        env: dict[Any, int] = {}
        for var, const in zip(jaxpr.constvars, consts, strict=True):
            env[var] = self._new(const, False)
        env.update(zip(jaxpr.invars, numbers, strict=True))

        def read(atom: Any) -> int:
            return self._new(atom.val, False) if isinstance(atom, _extend().core.Literal) else env[atom]

        for eqn in jaxpr.eqns:
            ins = [read(atom) for atom in eqn.invars]
            name = eqn.primitive.name
            if name == "stop_gradient":
                outs = ins if self.through else [self._new(self.values[i], False) for i in ins]
            elif name in CALLS and CALLS[name] in eqn.params:
                outs = self._call(eqn.params[CALLS[name]], ins)
            elif self.through and name.startswith("custom_vjp_call") and "call_jaxpr" in eqn.params:
                outs = self._call(eqn.params["call_jaxpr"], ins)
            else:
                results = _bind(eqn, [self.values[i] for i in ins])
                active = any(self.active[i] for i in ins)
                outs = [self._new(value, active) for value in results]
                if active:
                    self.steps.append(_Step(eqn, ins, outs))
            env.update(zip(eqn.outvars, outs, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _call(self, inner: Any, ins: list[int]) -> list[int]:
        if hasattr(inner, "consts"):
            return self._run(inner.jaxpr, inner.consts, ins)
        return self._run(inner, (), ins)


def _bind(eqn: Any, values: Sequence[Any]) -> list[Any]:
    result = eqn.primitive.bind(*values, **eqn.primitive.get_bind_params(eqn.params))
    return list(result) if eqn.primitive.multiple_results else [result]


def backward(tape: _Tape, codes: Any, edits: list[Edit] | None) -> dict[int, Any]:
    """Reverse mode over a tape, changed by the edits whose numbers stand in `codes`.

    Args:
      tape: of a scalar program.
      codes: `[n]` integers, -1 for none.
      edits: filled with the edits in the order of their numbers; None runs the pass as it is.

    Returns:
      The cotangent of every value that has one, by its number.
    """
    cotangents: dict[int, Any] = {tape.outs[0]: jnp.ones_like(tape.values[tape.outs[0]])}
    for step in reversed(tape.steps):
        if not any(out in cotangents for out in step.outs):
            continue
        positions = [j for j, number in enumerate(step.ins) if tape.active[number]]
        values = [tape.values[number] for number in step.ins]

        def function(*moving: Any, step: _Step = step, positions: Any = positions, values: Any = values) -> list[Any]:
            full = list(values)
            for j, value in zip(positions, moving, strict=True):
                full[j] = value
            return _bind(step.eqn, full)

        results, pull = jax.vjp(function, *[values[j] for j in positions])
        incoming = [_cotangent(cotangents.get(out), value) for out, value in zip(step.outs, results, strict=True)]
        if edits is not None and step.eqn.primitive.name in ("dot_general", "add", "conv_general_dilated"):
            incoming[0] = _choose(_arrivals(step, results[0], incoming[0]), incoming[0], step, -1, codes, edits)
        pulled = pull(incoming)
        for j, cotangent in zip(positions, pulled, strict=True):
            if edits is not None:
                alternatives = _alternatives(tape, step, j, positions, function, incoming, cotangent)
                cotangent = _choose(alternatives, cotangent, step, j, codes, edits)
            number = step.ins[j]
            cotangents[number] = cotangents[number] + cotangent if number in cotangents else cotangent
    return cotangents


def _cotangent(cotangent: Any, value: Any) -> Any:
    if not jnp.issubdtype(jnp.result_type(value), jnp.floating):
        return np.zeros(jnp.shape(value), jax.dtypes.float0)
    return jnp.zeros_like(value) if cotangent is None else cotangent


def _choose(
    alternatives: Iterator[tuple[Kind, str, Any]],
    right: Any,
    step: _Step,
    position: int,
    codes: Any,
    edits: list[Edit],
) -> Any:
    """The alternative whose number stands in `codes`, or the right cotangent; numbers are given here."""

    def _group(what: tuple[Any, ...]) -> int:
        """A number beyond those of single edits, the same for the same change."""
        return MAX_EDITS + zlib.crc32(repr(what).encode()) % 2**30

    place = quote(step.eqn)
    chosen = right
    for kind, words, other in alternatives:
        if len(edits) < MAX_EDITS and jnp.shape(other) == jnp.shape(right):
            group = _group((words, position, place)), _group((words, position))
            hit = jnp.any(jnp.isin(codes, jnp.array([len(edits), *group])))
            chosen = jnp.where(hit, other.astype(right.dtype), chosen)
            edits.append(Edit(kind, words, place, group))
    return chosen


def _arrivals(step: _Step, out: Any, ahead: Any) -> Iterator[tuple[Kind, str, Any]]:
    """What people make of the whole cotangent of the value of an affine map, which may be used several times."""
    name = name_of(step.eqn)
    f = jax.nn.sigmoid(out)
    yield Kind.DERIVATIVE, f"behind {name} stands a factor f (1 - f) of a sigmoid too much", ahead * f * (1 - f)
    yield Kind.DERIVATIVE, f"behind {name} stands a factor 1 - tanh^2 too much", ahead * (1 - jnp.tanh(out) ** 2)
    yield Kind.MASK, f"behind {name} stands a ReLU's mask too much", jnp.where(out > 0, ahead, 0)
    yield Kind.DERIVATIVE, f"behind {name} stands its own value as a factor too much", ahead * out


def _alternatives(
    tape: _Tape,
    step: _Step,
    position: int,
    positions: list[int],
    function: Callable[..., list[Any]],
    incoming: list[Any],
    right: Any,
) -> Iterator[tuple[Kind, str, Any]]:
    """What people write for the cotangent `right` of one input of an operation; the likelier first."""
    name = name_of(step.eqn)
    values = [tape.values[number] for number in step.ins]
    moving = values[position]
    out = tape.values[step.outs[0]]
    ahead = incoming[0]

    def summed(value: Any) -> Any:
        """The cotangent of a scalar that was broadcast."""
        return jnp.sum(value) if jnp.shape(moving) == () else value

    alike = len(step.outs) == 1 and jnp.shape(out) == jnp.shape(moving) == jnp.shape(ahead)
    masks = step.eqn.primitive.name in ("max", "min", "select_n", "abs") or "relu" in name
    if alike and len(positions) == 1 and step.eqn.primitive.name not in LINEAR:
        _, pull = jax.vjp(lambda x: function(x), moving)
        slope = pull([jnp.ones_like(out)])[0]
        _, pull_at_out = jax.vjp(lambda x: function(x), out)
        the = f"the derivative of {name}"
        yield Kind.DERIVATIVE, f"{the} is left out", ahead
        yield Kind.DERIVATIVE, f"{name} itself stands for its derivative", ahead * out
        yield Kind.DERIVATIVE, f"1 - f stands for {the}, f", ahead * (1 - out)
        yield Kind.DERIVATIVE, f"1 - f^2 stands for {the}, f", ahead * (1 - out * out)
        yield Kind.DERIVATIVE, f"f (1 - f) stands for {the}, f", ahead * out * (1 - out)
        yield Kind.DERIVATIVE, f"f^2 stands for {the}, f", ahead * out * out
        yield Kind.DERIVATIVE, f"1 + f^2 stands for {the}, f", ahead * (1 + out * out)
        yield Kind.DERIVATIVE, f"f (1 + f) stands for {the}, f", ahead * out * (1 + out)
        yield Kind.DERIVATIVE, f"{the} is taken at its value instead of its argument", pull_at_out([ahead])[0]
        yield Kind.DERIVATIVE, f"the argument of {name} stands for its derivative", ahead * moving
        yield Kind.DERIVATIVE, f"x (1 - x) at the argument x stands for {the}", ahead * moving * (1 - moving)
        yield Kind.DERIVATIVE, f"{the} is taken twice", right * slope
        yield Kind.DERIVATIVE, f"{the} is divided by instead of multiplied with", ahead / slope
        yield Kind.DERIVATIVE, f"{the} lacks a power of its argument", right / moving
        yield Kind.DERIVATIVE, f"{the} has a power of its argument too much", right * moving
        yield Kind.DERIVATIVE, f"{the} is multiplied with its value", right * out
        yield Kind.DERIVATIVE, f"{the} is divided by its value", right / out
        yield Kind.DERIVATIVE, f"the square root of {the} is taken", ahead * jnp.sqrt(jnp.abs(slope))
    if masks and alike:
        yield Kind.MASK, f"the mask of {name} is left out", ahead
        yield Kind.MASK, f"the mask of {name} is inverted", ahead - right
        yield Kind.MASK, f"the mask of {name} is taken from the gradient that arrives", jnp.where(ahead > 0, ahead, 0)
        others = [
            (number, value)
            for number, value in enumerate(tape.values)
            if jnp.shape(value) == jnp.shape(moving)
            and number not in step.ins
            and number not in step.outs
            and jnp.issubdtype(jnp.result_type(value), jnp.floating)
        ]
        for _, value in others[-MAX_MASKS:]:
            yield Kind.MASK, f"the mask of {name} is taken from another array", jnp.where(value > 0, ahead, 0)
        for _, value in others[-MAX_MASKS:]:
            yield Kind.MASK, f"the mask of {name} is taken from another array", jnp.where(value > 0, 0, ahead)
    if step.eqn.primitive.name in ("mul", "div") and jnp.shape(moving) in ((), jnp.shape(ahead)):
        other = values[1 - position]
        if step.eqn.primitive.name == "mul":
            yield Kind.DERIVATIVE, "in a product the other factor is left out", summed(ahead)
            yield Kind.DERIVATIVE, "in a product the factor itself stands for the other one", summed(ahead * moving)
            yield Kind.DERIVATIVE, "in a product the product itself stands for the other factor", summed(ahead * out)
            yield Kind.DERIVATIVE, "in a product the other factor is divided by", summed(ahead / other)
            yield Kind.DERIVATIVE, "in a product the other factor is taken twice", summed(ahead * other * other)
            yield Kind.DERIVATIVE, "1 - x stands for the other factor x of a product", summed(ahead * (1 - other))
        elif position == 0:
            yield Kind.DERIVATIVE, "the denominator of a quotient is left out", summed(ahead)
            yield Kind.DERIVATIVE, "the denominator of a quotient is multiplied with", summed(ahead * other)
            yield Kind.DERIVATIVE, "the denominator of a quotient is taken twice", summed(ahead / other / other)
        else:
            yield Kind.DERIVATIVE, "the denominator of a quotient lacks its square", right * moving
            yield Kind.DERIVATIVE, "the numerator of a quotient is left out", summed(-ahead / (moving * moving))
            yield Kind.DERIVATIVE, "the denominator of a quotient is left out", right * moving * moving
            yield Kind.DERIVATIVE, "the quotient stands for its derivative", summed(ahead * out)
    if step.eqn.primitive.name == "dot_general":
        other = values[1 - position]
        if other.ndim == 2 and other.shape[0] == other.shape[1] and len(step.ins) == 2:
            swapped = list(values)
            swapped[1 - position] = other.T

            pull = jax.vjp(lambda x: _bind(step.eqn, _with(swapped, position, x)), moving)[1]
            yield Kind.TRANSPOSED, "the other matrix of a product is not transposed", pull([ahead])[0]
        for number, value in enumerate(tape.values):
            if (
                number == step.ins[1 - position]
                or jnp.shape(value) != jnp.shape(other)
                or not jnp.issubdtype(jnp.result_type(value), jnp.floating)
            ):
                continue
            elsewhere = list(values)
            elsewhere[1 - position] = value.astype(other.dtype)
            pull = jax.vjp(lambda x, full=elsewhere: _bind(step.eqn, _with(full, position, x)), moving)[1]
            yield Kind.OPERAND, "the other matrix of a product is another array of its shape", pull([ahead])[0]
        if right.ndim == 2 and right.shape[0] == right.shape[1]:
            yield Kind.TRANSPOSED, "the result of a matrix product is transposed", right.T
    yield Kind.PATH, f"the path through {name} is left out", jnp.zeros_like(right)
    yield Kind.SIGN, f"the derivative of {name} has the wrong sign", -right
    yield Kind.FACTOR, f"the derivative of {name} is taken twice over (a factor 2 too much)", 2 * right
    yield Kind.FACTOR, f"the derivative of {name} is halved", right / 2
    ratio = int(np.size(right)) / max(int(np.size(ahead)), 1)
    if ratio != 1 and ratio > 0:
        size = max(ratio, 1 / ratio)
        yield Kind.FACTOR, f"a mean over {size:.0f} stands for the sum of {name}", right / size
        yield Kind.FACTOR, f"the derivative of {name} is {size:.0f} times too large: a sum for a mean", right * size
    if step.eqn.primitive.name == "broadcast_in_dim" and jnp.shape(moving) != jnp.shape(ahead):
        kept = step.eqn.params["broadcast_dimensions"]
        new_axes = [
            axis
            for axis in range(ahead.ndim)
            if axis not in kept or moving.shape[kept.index(axis)] != ahead.shape[axis]
        ]
        for words, index in (("first", 0), ("last", -1)):
            taken = ahead
            for axis in new_axes:
                taken = jnp.take(taken, jnp.array([index]), axis=axis, mode="wrap")
            yield (
                Kind.NOT_SUMMED,
                f"a broadcast is not summed: its {words} part is taken alone",
                taken.reshape(right.shape),
            )


def _with(values: Sequence[Any], position: int, value: Any) -> list[Any]:
    return [*values[:position], value, *values[position + 1 :]]


# Reading programs.


def name_of(eqn: Any) -> str:
    """What a reader calls an operation.

    Args:
      eqn: of a jaxpr.

    Returns:
      The name of the function for one with a rule of its own, otherwise of the primitive.
    """
    name = eqn.primitive.name
    if name.startswith("custom_jvp_call"):
        inner = eqn.params["call_jaxpr"].jaxpr
        if len(inner.eqns) == 1 and "name" in inner.eqns[0].params:
            return str(inner.eqns[0].params["name"])
        return str(getattr(inner.debug_info, "func_name", "a function with a rule of its own"))
    if name == "integer_pow":
        return "the square" if eqn.params["y"] == 2 else f"x^{eqn.params['y']}"
    return {"logistic": "sigmoid", "dot_general": "a matrix product", "reduce_sum": "a sum", "sub": "a difference",
            "add": "a sum of two", "mul": "a product", "div": "a quotient", "neg": "a negation",
            "broadcast_in_dim": "a broadcast", "square": "the square"}.get(name, name)  # fmt: skip


def quote(eqn: Any) -> str:
    """Where an operation stands in the loss.

    Args:
      eqn: of a jaxpr.

    Returns:
      `sigmoid(z) (model.py:12)`, the line of source and its place; "" where neither is known.
    """
    place = _extend().source_info_util.summarize(eqn.source_info).split(" (")[0]
    file, _, rest = place.partition(":")
    line = rest.partition(":")[0]
    if not line.isdigit():
        return ""
    text = linecache.getline(file, int(line)).strip()
    short = file.rpartition("/")[2]
    return f"`{text}` ({short}:{line})" if text else f"{short}:{line}"


def _eqns(jaxpr: Any) -> Iterator[Any]:
    for eqn in jaxpr.eqns:
        yield eqn
        for inner in _extend().core.jaxprs_in_params(eqn.params):
            yield from _eqns(getattr(inner, "jaxpr", inner))


def same_program(left: Any, right: Any) -> bool:
    """Whether two traces of a function are the same, constants included.

    Args:
      left: a closed jaxpr.
      right: another.

    Returns:
      The answer.
    """
    if [str(eqn.primitive) for eqn in _eqns(left.jaxpr)] != [str(eqn.primitive) for eqn in _eqns(right.jaxpr)]:
        return False
    literals = [
        [
            atom.val
            for eqn in _eqns(closed.jaxpr)
            for atom in eqn.invars
            if isinstance(atom, _extend().core.Literal)
        ]
        + [const for const in closed.consts if hasattr(const, "dtype")]
        for closed in (left, right)
    ]  # fmt: skip
    return len(literals[0]) == len(literals[1]) and all(
        a is b or np.array_equal(np.asarray(a), np.asarray(b), equal_nan=np.asarray(a).dtype.kind == "f")
        for a, b in zip(*literals, strict=True)
        if not jnp.issubdtype(jnp.result_type(a), jax.dtypes.extended)
    )


def coarsest(closed: Any) -> float:
    """The rounding unit of the coarsest floating dtype that a program computes in.

    Args:
      closed: a jaxpr traced at float64 inputs.

    Returns:
      2.2e-16 for float64 throughout.
    """
    units = [float(np.finfo(np.float64).eps)]
    for eqn in _eqns(closed.jaxpr):
        for var in eqn.outvars:
            dtype = getattr(var.aval, "dtype", None)
            if dtype is not None and jnp.issubdtype(dtype, jnp.floating) and var.aval.size > 0:
                units.append(float(jnp.finfo(dtype).eps))
    return max(units)


def name_of_unit(unit: float) -> str:
    """The dtype with a rounding unit.

    Args:
      unit: of the last place of 1.

    Returns:
      "float32" and the like.
    """
    for name in ("float64", "float32", "float16", "bfloat16"):
        if float(jnp.finfo(name).eps) == unit:
            return name
    return "a narrow floating type"


def hidden_rules(closed: Any) -> list[str]:
    """Where a program has rules of differentiation of its own, or stops gradients.

    Args:
      closed: a jaxpr.

    Returns:
      A few words on each.
    """
    found = []
    for eqn in _eqns(closed.jaxpr):
        name = eqn.primitive.name
        if name == "stop_gradient":
            found.append(f"stop_gradient at {quote(eqn)}")
        elif name.startswith("custom_vjp_call"):
            found.append(f"custom_vjp at {quote(eqn)}")
    return found


class Autopsy:
    """A loss taken apart at inputs of given shapes; see `autopsy_of`."""

    def __init__(self, loss: Loss, layout: Layout, *, through: bool) -> None:
        self.loss = loss
        self.layout = layout
        self.edits: list[Edit] = []
        self._see_through = through
        self._unedited = jax.jit(self._gradient)
        # Hundreds of small operations, run for milliseconds: what takes time is their compilation.
        self._tried = jax.jit(self._try_all, compiler_options=QUICK)
        self._of_rows = jax.jit(self._split_rows, static_argnums=1)

    def _tape(self, point: Point) -> tuple[_Tape, int]:
        closed = jax.make_jaxpr(lambda p: self.loss.scalar(self.layout, p))(point)
        leaves = jax.tree.leaves(point)
        count = len(point.params)
        return _Tape(closed, leaves, [i < count for i in range(len(leaves))], through=self._see_through), count

    def _gradient(self, point: Point) -> list[Any]:
        tape, count = self._tape(point)
        return self._collect(tape, backward(tape, None, None), count)

    @staticmethod
    def _collect(tape: _Tape, cotangents: dict[int, Any], count: int) -> list[Any]:
        return [cotangents.get(i, jnp.zeros_like(tape.values[i])) for i in range(count)]

    def gradient(self, point: Point) -> Arrays:
        """Reverse mode in float64, without an edit.

        Args:
          point: float64.

        Returns:
          Its leaves.
        """
        with precision(np.float64):
            return [np.asarray(leaf) for leaf in self._unedited(point)]

    def _try_all(self, point: Point, hand: Arrays, codes: Any) -> Any:
        """For each row of codes and each leaf: the misfit, the best constant, the misfit after it."""
        tape, count = self._tape(point)

        def measure(row: Any) -> Any:
            self.edits.clear()
            edited = self._collect(tape, backward(tape, row, self.edits), count)
            misfits, constants, scaled = [], [], []
            for leaf, target in zip(edited, hand, strict=True):
                top = jnp.max(jnp.abs(target), initial=0.0) + jnp.finfo(leaf.dtype).tiny
                constant = jnp.sum((leaf / top) * (target / top)) / jnp.sum((leaf / top) ** 2)
                constant = jnp.where(jnp.isfinite(constant), constant, 0.0)
                misfits.append(jnp.max(jnp.abs(leaf - target), initial=0.0) / top)
                constants.append(constant)
                scaled.append(jnp.max(jnp.abs(constant * leaf - target), initial=0.0) / top)
            return jnp.stack(misfits), jnp.stack(constants), jnp.stack(scaled)

        return jax.vmap(measure)(codes)

    def trial(self, point: Point, hand: Arrays, codes: Any) -> tuple[Any, Any, Any]:
        """Run the backward pass under edits and hold it against a gradient.

        Args:
          point: float64.
          hand: the gradient's leaves there.
          codes: `[C, 2]` numbers of edits, -1 for none.

        Returns:
          Three arrays `[C, leaves]`: the largest difference over the largest entry of the leaf, the constant that
          fits best, and the difference with it.
        """
        total = sum(int(np.size(leaf)) for leaf in jax.tree.leaves(point)) + 1
        # Always the same number at once: one program for any number of codes.
        chunk = int(np.clip(2_000_000 // total, 1, 64))
        parts = []
        for first in range(0, len(codes), chunk):
            some = np.full((chunk, 2), -1, np.int32)
            some[: len(codes) - first] = codes[first : first + chunk]
            with precision(np.float64):
                parts.append([np.asarray(part) for part in self._tried(point, hand, some)])
        whole = [np.concatenate(columns)[: len(codes)] for columns in zip(*parts, strict=True)]
        return whole[0], whole[1], whole[2]

    def _split_rows(self, point: Point, num_rows: int) -> Any:
        def gradient_of(row: Any) -> Any:
            def take(leaf: Any) -> Any:
                if jnp.ndim(leaf) and jnp.shape(leaf)[0] == num_rows:
                    return jax.lax.dynamic_slice_in_dim(leaf, row, 1)
                return leaf

            one = Point(point.params, [take(x) for x in point.floats], [take(x) for x in point.arrays])
            return jax.grad(lambda p: self.loss.scalar(self.layout, one._replace(params=p)))(point.params)

        return jax.vmap(gradient_of)(jnp.arange(num_rows))

    def rows(self, point: Point, num_rows: int) -> Arrays:
        """The gradient of the loss of every single row of the data.

        Args:
          point: float64.
          num_rows: length of the axis of the arguments that counts rows.

        Returns:
          Leaves with a leading axis of rows.
        """
        with precision(np.float64):
            return [np.asarray(leaf) for leaf in self._of_rows(point, num_rows)]

    def operations(self, point: Point) -> list[Any]:
        """The operations of the loss, with those of the programs that it calls.

        Args:
          point: the leaves.

        Returns:
          Equations of jaxprs, in order.
        """
        with precision(np.float64):
            return list(_eqns(jax.make_jaxpr(lambda p: self.loss.scalar(self.layout, p))(point).jaxpr))

    def numbers(self, point: Point, hand: Arrays) -> list[int]:
        """The numbers of all single edits, then those of the groups of several.

        Args:
          point: float64.
          hand: any leaves like the gradient's.

        Returns:
          Codes for `trial`.
        """
        if not self.edits:
            self.trial(point, hand, np.full((1, 2), -1))
        members = collections.Counter(number for edit in self.edits for number in edit.group)
        return [*range(len(self.edits)), *(number for number, count in members.items() if count > 1)]

    def edit(self, number: int) -> Edit:
        """What a number of `numbers` stands for.

        Args:
          number: of an edit or a group.

        Returns:
          The edit; for a group its first one, its place that of all.
        """
        if number < MAX_EDITS:
            return self.edits[number]
        group = [edit for edit in self.edits if number in edit.group]
        places = {edit.place for edit in group}
        everywhere = f"{group[0].words}, in all {len(group)} operations of the kind"
        return group[0]._replace(words=everywhere, place=group[0].place if len(places) == 1 else "")


@functools.lru_cache(maxsize=64)
def autopsy_of(loss: Loss, layout: Layout, shapes: tuple[Any, ...], *, through: bool) -> Autopsy:
    """The autopsy of a loss, one for each, so that what was compiled is found again.

    Args:
      loss: traceable.
      layout: of its leaves.
      shapes: of its leaves.
      through: whether to see through custom rules and stopped gradients, as the values of the loss do.

    Returns:
      The autopsy.
    """
    del shapes
    return Autopsy(loss, layout, through=through)


def shapes_of(point: Point) -> tuple[Any, ...]:
    """Shapes and dtypes, as a key.

    Args:
      point: the leaves.

    Returns:
      One entry a leaf.
    """
    return tuple((np.shape(leaf), str(jnp.result_type(leaf))) for leaf in jax.tree.leaves(point))
