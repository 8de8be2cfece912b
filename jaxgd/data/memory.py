"""The memory that this process can still allocate, as reported by the machine."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
"""The files in which Linux shows the memory limits of a container."""


def free_bytes() -> float:
    """Bytes that this process can still allocate: the smallest limit of the machine, the container and the process.

    Returns:
      The number of bytes; infinity if no limit is known.
    """
    return min((found for ask in LIMITS for found in ask()), default=float("inf"))


def _machine() -> Iterator[float]:
    with contextlib.suppress(OSError, IndexError, ValueError):
        yield 1024 * float(Path("/proc/meminfo").read_text().split("MemAvailable:")[1].split()[0])


def _container() -> Iterator[float]:
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        with contextlib.suppress(OSError, ValueError):  # "max" is not a number
            yield float((CGROUP / limit).read_text()) - float((CGROUP / used).read_text())


def _process() -> Iterator[float]:
    """Bytes that `ulimit -v` and `ulimit -d` still allow."""
    with contextlib.suppress(OSError, ImportError, IndexError, ValueError):
        import resource

        status = Path("/proc/self/status").read_text()
        for limit, used in ((resource.RLIMIT_AS, "VmSize:"), (resource.RLIMIT_DATA, "VmData:")):
            most = resource.getrlimit(limit)[0]
            if most != resource.RLIM_INFINITY:
                yield most - 1024 * float(status.split(used)[1].split()[0])


LIMITS: tuple[Callable[[], Iterator[float]], ...] = (_machine, _container, _process)
"""Each function yields the bytes that one kind of limit still allows, or nothing without such a limit."""
