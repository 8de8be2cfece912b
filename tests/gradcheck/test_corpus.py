"""Mistakes planted in every system: all caught, in the right leaf, under the right name; no false alarm."""

import collections
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common import SOME_SYSTEMS, SYSTEMS, setting

from jaxgd.gradcheck import Kind, check_gradient

ROOT = Path(__file__).resolve().parents[2]
DTYPES = {"float32": jnp.float32, "float64": jnp.float64}


@pytest.fixture
def share(pytestconfig):
    """Every so many of 300 mistakes are tried in each dtype; 2 has all, one dtype each."""
    return 2 if pytestconfig.getoption("--slow") else 20


def planted(name, problem, share):
    """A share of the mistakes; they take turns in float32 and float64."""
    sys.path.insert(0, str(ROOT))
    from experiments.checkers.mutants import mutants

    with jax.enable_x64(name == "float64"):
        whole = list(mutants(DTYPES[name], share=2, name=problem))
    return whole[list(DTYPES).index(name) * (share // 2) :: share]


@pytest.mark.skipif(not (ROOT / "experiments").exists(), reason="the experiments are not beside these tests")
@pytest.mark.parametrize(("problem", "make_batch"), SOME_SYSTEMS)
def test_planted_mistakes_are_caught_and_named(problem, make_batch, share):
    """Both dtypes in one test: what was compiled for the loss serves both."""
    if share > 2 and problem.name.startswith(("mlp((8, 6)", "mlp((8, 7")):
        pytest.skip("networks of several hidden layers take long: --slow has them")
    wrong_names = []
    for name in DTYPES:
        with jax.enable_x64(name == "float64"), jax.numpy_dtype_promotion("standard"):
            for mutant in planted(name, problem.name, share):
                report = check_gradient(mutant.problem.loss, mutant.grad, mutant.params, mutant.batch)
                assert not report.ok, mutant.name
                findings = [finding for finding in report.findings if finding.wrong]
                assert {finding.leaf for finding in findings} == mutant.leaves, f"{mutant.name}\n{report}"
                kinds = {finding.kind for finding in findings}
                if not kinds <= mutant.kinds | {Kind.UNKNOWN}:
                    wrong_names.append(f"{mutant.name}\n{report}")
    assert not wrong_names, "\n".join(wrong_names)


@pytest.mark.parametrize(("problem", "make_batch"), SOME_SYSTEMS)
def test_right_gradients_raise_no_alarm_wherever_they_are_drawn(problem, make_batch, share):
    alarms = []
    for dtype in list(DTYPES.values())[: 2 if share == 2 else 1]:
        for seed in range(32 // share):
            params, batch = setting(problem, make_batch, dtype, seed)
            report = check_gradient(problem.loss, problem.grad, params, batch)
            if not report.ok:
                alarms.append(str(report))
    assert not alarms, "\n".join(alarms)


def test_a_pass_costs_the_same_whatever_the_number_of_parameters():
    """Calls counted as they are executed, by callbacks."""
    counts = []
    for size in (10, 1000, 1_000_000):
        calls = collections.Counter()

        def count(what, calls=calls):
            jax.debug.callback(lambda: calls.update([what]))

        def loss(w, x, count=count):
            count("loss")
            return jnp.mean((x * w) ** 2)

        def grad(w, x, count=count):
            count("grad")
            return 2 * w * x * x / w.size

        w = np.random.default_rng(0).normal(size=size)
        assert check_gradient(loss, grad, w, np.float64(1.5)).ok
        jax.effects_barrier()
        counts.append((calls["loss"], calls["grad"]))
    assert len(set(counts)) == 1
    # Reverse mode calls the loss once each time: 9 of these.
    assert counts[0][1] + 9 <= 25
    assert counts[0][0] <= 40


FACTORS = [1 + 1e-12, 1 - 1e-12]


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("factor", FACTORS)
def test_a_relative_error_of_1e_12_is_seen(factor, dtype):
    for problem, make_batch in [(param.values[0], param.values[1]) for param in SYSTEMS[2:19:4]]:
        params, batch = setting(problem, make_batch, dtype)

        def grad(params, batch, problem=problem):
            leaves, treedef = jax.tree.flatten(problem.grad(params, batch))
            leaves[0] = leaves[0].at[(0,) * leaves[0].ndim].multiply(factor)
            return treedef.unflatten(leaves)

        report = check_gradient(problem.loss, grad, params, batch)
        assert not report.ok, problem.name
        assert [leaf.ok for leaf in report.leaves] == [False] + [True] * (len(report.leaves) - 1)
