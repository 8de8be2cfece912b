"""Rules inside a loss: check_gradient names the function whose rule is wrong, wherever the loss calls it."""

import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common import assert_trees_close, quick

from jaxgd import gradcheck
from jaxgd.gradcheck import Kind, Status
from jaxgd.gradcheck.rules import program, sites

P = {"a": jnp.array([0.3, -1.2, 0.7]), "b": jnp.array([0.9, 0.4, -0.5])}
W = jnp.array([1.0, -0.5, 2.0])


def difference(a: Any, b: Any) -> Any:
    return a - b


def product(a: Any, b: Any) -> Any:
    return a * b


wrong = jax.custom_vjp(difference)
wrong.defvjp(lambda a, b: (a - b, None), lambda _, g: (g, g))
right = jax.custom_vjp(difference)
right.defvjp(lambda a, b: (a - b, None), lambda _, g: (g, -g))
wrong_product = jax.custom_jvp(product)
wrong_product.defjvp(lambda p, t: (p[0] * p[1], p[1] * t[0] + p[1] * t[1]))


@jax.custom_vjp
def estimator(x: Any) -> Any:
    return jnp.round(x)


estimator.defvjp(lambda x: (jnp.round(x), None), lambda _, g: (g,))


def plainly(f: Any, p: Any, w: Any) -> Any:
    return jnp.sum(w * jnp.sin(f(p["a"], p["b"])))


def in_jit(f: Any, p: Any, w: Any) -> Any:
    return jnp.sum(w * jax.jit(lambda a, b: jnp.sin(f(a, b)))(p["a"], p["b"]))


def in_vmap(f: Any, p: Any, w: Any) -> Any:
    return jnp.sum(w * jnp.sin(jax.vmap(f)(p["a"], p["b"])))


def in_scan(f: Any, p: Any, w: Any) -> Any:
    def step(carry: Any, row: Any) -> Any:
        new = jnp.sin(f(carry, row[0]))
        return new, new * row[1]

    return jnp.sum(jax.lax.scan(step, jnp.sum(p["a"] ** 2), (p["b"], w))[1])


def in_cond(f: Any, p: Any, w: Any) -> Any:
    return jnp.sum(w * jax.lax.cond(w[0] > 0, lambda a, b: jnp.sin(f(a, b)), lambda a, b: a * b, p["a"], p["b"]))


def in_fori(f: Any, p: Any, w: Any) -> Any:
    return jnp.sum(w * jax.lax.fori_loop(0, 3, lambda i, x: jnp.sin(f(x, p["b"])), p["a"]))


def in_checkpoint(f: Any, p: Any, w: Any) -> Any:
    return jnp.sum(w * jax.checkpoint(lambda a, b: jnp.sin(f(a, b)))(p["a"], p["b"]))


def in_vmapped_scan(f: Any, p: Any, w: Any) -> Any:
    def of_row(a: Any, b: Any) -> Any:
        return jax.lax.scan(lambda x, c: (jnp.cos(f(x, b * c)), None), a, w)[0]

    return jnp.sum(jax.vmap(of_row)(p["a"], p["b"]))


PLACES = [plainly, in_jit, in_vmap, in_scan, in_cond, in_fori, in_checkpoint, in_vmapped_scan]


def loss_with(place: Any, f: Any) -> Any:
    return lambda p, w: place(f, p, w)


EVERYWHERE = pytest.mark.parametrize("place", quick(PLACES, [in_jit, in_scan]), ids=lambda place: place.__name__)


@EVERYWHERE
def test_wrong_rule_is_named(place: Any) -> None:
    loss = loss_with(place, wrong)
    report = gradcheck.check_gradient(loss, jax.grad(loss), P, W)
    statuses = {leaf.leaf: leaf.status for leaf in report.leaves}
    assert statuses["['b']"] is Status.WRONG
    (said,) = {finding.message.partition("\n")[2] for finding in report.findings if finding.wrong}
    assert re.match(r"the rule of `difference` \(test_rules_inside.py:\d+\): b is -1 times the gradient", said), report


@pytest.mark.parametrize("place", quick(PLACES, [in_jit]), ids=lambda place: place.__name__)
def test_check_rule_of_a_function_that_calls_a_wrong_rule(place: Any) -> None:
    """The leaf that reaches the wrong argument of the rule is wrong; where only it does, the other one is right."""

    def layer(p: Any, w: Any) -> Any:
        return place(wrong, p, w)

    report = gradcheck.check_rule(layer, P, W)
    assert {leaf.leaf for leaf in report.leaves if not leaf.ok} >= {"p['b']"}, report
    assert gradcheck.check_rule(lambda p, w: place(right, p, w), P, W).ok


@EVERYWHERE
def test_right_rule_is_no_finding(place: Any) -> None:
    loss = loss_with(place, right)
    report = gradcheck.check_gradient(loss, jax.grad(loss), P, W)
    assert report.ok
    assert not report.findings


@pytest.mark.parametrize("place", quick(PLACES, [in_scan]), ids=lambda place: place.__name__)
def test_right_gradient_of_a_loss_with_a_wrong_rule(place: Any) -> None:
    report = gradcheck.check_gradient(loss_with(place, wrong), jax.grad(loss_with(place, difference)), P, W)
    assert report.ok, report
    assert any("`difference`" in finding.message for finding in report.findings)
    assert not any(finding.wrong for finding in report.findings)


def test_mistake_of_the_gradient_beside_a_wrong_rule() -> None:
    true = jax.grad(loss_with(plainly, difference))

    def grad(p: Any, w: Any) -> Any:
        return {"a": 2 * true(p, w)["a"], "b": true(p, w)["b"]}

    report = gradcheck.check_gradient(loss_with(plainly, wrong), grad, P, W)
    assert [leaf.ok for leaf in report.leaves] == [False, True]
    assert {finding.kind for finding in report.findings if finding.wrong} == {Kind.FACTOR}


def test_wrong_rule_in_forward_mode() -> None:
    loss = loss_with(plainly, wrong_product)
    report = gradcheck.check_gradient(loss, jax.grad(loss), P, W)
    assert [leaf.ok for leaf in report.leaves] == [True, False]
    assert "`product` (test_rules_inside.py:" in str(report)


def test_estimator_on_purpose_is_a_note() -> None:
    def loss(p: Any, w: Any) -> Any:
        return jnp.sum(w * estimator(3 * p["a"]) ** 2) + jnp.sum(p["b"] ** 2)

    report = gradcheck.check_gradient(loss, jax.grad(loss), P, W)
    assert report.ok, report
    assert [finding.kind for finding in report.findings] == [Kind.SURROGATE]
    assert "`estimator`" in report.findings[0].message
    assert "check_rule" not in report.findings[0].message


def test_library_rules_are_trusted() -> None:
    def loss(p: Any, w: Any) -> Any:
        return jnp.sum(w * jax.nn.relu(p["a"])) + jax.scipy.special.logsumexp(p["b"]) + jnp.sum(jax.nn.silu(p["a"]))

    report = gradcheck.check_gradient(loss, lambda p, w: jax.tree.map(jnp.negative, jax.grad(loss)(p, w)), P, W)
    assert not report.ok
    assert {finding.kind for finding in report.findings} == {Kind.SIGN}


def test_program_without_rules() -> None:
    """Rules go from every depth of a program; values stay, and JAX differentiates the bodies."""
    plain, bare = {}, {}
    for place in PLACES:
        closed = jax.make_jaxpr(loss_with(place, wrong))(P, W)
        assert {site.name for site in sites.sites(closed)} == {"difference"}

        def without(p: Any, w: Any, closed: Any = closed) -> Any:
            return program.without_rules(closed, jax.tree.leaves((p, w)))[0]

        assert not list(sites.sites(jax.make_jaxpr(without)(P, W)))
        plain[place.__name__] = jax.value_and_grad(loss_with(place, difference))
        bare[place.__name__] = jax.value_and_grad(without)

    def every(losses: Any) -> Any:
        return jax.jit(lambda p, w: {name: loss(p, w) for name, loss in losses.items()})(P, W)

    assert_trees_close(every(bare), every(plain), rtol=1e-12)


def test_program_keeps_the_arguments_that_rules_meet() -> None:
    def loss(x: Any) -> Any:
        return jax.lax.while_loop(lambda v: v[0] < 10, lambda v: right(v, -v), x)[0]

    closed = jax.make_jaxpr(loss)(jnp.array([1.0, 5.0]))
    (met,) = program.arguments_met(closed, [[jnp.array([1.0, 5.0])]])
    ((site, calls),) = met.values()
    assert (site.name, site.arguments, site.of_a_library) == ("difference", ("a", "b"), False)
    assert [call[0].tolist() for call in calls] == [[1.0, 5.0], [2.0, 10.0], [4.0, 20.0]]


CASES = Path(__file__).resolve().parents[3] / "shared" / "realworld"


REAL_RULES = [
    ("micrograd_subtract", "sub", "b is -1 times the gradient in all 5 entries: the sign is wrong"),
    ("jax_matvec_no_vector", "plain_fn", "v is zero everywhere"),
    ("k2_ignores_cotangent", "plain_lse", "scores is the same whatever the incoming gradient is"),
    ("jax_rem_jvp", "rem", r"y is .*\n.*floor\(x / y\) stands in place of the truncated quotient"),
    ("flash_delta", "attention", r"q, k, each is .*\n.*Jacobian of the softmax .* p sum\(p g\) is not subtracted"),
    ("attorch_rmsnorm_rows", "rms", r"x is .*\n.*the gradient of the sum .* is spread along the wrong axis"),
    ("scan_blocks", "recur", r"f is wrong in the block \[1:4\]: a factor .* is multiplied onto the part from"),
]
REAL = [pytest.param(*row, id=row[0], marks=pytest.mark.slow if row in REAL_RULES[1:] else ()) for row in REAL_RULES]


@pytest.mark.skipif(
    not (CASES / "cases.py").exists(), reason="needs the collection of real gradients beside the project"
)
@pytest.mark.parametrize(("name", "function", "words"), REAL)
def test_real_rules(name: str, function: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(CASES))
    import cases

    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        (case,) = (make() for make in cases.BUGS if make.__name__ == name)
        report = gradcheck.check_gradient(case.loss, case.grad, case.params, *case.args)
        corrected = gradcheck.check_gradient(case.loss, case.right_grad, case.params, *case.args)
    assert {leaf.leaf for leaf in report.leaves if not leaf.ok} == set(case.wrong_leaves)
    assert re.search(rf"the rule of `{function}` \(cases.py:\d+\): {words}", str(report)), report
    assert corrected.ok, corrected


@pytest.mark.parametrize("tracked", [True, False], ids=["tensors", "arrays bridged by hand"])
def test_a_wrong_function_of_torch_inside_a_torch_loss(tracked):
    """The function and its argument are named; what is found inside of it does not look for functions again."""
    torch = pytest.importorskip("torch", reason="needs torch")

    class Scaled(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, factor, *more):
            ctx.factor = factor
            ctx.save_for_backward(x)
            return factor * torch.sin(x)

        @staticmethod
        def backward(ctx, g):
            return ctx.factor * torch.cos(ctx.saved_tensors[0]), None, None

    scaled = Scaled.apply

    def loss(w):
        return torch.sum(scaled(w if tracked else torch.tensor(np.array(w), requires_grad=True), 2.0, 1) ** 2)

    def grad(w):
        w = w if tracked else torch.tensor(np.array(w), requires_grad=True)
        return torch.autograd.grad(torch.sum(scaled(w, 2.0, 1) ** 2), w)[0].numpy()

    start = np.array([0.3, -0.4, 0.9])
    report = gradcheck.check_gradient(loss, grad, torch.tensor(start, requires_grad=True) if tracked else start)
    assert not report.ok
    (found,) = (finding for finding in report.findings if finding.wrong)
    assert found.kind is Kind.REFERENCE
    if not tracked:
        assert found.message.startswith("params is wrong, and the loss calls a function whose own rule is wrong:\n")
    assert "the rule of `Scaled` (test_rules_inside.py:" in found.message
    assert "x is the same whatever the incoming gradient is" in found.message
    assert "factor" not in found.message.partition("whatever")[2]


def test_none_for_the_data_of_a_function_of_torch_is_not_told_beside_its_mistake():
    torch = pytest.importorskip("torch", reason="needs torch")

    class Scaled(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, t):
            ctx.save_for_backward(x, t)
            return torch.sum(t * x**2)

        @staticmethod
        def backward(ctx, g):
            x, t = ctx.saved_tensors
            return -2 * g * t * x, None

    data = np.array([1.0, 2.0, -0.5])

    def loss(w):
        return float(Scaled.apply(torch.tensor(w), torch.tensor(data)))

    def grad(w):
        w = torch.tensor(w, requires_grad=True)
        return torch.autograd.grad(Scaled.apply(w, torch.tensor(data)) ** 1, w)[0].numpy() * np.array([1.0, 1.0, 3.0])

    report = gradcheck.check_gradient(loss, grad, np.array([0.3, -0.4, 0.9]))
    (found,) = (finding for finding in report.findings if finding.wrong)
    assert "x is -1 times" in found.message
    assert "t: the backward pass returns None" not in found.message
