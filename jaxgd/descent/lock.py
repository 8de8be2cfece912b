"""A lock, so that only one run at a time uses a folder of checkpoints."""

import contextlib
import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)
"""The error numbers of file systems without locks."""


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """A context in which no other run can use a folder. The operating system releases the lock if the process ends.

    Args:
      folder: the folder; it is made if it does not exist.

    Returns:
      The context.

    Raises:
      ValueError: another run uses the folder; the text says which process.
      OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise ValueError(
                f"`checkpoint` {folder} is in use by another run ({file.read()}): wait until it ends, or name "
                "another folder."
            ) from None
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
        # Read by the run that is refused; the lock itself is the system's, and ends with this process.
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield
