"""What can be read from a jaxpr: its equations, what a reader calls them, and where in the source they stand."""

import functools
import linecache
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


@functools.cache
def extend() -> Any:
    """`jax.extend`, imported on first use because the import takes a tenth of a second."""
    import jax.extend

    return jax.extend


NAMES = {
    "logistic": "sigmoid", "dot_general": "matrix product", "reduce_sum": "sum over an axis", "sub": "difference",
    "add": "sum", "add_any": "sum", "mul": "product", "div": "quotient", "neg": "negation", "square": "square",
    "broadcast_in_dim": "broadcast", "integer_pow": "power", "select_n": "where", "reduce_max": "maximum over an axis",
    "reduce_min": "minimum over an axis", "max": "maximum", "min": "minimum", "triangular_solve": "triangular solve",
    "custom_linear_solve": "linear solve", "index": "element of a scan's input", "stack": "outputs of a scan",
}  # fmt: skip
"""What a reader calls a primitive whose own name is not the word of the field."""


def name_of(eqn: Any) -> str:
    """What a reader calls an operation.

    Args:
      eqn: of a jaxpr.

    Returns:
      The name of the function if it has its own rule of differentiation, otherwise that of the primitive.
    """
    name = str(eqn.primitive.name)
    if name.startswith(("custom_jvp_call", "custom_vjp_call")):
        return function_name(eqn)
    if name == "integer_pow":
        return "square" if eqn.params["y"] == 2 else f"power x^{eqn.params['y']}"
    return NAMES.get(name, name)


def function_name(eqn: Any) -> str:
    """The name of the function that an equation calls.

    Args:
      eqn: of a jaxpr, a call of a program.

    Returns:
      "relu" for `jax.nn.relu`; "" if it has no name.
    """
    if "name" in eqn.params:
        return str(eqn.params["name"])
    inner = eqn.params.get("call_jaxpr", eqn.params.get("fun_jaxpr"))
    inner = getattr(inner, "jaxpr", inner)
    if inner is None:
        return ""
    if len(inner.eqns) == 1 and "name" in inner.eqns[0].params:
        return str(inner.eqns[0].params["name"])
    return str(getattr(inner.debug_info, "func_name", "")).rpartition(".")[2]


class Source(NamedTuple):
    """Where an operation stands in the user's code.

    Attributes:
      text: the expression; "" if it is not known.
      place: `file.py:12`; "" if it is not known.
      key: file, line and column of every call that leads to it, so that two operations of one expression in two
        iterations of a loop have the same key.
      caller: the call of the function in which it stands, if that is a line of its own.
      inner: whether it stands inside a function of a library, so that the text is that of the call.
    """

    text: str
    place: str
    key: tuple[Any, ...]
    caller: str = ""
    inner: bool = False

    def quote(self) -> str:
        """The expression and its place, or as much as is known.

        Returns:
          "`sigmoid(z)` (model.py:12)".
        """
        if not self.place:
            return ""
        own = f"`{self.text}` ({self.place})" if self.text else self.place
        return f"{own}, called by {self.caller}" if self.caller else own


NOWHERE = Source("", "", ())
OWN = str(Path(__file__).parents[1])
"""The folder of the checker, whose own operations have no place in the user's code."""

STANDING_IN = str(Path(OWN) / "mistakes" / "tensors.py")
"""The file of functions that stand for those of another library: the user's line is the one that calls them."""


@functools.lru_cache(maxsize=4096)
def _source(info: Any) -> Source:
    all_frames = _frames(info)
    if all_frames and all_frames[0].file_name.startswith(OWN):
        return NOWHERE  # an operation that the check itself adds to a function
    frames = [frame for frame in all_frames if not frame.file_name.startswith(OWN)]
    if not frames:
        return _source_of_line(info)
    frame = frames[0]
    key = tuple((f.file_name, f.start_line, f.start_column, f.end_line, f.end_column) for f in frames)
    text = _expression(frame)
    if "\n" in text:
        text = ""
    short = frame.file_name.rpartition("/")[2]
    return Source(text, f"{short}:{frame.start_line}", key, _caller(frames))


def _caller(frames: list[Any]) -> str:
    """The call of a short function, such as a sigmoid, which one line defines and several lines call."""
    if len(frames) < 2 or frames[1].file_name != frames[0].file_name:
        return ""
    inner, outer = frames[0], frames[1]
    text = _expression(outer)
    # A loss that is itself called is not worth naming: its operations stand in many lines.
    short = inner.function_name.endswith("<lambda>")
    return f"`{text}` (line {outer.start_line})" if short and "\n" not in text and len(text) <= 80 else ""


def _frames(info: Any) -> list[Any]:
    try:  # the columns of an expression are not part of JAX's public interface
        from jax._src import source_info_util

        frames = list(source_info_util.user_frames(info.traceback))
        return [frame for frame in frames if frame.file_name != STANDING_IN]
    except (ImportError, AttributeError, TypeError):
        return []


def _source_of_line(info: Any) -> Source:
    """From the public summary, which knows the line but not the column."""
    place = extend().source_info_util.summarize(info).split(" (")[0]
    file, _, rest = place.partition(":")
    line = rest.partition(":")[0]
    if not line.isdigit() or file.startswith(OWN):
        return NOWHERE
    text = linecache.getline(file, int(line)).strip()
    return Source(text, f"{file.rpartition('/')[2]}:{line}", (file, int(line)))


def _expression(frame: Any) -> str:
    """The text between the columns of a frame; a line if it is not known which part of it."""
    line = linecache.getline(frame.file_name, frame.start_line)
    whole = line.strip()
    if frame.end_line != frame.start_line or not 0 <= frame.start_column < frame.end_column:
        return whole
    encoded = line.encode()[frame.start_column : frame.end_column]
    return encoded.decode(errors="ignore").strip() or whole


def source_of(eqn: Any) -> Source:
    """Where an equation stands in the user's code.

    Args:
      eqn: of a jaxpr.

    Returns:
      The source; `NOWHERE` if it is not known.
    """
    return NOWHERE if eqn is None else _source(eqn.source_info)


def quote(eqn: Any) -> str:
    """Where an equation stands in the user's code, in words.

    Args:
      eqn: of a jaxpr.

    Returns:
      "`sigmoid(z)` (model.py:12)", the expression and its place; "" if neither is known.
    """
    return source_of(eqn).quote()


def equations(jaxpr: Any) -> Iterator[Any]:
    """The equations of a program and of the programs that it calls, in order."""
    for eqn in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        yield eqn
        for inner in extend().core.jaxprs_in_params(eqn.params):
            yield from equations(inner)


def same_program(left: Any, right: Any) -> bool:
    """Whether two traces of a function are the same, constants included."""
    if [str(eqn.primitive) for eqn in equations(left)] != [str(eqn.primitive) for eqn in equations(right)]:
        return False
    literals = [
        [atom.val for eqn in equations(closed) for atom in eqn.invars if isinstance(atom, extend().core.Literal)]
        + [const for const in closed.consts if hasattr(const, "dtype")]
        for closed in (left, right)
    ]
    return len(literals[0]) == len(literals[1]) and all(
        a is b or np.array_equal(np.asarray(a), np.asarray(b), equal_nan=np.asarray(a).dtype.kind == "f")
        for a, b in zip(*literals, strict=True)
        if not jnp.issubdtype(jnp.result_type(a), jax.dtypes.extended)
    )


def scan_sizes(eqn: Any) -> tuple[int, int]:
    """How many inputs of a scan are constants, and how many its carry.

    Read from the shapes, because the names of a scan's parameters differ between versions of JAX: rows lose their first
    axis on the way into the body, what is stacked gains one on the way out, and nothing else changes.
    """
    body = getattr(eqn.params["jaxpr"], "jaxpr", eqn.params["jaxpr"])
    num_carry = sum(out.aval.ndim == inner.aval.ndim for out, inner in zip(eqn.outvars, body.outvars, strict=True))
    num_rows = sum(given.aval.ndim > inner.aval.ndim for given, inner in zip(eqn.invars, body.invars, strict=True))
    return len(eqn.invars) - num_carry - num_rows, num_carry


def coarsest(closed: Any) -> float:
    """The rounding unit of the coarsest floating dtype that a program computes in.

    Args:
      closed: a jaxpr traced at float64 inputs.

    Returns:
      2.2e-16 if everything is float64.
    """
    units = [float(np.finfo(np.float64).eps)]
    for eqn in equations(closed):
        for var in eqn.outvars:
            dtype = getattr(var.aval, "dtype", None)
            if dtype is not None and jnp.issubdtype(dtype, jnp.floating) and var.aval.size > 0:
                units.append(float(jnp.finfo(dtype).eps))
    return max(units)


def name_of_unit(unit: float) -> str:
    """The name of the dtype whose rounding unit is `unit`.

    Args:
      unit: the distance from 1 to the next number.

    Returns:
      "float32" and the like.
    """
    for name in ("float64", "float32", "float16", "bfloat16"):
        if float(jnp.finfo(name).eps) == unit:
            return name
    return "a narrow floating type"


def hidden_rules(closed: Any) -> list[str]:
    """Where a program has its own rules of differentiation, or stops gradients."""
    found = []
    for eqn in equations(closed):
        name = eqn.primitive.name
        if name == "stop_gradient":
            found.append(f"stop_gradient at {quote(eqn)}")
        elif name.startswith("custom_vjp_call"):
            found.append(f"custom_vjp at {quote(eqn)}")
    return found
