"""Tables at every width of the screen: no number is cut, and nothing is lost without a word."""

import pytest

pytest.importorskip("rich", reason="rich is in the cli extra")

from jaxgd.commands import tables
from jaxgd.commands.tables import NUMBER, SPARE, WORDS, Column

COLUMNS = [
    Column("parameter, in the units of the data", WORDS),
    Column("fitted"),
    Column("closed\nform", SPARE),
    Column("gap", SPARE),
    Column("verdict", WORDS),
]
ROWS = [
    ["sepal length (cm) [setosa]", "-0.03636092", "-0.03636123", "3.1e-07", "slow"],
    ["x", "1 - 4.25e-06", "3,247,177", "-2.0e-05", "diverges, 1.01 times the limit"],
]


@pytest.mark.parametrize("width", [14, 20, 30, 40, 60, 80, 100, 200])
def test_no_number_is_cut(capsys, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    tables.print_table(COLUMNS, ROWS, title="best")
    out = capsys.readouterr().out
    assert "…" not in out
    assert max(map(len, out.splitlines())) <= width
    left_out = " ".join(out.partition("not shown at this width:")[2].split())
    words = " ".join(out.split())
    for i, column in enumerate(COLUMNS):
        if column.heading.replace("\n", " ") in left_out:
            assert column.kind == SPARE
            assert ROWS[0][i] not in words
        elif column.kind != WORDS:
            assert ROWS[0][i] in words
            assert ROWS[1][i] in words
    assert (left_out == "") == (width >= 80 or width < 60)


def test_a_wide_screen_has_everything_in_a_line(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    tables.print_table(COLUMNS, ROWS)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [word for cell in ROWS[1] for word in cell.split()] in lines


def test_labels_stand_above_their_texts_on_a_narrow_screen(capsys, monkeypatch):
    facts = {"ended": "DIVERGED at step 1, learning_rate 735.9 times the limit", "loss": "29143.8 -> 2859.7"}
    monkeypatch.setenv("COLUMNS", "40")
    tables.print_facts(facts)
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        "ended",
        "  DIVERGED at step 1, learning_rate",
        "  735.9 times the limit",
        "loss",
        "  29143.8 -> 2859.7",
    ]
    monkeypatch.setenv("COLUMNS", "80")
    tables.print_facts(facts)
    assert "loss   29143.8 -> 2859.7" in capsys.readouterr().out


def test_a_table_of_numbers_that_does_not_fit_is_stacked(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "30")
    tables.print_table([Column("rate", NUMBER), Column("loss", NUMBER)], [["0.123456789", "1234567.1234"] * 1] * 2)
    assert capsys.readouterr().out.count("rate") == 1
    tables.print_table([Column("rate", NUMBER)] * 3, [["0.123456789"] * 3])
    assert capsys.readouterr().out.count("rate  0.123456789") == 3
