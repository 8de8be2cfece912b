"""What checks keep: measured in a process of its own, which checks new functions in turns, right and wrong."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from common import slow

SCRIPT = """
import sys
import jax, jax.numpy as jnp, numpy as np
from jaxgd.gradcheck import check_gradient

x = jnp.asarray(np.random.default_rng(0).normal(size=(8, 3)), jnp.float32)
params = {"w": jnp.full(3, 0.3), "b": jnp.array(0.1)}

def resident():
    with open("/proc/self/statm") as pages:
        return int(pages.read().split()[1]) * 4096 / 1e6

def check(scale, wrong):
    def loss(p, x):
        return jnp.mean(jnp.tanh(scale * x @ p["w"] + p["b"]) ** 2)

    def grad(p, x):
        hidden = jnp.tanh(scale * x @ p["w"] + p["b"])
        slope = 2 * hidden * (1 - hidden if wrong else 1 - hidden**2) / len(x)
        return {"w": scale * x.T @ slope, "b": jnp.sum(slope)}

    assert check_gradient(loss, grad, params, x).ok is not wrong

first, last = map(int, sys.argv[1:])
for i in range(last):
    if i == first:
        before = resident()
    check(1 + i / 1000, wrong=i % 2 == 1)
print(resident() - before)
"""


def megabytes(first, last):
    if not Path("/proc/self/statm").exists():
        pytest.skip("resident memory is read from /proc")
    environment = {**os.environ, "XLA_FLAGS": "--xla_backend_optimization_level=0"}
    words = [sys.executable, "-c", SCRIPT, str(first), str(last)]
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=environment)
    return float(done.stdout)


@slow
def test_checks_of_new_functions_keep_nothing():
    """After ten, which fill what is kept for functions that are checked again."""
    assert megabytes(10, 30) < 20


@slow
def test_two_hundred_checks_of_new_functions_keep_less_than_a_megabyte_each():
    assert megabytes(1, 201) < 200
