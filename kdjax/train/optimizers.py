"""From a config to an optimiser of optax."""

from __future__ import annotations

import inspect
from typing import Any

import optax

from kdjax import algorithms
from kdjax.losses.numerics import nearest
from kdjax.train.errors import RecipeError, one_line
from kdjax.train.options import Facts, Options, check_keys, plain


def build_optimizer(
    section: str, options: Options, total_steps: int
) -> optax.GradientTransformation:
    """An optax optimiser by name, with schedule, decay and clipping.

    Keys: `name`, `learning_rate`, `schedule` (`'cosine'`, `'linear'` or `'constant'`), `warmup`
    (share of the steps), `clip` (global norm, 0 for none); any other is an option of the optimiser.
    """
    options = plain(options)
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
        raise RecipeError(f"config.{section}: {one_line(error)}") from error
    return optax.chain(optax.clip_by_global_norm(clip), optimizer) if clip else optimizer


def averaged(
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
        raise RecipeError(f"config.{section}.averaged: {one_line(error)}") from error


def _optimizers() -> list[str]:
    """Functions of optax that make an optimiser of a learning rate."""
    return [
        name
        for name in dir(optax)
        if inspect.isfunction(made := getattr(optax, name))
        and next(iter(inspect.signature(made).parameters), "") == "learning_rate"
    ]
