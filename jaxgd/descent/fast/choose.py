"""Choose the accelerations of a run: how its sum over rows is evaluated, and how its steps are taken."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import lax
from jax.sharding import Mesh

from jaxgd.descent import loop
from jaxgd.descent.fast import blocks, row_steps
from jaxgd.descent.fast.compressed import compress
from jaxgd.descent.fast.sharded import ROWS_AXIS, of_shares, sharded, shares_of, spread
from jaxgd.descent.fast.tiled import tile_rows, tiled
from jaxgd.descent.run import Run, State
from jaxgd.types import Problem
from jaxgd.validation import check_choice

TakeSteps = Callable[[Run, State, Any, jax.Array], State]
"""The signature of `loop.take_steps`."""

EVALUATIONS = ("auto", "plain", "tiled", "sharded", "compressed")
"""The ways to evaluate a sum over rows; "auto" means the result of `fastest`."""

TILED_FROM, SHARDED_FROM, COMPRESSED_FROM = 2**22, 2**24, 2**20
"""Bytes of a batch from which each pays, measured on two cores: out of the cache, worth two threads, worth a pass."""

BLOCKS_FROM, BLOCK_STEPS = 500_000, 100
"""Steps of a run from which blocks are taken, and the fewest in a block. They save 1.2 to 1.4 us a step and take 1.1 s
more to compile: on two cores the first run gains from 0.5 to 1.6 million steps, the second from half as many."""

BLOCK_BYTES = 2**20
"""If the rows of one step have more bytes than this, the stop tests cost nothing in comparison, and blocks are not
used."""


class Plan(NamedTuple):
    """How the rows of a run are evaluated.

    Attributes:
      problem: the same loss and gradient.
      batch: the rows, or what stands for them, laid out as the evaluation needs them.
      evaluation: which one it is; one of `EVALUATIONS`.
    """

    problem: Problem
    batch: Any
    evaluation: str


def plan(
    problem: Problem,
    batch: Any,
    *,
    num_steps: int,
    batch_size: int | None = None,
    evaluation: str = "auto",
    fast: bool = True,
    num_lanes: int = 1,
    mesh: Mesh | None = None,
) -> Plan:
    """Lay out a sum over rows for the way it is evaluated.

    Args:
      problem: what to minimise.
      batch: the data.
      num_steps: of the run.
      batch_size: rows in a mini-batch, or None.
      evaluation: one of `EVALUATIONS`; "auto" is `fastest`.
      fast: whether accelerations are wanted; if not, "auto" is "plain".
      num_lanes: runs at a time, which share each tile.
      mesh: of the lanes, or None; rows are then spread only over its axis "rows".

    Returns:
      The plan.

    Raises:
      ValueError: an unknown evaluation, or one that does not go with mini-batches, with the problem or with `fast`.
    """
    check_choice("evaluation", evaluation, EVALUATIONS)
    for condition, refused in (("a `batch_size`", batch_size is not None), ("`fast=False`", not fast)):
        if refused and evaluation not in ("auto", "plain"):
            raise ValueError(f"`evaluation` must be 'auto' or 'plain' with {condition}, got {evaluation!r}.")
    chosen = evaluation
    if evaluation == "auto":
        options: dict[str, Any] = {"batch_size": batch_size, "num_lanes": num_lanes, "mesh": mesh}
        chosen = fastest(problem, batch, num_steps=num_steps, **options) if fast else "plain"
    if chosen == "compressed":
        try:
            small, rows = compress(problem, batch)
        except ValueError:
            if evaluation == chosen:
                raise
            chosen = "tiled"  # rows that are not finite: the run itself ends NONFINITE
        else:
            return Plan(small, rows, chosen)
    if chosen == "tiled":
        return Plan(tiled(problem, tile_rows(batch, num_lanes)), batch, chosen)
    if chosen == "sharded":
        if mesh is None:
            mesh = Mesh(np.asarray(jax.devices()), (ROWS_AXIS,))
        inner = tiled(problem, tile_rows(batch, num_lanes)) if jax.default_backend() == "cpu" else problem
        return Plan(sharded(inner, mesh), spread(batch, mesh), chosen)
    return Plan(problem, batch, "plain")


def plan_of_shares(problem: Problem, batch: Any, shares: tuple[int, ...]) -> Plan:
    """Lay out rows of which every process has its own.

    Args:
      problem: what to minimise, whose loss is the mean or the sum over rows.
      batch: the rows of this process.
      shares: how many rows each process has.

    Returns:
      The plan; its problem and batch are given to `fit` as they are, with `evaluation="plain"`.
    """
    inner = tiled(problem, tile_rows(batch)) if jax.default_backend() == "cpu" else problem
    return Plan(of_shares(inner), shares_of(batch, shares), "sharded")


def fastest(
    problem: Problem,
    batch: Any,
    *,
    num_steps: int,
    batch_size: int | None = None,
    num_lanes: int = 1,
    mesh: Mesh | None = None,
) -> str:
    """The evaluation that "auto" stands for.

    A squared error of a linear model is compressed from `COMPRESSED_FROM` bytes on, and at any size in several
    processes, if the run has as many steps as a row has numbers; `SHARDED_FROM` bytes are spread over all devices if
    there are several, and any number over several processes; on a CPU `TILED_FROM` bytes are tiled. What is smaller,
    is cut into mini-batches, is not known to add up over rows, or has an evaluation of its own, stays as it is.

    Args:
      problem: see `plan`.
      batch: see `plan`.
      num_steps: see `plan`.
      batch_size: see `plan`.
      num_lanes: see `plan`.
      mesh: see `plan`.

    Returns:
      One of `EVALUATIONS`, "auto" excepted.
    """
    if batch_size is not None or problem.row_sum is None or problem.value_and_grad is not None:
        return "plain"
    num_rows = problem.row_sum.num_rows(batch)
    if num_rows == 1:  # statistics, tiles and shards of one row are that row
        return "plain"
    processes = jax.process_count()
    leaves = jax.tree.leaves(batch)
    num_bytes = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
    row_numbers = sum(math.prod(leaf.shape[1:]) for leaf in leaves)
    # First what makes a step independent of the number of rows, then what shares them out, then what reads them once.
    # Every process has all rows and finds the same statistics, from which it steps without a message to the others.
    worth_a_pass = num_bytes >= COMPRESSED_FROM or processes > 1
    if problem.linear_form is not None and worth_a_pass and num_steps >= row_numbers:
        return "compressed"
    if processes > 1:
        return "sharded"
    if mesh is not None and ROWS_AXIS in mesh.axis_names:
        return "sharded"
    if mesh is None and len(jax.devices()) > 1 and num_bytes >= SHARDED_FROM:
        return "sharded"
    # The predictions of many lanes outgrow the cache before the inputs do.
    prediction_bytes = num_rows * num_lanes * leaves[0].dtype.itemsize
    return "tiled" if jax.default_backend() == "cpu" and max(num_bytes, prediction_bytes) >= TILED_FROM else "plain"


def how_to_step(problem: Problem, run: Run, batch: Any, rule_is_ours: bool) -> TakeSteps:
    """The fastest function that takes the steps of a run.

    Blocks are judged by their last step if a step depends on nothing but the point it starts from, and only `loss`,
    `grad_norm` and `learning_rate` are recorded.

    Args:
      problem: what is minimised.
      run: what does not change.
      batch: all rows.
      rule_is_ours: whether the rule is `gradient_descent`.

    Returns:
      `loop.take_steps`, or a faster function with the same signature.
    """
    # What else is recorded needs the parameters before and after every step.
    recorded = set(run.record) <= {"loss", "grad_norm", "learning_rate"}
    judged_by_last = rule_is_ours and not callable(run.learning_rate) and problem.value_and_grad is None and recorded
    # A traced penalty may be anything; the triangular system below has no penalty in it.
    free = isinstance(problem.l2, int | float) and problem.l2 == 0
    size = blocks.block_steps(run, batch)
    take_steps: TakeSteps = loop.take_steps
    long = run.num_steps >= BLOCKS_FROM and size >= BLOCK_STEPS
    if judged_by_last and long and blocks.step_bytes(run, batch) < BLOCK_BYTES:
        take_steps = blocks.steps_in_blocks(size, blocks.move)
    solved_size = blocks.block_steps(run, batch, row_steps.SOLVED_STEPS)
    if not (judged_by_last and problem.linear_form is not None and free and run.epochs.batch_size == 1 and solved_size):
        return take_steps
    solve = blocks.steps_in_blocks(solved_size, row_steps.solved(problem.linear_form))

    def by_device(run: Run, state: State, batch: Any, rows: jax.Array) -> State:
        # Launching kernels takes most of the time of a step of one row, but not on a CPU. Chosen when the program is
        # lowered for its device, which need not be the one on which it is traced.
        ways = {"cpu": functools.partial(take_steps, run), "default": functools.partial(solve, run)}
        chosen: State = lax.platform_dependent(state, batch, rows, **ways)
        return chosen

    return by_device
