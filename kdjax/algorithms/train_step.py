"""The short form: one student, one teacher, one objective."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import optax

from kdjax import parallel
from kdjax.algorithms import engine
from kdjax.algorithms.guards import Guards
from kdjax.algorithms.players import Player, Teacher
from kdjax.base import Algorithm, Batch, Key, Model, Objective, TrainState, Variables
from kdjax.models import as_model, cast
from kdjax.parallel.rules import RulesByRole


def train_step(
    student_apply: Model | Callable[..., Any],
    teacher_apply: Model | Callable[..., Any] | None,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    *,
    inputs: str = "image",
    augment: engine.Augment | None = None,
    microbatches: int = 1,
    precision: str | None = None,
    compile: str | None = "jit",
    mesh: jax.sharding.Mesh | None = None,
    rules: RulesByRole = None,
    axis_name: str | None = None,
    guards: Guards | None = None,
) -> Algorithm:
    """A compiled train step that distils a teacher into a student.

    Args:
      student_apply: `apply(params, x) -> logits` (or a dict of signals), a full-form `apply`, a
        `Model`, or a flax module.
      teacher_apply: likewise; `None` where the batch holds all that the objective reads.
      objective: what to minimise, such as `kdjax.lift(kdjax.losses.kd)`.
      optimizer: any optax transformation. Clip gradients with
        `optax.chain(optax.clip_by_global_norm(1.0), …)`.
      inputs: the field of the batch that a plain `apply` is given as `x`.
      augment: `augment(key, batch) -> batch` on the device; both networks see its answer.
      microbatches: parts that each batch is split into, to save memory.
      precision: compute type of both networks, `'bfloat16'` or `'float16'`; parameters, gradients,
        losses and updates stay in float32.
      compile: `'jit'` (also over a mesh), `'pmap'`, or `None` to compile it yourself.
      mesh: devices that each batch is spread over, see `kdjax.parallel.make_mesh`.
      rules: with a mesh, how variables are split over it, together or by `'student'` and
        `'teacher'`; by default large arrays are split over the axis `fsdp`, if there is one.
      axis_name: with `compile=None`, the axis of the `pmap` or `shard_map` around the step.
      guards: what happens to gradients that are not finite, see `kdjax.algorithms.Guards`.

    Returns:
      A pair of functions:
        `init(student_variables, teacher_variables, batch, key=None) -> TrainState`, which copies
        the student's variables; parameters alone, or with their collections as `{'params': …,
        'batch_stats': …}`; `step(state, batch, teacher_variables) -> (state, metrics)`, which
        consumes (donates) the state it is given. Trained variables are
        `state.players['student'].variables`.

    Raises:
      ValueError: for an unknown `compile`, or a combination that makes no sense.

    Example:
      >>> import jax, jax.numpy as jnp, kdjax, optax
      >>> apply = lambda params, x: x @ params["kernel"]
      >>> distill = train_step(apply, apply, kdjax.lift(kdjax.losses.kd), optax.sgd(0.1))
      >>> batch = {"image": jnp.eye(3)}
      >>> teacher, student = {"kernel": jnp.eye(3)}, {"kernel": jnp.zeros((3, 3))}
      >>> state = distill.init(student, teacher, batch)
      >>> for _ in range(3):
      ...     state, metrics = distill.step(state, batch, teacher)
      >>> bool(metrics["loss"] < 0.4)
      True
    """
    if compile not in ("jit", "pmap", None):
        raise ValueError(f"compile is {compile!r}, wanted 'jit', 'pmap' or None")
    if mesh is not None and compile != "jit":
        raise ValueError("mesh goes with compile='jit'")
    if rules is not None and mesh is None:
        raise ValueError("rules go with a mesh")
    if axis_name is not None and compile is not None:
        raise ValueError("axis_name goes with compile=None")

    def model(apply: Any) -> Model:
        made = as_model(apply, inputs=inputs)
        return made if precision is None else cast(made, compute=precision)

    players = {"student": Player(model(student_apply), objective, optimizer)}
    teachers = {} if teacher_apply is None else {"teacher": Teacher(model(teacher_apply))}
    whole = engine.algorithm(
        players,
        teachers,
        augment=augment,
        microbatches=microbatches,
        axis_name=parallel.PMAP_AXIS if compile == "pmap" else axis_name,
        guards=guards,
    )
    if compile is not None:
        whole = parallel.compile(whole, how=compile, mesh=mesh, rules=rules)

    def frozen(variables: Any) -> dict[str, Variables]:
        return {} if teacher_apply is None else {"teacher": engine.as_variables(variables)}

    def init(student: Any, teacher: Any, batch: Batch, key: Key | None = None) -> TrainState:
        key = jax.random.key(0) if key is None else key
        return whole.init(key, batch, frozen(teacher), {"student": student})

    def step(state: TrainState, batch: Batch, teacher: Any = None) -> tuple[TrainState, dict]:
        return whole.step(state, batch, frozen(teacher))

    return Algorithm(init, step)
