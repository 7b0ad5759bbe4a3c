import functools
import itertools

import hypothesis
import hypothesis.strategies
import jax
import numpy as np
import pytest
import tiny

from kdjax import data
from kdjax.algorithms import Guards
from kdjax.train import loop
from kdjax.train.checksums import checksum
from kdjax.train.errors import RecipeError
from kdjax.train.spikes import FEWEST, WINDOW, SpikeFinder
from kdjax.train.stopping import Interrupted, Stop

BUDGET = loop.Budget(23, log_every=5, evaluate_every=10, save_every=4)


def weight(state):
    return {"norm": float(abs(state.players["student"].params["model"]["w"]).sum())}


def stopping_at(*steps):
    """Asks to stop when the evaluation of a step comes, as a signal in the middle of it would."""
    stop = Stop()

    def evaluate(state):
        if int(state.step) in steps:
            stop.ask()
        return weight(state)

    return {"stop": stop, "evaluate": evaluate}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    return tiny.fit(folder, BUDGET, evaluate=weight).state, tiny.rows(folder)


def test_rows_of_metrics(undisturbed):
    state, rows = undisturbed
    seen = [(row["step"], row["split"]) for row in rows]
    trained = [(step, "train") for step in (5, 10, 15, 20, 23)]
    assert [row for row in seen if row[1] == "train"] == trained
    assert [row for row in seen if row[1] == "test"] == [(10, "test"), (20, "test"), (23, "test")]
    assert rows[-1] == {"step": 23, "split": "test", **weight(state)}


@pytest.mark.parametrize("every", [1, 7, 22])
def test_interrupted_runs_end_alike(every, undisturbed, tmp_path):
    """Stopped at any step, also between two rows of metrics and off the rhythm of saving."""
    made, stops = tiny.algorithm(), 0
    while True:
        stop, steps = Stop(), []

        def step(state, batch, frozen, steps=steps, stop=stop):
            steps.append(0)
            if len(steps) == every:
                stop.ask()
            return made.step(state, batch, frozen)

        try:
            options = {"stop": stop, "evaluate": weight}
            state = tiny.fit(tmp_path, BUDGET, made=made._replace(step=step), **options).state
            break
        except Interrupted as stopped:
            stops += 1
            assert "checkpoint saved" in str(stopped) and stopped.status == 143
    assert stops == (23 - 1) // every
    assert tiny.equal(state, undisturbed[0])
    assert tiny.rows(tmp_path) == undisturbed[1]


SEVERAL = BUDGET._replace(steps_per_call=3)


@hypothesis.settings(deadline=None, max_examples=200)
@hypothesis.given(*[hypothesis.strategies.integers(1, 30)] * 5)
def test_calls_end_where_somebody_looks(steps, log, evaluate, save, several):
    budget = loop.Budget(steps, log, evaluate, save, steps_per_call=several)
    step, ends = 0, [0]
    while step < steps:
        step += budget.steps_of_call(step)
        ends.append(step)
    looks = {k for k in range(steps) for every in (log, evaluate, save) if k % every == 0}
    assert looks <= set(ends) and ends[-1] == steps
    for begin, end in itertools.pairwise(ends):
        assert end == begin + 1 or (begin % several == 0 and end == begin + several)


@pytest.mark.parametrize("every", [1, 4])
def test_several_steps_per_call(every, undisturbed, tmp_path):
    """The numbers of single steps; stopped anywhere, bitwise those of an undisturbed run."""
    whole = tiny.fit(tmp_path / "whole", SEVERAL, evaluate=weight)
    wanted = tiny.rows(tmp_path / "whole")
    for one, other in zip(tiny.arrays(whole.state), tiny.arrays(undisturbed[0]), strict=True):
        np.testing.assert_allclose(one, other, 1e-5, 1e-6)
    for one, other in zip(wanted, undisturbed[1], strict=True):
        assert one.keys() == other.keys() and one["split"] == other["split"]
        numbers = [[v for v in row.values() if not isinstance(v, str)] for row in (one, other)]
        np.testing.assert_allclose(*numbers, 1e-5)
    made, stops, calls = tiny.algorithm(), 0, []
    while True:
        stop, made_here = Stop(), []

        def counted(function, state, batches, frozen, stop=stop, made_here=made_here):
            made_here.append(len(batches) if isinstance(batches, tuple) else 1)
            if len(made_here) == every:
                stop.ask()
            return function(state, batches, frozen)

        counting = made._replace(
            step=functools.partial(counted, made.step),
            several=functools.partial(counted, made.several),
        )
        try:
            options = {"stop": stop, "evaluate": weight}
            state = tiny.fit(tmp_path / "parts", SEVERAL, made=counting, **options).state
            break
        except Interrupted:
            stops += 1
        finally:
            calls += made_here
    assert set(calls) == {1, 3} and sum(calls) == 23 and stops == (len(calls) - 1) // every
    assert tiny.equal(state, whole.state)
    assert tiny.rows(tmp_path / "parts") == wanted


def test_several_steps_of_what_makes_one(tmp_path):
    with pytest.raises(ValueError, match="steps_per_call is 3, wanted 1"):
        tiny.fit(tmp_path, SEVERAL, made=tiny.algorithm()._replace(several=None))


def test_a_stop_during_evaluation(undisturbed, tmp_path):
    with pytest.raises(Interrupted, match="at step 10, checkpoint saved"):
        tiny.fit(tmp_path, BUDGET, **stopping_at(10))
    outcome = tiny.fit(tmp_path, BUDGET, **stopping_at(23))
    assert tiny.equal(outcome.state, undisturbed[0]), "the last step is the end, not a stop"
    assert tiny.rows(tmp_path) == undisturbed[1]


def test_a_finished_run_is_not_trained_again(undisturbed, tmp_path):
    first = tiny.fit(tmp_path, BUDGET, evaluate=weight)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    again = tiny.fit(tmp_path, BUDGET, evaluate=weight)
    assert tiny.equal(first.state, again.state) and again.seconds == first.seconds
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_a_huge_learning_rate_stops_and_saves_nothing_broken(tmp_path):
    with pytest.raises(loop.NonFiniteLoss) as caught:
        tiny.fit(tmp_path, BUDGET._replace(log_every=50), made=tiny.algorithm(1e38))
    message = str(caught.value)
    assert "step" in message and "batch fingerprint" in message and "\n" not in message
    assert finite(tmp_path)


@pytest.mark.parametrize("several", [1, 2])
def test_an_infinite_image_stops_at_its_batch(several, tmp_path):
    """The step and the batch are named even though the host looks much later."""
    train = tiny.dataset(broken=7)
    batches = data.batches(train, batch_size=tiny.BATCH, seed=3)
    step, batch = next((k, batch) for k, batch in enumerate(batches, 1) if 7 in batch["id"])
    expected = checksum({k: np.asarray(jax.numpy.asarray(v)) for k, v in batch.items()})
    save = max(1, step - 1)
    budget = BUDGET._replace(save_every=save, log_every=20, steps_per_call=several)
    with pytest.raises(loop.NonFiniteLoss) as caught:
        tiny.fit(tmp_path, budget, broken=7)
    assert f"at step {step}, batch fingerprint {expected}" in str(caught.value)
    if step > 1:
        assert f"last good checkpoint at step {step - 1}" in str(caught.value)
        assert finite(tmp_path)
    with pytest.raises(loop.NonFiniteLoss) as again:
        tiny.fit(tmp_path, budget, broken=7)
    assert str(again.value) == str(caught.value)


def finite(folder):
    step, state = tiny.final_arrays(folder)
    return step is None or all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


def test_parameters_that_break_in_the_last_step_are_not_saved(tmp_path):
    """The loss of a step is that before its update."""
    made = tiny.algorithm()

    def step(state, batch, frozen):
        state, metrics = made.step(state, batch, frozen)
        if int(state.step) == 8:
            players = jax.tree.map(lambda leaf: leaf * np.float32(np.nan), state.players)
            state = state.replace(players=players)
        return state, metrics

    with pytest.raises(loop.NonFiniteLoss, match="parameters are not finite after step 8") as e:
        tiny.fit(tmp_path, BUDGET, made=made._replace(step=step))
    assert "last good checkpoint at step 4" in str(e.value)
    assert tiny.final_arrays(tmp_path)[0] == 4


def test_other_data_are_refused(tmp_path):
    with pytest.raises(Interrupted):
        tiny.fit(tmp_path, BUDGET, **stopping_at(10))
    with pytest.raises(RecipeError, match="was trained on other data"):
        tiny.fit(tmp_path, BUDGET, broken=7)


def guarded(policy="raise", spike=0.0):
    """The tiny algorithm with guards."""
    guards = Guards(policy, spike)
    return {"made": tiny.algorithm(guards=guards), "guards": guards}


def test_watching_gradients_changes_nothing(undisturbed, tmp_path):
    """The rows of metrics neither."""
    state = tiny.fit(tmp_path, BUDGET, evaluate=weight, **guarded()).state
    assert tiny.equal(state, undisturbed[0]) and tiny.rows(tmp_path) == undisturbed[1]


def steps_of(row):
    """Steps whose batch holds a row of the data."""
    batches = data.batches(tiny.dataset(), batch_size=tiny.BATCH, seed=3)
    return [step for step, batch in zip(range(1, 24), batches, strict=False) if row in batch["id"]]


def test_a_gradient_that_breaks_under_a_finite_loss(tmp_path):
    """The step of the gradient is named, not the next one, whose loss breaks."""
    made = tiny.algorithm(guards=Guards())

    def step(state, batch, frozen):
        number = int(state.step)
        state, metrics = made.step(state, batch, frozen)
        if number == 6:
            assert np.isfinite(metrics["loss"])
            metrics = {**metrics, "non_finite_gradient": np.float32(1)}
        return state, metrics

    with pytest.raises(loop.NonFiniteLoss, match="the gradient is not finite at step 7") as caught:
        tiny.fit(tmp_path, BUDGET, made=made._replace(step=step), guards=Guards())
    assert "last good checkpoint at step 4" in str(caught.value) and finite(tmp_path)


@pytest.mark.parametrize("every", [23, 3])
def test_skipped_updates_are_counted_across_restarts(every, tmp_path):
    bad = steps_of(7)
    assert len(bad) > 2
    state = resumed(tmp_path, every, lambda: {**guarded("skip"), "broken": 7})
    rows = [row for row in tiny.rows(tmp_path) if row["split"] == "train"]
    for row in rows:
        assert row["skipped_updates"] == sum(step <= row["step"] for step in bad)
        assert np.isfinite(row["loss"]), "the mean of those that are"
    assert int(state.players["student"].opt_state.total_notfinite) == len(bad)
    assert finite(tmp_path)


def resumed(folder, every, options):
    """Runs to the end, stopped after each so many steps."""
    while True:
        stop, steps, given = Stop(), [], options()
        made = given.pop("made")

        def step(state, batch, frozen, steps=steps, stop=stop, made=made):
            steps.append(0)
            if len(steps) == every:
                stop.ask()
            return made.step(state, batch, frozen)

        try:
            return tiny.fit(
                folder, BUDGET, made=made._replace(step=step), stop=stop, evaluate=weight, **given
            ).state
        except Interrupted:
            pass


def test_spikes_are_written_down_once(tmp_path):
    """With the norm, the median before it and the batch, also by a run with many restarts."""

    def options():
        made = guarded(spike=3.0)
        plain = made["made"]

        def step(state, batch, frozen):
            number = int(state.step) + 1
            state, metrics = plain.step(state, batch, frozen)
            norm = {13: 50.0, 20: 70.0, 4: 90.0}.get(number, 1.0 + 0.01 * number)
            return state, metrics | {"grad_norm": np.float32(norm)}

        return made | {"made": plain._replace(step=step)}

    resumed(tmp_path / "whole", 23, options)
    rows = tiny.rows(tmp_path / "whole")
    spikes = [row for row in rows if row["split"] == "spike"]
    assert [(row["step"], row["norm"]) for row in spikes] == [(13, 50.0), (20, 70.0)]
    batches = list(zip(range(20), data.batches(tiny.dataset(), batch_size=4, seed=3), strict=False))
    for row in spikes:
        assert 1.0 < row["median"] < 1.3
        batch = {
            k: np.asarray(jax.numpy.asarray(v)) for k, v in batches[row["step"] - 1][1].items()
        }
        assert row["batch"] == checksum(batch)
    resumed(tmp_path / "stopped", 5, options)
    assert tiny.rows(tmp_path / "stopped") == rows


def test_a_spike_finder():
    finder = SpikeFinder(2.0)
    assert all(finder.median_under("a", 1.0) is None for _ in range(FEWEST))
    assert finder.median_under("a", float("nan")) is None, "is not a norm"
    assert finder.median_under("b", 100.0) is None, "has a median of its own"
    again = SpikeFinder(2.0, finder.state)
    assert finder.median_under("a", 2.1) == again.median_under("a", 2.1) == 1.0
    for _ in range(WINDOW):
        again.median_under("a", 4.0)
    assert again.median_under("a", 7.0) is None, "the median is that of the newest"
    assert len(again.state["a"]) == WINDOW
    with pytest.raises(ValueError, match="factor is -1"):
        SpikeFinder(-1)
