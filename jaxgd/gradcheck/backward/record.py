"""Running a program forward onto a tape: calls, conditionals and loops are taken apart."""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgd.gradcheck.backward.arithmetic import Primitive, evaluate
from jaxgd.gradcheck.backward.program import NOWHERE, Source, extend, function_name, scan_sizes, source_of
from jaxgd.gradcheck.backward.tape import Call, Step, Tape
from jaxgd.gradcheck.precision import precision

CALLS = {"jit": "jaxpr", "pjit": "jaxpr", "closed_call": "call_jaxpr", "core_call": "call_jaxpr",
         "checkpoint": "jaxpr", "remat": "jaxpr", "remat2": "jaxpr", "custom_jvp_call": "call_jaxpr"}  # fmt: skip
"""Primitives that only call a program, and the name of the program among their parameters."""

WHOLE = frozenset({"expm"})
"""Functions of a library that stay one operation: what they do inside depends on the values."""

MAX_STEPS = 6000
"""Operations that a tape may hold: a longer loop stays one operation."""


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
    made = _Recording([], [], [], [], through, rules)
    with precision(np.float64):
        numbers = [made.new(value, moves) for value, moves in zip(inputs, active, strict=True)]
        outs = _run(made, closed, numbers, NOWHERE)
    return Tape(tuple(made.values), tuple(made.active), tuple(made.steps), tuple(made.calls), tuple(outs))


class _Recording(NamedTuple):
    """A tape that is being recorded, and how; the lists are those of the tape."""

    values: list[Any]
    active: list[bool]
    steps: list[Step]
    calls: list[Call]
    through: bool
    rules: bool

    def new(self, value: Any, moves: bool) -> int:
        """The number of a new value."""
        extended = hasattr(value, "dtype") and jnp.issubdtype(value.dtype, jax.dtypes.extended)
        self.values.append(value if extended else np.asarray(value))  # typed keys of random numbers stay what they are
        self.active.append(bool(moves and not extended and jnp.issubdtype(self.values[-1].dtype, jnp.inexact)))
        return len(self.values) - 1

    def apply(self, primitive: Primitive, ins: Sequence[int], source: Source) -> list[int]:
        """Run an operation as one step."""
        if len(self.steps) >= MAX_STEPS:
            raise TooLongError
        moves = any(self.active[i] for i in ins)
        outs = [self.new(value, moves) for value in evaluate(primitive, [self.values[i] for i in ins])]
        self.steps.append(Step(primitive, tuple(ins), tuple(outs), source, any(self.active[i] for i in outs)))
        return outs


def _run(made: _Recording, program: Any, numbers: Sequence[int], caller: Source) -> list[int]:
    """Run a program, open or closed, on numbered values."""
    jaxpr = getattr(program, "jaxpr", program)
    consts = getattr(program, "consts", ())
    env = {var: made.new(const, False) for var, const in zip(jaxpr.constvars, consts, strict=True)}
    env.update(zip(jaxpr.invars, numbers, strict=True))

    def read(atom: Any) -> int:
        if isinstance(atom, extend().core.Literal):
            return made.new(np.asarray(atom.val, atom.aval.dtype), False)
        return env[atom]

    for order, eqn in enumerate(jaxpr.eqns):
        env.update(zip(eqn.outvars, _step(made, eqn, [read(atom) for atom in eqn.invars], caller, order), strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _step(made: _Recording, eqn: Any, ins: list[int], caller: Source, order: int) -> list[int]:
    """Run one equation; calls, branches and loops step by step where that can be done."""
    name = eqn.primitive.name
    if name == "stop_gradient" and not made.through:
        return [made.new(made.values[i], False) for i in ins]
    whole = name in CALLS and function_name(eqn) in WHOLE
    if not whole and (program := _called(made, eqn)) is not None:
        source = _source_in(eqn, caller, 0)
        # `jnp.where` and the like are calls of one or two operations, which are those that the user means.
        source = source._replace(inner=source.inner or len(getattr(program, "jaxpr", program).eqns) > 4)
        outs = _run(made, program, ins, source)
        made.calls.append(Call(function_name(eqn), tuple(ins), tuple(outs), source))
        return outs
    source = _source_in(eqn, caller, order)
    taken_apart = APART[name](made, eqn, ins, source) if name in APART else None
    if taken_apart is not None:
        return taken_apart
    return made.apply(Primitive(function_name(eqn) if whole else name, eqn.params, eqn), ins, source)


def _called(made: _Recording, eqn: Any) -> Any:
    """The program that an equation calls and does nothing else with; None if there is none."""
    name = eqn.primitive.name
    if name in CALLS and not (made.rules and name == "custom_jvp_call"):
        return eqn.params.get(CALLS[name])
    body = eqn.params.get("call_jaxpr", eqn.params.get("fun_jaxpr"))
    return body if made.through and name.startswith("custom_vjp_call") else None


def _scan(made: _Recording, eqn: Any, ins: Sequence[int], source: Source) -> list[int] | None:
    p, (num_consts, num_carry) = eqn.params, scan_sizes(eqn)
    body = getattr(p["jaxpr"], "jaxpr", p["jaxpr"])
    if not 0 < p["length"] * (len(body.eqns) + 2) <= MAX_STEPS - len(made.steps):
        return None
    consts, carry = list(ins[:num_consts]), list(ins[num_consts : num_consts + num_carry])
    stacks: list[list[int]] = []
    turns = range(p["length"])
    for turn in reversed(turns) if p["reverse"] else turns:
        index = Primitive("index", {"index": turn}, None)
        elements = [made.apply(index, [number], source)[0] for number in ins[num_consts + num_carry :]]
        outs = _run(made, p["jaxpr"], [*consts, *carry, *elements], source)
        carry = outs[:num_carry]
        stacks.append(outs[num_carry:])
    rows = stacks[::-1] if p["reverse"] else stacks
    stack = Primitive("stack", {}, None)
    return [*carry, *(made.apply(stack, list(column), source)[0] for column in zip(*rows, strict=True))]


def _while(made: _Recording, eqn: Any, ins: Sequence[int], source: Source) -> list[int]:
    p = eqn.params
    of_cond, of_body = p["cond_nconsts"], p["cond_nconsts"] + p["body_nconsts"]
    carry = list(ins[of_body:])
    while bool(made.values[_run(made, p["cond_jaxpr"], [*ins[:of_cond], *carry], source)[0]]):
        carry = _run(made, p["body_jaxpr"], [*ins[of_cond:of_body], *carry], source)
    return carry


def _cond(made: _Recording, eqn: Any, ins: Sequence[int], source: Source) -> list[int]:
    branches = eqn.params["branches"]
    chosen = int(np.clip(int(made.values[ins[0]]), 0, len(branches) - 1))
    return _run(made, branches[chosen], ins[1:], source)


def _kernel(made: _Recording, eqn: Any, ins: Sequence[int], source: Source) -> list[int] | None:
    program = discharged(eqn)
    return None if program is None else _run(made, program, ins, source)


APART: dict[str, Callable[[_Recording, Any, Sequence[int], Source], list[int] | None]] = {
    "scan": _scan,
    "while": _while,
    "cond": _cond,
    "pallas_call": _kernel,
}
"""Operations that are run step by step; None where one has to stay whole."""


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
