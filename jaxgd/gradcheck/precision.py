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


@contextlib.contextmanager
def precision(dtype: Any) -> Iterator[None]:
    """Evaluate in a floating dtype, whatever the settings of the process, which are restored.

    Args:
      dtype: float64 or float32; None for the dtypes that inputs and process have.

    Returns:
      A context.
    """
    with contextlib.ExitStack() as stack:
        if dtype is not None:
            stack.enter_context(_own_constants())
            stack.enter_context(jax.enable_x64(np.dtype(dtype) == np.float64))
        for setting in (jax.numpy_dtype_promotion("standard"), jax.debug_nans(False), jax.debug_infs(False)):
            stack.enter_context(setting)
        stack.enter_context(warnings.catch_warnings())
        stack.enter_context(np.errstate(all="ignore"))
        # Code that asks for float64 by name gets float32 when it is measured in float32, which is not its mistake.
        warnings.simplefilter("ignore")
        yield


_local = threading.local()
_lock = threading.Lock()
_installed: list[Any] = []
"""JAX's own function while any thread is inside `_own_constants`, once for each thread."""


@contextlib.contextmanager
def _own_constants() -> Iterator[None]:
    """Give NumPy arrays inside functions dtypes that belong to this context only.

    JAX (0.10.2) remembers for each NumPy array object the first dtype that it was used in, whatever `enable_x64` says
    later. An array in a closure, used once in float64 here, would stay float64 in the caller's own float32 programs,
    which then fail in XLA; and one that the caller used in float32 would be float32 here. So this thread looks arrays
    up in a dictionary of its own while the context lasts.
    """
    if _dtypes is None or not hasattr(_dtypes, "canonicalize_value"):  # pragma: no cover
        yield
        return
    outer = getattr(_local, "seen", None)
    _local.seen = {}
    with _lock:
        _installed.append(_installed[0] if _installed else _dtypes.canonicalize_value)
        _dtypes.canonicalize_value = _canonicalize
    try:
        yield
    finally:
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
