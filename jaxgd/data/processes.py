"""What all processes of a run tell each other on the host: small values, never rows."""

import pickle
from collections.abc import Callable
from typing import TypeVar

import jax
import numpy as np

from jaxgd.data.dataset import DataError

T = TypeVar("T")


def count() -> int:
    """How many processes there are; asked without starting jax, whose devices may still have to be chosen."""
    return jax.process_count() if jax.distributed.is_initialized() else 1


def gather(value: T) -> list[T]:
    """Exchange one value of every process. All processes must call this function at the same point of the program.

    Args:
      value: the value of this process; small, and picklable.

    Returns:
      The values of all processes, in order.
    """
    if count() == 1:
        return [value]
    from jax.experimental import multihost_utils

    mine = np.frombuffer(pickle.dumps(value), np.uint8)
    sizes = np.ravel(multihost_utils.process_allgather(np.int32(len(mine))))
    # Every length is a program of its own; powers of two make them few.
    padded = np.zeros(2 ** int(sizes.max() - 1).bit_length(), np.uint8)
    padded[: len(mine)] = mine
    everyone = multihost_utils.process_allgather(padded)
    return [pickle.loads(row[:size].tobytes()) for row, size in zip(everyone, sizes, strict=True)]


def of_all(work: Callable[[], T]) -> list[T] | None:
    """What some work gives in every process; None in all of them where the data of one of them do not allow it.

    Args:
      work: on the data of this process; may raise `DataError`.

    Returns:
      The values in the order of the processes, or None.
    """
    try:
        mine: tuple[T, ...] = (work(),)
    except DataError:
        mine = ()
    everyone = gather(mine)
    return [value for (value,) in everyone] if all(everyone) else None
