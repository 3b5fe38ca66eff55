"""What the fuzzer has found, one small file each; every one was a traceback, a wrong answer or noise."""

import dataclasses
import gzip
import json
import struct
import tracemalloc
import warnings

import numpy as np
import pytest

from dgguf.cli import saved
from dgguf.convert.checkpoint import _shards
from dgguf.convert.config import read_config
from dgguf.convert.imatrix import read_imatrix
from dgguf.convert.json_file import read_json
from dgguf.convert.safetensors import read_safetensors
from dgguf.diffusion.sampler import SeededNoise
from dgguf.diffusion.settings import SamplerSettings
from dgguf.errors import ConversionError, DggufError, PromptError, RecordingError, UnsupportedModelError
from dgguf.text.tokenizer import Tokenizer
from dgguf.view.export.write import facts
from dgguf.view.recording import RecordedTexts, Recording, is_recording, read_recording
from dgguf.view.terminal import safe_json
from tests.support.checkpoints import CONFIG
from tests.support.gguf_by_hand import ARRAY, STRING, U64, array, gguf_bytes, key, tensor, text
from tests.support.plain_bpe import PlainEncoder
from tests.support.recordings import generation
from tests.support.small_vocabulary import NORMAL, small_metadata


@pytest.fixture(autouse=True)
def _warnings_are_errors():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def refused(read, *arguments, error=DggufError):
    """The message of the error that a reader must raise."""
    with pytest.raises(error) as caught:
        read(*arguments)
    assert str(caught.value).isprintable()
    return str(caught.value)


def test_a_recording_whose_compression_is_damaged(tmp_path):
    path = tmp_path / "r.jsonl.gz"
    packed = bytearray(gzip.compress(b'{"type":"started"' * 99))
    packed[12] ^= 0xFF
    path.write_bytes(packed)
    assert not is_recording(path)
    refused(read_recording, path, error=RecordingError)


def test_the_name_of_a_recorded_model(tmp_path):
    tokens, events = generation([[(["a", "b"], [0.0, 0.0])]])
    events[0] = dataclasses.replace(events[0], model="m\x9b31m\x1b]0;t\x07")
    assert facts(Recording(tokens, events)).isprintable()


def imatrix_file(folder, *keys, sums=(1.0, 2.0), count=1.0):
    """A file of the GGUF layout with one matrix of two columns."""
    tensors = [tensor("a.weight.in_sum2", [2, 1], 0, 0), tensor("a.weight.counts", [1, 1], 0, 32)]
    data = struct.pack("<2f", *sums).ljust(32, b"\0") + struct.pack("<f", count)
    path = folder / "imatrix.gguf"
    path.write_bytes(gguf_bytes([key("general.type", STRING, text("imatrix")), *keys], tensors, data))
    return path


def test_importances_that_are_too_large(tmp_path):
    path = imatrix_file(tmp_path, sums=(3e38, 1.0), count=1e-20)
    assert "no mean squares" in refused(read_imatrix, path, error=ConversionError)
    values = struct.pack("<ii1sii2f", 1, 1, b"a", 1, 2, float("nan"), 3e38)
    (tmp_path / "old.dat").write_bytes(values)
    assert "no mean squares" in refused(read_imatrix, tmp_path / "old.dat", error=ConversionError)


def test_an_imatrix_whose_texts_are_not_utf8(tmp_path):
    names = key("imatrix.datasets", ARRAY, array(STRING, text(b"a\xff"), 1))
    imatrix_file(tmp_path, names)
    assert read_imatrix(tmp_path / "imatrix.gguf").dataset == "a\ufffd"


def test_an_imatrix_of_more_chunks_than_can_be_written(tmp_path):
    path = imatrix_file(tmp_path, key("imatrix.chunk_count", U64, struct.pack("<Q", 1 << 40)))
    assert "from 0 to 2147483647" in refused(read_imatrix, path, error=ConversionError)


@pytest.mark.parametrize("value", [1e308, -1e308, float("nan")])
def test_a_sampler_setting_that_float32_cannot_hold(value):
    message = refused(
        SamplerSettings.from_metadata, {"diffusion.eb_t_max": value}, error=UnsupportedModelError
    )
    assert "diffusion.eb_t_max" in message


def test_a_config_with_a_number_of_400_digits(tmp_path):
    config = json.loads(json.dumps(CONFIG))
    config["text_config"]["rms_norm_eps"] = 10**400
    assert "rms_norm_eps" in refused(read_config, tmp_path / "config.json", config, error=ConversionError)


def test_a_token_that_is_very_long():
    metadata = small_metadata()
    metadata["tokenizer.ggml.tokens"][-1] = "x" * 60_000
    tokenizer = Tokenizer.from_metadata(metadata, "m.gguf")
    assert tokenizer.decode(tokenizer.encode("Hi the")) == "Hi the"


def test_a_token_of_a_null_character():
    metadata = small_metadata()
    metadata["tokenizer.ggml.tokens"][-1] = "\0"
    metadata["tokenizer.ggml.token_type"][-1] = NORMAL
    tokenizer = Tokenizer.from_metadata(metadata, "m.gguf")
    ids = tokenizer.encode("a\0b")
    assert ids == PlainEncoder(tokenizer._vocabulary).encode("a\0b")
    assert len(metadata["tokenizer.ggml.tokens"]) - 1 in ids


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000,
        b'{"messages": {}}',
        b'{"messages": [{"role": "user", "content": 1}]}',
        b'{"messages": [{"role": "system", "content": "a"}]}',
        b'{"messages": [], "system": 3}',
        b'{"messages": []}' + b" " * (1 << 23),
        b"\xff\xfe",
        b"7",
    ],
)
def test_what_is_no_conversation(content, tmp_path):
    (tmp_path / "c.json").write_bytes(content)
    assert "conversation" in refused(saved.read, str(tmp_path / "c.json"), error=PromptError)
    with pytest.raises(PromptError, match="exists and is no conversation"):
        saved.write(str(tmp_path / "c.json"), None, [])
    assert (tmp_path / "c.json").read_bytes() == content


def test_json_for_a_terminal_says_the_same():
    value = {"a\x9b31m": "\x7f\u202eé\n世👩\u200d👩\ud800", "b": [1.5, None]}
    for indent in (None, 2):
        text = json.dumps(value, ensure_ascii=False, indent=indent)
        shown = safe_json(text)
        assert json.loads(shown) == value
        assert "é" in shown
        assert "👩\u200d👩" in shown
        assert shown.replace("\n", "").replace("\u200d", "").isprintable()
    assert safe_json('{"é": "世"}') == '{"é": "世"}'


@pytest.mark.parametrize("text", ["[[" + "[]," * 3_000_000 + "0]]", "[" + "{}," * 1_500_000 + "0]"])
def test_json_that_would_fill_the_memory(text, tmp_path):
    (tmp_path / "tokenizer.json").write_text(text)
    header = text.encode()
    (tmp_path / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    tracemalloc.start()
    for read, name in ((read_json, "tokenizer.json"), (read_safetensors, "a.safetensors")):
        message = refused(read, tmp_path / name, error=ConversionError)
        assert "far more values" in message
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5 * len(text)  # as lists, 300 MB


def test_a_recording_with_texts_of_very_many_tokens():
    texts = RecordedTexts()
    texts.add({"1048575": "a"})
    for token in ("1048576", "-1"):
        with pytest.raises(ValueError, match="a text"):
            texts.add({token: "a"})


@pytest.mark.parametrize("name", ["x" * 256, "é" * 128, "\ud800" * 100, "a\0b", "../a", "/a", ""])
def test_a_shard_whose_name_no_file_can_have(name, tmp_path):
    index = {"weight_map": {"a": name}}
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ConversionError):
        _shards(tmp_path)


@pytest.mark.parametrize("number", [10**400, -(10**400)])
@pytest.mark.parametrize("name", ["max_steps", "t_min"])
def test_a_whole_number_beyond_all_floats_is_no_setting(name, number):
    """As JSON may hold one: of a client of the server, or of the page."""
    assert "must be a number, not" in refused(
        lambda: SamplerSettings.from_metadata({}, **{name: number}), error=PromptError
    )
    assert name in refused(lambda: SamplerSettings(**{name: number}), error=PromptError)


@pytest.mark.parametrize("place", [(1 << 63, 0), (1, (1 << 64) - 1)])
def test_noise_of_a_step_that_no_signed_number_holds(place):
    """numpy made floats of a list that holds one, and of these other places."""
    noise = SeededNoise(7, 1000)
    assert noise.tokens(*place, 8).tolist() != noise.tokens(place[0], place[1] ^ 1, 8).tolist()
    philox = np.random.Philox(key=7, counter=place[0] << 192 | place[1] << 128 | 1 << 64)
    assert noise.uniforms(*place, 8).tolist() == [
        (bits >> 11) / 2**53 for bits in philox.random_raw(8).tolist()
    ]
