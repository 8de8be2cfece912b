"""Whether the rule of a function is its derivative, and if not, which mistake was made."""

import functools
from collections.abc import Callable
from typing import Any

import jax

from jaxgd.gradcheck.check import check_gradient
from jaxgd.gradcheck.report import GradientReport
from jaxgd.gradcheck.rules.forms import as_arrays, rule_of
from jaxgd.gradcheck.rules.judge import judge


def check_rule(
    f: Any,
    *args: Any,
    key: jax.Array | None = None,
    surrogate: Callable[..., Any] | None = None,
    seconds: float = 5.0,
) -> GradientReport:
    """Check whether a function's custom derivative rule is its derivative. If it is not, find the mistake.

    The rule is called with random incoming gradients `g`. The first test is whether its result is linear in `g`. A rule
    that does not use `g`, uses it twice, or lacks it in one term is wrong for every function. The second test compares
    the rule with the derivative of the function's own body. To do so, the checker takes the sum of `g` times the
    outputs as a scalar loss and the result of the rule as its gradient, and calls `check_gradient`. `f` may be

    - a `jax.custom_vjp` or `jax.custom_jvp`, also inside `jax.jit`, with `nondiff_argnums` and integer arguments;
    - a function that calls such functions, at any depth: the checker then differentiates their bodies;
    - a `torch.autograd.Function`, the class or its `apply`;
    - a pair of functions `(forward, backward)`. The arguments of `backward` are `(saved, incoming)` or
      `(incoming, cache)` if `forward` returns `(outputs, saved)`. They are `(*args, incoming)` if `forward` returns
      only the outputs. They are `(incoming)` if both are methods of one object that stores values; a copy of it is
      used.

    Five examples of mistakes, each found by `check_rule(f, x)` or `check_rule(f, a, b)`:

    1. The incoming gradient is not used.

           f.defvjp(lambda x: (jnp.sin(x), x), lambda x, g: (jnp.cos(x),))

       "x is the same whatever the incoming gradient is: the incoming gradient is not used (the result is right only
       where the incoming gradient is 1 everywhere)." Write `g * jnp.cos(x)`.

    2. A sign. For `a - b`:

           f.defvjp(lambda a, b: (a - b, None), lambda _, g: (g, g))

       "b is -1 times the gradient in all 5 entries: the sign is wrong." Write `(g, -g)`.

    3. The wrong value is saved. For `swish(x) = x * sigmoid(x)`, with its derivative `dswish`:

           f.defvjp(lambda x: (swish(x), swish(x)), lambda saved, g: (g * dswish(saved),))

       "is taken at its value instead of at its argument." The rule saves the output, but needs the argument: save `x`.

    4. A broadcast is not summed. For `x + b`, with `x` of shape `[4, 3]` and `b` of shape `[3]`:

           f.defvjp(lambda x, b: (x + b, None), lambda _, g: (g, g))

       "b has shape (4, 3), the argument (3,): it is the gradient once summed over axis 0. A broadcast is not
       summed." Write `(g, g.sum(0))`.

    5. A straight-through estimator: `jnp.round` with the rule `(g,)`. "x: the derivative of `f` is zero here, and the
       rule returns another gradient." If this is intended, use
       `check_rule(f, x, surrogate=lambda x: x)`, which compares the rule with the derivative of the identity.

    The checker searches for the same mistakes as `check_gradient`, and for mistakes that only a rule can have: a wrong
    value is saved, the Jacobian is used instead of its transpose, or a part of the incoming gradient is lost.

    Args:
      f: a function with a custom derivative rule.
      args: the arguments of `f` (trees). Arguments without a derivative are passed unchanged.
      key: the random key for incoming gradients and points; None always uses the same ones.
      surrogate: `(*args) -> outputs`, the function of which the rule is intended to be the derivative, if this is not
        `f`.
      seconds: a time limit for the search for the mistake in a wrong rule.

    Returns:
      The report, with one row for each leaf of the arguments, named by the signature: `x`, `w['bias']`.

    Raises:
      TypeError: `f` has no rule, or no argument is floating.
      ValueError: the function raises an exception, returns no floating output, or a value is not finite.
    """
    if surrogate is not None and not callable(surrogate):
        raise TypeError(f"`surrogate` must be a function (*args) -> outputs, got {type(surrogate).__name__}.")
    args = as_arrays(args)
    return judge(
        rule_of(f, args), args, functools.partial(check_gradient, seconds=seconds), key=key, surrogate=surrogate
    )


def assert_rule(
    f: Any,
    *args: Any,
    key: jax.Array | None = None,
    surrogate: Callable[..., Any] | None = None,
    seconds: float = 5.0,
) -> None:
    """Raise an AssertionError if `check_rule` finds that the rule is wrong. For test suites.

    Args:
      f: see `check_rule`.
      args: see `check_rule`.
      key: see `check_rule`.
      surrogate: see `check_rule`.
      seconds: see `check_rule`.

    Raises:
      AssertionError: the rule is wrong; the message is the report.
      TypeError: see `check_rule`.
      ValueError: see `check_rule`.
    """
    __tracebackhide__ = True
    report = check_rule(f, *args, key=key, surrogate=surrogate, seconds=seconds)
    if not report.ok:
        raise AssertionError(str(report))
