"""What a judge is given and what it says."""

from dataclasses import dataclass
from typing import Literal, NotRequired, TypedDict

Outcome = Literal["right", "wrong", "garbled", "refused"]


class Entry(TypedDict):
    """A line of prompts.jsonl: what is asked, and what a judge needs to know.

    Attributes:
        id: unique, never reused.
        kind: the row of the table that it counts in.
        messages: the user's turns; each is answered before the next, and the last answer is judged.
        judge: whose judge decides, where it is not the kind's.
        system, think: as in `Session.generate`.
        any, all, none: whole-word patterns ("fox|foxes") of which one, each and none must be in the answer.
        names, facts: of a story: kept as typed; patterns that must be found.
        sentences, most_sentences, least_sentences, most_words: lengths that were asked for.
        dialogue: somebody must speak, in quotes.
        grid: a Sudoku's givens, row by row, dots for empty cells; solvable: false if there is no solution.
        items, order: what is to be sorted or taken as a sequence; "up" or "down".
        text: what is to be reversed; unit: "letters" or "words".
        number: the result; sequence: the numbers in order.
        value: the JSON that must come; values: what it must hold under keys of the model's choice.
        choices, answer, low, high: of a decision.
        before, after, accept: the sentence around the hole, and the words that fit.
        topic, form, rhyme: of a poem: a pattern, its kind, and for "word" the word to rhyme with.
        relation: of a follow-up: "another", "longer", "shorter" or "from_story".
        upper: the answer must be in capitals; end: how it must end; may_decline: saying no is no refusal.
    """

    id: str
    kind: str
    messages: list[str]
    judge: NotRequired[str]
    system: NotRequired[str]
    think: NotRequired[bool]
    any: NotRequired[list[str]]
    all: NotRequired[list[str]]
    none: NotRequired[list[str]]
    names: NotRequired[list[str]]
    facts: NotRequired[list[str]]
    sentences: NotRequired[int]
    most_sentences: NotRequired[int]
    least_sentences: NotRequired[int]
    most_words: NotRequired[int]
    dialogue: NotRequired[bool]
    grid: NotRequired[str]
    solvable: NotRequired[bool]
    items: NotRequired[list[str]]
    order: NotRequired[Literal["up", "down"]]
    text: NotRequired[str]
    unit: NotRequired[Literal["letters", "words"]]
    number: NotRequired[int]
    sequence: NotRequired[list[int]]
    value: NotRequired[object]
    values: NotRequired[list[str | int]]
    choices: NotRequired[list[str]]
    answer: NotRequired[str]
    low: NotRequired[int]
    high: NotRequired[int]
    before: NotRequired[str]
    after: NotRequired[str]
    accept: NotRequired[list[str]]
    topic: NotRequired[str]
    form: NotRequired[Literal["haiku", "couplet", "poem", "word"]]
    rhyme: NotRequired[str]
    relation: NotRequired[Literal["another", "longer", "shorter", "from_story"]]
    upper: NotRequired[bool]
    end: NotRequired[str]
    may_decline: NotRequired[bool]


@dataclass(frozen=True)
class Verdict:
    """What an answer is, and why if it is not right."""

    outcome: Outcome
    reason: str = ""


RIGHT = Verdict("right")


def wrong(reason: str) -> Verdict:
    """An answer to the point that is not correct."""
    return Verdict("wrong", reason)


def noise(reason: str) -> Verdict:
    """An answer that is not readable as what was asked for."""
    return Verdict("garbled", reason)
