"""Losses and gradients on logits are finite whatever the logits, the mask and the type."""

from __future__ import annotations

import functools

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from logit_cases import BATCH_CASES, CASES

pytestmark = pytest.mark.every(2)

SHAPE = (3, 4)
ALL_CASES = {
    name: case
    for name, case in {**CASES, **BATCH_CASES}.items()
    if not name.endswith(("_options", "_0", "_1", "_without_t2"))
}
LOGITS = hnp.arrays(np.float32, SHAPE, elements=st.floats(-1e4, 1e4, width=16))
MASKS = hnp.arrays(bool, SHAPE)
LABELS = hnp.arrays(np.int32, SHAPE[:1], elements=st.integers(0, SHAPE[1] - 1))
HALF = ("kl_divergence", "reverse_kl", "chi_squared", "cross_entropy", "kd", "dkd", "nkd", "dist")
"""Losses tried in half precision too; the others share their code."""


@functools.cache
def compiled(name: str, dtype):
    def total(student, teacher, labels, where):
        student, teacher = student.astype(dtype), teacher.astype(dtype)
        loss = ALL_CASES[name].loss(student, teacher, labels, where=where)
        return jnp.sum(loss), loss

    def value_and_gradient(student, teacher, labels, where):
        student = student.astype(dtype)
        slope, loss = jax.grad(total, has_aux=True)(student, teacher, labels, where)
        return loss, slope

    return jax.jit(value_and_gradient)


@pytest.mark.parametrize("name", ALL_CASES)
@hypothesis.settings(max_examples=20, deadline=None, derandomize=True, database=None)
@hypothesis.given(LOGITS, LOGITS, MASKS, MASKS, MASKS, LABELS)
def test_finite(name, student, teacher, no_student, no_teacher, where, labels):
    student = np.where(no_student, -np.inf, student)
    teacher = np.where(no_teacher, -np.inf, teacher)
    for dtype in (jnp.float32, jnp.bfloat16, jnp.float16)[: 3 if name in HALF else 1]:
        loss, slope = compiled(name, dtype)(student, teacher, labels, where)
        assert np.all(np.isfinite(loss)), dtype
        assert np.all(np.isfinite(np.float32(slope))), dtype
        if name in CASES:
            assert np.all(loss[~where.any(axis=1)] == 0), dtype
            assert np.all(np.float32(slope)[~where] == 0), dtype


@pytest.mark.parametrize("name", ALL_CASES)
def test_no_logit_is_finite(name):
    nothing, labels = np.full(SHAPE, -np.inf, np.float32), np.zeros(SHAPE[0], np.int32)
    loss, slope = compiled(name, jnp.float32)(nothing, nothing, labels, np.ones(SHAPE, bool))
    assert np.all(np.isfinite(loss))
    assert np.all(slope == 0)


@pytest.mark.parametrize("name", ALL_CASES)
def test_one_hot_teacher_is_finite(name):
    labels = np.array([0, 1, 3], np.int32)
    student = np.linspace(-1e4, 1e4, 12, dtype=np.float32).reshape(SHAPE)
    teacher = np.where(np.eye(SHAPE[1])[labels] > 0, np.float32(0), -np.inf)
    loss, slope = compiled(name, jnp.float32)(student, teacher, labels, np.ones(SHAPE, bool))
    assert np.all(np.isfinite(loss))
    assert np.all(np.isfinite(slope))
