"""Ctrl-C while the command is importing: the process ends at once, without a traceback, with the exit code 130.

The package imports this module first. In a program that only imports jaxgd as a library no signal handler is changed.
"""

import os
import signal
import sys
from types import FrameType
from typing import NoReturn


def _end(number: int, frame: FrameType | None) -> NoReturn:
    del number, frame
    os._exit(130)


def is_command(words: list[str]) -> bool:
    """Whether a process was started as the command `jaxgd`.

    Args:
      words: the words of its command line, `sys.orig_argv`.

    Returns:
      True for `jaxgd ...` and `python -m jaxgd ...`.
    """
    options = words[1:]
    while options and options[0].startswith("-") and options[0] != "-m":
        options = options[2 if options[0] in ("-X", "-W") else 1 :]
    return options[:2] == ["-m", "jaxgd"] or (bool(options) and os.path.basename(options[0]) == "jaxgd")


def begin() -> None:
    """Let SIGINT end the process, until `restore` is called, if this process was started as the command `jaxgd`."""
    if is_command(sys.orig_argv) and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


def restore() -> None:
    """Let SIGINT raise KeyboardInterrupt again."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


begin()
