"""/v1/systemone: decisions in the form that TypeSafe's clients and transformers' server speak."""

import json
from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from dgguf.decisions.decide import Decision
from dgguf.decisions.questions import questions_from_json
from dgguf.server.decisions import DecisionPlan
from dgguf.server.errors import ApiError


class SystemOneQuestion(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A question; which criteria it has depends on its type."""

    type: Literal["noul", "choice", "score"]
    instructions: str | dict[str, Any] | list[Any] | None = None
    criteria: dict[str, Any] | list[Any] | None = None


class SystemOneRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What a client may send."""

    state: str | dict[str, Any] | list[Any]
    questions: dict[str, SystemOneQuestion]
    model: str | None = None
    assets: dict[str, Any] | None = None


class InvalidRequestError(ApiError):
    """An error in the form that these clients read: a list of what is wrong, and where."""

    def __init__(self, message: str, place: Sequence[str | int] = ()) -> None:
        super().__init__(422, message)
        self.place = ["body", *place]

    def body(self) -> dict[str, Any]:
        return {"detail": [{"loc": self.place, "msg": str(self), "type": "value_error"}]}


def plan(request: SystemOneRequest) -> DecisionPlan:
    """Check a request.

    Raises:
        InvalidRequestError: it is not as it must be.
        PromptError: a question asks nothing.
    """
    if request.assets:
        raise InvalidRequestError("images are not taken here: leave out assets", ["assets"])
    if not request.questions:
        raise InvalidRequestError("there are no questions", ["questions"])
    asked = [_question(name, question) for name, question in request.questions.items()]
    return DecisionPlan(_text(request.state), questions_from_json(asked))


def _question(name: str, asked: SystemOneQuestion) -> dict[str, Any]:
    """A question as /v1/decisions takes it."""
    question = {"name": name, "instructions": _text(asked.instructions) or name}
    match asked.type, asked.criteria:
        case "noul", None:
            return question | {"type": "predicate"}
        case "noul", dict(criteria) if criteria.keys() <= {"true", "false"}:
            means = {"true": "Yes means", "false": "No means"}
            told = [f"{means[key]}: {_text(value)}." for key, value in criteria.items() if value is not None]
            return question | {
                "type": "predicate",
                "instructions": " ".join([question["instructions"], *told]),
            }
        case "choice", dict(criteria) if len(criteria) > 1:
            choices = [{"value": value, "description": _text(about)} for value, about in criteria.items()]
            return question | {"type": "choice", "choices": choices}
        case "score", list(criteria) if len(criteria) > 1:
            return question | {"type": "score", "levels": [{"label": _text(level)} for level in criteria]}
    form = {
        "noul": 'for yes and no are {"true": …, "false": …}',
        "choice": 'of a choice are two or more, {"name": "what it stands for", …}',
        "score": 'of a score are two or more levels, ["lowest", …, "highest"]',
    }
    raise InvalidRequestError(f"the criteria {form[asked.type]}", ["questions", name, "criteria"])


def _text(value: Any) -> str:
    """A text, or the JSON of something else; "" of nothing."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def response(request: SystemOneRequest, decisions: Sequence[Decision], model: str) -> dict[str, Any]:
    """The answers by the names of their questions, and what was read for them."""
    answers = {
        name: _answer(asked, decision)
        for (name, asked), decision in zip(request.questions.items(), decisions, strict=True)
    }
    usage = {"input_tokens": sum(d.prompt_tokens for d in decisions), "output_tokens": len(decisions)}
    return {"model": model, "answers": answers, "usage": usage}


def _answer(asked: SystemOneQuestion, decision: Decision) -> dict[str, Any]:
    chances = decision.probabilities
    if asked.type == "noul":
        return {"type": "noul", "noul": chances[True]}
    if asked.type == "choice":
        probabilities: dict[str, float] = {str(value): p for value, p in chances.items()}
        return {
            "type": "choice",
            "choice": decision.answer,
            "confidence": decision.confidence,
            "probabilities": probabilities,
        }
    levels = {str(level): p for level, p in enumerate(chances.values())}
    return {
        "type": "score",
        "score": decision.score,
        "confidence": decision.confidence,
        "legend": {str(level): text for level, text in enumerate(asked.criteria or ())},
        "probabilities": levels,
    }
