"""The time of jaxgd beside its peers and its limits.

Every figure is a ratio, measured in this process, in rounds, warmed up: the median of the rounds. Peers that are not
installed (pip install torch optimistix) are left out.

Run: python -m experiments.benchmarks [full_batch lanes ...] [--smoke] [--device gpu] [--out FOLDER] [--against REV]
"""

import argparse
import dataclasses
import itertools
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import jax
import rich.console
import rich.table

from experiments.benchmarks.against import ratios
from experiments.benchmarks.measure import Row
from experiments.progress import progress
from jaxgd import cli
from jaxgd.reporting import environment

COLUMNS = ("work", "size", "jaxgd", "over the limit", "peers, times jaxgd", "to reach", "where the time goes")


UNTIMED = ("memory", "growth, log-log", "fit of a file, peak memory")
"""Kinds of work whose figures are not times."""


def cells(rows: Sequence[Row]) -> tuple[str, ...]:
    """The rows of one kind of work as one line, with a slash between sizes."""

    def joined(texts: Iterable[str]) -> str:
        return " / ".join(texts)

    first = rows[0]
    limit = f"{joined(f'{row.over_limit():.2f}' for row in rows if row.limit)} {first.limit}" if first.limit else ""
    peers = dict.fromkeys(peer for row in rows for peer in row.peers() if peer != "small")
    others = [f"{name} {joined(f'{row.times(name):.3g}' for row in rows if name in row.seconds)}" for name in peers]
    if all([text for text, _ in row.reach] == [text for text, _ in first.reach] for row in rows):
        reach = [
            f"{text}: {joined('yes' if row.reach[i][1] else 'no' for row in rows)}"
            for i, (text, _) in enumerate(first.reach)
        ]
    else:
        reach = [f"{text}: {'yes' if met else 'no'}" for row in rows for text, met in row.reach]
    times = "" if first.work in UNTIMED else f"{joined(map(_time, rows))} a {first.per}"
    if first.amount is not None and first.limit is not None:
        limit += f" ({joined(_rate(row, 'jaxgd') for row in rows)} of {_rate(first, first.limit)} G{first.amount[1]}/s)"
    slowest = max((row for row in rows if row.limit), key=Row.over_limit, default=first)
    operations = ", ".join(f"{name} {share:.0%}" for name, share in slowest.operations.items())
    return first.work, joined(row.size for row in rows), times, limit, ", ".join(others), "; ".join(reach), operations


def _rate(row: Row, name: str) -> str:
    assert row.amount is not None
    return f"{row.amount[0] / row.median(name) / 1e9:.3g}"


def _time(row: Row) -> str:
    seconds = row.median("jaxgd")
    for scale, unit in ((1, "s"), (1e3, "ms"), (1e6, "us")):
        if seconds * scale >= 1:
            return f"{seconds * scale:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"


def lines(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """One line for each kind of work."""
    return [cells(list(group)) for _, group in itertools.groupby(rows, key=lambda row: row.work)]


HEADLINES = (
    ("full batch, logistic_regression", "1,000,000 x 100", "optax"),
    ("least squares, 1000 steps", "1,000,000 x 100", "optax"),
    ("one row a step, shuffled", "100,000 x 200", "scikit-learn"),
    ("wide sweep", "256 lanes, 100,000 x 100", "vmap"),
    ("small sweeps", "4096 lanes, 100 x 4", "bare vmap"),
    ("sweep", "4096 lanes, 100 x 4", "python around an optax step"),
)
"""The rows of the README: a kind of work, one size, and the peer that comes nearest to doing the same."""


def headlines(rows: Sequence[Row]) -> str:
    """The small table of the README.

    Args:
      rows: of the committed run.

    Returns:
      Markdown: jaxgd's time, and how many times as long the peer takes.
    """
    found = {(row.work, row.size): row for row in rows}
    lines = ["| work | size | jaxgd | peer | its time over ours |", "|---|---|---|---|---|"]
    for work, size, peer in HEADLINES:
        row = found[work, size]
        ratio = row.times(peer)
        shown = f"{ratio:.0f}" if ratio >= 10 else f"{ratio:.1f}" if ratio >= 1 else f"{ratio:.2f}"
        lines.append(f"| {work} | {size} | {_time(row)} a {row.per} | {peer} | {shown} |")
    return "\n".join(lines) + "\n"


def markdown(table: Iterable[tuple[str, ...]]) -> str:
    """The whole table, as it is written beside the JSON file."""
    whole = [COLUMNS, ("---",) * len(COLUMNS), *table]
    return "".join(f"| {' | '.join(line)} |\n" for line in whole)


def _print_ratios(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """A line for each row: its time now over that of another commit."""
    words = [*options.work, "--device", options.device, *(["--smoke"] if options.smoke else [])]
    try:
        found = ratios(options.against, words, shown=not options.no_progress)
    except ValueError as error:
        parser.error(str(error))
    for (work, size), ratio in found.items():
        print(f"{ratio:6.2f}  {work}, {size}")


def main() -> None:
    """Measure, print, write."""
    # Before jax starts: a device for each core, and loops of small steps compiled whole, as the command has them.
    cli.compile_small_loops()
    from experiments.benchmarks.work import WORK

    parser = argparse.ArgumentParser(prog="python -m experiments.benchmarks", description=__doc__)
    parser.add_argument("work", nargs="*", default=list(WORK), help=f"any of {', '.join(WORK)}")
    parser.add_argument("--smoke", action="store_true", help="small sizes, once: does it run?")
    parser.add_argument("--device", default="cpu", choices=("cpu", "gpu"), help="what to measure on")
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder of benchmarks.json")
    parser.add_argument(
        "--against", metavar="REV", help="print times of the package as it is over those of a commit, measured in turns"
    )
    parser.add_argument("--no-progress", action="store_true", help="say nothing while it runs")
    options = parser.parse_args()
    unknown = set(options.work) - set(WORK)
    if unknown:
        parser.error(f"unknown work {min(unknown)!r}; choose from {', '.join(WORK)}")
    if options.against is not None:
        _print_ratios(parser, options)
        return
    jax.config.update("jax_platforms", {"cpu": "cpu", "gpu": "cuda,cpu"}[options.device])
    jax.config.update("jax_num_cpu_devices", len(os.sched_getaffinity(0)))
    console = rich.console.Console(highlight=False)
    try:
        device = jax.devices()[0].device_kind
    except RuntimeError:
        parser.error("--device gpu: jax has no GPU here; install jax[cuda13] on a machine with one")
    measured: list[Row] = []
    with progress(len(options.work), "kinds of work", shown=not options.no_progress) as begin:
        for name in options.work:
            begin(name)
            measured += WORK[name]("smoke" if options.smoke else options.device)
    order = list(dict.fromkeys(row.work for row in measured))
    measured.sort(key=lambda row: order.index(row.work))
    for line in lines(measured):
        grid = rich.table.Table.grid(padding=(0, 2))
        for name, cell in zip(COLUMNS[1:], line[1:], strict=True):
            if cell:
                grid.add_row(f"  {name}", cell)
        console.print(f"[bold]{line[0]}[/bold]", grid)
    results = {
        "environment": environment() | {"device": device, "command": "python -m experiments.benchmarks"},
        "smoke": options.smoke,
        "rows": [dataclasses.asdict(row) for row in measured],
    }
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "benchmarks.json").write_text(json.dumps(results, indent=1) + "\n")
        (options.out / "benchmarks.md").write_text(markdown(lines(measured)))
    except OSError as error:
        parser.error(f"--out {options.out}: cannot be written ({error.strerror})")


if __name__ == "__main__":
    main()
