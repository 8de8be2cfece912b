"""The backward pass over a tape, in many variants at once.

A variant changes what flows along one edge, or along several: row `c` of every cotangent belongs to variant `c`. Rows
that no change has reached yet are not stored; they are equal to row 0, the pass without a change.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxgd.gradcheck.backward.record import record
from jaxgd.gradcheck.backward.tape import Tape
from jaxgd.gradcheck.precision import precision

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
