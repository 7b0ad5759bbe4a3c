"""Steps that take their examples from a data set on the device."""

import jax
import numpy as np
import optax
import pytest

import kdjax
from kdjax import algorithms, data, losses, models, objectives, parallel

BATCH, STEPS = 16, 6
DRAW = np.random.default_rng(0)
TRAIN = data.from_arrays(
    {
        "image": DRAW.integers(0, 256, (40, 4, 4, 1), np.uint8),
        "label": DRAW.integers(0, 3, 40),
        "id": DRAW.permutation(40),
    }
)
FORMS = {
    "jit": {},
    "data x8": {"mesh": (8, 1, 1)},
    "data x2 fsdp x2 tensor x2": {"mesh": (2, 2, 2)},
    "explicit": {"mesh": (4, 2, 1), "explicit": True},
    "pmap": {"how": "pmap"},
}


def network(width):
    return models.from_linen(models.zoo.build("mlp", num_classes=3, features=(width,)))


def algorithm(how="jit"):
    """Randomness by `id`, so that other rows or another order would show."""
    axis = {"axis_name": parallel.PMAP_AXIS} if how == "pmap" else {}
    objective = objectives.with_labels(
        kdjax.lift(losses.kd), kdjax.lift(losses.cross_entropy), weight=0.9, label_weight=0.1
    )
    augment = data.compose(lambda key, batch: data.to_float(batch), data.random_shift(1))
    optimizer = optax.sgd(0.1)
    return algorithms.distill(
        network(8), network(16), objective, optimizer, augment=augment, **axis
    )


def compiled(how="jit", mesh=None, explicit=False):
    placed = {} if mesh is None else {"mesh": parallel.make_mesh(*mesh, explicit=explicit)}
    return parallel.compile(algorithm(how), how=how, **placed)


def trained(made, dataset, extra, per_call=1):
    """Parameters after some steps; the batches are those of `dataset`."""
    example = TRAIN.take(np.arange(BATCH))
    floats = {**example, "image": example["image"] / np.float32(255)}
    frozen = {"teacher": network(16).init(jax.random.key(1), floats)}
    state = made.init(jax.random.key(0), example, frozen)
    source = data.batches(dataset, batch_size=BATCH, seed=5)
    for _ in range(STEPS // per_call):
        batches = tuple(next(source) for _ in range(per_call))
        if per_call == 1:
            state, metrics = made.step(state, batches[0], {**frozen, **extra})
        else:
            state, metrics = made.several(state, batches, {**frozen, **extra})
    return state.players["student"].params, metrics, source.get_state()


@pytest.mark.parametrize(
    ("form", "per_call"),
    [(form, n) for form in FORMS for n in (1, 3) if (form, n) != ("pmap", 3)],
)
def test_the_same_numbers(form, per_call):
    made = compiled(**FORMS[form])
    columns, rows = data.on_device(TRAIN)
    assert rows.fingerprint == TRAIN.fingerprint and rows.size == TRAIN.size
    whole = trained(made, TRAIN, {}, per_call)
    taken = trained(made, rows, {data.COLUMNS: columns}, per_call)
    assert whole[2] == taken[2]
    for a, b in zip(*map(jax.tree.leaves, (whole[:2], taken[:2])), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def collectives(made, layout, batch, frozen):
    state = parallel.compile(made, mesh=layout.mesh).init(
        jax.random.key(0), TRAIN.take(np.arange(BATCH)), {"teacher": frozen["teacher"]}
    )
    frozen = jax.device_put(frozen, layout.frozen(frozen))
    program = parallel.mesh_step(made, layout).lower(state, layout.place_batch(batch), frozen)
    text = program.compile().as_text()
    return {name: text.count(f" {name}(") for name in ("all-reduce", "all-gather", "all-to-all")}


def test_no_data_travel_between_devices():
    """Each device takes its own rows from its own copy."""
    layout, made = parallel.Layout(parallel.make_mesh(8, 1, 1)), algorithm()
    example = TRAIN.take(np.arange(BATCH))
    floats = {**example, "image": example["image"] / np.float32(255)}
    frozen = {"teacher": network(16).init(jax.random.key(1), floats)}
    columns, _ = data.on_device(TRAIN, layout.everywhere)
    whole = collectives(made, layout, example, frozen)
    rows = {"row": np.arange(BATCH, dtype=np.int32)}
    assert collectives(made, layout, rows, {**frozen, data.COLUMNS: columns}) == whole
    assert whole["all-reduce"] > 0


def test_batches_without_row_numbers():
    columns, _ = data.on_device(TRAIN)
    with pytest.raises(ValueError, match=r"'image', 'label'.*wanted a field 'row'"):
        trained(compiled(), TRAIN, {data.COLUMNS: columns})


def test_what_cannot_lie_there():
    class OnDisk:
        features, fingerprint = {}, lambda self: ""

        def __len__(self):
            return 3

    with pytest.raises(TypeError, match="read from disk"):
        data.on_device(data.Dataset("large", OnDisk()))
    with pytest.raises(ValueError, match="int64 values"):
        data.on_device(data.from_arrays({"id": np.array([0, 2**40])}))
