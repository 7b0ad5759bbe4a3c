"""Tests run on eight simulated CPU devices; this must be said before jax starts."""
# ruff: noqa: E402

import os
import shutil
import tempfile
import zlib

os.environ.setdefault("JAX_PLATFORMS", "cpu")
_FLAG = "--xla_force_host_platform_device_count"
if _FLAG not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_FLAG}=8".strip()
os.environ.setdefault("KDJAX_PROGRESS", "0")
# Most tests compile small programs that run once: without the compiler's optimisations the suite
# takes half the time. Tests that read compiled programs are marked `optimized`.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

# Tests that start processes compile the same programs again and again.
_PROGRAMS = "JAX_COMPILATION_CACHE_DIR"
if _PROGRAMS not in os.environ:
    os.environ[_PROGRAMS] = tempfile.mkdtemp(prefix="kdjax-programs-")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
    os.environ["KDJAX_TEST_PROGRAMS"] = os.environ[_PROGRAMS]

import jax
import pytest


def pytest_collection_modifyitems(config, items):
    """Leaves out most cases of tests marked `every(n)`; KDJAX_FULL_TESTS=1 runs all of them.

    The first case of a test is always run, and about one in n of the others.
    """
    if os.environ.get("KDJAX_FULL_TESTS"):
        return
    begun, kept, left_out = set(), [], []
    for item in items:
        test, marker = item.nodeid.partition("[")[0], item.get_closest_marker("every")
        chosen = marker is None or zlib.crc32(item.nodeid.encode()) % marker.args[0] == 0
        (kept if chosen or test not in begun else left_out).append(item)
        begun.add(test)
    items[:] = kept
    config.hook.pytest_deselected(items=left_out)


def pytest_unconfigure(config):
    """Removes the compiled programs; workers of xdist leave this to the one that made them."""
    made = os.environ.get("KDJAX_TEST_PROGRAMS")
    if made and not hasattr(config, "workerinput"):
        shutil.rmtree(made, ignore_errors=True)


@pytest.fixture(autouse=True)
def _optimizations(request):
    """Compiles the tests marked `optimized` as users' programs are compiled."""
    before = jax.config.read("jax_disable_most_optimizations")
    if request.node.get_closest_marker("optimized"):
        jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
