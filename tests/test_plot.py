"""What the pictures show, read back from the figures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgd
from jaxgd.theory import taylor

pytest.importorskip("matplotlib", reason="matplotlib is in the cli extra")

PROBLEM = jaxgd.problems.line()
BATCH = jaxgd.Batch(jnp.array([0.0, 1.0, 2.0, 3.0]), jnp.array([1.0, 1.9, 3.2, 3.9]))
START = jax.tree.map(jnp.asarray, PROBLEM.init(jax.random.key(0), BATCH))


@pytest.fixture(scope="module")
def run():
    return jaxgd.descend(
        PROBLEM, START, BATCH, learning_rate=0.02, num_steps=40, record=("loss", "params", "learning_rate")
    )


@pytest.fixture(scope="module")
def lanes():
    rates = jnp.array([1e-4, 0.01, 0.02, 1.0])
    over = {"learning_rate": rates}
    return jaxgd.sweep(PROBLEM, START, BATCH, over=over, num_steps=50, record=("loss",)), over


def curve(figure, number=0):
    return np.asarray(figure.axes[0].lines[number].get_ydata())


def test_loss_shows_the_distance_from_the_minimum(run):
    minimum = float(PROBLEM.loss(PROBLEM.minimizer(BATCH), BATCH))
    figure = jaxgd.plot.loss(run, minimum=minimum)
    rounding = np.finfo(np.float64).eps / 2 * minimum
    expected = np.maximum(np.asarray(run.history.loss) - minimum, rounding)
    np.testing.assert_allclose(curve(figure), expected, rtol=1e-12)
    assert figure.axes[0].get_yscale() == "log"
    assert f"minimum ({minimum:.6g})" in figure.axes[0].get_ylabel()
    assert "MAX_STEPS at step 40" in figure.axes[0].get_title()


def test_a_title_is_not_wider_than_its_axes(run):
    figure = jaxgd.plot.loss(run._replace(stop_reason=np.array(int(jaxgd.StopReason.NO_CHANGE))))
    figure.canvas.draw()
    box = figure.axes[0].title.get_window_extent()
    assert 0 < box.x0 < box.x1 < figure.bbox.x1
    assert "alternate between neighbouring" in figure.axes[0].get_title().replace("\n", " ")


def test_loss_without_a_minimum_leaves_out_its_lowest_point(run):
    losses = np.asarray(run.history.loss)
    assert jaxgd.plot.loss(run).axes[0].get_legend() is None
    np.testing.assert_allclose(curve(jaxgd.plot.loss(run)), losses[:-1] - losses.min(), rtol=1e-12)


def test_loss_of_held_out_rows_is_drawn_beside(run):
    held_out = jaxgd.HeldOut(jnp.array([0, 20, 40]), jnp.array([0.3, 0.1, 0.15]))
    left, right = jaxgd.plot.loss(run._replace(held_out=held_out)).axes
    assert len(left.lines[0].get_xdata()) == 39
    np.testing.assert_array_equal(right.lines[0].get_xdata(), [0, 20, 40])
    np.testing.assert_allclose(right.lines[0].get_ydata(), [0.2, np.nan, 0.05], rtol=1e-12)
    assert right.get_yscale() == "log"
    assert right.get_legend().get_texts()[0].get_text() == "lowest, 0.1 at step 20"


def test_loss_stops_where_the_run_stopped():
    result = jaxgd.descend(PROBLEM, START, BATCH, learning_rate=1.0, num_steps=200, record=("loss",))
    assert len(curve(jaxgd.plot.loss(result, minimum=0.0))) == int(result.num_steps) + 1


def test_loss_of_a_sweep_has_a_curve_a_lane(lanes):
    assert len(jaxgd.plot.loss(lanes[0]).axes[0].lines) == 4


def test_path_starts_at_the_start_and_marks_the_closed_form(run):
    figure = jaxgd.plot.path(PROBLEM, BATCH, run)
    axes = figure.axes[0]
    way, start, best = axes.lines
    np.testing.assert_allclose([start.get_xdata()[0], start.get_ydata()[0]], [START.intercept, START.slope])
    np.testing.assert_allclose([best.get_xdata()[0], best.get_ydata()[0]], np.asarray(PROBLEM.minimizer(BATCH)))
    assert len(way.get_xdata()) == 40
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("intercept", "slope")


def test_sweep_has_three_classes_and_the_limits(lanes):
    result, over = lanes
    start_loss = float(PROBLEM.loss(START, BATCH))
    limit = float(jaxgd.largest_stable_learning_rate(PROBLEM, START, BATCH))
    figure = jaxgd.plot.sweep(result, over, start_loss=start_loss, limits={"exact": limit})
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert labels == ["below its start", "diverged", f"exact = {limit:.3g}"]
    low = jaxgd.plot.sweep(result, over, start_loss=1e-9)
    labels = [text.get_text() for text in low.axes[0].get_legend().get_texts()]
    assert labels == ["not below its start", "diverged"]


def test_sweep_of_two_axes_draws_along_the_one_named():
    over = {"learning_rate": jnp.array([0.01, 0.02]), "l2": jnp.array([0.1, 0.2, 0.3])}
    problem = jaxgd.problems.linear_regression(l2=0.1)
    batch = jaxgd.Batch(BATCH.inputs[:, None], BATCH.targets)
    params = problem.init(jax.random.key(1), batch)
    result = jaxgd.sweep(problem, params, batch, over=over, num_steps=5, record=())
    (points,) = jaxgd.plot.sweep(result, over, axis="l2").axes[0].lines
    np.testing.assert_allclose(points.get_xdata(), [0.1, 0.2, 0.3, 0.1, 0.2, 0.3])
    np.testing.assert_allclose(points.get_ydata(), np.asarray(result.loss).ravel())


def test_sweep_colours_lanes_by_a_further_argument():
    over = {"learning_rate": jnp.array([0.01, 0.02]), "l2": jnp.array([0.1, 0.2, 0.3])}
    problem = jaxgd.problems.linear_regression(l2=0.1)
    batch = jaxgd.Batch(BATCH.inputs[:, None], BATCH.targets)
    params = problem.init(jax.random.key(1), batch)
    result = jaxgd.sweep(problem, params, batch, over=over, num_steps=5, record=())
    axes = jaxgd.plot.sweep(result, over, colour_by=("l2",)).axes[0]
    drawn = [line for line in axes.lines if len(line.get_xdata())]
    assert len({line.get_color() for line in drawn}) == 3
    np.testing.assert_allclose(sorted(line.get_ydata().tolist() for line in drawn), sorted(result.loss.T.tolist()))
    legend = {text.get_text() for text in axes.get_legend().get_texts()}
    assert legend == {"below its start", "l2 0.1", "l2 0.2", "l2 0.3"}
    # With more values than there are colours of their own, the colours go from dark to bright with the value.
    over |= {"l2": np.arange(1, 10) / 10}
    many = jax.tree.map(lambda leaf: np.concatenate([leaf] * 3, axis=1), result)
    axes = jaxgd.plot.sweep(many, over, colour_by=("l2",)).axes[0]
    colours = dict.fromkeys(line.get_color() for line in axes.lines if len(line.get_xdata()))
    brightness = [sum(int(colour[i : i + 2], 16) for i in (1, 3, 5)) for colour in colours]
    assert len(brightness) == 9
    assert brightness == sorted(brightness)


def test_taylor_names_the_orders():
    params = {"x": jnp.float64(0.3)}
    sizes = jnp.geomspace(1e-2, 1e-4, 6)
    found = taylor.remainders(lambda p: jnp.sin(p["x"]), lambda p: {"x": jnp.cos(p["x"])}, params, params, sizes)
    labels = [text.get_text() for text in jaxgd.plot.taylor(found).axes[0].get_legend().get_texts()]
    assert labels == [f"after degree {k}: order {k + 1:.2f}" for k in range(3)]


def test_notebooks_show_the_figure(run):
    assert jaxgd.plot.loss(run)._repr_png_().startswith(b"\x89PNG")


def test_drawing_into_given_axes(run):
    figure, (left, right) = jaxgd.plot.subplots(2)
    assert jaxgd.plot.loss(run, axes=left) is figure
    assert left.lines
    assert not right.lines


REFUSALS = [
    (lambda run, lanes: jaxgd.plot.loss(run._replace(history=jaxgd.History())),
     '`result` must hold recorded losses: run with "loss" in `record`.'),
    (lambda run, lanes: jaxgd.plot.path(PROBLEM, BATCH, lanes[0]),
     '`result` must hold recorded parameters: run with "params" in `record`.'),
    (lambda run, lanes: jaxgd.plot.path(PROBLEM, BATCH, run, parameters=(0, 2)),
     "`parameters` must be two different numbers from 0 to 1, got (0, 2)."),
    (lambda run, lanes: jaxgd.plot.sweep(*lanes, axis="l2"),
     "`axis` must be one of 'learning_rate' (the names in `over`), got 'l2'."),
    (lambda run, lanes: jaxgd.plot.sweep(*lanes, colour_by=("l2",)),
     "`colour_by` must be one of 'learning_rate' (the names in `over`), got 'l2'."),
    (lambda run, lanes: jaxgd.plot.sweep(lanes[0], {"learning_rate": np.ones(3)}),
     "`result` must hold the lanes of `over`: 3 along 'learning_rate', got lanes of shape (4,)."),
]  # fmt: skip


@pytest.mark.parametrize(("call", "message"), REFUSALS)
def test_refusals(run, lanes, call, message):
    with pytest.raises(ValueError) as raised:  # noqa: PT011 -- the whole text is compared
        call(run, lanes)
    assert str(raised.value) == message
