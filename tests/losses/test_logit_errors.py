"""Wrong arguments are named, with what was given and what is wanted."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from kdjax.losses import (
    binary,
    confidence,
    correlation,
    divergences,
    logits,
    ranking,
    regression,
    teacher_free,
    teacher_training,
    transport,
)

X, Y = jnp.zeros((2, 10)), jnp.array([0, 9])
PAIR_LOSSES = [
    divergences.kl_divergence,
    divergences.jensen_shannon,
    logits.kd,
    logits.dkd,
    logits.nkd,
    logits.dist,
    logits.kd_logit_standardization,
    binary.binary_kl,
    binary.binary_kl_norm,
    confidence.balanced_kl,
    confidence.wsld,
    correlation.multi_level_kd,
    ranking.pld,
    transport.sinkhorn_kd,
]
LABELLED_LOSSES = [
    logits.dkd,
    logits.nkd,
    confidence.cwtm,
    confidence.wsld,
    ranking.pld,
    regression.probability_mse,
]
LABELS_ONLY = [logits.cross_entropy, teacher_free.tf_kd, teacher_training.focal]


@pytest.mark.parametrize(
    "loss", [*PAIR_LOSSES, confidence.cwtm, regression.probability_mse, teacher_free.uskd]
)
def test_shapes_must_agree(loss):
    with pytest.raises(ValueError, match=r"student_logits.* \(2, 10\).*_logits.*\(3, 10\)"):
        loss(X, jnp.zeros((3, 10)), Y)
    with pytest.raises(ValueError, match=r"student_logits has 10 classes and \w+_logits.* 100"):
        loss(X, jnp.zeros((2, 100)), Y)
    with pytest.raises(ValueError, match="student_logits is a scalar"):
        loss(jnp.float32(1), jnp.float32(1), jnp.int32(0))


@pytest.mark.parametrize("loss", PAIR_LOSSES)
@pytest.mark.parametrize("temperature", [0, -1.0, float("nan")])
def test_temperature_must_be_positive(loss, temperature):
    with pytest.raises(ValueError, match=r"temperature is .*, wanted a number above 0"):
        loss(X, X, Y, temperature=temperature)


@pytest.mark.parametrize("loss", PAIR_LOSSES)
def test_errors_come_at_trace_time(loss):
    with pytest.raises(ValueError, match="10 classes"):
        jax.eval_shape(loss, X, jnp.zeros((2, 100)), Y)


@pytest.mark.parametrize("loss", LABELLED_LOSSES)
@pytest.mark.parametrize("labels", [[0, 10], [-1, 3]])
def test_labels_must_be_in_range(loss, labels):
    with pytest.raises(ValueError, match=r"labels lie in \[.*\], wanted 0 to 9"):
        loss(X, X, jnp.array(labels))


@pytest.mark.parametrize("loss", LABELS_ONLY)
@pytest.mark.parametrize("labels", [[0, 10], [-1, 3]])
def test_labels_alone_must_be_in_range(loss, labels):
    with pytest.raises(ValueError, match=r"labels lie in \[.*\], wanted 0 to 9"):
        loss(X, jnp.array(labels))


@pytest.mark.parametrize("labels", [jnp.zeros((3,), int), jnp.zeros((2,)), jnp.zeros((2, 9))])
def test_labels_must_fit(labels):
    with pytest.raises(ValueError, match=r"labels have shape .*; wanted integers of shape \(2,\)"):
        logits.cross_entropy(X, labels)


@pytest.mark.parametrize(
    ("loss", "option"),
    [
        (divergences.kl_divergence, "label_smoothing"),
        (divergences.generalized_jensen_shannon, "beta"),
        (divergences.skew_kl, "skew"),
        (divergences.skew_reverse_kl, "skew"),
    ],
)
@pytest.mark.parametrize("value", [-0.1, 1.1])
def test_shares_must_be_fractions(loss, option, value):
    with pytest.raises(ValueError, match=rf"{option} is {value}, wanted a number from 0 to 1"):
        loss(X, X, **{option: value})
    with pytest.raises(ValueError, match="label_smoothing"):
        logits.cross_entropy(X, Y, label_smoothing=value)


def test_types_are_checked():
    with pytest.raises(TypeError, match="term is 'kl'"):
        divergences.divergence("kl")
    with pytest.raises(TypeError, match="expected real values, got complex64"):
        logits.kd(X + 1j, X)
    with pytest.raises(TypeError, match="unexpected keyword"):
        logits.kd(X, X, temprature=2.0)


def test_options_of_responses_are_checked():
    with pytest.raises(ValueError, match="rank_weights is 'even', wanted 'teacher' or 'uniform'"):
        ranking.pld(X, X, Y, rank_weights="even")
    with pytest.raises(ValueError, match="reduction is 'max', wanted 'mean' or 'sum'"):
        transport.sinkhorn_kd(X, X, reduction="max")
    with pytest.raises(ValueError, match="iterations is 0, wanted a number above 0"):
        transport.sinkhorn_kd(X, X, iterations=0)
    with pytest.raises(ValueError, match=r"eps is 0\.0, wanted a number above 0"):
        transport.sinkhorn_plan(jnp.zeros((2, 2)), eps=0.0)
    with pytest.raises(ValueError, match="soften is 'both', wanted 'logits' or 'probabilities'"):
        teacher_free.tf_kd(X, Y, soften="both")
    with pytest.raises(ValueError, match="correct is 2, wanted a number from 0 to 1"):
        teacher_free.tf_kd(X, Y, correct=2)
    with pytest.raises(ValueError, match="rank is 'logit', wanted 'probability' or"):
        teacher_free.uskd(X, X, Y, rank="logit")
    with pytest.raises(ValueError, match="label_share is -1, wanted a number from 0 to 1"):
        regression.probability_mse(X, X, Y, label_share=-1)
