"""What a client may send to /v1/chat/completions, checked: types, ranges, and what has no effect here."""

import json
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import msgspec

from dgguf.server.errors import ApiError
from dgguf.server.tools import as_mapping, calls_of

Form = TypeVar("Form", bound=msgspec.Struct)
MOST_ANSWERS = 8  # of one request, "n"
MOST_STOPS = 16
_MOST_NAMES = 20  # of fields without effect that are told


class StreamParameters(msgspec.Struct):
    """ "stream_options"."""

    include_usage: bool = False


class ChatRequest(msgspec.Struct, kw_only=True):
    """The fields that have an effect; OpenAI's but for the last four."""

    messages: list[dict[str, Any]]
    model: str | None = None
    stream: bool | None = False
    stream_options: StreamParameters | None = None
    n: int | None = 1
    stop: str | list[str] | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    seed: int | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    response_format: dict[str, Any] | None = None
    diffusing: bool | None = False
    sampler: dict[str, float | None] | None = None
    canvas: int | None = None


# What would change the answer's form, and so must not be left out silently.
_NOT_YET = {
    "functions": "functions, which are tools now",
    "logprobs": "log-probabilities",
    "top_logprobs": "log-probabilities",
    "audio": "audio",
}


@dataclass(frozen=True)
class Asked:
    """A request that was read.

    Attributes:
        ignored: names of fields that have no effect, for the header X-Dgguf-Ignored.
    """

    request: ChatRequest
    ignored: tuple[str, ...]


def decode(body: bytes) -> dict[str, Any]:
    """The JSON object of a body.

    Raises:
        ApiError: 400; it is none.
    """
    try:
        given = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise ApiError(400, f"the body is no JSON: {error}") from None
    if not isinstance(given, dict):
        raise ApiError(400, "the body must be a JSON object")
    return given


def convert(given: dict[str, Any], form: type[Form]) -> Form:
    """A JSON object as a struct.

    Raises:
        ApiError: 400; a field is missing or of another type.
    """
    try:
        return msgspec.convert(given, form)
    except (msgspec.ValidationError, RecursionError) as error:
        message = str(error)
        _, _, path = message.partition("`$.")  # as in "… - at `$.messages[0].role`"
        raise ApiError(
            400, f"the request is not as it must be: {message}", param=path.rstrip("`") or None
        ) from None


def read_request(body: bytes) -> Asked:
    """Check a body.

    Raises:
        ApiError: 400; it is no JSON object, or a field is not as it must be.
    """
    given = decode(body)
    for name, what in _NOT_YET.items():
        if given.get(name):
            raise ApiError(400, f"this server has no {what}: leave out {name!r}", param=name)
    request = convert(given, ChatRequest)
    _check_ranges(request)
    known = {*ChatRequest.__struct_fields__, *_NOT_YET}
    ignored = sorted(name for name, value in given.items() if name not in known and value is not None)
    visible = [name for name in ignored if name.isidentifier() and name.isascii() and len(name) < 50]
    return Asked(request, tuple(visible[:_MOST_NAMES]))


def _check_ranges(request: ChatRequest) -> None:
    def require(holds: bool, rule: str, param: str) -> None:
        if not holds:
            raise ApiError(400, rule, param=param)

    n = request.n
    require(n is None or 1 <= n <= MOST_ANSWERS, f"n must be from 1 to {MOST_ANSWERS}", "n")
    for name in ("max_tokens", "max_completion_tokens"):
        value = getattr(request, name)
        require(value is None or 1 <= value < 1 << 31, f"{name} must be at least 1", name)
    seed = request.seed
    require(seed is None or -(1 << 63) <= seed < 1 << 64, "the seed must be a number of 64 bits", "seed")
    stops = [request.stop] if isinstance(request.stop, str) else request.stop or []
    require(len(stops) <= MOST_STOPS, f"stop takes up to {MOST_STOPS} texts", "stop")
    require(
        request.stream_options is None or bool(request.stream),
        "stream_options go with stream: true",
        "stream_options",
    )
    require(not request.diffusing or bool(request.stream), "diffusing goes with stream: true", "diffusing")


def messages_of(request: ChatRequest) -> list[Any]:
    """The messages as a chat template takes them.

    Raises:
        ApiError: 400; one is not as it must be, or has a part that is no text.
    """
    messages = []
    for number, message in enumerate(request.messages):
        place = f"messages[{number}]"
        role, content = message.get("role"), message.get("content")
        if not isinstance(role, str):
            raise ApiError(400, f"{place} has no role", param=place)
        if isinstance(content, list):
            content = "".join(_text_of_part(part, f"{place}.content[{i}]") for i, part in enumerate(content))
        calls = calls_of(message, place) if message.get("tool_calls") else None
        if not isinstance(content, str) and not (content is None and calls):
            raise ApiError(400, f"{place}: its content must be a text or a list of parts", param=place)
        given: dict[str, Any] = {"role": "system" if role == "developer" else role, "content": content}
        if calls:
            given["tool_calls"] = calls
        if role == "tool":
            given |= {name: message[name] for name in ("tool_call_id", "name") if name in message}
            given["content"] = as_mapping(content) or content
        messages.append(given)
    return messages


def _text_of_part(part: Any, place: str) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in ("text", "input_text") and isinstance(part.get("text"), str):
        return str(part["text"])
    if isinstance(kind, str):
        raise ApiError(400, f"{place}: a part of type {json.dumps(kind):.60} is not taken here", param=place)
    raise ApiError(400, f'{place} must be {{"type": "text", "text": …}}', param=place)


def schema_of(request: ChatRequest) -> dict[str, Any] | None:
    """The JSON schema that the answer is to be held to; None for none.

    Raises:
        ApiError: 400; the form of the response is not one of OpenAI's that can be held.
    """
    form = request.response_format or {"type": "text"}
    if form.get("type") == "text":
        return None
    if form.get("type") != "json_schema":
        raise ApiError(
            400,
            "response_format can be text or json_schema; of JSON without a schema the parts are not known",
            param="response_format",
        )
    described = form.get("json_schema")
    schema = described.get("schema") if isinstance(described, dict) else None
    if not isinstance(schema, dict):
        raise ApiError(
            400, "response_format.json_schema.schema must be an object", param="response_format.json_schema"
        )
    if request.tools and request.tool_choice != "none":
        raise ApiError(
            400, "an answer held to a schema calls no tools: leave out one of both", param="response_format"
        )
    return schema


def wants_thoughts(request: ChatRequest) -> bool:
    """Whether the model is to think first."""
    kwargs = request.chat_template_kwargs or {}
    for name in ("enable_thinking", "thinking"):
        if isinstance(kwargs.get(name), bool):
            return bool(kwargs[name])
    return request.reasoning_effort not in (None, "none", "minimal")
