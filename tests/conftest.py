"""Strict settings for every test (after optimistix), and what several tests share."""

import gc
import json
import os
import shutil
import signal
import tempfile
from pathlib import Path

import jax
import numpy as np
import pytest

# Most programs of the tests run once, for an instant: what takes time is their compilation. These settings take three
# fifths off it. XLA aborts at a flag that it does not know, and jaxlib 0.12 has only one way to emit code for fusions.
# A run with XLA_FLAGS set, if only to nothing, compiles as users do.
QUICK_TO_COMPILE = ["--xla_backend_optimization_level=0", "--xla_cpu_parallel_codegen_split_count=1"]
if jax.version.__version_info__ < (0, 11):
    QUICK_TO_COMPILE += ["--xla_cpu_use_fusion_emitters=false"]
os.environ.setdefault("XLA_FLAGS", " ".join(QUICK_TO_COMPILE))

# A background job is started with SIGINT ignored, one of nohup with SIGHUP, and hands that on to the tests' processes.
for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, usual)

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")


# The workers of a run, and the commands that it starts, share what they compile. It is gone after the run.
SHARED_CACHE = None if "JAX_COMPILATION_CACHE_DIR" in os.environ else tempfile.mkdtemp(prefix="jaxgd-tests-")
if SHARED_CACHE:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = SHARED_CACHE
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
    jax.config.update("jax_compilation_cache_dir", SHARED_CACHE)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def pytest_unconfigure(config):
    del config
    if SHARED_CACHE:
        shutil.rmtree(SHARED_CACHE, ignore_errors=True)


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="also run the tests marked `slow`, as .ci/run does")


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--slow"):
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="slow: runs with --slow"))


MAPS = Path("/proc/self/maps")
LIMIT = Path("/proc/sys/vm/max_map_count")


@pytest.fixture(autouse=True, scope="module")
def few_memory_maps():
    """Every compiled program keeps memory maps, and at Linux's limit XLA crashes: half way there, forget them all."""
    yield
    assert jax.config.read("jax_enable_x64"), "a test of this file has left float64 off for those that follow"
    if MAPS.exists() and LIMIT.exists() and MAPS.read_bytes().count(b"\n") > int(LIMIT.read_text()) / 2:
        jax.clear_caches()
        gc.collect()


CASES = Path(__file__).resolve().parents[2] / "shared" / "cases"


@pytest.fixture(scope="session")
def cases():
    """The published cases by id; tests that need them skip where they are absent."""
    if not CASES.exists():
        pytest.skip(f"the published cases are not here ({CASES})")
    return {case["id"]: case for case in json.loads((CASES / "cases.json").read_text())["cases"]}


@pytest.fixture(scope="session")
def cases_folder(cases):
    del cases
    return CASES / "data"


@pytest.fixture
def rng():
    return np.random.default_rng(20)
