"""Options of losses that are fitted before training: `{'fit': 'class_centers'}` in a config.

What is fitted comes from a teacher's answers on the training set, or from the run that a student
starts from. It is a constant of the training that follows.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from kdjax import algorithms, losses
from kdjax.base import Context
from kdjax.losses.numerics import nearest
from kdjax.train.errors import RecipeError


class Known(NamedTuple):
    """Whose answers something is fitted to.

    Attributes:
      answers: `logits` and `embedding` on the training set.
      label: of the training set, `[size]`.
      head: `kernel` `[width, classes]` and `bias` of the last layer; `None` of a committee.
      held_out: `embedding` and `label` of the validation split, if there is one.
    """

    answers: Mapping[str, jax.Array]
    label: jax.Array
    head: Mapping[str, jax.Array] | None
    held_out: Mapping[str, jax.Array] | None = None

    @property
    def num_classes(self) -> int:
        """Width of the logits."""
        return self.answers["logits"].shape[-1]

    @property
    def layer(self) -> dict[str, jax.Array]:
        """The last layer."""
        if self.head is None:
            raise ValueError("a committee has no single last layer; wanted one teacher")
        return {name: jnp.asarray(value) for name, value in self.head.items()}


def class_centers(known: Known) -> jax.Array:
    """Mean embedding of each class, for `nd`."""
    return losses.class_centers(known.answers["embedding"], known.label, known.num_classes)


def class_means(known: Known) -> jax.Array:
    """Mean prediction for each class, for `mcmi`."""
    sums, counts = losses.class_sums(known.answers["logits"], known.label)
    return sums / jnp.maximum(counts, 1)[:, None]


def subclasses(known: Known, *, subclasses: int = 4) -> dict[str, jax.Array]:
    """What `lelp` needs."""
    embedding = known.answers["embedding"]
    return losses.fit_subclasses(embedding, known.label, known.layer["kernel"], subclasses)


def parc(known: Known, *, power: float = 1.0, probe: int = 500) -> jax.Array:
    """Shares of a committee's members by the similarity of their embeddings to the task."""
    members = jnp.moveaxis(known.answers["embedding"][:probe], 1, 0)
    scores = jnp.stack([losses.parc(member, known.label[:probe]) for member in members])
    return losses.source_weights(scores, power=power)


def influence(
    known: Known, *, damping: float = 0.01, temperature: float = 1.0
) -> Callable[[Context], jax.Array]:
    """Weights of the training examples by the influence of each on the validation split.

    The influence is that of the last layer alone, which is softmax regression on the embedding.
    """
    if known.held_out is None:
        raise ValueError("wanted a validation split, name one in config.data.validation")

    def loss(params: Any, batch: Mapping[str, jax.Array]) -> jax.Array:
        logits = batch["embedding"] @ params["kernel"] + params["bias"]
        return losses.cross_entropy(logits, batch["label"])

    train = {"embedding": known.answers["embedding"], "label": known.label}
    found = algorithms.influence(
        loss, known.layer, train, known.held_out, damping=damping, iterations=100
    )
    return by_example(losses.influence_weights(found, temperature=temperature))


def by_example(values: jax.Array) -> Callable[[Context], jax.Array]:
    """Looks up a value for each example of a batch, by its number in the training set."""
    return lambda context: values[context.batch["id"]]


OF_THE_START = ("influence",)
"""Fits to the run that a student starts from, rather than to its teacher."""
FITS = {fit.__name__: fit for fit in (class_centers, class_means, influence, parc, subclasses)}


def check(section: str, options: Mapping[str, Any]) -> None:
    """Raises `RecipeError` for a fit that there is not, or an option that it has not."""
    name = options["fit"]
    if name not in FITS:
        raise RecipeError(f"config.{section} names no fit: {name!r}{nearest(name, FITS)}")
    known = [*inspect.signature(FITS[name]).parameters][1:]
    for key in options:
        if key != "fit" and key not in known:
            raise RecipeError(f"config.{section}: {name} has no {key!r}{nearest(key, known)}")


def is_fit(value: Any) -> bool:
    """Whether an option is to be fitted."""
    return isinstance(value, Mapping) and "fit" in value


def fitted(options: Mapping[str, Any], known: Known) -> Any:
    """The value of an option, `{'fit': name, …}`."""
    options = dict(options)
    return FITS[options.pop("fit")](known, **options)
