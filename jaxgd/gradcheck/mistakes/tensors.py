"""Functions of PyTorch by those of JAX, so that a loss of tensors can be traced and its backward pass searched.

Only what losses are made of is here. Whoever uses it compares the values with PyTorch's own; a loss that needs more
raises an AttributeError or a TypeError, and then its causes are found without a trace.
"""

import functools
import operator
import types
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

ARGUMENTS = {"dim": "axis", "keepdim": "keepdims", "dims": "axis", "input": "a"}
"""Names of arguments, and what NumPy calls them."""


class Tensor:
    """An array of JAX with the operators and methods of a tensor."""

    __slots__ = ("array",)

    def __init__(self, array: Any) -> None:
        """Wrap an array."""
        self.array = array

    def __getattr__(self, name: str) -> Any:
        """A method of a tensor, or an attribute that arrays have, too."""
        if name in ("T", "mT", "shape", "ndim", "dtype", "real", "imag"):
            found = getattr(self.array, name)
            return Tensor(found) if name in ("T", "mT", "real", "imag") else found
        if name.startswith("__"):
            raise AttributeError(name)
        return functools.partial(function_of(name), self)

    def __getitem__(self, index: Any) -> "Tensor":
        """A part of it."""
        return Tensor(self.array[tree_map(bare, index)])

    def __len__(self) -> int:
        """Its number of rows."""
        return len(self.array)

    def size(self, dim: int | None = None) -> Any:
        """Its shape, or one length of it."""
        return self.array.shape if dim is None else self.array.shape[dim]

    def numel(self) -> int:
        """Its number of entries."""
        return int(self.array.size)


def _operators() -> None:
    """Give a tensor the operators of arrays."""
    two = ("add", "sub", "mul", "truediv", "matmul", "pow", "lt", "le", "gt", "ge", "eq", "ne", "and_", "or_")
    for name in two:
        plain, own = getattr(operator, name), name.rstrip("_")

        def left(self: Tensor, other: Any, plain: Any = plain) -> Tensor:
            return Tensor(plain(self.array, bare(other)))

        def right(self: Tensor, other: Any, plain: Any = plain) -> Tensor:
            return Tensor(plain(bare(other), self.array))

        setattr(Tensor, f"__{own}__", left)
        if own not in ("lt", "le", "gt", "ge", "eq", "ne"):
            setattr(Tensor, f"__r{own}__", right)
    for name in ("neg", "abs", "invert"):

        def one(self: Tensor, plain: Any = getattr(operator, name)) -> Tensor:  # noqa: B008
            return Tensor(plain(self.array))

        setattr(Tensor, f"__{name}__", one)


_operators()


def bare(thing: Any) -> Any:
    """The array in a tensor, of this module or of PyTorch; anything else as it is."""
    if isinstance(thing, Tensor):
        return thing.array
    return jnp.asarray(thing.detach().cpu().numpy()) if hasattr(thing, "detach") else thing


def tree_map(change: Callable[[Any], Any], tree: Any) -> Any:
    """Change the leaves of tuples, lists and dicts."""
    return jax.tree.map(change, tree, is_leaf=lambda leaf: isinstance(leaf, Tensor) or leaf is None)


def wrapped(thing: Any) -> Any:
    """An array as a tensor; anything else as it is."""
    return Tensor(thing) if hasattr(thing, "dtype") and hasattr(thing, "shape") else thing


def _mean_of(form: Callable[..., Any]) -> Callable[..., Any]:
    """A loss by row as PyTorch has them: its mean, its sum, or all of it."""

    def reduced(x: Any, y: Any, reduction: str = "mean", **options: Any) -> Any:
        rows = form(x, y, **options)
        return {"mean": jnp.mean, "sum": jnp.sum, "none": lambda found: found}[reduction](rows)

    return reduced


def _nll(logs: Any, labels: Any) -> Any:
    return -jnp.take_along_axis(logs, labels[:, None], 1)[:, 0]


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "pow": lambda x, power: x**power,
    "rsqrt": lambda x: 1 / jnp.sqrt(x),
    "reciprocal": lambda x: 1 / x,
    "clamp": lambda x, min=None, max=None: jnp.clip(x, min, max),
    "var": lambda x, axis=None, unbiased=True, keepdims=False, correction=1: jnp.var(
        x, axis, ddof=correction if unbiased else 0, keepdims=keepdims
    ),
    "std": lambda x, axis=None, unbiased=True, keepdims=False: jnp.std(x, axis, ddof=int(unbiased), keepdims=keepdims),
    "norm": lambda x, p=2, axis=None, keepdims=False: jnp.sqrt(jnp.sum(x**2, axis, keepdims=keepdims)),
    "amax": jnp.max,
    "amin": jnp.min,
    "cat": jnp.concatenate,
    "t": jnp.transpose,
    "mm": jnp.matmul,
    "mv": jnp.matmul,
    "bmm": jnp.matmul,
    "transpose": jnp.swapaxes,
    "permute": lambda x, *axes: jnp.transpose(x, axes[0] if len(axes) == 1 else axes),
    "unsqueeze": jnp.expand_dims,
    "view": lambda x, *shape: jnp.reshape(x, shape[0] if isinstance(shape[0], tuple) else shape),
    "reshape": lambda x, *shape: jnp.reshape(x, shape[0] if isinstance(shape[0], tuple) else shape),
    "expand": lambda x, *shape: jnp.broadcast_to(x, shape),
    "flatten": jnp.ravel,
    "detach": jax.lax.stop_gradient,
    "clone": lambda x: x,
    "contiguous": lambda x: x,
    "double": lambda x: x.astype(jnp.float64),
    "tensor": lambda x, dtype=None: jnp.asarray(x, dtype),
    "as_tensor": lambda x, dtype=None: jnp.asarray(x, dtype),
    "sigmoid": jax.nn.sigmoid,
    "relu": lambda x: jnp.maximum(x, 0),
    "softplus": lambda x: jnp.logaddexp(x, 0),
    "softmax": jax.nn.softmax,
    "log_softmax": jax.nn.log_softmax,
    "logsigmoid": jax.nn.log_sigmoid,
    "logsumexp": jax.scipy.special.logsumexp,
    "erf": jax.scipy.special.erf,
    "lgamma": jax.scipy.special.gammaln,
    "digamma": jax.scipy.special.digamma,
    "silu": lambda x: x * jax.nn.sigmoid(x),
    "gelu": lambda x, approximate="none": jax.nn.gelu(x, approximate == "tanh"),
    "elu": jax.nn.elu,
    "leaky_relu": jax.nn.leaky_relu,
    "linear": lambda x, w, b=None: x @ w.T if b is None else x @ w.T + b,
    "mse_loss": _mean_of(lambda x, y: (x - y) ** 2),
    "l1_loss": _mean_of(lambda x, y: jnp.abs(x - y)),
    "nll_loss": _mean_of(_nll),
    "cross_entropy": _mean_of(lambda x, y: _nll(jax.nn.log_softmax(x, 1), y)),
    "binary_cross_entropy": _mean_of(lambda p, y: -(y * jnp.log(p) + (1 - y) * jnp.log(1 - p))),
    "binary_cross_entropy_with_logits": _mean_of(lambda z, y: jnp.logaddexp(z, 0) - y * z),
}
"""Functions and methods of PyTorch that jax.numpy does not have, or has with other arguments."""


def function_of(name: str) -> Callable[..., Any]:
    """A function of tensors.

    Args:
      name: in PyTorch.

    Returns:
      The same function by JAX.

    Raises:
      AttributeError: JAX has none of that name.
    """
    plain = FUNCTIONS.get(name) or getattr(jnp, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        named = {ARGUMENTS.get(key, key): bare(value) for key, value in kwargs.items()}
        return tree_map(wrapped, plain(*tree_map(bare, args), **named))

    return call


class Module:
    """PyTorch, or a module of it such as `torch.nn.functional`."""

    def __getattr__(self, name: str) -> Any:
        """A function of tensors, a dtype, or a module."""
        if name in ("nn", "functional", "special", "linalg"):
            return Linear() if name == "linalg" else self
        if name in ("float64", "float32", "int64", "bool", "pi", "inf"):
            return getattr(jnp, name)
        return function_of(name)


class Linear:
    """`torch.linalg`."""

    def __getattr__(self, name: str) -> Any:
        """A function of matrices."""
        plain = getattr(jnp.linalg, name)
        return lambda *args, **kwargs: tree_map(wrapped, plain(*tree_map(bare, args), **tree_map(bare, kwargs)))


def in_jax(thing: Any) -> Any:
    """What stands for a module, a function or a tensor of PyTorch; None for anything else."""
    module = thing.__name__ if isinstance(thing, types.ModuleType) else getattr(type(thing), "__module__", "")
    if isinstance(thing, types.ModuleType) and module.partition(".")[0] == "torch":
        return Linear() if module == "torch.linalg" else Module()
    if module.partition(".")[0] == "torch" and hasattr(thing, "detach"):
        return Tensor(bare(thing))
    if isinstance(thing, types.FunctionType) and (thing.__module__ or "").startswith("torch."):
        return function_of(thing.__name__)
    return None


def of_arrays(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of tensors of this module, called with arrays.

    Args:
      function: as `in_jax` of the values of its module has made it.

    Returns:
      The same of arrays.
    """

    def call(*args: Any, **kwargs: Any) -> Any:
        return tree_map(bare, function(*tree_map(wrapped, args), **tree_map(wrapped, kwargs)))

    return call
