"""Measure how long a command compiles."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax.monitoring

COMPILING = "/jax/core/compile/"
"""The prefixes of the names of JAX's events for tracing, lowering and compiling."""


@contextlib.contextmanager
def seconds_compiling() -> Iterator[Callable[[], float]]:
    """A context that yields a function: the seconds this thread has spent tracing, lowering and compiling in it."""
    thread, spans = threading.get_ident(), list[tuple[float, float]]()

    def note(event: str, duration_secs: float, **kwargs: Any) -> None:
        del kwargs
        if event.startswith(COMPILING) and threading.get_ident() == thread:
            spans.append((time.perf_counter() - duration_secs, time.perf_counter()))

    def total() -> float:
        # A function traced inside another function is reported twice, so the durations cannot be added.
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
