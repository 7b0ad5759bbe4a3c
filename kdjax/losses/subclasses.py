"""Classes split into subclasses along directions of the teacher's embedding."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kdjax.losses import embeddings, numerics
from kdjax.losses.divergences import Labels, Logits

EXACT = jax.lax.Precision.HIGHEST
Embedding = Float[Array, "*batch width"]


def subclass_targets(
    teacher_logits: Logits,
    teacher_embedding: Embedding,
    *,
    kernel: Float[Array, "width classes"],
    means: Float[Array, "classes width"],
    directions: Float[Array, "classes subclasses width"],
    subclass_temperature: Any = 1.0,
    temperature: Any = 1.0,
) -> Float[Array, "*batch subclass_logits"]:
    """LELP's target: the teacher's classes, each split by where the embedding lies in it.

        log p_c + log softmax_k(<h - m_c, v_ck> / beta)

    with `h` the embedding without what the teacher's last layer reads (`without_readout`). The
    student has a head of `classes · subclasses` logits; compare it by `soft_cross_entropy`, and
    read its classes with `merge_subclasses`.

    Args:
      teacher_logits: `[*batch, classes]`.
      teacher_embedding: the teacher's last features, `[*batch, width]`.
      kernel: of the teacher's last layer.
      means: `m`, of the embeddings `h` of each class.
      directions: `v`, of each class's subclasses.
      subclass_temperature: `beta`, above 0.
      temperature: of the teacher's logits, above 0.

    Returns:
      Log-probabilities `[*batch, classes · subclasses]`, constants; subclass `k` of class `c` is
      `c · subclasses + k`.

    Raises:
      ValueError: if the shapes do not go together or a temperature is not positive.

    Example:
      >>> h, v = jnp.array([[0.0, 1.0]]), jnp.array([[[0.0, 1.0], [0.0, -1.0]]] * 2)
      >>> fitted = {"kernel": jnp.array([[1.0, -1.0], [0.0, 0.0]]), "means": jnp.zeros((2, 2))}
      >>> target = subclass_targets(jnp.zeros((1, 2)), h, directions=v, **fitted)
      >>> jnp.exp(target).round(2)
      Array([[0.44, 0.06, 0.44, 0.06]], dtype=float32)

    References:
      Loo et al., Linear Projections of Teacher Embeddings for Few-Class Distillation,
      arXiv:2409.20449. (Its code is not public; scaling is ours.)
    """
    numerics.check_positive(subclass_temperature=subclass_temperature)
    classes, width = jnp.shape(teacher_logits)[-1], jnp.shape(teacher_embedding)[-1]
    wanted = {"kernel": (width, classes), "means": (classes, width)}
    given = {"kernel": jnp.shape(kernel), "means": jnp.shape(means)}
    for name, shape in wanted.items():
        if given[name] != shape:
            raise ValueError(f"{name} has shape {given[name]}, wanted {shape}")
    if jnp.ndim(directions) != 3 or (directions.shape[0], directions.shape[2]) != (classes, width):
        raise ValueError(
            f"directions have shape {jnp.shape(directions)}, wanted "
            f"({classes}, subclasses, {width})"
        )
    hidden = without_readout(teacher_embedding, kernel)
    offset = hidden[..., None, :] - means
    split = jnp.einsum("...cd,ckd->...ck", offset, directions, precision=EXACT)
    log_split = numerics.log_probabilities(split, temperature=subclass_temperature)
    log_p = numerics.log_probabilities(teacher_logits, temperature=temperature)
    target = jnp.maximum(log_p[..., None] + log_split, numerics.LOG_ZERO)
    return jax.lax.stop_gradient(target.reshape(*target.shape[:-2], -1))


def without_readout(embedding: Embedding, kernel: Float[Array, "width classes"]) -> Embedding:
    """The part of an embedding that a linear layer with that kernel does not read.

    Example:
      >>> without_readout(jnp.array([[3.0, 4.0]]), jnp.array([[1.0], [0.0]]))
      Array([[0., 4.]], dtype=float32)
    """
    embedding, kernel = numerics.as_float(embedding), numerics.as_float(kernel)
    read = jnp.matmul(embedding, kernel, precision=EXACT)
    return embedding - jnp.matmul(read, jnp.linalg.pinv(kernel), precision=EXACT)


def merge_subclasses(subclass_logits: Logits, subclasses: int) -> Logits:
    """Log-probabilities of the classes: each is the sum of its subclasses.

    Args:
      subclass_logits: `[*batch, classes · subclasses]`.
      subclasses: of each class.

    Returns:
      Log-probabilities `[*batch, classes]`.

    Raises:
      ValueError: if the logits are not a multiple of the subclasses.

    Example:
      >>> jnp.exp(merge_subclasses(jnp.zeros((1, 4)), 2))
      Array([[0.5, 0.5]], dtype=float32)

    References:
      Loo et al., arXiv:2409.20449.
    """
    *batch, length = jnp.shape(subclass_logits)
    if subclasses < 1 or length % subclasses:
        raise ValueError(f"subclasses is {subclasses} for {length} logits, wanted a divisor")
    log_p = numerics.log_probabilities(subclass_logits)
    return numerics.log_sum_exp(log_p.reshape(*batch, -1, subclasses))


def fit_subclasses(
    embedding: Float[Array, "examples width"],
    labels: Labels,
    kernel: Float[Array, "width classes"],
    subclasses: int,
    *,
    key: Array | None = None,
) -> dict[str, Array]:
    """Fits what `subclass_targets` needs: each class's principal directions, evenly mixed.

    Of the part of the embedding that the teacher's last layer does not read, each class has its
    mean and its `subclasses` directions of largest variance. These are turned into each other so
    that every subclass spreads alike: by a matrix whose entries all have the same size, up to signs
    drawn from the key, where the number of subclasses is a power of two, and by a random rotation
    elsewhere.

    Args:
      embedding: the teacher's last features of the training examples, `[examples, width]`.
      labels: classes `[examples]`, or probabilities `[examples, classes]`.
      kernel: of the teacher's last layer, `[width, classes]`.
      subclasses: of each class, from 1 to the width.
      key: of the rotation; a fixed one by default.

    Returns:
      `kernel`, `means` `[classes, width]` and `directions` `[classes, subclasses, width]`: keyword
      arguments of `subclass_targets`.

    Raises:
      ValueError: if the shapes do not go together or labels are out of range.

    Example:
      >>> x = jax.random.normal(jax.random.key(0), (20, 6))
      >>> fitted = fit_subclasses(x, jnp.arange(20) % 2, jnp.eye(6)[:, :2], subclasses=3)
      >>> {name: value.shape for name, value in fitted.items()}
      {'kernel': (6, 2), 'means': (2, 6), 'directions': (2, 3, 6)}

    References:
      Loo et al., arXiv:2409.20449.
    """
    if jnp.ndim(embedding) != 2 or jnp.shape(kernel)[:1] != jnp.shape(embedding)[1:]:
        raise ValueError(
            f"embedding has shape {jnp.shape(embedding)} and kernel {jnp.shape(kernel)}; wanted "
            "[examples, width] and [width, classes]"
        )
    width, classes = jnp.shape(kernel)
    if not 1 <= subclasses <= width:
        raise ValueError(f"subclasses is {subclasses}, wanted 1 to the width {width}")
    hidden = without_readout(embedding, kernel)
    label = numerics.label_distribution(labels, jnp.zeros((len(hidden), classes)))
    means = embeddings.class_centers(hidden, label, classes)

    def principal(share: Array, mean: Array) -> Array:
        offset = (hidden - mean) * share[:, None]
        scatter = jnp.matmul(offset.T, hidden - mean, precision=EXACT)
        return jnp.linalg.eigh(scatter)[1].T[::-1][:subclasses]

    directions = jax.vmap(principal)(label.T, means)
    rotation = _even_rotation(jax.random.key(0) if key is None else key, subclasses)
    directions = jnp.einsum("kj,cjd->ckd", rotation, directions, precision=EXACT)
    return {"kernel": numerics.as_float(kernel), "means": means, "directions": directions}


def _even_rotation(key: Array, size: int) -> Array:
    """An orthogonal matrix that gives each of its rows an equal share of every direction."""
    if size & (size - 1):
        return jax.random.orthogonal(key, size)
    matrix = jnp.asarray(jax.scipy.linalg.hadamard(size), jnp.float32) / size**0.5
    return matrix * jax.random.rademacher(key, (size,), dtype=matrix.dtype)
