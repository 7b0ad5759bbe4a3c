"""Which examples count, who agrees, what is made of regions, landmarks and embeddings."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from formulas import kl, softmax

from kdjax import losses

RNG = np.random.default_rng(0)
STUDENT, TEACHER = RNG.normal(size=(2, 6, 4), scale=3).astype(np.float32)
LABELS = np.array([0, 1, 2, 3, 1, 2])


@pytest.mark.parametrize(("threshold", "share"), [(0.5, 0.5), (0.7, 1.0), (0.8, 0.0)])
def test_confident_examples(threshold, share):
    given = losses.select_confident(STUDENT, TEACHER, threshold=threshold, teacher_share=share)
    mixed = share * softmax(TEACHER) + (1 - share) * softmax(STUDENT)
    wanted = mixed.max(1) >= threshold
    np.testing.assert_array_equal(given, wanted)
    assert 0 < wanted.sum() < len(wanted)


def test_an_example_without_classes_is_not_selected():
    where = (np.arange(6) != 1)[:, None]
    given = losses.select_confident(STUDENT, TEACHER, threshold=0.0, where=where)
    np.testing.assert_array_equal(given, where[:, 0])


def test_el2n_and_grand_are_norms():
    error = softmax(STUDENT) - np.eye(4)[LABELS]
    given = losses.el2n(STUDENT, LABELS)
    np.testing.assert_allclose(given, np.linalg.norm(error, axis=1), rtol=1e-5)
    embedding = RNG.normal(size=(6, 5)).astype(np.float32)
    kernel = RNG.normal(size=(5, 4)).astype(np.float32)

    def loss(params, x, label):
        return losses.cross_entropy(x @ params["kernel"] + params["bias"], label)

    params = {"kernel": kernel, "bias": jnp.zeros(4)}
    each = jax.vmap(jax.grad(loss), (None, 0, 0))(params, embedding, LABELS)
    wanted = np.sqrt(sum(np.sum(np.square(g.reshape(6, -1)), 1) for g in jax.tree.leaves(each)))
    given = losses.grand(embedding @ kernel, embedding, LABELS)
    np.testing.assert_allclose(given, wanted, rtol=1e-4)
    with pytest.raises(ValueError, match=r"embedding has shape \(5, 5\), wanted \(6, 'width'\)"):
        losses.grand(STUDENT, embedding[:5], LABELS)


def test_forgetting_is_counted():
    history = RNG.random((9, 20)) < 0.3
    wanted = [
        sum(a and not b for a, b in itertools.pairwise(row)) if any(row) else np.inf
        for row in history.T
    ]
    np.testing.assert_array_equal(losses.forgetting_events(history), wanted)
    with pytest.raises(ValueError, match=r"shape \(9,\), wanted \[epochs, examples\]"):
        losses.forgetting_events(history[:, 0])


def test_the_teachers_share_falls_with_the_data():
    shares = [float(losses.pruned_kd_share(f, whole=0.4)) for f in (0.0, 0.25, 1.0)]
    np.testing.assert_allclose(shares, [1.0, 0.85, 0.4], rtol=1e-6)
    with pytest.raises(ValueError, match="kept is 2, wanted a number from 0 to 1"):
        losses.pruned_kd_share(2)


@pytest.mark.parametrize("temperature", [0.5, 3.0])
def test_influence_weights(temperature):
    influence = RNG.normal(size=7).astype(np.float32)
    given = losses.influence_weights(influence, temperature=temperature)
    powers = np.exp(-influence / influence.std() / temperature)
    np.testing.assert_allclose(given, 7 * powers / powers.sum(), rtol=1e-5)
    scaled = losses.influence_weights(5 * influence + 3, temperature=temperature)
    np.testing.assert_allclose(given, scaled, rtol=1e-4)
    assert given[np.argmin(influence)] == given.max()
    np.testing.assert_array_equal(losses.influence_weights(jnp.full(3, 2.0)), np.ones(3))


def worst_case(p, gains, mistakes):
    """What is left of the expected gain without the largest parts."""
    return np.sum(np.sort(p * gains)[: len(gains) - mistakes])


@pytest.mark.parametrize("mistakes", [0, 1, 3, 6])
def test_queries_are_best_in_the_worst_case(mistakes):
    """Against the linear program: maximise `sum x - (m t + sum s)` with `x_i <= t + s_i`."""
    gains = RNG.uniform(0.05, 1.0, size=8)
    given = np.float64(losses.query_distribution(np.float32(gains), mistakes))
    np.testing.assert_allclose(given.sum(), 1, rtol=1e-6)
    cost = np.concatenate([-gains, [mistakes], np.ones(8)])
    upper = np.hstack([np.diag(gains), -np.ones((8, 1)), -np.eye(8)])
    whole = np.concatenate([np.ones(8), np.zeros(9)])[None]
    best = scipy.optimize.linprog(cost, upper, np.zeros(8), whole, [1.0])
    np.testing.assert_allclose(worst_case(given, gains, mistakes), -best.fun, rtol=1e-5)


def test_queries_check_their_arguments():
    with pytest.raises(ValueError, match="mistakes is 3, wanted 0 to fewer than the 3 examples"):
        losses.query_distribution(jnp.ones(3), 3)
    given = losses.query_distribution(jnp.array([0.0, 0.5, 1.0]), 1)
    assert np.all(np.isfinite(given)) and given[0] < 1e-6


def test_teachers_who_agree_count_fully():
    members = np.stack([TEACHER, STUDENT, TEACHER[::-1]], axis=1)
    given = losses.agreement_weights(members, sharpness=2.0, temperature=1.5)
    p = softmax(members / 1.5)
    apart = [np.mean([kl(q, row.mean(0)) for q in row]) for row in p]
    np.testing.assert_allclose(given, np.exp(-2 * np.array(apart)), rtol=1e-5)
    same = np.repeat(TEACHER[:, None], 3, axis=1)
    np.testing.assert_allclose(losses.agreement_weights(same), 1, rtol=1e-6)
    assert np.all(losses.agreement_weights(1e4 * members) > 0)


def test_regions_are_left_out_softened_or_kept():
    best = softmax(TEACHER).max(1)
    low, high = np.sort(best)[[1, 3]] + 1e-3
    target, kept = losses.calibrate_regions(TEACHER, LABELS, discard=low, soften=high)
    np.testing.assert_array_equal(kept, best >= low)
    softened = 0.9 * np.eye(4)[LABELS] + 0.1 / 4
    wanted = np.where(best[:, None] < high, softened, softmax(TEACHER))
    np.testing.assert_allclose(jnp.exp(target), wanted, rtol=1e-5)
    with pytest.raises(ValueError, match=r"discard is 0\.5 and soften 0\.3"):
        losses.fer_kd(STUDENT, TEACHER, LABELS, discard=0.5)


def test_permutations_keep_the_best_class_and_the_values():
    many = np.repeat(TEACHER[:1], 4000, axis=0)
    given = losses.permute_others(many, jax.random.key(0))
    best = int(np.argmax(many[0]))
    np.testing.assert_array_equal(given[:, best], many[:, best])
    np.testing.assert_array_equal(np.sort(given, axis=1), np.sort(many, axis=1))
    others = [c for c in range(4) if c != best]
    mean = np.full(3, many[0, others].mean())
    np.testing.assert_allclose(given[:, others].mean(0), mean, atol=0.15)


def test_smoothed_points_lie_in_the_first_components():
    points = RNG.normal(size=(20, 5)) @ np.diag([5, 3, 1, 0.5, 0.1])
    given = losses.smooth_points(np.float32(points), components=2)
    first = np.linalg.eigh(np.cov(points.T))[1][:, -2:]
    mean = points.mean(0)
    np.testing.assert_allclose(given, mean + (points - mean) @ first @ first.T, atol=1e-4)
    everything = losses.smooth_points(np.float32(points), components=5)
    np.testing.assert_allclose(everything, points, atol=1e-4)
    with pytest.raises(ValueError, match="components is 6 for points of shape"):
        losses.smooth_points(np.float32(points), components=6)


@pytest.mark.parametrize("subclasses", [1, 2, 3, 4])
def test_subclasses_span_the_principal_directions_of_their_class(subclasses):
    kernel = RNG.normal(size=(8, 2)).astype(np.float32)
    x = (RNG.normal(size=(40, 8)) * np.arange(1, 9)).astype(np.float32)
    labels = np.arange(40) % 2
    fitted = losses.fit_subclasses(x, labels, kernel, subclasses)
    hidden = np.float64(x) - np.float64(x) @ kernel @ np.linalg.pinv(np.float64(kernel))
    for c, own in enumerate(fitted["directions"]):
        np.testing.assert_allclose(own @ own.T, np.eye(subclasses), atol=1e-5)
        np.testing.assert_allclose(own @ kernel, 0, atol=1e-3)
        mine = hidden[labels == c]
        np.testing.assert_allclose(fitted["means"][c], mine.mean(0), rtol=1e-3, atol=1e-4)
        offset = mine - mine.mean(0)
        values, vectors = np.linalg.eigh(offset.T @ offset)
        first = vectors[:, -subclasses:]
        np.testing.assert_allclose(own.T @ own, first @ first.T, atol=1e-3)
        spread = np.sum((offset @ own.T) ** 2, axis=0)
        np.testing.assert_allclose(spread.sum(), values[-subclasses:].sum(), rtol=1e-3)
        if subclasses in (1, 2, 4):
            np.testing.assert_allclose(spread, spread.mean(), rtol=1e-3)


def test_fitting_subclasses_checks_its_arguments():
    x, kernel = np.zeros((4, 3), np.float32), np.zeros((3, 2), np.float32)
    with pytest.raises(ValueError, match="subclasses is 4, wanted 1 to the width 3"):
        losses.fit_subclasses(x, np.array([0, 1, 0, 1]), kernel, 4)
    with pytest.raises(ValueError, match=r"embedding has shape \(4, 3\) and kernel \(2, 3\)"):
        losses.fit_subclasses(x, np.array([0, 1, 0, 1]), kernel.T, 1)
