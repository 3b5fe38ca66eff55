"""Images on the command line."""

import json
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from dgguf.cli import cli
from dgguf.cli import dialog as dialog_module
from dgguf.cli import images as images_module
from dgguf.cli.dialog import Dialog
from dgguf.cli.images import BUDGETS, announce, pasted_image
from dgguf.cli.options import Asking, Showing
from dgguf.images import BUDGETS as KNOWN
from dgguf.images import read_image
from dgguf.session import Session
from dgguf.videos import Pictures
from tests.images.test_images import random_picture
from tests.support.seeing import write_seeing_model
from tests.support.synthetic.writer import write_model
from tests.support.videos import film, numbered_frames

QUICK = ["-n", "8", "--seed", "5", "-t", "1", "--exact", "--image-tokens", "70"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("seeing")
    write_seeing_model(folder)
    random_picture(1, 300, 200).save(folder / "a picture.png")
    random_picture(2, 3000, 2000).save(folder / "large.jpg")
    return folder


def dgguf(*arguments, stdin=None):
    return CliRunner().invoke(cli, [str(argument) for argument in arguments], input=stdin)


def test_run_takes_images(folder):
    model = folder / "model.gguf"
    done = dgguf("run", model, "-p", "look", "--image", folder / "a picture.png", *QUICK)
    assert done.exit_code == 0, done.output
    assert "[image 1: a picture.png, 480x288, 60 tokens]" in done.stderr
    assert "it shrinks" not in done.stderr
    both = ["--image", folder / "a picture.png", "--image", folder / "large.jpg"]
    other = dgguf("run", model, "-p", "look", *both, *QUICK, "--json")
    assert "[image 2: large.jpg, 480x288, 60 tokens]" in other.stderr
    assert "it shrinks 6.9 times from 3000x2000" in other.stderr
    assert json.loads(other.stdout)["text"] != done.stdout.strip()


def test_images_that_cannot_be_read_are_refused_in_a_sentence(folder, tmp_path):
    def refused(*arguments):
        done = dgguf("run", *arguments, "-p", "look", *QUICK)
        assert done.exit_code == 1
        assert done.stdout == ""
        return str(done.exception)

    picture = ["--image", folder / "a picture.png"]
    assert "there is no such image" in refused(folder / "model.gguf", "--image", folder / "none.png")
    assert "mmproj none" in refused(folder / "model.gguf", *picture, "--mmproj", "none")
    write_model(tmp_path / "blind.gguf")
    assert "this model reads no images" in refused(tmp_path / "blind.gguf", *picture)
    (tmp_path / "model.gguf").write_bytes((folder / "model.gguf").read_bytes())
    assert "dgguf quantize HF_DIR --mmproj" in refused(tmp_path / "model.gguf", *picture)


def test_chat_takes_images(folder):
    dropped = f'"{folder / "a picture.png"}"'
    lines = f"/image {folder / 'large.jpg'}\nwhat is it\n{dropped} and this\nand now\n/history\n"
    done = dgguf("chat", folder / "model.gguf", *QUICK, stdin=lines)
    assert done.exit_code == 0, done.output
    assert "[image 1: large.jpg" in done.stderr
    assert "[image 2: a picture.png" in done.stderr
    assert "> and this" in done.stderr


def test_several_images_are_pasted_before_a_question(folder):
    one, two = f'"{folder / "a picture.png"}"', str(folder / "large.jpg")
    lines = f"{one} {two} /help is no command here\n/image {two} {one}\n/history\n"
    done = dgguf("chat", folder / "model.gguf", *QUICK, stdin=lines)
    assert done.exit_code == 0, done.output
    assert done.stderr.count("image 1: a picture.png") == done.stderr.count("image 2: large.jpg") == 1
    assert done.stderr.count("image 3: large.jpg") == done.stderr.count("image 4: a picture.png") == 1
    assert "> /help is no command here" in done.stderr
    done = dgguf("chat", folder / "model.gguf", *QUICK, stdin=f"/image {two} and more\n")
    assert "large.jpg and more: there is no such image" in str(done.exception)


@pytest.fixture
def dialog(folder, monkeypatch):
    """A conversation that somebody types, and what is said in it."""
    said = []
    monkeypatch.setattr(dialog_module, "say", said.append)
    monkeypatch.setattr(dialog_module, "fail", said.append)
    asking = Asking(max_tokens=8, seed=1, sampler={"max_steps": 1}, system=None, think=False, image_tokens=70)
    keyboard = SimpleNamespace(expect=lambda typed: None)
    with Session(folder / "model.gguf", threads=1, context=200, exact=True) as session:
        showing = Showing(view="none", pace=0.0, thoughts="dim")
        yield Dialog(session, asking, showing, keyboard=keyboard, when_full="stop"), said


def test_images_that_do_not_fit_do_not_stay(folder, dialog):
    chat, said = dialog
    picture = f'"{folder / "a picture.png"}"'
    chat.run(iter([f"{picture} {picture} {picture} {picture} too much", "and now"]))
    assert any("does not fit the context of 200" in line for line in said)
    assert "the images of this message were dropped; /image adds one again" in said
    assert [message["content"] for message in chat.messages][:1] == ["and now"]


def test_images_wait_for_the_message_that_shows_them(folder, dialog, tmp_path):
    chat, _ = dialog
    picture = f'"{folder / "a picture.png"}"'
    chat.run(iter(["hello", f"/image {picture}", "/retry"]))
    assert len(chat.messages) == 2
    chat.run(iter(["look"]))
    assert [part["type"] for part in chat.messages[2]["content"]] == ["image", "text"]
    file = tmp_path / "old.json"
    chat.run(iter(["/clear", "hello", f"/save {file}", f"/image {picture}", f"/load {file}", "look"]))
    assert chat.messages[2]["content"] == "look"


def test_pasted_paths(folder):
    path = folder / "a picture.png"
    escaped = str(path).replace(" ", "\\ ")
    for text, rest in (
        (f"'{path}' what is this", "what is this"),
        (f'"{path}"', ""),
        (f"{escaped} look  here", "look  here"),
        (f"{path.as_uri()}", ""),
    ):
        assert pasted_image(text) == (path, rest)
    for text in (
        "what is /tmp/a.png",
        "/help",
        "'/tmp/none.png'",
        "'open",
        "/",
        "",
        f"{folder}",
        "a picture.png",
    ):
        assert pasted_image(text) == (None, text)


def test_the_budgets_are_those_that_images_have():
    assert BUDGETS == KNOWN


def test_what_is_said_of_an_image():
    said = []
    announce(Pictures([read_image(random_picture(1, 5000, 100), 70)]), said.append, first_image=3)
    assert said[0].startswith("[image 3: image, ")
    assert "--image-tokens 1120 keeps more" in said[1]


def test_run_and_chat_take_videos(folder):
    clip = folder / "a clip.mkv"
    clip.write_bytes(film(numbered_frames(3)))
    model, said = folder / "model.gguf", "a clip.mkv, 3 frames of 528x240 from 00:00 to 00:00, 165 tokens]"
    done = dgguf("run", model, "-p", "look", "--video", clip, "--image", folder / "large.jpg", *QUICK)
    assert done.exit_code == 0, done.output
    assert f"[video 1: {said}" in done.stderr
    other = dgguf("run", model, "-p", "look", *QUICK)
    assert other.stdout != done.stdout
    lines = f'/video {clip}\nwhat is it\n"{clip}" and this\n/video none.mp4\n'
    done = dgguf("chat", folder / "model.gguf", *QUICK, stdin=lines)
    assert f"[video 1: {said}" in done.stderr
    assert f"[video 2: {said}" in done.stderr
    assert "none.mp4: there is no such video" in str(done.exception)


def test_previews_can_be_left_out(folder, monkeypatch):
    drawn = []
    monkeypatch.setattr(images_module, "_preview", lambda image, wanted: drawn.append((image.name, wanted)))
    shown = ["run", "demo", "-p", "look", "--image", folder / "a picture.png"]
    dgguf(*shown)
    dgguf(*shown, "--no-preview")
    dgguf("chat", folder / "model.gguf", *QUICK, stdin=f"/image {folder / 'large.jpg'}\n")
    assert drawn == [("a picture.png", True), ("a picture.png", False), ("large.jpg", False)]


@pytest.mark.posix
@pytest.mark.parametrize(
    ("attributes", "mark"),
    [("\x1b[?62;4;6c", "\x1bPq"), pytest.param("\x1b[?62c", None, marks=pytest.mark.slow(2))],
)
def test_a_terminal_is_asked_for_sixels(attributes, mark):
    terminal_of = pytest.importorskip("tests.support.terminal", reason="needs a pseudo-terminal").Terminal
    program = (
        "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); import numpy as np;"
        "[os.environ.pop(n, None) for n in ('TMUX', 'SSH_TTY', 'SSH_CONNECTION', 'COLORTERM', 'NO_COLOR')];"
        "from dgguf.view import preview; preview._PATIENCE = 60;"  # a busy machine answers late
        "preview.show(np.zeros((9, 9, 3), np.uint8), sys.stderr)"
    )
    with terminal_of(environment={"TERM": "xterm-256color"}, launch=program) as terminal:
        terminal.screen.write_process_input = lambda answer: terminal.send(attributes)
        assert terminal.wait() == 0
        assert terminal.is_restored()
        written = terminal.written
    assert written.startswith("\x1b[c")
    assert mark in written if mark else written == "\x1b[c"
