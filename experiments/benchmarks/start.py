"""A cold process."""

import functools
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from experiments.benchmarks.measure import OURS, Row, interleaved
from experiments.benchmarks.sizes import repeats

COMPILATION = """
import jax
from jaxgd import cli
seconds = []
jax.monitoring.register_event_duration_secs_listener(lambda name, s, **_: seconds.append(s * ("/compile/" in name)))
cli.run(["fit", "--data", "diabetes"])
print(sum(seconds))
"""


def start(scale: str) -> list[Row]:
    """A cold process: imports, a first fit, and what of it is tracing and compiling."""
    with tempfile.TemporaryDirectory() as folder:
        # An installed package has its bytecode, so it must be kept here, also where this process writes none.
        env = os.environ | {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(Path(folder, "bytecode"))}
        run = functools.partial(subprocess.run, check=True, cwd=folder, env=env, stdout=subprocess.DEVNULL)
        reference = "import jax, optax; jax.numpy.zeros(3) + 1"
        imported = {
            OURS: (
                lambda: run([sys.executable, "-c", "import jaxgd; jaxgd.Batch; import jax; jax.numpy.zeros(3) + 1"]),
                1,
            ),
            "import jax, optax": (lambda: run([sys.executable, "-c", reference]), 1),
        }
        fitted = {
            OURS: (lambda: run([sys.executable, "-m", "jaxgd", "fit", "--data", "diabetes"]), 1),
            "import jax, optax": (lambda: run([sys.executable, "-c", reference]), 1),
        }
        count = repeats(scale, 7)
        words = [sys.executable, "-c", COMPILATION]
        printed = [run(words, stdout=subprocess.PIPE, text=True).stdout for _ in range(count)]
        cold = interleaved(fitted, count)
        compiled = cold | {OURS: [float(text.split()[-1]) for text in printed]}
        return [
            Row("start", "import jaxgd", "run", interleaved(imported, count), "import jax, optax").reaching(1.15),
            Row("start", "jaxgd fit --data diabetes", "run", cold, "import jax, optax").reaching(1.15),
            Row("start", "of that compilation", "run", compiled, "import jax, optax"),
        ]
