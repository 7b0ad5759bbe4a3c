"""Losses on relations within a batch."""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.losses import relations

pytestmark = pytest.mark.every(2)

RNG = np.random.default_rng(0)
STUDENT = RNG.normal(size=(5, 2, 3)).astype(np.float32)
TEACHER = RNG.normal(size=(5, 4)).astype(np.float32)


def huber(d):
    return d**2 / 2 if abs(d) < 1 else abs(d) - 0.5


def rows(x):
    return np.float64(x).reshape(len(x), -1)


def similarity_preserving(s, t):
    def gram(x):
        g = rows(x) @ rows(x).T
        return g / np.linalg.norm(g, axis=1, keepdims=True)

    return np.sum((gram(s) - gram(t)) ** 2) / len(s) ** 2


def rkd_distance(s, t, squared=False):
    def distances(x):
        x = rows(x)
        d = {(i, j): np.linalg.norm(a - b) for (i, a), (j, b) in pairs(x)}
        d = {key: value**2 if squared else value for key, value in d.items()}
        mean = sum(d.values()) / max(sum(value > 0 for value in d.values()), 1)
        return {key: value / mean for key, value in d.items()}

    def pairs(x):
        return itertools.product(enumerate(x), repeat=2)

    a, b = distances(s), distances(t)
    return np.mean([huber(a[key] - b[key]) for key in a])


def rkd_angle(s, t):
    def angle(x, i, j, k):
        if i in (j, k):
            return 0.0
        a, b = x[j] - x[i], x[k] - x[i]
        return a @ b / np.linalg.norm(a) / np.linalg.norm(b)

    triples = itertools.product(range(len(s)), repeat=3)
    return np.mean([huber(angle(rows(s), *i) - angle(rows(t), *i)) for i in triples])


CASES = {
    "similarity_preserving": (relations.similarity_preserving, similarity_preserving),
    "rkd_distance": (relations.rkd_distance, rkd_distance),
    "rkd_distance_squared": (
        functools.partial(relations.rkd_distance, squared=True),
        functools.partial(rkd_distance, squared=True),
    ),
    "rkd_angle": (relations.rkd_angle, rkd_angle),
    "rkd": (relations.rkd, lambda s, t: 25 * rkd_distance(s, t) + 50 * rkd_angle(s, t)),
}
each = pytest.mark.parametrize(("loss", "formula"), CASES.values(), ids=CASES)


@each
def test_value_and_gradient(loss, formula):
    given, slope = jax.jit(jax.value_and_grad(loss))(STUDENT, TEACHER)
    assert given.shape == ()
    np.testing.assert_allclose(given, formula(STUDENT, TEACHER), rtol=1e-5)
    direction = RNG.normal(size=STUDENT.shape)
    above, below = (formula(STUDENT + h * direction, TEACHER) for h in (1e-6, -1e-6))
    np.testing.assert_allclose(np.sum(slope * direction), (above - below) / 2e-6, rtol=1e-4)


@each
def test_masked_examples_are_as_if_they_were_not_there(loss, formula):
    where = np.array([True, False, True, True, False])
    value_and_gradient = jax.jit(jax.value_and_grad(loss))
    given, slope = value_and_gradient(STUDENT, TEACHER, where=where)
    np.testing.assert_allclose(given, formula(STUDENT[where], TEACHER[where]), rtol=1e-5)
    assert np.all(slope[~where] == 0)
    given, slope = value_and_gradient(STUDENT, TEACHER, where=np.zeros(5, bool))
    assert given == 0
    assert np.all(slope == 0)


@each
def test_equality_and_degenerate_batches_have_finite_gradients(loss, formula):
    gradient = jax.jit(jax.grad(loss))
    zeros, twins = np.zeros_like(STUDENT), np.repeat(STUDENT[:1], 5, axis=0)
    for student in (STUDENT, zeros, twins):
        for teacher in (student, STUDENT, zeros):
            assert np.all(np.isfinite(gradient(student, teacher)))
    np.testing.assert_allclose(loss(STUDENT, STUDENT), 0, atol=1e-6)
    assert np.all(np.isfinite(gradient(STUDENT[:1], TEACHER[:1])))


@each
def test_type_jit_and_constant_teacher(loss, formula):
    given = loss(STUDENT, TEACHER)
    np.testing.assert_allclose(jax.jit(loss)(STUDENT, TEACHER), given, rtol=1e-5)
    assert loss(jnp.bfloat16(STUDENT), jnp.bfloat16(TEACHER)).dtype == jnp.float32
    assert np.all(jax.grad(loss, argnums=1)(STUDENT, TEACHER) == 0)
    assert loss.func.batch_coupled if isinstance(loss, functools.partial) else loss.batch_coupled


@each
def test_order_of_examples_does_not_matter(loss, formula):
    order = np.array([3, 0, 4, 2, 1])
    given = loss(STUDENT[order], TEACHER[order])
    np.testing.assert_allclose(given, loss(STUDENT, TEACHER), rtol=1e-5)


def test_stages_are_added():
    both = relations.similarity_preserving([STUDENT, TEACHER], [TEACHER, 3 * TEACHER])
    one = relations.similarity_preserving(STUDENT, TEACHER)
    np.testing.assert_allclose(both, one, rtol=1e-5)


def test_errors():
    with pytest.raises(ValueError, match=r"where has shape \(4,\), wanted \(5,\)"):
        relations.rkd(STUDENT, TEACHER, where=np.ones(4, bool))
    with pytest.raises(ValueError, match="same batch"):
        relations.rkd(STUDENT, TEACHER[:3])
    with pytest.raises(ValueError, match="student has 2 stages and teacher 1"):
        relations.similarity_preserving([STUDENT, STUDENT], [TEACHER])
