"""How many planted mistakes do gradient checkers catch, and how many right gradients do they reject?

jaxgd beside `jax.test_util.check_grads`, `chex.assert_numerical_grads` and `scipy.optimize.check_grad` on the same
mistakes, each with its defaults (scipy's gives a number: over 1e-4 of the gradient's norm counts as caught).

Expected: jaxgd catches all, rejects none, and names at least 95 % of them rightly.

With `--realworld`: gradients that people really wrote, beside `check_grads` and `allclose` (see realworld.py).
Expected: all wrong ones caught in exactly the wrong leaves, no exception, no right one called wrong.

Run: python -m experiments.checkers [--share N] [--realworld] [--verbose] [--out FOLDER] [--no-progress]

`checkers.json` and `realworld.json` beside this file are committed runs; tables.py makes the README's table of them.
"""

import argparse
import collections
import functools
import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import chex
import jax
import jax.flatten_util
import jax.numpy as jnp
import jax.test_util
import numpy as np
import rich.console
import rich.table
import scipy.optimize

from experiments.checkers import realworld
from experiments.checkers.mutants import Mutant, mutants, settings
from experiments.progress import progress
from jaxgd.gradcheck import Kind, check_gradient
from jaxgd.reporting import environment
from jaxgd.types import Problem

Rejects = Callable[[Problem, Callable[[Any, Any], Any], Any, Any], bool]


def _with_rule(problem: Problem, grad: Callable[[Any, Any], Any], batch: Any) -> Callable[[Any], Any]:
    """The loss with the hand gradient as its rule: what checkers of autodiff can be given."""

    @jax.custom_vjp
    def loss(params: Any) -> Any:
        return problem.loss(params, batch)

    loss.defvjp(
        lambda params: (loss(params), params), lambda params, ct: (jax.tree.map(lambda g: ct * g, grad(params, batch)),)
    )
    return loss


def by_jax(problem: Problem, grad: Callable[[Any, Any], Any], params: Any, batch: Any) -> bool:
    """Whether `jax.test_util.check_grads` rejects it."""
    return _raises(lambda: jax.test_util.check_grads(_with_rule(problem, grad, batch), (params,), 1, modes="rev"))


def by_chex(problem: Problem, grad: Callable[[Any, Any], Any], params: Any, batch: Any) -> bool:
    """Whether `chex.assert_numerical_grads` rejects it."""
    loss = _with_rule(problem, grad, batch)
    leaves, treedef = jax.tree.flatten(params)
    return _raises(
        lambda: chex.assert_numerical_grads(lambda *p: loss(jax.tree.unflatten(treedef, p)), leaves, 1, modes=("rev",))
    )


def by_scipy(problem: Problem, grad: Callable[[Any, Any], Any], params: Any, batch: Any) -> bool:
    """Whether `scipy.optimize.check_grad` shows more than 1e-4 of the gradient's norm."""
    flat, unravel = jax.flatten_util.ravel_pytree(params)

    def value(p: Any) -> float:
        return float(problem.loss(unravel(jnp.asarray(p, flat.dtype)), batch))

    def gradient(p: Any) -> Any:
        return np.asarray(jax.flatten_util.ravel_pytree(grad(unravel(jnp.asarray(p, flat.dtype)), batch))[0], float)

    try:
        error = scipy.optimize.check_grad(value, gradient, np.asarray(flat, float))
        return not error <= 1e-4 * float(np.linalg.norm(gradient(np.asarray(flat, float))))
    except (TypeError, ValueError):
        return True


def _raises(check: Callable[[], Any]) -> bool:
    try:
        check()
    except Exception:  # an AssertionError, or what a wrong shape leads to
        return True
    return False


PEERS: dict[str, Rejects] = {
    "jax.test_util.check_grads": by_jax,
    "chex.assert_numerical_grads": by_chex,
    "scipy.optimize.check_grad": by_scipy,
}


def judge(mutant: Mutant) -> str:
    """What jaxgd makes of a mutant: "missed", "wrong leaf", "wrong name", "unknown" or "named"."""
    report = check_gradient(mutant.problem.loss, mutant.grad, mutant.params, mutant.batch)
    findings = [finding for finding in report.findings if finding.wrong]
    kinds = {finding.kind for finding in findings}
    if report.ok:
        return "missed"
    if {finding.leaf for finding in findings} != mutant.leaves:
        return "wrong leaf"
    if Kind.UNKNOWN in kinds:
        return "unknown"
    return "named" if kinds <= mutant.kinds else "wrong name"


def run(share: int, *, shown: bool = True) -> dict[str, Any]:
    """Every checker on every mutant and on every right gradient, in both dtypes."""
    results: dict[str, Any] = {}
    for dtype in (jnp.float32, jnp.float64):
        caught: collections.Counter[str] = collections.Counter()
        alarms: collections.Counter[str] = collections.Counter()
        verdicts: collections.Counter[str] = collections.Counter()
        seconds: dict[str, list[float]] = {"cold": [], "warm": []}
        with jax.enable_x64(dtype == jnp.float64), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            everything = list(mutants(dtype, share=share))
            print(f"{jnp.dtype(dtype).name}: {len(everything)} mistakes; expect {-(-len(everything) // 60)} minutes.")
            before = None
            with progress(len(everything), f"mistakes in {jnp.dtype(dtype).name}", shown=shown) as begin:
                for mutant in everything:
                    begin(mutant.mistake)
                    if before is not mutant.problem:  # what the other checkers compile is kept by jax, gigabytes of it
                        jax.clear_caches()
                    before = mutant.problem
                    verdicts[judge(mutant)] += 1
                    for name, rejects in PEERS.items():
                        caught[name] += rejects(mutant.problem, mutant.grad, mutant.params, mutant.batch)
            for problem, params, batch in settings(dtype):
                check = functools.partial(check_gradient, problem.loss, problem.grad, params, batch)
                for name, times in (("cold", 1), ("warm", 5)):
                    taken = []
                    for _ in range(times):
                        started = time.perf_counter()
                        report = check()
                        taken.append(time.perf_counter() - started)
                    seconds[name].append(float(np.median(taken)))
                alarms["jaxgd.check_gradient"] += not report.ok
                for name, rejects in PEERS.items():
                    alarms[name] += rejects(problem, problem.grad, params, batch)
        caught["jaxgd.check_gradient"] = len(everything) - verdicts["missed"]
        results[jnp.dtype(dtype).name] = {
            "mutants": len(everything),
            "mistakes": len({mutant.mistake for mutant in everything}),
            "right": len(seconds["warm"]),
            "caught": dict(caught),
            "false alarms": {name: alarms[name] for name in caught},
            "jaxgd": dict(verdicts),
            "warm seconds, median": float(np.median(seconds["warm"])),
            "warm seconds, largest": float(np.max(seconds["warm"])),
        }
    return results


def main() -> None:
    """Measure, print, write; exit 1 where jaxgd falls short of what is expected."""
    parser = argparse.ArgumentParser(prog="python -m experiments.checkers", description=__doc__)
    parser.add_argument("--share", type=int, default=1, help="every so many of the mistakes (1: all)")
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder of checkers.json or realworld.json")
    parser.add_argument("--realworld", action="store_true", help="gradients that people really wrote")
    parser.add_argument("--cases", type=Path, default=realworld.FOLDER, help="folder of cases.py, with --realworld")
    parser.add_argument("--only", default="", help="a part of the names that are wanted, with --realworld")
    parser.add_argument("--verbose", action="store_true", help="print every report, with --realworld")
    parser.add_argument("--no-peers", action="store_true", help="jaxgd only, with --realworld")
    parser.add_argument("--no-progress", action="store_true", help="say nothing while it runs")
    options = parser.parse_args()
    console = rich.console.Console(highlight=False, soft_wrap=True)
    if options.realworld:
        try:
            results = realworld.main(
                options.cases,
                options.only,
                console,
                verbose=options.verbose,
                peers=not options.no_peers,
                shown=not options.no_progress,
            )
        except FileNotFoundError as error:
            parser.error(str(error))
        good = realworld.as_expected(results)
    else:
        results = run(options.share, shown=not options.no_progress)
        good = _show(results, console)
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        chosen = {} if options.realworld else {"share": options.share}
        record = json.dumps({"environment": environment(), **chosen, **results}, indent=2)
        (options.out / f"{'realworld' if options.realworld else 'checkers'}.json").write_text(record + "\n")
    except OSError as error:
        parser.error(f"--out {options.out}: cannot be written ({error.strerror})")
    raise SystemExit(not good)


def _show(results: dict[str, Any], console: rich.console.Console) -> bool:
    """Print the table of planted mistakes; whether all is as expected."""
    table = rich.table.Table("checker", *(f"{name}\ncaught / false alarms" for name in results))
    for checker in ("jaxgd.check_gradient", *PEERS):
        table.add_row(
            checker,
            *(
                f"{100 * found['caught'][checker] / found['mutants']:.1f} % / {found['false alarms'][checker]}"
                for found in results.values()
            ),
        )
    console.print(table)
    good = True
    for name, found in results.items():
        named = found["jaxgd"].get("named", 0) / found["mutants"]
        console.print(
            f"{name}: {found['mutants']} mutants of {found['mistakes']} kinds, {found['right']} right gradients; "
            "jaxgd: "
            + ", ".join(f"{count} {verdict}" for verdict, count in sorted(found["jaxgd"].items()))
            + f"; a warm check takes {1e3 * found['warm seconds, median']:.1f} ms"
        )
        good &= not found["jaxgd"].keys() & {"missed", "wrong leaf"} and named >= 0.95
        good &= found["jaxgd"].get("wrong name", 0) <= 0.01 * found["mutants"]
    return good


if __name__ == "__main__":
    main()
