"""Haikus, couplets and rhymes."""

import random

from tools.demo.example import Example, one
from tools.demo.phrasing import command, question
from tools.demo.words import ANIMALS, OBJECTS, TOPICS, made_up
from tools.demo_eval.text_checks import rhymes

RHYMES = (
    ("cat", "hat", "bat", "mat", "rat"), ("dog", "frog", "log", "fog"), ("tree", "bee", "sea", "me", "tea"),
    ("moon", "spoon", "soon", "noon"), ("star", "car", "far", "jar"), ("night", "light", "bright", "kite"),
    ("day", "play", "way", "say", "may"), ("house", "mouse"), ("snow", "go", "grow", "slow"),
    ("rain", "train", "again", "plain"), ("fox", "box", "socks", "rocks"), ("bear", "chair", "hair", "air"),
    ("sing", "ring", "king", "spring", "wing"), ("sky", "fly", "high", "by"), ("bed", "red", "head", "bread"),
    ("fish", "dish", "wish"), ("sun", "fun", "run", "one"), ("book", "look", "cook"),
    ("ball", "tall", "fall", "wall"),
    ("cake", "lake", "make", "snake"), ("boat", "goat", "coat"), ("hen", "pen", "ten", "men"),
    ("pig", "big", "wig", "dig"), ("heart", "art", "part", "start"), ("love", "dove", "above"),
    ("blue", "you", "two", "new"), ("green", "queen", "seen"), ("time", "rhyme", "climb"),
    ("old", "gold", "cold"),
    ("ship", "trip", "lip"), ("cow", "now", "how"), ("ham", "jam"), ("dream", "cream", "team"),
    ("sand", "hand", "land"), ("duck", "luck", "truck"),
)  # fmt: skip
_COUPLETS = (
    "I saw {a} that came my way,\nand we were happy all the day.",
    "The little {x} was full of fun,\nit laughed and danced beneath the sun.",
    "Oh {x}, you are my heart's delight,\nI think of you by day and night.",
    "I sing of {x} and the deep blue sea,\nof the wind and the hill and the old oak tree.",
)
_VERSES = (
    "I saw {a} that came my way,\nit sang to me the whole long day.\n"
    "And when the sun had lost its light,\nthe {x} still shone in the quiet night.",
    "The {x} is here, the {x} is near,\nso let us sing for all to hear.\n"
    "The sky is high, the world is new,\nand all of this is here for you.",
)
_HAIKUS = (
    "The {x} is near\na soft wind goes through the trees\nand the night is still",
    "Look at the {x}\nit waits under the first stars\nthen the moon comes up",
)
# Two syllables, as the lines need.
_TWO = ("river", "garden", "winter", "summer", "morning", "ocean", "forest", "island", "mountain", "rabbit",
        "monkey", "robot", "dragon", "flower", "water", "tiger", "autumn", "village", "turtle",
        "penguin")  # fmt: skip
_FREE = {"love", "music", "winter", "summer", "rain", "snow", "water", "spring", "autumn", "night"}
_COUPLET_ASKS = ("write a couplet about {}", "write two lines that rhyme about {}", "make a rhyme about {}",
                 "write a short rhyme about {}", "two rhyming lines about {}",
                 "give me a couplet about {}")  # fmt: skip
_POEM_ASKS = ("write a poem about {}", "write a short poem about {}", "make a poem about {}",
              "tell me a poem about {}",
              "give me a poem about {}", "write me a little poem about {}",
              "compose a poem about {}")  # fmt: skip
_HAIKU_ASKS = ("write a haiku about {}", "a haiku about {}", "make a haiku about {}",
               "give me a haiku about {}",
               "haiku about {}", "compose a haiku on {}")  # fmt: skip
_BARE = {"couplet": ("write a rhyme", "make a rhyme", "write a couplet", "say something that rhymes"),
         "poem": ("write a poem", "poem", "a poem please", "tell me a poem", "write me a poem",
                  "make a poem"),
         "haiku": ("write a haiku", "haiku", "a haiku please", "can you write a haiku",
                   "make a haiku")}  # fmt: skip
_RHYME_ASKS = ("what rhymes with {}", "What rhymes with {}", "tell me a word that rhymes with {}",
               "a rhyme for {}",
               "find a rhyme for {}", "give me words that rhyme with {}", "which words rhyme with {}",
               "rhyme with {}", "name a word that rhymes with {}", "words that rhyme with {}")  # fmt: skip


def make_poem(rng: random.Random) -> Example:
    """About anything, for the rhymes do not touch it; a haiku about what has two syllables."""
    form = rng.choice(("haiku", "couplet", "poem", "word"))
    if form == "word":
        family = rng.choice(RHYMES)
        word = rng.choice(family)
        others = [other for other in family if rhymes(other, word)]
        if not others:
            return make_poem(rng)
        mark = rng.choice(("", "", '"', "'"))
        prompt = question(rng.choice(_RHYME_ASKS).format(f"{mark}{word}{mark}"), rng, "")
        if word not in prompt:
            prompt = f"What rhymes with {word}?"
        return one("poem", prompt, ", ".join(others[:3]), form="word", rhyme=word)
    texts = {"haiku": _HAIKUS, "couplet": _COUPLETS, "poem": _VERSES}[form]
    asks = {"haiku": _HAIKU_ASKS, "couplet": _COUPLET_ASKS, "poem": _POEM_ASKS}[form]
    pool = _TWO if form == "haiku" else (*ANIMALS, *OBJECTS, *TOPICS, *_FREE)
    topic = rng.choice(pool)
    if form != "haiku" and rng.random() < 0.12:
        topic = made_up(rng, 4, 7)
    a = topic if topic in _FREE else f"{'an' if topic[0] in 'aeiou' else 'a'} {topic}"
    text = rng.choice(texts).format(x=topic, a=a)
    text = text[0].upper() + text[1:]
    if rng.random() < 0.15:
        topic = "moon" if form != "haiku" else "river"
        a = f"a {topic}"
        return one("poem", command(rng.choice(_BARE[form]), rng), texts[0].format(x=topic, a=a), form=form)
    wish = rng.choice((a, topic, f"the {topic}"))
    prompt = command(rng.choice(asks).format(wish), rng)
    if topic not in prompt:
        prompt = asks[0].format(wish)
    return one("poem", prompt, text, form=form, topic=topic)
