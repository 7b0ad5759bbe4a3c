"""Contrastive losses."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import losses

pytestmark = pytest.mark.every(2)

RNG = np.random.default_rng(0)
FIRST, SECOND = RNG.normal(size=(2, 4, 3)).astype(np.float32)
QUEUE = RNG.normal(size=(6, 3)).astype(np.float32)
VIEWS = np.stack([FIRST, SECOND], axis=1)
LABELS = np.array([0, 1, 0, 2])


def unit(x):
    return np.float64(x) / np.linalg.norm(np.float64(x), axis=-1, keepdims=True)


def info_nce(s, t, temperature=0.07):
    z = np.exp(unit(s) @ unit(t).T / temperature)
    return -np.log(np.diag(z) / z.sum(1))


def queue_nce(s, t, temperature=0.2):
    z = np.exp(unit(s) @ unit(np.concatenate([t, QUEUE])).T / temperature)
    return -np.log(np.diag(z) / z.sum(1))


def clip(s, t):
    return (info_nce(s, t, 0.1) + info_nce(t, s, 0.1)) / 2


def sup_con(views, labels, temperature=0.07, base_temperature=0.07, anchors=(0, 1)):
    out = np.zeros((len(views), len(anchors)))
    flat = [(i, v) for i in range(len(views)) for v in range(views.shape[1])]
    for i, v in np.ndindex(*out.shape):
        z = {
            (j, w): unit(views[i, anchors[v]]) @ unit(views[j, w]) / temperature
            for j, w in flat
            if (j, w) != (i, anchors[v])
        }
        total = np.log(sum(np.exp(list(z.values()))))
        positives = [total - x for (j, w), x in z.items() if labels[j] == labels[i]]
        out[i, v] = np.mean(positives) if positives else 0.0
    return out.mean(1) * temperature / base_temperature


CASES = {
    "info_nce": (losses.info_nce, info_nce),
    "info_nce_queue": (
        functools.partial(losses.info_nce, negatives=QUEUE, temperature=0.2),
        queue_nce,
    ),
    "clip": (functools.partial(losses.clip_contrastive, logit_scale=10.0), clip),
    "sim_clr": (
        lambda s, t, **o: losses.sim_clr(jnp.stack([s, t], 1), **o),
        lambda s, t: sup_con(np.stack([s, t], 1), range(len(s)), 0.5, 0.5),
    ),
    "sup_con": (
        lambda s, t, **o: losses.sup_con(jnp.stack([s, t], 1), jnp.arange(len(s)) % 2, **o),
        lambda s, t: sup_con(np.stack([s, t], 1), np.arange(len(s)) % 2),
    ),
    "sup_con_one": (
        lambda s, t, **o: losses.sup_con(
            jnp.stack([s, t], 1), temperature=0.2, contrast_mode="one", **o
        ),
        lambda s, t: sup_con(np.stack([s, t], 1), range(len(s)), 0.2, anchors=(0,)),
    ),
}
each = pytest.mark.parametrize(("loss", "formula"), CASES.values(), ids=CASES)


def slope(loss, **options):
    return jax.jit(jax.grad(lambda s: jnp.sum(loss(s, SECOND, **options))))(FIRST)


@each
def test_value_and_gradient(loss, formula):
    given = loss(FIRST, SECOND)
    assert given.shape == (4,)
    np.testing.assert_allclose(given, formula(FIRST, SECOND), rtol=1e-5, atol=1e-6)
    direction = RNG.normal(size=FIRST.shape)
    above, below = (formula(FIRST + h * direction, SECOND).sum() for h in (1e-6, -1e-6))
    along = np.sum(slope(loss) * direction)
    np.testing.assert_allclose(along, (above - below) / 2e-6, rtol=1e-4)


@each
def test_masked_examples_are_as_if_they_were_not_there(loss, formula):
    where = np.array([True, True, True, False])
    given = loss(FIRST, SECOND, where=where)
    np.testing.assert_allclose(given[:3], formula(FIRST[:3], SECOND[:3]), rtol=1e-5, atol=1e-6)
    assert given[3] == 0
    assert np.all(slope(loss, where=where)[3] == 0)
    assert np.all(loss(FIRST, SECOND, where=np.zeros(4, bool)) == 0)


@each
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4])
def test_extremes_are_finite(loss, formula, scale):
    for teacher in (scale * FIRST, scale * SECOND, np.zeros_like(FIRST)):
        for options in ({}, {"normalize": False}):
            value, gradient = jax.value_and_grad(
                lambda s, t=teacher, o=options: jnp.sum(loss(s, t, **o))
            )(scale * FIRST)
            assert np.isfinite(value)
            assert np.all(np.isfinite(gradient))


@each
def test_batch_of_one_type_and_jit(loss, formula):
    assert np.all(np.isfinite(loss(FIRST[:1], SECOND[:1])))
    given = loss(FIRST, SECOND)
    np.testing.assert_allclose(jax.jit(loss)(FIRST, SECOND), given, rtol=1e-4, atol=1e-6)
    assert loss(jnp.bfloat16(FIRST), jnp.bfloat16(SECOND)).dtype == jnp.float32


def test_teacher_and_queue_are_constants():
    def total(teacher, queue):
        return jnp.sum(losses.info_nce(FIRST, teacher, negatives=queue))

    for gradient in jax.grad(total, argnums=(0, 1))(SECOND, QUEUE):
        assert np.all(gradient == 0)


def test_core_options():
    z = np.exp(unit(FIRST) @ unit(QUEUE).T)
    positives = RNG.random(z.shape) < 0.4
    positives[0], positives[1, :2] = False, [True, False]
    options = {"positives": positives, "temperature": 1.0}
    some = positives.any(1)

    def given(**more):
        return losses.contrastive_loss(FIRST, QUEUE, **options, **more)

    rows = [(row, p) for row, p in zip(z, positives, strict=True) if p.any()]
    outside = [-np.log(row[p] / row.sum()).mean() for row, p in rows]
    inside = [-np.log(row[p].mean() / row.sum()) for row, p in rows]
    decoupled = [-np.log(row[p] / row[~p].sum()).mean() for row, p in rows]
    np.testing.assert_allclose(given()[some], outside, rtol=1e-5)
    np.testing.assert_allclose(given(mean_inside_log=True)[some], inside, rtol=1e-5)
    np.testing.assert_allclose(given(positives_in_denominator=False)[some], decoupled, rtol=1e-5)
    assert np.all(given()[~some] == 0)


def test_crd_nce():
    rng = np.random.default_rng(3)
    positive, negative = rng.normal(size=4), rng.normal(size=(4, 5))
    z, size, temperature, eps = 7.0, 30, 0.5, 1e-3
    p, n = np.exp(positive / temperature) / z, np.exp(negative / temperature) / z
    c = 5 / size + eps
    wanted = -np.log(p / (p + c)) - np.log((5 / size) / (n + c)).sum(-1)
    options = {"normalizer": z, "num_examples": size, "temperature": temperature, "eps": eps}
    given = losses.crd_nce(positive, negative, **options)
    np.testing.assert_allclose(given, wanted, rtol=1e-5)
    extreme = losses.crd_nce(-1e4 * positive, 1e4 * negative, **options)
    assert np.all(np.isfinite(extreme))


def test_errors():
    with pytest.raises(ValueError, match=r"student_embedding has shape .* teacher_embedding"):
        losses.info_nce(FIRST, SECOND[:3])
    with pytest.raises(ValueError, match=r"negatives .* same width"):
        losses.info_nce(FIRST, SECOND, negatives=QUEUE[:, :2])
    with pytest.raises(ValueError, match="image_embedding has shape"):
        losses.clip_contrastive(FIRST, SECOND[:, :2])
    with pytest.raises(ValueError, match=r"positives has shape \(2, 2\), wanted \(4, 6\)"):
        losses.contrastive_loss(FIRST, QUEUE, positives=np.ones((2, 2), bool))
    with pytest.raises(ValueError, match="temperature is 0"):
        losses.info_nce(FIRST, SECOND, temperature=0)
    with pytest.raises(ValueError, match="views has shape"):
        losses.sim_clr(FIRST)
    with pytest.raises(ValueError, match='contrast_mode is "two"'):
        losses.sup_con(VIEWS, LABELS, contrast_mode="two")
    with pytest.raises(ValueError, match=r"labels have shape \(3,\), wanted \(4,\)"):
        losses.sup_con(VIEWS, LABELS[:3])
    with pytest.raises(ValueError, match="one entry per example"):
        losses.info_nce(FIRST, SECOND, where=np.ones(3, bool))
    with pytest.raises(ValueError, match="scores_positive has shape"):
        losses.crd_nce(np.ones(2), np.ones(3), normalizer=1.0, num_examples=4)
