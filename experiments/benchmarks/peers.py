"""The same work as one would write it with other libraries, each in its best honest form."""

import functools
import importlib.util
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxgd.types import Batch, Params, Problem

Array = np.ndarray[Any, Any]


def installed(name: str) -> bool:
    """Whether a library can be imported; its rows are left out where it cannot."""
    return importlib.util.find_spec(name) is not None


def optax_scan(problem: Problem, params: Any, batch: Batch, rate: float, num_steps: int) -> Callable[[], Any]:
    """optax.sgd around jax.value_and_grad of the loss, in a jitted scan; the losses are kept, as ours are."""
    optimizer = optax.sgd(rate)

    @jax.jit
    def run(params: Any, batch: Batch) -> Any:
        def step(carry: Any, _: None) -> tuple[Any, jax.Array]:
            params, state = carry
            value, grads = jax.value_and_grad(problem.loss)(params, batch)
            updates, state = optimizer.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), value

        return jax.lax.scan(step, (params, optimizer.init(params)), length=num_steps)

    return functools.partial(run, params, batch)


def optimistix_descent(problem: Problem, params: Any, batch: Batch, rate: float, num_steps: int) -> Callable[[], Any]:
    """optimistix.GradientDescent, which stops when it likes; tolerances of 0 let it take all its steps."""
    import optimistix

    solver: Any = optimistix.GradientDescent(rate, rtol=0.0, atol=0.0)

    def run() -> Any:
        return optimistix.minimise(problem.loss, solver, params, args=batch, max_steps=num_steps, throw=False).value

    return run


def torch_descent(
    predict: Callable[..., Any], loss: Callable[..., Any], batch: Batch, rate: float, num_steps: int
) -> Any:
    """Autograd and torch.optim.SGD on a copy of the rows, with all threads, or on the GPU that jax has."""
    import torch

    device = _torch_device()
    inputs, targets = (torch.from_numpy(np.array(array)).to(device) for array in batch)
    weights = torch.zeros(inputs.shape[1], requires_grad=True, device=device)
    bias = torch.zeros((), requires_grad=True, device=device)
    optimizer = torch.optim.SGD([weights, bias], lr=rate)

    def run() -> Any:
        for _ in range(num_steps):
            optimizer.zero_grad()
            loss(predict(inputs @ weights + bias), targets).backward()
            optimizer.step()
        return bias.item()  # waits for the device

    return run


def _torch_device() -> str:
    return {"cpu": "cpu", "gpu": "cuda"}[jax.default_backend()]


def torch_lanes(inputs: Array, targets: Array, rates: Array, num_steps: int) -> Any:
    """Lanes of the sigmoid neuron by torch.func.vmap over torch.func.grad."""
    import torch
    from torch.func import grad, vmap

    device = _torch_device()
    x, y, rate = (torch.from_numpy(np.array(array)).to(device) for array in (inputs, targets, rates))

    def loss(weights: Any, bias: Any) -> Any:
        return ((torch.sigmoid(x @ weights + bias) - y) ** 2).mean() / 2

    gradient = vmap(grad(loss, argnums=(0, 1)))

    def run() -> Any:
        weights, bias = (torch.zeros(*shape, device=device) for shape in ((len(rate), x.shape[1]), (len(rate),)))
        with torch.no_grad():
            for _ in range(num_steps):
                by_weights, by_bias = gradient(weights, bias)
                weights -= rate[:, None] * by_weights
                bias -= rate * by_bias
        return bias[0].item()  # waits for the device

    return run


def bare_lanes(problem: Problem, params: Params, batch: Batch, rates: jax.Array, num_steps: int) -> Callable[[], Any]:
    """A vmap over a scan of the bare update rule: what XLA makes of the lanes where nothing is checked."""

    @jax.jit
    def run(params: Params, batch: Batch, rates: jax.Array) -> Params:
        def lane(rate: jax.Array) -> Params:
            def step(params: Params, _: None) -> tuple[Params, None]:
                grads = problem.grad(params, batch)
                return jax.tree.map(lambda leaf, g: leaf - rate * g, params, grads), None

            return jax.lax.scan(step, params, length=num_steps)[0]

        return jax.vmap(lane)(rates)

    return functools.partial(run, params, batch, rates)


def numpy_descent(batch: Batch, rate: float, num_steps: int) -> Callable[[], Any]:
    """Least squares in NumPy, whose products run on all cores."""
    inputs, targets = (np.asarray(array) for array in batch)

    def run() -> Any:
        weights, bias = np.zeros(inputs.shape[1], np.float32), np.float32(0)
        for _ in range(num_steps):
            residuals = inputs @ weights + bias - targets
            weights -= np.float32(2 * rate / len(inputs)) * (residuals @ inputs)
            bias -= np.float32(2 * rate) * residuals.mean(dtype=np.float32)
        return weights

    return run


def scikit_learn_epoch(batch: Batch, rate: float) -> Callable[[], Any]:
    """One shuffled epoch of SGDRegressor."""
    from sklearn.linear_model import SGDRegressor

    inputs, targets = (np.asarray(array) for array in batch)
    model = SGDRegressor(penalty=None, learning_rate="constant", eta0=rate, max_iter=1, tol=None)
    return lambda: model.fit(inputs, targets)


def bare_scan(batch: Batch, rate: float, num_steps: int) -> Callable[[], Any]:
    """Least squares as one would write it by hand for one run: the loss of every step is kept, nothing is checked."""

    @jax.jit
    def run(inputs: jax.Array, targets: jax.Array) -> Any:
        def step(carry: Any, _: None) -> tuple[Any, jax.Array]:
            weights, bias = carry
            residuals = inputs @ weights + bias - targets
            by_predictions = 2 * residuals / len(residuals)
            moved = (weights - rate * (by_predictions @ inputs), bias - rate * jnp.sum(by_predictions))
            return moved, jnp.mean(jnp.square(residuals))

        return jax.lax.scan(step, (jnp.zeros(inputs.shape[1]), jnp.zeros(())), length=num_steps)

    return functools.partial(run, *batch)
