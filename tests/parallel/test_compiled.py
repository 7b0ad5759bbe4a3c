"""What compiled steps send between devices, read off the program; they lower for all platforms."""

import collections
import math
import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
import pytest

import kdjax
from kdjax import algorithms, losses, models, objectives, parallel
from kdjax.parallel import P, Rules

sys.path.insert(0, str(Path(__file__).parents[1] / "algorithms"))
from exemplars import batch, exemplars, rules

ROWS, LENGTH, VOCABULARY, LAYERS = 16, 32, 4096, 2
NAMES = {"all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute"}
EXEMPLARS = exemplars()


def network(width):
    """Token-wise layers and a head, without a table to look up."""

    def init(key):
        keys = jax.random.split(key, 2 * LAYERS + 1)
        layers = {
            f"layer_{i}": {
                "up": jax.random.normal(keys[2 * i], (width, 4 * width)),
                "down": jax.random.normal(keys[2 * i + 1], (4 * width, width)),
            }
            for i in range(LAYERS)
        }
        return {**layers, "head": jax.random.normal(keys[-1], (width, VOCABULARY))}

    def apply(params, x):
        hidden = x[..., :width]
        for i in range(LAYERS):
            layer = params[f"layer_{i}"]
            hidden += jnp.tanh(hidden @ layer["up"]) @ layer["down"]
        return {"logits": hidden @ params["head"]}

    return models.from_callable(apply, init)


def compiled(objective, mesh, rules):
    """The optimised program of a step, and the shapes of all parameters, whole and in parts."""
    student, teacher = network(32), network(64)
    made = algorithms.distill(student, teacher, objective, optax.adam(1e-3))
    layout = parallel.Layout(parallel.make_mesh(*mesh), rules)
    example = {
        "image": jnp.zeros((ROWS, LENGTH, 64)),
        "label": jnp.zeros((ROWS, LENGTH), jnp.int32),
    }
    frozen = {"teacher": teacher.init(jax.random.key(1), example)}
    state = parallel.compile(made, mesh=layout.mesh, rules=rules).init(
        jax.random.key(0), example, frozen
    )
    arguments = (
        state,
        layout.place_batch(example),
        parallel.place(frozen, layout.frozen(frozen)),
    )
    text = parallel.mesh_step(made, layout).lower(*arguments).compile().as_text()
    return text, [jnp.shape(leaf) for leaf in jax.tree.leaves([state.players, frozen])]


def collectives(text):
    """Kinds of collectives with the shapes they carry; each channel once."""
    found = {}
    for line in text.splitlines():
        if match := re.search(r"= (.*?) ([a-z-]+?)(?:-start)?\(", line):
            channel = re.search(r"channel_id=(\d+)", line)
            if match[2] in NAMES and channel:
                shapes = re.findall(r"\w+\[([\d,]*)\]", match[1])
                carried = [tuple(map(int, filter(None, s.split(",")))) for s in shapes]
                found[channel[1]] = match[2], carried
    return list(found.values())


def logit_objective():
    """Many losses on logits at once."""
    names = ("kd", "reverse_kl", "generalized_jensen_shannon", "total_variation", "dkd", "nkd")
    parts = {name: kdjax.lift(getattr(losses, name)) for name in names}
    return objectives.with_labels(
        objectives.weighted_sum(parts), kdjax.lift(losses.cross_entropy, label_smoothing=0.1)
    )


HEADS = Rules((("head", P(None, "tensor")), ("up", P(None, "tensor")), ("down", P("tensor"))))


@pytest.mark.optimized
@pytest.mark.parametrize("mesh", [(2, 1, 4), (1, 2, 4)])
def test_a_split_vocabulary_never_travels(mesh):
    text, _ = compiled(logit_objective(), mesh, HEADS)
    carried = [shape for _, shapes in collectives(text) for shape in shapes]
    assert carried
    rows = [shape for shape in carried if shape[-1:] in ((VOCABULARY,), (VOCABULARY // 4,))]
    # All that is left is the gradient of the head's part, added up over the examples.
    assert set(rows) <= {(32, VOCABULARY // 4), (64, VOCABULARY // 4)}, rows


@pytest.mark.optimized
def test_fsdp_gathers_each_parameter_and_nothing_else():
    text, _ = compiled(kdjax.lift(losses.kd), (1, 8, 1), Rules(smallest=64))
    found = collections.defaultdict(list)
    for kind, shapes in collectives(text):
        found[kind] += [tuple(sorted(shape)) for shape in shapes if shape]
    widths = (32, 64)
    parameters = [(w, 4 * w) for w in widths for _ in range(2 * LAYERS)]
    parameters += [(w, VOCABULARY) for w in widths]
    assert set(found["all-gather"]) == set(parameters)
    # At most twice: forwards, and once more backwards.
    assert len(parameters) <= len(found["all-gather"]) <= 2 * len(parameters)
    of_the_student = sorted(shape for shape in parameters if shape[0] == 32)
    assert sorted(found["all-reduce"] + found["reduce-scatter"]) == of_the_student
    assert not found["all-to-all"] and not found["collective-permute"]


@pytest.mark.optimized
def test_data_parallel_steps_add_up_gradients_once():
    text, _ = compiled(kdjax.lift(losses.kd), (8, 1, 1), None)
    found = collectives(text)
    assert {kind for kind, _ in found} == {"all-reduce"}
    carried = [shape for _, shapes in found for shape in shapes]
    gradients = 2 * LAYERS * 4 * 32 * 32 + 32 * VOCABULARY
    scalars = sum(1 for shape in carried if not shape)
    assert sum(map(math.prod, carried)) == gradients + scalars
    assert scalars <= 4


@pytest.mark.parametrize("name", EXEMPLARS)
def test_steps_lower_for_every_platform(name):
    make, frozen = EXEMPLARS[name]
    made, mesh = make(), parallel.make_mesh(2, 2, 2)
    layout = parallel.Layout(mesh, rules)
    state = jax.eval_shape(made.init, jax.random.key(0), batch(), frozen)

    def abstract(tree, shardings):
        return jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shardings
        )

    given = (
        abstract(state, layout.state(state)),
        abstract(batch(), jax.tree.map(lambda _: layout.rows, batch())),
        abstract(frozen, layout.frozen(frozen)),
    )
    traced = parallel.mesh_step(made, layout).trace(*given)
    for platform in ("cpu", "cuda", "tpu"):
        assert traced.lower(lowering_platforms=(platform,)).as_text()
