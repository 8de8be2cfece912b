"""Programs that are compiled once for each form of their inputs, and forgotten with their owner."""

import collections
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxgd.gradcheck.inputs import SMALL, Layout

QUICK: Any = {"xla_backend_optimization_level": 0}
"""Compiler options for programs that run for an instant."""

UNTRACEABLE = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerBoolConversionError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.NonConcreteBooleanIndexError,
)
"""What a function raises that needs numbers where a trace has shapes."""

KEPT = 12
"""Programs of one function that are kept: layouts, precisions, shapes."""


class Programs:
    """A function of a layout and arrays, compiled for each layout, precision and form of the arrays.

    Compiled ahead of time, because `jax.jit` keeps what it compiles in tables of the process that outlive the
    function: 200 checks of new closures kept more than a gigabyte there.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._traced: collections.OrderedDict[Any, Any] = collections.OrderedDict()
        self._compiled: collections.OrderedDict[Any, Any] = collections.OrderedDict()

    def clear(self) -> None:
        """Forget everything that was traced and compiled."""
        self._traced.clear()
        self._compiled.clear()

    def trace(self, layout: Layout, *arrays: Any) -> Any:
        """Trace the function.

        Args:
          layout: its first argument.
          arrays: trees of arrays, the others.

        Returns:
          The trace, an object of `jax.stages.Traced`.
        """
        return _kept(self._traced, _key(layout, arrays), lambda: self._trace(layout, arrays))

    def _trace(self, layout: Layout, arrays: tuple[Any, ...]) -> Any:
        return jax.jit(functools.partial(self._function, layout)).trace(*arrays)

    def __call__(self, layout: Layout, *arrays: Any) -> Any:
        """Run the function.

        Args:
          layout: its first argument.
          arrays: trees of arrays, the others.

        Returns:
          What it returns.
        """

        def compile_it() -> Any:
            size = sum(int(np.size(leaf)) for leaf in jax.tree.leaves(arrays))
            lowered = self.trace(layout, *arrays).lower()
            return lowered.compile(compiler_options=QUICK if size <= SMALL else None)

        return _kept(self._compiled, _key(layout, arrays), compile_it)(*arrays)


def _key(layout: Layout, arrays: tuple[Any, ...]) -> Any:
    leaves, treedef = jax.tree.flatten(arrays)
    forms = tuple((np.shape(leaf), getattr(leaf, "dtype", type(leaf))) for leaf in leaves)
    return layout, treedef, forms, jax.config.read("jax_enable_x64")


def _kept(table: "collections.OrderedDict[Any, Any]", key: Any, make: Callable[[], Any]) -> Any:
    """An entry of a table that forgets what was not used for longest."""
    if key not in table:
        table[key] = make()
        if len(table) > KEPT:
            table.popitem(last=False)
    table.move_to_end(key)
    return table[key]
