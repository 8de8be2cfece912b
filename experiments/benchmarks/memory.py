"""Memory at the peak, and what stays after gradient checks."""

import subprocess
import sys

from experiments.benchmarks.measure import OURS, Row

MEMORY = """
import sys
from pathlib import Path
import jax, jax.numpy as jnp, numpy as np, jaxgd
from jaxgd.types import Batch, LinearParams
num_rows, num_inputs, evaluation = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
inputs = np.random.default_rng(0).standard_normal((num_rows, num_inputs), dtype=np.float32)
batch = Batch(jnp.asarray(inputs), jnp.zeros(num_rows))
problem, params = jaxgd.problems.sigmoid_neuron(), LinearParams(jnp.zeros(num_inputs), jnp.zeros(()))

def kilobytes(name):
    status = Path("/proc/self/status").read_text()
    return int(status.split(name + ":")[1].split()[0])

def fit(batch):
    result = jaxgd.fit(problem, params, batch, learning_rate=0.1, num_steps=3, evaluation=evaluation)
    jax.block_until_ready(result)

fit(Batch(batch.inputs[:100], batch.targets[:100]))
Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
before = kilobytes("VmRSS")
fit(batch)
print(kilobytes("VmHWM") - before, inputs.nbytes / 1024)
"""


CHECKS = """
import sys
from pathlib import Path
import jax.numpy as jnp, numpy as np
from jaxgd.gradcheck import check_gradient
x = jnp.asarray(np.random.default_rng(0).normal(size=(8, 3)), jnp.float32)
params = {"w": jnp.full(3, 0.3), "b": jnp.array(0.1)}

def kilobytes():
    return int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0])

def check(scale, wrong):
    def loss(p, x):
        return jnp.mean(jnp.tanh(scale * x @ p["w"] + p["b"]) ** 2)

    def grad(p, x):
        hidden = jnp.tanh(scale * x @ p["w"] + p["b"])
        slope = 2 * hidden * (1 - hidden if wrong else 1 - hidden**2) / len(x)
        return {"w": scale * x.T @ slope, "b": jnp.sum(slope)}

    assert check_gradient(loss, grad, params, x).ok is not wrong

before = None
for i in range(int(sys.argv[1])):
    before = kilobytes() if i == 1 else before
    check(1 + i / 1000, i % 2 == 1)
print((kilobytes() - before) / 1024)
"""


def memory(scale: str) -> list[Row]:
    """What a fit takes beside the inputs it was given (on Linux): more than a fifth of them would be a copy.

    And what gradient checks of new functions keep, half of them wrong ones: at most a megabyte each over 200, and no
    more than that over 1000.
    """
    found = []
    for count in (10,) if scale == "smoke" else (200, 1000):
        words = [sys.executable, "-c", CHECKS, str(count)]
        kept = float(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
        judged = ((f"{kept:.0f} MB of 200", kept <= 200),)
        found.append(Row("memory", f"{count} gradient checks", "run", {OURS: [kept / 1e3]}, None, judged))
    shape = (200_000, 10) if scale == "smoke" else (1_000_000, 100)
    for evaluation in ("tiled", "plain"):
        words = [sys.executable, "-c", MEMORY, *map(str, shape), evaluation]
        more, inputs = map(float, subprocess.run(words, capture_output=True, text=True, check=True).stdout.split())
        size = f"{evaluation}, {shape[0]:,} x {shape[1]}"
        judged = ((f"{1 + more / inputs:.2f} inputs of 1.2", more <= 0.2 * inputs),)
        found.append(Row("memory", size, "run", {OURS: [(inputs + more) / 1e6]}, None, judged))
    return found
