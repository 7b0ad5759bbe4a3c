"""Objectives with several teachers, or with an opponent."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kdjax.base import Model, Objective, ObjectiveVariables, Term
from kdjax.losses import divergences, logits, numerics, targets, weighting
from kdjax.objectives.lift import lift, reduce


def ensemble_kd(
    *,
    temperature: Any = 1.0,
    scale_by_t2: bool = False,
    weights: Any = None,
    student: str = "logits",
    teacher: str = "teacher:logits",
) -> Objective:
    """Cross-entropy with the mean probability of several teachers (MEAL V2's soft target).

    Args:
      temperature: of both sides.
      scale_by_t2: whether to multiply by `T²`.
      weights: of the members, fixed; even by default.
      student: the student's logits `[batch, classes]`.
      teacher: the committee's, `[batch, members, classes]`, as `kdjax.models.ensemble` gives them.

    Returns:
      An objective with the term `ensemble_kd`.

    References:
      Shen and Savvides, MEAL V2, arXiv:2009.08453. With `weights` of `losses.source_weights` it is
      DistillWeighted, arXiv:2304.12314.
    """

    def loss(student_logits, teacher_logits):
        target = targets.committee(teacher_logits, weights, temperature=temperature)
        student_logits = numerics.as_float(student_logits) / temperature
        values = divergences.soft_cross_entropy(student_logits, target)
        return values * temperature**2 if scale_by_t2 else values

    return lift(loss, student=student, teacher=teacher, name="ensemble_kd")


def routed_kd(
    *,
    members: int,
    top: int = 1,
    temperature: Any = 4.0,
    balance_weight: float = 1.0,
    balance: str = "kl",
    student: str = "logits",
    teacher: str = "teacher:logits",
) -> Objective:
    """Distillation from the teachers that a trained gate picks for each example.

    A gate, two linear layers without an activation between them, reads the student's logits. Each
    example learns from its `top` teachers alike, `T² mean_j KL(t_j ‖ s)`. The gate itself learns
    only from the balancing term, which also reaches the student.

    Args:
      members: number of teachers.
      top: how many teach each example.
      temperature: `T`.
      balance_weight: of the balancing term, see `kdjax.losses.load_balance`.
      balance: its mode, `'kl'` or `'cv'`.
      student: the student's logits `[batch, classes]`.
      teacher: the committee's, `[batch, members, classes]`.

    Returns:
      A coupled objective with the terms `routed_kd` and `load_balance`.

    Raises:
      ValueError: if the committee has another number of members.

    References:
      MST-Distill, arXiv:2507.07015 (its third stage).
    """

    def init(key, context):
        classes = jnp.shape(context.get(student))[-1]
        found = jnp.shape(context.get(teacher))[-2]
        if found != members:
            raise ValueError(f"members is {members}, the committee has {found}")
        return ObjectiveVariables(gate_init(key, classes, members), {})

    def apply(variables, context):
        own, theirs = context.get(student), context.get(teacher)
        gate_logits = gate(variables.params, own)
        shares = weighting.route(gate_logits, top)
        each = logits.kd(
            jnp.broadcast_to(own[..., None, :], theirs.shape), theirs, temperature=temperature
        )
        even = weighting.load_balance(jax.nn.softmax(gate_logits), mode=balance)
        return {
            "routed_kd": reduce(jnp.sum(shares * each, axis=-1)),
            "load_balance": Term(even, jnp.ones(()), balance_weight),
        }, {}

    return Objective(init, apply, coupled=True)


def gate_init(key: Array, classes: int, members: int) -> dict[str, Array]:
    """Parameters of a gate that reads `classes` logits and chooses among `members`."""
    return dense_stack(key, (classes, 2 * classes, members))


def gate(params: dict[str, Array], x: Float[Array, "*batch classes"]) -> Float[Array, "*batch n"]:
    """Logits over the members: two linear layers without an activation between them."""
    hidden = numerics.as_float(x) @ params["kernel_0"] + params["bias_0"]
    return hidden @ params["kernel_1"] + params["bias_1"]


def output_discriminator(num_classes: int, *, reduction: int = 8) -> Model:
    """MEAL V2's discriminator: tells a student's logits from a teacher's.

    Three linear layers, `classes → classes/K → classes/K² → 2`, each followed by a ReLU, the last
    one too.

    Args:
      num_classes: width of the logits.
      reduction: `K`.

    Returns:
      A model that reads `logits` from its batch and gives `logits` over (student, teacher).

    Raises:
      ValueError: if fewer than `K²` classes leave a layer without units.

    References:
      Shen and Savvides, MEAL V2, arXiv:2009.08453.
    """
    widths = (num_classes, num_classes // reduction, num_classes // reduction**2, 2)
    if min(widths) < 1:
        raise ValueError(
            f"reduction is {reduction} for {num_classes} classes, wanted at most their square root"
        )

    def init(key, batch):
        del batch
        return {"params": dense_stack(key, widths)}

    def apply(variables, batch, *, key=None, train=False):
        del key, train
        x = numerics.as_float(batch["logits"])
        for layer in range(3):
            params = variables["params"]
            x = jax.nn.relu(x @ params[f"kernel_{layer}"] + params[f"bias_{layer}"])
        return {"logits": x}, {}

    return Model(init, apply)


def told_apart(
    *,
    network: str = "discriminator",
    student: str = "logits",
    teacher: str = "teacher:logits",
    weight: float = 1.0,
) -> Objective:
    """How well a discriminator tells the student's logits from the (mean) teacher's.

    Binary cross-entropy with logits, mean over both outputs and both halves of the batch. The
    discriminator minimises it; a student either helps (`weight` above 0, as released) or fools it
    (below).

    Args:
      network: the player that discriminates, see `output_discriminator`.
      student: the student's logits; `'student:logits'` in the discriminator's own objective too.
      teacher: the teacher's logits `[batch, classes]`, or a committee's, which are averaged.
      weight: of the term.

    Returns:
      An objective with the term `told_apart`.

    References:
      Shen and Savvides, MEAL V2, arXiv:2009.08453.
    """

    def apply(variables, context):
        del variables
        own, theirs = context.get(student), context.get(teacher)
        if theirs.ndim > own.ndim:
            theirs = jnp.mean(theirs, axis=-2)
        judge = context.networks[network]
        right_for = {0: judge({"logits": own}), 1: judge({"logits": theirs})}
        values = 0.0
        for side, verdict in right_for.items():
            target = jax.nn.one_hot(side, 2)
            margin = jnp.where(target > 0, -verdict["logits"], verdict["logits"])
            values += jnp.mean(jax.nn.softplus(margin), axis=-1) / 2
        return {"told_apart": reduce(values)._replace(weight=weight)}, {}

    return Objective(lambda key, context: ObjectiveVariables({}, {}), apply)


def dense_stack(key: Array, widths: tuple[int, ...]) -> dict[str, Array]:
    """Kernels and biases of linear layers, uniform within `±1/√fan_in`."""
    params = {}
    for layer, (fan_in, fan_out) in enumerate(itertools.pairwise(widths)):
        key_kernel, key_bias = jax.random.split(jax.random.fold_in(key, layer))
        bound = fan_in**-0.5
        params[f"kernel_{layer}"] = jax.random.uniform(
            key_kernel, (fan_in, fan_out), minval=-bound, maxval=bound
        )
        params[f"bias_{layer}"] = jax.random.uniform(
            key_bias, (fan_out,), minval=-bound, maxval=bound
        )
    return params
