"""What the names in a config stand for, and what of a teacher they read."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping

import kdjax
from kdjax import losses, objectives
from kdjax.base import Objective
from kdjax.losses import divergences
from kdjax.train.options import Options, names


def factory_of(name: str) -> Callable[..., Objective] | None:
    """A function of `kdjax.objectives` that makes an objective of options alone."""
    made = getattr(objectives, name, None) if name in objectives.__all__ else None
    if not inspect.isfunction(made):
        return None
    signature = inspect.signature(made)
    alone = all(p.kind is p.KEYWORD_ONLY for p in signature.parameters.values())
    return made if alone and signature.return_annotation == "Objective" else None


def factories() -> list[str]:
    """Names of all of them."""
    return [name for name in objectives.__all__ if factory_of(name)]


def lifted_losses() -> list[str]:
    """Losses that can be lifted: functions whose first argument is the student's."""
    found = []
    for name in losses.__all__:
        loss = getattr(losses, name)
        parameters = list(inspect.signature(loss).parameters) if callable(loss) else []
        if parameters and parameters[0].startswith("student"):
            found.append(name)
    return found


def options_of(loss: Callable) -> list[str]:
    """Names of a loss's options; those it hands on are options of every divergence."""
    found = []
    for parameter in inspect.signature(loss).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY:
            found.append(parameter.name)
        elif parameter.kind is parameter.VAR_KEYWORD:
            found += options_of(divergences.evaluate)
    return found


def parts_of(arm: Options) -> list[Options]:
    """An arm's objective and those beside it."""
    beside = arm.get("beside")
    others = beside.values() if isinstance(beside, Mapping) else ()
    return [arm, *(own for own in others if isinstance(own, Mapping))]


def wanted_taps(arms: Iterable[Options]) -> dict[str, tuple[str, ...]]:
    """Paths that the arms read from `student` and `teacher`, by role."""
    found: dict[str, dict[str, None]] = {"student": {}, "teacher": {}}
    roles = {"student": "student", "feature": "student", "features": "student"}
    for part in (part for arm in arms for part in parts_of(arm)):
        for key, own in {**roles, "teacher": "teacher"}.items():
            for signal in names(part.get(key)):
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
    made = factory_of(name) or getattr(losses, name, None)
    if not callable(made):
        return True
    return any(key.startswith("teacher") for key in inspect.signature(made).parameters)


def teacher_signals(arm: Options) -> tuple[str, ...]:
    """The signals of the teacher that an arm reads, those that it does not name included."""
    read = []
    for part in parts_of(arm):
        parameters = inspect.signature(factory_of(part.get("name", "")) or kdjax.lift).parameters
        read += [part.get(name, p.default) for name, p in parameters.items() if "teacher" in name]
    named = [value for value in read if isinstance(value, str | tuple | list)]
    return tuple(signal for value in named for signal in names(value))
