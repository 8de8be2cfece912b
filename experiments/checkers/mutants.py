"""Mistakes planted in the gradients of every system, with the names that are right for them."""

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgd.gradcheck import Kind
from jaxgd.problems import ALL_PROBLEMS
from jaxgd.types import Batch, LinearParams, Problem


class Mutant(NamedTuple):
    """A wrong gradient.

    Attributes:
      name: of the problem and the mistake.
      mistake: what was planted.
      problem: whose gradient it was.
      grad: the wrong one.
      params: the point.
      batch: the data.
      leaves: paths of the leaves that are wrong.
      kinds: names that are right for it; UNKNOWN is never wrong.
    """

    name: str
    mistake: str
    problem: Problem
    grad: Callable[[Any, Any], Any]
    params: Any
    batch: Any
    leaves: frozenset[str]
    kinds: frozenset[Kind]


def settings(dtype: Any) -> Iterator[tuple[Problem, Any, Any]]:
    """Every system with a point away from the zeros of a start, and data.

    Args:
      dtype: of both.

    Yields:
      Problem, parameters, batch.
    """

    def cast(leaf: Any) -> Any:
        return leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    for problem, make_batch in ALL_PROBLEMS:
        batch_key, init_key = jax.random.split(jax.random.key(1))
        batch = jax.tree.map(cast, make_batch(batch_key))
        assert problem.init is not None
        params = jax.tree.map(cast, problem.init(init_key, batch))
        leaves, treedef = jax.tree.flatten(params)
        rng = np.random.default_rng(3)
        moved = [leaf + jnp.asarray(0.3 * rng.normal(size=leaf.shape), dtype) for leaf in leaves]
        yield problem, jax.tree.unflatten(treedef, moved), batch


def _on_leaf(problem: Problem, leaf: int, change: Callable[[Any, Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """The gradient with one leaf changed: `change(right leaf, params, batch)`."""

    def grad(params: Any, batch: Any) -> Any:
        leaves, treedef = jax.tree.flatten(problem.grad(params, batch))
        leaves[leaf] = change(leaves[leaf], params, batch)
        return jax.tree.unflatten(treedef, leaves)

    return grad


def _leaf(tree: Any, leaf: int) -> Any:
    return jax.tree.leaves(tree)[leaf]


def _scaled(factor: float) -> Callable[..., Any]:
    return lambda g, p, b: factor * g


def _without_last_row(batch: Batch) -> Batch:
    return Batch(batch.inputs[:-1], batch.targets[:-1])


def _of_one_leaf(problem: Problem, params: Any, batch: Any, leaf: int) -> Iterator[tuple[str, Any, set[Kind]]]:
    """Mistakes in one leaf of any gradient: name, change, right names."""
    value = _leaf(params, leaf)
    yield "wrong sign", _scaled(-1.0), {Kind.SIGN}
    yield "factor 2", _scaled(2.0), {Kind.FACTOR}
    yield "factor 1/2", _scaled(0.5), {Kind.FACTOR}
    yield "factor 1.001", _scaled(1.001), {Kind.FACTOR}
    yield "zero", _scaled(0.0), {Kind.ZERO}
    yield "penalty too much", lambda g, p, b: g + 0.01 * _leaf(p, leaf), {Kind.PENALTY, Kind.FACTOR}
    yield "constant added", lambda g, p, b: g + 0.1, {Kind.CONSTANT, Kind.ARGUMENT}
    yield "float16 inside", lambda g, p, b: g.astype(jnp.float16).astype(g.dtype), {Kind.PRECISION}
    yield "not a number", lambda g, p, b: g + jnp.where(g == g, jnp.nan, 0), {Kind.NONFINITE}
    if value.size > 2:
        yield "absolute values", lambda g, p, b: jnp.abs(g), {Kind.CLIPPED}
        yield "normalised", lambda g, p, b: g / jnp.sqrt(jnp.sum(g * g)), {Kind.CLIPPED}
        yield (
            "clipped",
            lambda g, p, b: jnp.clip(g, -0.5 * jnp.max(jnp.abs(g)), 0.5 * jnp.max(jnp.abs(g))),
            {
                Kind.CLIPPED,
                Kind.ENTRIES,
            },
        )
        yield "reversed", lambda g, p, b: g[::-1], {Kind.ORDER}
        yield "shifted", lambda g, p, b: jnp.roll(g, 1, 0), {Kind.ORDER}
        yield "one entry doubled", lambda g, p, b: g.at[(0,) * g.ndim].multiply(2), {Kind.ENTRIES}
        yield "one row zero", lambda g, p, b: g.at[-1].set(0), {Kind.ENTRIES}
    if value.ndim == 2 and value.shape[0] != value.shape[1]:
        yield "transposed shape", lambda g, p, b: g.T, {Kind.TRANSPOSED}
    if value.ndim == 2:
        yield "transposed, reshaped", lambda g, p, b: g.T.reshape(g.shape), {Kind.TRANSPOSED, Kind.ORDER}
    if value.ndim == 0 and batch is not None:
        yield (
            "not summed",
            lambda g, p, b: g * jnp.ones(len(b.inputs), g.dtype) / len(b.inputs),
            {
                Kind.NOT_SUMMED,
                Kind.SHAPE,
            },
        )


def _of_data(problem: Problem, batch: Any, leaf: int) -> Iterator[tuple[str, Any, set[Kind]]]:
    """Mistakes with rows, targets and the reduction."""
    grad = jax.jit(problem.grad)
    rows = len(batch.inputs)
    yield "factor N", _scaled(float(rows)), {Kind.FACTOR}
    yield "factor 1/N", _scaled(1.0 / rows), {Kind.FACTOR}
    yield "last row left out", lambda g, p, b: _leaf(grad(p, _without_last_row(b)), leaf), {Kind.ROWS}
    if jnp.issubdtype(batch.targets.dtype, jnp.floating):
        yield (
            "targets left out",
            lambda g, p, b: _leaf(problem.grad(p, b._replace(targets=jnp.zeros_like(b.targets))), leaf),
            {Kind.ARGUMENT},
        )
        yield (
            "targets added",
            lambda g, p, b: _leaf(grad(p, b._replace(targets=-b.targets)), leaf),
            {Kind.ARGUMENT},
        )


def _of_penalty(problem: Problem, params: Any, leaf: int) -> Iterator[tuple[str, Any, set[Kind]]]:
    path = jax.tree_util.keystr(jax.tree_util.tree_leaves_with_path(params)[leaf][0])
    if problem.l2 and path.endswith("bias"):
        yield "penalty on the bias", lambda g, p, b: g + problem.l2 * _leaf(p, leaf), {Kind.PENALTY}
    elif problem.l2:
        yield "penalty left out", lambda g, p, b: g - problem.l2 * _leaf(p, leaf), {Kind.PENALTY}
        yield "penalty without its half", lambda g, p, b: g + problem.l2 * _leaf(p, leaf), {Kind.PENALTY}


def _of_all_leaves(problem: Problem, params: Any, batch: Any) -> Iterator[tuple[str, Callable[[], Any], set[Kind]]]:
    """Mistakes in every leaf: name, what makes the gradient, right names."""

    def without_last_bias() -> Callable[[Any, Any], Any]:
        def grad(p: Any, b: Any) -> Any:
            leaves, treedef = jax.tree.flatten(p)
            return problem.grad(jax.tree.unflatten(treedef, [*leaves[:-1], jnp.zeros_like(leaves[-1])]), b)

        return grad

    def stale() -> Callable[[Any, Any], Any]:
        kept = jax.jit(problem.grad)(params, batch)
        return lambda p, b: jax.tree.map(lambda k, q: k.astype(q.dtype), kept, p)

    if len(jax.tree.leaves(params)) > 1 and batch is not None:
        kinds = {Kind.OPERAND}
        if "cross_entropy" not in problem.name and problem.name.startswith(SQUARED) and "output=" not in problem.name:
            # The square of the bias is a term of a squared error, whose derivative is what the bias lacks.
            kinds.add(Kind.PENALTY)
        if not jax.tree_util.keystr(jax.tree_util.tree_leaves_with_path(params)[-1][0]).endswith("bias"):
            kinds.add(Kind.ARGUMENT)  # the last leaf is a weight: without it no inputs reach the predictions
        yield "last bias left out", without_last_bias, kinds
    yield STALE, stale, {Kind.STALE}


SQUARED = ("linear_map", "linear_regression", "mlp")
"""Systems with squared errors of outputs that are linear in the last bias, unless their name says otherwise."""

STALE = "stale"
"""Right where it was computed, so that every leaf counts as wrong."""


def _neuron(slope: Callable[[Any, Any], Any]) -> Callable[[Problem], Callable[[Any, Batch], Any]]:
    """The neuron's gradient with another function for f (1 - f)."""

    def of(problem: Problem) -> Callable[[Any, Batch], Any]:
        factor = {"half_mean": 1.0, "mean_squ": 2.0, "sum_squa": 2.0}[_loss_of(problem)]

        def grad(params: LinearParams, batch: Batch) -> LinearParams:
            z = (
                batch.inputs @ params.weights if batch.inputs.ndim == 2 else batch.inputs * params.weights
            ) + params.bias
            f = jax.nn.sigmoid(z)
            share = 1.0 if problem.reduction == "sum" else 1.0 / len(z)
            ahead = factor * share * (f - batch.targets) * slope(f, z)
            penalty = problem.l2 * params.weights
            return LinearParams(ahead @ batch.inputs + penalty, jnp.sum(ahead))

        return grad

    return of


def _loss_of(problem: Problem) -> str:
    for name in ("mean_squared_error", "sum_squared_error"):
        if f"loss='{name}'" in problem.name:
            return name[:8]
    return "half_mean"


NEURON = {
    "f (1 - f) left out": (_neuron(lambda f, z: jnp.ones_like(f)), {Kind.DERIVATIVE}),
    "f for f (1 - f)": (_neuron(lambda f, z: f), {Kind.DERIVATIVE}),
    "1 - f for f (1 - f)": (_neuron(lambda f, z: 1 - f), {Kind.DERIVATIVE}),
    "f (1 + f) for f (1 - f)": (_neuron(lambda f, z: f * (1 + f)), {Kind.DERIVATIVE}),
    "1 - f^2 for f (1 - f)": (_neuron(lambda f, z: 1 - f * f), {Kind.DERIVATIVE}),
    "f (1 - f) twice": (_neuron(lambda f, z: (f * (1 - f)) ** 2), {Kind.DERIVATIVE}),
    "z (1 - z) for f (1 - f)": (_neuron(lambda f, z: z * (1 - z)), {Kind.DERIVATIVE}),
}


def _softmax(change: Callable[[Any, Any], Any]) -> Callable[[Problem], Callable[[Any, Batch], Any]]:
    def of(problem: Problem) -> Callable[[Any, Batch], Any]:
        def grad(params: LinearParams, batch: Batch) -> LinearParams:
            logits = batch.inputs @ params.weights + params.bias[None, :]
            probabilities = jax.nn.softmax(logits, axis=1)
            onehot = jax.nn.one_hot(batch.targets, logits.shape[1], dtype=logits.dtype)
            ahead = change(probabilities, onehot) / len(logits)
            return LinearParams(batch.inputs.T @ ahead + problem.l2 * params.weights, jnp.sum(ahead, axis=0))

        return grad

    return of


SOFTMAX = {
    "labels left out": (_softmax(lambda p, y: p), {Kind.PATH, Kind.ARGUMENT, Kind.CONSTANT, Kind.STALE}),
    # -y is also what passes through the log-softmax unchanged.
    "probabilities left out": (
        _softmax(lambda p, y: -y),
        {Kind.PATH, Kind.ARGUMENT, Kind.CONSTANT, Kind.STALE, Kind.DERIVATIVE},
    ),
    "labels added": (_softmax(lambda p, y: p + y), {Kind.SIGN, Kind.CONSTANT}),
}


def _logistic(change: Callable[[Any, Any], Any]) -> Callable[[Problem], Callable[[Any, Batch], Any]]:
    def of(problem: Problem) -> Callable[[Any, Batch], Any]:
        def grad(params: LinearParams, batch: Batch) -> LinearParams:
            z = batch.inputs @ params.weights + params.bias
            ahead = change(z, batch.targets.astype(z.dtype))
            ahead = ahead if problem.reduction == "sum" else ahead / len(z)
            return LinearParams(ahead @ batch.inputs + problem.l2 * params.weights, jnp.sum(ahead))

        return grad

    return of


LOGISTIC = {
    "labels left out": (
        _logistic(lambda z, y: jax.nn.sigmoid(z)),
        {Kind.PATH, Kind.ARGUMENT, Kind.CONSTANT, Kind.STALE},
    ),
    "labels added": (_logistic(lambda z, y: jax.nn.sigmoid(z) + y), {Kind.SIGN, Kind.CONSTANT}),
    "logits for probabilities": (_logistic(lambda z, y: z - y), {Kind.DERIVATIVE}),
    "the neuron's f (1 - f) too much": (
        _logistic(lambda z, y: (jax.nn.sigmoid(z) - y) * jax.nn.sigmoid(z) * (1 - jax.nn.sigmoid(z))),
        {Kind.DERIVATIVE},
    ),
}


def _network(mistake: str) -> Callable[[Problem], Callable[[Any, Batch], Any]]:
    """Backpropagation written out again, with a mistake."""

    def of(problem: Problem) -> Callable[[Any, Batch], Any]:
        def grad(params: Any, batch: Batch) -> Any:
            layers = params.layers
            activations, preactivations = [batch.inputs], []
            for index, layer in enumerate(layers):
                z = activations[-1] @ layer.weights
                z = z + (layer.bias if layer.bias.ndim == 0 else layer.bias[None, :] if z.ndim == 2 else layer.bias)
                preactivations.append(z)
                activations.append(jnp.maximum(z, 0) if index < len(layers) - 1 else z)
            out = activations[-1]
            if jnp.issubdtype(batch.targets.dtype, jnp.integer):
                ahead = (jax.nn.softmax(out) - jax.nn.one_hot(batch.targets, out.shape[1], dtype=out.dtype)) / len(out)
            else:
                ahead = 2 * (out.reshape(batch.targets.shape) - batch.targets) / len(out)
            ahead = ahead.reshape(len(ahead), -1)
            grads = []
            for index in reversed(range(len(layers))):
                weights = layers[index].weights
                matrix = weights if weights.ndim == 2 else weights[:, None]
                dw = activations[index].T @ ahead
                if mistake == "preactivations for activations" and index == 1:
                    dw = preactivations[0].T @ ahead  # taken before the ReLU
                db = jnp.sum(ahead, axis=0)
                if mistake == "bias of only the first row" and index == 0:
                    db = ahead[0]
                penalty = problem.l2 * weights
                grads.append(
                    type(layers[index])(dw.reshape(weights.shape) + penalty, db.reshape(layers[index].bias.shape))
                )
                ahead = ahead @ matrix.T
                if index > 0:
                    mask = preactivations[index - 1] > 0
                    if mistake == "mask left out" and index == 1:
                        mask = jnp.ones_like(mask)
                    elif mistake == "mask inverted" and index == 1:
                        mask = ~mask
                    elif mistake == "mask of the gradient" and index == 1:
                        mask = ahead > 0
                    ahead = jnp.where(mask, ahead, 0)
            return params._replace(layers=tuple(reversed(grads)))

        return grad

    return of


NETWORK = {
    "mask left out": {Kind.MASK, Kind.DERIVATIVE},
    "mask inverted": {Kind.MASK},
    "mask of the gradient": {Kind.MASK},
    "preactivations for activations": {Kind.OPERAND},
    "bias of only the first row": {Kind.ROWS, Kind.NOT_SUMMED},
}


def _of_derivation(problem: Problem) -> Iterator[tuple[str, Callable[[], Any], set[Kind]]]:
    """Mistakes in the derivation of a system: name, what makes the gradient, right names."""
    for system, table in (("sigmoid_neuron", NEURON), ("softmax", SOFTMAX), ("logistic", LOGISTIC)):
        for name, (of, kinds) in table.items() if problem.name.startswith(system) else ():
            yield name, functools.partial(of, problem), kinds
    for name, kinds in NETWORK.items() if problem.name.startswith("mlp") else ():
        yield name, functools.partial(_network(name), problem), kinds


def mutants(dtype: Any, *, share: int = 1) -> Iterator[Mutant]:
    """The corpus: `mutants_of` every system.

    Args:
      dtype: of parameters and data.
      share: as `mutants_of`.

    Yields:
      Wrong gradients.
    """
    for problem, params, batch in settings(dtype):
        yield from mutants_of(problem, params, batch, share=share)


def mutants_of(
    problem: Problem, params: Any, batch: Any, *, share: int = 1, first: int = 0, step: int = 1
) -> Iterator[Mutant]:
    """Mistakes planted in the gradient of one system.

    Args:
      problem: the system.
      params: the point.
      batch: the data.
      share: every so many of the mistakes in one leaf; the leaves take turns.
      first: of the mistakes the one to start with; behind the last one follows the first.
      step: every so many of the mistakes.

    Yields:
      Wrong gradients whose error at the point is not zero by chance.
    """
    turn = itertools.count()
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    planted: list[tuple[str, Callable[[], Any], set[Kind]]] = []
    for leaf in range(len(paths)):
        changes = [*_of_one_leaf(problem, params, batch, leaf), *_of_penalty(problem, params, leaf)]
        if batch is not None:
            changes += _of_data(problem, batch, leaf)
        for what, change, kinds in changes:
            number = next(turn)
            if number % len(paths) == 0 and number // len(paths) % share == 0:
                made = functools.partial(_on_leaf, problem, leaf, change)
                planted.append((f"{what} in {paths[leaf]}", made, kinds))
    planted += _of_all_leaves(problem, params, batch)
    # The derivations below have an intercept, ReLU layers and a linear output.
    layers = getattr(params, "layers", (params,))
    others = ("activation=", "output=", "biases=")
    if all(hasattr(layer, "bias") for layer in layers) and not any(word in problem.name for word in others):
        planted += _of_derivation(problem)
    # Gradients are made and compiled for those only that are wanted.
    for number in range(first, first + len(planted), step):
        what, make, kinds = planted[number % len(planted)]
        grad = make()
        both = jax.jit(lambda p, b, g=grad: (problem.grad(p, b), g(p, b)))
        right, wrong = map(jax.tree.leaves, both(params, batch))
        where = range(len(paths)) if what == STALE else _differ(wrong, right)
        if where:
            leaves, mistake = frozenset(paths[i] for i in where), what.partition(" in .")[0]
            yield Mutant(f"{problem.name}: {what}", mistake, problem, grad, params, batch, leaves, frozenset(kinds))


def _differ(wrong: list[Any], right: list[Any]) -> list[int]:
    """The leaves that are wrong, by more than chance."""
    return [
        i
        for i, (a, b) in enumerate(zip(wrong, right, strict=True))
        if a.shape != b.shape or not np.allclose(a, b, rtol=1e-5, atol=1e-6)
    ]
