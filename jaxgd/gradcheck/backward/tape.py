"""A program run forward with every value kept.

Calls, conditionals and loops are taken apart, so that the tape is one list of operations on numbered values. Reverse
mode then walks the list backwards; see `sweep`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxgd.gradcheck.backward.arithmetic import Primitive, evaluate
from jaxgd.gradcheck.backward.program import Source
from jaxgd.gradcheck.backward.pulls import pull
from jaxgd.gradcheck.precision import precision


class Step(NamedTuple):
    """One operation that was run.

    Attributes:
      primitive: the operation.
      ins: numbers of its inputs among the values of the tape.
      outs: numbers of its outputs.
      source: where it stands in the user's code.
      active: whether an output depends on an input of the program that is differentiated by.
    """

    primitive: Primitive
    ins: tuple[int, ...]
    outs: tuple[int, ...]
    source: Source
    active: bool

    @property
    def name(self) -> str:
        """Of the primitive."""
        return self.primitive.name


class Call(NamedTuple):
    """A named function of the program, such as `jnp.linalg.inv` or `jax.nn.softmax`.

    Attributes:
      name: of the function.
      ins: numbers of its inputs.
      outs: numbers of its outputs.
      source: where it is called.
    """

    name: str
    ins: tuple[int, ...]
    outs: tuple[int, ...]
    source: Source


class Tape(NamedTuple):
    """A program run forward.

    Attributes:
      values: NumPy arrays.
      active: for each value, whether it depends on an input that is differentiated by.
      steps: the operations in the order in which they ran.
      calls: the named functions, inner ones first.
      outs: numbers of the program's outputs.
      grads: the gradient that is to be explained, by the first inputs, if there is one.
    """

    values: tuple[Any, ...]
    active: tuple[bool, ...]
    steps: tuple[Step, ...]
    calls: tuple[Call, ...]
    outs: tuple[int, ...]
    grads: tuple[Any, ...] = ()

    def local(self, step: Step) -> tuple[list[Any], list[Any]]:
        """The inputs and outputs of a step."""
        return [self.values[i] for i in step.ins], [self.values[i] for i in step.outs]

    def pull(self, step: Step, ahead: Sequence[Any], position: int) -> Any:
        """The cotangent `[C, ...]` of one input of a step."""
        values, outs = self.local(step)
        return pull(step.primitive, values, outs, ahead, position)


def rerun(tape: Tape, changed: Mapping[int, Any], only: Callable[[Step], bool] | None = None) -> Tape:
    """The tape with other values, and everything that follows from them.

    Args:
      tape: the tape.
      changed: other values, by their number.
      only: whether an operation is run again; None for all.

    Returns:
      The tape.
    """
    values = {**changed}
    with precision(np.float64):
        for step in tape.steps:
            if any(i in values for i in step.ins) and (only is None or only(step)):
                outs = evaluate(step.primitive, [values.get(i, tape.values[i]) for i in step.ins])
                values.update((i, out) for i, out in zip(step.outs, outs, strict=True) if i not in changed)
    return tape._replace(values=tuple(values.get(i, value) for i, value in enumerate(tape.values)))
