"""Decisions about a text: yes or no, a choice, a score; as dgguf decide asks, and as people type it."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_uppercase

from tools.demo.example import Example, one
from tools.demo.stories import draw_scene
from tools.demo.words import ANIMALS, COLOURS, FOODS, NAMES, THINGS, any_word, with_article

_GOOD = ("I love this {}", "The {} is great", "What a wonderful {}", "I am very happy with the {}",
         "The {} works perfectly", "This is the best {} I ever had", "Thank you for the beautiful {}",
         "My children like the {} very much", "The {} came early and I am glad")  # fmt: skip
_BAD = ("I hate this {}", "The {} is terrible", "What an awful {}", "I am very unhappy with the {}",
        "The {} is broken again", "This is the worst {} I ever had", "I want my money back for the {}",
        "My children do not like the {} at all", "The {} came late and I am angry")  # fmt: skip
_ADJECTIVES = {
    True: ("great", "wonderful", "excellent", "amazing", "perfect", "fantastic", "beautiful", "lovely",
           "nice", "awesome", "brilliant", "good", "very good", "so kind", "delicious", "helpful", "fun",
           "easy to use", "a pleasure", "better than I thought", "worth every penny"),
    False: ("terrible", "awful", "horrible", "bad", "very bad", "poor", "disgusting", "boring", "ugly",
            "useless", "slow", "rude", "dirty", "a disaster", "disappointing", "too loud", "broken",
            "hard to use", "a waste of money", "worse than I thought", "much too expensive"),
}  # fmt: skip
_FELT = {
    True: ("I love {}", "I really like {}", "I enjoyed {}", "I am happy with {}", "Thanks for {}",
           "I would buy {} again", "Everybody should have {}", "{} made my day", "I recommend {}",
           "What a joy: {}"),
    False: ("I hate {}", "I do not like {}", "I am angry about {}", "I am not happy with {}",
            "I will never buy {} again", "Nobody should buy {}", "{} ruined my day", "I want a refund for {}",
            "I am disappointed by {}", "What a shame: {}"),
}  # fmt: skip
_SEEN = ("film", "game", "hotel", "pizza", "soup", "phone", "movie", "food", "service", "room", "app",
         "concert", "restaurant", "teacher", "waiter", "weather", "dinner", "staff")  # fmt: skip
_TOPICS = {
    "billing": ("I was charged twice for the {}", "The invoice for my {} is wrong",
                "How can I pay for the {}",
                "I want a refund for the {}", "My card was not accepted",
                "Why is the bill for the {} so high"),
    "shipping": ("My {} has not arrived", "Where is my parcel with the {}",
                 "The {} was sent to the wrong house",
                 "When will the {} be delivered", "Can you ship the {} to Spain", "The package was lost"),
    "technical": ("My {} does not turn on", "The app crashes when I open it", "I cannot log in",
                  "The {} is broken",
                  "There is an error on the screen", "The {} makes a strange noise"),
    "sales": ("I want to buy ten of the {}", "Do you have the {} in blue", "How much does the {} cost",
              "Is there a discount for the {}", "I would like an offer for the {}", "Which {} should I buy"),
}  # fmt: skip
_URGENT = {
    "low": ("There is no hurry", "Whenever you have time", "It can wait",
            "Just a small question about the {}"),
    "medium": ("Please answer this week", "I need the {} soon", "It would be good to know by Friday"),
    "high": ("This is urgent", "I need help right now", "Please answer at once", "Everything is on fire",
             "The house is full of water"),
}  # fmt: skip
_QUESTION = {
    "topic": ("What is it about?", "Which team should take it?", "Who should answer?", "What is the topic?",
              "Where does it belong?"),
    "mood": ("Is the customer happy?", "Is this positive?", "Does the writer like it?",
             "Is it a good review?"),
    "urgency": ("How urgent is it?", "How urgent?", "urgency"),
}  # fmt: skip


@dataclass(frozen=True)
class Question:
    """About a state; options () for yes or no, ordered levels with `score`."""

    text: str
    options: tuple[str, ...]
    answer: str
    score: bool = False


def _mail(rng: random.Random) -> tuple[str, list[Question]]:
    thing = rng.choice(THINGS)
    topic = rng.choice(tuple(_TOPICS))
    level = rng.choice(tuple(_URGENT))
    parts = [rng.choice(_TOPICS[topic]).format(thing), rng.choice(_URGENT[level]).format(thing)]
    text = ". ".join(parts) + "."
    if rng.random() < 0.3:
        text = f"{rng.choice(('Hello', 'Hi', 'Dear team'))}, {text[0].lower()}{text[1:]} {rng.choice(NAMES)}"
        text = text.replace(", i ", ", I ")
    topics = list(_TOPICS)
    rng.shuffle(topics)
    kept = [t for t in topics if t == topic or rng.random() < 0.7]
    kept = kept if len(kept) > 1 else topics[:2] if topic in topics[:2] else [topic, topics[0]]
    other = rng.choice(topics)
    questions = [
        Question(rng.choice(_QUESTION["topic"]), tuple(kept), topic),
        Question(f"Is it about {other}?", (), "yes" if other == topic else "no"),
        Question(rng.choice(_QUESTION["urgency"]), tuple(_URGENT), level, score=True),
        Question("Is it urgent?", (), "yes" if level == "high" else "no"),
    ]
    if level == "medium":
        questions.pop()
    return text, questions


def _opinion(good: bool, rng: random.Random) -> str:
    """A sentence of praise or blame, without its mark."""
    thing = rng.choice((*THINGS, *_SEEN, any_word(rng)) if rng.random() < 0.5 else _SEEN)
    kind = rng.random()
    if kind < 0.35:
        return rng.choice(_GOOD if good else _BAD).format(thing)
    if kind < 0.55:
        text = rng.choice(_FELT[good]).format(rng.choice((f"this {thing}", f"the {thing}")))
    else:
        words = list(_ADJECTIVES[good])
        first, second = rng.sample(words, 2)
        form = rng.choice(("The {thing} was {a}", "The {thing} is {a}", "This {thing} is {a} and {b}",
                           "The {thing} was {a} and {b}", "{a}, just {a}", "It was {a}", "Really {a}",
                           "The {thing} was {a}, I was surprised"))  # fmt: skip
        text = form.format(thing=thing, a=first, b=second)
    return text[0].upper() + text[1:]


def _review(rng: random.Random) -> tuple[str, list[Question]]:
    good = rng.random() < 0.5
    text = _opinion(good, rng) + rng.choice((".", "!", "."))
    options = rng.choice(
        (("positive", "negative"), ("negative", "positive"), ("good", "bad"), ("happy", "angry"))
    )
    right = next(o for o in options if (o in ("positive", "good", "happy")) == good)
    return text, [
        Question(rng.choice(_QUESTION["mood"]), (), "yes" if good else "no"),
        Question(rng.choice(("What is the mood?", "How does it sound?", "Which one is it?",
                             "What is the tone?")),
                 options, right),
        Question("Is it a complaint?", (), "no" if good else "yes"),
    ]  # fmt: skip


def _facts(rng: random.Random) -> tuple[str, list[Question]]:
    names, colours = rng.sample(NAMES, 3), rng.sample(COLOURS, 3)
    things = rng.sample((*THINGS, *ANIMALS), 3)
    n = rng.randint(1, 3)
    has = [
        f"{who} has {with_article(f'{c} {t}')}."
        for who, c, t in zip(names[:n], colours, things, strict=False)
    ]
    i = rng.randrange(n)
    other = rng.choice(things)
    colour = rng.choice(colours)
    questions = [
        Question(f"Does {names[i]} have {with_article(other)}?", (), "yes" if other == things[i] else "no"),
        Question(f"Is the {things[i]} {colour}?", (), "yes" if colour == colours[i] else "no"),
        Question(f"Who has the {things[i]}?", tuple(rng.sample(names, 3)), names[i]),
        Question(f"What colour is the {things[i]}?", tuple(rng.sample(colours, 3)), colours[i]),
        Question(f"What does {names[i]} have?", tuple(rng.sample(things, 3)), things[i]),
        Question(f"Is there {with_article(other)}?", (), "yes" if other in things[:n] else "no"),
    ]
    return " ".join(has), questions


def _numbers(rng: random.Random) -> tuple[str, list[Question]]:
    name, n, m = rng.choice(NAMES), rng.randint(1, 30), rng.randint(1, 30)
    food = rng.choice(FOODS[:12])
    while n == m:
        m = rng.randint(1, 30)
    return f"{name} has {n} {food}.", [
        Question(f"Does {name} have more than {m} {food}?", (), "yes" if n > m else "no"),
        Question(f"Does {name} have {n if m % 2 else m} {food}?", (), "yes" if m % 2 else "no"),
        Question(f"Are there less than {m} {food}?", (), "yes" if n < m else "no"),
        Question(
            f"How many {food}?",
            tuple(map(str, rng.sample(sorted({n, m, n + 1}), 2 + (abs(n - m) > 1)))),
            str(n),
        ),
    ]


def _story(rng: random.Random) -> tuple[str, list[Question]]:
    scene = draw_scene(rng)
    text = scene.told(4)
    name, pet = scene.people[0], scene.pet
    other, stranger = rng.choice(ANIMALS), rng.choice(NAMES)
    return text, [
        Question(f"Is there {with_article(other)} in the story?", (), "yes" if f" {other}" in text else "no"),
        Question(f"Is {stranger} in the story?", (), "yes" if stranger in text else "no"),
        Question("Who is the story about?", tuple(rng.sample(sorted({name, stranger, "Max", "Zoe"}), 4))
                 if len({name, stranger, "Max", "Zoe"}) == 4 else (name, "Nobody"), name),
        Question("Which animal is in it?", tuple(rng.sample(sorted({pet, *ANIMALS[:2]}),
                                                            len({pet, *ANIMALS[:2]}))), pet),
    ]  # fmt: skip


_POOLS = (COLOURS, NAMES, THINGS, ANIMALS, FOODS, _SEEN)


def _named(rng: random.Random) -> tuple[str, list[Question]]:
    """Something that is said outright: what is left to learn is which letter stands before it."""
    options = rng.sample(rng.choice(_POOLS), rng.randint(2, 5))
    right = rng.choice(options)
    form = rng.choice(("It is {}.", "{}", "The answer is {}.", "We chose {}.", "I would like {}, please.",
                       "{} it is.", "Not the others: {}."))  # fmt: skip
    asked = rng.choice(("Which one is it?", "Which one?", "What is it?", "What was said?", "Which is meant?"))
    return form.format(right), [Question(asked, tuple(options), right)]


STATES = (_mail, _mail, _review, _facts, _facts, _numbers, _story, _named, _named)
_LETTER = {
    False: "Answer with the letter of one option only.",
    True: "Answer with the letter of one level only.",
}
_JOINT = 'Answer each question on a line of its own, as in "1: A", and write nothing else.'


def _can_be_answered(question: Question) -> bool:
    return not question.options or question.answer in question.options


def _lettered(options: Sequence[str]) -> list[str]:
    return [f"{letter}) {option}" for letter, option in zip(ascii_uppercase, options, strict=False)]


def draw(rng: random.Random) -> tuple[str, Question]:
    """A text and a question whose answer stands among its options."""
    while True:
        state, questions = rng.choice(STATES)(rng)
        question = rng.choice(questions)
        if _can_be_answered(question):
            return state, question


def draw_several(rng: random.Random) -> tuple[str, list[Question]]:
    """A text and two to four questions."""
    while True:
        state, questions = rng.choice(STATES)(rng)
        fitting = list(filter(_can_be_answered, questions))
        if len(fitting) > 1:
            return state, rng.sample(fitting, min(len(fitting), rng.randint(2, 4)))


def make_decision(rng: random.Random) -> Example:
    """Just as dgguf/decisions/prompts.py asks."""
    return _asked(*draw(rng), rng)


def make_lettered(rng: random.Random) -> Example:
    """Which letters stand before some words, or which words behind some letters: that step alone."""
    if rng.random() < 0.35:
        state, (question,) = _named(rng)
        return _asked(state, question, rng)
    options = rng.sample(rng.choice((*_POOLS, [*COLOURS, *ANIMALS, *NAMES])), rng.randint(3, 6))
    wanted = rng.sample(range(len(options)), rng.randint(2, len(options)))
    words, letters = [options[i] for i in wanted], [ascii_uppercase[i] for i in wanted]
    lines = "\n".join(_lettered(options))
    by_word = rng.random() < 0.7
    named, answers = (words, letters) if by_word else (letters, words)
    which = "Which letters stand before" if by_word else "What stands behind"
    asked, answer = f"{which} {', '.join(named[:-1])} and {named[-1]}?", ", ".join(answers)
    prompt = f"{lines}\n{asked}" if rng.random() < 0.5 else f"{asked}\n{lines}"
    return one("decide", prompt, answer, choices=[answer], answer=answer)


def _asked(state: str, question: Question, rng: random.Random) -> Example:
    if not question.options:
        how = rng.choice(("yes or no", "yes or no", "yes or no", "no or yes"))
        prompt = f"{state}\n\n{question.text}\nAnswer {how} only."
        return one("decide", prompt, question.answer, choices=["yes", "no"], answer=question.answer)
    options = list(question.options)
    if question.score and rng.random() < 0.3:
        options.reverse()
    letters = ascii_uppercase[: len(options)]
    prompt = f"{state}\n\n" + "\n".join([question.text, *_lettered(options), _LETTER[question.score]])
    answer = letters[options.index(question.answer)]
    return one("decide", prompt, answer, choices=list(letters), answer=answer)


def make_joint_decision(rng: random.Random) -> Example:
    """Several questions about a text in one canvas, just as dgguf/decisions/prompts.py asks them."""
    state, questions = draw_several(rng)
    lines, answers = [], []
    for i, question in enumerate(questions, 1):
        letters = ascii_uppercase[: len(question.options)]
        lines += [f"{i}. {question.text}" if letters else f"{i}. {question.text} (yes or no)"]
        lines += _lettered(question.options)
        label = letters[question.options.index(question.answer)] if letters else question.answer
        answers.append(f"{i}: {label}")
    prompt, answer = f"{state}\n\n" + "\n".join([*lines, _JOINT]), "\n".join(answers)
    return one("decide", prompt, answer, choices=[answer], answer=answer)


def make_typed_decision(rng: random.Random) -> Example:
    """The same as somebody types it."""
    state, question = draw(rng)
    options = list(question.options) or ["yes", "no"]
    choice = f"{', '.join(options[:-1])} or {options[-1]}"
    short = question.text.rstrip("?")
    form = rng.choice((
        "{state} {question}", "{question} {state}", "{question} {choice}?\n{state}", "{state}\n{question}",
        "Text: {state}\nQuestion: {question}\nAnswer: {choice}",
        "{state}\n\n{question} Answer with {choice}.",
        "{short}: {choice}? {state}", '"{state}" {question} ({choice})',
        "{question} Answer only {choice}.\n{state}",
        "Decide: {question} {choice}? {state}", "Read this: {state} {question} {choice}?",
        "{choice}: {question} {state}",
        "Classify as {choice}: {state}", 'Is this {choice}? "{state}"',
    ))  # fmt: skip
    named = "{choice}" in form
    if ("Classify" in form or "Is this" in form) and len(question.options) < 2:
        form = "{state} {question} Answer {choice}."
    elif (
        ("Classify" in form or "Is this" in form)
        and state[-1] != "!"
        and question.text not in (*_QUESTION["topic"], *_QUESTION["urgency"])
    ):
        form = "{state} {question} {choice}?"
    if not named and question.options:
        form = "{state} {question} {choice}?"
    prompt = form.format(state=state, question=question.text, choice=choice, short=short)
    return one("decide", prompt, question.answer, choices=options, answer=question.answer)


def make_rating(rng: random.Random) -> Example:
    """A number on a scale for a text."""
    good = rng.random() < 0.5
    text = _opinion(good, rng) + "."
    low, high = rng.choice(((1, 5), (1, 10), (0, 10), (1, 5)))
    form = rng.choice((
        "Rate this from {low} to {high}: {text}",
        "On a scale from {low} to {high}, how happy is the writer? {text}",
        '{text} Score from {low} to {high}?', "How positive is this, {low} to {high}? {text}",
        "Give a score between {low} and {high} for this review: {text}", "Rate the mood {low}-{high}: {text}",
    ))  # fmt: skip
    answer = str(high if good else low)
    return one("decide", form.format(low=low, high=high, text=text), answer, low=low, high=high)
