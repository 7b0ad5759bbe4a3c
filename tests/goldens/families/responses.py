"""Goldens of losses on what networks answer: rankings, transport, heads, targets, weights."""

from __future__ import annotations

import jax.numpy as jnp

from families.common import Arrays, by_student, differentiate, pair
from kdjax.losses import binary, ranking, transport


def pld(arrays: Arrays, hyper: dict):
    student, teacher = pair(arrays)
    values = ranking.pld(student, teacher, arrays["labels"], temperature=hyper["temperature"])
    return jnp.mean(values), {"order_best_first": ranking.label_first(teacher, arrays["labels"])}


def sinkhorn_kd(arrays: Arrays, hyper: dict):
    options = {"eps": hyper["epsilon"], "iterations": hyper["n_iters"]}
    temperature = hyper["temperature"]
    loss = transport.sinkhorn_kd(*pair(arrays), temperature=temperature, reduction="sum", **options)
    return hyper["weight"] * loss


def by_auxiliary_head(loss):
    """An adapter of a loss on a second head, averaged over the batch."""

    def adapter(inputs: Arrays, hyper: dict):
        def total(arrays: Arrays):
            heads = arrays["aux_logits"], arrays["teacher_logits"]
            return jnp.mean(loss(*heads, temperature=hyper["temperature"]))

        return differentiate(total, inputs, ["aux_logits"])

    return adapter


ADAPTERS = {
    "binary_kl": by_auxiliary_head(binary.binary_kl),
    "binary_kl_norm": by_auxiliary_head(binary.binary_kl_norm),
    "pld": by_student(pld),
    "sinkhorn_kd": by_student(sinkhorn_kd),
}
