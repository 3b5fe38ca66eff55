"""The live view: in a terminal with keys, resizing and Ctrl-C; its pace, its rate and what it costs."""

import io
import itertools
import re
import signal
import subprocess
import sys
import time

import pytest
from rich.color import ColorSystem

from dgguf.view.frame import Span, Style, line_text
from dgguf.view.live import Live
from dgguf.view.painter import Painter
from dgguf.view.status import Work
from dgguf.view.text import TextView
from tests.support.endless import write_endless_model
from tests.support.recordings import made_up

Terminal = pytest.importorskip("tests.support.terminal", reason="needs a pseudo-terminal").Terminal


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(write_endless_model(tmp_path_factory.mktemp("models") / "tiny.gguf"))


def run(model, *more, steps=6, pace=0.05):
    given = ["-p", "Hi", "--seed", "3", "-n", "64", "--max-steps", str(steps), "--pace", str(pace)]
    return ["run", model, *given, *more]


@pytest.fixture(scope="module")
def answer(model):
    command = [sys.executable, "-m", "dgguf", *run(model)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def joined(lines):
    """Text without what wrapping changes."""
    return "".join("".join(lines).split())


def test_on_a_terminal_the_answer_and_its_cost_are_what_stays(model, answer):
    with Terminal(*run(model)) as terminal:
        assert terminal.wait() == 0
        end = next(i for i, line in enumerate(terminal.lines) if line.startswith("2 blocks of 6+6 steps"))
        assert joined(terminal.lines[:end]) == joined(answer)
        assert terminal.is_restored()
        for word in ("block 1 · fresh noise", "block 2 · fresh noise", "step 6/6", "block 1 committed"):
            assert word in terminal.written


def test_ctrl_c_ends_at_once_and_leaves_what_there_is(model):
    with Terminal(*run(model, steps=48, pace=0.3)) as terminal:
        terminal.wait_for("step  3/48")
        began = time.monotonic()
        terminal.send("\x03")
        assert terminal.wait() == 130
        assert time.monotonic() - began < 15  # it would have gone on for 29
        assert re.match(r"── block 1 · stopped at step +\d+/48, not committed ──", terminal.lines[-1])
        assert len(terminal.lines) >= 2
        assert terminal.is_restored()


def test_a_request_to_end_restores_the_terminal(model):
    with Terminal(*run(model, steps=48, pace=0.3)) as terminal:
        terminal.wait_for("step  3/48")
        terminal.process.send_signal(signal.SIGTERM)
        assert terminal.wait() == 128 + signal.SIGTERM
        assert terminal.is_restored()


def whole_frames(terminal, start):
    """How many were drawn since; 0 while the last one has come in part."""
    begun, drawn = (terminal.written.count(f"\x1b[?2026{letter}") for letter in "hl")
    return terminal.written.count("\x1b[?2026l", start) if begun == drawn else 0


@pytest.mark.slow(13)
def test_resizing_and_keys_while_it_runs(model):
    with Terminal(*run(model, steps=99, pace=0.2)) as terminal:  # 40 s, were it not ended before
        terminal.wait_for("step  2/99")
        terminal.send("xyzzy typed unasked\r\x1b[A")
        for width, height in ((50, 24), (100, 30), (25, 30), (80, 40)):
            terminal.resize(width, height)
            before = len(terminal.written)
            terminal.wait_for(lambda start=before: whole_frames(terminal, start) >= 3)
            shown = [line.rstrip() for line in terminal.screen.display]
            while not shown[-1]:
                shown.pop()
            at = re.match(r"(block \d) · step +\d+/99", shown[-1])
            rule = shown[-3]
            assert len(rule) == width
            assert rule.startswith(f"── {at[1]} ─")
        for width, height in ((5, 3), (1, 1), (80, 24)):  # how a terminal cuts is its own affair
            terminal.resize(width, height)
            before = len(terminal.written)
            terminal.wait_for(lambda start=before: terminal.written.count("\x1b[?2026l", start) >= 2)
        terminal.send("\x03")
        assert terminal.wait() == 130
        assert "xyzzy" not in terminal.written
        assert terminal.is_restored()


def test_a_key_explains_the_colours(model):
    with Terminal(*run(model, steps=48, pace=0.2)) as terminal:
        terminal.wait_for("? explains")
        terminal.send("?")
        terminal.wait_for("taken back had settled")
        terminal.send("?")
        terminal.wait_for(lambda: "taken back had settled" not in "\n".join(terminal.lines))
        terminal.send("\x03")
        assert terminal.wait() == 130
        assert terminal.is_restored()


@pytest.mark.parametrize(
    ("environment", "attributes"),
    [({}, {"36", "35"}), ({"NO_COLOR": "1"}, {"2"})],
)
def test_colours_where_they_are_wanted(environment, attributes, model):
    with Terminal(*run(model), environment=environment) as terminal:
        assert terminal.wait() == 0
        used = set(re.findall(r"\x1b\[([\d;]*)m", terminal.written))
        assert {"0", *attributes} <= used
        if environment:
            assert used <= {"0", "1", "2", "7"}
        else:
            assert "38;5;243" in used


def test_a_dumb_terminal_gets_plain_lines(model, answer):
    with Terminal(*run(model), environment={"TERM": "dumb"}) as terminal:
        assert terminal.wait() == 0
        assert "\x1b" not in terminal.written
        assert "block 1 · step 6/6 · mean entropy" in terminal.written
        assert joined([answer]) in joined(terminal.lines)
    with Terminal(*run(model, "--view", "text"), environment={"TERM": "dumb"}) as terminal:
        assert terminal.wait() == 0
        assert "--viewtextneedsaterminalthatcanmoveitscursor" in joined(terminal.lines)


def test_with_the_answer_going_elsewhere_the_terminal_shows_the_view(model, answer, tmp_path):
    with (
        open(tmp_path / "answer", "w") as out,
        Terminal(*run(model, "--view", "text"), stdout=out) as terminal,
    ):
        assert terminal.wait() == 0
        assert "block 1 · fresh noise" in terminal.written
        assert terminal.is_restored()
    assert (tmp_path / "answer").read_text() == answer


def test_every_view_runs_on_a_terminal(model):
    for view in ("grid", "plain", "jsonl", "none"):
        with Terminal(*run(model, "--view", view, steps=2)) as terminal:
            assert terminal.wait() == 0
            assert terminal.is_restored()
            assert ("█" in terminal.written) == (view == "grid")
            assert ("\x1b[?25l" in terminal.written) == (view == "grid")
            assert ('{"type":"step"' in terminal.written) == (view == "jsonl")


def until(condition):
    end = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


class Watched(Painter):
    """A painter that notes when it draws what."""

    def __init__(self, width=72, height=24):
        super().__init__(io.StringIO(), lambda: (width, height + 1), ColorSystem.EIGHT_BIT)
        self.frames = []
        self.scrolled = []

    def paint(self, scroll, frame, columns):
        self.frames.append((time.perf_counter(), [line_text(line) for line in frame]))
        self.scrolled += map(line_text, scroll)
        super().paint(scroll, frame, columns)


def test_with_a_pace_every_event_is_seen_that_long():
    tokens, events = made_up(length=32, steps=6)
    painter = Watched()
    began = time.perf_counter()
    with Live(painter, pace=0.06) as live:
        assert list(live.show(events, TextView(tokens))) == events
    assert 0.06 * (len(events) - 1) < time.perf_counter() - began < 0.06 * len(events) + 10
    drawn = [frame for _, frame in painter.frames]
    view = TextView(tokens)
    for event in events:
        view.add(event)
        view.scroll(72)
        assert [line_text(line) for line in view.frame(72, 24)] in drawn


def test_without_a_pace_it_holds_nothing_back_and_draws_at_most_20_times_a_second():
    tokens, events = made_up(length=8, steps=20)  # so small that its cost alone would allow more frames
    painter, view = Watched(), TextView(tokens)
    began = time.perf_counter()
    with Live(painter) as live:
        while time.perf_counter() < began + 1.5:  # as of a model that is very quick
            list(live.show(events[:-2], view))
    seconds = time.perf_counter() - began
    times = [at for at, _ in painter.frames]
    assert seconds < 15
    for first in times:
        assert sum(first <= at < first + 1 for at in times) <= 21  # the last frame, at the end, comes at once


def test_drawing_is_held_to_two_percent_of_the_time():
    class Slow(Watched):
        def paint(self, *arguments):
            time.sleep(0.01)
            super().paint(*arguments)

    tokens, events = made_up(length=32, steps=20)

    def slowly():
        for event in events[:-2]:
            time.sleep(0.03)
            yield event

    painter = Slow()
    with Live(painter) as live:
        list(live.show(slowly(), TextView(tokens)))
        times = [at for at, _ in painter.frames]
    # A frame that costs 10 ms is followed by half a second without one.
    assert len(times) >= 2
    assert all(later - earlier > 0.45 for earlier, later in itertools.pairwise(times))


def test_between_events_it_says_how_far_the_layers_are():
    tokens, events = made_up(length=32)
    painter, done = Watched(width=100), iter(range(100))

    def stalling():
        yield from events[:4]
        until(lambda: len(painter.frames) > 12)

    with Live(painter) as live:
        list(live.show(stalling(), TextView(tokens), lambda: Work(next(done), 101)))
    statuses = [frame[-1] for _, frame in painter.frames if frame]
    found = [re.search(r"layer +(\d+)/101 · \d\.\d s", status) for status in statuses]
    layers = [int(match[1]) for match in found if match]
    assert len(layers) >= 3
    assert layers == sorted(set(layers))


def test_before_there_are_events_it_says_what_it_does():
    painter = Watched(width=30)
    with Live(painter) as live:
        live.say("loading a file with a rather long name.gguf")
        until(lambda: len(painter.frames) > 1)
        live.note("a line that stays, longer than one row can be")
        for _ in range(3):
            live.notice_compilation()
        n = len(painter.frames)
        until(lambda: len(painter.frames) > n + 1)
    frames = [frame for _, frame in painter.frames if frame]
    assert any(frame == ["loading a file with a rather l"] for frame in frames)
    assert re.match(r". compiling kernels, once \(3 s", frames[-1][0])
    assert painter.scrolled[:2] == ["a line that stays, longer than", "one row can be"]


def test_an_error_leaves_the_terminal_as_it_was():
    painter = Watched()
    tokens, events = made_up(length=32, steps=6)

    def failing():
        yield from events[:5]
        raise RuntimeError("of the network")

    with pytest.raises(RuntimeError, match="of the network"), Live(painter) as live:
        list(live.show(failing(), TextView(tokens)))
    assert painter._out.getvalue().endswith("\x1b[?7h\x1b[?25h")
    assert painter.scrolled[-1].startswith("── block 1 · stopped at step 2/48, not committed ")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_span_of_every_style_is_drawn():
    painter = Watched()
    painter.paint([tuple(Span(style, style) for style in Style)], [], 200)
    for style in Style:
        assert style in painter._out.getvalue()


def test_kernels_compiled_while_a_chat_answers_are_counted_once(monkeypatch):
    """A chat loads in one display and answers in others."""
    import contextlib
    from types import SimpleNamespace

    from dgguf.cli.display import Display
    from dgguf.cli.options import Showing

    watching = []
    monkeypatch.setattr(
        "dgguf.jit.on_compile", lambda notice: contextlib.nullcontext(watching.append(notice))
    )
    for is_loaded_here in (True, False):
        display = Display(Showing("text", 0.0, "dim"))
        display._live = SimpleNamespace(
            say=lambda caption: None, notice_compilation=print, show=lambda events, view: iter(events)
        )
        if is_loaded_here:
            display.say("loading")
        session = SimpleNamespace(tokenizer=None, work=None)
        monkeypatch.setattr("dgguf.cli.display.make_view", lambda *_, **__: None)
        assert list(display.show([], session, None)) == []
        display._stack.close()
    assert len(watching) == 2
