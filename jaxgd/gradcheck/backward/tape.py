"""A program run forward with every value kept, and its backward pass in many variants at once.

Calls, conditionals and loops are taken apart, so that the tape is one list of operations on numbered values. Reverse
mode then walks the list backwards. A variant of the pass changes what flows through one edge, or through several:
row `c` of every cotangent belongs to variant `c`. Rows that no change has reached yet are not stored; they are equal to
row 0, the pass without a change.
"""

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgd.gradcheck.backward.arithmetic import Primitive, evaluate, pull
from jaxgd.gradcheck.backward.program import NOWHERE, Source, extend, function_name, source_of
from jaxgd.gradcheck.precision import precision

CALLS = {"jit": "jaxpr", "pjit": "jaxpr", "closed_call": "call_jaxpr", "core_call": "call_jaxpr",
         "checkpoint": "jaxpr", "remat": "jaxpr", "remat2": "jaxpr", "custom_jvp_call": "call_jaxpr"}  # fmt: skip
"""Primitives that only call a program, and the name of the program among their parameters."""

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


def rerun(tape: Tape, changed: Mapping[int, Any], only: Container[str] | None = None) -> Tape:
    """The tape with other values, and everything that follows from them.

    Args:
      tape: the tape.
      changed: other values, by their number.
      only: names of the operations that are run again; None for all.

    Returns:
      The tape.
    """
    values = {**changed}
    with precision(np.float64):
        for step in tape.steps:
            if any(i in values for i in step.ins) and (only is None or step.name in only):
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
        p = eqn.params
        consts, carry = list(ins[: p["num_consts"]]), list(ins[p["num_consts"] : p["num_consts"] + p["num_carry"]])
        sequences = ins[p["num_consts"] + p["num_carry"] :]
        stacks: list[list[int]] = []
        turns = range(p["length"])
        for turn in reversed(turns) if p["reverse"] else turns:
            index = Primitive("index", {"index": turn}, None)
            elements = [apply(index, [number], source)[0] for number in sequences]
            outs = inner(p["jaxpr"], [*consts, *carry, *elements], source)
            carry = outs[: p["num_carry"]]
            stacks.append(outs[p["num_carry"] :])
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
            else:
                outs = apply(Primitive(name, eqn.params, eqn), ins, _source_in(eqn, caller, order))
            env.update(zip(eqn.outvars, outs, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    with precision(np.float64):
        numbers = [new(value, moves) for value, moves in zip(inputs, active, strict=True)]
        outs = run(closed.jaxpr, closed.consts, numbers, NOWHERE)
    return Tape(tuple(values), tuple(is_active), tuple(steps), tuple(calls), tuple(outs))


def _source_in(eqn: Any, caller: Source, order: int) -> Source:
    """Where an equation stands; that of the call for an equation inside a function of a library."""
    own = source_of(eqn)
    return own if own.place else caller._replace(key=(*caller.key, order)) if caller.place else own


def _body(eqn: Any) -> Any:
    return eqn.params.get("call_jaxpr", eqn.params.get("fun_jaxpr"))


Change = Callable[[Any, Any], Any]
"""`(ahead, right) -> cotangent`: what a variant sends along an edge, `[R, ...]`, in place of `right`."""


FIRST_OUTPUT = -3
"""The position that stands for the first output of an operation with several; -4 for the second, and so on."""


class Edge(NamedTuple):
    """Where a variant changes the backward pass.

    Attributes:
      step: number of the operation whose output's cotangent is complete.
      position: of the input to which the changed cotangent goes; -1 for the output's own cotangent, -2 for `target`.
      target: number of the value to which it goes, where that is not an input of the step: the changed cotangent
        then replaces all that reaches this value from the output, through the operations in between.
      through: numbers of the operations in between.
    """

    step: int
    position: int
    target: int = -1
    through: tuple[int, ...] = ()


class Edit(NamedTuple):
    """One change of the backward pass at one edge.

    Attributes:
      edge: where.
      change: what is sent instead.
    """

    edge: Edge
    change: Change


def extended(rows: Any, count: int) -> Any:
    """Cotangents with rows for more variants, equal to the pass without a change so far."""
    if len(rows) >= count:
        return rows
    return np.concatenate([rows, np.broadcast_to(rows[:1], (count - len(rows), *rows.shape[1:]))])


def backward(tape: Tape, variants: Sequence[Sequence[Edit]] = (), seed: Any = None) -> dict[int, Any]:
    """Reverse mode over a tape, without a change and under each variant.

    Args:
      tape: of a program whose first output is differentiated.
      variants: for each, its edits.
      seed: the cotangent of the output; 1 if None.

    Returns:
      `[1 + variants, ...]` for every value that has a cotangent, by its number: row 0 is the pass without a change.
    """
    by_step: dict[int, list[tuple[int, Edit]]] = {}
    for number, edits in enumerate(variants):
        for edit in edits:
            by_step.setdefault(edit.edge.step, []).append((number, edit))
    out = tape.values[tape.outs[0]]
    first = np.ones_like(out) if seed is None else np.asarray(seed)
    cotangents: dict[int, Any] = {tape.outs[0]: first[None]}
    row_of: dict[int, int] = {}
    with precision(np.float64), np.errstate(all="ignore"):
        for index in range(len(tape.steps) - 1, -1, -1):
            step = tape.steps[index]
            if step.active and any(number in cotangents for number in step.outs):
                changed = by_step.get(index, [])
                for number, _ in changed:
                    row_of.setdefault(number, len(row_of) + 1)
                _run_back(tape, index, cotangents, [(row_of[number], edit) for number, edit in changed])
    # In the order of the variants; one whose edges no cotangent reaches is the pass without a change.
    order = [0, *(row_of.get(number, 0) for number in range(len(variants)))]
    return {number: extended(rows, len(row_of) + 1)[order] for number, rows in cotangents.items()}


def _run_back(tape: Tape, index: int, cotangents: dict[int, Any], edits: Sequence[tuple[int, Edit]]) -> None:
    """One operation backwards: adds to the cotangents of its inputs."""
    step = tape.steps[index]
    top = max((row for row, _ in edits), default=0) + 1
    ahead = [cotangents.get(number) for number in step.outs]
    count = max(top if edits else 1, *(len(rows) for rows in ahead if rows is not None))
    ahead = [None if rows is None else extended(rows, count) for rows in ahead]
    for row, edit in edits:
        if edit.edge.position == -1 and ahead[0] is not None:
            if not ahead[0].flags.writeable or ahead[0] is cotangents.get(step.outs[0]):
                ahead[0] = ahead[0].copy()
            ahead[0][row] = _sent(edit, ahead[0][row : row + 1], ahead[0][row : row + 1])
    for row, edit in edits:
        output = FIRST_OUTPUT - edit.edge.position
        rows = ahead[output] if 0 <= output < len(ahead) else None
        if rows is not None:
            ahead[output] = np.where(np.arange(len(rows)).reshape(-1, *[1] * (rows.ndim - 1)) == row, 0, rows)
    for edge, members in _by_group(edits).items():
        if ahead[0] is not None:
            # One walk through the operations in between for all variants that change this edge.
            own = ahead[0][[row for row, _ in members]]
            right = between(tape, edge.target, step.outs[0], own, edge.through)
            amounts = [_sent(edit, own[i : i + 1], right[i : i + 1]) - right[i] for i, (_, edit) in enumerate(members)]
            _add(cotangents, edge.target, amounts, [row for row, _ in members])
    for position, number in enumerate(step.ins):
        if not tape.active[number]:
            continue
        pulled = tape.pull(step, ahead, position)
        for row, edit in edits:
            if edit.edge.position == position and ahead[0] is not None:
                if not pulled.flags.writeable or pulled is ahead[0]:
                    pulled = pulled.copy()
                pulled[row] = _sent(edit, ahead[0][row : row + 1], pulled[row : row + 1])
        if number in cotangents:
            rows = max(len(pulled), len(cotangents[number]))
            cotangents[number] = extended(cotangents[number], rows) + extended(pulled, rows)
        else:
            cotangents[number] = pulled


def _sent(edit: Edit, ahead: Any, right: Any) -> Any:
    """What an edit sends; the right cotangent if the edit does not fit the shapes or dtypes of the edge."""
    try:
        sent = np.asarray(edit.change(ahead, right))
    except (ValueError, TypeError, IndexError, np.linalg.LinAlgError):
        return right[0]
    if sent.shape != right.shape or (sent.dtype.kind == "c" and right.dtype.kind != "c"):
        return right[0]
    return sent[0]


def _by_group(edits: Sequence[tuple[int, Edit]]) -> dict[Edge, list[tuple[int, Edit]]]:
    """The edits of groups of operations, by their edge."""
    found: dict[Edge, list[tuple[int, Edit]]] = {}
    for row, edit in edits:
        if edit.edge.target != -1:
            found.setdefault(edit.edge, []).append((row, edit))
    return found


def _add(cotangents: dict[int, Any], number: int, amounts: Sequence[Any], rows: Sequence[int]) -> None:
    """Add to some rows of the cotangent of a value."""
    old = cotangents.get(number, np.zeros((1, *amounts[0].shape), amounts[0].dtype))
    new = extended(old, max(rows) + 1).copy()
    for row, amount in zip(rows, amounts, strict=True):
        new[row] += amount
    cotangents[number] = new


def region(tape: Tape, source: int, sink: int, first: int, last: int) -> list[int]:
    """The operations through which one value reaches another, in order.

    Args:
      tape: the tape.
      source: number of a value.
      sink: number of a value that depends on it.
      first: number of an operation before which none lies in between.
      last: number of the operation whose output is `sink`.

    Returns:
      Numbers of operations.
    """
    reached, found = {source}, []
    for index in range(first, last + 1):
        step = tape.steps[index]
        if step.active and any(number in reached for number in step.ins):
            reached.update(step.outs)
            found.append(index)
    needed, kept = {sink}, []
    for index in reversed(found):
        if any(number in needed for number in tape.steps[index].outs):
            needed.update(number for number in tape.steps[index].ins if number in reached)
            kept.append(index)
    return kept[::-1]


def between(tape: Tape, source: int, sink: int, ahead: Any, through: Sequence[int]) -> Any:
    """The cotangent that one value gets from another, through the operations in between.

    Args:
      tape: the tape.
      source: number of the value whose cotangent is wanted.
      sink: number of a value that depends on it.
      ahead: `[C, ...]`, the cotangent of `sink`.
      through: numbers of the operations in between, in order.

    Returns:
      `[C, ...]`.
    """
    cotangents: dict[int, Any] = {sink: ahead}
    reached = {source, *(number for index in through for number in tape.steps[index].outs)}
    for index in reversed(through):
        step = tape.steps[index]
        if not any(number in cotangents for number in step.outs):
            continue
        rows = [cotangents.get(number) for number in step.outs]
        for position, number in enumerate(step.ins):
            if number in reached and tape.active[number]:
                pulled = tape.pull(step, rows, position)
                cotangents[number] = cotangents[number] + pulled if number in cotangents else pulled
    shape = (len(ahead), *tape.values[source].shape)
    return cotangents.get(source, np.zeros(shape, ahead.dtype))


def gradient(
    closed: Any, inputs: Sequence[Any], active: Sequence[bool], *, through: bool = False, seed: Any = None
) -> list[Any]:
    """Reverse mode of a program in NumPy.

    Args:
      closed: a jaxpr traced in float64.
      inputs: its inputs.
      active: for each input, whether it is differentiated by.
      through: whether to look through stopped gradients and custom_vjp.
      seed: the cotangent of the output; 1 if None.

    Returns:
      The cotangent of every active input.
    """
    tape = record(closed, inputs, active, through=through, rules=True)
    found = backward(tape, seed=seed)
    return [_row(found, tape, number, 0) for number, moves in enumerate(active) if moves]


def _row(found: Mapping[int, Any], tape: Tape, number: int, row: int) -> Any:
    return found[number][row] if number in found else np.zeros_like(tape.values[number])


def leaves(found: Mapping[int, Any], tape: Tape, count: int) -> Iterator[Any]:
    """The cotangents `[C, ...]` of the first inputs, zero where nothing reaches one.

    Args:
      found: what `backward` returned.
      tape: the tape.
      count: of inputs.

    Yields:
      One array for each input.
    """
    rows = max((len(value) for value in found.values()), default=1)
    for number in range(count):
        shape = (rows, *tape.values[number].shape)
        yield found[number] if number in found else np.zeros(shape, tape.values[number].dtype)
