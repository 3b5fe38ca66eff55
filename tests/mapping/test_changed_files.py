"""A model file that is cut, emptied or overwritten while it is mapped: one sentence, and no wrong answer."""

import os
import platform
import shutil
import sys
from types import SimpleNamespace

import pytest

import dgguf
from dgguf import convert
from dgguf.backends.cpu import CpuBackend
from dgguf.cli import cli
from dgguf.convert.encode_tensor import TensorEncoder
from dgguf.errors import FileChangedError, sentence
from dgguf.ggufio.file import GgufFile
from dgguf.ggufio.read_header import Header
from dgguf.model.config import ModelConfig
from dgguf.model.transformer import Transformer
from dgguf.model.weights import load_weights
from tests.support.checkpoints import Checkpoint
from tests.support.endless import write_endless_model
from tests.support.synthetic.writer import write_model

pytestmark = [
    pytest.mark.posix,  # no other program can cut or replace a mapped file on Windows
    pytest.mark.skipif(platform.system().lower() != sys.platform, reason="needs this system's own library"),
]
TEXT = "The quick brown fox jumps over the lazy dog, and so on. " * 20
CUT = r"the file was cut to {} bytes while it was in use"
WRITTEN = "the file was written to while it was in use"


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return write_endless_model(tmp_path_factory.mktemp("models") / "tiny.gguf")


@pytest.fixture
def model(original, tmp_path):
    """A file that may be spoilt."""
    return shutil.copy(original, tmp_path / "tiny.gguf")


@pytest.fixture
def texts(tmp_path):
    (tmp_path / "texts.txt").write_text(TEXT)
    return tmp_path / "texts.txt"


def age(path):
    """Let a file be older than what comes, whatever the clock of its file system."""
    os.utime(path, ns=(10**18, 10**18))


def cut(path, n_bytes=5000):
    os.truncate(path, n_bytes)


def overwrite(path):
    """Other weights in the place of the last half."""
    with open(path, "r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(bytes([77]) * (path.stat().st_size - file.tell()))


def shorter(path):
    """As `cp` and editors write: emptied, then filled."""
    path.write_bytes(path.read_bytes()[:20000])


def emptied(path):
    path.write_bytes(b"")


CHANGES = {
    "cut": (cut, CUT.format("5,000")),
    "shorter": (shorter, CUT.format("20,000")),
    "emptied": (emptied, CUT.format("0")),
    "overwritten": (overwrite, WRITTEN),
}


def strike(monkeypatch, owner, name, number, change):
    """Make the change when a method of a class is called for the `number`-th time."""
    method, calls = getattr(owner, name), []

    def struck(*arguments, **options):
        calls.append(1)
        if len(calls) == number:
            change()
        return method(*arguments, **options)

    monkeypatch.setattr(owner, name, struck)
    return calls


def dgguf_command(*arguments):
    cli.main([str(a) for a in arguments], standalone_mode=False)


def run(model, *more):
    return ["run", model, "-p", "Hello", "--seed", "3", "-n", "64", "--max-steps", "3", *more]


@pytest.mark.parametrize("change", CHANGES)
def test_nothing_of_a_step_on_a_changed_file_is_shown(model, change):
    """Between any two events."""
    how, words = CHANGES[change]
    settings = {"max_tokens": 64, "seed": 3}
    n_events = 12  # the question, its encoding, 2 canvases of a start, 3 steps and a commitment, the end
    for last in range(1, n_events - 2, 2 if change == "cut" else 4):
        content = model.read_bytes()
        age(model)
        session = dgguf.load(model)
        stream = session.stream("Hello", settings=session.settings(max_steps=3), **settings)
        events = [next(stream) for _ in range(last)]
        how(model)
        with pytest.raises(FileChangedError, match=f"tiny.gguf: {words}"):
            events.extend(stream)
        for event in events[last:]:  # they tell of what was there, and of a canvas of noise
            assert isinstance(event, dgguf.CanvasStarted | dgguf.CanvasCommitted)
        with pytest.raises(FileChangedError, match=words):  # and never again
            session.generate("Hello", **settings)
        session.close()
        model.write_bytes(content)
    assert last > n_events - 7


@pytest.mark.parametrize("number", [1, 2, 7, 8, 20])
def test_a_change_in_the_middle_of_a_step(model, monkeypatch, capfd, number):
    """The first five calls encode the prompt; six make a step."""
    age(model)
    strike(monkeypatch, Transformer, "layer", number, lambda: cut(model))
    with pytest.raises(FileChangedError, match=CUT.format("5,000")) as error:
        dgguf_command(*run(model))
    assert len(sentence(error.value)) < 500
    assert not capfd.readouterr().out  # it answers with whole canvases


def test_what_was_committed_before_stays_on_stdout(model, monkeypatch, capfd):
    dgguf_command(*run(model))
    whole = capfd.readouterr().out
    age(model)
    strike(monkeypatch, Transformer, "layer", 30, lambda: overwrite(model))  # in the second canvas
    with pytest.raises(FileChangedError, match=WRITTEN):
        dgguf_command(*run(model))
    first = capfd.readouterr().out
    assert whole.startswith(first.rstrip("\n"))
    assert 1 < len(first) < len(whole)


def test_a_file_that_takes_its_place_changes_nothing(model, monkeypatch, capfd):
    dgguf_command(*run(model))
    whole = capfd.readouterr().out

    def replace():
        other = model.with_name("other")
        other.write_bytes(b"no model at all")
        other.replace(model)

    calls = strike(monkeypatch, Transformer, "layer", 8, replace)
    dgguf_command(*run(model))
    assert capfd.readouterr().out == whole
    assert len(calls) > 8
    assert model.read_bytes() == b"no model at all"


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("command", ["compare", "imatrix", "bench"])
def test_commands_that_compute(model, original, texts, tmp_path, monkeypatch, capfd, command, change):
    how, words = CHANGES[change]
    arguments = {
        "compare": (original, model, "-f", texts, "--chunks", 2),
        "imatrix": (model, "-f", texts, "-o", tmp_path / "out", "--chunks", 2),
        "bench": (model, "--steps", 2, "-t", 1),
    }[command]
    age(model)
    calls = strike(monkeypatch, Transformer, "layer", 20, lambda: how(model))
    with pytest.raises(FileChangedError, match=words):
        dgguf_command(command, *arguments)
    assert len(calls) < 20 + 3 * 6  # no step more of this model
    assert not capfd.readouterr().out
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("resume", [False, True])
def test_quantize_from_a_gguf(tmp_path, monkeypatch, change, resume):
    how, words = CHANGES[change]
    model = tmp_path / "tiny.gguf"
    write_model(model, type_name="F32")
    age(model)
    strike(monkeypatch, TensorEncoder, "batches", 20, lambda: how(model))
    with pytest.raises(FileChangedError, match=words):
        dgguf_command("quantize", model, tmp_path / "out.gguf", "--type", "Q4_0", *["--resume"] * resume)
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.gguf"]


@pytest.mark.parametrize("change", CHANGES)
def test_quantize_from_a_checkpoint(tmp_path, monkeypatch, change):
    how, words = CHANGES[change]
    folder = Checkpoint(tmp_path / "tiny").write()
    weights = folder / "model.safetensors"
    age(weights)
    plan = convert.plan(folder, "Q8_0")
    strike(monkeypatch, TensorEncoder, "batches", 3, lambda: how(weights))
    with pytest.raises(FileChangedError, match=f"model.safetensors: {words}"):
        list(convert.run(plan, tmp_path / "out.gguf"))
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


def test_an_error_that_comes_of_the_change_is_not_what_is_told(tmp_path, monkeypatch):
    """Weights that are no numbers any more make the encoder, or the network, complain of them first."""
    model = tmp_path / "tiny.gguf"
    write_model(model, type_name="F32")
    content = model.read_bytes()

    def spoil():
        with open(model, "r+b") as file:
            file.seek(len(content) // 3)
            file.write(b"\xff" * (len(content) - file.tell()))

    for command in (run(model), ["quantize", model, tmp_path / "out.gguf", "--type", "Q4_0"]):
        model.write_bytes(content)
        age(model)
        owner, name = (Transformer, "layer") if command[0] == "run" else (TensorEncoder, "batches")
        with monkeypatch.context() as patch:
            strike(patch, owner, name, 3, spoil)
            with pytest.raises(FileChangedError, match=WRITTEN):
                dgguf_command(*command)


def test_while_the_header_is_read(model, monkeypatch):
    content = model.read_bytes()
    for how, words in CHANGES.values():
        for name in ("preamble", "keys", "tensors"):
            model.write_bytes(content)
            age(model)
            with monkeypatch.context() as patch:
                strike(patch, Header, name, 1, lambda how=how: how(model))
                with pytest.raises(FileChangedError, match=words):
                    GgufFile(model)
    header = GgufFile(shutil.copy(model, model.with_name("other")))
    header.close()


def test_a_header_that_ends_too_early_is_told_so(tmp_path):
    """Also where its size was asked for before it was cut."""
    (tmp_path / "cut").write_bytes(b"GGUF\3\0\0\0")
    with open(tmp_path / "cut", "rb") as file, pytest.raises(dgguf.DggufError, match="at least 8 bytes are"):
        Header(tmp_path / "cut", file, 10**6).preamble()


def test_while_weights_are_placed(model, monkeypatch):
    """A GPU's backend copies them then."""
    for number in (1, 5):
        content = model.read_bytes()
        age(model)
        with GgufFile(model) as file, monkeypatch.context() as patch:
            calls = strike(patch, CpuBackend, "load_matrix", number, lambda: cut(model))
            with pytest.raises(FileChangedError, match=CUT.format("5,000")):
                load_weights(file, ModelConfig.from_file(file), CpuBackend(1))
            assert number <= len(calls) < number + 3  # q, k and v are placed together
        model.write_bytes(content)


def test_a_disk_that_fails(model):
    """A page that cannot be read while size and time are what they were."""
    age(model)
    size = model.stat().st_size
    with GgufFile(model) as file:
        cut(model)
        assert not file.data("output_norm.weight").any()
        cut(model, size)
        age(model)
        with pytest.raises(FileChangedError, match="the disk did not give the file") as error, file.reading():
            pass
        assert "look at the disk" in sentence(error.value)


def test_every_part_of_a_split_model_is_looked_at(tmp_path):
    parts = write_model(tmp_path / "split.gguf", n_parts=2)
    for part in parts:
        age(part)
        content = part.read_bytes()
        session = dgguf.load(parts[0])
        overwrite(part)
        with pytest.raises(FileChangedError, match=part.name):
            session.generate("Hello", max_tokens=32)
        part.write_bytes(content)


def test_reading_alone_is_no_change(model):
    age(model)
    session = dgguf.load(model)
    model.read_bytes()
    os.chmod(model, 0o600)
    os.link(model, model.with_name("linked"))
    answer = session.generate("Hello", max_tokens=32, settings=session.settings(max_steps=2))
    assert answer.statistics.steps


def test_the_conversation_can_be_saved_when_the_file_has_changed(model, monkeypatch, capfd):
    from dgguf.cli.dialog import Dialog
    from dgguf.cli.options import Asking, Showing

    session = dgguf.load(model)
    asking = Asking(32, 3, {"max_steps": 2}, system=None, think=False)
    saved = model.with_name("saved.json")

    def messages():
        yield "Hello"
        age(model)
        yield "And now?"
        yield f"/save {saved}"

    for keyboard in (SimpleNamespace(expect=lambda typed: None), None):
        saved.unlink(missing_ok=True)
        dialog = Dialog(session, asking, Showing("none", 0, "hide"), keyboard=keyboard, when_full="stop")
        with pytest.raises(FileChangedError, match=WRITTEN):
            dialog.run(messages())
        assert saved.exists() is bool(keyboard)
