"""Progress, Ctrl-C and termination signals during a run."""

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn

from jaxgd.descent.run import State

LINE_SHARE, LINE_SECONDS, LEAST_SECONDS = 0.1, 30.0, 10.0
"""Without a terminal, a line of progress is printed after a tenth of the steps or 30 s, but at most every 10 s."""

LEAST_COLUMNS = 76
"""On a terminal with fewer columns, only the share of the steps is shown, so that no number is cut."""


def terminate(number: int, frame: FrameType | None) -> NoReturn:
    """A handler of SIGTERM and SIGHUP. It ends the process, but during a run `fit` first finishes its chunk."""
    del frame
    raise SystemExit(128 + number)


_CAME: list[int] = []
"""The signals received during the last run of this process. Global, because signal handlers are global."""


def ended_by() -> int:
    """The signal that ended the last run of `fit`, or 0."""
    return _CAME[-1] if _CAME else 0


@contextlib.contextmanager
def noted_interrupt() -> Iterator[Callable[[], int]]:
    """A context that only records termination signals. It yields a function that returns the received signal, or 0.

    An exception within a chunk would lose the state, because its memory was donated to the compiled program. SIGINT is
    recorded if it would raise KeyboardInterrupt, and other signals if their handler is `terminate`. Other handlers are
    not changed.
    """
    usual = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    ours = {number: old for number, old in usual.items() if old in (signal.default_int_handler, terminate)}
    if threading.current_thread() is not threading.main_thread():
        ours = {}
    _CAME.clear()
    for number in ours:
        signal.signal(number, lambda number, frame: _CAME.append(number))
    try:
        yield ended_by
    finally:
        for number, old in ours.items():
            signal.signal(number, old)


@contextlib.contextmanager
def progress_bar(num_steps: int, progress: bool | None, begun: int = 0) -> Iterator[Callable[[State], None]]:
    """A context that shows progress on standard error. It yields a function that shows a state.

    On a terminal the progress is a bar, elsewhere a line of text from time to time. `progress=None` shows it only on a
    terminal. `begun` is the number of steps that an earlier process has made.
    """
    on_terminal = sys.stderr.isatty()
    if not (on_terminal if progress is None else progress):
        yield lambda state: None
        return
    if not on_terminal:
        yield _lines(num_steps, begun)
        return
    from rich import console
    from rich import progress as bars

    screen = console.Console(stderr=True)
    loss, left = bars.TextColumn("best loss {task.fields[loss]}"), bars.TimeRemainingColumn()
    columns: tuple[bars.ProgressColumn, ...] = (bars.TaskProgressColumn(), loss, left)
    if screen.width >= LEAST_COLUMNS:
        rate = bars.TextColumn("{task.fields[rate]} steps/s")
        columns = (bars.BarColumn(), bars.MofNCompleteColumn(), loss, rate, left)
    with bars.Progress(*columns, console=screen, transient=screen.is_terminal) as bar:
        task = bar.add_task("", total=num_steps, completed=begun, loss="-", rate="-")
        started = time.perf_counter()
        first: list[int] = []

        def show(state: State) -> None:
            steps = int(state.last_step) + 1
            first.append(steps)
            rate = (steps - first[0]) / (time.perf_counter() - started) if steps > first[0] else 0.0
            bar.update(task, completed=steps, loss=f"{float(state.watch.best_loss):.6g}", rate=f"{rate:,.0f}")

        yield show


def _lines(num_steps: int, begun: int) -> Callable[[State], None]:
    """A function that prints a line for some of the states it receives."""
    started = time.perf_counter()
    said = [begun / num_steps, started]  # share of the steps and the time at the last line

    def show(state: State) -> None:
        steps, now = int(state.last_step) + 1, time.perf_counter()
        share, waited = steps / num_steps, now - said[1]
        if waited >= LEAST_SECONDS and (share - said[0] >= LINE_SHARE or waited >= LINE_SECONDS):
            said[:] = share, now
            left = (now - started) * (num_steps - steps) / max(steps - begun, 1)
            best = f"best loss {float(state.watch.best_loss):.6g}"
            print(f"{share:4.0%} of {num_steps} steps, {best}, about {left:.0f} s left", file=sys.stderr, flush=True)

    return show
