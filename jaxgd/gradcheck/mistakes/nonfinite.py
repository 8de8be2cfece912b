"""Where the backward pass of a loss makes the first NaN or infinity."""

from typing import Any

import jax
import numpy as np

from jaxgd.gradcheck.backward.reading import label, operation, read
from jaxgd.gradcheck.backward.record import TooLongError, record
from jaxgd.gradcheck.backward.sweep import backward
from jaxgd.gradcheck.inputs import Point


def origin(program: Any, point: Point, names: list[str]) -> str:
    """The operation whose derivative is the first that is not finite in the backward pass.

    Args:
      program: the loss as a jaxpr whose inputs are the leaves of the point.
      point: where.
      names: of the floating leaves of the parameters and of the arguments.

    Returns:
      A sentence; "" if every product of the backward pass is finite, or if the program cannot be taken apart.
    """
    leaves = jax.tree.leaves(point)
    active = [i < len(point.params) for i in range(len(leaves))]
    try:
        tape = record(program, leaves, active)
        found = backward(tape)
    except (TooLongError, NotImplementedError, TypeError, ValueError):
        return ""
    reading = read(tape, names)
    for index in range(len(tape.steps) - 1, -1, -1):
        step = tape.steps[index]
        ahead = [found.get(number) for number in step.outs]
        if not step.active or ahead[0] is None or not np.isfinite(ahead[0]).all():
            continue
        for position, number in enumerate(step.ins):
            if not tape.active[number]:
                continue
            with np.errstate(all="ignore"):
                right = tape.pull(step, ahead, position)[0]
            bad = ~np.isfinite(right)
            if bad.any():
                name = label(reading, number)
                if f"{name} " in f"{step.source.quote()} ":
                    name = f"the {operation(reading, reading.producer[number])} in it"
                return _sentence(step, name, ahead[0][0], right, bad)
    return ""


def _sentence(step: Any, name: str, ahead: Any, right: Any, bad: Any) -> str:
    quoted = step.source.quote() or step.name
    value = right[bad].flat[0]
    where = f"the derivative of {quoted} by {name} is not finite"
    zero = ahead.shape == right.shape and not ahead[bad].any()
    if zero:
        return (
            f"It arises where {where}, and is multiplied with a gradient of 0, which gives {value}: nothing flows "
            "through this branch, but its derivative is still taken. Replace its argument there by a harmless one."
        )
    return f"It arises where {where}."
