"""A program run forward with every value kept.

Calls, conditionals and loops are taken apart, so that the tape is one list of operations on numbered values. Reverse
mode then walks the list backwards; see `sweep`.
"""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgd.gradcheck.backward.arithmetic import Primitive, evaluate
from jaxgd.gradcheck.backward.program import NOWHERE, Source, extend, function_name, scan_sizes, source_of
from jaxgd.gradcheck.backward.pulls import pull
from jaxgd.gradcheck.precision import precision

CALLS = {"jit": "jaxpr", "pjit": "jaxpr", "closed_call": "call_jaxpr", "core_call": "call_jaxpr",
         "checkpoint": "jaxpr", "remat": "jaxpr", "remat2": "jaxpr", "custom_jvp_call": "call_jaxpr"}  # fmt: skip
"""Primitives that only call a program, and the name of the program among their parameters."""

WHOLE = frozenset({"expm"})
"""Functions of a library that stay one operation: what they do inside depends on the values."""

MAX_STEPS = 6000
"""Operations that a tape may hold: a longer loop stays one operation."""


class Step(NamedTuple):
    """One operation that was run.

    Attributes:
      primitive: the operation.
      ins: numbers of its inputs among the values of the tape.
      outs: numbers of its outputs.
      source: where it stands in the user's code.
      active: whether an output depends on an input of the program that is differentiated by.
    """

    primitive: Primitive
    ins: tuple[int, ...]
    outs: tuple[int, ...]
    source: Source
    active: bool

    @property
    def name(self) -> str:
        """Of the primitive."""
        return self.primitive.name


class Call(NamedTuple):
    """A named function of the program, such as `jnp.linalg.inv` or `jax.nn.softmax`.

    Attributes:
      name: of the function.
      ins: numbers of its inputs.
      outs: numbers of its outputs.
      source: where it is called.
    """

    name: str
    ins: tuple[int, ...]
    outs: tuple[int, ...]
    source: Source


class Tape(NamedTuple):
    """A program run forward.

    Attributes:
      values: NumPy arrays.
      active: for each value, whether it depends on an input that is differentiated by.
      steps: the operations in the order in which they ran.
      calls: the named functions, inner ones first.
      outs: numbers of the program's outputs.
      grads: the gradient that is to be explained, by the first inputs, if there is one.
    """

    values: tuple[Any, ...]
    active: tuple[bool, ...]
    steps: tuple[Step, ...]
    calls: tuple[Call, ...]
    outs: tuple[int, ...]
    grads: tuple[Any, ...] = ()

    def local(self, step: Step) -> tuple[list[Any], list[Any]]:
        """The inputs and outputs of a step."""
        return [self.values[i] for i in step.ins], [self.values[i] for i in step.outs]

    def pull(self, step: Step, ahead: Sequence[Any], position: int) -> Any:
        """The cotangent `[C, ...]` of one input of a step."""
        values, outs = self.local(step)
        return pull(step.primitive, values, outs, ahead, position)


def rerun(tape: Tape, changed: Mapping[int, Any], only: Callable[[Step], bool] | None = None) -> Tape:
    """The tape with other values, and everything that follows from them.

    Args:
      tape: the tape.
      changed: other values, by their number.
      only: whether an operation is run again; None for all.

    Returns:
      The tape.
    """
    values = {**changed}
    with precision(np.float64):
        for step in tape.steps:
            if any(i in values for i in step.ins) and (only is None or only(step)):
                outs = evaluate(step.primitive, [values.get(i, tape.values[i]) for i in step.ins])
                values.update((i, out) for i, out in zip(step.outs, outs, strict=True) if i not in changed)
    return tape._replace(values=tuple(values.get(i, value) for i, value in enumerate(tape.values)))


class TooLongError(Exception):
    """The program has more operations than a tape may hold."""


def record(
    closed: Any, inputs: Sequence[Any], active: Sequence[bool], *, through: bool = False, rules: bool = False
) -> Tape:
    """Run a program and keep every value.

    Args:
      closed: a jaxpr traced in float64.
      inputs: its inputs.
      active: for each input, whether it is differentiated by.
      through: whether to look through stopped gradients and custom_vjp, at what the functions compute.
      rules: whether functions with a custom_jvp stay one operation, whose derivative is their rule.

    Returns:
      The tape.

    Raises:
      TooLongError: the program has more than `MAX_STEPS` operations.
    """
    values: list[Any] = []
    is_active: list[bool] = []
    steps: list[Step] = []
    calls: list[Call] = []

    def new(value: Any, moves: bool) -> int:
        extended = hasattr(value, "dtype") and jnp.issubdtype(value.dtype, jax.dtypes.extended)
        values.append(value if extended else np.asarray(value))  # typed keys of random numbers stay what they are
        is_active.append(bool(moves and not extended and jnp.issubdtype(values[-1].dtype, jnp.inexact)))
        return len(values) - 1

    def apply(primitive: Primitive, ins: Sequence[int], source: Source) -> list[int]:
        if len(steps) >= MAX_STEPS:
            raise TooLongError
        moves = any(is_active[i] for i in ins)
        outs = [new(value, moves) for value in evaluate(primitive, [values[i] for i in ins])]
        steps.append(Step(primitive, tuple(ins), tuple(outs), source, any(is_active[i] for i in outs)))
        return outs

    def inner(program: Any, ins: Sequence[int], caller: Source) -> list[int]:
        if hasattr(program, "consts"):
            return run(program.jaxpr, program.consts, ins, caller)
        return run(program, (), ins, caller)

    def call(eqn: Any, program: Any, ins: Sequence[int], caller: Source) -> list[int]:
        source = _source_in(eqn, caller, 0)
        # `jnp.where` and the like are calls of one or two operations, which are those that the user means.
        long = len(getattr(program, "jaxpr", program).eqns) > 4
        source = source._replace(inner=source.inner or long)
        outs = inner(program, ins, source)
        calls.append(Call(function_name(eqn), tuple(ins), tuple(outs), source))
        return outs

    def run_scan(eqn: Any, ins: Sequence[int], source: Source) -> list[int]:
        p, (num_consts, num_carry) = eqn.params, scan_sizes(eqn)
        consts, carry = list(ins[:num_consts]), list(ins[num_consts : num_consts + num_carry])
        sequences = ins[num_consts + num_carry :]
        stacks: list[list[int]] = []
        turns = range(p["length"])
        for turn in reversed(turns) if p["reverse"] else turns:
            index = Primitive("index", {"index": turn}, None)
            elements = [apply(index, [number], source)[0] for number in sequences]
            outs = inner(p["jaxpr"], [*consts, *carry, *elements], source)
            carry = outs[:num_carry]
            stacks.append(outs[num_carry:])
        rows = stacks[::-1] if p["reverse"] else stacks
        stack = Primitive("stack", {}, None)
        return [*carry, *(apply(stack, list(column), source)[0] for column in zip(*rows, strict=True))]

    def run_while(eqn: Any, ins: Sequence[int], source: Source) -> list[int]:
        p = eqn.params
        of_cond, of_body = p["cond_nconsts"], p["cond_nconsts"] + p["body_nconsts"]
        carry = list(ins[of_body:])
        while bool(values[inner(p["cond_jaxpr"], [*ins[:of_cond], *carry], source)[0]]):
            carry = inner(p["body_jaxpr"], [*ins[of_cond:of_body], *carry], source)
        return carry

    def can_unroll(eqn: Any) -> bool:
        p = eqn.params
        body = getattr(p["jaxpr"], "jaxpr", p["jaxpr"])
        return p["length"] > 0 and len(steps) + p["length"] * (len(body.eqns) + 2) <= MAX_STEPS

    def run(jaxpr: Any, consts: Sequence[Any], numbers: Sequence[int], caller: Source) -> list[int]:
        env = {var: new(const, False) for var, const in zip(jaxpr.constvars, consts, strict=True)}
        env.update(zip(jaxpr.invars, numbers, strict=True))

        def read(atom: Any) -> int:
            if isinstance(atom, extend().core.Literal):
                return new(np.asarray(atom.val, atom.aval.dtype), False)
            return env[atom]

        for order, eqn in enumerate(jaxpr.eqns):
            ins = [read(atom) for atom in eqn.invars]
            name = eqn.primitive.name
            if name == "stop_gradient" and not through:
                outs = [new(values[i], False) for i in ins]
            elif name in CALLS and function_name(eqn) in WHOLE:
                outs = apply(Primitive(function_name(eqn), eqn.params, eqn), ins, _source_in(eqn, caller, order))
            elif name in CALLS and CALLS[name] in eqn.params and not (rules and name == "custom_jvp_call"):
                outs = call(eqn, eqn.params[CALLS[name]], ins, caller)
            elif through and name.startswith("custom_vjp_call") and _body(eqn) is not None:
                outs = call(eqn, _body(eqn), ins, caller)
            elif name == "scan" and can_unroll(eqn):
                outs = run_scan(eqn, ins, _source_in(eqn, caller, order))
            elif name == "while":
                outs = run_while(eqn, ins, _source_in(eqn, caller, order))
            elif name == "cond":
                branches = eqn.params["branches"]
                chosen = int(np.clip(int(values[ins[0]]), 0, len(branches) - 1))
                outs = inner(branches[chosen], ins[1:], _source_in(eqn, caller, order))
            elif name == "pallas_call" and (program := discharged(eqn)) is not None:
                outs = inner(program, ins, _source_in(eqn, caller, order))
            else:
                outs = apply(Primitive(name, eqn.params, eqn), ins, _source_in(eqn, caller, order))
            env.update(zip(eqn.outvars, outs, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    with precision(np.float64):
        numbers = [new(value, moves) for value, moves in zip(inputs, active, strict=True)]
        outs = run(closed.jaxpr, closed.consts, numbers, NOWHERE)
    return Tape(tuple(values), tuple(is_active), tuple(steps), tuple(calls), tuple(outs))


@functools.lru_cache(maxsize=64)
def discharged(eqn: Any) -> Any:
    """A Pallas kernel as an ordinary program on whole arrays, by JAX's own interpreter of kernels.

    Args:
      eqn: an equation whose primitive is `pallas_call`.

    Returns:
      A closed jaxpr; None if this version of JAX has no such interpreter, or if it cannot run the kernel.
    """
    try:  # not part of JAX's public interface
        from jax._src.pallas.hlo_interpreter import pallas_call_hlo_interpret as interpret

        params = {name: eqn.params[name] for name in inspect.signature(interpret).parameters if name in eqn.params}
        shapes = [jax.ShapeDtypeStruct(var.aval.shape, var.aval.dtype) for var in eqn.invars]
        return jax.make_jaxpr(lambda *args: interpret(*args, **params))(*shapes)
    except Exception:  # a kernel of other hardware, or another signature
        return None


def _source_in(eqn: Any, caller: Source, order: int) -> Source:
    """Where an equation stands; that of the call for an equation inside a function of a library."""
    own = source_of(eqn)
    return own if own.place else caller._replace(key=(*caller.key, order)) if caller.place else own


def _body(eqn: Any) -> Any:
    return eqn.params.get("call_jaxpr", eqn.params.get("fun_jaxpr"))
