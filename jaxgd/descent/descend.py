"""descend(): checks its arguments, chooses the plain loop or a faster one, and compiles."""

import functools
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from jaxgd.data.arguments import arguments
from jaxgd.descent import batches, loop
from jaxgd.descent.fast import choose
from jaxgd.descent.result import RECORDED, Result
from jaxgd.descent.rule import gradient_descent
from jaxgd.descent.run import Run
from jaxgd.descent.stopping import Limits
from jaxgd.theory.curvature import hessian_vector_product
from jaxgd.types import Params, Problem, evaluate
from jaxgd.validation import check_choice, check_count, check_key, check_same_tree

DEFAULT_RECORD = ("loss", "grad_norm", "learning_rate")
"""The fields of the history that are recorded by default."""


class Settings(NamedTuple):
    """The static arguments of a run, see `descend`. Each set of values is compiled once."""

    num_steps: int
    batch_size: int | None = None
    optimizer: Any = None
    record: Sequence[str] = DEFAULT_RECORD
    record_every: int = 1
    fast: bool = True


class Controls(NamedTuple):
    """The arguments of a run that may change without recompilation, see `descend`. A schedule is static."""

    learning_rate: Any
    grad_tol: Any
    param_tol: Any
    divergence_factor: Any


class Program(NamedTuple):
    """Everything static in a run: other values need another program."""

    problem: Problem
    settings: Settings


class Given(NamedTuple):
    """Everything traced in a run, except the parameters."""

    batch: Any
    key: jax.Array | None
    controls: Controls


def descend(
    problem: Problem,
    params: Params,
    batch: Any,
    *,
    learning_rate: Any = None,
    num_steps: int,
    batch_size: int | None = None,
    key: jax.Array | None = None,
    optimizer: Any = None,
    grad_tol: Any = 0.0,
    param_tol: Any = 0.0,
    divergence_factor: Any = 1000.0,
    record: Sequence[str] = DEFAULT_RECORD,
    record_every: int = 1,
    fast: bool = True,
) -> Result:
    """Minimise a problem by gradient descent; pure, and safe under jit, vmap and grad.

    The run is compiled once for each problem, shape and set of static arguments. New parameters, data, learning rates,
    tolerances and keys use the same program.

    How a run ends:
      NO_CHANGE: the run has converged. Either no parameter changed by more than `param_tol` in a whole epoch. (Updates
        that are exactly zero although the gradient is not, as in a warm-up from rate 0 or in gradient accumulation, do
        not count.) Or the parameters cycle through neighbouring values: they returned to earlier values, or, after 1024
        epochs without a better loss, to within 32 units of rounding of them. Cycles are detected only if the learning
        rate is a number and the rows are not shuffled.
      GRADIENT_SMALL: the gradient norm was at most `grad_tol` in a whole epoch.
      DIVERGED: the mean loss of an epoch exceeded the first loss, and exceeded the best loss by more than
        `divergence_factor` times the size of the best loss, in three epochs in a row, or in one epoch by a further such
        factor. Or a negative loss and its gradient both grew by that factor over their values at the start.
      NONFINITE: the loss or the gradient was NaN or infinite.
      MAX_STEPS: all steps were taken, and no other reason applied.

    Args:
      problem: the problem to minimise. Static.
      params: theta_0. For a problem of this package, an instance of its parameter type such as `LinearParams`, a dict
        with the same names, or a tuple in the same order. For your own problem, any tree of floating arrays. Dtypes are
        kept.
      batch: the data. For a problem of this package, a `Batch` or a pair (inputs, targets) of arrays, lists or frames.
        For your own problem, any tree.
      learning_rate: eta, a number or traced scalar `[]`, or a function step -> rate such as an optax schedule (static).
        If `optimizer` is a GradientTransformation, it has its own rate, and this one is only recorded.
      num_steps: the largest number of updates. Static.
      batch_size: rows in a batch; None is the full batch, 1 stochastic descent. Static.
      key: shuffles the rows in every epoch; None visits them in their order.
      optimizer: an optax GradientTransformation, or a function learning_rate -> GradientTransformation such
        as `optax.adam`, with which the rate stays traced. None means `gradient_descent`. Static.
      grad_tol: `[]`, in units of the gradient; negative never stops.
      param_tol: `[]`, largest absolute change of a parameter, in its units; negative never stops.
      divergence_factor: `[]`, above 1. With `inf` a run never ends as DIVERGED; it continues until its last step or
        until its numbers overflow.
      record: the fields of `History` to record. Static.
      record_every: record only every this many steps. Static.
      fast: whether accelerations may be used (`jaxgd.descent.fast`); False runs the plain loop, `loop.py`. Static.

    Returns:
      The result.

    Raises:
      ValueError: an argument is out of range, or trees or shapes do not fit.
      TypeError: parameters are not floating, a count is not an integer, or the gradient has another dtype.
    """
    # Checked outside of the compiled program: a mistake costs no compilation, and the message shows the caller's value.
    settings = Settings(num_steps, batch_size, optimizer, record, record_every, fast)
    settings = check_settings(problem, learning_rate, settings)
    check_key(key)
    controls = Controls(as_rate(learning_rate), grad_tol, param_tol, divergence_factor)
    params, batch = arguments(problem, params, batch)
    return _descend(Program(problem, settings), params, Given(batch, key, controls))


@functools.partial(jax.jit, static_argnums=0)
def _descend(program: Program, params: Params, given: Given) -> Result:
    check_problem(program.problem, params, given.batch)
    return loop.run(bind(program, given), params, given.batch)


def bind(program: Program, given: Given) -> Run:
    """Everything that does not change during a run, in the form that the loop needs."""
    (problem, settings), (batch, key, controls) = program, given

    def evaluate_apart(params: Params, part: Any) -> tuple[jax.Array, Params]:
        # Without the barrier the compiler merges it with what follows, and rounds it differently in every program.
        apart: tuple[jax.Array, Params] = lax.optimization_barrier(evaluate(problem, params, part))
        return apart

    epochs = batches.cut(batch, settings.batch_size)
    limits = Limits(controls.grad_tol, controls.param_tol, controls.divergence_factor, epochs.steps_per_epoch)
    run = Run(
        loss=problem.loss,
        evaluate=evaluate_apart,
        hvp=lambda params, vector, part: hessian_vector_product(problem, params, part, vector),
        reduction=problem.reduction,
        rule=_rule(settings.optimizer, controls.learning_rate),
        learning_rate=controls.learning_rate,
        descends=settings.optimizer is None,
        limits=limits,
        epochs=epochs,
        order=functools.partial(batches.row_order, epochs, key),
        shuffles=key is not None and bool(epochs.batch_size),
        num_steps=settings.num_steps,
        record=tuple(settings.record),
        record_every=settings.record_every,
        take_steps=loop.take_steps,
    )
    if settings.fast:
        run = run._replace(take_steps=choose.how_to_step(problem, run, batch, settings.optimizer is None))
    return run


def _rule(optimizer: Any, learning_rate: Any) -> Callable[[Any], optax.GradientTransformationExtraArgs]:
    """A function from the rate of a step to the rule. Only `gradient_descent` uses the rate; optax keeps its own."""
    if optimizer is None:
        return lambda rate: optax.with_extra_args_support(gradient_descent(rate))
    ready = optimizer if isinstance(optimizer, optax.GradientTransformation) else optimizer(learning_rate)
    return lambda rate: optax.with_extra_args_support(ready)


def check_settings(problem: Problem, learning_rate: Any, settings: Settings) -> Settings:
    """Check the static arguments of `descend` and return them in one form. The learning rate is only checked.

    Raises:
      ValueError: an argument out of range.
      TypeError: `problem` is not a Problem, a count is not an integer, `optimizer` is not an optax
        GradientTransformation or a function, the learning rate is missing, `fast` is not True or False.
    """
    if not isinstance(problem, Problem):
        raise TypeError(
            f"`problem` must be a jaxgd.Problem, got {type(problem).__name__}; wrap a loss by jaxgd.autodiff(loss)."
        )
    optimizer, record = settings.optimizer, settings.record
    ready = isinstance(optimizer, optax.GradientTransformation)
    if optimizer is not None and not ready and not callable(optimizer):
        raise TypeError(
            "`optimizer` must be an optax GradientTransformation or a function learning_rate -> "
            f"GradientTransformation, got {type(optimizer).__name__}."
        )
    if learning_rate is None and not ready:
        raise TypeError("`learning_rate` must be a number or a function step -> rate, got None.")
    if learning_rate is not None and not callable(learning_rate):
        if isinstance(learning_rate, str):
            raise TypeError(f"`learning_rate` must be a number or a function step -> rate, got {learning_rate!r}.")
        if jnp.shape(learning_rate) != ():
            raise ValueError(
                f"`learning_rate` must be a scalar, got shape {jnp.shape(learning_rate)}; "
                "jax.vmap over it for several runs."
            )
    if not isinstance(settings.fast, bool):
        raise TypeError(f"`fast` must be True or False, got {type(settings.fast).__name__}.")
    if isinstance(record, str):
        raise TypeError(f"`record` must be a sequence of field names, got the string {record!r}.")
    for field in record:
        check_choice("record", field, RECORDED)
    fields = tuple(field for field in RECORDED if field in record)
    if learning_rate is None:  # a ready optimizer does not say what its rate is
        fields = tuple(field for field in fields if field != "learning_rate")
    return settings._replace(
        num_steps=check_count("num_steps", settings.num_steps, maximum=2**31 - 1),  # steps are counted in int32
        record=fields,
        record_every=check_count("record_every", settings.record_every),
    )


def as_rate(learning_rate: Any) -> Any:
    """A learning rate as an argument of jit: a function is wrapped so that it is a static part of a traced value."""
    return jax.tree_util.Partial(learning_rate) if callable(learning_rate) else learning_rate


def check_problem(problem: Problem, params: Params, batch: Any) -> None:
    """Check that loss and gradient of a problem have the right structure, by tracing shapes; nothing is computed."""
    loss = jax.eval_shape(problem.loss, params, batch)
    if getattr(loss, "shape", None) != () or not jnp.issubdtype(loss.dtype, jnp.floating):
        raise ValueError(f"the loss of `problem` must return one floating scalar [], got {loss}.")
    check_same_tree("the gradient", jax.eval_shape(problem.grad, params, batch), "`params`", params)


def check_history(settings: Settings, params: Params, num_lanes: int = 1) -> None:
    """Raise an error if the history is larger than the device's memory, before anything is compiled."""
    leaves = jax.tree.leaves(params)
    scalar = max(leaf.dtype.itemsize for leaf in leaves)
    sizes = {"params": sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)}
    num_records = -(-settings.num_steps // settings.record_every)
    needed = num_lanes * num_records * sum(sizes.get(field, scalar) for field in settings.record)
    limit = _device_memory()
    if needed > limit:
        raise ValueError(
            f"the history would take {needed / 2**30:,.1f} GiB, the device has {limit / 2**30:,.1f}: "
            "raise `record_every`, record fewer fields, or run fewer lanes at a time."
        )


def _device_memory() -> int:
    """The memory of the device in bytes; that of the machine if the device does not report it."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return int(stats["bytes_limit"])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
