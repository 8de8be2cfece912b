"""How every figure is measured: a job beside its peers and its limit, in one process, in turns."""

import collections
import contextlib
import dataclasses
import gzip
import json
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

OURS = "jaxgd"

Job = Callable[[], Any]


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
      work: the kind of work.
      size: of it.
      per: what a time is divided by: "step", "row", "lane and step", "run".
      seconds: of each repeat, by name: jaxgd, its peers, its limit.
      limit: the name of what nothing can be faster than, or None.
      reach: the figures to reach, and whether they were.
      amount: what a part has to do at least, and the unit: bytes to read, floating-point operations.
      operations: the compiled operations of jaxgd's job that take longest, and the share of the time of all of them.
    """

    work: str
    size: str
    per: str
    seconds: dict[str, list[float]]
    limit: str | None = None
    reach: tuple[tuple[str, bool], ...] = ()
    amount: tuple[float, str] | None = None
    operations: dict[str, float] = dataclasses.field(default_factory=dict)

    def median(self, name: str) -> float:
        """Seconds, the median of the repeats."""
        return float(np.median(self.seconds[name]))

    def times(self, name: str) -> float:
        """A peer over jaxgd, the median of the rounds' ratios: a slow moment of the machine meets a whole round."""
        return float(np.median(np.divide(self.seconds[name], self.seconds[OURS])))

    def over_limit(self) -> float:
        """What jaxgd takes over what the limit takes, likewise."""
        assert self.limit is not None
        return float(np.median(np.divide(self.seconds[OURS], self.seconds[self.limit])))

    def peers(self) -> list[str]:
        """What is neither jaxgd nor the limit."""
        return [name for name in self.seconds if name not in (OURS, self.limit)]

    def reaching(self, at_most: float | None = None, **at_least: float) -> "Row":
        """The row with its figures judged: `at_most` times the limit, `at_least` times each peer that was measured."""
        judged = []
        if at_most is not None:
            judged.append((f"limit x {at_most:.3g}", self.over_limit() <= at_most))
        for name, factor in at_least.items():
            peer = next((peer for peer in self.peers() if peer.split()[0].lower() == name), None)
            if peer is not None:
                judged.append((f"{peer} {factor:g}", self.times(peer) >= factor))
        return dataclasses.replace(self, reach=tuple(judged))


def measured(
    work: str,
    size: str,
    per: str,
    jobs: Mapping[str, tuple[Job, float]],
    repeats: int,
    limit: str | None = None,
    amount: tuple[float, str] | None = None,
) -> Row:
    """A row of jobs that run here, each with its number of parts."""
    seconds = interleaved(jobs, repeats)
    return Row(work, size, per, seconds, limit, amount=amount, operations=longest_operations(jobs[OURS][0]))


def interleaved(jobs: Mapping[str, tuple[Job, float]], repeats: int) -> dict[str, list[float]]:
    """Seconds of every job over its number of parts, after a warm-up, in rounds forth and back."""
    for job, _ in jobs.values():
        jax.block_until_ready(job())
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for i in range(repeats):
        for name in reversed(list(jobs)) if i % 2 else jobs:
            job, parts = jobs[name]
            started = time.perf_counter()
            jax.block_until_ready(job())
            seconds[name].append((time.perf_counter() - started) / parts)
    return seconds


@contextlib.contextmanager
def on_one_core() -> Iterator[None]:
    """Hold all threads on one core: what has no work for a second one takes percents longer when it wanders."""
    cores = os.sched_getaffinity(0)

    def hold(allowed: set[int]) -> None:
        for thread in os.listdir("/proc/self/task"):
            with contextlib.suppress(ProcessLookupError):  # it has ended
                os.sched_setaffinity(int(thread), allowed)

    hold({max(cores)})
    try:
        yield
    finally:
        hold(cores)


def longest_operations(job: Job, count: int = 3) -> dict[str, float]:
    """The operations of XLA that take longest in a job, by name without number, and their share of the time of all.

    A loop that was compiled whole is one operation; what holds others (a while loop, a branch) is left out.
    """
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            jax.block_until_ready(job())
        times: collections.Counter[str] = collections.Counter()
        for path in Path(folder).rglob("*.trace.json.gz"):
            for event in json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]:
                if "hlo_op" in event.get("args", {}):
                    times[re.sub(r"(\.\d+|\.clone)+$", "", event["name"])] += event["dur"]
    for holding in ("while", "conditional", "call"):
        if len(times) > 1:
            del times[holding]
    return {name: round(time / times.total(), 3) for name, time in times.most_common(count)}
