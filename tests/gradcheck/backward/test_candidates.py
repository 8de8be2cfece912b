"""What is tried on a loss, by planting the mistake in a gradient and reading the finding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgd.gradcheck.backward.candidates import candidates
from jaxgd.gradcheck.backward.program import quote
from jaxgd.gradcheck.backward.reading import read
from jaxgd.gradcheck.backward.record import record
from jaxgd.gradcheck.backward.sweep import Edge, Edit, backward
from jaxgd.gradcheck.backward.trial import trial
from jaxgd.gradcheck.budget import budget_of
from jaxgd.gradcheck.inputs import Point
from jaxgd.gradcheck.mistakes.nonfinite import origin

RNG = np.random.default_rng(0)
W, U, b = RNG.normal(size=(3, 3)), RNG.normal(size=(3, 2)), RNG.normal(size=3)
rows, target = RNG.normal(size=(4, 2)), RNG.normal(size=3)
x, y, w = RNG.normal(size=5), RNG.normal(size=5), RNG.normal(size=5)


@pytest.fixture(autouse=True)
def as_users_have_it():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def reading_of(loss, *args, params=1, grads=()):
    active = [i < params for i in range(len(args))]
    tape = record(jax.make_jaxpr(loss)(*args), args, active)._replace(grads=tuple(grads))
    return read(tape, [f"args[{i}]" for i in range(len(args))])


def tried(reading, *parts, number=0, share=1.0):
    """The gradient by an input under the candidate whose words have all the parts."""
    found = [c for c in candidates(reading) if all(part in c.words for part in parts)]
    assert found, f"no candidate says {parts}"
    tape = reading.tape
    for candidate in found:
        changed = candidate.values(tape) if candidate.values else tape
        gradient = backward(changed, [candidate.edits(changed)])[number]
        plain = backward(tape)[number][0]
        yield plain + share * (gradient[-1] - plain)


def unrolled(W, U, b, rows, target):
    h, total = jnp.zeros(3), 0.0
    for row in rows:
        h = jnp.tanh(W @ h + U @ row + b)
        total = total + jnp.sum((h - target) ** 2)
    return total


def scanned(W, U, b, rows, target):
    def step(h, row):
        h = jnp.tanh(W @ h + U @ row + b)
        return h, jnp.sum((h - target) ** 2)

    return jax.lax.scan(step, jnp.zeros(3), rows)[1].sum()


def backpropagation_through_time(carried=1.0, slope=lambda h: 1 - h**2, factor=1.0):
    """The gradient by `b` of the recurrence, by hand: what flows back to the turn before is scaled by `carried`."""
    states = [np.zeros(3)]
    for row in rows:
        states.append(np.tanh(W @ states[-1] + U @ row + b))
    later, gradient = np.zeros(3), np.zeros(3)
    for h in reversed(states[1:]):
        dz = (factor * 2 * (h - target) + carried * later) * slope(h)
        gradient, later = gradient + dz, W.T @ dz
    return gradient


@pytest.mark.parametrize("recurrence", [unrolled, scanned])
@pytest.mark.parametrize(
    ("parts", "made"),
    [
        (("not passed on to the turn before", "in each of the 4 turns"), {"carried": 0.0}),
        (("is left out, in each of its 4 occurrences", "the derivative of the tanh"), {"slope": np.ones_like}),
        (("is replaced by 1 - f, in each of its 4 occurrences",), {"slope": lambda h: 1 - h}),
    ],
    ids=["state cut", "slope left out", "slope replaced"],
)
def test_the_same_change_in_every_turn(recurrence, parts, made):
    reading = reading_of(recurrence, W, U, b, rows, target, params=3)
    expected = backpropagation_through_time(**made)
    assert any(np.allclose(found, expected, rtol=1e-9) for found in tried(reading, *parts, number=2))
    assert not np.allclose(expected, backpropagation_through_time())


def test_turns_of_a_loop_are_counted():
    reading = reading_of(unrolled, W, U, b, rows, target, params=3)
    assert max(reading.turns) == 3
    tanh = [turn for step, turn in zip(reading.tape.steps, reading.turns, strict=True) if step.name == "tanh"]
    assert tanh == [0, 1, 2, 3]


def huber(a, c):
    d = a - c
    return jnp.sum(w * jnp.where(jnp.abs(d) < 1, 0.5 * d * d, jnp.abs(d) - 0.5))


d = 3 * x - y


@pytest.mark.parametrize(
    ("parts", "inside"),
    [
        (("compares `a - c` with its sign, where its absolute value is meant",), d < 1),
        (("is inverted in the backward pass",), np.abs(d) >= 1),
        (("compares with 0",), np.zeros(5, bool)),
    ],
)
def test_the_condition_of_a_where(parts, inside):
    reading = reading_of(huber, 3 * x, y)
    expected = w * np.where(inside, d, np.sign(d))
    assert any(np.allclose(found, expected) for found in tried(reading, "condition of", *parts))


def test_a_condition_that_is_spread_over_rows():
    """The comparison is of one number for each row, and read through the broadcast."""

    def loss(h):
        return jnp.sum(W * jnp.where((jnp.abs(h) < 1)[:, None], h[:, None] * U[:, :1], jnp.sin(h)[:, None]))

    h = np.array([0.3, -2.0, 1.5])
    expected = np.where(h < 1, (W * U[:, :1]).sum(1), W.sum(1) * np.cos(h))
    found = tried(reading_of(loss, h), "compares args[0] with its sign, where its absolute value is meant")
    assert any(np.allclose(one, expected) for one in found)


def test_a_condition_that_lacks_one_of_its_parts():
    reading = reading_of(lambda a: jnp.sum(w * jnp.where((a > -0.5) & (a < 0.5), a * a, 0.0)), x)
    (first, second) = (w * np.where(part, 2 * x, 0) for part in (x > -0.5, x < 0.5))
    found = list(tried(reading, "lacks one of its two parts"))
    assert any(np.allclose(one, first) for one in found)
    assert any(np.allclose(one, second) for one in found)


def test_a_mask_that_only_the_values_have():
    def loss(a):
        return jnp.sum(w * jnp.exp(jnp.where(a > 0, a, -5.0)))

    # Computed once more without the mask, exp(a) stands in place of exp(-5); the mask of the gradient itself stays.
    (expected,) = (w * np.exp(x) * (x > 0),)
    assert any(np.allclose(found, expected) for found in tried(reading_of(loss, x), "without the mask"))


def test_a_factor_left_out_of_a_whole_product():
    def loss(a, scale):
        n = jnp.sqrt(jnp.sum(a**2))
        return jnp.sum(jnp.tanh(scale * a * n))

    n = np.sqrt(np.sum(x**2))
    ahead = 1 - np.tanh(y * x * n) ** 2
    expected = ahead * n + np.sum(ahead * x) * x / n
    found = tried(reading_of(loss, x, y), "the factor args[1] is left out")
    assert any(np.allclose(one, expected) for one in found)


def test_a_parameter_that_has_already_been_updated():
    P, Q, R = RNG.normal(size=(4, 2)), RNG.normal(size=(2, 5)), RNG.normal(size=(4, 5))
    E = R - P @ Q
    grads = [-2 * E @ Q.T, -2 * P.T @ E]
    reading = reading_of(lambda P, Q, R: jnp.sum((R - P @ Q) ** 2), P, Q, R, params=2, grads=grads)
    expected = -2 * (P - 0.05 * grads[0]).T @ E
    found = tried(reading, "args[0] has already been updated", number=1, share=0.05)
    assert any(np.allclose(one, expected) for one in found)


def test_an_output_of_an_operation_with_several():
    S = W @ W.T + np.eye(3)
    values, vectors = np.linalg.eigh(S)

    def loss(S):
        values, vectors = jnp.linalg.eigh(S)
        return jnp.sum(vectors[:, 0] ** 2 * b) + jnp.sum(values**2)

    expected = 2 * vectors @ np.diag(values) @ vectors.T
    found = tried(reading_of(loss, S), "the path through the eigenvectors of", "is left out")
    assert any(np.allclose(one, expected) for one in found)


@pytest.mark.parametrize(
    ("loss", "parts", "expected"),
    [
        (lambda a, c: jnp.sum(w * jnp.maximum(a, 0) * c), ("the mask of", "the sign of another array, args[1]"),
         w * y * (y > 0)),
        (lambda a, c: jnp.sum(w * jnp.maximum(a, 0) * c), ("the mask of", "the opposite of the sign of another array"),
         w * y * (y <= 0)),
        (lambda a, c: jnp.sum(jnp.sin(w * c) * (a * (c + 1))), ("in the product", "args[1] stands in place of `c + 1`"),
         np.sin(w * y) * y),
    ],
    ids=["mask", "opposite mask", "factor"],
)  # fmt: skip
def test_another_array_of_the_shape(loss, parts, expected):
    assert any(np.allclose(found, expected) for found in tried(reading_of(loss, x, y), *parts))


def test_rows_of_variants_do_not_disturb_each_other():
    """Each variant alone gives what it gives among others, and row 0 is the pass without a change."""
    reading = reading_of(unrolled, W, U, b, rows, target, params=3)
    some = candidates(reading)[::37]
    together = backward(reading.tape, [candidate.edits(reading.tape) for candidate in some if not candidate.values])
    alone = [
        backward(reading.tape, [candidate.edits(reading.tape)])[2][1] for candidate in some if not candidate.values
    ]
    np.testing.assert_allclose(together[2][0], backpropagation_through_time(), rtol=1e-12)
    np.testing.assert_allclose(together[2][1:], alone, rtol=1e-12, atol=1e-15)


def test_an_edit_that_does_not_fit_the_shape_changes_nothing():
    reading = reading_of(lambda a: jnp.sum(w * jnp.sin(a)), x)
    sine = next(i for i, step in enumerate(reading.tape.steps) if step.name == "sin")
    edit = Edit(Edge(sine, 0), lambda ahead, right: ahead[:, :2])
    np.testing.assert_allclose(backward(reading.tape, [[edit]])[0][1], w * np.cos(x))


def test_a_trial_measures_constants_and_shares():
    reading = reading_of(lambda a, c: jnp.sum(w * jnp.sin(a) * c) + jnp.sum(a), x, y)
    cut = [c for c in candidates(reading) if c.share == "path" and "to `w * jnp.sin(a)`" in c.words][:1]
    plain = w * np.cos(x) * y
    result = trial(reading.tape, [cut], [1 + 3 * plain])
    assert result.shared[0, 0] < 1e-12
    np.testing.assert_allclose(result.share[0, 0], -2)  # the path is taken 1 - share = 3 times
    result = trial(reading.tape, [cut], [np.full(5, 7.0)])
    assert result.scaled[0, 0] < 1e-12
    np.testing.assert_allclose(result.constant[0, 0], 7)
    assert not np.isfinite(trial(reading.tape, [cut], [plain], budget=budget_of(0.0)).misfit).any()


def test_an_expression_is_quoted_with_its_place():
    (sine, _, _) = jax.make_jaxpr(lambda a: jnp.sum(w * jnp.sin(a)))(x).jaxpr.eqns
    assert quote(sine).startswith("`jnp.sin(a)` (test_candidates.py:")


def test_the_operation_that_makes_nan():
    def loss(a):
        return jnp.sum(jnp.where(a < 1, a, jnp.sqrt(a)))

    zero = np.array([0.0, 2.0])
    said = origin(jax.make_jaxpr(loss)(zero), Point([zero], [], []), ["a"])
    assert said.startswith("It arises where the derivative of `jnp.sqrt(a)` (test_candidates.py:")
    assert "by a is not finite, and is multiplied with a gradient of 0, which gives nan" in said
    assert origin(jax.make_jaxpr(loss)(zero + 1), Point([zero + 1], [], []), ["a"]) == ""


def carried_back(other_rows=None):
    """The gradient by `U` of the recurrence with other rows in the backward pass."""
    states = [np.zeros(3)]
    for row in rows:
        states.append(np.tanh(W @ states[-1] + U @ row + b))
    later, gradient = np.zeros(3), np.zeros((3, 2))
    for h, row in zip(reversed(states[1:]), reversed(rows if other_rows is None else other_rows), strict=True):
        dz = (2 * (h - target) + later) * (1 - h**2)
        gradient, later = gradient + np.outer(dz, row), W.T @ dz
    return gradient


@pytest.mark.parametrize("recurrence", [unrolled, scanned])
@pytest.mark.parametrize(
    ("words", "numbers"),
    [
        ("for the first turn", [0, 0, 0, 0]),
        ("for the last turn", [3, 3, 3, 3]),
        ("for the next turn", [1, 2, 3, 3]),
        ("for the turn before", [0, 0, 1, 2]),
    ],
)
def test_the_row_of_another_turn(recurrence, words, numbers):
    reading = reading_of(recurrence, W, U, b, rows, target, params=3)
    (found,) = tried(reading, f"the row of args[3] {words} stands in each turn", number=1)
    np.testing.assert_allclose(found, carried_back(rows[numbers]), rtol=1e-10)
    np.testing.assert_allclose(backward(reading.tape)[1][0], carried_back(), rtol=1e-10)


def test_the_state_of_the_turn_before_in_a_slope():
    """Also in the first turn, into which the initial state goes."""
    reading = reading_of(unrolled, W, U, b, rows, target, params=3)
    assert len(reading.carried[0]) == 4
    states = [np.zeros(3)]
    for row in rows:
        states.append(np.tanh(W @ states[-1] + U @ row + b))
    later, expected = np.zeros(3), np.zeros(3)
    for h, before in zip(reversed(states[1:]), reversed(states[:-1]), strict=True):
        dz = (2 * (h - target) + later) * (1 - before**2)
        expected, later = expected + dz, W.T @ dz
    found = tried(reading, "of the turn before in place of its value, in each of its 4 occurrences", number=2)
    assert any(np.allclose(one, expected) for one in found)


def test_the_slope_at_another_array():
    reading = reading_of(lambda a, c: jnp.sum(w * jnp.sin(a) * c), x, y)
    assert any(
        np.allclose(one, w * np.cos(y) * y) for one in tried(reading, "is taken at args[1], not at its argument")
    )
    reading = reading_of(lambda a, c: jnp.sum(w * jax.nn.sigmoid(a) * c), x, y)
    assert any(
        np.allclose(one, w * y * y * (1 - y)) for one in tried(reading, "is taken of args[1] in place of its value")
    )
    reading = reading_of(lambda a, c: jnp.sum(w * jax.nn.softplus(a) * c), x, y)
    found = tried(reading, "the derivative of", "softplus(a)", "is taken at args[1], not at its argument")
    assert any(np.allclose(one, w * y / (1 + np.exp(-y))) for one in found)
    reading = reading_of(lambda a, c: jnp.sum(w * jnp.exp(a) * c), x, y)
    assert any(np.allclose(one, w * y * y) for one in tried(reading, "is taken of args[1] in place of its value"))


@pytest.mark.parametrize("sign", [1, -1])
def test_another_array_in_the_slope_of_a_sigmoid_that_is_written_out(sign):
    """Also of the negated argument, whose derivative has a minus sign more."""
    value = 1 / (1 + np.exp(-sign * x))
    reading = reading_of(lambda a, c: jnp.sum(w * (1 / (1 + jnp.exp(-sign * a))) * c), x, y)
    found = tried(reading, "a formula of its value, is taken of args[1] in place of its value")
    assert any(np.allclose(one, sign * w * y * y * (1 - y)) for one in found)
    found = tried(reading, "at its value f, is replaced by 1 - f^2")
    assert any(np.allclose(one, sign * w * y * (1 - value**2)) for one in found)


def test_a_constant_that_is_forgotten():
    reading = reading_of(lambda a: jnp.sum(w * a) / jnp.sqrt(jnp.sum(a * a) + 0.25), x)
    n = np.sqrt(np.sum(x * x))
    (found,) = tried(reading, "the constant 0.25 of `jnp.sum(a * a) + 0.25`", "is left out in the backward pass")
    np.testing.assert_allclose(found, w / n - np.sum(w * x) * x / n**3, rtol=1e-12)


def test_another_input_in_a_difference():
    reading = reading_of(lambda a, c, e: jnp.sum((a - c) ** 2 - (a - e) ** 2), x, y, w, params=3)
    (found,) = tried(reading, "in `a - e`", "args[1] stands in place of args[0]", number=2)
    np.testing.assert_allclose(found, 2 * (y - w))


@pytest.mark.parametrize(
    ("words", "value"), [("is left out", x), ("is taken twice", x - 2 * y), ("the other sign", x + y)]
)
def test_an_input_of_a_difference_that_counts_differently(words, value):
    reading = reading_of(lambda a, c: jnp.sum(w * jnp.sin(a - c)), x, y)
    (found,) = tried(reading, "in the value of `a - c`", "args[1]", words)
    np.testing.assert_allclose(found, w * np.cos(value))


def test_equal_expressions_of_a_line_are_told_apart():
    reading = reading_of(lambda a, c: jnp.sum(jnp.sin(a + c) * jnp.cos(a + c)), x, y)
    cuts = {c.words for c in candidates(reading) if "the path from the sum `a + c`" in c.words}
    assert {part for words in cuts for part in ("the first of 2 alike", "the second of 2 alike") if part in words} == {
        "the first of 2 alike",
        "the second of 2 alike",
    }


def test_constants_and_operations_of_a_library_have_names():
    def loss(a):
        return jnp.sum(jnp.array([3.0, 1.0, 2.0]) * a[:3]) + jnp.sum(jax.scipy.special.logsumexp(a))

    words = " ".join(candidate.words for candidate in candidates(reading_of(loss, x)))
    assert "the other factor [3, 1, 2] is left out" in words
    assert "the exp inside `jax.scipy.special.logsumexp(a)`" in words
    assert "turn" not in words


def test_a_layer_of_another_width():
    """Only what is passed on lacks the slope; the gradient by the weights has it."""

    def loss(h, m):
        return jnp.sum(W[0, :2] * jnp.tanh(m @ h))

    m = RNG.normal(size=(2, 5))
    reading = reading_of(loss, x, m, params=2)
    (found,) = tried(reading, "back to args[0]", "the derivative of the tanh is left out")
    np.testing.assert_allclose(found, m.T @ W[0, :2])


p4, q4, w4 = RNG.normal(size=(3, 4))


def test_axes_of_an_operand_of_einsum():
    T, X, y = RNG.normal(size=(3, 3, 3)), RNG.normal(size=(2, 3)), RNG.normal(size=(2, 3))

    def loss(x, t):
        return jnp.sum(jnp.sin(jnp.einsum("bi,ijk,bk->bj", x, t, y)))

    ahead = np.cos(np.einsum("bi,ijk,bk->bj", X, T, y))
    reading = reading_of(loss, X, T, params=2)
    for axes, exchanged in (("0 and 1", "jik"), ("0 and 2", "kji"), ("1 and 2", "ikj")):
        (found,) = tried(reading, "by args[0], the axes", f"axes {axes} of args[1] are exchanged")
        np.testing.assert_allclose(found, np.einsum(f"bj,{exchanged},bk->bi", ahead, T, y))


def test_two_inputs_exchanged_in_the_local_derivatives():
    def loss(q, p, r):
        return jnp.sum(jnp.sin(p * q[0] + r * jnp.sum(q)))

    p, r = 0.3, 0.7
    ahead = np.cos(p * p4[0] + r * p4.sum())
    (found,) = tried(reading_of(loss, p4, p, r), "args[1] and args[2] are exchanged in the local derivatives")
    np.testing.assert_allclose(found, ahead * (p + r * (np.arange(4) == 0)))


def product(p, q):
    """Of quaternions."""
    (s, x, y, z), (t, u, v, w) = p, q
    return [s * t - x * u - y * v - z * w, s * u + x * t + y * w - z * v, s * v - x * w + y * t + z * u,
            s * w + x * v - y * u + z * t]  # fmt: skip


def conjugate(q):
    return q * np.array([1, -1, -1, -1])


def test_the_factors_of_a_product_that_does_not_commute():
    reading = reading_of(lambda p, q: jnp.sum(w4 * jnp.sin(jnp.stack(product(p, q)))), p4, q4, params=2)
    ahead = w4 * np.cos(product(p4, q4))
    for number, right, wrong in (
        (0, product(ahead, conjugate(q4)), product(conjugate(q4), ahead)),
        (1, product(conjugate(p4), ahead), product(ahead, conjugate(p4))),
    ):
        (found,) = tried(reading, f"by args[{number}], the two factors are in the wrong order", number=number)
        np.testing.assert_allclose(found, wrong)
        assert not np.allclose(wrong, right)


def test_a_product_that_commutes_or_is_none_is_left_alone():
    for loss in (lambda p, q: jnp.sum(jnp.stack([p[0] * q[1], p[1] + q[0]])), lambda p, q: jnp.sum(p * jnp.exp(q))):
        assert not any("does not commute" in c.words for c in candidates(reading_of(loss, p4, q4, params=2)))
