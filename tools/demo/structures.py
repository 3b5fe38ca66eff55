"""JSON: objects, lists, nested once, by the keys of a schema."""

import json
import random
from typing import Any

from tools.demo.example import Example, one
from tools.demo.phrasing import command
from tools.demo.words import (
    ANIMALS,
    COLOURS,
    FOODS,
    NAMES,
    OBJECTS,
    THINGS,
    TOPICS,
    any_name,
    any_word,
    listed,
    with_article,
)

_ASKS = ("make JSON", "write JSON", "give me JSON", "turn this into JSON", "convert to JSON",
         "make a JSON object",
         "write a JSON object", "format as JSON", "output JSON", "write this as JSON", "create JSON",
         "return JSON", "give me a JSON object", "create a json object")  # fmt: skip
_LISTS = ("make a JSON list", "write a JSON list", "make a JSON array", "turn this into a JSON list",
          "give me a JSON array", "write these as a JSON array", "convert to a JSON list", "JSON list",
          "create a json array")  # fmt: skip
# Where what it is about comes first.
_BEHIND = ("{} as JSON", "{} in JSON", "{} to JSON", "{} as a JSON object", "{} - as JSON please", "JSON: {}",
           "json {}", "{}\nas JSON", "Please write {} as JSON.", "Can you put {} into JSON?",
           "{} -> json", "How does {} look as JSON?")  # fmt: skip
_LIST_BEHIND = ("{} as a JSON list", "{} as a JSON array", "{} to a JSON array", "JSON array: {}",
                "[{}] as JSON", "put {} in a JSON list", "{} -> JSON list",
                "{} in a json array please")  # fmt: skip
_RANGES = (" of the numbers from {} to {}", " with the numbers {} to {}", " of numbers from {} to {}",
           ": {} to {}", " from {} to {}")  # fmt: skip
_WITH = (
    " with {}",
    ": {}",
    ": {}",
    " for {}",
    ":\n{}",
    " from {}",
    " that has {}",
    " containing {}",
    " where {}",
)


def _value(key: str, rng: random.Random) -> Any:
    if key in ("name", "friend", "author", "owner", "first name", "user"):
        return any_name(rng)
    if key in ("age", "number", "count", "price", "year", "size", "id", "pages", "score", "floor", "stock"):
        if key == "price" and rng.random() < 0.3:
            return rng.randint(1, 9999) / 100
        most = 99 if key == "age" or rng.random() < 0.5 else rng.choice((999, 9999))
        return rng.randint(1, most) if key != "year" else rng.randint(1900, 2030)
    if key in ("color", "colour"):
        return rng.choice(COLOURS)
    if key in ("pet", "animal"):
        return rng.choice(ANIMALS)
    if key in ("city", "place"):
        return rng.choice(
            ("Paris", "Rome", "Berlin", "London", "Tokyo", "Oslo", "Lima", "Cairo", "Delhi", "Madrid")
        )
    if key in ("happy", "active", "new", "open"):
        return rng.random() < 0.5
    kind = rng.random()
    if key in ("title", "brand", "product", "item") and kind < 0.7:
        return _title(rng)
    if kind < 0.45:
        return rng.choice((*THINGS, *FOODS, *OBJECTS[:20], *TOPICS))
    if kind < 0.65:
        return any_word(rng)
    if kind < 0.8:
        return _title(rng)
    return rng.randint(0, 9999) if kind < 0.9 else f"{rng.choice(COLOURS)} {any_word(rng, 7)}"


def _title(rng: random.Random) -> str:
    """One to three words with capitals: mostly none that is known, so that it is copied by its letters."""
    words = [any_word(rng, 8).capitalize() for _ in range(rng.choice((1, 1, 1, 2, 2, 3)))]
    return " ".join([rng.choice(("The", "A", "My")), *words] if rng.random() < 0.15 else words)


def _key(rng: random.Random) -> str:
    """Mostly one that is usual; people think of others."""
    kind = rng.random()
    if kind < 0.6:
        return rng.choice(KEYS)
    if kind < 0.8:
        return rng.choice((*OBJECTS, *THINGS, *TOPICS))
    return any_word(rng, 9) if kind < 0.95 else rng.choice("abcdefghijklmnopqrstuvwxyz")


KEYS = ("name", "age", "color", "colour", "pet", "animal", "friend", "city", "number", "title", "price",
        "count",
        "food", "thing", "author", "size", "happy", "active", "item", "id", "place", "product", "owner",
        "year",
        "pages", "user", "score", "fruit", "hobby", "new", "open", "stock")  # fmt: skip


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _keys_and_values(value: dict[str, Any], rng: random.Random) -> Example:
    """The same with its keys first, or each pair in words."""
    keys, values = listed(list(value)), listed([_plain(item) for item in value.values()])
    pairs = listed([f"the key {key} and the value {_plain(item)}" for key, item in value.items()])
    text = rng.choice((f" with keys {keys} and values {values}", f" with the keys {keys}: {values}",
                       f" with {pairs}", f", keys {keys}, values {values}"))  # fmt: skip
    return one("json", command(rng.choice(_ASKS), rng, text), _json(value), value=value)


def make_object(rng: random.Random) -> Example:
    """Keys with values, in the ways in which people list them."""
    keys = list(dict.fromkeys(_key(rng) for _ in range(rng.randint(1, 5))))
    value = {key: _value(key, rng) for key in keys}
    if rng.random() < 0.15:
        return _keys_and_values(value, rng)
    mark = rng.choice((" ", " ", ": ", "=", " = ", " is ", " set to "))
    pairs = [f"{key}{mark}{_plain(item)}" for key, item in value.items()]
    text = rng.choice((listed(pairs), ", ".join(pairs), "; ".join(pairs), "\n".join(pairs)))
    if rng.random() < 0.2:
        prompt = rng.choice(_BEHIND).format(text)
    else:
        form = ":\n{}" if "\n" in text else rng.choice(_WITH)
        prompt = command(rng.choice(_ASKS), rng, form.format(text) + rng.choice(("", "", ".")))
    return one("json", prompt, _json(value), value=value)


def make_described(rng: random.Random) -> Example:
    """Somebody or something in words, under the keys that these words suggest."""
    name, age, number = any_name(rng), rng.randint(1, 90), rng.randint(2, 60)
    city, colour = _value("city", rng), rng.choice(COLOURS)
    other = rng.choice([other for other in NAMES if other != name])
    animal, thing = rng.choice(ANIMALS), rng.choice(THINGS)
    title, pages, year = _title(rng), rng.randint(10, 999), rng.randint(1950, 2030)
    who = rng.choice(("person", "user", "man", "woman", "boy", "girl", "friend", "child", "student"))
    text, value = rng.choice((
        (f"a {who} named {name} who is {age}", {"name": name, "age": age}),
        (f"a {who} called {name}, age {age}", {"name": name, "age": age}),
        (f"a {who} with the name {name} and the age {age}", {"name": name, "age": age}),
        (f"a {who} named {name}, {age} years old, from {city}", {"name": name, "age": age, "city": city}),
        (f"a {who} named {name} who lives in {city}", {"name": name, "city": city}),
        (f"{with_article(animal)} named {name}, {age} years old", {"name": name, "age": age}),
        (f"{with_article(f'{colour} {animal}')} named {name}", {"name": name, "color": colour}),
        (f"{with_article(f'{colour} {thing}')} with the price {number}", {"color": colour, "price": number}),
        (f"a book titled {title} by {name}", {"title": title, "author": name}),
        (f"a book called {title} with {pages} pages", {"title": title, "pages": pages}),
        (f"a book with title {title}, author {name}, {pages} pages",
         {"title": title, "author": name, "pages": pages}),
        (f"a car from {year}, {colour}, brand {title}", {"year": year, "color": colour, "brand": title}),
        (f"{with_article(animal)} called {name} who is {age} years old", {"name": name, "age": age}),
        (f"{name} and {other} with the ages {age} and {number}", {name: age, other: number}),
        (f"{name}, {age}, {city}, with keys name, age and city", {"name": name, "age": age, "city": city}),
    ))  # fmt: skip
    if rng.random() < 0.3:
        prompt = rng.choice(_BEHIND).format(text)
    else:
        form = rng.choice((" for {}", " for {}", ": {}", " of {}", " about {}"))
        prompt = command(rng.choice(_ASKS), rng, form.format(text) + rng.choice(("", "", ".")))
    return one("json", prompt, _json(value), value=value)


def make_list(rng: random.Random) -> Example:
    """Numbers or words; or numbers from one to another."""
    if rng.random() < 0.1:
        first = rng.choice((1, 1, 1, 0, 2, 5, 10))
        last = first + rng.randint(2, 9)
        prompt = command(rng.choice(_LISTS[:3]), rng, rng.choice(_RANGES).format(first, last))
        numbers = [*range(first, last + 1)]
        return one("json", prompt, json.dumps(numbers), value=numbers)
    if rng.random() < 0.5:
        items: list[Any] = [rng.randint(0, 99) for _ in range(rng.randint(2, 8))]
    else:
        pool = rng.choice((ANIMALS, COLOURS, FOODS, NAMES, THINGS, (*OBJECTS, *TOPICS)))
        items = rng.sample(pool, rng.randint(2, 7))
        if rng.random() < 0.3:
            items = [any_word(rng, 8) if rng.random() < 0.5 else item for item in items]
    text = rng.choice((", ".join(map(str, items)), listed(list(map(str, items))), " ".join(map(str, items))))
    form = rng.choice((": {}", ": {}", " of {}", " with {}", " from {}"))
    if rng.random() < 0.2:
        return one("json", rng.choice(_LIST_BEHIND).format(text), json.dumps(items), value=items)
    prompt = command(rng.choice(_LISTS), rng, form.format(text) + rng.choice(("", "", ".")))
    return one("json", prompt, json.dumps(items), value=items)


def make_nested(rng: random.Random) -> Example:
    """An object in an object, a list in an object, or a list of objects."""
    kind = rng.randrange(3)
    name = any_name(rng)
    ask = rng.choice(_ASKS)
    if kind == 0:
        outer = rng.choice(("user", "person", "owner", "child"))
        inner = {"name": name, **{key: _value(key, rng) for key in rng.sample(("age", "city", "color"), 1)}}
        pet = {rng.choice(("pet", "animal", "color", "number", "food")): 0}
        pet = {key: _value(key, rng) for key in pet}
        value: Any = {outer: inner, **pet}
        said = listed([f"{key} {_plain(item)}" for key, item in inner.items()])
        first = listed([f"{key} {_plain(item)}" for key, item in pet.items()])
        text = f" with {first} and a {outer} with {said}"
        value = {**pet, outer: inner}
    elif kind == 1:
        key, pool = rng.choice((("colors", COLOURS), ("pets", ANIMALS), ("friends", NAMES), ("foods", FOODS)))
        items = rng.sample(pool, rng.randint(2, 4))
        value = {"name": name, key: items}
        text = rng.choice(
            (": name {}, {} {}", " with name {} and {} {}", " with name {} and a list of {}: {}")
        )
        text = text.format(name, key, listed(items))
    else:
        people = rng.sample(NAMES, rng.randint(2, 3))
        key = rng.choice(("age", "score", "number"))
        value = [{"name": person, key: rng.randint(1, 99)} for person in people]
        said = listed([f"{one_['name']} {key} {one_[key]}" for one_ in value])
        text = f" list of objects with name and {key}: {said}"
        ask = rng.choice(("make a JSON", "write a JSON", "give me a JSON"))
    return one("json", command(ask, rng, text), _json(value), value=value)


def make_extracted(rng: random.Random) -> Example:
    """Facts out of a sentence, under the keys that are named."""
    name, age, city = any_name(rng), rng.randint(3, 90), _value("city", rng)
    colour, thing, number = rng.choice(COLOURS), rng.choice(THINGS), rng.randint(2, 60)
    text, value = rng.choice((
        (f"{name} is {age} years old and lives in {city}.", {"name": name, "age": age, "city": city}),
        (f"{name} has a {colour} {thing}.", {"name": name, "color": colour, "thing": thing}),
        (f"The {thing} is {colour} and costs {number} dollars.", {"thing": thing, "color": colour,
                                                                  "price": number}),
        (f"{name} from {city} bought {number} {FOODS[0]}.", {"name": name, "city": city, "number": number}),
        (f"My name is {name} and I am {age}.", {"name": name, "age": age}),
    ))  # fmt: skip
    keys = listed(list(value))
    shape = json.dumps({key: 0 if isinstance(item, int) else "" for key, item in value.items()})
    typed = listed(
        [f"{key} ({'number' if isinstance(item, int) else 'text'})" for key, item in value.items()]
    )
    form = rng.choice((
        "Fill in this JSON: {shape} Text: {text}", "{text} Answer with JSON like this: {shape}",
        "Extract as JSON with {typed}: {text}",
        "{text} Write JSON with the keys {keys}.", "Extract {keys} as JSON: {text}",
        "JSON with {keys}: {text}",
        "{text}\nGive me {keys} as JSON.", "Make JSON with the keys {keys} from this text: {text}",
        'Answer with JSON that has the keys {keys}. {text}',
    ))  # fmt: skip
    return one("json", form.format(text=text, keys=keys, shape=shape, typed=typed), _json(value), value=value)
