"""Complete the docstrings of functions that share arguments with another function."""

import inspect
import re
from collections.abc import Callable
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])


def takes_arguments_of(other: Callable[..., Any]) -> Callable[[Function], Function]:
    """Add descriptions of arguments from the docstring of another function.

    Args:
      other: a function whose docstring describes the shared arguments.

    Returns:
      A decorator. It lists all parameters in the order of the signature.
    """

    def complete(function: Function) -> Function:
        if function.__doc__ is None or other.__doc__ is None:  # python -OO
            return function
        # Python 3.13 takes the indentation of docstrings away; earlier ones keep it.
        ours, theirs = inspect.cleandoc(function.__doc__), inspect.cleandoc(other.__doc__)
        known = _entries(theirs) | _entries(ours)
        names = [name for name in inspect.signature(function).parameters if name in known]
        head, _, rest = ours.partition("Args:\n")
        function.__doc__ = f"{head}Args:\n{''.join(known[name] for name in names)}\n{_after(rest)}"
        return function

    return complete


def _entries(doc: str) -> dict[str, str]:
    """The lines that describe each argument."""
    section = doc.partition("Args:\n")[2]
    section = section[: len(section) - len(_after(section))].rstrip() + "\n"
    parts = re.split(r"^  \*{0,2}(?=\w+: )", section, flags=re.M)[1:]
    starts = re.findall(r"^  (\*{0,2})\w+: ", section, flags=re.M)
    return {part.partition(":")[0]: f"  {star}{part}" for star, part in zip(starts, parts, strict=True)}


def _after(section: str) -> str:
    """The part of a docstring after the arguments."""
    return section.partition("\n\n")[2]
