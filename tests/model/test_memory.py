"""Sizes told from a header: as large as what is allocated, and told without loading a kernel."""

import json
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest

from dgguf.backends import limits
from dgguf.backends.cpu import CpuBackend
from dgguf.backends.cuda.layout import layout, units
from dgguf.errors import PromptError
from dgguf.ggufio.read_header import TensorInfo
from dgguf.model.cache import KVCache
from dgguf.model.config import LayerConfig, ModelConfig
from dgguf.model.memory import choose_context, cpu_memory, cpu_scratch_bytes, gpu_scratch_bytes, gpu_sizes
from dgguf.quants.block import FORMATS_BY_NAME
from tests.support.synthetic.writer import TINY, write_model

SLIDING, FULL = LayerConfig(1024, 256, 8, 1e4), LayerConfig(None, 512, 2, 1e6)
LARGE = ModelConfig(
    "diffusion-gemma", (SLIDING, FULL), hidden_size=2816, n_heads=16, ff_size=2112, n_experts=128,
    n_experts_used=8, expert_ff_size=704, vocab_size=262144, norm_eps=1e-6, logit_softcap=30.0,
    canvas_length=256, context_length=262144,
)  # fmt: skip


def test_scratch_of_the_released_model():
    # Computed by hand from the arrays that `predict`, `soft_embed` and `experts` hold.
    vocabulary = 64 * 262144 + 2 * 256 * 512 + 256 * 2816
    assert cpu_scratch_bytes(LARGE, 1024, exact=False) == 4 * vocabulary + 1024 * 8 * 2816
    assert cpu_scratch_bytes(LARGE, 1024, exact=True) == 4 * (256 * 262144 + 17 * 256 * 2816 + 8192 * 2816)
    assert gpu_scratch_bytes(LARGE, 1024) == 705_691_648


@pytest.mark.parametrize("exact", [False, True])
def test_a_small_vocabulary_keeps_all_logits(exact):
    small = replace(LARGE, vocab_size=limits.MOST_TOKENS, hidden_size=64)
    logits = 256 * (limits.MOST_TOKENS + 17 * 64)
    assert cpu_scratch_bytes(small, 300, exact) == 4 * (logits + 300 * 8 * 64 // (1 if exact else 4))


@pytest.mark.parametrize("exact", [False, True])
def test_the_cache_is_as_large_as_what_is_allocated(exact):
    cache = KVCache(LARGE, CpuBackend(1, exact=exact), 4096, 1024)
    allocated = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    found = cpu_memory(SimpleNamespace(n_bytes=7), LARGE, 4096, exact=exact)
    assert (found.weights_mapped, found.kv_cache) == (7, allocated)


def info(name, form, *shape):
    return TensorInfo(name, shape, FORMATS_BY_NAME[form], 0, 0, 0)


def test_gpu_sizes_are_those_of_the_layout():
    tensors = [
        info("token_embd.weight", "Q6_K", 1000, 256),
        info("blk.0.ffn_gate_up_exps.weight", "Q4_K", 8, 64, 256),
        info("blk.0.ffn_down_exps.weight", "Q5_0", 8, 256, 32),
        info("blk.0.ffn_gate_inp.weight", "F32", 8, 256),
        info("blk.7.ffn_down_exps.weight", "F32", 1, 16, 64),  # of no layer: refused when it is loaded
        info("output_norm.weight", "F32", 256),
    ]
    file = SimpleNamespace(tensors={t.name: t for t in tensors})
    sizes = gpu_sizes(file, LARGE, 8192)
    rows_of_sliding, rows_of_full = 1023 + 1024 + 128, 8192
    assert sizes.kv_cache == 2 * 2 * (8 * 256 * rows_of_sliding + 2 * 512 * rows_of_full)
    assert sizes.scratch == 705_691_648
    q5_0 = layout(FORMATS_BY_NAME["Q5_0"])
    down = 8 * units(256, 32) * (q5_0.code_bytes + q5_0.scale_bytes)
    assert sizes.experts == (8 * 64 * 256 * 5 // 8 + down, 0)
    assert sizes.dense == 1008 * 256 * 7 // 8 + 4 * 8 * 256 + 4 * 256 + 2 * 16 * 64


@pytest.mark.parametrize(("wanted", "given"), [(None, 8192), (257, 257), (262144, 262144)])
def test_contexts(wanted, given):
    assert choose_context(LARGE, wanted) == given
    assert choose_context(replace(LARGE, context_length=300), None) == 300


@pytest.mark.parametrize("wanted", [256, 262145])
def test_contexts_that_do_not_fit(wanted):
    with pytest.raises(PromptError, match=f"a context of {wanted} does not fit"):
        choose_context(LARGE, wanted)


def test_info_loads_no_kernel(tmp_path):
    write_model(tmp_path / "m.gguf", TINY, "Q8_0")
    code = (
        "import sys; from dgguf.cli import cli\n"
        f"cli(['info', {str(tmp_path / 'm.gguf')!r}, '--json'], standalone_mode=False)\n"
        "print([m for m in ('numba', 'llvmlite', 'scipy', 'jinja2', 'dgguf.session') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    report, _, heavy = done.stdout.rstrip().rpartition("\n")
    assert json.loads(report)["memory"].keys() == {"context", "weights_mapped", "kv_cache", "scratch"}
    assert heavy == "[]"
