"""Objectives with two heads, a weak head, or a mask of a teacher's feature."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import losses, objectives
from kdjax.base import EMPTY, Context

KEY = jax.random.key(0)
BATCH, CLASSES, WIDTH = 6, 3, 4
LABEL, KD, TEACHER = jax.random.normal(KEY, (3, BATCH, CLASSES))
LABELS = jnp.arange(BATCH) % CLASSES
LABELLED = jnp.arange(BATCH) < 2


def context(**batch):
    student = {"logits": LABEL, "kd_logits": KD}
    return Context({"student": student, "teacher": {"logits": TEACHER}}, {"label": LABELS, **batch})


def test_dho_averages_each_part_over_its_own_examples():
    objective = objectives.dho(temperature=3.0, label_weight=0.3, kd_weight=0.7)
    terms, _ = objective.apply(EMPTY, context(labelled=LABELLED))
    hard = losses.cross_entropy(LABEL, LABELS)
    soft = losses.kd(KD, TEACHER, temperature=3.0)
    wanted = 0.3 * hard[:2].mean() + 0.7 * (soft[:2].mean() + soft[2:].mean())
    np.testing.assert_allclose(objectives.total_loss(terms), wanted, rtol=1e-6)


def test_dho_without_unlabelled_examples_is_two_losses():
    terms, _ = objectives.dho(labelled=None).apply(EMPTY, context())
    wanted = (
        losses.cross_entropy(LABEL, LABELS).mean() + losses.kd(KD, TEACHER, temperature=2).mean()
    )
    np.testing.assert_allclose(objectives.total_loss(terms), wanted / 2, rtol=1e-6)
    assert terms["kd_unlabelled"].count == 0


def test_dho_heads_learn_only_their_own():
    def total(label, kd):
        student = {"logits": label, "kd_logits": kd}
        signals = {"student": student, "teacher": {"logits": TEACHER}}
        here = Context(signals, {"label": LABELS, "labelled": LABELLED})
        return objectives.total_loss(objectives.dho().apply(EMPTY, here)[0])

    by_label, by_kd = jax.grad(total, argnums=(0, 1))(LABEL, KD)
    assert np.all(by_label[2:] == 0) and np.any(by_label[:2] != 0)
    assert np.all(np.any(by_kd != 0, axis=1))


def test_uskd_pools_a_feature_and_trains_its_head():
    feature = jax.random.normal(KEY, (BATCH, 2, 2, WIDTH))
    batch = {"label": LABELS}
    here = Context({"student": {"logits": LABEL, "taps/middle": feature}}, batch)
    objective = objectives.uskd(feature="taps/middle", mu=0.5)
    variables = objective.init(KEY, here)
    assert variables.params["kernel_0"].shape == (WIDTH, CLASSES)
    assert objective.coupled
    weak = feature.mean((1, 2)) @ variables.params["kernel_0"] + variables.params["bias_0"]
    terms, _ = objective.apply(variables, here)
    wanted = losses.uskd(LABEL, weak, LABELS, mu=0.5).mean()
    np.testing.assert_allclose(terms["uskd"].mean, wanted, rtol=1e-5)

    def total(params):
        return objective.apply(variables._replace(params=params), here)[0]["uskd"].mean

    assert np.any(jax.grad(total)(variables.params)["kernel_0"] != 0)


def test_masks_are_between_zero_and_one_and_see_the_whole_feature():
    network = objectives.mask_network(5, hidden=6, heads=2)
    features = jax.random.normal(KEY, (3, 5))
    variables = network.init(KEY, {"features": features})

    def mask(features):
        return network.apply(variables, {"features": features})[0]["mask"]

    given = mask(features)
    assert given.shape == features.shape and np.all((given > 0) & (given < 1))
    slope = jax.jacobian(lambda row: mask(row[None])[0])(features[0])
    assert np.all(slope != 0)
    np.testing.assert_allclose(mask(features[1:2])[0], given[1], rtol=1e-5)


def test_mask_network_checks_its_heads():
    with pytest.raises(ValueError, match="hidden is 6 for 4 heads, wanted a multiple"):
        objectives.mask_network(5, hidden=6, heads=4)
