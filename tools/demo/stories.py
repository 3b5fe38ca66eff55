"""Stories: facts, the prompts that ask for them, and the sentences that tell them."""

import random
from collections.abc import Callable
from dataclasses import dataclass, fields

BOYS = ("Tom", "Ben", "Max", "Leo", "Sam", "Jack", "Finn", "Paul", "Noah", "Tim", "Oscar", "Adam")
GIRLS = ("Mia", "Anna", "Lily", "Emma", "Zoe", "Eva", "Nina", "Ruby", "Ella", "Lucy", "Clara", "Rosa")
NAMES = BOYS + GIRLS
COLOURS = ("red", "blue", "green", "yellow", "white", "black", "brown", "purple", "pink", "grey", "orange")
ANIMALS = (
    "cat", "dog", "fox", "bear", "owl", "mouse", "horse", "frog", "rabbit", "duck", "wolf", "lion",
    "tiger", "monkey", "bird", "fish", "cow", "pig", "sheep", "hen", "turtle", "penguin", "dragon",
    "robot", "elephant",
)  # fmt: skip
THINGS = ("ball", "hat", "kite", "book", "boat", "box", "bell", "lamp", "drum", "cup", "key", "shell")
FOODS = ("apples", "pears", "cakes", "plums", "nuts", "berries", "carrots", "cookies")
NUMBERS = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
PLACES = ("by the river", "in the forest", "on the hill", "in the garden", "near the school", "by the sea",
          "behind the house", "under a tree")  # fmt: skip
NATURES = ("kind", "brave", "clever", "quiet")


@dataclass
class Facts:
    """What a story is about; None where nothing was said of it."""

    name: str | None = None
    friend: str | None = None
    colour: str | None = None
    animal: str | None = None
    thing: str | None = None
    number: str | None = None
    food: str | None = None
    place: str | None = None


@dataclass(frozen=True)
class Story:
    """A prompt, its story, and what was asked for."""

    prompt: str
    text: str
    asked: Facts


def with_article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _he(name: str) -> str:
    return "he" if name in BOYS else "she"


def _him(name: str) -> str:
    return "him" if name in BOYS else "her"


def _child(name: str) -> str:
    return "boy" if name in BOYS else "girl"


def _plain(place: str) -> str:
    return place.split(" ", 1)[1]


def _meeting(f: Facts, rng: random.Random) -> str:
    return (
        f"Once there was a {rng.choice(NATURES)} {_child(f.name)} named {f.name}. "
        f"One day {f.name} met {with_article(f'{f.colour} {f.animal}')} {f.place}. "
        f"The {f.animal} was very hungry, so {f.name} gave it {f.number} {f.food}. "
    )


def tell_friend(f: Facts, rng: random.Random) -> str:
    """A child feeds an animal."""
    return _meeting(f, rng) + (
        f"The {f.colour} {f.animal} ate the {f.food} and was happy. "
        f"From that day on, {f.name} and the {f.animal} were friends."
    )


def tell_lost(f: Facts, rng: random.Random) -> str:
    """A child loses a thing, and an animal brings it back."""
    he, thing = _he(f.name), with_article(f"{f.colour} {f.thing}")
    return (
        f"{f.name} was a {rng.choice(NATURES)} {_child(f.name)} who had {thing}. "
        f"One morning the {f.thing} was gone. {f.name} looked {f.place}, but {he} could not find it. "
        f'Then {with_article(f.animal)} came and said: "Here is your {f.colour} {f.thing}!" '
        f"{f.name} was so glad that {he} gave the {f.animal} {f.number} {f.food}."
    )


def tell_trip(f: Facts, rng: random.Random) -> str:
    """Two children go somewhere together."""
    thing = with_article(f"{f.colour} {f.thing}")
    return (
        f"{f.name} and {f.friend} were good friends. One summer day they took {thing} "
        f"and {f.number} {f.food} and went out to play. {f.place.capitalize()} they saw "
        f"{with_article(f.animal)}. "
        f"The {f.animal} liked the {f.colour} {f.thing}, and the children liked the {f.animal}. "
        f"They played until the sun went down. Then they ate the {f.food} and walked home."
    )


def tell_hero(f: Facts, rng: random.Random) -> str:
    """An animal helps a lost child."""
    he, him = _he(f.name), _him(f.name)
    return (
        f"There once was {with_article(f'{f.colour} {f.animal}')} who lived {f.place}. "
        f"It was small, but it was very {rng.choice(NATURES)}. "
        f"One night it heard {with_article(_child(f.name))} cry. "
        f'"I am {f.name}, and I cannot find my way home," {he} said. '
        f"The {f.colour} {f.animal} took {him} home. "
        f"{f.name} thanked the {f.animal} with {f.number} {f.food}."
    )


def tell_long(f: Facts, rng: random.Random) -> str:
    """The story of a feeding goes on, with a thing that falls into the water."""
    he, name, animal, thing = _he(f.name), f.name, f.animal, f.thing
    other = rng.choice([place for place in PLACES if place != f.place])
    return _meeting(f, rng) + (
        f"The {f.colour} {animal} ate the {f.food} and was happy.\n\n"
        f"The next morning {name} came back with {with_article(thing)}. "
        f"The {animal} liked the {thing} very much. They played {other} until the sun went down. "
        f"Then the wind took the {thing} away, and it fell into the water. {name} began to cry. "
        f'"Do not be sad," said the {f.colour} {animal}. "I can swim." '
        f"It jumped into the water and brought the {thing} back.\n\n"
        f"{name} was so glad that {he} danced with the {animal}. "
        f"In the evening they walked home and ate {f.number} {f.food}. "
        f"From that day on, {name} and the {animal} were friends."
    )


PLOTS: dict[str, Callable[[Facts, random.Random], str]] = {
    "friend": tell_friend,
    "lost": tell_lost,
    "trip": tell_trip,
    "hero": tell_hero,
    "long": tell_long,
}
# What a prompt may ask for, and the plots that serve it.
ASKS: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    ((), ("friend", "lost", "trip", "hero")),
    (("name",), ("friend", "lost")),
    (("animal",), ("friend", "hero")),
    (("colour", "animal"), ("hero",)),
    (("name", "animal"), ("friend",)),
    (("name", "colour", "animal"), ("friend",)),
    (("name", "colour", "animal", "number", "food"), ("friend",)),
    (("colour", "animal", "number", "food"), ("hero",)),
    (("thing",), ("lost",)),
    (("colour", "thing"), ("lost",)),
    (("name", "colour", "thing"), ("lost",)),
    (("name", "colour", "thing", "animal"), ("lost",)),
    (("name", "friend"), ("trip",)),
    (("name", "friend", "colour", "thing"), ("trip",)),
    (("name", "friend", "number", "food"), ("trip",)),
)
LONG_ASKS = (
    (),
    ("name",),
    ("animal",),
    ("name", "animal"),
    ("name", "colour", "animal"),
    ("colour", "animal"),
)
_DIGITS = {word: str(n) for n, word in enumerate(NUMBERS, 2)}


def draw_facts(rng: random.Random) -> Facts:
    name, friend = rng.sample(NAMES, 2)
    return Facts(name, friend, rng.choice(COLOURS), rng.choice(ANIMALS), rng.choice(THINGS),
                 rng.choice(NUMBERS), rng.choice(FOODS), rng.choice(PLACES))  # fmt: skip


def _wish(f: Facts, asked: tuple[str, ...], rng: random.Random) -> str:
    """The part of a prompt that says what the story is to be about."""
    parts = []
    if "name" in asked:
        parts.append(f.name)
    if "friend" in asked:
        parts.append(f.friend)
    if "animal" in asked and "thing" not in asked:
        parts.append(with_article(f"{f.colour} {f.animal}" if "colour" in asked else f.animal))
    if "thing" in asked:
        parts.append(with_article(f"{f.colour} {f.thing}" if "colour" in asked else f.thing))
    if "animal" in asked and "thing" in asked:
        parts.append(with_article(f.animal))
    if "food" in asked:
        number = f.number if rng.random() < 0.7 else _DIGITS[f.number]
        parts.append(f"{number} {f.food}")
    return " and ".join((", ".join(parts[:-1]), parts[-1])) if len(parts) > 1 else parts[0]


def make_story(rng: random.Random, *, long: bool = False) -> Story:
    """A prompt and a story that serves it."""
    facts = draw_facts(rng)
    if long:
        asked, plot = rng.choice(LONG_ASKS), "long"
    else:
        asked, plots = rng.choice(ASKS) if rng.random() > 0.15 else ASKS[0]
        plot = rng.choice(plots)
    kind = "long story" if long else rng.choice(("story", "story", "story", "short story"))
    opening = rng.choice(("Tell me a", "Tell me a", "Write a", "tell me a", "Write me a")) + f" {kind}"
    prompt = f"{opening} about {_wish(facts, asked, rng)}" if asked else opening
    prompt += "." if rng.random() < 0.7 else ""
    told = {
        field.name: getattr(facts, field.name) if field.name in asked else None for field in fields(Facts)
    }
    return Story(prompt, PLOTS[plot](facts, rng), Facts(**told))
