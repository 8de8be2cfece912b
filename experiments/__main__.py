"""Run the experiments: python -m experiments [NAME ...] [--smoke] [--out FOLDER] [--data FILE] [--no-progress].

Each experiment asks a question, compares the result with the expected answer, and gives a verdict. `results/index.html`
shows all of them. Exit code 0 if all verdicts are true, 1 if one is false, 2 for bad input.
"""

import argparse
import base64
import dataclasses
import html
import sys
import time
from pathlib import Path

import jax
import rich.console
import rich.table

from experiments.progress import progress
from experiments.record import Experiment, Outcome, load, write

NAMES = (
    "linear_map",
    "jacobians",
    "parabola",
    "line_fit",
    "closed_form",
    "logistic",
    "batch_sizes",
    "sat_gpa",
    "taylor",
    "sigmoid_neuron",
    "backprop",
    "misprints",
    "commands",
    "stability_edge",
    "convergence",
    "rates",
    "edge_of_stability",
    "optax_parity",
)
"""In the order of the lecture."""

PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>jaxgd experiments</title>
<style>
body {{ font: 15px/1.45 system-ui, sans-serif; max-width: 58rem; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a }}
table {{ border-collapse: collapse; margin: .6rem 0 }} td, th {{ padding: .15rem .9rem .15rem 0; text-align: left;
vertical-align: top; border-bottom: 1px solid #ddd; font-size: 14px }} img {{ max-width: 100% }}
.wide {{ overflow-x: auto; background:
linear-gradient(to right, #fff 40%, transparent) left / 2rem 100% no-repeat local,
linear-gradient(to left, #fff 40%, transparent) right / 2rem 100% no-repeat local,
linear-gradient(to right, #999, transparent) left / .7rem 100% no-repeat scroll,
linear-gradient(to left, #999, transparent) right / .7rem 100% no-repeat scroll }}
.smoke {{ background: #fff3cd; padding: .4rem .8rem; border-left: 4px solid #c44e00 }}
.true {{ color: #2e7d32 }} .false {{ color: #c44e00; font-weight: bold }} section {{ margin-bottom: 3rem }}
</style>
<h1>jaxgd experiments</h1>{notice}<p>{summary}</p><ol>{contents}</ol>{sections}</html>
"""

SMOKE_NOTICE = '<p class="smoke">This is a smoke run at small sizes, which only tests that everything runs. \
The pictures of the full run are different.</p>'


def main() -> None:
    """Run the experiments, write their results and the page, and print the verdicts."""
    parser = argparse.ArgumentParser(prog="python -m experiments", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of {', '.join(NAMES)}; all if none is given")
    parser.add_argument("--smoke", action="store_true", help="use small sizes, to test that everything runs")
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder to write (results)")
    parser.add_argument("--data", type=Path, help="CSV file with columns sat_sum and fy_gpa, for sat_gpa")
    parser.add_argument("--no-progress", action="store_true", help="do not print progress")
    options = parser.parse_args()
    unknown = [name for name in options.names if name not in NAMES]
    if unknown:
        parser.error(f"unknown experiment {unknown[0]!r}; choose from {', '.join(NAMES)}")
    if options.data is not None and not options.data.is_file():
        parser.error(f"--data {options.data}: no such file")
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "index.html").touch()
    except OSError as error:
        parser.error(f"--out {options.out}: cannot be written ({error.strerror})")
    jax.config.update("jax_enable_x64", True)
    console = rich.console.Console(highlight=False)
    done: list[tuple[Experiment, Outcome]] = []
    table = rich.table.Table("experiment", "question", "checks", "verdict", "seconds")
    names = options.names or NAMES
    with progress(len(names), "experiments", shown=not options.no_progress) as begin:
        for name in names:
            begin(name)
            started = time.perf_counter()
            experiment = load(name)
            config = experiment.smoke if options.smoke else experiment.config
            if name == "sat_gpa" and options.data is not None:
                config = dataclasses.replace(config, data=options.data)
            try:
                outcome = experiment.run(config)
            except (OSError, ValueError, KeyError) as error:
                parser.error(f"{name}: {error}")
            write(experiment, config, outcome, options.out)
            done.append((experiment, outcome))
            held = f"{sum(check.ok for check in outcome.checks)} of {len(outcome.checks)}"
            seconds = f"{time.perf_counter() - started:.1f}"
            table.add_row(name, experiment.question, held, "true" if outcome.ok else "FALSE", seconds)
    console.print(table)
    for experiment, outcome in done:
        for check in outcome.checks:
            if not check.ok:
                console.print(
                    f"{experiment.name}: {check.what}: expected {check.expected}, got {check.got}", style="red"
                )
    (options.out / "index.html").write_text(page(done, options.out, smoke=options.smoke))
    console.print(f"written to {options.out / 'index.html'}")
    sys.exit(not all(outcome.ok for _, outcome in done))


def page(done: list[tuple[Experiment, Outcome]], folder: Path, *, smoke: bool = False) -> str:
    """The HTML page with all outcomes; pictures are embedded.

    Args:
      done: experiments with their outcomes.
      folder: the folder with the pictures.
      smoke: whether the experiments ran at small sizes.

    Returns:
      HTML.
    """
    sections, contents = [], []
    for experiment, outcome in done:
        picture = base64.b64encode((folder / f"{experiment.name}.png").read_bytes()).decode()
        rows = "".join(
            f"<tr><td>{html.escape(check.what)}<td>{html.escape(check.expected)}<td>{html.escape(check.got)}"
            f'<td class="{str(check.ok).lower()}">{str(check.ok).lower()}</tr>'
            for check in outcome.checks
        )
        verdict = f'<span class="{str(outcome.ok).lower()}">{str(outcome.ok).lower()}</span>'
        contents.append(
            f'<li><a href="#{experiment.name}">{experiment.name}</a>: {html.escape(experiment.question)} {verdict}'
        )
        sections.append(
            f'<section id="{experiment.name}"><h2>{experiment.name}</h2>'
            f"<p><b>{html.escape(experiment.question)}</b></p>"
            f"<p>Expected: {html.escape(experiment.expected)}</p>"
            f'<div class="wide"><table><tr><th>check<th>expected<th>got<th>verdict</tr>{rows}</table></div>'
            f'<img alt="{experiment.name}" src="data:image/png;base64,{picture}"></section>'
        )
    good = sum(outcome.ok for _, outcome in done)
    return PAGE.format(
        notice=SMOKE_NOTICE if smoke else "",
        summary=f"{good} of {len(done)} verdicts are true.",
        contents="".join(contents),
        sections="".join(sections),
    )


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("python -m experiments: interrupted; what was written is complete, the page is not")
