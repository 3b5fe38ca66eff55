"""The words that examples are made of."""

import random

BOYS = (
    "Tom", "Ben", "Max", "Leo", "Sam", "Jack", "Finn", "Paul", "Noah", "Tim", "Oscar", "Adam", "Bob", "Peter",
    "John", "Luca", "Kenji", "Omar", "Ravi", "Ivan", "Carlos", "Ali", "Henry", "James", "David", "Daniel",
    "Lukas", "Hugo", "Marco", "Yusuf", "Jonas", "Felix", "Theo", "Will", "Harry", "Liam",
)  # fmt: skip
GIRLS = (
    "Mia", "Anna", "Lily", "Emma", "Zoe", "Eva", "Nina", "Ruby", "Ella", "Lucy", "Clara", "Rosa", "Alice",
    "Sofia", "Maria", "Sara", "Laura", "Julia", "Amina", "Priya", "Yuki", "Ines", "Olga", "Fatima", "Elena",
    "Chloe", "Hannah", "Grace", "Ida", "Nora", "Kate", "Jane", "Mary", "Lena", "Aisha", "Olivia",
)  # fmt: skip
NAMES = BOYS + GIRLS
# Their letters beyond ASCII are tokens of bytes.
ACCENTED = ("José", "Zoë", "Jürgen", "Łukasz", "Chloé", "Søren", "Åsa", "Renée", "Jörg", "Zoé", "Óscar",
            "Şule", "Noël", "Ayşe", "Tomáš", "Agnès", "Héctor", "Žiga", "André", "Björn")  # fmt: skip
COLOURS = ("red", "blue", "green", "yellow", "white", "black", "brown", "purple", "pink", "grey", "orange",
           "golden", "silver")  # fmt: skip
# What each of them likes to eat, and where it lives.
FOOD_OF = {
    "cat": "fish", "dog": "bones", "fox": "berries", "bear": "berries", "owl": "nuts", "mouse": "nuts",
    "horse": "apples", "frog": "plums", "rabbit": "carrots", "duck": "seeds", "wolf": "cakes",
    "lion": "cakes", "tiger": "cookies", "monkey": "bananas", "bird": "seeds", "fish": "seeds",
    "cow": "apples", "pig": "pears", "sheep": "apples", "hen": "seeds", "turtle": "plums",
    "penguin": "fish", "dragon": "cakes", "robot": "cookies", "elephant": "bananas", "goat": "carrots",
    "bee": "plums", "snake": "pears", "squirrel": "nuts", "hedgehog": "apples", "whale": "fish",
    "dolphin": "fish", "crab": "berries", "parrot": "nuts", "donkey": "carrots", "kitten": "cakes",
    "puppy": "bones", "ant": "cookies", "spider": "berries", "giraffe": "pears", "unicorn": "apples",
    "ghost": "cookies", "monster": "cakes", "snail": "plums", "butterfly": "berries", "deer": "carrots",
    "chicken": "seeds", "crow": "nuts", "seal": "fish", "zebra": "carrots", "panda": "pears",
}  # fmt: skip
ANIMALS = tuple(FOOD_OF)
FOODS = ("apples", "pears", "cakes", "plums", "nuts", "berries", "carrots", "cookies", "bananas", "seeds",
         "fish", "bones", "cherries", "eggs", "pancakes")  # fmt: skip
ROLES = ("knight", "pirate", "king", "queen", "princess", "prince", "wizard", "witch", "farmer", "sailor",
         "baker", "teacher", "astronaut", "doctor", "giant", "fairy", "clown", "painter")  # fmt: skip
THINGS = ("ball", "hat", "kite", "book", "boat", "box", "bell", "lamp", "drum", "cup", "key", "shell", "ring",
          "coat", "map", "scarf", "balloon", "bike", "clock", "flute", "sword", "umbrella", "crown",
          "button", "shoe", "spoon", "car", "train", "teapot", "lantern", "stone", "bag")  # fmt: skip
NUMBERS = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
# A topic, and where a story about it happens.
PLACE_OF = {
    "river": "by the river", "forest": "in the forest", "hill": "on the hill", "garden": "in the garden",
    "school": "near the school", "sea": "by the sea", "house": "behind the house", "tree": "under a tree",
    "island": "on a small island", "mountain": "on the mountain", "castle": "near the old castle",
    "farm": "on the farm", "city": "in the city", "beach": "on the beach", "lake": "by the lake",
    "moon": "on the moon", "desert": "in the desert", "village": "in the village", "park": "in the park",
    "snow": "in the snow", "market": "at the market", "ocean": "by the ocean", "cave": "in a dark cave",
    "bridge": "under the bridge", "kitchen": "in the kitchen", "library": "in the library",
    "zoo": "at the zoo", "ship": "on a big ship", "meadow": "in the meadow", "jungle": "in the jungle",
}  # fmt: skip
TOPICS = tuple(PLACE_OF)
NATURES = ("kind", "brave", "clever", "quiet", "cheerful", "curious")
MOODS = ("happy", "sad", "funny", "scary")
VERBS = ("run", "jump", "sing", "swim", "read", "sleep", "dance", "play", "walk", "cook", "draw", "laugh")
OBJECTS = (
    "table", "chair", "house", "door", "window", "garden", "apple", "bread", "water", "milk", "tea", "coffee",
    "music", "phone", "computer", "letter", "picture", "flower", "cloud", "star", "sun", "rain", "winter",
    "summer", "morning", "night", "school", "friend", "mother", "father", "brother", "sister", "baby",
    "banana", "cheese", "sugar", "pencil", "paper", "planet", "rocket", "guitar", "piano", "tomato",
    "pizza", "lemon", "cherry", "orange", "cookie", "cake", "soup", "butter", "honey", "money", "glass",
    "mirror", "pillow", "blanket", "candle", "basket", "bottle", "hammer", "ladder", "wheel", "engine",
    "strawberry", "elephant", "computer", "language", "keyboard", "mountain", "adventure", "chocolate",
)  # fmt: skip
_CONSONANTS, _VOWELS = "bcdfghjklmnprstvwz", "aeiou"


def with_article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' and not words.startswith('uni') else 'a'} {words}"


def made_up(rng: random.Random, shortest: int = 3, longest: int = 8) -> str:
    """A word that can be spoken and means nothing."""
    start = rng.randrange(2)
    length = rng.randint(shortest, longest)
    letters = [rng.choice((_CONSONANTS, _VOWELS)[(i + start) % 2]) for i in range(length)]
    if length > 4 and rng.random() < 0.4:
        i = rng.randrange(1, length - 1)
        letters[i] = letters[i - 1] if letters[i] in _CONSONANTS else letters[i]
    return "".join(letters)


def any_word(rng: random.Random, longest: int = 12) -> str:
    """A lower-case word: known, made up, or letters."""
    kind = rng.random()
    if kind < 0.5:
        pool = rng.choice((ANIMALS, COLOURS, THINGS, OBJECTS, OBJECTS, FOODS, ROLES, TOPICS, VERBS))
        word = rng.choice(pool)
        return word if len(word) <= longest else word[:longest]
    if kind < 0.9:
        return made_up(rng, 3, longest)
    return "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(2, longest)))


def any_name(rng: random.Random, known: float = 0.7) -> str:
    if rng.random() < known:
        return rng.choice(NAMES)
    return rng.choice(ACCENTED) if rng.random() < 0.1 else made_up(rng, 3, 8).capitalize()


def listed(parts: list[str]) -> str:
    """'a', 'a and b', 'a, b and c'."""
    return " and ".join((", ".join(parts[:-1]), parts[-1])) if len(parts) > 1 else parts[0]
