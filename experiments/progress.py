"""Progress of a long list of work: a bar on a terminal, elsewhere a line of text from time to time."""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator

from jaxgd.descent.host import LEAST_SECONDS, LINE_SECONDS, LINE_SHARE


@contextlib.contextmanager
def progress(total: int, unit: str, *, shown: bool = True) -> Iterator[Callable[[str], None]]:
    """A context with progress on standard error.

    Args:
      total: pieces of work.
      unit: what they are called.
      shown: False shows nothing.

    Yields:
      A function to call with the name of each piece as it begins.
    """
    if not shown:
        yield lambda name: None
    elif sys.stderr.isatty():
        with _bar(total) as begin:
            yield begin
    else:
        with _lines(total, unit) as begin:
            yield begin


@contextlib.contextmanager
def _bar(total: int) -> Iterator[Callable[[str], None]]:
    import rich.console
    import rich.progress as bars

    columns = (bars.TextColumn("{task.description}"), bars.BarColumn(), bars.MofNCompleteColumn())
    with bars.Progress(
        *columns, bars.TimeRemainingColumn(), console=rich.console.Console(stderr=True), transient=True
    ) as bar:
        task = bar.add_task("", total=total, completed=-1)  # the first piece begins before any is done
        yield lambda name: bar.update(task, advance=1, description=name)


@contextlib.contextmanager
def _lines(total: int, unit: str) -> Iterator[Callable[[str], None]]:
    """Lines after every tenth of the work, and from a thread of its own after every 30 s without one."""
    started = time.perf_counter()
    names: list[str] = []
    said = [0.0, started]  # share of the work and the time at the last line
    over, lock = threading.Event(), threading.Lock()

    def say(waiting: float, share_since: float) -> None:
        with lock:
            now, done = time.perf_counter(), len(names) - 1
            share = done / total
            if now - said[1] < waiting or share - said[0] < share_since:
                return
            said[:] = share, now
            left = f"about {(now - started) * (1 - share) / share:.0f} s left" if share > 0 else "no estimate yet"
            print(f"{share:4.0%} of {total} {unit}, now {names[-1]}, {left}", file=sys.stderr, flush=True)

    def begin(name: str) -> None:
        names.append(name)
        say(LEAST_SECONDS, LINE_SHARE)

    def watch() -> None:
        while not over.wait(1.0):
            if names:
                say(LINE_SECONDS, 0.0)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield begin
    finally:
        over.set()
        thread.join()
