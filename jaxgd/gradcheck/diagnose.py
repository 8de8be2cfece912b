"""Which mistake a wrong gradient looks like: explanations tried in order, each proved at a second point."""

import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxgd.gradcheck.autopsy import Autopsy, Edit, name_of, quote
from jaxgd.gradcheck.inputs import Arrays, Layout, Point
from jaxgd.gradcheck.report import Finding, Kind
from jaxgd.gradcheck.where import where

EXACT = 1e-10
"""A misfit, over the largest entry of the leaf, that is rounding."""

PAIR_CANDIDATES = 56
"""Edits of which all pairs are tried where one does not explain the gradient."""

MAX_ROWS = 512


class Case(NamedTuple):
    """A wrong gradient.

    Attributes:
      names: path of each leaf.
      labels: path of each floating leaf of the arguments.
      layout: of the leaves.
      point: where it was found wrong, float64.
      hand: the gradient there.
      reference: the right one.
      bad: a mask a leaf.
      wrong: the leaves to explain.
      both: evaluates the gradient and the right one at a point.
      right: evaluates the right one.
      elsewhere: makes a random point at a relative distance; 2 changes all signs. With `arguments=True` the floating
        arguments move, too; labels and masks stay.
      autopsy: the loss taken apart.
      seconds: how long the search may take; a step of it that has begun is finished.
    """

    names: list[str]
    labels: list[str]
    layout: Layout
    point: Point
    hand: Arrays
    reference: Arrays
    bad: Arrays
    wrong: list[int]
    both: Callable[[Point], tuple[Arrays, Arrays]]
    right: Callable[[Point], Arrays]
    elsewhere: Callable[..., Point]
    autopsy: Autopsy
    seconds: float = float("inf")


class _Place(NamedTuple):
    """Both gradients at one point."""

    point: Point
    hand: Arrays
    right: Arrays


class Explanation(NamedTuple):
    """What reproduces a leaf.

    Attributes:
      kind: what to call it.
      words: after the name of the leaf.
    """

    kind: Kind
    words: str


def explain(case: Case) -> list[Finding]:
    """Name the mistake in each wrong leaf.

    Args:
      case: the wrong gradient.

    Returns:
      One finding a leaf; UNKNOWN where nothing reproduces it at both points.
    """
    deadline = time.monotonic() + case.seconds
    places = _places(case)
    found: dict[int, Explanation] = {}
    stopped = False
    if len(places) > 1:
        rows, changed = _Rows(case, places), _Changed(case, places)
        searches: list[Callable[[list[int]], dict[int, Explanation]]] = [
            lambda rest: _of_leaves(case, places, rest, _zero, _stale, _factor, _other_leaf, _other_order),
            lambda rest: _of_leaves(
                case, places, rest, changed.explain, _added, rows.explain, _cut_down, _some_entries
            ),
            lambda rest: _of_derivation(case, places, rest, _one_edit),
            lambda rest: _of_leaves(case, places, rest, _added_constant, _fixed),
            lambda rest: _of_a_term(case, places, rest),
            lambda rest: _of_derivation(case, places, rest, _two_edits),
        ]
        for search in searches:
            rest = [leaf for leaf in case.wrong if leaf not in found]
            stopped = bool(rest) and time.monotonic() >= deadline
            if stopped:
                break
            with np.errstate(all="ignore"):
                found.update(search(rest) if rest else {})
    findings = []
    for leaf in case.wrong:
        name = case.names[leaf] or "params"
        explanation = found.get(leaf)
        if explanation is None:
            spot = f" (it differs in {where(case.bad[leaf])})" if case.bad[leaf].any() else ""
            why = (
                f"the search for the cause was stopped after {case.seconds:g} seconds (`seconds` sets the limit)"
                if stopped
                else "no single mistake that I know explains this"
            )
            explanation = Explanation(Kind.UNKNOWN, f"is wrong{spot}; {why}.")
        findings.append(Finding(case.names[leaf], explanation.kind, f"{name} {explanation.words}"))
    return findings


def _places(case: Case) -> list[_Place]:
    """The point of the check, and two random ones where everything is finite; at the last the arguments move, too."""
    places = [_Place(case.point, case.hand, case.reference)]
    for arguments in (False, True):
        # If the loss is not finite at any other arguments, a third point with those given is better than none.
        for scale, moving in (*((s, arguments) for s in (2.0, 0.5, 0.1, 0.01, 0.5, 0.1)), (0.5, False), (0.1, False)):
            point = case.elsewhere(scale, arguments=moving)
            try:
                hand, right = case.both(point)
            except Exception:  # arguments that the functions refuse
                continue
            if all(np.isfinite(leaf).all() for leaf in (*hand, *right)):
                places.append(_Place(point, hand, right))
                break
    return places


def _fits(place: _Place, leaf: int, predicted: Any) -> bool:
    """Whether a prediction reproduces the gradient's leaf at a place, far closer than the right one does."""
    hand, right = place.hand[leaf], place.right[leaf]
    if np.shape(predicted) != np.shape(hand):
        return False
    with np.errstate(all="ignore"):
        gap = float(np.max(np.abs(hand - right), initial=0.0))
        misfit = float(np.max(np.abs(hand - predicted), initial=0.0))
        size = max(float(np.max(np.abs(hand), initial=0.0)), float(np.max(np.abs(predicted), initial=0.0)))
    if not np.isfinite(misfit):
        return False
    return misfit <= EXACT * size and (gap == 0 or misfit <= 1e-3 * gap)


def _constant(hand: Any, right: Any) -> float | None:
    """The constant `c` of `hand = c right`, if there is one."""
    with np.errstate(all="ignore"):
        top = float(np.max(np.abs(right), initial=0.0))
        if top == 0 or not np.isfinite(top):
            return None
        c = float(np.sum(hand / top * (right / top)) / np.sum((right / top) ** 2))
        misfit = float(np.max(np.abs(hand - c * right), initial=0.0))
    return c if np.isfinite(c) and misfit <= EXACT * float(np.max(np.abs(hand), initial=0.0)) else None


def _common_constant(places: list[_Place], leaf: int, predict: Callable[[_Place], Any]) -> float | None:
    """The constant by which a prediction fits at every place, if it is the same."""
    constants = []
    for place in places:
        predicted = predict(place)
        if np.shape(predicted) != np.shape(place.hand[leaf]):
            return None
        c = _constant(place.hand[leaf], predicted)
        if c is None or not _fits(place, leaf, c * predicted):
            return None
        constants.append(c)
    spread = max(constants) - min(constants)
    return constants[0] if spread <= 1e-9 * abs(constants[0]) and constants[0] != 0 else None


Attempt = Callable[[Case, list[_Place], int], Explanation | None]


def _of_leaves(case: Case, places: list[_Place], leaves: list[int], *attempts: Attempt) -> dict[int, Explanation]:
    """The first explanation of each leaf."""
    found = {}
    for leaf, attempt in itertools.product(leaves, attempts):
        if leaf not in found and (explanation := attempt(case, places, leaf)) is not None:
            found[leaf] = explanation
    return found


def _zero(case: Case, places: list[_Place], leaf: int) -> Explanation | None:
    del case
    if all(not place.hand[leaf].any() for place in places):
        return Explanation(Kind.ZERO, "is zero everywhere: it is not computed, or cut off from the loss.")
    return None


def _stale(case: Case, places: list[_Place], leaf: int) -> Explanation | None:
    first = places[0]
    kept = np.allclose(first.hand[leaf], first.right[leaf], rtol=1e-3, atol=0)
    return _fixed(case, places, leaf) if kept else None


def _fixed(case: Case, places: list[_Place], leaf: int) -> Explanation | None:
    del case
    first, second = places[0], places[1]
    if not np.array_equal(first.hand[leaf], second.hand[leaf]) or np.array_equal(first.right[leaf], second.right[leaf]):
        return None
    return Explanation(Kind.STALE, "does not change with the parameters, as the gradient does: values of another call.")


def _factor(case: Case, places: list[_Place], leaf: int) -> Explanation | None:
    c = _common_constant(places, leaf, lambda place: place.right[leaf])
    if c is None:
        return None
    count = np.size(case.hand[leaf])
    entries = f" in all {count} entries" if count > 1 else ""
    if abs(c + 1) < 1e-9:
        return Explanation(Kind.SIGN, f"is -1 times the gradient{entries}: the sign is wrong{_place(case, -1.0)}.")
    return Explanation(Kind.FACTOR, f"is {c:.4g} times the gradient{entries}: {_cause(case, c)}.")


def _other_leaf(case: Case, places: list[_Place], leaf: int) -> Explanation | None:
    shape = np.shape(case.hand[leaf])
    for other, name in enumerate(case.names):
        if other == leaf or np.size(case.reference[other]) != np.size(case.hand[leaf]) or case.hand[leaf].size < 2:
            continue
        c = _common_constant(places, leaf, lambda place, other=other: place.right[other].reshape(shape))  # type: ignore[misc]
        if c is not None:
            return Explanation(Kind.SWAPPED, f"is {_times(c)}the gradient of {name}: leaves are swapped.")
    return None


def _other_order(case: Case, places: list[_Place], leaf: int) -> Explanation | None:
    right = case.reference[leaf]
    if right.ndim == 2 and right.shape[0] == right.shape[1] and len(right) > 1:
        c = _common_constant(places, leaf, lambda place: place.right[leaf].T)
        if c is not None:
            return Explanation(Kind.TRANSPOSED, f"is {_times(c)}the transpose of the gradient.")
    if right.ndim and right.size > 1:
        for axis in range(right.ndim):
            moves: list[tuple[str, Callable[[Any], Any]]] = [
                ("reversed", lambda x, axis=axis: np.flip(x, axis)),  # type: ignore[misc]
                ("shifted by one", lambda x, axis=axis: np.roll(x, 1, axis)),  # type: ignore[misc]
                ("shifted by one, backwards,", lambda x, axis=axis: np.roll(x, -1, axis)),  # type: ignore[misc]
            ]
            for words, move in moves:
                c = _common_constant(places, leaf, lambda place, move=move: move(place.right[leaf]))  # type: ignore[misc]
                if c is not None:
                    return Explanation(Kind.ORDER, f"is {_times(c)}the gradient {words} along axis {axis}.")
        if right.ndim == 2:
            c = _common_constant(places, leaf, lambda place: place.right[leaf].T.reshape(right.shape))
            if c is not None:
                return Explanation(Kind.TRANSPOSED, f"is {_times(c)}the transpose of the gradient, reshaped.")
        if (
            all(_fits(place, leaf, _reordered(place.hand[leaf], place.right[leaf])) for place in places)
            and right.size > 2
        ):
            return Explanation(
                Kind.ORDER, f"holds the numbers of the gradient in another order, in {where(case.bad[leaf])}."
            )
    return None


def _reordered(hand: Any, right: Any) -> Any:
    """The right numbers in the order of the hand's."""
    out = np.empty_like(hand).ravel()
    out[np.argsort(hand, axis=None, kind="stable")] = np.sort(right, axis=None)
    return out.reshape(hand.shape)


def _added(case: Case, places: list[_Place], leaf: int) -> Explanation | None:
    """A multiple of the parameter, or of its signs, too much or too little."""
    forms: tuple[tuple[str, Callable[[Any], Any]], ...] = (
        ("the parameter", lambda p: p),
        ("the sign of the parameter", np.sign),
        ("the absolute parameter", np.abs),
    )
    for words, form in forms:
        constants = []
        for place in places:
            term = form(place.point.params[leaf])
            difference = place.hand[leaf] - place.right[leaf]
            c = _rough_constant(difference, term)
            if c is None or not _fits(place, leaf, place.right[leaf] + c * term):
                break
            constants.append(c)
        if len(constants) == len(places) and _in_step(case, places, constants) and constants[0] != 0:
            c = constants[0]
            much = "too much" if c > 0 else "too little"
            return Explanation(
                Kind.PENALTY,
                f"has {abs(c):.6g} times {words} {much}: a penalty on {case.names[leaf] or 'it'} that the loss "
                f"{'does not have' if c > 0 else 'has more of'}.",
            )
    return None


def _in_step(case: Case, places: list[_Place], constants: list[float]) -> bool:
    """Whether constants are the same at every place, or proportional to a scalar argument, which moves."""
    scalars = [[1.0] * len(places)]
    for number in range(len(case.labels)):
        values = [place.point.floats[number] for place in places]
        if np.size(values[0]) == 1 and all(np.all(value) for value in values):
            scalars.append([float(np.ravel(value)[0]) for value in values])
    shares = (np.asarray(constants) / np.asarray(values) for values in scalars)
    return any(np.ptp(share) <= 1e-6 * abs(share[0]) for share in shares)


def _rough_constant(difference: Any, term: Any) -> float | None:
    top = float(np.sum(term**2))
    if top == 0:
        return None
    c = float(np.sum(difference * term) / top)
    rest = float(np.max(np.abs(difference - c * term), initial=0.0))
    return c if np.isfinite(c) and rest <= 1e-6 * float(np.max(np.abs(difference), initial=0.0)) else None


def _added_constant(case: Case, places: list[_Place], leaf: int) -> Explanation | None:
    first = places[0].hand[leaf] - places[0].right[leaf]
    # A term without parameters may depend on the arguments, which move at the last place.
    if all(_fits(place, leaf, place.right[leaf] + first) for place in places[:2]):
        same = np.ptp(first) <= 1e-9 * np.max(np.abs(first))
        amount = f" {float(first.flat[0]):.6g}" if same else ""
        return Explanation(
            Kind.CONSTANT,
            f"differs from the gradient by the same amount{amount} at every point, in {where(case.bad[leaf])}: a term "
            "without parameters is missing or too much.",
        )
    return None


def _cut_down(case: Case, places: list[_Place], leaf: int) -> Explanation | None:
    """Clipped, normalised, absolute, rounded."""

    def norm(place: _Place) -> Any:
        return place.right[leaf] / np.sqrt(np.sum(place.right[leaf] ** 2))

    def global_norm(place: _Place) -> Any:
        return place.right[leaf] / np.sqrt(sum(np.sum(r**2) for r in place.right))

    def clipped(place: _Place) -> Any:
        top = np.max(np.abs(place.hand[leaf]))
        return np.clip(place.right[leaf], -top, top)

    def rounded_to(dtype: Any) -> Callable[[_Place], Any]:
        return lambda place: place.right[leaf].astype(dtype).astype(np.float64)

    forms: list[tuple[Kind, str, Callable[[_Place], Any]]] = [
        (Kind.CLIPPED, "is the gradient with its signs taken off: absolute values.", lambda p: np.abs(p.right[leaf])),
        (Kind.CLIPPED, "is the sign of the gradient alone.", lambda p: np.sign(p.right[leaf])),
        (Kind.CLIPPED, "is the square of the gradient, entry by entry.", lambda p: p.right[leaf] ** 2),
        (Kind.CLIPPED, "is the gradient over its own norm.", norm),
        (Kind.CLIPPED, "is the gradient over the norm of the whole gradient.", global_norm),
        (Kind.CLIPPED, "is the gradient clipped, entry by entry, to a largest size.", clipped),
        (Kind.CLIPPED, "is the positive part of the gradient.", lambda p: np.maximum(p.right[leaf], 0)),
    ]
    for kind, words, form in forms:
        if case.hand[leaf].size > 1 and all(_fits(place, leaf, form(place)) for place in places):
            return Explanation(kind, words)
    for dtype in (np.float32, np.float16, jnp.bfloat16):
        if all(
            np.array_equal(place.hand[leaf], rounded_to(dtype)(place._replace(right=place.hand)))
            and np.max(np.abs(place.hand[leaf] - place.right[leaf]), initial=0.0)
            <= 64 * float(jnp.finfo(dtype).eps) * np.max(np.abs(place.right[leaf]), initial=0.0)
            for place in places
        ):
            return Explanation(Kind.PRECISION, f"is rounded to {np.dtype(dtype).name}.")
    return None


def _some_entries(case: Case, places: list[_Place], leaf: int) -> Explanation | None:
    """A part of the leaf off by one factor, the rest right."""
    bad = case.bad[leaf]
    if bad.all() or not bad.any():
        return None
    spot = where(bad)
    constants = []
    for place in places:
        hand, right = place.hand[leaf], place.right[leaf]
        size = np.max(np.abs(right), initial=0.0)
        if np.max(np.abs(hand - right), where=~bad, initial=0.0) > 1e-9 * size:
            return None
        if not hand[bad].any():
            constants.append(0.0)
            continue
        c = _constant(hand[bad], right[bad])
        if c is None:
            return None
        constants.append(c)
    if np.ptp(constants) > 1e-9 * max(abs(constants[0]), 1e-300):
        return None
    c = constants[0]
    what = "zero" if c == 0 else "-1 times the gradient" if abs(c + 1) < 1e-9 else f"{c:.12g} times the gradient"
    return Explanation(Kind.ENTRIES, f"is {what} in {spot}; all other entries are right.")


class _Changed:
    """The right gradient with one argument or one other parameter replaced: 0, 1, or of the other sign."""

    def __init__(self, case: Case, places: list[_Place]) -> None:
        self.case, self.places = case, places
        self.candidates: list[tuple[str, list[Arrays]]] | None = None

    def explain(self, case: Case, places: list[_Place], leaf: int) -> Explanation | None:
        """The replacement that reproduces a leaf.

        Args:
          case: the wrong gradient.
          places: both points.
          leaf: its number.

        Returns:
          The explanation, or None.
        """
        if self.candidates is None:
            self.candidates = list(self._make())
        for constant_wanted in (True, False):
            for words, gradients in self.candidates:
                by_place = {id(place): gradient for place, gradient in zip(self.places, gradients, strict=True)}
                c = _common_constant(self.places, leaf, lambda p, by=by_place: by[id(p)][leaf])  # type: ignore[misc]
                if c is not None and (abs(c - 1) < 1e-9) == constant_wanted and _known(self.case, c):
                    return Explanation(Kind.ARGUMENT, f"is {_times(c)}the gradient as if {words}.")
        return None

    def _make(self) -> Iterator[tuple[str, list[Arrays]]]:
        case = self.case
        changes: list[tuple[str, Callable[[Any], Any]]] = [
            ("were 0: it is left out", np.zeros_like),
            ("were 1: it is left out", np.ones_like),
            ("had the other sign", np.negative),
        ]
        if len(case.labels) > 12 or len(case.names) > 24:
            return
        for number, label in enumerate(case.labels):
            for words, change in changes:
                yield f"{label} {words}", [self._evaluate(p.point, "floats", number, change) for p in self.places]
        for number, name in enumerate(case.names):
            for words, change in changes:
                yield (
                    f"{name or 'params'} {words}",
                    [self._evaluate(p.point, "params", number, change) for p in self.places],
                )

    def _evaluate(self, point: Point, field: str, number: int, change: Callable[[Any], Any]) -> Arrays:
        leaves = list(getattr(point, field))
        leaves[number] = change(leaves[number])
        return self.case.right(point._replace(**{field: leaves}))


class _Rows:
    """The gradient of every row of the data, where the gradient is their sum or mean."""

    def __init__(self, case: Case, places: list[_Place]) -> None:
        self.case, self.places = case, places
        self.parts: list[Arrays] | None = None
        self.share = 0.0

    def explain(self, case: Case, places: list[_Place], leaf: int) -> Explanation | None:
        """Rows that are left out or counted twice.

        Args:
          case: the wrong gradient.
          places: both points.
          leaf: its number.

        Returns:
          The explanation, or None.
        """
        if self.parts is None:
            self.parts = self._split()
        if not self.parts:
            return None
        num_rows = len(self.parts[0][leaf])
        for row in range(num_rows):
            for weight, words in ((0.0, "left out"), (2.0, "counted twice")):
                kept = np.ones(num_rows)
                kept[row] = weight
                explanation = self._weighted(leaf, kept, f"row {row} of the data {words}")
                if explanation:
                    return explanation
        for count in range(1, num_rows):
            for words, chosen in (
                (f"the first {count} rows of the data alone", np.arange(num_rows) < count),
                (f"the last {count} rows of the data alone", np.arange(num_rows) >= num_rows - count),
                (f"every row of the data whose number divides by {count + 1}", np.arange(num_rows) % (count + 1) == 0),
            ):
                explanation = self._weighted(leaf, chosen.astype(float), words)
                if explanation:
                    return explanation
        return None

    def _weighted(self, leaf: int, kept: Any, words: str) -> Explanation | None:
        assert self.parts
        by_place = {
            id(place): np.tensordot(kept, parts[leaf], 1) for place, parts in zip(self.places, self.parts, strict=True)
        }
        c = _common_constant(self.places, leaf, lambda place: by_place[id(place)])
        if c is None or not any(np.isclose(c, s, rtol=1e-9) for s in (self.share, 1 / max(kept.sum(), 1))):
            return None
        return Explanation(Kind.ROWS, f"is the gradient with {words}.")

    def _split(self) -> list[Arrays]:
        case = self.case
        lengths = [np.shape(leaf)[0] for leaf in (*case.point.floats, *case.point.arrays) if np.ndim(leaf)]
        if not lengths:
            return []
        num_rows = max(set(lengths), key=lengths.count)
        total = sum(np.size(leaf) for leaf in case.hand)
        if num_rows < 2 or num_rows > MAX_ROWS or num_rows * total > 1e7:
            return []

        try:
            parts = [case.autopsy.rows(place.point, num_rows) for place in self.places]
        except Exception:  # a loss that means something else, or nothing, for a single row
            return []
        for share in (1.0, 1.0 / num_rows):
            if all(
                np.allclose(share * part.sum(0), right, rtol=1e-8, atol=1e-9 * np.max(np.abs(right), initial=0.0))
                for of_place, place in zip(parts, self.places, strict=True)
                for part, right in zip(of_place, place.right, strict=True)
            ):
                self.share = share
                return parts
        return []


# The derivation.

RANK = {Kind.DERIVATIVE: 0, Kind.MASK: 0, Kind.TRANSPOSED: 0, Kind.NOT_SUMMED: 0, Kind.OPERAND: 0, Kind.PATH: 1}


def _of_derivation(
    case: Case, places: list[_Place], leaves: list[int], codes_of: Callable[[Case, _Place, list[int]], Any]
) -> dict[int, Explanation]:
    """Edits of the backward pass of the loss that reproduce leaves."""
    try:
        return _search(case, places, leaves, codes_of(case, places[0], leaves))
    except NotImplementedError:  # an operation without a rule for vmap or reverse mode
        return {}


def _of_a_term(case: Case, places: list[_Place], leaves: list[int]) -> dict[int, Explanation]:
    """An edit of the part of the gradient that is left when an argument is 0; the other part is right."""
    found: dict[int, Explanation] = {}
    for number, label in enumerate(case.labels[:6]):
        parts = []
        for place in places:
            floats = [np.zeros_like(x) if k == number else x for k, x in enumerate(place.point.floats)]
            point = place.point._replace(floats=floats)
            right = case.right(point)
            hand = [h - (g - part) for h, g, part in zip(place.hand, place.right, right, strict=True)]
            parts.append(_Place(point, hand, right))
        rest = [leaf for leaf in leaves if leaf not in found]
        for leaf, explanation in _of_derivation(case, parts, rest, _one_edit).items():
            words = explanation.words.replace(
                "in its derivation", f"in its derivation, in the part without {label} alone"
            )
            found[leaf] = Explanation(explanation.kind, words)
    return found


def _one_edit(case: Case, place: _Place, leaves: list[int]) -> Any:
    del leaves
    numbers = case.autopsy.numbers(place.point, place.hand)
    return np.stack([numbers, np.full(len(numbers), -1)], axis=1)


def _two_edits(case: Case, place: _Place, leaves: list[int]) -> Any:
    """Pairs of the edits that come nearest alone."""
    singles = _one_edit(case, place, leaves)
    _, _, scaled = case.autopsy.trial(place.point, place.hand, singles)
    misfit = np.where(np.isfinite(scaled[:, leaves]), scaled[:, leaves], np.inf).max(axis=1)
    rank = np.array([RANK.get(case.autopsy.edit(code).kind, 2) for code in singles[:, 0]])
    nearest = singles[np.lexsort((misfit, rank > 1))[:PAIR_CANDIDATES], 0]
    return np.array(list(itertools.combinations(sorted(nearest.tolist()), 2))).reshape(-1, 2)


def _search(case: Case, places: list[_Place], leaves: list[int], codes: Any) -> dict[int, Explanation]:
    if not len(codes):
        return {}
    first = case.autopsy.trial(places[0].point, places[0].hand, codes)
    plain, scaled = _exact(first[0]), _exact(first[2]) & (first[1] != 0)
    likely = np.flatnonzero((plain | scaled)[:, leaves].any(axis=1))
    if not len(likely):
        return {}
    others = [case.autopsy.trial(place.point, place.hand, codes[likely]) for place in places[1:]]
    right_ones = [i for i in range(len(case.names)) if i not in case.wrong]
    ranked: list[tuple[Any, int, set[int], set[int]]] = []
    for position, candidate in enumerate(likely):
        constant = first[1][candidate]
        exact, up_to_constant = plain[candidate], scaled[candidate]
        for misfit, other_constant, other_scaled in others:
            with np.errstate(all="ignore"):
                same = np.abs(constant - other_constant[position]) <= 1e-9 * np.abs(constant)
            exact = exact & _exact(misfit[position])
            up_to_constant = up_to_constant & _exact(other_scaled[position]) & same
        explained = {i for i in leaves if exact[i]}
        roughly = {i for i in leaves if not exact[i] and up_to_constant[i] and _known(case, float(constant[i]))}
        undisturbed = all(exact[i] for i in right_ones)
        edits = [case.autopsy.edit(code) for code in codes[candidate] if code >= 0]
        rank = max(RANK.get(edit.kind, 2) for edit in edits)
        key = (-len(explained | roughly), -len(explained), not undisturbed, rank, candidate)
        if explained or roughly:
            ranked.append((key, int(candidate), explained, roughly))
    found: dict[int, Explanation] = {}
    for _, chosen, explained, roughly in sorted(ranked):
        edits = [case.autopsy.edit(code) for code in codes[chosen] if code >= 0]
        for leaf in (explained | roughly) - set(found):
            times = float(first[1][chosen][leaf]) if leaf in roughly else 1.0
            found[leaf] = _in_words(case, edits, times)
    return found


def _exact(misfit: Any) -> Any:
    return np.isfinite(misfit) & (misfit <= EXACT)


def _in_words(case: Case, edits: list[Edit], constant: float) -> Explanation:
    changes = [f"{edit.words}{f', where {edit.place} is differentiated' if edit.place else ''}" for edit in edits]
    times = "" if abs(constant - 1) < 1e-9 else f", and times {constant:.6g} ({_cause(case, constant)})"
    number = "one change" if len(edits) == 1 else "two changes"
    listed = "\n".join(changes)
    return Explanation(edits[0].kind, f"is the gradient with {number} in its derivation{times}:\n{listed}.")


# Constants.


def _sizes(case: Case) -> dict[int, str]:
    """Lengths of axes that a sum or a mean may have run over."""
    sizes: dict[int, str] = {}
    paths = [*zip(case.labels, case.point.floats, strict=True), *zip(case.names, case.point.params, strict=True)]
    for label, leaf in [*paths, *(("an argument", leaf) for leaf in case.point.arrays)]:
        for axis, length in enumerate(np.shape(leaf)):
            if length > 1:
                sizes.setdefault(int(length), f"the length of axis {axis} of {label or 'params'}")
    shapes = [np.shape(leaf) for leaf in case.point.floats if np.ndim(leaf) > 1]
    for shape in shapes:
        sizes.setdefault(int(np.prod(shape)), "the number of entries of an argument")
    return sizes


def _known(case: Case, c: float) -> bool:
    """Whether a constant is one that mistakes are made of: small numbers, lengths of axes."""
    simple = np.array([1.0, 2.0, 3.0, 4.0, 0.5, 0.25, 1 / 3])
    sizes = np.array([1.0, *_sizes(case)])
    powers = np.concatenate([sizes, 1 / sizes, sizes**2, sizes**-2])
    return bool(np.isclose(abs(c), np.multiply.outer(simple, powers), rtol=1e-9, atol=0).any())


def _cause(case: Case, c: float) -> str:
    """What leads to a constant factor."""
    sign = "of the wrong sign, and " if c < 0 else ""
    c = abs(c)
    for size, words in _sizes(case).items():
        if size <= 4 and np.isclose(c, (2.0, 0.5), rtol=1e-9).any():
            continue
        for factor, also in ((1.0, ""), (2.0, " and a factor 2"), (0.5, " and a factor 1/2")):
            if np.isclose(c, size * factor, rtol=1e-9):
                return (
                    f"{sign}the sum for the mean: the factor 1/{size} ({words}){also.replace('and', 'is missing, and')}"
                    + (" is missing" if not also else " too much")
                )
            if np.isclose(c, factor / size, rtol=1e-9):
                return (
                    f"{sign}the mean for the sum, or the mean taken twice: a factor 1/{size} ({words}){also} too much"
                )
        if np.isclose(c, 1 / size**2, rtol=1e-9):
            return f"{sign}a factor 1/{size}^2 ({words}) too much"
        if size > 2 and np.isclose(c, [(size - 1) / size, size / (size - 1)], rtol=1e-9).any():
            return f"{sign}{size - 1} stands for {size} ({words})"
    if np.isclose(c, 0.5, rtol=1e-9):
        return f"{sign}a factor 2 is missing{_place(case, 2.0)}"
    if np.isclose(c, 2.0, rtol=1e-9):
        return f"{sign}a factor 2 too much, or a factor 1/2 missing{_place(case, 2.0)}"
    if c == 1.0:
        return "of the wrong sign"
    return f"{sign}a constant factor {c:.10g}"


def _place(case: Case, c: float) -> str:
    """Where in the loss a factor arises: the square for 2, the difference for -1."""
    wanted = ("square", "integer_pow") if c == 2.0 else ("sub", "neg")
    quoted = [
        quote(eqn) for eqn in case.autopsy.operations(case.point) if eqn.primitive.name in wanted and name_of(eqn)
    ]
    places = [text for text in quoted if text]
    return f"\nwhere {places[-1]} is differentiated" if places else ""


def _times(c: float) -> str:
    return "" if abs(c - 1) < 1e-9 else "-1 times " if abs(c + 1) < 1e-9 else f"{c:.6g} times "
