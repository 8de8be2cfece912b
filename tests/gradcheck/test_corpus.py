"""Mistakes planted in every system: all caught, in the right leaf, under the right name; no false alarm."""

import collections
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common import FEW_SYSTEMS, SYSTEMS, setting, slow

from jaxgd.gradcheck import Kind, check_gradient

ROOT = Path(__file__).resolve().parents[2]
DTYPES = {"float32": jnp.float32, "float64": jnp.float64}


MANY = pytest.mark.parametrize("many", [False, pytest.param(True, marks=slow)], ids=["a few", "many"])


def dtypes_of(problem, many):
    """Of a few, the systems take turns in float32 and float64, and the network has both."""
    number = [param.id for param in SYSTEMS].index(problem.name)
    return DTYPES if many or problem.name == "mlp((8,))" else list(DTYPES)[number % 2 : number % 2 + 1]


def planted(problem, params, batch, name, many):
    """One of the mistakes, or every fourth: other ones in other systems, and others in float32 than in float64."""
    sys.path.insert(0, str(ROOT))
    from experiments.checkers.mutants import mutants_of

    number = [param.id for param in SYSTEMS].index(problem.name) + 15 * list(DTYPES).index(name)
    return mutants_of(problem, params, batch, share=2, first=number, step=4 if many else 1000)


@pytest.mark.skipif(not (ROOT / "experiments").exists(), reason="the experiments are not beside these tests")
@MANY
@pytest.mark.parametrize(("problem", "make_batch"), SYSTEMS)
def test_planted_mistakes_are_caught_and_named(problem, make_batch, many):
    wrong_names = []
    for name in dtypes_of(problem, many):
        params, batch = jax.tree.map(np.asarray, setting(problem, make_batch, DTYPES[name]))
        with jax.enable_x64(name == "float64"), jax.numpy_dtype_promotion("standard"):
            mutants = list(planted(problem, params, batch, name, many))
            assert mutants, "the mistake is right by chance"
            for mutant in mutants:
                report = check_gradient(mutant.problem.loss, mutant.grad, mutant.params, mutant.batch)
                assert not report.ok, mutant.name
                findings = [finding for finding in report.findings if finding.wrong]
                assert {finding.leaf for finding in findings} == mutant.leaves, f"{mutant.name}\n{report}"
                kinds = {finding.kind for finding in findings}
                if not kinds <= mutant.kinds | {Kind.UNKNOWN}:
                    wrong_names.append(f"{mutant.name}: {kinds} for {mutant.kinds}\n{report}")
    assert not wrong_names, "\n".join(wrong_names)


@MANY
@pytest.mark.parametrize(("problem", "make_batch"), FEW_SYSTEMS)
def test_right_gradients_raise_no_alarm_wherever_they_are_drawn(problem, make_batch, many):
    alarms = []
    for name in dtypes_of(problem, many):
        dtype = DTYPES[name]
        for seed in range(8 if many else 1):
            params, batch = setting(problem, make_batch, dtype, seed)
            report = check_gradient(problem.loss, problem.grad, params, batch)
            if not report.ok:
                alarms.append(str(report))
    assert not alarms, "\n".join(alarms)


def test_a_pass_costs_the_same_whatever_the_number_of_parameters():
    """Calls counted as they are executed, by callbacks."""
    counts = []
    for size in (10, 200_000):  # compiled without and with optimization
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


QUICK = {(12, "float32", False), (18, "float64", True)}
ONE_ENTRY = [
    pytest.param(param.values, dtype, factor, marks=() if (at, dtype, factor < 1) in QUICK else slow)
    for at in (6, 12, 18)
    for param in [SYSTEMS[at]]
    for dtype in DTYPES
    for factor in (1 + 1e-12, 1 - 1e-12)
]


@pytest.mark.parametrize(("system", "dtype", "factor"), ONE_ENTRY)
def test_a_relative_error_of_1e_12_is_seen(system, dtype, factor):
    problem, make_batch = system
    params, batch = setting(problem, make_batch, DTYPES[dtype])

    def grad(params, batch):
        leaves, treedef = jax.tree.flatten(problem.grad(params, batch))
        leaves[0] = leaves[0].at[(0,) * leaves[0].ndim].multiply(factor)
        return treedef.unflatten(leaves)

    report = check_gradient(problem.loss, grad, params, batch)
    assert not report.ok
    assert [leaf.ok for leaf in report.leaves] == [False] + [True] * (len(report.leaves) - 1)
