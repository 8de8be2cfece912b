"""Save a fitted model to a folder: the call that builds its problem, its parameters, its scaling, its names.

`model.json` contains all text. `params.npz` contains every array, under the path of its leaf and in its own dtype.
"""

import functools
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgd import problems
from jaxgd.data import DataError, Standardization
from jaxgd.descent import HeldOut, History, Result
from jaxgd.types import Params, Problem

ARRAYS, WORDS, TRACE = "params.npz", "model.json", "history.npz"


class Fitted(NamedTuple):
    """A fitted model: the problem, the result of the run, and everything needed to predict new data.

    Attributes:
      problem: the problem that was minimised.
      result: the result of the run.
      scaling: the scaling of the inputs; None if the inputs were not scaled.
      input_names: the names of the D input columns, in order; empty if they have no names.
      target_names: the names of the K targets.
      class_names: the names of the labels 0 .. K - 1; empty for a regression.
      one_hot: for each column of categories its name and its values. The first value has no input column.
      best: True if the model uses `result.best_params` (as after `--patience`), False if it uses `result.params`.
    """

    problem: Problem
    result: Result
    scaling: Standardization | None = None
    input_names: tuple[str, ...] = ()
    target_names: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ()
    one_hot: tuple[tuple[str, tuple[str, ...]], ...] = ()
    best: bool = False

    @property
    def params(self) -> Params:
        """The parameters of the model, for scaled inputs."""
        return self.result.best_params if self.best else self.result.params

    def predict(self, inputs: Any) -> np.ndarray[Any, Any]:
        """Predictions for new rows.

        Args:
          inputs: `[N, D]`, in the units of the data that were fitted.

        Returns:
          `[N]` or `[N, K]`: predicted values for a regression, probabilities for a classifier.

        Raises:
          ValueError: the problem has no `predict`, or `inputs` have another number of columns.
        """
        if self.problem.predict is None:
            raise ValueError(f"{self.problem.name} does not predict.")
        rows = np.asarray(inputs, np.float64)
        if self.input_names and rows.ndim == 2 and rows.shape[1] != len(self.input_names):
            raise ValueError(
                f"`inputs` must have {len(self.input_names)} columns ({', '.join(self.input_names)}), "
                f"got {rows.shape[1]}."
            )
        scaled = rows if self.scaling is None else self.scaling.apply(rows)
        dtype = jax.tree.leaves(self.params)[0].dtype
        return np.asarray(self.problem.predict(self.params, jnp.asarray(scaled, dtype)))


def save(folder: Path | str, fitted: Fitted) -> None:
    """Write a fitted model into a folder.

    Args:
      folder: the folder. It is made if it does not exist; the files of an earlier model are replaced.
      fitted: the model.

    Raises:
      OSError: the folder cannot be written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write(folder, fitted)
    trace = {name: np.asarray(leaf) for name, leaf in _named(fitted.result.history).items()}
    np.savez(folder / TRACE, allow_pickle=False, **trace)


def write(folder: Path, fitted: Fitted) -> None:
    """Write the two files of a model, without the history of its run."""
    kept = fitted.result._replace(history=History())
    arrays = {name: np.asarray(leaf) for name, leaf in _named(kept).items()}
    words = {
        "problem": fitted.problem.name,
        "call": _call(fitted.problem),
        "scaled": fitted.scaling is not None,
        "input_names": fitted.input_names,
        "target_names": fitted.target_names,
        "class_names": fitted.class_names,
        "one_hot": fitted.one_hot,
        "best": fitted.best,
        # NumPy's files know only its own dtypes; others, such as bfloat16, are kept as bits.
        "dtypes": {name: str(array.dtype) for name, array in arrays.items()},
    }
    (folder / WORDS).write_text(json.dumps(words, indent=2) + "\n", encoding="utf-8")
    if fitted.scaling is not None:
        arrays |= {"scaling.mean": fitted.scaling.mean, "scaling.scale": fitted.scaling.scale}
    bits = {name: array if array.dtype.kind in "biuf" else array.view(np.uint16) for name, array in arrays.items()}
    np.savez(folder / ARRAYS, allow_pickle=False, **bits)


def load(folder: Path | str, *, problem: Problem | None = None, params: Params | None = None) -> Fitted:
    """Load a fitted model from its folder.

    Args:
      folder: a folder written by `jaxgd fit` or `save`.
      problem: the problem, if it is not one of this package; such a problem is not saved.
      params: a tree like the parameters, if the problem is not one of this package.

    Returns:
      The model, with the same values and dtypes. float64 arrays need `jax_enable_x64`.

    Raises:
      DataError: the folder contains no model, a file is damaged, or the problem is not one of this package and
        `problem` or `params` is missing.
    """
    folder = Path(folder)
    try:
        words = json.loads((folder / WORDS).read_text(encoding="utf-8"))
        with np.load(folder / ARRAYS, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        history = _history(folder / TRACE)
    except FileNotFoundError as error:
        raise DataError(f"{folder}: no fitted model is here ({Path(error.filename).name} is missing).") from None
    except Exception as error:  # damaged files raise whatever their readers meet first
        raise DataError(f"{folder}: the model cannot be read ({type(error).__name__}: {error}).") from None
    built = _build(words, problem, folder)
    for name, dtype in words["dtypes"].items():
        if name in arrays:
            arrays[name] = arrays[name].view(jnp.dtype(dtype))
    filled = {field: _tree(built, params, field, arrays, folder) for field in ("params", "best_params")}
    scalars = {name: jnp.asarray(arrays[name]) for name in Result._fields if name in arrays}
    curve = {name: jnp.asarray(arrays[key]) for name in HeldOut._fields if (key := f"held_out.{name}") in arrays}
    result = Result(**filled, **scalars, history=history, held_out=HeldOut(**curve) if curve else None)
    scaling = Standardization(arrays["scaling.mean"], arrays["scaling.scale"]) if words["scaled"] else None
    names = {field: tuple(words[field]) for field in ("input_names", "target_names", "class_names")}
    one_hot = tuple((name, tuple(levels)) for name, levels in words["one_hot"])
    return Fitted(built, result, scaling, **names, one_hot=one_hot, best=words["best"])


def _named(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by their path, such as "params.weights" or "params.layers[0].bias"."""
    paths = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path).lstrip("."): leaf for path, leaf in paths}


def _call(problem: Problem) -> dict[str, Any] | None:
    """The function of `jaxgd.problems` that builds a problem, and its arguments; None for any other problem."""
    call = problem.call
    function = call.func if isinstance(call, functools.partial) else call
    name = getattr(function, "__name__", None)
    if call is None or name not in problems.__all__ or getattr(problems, name) is not function:
        return None
    given = (list(call.args), dict(call.keywords)) if isinstance(call, functools.partial) else ([], {})
    return {"function": name, "args": given[0], "kwargs": given[1]}


def _build(words: dict[str, Any], problem: Problem | None, folder: Path) -> Problem:
    if problem is not None:
        return problem
    call = words["call"]
    if call is None:
        raise DataError(
            f"{folder}: {words['problem']} is not a problem of jaxgd; give `problem` and `params` to load it."
        )
    function = getattr(problems, call["function"])
    arguments = {name: tuple(v) if isinstance(v, list) else v for name, v in call["kwargs"].items()}
    return function(*(tuple(v) if isinstance(v, list) else v for v in call["args"]), **arguments)


def _nested(arrays: dict[str, Any]) -> Any:
    """Convert paths such as ".layers[0].weights" to nested dicts and lists, which a problem accepts as parameters."""
    if "" in arrays:
        return arrays[""]
    groups: dict[str, dict[str, Any]] = {}
    for name, array in arrays.items():
        match = re.match(r"\.(\w+)|\[(\d+)\]", name)
        assert match is not None
        groups.setdefault(match[0], {})[name[match.end() :]] = array
    parts = {name: _nested(group) for name, group in groups.items()}
    if all(name.startswith("[") for name in parts):
        return [parts[f"[{i}]"] for i in range(len(parts))]
    return {name.lstrip("."): part for name, part in parts.items()}


def _tree(problem: Problem, like: Params | None, field: str, arrays: dict[str, Any], folder: Path) -> Params:
    """The tree of one field of the result, with the problem's own type or the structure of `like`."""
    if like is None:
        mine = {name.removeprefix(field): array for name, array in arrays.items() if name.startswith(field)}
        return problem.accepts.params(jax.tree.map(jnp.asarray, _nested(mine)))
    paths, structure = jax.tree_util.tree_flatten_with_path(like)
    names = [f"{field}{jax.tree_util.keystr(path)}" for path, _ in paths]
    lost = [name for name in names if name not in arrays]
    if lost:
        raise DataError(f"{folder}: {ARRAYS} has no array {lost[0]!r}; `params` must be a tree like the fitted ones.")
    return jax.tree.unflatten(structure, [jnp.asarray(arrays[name]) for name in names])


def _history(path: Path) -> History:
    if not path.exists():
        return History()
    with np.load(path, allow_pickle=False) as archive:
        known = {name: jnp.asarray(archive[name]) for name in archive.files if name in History._fields}
    return History(**known)
