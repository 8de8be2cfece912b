"""Optimizers and schedules of optax by name, with their arguments: sgd:momentum=0.9, cosine:alpha=0.1."""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import optax

from jaxgd.commands.errors import UserError
from jaxgd.data import did_you_mean


class Named(NamedTuple):
    """The parts of a text NAME:ARGUMENT=VALUE,..."""

    name: str
    arguments: dict[str, Any]


def find_optimizer(words: str) -> Callable[..., Any] | None:
    """Find an optimizer by its name.

    Args:
      words: "gradient_descent", or the name of a function of optax, with arguments after a colon.

    Returns:
      A function learning_rate -> GradientTransformation, or None for `gradient_descent`.

    Raises:
      UserError: no optimizer has that name, or it does not have those arguments.
    """
    name, arguments = _parse("optimizer", words)
    if name == "gradient_descent" and not arguments:
        return None
    if not _is_optimizer(name):
        nearest = did_you_mean(name, ["gradient_descent", *filter(_is_optimizer, dir(optax))])
        more = " gradient_descent has no arguments; sgd:momentum=0.9 does." if name == "gradient_descent" else nearest
        raise UserError(f"--optimizer must be gradient_descent or an optimizer of optax, got {words!r}.{more}")
    build = getattr(optax, name)
    _check_arguments("optimizer", name, build, arguments, given=("learning_rate",))
    return functools.partial(build, **arguments) if arguments else build


def _is_optimizer(name: str) -> bool:
    """Whether optax has a function of that name that takes a learning rate."""
    build = getattr(optax, name, None)
    return inspect.isfunction(build) and "learning_rate" in inspect.signature(build).parameters


@dataclasses.dataclass(frozen=True)
class Schedule:
    """A function from the step to the learning rate. Schedules of the same text are equal: programs are reused."""

    words: str
    rate: Callable[..., Any] = dataclasses.field(compare=False, repr=False)

    def __call__(self, step: Any) -> Any:
        """The learning rate of a step.

        Args:
          step: `[]`, the first step is 0.

        Returns:
          `[]`.
        """
        return self.rate(step)


class _Kind(NamedTuple):
    """A schedule: its function, the argument that --learning-rate sets, and the default arguments for a run."""

    build: Callable[..., Any]
    rate: str
    filled: Callable[[int], dict[str, Any]] = lambda num_steps: {}


SCHEDULES = {
    "constant": _Kind(optax.constant_schedule, "value"),
    "linear": _Kind(optax.linear_schedule, "init_value", lambda steps: {"end_value": 0.0, "transition_steps": steps}),
    "cosine": _Kind(optax.cosine_decay_schedule, "init_value", lambda steps: {"decay_steps": steps}),
    "exponential": _Kind(optax.exponential_decay, "init_value", lambda steps: {"transition_steps": steps}),
    "piecewise": _Kind(optax.piecewise_constant_schedule, "init_value"),
    "warm-up": _Kind(
        optax.warmup_cosine_decay_schedule,
        "peak_value",
        lambda steps: {"init_value": 0.0, "warmup_steps": max(steps // 10, 1), "decay_steps": steps},
    ),
}
"""Schedules by their short names."""


def find_schedule(words: str | None, learning_rate: float, num_steps: int) -> Any:
    """A constant learning rate, or a schedule by its name.

    Args:
      words: a name of `SCHEDULES`, with arguments after a colon (for piecewise STEP=FACTOR). None is a constant rate.
      learning_rate: the rate at the beginning of the schedule; for a warm-up, the highest rate.
      num_steps: the number of steps of the run; by default the schedule extends over all of them.

    Returns:
      A number, or a function step -> rate.

    Raises:
      UserError: no schedule has that name, or it does not have those arguments.
    """
    if words is None:
        return learning_rate
    name, arguments = _parse("schedule", words)
    if name not in SCHEDULES:
        raise UserError(
            f"--schedule must be one of {', '.join(SCHEDULES)}, got {name!r}.{did_you_mean(name, list(SCHEDULES))}"
        )
    kind = SCHEDULES[name]
    if name == "piecewise":
        if not arguments or not all(step.isdecimal() for step in arguments):
            raise UserError(f"--schedule piecewise needs STEP=FACTOR, such as piecewise:1000=0.1, got {words!r}.")
        arguments = {"boundaries_and_scales": {int(step): factor for step, factor in arguments.items()}}
    filled = kind.filled(num_steps) | arguments
    _check_arguments("schedule", name, kind.build, filled, given=(kind.rate,))
    if name == "warm-up" and filled["warmup_steps"] >= filled["decay_steps"]:
        raise UserError(
            f"--schedule {words}: warmup_steps must be below decay_steps, all {filled['decay_steps']} steps of the run "
            f"if not given, got {filled['warmup_steps']}."
        )
    try:
        return Schedule(
            f"{words} of {learning_rate} in {num_steps}", kind.build(**{kind.rate: learning_rate}, **filled)
        )
    except (TypeError, ValueError) as error:
        raise UserError(f"--schedule {words}: {str(error).rstrip('.')}.") from None


def _parse(flag: str, words: str) -> Named:
    """Parse NAME:ARGUMENT=VALUE,... with numbers, true and false."""
    name, colon, rest = words.partition(":")
    arguments: dict[str, Any] = {}
    for part in rest.split(",") if colon else ():
        key, equals, value = part.partition("=")
        if not key or not equals or (found := _value(value)) == "":
            raise UserError(f"--{flag} {words}: after the colon come ARGUMENT=NUMBER, with commas, got {part!r}.")
        arguments[key.strip()] = found
    return Named(name, arguments)


def _value(text: str) -> Any:
    """A number, True, False or None; "" for any other text."""
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    try:
        number = float(text)
    except ValueError:
        return ""
    return int(text) if text.lstrip("+-").isdecimal() else number if np.isfinite(number) else ""


def _check_arguments(
    flag: str, name: str, build: Callable[..., Any], arguments: dict[str, Any], *, given: tuple[str, ...]
) -> None:
    """Raise an error if the function does not have an argument, or if a required argument is missing."""
    parameters = {n: p for n, p in inspect.signature(build).parameters.items() if n not in given}
    for argument in arguments:
        if argument not in parameters:
            nearest = did_you_mean(argument, list(parameters))
            raise UserError(f"--{flag} {name} has no argument {argument!r}; it has {', '.join(parameters)}.{nearest}")
    lacking = [n for n, p in parameters.items() if p.default is p.empty and n not in arguments]
    if lacking:
        raise UserError(f"--{flag} {name} needs {', '.join(lacking)}, such as {name}:{lacking[0]}=0.5.")
