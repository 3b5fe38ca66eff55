"""Numbers that are not finite: the layer where they begin and the tensor that makes them are named."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from dgguf.backends.cpu import CpuBackend
from dgguf.errors import NumericsError
from dgguf.ggufio.file import GgufFile
from dgguf.model.cache import KVCache
from dgguf.model.canvas import Canvas
from dgguf.model.config import ModelConfig
from dgguf.model.transformer import Transformer
from dgguf.model.weights import load_weights
from tests.model.test_transformer import SMALL
from tests.support.synthetic.writer import write_model

# As a stream of numpy's: of BLAS and of the twin of a kernel.
pytestmark = pytest.mark.filterwarnings("ignore:invalid value", "ignore:overflow")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "m.gguf"
    write_model(path, SMALL, "F32")
    return path


@pytest.fixture
def model(written: Path, tmp_path: Path) -> Path:
    """A sound model in F32, to be spoiled."""
    return shutil.copy(written, tmp_path / "m.gguf")


def spoil(path: Path, name: str, value: float = np.nan, expert: int | None = None) -> None:
    """Give a tensor of float32, or one of its experts, the value everywhere."""
    with GgufFile(path) as file:
        tensor = file.tensors[name]
    assert tensor.format.name == "F32"
    size = tensor.n_bytes if expert is None else tensor.n_bytes // tensor.shape[0]
    with path.open("r+b") as out:
        out.seek(tensor.offset + (expert or 0) * size)
        out.write(np.full(size // 4, value, np.float32).tobytes())


def run(path: Path, prompt: int = 13, steps: int = 1, exact: bool = True) -> str:
    """Encode a prompt and denoise a canvas until it fails: the message."""
    file = GgufFile(path)
    config = ModelConfig.from_file(file)
    backend = CpuBackend(1, exact=exact)
    model = Transformer(config, load_weights(file, config, backend), backend)
    cache = KVCache(config, backend, 64, 16)
    rng = np.random.default_rng(1)
    model.encode(rng.integers(0, 700, prompt), cache)
    prediction, canvas = None, Canvas(rng.integers(0, 700, 8))
    for _ in range(steps - 1):
        prediction = model.denoise(canvas, cache, prediction, 0.8, np.full(8, 0.5))
    with pytest.raises(NumericsError) as caught:
        model.denoise(canvas, cache, prediction, 0.8, np.full(8, 0.5))
    assert len(str(caught.value)) < 400
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("token_embd.weight", "the embedding"),
        ("blk.0.attn_norm.weight", "layer 0"),
        ("blk.1.attn_q.weight", "layer 1"),
        ("blk.2.attn_k_norm.weight", "layer 2"),
        ("blk.0.ffn_gate_inp.scale", "layer 0"),
        ("blk.1.ffn_gate_inp.weight", "layer 1"),
        ("blk.1.ffn_gate_up_exps.weight", "layer 1"),
        ("blk.2.ffn_down_exps.scale", "layer 2"),
        ("blk.1.layer_output_scale.weight", "layer 1"),
        ("rope_freqs.weight", "layer 1"),
        ("output_norm.weight", "the head"),
    ],
)
def test_the_layer_and_the_tensor_are_named(model: Path, name: str, where: str) -> None:
    spoil(model, name)
    message = run(model)
    assert f"first in {where}: the tensor {name} holds values that are not finite" in message
    assert message.endswith("`dgguf check` reads the whole file")


@pytest.mark.parametrize("exact", [True, False])
def test_a_single_scale_of_a_block_is_enough(tmp_path: Path, exact: bool) -> None:
    path = tmp_path / "m.gguf"
    write_model(path, SMALL, "Q8_0")
    with GgufFile(path) as file:
        tensor = file.tensors["blk.1.ffn_up.weight"]
    with path.open("r+b") as out:
        out.seek(tensor.offset + 7 * 34)
        out.write(np.array([np.inf], np.float16).tobytes())
    assert "layer 1: the tensor blk.1.ffn_up.weight holds" in run(path, exact=exact)


def test_a_head_of_its_own_is_named(tmp_path: Path) -> None:
    write_model(tmp_path / "m.gguf", SMALL, "F32", untied_head=True)
    spoil(tmp_path / "m.gguf", "output.weight")
    assert "first in the head: the tensor output.weight holds" in run(tmp_path / "m.gguf")


def test_self_conditioning_is_named_although_it_is_not_computed_again(model: Path) -> None:
    spoil(model, "self_cond_up.weight")
    message = run(model, steps=2)
    assert "first in the self-conditioning: the tensor self_cond_up.weight holds" in message


def test_what_only_the_prompt_passed_is_found_by_encoding_it_again(model: Path) -> None:
    """The encoder's scale of a layer is not the canvas's: its damage shows as keys of the next layer."""
    spoil(model, "blk.0.enc_layer_output_scale.weight")
    message = run(model)
    assert "first in layer 0: the tensor blk.0.enc_layer_output_scale.weight holds" in message


def test_values_that_are_too_large_are_told_apart_from_damage(model: Path) -> None:
    spoil(model, "blk.1.attn_norm.weight", 3e38)
    message = run(model)
    assert "first in layer 1: its tensors are finite, so their values are far too large" in message
