"""Gradients that are projected on an anchor, and augmentors against students."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import kdjax
from kdjax import algorithms, losses, models, objectives

KEY = jax.random.key(0)
BATCH = {"image": jax.random.normal(KEY, (12, 5)), "label": jnp.arange(12) % 3}


def two_heads(key=KEY):
    def init(key):
        shapes = {"body": (5, 4), "logits": (4, 3), "kd_logits": (4, 3)}
        return {n: jax.random.normal(jax.random.fold_in(key, i), shape)
                for i, (n, shape) in enumerate(shapes.items())}  # fmt: skip

    def apply(params, x):
        hidden = jnp.tanh(x @ params["body"])
        return {name: hidden @ params[name] for name in ("logits", "kd_logits")}

    return models.from_callable(apply, init)


TEACHER = models.from_callable(lambda params, x: x @ params)
FROZEN = {"teacher": {"params": 3 * jax.random.normal(jax.random.key(5), (5, 3))}}


def parts(params, batch=BATCH, **options):
    """The two losses in plain words."""
    hidden = jnp.tanh(batch["image"] @ params["body"])
    theirs = batch["image"] @ FROZEN["teacher"]["params"]
    return (
        losses.cross_entropy(hidden @ params["logits"], batch["label"]).mean(),
        losses.binary_kl_norm(hidden @ params["kd_logits"], theirs, temperature=2.0).mean(),
    )


@pytest.mark.parametrize("microbatches", [1, 3])
@pytest.mark.parametrize("align", [True, False])
def test_the_step_goes_along_the_aligned_gradient(microbatches, align):
    made = algorithms.dual_head_kd(
        two_heads(), TEACHER, optax.sgd(1.0), kd_weight=0.5, align=align, microbatches=microbatches
    )
    state = made.init(KEY, BATCH, FROZEN)
    params = state.players["student"].params["model"]
    by_label, by_teacher = (
        jax.grad(lambda params, i=i: parts(params)[i])(params) for i in range(2)
    )
    by_teacher = jax.tree.map(lambda leaf: 0.5 * leaf, by_teacher)
    product = sum(jnp.sum(a * b) for a, b in zip(
        *map(jax.tree.leaves, (by_label, by_teacher)), strict=True))  # fmt: skip
    assert product < 0, "the two must contradict each other"
    wanted = jax.tree.map(jnp.add, by_label, by_teacher)
    if align:
        wanted = algorithms.gradient_align(by_label, by_teacher)
    after, metrics = made.step(state, BATCH, FROZEN)
    moved = after.players["student"].params["model"]
    jax.tree.map(
        lambda a, b, g: np.testing.assert_allclose(a - b, g, rtol=1e-4, atol=1e-5),
        params, moved, wanted,
    )  # fmt: skip
    first, second = parts(params)
    np.testing.assert_allclose(metrics["loss"], first + 0.5 * second, rtol=1e-5)


@pytest.mark.parametrize("microbatches", [1, 2])
def test_an_anchor_among_objectives_in_which_examples_meet(microbatches):
    """Beside a player without an anchor, whose gradient stays as it is."""
    objective = objectives.weighted_sum(
        {
            "labels": kdjax.lift(losses.cross_entropy),
            "dist": kdjax.lift(losses.dist, student="kd_logits"),
        }
    )
    players = {
        name: algorithms.Player(two_heads(), objective, optax.sgd(1.0), anchor=anchor)
        for name, anchor in (("a", "labels"), ("b", None))
    }
    made = algorithms.algorithm(
        players, {"teacher": algorithms.Teacher(TEACHER)}, microbatches=microbatches
    )
    state = made.init(KEY, BATCH, FROZEN)
    after, _ = made.step(state, BATCH, FROZEN)
    theirs = BATCH["image"] @ FROZEN["teacher"]["params"]

    def part(params, which):
        hidden = jnp.tanh(BATCH["image"] @ params["body"])
        if which:
            return losses.dist(hidden @ params["kd_logits"], theirs)
        return losses.cross_entropy(hidden @ params["logits"], BATCH["label"]).mean()

    for name in players:
        params = state.players[name].params["model"]
        one, two = (jax.grad(part)(params, which) for which in range(2))
        wanted = algorithms.gradient_align(one, two)
        if name == "b":
            wanted = jax.tree.map(jnp.add, one, two)
        jax.tree.map(
            lambda a, b, g: np.testing.assert_allclose(a - b, g, rtol=1e-3, atol=1e-5),
            params, after.players[name].params["model"], wanted,
        )  # fmt: skip


def test_an_anchor_must_be_a_term():
    objective = kdjax.lift(losses.cross_entropy)
    player = algorithms.Player(two_heads(), objective, optax.sgd(1.0), anchor="label")
    made = algorithms.algorithm({"student": player})
    state = made.init(KEY, BATCH)
    with pytest.raises(ValueError, match=r"anchor is 'label', .* \['cross_entropy'\]"):
        made.step(state, BATCH)


CENTRE = jnp.zeros((6, 6)).at[2:4, 2:4].set(1.0)
BRIGHTNESS = jax.random.uniform(KEY, (16, 1, 1, 1), minval=-2.0, maxval=2.0)
IMAGES = {"image": BRIGHTNESS * CENTRE[:, :, None]}


def invariant(params, x):
    """A teacher who does not mind where the light is, as long as it is in the image."""
    light = params * jnp.mean(x, axis=(1, 2))
    return jnp.concatenate([light, -light], axis=-1)


def test_the_augmentor_finds_where_the_two_disagree():
    """A student who looks at the middle alone agrees with the teacher where nothing moves."""
    student = models.from_callable(
        lambda params, x: invariant(params, x * CENTRE[:, :, None]), lambda key: jnp.float32(9.0)
    )
    frozen = {"teacher": {"params": jnp.float32(9.0)}}
    made = algorithms.hard(
        student,
        models.from_callable(invariant),
        optax.set_to_zero(),
        optax.adam(3e-2),
        augmentor=objectives.affine_augmentor(max_shift=2.0),
        stability_weight=0.1,
    )
    state = made.init(KEY, IMAGES, frozen)
    step, agreement = jax.jit(made.step), []
    for _ in range(60):
        state, metrics = step(state, IMAGES, frozen)
        agreement.append(float(metrics["augmentor/agreement"]))
    assert agreement[0] > -0.01 and np.mean(agreement[-10:]) < -0.2


def test_the_student_learns_on_moved_and_plain_images():
    student = models.from_callable(
        lambda params, x: x.reshape(len(x), -1) @ params,
        lambda key: jax.random.normal(key, (36, 2)),
    )
    frozen = {"teacher": {"params": jnp.float32(9.0)}}
    made = algorithms.hard(
        student, models.from_callable(invariant), optax.adam(3e-2), optax.adam(1e-3), every=2
    )
    state = made.init(KEY, IMAGES, frozen)
    step, history = jax.jit(made.step), []
    for _ in range(100):
        state, metrics = step(state, IMAGES, frozen)
        history.append(metrics)
    for term in ("student/hard", "student/clean"):
        assert history[-1][term] < 0.2 * history[0][term]
    assert np.isnan(history[1]["augmentor/loss"]) and np.isfinite(history[2]["augmentor/loss"])
