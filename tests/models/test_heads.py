"""Extra heads, made signals, labels as input, masked features."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from kdjax import models, objectives

KEY = jax.random.key(0)
BATCH = {"image": jax.random.normal(KEY, (6, 4, 4, 1)), "label": jnp.arange(6) % 3}
BODY = models.from_linen(models.MLP(features=(8, 5), num_classes=3), taps="hidden_0")


def test_a_head_is_a_linear_layer_on_the_embedding():
    model = models.with_heads(BODY, {"second": 7})
    variables = model.init(KEY, BATCH)
    signals, _ = model.apply(variables, BATCH)
    layer = variables["params"]["heads"]["second"]
    wanted = signals["embedding"] @ layer["kernel"] + layer["bias"]
    np.testing.assert_allclose(signals["second"], wanted, rtol=1e-5)
    own, _ = BODY.apply({"params": variables["params"]["model"]}, BATCH)
    np.testing.assert_array_equal(signals["logits"], own["logits"])
    np.testing.assert_array_equal(signals["taps/hidden_0"], own["taps/hidden_0"])


def test_a_head_on_a_model_with_statistics_trains():
    model = models.with_heads(models.from_linen(models.ConvNet(widths=(4,))), {"second": 2})
    variables = model.init(KEY, BATCH)
    _, changed = model.apply(variables, BATCH, train=True)
    assert set(variables) == {"params", "batch_stats"} and set(changed) == {"batch_stats"}


class Hidden(nn.Module):
    """A head with a hidden layer, dropout and statistics."""

    @nn.compact
    def __call__(self, feature, *, train=False):
        x = nn.Dropout(0.5)(nn.Dense(20)(feature), deterministic=not train)
        return nn.Dense(3)(nn.relu(nn.BatchNorm(use_running_average=not train)(x)))


def test_a_head_may_be_a_module():
    model = models.with_heads(BODY, {"second": Hidden(), "third": 2})
    variables = model.init(KEY, BATCH)
    assert set(variables) == {"params", "heads"} and set(variables["heads"]) == {"second"}
    signals, changed = model.apply(variables, BATCH)
    head = {"params": variables["params"]["heads"]["second"], **variables["heads"]["second"]}
    wanted = Hidden().apply(head, signals["embedding"])
    np.testing.assert_allclose(signals["second"], wanted, rtol=1e-5)
    assert signals["third"].shape == (6, 2) and not changed
    first, moved = model.apply(variables, BATCH, key=KEY, train=True)
    other, _ = model.apply(variables, BATCH, key=jax.random.key(1), train=True)
    assert np.any(first["second"] != other["second"])
    np.testing.assert_array_equal(first["third"], other["third"])
    assert jax.tree.structure(moved["heads"]) == jax.tree.structure(variables["heads"])
    before, after = (v["heads"]["second"]["batch_stats"] for v in (variables, moved))
    assert np.any(before["BatchNorm_0"]["mean"] != after["BatchNorm_0"]["mean"])


def test_heads_that_hold_something_may_be_added_twice():
    model = models.with_heads(models.with_heads(BODY, {"second": Hidden()}), {"third": Hidden()})
    variables = model.init(KEY, BATCH)
    assert set(variables["heads"]) == {"second", "third"}
    _, changed = model.apply(variables, BATCH, key=KEY, train=True)
    for name in ("second", "third"):
        before, after = (
            jax.tree.leaves(held[name]) for held in (variables["heads"], changed["heads"])
        )
        assert any(np.any(a != b) for a, b in zip(before, after, strict=True)), name


def test_a_head_is_a_width_or_a_module():
    with pytest.raises(TypeError, match="head 'second' is 'wide', wanted a width or a linen"):
        models.with_heads(BODY, {"second": "wide"})


def test_heads_check_their_names():
    with pytest.raises(ValueError, match=r"heads may not be called \['logits'\]"):
        models.with_heads(BODY, {"logits": 2}).init(KEY, BATCH)
    with pytest.raises(KeyError, match="heads read 'middle', the model gives"):
        models.with_heads(BODY, {"second": 2}, reads="middle").init(KEY, BATCH)


def test_labels_are_seen_with_noise():
    seen = models.from_batch({"image": "image"})

    def planes(noise, key=KEY, **batch):
        model = models.label_assisted(seen, 3, noise=noise)
        return model.apply({}, {**BATCH, **batch}, key=key)[0]["image"][..., 1:]

    truth = jnp.broadcast_to(jax.nn.one_hot(BATCH["label"], 3)[:, None, None], (6, 4, 4, 3))
    np.testing.assert_array_equal(planes(0.0), truth)
    np.testing.assert_array_equal(planes(0.0, label=jax.nn.one_hot(BATCH["label"], 3)), truth)
    many = {"image": jnp.zeros((6000, 1, 1, 1)), "label": jnp.zeros(6000, int)}
    share = planes(0.6, **many).mean((0, 1, 2))
    np.testing.assert_allclose(share, [0.6, 0.2, 0.2], atol=0.03)
    np.testing.assert_array_equal(planes(0.6, None, **many), planes(0.6, None, **many))
    assert np.any(planes(0.6, **many) != planes(0.6, jax.random.key(1), **many))
    pixels = jax.random.randint(KEY, (6, 4, 4), 0, 3)
    np.testing.assert_array_equal(planes(0.0, label=pixels), jax.nn.one_hot(pixels, 3))
    with pytest.raises(ValueError, match="noise is 2, wanted"):
        models.label_assisted(seen, 3, noise=2)


def fixed_mask(width):
    return models.from_callable(
        lambda params, x: {"mask": jnp.broadcast_to(params["mask"], x.shape)},
        lambda key: {"mask": jnp.linspace(0, 1, width)},
        inputs="features",
    )


def test_a_mask_multiplies_a_feature_of_a_frozen_teacher():
    variables = BODY.init(KEY, BATCH)
    special = models.masked(BODY, variables, fixed_mask(8), at="hidden_0")
    own = special.init(KEY, BATCH)
    hidden = BODY.apply(variables, BATCH)[0]["taps/hidden_0"] * jnp.linspace(0, 1, 8)
    params = variables["params"]
    x = jax.nn.relu(hidden) @ params["hidden_1"]["kernel"] + params["hidden_1"]["bias"]
    wanted = jax.nn.relu(x) @ params["head"]["kernel"] + params["head"]["bias"]
    np.testing.assert_allclose(special.apply(own, BATCH)[0]["logits"], wanted, rtol=1e-5)

    def total(own):
        return jnp.sum(special.apply(own, BATCH)[0]["logits"] ** 2)

    slopes = jax.grad(total)(own)
    assert np.any(slopes["params"]["mask"] != 0)
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(slopes["frozen"]))


def test_a_frozen_model_can_come_later():
    special = models.masked(BODY, None, fixed_mask(8), at="hidden_0")
    own = special.init(KEY, BATCH)
    variables = BODY.init(jax.random.key(1), BATCH)
    given = special.apply({**own, "frozen": variables}, BATCH)[0]["logits"]
    at_once = models.masked(BODY, variables, fixed_mask(8), at="hidden_0")
    wanted = at_once.apply(at_once.init(KEY, BATCH), BATCH)[0]["logits"]
    np.testing.assert_array_equal(given, wanted)


def test_a_student_answers_by_its_teachers_classifier():
    layer = {"kernel": jax.random.normal(KEY, (6, 3)), "bias": jnp.arange(3.0)}
    model = models.with_classifier(BODY, 3, width=6, layer=layer)
    variables = model.init(KEY, BATCH)
    signals, _ = model.apply(variables, BATCH)
    own, _ = BODY.apply({"params": variables["params"]["model"]}, BATCH)
    projector = variables["params"]["projector"]
    wanted = own["embedding"] @ projector["kernel"] + projector["bias"]
    np.testing.assert_allclose(signals["embedding"], wanted, rtol=1e-4, atol=1e-5)
    answer = wanted @ layer["kernel"] + layer["bias"]
    np.testing.assert_allclose(signals["logits"], answer, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(signals["taps/hidden_0"], own["taps/hidden_0"])

    def total(own):
        return jnp.sum(model.apply(own, BATCH)[0]["logits"] ** 2)

    slopes = jax.grad(total)(variables)
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(slopes["frozen"]))
    assert np.any(slopes["params"]["model"]["hidden_0"]["kernel"] != 0)
    with pytest.raises(ValueError, match=r"kernel of shape \(6, 3\), wanted \(5, 3\)"):
        models.with_classifier(BODY, 3, width=5, layer=layer)


def test_a_classifier_on_a_model_with_statistics_trains():
    network = models.from_linen(models.ConvNet(widths=(4,)))
    model = models.with_classifier(network, 10, width=8)
    variables = model.init(KEY, BATCH)
    _, changed = model.apply(variables, BATCH, train=True)
    assert set(variables) == {"params", "batch_stats", "frozen"}
    assert set(changed) == {"batch_stats"}


def test_masked_models_name_what_is_wrong():
    variables = BODY.init(KEY, BATCH)
    with pytest.raises(ValueError, match="hidden_9"):
        models.masked(BODY, variables, fixed_mask(8), at="hidden_9").init(KEY, BATCH)
    with pytest.raises(TypeError, match="masked wants a model made by from_linen"):
        models.masked(models.from_batch({"logits": "x"}), {}, fixed_mask(8), at="x")
    network = objectives.mask_network(8, hidden=4, heads=2)
    special = models.masked(BODY, variables, network, at="hidden_0")
    assert special.apply(special.init(KEY, BATCH), BATCH)[0]["logits"].shape == (6, 3)
