"""What makes a run faster, and in what sense the result stays that of the plain loop.

Two kinds: other ways to take steps, functions like `loop.take_steps`, `(run, state, batch, rows) -> state`; and other
ways to evaluate a sum over rows, functions that take a problem to one with the same loss and gradient. `choose` picks
both for `fit` and `sweep`, but only the first kind for `descend`. `fast=False` uses none.

`tests/descent/test_fast.py` holds every row of the table against the plain loop over one table of runs. An
acceleration is added by adding its row there first.
"""

from typing import NamedTuple


class Acceleration(NamedTuple):
    """One row of the table.

    Attributes:
      file: the module of this folder.
      does: what it does instead.
      equal: in what sense its runs are those of the plain loop.
      taken: when `choose` takes it.
    """

    file: str
    does: str
    equal: str
    taken: str


ACCELERATIONS = (
    Acceleration(
        "blocks",
        does="takes steps unjudged, and judges them by the last of a block if nothing can have happened before it; "
        "fetches the rows of many mini-batches together",
        equal="the same decisions at the same steps, numbers within 1e-12; but at which step parameters that alternate "
        "between neighbouring values are found to do so depends on their last digits, and a bounded run beyond its "
        "largest stable rate amplifies the last digits until no digit of its numbers is that of the plain loop",
        taken="at least 500,000 steps of gradient_descent at a fixed rate, on less than 1 MiB each",
    ),
    Acceleration(
        "row_steps",
        does="solves a triangular system for many steps of one row of least squares",
        equal="the same decisions at the same steps, numbers within 1e-9",
        taken="single rows of least squares without a penalty, in programs for a GPU or TPU",
    ),
    Acceleration(
        "tiled",
        does="evaluates loss and gradient tile by tile, so that a row is read from memory once a step",
        equal="loss and gradient within rounding of the sum",
        taken="full batches from 4 MiB on a CPU",
    ),
    Acceleration(
        "sharded",
        does="evaluates the rows of each device there, and adds up the sums",
        equal="loss and gradient within rounding of the sum",
        taken="full batches from 16 MiB on several devices, and on several processes those that are not compressed",
    ),
    Acceleration(
        "compressed",
        does="replaces the rows of least squares by D + 2 rows with the same sum of squares",
        equal="loss and gradient within rounding of the sum of squared targets",
        taken="least squares from 1 MiB, or in several processes, for at least as many steps as a row has numbers",
    ),
)
"""The table of accelerations."""
