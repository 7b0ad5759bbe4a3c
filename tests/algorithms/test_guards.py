"""Gradients that are not finite: what stays, what counts, and that good steps are left alone."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from exemplars import BATCH, CLASSES, SIZE, batch, exemplars, network, run
from test_bilevel import both

import kdjax
from kdjax import algorithms, losses, objectives, parallel
from kdjax.algorithms import Guards, Player
from kdjax.algorithms.guards import ZeroedState

pytestmark = pytest.mark.every(2)

ALL = exemplars()
BAD = 2
"""The step whose batch is broken."""


def spoiled(step, value=np.nan):
    """One image of the batch of one step is not finite."""
    made = batch(step)
    return made | {"image": made["image"].at[1, 0].set(value)} if step == BAD else made


def with_statistics(width=8):
    """A network that normalises with statistics which it keeps."""
    plain = network(width)

    def init(key, batch):
        return {**plain.init(key, batch), "batch_stats": {"mean": jnp.zeros(SIZE)}}

    def apply(variables, batch, *, key=None, train=False):
        mean = 0.9 * variables["batch_stats"]["mean"] + 0.1 * batch["image"].mean(0)
        signals, _ = plain.apply({"params": variables["params"]}, batch, key=key, train=train)
        return signals, {"batch_stats": {"mean": mean}} if train else {}

    return kdjax.Model(init, apply)


def queue():
    """A student with batch statistics under an objective that remembers what it saw."""
    objective = objectives.projected(
        objectives.info_nce(queue_size=2 * BATCH),
        objectives.projectors.linear(),
        student="embedding",
        like="teacher:embedding",
    )
    teacher = network(12)

    def make(optimizer=None, **options):
        optimizer = optax.adam(1e-2) if optimizer is None else optimizer
        return algorithms.distill(with_statistics(), teacher, objective, optimizer, **options)

    return make, {"teacher": teacher.init(jax.random.key(3), batch())}


def steps(algorithm, frozen, count=4, make_batch=spoiled):
    """State before each step and after the last one, and the metrics of each."""
    state = algorithm.init(jax.random.key(0), batch(), frozen)
    states, history = [state], []
    for step in range(count):
        state, metrics = algorithm.step(state, make_batch(step), frozen)
        states.append(state)
        history.append(metrics)
    return states, history


def compiled(make, how, **options):
    if how == "pmap":
        made = make(axis_name=parallel.PMAP_AXIS, **options)
        return parallel.compile(made, how="pmap", donate=False)
    mesh = jax.make_mesh((8,), ("data",)) if how == "mesh" else None
    microbatches = 4 if how == "microbatches" else 1
    return parallel.compile(make(microbatches=microbatches, **options), mesh=mesh, donate=False)


def same(first, second):
    """Bit by bit."""
    return jax.tree.all(
        jax.tree.map(lambda a, b: np.asarray(a).tobytes() == np.asarray(b).tobytes(), first, second)
    )


def without_counters(player):
    return dataclasses.replace(player, opt_state=player.opt_state.inner_state)


FORMS = ["jit", "microbatches", "mesh", "pmap"]


@pytest.mark.parametrize(
    ("how", "value"),
    [
        ("jit", np.nan),
        ("jit", np.inf),
        ("microbatches", np.nan),
        ("mesh", np.inf),
        ("pmap", np.nan),
    ],
)
def test_a_skipped_update_leaves_everything_as_it_was(how, value):
    make, frozen = queue()
    states, history = steps(
        compiled(make, how, guards=Guards("skip")), frozen, 4, lambda k: spoiled(k, value)
    )
    players = [without_counters(state.players["student"]) for state in states]
    assert players[0].objective_state and players[0].model_state
    for step in range(4):
        changed = [
            not same(getattr(players[step + 1], part), getattr(players[step], part))
            for part in ("params", "model_state", "objective_state", "opt_state")
        ]
        assert changed == [step != BAD] * 4, step
    assert [int(metrics["skipped_updates"]) for metrics in history] == [0, 0, 1, 1]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(players[-1].params))


def test_a_parameter_of_minus_zero_keeps_its_sign():
    objective = kdjax.lift(losses.cross_entropy)
    apply = lambda params, x: x @ params["w"]  # noqa: E731
    made = kdjax.train_step(apply, None, objective, optax.sgd(0.1), guards=Guards("skip"))
    state = made.init({"w": jnp.full((SIZE, CLASSES), -0.0)}, None, batch())
    state, _ = made.step(state, spoiled(BAD))
    assert np.signbit(state.players["student"].params["model"]["w"]).all()


@pytest.mark.parametrize("how", FORMS)
def test_zeroed_entries(how):
    """One weight's gradient overflows; the others move as they would have."""

    def init(key):
        return {"good": jnp.ones((SIZE, CLASSES)), "bad": jnp.ones(3)}

    def apply(params, x):
        # The slope of the root is infinite at 0.
        root = jnp.sqrt(params["bad"] - 1.0) * jnp.ones((x.shape[0], 1))
        return {"logits": x @ params["good"], "root": root}

    model = kdjax.models.from_callable(apply, init)
    objective = objectives.weighted_sum(
        {
            "labels": kdjax.lift(losses.cross_entropy),
            "root": kdjax.lift(losses.hint, student="root", teacher="batch:zero"),
        }
    )

    def make(**options):
        return algorithms.distill(model, None, objective, optax.sgd(0.1), **options)

    given = lambda k: batch(k) | {"zero": jnp.full((BATCH, 3), 2.0)}  # noqa: E731
    algorithm = compiled(make, how, guards=Guards("zero"))
    state = algorithm.init(jax.random.key(0), given(0))
    for step in range(3):
        before = state
        state, metrics = algorithm.step(state, given(step))
        assert int(metrics["zeroed_entries"]) == 3 * (step + 1)
    old, new = (s.players["student"].params["model"] for s in (before, state))
    assert same(old["bad"], new["bad"]) and not same(old["good"], new["good"])
    assert np.isfinite(new["good"]).all()


def test_the_counter_of_entries_does_not_overflow():
    make, frozen = queue()
    algorithm = make(guards=Guards("zero"))
    state = algorithm.init(jax.random.key(0), batch(), frozen)
    player = state.players["student"]
    full = ZeroedState(jnp.int32(2**31 - 2))
    player = dataclasses.replace(player, opt_state=(full, *player.opt_state[1:]))
    state = state.replace(players={"student": player})
    state, metrics = jax.jit(algorithm.step)(state, spoiled(BAD), frozen)
    assert int(metrics["zeroed_entries"]) == 2**31 - 1


@pytest.mark.parametrize("how", FORMS)
def test_reports(how):
    """The step of the broken gradient, and the norm of the others."""
    make, frozen = queue()
    _, history = steps(compiled(make, how, guards=Guards("raise", spike=2.0)), frozen, BAD + 1)
    assert [float(metrics["non_finite_gradient"]) for metrics in history] == [0, 0, 1]
    assert not np.isfinite(history[BAD]["grad_norm"])
    first = make(optimizer=optax.sgd(1.0))
    state = first.init(jax.random.key(0), batch(), frozen)
    moved, _ = first.step(state, batch(0), frozen)
    params = [s.players["student"].params for s in (state, moved)]
    expected = optax.global_norm(jax.tree.map(jnp.subtract, *params))
    np.testing.assert_allclose(history[0]["grad_norm"], expected, rtol=1e-4)


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.sgd(0.1, momentum=0.9),
        optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(optax.linear_schedule(0.1, 0, 9))),
        optax.apply_if_finite(optax.lion(1e-3), 3),
        optax.MultiSteps(optax.adam(1e-2), 2),
    ],
    ids=["momentum", "clipped", "apply_if_finite", "multi_steps"],
)
@pytest.mark.parametrize("policy", ["skip", "zero"])
def test_any_optimizer(policy, optimizer):
    """Skipping a step gives what leaving it out gives."""
    make, frozen = queue()
    guarded = compiled(make, "jit", optimizer=optimizer, guards=Guards(policy))
    states, _ = steps(guarded, frozen)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(states[-1].players["student"].params))
    if policy == "skip":
        plain = compiled(make, "jit", optimizer=optimizer)
        expected, _ = steps(plain, frozen, BAD, batch)
        got = without_counters(states[BAD + 1].players["student"])
        for a, b in zip(
            jax.tree.leaves(got), jax.tree.leaves(expected[-1].players["student"]), strict=True
        ):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_each_player_for_itself():
    """One of two peers breaks; the other one, in a later phase and with a period, moves on."""
    objective = kdjax.lift(losses.cross_entropy)
    players = {
        "a": Player(network(8), objective, optax.adam(1e-2), view={"image": "spoiled"}),
        "b": Player(network(4), objective, optax.adam(1e-2), phase=1, every=2),
    }
    algorithm = parallel.compile(
        algorithms.algorithm(players, guards=Guards("skip", spike=3.0)), donate=False
    )
    state = algorithm.init(jax.random.key(0), batch() | {"spoiled": batch()["image"]})
    states, history = [state], []
    for step in range(4):
        state, metrics = algorithm.step(state, batch(step) | {"spoiled": spoiled(step)["image"]})
        states.append(state)
        history.append(metrics)
    for name, counts in (("a", [0, 0, 1, 1]), ("b", [0, 0, 0, 0])):
        assert [int(m[f"{name}/skipped_updates"]) for m in history] == counts
    assert np.isfinite([m["b/grad_norm"] for m in history]).tolist() == [True, False, True, False]
    before, after = (states[k].players["b"].params for k in (BAD, BAD + 1))
    assert not same(before, after)


@pytest.mark.parametrize("policy", ["raise", "skip"])
def test_two_levels(policy):
    """The judge's gradient runs through the student's update, and is guarded as well."""
    make, frozen = _two_levels()
    algorithm = jax.jit(make(guards=Guards(policy, spike=1.0)).step)
    state = make(guards=Guards(policy)).init(jax.random.key(0), both(0), frozen)
    reference, plain = make().init(jax.random.key(0), both(0), frozen), jax.jit(make().step)
    state, metrics = algorithm(state, both(0), frozen)
    reference, _ = plain(reference, both(0), frozen)
    for name in ("student", "weigher"):
        assert np.isfinite(metrics[f"{name}/grad_norm"])
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
            state.players[name].params,
            reference.players[name].params,
        )
    broken = both(1)
    broken["validation"]["image"] = broken["validation"]["image"] * jnp.nan
    after, metrics = algorithm(state, broken, frozen)
    if policy == "raise":
        flags = [float(metrics[f"{n}/non_finite_gradient"]) for n in ("student", "weigher")]
        assert flags[1] == 1
        return
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(after.players))
    counts = [int(metrics[f"{n}/skipped_updates"]) for n in ("student", "weigher")]
    assert counts == [0, 1]
    assert same(state.players["weigher"].params, after.players["weigher"].params)
    assert not same(state.players["student"].params, after.players["student"].params)


def _two_levels():
    def make(**options):
        return algorithms.tgeo_kd(
            network(8), network(12), optax.adam(1e-2, eps_root=1e-10), optax.adam(1e-2),
            num_classes=CLASSES, **options,
        )  # fmt: skip

    return make, {"teacher": network(12).init(jax.random.key(3), batch())}


@pytest.mark.optimized
@pytest.mark.parametrize("name", ["annealed", "hint", "info_nce", "mutual_learning"])
def test_to_watch_changes_no_bit(name):
    """What recipes do by default gives the numbers that they have always given."""
    make, frozen = ALL[name]
    expected, history = run(parallel.compile(make()), frozen, 3)
    state, watched = run(parallel.compile(make(guards=Guards())), frozen, 3)
    kept = [
        {k: v for k, v in metrics.items() if not k.endswith("non_finite_gradient")}
        for metrics in watched
    ]
    assert same(state.replace(key=0), expected.replace(key=0)) and same(kept, history)
    assert len(watched[0]) > len(history[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"non_finite": "ignore"}, "non_finite is 'ignore', wanted one of"),
        ({"spike": -1.0}, "spike is -1.0, wanted a finite number of at least 0"),
        ({"spike": float("nan")}, "spike is nan"),
        ({"spike": True}, "spike is True, wanted a number"),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        Guards(**arguments)
