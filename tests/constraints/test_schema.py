"""JSON schemas: what their languages hold, what is refused and how, and the JSON Schema test suite."""

import json
import random
from collections import Counter
from pathlib import Path

import jsonschema
import pytest

from dgguf.constraints import alternatives, automaton
from dgguf.constraints.automaton import Effort
from dgguf.constraints.language import language
from dgguf.constraints.schema import schema_node as schema_node_within
from dgguf.errors import ConstraintError
from tests.support.random_schemas import random_text, rooted
from tests.support.work import work

SUITE = json.loads((Path(__file__).parents[1] / "data/json_schema/suite.json").read_text(encoding="utf-8"))
STRING, INTEGER = {"type": "string"}, {"type": "integer"}
FORMATS = jsonschema.FormatChecker(["date", "email", "ipv4", "uuid"])


def schema_node(schema):
    return schema_node_within(schema, Effort())


def validate(value, schema):
    jsonschema.Draft202012Validator(schema, format_checker=FORMATS).validate(value)


@pytest.mark.parametrize("keyword", SUITE)
def test_the_test_suite(keyword):
    """What the language holds is valid in every case; what it does not hold may be."""
    held = Counter()
    for group in SUITE[keyword]:
        try:
            automaton = language(schema=group["schema"])
        except ConstraintError:
            held["refused"] += 1
            continue
        for case in group["tests"]:
            matches = automaton.matches(json.dumps(case["data"], ensure_ascii=False))
            assert case["valid"] or not matches, (group["description"], case)
            held[matches] += case["valid"]
    assert held[True] or keyword == "defs", held


def test_how_much_of_the_test_suite_is_held():
    """Valid instances; the others differ in order, have further properties or are of a type not written."""
    held, valid, refused = 0, 0, 0
    for group in (group for groups in SUITE.values() for group in groups):
        try:
            automaton = language(schema=group["schema"])
        except ConstraintError:
            refused += 1
            continue
        texts = [json.dumps(case["data"], ensure_ascii=False) for case in group["tests"] if case["valid"]]
        valid, held = valid + len(texts), held + sum(map(automaton.matches, texts))
    assert (held, valid, refused) == (166, 222, 40)


MORE = [pytest.param(seed, marks=pytest.mark.slow(1)) for seed in range(24, 300)]


@pytest.mark.parametrize("seed", [*range(24), *MORE])
def test_random_texts_of_random_schemas_are_valid(seed):
    rng = random.Random(seed)
    schema = rooted(rng)
    automaton = language(schema=schema)
    for _ in range(8):
        text = random_text(rng, automaton)
        assert automaton.matches(text)
        validate(json.loads(text), schema)


@pytest.mark.parametrize(
    ("schema", "inside", "outside"),
    [
        (
            {"type": "object", "properties": {"a": INTEGER, "b": STRING}, "required": ["b"]},
            ['{"a": 1, "b": "x"}', '{"b":""}', '{\n  "a": 1,\n  "b": "x"\n}', '{"b": "\\n\\"é"}'],
            [
                '{"a": 1}',
                '{"b": "x", "a": 1}',
                '```json\n{"b": ""}\n```',
                '{"b": "x"} ',
                '{"b": "\n"}',
                '{"b": "x",}',
            ],
        ),
        (
            {"type": "array", "items": {"enum": ["a", 1, None]}, "minItems": 1, "maxItems": 2},
            ['["a"]', "[1, null]", "[\n 1\n]"],
            ["[]", '["b"]', "[1,1,1]"],
        ),
        (
            {"type": "string", "minLength": 2, "maxLength": 3},
            ['"éü"', '"\\"\\""', '"😀😀😀"'],
            ['"a"', '"abcd"', "ab"],
        ),
        ({"type": "string", "pattern": "b", "maxLength": 2}, ['"ab"', '"b"'], ['"a"', '"aab"']),
        ({"anyOf": [INTEGER, {"const": "all"}]}, ["3", "-12", '"all"'], ["3.5", '"al"', "03"]),
        ({"type": ["boolean", "null"]}, ["true", "null"], ["0", '"true"']),
        ({"type": "integer", "minimum": 3, "exclusiveMaximum": 20}, ["3", "19"], ["2", "20", "3.0"]),
        (
            {"type": "number", "minimum": -1.5, "maximum": 0.25},
            ["-1.5", "0.25", "0", "-0.7"],
            ["0.26", "-1.51", "1"],
        ),
        ({"type": "number", "exclusiveMinimum": -1, "exclusiveMaximum": 0}, ["-0.5"], ["-1", "0"]),
        ({"anyOf": [{"pattern": "^a$", "minLength": 2}, {"const": 1}]}, ["1"], ['"a"', '"aa"']),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"type": "boolean"}}}, ["true"], ["null"]),
        ({"allOf": [{"type": "string"}, {"minLength": 1}]}, ['"a"'], ['""']),
        ({"type": "object", "additionalProperties": INTEGER}, ["{}", '{"k": 1, "l": 2}'], ['{"k": "v"}']),
        (True, ["1", '"a"', "null", "false"], ["[1]"]),
    ],
)
def test_what_belongs_to_it(schema, inside, outside):
    automaton = language(schema=schema)
    for text in inside:
        assert automaton.matches(text), text
        validate(json.loads(text), schema)
    for text in outside:
        assert not automaton.matches(text), text


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ({"type": "object", "patternProperties": {"a": True}}, "'patternProperties'"),
        ({"not": {}}, "'not'"),
        ({"type": "array", "uniqueItems": True}, "'uniqueItems'"),
        (
            {"type": "object", "properties": {"a": {"multipleOf": 3}}},
            "#/properties/a: the keyword 'multipleOf'",
        ),
        ({"properties": {"child": {"$ref": "#"}}}, "recursive"),
        (
            {
                "$ref": "#/$defs/a",
                "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/b"}]}, "b": {"$ref": "#/$defs/a"}},
            },
            "'#/$defs/a' is recursive",
        ),
        ({"allOf": [{"$ref": "#"}]}, "recursi"),
        ({"$ref": "#/$defs/none"}, "nothing at its $ref"),
        ({"$ref": "https://example.com/x"}, "a place in the same schema"),
        ({"oneOf": [STRING, {"minLength": 2}]}, "oneOf"),
        ({"type": "string", "format": "hostname"}, "'hostname'"),
        ({"type": "text"}, "type must be"),
        ({"type": "string", "maxLength": -1}, "maxLength must be"),
        ({"type": "string", "pattern": "(a"}, "a ( without its )"),
        ({"type": "string", "pattern": "(?=a)b"}, "lookahead"),
        ({"type": "string", "minLength": 3, "maxLength": 2}, "allows nothing"),
        ({"type": "integer", "minimum": 3, "maximum": 2}, "no number fits"),
        ({"enum": []}, "allows nothing"),
        ({"required": [1]}, "required must be"),
        (
            {"allOf": [{"properties": {n: {}}, "required": [{}]} for n in "ab"]},
            "required must be",
        ),
        (
            {
                "type": "object",
                "allOf": [
                    {"properties": {"a": INTEGER, "b": INTEGER}, "required": ["a", "b"]},
                    {"additionalProperties": False, "required": ["a"]},
                ],
            },
            "two schemas that must both hold",
        ),
        (
            {
                "allOf": [
                    {"prefixItems": [INTEGER], "required": ["a"]},
                    {"items": False, "required": ["b"]},
                ]
            },
            "two schemas that must both hold",
        ),
        ({"properties": [1]}, "properties must be"),
        ({"items": [1]}, "a schema must be"),
        ({"enum": 3}, "enum must be a list"),
        ({"type": "string", "maxLength": 10**9}, "states"),
        ({"const": "\ud800"}, "UTF-8"),
        ({"x-\x1b[2Jevil": 1}, "not supported"),
        (False, "allows nothing"),
    ],
)
def test_what_is_refused(schema, says):
    with pytest.raises(ConstraintError) as found:
        language(schema=schema)
    assert says in str(found.value)
    assert len(str(found.value)) < 500
    assert str(found.value).isprintable()


def nested(depth):
    schema = STRING
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


def test_deep_and_wide_schemas_are_refused_soon():
    assert language(schema=nested(30)).matches("[" * 30 + "]" * 30)
    doubling = {f"d{i}": {"anyOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(30)}
    for schema in (nested(41), nested(5000), {"$ref": "#/$defs/d0", "$defs": {**doubling, "d30": True}}):
        with pytest.raises(ConstraintError):
            language(schema=schema)


def test_constants_are_compared_in_proportion_to_their_number():
    few, many = ({"oneOf": [{"const": n} for n in range(most)]} for most in (200, 800))
    assert work(schema_node, many) < 5 * work(schema_node, few)
    assert language(schema=few).matches("199")
    with pytest.raises(ConstraintError, match="exclude each other"):
        language(schema={"oneOf": [*few["oneOf"], STRING, {"enum": ["a", 199.0]}]})
    with pytest.raises(ConstraintError, match="exclude each other"):
        language(schema={"oneOf": [*few["oneOf"], INTEGER]})


def tagged(n):
    """An object that its tag tells from others."""
    return {"type": "object", "properties": {"n": INTEGER, "tag": {"const": n}}, "required": ["n", "tag"]}


def test_how_much_is_compared_is_limited(monkeypatch):
    some = {"oneOf": [tagged(n) for n in range(100)]}
    assert language(schema=some).matches('{"n": 1, "tag": 99}')
    monkeypatch.setattr(alternatives, "_MOST_WORK", 10_000)
    many = [tagged(n) for n in range(400)]
    repeated = {"$defs": {"a": {"oneOf": many[:30]}}, "prefixItems": [{"$ref": "#/$defs/a"}] * 100}
    spent = [work(refused, schema) for schema in ({"oneOf": many}, {"oneOf": many[:200]}, repeated)]
    assert max(spent) < 2 * min(spent)


def test_how_much_all_parts_of_a_schema_take_is_limited(monkeypatch):
    """Texts of a pattern and a length, and constants that a length must allow, have automata of their own."""
    text = {"type": "string", "pattern": "^[ab]*$", "maxLength": 40}
    some, more = ({"type": "array", "items": text, "minItems": n, "maxItems": n} for n in (3, 30))
    assert language(schema=some).matches('["a", "ab", ""]')
    assert work(schema_and_automaton, more) < 10 * work(schema_and_automaton, some)  # the text is made once
    monkeypatch.setattr(automaton, "_MOST_WORK", 100_000)
    texts = {"anyOf": [{**text, "maxLength": 100 + n} for n in range(200)]}
    constants = {"anyOf": [{"enum": ["a"], "maxLength": 100 + n} for n in range(200)]}
    for schema in (texts, constants):
        with pytest.raises(ConstraintError, match="states"):
            language(schema=schema)


def schema_and_automaton(schema):
    effort = Effort()
    automaton.compile_node(schema_node_within(schema, effort), effort)


def refused(schema):
    with pytest.raises(ConstraintError, match="too much to compare"):
        schema_node(schema)


def test_files(tmp_path):
    file = tmp_path / "schema.json"
    file.write_text('{"type": "boolean"}')
    assert language(schema=file).matches("true")
    for text, says in (
        (b"{", "no JSON"),
        (b"\xff\xfe\x00", "no JSON"),
        (b'{"const": NaN}', "NaN"),
        (b'{"type": "string", "maxLength": 1e999}', "1e999 is too large"),
        (b'{"type": "integer", "enum": [1e999]}', "1e999 is too large"),
        (b'{"enum": [-1.5e999]}', "-1.5e999 is too large"),
        (b"[" * 100_000, "too deep"),
        (b" " * (1 << 20) + b"{}", "1024 KB"),
        (b"3", "a schema must be"),
    ):
        file.write_bytes(text)
        with pytest.raises(ConstraintError, match=says) as found:
            language(schema=str(file))
        assert "schema.json" in str(found.value)
    for path in (tmp_path / "none.json", tmp_path, "a\0b"):
        with pytest.raises(ConstraintError, match="cannot be read"):
            language(schema=path)


def test_one_of_them():
    with pytest.raises(ConstraintError, match="exclude each other"):
        language(schema={}, regex="a")
    for wrong in ([], [""], ["\ud800"]):
        with pytest.raises(ConstraintError):
            language(choice=wrong)
    for wrong in ({"choice": "abc"}, {"choice": [1]}, {"regex": 1}, {"schema": 1}):
        with pytest.raises(TypeError):
            language(**wrong)
    assert language() is None
    assert language(choice=["a", "a", "ab"]).matches("ab")
