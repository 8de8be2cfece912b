"""Interrupted runs go on to the same bits; damaged and foreign checkpoints are told."""

import concurrent.futures
import contextlib
import functools
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from common import assert_trees_equal, free_address, slow

import jaxgd
from jaxgd import StopReason, problems
from jaxgd.descent import checkpoint, host, lock
from jaxgd.descent import fit as fit_function
from jaxgd.types import Batch

fit_module = sys.modules["jaxgd.descent.fit"]


def job(**options):
    rng = np.random.default_rng(0)
    batch = Batch(jnp.asarray(rng.normal(size=(20, 3))), jnp.asarray(rng.normal(size=20)))
    problem = problems.linear_regression()
    params = problem.init(jax.random.key(0), batch)
    options = {"learning_rate": 0.01, "num_steps": 60, "chunk_steps": 7, "record": ("loss", "params")} | options
    return functools.partial(fit_function, problem, params, batch, **options)


@pytest.fixture
def interrupted(monkeypatch):
    """Run a job until Ctrl-C comes in its chunk number `at`."""

    def run(run_job, at, **options):
        real, calls = fit_module._run, []

        def chunk(*args):
            calls.append(None)
            if len(calls) == at:
                signal.raise_signal(signal.SIGINT)
            return real(*args)

        with monkeypatch.context() as patch:
            patch.setattr(fit_module, "_run", chunk)
            return run_job(**options)

    return run


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, marks=slow),
        {"batch_size": 6, "key": jax.random.key(3)},
        pytest.param({"batch_size": 1, "key": jax.random.key(3)}, marks=slow),
        pytest.param({"optimizer": optax.adam}, marks=slow),
        {"optimizer": optax.chain(optax.add_noise(0.1, 0.5, jax.random.key(1)), optax.sgd(0.01))},
    ],
    ids=["full", "mini", "single", "adam", "noise"],
)
def test_a_resumed_run_gives_the_same_bits(tmp_path, interrupted, options):
    run = job(**options)
    with jax.numpy_dtype_promotion("standard"):
        expected = run()
        for at in (1, 2, 5):
            broken = interrupted(run, at, checkpoint=tmp_path / "run")
            assert StopReason(int(broken.stop_reason)) == StopReason.INTERRUPTED
        assert int(broken.num_steps) > 0
        assert_trees_equal(run(checkpoint=tmp_path / "run"), expected)
        assert_trees_equal(run(checkpoint=str(tmp_path / "run")), expected)  # a finished run is read, not run


def test_an_interrupt_returns_what_there_is(interrupted):
    """The chunk in which Ctrl-C came included, and Ctrl-C is again as it was."""
    result = interrupted(job(), 3)
    assert StopReason(int(result.stop_reason)) == StopReason.INTERRUPTED
    assert int(result.num_steps) == 21
    assert_trees_equal(result.params, job(num_steps=21)().params)
    np.testing.assert_array_equal(result.history.loss[:21], job()().history.loss[:21])
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_an_interrupt_in_the_last_chunk_finds_the_run_done(interrupted):
    assert_trees_equal(interrupted(job(), 9), job()())


def test_a_handler_of_ones_own_is_left_alone(interrupted):
    came = []
    usual = signal.signal(signal.SIGINT, lambda number, frame: came.append(number))
    try:
        assert_trees_equal(interrupted(job(), 3), job()())
    finally:
        signal.signal(signal.SIGINT, usual)
    assert came == [signal.SIGINT]


def test_a_run_in_another_thread():
    """Python delivers Ctrl-C only to the main thread."""
    with concurrent.futures.ThreadPoolExecutor() as pool:
        assert_trees_equal(pool.submit(job()).result(), job()())


def test_only_two_files_are_kept(tmp_path):
    job()(checkpoint=tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["checkpoint-000008", "checkpoint-000009", "lock"]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"num_steps": 50}, "num_steps was 60, now 50"),
        ({"held_out": Batch(jnp.ones((2, 3)), jnp.ones(2))}, "held_out was e3b0c44298fc1c14, now"),
        ({"learning_rate": 0.02}, "learning_rate was 0.01, now 0.02"),
        ({"batch_size": 5}, "batch_size was None, now 5"),
        ({"optimizer": optax.sgd}, "optimizer was None, now optax._src.alias.sgd"),
        ({"key": jax.random.key(9)}, "key was"),
        ({"chunk_steps": 9}, "chunk_steps was 7, now 9"),
        ({"grad_tol": 0.5}, "grad_tol was 0.0, now 0.5"),
    ],
)
def test_a_checkpoint_of_other_settings_is_refused(tmp_path, interrupted, change, text):
    interrupted(job(), 3, checkpoint=tmp_path)
    other = job(**change)
    match = rf"checkpoint-000003 is of another run: {text}.*Name a new folder\.$"
    with jax.numpy_dtype_promotion("standard"), pytest.raises(ValueError, match=match):
        other(checkpoint=tmp_path)


def test_200_damaged_files_are_told_and_never_used(tmp_path, interrupted):
    interrupted(job(), 3, checkpoint=tmp_path)
    _, newest = sorted(tmp_path.glob("checkpoint-*"))
    sound = newest.read_bytes()
    settings = json.loads(sound[40:].partition(b"\n")[0])["settings"]
    rng = random.Random(0)
    for i in range(200):
        data = bytearray(sound)
        if i % 2:
            data = data[: rng.randrange(len(data))]
        else:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        newest.write_bytes(data)
        with pytest.raises(ValueError, match="checkpoint-000003 is damaged"):
            checkpoint._read(newest)
    expected = job()()
    with pytest.warns(UserWarning, match=r"checkpoint-000003 is damaged: .* Resuming from .*checkpoint-000002\."):
        assert_trees_equal(job()(checkpoint=tmp_path), expected)
    for path in tmp_path.glob("checkpoint-*"):
        path.write_bytes(b"")
    with pytest.raises(ValueError, match="No sound checkpoint is left; remove the folder to start again"):
        checkpoint.load(tmp_path, settings, None)


@pytest.mark.parametrize(
    "options", [{}, pytest.param({"batch_size": 6, "key": jax.random.key(3)}, marks=slow)], ids=str
)
@pytest.mark.parametrize("fewer_steps", [60, pytest.param(63, marks=slow), pytest.param(3, marks=slow)])
def test_a_run_is_continued_with_more_steps_to_the_same_bits(tmp_path, options, fewer_steps):
    """Whether its last chunk is one of the longer run (63), is shorter (60), or is its only one (3)."""
    options |= {"held_out": Batch(jnp.ones((2, 3)), jnp.ones(2))}
    expected = job(num_steps=90, **options)()
    job(num_steps=fewer_steps, **options)(checkpoint=tmp_path)
    assert_trees_equal(job(num_steps=90, **options)(checkpoint=tmp_path), expected)


@pytest.mark.parametrize(
    ("fewer_steps", "found"), [(61, 56), *(pytest.param(*pair, marks=slow) for pair in ((60, 56), (63, 63), (38, 28)))]
)
def test_a_continued_run_begins_at_its_last_whole_chunk(tmp_path, monkeypatch, fewer_steps, found):
    """Chunks of two epochs of 7 steps: 61 and 38 steps end in a shorter one and in a part of an epoch."""
    seen = []
    monkeypatch.setattr(fit_module, "progress_bar", lambda *args: seen.append(args[2]) or contextlib.nullcontext(print))
    options = {"batch_size": 3, "chunk_steps": 14, "record": ()} if fewer_steps in (61, 38) else {"record": ()}
    job(num_steps=fewer_steps, **options)(checkpoint=tmp_path)
    job(num_steps=90, **options)(checkpoint=tmp_path)
    assert seen == [0, found]


@slow
def test_a_continued_run_keeps_its_chunks(tmp_path, interrupted):
    """Without `chunk_steps` a longer run would have longer ones."""
    options = {"chunk_steps": None, "record": ("loss",)}
    interrupted(job(num_steps=60, **options), 3, checkpoint=tmp_path)
    assert checkpoint.settings_in(tmp_path)["chunk_steps"] == "3"
    longer = job(num_steps=200, **options)
    assert_trees_equal(longer(checkpoint=tmp_path).params, longer().params)


def test_a_folder_is_used_by_one_run_at_a_time(tmp_path):
    with lock.locked(tmp_path):
        owner = rf"process {os.getpid()} on {re.escape(socket.gethostname())}"
        text = rf"`checkpoint` {tmp_path} is in use by another run \({owner}\): wait until it ends, or name another"
        with pytest.raises(ValueError, match=f"^{text} folder\\.$"):
            job()(checkpoint=tmp_path)
    job()(checkpoint=tmp_path)


KILLED = """
import os, random, signal, sys, time
import jax, jaxgd, numpy as np
from jaxgd import data, problems

dataset = data.load("diabetes")

def run(folder):
    batch = data.to_batch(dataset, data.standardization(dataset).apply)
    problem = problems.linear_regression()
    params = problem.init(jax.random.key(0), batch)
    result = jaxgd.fit(problem, params, batch, learning_rate=0.002, num_steps=20000, chunk_steps=20, batch_size=32,
                       key=jax.random.key(1), record_every=100, checkpoint=folder)
    return [leaf.tobytes().hex() for leaf in map(np.asarray, jax.tree.leaves(result))]

def finish(folder):
    # The process has imported jax but started no backend, so that it can fork.
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        with os.fdopen(writer, "w") as out:
            out.write(repr(run(folder)))
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answer:
        text = answer.read()
    os.waitpid(child, 0)
    return text

rng, folder, kills, writing = random.Random(0), sys.argv[1], 0, 0
expected = finish(None)
assert expected
while kills < int(sys.argv[2]):
    child = os.fork()
    if not child:
        run(folder)
        os._exit(0)
    seen = set(os.listdir(folder)) if os.path.isdir(folder) else set()
    while not os.path.isdir(folder) or set(os.listdir(folder)) == seen:  # until it has written once more
        time.sleep(0.001)
        if os.waitpid(child, os.WNOHANG)[0]:
            sys.exit(f"the run ended after {kills} kills")
    time.sleep(rng.random() * 0.02)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    kills += 1
    writing += any(name.startswith(".") for name in os.listdir(folder))
print(kills, writing, finish(folder) == expected)
"""


@slow
@pytest.mark.parametrize("num_kills", ["50"])
def test_kill_9_at_random_moments_resumes_to_the_same_bits(tmp_path, num_kills):
    """Kills, of which some come in the middle of writing; the process after the last ends the run."""
    env = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    words = [sys.executable, "-c", KILLED, str(tmp_path / "run"), num_kills]
    done = subprocess.run(words, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr[-2000:]
    kills, writing, same = done.stdout.split()
    assert (kills, same) == (num_kills, "True")
    assert int(writing) > 0 or int(num_kills) < 50  # a write takes a tenth of the moments


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 143), *(pytest.param(*row, marks=slow) for row in ((signal.SIGINT, 130), (signal.SIGHUP, 129)))],
    ids=["TERM", "INT", "HUP"],
)
def test_a_signal_in_the_middle(tmp_path, number, code):
    """A real signal: the command reports what there is, exits with its code, and the same command goes on."""
    words = [
        sys.executable,
        "-m",
        "jaxgd",
        "fit",
        "--data",
        "diabetes",
        "--batch-size",
        "1",
        "--num-steps",
        "2000000",
        "--learning-rate",
        "1e-4",
        "--checkpoint",
        "state",
        "--json",
    ]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    while not (tmp_path / "state").exists() or not list((tmp_path / "state").glob("checkpoint-*")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (code, "")
    summary = json.loads(out)
    assert summary["stop_reason"] == "INTERRUPTED"
    assert 0 < summary["num_steps"] < 2_000_000


def test_the_bar_says_what_happens(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    job()(progress=True)
    assert "steps/s" in capsys.readouterr().err
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False)
    monkeypatch.setattr(host, "LEAST_SECONDS", 0.0)
    job()(progress=True)
    lines = capsys.readouterr().err.splitlines()
    assert 1 < len(lines) <= 10
    assert re.match(r" \d\d% of \d+ steps, best loss \S+, about \d+ s left$", lines[0])
    job()()
    assert capsys.readouterr().err == ""


def test_a_history_beyond_the_memory_is_refused():
    with pytest.raises(ValueError, match=r"the history would take [\d,.]+ GiB, the device has .* raise `record_every`"):
        job(num_steps=2**31 - 1)()
    with pytest.raises(ValueError, match="run fewer lanes at a time"):
        jaxgd.sweep(
            problems.quadratic(),
            problems.quadratic().init(jax.random.key(0), None),
            None,
            over={"learning_rate": jnp.ones(10**5)},
            num_steps=10**7,
        )


SPREAD = """
import os, sys, time
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import jaxgd
module = sys.modules["jaxgd.descent.fit"]

address, process, folder, last = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
rate = float(sys.argv[5])
jax.distributed.initialize(address, 2, process)
mesh = Mesh(np.asarray(jax.devices()), ("parts",))
start = np.linspace(1.0, 2.0, 8)
spread = NamedSharding(mesh, PartitionSpec("parts"))
params = jax.make_array_from_callback(start.shape, spread, start.__getitem__)

def loss(params, batch):
    return jnp.sum((params - batch) ** 2 * jnp.arange(1.0, 9.0))

def leave(code):
    time.sleep(process == 0)  # the first process serves the others: should it end first, they would be aborted
    os._exit(code)

write, positions = module.save, []
def save(folder, settings, position, state):
    write(folder, settings, position, state)
    positions.append(position)
    if position == last:
        leave(7)

module.save = save
problem = jaxgd.autodiff(loss)
try:
    result = jaxgd.fit(
        problem, params, jnp.ones(8), learning_rate=rate, num_steps=40, chunk_steps=10, checkpoint=folder,
        progress=False, evaluation="plain",
    )
except ValueError as error:
    print(str(error).partition(" is of ")[2])
    leave(2)
local = np.concatenate([shard.data for shard in result.params.addressable_shards])
print(positions, [float(value).hex() for value in local], flush=True)
leave(0)
"""


def run_spread(folder, last=0, rate=0.01):
    """Two processes, each with half of the parameters, that end after checkpoint `last`; their outputs."""
    with free_address() as address:
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", SPREAD, address, str(i), str(folder), str(last), str(rate)],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=os.environ | {"JAX_ENABLE_X64": "1", "JAX_PLATFORMS": "cpu"},
            )
            for i in range(2)
        ]
        ended = [process.communicate(timeout=120) for process in processes]
    codes = [process.returncode for process in processes]
    return codes, [out.splitlines()[-1] if out else "" for out, _ in ended], ended[0][1][-2000:]


@slow
def test_parameters_spread_over_processes_resume_to_the_same_bits(tmp_path):
    pytest.importorskip("orbax.checkpoint")
    codes, whole, errors = run_spread(tmp_path / "whole")
    assert codes == [0, 0], errors
    codes, _, errors = run_spread(tmp_path / "cut", last=2)
    assert codes == [7, 7], errors
    codes, _, errors = run_spread(tmp_path / "cut", rate=0.02)
    assert codes == [2, 2], errors
    codes, resumed, errors = run_spread(tmp_path / "cut")
    assert codes == [0, 0], errors
    assert whole[0] != whole[1]
    for before, after in zip(whole, resumed, strict=True):
        assert before.startswith("[1, 2, 3, 4]")
        assert after == before.replace("[1, 2, 3, 4]", "[3, 4]")
