"""Losses of heads, stored labels, subclasses, landmarks, embeddings and sources."""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from formulas import cross_entropy, kl, softmax

from kdjax import losses

pytestmark = pytest.mark.every(2)

RNG = np.random.default_rng(0)
BATCH, CLASSES, VIEWS, WIDTH = 4, 3, 2, 6
LABELS = np.array([0, 2, 1, 2])
SINGLE = RNG.normal(size=(BATCH, CLASSES)).astype(np.float32)
JOINT = RNG.normal(size=(BATCH, VIEWS, CLASSES * VIEWS)).astype(np.float32)
STUDENT, TEACHER = RNG.normal(size=(2, BATCH, WIDTH)).astype(np.float32)
MAPS = RNG.normal(size=(2, BATCH, 3, 3, 5)).astype(np.float32)
LOGITS = RNG.normal(size=(2, BATCH, CLASSES)).astype(np.float32)


def correlation(x, y):
    return np.corrcoef(x.ravel(), y.ravel())[0, 1]


def channels(s, t):
    each = [correlation(s[i], t[i]) for i in np.ndindex(s.shape[:-1])]
    return 1 - np.mean(np.reshape(each, (len(s), -1)), axis=1)


def positions(s, t):
    s, t = s.sum(-1).reshape(len(s), -1), t.sum(-1).reshape(len(t), -1)
    return 1 - np.mean([correlation(a, b) for a, b in zip(s.T, t.T, strict=True)])


def pairs(kept=slice(None)):
    return [(LOGITS[i][kept], MAPS[i][kept]) for i in range(2)]


@pytest.mark.parametrize("clamp_norms", [False, True])
def test_correlations_of_features(clamp_norms):
    given = losses.channel_correlation(*MAPS)
    np.testing.assert_allclose(given, channels(*np.float64(MAPS)), rtol=1e-5)
    given = losses.spatial_correlation(*MAPS, clamp_norms=clamp_norms)
    np.testing.assert_allclose(given, positions(*np.float64(MAPS)), rtol=1e-5)


def test_dist_plus_is_the_sum_of_its_parts():
    weights = {"channel_weight": 2.0, "spatial_weight": 0.5}
    given = losses.dist_plus(*pairs(), beta=0.3, temperature=2.0, **weights)
    wanted = losses.dist(*LOGITS, beta=0.3, temperature=2.0)
    wanted += 2 * channels(*np.float64(MAPS)).mean() + 0.5 * positions(*np.float64(MAPS))
    np.testing.assert_allclose(given, wanted, rtol=1e-5)


def test_torchdistill_has_the_other_sign_of_the_channels():
    given = losses.dist_plus(*pairs(), torchdistill=True)
    other = losses.dist_plus(*pairs())
    turned = 1 - 2 * channels(*np.float64(MAPS)).mean()
    np.testing.assert_allclose(given - other, turned, atol=1e-5)


def test_dist_plus_leaves_masked_examples_out():
    where = np.array([True, False, True, True])
    given = losses.dist_plus(*pairs(), where=where)
    np.testing.assert_allclose(given, losses.dist_plus(*pairs(where)), rtol=1e-5)

    def of_student(student, where):
        return losses.dist_plus(student, pairs()[1], where=where)

    for leaf in jax.tree.leaves(jax.grad(of_student)(pairs()[0], where)):
        assert np.all(leaf[1] == 0) and np.any(leaf[0] != 0)
    nothing = np.zeros(BATCH, bool)
    assert of_student(pairs()[0], nothing) == 0
    for leaf in jax.tree.leaves(jax.grad(of_student)(pairs()[0], nothing)):
        assert np.all(leaf == 0)


def test_dist_plus_teacher_is_a_constant():
    slope = jax.grad(lambda teacher: losses.dist_plus(pairs()[0], teacher))(pairs()[1])
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(slope))


def sla(joint, single, label, temperature=1.0, joint_weight=1.0):
    by_view = [cross_entropy(row, None, label * VIEWS + i) for i, row in enumerate(joint)]
    total = np.mean([row[i::VIEWS] for i, row in enumerate(joint)], axis=0)
    p, q = softmax(total / temperature), softmax(single / temperature)
    soft = temperature**2 * kl(p, q)
    return joint_weight * np.mean(by_view) + cross_entropy(single, None, label) + soft


@pytest.mark.parametrize("options", [{}, {"temperature": 3.0, "joint_weight": 2.0}])
def test_sla_value(options):
    rows = zip(np.float64(JOINT), np.float64(SINGLE), LABELS, strict=True)
    wanted = [sla(*row, **options) for row in rows]
    given = losses.sla((JOINT, SINGLE), LABELS, **options)
    np.testing.assert_allclose(given, wanted, rtol=1e-5)
    shaped = JOINT.reshape(2, 2, *JOINT.shape[1:]), SINGLE.reshape(2, 2, -1)
    given = losses.sla(shaped, LABELS.reshape(2, 2), **options)
    np.testing.assert_allclose(given, np.reshape(wanted, (2, 2)), rtol=1e-5)


def test_sla_aggregate_is_a_constant():
    """The joint head learns from its own labels alone."""
    own = jax.grad(lambda joint: jnp.sum(losses.sla((joint, SINGLE), LABELS)))(JOINT)
    labels = losses.joint_labels(LABELS, VIEWS)
    hard = jax.grad(lambda joint: jnp.sum(losses.cross_entropy(joint, labels)) / VIEWS)(JOINT)
    np.testing.assert_allclose(own, hard, rtol=1e-5, atol=1e-7)


def test_sla_masks():
    examples = np.array([True, False, True, True])

    def total(heads, where):
        values = losses.sla(heads, LABELS, where=where)
        return jnp.sum(values), values

    slopes, values = jax.grad(total, has_aux=True)((JOINT, SINGLE), examples[:, None, None])
    assert values[1] == 0 and all(np.all(slope[1] == 0) for slope in slopes)
    np.testing.assert_allclose(values[0], losses.sla((JOINT, SINGLE), LABELS)[0], rtol=1e-5)
    view = np.array([True, False])[:, None]
    first = losses.cross_entropy(JOINT[:, 0], LABELS * VIEWS)
    every = jnp.mean(losses.cross_entropy(JOINT, losses.joint_labels(LABELS, VIEWS)), axis=1)
    changed = losses.sla((JOINT, SINGLE), LABELS, where=view)
    unmasked = losses.sla((JOINT, SINGLE), LABELS)
    np.testing.assert_allclose(changed - unmasked, first - every, atol=1e-5)


@pytest.mark.parametrize("scale", [1e4, np.inf])
def test_heads_are_finite(scale):
    joint, single = np.clip(JOINT * scale, -scale, 1e4), np.clip(SINGLE * scale, -scale, 1e4)

    def total(heads):
        return jnp.sum(losses.sla(heads, LABELS))

    value, slopes = jax.value_and_grad(total)((joint, single))
    assert np.isfinite(value) and all(np.all(np.isfinite(slope)) for slope in slopes)
    assert np.all(np.isfinite(losses.combine_heads(single, -np.abs(single))))


@pytest.mark.parametrize(("share", "temperature"), [(0.0, 0.5), (0.3, 2.0), (1.0, 4.0)])
def test_combined_heads(share, temperature):
    given = losses.combine_heads(*LOGITS, share=share, temperature=temperature)
    wanted = share * softmax(LOGITS[0]) + (1 - share) * softmax(LOGITS[1] / temperature)
    np.testing.assert_allclose(jnp.exp(given), wanted, rtol=1e-5)


def test_the_best_blend_of_two_heads_is_found():
    labels = RNG.integers(0, CLASSES, 60)
    heads = RNG.normal(size=(2, 60, CLASSES)) + np.eye(CLASSES)[labels]
    grid = {"shares": (0.0, 0.2, 0.6, 1.0), "temperatures": (0.5, 3.0)}
    merits = {}
    for share, temperature in itertools.product(*grid.values()):
        p = share * softmax(heads[0]) + (1 - share) * softmax(heads[1] / temperature)
        right = np.mean(p.argmax(1) == labels)
        merits[share, temperature] = right, np.mean(np.log(p[np.arange(60), labels]))
    best = max(merits, key=merits.get)
    given = losses.fit_heads(*np.float32(heads), labels, **grid)
    assert (given["share"], given["temperature"]) == best
    with pytest.raises(ValueError, match=r"shares are \(\) and temperatures"):
        losses.fit_heads(*np.float32(heads), labels, shares=())


def test_heads_check_their_arguments():
    with pytest.raises(ValueError, match=r"joint_logits have shape \(4, 2, 5\), wanted"):
        losses.sla((JOINT[..., :5], SINGLE), LABELS)
    with pytest.raises(ValueError, match=r"student_logits\[1\] has 2 classes and .* has 3"):
        losses.sla((JOINT, SINGLE[:, :2]), LABELS)
    with pytest.raises(ValueError, match=r"labels lie in \[3, 3\], wanted 0 to 2"):
        losses.sla((JOINT, SINGLE), LABELS * 0 + 3)
    with pytest.raises(ValueError, match="temperature is 0, wanted a number above 0"):
        losses.sla((JOINT, SINGLE), LABELS, temperature=0)
    with pytest.raises(TypeError, match="labels have type float32, wanted integers"):
        losses.joint_labels(jnp.zeros(2), 4)
    with pytest.raises(ValueError, match="share is 2, wanted a number from 0 to 1"):
        losses.combine_heads(*LOGITS, share=2)
    with pytest.raises(ValueError, match="label_logits has 3 classes and kd_logits has 2"):
        losses.combine_heads(SINGLE, SINGLE[:, :2])


def test_recovered_labels():
    dense = np.float64(softmax(RNG.normal(size=(5, 8)) * 2))
    for top in (1, 3, 8):
        order = np.argsort(-dense)[:, :top]
        stored = np.take_along_axis(dense, order, axis=1)
        recover = functools.partial(losses.recover_top_k, order, stored, num_classes=8)
        known = np.zeros_like(dense)
        np.put_along_axis(known, order, stored, axis=1)
        rest = (1 - stored.sum(1, keepdims=True)) / max(8 - top, 1)
        np.testing.assert_allclose(jnp.exp(recover()), np.where(known > 0, known, rest), rtol=1e-5)
        wanted = known / known.sum(1, keepdims=True)
        np.testing.assert_allclose(jnp.exp(recover(rest="drop")), wanted, rtol=1e-5)
        wanted = np.eye(8)[dense.argmax(1)]
        np.testing.assert_allclose(jnp.exp(recover(rest="hard")), wanted, atol=1e-7)


def test_recovered_labels_of_rounded_probabilities_add_up_to_one():
    stored = np.float16([[0.7, 0.4]])
    for rest in ("spread", "drop"):
        target = losses.recover_top_k(np.array([[4, 1]]), stored, num_classes=6, rest=rest)
        np.testing.assert_allclose(jnp.sum(jnp.exp(target)), 1, rtol=1e-6)


def test_recovered_labels_check_their_arguments():
    recover = functools.partial(losses.recover_top_k, np.array([[0, 1]]))
    with pytest.raises(ValueError, match=r"indices has 2 classes and probabilities has 1"):
        recover(np.ones((1, 1)), num_classes=4)
    with pytest.raises(ValueError, match="num_classes is 1, wanted at least the 2 stored ones"):
        recover(np.ones((1, 2)), num_classes=1)
    with pytest.raises(ValueError, match='rest is "dropp", did you mean "drop"'):
        recover(np.ones((1, 2)), num_classes=4, rest="dropp")


def fitted(subclasses=2):
    return {
        "kernel": RNG.normal(size=(WIDTH, CLASSES)).astype(np.float32),
        "means": RNG.normal(size=(CLASSES, WIDTH)).astype(np.float32),
        "directions": RNG.normal(size=(CLASSES, subclasses, WIDTH)).astype(np.float32),
    }


def test_subclasses_add_up_to_their_class():
    teacher = fitted()
    options = {"temperature": 2.0, "subclass_temperature": 0.5}
    target = losses.subclass_targets(SINGLE, TEACHER, **teacher, **options)
    merged = jnp.exp(losses.merge_subclasses(target, 2))
    np.testing.assert_allclose(merged, softmax(SINGLE / 2), rtol=1e-5)
    kernel = np.float64(teacher["kernel"])
    hidden = TEACHER - TEACHER @ kernel @ np.linalg.pinv(kernel)
    offset = hidden[:, None] - teacher["means"]
    split = softmax(np.einsum("bcd,ckd->bck", offset, teacher["directions"]) / 0.5)
    wanted = softmax(SINGLE / 2)[..., None] * split
    np.testing.assert_allclose(jnp.exp(target), wanted.reshape(BATCH, -1), rtol=1e-4)


def test_nothing_that_is_read_is_left():
    kernel = fitted()["kernel"]
    hidden = losses.without_readout(TEACHER, kernel)
    np.testing.assert_allclose(hidden @ kernel, 0, atol=1e-5)
    np.testing.assert_allclose(losses.without_readout(hidden, kernel), hidden, atol=1e-5)


def test_subclass_targets_are_constants_and_finite():
    teacher = fitted()

    def total(logits, embedding):
        return jnp.sum(losses.subclass_targets(logits, embedding, **teacher))

    for slope in jax.grad(total, argnums=(0, 1))(SINGLE, TEACHER):
        assert np.all(slope == 0)
    excluded = np.where(SINGLE > 0, SINGLE, -np.inf)
    extreme = losses.subclass_targets(excluded, TEACHER * 1e4, **teacher)
    assert np.all(np.isfinite(extreme))


@pytest.mark.parametrize("name", ["kernel", "means", "directions"])
def test_subclass_targets_check_their_arguments(name):
    teacher = fitted()
    teacher[name] = teacher[name][..., :-1]
    with pytest.raises(ValueError, match=rf"{name} ha(s|ve) shape .*, wanted \("):
        losses.subclass_targets(SINGLE, TEACHER, **teacher)
    with pytest.raises(ValueError, match="subclasses is 4 for 3 logits, wanted a divisor"):
        losses.merge_subclasses(SINGLE, 4)
    with pytest.raises(ValueError, match="subclass_temperature is 0"):
        losses.subclass_targets(SINGLE, TEACHER, **fitted(), subclass_temperature=0)


CENTERS = RNG.normal(size=(CLASSES, WIDTH)).astype(np.float32)


def test_nd_value():
    given = losses.nd(STUDENT, TEACHER, LABELS, centers=CENTERS)
    unit = CENTERS / np.linalg.norm(CENTERS, axis=1, keepdims=True)
    longer = np.maximum(*(np.linalg.norm(x, axis=1) for x in (STUDENT, TEACHER)))
    wanted = 1 - np.sum(STUDENT * unit[LABELS], axis=1) / longer
    np.testing.assert_allclose(given, wanted, rtol=1e-5)
    soft = np.eye(CLASSES, dtype=np.float32)[LABELS]
    given = losses.nd(STUDENT, TEACHER, soft, centers=CENTERS)
    np.testing.assert_allclose(given, wanted, rtol=1e-5)


def test_nd_beyond_the_teachers_norm_trains_the_direction_alone():
    slope = jax.grad(lambda s: jnp.sum(losses.nd(s, TEACHER, LABELS, centers=CENTERS)))
    along = np.sum(slope(10 * STUDENT) * STUDENT, axis=1)
    np.testing.assert_allclose(along, 0, atol=1e-6)
    short = slope(0.1 * STUDENT)
    assert np.all(np.abs(np.sum(short * STUDENT, axis=1)) > 1e-3)


def test_nd_masks_and_is_finite():
    where = np.array([True, False, True, True])

    def total(student, teacher, where):
        return jnp.sum(losses.nd(student, teacher, LABELS, centers=CENTERS, where=where))

    assert np.all(jax.grad(total)(STUDENT, TEACHER, where)[1] == 0)
    assert np.all(jax.grad(total, argnums=1)(STUDENT, TEACHER, where) == 0)
    assert total(STUDENT, TEACHER, np.zeros(BATCH, bool)) == 0
    for scale in (0.0, 1e4):
        value, slope = jax.value_and_grad(total)(scale * STUDENT, 0 * TEACHER, where)
        assert np.isfinite(value) and np.all(np.isfinite(slope))


def test_nd_checks_its_arguments():
    with pytest.raises(ValueError, match="student_embedding has 6 classes and teacher_embedding"):
        losses.nd(STUDENT, TEACHER[:, :5], LABELS, centers=CENTERS)
    with pytest.raises(ValueError, match=r"centers have shape \(3, 5\), wanted \(classes, 6\)"):
        losses.nd(STUDENT, TEACHER, LABELS, centers=CENTERS[:, :5])
    with pytest.raises(ValueError, match=r"labels lie in \[5, 5\], wanted 0 to 2"):
        losses.nd(STUDENT, TEACHER, LABELS * 0 + 5, centers=CENTERS)


def test_class_centers():
    given = losses.class_centers(TEACHER, LABELS, 4)
    wanted = [TEACHER[c == LABELS].mean(0) if c < 3 else np.zeros(WIDTH) for c in range(4)]
    np.testing.assert_allclose(given, wanted, rtol=1e-6)


def assistance(s, t, y, pull, push):
    """One coordinate, in words: which side, beyond the teacher, or between edge and teacher."""
    side, distance = np.sign(s - y), abs(t - y)
    reached = abs(s - y)
    weight = pull if reached > distance else push if reached >= 0.15 * distance else 0.0
    return weight * abs(y + side * distance - s)


def error(s, t, y):
    e, d = abs(y - s), abs(y - t)
    return 3 * e if e <= d else e**2 + 3 * d - d**2


TARGET, TOUGH, TOLERANT = RNG.normal(size=(3, BATCH, WIDTH)).astype(np.float32)


def test_landmarks():
    given = losses.assistive_landmark(
        STUDENT,
        (TOUGH, TOLERANT),
        TARGET,
        attraction=(2.0, 1.5),
        repulsion=(-0.5, -0.25),
        main_weight=3.0,
        tough_weight=0.5,
        tolerant_weight=0.25,
    )
    wanted = np.zeros(BATCH)
    for b, i in np.ndindex(BATCH, WIDTH):
        s, y = STUDENT[b, i], TARGET[b, i]
        wanted[b] += 3.0 * error(s, TOLERANT[b, i], y)
        wanted[b] += 0.5 * assistance(s, TOUGH[b, i], y, 2.0, -0.5)
        wanted[b] += 0.25 * assistance(s, TOLERANT[b, i], y, 1.5, -0.25)
    np.testing.assert_allclose(given, wanted / WIDTH, rtol=1e-5)


def test_landmarks_that_do_not_exist():
    where = RNG.random((BATCH, WIDTH)) < 0.5
    where[1] = False

    def total(student, teachers):
        values = losses.assistive_landmark(student, teachers, TARGET, where=where)
        return jnp.sum(values), values

    slope, values = jax.grad(total, has_aux=True)(STUDENT, (TOUGH, TOLERANT))
    assert values[1] == 0 and np.all(slope[~where] == 0) and np.all(slope[where] != 0)
    kept = where[0]
    teachers = TOUGH[:1, kept], TOLERANT[:1, kept]
    alone = losses.assistive_landmark(STUDENT[:1, kept], teachers, TARGET[:1, kept])
    np.testing.assert_allclose(values[0], alone[0], rtol=1e-5)
    by_teacher, _ = jax.grad(total, argnums=1, has_aux=True)(STUDENT, (TOUGH, TOLERANT))
    assert all(np.all(slope == 0) for slope in by_teacher)


def test_landmarks_check_their_arguments():
    with pytest.raises(ValueError, match="teacher_points has 1 teachers, wanted two"):
        losses.assistive_landmark(STUDENT, (TOUGH,), TARGET)
    with pytest.raises(ValueError, match=r"student_points has 6 classes and labels has 5"):
        losses.assistive_landmark(STUDENT, (TOUGH, TOLERANT), TARGET[:, :5])


def test_parc_is_the_rank_correlation_of_distances():
    features, labels = RNG.normal(size=(9, 5)).astype(np.float32), np.arange(9) % 3
    features[:, 0] += 2 * labels
    upper = np.triu_indices(9, 1)
    by_features = (1 - np.corrcoef(np.float64(features)))[upper]
    by_labels = (1 - np.corrcoef(np.eye(3)[labels])).round(9)[upper]
    wanted = scipy.stats.spearmanr(by_features, by_labels).statistic
    np.testing.assert_allclose(losses.parc(features, labels), wanted, rtol=1e-5)
    assert losses.parc(np.ones((4, 2)), np.zeros(4, int)) == 0
    with pytest.raises(ValueError, match="three examples or more"):
        losses.parc(features[:2], labels[:2])


def test_source_weights():
    given = losses.source_weights(jnp.array([0.2, -0.1, 0.4]), power=2.0)
    np.testing.assert_allclose(given, [0.2, 0, 0.8], rtol=1e-6)
    np.testing.assert_allclose(losses.source_weights(jnp.array([-1.0, -2.0])), 0.5)
    huge = losses.source_weights(jnp.array([1e-5, 2e-5]), power=20.0)
    np.testing.assert_allclose(jnp.sum(huge), 1, rtol=1e-6)
    with pytest.raises(ValueError, match="power is 0"):
        losses.source_weights(jnp.ones(2), power=0)


@pytest.mark.parametrize("released", [False, True])
def test_focal_with_class_weights(released):
    weights = np.array([0.5, 2.0, 1.0], np.float32)
    given = losses.focal(
        SINGLE, LABELS, gamma=1.5, class_weights=weights, weighted_probability=released
    )
    hard = np.array([cross_entropy(s, None, y) for s, y in zip(SINGLE, LABELS, strict=True)])
    own = weights[LABELS]
    wanted = own * (1 - np.exp(-hard * (own if released else 1))) ** 1.5 * hard
    np.testing.assert_allclose(given, wanted, rtol=1e-5)


def test_information_needs_a_row_for_each_class():
    centroids = np.zeros((CLASSES, CLASSES), np.float32)
    centroids[2] = [0.2, 0.3, 0.5]
    given = losses.conditional_mutual_information(SINGLE, LABELS, centroids=centroids)
    rows = zip(SINGLE, LABELS, strict=True)
    wanted = [kl(softmax(s), centroids[2]) if y == 2 else 0 for s, y in rows]
    np.testing.assert_allclose(given, wanted, rtol=1e-5)
    with pytest.raises(ValueError, match=r"centroids have shape \(2, 3\), wanted \(3, 3\)"):
        losses.mcmi(SINGLE, LABELS, centroids=centroids[:2])
    with pytest.raises(ValueError, match=r"class_weights have shape \(2,\), wanted \(3,\)"):
        losses.focal(SINGLE, LABELS, class_weights=centroids[0, :2])


def test_weak_head_learns_only_from_its_own_loss():
    def total(weak, mu):
        return jnp.sum(losses.uskd(SINGLE, weak, LABELS, mu=mu))

    assert np.all(jax.grad(total)(LOGITS[1], 0.0) == 0)
    smooth = functools.partial(losses.cross_entropy, label_smoothing=0.1)
    wanted = jax.grad(lambda weak: 0.5 * jnp.sum(smooth(weak, LABELS)))(LOGITS[1])
    np.testing.assert_allclose(jax.grad(total)(LOGITS[1], 0.5), wanted, atol=1e-6)


def test_a_virtual_teacher_who_is_sure_is_label_smoothing_or_truth():
    target = losses.virtual_teacher(LABELS, SINGLE, correct=1.0)
    np.testing.assert_allclose(jnp.exp(target), np.eye(CLASSES)[LABELS], atol=1e-7)
    given = losses.tf_kd(SINGLE, LABELS, correct=1.0, temperature=1.0)
    np.testing.assert_allclose(given, losses.cross_entropy(SINGLE, LABELS), rtol=1e-5)


def test_masked_class_gives_its_share_to_the_others():
    where = np.array([True, False, True])
    target = losses.virtual_teacher(np.array([0]), SINGLE[:1], correct=0.75, where=where)
    np.testing.assert_allclose(jnp.exp(target), [[0.75, 0, 0.25]], atol=1e-6)
