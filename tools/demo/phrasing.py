"""The ways in which people ask for the same thing."""

import random

_BEFORE = (
    "please ", "Please ", "can you ", "Can you ", "could you ", "Could you ", "can you please ",
    "Could you please ", "would you ", "Would you please ", "I want you to ", "I would like you to ",
    "i want you to ", "hey, ", "Hey, ", "hi, ", "Hello, ", "ok, ", "Now ", "now ", "I need you to ",
    "Would you mind to ", "Your task: ", "Hi! ",
)  # fmt: skip
_QUESTIONS = ("can", "could", "would")
_BEHIND = (", please", " please", " for me", ", thanks", " now", " for me please")
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


# Requests that begin so have no verb, and take no polite words before them.
_VERBLESS = {
    "a", "an", "another", "one", "two", "three", "story", "haiku", "poem", "what", "which", "how", "words",
    "rhyme", "more", "longer", "shorter", "again", "encore", "next", "and", "too", "that", "in", "backwards",
    "calculator", "largest", "smallest", "from", "now", "can", "i", "please", "do",
}  # fmt: skip


def typo(text: str, rng: random.Random) -> str:
    """One letter of a word left out, doubled, exchanged with the next, or another one."""
    places = [i for i in range(1, len(text) - 1) if text[i - 1 : i + 2].isalpha()]
    if not places:
        return text
    i = rng.choice(places)
    return rng.choice(
        (
            text[:i] + text[i + 1 :],
            text[:i] + text[i] + text[i:],
            text[:i] + text[i + 1] + text[i] + text[i + 2 :],
            text[:i] + rng.choice(_LETTERS) + text[i + 1 :],
        )
    )


def command(text: str, rng: random.Random, payload: str = "", *, plain: float = 0.4) -> str:
    """A request, said in one of many ways, with what it is about behind it, which stays as it is.

    Args:
        text: in lower case, in the imperative: "tell me a story".
        payload: "" for none; it begins with the space, colon or line's end that parts it from the text.
        plain: the share without any polite words around.
    """
    end = "."
    if rng.random() > plain:
        verbless = text.split()[0].lower() in _VERBLESS
        if (rng.random() < 0.65 or payload) and not verbless:
            before = rng.choice(_BEFORE)
            if before.strip().lower().startswith(_QUESTIONS):
                end = "?"
            text = before + text
        elif not payload:
            text += rng.choice(_BEHIND)
    kind = rng.random()
    if kind < 0.05 and len(text) < 60:
        text = text.upper()
    elif kind < 0.7:
        text = text[0].upper() + text[1:]
    if rng.random() < 0.06:
        text = typo(text, rng)
    if payload:
        return text + payload
    return text + rng.choice((end, end, end, "", "", "!" if end == "." else end))


def question(text: str, rng: random.Random, mark: str = "?") -> str:
    """A question or saying, given without its mark, in one of the ways in which people type it."""
    kind = rng.random()
    if kind < 0.04 and len(text) < 40:
        text = text.upper()
    elif kind < 0.3:
        text = text[0].lower() + text[1:] if not text.startswith("I ") else text
    if rng.random() < 0.05:
        text = typo(text, rng)
    return text + rng.choice((mark, mark, mark, "", "", "!" if mark == "." else mark))
