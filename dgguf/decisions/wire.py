"""Decisions as the JSON that answers POST /v1/decisions."""

from collections.abc import Sequence
from typing import Any

from dgguf.decisions.decide import Decision


def response(decisions: Sequence[Decision], model: str) -> dict[str, Any]:
    """The answers in the order of the questions, the model's name, and what was read for them.

    Beside what clients know, each answer has `mass`, `standard_error` and `reads`, see `Decision`. Levels of
    a score count from 0. An answer counts as one token of output.
    """
    n_input = sum(decision.prompt_tokens for decision in decisions)
    return {
        "answers": [_answer(decision) for decision in decisions],
        "model": model,
        "usage": {
            "input_tokens": n_input,
            "input_tokens_details": {
                "cached_tokens": sum(decision.reused_tokens for decision in decisions),
                "cache_write_tokens": sum(decision.kept_tokens for decision in decisions),
            },
            "output_tokens": len(decisions),
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": n_input + len(decisions),
        },
    }


def _answer(decision: Decision) -> dict[str, Any]:
    question, chances = decision.question, decision.probabilities.items()
    answer: dict[str, Any] = {"type": question.kind, "name": question.name}
    if question.kind == "predicate":
        answer["probability"] = decision.probabilities[True]
    elif question.kind == "choice":
        answer["choice"] = decision.answer
        answer["confidence"] = decision.confidence
        answer["probabilities"] = [{"value": value, "probability": p} for value, p in chances]
    else:
        answer["score"] = decision.score
        answer["confidence"] = decision.confidence
        answer["probabilities"] = [
            {"label": label, "value": level, "probability": p} for level, (label, p) in enumerate(chances)
        ]
    details = {"mass": decision.mass, "standard_error": decision.standard_error, "reads": decision.reads}
    return answer | details
