"""Check the words of a command line before they are parsed, so that each mistake gives one line with a suggestion."""

import dataclasses
import re
import types
import typing
from collections.abc import Iterable
from typing import Any

from jaxgd.commands.errors import UserError
from jaxgd.data.table import did_you_mean

SYNONYMS = {
    "lr": "learning-rate",
    "eta": "learning-rate",
    "step-size": "learning-rate",
    "steps": "num-steps",
    "max-iter": "num-steps",
    "iterations": "num-steps",
    "y": "target",
    "label": "target",
    "x": "features",
    "columns": "features",
    "model": "problem",
    "batch": "batch-size",
    "output": "out",
    "random-state": "seed",
    "normalize": "standardize",
    "test-size": "held-out",
    "alpha": "l2",
    "double": "x64",
}
"""Names of the options in other tools."""


def check_command(words: list[str], commands: Iterable[str]) -> None:
    """Raise an error if the first word is not a command.

    Args:
      words: the words of the command line, at least one.
      commands: the names of all commands.

    Raises:
      UserError: the command is unknown; the text suggests the most similar one.
    """
    names = list(commands)
    if not words[0].startswith("-") and words[0] not in names:
        raise UserError(f"no command {words[0]!r}; there are {', '.join(names)}.{did_you_mean(words[0], names)}")


def checked(words: list[str], options: type) -> list[str]:
    """Check the words of one command, and write out whole numbers such as 1e4.

    Args:
      words: the words after the command's name.
      options: the dataclass of the command.

    Returns:
      The words, ready to be parsed.

    Raises:
      UserError: an option is unknown, a value has the wrong type, or a required option is missing.
    """
    if "--help" in words or "-h" in words:
        return words
    fields = {field.name.replace("_", "-"): field for field in dataclasses.fields(options)}
    hints = typing.get_type_hints(options, include_extras=True)
    kinds = {name: _number_kind(hints[field.name]) for name, field in fields.items()}
    switches = {name for name, field in fields.items() if hints[field.name] is bool}
    several = {name for name, field in fields.items() if typing.get_origin(hints[field.name]) is tuple}
    known = set(fields) | {f"no-{name}" for name in switches}
    only_options = "Positional" not in repr(hints)
    ready, given = [], set()
    option, lacks_value = "", False  # the option whose values the words are
    for word in words:
        name, equals, value = word.removeprefix("--").partition("=")
        if word.startswith("--") and name:
            if lacks_value:
                raise UserError(f"--{option} needs a value.")
            name = name.replace("_", "-")
            if name not in known:
                raise UserError(f"no option --{name}.{_suggestion(name, known)}")
            given.add(name)
            ready.append(f"--{name}{equals}{_as_kind(name, value, kinds.get(name)) if equals else ''}")
            lacks_value = not equals and name in fields and name not in switches
            option = name if lacks_value else ""
        elif option or not only_options:
            ready.append(_as_kind(option, word, kinds.get(option)))
            option, lacks_value = option if option in several else "", False
        else:
            raise UserError(f"{word!r} belongs to no option; options begin with --.")
    if lacks_value:
        raise UserError(f"--{option} needs a value.")
    for name, field in fields.items():
        needed = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if needed and name not in given and "Positional" not in repr(hints[field.name]):
            raise UserError(f"--{name} is needed; see --help.")
    return ready


def _suggestion(name: str, known: Iterable[str]) -> str:
    if name in SYNONYMS and SYNONYMS[name] in known:
        return f" Did you mean --{SYNONYMS[name]}?"
    return did_you_mean(name, known).replace("'", "--", 1).replace("'", "")


def _number_kind(annotation: Any) -> type | None:
    """The type int or float for an option with numbers of this type, None for any other option."""
    compound = isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is tuple
    choices = typing.get_args(annotation) if compound else (annotation,)
    numbers = [choice for choice in choices if choice in (int, float)]
    return numbers[0] if len(numbers) == 1 and str not in choices else None


def _as_kind(name: str, value: str, kind: type | None) -> str:
    if kind is None or value == "None":
        return value
    try:
        number = float(value)
    except ValueError:
        article = "a whole number" if kind is int else "a number"
        raise UserError(f"--{name} must be {article}, got {value!r}.") from None
    if kind is int:
        if not number.is_integer():
            raise UserError(f"--{name} must be a whole number, got {value!r}.")
        return str(int(number))
    return value


def in_flags(message: str, options: type) -> str:
    """Rewrite a message of the library for the command line: `batch_size` becomes --batch-size.

    If the message lists valid values, the most similar one is suggested.

    Args:
      message: a message with names of arguments between backticks.
      options: the dataclass of the command, whose fields are the flags.

    Returns:
      The message.
    """
    for field in dataclasses.fields(options):
        message = message.replace(f"`{field.name}`", f"--{field.name.replace('_', '-')}")
    listed = re.search(r"must be one of (.+), got '([^']+)'\.$", message)
    return message + did_you_mean(listed[2], re.findall(r"\w+", listed[1])) if listed else message
