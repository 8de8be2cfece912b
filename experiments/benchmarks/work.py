"""The kinds of work, each a function: a scale of `SCALES` -> rows."""

import dataclasses
import functools
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxgd
from experiments.benchmarks import peers
from experiments.benchmarks.first import first_call
from experiments.benchmarks.measure import OURS, Row, interleaved, measured, on_one_core
from experiments.benchmarks.reading import reading
from experiments.benchmarks.scaling import scaling
from jaxgd.descent.fast import choose
from jaxgd.types import Batch, LinearParams

SCALES = ("smoke", "cpu", "gpu")
"""Sizes: small, with the rows of both devices; beyond the caches of a CPU; that fill a GPU of 24 GB or more."""


def _repeats(scale: str, count: int = 5) -> int:
    return 1 if scale == "smoke" else count


def _data(num_rows: int, num_inputs: int, *, labels: bool = False) -> Batch:
    inputs = jax.random.normal(jax.random.key(0), (num_rows, num_inputs))
    logits = inputs @ jnp.full(num_inputs, num_inputs**-0.5)
    return Batch(inputs, (logits > 0).astype(jnp.int32) if labels else jax.nn.sigmoid(logits))


def _start(batch: Batch) -> LinearParams:
    return LinearParams(jnp.zeros(batch.inputs.shape[1]), jnp.zeros(()))


def _shape(batch: Batch) -> str:
    return " x ".join(f"{size:,}" for size in batch.inputs.shape)


def _sum(batch: Batch) -> Any:
    return functools.partial(jax.jit(jnp.sum), batch.inputs)


def full_batch(scale: str) -> list[Row]:
    """Steps that are bound by reading the inputs: the limit is one read of them."""
    found = []
    shapes = {
        "smoke": ((2000, 10), (500, 40), (4000, 2)),
        "cpu": ((1_000_000, 100), (100_000, 1000), (4_000_000, 16)),
        "gpu": ((25_000_000, 100), (2_500_000, 1000), (150_000_000, 16)),
    }
    steps, few = (3, 2) if scale == "smoke" else (40, 8)
    for shape in shapes[scale]:
        for name in ("linear_regression", "sigmoid_neuron", "logistic_regression"):
            problem = getattr(jaxgd.problems, name)()
            batch = _data(*shape, labels=name == "logistic_regression")
            params = _start(batch)
            one_device = "tiled" if scale != "gpu" else "plain"
            plan = choose.plan(
                problem, batch, num_steps=steps, evaluation="sharded" if len(jax.devices()) > 1 else one_device
            )
            run = functools.partial(jaxgd.descend, learning_rate=0.1, num_steps=steps, record=("loss",))
            jobs: dict[str, Any] = {
                OURS: (functools.partial(run, plan.problem, params, plan.batch), steps),
                "one read": (_sum(batch), 1),
                "optax": (peers.optax_scan(problem, params, batch, 0.1, few), few),
            }
            if peers.installed("torch"):
                jobs["torch"] = (_torch_job(name, batch, few), few)
            if name == "linear_regression" and scale != "gpu":
                jobs["numpy"] = (peers.numpy_descent(batch, 0.1, few), few)
            if peers.installed("optimistix") and name == "sigmoid_neuron":
                jobs["optimistix"] = (peers.optimistix_descent(problem, params, batch, 0.1, few), few)
            row = measured(
                *(f"full batch, {name}", _shape(batch), "step", jobs, _repeats(scale), "one read"),
                amount=(batch.inputs.nbytes, "B"),
            )
            found.append(row.reaching(1.25 if scale == "gpu" else 1.5, optax=3, torch=5))
    return found


def _torch_job(name: str, batch: Batch, num_steps: int) -> Any:
    from torch import nn, sigmoid

    if name == "linear_regression":
        return peers.torch_descent(lambda z: z, nn.functional.mse_loss, batch, 0.1, num_steps)
    if name == "sigmoid_neuron":
        half = nn.functional.mse_loss
        return peers.torch_descent(sigmoid, lambda f, y: half(f, y) / 2, batch, 0.1, num_steps)
    cross_entropy = nn.functional.binary_cross_entropy_with_logits
    return peers.torch_descent(lambda z: z, lambda z, y: cross_entropy(z, y.float()), batch, 0.1, num_steps)


def least_squares(scale: str) -> list[Row]:
    """A thousand steps of least squares, compressing included."""
    found = []
    problem = jaxgd.problems.linear_regression()
    sizes = (((2000, 10), 2),) if scale == "smoke" else (((100_000, 100), 50), ((1_000_000, 100), 6))
    for shape, few in sizes:
        batch = _data(*shape)
        params, steps = _start(batch), 1000

        def compressed(num_steps: int, record: str, batch: Batch = batch, params: Any = params) -> Any:
            small, statistics = jaxgd.compress(problem, batch)
            options: dict[str, Any] = {"num_steps": num_steps, "record": (record,), "learning_rate": 0.1}
            return jaxgd.descend(small, params, statistics, **options)

        run = functools.partial(compressed, steps, "loss")
        jobs: dict[str, Any] = {OURS: (run, steps), "optax": (peers.optax_scan(problem, params, batch, 0.1, few), few)}
        if scale != "gpu":
            jobs["numpy"] = (peers.numpy_descent(batch, 0.1, few), few)
        if peers.installed("torch"):
            jobs["torch"] = (_torch_job("linear_regression", batch, few), few)
        direct = jaxgd.descend(problem, params, batch, learning_rate=0.1, num_steps=few, record=("params",))
        gap = _gap(compressed(few, "params").history.params, direct.history.params)
        row = measured("least squares, 1000 steps", _shape(batch), "step", jobs, _repeats(scale)).reaching(optax=100)
        found.append(dataclasses.replace(row, reach=(*row.reach, ("iterates within 1e-5", gap <= 1e-5))))
    return found


def _gap(found: Any, expected: Any) -> float:
    """The largest difference of parameters at any step, of the largest parameter."""
    largest = max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(expected))
    differences = jax.tree.map(lambda a, b: float(jnp.max(jnp.abs(a - b))), found, expected)
    return max(jax.tree.leaves(differences)) / largest


def stochastic(scale: str) -> list[Row]:
    """Five shuffled epochs, a row a step, shuffling included; the peer's first; on a GPU in blocks, beside the loop."""
    found = []
    problem = jaxgd.problems.linear_regression()
    for shape in ((500, 5),) if scale == "smoke" else ((100_000, 20), (100_000, 200)):
        batch = _data(*shape)
        run = functools.partial(
            jaxgd.descend, learning_rate=1e-4, num_steps=5 * shape[0], batch_size=1, key=jax.random.key(0), record=()
        )
        jobs: dict[str, Any] = {OURS: (functools.partial(run, problem, _start(batch), batch), 5 * shape[0])}
        if scale != "cpu":
            jobs["row by row"] = (functools.partial(run, problem, _start(batch), batch, fast=False), 5 * shape[0])
        if scale != "gpu":
            jobs["scikit-learn"] = (peers.scikit_learn_epoch(batch, 1e-4), shape[0])
        row = measured("one row a step, shuffled", _shape(batch), "row", jobs, _repeats(scale))
        found.append(row.reaching(**{"scikit-learn": 2, "row": 50}))
    return found


def lanes(scale: str) -> list[Row]:
    """Sweeps of the sigmoid neuron: against the rate of matrix products, of the sigmoid, of moving the parameters."""
    return [_wide_sweep(scale), *(_small_sweep(scale, *shape) for shape in ((100, 4), (4, 1)))]


def _wide_sweep(scale: str) -> Row:
    problem = jaxgd.problems.sigmoid_neuron()
    shape, num_lanes, steps = {
        "smoke": ((500, 10), 8, 2),
        "cpu": ((100_000, 100), 256, 10),
        "gpu": ((1_000_000, 100), 1024, 10),
    }[scale]
    batch = _data(*shape)
    over = {"learning_rate": jnp.geomspace(0.01, 1.0, num_lanes)}
    square = jnp.ones(({"smoke": 200, "cpu": 2000, "gpu": 8000}[scale],) * 2)
    product = jax.jit(lambda a: a @ a)
    sweep = functools.partial(jaxgd.sweep, problem, _start(batch), batch, over=over, num_steps=steps, record=())
    # Two products a step of inputs and lanes, and one for each of the three losses of start and end.
    products = (2 * steps + 3) * shape[0] * shape[1] * num_lanes
    jobs: dict[str, Any] = {
        OURS: (sweep, products / 1e9),
        "matrix product": (lambda: product(square), square.shape[0] ** 3 / 1e9),
        "vmap": (functools.partial(sweep, evaluation="plain"), products / 1e9),
    }
    size = f"{num_lanes} lanes, {_shape(batch)}"
    row = measured("wide sweep", size, "1e9 products", jobs, _repeats(scale), "matrix product", amount=(2e9, "FLOP"))
    return row.reaching(1 / 0.6)


def _small_sweep(scale: str, num_rows: int, num_inputs: int) -> Row:
    problem, batch = jaxgd.problems.sigmoid_neuron(), _data(num_rows, num_inputs)
    num_lanes, steps, few = {"smoke": (16, 3, 2), "cpu": (4096, 300, 20), "gpu": (1_000_000, 300, 20)}[scale]
    rates = jnp.geomspace(1e-3, 1.0, num_lanes)
    mesh = jax.sharding.Mesh(np.asarray(jax.devices()), ("lanes",))
    sweep = functools.partial(
        jaxgd.sweep, problem, _start(batch), batch, over={"learning_rate": rates}, num_steps=steps, record=(), mesh=mesh
    )

    @jax.jit
    def sigmoids(grid: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, steps, lambda _, g: jax.nn.sigmoid(g), grid)

    @jax.jit
    def moves(params: Any) -> Any:
        return jax.lax.fori_loop(0, steps, lambda _, p: jax.tree.map(lambda leaf: leaf * 0.999, p), params)

    jobs: dict[str, Any] = {
        OURS: (sweep, num_lanes * steps),
        "bare vmap": (peers.bare_lanes(problem, _start(batch), batch, rates, steps), num_lanes * steps),
    }
    if scale != "gpu":
        jobs["sigmoid"] = (functools.partial(sigmoids, jnp.ones((num_lanes, num_rows))), num_lanes * steps)
    if scale != "cpu":
        params = jax.tree.map(lambda leaf: jnp.ones((num_lanes, *leaf.shape)), _start(batch))
        jobs["parameters moved"] = (functools.partial(moves, params), num_lanes * steps)
    if peers.installed("torch"):
        lanes = peers.torch_lanes(np.asarray(batch.inputs), np.asarray(batch.targets), np.asarray(rates), few)
        jobs["torch"] = (lanes, num_lanes * few)
    size = f"{num_lanes} lanes, {_shape(batch)}"
    limit = "parameters moved" if scale == "gpu" else "sigmoid"
    return measured("small sweeps", size, "lane and step", jobs, _repeats(scale), limit).reaching(2, torch=5)


def loops(scale: str) -> list[Row]:
    """4096 runs of 1000 steps in one program, beside loops in Python."""
    problem, batch = jaxgd.problems.sigmoid_neuron(), _data(100, 4)
    params = _start(batch)
    num_lanes, steps = (64, 20) if scale == "smoke" else (4096, 1000)
    few_lanes, few_steps = (4, 10) if scale == "smoke" else (64, 500)
    rates = jnp.geomspace(1e-3, 1.0, num_lanes)
    optimizer = optax.sgd(0.1)

    @jax.jit
    def optax_step(params: Any, state: Any) -> tuple[Any, Any]:
        grads = jax.grad(problem.loss)(params, batch)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    def optax_loop() -> Any:
        moved, state = params, optimizer.init(params)
        for _ in range(few_steps):
            moved, state = optax_step(moved, state)
        return moved

    one = functools.partial(jaxgd.descend, problem, params, batch, num_steps=steps, record=())
    over = {"learning_rate": rates}
    jobs: dict[str, Any] = {
        OURS: (lambda: jaxgd.sweep(problem, params, batch, over=over, num_steps=steps, record=()), num_lanes * steps),
        "python around an optax step": (optax_loop, few_steps),
        "runs one by one": (lambda: [one(learning_rate=rate) for rate in rates[:few_lanes]], few_lanes * steps),
    }
    row = measured("sweep", f"{num_lanes} lanes, {_shape(batch)}", "lane and step", jobs, _repeats(scale))
    return [row.reaching(python=100, runs=8)]


def tiny(scale: str) -> list[Row]:
    """One lane of five rows: what the checks of every step cost."""
    batch, steps = _data(5, 1), 100 if scale == "smoke" else 1_000_000
    problem = jaxgd.problems.linear_regression()
    run = functools.partial(jaxgd.descend, learning_rate=1e-5, num_steps=steps, record=("loss",))
    jobs: dict[str, Any] = {
        OURS: (functools.partial(run, problem, _start(batch), batch), steps),
        "bare scan": (peers.bare_scan(batch, 1e-5, steps), steps),
    }
    with on_one_core():
        row = measured("one run", f"{_shape(batch)}, {steps:,} steps", "step", jobs, _repeats(scale, 9), "bare scan")
    return [row.reaching(1.05)]


def chunks(scale: str) -> list[Row]:
    """The run driven from the host in twenty chunks, beside the one bare scan.

    Full batches; single rows, of which every step is kept in a history of 120 MB; and less than two epochs of
    mini-batches, which is cut within the epoch.
    """
    problem, found = jaxgd.problems.sigmoid_neuron(), []
    kinds: tuple[tuple[int, int, int, str, dict[str, Any]], ...] = (
        (1000, 20, 500_000, "full batch", {"record_every": 100}),
        (2000, 3, 10_000_000, "single rows", {"batch_size": 1}),
        (15_000_000, 5, 2_500_000, "batches of 10", {"batch_size": 10, "record_every": 100}),
    )
    for num_rows, num_inputs, steps, how, options in kinds:
        if scale == "smoke":
            num_rows, steps = min(num_rows, 10_000), 1000
        batch = _data(num_rows, num_inputs)
        run: dict[str, Any] = {"learning_rate": 0.1, "num_steps": steps, "key": jax.random.key(0), **options}
        jobs: dict[str, Any] = {
            OURS: (functools.partial(jaxgd.fit, problem, _start(batch), batch, progress=False, **run), steps),
            "descend": (functools.partial(jaxgd.descend, problem, _start(batch), batch, **run), steps),
        }
        with on_one_core():
            seconds = interleaved(jobs, _repeats(scale, 11))  # no profile: it would hold millions of operations
        size = f"{_shape(batch)}, {how}, {steps:,} steps"
        found.append(Row("fit in chunks", size, "step", seconds, "descend").reaching(1.03))
    return found


def gradients(scale: str) -> list[Row]:
    """Every system by its hand gradient and by reverse mode, in the same loop: the median system and the slowest."""
    steps = 10 if scale == "smoke" else 3000
    table = jaxgd.problems.ALL_PROBLEMS[:3] if scale == "smoke" else jaxgd.problems.ALL_PROBLEMS
    found = []
    for problem, make_batch in table:
        batch = make_batch(jax.random.key(0))
        assert problem.init is not None
        params = problem.init(jax.random.key(1), batch)
        both = {OURS: problem, "jax.grad": problem._replace(name="reverse", grad=jax.grad(problem.loss))}
        jobs = {
            name: (
                functools.partial(
                    jaxgd.descend, which, params, batch, learning_rate=1e-4, num_steps=steps, record=("loss",)
                ),
                steps,
            )
            for name, which in both.items()
        }
        with on_one_core():
            seconds = interleaved(jobs, _repeats(scale, 7))
        found.append(Row("hand gradient", problem.name, "step", seconds, "jax.grad").reaching(1.05))
    found.sort(key=Row.over_limit)
    chosen = {"median": found[len(found) // 2], "slowest": found[-1]}
    return [dataclasses.replace(row, size=f"{what} system, {row.size}") for what, row in chosen.items()]


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
        repeats = _repeats(scale, 7)
        words = [sys.executable, "-c", COMPILATION]
        printed = [run(words, stdout=subprocess.PIPE, text=True).stdout for _ in range(repeats)]
        cold = interleaved(fitted, repeats)
        compiled = cold | {OURS: [float(text.split()[-1]) for text in printed]}
        return [
            Row("start", "import jaxgd", "run", interleaved(imported, repeats), "import jax, optax").reaching(1.15),
            Row("start", "jaxgd fit --data diabetes", "run", cold, "import jax, optax").reaching(1.15),
            Row("start", "of that compilation", "run", compiled, "import jax, optax"),
        ]


def growth(scale: str) -> list[Row]:
    """Ten times the rows, the inputs, the steps, the lanes: the slope in log-log."""
    problem = jaxgd.problems.sigmoid_neuron()
    base = {"rows": 100_000, "inputs": 50, "steps": 20, "lanes": 4}
    if scale == "smoke":
        base = {"rows": 1000, "inputs": 10, "steps": 3, "lanes": 2}
    found = []
    for axis in base:
        sizes = [base, base | {axis: 10 * base[axis]}]
        jobs: dict[str, Any] = {}
        for name, size in zip(("small", OURS), sizes, strict=True):
            batch = _data(size["rows"], size["inputs"])
            options: dict[str, Any] = {"num_steps": size["steps"], "record": ()}
            if axis == "lanes":
                over = {"learning_rate": jnp.linspace(0.1, 0.2, size["lanes"])}
                jobs[name] = (functools.partial(jaxgd.sweep, problem, _start(batch), batch, over=over, **options), 1)
            else:
                plan = choose.plan(problem, batch, num_steps=size["steps"], evaluation="tiled")
                run = functools.partial(jaxgd.descend, plan.problem, _start(batch), plan.batch, **options)
                jobs[name] = (functools.partial(run, learning_rate=0.1), 1)
        seconds = interleaved(jobs, _repeats(scale))
        slope = float(np.log10(np.median(seconds[OURS]) / np.median(seconds["small"])))
        limit = 1.0 if axis == "lanes" else 1.05
        judged = ((f"slope {slope:.2f}", slope <= limit),)
        found.append(Row("growth, log-log", f"10 x {axis}", "run", seconds, None, judged))
    return found


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


def check(scale: str) -> list[Row]:
    """A check of a network of ten million parameters, in gradients in float64, the arithmetic of the check.

    And the first check of new small networks, whose every program is compiled: right ones, and ones with a wrong leaf.
    """
    width, num_rows = (50, 8) if scale == "smoke" else (3162, 256)
    rng = np.random.default_rng(0)
    params = {"w": rng.normal(size=(width, width)) / width**0.5, "v": rng.normal(size=width) / width**0.5}
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)
    inputs = jnp.asarray(rng.normal(size=(num_rows, width)), jnp.float32)
    targets = jnp.asarray(rng.normal(size=num_rows), jnp.float32)

    def loss(params: Any, x: Any, y: Any) -> Any:
        return jnp.mean((jnp.tanh(x @ params["w"]) @ params["v"] - y) ** 2)

    def grad(params: Any, x: Any, y: Any) -> Any:
        hidden = jnp.tanh(x @ params["w"])
        by_outputs = 2 * (hidden @ params["v"] - y) / y.shape[0]
        by_hidden = jnp.outer(by_outputs, params["v"]) * (1 - hidden**2)
        return {"w": x.T @ by_hidden, "v": by_outputs @ hidden}

    with jax.enable_x64(True):
        wide = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf, np.float64)), (params, inputs, targets))
    gradient = jax.jit(grad)

    def one_gradient() -> Any:
        with jax.enable_x64(True):
            return jax.block_until_ready(gradient(*wide))

    jobs: dict[str, Any] = {
        OURS: (lambda: jaxgd.assert_gradient(loss, grad, params, inputs, targets), 1),
        "gradient": (one_gradient, 1),
    }
    size = f"{width**2 + width:,} parameters, {num_rows} rows"
    large = Row("gradient check", size, "run", interleaved(jobs, _repeats(scale)), "gradient").reaching(50)
    return [large, *(_first_checks(factor, scale) for factor in (1.0, 2.0))]


def _first_checks(factor: float, scale: str) -> Row:
    """Checks of networks of different sizes, each the first of its functions; one leaf is `factor` times too large."""
    seconds = []
    for hidden in range(3, 5 if scale == "smoke" else 14):
        rng = np.random.default_rng(hidden)
        params = {"w": rng.normal(size=(4, hidden)), "b": rng.normal(size=hidden), "v": rng.normal(size=hidden)}
        x, y = rng.normal(size=(6, 4)), rng.normal(size=6)

        def loss(p: Any, x: Any, y: Any) -> Any:
            return jnp.mean((jnp.tanh(x @ p["w"] + p["b"]) @ p["v"] - y) ** 2)

        def grad(p: Any, x: Any, y: Any) -> Any:
            h = jnp.tanh(x @ p["w"] + p["b"])
            r = 2 * (h @ p["v"] - y) / len(y)
            by_sum = jnp.outer(r, p["v"]) * (1 - h**2)
            return {"w": x.T @ by_sum, "b": factor * by_sum.sum(0), "v": h.T @ r}

        with jax.enable_x64(True):
            started = time.perf_counter()
            report = jaxgd.check_gradient(loss, grad, params, x, y)
            seconds.append(time.perf_counter() - started)
        assert report.ok == (factor == 1)
    at_most = 0.5 if factor == 1 else 1.5
    median = float(np.median(seconds))
    words = f"{median:.2f} s, at most {at_most} s"
    name = f"first check of a small {'right' if factor == 1 else 'wrong'} pair"
    return Row("gradient check", name, "run", {OURS: seconds}, None, ((words, median <= at_most),))


def smooth(scale: str) -> list[Row]:
    """The bound on the curvature over all parameters, in three reads of the inputs: the limit is their Gram matrix."""
    shape = (2000, 10) if scale == "smoke" else (1_000_000, 100)
    problem, batch = jaxgd.problems.logistic_regression(), _data(*shape, labels=True)
    bound = jax.jit(lambda rows: jaxgd.theory.smoothness(problem, rows))
    costs: Any = bound.lower(batch).compile().cost_analysis()
    reads = costs["bytes accessed"] / batch.inputs.nbytes
    jobs: dict[str, Any] = {
        OURS: (functools.partial(bound, batch), 1),
        "Gram matrix": (functools.partial(jax.jit(lambda x: x.T @ x), batch.inputs), 1),
    }
    row = measured("smoothness", _shape(batch), "run", jobs, _repeats(scale), "Gram matrix").reaching(1.5)
    return [dataclasses.replace(row, reach=(*row.reach, ("3 reads of the inputs", reads <= 3.2)))]


WORK = {
    "full_batch": full_batch,
    "least_squares": least_squares,
    "stochastic": stochastic,
    "lanes": lanes,
    "loops": loops,
    "tiny": tiny,
    "chunks": chunks,
    "gradients": gradients,
    "start": start,
    "first_call": first_call,
    "scaling": scaling,
    "growth": growth,
    "memory": memory,
    "check": check,
    "smooth": smooth,
    "reading": reading,
}
"""Every kind by its name."""
