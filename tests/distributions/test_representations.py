"""Sparse, sampled and host-side pieces: no NaN anywhere, no bias where none is promised."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import plain
import pytest

from kdjax import distributions as D
from kdjax.distributions import tails
from kdjax.losses import divergences

pytestmark = pytest.mark.every(2)

CONFIDENT = jnp.array([[1e4, 0.0, -1e4, 3.0, -jnp.inf], [0.0, 0.0, 0.0, 0.0, 1e4]])
ROUNDED_UP = D.Sparse(jnp.array([[0, 3], [4, 1]]), jnp.array([[0.0, -30.0], [1e-7, -jnp.inf]]))
FEWER = D.Sparse(jnp.array([[0, -1], [-1, -1]]), jnp.array([[-0.1, 0.0], [0.0, 0.0]]))
WHOLE = D.Sparse(jnp.tile(jnp.arange(5), (2, 1)), jax.nn.log_softmax(jnp.ones((2, 5))))


@pytest.mark.parametrize("tail", tails.TAILS)
@pytest.mark.parametrize("teacher", [ROUNDED_UP, FEWER, WHOLE])
def test_nothing_makes_a_nan(tail, teacher):
    @jax.jit
    def run(logits, index):
        def losses(x):
            term = functools.partial(plain.any_term, index=index)
            return D.evaluate(term, x, teacher, tail=tail)

        return losses(logits), jax.grad(lambda x: jnp.sum(losses(x)))(logits)

    for index in range(len(plain.TERMS)):
        for answer in run(CONFIDENT, jnp.int32(index)):
            assert np.isfinite(answer).all()


def test_masked_tokens_may_hold_anything():
    hidden = jnp.array([[1.0, 2.0], [jnp.nan, jnp.inf]])
    where = jnp.array([True, False])

    def total(kernel, where):
        losses = D.evaluate(
            divergences.kl_term, D.Linear(hidden, kernel), CONFIDENT, where=where, chunk_size=1
        )
        return jnp.sum(losses)

    gradient = jax.grad(total)
    assert np.isfinite(gradient(jnp.ones((2, 5)), where)).all()
    assert total(jnp.ones((2, 5)), jnp.zeros(2, bool)) == 0
    assert not np.any(gradient(jnp.ones((2, 5)), jnp.zeros(2, bool)))


@pytest.mark.parametrize("tail", ["ghost", "renormalize", "uniform", "zero", "drop"])
def test_listing_every_class_is_dense(tail):
    rng = np.random.default_rng(0)
    student, teacher = (jnp.asarray(rng.normal(size=(4, 6)), jnp.float32) for _ in range(2))
    listed = D.top_k(teacher, 6)

    @jax.jit
    def both(index):
        term = functools.partial(plain.any_term, index=index)
        given = D.evaluate(term, student, listed, tail=tail)
        return given, divergences.evaluate(term, student, teacher)

    for index in range(len(plain.TERMS)):
        np.testing.assert_allclose(*both(jnp.int32(index)), atol=2e-5)


@pytest.mark.parametrize("exponent", [1.0, 0.7])
def test_the_sampled_gradient_is_unbiased(exponent):
    """Over 20,000 draws: the mean is within 5 standard errors of the dense gradient."""
    student, teacher = jnp.array([0.5, 0.0, -1.0, 1.0]), jnp.array([2.0, 0.0, 1.0, -2.0])

    @jax.jit
    @jax.vmap
    def gradient(key):
        drawn = D.sample(key, teacher, 3, proposal_exponent=exponent)
        return [
            jax.grad(lambda x, term=term: D.evaluate(term, x, drawn))(student)
            for term in (divergences.kl_term, divergences.reverse_kl_term)
        ]

    drawn = gradient(jax.random.split(jax.random.key(0), 20_000))
    for given, loss in zip(drawn, (divergences.kl_divergence, divergences.reverse_kl), strict=True):
        error = np.std(given, axis=0) / np.sqrt(len(given))
        assert (np.abs(np.mean(given, axis=0) - jax.grad(loss)(student, teacher)) < 5 * error).all()


def test_samples_without_log_probs_give_the_gradient_of_kl():
    drawn = D.sample(jax.random.key(1), jnp.arange(4.0), 5)
    bare = D.Samples(drawn.ids, drawn.weights)
    gradient = jax.grad(lambda x, teacher: D.evaluate(divergences.kl_term, x, teacher))
    student = jnp.zeros(4)
    plain.assert_close(gradient(student, bare), gradient(student, drawn))


def test_normalised_weights_sum_to_one():
    drawn = D.sample(jax.random.key(2), jnp.arange(4.0), 5, proposal_exponent=0.5, normalize=True)
    np.testing.assert_allclose(jnp.sum(drawn.weights), 1, rtol=1e-6)


def test_a_linear_distribution_is_converted_chunk_by_chunk():
    rng = np.random.default_rng(3)
    head = D.Linear(jnp.asarray(rng.normal(size=(7, 3))), jnp.asarray(rng.normal(size=(3, 9))))
    for tool in (
        functools.partial(D.top_k, k=4),
        lambda x, **o: D.sample(jax.random.key(0), x, 4, **o),
    ):
        chunked = jax.jit(functools.partial(tool, chunk_size=2))
        plain.assert_close(chunked(head), jax.jit(tool)(D.Dense(head.materialize())))


def test_the_softcap_comes_last():
    head = D.Linear(jnp.ones((1, 2)), jnp.ones((2, 3)), jnp.ones(3), scale=0.5, softcap=2.0)
    np.testing.assert_allclose(head.materialize(), np.full((1, 3), 2 * np.tanh(0.75)), rtol=1e-6)


def test_means_divide_by_what_counts():
    losses, where = jnp.array([[1.0, 3.0], [5.0, 7.0]]), jnp.array([[True, False], [True, True]])
    assert D.token_mean(losses, where) == pytest.approx(13 / 3)
    assert D.token_mean(losses, where, denominator=10) == pytest.approx(1.3)
    assert D.sequence_mean(losses, where) == pytest.approx(3.5)
    assert D.token_mean(losses, jnp.zeros_like(where)) == 0
    assert D.sequence_mean(losses, jnp.zeros_like(where)) == 0


LOGITS = jnp.zeros((2, 5))


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((LOGITS, jnp.zeros((2, 6))), {}, ValueError, "vocabulary of 5"),
        ((LOGITS, jnp.zeros((3, 5))), {}, ValueError, "tokens"),
        ((FEWER, LOGITS), {}, TypeError, "wanted Dense or Linear"),
        ((LOGITS, "teacher"), {}, TypeError, "teacher is str"),
        ((LOGITS, LOGITS), {"temperature": 0}, ValueError, "temperature is 0"),
        ((LOGITS, FEWER), {"tail": "gost"}, ValueError, "did you mean \"ghost\""),
        ((LOGITS, LOGITS), {"labels": jnp.zeros(2)}, TypeError, "wanted integers"),
        ((LOGITS, LOGITS), {"where": jnp.ones((2, 1), bool)}, ValueError, "where has shape"),
        ((LOGITS, LOGITS), {"classes": jnp.ones(4, bool)}, ValueError, "classes has shape"),
        ((LOGITS, LOGITS), {"chunk_size": 0}, ValueError, "chunk_size is 0"),
        ((D.Linear(LOGITS, LOGITS), LOGITS), {}, ValueError, "student.hidden"),
        ((LOGITS, D.Sparse(jnp.zeros((2, 2), int), LOGITS)), {}, ValueError, "teacher.log_probs"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_named(arguments, options, error, message):
    with pytest.raises(error, match=message):
        D.evaluate(divergences.kl_term, *arguments, **options)


def test_an_unknown_option_and_a_wrong_k_are_named():
    with pytest.raises(TypeError, match="did you mean"):
        D.evaluate_weighted_sum(divergences.kl_term, LOGITS, LOGITS, jnp.ones(2), temperatur=1)
    with pytest.raises(ValueError, match="k is 6"):
        D.top_k(LOGITS, 6)
    with pytest.raises(TypeError, match="term is"):
        D.divergence("kl")
