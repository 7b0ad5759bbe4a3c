"""Heads split over a mesh: the unsharded numbers, and nothing as wide as the vocabulary travels."""

from __future__ import annotations

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import plain
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from kdjax import distributions as D
from kdjax.losses import divergences

pytestmark = pytest.mark.every(2)

TOKENS = (4, 6)
ARRAYS = plain.data(1, TOKENS)
BY = ("hidden", "kernel", "bias")
OPTIONS = {
    "where": ARRAYS["where"],
    "labels": ARRAYS["labels"],
    "temperature": 1.5,
    "classes": jnp.arange(plain.VOCABULARY) < 14,
    "chunk_size": 5,
}
SPECS = {"hidden": P("data"), "kernel": P(None, "tensor"), "bias": P("tensor"),
         "teacher": P("data", None, "tensor"), "teacher_hidden": P("data"),
         "teacher_kernel": P(None, "tensor"), "ids": P("data"), "weights": P("data")}  # fmt: skip
COLLECTIVE = re.compile(r"= (.*?) (?:all-\w+|reduce-scatter|collective-\w+)(?:-start)?\(")


def mesh_of(kind, shape=(2, 4)):
    return jax.make_mesh(shape, ("data", "tensor"), axis_types=(kind,) * 2)


def placed(mesh):
    layout = {name: NamedSharding(mesh, SPECS.get(name, P())) for name in ARRAYS}
    return jax.device_put(ARRAYS, layout)


def teacher_of(kind, arrays):
    """As `plain.teacher_of`, made of arrays that may lie on a mesh."""
    if kind in ("dense", "linear"):
        return plain.teacher_of(kind, arrays)
    made = plain.teacher_of(kind, ARRAYS)
    like = arrays["ids"].sharding
    return jax.tree.map(lambda x: jax.device_put(x, like) if x.ndim == 3 else x, made)


def both_forms(arrays, teacher, sharding, tail):
    """Value and gradients of the per-token form, then of the weighted sum."""
    options = {name: arrays.get(name, x) for name, x in OPTIONS.items()}
    options |= {"sharding": sharding, "tail": tail}

    def per_token(own):
        student = D.Linear(own["hidden"], own["kernel"], own["bias"], 0.7, 3.0)
        losses = D.divergence(plain.home_made)(student, teacher, **options)
        return jnp.sum(arrays["weights"] * losses)

    def summed(own):
        student = D.Linear(own["hidden"], own["kernel"], own["bias"], 0.7, 3.0)
        return D.weighted_sum(plain.home_made)(student, teacher, arrays["weights"], **options)

    own = {name: arrays[name] for name in BY}
    return jax.jit(lambda own: [jax.value_and_grad(f)(own) for f in (per_token, summed)])(own)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize(
    ("teacher", "tail"),
    [("dense", "ghost"), ("linear", "ghost"), ("samples", "ghost")]
    + [("sparse", tail) for tail in ("ghost", "renormalize", "zero", "uniform", "drop")],
)
def test_a_mesh_gives_the_same_numbers(teacher, tail, kind):
    wanted = both_forms(ARRAYS, teacher_of(teacher, ARRAYS), None, tail)
    mesh = mesh_of(kind)
    with jax.set_mesh(mesh):
        arrays = placed(mesh)
        sharding = D.VocabSharding(mesh, vocab="tensor", tokens=("data",))
        given = both_forms(arrays, teacher_of(teacher, arrays), sharding, tail)
    plain.assert_close(jax.device_get(given), jax.device_get(wanted))


@pytest.mark.parametrize(
    "layout",
    [
        {"vocab": "tensor"},
        {"tokens": ("data", None)},
        {"tokens": (("data",), "tensor")},
        {"vocab": ("data", "tensor")},
    ],
)
def test_any_axes_may_split_tokens_and_vocabulary(layout):
    mesh = mesh_of(AxisType.Auto, (4, 2))
    teacher = teacher_of("dense", ARRAYS)
    given = both_forms(ARRAYS, teacher, D.VocabSharding(mesh, **layout), "ghost")
    wanted = both_forms(ARRAYS, teacher, None, "ghost")
    plain.assert_close(jax.device_get(given), jax.device_get(wanted))


def test_a_dense_student_may_be_sharded():
    mesh = mesh_of(AxisType.Explicit)
    logits = plain.head(ARRAYS, 1.0, None, True)
    teacher = plain.teacher_of("sparse", ARRAYS)

    def loss(x, **options):
        return jnp.sum(D.evaluate(divergences.kl_term, x, teacher, **options))

    wanted = jax.jit(jax.value_and_grad(loss))(logits)
    with jax.set_mesh(mesh):
        sharding = D.VocabSharding(mesh, vocab="tensor", tokens=("data",))
        own = jax.device_put(logits, NamedSharding(mesh, SPECS["teacher"]))
        given = jax.jit(jax.value_and_grad(functools.partial(loss, sharding=sharding)))(own)
    plain.assert_close(jax.device_get(given), jax.device_get(wanted))


WIDTH, CHUNK, BATCH = 24, 16, (4, 56)


def compiled(vocabulary, form, teacher):
    """A step's program on 2 x 4 devices, from shapes alone."""
    mesh = mesh_of(AxisType.Auto)
    sharding = D.VocabSharding(mesh, vocab="tensor", tokens=("data",))
    options = {"sharding": sharding, "chunk_size": CHUNK}

    def array(*shape, spec=SPECS["hidden"], dtype=jnp.float32):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec))

    kernel = array(WIDTH, vocabulary, spec=SPECS["kernel"])
    student, weights = D.Linear(array(*BATCH, WIDTH), kernel), array(*BATCH)
    if teacher == "linear":
        target = D.Linear(array(*BATCH, WIDTH), kernel)
    else:
        target = D.Sparse(array(*BATCH, 8, dtype=jnp.int32), array(*BATCH, 8))

    def loss(student, target, weights, labels):
        given = options | {"labels": labels}
        if form == "weighted_sum":
            return D.weighted_sum(divergences.kl_term)(student, target, weights, **given)
        return jnp.sum(weights * D.divergence(divergences.kl_term)(student, target, **given))

    arguments = (student, target, weights, array(*BATCH, dtype=jnp.int32))
    return jax.jit(jax.value_and_grad(loss)).lower(*arguments).compile()


def shapes(text):
    return [tuple(map(int, found.split(","))) for found in re.findall(r"\[([\d,]+)\]", text)]


@pytest.mark.optimized
@pytest.mark.parametrize("form", ["per_token", "weighted_sum"])
@pytest.mark.parametrize("teacher", ["linear", "sparse"])
def test_no_collective_carries_a_vocabulary(form, teacher):
    vocabulary = 4 * 1096
    text = compiled(vocabulary, form, teacher).as_text()
    carried = [shape for answer in COLLECTIVE.findall(text) for shape in shapes(answer)]
    assert carried
    # Data parallelism adds up the gradient of the kernel's shard; nothing else is that wide.
    gradient = (WIDTH, vocabulary // 4)
    assert not [x for x in carried if {vocabulary, vocabulary // 4} & set(x) and x != gradient]
    assert carried.count(gradient) <= 1
    assert not [shape for shape in shapes(text) if vocabulary in shape]


def temporaries(vocabulary, form):
    return compiled(vocabulary, form, "linear").memory_analysis().temp_size_in_bytes


@pytest.mark.optimized
@pytest.mark.parametrize("form", ["per_token", "weighted_sum"])
def test_memory_is_a_few_blocks_and_the_gradient(form):
    local, tokens = 8192 // 4, BATCH[0] * BATCH[1] // 2
    block, kernel = 4 * CHUNK * local, 4 * WIDTH * local
    assert temporaries(8192, form) < 6 * block + 5 * kernel + 20 * 4 * tokens * WIDTH
    # Twice the vocabulary takes no more than twice the memory: nothing else depends on it.
    assert temporaries(16384, form) < 2.1 * temporaries(8192, form)


def test_host_tools_agree_with_the_whole_vocabulary():
    mesh = mesh_of(AxisType.Explicit)
    student, teacher = plain.head(ARRAYS, 1.0, None, True).round(), ARRAYS["teacher"].round()
    labels = jnp.maximum(ARRAYS["labels"], 0)
    tools = {
        "top_k": lambda s, t, **o: D.top_k(t, 5, **o),
        "more than a shard holds": lambda s, t, **o: D.top_k(t, 7, **o),
        "on_support": lambda s, t, **o: D.on_support(t, ARRAYS["ids"], **o),
        "agreement": lambda s, t, **o: D.agreement(s, t, 3, **o),
        "rank": lambda s, t, **o: D.rank(s, labels, **o),
        "support_mass": lambda s, t, **o: D.support_mass(s, ARRAYS["ids"], **o),
        "sample": lambda s, t, **o: D.sample(jax.random.key(0), t, 8, **o),
    }
    wanted = {name: jax.jit(tool)(student, teacher) for name, tool in tools.items()}
    np.testing.assert_array_equal(
        wanted["top_k"].ids, jax.lax.top_k(jax.nn.log_softmax(teacher), 5)[1]
    )
    with jax.set_mesh(mesh):
        sharding = D.VocabSharding(mesh, vocab="tensor", tokens=("data",))
        both = jax.device_put((student, teacher), NamedSharding(mesh, SPECS["teacher"]))
        for name, tool in tools.items():
            given = jax.jit(functools.partial(tool, sharding=sharding))(*both)
            plain.assert_close(jax.device_get(given), jax.device_get(wanted[name]))


@pytest.mark.optimized
def test_top_k_sends_candidates_only():
    mesh, vocabulary = mesh_of(AxisType.Auto), 4096
    sharding = D.VocabSharding(mesh, vocab="tensor", tokens=("data",))
    logits = jax.ShapeDtypeStruct(
        (4, 6, vocabulary), jnp.float32, sharding=NamedSharding(mesh, SPECS["teacher"])
    )
    select = jax.jit(functools.partial(D.top_k, k=8, sharding=sharding))
    text = select.lower(logits).compile().as_text()
    carried = [shape for answer in COLLECTIVE.findall(text) for shape in shapes(answer)]
    assert carried and max(np.prod(shape) for shape in carried) <= 4 * 12 * 8


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ({"vocab": "model"}, "no axis"),
        ({"vocab": "data", "tokens": ("data",)}, "share"),
        ({"tokens": ("data", None, "tensor")}, "more axes"),
        ({"tokens": (None, "tensor")}, "does not divide"),
    ],
)
def test_impossible_layouts_raise(layout, message):
    with pytest.raises(ValueError, match=message):
        sharding = D.VocabSharding(mesh_of(AxisType.Auto), **layout)
        D.evaluate(divergences.kl_term, ARRAYS["teacher"], ARRAYS["teacher"], sharding=sharding)


def test_a_vocabulary_that_does_not_divide_raises():
    sharding = D.VocabSharding(mesh_of(AxisType.Auto), vocab="tensor")
    with pytest.raises(ValueError, match="pad it"):
        D.evaluate(divergences.kl_term, jnp.zeros((2, 7)), jnp.zeros((2, 7)), sharding=sharding)
