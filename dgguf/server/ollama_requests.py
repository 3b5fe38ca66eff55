"""What Ollama's clients may send, as /v1/chat/completions takes it."""

from collections.abc import Iterable
from typing import Any, Literal

import msgspec

from dgguf.server.errors import ApiError
from dgguf.server.requests import Asked, ChatRequest, check_ranges, convert, decode, refuse, visible

# Options that have an effect, by the names of the others' fields; the sampler's own have these of `sampler`.
_OPTIONS = ("seed", "num_predict", "stop", "canvas", "turbo", "sampler")
_NOT_HERE = {
    "context": "context of ids: send the messages to /api/chat instead",
    "template": "other template",
}

Depth = Literal["low", "medium", "high", "max"]


class OllamaRequest(msgspec.Struct, kw_only=True):
    """What both have in common."""

    model: str
    stream: bool | None = True
    format: str | dict[str, Any] | None = None
    options: dict[str, Any] | None = None
    think: bool | Depth | None = None
    logprobs: bool | None = False
    top_logprobs: int | None = None
    keep_alive: str | int | float | None = None

    @property
    def is_empty(self) -> bool:
        """Whether nothing is asked: the model is to be loaded, or unloaded."""
        raise NotImplementedError

    def conversation(self) -> dict[str, Any]:
        """Messages and tools as fields of a `ChatRequest`.

        Raises:
            ApiError: 400; they are not as they must be.
        """
        raise NotImplementedError

    def as_chat(self) -> ChatRequest:
        """The same request as /v1/chat/completions takes it.

        Raises:
            ApiError: 400; something is not as it must be.
        """
        options = self.options or {}
        most = options.get("num_predict")
        if most is not None and not isinstance(most, int):
            raise ApiError(400, "options.num_predict must be a whole number", param="options")
        thoughts = "medium" if self.think is True else self.think or None
        chat = {
            **self.conversation(),
            "stream": bool(self.stream),
            "max_tokens": None if most is None or most < 0 else most,  # -1 is as many as come
            "seed": options.get("seed"),
            "stop": options.get("stop"),
            "canvas": options.get("canvas"),
            "turbo": options.get("turbo"),
            "sampler": options.get("sampler"),
            "response_format": self._form(),
            "reasoning_effort": "xhigh" if thoughts == "max" else thoughts,
            "logprobs": bool(self.logprobs),
            "top_logprobs": self.top_logprobs if self.logprobs else None,
        }
        request = convert(chat, ChatRequest)
        check_ranges(request)
        return request

    def _form(self) -> dict[str, Any] | None:
        if self.format in (None, ""):
            return None
        if isinstance(self.format, dict):
            return {"type": "json_schema", "json_schema": {"schema": self.format}}
        if self.format == "json":
            return {"type": "json_object"}
        raise ApiError(400, 'format must be "json" or a JSON schema', param="format")


class OllamaChat(OllamaRequest, kw_only=True):
    """Of /api/chat: the fields that have an effect."""

    messages: list[dict[str, Any]] | None = None
    tools: list[dict[str, Any]] | None = None

    @property
    def is_empty(self) -> bool:
        return not self.messages

    def conversation(self) -> dict[str, Any]:
        messages: list[dict[str, Any]] = []
        called: list[dict[str, Any]] = []  # calls whose results may come
        for number, message in enumerate(self.messages or ()):
            place = f"messages[{number}]"
            given = {"role": message.get("role"), "content": _with_images(message, place)}
            if message.get("tool_calls"):
                called = _calls(message["tool_calls"], place, number)
                given["tool_calls"] = list(called)
                given["content"] = given["content"] or None
            if message.get("role") == "tool":
                given |= _answered(message, called)
            messages.append(given)
        return {"messages": messages, "tools": self.tools}


def _calls(calls: Any, place: str, number: int) -> list[dict[str, Any]]:
    """Calls with names of their own, which Ollama's clients do not give."""
    if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
        raise ApiError(400, f"{place}: a call of a tool has a function with a name", param=place)
    return [{"id": f"call_{number}_{i}", **call} for i, call in enumerate(calls)]


def _answered(message: dict[str, Any], called: list[dict[str, Any]]) -> dict[str, Any]:
    """To which call a result belongs: by its id, its tool's name, or as the next in turn."""
    name = message.get("tool_name") or message.get("name")
    for call in called:
        function = call.get("function")
        known = function.get("name") if isinstance(function, dict) else None
        if name in (None, known) and message.get("tool_call_id") in (None, call["id"]):
            called.remove(call)
            return {"tool_call_id": call["id"], "name": known}
    return {"name": name} if isinstance(name, str) else {}


class OllamaGenerate(OllamaRequest, kw_only=True):
    """Of /api/generate: the fields that have an effect."""

    prompt: str = ""
    suffix: str | None = None
    system: str | None = None
    images: list[str] | None = None
    raw: bool | None = False

    @property
    def is_empty(self) -> bool:
        return not self.prompt and not self.suffix

    def conversation(self) -> dict[str, Any]:
        content = _with_images({"content": self.prompt, "images": self.images}, "prompt")
        messages = [{"role": "system", "content": self.system}] if self.system else []
        return {"messages": [*messages, {"role": "user", "content": content}]}


def _with_images(message: dict[str, Any], place: str) -> Any:
    """A content with the images that stand beside it, in base64, before it."""
    images, content = message.get("images"), message.get("content")
    if not images:
        return "" if content is None else content
    if not isinstance(images, list) or not all(isinstance(image, str) for image in images):
        raise ApiError(400, f"{place}: images must be a list of texts in base64", param=place)
    parts = [{"type": "image_url", "image_url": {"url": f"data:image/any;base64,{one}"}} for one in images]
    return [*parts, {"type": "text", "text": content if isinstance(content, str) else ""}]


def read_request(body: bytes, form: type[OllamaChat] | type[OllamaGenerate]) -> Asked[Any]:
    """Check a body.

    Raises:
        ApiError: 400; it is no JSON object, or a field is not as it must be.
    """
    given = decode(body)
    refuse(given, _NOT_HERE)
    request = convert(given, form)
    request.as_chat()
    return Asked(request, visible(_left(given, form)))


def _left(given: dict[str, Any], form: type[msgspec.Struct]) -> Iterable[str]:
    """Names of fields and options without effect."""
    for name, value in sorted(given.items()):
        if name not in form.__struct_fields__ and name not in _NOT_HERE and value is not None:
            yield name
    options = given.get("options")
    for name in sorted(options if isinstance(options, dict) else ()):
        if name not in _OPTIONS:
            yield f"options.{name}"
