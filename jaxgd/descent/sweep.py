"""sweep(): learning rates x seeds x starting points in one compiled program.

A lane is one run of `descend`. All lanes share one scan; a lane that has stopped is masked. The program selects the
values of each lane by index, so new values do not need recompilation.
"""

import functools
import inspect
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxgd.data.arguments import arguments, parameters, sweep_axis
from jaxgd.data.arrays import on_device
from jaxgd.descent import loop
from jaxgd.descent.axes import arguments_of, check_tunable, over_batch_sizes
from jaxgd.descent.descend import (
    Controls,
    Given,
    Program,
    Settings,
    as_rate,
    bind,
    check_history,
    check_problem,
    check_settings,
    descend,
)
from jaxgd.descent.docs import takes_arguments_of
from jaxgd.descent.fast import choose
from jaxgd.descent.fast.sharded import ROWS_AXIS, automatic
from jaxgd.descent.result import Result
from jaxgd.types import Params, Problem
from jaxgd.validation import check_choice, check_count

SWEPT = ("learning_rate", "key", "params", "batch", "l2", "grad_tol", "param_tol", "divergence_factor")
"""The names that `over` accepts for every problem, besides "batch_size" and arguments of the optimizer."""


@takes_arguments_of(descend)
def sweep(  # noqa: D417 (the decorator adds the other arguments)
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
      over: the values of each swept argument, with a leading axis, such as `{"learning_rate": rates, "key": keys}`. The
        names may be those of `SWEPT`, `l2` for a problem with a penalty, arguments of the function `optimizer` that may
        be numbers (such as "momentum" of `optax.sgd`), and "batch_size", of which each value is compiled separately.
        Scalars may be given as an array, a list or a series; parameters and batches as stacked trees or as lists.
      zipped: False runs every combination of values; True runs value i of all arguments together.
      lanes_per_chunk: the number of lanes that run at the same time, for sweeps that need more than the device's
        memory; None means all. With a number, the result is on the host.
      mesh: a mesh over whose devices the lanes are distributed. Over an axis named "rows", the rows are distributed
        instead. With a mesh, the result is on the host.
      evaluation: how the sum over rows is evaluated, as `fit`.
      **options: the other arguments of `descend`.

    Returns:
      The result of every lane, with one leading axis for each entry of `over` in its order, or one for all
      if `zipped`.

    Raises:
      ValueError: an axis is unknown or empty, zipped axes have different lengths; also as `descend`.
      TypeError: an argument is given twice or unknown; also as `descend`.
    """
    tunable, axes = arguments_of(options.get("optimizer")), list(over)
    for name in axes:
        check_choice("over", name, (*SWEPT, "batch_size", *tunable))
    sizes = over.get("batch_size")
    over = {name: sweep_axis(problem, name, values) for name, values in over.items() if name != "batch_size"}
    # From here on arrays with a leading axis of lanes.
    if sizes is not None:
        one = functools.partial(
            sweep, problem, params, batch, zipped=zipped, lanes_per_chunk=lanes_per_chunk, mesh=mesh,
            evaluation=evaluation, **_without_batch_size(options),
        )  # fmt: skip
        axis = None if zipped else axes.index("batch_size")
        return over_batch_sizes(one, functools.partial(descend, problem, params, batch, **options), over, sizes, axis)
    lengths = _check_over(problem, over, options, zipped)
    check_tunable(options.get("optimizer"), {name: over[name] for name in over if name not in SWEPT})
    mesh = None if mesh is None else automatic(mesh)
    shape = (next(iter(lengths.values())),) if zipped else tuple(lengths.values())
    num_lanes = math.prod(shape)
    num_devices = 1 if mesh is None else math.prod(mesh.shape[axis] for axis in _lane_axes(mesh))
    at_once = num_lanes if lanes_per_chunk is None else check_count("lanes_per_chunk", lanes_per_chunk)
    at_once = -(-min(at_once, num_lanes) // num_devices) * num_devices
    given = {"params": params, "batch": batch} | _with_defaults(options)
    settings = _check_settings(problem, given, over)
    given["params"] = parameters(problem, params)
    check_history(settings, given["params"], at_once)
    if "batch" not in over:  # lanes of different data share no tiles and no statistics
        plan = choose.plan(
            problem, arguments(problem, params, batch)[1], num_steps=settings.num_steps,
            batch_size=settings.batch_size, evaluation=evaluation, fast=settings.fast, num_lanes=at_once, mesh=mesh,
        )  # fmt: skip
        problem, given["batch"] = plan.problem, plan.batch
    values = _laid_out(given, over, mesh)
    chunks = []
    for first in range(0, num_lanes, at_once):
        # The last chunk is filled up with its last lane, so that one program serves all.
        lanes = np.minimum(np.arange(first, first + at_once), num_lanes - 1)
        # Lanes are indices into the axes, so that a product of axes takes no more memory than the axes themselves.
        indices = (lanes,) * len(lengths) if zipped else np.unravel_index(lanes, shape)
        index = {name: on_device(entries.astype(np.int32)) for name, entries in zip(lengths, indices, strict=True)}
        if mesh is not None:
            index = jax.device_put(index, NamedSharding(mesh, PartitionSpec(_lane_axes(mesh))))
        chunks.append(_run_lanes(Program(problem, settings), mesh, values, index))
    if len(chunks) == 1 and mesh is None:
        return _in_axes(shape, chunks[0]) if len(shape) > 1 else chunks[0]
    return jax.tree.map(functools.partial(_joined, shape), *chunks)


def _joined(shape: tuple[int, ...], *leaves: jax.Array) -> np.ndarray[Any, Any]:
    """The lanes of all chunks in the shape of the axes, on the host; without those that fill up the last chunk."""
    lanes = np.concatenate([np.asarray(leaf) for leaf in leaves])[: math.prod(shape)]
    return lanes.reshape(*shape, *lanes.shape[1:])


@functools.partial(jax.jit, static_argnums=0)
def _in_axes(shape: tuple[int, ...], result: Result) -> Result:
    """Reshape the result to one axis for each entry of `over`, in one program for all leaves."""
    return jax.tree.map(lambda leaf: leaf.reshape(*shape, *leaf.shape[1:]), result)


class _Values(NamedTuple):
    """The traced arguments of a sweep, by name."""

    fixed: dict[str, Any]  # the same in all lanes
    over: dict[str, Any]  # with a leading axis


def _check_over(problem: Problem, over: Mapping[str, Any], options: Mapping[str, Any], zipped: bool) -> dict[str, int]:
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
    if zipped and len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise ValueError(f"zipped axes of `over` must have one length, got {listed}.")
    return lengths


def _shapes(values: Any) -> str:
    return ", ".join(str(jnp.shape(leaf)) for leaf in jax.tree.leaves(values)) or "nothing"


def _with_defaults(options: Mapping[str, Any]) -> dict[str, Any]:
    """The keyword arguments of `descend`."""
    known = {name: p.default for name, p in inspect.signature(descend).parameters.items() if p.kind == p.KEYWORD_ONLY}
    unknown = set(options) - set(known)
    if unknown or "num_steps" not in options:
        what = f"got an unexpected argument {min(unknown)!r}" if unknown else "needs `num_steps`"
        raise TypeError(f"sweep() {what}.")
    return known | dict(options)


def _without_batch_size(options: Mapping[str, Any]) -> dict[str, Any]:
    if "batch_size" in options:
        raise TypeError("`batch_size` must be given in `over` or as an argument, not both.")
    return dict(options)


def _check_settings(problem: Problem, given: dict[str, Any], over: Mapping[str, Any]) -> Any:
    """Check the settings and remove them from `given`; everything left is traced."""
    # Only whether there is a rate and whether it is a function is static; the numbers are traced.
    rate = 1.0 if "learning_rate" in over else given["learning_rate"]
    settings = check_settings(problem, rate, Settings(**{name: given.pop(name) for name in Settings._fields}))
    given["learning_rate"] = as_rate(rate)
    return settings


def _laid_out(given: dict[str, Any], over: Mapping[str, Any], mesh: Mesh | None) -> _Values:
    """The arguments, placed on the devices of the mesh."""
    if mesh is None:
        return _Values(given, dict(over))
    everywhere = NamedSharding(mesh, PartitionSpec())
    batch = given.pop("batch")
    given, over = jax.device_put((given, dict(over)), everywhere)
    given["batch"] = batch if ROWS_AXIS in mesh.axis_names else jax.device_put(batch, everywhere)
    return _Values(given, dict(over))


def _lane_axes(mesh: Mesh) -> tuple[str, ...]:
    return tuple(name for name in mesh.axis_names if name != ROWS_AXIS)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _run_lanes(program: Program, mesh: Mesh | None, values: _Values, indices: dict[str, jax.Array]) -> Result:
    """Run the lanes given by their index on each axis."""

    def run_lane(values: _Values, index: dict[str, jax.Array]) -> Result:
        picked = {name: jax.tree.map(lambda leaf, i=i: leaf[i], values.over[name]) for name, i in index.items()}
        chosen, lane = values.fixed | picked, program
        if "l2" in picked:  # the penalty is a part of the problem, so that every lane has one of its own
            assert program.problem.penalty is not None
            lane = program._replace(problem=program.problem.penalty.with_l2(picked["l2"]))
        tuned = {name: value for name, value in picked.items() if name not in SWEPT}
        if tuned:
            build = functools.partial(program.settings.optimizer, **tuned)
            lane = lane._replace(settings=program.settings._replace(optimizer=build))
        check_problem(lane.problem, chosen["params"], chosen["batch"])
        controls = Controls(**{name: chosen[name] for name in Controls._fields})
        given = Given(chosen["batch"], chosen["key"], controls)
        return loop.run(bind(lane, given), chosen["params"], given.batch)

    if mesh is not None and ROWS_AXIS in mesh.axis_names:
        return jax.vmap(run_lane, in_axes=(None, 0), spmd_axis_name=_lane_axes(mesh))(values, indices)
    run_lanes = jax.vmap(run_lane, in_axes=(None, 0))
    if mesh is None:
        return run_lanes(values, indices)
    lanes = PartitionSpec(mesh.axis_names)
    spread = jax.shard_map(
        run_lanes,
        mesh=mesh,
        in_specs=(PartitionSpec(), lanes),
        out_specs=lanes,
        check_vma=False,  # lanes never meet, so that no collective could be wrong about replication
    )
    return spread(values, indices)
