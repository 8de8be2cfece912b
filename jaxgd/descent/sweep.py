"""Lanes: learning rates x seeds x starting points in one compiled program.

A lane is one run of `descend`. Lanes share one scan: a lane that has stopped is masked, and what differs
between lanes is picked by index inside the program, so that new values never recompile it.
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxgd.data.arguments import arguments, parameters, sweep_axis
from jaxgd.descent import loop, rows
from jaxgd.descent.state import Controls, Result, Settings
from jaxgd.types import Params, Problem
from jaxgd.validation import check_choice, check_count

SWEPT = ("learning_rate", "key", "params", "batch", "l2", "grad_tol", "param_tol", "divergence_factor")
"""What `over` may name: everything of a run that is traced."""


def sweep(
    problem: Problem,
    params: Params,
    batch: Any,
    *,
    over: Mapping[str, Any],
    zipped: bool = False,
    lanes_per_chunk: int | None = None,
    mesh: Mesh | None = None,
    evaluation: str = "auto",
    **options: Any,
) -> Result:
    """Run `descend` over named axes, all lanes at once.

    Compiled once for each problem, number of lanes and set of static arguments.

    Args:
      problem: see `descend`.
      params: see `descend`.
      batch: see `descend`.
      over: for each swept argument its values with a leading axis: `{"learning_rate": rates, "key": keys}`.
        Any of `SWEPT`; `l2` for problems that have a penalty.
      zipped: False runs every combination; True runs entry i of all axes together.
      lanes_per_chunk: lanes run at a time, for sweeps wider than the device's memory; None is all. The result
        is then on the host.
      mesh: lanes are spread over all its devices, each running its own; over an axis named "rows" it is the rows
        that are spread. The result is then on the host.
      evaluation: how the sum over rows is evaluated, see `fit`.
      **options: the other arguments of `descend`.

    Returns:
      The result of every lane, with one leading axis for each entry of `over` in its order, or one for all
      where `zipped`.

    Raises:
      ValueError: an axis unknown, empty, or of another length than the one it is zipped with; see `descend`.
      TypeError: an argument given twice or unknown; see `descend`.
    """
    for name in over:
        check_choice("over", name, SWEPT)
    over = {name: sweep_axis(problem, name, values) for name, values in over.items()}
    lengths = _check_over(problem, over, options)
    mesh = None if mesh is None else rows.automatic(mesh)
    if zipped and len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise ValueError(f"zipped axes of `over` must have one length, got {listed}.")
    shape = (next(iter(lengths.values())),) if zipped else tuple(lengths.values())
    num_lanes = math.prod(shape)
    num_devices = 1 if mesh is None else math.prod(mesh.shape[axis] for axis in _lane_axes(mesh))
    at_once = num_lanes if lanes_per_chunk is None else check_count("lanes_per_chunk", lanes_per_chunk)
    at_once = -(-min(at_once, num_lanes) // num_devices) * num_devices
    run = _prepare(problem, params, batch, dict(over), options, mesh, at_once, evaluation)
    chunks = []
    for first in range(0, num_lanes, at_once):
        # The last chunk is filled up with its last lane, so that one program serves all.
        lanes = np.minimum(np.arange(first, first + at_once), num_lanes - 1)
        indices = (lanes,) * len(lengths) if zipped else np.unravel_index(lanes, shape)
        named = zip(lengths, indices, strict=True)
        index = {name: jnp.asarray(values, jnp.int32) for name, values in named}
        if mesh is not None:
            index = jax.device_put(index, NamedSharding(mesh, PartitionSpec(_lane_axes(mesh))))
        chunks.append(run(index))
    if len(chunks) == 1 and mesh is None:
        return jax.tree.map(lambda leaf: leaf.reshape(*shape, *leaf.shape[1:]), chunks[0])

    def joined(*leaves: jax.Array) -> np.ndarray[Any, Any]:
        lanes = np.concatenate([np.asarray(leaf) for leaf in leaves])[:num_lanes]
        return lanes.reshape(*shape, *lanes.shape[1:])

    return jax.tree.map(joined, *chunks)


def _check_over(problem: Problem, over: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, int]:
    """The length of every axis."""
    if not over:
        raise ValueError("`over` must name at least one axis, got none.")
    lengths = {}
    for name, values in over.items():
        if name in options:
            raise TypeError(f"`{name}` must be given in `over` or as an argument, not both.")
        if name == "l2" and problem.penalty is None:
            raise ValueError(f"`over` cannot name 'l2': {problem.name} has no penalty.")
        sizes = {jnp.shape(leaf)[0] if jnp.ndim(leaf) else 0 for leaf in jax.tree.leaves(values)}
        if len(sizes) != 1 or 0 in sizes:
            raise ValueError(
                f"`over[{name!r}]` must hold arrays with one leading axis of lanes, got {_shapes(values)}."
            )
        lengths[name] = sizes.pop()
    return lengths


def _shapes(values: Any) -> str:
    return ", ".join(str(jnp.shape(leaf)) for leaf in jax.tree.leaves(values)) or "nothing"


def _prepare(
    problem: Problem,
    params: Params,
    batch: Any,
    over: dict[str, Any],
    options: dict[str, Any],
    mesh: Mesh | None,
    at_once: int,
    evaluation: str,
) -> Callable[[dict[str, jax.Array]], Result]:
    """A function: the index of each lane on each axis -> the results of these lanes."""
    key = options.pop("key", None)
    learning_rate = options.pop("learning_rate", None)
    tolerances = {
        name: options.pop(name, default)
        for name, default in (("grad_tol", 0.0), ("param_tol", 0.0), ("divergence_factor", 1000.0))
    }
    static = {"batch_size": None, "optimizer": None, "record": loop.DEFAULT_RECORD, "record_every": 1}
    unknown = set(options) - {*static, "num_steps"}
    if unknown or "num_steps" not in options:
        what = f"got an unexpected argument {min(unknown)!r}" if unknown else "needs `num_steps`"
        raise TypeError(f"sweep() {what}.")
    rate = 1.0 if "learning_rate" in over else learning_rate
    settings = loop.check_settings(problem, rate, **(static | options))
    params = parameters(problem, params)
    loop.check_history(settings, params, at_once)
    if "batch" not in over:
        _, batch = arguments(problem, params, batch)
        plan = rows.plan(
            problem,
            batch,
            num_steps=settings.num_steps,
            batch_size=settings.batch_size,
            evaluation=evaluation,
            num_lanes=at_once,
            mesh=mesh,
        )
        problem, batch = plan.problem, plan.batch
    fixed = {
        "params": params,
        "batch": batch,
        "key": key,
        "learning_rate": None if callable(rate) else rate,
        **tolerances,
    }
    if mesh is not None:
        everywhere = NamedSharding(mesh, PartitionSpec())
        batch = fixed.pop("batch")
        fixed, over = jax.device_put((fixed, over), everywhere)
        fixed["batch"] = batch if rows.ROWS_AXIS in mesh.axis_names else jax.device_put(batch, everywhere)
    return functools.partial(_run_lanes, problem, settings, mesh, fixed, over)


def _lane_axes(mesh: Mesh) -> tuple[str, ...]:
    return tuple(name for name in mesh.axis_names if name != rows.ROWS_AXIS)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _run_lanes(
    problem: Problem,
    settings: Settings,
    mesh: Mesh | None,
    fixed: dict[str, Any],
    over: dict[str, Any],
    indices: dict[str, jax.Array],
) -> Result:
    def run_lane(fixed: dict[str, Any], over: dict[str, Any], index: dict[str, jax.Array]) -> Result:
        picked = {name: jax.tree.map(lambda leaf, i=i: leaf[i], over[name]) for name, i in index.items()}
        chosen = fixed | picked
        lane_problem = problem
        if "l2" in picked:
            assert problem.penalty is not None
            lane_problem = problem.penalty.with_l2(picked["l2"])
        controls = Controls(**{name: chosen[name] for name in Controls._fields})
        return loop.run(lane_problem, settings, chosen["params"], chosen["batch"], chosen["key"], controls)

    if mesh is not None and rows.ROWS_AXIS in mesh.axis_names:
        return jax.vmap(run_lane, in_axes=(None, None, 0), spmd_axis_name=_lane_axes(mesh))(fixed, over, indices)
    run_lanes = jax.vmap(run_lane, in_axes=(None, None, 0))
    if mesh is None:
        return run_lanes(fixed, over, indices)
    lanes = PartitionSpec(mesh.axis_names)
    spread = jax.shard_map(
        run_lanes,
        mesh=mesh,
        in_specs=(PartitionSpec(), PartitionSpec(), lanes),
        out_specs=lanes,
        check_vma=False,  # lanes never meet: there is no collective whose replication could be wrong
    )
    return spread(fixed, over, indices)
