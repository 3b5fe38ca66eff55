"""`dgguf check`: what it prints of a sound file, and how it names what is wrong with another."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from dgguf.cli import cli
from dgguf.errors import BackendError, ModelFileError
from dgguf.ggufio.file import GgufFile
from dgguf.hub import HubFile
from tests.support.synthetic.writer import write_model


def check(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["check", *map(str, arguments)])


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "tiny.gguf"
    write_model(path, type_name="Q4_K_M", seed=3)
    return path


@pytest.fixture
def model(written: Path, tmp_path: Path) -> Path:
    """A sound file, to be spoiled."""
    return shutil.copy(written, tmp_path / "tiny.gguf")


def test_a_sound_file(model: Path) -> None:
    done = check(model)
    assert done.exit_code == 0, done.output
    digest = hashlib.sha256(model.read_bytes()).hexdigest()
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines[0] == [str(model)]
    assert lines[1:3] == [["sha256", digest], ["size", str(model.stat().st_size), "bytes"]]
    assert lines[4:6] == [["numbers", "all", "finite"], ["loads", "yes"]]
    assert lines[6][0] == "read"
    assert not done.stderr  # a pipe gets a line when it takes long


def test_json_of_a_split_model(tmp_path: Path) -> None:
    paths = write_model(tmp_path / "m.gguf", type_name="Q8_0", n_parts=2)
    done = check(paths[1], "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert [file["path"] for file in found["files"]] == [str(path) for path in paths]
    assert [file["sha256"] for file in found["files"]] == [
        hashlib.sha256(path.read_bytes()).hexdigest() for path in paths
    ]
    assert found["bytes"] == sum(path.stat().st_size for path in paths)
    assert found["types"]["Q8_0"]["tensors"] > 20
    assert (found["problems"], found["bad_tensors"], found["loads"]) == ([], [], True)
    assert found["same_as_hub"] is None
    assert found["bytes_per_second"] > 0


def spoiled(model: Path, **blocks: int) -> dict[str, int]:
    """Fill a block of some tensors with ones; returns where in the file each of them lies."""
    with GgufFile(model) as file:
        tensors = dict(file.tensors)
    data, places = bytearray(model.read_bytes()), {}
    for name, block in blocks.items():
        tensor = tensors[name]
        size = tensor.format.type_size
        places[name] = tensor.offset + block * size
        data[places[name] : places[name] + size] = b"\xff" * size
    model.write_bytes(data)
    return places


def test_bad_blocks_are_named_with_their_place(model: Path) -> None:
    places = spoiled(model, **{"blk.0.ffn_gate.weight": 5, "blk.2.attn_norm.weight": 7})
    done = check(model)
    assert isinstance(done.exception, ModelFileError)
    message = str(done.exception)
    with GgufFile(model) as file:
        info = file.tensors["blk.0.ffn_gate.weight"]
    row, column = divmod(5 * info.format.block_size, info.shape[-1])
    assert f"'blk.0.ffn_gate.weight' ({info.format.name}): scales of 1 block are not finite" in message
    assert f"row {row}, column {column}, at byte {places['blk.0.ffn_gate.weight']} of {model}" in message
    assert message.endswith("(1 more: --json lists them)")
    assert len(message) < 500
    assert "numbers  not finite in 2 tensors" in done.stdout
    found = json.loads(check(model, "--json").stdout)
    assert [(bad["tensor"], bad["offset"]) for bad in found["bad_tensors"]] == list(places.items())
    assert len(found["problems"]) == 2


@pytest.mark.parametrize(
    ("variants", "words"),
    [
        ({"omit_tensors": ["blk.1.attn_q.weight"]}, "lacks the tensor blk.1.attn_q.weight"),
        ({"metadata": {"general.architecture": "llama"}}, "architecture 'llama'"),
        ({"shapes": {"blk.0.attn_norm.weight": (32,)}}, "attn_norm.weight has the shape (32,)"),
        ({"metadata": {"tokenizer.ggml.model": "gpt2"}}, "tokenizer.ggml.model is 'gpt2'"),
        ({"metadata": {"tokenizer.chat_template": "{% if %}"}}, "the chat template cannot be read"),
        ({"metadata": {"diffusion.eb_max_steps": np.float32("nan")}}, "eb_max_steps"),
    ],
)
def test_what_cannot_be_loaded_is_told_and_read_all_the_same(
    tmp_path: Path, variants: dict[str, object], words: str
) -> None:
    path = tmp_path / "tiny.gguf"
    write_model(path, **variants)
    done = check(path, "--json")
    assert isinstance(done.exception, ModelFileError)
    assert words in str(done.exception)
    found = json.loads(done.stdout)
    assert found["loads"] is False
    assert found["files"][0]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert "reading on" in done.stderr


def test_a_machine_that_is_set_up_wrongly_is_no_fault_of_the_file(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DGGUF_CPU_PATH", "none_such")
    done = check(model)
    assert isinstance(done.exception, BackendError)
    assert not done.stdout


def test_a_cut_file_is_refused_at_once(model: Path) -> None:
    model.write_bytes(model.read_bytes()[:-1000])
    done = check(model)
    assert isinstance(done.exception, ModelFileError)
    assert "ends before the end of the tensor" in str(done.exception)
    assert not done.stdout


@pytest.fixture
def published(model: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let the hub have what is given here, by default the model."""

    def publish(count: int = 1, **other: object) -> None:
        fields = {"n_bytes": model.stat().st_size, "sha256": hashlib.sha256(model.read_bytes()).hexdigest()}
        file = HubFile("a/b", "m-Q4_K_M.gguf", blob="b", commit="c", **fields | other)  # type: ignore[arg-type]
        monkeypatch.setattr("dgguf.hub.choose", lambda *_: [file] * count)

    return publish


@pytest.mark.parametrize("name", ["hf:a/b:Q4_K_M", "diffusiongemma"])
def test_the_same_as_on_the_hub(model: Path, published: Callable[..., None], name: str) -> None:
    published()
    done = check(model, "--against", name)
    assert done.exit_code == 0, done.output
    assert "hub      the same: a/b:m-Q4_K_M.gguf" in done.stdout
    assert json.loads(check(model, "--against", name, "--json").stdout)["same_as_hub"] is True


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"n_bytes": 77}, "bytes, m-Q4_K_M.gguf of a/b has 77"),
        ({"sha256": "0" * 64}, "its digest is not that of m-Q4_K_M.gguf of a/b"),
        ({"sha256": ""}, "the hub has no digest of m-Q4_K_M.gguf of a/b"),
        ({"count": 3}, "the model is in 1 files here, m-Q4_K_M.gguf of a/b in 3"),
    ],
)
def test_another_one_than_on_the_hub(
    model: Path, published: Callable[..., None], other: dict[str, object], words: str
) -> None:
    published(**other)
    done = check(model, "--against", "hf:a/b:Q4_K_M")
    assert isinstance(done.exception, ModelFileError)
    assert words in str(done.exception)
    assert "hub      not the same" in done.stdout
