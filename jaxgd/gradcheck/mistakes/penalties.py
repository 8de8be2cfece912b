"""Something added to the gradient or left out of it: penalties, constants, functions of the parameter."""

from collections.abc import Callable
from typing import Any

import numpy as np

from jaxgd.gradcheck.finding import Kind
from jaxgd.gradcheck.mistakes.study import Explanation, Place, Study, best_constant, fits, multiple, size
from jaxgd.gradcheck.where import where

PENALTIES: tuple[tuple[str, Callable[[Any], Any]], ...] = (
    ("{p}", lambda p: p),
    ("the sign of {p}", np.sign),
    ("the absolute value of {p}", np.abs),
)
"""Functions of the parameter that penalties have as their gradients."""

TERMS: tuple[tuple[str, Callable[[Any], Any]], ...] = (
    ("exp({p})", np.exp),
    ("1 / {p}", lambda p: 1 / p),
    ("{p}^2", np.square),
)
"""Other functions of the parameter of which a multiple can be too much or too little."""


def added(study: Study, leaf: int) -> Explanation | None:
    """A multiple of the parameter, of its sign or of its size, too much or too little."""
    name = study.name(leaf)
    p = study.case.point.params[leaf]
    # Where all signs are the same, the sign is a constant, and the size is the parameter.
    mixed = np.size(p) > 0 and np.ptp(np.sign(p)) > 0
    for words, form in PENALTIES if mixed else PENALTIES[:1]:
        if (found := _multiple(study, leaf, form)) is not None:
            c, shown = found
            much, has = ("too much", "does not have") if c > 0 else ("too little", "has more of")
            what = f"has {shown} times {words.format(p=name)} {much}"
            return Explanation(Kind.PENALTY, f"{what}: a penalty on {name} that the loss {has}.")
    return None


def term(study: Study, leaf: int) -> Explanation | None:
    """A multiple of another function of the parameter too much or too little."""
    name = study.name(leaf)
    for words, form in TERMS:
        if (found := _multiple(study, leaf, form)) is not None:
            c, shown = found
            p = study.case.point.params[leaf]
            function = words.format(p=name)
            if words.startswith("exp") and c > 0 and np.ndim(p) and np.allclose(np.exp(p).sum(-1), 1, rtol=1e-5):
                why = "as if the log-probabilities were normalised once more, by a log-softmax that the loss lacks"
            else:
                signs = ("", "-") if c > 0 else ("-", "")
                much, little = (f"a term {sign}{shown} {function}" for sign in signs)
                why = f"either {much} is too much, or {little} is missing"
            return Explanation(Kind.DERIVATIVE, f"has {'-' if c < 0 else ''}{shown} times {function} too much: {why}.")
    return None


def _multiple(study: Study, leaf: int, form: Callable[[Any], Any]) -> tuple[float, str] | None:
    """The `c` of `hand - right = c form(parameter)` at every place, and the same in words."""
    constants = []
    for place in study.places:
        with np.errstate(all="ignore"):
            term = np.asarray(form(place.point.params[leaf]), np.float64)
            difference = place.hand[leaf] - place.right[leaf]
            c = _fitted(difference, term, max(1e-6, 10 * study.case.exact))
        if c is None or not _reproduces(place, leaf, c * term, study):
            return None
        constants.append(c)
    shown = multiple(study, constants, 1e-6)
    return None if shown is None else (constants[0], shown)


def _reproduces(place: Any, leaf: int, term: Any, study: Study) -> bool:
    hand, predicted = place.hand[leaf], place.right[leaf] + term
    gap = size(hand - place.right[leaf])
    misfit = size(hand - predicted)
    return misfit <= study.case.exact * max(size(hand), size(predicted)) and misfit <= 1e-3 * gap


def _fitted(difference: Any, term: Any, slack: float) -> float | None:
    if np.iscomplexobj(difference):
        return None
    top = float(np.sum(term**2))
    if top == 0 or not np.isfinite(top):
        return None
    c = float(np.sum(difference * term) / top)
    return c if np.isfinite(c) and size(difference - c * term) <= slack * size(difference) else None


def wrong_entries(study: Study, leaf: int) -> Explanation | None:
    """A penalty on entries that the loss leaves out, or left out for entries that it has."""
    if np.size(study.case.hand[leaf]) < 2 or np.iscomplexobj(study.case.hand[leaf]):
        return None
    signs, sizes = [], []
    for place in study.places:
        parameter = place.point.params[leaf]
        difference = place.hand[leaf] - place.right[leaf]
        with np.errstate(all="ignore"):
            ratio = np.where(np.abs(difference) > 1e-9 * size(place.hand[leaf]), difference / parameter, 0.0)
        if not np.isfinite(ratio).all() or not ratio.any():
            return None
        c = float(np.max(np.abs(ratio)))
        signs.append(np.rint(ratio / c))
        sizes.append(c)
        if not _reproduces(place, leaf, c * signs[-1] * parameter, study):
            return None
    same = all(np.array_equal(signs[0], other) for other in signs[1:])
    shown = multiple(study, sizes, 1e-6) if same and not signs[0].all() else None
    if shown is None:
        return None
    name = study.name(leaf)
    much, little = signs[0] > 0, signs[0] < 0
    parts = []
    if much.any():
        parts.append(f"too much in {where(much)}, which the loss does not penalise")
    if little.any():
        parts.append(f"too little in {where(little)}, which the loss penalises")
    return Explanation(
        Kind.PENALTY, f"has {shown} times {name} {', and '.join(parts)}: the index of the penalty is wrong."
    )


def on_the_residual(study: Study, leaf: int) -> Explanation | None:
    """A penalty multiplied with the gradient of the data term, as in `e * (q - lam * p)` for `e * q - lam * p`."""
    case = study.case
    for number, name in enumerate(case.labels):
        scalar = np.size(case.point.floats[number]) == 1
        shares: dict[int, list[float]] = {}
        for place in study.places if scalar else ():
            floats = [0 * x if k == number else x for k, x in enumerate(place.point.floats)]
            data = case.right(place.point._replace(floats=floats))
            parameter = place.point.params[leaf]
            c = _fitted(place.right[leaf] - data[leaf], parameter, 1e-6)
            if not c:
                break
            for other, part in enumerate(data):
                term = _spread(part, parameter)
                share = None if term is None else _fitted(place.hand[leaf] - data[leaf], term, 1e-6)
                if share is not None and _reproduces_from(place.hand[leaf], data[leaf], share * term, study):
                    shares.setdefault(other, []).append(share / c)
        for other, found in shares.items():
            if len(found) == len(study.places) and np.ptp(found) <= 1e-6 * abs(found[0]):
                own = "of its own data term" if other == leaf else f"by {study.name(other)} of the data term"
                return Explanation(
                    Kind.PENALTY,
                    f"has its penalty, the one with {name}, multiplied with the gradient {own}, that is with the "
                    "residual: the penalty belongs outside of the brackets.",
                )
    return None


def _spread(part: Any, parameter: Any) -> Any:
    """The product of a parameter with the gradient of a leaf of its shape or with fewer axes; None for another one."""
    if np.iscomplexobj(part) or np.shape(part) != np.shape(parameter)[: np.ndim(part)] or not np.ndim(part):
        return None
    return parameter * np.reshape(part, (*np.shape(part), *[1] * (np.ndim(parameter) - np.ndim(part))))


def _reproduces_from(hand: Any, data: Any, term: Any, study: Study) -> bool:
    return size(hand - data - term) <= study.case.exact * max(size(hand), size(data))


def without_radial_part(study: Study, leaf: int) -> Explanation | None:
    """The gradient without its part along the parameter, as for a parameter of length 1."""
    if np.size(study.case.hand[leaf]) < 2 or np.iscomplexobj(study.case.hand[leaf]):
        return None
    name = study.name(leaf)
    for over, formula in ((True, f"({name} . g) / |{name}|^2"), (False, f"({name} . g)")):

        def projected(place: Place, over: bool = over) -> Any:
            p, g = place.point.params[leaf], place.right[leaf]
            return g - p * np.sum(p * g) / (np.sum(p * p) if over else 1)

        if study.fits(leaf, projected):
            return Explanation(
                Kind.PATH,
                f"is the gradient g less its part along the parameter, g - {name} {formula}: a projection, which the "
                "loss does not have.",
            )
    return None


def varying(study: Study, leaf: int) -> Explanation | None:
    """A multiple of the parameter that changes from point to point: a penalty multiplied with something else."""
    hand = study.case.hand[leaf]
    if np.size(hand) < 2 or np.iscomplexobj(hand):
        return None
    constants = []
    for place in study.places:
        term = place.point.params[leaf]
        c = _fitted(place.hand[leaf] - place.right[leaf], term, 1e-6)
        if c is None or not _reproduces(place, leaf, c * term, study):
            return None
        constants.append(c)
    shown = ", ".join(f"{c:.4g}" for c in constants)
    return Explanation(
        Kind.PENALTY,
        f"differs from the gradient by a multiple of {study.name(leaf)} that changes from point to point ({shown}): a "
        "penalty is multiplied with what only the data term is multiplied with, or a part along the parameter is "
        "missing or too much.",
    )


def new_parameters(study: Study, leaf: int) -> Explanation | None:
    """The parameters after a step in place of the gradient."""
    constants = []
    for place in study.places:
        step = place.hand[leaf] - place.point.params[leaf]
        c = best_constant(step, place.right[leaf], 1e-6)
        if c is None or not fits(place, leaf, place.point.params[leaf] + c * place.right[leaf], study.case.exact):
            return None
        constants.append(c)
    c = constants[0]
    if not c or np.ptp(constants) > 1e-6 * abs(c):
        return None
    verb = "minus" if c < 0 else "plus"
    name = study.name(leaf)
    return Explanation(
        Kind.PENALTY,
        f"is {name} {verb} {abs(c):.6g} times the gradient: the parameters after a step, not the gradient.",
    )


def added_constant(study: Study, leaf: int) -> Explanation | None:
    """The same numbers added at every point."""
    first = study.places[0].hand[leaf] - study.places[0].right[leaf]
    if not size(first) or np.iscomplexobj(first):
        return None
    pattern = first / size(first)
    constants = []
    for place in study.places:
        c = _fitted(place.hand[leaf] - place.right[leaf], pattern, max(1e-6, 10 * study.case.exact))
        if c is None or not _reproduces(place, leaf, c * pattern, study):
            return None
        constants.append(c)
    shown = multiple(study, constants, 1e-6)
    if shown is None:
        return None
    bad = np.abs(pattern) > 1e-9
    values = pattern[bad]
    if np.ptp(values) > 1e-9:
        words = f"differs from the gradient by the same amounts at every point, in {where(bad)}"
        return Explanation(Kind.CONSTANT, f"{words}: a constant is added or left out.")
    much = "too much" if float(values.flat[0]) > 0 else "too little"
    return Explanation(
        Kind.CONSTANT, f"has {shown} {much} in {where(bad)}, at every point: a constant is added or left out."
    )


def argument_term(study: Study, leaf: int) -> Explanation | None:
    """A term added that depends on the arguments but not on the parameters."""
    first, second = study.places[0], study.places[1]
    difference = first.hand[leaf] - first.right[leaf]
    if not _reproduces(second, leaf, difference, study) or np.array_equal(first.right[leaf], second.right[leaf]):
        return None
    # Further ones: while no residual changes sign, a wrong slope of an absolute value looks like such a term.
    if not all(_reproduces(place, leaf, difference, study) for place in study.same_arguments()[2:]):
        return None
    bad = np.abs(difference) > 1e-9 * size(difference)
    return Explanation(
        Kind.CONSTANT,
        f"differs from the gradient by the same amount for all parameters, in {where(bad)}: a term of the arguments, "
        "without parameters, is missing or too much.",
    )
