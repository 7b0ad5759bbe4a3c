"""Losses that compare numbers: probabilities as such, coordinates of landmarks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from kdjax.losses import numerics
from kdjax.losses.divergences import Labels, Logits, Mask, PerExample

Points = Float[Array, "*batch coordinates"]
Coordinates = Bool[Array, "*#batch #coordinates"]


def probability_mse(
    student_logits: Logits,
    teacher_logits: Logits,
    labels: Labels,
    *,
    label_share: Any = 0.5,
    where: Mask | None = None,
) -> PerExample:
    """Squared error of probabilities, `a mean_c (q - y)² + (1 - a) mean_c (q - p)²`.

    The loss of the theory of iterated self-distillation, in which `a` is the share of the truth;
    most other papers count the share of the teacher.

    Args:
      student_logits: `[*batch, classes]`.
      teacher_logits: the same shape, a constant.
      labels: as for `cross_entropy`.
      label_share: `a`, from 0 to 1.
      where: classes or rows that exist, broadcast against the logits.

    Returns:
      `[*batch]`; the mean over the classes that exist.

    Raises:
      ValueError: if the shapes differ, labels are out of range or the share is not from 0 to 1.

    Example:
      >>> probability_mse(jnp.zeros((1, 2)), jnp.zeros((1, 2)), jnp.array([0]))
      Array([0.125], dtype=float32)

    References:
      Borup and Andersen, Even your Teacher Needs Guidance: Ground-Truth Targets Dampen
      Regularization Imposed by Self-Distillation, arXiv:2102.13088.
    """
    numerics.check_pair(student_logits, teacher_logits, ("student_logits", "teacher_logits"))
    numerics.check_fraction(label_share=label_share)
    truth = numerics.label_distribution(labels, student_logits)
    q, p = (
        jnp.exp(numerics.log_probabilities(x, where=where))
        for x in (student_logits, jax.lax.stop_gradient(teacher_logits))
    )
    error = label_share * jnp.square(q - truth) + (1 - label_share) * jnp.square(q - p)
    return numerics.masked_mean(error, where, axis=-1)


def assistive_landmark(
    student_points: Points,
    teacher_points: Sequence[Points],
    labels: Points,
    *,
    attraction: tuple[Any, Any] = (1.9, 1.8),
    repulsion: tuple[Any, Any] = (-0.45, -0.4),
    main_weight: Any = 2.0,
    tough_weight: Any = 1.0,
    tolerant_weight: Any = 1.0,
    where: Coordinates | None = None,
) -> PerExample:
    """Landmarks with a tough and a tolerant teacher, who pull and push towards the truth.

        main_weight · main + tough_weight · assist_tough + tolerant_weight · assist_tolerant

    See `landmark_error` and `landmark_assistance`.

    Args:
      student_points: predicted coordinates `[*batch, coordinates]`.
      teacher_points: of the tough teacher, who learnt the truth, and of the tolerant one, who
        learnt smoothed landmarks; the same shape each.
      labels: the true coordinates, the same shape.
      attraction: of the tough and of the tolerant teacher.
      repulsion: of both, below 0.
      main_weight: of the error about the truth.
      tough_weight: of the tough teacher's assistance.
      tolerant_weight: of the tolerant teacher's.
      where: coordinates or rows that exist, broadcast against the points.

    Returns:
      `[*batch]`; it may be below 0.

    Raises:
      ValueError: if the shapes differ, or there are not two teachers.

    Example:
      >>> truth = jnp.zeros((1, 2))
      >>> assistive_landmark(truth + 0.5, (truth + 0.2, truth + 0.4), truth)
      Array([3.33], dtype=float32)

    References:
      Fard and Mahoor, Facial Landmark Points Detection Using Knowledge Distillation-Based Neural
      Networks, arXiv:2111.07047.
    """
    if len(teacher_points) != 2:
        raise ValueError(f"teacher_points has {len(teacher_points)} teachers, wanted two")
    weights = (tough_weight, tolerant_weight)
    total = main_weight * landmark_error(student_points, teacher_points[1], labels, where=where)
    for teacher, pull, push, weight in zip(
        teacher_points, attraction, repulsion, weights, strict=True
    ):
        options = {"attraction": pull, "repulsion": push, "where": where}
        total += weight * landmark_assistance(student_points, teacher, labels, **options)
    return total


def landmark_error(
    student_points: Points,
    teacher_points: Points,
    labels: Points,
    *,
    where: Coordinates | None = None,
) -> PerExample:
    """An error that is linear within the tolerant teacher's distance `d`, and quadratic beyond.

        3 e  where e ≤ d,    e² + 3 d - d²  elsewhere;    e = |y - s|, d = |y - t|

    Args:
      student_points: `s`, `[*batch, coordinates]`.
      teacher_points: `t`, the tolerant teacher's, the same shape, a constant.
      labels: `y`, the same shape.
      where: coordinates or rows that exist.

    Returns:
      `[*batch]`, the mean over the coordinates.

    Raises:
      ValueError: if the shapes differ.

    Example:
      >>> landmark_error(jnp.array([[0.5]]), jnp.array([[1.0]]), jnp.array([[0.0]]))
      Array([1.5], dtype=float32)

    References:
      Fard and Mahoor, arXiv:2111.07047.
    """
    student, teacher, truth = _points(student_points, teacher_points, labels)
    error, slack = jnp.abs(truth - student), jnp.abs(truth - teacher)
    beyond = jnp.square(error) + 3 * slack - jnp.square(slack)
    return numerics.masked_mean(jnp.where(error <= slack, 3 * error, beyond), where, axis=-1)


def landmark_assistance(
    student_points: Points,
    teacher_points: Points,
    labels: Points,
    *,
    attraction: Any = 1.9,
    repulsion: Any = -0.45,
    edge: Any = 0.15,
    where: Coordinates | None = None,
) -> PerExample:
    """A teacher who pulls a student that is farther from the truth, and pushes one that is nearer.

        mean (w |r - s|),    r = y + sign(s - y) |t - y|

    with `r` the teacher on the student's side of the truth, and `w` the attraction where the
    student is beyond it, the repulsion where it is between `r` and the edge `y + edge (r - y)`, and
    0 nearer than that.

    Args:
      student_points: `s`, `[*batch, coordinates]`.
      teacher_points: `t`, the same shape, a constant.
      labels: `y`, the same shape.
      attraction: above 0.
      repulsion: below 0: the loss rewards going on towards the truth.
      edge: share of the teacher's distance within which nothing pushes.
      where: coordinates or rows that exist.

    Returns:
      `[*batch]`, the mean over the coordinates.

    Raises:
      ValueError: if the shapes differ.

    Example:
      >>> truth, teacher = jnp.array([[0.0]]), jnp.array([[1.0]])
      >>> landmark_assistance(truth + 2.0, teacher, truth, attraction=2.0)
      Array([2.], dtype=float32)
      >>> landmark_assistance(truth + 0.5, teacher, truth, repulsion=-0.4)
      Array([-0.2], dtype=float32)

    References:
      Fard and Mahoor, arXiv:2111.07047.
    """
    student, teacher, truth = _points(student_points, teacher_points, labels)
    side, distance = jnp.sign(student - truth), jnp.abs(teacher - truth)
    reflected, inner = truth + side * distance, truth + edge * side * distance
    is_beyond = jnp.sign(student - reflected) * jnp.sign(reflected - truth) > 0
    is_between = jnp.sign(reflected - student) * jnp.sign(student - inner) >= 0
    weight = attraction * is_beyond + repulsion * is_between
    return numerics.masked_mean(weight * jnp.abs(reflected - student), where, axis=-1)


def smooth_points(
    points: Float[Array, "examples coordinates"], *, components: int
) -> Float[Array, "examples coordinates"]:
    """Landmarks as a shape model of few components sees them: what a tolerant teacher learns.

        m + (y - m) Vᵀ V,    V the first principal directions of all `y`, m their mean

    Args:
      points: `y`, the true landmarks of all training examples, `[examples, coordinates]`.
      components: number of directions that are kept, from 1 to the coordinates.

    Returns:
      Smoothed landmarks of the same shape.

    Raises:
      ValueError: if the shape is another one or the number of components is out of range.

    Example:
      >>> points = jnp.array([[0.0, 0.0], [2.0, 2.0], [4.0, 4.0], [3.0, 1.0]])
      >>> smooth_points(points, components=1)[0]
      Array([ 0.25, -0.25], dtype=float32)

    References:
      Fard and Mahoor, arXiv:2111.07047.
    """
    points = numerics.as_float(points)
    if points.ndim != 2 or not 1 <= components <= points.shape[1]:
        raise ValueError(
            f"components is {components} for points of shape {points.shape}; wanted [examples, "
            "coordinates] and 1 to the coordinates"
        )
    mean = jnp.mean(points, axis=0)
    _, _, directions = jnp.linalg.svd(points - mean, full_matrices=False)
    kept = directions[:components]
    exact = jax.lax.Precision.HIGHEST
    scores = jnp.matmul(points - mean, kept.T, precision=exact)
    return mean + jnp.matmul(scores, kept, precision=exact)


def _points(student: Points, teacher: Points, labels: Points) -> tuple[Array, Array, Array]:
    numerics.check_pair(student, teacher, ("student_points", "teacher_points"))
    numerics.check_pair(student, labels, ("student_points", "labels"))
    student, teacher, labels = (numerics.as_float(x) for x in (student, teacher, labels))
    return student, jax.lax.stop_gradient(teacher), labels
