"""Regular expressions and numbers between bounds: against Python's own."""

import random
import re
from fractions import Fraction

import pytest

from dgguf.constraints import automaton
from dgguf.constraints.automaton import compile_node
from dgguf.constraints.language import language
from dgguf.constraints.numbers import Bounds, integers, numbers
from dgguf.constraints.regex import parse_regex
from dgguf.errors import ConstraintError

EXPRESSIONS = [
    "a|b",
    "[a-c]+x?",
    "(ab|c){2,3}",
    "\\d{1,3}(\\.\\d+)?",
    "[^a]",
    "é.ü",
    "(a*)*b",
    "",
    "(|a)",
    "x{0}",
    "[\\d\\-x]+",
    "(?:a|b)*abb",
    "[]a]+",
    "\\x61\\u00e9",
    "a+?b*?",
    "^a$|^b$",
    "[^\\W\\d]+",
    "\\.\\*",
    "(a{0,2}){2}",
    ".*",
    "\\S\\s?",
    "[a\\]-]*",
    "(a|ab)(c|bcd)",
    "[\ud7ff-\uffff]?x",
    "a{2,}",
]


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_as_python_matches(expression):
    rng = random.Random(expression)
    whole = compile_node(parse_regex(expression))
    within = compile_node(parse_regex(expression, search=True))
    for _ in range(100):
        text = "".join(rng.choice("aabcx.1é2ü-\n ]*d\U0001f600") for _ in range(rng.randrange(6)))
        python = "|".join(part + "\\Z" * part.endswith("$") for part in expression.split("|"))
        python = python.replace("$\\Z", "\\Z")  # Python's $ also stands before a last new line
        assert whole.matches(text) == bool(re.fullmatch(python, text, re.ASCII)), text
        assert within.matches(text) == bool(re.search(python, text, re.ASCII)), text


@pytest.mark.parametrize(
    ("expression", "says"),
    [
        ("(a", "without its )"),
        ("a)", "without its ("),
        ("[a", "too early"),
        ("a**", "two repetitions"),
        ("*a", "nothing before"),
        ("a{2,1}", "wrong way"),
        ("[z-a]", "wrong way"),
        ("(?=a)", "lookahead"),
        ("(?!a)", "lookahead"),
        ("(?<=a)b", "lookbehind"),
        ("(?P<n>a)", "a name"),
        ("(?i)a", "a flag"),
        ("(a)\\1", "backreferences"),
        ("\\bword\\b", "border"),
        ("\\p{L}", "Unicode"),
        ("a^b", "^ only"),
        ("a$b", "$ only"),
        ("(a$)", "$ only"),
        ("a++", "possessive"),
        ("a{", "{ only"),
        ("a{x}", "{ only"),
        ("a{2}{3}", "two repetitions"),
        ("x*{2}", "two repetitions"),
        ("x+?{2}", "two repetitions"),
        ("{2}", "{ has nothing before it"),
        ("a|{", "write \\{ for the character"),
        ("({2}", "{ has nothing before it"),
        ("\\", "too early"),
        ("\\xg1", "hexadecimal"),
        ("\\q", "\\q"),
        ("a{1000000}", "repetitions"),
        ("[^\\d\\D]", "empty class"),
        ("\ud800", "UTF-8"),
        ("(" * 60 + ")" * 60, "nested"),
        ("a" * 20_001, "20,001 characters"),
        ("a{99999999999}", "repetitions"),
        ("a{٣}", "{ only"),
    ],
)
def test_what_is_refused(expression, says):
    with pytest.raises(ConstraintError) as found:
        language(regex=expression)
    assert says in str(found.value)
    assert len(str(found.value)) < 500
    assert str(found.value).isprintable()


@pytest.mark.parametrize(
    "expression",
    ["(a|b)*a(a|b){20}", "((a?){300}){300}"],
)
def test_what_is_too_large_is_refused(expression):
    with pytest.raises(ConstraintError, match=r"states"):
        language(regex=expression)


def test_a_class_of_many_characters_is_not_repeated_often(monkeypatch):
    every_second = f"[{''.join(map(chr, range(0x400, 0x800, 2)))}]"
    assert language(regex=every_second + "{5}").matches("\u0400\u0402" * 2 + "\u0404")
    monkeypatch.setattr(automaton, "_MOST_EDGES", 10_000)
    with pytest.raises(ConstraintError, match="states"):
        language(regex=every_second + "{50}")


def test_what_makes_other_engines_slow_is_nothing_here():
    assert language(regex="(x+x+)+y").matches("x" * 50 + "y")
    assert not language(regex="(a|a|a*)*b").matches("a" * 1000)


@pytest.mark.parametrize("seed", range(30))
def test_numbers_between_bounds(seed):
    rng = random.Random(seed)
    low, high = sorted(
        Fraction(rng.choice([1, 10, 100]) * rng.randint(-300, 300), rng.choice([1, 10, 100]))
        for _ in range(2)
    )
    bounds = Bounds(
        rng.choice([low, low, None]), rng.choice([high, high, None]), rng.random() < 0.3, rng.random() < 0.3
    )

    def within(x):
        above = bounds.least is None or x > bounds.least or (x == bounds.least and not bounds.above)
        below = bounds.most is None or x < bounds.most or (x == bounds.most and not bounds.below)
        return above and below

    for make in (integers, numbers):
        try:
            found = compile_node(make(bounds))
        except ConstraintError:
            found = None
        for _ in range(100):
            x = rng.choice([low, high, Fraction(0)]) + Fraction(
                rng.randint(-30, 30), rng.choice([1, 10, 100])
            )
            x = Fraction(int(x)) if make is integers else x
            text = str(int(x)) if x.denominator == 1 else str(float(x))
            assert (found is not None and found.matches(text)) == within(x), (bounds, text)
