"""Finding out in which way and precision a function can be evaluated, by the caller's own call first."""

import collections
import dataclasses
import re
import types
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgd.gradcheck.answer import find_part, pack, part_of, unpack
from jaxgd.gradcheck.backward.program import equations, same_program
from jaxgd.gradcheck.derivatives import DERIVATIVES, custom_functions
from jaxgd.gradcheck.functions import BadLoss, Gradient, Loss, Way, value_of
from jaxgd.gradcheck.inputs import Inputs, Layout, Point
from jaxgd.gradcheck.precision import precision
from jaxgd.gradcheck.programs import Programs, kept

KEPT = 4
"""Functions of each kind that are kept with what was compiled of them. Each holds megabytes."""

CALLBACKS = ("pure_callback", "io_callback")

_losses: "collections.OrderedDict[Any, Loss]" = collections.OrderedDict()
_gradients: "collections.OrderedDict[Any, Gradient]" = collections.OrderedDict()


def loss_of(function: Callable[..., Any], inputs: Inputs, base: Point, *, has_aux: bool) -> Loss:
    """A loss, ready to be evaluated; the same object for the same function and form of the inputs.

    It is traced in the dtypes given first, as the caller would. What only float64 raises is not the caller's mistake:
    the loss then runs in the dtypes given.

    Args:
      function: takes the arguments of the call.
      inputs: the arguments, in the dtypes given.
      base: their leaves in float64.
      has_aux: whether it returns `(value, auxiliary output)`.

    Returns:
      The loss.

    Raises:
      ValueError: it raises, or does not return one real floating number.
    """
    try:
        return _kept(_losses, function, (inputs, has_aux), lambda: _probe_loss(function, inputs, base, has_aux))
    except BadLoss:
        raise
    except Exception as error:
        raise BadLoss(f"`loss` raised {type(error).__name__}: {error}{hint(error, inputs)}") from error


OPTIONS = ("key", "order", "seconds", "argnums", "has_aux")
"""Arguments of a check, which therefore do not reach the functions."""


def hint(error: Exception, inputs: Inputs) -> str:
    """What to do if a function was called with too few or too many arguments.

    Args:
      error: that the function raised.
      inputs: the arguments of the call.

    Returns:
      The end of a sentence; "" if the error is another one.
    """
    if not (isinstance(error, TypeError) and re.search(r"\(\) (missing|takes|got an unexpected)", str(error))):
        return ""
    taken = [name for name in OPTIONS if f"argument: '{name}'" in str(error)]
    if taken:
        return f". `{taken[0]}` is an argument of the check: bind it by functools.partial."
    positional, kwargs = inputs.layout.arguments(inputs.point)
    args = f"{len(positional) - 1} in `*args`"
    named = f" and {', '.join(kwargs)} by name" if kwargs else ""
    return f". It was called with `params`, {args}{named}."


def gradient_of(function: Callable[..., Any], inputs: Inputs, base: Point, *, has_aux: bool) -> Gradient:
    """A gradient function, ready to be evaluated; the same object for the same function and form of the inputs.

    Args:
      function: takes the arguments of the call.
      inputs: the arguments, in the dtypes given.
      base: their leaves in float64.
      has_aux: whether the loss returns `(value, auxiliary output)`.

    Returns:
      The gradient.

    Raises:
      Exception: whatever the function raises when it is called with arrays.
    """
    return _kept(_gradients, function, (inputs, has_aux), lambda: _probe_gradient(function, inputs, base, has_aux))


def _kept(table: Any, function: Callable[..., Any], form: tuple[Inputs, bool], make: Callable[[], Any]) -> Any:
    """The entry of a function in a table that forgets what was not used for longest."""
    inputs, has_aux = form
    # A bound method is a new object at each access.
    owner = (id(function.__self__), id(function.__func__)) if isinstance(function, types.MethodType) else id(function)
    forms = tuple((np.shape(leaf), str(getattr(leaf, "dtype", type(leaf)))) for leaf in jax.tree.leaves(inputs.point))
    key = owner, inputs.layout, forms, has_aux, jax.config.read("jax_enable_x64")
    return kept(table, key, make, KEPT, _release)


def _release(owner: Loss | Gradient) -> None:
    """Free what was compiled for a function now: its programs refer to it, and cycles live until a late collection."""
    owner.facts.clear()
    for programs in vars(owner).values():
        if isinstance(programs, Programs):
            programs.clear()


def _probe_loss(function: Callable[..., Any], inputs: Inputs, base: Point, has_aux: bool) -> Loss:
    layout, native = inputs.layout, inputs.point
    loss = Loss(function, has_aux, Way(True))
    if _has_own_functions(loss, layout, base):
        return _untraced_loss(loss, inputs, base)
    try:
        with precision(None):
            program = loss.trace.program(layout, native)
            again = jax.make_jaxpr(lambda point: loss.scalar(layout, point))(native)
    except BadLoss:
        raise
    except Exception:
        return _untraced_loss(loss, inputs, base)
    if not same_program(program, again):
        with precision(None):
            _require_repeatable(lambda: loss.scalar(layout, native))
    loss = dataclasses.replace(loss, derivative=_derivative(loss, layout, native))
    try:
        with precision(np.float64):
            program = loss.trace.program(layout, base)
        # Before anything is compiled: a copy of the loss has to compile it again.
        loss = dataclasses.replace(loss, program=program)
        # A callback can refuse float64 when it runs; everything else does so when it is compiled.
        if any(eqn.primitive.name in CALLBACKS for eqn in equations(program.jaxpr)):
            loss.values(layout, base, base.params, np.zeros(1))
        else:
            loss.compile_values(layout, base)
    except Exception as error:
        way = Way(True, wide=False, why=_in_words(error))
        return dataclasses.replace(loss, way=way, wide=False, program=program)
    return _widest(loss, layout, base)


def _untraced_loss(loss: Loss, inputs: Inputs, base: Point) -> Loss:
    """A loss that JAX cannot trace, called with arrays of the caller's own kind."""
    layout = inputs.layout

    def call(point: Point, family: str) -> Any:
        return value_of(layout.call(loss.function, point, family=family), loss.has_aux)

    way = _untraced(call, inputs, base)
    with precision(None):
        _require_repeatable(lambda: call(inputs.point, way.family))
    loss = dataclasses.replace(loss, way=way)
    if _of_torch(layout):
        return _widest(dataclasses.replace(loss, derivative="torch"), layout, base)
    return loss


def _of_torch(layout: Layout) -> bool:
    """Whether the parameters are tensors of torch."""
    return any(leaf.family == "torch" and "param" in leaf.roles for leaf in layout.leaves)


def _has_own_functions(loss: Loss, layout: Layout, base: Point) -> bool:
    """Whether a loss of tensors has functions with a backward of their own, which JAX would pass by in silence."""
    if not _of_torch(layout):
        return False
    try:
        with precision(None):
            return bool(custom_functions(loss.function, loss.has_aux, layout, base))
    except Exception:  # a loss that takes no tensors, or is wrong in a way that is found later
        return False


def _require_repeatable(call: Callable[[], Any]) -> None:
    """Raise if a second call of a loss at the same point gives another value."""
    first, second = (np.asarray(call()) for _ in range(2))
    apart = abs(float(np.ravel(first)[0]) - float(np.ravel(second)[0]))
    if apart > 64 * float(jnp.finfo(first.dtype).eps) * abs(float(np.ravel(first)[0])):
        raise BadLoss(
            f"`loss` must return the same value each time that it is called with the same arguments, got "
            f"{np.ravel(first)[0]:.6g} and {np.ravel(second)[0]:.6g}. Draw random numbers outside and pass them as "
            "an argument."
        )


def _derivative(loss: Loss, layout: Layout, native: Point) -> str:
    """The first of reverse and forward mode that traces, "" if neither does."""
    for mode in DERIVATIVES:
        try:
            with precision(None):
                jax.make_jaxpr(lambda point, mode=mode: DERIVATIVES[mode](loss.trace, layout, point))(native)
        except Exception:  # a while_loop has no reverse mode, a callback neither
            continue
        return mode
    return ""


def _widest(loss: Loss, layout: Layout, base: Point) -> Loss:
    """The loss with its derivative in float64, otherwise in the dtypes given, otherwise without one."""
    if not loss.derivative:
        return loss
    try:
        loss.reverse(layout, base, np.float64)
    except Exception as error:
        loss = dataclasses.replace(loss, wide=False, why=_in_words(error))
        try:
            loss.reverse(layout, base, np.float64)
        except Exception:
            return dataclasses.replace(loss, derivative="", why="")
    return loss


def _probe_gradient(function: Callable[..., Any], inputs: Inputs, base: Point, has_aux: bool) -> Gradient:
    layout, native = inputs.layout, inputs.point
    names = [leaf.path for leaf in layout.leaves if "param" in leaf.roles]

    def packed(point: Point) -> Any:
        return pack(layout.call(function, point))

    try:
        with precision(None):
            first, shapes = jax.make_jaxpr(packed, return_shape=True)(native)
            second = jax.make_jaxpr(lambda point: packed(point))(native)
    except Exception:
        way = _untraced(lambda point, family: layout.call(function, point, family=family), inputs, base)
        with precision(None):
            positional, kwargs = layout.arguments(native, family=way.family)
            answer = function(*positional, **kwargs)
        part = find_part(answer, names, has_aux=has_aux)
        changes = _changed(layout, native, way, (positional, kwargs))
        return Gradient(function, way, part, part_of(answer, part, layout), changes=changes)
    answer = unpack(shapes)
    part = find_part(answer, names, has_aux=has_aux)
    stateful = not same_program(first, second)
    gradient = Gradient(function, Way(True), part, part_of(answer, part, layout), first, stateful)
    try:
        with precision(np.float64):
            wide = dataclasses.replace(gradient, program=gradient.trace.program(layout, base))
        wide.leaves(layout, base, np.float64)
    except Exception as error:
        return dataclasses.replace(gradient, way=Way(True, wide=False, why=_in_words(error)))
    return wide


def _changed(layout: Layout, native: Point, way: Way, arguments: Any) -> tuple[str, ...]:
    """Names of the arrays that a function has written to."""
    before, after = (jax.tree.leaves(tree) for tree in (layout.arguments(native, family=way.family), arguments))
    names = [(leaf.names or ("",))[0] for leaf in layout.leaves]
    if len(before) != len(names) or len(after) != len(names):
        return ()
    pairs = zip(names, before, after, strict=True)
    return tuple(
        name or "params"
        for name, a, b in pairs
        if isinstance(a, np.ndarray) and isinstance(b, np.ndarray) and a.tobytes() != b.tobytes()
    )


def _untraced(call: Callable[[Point, str], Any], inputs: Inputs, base: Point) -> Way:
    """How a function that JAX cannot trace is called: with the caller's arrays, otherwise with NumPy's."""
    family = "given"
    with precision(None):
        try:
            call(inputs.point, family)
        except Exception as error:
            if not any(leaf.family == "jax" for leaf in inputs.layout.leaves):
                raise
            family = "numpy"
            try:
                call(inputs.point, family)
            except Exception:
                raise error from None  # what the caller would see
    try:
        with precision(np.float64):
            call(base, family)
    except Exception as error:
        return Way(False, family, wide=False, why=_in_words(error))
    return Way(False, family)


def _in_words(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}".rstrip(": ")
