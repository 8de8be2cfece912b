"""One or two mistakes in the backward pass of the loss: the candidates of `backward/`, tried on the gradient."""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxgd.gradcheck.backward.reading import Candidate, label
from jaxgd.gradcheck.backward.trial import Trial, trial
from jaxgd.gradcheck.finding import Kind
from jaxgd.gradcheck.mistakes.factors import cause, is_known
from jaxgd.gradcheck.mistakes.passes import WHOLE, Passes, scalars, tape_of
from jaxgd.gradcheck.mistakes.study import Case, Explanation, Place, Study, common, size

PAIR_CANDIDATES = 56
"""Candidates of which all pairs are tried where one does not explain the gradient."""

PAIRED = (Kind.PATH, Kind.SIGN, Kind.NOT_SUMMED, Kind.TRANSPOSED)
"""Kinds of which two are made at once. Two formulas that nobody writes fit anything by chance."""

MAX_TERMS = 6
"""Arguments that are set to 0 in turn, so that one term of the loss is left."""

RANK = {
    Kind.DERIVATIVE: 0,
    Kind.MASK: 0,
    Kind.TRANSPOSED: 0,
    Kind.NOT_SUMMED: 0,
    Kind.OPERAND: 0,
    Kind.PATH: -1,
    Kind.SIGN: -0.5,
}
"""Which kind is preferred where several candidates fit: a path that is cut looks like many edits whose result is 0."""


def one_change(study: Study, leaves: list[int]) -> dict[int, Explanation]:
    """One change of the backward pass."""
    made = study.passes()
    if made is None:
        return {}
    return _search(study, made, leaves, [(candidate,) for candidate in made.candidates])


def two_changes(study: Study, leaves: list[int]) -> dict[int, Explanation]:
    """Two changes at once, of those that come nearest on their own."""
    made = study.passes()
    if made is None:
        return {}
    simple = [c for c in made.candidates if c.named and (c.kind in PAIRED or "left out" in c.words)]
    single = trial(made.tapes[0], [(c,) for c in simple], study.places[0].hand, study.budget)
    misfit = np.where(np.isfinite(single.scaled[:, leaves]), single.scaled[:, leaves], np.inf).max(axis=1, initial=0.0)
    nearest = sorted(np.argsort(misfit, kind="stable")[:PAIR_CANDIDATES].tolist())
    pairs = [(simple[i], simple[j]) for i, j in itertools.combinations(nearest, 2)]
    return _search(study, made, leaves, pairs, exactly=True)


def one_term(study: Study, leaves: list[int]) -> dict[int, Explanation]:
    """One change in the part of the gradient that is left when an argument is 0; the rest is right."""
    case, found = study.case, dict[int, Explanation]()
    made = study.passes()
    for number, name in enumerate(case.labels[:MAX_TERMS]):
        rest = [leaf for leaf in leaves if leaf not in found]
        if made is None or not rest or study.late:
            break
        parts = []
        for place in study.places:
            floats = [np.zeros_like(x) if k == number else x for k, x in enumerate(place.point.floats)]
            right = case.right(place.point._replace(floats=floats))
            hand = [h - (g - part) for h, g, part in zip(place.hand, place.right, right, strict=True)]
            parts.append(Place(place.point._replace(floats=floats), hand, right))
        if not all(np.isfinite(leaf).all() for part in parts for leaf in (*part.hand, *part.right)):
            continue
        assert case.trace is not None
        program = case.trace(case.point)
        tapes = [tape_of(case, program, part.point, made.rules) for part in parts]
        if [step.name for step in tapes[0].steps] != [step.name for step in made.tapes[0].steps]:
            continue
        term = made._replace(tapes=tapes, scalars=scalars(tapes))
        for leaf, explanation in _search(
            study._replace(places=parts), term, rest, [(c,) for c in made.candidates], exactly=True
        ).items():
            part = f"is the gradient, in the part without {name}, "
            words = explanation.words.replace("is the gradient", part, 1).replace(",  ", ", ").replace(", ,", ",")
            found[leaf] = Explanation(explanation.kind, words)
    return found


class _Tried(NamedTuple):
    """Variants beside the gradient at every place.

    Attributes:
      variants: the changes of each.
      trials: one for each place.
      hits: `[places, 3, variants, leaves]`, whether one fits as it is, up to a factor, and with a share of its change.
    """

    variants: list[tuple[Candidate, ...]]
    trials: list[Trial]
    hits: Any

    def effect(self, row: int, leaf: int) -> float:
        """How far a variant moves a leaf."""
        return max(float(result.effect[row, leaf]) for result in self.trials)


class _Fit(NamedTuple):
    """How one variant reproduces leaves.

    Attributes:
      order: what decides between variants, the smallest first.
      changes: the candidates.
      leaves: for each leaf, what goes before or after the words of the changes.
      untouched: right leaves, which the changes would make wrong.
    """

    order: tuple[Any, ...]
    changes: tuple[Candidate, ...]
    leaves: dict[int, tuple[str, str]]
    untouched: list[int]


def _near(case: Case, result: Trial, place: Place) -> Any:
    """Which variants fit at a place, far nearer than the right gradient is: `[3, variants, leaves]`."""
    gaps = np.array([size(h - right) / (size(h) or 1.0) for h, right in zip(place.hand, place.right, strict=True)])
    # Where the right gradient is exact too, the place decides nothing.
    bound = np.where(gaps > 0, np.minimum(case.exact, 1e-3 * gaps), case.exact)
    fields = (result.misfit, result.scaled, result.shared)
    with np.errstate(all="ignore"):
        return np.stack([np.isfinite(field) & (field <= bound) for field in fields])


def _search(
    study: Study, made: Passes, leaves: list[int], variants: Sequence[tuple[Candidate, ...]], *, exactly: bool = False
) -> dict[int, Explanation]:
    """The variants that reproduce leaves at every place, the best first; without a factor if `exactly`."""
    case, places = study.case, study.places
    first = trial(made.tapes[0], variants, places[0].hand, study.budget)
    hit = _near(case, first, places[0])[: 1 if exactly else 3]
    likely = np.flatnonzero(hit[:, :, leaves].any(axis=(0, 2)))
    if not len(likely):
        return {}
    chosen = [variants[i] for i in likely.tolist()]
    others = [trial(tape, chosen, p.hand, study.budget) for tape, p in zip(made.tapes[1:], places[1:], strict=True)]
    trials = [Trial(*(field[likely] for field in first)), *others]
    hits = np.stack([_near(case, result, place) for result, place in zip(trials, places, strict=True)])
    hits[:, 1:] &= not exactly
    tried = _Tried(chosen, trials, hits)
    fits = [_fit(study, made, tried, leaves, row) for row in range(len(chosen)) if not study.late]
    found: dict[int, Explanation] = {}
    for fit in sorted((fit for fit in fits if fit.leaves), key=lambda fit: fit.order):
        for leaf, (instead, times) in fit.leaves.items():
            if leaf not in found:
                found[leaf] = _in_words(fit.changes, instead, times, [study.name(i) for i in fit.untouched])
    return found


def _fit(study: Study, made: Passes, tried: _Tried, leaves: list[int], row: int) -> _Fit:
    """Which leaves a variant reproduces: exactly, a multiple of its path, or up to a factor."""
    plain, scaled, shared = tried.hits[:, :, row].all(axis=0)
    changes = tried.variants[row]
    found: dict[int, tuple[str, str]] = {}
    grade = 0
    for leaf in leaves:
        # A change that moves nothing explains nothing; only the empty one stands for a factor of the whole.
        if changes != (WHOLE,) and tried.effect(row, leaf) < 1e-9:
            continue
        if plain[leaf]:
            found[leaf] = ("", "")
            continue
        if len(changes) == 1 and changes[0].share and shared[leaf]:
            share = common([float(result.share[row, leaf]) for result in tried.trials], study.case.exact)
            words = None if share is None else SHARES[changes[0].share](study, share)
            if words:
                found[leaf] = (words, "")
                grade = max(grade, 0 if words == WRONG_SIGN else 1)
                continue
        if scaled[leaf] and all(change.named for change in changes):
            times = _of_factor(study, made, [float(result.constant[row, leaf]) for result in tried.trials])
            if times:
                found[leaf] = ("", times)
                grade = max(grade, 3 if "minus" in times else 2)
    exactly = sum(not instead and not times for instead, times in found.values())
    right = [i for i in range(len(study.case.names)) if i not in study.case.wrong]
    untouched = [leaf for leaf in right if found and tried.effect(row, leaf) > 1e-9]
    # A function that a reader does not know by name says less than one operation.
    rank = max(RANK.get(change.kind, 2) + (0 if change.named else 1.5) for change in changes)
    spots = sum(len(change.spots) for change in changes)
    return _Fit((-len(found), -exactly, bool(untouched), grade, rank, spots > 1, row), changes, found, untouched)


def _of_rate(study: Study, share: float) -> str:
    """What a part of a step along the gradient means: the learning rate."""
    del study
    return f"with learning rate {share:.6g}: all gradients must be taken before the first update"


WRONG_SIGN = "has the wrong sign"


def _of_path(study: Study, share: float) -> str:
    """What a multiple of a cut path means: the path is taken `1 - share` times."""
    times = 1.0 - share
    if abs(share - 1) < 1e-9:
        return ""
    if abs(times + 1) < 1e-8:
        return WRONG_SIGN
    if abs(times) < 1e-8 or not is_known(study, times):
        return ""
    sign = "with the wrong sign and " if times < 0 else ""
    return f"is taken {sign}{abs(times):.6g} times ({cause(study, times)})"


SHARES = {"path": _of_path, "rate": _of_rate}
"""What a part of a change means, in words."""


def _of_factor(study: Study, made: Passes, constants: list[float]) -> str:
    """A known factor, or a scalar of the loss that changes from place to place."""
    c = common(constants, study.case.exact)
    if c is not None:
        if not is_known(study, c):
            return ""
        sign = "the sign is wrong, and " if c < 0 and abs(c + 1) > 1e-9 else ""
        return f", and times {c:.6g} ({sign}{'the sign is wrong' if abs(c + 1) < 1e-9 else cause(study, c)})"
    powers, expected = made.scalars
    with np.errstate(all="ignore"):
        equal = np.abs(np.abs(expected) - np.abs(constants)) <= 1e-8 * np.abs(expected)
    for row in np.flatnonzero(equal.all(axis=1)).tolist():
        number, power = powers[row]
        signs = {bool(c * v > 0) for c, v in zip(constants, expected[row], strict=True)}
        if len(signs) == 1:
            minus = "" if signs == {True} else "minus "
            verb = "divided by" if power < 0 else "multiplied with"
            squared = "^2" if abs(power) == 2 else ""
            return f", and the whole is {verb} {minus}{label(made.reading, number)}{squared}"
    return ""


def _in_words(changes: tuple[Candidate, ...], instead: str, times: str, untouched: list[str]) -> Explanation:
    texts = [change.words for change in changes]
    if changes == (WHOLE,):
        return Explanation(Kind.FACTOR, f"is the gradient{times.replace(', and', ', but', 1)}.")
    if instead and changes[0].share == "path":
        texts[0] = texts[0].replace("is left out", instead)
    elif instead:
        texts[0] = f"{texts[0]} {instead}"
    number = "one mistake" if len(changes) == 1 else "two mistakes"
    kind = changes[0].kind
    if changes[0].share == "path" and instead:
        kind = Kind.SIGN if instead == WRONG_SIGN else Kind.FACTOR
    listed = "\n".join(texts)
    only = f"\nThe gradient of {', '.join(untouched)} does not have this mistake." if untouched else ""
    # A factor that is negative, for instance, is left out as one mistake and found as a part and a sign.
    joint = "\nOnly both together give this gradient; they may be one mistake." if times or len(changes) == 2 else ""
    return Explanation(kind, f"is the gradient with {number} in its backward pass{times}:\n{listed}.{joint}{only}")
