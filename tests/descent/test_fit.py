"""The host's loop over chunks: what it covers, where it ends, what it checks."""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgd
from jaxgd import StopReason, problems
from jaxgd.descent.chunks import Cut, default_chunk
from jaxgd.types import Batch, ScalarParams

fit_module = sys.modules["jaxgd.descent.fit"]  # the package has a function of its name


@pytest.mark.parametrize("chunk_steps", [1, 3, 4, 7, 9, 100])
@pytest.mark.parametrize("steps_per_epoch", [1, 4, 7])
@pytest.mark.parametrize("num_steps", [1, 6, 28, 30])
def test_chunks_cover_every_step_once(num_steps, steps_per_epoch, chunk_steps):
    done = 0
    for chunk in Cut(steps_per_epoch, chunk_steps).chunks(num_steps):
        if chunk.num_epochs:
            assert done % steps_per_epoch == 0
        done += chunk.num_epochs * steps_per_epoch or chunk.num_steps
        assert chunk.closes == (not chunk.num_epochs and done % steps_per_epoch == 0)
    assert done == num_steps


@pytest.mark.parametrize(
    ("num_steps", "steps_per_epoch", "block_size", "expected"),
    [
        (1000, 1, 0, 50),
        (1007, 1, 0, 51),
        (1007, 1, 50, 50),
        (1_000_003, 1, 12_500, 50_000),
        (1000, 22, 21, 50),
        (300, 22, 21, 22),
        (300, 150, 15, 150),
        (300, 151, 0, 15),
        (300, 151, 14, 14),
        (5, 1, 0, 1),
    ],
)
def test_default_chunks_are_a_twentieth_in_whole_blocks_or_an_epoch(num_steps, steps_per_epoch, block_size, expected):
    assert default_chunk(num_steps, steps_per_epoch, block_size) == expected


def test_a_run_that_has_stopped_ends_there():
    calls = []

    def loss(params, batch):
        jax.debug.callback(lambda: calls.append(None))
        return (params - 2) ** 2

    problem = jaxgd.Problem(name="counted", loss=loss, grad=lambda p, b: 2 * (p - 2))
    result = jaxgd.fit(problem, jnp.asarray(5.0), None, learning_rate=0.4, num_steps=10_000, chunk_steps=100)
    jax.effects_barrier()
    assert StopReason(int(result.stop_reason)) == StopReason.GRADIENT_SMALL
    assert len(calls) < 200
    assert len(result.history.loss) == 10_000
    assert float(result.history.loss[-1]) == float(result.loss)


def test_the_history_is_written_where_it_lies(monkeypatch):
    """A history of gigabytes is not copied with every chunk."""
    real, places = fit_module._run, []

    def chunk(*args):
        before = args[3].loss.unsafe_buffer_pointer()
        state = real(*args)
        places.append((before, state.history.loss.unsafe_buffer_pointer()))
        return state

    monkeypatch.setattr(fit_module, "_run", chunk)
    start = ScalarParams(jnp.asarray(1.0))
    jaxgd.fit(problems.quadratic(), start, None, learning_rate=1e-3, num_steps=40, chunk_steps=10)
    assert len(places) == 4
    assert len(set(sum(places, ()))) == 1


def test_values_are_checked_once_on_the_host():
    batch = Batch(jnp.ones((3, 2)), jnp.array([0, 1, 2]))
    problem = problems.logistic_regression()
    params = problem.init(jax.random.key(0), batch)
    with pytest.raises(ValueError, match=r"`targets` must be integers in \[0, 2\), got 2 at row 2"):
        jaxgd.fit(problem, params, batch, learning_rate=0.1, num_steps=3)


def test_chunk_steps_are_counted():
    run = functools.partial(
        jaxgd.fit, problems.quadratic(), ScalarParams(jnp.asarray(1.0)), None, learning_rate=0.1, num_steps=3
    )
    with pytest.raises(ValueError, match="`chunk_steps` must be at least 1, got 0"):
        run(chunk_steps=0)


def test_a_first_call_compiles_few_programs(rng):
    """No operation on data or parameters from NumPy is a program of its own: each costs what a small run costs."""
    compiled = []

    def listen(name, seconds, **_):
        if name.endswith("/backend_compile_duration"):
            compiled.append(seconds)

    problem, batch = problems.linear_regression(), (rng.normal(size=(19, 3)), rng.normal(size=19))
    over = {"learning_rate": np.array([0.1, 0.2]), "l2": np.array([0.0, 0.1, 1.0])}
    calls = {
        1: lambda: jaxgd.descend(problem, (np.zeros(3), 0.0), batch, learning_rate=0.1, num_steps=20),
        2: lambda: jaxgd.sweep(problem, (np.zeros(3), 0.0), batch, over=over, num_steps=20),
        3: lambda: jaxgd.fit(problem, (np.zeros(3), 0.0), batch, learning_rate=0.1, num_steps=20),
    }
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        for expected, call in calls.items():
            compiled.clear()
            call()
            assert len(compiled) == expected
            compiled.clear()
            call()
            assert not compiled
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
