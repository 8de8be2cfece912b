"""How long a command compiles, and how long it runs."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax.monitoring

COMPILING = "/jax/core/compile/"
"""How the names of JAX's events of tracing, lowering and compiling begin."""


@contextlib.contextmanager
def seconds_compiling() -> Iterator[Callable[[], float]]:
    """A context, and a function that gives the seconds that this thread has traced, lowered and compiled in it."""
    thread, spans = threading.get_ident(), list[tuple[float, float]]()

    def note(event: str, duration_secs: float, **kwargs: Any) -> None:
        del kwargs
        if event.startswith(COMPILING) and threading.get_ident() == thread:
            spans.append((time.perf_counter() - duration_secs, time.perf_counter()))

    def total() -> float:
        # A function traced inside another is reported twice, so that durations cannot be added.
        found, reached = 0.0, 0.0
        for begun, ended in sorted(spans):
            found += max(0.0, ended - max(begun, reached))
            reached = max(reached, ended)
        return found

    jax.monitoring.register_event_duration_secs_listener(note)
    try:
        yield total
    finally:
        jax.monitoring.unregister_event_duration_listener(note)
