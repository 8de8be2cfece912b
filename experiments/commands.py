"""What does each command print, and what is its exit code?

Expected: fit, sweep, rate, check and problems end with exit code 0. A fit with a learning rate far above the largest
stable one ends with 1. A check of a wrong formula ends with 1 and names the mistake. The picture shows the printed
screens and the plots of this run.

Run: python -m experiments commands
"""

import base64
import concurrent.futures
import dataclasses
import io
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib.image
from matplotlib.figure import Figure

from experiments.record import Check, Outcome, holds
from jaxgd.plot import subplots


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of the sweep, and which commands are run."""

    num_rates: int = 100
    num_seeds: int = 4
    num_commands: int = 6


SMOKE = Config(num_rates=10, num_seeds=1, num_commands=3)

MISPRINTS = Path(__file__).with_name("misprints.py")
WIDTH = 96


def _commands(config: Config) -> dict[str, tuple[int, str]]:
    """Each with its exit code and a word that its screen must have."""
    rates = f"1e-4:10:log:{config.num_rates}"
    wrong = f"{MISPRINTS}:loss {MISPRINTS}:x_only_on_the_target"
    listed = {
        "problems": (0, "softmax_regression"),
        "fit --data diabetes --out fit": (0, "largest stable"),
        f"sweep --data diabetes --learning-rate {rates} --seeds {config.num_seeds} --out sweep": (0, "best lanes"),
        "rate --data diabetes": (0, "diverges"),
        "fit --data diabetes --no-standardize --learning-rate 0.01": (1, "times the largest stable one"),
        f"check {wrong}": (1, "the other factor is left out"),
    }
    return dict(list(listed.items())[: config.num_commands])


def run(config: Config) -> Outcome:
    """Run every command as its user would."""
    checks: list[Check] = []
    rows = []
    commands = _commands(config)
    with tempfile.TemporaryDirectory() as folder, concurrent.futures.ThreadPoolExecutor(2) as both:

        def execute(words: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [sys.executable, "-m", "jaxgd", *words.split()],
                capture_output=True,
                text=True,
                cwd=folder,
                env=os.environ | {"COLUMNS": str(WIDTH), "PYTHONPATH": str(MISPRINTS.parents[1])},
            )

        for (words, (code, said)), done in zip(commands.items(), both.map(execute, commands), strict=True):
            shown = words.replace(f"{MISPRINTS.parent}", "experiments")
            name = f"jaxgd {shown}"
            checks.append(holds(f"{name}: exit code", done.returncode, done.returncode == code, str(code)))
            text = "\n".join(line.rstrip() for line in done.stdout.splitlines())
            flat = " ".join(text.split())
            checks.append(holds(f"{name}: says", said if said in flat else done.stderr[-80:], said in flat, said))
            rows.append({"command": name, "code": done.returncode, "screen": text})
        pictures = {
            path.relative_to(folder).as_posix(): base64.b64encode(path.read_bytes()).decode()
            for path in sorted(Path(folder).glob("*/*.png"))
        }
    expected = {"fit/loss.png", "sweep/losses.png"}
    checks.append(holds("plots", ", ".join(pictures), expected == set(pictures), ", ".join(sorted(expected))))
    return Outcome(checks, {"pictures": pictures}, rows)


def plot(outcome: Outcome) -> Figure:
    """The screens, and the plots of the two run folders."""
    lines = [[f"$ {row['command']}", *row["screen"].splitlines(), ""] for row in outcome.rows]
    left, right = lines[:1], lines[1:]
    height = 0.15 * max(sum(map(len, left)), sum(map(len, right)) + 36)
    figure, (ax, other) = subplots(2, width=17.0, height=height)
    for side, screens in ((ax, left), (other, right)):
        side.axis("off")
        text = "\n".join(line[: WIDTH + 24] for screen in screens for line in screen)
        side.text(0, 1, text, family="monospace", fontsize=7, va="top", transform=side.transAxes)
    for i, picture in enumerate(outcome.numbers["pictures"].values()):
        inset = other.inset_axes((0.5 * i, 0.0, 0.5, 34 * 0.15 / height))
        inset.imshow(matplotlib.image.imread(io.BytesIO(base64.b64decode(picture))))
        inset.axis("off")
    figure.suptitle("The screens of jaxgd, and the plots of its run folders")
    return figure
