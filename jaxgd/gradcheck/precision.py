"""Evaluating functions in another precision than the process, without a trace of it afterwards."""

import contextlib
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

_dtypes: Any
try:  # not public; without it the context below still works, for functions that close over no NumPy array
    from jax._src import dtypes as _dtypes
    from jax._src.literals import TypedNdArray as _TypedNdArray
except ImportError:  # pragma: no cover
    _dtypes = None

_KNOWN = hasattr(_dtypes, "canonicalize_value")
"""Whether this version of JAX has the function that is replaced below."""


@contextlib.contextmanager
def precision(dtype: Any) -> Iterator[None]:
    """Evaluate in a floating dtype, whatever the settings of the process, which are restored.

    Args:
      dtype: float64 or float32; None for the dtypes that inputs and process have.

    Returns:
      A context.
    """
    x64 = contextlib.nullcontext() if dtype is None else jax.enable_x64(np.dtype(dtype) == np.float64)
    outer = _separate() if dtype is not None else None
    try:
        # One statement and no stack of contexts: a check that passes enters this two dozen times.
        with (
            x64,
            jax.numpy_dtype_promotion("standard"),
            jax.debug_nans(False),
            jax.debug_infs(False),
            warnings.catch_warnings(),
            np.errstate(all="ignore"),
        ):
            # Code that asks for float64 by name gets float32 when it is measured in float32, which is not its mistake.
            warnings.simplefilter("ignore")
            yield
    finally:
        if dtype is not None:
            _restore(outer)


_local = threading.local()
_lock = threading.Lock()
_installed: list[Any] = []
"""JAX's own function while any thread is in a precision, once for each thread."""


def _separate() -> Any:
    """Give NumPy arrays inside functions dtypes that belong to the context that begins; returns what held before.

    JAX (0.10.2) remembers for each NumPy array object the first dtype that it was used in, whatever `enable_x64` says
    later. An array in a closure, used once in float64 here, would stay float64 in the caller's own float32 programs,
    which then fail in XLA; and one that the caller used in float32 would be float32 here. So this thread looks arrays
    up in a dictionary of its own while the context lasts.
    """
    if not _KNOWN:  # pragma: no cover
        return None
    outer = getattr(_local, "seen", None)
    _local.seen = {}
    with _lock:
        _installed.append(_installed[0] if _installed else _dtypes.canonicalize_value)
        _dtypes.canonicalize_value = _canonicalize
    return outer


def _restore(outer: Any) -> None:
    """End the context that `_separate` began."""
    if not _KNOWN:  # pragma: no cover
        return
    _local.seen = outer
    with _lock:
        _dtypes.canonicalize_value = _canonicalize if len(_installed) > 1 else _installed[0]
        _installed.pop()


def _canonicalize(value: Any) -> Any:
    """`jax._src.dtypes.canonicalize_value`, with the arrays of this thread's context apart from all others."""
    seen = getattr(_local, "seen", None)
    if seen is None or type(value) is not np.ndarray:
        return _installed[0](value)
    # The array is kept beside its id, which another array could have after it.
    key = id(value), bool(jax.config.read("jax_enable_x64"))
    if key not in seen:
        seen[key] = value, _TypedNdArray(np.asarray(value, _dtypes.canonicalize_dtype(value.dtype)))
    return seen[key][1]
