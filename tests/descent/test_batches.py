"""An epoch visits every row once, in an order of its own."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common import quick

import jaxgd
from jaxgd.descent import batches

# A loss whose gradient says which rows it saw: params[i] counts row i, minus the rate 1.
COUNTER = jaxgd.Problem(
    name="counter",
    loss=lambda params, batch: -jnp.sum(params[batch]),
    grad=lambda params, batch: jnp.zeros_like(params).at[batch].add(-1.0),
    reduction="sum",
)


# By one program; operation by operation it would be twenty.
row_order = jax.jit(batches.row_order, static_argnums=0, static_argnames="count")


@pytest.mark.parametrize("key", [None, jax.random.key(3)], ids=["in order", "shuffled"])
@pytest.mark.parametrize("batch_size", quick([1, 3, 5, 12, 13], [1, 5]))
def test_each_epoch_visits_every_row_once(batch_size, key):
    rows = jnp.arange(13)
    per_epoch = -(-13 // batch_size)
    result = jaxgd.descend(
        COUNTER,
        jnp.zeros(13),
        rows,
        learning_rate=1.0,
        num_steps=3 * per_epoch,
        batch_size=batch_size,
        key=key,
        record=("params",),
    )
    path = np.concatenate([result.history.params, result.params[None]])
    np.testing.assert_array_equal(path[::per_epoch], np.arange(4)[:, None] * np.ones(13))
    sizes = np.sum(np.diff(path, axis=0), axis=1)
    expected = [batch_size] * (13 // batch_size) + [13 % batch_size] * (13 % batch_size > 0)
    np.testing.assert_array_equal(sizes, 3 * expected)


def test_an_unfinished_epoch_is_cut_where_the_steps_end():
    result = jaxgd.descend(COUNTER, jnp.zeros(13), jnp.arange(13), learning_rate=1.0, num_steps=4, batch_size=5)
    np.testing.assert_array_equal(result.params, [2] * 5 + [1] * 8)


def test_without_a_key_rows_come_in_their_order():
    result = jaxgd.descend(
        COUNTER, jnp.zeros(6), jnp.arange(6), learning_rate=1.0, num_steps=3, batch_size=2, record=("params",)
    )
    np.testing.assert_array_equal(result.history.params[1:], [[1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 0, 0]])


def test_every_epoch_has_an_order_of_its_own():
    epochs = batches.cut(jnp.arange(50), 1)
    key = jax.random.key(0)
    first, second = (np.asarray(row_order(epochs, key, jnp.asarray(i))) for i in (0, 1))
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(np.sort(first), np.arange(50))
    np.testing.assert_array_equal(first, row_order(epochs, key, jnp.asarray(0)))


def test_orders_are_uniform():
    """All 24 of 4 rows over 4800 epochs: a chi-square of 23 degrees, 1 in 10^6 above 73."""
    epochs = batches.cut(jnp.arange(4), 1)
    orders = jax.vmap(lambda i: row_order(epochs, jax.random.key(1), i))(np.arange(4800))
    counts = np.unique(orders, axis=0, return_counts=True)[1]
    assert len(counts) == 24
    assert np.sum((counts - 200) ** 2 / 200) < 73


@pytest.mark.parametrize("num_rows", quick([1, 2, 1025, 4095, 4096, 10_007, 65_536], [1, 1025, 10_007]))
def test_orders_hold_every_row_once(num_rows):
    order = np.asarray(row_order(batches.cut(np.arange(num_rows), 1), jax.random.key(2), jnp.asarray(0)))
    np.testing.assert_array_equal(np.sort(order), np.arange(num_rows))


@pytest.mark.parametrize("key", [None, jax.random.key(2)], ids=["in order", "shuffled"])
@pytest.mark.parametrize("num_rows", [50, 5000])
def test_a_part_of_an_order_costs_its_own_rows(num_rows, key):
    epochs = batches.cut(np.arange(num_rows), 1)
    whole = np.asarray(row_order(epochs, key, jnp.asarray(1)))
    part = jax.jit(lambda first: batches.row_order(epochs, key, jnp.asarray(1), first, 20))
    for first in (0, 13, num_rows - 20):
        np.testing.assert_array_equal(part(first), whole[first : first + 20])
    if num_rows == 5000:
        sizes = re.findall(r"[a-z]\d+\[(\d+)", str(part.trace(0).jaxpr))
        assert max(map(int, sizes)) == 20


@pytest.mark.parametrize("num_rows", [4000, 5000])
def test_orders_of_many_rows_look_uniform(num_rows, rng):
    """Beside NumPy's: where a row lands, what follows a row, cycles and runs; each by a chi-square or a z value."""
    num_orders = 100
    epochs = batches.cut(jnp.arange(num_rows), 1)
    orders = np.asarray(jax.vmap(lambda i: row_order(epochs, jax.random.key(1), i))(np.arange(num_orders)))
    random = np.stack([rng.permutation(num_rows) for _ in range(num_orders)])
    for drawn in (random, orders):  # the test itself is put to the test
        landed = np.histogram2d(
            np.tile(np.arange(num_rows), num_orders), drawn.ravel(), bins=20, range=[[0, num_rows]] * 2
        )[0]
        expected = num_rows * num_orders / 400
        assert np.sum((landed - expected) ** 2) / expected < 361 + 6 * np.sqrt(2 * 361)
        steps = np.diff(drawn, axis=1) % num_rows
        counts = np.bincount(steps.ravel() * 50 // num_rows, minlength=50)
        assert np.sum((counts - counts.mean()) ** 2) / counts.mean() < 49 + 6 * np.sqrt(2 * 49)
        fixed = np.sum(drawn == np.arange(num_rows))  # Poisson of mean 1 an order
        assert abs(fixed - num_orders) < 6 * np.sqrt(num_orders)
        rising = np.sum(np.diff(drawn, axis=1) > 0, axis=1)  # (N - 1) / 2, variance (N + 1) / 12
        assert abs(np.mean(rising) - (num_rows - 1) / 2) < 6 * np.sqrt((num_rows + 1) / 12 / num_orders)
    between = [np.corrcoef(orders[i], orders[i + 1])[0, 1] for i in range(num_orders - 1)]
    assert np.max(np.abs(between)) < 6 / np.sqrt(num_rows)


@pytest.mark.parametrize(
    ("batch", "batch_size", "error", "text"),
    [
        (jnp.ones((4, 2)), 5, ValueError, "`batch_size` must be between 1 and 4, got 5."),
        (jnp.ones((4, 2)), 0, ValueError, "`batch_size` must be between 1 and 4, got 0."),
        (jnp.ones((4, 2)), 2.0, TypeError, "`batch_size` must be a Python integer, got 2.0."),
        (None, 1, ValueError, "`batch` must hold arrays of rows to be cut into batches, got none."),
        (jnp.ones((0, 2)), 1, ValueError, "`batch` must have at least one row, got 0."),
        (
            jaxgd.Batch(jnp.ones((4, 2)), jnp.ones(3)),
            1,
            ValueError,
            "all arrays of `batch` must share their leading axis, the rows; "
            "got batch.inputs (4, 2), batch.targets (3,).",
        ),
    ],
)
def test_refusals(batch, batch_size, error, text):
    with pytest.raises(error) as caught:
        batches.cut(batch, batch_size)
    assert str(caught.value) == text
