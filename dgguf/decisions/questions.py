"""Questions: what a line of a user and the JSON of `POST /v1/decisions` say, checked."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

from dgguf.errors import PromptError

Kind = Literal["predicate", "choice", "score"]

MOST_QUESTIONS = 400  # of a request
MOST_CHOICES = 26  # as many as there are letters
MOST_LEVELS = 10
_MOST_BYTES = 4 << 20  # of a file of questions
_FORM = "[NAME:] QUESTION? [a|b|c, or low<medium<high]"


@dataclass(frozen=True)
class Option:
    """What may be answered.

    Attributes:
        value: a text, or of a choice also a boolean, which is not the text of the same name.
        description: what it stands for, where the value does not say it.
    """

    value: str | bool
    description: str | None = None


@dataclass(frozen=True)
class Question:
    """One question about a state.

    Attributes:
        kind: "predicate" is answered with yes or no, "choice" with one of some options, "score" with one
            of some levels in order.
        text: the question.
        options: at least two; of a predicate none.
        name: for whoever asks.
    """

    kind: Kind
    text: str
    options: tuple[Option, ...] = ()
    name: str | None = None


def parse_question(line: str) -> Question:
    """A question as a user writes it: `[NAME:] QUESTION [options]`.

    Options are `a|b|c` for a choice and `low<medium<high` for a score, behind the question's last "?", or
    without one behind its last ".", ":" or "!". A name is a word and a colon; without a question it is asked.

    Raises:
        PromptError: it is none.
    """
    named = re.match(r"\s*([^\W\d][\w-]*):(?=\s|$)", line)
    name = named[1] if named else None
    text, options = _split(line[named.end() :] if named else line)
    text = text.strip() or name or ""
    if not text:
        _refuse(line, "asks nothing" if not options else "has options and asks nothing")
    separators = {mark for mark in "|<" if mark in options}
    if not separators:
        return Question("predicate", text, (), name)
    if len(separators) > 1:
        _refuse(line, 'has both "|" for a choice and "<" for a score')
    mark = separators.pop()
    values = [value.strip() for value in options.split(mark)]
    if not all(values):
        _refuse(line, "has an option without a text")
    kind: Kind = "choice" if mark == "|" else "score"
    question = Question(kind, text, tuple(map(Option, values)), name)
    _check(question, f"the question {line.strip()!r:.99}")
    return question


def _split(text: str) -> tuple[str, str]:
    """A question and its options, "" where it has none."""
    end = text.rfind("?") + 1
    if not end:
        first = min((text.index(mark) for mark in "|<" if mark in text), default=len(text))
        ends = [match.end() for match in re.finditer(r"[.:!](?=\s)", text[:first])]
        end = ends[-1] if ends and first < len(text) else 0 if first < len(text) else len(text)
    question, options = text[:end], text[end:]
    if "|" not in options and "<" not in options:
        return text, ""
    return question, options


def _refuse(line: str, what: str) -> NoReturn:
    raise PromptError(f"the question {line.strip()!r:.99} {what}; write it as {_FORM}")


def read_questions(path: Path) -> list[Question]:
    """The questions of a JSON file, see `questions_from_json`.

    Raises:
        PromptError: it cannot be read, or holds something else.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise PromptError(f"{path}: cannot read the questions: {error.strerror}") from None
    if len(data) > _MOST_BYTES:
        raise PromptError(f"{path}: a file of questions has at most {_MOST_BYTES >> 20} MB")
    try:
        value = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise PromptError(f"{path}: the questions are no JSON: {error}") from None
    return questions_from_json(value, f"{path}: ")


def questions_from_json(value: Any, where: str = "") -> list[Question]:
    """The questions of the array `questions` of POST /v1/decisions.

    Fields that are not known are refused: a question must not be asked otherwise than it was meant.

    Args:
        value: what a JSON parser makes of the array.
        where: what messages begin with.

    Raises:
        PromptError: it is no such array; says at which place.
    """
    if not isinstance(value, list):
        raise PromptError(f"{where}the questions must be an array of objects, not {_kind_of(value)}")
    check_number(value, where)
    return [_from_json(item, f"{where}questions[{i}]") for i, item in enumerate(value)]


def check_number(questions: Sequence[Any], where: str = "") -> None:
    """See that there are some questions, and not too many.

    Raises:
        PromptError: there are none, or too many.
    """
    if not 1 <= len(questions) <= MOST_QUESTIONS:
        raise PromptError(f"{where}there must be 1 to {MOST_QUESTIONS} questions, not {len(questions)}")


def _from_json(item: Any, at: str) -> Question:
    fields = _fields(item, at, {"type", "instructions", "name", "choices", "levels"})
    kind, name = fields.get("type"), fields.get("name")
    if kind not in ("predicate", "choice", "score"):
        raise PromptError(f'{at}: the type must be "predicate", "choice" or "score", not {_shown(kind)}')
    if name is not None and not (isinstance(name, str) and name.strip()):
        raise PromptError(f"{at}: the name must be a text, not {_shown(name)}")
    needed = {"choice": "choices", "score": "levels"}.get(kind)
    for field in ("choices", "levels"):
        if (field == needed) != (field in fields):
            raise PromptError(f"{at}: a {kind} {'needs' if field == needed else 'has no'} {field}")
    options: list[Option] = []
    if needed:
        if not isinstance(fields[needed], list):
            raise PromptError(f"{at}.{needed}: must be an array, not {_kind_of(fields[needed])}")
        options = [_option(value, kind, f"{at}.{needed}[{i}]") for i, value in enumerate(fields[needed])]
    question = Question(kind, _text(fields.get("instructions"), at), tuple(options), name)
    _check(question, at)
    return question


def _option(value: Any, kind: str, at: str) -> Option:
    key = "value" if kind == "choice" else "label"
    fields = _fields(value, at, {key, "description"})
    given, description = fields.get(key), fields.get("description")
    if not isinstance(given, str | (bool if kind == "choice" else str)):
        raise PromptError(
            f"{at}: its {key} must be a text{' or a boolean' * (kind == 'choice')}, not {_shown(given)}"
        )
    if not isinstance(description, str | None):
        raise PromptError(f"{at}: its description must be a text, not {_kind_of(description)}")
    return Option(given, description)


def _text(instructions: Any, at: str) -> str:
    """A text, or the text of parts such as {"type": "input_text", "text": "…"}."""
    if isinstance(instructions, list):
        texts = []
        for i, part in enumerate(instructions):
            fields = _fields(part, f"{at}.instructions[{i}]", {"type", "text"})
            if fields.get("type") != "input_text" or not isinstance(fields.get("text"), str):
                raise PromptError(f"{at}.instructions[{i}]: only parts of the type input_text are read")
            texts.append(fields["text"])
        instructions = "\n".join(texts)
    if not isinstance(instructions, str):
        raise PromptError(f"{at}: the instructions must be a text, not {_kind_of(instructions)}")
    return instructions.strip()


def _fields(value: Any, at: str, known: set[str]) -> dict[str, Any]:
    """An object that has none but known fields."""
    if not isinstance(value, dict):
        raise PromptError(f"{at}: must be an object, not {_kind_of(value)}")
    for field in value:
        if field not in known:
            raise PromptError(f"{at}: there is no field {field!r:.50} here, only {', '.join(sorted(known))}")
    return value


def _check(question: Question, at: str) -> None:
    """See that a question asks something, and that its options can be told apart."""
    if not question.text:
        raise PromptError(f"{at}: it asks nothing: its text is empty")
    if question.kind == "predicate":
        return
    most = MOST_CHOICES if question.kind == "choice" else MOST_LEVELS
    n, what = len(question.options), "options" if question.kind == "choice" else "levels"
    if not 2 <= n <= most:
        raise PromptError(f"{at}: a {question.kind} has 2 to {most} {what}, not {n}")
    seen = set()
    for option in question.options:
        if isinstance(option.value, str) and not option.value.strip():
            raise PromptError(f"{at}: one of its {what} is empty")
        key = (type(option.value), option.value)
        if key in seen:
            raise PromptError(f"{at}: it has {option.value!r:.50} twice among its {what}")
        seen.add(key)


def _kind_of(value: Any) -> str:
    names = {dict: "an object", list: "an array", str: "a text", bool: "a boolean", type(None): "nothing"}
    return names.get(type(value), "a number")


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)[:50] if isinstance(value, str | bool) else _kind_of(value)
