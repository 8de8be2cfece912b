"""Functions with rules of their own, as a program calls them."""

import functools
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from jaxgd.gradcheck.backward.program import extend

RULES = ("custom_vjp_call", "custom_jvp_call")
"""Primitives of functions with a rule of their own."""


class Site(NamedTuple):
    """A function with a rule of its own, as a program calls it.

    Attributes:
      eqn: the equation.
      name: of the function.
      file: where it is defined; "" if that is not known.
      line: the line of its definition.
      arguments: the name of each input of the equation.
    """

    eqn: Any
    name: str
    file: str
    line: int
    arguments: tuple[str, ...]

    @property
    def place(self) -> str:
        """`model.py:12`, or ""."""
        return f"{Path(self.file).name}:{self.line}" if self.file else ""

    @property
    def of_a_library(self) -> bool:
        """Whether the function belongs to an installed package or to Python."""
        return _is_installed(self.file)


def is_rule(eqn: Any) -> bool:
    """Whether an equation calls a function with a rule of its own."""
    return eqn.primitive.name in RULES and "call_jaxpr" in eqn.params


def sites(jaxpr: Any) -> Iterator[Site]:
    """The functions with rules of their own that a program calls, at any depth, in order."""
    for eqn in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        if is_rule(eqn):
            yield site_of(eqn)
        for inner in extend().core.jaxprs_in_params(eqn.params):
            yield from sites(inner)


def site_of(eqn: Any) -> Site:
    """What an equation says about the function that it calls.

    Args:
      eqn: of a function with a rule of its own.

    Returns:
      The site.
    """
    infos = _infos(eqn)
    name = (infos[0].func_src_info or "").partition(" at ")[0] or str(infos[0].func_name)
    # A rule that a user gave to a function of a library, jax.custom_vjp(jnp.tanh), is the user's.
    places = [_place_of(info) for info in infos]
    file, line = next((place for place in places if place[0] and not _is_installed(place[0])), places[0])
    names = _argument_names(eqn, len(eqn.invars) - eqn.params["num_consts"])
    constants = tuple(f"constant {i}" for i in range(eqn.params["num_consts"]))
    return Site(eqn, name, file, line, (*constants, *names))


def _infos(eqn: Any) -> list[Any]:
    """What is known of the function and of its rule."""
    infos = [eqn.params["call_jaxpr"].jaxpr.debug_info]
    return infos + [eqn.params[key].debug_info for key in ("fwd_jaxpr_thunk", "jvp_jaxpr_fun") if key in eqn.params]


def _place_of(info: Any) -> tuple[str, int]:
    """File and line of a function; "" and 0 if they are not known."""
    file, _, line = (info.func_src_info or "").partition(" at ")[2].rpartition(":")
    return (file, int(line)) if line.isdigit() else ("", 0)


@functools.cache
def _is_installed(file: str) -> bool:
    paths = sysconfig.get_paths()
    return any(file.startswith(paths[kind]) for kind in ("purelib", "platlib", "stdlib"))


def _argument_names(eqn: Any, count: int) -> tuple[str, ...]:
    """Names of the inputs, from the function's signature or that of its forward rule."""
    for info in _infos(eqn):
        names = getattr(info, "arg_names", None)
        if names and len(names) >= count and all(names[:count]):
            return tuple(str(name) for name in names[:count])
    return tuple(f"argument {i}" for i in range(count))
