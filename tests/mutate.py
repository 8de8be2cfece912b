"""Would the tests notice? Draw small changes of the package at random, and run the tests against each.

    python tests/mutate.py --count 30 --seed 1          # draw, run, print which were noticed
    python tests/mutate.py --count 30 --seed 1 --list   # only draw
    python tests/mutate.py --room gradcheck --quick     # one room, and only its own tests

A change is one of four kinds: an operator replaced by its counterpart, a constant changed, a statement removed,
two arguments of a call swapped. The same seed and the same source give the same changes. They are spread over the
rooms of the package as evenly as the count allows. Each is made in a copy of the project, never in the checkout.
The tests of the changed room run first and stop at the first failure; only if they pass does the whole suite run.
First of all the tests run without any change: a test that fails then would count every change as noticed. A run that
was interrupted goes on where it was, if it is started again with the same words and `--out`.
"""

import argparse
import ast
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]

TESTS_OF_ROOM = {
    "theory": ["tests/theory"],
    "gradcheck": ["tests/gradcheck"],
    "problems": ["tests/problems"],
    "data": ["tests/test_data.py", "tests/test_files.py", "tests/test_parts.py", "tests/test_processes.py"],
    "descent": ["tests/descent", "tests/test_forms.py"],
    "commands": ["tests/test_tables.py", "tests/test_words.py", "tests/test_cli.py", "tests/test_long_runs.py"],
    "reporting": ["tests/test_saved.py", "tests/test_cli.py", "tests/test_long_runs.py"],
    "": [f"tests/test_{name}.py" for name in ("plot", "refusals", "interrupt", "start", "words", "cli")],
}
"""Which tests run first for a change in a room; those that do not exist are left out. "" is the top level."""

COUNTERPARTS = {
    ast.Add: "-",
    ast.Sub: "+",
    ast.Mult: "/",
    ast.Div: "*",
    ast.Lt: ">=",
    ast.LtE: ">",
    ast.Gt: "<=",
    ast.GtE: "<",
    ast.Eq: "!=",
    ast.NotEq: "==",
    ast.And: "or",
    ast.Or: "and",
    ast.BitAnd: "|",
    ast.BitOr: "&",
}
"""What stands for an operator after the change."""


class Mutation(NamedTuple):
    """One change of the source.

    Attributes:
      path: of the file, from the project's root.
      line: of the change, from 1.
      kind: "operator", "constant", "removed" or "swapped".
      before: the text that is replaced.
      after: the text that stands there instead.
      start: where `before` starts in the file, in characters.
    """

    path: str
    line: int
    kind: str
    before: str
    after: str
    start: int


def mutations(path: str, source: str) -> list[Mutation]:
    """Every change that may be drawn from one file."""
    tree = ast.parse(source)
    starts = [0]
    for text in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(text))

    def place(line: int, column: int) -> int:
        text = source[starts[line - 1] : starts[line]]
        return starts[line - 1] + len(text.encode()[:column].decode())

    def span(node: ast.AST) -> tuple[int, int]:
        return place(node.lineno, node.col_offset), place(node.end_lineno, node.end_col_offset)

    found = []

    def add(kind: str, line: int, start: int, end: int, after: str) -> None:
        found.append(Mutation(path, line, kind, source[start:end], after, start))

    def between(left: ast.AST, right: ast.AST, operator: type, line: int) -> None:
        start, end = span(left)[1], span(right)[0]
        gap = source[start:end]
        if operator in COUNTERPARTS and "#" not in gap and (gap.strip(" ()\n")):
            sign = gap.strip(" ()\n")
            at = gap.index(sign)
            add("operator", line, start + at, start + at + len(sign), COUNTERPARTS[operator])

    annotations = set()
    for node in ast.walk(tree):
        for name in ("annotation", "returns"):
            if getattr(node, name, None) is not None:
                annotations |= {id(inner) for inner in ast.walk(getattr(node, name))}
    for node in ast.walk(tree):
        if id(node) in annotations:
            continue
        if isinstance(node, ast.BinOp):
            between(node.left, node.right, type(node.op), node.lineno)
        elif isinstance(node, ast.Compare) and len(node.ops) == 1:
            between(node.left, node.comparators[0], type(node.ops[0]), node.lineno)
        elif isinstance(node, ast.BoolOp):
            between(node.values[0], node.values[1], type(node.op), node.lineno)
        elif isinstance(node, ast.Constant) and type(node.value) in (int, float, bool):
            after = str(not node.value) if isinstance(node.value, bool) else repr(node.value + 1)
            add("constant", node.lineno, *span(node), after)
        elif (
            isinstance(node, ast.Call)
            and len(node.args) == 2
            and not any(isinstance(arg, ast.Starred) for arg in node.args)
        ):
            first, second = span(node.args[0]), span(node.args[1])
            texts = source[slice(*first)], source[slice(*second)]
            if texts[0] != texts[1]:
                after = texts[1] + source[first[1] : second[0]] + texts[0]
                add("swapped", node.lineno, first[0], second[1], after)
        elif isinstance(node, ast.Assign | ast.AugAssign | ast.Expr | ast.Raise) and node.col_offset > 0:
            is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            if not is_docstring:
                add("removed", node.lineno, *span(node), "pass")
    return found


def room_of(path: str) -> str:
    """The folder of the package that a file lies in; "" for the package's own files."""
    parts = Path(path).parts
    return parts[1] if len(parts) > 2 else ""


def draw(root: Path, count: int, seed: int, room: str | None = None) -> list[Mutation]:
    """So many changes, spread over rooms, kinds and files; only of one room if that is given."""
    rng = random.Random(seed)
    rooms: dict[str, list[Mutation]] = {}
    for file in sorted((root / "jaxgd").rglob("*.py")):
        path = str(file.relative_to(root))
        rooms.setdefault(room_of(path), []).extend(mutations(path, file.read_text()))
    names = [name for name in sorted(rooms) if name in TESTS_OF_ROOM and room in (None, name)]
    chosen: list[Mutation] = []
    for number in range(count):
        candidates = rooms[names[number % len(names)]]
        kinds = sorted({mutation.kind for mutation in candidates})
        kind = rng.choice(kinds)
        chosen.append(rng.choice([m for m in candidates if m.kind == kind and m not in chosen]))
    return chosen


def copied(root: Path, folder: str) -> Path:
    """A copy of the project, with the data that some tests read beside it."""
    copy = Path(folder) / "project"
    unwanted = shutil.ignore_patterns(".venv", "runs", "results", "__pycache__", ".*_cache", "_build", "generated")
    shutil.copytree(root, copy, ignore=unwanted)
    if (root.parent / "shared").exists():
        (copy.parent / "shared").symlink_to((root.parent / "shared").resolve())
    return copy


def fails(copy: Path, words: list[str], timeout: float) -> bool:
    """Whether a test of the copy fails, or takes longer than the timeout."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *words]
    environment = os.environ | {"PYTHONPATH": str(copy)}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    try:
        return subprocess.run(command, cwd=copy, env=environment, timeout=timeout, **quiet).returncode != 0
    except subprocess.TimeoutExpired:
        return True


def tests_of(root: Path, room: str) -> list[str]:
    """Those of a room that there are."""
    return [name for name in TESTS_OF_ROOM[room] if (root / name).exists()]


def noticed(root: Path, mutation: Mutation, timeout: float, *, quick: bool) -> tuple[bool, str]:
    """Whether a test fails with the change, and what noticed it: "room", "suite" or ""; the latter not if quick."""
    with tempfile.TemporaryDirectory() as folder:
        copy = copied(root, folder)
        file = copy / mutation.path
        source = file.read_text()
        end = mutation.start + len(mutation.before)
        file.write_text(source[: mutation.start] + mutation.after + source[end:])
        first = tests_of(copy, room_of(mutation.path))
        rest = [f"--ignore={name}" for name in first]
        stages = [("room", first), ("suite", ["tests", *rest])]
        for stage, words in stages[:1] if quick else stages:
            if fails(copy, words, timeout):
                return True, stage
    return False, ""


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout whose package and tests are taken")
    parser.add_argument("--timeout", type=float, default=1200, help="seconds after which a change counts as noticed")
    parser.add_argument("--list", action="store_true", help="draw only")
    parser.add_argument("--room", choices=sorted(TESTS_OF_ROOM), help="changes of this room only; '' is the top level")
    parser.add_argument("--quick", action="store_true", help="run the tests of the changed room only")
    parser.add_argument("--out", type=Path, help="a JSON file for the outcome; what it holds already is not run again")
    words = parser.parse_args()
    chosen = draw(words.root, words.count, words.seed, words.room)
    outcome = json.loads(words.out.read_text()) if words.out and words.out.exists() else []
    if [Mutation(**{name: entry[name] for name in Mutation._fields}) for entry in outcome] != chosen[: len(outcome)]:
        sys.exit(f"{words.out} holds the outcome of other changes.")
    if not words.list and len(outcome) < len(chosen):
        rooms = dict.fromkeys(room_of(mutation.path) for mutation in chosen[len(outcome) :])
        some = dict.fromkeys(name for room in rooms for name in tests_of(words.root, room))
        with tempfile.TemporaryDirectory() as folder:
            if fails(copied(words.root, folder), [*some] if words.quick else ["tests"], words.timeout):
                sys.exit("The tests fail without any change, so nothing can be said of changes.")
    for number, mutation in enumerate(chosen):
        shown = f"{mutation.path}:{mutation.line} {mutation.kind}: {mutation.before!r} -> {mutation.after!r}"
        if words.list:
            print(shown)
            continue
        if number < len(outcome):
            continue
        started = time.perf_counter()
        killed, stage = noticed(words.root, mutation, words.timeout, quick=words.quick)
        verdict = f"noticed by the {stage}" if killed else "NOT NOTICED"
        print(f"{number + 1:3d} {verdict} ({time.perf_counter() - started:.0f} s)  {shown}", flush=True)
        outcome.append({**mutation._asdict(), "noticed": killed, "by": stage})
        if words.out:
            words.out.write_text(json.dumps(outcome, indent=1) + "\n")
    if not words.list:
        print(f"{sum(entry['noticed'] for entry in outcome)} of {len(outcome)} noticed")


if __name__ == "__main__":
    main()
