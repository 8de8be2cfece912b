"""check_rule and assert_rule: right and wrong rules in every form, with every kind of argument."""

import functools
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common import quick

import jaxgd
from jaxgd import gradcheck
from jaxgd.gradcheck import Kind
from jaxgd.gradcheck.rules import forgotten, parts
from jaxgd.gradcheck.rules.evaluate import evaluator_of
from jaxgd.gradcheck.rules.forms import rule_of
from jaxgd.gradcheck.rules.problem import problem_of

X = jnp.array([0.3, -1.2, 0.7, 2.0])
Y = jnp.array([0.5, 0.1, -0.4, 1.0])
ROWS = jnp.linspace(-1.0, 1.5, 12).reshape(3, 4)
IDS = jnp.array([0, 0, 1, 1])


def with_vjp(f: Any, fwd: Any, bwd: Any, **options: Any) -> Any:
    """A jax.custom_vjp of a function, made in one expression."""
    rule = jax.custom_vjp(f, nondiff_argnums=options.pop("nondiff_argnums", ()))
    rule.defvjp(fwd, bwd, **options)
    return rule


def with_jvp(f: Any, jvp: Any, **options: Any) -> Any:
    """A jax.custom_jvp of a function, made in one expression."""
    rule = jax.custom_jvp(f, **options)
    rule.defjvp(jvp)
    return rule


def sin(x: Any) -> Any:
    return jnp.sin(x)


def sine(bwd: Any) -> Any:
    return with_vjp(sin, lambda x: (jnp.sin(x), x), bwd)


def sub(a: Any, b: Any) -> Any:
    return a - b


def add_bias(x: Any, b: Any) -> Any:
    return x + b[None, :]


def relu(x: Any) -> Any:
    return jnp.maximum(x, 0)


def cut(x: Any) -> Any:
    return jnp.where(x > 0.5, x * x, 0)


def swish(x: Any) -> Any:
    return x * jax.nn.sigmoid(x)


def turned(x: Any) -> Any:
    x = jnp.sinh(x)
    return jnp.concatenate([0.6 * x[:2] - 0.8 * x[2:], 0.8 * x[:2] + 0.6 * x[2:]])


def softmax(x: Any) -> Any:
    return jnp.exp(x) / jnp.sum(jnp.exp(x))


def masked_softmax(x: Any) -> Any:
    return softmax(jnp.where(jnp.arange(4) < 3, x, -1e30))


def square_and_sine(x: Any) -> Any:
    return jnp.sin(x) + x * x


def two(x: Any, y: Any) -> Any:
    return {"product": x * y, "sums": (jnp.sum(x), jnp.sum(y * y))}


def two_pulled(res: Any, g: Any) -> Any:
    x, y = res
    return g["product"] * y + g["sums"][0], g["product"] * x + 2 * y * g["sums"][1]


def segments(scale: Any, params: Any, ids: Any) -> Any:
    return jax.ops.segment_sum(scale * params["w"] * jnp.exp(params["b"]), ids, 2)


def segments_pulled(scale: Any, res: Any, g: Any) -> Any:
    params, ids = res
    arriving = scale * jnp.exp(params["b"]) * g[ids]
    return {"w": arriving, "b": arriving * params["w"]}, None


def apply(function: Any, x: Any) -> Any:
    return function(x)


def counted(x: Any) -> Any:
    return x * x, jnp.argmax(x)


SEGMENTS = functools.partial(
    with_vjp, segments, lambda scale, params, ids: (segments(scale, params, ids), (params, ids)), nondiff_argnums=(0,)
)
SEGMENT_ARGS = (3.0, {"w": X, "b": Y}, IDS)

RIGHT: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "vector": (sine(lambda x, g: (g * jnp.cos(x),)), (X,)),
    "scalar": (sine(lambda x, g: (g * jnp.cos(x),)), (0.7,)),
    "matrix": (sine(lambda x, g: (g * jnp.cos(x),)), (ROWS,)),
    "bfloat16": (sine(lambda x, g: (g * jnp.cos(x),)), (X.astype(jnp.bfloat16),)),
    "tree of outputs": (with_vjp(two, lambda x, y: (two(x, y), (x, y)), two_pulled), (X, Y)),
    "tree, integer and nondifferentiable arguments": (SEGMENTS(segments_pulled), SEGMENT_ARGS),
    "function argument": (
        with_vjp(apply, lambda f, x: (f(x), x), lambda f, x, g: (jax.vjp(f, x)[1](g)[0],), nondiff_argnums=(0,)),
        (jnp.tanh, X),
    ),
    "integer output": (with_vjp(counted, lambda x: (counted(x), x), lambda x, g: (2 * x * g[0],)), (X,)),
    "symbolic zeros": (
        with_vjp(
            sub,
            lambda a, b: (a.value - b.value, None),
            lambda _, g: (g, -g),
            symbolic_zeros=True,
        ),
        (X, Y),
    ),
    "None for a derivative that is zero": (
        with_vjp(lambda x, y: x + 0 * y, lambda x, y: (x + 0 * y, None), lambda _, g: (g, None)),
        (X, Y),
    ),
    "inside jit": (jax.jit(sine(lambda x, g: (g * jnp.cos(x),))), (X,)),
    "clipping that changes nothing here": (
        with_vjp(lambda x: x, lambda x: (x, None), lambda _, g: (jnp.clip(g, -1e9, 1e9),)),
        (X,),
    ),
    "jvp": (with_jvp(sin, lambda p, t: (jnp.sin(p[0]), jnp.cos(p[0]) * t[0])), (X,)),
    "jvp with a nondifferentiable argument": (
        with_jvp(lambda n, x: x**n, lambda n, p, t: (p[0] ** n, n * p[0] ** (n - 1) * t[0]), nondiff_argnums=(0,)),
        (3, X),
    ),
    "jvp, integer argument": (
        with_jvp(lambda x, i: x[i] ** 2, lambda p, t: (p[0][p[1]] ** 2, 2 * p[0][p[1]] * t[0][p[1]])),
        (X, IDS),
    ),
    "relu of the library": (jax.nn.relu, (X,)),
    "pair that saves": ((lambda x: (x**3, x), lambda saved, g: 3 * saved**2 * g), (X,)),
    "pair in NumPy, incoming gradient first": (
        (
            lambda x, w: (np.tanh(x @ w), (x, w, np.tanh(x @ w))),
            lambda dout, cache: (
                (dout * (1 - cache[2] ** 2)) @ cache[1].T,
                cache[0].T @ (dout * (1 - cache[2] ** 2)),
            ),
        ),
        (np.linspace(-1, 1, 6).reshape(2, 3), np.linspace(-1, 2, 6).reshape(3, 2)),
    ),
    "pair of the arguments": ((lambda a, b: a * b, lambda a, b, g: (g * b, g * a)), (X, Y)),
}


class Wrong(NamedTuple):
    """A wrong rule, and what the report must say."""

    f: Any
    args: tuple[Any, ...]
    leaves: set[str]
    kind: Kind
    words: str


WRONG: dict[str, Wrong] = {
    "incoming gradient not used": Wrong(
        sine(lambda x, g: (jnp.cos(x),)), (X,), {"x"}, Kind.INCOMING,
        r"x is the same whatever the incoming gradient is: .* is not used \(the result is right only where .* is 1",
    ),
    "incoming gradient used twice": Wrong(
        sine(lambda x, g: (g * g * jnp.cos(x),)), (X,), {"x"}, Kind.INCOMING, "is multiplied in twice",
    ),
    "one term lacks the incoming gradient": Wrong(
        with_vjp(square_and_sine, lambda x: (square_and_sine(x), x), lambda x, g: (g * jnp.cos(x) + 2 * x,)),
        (X,), {"x"}, Kind.INCOMING, "one term lacks the incoming gradient",
    ),
    "incoming gradient used twice in a term": Wrong(
        with_vjp(square_and_sine, lambda x: (square_and_sine(x), x),
                 lambda x, g: (g * jnp.cos(x) + 2 * x * g * g,)),
        (X,), {"x"}, Kind.INCOMING, "has a term that grows with the square",
    ),
    "absolute value of the incoming gradient": Wrong(
        sine(lambda x, g: (jnp.abs(g) * jnp.cos(x),)), (X,), {"x"}, Kind.INCOMING, "an absolute value",
    ),
    "mask of the incoming gradient": Wrong(
        with_vjp(relu, lambda x: (relu(x), x), lambda x, g: (jnp.where(g > 0, g, 0),)),
        (X,), {"x"}, Kind.INCOMING, "a mask or an absolute value",
    ),
    "direction of the incoming gradient": Wrong(
        sine(lambda x, g: (g / jnp.linalg.norm(g) * jnp.cos(x),)), (X,), {"x"}, Kind.INCOMING, "over its norm",
    ),
    "incoming gradient clipped": Wrong(
        sine(lambda x, g: (jnp.clip(g, -0.1, 0.1) * jnp.cos(x),)), (X,), {"x"}, Kind.INCOMING, "is clipped",
    ),
    "sign of one argument": Wrong(
        with_vjp(sub, lambda a, b: (a - b, None), lambda _, g: (g, g)), (X, Y), {"b"}, Kind.SIGN,
        r"b is -1 times the gradient in all 4 entries: the sign is wrong.\n.*`a - b` \(test_rules.py",
    ),
    "factor": Wrong(
        with_vjp(lambda x: x * x, lambda x: (x * x, x), lambda x, g: (g * x,)), (X,), {"x"}, Kind.FACTOR,
        "x is 0.5 times the gradient",
    ),
    "cotangents swapped": Wrong(
        with_vjp(lambda a, b: a * b, lambda a, b: (a * b, (a, b)), lambda res, g: (g * res[0], g * res[1])),
        (X, Y), {"a", "b"}, Kind.SWAPPED, "a is the gradient of b",
    ),
    "zeros for an argument": Wrong(
        with_vjp(lambda m, v: m @ v, lambda m, v: (m @ v, (m, v)),
                 lambda res, g: (jnp.outer(g, res[1]), jnp.zeros_like(res[1]))),
        (ROWS, X), {"v"}, Kind.ZERO, "v is zero everywhere",
    ),
    "None for an argument": Wrong(
        with_vjp(lambda m, v: m @ v, lambda m, v: (m @ v, (m, v)), lambda res, g: (jnp.outer(g, res[1]), None)),
        (ROWS, X), {"v"}, Kind.ZERO, "v: the backward pass returns None",
    ),
    "one leaf of a tree, with integer and nondifferentiable arguments": Wrong(
        SEGMENTS(lambda scale, res, g: (
            {"w": jnp.exp(res[0]["b"]) * g[res[1]], "b": segments_pulled(scale, res, g)[0]["b"]}, None)),
        SEGMENT_ARGS, {"params['w']"}, Kind.FACTOR, r"params\['w'\] is 0.3333 times the gradient",
    ),
    "one output of a tree": Wrong(
        with_vjp(two, lambda x, y: (two(x, y), (x, y)), lambda res, g: (two_pulled(res, g)[0], g["product"] * res[0])),
        (X, Y), {"y"}, Kind.ARGUMENT,
        r"y is the gradient as if the incoming gradient\['sums'\]\[1\] were 0: it is left out",
    ),
    "broadcast not summed": Wrong(
        with_vjp(add_bias, lambda x, b: (add_bias(x, b), None), lambda _, g: (g, g)), (ROWS, X), {"b"}, Kind.NOT_SUMMED,
        r"b has shape \(3, 4\), the argument \(4,\): it is the gradient once summed over axis 0",
    ),
    "mask inverted": Wrong(
        with_vjp(cut, lambda x: (cut(x), x), lambda x, g: (jnp.where(x > 0.5, 0, 2 * g * x),)),
        (X,), {"x"}, Kind.MASK, "the mask of .* is inverted",
    ),
    "residual of another call": Wrong(
        with_vjp(lambda x: jnp.exp(x), lambda x: (jnp.exp(x), None), lambda _, g: (g * jnp.exp(X),)),
        (X,), {"x"}, Kind.STALE, "x does not change with the parameters",
    ),
    "value saved in place of the argument": Wrong(
        sine(lambda x, g: (g * jnp.cos(jnp.sin(x)),)), (X,), {"x"}, Kind.DERIVATIVE, "at its value instead",
    ),
    "output saved in place of the argument": Wrong(
        with_vjp(swish, lambda x: (swish(x), swish(x)), lambda y, g: (jax.vjp(swish, y)[1](g)[0],)),
        (X,), {"x"}, Kind.DERIVATIVE, "is taken at its value instead of at its argument",
    ),
    "Jacobian not transposed": Wrong(
        with_vjp(turned, lambda x: (turned(x), x), lambda x, g: (jax.jvp(turned, (x,), (g,))[1],)),
        (X,), {"x"}, Kind.TRANSPOSED,
        "x is the Jacobian by x times the incoming gradient, where its transpose is meant",
    ),
    "mask not applied again": Wrong(
        with_vjp(masked_softmax, lambda x: (masked_softmax(x), x), lambda x, g: (jax.vjp(softmax, x)[1](g)[0],)),
        (X,), {"x"}, Kind.MASK,
        r"x is the derivative of the function without the where `jnp.where\(.*test_rules.py:\d+\): the backward pass",
    ),
    "local derivative left out": Wrong(
        with_vjp(lambda x: jnp.tanh(x) ** 3, lambda x: (jnp.tanh(x) ** 3, x), lambda x, g: (3 * g * jnp.tanh(x) ** 2,)),
        (X,), {"x"}, Kind.DERIVATIVE, r"the derivative of the tanh `jnp.tanh\(x\)` \(test_rules.py:\d+\) is left out",
    ),
    "too few cotangents": Wrong(
        with_vjp(sub, lambda a, b: (a - b, None), lambda _, g: (g,)), (X, Y), {"a", "b"}, Kind.STRUCTURE,
        r"returns 1 cotangents; it must return one for each of \(a, b\)",
    ),
    "no tuple": Wrong(
        sine(lambda x, g: g * jnp.cos(x)), (X,), {"x"}, Kind.STRUCTURE,
        r"returns an array of shape \(4,\); it must return a tuple of one cotangent for each of \(x\)",
    ),
    "a list for a tuple": Wrong(
        with_vjp(lambda p: p[0] * p[1], lambda p: (p[0] * p[1], p), lambda p, g: ([g * p[1], g * p[0]],)),
        ((X, Y),), set(), Kind.STRUCTURE, "other containers",
    ),
    "backward raises": Wrong(
        sine(lambda x, g: (g * x["missing"],)), (X,), {"x"}, Kind.RAISED, "the rule raised TypeError",
    ),
    "forward returns other values": Wrong(
        with_vjp(sin, lambda x: (jnp.cos(x), x), lambda x, g: (g * jnp.cos(x),)), (X,), set(), Kind.FORWARD,
        "the forward pass of the rule returns other values than `sin`",
    ),
    "straight-through estimator": Wrong(
        with_vjp(lambda x: jnp.round(x), lambda x: (jnp.round(x), None), lambda _, g: (g,)), (X,), {"x"},
        Kind.SURROGATE, r"derivative .* is zero here.*\n.*surrogate=",
    ),
    "jvp, sign": Wrong(
        with_jvp(sub, lambda p, t: (p[0] - p[1], t[0] + t[1])), (X, Y), {"b"}, Kind.SIGN, "b is -1 times the gradient",
    ),
    "jvp, tangent not used": Wrong(
        with_jvp(lambda x, y: jnp.sin(x) * y,
                 lambda p, t: (jnp.sin(p[0]) * p[1], jnp.cos(p[0]) * p[1] + jnp.sin(p[0]) * t[1])),
        (X, Y), {"x"}, Kind.INCOMING, "x: the output tangent is the same whatever the tangent of x is",
    ),
    "jvp, tangent used twice": Wrong(
        with_jvp(sin, lambda p, t: (jnp.sin(p[0]), jnp.cos(p[0]) * t[0] * t[0])), (X,), {"x"}, Kind.INCOMING,
        "the tangent of x is multiplied in twice",
    ),
    "pair, power left out": Wrong(
        (lambda x: (x**3, x), lambda saved, g: 3 * saved * g), (X,), {"x"}, Kind.DERIVATIVE,
        "lacks a factor x, its argument",
    ),
    "pair in NumPy, incoming gradient not used": Wrong(
        (lambda x, w: (np.tanh(x * w), (x, w)), lambda dout, cache: (
            (1 - np.tanh(cache[0] * cache[1]) ** 2) * cache[1],
            dout * (1 - np.tanh(cache[0] * cache[1]) ** 2) * cache[0])),
        (np.array([0.3, -1.2]), np.array([0.5, 2.0])), {"x"}, Kind.INCOMING, "is not used",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", quick(RIGHT, list(RIGHT)[::3]))
def test_right_rule(name: str) -> None:
    f, args = RIGHT[name]
    jaxgd.assert_rule(f, *args)


@pytest.mark.parametrize("name", quick(WRONG, list(WRONG)[::2]))
def test_wrong_rule(name: str) -> None:
    case = WRONG[name]
    report = jaxgd.check_rule(case.f, *case.args)
    assert not report.ok
    assert {leaf.leaf for leaf in report.leaves if not leaf.ok} == case.leaves, report
    wrong = [finding for finding in report.findings if finding.wrong]
    assert {finding.kind for finding in wrong} == {case.kind}, report
    assert re.search(case.words, "\n".join(finding.message for finding in wrong)), report


MADE = np.array([[2.0, 3.0, 0.0], [0.0, 5.0, 7.0]])


@pytest.mark.parametrize(
    ("made", "right", "kind", "words"),
    [
        (MADE, MADE + np.array([[0, 0, 4.0], [0, 0, 0]]), Kind.PATH,
         r"lacks, in entry \[0\], the part that comes from entry \[2\] of the incoming gradient"),
        (MADE, MADE * [[0], [1]], Kind.MASK, r"is not zero in entry \[0\], where the derivative is zero"),
        (MADE * [[0], [1]], MADE, Kind.MASK, r"is zero in entry \[0\], where the derivative is not zero"),
        (MADE, MADE * [[1, 0, 1], [1, 0, 1]], Kind.PATH,
         r"has, in all 2 entries, a part that comes from entry \[1\] of the incoming gradient and does not belong"),
        (np.array([[1.0, 1.5, 2.0], MADE[1]]), np.array([[2.0, 3.0, 1.0], MADE[1]]), Kind.FACTOR,
         r"wrong in entry \[0\]: a factor that belongs to the part from entry \[2\] .* onto the part from the"),
    ],
)  # fmt: skip
def test_parts_of_the_incoming_gradient(made: Any, right: Any, kind: Kind, words: str) -> None:
    found = parts.compare(made, right, (2,), (3,))
    assert found is not None
    assert found[0] is kind
    assert re.search(words, found[1]), found
    assert parts.compare(made, 3 * made, (2,), (3,)) is None


@pytest.mark.parametrize(
    ("name", "operation"),
    [
        ("where", lambda x: jnp.where(x < 1, x, 0.0)),
        ("maximum", lambda x: jnp.maximum(x, -0.5)),
        ("minimum", lambda x: jnp.minimum(x, 0.5)),
        ("clip", lambda x: jax.lax.clamp(-0.5, x, 0.5)),
        ("product", lambda x: x * Y),
        ("quotient", lambda x: x / Y),
        ("sum", lambda x: x + Y),
        ("difference", lambda x: x - Y),
    ],
)
def test_operation_left_out(name: str, operation: Any) -> None:
    """Without the operation inside the sine, its derivative is g cos(x)."""
    rule = with_vjp(lambda x: jnp.sin(operation(x)), lambda x: (jnp.sin(operation(x)), x), lambda x, g: (g,))
    problem = problem_of(rule_of(rule, (X,)), (X,))
    evaluator = evaluator_of(problem)
    incoming = problem.incoming(np.random.default_rng(0))
    (g,) = incoming.values()
    said = [
        words
        for (_, words), predicted in forgotten.derivatives(evaluator, [(evaluator.params, incoming)])
        if np.allclose(predicted[0]["x"], g * np.cos(X), rtol=1e-12)
    ]
    assert any(words.startswith(f"is the derivative of the function without the {name}") for words in said)


@pytest.mark.slow
def test_worked_mistakes_of_the_documentation() -> None:
    """The sentences that the docstring of check_rule quotes are those of the reports."""
    text = " ".join((gradcheck.check_rule.__doc__ or "").split())
    quoted = re.findall(r'"([^"]+\.)"', text)
    rows, bias, five = jnp.ones((4, 3)), jnp.array([0.5, -1.0, 2.0]), jnp.linspace(0.1, 0.9, 5)
    round_ste = with_vjp(lambda x: jnp.round(x), lambda x: (jnp.round(x), None), lambda _, g: (g,))
    calls = [
        (WRONG["incoming gradient not used"].f, (five,)),
        (WRONG["sign of one argument"].f, (five, 2 * five)),
        (WRONG["output saved in place of the argument"].f, (five,)),
        (WRONG["broadcast not summed"].f, (rows, bias)),
        (round_ste, (five,)),
    ]
    assert len(quoted) == len(calls)
    for sentence, (f, args) in zip(quoted, calls, strict=True):
        said = " ".join(str(gradcheck.check_rule(f, *args)).replace("<lambda>", "f").split())
        assert sentence in said


def test_report_names_function_and_arguments() -> None:
    rule = WRONG["sign of one argument"].f
    with pytest.raises(AssertionError, match=r"WRONG: the rule of `sub` \(test_rules.py:\d+\)\n  ok     a .*\n  W"):
        jaxgd.assert_rule(rule, X, Y)


@pytest.mark.parametrize("bwd", [lambda _, g: (-g,), lambda _, g: (jnp.clip(g, -0.1, 0.1),)])
def test_rule_of_a_function_that_changes_nothing(bwd: Any) -> None:
    """Gradient reversal and gradient clipping differ from the derivative, and the report says that they may."""
    report = gradcheck.check_rule(with_vjp(lambda x: x, lambda x: (x, None), bwd), X)
    assert not report.ok
    assert [finding.kind for finding in report.findings if not finding.wrong] == [Kind.SURROGATE]
    assert "returns x unchanged" in str(report)


def test_declared_surrogate() -> None:
    rule = WRONG["straight-through estimator"].f
    assert gradcheck.check_rule(rule, X, surrogate=lambda x: x).ok
    assert not gradcheck.check_rule(rule, X, surrogate=lambda x: 2 * x).ok


class Layer:
    """A student's layer, which keeps what its backward pass needs."""

    def forward(self, x: Any) -> Any:
        self.x = x
        return x * x

    def backward(self, g: Any) -> Any:
        return 2 * self.x * g


def test_methods_that_keep_values_leave_the_object_alone() -> None:
    layer = Layer()
    layer.x = "untouched"
    assert gradcheck.check_rule((layer.forward, layer.backward), X).ok
    assert layer.x == "untouched"


def test_function_that_calls_rules() -> None:
    wrong = WRONG["sign of one argument"].f

    def difference_of_tanh(a: Any, b: Any) -> Any:
        return jax.vmap(wrong)(jnp.tanh(a), b)

    report = gradcheck.check_rule(difference_of_tanh, X, Y)
    assert [leaf.ok for leaf in report.leaves] == [True, False]


@pytest.mark.parametrize(
    ("f", "args", "error", "match"),
    [
        (sin, (X,), TypeError, "`f` must be a jax.custom_vjp.*got sin, which has no rule of its own: use check_"),
        (3, (X,), TypeError, "got int"),
        (jax.custom_vjp(sin), (X,), TypeError, "`sin` is a jax.custom_vjp without a rule: defvjp was not called"),
        (jax.custom_jvp(sin), (X,), TypeError, "`sin` is a jax.custom_jvp without a rule: defjvp was not called"),
        (RIGHT["vector"][0], (IDS,), TypeError, "`sin` must be given a floating argument to differentiate by"),
        (RIGHT["vector"][0], (X.at[1].set(jnp.nan),), ValueError, "`x` must be finite to check the rule of `sin`"),
        (RIGHT["vector"][0], (X, Y), ValueError, "`sin` raised TypeError"),
        ((sin, lambda a, b, c, d: a), (X,), TypeError, r"`backward` of the pair must take .* got \(a, b, c, d\)"),
        ((lambda a, b: a, lambda saved, g: g), (X, Y), ValueError, r"must return \(outputs, saved values\)"),
    ],
)  # fmt: skip
def test_refusals(f: Any, args: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        gradcheck.check_rule(f, *args)


def test_surrogate_must_be_a_function() -> None:
    with pytest.raises(TypeError, match=r"`surrogate` must be a function \(\*args\) -> outputs, got str"):
        gradcheck.check_rule(RIGHT["vector"][0], X, surrogate="identity")  # type: ignore[arg-type]


def torch_functions() -> dict[str, Any]:
    """torch.autograd.Functions, right and wrong."""
    torch = pytest.importorskip("torch", reason="needs torch")

    class Product(torch.autograd.Function):  # type: ignore[misc]
        @staticmethod
        def forward(ctx: Any, x: Any, w: Any, power: int) -> Any:
            ctx.save_for_backward(x, w)
            ctx.power = power
            return x**power * w

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            x, w = ctx.saved_tensors
            return g * ctx.power * x ** (ctx.power - 1) * w, g * x**ctx.power, None

    class Unused(Product):
        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            x, w = ctx.saved_tensors
            return g * ctx.power * x ** (ctx.power - 1) * w, x**ctx.power, None

    class Sign(Product):
        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            x, w = ctx.saved_tensors
            return -g * ctx.power * x ** (ctx.power - 1) * w, g * x**ctx.power, None

    class Few(Product):
        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            return g, g

    class Swish(torch.autograd.Function):  # type: ignore[misc]
        """Saves its output, where its backward pass needs the input."""

        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            y = x * torch.sigmoid(x)
            ctx.save_for_backward(y)
            return y

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            (y,) = ctx.saved_tensors
            s = torch.sigmoid(y)
            return g * (s + y * s * (1 - s))

    return {"right": Product, "unused": Unused, "sign": Sign, "few": Few, "swish": Swish}


def test_torch_saved_value() -> None:
    report = gradcheck.check_rule(torch_functions()["swish"], np.array([0.3, -1.2, 0.7]))
    assert [finding.kind for finding in report.findings] == [Kind.DERIVATIVE]
    assert re.search(r"the derivative of `x \* torch.sigmoid\(x\)` .* is taken at its value instead of", str(report))


@pytest.mark.parametrize(
    ("name", "wrong", "words"),
    [
        ("right", set(), ""),
        ("unused", {"w"}, "w is the same whatever the incoming gradient is"),
        ("sign", {"x"}, "x "),
        ("few", {"x", "w"}, "the rule raised RuntimeError: .*incorrect number of gradients"),
    ],
)
def test_torch(name: str, wrong: set[str], words: str) -> None:
    function = torch_functions()[name]
    args = np.array([0.3, -1.2, 0.7]), np.array([0.5, 2.0, -0.4]), 3
    for f in (function, function.apply):
        report = gradcheck.check_rule(f, *args)
        assert report.ok == (not wrong)
        assert {leaf.leaf for leaf in report.leaves if not leaf.ok} == wrong, report
        assert re.search(words, str(report)), report


def test_torch_tensors() -> None:
    function = torch_functions()["right"]
    import torch

    assert gradcheck.check_rule(function, torch.tensor([0.3, -1.2]), torch.tensor([0.5, 2.0]), 3).ok
