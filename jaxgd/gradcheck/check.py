"""Whether a gradient is right: form, reference, comparison, explanation, report."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxgd.gradcheck import facts, reference, untraced
from jaxgd.gradcheck.answer import by_path
from jaxgd.gradcheck.budget import Budget, budget_of
from jaxgd.gradcheck.causes import causes
from jaxgd.gradcheck.compare import compare, contradicts
from jaxgd.gradcheck.conjugate import whole
from jaxgd.gradcheck.disputed import Comparison
from jaxgd.gradcheck.finding import Kind
from jaxgd.gradcheck.form import compare_form
from jaxgd.gradcheck.functions import BadLoss
from jaxgd.gradcheck.inputs import Arrays, NoFloatingLeaf
from jaxgd.gradcheck.native import in_native_dtype
from jaxgd.gradcheck.pair import GradientRaised, Pair, all_finite, dot, gap, pair_of, ratio, size
from jaxgd.gradcheck.precision import precision
from jaxgd.gradcheck.reference import Gradients
from jaxgd.gradcheck.report import GradientReport, LeafReport, Status, not_checked, not_comparable, report_of
from jaxgd.gradcheck.rules import inside, torch_inside
from jaxgd.gradcheck.second_order import accepts, second_order
from jaxgd.gradcheck.slopes import Slopes

WITHOUT_ORDER = {Kind.KINK, Kind.STOP_GRADIENT, Kind.SET, Kind.SURROGATE}
"""Notes beside which no Taylor order is given: at a kink it is 1 for every gradient, and it is 1 for gradients that
hold a part constant on purpose."""


def check_gradient(
    loss: Callable[..., Any],
    grad: Callable[..., Any],
    params: Any,
    *args: Any,
    key: jax.Array | None = None,
    order: int = 1,
    seconds: float = 5.0,
    argnums: int | tuple[int, ...] = 0,
    has_aux: bool = False,
    **kwargs: Any,
) -> GradientReport:
    """Check whether `grad` is the gradient of `loss`. If it is not, find the mistake.

    Both functions are evaluated in float64, for inputs of any dtype and with or without the x64 flag. The gradient is
    compared entry by entry with reverse-mode differentiation of the loss. The tolerance of each entry is measured: the
    difference between float32 and float64 at nearby points shows the rounding error of the entry.

    Finite differences of the loss are a second reference, which does not depend on any derivative rule. They detect a
    wrong derivative rule inside the loss, and they distinguish a kink from a mistake. If JAX cannot trace the loss,
    they are the only reference. To explain a wrong gradient, the checker applies known mistakes to the right gradient,
    and confirms an explanation at a second point.

    Both functions may use JAX, NumPy, autograd or PyTorch, and may take arrays or tensors of any of these libraries. A
    function that cannot be evaluated in float64, such as a kernel with a fixed dtype, is checked in the dtype of its
    inputs, and the report says so.

    Args:
      loss: `(params, *args, **kwargs) -> []`; a result of shape `[1]` or `[1, 1]` is accepted as well.
      grad: `(params, *args, **kwargs) -> a tree like params`, or `(value, gradient)` as `jax.value_and_grad` returns
        it. With `order=2`, the gradient or a Hessian-vector product
        `(params, vector, *args, **kwargs) -> a tree like params`.
      params: a tree with floating or complex leaves; other leaves are constants. The gradient with respect to a complex
        `z = x + i y` is `df/dx - i df/dy`, as in `jax.grad`; for tensors of PyTorch it is `df/dx + i df/dy`.
      args: further arguments (trees), such as data, coefficients and labels. Floating leaves are converted to float64;
        other leaves are passed unchanged.
      key: the random key for directions and points; None always uses the same ones.
      order: 1, or 2 to check the derivative of `grad`, or a Hessian-vector product.
      seconds: a limit for the search for the mistake in a wrong gradient, in CPU time of this thread; the limit in wall
        time is four times as long. The report says if the search was stopped. The verdict does not depend on it.
      argnums: as in `jax.grad`: the position of the parameters among `(params, *args)`, or several positions, for
        which `grad` returns a tuple.
      has_aux: as in `jax.grad`: whether `loss` returns `(value, auxiliary output)`. Then `grad` may return
        `(gradient, auxiliary output)`.
      kwargs: further keyword arguments of both functions. If a name is also that of an argument of `check_gradient`,
        bind it with `functools.partial` instead.

    Returns:
      The report; `str(report)` is a table.

    Raises:
      TypeError: `loss` or `grad` is not a function, `key` is not a key, or `params` has no floating leaf.
      ValueError: the loss is not a scalar, raises, has another value when it is called again, or is not finite at
        `params`; `params` hold NaN or infinity; `order` is neither 1 nor 2; `seconds` is negative; `argnums` is not a
        position of `(params, *args)`.
    """
    for name, function in (("loss", loss), ("grad", grad)):
        if not callable(function):
            raise TypeError(f"`{name}` must be a function (params, *args), got {type(function).__name__}.")
    if order not in (1, 2):
        raise ValueError(f"`order` must be 1 or 2, got {order!r}.")
    if not (isinstance(seconds, (int, float)) and seconds >= 0):
        raise ValueError(f"`seconds` must be a number that is at least 0, got {seconds!r}.")
    argnums = _positions(argnums, len(args) + 1)
    if order == 2:
        if argnums != 0 or has_aux:
            raise ValueError("with `order=2`, `argnums` must be 0 and `has_aux` False: bind the rest in a function.")
        takes_vector = not accepts(grad, params, *args, **kwargs) and accepts(grad, params, params, *args, **kwargs)
        loss, grad = second_order(loss, grad, takes_vector)
    try:
        seed = np.asarray(jax.random.key_data(key)).ravel().tolist() if key is not None else 0
    except TypeError:
        raise TypeError(f"`key` must be a key of jax.random, got {type(key).__name__}.") from None
    try:
        pair = pair_of(loss, grad, (params, *args), kwargs, argnums=argnums, has_aux=has_aux)
        return _check(pair, np.random.default_rng(seed), seconds)
    except GradientRaised as error:
        return not_comparable(error.names, Kind.RAISED, str(error))
    except (BadLoss, NoFloatingLeaf) as error:  # names of this package's own would be the first word of a traceback
        public = ValueError if isinstance(error, ValueError) else TypeError
        raise public(str(error)) from error.__cause__


def assert_gradient(
    loss: Callable[..., Any], grad: Callable[..., Any], params: Any, *args: Any, **options: Any
) -> None:
    """Raise an AssertionError if `check_gradient` finds that the gradient is wrong. For test suites.

    Args: as `check_gradient`; `options` are its keyword arguments.

    Raises:
      AssertionError: the gradient is wrong; the message is the report.
      TypeError: as `check_gradient`.
      ValueError: as `check_gradient`.
    """
    __tracebackhide__ = True
    report = check_gradient(loss, grad, params, *args, **options)
    if not report.ok:
        raise AssertionError(str(report))


def _positions(argnums: Any, count: int) -> int | tuple[int, ...]:
    """`argnums` as positions from the left."""
    several = isinstance(argnums, (tuple, list))
    given = tuple(argnums) if several else (argnums,)
    if not given or not all(isinstance(one, (int, np.integer)) and -count <= one < count for one in given):
        possible = f"positions from 0 to {count - 1}" if count > 1 else "0, as there is one positional argument"
        raise ValueError(f"`argnums` must be {possible}, got {argnums!r}.")
    positions = tuple(int(one) % count for one in given)
    if len(set(positions)) < len(positions):
        raise ValueError(f"`argnums` must be different positions, got {argnums!r}.")
    return positions if several else positions[0]


def _check(pair: Pair, rng: np.random.Generator, seconds: float) -> GradientReport:
    """From the form of the answer to the report."""
    loss = facts.loss_facts(pair)
    along = _loss_slopes(pair, rng, loss.unit)
    grad = facts.gradient_facts(pair)
    form = compare_form(
        grad.tree, pair.params, pair.layout, functools.partial(_values_of_leaf, pair), dtypes=pair.grad.traceable
    )
    if not any(form.comparable):
        return whole(report_of(form.findings, tuple(map(not_checked, pair.names)), None, "its form only"), pair.layout)
    comparable = pair.holding(form.comparable)
    if not all(form.comparable):
        along = _loss_slopes(comparable, rng, loss.unit)
    report = _check_numbers(comparable, rng, (loss, grad), along, seconds)
    by_leaf = {leaf.leaf: leaf for leaf in report.leaves}
    leaves = tuple(by_leaf.get(name, not_checked(name)) for name in pair.names)
    findings = (*form.findings, *report.findings, *facts.about_the_run(pair, loss))
    order = report.taylor_order if all(form.comparable) else None
    return whole(report_of(findings, leaves, order, report.reference), pair.layout)


def _check_numbers(
    pair: Pair,
    rng: np.random.Generator,
    programs: tuple[facts.LossFacts, facts.GradientFacts],
    along: tuple[Arrays, Slopes],
    seconds: float,
) -> GradientReport:
    """The report of the leaves that can be compared."""
    loss, grad = programs
    # One budget for all rules of the loss and for the gradient.
    until = budget_of(seconds)
    if not pair.loss.derivative:
        return _with_torch_rules(pair, untraced.by_values(pair, rng, grad, seconds), until)
    both = pair.in_float64(pair.base)
    if not facts.repeats(pair, grad, both[0]):
        return not_comparable(pair.names, Kind.RANDOM, facts.STATEFUL)
    seen = _inside(pair, both, along, until)
    if seen is not None:
        if not any(seen.rest):
            return seen.report(None)
        rest = pair.holding(seen.rest)._replace(loss=seen.pair.loss)
        return seen.report(_check_numbers(rest, rng, programs, _loss_slopes(rest, rng, loss.unit), until.left()))
    found = reference.measure(pair, rng, both, reference.unit_of(pair, loss, grad))
    outcome = compare(pair, found, loss, along)
    found = found._replace(reference=[leaf.reference for leaf in outcome.leaves])
    said = dict.fromkeys(leaf.finding for leaf in outcome.leaves if leaf.finding)
    findings = [*outcome.findings, *said]
    wrong = [i for i, leaf in enumerate(outcome.leaves) if leaf.status is Status.WRONG]
    unexplained = [i for i in wrong if not ((finding := outcome.leaves[i].finding) and finding.wrong)]
    if unexplained:
        findings += causes(pair, rng, found, unexplained, programs, seconds=seconds)
    native = [] if wrong else in_native_dtype(pair, found, rng)
    findings += native
    # The numbers of the table are those in float64; the finding has the ones of the leaf's own dtype.
    narrow = {finding.leaf for finding in native if finding.wrong}
    leaves = tuple(_leaf_report(pair, found, i, leaf, narrow) for i, leaf in enumerate(outcome.leaves))
    noted = {finding.kind for finding in findings if not finding.wrong}
    measured = all_finite(found.hand) and not along[1].kinked and not noted & WITHOUT_ORDER
    order = along[1].order(dot(found.hand, along[0])) if measured else None
    report = report_of(findings, leaves, order, facts.reference_words(pair))
    return _with_torch_rules(pair, report, until) if pair.loss.derivative == "torch" else report


def _check_until(until: Budget, *args: Any, **kwargs: Any) -> GradientReport:
    """`check_gradient` with what is left of a budget."""
    return check_gradient(*args, seconds=until.left(), **kwargs)


def _with_torch_rules(pair: Pair, report: GradientReport, until: Budget) -> GradientReport:
    """The report on a loss of PyTorch, with the wrong rules in it as the reason."""
    with contextlib.suppress(Exception):  # an error in the search may cost the cause, never the result
        found = torch_inside.explained(pair, report.findings, functools.partial(_check_until, until))
        return dataclasses.replace(report, findings=found)
    return report


def _inside(pair: Pair, both: tuple[Arrays, Arrays], along: tuple[Arrays, Slopes], until: Budget) -> inside.Seen | None:
    """Wrong rules inside the loss, which are looked for if the gradient or the slopes contradict reverse mode."""
    hand, declared = both
    direction, slopes = along
    slope = dot(declared, direction)
    doubted = not slopes.kinked and not slopes.agrees(slope)
    if doubted:
        doubted = contradicts(reference.slopes_along(pair, direction, facts.loss_facts(pair).unit, rough=True), slope)
    agree = all(gap(a, b) <= 1e-9 * size(b) for a, b in zip(hand, declared, strict=True))
    if (agree and not doubted) or not (pair.loss.way.wide and pair.loss.derivative == "reverse"):
        return None
    return inside.see_through(pair, both, functools.partial(_check_until, until), doubted=doubted)


def _values_of_leaf(pair: Pair, name: str) -> tuple[Any, Any] | None:
    """What the gradient function returns for a leaf, and the right gradient; None if they are not known."""
    if not pair.loss.derivative:
        return None
    right = pair.loss.reverse(pair.layout, pair.base, np.float64)[pair.names.index(name)]
    try:
        with precision(np.float64):
            tree = pair.grad.tree(pair.layout, pair.base)
    except Exception:
        return None
    return np.asarray(by_path(tree)[name], np.float64), right


def _loss_slopes(pair: Pair, rng: np.random.Generator, unit: float) -> tuple[Arrays, Slopes]:
    """A random direction and the slopes of the loss along it; the loss must be finite."""
    direction = pair.direction(rng, range(len(pair.names)))
    with facts.blaming_the_loss():
        slopes = reference.slopes_along(pair, direction, unit)
    if not np.isfinite(slopes.value):
        raise ValueError(f"`loss` must be finite at `params`, got {slopes.value}.")
    return direction, slopes


def _leaf_report(
    pair: Pair, found: Gradients, leaf: int, comparison: Comparison, without_numbers: set[str]
) -> LeafReport:
    path, status = pair.names[leaf], comparison.status
    if path in without_numbers or not all_finite([found.hand[leaf], found.reference[leaf]]):
        return LeafReport(path, np.nan, np.nan, status)
    if comparison.numbers is not None:
        return LeafReport(path, *comparison.numbers, status)
    # A leaf without a gradient is measured by the whole gradient.
    largest = size(found.reference[leaf]) or max(map(size, found.reference), default=0.0) or 1.0
    error = gap(found.hand[leaf], found.reference[leaf])
    return LeafReport(path, ratio(error, largest), ratio(size(found.tolerance[leaf]), largest), status)
