"""Whether a gradient is right: against reverse mode in float64, with a tolerance that is measured."""

import contextlib
import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgd.gradcheck import autopsy, diagnose, rounding, witness
from jaxgd.gradcheck.form import by_path, compare_form, paths
from jaxgd.gradcheck.functions import UNTRACEABLE, gradient_of, loss_of
from jaxgd.gradcheck.inputs import Arrays, Point, is_floating, precision, take_apart
from jaxgd.gradcheck.report import Finding, GradientReport, Kind, LeafReport
from jaxgd.gradcheck.where import where

EPS64 = float(np.finfo(np.float64).eps)


def check_gradient(
    loss: Callable[..., Any],
    grad: Callable[..., Any],
    params: Any,
    *args: Any,
    key: jax.Array | None = None,
    order: int = 1,
) -> GradientReport:
    """Whether `grad` is the gradient of `loss`; where not, and which mistake.

    Both are evaluated in float64 on exactly upcast inputs, whatever their dtype and the x64 flag, and compared
    entry by entry with reverse mode. The tolerance of each entry is measured: how far float32 and float64 part at
    nearby points says how much rounding that entry has. Slopes of the values of the loss alone are the second
    witness: they overrule a wrong rule in the loss, tell a kink from a mistake, and decide alone where the loss
    cannot be traced. A wrong gradient is explained by edits of the right one, each proved at a second point.

    Args:
      loss: `(params, *args) -> []`.
      grad: `(params, *args) -> a tree like params`. With `order=2` this or a Hessian-vector product
        `(params, vector, *args) -> a tree like params`.
      params: a tree with floating leaves; others are held.
      args: trees: data, coefficients, labels. Floating leaves are upcast, others passed as they are.
      key: of the random directions and points, which are otherwise the same each time.
      order: 1, or 2 to check the derivative of `grad`, or a Hessian-vector product.

    Returns:
      The report; `str()` of it is a table.

    Raises:
      TypeError: `loss` or `grad` is no function, or `params` has no real floating leaf.
      ValueError: the loss is no scalar, raises, or is not finite at `params`; `params` hold NaN or infinity;
        `order` is neither 1 nor 2.
    """
    for name, function in (("loss", loss), ("grad", grad)):
        if not callable(function):
            raise TypeError(f"`{name}` must be a function (params, *args), got {type(function).__name__}.")
    if order not in (1, 2):
        raise ValueError(f"`order` must be 1 or 2, got {order!r}.")
    if order == 2:
        takes_vector = not _accepts(grad, params, *args) and _accepts(grad, params, params, *args)
        loss, grad = _second_order(loss, grad, takes_vector)
    seed = np.asarray(jax.random.key_data(key)).ravel().tolist() if key is not None else 0
    return _Check(loss, grad, params, args, np.random.default_rng(seed)).run()


def assert_gradient(
    loss: Callable[..., Any],
    grad: Callable[..., Any],
    params: Any,
    *args: Any,
    key: jax.Array | None = None,
    order: int = 1,
) -> None:
    """`check_gradient` for test suites.

    Args:
      loss: see `check_gradient`.
      grad: see `check_gradient`.
      params: see `check_gradient`.
      args: see `check_gradient`.
      key: see `check_gradient`.
      order: see `check_gradient`.

    Raises:
      AssertionError: the gradient is wrong; the message is the report.
      TypeError: see `check_gradient`.
      ValueError: see `check_gradient`.
    """
    __tracebackhide__ = True
    report = check_gradient(loss, grad, params, *args, key=key, order=order)
    if not report.ok:
        raise AssertionError(str(report))


def _accepts(function: Callable[..., Any], *args: Any) -> bool:
    try:
        inspect.signature(function).bind(*args)
    except TypeError:
        return False
    except ValueError:  # no signature to be had
        return True
    return True


@functools.lru_cache(maxsize=128)
def _second_order(
    loss: Callable[..., Any], grad: Callable[..., Any], takes_vector: bool
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The slope of the loss along a fixed vector of signs, and its gradient: a Hessian-vector product."""

    def vector_like(params: Any) -> Any:
        rng = np.random.default_rng(2)
        return jax.tree.map(lambda p: jnp.asarray(rng.choice([-1.0, 1.0], np.shape(p)), jnp.asarray(p).dtype), params)

    def slope(params: Any, *args: Any) -> Any:
        tangents = jax.tree.map(jnp.multiply, jax.grad(loss)(params, *args), vector_like(params))
        return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(tangents))

    def product(params: Any, *args: Any) -> Any:
        if takes_vector:
            return grad(params, vector_like(params), *args)
        return jax.jvp(lambda q: grad(q, *args), (params,), (vector_like(params),))[1]

    return slope, product


STATEFUL = "a second call gave another answer: the gradient draws random numbers or keeps state."


class _LossFacts(NamedTuple):
    """What the program of a loss says about itself, read once for inputs of given shapes.

    Attributes:
      shape: of what it returns.
      dtype: of what it returns.
      unit: the rounding unit of the coarsest dtype that it computes in.
      rules: its own rules of differentiation, in words.
    """

    shape: tuple[int, ...]
    dtype: Any
    unit: float
    rules: tuple[str, ...]


class _GradientFacts(NamedTuple):
    """What the program of a gradient says about itself, read once for inputs of given shapes.

    Attributes:
      tree: shapes of what it returns, or None where it cannot be traced.
      stateful: whether two traces differ.
      unit: the rounding unit of the coarsest dtype that it computes in.
    """

    tree: Any
    stateful: bool
    unit: float


@dataclasses.dataclass
class _Evidence:
    """Both gradients at one point, in float64."""

    hand: Arrays
    reference: Arrays
    tolerance: Arrays

    def bad(self, leaf: int) -> Any:
        """Entries that differ, as a mask."""
        with np.errstate(invalid="ignore"):
            return ~(np.abs(self.hand[leaf] - self.reference[leaf]) <= self.tolerance[leaf])


class _Check:
    """One check, from the form of the answer to the diagnosis."""

    def __init__(
        self,
        loss: Callable[..., Any],
        grad: Callable[..., Any],
        params: Any,
        args: Sequence[Any],
        rng: np.random.Generator,
    ) -> None:
        self.params, self.args, self.rng = params, args, rng
        self.layout, self.native, self.names = take_apart(params, args)
        self.loss, self.grad = loss_of(loss), gradient_of(grad)
        for name, leaf in zip(self.names, self.native.params, strict=True):
            values = np.asarray(leaf, np.float64)
            if not np.isfinite(values).all():
                index = [int(i) for i in np.argwhere(~np.isfinite(values))[0]]
                at = f" at {index}" if index else ""
                raise ValueError(f"`params{name}` must be finite, got {values[tuple(index)]}{at}.")
        self.base = self.native.cast(np.float64)
        self.findings: list[Finding] = []
        self.explained: set[int] = set()
        self.through = False
        self.scales = [_scale(leaf) for leaf in self.base.params]

    def run(self) -> GradientReport:
        """The report."""
        along, slopes = self._loss_slopes()
        form = self._form()
        if form is not None:
            return form
        if not self.loss.traceable:
            return self._by_values_alone()
        hand, reference = self._float64(self.base)
        if not self._repeats(hand):
            return self._hopeless(Kind.RANDOM, STATEFUL)
        tolerances, near = self._measure(hand, reference)
        evidence = _Evidence(hand, reference, tolerances)
        # A mistake is wrong at every point; a kink is met at one; values kept from an earlier call are right there.
        here = [evidence.bad(i) for i in range(len(hand))]
        order = slopes.order(_dot(hand, along)) if _finite(hand) else None
        wrong = [i for i in range(len(hand)) if here[i].any() or near[i].any()]
        reverse_doubted = not slopes.agrees(_dot(reference, along)) and not slopes.kinked
        if wrong or reverse_doubted:
            wrong = self._judge(evidence, here, near, (along, slopes), wrong)
        elif slopes.kinked:
            self._add("", Kind.KINK, "the loss has a kink at this point; both sides have a slope of their own.", False)
        if not wrong:
            self._precision(hand, reference)
        leaves = []
        for i, name in enumerate(self.names):
            size = float(np.max(np.abs(evidence.reference[i]), initial=0.0))
            difference = float(np.max(np.abs(hand[i] - evidence.reference[i]), initial=0.0))
            seen = float(np.max(evidence.tolerance[i], initial=0.0))
            leaves.append(LeafReport(name, _ratio(difference, size), _ratio(seen, size), i not in wrong))
        return self._report(tuple(leaves), order, "reverse mode in float64 and values of the loss")

    def _report(self, leaves: tuple[LeafReport, ...], order: float | None, reference: str) -> GradientReport:
        findings = tuple(sorted(self.findings, key=lambda finding: not finding.wrong))
        blamed = {finding.leaf for finding in findings if finding.wrong}
        leaves = tuple(leaf._replace(ok=leaf.ok and leaf.leaf not in blamed) for leaf in leaves)
        ok = not blamed and all(leaf.ok for leaf in leaves)
        return GradientReport(ok, findings, leaves, order, reference)

    def _add(self, leaf: str, kind: Kind, message: str, wrong: bool = True) -> None:
        self.findings.append(Finding(leaf, kind, message, wrong))

    # The form of both answers.

    def _known(self) -> Any:
        return self.layout, autopsy.shapes_of(self.native), jax.config.read("jax_enable_x64")

    def _loss_slopes(self) -> tuple[Arrays, witness.Slopes]:
        """A random direction and the slopes of the loss along it; the loss must be one finite number."""
        known = self._known()
        with _blaming_the_loss():
            if known not in self.loss.facts:
                self.loss.facts[known] = self._read_loss()
        self.loss_facts = self.loss.facts[known]
        shape, dtype = self.loss_facts.shape, self.loss_facts.dtype
        if shape != () or not jnp.issubdtype(dtype, jnp.floating):
            raise ValueError(f"`loss` must return a floating scalar [], got {dtype}{list(shape)}.")
        with _blaming_the_loss():
            direction, slopes = self._slopes(self._direction(range(len(self.names))))
        if not np.isfinite(slopes.value):
            raise ValueError(f"`loss` must be finite at `params`, got {slopes.value}.")
        return direction, slopes

    def _form(self) -> GradientReport | None:
        """Tree, shapes, dtypes, the same twice; a report where nothing can be compared."""
        known = self._known()
        try:
            if known not in self.grad.facts:
                self.grad.facts[known] = self._read_gradient()
            self.grad_facts = self.grad.facts[known]
            tree = self.grad_facts.tree
            if tree is None:
                tree = self._grad_tree(self.native)
        except Exception as error:
            return self._hopeless(Kind.RAISED, f"`grad` raised {type(error).__name__}: {error}")
        return self._compare_form(tree)

    def _read_loss(self) -> _LossFacts:
        """Trace the loss; run it where it cannot be traced."""
        with precision(np.float64):
            try:
                program = jax.make_jaxpr(lambda point: self.loss.scalar(self.layout, point))(self.base)
            except UNTRACEABLE:
                self.loss.traceable = False
                value = np.asarray(self.loss.scalar(self.layout, self.base))
                return _LossFacts(value.shape, value.dtype, EPS64, ())
        (out,) = program.out_avals
        return _LossFacts(out.shape, out.dtype, autopsy.coarsest(program), tuple(autopsy.hidden_rules(program)))

    def _read_gradient(self) -> _GradientFacts:
        """Trace the gradient; run it where it cannot be traced."""
        try:
            first, tree = jax.make_jaxpr(self._grad_tree, return_shape=True)(self.native)
        except UNTRACEABLE:
            self.grad.traceable = False
            with precision(np.float64):
                leaves = jax.tree.leaves(self._grad_tree(self.base))
            units = (float(jnp.finfo(leaf.dtype).eps) for leaf in leaves if is_floating(leaf))
            return _GradientFacts(None, False, max(units, default=EPS64))
        second = jax.make_jaxpr(lambda point: self._grad_tree(point))(self.native)
        with precision(np.float64):
            unit = autopsy.coarsest(jax.make_jaxpr(self._grad_tree)(self.base))
        return _GradientFacts(tree, not autopsy.same_program(first, second), unit)

    def _grad_tree(self, point: Point) -> Any:
        return self.grad.tree(self.layout, point)

    def _hopeless(self, kind: Kind, message: str) -> GradientReport:
        self._add("", kind, message)
        leaves = tuple(LeafReport(name, float("inf"), float("inf"), False) for name in self.names)
        return self._report(leaves, None, "its form alone")

    def _compare_form(self, tree: Any) -> GradientReport | None:
        form = compare_form(tree, self.params, self.names, self._values_of_leaf, dtypes=self.grad.traceable)
        self.findings.extend(form.findings)
        fatal = [finding for finding in form.findings if finding.kind is not Kind.DTYPE]
        if not fatal:
            return None
        leaves = tuple(
            LeafReport(name, 0.0 if comparable else float("inf"), float("inf"), comparable)
            for name, comparable in zip(self.names, form.comparable, strict=True)
        )
        return self._report(leaves, None, "its form alone")

    def _values_of_leaf(self, name: str) -> tuple[Any, Any] | None:
        """What the gradient function returns for a leaf, and the right gradient; None where they are not known."""
        if not self.loss.traceable:
            return None
        right = self.loss.reverse(self.layout, self.base, np.float64)[self.names.index(name)]
        try:
            with precision(np.float64):
                tree = self._grad_tree(self.base)
        except Exception:
            return None
        return np.asarray(by_path(tree)[name], np.float64), right

    # Numbers.

    def _float64(self, point: Point) -> tuple[Arrays, Arrays]:
        """Both gradients in float64."""
        hand, reference = self._gradients(point, np.float64)
        return [np.asarray(leaf, np.float64) for leaf in hand], reference

    def _gradients(self, point: Point, dtype: Any) -> tuple[Arrays, Arrays]:
        return self._hand(point, dtype), self.loss.reverse(self.layout, point, dtype)

    def _hand(self, point: Point, dtype: Any) -> Arrays:
        """The gradient's leaves for floating parameters."""
        return self._only_floating(self.grad.leaves(self.layout, point, dtype))

    def _only_floating(self, leaves: Arrays) -> Arrays:
        if len(leaves) == len(self.names):
            return leaves
        roles = self.layout.roles[: len(paths(self.params))]
        return [leaf for leaf, role in zip(leaves, roles, strict=True) if role == "param"]

    def _measure(self, hand: Arrays, reference: Arrays) -> tuple[Arrays, list[Any]]:
        """The tolerance of each entry, and which entries differ at the nearby points, as masks."""
        spread = rounding.start(self.base.params)
        for _ in range(rounding.NUM_NEARBY):
            draws = [self.rng.random(leaf.shape, np.float32) for leaf in self.base.params]
            point = self.base._replace(params=rounding.nearby(self.base.params, draws)).cast(np.float32)
            spread = rounding.fold(*self._float64(point.cast(np.float64)), self._gradients(point, np.float32), spread)
        tolerances = [np.asarray(t) for t in rounding.tolerances(hand, reference, spread.rough, self._unit())]
        return tolerances, [np.asarray(gap) > 2 * tol for gap, tol in zip(spread.close, tolerances, strict=True)]

    def _unit(self) -> float:
        """The rounding unit of the float64 runs: that of the coarsest dtype that is meant to be there."""
        native = max(float(jnp.finfo(jnp.result_type(leaf)).eps) for leaf in self.native.params)
        meant = self.grad_facts.unit if self.grad_facts.unit <= native else EPS64
        return max(EPS64, self.loss_facts.unit, meant)

    def _direction(self, leaves: Any) -> Arrays:
        """A random direction in which each parameter moves in proportion to its size."""
        chosen = set(leaves)
        return [
            scale * self.rng.normal(size=leaf.shape) if i in chosen else np.zeros_like(leaf)
            for i, (leaf, scale) in enumerate(zip(self.base.params, self.scales, strict=True))
        ]

    def _slopes(self, direction: Arrays) -> tuple[Arrays, witness.Slopes]:
        point, ahead = self.base, direction
        if self.loss.traceable:  # on the device once, not for every round
            with precision(np.float64):
                point, ahead = jax.tree.map(jnp.asarray, (point, ahead))

        def along(steps: witness.Values) -> witness.Values:
            return np.asarray(self.loss.values(self.layout, point, ahead, steps), np.float64)

        return direction, witness.slopes(along, self.loss_facts.unit)

    # Verdict.

    def _judge(
        self,
        evidence: _Evidence,
        here: list[Any],
        near: list[Any],
        slopes: tuple[Arrays, witness.Slopes],
        wrong: list[int],
    ) -> list[int]:
        """Which leaves are wrong after all, with their findings; may put a better reference into `evidence`."""
        if self.loss_facts.rules:
            self._see_through(evidence)
        if self.through:
            here = near = [evidence.bad(i) for i in range(len(here))]
            wrong = [i for i, bad in enumerate(here) if bad.any()]
        elif not wrong:
            self._add(
                "",
                Kind.REFERENCE,
                "gradient and reverse mode agree, but neither is the slope of the loss: along a random direction it is "
                f"{slopes[1].central:.10g}, theirs {_dot(evidence.reference, slopes[0]):.10g}.\n"
                "A rule inside the loss (custom_jvp, a callback's) is wrong.",
            )
            return list(range(len(here)))
        verdicts = []
        for i in wrong:
            if self._is_wrong(i, evidence, here[i], near[i]):
                verdicts.append(i)
        if verdicts:
            self._explain(evidence, verdicts, here, near)
        return verdicts

    def _see_through(self, evidence: _Evidence) -> None:
        """Take the reference from the loss without its custom rules and stops, and say what they do."""
        declared, rules = evidence.reference, self.loss_facts.rules
        through = self._autopsy(through=True).gradient(self.base)
        with np.errstate(invalid="ignore"):
            differs = [
                i
                for i, (a, b) in enumerate(zip(declared, through, strict=True))
                if not (
                    np.abs(a - b) <= np.maximum(evidence.tolerance[i], 1e-13 * np.max(np.abs(b), initial=0.0))
                ).all()
            ]
        usable = _finite(through)
        self.through = usable and bool(differs)
        if self.through:
            evidence.reference = through
        bad = [i for i in range(len(declared)) if evidence.bad(i).any()]
        stops = [rule for rule in rules if rule.startswith("stop_gradient")]
        kind = Kind.STOP_GRADIENT if stops else Kind.REFERENCE
        for i in differs if usable else []:
            name = self.names[i] or "params"
            if i not in bad:
                what = "stops part of it" if stops else "has a wrong rule"
                message = (
                    f"{name} is right, but jax.grad of the loss is not: the loss {what} in {rules[-1]}. jax.grad is "
                    f"off by a relative {_ratio(_gap(declared[i], through[i]), _size(through[i])):.1e}."
                )
                self._add(self.names[i], kind, message, wrong=False)
            elif (np.abs(evidence.hand[i] - declared[i]) <= evidence.tolerance[i]).all():
                size = _ratio(_gap(declared[i], through[i]), _size(through[i]))
                if stops:
                    message = (
                        f"{name} agrees with jax.grad, but not with the values of the loss (relative {size:.1e}): "
                        f"{stops[-1]} holds a part back.\nIf that is on purpose, pass that part as an argument."
                    )
                else:
                    message = (
                        f"{name} shares the mistake of a custom rule in the loss ({rules[-1]}): both differ from the "
                        f"derivative of what it computes by a relative {size:.1e}."
                    )
                self._add(self.names[i], kind, message)
                self.explained.add(i)

    def _is_wrong(self, leaf: int, evidence: _Evidence, here: Any, near: Any) -> bool:
        """Whether the values of the loss leave the leaf wrong; a note where they do not."""
        if leaf in self.explained:
            return True
        hand, reference = evidence.hand[leaf], evidence.reference[leaf]
        name = self.names[leaf] or "params"
        disputed = here if here.any() else near
        if not np.isfinite(hand).all():
            if np.isfinite(reference).all():
                bad = ~np.isfinite(hand)
                self._add(
                    self.names[leaf],
                    Kind.NONFINITE,
                    f"{name} is {hand[bad][0]} in {where(bad)}, where the gradient is finite.",
                )
            else:
                self._add(
                    self.names[leaf], Kind.NONFINITE, f"{name}: neither the gradient nor reverse mode is finite here."
                )
            self.explained.add(leaf)
            return True
        signs = np.where(np.isfinite(reference), np.sign(hand - reference), 1.0)
        direction = [np.zeros_like(p) for p in self.base.params]
        direction[leaf] = np.where(disputed, signs * self.scales[leaf], 0.0)
        slopes = self._slopes(direction)[1]
        by_hand = float(np.sum(hand * direction[leaf]))
        if not np.isfinite(reference).all():
            if slopes.agrees(by_hand) or self._between(slopes, by_hand):
                self._add(
                    self.names[leaf],
                    Kind.REFERENCE,
                    f"reverse mode of the loss gives {reference[~np.isfinite(reference)][0]} in "
                    f"{where(~np.isfinite(reference))} of {name}; the values of the loss prove the gradient right.",
                    wrong=False,
                )
                evidence.reference[leaf] = np.where(np.isfinite(reference), reference, hand)
                return bool((disputed & np.isfinite(reference)).any())
            return True
        by_reverse = float(np.sum(reference * direction[leaf]))
        if slopes.kinked and not near.any() and self._between(slopes, by_hand):
            sides = sorted((slopes.left, slopes.right))
            self._add(
                self.names[leaf],
                Kind.KINK,
                f"{name}: the loss has a kink in {where(disputed)}; the slopes on its sides are {sides[0]:.6g} and "
                f"{sides[1]:.6g} along it, the gradient says {by_hand:.6g}, reverse mode {by_reverse:.6g}. Both may.",
                wrong=False,
            )
            return False
        if slopes.agrees(by_hand) and not slopes.agrees(by_reverse) and not slopes.kinked:
            self._add(
                self.names[leaf],
                Kind.REFERENCE,
                f"{name} is right, by the values of the loss (slope {slopes.central:.10g}); reverse mode of the "
                f"loss is wrong ({by_reverse:.10g}): look for a custom rule in it.",
                wrong=False,
            )
            evidence.reference[leaf] = hand
            return False
        return True

    @staticmethod
    def _between(slopes: witness.Slopes, slope: float) -> bool:
        low, high = sorted((slopes.left, slopes.right))
        slack = 20 * slopes.side_error + 1e-5 * max(abs(low), abs(high))
        return slopes.kinked and low - slack <= slope <= high + slack

    def _explain(self, evidence: _Evidence, wrong: list[int], here: list[Any], near: list[Any]) -> None:
        rest = [i for i in wrong if i not in self.explained]
        if not rest:
            return
        if self.grad_facts.unit > max(EPS64, self.loss_facts.unit) and self._merely_rough(evidence, rest):
            return
        case = diagnose.Case(
            names=self.names,
            labels=self._labels(),
            layout=self.layout,
            point=self.base,
            hand=evidence.hand,
            reference=evidence.reference,
            bad=[h if h.any() else n for h, n in zip(here, near, strict=True)],
            wrong=rest,
            both=lambda point: (self._hand(point, np.float64), self._right(point)),
            right=self._right,
            elsewhere=self._elsewhere,
            autopsy=self._autopsy(through=self.through),
        )
        self.findings.extend(diagnose.explain(case))

    def _right(self, point: Point) -> Arrays:
        """The right gradient at another point."""
        if self.through:
            return self._autopsy(through=True).gradient(point)
        return self.loss.reverse(self.layout, point, np.float64)

    def _autopsy(self, *, through: bool) -> autopsy.Autopsy:
        return autopsy.autopsy_of(self.loss, self.layout, autopsy.shapes_of(self.base), through=through)

    def _merely_rough(self, evidence: _Evidence, wrong: list[int]) -> bool:
        """Whether a cast inside the gradient explains all that differs."""
        rough = [
            _gap(evidence.hand[i], evidence.reference[i]) <= 256 * self.grad_facts.unit * _size(evidence.reference[i])
            for i in wrong
        ]
        if not all(rough):
            return False
        dtype = autopsy.name_of_unit(self.grad_facts.unit)
        for i in wrong:
            size = _ratio(_gap(evidence.hand[i], evidence.reference[i]), _size(evidence.reference[i]))
            self._add(
                self.names[i],
                Kind.PRECISION,
                f"{self.names[i] or 'params'} is computed in {dtype} in between: right to a relative {size:.1e} only.",
            )
        return True

    def _labels(self) -> list[str]:
        """The path of each floating leaf of the arguments."""
        roles = self.layout.roles[len(paths(self.params)) :]
        return [f"args{path}" for path, role in zip(paths(tuple(self.args)), roles, strict=True) if role == "float"]

    def _elsewhere(self, scale: float) -> Point:
        """A point far enough for a coincidence at the first to show."""
        # A distance of 2 is to the other side of 0: no sign stays what it was.
        moved = [
            (leaf if scale < 1 else -leaf) + min(scale, 0.5) * s * self.rng.normal(size=leaf.shape)
            for leaf, s in zip(self.base.params, self.scales, strict=True)
        ]
        return Point(moved, self.base.floats, self.base.arrays)

    def _precision(self, hand: Arrays, reference: Arrays) -> None:
        """The gradient in its own dtype, beside reverse mode in it; and the same on a second call."""
        if all(jnp.result_type(leaf) == np.float64 for leaf in self.native.params):
            return
        native, in_reverse = self._gradients(self.native, None)
        for i, name in enumerate(self.names):
            got, other = np.asarray(native[i], np.float64), np.asarray(in_reverse[i], np.float64)
            eps = float(jnp.finfo(jnp.asarray(self.native.params[i]).dtype).eps)
            size = _size(hand[i])
            label = name or "params"
            if not np.isfinite(got).all():
                lost = ~np.isfinite(got)
                shared = not np.isfinite(other).all()
                also = ", and so is reverse mode" if shared else ""
                self._add(
                    name,
                    Kind.OVERFLOW,
                    f"{label} is {got[lost][0]} in {where(lost)} in {native[i].dtype}, and finite in float64{also}.",
                    wrong=not shared,
                )
                continue
            with np.errstate(all="ignore"):
                error, error_of_reverse = _gap(got, hand[i]), _gap(other, reference[i])
            if error > 256 * max(error_of_reverse, eps * size) and error > eps**0.5 * size:
                self._add(
                    name,
                    Kind.CANCELLATION,
                    f"{label} loses digits in {native[i].dtype}: it is off by a relative {_ratio(error, size):.1e}, "
                    f"reverse mode by {_ratio(error_of_reverse, size):.1e}; in float64 both agree.",
                )

    def _repeats(self, first: Arrays) -> bool:
        """Whether the gradient at the point is the same when it is asked for again."""
        return not self.grad_facts.stateful and _same(first, self._hand(self.base, np.float64))

    # Without reverse mode.

    def _by_values_alone(self) -> GradientReport:
        hand = [np.asarray(leaf, np.float64) for leaf in self._hand(self.base, np.float64)]
        if not self._repeats(hand):
            return self._hopeless(Kind.RANDOM, STATEFUL)
        leaves = []
        orders = []
        native = self._hand(self.native, None)
        unit = max((float(jnp.finfo(leaf.dtype).eps) for leaf in native), default=EPS64)
        for i, name in enumerate(self.names):
            direction, slopes = self._slopes(self._direction([i]))
            if not np.isfinite(hand[i]).all():
                self._add(name, Kind.NONFINITE, f"{name or 'params'} is not finite in {where(~np.isfinite(hand[i]))}.")
                leaves.append(LeafReport(name, float("inf"), float("inf"), False))
                continue
            slope = _dot(hand, direction)
            size = float(np.sqrt(np.sum((hand[i] * direction[i]) ** 2))) or abs(slopes.central)
            slack = rounding.MARGIN * max(unit, EPS64) * max(size, abs(slope)) if unit > EPS64 else 0.0
            fine = slopes.agrees(slope) or abs(slope - slopes.central) <= slack
            if not fine and self._between(slopes, slope):
                self._add(
                    name,
                    Kind.KINK,
                    f"{name or 'params'}: the loss has a kink here; the slope given is one of its own.",
                    False,
                )
                fine = True
            if not fine:
                self._add(
                    name,
                    Kind.UNKNOWN,
                    f"{name or 'params'} says {slope:.10g} along a random direction, the values of the loss "
                    f"{slopes.central:.10g}; without reverse mode no more can be told.",
                )
            orders.append(slopes.order(slope))
            leaves.append(
                LeafReport(
                    name, _ratio(abs(slope - slopes.central), size), _ratio(8 * slopes.error + slack, size), fine
                )
            )
        seen = [order for order in orders if order is not None]
        return self._report(
            tuple(leaves),
            min(seen) if seen else None,
            "values of the loss alone (it cannot be traced by jax)",
        )


@contextlib.contextmanager
def _blaming_the_loss() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise ValueError(f"`loss` raised {type(error).__name__}: {error}") from error


def _scale(leaf: Any) -> Any:
    """How far an entry may move: its own size, and no less than a part of the leaf's."""
    rms = float(np.sqrt(np.mean(leaf**2))) if leaf.size else 0.0
    return np.maximum(np.abs(leaf), 0.1 * rms) if rms > 0 else np.ones_like(leaf)


def _dot(left: Arrays, right: Arrays) -> float:
    return float(sum(np.sum(a * b) for a, b in zip(left, right, strict=True)))


def _finite(leaves: Arrays) -> bool:
    return all(np.isfinite(leaf).all() for leaf in leaves)


def _same(left: Arrays, right: Arrays) -> bool:
    return all(np.array_equal(np.asarray(a), np.asarray(b), equal_nan=True) for a, b in zip(left, right, strict=True))


def _gap(left: Any, right: Any) -> float:
    return float(np.max(np.abs(left - right), initial=0.0))


def _size(leaf: Any) -> float:
    return float(np.max(np.abs(leaf), initial=0.0))


def _ratio(value: float, size: float) -> float:
    return 0.0 if value == 0 else value / size if size > 0 else float("inf")
