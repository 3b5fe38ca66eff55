"""Random JSON schemas of the supported keywords, and random texts of an automaton."""

import random

WORDS = ["name", "age", "color", "pet", "tags", "x", 'a "b"', "größe", "n/a", "is\\it"]


def random_schema(rng: random.Random, depth: int = 2) -> dict | bool:
    """A schema that allows something."""
    kinds = ["string", "integer", "number", "boolean", "null", "enum", "format", "pattern"]
    if depth:
        kinds += ["object", "array", "anyOf", "object", "array", "tuple", "map", "oneOf", "ref"]
    kind = rng.choice(kinds)
    return globals()[f"_{kind}"](rng, depth - 1) if f"_{kind}" in globals() else {"type": kind}


def _string(rng, depth):
    least = rng.randint(0, 4)
    return {
        "type": "string",
        **rng.choice([{}, {"minLength": least}, {"minLength": least, "maxLength": least + 5}]),
    }


def _integer(rng, depth):
    low = rng.randint(-200, 200)
    bounds = {"minimum": low, "maximum": low + rng.randint(0, 300)}
    return {"type": "integer", **{name: bounds[name] for name in bounds if rng.random() < 0.5}}


def _number(rng, depth):
    low = rng.randint(-2000, 2000) / 100
    bounds = {rng.choice(["minimum", "exclusiveMinimum"]): low}
    bounds[rng.choice(["maximum", "exclusiveMaximum"])] = round(low + rng.randint(1, 500) / 100, 2)
    return {"type": rng.choice(["number", ["number", "null"]]), **bounds}


def _enum(rng, depth):
    values = rng.sample([*WORDS, 1, 2.5, None, True, ["a", 1], {"k": "v"}], rng.randint(1, 4))
    return {"const": values[0]} if rng.random() < 0.3 else {"enum": values}


def _format(rng, depth):
    return {"type": "string", "format": rng.choice(["date", "time", "date-time", "email", "ipv4", "uuid"])}


def _pattern(rng, depth):
    patterns = [
        "^[A-Z][a-z]+$",
        "^\\d{3}-\\d{4}$",
        "ab|cd",
        '^["\\\\/]{1,3}$',
        "^\\S+ \\S+$",
        "^(é|ü)*$",
        "z$",
    ]
    more = {"maxLength": 12} if rng.random() < 0.3 else {}
    return {"type": "string", "pattern": rng.choice(patterns), **more}


def _object(rng, depth):
    names = rng.sample(WORDS, rng.randint(1, 4))
    required = [name for name in names if rng.random() < 0.6]
    found = {"type": "object", "properties": {name: random_schema(rng, depth) for name in names}}
    return {**found, "required": required, **rng.choice([{}, {"additionalProperties": False}])}


def _map(rng, depth):
    return {"type": "object", "additionalProperties": random_schema(rng, depth), "maxProperties": 3}


def _array(rng, depth):
    least = rng.randint(0, 2)
    found = {"type": "array", "items": random_schema(rng, depth), "minItems": least}
    return {**found, "maxItems": least + rng.randint(0, 3)}


def _tuple(rng, depth):
    first = [random_schema(rng, depth) for _ in range(rng.randint(1, 3))]
    return {
        "type": "array",
        "prefixItems": first,
        **rng.choice([{}, {"items": False}, {"minItems": len(first)}]),
    }


def _anyOf(rng, depth):
    return {"anyOf": [random_schema(rng, depth) for _ in range(rng.randint(1, 3))]}


def _oneOf(rng, depth):
    kinds = rng.sample([_string, _integer, _array, _object], 2)
    return {"oneOf": [kind(rng, depth) for kind in kinds]}


def _ref(rng, depth):
    """A reference to what stands elsewhere, which `rooted` puts there."""
    return {"$ref": "#/$defs/part"}


def rooted(rng: random.Random) -> dict:
    """A random schema with what its references name."""
    schema = random_schema(rng)
    while schema == {"$ref": "#/$defs/part"}:
        schema = random_schema(rng)
    return {**schema, "$defs": {"part": random_schema(rng, 0)}}


def random_text(rng: random.Random, automaton, most: int = 60) -> str:
    """A text of the language: random bytes, and towards the end the nearest way out."""
    state, data = 0, bytearray()
    while True:
        if automaton.accepting[state] and rng.random() < 0.3:
            return data.decode()
        moves = automaton.moves[state, automaton.byte_class]
        ways = [b for b in range(256) if moves[b] >= 0]
        if not ways:
            return data.decode()
        if len(data) >= most:
            ways = [b for b in ways if automaton.distance[moves[b]] < automaton.distance[state]] or ways
            if automaton.accepting[state]:
                return data.decode()
        plain = [b for b in ways if b < 0x80]
        byte = rng.choice(plain if plain and rng.random() < 0.9 else ways)
        data.append(byte)
        state = int(moves[byte])
