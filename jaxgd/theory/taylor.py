"""Taylor remainders, which test a gradient and its derivative; directions and angles of steps.

Descent steps against the gradient for the following reason. To first order a step eta u changes the loss by
`eta u . g = eta |u| |g| cos(beta)`, where beta is the angle between u and g. Among all directions u of one length this
is smallest for beta = 180 degrees, that is for u in the direction of -g.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxgd.types import GradFn, LossFn, Params
from jaxgd.validation import check_same_tree


class Remainders(NamedTuple):
    """The differences between a loss and its Taylor polynomials, for S step sizes.

    Attributes:
      step_sizes: `[S]`.
      remainders: `[3, S]`: `|L(theta + h u) - P_k(h)|` for the polynomials of degree k = 0, 1, 2.
      orders: `[3, S - 1]`: the observed orders between neighbouring step sizes. They are near 1, 2, 3 for a right
        gradient, and near 1, 1, 1 for a wrong gradient. If the loss is a polynomial of degree k, the remainder of
        degree k is only rounding, and its order is not meaningful.
    """

    step_sizes: jax.Array
    remainders: jax.Array
    orders: jax.Array


def remainders(
    loss: LossFn,
    grad: GradFn,
    params: Params,
    direction: Params,
    step_sizes: Any,
    *args: Any,
    hvp: Callable[..., Params] | None = None,
) -> Remainders:
    """Taylor remainders of order 0, 1, 2 of a loss along a direction.

        R_0(h) = |L(theta + h u) - L(theta)|                                     = O(h)
        R_1(h) = |L(theta + h u) - L(theta) - h u . g|                           = O(h^2)
        R_2(h) = |L(theta + h u) - L(theta) - h u . g - h^2/2 u . H u|           = O(h^3)

    `g` is the value of `grad` at theta. `H u` is the value of `hvp`, or else the forward-mode derivative of `grad`
    along u. So R_1 tests the gradient, and R_2 tests its derivative.

    Args:
      loss: `(params, *args) -> []`.
      grad: `(params, *args) -> a tree like params`.
      params: the point theta.
      direction: u, a tree like `params`.
      step_sizes: `[S]`, S at least 2, decreasing or increasing.
      *args: passed on to all functions.
      hvp: `(params, vector, *args) -> a tree like params`, such as `problem.second_order.hvp`; None differentiates
        `grad`.

    Returns:
      Remainders, in units of the loss, and their orders.

    Raises:
      ValueError: `direction` is not like `params`, or fewer than two step sizes.
      TypeError: dtypes differ.
    """
    check_same_tree("`direction`", direction, "`params`", params)
    step_sizes = jnp.asarray(step_sizes)
    if step_sizes.ndim != 1 or len(step_sizes) < 2:
        raise ValueError(f"`step_sizes` must have shape [S] with S >= 2, got {step_sizes.shape}.")
    value = loss(params, *args)
    slope, bend = directional_derivatives(
        lambda p: grad(p, *args),
        params,
        direction,
        hvp_fn=None if hvp is None else lambda p, u: hvp(p, u, *args),
    )

    def remainders_at(step_size: jax.Array) -> jax.Array:
        change = loss(_moved(params, direction, step_size), *args) - value
        first = change - step_size * slope
        return jnp.abs(jnp.stack([change, first, first - 0.5 * jnp.square(step_size) * bend]))

    values = jax.lax.map(remainders_at, step_sizes.astype(value.dtype)).T  # [3, S]
    sizes = jnp.log(step_sizes.astype(value.dtype))
    orders = jnp.diff(jnp.log(values), axis=1) / jnp.diff(sizes)[None]
    return Remainders(step_sizes, values, orders)


def directional_derivatives(
    grad_fn: Callable[[Params], Params],
    params: Params,
    direction: Params,
    *,
    hvp_fn: Callable[[Params, Params], Params] | None = None,
) -> tuple[jax.Array, jax.Array]:
    """First and second derivative of a loss along a direction, `u . g` and `u . H u`.

    Args:
      grad_fn: `(params) -> a tree like params`, the gradient with its data bound.
      params: the point.
      direction: u, a tree like `params`.
      hvp_fn: `(params, vector) -> H v` with its data bound; None differentiates `grad_fn` in forward mode.

    Returns:
      Two scalars `[]`, in units of the loss.

    Raises:
      ValueError: `direction` is not like `params`.
      TypeError: dtypes differ.
    """
    check_same_tree("`direction`", direction, "`params`", params)
    if hvp_fn is None:
        grads, curved = jax.jvp(grad_fn, (params,), (direction,))
    else:
        grads, curved = grad_fn(params), hvp_fn(params, direction)
    return inner(direction, grads), inner(direction, curved)


def inner(left: Params, right: Params) -> jax.Array:
    """Inner product of two trees.

    Args:
      left: a tree of arrays.
      right: a tree like it.

    Returns:
      Scalar `[]`.

    Raises:
      ValueError: the trees differ in structure.
    """
    products = jax.tree.map(lambda a, b: jnp.sum(a * b), left, right)
    return jnp.asarray(sum(jax.tree.leaves(products)))


def angle(direction: Params, grads: Params) -> jax.Array:
    """Angle between a direction and the gradient.

    Computed as `2 atan2(|a - b|, |a + b|)` of the unit vectors a and b. This is accurate near 0 and 180 degrees, where
    the arc cosine loses half of its digits (Kahan, "How Futile are Mindless Assessments of Roundoff", 2006).

    Args:
      direction: u, a tree like `grads`.
      grads: g.

    Returns:
      Degrees in [0, 180], `[]`; NaN where u or g is zero.

    Raises:
      ValueError: the trees differ in structure.
    """
    unit_u, unit_g = (_moved(tree, tree, 1 / norm(tree) - 1) for tree in (direction, grads))
    return jnp.degrees(2 * jnp.arctan2(norm(_moved(unit_u, unit_g, -1)), norm(_moved(unit_u, unit_g, 1))))


def norm(tree: Params) -> jax.Array:
    """Euclidean norm of a tree.

    Args:
      tree: arrays.

    Returns:
      Scalar `[]`.
    """
    return jnp.sqrt(inner(tree, tree))


def change_over_angles(
    loss: LossFn, grad: GradFn, params: Params, angles: Any, step_size: Any, *args: Any, key: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Change of the loss along several directions that have the length of the gradient.

    All directions lie in the plane of the gradient and one random direction. The direction for beta has the angle beta
    to the gradient. To first order the change is `eta k cos(beta)` with `k = |u| |g|`, so it lies between -k eta and k
    eta.

    Args:
      loss: `(params, *args) -> []`.
      grad: `(params, *args) -> a tree like params`.
      params: the point; at least two parameters.
      angles: beta, degrees, `[A]`.
      step_size: eta, `[]`.
      *args: passed on to both functions.
      key: the random key for the second direction of the plane.

    Returns:
      The change of the loss and its first-order prediction, both `[A]`, in units of the loss.
    """
    grads = grad(params, *args)
    leaves = jax.tree.leaves(grads)
    keys = jax.tree.unflatten(jax.tree.structure(grads), list(jax.random.split(key, len(leaves))))
    random = jax.tree.map(lambda leaf, leaf_key: jax.random.normal(leaf_key, leaf.shape, leaf.dtype), grads, keys)
    length = norm(grads)
    across = _moved(random, grads, -inner(random, grads) / jnp.square(length))
    across = jax.tree.map(lambda leaf: leaf * (length / norm(across)), across)
    value = loss(params, *args)

    def change_at(beta: jax.Array) -> jax.Array:
        direction = jax.tree.map(lambda g, a: jnp.cos(beta) * g + jnp.sin(beta) * a, grads, across)
        return loss(_moved(params, direction, step_size), *args) - value

    radians = jnp.radians(jnp.asarray(angles, value.dtype))
    return jax.lax.map(change_at, radians), step_size * jnp.square(length) * jnp.cos(radians)


def _moved(params: Params, direction: Params, step_size: Any) -> Params:
    return jax.tree.map(lambda p, u: p + jnp.asarray(step_size, p.dtype) * u, params, direction)
