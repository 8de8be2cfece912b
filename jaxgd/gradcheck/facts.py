"""What the programs of a loss and a gradient say about themselves: shapes, precision, rules, state."""

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxgd.gradcheck.backward import program as programs
from jaxgd.gradcheck.finding import Finding, Kind
from jaxgd.gradcheck.functions import BadLoss
from jaxgd.gradcheck.inputs import Arrays, is_floating
from jaxgd.gradcheck.pair import Pair

EPS64 = float(np.finfo(np.float64).eps)

STATEFUL = "a second call gave another answer: the gradient draws random numbers or keeps state."


class LossFacts(NamedTuple):
    """What the program of a loss says about itself.

    Attributes:
      unit: the rounding unit of the coarsest dtype that it computes in.
      rules: its own rules of differentiation, in words.
    """

    unit: float
    rules: tuple[str, ...]


class GradientFacts(NamedTuple):
    """What the program of a gradient says about itself.

    Attributes:
      tree: what it returns, or its shapes.
      stateful: whether two traces differ.
      unit: the rounding unit of the coarsest dtype that it computes in.
    """

    tree: Any
    stateful: bool
    unit: float


@contextlib.contextmanager
def blaming_the_loss() -> Iterator[None]:
    """Raise whatever is raised inside as an error of the loss.

    Returns:
      A context.

    Raises:
      ValueError: says what the loss raised.
    """
    try:
        yield
    except BadLoss:
        raise
    except Exception as error:
        raise BadLoss(f"`loss` raised {type(error).__name__}: {error}") from error


def loss_facts(pair: Pair) -> LossFacts:
    """Read the program of a loss."""
    loss = pair.loss
    wide = loss.way.wide and (loss.wide or not loss.derivative)
    unit = EPS64 if wide else _given_unit(pair)
    if loss.program is None:
        return LossFacts(unit, ())
    if "program" not in loss.facts:
        loss.facts["program"] = programs.coarsest(loss.program), tuple(programs.hidden_rules(loss.program))
    coarsest, rules = loss.facts["program"]
    return LossFacts(max(unit, coarsest), rules)


def gradient_facts(pair: Pair) -> GradientFacts:
    """Read the program of a gradient."""
    grad = pair.grad
    unit = EPS64 if grad.way.wide else _given_unit(pair)
    if "unit" not in grad.facts:
        if grad.program is not None:
            grad.facts["unit"] = max(programs.coarsest(grad.program), _unit_of_constants(pair))
        else:
            leaves = grad.leaves(pair.layout, pair.base, np.float64)
            units = (float(jnp.finfo(leaf.dtype).eps) for leaf in leaves if is_floating(leaf))
            grad.facts["unit"] = max(units, default=EPS64)
    return GradientFacts(grad.answer, grad.stateful, max(unit, grad.facts["unit"]))


def _unit_of_constants(pair: Pair) -> float:
    """The rounding unit of the numbers that the gradient holds and the loss does not.

    `2 / N * x.T` of a float32 array in a closure is computed by NumPy, in float32, before JAX sees it.
    """
    shared = {np.sort(np.ravel(number)).tobytes() for number in _narrow_constants(pair.loss.program)}
    own = [number for number in _narrow_constants(pair.grad.program) if not _is_exact(number)]
    units = [float(jnp.finfo(one.dtype).eps) for one in own if np.sort(np.ravel(one)).tobytes() not in shared]
    return max(units, default=EPS64)


def _narrow_constants(closed: Any) -> list[Any]:
    """The floating constants of a program, traced in float64, that have another dtype."""
    if closed is None:
        return []
    found = list(closed.consts)
    for eqn in programs.equations(closed):
        found += [atom.val for atom in eqn.invars if hasattr(atom, "val")]
        found += [const for inner in eqn.params.values() for const in getattr(inner, "consts", ())]
    kinds = [(number, getattr(number, "dtype", np.dtype(np.float64))) for number in found]
    return [np.asarray(n) for n, dtype in kinds if jnp.issubdtype(dtype, jnp.floating) and dtype != np.float64]


def _is_exact(number: Any) -> bool:
    """Whether numbers are multiples of 1/1024, such as a mask or one half, which no rounding has touched."""
    times = 1024 * np.asarray(number, np.float64)
    return bool((times == np.round(times)).all())


def about_the_run(pair: Pair, loss: LossFacts) -> list[Finding]:
    """What is special about how the functions were evaluated.

    Args:
      pair: the loss and the gradient.
      loss: what the program of the loss says.

    Returns:
      Notes, and a finding if `grad` returns another value than `loss`.
    """
    found = []
    dtype = programs.name_of_unit(_given_unit(pair))
    narrow = [("loss", pair.loss.way.why or pair.loss.why)] if not pair.loss.way.wide or pair.loss.why else []
    narrow += [("grad", pair.grad.way.why)] if not pair.grad.way.wide else []
    for why in dict.fromkeys(why for _, why in narrow):
        both = " and ".join(f"`{name}`" for name, other in narrow if other == why)
        message = (
            f"{both} cannot be evaluated in float64 ({why}); evaluated in {dtype} instead. The tolerances are those of "
            f"{dtype}, measured; smaller errors cannot be seen."
        )
        found.append(Finding("", Kind.PRECISION, message, False))
    if pair.grad.changes:
        message = f"`grad` writes to {', '.join(pair.grad.changes)}: the caller's array is another one after the call."
        found.append(Finding("", Kind.STALE, message, False))
    if pair.grad.part == (1,):
        value = pair.grad.value(pair.layout, pair.base)
        (right,) = pair.loss.values(pair.layout, pair.base, pair.base.params, np.zeros(1))
        same = abs(value - right) <= 256 * max(loss.unit, EPS64) * abs(right)
        also = "" if same else f" The value is {value:.10g}, that of `loss` {float(right):.10g}."
        message = f"`grad` returns (value, gradient), as jax.value_and_grad does; the gradient was checked.{also}"
        found.append(Finding("", Kind.STRUCTURE, message, not same))
    return found


def reference_words(pair: Pair) -> str:
    """What the gradient is compared with."""
    modes = {"reverse": "reverse mode", "forward": "forward mode", "torch": "reverse mode of torch"}
    dtype = "float64" if pair.loss.way.wide and pair.loss.wide else programs.name_of_unit(_given_unit(pair))
    return f"{modes[pair.loss.derivative]} in {dtype} and values of the loss"


def _given_unit(pair: Pair) -> float:
    """The rounding unit of the coarsest dtype among the parameters as they were given."""
    return max(float(jnp.finfo(np.asarray(leaf).dtype).eps) for leaf in pair.native.params)


def repeats(pair: Pair, facts: GradientFacts, first: Arrays) -> bool:
    """Whether the gradient at the point is the same when it is called again.

    Args:
      pair: the gradient and its inputs.
      facts: what its program says.
      first: its leaves in float64, from an earlier call.

    Returns:
      True if so.
    """
    if facts.stateful:
        return False
    again = pair.hand(pair.base, np.float64)
    return all(np.array_equal(np.asarray(a), np.asarray(b), equal_nan=True) for a, b in zip(first, again, strict=True))
