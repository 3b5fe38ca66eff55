"""What the loader tells the backend of each tensor."""

from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import pytest

from dgguf.backends.base import Role
from dgguf.ggufio.file import GgufFile
from dgguf.model.config import ModelConfig
from dgguf.model.tensor_names import layer_and_kind, role_of
from dgguf.model.weights import load_weights
from tests.support.synthetic.writer import TINY, write_model

SMALL = replace(TINY, block_count=3, full_every=2)  # layer 0 slides and has values, 1 and 2 are full


@pytest.mark.parametrize("split_experts", [False, True])
@pytest.mark.parametrize("untied_head", [False, True])
def test_the_loader_gives_every_matrix_its_role_and_layer(tmp_path, split_experts, untied_head):
    write_model(tmp_path / "m.gguf", SMALL, "Q8_0", split_experts=split_experts, untied_head=untied_head)
    matrices, vectors = [], []
    backend = SimpleNamespace(load_matrix=matrices.append, load_vector=vectors.append, to_host=lambda x: [1])
    backend.load_matrices = lambda tensors: [matrices.append(t) for t in tensors]
    with GgufFile(tmp_path / "m.gguf") as file:
        load_weights(file, ModelConfig.from_file(file), backend)
    assert all(t.raw.shape[0] == 1 and t.role is Role.OTHER for t in vectors)
    found = Counter((t.role, t.layer) for t in matrices)
    expected = {(Role.EMBEDDING, None): 1, (Role.SELF_CONDITIONING, None): 3}
    if untied_head:
        expected[Role.HEAD, None] = 1
    for i in range(3):
        expected |= {(Role.ROUTER, i): 1, (Role.EXPERTS, i): 3, (Role.MLP, i): 3}
        expected[Role.ATTENTION, i] = 4 if i == 0 else 3
    assert found == expected


def test_names_that_only_look_alike_have_no_role():
    assert layer_and_kind("blk.17.ffn_gate_up_exps.weight") == (17, "ffn_gate_up_exps.weight")
    assert role_of("blk.17.ffn_gate_up_exps.weight") is Role.EXPERTS
    for name in (
        "blk.3.ffn_down_exps.scale",
        "blk.x.attn_q.weight",
        "blk.3.output_norm.weight",
        "rope_freqs.weight",
    ):
        assert role_of(name) is Role.OTHER
    assert layer_and_kind("output.weight") == (None, "output.weight")
