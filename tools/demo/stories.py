"""Stories: what people ask for, and a telling that holds all of it."""

import random
import re
from dataclasses import dataclass, replace
from typing import Any

from tools.demo.example import Example, one
from tools.demo.phrasing import command, question
from tools.demo.plots import ENDINGS, PLOTS, sentences, told_briefly
from tools.demo.words import (
    ANIMALS,
    BOYS,
    COLOURS,
    FOOD_OF,
    FOODS,
    GIRLS,
    MOODS,
    NAMES,
    NATURES,
    NUMBERS,
    OBJECTS,
    PLACE_OF,
    ROLES,
    THINGS,
    TOPICS,
    VERBS,
    any_name,
    listed,
    made_up,
    with_article,
)

_COUNTS = {"1": "one", "2": "two", "3": "three", "4": "four", "5": "five", "6": "six", "7": "seven"}
_DIGITS = {word: str(n) for n, word in enumerate(NUMBERS, 2)}
_KINDS = ("story", "story", "story", "story", "tale", "little story", "fairy tale", "bedtime story",
          "story for kids", "nice story", "new story")  # fmt: skip
_TELL = ("tell me {}", "tell me {}", "write {}", "write me {}", "give me {}", "make up {}", "invent {}",
         "tell us {}", "create {}", "tell {}", "make {}")  # fmt: skip
_BARE = ("story", "Story", "a story", "story time", "one story", "tell story", "story please",
         "a story please", "I want a story", "I want to hear a story", "Do you know a story",
         "Can I have a story", "I am bored, tell me a story", "tell me something", "tell a story",
         "tell me any story", "I need a bedtime story", "How about a story", "Read me a story",
         "surprise me", "once upon a time", "Once upon a time", "another story", "Let me hear a story",
         "Know any good stories", "Got a story for me", "I would love a story", "short story",
         "I can not sleep")  # fmt: skip
_LONG = ("tell me a long story", "write a long story", "write a longer story", "give me a long story",
         "a long story", "make up a long story", "long story", "tell me a long tale")  # fmt: skip
_VERY_LONG = ("tell me a very long story", "write a very long story", "a very long story please",
              "tell me a really long story", "the longest story you know")  # fmt: skip
_LONELY = ("friendship", "love", "winter", "summer", "space", "magic", "rain", "music", "spring", "luck",
           "courage", "school", "christmas", "night", "stars", "food", "sleep", "time", "autumn")  # fmt: skip

# Of a story of which no length was asked, and of each adventure where there are two in a canvas: words and
# marks, fewest and most. All plots can be told in so many.
LENGTHS, _LENGTHS_OF_TWO = (50, 67), (44, 56)
_WORD_OR_MARK = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class Scene:
    """What a story is about.

    Attributes:
        people: one to three names, or none where the hero is a role.
        role: of the hero: "" for a child.
        pet, thing: nouns; their colours may be "".
        food: a number word and a noun.
        asked: names of the plot's fields that the prompt asks for.
    """

    plot: str
    people: tuple[str, ...]
    role: str
    pet: str
    pet_colour: str
    thing: str
    thing_colour: str
    number: str
    foods: str
    place: str
    topic: str = ""
    ending: str = ""
    asked: tuple[str, ...] = ()

    @property
    def hero(self) -> str:
        return listed(list(self.people)) if self.people else f"the {self.role}"

    def _intro(self) -> str:
        nature = NATURES[sum(map(ord, self.hero)) % len(NATURES)]
        about = f"This is a story about {self.topic}. " if self.topic else ""
        if len(self.people) > 1:
            many = {2: "two", 3: "three"}[len(self.people)]
            return f"{about}Once there were {many} friends named {self.hero}."
        name = self.people[0] if self.people else ""
        noun = self.role or ("boy" if name in BOYS else "girl" if name in GIRLS else "child")
        return f"{about}Once there was {with_article(f'{nature} {noun}')}{f' named {name}' * bool(name)}."

    @property
    def fields(self) -> dict[str, str]:
        """The words by their names in the plots."""
        name = self.people[0] if self.people else ""
        him = self.hero
        if len(self.people) > 1:
            him = "them"
        elif not self.role and name in BOYS + GIRLS:
            him = "him" if name in BOYS else "her"
        pet, thing = f"{self.pet_colour} {self.pet}".strip(), f"{self.thing_colour} {self.thing}".strip()
        found = {
            "intro": self._intro(), "hero": self.hero, "Hero": self.hero[0].upper() + self.hero[1:],
            "him": him, "pet": self.pet, "a_pet": with_article(pet), "thing": self.thing,
            "a_thing": with_article(thing), "the_thing": f"the {thing}",
            "food": f"{self.number} {self.foods}", "foods": self.foods, "place": self.place,
        }  # fmt: skip
        found["A_pet"] = found["a_pet"][0].upper() + found["a_pet"][1:]
        found["ending"] = ENDINGS.get(self.ending, "").format_map(found) if self.ending else ""
        return found

    def told(self, length: int) -> str:
        """The story in so many sentences, or more if what was asked for needs them."""
        return sentences(self.plot, self.fields, length, self.asked).text

    def told_freely(self, rng: random.Random, lengths: tuple[int, int] = LENGTHS) -> str:
        """The story in some four to eight sentences, of as many words as chance wants, whatever the plot.

        The end of an answer is what a canvas is sure of first. Where plots have lengths of their own, the end
        has chosen one, the shortest, before a word of it stands.

        Args:
            lengths: words and marks, fewest and most.
        """
        length = rng.uniform(*lengths)
        told = [
            sentences(self.plot, self.fields, n, self.asked, rng).text for n in range(4, 9) for _ in range(2)
        ]
        return min(told, key=lambda text: abs(len(_WORD_OR_MARK.findall(text)) - length))

    def briefly(self, length: int, rng: random.Random) -> str:
        """The story in one or two sentences; "" where what was asked for needs more."""
        # Only the plot of a flight has something to tell over a village.
        here = replace(self, place="in the village") if self.place == "over the village" else self
        return told_briefly(here.fields, length, self.asked, self.topic, rng)

    def in_sentences(self, length: int, rng: random.Random) -> str:
        """The story in just so many sentences; "" where what was asked for needs more, or the plot."""
        if length < 3:
            return self.briefly(length, rng)
        told = sentences(self.plot, self.fields, length - bool(self.topic), self.asked, rng)
        return told.text if len(told.lines) + bool(self.topic) == length else ""

    @property
    def truths(self) -> dict[str, Any]:
        """What a judge looks for."""
        facts = []
        for name in self.asked:
            words = self.fields["food" if name == "foods" else name]
            facts.append(words.removeprefix("a ").removeprefix("an ").removeprefix("the "))
        truths: dict[str, Any] = {"facts": facts}
        if "hero" in self.asked:
            truths["names"] = list(self.people)
            truths["facts"] = [fact for fact in facts if fact not in (self.hero, self.role)]
            if self.role:
                truths["facts"].append(self.role)
        if self.topic:
            truths["facts"].append(self.topic)
        return truths


def draw_scene(rng: random.Random) -> Scene:
    """A scene of which nothing was asked."""
    plot = rng.choice(tuple(PLOTS))
    place, thing, _ = PLOTS[plot]
    pet = rng.choice(ANIMALS)
    people = (any_name(rng, known=1.0),)
    pet_colour, colour = (rng.choice(COLOURS) if rng.random() < share else "" for share in (0.6, 0.4))
    return Scene(plot, people, "", pet, pet_colour, thing, colour, rng.choice(NUMBERS), FOOD_OF[pet], place)


def _people(rng: random.Random) -> tuple[str, ...]:
    n = rng.choices((1, 2, 3), (0.7, 0.22, 0.08))[0]
    found: list[str] = []
    while len(found) < n:
        name = any_name(rng)
        if name not in found:
            found.append(name)
    return tuple(found)


def _noun(rng: random.Random, known: tuple[str, ...]) -> str:
    return rng.choice(known) if rng.random() < 0.85 else made_up(rng, 3, 8)


def _phrased(scene: Scene, rng: random.Random) -> Scene:
    """The scene with a topic of several words, which no plot can foresee; its animal is in the plot."""
    known = (*THINGS, *OBJECTS, *TOPICS, *ROLES)
    pet, other = _noun(rng, ANIMALS), rng.choice(ANIMALS)
    noun = made_up(rng, 3, 8) if rng.random() < 0.3 else rng.choice(known)
    nature = rng.choice(
        (*NATURES, "little", "lazy", "lonely", "old", "magic", "big", "tiny", "hungry", "lost")
    )
    a_pet, a_noun = with_article(pet), with_article(noun)
    topic = rng.choice((
        with_article(f"{nature} {pet}"), f"{a_pet} who loves {noun}",
        f"{a_pet} that wants to {rng.choice(VERBS)}",
        f"{a_pet} who lost {a_noun}", f"{a_pet} and {with_article(other)}", f"how the {pet} got its {noun}",
        f"{a_pet} who cannot {rng.choice(VERBS)}", with_article(f"{nature} {noun}"), f"the {nature} {noun}",
        f"{a_pet} in {a_noun}", f"{a_pet} on {with_article(rng.choice(TOPICS))}", f"{a_noun} and {a_pet}",
        f"{noun} and {rng.choice(known)}", f"the {noun} of the {rng.choice(ROLES)}",
        f"{a_pet} afraid of the {noun}",
        f"the first {rng.choice(TOPICS)}", f"{a_pet} who finds {a_noun}", f"losing {a_noun}", f"my {noun}",
    ))  # fmt: skip
    if pet in topic.split():
        scene = replace(scene, pet=pet, foods=FOOD_OF.get(pet, "cakes"))
    return replace(scene, topic=topic)


def ask_for(scene: Scene, rng: random.Random) -> tuple[Scene, str]:
    """The scene with what somebody asks for in it, and the wish: "Mia and a blue fox"."""
    parts: list[str] = []
    asked: list[str] = []
    kinds = rng.choices(
        (("hero",), ("pet",), ("hero", "pet"), ("thing",), ("hero", "thing"), ("place",), ("topic",),
         ("hero", "pet", "food"), ("hero", "place"), ("pet", "place"), ("pet", "thing"), ("role",),
         ("role", "pet"), ("hero", "pet", "place"), ("pet", "food"), ("hero", "pet", "thing"), ("lonely",),
         ("phrase",)),
        (5, 5, 6, 2, 2, 2, 2, 1.5, 1, 1.5, 1, 1.5, 1.5, 1, 1, 1, 1.5, 6),
    )[0]  # fmt: skip
    for kind in kinds:
        if kind == "hero":
            scene = replace(scene, people=_people(rng))
            parts += scene.people
            asked.append("hero")
        elif kind == "role":
            role = rng.choice(ROLES)
            named = rng.random() < 0.3
            scene = replace(scene, role=role, people=(any_name(rng),) if named else ())
            parts.append(with_article(role) + (f" named {scene.people[0]}" if named else ""))
            asked.append("hero")
        elif kind == "pet":
            pet = _noun(rng, ANIMALS)
            colour = rng.choice(COLOURS) if rng.random() < 0.4 else ""
            scene = replace(scene, pet=pet, pet_colour=colour, foods=FOOD_OF.get(pet, "cakes"))
            article = rng.choice(("a", "a", "a", "", "the"))
            words = f"{colour} {pet}".strip()
            parts.append(with_article(words) if article == "a" else f"{article} {words}".strip())
            asked.append("a_pet")
        elif kind == "thing":
            colour = rng.choice(COLOURS) if rng.random() < 0.4 else ""
            scene = replace(scene, thing=_noun(rng, THINGS), thing_colour=colour)
            parts.append(with_article(f"{colour} {scene.thing}".strip()))
            asked.append("a_thing")
        elif kind == "food":
            scene = replace(scene, foods=rng.choice(FOODS))
            number = scene.number if rng.random() < 0.7 else _DIGITS[scene.number]
            parts.append(f"{number} {scene.foods}")
            asked.append("food")
        elif kind == "place":
            topic = rng.choice(tuple(PLACE_OF))
            scene = replace(scene, place=PLACE_OF[topic])
            asked.append("place")
            if len(kinds) == 1:
                parts.append(f"the {topic}")
        elif kind == "phrase":
            scene = _phrased(scene, rng)
            parts.append(scene.topic)
        else:
            topic = rng.choice(_LONELY) if kind == "lonely" else made_up(rng, 4, 8)
            topic = rng.choice(_LONELY) if rng.random() < 0.5 else topic
            scene = replace(scene, topic=topic)
            parts.append(topic)
    wish = listed(parts)
    if kinds == ("hero", "pet") and rng.random() < 0.25:
        form = rng.choice(("{} meeting {}", "how {} met {}", "{} who meets {}", "{} finding {}"))
        wish = form.format(listed(parts[:-1]), parts[-1])
    if "place" in asked and len(kinds) > 1:
        wish += " " + scene.place
    return replace(scene, asked=tuple(asked)), wish


def make_story(rng: random.Random) -> Example:
    """A request and a story."""
    scene = draw_scene(rng)
    truths: dict[str, Any] = {}
    if rng.random() < 0.12:
        prompt = question(rng.choice(_BARE), rng, ".")
        short = "short" in prompt.lower()
        return one("story", prompt, scene.told(4) if short else scene.told_freely(rng), **truths)
    kind, length, tail = rng.choice(_KINDS), 0, ""
    wish = ""
    if rng.random() < 0.72:
        scene, words = ask_for(scene, rng)
        link = rng.choice(("about {}", "about {}", "about {}", "about {}", "with {}", "on {}"))
        wish = " " + (link if not scene.topic else "about {}").format(words)
    if rng.random() < 0.2:
        scene = replace(scene, ending=rng.choice(MOODS))
        if rng.random() < 0.5:
            kind = f"{scene.ending} {rng.choice(('story', 'tale'))}"
        else:
            tail += rng.choice((" with {} ending", " that has {} ending")).format(with_article(scene.ending))
    how_long = rng.random()
    if how_long < 0.1:
        kind, length = f"{rng.choice(('short', 'very short', 'brief'))} story", 4
    elif how_long < 0.22:
        digit, word = rng.choice(tuple(_COUNTS.items()))
        length = int(digit)
        forms = (" in {} sentences", " with {} sentences", " of {} sentences", " in exactly {} sentences",
                 ", {} sentences long", " in only {} sentences")  # fmt: skip
        if rng.random() < 0.15 and length > 1 and not scene.ending:
            kind = f"{rng.choice((digit, word))}{rng.choice('- ')}sentence story"
        else:
            tail += rng.choice(forms).format(rng.choice((digit, word)))
            tail = tail.replace("sentences", "sentence") if length == 1 else tail
        truths["sentences"] = length
    elif how_long < 0.26:
        tail += rng.choice((" with dialogue", " in which somebody speaks", " with a conversation"))
        truths["dialogue"], length = True, rng.randint(5, 8)  # what is said comes first of what may be told
    ask = rng.choice(_TELL).format(with_article(kind))
    prompt = command(ask + wish + tail, rng)
    if scene.people and not all(name in prompt for name in scene.people if "hero" in scene.asked):
        prompt = f"{ask}{wish}{tail}"  # a typo or capitals have changed a name
    if any(word not in prompt for word in (wish + tail).split()):
        prompt = f"{ask}{wish}{tail}."
    if rng.random() < 0.05 and all(name in NAMES for name in scene.people):
        prompt = prompt.lower()
    text = scene.told(length) if length else scene.told_freely(rng)
    if "sentences" in truths:
        text = scene.in_sentences(length, rng)
        if not text:
            return make_story(rng)
    return one("story", prompt, text, **scene.truths, **truths)


def make_long_story(rng: random.Random) -> Example:
    """Two adventures of one hero, one canvas; or three and two canvases, where it is to be very long."""
    scene = draw_scene(rng)
    wish, n = "", rng.choice((2, 2, 3))
    if rng.random() < 0.7:
        while True:
            scene, words = ask_for(draw_scene(rng), rng)
            if not scene.topic:
                break
        wish = f" about {words}"
    told = [scene]
    while len(told) < n:
        other = replace(draw_scene(rng), people=scene.people, role=scene.role)
        if all(other.plot != one_.plot and other.pet != one_.pet for one_ in told):
            told.append(other)
    first, *more = (one_.told_freely(rng, LENGTHS if n > 2 else _LENGTHS_OF_TWO) for one_ in told)
    text = "\n\n".join([first, *(part.split(". ", 1)[1] for part in more)])
    ask = rng.choice(_VERY_LONG if n > 2 else _LONG)
    prompt = command(ask + wish, rng, plain=0.7)
    if any(word not in prompt for word in wish.split()):
        prompt = ask + wish
    return one("story", prompt, text, **scene.truths)
