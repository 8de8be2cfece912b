"""The README says only what is true: its example, its screens and its table."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import jaxgd
from jaxgd import problems

README = Path(__file__).resolve().parents[1] / "README.md"
pytestmark = pytest.mark.skipif(not README.exists(), reason="the README is not beside these tests")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(), re.DOTALL)


def test_the_examples_are_short_and_print_what_they_say():
    examples = blocks("pycon")
    assert all(len(re.findall(r"^(>>>|\.\.\.) ", example, re.MULTILINE)) < 20 for example in examples)
    done = subprocess.run([sys.executable, "-m", "doctest", str(README)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def number(word):
    try:
        return float(word)
    except ValueError:
        return None


def assert_same_text(shown, printed):
    """Words equal, numbers to 1 %; what is rounding (1e-05 and the like) to a factor of 10."""
    assert len(shown) == len(printed), (shown, printed)
    for left, right in zip(shown, printed, strict=True):
        if number(left) is None:
            assert left == right
        else:
            tolerance = 9 if "e-0" in left else 0.01
            assert number(right) == pytest.approx(number(left), rel=tolerance), (shown, printed)


@pytest.mark.parametrize(
    ("block", "words", "code"),
    [(0, [], 0), (1, ["--no-standardize", "--learning-rate", "0.01"], 1)],
    ids=["fit", "diverged"],
)
def test_the_screens_are_those_of_the_command(tmp_path, block, words, code):
    done = subprocess.run(
        [sys.executable, "-m", "jaxgd", "fit", "--data", "diabetes", *words],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "COLUMNS": "80", "PYTHONPATH": str(README.parent), "LANG": "C.UTF-8"},
    )
    assert done.returncode == code, done.stderr
    printed = {tuple(line.split()[:2]): line for line in done.stdout.splitlines() if line.strip()}
    for line in blocks("text")[block].splitlines():
        if line.strip():
            found = printed[tuple(line.split()[:2])]
            shown = line.split()
            if line.startswith("steps"):  # its times are of one machine
                assert re.sub(r"[\d.]+", "0", line) == re.sub(r"[\d.]+", "0", found.rstrip())
                continue
            if line.startswith("ended") and not words:  # the last step differs by a few between versions
                assert shown[:3] == found.split()[:3]
            else:
                assert_same_text(shown, found.split())


def test_the_screen_of_a_check_is_that_of_the_command():
    command = next(line for line in README.read_text().splitlines() if line.startswith("`jaxgd check experiments"))
    words = command.strip("`:").split()[1:]
    done = subprocess.run(
        [sys.executable, "-m", "jaxgd", *words],
        capture_output=True,
        text=True,
        cwd=README.parent,
        env={"PATH": "/usr/bin:/bin", "COLUMNS": "80", "PYTHONPATH": str(README.parent), "LANG": "C.UTF-8"},
    )
    assert done.returncode == 1, done.stderr
    printed = [line.split() for line in done.stdout.splitlines()]
    for line in blocks("text")[2].splitlines():
        assert any(len(line.split()) == len(found) for found in printed)
        rounding = [word for word in line.split() if "e-1" in word]
        assert any(
            [w for w in line.split() if w not in rounding] == [w for w in found if "e-1" not in w] for found in printed
        )


def test_the_pictures_are_here():
    pictures = re.findall(r"\]\((experiments/\S+\.png)\)", README.read_text())
    assert len(pictures) == 3
    assert all((README.parent / picture).stat().st_size > 10_000 for picture in pictures)


def test_the_table_of_checkers_is_that_of_the_committed_runs():
    """The table is made of experiments/checkers/checkers.json and realworld.json."""
    sys.path.insert(0, str(README.parent))
    from experiments.checkers import tables

    assert tables.headlines() in README.read_text()
    right = tables.committed("realworld")["checkers"]["jaxgd.check_gradient"]
    assert right["caught"] == right["exactly the wrong leaves"] == tables.committed("realworld")["numbers"]["wrong"]


def test_the_table_lists_every_problem():
    listed = set(re.findall(r"^\| `(\w+)\(", README.read_text(), re.MULTILINE))
    assert listed == set(problems.__all__) - {"ALL_PROBLEMS"}


def test_lines_and_cells_are_short():
    for line in README.read_text().splitlines():
        if line.startswith("|"):
            assert all(len(cell.strip()) <= 40 for cell in line.strip("|").split("|")), line
        else:
            assert len(line) <= 120 or line.startswith("!["), line


def test_the_links_lead_to_files():
    targets = re.findall(r"\]\(([^)#:]+)\)", README.read_text())
    assert len(targets) > 10
    assert all((README.parent / target).exists() for target in targets)


def test_the_picture_of_the_rooms_is_true():
    text = (README.parent / "docs" / "architecture.md").read_text()
    for path in Path(jaxgd.__file__).parent.glob("*"):
        if path.suffix == ".py" and not path.name.startswith("_"):
            assert path.name in text
        elif path.is_dir() and path.name != "__pycache__":
            assert f"{path.name}/" in text
