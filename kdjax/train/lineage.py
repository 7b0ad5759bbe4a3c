"""Runs that build on others: who teaches an arm, where it starts, what is fitted before it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from kdjax import models
from kdjax.base import Model, Variables
from kdjax.data import Dataset
from kdjax.train import fits, lookup, measuring, networks
from kdjax.train.arms import Arm
from kdjax.train.errors import RecipeError, one_line
from kdjax.train.splits import LABELLED, Data

Find = Callable[[str], tuple[Model, Variables]]
"""Model and variables of a run by its name."""


class Frozen(NamedTuple):
    """A trained teacher."""

    model: Model
    variables: Variables
    members: int


@functools.lru_cache(maxsize=16)
def _ensemble(networks: tuple[Model, ...], signals: tuple[str, ...] | None) -> Model:
    return models.ensemble(networks, signals=signals)


def together(
    networks: list[Model], members: list[Variables], signals: tuple[str, ...] | None = None
) -> Frozen:
    """One teacher of one or several networks, who give these signals, or all that they can."""
    if len(members) == 1:
        return Frozen(networks[0], members[0], 1)
    named = {str(index): variables for index, variables in enumerate(members)}
    return Frozen(_ensemble(tuple(networks), signals), named, len(members))


def guide(arm: Arm, teacher: Frozen | None, find: Find) -> Frozen | None:
    """Who teaches an arm: the recipe's teacher, or the students of other arms."""
    if not arm.taught_by:
        return teacher
    found = [find(name) for name in arm.taught_by]
    # Networks of different sizes can only be stacked in what is read of them.
    read = [signal.rpartition(":")[2] for signal in lookup.teacher_signals(arm.options)]
    fitted_to = ["logits", "embedding"] if fitted_options(arm) else []
    signals = tuple(dict.fromkeys([*read, *fitted_to]))
    return together([model for model, _ in found], [v for _, v in found], signals)


def generation(arm: Arm, arms: Mapping[str, Arm]) -> int:
    """How many students stand between an arm and a teacher, or the labels."""
    return max((1 + generation(arms[name], arms) for name in arm.taught_by), default=0)


def start(arm: Arm, find: Find) -> dict[str, Variables] | None:
    """Variables that the players of an arm start from, `None` if it starts anew."""
    return {"student": find(arm.starts_from)[1]} if arm.starts_from else None


def fitted_options(arm: Arm) -> dict[str, Mapping[str, Any]]:
    """The options of an arm that are fitted before it is trained.

    Raises:
      RecipeError: there is no such fit, or it has no such option.
    """
    found = {key: value for key, value in arm.options.items() if fits.is_fit(value)}
    for key, value in found.items():
        fits.check(f"{arm.section}.{key}", value)
    return found


def fitted(
    arm: Arm, taught: Frozen | None, find: Find, data: Data, size: int, *, abstract: bool
) -> dict[str, Any]:
    """The options of an arm, with those that are to be fitted replaced by their values.

    Args:
      arm: whose options.
      taught: its teacher.
      find: other runs.
      data: the splits.
      size: of the batches in which networks are run.
      abstract: whether variables are shapes only; then it is fitted to answers of 0.

    Raises:
      RecipeError: if what it is fitted to is missing or does not suit.
    """
    options = dict(arm.options)
    for key, value in fitted_options(arm).items():
        place = f"config.{arm.section}.{key}"
        run = value.get("of") or (arm.starts_from if value["fit"] in fits.OF_THE_START else "")
        source = Frozen(*find(run), 1) if run else taught
        if value["fit"] in fits.OF_LABELS:
            source = None
        elif source is None or (value["fit"] in fits.OF_THE_START and not run):
            raise RecipeError(
                f"{place} is fitted to a run; name one in taught_by or starts_from, or with of"
            )
        try:
            options[key] = fits.fitted(value, _known(source, data, size, abstract))
        except (ValueError, TypeError, KeyError) as error:
            raise RecipeError(f"{place}: {one_line(error)}") from error
    return options


def _known(source: Frozen | None, data: Data, size: int, abstract: bool) -> fits.Known:
    """What a network answers to the data, and its last layer."""
    names = ("logits", "embedding")
    label = measuring.column_of(data.train, "label", size)
    if source is None:
        return fits.Known({}, label, None)

    def answers(dataset: Dataset) -> dict[str, np.ndarray]:
        if not abstract:
            return measuring.answers(source.model, source.variables, dataset, size, names)
        rows = dataset.take(np.arange(2))
        shapes, _ = jax.eval_shape(source.model.apply, source.variables, rows)
        return {name: np.zeros((dataset.size, *shapes[name].shape[1:])) for name in names}

    head, held_out = None, None
    if source.members == 1:
        layer = networks.last_layer(source.variables)
        head = {key: np.zeros(leaf.shape) if abstract else leaf for key, leaf in layer.items()}
    if data.validation is not None:
        theirs = measuring.column_of(data.validation, "label", size)
        held_out = {"embedding": answers(data.validation)["embedding"], "label": theirs}
    labelled = None
    if LABELLED in data.train.features:
        labelled = measuring.column_of(data.train, LABELLED, size)
    return fits.Known(answers(data.train), label, head, held_out, labelled)
