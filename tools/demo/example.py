"""What the demo learns from: a conversation, the answer to its last turn, and how a judge knows it."""

from dataclasses import dataclass, field
from typing import Any

from tools.demo_eval.verdict import Entry

CALCULATOR: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "calculator",
        "description": "Computes an expression.",
        "parameters": {
            "type": "object",
            "properties": {"expression": {"type": "string"}},
            "required": ["expression"],
        },
    },
}


@dataclass(frozen=True)
class Example:
    """A conversation.

    Attributes:
        entry: the user's turns, the system's text, and what the judges of tools/demo_eval need to know.
        answers: one for each turn; the last one is learnt.
        thoughts: before the last answer; "" where the model is not to think.
        spelled: the last answer's tokens are single characters.
        history: messages in place of the turns, where these are more than texts (calls of tools).
        tools: that are declared.
    """

    entry: Entry
    answers: list[str]
    thoughts: str = ""
    spelled: bool = False
    history: list[dict[str, Any]] = field(default_factory=list)
    tools: tuple[dict[str, Any], ...] = ()

    @property
    def answer(self) -> str:
        return self.answers[-1]

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The conversation up to the last turn, as a chat template takes it."""
        if self.history:
            return self.history
        found: list[dict[str, Any]] = []
        if system := self.entry.get("system"):
            found.append({"role": "system", "content": system})
        for i, turn in enumerate(self.entry["messages"]):
            found.append({"role": "user", "content": turn})
            if i < len(self.answers) - 1:
                found.append({"role": "assistant", "content": self.answers[i]})
        return found


def one(kind: str, prompt: str, answer: str, /, *, spelled: bool = False, **truths: Any) -> Example:
    """A question and its answer."""
    entry: Any = {"id": "", "kind": kind, "messages": [prompt], **truths}
    return Example(entry, [answer], spelled=spelled)
