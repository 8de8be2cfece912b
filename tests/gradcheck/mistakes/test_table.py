"""Each row of MISTAKES on NumPy arrays: what it explains, and what it leaves alone."""

import time
import types
from typing import Any, NamedTuple

import numpy as np
import pytest
from common import blocks_of

from jaxgd.gradcheck import budget
from jaxgd.gradcheck.finding import Kind
from jaxgd.gradcheck.inputs import Point
from jaxgd.gradcheck.mistakes import shapes, table
from jaxgd.gradcheck.mistakes.study import Case, Place, Study
from jaxgd.gradcheck.mistakes.table import MISTAKES, Mistake, each, explain

LAMBDA = 0.3
"""A scalar argument of the loss."""


def points(count=3):
    """Parameters of two leaves and arguments; the arguments move at the last place."""
    rng = np.random.default_rng(0)
    arguments = [np.array(LAMBDA), rng.normal(size=(6, 3))]
    for number in range(count):
        moved = [arguments[0] * 1.7, arguments[1] + 1] if number == 2 else arguments
        # Dyadic numbers, so that sums and differences below are exact.
        yield Point([np.round(8 * rng.normal(size=(2, 3))) / 8 + 1 / 16, rng.normal(size=3)], moved, [])


def right(point):
    """A gradient that is not symmetric in anything: of no particular loss."""
    weights, bias = point.params
    lam, rows = point.floats
    by_weights = np.sin(weights) + np.outer([1.0, -2.0], bias) + lam * rows[:2] ** 2
    return [by_weights, np.cos(3 * bias) + weights.sum(0) * rows[1] + 0.2]


def study_of(change, leaf=0, trace=None, names=("['w']", "['b']")):
    """A study of the gradient with one leaf replaced by `change(right leaf, point)`."""

    def hand(point):
        leaves = right(point)
        leaves[leaf] = np.asarray(change(leaves[leaf], point), np.float64)
        return leaves

    places = [Place(point, hand(point), right(point)) for point in points()]
    with np.errstate(invalid="ignore"):
        bad = [np.abs(a - b) > 1e-12 for a, b in zip(places[0].hand, places[0].right, strict=True)]
    case = Case(
        names=list(names),
        labels=["lam", "rows"],
        point=places[0].point,
        hand=places[0].hand,
        reference=places[0].right,
        bad=bad,
        wrong=[leaf],
        both=lambda point: (hand(point), right(point)),
        right=right,
        elsewhere=lambda distance, arguments=False: moved(places[0].point, distance, arguments),
        trace=trace,
    )
    return Study(case, places, lambda: None)


def moved(point, distance, arguments):
    rng = np.random.default_rng(int(10 * distance))
    floats = [leaf * 1.5 for leaf in point.floats] if arguments else point.floats
    return point._replace(
        params=[leaf + distance * rng.normal(size=leaf.shape) for leaf in point.params], floats=floats
    )


FIRST = next(points())


def with_rows(change):
    """The gradient of the bias with the data replaced."""

    def changed(gradient, point):
        del gradient
        return right(point._replace(floats=[point.floats[0], change(point.floats[1])]))[1]

    return changed


def with_lam(change):
    """The gradient of the weights with the scalar argument replaced."""

    def changed(gradient, point):
        del gradient
        return right(point._replace(floats=[change(point.floats[0]), point.floats[1]]))[0]

    return changed


class Example(NamedTuple):
    """A mistake: the row that names it, what was done, kind and part of the words."""

    row: str
    change: Any
    kind: Kind
    words: str
    leaf: int = 0


EXAMPLES = [
    Example("zero", lambda g, p: 0 * g, Kind.ZERO, "zero everywhere"),
    Example("stale", lambda g, p: right(FIRST)[0], Kind.STALE, "as the gradient does: values of another call."),
    Example("factor", lambda g, p: -g, Kind.SIGN, "-1 times the gradient in all 6 entries: the sign is wrong"),
    Example("factor", lambda g, p: 2 * g, Kind.FACTOR, "a factor 2 too much, or a factor 1/2 missing"),
    Example(
        "factor", lambda g, p: g / 2, Kind.FACTOR, "0.5 times the gradient in all 6 entries: a factor 2 is missing"
    ),
    Example("factor", lambda g, p: 6 * g, Kind.FACTOR, "a factor 1/6 is missing (6 is the length of axis 0 of rows)"),
    Example("factor", lambda g, p: g / 6, Kind.FACTOR, "a factor 1/6 is too much (6 is the length of axis 0 of rows)"),
    Example("factor", lambda g, p: g / 36, Kind.FACTOR, "a factor 1/6^2 is too much"),
    Example("factor", lambda g, p: g * 5 / 6, Kind.FACTOR, "5 stands for 6"),
    Example("factor", lambda g, p: -1.001 * g, Kind.FACTOR, "the sign is wrong, and a constant factor 1.001"),
    Example(
        "other leaf",
        lambda g, p: right(p)[0].sum(0),
        Kind.SWAPPED,
        "is the gradient of ['w'] summed over axis 0: it is multiplied with what only ['w'] is",
        1,
    ),
    Example(
        "other leaf's multiple",
        lambda g, p: 3 * right(p)[0].sum(0),
        Kind.SWAPPED,
        "3 times the gradient of ['w'] summed over axis 0",
        1,
    ),
    Example(
        "argument", with_rows(lambda x: np.roll(x, 1, 0)), Kind.ARGUMENT, "as if rows were shifted by one along", 1
    ),
    Example("argument", with_rows(lambda x: np.roll(x, -1, 0)), Kind.ARGUMENT, "shifted by one, backwards, along", 1),
    Example("argument", with_rows(lambda x: x[::-1]), Kind.ARGUMENT, "as if rows were reversed along its first", 1),
    Example("argument", with_rows(np.square), Kind.ARGUMENT, "as if rows were replaced by its square.", 1),
    Example("argument", with_rows(np.reciprocal), Kind.ARGUMENT, "as if rows were replaced by its reciprocal", 1),
    Example("argument", with_rows(np.abs), Kind.ARGUMENT, "as if rows were replaced by its absolute value", 1),
    Example("argument", with_rows(np.exp), Kind.ARGUMENT, "as if rows were replaced by exp of it", 1),
    Example("argument", with_lam(np.sqrt), Kind.ARGUMENT, "as if lam were replaced by its square root"),
    Example("argument", with_lam(np.log), Kind.ARGUMENT, "as if lam were replaced by log of it"),
    Example(
        "argument's multiple",
        lambda g, p: 2 * with_lam(np.log)(g, p),
        Kind.ARGUMENT,
        "is 2 times the gradient as if lam",
    ),
    Example("other order", lambda g, p: g[::-1], Kind.ORDER, "the gradient reversed along axis 0"),
    Example("other order", lambda g, p: g[:, ::-1], Kind.ORDER, "the gradient reversed along axis 1"),
    Example("other order", lambda g, p: np.roll(g, 1), Kind.ORDER, "shifted by one along axis 0", 1),
    Example("other order", lambda g, p: np.roll(g, -1), Kind.ORDER, "shifted by one, backwards, along axis 0", 1),
    Example(
        "other order", lambda g, p: g.T.reshape(g.shape), Kind.TRANSPOSED, "the transpose of the gradient, reshaped"
    ),
    Example("other order", lambda g, p: g[[1, 0, 2]], Kind.ORDER, "in another order, in the block [0:2]", 1),
    Example(
        "argument",
        lambda g, p: right(p._replace(floats=[p.floats[0], 0 * p.floats[1]]))[1],
        Kind.ARGUMENT,
        "as if rows were 0: it is left out",
        1,
    ),
    Example(
        "argument",
        lambda g, p: right(p._replace(floats=[p.floats[0] ** 0, p.floats[1]]))[0],
        Kind.ARGUMENT,
        "as if lam were 1: it is left out",
    ),
    Example(
        "argument",
        lambda g, p: right(p._replace(floats=[-p.floats[0], p.floats[1]]))[0],
        Kind.ARGUMENT,
        "as if lam had the other sign",
    ),
    Example(
        "argument",
        lambda g, p: right(p._replace(floats=[1 - p.floats[0], p.floats[1]]))[0],
        Kind.ARGUMENT,
        "as if lam were replaced by 1 minus it",
    ),
    Example(
        "parameter",
        lambda g, p: right(p._replace(params=[p.params[0], 0 * p.params[1]]))[0],
        Kind.ARGUMENT,
        "as if ['b'] were 0",
    ),
    Example(
        "penalty",
        lambda g, p: g + 0.01 * p.params[0],
        Kind.PENALTY,
        "0.01 times ['w'] too much: a penalty on ['w'] that the loss does not have",
    ),
    Example(
        "penalty",
        lambda g, p: g - p.floats[0] * p.params[0],
        Kind.PENALTY,
        "lam times ['w'] too little: a penalty on ['w'] that the loss has more of",
    ),
    Example("penalty", lambda g, p: g + np.sign(p.params[0]), Kind.PENALTY, "1 times the sign of ['w'] too much"),
    Example(
        "penalty",
        lambda g, p: g + 2 * np.abs(p.params[0]),
        Kind.PENALTY,
        "2 times the absolute value of ['w'] too much",
    ),
    Example("term", lambda g, p: g + np.exp(p.params[0]), Kind.DERIVATIVE, "has 1 times exp(['w']) too much"),
    Example(
        "term",
        lambda g, p: g - 1 / p.params[0],
        Kind.DERIVATIVE,
        "has -1 times 1 / ['w'] too much: either a term -1 1 / ['w'] is too much, or a term 1 1 / ['w'] is missing",
    ),
    Example("term", lambda g, p: g + p.params[0] ** 2, Kind.DERIVATIVE, "['w']^2 too much"),
    Example(
        "penalty index",
        lambda g, p: g + 0.5 * np.array([[0, 1, -1], [0, 0, 0]]) * p.params[0],
        Kind.PENALTY,
        "0.5 times ['w'] too much in entry [0, 1], which the loss does not penalise, and too little in entry [0, 2]",
    ),
    Example(
        "new parameters",
        lambda g, p: p.params[0] - 0.1 * g,
        Kind.PENALTY,
        "is ['w'] minus 0.1 times the gradient: the parameters after a step, not the gradient.",
    ),
    Example("constant", lambda g, p: g + 0.1, Kind.CONSTANT, "has 0.1 too much in all 6 entries"),
    Example(
        "constant", lambda g, p: g - p.floats[0] * np.array([1, 0, 0]), Kind.CONSTANT, "has lam too little in column 0"
    ),
    Example("cut down", lambda g, p: np.abs(g), Kind.CLIPPED, "the signs are lost"),
    Example("cut down", lambda g, p: np.sign(g), Kind.CLIPPED, "only the sign"),
    Example("cut down", lambda g, p: g**2, Kind.CLIPPED, "the square of the gradient"),
    Example("cut down", lambda g, p: g / np.sqrt(np.sum(g**2)), Kind.CLIPPED, "divided by its norm"),
    Example(
        "cut down",
        lambda g, p: g / np.sqrt(sum(np.sum(leaf**2) for leaf in right(p))),
        Kind.CLIPPED,
        "the norm of all leaves",
    ),
    Example("cut down", lambda g, p: np.clip(g, -0.5, 0.5), Kind.CLIPPED, "clipped to a largest size"),
    Example(
        "cut down", lambda g, p: np.full_like(g, g.sum()), Kind.CLIPPED, "the sum of the gradient over all entries"
    ),
    Example(
        "cut down", lambda g, p: np.full_like(g, g.mean()), Kind.CLIPPED, "the mean of the gradient over all entries"
    ),
    Example("cut down", lambda g, p: np.maximum(g, 0), Kind.CLIPPED, "the positive part"),
    Example("rounded", lambda g, p: g.astype(np.float16), Kind.PRECISION, "rounded to float16"),
    Example("rounded", lambda g, p: g.astype(np.float32), Kind.PRECISION, "rounded to float32"),
    Example(
        "some entries",
        lambda g, p: g * np.array([[1, 1, 1], [0, 0, 0]]),
        Kind.ENTRIES,
        "is zero in row 1; all other entries are right",
    ),
    Example(
        "some entries", lambda g, p: g * np.array([1, -1, 1]), Kind.ENTRIES, "is -1 times the gradient in column 1"
    ),
    Example(
        "some entries",
        lambda g, p: g * np.array([2.5, 1, 1]),
        Kind.ENTRIES,
        "is 2.5 times the gradient in entry [0]",
        1,
    ),
    Example(
        "entries by sign",
        lambda g, p: np.where(p.params[1] < 0, -g, g),
        Kind.ENTRIES,
        "where ['b'] is negative; all other entries are right",
        1,
    ),
    Example(
        "some entries",
        lambda g, p: g * np.array([p.floats[0], 1, 1]),
        Kind.ENTRIES,
        "is lam times the gradient in entry [0]; all",
        1,
    ),
    Example(
        "other rows",
        lambda g, p: g[[0, 0]],
        Kind.ORDER,
        "holds in row 1 the gradient of row 0.",
    ),
    Example(
        "other rows",
        lambda g, p: np.array([g[2], 0, 0]),
        Kind.ORDER,
        "holds in entry [0] the gradient of entry [2], and is zero in the block [1:3].",
        1,
    ),
    Example(
        "radial part",
        lambda g, p: g - p.params[1] * (p.params[1] @ g) / (p.params[1] @ p.params[1]),
        Kind.PATH,
        "is the gradient g less its part along the parameter, g - ['b'] (['b'] . g) / |['b']|^2",
        1,
    ),
    Example(
        "radial part",
        lambda g, p: g - p.params[1] * (p.params[1] @ g),
        Kind.PATH,
        "g - ['b'] (['b'] . g): a projection",
        1,
    ),
    Example(
        "updated",
        lambda g, p: right(p._replace(params=[p.params[0] - 0.05 * right(p)[0], p.params[1]]))[1],
        Kind.STALE,
        "after ['w'] has been updated with learning rate 0.05",
        1,
    ),
    Example("argument term", lambda g, p: g + p.floats[1][:2] ** 3, Kind.CONSTANT, "a term of the arguments"),
    Example("fixed", lambda g, p: p.floats[1][:2] ** 3, Kind.STALE, "it is computed of the arguments only."),
    Example("fixed", lambda g, p: 1 + FIRST.params[0], Kind.STALE, "values of another call, or a constant."),
    Example(
        "varying penalty",
        lambda g, p: g + np.sin(p.params[1][0]) * p.params[0],
        Kind.PENALTY,
        "that changes from point to point",
    ),
]

BY_PASSES = {"penalty on the residual", "one change", "one term", "two changes", "rows", "axes exchanged"}
"""Rows that need the loss itself, see test_steps.py, a square leaf, or a penalty."""


def row(name):
    return next(mistake for mistake in MISTAKES if mistake.name == name)


@pytest.mark.parametrize("example", EXAMPLES, ids=[f"{e.row}: {e.words[:50]}" for e in EXAMPLES])
def test_a_row_names_its_mistake(example):
    made = study_of(example.change, example.leaf)
    with np.errstate(all="ignore"):
        found = row(example.row).explain(made, [example.leaf])
    assert example.leaf in found
    assert found[example.leaf].kind is example.kind
    assert example.words in found[example.leaf].words


@pytest.mark.parametrize("example", EXAMPLES, ids=[f"{e.row}: {e.words[:50]}" for e in EXAMPLES])
def test_no_row_explains_a_mistake_with_noise_in_it(example):
    """The same mistake with other numbers added at each place is nobody's."""

    def noisy(gradient, point):
        noise = np.random.default_rng(int(1e6 * abs(point.params[0].sum()))).normal(size=gradient.shape)
        return example.change(gradient, point) + 0.1 * noise

    made = study_of(noisy, example.leaf)
    with np.errstate(all="ignore"):
        found = {mistake.name: mistake.explain(made, [example.leaf]) for mistake in MISTAKES}
    assert not any(found.values()), found


def test_every_row_has_an_example():
    assert {example.row for example in EXAMPLES} | BY_PASSES == {mistake.name for mistake in MISTAKES}


def test_the_order_of_the_table():
    """Where two rows explain the same gradient, the first one is meant."""
    names = [mistake.name for mistake in MISTAKES]
    for first, second in [
        ("zero", "factor"),
        ("stale", "fixed"),
        ("factor", "one change"),
        ("other leaf", "other order"),
        ("argument", "one change"),
        ("penalty", "penalty index"),
        ("constant", "argument term"),
        ("rows", "some entries"),
        ("some entries", "one change"),
        ("one change", "two changes"),
        ("one change", "one term"),
        ("one change", "entries by sign"),
        ("penalty", "varying penalty"),
        ("radial part", "varying penalty"),
        ("other order", "other rows"),
        ("other rows", "some entries"),
    ]:
        assert names.index(first) < names.index(second)


def test_leaves_that_are_swapped():
    """Of the same shape, exchanged."""

    def other(gradient, point):
        del gradient
        return right(point)[1]

    places = list(points())
    names = ["['a']", "['b']"]
    for hand_of_b, words in ((lambda p: 2 * right(p)[1] + 1, ": the two are swapped."), (lambda p: right(p)[1], ".")):
        two = [Place(p, [right(p)[1], hand_of_b(p)], [2 * right(p)[1] + 1, right(p)[1]]) for p in places]
        made = study_of(other, 1)
        made = made._replace(case=made.case._replace(names=names, hand=two[0].hand, reference=two[0].right), places=two)
        found = row("other leaf").explain(made, [0])
        assert found[0].kind is Kind.SWAPPED
        assert found[0].words == f"is the gradient of ['b']{words}"


def square_gradient(params, floats):
    """Of a square parameter and two square arguments."""
    (m,), (a, b) = params, floats
    return np.sin(m) * a + m @ b + np.arange(9.0).reshape(3, 3)


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("other order", lambda m, f: square_gradient(m, f).T, "is the transpose of the gradient."),
        ("axes exchanged", lambda m, f: square_gradient([m[0].T], f).T, "is the gradient with the axes of m exchanged"),
        ("argument", lambda m, f: square_gradient(m, [f[0].T, f[1]]), "is the gradient as if a were transposed."),
        (
            "argument",
            lambda m, f: square_gradient(m, [f[0], np.linalg.inv(f[1])]),
            "as if b were replaced by its inverse.",
        ),
        ("argument", lambda m, f: square_gradient(m, f[::-1]), "is the gradient as if a and b were exchanged."),
    ],
)
def test_square_leaves_and_arguments(name, change, words):
    rng = np.random.default_rng(0)
    several = [Point([rng.normal(size=(3, 3))], list(rng.normal(size=(2, 3, 3))), []) for _ in range(3)]
    places = [Place(p, [change(p.params, p.floats)], [square_gradient(p.params, p.floats)]) for p in several]
    case = study_of(lambda g, p: g).case._replace(
        names=["m"],
        labels=["a", "b"],
        point=several[0],
        hand=places[0].hand,
        reference=places[0].right,
        wrong=[0],
        right=lambda p: [square_gradient(p.params, p.floats)],
    )
    found = {mistake.name: mistake.explain(Study(case, places, lambda: None), [0]) for mistake in MISTAKES}
    assert words in found[name][0].words


@pytest.mark.parametrize(
    ("leaf", "words"), [(1, "the gradient of its own data term,"), (0, "the gradient by ['b'] of the data term,")]
)
def test_a_penalty_on_the_residual(leaf, words):
    """Ratings by factors and a bias; the residuals are multiplied with the penalty, too."""

    def gradient(point, inside):
        (factors, bias), (lam, items) = point.params, point.floats
        e = np.cos(factors @ items + bias)
        data, penalties = [np.outer(e, items), e], [lam * factors, lam * bias]
        return [d + (p if i != inside else np.reshape(e, (-1, *[1] * (p.ndim - 1))) * p)
                for i, (d, p) in enumerate(zip(data, penalties, strict=True))]  # fmt: skip

    rng = np.random.default_rng(2)
    items = rng.normal(size=3)
    several = [Point([rng.normal(size=(4, 3)), rng.normal(size=4)], [np.array(lam), items], []) for lam in (1, 2, 0.3)]
    places = [Place(point, gradient(point, leaf), gradient(point, None)) for point in several]
    case = study_of(lambda g, p: g).case._replace(point=several[0], right=lambda point: gradient(point, None))
    found = row("penalty on the residual").explain(Study(case, places, lambda: None), [leaf])
    assert found[leaf].kind is Kind.PENALTY
    assert f"has its penalty, the one with lam, multiplied with {words}" in found[leaf].words


def test_two_integer_arguments_that_are_exchanged():
    """The index arrays of a message along an edge."""

    def by_edges(point):
        source, sink = point.arrays
        return [np.bincount(source, np.tanh(point.params[0][sink]) ** 2, 4)]

    rng = np.random.default_rng(1)
    several = [Point([rng.normal(size=4)], [], [np.array([0, 1, 2]), np.array([3, 0, 1])]) for _ in range(3)]
    places = [Place(p, by_edges(p._replace(arrays=p.arrays[::-1])), by_edges(p)) for p in several]
    case = study_of(lambda g, p: g).case._replace(names=["x"], labels=[], point=several[0], right=by_edges)
    case = case._replace(hand=places[0].hand, reference=places[0].right)
    found = row("argument").explain(Study(case, places, lambda: None), [0])
    assert found[0].words == "is the gradient as if array argument 0 and array argument 1 were exchanged."


def test_the_example_of_contributing():
    """A mistake is added as CONTRIBUTING shows it: function, row and example."""
    function, listed, shown = blocks_of("Adding a mistake to the gradient checker")
    inside = dict(vars(shapes))
    exec(function, inside)
    added = types.SimpleNamespace(**{name: inside[name] for name in set(inside) - set(vars(shapes))})
    (mistake,) = eval(listed, {"Mistake": Mistake, "each": each, "shapes": added})
    (example,) = eval(shown, {"Example": Example, "Kind": Kind, "np": np})
    assert mistake.name == example.row
    found = mistake.explain(study_of(example.change, example.leaf), [example.leaf])[example.leaf]
    assert found.kind is example.kind
    assert example.words in found.words
    assert not mistake.explain(study_of(lambda g, p: g + 1), [0])


def test_a_finding_says_whether_it_explains():
    """Only what says what was done counts as a cause."""
    made = study_of(lambda g, p: g)
    case = made.case._replace(hand=[2 * made.places[0].right[0], made.places[0].right[1]])
    doubled = case._replace(both=lambda point: ([2 * right(point)[0], right(point)[1]], right(point)))
    (known,) = explain(doubled)
    assert known.explains
    assert known.kind is Kind.FACTOR
    (stopped,) = explain(doubled._replace(seconds=0.0))
    assert not stopped.explains
    assert "stopped because its time was over" in stopped.message


def test_a_budget_ends_by_the_time_of_its_thread_and_later_by_the_clock(monkeypatch):
    now = {"cpu": 10.0, "wall": 100.0}
    monkeypatch.setattr(time, "thread_time", lambda: now["cpu"])
    monkeypatch.setattr(time, "monotonic", lambda: now["wall"])
    given = budget.budget_of(5.0)
    now["wall"] += 19.0  # a busy machine: the search has hardly run
    assert given.left() == 1.0
    now["wall"] -= 10.0
    assert given.left() == 5.0
    now["cpu"] += 3.0
    assert given.left() == 2.0
    now["cpu"] += 3.0
    assert given.left() == 0.0


def test_two_points_are_enough_for_an_explanation():
    """A loss that is defined at one other point only."""
    others = [right(moved(FIRST, 2.0, False))]

    def both(point):
        gradient = others.pop()
        return [2 * gradient[0], gradient[1]], gradient

    case = study_of(lambda g, p: 2 * g).case._replace(both=both)
    (found,) = explain(case._replace(elsewhere=lambda distance, arguments: moved(FIRST, 2.0, False)))
    assert found.kind is Kind.FACTOR


def test_a_search_that_ends_late_says_so(monkeypatch):
    """The time is over when the last row has been tried: it may have been cut short."""
    now = [0.0]
    monkeypatch.setattr(time, "thread_time", lambda: now[0])

    def slow(study, leaves):
        now[0] += 10.0
        return {}

    monkeypatch.setattr(table, "MISTAKES", (Mistake("slow", "the only one", slow),))
    case = study_of(lambda g, p: g + np.sin(7 * g)).case
    for seconds, words in ((5.0, "stopped because its time was over"), (60.0, "no single mistake that is known")):
        (found,) = explain(case._replace(seconds=seconds))
        assert words in found.message
