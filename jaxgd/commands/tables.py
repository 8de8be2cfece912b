"""Print tables at any screen width. If columns do not fit, some are left out or all are stacked; no number is cut."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import rich.box
import rich.cells
import rich.console
import rich.markup
import rich.padding
import rich.table
import rich.text

SIDE_BY_SIDE = 60
"""On screens of at least this many columns, labels are printed to the left of their texts; otherwise above them."""

BROKEN = 14
"""A word may be broken if its column has at least this width; a number is never broken."""

NUMBER, WORDS, SPARE = "number", "words", "spare"
"""Kinds of columns: numbers, words that may continue in the next line, and numbers that are left out first."""


class Column(NamedTuple):
    """A column: its heading, which may contain line breaks, and its kind."""

    heading: str
    kind: str = NUMBER


def console() -> rich.console.Console:
    """The console on which tables are printed.

    Returns:
      A console on standard output without automatic highlighting.
    """
    return rich.console.Console(highlight=False)


def print_facts(facts: Mapping[str, str], styles: Mapping[str, str] | None = None) -> None:
    """Print labels and texts.

    Args:
      facts: texts by their labels.
      styles: the styles of some labels.
    """
    screen, styles = console(), styles or {}
    if screen.width < SIDE_BY_SIDE:
        for label, text in facts.items():
            screen.print(rich.text.Text(label, "dim"))
            screen.print(rich.padding.Padding(rich.text.Text(text, styles.get(label, "")), (0, 0, 0, 2)))
        return
    table = rich.table.Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for label, text in facts.items():
        table.add_row(label, rich.markup.escape(text), style=styles.get(label, ""))
    screen.print(table)


def print_notes(notes: Sequence[str]) -> None:
    """Print notes, each as a paragraph.

    Args:
      notes: sentences.
    """
    for note in notes:
        console().print(rich.text.Text(f"note: {note}", "yellow"))


def print_table(
    columns: Sequence[Column],
    rows: Sequence[Sequence[str]],
    *,
    styles: Sequence[str] = (),
    title: str | None = None,
    lines: bool = False,
) -> None:
    """Print a table, at the width of the screen.

    Args:
      columns: the columns.
      rows: for each row one text for each column.
      styles: the style of each row; by default none.
      title: the title above the table.
      lines: whether to draw a line between rows.
    """
    screen = console()
    shown, left_out = list(range(len(columns))), list[str]()
    while (
        widths := _widths([columns[i] for i in shown], [[row[i] for i in shown] for row in rows], screen.width)
    ) is None:
        spare = [i for i in shown if columns[i].kind == SPARE]
        if not spare:
            _print_stacked(screen, columns, rows, styles, title)
            return
        shown.remove(spare[-1])
        left_out.insert(0, columns[spare[-1]].heading.replace("\n", " "))
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD, title=title, title_justify="left", show_lines=lines)
    for i, width in zip(shown, widths, strict=True):
        heading = rich.text.Text(columns[i].heading)
        table.add_column(heading, justify="left" if columns[i].kind == WORDS else "right", width=width, overflow="fold")
    for number, row in enumerate(rows):
        table.add_row(*(rich.text.Text(row[i]) for i in shown), style=styles[number] if styles else "")
    screen.print(table)
    if left_out:
        screen.print(rich.text.Text(f"not shown at this width: {', '.join(left_out)}", "dim"))


def _widths(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int) -> list[int] | None:
    """The width of each column; None if they do not fit."""
    least, most = [], []
    for i, column in enumerate(columns):
        cells = [row[i] for row in rows]
        words = _longest([*cells, column.heading], None)
        numbers = max(_longest(cells, "\n"), _longest([column.heading], None))
        least.append(min(words, BROKEN) if column.kind == WORDS else numbers)
        most.append(_longest([*cells, column.heading], "\n"))
    room = width - 3 * len(columns) - 1 - sum(least)  # two columns beside each, one between, two at the edges
    if room < 0:
        return None
    while room > 0 and least != most:
        # The narrowest column that needs more width gets it first, so that one long text does not take all of it.
        narrowest = min((i for i in range(len(least)) if least[i] < most[i]), key=lambda i: least[i])
        least[narrowest] += 1
        room -= 1
    return least


def _longest(texts: Sequence[str], separator: str | None) -> int:
    """The length of the longest line, or of the longest word."""
    return max((rich.cells.cell_len(part) for text in texts for part in text.split(separator)), default=0)


def _print_stacked(
    screen: rich.console.Console,
    columns: Sequence[Column],
    rows: Sequence[Sequence[str]],
    styles: Sequence[str],
    title: str | None,
) -> None:
    """Print each row as several lines, each with a heading and a text."""
    if title:
        screen.print(rich.text.Text(title, "italic"))
    headings = [column.heading.replace("\n", " ") for column in columns]
    width = _longest(headings, "\n") + 2
    beside = width + _longest([text for row in rows for text in row], None) <= screen.width
    for number, row in enumerate(rows):
        style = styles[number] if styles else ""
        grid = rich.table.Table.grid()
        if beside:
            grid.add_column(style="dim", width=width)
        grid.add_column(overflow="fold")
        for heading, text in zip(headings, row, strict=True):
            shown = rich.text.Text(text, style)
            if beside:
                grid.add_row(heading, shown)
            else:
                grid.add_row(rich.text.Text(heading, "dim"))
                grid.add_row(rich.padding.Padding(shown, (0, 0, 0, 2)))
        screen.print()
        screen.print(grid)
