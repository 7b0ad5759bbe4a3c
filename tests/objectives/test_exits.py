"""Exit branches against flax's own layers, and statistics mixed in from other images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from kdjax import losses, objectives
from kdjax.base import EMPTY, Context
from kdjax.objectives import exits

pytestmark = pytest.mark.every(2)

KEY = jax.random.key(0)


def dense(params):
    return {"kernel": params["kernel_0"], "bias": params["bias_0"]}


def normal(x, axes):
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + 1e-6)


def apply_dense(params, x):
    return nn.Dense(params["kernel_0"].shape[1]).apply({"params": dense(params)}, x)


def test_images_pass_separable_convolutions():
    feature = jax.random.normal(KEY, (3, 6, 6, 4))
    params = exits.exit_init(KEY, feature.shape, 5, blocks=2)
    x, width = feature, 4
    for block in range(2):
        own = params[f"block_{block}"]
        for depthwise, pointwise, stride in (("halve", "first", 2), ("keep", "second", 1)):
            layer = nn.Conv(
                width, (3, 3), stride, feature_group_count=width, use_bias=False, padding="SAME"
            )
            x = apply_dense(own[pointwise], layer.apply({"params": {"kernel": own[depthwise]}}, x))
            x = nn.relu(normal(np.asarray(x), (1, 2, 3)))
        width *= 2
    assert x.shape == (3, 2, 2, 16)
    wanted = apply_dense(params["head"], x.mean((1, 2)))
    given = exits.exit_logits(params, feature)
    np.testing.assert_allclose(given, wanted, rtol=2e-3, atol=2e-4)
    assert given.shape == (3, 5)


def test_tokens_are_merged_and_see_one_another():
    feature = np.asarray(jax.random.normal(KEY, (2, 16, 4)))
    params = exits.exit_init(KEY, feature.shape, 5, blocks=1, heads=2, grid=2)
    corners = [feature.reshape(2, 4, 4, 4)[:, i::2, j::2] for i in (0, 1) for j in (0, 1)]
    x = np.concatenate(corners, axis=-1).reshape(2, 4, 16)
    x = np.asarray(apply_dense(params["merge_0"], normal(x, -1)))
    own = params["block_0"]
    query, key, value = np.split(np.asarray(apply_dense(own["qkv"], normal(x, -1))), 3, axis=-1)
    mixed = []
    for head in (slice(0, 4), slice(4, 8)):
        scores = query[..., head] @ key[..., head].swapaxes(1, 2) / 2
        mixed.append(np.asarray(jax.nn.softmax(scores)) @ value[..., head])
    x = x + np.asarray(apply_dense(own["out"], np.concatenate(mixed, axis=-1)))
    wide = nn.gelu(apply_dense(own["wide"], normal(x, -1)))
    x = x + np.asarray(apply_dense(own["narrow"], wide))
    wanted = apply_dense(params["head"], x.mean(1))
    given = exits.exit_logits(params, feature, heads=2)
    np.testing.assert_allclose(given, wanted, rtol=2e-3, atol=2e-4)
    fine = exits.exit_init(KEY, (2, 16, 4), 5, blocks=1, grid=4)
    assert "merge_0" not in fine


@pytest.mark.parametrize("shape, blocks", [((4, 6, 6, 4), 1), ((4, 16, 8), 1), ((4, 7), 0)])
def test_examples_do_not_meet_in_an_exit(shape, blocks):
    feature = jax.random.normal(KEY, shape)
    params = exits.exit_init(KEY, shape, 3, blocks=blocks)
    whole = exits.exit_logits(params, feature)
    alone = jnp.concatenate([exits.exit_logits(params, feature[i : i + 1]) for i in range(4)])
    np.testing.assert_allclose(whole, alone, rtol=1e-4, atol=1e-5)
    slopes = jax.grad(lambda p: jnp.sum(exits.exit_logits(p, feature) ** 2))(params)
    assert all(np.any(leaf != 0) for leaf in jax.tree.leaves(slopes) if leaf.ndim > 1)


def test_exits_say_what_does_not_suit():
    with pytest.raises(ValueError, match=r"blocks is 1 for features of shape \(2, 8\), wanted 0"):
        exits.exit_init(KEY, (2, 8), 3, blocks=1)
    with pytest.raises(ValueError, match="features have 12 tokens, wanted a square number"):
        exits.exit_init(KEY, (2, 12, 8), 3, blocks=1)
    with pytest.raises(ValueError, match="heads is 3 for tokens of width 8"):
        exits.exit_init(KEY, (2, 16, 8), 3, blocks=1, heads=3)
    with pytest.raises(ValueError, match=r"blocks are \(1,\) for 2 features"):
        objectives.ofa_exits(features=("a", "b"), blocks=(1,))


def test_mixed_images_have_the_statistics_of_both():
    images, others = jax.random.normal(KEY, (2, 5, 6, 6, 2)) * jnp.array([3.0, 0.5])
    others = others + 4
    share = jnp.array([0.0, 0.25, 0.5, 1.0, 1.0])
    given = np.asarray(objectives.mix_statistics(images, others, share))
    for name in ("mean", "std"):
        own, theirs = (getattr(np.asarray(x), name)(axis=(1, 2)) for x in (images, others))
        wanted = share[:, None] * own + (1 - share[:, None]) * theirs
        np.testing.assert_allclose(getattr(given, name)(axis=(1, 2)), wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(given[3:], images[3:], rtol=1e-4, atol=1e-5)
    flat = objectives.mix_statistics(jnp.ones((1, 3, 1)), jnp.zeros((1, 3, 1)), jnp.array([0.5]))
    assert np.all(np.isfinite(flat))


def test_mixed_views_are_told_from_other_images():
    images = jax.random.normal(KEY, (6, 4, 1))
    seen = []

    def network(batch):
        seen.append(batch["image"])
        return {"embedding": batch["image"].reshape(6, 4)}

    signals = {"student": {"embedding": images.reshape(6, 4)}}
    context = Context(signals, {"image": images}, 0, KEY, {"student": network})
    objective = objectives.mix_distribution(temperature=0.5)
    terms, _ = objective.apply(EMPTY, context)
    wanted = losses.info_nce(seen[0].reshape(6, 4), images.reshape(6, 4), temperature=0.5).mean()
    np.testing.assert_allclose(terms["mix_distribution"].mean, wanted, rtol=1e-5)
    assert objective.coupled and np.any(np.abs(seen[0] - images) > 0.1)
    with pytest.raises(ValueError, match="concentration is 0, wanted"):
        objectives.mix_distribution(concentration=0)
