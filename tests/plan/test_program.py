"""Reading compiled programs: groups of devices in all forms, loops, clones, bytes, cycles."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from kdjax import parallel
from kdjax.plan import Traffic, hlo, parse_program
from kdjax.plan.groups import axes_of, device_groups

MESH = {"data": 2, "fsdp": 2, "tensor": 2}


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("{}", [[0, 1, 2, 3, 4, 5, 6, 7]]),
        ("{{0,1},{2,3},{4,5},{6,7}}", [[0, 1], [2, 3], [4, 5], [6, 7]]),
        ("[2,4]<=[8]", [[0, 1, 2, 3], [4, 5, 6, 7]]),
        ("[4,2]<=[2,2,2]T(1,0,2)", [[0, 1], [4, 5], [2, 3], [6, 7]]),
        ("[4,2]<=[2,2,2]T(0,2,1)", [[0, 2], [1, 3], [4, 6], [5, 7]]),
        ("mesh['axis_0'=2,'axis_1'=4] {'axis_0'}", [[0, 4], [1, 5], [2, 6], [3, 7]]),
        ("mesh['a'=2,'b'=2,'c'=2]{'a','c'}", [[0, 1, 4, 5], [2, 3, 6, 7]]),
        ("mesh['a'=2,'b'=4] {'b':(2)2}", [[0, 1], [2, 3], [4, 5], [6, 7]]),
        ("mesh['a'=2,'b'=4] {'b':(1)2}", [[0, 2], [1, 3], [4, 6], [5, 7]]),
        ("mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'b'}", [[0, 2, 4, 6], [1, 3, 5, 7]]),
    ],
)
def test_groups_of_devices(text, groups):
    assert device_groups(text, 8) == groups


def test_an_unknown_form_is_an_error():
    with pytest.raises(ValueError, match="unknown form"):
        device_groups("<0..3>", 8)


@pytest.mark.parametrize(
    ("groups", "axes"),
    [
        ([[0, 1], [2, 3]], ("tensor",)),
        ([[0, 2], [1, 3]], ("fsdp",)),
        ([[0, 4]], ("data",)),
        ([[0, 1, 2, 3]], ("fsdp", "tensor")),
        ([[0, 1], [1, 2], [2, 3], [3, 0]], ("fsdp", "tensor")),
        ([[0], [1]], ()),
    ],
)
def test_axes_of_groups(groups, axes):
    assert axes_of(groups, MESH) == axes


@pytest.mark.parametrize(
    ("shape", "sizes"),
    [
        ("f32[]", [4]),
        ("bf16[4,1408,64]{1,2,0:T(8,128)(2,1)S(1)}", [2 * 4 * 1408 * 64]),
        ("(s32[]{:T(128)}, pred[3], u4[5], /*index=3*/f8e4m3fn[2,2])", [4, 3, 3, 4]),
    ],
)
def test_bytes_of_a_type(shape, sizes):
    assert hlo.array_bytes(shape) == sizes


PROGRAM = """
HloModule jit_step, entry_computation_layout={(f32[8]{0})->f32[8]{0}}

%cond (p: (s32[], f32[8])) -> pred[] {
  %bound = s32[] constant(7)
  %p = (s32[], f32[8]{0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  ROOT %less = pred[] compare(%i, %bound), direction=LT
}

%fused.1 (q: bf16[4,8]) -> bf16[8,8] {
  %q = bf16[4,8]{1,0} parameter(0)
  ROOT %all-gather.2 = bf16[8,8]{1,0:T(8,128)(2,1)S(1)} all-gather(%q), channel_id=5, replica_groups=mesh['axis_0'=2,'axis_1'=2,'axis_2'=2] {'axis_1'}, dimensions={0}, use_global_device_ids=true
}

%all-reduce-scatter.3 (r: f32[8,8]) -> f32[4,8] {
  %r = f32[8,8]{1,0} parameter(0)
  %all-reduce.4 = f32[8,8]{1,0} all-reduce(%r), channel_id=1, replica_groups={{0,2},{1,3},{4,6},{5,7}}, use_global_device_ids=true, to_apply=%add
  ROOT %slice = f32[4,8]{1,0} dynamic-slice(%all-reduce.4), dynamic_slice_sizes={4,8}
}

%body (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %two = s32[] constant(2)
  %p = (s32[], f32[8]{0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %x = f32[8]{0} get-tuple-element(%p), index=1
  %all-gather.1 = bf16[8,8]{1,0:T(8,128)(2,1)} all-gather(%x), channel_id=5, replica_groups=mesh['axis_0'=2,'axis_1'=2,'axis_2'=2] {'axis_1'}, dimensions={0}, use_global_device_ids=true
  %fusion = bf16[8,8]{1,0} fusion(%x), kind=kCustom, calls=%fused.1, backend_config={"estimated_cycles":"100"}
  %fusion.2 = f32[4,8]{1,0} fusion(%x), kind=kCustom, calls=%all-reduce-scatter.3
  %permute = (f32[6]{0}, f32[6]{0}, u32[]{:S(2)}, u32[]{:S(2)}) collective-permute-start(%x), channel_id=9, source_target_pairs={{0,1},{1,0},{2,3},{3,2},{4,5},{5,4},{6,7},{7,6}}
  %next = s32[] add(%i, %two)
  ROOT %out = (s32[], f32[8]{0}) tuple(%next, %x)
}

ENTRY %main (a: f32[8]) -> f32[8] {
  %a = f32[8]{0} parameter(0)
  %one = s32[]{:T(128)} constant(1)
  %first = (s32[], f32[8]{0}) tuple(%one, %a)
  %all-reduce.5 = (f32[8]{0}, f32[]) all-reduce(%a, %one), channel_id=1, replica_groups=[1,8]<=[8], to_apply=%add, backend_config={"estimated_cycles":"7"}
  %loop = (s32[], f32[8]{0}) while(%first), condition=%cond, body=%body
  ROOT %answer = f32[8]{0} get-tuple-element(%loop), index=1
}
"""  # noqa: E501


def test_a_program():
    found = parse_program(PROGRAM, MESH)
    # From 1 to 7 by twos are three rounds.
    assert found.loops == 1 and found.unknown_loops == 0
    assert found.cycles == 3 * 100 + 7
    assert set(found.traffic) == {
        Traffic("all-gather", ("fsdp",), 3, 3 * 128 // 2),
        Traffic("reduce-scatter", ("fsdp",), 3, 3 * 256 // 2),
        Traffic("collective-permute", ("tensor",), 3, 3 * 24),
        Traffic("all-reduce", ("data", "fsdp", "tensor"), 1, 2 * 36 * 7 // 8),
    }


@pytest.mark.parametrize(
    ("noted", "rounds"),
    [
        ('backend_config={"known_trip_count":{"n":"5"}}', 5),
        ('backend_config={"flags":[],"known_trip_count":{"n":"12"},"known_init_step":{}}', 12),
    ],
)
def test_a_noted_number_of_rounds_comes_first(noted, rounds):
    text = PROGRAM.replace("body=%body", f"body=%body, {noted}")
    assert {part.count for part in parse_program(text, MESH).traffic} == {rounds, 1}


def test_a_loop_of_unknown_length_counts_once():
    found = parse_program(PROGRAM.replace("direction=LT", "direction=NE"), MESH)
    assert found.unknown_loops == 1 and {part.count for part in found.traffic} == {1}


def test_what_starts_an_all_gather_answers_with_both():
    text = PROGRAM.replace(
        "%all-gather.1 = bf16[8,8]{1,0:T(8,128)(2,1)} all-gather(%x), channel_id=5",
        "%all-gather.1 = (bf16[4,16]{1,0}, bf16[8,16]{1,0}) all-gather-start(%x), channel_id=6",
    )
    sizes = {part.kind: part.bytes for part in parse_program(text, MESH).traffic}
    assert sizes["all-gather"] == 3 * (128 // 2 + 256 // 2)


def test_text_that_is_no_program():
    with pytest.raises(ValueError, match="no ENTRY"):
        parse_program("nothing", MESH)


def test_what_this_compiler_writes():
    mesh = parallel.make_mesh(2, 2, 2)

    def array(spec, *shape):
        return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, spec))

    def step(x, kernels):
        def layer(x, kernel):
            # Each device holds a part of what is summed over.
            return jax.lax.with_sharding_constraint(
                x @ kernel, NamedSharding(mesh, P("data"))
            ), None

        return jax.lax.scan(layer, x, kernels)[0]

    compiled = jax.jit(step).lower(
        array(P("data", "tensor"), 16, 32), array(P(None, "tensor", None), 5, 32, 32)
    )
    found = parse_program(compiled.compile().as_text(), dict(mesh.shape))
    sums = [part for part in found.traffic if part.kind == "all-reduce"]
    assert [(part.axes, part.count) for part in sums] == [(("tensor",), 5)]
    assert sums[0].bytes == 5 * 4 * 8 * 32
    assert found.unknown_loops == 0
