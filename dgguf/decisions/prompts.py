"""What is asked: a state and a question become a prompt, a canvas, and the slots in which labels are read.

The format is the one that others use with DiffusionGemma (vLLM, transformers `serve`): the state, the
question with its lettered options, how to answer; then the empty thought block, which belongs to the prompt.
The canvas is the answer: noise in the slot, the end of the turn, pads.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from string import ascii_uppercase

import numpy as np

from dgguf.decisions.questions import Question
from dgguf.errors import PromptError, UnsupportedModelError
from dgguf.prompts import PromptEncoder
from dgguf.text.chat import THOUGHT_HEADER, Message
from dgguf.text.tokenizer import Tokenizer

CANVAS_UNIT = 16  # canvases are as long as they must be, rounded up to a multiple
_END_OF_TURN = "<turn|>"
_ANSWER = {
    "predicate": "Answer with the letter of one option only.",
    "choice": "Answer with the letter of one option only.",
    "score": "Answer with the letter of one level only.",
}
_JOINT = 'Answer each question on a line of its own, as in "1: A", and write nothing else.'

State = str | Sequence[Message]
Labels = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Slot:
    """A place in a canvas at which one question is answered.

    Attributes:
        question: its number in the request.
        place: in the canvas.
        labels: of each option the ids that stand for it, none in two.
    """

    question: int
    place: int
    labels: Labels


@dataclass(frozen=True)
class Read:
    """A prompt, and a canvas behind it of which some slots are read.

    Attributes:
        prompt: (P,) ids.
        canvas: (C,) ids; of the slots any.
        slots: in the order of their places.
    """

    prompt: np.ndarray
    canvas: np.ndarray
    slots: tuple[Slot, ...]


class DecisionPrompts:
    """Makes reads of questions about a state.

    Args:
        encoder: of prompts, through the model's chat template.
        tokenizer: of the model.
        canvas_length: of the model, the most that a canvas may have.
    """

    def __init__(self, encoder: PromptEncoder, tokenizer: Tokenizer, canvas_length: int) -> None:
        self._encoder = encoder
        self._tokenizer = tokenizer
        self._most = canvas_length
        self._known: dict[tuple[str, str], tuple[int, ...]] = {}

    def reads(
        self,
        state: State,
        questions: Sequence[Question],
        *,
        permute: bool,
        check: Callable[[Read], None] | None = None,
    ) -> list[Read]:
        """A read for each question, or one for each order of its options.

        Args:
            permute: of a choice every option stands once in every place; the rest is asked both ways round.
            check: is called with each read before the next is made, and may raise: a long state takes long.

        Raises:
            PromptError: the state is empty.
            UnsupportedModelError: a label is not one token of its own.
        """
        canvas, slot = self._canvas([""])
        found = []
        for i, question in enumerate(questions):
            for order in _orders(question) if permute else [tuple(range(_n_options(question)))]:
                text, labels = self._ask(question, order)
                prompt = self._prompt(state, text)
                found.append(Read(prompt, canvas, (Slot(i, int(slot[0]), labels),)))
                if check:
                    check(found[-1])
        return found

    def joint_read(self, state: State, questions: Sequence[Question]) -> Read:
        """One read for all questions, whose answers are lines of one canvas.

        Raises:
            PromptError: the state is empty, or the answers do not fit a canvas.
            UnsupportedModelError: a label is not one token of its own.
        """
        texts, slots = [], []
        before = [f"{'' if i == 0 else chr(10)}{i + 1}:" for i in range(len(questions))]
        canvas, places = self._canvas(before)
        for i, question in enumerate(questions):
            text, labels = self._ask(question, tuple(range(_n_options(question))), before[i])
            texts.append(f"{i + 1}. {text}")
            slots.append(Slot(i, int(places[i]), labels))
        return Read(self._prompt(state, "\n".join([*texts, _JOINT])), canvas, tuple(slots))

    def prefix(self, state: State, reads: Sequence[Read]) -> int:
        """How many ids of their prompts belong to the state: what all begin with, whatever is asked."""
        other = self._prompt(state, "?")
        return min(len(other) - self._n_behind, *(_common(other, read.prompt) for read in reads))

    @functools.cached_property
    def _n_behind(self) -> int:
        """Ids of a prompt from a question on that begins with "?", as others may, too."""
        one, other = self._prompt("state", "?"), self._prompt("state", "0")
        return len(one) - _common(one, other)

    def _prompt(self, state: State, text: str) -> np.ndarray:
        """Ids of a state and a text behind it, with the empty thought block exactly once at their end."""
        messages = [Message(role="user", content=state)] if isinstance(state, str) else list(state)
        last = messages[-1] if messages else None
        if not messages or (isinstance(state, str) and not state.strip()):
            raise PromptError("the state is empty: there is nothing to decide about")
        if isinstance(last, dict) and last.get("role") == "user" and isinstance(last.get("content"), str):
            messages[-1] = Message(role="user", content=f"{last['content'].strip()}\n\n{text}")
        else:
            messages.append(Message(role="user", content=text))
        ids = self._encoder.encode(messages).tolist()
        opened, closed = self._tokenizer.channel_open_id, self._tokenizer.channel_close_id
        if opened is not None and closed is not None:
            block = [opened, *self._tokenizer.encode(THOUGHT_HEADER), closed]
            if ids[-len(block) :] != block:  # the template of 2026-07 leaves it to the model
                ids += block
        return np.array(ids, np.int64)

    def _canvas(self, before: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """The canvas of an answer, and its slots, each behind one of these texts."""
        special = self._tokenizer.special
        end = special.get(_END_OF_TURN, self._tokenizer.eos_id)
        pad = self._tokenizer.pad_id if self._tokenizer.pad_id is not None else self._tokenizer.eos_id
        if end is None or pad is None:
            raise UnsupportedModelError("the model's vocabulary has no token that ends an answer")
        ids: list[int] = []
        slots = []
        for text in before:
            ids += self._tokenizer.encode(text) if text else []
            slots.append(len(ids))
            ids.append(pad)
        ids.append(end)
        length = min(self._most, -(-(len(ids) + 1) // CANVAS_UNIT) * CANVAS_UNIT)  # one pad at least
        if len(ids) >= length:
            raise PromptError(
                f"the answers to {len(before)} questions take {len(ids) + 1} positions, and the model's "
                f"canvas has {self._most}: ask fewer together, or each on its own"
            )
        return np.array(ids + [pad] * (length - len(ids)), np.int64), np.array(slots)

    def _ask(self, question: Question, order: tuple[int, ...], before: str = "") -> tuple[str, Labels]:
        """The text of a question with its options in an order, and the labels of each option.

        Args:
            before: the text before the slot, of an answer that is one of several lines.
        """
        words = ["yes", "no"]
        if question.kind == "predicate" and all(self._label_ids(word, before) for word in words):
            how = " or ".join(words[i] for i in order)
            text = f"{question.text} ({how})" if before else f"{question.text}\nAnswer {how} only."
            return text, self._labels(words, before)
        options = words if question.kind == "predicate" else _shown(question)
        lines = [f"{letter}) {options[i]}" for letter, i in zip(ascii_uppercase, order, strict=False)]
        answer = [] if before else [_ANSWER[question.kind]]
        letters = [ascii_uppercase[order.index(i)] for i in range(len(order))]
        return "\n".join([question.text, *lines, *answer]), self._labels(letters, before)

    def _labels(self, labels: list[str], before: str) -> Labels:
        """The ids of labels, with and without a space before them; of other texts other ids.

        Raises:
            UnsupportedModelError: one is not one token.
        """
        found = tuple(self._label_ids(label, before) for label in labels)
        for label, ids in zip(labels, found, strict=True):
            if not ids:
                raise UnsupportedModelError(
                    f"the label {label!r} is no token of its own in this model's vocabulary: it cannot be "
                    "read in one place"
                )
        return found

    def _label_ids(self, label: str, before: str) -> tuple[int, ...]:
        """The ids that a label may have in its place, behind a text: none if it never is one token."""
        if (label, before) not in self._known:
            start = self._tokenizer.encode(before)
            found = []
            for text in (label, f" {label}"):
                ids = self._tokenizer.encode(before + text)
                if ids[:-1] == start and ids[-1] != self._tokenizer.unk_id:
                    found.append(ids[-1])
            self._known[label, before] = tuple(found)
        return self._known[label, before]


def _n_options(question: Question) -> int:
    return len(question.options) or 2


def _orders(question: Question) -> list[tuple[int, ...]]:
    """The orders in which options are shown to weigh out where they stand."""
    plain = tuple(range(_n_options(question)))
    if question.kind == "choice":
        return [plain[i:] + plain[:i] for i in plain]
    return [plain, plain[::-1]]


def _shown(question: Question) -> list[str]:
    """The options as lines."""
    lines = []
    for option in question.options:
        value = option.value if isinstance(option.value, str) else str(option.value).lower()
        lines.append(
            " ".join(f"{value}: {option.description}".split() if option.description else value.split())
        )
    return lines


def _common(x: np.ndarray, y: np.ndarray) -> int:
    """The length of the prefix that two vectors share, less than either's."""
    n = min(len(x), len(y)) - 1
    differs = np.flatnonzero(x[:n] != y[:n])
    return int(differs[0]) if len(differs) else n
