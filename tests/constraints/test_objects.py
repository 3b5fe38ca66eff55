"""Any JSON object: what belongs to its language, and how deep it goes."""

import json
import random
import re
from pathlib import Path

import pytest

import dgguf
from dgguf.constraints.language import json_object
from dgguf.constraints.objects import LEVELS
from tests.support.random_schemas import random_text

DOCS = Path(__file__).parents[2] / "docs"
SCALARS = ["", "a b", 'say "no"', "größe\n\t\\", "😀", 0, -7, 12.5, 1e-07, 2.5e19, True, False, None]


def some_value(rng, levels):
    """A value of at most so many levels of objects and arrays."""
    kind = rng.choice(["scalar", "object", "array"]) if levels else "scalar"
    if kind == "scalar":
        return rng.choice(SCALARS)
    values = [some_value(rng, levels - 1) for _ in range(rng.randrange(4))]
    if kind == "array":
        return values
    names = ["name", 'a "b"', ""]
    return {f"{rng.choice(names)}{n}": value for n, value in enumerate(values)}


def levels_of(value):
    if not isinstance(value, dict | list):
        return 0
    return 1 + max(map(levels_of, value.values() if isinstance(value, dict) else value), default=0)


@pytest.mark.parametrize("seed", range(60))
def test_objects_as_python_writes_them_belong_to_it(seed):
    rng = random.Random(seed)
    value = {"first": some_value(rng, LEVELS - 1), "second": some_value(rng, LEVELS - 1)}
    for indent, separators in ((None, None), (None, (",", ":")), (1, None), (4, None)):
        text = json.dumps(value, indent=indent, separators=separators, ensure_ascii=False)
        assert json_object().matches(text), text


@pytest.mark.parametrize("seed", range(60))
def test_what_belongs_to_it_is_an_object(seed):
    text = random_text(random.Random(seed), json_object(), most=40 + seed)
    value = json.loads(text)
    assert isinstance(value, dict)
    assert levels_of(value) <= LEVELS


def test_what_does_not_belong_to_it():
    outside = [
        "", "[]", '"a"', "{", "{}}", "{} ", " {}", '{"a"}', '{"a":}', '{"a": 1,}', "{'a': 1}", '{"a": NaN}',
        "{a: 1}", '{"a": 01}', '{"a": [1,]}', '{"a": [1}]', '{"a": "\n"}', '{"a": 1} // it is',
        "```json\n{}\n```",
        '{"a": tru}', '{"a": +1}', '{"a": .5}', '{1: 2}',
    ]  # fmt: skip
    for text in outside:
        assert not json_object().matches(text), text


def test_how_deep_it_goes():
    for opened, closed in (("[", "]"), ('{"a": ', "}")):
        for levels, inside in ((LEVELS, True), (LEVELS + 1, False)):
            text = '{"a": ' + (levels - 1) * opened + "1" + (levels - 1) * closed + "}"
            json.loads(text)
            assert json_object().matches(text) is inside
    found = re.search(r"any JSON object of (\d+)\s+levels", (DOCS / "schemas.md").read_text(encoding="utf-8"))
    assert int(found[1]) == LEVELS


@pytest.mark.parametrize("prompt", ["Write JSON: name Tom, age 7", "Tell me a story about a dog."])
def test_an_answer_is_an_object(prompt):
    with dgguf.load("demo", threads=1, context=1024) as session:
        answer = session.generate(
            prompt, seed=3, constraint=json_object(), max_tokens=96, settings=session.settings(max_steps=12)
        )
    assert isinstance(json.loads(answer.text), dict)
