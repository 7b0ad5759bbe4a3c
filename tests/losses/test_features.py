"""Losses on features."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.losses import features

pytestmark = pytest.mark.every(2)

RNG = np.random.default_rng(0)
STUDENT, TEACHER = RNG.normal(size=(2, 3, 6, 6, 4)).astype(np.float32)
SMALL = RNG.normal(size=(3, 4, 4, 7)).astype(np.float32)
AXES = (1, 2, 3)


def cosine(s, t):
    return np.sum(s * t, -1) / np.linalg.norm(s, axis=-1) / np.linalg.norm(t, axis=-1)


def huber(d):
    return np.where(np.abs(d) < 1, d**2 / 2, np.abs(d) - 0.5)


VALUES = {
    "mse": lambda s, t: np.mean((s - t) ** 2, AXES),
    "l1": lambda s, t: np.mean(np.abs(s - t), AXES),
    "smooth_l1": lambda s, t: np.mean(huber(s - t), AXES),
    "cosine": lambda s, t: np.mean(1 - cosine(s, t), (1, 2)),
}


def pool(x, size):
    """Adaptive pooling by its cells, one by one."""
    out = np.zeros((len(x), size, size, x.shape[-1]))
    edges = [
        (int(np.floor(i * x.shape[1] / size)), int(np.ceil((i + 1) * x.shape[1] / size)))
        for i in range(size)
    ]
    for i, (top, bottom) in enumerate(edges):
        for j, (left, right) in enumerate(edges):
            out[:, i, j] = x[:, top:bottom, left:right].mean((1, 2))
    return out


def attention(x, power):
    maps = (x**power).sum(-1).reshape(len(x), -1)
    return maps / np.linalg.norm(maps, axis=-1, keepdims=True)


@pytest.mark.parametrize("distance", VALUES)
def test_regression_value(distance):
    given = features.embedding_regression(STUDENT, TEACHER, distance=distance)
    np.testing.assert_allclose(given, VALUES[distance](STUDENT, TEACHER), rtol=1e-5)
    unit = [x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (STUDENT, TEACHER)]
    given = features.embedding_regression(STUDENT, TEACHER, distance=distance, normalize=True)
    np.testing.assert_allclose(given, VALUES[distance](*unit), rtol=1e-5)


def test_regression_takes_any_elementwise_distance():
    given = features.embedding_regression(STUDENT, TEACHER, distance=lambda d: d**4)
    np.testing.assert_allclose(given, np.mean((STUDENT - TEACHER) ** 4, AXES), rtol=1e-5)
    given = features.smooth_l1(jnp.array([0.5, 1e30, -3.0]), beta=2.0)
    np.testing.assert_allclose(given, [0.0625, 1e30, 2.0])


@pytest.mark.parametrize("distance", VALUES)
def test_regression_mask(distance):
    where = RNG.random((3, 6, 6, 1)) < 0.5
    where[1] = False
    spoilt = np.where(where, STUDENT, 1e4)
    given = features.embedding_regression(spoilt, TEACHER, distance=distance, where=where)
    kept = where[0, ..., 0]
    s, t = STUDENT[:1][:, kept][:, None], TEACHER[:1][:, kept][:, None]
    np.testing.assert_allclose(given[0], VALUES[distance](s, t)[0], rtol=1e-5)
    assert given[1] == 0


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 6])
def test_adaptive_average_pool(size):
    given = features.adaptive_average_pool(STUDENT, size)
    np.testing.assert_allclose(given, pool(STUDENT, size), rtol=1e-5, atol=1e-6)


def test_adaptive_average_pool_of_a_rectangle():
    given = features.adaptive_average_pool(STUDENT, (4, 6))
    rows = np.broadcast_to(STUDENT.mean(2, keepdims=True), STUDENT.shape)
    np.testing.assert_allclose(given.mean(2), pool(rows, 4)[:, :, 0], rtol=1e-5, atol=1e-6)
    assert given.shape == (3, 4, 6, 4)


@pytest.mark.parametrize("power", [2, 4])
@pytest.mark.parametrize(("student", "teacher"), [(STUDENT, SMALL), (SMALL, STUDENT)])
def test_attention_transfer_value(power, student, teacher):
    maps = [attention(x if x is SMALL else pool(x, 4), power) for x in (student, teacher)]
    difference = maps[0] - maps[1]
    given = features.attention_transfer(student, teacher, power=power)
    np.testing.assert_allclose(given, np.mean(difference**2, -1), rtol=1e-5)
    given = features.attention_transfer(student, teacher, power=power, mode="paper")
    np.testing.assert_allclose(given, np.linalg.norm(difference, axis=-1), rtol=1e-5)


def test_odd_powers():
    x = SMALL.astype(np.float64)
    code, paper = (features.attention_map(SMALL, power=3, mode=mode) for mode in ("code", "paper"))
    np.testing.assert_allclose(code, attention(x, 3), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(paper, attention(np.abs(x), 3), rtol=1e-4, atol=1e-6)


def test_stages_are_added():
    both = features.attention_transfer([STUDENT, SMALL], (SMALL, TEACHER))
    one = features.attention_transfer(STUDENT, SMALL) + features.attention_transfer(SMALL, TEACHER)
    np.testing.assert_allclose(both, one, rtol=1e-6)


LOSSES = {
    "hint": features.hint,
    "cosine": lambda s, t: features.embedding_regression(s, t, distance="cosine"),
    "smooth_l1": lambda s, t: features.embedding_regression(s, t, distance="smooth_l1"),
    "attention_transfer": features.attention_transfer,
    "attention_paper": lambda s, t: features.attention_transfer(s, t, mode="paper"),
}
each = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)


@each
def test_equality_and_zeros_have_finite_gradients(loss):
    gradient = jax.jit(jax.grad(lambda s, t: jnp.sum(loss(s, t))))
    zeros = np.zeros_like(STUDENT)
    pairs = {"equal": (STUDENT, STUDENT), "zeros": (zeros, zeros), "one": (zeros, STUDENT)}
    for name, (student, teacher) in pairs.items():
        slope = gradient(student, teacher)
        assert np.all(np.isfinite(slope)), name
        if name == "equal":
            np.testing.assert_allclose(loss(student, teacher), 0, atol=1e-6)


@each
def test_batch_type_and_constant_teacher(loss):
    given = loss(STUDENT, TEACHER)
    np.testing.assert_allclose(jax.jit(loss)(STUDENT, TEACHER), given, rtol=1e-5)
    np.testing.assert_allclose(loss(STUDENT[:1], TEACHER[:1]), given[:1], rtol=1e-5)
    half = loss(jnp.bfloat16(STUDENT), jnp.bfloat16(TEACHER))
    assert half.dtype == jnp.float32
    np.testing.assert_allclose(half, given, rtol=0.05)
    slope = jax.grad(lambda t: jnp.sum(loss(STUDENT, t)))(TEACHER)
    assert np.all(slope == 0)


def test_errors():
    with pytest.raises(ValueError, match=r"student_features has shape .* projector"):
        features.hint(STUDENT, SMALL)
    with pytest.raises(ValueError, match=r"wanted \[batch, …, width\]"):
        features.hint(jnp.zeros(3), jnp.zeros(3))
    with pytest.raises(ValueError, match='distance is "mes", did you mean "mse"'):
        features.embedding_regression(STUDENT, TEACHER, distance="mes")
    with pytest.raises(ValueError, match="student has 1 stages and teacher 2"):
        features.attention_transfer(STUDENT, [TEACHER, SMALL])
    with pytest.raises(ValueError, match=r"stage 0: .* same batch"):
        features.attention_transfer(STUDENT, SMALL[:2])
    with pytest.raises(ValueError, match="teacher_features has shape"):
        features.attention_transfer(STUDENT, TEACHER[..., 0])
    with pytest.raises(ValueError, match='mode is "papre"'):
        features.attention_transfer(STUDENT, TEACHER, mode="papre")
    with pytest.raises(ValueError, match="power is 0"):
        features.attention_transfer(STUDENT, TEACHER, power=0)
    with pytest.raises(ValueError, match="x has shape"):
        features.adaptive_average_pool(STUDENT[0], 2)
