"""A chat's commands with whatever may be typed: a sentence for each, never a traceback."""

import json
import os
import random
import re
from types import SimpleNamespace

import numpy as np
import pytest

from dgguf.cli import dialog as dialog_module
from dgguf.cli import room, saved
from dgguf.cli.dialog import Dialog
from dgguf.cli.options import Asking, Showing
from dgguf.errors import PromptError
from dgguf.session import Session
from tests.support.synthetic.writer import TINY, write_model

QUICK = {"max_steps": 1}
NOT_WRITTEN = "this is no conversation that /save wrote"
FILES = {
    "messages_a_dict": '{"messages": {}}',
    "messages_a_text": '{"messages": "user"}',
    "no_messages": "{}",
    "a_list": "[]",
    "a_number": "7" * 5000,
    "empty": "",
    "cut": '{"messages": [',
    "deep": '{"messages": ' + "[" * 100_000,
    "not_unicode": '{"system": "\\ud800", "messages": []}',
    "no_role": '{"messages": [{"content": "x"}]}',
    "odd_role": '{"messages": [{"role": ["user"], "content": "x"}]}',
    "the_tool": '{"messages": [{"role": "tool", "content": "x"}]}',
    "no_content": '{"messages": [{"role": "user"}]}',
    "odd_content": '{"messages": [{"role": "user", "content": [1]}]}',
    "a_message_a_text": '{"messages": ["user"]}',
    "odd_system": '{"system": 5, "messages": []}',
}


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "tiny.gguf"
    write_model(path, TINY, "Q8_0", seed=3)
    with Session(path) as session:
        yield session


@pytest.fixture
def lines(monkeypatch):
    found = []
    for module in (dialog_module, room):
        monkeypatch.setattr(module, "say", found.append)
    monkeypatch.setattr(dialog_module, "fail", lambda text: found.append(f"error: {text}"))
    return found


def a_dialog(session):
    asking = Asking(max_tokens=8, seed=1, sampler=QUICK, system=None, think=False)
    return Dialog(
        session,
        asking,
        Showing(view="none", pace=0.0, thoughts="dim"),
        keyboard=SimpleNamespace(expect=lambda typed: None),  # somebody types: an error does not end it
        when_full="stop",
    )


@pytest.mark.parametrize("name", FILES)
def test_files_that_are_no_conversation(name, tmp_path):
    path = tmp_path / name
    path.write_text(FILES[name])
    with pytest.raises(PromptError, match=f"{name}: {NOT_WRITTEN}"):
        saved.read(str(path))
    with pytest.raises(PromptError, match="is no conversation; choose another name"):
        saved.write(str(path), None, [])
    assert path.read_text() == FILES[name]


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("", "/load needs the name of a file"),
        ("nofile", "nofile: there is no such file; /save writes one"),
        (".", "this is no file"),
        ("~nosuchuser/x", "~nosuchuser/x: there is no user nosuchuser"),
        ("a\0b", "no file can be called so"),
    ],
)
def test_names_that_are_no_files(argument, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PromptError, match=re.escape(words)):
        saved.read(argument)
    if argument != "nofile":
        with pytest.raises(PromptError):
            saved.write(argument, None, [])


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="needs Linux")
def test_a_device_is_not_read():
    with pytest.raises(PromptError, match="this is no file"):
        saved.read("/dev/zero")


def test_what_is_written_is_read(tmp_path):
    messages = [{"role": "user", "content": "Hi \u2603"}, {"role": "assistant", "content": ""}]
    path = saved.write(str(tmp_path / "a.json"), "Be brief.", messages)
    assert saved.read(str(path)) == (path, "Be brief.", messages)


@pytest.mark.posix
def test_a_link_stays_one(tmp_path):
    path = saved.write(str(tmp_path / "a.json"), "Be brief.", [])
    link = tmp_path / "link.json"
    link.symlink_to(path)
    saved.write(str(link), None, [])
    assert link.is_symlink()
    assert saved.read(str(path)) == (path, None, [])


def test_retry_replaces_one_answer_and_keeps_it_where_the_new_one_fails(session, monkeypatch):
    dialog = a_dialog(session)
    dialog.messages = [
        {"role": role, "content": text}
        for role, text in (("user", "1"), ("assistant", "one"), ("user", "2"), ("assistant", "two"))
    ]
    before = [*dialog.messages]

    def given_up(message):
        assert message["content"] == "2"
        raise KeyboardInterrupt

    monkeypatch.setattr(dialog, "_reply", given_up)
    with pytest.raises(KeyboardInterrupt):
        dialog.command("/retry")
    assert dialog.messages == before


@pytest.mark.parametrize("choice", ["drop", "clear"])
@pytest.mark.parametrize("retried", [False, True])
def test_what_is_given_up_behind_dropped_turns_does_not_stay(choice, retried, session, lines, monkeypatch):
    dialog = a_dialog(session)
    dialog._when_full = choice
    dialog.messages = [{"role": role, "content": role} for role in ("user", "assistant")]
    last = [{"role": role, "content": "2"} for role in ("user", "assistant")]
    half = (session.context - dialog._canvas_length) // 2
    monkeypatch.setattr(dialog, "_encode", lambda: np.zeros(half * len(dialog.messages), np.int64))

    def strike(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(session, "stream", strike)
    if retried:
        dialog.messages += last
    with pytest.raises(KeyboardInterrupt):
        dialog.command("/retry") if retried else dialog.answer("2")
    assert lines[0] == "dropped the oldest turn" or retried
    assert dialog.messages == (last if retried else [])


def test_a_thousand_random_lines(session, lines, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    order = {"messages": [{"role": role, "content": "x"} for role in ("assistant", "user", "user")]}
    (tmp_path / "odd_order").write_text(json.dumps(order))
    rng = random.Random(5)
    words = [
        *FILES, "odd_order", "mine.json", "", " ", "on", "off", "-", "random", "0", "²", "-1", "1e3", "٣",
        str(2**64), "9" * 5000, "x" * 5000, "/", ".", "..", "~", "~nosuchuser/x", "nowhere/x", "\x1b[2J",
        "a\0b", "a\0b.txt", "x.txt",
        "~nosuchuser/x.svg", "\ud800", "--help", "{0}", "%s", "/dev/null", "/proc/self/mem", '"""', "\u202e",
    ]  # fmt: skip
    commands = [*Dialog.COMMANDS[:-1], "/", "//", "/nonsense", "/\x1b[2J", "/ save", "/SAVE"]

    def typed():
        for _ in range(1000):
            yield f"{rng.choice(commands)} {' '.join(rng.choices(words, k=rng.choice((0, 1, 1, 1, 2))))}"
            if rng.random() < 0.01:
                yield rng.choice(["Hi", "\x1b[2J", "\ud800 half a character"])
                yield "/clear"

    a_dialog(session).run(typed())
    assert len(lines) > 1000
    errors = [line for line in lines if line.startswith("error: ")]
    assert len(errors) > 100
    assert max(map(len, errors)) < 520
    assert not [*tmp_path.rglob("*.part")]
