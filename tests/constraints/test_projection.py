"""The projection is the likeliest string of the language: compared with trying every string."""

import itertools
import random
import re

import numpy as np
import pytest

from dgguf.constraints.automaton import compile_node
from dgguf.constraints.guide import language_of
from dgguf.constraints.language import language
from dgguf.constraints.projection import FILL, STOP, Candidates, Texts, project
from dgguf.constraints.regex import parse_regex
from dgguf.constraints.vocabulary import NEVER, TokenBytes, find_ways

# Bytes of two characters cut between tokens, and a token that writes nothing.
PIECES = [b"a", b"b", b"ab", b"ba", b"\xc3", b"\xa9", b"\xc3\xa9", b""]
EXPRESSIONS = [
    "ab|ba",
    "(ab)*",
    "a?b?",
    "[ab]{2,3}",
    "é|a",
    "a[é]b?",
    "b*",
    "(a|é)+",
    "abab",
    "a(ba)?",
    "[^a]b*",
]


def setting(expression):
    automaton, vocabulary = compile_node(parse_regex(expression)), TokenBytes(PIECES)
    return automaton, vocabulary, find_ways(automaton, vocabulary)


def run(automaton, vocabulary, ways, candidates, state=0, room=0):
    chosen, states = np.empty((2, len(candidates.tokens)), np.int64)
    total = project(
        language_of(automaton, ways),
        Texts(vocabulary.data, vocabulary.starts),
        candidates, state, room, chosen, states,
    )  # fmt: skip
    return total, chosen, states


def best_string(automaton, vocabulary, ways, candidates, room):
    """The best string's score, by a dynamic program in dictionaries."""
    tokens, scores, other, stop, fill = candidates
    end = len(automaton)
    front = {0: 0.0}
    for p in range(len(tokens)):
        after = {}
        for state, total in front.items():
            steps = [(end, fill[p])] if state == end else []
            if state != end:
                mine = slice(ways.starts[state], ways.starts[state + 1])
                steps += [(int(t), other[p]) for t in ways.targets[mine]]
                steps += [(end, stop[p])] * int(automaton.accepting[state])
            for token, score in zip(tokens[p], scores[p], strict=True) if state != end else ():
                data = vocabulary.data[vocabulary.starts[token] : vocabulary.starts[token + 1]].tobytes()
                if data:
                    steps.append((automaton.read(data, state), score))
            for target, score in steps:
                if target >= 0:
                    after[target] = max(after.get(target, -np.inf), total + score)
        if p >= len(tokens) - 1 + min(room, 0):  # so many positions are left for the text
            left = len(tokens) - 1 - p + room
            after = {s: x for s, x in after.items() if s == end or ways.to_end[s] <= left}
        front = after
    return max((x for s, x in front.items() if s == end or ways.to_end[s] <= room), default=-np.inf)


def every_string(automaton, ways, candidates, room):
    """Scores of all strings of tokens that may stand in the canvas."""
    found = {}
    tokens, scores, other, stop, fill = candidates
    n = len(tokens)
    for string in itertools.product([*range(len(PIECES)), STOP, FILL], repeat=n):
        ended = string.index(STOP) if STOP in string else n
        if any(t == FILL for t in string[:ended]) or any(t != FILL for t in string[ended + 1 :]):
            continue
        total, state = 0.0, 0
        for p, token in enumerate(string):
            if token == STOP:
                total += stop[p]
            elif token == FILL:
                total += fill[p]
            else:
                options = [scores[p, k] for k in range(tokens.shape[1]) if tokens[p, k] == token]
                if token in ways.tokens[ways.starts[state] : ways.starts[state + 1]]:
                    options.append(other[p])
                state = automaton.read(PIECES[token], state) if PIECES[token] and options else -1
                if state < 0:
                    break
                total += max(options)
        if (
            state >= 0
            and ended <= n + min(room, 0)
            and (automaton.accepting[state] if ended < n else ways.to_end[state] <= room)
        ):
            found[string] = total
    return found


MORE = [pytest.param(seed, marks=pytest.mark.slow(1)) for seed in range(60, 500)]


@pytest.mark.parametrize("seed", [*range(60), *MORE])
def test_equals_exhaustive_search(seed):
    rng = np.random.default_rng(seed)
    expression = EXPRESSIONS[seed % len(EXPRESSIONS)]
    automaton, vocabulary, ways = setting(expression)
    n, k = int(rng.integers(1, 4)), int(rng.integers(1, 5))
    room = int(rng.integers(-n, 3))  # a canvas may have more positions than the text may take
    tokens = np.stack([rng.permutation(len(PIECES))[:k] for _ in range(n)])
    scores = np.log(rng.random((n, k)))
    scores[rng.random((n, k)) < 0.1] = -np.inf
    other, stop, fill = (np.log(rng.random(n)) - shift for shift in (4, 1, 0))
    # Where a model insists on something else, the best string lies far below its likeliest tokens.
    insists = rng.choice([1, 40, 1e5])
    candidates = Candidates(tokens, scores, *(insists * x for x in (other, stop, fill)))
    total, chosen, _ = run(automaton, vocabulary, ways, candidates, room=room)
    expected = every_string(automaton, ways, candidates, room)
    if not expected:
        assert total == -np.inf
        return
    assert total == pytest.approx(max(expected.values()))
    assert expected[tuple(chosen.tolist())] == pytest.approx(total)
    if STOP in chosen or room <= 0:
        text = b"".join(PIECES[t] for t in chosen if t >= 0).decode()
        assert re.fullmatch(expression, text)


LETTERS = [bytes([b]) for b in b'abcdefgh "{}:,.0123456789[]\\']
WORDS = [b"the", b" dog", b"fa", b"cab", b'":', b'", ', b'"}', b"12", b"aaaaaaa", b"ddddddddddd", b'{"a', b""]


@pytest.mark.parametrize(
    "given",
    [
        {"schema": {"type": "string", "maxLength": 40}},
        {"schema": {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "number"}}}},
        {"regex": "((ab|c)+ ?){2,}"},
    ],
)
@pytest.mark.parametrize("seed", range(6))
def test_equals_a_program_of_dictionaries(given, seed):
    """On canvases too long to try every string."""
    rng = np.random.default_rng(seed)
    automaton, vocabulary = language(**given), TokenBytes(LETTERS + WORDS)
    ways = find_ways(automaton, vocabulary)
    n, k = int(rng.integers(8, 30)), 8
    room = int(rng.integers(-5, 12))
    tokens = np.stack([rng.permutation(len(LETTERS + WORDS))[:k] for _ in range(n)])
    scores = np.log(rng.dirichlet(np.full(k, rng.choice([0.05, 0.3, 2.0])), n) + 1e-30)
    other, stop, fill = np.log(rng.random((3, n))) - np.array([[12.0], [6.0], [1.0]])
    candidates = Candidates(tokens, scores, other, stop, fill)
    total, chosen, states = run(automaton, vocabulary, ways, candidates, room=room)
    assert total == pytest.approx(best_string(automaton, vocabulary, ways, candidates, room))
    if STOP in chosen:
        text = b"".join((LETTERS + WORDS)[t] for t in chosen if t >= 0).decode()
        assert automaton.matches(text)
    else:
        assert ways.to_end[states[-1]] <= room


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_the_way_to_the_end_is_a_way(expression):
    automaton, _, ways = setting(expression)
    for state in range(len(automaton)):
        assert ways.to_end[state] < NEVER or state
        mine = slice(ways.starts[state], ways.starts[state + 1])
        if 0 < ways.to_end[state] < NEVER:
            assert ways.to_end[ways.targets[mine]].min() == ways.to_end[state] - 1
        for token, target in zip(ways.tokens[mine], ways.targets[mine], strict=True):
            assert automaton.read(PIECES[token], state) == target


def test_whoever_lacks_a_byte_cannot_write_it():
    automaton = compile_node(parse_regex("xa|b"))
    assert find_ways(automaton, TokenBytes([b"a", b"b"])).to_end[0] == 1
    assert find_ways(compile_node(parse_regex("xa")), TokenBytes([b"a", b"b"])).to_end[0] == NEVER


def test_ways_are_tokens_of_the_automaton():
    """Against trying every token: the longest of each first byte, and a single byte."""
    rng = random.Random(5)
    pieces = [bytes([b]) for b in b'{}":, truefals\n'] + [
        "".join(rng.choices('{}":, truefals', k=rng.randint(2, 6))).encode() for _ in range(2000)
    ]
    pieces += [b'{"', b'": ', b"true", b"false", b"tru", b'":', b"}\n"]
    vocabulary = TokenBytes(pieces)
    automaton = compile_node(parse_regex('\\{"(true|false)": ?(true|fals[ae])\\}'))
    ways = find_ways(automaton, vocabulary)
    for state in range(len(automaton)):
        found = set(ways.tokens[ways.starts[state] : ways.starts[state + 1]].tolist())
        lasting = {i for i, piece in enumerate(pieces) if automaton.read(piece, state) >= 0}
        assert found <= lasting
        for first in {pieces[i][0] for i in lasting}:
            longest = max(len(pieces[i]) for i in lasting if pieces[i][0] == first)
            lengths = {len(pieces[i]) for i in found if pieces[i][0] == first}
            assert {1, longest} <= lengths
