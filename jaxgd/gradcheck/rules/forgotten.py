"""A backward pass that computes the function again and leaves out an operation: a mask, a bound, a scale."""

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgd.gradcheck.backward.program import extend, quote
from jaxgd.gradcheck.finding import Kind
from jaxgd.gradcheck.precision import precision
from jaxgd.gradcheck.programs import quick
from jaxgd.gradcheck.rules import program
from jaxgd.gradcheck.rules.evaluate import Evaluator, Leaves

SKIPPED = {
    **{"select_n": "where", "max": "maximum", "min": "minimum", "clamp": "clip"},
    **{"mul": "product", "div": "quotient", "add": "sum", "sub": "difference"},
}
"""Operations that people forget to do again, and what to call them."""

MAX_OPERATIONS = 48
"""Operations that are left out in turn."""


def derivatives(
    evaluator: Evaluator, points: Sequence[tuple[Leaves, Leaves]]
) -> Iterator[tuple[tuple[Kind, str], list[Leaves]]]:
    """The derivative of the function with each operation in turn replaced by one of its inputs.

    Args:
      evaluator: the rule and the function.
      points: arguments and incoming gradients.

    Yields:
      A kind and words, and the derivatives at all points.
    """
    if evaluator.program is None or evaluator.right is None:
        return
    found = list(_operations(evaluator.program.jaxpr))[:MAX_OPERATIONS]
    if not found:
        return
    table: dict[int, list[tuple[int, int]]] = {}
    for code, (eqn, position, _) in enumerate(found):
        table.setdefault(id(eqn), []).append((code, position))

    def derivative(params: Leaves, incoming: list[Any], code: Any) -> Leaves:
        def handle(eqn: Any, values: list[Any]) -> list[Any] | None:
            if eqn.primitive.name in program.INLINED:
                return program.inline(eqn, values, handle)
            if id(eqn) not in table:
                return None
            (out,) = program.bind(eqn, values)
            for number, position in table[id(eqn)]:
                out = jnp.where(code == number, values[position], out)
            return [out]

        def loss(params: Leaves) -> Any:
            outputs = program.run(evaluator.program, jax.tree.leaves(params), handle)
            return sum(jnp.sum(g * out).real for g, out in zip(incoming, outputs, strict=True))

        return jax.grad(loss)(params)

    arguments = [(params, [np.asarray(g) for g in incoming.values()]) for params, incoming in points]
    with precision(evaluator.dtype):
        compiled = jax.jit(derivative).lower(*arguments[0], np.int32(0)).compile(compiler_options=quick())
        for code, (eqn, _, place) in enumerate(found):
            predicted = [
                {name: np.asarray(leaf) for name, leaf in compiled(*at, np.int32(code)).items()} for at in arguments
            ]
            what = f"the {SKIPPED[eqn.primitive.name]} {place}".rstrip()
            kind = Kind.MASK if eqn.primitive.name in ("select_n", "max", "min", "clamp") else Kind.PATH
            words = f"is the derivative of the function without {what}: the backward pass leaves this operation out."
            yield (kind, words), predicted


def _operations(jaxpr: Any, caller: str = "") -> Iterator[tuple[Any, int, str]]:
    """Operations outside loops, an input of each that has the shape of the output, and where they are."""
    for eqn in jaxpr.eqns:
        name, place = eqn.primitive.name, quote(eqn) or caller
        if name in program.INLINED:
            inner = eqn.params[program.INLINED[name]]
            yield from _operations(getattr(inner, "jaxpr", inner), place)
        elif name in SKIPPED:
            out = eqn.outvars[0].aval
            for position, atom in enumerate(eqn.invars):
                literal = isinstance(atom, extend().core.Literal)
                same = atom.aval.shape == out.shape and atom.aval.dtype == out.dtype
                if not literal and same and jnp.issubdtype(out.dtype, jnp.floating):
                    yield eqn, position, place
