"""Rules of differentiation inside a program: where they are, which arguments they meet, the program without them.

A program is a jaxpr. A function with a rule of its own is one equation of it, at any depth: in the body of a scan, in a
branch of a cond, behind `jax.vmap` (which batches the function and its rule together). `run` evaluates a program with
chosen equations answered by somebody else; traced by `jax.make_jaxpr` it is a rewrite of the program.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxgd.gradcheck.backward.program import extend, scan_sizes
from jaxgd.gradcheck.programs import quick
from jaxgd.gradcheck.rules.rule import flatten
from jaxgd.gradcheck.rules.sites import Site, is_rule, site_of, sites

Handler = Callable[[Any, list[Any]], list[Any] | None]
"""Takes an equation and the values of its inputs; returns those of its outputs, or None to leave the equation as it
is."""

INLINED = {"jit": "jaxpr", "pjit": "jaxpr", "closed_call": "call_jaxpr", "checkpoint": "jaxpr", "remat2": "jaxpr"}
"""Primitives that only call a program, and the name of the program among their parameters."""

MAX_CALLS = 3
"""Calls of one function in a loop whose arguments are kept."""


def body(eqn: Any) -> Callable[..., list[Any]]:
    """The function of an equation, without its rule.

    Args:
      eqn: of a function with a rule of its own.

    Returns:
      Takes the inputs of the equation, returns its outputs.
    """
    closed = eqn.params["call_jaxpr"]
    return lambda *values: run(closed, values, lambda eqn, values: None)


def bind(eqn: Any, values: Sequence[Any]) -> list[Any]:
    """Evaluate one equation, rule and all."""
    info = extend().source_info_util
    stack = info.current_name_stack() + eqn.source_info.name_stack
    with info.user_context(eqn.source_info.traceback, name_stack=stack), eqn.ctx.manager:
        result = eqn.primitive.bind(*values, **eqn.primitive.get_bind_params(eqn.params))
    return list(result) if eqn.primitive.multiple_results else [result]


def run(closed: Any, values: Sequence[Any], handle: Handler) -> list[Any]:
    """Evaluate a program with some of its equations answered by a handler, at any depth.

    Loops and branches are built again around bodies that are evaluated in the same way.
    """
    return _run(closed.jaxpr, closed.consts, values, handle)


def without_rules(closed: Any, values: Sequence[Any], chosen: Callable[[Site], bool] = lambda site: True) -> list[Any]:
    """Evaluate a program in which functions have lost their rules, so that JAX differentiates their bodies."""

    def handle(eqn: Any, values: list[Any]) -> list[Any] | None:
        if is_rule(eqn) and chosen(site_of(eqn)):
            return run(eqn.params["call_jaxpr"], values, handle)
        return None

    return run(closed, values, handle)


def without(function: Callable[..., Any], chosen: Callable[[Site], bool]) -> Callable[..., Any]:
    """A function whose program has lost some of its rules.

    Args:
      function: of trees.
      chosen: which functions lose theirs.

    Returns:
      The same function for values; JAX differentiates the bodies of those functions.
    """

    def bare(*args: Any, **kwargs: Any) -> Any:
        flat, tree = flatten(args)
        moving = [i for i, leaf in enumerate(flat) if isinstance(leaf, float) or hasattr(leaf, "dtype")]

        def of_arrays(*values: Any) -> Any:
            new = list(flat)
            for i, value in zip(moving, values, strict=True):
                new[i] = value
            return function(*tree.unflatten(new), **kwargs)

        values = [flat[i] for i in moving]
        closed, shapes = jax.make_jaxpr(of_arrays, return_shape=True)(*values)
        outputs = without_rules(closed, values, chosen)
        return flatten(shapes)[1].unflatten(outputs)

    return bare


Met = dict[int, tuple[Site, list[list[Any]]]]
"""Functions with rules that a run reached, with the inputs of their first calls; by numbers of their equations."""


def arguments_met(closed: Any, runs: Sequence[Sequence[Any]]) -> list[Met]:
    """Run a program and keep what its functions with rules are called with.

    Args:
      closed: a closed jaxpr.
      runs: values of its inputs, once for each run.

    Returns:
      For each run, the functions that were reached, in the order of the program, with NumPy arrays.
    """
    kept: Met = {}

    def keep(eqn: Any, *inputs: Any) -> None:
        calls = kept.setdefault(id(eqn), (site_of(eqn), []))[1]
        if len(calls) < MAX_CALLS:
            calls.append([np.asarray(value) for value in inputs])

    def handle(eqn: Any, values: list[Any]) -> list[Any] | None:
        if not is_rule(eqn):
            return None
        jax.debug.callback(functools.partial(keep, eqn), *values)
        return run(eqn.params["call_jaxpr"], values, handle)

    compiled = jax.jit(lambda *values: run(closed, values, handle)).lower(*runs[0]).compile(compiler_options=quick())
    numbers = {id(site.eqn): None for site in sites(closed)}
    found = []
    for values in runs:
        jax.block_until_ready(compiled(*values))
        jax.effects_barrier()
        found.append({number: kept[number] for number in numbers if number in kept})
        kept.clear()
    return found


def _run(jaxpr: Any, consts: Sequence[Any], values: Sequence[Any], handle: Handler) -> list[Any]:
    env = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *values), strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, extend().core.Literal) else env[atom]

    for eqn in jaxpr.eqns:
        inputs = [read(atom) for atom in eqn.invars]
        outputs = handle(eqn, inputs)
        if outputs is None:
            rebuild = REBUILT.get(eqn.primitive.name) if any(True for _ in sites(_Single([eqn]))) else None
            outputs = rebuild(eqn, inputs, handle) if rebuild else bind(eqn, inputs)
        env.update(zip(eqn.outvars, outputs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


class _Single(NamedTuple):
    """A program of one equation, as far as `sites` is concerned."""

    eqns: list[Any]


def inline(eqn: Any, values: list[Any], handle: Handler) -> list[Any]:
    """Evaluate an equation that only calls a program.

    Args:
      eqn: of one of `INLINED`.
      values: of its inputs.
      handle: see `run`.

    Returns:
      The outputs.
    """
    inner = eqn.params[INLINED[eqn.primitive.name]]
    return _run(getattr(inner, "jaxpr", inner), getattr(inner, "consts", ()), values, handle)


def _scan(eqn: Any, values: list[Any], handle: Handler) -> list[Any]:
    params, (num_consts, num_carry) = eqn.params, scan_sizes(eqn)
    consts, init, rows = values[:num_consts], values[num_consts:][:num_carry], values[num_consts + num_carry :]

    def step(carry: Any, row: Any) -> tuple[Any, Any]:
        outputs = run(params["jaxpr"], (*consts, *carry, *row), handle)
        return outputs[:num_carry], outputs[num_carry:]

    carry, stacked = jax.lax.scan(
        step, init, rows, length=params["length"], reverse=params["reverse"], unroll=params["unroll"]
    )
    return [*carry, *stacked]


def _while(eqn: Any, values: list[Any], handle: Handler) -> list[Any]:
    params = eqn.params
    of_cond, of_body = params["cond_nconsts"], params["body_nconsts"]
    cond_consts, body_consts, init = values[:of_cond], values[of_cond:][:of_body], values[of_cond + of_body :]
    outputs: list[Any] = jax.lax.while_loop(
        lambda carry: run(params["cond_jaxpr"], (*cond_consts, *carry), handle)[0],
        lambda carry: run(params["body_jaxpr"], (*body_consts, *carry), handle),
        init,
    )
    return outputs


def _cond(eqn: Any, values: list[Any], handle: Handler) -> list[Any]:
    branches = [functools.partial(_branch, branch, handle) for branch in eqn.params["branches"]]
    outputs: list[Any] = jax.lax.switch(values[0], branches, *values[1:])
    return outputs


def _branch(closed: Any, handle: Handler, *values: Any) -> list[Any]:
    return run(closed, values, handle)


REBUILT: dict[str, Callable[[Any, list[Any], Handler], list[Any]]] = {
    **dict.fromkeys(INLINED, inline),
    "scan": _scan,
    "while": _while,
    "cond": _cond,
}
"""How an equation with a program inside is built again around the rewritten program; others are left as they are."""
