"""What the engine promises: phases, periods, averages, views, augmentation, states, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from exemplars import BATCH, batch, network

import kdjax
from kdjax import algorithms, losses, models, objectives
from kdjax.algorithms import Player, Teacher
from kdjax.base import EMPTY, Objective, Term

KEY = jax.random.key(0)
SGD = optax.sgd(0.1)
KD, CE = kdjax.lift(losses.kd), kdjax.lift(losses.cross_entropy)


def leaves_equal(a, b):
    return all(
        np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


def quadratic(name, others=()):
    """A player of one number `x` that minimises `(x - sum of the others)²`."""

    def apply(variables, context):
        own = context.networks[name]({})["x"]
        gap = own - sum(context.networks[other]({})["x"] for other in others)
        return {"gap": Term(gap**2, jnp.ones(()))}, {}

    model = models.from_callable(
        lambda params, batch: {"x": params["x"]}, lambda key: {"x": jnp.ones(())}, inputs=None
    )
    return Player(model, Objective(lambda key, context: EMPTY, apply), SGD, forward=False)


def value(state, name):
    return float(state.players[name].params["model"]["x"])


def run(algorithm, steps=1, frozen=None):
    state = algorithm.init(KEY, batch(), frozen)
    step = jax.jit(algorithm.step)
    for _ in range(steps):
        state, metrics = step(state, batch(), frozen)
    return state, metrics


def test_players_of_one_phase_move_at_once():
    players = {"a": quadratic("a", ["b"]), "b": quadratic("b", ["a"])}
    players["b"] = players["b"]._replace(
        model=players["b"].model._replace(init=lambda key, batch: {"params": {"x": jnp.float32(3)}})
    )
    state, metrics = run(algorithms.algorithm(players))
    # Both see the other's old value: 1 - 0.2 (1 - 3) and 3 - 0.2 (3 - 1).
    assert value(state, "a") == pytest.approx(1.4) and value(state, "b") == pytest.approx(2.6)
    assert metrics["a/loss"] == metrics["b/loss"] == 4


def test_later_phases_see_earlier_updates():
    players = {
        "a": quadratic("a"),
        "b": quadratic("b", ["a"])._replace(phase=1),
    }
    state, _ = run(algorithms.algorithm(players))
    # a: 1 - 0.2; b sees a = 0.8: 1 - 0.2 (1 - 0.8).
    assert value(state, "a") == pytest.approx(0.8) and value(state, "b") == pytest.approx(0.96)


def test_periods():
    players = {
        "a": quadratic("a"),
        "b": quadratic("b")._replace(phase=1, every=3),
    }
    algorithm = algorithms.algorithm(players)
    state, step = algorithm.init(KEY, batch()), jax.jit(algorithm.step)
    seen, reported = [], []
    for _ in range(4):
        state, metrics = step(state, batch())
        seen.append(value(state, "b"))
        reported.append(bool(np.isfinite(metrics["b/loss"])))
    assert seen == pytest.approx([0.8, 0.8, 0.8, 0.64]) and value(state, "a") < 0.5
    assert reported == [True, False, False, True]


def test_average_follows_the_student():
    decay = 0.75
    algorithm = algorithms.average_self_distillation(network(4), CE, SGD, decay=decay)
    start = algorithm.init(KEY, batch())
    state, _ = jax.jit(algorithm.step)(start, batch())
    expected = jax.tree.map(
        lambda old, new: decay * old + (1 - decay) * new,
        start.averages["teacher"]["params"],
        state.players["student"].params["model"],
    )
    for got, want in zip(
        jax.tree.leaves(state.averages["teacher"]["params"]),
        jax.tree.leaves(expected),
        strict=True,
    ):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-7)


def test_decay_may_be_a_schedule():
    algorithm = algorithms.average_self_distillation(
        network(4), CE, SGD, decay=lambda step: jnp.where(step < 1, 0.0, 1.0)
    )
    state, _ = run(algorithm, 3)
    first, _ = run(algorithm, 1)
    assert leaves_equal(state.averages, first.averages)


def test_views_say_who_sees_what():
    def seen(params, x):
        return {"logits": x @ params["k"], "x": x}

    model = models.from_callable(seen, lambda key: {"k": jnp.ones((6, 2))})
    gap = kdjax.lift(
        lambda student_x, teacher_x: jnp.mean(student_x - teacher_x, -1),
        student="x",
        teacher="x",
        name="gap",
    )
    both = {"image": jnp.zeros((4, 6)), "weak": jnp.ones((4, 6))}
    algorithm = algorithms.algorithm(
        {"student": Player(model, gap, SGD, view={"image": "weak"})}, {"teacher": Teacher(model)}
    )
    frozen = {"teacher": {"params": {"k": jnp.ones((6, 2))}}}
    _, metrics = algorithm.step(algorithm.init(KEY, both, frozen), both, frozen)
    assert metrics["gap"] == 1
    with pytest.raises(KeyError, match="the view asks for 'weak'"):
        algorithm.init(KEY, {"image": both["image"]}, frozen)


def test_augmentation_is_the_same_for_both_and_new_each_step():
    def noise(key, batch):
        return {**batch, "image": batch["image"] + jax.random.normal(key, batch["image"].shape)}

    model = models.from_callable(
        lambda params, x: {"logits": x @ params["k"], "x": x}, lambda key: {"k": jnp.ones((6, 2))}
    )
    gap = kdjax.lift(
        lambda student_x, teacher_x: jnp.abs(student_x - teacher_x).sum(-1),
        student="x",
        teacher="x",
        name="gap",
    )
    level = kdjax.lift(lambda student_x: student_x.sum(-1), student="x", name="level")
    objective = objectives.weighted_sum({"gap": gap, "level": level})
    algorithm = algorithms.distill(model, model, objective, SGD, augment=noise)
    frozen = {"teacher": {"params": {"k": jnp.ones((6, 2))}}}
    state = algorithm.init(KEY, batch(), frozen)
    levels = []
    for _ in range(2):
        state, metrics = algorithm.step(state, batch(), frozen)
        assert metrics["gap"] == 0
        levels.append(float(metrics["level"]))
    assert levels[0] != levels[1]


def test_batch_statistics_and_dropout():
    student = models.from_linen(models.ConvNet(widths=(4,), num_classes=3))
    made = {"image": jax.random.normal(KEY, (8, 8, 8, 1)), "label": jnp.arange(8) % 3}
    algorithm = algorithms.distill(student, None, CE, SGD)
    before = algorithm.init(KEY, made)
    after, _ = jax.jit(algorithm.step)(before, made)
    assert not leaves_equal(
        before.players["student"].model_state, after.players["student"].model_state
    )
    assert set(after.players["student"].variables) == {"params", "batch_stats"}

    dropping = models.from_linen(models.MLP(features=(32,), num_classes=3, dropout=0.5))
    algorithm = algorithms.distill(dropping, None, CE, optax.sgd(0.0))
    state, step = algorithm.init(KEY, made), jax.jit(algorithm.step)
    once, first = step(state, made)
    again, second = step(state, made)
    _, third = step(once, made)
    assert first["loss"] == second["loss"] != third["loss"]
    assert leaves_equal(once.players, again.players)


def test_teacher_is_frozen_and_in_evaluation_mode():
    teacher = models.from_linen(models.MLP(features=(32,), num_classes=3, dropout=0.5))
    made = {"image": jax.random.normal(KEY, (8, 8, 8, 1)), "label": jnp.arange(8) % 3}
    student = models.from_linen(models.MLP(features=(4,), num_classes=3))
    frozen = {"teacher": teacher.init(KEY, made)}
    algorithm = algorithms.distill(student, teacher, KD, optax.sgd(0.0))
    state, first = algorithm.step(algorithm.init(KEY, made, frozen), made, frozen)
    _, second = algorithm.step(state, made, frozen)
    assert first["loss"] == second["loss"]
    assert set(state.players) == {"student"} and state.averages == {}


def test_bfloat16_keeps_parameters_in_float32():
    student, teacher = (models.cast(network(width), compute="bfloat16") for width in (8, 12))
    frozen = {"teacher": teacher.init(KEY, batch())}
    algorithm = algorithms.distill(student, teacher, KD, SGD)
    state, metrics = run(algorithm, 2, frozen)
    _, expected = run(algorithms.distill(network(8), network(12), KD, SGD), 2, frozen)
    assert {leaf.dtype for leaf in jax.tree.leaves(state.players["student"].params)} == {
        jnp.dtype("float32")
    }
    assert metrics["loss"].dtype == jnp.float32
    np.testing.assert_allclose(metrics["loss"], expected["loss"], rtol=0.05)


def test_init_copies_the_callers_arrays():
    mine = network(8).init(KEY, batch())
    step = kdjax.train_step(network(8), None, CE, SGD)
    state = step.init(mine, None, batch())
    step.step(state, batch())
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(mine))


def test_microbatches_must_divide_the_batch():
    algorithm = algorithms.distill(network(4), None, CE, SGD, microbatches=3)
    with pytest.raises(ValueError, match=f"microbatches=3 does not divide the batch of {BATCH}"):
        algorithm.step(algorithm.init(KEY, batch()), batch())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (({},), "players is empty"),
        (({"batch": quadratic("batch")},), "may not be called 'batch'"),
        (({"a": quadratic("a")}, {"a": Teacher(network(4))}), r"may not be called \['a'\]"),
        (
            ({"a": quadratic("a")}, {"columns": Teacher(network(4))}),
            r"may not be called \['columns'\]",
        ),
        (
            ({"a": quadratic("a")}, {"t": Teacher(network(4), average_of="b")}),
            "teacher 't' averages 'b'; the players are",
        ),
        (({"a": quadratic("a"), "b": quadratic("b")._replace(every=2)},), "every="),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        algorithms.algorithm(*arguments)


def test_mismatched_classes_are_named():
    wide = models.from_callable(lambda params, x: x @ params, lambda key: jnp.ones((6, 100)))
    algorithm = algorithms.distill(network(4), wide, KD, SGD)
    frozen = {"teacher": {"params": jnp.ones((6, 100))}}
    with pytest.raises(
        ValueError, match="student_logits has 16 classes and teacher_logits has 100"
    ):
        algorithm.step(algorithm.init(KEY, batch(), frozen), batch(), frozen)


@pytest.mark.parametrize("by_name", [False, True])
def test_mutual_learning_is_what_it_says(by_name):
    peers = {"a": network(8), "b": network(4), "c": network(12)}
    loss = dict.fromkeys(peers, losses.kd)
    if by_name:
        loss = {"a": losses.balanced_kl, "b": losses.reverse_kl, "c": losses.kd}
    chosen = {"loss": loss} if by_name else {}
    algorithm = algorithms.mutual_learning(peers, SGD, temperature=2.0, **chosen)
    state = algorithm.init(KEY, batch())
    logits = {
        name: peers[name].apply(player.variables, batch())[0]["logits"]
        for name, player in state.players.items()
    }
    _, metrics = algorithm.step(state, batch())
    for name in peers:
        others = [
            loss[name](logits[name], logits[o], temperature=2.0).mean() for o in peers if o != name
        ]
        expected = losses.cross_entropy(logits[name], batch()["label"]).mean() + sum(others) / 2
        np.testing.assert_allclose(metrics[f"{name}/loss"], expected, rtol=1e-5)
    with pytest.raises(ValueError, match="wanted at least two"):
        algorithms.mutual_learning({"a": network(4)}, SGD)
    with pytest.raises(ValueError, match=r"loss has \['a'\], wanted one for each of \['a', 'b'\]"):
        algorithms.mutual_learning({"a": network(4), "b": network(4)}, SGD, loss={"a": losses.kd})
