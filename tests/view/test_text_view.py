"""The text view: exact frames of generations written by hand, at several sizes."""

import io

import numpy as np
import pytest
from rich.color import ColorSystem

from dgguf.diffusion.events import CanvasCommitted, CanvasStarted, DenoisingStep, PromptEncoded
from dgguf.view.ansi import colour_system, encode
from dgguf.view.frame import Style, line_text, line_width
from dgguf.view.grid import GridView
from dgguf.view.status import Activity, Work, sparkline
from dgguf.view.text import TextView
from tests.support.recordings import generation, made_up

NOISE = ("~", "#", "%", "\x1b[2J", "<|image|>")
FIRST = [
    (["The", "#", " sat", "~", ".", " %", "%", "<turn|>"], [0.6, 2, 0.2, 2, 0.01, 2, 2, 2]),
    (["The", " dog", " sat", "\n", ".", "\x1b[2J", "<|image|>", "<turn|>"], [0, 0.04, 0, 1.2, 0.01, 2, 2, 0]),
    (["The", " cat", " sat", "\n", "Then", " it", " said", " 世"], [0] * 8),
]
SECOND = [
    (["世", "界", "e", "\u0301", "ש", "\t", "~", "~"], [0.02, 0.02, 0.02, 0.02, 0.02, 0.4, 2, 2]),
    ([" 世", "界", " e", "\u0301", " ש", "ל", "!", "<turn|>"], [0] * 8),
]


def play(view, events, width, height):
    """(scrolled lines, frame) after every event."""
    for event in events:
        view.add(event)
        yield view.scroll(width), view.frame(width, height)


def texts(lines):
    return [line_text(line) for line in lines]


def rule(text, width):
    return f"── {text} ".ljust(width, "─")[:width]


def test_pads_behind_the_end_are_drawn_as_the_end_is():
    drafts = [
        (["Hi", "<turn|>", "<pad>", "<image|>"], [0.0, 0.0, 0.0, 2.0]),
        (["Hi", *["<pad>"] * 3], [0.0] * 4),
    ]
    tokens, events = generation([drafts], noise=("~",))
    frames = [texts(frame)[0] for _, frame in play(TextView(tokens), events, 40, 8) if frame]
    assert "Hi··<image|>" in frames
    assert "Hi···" in frames


def test_every_frame_of_two_blocks():
    tokens, events = generation([FIRST, SECOND], noise=NOISE)
    shown = [(texts(scroll), texts(frame)) for scroll, frame in play(TextView(tokens), events, 60, 12)]
    assert shown == [
        ([], ["prompt"]),
        ([], ["prompt 1 token"]),
        ([], ["<|image|>#%%~␛[2J#␛[2J", rule("block 1 · fresh noise", 60),
              "mean entropy ", "block 1 · step 0/4"]),
        ([], ["The# sat~. %%·", rule("block 1", 60), "mean entropy █",
              "block 1 · step 1/4 · H 1.35 nats · accepted 1/8"]),
        ([], ["The dog sat↵.␛[2J<|image|>·", rule("block 1", 60), "mean entropy █▄",
              "block 1 · step 2/4 · H 0.66 nats · accepted 5/8"]),
        ([], ["The cat sat", "Then it said 世", rule("block 1", 60), "mean entropy █▄▁",
              "block 1 · step 3/4 · H 0.00 nats · accepted 8/8"]),
        ([], ["The cat sat", "Then it said 世", rule("block 1 committed · settled after 3 steps", 60),
              "mean entropy █▄▁", "block 1 · step 3/4 · H 0.00 nats · accepted 8/8"]),
        (["The cat sat"], ["Then it said 世<|image|>#~%␛[2J~<|image|>#",
                           rule("block 2 · fresh noise", 60), "mean entropy ",
                           "block 2 · step 0/4 · 5 tok/s"]),
        ([], ["Then it said 世世界e\u0301ש→~~", rule("block 2", 60), "mean entropy █",
              "block 2 · step 1/4 · H 0.56 nats · accepted 5/8"]),
        ([], ["Then it said 世 世界 e\u0301 של!·", rule("block 2", 60), "mean entropy █▁",
              "block 2 · step 2/4 · H 0.00 nats · accepted 8/8"]),
        ([], ["Then it said 世 世界 e\u0301 של!", rule("block 2 committed · settled after 2 steps", 60),
              "mean entropy █▁", "block 2 · step 2/4 · H 0.00 nats · accepted 8/8"]),
        (["Then it said 世 世界 e\u0301 של!"], []),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("width", "height", "frame"),
    [
        (100, 12, ["The dog sat↵.␛[2J<|image|>·", rule("block 1", 100), "mean entropy █▄",
                   "block 1 · step 2/4 · H 0.66 nats · accepted 5/8 · 0.50 s/step"]),
        (40, 12, ["The dog sat↵.␛[2J<|image|>·", rule("block 1", 40), "mean entropy █▄",
                  "block 1 · step 2/4 · H 0.66 nats"]),
        (20, 12, ["The dog", "sat↵.␛[2J<|image|>·", rule("block 1", 20), "H █▄", "block 1 · step 2/4"]),
        (8, 12, ["The dog", "sat↵.␛[2", "J<|image", "|>·", "── block", "H █▄", "block 1"]),
        (8, 5, ["The dog", "sat↵.␛[2", "J<|image", "H █▄", "block 1"]),
        (20, 4, ["The dog", "sat↵.␛[2J<|image|>·", "block 1 · step 2/4"]),
        (20, 1, ["block 1 · step 2/4"]),
        (1, 2, ["t", "b"]),
        (20, 0, []),
    ],
)  # fmt: skip
def test_one_step_at_many_sizes(width, height, frame):
    tokens, events = generation([FIRST], noise=NOISE, max_tokens=16)
    *_, (_, shown) = play(TextView(tokens), events[:5], width, height)
    assert texts(shown) == frame


@pytest.mark.parametrize("make_view", [TextView, GridView])
@pytest.mark.parametrize("width", [1, 2, 9, 33, 80, 250])
@pytest.mark.parametrize("height", [1, 2, 5, 24])
def test_no_frame_is_larger_than_its_window(make_view, width, height):
    tokens, events = generation([FIRST, SECOND], noise=NOISE)
    for scroll, frame in play(make_view(tokens), events, width, height):
        assert len(frame) <= height
        widest = max(width, 2)  # a wide character in a single column is left to the terminal
        assert all(line_width(line) <= widest for line in [*scroll, *frame])
        assert all(character.isprintable() for line in frame for character in line_text(line))


def styles(line):
    return [(span.text, span.style.value) for span in line]


def test_tokens_are_styled_by_how_settled_they_are():
    tokens, events = generation([FIRST], noise=NOISE)
    frames = [frame for _, frame in play(TextView(tokens), events, 60, 12)]
    assert styles(frames[3][0]) == [
        ("The", "unsure"), ("#", "noise"), (" sat", "likely"), ("~", "noise"), (".", "sure"), (" %", "noise"),
        ("%", "noise"), ("·", "special"),
    ]  # fmt: skip
    # The same and sure for a step longer: settled. Sure but new: sure.
    assert styles(frames[4][0])[:3] == [("The", "settled"), (" dog", "sure"), (" sat", "settled")]
    assert [span.position for span in frames[4][0]] == [*range(8)]
    # "." and the end had settled and are taken back; the space before a word does not flash.
    assert styles(frames[5][1]) == [
        ("Then", "revised"), (" it", "sure"), (" said", "sure"), (" ", "text"), ("世", "revised"),
    ]  # fmt: skip
    assert {style for line in frames[6][:2] for _, style in styles(line)} == {"committed"}


def test_what_stands_below_the_canvas_does_not_jump():
    long, short = ["word word", " word word"], ["a", "b"]
    tokens, events = generation([[(long, [2, 2]), (short, [2, 2]), (short, [0, 0])]], noise=("x", "y"))
    heights = [len(frame) for _, frame in play(TextView(tokens), events, 10, 12)]
    assert heights[3:6] == [2 + 3, 1 + 3, 1 + 3]
    tokens, events = generation([[(long, [2, 2]), (short, [2, 2]), (short, [0, 0])]], noise=("x", "y"))
    heights = [len(frame) for _, frame in play(TextView(tokens), events, 5, 12)]
    assert heights[3:6] == [4 + 3, 3 + 3, 2 + 3]


def test_a_window_too_small_shows_where_something_moves():
    draft = [f"line{i}\n" for i in range(7)] + ["end"]
    nats = [0, 0, 0, 0, 0, 2, 0, 0]
    tokens, events = generation([[(draft, nats), (draft, nats)]], noise=("x", "y"))
    *_, (_, frame) = play(TextView(tokens), events[:5], 20, 4)
    assert texts(frame) == ["line4", "line5↵line6", "end", "block 1 · step 2/4"]


THOUGHT = ["<|channel>", "thought", "\n", "hmm", "<channel|>", "So", " so", "<turn|>"]


@pytest.mark.parametrize(
    ("thoughts", "draft", "final"),
    [
        ("dim", ["<|channel>thought", "hmm<channel|>So so·"], ["hmm", "", "So so"]),
        ("show", ["<|channel>thought", "hmm<channel|>So so·"], ["hmm", "", "So so"]),
        ("hide", ["<channel|>So so· … thinking, 4 tokens"], ["So so"]),
    ],
)
def test_thoughts(thoughts, draft, final):
    tokens, events = generation([[(THOUGHT, [0] * 8)] * 2])
    view = TextView(tokens, thoughts)
    shown = list(play(view, events, 60, 12))
    assert texts(shown[4][1][:-3]) == draft
    assert texts([line for scroll, _ in shown for line in scroll]) == final
    if thoughts != "hide":
        assert [span.thought for span in shown[4][1][0]] == [True, True]
        first = shown[-1][0][0][0]
        assert first.thought
        assert first.style is (Style.THOUGHT if thoughts == "dim" else Style.TEXT)


def test_a_character_of_several_byte_tokens():
    draft = [b"\xf0", b"\x9f", b"\x99", b"\x82", "!", "<turn|>"]
    tokens, events = generation([[(draft, [0] * 6)] * 2])
    shown = list(play(TextView(tokens), events, 40, 12))
    assert texts(shown[3][1])[0] == "🙂!·"
    assert texts(shown[-1][0]) == ["🙂!"]


def test_stopped_in_the_middle_the_draft_stays_and_says_so():
    tokens, events = generation([FIRST, SECOND], noise=NOISE)
    view = TextView(tokens)
    list(play(view, events[:9], 60, 12))
    view.end()
    assert texts(view.scroll(60)) == [
        "Then it said 世世界e\u0301ש→~~",
        rule("block 2 · stopped at step 1/4, not committed", 60),
    ]
    assert view.frame(60, 12) == []


def test_stopped_between_blocks_only_what_is_committed_stays():
    tokens, events = generation([FIRST, SECOND], noise=NOISE)
    view = TextView(tokens)
    list(play(view, events[:8], 60, 12))
    view.end()
    assert texts(view.scroll(60)) == ["Then it said 世"]


def test_between_steps_it_lives():
    tokens, events = generation([FIRST], noise=NOISE, max_tokens=16)
    view = TextView(tokens)
    list(play(view, events[:4], 100, 12))

    def status(seconds, *work, compiled=0):
        return line_text(view.frame(100, 12, Activity(seconds, Work(*work), compiled))[-1])

    rest = "H 1.35 nats · accepted 1/8 · 0.50 s/step"
    assert status(0.3, 2, 30) == f"block 1 · step 1/4 · {rest}"
    assert status(2.0, 2, 30) == f"block 1 · step 1/4 · ⠋ layer  3/30 · 2.0 s · {rest}"
    assert status(2.1, 30, 30) == f"block 1 · step 1/4 · ⠙ vocabulary · 2.1 s · {rest}"
    assert status(7.2, 0, 30, compiled=5).startswith(
        "⠹ compiling kernels, once (5 so far) · 7 s · block 1 · "
    )
    waiting = TextView(tokens)
    list(play(waiting, events[:1], 100, 12))
    frame = waiting.frame(100, 12, Activity(3.0, Work(4, 30)))
    assert line_text(frame[-1]) == "prompt · ⠋ layer  5/30 · 3.0 s"
    for left, words in ((None, ""), (12.0, " · 12 s left")):
        frame = waiting.frame(100, 12, Activity(3.0, Work(4, 27, "a\x1b.png", left)))
        assert line_text(frame[-1]) == f"prompt · ⠋ reading a␛.png · layer  5/27{words} · 3.0 s"


def test_a_long_prompt_has_progress():
    tokens, (started, *_) = generation([FIRST], noise=NOISE)
    view = TextView(tokens)
    encoded = [PromptEncoded(30, 90, 10, 4.0), PromptEncoded(90, 90, 10, 16.0)]
    frames = [texts(frame) for _, frame in play(view, [started, *encoded], 60, 12)]
    assert frames[1:] == [["prompt 30/90 tokens · 12 s left"], ["prompt 90 tokens · reused 10"]]


def test_sparkline():
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7], 8) == "▁▂▃▄▅▆▇█"
    assert sparkline([9, 1, 2], 2) == "▂▃"  # the latest, as high as among all
    assert sparkline([], 5) == sparkline([1, 2], 0) == ""
    assert sparkline([0, 0], 5) == "▁▁"


def test_colours_only_help():
    tokens, events = generation([FIRST], noise=NOISE)
    *_, (_, frame) = play(TextView(tokens), events[:6], 60, 12)
    row = frame[1]
    assert encode(row, ColorSystem.EIGHT_BIT) == ("\x1b[7;33mThen\x1b[0m it said \x1b[7;33m世\x1b[0m")
    assert encode(row, None) == "\x1b[7mThen\x1b[0m it said \x1b[7m世\x1b[0m"


@pytest.mark.parametrize(
    ("environment", "colours"),
    [
        ({"TERM": "xterm-256color"}, True),
        ({"TERM": "xterm", "NO_COLOR": "1"}, False),
        ({"TERM": "xterm", "NO_COLOR": ""}, True),
        ({"TERM": "xterm", "NO_COLOR": "1", "FORCE_COLOR": "1"}, False),
        ({"TERM": "dumb"}, False),
    ],
)
def test_when_colours_are_used(environment, colours):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    assert (colour_system(terminal, environment) is not None) is colours


def test_sixteen_colours_and_one_grey():
    tokens, events = made_up(length=96)
    used = set()
    for scroll, frame in play(TextView(tokens), events, 60, 24):
        for line in [*scroll, *frame]:
            used |= set(encode(line, ColorSystem.EIGHT_BIT).split("\x1b[")[1:])
    codes = {part for piece in used for part in piece.partition("m")[0].split(";")}
    assert codes <= {"0", "1", "3", "4", "7", "38", "5", "243", "31", "32", "33", "35", "36"}
    assert {"1", "243", "7", "33", "36"} <= codes


def test_a_made_up_story_comes_out_whole():
    tokens, events = made_up()
    scrolled = [line for scroll, _ in play(TextView(tokens), events, 72, 24) for line in texts(scroll)]
    assert scrolled[:2] == [
        "The lighthouse keeper kept a small blue notebook, and in it he wrote",
        "down every sound the sea made.",
    ]
    assert scrolled[-1] == "So he opened the notebook, and read to it until morning."
    kinds = [type(event) for event in events]
    assert kinds.count(CanvasStarted) == kinds.count(CanvasCommitted) == 1
    assert kinds.count(DenoisingStep) == 20
    assert np.all(events[-3].entropy < 0.05)
