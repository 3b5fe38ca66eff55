"""Nothing that a model writes controls the terminal."""

import unicodedata

import pytest

from dgguf.view.terminal import cell_width, safe


@pytest.mark.parametrize("draft", [False, True])
def test_no_control_passes(draft):
    for code in range(0x110000):
        shown = safe(chr(code), draft=draft)
        for character in shown:
            category = unicodedata.category(character)
            allowed = character in "\u200c\u200d" or (not draft and character in "\n\t")
            assert allowed or category not in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"), hex(code)


@pytest.mark.parametrize(
    ("text", "final", "draft"),
    [
        ("Hi there\n\tyou", "Hi there\n\tyou", "Hi there↵→you"),
        ("\x1b[31mred\x1b[0m", "␛[31mred␛[0m", "␛[31mred␛[0m"),
        ("\x1b]0;title\x07", "␛]0;title␇", "␛]0;title␇"),
        ("\x9b31m\x9d0;t\x9c", "·31m·0;t·", "·31m·0;t·"),
        ("a\r\nb\x08\x00\x7f", "a␍\nb␈␀␡", "a␍↵b␈␀␡"),
        ("a\u202eb\u2028c\u2029d\ufeffe", "a·b·c·d·e", "a·b·c·d·e"),
        ("\ue000\ud800\U000e0041\u0378", "····", "····"),
        (
            "👩\u200d👧 می\u200cخواهم ❤\ufe0f",
            "👩\u200d👧 می\u200cخواهم ❤\ufe0f",
            "👩\u200d👧 می\u200cخواهم ❤\ufe0f",
        ),
        ("e\u0301", "e\u0301", "e\u0301"),
        ("\u0301e", "\u0301e", "◌\u0301e"),
        ("\u200d👧", "\u200d👧", "◌\u200d👧"),
        ("\u093f", "\u093f", "◌\u093f"),
        ("", "", ""),
    ],
)
def test_what_is_shown(text, final, draft):
    assert safe(text, draft=False) == final
    assert safe(text, draft=True) == draft


@pytest.mark.parametrize(
    ("text", "width"),
    [
        ("", 0),
        ("abc", 3),
        ("é", 1),
        ("e\u0301", 1),
        ("世界", 4),
        ("한", 2),
        ("😀", 2),
        ("ﾊ", 1),
        ("Ａ", 2),
        ("\u200d", 0),
        ("a\u20dd", 1),
        ("↵→␛·◌", 5),
    ],
)
def test_cell_width(text, width):
    assert cell_width(text) == width
