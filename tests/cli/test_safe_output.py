"""Nothing that a file says controls the terminal that it is shown on; errors are one short line."""

import json
import pickle

import pytest

from dgguf.cli.output import say
from dgguf.convert.safetensors import read_safetensors
from dgguf.errors import ConversionError, DggufError, RecordingError, TokenizerError, sentence
from dgguf.view.recording import read_recording

HOSTILE = "\x1b]0;title\x07\x1b[2J\x9b1m\nnext\u2028line\u202e\udcff"


def is_harmless(text):
    return text.isprintable() and len(text) < 500


@pytest.mark.parametrize(
    "error", [DggufError(HOSTILE), TokenizerError("m.gguf: " + "\x1b" * 10**6), OSError(2, "No", HOSTILE)]
)
def test_an_error_is_one_short_visible_line(error):
    assert is_harmless(sentence(error))
    assert not isinstance(error, DggufError) or is_harmless(str(error))


def test_of_a_long_message_the_middle_goes():
    message = str(DggufError("model.gguf: " + "x" * 5000 + "; download it again"))
    assert len(message) == 499
    assert message.startswith("model.gguf: x")
    assert message.endswith("x; download it again")
    assert str(pickle.loads(pickle.dumps(DggufError(message)))) == message
    assert str(DggufError("x" * 499)) == "x" * 499


def test_the_version_of_a_recording(tmp_path):
    path = tmp_path / "a.jsonl"
    head = '{"type":"started","format":"dgguf recording","version":'
    path.write_text(head + json.dumps(HOSTILE * 1000) + "}\n")
    with pytest.raises(RecordingError, match="and this dgguf reads 1") as error:
        read_recording(path)
    assert is_harmless(str(error.value))


@pytest.mark.parametrize("entry", [{}, {"dtype": HOSTILE * 1000}, {"dtype": "F32", "shape": [1] * 9}])
def test_names_and_types_of_safetensors(entry, tmp_path):
    header = json.dumps({HOSTILE: entry}).encode()
    (tmp_path / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(ConversionError) as error:
        read_safetensors(tmp_path / "a.safetensors")
    assert is_harmless(str(error.value))


def test_lines_beside_the_answer(capsys, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    say(f"system message: {HOSTILE}")
    shown = capsys.readouterr().err
    assert shown == "system message: ␛]0;title␇␛[2J·1m\nnext·line··\n"
