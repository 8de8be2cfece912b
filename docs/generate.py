"""Pages written from the code itself: the kinds of mistakes, the stop reasons, the command's help, the benchmarks."""

import inspect
import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from experiments.benchmarks.measure import Row
from experiments.checkers import tables
from jaxgd import StopReason, cli
from jaxgd.descent.fast import ACCELERATIONS
from jaxgd.gradcheck import Kind

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = [run.__module__.rpartition(".")[2] for run in cli.COMMANDS.values()]


def write(folder: Path) -> None:
    """Write all pages into a folder that is made if it is not there."""
    folder.mkdir(exist_ok=True)
    pages = {"kinds": kinds(), "stop_reasons": stop_reasons(), "command": command(), "benchmarks": benchmarks()}
    pages |= {"checkers": checkers(), "accelerations": accelerations()}
    for name, text in pages.items():
        (folder / f"{name}.md").write_text(text)


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    shown = [columns, ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |\n" for row in shown)


def described(enumeration: type) -> list[tuple[str, str]]:
    """The members of an enumeration with what its docstring says of each."""
    text = inspect.getdoc(enumeration) or ""
    entries = re.findall(r"^  (\w+): (.*(?:\n    .*)*)", text.partition("Attributes:")[2], re.MULTILINE)
    return [(name, " ".join(words.split())) for name, words in entries]


def kinds() -> str:
    """Every kind of finding, with an example of each mistake."""
    rows = [(f"`{name}`", words) for name, words in described(Kind)]
    missing = {kind.name for kind in Kind} - {name for name, _ in described(Kind)}
    assert not missing, f"the docstring of Kind lacks {missing}"
    return table(("kind", "what it says"), rows)


def stop_reasons() -> str:
    """Every way in which a run ends."""
    return table(
        ("reason", "number", "the run ended because"), [(f"`{r.name}`", str(int(r)), r.describe()) for r in StopReason]
    )


def accelerations() -> str:
    """The table of accelerations."""
    rows = [(f"`{row.file}.py`", row.does, row.equal, row.taken) for row in ACCELERATIONS]
    return table(("file", "what it does instead", "in what sense its runs are equal", "when it is taken"), rows)


def command() -> str:
    """The help of the command and of each of its subcommands, as it prints them."""
    environment = os.environ | {"COLUMNS": "100", "NO_COLOR": "1", "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    parts = []
    for words in ([], *([name] for name in COMMANDS)):
        line = [sys.executable, "-m", "jaxgd", *words, "--help"]
        done = subprocess.run(line, capture_output=True, text=True, env=environment, check=True)
        name = " ".join(["jaxgd", *words])
        plain = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout)
        parts.append(f"## `{name}`\n\n```text\n{plain.strip()}\n```\n")
    return "\n".join(parts)


def benchmarks() -> str:
    """The committed run, one table a kind of work with one size a row."""
    run = json.loads((ROOT / "experiments" / "benchmarks" / "cpu.json").read_text())
    rows = [Row(**row | {"reach": tuple(map(tuple, row["reach"]))}) for row in run["rows"]]
    machine = run["environment"]
    parts = [
        f"Measured with `{machine['command']}` on {machine['started'][:10]}: {machine['device']}, "
        f"{len(machine['devices'])} cores, "
        f"Python {machine['python']}, jax {machine['jax']}, NumPy {machine['numpy']}.\n"
    ]
    for work, group in itertools.groupby(rows, key=lambda row: row.work):
        parts.append(f"## {work}\n\n{work_table(list(group))}")
    return "\n".join(parts)


def checkers() -> str:
    """The committed runs of checkers of gradients on mistakes."""
    machine = tables.committed("checkers")["environment"]
    return (
        f"{tables.headlines()}\n{tables.causes()}\n\nMeasured on {machine['started'][:10]} with Python "
        f"{machine['python']}, jax {machine['jax']}, NumPy {machine['numpy']}.\n"
    )


def work_table(rows: list[Row]) -> str:
    """One kind of work: a row a size, times as multiples of jaxgd's own."""
    peers = list(dict.fromkeys(peer for row in rows for peer in row.peers() if peer != "small"))
    limit = next((row.limit for row in rows if row.limit), None)
    columns = ["size", *([f"time over that of {limit}"] if limit else []), *[f"{peer} over jaxgd" for peer in peers]]
    columns.append("figures to reach")
    lines = []
    for row in rows:
        cells = [f"`{row.size}`" if "--" in row.size or "'" in row.size else row.size]
        if limit:
            cells.append(f"{row.over_limit():.2f}" if row.limit else "")
        cells += [f"{row.times(peer):.3g}" if peer in row.peers() else "" for peer in peers]
        cells.append("; ".join(f"{text}: {'reached' if met else 'missed'}" for text, met in row.reach))
        lines.append(cells)
    return table(columns, lines)
