"""Two processes with two devices each give the numbers of one device."""

import os
import pickle
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from several_processes import MESHES

from kdjax import parallel
from kdjax.train.checksums import checksum

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "algorithms"))
from exemplars import exemplars, run  # noqa: E402

NAMES = ("kd_with_labels", "rkd", "info_nce", "ps_kd", "mutual_learning")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    output = tmp_path_factory.mktemp("processes") / "found"
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    environment = {
        **os.environ,
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "PYTHONPATH": str(HERE.parents[1]),
    }
    script = [sys.executable, str(HERE / "several_processes.py"), address, "2"]
    started = [
        subprocess.Popen(
            [*script, str(index), str(output), *NAMES],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index in range(2)
    ]
    said = [process.communicate(timeout=400)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0], "\n".join(said)[-4000:]
    return pickle.loads(output.read_bytes())


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("name", NAMES)
def test_same_numbers(name, mesh, found):
    make, frozen = exemplars()[name]
    state, history = run(parallel.compile(make()), frozen)
    players, their_history, _ = found[name, MESHES[mesh]]
    pairs = ((their_history, history), (players, state.players))
    for got, expected in pairs:
        for (path, a), b in zip(
            jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(expected), strict=True
        ):
            scale = max(1e-3, float(np.max(np.abs(np.nan_to_num(b)), initial=0)))
            np.testing.assert_allclose(
                a, b, rtol=1e-5, atol=1e-5 * scale, err_msg=jax.tree_util.keystr(path)
            )


@pytest.mark.parametrize("name", NAMES)
def test_checksums_count_each_part_once(name, found):
    for shape in MESHES.values():
        players, _, digits = found[name, shape]
        assert checksum(players) == digits
