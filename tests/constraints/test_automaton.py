"""Automata: how large they may be, and what it takes to make them."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from dgguf.constraints.automaton import compile_node
from dgguf.constraints.language import language
from dgguf.constraints.nodes import Text
from dgguf.errors import ConstraintError
from tests.support.work import work

DOCS = Path(__file__).parents[2] / "docs"


def test_a_long_constant_takes_work_in_proportion():
    """Each of its bytes is a state, one byte further from the end than the next."""
    short, long = (work(compile_node, Text("x" * n)) for n in (500, 2000))
    assert long < 5 * short


@pytest.mark.parametrize("seed", range(20))
def test_distances_are_those_of_the_shortest_texts(seed):
    rng = np.random.default_rng(seed)
    choice = ["".join(rng.choice(list("abé"), rng.integers(1, 7))) for _ in range(8)]
    automaton = language(regex=f"({'|'.join(choice)})+x")
    wanted = np.where(automaton.accepting, 0, 10_000)
    for _ in range(len(automaton)):  # as Bellman and Ford do
        behind = np.append(wanted, 10_000)[automaton.moves].min(axis=1)
        wanted = np.minimum(wanted, behind + 1)
    assert automaton.distance.tolist() == wanted.tolist()


def test_a_schema_of_a_request_has_the_limit_of_a_file():
    large = {"description": "x" * (1 << 20), "type": "boolean"}
    with pytest.raises(ConstraintError, match="more than 1024 KB"):
        language(schema=large)
    large["description"] = "x" * ((1 << 20) - len(json.dumps(large)) + len(large["description"]))
    assert language(schema=large).matches("true")


def test_the_most_characters_are_those_of_the_docs():
    text = (DOCS / "schemas.md").read_text(encoding="utf-8")
    found = re.search(r"just\s+under ([\d,]+)\s+characters of\s+`maxLength`", text)
    most = int(found[1].replace(",", ""))
    assert language(schema={"type": "string", "maxLength": most - 1}).matches('"a"')
    with pytest.raises(ConstraintError, match="40,000 states"):
        language(schema={"type": "string", "maxLength": most})
