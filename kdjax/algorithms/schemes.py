"""The named training schemes, as players and teachers of the one engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optax

from kdjax.algorithms import engine
from kdjax.algorithms.bilevel import bilevel
from kdjax.algorithms.players import Player, Teacher
from kdjax.base import Algorithm, Model, Objective
from kdjax.losses import binary, logits
from kdjax.models import ensemble
from kdjax.objectives import augmentor as augmentors
from kdjax.objectives import compose, learned_weights, teachers
from kdjax.objectives.lift import lift


def distill(
    student: Model,
    teacher: Model | None,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    **options: Any,
) -> Algorithm:
    """Offline distillation: one player, one frozen teacher (none if the batch holds its signals).

    `options` are those of `kdjax.algorithms.algorithm`. The teacher's variables go to `init` and
    `step` as `frozen={'teacher': …}`.
    """
    frozen = {} if teacher is None else {"teacher": Teacher(teacher)}
    return engine.algorithm({"student": Player(student, objective, optimizer)}, frozen, **options)


def mutual_learning(
    students: Mapping[str, Model],
    optimizer: optax.GradientTransformation,
    *,
    temperature: Any = 1.0,
    weight: compose.Weight = 1.0,
    loss: Callable[..., Any] | Mapping[str, Callable[..., Any]] = logits.kd,
    **options: Any,
) -> Algorithm:
    """Deep mutual learning: each of K peers learns from the labels and from all the others.

        L_k = CE(s_k, y) + weight / (K-1) · sum_{j≠k} T² KL(p_j ‖ p_k)

    The others' predictions are constants; all peers move at once.

    Args:
      students: two or more models by name.
      optimizer: each peer gets a state of its own.
      temperature: `T`.
      weight: of the mutual term, a number or a schedule.
      loss: what compares a peer with another one; one for all, or by the name of the peer that
        learns, as in BD-KD, whose smaller peer has balanced and whose larger one reverse
        divergences.
      **options: of `kdjax.algorithms.algorithm`.

    Returns:
      An algorithm without frozen teachers.

    Raises:
      ValueError: for fewer than two peers, or a peer without a loss.

    References:
      Zhang et al., Deep Mutual Learning, arXiv:1706.00384.
    """
    if len(students) < 2:
        raise ValueError(f"students are {sorted(students)}, wanted at least two")
    by_name = loss if isinstance(loss, Mapping) else dict.fromkeys(students, loss)
    if set(by_name) != set(students):
        raise ValueError(f"loss has {sorted(by_name)}, wanted one for each of {sorted(students)}")

    def objective(name: str) -> Objective:
        others = [other for other in students if other != name]
        parts = {
            f"from_{other}": lift(by_name[name], teacher=f"{other}:logits", temperature=temperature)
            for other in others
        }
        share = 1 / len(others)
        each = (lambda step: weight(step) * share) if callable(weight) else weight * share
        return compose.weighted_sum(
            {"labels": lift(logits.cross_entropy), **parts}, dict.fromkeys(parts, each)
        )

    players = {name: Player(model, objective(name), optimizer) for name, model in students.items()}
    return engine.algorithm(players, **options)


def average_self_distillation(
    student: Model,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    *,
    decay: float | Callable[[Any], Any] = 0.999,
    **options: Any,
) -> Algorithm:
    """The teacher is the exponential moving average of the student.

        t ← decay · t + (1 - decay) · s        after each step

    Args:
      student: the model.
      objective: reads the average's signals under the role `teacher`.
      optimizer: the student's.
      decay: a number or a schedule of the step.
      **options: of `kdjax.algorithms.algorithm`.

    Returns:
      An algorithm; the average is `state.averages['teacher']`.

    References:
      Tarvainen and Valpola, Mean Teacher, arXiv:1703.01780.
    """
    return engine.algorithm(
        {"student": Player(student, objective, optimizer)},
        {"teacher": Teacher(student, average_of="student", decay=decay)},
        **options,
    )


def meal_v2(
    student: Model,
    committee: Sequence[Model] | Mapping[str, Model],
    optimizer: optax.GradientTransformation,
    *,
    num_classes: int,
    reduction: int = 8,
    adversarial: bool = False,
    temperature: Any = 1.0,
    discriminator_optimizer: optax.GradientTransformation | None = None,
    **options: Any,
) -> Algorithm:
    """MEAL V2: the mean prediction of several teachers, and a discriminator on the logits.

    Without labels. As released, student and discriminator both minimise the discriminator's loss;
    `adversarial=True` turns the student against it.

    Args:
      student: the model.
      committee: the frozen teachers; their variables go to `frozen={'teacher': …}`, see
        `models.ensemble`.
      optimizer: the student's.
      num_classes: width of the logits.
      reduction: of the discriminator's layers.
      adversarial: whether the student fools the discriminator, instead of helping it.
      temperature: of the soft target.
      discriminator_optimizer: the student's kind by default.
      **options: of `kdjax.algorithms.algorithm`.

    Returns:
      An algorithm with the players `student` and `discriminator`.

    References:
      Shen and Savvides, MEAL V2, arXiv:2009.08453.
    """
    objective = compose.weighted_sum(
        {
            "ensemble_kd": teachers.ensemble_kd(temperature=temperature),
            "told_apart": teachers.told_apart(weight=-1.0 if adversarial else 1.0),
        }
    )
    discriminator = Player(
        teachers.output_discriminator(num_classes, reduction=reduction),
        teachers.told_apart(student="student:logits"),
        optimizer if discriminator_optimizer is None else discriminator_optimizer,
        forward=False,
    )
    return engine.algorithm(
        {"student": Player(student, objective, optimizer), "discriminator": discriminator},
        {"teacher": Teacher(ensemble(committee))},
        **options,
    )


def tgeo_kd(
    student: Model,
    teacher: Model,
    optimizer: optax.GradientTransformation,
    weigher_optimizer: optax.GradientTransformation,
    *,
    num_classes: int,
    temperature: Any = 1.5,
    every: int = 1,
    **options: Any,
) -> Algorithm:
    """TGeo-KD: a network weighs teacher against label for each example, judged on held-out data.

    Each batch holds a `validation` batch. See `bilevel` and
    `kdjax.objectives.geometry_weighted_kd`.

    Args:
      student: the model.
      teacher: the frozen teacher; its variables go to `frozen={'teacher': …}`.
      optimizer: the student's.
      weigher_optimizer: the weighing network's.
      num_classes: width of the logits.
      temperature: of the divergence.
      every: the weigher moves at each `every`-th step.
      **options: of `bilevel`.

    Returns:
      An algorithm with the players `student` and `weigher`.

    References:
      Hu et al., TGeo-KD, arXiv:2312.15112.
    """
    lower = Player(
        student, learned_weights.geometry_weighted_kd(temperature=temperature), optimizer
    )
    upper = Player(
        learned_weights.share_network(num_classes),
        lift(logits.cross_entropy, student="student:logits"),
        weigher_optimizer,
        every=every,
    )
    return bilevel({"student": lower}, {"weigher": upper}, {"teacher": Teacher(teacher)}, **options)


def dual_head_kd(
    student: Model,
    teacher: Model | None,
    optimizer: optax.GradientTransformation,
    *,
    loss: Callable[..., Any] = binary.binary_kl_norm,
    temperature: Any = 2.0,
    label_weight: compose.Weight = 1.0,
    kd_weight: compose.Weight = 1.0,
    align: bool = True,
    label_head: str = "logits",
    kd_head: str = "kd_logits",
    **options: Any,
) -> Algorithm:
    """DHKD: labels and teacher have a head each, and the teacher never works against the labels.

        g = ∇ label_weight · CE(a, y),    h = ∇ kd_weight · loss(b, t)
        update along `gradient_align(g, h)`

    Where the two gradients contradict each other, over all parameters together, the teacher's is
    projected. The first head alone answers at inference.

    Args:
      student: a model with two heads, see `kdjax.models.with_heads`.
      teacher: the frozen teacher; its variables go to `frozen={'teacher': …}`. `None` if the batch
        holds its signals.
      optimizer: the student's.
      loss: compares the second head with the teacher.
      temperature: of that loss.
      label_weight: of the first head's cross-entropy.
      kd_weight: of the second head's loss; 0.1 in the paper for ImageNet.
      align: `False` adds the gradients as they are.
      label_head: the student's signal `a`.
      kd_head: the student's signal `b`.
      **options: of `kdjax.algorithms.algorithm`.

    Returns:
      An algorithm with the player `student`.

    References:
      Yang et al., Dual-Head Knowledge Distillation, arXiv:2411.08937.
    """
    objective = compose.weighted_sum(
        {
            "labels": lift(logits.cross_entropy, student=label_head),
            "kd": lift(loss, student=kd_head, temperature=temperature),
        },
        {"labels": label_weight, "kd": kd_weight},
    )
    player = Player(student, objective, optimizer, anchor="labels" if align else None)
    frozen = {} if teacher is None else {"teacher": Teacher(teacher)}
    return engine.algorithm({"student": player}, frozen, **options)


def hard(
    student: Model,
    teacher: Model,
    optimizer: optax.GradientTransformation,
    augmentor_optimizer: optax.GradientTransformation,
    *,
    augmentor: Model | None = None,
    temperature: Any = 4.0,
    clean_weight: float = 1.0,
    stability_weight: float = 1.0,
    ceiling: float = 2.0,
    every: int = 1,
    **options: Any,
) -> Algorithm:
    """HARD: an augmentor looks for images on which the student is not yet like the teacher.

    In each step the augmentor moves to where the two disagree, as long as the teacher's own answer
    stays; then the student learns from the teacher on these images and on the plain ones. No label
    is read.

    Args:
      student: the model.
      teacher: the frozen teacher; its variables go to `frozen={'teacher': …}`.
      optimizer: the student's.
      augmentor_optimizer: the augmentor's.
      augmentor: makes `image` of `image`; `kdjax.objectives.affine_augmentor` by default.
      temperature: of the student's divergence.
      clean_weight: of the images as they are.
      stability_weight: as for `kdjax.objectives.disagreement`.
      ceiling: as for `kdjax.objectives.disagreement`.
      every: the augmentor moves at each `every`-th step.
      **options: of `kdjax.algorithms.algorithm`.

    Returns:
      An algorithm with the players `augmentor` and `student`.

    References:
      HARD: Hard Augmentations for Robust Distillation, arXiv:2305.14890.
    """
    adversary = Player(
        augmentors.affine_augmentor() if augmentor is None else augmentor,
        augmentors.disagreement(stability_weight=stability_weight, ceiling=ceiling),
        augmentor_optimizer,
        every=every,
        forward=False,
    )
    learner = Player(
        student,
        augmentors.augmented_kd(temperature=temperature, clean_weight=clean_weight),
        optimizer,
        phase=1,
    )
    return engine.algorithm(
        {"augmentor": adversary, "student": learner}, {"teacher": Teacher(teacher)}, **options
    )
