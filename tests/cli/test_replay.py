"""`dgguf replay` and `run --record`: what is recorded is seen again, with no model present."""

import json
import re
import subprocess
import sys

import pytest

from dgguf.cli import cli
from dgguf.cli.replay import paced
from dgguf.session import Session
from dgguf.view.choice import make_view
from dgguf.view.frame import line_text
from dgguf.view.recorder import Recorder
from dgguf.view.recording import read_recording
from dgguf.view.screens import screens, times
from tests.support.endless import write_endless_model
from tests.support.recordings import STORY, generation, made_up


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_endless_model(tmp_path_factory.mktemp("models") / "tiny.gguf")


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    path = tmp_path_factory.mktemp("recordings") / "story.jsonl"
    tokens, events = made_up(length=64, steps=6)
    with Recorder.to_file(path, tokens) as recorder:
        list(recorder.record(events))
    return path


def dgguf(*arguments, **options):
    command = [sys.executable, "-m", "dgguf", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, encoding="utf-8", **options)


def frames(view, events, width, height):
    for event in events:
        view.add(event)
        yield [*view.scroll(width)], [*view.frame(width, height)]


@pytest.mark.parametrize("name", ["text", "grid", "sudoku"])
def test_the_frames_of_a_replay_are_those_of_the_run(name, model, tmp_path):
    path = tmp_path / "a.jsonl.gz"
    with Session(model) as session, Recorder.to_file(path, session.tokenizer) as recorder:
        live = make_view(name, session.tokenizer)
        prompt = "1..4\n..1.\n.1..\n4..1" if name == "sudoku" else "Hi"
        settings = session.settings(max_steps=8)
        events = recorder.record(session.stream(prompt, max_tokens=64, seed=28, settings=settings))
        seen = list(frames(live, events, 50, 20))
    read = read_recording(path)
    assert list(frames(make_view(name, read.tokens), read.events, 50, 20)) == seen
    assert len(seen) > 12


def test_a_run_is_recorded_and_replayed_with_the_same_answer(model, tmp_path):
    recording = tmp_path / "a.jsonl"
    more = ["-n", "64", "--seed", "3", "--max-steps", "6", "--record-top", "2"]
    run = dgguf("run", model, "-p", "Hi", *more, "--record", recording)
    assert run.returncode == 0
    steps = [line for line in map(json.loads, recording.read_text().splitlines()) if line["type"] == "step"]
    assert len(steps) == 12
    assert all(len(step["guesses"]["tokens"]) == 2 * len(step["tokens"]) for step in steps)
    for step in steps:
        assert step["guesses"]["tokens"][::2] == step["tokens"]  # the likeliest comes first
        pairs = zip(
            step["guesses"]["probabilities"][::2], step["guesses"]["probabilities"][1::2], strict=True
        )
        assert all(1000 >= first >= second >= 0 for first, second in pairs)
    model_gone = dgguf("replay", recording, cwd=tmp_path)
    assert model_gone.returncode == 0
    assert model_gone.stdout == run.stdout

    def plain(stderr):
        """The lines without the mean entropies, and these: a recording rounds each entropy to 4 decimals."""
        lines = [line for line in stderr.splitlines() if line.startswith("block ")]
        pattern = r"(?<=mean entropy ) *([\d.]+)"
        return [re.sub(pattern, "", line) for line in lines], [
            float(found) for line in lines for found in re.findall(pattern, line)
        ]

    (lines, entropies), (lines_of_run, entropies_of_run) = plain(model_gone.stderr), plain(run.stderr)
    assert lines == lines_of_run
    assert len(entropies) == 12
    assert entropies == pytest.approx(entropies_of_run, abs=1.01e-4)
    none = dgguf("replay", recording, "--view", "none")
    assert (none.stdout, len(none.stderr.splitlines())) == (run.stdout, 2)


def test_jsonl_is_a_recording(model, tmp_path):
    done = dgguf("run", model, "-p", "Hi", "-n", "32", "--seed", "28", "--max-steps", "3", "--view", "jsonl")
    kinds = [json.loads(line)["type"] for line in done.stdout.splitlines()]
    assert kinds == ["started", "prompt", "canvas", "step", "step", "step", "committed", "finished"]
    (tmp_path / "a.jsonl").write_text(done.stdout)
    again = dgguf("replay", tmp_path / "a.jsonl", "--view", "jsonl")
    assert again.stdout == done.stdout


def test_what_is_told_about_a_recording_that_is_none(tmp_path):
    (tmp_path / "other").write_text("hello")
    for name, words in (("other", "this is no recording"), ("none", "there is no such file")):
        done = dgguf("replay", tmp_path / name)
        assert done.returncode == 1
        assert done.stderr.startswith(f"dgguf: error: {tmp_path / name}: {words}")
        assert len(done.stderr.splitlines()) == 1
    done = dgguf("run", "demo", "-p", "Hi", "-n", "1", "--record", tmp_path / "other")
    assert done.returncode == 1
    assert "this file exists and is no recording" in done.stderr
    assert (tmp_path / "other").read_text() == "hello"


def test_what_does_not_go_together_is_a_usage_error(story, model):
    for arguments, words in (
        (["replay", story, "--step"], "--step needs a terminal"),
        (["run", model, "-p", "Hi", "--record-top", "3"], "--record-top goes with --record"),
    ):
        done = dgguf(*arguments)
        assert done.returncode == 2
        assert words in done.stderr


def test_a_closed_pipe_is_quiet(tmp_path):
    path = tmp_path / "long.jsonl"  # longer than what a pipe holds, so that the writer notices
    tokens, events = made_up(length=512, steps=90)
    with Recorder.to_file(path, tokens) as recorder:
        list(recorder.record(events))
    assert path.stat().st_size > 1 << 17
    command = f"'{sys.executable}' -m dgguf replay '{path}' --view jsonl | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert done.stdout.startswith('{"type":"started"')
    assert done.stderr == ""


def test_events_come_at_their_times(story, monkeypatch):
    read = read_recording(story)
    assert times(read.events)[-1] == pytest.approx(0.1 + 6 * 0.05 + 0.1 + 6 * 0.05)
    now, slept = [0.0], []
    monkeypatch.setattr("time.perf_counter", lambda: now[0])

    def sleep(seconds):
        slept.append(seconds)
        now[0] += seconds

    monkeypatch.setattr("time.sleep", sleep)
    assert list(paced(read, 2.0)) == read.events
    assert sum(slept) == pytest.approx(0.8 / 2)


def test_screens_end_with_the_answer(story):
    read = read_recording(story)
    shown = list(screens(read.events, make_view("text", read.tokens), 60, 40, pace=0.1, speed=None))
    assert len(shown) == 1 + 6 + 1 + 1 + 6 + 1 + 1
    assert all(screen.seconds == 0.1 for screen in shown)
    final = " ".join(line_text(line) for line in shown[-1].lines)
    assert " ".join(final.split()) == " ".join(STORY.split())
    cut = list(screens(read.events, make_view("text", read.tokens), 60, 6, pace=0.1, speed=None))
    assert all(len(screen.lines) <= 6 for screen in cut)


class TestInATerminal:
    @pytest.fixture(autouse=True)
    def terminal(self):
        self.terminal = pytest.importorskip(
            "tests.support.terminal", reason="needs a pseudo-terminal"
        ).Terminal

    def test_it_plays(self, story):
        with self.terminal("replay", str(story), "--pace", "0.02", "--speed", "5") as terminal:
            assert terminal.wait() == 0
            assert "block 1 · fresh noise" in terminal.written
            assert "So he opened the notebook" in "\n".join(terminal.lines)
            assert terminal.is_restored()

    def test_stepping_by_keys(self, story):
        with self.terminal("replay", str(story), "--step", height=40) as terminal:
            terminal.wait_for("block 1 · fresh noise")
            for keys, shown in (
                (" ", "step 1/48"), ("\x1b[C", "step 2/48"), ("n", "step 3/48"), ("\x1b[D", "step 2/48"),
                ("b", "step 1/48"), ("bb", "block 1 · fresh noise"), (" " * 7, "block 1 committed"),
            ):  # fmt: skip
                terminal.send(keys)
                terminal.wait_for(shown.replace("step ", "step  "))
            assert terminal.lines[-1].startswith(
                "space → on · ← back · PgDn PgUp by 10 · Home End · ? explains · q ends"
            )
            terminal.send("?")
            terminal.wait_for("taken back had settled")
            assert terminal.lines[-1].startswith("space → on")
            terminal.send("?")
            terminal.wait_for(lambda: "taken back had settled" not in "\n".join(terminal.lines))
            for keys, shown in (
                ("\x1b[H", "block 1 · fresh noise"), ("\x1b[6~", "block 2 · step  2/48"),
                ("\x1b[5~", "block 1 · fresh noise"), ("\x1b[F\x1b[D", "block 2 committed"),
                ("\x1b[1~", "block 1 · fresh noise"), ("\x1b[1;5C\x1bOP\x1b[3~\x1bx ", "step  1/48"),
                (" " * 6, "block 1 committed"),
            ):  # fmt: skip
                terminal.send(keys)
                terminal.wait_for(shown)
            terminal.resize(50, 40)
            terminal.send(" ")
            terminal.wait_for("block 2 · fresh noise")
            terminal.send("q")
            assert terminal.wait() == 0
            assert terminal.is_restored()
            assert "block 2 · fresh noise" in "\n".join(terminal.lines)

    def test_ctrl_z_gives_the_terminal_back(self, story):
        with self.terminal("replay", str(story), "--step") as terminal:
            terminal.wait_for("q ends")
            taken = terminal.written.count("\x1b[?25l")
            terminal.send("\x1a")  # without a shell it goes on at once
            terminal.wait_for(lambda: terminal.written.count("\x1b[?25l") > taken)
            assert "\x1b[?25h" in terminal.written
            terminal.send("q")
            assert terminal.wait() == 0
            assert terminal.is_restored()

    def test_a_sudoku_view_without_a_sudoku_says_so(self, story):
        quick = ("--view", "sudoku", "--pace", "0", "--speed", "50")
        with self.terminal("replay", str(story), *quick) as terminal:
            assert terminal.wait() == 0
            assert "note: the prompt holds no sudoku" in terminal.written


def test_help_of_both_commands_teaches_by_example():
    from click.testing import CliRunner

    for command in ("replay", "export"):
        text = CliRunner().invoke(cli, [command, "--help"]).output
        assert "Examples:" in text
        assert "--record story.jsonl" in text


@pytest.mark.parametrize("view", ["none", "plain"])
def test_a_wrong_board_is_said_in_every_view(view, tmp_path):
    right = record_board(tmp_path / "right.jsonl", "1234\n3412\n2143\n4321")
    assert "not solved" not in dgguf("replay", right, "--view", view).stderr
    wrong = record_board(tmp_path / "wrong.jsonl", "1224\n3412\n2143\n4321")
    done = dgguf("replay", wrong, "--view", view)
    assert "warning: this sudoku is not solved: 4 cells against the rules" in done.stderr
    assert done.stdout == "1224\n3412\n2143\n4321\n"


def record_board(path, answer):
    tokens, events = generation(
        [[([*answer, "<turn|>"], [0.0] * (len(answer) + 1))]],
        prompt=["Solve:", "\n", *"1..4\n..1.\n.1..\n4..1"],
    )
    with Recorder.to_file(path, tokens) as recorder:
        list(recorder.record(events))
    return path


def test_a_run_is_drawn_at_once(model, tmp_path):
    film = tmp_path / "a.svg"
    options = ["-n", "32", "--seed", "3", "--max-steps", "2"]
    done = dgguf("run", model, "-p", "Hi", *options, "--export", film)
    assert done.returncode == 0
    assert "a.svg: " in done.stderr
    assert "seed 3" in film.read_text()
    recorded = dgguf("run", model, "-p", "Hi", *options, "--record", tmp_path / "a.jsonl")
    assert recorded.stdout == done.stdout
    dgguf("export", tmp_path / "a.jsonl", tmp_path / "b.svg")

    def film_alone(path):  # the same but for how long it took
        return re.sub(r"[\d.]+ (s/step|tokens/s|tok/s|s)\b", "", path.read_text())

    assert len(film_alone(film)) == pytest.approx(len(film_alone(tmp_path / "b.svg")), rel=0.02)
    before = film.read_bytes()
    again = dgguf("run", model, "-p", "Hi", *options, "--export", film)
    assert (again.returncode, again.stdout) == (2, "")
    assert "--force overwrites it" in again.stderr
    assert film.read_bytes() == before
    assert dgguf("run", model, "-p", "Hi", *options, "--export", film, "--force").returncode == 0
    for wrong, words in (
        (["--export", tmp_path / "a.jpg"], "must end in one of"),
        (["--force"], "--force goes with --export"),
        (["--record-top", "3", "--export", tmp_path / "c.svg"], "--record-top goes with"),
    ):
        done = dgguf("run", model, "-p", "Hi", *options, *wrong)
        assert done.returncode == 2
        assert words in done.stderr
