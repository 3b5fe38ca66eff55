"""What a step of the full-size model costs a GPU, counted and modelled where there is none.

A number here is a budget: a change that makes it smaller lowers it, one that makes it larger says why.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cuda.test_without_gpu import HAS_CUDA, has_gpu, needs_cuda

ROOT = Path(__file__).parents[2]
TOOL = ROOT / "tools/bench/cuda_kernels.py"
LAYERS, EXPERTS_GB = 30, 16.1


@pytest.fixture(scope="module")
def found():
    """What the measuring script prints where nothing can be measured: it walks through all of it."""
    if not HAS_CUDA:
        pytest.skip("numba-cuda is not installed: pip install '.[cuda13]'")
    done = subprocess.run([sys.executable, TOOL, "--dry-run"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def test_nodes_of_a_step(found):
    assert found["step"]["nodes"] <= 388
    assert found["layer"]["nodes"] <= 13


def test_every_node_is_measured(found):
    for scene in (found["step"], *found["scenes"].values()):
        assert sum(row["nodes"] for row in scene["kernels"]) == scene["nodes"]
        assert sum(part["nodes"] for part in scene["parts"].values()) == scene["nodes"]
        assert all(row["modelled_us"] > 0 for row in scene["kernels"])
    assert found["us_of_soft_embedding_by_tokens_kept"].keys() == {"1", "32", "512"}
    for name, variant in found["variants"].items():
        assert variant["kernels"], f"{name} starts nothing else"


def test_every_product_is_held_against_float64(found):
    kinds = [row for row in found["step"]["kernels"] if row["kernel"].startswith("qgemm")]
    assert len(found["errors_of_products"]) == len(kinds) > 10
    assert found["rows_of_experts"] == []  # of a GPU alone


def test_blocks_of_experts_stay_and_take_all_strips(found):
    """As many as 132 multiprocessors hold: of `down` some seven strips each, of gate and up four."""
    experts = [row for row in found["step"]["kernels"] if row["part"] == "experts' products"]
    assert {row["shapes"][0][1]: tuple(row["grid"]) for row in experts} == {
        2816: (528, 1),
        1408: (528, 1),
    }
    variant = found["variants"]["two blocks that stay on a multiprocessor"]["kernels"]
    assert {tuple(row["grid"]) for row in variant} == {(264, 1)}


def test_blocks_divide_the_columns_of_what_has_few_rows(found):
    """Three of each, as many as 132 multiprocessors hold; in a prompt there are enough without that."""
    outputs = {1: (4, 22 * 3), 4: (16, 22)}
    for scene, tokens in ((found["step"], 1), (found["scenes"]["encoding 1,024 tokens behind 1,024"], 4)):
        grids = {
            tuple(row["grid"])
            for row in scene["kernels"]
            if row["part"] in ("attention projections", "dense MLP") and row["shapes"][0][1] == 2816
        }
        assert grids == {outputs[tokens]}


def test_bytes_of_a_step(found):
    parts = found["step"]["parts"]
    assert parts["experts' products"]["dram_gb"] == pytest.approx(EXPERTS_GB, rel=0.01)
    assert parts["head product"]["dram_gb"] < 0.66  # once, not once for each tile of tokens
    assert sum(part["dram_gb"] for part in parts.values()) < 20
    assert parts["attention"]["l2_gb"] < 4.3  # each key once for 64 queries, and what blocks leave each other
    assert sum(part["l2_gb"] for part in parts.values()) < 54.5


def test_modelled_time_of_a_step(found):
    """What the assumptions in tools/bench/gpu/model.py make of the counts; a GPU may say otherwise."""
    assert found["step"]["modelled_ms"] < 11.3
    assert found["step"]["parts"]["attention"]["ms"] < 1.35


@needs_cuda
def test_without_a_gpu_it_says_so():
    if has_gpu():
        pytest.skip("there is a GPU")
    done = subprocess.run([sys.executable, TOOL], capture_output=True, text=True)
    assert done.returncode == 1
    assert not done.stdout
    assert "--dry-run" in done.stderr.splitlines()[-1]
    assert len(done.stderr) < 500
