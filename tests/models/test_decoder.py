"""The decoder: who sees whom, scan against layers one by one, heads, types, meshes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import kdjax
from kdjax import algorithms, distributions, models, parallel
from kdjax.losses import divergences
from kdjax.models import decoder

OPTIONS = {"vocabulary": 32, "width": 16, "depth": 3, "heads": 4, "kv_heads": 2, "hidden": 24}
TOKENS = jax.random.randint(jax.random.key(1), (2, 9), 0, 32)


def made(**options):
    network = models.build("decoder", **OPTIONS | options)
    return network, jax.jit(network.init)(jax.random.key(0), TOKENS)["params"]


@functools.partial(jax.jit, static_argnums=0)
def apply(network, params, tokens=TOKENS):
    return network.apply({"params": params}, tokens)


def logits(network, params, tokens=TOKENS):
    return apply(network, params, tokens)["logits"]


def layer_by_layer(params):
    """The parameters of a scanned stack as those of single layers."""
    rest = {name: tree for name, tree in params.items() if name != decoder.LAYERS}
    stack = params[decoder.LAYERS]
    depth = OPTIONS["depth"]
    return rest | {f"layer_{i}": jax.tree.map(lambda x, i=i: x[i], stack) for i in range(depth)}


def test_a_position_sees_no_later_one():
    network, params = made()
    changed = TOKENS.at[:, 5].set((TOKENS[:, 5] + 1) % 32)
    before, after = (logits(network, params, tokens) for tokens in (TOKENS, changed))
    np.testing.assert_array_equal(before[:, :5], after[:, :5])
    assert (jnp.abs(before - after)[:, 5:].max(-1) > 1e-4).all()


def test_attention_depends_on_distances_only():
    angles = decoder.rotation(20, 8)
    query, key = jax.random.normal(jax.random.key(2), (2, 1, 1, 1, 8))

    def product(i, j):
        turned = (decoder.rotate(x, angles[at][None]) for x, at in ((query, i), (key, j)))
        return float(jnp.sum(next(turned) * next(turned)))

    assert product(3, 1) == pytest.approx(product(19, 17), abs=1e-5)
    assert product(3, 1) != pytest.approx(product(3, 2), abs=1e-3)


def plainly(params, tokens):
    """The same network in numpy, a position and a head at a time."""
    heads, size = OPTIONS["heads"], OPTIONS["width"] // OPTIONS["heads"]
    shared = heads // OPTIONS["kv_heads"]

    def norm(x, scale):
        return x / np.sqrt(np.mean(x**2, -1, keepdims=True) + 1e-5) * scale

    def turned(x, position):
        angle = position * 10000.0 ** (-np.arange(0, size, 2) / size)
        pairs = (x[: size // 2] + 1j * x[size // 2 :]) * np.exp(1j * angle)
        return np.concatenate([pairs.real, pairs.imag])

    def attention(x, own):
        query, key, value = (
            (x @ own[name]["kernel"]).reshape(len(x), -1, size)
            for name in ("query", "key", "value")
        )
        out = np.zeros_like(query)
        for i in range(len(x)):
            for head in range(heads):
                theirs = head // shared
                q = turned(query[i, head], i)
                scores = [turned(key[j, theirs], j) @ q / size**0.5 for j in range(i + 1)]
                weights = np.exp(scores) / np.sum(np.exp(scores))
                out[i, head] = weights @ value[: i + 1, theirs]
        return out.reshape(len(x), -1) @ own["out"]["kernel"]

    def mlp(x, own):
        gate = x @ own["gate"]["kernel"]
        return (gate / (1 + np.exp(-gate)) * (x @ own["up"]["kernel"])) @ own["down"]["kernel"]

    x = params["embed"]["embedding"][tokens]
    for i in range(OPTIONS["depth"]):
        own = params[f"layer_{i}"]
        x = x + attention(norm(x, own["attention_norm"]["scale"]), own["attention"])
        x = x + mlp(norm(x, own["mlp_norm"]["scale"]), own["mlp"])
    return norm(x, params["norm"]["scale"]) @ params["head"]["kernel"]


def test_the_formula():
    network, params = made()
    plain = jax.tree.map(lambda x: np.asarray(x, np.float64), layer_by_layer(params))
    for row, tokens in enumerate(TOKENS):
        expected = plainly(plain, np.asarray(tokens))
        np.testing.assert_allclose(logits(network, params)[row], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("remat", [False, True])
def test_a_scanned_stack_is_its_layers_one_by_one(remat):
    network, params = made(remat=remat)
    unrolled = models.build("decoder", **OPTIONS, scanned=False)

    @functools.partial(jax.jit, static_argnums=0)
    def loss(network, params):
        return jax.value_and_grad(lambda p: jnp.sum(jnp.sin(logits(network, p))))(params)

    value, gradient = loss(network, params)
    expected = loss(unrolled, layer_by_layer(params))
    np.testing.assert_allclose(value, expected[0], rtol=1e-5)
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-4),
        layer_by_layer(gradient),
        expected[1],
    )


def test_a_tied_head_is_the_embedding():
    network, params = made(tied=True)
    assert "head" not in params
    answer = apply(network, params)
    expected = answer["embedding"] @ params["embed"]["embedding"].T
    np.testing.assert_allclose(answer["logits"], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("tied", [False, True])
def test_the_distribution_is_that_of_the_logits(tied):
    network, params = made(tied=tied)
    short = models.build("decoder", **OPTIONS, tied=tied, logits=False)
    answer = apply(short, params)
    assert isinstance(answer["distribution"], distributions.Linear) and "logits" not in answer
    found, expected = answer["distribution"].materialize(), logits(network, params)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_the_gradient_is_the_slope():
    network, params = made(remat=True)

    def loss(params):
        return jnp.mean(jnp.square(logits(network, params)))

    gradient = jax.jit(jax.grad(loss))(params)
    assert all(bool(jnp.any(leaf != 0)) for leaf in jax.tree.leaves(gradient))
    norm = optax.tree.norm(gradient)
    moved = [
        loss(jax.tree.map(lambda p, g: p + sign * 1e-2 * g / norm, params, gradient))  # noqa: B023
        for sign in (1, -1)
    ]
    assert (moved[0] - moved[1]) / 2e-2 == pytest.approx(float(norm), rel=2e-2)


def test_bfloat16_computes_near_float32_with_parameters_in_float32():
    network, params = made()
    half, kept = made(dtype="bfloat16")
    jax.tree.map(np.testing.assert_array_equal, params, kept)
    assert apply(half, params)["embedding"].dtype == jnp.bfloat16
    np.testing.assert_allclose(
        logits(half, params),
        logits(network, params),
        atol=0.05 * float(logits(network, params).std()),
    )
    teacher = made(dtype="bfloat16", param_dtype="bfloat16")[1]
    assert {leaf.dtype for leaf in jax.tree.leaves(teacher)} == {jnp.dtype("bfloat16")}


@pytest.mark.parametrize(
    ("options", "message"),
    [({"heads": 3}, "width is 16"), ({"heads": 16}, "width is 16"), ({"kv_heads": 3}, "kv_heads")],
)
def test_heads_that_do_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        made(**options)


def test_tokens_want_a_batch():
    with pytest.raises(ValueError, match=r"\[batch, length\]"):
        made()[0].init(jax.random.key(0), TOKENS[0])


def distillation():
    """A student and a teacher that never make logits."""
    model = models.from_linen(
        models.build("decoder", **OPTIONS, logits=False, remat=True), inputs="tokens"
    )
    objective = kdjax.lift(
        distributions.divergence(divergences.kl_term),
        student="distribution",
        teacher="distribution",
        name="forward_kl",
    )
    return model, algorithms.distill(model, model, objective, optax.sgd(0.5))


@pytest.mark.parametrize("sizes", [(8, 1, 1), (1, 8, 1), (2, 2, 2)])
def test_a_mesh_changes_no_number(sizes):
    batch = {"tokens": jax.random.randint(jax.random.key(3), (8, 5), 0, 32)}
    model, algorithm = distillation()
    frozen = {"teacher": model.init(jax.random.key(4), batch)}

    def trained(algorithm):
        state = algorithm.init(jax.random.key(5), batch, frozen)
        for _ in range(2):
            state, metrics = algorithm.step(state, batch, frozen)
        return jax.tree.map(np.asarray, (state.players["student"].params, metrics))

    expected = trained(parallel.compile(algorithm))
    found = trained(
        parallel.compile(algorithm, mesh=parallel.make_mesh(*sizes), rules=decoder.RULES)
    )
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-4, atol=2e-5), found, expected
    )
