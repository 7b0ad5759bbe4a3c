"""A teacher on its own mesh teaches what it teaches inside the step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

import kdjax
from kdjax import algorithms, data, losses, models, parallel
from kdjax.distributions import Linear

WIDTH, CLASSES, ROWS = 4, 64, 8


def language_model(width, *, dense=False):
    def init(key):
        keys = jax.random.split(key, 2)
        return {
            "embed": jax.random.normal(keys[0], (CLASSES, width)),
            "head": jax.random.normal(keys[1], (width, CLASSES)),
        }

    def apply(params, tokens):
        hidden = jnp.tanh(params["embed"][tokens])
        logits = Linear(hidden, params["head"], scale=0.5)
        return {"logits": logits.materialize() if dense else logits}

    return models.from_callable(apply, init, inputs="tokens")


def source():
    tokens = np.random.default_rng(0).integers(0, CLASSES, (40, 5), dtype=np.int32)
    return data.from_arrays({"tokens": tokens, "label": np.zeros(40, np.int32)})


def batches():
    return data.batches(source(), batch_size=ROWS, seed=1)


def layouts():
    devices = jax.devices()
    rules = parallel.Rules((("head", P(None, "tensor")),))
    return {
        "layout": parallel.Layout(parallel.make_mesh(2, 1, 2, devices=devices[4:]), rules),
        "student": parallel.Layout(parallel.make_mesh(4, devices=devices[:4])),
    }


def train(student, teacher, frozen, iterator, mesh=None, steps=4):
    def divergence(student, teacher):
        student = kdjax.distributions.representations.as_distribution(student, "student")
        return kdjax.distributions.evaluate(losses.divergences.kl_term, student, teacher)

    made = algorithms.distill(student, teacher, kdjax.lift(divergence), optax.adam(1e-2))
    made = parallel.compile(made, mesh=mesh)
    first = next(iterator)
    state, history = made.init(jax.random.key(0), first, frozen), []
    for step in range(steps):
        state, metrics = made.step(state, first if step == 0 else next(iterator), frozen)
        history.append(float(metrics["loss"]))
    return history, state.players["student"].params


@pytest.mark.parametrize("travel", ["auto", "logits", "hidden"])
def test_same_numbers_as_inside_the_step(travel):
    teacher, student = language_model(2 * WIDTH), language_model(WIDTH, dense=True)
    example = next(batches())
    variables = teacher.init(jax.random.key(5), example)
    online = train(student, teacher, {"teacher": variables}, iter(batches()))
    where = layouts()
    ahead = parallel.teacher_ahead(teacher, variables, example, travel=travel, **where)
    given = ahead.batches(batches())
    found = train(student, ahead.model, {"teacher": ahead.variables}, given, where["student"].mesh)
    np.testing.assert_allclose(found[0], online[0], rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6), *(found[1], online[1])
    )
    hidden, logits = 5 * 2 * WIDTH * 4, 5 * CLASSES * 4
    assert ahead.bytes_per_example == (logits if travel == "logits" else hidden)


def test_dense_signals_travel_as_they_are():
    teacher = language_model(2 * WIDTH, dense=True)
    example = next(batches())
    variables = teacher.init(jax.random.key(5), example)
    ahead = parallel.teacher_ahead(teacher, variables, example, **layouts())
    given = next(ahead.batches(batches()))
    expected = teacher.apply(variables, example)[0]["logits"]
    found = ahead.model.apply(ahead.variables, given)[0]["logits"]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert found.sharding.device_set == set(jax.devices()[:4])
    assert ahead.variables == {"params": {}}


def test_the_next_passes_are_under_way_before_a_batch_is_given():
    asked = []

    def counted():
        for number, batch in enumerate(batches()):
            asked.append(number)
            yield batch

    teacher = language_model(WIDTH, dense=True)
    example = next(batches())
    variables = teacher.init(jax.random.key(5), example)
    ahead = parallel.teacher_ahead(teacher, variables, example, **layouts())
    given = ahead.batches(counted(), ahead=2)
    next(given)
    assert asked == [0, 1, 2]
    next(given)
    assert asked == [0, 1, 2, 3]


def test_the_state_counts_batches_given():
    teacher = language_model(WIDTH, dense=True)
    example = next(batches())
    variables = teacher.init(jax.random.key(5), example)
    ahead = parallel.teacher_ahead(teacher, variables, example, **layouts())
    given = ahead.batches(batches())
    next(given)
    state, expected = given.get_state(), next(given)
    again = ahead.batches(batches())
    again.set_state(state)
    jax.tree.map(np.testing.assert_array_equal, next(again), expected)


def test_errors():
    teacher = language_model(WIDTH, dense=True)
    example = next(batches())
    variables = teacher.init(jax.random.key(5), example)
    with pytest.raises(ValueError, match="no signal 'hidden'; it gives \\['logits'\\]"):
        parallel.teacher_ahead(teacher, variables, example, signals=("hidden",), **layouts())
    with pytest.raises(ValueError, match="travel is 'train'"):
        parallel.teacher_ahead(teacher, variables, example, travel="train", **layouts())
    ahead = parallel.teacher_ahead(teacher, variables, example, **layouts())
    with pytest.raises(ValueError, match="ahead is -1"):
        ahead.batches(batches(), ahead=-1)
