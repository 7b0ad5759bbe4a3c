"""From a config to objectives, algorithms and sharding rules; names are looked up and checked."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

import optax

import kdjax
from kdjax import losses, objectives, parallel
from kdjax.base import Algorithm, Model, Objective
from kdjax.losses.numerics import nearest
from kdjax.objectives import projectors
from kdjax.train.errors import RecipeError, one_line
from kdjax.train.lookup import factories, factory_of, lifted_losses, options_of
from kdjax.train.networks import FROZEN, build_model
from kdjax.train.optimizers import averaged
from kdjax.train.options import Facts, Options, check_keys, plain
from kdjax.train.schemes import SCHEMES, Request

LIFT_OPTIONS = ("student", "teacher", "labels", "where", "weights")
ARM_OPTIONS = ("name", "algorithm", "weight", "label_weight", "projector", "smoothing", "augment")
ARM_OPTIONS += ("model", "taught_by", "starts_from", "beside", "averaged")
PART_OPTIONS = ("name", "weight", "projector")
"""Those of `ARM_OPTIONS` that an objective beside another one has as well."""


def build_objective(section: str, arm: Options, facts: Facts) -> Objective:
    """The objective that an arm of the config describes, accuracy reported beside it.

    `name` is an objective of `kdjax.objectives` or a loss of `kdjax.losses`; other keys are its
    options. `label_weight` adds cross-entropy, `beside` further objectives by name, `projector`
    puts a trainable projector on the student's signal.
    """
    arm = plain(arm)
    extra = {key: arm[key] for key in ARM_OPTIONS if key in arm}
    name = extra.get("name", "")
    parts, weights = {}, {}
    parts[name], weights[name] = _part(section, arm, facts)
    beside = extra.get("beside", {})
    if not isinstance(beside, Mapping):
        raise RecipeError(f"config.{section}.beside is {beside!r}, wanted objectives by name")
    for key, own in beside.items():
        place = f"{section}.beside.{key}"
        if key in (name, "labels"):
            raise RecipeError(f"config.{place} has the name of another part; choose another name")
        if not isinstance(own, Mapping):
            raise RecipeError(f"config.{place} is {own!r}, wanted a name with its options")
        for option in own:
            if option in ARM_OPTIONS and option not in PART_OPTIONS:
                raise RecipeError(f"config.{place} has {option!r}, which config.{section} may have")
        parts[key], weights[key] = _part(place, own, facts)
    if extra.get("label_weight", 0):
        smoothing = extra.get("smoothing", 0.0)
        parts["labels"] = kdjax.lift(
            losses.cross_entropy, label_smoothing=smoothing, where=facts.get("labelled")
        )
        weights["labels"] = _schedule(section, extra["label_weight"], facts)
    return objectives.measured(objectives.weighted_sum(parts, weights), accuracy=objectives.correct)


def _part(section: str, options: Options, facts: Facts) -> tuple[Objective, Any]:
    """One objective and its weight."""
    own = {
        key: _schedule(section, value, facts)
        for key, value in options.items()
        if key not in ARM_OPTIONS
    }
    name = options.get("name", "")
    factory = factory_of(name)
    if factory is not None:
        objective = _call_factory(section, name, factory, own, facts)
    else:
        objective = _lift(section, name, dict(own))
    if options.get("projector"):
        objective = _project(section, objective, options["projector"], own)
    return objective, _schedule(section, options.get("weight", 1.0), facts)


def build_algorithm(
    section: str,
    arm: Options,
    student: Model,
    teacher: Model | None,
    optimizer: optax.GradientTransformation,
    facts: Facts,
    **options: Any,
) -> Algorithm:
    """The training scheme of an arm; its player of interest is called `student`."""
    arm = plain(arm)
    name = arm.get("algorithm", "distill")
    if name not in SCHEMES:
        raise RecipeError(f"config.{section}.algorithm is {name!r}{nearest(name, SCHEMES)}")

    def objective(*own: str) -> Objective:
        rest = {key: value for key, value in arm.items() if key not in own}
        return build_objective(section, rest, facts)

    rest = {key: value for key, value in arm.items() if key not in ARM_OPTIONS}
    if rest.get("peer_model"):
        rest["peer_model"] = build_model(f"{section}.peer_model", rest["peer_model"], facts)
    optimizer = averaged(section, optimizer, arm.get("averaged", 0), facts)
    request = Request(section, student, teacher, optimizer, rest, facts, objective, options)
    try:
        algorithm = SCHEMES[name].build(request)
    except TypeError as error:
        raise RecipeError(f"config.{section}: {one_line(error)}") from error
    kept = [key for key in FROZEN if (arm.get("model") or {}).get(key)]
    if not kept:
        return algorithm
    if not arm.get("starts_from"):
        raise RecipeError(f"config.{section}.model.{kept[0]} wants a run; name one in starts_from")
    return _keeping(algorithm, student, FROZEN[kept[0]])


def _keeping(algorithm: Algorithm, student: Model, chosen: Callable[[Any], Any]) -> Algorithm:
    """The algorithm, whose student starts anew around what it keeps frozen of another run."""

    def init(key, batch, frozen=None, variables=None):
        given = dict(variables or {})
        kept = chosen(given["student"])
        given["student"] = {**student.init(key, batch), "frozen": kept}
        return algorithm.init(key, batch, frozen, given)

    return algorithm._replace(init=init)


def build_rules(rules: Mapping[str, Any]) -> dict[str, parallel.Rules]:
    """Sharding rules by role, from pairs of a pattern and mesh axes.

    Raises:
      RecipeError: something else was given.
    """
    found = {}
    for role, pairs in rules.items():
        try:
            patterns = tuple((pattern, parallel.P(*_axes(axes))) for pattern, axes in pairs)
            for pattern, _ in patterns:
                re.compile(pattern)
        except (TypeError, ValueError, re.error) as error:
            raise RecipeError(
                f"config.rules.{role} is {pairs!r}; wanted pairs of a regular expression and mesh "
                "axes, such as (('head/kernel', (None, 'tensor')),)"
            ) from error
        found[role] = parallel.Rules(patterns)
    return found


def _axes(axes: Any) -> tuple[Any, ...]:
    return (axes,) if isinstance(axes, str) else tuple(axes)


def _call_factory(section, name, factory, options, facts):
    parameters = inspect.signature(factory).parameters
    check_keys(section, options, [*parameters, *ARM_OPTIONS])
    known = {key: facts[key] for key in parameters if key in facts and key not in options}
    missing = [
        key
        for key, parameter in parameters.items()
        if parameter.default is parameter.empty and key not in known and key not in options
    ]
    if missing:
        raise RecipeError(f"config.{section}: {name} wants {', '.join(missing)}")
    try:
        return factory(**known, **options)
    except (TypeError, ValueError) as error:
        raise RecipeError(f"config.{section}: {one_line(error)}") from error


def _lift(section, name, options):
    known = lifted_losses()
    if name not in known:
        raise RecipeError(
            f"config.{section}.name is no loss or objective: {name!r}"
            f"{nearest(name, [*known, *factories()])}"
        )
    loss = getattr(losses, name)
    check_keys(section, options, [*options_of(loss), *LIFT_OPTIONS, *ARM_OPTIONS])
    named = {key: options.pop(key) for key in LIFT_OPTIONS if key in options}
    try:
        return kdjax.lift(loss, name=name, **named, **options)
    except TypeError as error:
        raise RecipeError(f"config.{section}: {one_line(error)}") from error


def _project(section, objective, name, options):
    maker = getattr(projectors, name, None)
    known = ("identity", "linear", "mlp", "linear_unit", "convolution")
    if name not in known or maker is None:
        raise RecipeError(f"config.{section}.projector is {name!r}{nearest(name, known)}")
    student, teacher = options.get("student"), options.get("teacher")
    if not isinstance(student, str) or not isinstance(teacher, str):
        raise RecipeError(
            f"config.{section}: a projector wants student and teacher, one signal each"
        )
    like = teacher if ":" in teacher else f"teacher:{teacher}"
    return objectives.projected(objective, maker(), student=student, like=like)


def _schedule(section: str, value: Any, facts: Facts) -> Any:
    """`{'schedule': 'linear_schedule', …}` becomes a schedule of optax or `kdjax.objectives`."""
    if not isinstance(value, Mapping) or "schedule" not in value:
        return value
    options = dict(value)
    name = options.pop("schedule", "")
    maker = getattr(objectives, name, None) or getattr(optax, name, None)
    if not callable(maker):
        raise RecipeError(f"config.{section} names no schedule of optax: {name!r}")
    parameters = inspect.signature(maker).parameters
    known = {"transition_steps": facts["total_steps"], "decay_steps": facts["total_steps"], **facts}
    filled = {key: known[key] for key in parameters if key in known and key not in options}
    try:
        return maker(**filled, **options)
    except TypeError as error:
        raise RecipeError(f"config.{section}: {one_line(error)}") from error
