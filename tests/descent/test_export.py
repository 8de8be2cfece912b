"""Every program lowered for accelerators that are not here: what its text must not hold.

No callback to the host, no float64 where jax computes in float32, and nothing that makes another array of the size of
the inputs: a copy in the body of a loop would be read and written in every step.
"""

import functools
import importlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common import SYSTEMS, slow
from jax.sharding import Mesh

import jaxgd
from jaxgd import problems
from jaxgd.descent.chunks import Chunk
from jaxgd.descent.descend import Controls, Given, Program, Settings, check_settings
from jaxgd.descent.fast.sharded import Shares, of_shares
from jaxgd.types import Batch

fitting = importlib.import_module("jaxgd.descent.fit")  # in the package this is the name of the function

PLATFORMS = ("cuda", "tpu")
NUM_ROWS, NUM_INPUTS = 5003, 3  # a size that nothing else in these programs has
RATE = {"learning_rate": 0.1}
SHUFFLED = RATE | {"num_steps": 20_000, "key": jax.random.key(0)}
LINEAR = problems.linear_regression()


def lowered(function, *arguments, platforms=PLATFORMS, x64=False):
    """The text of a program for other devices, in float32."""
    with jax.enable_x64(x64), jax.numpy_dtype_promotion("standard"):
        return jax.export.export(jax.jit(function), platforms=platforms)(*arguments).mlir_module()


def data(problem=LINEAR):
    """Shapes of rows and parameters: nothing here is computed."""
    labels = "logistic" in problem.name or "softmax" in problem.name
    inputs = jax.ShapeDtypeStruct((NUM_ROWS, NUM_INPUTS), jnp.float32)
    targets = jax.ShapeDtypeStruct((NUM_ROWS,), jnp.int32 if labels else jnp.float32)
    with jax.enable_x64(False):
        return jax.eval_shape(problem.init, jax.random.key(0), Batch(inputs, targets)), Batch(inputs, targets)


def copies(text, shape=(NUM_ROWS, NUM_INPUTS)):
    """The operations whose result is of the size of the inputs, but for loops that hand them on as they are."""
    sizes = "|".join("x".join(map(str, one)) for one in (shape, shape[::-1]))
    found = []
    for line in text.splitlines():
        operation = re.search(r"= \"?(stablehlo\.\w+)", line)
        result = line.rpartition("->" if "->" in line else " : ")[2]
        if operation and re.search(rf"tensor<({sizes})x", result) and operation[1] != "stablehlo.while":
            found.append(operation[1])
    return found


def assert_ready(text):
    assert "callback" not in text
    assert not re.search(r"\bf64\b|xf64", text)
    assert copies(text) == []


def descend(problem=LINEAR, **options):
    return functools.partial(jaxgd.descend, problem, **options)


def sweep(params, batch):
    return jaxgd.sweep(LINEAR, params, batch, over={"learning_rate": jnp.ones(2)}, num_steps=5, record=())


def chunk(params, batch):
    """The second chunk of a fit."""
    with jax.numpy_dtype_promotion("standard"):
        program = Program(LINEAR, check_settings(LINEAR, 0.1, Settings(100)))
        given = Given(batch, None, Controls(0.1, 0.0, 0.0, 1000.0))
        state = fitting._start(program, params, given)
        return fitting._run(program, Chunk(num_epochs=5), state._replace(history=jaxgd.History()), state.history, given)


def on_a_mesh(problem):
    return jaxgd.sharded(problem, Mesh(np.asarray(jax.devices()[:1]), ("rows",)))


def epoch_part(params, batch):
    """A chunk of a fit that ends within an epoch of mini-batches."""
    with jax.numpy_dtype_promotion("standard"):
        program = Program(LINEAR, check_settings(LINEAR, 0.1, Settings(100, batch_size=10)))
        given = Given(batch, jax.random.key(0), Controls(0.1, 0.0, 0.0, 1000.0))
        state = fitting._start(program, params, given)
        chunk = Chunk(num_steps=7)
        return fitting._run(program, chunk, state._replace(history=jaxgd.History()), state.history, given)


def of_processes(params, batch):
    """Rows of which every process has its own."""
    counts = jnp.full(len(jax.devices()), NUM_ROWS, jnp.int32)
    return descend(of_shares(LINEAR), **RATE, num_steps=5)(params, Shares(batch, counts, NUM_ROWS))


PROGRAMS = {
    "full batches": descend(**RATE, num_steps=5),
    "everything recorded": descend(**RATE, num_steps=5, record=jaxgd.descent.result.RECORDED),
    "blocks of full batches": descend(**RATE, num_steps=50_000),
    "mini-batches": descend(**SHUFFLED, batch_size=10),
    "single rows": descend(**SHUFFLED, batch_size=1),
    "tiles": descend(jaxgd.tiled(LINEAR, 128), **RATE, num_steps=5),
    "rows over a mesh": descend(on_a_mesh(LINEAR), **RATE, num_steps=5),
    "tiles over a mesh": descend(on_a_mesh(jaxgd.tiled(LINEAR, 128)), **RATE, num_steps=5),
    "rows of processes": of_processes,
    "a sweep": sweep,
    "a chunk of fit": chunk,
    "a chunk within an epoch": epoch_part,
}
QUICK = ("full batches", "rows over a mesh", "a chunk of fit")


@pytest.mark.parametrize("name", [name if name in QUICK else pytest.param(name, marks=slow) for name in PROGRAMS])
def test_programs_are_ready_for_accelerators(name):
    assert_ready(lowered(PROGRAMS[name], *data()))


@pytest.mark.parametrize("name", ["rows over a mesh", pytest.param("rows of processes", marks=slow)])
def test_devices_exchange_one_message_a_step(name):
    """One all-reduce each for the loss at the start, loss and gradient of a step, and two losses at the end."""
    assert lowered(PROGRAMS[name], *data()).count("stablehlo.all_reduce") == 4


@pytest.mark.parametrize(
    ("problem", "make_batch"),
    [
        pytest.param(*system.values, id=system.id, marks=() if system.id in ("mlp((3,))", "sigmoid_neuron()") else slow)
        for system in SYSTEMS
    ],
)
def test_systems_are_ready_for_accelerators(problem, make_batch):
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        batch = make_batch(jax.random.key(0))
        batch = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((NUM_ROWS, *leaf.shape[1:]), leaf.dtype), batch)
        if batch is not None and batch.inputs.ndim == 2:  # more inputs than outputs or hidden units
            batch = batch._replace(inputs=jax.ShapeDtypeStruct((NUM_ROWS, 17), batch.inputs.dtype))
        params = jax.eval_shape(problem.init, jax.random.key(0), batch)
    text = lowered(descend(problem, **RATE, num_steps=5), params, batch)
    assert "callback" not in text
    assert not re.search(r"\bf64\b|xf64", text)
    if batch is not None and batch.inputs.ndim == 2:
        assert copies(text, batch.inputs.shape) == []


@slow
def test_single_rows_are_solved_for_where_launches_are_slow_and_not_on_a_cpu():
    """Chosen by the device of the program, not by that of whoever traces it: all are traced on a CPU here."""
    solves = {
        platform: "triangular" in lowered(PROGRAMS["single rows"], *data(), platforms=(platform,))
        for platform in ("cpu", "cuda")
    }
    assert solves == {"cpu": False, "cuda": True}


def test_what_must_not_be_there_would_be_seen():
    """The tests above on a loss with each of the three."""

    def text(change, **options):
        loss = jaxgd.autodiff(lambda params, batch: jnp.mean(change(batch.inputs) @ params.weights), name="changed")
        return lowered(descend(loss, **RATE, num_steps=5), *data(), **options)

    assert "stablehlo.multiply" in copies(text(lambda inputs: inputs * 2))
    assert re.search("xf64", text(lambda inputs: inputs[:9].astype(jnp.float64), x64=True))

    def printed(inputs):
        jax.debug.callback(lambda _: None, inputs[0, 0])
        return inputs

    with pytest.raises(NotImplementedError, match="host_callbacks"):  # such a program cannot even be exported
        text(printed, platforms=("cpu",))
