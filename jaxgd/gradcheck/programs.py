"""Programs that are compiled once for each form of their inputs, and forgotten with their owner."""

import collections
import contextlib
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgd.gradcheck.backward.program import extend
from jaxgd.gradcheck.inputs import SMALL, Arrays, Layout, Point
from jaxgd.gradcheck.precision import precision

EPS32, EPS64 = (float(np.finfo(dtype).eps) for dtype in (np.float32, np.float64))


@functools.cache
def quick() -> dict[str, Any]:
    """Compiler options for programs that run for an instant.

    Without LLVM's optimizations, and on a CPU without the newer fusions and in one part, a program of twenty
    operations is compiled in 26 ms instead of 130 ms.

    Returns:
      Those options that the installed version of XLA knows.
    """
    options: dict[str, Any] = {"xla_backend_optimization_level": 0}
    more: dict[str, Any] = {"xla_cpu_use_fusion_emitters": False, "xla_cpu_parallel_codegen_split_count": 1}
    for name, value in more.items():
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            jax.jit(lambda x: x).lower(0.0).compile(compiler_options=options | {name: value})
            options[name] = value
    return options


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


class Trace:
    """A function of a layout and arrays that JAX traces once for each structure, shape and dtype of the arrays.

    Evaluating its jaxpr is much quicker than running the caller's code for each program that is made of it.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._known: collections.OrderedDict[Any, Any] = collections.OrderedDict()

    def _of(self, layout: Layout, arrays: tuple[Any, ...]) -> Any:
        make = jax.make_jaxpr(functools.partial(self._function, layout), return_shape=True)
        return kept(self._known, _key(layout, arrays), lambda: make(*arrays))

    def program(self, layout: Layout, *arrays: Any) -> Any:
        """The function as a jaxpr.

        Args:
          layout: its first argument.
          arrays: trees of arrays, the others.

        Returns:
          A closed jaxpr whose inputs are the arrays.
        """
        return self._of(layout, arrays)[0]

    def __call__(self, layout: Layout, *arrays: Any) -> Any:
        """Evaluate the function."""
        closed, shapes = self._of(layout, arrays)
        leaves = extend().core.jaxpr_as_fun(closed)(*jax.tree.leaves(arrays))
        return jax.tree.unflatten(jax.tree.structure(shapes), leaves)


class Programs:
    """A function of a layout and arrays, compiled for each layout, precision and form of the arrays.

    Compiled ahead of time, because `jax.jit` keeps what it compiles in caches of the process that outlive the
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
        """Trace the function."""
        return kept(self._traced, _key(layout, arrays), lambda: self._trace(layout, arrays))

    def _trace(self, layout: Layout, arrays: tuple[Any, ...]) -> Any:
        return jax.jit(functools.partial(self._function, layout)).trace(*arrays)

    def __call__(self, layout: Layout, *arrays: Any) -> Any:
        """Run the function."""
        return self.compiled(layout, *arrays)(*arrays)

    def compiled(self, layout: Layout, *arrays: Any) -> Any:
        """Compile the function without running it."""

        def compile_it() -> Any:
            size = sum(int(np.size(leaf)) for leaf in jax.tree.leaves(arrays))
            lowered = self.trace(layout, *arrays).lower()
            return lowered.compile(compiler_options=quick() if size <= SMALL else None)

        return kept(self._compiled, _key(layout, arrays), compile_it)


def _key(layout: Layout, arrays: tuple[Any, ...]) -> Any:
    leaves, treedef = jax.tree.flatten(arrays)
    return layout, treedef, tuple(map(_form, leaves)), jax.config.read("jax_enable_x64")


def _form(leaf: Any) -> Any:
    """What a program is compiled for."""
    if type(leaf) is np.ndarray:
        return leaf.shape, leaf.dtype, False
    return np.shape(leaf), getattr(leaf, "dtype", type(leaf)), getattr(leaf, "weak_type", False)


def kept(
    table: "collections.OrderedDict[Any, Any]",
    key: Any,
    make: Callable[[], Any],
    limit: int = KEPT,
    forget: Callable[[Any], None] | None = None,
) -> Any:
    """An entry of a table that forgets what was not used for longest, and says so to `forget`."""
    if key not in table:
        table[key] = make()
        if len(table) > limit:
            _, oldest = table.popitem(last=False)
            if forget is not None:
                forget(oldest)
    table.move_to_end(key)
    return table[key]


def run_in(run: Callable[..., Any], wide: bool, layout: Layout, point: Point, dtype: Any) -> Arrays:
    """Evaluate a function in a dtype.

    Args:
      run: `(layout, point) -> leaves`.
      wide: whether it can be evaluated in float64; otherwise it runs in the dtypes given, and its leaves are returned
        as if it had run in the other.
      layout: of the leaves.
      point: the leaves.
      dtype: float64 or float32; None for the dtypes of the leaves and of the process.

    Returns:
      NumPy leaves.
    """

    def host(point: Point) -> Arrays:
        # A function may return the same buffer each time.
        return [np.array(leaf) if isinstance(leaf, np.ndarray) else np.asarray(leaf) for leaf in run(layout, point)]

    if dtype is None or np.dtype(dtype) == np.float64:
        if wide or dtype is None:
            with precision(dtype):
                return host(point)
        return [np.asarray(leaf, np.float64) for leaf in host(layout.as_given(point))]
    if wide:
        try:
            with precision(dtype):
                return host(point)
        except Exception:  # an array in a closure has another dtype
            return _moved(lambda point: run_in(run, wide, layout, point, np.float64), point, EPS64)
    given = layout.as_given(point)
    eps = max(float(jnp.finfo(np.asarray(leaf).dtype).eps) for leaf in given.params)
    return _moved(lambda point: host(layout.as_given(point)), point, eps)


def _moved(run: Callable[[Point], Arrays], point: Point, eps: float) -> Arrays:
    """Leaves that show how much rounding there is, for a function that cannot be evaluated in float32 and float64.

    The inputs are moved by one unit in the last place, and the change is scaled to the unit of float32.
    """
    rng = np.random.default_rng(3)
    params = [np.asarray(leaf, np.float64) for leaf in point.params]
    moved = [leaf * (1 + eps * rng.choice([-1.0, 1.0], leaf.shape)) for leaf in params]
    here, there = (
        [np.asarray(leaf, np.float64) for leaf in run(point._replace(params=leaves))] for leaves in (params, moved)
    )
    return [leaf + (other - leaf) * (EPS32 / eps) for leaf, other in zip(here, there, strict=True)]
