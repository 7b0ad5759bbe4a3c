"""From a config to models, objectives, optimisers: names are attributes, looked up and checked."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import optax

import kdjax
from kdjax import algorithms, losses, models, objectives, parallel
from kdjax.base import Algorithm, Model, Objective
from kdjax.losses import divergences
from kdjax.losses.numerics import nearest
from kdjax.objectives import projectors
from kdjax.train.errors import RecipeError
from kdjax.train.schemes import SCHEMES, Request

LIFT_OPTIONS = ("student", "teacher", "labels", "where", "weights")
ARM_OPTIONS = ("name", "algorithm", "weight", "label_weight", "projector", "smoothing", "augment")
ARM_OPTIONS += ("model", "taught_by", "starts_from", "beside", "averaged")
PART_OPTIONS = ("name", "weight", "projector")
"""Those of `ARM_OPTIONS` that an objective beside another one has as well."""
WRAPPERS = ("heads", "combine", "subclasses", "label_noise", "precision", "rows", "masked")
WRAPPERS += ("classifier",)
"""What a network may have around it."""

Options = Mapping[str, Any]
Facts = Mapping[str, Any]
"""What a recipe knows once its data are loaded: `num_examples`, `num_classes`, `total_steps`, …"""


def check_keys(section: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Raises `RecipeError` for a key that the section does not have, with the nearest one."""
    for key in given:
        if key not in known:
            place = f"config.{section}" if section else "config"
            raise RecipeError(f"{place} has no {key!r}{nearest(key, known)}")


def build_model(section: str, options: Options, facts: Facts, taps: tuple[str, ...] = ()) -> Model:
    """A network of the zoo, `{'name': 'mixer', 'width': 64}`, for the data set's classes.

    Around it may stand `rows` (it sees these rows of the image alone), `masked` (all of it is
    frozen but a mask of one feature), `classifier` (it answers by the last layer of the run that it
    starts from), `heads` (width by name, `'classes'` for one output per class), `combine` (two
    heads that answer together), `subclasses` of each class (their logits are the signal
    `subclass_logits`), `label_noise` (it sees labels with that much noise), `precision`.
    """
    network = build_network(section, options, facts)
    model = models.from_linen(network, inputs=_inputs(section, options), taps=taps)
    classes, heads = facts["num_classes"], _plain(options.get("heads") or {})
    heads = {name: classes if width == "classes" else width for name, width in heads.items()}
    model = _on_frozen(section, model, options, classes)
    split = options.get("subclasses") or 0
    if split:
        heads["subclass_logits"] = classes * split
    if heads:
        model = models.with_heads(model, heads)
    if split:
        model = models.with_signals(
            model, logits=lambda signals: losses.merge_subclasses(signals["subclass_logits"], split)
        )
    if options.get("combine"):
        first, second = options["combine"]
        model = models.with_signals(
            model, logits=lambda signals: losses.combine_heads(signals[first], signals[second])
        )
    if options.get("label_noise") is not None:
        model = models.label_assisted(model, classes, noise=options["label_noise"])
    precision = options.get("precision")
    return model if precision is None else models.cast(model, compute=precision)


def _inputs(section: str, options: Options) -> Any:
    """What the network is called with: the image, or some of its rows."""
    if not options.get("rows"):
        return "image"
    try:
        first, end = options["rows"]
    except (TypeError, ValueError) as error:
        raise RecipeError(
            f"config.{section}.rows is {options['rows']!r}, wanted the first and the one after the "
            "last, (0, 4)"
        ) from error
    return lambda batch: (batch["image"][:, first:end],)


def _on_frozen(section: str, model: Model, options: Options, classes: int) -> Model:
    """The network around, or under, what is frozen of the run that it starts from."""
    given = {key: _plain(options[key]) for key in FROZEN if options.get(key)}
    if not given:
        return model
    if len(given) > 1:
        raise RecipeError(f"config.{section} has {' and '.join(given)}, wanted one of them")
    try:
        if "classifier" in given:
            return models.with_classifier(model, classes, **given["classifier"])
        at, mask = given["masked"].pop("at"), objectives.mask_network(**given["masked"])
        return models.masked(model, None, mask, at=at)
    except (TypeError, ValueError, KeyError) as error:
        raise RecipeError(f"config.{section}.{next(iter(given))}: {_one_line(error)}") from error


def last_layer(variables: Any) -> Any:
    """The layer that gives the logits, of a network of the zoo."""
    params = variables["params"]
    return params.get("model", params)["head"]


FROZEN = {"masked": lambda variables: variables, "classifier": last_layer}
"""What a network keeps frozen of the run that it starts from."""


def build_network(section: str, options: Options, facts: Facts) -> Any:
    """The flax module of such a network."""
    options = dict(options)
    name = options.pop("name", "")
    for key in WRAPPERS:
        options.pop(key, None)
    try:
        return models.build(name, num_classes=facts["num_classes"], **_plain(options))
    except (TypeError, ValueError) as error:
        raise RecipeError(f"config.{section}: {_one_line(error)}") from error


def describe(options: Options) -> str:
    """`'kd (temperature=4.0, weight=0.9)'`."""
    options = dict(options)
    name = options.pop("name", "") or options.pop("algorithm", "")
    details = ", ".join(f"{key}={value}" for key, value in sorted(_plain(options).items()))
    return f"{name} ({details})" if details else name


def build_optimizer(
    section: str, options: Options, total_steps: int
) -> optax.GradientTransformation:
    """An optax optimiser by name, with schedule, decay and clipping.

    Keys: `name`, `learning_rate`, `schedule` (`'cosine'`, `'linear'` or `'constant'`), `warmup`
    (share of the steps), `clip` (global norm, 0 for none); any other is an option of the optimiser.
    """
    options = _plain(options)
    name = options.pop("name", "adamw")
    rate, schedule = options.pop("learning_rate", 1e-3), options.pop("schedule", "constant")
    warmup, clip = options.pop("warmup", 0.0), options.pop("clip", 0.0)
    for key, value in (("learning_rate", rate), ("warmup", warmup), ("clip", clip)):
        if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
            raise RecipeError(f"config.{section}.{key} is {value!r}, wanted a number of at least 0")
    known = _optimizers()
    if name not in known:
        raise RecipeError(
            f"config.{section}.name is no optimiser of optax: {name!r}{nearest(name, known)}"
        )
    maker = getattr(optax, name)
    own = ("name", "learning_rate", "schedule", "warmup", "clip")
    check_keys(section, options, [*own, *list(inspect.signature(maker).parameters)[1:]])
    ways = {
        "cosine": lambda steps: optax.cosine_decay_schedule(rate, max(steps, 1)),
        "linear": lambda steps: optax.linear_schedule(rate, 0.0, max(steps, 1)),
        "constant": lambda steps: optax.constant_schedule(rate),
    }
    if schedule not in ways:
        raise RecipeError(f"config.{section}.schedule is {schedule!r}{nearest(schedule, ways)}")
    warm = int(warmup * total_steps)
    learning_rate = ways[schedule](total_steps - warm)
    if warm:
        rise = optax.linear_schedule(0.0, rate, warm)
        learning_rate = optax.join_schedules([rise, learning_rate], [warm])
    try:
        optimizer = maker(learning_rate, **options)
    except TypeError as error:
        raise RecipeError(f"config.{section}: {_one_line(error)}") from error
    return optax.chain(optax.clip_by_global_norm(clip), optimizer) if clip else optimizer


def _optimizers() -> list[str]:
    """Functions of optax that make an optimiser of a learning rate."""
    return [
        name
        for name in dir(optax)
        if inspect.isfunction(made := getattr(optax, name))
        and next(iter(inspect.signature(made).parameters), "") == "learning_rate"
    ]


def build_objective(section: str, arm: Options, facts: Facts) -> Objective:
    """The objective that an arm of the config describes, accuracy reported beside it.

    `name` is an objective of `kdjax.objectives` or a loss of `kdjax.losses`; other keys are its
    options. `label_weight` adds cross-entropy, `beside` further objectives by name, `projector`
    puts a trainable projector on the student's signal.
    """
    arm = _plain(arm)
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
    factory = _factory(name)
    if factory is not None:
        objective = _call_factory(section, name, factory, own, facts)
    else:
        objective = _lift(section, name, dict(own))
    if options.get("projector"):
        objective = _project(section, objective, options["projector"], own)
    return objective, _schedule(section, options.get("weight", 1.0), facts)


def parts_of(arm: Options) -> list[Options]:
    """An arm's objective and those beside it."""
    beside = arm.get("beside")
    others = beside.values() if isinstance(beside, Mapping) else ()
    return [arm, *(own for own in others if isinstance(own, Mapping))]


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
    arm = _plain(arm)
    name = arm.get("algorithm", "distill")
    if name not in SCHEMES:
        raise RecipeError(f"config.{section}.algorithm is {name!r}{nearest(name, SCHEMES)}")

    def objective(*own: str) -> Objective:
        rest = {key: value for key, value in arm.items() if key not in own}
        return build_objective(section, rest, facts)

    rest = {key: value for key, value in arm.items() if key not in ARM_OPTIONS}
    if rest.get("peer_model"):
        rest["peer_model"] = build_model(f"{section}.peer_model", rest["peer_model"], facts)
    optimizer = _averaged(section, optimizer, arm.get("averaged", 0), facts)
    request = Request(section, student, teacher, optimizer, rest, facts, objective, options)
    try:
        algorithm = SCHEMES[name].build(request)
    except TypeError as error:
        raise RecipeError(f"config.{section}: {_one_line(error)}") from error
    kept = [key for key in FROZEN if (arm.get("model") or {}).get(key)]
    if not kept:
        return algorithm
    if not arm.get("starts_from"):
        raise RecipeError(f"config.{section}.model.{kept[0]} wants a run; name one in starts_from")
    return _keeping(algorithm, student, FROZEN[kept[0]])


def _averaged(
    section: str, optimizer: optax.GradientTransformation, share: Any, facts: Facts
) -> optax.GradientTransformation:
    """The optimiser, which ends at the mean of the parameters of its last steps."""
    if not share:
        return optimizer
    try:
        return algorithms.stochastic_weight_averaging(
            optimizer, total_steps=facts["total_steps"], share=share
        )
    except (ValueError, TypeError) as error:
        raise RecipeError(f"config.{section}.averaged: {_one_line(error)}") from error


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


def wanted_taps(arms: Iterable[Options]) -> dict[str, tuple[str, ...]]:
    """Paths that the arms read from `student` and `teacher`, by role."""
    found: dict[str, dict[str, None]] = {"student": {}, "teacher": {}}
    roles = {"student": "student", "feature": "student", "features": "student"}
    for part in (part for arm in arms for part in parts_of(arm)):
        for key, own in {**roles, "teacher": "teacher"}.items():
            for signal in _names(part.get(key)):
                role, _, name = signal.rpartition(":")
                if name.startswith("taps/"):
                    found[role or own][name.removeprefix("taps/")] = None
    return {role: tuple(paths) for role, paths in found.items()}


def reads_only_logits(arms: Iterable[Options]) -> bool:
    """Whether every arm can do with the teacher's logits alone."""
    return all(
        signal.rpartition(":")[2] == "logits" for arm in arms for signal in teacher_signals(arm)
    )


def reads_teacher(name: str) -> bool:
    """Whether a loss or objective has anything to do with a teacher."""
    made = _factory(name) or getattr(losses, name, None)
    if not callable(made):
        return True
    return any(key.startswith("teacher") for key in inspect.signature(made).parameters)


def teacher_signals(arm: Options) -> tuple[str, ...]:
    """The signals of the teacher that an arm reads, those that it does not name included."""
    read = []
    for part in parts_of(arm):
        parameters = inspect.signature(_factory(part.get("name", "")) or kdjax.lift).parameters
        read += [part.get(name, p.default) for name, p in parameters.items() if "teacher" in name]
    named = [value for value in read if isinstance(value, str | tuple | list)]
    return tuple(signal for value in named for signal in _names(value))


def _names(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else tuple(value)


def _factory(name: str) -> Callable[..., Objective] | None:
    """A function of `kdjax.objectives` that makes an objective of options alone."""
    made = getattr(objectives, name, None) if name in objectives.__all__ else None
    if not inspect.isfunction(made):
        return None
    signature = inspect.signature(made)
    alone = all(p.kind is p.KEYWORD_ONLY for p in signature.parameters.values())
    return made if alone and signature.return_annotation == "Objective" else None


def _factories() -> list[str]:
    return [name for name in objectives.__all__ if _factory(name)]


def _losses() -> list[str]:
    """Losses that can be lifted: functions whose first argument is the student's."""
    found = []
    for name in losses.__all__:
        loss = getattr(losses, name)
        parameters = list(inspect.signature(loss).parameters) if callable(loss) else []
        if parameters and parameters[0].startswith("student"):
            found.append(name)
    return found


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
        raise RecipeError(f"config.{section}: {_one_line(error)}") from error


def _lift(section, name, options):
    known = _losses()
    if name not in known:
        raise RecipeError(
            f"config.{section}.name is no loss or objective: {name!r}"
            f"{nearest(name, [*known, *_factories()])}"
        )
    loss = getattr(losses, name)
    check_keys(section, options, [*_options_of(loss), *LIFT_OPTIONS, *ARM_OPTIONS])
    named = {key: options.pop(key) for key in LIFT_OPTIONS if key in options}
    try:
        return kdjax.lift(loss, name=name, **named, **options)
    except TypeError as error:
        raise RecipeError(f"config.{section}: {_one_line(error)}") from error


def _options_of(loss: Callable) -> list[str]:
    """Names of a loss's options; those it hands on are options of every divergence."""
    found = []
    for parameter in inspect.signature(loss).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY:
            found.append(parameter.name)
        elif parameter.kind is parameter.VAR_KEYWORD:
            found += _options_of(divergences.evaluate)
    return found


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
        raise RecipeError(f"config.{section}: {_one_line(error)}") from error


def _plain(options: Options) -> dict[str, Any]:
    """A ConfigDict, nested ones included, as plain dicts."""
    return {
        key: _plain(value) if isinstance(value, Mapping) or hasattr(value, "to_dict") else value
        for key, value in options.items()
    }


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
