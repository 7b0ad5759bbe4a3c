"""Models with more to say or more to see: extra heads, signals made of signals, labels as input."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from kdjax.base import Batch, Key, Model, Signals, Variables
from kdjax.models.linen import LinenApply, from_linen
from kdjax.models.taps import PREFIX, tapped


def with_heads(
    model: Model, heads: Mapping[str, int | nn.Module], *, reads: str = "embedding"
) -> Model:
    """Adds heads to a model, each a signal of its own.

    A second head learns what would harm the first one, and is dropped or merged afterwards: DHO,
    DHKD, SLA and LELP have students with two.

    Args:
      model: the model.
      heads: each head by the name of its signal: a width for a linear layer, `{'kd_logits': 10}`,
        or a linen module that answers with one array. It may draw random numbers and hold
        statistics, as in a hidden layer with dropout and batch norm.
      reads: the signal that they read, `[batch, …, features]`.

    Returns:
      A model with further signals `[batch, …, width]`; its parameters are those of `model` and
      `heads`. What else modules hold is the collection `heads`, by head.

    Raises:
      KeyError: when made or applied, if the model has no such signal.
      TypeError: if a head is neither a width nor a module.
      ValueError: if a head has the name of a signal that the model gives.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from kdjax import models
      >>> model = with_heads(models.from_linen(models.MLP(features=(8,))), {"kd_logits": 10})
      >>> batch = {"image": jnp.ones((2, 4, 4, 1))}
      >>> variables = model.init(jax.random.key(0), batch)
      >>> model.apply(variables, batch)[0]["kd_logits"].shape
      (2, 10)

    References:
      Kang et al., arXiv:2505.07675; Yang et al., arXiv:2411.08937.
    """
    layers = {name: _head(name, head) for name, head in heads.items()}

    def read(signals: Signals) -> Batch:
        if reads not in signals:
            raise KeyError(f"heads read {reads!r}, the model gives {sorted(signals)}")
        if taken := sorted(set(heads) & set(signals)):
            raise ValueError(f"heads may not be called {taken}: the model gives such signals")
        return {"feature": signals[reads]}

    def init(key: Key, batch: Batch) -> Variables:
        own = dict(model.init(key, batch))
        shape = read(jax.eval_shape(model.apply, own, batch)[0])["feature"].shape
        made = {
            name: layer.init(jax.random.fold_in(key, 1 + index), {"feature": jnp.zeros(shape)})
            for index, (name, layer) in enumerate(layers.items())
        }
        params = {name: variables["params"] for name, variables in made.items()}
        return {
            **own,
            "params": {"model": own["params"], "heads": params},
            **_held({**own.get("heads", {}), **made}),
        }

    def apply(
        variables: Variables, batch: Batch, *, key: Key | None = None, train: bool = False
    ) -> tuple[Signals, Variables]:
        params, held = variables["params"], variables.get("heads", {})
        own = {name: value for name, value in variables.items() if name != "heads"}
        # What is left is held by heads of the model itself, if it has some too.
        own |= _held({name: value for name, value in held.items() if name not in layers})
        signals, changed = model.apply(
            {**own, "params": params["model"]}, batch, key=key, train=train
        )
        feature = read(signals)
        answers, moved = {}, dict(changed.get("heads", {}))
        for index, (name, layer) in enumerate(layers.items()):
            answer, state = layer.apply(
                {"params": params["heads"][name], **held.get(name, {})},
                feature,
                key=None if key is None else jax.random.fold_in(key, 1 + index),
                train=train,
            )
            answers[name] = answer["logits"]
            moved |= {name: {**held[name], **state}} if state else {}
        return {**signals, **answers}, {**changed, **({"heads": held | moved} if moved else {})}

    return Model(init, apply)


def _head(name: str, head: int | nn.Module) -> Model:
    """A head as a model that reads `feature` and gives `logits`."""
    if isinstance(head, bool) or not isinstance(head, (numbers.Integral, nn.Module)):
        raise TypeError(f"head {name!r} is {head!r}, wanted a width or a linen module")
    return from_linen(head if isinstance(head, nn.Module) else nn.Dense(head), inputs="feature")


def _held(heads: Mapping[str, Variables]) -> Variables:
    """The collection of what heads hold besides parameters; none if they hold nothing."""
    held = {}
    for name, variables in heads.items():
        if rest := {kind: value for kind, value in variables.items() if kind != "params"}:
            held[name] = rest
    return {"heads": held} if held else {}


def with_signals(model: Model, **made: Callable[[Signals], Any]) -> Model:
    """Gives a model signals that are made of its others, or replaces some.

    Args:
      model: the model.
      **made: by name, a function of all signals.

    Returns:
      A model.

    Example:
      >>> import jax.numpy as jnp
      >>> from kdjax import models
      >>> model = models.from_batch({"logits": "x"})
      >>> model = with_signals(model, logits=lambda signals: 2 * signals["logits"])
      >>> model.apply({}, {"x": jnp.ones(1)})[0]["logits"]
      Array([2.], dtype=float32)
    """

    def apply(
        variables: Variables, batch: Batch, *, key: Key | None = None, train: bool = False
    ) -> tuple[Signals, Variables]:
        signals, changed = model.apply(variables, batch, key=key, train=train)
        return {**signals, **{name: make(signals) for name, make in made.items()}}, changed

    return model._replace(apply=apply)


def label_assisted(
    model: Model, num_classes: int, *, noise: float = 0.5, labels: str = "label"
) -> Model:
    """LAD's teacher: a model that also sees the label, as channels of its image, with noise.

    With probability `noise` an example's label is replaced by one drawn evenly from all classes.
    The answer depends on the labels of the batch: such a model teaches, and is no classifier.

    Args:
      model: one that reads `image` `[batch, height, width, channels]`; it gets `num_classes` more
        channels.
      num_classes: of the labels.
      noise: from 0 to 1.
      labels: field of the batch with classes `[batch]`, or `[batch, height, width]` of pixels.

    Returns:
      A model. Without a key, as in evaluation, the noise is always the same.

    Raises:
      ValueError: if the noise is not from 0 to 1.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from kdjax import models
      >>> teacher = label_assisted(models.from_linen(models.MLP(features=(8,))), 10)
      >>> batch = {"image": jnp.ones((2, 4, 4, 1)), "label": jnp.array([3, 7])}
      >>> teacher.init(jax.random.key(0), batch)["params"]["hidden_0"]["kernel"].shape
      (176, 8)

    References:
      Qiu et al., Make a Strong Teacher with Label Assistance, arXiv:2407.13254. (There two draws of
      the noise are trained to agree; the kind of noise is ours.)
    """
    if not 0 <= noise <= 1:
        raise ValueError(f"noise is {noise}, wanted a number from 0 to 1")

    def assisted(batch: Batch, key: Key | None) -> Batch:
        image, label = jnp.asarray(batch["image"]), jnp.asarray(batch[labels])
        if jnp.issubdtype(label.dtype, jnp.floating):
            label = jnp.argmax(label, axis=-1)
        if jnp.issubdtype(image.dtype, jnp.integer):
            image = image.astype(jnp.float32) / 255
        keys = jax.random.split(jax.random.key(0) if key is None else key)
        drawn = jax.random.randint(keys[0], label.shape, 0, num_classes, label.dtype)
        seen = jnp.where(jax.random.bernoulli(keys[1], noise, label.shape), drawn, label)
        planes = jax.nn.one_hot(seen, num_classes, dtype=image.dtype)
        if label.ndim == 1:
            planes = planes[:, None, None]
        planes = jnp.broadcast_to(planes, (*image.shape[:-1], num_classes))
        return {**batch, "image": jnp.concatenate([image, planes], axis=-1)}

    def apply(
        variables: Variables, batch: Batch, *, key: Key | None = None, train: bool = False
    ) -> tuple[Signals, Variables]:
        # A key of its own, so that what the model draws does not depend on the noise.
        noise_key = None if key is None else jax.random.fold_in(key, 1)
        return model.apply(variables, assisted(batch, noise_key), key=key, train=train)

    return Model(lambda key, batch: model.init(key, assisted(batch, key)), apply)


def with_classifier(
    model: Model, num_classes: int, *, width: int, layer: Mapping[str, jax.Array] | None = None
) -> Model:
    """A student that answers by its teacher's last layer, which stays as it is.

    Its embedding is projected to the teacher's width and read by the teacher's classifier. Where
    the projected embedding is taught to be like the teacher's, its answer follows.

    Args:
      model: one that gives `embedding` `[batch, features]`.
      num_classes: of the classifier.
      width: of the teacher's embedding.
      layer: the classifier's `kernel` `[width, num_classes]` and `bias`; they are the collection
        `frozen` of the result. `None` makes them anew, to be replaced in there.

    Returns:
      A model whose signals `embedding` and `logits` are the projected embedding and what the
      classifier says of it. Its parameters are those of `model`, whose own head is left without use
      and gradient, and of `projector`.

    Raises:
      ValueError: when made, if the layer is of another shape.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from kdjax import models
      >>> model = with_classifier(models.from_linen(models.MLP(features=(8,))), 10, width=32)
      >>> batch = {"image": jnp.ones((2, 4, 4, 1))}
      >>> model.apply(model.init(jax.random.key(0), batch), batch)[0]["embedding"].shape
      (2, 32)

    References:
      Tang et al., Distribution Shift Matters for Knowledge Distillation with Webly Collected
      Images, arXiv:2307.11469; Chen et al., Knowledge Distillation with the Reused Teacher
      Classifier, arXiv:2203.14001.
    """
    projector = nn.Dense(width)
    if layer is not None and jnp.shape(layer["kernel"]) != (width, num_classes):
        raise ValueError(
            f"layer has a kernel of shape {jnp.shape(layer['kernel'])}, wanted "
            f"{(width, num_classes)}"
        )

    def init(key: Key, batch: Batch) -> Variables:
        own = dict(model.init(key, batch))
        shape = jax.eval_shape(model.apply, own, batch)[0]["embedding"].shape
        keys = jax.random.split(jax.random.fold_in(key, 1))
        made = projector.init(keys[0], jnp.zeros(shape))["params"]
        kept = layer
        if kept is None:
            kept = nn.Dense(num_classes).init(keys[1], jnp.zeros((1, width)))["params"]
        return {**own, "params": {"model": own["params"], "projector": made}, "frozen": dict(kept)}

    def apply(
        variables: Variables, batch: Batch, *, key: Key | None = None, train: bool = False
    ) -> tuple[Signals, Variables]:
        params, kept = variables["params"], jax.lax.stop_gradient(variables["frozen"])
        own = {name: v for name, v in variables.items() if name != "frozen"}
        signals, changed = model.apply(
            {**own, "params": params["model"]}, batch, key=key, train=train
        )
        embedding = projector.apply({"params": params["projector"]}, signals["embedding"])
        logits = nn.Dense(num_classes).apply({"params": kept}, embedding)
        return {**signals, "embedding": embedding, "logits": logits}, changed

    return Model(init, apply)


def masked(model: Model, variables: Variables | None, mask: Model, *, at: str) -> Model:
    """A frozen model one of whose features is multiplied by a mask, which is all that trains.

    MST-Distill's specialised teacher: distil the (frozen) student into it, and it becomes a teacher
    that suits the student.

    Args:
      model: made by `from_linen`.
      variables: its variables; they are the collection `frozen` of the result. `None` makes them
        anew, to be replaced in there.
      mask: reads `features` and gives `mask`, such as `kdjax.objectives.mask_network`.
      at: path of the submodule whose output is masked, as for taps.

    Returns:
      A model whose parameters are the mask's.

    Raises:
      TypeError: if the model does not come from a linen module.
      ValueError: when applied, if no module of that path is called.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from kdjax import models, objectives
      >>> batch = {"image": jnp.ones((2, 4, 4, 1))}
      >>> teacher = models.from_linen(models.MLP(features=(8,)))
      >>> variables = teacher.init(jax.random.key(0), batch)
      >>> special = masked(teacher, variables, objectives.mask_network(8), at="hidden_0")
      >>> special.apply(special.init(jax.random.key(1), batch), batch)[0]["logits"].shape
      (2, 10)

    References:
      MST-Distill, arXiv:2507.07015 (its second stage).
    """
    if not isinstance(model.apply, LinenApply):
        raise TypeError(f"masked wants a model made by from_linen, got {model!r}")

    def init(key: Key, batch: Batch) -> Variables:
        kept = model.init(key, batch) if variables is None else variables
        shapes, _ = jax.eval_shape(tapped(model, at).apply, kept, batch)
        feature = jnp.zeros(shapes[PREFIX + at].shape)
        made = mask.init(key, {"features": feature})
        return {"params": made["params"], "frozen": dict(kept)}

    def apply(
        variables: Variables, batch: Batch, *, key: Key | None = None, train: bool = False
    ) -> tuple[Signals, Variables]:
        found = []

        def multiply(call, args, options, context):
            output = call(*args, **options)
            if context.method_name != "__call__" or "/".join(context.module.path) != at:
                return output
            found.append(at)
            answer, _ = mask.apply({"params": variables["params"]}, {"features": output})
            return output * answer["mask"]

        frozen = jax.lax.stop_gradient(variables["frozen"])
        with nn.intercept_methods(multiply):
            signals, _ = model.apply(frozen, batch, key=key, train=False)
        if not found:
            raise ValueError(f"no module {at!r} is called; list_taps shows which there are")
        return signals, {}

    return Model(init, apply)
