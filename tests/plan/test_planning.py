"""Plans: bytes by role, traffic, what does not fit, meshes to compare, the largest batch."""

import json

import jax
import jax.numpy as jnp
import optax
import pytest

import kdjax
from kdjax import algorithms, losses, models, parallel
from kdjax.plan import (
    CHIPS,
    Memory,
    Plan,
    compared,
    described,
    largest_batch,
    mesh_sizes,
    parse_variants,
    plan,
    topology,
    written,
)

BATCH = {
    "image": jax.ShapeDtypeStruct((32, 64), jnp.float32),
    "label": jax.ShapeDtypeStruct((32,), jnp.int32),
}
TEACHER = models.from_linen(models.MLP(features=(512,)))
STUDENT = models.from_linen(models.MLP(features=(128,)))


def distillation():
    return algorithms.distill(STUDENT, TEACHER, kdjax.lift(losses.kd), optax.adam(1e-3))


def frozen():
    return {"teacher": jax.eval_shape(TEACHER.init, jax.random.key(0), BATCH)}


def planned(*sizes, **options):
    return plan(distillation(), BATCH, frozen(), parallel.make_mesh(*sizes), **options)


@pytest.mark.optimized
def test_what_is_whole_on_each_device():
    found = planned(8)
    student = 64 * 128 + 128 + 128 * 10 + 10
    teacher = 64 * 512 + 512 + 512 * 10 + 10
    assert found.parameters == {"teacher": teacher, "student": student}
    assert found.memory.parts == {
        "teacher: variables": 4 * teacher,
        "student: parameters": 4 * student,
        "student: optimiser": 4 * (2 * student + 1),
        "batch": 4 * 4 * (64 + 1),
    }
    # The step reads all of it but the labels, and its own key and number.
    unread, more = 4 * 4, 8 + 4
    assert found.memory.arguments == sum(found.memory.parts.values()) - unread + more
    (gradients,) = found.traffic
    assert (gradients.kind, gradients.axes) == ("all-reduce", ("data",))
    assert gradients.bytes == pytest.approx(2 * 7 / 8 * 4 * student, rel=0.01)
    forward = 2 * 32 * (64 * 128 + 128 * 10)
    assert found.flops == 2 * 32 * (64 * 512 + 512 * 10) + 2 * forward + 2 * 32 * 128 * 10


@pytest.mark.optimized
def test_what_is_split_over_fsdp():
    found = planned(1, 8)
    kernels = {"teacher": 64 * 512 + 512 * 10, "student": 64 * 128}
    rest = {name: found.parameters[name] - count for name, count in kernels.items()}
    share = {name: 4 * (count // 8 + rest[name]) for name, count in kernels.items()}
    assert found.memory.parts["teacher: variables"] == share["teacher"]
    assert found.memory.parts["student: parameters"] == share["student"]
    assert found.memory.parts["student: optimiser"] == 2 * share["student"] + 4
    assert {part.axes for part in found.traffic} == {("fsdp",)}
    gathered = sum(part.bytes for part in found.traffic if part.kind == "all-gather")
    # The student's again in the backward pass, if it is not kept.
    least = 4 * 7 / 8 * sum(kernels.values())
    assert least <= gathered <= least + 4 * 7 / 8 * kernels["student"]


def test_a_batch_that_does_not_divide():
    odd = {"image": jnp.ones((3, 64)), "label": jnp.ones(3, int)}
    with pytest.raises(ValueError, match="multiple of the 8 devices"):
        plan(distillation(), odd, frozen(), parallel.make_mesh())


@pytest.mark.parametrize(
    ("text", "needed", "available"),
    [
        (
            "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory "
            "space hbm. Used 20.50G of 15.75G hbm. Exceeded hbm capacity by 4.75G.",
            20.5,
            15.75,
        ),
        (
            "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO "
            "temporaries (40.25G) exceeds available HBM (15.75G).",
            40.25,
            15.75,
        ),
    ],
)
def test_running_out_of_memory_is_an_answer(monkeypatch, text, needed, available):
    def compile(self, *_, **__):
        raise jax.errors.JaxRuntimeError(text)

    monkeypatch.setattr(jax.stages.Lowered, "compile", compile)
    found = planned(8, chip=CHIPS["v5e"])
    assert found.fits is False and found.roofline is None
    assert found.memory.total == int(needed * 2**30)
    assert f"needs {needed:.2f} GiB of {available:.2f} GiB" in described(found)
    json.dumps(found.as_dict())


def test_other_errors_of_the_compiler_stay_errors(monkeypatch):
    def compile(self, *_, **__):
        raise jax.errors.JaxRuntimeError("INTERNAL: no")

    monkeypatch.setattr(jax.stages.Lowered, "compile", compile)
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        planned(8)


def example(temporaries=2**30, **options):
    memory = Memory({"batch": 2**20}, 2**21, temporaries, 0, 2**20)
    given = {"topology": "v5e:2x2", "mesh": {"fsdp": 4}, "chip": CHIPS["v5e"], "note": ""}
    sizes = {"items": 4096, "unit": "tokens", "batch_size": 2, "parameters": {"student": 7}}
    return Plan(**given, **sizes, memory=memory, flops=4 * 197 * 10**9, **options)


def test_fits():
    assert example().fits and not example(temporaries=2**34).fits
    assert example(simulated=True).fits is None


def test_a_roofline():
    found = example().roofline
    assert found.compute == pytest.approx(1e-3)
    assert found.memory == pytest.approx((2**21 + 2**31) / 819e9)
    assert found.seconds == found.memory and found.interconnect == 0
    assert example().items_per_second == pytest.approx(4096 / found.seconds)
    assert example(simulated=True).roofline is None


def test_the_files_of_a_plan(tmp_path):
    data, page = written([example(), example(temporaries=2**34)], tmp_path / "new")
    assert [row["fits"] for row in json.loads(data.read_text())] == [True, False]
    assert page.read_text().startswith(compared([example(), example(temporaries=2**34)]))
    assert page.read_text().count("## Memory per device") == 2


def test_the_compiler_gave_no_time():
    assert "gave no estimate" in described(example())
    assert "1.50 GHz" in described(example(compiler_cycles=10**6))
    assert "The compiler estimates 2 ms" in described(example(compiler_seconds=2e-3))


@pytest.mark.parametrize("text", ["", "date=-1", "data=many", "data"])
def test_meshes_that_are_none(text):
    with pytest.raises(ValueError, match=r"compare is|no axis|wanted a number"):
        parse_variants(text)


def test_meshes_of_the_task():
    found = [mesh_sizes(mesh) for mesh in parse_variants("data=-1;fsdp=-1;data=4,fsdp=4,tensor=1")]
    assert [tuple(mesh.values()) for mesh in found] == [(-1, 1, 1), (1, -1, 1), (4, 4, 1)]


@pytest.mark.parametrize(
    ("most", "start", "powers", "multiples"),
    [
        (5, 24, None, None),
        (6, 6, 6, 6),
        (77, 6, 48, 72),
        (77, 96, 48, 72),
        (11, 42, 6, 6),
        (35, 42, 18, 30),
    ],
)
def test_the_largest_batch(most, start, powers, multiples):
    tried = []

    def fits(size):
        tried.append(size)
        return size <= most

    assert largest_batch(fits, start, multiple=6) == powers
    assert largest_batch(fits, start, multiple=6, how="multiples") == multiples
    assert all(size % 6 == 0 for size in tried)


def test_a_search_ends():
    assert largest_batch(lambda size: True, 3, limit=100) == 96
    assert largest_batch(lambda size: True, 3, limit=100, how="multiples") == 96


@pytest.mark.parametrize("options", [{"start": 0}, {"start": 3, "multiple": 2}, {"how": "all"}])
def test_a_search_from_nowhere(options):
    with pytest.raises(ValueError, match=r"start is|how is"):
        largest_batch(lambda size: True, **{"start": 4} | options)


@pytest.mark.parametrize("name", ["v5x:2x2", "v5e", "tpu", "v5e:2"])
def test_unknown_topologies(name):
    with pytest.raises(ValueError, match=r"topology is .*wanted 'cpu' or a chip"):
        topology(name)


def test_more_devices_than_there_are():
    with pytest.raises(ValueError, match="xla_force_host_platform_device_count=9000"):
        topology("cpu", 9000)


def test_without_a_tpu_compiler(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    found = topology("v5e:2x2")
    assert len(found.devices) == 4 and found.chip is CHIPS["v5e"]
    assert "pip install 'kdjax[plan]'" in found.note
