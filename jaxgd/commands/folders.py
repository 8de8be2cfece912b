"""The folders that commands write."""

import contextlib
import itertools
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from jaxgd.commands.errors import PrintedError, UserError, WritingError


def check_new_folder(out: Path | None) -> None:
    """Refuse an --out that already exists, before anything runs.

    Args:
      out: what came; None passes.

    Raises:
      UserError: it exists, or cannot be made where it is wanted.
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
      name: what follows the time in the name of the folder.

    Returns:
      Its path.
    """
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{name}"
    folders = (Path("runs") / (f"{name}-{i}" if i else name) for i in itertools.count())
    return next(folder for folder in folders if not folder.exists())


PRINTED = "the result was printed above"
"""Where the numbers are, for `writing`."""


@contextlib.contextmanager
def writing(flag: str, folder: Path | None, *, left: str | Callable[[], str] = "") -> Iterator[None]:
    """Turn an error of writing to a folder into a line that names its flag.

    Args:
      flag: that named the folder.
      folder: where the block writes.
      left: where the numbers are when that fails, or a function that finds out; "" if there are none.

    Returns:
      A context to write in.

    Raises:
      UserError: the folder cannot be written; a `WritingError` if there are numbers that are not lost.
    """
    try:
        yield
    except OSError as error:
        place = left() if callable(left) else left
        kind = PrintedError if place == PRINTED else WritingError if place else UserError
        more = f"; {place}" if place else ""
        raise kind(f"--{flag} {folder}: cannot be written ({error.strerror or error}){more}.") from None
