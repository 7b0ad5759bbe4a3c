"""From a config to networks, with what a recipe may put around one."""

from __future__ import annotations

from typing import Any

from kdjax import losses, models, objectives
from kdjax.base import Model
from kdjax.train.errors import RecipeError, one_line
from kdjax.train.options import Facts, Options, plain

WRAPPERS = ("heads", "combine", "subclasses", "label_noise", "precision", "rows", "masked")
WRAPPERS += ("classifier",)
"""What a network may have around it."""


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
    classes, heads = facts["num_classes"], plain(options.get("heads") or {})
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
    given = {key: plain(options[key]) for key in FROZEN if options.get(key)}
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
        raise RecipeError(f"config.{section}.{next(iter(given))}: {one_line(error)}") from error


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
        return models.build(name, num_classes=facts["num_classes"], **plain(options))
    except (TypeError, ValueError) as error:
        raise RecipeError(f"config.{section}: {one_line(error)}") from error
