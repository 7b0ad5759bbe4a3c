"""The sharded step compiles ahead of time for a TPU, where libtpu is installed."""

from __future__ import annotations

import importlib.util
import os
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from kdjax import distributions as D
from kdjax.losses import divergences

VOCABULARY, WIDTH, TOKENS = 4 * 4096, 512, (4, 1024)


@pytest.mark.optimized
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")
def test_the_fused_step_fits_a_tpu():
    for variable in ("TPU_SKIP_MDS_QUERY", "ALLOW_MULTIPLE_LIBTPU_LOAD"):
        os.environ.setdefault(variable, "1")
    from jax.experimental import topologies

    try:
        topology = topologies.get_topology_desc(
            platform="tpu", topology_name="v5e:4x4", chips_per_host_bounds=(2, 2, 1)
        )
    except Exception as error:  # libtpu raises its own types
        pytest.skip(f"libtpu gives no topology: {error}")
    mesh = Mesh(np.array(topology.devices).reshape(4, 4), ("data", "tensor"))
    sharding = D.VocabSharding(mesh, vocab="tensor", tokens=("data",))

    def array(spec, *shape, dtype=jnp.bfloat16):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec))

    head = D.Linear(array(P("data"), *TOKENS, WIDTH), array(P(None, "tensor"), WIDTH, VOCABULARY))

    def loss(student, teacher, weights):
        return D.weighted_sum(divergences.generalized_js_term)(
            student, teacher, weights, sharding=sharding, chunk_size=256
        )

    weights = array(P("data"), *TOKENS, dtype=jnp.float32)
    compiled = jax.jit(jax.value_and_grad(loss)).lower(head, head, weights).compile()
    answers = re.findall(r"= (.*?) (?:all-\w+|reduce-scatter)(?:-start)?\(", compiled.as_text())
    carried = {shape for answer in answers for shape in re.findall(r"\[([\d,]+)\]", answer)}
    wide = {shape for shape in carried if str(VOCABULARY // 4) in shape.split(",")}
    assert carried and wide <= {f"{WIDTH},{VOCABULARY // 4}"}
    block = 4 * 256 * VOCABULARY // 4
    kernel = 4 * WIDTH * VOCABULARY // 4
    assert compiled.memory_analysis().temp_size_in_bytes < 8 * block + 4 * kernel
