"""jaxgd check: whether gradients are right."""

import dataclasses
import functools
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from jaxgd import problems, reporting
from jaxgd.commands import tables
from jaxgd.commands.errors import UserError
from jaxgd.gradcheck import GradientReport, check_gradient, check_rule
from jaxgd.gradcheck.rules.forms import is_rule

DTYPES = (jnp.float32, jnp.float64)
"""The problems of this package are checked in both dtypes."""


@dataclasses.dataclass(frozen=True)
class CheckOptions:
    """Check gradients: those of all problems of jaxgd, your own loss and gradient, or a function with a custom rule.

    Exit code 0 if all are right, 1 if one is wrong, 2 for bad input.
    """

    functions: tyro.conf.Positional[tuple[str, ...]] = ()
    """model.py, or a module, with functions loss, grad and example() -> (params, *args); or module:loss module:grad.
    Without a gradient, jax.grad of the loss and its custom rules are checked. module:rule checks a jax.custom_vjp, a
    jax.custom_jvp, a torch.autograd.Function or a pair (forward, backward). Without any argument all problems of jaxgd
    are checked."""
    params: Path | None = None
    """An .npz file with the parameters. They become a dictionary of arrays by name, or one array if the file has only
    one."""
    args: Path | None = None
    """An .npz file with the arguments after the parameters, in the order of the file; for a rule, with all
    arguments."""
    order: int = 1
    """1 checks the gradient; 2 checks the derivative of the gradient or a Hessian-vector product."""
    seconds: float = 5.0
    """The time limit in seconds of the search for the cause of a wrong gradient."""
    seed: int = 0
    """Seed of the random directions, points and incoming gradients."""
    x64: bool = False
    """Evaluate your functions in float64 if they do not set a dtype. The check itself always uses float64."""
    json: bool = False
    """Print JSON."""


class _Case(NamedTuple):
    """One check: its name, the functions, the arguments, and whether it runs in float64.

    For a function with a custom derivative rule, `grad` is None.
    """

    name: str
    loss: Callable[..., Any]
    grad: Callable[..., Any] | None
    inputs: tuple[Any, ...]
    x64: bool


def run(options: CheckOptions) -> int:
    """Run the checks and print the results.

    Args:
      options: the options of the command line.

    Returns:
      The exit code: 0, or 1 if a gradient is wrong.

    Raises:
      UserError: functions or inputs cannot be read, or have the wrong form.
    """
    key = jax.random.key(options.seed)
    cases = _of_user(options) if options.functions else _systems()
    found = [(case.name, _check(case, key, options)) for case in cases]
    if options.json:
        print(reporting.to_json([{"name": name, **report.to_dict()} for name, report in found]))
    else:
        _print(found)
    return int(any(not report.ok for _, report in found))


def _check(case: _Case, key: jax.Array, options: CheckOptions) -> GradientReport:
    with jax.enable_x64(case.x64):
        try:
            if case.grad is None:
                return check_rule(case.loss, *case.inputs, key=key, seconds=options.seconds)
            return check_gradient(
                case.loss, case.grad, *case.inputs, key=key, order=options.order, seconds=options.seconds
            )
        except (TypeError, ValueError) as error:
            raise UserError(f"{case.name}: {error}") from None


def _systems() -> Iterator[_Case]:
    """A check of every problem at a random point, in both dtypes."""
    for problem, make_batch in problems.ALL_PROBLEMS:
        for dtype in DTYPES:
            x64 = dtype == jnp.float64
            with jax.enable_x64(x64):
                keys = jax.random.split(jax.random.key(0), 3)
                batch = make_batch(keys[0])
                assert problem.init is not None
                start = problem.init(keys[1], batch)
                # Not at zero parameters, because there several mistakes have no effect.
                leaves, treedef = jax.tree.flatten(start)
                shifts = jax.random.split(keys[2], len(leaves))
                moved = [p + 0.1 * jax.random.normal(k, p.shape) for p, k in zip(leaves, shifts, strict=True)]
                params = jax.tree.unflatten(treedef, moved)
            yield _Case(f"{problem.name}, {jnp.dtype(dtype).name}", problem.loss, problem.grad, (params, batch), x64)


def _of_user(options: CheckOptions) -> Iterator[_Case]:
    if len(options.functions) > 2:
        raise UserError(f"check takes a loss and a gradient, got {len(options.functions)} functions.")
    with jax.enable_x64(options.x64):
        module, loss_name = _load(options.functions[0])
        loss = _function(module, loss_name or "loss")
        if len(options.functions) == 1 and loss_name is not None and is_rule(loss):
            yield _Case(loss_name, loss, None, _arguments_of_a_rule(options, module), options.x64)
            return
        grad: Callable[..., Any]
        if len(options.functions) == 2:
            grad_module, grad_name = _load(options.functions[1])
            grad = _function(grad_module, grad_name or "grad")
        elif loss_name is None and hasattr(module, "grad"):
            grad = _function(module, "grad")
        else:
            grad = jax.grad(loss)
        if options.params is not None:
            inputs: tuple[Any, ...] = (_read_params(options.params), *_read("args", options.args).values())
        else:
            inputs = _example(module, "--params FILE.npz", "(params, *args)")
    yield _Case(options.functions[-1].rpartition(":")[2], loss, grad, inputs, options.x64)


def _arguments_of_a_rule(options: CheckOptions, module: ModuleType) -> tuple[Any, ...]:
    if options.params is not None:
        raise UserError("--params is for a loss and a gradient; give a rule its arguments with --args FILE.npz.")
    if options.order != 1:
        raise UserError("--order 2 is for a loss and a gradient, not for a rule.")
    if options.args is not None:
        return tuple(_read("args", options.args).values())
    return _example(module, "--args FILE.npz", "the arguments of the rule")


def _example(module: ModuleType, flag: str, wanted: str) -> tuple[Any, ...]:
    """The value that the module's example() returns."""
    if not hasattr(module, "example"):
        raise UserError(f"{module.__name__} has no example(): give {flag}, or write one.")
    try:
        inputs = tuple(module.example())
    except Exception as error:
        raise UserError(f"{module.__name__}.example() raised {type(error).__name__}: {error}") from None
    if not inputs:
        raise UserError(f"{module.__name__}.example() must return {wanted}, got nothing.")
    return inputs


def _load(words: str) -> tuple[ModuleType, str | None]:
    """The module, and the name after the colon."""
    place, colon, name = words.rpartition(":") if ":" in words else (words, "", "")
    path = Path(place)
    sys.path.insert(0, str(Path.cwd()))
    try:
        if place.endswith(".py"):
            spec = importlib.util.spec_from_file_location(path.stem, path)
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules.setdefault(path.stem, module)
            spec.loader.exec_module(module)
        else:
            module = importlib.import_module(place)
    except FileNotFoundError:
        raise UserError(f"{place}: no such file.") from None
    except ModuleNotFoundError as error:
        raise UserError(f"{place}: no module named {error.name}.") from None
    except Exception as error:
        raise UserError(f"{place} raised {type(error).__name__} when it was loaded: {error}") from None
    return module, name if colon else None


def _function(module: ModuleType, name: str) -> Callable[..., Any]:
    try:
        function: Any = functools.reduce(getattr, name.split("."), module)
    except AttributeError:
        raise UserError(f"{module.__name__} has no function {name}.") from None
    if not callable(function) and not is_rule(function):
        raise UserError(f"{module.__name__}.{name} must be a function, got {type(function).__name__}.")
    found: Callable[..., Any] = function
    return found


def _read(flag: str, path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        archive = np.load(path)
    except OSError as error:
        raise UserError(f"--{flag} {path}: cannot be read ({error.strerror or 'not an .npz file'}).") from None
    except ValueError:
        archive = None
    if not isinstance(archive, np.lib.npyio.NpzFile):
        raise UserError(f"--{flag} {path}: is not an .npz file.")
    with archive:
        return {name: jnp.asarray(archive[name]) for name in archive.files}


def _read_params(path: Path) -> Any:
    arrays = _read("params", path)
    return next(iter(arrays.values())) if len(arrays) == 1 else arrays


def _print(found: list[tuple[str, GradientReport]]) -> None:
    console = tables.console()
    rows, styles = [], []
    for name, report in found:
        order = "-" if report.taylor_order is None else f"{report.taylor_order:.2f}"
        whole = len(report.leaves) > 1 and report.taylor_order is not None
        if whole:  # the order is that of the whole gradient, along one direction in all leaves
            rows.append([name, "all leaves", "", "", order, ""])
            styles.append("")
        for i, leaf in enumerate(report.leaves):
            verdict, *cells = leaf.cells()
            rows.append(["" if i or whole else name, *cells, "" if i or whole else order, verdict])
            styles.append("" if leaf.ok else "red")
    columns = [
        tables.Column("problem", tables.WORDS),
        tables.Column("leaf", tables.WORDS),
        tables.Column("relative\nerror"),
        tables.Column("could\nsee", tables.SPARE),
        tables.Column("Taylor\norder", tables.SPARE),
        tables.Column("verdict", tables.WORDS),
    ]
    tables.print_table(columns, rows, styles=styles)
    for name, report in found:
        for text, wrong in report.sentences():
            note = "" if wrong else "note: "
            console.print(f"{name}: {note}{text}", markup=False, style="red" if wrong else "yellow")
    count_wrong = sum(not report.ok for _, report in found)
    what = "rule" if all(report.subject for _, report in found) else "gradient"
    count = f"{len(found)} {what}{'s' if len(found) != 1 else ''}"
    console.print(f"{count} checked, {count_wrong} wrong." if count_wrong else f"{count} checked, all right.")
