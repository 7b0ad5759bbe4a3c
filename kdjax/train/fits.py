"""Options of losses that are fitted before training: `{'fit': 'class_centers'}` in a config.

What is fitted comes from a teacher's answers on the training set, from the run that a student
starts from, or from any run that is named, `{'fit': 'hardest', 'of': 'labels'}`. It is a constant
of the training that follows.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kdjax import algorithms, losses
from kdjax.base import Context
from kdjax.losses.numerics import nearest
from kdjax.train.errors import RecipeError


class Known(NamedTuple):
    """Whose answers something is fitted to.

    Attributes:
      answers: `logits` and `embedding` on the training set; none for what labels alone decide.
      label: of the training set, `[size]`.
      head: `kernel` `[width, classes]` and `bias` of the last layer; `None` of a committee.
      held_out: `embedding` and `label` of the validation split, if there is one.
      labelled: whether the label of a training example is known, `[size]`; `None` if all are.
    """

    answers: Mapping[str, jax.Array]
    label: jax.Array
    head: Mapping[str, jax.Array] | None
    held_out: Mapping[str, jax.Array] | None = None
    labelled: jax.Array | None = None

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


def hardest(
    known: Known, *, share: float = 0.1, score: str = "el2n"
) -> Callable[[Context], jax.Array]:
    """Weights that keep a share of the training examples, those of the highest score.

    The score is `losses.el2n` or `losses.grand` of the run.
    """
    logits, embedding = (jnp.asarray(known.answers[name]) for name in ("logits", "embedding"))
    scores = {
        "el2n": lambda: losses.el2n(logits, known.label),
        "grand": lambda: losses.grand(logits, embedding, known.label),
    }
    if score not in scores:
        raise ValueError(f"score is {score!r}{nearest(score, scores)}")
    if not 0 < share <= 1:
        raise ValueError(f"share is {share}, wanted above 0 to 1")
    return by_example(only_largest(scores[score](), round(share * len(known.label))))


def queries(
    known: Known, *, budget: int, by: str = "robust", mistakes: float = 0.1, seed: int = 0
) -> Callable[[Context], jax.Array]:
    """Weights that keep the unlabelled examples a teacher is asked about, `budget` of them.

    What an answer is worth is one minus the margin between the run's two likeliest classes.
    `'margin'` asks for the examples of most worth, `'robust'` draws from
    `losses.query_distribution` for a teacher who is wrong on a share `mistakes` of all examples,
    `'uniform'` draws evenly.
    """
    size = len(known.label)
    unknown = np.ones(size, bool) if known.labelled is None else ~np.asarray(known.labelled, bool)
    if not 0 < budget <= unknown.sum():
        raise ValueError(f"budget is {budget}, wanted 1 to the {unknown.sum()} unlabelled examples")
    first, second = jax.lax.top_k(jax.nn.softmax(jnp.asarray(known.answers["logits"])), 2)[0].T
    gains = (1 - (first - second))[np.flatnonzero(unknown)]
    # The largest of log-probabilities with Gumbel noise are draws without replacement.
    noise = jax.random.gumbel(jax.random.key(seed), gains.shape)
    ways = {
        "margin": lambda: gains,
        "robust": lambda: (
            jnp.log(losses.query_distribution(gains, mistakes * unknown.sum()) + 1e-30) + noise
        ),
        "uniform": lambda: noise,
    }
    if by not in ways:
        raise ValueError(f"by is {by!r}{nearest(by, ways)}")
    chosen = only_largest(ways[by](), budget)
    return by_example(jnp.zeros(size).at[np.flatnonzero(unknown)].set(chosen * size / len(chosen)))


def of_classes(known: Known, *, classes: Sequence[int]) -> Callable[[Context], jax.Array]:
    """Weights that keep the examples of some classes: what a specialist learns from."""
    kept = np.isin(known.label, list(classes))
    if not kept.any():
        raise ValueError(f"classes are {classes!r}, of which there is no example")
    return by_example(jnp.asarray(kept / kept.mean(), jnp.float32))


def only_largest(scores: jax.Array, count: int) -> jax.Array:
    """Weights of mean 1: even on the `count` largest scores, 0 on all others."""
    chosen = jnp.argsort(-scores)[: max(count, 1)]
    return jnp.zeros(len(scores)).at[chosen].set(len(scores) / max(count, 1))


def by_example(values: jax.Array) -> Callable[[Context], jax.Array]:
    """Looks up a value for each example of a batch, by its number in the training set."""
    return lambda context: values[context.batch["id"]]


OF_THE_START = ("influence",)
"""Fits to the run that a student starts from, rather than to its teacher."""
OF_LABELS = ("of_classes",)
"""Fits to labels alone, without any run."""
_KNOWN = (class_centers, class_means, hardest, influence, of_classes, parc, queries, subclasses)
FITS = {fit.__name__: fit for fit in _KNOWN}


def check(section: str, options: Mapping[str, Any]) -> None:
    """Raises `RecipeError` for a fit that there is not, or an option that it has not."""
    name = options["fit"]
    if name not in FITS:
        raise RecipeError(f"config.{section} names no fit: {name!r}{nearest(name, FITS)}")
    known = [*inspect.signature(FITS[name]).parameters][1:]
    for key in options:
        if key not in ("fit", "of") and key not in known:
            raise RecipeError(f"config.{section}: {name} has no {key!r}{nearest(key, known)}")


def is_fit(value: Any) -> bool:
    """Whether an option is to be fitted."""
    return isinstance(value, Mapping) and "fit" in value


def fitted(options: Mapping[str, Any], known: Known) -> Any:
    """The value of an option, `{'fit': name, …}`."""
    own = {key: value for key, value in options.items() if key not in ("fit", "of")}
    return FITS[options["fit"]](known, **own)
