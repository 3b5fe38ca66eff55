"""Plain weights taken in 8 bits: a note says so, once, and --keep-weights takes them as they are stored."""

import json
import logging

import pytest
from click.testing import CliRunner

import dgguf
from dgguf.backends.cpu import features
from dgguf.cli import cli
from dgguf.errors import BackendError
from dgguf.loading import Gpu
from tests.support.synthetic.writer import write_model

pytestmark = pytest.mark.skipif(features.possible_paths() == ("portable",), reason="nothing is rounded there")
QUICK = ["-n", "32", "--max-steps", "2", "--seed", "5"]
COMMANDS = {
    "run": ["-p", "Hello", *QUICK],
    "chat": QUICK,
    "bench": ["--steps", "1", "--prompt-tokens", "3"],
    "imatrix": ["-f", "TEXT", "-o", "OUT", "--chunks", "1"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for name in ("BF16", "Q8_0"):
        write_model(folder / f"{name}.gguf", type_name=name)
    (folder / "text.txt").write_text("The quick brown fox jumps over the lazy dog. " * 8)
    return folder


@pytest.fixture(autouse=True)
def panels(monkeypatch):
    monkeypatch.delenv("DGGUF_CPU_PATH", raising=False)


def said(command, folder, tmp_path, *options, model="BF16"):
    """stdout, and the lines of stderr, of a command on the model of a type."""
    places = {"TEXT": str(folder / "text.txt"), "OUT": str(tmp_path / "out.gguf")}
    arguments = [places.get(word, word) for word in COMMANDS[command]]
    arguments = [command, str(folder / f"{model}.gguf"), *arguments, *options]
    done = CliRunner().invoke(cli, arguments, input="Hello\n" if command == "chat" else "")
    assert done.exit_code == 0, done.output
    return done.stdout, done.stderr.splitlines()


def notes(lines):
    return [line for line in lines if "8 bits" in line]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_note_says_once_what_is_rounded_and_what_to_do(command, folder, tmp_path):
    out, lines = said(command, folder, tmp_path)
    (note,) = notes(lines)
    assert note.startswith("note: 1.10 MB of BF16 weights, 95% of the file, are multiplied in 8 bits")
    assert "--keep-weights" in note
    assert len(note) < 200
    assert "8 bits" not in out
    out, lines = said(command, folder, tmp_path, "--keep-weights", *(["--force"] * (command == "imatrix")))
    assert notes(lines) == []
    assert command != "bench" or "F32, F16 and BF16 weights as stored" in out


@pytest.mark.parametrize("options", [["--exact"], ["--keep-weights"]])
def test_who_keeps_weights_sees_no_note(options, folder, tmp_path):
    assert notes(said("run", folder, tmp_path, *options)[1]) == []


def test_a_quantized_file_gets_no_note_and_the_same_answer(folder, tmp_path):
    (first, lines), (kept, _) = (
        said("run", folder, tmp_path, *options, model="Q8_0") for options in ((), ("--keep-weights",))
    )
    assert notes(lines) == []
    assert first == kept


def test_json_of_run_stays_one_object(folder, tmp_path):
    assert json.loads(said("run", folder, tmp_path, "--json")[0])["seed"] == 5


def test_python_is_told_by_the_log(folder, caplog):
    path = folder / "BF16.gguf"
    for options in ({"keep_weights": True}, {"exact": True}):
        dgguf.load(path, **options).close()
        assert caplog.records == []
    dgguf.load(path).close()
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "keep_weights=True" in record.getMessage()


def test_on_a_gpu_it_is_refused(folder):
    done = CliRunner().invoke(cli, ["run", str(folder / "BF16.gguf"), "-p", "x", "--keep-weights", "--cuda"])
    assert done.exit_code == 2
    assert "--cuda does not go with --keep-weights" in done.stderr
    with pytest.raises(BackendError, match="without a GPU"):
        dgguf.load(folder / "BF16.gguf", keep_weights=True, gpu=Gpu())
