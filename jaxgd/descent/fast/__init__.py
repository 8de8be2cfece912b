"""The accelerations, and how closely their results agree with the plain loop.

There are two kinds. Other ways to take steps are functions like `loop.take_steps`,
`(run, state, batch, rows) -> state`. Other ways to evaluate a sum over rows are functions from a problem to a problem
with the same loss and gradient. `choose` selects both kinds for `fit` and `sweep`, but only the first kind for
`descend`. `fast=False` uses none.

`tests/descent/test_fast.py` compares every row of the table with the plain loop. To add an acceleration, first add its
row to that test.
"""

from typing import NamedTuple


class Acceleration(NamedTuple):
    """One row of the table.

    Attributes:
      file: the module in this folder.
      does: how it differs from the plain loop.
      equal: how closely its results agree with the plain loop.
      taken: when `choose` selects it.
    """

    file: str
    does: str
    equal: str
    taken: str


ACCELERATIONS = (
    Acceleration(
        "blocks",
        does="takes blocks of steps and judges only the last step, if no stop rule can have applied before; loads the "
        "rows of many mini-batches together",
        equal="the same decisions at the same steps, numbers within 1e-12. Two exceptions: the step at which a cycle "
        "among neighbouring values is detected depends on the last digits; and a bounded run above its largest stable "
        "rate amplifies rounding until no digit agrees",
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
        does="evaluates loss and gradient tile by tile, so that a step reads each row from memory only once",
        equal="loss and gradient within rounding of the sum",
        taken="full batches from 4 MiB on a CPU",
    ),
    Acceleration(
        "sharded",
        does="distributes the rows over devices, evaluates them there, and adds the sums",
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
