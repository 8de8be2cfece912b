"""How long a search may take."""

import math
import time
from typing import NamedTuple

WALL = 4.0
"""How many times its CPU time a search may take by the clock."""


class Budget(NamedTuple):
    """The end of a search, by two clocks.

    The CPU time of the calling thread is what counts: on a busy machine the clock on the wall runs on while the search
    waits for its turn, and causes would be lost. Nearly all of the search is NumPy in that thread. The CPU time of
    the process would count the threads of XLA and of BLAS, so that the budget would end sooner the more cores there
    are, and whatever else the caller's program does meanwhile. The wall clock limits the waiting for XLA and for
    functions that sleep.

    Attributes:
      cpu: `time.thread_time()` at the end.
      wall: `time.monotonic()` at the end.
    """

    cpu: float = math.inf
    wall: float = math.inf

    def left(self) -> float:
        """Seconds of CPU time that are left."""
        return max(0.0, min(self.cpu - time.thread_time(), self.wall - time.monotonic()))


UNLIMITED = Budget()


def budget_of(seconds: float) -> Budget:
    """The budget of a search that begins now."""
    return Budget(time.thread_time() + seconds, time.monotonic() + WALL * seconds)
