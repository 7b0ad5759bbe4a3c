"""Losses give the same values and gradients where shardings are part of the arrays' types."""

import functools
import os
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding

from kdjax import losses
from kdjax.parallel import P, make_mesh

sys.path.insert(0, str(Path(__file__).parents[1] / "losses"))
from logit_cases import CASES

pytestmark = pytest.mark.every(2)

STUDENT, TEACHER = (jax.random.normal(jax.random.key(i), (4, 8)) for i in range(2))
LABELS = jnp.array([1, 0, 7, 3])
MAP = jax.random.normal(jax.random.key(2), (4, 2, 2, 8))
CLASSES_OF_THEIR_OWN = ("mcmi",)
"""Cases with other shapes than these."""
SORTED = ("pld",)
"""Losses that rank classes: JAX does not sort an axis that is split."""

BATCHES = {
    "dist": (losses.dist, STUDENT, TEACHER),
    "similarity_preserving": (losses.similarity_preserving, STUDENT, TEACHER),
    "rkd": (losses.rkd, STUDENT, TEACHER),
    "info_nce": (losses.info_nce, STUDENT, TEACHER),
    "clip_contrastive": (losses.clip_contrastive, STUDENT, TEACHER),
    "hint": (losses.hint, STUDENT, TEACHER),
    "cosine": (
        functools.partial(losses.embedding_regression, distance="cosine"),
        STUDENT,
        TEACHER,
    ),
    "attention_transfer": (losses.attention_transfer, MAP, 2 * MAP[::-1]),
    "committee": (lambda s, t: losses.kd(s, losses.committee(t)), STUDENT, MAP[:, :, 0]),
}


def check(loss, student, *others, spec):
    """Both with arrays on one device and with arrays of explicit types."""
    mesh = make_mesh(2, 1, 4, explicit=True)

    def total(student, *others):
        return jnp.sum(loss(student, *others))

    def split(x, spec):
        return jax.device_put(x, NamedSharding(mesh, P(*spec[: x.ndim])))

    expected = jax.value_and_grad(total)(student, *others)
    with jax.set_mesh(mesh):
        given = [split(x, spec) for x in (student, *others)]
        found = jax.jit(jax.value_and_grad(total))(*given)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-4, atol=1e-6)


NAMES = [name for name in CASES if name not in CLASSES_OF_THEIR_OWN]
SPECS = [("data", "tensor"), ("data", None)]
FULL = bool(os.environ.get("KDJAX_FULL_TESTS"))
# What is split along classes too covers most of what is split along rows alone.
PAIRS = [(n, s) for i, n in enumerate(NAMES) for s in SPECS if FULL or s[1] or i % 4 == 0]


@pytest.mark.parametrize(("name", "spec"), PAIRS)
def test_logits(name, spec):
    if name.startswith(SORTED) and spec[1]:
        with pytest.raises(Exception, match="unsharded over the sorting dimension"):
            check(CASES[name].loss, STUDENT, TEACHER, LABELS, spec=spec)
    else:
        check(CASES[name].loss, STUDENT, TEACHER, LABELS, spec=spec)


@pytest.mark.parametrize("name", BATCHES)
def test_whole_batches(name):
    loss, student, teacher = BATCHES[name]
    check(loss, student, teacher, spec=("data", None, None, None))
