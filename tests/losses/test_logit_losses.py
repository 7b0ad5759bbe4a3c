"""One test per property, over the table of losses on logits."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import logit_cases
import numpy as np
import pytest
from logit_cases import BATCH_CASES, CASES, DIVERGENCES

pytestmark = pytest.mark.every(4)

BATCH, CLASSES = 4, 5
ALL_CASES = {**CASES, **BATCH_CASES}
per_row = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
each = pytest.mark.parametrize("case", ALL_CASES.values(), ids=ALL_CASES)


def draw(seed: int = 0, scale: float = 2.0):
    rng = np.random.default_rng(seed)
    student, teacher = rng.normal(scale=scale, size=(2, BATCH, CLASSES))
    return student.astype(np.float32), teacher.astype(np.float32), np.array([0, 3, 2, 4])


def expected(case, student, teacher, labels, at=None):
    at = student if at is None else at
    rows = zip(*map(np.float64, (student, teacher)), labels, np.float64(at), strict=True)
    return np.array([case.value(*row) for row in rows])


def gradient(case, student, teacher, labels, **options):
    return jax.grad(lambda s: jnp.sum(case.loss(s, teacher, labels, **options)))(student)


@per_row
def test_value(case):
    student, teacher, labels = draw()
    given = case.loss(student, teacher, labels)
    assert given.shape == (BATCH,)
    wanted = expected(case, student, teacher, labels)
    np.testing.assert_allclose(given, wanted, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("case", BATCH_CASES.values(), ids=BATCH_CASES)
def test_value_of_a_batch(case):
    student, teacher, labels = draw()
    assert case.loss(student, teacher, labels).shape == ()
    wanted = case.formula(np.float64(student), np.float64(teacher), labels)
    np.testing.assert_allclose(case.loss(student, teacher, labels), wanted, rtol=1e-5)


@per_row
def test_gradient_is_the_finite_difference(case):
    student, teacher, labels = draw(1)
    given, h = gradient(case, student, teacher, labels), 1e-6
    wanted = np.zeros((BATCH, CLASSES))
    for c in range(CLASSES):
        step = h * (np.arange(CLASSES) == c)
        above = expected(case, student + np.float64(step), teacher, labels, student)
        below = expected(case, student - np.float64(step), teacher, labels, student)
        wanted[:, c] = (above - below) / (2 * h)
    np.testing.assert_allclose(given, wanted, atol=2e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("case", BATCH_CASES.values(), ids=BATCH_CASES)
def test_gradient_of_a_batch_is_the_finite_difference(case):
    student, teacher, labels = draw(1)
    given, h = gradient(case, student, teacher, labels), 1e-6
    wanted = np.zeros((BATCH, CLASSES))
    for index in np.ndindex(BATCH, CLASSES):
        step = np.zeros((BATCH, CLASSES))
        step[index] = h
        above, below = (
            case.value(student + d, np.float64(teacher), labels, np.float64(student))
            for d in (step, -step)
        )
        wanted[index] = (above - below) / (2 * h)
    np.testing.assert_allclose(given, wanted, atol=2e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("name", DIVERGENCES)
def test_gradient_of_a_divergence_has_the_closed_form(name):
    loss, term, _, _ = DIVERGENCES[name]
    student, teacher, _ = draw(2)
    log_q, log_p = jax.nn.log_softmax(student / 2), jax.nn.log_softmax(teacher / 2)
    slope = jax.grad(lambda x: jnp.sum(term(log_p, x)))(log_q)
    wanted = (slope - jnp.exp(log_q) * jnp.sum(slope, axis=-1, keepdims=True)) / 2
    given = jax.grad(lambda s: jnp.sum(loss(s, teacher, temperature=2.0)))(student)
    np.testing.assert_allclose(given, wanted, atol=2e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("name", [name for name in ALL_CASES if ALL_CASES[name].zero_at_equality])
def test_zero_where_student_and_teacher_agree(name):
    case = ALL_CASES[name]
    student, _, labels = draw(3)
    # `dist` adds an epsilon to the product of the norms, and multiplies by T².
    atol = 5e-5 if case in BATCH_CASES.values() else 1e-5
    np.testing.assert_allclose(case.loss(student, student, labels), 0, atol=atol)
    np.testing.assert_allclose(gradient(case, student, student, labels), 0, atol=1e-5)


@per_row
def test_masked_classes_are_as_if_they_were_not_there(case):
    student, teacher, labels = draw(4)
    where = np.array([True, False, True, True, True])
    given = case.loss(student, teacher, labels, where=where)
    short = labels - (labels > 1)
    wanted = expected(case, student[:, where], teacher[:, where], short)
    np.testing.assert_allclose(given, wanted, rtol=2e-5, atol=1e-6)
    assert np.all(gradient(case, student, teacher, labels, where=where)[:, 1] == 0)


@pytest.mark.parametrize("case", BATCH_CASES.values(), ids=BATCH_CASES)
def test_masked_rows_are_as_if_they_were_not_there(case):
    student, teacher, labels = draw(5)
    where = np.array([True, False, True, True])[:, None]
    kept = where[:, 0]
    given = case.loss(student, teacher, labels, where=where)
    wanted = case.loss(student[kept], teacher[kept], labels[kept])
    np.testing.assert_allclose(given, wanted, rtol=1e-5)


@each
def test_masked_row_has_no_loss_and_no_gradient(case):
    student, teacher, labels = draw(6)
    where = np.array([True, False, True, False])[:, None]
    if case in CASES.values():
        given = case.loss(student, teacher, labels, where=where)
        assert np.all(given[~where[:, 0]] == 0)
        unmasked = case.loss(student, teacher, labels)
        np.testing.assert_allclose(given[where[:, 0]], unmasked[where[:, 0]], rtol=1e-5)
    slope = gradient(case, student, teacher, labels, where=where)
    assert np.all(slope[~where[:, 0]] == 0)
    nothing = np.zeros((BATCH, 1), bool)
    assert np.all(case.loss(student, teacher, labels, where=nothing) == 0)
    assert np.all(gradient(case, student, teacher, labels, where=nothing) == 0)


@per_row
def test_vmap_is_the_batch(case):
    student, teacher, labels = draw(7)
    given = jax.vmap(case.loss)(student, teacher, labels)
    np.testing.assert_allclose(given, case.loss(student, teacher, labels), rtol=1e-5, atol=1e-6)


@per_row
def test_any_number_of_batch_axes(case):
    student, teacher, labels = draw(7)
    folded = [np.reshape(x, (2, 2, *x.shape[1:])) for x in (student, teacher, labels)]
    given = case.loss(*folded)
    assert given.shape == (2, 2)
    flat = case.loss(student, teacher, labels)
    np.testing.assert_allclose(given.ravel(), flat, rtol=1e-5, atol=1e-6)


@each
def test_jit_is_eager(case):
    student, teacher, labels = draw(8)
    eager = case.loss(student, teacher, labels)
    np.testing.assert_allclose(jax.jit(case.loss)(student, teacher, labels), eager, rtol=1e-5)


@each
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_computed_in_float32(case, dtype):
    student, teacher, labels = draw(9)
    student, teacher = jnp.asarray(student, dtype), jnp.asarray(teacher, dtype)
    given = case.loss(student, teacher, labels)
    assert given.dtype == jnp.float32
    wide = case.loss(student.astype(jnp.float32), teacher.astype(jnp.float32), labels)
    np.testing.assert_allclose(given, wide, rtol=1e-6, atol=1e-7)
    assert gradient(case, student, teacher, labels).dtype == dtype


@each
def test_teacher_is_a_constant(case):
    student, teacher, labels = draw(10)
    slope = jax.grad(lambda t: jnp.sum(case.loss(student, t, labels)))(teacher)
    assert np.all(slope == 0)


def test_teacher_gradient_is_there_on_request():
    loss = DIVERGENCES["symmetric_kl"][0]
    student, teacher, _ = draw(10)

    def value(s, t):
        return jnp.sum(loss(s, t, teacher_gradient=True))

    by_student, by_teacher = jax.grad(value, argnums=(0, 1))(student, teacher)
    swapped = jax.grad(value)(teacher, student)
    np.testing.assert_allclose(by_teacher, swapped, rtol=1e-4, atol=1e-6)
    assert np.any(by_student != 0)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        *((name, (1, 1)) for name in ALL_CASES if not name.endswith("options")),
        *((name, (1, CLASSES)) for name in BATCH_CASES),
        *((name, (BATCH, 1)) for name in BATCH_CASES),
    ],
)
def test_single_example_or_class_is_finite(name, shape):
    case = ALL_CASES[name]
    student, teacher, _ = draw(11)
    student, teacher = student[: shape[0], : shape[1]], teacher[: shape[0], : shape[1]]
    labels = np.zeros(shape[0], int)
    assert np.all(np.isfinite(case.loss(student, teacher, labels)))
    assert np.all(np.isfinite(gradient(case, student, teacher, labels)))


def test_soft_labels():
    student, teacher, labels = draw(12)
    one_hot = np.eye(CLASSES, dtype=np.float32)[labels]
    for name in ("cross_entropy", "cross_entropy_options", "dkd", "nkd"):
        hard = CASES[name].loss(student, teacher, labels)
        np.testing.assert_allclose(CASES[name].loss(student, teacher, one_hot), hard, rtol=1e-6)
    mixed = 0.25 * one_hot + 0.75 * one_hot[::-1]
    given = CASES["cross_entropy"].loss(student, teacher, mixed)
    wanted = -np.sum(mixed * np.log(logit_cases.softmax(np.float64(student))), axis=-1)
    np.testing.assert_allclose(given, wanted, rtol=1e-5)
