"""Second and third turns: questions about a story, another one, longer, shorter; what was said before."""

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tools.demo.example import Example
from tools.demo.orders import make_sorted_numbers
from tools.demo.phrasing import command, question
from tools.demo.stories import Scene, ask_for, draw_scene
from tools.demo.talk import make_saying
from tools.demo.words import MOODS, any_name, with_article

_FIRST = ("tell me a story", "tell me a story about {}", "write a story about {}", "a story about {} please",
          "story about {}", "tell me a short story about {}", "write a short story",
          "Tell me a little story")  # fmt: skip
_AGAIN = ("another one", "Another one", "one more", "another story", "tell me another one", "again",
          "one more story",
          "another", "Another one, please", "can you tell me another one", "next one", "a different one",
          "tell me a different story", "more stories please", "and now another one", "encore")  # fmt: skip
# Another one that is to be so, or about that.
_MOOD = ("a {} one", "now a {} one", "and a {} one", "tell me a {} one", "now a {} story", "a {} one please",
         "make it {}", "can you tell a {} one", "another one, but {}", "with a {} ending")  # fmt: skip
_ABOUT = ("one about {}", "now one about {}", "and one about {}", "now about {}", "tell me one about {}",
          "another one about {}", "a story about {}", "about {}", "can you tell one about {}")  # fmt: skip
_BRIEFER = (("in two sentences please", 2), ("in two sentences", 2), ("tell it in 2 sentences", 2),
            ("in one sentence", 1), ("in one sentence please", 1), ("now in one sentence", 1))  # fmt: skip
_LONGER = ("make it longer", "longer", "a longer version please", "can you make it longer",
           "tell it in more detail",
           "more details", "make the story longer", "please make it longer", "write a longer version",
           "that was too short")  # fmt: skip
_SHORTER = ("make it shorter", "shorter", "a shorter version please", "can you make it shorter",
            "tell it shorter",
            "make the story shorter", "in three sentences please", "too long", "summarize it", "shorten it",
            "give me a short version")  # fmt: skip


def _conversation(turns: list[str], answers: list[str], **truths: Any) -> Example:
    entry: Any = {"id": "", "kind": "followup", "messages": turns, **truths}
    return Example(entry, answers)


def _opening(rng: random.Random) -> tuple[Scene, str]:
    scene = draw_scene(rng)
    form = rng.choice(_FIRST)
    wish = ""
    if "{}" in form:
        while True:
            scene, wish = ask_for(draw_scene(rng), rng)
            if not scene.topic:
                break
    prompt = command(form.format(wish), rng)
    return scene, prompt if all(word in prompt for word in wish.split()) else form.format(wish)


def make_question_about_story(rng: random.Random) -> Example:
    """A story, and a question that it answers."""
    scene, prompt = _opening(rng)
    text = scene.told_freely(rng)
    words = scene.fields
    hero, pet, food = words["hero"], scene.pet, words["food"]
    group = len(scene.people) > 1
    thing = words["a_thing"]
    asks: list[tuple[tuple[str, ...], str]] = [
        ((f"Who did {hero} meet", "who else is in the story", "Which animal was in the story",
          "what animal was it",
          "Who else was there", "which animal is it about"), f"It was {words['a_pet']}."),
        (("What did they eat", "what did they eat in the end", "What food was there",
          "what was there to eat"),
         f"They ate {food}." if " ate " in text else f"There were {food}."),
        ((f"How many {scene.foods} were there", f"how many {scene.foods}",
          f"How many {scene.foods} did they have"),
         f"There were {scene.number} {scene.foods}."),
    ]  # fmt: skip
    if scene.people:
        asks.append(((("What were their names", "Who are the friends", "who is the story about") if group else
                      ("What was the child's name", "who is the story about", "Who is the hero",
                       "what is the name of the hero",
                       "What was the name", "Who was it about")),
                       f"{'They are' if group else 'It is'} {hero}."))  # fmt: skip
    if scene.place in text:
        asks.append((("Where was it", "where did it happen", f"Where was the {pet}", "where were they"),
                     f"It was {scene.place}."))  # fmt: skip
    if scene.pet_colour:
        asks.append(((f"What colour was the {pet}", f"which color did the {pet} have",
                      f"What color is the {pet}"),
                     f"The {pet} was {scene.pet_colour}."))  # fmt: skip
    if thing in text:
        asks.append((("What thing was in the story", f"what thing did {hero} have",
                      "which thing is it about"),
                     f"It was {thing}."))  # fmt: skip
    if scene.plot == "hungry":
        asks.append(((f"What did {hero} give the {pet}", f"what did {hero} give to the {pet}",
                      "What did the pet get"),
                     f"{words['Hero']} gave the {pet} {food}."))  # fmt: skip
    asks = [(forms, answer) for forms, answer in asks if _known(answer, text)]
    forms, answer = rng.choice(asks)
    return _conversation([prompt, question(rng.choice(forms), rng)], [text, answer], relation="from_story")


def _known(answer: str, story: str) -> bool:
    """Whether the words of an answer stand in the story; small ones need not."""
    small = {"It", "They", "There", "was", "were", "is", "are", "ate", "The", "the", "a", "an", "gave"}
    return all(word.strip(".") in story for word in answer.split() if word not in small)


def make_changed_story(rng: random.Random) -> Example:
    """Another story, or the same one longer or shorter."""
    scene, prompt = _opening(rng)
    kind = rng.randrange(4)
    if kind == 3:
        return _made_so(scene, prompt, rng)
    if kind == 0:
        other = draw_scene(rng)
        while other.plot == scene.plot or other.people == scene.people:
            other = draw_scene(rng)
        turn = command(rng.choice(_AGAIN), rng, plain=0.9)
        return _conversation([prompt, turn], [scene.told(5), other.told_freely(rng)], relation="another")
    short, long = scene.told(4), scene.told(8)
    if len(short.split()) == len(long.split()):
        return make_changed_story(rng)
    if kind == 1:
        turn = command(rng.choice(_LONGER), rng, plain=0.8)
        return _conversation([prompt, turn], [short, long], relation="longer")
    if rng.random() < 0.3:
        turn, length = rng.choice(_BRIEFER)
        brief = scene.briefly(length, rng)
        if brief:
            turn = command(turn, rng, plain=0.8)
            return _conversation([prompt, turn], [long, brief], relation="shorter", sentences=length)
    turn = command(rng.choice(_SHORTER), rng, plain=0.8)
    return _conversation([prompt, turn], [long, scene.told(3)], relation="shorter")


def _made_so(scene: Scene, prompt: str, rng: random.Random) -> Example:
    """Another story, with the ending or about what the second turn asks for."""
    other = draw_scene(rng)
    while other.plot == scene.plot or other.people == scene.people:
        other = draw_scene(rng)
    if rng.random() < 0.45:
        other = replace(other, ending=rng.choice(MOODS))
        turn = rng.choice(_MOOD).format(other.ending)
    else:
        other, wish = ask_for(other, rng)
        turn = rng.choice(_ABOUT).format(wish)
    said = command(turn, rng, plain=0.9)
    said = said if all(word in said for word in turn.split()[1:]) else turn
    return _conversation(
        [prompt, said], [scene.told(5), other.told_freely(rng)], relation="another", **other.truths
    )


def make_memory(rng: random.Random) -> Example:
    """A name, a thing or a number that was said one or two turns ago; a list sorted the other way."""
    kind = rng.randrange(5)
    if kind == 0:
        name = any_name(rng)
        turns = [
            rng.choice(("My name is {}.", "I am {}.", "hi, i am {}", "Hello, my name is {}")).format(name)
        ]
        answers = [f"Nice to meet you, {name}!"]
        if rng.random() < 0.4:
            saying = make_saying(rng)
            turns += saying.entry["messages"]
            answers += saying.answers
        turns.append(question(rng.choice(("What is my name", "what's my name", "who am I",
                                          "Do you remember my name",
                                          "do you know my name", "what did I say my name is")),
                                          rng))  # fmt: skip
        return _conversation(turns, [*answers, f"Your name is {name}."], all=[name])
    if kind == 1:
        example = make_sorted_numbers(rng)
        down = example.entry["order"] == "up"
        answer = ", ".join(sorted(example.entry["items"], key=int, reverse=down))
        turn = rng.choice(("and now the other way round", "now in reverse order", "reverse that",
                           "other way round",
                           "now the other way", "reverse it",
                           "backwards please")) if rng.random() < 0.5 else (
            rng.choice(("now descending", "from big to small", "largest first") if down else
                       ("now ascending", "from small to big", "smallest first")))  # fmt: skip
        return _conversation([*example.entry["messages"], turn], [*example.answers, answer], judge="sort",
                             items=example.entry["items"], order="down" if down else "up")  # fmt: skip
    if kind == 2:
        a, b, c = rng.randint(1, 40), rng.randint(1, 40), rng.randint(1, 15)
        total, sign = a + b, rng.choice("+-")
        more = total + c if sign == "+" else total - c
        if more < 0:
            return make_memory(rng)
        forms = ("plus {}", "add {}", "and plus {}", "now add {}", "+ {}", "+{}") if sign == "+" else (
            "minus {}", "subtract {}", "and minus {}", "take away {}", "- {}")  # fmt: skip
        first = rng.choice(("{}+{}", "What is {} + {}?", "{} plus {}")).format(a, b)
        return _conversation(
            [first, rng.choice(forms).format(c)], [str(total), str(more)], judge="count", number=more
        )
    if kind == 3:
        name, thing = any_name(rng), rng.choice(("cat", "dog", "fox", "hat", "kite", "boat", "bear", "book"))
        first = f"{name} has {with_article(thing)}."
        turn = rng.choice(
            (f"Who has the {thing}?", f"What does {name} have?", f"who has {with_article(thing)}")
        )
        answer = f"{name} has {with_article(thing)}."
        return _conversation([first, turn], ["All right.", answer], all=[name, thing])
    saying, other = make_saying(rng), make_saying(rng)
    return _conversation([*saying.entry["messages"], *other.entry["messages"]], [saying.answer, other.answer],
                         may_decline=True)  # fmt: skip


def make_later(rng: random.Random, other: Callable[[random.Random], Example]) -> Example:
    """Any example behind one or two turns that have nothing to do with it."""
    example = other(rng)
    if example.history or example.tools or example.spelled:
        return example
    turns: list[str] = []
    answers: list[str] = []
    for _ in range(rng.choice((1, 1, 2))):
        saying = make_saying(rng)
        turns += saying.entry["messages"]
        answers += saying.answers
    entry: Any = {**example.entry, "messages": [*turns, *example.entry["messages"]]}
    return replace(example, entry=entry, answers=[*answers, *example.answers])
