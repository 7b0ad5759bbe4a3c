"""Divergences from a teacher that lists only a few classes."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from kdjax.distributions import rows
from kdjax.distributions.representations import Samples, Sparse
from kdjax.distributions.rows import LOG_ZERO, Block, Row
from kdjax.distributions.sharding import Shard
from kdjax.losses import numerics
from kdjax.losses.divergences import Term

TAILS = ("ghost", "renormalize", "zero", "uniform", "drop")
_FILLED = ("zero", "uniform")


def sparse(
    term: Term,
    teacher: Sparse,
    log_q: Block,
    *,
    tail: str,
    log_zero: float,
    temperature: Any,
    exists: Bool[Array, " vocabulary"] | None,
    shard: Shard,
) -> tuple[Row, Block]:
    """Loss and derivative by `log_q`, for each reading of the unlisted but `'renormalize'`."""
    listed = teacher.ids >= 0
    everything = jnp.ones(log_q.shape, bool)
    others = rows.put(False, teacher.ids, everything, shard, add=False)
    if exists is not None:
        others &= exists
    count = shard.sum(jnp.sum(others, axis=-1))
    if tail not in _FILLED:
        log_p, log_rest = tempered(teacher, tail, temperature, 1)
        bucket = log_rest if tail == "ghost" else None
        return on_support(term, log_p, bucket, teacher.ids, listed, log_q, others, shard)
    log_p, log_rest = tempered(teacher, tail, temperature, jnp.maximum(count, 1))
    each = log_rest - jnp.log(jnp.maximum(count, 1)) if tail == "uniform" else log_zero
    filled = jnp.where(others, jnp.reshape(each, (-1, 1)), LOG_ZERO).astype(log_q.dtype)
    return rows.dense(term, rows.put(log_p, teacher.ids, filled, shard, add=False), log_q, shard)


def tempered(
    teacher: Sparse, tail: str, temperature: Any, classes: Any
) -> tuple[Float[Array, "tokens k"], Row]:
    """Listed log-probabilities and log tail at a temperature, the tail being `classes` equal ones.

    Only the renormalised forms are exact at another temperature than the stored one: how a tail
    changes depends on its shape, which is not known.
    """
    listed = teacher.ids >= 0
    log_p = rows.over(numerics.as_float(teacher.log_probs), temperature)
    if tail in ("renormalize", "zero"):
        log_p = numerics.log_probabilities(log_p, where=listed)
        return log_p, jnp.full(log_p.shape[:-1], LOG_ZERO, log_p.dtype)
    log_p = jnp.where(listed, jnp.maximum(log_p, LOG_ZERO), LOG_ZERO)
    if isinstance(temperature, (int, float)) and temperature == 1:
        return log_p, teacher.tail
    log_classes = jnp.log(classes)
    log_rest = rows.over(teacher.tail - log_classes, temperature) + log_classes
    together = jnp.concatenate([log_p, log_rest[:, None]], axis=-1)
    total = numerics.log_sum_exp(together)
    log_p = jnp.where(listed, log_p - total[:, None], LOG_ZERO)
    return log_p, jnp.maximum(log_rest - total, LOG_ZERO)


def on_support(
    term: Term,
    log_p: Float[Array, "tokens k"],
    log_rest: Row | None,
    ids: Array,
    listed: Array,
    log_q: Block,
    others: Array,
    shard: Shard,
) -> tuple[Row, Block]:
    """Loss on the listed classes, with a bucket for the rest if the teacher's is given.

    The student's share of the bucket is summed up over the other classes, not one minus the listed
    share, so that it is exact however small it is.
    """

    def loss(log_q_listed: Array, log_q_rest: Any) -> Row:
        values = jnp.sum(jnp.where(listed, term(log_p, log_q_listed), 0), axis=-1)
        return values if log_q_rest is None else values + term(log_rest, log_q_rest)

    alive = others & (log_q > LOG_ZERO)
    log_q_rest = None if log_rest is None else rows.log_sum_exp(log_q, alive, shard)
    values, pull = jax.vjp(loss, rows.take(log_q, ids, shard), log_q_rest)
    by_listed, by_rest = pull(jnp.ones_like(values))
    if by_rest is None:
        derivative = jnp.zeros_like(log_q)
    else:
        share = jnp.exp(jnp.where(alive, log_q - log_q_rest[:, None], LOG_ZERO))
        derivative = share * by_rest[:, None]
    return values, rows.put(jnp.where(listed, by_listed, 0), ids, derivative, shard, add=True)


def renormalized(
    term: Term,
    teacher: Sparse,
    logits: Block,
    *,
    temperature: Any,
    teacher_temperature: Any,
    exists: Bool[Array, " vocabulary"] | None,
    shard: Shard,
) -> tuple[Row, Block]:
    """Loss and gradient by the logits where both sides are renormalised over the listed classes.

    Nothing but the listed columns is looked at: the normaliser of the others cancels.
    """
    listed = teacher.ids >= 0
    log_p, _ = tempered(teacher, "renormalize", teacher_temperature, 1)
    if exists is not None:
        logits = jnp.where(exists, logits, -jnp.inf)

    def loss(columns: Array) -> Row:
        log_q = numerics.log_probabilities(rows.over(columns, temperature), where=listed)
        return jnp.sum(jnp.where(listed, term(log_p, log_q), 0), axis=-1)

    values, pull = jax.vjp(loss, rows.take(logits, teacher.ids, shard))
    (gradient,) = pull(jnp.ones_like(values))
    gradient = jnp.where(listed, gradient, 0)
    return values, rows.put(gradient, teacher.ids, jnp.zeros_like(logits), shard, add=True)


def sampled(term: Term, teacher: Samples, log_q: Block, shard: Shard) -> tuple[Row, Block]:
    """The estimate `sum_k w_k / p_k · term(log p_k, log q_k)` and its derivative by `log_q`."""
    weights = numerics.as_float(teacher.weights)
    drawn = (teacher.ids >= 0) & (weights > 0)
    log_weights = jnp.log(jnp.where(drawn, weights, 1))
    log_p = log_weights if teacher.log_probs is None else numerics.as_float(teacher.log_probs)
    log_p = jnp.where(drawn, log_p, LOG_ZERO)
    factor = jnp.where(drawn, jnp.exp(log_weights - jnp.where(drawn, log_p, 0)), 0)
    log_q_drawn = rows.take(log_q, teacher.ids, shard)
    one = jnp.ones_like(log_q_drawn)
    values, slope = jax.jvp(lambda x: term(log_p, x), (log_q_drawn,), (one,))
    loss = jnp.sum(jnp.where(drawn, factor * values, 0), axis=-1)
    slope = jnp.where(drawn, factor * slope, 0)
    return loss, rows.put(slope, teacher.ids, jnp.zeros_like(log_q), shard, add=True)
