"""Filling holes: a blank in a sentence, and whole texts as dgguf/fill.py asks for them."""

import random

from tools.demo.example import Example, one
from tools.demo.phrasing import command
from tools.demo.stories import draw_scene
from tools.demo.words import ANIMALS, COLOURS, FOODS, NAMES, NUMBERS, THINGS, with_article

FILL_PROMPT = "Write this text."
# Before the hole, behind it, and what fits, the usual word first.
_COMMON = (
    ("The sky is", "", "blue"), ("The grass is", "", "green"), ("Snow is", "", "white"),
    ("The sun is", "", "yellow"),
    ("A lemon is", "", "yellow"), ("Blood is", "", "red"), ("Coal is", "", "black"), ("Milk is", "", "white"),
    ("The night is", "", "dark"), ("Fire is", "", "hot"), ("Ice is", "", "cold"), ("Sugar is", "", "sweet"),
    ("Birds can", "", "fly"), ("Fish can", "", "swim"), ("A cat says", "", "meow"),
    ("A dog says", "", "woof"),
    ("A cow gives", "", "milk"), ("Bees make", "", "honey"), ("Hens lay", "", "eggs"),
    ("We read a", "", "book"),
    ("I sleep in my", "", "bed"), ("We drink", "from a cup", "tea"), ("I write with a", "", "pen"),
    ("At night we see the moon and the", "", "stars"), ("One, two,", "", "three"), ("One, two, three,", "",
                                                                                    "four"),
    ("Two plus two is", "", "four"), ("The opposite of big is", "", "small"), ("The opposite of hot is", "",
                                                                               "cold"),
    ("The opposite of day is", "", "night"), ("The opposite of up is", "", "down"),
    ("The opposite of old is", "", "new"),
    ("The opposite of happy is", "", "sad"), ("A week has", "days", "seven"), ("A dog has", "legs", "four"),
    ("A bird has two", "", "wings"), ("A car has four", "", "wheels"), ("We see with our", "", "eyes"),
    ("We hear with our", "", "ears"), ("Once upon a", "", "time"), ("Good", ", how are you today?",
                                                                    "morning"),
    ("Thank", "very much", "you"), ("The cat sat on the", "", "mat"), ("The mouse eats", "", "cheese"),
    ("The baker makes", "", "bread"), ("In winter there is", "on the ground", "snow"), ("The farmer has a",
                                                                                        "", "farm"),
    ("The king lives in a", "", "castle"), ("The fish lives in the", "", "water"), ("The bird sits in the",
                                                                                    "", "tree"),
    ("The sun shines during the", "", "day"), ("The moon shines at", "", "night"),
    ("I brush my", "", "teeth"),
    ("She reads a", "before she sleeps", "book"), ("He opened the", "and went in", "door"),
    ("Bears like", "", "honey"),
    ("Rabbits eat", "", "carrots"), ("Monkeys eat", "", "bananas"), ("Roses are", "", "red"),
    ("Violets are", "", "blue"),
    ("The pirate sails on a", "", "ship"), ("The knight rides a", "", "horse"), ("The first month is", "",
                                                                                 "January"),
    ("The day after Monday is", "", "Tuesday"), ("The day before Sunday is", "", "Saturday"),
    ("I put on my hat because it was", "outside", "cold"), ("When it rains I take my", "", "umbrella"),
)  # fmt: skip
_BLANKS = ("___", "___", "____", "_____", "__", "[blank]", "[...]", "...", "_")
_ASKS = ("fill in the blank", "fill the gap", "complete the sentence", "fill in the missing word",
         "fill the hole",
         "which word is missing", "what is the missing word", "fill in", "complete", "fill in the gap",
         "finish the sentence", "what goes in the blank", "find the missing word")  # fmt: skip


def make_blank(rng: random.Random) -> Example:
    """One word that is missing: known by heart, or said in the sentence before."""
    if rng.random() < 0.6:
        before, after, word = rng.choice(_COMMON)
    else:
        name, other = rng.sample(NAMES, 2)
        colour, thing, animal = rng.choice(COLOURS), rng.choice(THINGS), rng.choice(ANIMALS)
        number, food = rng.choice(NUMBERS), rng.choice(FOODS[:12])
        before, after, word = rng.choice((
            (f"{name} has {with_article(f'{colour} {thing}')}. The {thing} is", "", colour),
            (f"{name} has {with_article(thing)}. The", f"belongs to {name}", thing),
            (f"{name} gave the {animal} {number} {food}. The {animal} got", food, number),
            (f"{name} and {other} are friends. {name} likes", "", other),
            (f"The {animal} is {colour}. It is a", animal, colour),
            (f"{name} met {with_article(animal)}. The", "was very kind", animal),
            (f"{name} is here. Say hello to", "", name),
        ))  # fmt: skip
    blank = rng.choice(_BLANKS)
    end = rng.choice((".", ".", ""))
    gap = "" if after.startswith(",") or not after else " "
    prompt = command(
        rng.choice(_ASKS), rng, rng.choice((": ", ": ", ":\n", " ")) + f"{before} {blank}{gap}{after}{end}"
    )
    if rng.random() < 0.15:
        prompt = f"{before} {blank}{gap}{after}{end}"
    return one("fill", prompt, word, before=before, after=after.strip(" ,"), accept=[word])


def make_text(rng: random.Random) -> Example:
    """A text to be written with pieces given: the training keeps some of its tokens."""
    kind = rng.random()
    name, other = rng.sample(NAMES, 2)
    if kind < 0.6:
        text = draw_scene(rng).told(rng.randint(3, 7))
    elif kind < 0.8:
        before, after, word = rng.choice(_COMMON)
        gap = "" if after.startswith(",") or not after else " "
        text = f"{before} {word}{gap}{after}."
    else:
        text = rng.choice((
            f"Dear {name}, thank you for the {rng.choice(COLOURS)} {rng.choice(THINGS)}. Bye! {other}",
            f"{name} has {with_article(rng.choice(THINGS))}, {other} {with_article(rng.choice(ANIMALS))}.",
            f"Dear {name}, please bring {rng.choice(NUMBERS)} {rng.choice(FOODS)} to my party. Your {other}",
            f"{name} likes {rng.choice(FOODS)}, but {other} likes {rng.choice(FOODS)}.",
        ))  # fmt: skip
    prompt = FILL_PROMPT if rng.random() < 0.7 else command("write this text", rng)
    return one("text", prompt, text)
