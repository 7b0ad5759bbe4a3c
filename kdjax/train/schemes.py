"""Training schemes by name: what each wants of a run, and how a recipe builds it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import optax

from kdjax import algorithms, losses, objectives
from kdjax.base import Algorithm, Model, Objective
from kdjax.losses.numerics import nearest
from kdjax.train.errors import RecipeError


class Request(NamedTuple):
    """What a scheme is built of.

    Attributes:
      section: where the config describes it, for messages.
      student: the student's network.
      teacher: the teacher's, if there is one.
      optimizer: the student's.
      options: of the scheme, as the config gives them.
      facts: what is known of the data.
      objective: makes the objective that the arm names; without the options given, which are the
        scheme's own.
      engine: options of the engine.
    """

    section: str
    student: Model
    teacher: Model | None
    optimizer: optax.GradientTransformation
    options: dict[str, Any]
    facts: Mapping[str, Any]
    objective: Callable[..., Objective]
    engine: Mapping[str, Any]


class Scheme(NamedTuple):
    """A training scheme.

    Attributes:
      build: makes the algorithm; its player of interest is called `student`.
      needs_teacher: whether there is a frozen teacher.
      runs_teacher: whether the teacher's network is run itself, so that stored logits do not do.
      several: whether other players train beside the student.
      needs_validation: whether each batch comes with one of the validation split.
    """

    build: Callable[[Request], Algorithm]
    needs_teacher: bool = True
    runs_teacher: bool = False
    several: bool = False
    needs_validation: bool = False


def _distill(request: Request) -> Algorithm:
    return algorithms.distill(
        request.student, request.teacher, request.objective(), request.optimizer, **request.engine
    )


def _average(request: Request) -> Algorithm:
    decay = request.options.get("decay", 0.999)
    objective = request.objective("decay")
    return algorithms.average_self_distillation(
        request.student, objective, request.optimizer, decay=decay, **request.engine
    )


def _mutual(request: Request) -> Algorithm:
    options = _with_loss(request.section, dict(request.options))
    options = _with_loss(request.section, options, "peer_loss")
    network, loss = options.pop("peer_model", request.student), options.get("loss", losses.kd)
    names = [f"peer_{index}" for index in range(options.pop("peers", 1))]
    theirs = dict.fromkeys(names, options.pop("peer_loss", loss))
    options["loss"] = {"student": loss, **theirs}
    return algorithms.mutual_learning(
        {"student": request.student, **dict.fromkeys(names, network)},
        request.optimizer,
        **options,
        **request.engine,
    )


def _dual_head(request: Request) -> Algorithm:
    return algorithms.dual_head_kd(
        request.student,
        request.teacher,
        request.optimizer,
        **_with_loss(request.section, dict(request.options)),
        **request.engine,
    )


def _meal_v2(request: Request) -> Algorithm:
    if "committee" not in request.facts:
        raise RecipeError(f"config.{request.section}: meal_v2 wants config.teacher.members above 1")
    return algorithms.meal_v2(
        request.student,
        request.facts["committee"],
        request.optimizer,
        num_classes=request.facts["num_classes"],
        **request.options,
        **request.engine,
    )


def _tgeo_kd(request: Request) -> Algorithm:
    options = dict(request.options)
    weigher = optax.adam(options.pop("weigher_learning_rate", 1e-3))
    return algorithms.tgeo_kd(
        request.student,
        request.teacher,
        request.optimizer,
        weigher,
        num_classes=request.facts["num_classes"],
        **options,
        **request.engine,
    )


def _hard(request: Request) -> Algorithm:
    options = dict(request.options)
    adversary = optax.adam(options.pop("augmentor_learning_rate", 1e-3))
    known = inspect.signature(objectives.affine_augmentor).parameters
    bounds = {key: options.pop(key) for key in known if key in options}
    try:
        augmentor = objectives.affine_augmentor(**bounds)
    except ValueError as error:
        raise RecipeError(f"config.{request.section}: {error}") from error
    return algorithms.hard(
        request.student,
        request.teacher,
        request.optimizer,
        adversary,
        augmentor=augmentor,
        **options,
        **request.engine,
    )


def _with_loss(section: str, options: dict[str, Any], key: str = "loss") -> dict[str, Any]:
    """The options, with a loss that is named looked up."""
    name = options.get(key)
    if name is None:
        return options
    if name not in losses.__all__:
        raise RecipeError(f"config.{section}.{key} is {name!r}{nearest(name, losses.__all__)}")
    return {**options, key: getattr(losses, name)}


SCHEMES = {
    "distill": Scheme(_distill),
    "average_self_distillation": Scheme(_average, needs_teacher=False),
    "mutual_learning": Scheme(_mutual, needs_teacher=False, several=True),
    "dual_head_kd": Scheme(_dual_head),
    "meal_v2": Scheme(_meal_v2, runs_teacher=True, several=True),
    "tgeo_kd": Scheme(_tgeo_kd, runs_teacher=True, several=True, needs_validation=True),
    "hard": Scheme(_hard, runs_teacher=True, several=True),
}
