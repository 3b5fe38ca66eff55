"""Tools in a chat: the model's calls are shown, the person is asked, the results go back to the model."""

import dataclasses
from collections.abc import Mapping
from typing import Any, cast

import numpy as np

from dgguf.cli.messages import Keyboard
from dgguf.cli.output import say
from dgguf.diffusion.events import CanvasCommitted, Event
from dgguf.errors import PromptError
from dgguf.functions import CallError, Function
from dgguf.session import Session
from dgguf.text.chat import Message
from dgguf.text.tool_calls import OPEN, BrokenCall, CallSplitter, ToolCall
from dgguf.view.terminal import safe

MOST_ROUNDS = 8  # of calls behind one message: a model may go on for ever
_SHOWN = 300  # characters of a result


class ToolUse:
    """The functions that a model may call in a chat.

    Args:
        session: of the model.
        functions: by name; none where there are no tools.
        keyboard: of the person who is asked; None where nobody is there: then nothing is run.

    Raises:
        PromptError: the model has no tokens for calls.
    """

    def __init__(
        self, session: Session, functions: Mapping[str, Function], keyboard: Keyboard | None
    ) -> None:
        if functions and OPEN not in session.tokenizer.special:
            raise PromptError("this model knows no tools: its vocabulary has no mark for calls")
        self._session = session
        self._functions = functions
        self._keyboard = keyboard
        self._always: set[str] = set()  # names that are not asked for any more
        self._splitter = self._new_splitter()

    @property
    def called(self) -> bool:
        """Whether the answer of now has called something."""
        return any(call.name for call in self._splitter.calls)

    @property
    def declarations(self) -> list[dict[str, Any]] | None:
        """The functions as a chat template takes them."""
        return [function.declaration for function in self._functions.values()] or None

    def _new_splitter(self) -> CallSplitter:
        return CallSplitter(self._session.tokenizer.special, self._session.tokenizer)

    def begin(self) -> None:
        """An answer begins."""
        self._splitter = self._new_splitter()

    def without_calls(self, event: Event) -> Event:
        """The event of an answer as it is written: calls are kept here and left out of its text."""
        if not self._functions or not isinstance(event, CanvasCommitted):
            return event
        ids = self._splitter.push(event.tokens[: event.answer_length].tolist())
        if event.stopped:
            ids += self._splitter.finish()
        return dataclasses.replace(event, tokens=np.array(ids, np.int64), answer_length=len(ids))

    def message(self, text: str) -> Message | None:
        """The model's message with its calls and their results; None if it has called nothing.

        Args:
            text: of the answer, calls left out.
        """
        self._splitter.finish()
        calls = [call for call in self._splitter.calls if call.name]
        if not calls:
            return None
        told = [{"function": {"name": call.name, "arguments": _arguments(call)}} for call in calls]
        responses = [{"name": call.name, "response": self._response(call)} for call in calls]
        said = {"content": text or None, "tool_calls": told, "tool_responses": responses}
        return cast(Message, {"role": "assistant", **said})

    def _response(self, call: ToolCall | BrokenCall) -> dict[str, Any] | str:
        """What the model is told of a call: its result, or why there is none."""
        shown = f"{call.name}({_written(call)})"
        function = self._functions.get(call.name)
        if function is None:
            say(f"the model calls {shown}, which is no function here")
            return {"error": f"there is no function {call.name}; there are {', '.join(self._functions)}"}
        if isinstance(call, BrokenCall):
            say(f"the model calls {shown}, which cannot be read")
            return {"error": "the call cannot be read; write its arguments as name:value"}
        if not self._allowed(call.name, shown):
            return {"error": "the user did not allow this call"}
        try:
            response = function.result(call.arguments)
        except CallError as error:
            response = {"error": str(error)}
        text = response if isinstance(response, str) else _joined(response)
        say(f"{call.name} → {text if len(text) <= _SHOWN else text[:_SHOWN] + ' …'}")
        return response

    def _allowed(self, name: str, shown: str) -> bool:
        if name in self._always:
            say(f"the model calls {shown}")
            return True
        if self._keyboard is None:
            say(f"the model calls {shown}; nobody is there to allow it, so it is not run")
            return False
        choices = {"y": "run", "a": "always", "n": "refuse"}
        chosen = self._keyboard.choose(f"the model calls {safe(shown, draft=True)}", choices)
        if chosen == "always":
            self._always.add(name)
        return chosen != "refuse"


def _arguments(call: ToolCall | BrokenCall) -> dict[str, Any]:
    return call.arguments if isinstance(call, ToolCall) else {}


def _written(call: ToolCall | BrokenCall) -> str:
    return _joined(call.arguments) if isinstance(call, ToolCall) else call.text


def _joined(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in values.items())
