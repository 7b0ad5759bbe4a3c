"""The fused divergence: values and closed-form gradients, chunk by chunk, also on a mesh."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from kdjax.distributions import blocks, rows, tails
from kdjax.distributions.representations import Dense, Linear, Samples, Sparse
from kdjax.distributions.sharding import Shard, VocabSharding
from kdjax.losses.divergences import Term


class Problem(NamedTuple):
    """All that is static: the options of `kdjax.distributions.evaluate`.

    `numbers` holds those scalar options that are Python numbers; the others are arrays per token.
    """

    term: Term
    tail: str
    log_zero: float
    scale_by_t2: bool
    numbers: dict[str, float]
    chunk_size: int | None
    sharding: VocabSharding | None

    @property
    def shard(self) -> Shard:
        """The parts of the vocabulary."""
        return Shard(self.sharding.vocab_axes if self.sharding else ())

    @property
    def token_shard(self) -> Shard:
        """The parts of the tokens."""
        return Shard(self.sharding.token_axes if self.sharding else ())


class Constants(NamedTuple):
    """All that gets no gradient.

    Attributes:
      teacher: its distribution, or none.
      tokens: arrays `[*tokens]`: mask, labels, and options that are not Python numbers.
      classes: mask of the vocabulary, or none.
      bound: arrays bound to the term with `functools.partial`.
    """

    teacher: Any
    tokens: dict[str, Array]
    classes: Array | None
    bound: dict[str, Any]


def block(problem: Problem, logits: Array, teacher: Any, constants: Constants) -> tuple[Any, Any]:
    """Losses `[tokens]` and their gradients by the logits, for one block of tokens."""
    shard, exists = problem.shard, constants.classes
    option = {**constants.tokens, **problem.numbers}.get
    temperature, label_weight = option("temperature"), option("label_weight")
    loss, gradient = jnp.zeros(len(logits), logits.dtype), jnp.zeros_like(logits)
    if teacher is not None:
        weight = option("divergence_weight")
        if problem.scale_by_t2:
            weight = weight * temperature**2
        loss, gradient = _divergence(
            problem, logits, teacher, temperature, option("teacher_temperature"), constants
        )
        loss, gradient = weight * loss, _column(weight) * gradient
    if "labels" in constants.tokens:
        log_q = rows.log_probabilities(logits, 1, exists, shard)
        hard, derivative = rows.labelled(constants.tokens["labels"], log_q, exists, shard)
        loss = loss + label_weight * hard
        gradient += _column(label_weight) * rows.by_logits(derivative, log_q, 1, shard)
    counts = constants.tokens["exists"]
    return jnp.where(counts, loss, 0), jnp.where(counts[:, None], gradient, 0)


def _divergence(
    problem: Problem,
    logits: Array,
    teacher: Any,
    temperature: Any,
    teacher_temperature: Any,
    constants: Constants,
) -> tuple[Array, Array]:
    """The divergence of each token, and its gradient by the logits."""
    term = functools.partial(problem.term, **constants.bound) if constants.bound else problem.term
    where = {"exists": constants.classes, "shard": problem.shard}
    if isinstance(teacher, Sparse) and problem.tail == "renormalize":
        both = {"temperature": temperature, "teacher_temperature": teacher_temperature}
        return tails.renormalized(term, teacher, logits, **both, **where)
    log_q = rows.log_probabilities(logits, temperature, **where)
    if isinstance(teacher, Sparse):
        options = {"tail": problem.tail, "log_zero": problem.log_zero}
        loss, derivative = tails.sparse(
            term, teacher, log_q, temperature=teacher_temperature, **options, **where
        )
    elif isinstance(teacher, Samples):
        loss, derivative = tails.sampled(term, teacher, log_q, problem.shard)
    else:
        log_p = rows.log_probabilities(teacher.materialize(), teacher_temperature, **where)
        loss, derivative = rows.dense(term, log_p, log_q, problem.shard)
    return loss, rows.by_logits(derivative, log_q, temperature, problem.shard)


def _column(x: Any) -> Any:
    return x[:, None] if jnp.ndim(x) else x


def _layout(problem: Problem, student: Any, constants: Constants) -> tuple[dict, int, int]:
    """The arrays per token, flat, their number, and how many make a chunk."""
    teacher = constants.teacher
    rank = len(student.tokens)
    flat = {"student": blocks.flatten(student.rows, rank)}
    if teacher is not None:
        flat["teacher"] = blocks.flatten(teacher.rows, rank)
    options = dict(constants.tokens)
    if "where" in options:
        options["where"] = jnp.broadcast_to(options["where"], student.tokens)
    flat["tokens"] = blocks.flatten(options, rank)
    tokens = jax.tree.leaves(flat["student"])[0].shape[0]
    whole = isinstance(student, Dense) and not isinstance(teacher, Linear)
    chunk = problem.chunk_size or (
        tokens if whole else blocks.automatic_chunk(tokens, student.vocabulary, _width(student))
    )
    return flat, tokens, chunk


def _width(student: Any) -> int:
    return student.hidden.shape[-1] if isinstance(student, Linear) else 0


def _of_block(problem: Problem, student: Any, constants: Constants, xs: dict) -> tuple[Any, ...]:
    """The student's local block, its logits, its losses and its gradient by the logits."""
    counts = xs["exists"] & xs["tokens"].get("where", True)
    # A token that does not count may hold anything, and 0 times NaN is not 0.
    own = {name: jnp.where(counts[:, None], x, 0) for name, x in xs["student"].items()}
    student = dataclasses.replace(student, **own)
    teacher = constants.teacher
    if teacher is not None:
        teacher = dataclasses.replace(teacher, **xs["teacher"])
    options = {**xs["tokens"], "exists": counts}
    logits = student.materialize()
    constants = constants._replace(teacher=None, tokens=options)
    return student, logits, *block(problem, logits, teacher, constants)


def local_losses(problem: Problem, student: Any, constants: Constants) -> Array:
    """Losses of this device's tokens, `[*tokens]`."""
    xs, tokens, chunk = _layout(problem, student, constants)

    def body(_: None, xs: dict) -> tuple[None, Array]:
        return None, _of_block(problem, student, constants, xs)[2]

    _, losses = blocks.walk(body, None, xs, tokens, chunk)
    return jnp.reshape(losses, student.tokens)


def local_gradients(
    problem: Problem, student: Any, constants: Constants, weights: Array
) -> tuple[Array, Any]:
    """Losses of this device's tokens, and the gradients of their weighted sum, in one pass."""
    xs, tokens, chunk = _layout(problem, student, constants)
    xs["weights"] = jnp.reshape(weights, -1)

    def body(total: Any, xs: dict) -> tuple[Any, tuple[Array, Array]]:
        head, logits, loss, gradient = _of_block(problem, student, constants, xs)
        gradient = gradient * xs["weights"][:, None]
        if not isinstance(head, Linear):
            return total, (loss, gradient)
        by_hidden, by_parameters = blocks.head_gradients(head, gradient, logits)
        return jax.tree.map(jnp.add, total, by_parameters), (loss, by_hidden)

    start = blocks.zero_gradients(student)
    parameters, (losses, per_token) = blocks.walk(body, start, xs, tokens, chunk)
    gradients = blocks.as_gradient(
        student, per_token, parameters, problem.shard, problem.token_shard
    )
    return jnp.reshape(losses, student.tokens), gradients


def _on_mesh(problem: Problem, student: Any, constants: Constants) -> tuple[Any, Any]:
    """The partitions of the arguments."""
    sharding, rank = problem.sharding, len(student.tokens)
    teacher = constants.teacher
    spec = Constants(
        teacher=None if teacher is None else sharding.specs(teacher),
        tokens={name: sharding.spec(rank) for name in constants.tokens},
        classes=None if constants.classes is None else jax.P(sharding.vocab),
        bound=jax.tree.map(lambda _: jax.P(), constants.bound),
    )
    return sharding.specs(student), spec


def place(problem: Problem, student: Any, constants: Constants) -> tuple[Any, Any]:
    """Moves the arguments to their partition on a mesh of Explicit axes."""
    if problem.sharding is None:
        return student, constants
    specs = _on_mesh(problem, student, constants)
    return problem.sharding.place((student, constants), specs)


def losses(problem: Problem, student: Any, constants: Constants) -> Array:
    """`local_losses`, on the mesh if there is one."""
    local = functools.partial(local_losses, problem)
    if problem.sharding is None:
        return local(student, constants)
    out = problem.sharding.spec(len(student.tokens))
    return problem.sharding.run(local, _on_mesh(problem, student, constants), out)(
        student, constants
    )


def gradients(
    problem: Problem, student: Any, constants: Constants, weights: Array
) -> tuple[Array, Any]:
    """`local_gradients`, on the mesh if there is one."""
    local = functools.partial(local_gradients, problem)
    if problem.sharding is None:
        return local(student, constants, weights)
    student_specs, constant_specs = _on_mesh(problem, student, constants)
    spec = problem.sharding.spec(len(student.tokens))
    run = problem.sharding.run(local, (student_specs, constant_specs, spec), (spec, student_specs))
    return run(student, constants, weights)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def per_token(problem: Problem, student: Any, constants: Constants) -> Array:
    """Losses `[*tokens]`; the backward pass computes the logits of each chunk once more."""
    return losses(problem, student, constants)


def _per_token_forward(problem: Problem, student: Any, constants: Constants) -> tuple[Array, Any]:
    return losses(problem, student, constants), (student, constants)


def _per_token_backward(problem: Problem, saved: Any, weights: Array) -> tuple[Any, None]:
    return gradients(problem, *saved, weights)[1], None


per_token.defvjp(_per_token_forward, _per_token_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def weighted_sum(problem: Problem, student: Any, constants: Constants, weights: Array) -> Array:
    """`sum_i weights_i · loss_i`; the forward pass makes the gradients as well."""
    return jnp.sum(weights * losses(problem, student, constants))


def _sum_forward(
    problem: Problem, student: Any, constants: Constants, weights: Array
) -> tuple[Array, Any]:
    values, gradient = gradients(problem, student, constants, weights)
    return jnp.sum(weights * values), gradient


def _sum_backward(problem: Problem, gradient: Any, scale: Array) -> tuple[Any, None, None]:
    def scaled(x: Array) -> Array:
        return (x.astype(scale.dtype) * scale).astype(x.dtype)

    return jax.tree.map(scaled, gradient), None, None


weighted_sum.defvjp(_sum_forward, _sum_backward)
