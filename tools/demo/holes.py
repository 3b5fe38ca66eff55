"""Filling holes: a blank in a sentence, and whole texts as dgguf/fill.py asks for them."""

import random

from tools.demo.example import Example, one
from tools.demo.phrasing import command
from tools.demo.stories import draw_scene
from tools.demo.words import ANIMALS, COLOURS, FOODS, NAMES, NUMBERS, THINGS, with_article

FILL_PROMPT = "Write this text."
# Before the hole, behind it, and what fits, the usual word first.
COMMON = (
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
    ("The opposite of black is", "", "white"), ("The opposite of good is", "", "bad"),
    ("The opposite of open is", "", "closed"), ("The opposite of fast is", "", "slow"),
    ("The opposite of left is", "", "right"), ("The opposite of yes is", "", "no"),
    ("The opposite of wet is", "", "dry"), ("The opposite of tall is", "", "short"),
    ("The opposite of light is", "", "dark"), ("The opposite of in is", "", "out"),
    ("The opposite of full is", "", "empty"), ("The opposite of loud is", "", "quiet"),
    ("The opposite of young is", "", "old"), ("The opposite of strong is", "", "weak"),
    ("Bananas are", "", "yellow"), ("Tomatoes are", "", "red"), ("Carrots are", "", "orange"),
    ("The sea is", "", "blue"), ("An apple is", "", "red"), ("Leaves are", "", "green"),
    ("A frog is", "", "green"), ("The sun is very", "", "hot"), ("A turtle is", "", "slow"),
    ("An elephant is very", "", "big"), ("A mouse is very", "", "small"), ("Honey is", "", "sweet"),
    ("Lemons taste", "", "sour"), ("A stone is", "", "hard"), ("Water is", "", "wet"),
    ("A sheep says", "", "baa"), ("A duck says", "", "quack"), ("A cow says", "", "moo"),
    ("A pig says", "", "oink"), ("The dog likes to chase the", "", "cat"),
    ("The cat chases the", "", "mouse"),
    ("Cats like to drink", "", "milk"), ("A spider has", "legs", "eight"), ("A cat has four", "", "legs"),
    ("An insect has", "legs", "six"), ("A hand has five", "", "fingers"), ("I have two", "", "hands"),
    ("We smell with our", "", "nose"), ("We eat with our", "", "mouth"), ("We walk on our", "", "feet"),
    ("I wear shoes on my", "", "feet"), ("I wear a hat on my", "", "head"), ("I comb my", "", "hair"),
    ("We cut paper with", "", "scissors"), ("We open the door with a", "", "key"),
    ("I eat soup with a", "", "spoon"), ("We sit on a", "", "chair"), ("We wash our hands with", "", "soap"),
    ("A clock shows the", "", "time"), ("A year has twelve", "", "months"), ("A day has", "hours", "24"),
    ("A triangle has", "sides", "three"), ("A square has", "sides", "four"),
    ("Three, two,", "", "one"), ("A, B,", "", "C"), ("Two, four, six,", "", "eight"),
    ("One plus one is", "", "two"), ("Three plus two is", "", "five"), ("Five minus two is", "", "three"),
    ("The day after Tuesday is", "", "Wednesday"), ("The day after Friday is", "", "Saturday"),
    ("The last month is", "", "December"), ("Christmas is in", "", "December"),
    ("In summer it is", "", "hot"), ("In winter it is", "", "cold"), ("In spring the", "bloom", "flowers"),
    ("In autumn the leaves", "", "fall"), ("The boat floats on the", "", "water"),
    ("The train runs on", "", "rails"), ("A plane flies in the", "", "sky"),
    ("The stars shine at", "", "night"),
    ("The sun rises in the", "", "morning"), ("The sun sets in the", "", "evening"),
    ("The rooster wakes us in the", "", "morning"), ("The dog wags its", "", "tail"),
    ("The baby drinks", "", "milk"), ("The bee flies to the", "", "flower"), ("Squirrels eat", "", "nuts"),
    ("The doctor helps sick", "", "people"), ("The teacher works at a", "", "school"),
    ("The cook works in the", "", "kitchen"), ("The children play in the", "", "garden"),
    ("Happy birthday to", "", "you"), ("How are", "today?", "you"), ("See you", "", "later"),
    ("Twinkle, twinkle, little", "", "star"), ("Salt and", "", "pepper"), ("Bread and", "", "butter"),
    ("Black and", "", "white"), ("Mother and", "", "father"), ("The king and the", "", "queen"),
    ("My favourite", "is blue", "colour"), ("I drink a glass of", "", "water"),
    ("She was so tired that she went to", "", "bed"), ("He was hungry, so he ate some", "", "bread"),
    ("I was thirsty, so I drank some", "", "water"), ("It is raining, so the street is", "", "wet"),
)  # fmt: skip
_BLANKS = ("___", "___", "____", "_____", "__", "[blank]", "[...]", "...", "_")
_ASKS = ("fill in the blank", "fill the gap", "complete the sentence", "fill in the missing word",
         "fill the hole",
         "which word is missing", "what is the missing word", "fill in", "complete", "fill in the gap",
         "finish the sentence", "what goes in the blank", "find the missing word")  # fmt: skip


def make_blank(rng: random.Random) -> Example:
    """One word that is missing: known by heart, or said in the sentence before."""
    if rng.random() < 0.6:
        before, after, word = rng.choice(COMMON)
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
        before, after, word = rng.choice(COMMON)
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
