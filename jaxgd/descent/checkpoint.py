"""Checkpoints of a run, one file each. An interrupted write leaves no incomplete file.

A file consists of a magic word, the SHA-256 of the payload, and the payload. The payload is a JSON header with the
settings, the position, and the dtype and shape of every array, followed by the bytes of the arrays. The file is written
under a temporary name, flushed to the disk and renamed. The previous checkpoint is kept: if the newest file is damaged,
only one chunk is lost.

If the arrays of a state are spread over several hosts, so that no host has all of them, orbax-checkpoint writes the
state, and each host writes its part.
"""

import contextlib
import hashlib
import json
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

MAGIC = b"jaxgd-1\n"
KEPT = 2


def save(folder: Path, settings: dict[str, str], position: int, state: Any) -> None:
    """Write a checkpoint.

    Args:
      folder: the folder; it is made if it does not exist.
      settings: the settings in which a resumed run must agree.
      position: the number of chunks done.
      state: a tree of arrays.

    If every process has the whole state, the first process writes it. If the state is spread over the processes, each
    writes its part.

    Raises:
      OSError: the folder cannot be written.
      ImportError: the state is spread over hosts, and orbax-checkpoint is not installed.
    """
    if is_spread(state):
        with _orbax(folder) as manager:
            _save_parts(manager, settings, position, state)
        return
    if jax.process_index():
        return
    folder.mkdir(parents=True, exist_ok=True)
    arrays = [np.asarray(_data(leaf)) for leaf in jax.tree.leaves(state)]
    header = {
        "settings": settings,
        "position": position,
        "arrays": [{"dtype": str(array.dtype), "shape": array.shape} for array in arrays],
    }
    payload = b"\n".join([json.dumps(header).encode(), b"".join(array.tobytes() for array in arrays)])
    # Written beside its name and then renamed: whoever reads finds a whole checkpoint, whenever this process ends.
    handle, temporary = tempfile.mkstemp(prefix=".checkpoint-", dir=folder)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(MAGIC + hashlib.sha256(payload).digest() + payload)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, folder / f"checkpoint-{position:06d}")
    except BaseException:
        os.unlink(temporary)
        raise
    directory = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(directory)  # makes the rename itself durable
    finally:
        os.close(directory)
    for old in _files(folder)[KEPT:]:
        old.unlink()


def load(
    folder: Path, settings: dict[str, str], like: Any, passes: Callable[[int, int], bool] | None = None
) -> tuple[int, Any] | None:
    """Read the newest checkpoint that is not damaged.

    Args:
      folder: the folder of the checkpoints.
      settings: the settings of the run to resume.
      like: a state of that run, for its tree, shapes and dtypes.
      passes: `(position, num_steps) -> bool`, whether this run has the same state as a run of `num_steps` steps at that
        position. Checkpoints of runs with fewer steps for which it returns False are ignored. None means that only
        checkpoints of runs with the same number of steps are used.

    Returns:
      Position and state; None without a checkpoint.

    Raises:
      ValueError: the checkpoint has other settings, or all checkpoints are damaged; the text names the file.
      ImportError: see `save`.
    """
    if is_spread(like):
        with _orbax(folder) as manager:
            return _load_parts(manager, folder, settings, like)
    for abandoned in folder.glob(".checkpoint-*"):  # left by a process that was killed while writing
        abandoned.unlink()
    damaged: list[str] = []
    for path in _files(folder):
        try:
            header, content = _read(path)
        except ValueError as error:
            damaged.append(str(error))
            continue
        found, position = header["settings"], header["position"]
        num_steps = int(found.get("num_steps", 0))
        longer = passes is not None and num_steps < int(settings["num_steps"])
        _compare(path, found, {**settings, "num_steps": found.get("num_steps", "")} if longer else settings)
        if longer and passes is not None and not passes(position, num_steps):
            continue
        if damaged:
            warnings.warn(f"{' '.join(damaged)} Resuming from {path}.", stacklevel=3)
        return position, _restored(header["arrays"], content, like)
    if damaged:
        raise ValueError(f"{' '.join(damaged)} No sound checkpoint is left; remove the folder to start again.")
    return None


def settings_in(folder: Path) -> dict[str, str]:
    """The settings of the run that wrote the newest checkpoint that is not damaged.

    Args:
      folder: the folder of the checkpoints.

    Returns:
      Names and values of the settings; empty without such a checkpoint.
    """
    for path in _files(folder):
        with contextlib.suppress(ValueError):
            found: dict[str, str] = _read(path)[0]["settings"]
            return found
    return {}


def is_spread(tree: Any) -> bool:
    """Whether the parts of some array are on several hosts.

    Args:
      tree: arrays, keys and numbers.

    Returns:
      True if so.
    """
    leaves = (leaf for leaf in jax.tree.leaves(tree) if isinstance(leaf, jax.Array))
    return any(not leaf.is_fully_addressable and not leaf.is_fully_replicated for leaf in leaves)


def _compare(path: Path, found: dict[str, str], settings: dict[str, str]) -> None:
    differing = [
        f"{name} was {found.get(name)}, now {value}" for name, value in settings.items() if found.get(name) != value
    ]
    if differing:
        raise ValueError(f"{path} is of another run: {'; '.join(differing)}. Name a new folder.")


@contextlib.contextmanager
def _orbax(folder: Path) -> Iterator[Any]:
    try:
        import orbax.checkpoint as orbax
    except ModuleNotFoundError:
        raise ImportError(
            "a state spread over hosts needs orbax-checkpoint: pip install 'jaxgd[distributed]'."
        ) from None
    options = orbax.CheckpointManagerOptions(max_to_keep=KEPT, enable_async_checkpointing=False)
    with orbax.CheckpointManager(folder.resolve(), options=options) as manager:
        yield manager


def _save_parts(manager: Any, settings: dict[str, str], position: int, state: Any) -> None:
    from orbax.checkpoint import args

    leaves = {str(i): _data(leaf) for i, leaf in enumerate(jax.tree.leaves(state))}
    manager.save(position, args=args.Composite(state=args.StandardSave(leaves), settings=args.JsonSave(settings)))


def _load_parts(manager: Any, folder: Path, settings: dict[str, str], like: Any) -> tuple[int, Any] | None:
    from orbax.checkpoint import args

    position = manager.latest_step()
    if position is None:
        return None
    path = folder / str(position)
    wanted = {str(i): _shape(_data(leaf)) for i, leaf in enumerate(jax.tree.leaves(like))}
    try:
        found = manager.restore(
            position, args=args.Composite(state=args.StandardRestore(wanted), settings=args.JsonRestore())
        )
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path} is damaged: {reason} Remove the folder to start again.") from error
    _compare(path, found.settings, settings)
    leaves = [_like(found.state[str(i)], leaf) for i, leaf in enumerate(jax.tree.leaves(like))]
    return position, jax.tree.unflatten(jax.tree.structure(like), leaves)


def _shape(leaf: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)


def digest(tree: Any) -> str:
    """A hash of the dtypes, shapes and bytes of arrays; without the bytes if the arrays are spread over hosts.

    Args:
      tree: arrays, keys and numbers.

    Returns:
      16 hexadecimal digits.
    """
    code = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        spread = is_spread(leaf)
        array = leaf if spread else np.asarray(_data(leaf))
        code.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        if spread:
            continue
        code.update(array.tobytes())
    return code.hexdigest()[:16]


def _files(folder: Path) -> list[Path]:
    """Newest first."""
    return sorted(folder.glob("checkpoint-*"), reverse=True)


def _read(path: Path) -> tuple[dict[str, Any], bytes]:
    data = path.read_bytes()
    start = len(MAGIC) + 32
    if data[: len(MAGIC)] != MAGIC:
        raise ValueError(f"{path} is damaged: it does not begin as a checkpoint.")
    payload = data[start:]
    if hashlib.sha256(payload).digest() != data[len(MAGIC) : start]:
        raise ValueError(f"{path} is damaged: its {len(data)} bytes do not have the checksum written with them.")
    header, _, content = payload.partition(b"\n")
    return json.loads(header), content


def _restored(entries: list[dict[str, Any]], content: bytes, like: Any) -> Any:
    leaves, position = [], 0
    for entry, leaf in zip(entries, jax.tree.leaves(like), strict=True):
        dtype = jnp.dtype(entry["dtype"])
        count = int(np.prod(entry["shape"], dtype=int))
        array = np.frombuffer(content, dtype, count, position).reshape(entry["shape"])
        position += array.nbytes
        leaves.append(_like(_filled(jnp.asarray(array), leaf), leaf))
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def _filled(restored: jax.Array, leaf: Any) -> jax.Array:
    """The history of a shorter run, extended by the empty entries of a longer run."""
    more = np.shape(_data(leaf))[:1] if restored.ndim else ()
    return jnp.concatenate([restored, _data(leaf)[len(restored) :]]) if more > restored.shape[:1] else restored


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _like(restored: jax.Array, leaf: Any) -> jax.Array:
    """The restored array, as a random key if the state has one there."""
    return jax.random.wrap_key_data(restored, impl=jax.random.key_impl(leaf)) if _is_key(leaf) else restored


def _data(leaf: Any) -> Any:
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf
