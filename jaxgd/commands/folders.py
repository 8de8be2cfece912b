"""The folders that commands write."""

import contextlib
import itertools
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from jaxgd.commands.errors import PrintedError, UserError, WritingError


def check_new_folder(out: Path | None) -> None:
    """Raise an error if the folder of --out already exists or cannot be made. Called before the run.

    Args:
      out: the folder, or None.

    Raises:
      UserError: the folder exists or cannot be made.
    """
    if out is None:
        return
    if out.exists():
        raise UserError(f"--out {out} exists already; name a new folder.")
    above = next(folder for folder in (*out.absolute().parents,) if folder.exists())
    if not above.is_dir():
        raise UserError(f"--out {out}: cannot be written ({above.name} is a file).")
    if not os.access(above, os.W_OK):
        raise UserError(f"--out {out}: cannot be written (no permission to write in {above}).")


def new_folder(name: str) -> Path:
    """A folder under runs/ that does not exist yet.

    Args:
      name: the part of the folder's name after the time.

    Returns:
      The path.
    """
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{name}"
    folders = (Path("runs") / (f"{name}-{i}" if i else name) for i in itertools.count())
    return next(folder for folder in folders if not folder.exists())


PRINTED = "the result was printed above"
"""The argument `left` of `writing`, if the result was printed."""


@contextlib.contextmanager
def writing(flag: str, folder: Path | None, *, left: str | Callable[[], str] = "") -> Iterator[None]:
    """A context that converts an error of writing to a folder to a one-line message that names the flag.

    Args:
      flag: the flag that named the folder.
      folder: the folder to which the block writes.
      left: the place where the results still are if writing fails, or a function that returns it; "" if there is none.

    Returns:
      The context.

    Raises:
      UserError: the folder cannot be written; a `WritingError` if `left` names a place.
    """
    try:
        yield
    except OSError as error:
        place = left() if callable(left) else left
        kind = PrintedError if place == PRINTED else WritingError if place else UserError
        more = f"; {place}" if place else ""
        raise kind(f"--{flag} {folder}: cannot be written ({error.strerror or error}){more}.") from None
