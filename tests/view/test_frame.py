"""Text laid out by display width."""

import random

import pytest

from dgguf.view.frame import Span, Style, clip, fit, line_text, line_width, wrap


def laid_out(text, width):
    return [line_text(line) for line in wrap([Span(text, Style.TEXT)], width)]


@pytest.mark.parametrize(
    ("text", "width", "lines"),
    [
        ("", 5, [""]),
        ("one two three", 7, ["one two", "three"]),
        ("one two three", 8, ["one two", "three"]),
        ("one  two", 4, ["one", "two"]),
        ("a\n\nb\n", 5, ["a", "", "b", ""]),
        ("incomprehensible", 6, ["incomp", "rehens", "ible"]),
        ("to incomprehensible", 6, ["to", "incomp", "rehens", "ible"]),
        ("世界你好", 5, ["世界", "你好"]),  # two columns each: five hold two of them
        ("世界 ok", 6, ["世界", "ok"]),
        ("e\u0301e\u0301e\u0301 x", 3, ["e\u0301e\u0301e\u0301", "x"]),
        ("שלום עולם", 5, ["שלום", "עולם"]),
        ("世", 1, ["世"]),  # wider than the line: shown all the same, and cut by the terminal
        ("a ", 4, ["a "]),  # the last line may go on
    ],
)
def test_wrap(text, width, lines):
    assert laid_out(text, width) == lines


def test_spans_keep_their_marks_over_a_break():
    spans = [
        Span("now", Style.SURE, 0),
        Span(" then", Style.NOISE, 1, thought=True),
        Span(" x", Style.SURE, 2),
    ]
    assert wrap(spans, 6) == [
        (Span("now", Style.SURE, 0),),
        (Span("then", Style.NOISE, 1, thought=True), Span(" x", Style.SURE, 2)),
    ]


@pytest.mark.parametrize("width", [2, 3, 7, 40])
def test_no_line_is_wider_and_no_character_is_lost(width):
    draw = random.Random(width)
    for _ in range(200):
        texts = ["".join(draw.choices("ab世\u0301 é🙂\nש", k=draw.randrange(9))) for _ in range(9)]
        lines = wrap([Span(text, Style.TEXT, i) for i, text in enumerate(texts)], width)
        assert all(line_width(line) <= width for line in lines)
        kept = "".join("".join(texts).split(" ")).replace("\n", "")
        assert "".join(map(line_text, lines)).replace(" ", "") == kept


def test_clip():
    line = (Span("ab", Style.SURE, 0), Span("世界", Style.NOISE, 1))
    assert clip(line, 9) == line
    assert clip(line, 5) == (Span("ab", Style.SURE, 0), Span("世", Style.NOISE, 1))
    assert clip(line, 2) == line[:1]
    assert clip(line, 0) == ()


def test_fit_leaves_out_what_has_no_room():
    assert fit(["block 1/2", "step 3/48", "H 0.1"], 40) == "block 1/2 · step 3/48 · H 0.1"
    assert fit(["block 1/2", "step 3/48", "H 0.1"], 23) == "block 1/2 · step 3/48"
    assert fit(["block 1/2", "step 3/48"], 5) == "block"
    assert fit([], 5) == ""
