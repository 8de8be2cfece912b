"""Every variant of a backward pass that is worth trying: a pass over the tape, which evaluates nothing.

A candidate is one change at one edge, or the same change at several: in every turn of a recurrence, or in every
operation of a kind. It holds edges and no values, so that it can be tried on the tape of another point.
"""

import collections
import functools
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxgd.gradcheck.backward.arithmetic import ELEMENTWISE, UNARY, evaluate
from jaxgd.gradcheck.backward.edits import EDITS, families
from jaxgd.gradcheck.backward.program import name_of
from jaxgd.gradcheck.backward.site import Change, Site
from jaxgd.gradcheck.backward.tape import FIRST_OUTPUT, Edge, Edit, Tape, region, rerun
from jaxgd.gradcheck.report import Kind

MAX_SPAN = 24
"""Operations between the input and the output of a group."""

MAX_CALL = 200
"""Operations of a function of a library, which is one thing however many it has."""

MAX_OTHERS = 12
"""Other arrays of a shape that are tried in place of the right one."""


OF_A_KIND = (Kind.DERIVATIVE, Kind.MASK, Kind.TRANSPOSED, Kind.NOT_SUMMED)
"""Mistakes that are made in all operations of a kind at once."""


class Candidate(NamedTuple):
    """A change of the backward pass.

    Attributes:
      kind: what to call it.
      words: what was done, in words.
      spots: the edges and what is sent along each.
      share: what a part of the change means, so that the part can be read off: "path" for a path that is cut, "rate"
        for a parameter that is moved along its gradient; "" if only the whole change has a meaning.
      values: changes the values of the tape on which the backward pass runs; None if it changes edges.
      named: whether the operation is one that a reader knows, not a group that was found between two arrays.
    """

    kind: Kind
    words: str
    spots: tuple[tuple[Edge, Change], ...]
    share: str = ""
    values: Callable[[Tape], Tape] | None = None
    named: bool = True

    def edits(self, tape: Tape) -> list[Edit]:
        """The change on a tape.

        Args:
          tape: of the same operations.

        Returns:
          Edits for `backward`.
        """
        return [Edit(edge, functools.partial(change.send, Site(tape, edge))) for edge, change in self.spots]


class Reading(NamedTuple):
    """A tape and what is needed to talk about it.

    Attributes:
      tape: the tape.
      names: of the inputs of the program, as the caller wrote them.
      producer: the operation that made a value, by the value's number.
      keys: for each operation, what it shares with the same operation in another turn of a loop.
      turns: for each operation, the turn of the recurrence in which it ran; -1 outside of one.
    """

    tape: Tape
    names: tuple[str, ...]
    producer: dict[int, int]
    keys: tuple[Any, ...]
    turns: tuple[int, ...]


def read(tape: Tape, names: Sequence[str]) -> Reading:
    """Read a tape: producers, and the turns of recurrences.

    Args:
      tape: the tape.
      names: of the inputs of the program.

    Returns:
      The reading.
    """
    producer = {number: index for index, step in enumerate(tape.steps) for number in step.outs}
    keys = tuple((step.source.key, step.name, step.primitive.params.get("y")) for step in tape.steps)
    counts = collections.Counter(key for key in keys if key[0])
    repeated = [count for count in counts.values() if count > 1]
    num_turns = max(set(repeated), key=repeated.count) if repeated else 0
    seen: collections.Counter[Any] = collections.Counter()
    turns = []
    for key in keys:
        count = counts.get(key, 0)
        in_loop = num_turns > 1 and count > 1 and count % num_turns == 0
        turns.append(seen[key] // (count // num_turns) if in_loop else -1)
        seen[key] += 1
    return Reading(tape, tuple(names), producer, keys, tuple(turns))


def label(reading: Reading, number: int) -> str:
    """A value as a reader of the loss knows it.

    Args:
      reading: of the tape.
      number: of the value.

    Returns:
      The path of an input, the expression that computes it, or a number.
    """
    if number < len(reading.names):
        return reading.names[number]
    if number not in reading.producer:
        value = reading.tape.values[number]
        return (
            f"{np.ravel(value)[0]:.6g}"
            if np.size(value) == 1 and np.asarray(value).dtype.kind in "fiub"
            else "a constant"
        )
    step = reading.tape.steps[reading.producer[number]]
    # What only changes the shape is not what a reader thinks of.
    if step.name in ("broadcast_in_dim", "reshape", "squeeze", "expand_dims", "convert_element_type", "stop_gradient"):
        return label(reading, step.ins[0]) if step.ins else "a constant"
    text = step.source.text
    return f"`{text}`" if text and len(text) <= 60 else f"the {operation(reading, reading.producer[number])}"


def operation(reading: Reading, index: int) -> str:
    """What a reader calls an operation of the tape."""
    step = reading.tape.steps[index]
    if step.primitive.eqn is not None:
        return name_of(step.primitive.eqn)
    return step.name


def _function(reading: Reading, edge: Edge, noun: bool) -> str:
    """The operation of an edge in words, with its place in the source; `noun` if the words say what it is."""
    step = reading.tape.steps[edge.step]
    quoted = step.source.quote()
    for call in reading.tape.calls:
        if call.name and edge.target in call.ins and step.outs[0] in call.outs:
            quoted = call.source.quote() or call.name
            return quoted if noun or f"{call.name}(" in quoted else f"{call.name}, {quoted},"
    if edge.target != -1 or (noun and quoted):
        return quoted or label(reading, step.outs[0])
    return f"the {operation(reading, edge.step)} {quoted}".strip()


NOUNS = re.compile(
    r"(product|quotient|power|softmax|inverse|determinant|det|sum|solve|factor|indexing|remainder|convolution) \{f\}"
)
"""Words that say what the operation is."""


def _words(reading: Reading, edge: Edge, change: Change) -> str:
    step = reading.tape.steps[edge.step]
    number = edge.target if edge.target != -1 else step.ins[max(edge.position, 0)]
    other = step.ins[1 - edge.position] if len(step.ins) == 2 and edge.position in (0, 1) else number
    function = _function(reading, edge, NOUNS.search(change.words) is not None)
    return change.words.format(f=function, x=label(reading, number), other=label(reading, other))


def candidates(reading: Reading) -> list[Candidate]:
    """All changes that are tried, in the order in which equal ones are preferred.

    Args:
      reading: of the tape.

    Returns:
      Single changes, then those in every turn of a loop or in every operation of a kind.
    """
    singles = [*_edges(reading)]
    grouped: dict[Any, list[tuple[Edge, Change]]] = {}
    of_kind: dict[Any, list[tuple[Edge, Change]]] = {}
    of_step: dict[Any, list[tuple[Edge, Change]]] = {}
    found = []
    for edge, change in singles:
        step = reading.tape.steps[edge.step]
        target = reading.keys[reading.producer[edge.target]] if edge.target in reading.producer else edge.target
        what = (edge.position, target if edge.target != -1 else None, change.kind, change.words)
        grouped.setdefault((reading.keys[edge.step], what), []).append((edge, change))
        if edge.target == -1 and "{x}" not in change.words and "{other}" not in change.words:
            of_step.setdefault((edge.step, change.words), []).append((edge, change))
        if change.kind in OF_A_KIND and edge.target == -1:
            of_kind.setdefault((step.name, edge.position, change.words), []).append((edge, change))
    for members in grouped.values():
        # Of many turns, a mistake is made in all, in the first or in the last.
        for edge, change in members if len(members) < 4 else (members[0], members[-1]):
            words = _words(reading, edge, change)
            cut = change.kind is Kind.PATH and change.words == CUT.words
            found.append(
                Candidate(
                    change.kind, words, ((edge, change),), "path" if cut else "", named=_named(reading, edge, change)
                )
            )
    for members in of_step.values():
        if len(members) > 1:
            edge, change = members[0]
            found.append(Candidate(change.kind, _words(reading, edge, change), tuple(members)))
    for members in grouped.values():
        if len(members) > 1:
            edge, change = members[0]
            words = f"{_words(reading, edge, change)}, in each of its {len(members)} occurrences"
            found.append(Candidate(change.kind, words, tuple(members), named=_named(reading, edge, change)))
    for members in of_kind.values():
        keys = {reading.keys[edge.step] for edge, _ in members}
        if len(members) > 1 and len(keys) > 1:
            edge, change = members[0]
            places = sorted({reading.tape.steps[e.step].source.quote() for e, _ in members} - {""})
            general = change.words.format(
                f=f"the {operation(reading, edge.step)}", x="its input", other="the other one"
            )
            words = f"{general}, in all {len(members)} operations of this kind" + (
                f": {', '.join(places)}" if len(places) < 4 else ""
            )
            found.append(Candidate(change.kind, words, tuple(members)))
    return [
        *found,
        *_carries(reading),
        *_conditions(reading),
        *_moved(reading),
        *_factors(reading),
        *_bypassed(reading),
        *_outputs(reading),
    ]


def _edges(reading: Reading) -> Iterator[tuple[Edge, Change]]:
    """Single edges with the changes that apply to each."""
    tape = reading.tape
    for index in range(len(tape.steps) - 1, -1, -1):
        step = tape.steps[index]
        if not step.active or len(step.outs) != 1:
            continue
        if step.name == "mul" and step.ins[0] == step.ins[1]:
            # A square that is written as a product is one function of one array.
            yield from _changes(Site(tape, Edge(index, -2, step.ins[0], (index,))), True)
            continue
        for position in (-1, *(j for j, number in enumerate(step.ins) if tape.active[number])):
            yield from _changes(Site(tape, Edge(index, position)))
        yield from _other_arrays(reading, index)
    for edge, elementwise in _groups(reading):
        yield from _changes(Site(tape, edge), elementwise)


def _changes(site: Site, elementwise: bool = False) -> Iterator[tuple[Edge, Change]]:
    for family in families(site, elementwise):
        for change in EDITS[family]:
            if change.applies(site):
                yield site.edge, change


def _groups(reading: Reading) -> Iterator[tuple[Edge, bool]]:
    """Pairs of an input and an output with several operations in between, and whether these are elementwise."""
    tape = reading.tape
    for call in tape.calls:
        for out in call.outs:
            for number in call.ins:
                if out in reading.producer and tape.active[number] and tape.active[out] and number != out:
                    yield from _group(reading, number, out, MAX_CALL)
    seen = {(number, out) for call in tape.calls for number in call.ins for out in call.outs}
    ancestors: dict[int, list[int]] = {}
    for index, step in enumerate(tape.steps):
        if not step.active or len(step.outs) != 1:
            continue
        out = step.outs[0]
        above = {v: None for i in step.ins if tape.active[i] for v in (*ancestors.get(i, ()), i)}
        near = (v for v in above if reading.producer.get(v, -1) >= index - MAX_SPAN or v < len(reading.names))
        ancestors[out] = sorted(near)[-4 * MAX_SPAN :]
        shape = tape.values[out].shape
        if step.name in ("broadcast_in_dim", "reshape", "squeeze", "transpose", "convert_element_type"):
            continue
        for number in reversed(ancestors[out]):
            if tape.values[number].shape == shape and (number, out) not in seen:
                yield from _group(reading, number, out, MAX_SPAN)


def _group(reading: Reading, number: int, out: int, limit: int) -> Iterator[tuple[Edge, bool]]:
    tape = reading.tape
    last = reading.producer[out]
    through = region(tape, number, out, reading.producer.get(number, -1) + 1, last)
    if 1 < len(through) <= limit and through[-1] == last:
        steps = [tape.steps[index] for index in through]
        shape = tape.values[out].shape
        elementwise = all(
            step.name in ELEMENTWISE and all(tape.values[i].shape in (shape, ()) for i in (*step.ins, *step.outs))
            for step in steps
        )
        made = reading.producer.get(number)
        # A function begins where the values come from several arrays; from inside it, only its last step is left.
        inside = made is not None and elementwise and tape.steps[made].name in UNARY
        if not inside:
            yield Edge(last, -2, number, tuple(through)), elementwise


def _other_arrays(reading: Reading, index: int) -> Iterator[tuple[Edge, Change]]:
    """Masks and factors of matrix products that are taken from another array of the shape."""
    tape, step = reading.tape, reading.tape.steps[index]
    if step.name in ("max", "min", "select_n", "abs"):
        position = next((j for j, i in enumerate(step.ins) if tape.active[i]), 0)
        shape = tape.values[step.outs[0]].shape
        for number in _alike(reading, shape, index, (*step.ins, *step.outs)):
            where = label(reading, number)
            for inside, words in ((True, "the sign of"), (False, "the opposite of the sign of")):
                yield (
                    Edge(index, position),
                    Change(
                        Kind.MASK,
                        f"the mask of {{f}} is taken from {words} another array, {_escaped(where)}",
                        functools.partial(_masked_by, number=number, inside=inside),
                    ),
                )
    if step.name in ("dot_general", "mul") and step.ins[0] != step.ins[1]:
        noun = "matrix product" if step.name == "dot_general" else "product"
        for position in (0, 1):
            if tape.active[step.ins[position]]:
                used = step.ins[1 - position]
                for number in _alike(reading, tape.values[used].shape, index, (used, step.outs[0])):
                    name = f"{_escaped(label(reading, number))}{_turn(reading, number, index)}"
                    yield (
                        Edge(index, position),
                        Change(
                            Kind.OPERAND,
                            f"in the {noun} {{f}}, {name} stands in place of {{other}}",
                            functools.partial(_multiplied_by, number=number),
                        ),
                    )


TURNS = {0: " of the same turn", 1: " of the next turn", -1: " of the turn before"}
"""Turns of a recurrence, by their distance."""


def _turn(reading: Reading, number: int, index: int) -> str:
    """In which turn of a recurrence a value was computed, as seen from an operation."""
    made = reading.producer.get(number)
    if made is None or reading.turns[made] == -1 or reading.turns[index] == -1:
        return ""
    return TURNS.get(reading.turns[made] - reading.turns[index], " of another turn")


def _escaped(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


def _masked_by(site: Site, ahead: Any, right: Any, number: int, inside: bool) -> Any:
    mask = site.tape.values[number] > 0
    return np.where(mask == inside, ahead, 0).astype(right.dtype)


def _multiplied_by(site: Site, ahead: Any, right: Any, number: int) -> Any:
    del right
    values = site.values
    values[1 - site.edge.position] = site.tape.values[number]
    return site.back_with(values, ahead)


def _alike(reading: Reading, shape: tuple[int, ...], index: int, but: Sequence[int]) -> list[int]:
    """Floating values of a shape, the nearest to an operation first."""
    tape = reading.tape
    if not shape:
        return []
    fitting = [
        i
        for i, value in enumerate(tape.values)
        if np.shape(value) == shape and value.dtype.kind == "f" and i not in but
    ]
    return sorted(fitting, key=lambda i: abs(reading.producer.get(i, 0) - index))[:MAX_OTHERS]


def _cut(site: Site, ahead: Any, right: Any) -> Any:
    del site, ahead
    return np.zeros_like(right)


CUT = Change(Kind.PATH, "the path from {f} to {x} is left out", _cut)


def _carries(reading: Reading) -> Iterator[Candidate]:
    """What a recurrence carries from one turn to the next, cut: each state, all of them, and all but running sums."""
    tape = reading.tape
    by_state: dict[Any, list[tuple[Edge, Change]]] = collections.defaultdict(list)
    running: set[Any] = set()
    for index, step in enumerate(tape.steps):
        for position, number in enumerate(step.ins):
            made = reading.producer.get(number)
            if not step.active or not tape.active[number] or made is None:
                continue
            if 0 <= reading.turns[made] < reading.turns[index]:
                key = reading.keys[made]
                by_state[key].append((Edge(index, position), CUT))
                if step.name in ("add", "sub", "add_any") and key == reading.keys[index]:
                    running.add(key)
    states = [key for key in by_state if key not in running]
    turns = max(reading.turns, default=-1) + 1

    def named(key: Any) -> str:
        edge, _ = by_state[key][0]
        number = tape.steps[edge.step].ins[edge.position]
        place = tape.steps[reading.producer[number]].source.place
        return f"{label(reading, number)}{f' ({place})' if place else ''}"

    for key in states:
        words = (
            f"the gradient of the state {named(key)} is not passed on to the turn before, in each of the {turns} turns"
        )
        yield Candidate(Kind.PATH, words, tuple(by_state[key]))
    if len(states) > 1:
        words = (
            f"the gradients of the states {', '.join(named(key) for key in states)} are not passed on to the turn "
            f"before, in each of the {turns} turns"
        )
        yield Candidate(Kind.PATH, words, tuple(spot for key in states for spot in by_state[key]))


def _named(reading: Reading, edge: Edge, change: Change) -> bool:
    """Whether a change speaks of one operation of the user's code, or of a function that was recognised."""
    source = reading.tape.steps[edge.step].source
    if not source.place or (source.inner and edge.target == -1):
        return False
    return edge.target == -1 or len(edge.through) == 1 or change not in (*EDITS["elementwise"], *EDITS["jacobian"])


def _moved(reading: Reading) -> Iterator[Candidate]:
    """A factor of a matrix product that has already been updated when the other factor's gradient is taken."""
    tape = reading.tape
    for index, step in enumerate(tape.steps):
        if step.name != "dot_general" or not step.active:
            continue
        for position in (0, 1):
            number, used = step.ins[position], step.ins[1 - position]
            if tape.active[number] and tape.active[used] and used < len(reading.names):
                name = label(reading, used)
                words = f"in the matrix product {step.source.quote()}, {name} has already been updated"
                change = Change(Kind.STALE, words, functools.partial(_multiplied_by_moved, number=used))
                yield Candidate(Kind.STALE, words, ((Edge(index, position), change),), "rate")


def _multiplied_by_moved(site: Site, ahead: Any, right: Any, number: int) -> Any:
    if number >= len(site.tape.grads):
        return right
    values = site.values
    values[1 - site.edge.position] = site.tape.values[number] - site.tape.grads[number]
    return site.back_with(values, ahead)


OUTPUTS = {"eigh": ("eigenvectors", "eigenvalues"), "svd": ("singular values", "left singular vectors",
           "right singular vectors"), "qr": ("orthogonal factor", "triangular factor")}  # fmt: skip
"""What the outputs of an operation with several are called."""


def _outputs(reading: Reading) -> Iterator[Candidate]:
    """One output of an operation with several, whose gradient is left out."""
    for index, step in enumerate(reading.tape.steps):
        if len(step.outs) > 1 and step.active:
            for output, number in enumerate(step.outs):
                if reading.tape.active[number]:
                    names = OUTPUTS.get(step.name, ())
                    name = names[output] if output < len(names) else f"output {output}"
                    words = f"the path through the {name} of {step.source.quote() or step.name} is left out"
                    yield Candidate(Kind.PATH, words, ((Edge(index, FIRST_OUTPUT - output), CUT),))


PRODUCTS = ("mul", "broadcast_in_dim", "reshape", "transpose", "squeeze", "expand_dims", "convert_element_type")


def _factors(reading: Reading) -> Iterator[Candidate]:
    """An input that is left out of a whole product in the backward pass, but not in the values that follow it."""
    tape = reading.tape
    spread: dict[int, int] = {}
    for step in tape.steps:
        if step.name in PRODUCTS[1:] and step.ins and (step.ins[0] < len(reading.names) or step.ins[0] in spread):
            spread[step.outs[0]] = spread.get(step.ins[0], step.ins[0])
    seen = set()
    for step in tape.steps:
        if step.name != "mul" or not step.active:
            continue
        for number in step.ins:
            origin = spread.get(number, number)
            if origin < len(reading.names) and (origin, number) not in seen:
                seen.add((origin, number))
                words = f"in the product {step.source.quote()}, the factor {label(reading, origin)} is left out"
                values = functools.partial(_as_one, number=number)
                yield Candidate(Kind.DERIVATIVE, words, (), values=values)


def _as_one(tape: Tape, number: int) -> Tape:
    return rerun(tape, {number: np.ones_like(tape.values[number])}, PRODUCTS)


def _bypassed(reading: Reading) -> Iterator[Candidate]:
    """A mask that the values have and the backward pass, which computes them once more, does not."""
    tape = reading.tape
    for step in tape.steps:
        if step.name == "select_n" and step.active and len(step.ins) == 3 and not step.source.inner:
            for position in (1, 2):
                if tape.active[step.ins[position]]:
                    words = f"the values of {step.source.quote()} are taken without the mask in the backward pass"
                    values = functools.partial(_without_mask, number=step.outs[0], taken=step.ins[position])
                    yield Candidate(Kind.MASK, words, (), values=values)


def _without_mask(tape: Tape, number: int, taken: int) -> Tape:
    return rerun(tape, {number: np.broadcast_to(tape.values[taken], tape.values[number].shape)})


def _conditions(reading: Reading) -> Iterator[Candidate]:
    """The condition of a `where`, evaluated differently."""
    tape = reading.tape
    for index, step in enumerate(tape.steps):
        if step.name != "select_n" or not step.active or len(step.ins) != 3 or step.source.inner:
            continue
        made = reading.producer.get(step.ins[0])
        options: list[tuple[str, Callable[[Tape], Any]]] = [
            ("is inverted", functools.partial(_condition, number=step.ins[0], form=np.logical_not))
        ]
        while made is not None and tape.steps[made].name in ("broadcast_in_dim", "reshape") and tape.steps[made].ins:
            made = reading.producer.get(tape.steps[made].ins[0])
        if made is not None:
            options += _other_conditions(reading, made, step.ins[0])
        quoted = step.source.quote() or "a where"
        for words, condition in options:
            spots = tuple(
                (Edge(index, position), Change(Kind.MASK, words, functools.partial(_selected, condition=condition)))
                for position in (1, 2)
                if tape.active[step.ins[position]]
            )
            yield Candidate(Kind.MASK, f"the condition of {quoted} {words} in the backward pass", spots)


def _condition(tape: Tape, number: int, form: Callable[[Any], Any]) -> Any:
    return form(tape.values[number])


def _other_conditions(reading: Reading, made: int, number: int) -> list[tuple[str, Callable[[Tape], Any]]]:
    """Ways in which a comparison is got wrong."""
    tape, step = reading.tape, reading.tape.steps[made]
    shape = tape.values[number].shape
    options: list[tuple[str, Callable[[Tape], Any]]] = []
    if step.name in ("lt", "le", "gt", "ge"):
        for position in (0, 1):
            above = reading.producer.get(step.ins[position])
            if above is not None and tape.steps[above].name in ("abs", "square", "integer_pow"):
                signed = tape.steps[above].ins[0]
                words = (
                    f"compares {label(reading, signed)} with its sign, where its absolute value is meant"
                    if tape.steps[above].name == "abs"
                    else f"compares {label(reading, signed)}, where its power is meant"
                )
                options.append((words, functools.partial(_compared, made=made, position=position, other=signed)))
        options.append(("compares with 0", functools.partial(_compared, made=made, position=1, other=-1)))
    if step.name in ("and", "or"):
        for position in (0, 1):
            words = f"lacks one of its two parts, {label(reading, step.ins[1 - position])}"
            options.append((words, functools.partial(_condition, number=step.ins[position], form=np.asarray)))
    return [(words, functools.partial(_shaped, condition=condition, shape=shape)) for words, condition in options]


def _shaped(tape: Tape, condition: Callable[[Tape], Any], shape: tuple[int, ...]) -> Any:
    value = condition(tape)
    return np.broadcast_to(value.reshape(shape) if value.size == int(np.prod(shape)) else value, shape)


def _compared(tape: Tape, made: int, position: int, other: int) -> Any:
    step = tape.steps[made]
    values = [tape.values[i] for i in step.ins]
    values[position] = np.zeros_like(values[position]) if other == -1 else tape.values[other]
    return evaluate(step.primitive, values)[0]


def _selected(site: Site, ahead: Any, right: Any, condition: Callable[[Tape], Any]) -> Any:
    which = condition(site.tape)
    taken = np.where(which == bool(site.edge.position - 1), ahead, 0)
    return taken if taken.shape == right.shape else taken.sum(tuple(range(1, taken.ndim)))
