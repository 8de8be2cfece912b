"""What the host does beside a run: a progress bar, and Ctrl-C."""

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator

from jaxgd.descent.run import State


@contextlib.contextmanager
def noted_interrupt() -> Iterator[Callable[[], bool]]:
    """A context that notes Ctrl-C instead of raising it, and gives a function that says whether it came.

    Within a chunk KeyboardInterrupt would find the state given away. A SIGINT handler of your own is left alone.
    """
    usual = signal.getsignal(signal.SIGINT)
    if usual is not signal.default_int_handler or threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    came = threading.Event()
    signal.signal(signal.SIGINT, lambda number, frame: came.set())
    try:
        yield came.is_set
    finally:
        signal.signal(signal.SIGINT, usual)


@contextlib.contextmanager
def progress_bar(num_steps: int, progress: bool | None) -> Iterator[Callable[[State], None]]:
    """A context with a bar on standard error (None: on a terminal), and a function that shows a state in it."""
    if not (sys.stderr.isatty() if progress is None else progress):
        yield lambda state: None
        return
    from rich import console
    from rich import progress as bars

    columns = (
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        bars.TextColumn("best loss {task.fields[loss]}"),
        bars.TextColumn("{task.fields[rate]} steps/s"),
        bars.TimeRemainingColumn(),
    )
    screen = console.Console(stderr=True)
    with bars.Progress(*columns, console=screen, transient=screen.is_terminal) as bar:
        task = bar.add_task("", total=num_steps, loss="-", rate="-")
        started = time.perf_counter()
        first: list[int] = []

        def show(state: State) -> None:
            steps = int(state.last_step) + 1
            first.append(steps)
            rate = (steps - first[0]) / (time.perf_counter() - started) if steps > first[0] else 0.0
            bar.update(task, completed=steps, loss=f"{float(state.watch.best_loss):.6g}", rate=f"{rate:,.0f}")

        yield show
